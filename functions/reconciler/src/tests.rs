//! Each finished day is compared once, whatever comes between, and what differs is put right once.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use telbuddy::ledger::{Change, Occasion, PostOutcome, Posted};
use telbuddy::message::{Direction, Outcome, ReadMessages, RecordMessage, RecordOutcome};
use telbuddy::reconciliation::{AtTwilio, Decision, Reason, SETTLED_AFTER, Tallies};
use telbuddy::seal::Purpose;
use telbuddy::testing::setup::{Customer, called, crash_after};
use telbuddy::testing::{World, fresh};

use super::*;

/// The day on which the world begins, and on which its customers connect.
const DAY: Date = Date::constant(2026, 11, 24);

async fn connected(seed: u64) -> (World, Customer) {
    let world = World::new(seed);
    let customer = Customer::new(&world).await;
    (world, customer)
}

fn sid(n: u32) -> String {
    format!("SM{n:032x}")
}

fn at_twilio(world: &World, customer: &Customer, n: u32, segments: u32) {
    let sent = Some(world.now());
    let message = AtTwilio { sid: sid(n), segments: Some(segments), sent, direction: Direction::Outbound };
    world.twilio_has(customer.credential.account_sid.as_str(), message);
}

/// A message that is sent and charged now, and that Twilio has with so many segments; `None`: it does not have it.
async fn sent(world: &World, customer: &Customer, n: u32, charged: u32, listed: Option<u32>) {
    let now = world.now();
    let outgoing = fresh::outgoing(world, customer.account, charged, now);
    world.record_message(&outgoing).await.unwrap();
    let claim = fresh::claimed(world, &outgoing.message, now).await;
    world.record_outcome(&claim, &Outcome::Sent { sid: sid(n) }, now).await.unwrap();
    let message = world.load_message(customer.account, outgoing.message.id).await.unwrap().unwrap();
    let charge = fresh::charge(world, &message, now);
    assert_eq!(world.post_charge(&message, charge, now, &[], None).await, Ok(Posted::Charged));
    if let Some(listed) = listed {
        at_twilio(world, customer, n, listed);
    }
}

/// The day is over and settled.
fn settle(world: &World) {
    let (_, end) = bounds(DAY).unwrap();
    world.advance((end + SETTLED_AFTER).duration_since(world.now()));
    world.forget_keys();
    world.forget_calls();
}

fn job(customer: &Customer) -> Vec<Job> {
    vec![Job::Reconcile { account: customer.account }]
}

async fn compare(world: &World, customer: &Customer) {
    assert_eq!(handle(world, SETTLED_AFTER, job(customer)).await, [Handled::Done]);
}

async fn report(world: &World, customer: &Customer) -> Report {
    world.load_report(customer.account, DAY).await.unwrap().expect("the day has a report")
}

fn corrections(world: &World, customer: &Customer) -> Vec<(String, i64, i64)> {
    let entries = world.charges(customer.account).into_iter();
    let corrections = entries.filter(|(entry, _)| matches!(entry.occasion, Occasion::Correction { .. }));
    corrections.map(|(_, event)| (event.sid, event.units, event.credits.0 / 1_000_000)).collect()
}

fn used(world: &World, customer: &Customer) -> (i64, u64) {
    let allowance = world.allowance(customer.account).unwrap();
    (allowance.free.0 / 1_000_000, allowance.used.0 / 1_000_000)
}

#[tokio::test]
async fn a_day_on_which_all_agrees_costs_few_calls_and_opens_one_key() {
    let (world, customer) = connected(1).await;
    for n in 0..3 {
        sent(&world, &customer, n, 1, Some(1)).await;
    }
    settle(&world);
    compare(&world, &customer).await;
    let costs = [
        ("load_course", 2),
        ("load_credential", 1),
        ("load_keys", 1),
        ("open_key", 1),
        ("load_report", 2),
        ("list_day", 1),
        ("load_charges", 1),
        ("keep_seen", 1),
        ("list_made", 1),
        ("load_seen", 1),
        ("read_record", 4),
        ("save_report", 3),
        ("save_course", 1),
    ];
    let mut calls = called(&world);
    // The next day is looked up only if it is settled.
    assert_eq!(calls.insert("load_report", 2), Some(1));
    assert_eq!(calls, BTreeMap::from(costs));
    assert_eq!(world.openings().last().map(|opening| opening.purpose), Some(Purpose::Send));
    let report = report(&world, &customer).await;
    let tallies = Tallies { same: 3, charged: Change(3_000_000), ..Tallies::default() };
    assert_eq!((report.state, report.tallies.clone()), (State::Agrees, tallies));
    assert_eq!(report.within_records(), None, "Twilio's records say nothing: that is not nought");
    assert_eq!((corrections(&world, &customer), world.jobs()), (Vec::new(), Vec::new()));
    let due = world.routine_due(customer.account, Routine::Reconciliation).unwrap();
    let hours = due.duration_since(world.now()).as_hours();
    assert!((24..30).contains(&hours), "the next day's turn is a day later: {hours}");
}

#[tokio::test]
async fn a_day_is_not_compared_before_it_is_settled() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, Some(2)).await;
    settle(&world);
    world.advance(-fresh::secs(1));
    compare(&world, &customer).await;
    assert_eq!(called(&world), BTreeMap::from([("load_course", 1), ("do_routine_at", 1)]));
    assert_eq!(world.load_report(customer.account, DAY).await, Ok(None));
}

#[tokio::test]
async fn each_planted_sid_is_named_in_its_class_and_small_differences_are_put_right_once() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, Some(1)).await;
    sent(&world, &customer, 2, 1, Some(3)).await;
    sent(&world, &customer, 3, 3, Some(2)).await;
    sent(&world, &customer, 4, 1, None).await;
    at_twilio(&world, &customer, 5, 9);
    settle(&world);
    assert_eq!(used(&world, &customer), (94, 6));
    for _ in 0..3 {
        compare(&world, &customer).await;
    }
    let report = report(&world, &customer).await;
    assert_eq!((report.state, report.posted), (State::Corrected, 2));
    let Tallies { same, different, only_here, only_at_twilio, .. } = report.tallies;
    assert_eq!((same, different, only_here, only_at_twilio), (1, 2, 1, 1));
    assert_eq!((report.tallies.segments, report.tallies.moved.0), (1, 3_000_000));
    assert_eq!((report.only_here, report.only_at_twilio), (vec![sid(4)], vec![sid(5)]));
    let differences = world.list_differences(customer.account, DAY, 0, None, 9).await.unwrap();
    let named: Vec<_> = differences.iter().map(|it| (it.sid.clone(), it.charged, it.listed)).collect();
    assert_eq!(named, [(sid(2), 1, 3), (sid(3), 3, 2)]);
    assert_eq!(corrections(&world, &customer), [(sid(2), 2, 2), (sid(3), -1, -1)]);
    assert_eq!(used(&world, &customer), (93, 7), "foreign traffic costs nothing, and what is missing is kept");
}

#[tokio::test]
async fn above_the_limit_nothing_is_posted_and_the_owner_is_told() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, Some(4)).await;
    sent(&world, &customer, 2, 4, Some(1)).await;
    settle(&world);
    compare(&world, &customer).await;
    let report = report(&world, &customer).await;
    assert_eq!((report.state, report.posted, report.tallies.credits), (State::NeedsDecision, 0, Change::ZERO));
    assert_eq!(corrections(&world, &customer), []);
    let since: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
    let alert = Alert::ReconciliationDiffers { day: DAY };
    assert_eq!(world.take_jobs(Queue::Mail), [Job::Alert { account: customer.account, alert, since }]);
    compare(&world, &customer).await;
    assert_eq!(world.jobs(), [], "once");
}

#[tokio::test]
async fn a_decision_stands_when_the_day_is_looked_at_again() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, Some(9)).await;
    settle(&world);
    compare(&world, &customer).await;
    let kept = report(&world, &customer).await.decided(Decision::Keep).unwrap();
    assert_eq!(world.save_report(customer.account, &kept).await, Ok(true));
    compare(&world, &customer).await;
    assert_eq!((report(&world, &customer).await, corrections(&world, &customer)), (kept, Vec::new()));
}

#[tokio::test]
async fn what_was_sent_on_another_day_belongs_there_and_what_never_was_belongs_here() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, None).await;
    sent(&world, &customer, 2, 1, None).await;
    let account_sid = customer.credential.account_sid.as_str().to_owned();
    let late = world.now() + SignedDuration::from_hours(20);
    for (n, sent) in [(1, Some(late)), (2, None)] {
        let direction = Direction::Outbound;
        world.twilio_has(&account_sid, AtTwilio { sid: sid(n), segments: Some(2), sent, direction });
    }
    settle(&world);
    compare(&world, &customer).await;
    assert_eq!(
        (report(&world, &customer).await.tallies.all(), corrections(&world, &customer)),
        (1, vec![(sid(2), 1, 1)])
    );
    world.advance(SignedDuration::from_hours(24));
    compare(&world, &customer).await;
    let next = world.load_report(customer.account, DAY.tomorrow().unwrap()).await.unwrap().unwrap();
    assert_eq!((next.state, next.tallies.all()), (State::Corrected, 1));
    assert_eq!(corrections(&world, &customer), [(sid(2), 1, 1), (sid(1), 1, 1)], "each once");
}

#[tokio::test]
async fn what_cannot_be_asked_is_unknown_and_tried_again_later_each_time() {
    for (trouble, reason) in [
        (Trouble::Refused, Reason::CredentialRefused),
        (Trouble::Busy, Reason::TwilioBusy),
        (Trouble::NotAllowed, Reason::NotAllowed),
        (Trouble::Unreachable, Reason::TwilioUnreachable),
    ] {
        let (world, customer) = connected(1).await;
        sent(&world, &customer, 1, 1, Some(2)).await;
        settle(&world);
        for mins in [15, 30, 60] {
            world.twilio().trouble_next(trouble);
            compare(&world, &customer).await;
            let unknown = report(&world, &customer).await;
            assert_eq!((unknown.state, unknown.reason), (State::Unknown, Some(reason)), "not nought");
            let due = world.routine_due(customer.account, Routine::Reconciliation).unwrap();
            assert_eq!(due.duration_since(world.now()).as_mins(), mins);
        }
        assert_eq!(corrections(&world, &customer), []);
        compare(&world, &customer).await;
        assert_eq!(report(&world, &customer).await.state, State::Corrected, "{trouble:?}");
    }
}

#[tokio::test]
async fn a_look_up_that_fails_is_not_a_missing_message() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, None).await;
    settle(&world);
    world.twilio().no_trouble_next();
    world.twilio().trouble_next(Trouble::Unreachable);
    compare(&world, &customer).await;
    let unknown = report(&world, &customer).await;
    assert_eq!((unknown.state, unknown.tallies.only_here), (State::Unknown, 0));
    compare(&world, &customer).await;
    let missing = report(&world, &customer).await;
    assert_eq!((missing.state, missing.tallies.only_here), (State::Missing, 1));
}

#[tokio::test]
async fn a_day_that_stays_unknown_for_two_weeks_gives_the_next_one_its_turn() {
    let (world, customer) = connected(1).await;
    settle(&world);
    for days in [0, 13, 1] {
        world.advance(SignedDuration::from_hours(24 * days));
        let before = world.load_course(customer.account).await.unwrap().unwrap();
        assert_eq!(before.day, DAY);
        world.twilio().trouble_next(Trouble::Refused);
        compare(&world, &customer).await;
    }
    assert_eq!(world.load_course(customer.account).await.unwrap().unwrap().day, DAY.tomorrow().unwrap());
    assert_eq!(report(&world, &customer).await.state, State::Unknown);
}

#[tokio::test]
async fn a_list_that_moved_is_begun_anew_and_nothing_counts_twice() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 0, 1, Some(2)).await;
    for n in 1..=u32::from(PAGE) {
        at_twilio(&world, &customer, n, 1);
    }
    settle(&world);
    world.twilio().no_trouble_next();
    world.twilio().trouble_next(Trouble::Rejected(Some(20_001)));
    compare(&world, &customer).await;
    let moved = report(&world, &customer).await;
    assert_eq!((moved.state, moved.reason, moved.tallies.all()), (State::Unknown, Some(Reason::ListMoved), 0));
    compare(&world, &customer).await;
    let whole = report(&world, &customer).await;
    assert_eq!((whole.state, whole.tallies.all()), (State::Corrected, u64::from(PAGE) + 1));
    assert_eq!(corrections(&world, &customer), [(sid(0), 1, 1)]);
}

#[tokio::test]
async fn a_long_day_goes_on_job_by_job() {
    let (world, customer) = connected(1).await;
    let pages = u32::try_from(MOST_STEPS).unwrap() + 2;
    for n in 0..pages * u32::from(PAGE) {
        at_twilio(&world, &customer, n, 1);
    }
    settle(&world);
    compare(&world, &customer).await;
    let running = report(&world, &customer).await;
    let once = u64::try_from(MOST_STEPS).unwrap() * u64::from(PAGE);
    assert_eq!((running.state, running.tallies.only_at_twilio), (State::Running, once));
    assert_eq!(world.take_jobs(QUEUE), job(&customer));
    compare(&world, &customer).await;
    let whole = report(&world, &customer).await;
    assert_eq!(whole.tallies.only_at_twilio, u64::from(pages) * u64::from(PAGE));
    assert_eq!((whole.state, whole.only_at_twilio.len()), (State::Agrees, 200), "it names some and counts all");
}

/// What a whole comparison of these messages comes to.
async fn differing(seed: u64) -> (World, Customer) {
    let (world, customer) = connected(seed).await;
    sent(&world, &customer, 1, 1, Some(2)).await;
    sent(&world, &customer, 2, 2, Some(1)).await;
    sent(&world, &customer, 3, 1, None).await;
    at_twilio(&world, &customer, 4, 1);
    settle(&world);
    (world, customer)
}

async fn check_differing(world: &World, customer: &Customer, what: &str) {
    let report = report(world, customer).await;
    let Tallies { same, different, only_here, only_at_twilio, .. } = report.tallies;
    assert_eq!((same, different, only_here, only_at_twilio), (0, 2, 1, 1), "{what}");
    assert_eq!((report.state, report.posted), (State::Corrected, 2), "{what}");
    let mut posted = corrections(world, customer);
    posted.sort();
    assert_eq!(posted, [(sid(1), 1, 1), (sid(2), -1, -1)], "{what}");
    assert_eq!(used(world, customer), (96, 4), "{what}");
    assert_eq!(world.load_course(customer.account).await.unwrap().unwrap().day, DAY.tomorrow().unwrap(), "{what}");
}

#[tokio::test]
async fn eight_jobs_at_once_count_and_post_once() {
    for seed in 0..20 {
        let (world, customer) = differing(seed).await;
        let jobs = vec![Job::Reconcile { account: customer.account }; 8];
        assert_eq!(handle(&world, SETTLED_AFTER, jobs).await, [Handled::Done; 8]);
        compare(&world, &customer).await;
        check_differing(&world, &customer, &format!("seed {seed}")).await;
    }
}

#[tokio::test]
async fn a_crash_at_any_point_loses_nothing_and_posts_nothing_twice() {
    let mut crashes = 0;
    for polls in 0.. {
        let (world, customer) = differing(3).await;
        let whole = crash_after(polls, handle(&world, SETTLED_AFTER, job(&customer))).is_some();
        compare(&world, &customer).await;
        check_differing(&world, &customer, &format!("after {polls} polls")).await;
        if whole {
            break;
        }
        crashes += 1;
    }
    assert!(crashes > 20, "{crashes}");
}

#[tokio::test]
async fn no_fault_loses_a_day_or_posts_twice() {
    for method in [
        "load_course",
        "load_credential",
        "load_keys",
        "open_key",
        "load_report",
        "load_charges",
        "keep_seen",
        "keep_differences",
        "list_made",
        "load_seen",
        "list_differences",
        "load_gate",
        "post_correction",
        "save_report",
        "save_course",
    ] {
        for lost in [false, true] {
            let (world, customer) = differing(1).await;
            if lost {
                world.lose_answer(method, Fault::transient("no answer"));
            } else {
                world.fail_next(method, Fault::transient("busy"));
            }
            assert_eq!(handle(&world, SETTLED_AFTER, job(&customer)).await, [Handled::Again], "{method}");
            compare(&world, &customer).await;
            check_differing(&world, &customer, method).await;
        }
    }
}

#[tokio::test]
async fn an_alert_that_cannot_be_sent_keeps_the_day_open() {
    let (world, customer) = connected(1).await;
    sent(&world, &customer, 1, 1, Some(9)).await;
    settle(&world);
    world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!(handle(&world, SETTLED_AFTER, job(&customer)).await, [Handled::Again]);
    assert_eq!(report(&world, &customer).await.state, State::Running);
    compare(&world, &customer).await;
    assert_eq!((report(&world, &customer).await.state, world.take_jobs(Queue::Mail).len()), (State::NeedsDecision, 1));
}

#[tokio::test]
async fn what_is_not_connected_is_not_compared_and_another_job_goes_back() {
    let (world, customer) = differing(1).await;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 0).await, Ok(true));
    world.forget_calls();
    compare(&world, &customer).await;
    assert_eq!((called(&world), world.jobs()), (BTreeMap::from([("load_course", 1)]), Vec::new()));
    let wrong = Job::Post { account: customer.account, message: MessageId::from_bits(1) };
    assert_eq!(handle(&world, SETTLED_AFTER, vec![wrong]).await, [Handled::Again]);
}

#[tokio::test]
async fn usage_records_that_may_not_be_read_are_left_unsaid() {
    let (world, customer) = differing(1).await;
    let said = CarrierUsage { count: Some(7), as_of: Some("now".to_owned()), ..CarrierUsage::unsaid("sms-outbound") };
    world.twilio_records(customer.credential.account_sid.as_str(), said.clone());
    // The list, the message that is missing, and the first category are answered; not the second.
    for _ in 0..3 {
        world.twilio().no_trouble_next();
    }
    world.twilio().trouble_next(Trouble::NotAllowed);
    compare(&world, &customer).await;
    let report = report(&world, &customer).await;
    assert_eq!((report.usage[0].clone(), report.usage[1].count, report.within_records()), (said, None, None));
}
