//! Local only, and absent from the Lambda functions: the mails that would have been sent, queues, tables.

use std::fmt::Write as _;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use dynoxide::actions::scan::ScanRequest;
use local_aws::{LocalAws, Mail};
use serde::Deserialize;
use serde_json::{Value, json};
use telbuddy::live::Config;
use telbuddy::live::dynamo::keys::Table;

#[derive(Clone)]
struct Local {
    aws: LocalAws,
    prefix: String,
}

/// The pages under `/_local/`, `/verify-email`, where the link of a mail leads, and `/billing`, where Stripe's do.
pub fn router(aws: LocalAws, config: &Config) -> Router {
    let local = Local { aws, prefix: crate::table_prefix(config) };
    Router::new()
        .route("/", get(index))
        .route("/_local", get(index))
        .route("/_local/mail", get(mail))
        .route("/_local/queues", get(queues))
        .route("/_local/tables", get(tables))
        .route("/verify-email", get(verify_email))
        .route("/billing", get(billing))
        .with_state(local)
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{title} · TelBuddy local</title>\
         <style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}pre{{white-space:pre-wrap;\
         background:#f4f4f4;padding:1rem}}table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:.3rem .6rem;\
         text-align:left}}</style><nav><a href=/_local/mail>mail</a> · <a href=/_local/twilio/phone>phone (Twilio double)\
         </a> · <a href=/_local/stripe>Stripe double</a> · <a href=/_local/queues>queues</a> · \
         <a href=/_local/tables>tables</a> · \
         <a href=/v1/openapi.json>API</a></nav><h1>{title}</h1>{body}"
    ))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where Stripe's pages lead back to: a frontend of one's own would be here.
async fn billing() -> Html<String> {
    page(
        "Billing",
        "<p>Stripe's page led back here. <code>GET /v1/billing/subscription</code>, <code>GET /v1/credits</code> and \
         <code>GET /v1/billing/invoices</code> say what came of it.</p>",
    )
}

async fn index() -> Html<String> {
    page(
        "TelBuddy on this machine",
        "<p>The local system. Nothing here leaves this machine; AWS, Twilio and Stripe are doubles.</p>",
    )
}

/// Web addresses in a text.
fn links(text: &str) -> Vec<&str> {
    text.split_whitespace().filter(|word| word.starts_with("http://") || word.starts_with("https://")).collect()
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|a| a.contains("application/json"))
}

fn failed(error: impl std::fmt::Display) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))).into_response()
}

async fn mail(State(local): State<Local>, headers: HeaderMap) -> Response {
    let mails = match local.aws.mails() {
        Ok(mails) => mails,
        Err(error) => return failed(error),
    };
    if wants_json(&headers) {
        let view = |mail: &Mail| json!({ "to": mail.to, "subject": mail.subject, "text": mail.text, "links": links(&mail.text) });
        let data: Vec<_> = mails.iter().map(view).collect();
        return Json(json!({ "data": data })).into_response();
    }
    let mut body = String::new();
    for mail in &mails {
        let mut text = escape(&mail.text);
        for link in links(&mail.text) {
            let link = escape(link);
            text = text.replace(&link, &format!("<a href=\"{link}\">{link}</a>"));
        }
        let to = escape(&mail.to.join(", "));
        let _ = write!(body, "<h2>{}</h2><p>to {to}, {}</p><pre>{text}</pre>", escape(&mail.subject), mail.at);
    }
    page("Mails that would have been sent", if body.is_empty() { "<p>None yet: sign up.</p>" } else { &body })
        .into_response()
}

async fn queues(State(local): State<Local>) -> Response {
    match local.aws.queues() {
        Ok(queues) => {
            let view = |queue: &local_aws::QueueView| {
                let messages: Vec<_> = queue
                    .messages
                    .iter()
                    .map(|message| json!({ "body": message.body, "receives": message.receives }))
                    .collect();
                json!({
                    "name": queue.name, "visible": queue.visible, "in_flight": queue.in_flight, "delayed": queue.delayed,
                    "messages": messages,
                })
            };
            Json(json!({ "data": queues.iter().map(view).collect::<Vec<_>>() })).into_response()
        }
        Err(error) => failed(error),
    }
}

#[derive(Deserialize)]
struct TableAsk {
    name: Option<String>,
}

/// The tables' items as stored; sealed values are binary and shown as their length.
async fn tables(State(local): State<Local>, Query(ask): Query<TableAsk>) -> Response {
    let mut data = Vec::new();
    for table in Table::ALL {
        let request = ScanRequest {
            table_name: format!("{}{}", local.prefix, table.name()),
            limit: Some(200),
            ..ScanRequest::default()
        };
        let items = match local.aws.database().scan(request) {
            Ok(answer) => answer.items.unwrap_or_default(),
            Err(error) => return failed(error),
        };
        if ask.name.as_deref().is_none_or(|name| name == table.name()) {
            let items: Vec<_> = items.iter().map(|item| serde_json::to_value(item).map(sealed_as_such)).collect();
            let items: Vec<Value> = items.into_iter().filter_map(Result::ok).collect();
            data.push(json!({ "table": table.name(), "items": items }));
        }
    }
    Json(json!({ "data": data })).into_response()
}

/// Binary values say nothing to a reader: their length does.
fn sealed_as_such(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("B", Value::String(text)) => (name, format!("sealed, {} characters of base64", text.len()).into()),
                (_, value) => (name, sealed_as_such(value)),
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(sealed_as_such).collect(),
        other => other,
    }
}

/// Where the link of a mail leads while there is no frontend: posts the token when the person says so.
async fn verify_email() -> Html<String> {
    page(
        "Confirm your address",
        "<p><button id=b>Confirm</button> <span id=s></span></p><script>b.onclick=async()=>{const token=new URLSearchParams(\
         location.search).get('token')||'';const r=await fetch('/v1/email-verifications',{method:'POST',headers:{\
         'content-type':'application/json'},body:JSON.stringify({token})});s.textContent=r.ok?'Confirmed: log in.':\
         (await r.json()).detail}</script>",
    )
}
