//! What stories cannot reach: faults, crashes and races between the claim, Twilio and the outcome.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;

use futures::future::join;
use futures::poll;
use telbuddy::account::{Lift, LiftFreeze, Policy, SavePolicy};
use telbuddy::credential::{KeepCredential, Saved};
use telbuddy::ids::MessageId;
use telbuddy::inbound::Consent;
use telbuddy::ledger::{MicroCredits, PostOutcome, Posted};
use telbuddy::message::{
    CancelMessage, Canceled, DUE_SHARDS, FindDue, LEASE, LOOK_AGAIN, Message, Report, Status, UpdateMessage,
    apply_report,
};
use telbuddy::pace::SenderRates;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{BODY, Customer, TO, called, crash_after, row, site};
use telbuddy::testing::{Queued, World};

use super::*;

fn send(message: &Message) -> Job {
    Job::Send { account: message.account, message: message.id }
}

fn post(message: &Message) -> Job {
    Job::Post { account: message.account, message: message.id }
}

async fn handled(world: &World, messages: &[&Message]) -> Vec<Handled> {
    handle(world, &site(), messages.iter().map(|message| send(message)).collect()).await
}

async fn customer_with_message(world: &World) -> (Customer, Message) {
    let customer = Customer::new(world).await;
    let message = customer.message(world).await;
    (customer, message)
}

async fn messages(world: &World, customer: &Customer, n: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    for _ in 0..n {
        messages.push(customer.message(world).await);
    }
    messages
}

/// What the sweeper would find now.
async fn due(world: &World) -> Vec<MessageId> {
    let mut found = Vec::new();
    for shard in 0..DUE_SHARDS {
        found.extend(world.find_due(shard, world.now(), 500).await.unwrap().into_iter().map(|(_, message)| message));
    }
    found
}

/// Twilio's signed word arrives.
async fn reported(world: &World, message: &Message, sid: &str, status: Status) {
    let report = Report { sid: sid.to_owned(), status, error_code: None };
    let after = apply_report(&row(world, message), &report, world.now()).unwrap();
    assert_eq!(world.update_message(&after, Some(world.now() + LOOK_AGAIN)).await, Ok(true));
}

fn has_payload(world: &World, message: &Message) -> bool {
    world.payload_of(message.account, message.id).is_some()
}

#[tokio::test]
async fn a_message_costs_one_claim_one_guard_two_counters_one_post_one_outcome_one_hint_and_three_openings_when_cold() {
    let world = World::new(1);
    let (customer, message) = customer_with_message(&world).await;
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    let each = BTreeMap::from([
        ("claim_message", 1),
        ("load_guards", 1),
        ("take_slots", 1),
        ("count_prefix", 1),
        ("count_account", 1),
        ("create_message", 1),
        ("record_outcome", 1),
        ("enqueue", 1),
    ]);
    // What opening costs is not the call of the port but the opening, which is remembered.
    let costs = || called(&world).into_iter().filter(|(method, _)| *method != "open_key").collect::<BTreeMap<_, _>>();
    assert_eq!((costs(), world.openings().len()), (each.clone(), 3));
    let next = customer.message(&world).await;
    handled(&world, &[&next]).await;
    assert_eq!((costs(), world.openings().len()), (each, 3));
    let taken = &world.twilio().taken()[0];
    assert_eq!((taken.to.as_str(), taken.body.as_str(), taken.sender.as_str()), (TO, BODY, fresh::OWN));
}

#[tokio::test]
async fn a_cold_batch_of_ten_opens_each_key_once_and_loads_guards_once() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let messages = messages(&world, &customer, 10).await;
    assert_eq!(handled(&world, &messages.iter().collect::<Vec<_>>()).await, [Handled::Done; 10]);
    let mut purposes: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    purposes.sort_unstable();
    assert_eq!(purposes, PURPOSES);
    let calls = called(&world);
    assert_eq!((calls["load_guards"], calls["claim_message"], calls["create_message"]), (1, 10, 10));
    assert_eq!((calls["record_outcome"], calls["enqueue"], calls.get("load_keys")), (10, 10, None));
}

/// Each of the ten calls of one message steps back at most twice: 21 polls. One after the other, ten take far more.
#[tokio::test]
async fn ten_messages_are_under_way_at_the_same_time() {
    for seed in 0..10 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let jobs = messages(&world, &customer, 10).await.iter().map(send).collect();
        assert!(crash_after(21, handle(&world, &site(), jobs)).is_some(), "seed {seed}");
        assert_eq!(world.twilio().taken().len(), 10);
    }
}

/// The account's own number sends one segment a second, as a long code does.
async fn customer_with_a_long_code(world: &World) -> Customer {
    let customer = Customer::new(world).await;
    let policy = Policy {
        countries: vec![fresh::us()],
        daily_ceiling: 500,
        quiet_hours: None,
        sender_rates: SenderRates::new(),
    };
    world.save_policy(customer.account, &policy).await.unwrap().unwrap();
    world.forget_calls();
    customer
}

/// Hands the jobs to the worker at the times that were asked for, until there are none to send.
async fn run_queue(world: &World) -> Vec<Timestamp> {
    let mut sent_at = Vec::new();
    let waits = |queued: &Queued| matches!(queued.job, Job::Send { .. }).then_some(queued.ready);
    while let Some(ready) = world.queued().iter().filter_map(waits).min() {
        if ready > world.now() {
            world.advance(ready - world.now());
        }
        let before = world.twilio().posts();
        handle(world, &site(), world.take_jobs(Queue::Send)).await;
        sent_at.extend((before..world.twilio().posts()).map(|_| world.now()));
    }
    sent_at
}

#[tokio::test]
async fn a_long_code_sends_one_segment_a_second_and_each_message_is_claimed_twice_at_most() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let messages = messages(&world, &customer, 10).await;
    world.forget_calls();
    let start = world.now();
    assert_eq!(handled(&world, &messages.iter().collect::<Vec<_>>()).await, [Handled::Done; 10]);
    assert_eq!(world.twilio().posts(), 1);
    let rest = run_queue(&world).await;
    assert_eq!(rest.len(), 9);
    for (at, n) in rest.iter().zip(1..) {
        assert!(*at >= start + secs(n), "message {n} came at {at}, faster than one a second since {start}");
        assert!(*at <= start + secs(n + 2), "message {n} came at {at}, later than its slot");
    }
    let calls = called(&world);
    assert_eq!((calls["claim_message"], calls["take_slots"], calls["create_message"]), (19, 1, 10));
    assert!(messages.iter().all(|message| row(&world, message).attempts == 1), "waiting is no attempt");
}

#[tokio::test]
async fn what_waits_in_line_can_be_taken_back_and_stopped() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let messages = messages(&world, &customer, 3).await;
    handled(&world, &messages.iter().collect::<Vec<_>>()).await;
    let waiting: Vec<_> = messages.iter().filter(|message| row(&world, message).status == Status::Accepted).collect();
    assert_eq!(waiting.len(), 2);
    let canceled = world.cancel_message(customer.account, waiting[0].id, world.now()).await;
    assert!(matches!(canceled, Ok(Canceled::Canceled(_))), "{canceled:?}");
    world.stop_sending(customer.account, Stop::Frozen(FreezeReason::Velocity), 0, world.now()).await.unwrap();
    run_queue(&world).await;
    let after: BTreeSet<_> = waiting.iter().map(|message| row(&world, message).status).collect();
    assert_eq!(after, [Status::Canceled, Status::Refused].into());
    assert_eq!(world.twilio().posts(), 1);
}

#[tokio::test]
async fn who_waits_longer_than_a_queue_can_is_woken_a_little_early_and_delayed_then() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let message = customer.message(&world).await;
    let now = world.now();
    world.take_slots(customer.account, fresh::OWN, secs(1_000), now, now + secs(2_000)).await.unwrap();
    handled(&world, &[&message]).await;
    assert_eq!(world.jobs(), [], "no queue waits that long");
    world.advance(secs(1_000) - LOOK_AGAIN - secs(1));
    assert_eq!(due(&world).await, []);
    world.advance(secs(1));
    assert_eq!(due(&world).await, [message.id]);
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    let queued = world.queued();
    assert_eq!((&queued[0].job, queued[0].delay_secs, queued.len()), (&send(&message), 61, 1));
    world.advance(LOOK_AGAIN);
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    assert_eq!(row(&world, &message).status, Status::Sent);
}

#[tokio::test]
async fn what_its_sender_cannot_send_while_it_is_valid_expires_at_once_and_takes_no_slot() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let message = customer.message(&world).await;
    let now = world.now();
    world.take_slots(customer.account, fresh::OWN, secs(100_000), now, message.valid_until).await.unwrap();
    handled(&world, &[&message]).await;
    assert_eq!(row(&world, &message).status, Status::Expired);
    let next = world.take_slots(customer.account, fresh::OWN, secs(1), now, Timestamp::MAX).await;
    assert_eq!(next, Ok(Some(now + secs(100_000))));
}

#[tokio::test]
async fn a_line_that_cannot_be_joined_sends_nothing_and_loses_nothing() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let message = customer.message(&world).await;
    world.fail_next("take_slots", Fault::transient("throttled"));
    handled(&world, &[&message]).await;
    assert_eq!((row(&world, &message).status, world.twilio().posts()), (Status::Retryable, 0));
    assert_eq!(run_queue(&world).await.len(), 1);
}

#[tokio::test]
async fn a_retry_after_429_takes_a_new_slot() {
    let world = World::new(1);
    let customer = customer_with_a_long_code(&world).await;
    let message = customer.message(&world).await;
    world.twilio().answer_next(Created::NotProcessed { retry_after_secs: None });
    handled(&world, &[&message]).await;
    world.forget_calls();
    assert_eq!(run_queue(&world).await.len(), 1);
    assert_eq!(called(&world)["take_slots"], 1);
}

#[tokio::test]
async fn an_answer_about_the_account_stops_its_sending_and_one_about_the_message_does_not() {
    for (http, code, stops) in [
        (401, Some(20_003), true),
        (401, None, true),
        (403, None, true),
        (403, Some(20_005), true),
        (403, Some(20_403), true),
        (403, Some(21_408), false),
        (400, Some(20_001), false),
        (404, Some(20_404), false),
    ] {
        let world = World::new(1);
        let (customer, message) = customer_with_message(&world).await;
        world.twilio().answer_next(Created::Rejected { http, code });
        handled(&world, &[&message]).await;
        let after = row(&world, &message);
        assert_eq!((after.status, after.error_code), (Status::Rejected, code), "{http} {code:?}");
        let gate = world.gate(customer.account).unwrap();
        assert_eq!(gate.credential_refused, stops, "{http} {code:?}");
        let alert = Job::Alert { account: customer.account, alert: Alert::CredentialRefused, since: world.now() };
        assert_eq!(world.jobs().contains(&alert), stops, "{http} {code:?}");
    }
}

#[tokio::test]
async fn each_answer_of_twilio_has_its_status_its_payload_and_its_hint() {
    let sid = "SM0123456789abcdef0123456789abcdef".to_owned();
    for (answer, status, keeps_payload, hint) in [
        (Created::Accepted { sid }, Status::Sent, false, Some(post as fn(&Message) -> Job)),
        (Created::Rejected { http: 400, code: Some(21_610) }, Status::Rejected, false, Some(post)),
        (Created::Rejected { http: 403, code: Some(21_408) }, Status::Rejected, false, Some(post)),
        (Created::NotProcessed { retry_after_secs: None }, Status::Retryable, true, Some(send)),
        (Created::Unknown, Status::Unknown, true, None),
    ] {
        let world = World::new(1);
        let (_, message) = customer_with_message(&world).await;
        world.twilio().answer_next(answer.clone());
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
        let after = row(&world, &message);
        assert_eq!((after.status, has_payload(&world, &message)), (status, keeps_payload), "{answer:?}");
        assert_eq!(world.jobs(), hint.map(|job| job(&message)).into_iter().collect::<Vec<_>>(), "{answer:?}");
        assert_eq!(world.twilio().posts(), 1);
        if let Created::Rejected { code, .. } = answer {
            assert_eq!(after.error_code, code);
        }
    }
}

#[tokio::test]
async fn faults_before_twilio_put_the_message_back_and_it_goes_out_later() {
    for method in ["load_guards", "open_key", "count_prefix", "count_account", "create_message"] {
        let world = World::new(1);
        let (_, message) = customer_with_message(&world).await;
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
        assert_eq!(
            (row(&world, &message).status, has_payload(&world, &message)),
            (Status::Retryable, true),
            "{method}"
        );
        assert!(world.twilio().taken().is_empty(), "{method}");
        world.advance(secs(5));
        assert_eq!(world.take_jobs(Queue::Send), [send(&message)], "{method}");
        handled(&world, &[&message]).await;
        assert_eq!((row(&world, &message).status, world.twilio().taken().len()), (Status::Sent, 1), "{method}");
    }
}

#[tokio::test]
async fn one_accounts_fault_does_not_hold_up_the_others_of_a_batch() {
    let world = World::new(1);
    let (_, one) = customer_with_message(&world).await;
    let (_, two) = customer_with_message(&world).await;
    world.fail_next("open_key", Fault::permanent("KMS says no"));
    handled(&world, &[&one, &two]).await;
    let statuses = BTreeSet::from([row(&world, &one).status, row(&world, &two).status]);
    assert_eq!(statuses, BTreeSet::from([Status::Retryable, Status::Sent]));
}

#[tokio::test]
async fn a_claim_that_fails_goes_back_to_the_queue_and_the_rest_of_the_batch_goes_on() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let messages = messages(&world, &customer, 3).await;
    world.fail_next("claim_message", Fault::transient("busy"));
    let mut handled = handled(&world, &messages.iter().collect::<Vec<_>>()).await;
    handled.sort_unstable_by_key(|handled| *handled == Handled::Again);
    assert_eq!(handled, [Handled::Done, Handled::Done, Handled::Again]);
    assert_eq!(world.twilio().taken().len(), 2);
}

#[tokio::test]
async fn a_lost_answer_to_the_claim_is_not_sent_by_anybody_and_becomes_unknown() {
    let world = World::new(1);
    let (_, message) = customer_with_message(&world).await;
    world.lose_answer("claim_message", Fault::Ambiguous("reset".to_owned()));
    assert_eq!(handled(&world, &[&message]).await, [Handled::Again]);
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    assert_eq!((row(&world, &message).status, world.twilio().posts()), (Status::Dispatching, 0));
    world.advance(LEASE);
    assert_eq!(due(&world).await, [message.id]);
}

#[tokio::test]
async fn an_outcome_that_could_not_be_stored_is_settled_by_the_callback_and_charged_once() {
    let world = World::new(1);
    let (customer, message) = customer_with_message(&world).await;
    world.fail_next("record_outcome", Fault::transient("busy"));
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    assert_eq!((row(&world, &message).status, world.twilio().taken().len()), (Status::Dispatching, 1));
    assert_eq!(world.jobs(), []);

    world.advance(LEASE);
    assert_eq!(due(&world).await, [message.id]);
    assert_eq!(world.end_lease(&row(&world, &message), world.now()).await, Ok(true));
    assert_eq!(row(&world, &message).status, Status::Unknown);
    handled(&world, &[&message]).await;
    assert_eq!(world.twilio().posts(), 1, "what is unknown is never sent again");

    reported(&world, &message, &world.twilio().taken()[0].sid, Status::Delivered).await;
    assert_eq!((row(&world, &message).status, has_payload(&world, &message)), (Status::Delivered, false));
    let delivered = row(&world, &message);
    let item = fresh::charge(&world, &delivered, world.now());
    assert_eq!(world.post_charge(&delivered, item.clone(), world.now(), &[], None).await, Ok(Posted::Charged));
    assert_eq!(world.post_charge(&delivered, item, world.now(), &[], None).await, Ok(Posted::Before));
    assert_eq!(world.charges(customer.account).len(), 1);
}

#[tokio::test]
async fn a_lost_answer_to_the_outcome_loses_only_the_hint_and_the_sweeper_finds_it() {
    for lost in ["record_outcome", "enqueue"] {
        let world = World::new(1);
        let (_, message) = customer_with_message(&world).await;
        match lost {
            "enqueue" => world.fail_next(lost, Fault::transient("busy")),
            _ => world.lose_answer(lost, Fault::Ambiguous("reset".to_owned())),
        }
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
        assert_eq!((row(&world, &message).status, world.jobs()), (Status::Sent, Vec::new()), "{lost}");
        world.advance(LOOK_AGAIN);
        assert_eq!(due(&world).await, [message.id], "{lost}");
    }
}

#[tokio::test]
async fn a_crash_at_any_point_never_sends_twice_and_leaves_nothing_waiting_for_nobody() {
    let mut ends = BTreeSet::new();
    for (seed, polls) in (0..4).flat_map(|seed| (0..22).map(move |polls| (seed, polls))) {
        let world = World::new(seed);
        let (_, message) = customer_with_message(&world).await;
        crash_after(polls, handle(&world, &site(), vec![send(&message)]));
        // SQS gives it again: while the lease is there, and after the sweeper has ended it.
        handled(&world, &[&message]).await;
        world.advance(LEASE);
        let _ = world.end_lease(&row(&world, &message), world.now()).await;
        handled(&world, &[&message]).await;
        ends.insert((row(&world, &message).status, world.twilio().taken().len()));
    }
    assert_eq!(ends, BTreeSet::from([(Status::Unknown, 0), (Status::Unknown, 1), (Status::Sent, 1)]));
}

#[tokio::test]
async fn copies_of_one_job_send_once_in_one_batch_and_in_two_workers() {
    for seed in 0..10 {
        let world = World::new(seed);
        let (_, message) = customer_with_message(&world).await;
        let copies = [&message, &message, &message];
        let (one, two) = join(handled(&world, &copies), handled(&world, &copies)).await;
        assert_eq!((one, two), (vec![Handled::Done; 3], vec![Handled::Done; 3]));
        assert_eq!((world.twilio().posts(), row(&world, &message).status), (1, Status::Sent));
        assert_eq!(world.jobs(), [post(&message)]);
    }
}

#[tokio::test]
async fn a_callback_that_is_quicker_than_our_own_write_stands() {
    let mut quicker = 0;
    for seed in 0..20 {
        let world = World::new(seed);
        let (_, message) = customer_with_message(&world).await;
        let site = site();
        let mut sending = pin!(handle(&world, &site, vec![send(&message)]));
        while poll!(&mut sending).is_pending() && world.twilio().posts() == 0 {}
        if row(&world, &message).status != Status::Dispatching {
            continue;
        }
        quicker += 1;
        reported(&world, &message, &world.twilio().taken()[0].sid, Status::Delivered).await;
        sending.await;
        assert_eq!(row(&world, &message).status, Status::Delivered);
        assert!(world.jobs().contains(&post(&message)), "and it is posted");
    }
    assert!(quicker > 3, "{quicker}");
}

#[tokio::test]
async fn what_was_stored_between_acceptance_and_sending_wins() {
    for (reason, stop) in [
        (Reason::OptedOut, None),
        (Reason::Frozen, Some(fresh::FROZEN)),
        (Reason::CredentialRefused, Some(Stop::CredentialRefused)),
        (Reason::NotConnected, None),
    ] {
        let world = World::new(1);
        let (customer, message) = customer_with_message(&world).await;
        match (reason, stop) {
            (_, Some(stop)) => world.stop(customer.account, stop),
            (Reason::OptedOut, _) => {
                let (own, other) = (&message.own, &message.other_hash);
                let heard = fresh::heard(&world);
                let said = world.record_consent(customer.account, own, other, Consent::Stop, &heard, world.now());
                said.await.unwrap();
            }
            _ => {
                let removed = world.remove_credential(&customer.credential, &customer.sid_hash, 0).await;
                assert_eq!(removed, Ok(true));
            }
        }
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
        let after = row(&world, &message);
        assert_eq!((after.status, after.reason), (Status::Refused, Some(reason)));
        assert_eq!((has_payload(&world, &message), world.twilio().posts()), (false, 0), "{reason:?}");
        assert_eq!(world.openings(), [], "{reason:?}: nothing is opened for what is not sent");
        assert_eq!(world.jobs(), [post(&message)], "{reason:?}");
    }
}

/// A payment was taken back after the message was accepted: its hold goes back, and pays.
#[tokio::test]
async fn while_credit_is_owed_nothing_is_sent() {
    let world = World::new(1);
    let (customer, message) = customer_with_message(&world).await;
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits(1).minus());
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    let after = row(&world, &message);
    assert_eq!((after.status, after.reason), (Status::Refused, Some(Reason::Owed)));
    assert_eq!((has_payload(&world, &message), world.twilio().posts()), (false, 0));
}

#[tokio::test]
async fn a_message_is_sent_in_its_last_second_and_expires_after_it() {
    for (late, status, reason) in [(-1, Status::Sent, None), (0, Status::Expired, Some(Reason::TooOld))] {
        let world = World::new(1);
        let (_, message) = customer_with_message(&world).await;
        world.advance(telbuddy::message::VALIDITY + secs(late));
        handled(&world, &[&message]).await;
        let after = row(&world, &message);
        assert_eq!((after.status, after.reason, has_payload(&world, &message)), (status, reason, false));
        assert_eq!(world.jobs(), [post(&message)]);
    }
}

#[tokio::test]
async fn a_credential_replaced_after_acceptance_is_the_one_that_sends() {
    let world = World::new(1);
    let (customer, before) = customer_with_message(&world).await;
    let after = customer.message(&world).await;
    // The old keys are warm.
    handled(&world, &[&before]).await;
    let mut save = fresh::credential(&world, customer.account, 2, &fresh::sid(&world, "AC")).await;
    save.replaced_sid_hash = Some(customer.sid_hash);
    let new = save.credential.account_sid.clone();
    world.save_credential(save).await.unwrap();
    handled(&world, &[&after]).await;
    let taken: Vec<_> = world.twilio().taken().into_iter().map(|taken| taken.carrier.account_sid).collect();
    assert_eq!(taken, [customer.credential.account_sid, new]);
}

#[tokio::test]
async fn a_busy_twilio_is_asked_again_when_it_said_and_not_before() {
    for (retry_after_secs, shortest, longest) in [(None, 2, 4), (Some(30), 30, 46), (Some(4_000), 900, 900)] {
        let world = World::new(1);
        let (_, message) = customer_with_message(&world).await;
        world.twilio().answer_next(Created::NotProcessed { retry_after_secs });
        handled(&world, &[&message]).await;
        let queued = world.queued();
        let [Queued { job, delay_secs, ready }] = queued.as_slice() else { panic!("{queued:?}") };
        assert_eq!(*job, send(&message));
        assert!((shortest..=longest).contains(delay_secs), "{retry_after_secs:?}: {delay_secs}");
        handled(&world, &[&message]).await;
        assert_eq!(world.twilio().posts(), 1, "too early");
        world.set_now(*ready);
        handled(&world, &[&message]).await;
        // What waits longer than a queue can is the sweeper's.
        let posts = if *delay_secs < 900 { 2 } else { 1 };
        assert_eq!(world.twilio().posts(), posts, "{retry_after_secs:?}");
        world.advance(secs(6_000));
        assert_eq!(due(&world).await, [message.id]);
    }
}

#[tokio::test]
async fn waiting_that_would_outlive_the_message_ends_it_now() {
    let world = World::new(1);
    let (_, message) = customer_with_message(&world).await;
    world.twilio().answer_next(Created::NotProcessed { retry_after_secs: Some(4 * 3_600) });
    handled(&world, &[&message]).await;
    assert_eq!((row(&world, &message).status, has_payload(&world, &message)), (Status::Expired, false));
    assert_eq!(world.jobs(), [post(&message)]);
}

/// Twilio's 401 to the next so many messages.
fn refuses(world: &World, times: usize) {
    for _ in 0..times {
        world.twilio().answer_next(Created::Rejected { http: 401, code: Some(20_003) });
    }
}

fn alert(customer: &Customer, since: Timestamp) -> Job {
    Job::Alert { account: customer.account, alert: Alert::CredentialRefused, since }
}

fn untold(world: &World, customer: &Customer) -> Option<Timestamp> {
    world.gate(customer.account).unwrap().refusal_untold
}

#[tokio::test]
async fn a_refused_credential_stops_every_later_message_and_its_owner_is_told_once() {
    let world = World::new(1);
    let (customer, first) = customer_with_message(&world).await;
    let second = customer.message(&world).await;
    refuses(&world, 1);
    assert_eq!(handled(&world, &[&first]).await, [Handled::Done]);
    assert_eq!(world.gate(customer.account).unwrap().stopped(), Some(Stop::CredentialRefused));
    assert_eq!(world.take_jobs(Queue::Mail), [alert(&customer, world.now())]);
    assert_eq!(untold(&world, &customer), None);
    assert_eq!(handled(&world, &[&second]).await, [Handled::Done]);
    assert_eq!(row(&world, &second).reason, Some(Reason::CredentialRefused));
    assert_eq!((world.twilio().posts(), world.take_jobs(Queue::Mail)), (1, Vec::new()));
}

#[tokio::test]
async fn of_twenty_refused_at_once_by_two_workers_one_tells_the_owner() {
    for seed in 0..10 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let messages = messages(&world, &customer, 20).await;
        let (one, two) = messages.split_at(10);
        refuses(&world, 20);
        let (one, two) = (one.iter().collect::<Vec<_>>(), two.iter().collect::<Vec<_>>());
        let (first, second) = join(handled(&world, &one), handled(&world, &two)).await;
        let told = world.take_jobs(Queue::Mail);
        assert_eq!(told, [alert(&customer, world.now())], "seed {seed}");
        assert!(messages.iter().all(|message| row(&world, message).status.standing() == Standing::Over), "seed {seed}");
        // Whoever came second while the first was about to tell looks again, and finds nothing to do.
        let again = first.iter().chain(&second).filter(|handled| **handled == Handled::Again).count();
        assert!(again < 20, "seed {seed}");
        world.advance(LEASE * 3);
        assert_eq!(handled(&world, &one).await, [Handled::Done; 10]);
        assert_eq!((world.take_jobs(Queue::Mail), untold(&world, &customer)), (Vec::new(), None), "seed {seed}");
    }
}

#[tokio::test]
async fn an_owner_who_could_not_be_told_is_told_when_the_job_comes_again() {
    for (method, lost) in [("enqueue", false), ("stop_sending", true)] {
        let world = World::new(1);
        let (customer, message) = customer_with_message(&world).await;
        let since = world.now();
        refuses(&world, 1);
        if lost {
            world.lose_answer(method, Fault::Ambiguous("reset".to_owned()));
        } else {
            world.fail_next(method, Fault::transient("busy"));
        }
        assert_eq!(handled(&world, &[&message]).await, [Handled::Again], "{method}");
        assert_eq!((row(&world, &message).status, untold(&world, &customer)), (Status::Rejected, Some(since)));
        assert_eq!(world.take_jobs(Queue::Mail), [], "{method}");
        // Too soon: somebody may be about to.
        assert_eq!(handled(&world, &[&message]).await, [Handled::Again], "{method}");
        world.advance(TOLD_WITHIN);
        for fault in ["load_gate", "enqueue"] {
            world.fail_next(fault, Fault::transient("busy"));
            assert_eq!(handled(&world, &[&message]).await, [Handled::Again], "{method} {fault}");
        }
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done], "{method}");
        assert_eq!(world.take_jobs(Queue::Mail), [alert(&customer, since)], "{method}");
        assert_eq!(handled(&world, &[&message]).await, [Handled::Done], "{method}");
        assert_eq!((world.take_jobs(Queue::Mail), world.twilio().posts()), (Vec::new(), 1), "{method}");
    }
}

#[tokio::test]
async fn a_crash_at_any_point_of_a_refusal_leaves_an_owner_who_is_told() {
    for (seed, polls) in (0..6).flat_map(|seed| (1..24).map(move |polls| (seed, polls))) {
        let world = World::new(seed);
        let (customer, message) = customer_with_message(&world).await;
        refuses(&world, 1);
        crash_after(polls, handle(&world, &site(), vec![send(&message)]));
        for _ in 0..2 {
            // The batch was not deleted: the queue gives it again.
            world.advance(LEASE * 3);
            let _ = world.end_lease(&row(&world, &message), world.now()).await;
            handled(&world, &[&message]).await;
        }
        let told = world.take_jobs(Queue::Mail).len();
        if world.gate(customer.account).unwrap().credential_refused {
            // Twice if it crashed between the alert and the note about it.
            assert!((1..=2).contains(&told), "seed {seed}, {polls} polls: told {told} times");
        } else {
            assert_eq!(told, 0, "seed {seed}, {polls} polls");
        }
    }
}

#[tokio::test]
async fn a_gate_that_cannot_be_closed_is_closed_by_the_next_message() {
    let world = World::new(1);
    let (customer, first) = customer_with_message(&world).await;
    let second = customer.message(&world).await;
    refuses(&world, 2);
    world.fail_next("stop_sending", Fault::transient("busy"));
    assert_eq!(handled(&world, &[&first]).await, [Handled::Again]);
    assert_eq!(handled(&world, &[&first]).await, [Handled::Done], "nobody is owed anything");
    assert_eq!(handled(&world, &[&second]).await, [Handled::Done]);
    assert_eq!(world.gate(customer.account).unwrap().stopped(), Some(Stop::CredentialRefused));
    assert_eq!(world.take_jobs(Queue::Mail), [alert(&customer, world.now())]);
}

#[tokio::test]
async fn a_refusal_of_a_credential_that_was_replaced_meanwhile_is_nobodys_news() {
    let mut meanwhile = 0;
    for seed in 0..20 {
        let world = World::new(seed);
        let (customer, message) = customer_with_message(&world).await;
        let site = site();
        refuses(&world, 1);
        let mut sending = pin!(handle(&world, &site, vec![send(&message)]));
        while poll!(&mut sending).is_pending() && world.twilio().posts() == 0 {}
        if world.gate(customer.account).unwrap().credential_refused {
            continue;
        }
        meanwhile += 1;
        let mut save = fresh::credential(&world, customer.account, 2, &customer.credential.account_sid).await;
        save.sid_hash.clone_from(&customer.sid_hash);
        assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
        assert_eq!(sending.await, [Handled::Done]);
        let gate = world.gate(customer.account).unwrap();
        assert_eq!((gate.stopped(), gate.refusal_untold, world.take_jobs(Queue::Mail)), (None, None, Vec::new()));
    }
    assert!(meanwhile > 3, "{meanwhile}");
}

#[tokio::test]
async fn a_job_for_another_queue_goes_back_and_a_message_that_is_gone_is_done() {
    let world = World::new(1);
    let (_, message) = customer_with_message(&world).await;
    assert_eq!(handle(&world, &site(), vec![post(&message)]).await, [Handled::Again]);
    let gone = Message { id: MessageId::from_bits(1), ..message };
    assert_eq!(handled(&world, &[&gone]).await, [Handled::Done]);
    assert_eq!((world.twilio().posts(), world.jobs()), (0, Vec::new()));
}

#[tokio::test]
async fn twilio_reports_to_the_accounts_hook_with_our_id_in_the_path() {
    let world = World::new(1);
    let (customer, message) = customer_with_message(&world).await;
    handled(&world, &[&message]).await;
    let (hook, id) = (customer.credential.hook.reveal(), message.id);
    let expected = format!("https://api.example.com/hooks/twilio/{hook}/status/{id}#rc=2&rp=5xx,ct,rt");
    assert_eq!(world.twilio().taken()[0].status_callback, expected);
}

#[tokio::test]
async fn an_opt_out_that_twilio_knows_and_we_cannot_store_still_ends_its_message() {
    let world = World::new(1);
    let (_, message) = customer_with_message(&world).await;
    world.twilio().answer_next(Created::Rejected { http: 400, code: Some(21_610) });
    world.fail_next("record_consent", Fault::transient("busy"));
    assert_eq!(handled(&world, &[&message]).await, [Handled::Done]);
    assert_eq!((row(&world, &message).status, has_payload(&world, &message)), (Status::Rejected, false));
}

/// Messages to numbers of one prefix, in order.
async fn to_numbers(world: &World, customer: &Customer, numbers: impl Iterator<Item = String>) -> Vec<Message> {
    let mut messages = Vec::new();
    for to in numbers {
        messages.push(customer.message_to(world, &to).await);
    }
    messages
}

async fn customer_with_credit(world: &World, daily_ceiling: u64) -> Customer {
    let customer = Customer::new(world).await;
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(100_000).plus());
    world.change_gate(customer.account, |gate| gate.daily_ceiling = daily_ceiling);
    customer
}

/// So many batches of ten, all at the same time.
async fn in_batches(world: &World, messages: &[Message]) {
    let site = site();
    let batches = messages.chunks(10).map(|batch| handle(world, &site, batch.iter().map(send).collect()));
    for handled in join_all(batches).await {
        assert!(handled.iter().all(|handled| *handled == Handled::Done));
    }
}

/// How many messages stand where; what is refused is refused for the freeze.
fn statuses(world: &World, messages: &[Message]) -> BTreeMap<Status, usize> {
    let ids: BTreeSet<_> = messages.iter().map(|message| message.id).collect();
    let mut counts = BTreeMap::new();
    for row in world.messages_of(messages[0].account).into_iter().filter(|row| ids.contains(&row.id)) {
        assert_eq!(row.reason, (row.status == Status::Refused).then_some(Reason::Frozen));
        *counts.entry(row.status).or_default() += 1;
    }
    counts
}

fn freeze_of(world: &World, customer: &Customer) -> Option<FreezeReason> {
    world.gate(customer.account).unwrap().frozen.map(|freeze| freeze.reason)
}

/// The bound of an attack: 50 batches of 10 at once, five times what runs at once on AWS. What reaches Twilio is at
/// most the limit of a prefix, whichever hundred meets its own first, and then nothing more.
#[tokio::test]
async fn of_500_parallel_messages_of_an_attack_at_most_a_hundred_reach_twilio() {
    for (seed, attack, most) in
        [(1, "sequential", 100), (2, "shuffled", 100), (3, "one hundred", 29), (4, "one number", 100)]
    {
        let world = World::new(seed);
        let customer = customer_with_credit(&world, 600).await;
        let numbers = (0..500).map(|n| match attack {
            "sequential" => format!("+1415555{n:04}"),
            "shuffled" => format!("+1415555{:04}", n * 7_919 % 500),
            "one hundred" => format!("+141555526{:02}", n % 100),
            _ => TO.to_owned(),
        });
        let messages = to_numbers(&world, &customer, numbers).await;
        in_batches(&world, &messages).await;
        let sent = world.twilio().taken().len();
        assert!(sent <= most, "{attack}: {sent}");
        let reason = freeze_of(&world, &customer).unwrap();
        match attack {
            "one number" => assert_eq!(reason, FreezeReason::Velocity),
            // Over five hundreds: what the first batch above a limit saw depends on who counted when.
            "shuffled" => assert_ne!(reason, FreezeReason::Unnamed),
            _ => assert_eq!(reason, FreezeReason::Pumping, "{attack}"),
        }
        let told = world.take_jobs(Queue::Mail);
        let alert = Alert::SendingFrozen { reason };
        assert_eq!(told, [Job::Alert { account: customer.account, alert, since: world.now() }], "{attack}");
        let ends = BTreeMap::from([(Status::Sent, sent), (Status::Refused, 500 - sent)]);
        assert_eq!(statuses(&world, &messages), ends, "{attack}");
        assert!(messages.iter().all(|message| !has_payload(&world, message)));
        // Everything later is refused by the last check, and is not counted.
        let late = customer.message_to(&world, "+12125550123").await;
        handled(&world, &[&late]).await;
        assert_eq!(row(&world, &late).reason, Some(Reason::Frozen));
        assert_eq!((called(&world).get("count_prefix"), called(&world).get("stop_sending")), (None, None));
    }
}

#[tokio::test]
async fn an_owner_who_could_not_be_told_of_a_freeze_is_told_when_a_job_comes_again() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 600).await;
    let messages = to_numbers(&world, &customer, (0..40).map(|n| format!("+1415555{n:04}"))).await;
    let since = world.now();
    let mut came_again = Vec::new();
    for batch in messages.chunks(10) {
        // The alert is the first thing that an attack's batch puts into a queue.
        if freeze_of(&world, &customer).is_none() && world.twilio().taken().len() == 20 {
            world.fail_next("enqueue", Fault::transient("busy"));
        }
        let handled = handled(&world, &batch.iter().collect::<Vec<_>>()).await;
        came_again.extend(batch.iter().zip(handled).filter(|(_, handled)| *handled == Handled::Again));
    }
    assert_eq!(freeze_of(&world, &customer), Some(FreezeReason::Pumping));
    assert_eq!((came_again.len(), world.take_jobs(Queue::Mail)), (10, Vec::new()), "the batch that froze");
    world.advance(TOLD_WITHIN);
    for (message, _) in came_again {
        assert_eq!(handled(&world, &[message]).await, [Handled::Done]);
    }
    let alert = Alert::SendingFrozen { reason: FreezeReason::Pumping };
    assert_eq!(world.take_jobs(Queue::Mail), [Job::Alert { account: customer.account, alert, since }]);
}

#[tokio::test]
async fn an_attack_on_many_prefixes_is_stopped_by_the_accounts_own_limit() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 1_500).await;
    let numbers = (0..1_200).map(|n| format!("+1{:010}", 2_125_550_000_u64 + n * 10_007));
    let messages = to_numbers(&world, &customer, numbers).await;
    // The fastest sender needs a second for a thousand.
    for half in messages.chunks(600) {
        in_batches(&world, half).await;
        world.advance(secs(1));
    }
    assert_eq!(world.twilio().taken().len(), 1_000);
    assert_eq!(freeze_of(&world, &customer), Some(FreezeReason::Velocity));
}

#[tokio::test]
async fn a_campaign_of_a_thousand_at_one_a_second_goes_out() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 1_000).await;
    for n in 0..1_000_u64 {
        // Scattered over one area code: 7,919 is prime to the ten million numbers.
        let message = customer.message_to(&world, &format!("+1415{:07}", 2_000_000 + n * 79_190_001 % 7_999_999)).await;
        handled(&world, &[&message]).await;
        world.advance(secs(1));
    }
    assert_eq!((world.twilio().taken().len(), freeze_of(&world, &customer)), (1_000, None));
}

#[tokio::test]
async fn two_hundred_a_second_of_an_account_with_a_raised_ceiling_go_out() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 60_000).await;
    for second in 0..10_u64 {
        let numbers = (0..200).map(|n| format!("+1415{:07}", 2_000_000 + (second * 200 + n) * 79_190_001 % 7_999_999));
        let messages = to_numbers(&world, &customer, numbers).await;
        in_batches(&world, &messages).await;
        world.advance(secs(1));
    }
    assert_eq!((world.twilio().taken().len(), freeze_of(&world, &customer)), (2_000, None));
}

#[tokio::test]
async fn one_accounts_attack_does_not_stop_the_others_of_a_batch() {
    let world = World::new(1);
    let (ann, bob) = (customer_with_credit(&world, 500).await, customer_with_credit(&world, 500).await);
    let attack = to_numbers(&world, &ann, (0..40).map(|n| format!("+14155552{n:03}"))).await;
    in_batches(&world, &attack).await;
    let (more, good) = (ann.message(&world).await, bob.message(&world).await);
    handled(&world, &[&more, &good]).await;
    assert_eq!((row(&world, &more).status, row(&world, &good).status), (Status::Refused, Status::Sent));
    assert_eq!(freeze_of(&world, &bob), None);
}

#[tokio::test]
async fn counting_begins_anew_in_the_next_minute_and_when_a_freeze_is_lifted() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 500).await;
    let numbers = |from: usize| (from..from + 25).map(|n| format!("+141555526{n:02}"));
    let first = to_numbers(&world, &customer, numbers(0)).await;
    in_batches(&world, &first).await;
    world.advance(secs(60));
    let second = to_numbers(&world, &customer, numbers(50)).await;
    in_batches(&world, &second).await;
    assert_eq!((world.twilio().taken().len(), freeze_of(&world, &customer)), (50, None));
    let third = to_numbers(&world, &customer, numbers(25)).await;
    in_batches(&world, &third).await;
    assert_eq!(freeze_of(&world, &customer), Some(FreezeReason::Pumping));

    let since = world.gate(customer.account).unwrap().frozen.unwrap().since;
    let before = world.twilio().taken().len();
    world.advance(secs(1));
    assert_eq!(world.lift_freeze(customer.account, since, customer.user, world.now()).await, Ok(Lift::Done));
    let fourth = to_numbers(&world, &customer, numbers(25)).await;
    in_batches(&world, &fourth).await;
    assert_eq!((world.twilio().taken().len(), freeze_of(&world, &customer)), (before + 25, None));
}

#[tokio::test]
async fn a_message_that_waits_again_is_counted_once() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 500).await;
    let message = customer.message(&world).await;
    for _ in 0..3 {
        world.twilio().answer_next(Created::NotProcessed { retry_after_secs: Some(1) });
        handled(&world, &[&message]).await;
        world.advance(secs(61));
    }
    handled(&world, &[&message]).await;
    assert_eq!(row(&world, &message).status, Status::Sent);
    assert_eq!((called(&world)["count_prefix"], called(&world)["count_account"]), (1, 1));
}

#[tokio::test]
async fn what_could_not_be_counted_waits_uncounted_and_nothing_is_counted_twice() {
    for method in ["count_prefix", "count_account"] {
        let world = World::new(1);
        let customer = customer_with_credit(&world, 500).await;
        let messages = to_numbers(&world, &customer, (0..29).map(|n| format!("+141555526{n:02}"))).await;
        for round in 0..3 {
            (0..3).for_each(|_| world.fail_next(method, Fault::transient("busy")));
            in_batches(&world, &messages).await;
            assert_eq!((world.twilio().posts(), freeze_of(&world, &customer)), (0, None), "{method} {round}");
            assert_eq!(statuses(&world, &messages), BTreeMap::from([(Status::Retryable, 29)]));
            world.advance(secs(15));
        }
        in_batches(&world, &messages).await;
        // All of it within a minute: counted twice it would be too much.
        assert_eq!((world.twilio().taken().len(), freeze_of(&world, &customer)), (29, None), "{method}");
    }
}

#[tokio::test]
async fn an_attack_whose_freeze_could_not_be_stored_waits_and_is_refused_once_it_is() {
    let world = World::new(1);
    let customer = customer_with_credit(&world, 500).await;
    let messages = to_numbers(&world, &customer, (0..40).map(|n| format!("+141555526{n:02}"))).await;
    handled(&world, &messages[..20].iter().collect::<Vec<_>>()).await;
    (0..2).for_each(|_| world.fail_next("stop_sending", Fault::transient("busy")));
    in_batches(&world, &messages[20..]).await;
    assert_eq!(freeze_of(&world, &customer), None);
    let waiting = statuses(&world, &messages[20..])[&Status::Retryable];
    assert!((10..=20).contains(&waiting), "{waiting}");
    world.advance(secs(10));
    in_batches(&world, &messages[20..]).await;
    assert_eq!(freeze_of(&world, &customer), Some(FreezeReason::Pumping));
    assert_eq!(statuses(&world, &messages[20..])[&Status::Refused], waiting);
}

#[tokio::test]
async fn no_number_lies_in_the_counters() {
    let world = World::new(1);
    let (_, message) = customer_with_message(&world).await;
    handled(&world, &[&message]).await;
    for part in ["4155552671", "415555", "5552671"] {
        assert!(!world.holds_in_clear(part), "{part}");
    }
}
