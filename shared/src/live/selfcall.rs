//! Calls our own public addresses, to see that Twilio could. It goes nowhere else.

use std::time::Duration;

use reqwest::{Client, header, redirect, retry};

use super::Live;
use super::config::{Config, ConfigError, PUBLIC_URL};
use crate::routine::{CallSelf, SelfCall};

/// Twilio itself waits 15 s.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Door {
    client: Option<Client>,
}

impl Door {
    pub(super) fn new(config: &Config, wanted: bool) -> Result<Self, ConfigError> {
        if !wanted {
            return Ok(Self { client: None });
        }
        let client = Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(5))
            // Each test looks the name up and shakes hands anew.
            .pool_max_idle_per_host(0)
            .http1_only()
            .https_only(!config.is_local())
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("telbuddy-self-test/", env!("CARGO_PKG_VERSION")))
            .tls_certs_only(super::tls::all_roots())
            .build()
            .map_err(|_| ConfigError::Wrong(PUBLIC_URL, "no HTTP client can be built"))?;
        Ok(Self { client: Some(client) })
    }
}

impl CallSelf for Live {
    async fn call_self(&self, call: &SelfCall) -> Option<u16> {
        let client = self.door.client.as_ref()?;
        let mut request = client
            .post(format!("{}{}", call.origin, call.path))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header("x-twilio-signature", &call.signature)
            .body(call.form.clone());
        if let Some(settings) = &call.settings {
            request = request.header("x-twilio-webhooks-signature-settings", settings);
        }
        match request.send().await {
            Ok(answer) => Some(answer.status().as_u16()),
            // Without its text: that has the path in it.
            Err(error) => {
                let (timeout, connect) = (error.is_timeout(), error.is_connect());
                tracing::warn!(timeout, connect, "our own address does not answer");
                None
            }
        }
    }
}
