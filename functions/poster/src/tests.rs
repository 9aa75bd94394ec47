//! Money moves once for each message, whatever comes twice, at once or with a fault between.

use telbuddy::endpoint::{
    Choice, DELIVER_AGAIN, Endpoint, EndpointUrl, EventType, FindDueDeliveries, KeepEndpoints, Reach, UpdateAndTell,
    delivery_shard, told_by_change,
};
use telbuddy::ids::EndpointId;
use telbuddy::ledger::{JOURNAL_SHARDS, MicroCredits, RollUpUsage, UsageKind, failure_by_change};
use telbuddy::message::{Message, Outcome, Reason, RecordInbound, RecordOutcome, Report, Status, apply_report};
use telbuddy::seal::Sealed;
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
    let allowance = world.allowance(message.account).unwrap();
    let whole = |credits: MicroCredits| credits.0 / 1_000_000;
    (whole(allowance.available()), whole(allowance.held), whole(allowance.used))
}

#[tokio::test]
async fn what_twilio_took_is_charged_once_with_one_read_and_one_transaction() {
    let world = World::new(1);
    let message = message_after(&world, &sent()).await;
    assert_eq!(credits(&world, &message), (99, 1, 0));
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_to_tell", 1), ("post_charge", 1)].into_iter().collect());
    assert_eq!(credits(&world, &message), (99, 0, 1));
    world.forget_calls();
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    assert_eq!(called(&world), [("load_to_tell", 1)].into_iter().collect());
    let charges = world.charges(message.account);
    assert_eq!((charges.len(), charges[0].1.sid.as_str(), charges[0].1.units), (1, SID, 1));
}

#[tokio::test]
async fn what_was_never_sent_gives_its_hold_back_once_and_leaves_no_entry() {
    for outcome in [Outcome::Rejected { code: None }, Outcome::Refused(Reason::OptedOut), Outcome::Expired] {
        let world = World::new(1);
        let message = message_after(&world, &outcome).await;
        for _ in 0..2 {
            assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
            assert_eq!((credits(&world, &message), world.charges(message.account).len()), ((100, 0, 0), 0));
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
        assert_eq!(called(&world), [("load_to_tell", 1)].into_iter().collect());
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
        assert_eq!((credits(&world, &message), world.charges(message.account).len()), ((99, 0, 1), 1));
    }
}

#[tokio::test]
async fn a_fault_moves_no_money_and_a_lost_answer_moves_it_once() {
    for (outcome, method) in [(sent(), "post_charge"), (Outcome::Expired, "post_release")] {
        let after = if method == "post_charge" { (99, 0, 1) } else { (100, 0, 0) };
        let world = World::new(1);
        let message = message_after(&world, &outcome).await;
        for before in ["load_to_tell", method] {
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
    assert_eq!((credits(&world, &message), world.charges(account).len()), ((100, 0, 0), 1));
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
        assert_eq!((credits(&world, &messages[0]), world.charges(customer.account).len()), ((99, 0, 1), 1));
    }
}

/// An endpoint for some types.
async fn listening(world: &World, account: telbuddy::ids::AccountId, words: &[&str]) -> EndpointId {
    let id = EndpointId::new(world.now(), fresh::dice(world));
    let endpoint = Endpoint {
        account,
        id,
        url: EndpointUrl::parse("https://example.com/", Reach::Public).unwrap(),
        choice: Choice::parse(words).unwrap(),
        include_content: false,
        description: String::new(),
        secret: Sealed(vec![1]),
        previous: Vec::new(),
        disabled: None,
        failing_since: None,
        revision: 0,
        created: world.now(),
        updated: world.now(),
    };
    assert_eq!(world.create_endpoint(&endpoint).await, Ok(true));
    world.forget_calls();
    id
}

fn told(world: &World, message: &Message, endpoint: EndpointId) -> Vec<&'static str> {
    let told = world.deliveries_of(message.account, endpoint);
    told.iter().map(|delivery| delivery.event.kind.as_str()).collect()
}

#[tokio::test]
async fn endpoints_are_told_once_with_the_posting_and_hinted_at() {
    for seed in 0..20 {
        let world = World::new(seed);
        let message = message_after(&world, &sent()).await;
        let all = listening(&world, message.account, &["*"]).await;
        let other = listening(&world, message.account, &["message.received"]).await;
        let copies = vec![post_of(&message); 10];
        assert_eq!(handle(&world, copies).await, [Handled::Done; 10]);
        assert_eq!(called(&world)["enqueue_all"], 1, "seed {seed}");
        assert_eq!(told(&world, &message, all), ["message.sent"], "seed {seed}");
        assert_eq!(told(&world, &message, other).len(), 0);
        let job = world.deliveries_of(message.account, all)[0].job();
        assert_eq!(world.take_jobs(Queue::Deliver), [job]);
    }
}

#[tokio::test]
async fn what_was_never_sent_is_told_as_failed_and_a_text_as_received() {
    let world = World::new(1);
    let refused = message_after(&world, &Outcome::Refused(Reason::OptedOut)).await;
    let endpoint = listening(&world, refused.account, &["*"]).await;
    assert_eq!(handle(&world, vec![post_of(&refused)]).await, [Handled::Done]);
    let text = fresh::inbound(&world, refused.account, world.now());
    world.record_inbound(&text, world.now()).await.unwrap();
    assert_eq!(handle(&world, vec![post_of(&text)]).await, [Handled::Done]);
    let mut told = told(&world, &refused, endpoint);
    told.sort_unstable();
    assert_eq!(told, ["message.failed", "message.received"]);
    let told = world.deliveries_of(refused.account, endpoint);
    let failed = told.iter().find(|one| one.event.kind == EventType::MessageFailed).unwrap();
    let data: serde_json::Value = serde_json::from_str(&failed.event.data).unwrap();
    assert_eq!((&data["status"], &data["reason"]), (&"refused".into(), &"opted_out".into()));
}

/// A status comes between the poster's read and its write: what is told fits what stands.
#[tokio::test]
async fn a_status_at_the_same_time_is_told_by_exactly_one_of_both() {
    for seed in 0..60 {
        let world = World::new(seed);
        let message = message_after(&world, &sent()).await;
        let endpoint = listening(&world, message.account, &["*"]).await;
        let report = Report { sid: SID.to_owned(), status: Status::Delivered, error_code: None };
        let reporting = async {
            loop {
                let found = world.load_to_tell(message.account, message.id).await.unwrap().unwrap();
                let ToTell { message: held, listeners, .. } = found;
                let after = apply_report(&held, &report, world.now()).unwrap();
                let told = told_by_change(&held, &after);
                let told = listeners.deliveries(message.account, &told, world.now());
                if world.update_and_tell(&after, None, &told, None).await.unwrap() {
                    return;
                }
            }
        };
        futures::future::join(handle(&world, vec![post_of(&message)]), reporting).await;
        // Whoever reports has it posted if it is not yet.
        handle(&world, vec![post_of(&message)]).await;
        let mut told = told(&world, &message, endpoint);
        told.sort_unstable();
        assert_eq!(told, ["message.delivered", "message.sent"], "seed {seed}");
    }
}

/// Error codes of what is to be counted as failed.
async fn failures(world: &World) -> Vec<Option<u32>> {
    let mut found = Vec::new();
    for shard in 0..JOURNAL_SHARDS {
        let items = world.load_journal(shard, 200).await.unwrap().into_iter();
        let events = items.filter_map(|entry| entry.usage);
        found.extend(events.filter(|event| event.kind == UsageKind::FailedMessages).map(|event| event.error));
    }
    found
}

#[tokio::test]
async fn what_twilio_refused_is_counted_once_by_its_error_and_what_we_refused_is_not() {
    let world = World::new(1);
    let rejected = message_after(&world, &Outcome::Rejected { code: Some(21_211) }).await;
    let refused = message_after(&world, &Outcome::Refused(Reason::OptedOut)).await;
    let mut copies = vec![post_of(&rejected); 10];
    copies.push(post_of(&refused));
    assert_eq!(handle(&world, copies).await, [Handled::Done; 11]);
    assert_eq!(failures(&world).await, [Some(21_211)]);
}

/// The report comes before, during or after the posting, and two of them one after the other.
#[tokio::test]
async fn what_does_not_arrive_is_charged_once_and_counted_as_failed_once() {
    for seed in 0..60 {
        let world = World::new(seed);
        let message = message_after(&world, &sent()).await;
        let reporting = async {
            for status in [Status::Undelivered, Status::Failed] {
                let report = Report { sid: SID.to_owned(), status, error_code: Some(30_003) };
                loop {
                    let found = world.load_to_tell(message.account, message.id).await.unwrap().unwrap();
                    let ToTell { message: held, zone, .. } = found;
                    let Some(after) = apply_report(&held, &report, world.now()) else { break };
                    let event = failure_by_change(&held, &after, &zone);
                    let now = world.now();
                    let failure = event.map(|event| Entry::failure(EntryId::new(now, 7), event, now, &zone));
                    if world.update_and_tell(&after, None, &[], failure.as_ref()).await.unwrap() {
                        break;
                    }
                }
            }
        };
        futures::future::join(handle(&world, vec![post_of(&message)]), reporting).await;
        handle(&world, vec![post_of(&message)]).await;
        assert_eq!(
            (failures(&world).await, credits(&world, &message)),
            (vec![Some(30_003)], (99, 0, 1)),
            "seed {seed}"
        );
    }
}

#[tokio::test]
async fn a_hint_that_is_lost_leaves_a_delivery_that_is_due() {
    let world = World::new(1);
    let message = message_after(&world, &sent()).await;
    let endpoint = listening(&world, message.account, &["*"]).await;
    world.fail_next("enqueue_all", Fault::transient("busy"));
    assert_eq!(handle(&world, vec![post_of(&message)]).await, [Handled::Done]);
    let delivery = &world.deliveries_of(message.account, endpoint)[0];
    let found = world.find_due_deliveries(delivery_shard(delivery.id), world.now() + DELIVER_AGAIN, 10).await;
    assert_eq!(found, Ok(vec![(message.account, endpoint, delivery.id)]));
}
