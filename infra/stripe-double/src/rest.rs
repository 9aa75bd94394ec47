//! The REST API: who asks, in which version, whether it fits, whether it was asked before, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::Inner;
use crate::contract::{Misfit, Operation, Route, contract};
use crate::faults::Kind;
use crate::flows;
use crate::state::{StoreError, Tx, at, int, new_id, now_secs, text, with};

/// What Stripe would refuse.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u16,
    kind: &'static str,
    code: &'static str,
    param: String,
    pub message: String,
}

impl Failure {
    fn new(status: u16, kind: &'static str, code: &'static str, param: &str, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: param.to_owned(), message: message.into() }
    }

    pub(crate) fn missing(object: &str, id: &str, param: &str) -> Self {
        let message = format!("No such {object}: '{id}'");
        Self::new(404, "invalid_request_error", "resource_missing", param, message)
    }

    pub(crate) fn invalid(message: &str, param: &str) -> Self {
        Self::new(400, "invalid_request_error", "parameter_invalid", param, message)
    }

    pub(crate) fn declined() -> Self {
        Self::new(402, "card_error", "card_declined", "", "Your card was declined.")
    }

    fn misfit(misfit: &Misfit) -> Self {
        Self::new(400, "invalid_request_error", misfit.code, &misfit.param, &*misfit.message)
    }

    fn body(&self) -> Value {
        let mut error = json!({ "type": self.kind, "message": self.message });
        for (name, value) in [("code", self.code), ("param", &self.param)] {
            if !value.is_empty() {
                error = with(error, json!({ name: value }));
            }
        }
        json!({ "error": error })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(500, "api_error", "", "", format!("the double's store failed: {error}"))
    }
}

/// Any request to the API.
pub(crate) async fn serve(
    State(double): State<Arc<Inner>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let fault = double.faults.strike(Kind::OF_REQUESTS);
    match fault {
        Some(Kind::TooMany) => return failed(429, "rate_limit_error", ""),
        Some(Kind::LockTimeout) => return failed(429, "invalid_request_error", "lock_timeout"),
        Some(Kind::Broken) => return failed(500, "api_error", ""),
        Some(Kind::Drop) => return dropped(),
        Some(Kind::Slow) => tokio::time::sleep(Duration::from_secs(12)).await,
        _ => {}
    }
    let text = if method == Method::POST { String::from_utf8_lossy(&body).into_owned() } else { query(&uri) };
    let (status, answer, replayed) = double.answer(&method, uri.path(), &headers, &text);
    double.deliver();
    // It took place, and nobody learns of it.
    if fault == Some(Kind::AcceptThenDrop) {
        return dropped();
    }
    let mut response = reply(status, &answer);
    if replayed {
        response.headers_mut().insert("idempotent-replayed", header::HeaderValue::from_static("true"));
    }
    response
}

fn query(uri: &Uri) -> String {
    uri.query().unwrap_or_default().to_owned()
}

fn reply(status: u16, answer: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned())];
    let mut response = (status, headers, answer.to_string()).into_response();
    if let Ok(id) = header::HeaderValue::from_str(&new_id("req")) {
        response.headers_mut().insert("request-id", id);
    }
    response
}

fn failed(status: u16, kind: &'static str, code: &'static str) -> Response {
    reply(status, &Failure::new(status, kind, code, "", "as a fault was asked for").body())
}

/// An answer that breaks off.
fn dropped() -> Response {
    let broken = futures::stream::once(async { Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::BrokenPipe)) });
    (StatusCode::OK, [(header::CONTENT_LENGTH, "100")], Body::from_stream(broken)).into_response()
}

impl Inner {
    /// Status, body, and whether it is the answer of an earlier request with the same key.
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, text: &str) -> (u16, Value, bool) {
        match self.try_answer(method, path, headers, text) {
            Ok((answer, replayed)) => (200, answer, replayed),
            Err(failure) => (failure.status, failure.body(), false),
        }
    }

    fn try_answer(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        text: &str,
    ) -> Result<(Value, bool), Failure> {
        let contract = contract().map_err(|error| Failure::new(500, "api_error", "", "", error))?;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if header("authorization").strip_prefix("Bearer ") != Some(&*self.ready.secret_key) {
            return Err(Failure::new(401, "invalid_request_error", "", "", "Invalid API Key provided"));
        }
        if header("stripe-version") != contract.version {
            let message = format!("the double speaks version {} only", contract.version);
            self.note(format!("Stripe-Version {:?}: {message}", header("stripe-version")));
            return Err(Failure::invalid(&message, "Stripe-Version"));
        }
        let (operation, id) = match contract.route(method.as_str(), path) {
            Route::Known(operation, id) => (operation, id),
            Route::WrongMethod | Route::Unknown => {
                self.note(format!("{method} {path}: no such operation in the description"));
                let message = format!("Unrecognized request URL ({method}: {path})");
                return Err(Failure::new(404, "invalid_request_error", "", "", message));
            }
        };
        let params = contract.read(operation, text).map_err(|misfit| {
            self.note(format!("{method} {path}: {} {}: {}", misfit.code, misfit.param, misfit.message));
            Failure::misfit(&misfit)
        })?;
        let key = header("idempotency-key");
        if method == Method::POST && key.is_empty() {
            self.note(format!("{method} {path}: a POST without Idempotency-Key"));
        }
        let (answer, replayed) =
            self.store.change(|tx| once(tx, key, method, path, text, || work(self, tx, operation, &id, &params)))?;
        if let Some(misfit) = operation.misfit_of_answer(&answer) {
            self.note(misfit);
        }
        Ok((answer, replayed))
    }

    /// Notes what does not fit the description, ours or the caller's.
    pub(crate) fn note(&self, what: String) {
        tracing::warn!(%what, "stripe-double: this does not fit Stripe's description");
        self.violations.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
    }
}

/// The work, or what came of it before: for a key that was used, the same answer to the same request.
fn once(
    tx: &Tx<'_>,
    key: &str,
    method: &Method,
    path: &str,
    text_: &str,
    work: impl FnOnce() -> Result<Value, Failure>,
) -> Result<(Value, bool), Failure> {
    if method != Method::POST || key.is_empty() {
        return Ok((work()?, false));
    }
    if key.len() > 255 {
        return Err(Failure::invalid("an idempotency key has at most 255 characters", "Idempotency-Key"));
    }
    // The order of a form's fields means nothing.
    let mut parts: Vec<_> = text_.split('&').collect();
    parts.sort_unstable();
    let request = format!("{path}?{}", parts.join("&"));
    if let Some(before) = tx.get("idempotency", key)?.filter(|before| int(before, "at") > now_secs() - 24 * 3600) {
        if text(&before, "request") != request {
            let message =
                "Keys for idempotent requests can only be used with the same parameters they were first used with.";
            return Err(Failure::new(400, "idempotency_error", "", "", message));
        }
        return Ok((at(&before, "answer").clone(), true));
    }
    let answer = work()?;
    tx.put("idempotency", json!({ "id": key, "request": request, "answer": answer, "at": now_secs() }))?;
    Ok((answer, false))
}

/// What an operation does.
fn work(double: &Inner, tx: &Tx<'_>, operation: &Operation, id: &str, params: &Value) -> Result<Value, Failure> {
    match operation.name() {
        ("post", "/v1/customers") => {
            let customer = json!({ "metadata": at(params, "metadata"), "email": at(params, "email") });
            let customer = tx.put("customer", flows::made("customer", "cus", customer)?)?;
            flows::tell(tx, "customer.created", &customer, None)?;
            Ok(customer)
        }
        ("get", "/v1/customers/{id}") => {
            let customer = flows::existing(tx, "customer", id, "id")?;
            Ok(if at(&customer, "deleted").is_null() { customer } else { gone(id) })
        }
        ("delete", "/v1/customers/{id}") => delete_customer(tx, id),
        ("post", "/v1/checkout/sessions") => start_checkout(double, tx, params),
        ("get", "/v1/checkout/sessions/{id}") => flows::existing(tx, "checkout.session", id, "session"),
        ("get", "/v1/checkout/sessions") => list(tx, "checkout.session", "/v1/checkout/sessions", params, |one| {
            fits(params, one, &["payment_intent", "customer", "subscription"])
        }),
        ("post", "/v1/billing_portal/sessions") => open_portal(double, tx, params),
        ("get", "/v1/subscriptions/{id}") => flows::existing(tx, "subscription", id, "id"),
        ("post", "/v1/subscriptions/{id}") => change_subscription(tx, id, params),
        ("post", "/v1/subscriptions/{id}/pause") => {
            Ok(flows::pause(tx, &flows::existing(tx, "subscription", id, "id")?, true)?)
        }
        ("post", "/v1/subscriptions/{id}/resume") => {
            Ok(flows::pause(tx, &flows::existing(tx, "subscription", id, "id")?, false)?)
        }
        ("delete", "/v1/subscriptions/{id}") => {
            let subscription = flows::existing(tx, "subscription", id, "id")?;
            if text(&subscription, "status") == "canceled" {
                return Err(Failure::missing("subscription", id, "id"));
            }
            Ok(flows::cancel(tx, &subscription, "cancellation_requested")?)
        }
        ("get", "/v1/invoices/{id}") => flows::existing(tx, "invoice", id, "id"),
        ("get", "/v1/invoices") => {
            list(tx, "invoice", "/v1/invoices", params, |one| fits(params, one, &["customer", "status"]))
        }
        ("get", "/v1/invoice_payments") => list(tx, "invoice_payment", "/v1/invoice_payments", params, |one| {
            let intent = at(params, "payment/payment_intent");
            fits(params, one, &["invoice"]) && (intent.is_null() || at(one, "payment/payment_intent") == intent)
        }),
        ("get", "/v1/charges/{id}") => flows::existing(tx, "charge", id, "id"),
        ("get", "/v1/disputes/{id}") => flows::existing(tx, "dispute", id, "id"),
        ("get", "/v1/radar/early_fraud_warnings/{id}") => flows::existing(tx, "radar.early_fraud_warning", id, "id"),
        ("get", "/v1/refunds/{id}") => flows::existing(tx, "refund", id, "id"),
        ("post", "/v1/refunds") => {
            let intent = text(params, "payment_intent");
            let of_intent = tx.get("payment_intent", intent)?.map(|intent| text(&intent, "latest_charge").to_owned());
            let charge = of_intent.unwrap_or_else(|| text(params, "charge").to_owned());
            flows::refund(tx, &charge, at(params, "amount").as_i64(), false)
        }
        ("post", "/v1/billing/meter_events") => meter_event(tx, params),
        ("get", "/v1/events/{id}") => {
            let stored = tx.get("event", id)?.ok_or_else(|| Failure::missing("event", id, "id"))?;
            Ok(at(&stored, "event").clone())
        }
        ("get", "/v1/events") => events(tx, params),
        _ => Err(Failure::new(404, "invalid_request_error", "", "", "the double does not do this")),
    }
}

fn gone(id: &str) -> Value {
    json!({ "id": id, "object": "customer", "deleted": true })
}

fn delete_customer(tx: &Tx<'_>, id: &str) -> Result<Value, Failure> {
    let customer = flows::existing(tx, "customer", id, "id")?;
    if at(&customer, "deleted").is_null() {
        for subscription in tx.list("subscription")?.iter().filter(|one| text(one, "customer") == id) {
            flows::cancel(tx, subscription, "cancellation_requested")?;
        }
        flows::tell(tx, "customer.deleted", &customer, None)?;
        tx.put("customer", with(customer, json!({ "deleted": true })))?;
    }
    Ok(gone(id))
}

fn start_checkout(double: &Inner, tx: &Tx<'_>, params: &Value) -> Result<Value, Failure> {
    let customer_id = text(params, "customer");
    let customer = flows::existing(tx, "customer", customer_id, "customer")?;
    if !at(&customer, "deleted").is_null() {
        return Err(Failure::missing("customer", customer_id, "customer"));
    }
    let item = at(params, "line_items").get(0).cloned().unwrap_or_default();
    let mode = text(params, "mode");
    let inline = at(&item, "price_data");
    let price_id = text(&item, "price");
    let amount = match (mode, flows::price(price_id)) {
        ("subscription", Some(price)) => i64::from(price.cents),
        ("payment", None) if !inline.is_null() => int(inline, "unit_amount") * int(&item, "quantity"),
        ("subscription", None) => return Err(Failure::missing("price", price_id, "line_items[0][price]")),
        _ => return Err(Failure::invalid("a price that does not fit the mode", "line_items")),
    };
    let id = new_id("cs_test");
    let session = json!({
        "id": id, "mode": mode, "customer": customer_id, "client_reference_id": at(params, "client_reference_id"),
        "success_url": at(params, "success_url"), "cancel_url": at(params, "cancel_url"),
        "metadata": at(params, "metadata"), "amount_subtotal": amount, "amount_total": amount,
        "url": format!("{}/_local/stripe/checkout/{id}", double.options.site), "expires_at": now_secs() + 24 * 3600,
        "invoice_creation": null,
    });
    let metadata = at(params, "subscription_data/metadata").clone();
    let metadata = if metadata.is_null() { json!({}) } else { metadata };
    tx.put("asked", json!({ "id": id, "price": price_id, "metadata": metadata }))?;
    Ok(tx.put("checkout.session", flows::made("checkout.session", "cs_test", session)?)?)
}

fn open_portal(double: &Inner, tx: &Tx<'_>, params: &Value) -> Result<Value, Failure> {
    let customer = text(params, "customer");
    flows::existing(tx, "customer", customer, "customer")?;
    let id = new_id("bps");
    let session = json!({
        "id": id, "object": "billing_portal.session", "configuration": "bpc_local", "created": now_secs(),
        "customer": customer, "customer_account": null, "flow": null, "livemode": false, "locale": null,
        "on_behalf_of": null, "return_url": at(params, "return_url"),
        "url": format!("{}/_local/stripe/portal/{id}", double.options.site),
    });
    Ok(tx.put("portal", session)?)
}

fn change_subscription(tx: &Tx<'_>, id: &str, params: &Value) -> Result<Value, Failure> {
    let mut subscription = flows::existing(tx, "subscription", id, "id")?;
    if text(&subscription, "status") == "canceled" {
        return Err(Failure::invalid("a subscription that has ended cannot be changed", "id"));
    }
    if let Some(ends) = at(params, "cancel_at_period_end").as_bool() {
        subscription = flows::cancel_at_period_end(tx, &subscription, ends)?;
    }
    if let Some(item) = at(params, "items").get(0) {
        subscription = flows::change_price(tx, &subscription, text(item, "price"))?;
    }
    Ok(subscription)
}

/// Stripe counts one identifier once within at least a day, and takes times from 35 days ago to 5 minutes ahead.
fn meter_event(tx: &Tx<'_>, params: &Value) -> Result<Value, Failure> {
    let now = now_secs();
    let at_time = at(params, "timestamp").as_i64().unwrap_or(now);
    let given = text(params, "identifier");
    let identifier = if given.is_empty() { new_id("mevt") } else { given.to_owned() };
    let code = if at_time < now - 35 * 24 * 3600 {
        "timestamp_too_far_in_past"
    } else if at_time > now + 300 {
        "timestamp_in_future"
    } else if tx.get("meter_event", &identifier)?.is_some_and(|before| int(&before, "created") > now - 24 * 3600) {
        "duplicate_meter_event"
    } else {
        ""
    };
    if !code.is_empty() {
        return Err(Failure::new(400, "invalid_request_error", code, "identifier", "this event is not counted"));
    }
    let event = json!({
        "object": "billing.meter_event", "created": now, "event_name": at(params, "event_name"),
        "identifier": identifier, "livemode": false, "payload": at(params, "payload"), "timestamp": at_time,
    });
    tx.put("meter_event", with(event.clone(), json!({ "id": identifier })))?;
    Ok(event)
}

fn events(tx: &Tx<'_>, params: &Value) -> Result<Value, Failure> {
    let since = at(params, "created/gte").as_i64().unwrap_or_default();
    let delivered = at(params, "delivery_success").as_bool();
    let kind = text(params, "type");
    let all = tx.list("event")?;
    let fitting = all.iter().filter(|stored| {
        let failed = at(stored, "delivered").as_bool() == Some(false);
        delivered.is_none_or(|good| good != failed)
            && int(at(stored, "event"), "created") >= since
            && (kind.is_empty() || text(at(stored, "event"), "type") == kind)
    });
    Ok(page(fitting.map(|stored| at(stored, "event").clone()), "/v1/events", params))
}

fn list(tx: &Tx<'_>, kind: &str, url: &str, params: &Value, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
    Ok(page(tx.list(kind)?.into_iter().filter(|one| fits(one)), url, params))
}

fn page(all: impl Iterator<Item = Value>, url: &str, params: &Value) -> Value {
    let after = text(params, "starting_after");
    let limit = usize::try_from(at(params, "limit").as_i64().unwrap_or(10)).unwrap_or(10).clamp(1, 100);
    let mut all = all.skip_while(|one| !after.is_empty() && text(one, "id") != after);
    if !after.is_empty() {
        all.next();
    }
    let data: Vec<_> = all.by_ref().take(limit).collect();
    json!({ "object": "list", "url": url, "data": data, "has_more": all.next().is_some() })
}

/// Whether a resource has what was asked for in these fields, where it was.
fn fits(params: &Value, one: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| at(params, field).is_null() || at(params, field) == at(one, field))
}
