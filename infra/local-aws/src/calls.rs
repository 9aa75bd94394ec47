//! Which call a request is, and how often each was made.

use bytes::Bytes;
use http::{Method, Request};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// An AWS service that this crate doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// Amazon DynamoDB. Its calls are counted and disturbed only when [`crate::Options::faults`] is on.
    DynamoDb,
    /// AWS KMS.
    Kms,
    /// AWS Secrets Manager.
    SecretsManager,
    /// Amazon SQS.
    Sqs,
    /// Amazon SES, API version 2.
    Ses,
}

impl fmt::Display for Service {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Service::DynamoDb => "dynamodb",
            Service::Kms => "kms",
            Service::SecretsManager => "secretsmanager",
            Service::Sqs => "sqs",
            Service::Ses => "ses",
        })
    }
}

/// One call: a service and the name of the action, as in `SendMessage`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub service: Service,
    pub action: String,
}

impl Call {
    /// `None` when the request is to none of our services.
    pub fn of(request: &Request<Bytes>) -> Option<Call> {
        if request.method() != Method::POST {
            return None;
        }
        if request.uri().path() == "/v2/email/outbound-emails" {
            return Some(Call { service: Service::Ses, action: "SendEmail".into() });
        }
        let (prefix, action) = request.headers().get("x-amz-target")?.to_str().ok()?.split_once('.')?;
        let service = match prefix {
            "DynamoDB_20120810" => Service::DynamoDb,
            "TrentService" => Service::Kms,
            "secretsmanager" => Service::SecretsManager,
            "AmazonSQS" => Service::Sqs,
            _ => return None,
        };
        Some(Call { service, action: action.into() })
    }
}

/// How often each action was called since the start, refused and disturbed calls included; or how often it was done.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<(Service, String), u64>>);

impl Calls {
    pub fn count(&self, call: &Call) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((call.service, call.action.clone())).or_default() += 1;
    }

    pub fn so_far(&self) -> BTreeMap<(Service, String), u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
