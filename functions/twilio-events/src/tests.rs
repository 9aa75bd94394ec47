//! Events that come twice, at once, before or after what they are about, and with faults between.

use telbuddy::endpoint::{Choice, EventType};
use telbuddy::ids::EndpointId;
use telbuddy::inbound::Consent;
use telbuddy::ledger::{JOURNAL_SHARDS, PostOutcome, RollUpUsage, UsageKind};
use telbuddy::message::{Claimed, Outcome, RecordOutcome, adopt, decidable_until, unconfirmed};
use telbuddy::opt_out::{OptOut, Said};
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{Customer, called, due_later, row};

use super::*;

const SID: &str = "SM0123456789abcdef0123456789abcdef";

fn post_of(message: &Message) -> Job {
    Job::Post { account: message.account, message: message.id }
}

fn status(message: &Message, status: Status) -> Job {
    let news = News::Status { message: message.id, sid: SID.to_owned(), status, error_code: None };
    Job::Twilio(TwilioEvent { account: message.account, at: message.created, news })
}

/// A text of STOP to a number in a messaging service; every delivery gets an id of its own, as the webhook gives it.
fn stop(world: &World, account: AccountId) -> Job {
    let news = News::Text {
        message: MessageId::new(world.now(), fresh::dice(world)),
        sid: SID.to_owned(),
        own: fresh::OWN.to_owned(),
        service: Some("MG0123456789abcdef0123456789abcdef".to_owned()),
        other_hash: "who".to_owned(),
        country: None,
        format: telbuddy::message::Format::Sms,
        segments: 1,
        consent: Some(Consent::Stop),
    };
    Job::Twilio(TwilioEvent { account, at: world.now(), news })
}

/// A message that a worker has claimed and handed to Twilio.
async fn dispatching(world: &World) -> (Message, Claimed) {
    let message = Customer::new(world).await.message(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    world.forget_calls();
    (message, claimed)
}

#[tokio::test]
async fn a_status_costs_one_read_one_write_one_hint_and_its_copies_one_read() {
    let world = World::new(1);
    let (message, _) = dispatching(&world).await;
    assert_eq!(handle(&world, vec![status(&message, Status::Sent)]).await, [Handled::Done]);
    let calls = [("load_to_tell", 1), ("update_and_tell", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(world.payload_of(message.account, message.id), None);
    world.forget_calls();
    assert_eq!(handle(&world, vec![status(&message, Status::Sent)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_to_tell", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_status_of_a_posted_message_is_noted_and_not_posted_again() {
    let world = World::new(1);
    let (message, claimed) = dispatching(&world).await;
    world.record_outcome(&claimed, &Outcome::Sent { sid: SID.to_owned() }, world.now()).await.unwrap();
    let sent = row(&world, &message);
    world.post_charge(&sent, fresh::charge(&world, &sent, world.now()), world.now(), &[], None).await.unwrap();
    assert_eq!(handle(&world, vec![status(&message, Status::Delivered)]).await, [Handled::Done]);
    assert_eq!((row(&world, &message).status, world.jobs()), (Status::Delivered, Vec::new()));
    assert_eq!(due_later(&world).await, []);
}

#[tokio::test]
async fn a_status_for_a_message_that_is_not_there_is_dropped() {
    let world = World::new(1);
    let (message, _) = dispatching(&world).await;
    let gone = Message { id: MessageId::from_bits(1), ..message };
    assert_eq!(handle(&world, vec![status(&gone, Status::Delivered)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_to_tell", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_status_of_a_call_is_taken_and_changes_nothing() {
    use telbuddy::ids::CallId;
    use telbuddy::inbound::CallStatus;
    let world = World::new(1);
    let account = Customer::new(&world).await.account;
    let sid = "CA0123456789abcdef0123456789abcdef".to_owned();
    let news = News::Call { call: CallId::from_bits(1), sid, status: CallStatus::Completed };
    world.forget_calls();
    let before = world.at_rest();
    let job = Job::Twilio(TwilioEvent { account, at: world.now(), news });
    assert_eq!(handle(&world, vec![job]).await, [Handled::Done]);
    assert_eq!((called(&world).len(), world.at_rest() == before), (0, true));
}

#[tokio::test]
async fn statuses_that_meet_read_again_and_end_in_the_highest() {
    let mut read_again = 0;
    for seed in 0..20 {
        let world = World::new(seed);
        let (message, _) = dispatching(&world).await;
        let words = [Status::Sent, Status::Delivered, Status::Sending, Status::Sent];
        let jobs = words.map(|word| status(&message, word)).to_vec();
        assert_eq!(handle(&world, jobs).await, [Handled::Done; 4]);
        assert_eq!(row(&world, &message).status, Status::Delivered);
        assert!(world.jobs().contains(&post_of(&message)));
        read_again += usize::from(called(&world)["load_to_tell"] > 4);
    }
    assert!(read_again > 5, "{read_again}");
}

#[tokio::test]
async fn a_status_that_meets_our_own_write_of_the_outcome_is_not_undone() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (message, claimed) = dispatching(&world).await;
        let sent = Outcome::Sent { sid: SID.to_owned() };
        let recording = world.record_outcome(&claimed, &sent, world.now());
        let (handled, recorded) =
            futures::future::join(handle(&world, vec![status(&message, Status::Delivered)]), recording).await;
        assert_eq!(handled, [Handled::Done]);
        recorded.unwrap();
        assert_eq!(row(&world, &message).status, Status::Delivered, "seed {seed}");
    }
}

#[tokio::test]
async fn a_write_that_fails_gives_the_event_back_and_changes_nothing() {
    for (method, fault) in
        [("load_to_tell", Fault::transient("busy")), ("update_and_tell", Fault::Ambiguous("reset".to_owned()))]
    {
        let world = World::new(1);
        let (message, _) = dispatching(&world).await;
        world.fail_next(method, fault);
        let job = status(&message, Status::Sent);
        assert_eq!(handle(&world, vec![job.clone()]).await, [Handled::Again], "{method}");
        assert_eq!(row(&world, &message).status, Status::Dispatching);
        assert_eq!(handle(&world, vec![job]).await, [Handled::Done]);
        assert_eq!((row(&world, &message).status, world.jobs()), (Status::Sent, vec![post_of(&message)]));
    }
}

#[tokio::test]
async fn a_hint_that_is_lost_after_the_status_was_written_is_the_sweepers() {
    let world = World::new(1);
    let (message, _) = dispatching(&world).await;
    world.fail_next("enqueue", Fault::transient("busy"));
    let job = status(&message, Status::Delivered);
    assert_eq!(handle(&world, vec![job.clone()]).await, [Handled::Again]);
    assert_eq!(handle(&world, vec![job]).await, [Handled::Done]);
    assert_eq!((row(&world, &message).status, world.jobs()), (Status::Delivered, Vec::new()));
    assert_eq!(due_later(&world).await, [message.id]);
}

#[tokio::test]
async fn stop_to_a_number_in_a_service_blocks_both_and_costs_two_writes_one_transaction_one_hint() {
    let world = World::new(1);
    let account = Customer::new(&world).await.account;
    assert_eq!(handle(&world, vec![stop(&world, account)]).await, [Handled::Done]);
    for own in [fresh::OWN, "MG0123456789abcdef0123456789abcdef"] {
        let opt_out = world.opt_out(account, own, "who");
        let heard = Heard::Text(SID.to_owned());
        assert_eq!(opt_out.said, Some(Said { consent: Consent::Stop, at: world.now(), heard }), "{own}");
    }
    let calls = [("record_consent", 2), ("record_inbound", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
}

#[tokio::test]
async fn copies_of_a_text_are_one_row_and_one_hint() {
    for seed in 0..10 {
        let world = World::new(seed);
        let account = Customer::new(&world).await.account;
        let copies = vec![stop(&world, account), stop(&world, account), stop(&world, account)];
        assert_eq!(handle(&world, copies).await, [Handled::Done; 3]);
        assert_eq!(handle(&world, vec![stop(&world, account)]).await, [Handled::Done]);
        let rows = world.messages_of(account);
        assert_eq!((rows.len(), world.jobs()), (1, vec![post_of(&rows[0])]));
    }
}

#[tokio::test]
async fn no_fault_loses_what_a_text_says_about_consent() {
    for (method, recorded_after) in [("record_consent", 1), ("record_inbound", 0)] {
        let world = World::new(1);
        let account = Customer::new(&world).await.account;
        let job = stop(&world, account);
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(handle(&world, vec![job.clone()]).await, [Handled::Again], "{method}");
        let known = [fresh::OWN, "MG0123456789abcdef0123456789abcdef"].map(|own| world.opt_out(account, own, "who"));
        assert_eq!(known, [OptOut::default(), OptOut::default()], "{method}");
        assert_eq!(world.messages_of(account).len(), recorded_after, "{method}");
        assert_eq!(handle(&world, vec![job]).await, [Handled::Done]);
        assert!(world.opt_out(account, "MG0123456789abcdef0123456789abcdef", "who").standing().is_some());
        assert_eq!(world.messages_of(account).len(), 1);
    }
}

#[tokio::test]
async fn a_hint_that_is_lost_after_a_text_was_recorded_is_the_sweepers() {
    let world = World::new(1);
    let account = Customer::new(&world).await.account;
    let job = stop(&world, account);
    world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!(handle(&world, vec![job.clone()]).await, [Handled::Again]);
    assert_eq!(handle(&world, vec![job]).await, [Handled::Done]);
    let rows = world.messages_of(account);
    assert_eq!((rows.len(), world.jobs()), (1, Vec::new()));
    assert_eq!(due_later(&world).await, [rows[0].id]);
}

#[tokio::test]
async fn one_event_that_fails_keeps_no_other_of_its_batch() {
    let world = World::new(1);
    let (one, _) = dispatching(&world).await;
    let (two, _) = dispatching(&world).await;
    let wrong = post_of(&one);
    let handled = handle(&world, vec![wrong, status(&one, Status::Sent), status(&two, Status::Sent)]).await;
    assert_eq!(handled, [Handled::Again, Handled::Done, Handled::Done]);
    assert_eq!((row(&world, &one).status, row(&world, &two).status), (Status::Sent, Status::Sent));
}

/// The webhook's answer got lost, or somebody who saw it once plays it again: Twilio's signature has no time in it.
#[tokio::test]
async fn an_old_start_that_comes_again_lifts_no_newer_stop() {
    let world = World::new(1);
    let account = Customer::new(&world).await.account;
    let said = |sid: &str, consent| {
        let mut job = stop(&world, account);
        let Job::Twilio(TwilioEvent { news: News::Text { sid: own_sid, consent: said_word, message, .. }, .. }) =
            &mut job
        else {
            panic!("a text");
        };
        (*own_sid, *said_word) = (sid.to_owned(), Some(consent));
        *message = MessageId::new(world.now(), fresh::dice(&world));
        job
    };
    let (start_sid, stop_sid) = (format!("SM{}", "a".repeat(32)), format!("SM{}", "b".repeat(32)));
    handle(&world, vec![said(&start_sid, Consent::Start)]).await;
    world.advance(fresh::secs(60));
    handle(&world, vec![said(&stop_sid, Consent::Stop)]).await;
    world.advance(fresh::secs(60));
    assert_eq!(handle(&world, vec![said(&start_sid, Consent::Start)]).await, [Handled::Done]);
    assert!(world.opt_out(account, fresh::OWN, "who").standing().is_some());
}

/// Two identical messages that nobody knows about, as a listing may look for them.
async fn identical(world: &World) -> [Message; 2] {
    let customer = Customer::new(world).await;
    let mut rows = Vec::new();
    for _ in 0..2 {
        let message = customer.message(world).await;
        let claimed = fresh::claimed(world, &message, world.now()).await;
        world.record_outcome(&claimed, &Outcome::Unknown, world.now()).await.unwrap();
        rows.push(row(world, &message));
    }
    world.forget_calls();
    rows.try_into().unwrap()
}

/// A listing finds the SID for a message.
async fn found_for(world: &World, message: &Message) -> Adopted {
    let report = Report { sid: SID.to_owned(), status: Status::Sent, error_code: None };
    let adopted = adopt(message, &report, world.now()).unwrap();
    world.adopt_sid(&adopted, Some(world.now() + LOOK_AGAIN), &[], None).await.unwrap()
}

#[tokio::test]
async fn a_status_of_what_was_not_known_binds_its_sid() {
    let world = World::new(1);
    let [one, two] = identical(&world).await;
    assert_eq!(handle(&world, vec![status(&one, Status::Delivered)]).await, [Handled::Done]);
    let calls = [("load_to_tell", 1), ("adopt_sid", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(row(&world, &one).status, Status::Delivered);
    assert_eq!(found_for(&world, &two).await, Adopted::Taken(one.id), "one of Twilio's settles one of ours");
}

/// Identical messages are interchangeable: whoever has the SID gets its statuses, whatever message they name.
#[tokio::test]
async fn a_status_whose_sid_was_found_for_an_identical_message_is_that_ones() {
    for seed in 0..20 {
        let world = World::new(seed);
        let [one, two] = identical(&world).await;
        let telling = handle(&world, vec![status(&one, Status::Delivered)]);
        let (handled, adopted) = futures::future::join(telling, found_for(&world, &two)).await;
        assert_eq!(handled, [Handled::Done], "seed {seed}");
        let (settled, open) = if adopted == Adopted::Adopted { (&two, &one) } else { (&one, &two) };
        let after = row(&world, settled);
        assert_eq!((after.status, after.sid.as_deref()), (Status::Delivered, Some(SID)), "seed {seed}");
        assert_eq!(row(&world, open).status, Status::Unknown, "the other is still looked for");
    }
}

#[tokio::test]
async fn a_status_that_comes_after_it_was_given_up_wins_and_ends_the_decision() {
    let world = World::new(1);
    let [message, _] = identical(&world).await;
    let given_up = unconfirmed(&message, world.now());
    assert_eq!(world.record_listing(&given_up, world.now()).await, Ok(true));
    assert_eq!(handle(&world, vec![status(&message, Status::Sent)]).await, [Handled::Done]);
    let after = row(&world, &message);
    assert_eq!((after.status, decidable_until(&after)), (Status::Sent, None));
    assert_eq!(world.payload_of(message.account, message.id), None);
}

#[tokio::test]
async fn a_failure_after_posting_is_counted_once_with_its_write() {
    for seed in 0..20 {
        let world = World::new(seed);
        let (message, claimed) = dispatching(&world).await;
        world.record_outcome(&claimed, &Outcome::Sent { sid: SID.to_owned() }, world.now()).await.unwrap();
        let held = row(&world, &message);
        world.post_charge(&held, fresh::charge(&world, &held, world.now()), world.now(), &[], None).await.unwrap();
        let words = [Status::Undelivered, Status::Failed, Status::Undelivered, Status::Sent];
        let jobs: Vec<_> = words.into_iter().map(|word| status(&message, word)).collect();
        assert_eq!(handle(&world, [jobs.clone(), jobs].concat()).await, [Handled::Done; 8]);
        let mut failed = 0;
        for shard in 0..JOURNAL_SHARDS {
            let items = world.load_journal(shard, 200).await.unwrap();
            let failures = items.iter().filter_map(|entry| entry.usage.as_ref());
            failed += failures.filter(|event| event.kind == UsageKind::FailedMessages).count();
        }
        assert_eq!(failed, 1, "seed {seed}");
    }
}

/// After it was posted nobody else tells of it.
#[tokio::test]
async fn a_status_after_posting_is_told_once_with_its_write() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let message = customer.message(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        world.record_outcome(&claimed, &Outcome::Sent { sid: SID.to_owned() }, world.now()).await.unwrap();
        let held = row(&world, &message);
        let item = fresh::charge(&world, &held, world.now());
        world.post_charge(&held, item, world.now(), &[], None).await.unwrap();
        let endpoint = EndpointId::from_bits(1);
        world.change_gate(customer.account, |gate| {
            gate.listeners.0.insert(endpoint, Choice::All);
        });
        world.forget_calls();
        let copies = vec![status(&message, Status::Delivered); 10];
        assert_eq!(handle(&world, copies).await, [Handled::Done; 10]);
        let told = world.deliveries_of(customer.account, endpoint);
        assert_eq!((told.len(), told[0].event.kind), (1, EventType::MessageDelivered), "seed {seed}");
        // What was written by two at the same moment alike is hinted at by both.
        let hints = world.take_jobs(Queue::Deliver);
        assert!(!hints.is_empty() && hints.iter().all(|hint| *hint == told[0].job()), "{hints:?}");
    }
}
