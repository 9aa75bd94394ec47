//! What Twilio has is found, once each; what it has not is given up only after enough clean looks; nothing is sent.

use std::collections::BTreeMap;

use futures::future::join;
use jiff::SignedDuration;
use telbuddy::connection::Trouble;
use telbuddy::credential::{Auth, Carrier, Region, Saved};
use telbuddy::ledger::{PostOutcome, Posted};
use telbuddy::message::{
    APART, CLEAN_LISTINGS, CreateMessage, Created, LEASE, LISTINGS, Outcome, RecordOutcome, Report, UpdateMessage,
    apply_report, decidable_until,
};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{BODY, Customer, TO, called, crash_after, due_later, due_now, row};

use super::*;

fn settle_job(message: &Message) -> Job {
    Job::Settle { account: message.account, message: message.id }
}

async fn look(world: &World, message: &Message) -> Handled {
    handle(world, &Listings::default(), vec![settle_job(message)]).await.remove(0)
}

/// What the customer's Twilio account is called with.
fn carrier(customer: &Customer) -> Carrier {
    let account_sid = customer.credential.account_sid.clone();
    let auth = Auth::AuthToken(format!("token-{}", account_sid.as_str()).into());
    Carrier { account_sid, region: Region::Us1, auth }
}

/// Twilio takes a text from the customer.
async fn taken(world: &World, customer: &Customer, to: &str, body: &str) {
    let payload = Payload { to: to.to_owned(), body: body.to_owned(), media_urls: Vec::new() };
    let callback = "https://api.example.com/hook";
    let created = world.create_message(&carrier(customer), fresh::OWN, &payload, callback, 60).await;
    assert!(matches!(created, Created::Accepted { .. } | Created::Unknown), "{created:?}");
}

/// A message that was handed over without a word coming back; `arrives`: whether Twilio took it.
async fn unknown(world: &World, customer: &Customer, arrives: bool) -> Message {
    let message = customer.message(world).await;
    let claim = fresh::claimed(world, &message, world.now()).await;
    if arrives {
        taken(world, customer, TO, BODY).await;
    }
    world.record_outcome(&claim, &Outcome::Unknown, world.now()).await.unwrap();
    world.forget_calls();
    row(world, &message)
}

/// A customer with an unknown message, two minutes later.
async fn waiting(world: &World, arrives: bool) -> (Customer, Message) {
    let customer = Customer::new(world).await;
    let message = unknown(world, &customer, arrives).await;
    world.advance(LISTINGS[0]);
    (customer, message)
}

fn sids(world: &World) -> Vec<String> {
    world.twilio().taken().into_iter().map(|taken| taken.sid).collect()
}

fn has_payload(world: &World, message: &Message) -> bool {
    world.payload_of(message.account, message.id).is_some()
}

fn post_job(message: &Message) -> Job {
    Job::Post { account: message.account, message: message.id }
}

#[tokio::test]
async fn what_twilio_has_is_adopted_with_its_status_and_costs_what_the_comment_says() {
    let world = World::new(1);
    let (_, message) = waiting(&world, true).await;
    world.twilio().word_of(&sids(&world)[0], "delivered");
    assert_eq!(look(&world, &message).await, Handled::Done);
    let after = row(&world, &message);
    assert_eq!((after.status, after.sid.as_ref()), (Status::Delivered, sids(&world).first()));
    assert!(!has_payload(&world, &message));
    assert_eq!((world.jobs(), world.twilio().posts()), (vec![post_job(&message)], 1), "nothing was sent again");
    let each = [
        ("load_with_payload", 1),
        ("load_credential", 1),
        ("load_keys", 2),
        ("open_key", 2),
        ("list_at_carrier", 1),
        ("free_sids", 1),
        ("adopt_sid", 1),
        ("enqueue", 1),
    ];
    assert_eq!(called(&world), BTreeMap::from(each));
}

#[tokio::test]
async fn what_twilio_does_not_have_is_counted_and_in_the_end_given_up_for_a_person_to_decide() {
    let world = World::new(1);
    let (_, message) = waiting(&world, false).await;
    assert_eq!(look(&world, &message).await, Handled::Done);
    let each = [
        ("load_with_payload", 1),
        ("load_credential", 1),
        ("load_keys", 2),
        ("open_key", 2),
        ("list_at_carrier", 1),
        ("record_listing", 1),
    ];
    assert_eq!(called(&world), BTreeMap::from(each));
    let start = message.updated;
    for at in &LISTINGS[1..] {
        assert_eq!(row(&world, &message).status, Status::Unknown, "{at}");
        world.set_now(start + *at - secs(1));
        look(&world, &message).await;
        world.set_now(start + *at);
        look(&world, &message).await;
    }
    let after = row(&world, &message);
    assert_eq!((after.status, after.settling.unwrap().clean), (Status::Unconfirmed, 5), "early jobs count nothing");
    assert!(has_payload(&world, &message) && decidable_until(&after).is_some());
    assert_eq!((world.jobs(), world.twilio().posts()), (vec![post_job(&message)], 0));
}

#[tokio::test]
async fn what_twilio_lists_late_is_still_found() {
    let world = World::new(1);
    world.twilio().lists_late(SignedDuration::from_mins(4));
    let (_, message) = waiting(&world, true).await;
    look(&world, &message).await;
    assert_eq!(row(&world, &message).status, Status::Unknown);
    world.advance(LISTINGS[1] - LISTINGS[0]);
    look(&world, &message).await;
    assert_eq!(row(&world, &message).sid, sids(&world).pop());
}

/// Of identical messages m of Twilio's settle any m, each one once.
#[tokio::test]
async fn two_identical_messages_and_one_sid_at_once_settle_exactly_one() {
    for seed in 0..40 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let [one, two] = [unknown(&world, &customer, true).await, unknown(&world, &customer, false).await];
        world.advance(LISTINGS[0]);
        let jobs = vec![settle_job(&one), settle_job(&two)];
        assert_eq!(handle(&world, &Listings::default(), jobs).await, [Handled::Done; 2]);
        let mut rows = [row(&world, &one), row(&world, &two)];
        rows.sort_by_key(|row| row.sid.clone());
        assert_eq!(rows.each_ref().map(|row| row.status), [Status::Unknown, Status::Sent], "seed {seed}");
        assert_eq!(rows[0].settling.unwrap().clean, 1, "for the other it is a look that found nothing");
        assert!(has_payload(&world, &rows[0]) && !has_payload(&world, &rows[1]));
    }
}

#[tokio::test]
async fn as_many_sids_as_messages_settle_all_of_them() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let mut messages = Vec::new();
        for _ in 0..5 {
            messages.push(unknown(&world, &customer, true).await);
        }
        world.advance(LISTINGS[0]);
        handle(&world, &Listings::default(), messages.iter().map(settle_job).collect()).await;
        let mut bound: Vec<_> = messages.iter().map(|message| row(&world, message).sid.unwrap()).collect();
        bound.sort();
        let mut there = sids(&world);
        there.sort();
        assert_eq!(bound, there, "seed {seed}");
    }
}

#[tokio::test]
async fn the_same_text_that_was_charged_for_another_message_proves_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let sent = customer.message(&world).await;
    let claim = fresh::claimed(&world, &sent, world.now()).await;
    taken(&world, &customer, TO, BODY).await;
    let sid = sids(&world).remove(0);
    world.record_outcome(&claim, &Outcome::Sent { sid }, world.now()).await.unwrap();
    let sent = row(&world, &sent);
    let charge = fresh::charge(&world, &sent, world.now());
    assert_eq!(world.post_charge(&sent, charge, world.now(), &[], None).await, Ok(Posted::Charged));
    let lost = unknown(&world, &customer, false).await;
    world.advance(LISTINGS[0]);
    look(&world, &lost).await;
    let after = row(&world, &lost);
    assert_eq!((after.status, after.settling.unwrap().clean), (Status::Unknown, 1));
}

#[tokio::test]
async fn another_text_or_an_earlier_one_is_not_ours() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    taken(&world, &customer, TO, BODY).await;
    world.advance(secs(61));
    let lost = unknown(&world, &customer, false).await;
    taken(&world, &customer, TO, "another").await;
    taken(&world, &customer, "+14155552672", BODY).await;
    world.advance(LISTINGS[0]);
    look(&world, &lost).await;
    assert_eq!((row(&world, &lost).status, called(&world).get("free_sids")), (Status::Unknown, None));
}

/// More than a page went to the recipient since: the list is followed until it is older than the message, and no further.
#[tokio::test]
async fn pages_are_followed_as_far_as_it_matters_and_a_list_that_is_cut_off_proves_nothing() {
    for (n_before, n_after, n_pages, clean) in [(0, 250, 3, 1), (300, 120, 2, 1), (0, 600, 5, 0)] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        for _ in 0..n_before {
            taken(&world, &customer, TO, "before").await;
        }
        world.advance(secs(61));
        let lost = unknown(&world, &customer, false).await;
        for _ in 0..n_after {
            taken(&world, &customer, TO, "after").await;
        }
        world.advance(LISTINGS[0]);
        world.forget_calls();
        look(&world, &lost).await;
        assert_eq!((called(&world)["list_at_carrier"], row(&world, &lost).settling.unwrap().clean), (n_pages, clean));
    }
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let lost = unknown(&world, &customer, true).await;
    for _ in 0..250 {
        taken(&world, &customer, TO, "after").await;
    }
    world.advance(LISTINGS[0]);
    look(&world, &lost).await;
    assert_eq!(row(&world, &lost).sid.as_ref(), sids(&world).first(), "it was on the last page");
}

#[tokio::test]
async fn while_twilio_cannot_be_asked_nothing_is_counted_and_it_is_asked_again() {
    let troubles = [Trouble::Refused, Trouble::Inactive, Trouble::NotAllowed, Trouble::Busy, Trouble::Unreachable];
    for trouble in troubles {
        let world = World::new(1);
        let (_, message) = waiting(&world, true).await;
        world.twilio().trouble_next(trouble);
        assert_eq!(look(&world, &message).await, Handled::Done, "{trouble:?}");
        assert_eq!(row(&world, &message), message);
        world.advance(secs(60));
        assert_eq!(due_now(&world).await, [message.id], "{trouble:?}");
        look(&world, &message).await;
        assert_eq!(row(&world, &message).status, Status::Sent);
    }
}

/// What is counted late is still counted apart: an outage of Twilio ends in no haste.
#[tokio::test]
async fn after_an_outage_the_looks_are_apart() {
    let world = World::new(1);
    let (_, message) = waiting(&world, false).await;
    world.advance(SignedDuration::from_hours(2));
    for n in 1..=CLEAN_LISTINGS {
        look(&world, &message).await;
        look(&world, &message).await;
        assert_eq!(row(&world, &message).settling.unwrap().clean, n);
        world.advance(APART);
    }
    assert_eq!(row(&world, &message).status, Status::Unconfirmed);
}

#[tokio::test]
async fn without_a_credential_or_with_one_that_came_later_a_list_proves_nothing_but_may_find() {
    let world = World::new(1);
    let (customer, message) = waiting(&world, false).await;
    let numbers = 0;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, numbers).await, Ok(true));
    assert_eq!(look(&world, &message).await, Handled::Done);
    assert_eq!((row(&world, &message), called(&world).get("list_at_carrier")), (message.clone(), None));
    let mut save = fresh::credential(&world, customer.account, 2, &customer.credential.account_sid).await;
    save.sid_hash.clone_from(&customer.sid_hash);
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(look(&world, &message).await, Handled::Done);
    assert_eq!(row(&world, &message), message, "it may be another Twilio account");
    taken(&world, &customer, TO, BODY).await;
    look(&world, &message).await;
    assert_eq!(row(&world, &message).status, Status::Sent);
}

#[tokio::test]
async fn a_callback_or_a_late_answer_that_comes_in_between_wins() {
    for seed in 0..40 {
        for late_answer in [true, false] {
            let world = World::new(seed);
            let customer = Customer::new(&world).await;
            let message = customer.message(&world).await;
            let claim = fresh::claimed(&world, &message, world.now()).await;
            taken(&world, &customer, TO, BODY).await;
            let sid = sids(&world).remove(0);
            world.record_outcome(&claim, &Outcome::Unknown, world.now()).await.unwrap();
            world.advance(LISTINGS[0]);
            let settling = look(&world, &message);
            let telling = async {
                if late_answer {
                    world.record_outcome(&claim, &Outcome::Sent { sid: sid.clone() }, world.now()).await.unwrap();
                    return;
                }
                let report = Report { sid: sid.clone(), status: Status::Delivered, error_code: None };
                while let Some(told) = apply_report(&row(&world, &message), &report, world.now()) {
                    world.update_message(&told, Some(world.now())).await.unwrap();
                }
            };
            let (handled, ()) = join(settling, telling).await;
            let after = row(&world, &message);
            let expected = if late_answer { Status::Sent } else { Status::Delivered };
            assert_eq!((handled, after.status, after.sid), (Handled::Done, expected, Some(sid)), "seed {seed}");
        }
    }
}

/// Wherever it is cut off, what is done is whole, and the next look ends it.
#[tokio::test]
async fn a_crash_at_any_point_and_the_next_look_settle_once() {
    for polls in 0..40 {
        for arrives in [true, false] {
            let world = World::new(u64::try_from(polls).unwrap());
            let (_, message) = waiting(&world, arrives).await;
            crash_after(polls, look(&world, &message));
            let between = row(&world, &message);
            assert_eq!(has_payload(&world, &message), between.status == Status::Unknown, "{polls} polls");
            assert_eq!(look(&world, &message).await, Handled::Done);
            let after = row(&world, &message);
            if arrives {
                assert_eq!((after.status, after.sid), (Status::Sent, sids(&world).pop()), "{polls} polls");
                assert!(!due_later(&world).await.is_empty(), "its posting is looked after");
            } else {
                assert_eq!((after.status, after.settling.unwrap().clean), (Status::Unknown, 1), "{polls} polls");
            }
            assert_eq!(world.twilio().posts(), u32::from(arrives));
        }
    }
}

#[tokio::test]
async fn a_fault_gives_the_job_back_and_changes_nothing_and_a_lost_answer_is_seen_the_next_time() {
    let methods = ["load_with_payload", "load_credential", "load_keys", "open_key", "free_sids", "adopt_sid"];
    for method in methods {
        let world = World::new(1);
        let (_, message) = waiting(&world, true).await;
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(look(&world, &message).await, Handled::Again, "{method}");
        assert_eq!(row(&world, &message), message, "{method}");
        assert_eq!(look(&world, &message).await, Handled::Done);
        assert_eq!(row(&world, &message).status, Status::Sent);
    }
    for (method, arrives) in [("adopt_sid", true), ("record_listing", false)] {
        let world = World::new(1);
        let (_, message) = waiting(&world, arrives).await;
        world.lose_answer(method, Fault::Ambiguous("reset".to_owned()));
        assert_eq!(look(&world, &message).await, Handled::Again);
        let after = row(&world, &message);
        assert_eq!(look(&world, &message).await, Handled::Done);
        assert_eq!(row(&world, &message), after, "{method}");
    }
}

#[tokio::test]
async fn nothing_is_looked_for_that_is_known_or_is_being_sent() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let accepted = customer.message(&world).await;
    let sending = customer.message(&world).await;
    fresh::claimed(&world, &sending, world.now()).await;
    world.advance(LEASE);
    world.forget_calls();
    assert_eq!(
        handle(&world, &Listings::default(), vec![settle_job(&accepted), settle_job(&sending)]).await,
        [Handled::Done; 2]
    );
    assert_eq!(called(&world), BTreeMap::from([("load_with_payload", 2)]));
    assert_eq!(
        handle(&world, &Listings::default(), vec![post_job(&accepted)]).await,
        [Handled::Again],
        "another queue's job"
    );
}

#[tokio::test]
async fn number_and_text_lie_nowhere_in_clear() {
    let world = World::new(1);
    let (_, message) = waiting(&world, true).await;
    look(&world, &message).await;
    assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear(&TO[1..]));
}
