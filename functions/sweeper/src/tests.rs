//! What is lost is found, and what is under way is left alone.

use jiff::SignedDuration;
use telbuddy::endpoint::{DELIVERY_LEASE, Delivery, Event, EventType, KeepDeliveries, WorkDeliveries};
use telbuddy::ids::{EndpointId, EventId};
use telbuddy::ledger::PostOutcome;
use telbuddy::ledger::Posted;
use telbuddy::message::Seen;
use telbuddy::message::{
    Claimed, DECIDE_WITHIN, FIRST_LISTING, Fence, LEASE, Message, Outcome, Reason, RecordInbound, RecordOutcome,
    Report, apply_report, due_shard,
};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, row};

use super::*;

const MOMENT: SignedDuration = SignedDuration::from_millis(1);

/// A customer whose routines are no matter for the next years.
async fn quiet_customer(world: &World) -> Customer {
    let customer = Customer::new(world).await;
    let far = world.now() + SignedDuration::from_hours(100_000);
    for routine in Routine::ALL {
        world.do_routine_at(customer.account, routine, far).await.unwrap();
    }
    world.forget_calls();
    customer
}

fn send(message: &Message) -> Job {
    Job::Send { account: message.account, message: message.id }
}

fn settle(message: &Message) -> Job {
    Job::Settle { account: message.account, message: message.id }
}

/// A message that nobody knows about.
async fn unknown(world: &World) -> Message {
    let message = accepted(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    ended(world, &claimed, Outcome::Unknown).await;
    message
}

fn post(message: &Message) -> Job {
    Job::Post { account: message.account, message: message.id }
}

/// A message that was accepted and whose hint got lost.
async fn accepted(world: &World) -> Message {
    quiet_customer(world).await.message(world).await
}

async fn ended(world: &World, claimed: &Claimed, outcome: Outcome) {
    world.record_outcome(claimed, &outcome, world.now()).await.unwrap();
    world.forget_calls();
}

#[tokio::test]
async fn a_lost_hint_is_made_up_for_after_a_minute_and_not_before() {
    let world = World::new(1);
    let message = accepted(&world).await;
    world.advance(LOOK_AGAIN - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), []);
    world.advance(MOMENT);
    world.forget_calls();
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [send(&message)]);
    let calls = [
        ("find_due", 16),
        ("find_due_connections", 1),
        ("find_due_routines", 1),
        ("find_due_deliveries", 4),
        ("load_message", 1),
        ("enqueue", 1),
        ("look_again", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(world.payload_of(message.account, message.id).map(|payload| payload.0.is_empty()), Some(false));
}

#[tokio::test]
async fn who_was_woken_is_not_woken_again_within_the_minute() {
    let world = World::new(1);
    let message = accepted(&world).await;
    world.advance(LOOK_AGAIN);
    handle(&world).await.unwrap();
    handle(&world).await.unwrap();
    assert_eq!(world.jobs().len(), 1);
    world.advance(LOOK_AGAIN);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [send(&message), send(&message)]);
}

#[tokio::test]
async fn a_worker_with_a_live_lease_is_left_alone_and_a_dead_one_leaves_unknown() {
    let world = World::new(1);
    let message = accepted(&world).await;
    fresh::claimed(&world, &message, world.now()).await;
    world.advance(LEASE - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(row(&world, &message).status, Status::Dispatching);
    world.advance(MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(row(&world, &message).status, Status::Unknown);
    assert_eq!(world.jobs(), [], "nothing is ever sent from here");
}

#[tokio::test]
async fn what_is_not_known_is_looked_for_after_two_minutes_and_every_minute_until_somebody_did() {
    let world = World::new(1);
    let message = unknown(&world).await;
    world.advance(FIRST_LISTING - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), []);
    world.advance(MOMENT);
    // The hint is lost; the next look makes up for it.
    world.fail_next("enqueue", Fault::transient("busy"));
    assert!(handle(&world).await.is_err());
    world.advance(LOOK_AGAIN);
    world.forget_calls();
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [settle(&message)]);
    let calls = [
        ("find_due", 16),
        ("find_due_connections", 1),
        ("find_due_routines", 1),
        ("find_due_deliveries", 4),
        ("load_message", 1),
        ("enqueue", 1),
        ("look_again", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(row(&world, &message).status, Status::Unknown);
    assert!(world.payload_of(message.account, message.id).is_some(), "it is looked for by its payload");
}

/// The settler may be quicker than the sweeper's own next step: its word about the next look stands.
#[tokio::test]
async fn the_next_look_is_the_settlers() {
    for seed in 0..20 {
        let world = World::new(seed);
        let message = unknown(&world).await;
        world.advance(FIRST_LISTING);
        let again = world.now() + SignedDuration::from_mins(20);
        let settling = async {
            while world.jobs().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.look_again(&row(&world, &message), again).await, Ok(true));
        };
        let (swept, ()) = tokio::join!(handle(&world), settling);
        swept.unwrap();
        world.advance(LOOK_AGAIN);
        handle(&world).await.unwrap();
        assert_eq!(world.jobs(), [settle(&message)], "seed {seed}");
    }
}

#[tokio::test]
async fn what_could_not_be_looked_for_all_day_is_given_up_with_its_payload_and_posted() {
    let world = World::new(1);
    let message = unknown(&world).await;
    world.advance(GIVE_UP - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(row(&world, &message).status, Status::Unknown);
    world.advance(LOOK_AGAIN);
    world.fail_next("enqueue", Fault::transient("busy"));
    assert!(handle(&world).await.is_err());
    let after = (row(&world, &message).status, world.payload_of(message.account, message.id).is_some());
    assert_eq!(after, (Status::Unconfirmed, true), "a person may decide");
    world.advance(LOOK_AGAIN);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [settle(&message), post(&message)]);
}

#[tokio::test]
async fn what_nobody_decided_about_for_a_day_loses_its_payload_and_stays_unconfirmed() {
    for posted in [true, false] {
        let world = World::new(1);
        let message = unknown(&world).await;
        let now = world.now();
        let given_up = unconfirmed(&row(&world, &message), now);
        assert_eq!(world.record_listing(&given_up, now + LOOK_AGAIN).await, Ok(true));
        if posted {
            assert_eq!(world.post_release(&given_up, now, &[], None).await, Ok(true));
        }
        world.advance(DECIDE_WITHIN - MOMENT);
        handle(&world).await.unwrap();
        assert!(world.payload_of(message.account, message.id).is_some());
        assert_eq!(world.jobs().len(), usize::from(!posted), "what is not posted is posted meanwhile");
        world.advance(LOOK_AGAIN);
        handle(&world).await.unwrap();
        let after = row(&world, &message);
        assert_eq!((after.status, decidable_until(&after)), (Status::Unconfirmed, None));
        assert_eq!(world.payload_of(message.account, message.id), None);
        world.advance(LOOK_AGAIN);
        let n_jobs = world.jobs().len();
        handle(&world).await.unwrap();
        assert_eq!(world.jobs().len(), n_jobs + usize::from(!posted));
    }
}

/// Somebody put it on the list without seeing that it was over: it must not be found for ever.
#[tokio::test]
async fn what_nothing_has_to_be_done_about_is_found_once() {
    let world = World::new(1);
    let message = accepted(&world).await;
    let claimed = fresh::claimed(&world, &message, world.now()).await;
    ended(&world, &claimed, Outcome::Expired).await;
    let over = row(&world, &message);
    assert_eq!(world.post_release(&over, world.now(), &[], None).await, Ok(true));
    let settled = row(&world, &message);
    let again = Message { revision: settled.revision + 1, ..settled };
    assert_eq!(world.update_message(&again, Some(world.now())).await, Ok(true));
    handle(&world).await.unwrap();
    world.forget_calls();
    handle(&world).await.unwrap();
    assert_eq!(
        called(&world),
        [("find_due", 16), ("find_due_connections", 1), ("find_due_routines", 1), ("find_due_deliveries", 4)]
            .into_iter()
            .collect()
    );
}

#[tokio::test]
async fn a_message_put_back_is_woken_when_it_said() {
    let world = World::new(1);
    let message = accepted(&world).await;
    let claimed = fresh::claimed(&world, &message, world.now()).await;
    ended(&world, &claimed, Outcome::Retry { not_before: world.now() + secs(200) }).await;
    world.advance(secs(199));
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), []);
    world.advance(secs(1));
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [send(&message)]);
}

#[tokio::test]
async fn outcomes_that_are_not_posted_are_posted_and_settled_ones_are_never_looked_at_again() {
    for outcome in [
        Outcome::Sent { sid: "SM0123456789abcdef0123456789abcdef".to_owned() },
        Outcome::Rejected { code: None },
        Outcome::Refused(Reason::Frozen),
        Outcome::Expired,
    ] {
        let world = World::new(1);
        let message = accepted(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        ended(&world, &claimed, outcome.clone()).await;
        world.advance(LOOK_AGAIN);
        handle(&world).await.unwrap();
        assert_eq!(world.jobs(), [post(&message)], "{outcome:?}");

        let over = row(&world, &message);
        let posted = match outcome {
            Outcome::Sent { .. } => {
                let charge = fresh::charge(&world, &over, world.now());
                world.post_charge(&over, charge, world.now(), &[], None).await.map(|posted| posted == Posted::Charged)
            }
            _ => world.post_release(&over, world.now(), &[], None).await,
        };
        assert_eq!(posted, Ok(true));
        world.advance(SignedDuration::from_hours(100));
        world.forget_calls();
        handle(&world).await.unwrap();
        assert_eq!(
            called(&world),
            [("find_due", 16), ("find_due_connections", 1), ("find_due_routines", 1), ("find_due_deliveries", 4)]
                .into_iter()
                .collect(),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_text_that_arrived_and_was_not_posted_is_posted() {
    let world = World::new(1);
    let account = quiet_customer(&world).await.account;
    let message = fresh::inbound(&world, account, world.now());
    assert_eq!(world.record_inbound(&message, world.now() + LOOK_AGAIN).await, Ok(Seen::First));
    world.advance(LOOK_AGAIN);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [post(&message)]);
}

#[tokio::test]
async fn a_fault_with_one_message_keeps_no_other_from_being_woken_and_the_next_run_makes_up_for_it() {
    for method in ["load_message", "enqueue", "look_again"] {
        let world = World::new(1);
        let mut messages = Vec::new();
        for _ in 0..4 {
            messages.push(accepted(&world).await);
        }
        messages.sort_by_key(|message| (due_shard(message.id), message.account, message.id));
        world.advance(LOOK_AGAIN);
        world.fail_next(method, Fault::permanent("a damaged row"));
        assert_eq!(handle(&world).await, Err(Fault::permanent("a damaged row")), "the run says so: {method}");
        let woken = world.jobs();
        assert!(messages[1..].iter().all(|message| woken.contains(&send(message))), "{method}: {woken:?}");
        handle(&world).await.unwrap();
        assert!(world.jobs().contains(&send(&messages[0])), "{method}");
    }
}

/// Between the sweeper's read and its write the message moves on: the write must not bring the old look back.
#[tokio::test]
async fn a_message_that_moves_on_meanwhile_keeps_its_own_next_look() {
    for seed in 0..20 {
        let world = World::new(seed);
        let message = accepted(&world).await;
        world.advance(LOOK_AGAIN);
        let claiming = async { fresh::claimed(&world, &message, world.now()).await };
        let (swept, _) = tokio::join!(handle(&world), claiming);
        swept.unwrap();
        world.advance(LEASE);
        handle(&world).await.unwrap();
        assert_eq!(row(&world, &message).status, Status::Unknown, "its lease was found when it was over");
    }
}

#[tokio::test]
async fn a_callback_that_comes_while_giving_up_wins() {
    for seed in 0..20 {
        let world = World::new(seed);
        let message = accepted(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        ended(&world, &claimed, Outcome::Unknown).await;
        world.advance(GIVE_UP);
        let sid = "SM0123456789abcdef0123456789abcdef".to_owned();
        let report = Report { sid, status: Status::Delivered, error_code: None };
        let reporting = async {
            loop {
                let after = apply_report(&row(&world, &message), &report, world.now()).unwrap();
                if world.update_message(&after, Some(world.now() + LOOK_AGAIN)).await.unwrap() {
                    return;
                }
            }
        };
        let (swept, ()) = tokio::join!(handle(&world), reporting);
        swept.unwrap();
        assert_eq!(row(&world, &message).status, Status::Delivered, "seed {seed}");
    }
}

#[tokio::test]
async fn a_routine_whose_time_has_come_is_asked_for_and_again_if_the_job_gets_lost() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), []);
    world.advance(Routine::Arrivals.every());
    let job = Job::CatchUp { account: customer.account };
    for _ in 0..2 {
        handle(&world).await.unwrap();
        assert_eq!(world.take_jobs(telbuddy::platform::Queue::CatchUp), std::slice::from_ref(&job));
        handle(&world).await.unwrap();
        assert_eq!(world.jobs(), [], "once in a while");
        world.advance(ASK_AGAIN);
    }
    world.fail_next("enqueue", Fault::transient("busy"));
    assert!(handle(&world).await.is_err());
    handle(&world).await.unwrap();
    assert_eq!(world.jobs(), [job], "what the queue did not take is still due");
}

#[tokio::test]
async fn each_connected_account_is_compared_with_twilio_once_a_day() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.advance(Routine::Reconciliation.every() - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(world.take_jobs(telbuddy::platform::Queue::Reconcile), []);
    world.advance(MOMENT);
    handle(&world).await.unwrap();
    let job = Job::Reconcile { account: customer.account };
    assert_eq!(world.take_jobs(telbuddy::platform::Queue::Reconcile), [job]);
}

#[tokio::test]
async fn a_delivery_whose_hint_is_lost_is_woken_once_a_minute_until_somebody_takes_it() {
    let world = World::new(1);
    let (account, endpoint, now) = (AccountId::from_bits(1), EndpointId::from_bits(2), world.now());
    let (id, kind) = (EventId::from_bits(3), EventType::MessageSent);
    let delivery = Delivery::new(account, endpoint, Event { id, kind, at: now, data: "{}".to_owned() }, now);
    world.create_delivery(&delivery).await.unwrap();
    for (after, n_woken) in [(DELIVER_AGAIN - MOMENT, 0), (MOMENT, 1), (MOMENT, 1), (DELIVER_AGAIN, 2)] {
        world.advance(after);
        handle(&world).await.unwrap();
        assert_eq!(world.jobs(), vec![delivery.job(); n_woken]);
    }
    world.claim_delivery(account, endpoint, delivery.id, Fence(1), world.now()).await.unwrap();
    world.advance(DELIVERY_LEASE - MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs().len(), 2, "a worker has it");
    world.advance(MOMENT);
    handle(&world).await.unwrap();
    assert_eq!(world.jobs().len(), 3, "its worker is gone");
}
