//! The HTTP edge: a request as the gateway handed it over, a reply, and problems (RFC 9457). No Lambda type in sight.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api_key::Scope;
use crate::fault::Fault;
use crate::ids::RequestId;

mod csv;
mod html;

pub use csv::{CSV, CsvTable};
pub use html::{HTML, escaped, html};

/// The largest body that any route takes, in bytes. Twilio's largest webhook is 64 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// One HTTP request.
#[derive(Clone)]
pub struct Request {
    /// Names this request in logs and answers.
    pub id: RequestId,
    /// When it arrived.
    pub now: Timestamp,
    /// Method.
    pub method: Method,
    /// Path exactly as the caller wrote it, without the query.
    pub path: String,
    /// Query exactly as the caller wrote it, without the question mark; empty if there was none.
    pub query: String,
    /// Headers, names in lower case.
    pub headers: HeaderMap,
    /// Body bytes as received.
    pub body: Vec<u8>,
    /// The caller's address as the gateway saw it (not from a header).
    pub peer: String,
}

/// Body, cookie and a webhook's path are secrets: a request prints as its id and method, also in a panic.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} {})", self.id, self.method)
    }
}

/// A route of a function: `GET`, `/v1/messages/{id}`. The template's events list the same (a test compares them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Method, in capitals.
    pub method: &'static str,
    /// Path with `{name}` for a segment that varies.
    pub path: &'static str,
    /// Who may call it. No default: a new route has to say it.
    pub access: Access,
}

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Whoever comes: it asks for nothing, or has a proof of its own (a password, a mailed link, a signature).
    Open,
    /// A person who logged in. Whatever makes keys, changes credentials or sessions, or lifts a freeze.
    Session,
    /// A person who logged in, or an API key with this scope.
    Scope(Scope),
}

impl Route {
    /// The values of the varying segments, in order, if `path` has this shape.
    pub fn captures<'p>(&self, path: &'p str) -> Option<Vec<&'p str>> {
        let mut values = Vec::new();
        let mut given = path.split('/');
        for expected in self.path.split('/') {
            let segment = given.next()?;
            if expected.starts_with('{') && !segment.is_empty() {
                values.push(segment);
            } else if segment != expected {
                return None;
            }
        }
        given.next().is_none().then_some(values)
    }
}

impl Request {
    /// A header's text, if it is there once or more (the first counts) and is text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Which of the function's routes this is, with the varying segments; 404 or 405 otherwise.
    pub fn route<'r>(&self, routes: &'r [Route]) -> Result<(&'r Route, Vec<&str>), Problem> {
        let mut allowed = Vec::new();
        for route in routes {
            if let Some(values) = route.captures(&self.path) {
                if route.method == self.method.as_str() {
                    return Ok((route, values));
                }
                allowed.push(route.method);
            }
        }
        if allowed.is_empty() {
            return Err(Problem::not_found("there is nothing at this path; GET /v1/openapi.json lists the routes"));
        }
        let allow = allowed.join(", ");
        Err(Problem::new(Kind::MethodNotAllowed, format!("this path takes {allow}")).with_header(header::ALLOW, &allow))
    }

    /// The body as JSON of type `T`; every way in which it does not fit names the field and what to do.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let kind = self.header(header::CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "send JSON with the header content-type: application/json",
            ));
        }
        self.check_size()?;
        let mut parser = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut parser).map_err(|error| unfit_json(&error))?;
        parser.end().map_err(|_| Problem::new(Kind::MalformedJson, "there is text after the end of the JSON value"))?;
        Ok(value)
    }

    /// Refuses a body above [`MAX_BODY_BYTES`].
    pub fn check_size(&self) -> Result<(), Problem> {
        if self.body.len() > MAX_BODY_BYTES {
            return Err(Problem::new(Kind::BodyTooLarge, format!("the body is above {MAX_BODY_BYTES} bytes")));
        }
        Ok(())
    }

    /// The query as named values; an unknown, repeated or undecodable name is a problem that names it.
    pub fn query(&self, known: &[&'static str]) -> Result<Query, Problem> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        let mut fields = Fields::default();
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            match known.iter().find(|k| **k == name) {
                None => fields.add(
                    &name,
                    "unknown",
                    format!(
                        "unknown parameter; known are: {}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    ),
                ),
                Some(k) if values.iter().any(|(n, _)| n == k) => {
                    fields.add(&name, "repeated", "give this parameter once".to_owned());
                }
                Some(k) => values.push((k, value.into_owned())),
            }
        }
        fields.done(())?;
        Ok(Query(values))
    }

    /// What counts as one caller in limits: an IPv4 address, or the /64 network of an IPv6 one, all of which one caller
    /// usually has.
    pub fn peer_network(&self) -> String {
        match self.peer.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            _ => self.peer.clone(),
        }
    }

    /// Which of the content types that are offered, such as `text/csv`, the caller likes best by the header `Accept`; the
    /// first if all are as good, or if none would do.
    pub fn prefers<'t>(&self, offered: &[&'t str]) -> &'t str {
        self.best_of(offered).or(offered.first().copied()).unwrap_or_default()
    }

    /// The same, but 406 if none would do.
    pub fn accepts<'t>(&self, offered: &[&'t str]) -> Result<&'t str, Problem> {
        let refused = || Problem::new(Kind::NotAcceptable, format!("this is offered as {}", offered.join(" or ")));
        self.best_of(offered).ok_or_else(refused)
    }

    fn best_of<'t>(&self, offered: &[&'t str]) -> Option<&'t str> {
        let lines = self.headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
        let accept: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
        if accept.is_empty() {
            return offered.first().copied();
        }
        let mut best = (None, 0.0);
        for kind in offered {
            let quality = quality(&accept, kind);
            if quality > best.1 {
                best = (Some(*kind), quality);
            }
        }
        best.0
    }

    /// A cookie's value by name.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find_map(|(key, value)| (key == name).then_some(value))
    }
}

/// How much a caller wants a content type, by the narrowest range that has it.
fn quality(accept: &[&str], kind: &str) -> f32 {
    let family = kind.split('/').next().unwrap_or_default();
    let mut found = (0, 0.0);
    for range in accept.iter().flat_map(|line| line.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let narrow = match name.strip_suffix("/*") {
            _ if name == kind => 3,
            Some(of) if of == family => 2,
            Some("*") => 1,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if narrow > found.0 {
            found = (narrow, quality);
        }
    }
    found.1
}

/// Named values of a query, each known and given once.
#[derive(Debug, Clone)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    /// The value of one parameter, if given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find_map(|(key, value)| (*key == name).then_some(value.as_str()))
    }

    /// A parameter that is `true`, or `false` as if it were left out.
    pub fn flag(&self, name: &'static str) -> Result<bool, Problem> {
        match self.get(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(Problem::field(name, "invalid", "give true or false")),
        }
    }

    /// The page size: `limit`, from 1 to `most`, or `usual` if left out.
    pub fn limit(&self, usual: u16, most: u16) -> Result<u16, Problem> {
        match self.get("limit").map(str::parse::<u16>) {
            None => Ok(usual),
            Some(Ok(limit)) if (1..=most).contains(&limit) => Ok(limit),
            Some(_) => Err(Problem::field("limit", "invalid", format!("give a whole number from 1 to {most}"))),
        }
    }
}

fn unfit_json(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let path = error.path().to_string();
    let inner = error.inner();
    // serde_json puts the offending value into some messages ("invalid type: string \"…\""): such text may be a secret
    // or a message body, so only messages about names are passed on.
    let text = inner.to_string();
    let named = |prefix: &str| {
        let rest = text.strip_prefix(prefix)?.strip_prefix('`')?;
        let (name, rest) = rest.split_once('`')?;
        (name.len() <= 64).then(|| (name.to_owned(), rest.to_owned()))
    };
    if !inner.is_data() {
        let place = format!("line {}, column {}", inner.line(), inner.column());
        return Problem::new(Kind::MalformedJson, format!("the body is not valid JSON ({place})"));
    }
    let within = |name: &str| if path == "." || path == name { name.to_owned() } else { format!("{path}.{name}") };
    let mut fields = Fields::default();
    if let Some((name, rest)) = named("unknown field ") {
        // The path of an unknown field already ends in its name.
        let field = if path.ends_with(&name) { path.clone() } else { within(&name) };
        let known = rest.split(" at line").next().unwrap_or_default().trim_start_matches(", ").to_owned();
        fields.add(&field, "unknown", format!("unknown field: {known}"));
    } else if let Some((name, _)) = named("missing field ") {
        fields.add(&within(&name), "missing", "this field is required".to_owned());
    } else if let Some((name, _)) = named("duplicate field ") {
        fields.add(&within(&name), "repeated", "give this field once".to_owned());
    } else {
        let expected = text.split(" at line").next().and_then(|t| t.rsplit_once("expected ")).map_or_else(
            || "the value does not fit".to_owned(),
            |(_, expected)| format!("the value does not fit: expected {expected}"),
        );
        fields.add(if path == "." { "(body)" } else { &path }, "type", expected);
    }
    fields.into_problem()
}

/// Collects what is wrong with each field, so that one answer names all of it.
#[derive(Debug, Default)]
pub struct Fields {
    errors: Vec<FieldError>,
}

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FieldError {
    /// The field, as a path into the request.
    pub field: String,
    /// A stable word for programs.
    pub code: Cow<'static, str>,
    /// What to do, for people.
    pub detail: String,
}

impl Fields {
    /// Notes one error.
    pub fn add(&mut self, field: &str, code: &'static str, detail: String) {
        self.errors.push(FieldError { field: field.to_owned(), code: code.into(), detail });
    }

    /// Takes a parsed value, or notes why the field did not parse.
    pub fn take<T, E: std::fmt::Display>(&mut self, field: &str, parsed: Result<T, E>) -> Option<T> {
        parsed.map_err(|error| self.add(field, "invalid", error.to_string())).ok()
    }

    /// The value, or the problem that lists every error.
    pub fn done<T>(self, value: T) -> Result<T, Problem> {
        if self.errors.is_empty() { Ok(value) } else { Err(self.into_problem()) }
    }

    /// The problem that lists every error.
    pub fn into_problem(self) -> Problem {
        let names: Vec<&str> = self.errors.iter().map(|error| error.field.as_str()).collect();
        let detail = if names.is_empty() {
            "the request does not fit".to_owned()
        } else {
            format!("look at: {}", names.join(", "))
        };
        let mut problem = Problem::new(Kind::InvalidInput, detail);
        problem.errors = self.errors;
        problem
    }
}

/// Every kind of problem that the API answers with. The name is the stable end of `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The body is not JSON.
    MalformedJson,
    /// Fields are missing, unknown or wrong; `errors` lists them.
    InvalidInput,
    /// No session or API key, or one that ended.
    NotSignedIn,
    /// A session and an API key at the same time.
    TwoCredentials,
    /// The API key lacks a scope.
    ScopeMissing,
    /// An API key came where only a person may.
    SessionNeeded,
    /// The account has as many API keys as it may.
    TooManyApiKeys,
    /// The plan cannot be billed for what is used beyond all credit.
    NoOverage,
    /// E-mail address or password is wrong.
    WrongCredentials,
    /// A mail's link is used up, too old or wrong.
    LinkNotValid,
    /// The request came from another site.
    CrossSite,
    /// Nothing at this path or with this id.
    NotFound,
    /// The path is there, the method is not.
    MethodNotAllowed,
    /// The body is too large.
    BodyTooLarge,
    /// Not JSON by its content type.
    UnsupportedMediaType,
    /// None of the content types that are offered is wanted.
    NotAcceptable,
    /// The header `Idempotency-Key` is missing or malformed.
    IdempotencyKeyMissing,
    /// The same `Idempotency-Key` came with another body.
    IdempotencyKeyReused,
    /// No Twilio account is connected.
    NotConnected,
    /// Twilio did not accept the credential.
    CarrierRefusedCredential,
    /// The Twilio account is suspended or closed.
    CarrierAccountInactive,
    /// Another TelBuddy account has connected this Twilio account.
    CarrierAccountTaken,
    /// Twilio cannot be reached or is busy.
    CarrierUnavailable,
    /// The API key lacks a permission at Twilio.
    CarrierForbids,
    /// Twilio did not take a change.
    CarrierRejected,
    /// Numbers are connected, and what was asked for would cut them off.
    NumbersConnected,
    /// Somebody changed a connected number's configuration.
    NumberChanged,
    /// What Twilio answers may not be passed on.
    MediaRefused,
    /// Another template of the account has the name.
    TemplateNameTaken,
    /// The template was changed since it was read.
    TemplateChanged,
    /// The account has as many templates as it may.
    TooManyTemplates,
    /// What was to be taken back is with Twilio already.
    TooLate,
    /// The message is not `unconfirmed`, or its time to decide is over.
    NothingToDecide,
    /// The credit does not cover the message.
    NotEnoughCredit,
    /// The account's segments of the day are used up.
    DailyCeiling,
    /// The account's sending is frozen or paused.
    SendingStopped,
    /// Sending was frozen anew since the freeze that is to be lifted.
    FrozenAgain,
    /// The destination country is not on the account's list.
    CountryNotAllowed,
    /// The webhook's signature does not fit.
    BadSignature,
    /// The account has as many endpoints as it may have.
    TooManyEndpoints,
    /// The endpoint is disabled.
    EndpointDisabled,
    /// Too many tries.
    TooManyRequests,
    /// Something we need is not available; try again.
    Unavailable,
    /// Our fault.
    Internal,
}

impl Kind {
    /// Stable name, status and title.
    pub fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedJson => ("malformed-json", StatusCode::BAD_REQUEST, "The body is not valid JSON"),
            Self::InvalidInput => ("invalid-input", StatusCode::UNPROCESSABLE_ENTITY, "The request does not fit"),
            Self::NotSignedIn => ("not-signed-in", StatusCode::UNAUTHORIZED, "Sign in first"),
            Self::TwoCredentials => {
                ("two-credentials", StatusCode::BAD_REQUEST, "The request has both a session and an API key")
            }
            Self::ScopeMissing => ("scope-missing", StatusCode::FORBIDDEN, "The API key may not do this"),
            Self::SessionNeeded => ("session-needed", StatusCode::FORBIDDEN, "No API key may do this"),
            Self::NoOverage => ("no-overage", StatusCode::CONFLICT, "The plan has no overage"),
            Self::TooManyApiKeys => ("too-many-api-keys", StatusCode::CONFLICT, "The account has all its API keys"),
            Self::WrongCredentials => {
                ("wrong-credentials", StatusCode::UNAUTHORIZED, "The e-mail address or the password is wrong")
            }
            Self::LinkNotValid => ("link-not-valid", StatusCode::UNPROCESSABLE_ENTITY, "The link is not valid"),
            Self::CrossSite => ("cross-site", StatusCode::FORBIDDEN, "The request came from another site"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "Nothing is here"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "This path does not take this method")
            }
            Self::BodyTooLarge => ("body-too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "Only JSON is taken here")
            }
            Self::NotAcceptable => {
                ("not-acceptable", StatusCode::NOT_ACCEPTABLE, "It is not offered as what is accepted")
            }
            Self::IdempotencyKeyMissing => {
                ("idempotency-key-missing", StatusCode::BAD_REQUEST, "An Idempotency-Key is needed")
            }
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used for another request",
            ),
            Self::NotConnected => ("not-connected", StatusCode::CONFLICT, "No Twilio account is connected"),
            Self::CarrierRefusedCredential => {
                ("carrier-refused-credential", StatusCode::UNPROCESSABLE_ENTITY, "Twilio did not accept the credential")
            }
            Self::CarrierAccountInactive => {
                ("carrier-account-inactive", StatusCode::UNPROCESSABLE_ENTITY, "The Twilio account is not active")
            }
            Self::CarrierAccountTaken => (
                "carrier-account-taken",
                StatusCode::CONFLICT,
                "The Twilio account is connected to another TelBuddy account",
            ),
            Self::CarrierUnavailable => {
                ("carrier-unavailable", StatusCode::SERVICE_UNAVAILABLE, "Twilio cannot be asked right now")
            }
            Self::CarrierForbids => {
                ("carrier-forbids", StatusCode::UNPROCESSABLE_ENTITY, "The API key lacks a permission at Twilio")
            }
            Self::CarrierRejected => {
                ("carrier-rejected", StatusCode::UNPROCESSABLE_ENTITY, "Twilio did not take the change")
            }
            Self::NumbersConnected => ("numbers-connected", StatusCode::CONFLICT, "Numbers are connected"),
            Self::NumberChanged => {
                ("number-changed", StatusCode::CONFLICT, "The configuration was changed at Twilio meanwhile")
            }
            Self::MediaRefused => ("media-refused", StatusCode::BAD_GATEWAY, "The media cannot be passed on"),
            Self::TemplateNameTaken => ("template-name-taken", StatusCode::CONFLICT, "Another template has this name"),
            Self::TemplateChanged => ("template-changed", StatusCode::CONFLICT, "The template was changed meanwhile"),
            Self::TooManyTemplates => ("too-many-templates", StatusCode::CONFLICT, "The account has all its templates"),
            Self::TooLate => ("too-late", StatusCode::CONFLICT, "It is too late for that"),
            Self::NothingToDecide => ("nothing-to-decide", StatusCode::CONFLICT, "There is nothing to decide"),
            Self::NotEnoughCredit => ("not-enough-credit", StatusCode::PAYMENT_REQUIRED, "The credit is used up"),
            Self::DailyCeiling => ("daily-ceiling", StatusCode::TOO_MANY_REQUESTS, "The day's segments are used up"),
            Self::SendingStopped => ("sending-stopped", StatusCode::FORBIDDEN, "Sending is stopped"),
            Self::FrozenAgain => ("frozen-again", StatusCode::CONFLICT, "Sending was frozen again meanwhile"),
            Self::CountryNotAllowed => {
                ("country-not-allowed", StatusCode::FORBIDDEN, "This destination is not allowed")
            }
            Self::BadSignature => ("bad-signature", StatusCode::FORBIDDEN, "The signature does not fit"),
            Self::TooManyEndpoints => {
                ("too-many-endpoints", StatusCode::CONFLICT, "The account has as many endpoints as it may have")
            }
            Self::EndpointDisabled => ("endpoint-disabled", StatusCode::CONFLICT, "The endpoint is disabled"),
            Self::TooManyRequests => ("too-many-requests", StatusCode::TOO_MANY_REQUESTS, "Too many tries"),
            Self::Unavailable => ("unavailable", StatusCode::SERVICE_UNAVAILABLE, "Not available right now"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong on our side"),
        }
    }
}

/// A refusal or fault as the caller sees it: RFC 9457 problem details.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, String)>,
}

/// The JSON of a [`Problem`].
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// A stable address that names the kind.
    #[serde(rename = "type")]
    #[schema(example = "https://telbuddy.dev/problems/invalid-input")]
    kind: String,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status, again.
    status: u16,
    /// What happened this time and what to do.
    detail: String,
    /// Names this request; give it to support.
    request_id: String,
    /// For input: each field at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl Problem {
    /// A problem of a kind, with what happened and what to do.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// Nothing at this path or with this id.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// One field is wrong.
    pub fn field(field: &str, code: &'static str, detail: impl Into<String>) -> Self {
        let mut fields = Fields::default();
        fields.add(field, code, detail.into());
        fields.into_problem()
    }

    /// The same with what is at fault: field, stable word, what to know.
    #[must_use]
    pub fn with_errors(mut self, errors: impl IntoIterator<Item = (String, &'static str, String)>) -> Self {
        let error =
            |(field, code, detail): (String, &'static str, String)| FieldError { field, code: code.into(), detail };
        self.errors.extend(errors.into_iter().map(error));
        self
    }

    /// The same with a further header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The answer for the request named `id`.
    pub fn into_reply(self, id: RequestId) -> Reply {
        let (name, status, title) = self.kind.facts();
        let body = ProblemBody {
            kind: format!("https://telbuddy.dev/problems/{name}"),
            title,
            status: status.as_u16(),
            detail: self.detail,
            request_id: id.to_string(),
            errors: self.errors,
        };
        let mut reply = Reply::json(status, &body);
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in self.headers {
            reply = reply.with_header(name, &value);
        }
        reply
    }
}

/// A fault becomes an answer that tells nothing of the inside; the log has the rest.
impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        match &fault {
            Fault::Transient(what) => {
                tracing::warn!(fault = %what, "transient fault");
                Self::new(
                    Kind::Unavailable,
                    "try again in a few seconds, where an Idempotency-Key is taken with the same one",
                )
                .with_header(header::RETRY_AFTER, "2")
            }
            Fault::Ambiguous(what) => {
                tracing::warn!(fault = %what, "outcome not known");
                Self::new(Kind::Unavailable, "it is not known whether this took effect; look before you try again")
                    .with_header(header::RETRY_AFTER, "2")
            }
            Fault::Permanent(what) => {
                tracing::error!(fault = %what, "permanent fault");
                Self::new(Kind::Internal, "try again later; if it stays, give support the request_id")
            }
        }
    }
}

/// One HTTP answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Headers but for cookies.
    pub headers: HeaderMap,
    /// `Set-Cookie` lines.
    pub cookies: Vec<String>,
    /// Body; all our answers but one are text.
    pub body: String,
    /// A body that is no text, in place of `body`.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), cookies: Vec::new(), body: String::new(), bytes: Vec::new() }
    }

    /// A JSON answer. A value that does not serialize (none of ours) answers 500.
    pub fn json(status: StatusCode, value: &impl Serialize) -> Self {
        match serde_json::to_string(value) {
            Ok(body) => Self::text(status, "application/json", body),
            Err(_) => Self::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// An answer with text of a content type.
    pub fn text(status: StatusCode, content_type: &'static str, body: String) -> Self {
        let mut reply = Self::empty(status);
        reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        reply.body = body;
        reply
    }

    /// An answer with bytes of a content type.
    pub fn bytes(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Self {
        let mut reply = Self::text(status, content_type, String::new());
        reply.bytes = bytes;
        reply
    }

    /// The same with a header; a value that is no header text is left out.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The same with a cookie line.
    #[must_use]
    pub fn with_cookie(mut self, line: String) -> Self {
        self.cookies.push(line);
        self
    }
}

/// Runs a handler and turns a problem into its answer; every answer carries the request's id and is never cached.
pub async fn answer(id: RequestId, handled: impl Future<Output = Result<Reply, Problem>>) -> Reply {
    let reply = handled.await.unwrap_or_else(|problem| problem.into_reply(id));
    reply
        .with_header(HeaderName::from_static("x-request-id"), &id.to_string())
        .with_header(header::CACHE_CONTROL, "no-store")
        .with_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the shape is under test")]
    struct Ask {
        to: String,
        media: Option<Vec<String>>,
    }

    pub(super) fn request(body: &str) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        Request {
            id: RequestId::from_bits(1),
            now: Timestamp::UNIX_EPOCH,
            method: Method::POST,
            path: "/v1/messages".to_owned(),
            query: String::new(),
            headers,
            body: body.as_bytes().to_vec(),
            peer: "192.0.2.1".to_owned(),
        }
    }

    fn errors(body: &str) -> String {
        let reply = request(body).json::<Ask>().unwrap_err().into_reply(RequestId::from_bits(1));
        format!("{} {}", reply.status.as_u16(), reply.body)
    }

    #[test]
    fn each_way_not_to_fit_names_its_field() {
        insta::assert_snapshot!(errors(r#"{"to":"x","tow":1}"#));
        insta::assert_snapshot!(errors("{}"));
        insta::assert_snapshot!(errors(r#"{"to":5}"#));
        insta::assert_snapshot!(errors(r#"{"to":"a","to":"b"}"#));
        insta::assert_snapshot!(errors(r#"{"to":"a","media":["x",7]}"#));
        insta::assert_snapshot!(errors("[]"));
        insta::assert_snapshot!(errors(r#"{"to":"#));
        insta::assert_snapshot!(errors(r#"{"to":"a"} more"#));
    }

    #[test]
    fn an_error_never_repeats_the_value() {
        for body in
            [r#"{"to":{"secret-value":1}}"#, r#"{"to":["secret-value"]}"#, r#"{"to":"x","media":"secret-value"}"#]
        {
            assert!(!errors(body).contains("secret-value"), "{}", errors(body));
        }
    }

    #[test]
    fn routes_capture_their_segments_and_nothing_else() {
        let route = Route { method: "GET", path: "/v1/messages/{id}", access: Access::Open };
        assert_eq!(route.captures("/v1/messages/msg_1"), Some(vec!["msg_1"]));
        assert_eq!(route.captures("/v1/messages/"), None);
        assert_eq!(route.captures("/v1/messages"), None);
        assert_eq!(route.captures("/v1/messages/a/b"), None);
    }

    #[test]
    fn callers_of_one_ipv6_network_are_one_caller() {
        let mut request = request("");
        assert_eq!(request.peer_network(), "192.0.2.1");
        request.peer = "2001:db8:1:2:3:4:5:6".to_owned();
        assert_eq!(request.peer_network(), "2001:db8:1:2::/64");
    }

    #[test]
    fn the_content_type_that_the_caller_likes_best_is_chosen() {
        let offered = ["application/json", "text/csv", "text/html"];
        let chosen = |accept: &str| {
            let mut request = request("");
            request.headers.insert(header::ACCEPT, HeaderValue::from_str(accept).unwrap());
            request.prefers(&offered)
        };
        for (accept, expected) in [
            ("*/*", "application/json"),
            ("text/csv", "text/csv"),
            ("Text/CSV; charset=utf-8", "text/csv"),
            ("text/*", "text/csv"),
            ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
            ("text/*;q=0.9, text/csv;q=0", "text/html"),
            ("image/png", "application/json"),
            ("text/csv;q=none", "application/json"),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
        assert_eq!(request("").prefers(&offered), "application/json");
    }

    #[test]
    fn what_is_not_offered_is_not_acceptable_and_without_a_wish_there_is_the_first() {
        let accepts = |accept: &'static str| {
            let mut request = request("");
            request.headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            request.accepts(&["application/json", "text/csv"]).map_err(|problem| problem.kind())
        };
        assert_eq!(request("").accepts(&["application/json"]).ok(), Some("application/json"));
        assert_eq!((accepts(""), accepts("*/*")), (Ok("application/json"), Ok("application/json")));
        assert_eq!(accepts("text/*, image/png"), Ok("text/csv"));
        for none in ["application/xml", "text/csv;q=0", "image/*, text/html", "nonsense"] {
            assert_eq!(accepts(none), Err(Kind::NotAcceptable), "{none}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut request = request("");
        request.headers.insert(header::COOKIE, HeaderValue::from_static("a=1; b=2=3"));
        assert_eq!(request.cookie("b"), Some("2=3"));
        assert_eq!(request.cookie("c"), None);
    }
}
