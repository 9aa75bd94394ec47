//! Every fixture by name, each event twice and in many orders, and what a fault or a crash at any step leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::{Value, json};
use telbuddy::account::LiftFreeze;
use telbuddy::billing::NotAnEvent;
use telbuddy::ids::UserId;
use telbuddy::ledger::MicroCredits;
use telbuddy::testing::setup::called;
use telbuddy::testing::{World, fresh};

use super::*;

const CUSTOMER: &str = "cus_TBq1Zr8LhVnA2k";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/stripe/fixtures");

fn prices() -> PlanPrices {
    PlanPrices::parse("starter=price_s,growth=price_1TBproMonthly,scale=price_l").unwrap()
}

fn id(text: &str) -> StripeId {
    text.parse().unwrap()
}

fn fixture(name: &str) -> Value {
    let text = fs::read_to_string(format!("{FIXTURES}/{name}.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn event(name: &str) -> StripeEvent {
    StripeEvent::read(&fixture(name)).unwrap()
}

/// Puts an event's object at the world's Stripe, as the event shows it.
fn put(world: &World, event: &Value) {
    let object = &event["data"]["object"];
    let stripe = world.stripe();
    match object["object"].as_str().unwrap_or_default() {
        "checkout.session" => stripe.put_session(read(object)),
        "subscription" => stripe.put_subscription(read(object)),
        "invoice" => stripe.put_invoice(read(object), None),
        "charge" => stripe.put_charge(read(object)),
        "refund" => stripe.put_refund(read(object)),
        "dispute" => stripe.put_dispute(read(object)),
        "radar.early_fraud_warning" => stripe.put_warning(read(object)),
        _ => {}
    }
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap()
}

/// An account of 100 credits whose customer is that of the fixtures; the top-up's checkout and its charge are at
/// Stripe.
async fn world_with(seed: u64) -> (World, AccountId) {
    let world = World::new(seed);
    let account = fresh::account(&world, 100).await;
    world.keep_customer(account, &id(CUSTOMER)).await.unwrap();
    put(&world, &fixture("checkout.session.completed.payment_topup"));
    put(&world, &fixture("charge.refunded"));
    world.forget_calls();
    (world, account)
}

async fn told_of(world: &World, event: StripeEvent) -> Handled {
    let handled = handle(world, &prices(), vec![Job::Stripe(event)]).await;
    handled[0]
}

/// What an account has, in words: entries but for those that only move what was used, credits, plan, freeze.
#[derive(Debug, PartialEq, Eq)]
struct State {
    entries: BTreeSet<String>,
    lots: BTreeSet<(String, u64)>,
    free: String,
    plan: Option<String>,
    frozen: bool,
}

async fn state(world: &World, account: AccountId) -> State {
    let purse = world.purse(account).unwrap();
    let used = world.allowance(account).unwrap().used;
    let words = world.entries(account).into_iter().map(|entry| entry.occasion.word());
    let standing = world.load_billing(account).await.unwrap().unwrap().standing;
    State {
        entries: words.filter(|word| !word.starts_with("DRAW") && !word.contains("trial")).collect(),
        lots: purse.drawn(used).lots.iter().map(|lot| (lot.source.clone(), lot.left.0 / 1_000_000)).collect(),
        free: format!("{:?}", world.allowance(account).unwrap().free),
        plan: standing.map(|standing| format!("{:?} {:?}", standing.plan, standing.status)),
        frozen: world.gate(account).unwrap().frozen.is_some(),
    }
}

/// What one fixture does to an account that has nothing yet, in words.
async fn outcome(name: &str) -> String {
    let given = fixture(name);
    let event = match StripeEvent::read(&given) {
        Ok(event) => event,
        Err(error @ (NotAnEvent::NotJson | NotAnEvent::Part(_))) => return format!("no event: {error}"),
    };
    let (world, account) = world_with(1).await;
    put(&world, &given);
    let before = state(&world, account).await;
    assert_eq!(told_of(&world, event.clone()).await, Handled::Done, "{name}");
    let after = state(&world, account).await;
    let mut parts: Vec<String> = after.entries.into_iter().collect();
    parts.extend(after.plan);
    parts.extend(after.frozen.then(|| "frozen".to_owned()));
    match Look::of(&event) {
        Look::Nowhere(why) => parts.push(format!("nothing: {why}")),
        Look::Person(why) => parts.push(format!("a person: {why}")),
        Look::Unknown => parts.push("unknown".to_owned()),
        _ if parts.is_empty() => {
            assert_eq!(before.lots, after.lots);
            parts.push("looked, and nothing".to_owned());
        }
        _ => {}
    }
    parts.join(", ")
}

const TOP_UP: &str = "GRANT#cs_test_a1TBtopupK3pQ7xYw2dCCCCDDDD";

#[tokio::test]
async fn every_fixture_does_what_stands_here_by_its_name() {
    let growth = |status: &str| format!("Some(Growth) {status}");
    let refunded = format!("CLAWBACK#re_3TBs0aK3pQ7xYw2d1r, {TOP_UP}");
    let disputed = format!("CLAWBACK#du_1TBdispute, {TOP_UP}");
    let nothing = |why: &str| format!("nothing: {why}");
    let expected: BTreeMap<&str, String> = BTreeMap::from([
        ("billing.credit_grant.created", nothing("credits are counted in our own ledger")),
        ("charge.dispute.closed.lost", disputed.clone()),
        ("charge.dispute.closed.won", format!("{disputed}, GRANT#du_1TBdispute")),
        ("charge.dispute.created", disputed),
        ("charge.dispute.created.inquiry", "looked, and nothing".to_owned()),
        ("charge.refunded", nothing("each refund says it for itself")),
        ("charge.refunded.partial", nothing("each refund says it for itself")),
        ("checkout.session.async_payment_failed", nothing("nothing was given before it was paid")),
        ("checkout.session.async_payment_succeeded", "GRANT#cs_test_a1TBtopupDelayedEEEEFFFF".to_owned()),
        ("checkout.session.completed.payment_topup", TOP_UP.to_owned()),
        ("checkout.session.completed.payment_unpaid", "looked, and nothing".to_owned()),
        ("checkout.session.completed.subscription", "looked, and nothing".to_owned()),
        ("checkout.session.expired", nothing("nobody bought anything")),
        ("customer.created", nothing("names and addresses stay at Stripe")),
        ("customer.deleted", nothing("its subscriptions end with events of their own")),
        ("customer.subscription.created", growth("Incomplete")),
        ("customer.subscription.deleted", growth("Canceled")),
        ("customer.subscription.deleted.payment_failed", growth("Canceled")),
        ("customer.subscription.paused", growth("Paused")),
        ("customer.subscription.resumed", growth("Active")),
        ("customer.subscription.trial_will_end", nothing("its end is told when it comes")),
        ("customer.subscription.updated.activated", growth("Active")),
        ("customer.subscription.updated.cancel_at_period_end", growth("Active")),
        ("customer.subscription.updated.past_due", growth("PastDue")),
        ("customer.tax_id.created", nothing("names and addresses stay at Stripe")),
        ("customer.tax_id.deleted", nothing("names and addresses stay at Stripe")),
        ("customer.tax_id.updated", nothing("names and addresses stay at Stripe")),
        ("customer.updated", nothing("names and addresses stay at Stripe")),
        // Events come by our webhook only; this one is what another way would bring.
        ("eventbridge-envelope.invoice.paid", "no event: the event's id is missing or does not read".to_owned()),
        ("invoice.created", nothing("it is not paid yet")),
        ("invoice.finalization_failed", "a person: an invoice could not be made: tax or address".to_owned()),
        ("invoice.finalized", nothing("it is not paid yet")),
        ("invoice.paid", "GRANT#in_1TBs0aK3pQ7xYw2dR8".to_owned()),
        ("invoice.payment_action_required", nothing("the subscription says that it is past due")),
        ("invoice.payment_failed", nothing("the subscription says that it is past due")),
        ("invoice.payment_failed.final", nothing("the subscription says that it is past due")),
        ("invoice.payment_succeeded", nothing("invoice.paid says it, payments outside Stripe too")),
        ("invoice.upcoming", nothing("it is not paid yet")),
        ("invoice.voided", nothing("nothing was given for it")),
        ("payment_intent.payment_failed", nothing("the checkout or the invoice says it")),
        ("payment_intent.succeeded", nothing("the checkout or the invoice says it")),
        ("radar.early_fraud_warning.created", "frozen".to_owned()),
        ("refund.created", refunded.clone()),
        ("refund.failed", format!("{refunded}, GRANT#re_3TBs0aK3pQ7xYw2d1r")),
        ("unknown-type", "unknown".to_owned()),
        (
            "v1.billing.meter.error_report_triggered.fetched",
            "a person: usage that was reported could not be counted".to_owned(),
        ),
        (
            "v1.billing.meter.error_report_triggered.thin",
            "a person: usage that was reported could not be counted".to_owned(),
        ),
        (
            "v1.billing.meter.no_meter_found.fetched",
            "a person: usage that was reported could not be counted".to_owned(),
        ),
    ]);
    let (mut there, mut wrong) = (BTreeSet::new(), Vec::new());
    for entry in fs::read_dir(FIXTURES).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        let outcome = outcome(&name).await;
        if expected.get(name.as_str()) != Some(&outcome) {
            wrong.push(format!("{name}: {outcome}"));
        }
        there.insert(name);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(there.iter().map(String::as_str).collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>());
}

/// A story's events and the objects as they are at its end.
fn story(world: &World) -> Vec<StripeEvent> {
    let mut events = Vec::new();
    for name in [
        "checkout.session.completed.subscription",
        "customer.subscription.created",
        "customer.subscription.updated.activated",
        "invoice.paid",
        "invoice.payment_succeeded",
        "checkout.session.completed.payment_topup",
        "customer.subscription.updated.past_due",
        "invoice.payment_failed",
        "charge.refunded.partial",
        "refund.created",
        "charge.dispute.created",
        "charge.dispute.closed.won",
        "customer.subscription.updated.cancel_at_period_end",
        "unknown-type",
    ] {
        put(world, &fixture(name));
        events.push(event(name));
    }
    // The invoice was paid in the end; a part of the top-up was given back, and the dispute is about the rest.
    put(world, &fixture("invoice.paid"));
    for (name, amount) in [("refund.created", 500), ("charge.dispute.closed.won", 2000)] {
        let mut fixture = fixture(name);
        fixture["data"]["object"]["amount"] = amount.into();
        put(world, &fixture);
    }
    events
}

/// The n-th order of some events, each of them twice.
fn order(events: &[StripeEvent], n: u64) -> Vec<StripeEvent> {
    let mut all: Vec<_> = events.iter().chain(events).cloned().collect();
    let mut dice = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for at in (1..all.len()).rev() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(at, usize::try_from(dice >> 33).unwrap() % (at + 1));
    }
    all
}

#[tokio::test]
async fn each_event_twice_and_in_hundreds_of_orders_ends_the_same() {
    let mut first = None;
    for n in 0..300 {
        let (world, account) = world_with(n).await;
        let events = order(&story(&world), n);
        // Some one by one, some in batches, so that they meet each other.
        let size = [1, 3, 10, 28][usize::try_from(n % 4).unwrap()];
        for batch in events.chunks(size) {
            let handled = handle(&world, &prices(), batch.iter().cloned().map(Job::Stripe).collect()).await;
            assert!(handled.iter().all(|one| *one == Handled::Done));
            world.advance(SignedDuration::from_secs(1));
        }
        let state = state(&world, account).await;
        match &first {
            None => {
                let words = ["CLAWBACK#du_1TBdispute", "CLAWBACK#re_3TBs0aK3pQ7xYw2d1r", "GRANT#du_1TBdispute"];
                let more = ["GRANT#in_1TBs0aK3pQ7xYw2dR8", TOP_UP];
                assert_eq!(state.entries, words.into_iter().chain(more).map(str::to_owned).collect());
                // The trial's 100, a month's 6,000, 2,500 bought, 500 given back; the dispute is won.
                let left: u64 = state.lots.iter().map(|(_, left)| left).sum();
                assert_eq!((left, state.plan.as_deref()), (8_100, Some("Some(Growth) Active")));
                first = Some(state);
            }
            Some(first) => assert_eq!(&state, first, "order {n}"),
        }
    }
}

#[tokio::test]
async fn a_fault_at_any_step_is_made_up_for_by_the_repeat() {
    let events = [
        "invoice.paid",
        "charge.dispute.closed.won",
        "customer.subscription.updated.activated",
        "radar.early_fraud_warning.created",
    ];
    let methods = [
        "is_applied",
        "note_applied",
        "find_customer",
        "read_invoice",
        "read_dispute",
        "read_charge",
        "find_paid",
        "read_subscription",
        "read_fraud_warning",
        "load_purse",
        "save_step",
        "load_billing",
        "save_standing",
        "stop_sending",
    ];
    let mut n_struck = 0;
    for name in events {
        let (calm, account) = world_with(1).await;
        put(&calm, &fixture(name));
        told_of(&calm, event(name)).await;
        let wanted = state(&calm, account).await;
        for method in methods {
            for lost in [false, true] {
                let (world, account) = world_with(1).await;
                put(&world, &fixture(name));
                if lost {
                    world.lose_answer(method, Fault::transient("lost"));
                } else {
                    world.fail_next(method, Fault::transient("busy"));
                }
                let handled = told_of(&world, event(name)).await;
                n_struck += u32::from(handled == Handled::Again);
                world.forget_faults();
                assert_eq!(told_of(&world, event(name)).await, Handled::Done, "{name} {method}");
                assert_eq!(state(&world, account).await, wanted, "{name} {method} {lost}");
            }
        }
    }
    assert!(n_struck >= 30, "{n_struck}");
}

#[tokio::test]
async fn an_event_costs_few_calls_and_a_copy_one() {
    let (world, _) = world_with(1).await;
    put(&world, &fixture("invoice.paid"));
    told_of(&world, event("invoice.paid")).await;
    let calls = [
        ("is_applied", 1),
        ("read_invoice", 1),
        ("find_customer", 1),
        ("load_purse", 1),
        ("save_step", 1),
        ("note_applied", 1),
    ];
    let costs = |world: &World| {
        let calls = called(world);
        calls.into_iter().filter(|(method, _)| *method != "random").collect::<BTreeMap<_, _>>()
    };
    assert_eq!(costs(&world), BTreeMap::from(calls));
    world.forget_calls();
    told_of(&world, event("invoice.paid")).await;
    assert_eq!(costs(&world), BTreeMap::from([("is_applied", 1)]));
    world.forget_calls();
    told_of(&world, event("invoice.created")).await;
    assert_eq!(costs(&world), BTreeMap::new());
}

#[tokio::test]
async fn spent_credits_that_are_given_back_are_owed() {
    let (world, account) = world_with(1).await;
    told_of(&world, event("checkout.session.completed.payment_topup")).await;
    world.change_allowance(account, |allowance| {
        let spent = MicroCredits::whole(2_550);
        (allowance.free, allowance.used) = (allowance.free.and(spent.minus()), spent);
    });
    put(&world, &fixture("refund.created"));
    told_of(&world, event("refund.created")).await;
    let allowance = world.allowance(account).unwrap();
    assert_eq!(allowance.free, MicroCredits::whole(2_450).minus(), "100 and 2,500 came, 2,550 went, 2,500 go back");
    assert_eq!(allowance.available(), MicroCredits::ZERO);
}

#[tokio::test]
async fn a_freeze_that_a_person_lifted_does_not_come_again_with_a_late_copy() {
    let (world, account) = world_with(1).await;
    put(&world, &fixture("radar.early_fraud_warning.created"));
    told_of(&world, event("radar.early_fraud_warning.created")).await;
    let freeze = world.gate(account).unwrap().frozen.unwrap();
    assert_eq!(freeze.reason, FreezeReason::PaymentFraud);
    let alert = Alert::SendingFrozen { reason: FreezeReason::PaymentFraud };
    assert_eq!(world.take_jobs(Queue::Mail), [Job::Alert { account, alert, since: freeze.since }]);
    world.lift_freeze(account, freeze.since, UserId::from_bits(1), world.now()).await.unwrap();
    told_of(&world, event("radar.early_fraud_warning.created")).await;
    assert_eq!((world.gate(account).unwrap().frozen, world.jobs()), (None, vec![]));
}

#[tokio::test]
async fn what_is_nobodys_here_or_not_there_any_more_changes_nothing() {
    let world = World::new(1);
    let account = fresh::account(&world, 100).await;
    put(&world, &fixture("invoice.paid"));
    let entries = world.entries(account).len();
    assert_eq!(told_of(&world, event("invoice.paid")).await, Handled::Done);
    assert_eq!(told_of(&world, event("refund.created")).await, Handled::Done);
    assert_eq!(world.entries(account).len(), entries);
    // The account has gone, its customer is still known: a late event is answered and no one else's.
    let gone = AccountId::from_bits(5);
    world.keep_customer(gone, &id(CUSTOMER)).await.unwrap();
    let mut late = event("invoice.paid");
    late.id = id("evt_late");
    assert_eq!(told_of(&world, late).await, Handled::Done);
    assert_eq!(world.entries(account).len(), entries);
}

#[tokio::test]
async fn an_older_reading_is_never_stored_over_a_newer_one() {
    let prices = prices();
    for seed in 0..50 {
        let (world, account) = world_with(seed).await;
        put(&world, &fixture("customer.subscription.created"));
        let created = handle(&world, &prices, vec![Job::Stripe(event("customer.subscription.created"))]);
        let moves = async {
            put(&world, &fixture("customer.subscription.deleted"));
            handle(&world, &prices, vec![Job::Stripe(event("customer.subscription.deleted"))]).await
        };
        futures::future::join(created, moves).await;
        let plan = state(&world, account).await.plan;
        assert_eq!(plan.as_deref(), Some("Some(Growth) Canceled"), "{seed}");
    }
}

#[tokio::test]
async fn a_job_of_another_queue_goes_back() {
    let (world, _) = world_with(1).await;
    let job = Job::SelfTest { account: AccountId::from_bits(1) };
    assert_eq!(handle(&world, &prices(), vec![job]).await, [Handled::Again]);
    let job = serde_json::to_value(Job::Stripe(event("invoice.paid"))).unwrap();
    assert_eq!((&job["job"], &job["customer"]), (&json!("stripe"), &json!(CUSTOMER)));
}
