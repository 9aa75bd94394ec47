//! Twilio's API: checks credentials, creates messages; `content.rs` reads what they say, `listing.rs` lists them,
//! `reconciling.rs` reads a day of them, `numbers.rs` lists and configures numbers. The create client never repeats a request; none follows a redirect.

mod content;
mod listing;
mod numbers;
mod reconciling;

use std::time::Duration;

use reqwest::{Client, Response, StatusCode, header, redirect, retry};
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::config::{Config, ConfigError, TWILIO_URL};
use super::{Live, Need, not_asked_for};
use crate::credential::{Auth, Carrier, Check, CheckCarrier, Sid};
use crate::fault::Fault;
use crate::message::{CreateMessage, Created, Payload};

/// HTTP 10 s < function 30 s < lease 60 s.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Twilio {
    client: Option<Client>,
    base: Option<String>,
}

impl Twilio {
    pub(super) fn new(config: &Config, wanted: bool) -> Result<Self, ConfigError> {
        let base = config.optional(TWILIO_URL).map(|url| url.trim_end_matches('/').to_owned());
        if let Some(base) = &base {
            // An allow list: Twilio's own hosts come from the credential's region, anything else is on this machine.
            let loopback = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
            if !config.is_local() || !loopback.iter().any(|prefix| base.starts_with(prefix)) {
                return Err(ConfigError::Wrong(TWILIO_URL, "may only be a loopback address, and only at stage local"));
            }
        }
        let client = if wanted { Some(client()?) } else { None };
        Ok(Self { client, base })
    }

    fn client(&self) -> Result<&Client, Fault> {
        self.client.as_ref().ok_or_else(|| not_asked_for(Need::Twilio))
    }

    fn url(&self, carrier: &Carrier, path: &str) -> String {
        let origin = self.base.clone().unwrap_or_else(|| format!("https://{}", carrier.region.host()));
        format!("{origin}/2010-04-01/Accounts/{}{path}", carrier.account_sid.as_str())
    }
}

fn client() -> Result<Client, ConfigError> {
    Client::builder()
        .timeout(TIMEOUT)
        .connect_timeout(Duration::from_secs(5))
        // A connection that slept with a frozen environment may be dead: a failed first request would be `unknown`.
        .pool_idle_timeout(Duration::from_secs(4))
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .user_agent(concat!("telbuddy/", env!("CARGO_PKG_VERSION")))
        .tls_certs_only(super::tls::twilio_roots())
        .build()
        .map_err(|_| ConfigError::Wrong(TWILIO_URL, "no HTTP client can be built"))
}

/// Twilio's error answers.
#[derive(Deserialize, Default)]
struct ErrorAnswer {
    code: Option<u32>,
}

#[derive(Deserialize)]
struct AccountAnswer {
    friendly_name: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    status: Option<String>,
}

#[derive(Deserialize)]
struct MessageAnswer {
    sid: String,
}

fn authorized(request: reqwest::RequestBuilder, carrier: &Carrier) -> reqwest::RequestBuilder {
    match &carrier.auth {
        Auth::AuthToken(token) => request.basic_auth(carrier.account_sid.as_str(), Some(token.expose_secret())),
        Auth::ApiKey(sid, secret) => request.basic_auth(sid.as_str(), Some(secret.expose_secret())),
    }
}

async fn error_code(answer: Response) -> Option<u32> {
    answer.json::<ErrorAnswer>().await.unwrap_or_default().code
}

impl CheckCarrier for Live {
    /// 1 call: the account itself, or for an API key (which may not read it) a list of one message.
    async fn check_carrier(&self, carrier: &Carrier) -> Result<Check, Fault> {
        let path = match carrier.auth {
            Auth::AuthToken(_) => ".json",
            Auth::ApiKey(..) => "/Messages.json?PageSize=1",
        };
        let request = authorized(self.twilio.client()?.get(self.twilio.url(carrier, path)), carrier);
        let Ok(answer) = request.send().await else { return Ok(Check::Unreachable) };
        let status = answer.status();
        if status == StatusCode::OK {
            if matches!(carrier.auth, Auth::ApiKey(..)) {
                return Ok(Check::Works { friendly_name: None, trial: None });
            }
            let Ok(account) = answer.json::<AccountAnswer>().await else { return Ok(Check::Unreachable) };
            return Ok(match account.status.as_deref() {
                None | Some("active") => Check::Works {
                    friendly_name: account.friendly_name,
                    trial: account.kind.map(|kind| kind == "Trial"),
                },
                Some(_) => Check::Inactive,
            });
        }
        Ok(match (status, error_code(answer).await) {
            (StatusCode::TOO_MANY_REQUESTS, _) => Check::Busy,
            // 20005: the account is not active.
            (_, Some(20005)) => Check::Inactive,
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => Check::Refused,
            _ => Check::Unreachable,
        })
    }
}

impl CreateMessage for Live {
    /// 1 POST. Whatever does not prove that Twilio did not take the message is `Unknown`.
    async fn create_message(
        &self,
        carrier: &Carrier,
        sender: &str,
        payload: &Payload,
        status_callback: &str,
        validity_secs: u32,
    ) -> Created {
        let Ok(client) = self.twilio.client() else { return Created::NotProcessed { retry_after_secs: None } };
        let from = if Sid::parse("MG", sender).is_ok() { "MessagingServiceSid" } else { "From" };
        let validity = validity_secs.to_string();
        let mut form = vec![
            ("To", payload.to.as_str()),
            (from, sender),
            ("StatusCallback", status_callback),
            ("ValidityPeriod", &validity),
        ];
        if !payload.body.is_empty() {
            form.push(("Body", &payload.body));
        }
        form.extend(payload.media_urls.iter().map(|url| ("MediaUrl", url.as_str())));
        let request = authorized(client.post(self.twilio.url(carrier, "/Messages.json")), carrier).form(&form);
        let answer = match request.send().await {
            Ok(answer) => answer,
            // No connection, so no byte of the request was written.
            Err(error) if error.is_connect() => return Created::NotProcessed { retry_after_secs: None },
            Err(error) => {
                tracing::warn!(timeout = error.is_timeout(), "no answer from Twilio");
                return Created::Unknown;
            }
        };
        let status = answer.status();
        match status {
            StatusCode::CREATED => match answer.json::<MessageAnswer>().await {
                Ok(MessageAnswer { sid }) if Sid::parse("SM", &sid).is_ok() || Sid::parse("MM", &sid).is_ok() => {
                    Created::Accepted { sid }
                }
                Ok(_) | Err(_) => Created::Unknown,
            },
            StatusCode::TOO_MANY_REQUESTS => {
                let after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                Created::NotProcessed { retry_after_secs: after.and_then(|secs| secs.parse().ok()) }
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT => Created::Unknown,
            _ if status.is_client_error() => {
                Created::Rejected { http: status.as_u16(), code: error_code(answer).await }
            }
            _ => Created::Unknown,
        }
    }
}
