//! Stripe's API: a thin client over HTTP (docs/decisions/0023). `calls.rs` has the calls, `form.rs` the forms.
//!
//! What is repeated here is safe to repeat: every POST has a key of an operation of ours, and Stripe does one operation
//! once. No redirect is followed, and the key goes to one host only.

mod calls;
mod form;

use std::time::{Duration, Instant};

use reqwest::{Client, Method, Response, StatusCode, header, redirect, retry};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::config::{Config, ConfigError, STAGE, STRIPE_URL};
use super::{Live, Need, not_asked_for};
use crate::billing::{OperationKey, Refused, StripeError};
use crate::fault::Fault;
use crate::platform::PlatformKeys;

/// The version of Stripe's API that this code is written for. The event destinations have to have the same.
pub const STRIPE_VERSION: &str = "2026-10-28.endive";

/// Stripe's one host.
const STRIPE: &str = "https://api.stripe.com";

/// How long and how often Stripe is asked.
#[derive(Clone, Copy)]
struct Limits {
    /// For one try.
    try_for: Duration,
    /// No further try begins after so long: it has to end before the function does.
    begin_until: Duration,
    tries: u32,
    /// Before the second try; twice that before the third.
    backoff: Duration,
}

const LIMITS: Limits = Limits {
    try_for: Duration::from_secs(10),
    begin_until: Duration::from_secs(10),
    tries: 3,
    backoff: Duration::from_millis(400),
};

/// The longest that `Retry-After` is waited for here; a caller waits for more by itself.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

pub(super) struct Stripe {
    client: Option<Client>,
    base: String,
    /// The deployment, as objects at Stripe name it.
    stage: String,
    limits: Limits,
}

/// One request.
struct Ask<'a> {
    method: Method,
    path: String,
    params: Value,
    key: Option<&'a OperationKey>,
}

impl Ask<'_> {
    /// As errors and logs name it: without the id, which is no secret, but of no use either.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Stripe {
    pub(super) fn new(config: &Config, wanted: bool) -> Result<Self, ConfigError> {
        let base = config.optional(STRIPE_URL).unwrap_or(STRIPE).trim_end_matches('/').to_owned();
        let loopback = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
        let local = config.is_local() && loopback.iter().any(|prefix| base.starts_with(prefix));
        if base != STRIPE && !local {
            return Err(ConfigError::Wrong(STRIPE_URL, "may only be a loopback address, and only at stage local"));
        }
        let client = if wanted { Some(client(LIMITS)?) } else { None };
        let stage = config.optional(STAGE).unwrap_or_default().to_owned();
        Ok(Self { client, base, stage, limits: LIMITS })
    }

    /// Asks until there is an answer that counts, or the limits are reached.
    async fn ask(&self, secret: &str, ask: &Ask<'_>) -> Result<Value, StripeError> {
        let client = self.client.as_ref().ok_or_else(|| not_asked_for(Need::Stripe))?;
        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let outcome = self.try_once(client, secret, ask).await;
            let failed = match outcome {
                Outcome::Done(value) => return Ok(value),
                Outcome::Refused(refused) => return Err(StripeError::Refused(refused)),
                Outcome::Failed(failed) => failed,
            };
            let wait = match failed.again {
                Some(asked) => asked.max(backoff(self.limits.backoff, tries)?),
                None => return Err(failed.fault.into()),
            };
            if tries >= self.limits.tries || wait > LONGEST_WAIT || began.elapsed() + wait > self.limits.begin_until {
                return Err(failed.fault.into());
            }
            tracing::warn!(tries, fault.at_stripe = %failed.fault, "Stripe is asked again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn try_once(&self, client: &Client, secret: &str, ask: &Ask<'_>) -> Outcome {
        let form = form::encoded(&ask.params);
        let mut url = format!("{}{}", self.base, ask.path);
        let in_query = ask.method != Method::POST;
        if in_query && !form.is_empty() {
            url = format!("{url}?{form}");
        }
        let mut request =
            client.request(ask.method.clone(), url).bearer_auth(secret).header("stripe-version", STRIPE_VERSION);
        if let Some(key) = ask.key {
            request = request.header("idempotency-key", key.as_str());
        }
        if !in_query {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        match request.send().await {
            Ok(answer) => read(ask, answer).await,
            // No connection, so no byte of the request was written.
            Err(error) if error.is_connect() => Outcome::again(Fault::transient("Stripe cannot be reached")),
            Err(error) if error.is_timeout() => Outcome::again(unknown(ask, "no answer in time")),
            Err(_) => Outcome::again(unknown(ask, "the connection broke")),
        }
    }
}

fn client(limits: Limits) -> Result<Client, ConfigError> {
    Client::builder()
        .timeout(limits.try_for)
        .connect_timeout(Duration::from_secs(3))
        // A connection that slept with a frozen environment may be dead; what fails on one is tried again.
        .pool_idle_timeout(Duration::from_secs(4))
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .user_agent(concat!("telbuddy/", env!("CARGO_PKG_VERSION")))
        .tls_certs_only(super::tls::all_roots())
        .build()
        .map_err(|_| ConfigError::Wrong(STRIPE_URL, "no HTTP client can be built"))
}

/// What came of one try.
enum Outcome {
    Done(Value),
    Refused(Refused),
    Failed(Failed),
}

/// A try that says nothing.
struct Failed {
    fault: Fault,
    /// How long Stripe asks to wait before another one; nothing if another one will not help.
    again: Option<Duration>,
}

impl Outcome {
    fn again(fault: Fault) -> Self {
        Self::Failed(Failed { fault, again: Some(Duration::ZERO) })
    }
}

/// It is not known whether Stripe did it. What changes nothing, or can be asked for again without a key, may be.
fn unknown(ask: &Ask<'_>, why: &str) -> Fault {
    let text = format!("Stripe, {}: {why}", ask.name());
    if ask.method == Method::POST { Fault::Ambiguous(text) } else { Fault::Transient(text) }
}

/// Stripe's error answers. Its words are left out: they may repeat what was sent.
#[derive(Deserialize, Default)]
struct ErrorAnswer {
    #[serde(default)]
    error: ErrorParts,
}

#[derive(Deserialize, Default)]
struct ErrorParts {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    param: String,
}

async fn read(ask: &Ask<'_>, answer: Response) -> Outcome {
    let status = answer.status();
    let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (says_again, after, request) =
        (text("stripe-should-retry"), text("retry-after"), text("request-id").unwrap_or_default());
    let Ok(body) = answer.bytes().await else { return Outcome::again(unknown(ask, "the answer broke off")) };
    if status.is_success() {
        return match serde_json::from_slice(&body) {
            Ok(value) => Outcome::Done(value),
            Err(_) => Outcome::Failed(Failed { fault: unknown(ask, "the answer does not read"), again: None }),
        };
    }
    let ErrorAnswer { error } = serde_json::from_slice(&body).unwrap_or_default();
    let busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::CONFLICT) || error.code == "lock_timeout";
    let again = match says_again.as_deref() {
        Some("true") => true,
        Some("false") => false,
        _ => busy || status.is_server_error(),
    };
    let again = again.then(|| Duration::from_secs(after.and_then(|secs| secs.parse().ok()).unwrap_or(0)));
    let told = format!("Stripe, {}: {} {} {} ({request})", ask.name(), status.as_u16(), error.kind, error.code);
    if busy {
        return Outcome::Failed(Failed { fault: Fault::Transient(told), again });
    }
    if status.is_server_error() {
        return Outcome::Failed(Failed { fault: unknown(ask, &told), again });
    }
    // Our key is wrong or may not do this: nothing that the caller asked for is at fault.
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) || !status.is_client_error() {
        return Outcome::Failed(Failed { fault: Fault::Permanent(told), again: None });
    }
    if again.is_some() {
        return Outcome::Failed(Failed { fault: Fault::Transient(told), again });
    }
    Outcome::Refused(Refused {
        what: ask.name(),
        status: status.as_u16(),
        kind: error.kind,
        code: error.code,
        param: error.param,
        request,
    })
}

/// Twice as long for each try, and by chance down to half of that, so that many do not come again at once.
fn backoff(first: Duration, tries: u32) -> Result<Duration, Fault> {
    let most = first.saturating_mul(1 << tries.saturating_sub(1).min(8));
    let [chance] = super::clock::random()?;
    Ok(most / 2 + (most / 2).mul_f64(f64::from(chance) / 255.0))
}

impl Live {
    async fn ask_stripe<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<T, StripeError> {
        let platform = self.platform().await?;
        let secret = platform
            .stripe_key
            .as_ref()
            .ok_or_else(|| Fault::permanent("nothing is sold here: the platform's secret holds no key of Stripe's"))?;
        let value = self.stripe.ask(secret.expose_secret(), &ask).await?;
        serde_json::from_value(value).map_err(|error| {
            // Names of fields and types only.
            StripeError::Fault(Fault::Permanent(format!("Stripe, {}: {}", ask.name(), shape(&error))))
        })
    }

    /// The same for what may not be there.
    async fn find_at_stripe<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Result<Option<T>, StripeError> {
        match self.ask_stripe(ask).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Why an answer does not read, without the value at fault.
fn shape(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("unknown variant") {
        text
    } else {
        "the answer has another shape".to_owned()
    }
}

#[cfg(test)]
mod tests;
