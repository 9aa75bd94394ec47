//! `/_local/twilio…`: what a person or a test does with the double, none of it Twilio's.

use std::fmt::Write;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::faults::Fault;
use crate::rest::{Pairs, is_e164};
use crate::state::{Account, Message, Number, Service, StoreError, Violation, new_sid, now};
use crate::{Inner, inbound, lists, resources};

type Double = State<Arc<Inner>>;

pub(crate) fn router(double: Arc<Inner>) -> Router {
    Router::new()
        .route("/_local/twilio", get(overview))
        .route("/_local/twilio/phone", get(phone))
        .route("/_local/twilio/inbound", post(receive))
        .route("/_local/twilio/calls", post(ring))
        .route("/_local/twilio/faults", post(set_fault))
        .route("/_local/twilio/journal", get(journal))
        .route("/_local/twilio/accounts", post(new_account))
        .route("/_local/twilio/accounts/{sid}", post(change_account))
        .route("/_local/twilio/accounts/{sid}/keys", post(new_key))
        .route("/_local/twilio/accounts/{sid}/secondary-token", post(new_secondary))
        .route("/_local/twilio/accounts/{sid}/secondary-token/promote", post(promote))
        .route("/_local/twilio/accounts/{sid}/shared-key", post(new_shared_key))
        .route("/_local/twilio/accounts/{sid}/services", post(new_service))
        .route("/_local/twilio/services/{sid}", post(set_service))
        .route("/_local/twilio/numbers/{number}", post(set_number))
        .route("/_local/twilio/messages/{sid}", post(set_message))
        .with_state(double)
}

/// Input that cannot be used, with what to do instead.
struct Wrong(String);

impl IntoResponse for Wrong {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Json(json!({"error": self.0}))).into_response()
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Self {
        Self(format!("the double's store failed: {error}"))
    }
}

type Answer = Result<Json<Value>, Wrong>;

fn read<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Wrong> {
    serde_json::from_slice(body).map_err(|error| Wrong(format!("send JSON like {example}: {error}")))
}

async fn overview(State(double): Double) -> Answer {
    let accounts: Vec<Account> = double.store.list(None)?;
    let violations: Vec<Violation> = double.store.list(None)?;
    let further = accounts.iter().skip(1);
    Ok(Json(json!({
        "what": "a double of Twilio on this machine; it is not Twilio and sends nothing to phones",
        "base_url": double.base_url,
        "account_sid": double.ready.account_sid,
        "auth_token": double.ready.auth_token,
        "numbers": double.ready.numbers,
        "further_accounts": further.map(|a| json!({"account_sid": a.sid, "status": a.status})).collect::<Vec<_>>(),
        "results_by_end_of_to": {
            "0041": "message undelivered (30003), call no-answer",
            "0042": "message failed (30005), call busy",
            "+15005550001 and so on": "as with Twilio's test credentials",
        },
        "faults": double.faults.all(),
        "contract_violation_count": violations.len(),
        "contract_violations": violations.iter().rev().take(1000).map(|v| json!({
            "method": v.method, "path": v.path, "field": v.field, "message": v.message,
        })).collect::<Vec<_>>(),
    })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inbound {
    from: String,
    to: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    media: Media,
    opt_out_type: Option<String>,
    messaging_service_sid: Option<String>,
}

/// Pictures of a text: how many, or a list of URLs of which only the number counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Media {
    Count(usize),
    Urls(Vec<String>),
}

impl Default for Media {
    fn default() -> Self {
        Self::Count(0)
    }
}

async fn receive(State(double): Double, headers: HeaderMap, body: Bytes) -> Result<Response, Wrong> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let by_form = kind.starts_with("application/x-www-form-urlencoded");
    let example = r#"{"from": "+12065550123", "to": "one of the double's numbers", "body": "hello"}"#;
    let ask: Inbound = if by_form {
        let pairs = Pairs::parse(&String::from_utf8_lossy(&body)).0;
        let fields: Map<String, Value> = pairs.into_iter().map(|(name, text)| (name, text.into())).collect();
        read(Value::Object(fields).to_string().as_bytes(), example)?
    } else {
        read(&body, example)?
    };
    let n_media = match ask.media {
        Media::Count(n) => n,
        Media::Urls(urls) => urls.len(),
    };
    if n_media > 10 {
        return Err(Wrong("\"media\": at most 10, as with Twilio".into()));
    }
    check_number(&ask.from)?;
    if ask.opt_out_type.as_deref().is_some_and(|kind| !matches!(kind, "STOP" | "START" | "HELP")) {
        return Err(Wrong("\"opt_out_type\" is STOP, START or HELP".into()));
    }
    let (opt_out_type, service) = (ask.opt_out_type, ask.messaging_service_sid);
    let text = inbound::Text { from: ask.from, to: ask.to, body: ask.body, n_media, opt_out_type, service };
    let answer = inbound::text(&double, text).await.map_err(Wrong)?;
    Ok(if by_form { Redirect::to("/_local/twilio/phone").into_response() } else { Json(answer).into_response() })
}

fn check_number(number: &str) -> Result<(), Wrong> {
    if is_e164(number) { Ok(()) } else { Err(Wrong(format!("\"from\": write {number:?} as +12065550123"))) }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    from: String,
    to: String,
}

async fn ring(State(double): Double, body: Bytes) -> Answer {
    let ask: Ring = read(&body, r#"{"from": "+12065550123", "to": "one of the double's numbers"}"#)?;
    check_number(&ask.from)?;
    Ok(Json(inbound::call(&double, &ask.from, &ask.to).await.map_err(Wrong)?))
}

async fn set_fault(State(double): Double, body: Bytes) -> Answer {
    let fault: Fault = read(&body, r#"{"next": 1, "kind": "drop"} or {"kind": "none"}"#)?;
    double.faults.set(fault).map_err(Wrong)?;
    Ok(Json(json!({"faults": double.faults.all()})))
}

#[derive(Deserialize)]
struct JournalQuery {
    account_sid: Option<String>,
}

async fn journal(State(double): Double, Query(query): Query<JournalQuery>) -> Answer {
    let messages: Vec<Message> = double.store.list(query.account_sid.as_deref())?;
    let entry = |m: &Message| {
        json!({
            "sid": m.sid, "account_sid": m.account, "direction": m.direction, "to": m.to, "from": m.from,
            "body": m.body, "created": m.created, "status": m.status, "status_callback": m.status_callback,
        })
    };
    Ok(Json(json!({"data": messages.iter().map(entry).collect::<Vec<_>>()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountAsk {
    #[serde(default)]
    status: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    /// Numbers that a trial account may write to.
    #[serde(default)]
    verified: Vec<String>,
}

impl AccountAsk {
    fn read(body: &[u8]) -> Result<Self, Wrong> {
        let ask: Self = read(body, r#"{"status": "active", "type": "Full"}"#)?;
        if ask.status.as_deref().is_some_and(|status| !matches!(status, "active" | "suspended" | "closed")) {
            return Err(Wrong("\"status\" is active, suspended or closed".into()));
        }
        if ask.kind.as_deref().is_some_and(|kind| !matches!(kind, "Full" | "Trial")) {
            return Err(Wrong("\"type\" is Full or Trial".into()));
        }
        Ok(ask)
    }

    fn apply(self, account: &mut Account) {
        account.status = self.status.unwrap_or_else(|| account.status.clone());
        account.kind = self.kind.unwrap_or_else(|| account.kind.clone());
        account.verified.extend(self.verified.into_iter().map(|number| (new_sid("PN"), number)));
    }
}

async fn new_account(State(double): Double, body: Bytes) -> Answer {
    let ask = AccountAsk::read(&body)?;
    let ready = double.store.change(|tx| {
        let (mut account, numbers) = crate::open_account(tx)?;
        ask.apply(&mut account);
        tx.put(&account)?;
        Ok::<_, Wrong>((account, numbers))
    })?;
    let (account, numbers) = ready;
    Ok(Json(json!({"account_sid": account.sid, "auth_token": account.token, "numbers": numbers})))
}

async fn change_account(State(double): Double, Path(sid): Path<String>, body: Bytes) -> Answer {
    let ask = AccountAsk::read(&body)?;
    double.store.change(|tx| {
        let mut account = tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        ask.apply(&mut account);
        tx.put(&account)?;
        Ok(Json(json!({"account_sid": account.sid, "status": account.status, "type": account.kind})))
    })
}

async fn new_key(State(double): Double, Path(sid): Path<String>) -> Answer {
    double.store.change(|tx| {
        tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        let key = lists::new_key(&sid, "made by /_local/twilio");
        tx.put(&key)?;
        Ok(Json(json!({"sid": key.sid, "secret": key.secret})))
    })
}

/// Makes a secondary Auth Token: both tokens call, the primary signs.
async fn new_secondary(State(double): Double, Path(sid): Path<String>) -> Answer {
    double.store.change(|tx| {
        let mut account = tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        let token = new_sid("");
        account.secondary = Some(token.clone());
        tx.put(&account)?;
        Ok(Json(json!({"secondary_auth_token": token})))
    })
}

/// Promotes it: it signs from now on, and the token before it is refused at once.
async fn promote(State(double): Double, Path(sid): Path<String>) -> Answer {
    double.store.change(|tx| {
        let mut account = tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        let none = || Wrong(format!("make one first: POST /_local/twilio/accounts/{sid}/secondary-token"));
        account.token = account.secondary.take().ok_or_else(none)?;
        tx.put(&account)?;
        Ok(Json(json!({"auth_token": account.token})))
    })
}

/// Has webhooks signed with a new shared key in place of the Auth Token.
async fn new_shared_key(State(double): Double, Path(sid): Path<String>) -> Answer {
    double.store.change(|tx| {
        let mut account = tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        let (id, secret) = (new_sid("webhooks_sharedkey_"), new_sid(""));
        account.shared_key = Some((id.clone(), secret.clone()));
        tx.put(&account)?;
        Ok(Json(json!({"id": id, "secret": secret})))
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServiceAsk {
    friendly_name: Option<String>,
    #[serde(default)]
    numbers: Vec<String>,
}

/// Makes a Messaging Service, as its owner would in Twilio's Console.
async fn new_service(State(double): Double, Path(sid): Path<String>, body: Bytes) -> Answer {
    let example = r#"{"friendly_name": "Front desk", "numbers": ["+14155551234"]}"#;
    let ask = if body.is_empty() { ServiceAsk::default() } else { read(&body, example)? };
    let name = ask.friendly_name.map(|name| ("friendly_name".to_owned(), name.into()));
    double.store.change(|tx| {
        tx.get::<Account>(&sid)?.ok_or_else(|| no_account(&sid))?;
        let (own, now) = (new_sid("MG"), now());
        let settings = name.into_iter().collect();
        let service = Service { sid: own, account: sid.clone(), created: now, updated: now, settings, had: Vec::new() };
        tx.put(&service)?;
        for number in &ask.numbers {
            let mine = tx.number(number)?.filter(|number| number.account == sid);
            let mut mine = mine.ok_or_else(|| Wrong(format!("the account {sid} has no number {number}")))?;
            if let Some(other) = &mine.service {
                return Err(Wrong(format!("{number} is in the pool of {other}: a number has one service")));
            }
            mine.service = Some(service.sid.clone());
            tx.put(&mine)?;
        }
        Ok(Json(resources::service(&service, &double.base_url)))
    })
}

/// Sets a number as its owner would in Twilio's Console: URLs of any machine are taken.
async fn set_number(State(double): Double, Path(name): Path<String>, body: Bytes) -> Answer {
    let raw = read(&body, r#"{"sms_url": "https://customer.example/sms", "friendly_name": "Front desk"}"#)?;
    double.store.change(|tx| {
        let number = if name.starts_with('+') { tx.number(&name)? } else { tx.get::<Number>(&name)? };
        let mut number = number.ok_or_else(|| Wrong(format!("the double has no number {name}")))?;
        check_settings(&resources::number(&number), &raw)?;
        number.set(raw, now());
        tx.put(&number)?;
        Ok(Json(resources::number(&number)))
    })
}

/// The same for a Messaging Service.
async fn set_service(State(double): Double, Path(sid): Path<String>, body: Bytes) -> Answer {
    let raw = read(&body, r#"{"inbound_request_url": "https://customer.example/sms", "sticky_sender": false}"#)?;
    double.store.change(|tx| {
        let make = "make one with POST /_local/twilio/accounts/{AccountSid}/services";
        let service = tx.get::<Service>(&sid)?;
        let mut service = service.ok_or_else(|| Wrong(format!("the double has no service {sid}: {make}")))?;
        check_settings(&resources::service(&service, &double.base_url), &raw)?;
        service.set(raw, now());
        tx.put(&service)?;
        Ok(Json(resources::service(&service, &double.base_url)))
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessageAsk {
    num_segments: u32,
}

/// Has a message count other segments than its text has, as Twilio's own count may.
async fn set_message(State(double): Double, Path(sid): Path<String>, body: Bytes) -> Answer {
    let ask: MessageAsk = read(&body, r#"{"num_segments": 3}"#)?;
    double.store.change(|tx| {
        let message = tx.get::<Message>(&sid)?;
        let mut message = message.ok_or_else(|| Wrong(format!("the double has no message {sid}")))?;
        message.n_segments = ask.num_segments;
        tx.put(&message)?;
        Ok(Json(resources::message(&message)))
    })
}

/// Raw settings bear names and types of Twilio's answer; what makes the thing what it is cannot be set.
fn check_settings(answer: &Value, raw: &Map<String, Value>) -> Result<(), Wrong> {
    const FIXED: [&str; 8] =
        ["sid", "account_sid", "phone_number", "date_created", "date_updated", "uri", "url", "links"];
    for (name, value) in raw {
        let known = answer.get(name).filter(|_| !FIXED.contains(&&name[..]));
        let known = known.ok_or_else(|| Wrong(format!("{name:?} is not a setting")))?;
        let alike = match (known, value) {
            (Value::Null, Value::String(_)) | (Value::String(_), Value::Null) => true,
            _ => std::mem::discriminant(known) == std::mem::discriminant(value),
        };
        if !alike {
            return Err(Wrong(format!("{name:?}: {value} is not of the type of {known}")));
        }
    }
    Ok(())
}

fn no_account(sid: &str) -> Wrong {
    Wrong(format!("the double has no account {sid}: make one with POST /_local/twilio/accounts"))
}

async fn phone(State(double): Double) -> Result<Html<String>, Wrong> {
    let numbers: Vec<Number> = double.store.list(None)?;
    let messages: Vec<Message> = double.store.list(None)?;
    let mut page = String::from(
        "<!doctype html><meta charset=utf-8><title>twilio-double: phone</title><style>body{font:16px system-ui;\
         max-width:50rem;margin:2rem auto}li{margin:.3rem 0}small{color:#666}</style><h1>Phone of the double</h1>\
         <p>A double of Twilio on this machine. It is not Twilio; nothing reaches a real phone.</p>\
         <h2>Send a text to a number</h2><form method=post action=/_local/twilio/inbound>\
         <label>From <input name=from value=+12065550123 required></label> <label>To <select name=to>",
    );
    for number in &numbers {
        let _ = write!(page, "<option>{}</option>", escape(&number.number));
    }
    page.push_str("</select></label> <label>Text <input name=body required></label> <button>Send</button></form>");
    for number in &numbers {
        let _ = write!(page, "<h2>{} <small>{}</small></h2><ul>", escape(&number.number), escape(&number.account));
        let own = |m: &&Message| m.to == number.number || m.from.as_deref() == Some(&number.number);
        for message in messages.iter().rev().filter(own).take(100) {
            let from = message.from.as_deref().unwrap_or("?");
            let (from, to, body) = (escape(from), escape(&message.to), escape(&message.body));
            let (status, at) = (escape(&message.status), message.created);
            let _ = write!(page, "<li>{from} → {to}: {body} <small>{status}, {at}</small></li>");
        }
        page.push_str("</ul>");
    }
    Ok(Html(page))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
