//! The gateway: an HTTP request becomes an API Gateway v2 event, the function's answer becomes an HTTP response.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use telbuddy::edge::{Kind, Problem, Reply};
use telbuddy::live::serve::{self, GATEWAY_LIMIT, apigw};

use crate::functions::{Function, Trigger};

/// The local pages, and behind them every function's routes.
pub fn router(functions: Arc<Vec<Function>>, pages: Router) -> Router {
    Router::new().fallback(handle).with_state(functions).merge(pages)
}

async fn handle(
    State(functions): State<Arc<Vec<Function>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, GATEWAY_LIMIT).await else {
        return problem(Problem::new(Kind::BodyTooLarge, "the gateway takes no body of this size")).await;
    };
    let path = head.uri.path();
    // The function whose route this is; a known path with another method goes there too and gets its 405.
    let mut of_path = None;
    for function in functions.iter() {
        let Trigger::Http(routes, call) = &function.trigger else { continue };
        for route in routes.iter().filter(|route| route.captures(path).is_some()) {
            if route.method == head.method.as_str() {
                return invoke(call, &head, &body, peer).await;
            }
            of_path = Some(call);
        }
    }
    match of_path {
        Some(call) => invoke(call, &head, &body, peer).await,
        None => {
            problem(Problem::not_found("there is nothing at this path; GET /v1/openapi.json lists the routes")).await
        }
    }
}

type HttpCall = dyn Fn(apigw::ApiGatewayV2httpRequest) -> futures::future::BoxFuture<'static, apigw::ApiGatewayV2httpResponse>
    + Send
    + Sync;

async fn invoke(call: &HttpCall, head: &http::request::Parts, body: &[u8], peer: SocketAddr) -> Response {
    // Through JSON, as on AWS: what does not survive it would not survive there.
    match serde_json::from_value(event(head, body, peer)) {
        Ok(event) => response(call(event).await),
        Err(error) => {
            tracing::error!(%error, "a request made no event");
            problem(Problem::new(Kind::MalformedJson, "the request does not read: look at its headers")).await
        }
    }
}

/// The event of payload format 2.0.
fn event(head: &http::request::Parts, body: &[u8], peer: SocketAddr) -> Value {
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let cookies: Vec<_> =
        texts(&head.headers, header::COOKIE).flat_map(|line| line.split(';')).map(str::trim).collect();
    let mut headers = serde_json::Map::new();
    for name in head.headers.keys().filter(|name| *name != header::COOKIE) {
        let joined: Vec<_> = texts(&head.headers, name).collect();
        headers.insert(name.to_string(), joined.join(",").into());
    }
    let (text, encoded) = match std::str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (base64(body), true),
    };
    json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "cookies": cookies,
        "headers": headers,
        "requestContext": {
            "accountId": "000000000000", "apiId": "local", "domainName": "127.0.0.1", "domainPrefix": "local",
            "requestId": "local", "routeKey": "$default", "stage": "$default", "timeEpoch": 0,
            "http": {
                "method": head.method.as_str(), "path": path, "protocol": "HTTP/1.1",
                "sourceIp": peer.ip().to_string(), "userAgent": "",
            },
        },
        "body": if body.is_empty() { Value::Null } else { text.into() },
        "isBase64Encoded": encoded,
    })
}

fn base64(body: &[u8]) -> String {
    data_encoding::BASE64.encode(body)
}

fn texts(headers: &HeaderMap, name: impl header::AsHeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

fn response(answer: apigw::ApiGatewayV2httpResponse) -> Response {
    let status = u16::try_from(answer.status_code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    // Through JSON, as on AWS: there the flag decides whether the text is bytes.
    let text = serde_json::to_value(&answer.body).ok().and_then(|body| body.as_str().map(str::to_owned));
    let text = text.unwrap_or_default();
    let body = if answer.is_base64_encoded {
        match data_encoding::BASE64.decode(text.as_bytes()) {
            Ok(bytes) => Body::from(bytes),
            Err(_) => return StatusCode::BAD_GATEWAY.into_response(),
        }
    } else {
        Body::from(text)
    };
    let mut response = (status.unwrap_or(StatusCode::BAD_GATEWAY), answer.headers, body).into_response();
    for cookie in answer.cookies {
        if let Ok(line) = http::HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, line);
        }
    }
    response
}

/// A problem of the gateway itself, in the same form as the functions'.
async fn problem(problem: Problem) -> Response {
    let id = serve::new_request_id();
    let Reply { status, headers, body, .. } = telbuddy::edge::answer(id, async { Err(problem) }).await;
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_function_may_answer_text_bytes_or_nothing() {
        let cases = [
            (json!("hé"), false, "hé".as_bytes()),
            (json!("/wBh"), true, &[0xff, 0, b'a']),
            (json!("/wBh"), false, b"/wBh"),
            (Value::Null, false, b""),
        ];
        for (body, flag, expected) in cases {
            let answer = json!({ "statusCode": 200, "headers": {}, "multiValueHeaders": {}, "body": body,
                "isBase64Encoded": flag, "cookies": [] });
            let given = response(serde_json::from_value(answer).unwrap()).into_body();
            assert_eq!(axum::body::to_bytes(given, 100).await.unwrap(), expected);
        }
        let broken = json!({ "statusCode": 200, "headers": {}, "multiValueHeaders": {}, "body": "not base64!",
            "isBase64Encoded": true, "cookies": [] });
        assert_eq!(response(serde_json::from_value(broken).unwrap()).status(), StatusCode::BAD_GATEWAY);
    }
}
