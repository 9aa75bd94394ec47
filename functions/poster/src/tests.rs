//! Money moves once for each message, whatever comes twice, at once or with a fault between.

use telbuddy::ledger::{Allowance, MicroCredits};
use telbuddy::message::{Message, Outcome, Reason, RecordInbound, RecordOutcome, Status};
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{Customer, called, row};

use super::*;

const SID: &str = "SM0123456789abcdef0123456789abcdef";

fn sent() -> Outcome {
    Outcome::Sent { sid: SID.to_owned() }
}

fn post_of(message: &Message) -> Job {
    Job::Post { account: message.account, message: message.id }
}

/// A message of one credit that has come to this.
async fn message_after(world: &World, outcome: &Outcome) -> Message {
    let message = Customer::new(world).await.message(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    world.record_outcome(&claimed, outcome, world.now()).await.unwrap();
    world.forget_calls();
    message
}

/// Credits that are free, reserved and spent, of 100.
fn credits(world: &World, message: &Message) -> (u64, u64, u64) {
    let Allowance { available, held, used, .. } = world.allowance(message.account).unwrap();
    let whole = |credits: MicroCredits| credits.0 / 1_000_000;
    (whole(available), whole(held), whole(used))
}

#[tokio::test]
async fn what_twilio_took_is_charged_once_with_one_read_and_one_transaction() {
    let world = World::new(1);
    let message = message_after(&world, &sent()).await;
    assert_eq!(credits(&world, &message), (99, 1, 0));
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_message", 1), ("post_charge", 1)].into_iter().collect());
    assert_eq!(credits(&world, &message), (99, 0, 1));
    world.forget_calls();
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_message", 1)].into_iter().collect());
    let entries = world.entries(message.account);
    assert_eq!((entries.len(), entries[0].event.sid.as_str(), entries[0].event.units), (1, SID, 1));
}

#[tokio::test]
async fn what_was_never_sent_gives_its_hold_back_once_and_leaves_no_entry() {
    for outcome in [Outcome::Rejected { code: None }, Outcome::Refused(Reason::OptedOut), Outcome::Expired] {
        let world = World::new(1);
        let message = message_after(&world, &outcome).await;
        for _ in 0..2 {
            assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
            assert_eq!((credits(&world, &message), world.entries(message.account).len()), ((100, 0, 0), 0));
        }
        assert_eq!(called(&world)["post_release"], 1, "{outcome:?}");
        assert!(row(&world, &message).settled);
    }
}

#[tokio::test]
async fn what_is_not_decided_is_left_alone() {
    for outcome in [Outcome::Unknown, Outcome::Retry { not_before: "2026-11-24T06:01:00Z".parse().unwrap() }] {
        let world = World::new(1);
        let message = message_after(&world, &outcome).await;
        assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
        assert_eq!(called(&world), [("load_message", 1)].into_iter().collect());
        assert_eq!((credits(&world, &message), row(&world, &message).settled), ((99, 1, 0), false), "{outcome:?}");
    }
}

#[tokio::test]
async fn copies_of_a_job_at_the_same_time_charge_once() {
    for seed in 0..20 {
        let world = World::new(seed);
        let message = message_after(&world, &sent()).await;
        let copies = || vec![post_of(&message), post_of(&message), post_of(&message)];
        let (one, two) = tokio::join!(handle(&world, copies()), handle(&world, copies()));
        assert_eq!((one, two), (vec![Handled::Done; 3], vec![Handled::Done; 3]));
        assert_eq!((credits(&world, &message), world.entries(message.account).len()), ((99, 0, 1), 1));
    }
}

#[tokio::test]
async fn a_fault_moves_no_money_and_a_lost_answer_moves_it_once() {
    for (outcome, method) in [(sent(), "post_charge"), (Outcome::Expired, "post_release")] {
        let after = if method == "post_charge" { (99, 0, 1) } else { (100, 0, 0) };
        let world = World::new(1);
        let message = message_after(&world, &outcome).await;
        for before in ["load_message", method] {
            world.fail_next(before, Fault::transient("busy"));
            assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Again]);
            assert_eq!((credits(&world, &message), row(&world, &message).settled), ((99, 1, 0), false), "{before}");
        }
        world.lose_answer(method, Fault::Ambiguous("reset".to_owned()));
        assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Again]);
        assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
        assert_eq!(credits(&world, &message), after, "{method}");
    }
}

#[tokio::test]
async fn a_text_that_arrived_is_an_entry_that_costs_nothing() {
    let world = World::new(1);
    let account = Customer::new(&world).await.account;
    let message = fresh::inbound(&world, account, world.now());
    world.record_inbound(&message, world.now()).await.unwrap();
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    assert_eq!((credits(&world, &message), world.entries(account).len()), ((100, 0, 0), 1));
    assert_eq!((row(&world, &message).status, row(&world, &message).settled), (Status::Received, true));
}

#[tokio::test]
async fn a_message_that_is_gone_is_done_and_a_job_for_another_queue_goes_back() {
    let world = World::new(1);
    let message = message_after(&world, &sent()).await;
    let gone = Job::Post { account: message.account, message: telbuddy::ids::MessageId::from_bits(1) };
    let wrong = Job::Send { account: message.account, message: message.id };
    let handled = handle(&world, vec![gone, wrong, post_of(&message)]).await;
    assert_eq!(handled, [Handled::Done, Handled::Again, Handled::Done]);
    assert_eq!(credits(&world, &message), (99, 0, 1));
}

/// Two of our messages with one of Twilio's SIDs: only a confused or forged report could make them.
#[tokio::test]
async fn one_sid_is_charged_once_and_the_second_message_gets_its_hold_back() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut messages = Vec::new();
    for _ in 0..2 {
        let message = customer.message(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        world.record_outcome(&claimed, &sent(), world.now()).await.unwrap();
        messages.push(message);
    }
    for _ in 0..2 {
        assert_eq!(handle(&world, messages.iter().map(post_of).collect()).await, [Handled::Done; 2]);
        assert_eq!((credits(&world, &messages[0]), world.entries(customer.account).len()), ((99, 0, 1), 1));
    }
}
