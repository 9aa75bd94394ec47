//! What an event of Stripe's means. Two pure steps: where an event says to look, and what follows from what is found
//! there. An event is only a hint: what it carries may be old, and of two the later may come first, so that the object
//! itself decides, as it is now.

use jiff::SignedDuration;

use super::object::{Charge, CheckoutSession, Dispute, FraudWarning, Invoice, Mode, PaidFor, Refund, TOP_UP};
use super::{Plan, PlanPrices, StripeEvent, StripeId, credits_for};
use crate::account::FreezeReason;
use crate::ledger::{CreditKind, Grant, MicroCredits};

/// Where an event says to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// At a checkout: was something bought?
    Checkout(StripeId),
    /// At an invoice: is it paid?
    Invoice(StripeId),
    /// At a subscription: how does it stand?
    Subscription(StripeId),
    /// At a refund: did it arrive?
    Refund(StripeId),
    /// At a dispute: where is the money?
    Dispute(StripeId),
    /// At a bank's warning: was it fraud?
    FraudWarning(StripeId),
    /// Nowhere; why. Something else says the same, or nothing follows from it here.
    Nowhere(&'static str),
    /// Nothing that a program can do: a person looks.
    Person(&'static str),
    /// A type that this version does not know.
    Unknown,
}

impl Look {
    /// By the event's type, and the kind of object that it has to name.
    pub fn of(event: &StripeEvent) -> Self {
        let id =
            |kind: &str| event.object.as_ref().filter(|object| object.kind == kind).map(|object| object.id.clone());
        let look = |kind: &str, look: fn(StripeId) -> Self| id(kind).map_or(Self::Unknown, look);
        match event.kind.as_str() {
            "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
                look("checkout.session", Self::Checkout)
            }
            "checkout.session.async_payment_failed" => Self::Nowhere("nothing was given before it was paid"),
            "checkout.session.expired" => Self::Nowhere("nobody bought anything"),
            "customer.subscription.created"
            | "customer.subscription.updated"
            | "customer.subscription.deleted"
            | "customer.subscription.paused"
            | "customer.subscription.resumed" => look("subscription", Self::Subscription),
            "customer.subscription.trial_will_end" => Self::Nowhere("its end is told when it comes"),
            "customer.created"
            | "customer.updated"
            | "customer.tax_id.created"
            | "customer.tax_id.updated"
            | "customer.tax_id.deleted" => Self::Nowhere("names and addresses stay at Stripe"),
            "customer.deleted" => Self::Nowhere("its subscriptions end with events of their own"),
            "invoice.paid" => look("invoice", Self::Invoice),
            "invoice.payment_succeeded" => Self::Nowhere("invoice.paid says it, payments outside Stripe too"),
            "invoice.created" | "invoice.finalized" | "invoice.upcoming" => Self::Nowhere("it is not paid yet"),
            "invoice.voided" => Self::Nowhere("nothing was given for it"),
            "invoice.payment_failed" | "invoice.payment_action_required" => {
                Self::Nowhere("the subscription says that it is past due")
            }
            "invoice.finalization_failed" => Self::Person("an invoice could not be made: tax or address"),
            "payment_intent.succeeded" | "payment_intent.payment_failed" | "charge.succeeded" => {
                Self::Nowhere("the checkout or the invoice says it")
            }
            "charge.refunded" => Self::Nowhere("each refund says it for itself"),
            "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
                look("refund", Self::Refund)
            }
            "charge.dispute.created"
            | "charge.dispute.updated"
            | "charge.dispute.closed"
            | "charge.dispute.funds_withdrawn"
            | "charge.dispute.funds_reinstated" => look("dispute", Self::Dispute),
            "radar.early_fraud_warning.created" | "radar.early_fraud_warning.updated" => {
                look("radar.early_fraud_warning", Self::FraudWarning)
            }
            "billing.credit_grant.created" => Self::Nowhere("credits are counted in our own ledger"),
            "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found" => {
                Self::Person("usage that was reported could not be counted")
            }
            _ => Self::Unknown,
        }
    }
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Credits come, once for each source.
    Grant(Grant),
    /// What a payment brought goes again, once for each `by`: the refund or the dispute.
    ClawBack {
        /// The payment's source, as in its grant.
        source: String,
        /// How many.
        credits: MicroCredits,
        /// Stripe's id of the refund or dispute.
        by: String,
    },
    /// The plan is to be read and stored.
    SetPlan(StripeId),
    /// Sending stops.
    Freeze(FreezeReason),
    /// Nothing; why.
    Ignore(&'static str),
}

/// How long included credits stay after their period: the next ones come with an invoice that is final about an hour
/// after the period began, and are paid a little later.
pub const INCLUDED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// A checkout: credits that were bought, once they are paid.
pub fn of_checkout(session: &CheckoutSession) -> Effect {
    match bought(session) {
        Some(grant) if session.payment_status == "paid" => Effect::Grant(grant),
        Some(_) => Effect::Ignore("it is not paid yet"),
        None => Effect::Ignore("its subscription and its invoice say it"),
    }
}

/// The credits that a checkout sells. Tax is not ours, and buys nothing.
fn bought(session: &CheckoutSession) -> Option<Grant> {
    if session.mode != Mode::Payment || session.metadata.kind.as_deref() != Some(TOP_UP) {
        return None;
    }
    let total = session.amount_total.unwrap_or_default();
    let credits = credits_for(total.saturating_sub(session.total_details.amount_tax));
    Some(Grant { source: session.id.to_string(), kind: CreditKind::Purchased, credits, expires: None })
}

/// An invoice: the credits of its plan, once it is paid.
pub fn of_invoice(invoice: &Invoice, prices: &PlanPrices) -> Effect {
    if invoice.subscription().is_none() {
        return Effect::Ignore("it is for a checkout, which says it");
    }
    if invoice.status.as_deref() != Some("paid") {
        return Effect::Ignore("it is not paid");
    }
    included(invoice, prices).map_or(Effect::Ignore("it brings no credits"), Effect::Grant)
}

/// The credits that come with an invoice: of a month all of them, of a change of plan its share, what is given back
/// counted against it.
fn included(invoice: &Invoice, prices: &PlanPrices) -> Option<Grant> {
    let (mut micro, mut expires) = (0_i128, None);
    for line in &invoice.lines.data {
        let Some(plan) = line.price().and_then(|price| prices.plan(price)) else { continue };
        micro += share(plan, line.amount, line.is_proration());
        expires = expires.max(Some(line.period.end + INCLUDED_AFTER));
    }
    let credits = MicroCredits(u64::try_from(micro).ok().filter(|micro| *micro > 0)?);
    Some(Grant { source: invoice.id.to_string(), kind: CreditKind::Included, credits, expires })
}

fn share(plan: &Plan, amount: i64, is_proration: bool) -> i128 {
    let (amount, all, price) = (i128::from(amount), i128::from(plan.included.0), i128::from(plan.cents_a_month));
    match (is_proration, price) {
        // A month of a trial costs nothing, and the trial has its own credits.
        (false, _) if amount > 0 => all,
        (true, 1..) => all * amount / price,
        _ => 0,
    }
}

/// What a payment brought.
fn granted(paid: &PaidFor, prices: &PlanPrices) -> Option<Grant> {
    match paid {
        PaidFor::Checkout(session) => bought(session),
        PaidFor::Invoice(invoice) => included(invoice, prices),
    }
}

/// What of it goes with `cents` of its charge, rounded up: no part of a credit stays that was not paid for.
fn part(grant: &Grant, cents: u64, charge: &Charge) -> MicroCredits {
    let (all, cents, of) = (u128::from(grant.credits.0), u128::from(cents), u128::from(charge.amount.max(1)));
    let part = (all * cents).div_ceil(of).min(all);
    MicroCredits(u64::try_from(part).unwrap_or(grant.credits.0))
}

/// Money that goes back, or did not arrive there. What was paid is granted first, whether or not that was told yet, so
/// that it does not matter which event comes first; each of them counts once.
fn taken_back(
    paid: &PaidFor,
    prices: &PlanPrices,
    charge: &Charge,
    cents: u64,
    by: &StripeId,
    back: bool,
) -> Vec<Effect> {
    let Some(grant) = granted(paid, prices) else { return vec![Effect::Ignore("what it paid brought no credits")] };
    let credits = part(&grant, cents, charge);
    let claw_back = Effect::ClawBack { source: grant.source.clone(), credits, by: by.to_string() };
    let again = back.then(|| Effect::Grant(Grant { source: by.to_string(), credits, ..grant.clone() }));
    [Effect::Grant(grant), claw_back].into_iter().chain(again).collect()
}

/// A refund: its share of the credits goes. If it did not arrive they come again.
pub fn of_refund(refund: &Refund, charge: &Charge, paid: &PaidFor, prices: &PlanPrices) -> Vec<Effect> {
    let failed = matches!(refund.status.as_deref(), Some("failed" | "canceled"));
    taken_back(paid, prices, charge, refund.amount, &refund.id, failed)
}

/// A dispute: its share of the credits goes with the money. If it is won they come again.
pub fn of_dispute(dispute: &Dispute, charge: &Charge, paid: &PaidFor, prices: &PlanPrices) -> Vec<Effect> {
    match dispute.status.as_str() {
        "needs_response" | "under_review" | "lost" => {
            taken_back(paid, prices, charge, dispute.amount, &dispute.id, false)
        }
        "won" => taken_back(paid, prices, charge, dispute.amount, &dispute.id, true),
        _ => vec![Effect::Ignore("no money has moved")],
    }
}

/// A bank's warning that a payment was fraud: nothing more is sent until a person has looked.
pub fn of_fraud_warning(warning: &FraudWarning) -> Effect {
    if warning.actionable {
        Effect::Freeze(FreezeReason::PaymentFraud)
    } else {
        Effect::Ignore("the payment was given back or disputed already")
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn prices() -> PlanPrices {
        PlanPrices::parse("starter=price_s,growth=price_g,scale=price_l").unwrap()
    }

    fn line(price: &str, amount: i64, proration: bool) -> Value {
        json!({
            "amount": amount, "period": { "start": 0, "end": 2_592_000 },
            "parent": { "subscription_item_details": { "proration": proration } },
            "pricing": { "price_details": { "price": price } },
        })
    }

    fn invoice(status: &str, lines: &[Value]) -> Invoice {
        let given = json!({
            "id": "in_1", "status": status, "created": 1, "currency": "usd", "total": 4900, "lines": { "data": lines },
            "parent": { "subscription_details": { "subscription": "sub_1" } },
        });
        serde_json::from_value(given).unwrap()
    }

    fn included_by(lines: &[Value]) -> Option<u64> {
        match of_invoice(&invoice("paid", lines), &prices()) {
            Effect::Grant(grant) => Some(grant.credits.0 / 1_000_000),
            _ => None,
        }
    }

    fn session(status: &str, kind: Option<&str>, total: u64, tax: u64) -> CheckoutSession {
        let given = json!({
            "id": "cs_1", "mode": "payment", "payment_status": status, "amount_total": total, "currency": "usd",
            "total_details": { "amount_tax": tax }, "metadata": { "kind": kind },
        });
        serde_json::from_value(given).unwrap()
    }

    fn charge(amount: u64) -> Charge {
        serde_json::from_value(json!({ "id": "ch_1", "amount": amount })).unwrap()
    }

    fn refund(amount: u64, status: &str) -> Refund {
        serde_json::from_value(json!({ "id": "re_1", "amount": amount, "status": status })).unwrap()
    }

    fn dispute(status: &str) -> Dispute {
        serde_json::from_value(json!({ "id": "du_1", "charge": "ch_1", "amount": 2500, "status": status })).unwrap()
    }

    #[test]
    fn an_invoice_brings_the_months_credits_once_paid_and_until_a_day_after_its_period() {
        let lines = [line("price_g", 4900, false), line("price_of_a_meter", 450, false)];
        let Effect::Grant(grant) = of_invoice(&invoice("paid", &lines), &prices()) else { panic!("credits come") };
        assert_eq!(
            (grant.source.as_str(), grant.kind, grant.credits),
            ("in_1", CreditKind::Included, MicroCredits::whole(6_000))
        );
        assert_eq!(grant.expires, Some(Timestamp::from_second(2_592_000 + 86_400).unwrap()));
        for status in ["draft", "open", "void", "uncollectible"] {
            assert_eq!(of_invoice(&invoice(status, &lines), &prices()), Effect::Ignore("it is not paid"));
        }
        let mut single = invoice("paid", &lines);
        single.parent = None;
        assert!(matches!(of_invoice(&single, &prices()), Effect::Ignore(_)));
    }

    #[test]
    fn a_change_of_plan_brings_the_difference_and_a_smaller_plan_or_a_free_month_nothing() {
        // Half a month of Scale for half a month of Growth: (20,000 - 6,000) / 2.
        assert_eq!(included_by(&[line("price_g", -2450, true), line("price_l", 7450, true)]), Some(7_000));
        assert_eq!(included_by(&[line("price_l", -7450, true), line("price_g", 2450, true)]), None);
        assert_eq!(included_by(&[line("price_g", 0, false)]), None);
        assert_eq!(included_by(&[line("price_of_others", 4900, false)]), None);
        // A month of the new plan that is billed together with what is left of the old one.
        assert_eq!(included_by(&[line("price_g", -2450, true), line("price_l", 14_900, false)]), Some(17_000));
    }

    #[test]
    fn a_top_up_brings_what_was_paid_without_tax_and_nothing_before() {
        let grant = |session: &CheckoutSession| match of_checkout(session) {
            Effect::Grant(grant) => Some((grant.source, grant.kind, grant.credits, grant.expires)),
            _ => None,
        };
        let expected = ("cs_1".to_owned(), CreditKind::Purchased, MicroCredits::whole(2_500), None);
        assert_eq!(grant(&session("paid", Some(TOP_UP), 3025, 525)), Some(expected));
        assert_eq!(grant(&session("unpaid", Some(TOP_UP), 2500, 0)), None);
        assert_eq!(grant(&session("no_payment_required", Some(TOP_UP), 0, 0)), None);
        assert_eq!(grant(&session("paid", None, 2500, 0)), None, "somebody else's checkout");
    }

    #[test]
    fn a_refund_takes_its_share_rounded_up_and_never_more_than_came() {
        let paid = PaidFor::Checkout(session("paid", Some(TOP_UP), 2500, 0));
        for (cents, expected) in [(2500, 2_500_000_000), (500, 500_000_000), (1, 1_000_000), (9_999, 2_500_000_000)] {
            let effects = of_refund(&refund(cents, "succeeded"), &charge(2500), &paid, &prices());
            let [Effect::Grant(grant), Effect::ClawBack { source, credits, by }] = &effects[..] else {
                panic!("{effects:?}")
            };
            assert_eq!((grant.credits, credits.0), (MicroCredits::whole(2_500), expected), "{cents}");
            assert_eq!((source.as_str(), by.as_str()), ("cs_1", "re_1"));
        }
        let third = of_refund(&refund(1, "succeeded"), &charge(3), &paid, &prices());
        assert!(matches!(&third[1], Effect::ClawBack { credits, .. } if credits.0 == 833_333_334), "{third:?}");
        let nothing = PaidFor::Checkout(session("paid", None, 2500, 0));
        assert!(matches!(of_refund(&refund(1, "succeeded"), &charge(3), &nothing, &prices())[..], [Effect::Ignore(_)]));
    }

    #[test]
    fn what_did_not_arrive_or_was_won_comes_again_and_what_is_open_or_lost_does_not() {
        let paid = PaidFor::Checkout(session("paid", Some(TOP_UP), 2500, 0));
        let comes_again = |effects: &[Effect]| match effects {
            [Effect::Grant(_), Effect::ClawBack { by, credits, .. }] => Some((by.clone(), *credits, false)),
            [Effect::Grant(_), Effect::ClawBack { by, credits, .. }, Effect::Grant(again)] => {
                assert_eq!((&again.source, again.credits), (by, *credits));
                Some((by.clone(), *credits, true))
            }
            _ => None,
        };
        let all = MicroCredits::whole(2_500);
        for (status, back) in [("pending", false), ("succeeded", false), ("failed", true), ("canceled", true)] {
            let effects = of_refund(&refund(2500, status), &charge(2500), &paid, &prices());
            assert_eq!(comes_again(&effects), Some(("re_1".to_owned(), all, back)), "{status}");
        }
        for (status, expected) in [
            ("needs_response", Some(false)),
            ("under_review", Some(false)),
            ("lost", Some(false)),
            ("won", Some(true)),
            ("warning_needs_response", None),
            ("warning_closed", None),
            ("prevented", None),
            ("some_future_status", None),
        ] {
            let effects = of_dispute(&dispute(status), &charge(2500), &paid, &prices());
            let expected = expected.map(|back| ("du_1".to_owned(), all, back));
            assert_eq!(comes_again(&effects), expected, "{status}");
        }
    }

    #[test]
    fn an_event_that_names_another_kind_of_object_is_not_followed() {
        let event = json!({
            "id": "evt_1", "object": "event", "type": "invoice.paid", "created": 1,
            "data": { "object": { "id": "cus_1", "object": "customer" } },
        });
        assert_eq!(Look::of(&StripeEvent::read(&event).unwrap()), Look::Unknown);
    }
}
