//! `/_local/stripe…`: the pages that stand for Stripe's, and what a person or a test does with the double.
//!
//! Every POST takes JSON or a form. A browser is led on to the next page, a program gets the object as JSON.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

use crate::Inner;
use crate::faults::Kind;
use crate::flows::{self, Card, PRICES};
use crate::rest::Failure;
use crate::state::{StoreError, Tx, at, int, text};

type Double = State<Arc<Inner>>;

pub(crate) fn router(double: Arc<Inner>) -> Router {
    Router::new()
        .route("/_local/stripe", get(overview))
        .route("/_local/stripe/journal", get(journal))
        .route("/_local/stripe/checkout/{id}", get(checkout_page).post(pay_checkout))
        .route("/_local/stripe/checkout/{id}/expire", post(expire_checkout))
        .route("/_local/stripe/checkout/{id}/later", post(end_async))
        .route("/_local/stripe/portal/{id}", get(portal_page).post(use_portal))
        .route("/_local/stripe/invoices/{id}", get(invoice_page).post(pay_invoice))
        .route("/_local/stripe/subscriptions/{id}/end-period", post(end_period))
        .route("/_local/stripe/refunds", post(refund))
        .route("/_local/stripe/disputes", post(dispute))
        .route("/_local/stripe/disputes/{id}/close", post(close_dispute))
        .route("/_local/stripe/fraud-warnings", post(fraud_warning))
        .route("/_local/stripe/events", post(tell))
        .route("/_local/stripe/events/{id}/resend", post(resend))
        .route("/_local/stripe/faults", post(set_fault))
        .with_state(double)
}

/// What cannot be done, and why.
struct Wrong(StatusCode, String);

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self(StatusCode::BAD_REQUEST, failure.message)
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, format!("the double's store failed: {error}"))
    }
}

fn wrong(what: &str) -> Wrong {
    Wrong(StatusCode::BAD_REQUEST, what.to_owned())
}

/// What was posted.
struct Posted {
    fields: Map<String, Value>,
    from_page: bool,
}

impl Posted {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Wrong> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if kind.starts_with("application/x-www-form-urlencoded") {
            let pairs = form_urlencoded::parse(body).map(|(name, value)| (name.into_owned(), value.into()));
            return Ok(Self { fields: pairs.collect(), from_page: true });
        }
        let body = if body.is_empty() { b"{}" } else { body };
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self { fields, from_page: false }),
            _ => Err(wrong("send a JSON object, or a form")),
        }
    }

    fn text(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    fn flag(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| value == &Value::Bool(true) || value == "true")
    }

    fn int(&self, name: &str) -> Option<i64> {
        let value = self.fields.get(name)?;
        value.as_i64().or_else(|| value.as_str()?.parse().ok())
    }

    fn card(&self) -> Result<Card, Wrong> {
        let word = self.text("card");
        let word = if word.is_empty() { "4242" } else { word };
        Card::parse(word).ok_or_else(|| wrong("\"card\" is \"4242\", \"0002\" (declined) or \"later\""))
    }
}

impl Inner {
    /// Something happens; its events go out once it is kept.
    fn act(self: &Arc<Self>, work: impl FnOnce(&Tx<'_>) -> Result<Value, Failure>) -> Result<Json<Value>, Wrong> {
        let done = self.store.change(work);
        self.deliver();
        Ok(Json(done?))
    }

    fn find(&self, kind: &str, id: &str) -> Result<Value, Wrong> {
        let found = self.store.change(|tx| tx.get(kind, id))?;
        found.ok_or_else(|| Wrong(StatusCode::NOT_FOUND, format!("no {kind} {id} here")))
    }
}

type Answer = Result<Json<Value>, Wrong>;

async fn overview(State(double): Double) -> Answer {
    let kinds = ["customer", "checkout.session", "subscription", "invoice", "charge", "refund", "dispute"];
    let mut all = Map::new();
    for kind in kinds {
        all.insert(kind.to_owned(), double.store.change(|tx| tx.list(kind))?.into());
    }
    let events = double.store.change(|tx| tx.list("event"))?;
    let event = |stored: &Value| {
        let event = at(stored, "event");
        let about = at(event, "data/object");
        json!({
            "id": text(event, "id"), "type": text(event, "type"), "object": text(about, "id"),
            "delivered": at(stored, "delivered"), "tries": int(stored, "tries"),
        })
    };
    let prices = PRICES.map(|price| json!({ "id": price.id, "name": price.name, "cents": price.cents }));
    Ok(Json(json!({
        "what": "a double of Stripe on this machine; it is not Stripe, and no money moves",
        "base_url": double.base_url,
        "prices": prices,
        "cards": { "4242": "is paid", "0002": "is declined", "later": "is paid or not later" },
        "objects": all,
        "events": events.iter().map(event).collect::<Vec<_>>(),
        "faults": double.faults.all(),
        "contract_violations": *double.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner),
    })))
}

/// What was paid, given back and reported: against it the ledger can be held.
async fn journal(State(double): Double) -> Answer {
    let list = |kind| double.store.change(|tx| tx.list(kind));
    let payment = |one: &Value| {
        json!({ "id": text(one, "id"), "customer": at(one, "customer"), "amount": int(one, "amount"),
                "refunded": int(one, "amount_refunded"), "disputed": at(one, "disputed") })
    };
    Ok(Json(json!({
        "payments": list("charge")?.iter().map(payment).collect::<Vec<_>>(),
        "meter_events": list("meter_event")?,
    })))
}

async fn pay_checkout(
    State(double): Double,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Wrong> {
    let posted = Posted::read(&headers, &body)?;
    let card = posted.card()?;
    let done = double.store.change(|tx| {
        // A declined card changes nothing of the checkout, but what it did is told.
        match flows::pay_checkout(tx, &id, card) {
            Err(failure) if card == Card::Declined => Ok(Err(failure)),
            done => done.map(Ok),
        }
    });
    double.deliver();
    let session = match done? {
        Ok(session) => session,
        Err(failure) if posted.from_page => return Ok(checkout_html(&double, &id, &failure.message)?.into_response()),
        Err(failure) => return Err(Wrong(StatusCode::PAYMENT_REQUIRED, failure.message)),
    };
    if !posted.from_page {
        return Ok(Json(session).into_response());
    }
    Ok(Redirect::to(&text(&session, "success_url").replace("{CHECKOUT_SESSION_ID}", &id)).into_response())
}

async fn expire_checkout(State(double): Double, Path(id): Path<String>) -> Answer {
    double.act(|tx| flows::expire_checkout(tx, &id))
}

async fn end_async(State(double): Double, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| flows::end_async(tx, &id, posted.flag("paid")))
}

async fn pay_invoice(
    State(double): Double,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Wrong> {
    let posted = Posted::read(&headers, &body)?;
    let card = posted.card()?;
    let invoice = double.act(|tx| flows::pay_invoice(tx, &id, card, posted.flag("last")))?;
    if posted.from_page {
        return Ok(Redirect::to(&format!("/_local/stripe/invoices/{id}")).into_response());
    }
    Ok(invoice.into_response())
}

async fn end_period(State(double): Double, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    let card = posted.card()?;
    double.act(|tx| flows::end_period(tx, &id, card, posted.flag("last")))
}

async fn refund(State(double): Double, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| flows::refund(tx, posted.text("charge"), posted.int("amount"), posted.flag("fails")))
}

async fn dispute(State(double): Double, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| flows::dispute(tx, posted.text("charge"), posted.flag("inquiry")))
}

async fn close_dispute(State(double): Double, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| flows::close_dispute(tx, &id, posted.flag("won")))
}

async fn fraud_warning(State(double): Double, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| flows::fraud_warning(tx, posted.text("charge")))
}

/// An event of any type about an object that is there: what the double does not do by itself, such as a trial's end.
async fn tell(State(double): Double, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    double.act(|tx| {
        let about = flows::existing(tx, posted.text("object"), posted.text("id"), "id")?;
        flows::tell(tx, posted.text("type"), &about, None)?;
        Ok(about)
    })
}

/// The same event once more, now; what it answered counts for nothing.
async fn resend(State(double): Double, Path(id): Path<String>) -> Answer {
    let stored = double.find("event", &id)?;
    let taken = double.post(at(&stored, "event")).await;
    Ok(Json(json!({ "id": id, "taken": taken })))
}

async fn set_fault(State(double): Double, headers: HeaderMap, body: Bytes) -> Answer {
    let posted = Posted::read(&headers, &body)?;
    let kind = posted.fields.get("kind").cloned().unwrap_or_default();
    let kind: Kind = serde_json::from_value(kind).map_err(|_| {
        wrong(
            "\"kind\" is none, 429, lock_timeout, 500, drop, accept_then_drop, slow, event_twice, event_late or \
               event_lost",
        )
    })?;
    let n_times = posted.int("next").and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
    double.faults.plan(kind, n_times.min(1000));
    Ok(Json(json!({ "faults": double.faults.all() })))
}

// -------------------- Pages

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title} (double of Stripe)</title>\
         <body style=\"font-family: sans-serif; max-width: 40em; margin: 3em auto\"><p><em>A double of Stripe on this \
         machine: it is not Stripe, and no money moves.</em></p><h1>{title}</h1>{body}</body></html>"
    ))
}

fn button(fields: &[(&str, &str)], label: &str) -> String {
    let mut html = String::from("<form method=\"post\" style=\"display: inline\">");
    for (name, value) in fields {
        let _ = write!(html, "<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escaped(value));
    }
    let _ = write!(html, "<button>{}</button></form> ", escaped(label));
    html
}

fn dollars(cents: i64) -> String {
    format!("$ {}.{:02}", cents / 100, (cents % 100).abs())
}

async fn checkout_page(State(double): Double, Path(id): Path<String>) -> Result<Html<String>, Wrong> {
    checkout_html(&double, &id, "")
}

fn checkout_html(double: &Inner, id: &str, message: &str) -> Result<Html<String>, Wrong> {
    let session = double.find("checkout.session", id)?;
    let mut body = format!("<p>To pay: <strong>{}</strong></p>", dollars(int(&session, "amount_total")));
    if !message.is_empty() {
        let _ = write!(body, "<p role=\"alert\"><strong>{}</strong></p>", escaped(message));
    }
    if text(&session, "status") == "open" {
        body += &button(&[("card", "4242")], "Pay with test card 4242 4242 4242 4242");
        body += &button(&[("card", "0002")], "Pay with a card that is declined");
        if text(&session, "mode") == "payment" {
            body += &button(&[("card", "later")], "Pay by bank transfer, later");
        }
        let _ = write!(body, "<p><a href=\"{}\">Go back without paying</a></p>", escaped(text(&session, "cancel_url")));
    } else {
        let _ = write!(body, "<p>This checkout is over: {}</p>", escaped(text(&session, "status")));
    }
    Ok(page("Checkout", &body))
}

async fn invoice_page(State(double): Double, Path(id): Path<String>) -> Result<Html<String>, Wrong> {
    let invoice = double.find("invoice", &id)?;
    let mut body = format!(
        "<p>Number {}, {}: <strong>{}</strong></p><ul>",
        escaped(text(&invoice, "number")),
        escaped(text(&invoice, "status")),
        dollars(int(&invoice, "total"))
    );
    for line in at(&invoice, "lines/data").as_array().map_or(&[][..], Vec::as_slice) {
        let name = flows::price(text(line, "description")).map_or("Credits", |price| price.name);
        let _ = write!(body, "<li>{name}: {}</li>", dollars(int(line, "amount")));
    }
    body += "</ul>";
    if text(&invoice, "status") == "open" {
        body += &button(&[("card", "4242")], "Pay with test card 4242 4242 4242 4242");
        body += &button(&[("card", "0002")], "Pay with a card that is declined");
    }
    Ok(page("Invoice and receipt", &body))
}

/// The newest subscription of a portal's customer that has not ended.
fn subscription_of(tx: &Tx<'_>, portal: &Value) -> Result<Option<Value>, StoreError> {
    let mut all = tx.list("subscription")?.into_iter();
    Ok(all.find(|one| text(one, "customer") == text(portal, "customer") && text(one, "status") != "canceled"))
}

async fn portal_page(State(double): Double, Path(id): Path<String>) -> Result<Html<String>, Wrong> {
    let portal = double.find("portal", &id)?;
    let (subscription, invoices) = double.store.change(|tx| {
        let mut invoices = tx.list("invoice")?;
        invoices.retain(|one| text(one, "customer") == text(&portal, "customer"));
        Ok::<_, StoreError>((subscription_of(tx, &portal)?, invoices))
    })?;
    let mut body = String::new();
    match &subscription {
        None => body += "<p>There is no subscription.</p>",
        Some(subscription) => {
            let _ = write!(body, "<p>Your subscription is {}.</p>", escaped(text(subscription, "status")));
            for price in PRICES {
                let label = format!("Change to {}, {} a month", price.name, dollars(price.cents.into()));
                body += &button(&[("action", "plan"), ("price", price.id)], &label);
            }
            if at(subscription, "cancel_at_period_end") == &Value::Bool(true) {
                body += &button(&[("action", "keep")], "Do not cancel");
            } else {
                body += &button(&[("action", "cancel")], "Cancel at the end of the period");
            }
        }
    }
    body += "<h2>Invoices</h2><ul>";
    for invoice in &invoices {
        let (id, number) = (escaped(text(invoice, "id")), escaped(text(invoice, "number")));
        let total = dollars(int(invoice, "total"));
        let _ = write!(body, "<li><a href=\"/_local/stripe/invoices/{id}\">{number}</a>, {total}</li>");
    }
    let back = escaped(text(&portal, "return_url"));
    let _ = write!(body, "</ul><p><a href=\"{back}\">Go back</a></p>");
    Ok(page("Your subscription", &body))
}

async fn use_portal(
    State(double): Double,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Wrong> {
    let posted = Posted::read(&headers, &body)?;
    let portal = double.find("portal", &id)?;
    let done = double.act(|tx| {
        let subscription = subscription_of(tx, &portal)?.ok_or_else(|| Failure::invalid("no subscription", "id"))?;
        match posted.text("action") {
            "plan" => flows::change_price(tx, &subscription, posted.text("price")),
            "cancel" => Ok(flows::cancel_at_period_end(tx, &subscription, true)?),
            "keep" => Ok(flows::cancel_at_period_end(tx, &subscription, false)?),
            _ => Err(Failure::invalid("\"action\" is plan, cancel or keep", "action")),
        }
    })?;
    if posted.from_page {
        return Ok(Redirect::to(&format!("/_local/stripe/portal/{id}")).into_response());
    }
    Ok(done.into_response())
}
