//! What the template creates on AWS, created in the AWS double: tables, queues, the vault's key, the platform's secret.

use std::fmt::Write as _;

use aws_sdk_kms::error::DisplayErrorContext;
use local_aws::LocalAws;
use stripe_double::{PRICES, Ready, StripeDouble};
use telbuddy::live::config::{
    FALLBACK_URL, KMS_KEY, MAIL_FROM, PLATFORM_SECRET, PUBLIC_URL, QUEUE_URL_PREFIX, STAGE, STRIPE_PRICES, STRIPE_URL,
    TABLE_PREFIX, TWILIO_URL,
};
use telbuddy::live::dynamo::schema;
use telbuddy::live::secrets::new_platform_secret;
use telbuddy::live::{Config, local};
use telbuddy::platform::Queue;
use twilio_double::TwilioDouble;

const PREFIX: &str = "telbuddy-local-";
const KEY_ALIAS: &str = "alias/telbuddy-local-vault";
const SECRET: &str = "telbuddy-local-platform";

/// Visibility of queues: above function time-out and lease (docs/ARCHITECTURE.md).
const VISIBILITY_SECS: u32 = 180;
/// Tries before a message goes to the dead letters.
const MAX_RECEIVES: u32 = 5;

/// The functions' configuration. With `fallback` the same port is a second host under another name.
pub fn config(aws: &LocalAws, twilio: &TwilioDouble, stripe: &StripeDouble, site: &str, fallback: bool) -> Config {
    let queue_prefix = format!("{}/000000000000/{PREFIX}", aws.aws_url());
    let values = [
        (STAGE, "local".to_owned()),
        (PUBLIC_URL, site.to_owned()),
        (FALLBACK_URL, if fallback { site.replace("127.0.0.1", "localhost") } else { String::new() }),
        (TABLE_PREFIX, PREFIX.to_owned()),
        (QUEUE_URL_PREFIX, queue_prefix),
        (KMS_KEY, KEY_ALIAS.to_owned()),
        (PLATFORM_SECRET, SECRET.to_owned()),
        (MAIL_FROM, "no-reply@telbuddy.example".to_owned()),
        (TWILIO_URL, twilio.base_url()),
        (STRIPE_URL, stripe.base_url()),
        (STRIPE_PRICES, PRICES.map(|price| format!("{}={}", price.name.to_lowercase(), price.id)).join(",")),
        ("AWS_ENDPOINT_URL", aws.aws_url()),
        ("AWS_ENDPOINT_URL_DYNAMODB", aws.dynamodb_url()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "local".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
    ];
    Config::from_values(values.map(|(name, value)| (name.to_owned(), value)))
}

/// The configuration as a file for `cargo lambda watch --env-file`.
pub fn env_file(config: &Config) -> String {
    config.values().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name}=\"{value}\"");
        text
    })
}

/// Creates what is missing; says what failed.
pub async fn create_resources(aws: &LocalAws, config: &Config, stripe: &Ready) -> Result<(), String> {
    schema::create_tables(config).await.map_err(|fault| fault.to_string())?;
    create_queues(aws, config).await?;
    create_key(config).await?;
    create_secret(config, stripe).await
}

async fn create_queues(aws: &LocalAws, config: &Config) -> Result<(), String> {
    let client = local::sqs(config).map_err(|error| error.to_string())?;
    let existing: Vec<_> =
        aws.queues().map_err(|error| error.to_string())?.into_iter().map(|queue| queue.name).collect();
    for queue in Queue::ALL {
        let name = format!("{PREFIX}{}", queue.name());
        if existing.contains(&name) {
            continue;
        }
        let dead = format!("{name}-dead");
        client.create_queue().queue_name(&dead).send().await.map_err(|e| DisplayErrorContext(e).to_string())?;
        let redrive = format!(
            r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{dead}","maxReceiveCount":{MAX_RECEIVES}}}"#
        );
        client
            .create_queue()
            .queue_name(&name)
            .attributes(aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout, VISIBILITY_SECS.to_string())
            .attributes(aws_sdk_sqs::types::QueueAttributeName::RedrivePolicy, redrive)
            .send()
            .await
            .map_err(|e| DisplayErrorContext(e).to_string())?;
    }
    Ok(())
}

async fn create_key(config: &Config) -> Result<(), String> {
    let client = local::kms(config).map_err(|error| error.to_string())?;
    if client.describe_key().key_id(KEY_ALIAS).send().await.is_ok() {
        return Ok(());
    }
    let made = client.create_key().description("TelBuddy vault").send().await;
    let made = made.map_err(|e| DisplayErrorContext(e).to_string())?;
    let id = made.key_metadata.map(|key| key.key_id).ok_or("KMS gave no key")?;
    let alias = client.create_alias().alias_name(KEY_ALIAS).target_key_id(id).send().await;
    alias.map(|_| ()).map_err(|e| DisplayErrorContext(e).to_string())
}

/// The platform's secret, with what belongs to the Stripe double: it is put in if it is not there.
async fn create_secret(config: &Config, stripe: &Ready) -> Result<(), String> {
    let client = local::secrets_manager(config).map_err(|error| error.to_string())?;
    let (stored, is_new) = match client.get_secret_value().secret_id(SECRET).send().await {
        Ok(answer) => (answer.secret_string.unwrap_or_default(), false),
        Err(_) => (new_platform_secret().map_err(|fault| fault.to_string())?, true),
    };
    let mut secret: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&stored).map_err(|_| "the platform's secret does not read".to_owned())?;
    secret.insert("stripe_key".to_owned(), stripe.secret_key.clone().into());
    secret.insert("stripe_webhook_secrets".to_owned(), vec![stripe.signing_secret.clone()].into());
    let secret = serde_json::Value::Object(secret).to_string();
    if is_new {
        let made = client.create_secret().name(SECRET).secret_string(secret).send().await;
        return made.map(|_| ()).map_err(|e| DisplayErrorContext(e).to_string());
    }
    let put = client.put_secret_value().secret_id(SECRET).secret_string(secret).send().await;
    put.map(|_| ()).map_err(|e| DisplayErrorContext(e).to_string())
}
