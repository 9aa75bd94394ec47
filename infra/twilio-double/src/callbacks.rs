//! Sends webhooks as Twilio does: form, signature, idempotency token, retries by the `#rc=…&rp=…` fragment of the URL.

use std::time::{Duration, Instant};

use reqwest::header::CONTENT_TYPE;
use telbuddy::inbound::signature;
use url::{Host, Url};

use crate::Inner;
use crate::faults::{self, Kind};
use crate::rest::Pairs;
use crate::state::{Account, Callback, StoreError};

/// What the receiver answered.
pub(crate) struct Reply {
    pub status: u16,
    pub body: String,
}

/// Connection overrides of the URL's fragment; `ct` (connect time) has no meaning on one machine.
struct Overrides {
    retries: u32,
    retry_on: Vec<String>,
    read: Duration,
    total: Duration,
}

impl Overrides {
    fn of(url: &Url) -> Self {
        let pairs = Pairs::parse(url.fragment().unwrap_or_default());
        let number = |name| pairs.get(name).and_then(|text| text.parse::<u64>().ok());
        let millis = |name| Duration::from_millis(number(name).unwrap_or(15_000).clamp(100, 15_000));
        Self {
            retries: number("rc").and_then(|n| u32::try_from(n).ok()).unwrap_or(1).min(5),
            retry_on: pairs.get("rp").unwrap_or("ct").split(',').map(str::to_owned).collect(),
            read: millis("rt"),
            total: millis("tt"),
        }
    }

    fn retries(&self, outcome: &Result<Reply, reqwest::Error>) -> bool {
        let name = match outcome {
            Ok(reply) if reply.status >= 500 => "5xx",
            Ok(reply) if reply.status >= 400 => "4xx",
            Ok(_) => return false,
            Err(error) if error.is_connect() => "ct",
            Err(_) => "rt",
        };
        self.retry_on.iter().any(|on| on == name || on == "all")
    }
}

/// True when the double may call this URL: HTTP to this machine, or any host when the options allow it.
pub(crate) fn may_call(url: &str, any_host: bool) -> bool {
    let Ok(url) = Url::parse(url) else {
        return false;
    };
    let loopback = match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    matches!(url.scheme(), "http" | "https") && (loopback || any_host)
}

/// The URL that Twilio signs: without user and fragment, for calls over HTTPS also without the port.
fn signed_url(target: &Url, voice: bool) -> String {
    let mut signed = target.clone();
    if voice && signed.scheme() == "https" {
        let _ = signed.set_port(None);
    }
    signed.into()
}

impl Inner {
    /// Sends a webhook; when it fails and a fallback URL is set, sends it there with the error.
    pub(crate) async fn send_or_fall_back(&self, hook: &Callback) -> Result<Reply, String> {
        let outcome = self.send_hook(hook).await;
        let failed = outcome.as_ref().map_or(true, |reply| reply.status >= 400);
        let Some((url, method)) = hook.fallback.as_ref().filter(|_| failed) else {
            return outcome;
        };
        let mut second = Callback { url: url.clone(), method: method.clone(), fallback: None, ..hook.clone() };
        second.params.push(("ErrorCode".into(), "11200".into()));
        // The fragment steers the sender; it is never sent.
        let failed = hook.url.split_once('#').map_or(&hook.url[..], |(url, _)| url);
        second.params.push(("ErrorUrl".into(), failed.into()));
        self.send_hook(&second).await
    }

    /// Sends one webhook with its retries; `Err` says why no answer came.
    async fn send_hook(&self, hook: &Callback) -> Result<Reply, String> {
        if !may_call(&hook.url, self.options.allow_any_host) {
            return Err(format!("{} is not on this machine, the double does not call it", hook.url));
        }
        let account: Option<Account> = self.store.get(&hook.account).map_err(|error| error.to_string())?;
        let account = account.ok_or("the account is gone")?;
        let mut target = Url::parse(&hook.url).map_err(|error| error.to_string())?;
        let overrides = Overrides::of(&target);
        let login = (target.username().to_owned(), target.password().map(str::to_owned));
        target.set_fragment(None);
        let (_, _) = (target.set_username(""), target.set_password(None));
        let in_query = hook.method == "GET";
        if in_query {
            target.query_pairs_mut().extend_pairs(&hook.params);
        }
        let params: &[(String, String)] = if in_query { &[] } else { &hook.params };
        let signed = signed_url(&target, hook.voice);
        let signature = match &account.shared_key {
            Some((_, secret)) => signature::sign_with_shared_key(secret, &signed, params),
            None => signature::sign(&account.token, &signed, params),
        };
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();

        let started = Instant::now();
        let mut tries_left = overrides.retries;
        let mut with_login = false;
        loop {
            let left = overrides.total.saturating_sub(started.elapsed());
            let method = if in_query { reqwest::Method::GET } else { reqwest::Method::POST };
            let mut request = self.http.request(method, target.clone()).timeout(overrides.read.min(left));
            request = request.header("X-Twilio-Signature", &signature).header("I-Twilio-Idempotency-Token", &hook.sid);
            if !in_query {
                let form = "application/x-www-form-urlencoded; charset=UTF-8";
                request = request.header(CONTENT_TYPE, form).body(body.clone());
            }
            if let Some((id, _)) = &account.shared_key {
                let settings = format!("key={id},algorithm=HMAC_SHA256");
                request = request.header("X-Twilio-Webhooks-Signature-Settings", settings);
            }
            if with_login {
                request = request.basic_auth(&login.0, login.1.as_ref());
            }
            let outcome = fetch(request).await;
            // Twilio sends the URL's user and password only after a 401.
            if !with_login && !login.0.is_empty() && outcome.as_ref().is_ok_and(|reply| reply.status == 401) {
                with_login = true;
                continue;
            }
            if tries_left == 0 || started.elapsed() >= overrides.total || !overrides.retries(&outcome) {
                return outcome.map_err(|error| error.to_string());
            }
            tries_left -= 1;
        }
    }

    /// Sends a stored callback, as the faults in force have it, and forgets it.
    pub(crate) async fn send_stored(&self, hook: &Callback) {
        let fault = hook.is_status.then(|| self.faults.strike(faults::OF_CALLBACKS, &hook.account)).flatten();
        let fault = fault.map(|fault| fault.kind);
        if fault != Some(Kind::CallbackLost) {
            self.send_and_log(hook).await;
        }
        if fault == Some(Kind::CallbackTwice) {
            self.send_and_log(hook).await;
        }
        let removed: Result<bool, StoreError> = self.store.change(|tx| tx.remove::<Callback>(&hook.sid));
        if let Err(error) = removed {
            tracing::error!(%error, "twilio-double: cannot forget a callback");
        }
    }

    async fn send_and_log(&self, hook: &Callback) {
        match self.send_or_fall_back(hook).await {
            Ok(reply) if reply.status < 300 => {}
            Ok(reply) => {
                tracing::warn!(status = reply.status, about = %hook.about, "twilio-double: callback refused");
            }
            Err(error) => {
                tracing::warn!(%error, about = %hook.about, "twilio-double: callback not delivered");
            }
        }
    }
}

async fn fetch(request: reqwest::RequestBuilder) -> Result<Reply, reqwest::Error> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    Ok(Reply { status, body: response.text().await? })
}
