//! Error answers in Twilio's shape. Status and text come from `error-codes.json`; the wording is ours, not Twilio's.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use crate::state::StoreError;

#[derive(Deserialize)]
struct Catalogue {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    code: u32,
    http_status: Option<u16>,
    meaning: String,
}

static CATALOGUE: LazyLock<HashMap<u32, Entry>> = LazyLock::new(|| {
    let parsed: Result<Catalogue, _> = serde_json::from_str(include_str!("../error-codes.json"));
    let entries = parsed.map(|c| c.errors).unwrap_or_default();
    entries.into_iter().map(|entry| (entry.code, entry)).collect()
});

/// What a code means; the `error_message` of a failed message.
pub(crate) fn meaning(code: u32) -> &'static str {
    CATALOGUE.get(&code).map_or("unknown error of the double", |entry| entry.meaning.as_str())
}

/// A request that Twilio would refuse, with its code.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub code: u32,
    status: u16,
    message: String,
}

impl Refusal {
    /// The refusal with the catalogue's status and text.
    pub(crate) fn new(code: u32) -> Self {
        Self::saying(code, meaning(code))
    }

    /// The refusal with its own text.
    pub(crate) fn saying(code: u32, message: impl Into<String>) -> Self {
        let status = CATALOGUE.get(&code).and_then(|entry| entry.http_status).unwrap_or(400);
        Self { code, status, message: message.into() }
    }

    pub(crate) fn text(self) -> String {
        self.message
    }

    /// The answer to a path or SID that is not there.
    pub(crate) fn not_found(path: &str) -> Self {
        Self::saying(20404, format!("The requested resource {path} was not found"))
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::saying(20500, format!("twilio-double: its own store failed: {error}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let more_info = format!("https://www.twilio.com/docs/errors/{}", self.code);
        let body = json!({"code": self.code, "message": self.message, "more_info": more_info, "status": self.status});
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = axum::http::HeaderValue::from_static("Basic realm=\"Twilio API\"");
            response.headers_mut().insert(axum::http::header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
