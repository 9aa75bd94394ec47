//! What an endpoint answers: a JSON document, or a refusal in the shape that the AWS SDKs parse.

use crate::calls::Service;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// An answer with its whole body in memory.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Why a call is refused: the error code and text that AWS would give.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
}

impl Refusal {
    /// The caller's mistake.
    pub fn new(code: &str, message: impl Into<String>) -> Refusal {
        Refusal { status: 400, code: code.into(), message: message.into() }
    }

    /// Our own failure.
    pub fn internal(message: impl Into<String>) -> Refusal {
        Refusal { status: 500, code: "InternalFailure".into(), message: message.into() }
    }

    pub fn unknown_operation(action: &str) -> Refusal {
        Refusal {
            status: 404,
            ..Refusal::new("UnknownOperationException", format!("this double does not know {action}"))
        }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Refusal {
        tracing::error!(%error, "the data file of the AWS doubles failed");
        Refusal::internal(format!("the data file failed: {error}"))
    }
}

/// The input of a call. `Err` when the body is not the JSON that the action takes.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::new("SerializationException", error.to_string()))
}

/// The answer to a call of `service`.
pub(crate) fn reply(service: Service, outcome: Result<Value, Refusal>, request_id: &str) -> Reply {
    let (status, document, code) = match outcome {
        Ok(document) => (200, document, None),
        Err(refusal) => (refusal.status, refusal_document(service, &refusal), Some(refusal.code)),
    };
    let mut reply = Response::new(Full::new(Bytes::from(document.to_string())));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(service)));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert("x-amzn-requestid", id);
    }
    if let Some(code) = code {
        let fault = if status < 500 { "Sender" } else { "Receiver" };
        if service == Service::Sqs
            && let Ok(value) = HeaderValue::from_str(&format!("{};{fault}", sqs_query_code(&code)))
        {
            headers.insert("x-amzn-query-error", value);
        }
        if service == Service::Ses
            && let Ok(value) = HeaderValue::from_str(&code)
        {
            headers.insert("x-amzn-errortype", value);
        }
    }
    reply
}

fn refusal_document(service: Service, refusal: &Refusal) -> Value {
    let namespace = match service {
        Service::DynamoDb => "com.amazonaws.dynamodb.v20120810#",
        Service::Sqs => "com.amazonaws.sqs#",
        Service::Kms | Service::SecretsManager | Service::Ses => "",
    };
    json!({ "__type": format!("{namespace}{}", refusal.code), "message": refusal.message })
}

fn content_type(service: Service) -> &'static str {
    match service {
        Service::DynamoDb | Service::Sqs => "application/x-amz-json-1.0",
        Service::Kms | Service::SecretsManager => "application/x-amz-json-1.1",
        Service::Ses => "application/json",
    }
}

/// SQS's JSON protocol repeats in a header the code of its older query protocol, and the SDKs go by the header.
pub(crate) fn sqs_query_code(code: &str) -> String {
    match code {
        "QueueDoesNotExist" => "AWS.SimpleQueueService.NonExistentQueue".into(),
        "QueueNameExists" => "QueueAlreadyExists".into(),
        "InvalidParameterValueException" => "InvalidParameterValue".into(),
        "MissingParameterException" => "MissingParameter".into(),
        "EmptyBatchRequest"
        | "TooManyEntriesInBatchRequest"
        | "BatchEntryIdsNotDistinct"
        | "BatchRequestTooLong"
        | "InvalidBatchEntryId"
        | "MessageNotInflight"
        | "UnsupportedOperation" => format!("AWS.SimpleQueueService.{code}"),
        _ => code.into(),
    }
}
