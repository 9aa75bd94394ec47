//! AWS clients for the local system, which creates and polls what AWS does by itself.

use super::config::{Config, ConfigError, aws_config};

/// SQS.
pub fn sqs(config: &Config) -> Result<aws_sdk_sqs::Client, ConfigError> {
    let aws = config.aws(true)?;
    Ok(aws_sdk_sqs::Client::from_conf(
        aws_config!(aws_sdk_sqs, config, &aws, "SQS").to_builder().timeout_config(long()).build(),
    ))
}

/// A long poll takes 20 s.
fn long() -> aws_sdk_sqs::config::timeout::TimeoutConfig {
    aws_sdk_sqs::config::timeout::TimeoutConfig::builder().operation_timeout(std::time::Duration::from_secs(30)).build()
}

/// DynamoDB.
pub fn dynamodb(config: &Config) -> Result<aws_sdk_dynamodb::Client, ConfigError> {
    let aws = config.aws(true)?;
    Ok(aws_sdk_dynamodb::Client::from_conf(aws_config!(aws_sdk_dynamodb, config, &aws, "DYNAMODB")))
}

/// KMS.
pub fn kms(config: &Config) -> Result<aws_sdk_kms::Client, ConfigError> {
    let aws = config.aws(true)?;
    Ok(aws_sdk_kms::Client::from_conf(aws_config!(aws_sdk_kms, config, &aws, "KMS")))
}

/// Secrets Manager.
pub fn secrets_manager(config: &Config) -> Result<aws_sdk_secretsmanager::Client, ConfigError> {
    let aws = config.aws(true)?;
    Ok(aws_sdk_secretsmanager::Client::from_conf(aws_config!(aws_sdk_secretsmanager, config, &aws, "SECRETS_MANAGER")))
}
