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

/// The secret's JSON: base64 of 32 random bytes each.
#[derive(Serialize, Deserialize)]
struct PlatformSecret {
    index_key: String,
    peppers: BTreeMap<u32, String>,
}

impl Drop for PlatformSecret {
    fn drop(&mut self) {
        self.index_key.zeroize();
        self.peppers.values_mut().for_each(Zeroize::zeroize);
    }
}

/// A new platform secret, for the local system; on AWS an operator makes it (docs/runbooks).
pub fn new_platform_secret() -> Result<String, Fault> {
    let random = || super::clock::random::<32>().map(|bytes| BASE64.encode(&bytes));
    let secret = PlatformSecret { index_key: random()?, peppers: BTreeMap::from([(1, random()?)]) };
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
        let unreadable = || Fault::permanent("the platform secret does not read");
        let text = Zeroizing::new(answer.secret_string.unwrap_or_default());
        let secret: PlatformSecret = serde_json::from_str(&text).map_err(|_| unreadable())?;
        let bytes = |text: &String| match BASE64.decode(text.as_bytes()) {
            Ok(bytes) if bytes.len() >= 32 => Ok(Zeroizing::new(bytes)),
            _ => Err(unreadable()),
        };
        let peppers: Result<_, Fault> =
            secret.peppers.iter().map(|(version, text)| Ok((*version, bytes(text)?))).collect();
        Ok(Arc::new(Platform { index_key: bytes(&secret.index_key)?, peppers: Peppers(peppers?) }))
    }
}

impl PlatformKeys for Live {
    async fn platform(&self) -> Result<Arc<Platform>, Fault> {
        self.secrets.platform.get_or_try_init(|| self.secrets.load()).await.cloned()
    }
}
