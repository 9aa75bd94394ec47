//! The REST API: route by the OpenAPI document, check the request and the caller, then answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use serde_json::{Map, Value};

use crate::connection::Cut;
use crate::errors::Refusal;
use crate::faults::{self, Kind};
use crate::state::{Account, Key, Media, Violation, new_sid, urls};
use crate::validate::{Misfit, Operation, Route, contract};
use crate::{Inner, calls, lists, messages, numbers, services};

/// A form or query as pairs in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs(pub Vec<(String, String)>);

impl Pairs {
    pub(crate) fn parse(encoded: &str) -> Self {
        Self(form_urlencoded::parse(encoded.as_bytes()).into_owned().collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value, unless it is missing or empty.
    pub(crate) fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }
}

/// A request that passed all checks.
pub(crate) struct Ask {
    pub double: Arc<Inner>,
    pub account: Account,
    /// The request's path, for error texts and page links.
    pub path: String,
    pub values: Pairs,
    pub query: Pairs,
    pub form: Pairs,
}

impl Ask {
    /// The SID at the end of the path.
    pub(crate) fn sid(&self) -> &str {
        self.values.get("Sid").unwrap_or_default()
    }

    pub(crate) fn not_found(&self) -> Refusal {
        Refusal::not_found(&self.path)
    }

    /// `Err` when the double may not call this URL.
    pub(crate) fn callable(&self, url: &str, code: u32) -> Result<(), Refusal> {
        if crate::callbacks::may_call(url, self.double.options.allow_any_host) {
            return Ok(());
        }
        Err(Refusal::saying(code, format!("twilio-double: {url} is not a URL on this machine")))
    }

    /// The same for all URLs among new settings; one that stood there before can be put back.
    pub(crate) fn callable_or_known(&self, settings: &Map<String, Value>, had: &[String]) -> Result<(), Refusal> {
        let mut new = urls(settings).filter(|url| !had.iter().any(|known| known == url));
        new.try_for_each(|url| self.callable(url, 21205))
    }
}

/// Answers one request.
pub(crate) async fn serve(State(double): State<Arc<Inner>>, request: Request) -> Response {
    let started = Instant::now();
    let mut response = answer(&double, request).await.unwrap_or_else(Refusal::into_response);
    let seconds = format!("{:.3}", started.elapsed().as_secs_f64());
    for (name, value) in
        [("server", "twilio-double".into()), ("twilio-request-id", new_sid("RQ")), ("twilio-request-duration", seconds)]
    {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn answer(double: &Arc<Inner>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let cut = parts.extensions.get::<ConnectInfo<Cut>>().map(|info| info.0.clone()).unwrap_or_default();
    let body = to_bytes(body, 1 << 20).await.map_err(|_| Refusal::saying(20001, "the body is too long"))?;
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    if let Some(sid) = path.strip_prefix("/_cdn/") {
        return media_file(double, sid);
    }
    // Without ".json" a media URL is the file itself, not its description.
    let file = method == "GET" && path.contains("/Media/ME") && !path.contains('.');
    let documented = if file { format!("{path}.json") } else { path.to_owned() };
    let (operation, values) = find_operation(double, method, path, &documented)?;
    let query = Pairs::parse(parts.uri.query().unwrap_or_default());
    let fit = read_form(&parts.headers, &body)
        .and_then(|form| operation.check(&values, &query, &form).map(|()| form))
        .map_err(|misfit| record(double, method, path, &misfit).err().unwrap_or_else(|| refusal_of(&misfit)));
    let account = authenticate(double, &parts.headers, operation, &values, path)?;
    let form = fit?;

    let ask = Ask { double: Arc::clone(double), account, path: path.to_owned(), values, query, form };
    if file {
        return redirect_to_file(&ask);
    }
    operate_or_fail(&operation.id, &ask, &cut).await
}

fn find_operation(
    double: &Inner,
    method: &str,
    path: &str,
    documented: &str,
) -> Result<(&'static Operation, Pairs), Refusal> {
    let contract = contract().map_err(|error| Refusal::saying(20500, error))?;
    let (refusal, message) = match contract.route(method, documented) {
        Route::Known(operation, values) => return Ok((operation, values)),
        Route::WrongMethod => (Refusal::new(20004), "no such method here in Twilio's OpenAPI"),
        Route::Unknown => (Refusal::not_found(path), "no such path in Twilio's OpenAPI"),
    };
    record(double, method, path, &Misfit { field: "path".into(), message: message.into() })?;
    Err(refusal)
}

/// Carries the operation out, with the fault that strikes it.
async fn operate_or_fail(operation: &str, ask: &Ask, cut: &Cut) -> Result<Response, Refusal> {
    let creates = matches!(operation, "CreateMessage" | "CreateCall");
    let fault = creates.then(|| ask.double.faults.strike(faults::OF_REQUESTS, &ask.account.sid)).flatten();
    let Some(fault) = fault else {
        return operate(operation, ask);
    };
    match fault.kind {
        Kind::TooMany => return Err(Refusal::new(20429)),
        Kind::Broken => return Err(Refusal::new(20500)),
        Kind::Drop => {
            cut.now();
            return Ok(StatusCode::OK.into_response());
        }
        _ => {}
    }
    let response = operate(operation, ask);
    match fault.kind {
        Kind::AcceptThenDrop => cut.now(),
        _ => tokio::time::sleep(fault.delay(12_000)).await,
    }
    response
}

fn operate(operation: &str, ask: &Ask) -> Result<Response, Refusal> {
    let (status, body) = match operation {
        "FetchAccount" => (200, crate::resources::account(&ask.account)),
        "CreateMessage" => (201, messages::create(ask)?),
        "ListMessage" => (200, messages::list(ask)?),
        "FetchMessage" => (200, messages::fetch(ask)?),
        "UpdateMessage" => (200, messages::update(ask)?),
        "DeleteMessage" => (204, messages::delete(ask)?),
        "ListMedia" => (200, messages::list_media(ask)?),
        "FetchMedia" => (200, crate::resources::media(&messages::media(ask)?)),
        "DeleteMedia" => (204, messages::delete_media(ask)?),
        "CreateMessageFeedback" => (200, messages::feedback(ask)?),
        "CreateCall" => (201, calls::create(ask)?),
        "ListCall" => (200, calls::list(ask)?),
        "FetchCall" => (200, calls::fetch(ask)?),
        "UpdateCall" => (200, calls::update(ask)?),
        "CreateIncomingPhoneNumber" => (201, numbers::buy(ask)?),
        "ListIncomingPhoneNumber" => (200, numbers::list(ask)?),
        "FetchIncomingPhoneNumber" => (200, numbers::fetch(ask)?),
        "UpdateIncomingPhoneNumber" => (200, numbers::update(ask)?),
        "DeleteIncomingPhoneNumber" => (204, numbers::delete(ask)?),
        "ListAvailablePhoneNumberLocal" | "ListAvailablePhoneNumberMobile" => (200, numbers::available(ask, None)?),
        "ListAvailablePhoneNumberTollFree" => (200, numbers::available(ask, Some("800"))?),
        "ListOutgoingCallerId" => (200, lists::caller_ids(ask)),
        "ListUsageRecord" => (200, lists::usage(ask, "")?),
        "ListUsageRecordDaily" => (200, lists::usage(ask, "%Y-%m-%d")?),
        "ListUsageRecordMonthly" => (200, lists::usage(ask, "%Y-%m")?),
        "FetchBalance" => (200, lists::balance(ask)?),
        "ListKey" => (200, lists::keys(ask)?),
        "CreateNewKey" => (201, lists::create_key(ask)?),
        "FetchKey" => (200, lists::fetch_key(ask)?),
        "UpdateKey" => (200, lists::update_key(ask)?),
        "DeleteKey" => (204, lists::delete_key(ask)?),
        "ListService" => (200, services::list(ask)?),
        "FetchService" => (200, services::fetch(ask)?),
        "UpdateService" => (200, services::update(ask)?),
        "ListPhoneNumber" => (200, services::list_numbers(ask)?),
        _ => return Err(ask.not_found()),
    };
    let status = StatusCode::from_u16(status).unwrap_or_default();
    Ok(if body == Value::Null { status.into_response() } else { (status, Json(body)).into_response() })
}

fn read_form(headers: &HeaderMap, body: &Bytes) -> Result<Pairs, Misfit> {
    if body.is_empty() {
        return Ok(Pairs::default());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/x-www-form-urlencoded") {
        let message = format!("header Content-Type: {kind:?} is not application/x-www-form-urlencoded");
        return Err(Misfit { field: "Content-Type".into(), message });
    }
    Ok(Pairs::parse(&String::from_utf8_lossy(body)))
}

fn refusal_of(misfit: &Misfit) -> Refusal {
    Refusal::saying(20001, format!("twilio-double: request does not fit Twilio's OpenAPI: {}", misfit.message))
}

fn record(double: &Inner, method: &str, path: &str, misfit: &Misfit) -> Result<(), Refusal> {
    let violation = Violation {
        sid: new_sid(""),
        account: String::new(),
        method: method.into(),
        path: path.into(),
        field: misfit.field.clone(),
        message: misfit.message.clone(),
    };
    double.store.change(|tx| Ok(tx.put(&violation)?))
}

/// The account that the caller may act for: by its Auth Token, or by a standard API key.
fn authenticate(
    double: &Inner,
    headers: &HeaderMap,
    operation: &Operation,
    values: &Pairs,
    path: &str,
) -> Result<Account, Refusal> {
    let refused = || Refusal::saying(20003, "Authenticate");
    let (user, secret) = basic(headers).ok_or_else(refused)?;
    let named = || values.get("AccountSid").or(values.get("Sid")).unwrap_or_default();
    let wanted = operation.names_account().then(named);
    let account = if user.starts_with("SK") {
        let key: Key = double.store.get(&user)?.ok_or_else(refused)?;
        let barred = operation.id == "FetchAccount" || operation.id.ends_with("Key");
        if key.secret != secret || wanted.is_some_and(|sid| key.account != sid) || barred {
            return Err(refused());
        }
        double.store.get::<Account>(&key.account)?.ok_or_else(refused)?
    } else {
        let account: Account = double.store.get(&user)?.ok_or_else(refused)?;
        if account.token != secret && account.secondary.as_deref() != Some(&secret) {
            return Err(refused());
        }
        account
    };
    if wanted.is_some_and(|sid| account.sid != sid) {
        return Err(Refusal::not_found(path));
    }
    if account.status != "active" {
        return Err(Refusal::new(20005));
    }
    Ok(account)
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let bytes = base64::prelude::BASE64_STANDARD.decode(value.strip_prefix("Basic ")?.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, secret) = text.split_once(':')?;
    Some((user.to_owned(), secret.to_owned()))
}

fn redirect_to_file(ask: &Ask) -> Result<Response, Refusal> {
    let media = messages::media(ask)?;
    let location = format!("{}/_cdn/{}", ask.double.base_url, media.sid);
    Ok((StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response())
}

/// The stand-in of the media store: one grey pixel for every picture.
fn media_file(double: &Inner, sid: &str) -> Result<Response, Refusal> {
    const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\x80\x80\x80\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";
    let media: Media = double.store.get(sid)?.ok_or_else(|| Refusal::not_found("/_cdn"))?;
    Ok(([(header::CONTENT_TYPE, media.content_type)], Body::from(PIXEL)).into_response())
}

/// True when the number has the form of E.164.
pub(crate) fn is_e164(number: &str) -> bool {
    let digits = number.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// The time left until `at`, zero when it is past.
pub(crate) fn until(at: jiff::Timestamp) -> Duration {
    Duration::try_from(at.duration_since(crate::state::now())).unwrap_or_default()
}
