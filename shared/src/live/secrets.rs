//! Secrets Manager: the platform's secret, read once per environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use zeroize::{Zeroize, Zeroizing};

use super::config::{Aws, Config, ConfigError, PLATFORM_SECRET, aws_config};
use super::{Live, Need, not_asked_for};
use crate::account::Peppers;
use crate::fault::Fault;
use crate::platform::{Platform, PlatformKeys};

pub(super) struct Secrets {
    client: Option<Client>,
    name: String,
    platform: OnceCell<Arc<Platform>>,
}

/// The secret's JSON: base64 of 32 random bytes each, and what Twilio and Stripe gave as they show it.
#[derive(Serialize, Deserialize)]
struct PlatformSecret {
    index_key: String,
    peppers: BTreeMap<u32, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    twilio_auth_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    twilio_auth_token_before: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stripe_webhook_secrets: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stripe_key: Option<String>,
}

impl Drop for PlatformSecret {
    fn drop(&mut self) {
        self.index_key.zeroize();
        self.peppers.values_mut().for_each(Zeroize::zeroize);
        self.twilio_auth_token.zeroize();
        self.twilio_auth_token_before.zeroize();
        self.stripe_webhook_secrets.zeroize();
        self.stripe_key.zeroize();
    }
}

/// A new platform secret, for the local system; on AWS an operator makes it (docs/runbooks).
pub fn new_platform_secret() -> Result<String, Fault> {
    let random = || super::clock::random::<32>().map(|bytes| BASE64.encode(&bytes));
    let secret = PlatformSecret {
        index_key: random()?,
        peppers: BTreeMap::from([(1, random()?)]),
        twilio_auth_token: None,
        twilio_auth_token_before: None,
        stripe_webhook_secrets: Vec::new(),
        stripe_key: None,
    };
    serde_json::to_string(&secret).map_err(|_| Fault::permanent("the platform secret did not serialize"))
}

impl Secrets {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client =
            wanted.then(|| Client::from_conf(aws_config!(aws_sdk_secretsmanager, config, aws, "SECRETS_MANAGER")));
        Ok(Self { client, name: config.required(PLATFORM_SECRET, wanted)?, platform: OnceCell::new() })
    }

    async fn load(&self) -> Result<Arc<Platform>, Fault> {
        let client = self.client.as_ref().ok_or_else(|| not_asked_for(Need::PlatformSecret))?;
        let answer = client.get_secret_value().secret_id(&self.name).send().await.map_err(|error| {
            let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or("no answer");
            Fault::Transient(format!("Secrets Manager: {code}"))
        })?;
        let text = Zeroizing::new(answer.secret_string.unwrap_or_default());
        platform(&text).map(Arc::new).ok_or(Fault::permanent("the platform secret does not read"))
    }
}

/// Reads the secret's JSON; `None` if it does not read.
fn platform(text: &str) -> Option<Platform> {
    let secret: PlatformSecret = serde_json::from_str(text).ok()?;
    let bytes = |text: &String| {
        let bytes = Zeroizing::new(BASE64.decode(text.as_bytes()).ok()?);
        (bytes.len() >= 32).then_some(bytes)
    };
    let peppers: Option<_> = secret.peppers.iter().map(|(version, text)| Some((*version, bytes(text)?))).collect();
    // An empty one would be a token that everybody knows.
    let known = |texts: &mut dyn Iterator<Item = &String>| {
        texts.filter(|text| !text.is_empty()).map(|text| text.as_str().into()).collect()
    };
    let mut tokens = [&secret.twilio_auth_token, &secret.twilio_auth_token_before].into_iter().flatten();
    Some(Platform {
        index_key: bytes(&secret.index_key)?,
        peppers: Peppers(peppers?),
        twilio_auth_tokens: known(&mut tokens),
        stripe_webhook_secrets: known(&mut secret.stripe_webhook_secrets.iter()),
        stripe_key: secret.stripe_key.as_deref().filter(|key| !key.is_empty()).map(Into::into),
    })
}

impl PlatformKeys for Live {
    async fn platform(&self) -> Result<Arc<Platform>, Fault> {
        self.secrets.platform.get_or_try_init(|| self.secrets.load()).await.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::ExposeSecret;

    #[test]
    fn stripes_signing_secrets_are_a_list_and_an_empty_one_is_none() {
        let plain = new_platform_secret().unwrap();
        for (more, secrets) in [
            ("", vec![]),
            (r#","stripe_webhook_secrets":["whsec_now","","whsec_then"]"#, vec!["whsec_now", "whsec_then"]),
        ] {
            let read = platform(&plain.replace("}}", &format!("}}{more}}}"))).unwrap();
            let found: Vec<_> = read.stripe_webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
            assert_eq!(found, secrets);
        }
        assert!(platform(&plain.replace("}}", r#"},"stripe_webhook_secrets":"whsec_one"}"#)).is_none());
    }

    #[test]
    fn a_secret_reads_with_tokens_of_twilio_and_without_and_an_empty_token_is_none() {
        let plain = new_platform_secret().unwrap();
        for (more, tokens) in [
            ("", vec![]),
            (r#","twilio_auth_token":"now""#, vec!["now"]),
            (r#","twilio_auth_token":"now","twilio_auth_token_before":"then""#, vec!["now", "then"]),
            (r#","twilio_auth_token":"","twilio_auth_token_before":"""#, vec![]),
        ] {
            let text = plain.replace("}}", &format!("}}{more}}}"));
            let read = platform(&text).unwrap();
            let found: Vec<_> = read.twilio_auth_tokens.iter().map(ExposeSecret::expose_secret).collect();
            assert_eq!(found, tokens);
        }
        assert!(platform("{}").is_none());
        assert!(platform(&plain.replace("index_key\":\"", "index_key\":\"!")).is_none());
    }
}
