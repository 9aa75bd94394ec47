//! What happens at Stripe: objects, and the events that tell of them.

use serde_json::{Value, json};

use crate::rest::Failure;
use crate::state::{StoreError, Tx, at, differing, int, new_id, now_secs, text, with};

/// A price that the double sells.
#[derive(Debug, Clone, Copy)]
pub struct Price {
    /// Its id.
    pub id: &'static str,
    /// What its product is called.
    pub name: &'static str,
    /// A month of it, in cents.
    pub cents: u32,
}

/// What is sold, as a person would have set it up at Stripe.
pub const PRICES: [Price; 3] = [
    Price { id: "price_localStarterMonthly", name: "Starter", cents: 1900 },
    Price { id: "price_localGrowthMonthly", name: "Growth", cents: 4900 },
    Price { id: "price_localScaleMonthly", name: "Scale", cents: 14_900 },
];

const MONTH_SECS: i64 = 30 * 24 * 3600;

/// How a test card behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Card {
    /// 4242…: it is paid.
    Good,
    /// …0002: it is declined.
    Declined,
    /// Not a card: paid or not some days later.
    Later,
}

impl Card {
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "4242" => Some(Self::Good),
            "0002" => Some(Self::Declined),
            "later" => Some(Self::Later),
            _ => None,
        }
    }
}

macro_rules! template {
    ($name:literal) => {
        include_str!(concat!("../templates/", $name, ".json"))
    };
}

/// An object of Stripe's with every field, a new id and the changes.
pub(crate) fn made(object: &str, prefix: &str, changes: Value) -> Result<Value, StoreError> {
    let template = match object {
        "customer" => template!("customer"),
        "checkout.session" => template!("checkout.session"),
        "subscription" => template!("subscription"),
        "invoice" => template!("invoice"),
        "payment_intent" => template!("payment_intent"),
        "charge" => template!("charge"),
        "refund" => template!("refund"),
        "dispute" => template!("dispute"),
        _ => template!("radar.early_fraud_warning"),
    };
    let template = with(serde_json::from_str(template)?, json!({ "id": new_id(prefix), "created": now_secs() }));
    Ok(with(template, changes))
}

/// Tells of an object: the event is delivered once the change is kept.
pub(crate) fn tell(tx: &Tx<'_>, kind: &str, object: &Value, before: Option<&Value>) -> Result<(), StoreError> {
    let id = new_id("evt");
    let mut data = json!({ "object": object });
    if let Some(before) = before {
        data = with(data, json!({ "previous_attributes": differing(before, object) }));
    }
    let version = crate::contract::contract().map(|contract| contract.version.as_str()).unwrap_or_default();
    let event = json!({
        "id": id, "object": "event", "api_version": version, "created": now_secs(), "data": data, "livemode": false,
        "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null }, "type": kind,
    });
    tx.put("event", json!({ "id": id, "event": event, "delivered": null, "tries": 0 }))?;
    Ok(())
}

/// Keeps a change of an object, and tells of it.
fn changed(tx: &Tx<'_>, event: &str, before: &Value, changes: Value) -> Result<Value, StoreError> {
    let after = tx.put(text(before, "object"), with(before.clone(), changes))?;
    tell(tx, event, &after, Some(before))?;
    Ok(after)
}

pub(crate) fn price(id: &str) -> Option<Price> {
    PRICES.into_iter().find(|price| price.id == id)
}

/// An object that has to be there.
pub(crate) fn existing(tx: &Tx<'_>, object: &str, id: &str, param: &str) -> Result<Value, Failure> {
    tx.get(object, id)?.ok_or_else(|| Failure::missing(object, id, param))
}

/// Pays: payment, charge, and their events. `None` if the card was declined.
fn paid(tx: &Tx<'_>, of: &Value, amount: i64, metadata: &Value, card: Card) -> Result<Option<Value>, StoreError> {
    let customer = at(of, "customer");
    let base = json!({ "amount": amount, "customer": customer, "metadata": metadata, "description": null });
    let intent = made("payment_intent", "pi", base.clone())?;
    if card == Card::Declined {
        let error = json!({ "type": "card_error", "code": "card_declined", "decline_code": "generic_decline" });
        let failed = json!({
            "status": "requires_payment_method", "amount_received": 0, "latest_charge": null,
            "last_payment_error": error,
        });
        let intent = tx.put("payment_intent", with(intent, failed))?;
        tell(tx, "payment_intent.payment_failed", &intent, None)?;
        return Ok(None);
    }
    let more = json!({ "payment_intent": text(&intent, "id"), "amount_captured": amount });
    let charge = tx.put("charge", with(made("charge", "ch", base)?, more))?;
    let done = json!({ "amount_received": amount, "latest_charge": text(&charge, "id") });
    let intent = tx.put("payment_intent", with(intent, done))?;
    tell(tx, "charge.succeeded", &charge, None)?;
    tell(tx, "payment_intent.succeeded", &intent, None)?;
    Ok(Some(intent))
}

/// One line of an invoice.
struct Line<'a> {
    price: &'a str,
    amount: i64,
    proration: bool,
    period: (i64, i64),
}

/// An invoice that is final and open, with its events. It has no lines for single payments but one of an unnamed price.
fn invoice(tx: &Tx<'_>, of: &Value, reason: &str, lines: &[Line<'_>]) -> Result<Value, StoreError> {
    let id = new_id("in");
    let total: i64 = lines.iter().map(|line| line.amount).sum();
    let subscription = (text(of, "object") == "subscription").then(|| text(of, "id"));
    let line = |line: &Line<'_>| {
        let item = subscription.map(|subscription| {
            json!({
                "invoice_item": null, "proration": line.proration, "proration_details": { "credited_items": null },
                "subscription": subscription,
                "subscription_item": text(at(of, "items/data").get(0).unwrap_or(of), "id"),
            })
        });
        let kind = if item.is_some() { "subscription_item_details" } else { "invoice_item_details" };
        let single = item.is_none().then(|| {
            json!({ "invoice_item": new_id("ii"), "proration": false, "proration_details": null, "subscription": null })
        });
        json!({
            "id": new_id("il"), "object": "line_item", "amount": line.amount, "currency": "usd",
            "description": line.price,
            "discount_amounts": [], "discountable": true, "discounts": [], "invoice": id, "livemode": false,
            "metadata": {},
            "parent": { "type": kind, "subscription_item_details": item, "invoice_item_details": single },
            "period": { "start": line.period.0, "end": line.period.1 }, "pretax_credit_amounts": [],
            "pricing": {
                "type": "price_details", "unit_amount_decimal": line.amount.to_string(),
                "price_details": { "price": line.price, "product": "prod_local" },
            },
            "quantity": 1, "quantity_decimal": "1", "subscription": subscription, "subtotal": line.amount, "taxes": [],
        })
    };
    let parent = subscription.map(|subscription| {
        let details = json!({ "metadata": at(of, "metadata"), "subscription": subscription });
        json!({ "type": "subscription_details", "quote_details": null, "subscription_details": details })
    });
    let page = format!("{}/_local/stripe/invoices/{id}", text(&tx.get("setting", "site")?.unwrap_or_default(), "url"));
    let n_before = tx.list("invoice")?.len();
    let draft = json!({
        "id": id, "customer": at(of, "customer"), "billing_reason": reason, "status": "draft", "parent": parent,
        "number": null, "attempted": false, "attempt_count": 0, "amount_due": total, "amount_paid": 0,
        "amount_remaining": total, "subtotal": total, "subtotal_excluding_tax": total, "total": total,
        "total_excluding_tax": total, "hosted_invoice_url": null, "invoice_pdf": null, "effective_at": null,
        "lines": { "data": lines.iter().map(line).collect::<Vec<_>>(), "url": format!("/v1/invoices/{id}/lines") },
        "status_transitions": { "finalized_at": null, "paid_at": null },
    });
    let draft = tx.put("invoice", made("invoice", "in", draft)?)?;
    tell(tx, "invoice.created", &draft, None)?;
    let open = json!({
        "status": "open", "number": format!("LOCAL-{:04}", n_before + 1), "hosted_invoice_url": page,
        "invoice_pdf": format!("{page}?as=pdf"), "effective_at": now_secs(),
        "status_transitions": { "finalized_at": now_secs() },
    });
    changed(tx, "invoice.finalized", &draft, open)
}

/// Tries to pay an invoice; it, and whether it is paid.
fn collect(tx: &Tx<'_>, invoice: &Value, card: Card, last: bool) -> Result<(Value, bool), StoreError> {
    let (amount, tries) = (int(invoice, "amount_remaining"), int(invoice, "attempt_count") + 1);
    let intent = if amount > 0 { paid(tx, invoice, amount, &json!({}), card)? } else { Some(Value::Null) };
    let Some(intent) = intent else {
        let next = (!last).then(|| now_secs() + 3 * 24 * 3600);
        let changes = json!({ "attempted": true, "attempt_count": tries, "next_payment_attempt": next });
        return Ok((changed(tx, "invoice.payment_failed", invoice, changes)?, false));
    };
    Ok((settled(tx, invoice, &intent, tries)?, true))
}

/// An invoice is paid by a payment.
fn settled(tx: &Tx<'_>, invoice: &Value, intent: &Value, tries: i64) -> Result<Value, StoreError> {
    let total = int(invoice, "total").max(0);
    if !intent.is_null() {
        let payment = json!({
            "id": new_id("inpay"), "object": "invoice_payment", "amount_paid": total, "amount_requested": total,
            "created": now_secs(), "currency": "usd", "invoice": text(invoice, "id"), "is_default": true,
            "livemode": false,
            "payment": { "type": "payment_intent", "payment_intent": text(intent, "id") }, "status": "paid",
            "status_transitions": { "canceled_at": null, "paid_at": now_secs() },
        });
        tx.put("invoice_payment", payment)?;
    }
    let paid = json!({
        "status": "paid", "attempted": true, "attempt_count": tries, "amount_paid": total, "amount_remaining": 0,
        "next_payment_attempt": null, "status_transitions": { "paid_at": now_secs() },
    });
    let invoice = changed(tx, "invoice.paid", invoice, paid)?;
    tell(tx, "invoice.payment_succeeded", &invoice, None)?;
    Ok(invoice)
}

/// A customer goes through a checkout's page.
pub(crate) fn pay_checkout(tx: &Tx<'_>, id: &str, card: Card) -> Result<Value, Failure> {
    let session = existing(tx, "checkout.session", id, "id")?;
    if text(&session, "status") != "open" {
        return Err(Failure::invalid("this checkout is over", "id"));
    }
    if text(&session, "mode") == "subscription" { subscribe(tx, &session, card) } else { top_up(tx, &session, card) }
}

fn top_up(tx: &Tx<'_>, session: &Value, card: Card) -> Result<Value, Failure> {
    let amount = int(session, "amount_total");
    let metadata = at(session, "metadata");
    if card == Card::Later {
        return Ok(changed(tx, "checkout.session.completed", session, json!({ "status": "complete", "url": null }))?);
    }
    let Some(intent) = paid(tx, session, amount, metadata, card)? else {
        return Err(Failure::declined());
    };
    let now = now_secs();
    let line = Line { price: "price_localOnce", amount, proration: false, period: (now, now) };
    let invoice = invoice(tx, session, "manual", &[line])?;
    let invoice = settled(tx, &invoice, &intent, 1)?;
    let event = match text(session, "status") {
        "open" => "checkout.session.completed",
        _ => "checkout.session.async_payment_succeeded",
    };
    let done = json!({
        "status": "complete", "payment_status": "paid", "url": null, "payment_intent": text(&intent, "id"),
        "invoice": text(&invoice, "id"),
    });
    Ok(changed(tx, event, session, done)?)
}

/// What was to be paid later is paid, or is not.
pub(crate) fn end_async(tx: &Tx<'_>, id: &str, good: bool) -> Result<Value, Failure> {
    let session = existing(tx, "checkout.session", id, "id")?;
    if text(&session, "status") != "complete" || text(&session, "payment_status") != "unpaid" {
        return Err(Failure::invalid("nothing is to be paid later in this checkout", "id"));
    }
    if good {
        return top_up(tx, &session, Card::Good);
    }
    tell(tx, "checkout.session.async_payment_failed", &session, None)?;
    Ok(session)
}

/// Nobody went through a checkout's page in time.
pub(crate) fn expire_checkout(tx: &Tx<'_>, id: &str) -> Result<Value, Failure> {
    let session = existing(tx, "checkout.session", id, "id")?;
    Ok(changed(tx, "checkout.session.expired", &session, json!({ "status": "expired", "url": null }))?)
}

fn subscribe(tx: &Tx<'_>, session: &Value, card: Card) -> Result<Value, Failure> {
    let asked = tx.get("asked", text(session, "id"))?.unwrap_or_default();
    let price_id = text(&asked, "price").to_owned();
    if card != Card::Good {
        let amount = int(session, "amount_total");
        paid(tx, session, amount, &json!({}), Card::Declined)?;
        return Err(Failure::declined());
    }
    let now = now_secs();
    let (id, item) = (new_id("sub"), new_id("si"));
    let items = json!({ "data": [subscription_item(&id, &item, &price_id, now)?], "url": "/v1/subscription_items" });
    let subscription = json!({
        "id": id, "customer": at(session, "customer"), "status": "incomplete", "items": items, "start_date": now,
        "billing_cycle_anchor": now, "metadata": at(&asked, "metadata"), "latest_invoice": null,
    });
    let subscription = tx.put("subscription", made("subscription", "sub", subscription)?)?;
    tell(tx, "customer.subscription.created", &subscription, None)?;
    let amount = price(&price_id).map_or(0, |price| i64::from(price.cents));
    let line = Line { price: &price_id, amount, proration: false, period: (now, now + MONTH_SECS) };
    let invoice = invoice(tx, &subscription, "subscription_create", &[line])?;
    let (invoice, _) = collect(tx, &invoice, card, false)?;
    let active = json!({ "status": "active", "latest_invoice": text(&invoice, "id") });
    changed(tx, "customer.subscription.updated", &subscription, active)?;
    let done = json!({
        "status": "complete", "payment_status": "paid", "url": null, "subscription": id,
        "invoice": text(&invoice, "id"),
    });
    Ok(changed(tx, "checkout.session.completed", session, done)?)
}

/// An item of a subscription, made of the one in the template.
fn subscription_item(subscription: &str, id: &str, price_id: &str, start: i64) -> Result<Value, StoreError> {
    let template = made("subscription", "sub", json!({}))?;
    let item = at(&template, "items/data").get(0).cloned().unwrap_or_default();
    let Price { name, cents, .. } = price(price_id).unwrap_or(Price { id: "", name: "", cents: 0 });
    let word = name.to_lowercase();
    let both = json!({ "id": price_id, "metadata": { "plan": word }, "nickname": name, "product": "prod_local" });
    let plan = with(both.clone(), json!({ "amount": cents, "amount_decimal": cents.to_string() }));
    let price = json!({ "unit_amount": cents, "unit_amount_decimal": cents.to_string(), "lookup_key": word });
    let changes = json!({
        "id": id, "subscription": subscription, "created": start, "current_period_start": start,
        "current_period_end": start + MONTH_SECS, "plan": plan, "price": with(both, price),
    });
    Ok(with(item, changes))
}

fn item_of(subscription: &Value) -> &Value {
    at(subscription, "items/data").get(0).unwrap_or(&Value::Null)
}

/// A period ends: the next one begins and is billed, or the subscription ends with it.
pub(crate) fn end_period(tx: &Tx<'_>, id: &str, card: Card, last: bool) -> Result<Value, Failure> {
    let subscription = existing(tx, "subscription", id, "id")?;
    if at(&subscription, "cancel_at_period_end") == &Value::Bool(true) {
        return Ok(cancel(tx, &subscription, "cancellation_requested")?);
    }
    if !matches!(text(&subscription, "status"), "active" | "past_due" | "trialing") {
        return Err(Failure::invalid("a subscription of this status has no further period", "id"));
    }
    let item = item_of(&subscription);
    let (price_id, start) = (text(at(item, "price"), "id").to_owned(), int(item, "current_period_end"));
    let amount = price(&price_id).map_or(0, |price| i64::from(price.cents));
    let line = Line { price: &price_id, amount, proration: false, period: (start, start + MONTH_SECS) };
    let invoice = invoice(tx, &subscription, "subscription_cycle", &[line])?;
    let next = subscription_item(id, text(item, "id"), &price_id, start)?;
    let moved = json!({ "items": { "data": [next] }, "latest_invoice": text(&invoice, "id") });
    let subscription = changed(tx, "customer.subscription.updated", &subscription, moved)?;
    collect_for(tx, &subscription, &invoice, card, last)
}

/// Tries to pay a subscription's invoice, and moves the subscription's status by what came of it.
fn collect_for(tx: &Tx<'_>, of: &Value, invoice: &Value, card: Card, last: bool) -> Result<Value, Failure> {
    let (_, paid) = collect(tx, invoice, card, last)?;
    let status = if paid { "active" } else { "past_due" };
    if !paid && last {
        return Ok(cancel(tx, of, "payment_failed")?);
    }
    if text(of, "status") == status {
        return Ok(of.clone());
    }
    Ok(changed(tx, "customer.subscription.updated", of, json!({ "status": status }))?)
}

/// An open invoice is tried (again), by its page or by Stripe's own schedule.
pub(crate) fn pay_invoice(tx: &Tx<'_>, id: &str, card: Card, last: bool) -> Result<Value, Failure> {
    let invoice = existing(tx, "invoice", id, "id")?;
    if text(&invoice, "status") != "open" {
        return Err(Failure::invalid("this invoice is not open", "id"));
    }
    let subscription = text(at(&invoice, "parent/subscription_details"), "subscription");
    match tx.get("subscription", subscription)? {
        Some(subscription) => {
            collect_for(tx, &subscription, &invoice, card, last)?;
        }
        None => {
            collect(tx, &invoice, card, last)?;
        }
    }
    existing(tx, "invoice", id, "id")
}

/// A subscription ends now.
pub(crate) fn cancel(tx: &Tx<'_>, subscription: &Value, reason: &str) -> Result<Value, StoreError> {
    if text(subscription, "status") == "canceled" {
        return Ok(subscription.clone());
    }
    let now = now_secs();
    let ended = json!({
        "status": "canceled", "canceled_at": now, "ended_at": now, "cancellation_details": { "reason": reason },
    });
    let ended = tx.put("subscription", with(subscription.clone(), ended))?;
    tell(tx, "customer.subscription.deleted", &ended, None)?;
    Ok(ended)
}

/// Another price for the item: what is left of the period is given back, and billed anew, at once.
pub(crate) fn change_price(tx: &Tx<'_>, subscription: &Value, price_id: &str) -> Result<Value, Failure> {
    let new = price(price_id).ok_or_else(|| Failure::missing("price", price_id, "items[0][price]"))?;
    let item = item_of(subscription);
    let (start, end) = (int(item, "current_period_start"), int(item, "current_period_end"));
    let old_id = text(at(item, "price"), "id").to_owned();
    let old = price(&old_id).map_or(0, |price| i64::from(price.cents));
    let left = |cents: i64| cents * (end - now_secs()).clamp(0, MONTH_SECS) / MONTH_SECS;
    let period = (now_secs(), end);
    let lines = [
        Line { price: &old_id, amount: -left(old), proration: true, period },
        Line { price: price_id, amount: left(i64::from(new.cents)), proration: true, period },
    ];
    let item = subscription_item(text(subscription, "id"), text(item, "id"), price_id, start)?;
    let item = with(item, json!({ "current_period_end": end }));
    let moved = changed(tx, "customer.subscription.updated", subscription, json!({ "items": { "data": [item] } }))?;
    let invoice = invoice(tx, &moved, "subscription_update", &lines)?;
    collect(tx, &invoice, Card::Good, false)?;
    Ok(moved)
}

/// Whether it ends with its period.
pub(crate) fn cancel_at_period_end(tx: &Tx<'_>, subscription: &Value, ends: bool) -> Result<Value, StoreError> {
    let end = int(item_of(subscription), "current_period_end");
    let (at, canceled) = if ends { (json!(end), json!(now_secs())) } else { (Value::Null, Value::Null) };
    let changes = json!({ "cancel_at_period_end": ends, "cancel_at": at, "canceled_at": canceled });
    changed(tx, "customer.subscription.updated", subscription, changes)
}

/// Paused, or goes on.
pub(crate) fn pause(tx: &Tx<'_>, subscription: &Value, paused: bool) -> Result<Value, StoreError> {
    let (status, event) = if paused { ("paused", "paused") } else { ("active", "resumed") };
    changed(tx, &format!("customer.subscription.{event}"), subscription, json!({ "status": status }))
}

/// Money goes back. `fails`: it did not arrive.
pub(crate) fn refund(tx: &Tx<'_>, charge_id: &str, amount: Option<i64>, fails: bool) -> Result<Value, Failure> {
    let charge = existing(tx, "charge", charge_id, "charge")?;
    let left = int(&charge, "amount") - int(&charge, "amount_refunded");
    let amount = amount.unwrap_or(left);
    if amount <= 0 || amount > left {
        return Err(Failure::invalid("more than what is left of the charge", "amount"));
    }
    let intent = text(&charge, "payment_intent");
    let made = made("refund", "re", json!({ "charge": charge_id, "payment_intent": intent, "amount": amount }))?;
    let refund = tx.put("refund", made)?;
    tell(tx, "refund.created", &refund, None)?;
    let given = int(&charge, "amount_refunded") + amount;
    let all = json!({ "amount_refunded": given, "refunded": given == int(&charge, "amount") });
    let charge = changed(tx, "charge.refunded", &charge, all)?;
    if !fails {
        return Ok(refund);
    }
    let back = json!({ "amount_refunded": given - amount, "refunded": false });
    tx.put("charge", with(charge, back))?;
    let failed = json!({ "status": "failed", "failure_reason": "expired_or_canceled_card" });
    Ok(changed(tx, "refund.failed", &refund, failed)?)
}

/// The holder of a card disputes a charge.
pub(crate) fn dispute(tx: &Tx<'_>, charge_id: &str, inquiry: bool) -> Result<Value, Failure> {
    let charge = existing(tx, "charge", charge_id, "charge")?;
    let status = if inquiry { "warning_needs_response" } else { "needs_response" };
    let about = json!({
        "charge": charge_id, "payment_intent": text(&charge, "payment_intent"), "amount": int(&charge, "amount"),
        "status": status,
    });
    let dispute = tx.put("dispute", made("dispute", "du", about)?)?;
    tx.put("charge", with(charge, json!({ "disputed": true })))?;
    tell(tx, "charge.dispute.created", &dispute, None)?;
    Ok(dispute)
}

/// A dispute ends.
pub(crate) fn close_dispute(tx: &Tx<'_>, id: &str, won: bool) -> Result<Value, Failure> {
    let dispute = existing(tx, "dispute", id, "id")?;
    let status = match (text(&dispute, "status").starts_with("warning_"), won) {
        (true, _) => "warning_closed",
        (false, true) => "won",
        (false, false) => "lost",
    };
    Ok(changed(tx, "charge.dispute.closed", &dispute, json!({ "status": status }))?)
}

/// A bank says that a charge was fraud.
pub(crate) fn fraud_warning(tx: &Tx<'_>, charge_id: &str) -> Result<Value, Failure> {
    let charge = existing(tx, "charge", charge_id, "charge")?;
    let about = json!({ "charge": charge_id, "payment_intent": text(&charge, "payment_intent") });
    let warning = tx.put("radar.early_fraud_warning", made("radar.early_fraud_warning", "issfr", about)?)?;
    tell(tx, "radar.early_fraud_warning.created", &warning, None)?;
    Ok(warning)
}
