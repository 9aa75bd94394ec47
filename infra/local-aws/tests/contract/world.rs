//! Running doubles in a folder of their own, and clients for them.

use aws_credential_types::Credentials;
use aws_smithy_http_client::Builder;
use local_aws::{LocalAws, Options};
use std::path::Path;
use tempfile::TempDir;

pub struct World {
    pub aws: LocalAws,
    pub folder: TempDir,
}

pub async fn start() -> World {
    start_with(false).await
}

pub async fn start_with(faults: bool) -> World {
    let folder = tempfile::tempdir().unwrap();
    let aws = LocalAws::start(options(folder.path(), faults)).await.unwrap();
    World { aws, folder }
}

pub fn options(folder: &Path, faults: bool) -> Options {
    Options { data: folder.into(), dynamodb_port: 0, aws_port: 0, faults }
}

/// A client of `$sdk` at `$url`, which does not retry, so that each test sees each answer.
macro_rules! client {
    ($sdk:ident, $url:expr) => {{
        let config = $sdk::Config::builder()
            .behavior_version($sdk::config::BehaviorVersion::latest())
            .region($sdk::config::Region::new("us-east-1"))
            .credentials_provider($crate::world::credentials())
            .http_client($crate::world::http_client())
            .retry_config($sdk::config::retry::RetryConfig::disabled())
            .endpoint_url($url)
            .build();
        $sdk::Client::from_conf(config)
    }};
}
pub(crate) use client;

pub fn credentials() -> Credentials {
    Credentials::new("AKIDLOCAL", "secret", None, None, "test")
}

pub fn http_client() -> aws_sdk_sqs::config::SharedHttpClient {
    Builder::new().build_http()
}

impl World {
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        client!(aws_sdk_dynamodb, self.aws.dynamodb_url())
    }

    pub fn kms(&self) -> aws_sdk_kms::Client {
        client!(aws_sdk_kms, self.aws.aws_url())
    }

    pub fn secrets(&self) -> aws_sdk_secretsmanager::Client {
        client!(aws_sdk_secretsmanager, self.aws.aws_url())
    }

    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        client!(aws_sdk_sqs, self.aws.aws_url())
    }

    pub fn ses(&self) -> aws_sdk_sesv2::Client {
        client!(aws_sdk_sesv2, self.aws.aws_url())
    }
}

/// The error code that AWS gave, or `no code` when there was no answer.
macro_rules! code {
    ($outcome:expr) => {{
        use aws_sdk_sqs::error::ProvideErrorMetadata;
        let error = $outcome.unwrap_err();
        error.code().unwrap_or("no code").to_owned()
    }};
}
pub(crate) use code;
