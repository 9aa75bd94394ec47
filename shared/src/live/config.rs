//! Configuration: parsed once, from the environment, in init. A missing value names itself and where it comes from.

use aws_credential_types::Credentials;
use aws_smithy_http_client::tls;

use crate::billing::PlanPrices;
use crate::message::Listings;
use crate::session::Site;

/// Named values from the environment, or from the local system.
#[derive(Clone)]
pub struct Config {
    values: std::collections::BTreeMap<String, String>,
}

/// A value is missing or does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not set.
    #[error("the environment variable {0} is not set; template.yaml sets it on AWS, the local system here")]
    Missing(&'static str),
    /// Set to something that does not read.
    #[error("the environment variable {0} {1}")]
    Wrong(&'static str, &'static str),
}

/// Every variable that functions read; a test compares them with the template.
pub const VARIABLES: [&str; 17] = [
    STAGE,
    PUBLIC_URL,
    FALLBACK_URL,
    APP_URL,
    ALLOWED_ORIGINS,
    TABLE_PREFIX,
    QUEUE_URL_PREFIX,
    KMS_KEY,
    KMS_KEY_BEFORE,
    KEY_CACHE_SECONDS,
    KEY_CACHE_ACCOUNTS,
    PLATFORM_SECRET,
    MAIL_FROM,
    LISTINGS_MINUTES,
    TWILIO_URL,
    STRIPE_URL,
    STRIPE_PRICES,
];

/// `local`, or the name of the deployment.
pub const STAGE: &str = "TELBUDDY_STAGE";
/// The public origin of API and hooks, without a slash at the end.
pub const PUBLIC_URL: &str = "TELBUDDY_PUBLIC_URL";
/// The origin of a second host of the same hooks, without a slash at the end; may be empty.
pub const FALLBACK_URL: &str = "TELBUDDY_FALLBACK_URL";
/// The frontend's origin, where links in mails lead; the public origin if it is empty.
pub const APP_URL: &str = "TELBUDDY_APP_URL";
/// Origins of frontends on other hosts, separated by commas; may be empty.
pub const ALLOWED_ORIGINS: &str = "TELBUDDY_ALLOWED_ORIGINS";
/// What the names of tables start with.
pub const TABLE_PREFIX: &str = "TELBUDDY_TABLE_PREFIX";
/// What the URLs of queues start with.
pub const QUEUE_URL_PREFIX: &str = "TELBUDDY_QUEUE_URL_PREFIX";
/// ARN of the vault's KMS key.
pub const KMS_KEY: &str = "TELBUDDY_KMS_KEY";
/// ARN of the KMS key before it, while data keys are still wrapped by that one; may be empty.
pub const KMS_KEY_BEFORE: &str = "TELBUDDY_KMS_KEY_BEFORE";
/// How long an opened data key is remembered: 0 to 300 seconds, 300 if it is not set.
pub const KEY_CACHE_SECONDS: &str = "TELBUDDY_KEY_CACHE_SECONDS";
/// Of how many accounts opened data keys are remembered: 1 to 1000, 1000 if it is not set.
pub const KEY_CACHE_ACCOUNTS: &str = "TELBUDDY_KEY_CACHE_ACCOUNTS";
/// Name or ARN of the platform's secret.
pub const PLATFORM_SECRET: &str = "TELBUDDY_PLATFORM_SECRET";
/// From whom mails come.
pub const MAIL_FROM: &str = "TELBUDDY_MAIL_FROM";
/// When Twilio's messages are listed for one that is not known: minutes with commas between them, see
/// [`Listings::parse`]; 2,5,10,20,30 if it is not set.
pub const LISTINGS_MINUTES: &str = "TELBUDDY_LISTINGS_MINUTES";
/// Where Twilio's API is, if not at Twilio: a loopback address, at stage `local` only.
pub const TWILIO_URL: &str = "TELBUDDY_TWILIO_URL";
/// Where Stripe's API is, if not at Stripe: a loopback address, at stage `local` only.
pub const STRIPE_URL: &str = "TELBUDDY_STRIPE_URL";

/// Which price at Stripe is which plan, see [`PlanPrices::parse`]; empty: nothing is sold.
pub const STRIPE_PRICES: &str = "TELBUDDY_STRIPE_PRICES";

/// Set by Lambda.
const FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";

/// How AWS is reached.
#[derive(Clone)]
pub(super) struct Aws {
    pub region: String,
    pub credentials: Option<Credentials>,
    pub http: Option<aws_smithy_runtime_api_client::SharedHttpClient>,
}

use aws_sdk_dynamodb::config as aws_smithy_runtime_api_client;

impl Config {
    /// From the environment.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn from_env() -> Self {
        let aws = ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"];
        let endpoints =
            ["DYNAMODB", "KMS", "SECRETS_MANAGER", "SQS", "SESV2"].map(|name| format!("AWS_ENDPOINT_URL_{name}"));
        let names = VARIABLES.into_iter().chain(aws).chain(endpoints.iter().map(String::as_str));
        let lambda = [FUNCTION_NAME];
        let read = |name: &str| std::env::var(name).ok().map(|value| (name.to_owned(), value));
        Self { values: names.chain(lambda).filter_map(read).collect() }
    }

    /// From given values: the local system and tests.
    pub fn from_values(values: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { values: values.into_iter().collect() }
    }

    /// The same for one function: AWS sets its name, the local system does it here.
    #[must_use]
    pub fn named(&self, function: &str) -> Self {
        self.with(FUNCTION_NAME, function)
    }

    /// The values, to hand on to a child process.
    pub fn values(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A value that has to be there; `wanted: false` gives an empty one for a service that is not used.
    pub(super) fn required(&self, name: &'static str, wanted: bool) -> Result<String, ConfigError> {
        match self.optional(name) {
            Some(value) => Ok(value.to_owned()),
            None if wanted => Err(ConfigError::Missing(name)),
            None => Ok(String::new()),
        }
    }

    /// A value that may be missing or empty.
    pub(super) fn optional(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn listings(&self) -> Result<Listings, ConfigError> {
        let wrong =
            "has to be at least three minutes' numbers as in 2,5,10,20,30: two apart, from 2, the last 30 to 1380";
        match self.optional(LISTINGS_MINUTES) {
            Some(text) => Listings::parse(text).ok_or(ConfigError::Wrong(LISTINGS_MINUTES, wrong)),
            None => Ok(Listings::default()),
        }
    }

    pub(super) fn prices(&self) -> Result<PlanPrices, ConfigError> {
        let wrong =
            "has to name a price of its own for each paid plan, as in starter=price_…,growth=price_…,scale=price_…";
        let prices = PlanPrices::parse(self.optional(STRIPE_PRICES).unwrap_or_default());
        prices.ok_or(ConfigError::Wrong(STRIPE_PRICES, wrong))
    }

    /// The same with another value.
    #[must_use]
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut values = self.values.clone();
        values.insert(name.to_owned(), value.to_owned());
        Self { values }
    }

    /// A whole number, `usual` if it is not set; `wrong` says which numbers are taken.
    pub(super) fn number(
        &self,
        name: &'static str,
        usual: u16,
        taken: std::ops::RangeInclusive<u16>,
        wrong: &'static str,
    ) -> Result<u16, ConfigError> {
        let Some(text) = self.optional(name) else { return Ok(usual) };
        let number = text.parse().ok().filter(|number| taken.contains(number));
        number.ok_or(ConfigError::Wrong(name, wrong))
    }

    /// Whether this is the local system.
    pub fn is_local(&self) -> bool {
        self.optional(STAGE) == Some("local")
    }

    /// The function's name, for the access log.
    pub(super) fn function(&self) -> String {
        self.optional(FUNCTION_NAME).unwrap_or("local").to_owned()
    }

    pub(super) fn site(&self) -> Result<Site, ConfigError> {
        let origin = self.origin(PUBLIC_URL, self.required(PUBLIC_URL, true)?)?;
        let fallback =
            self.optional(FALLBACK_URL).map(|text| self.origin(FALLBACK_URL, text.to_owned())).transpose()?;
        if fallback.as_ref() == Some(&origin) {
            return Err(ConfigError::Wrong(FALLBACK_URL, "has to be another host than TELBUDDY_PUBLIC_URL"));
        }
        let list = self.optional(ALLOWED_ORIGINS).unwrap_or_default().split(',');
        let allowed_origins = list.map(str::trim).filter(|origin| !origin.is_empty()).map(str::to_owned).collect();
        let app = self.optional(APP_URL).unwrap_or(&origin).to_owned();
        Ok(Site { origin, fallback, app, allowed_origins })
    }

    fn origin(&self, name: &'static str, text: String) -> Result<String, ConfigError> {
        let of_scheme = text.starts_with("https://") || (self.is_local() && text.starts_with("http://"));
        if of_scheme && !text.ends_with('/') {
            Ok(text)
        } else {
            Err(ConfigError::Wrong(name, "has to be an https origin without a slash at the end"))
        }
    }

    /// Region, credentials and the one HTTP client that all AWS clients share. On Lambda the credentials in the
    /// environment live as long as the environment does, so no provider chain is needed (docs/decisions/0003).
    pub(super) fn aws(&self, wanted: bool) -> Result<Aws, ConfigError> {
        if !wanted {
            return Ok(Aws { region: String::new(), credentials: None, http: None });
        }
        // cargo-lambda's emulator sets no region and no keys; locally any will do.
        let or_local = |name: &'static str, local: &str| match self.optional(name) {
            Some(value) => Ok(value.to_owned()),
            None if self.is_local() => Ok(local.to_owned()),
            None => Err(ConfigError::Missing(name)),
        };
        let credentials = Credentials::new(
            or_local("AWS_ACCESS_KEY_ID", "local")?,
            or_local("AWS_SECRET_ACCESS_KEY", "local")?,
            self.optional("AWS_SESSION_TOKEN").map(str::to_owned),
            None,
            "environment",
        );
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
            .tls_context(super::tls::aws_context().map_err(|()| ConfigError::Wrong("AWS", "roots do not read"))?)
            .build_https();
        Ok(Aws { region: or_local("AWS_REGION", "us-east-1")?, credentials: Some(credentials), http: Some(http) })
    }

    pub(super) fn endpoint(&self, service: &str) -> Option<String> {
        let own = self.optional(&format!("AWS_ENDPOINT_URL_{service}"));
        own.or_else(|| self.optional("AWS_ENDPOINT_URL")).map(str::to_owned)
    }
}

/// Builds the configuration of one AWS client: the crates have the same builder under different names.
macro_rules! aws_config {
    ($service:ident, $config:expr, $aws:expr, $endpoint:literal) => {{
        let aws = $aws;
        let mut builder = $service::Config::builder()
            .behavior_version($service::config::BehaviorVersion::latest())
            .region($service::config::Region::new(aws.region.clone()))
            .timeout_config(
                $service::config::timeout::TimeoutConfig::builder()
                    .connect_timeout(std::time::Duration::from_secs(2))
                    .operation_attempt_timeout(std::time::Duration::from_secs(5))
                    .operation_timeout(std::time::Duration::from_secs(12))
                    .build(),
            );
        builder.set_endpoint_url($config.endpoint($endpoint));
        builder.set_credentials_provider(aws.credentials.clone().map($service::config::SharedCredentialsProvider::new));
        builder.set_http_client(aws.http.clone());
        builder.build()
    }};
}
pub(super) use aws_config;

#[cfg(test)]
mod tests {
    use super::*;

    fn site(stage: &str, public: &str, fallback: &str) -> Result<Site, ConfigError> {
        let values = [(STAGE, stage), (PUBLIC_URL, public), (FALLBACK_URL, fallback)];
        Config::from_values(values.map(|(name, value)| (name.to_owned(), value.to_owned()))).site()
    }

    #[test]
    fn a_second_host_is_an_https_origin_of_its_own_or_nothing() {
        let public = "https://api.example.com";
        assert_eq!(site("dev", public, "").map(|site| site.fallback), Ok(None));
        let second = "https://second.example.net";
        let found = site("dev", public, second).unwrap();
        assert_eq!(found.hook_origins().collect::<Vec<_>>(), [public, second]);
        for wrong in ["https://second.example.net/", "http://second.example.net", "second.example.net", public] {
            assert!(matches!(site("dev", public, wrong), Err(ConfigError::Wrong(FALLBACK_URL, _))), "{wrong}");
        }
        let local = site("local", "http://127.0.0.1:8787", "http://localhost:8787").unwrap();
        assert_eq!(local.fallback.as_deref(), Some("http://localhost:8787"));
    }
}
