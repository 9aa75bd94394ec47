//! Lambda: turns events into requests, jobs and ticks, and answers into what Lambda wants. No other file names a Lambda
//! type. The local system calls the same functions with the same events.

use std::process::ExitCode;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent};
use data_encoding::BASE64;
use lambda_http::aws_lambda_events::apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse};
use lambda_http::aws_lambda_events::encodings::Body;
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;

use super::{Config, Live, Need, trace};
use crate::edge::{MAX_BODY_BYTES, Reply, Request};
use crate::fault::Fault;
use crate::ids::RequestId;
use crate::platform::{Handled, Job};

pub use aws_lambda_events::sqs;
pub use lambda_http::aws_lambda_events::apigw;

/// Starts a function: configuration and clients once, then one event after the other. A configuration that does not
/// read ends the process with one line that names the variable.
fn start(needs: &[Need], run: impl AsyncFnOnce(Live) -> Result<(), lambda_runtime::Error>) -> ExitCode {
    super::telemetry::start();
    let live = match Live::new(&Config::from_env(), needs) {
        Ok(live) => live,
        Err(error) => {
            tracing::error!(%error, "{error}");
            return ExitCode::FAILURE;
        }
    };
    // One invocation at a time: more threads only cost (docs/decisions/0001).
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(live)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the Lambda runtime ended");
            ExitCode::FAILURE
        }
    }
}

/// Serves HTTP requests from API Gateway (HTTP API, payload 2.0).
pub fn http<H>(needs: &[Need], handle: &H) -> ExitCode
where
    H: AsyncFn(&Live, Request) -> Reply,
{
    start(needs, async |live| {
        let live = &live;
        lambda_runtime::run(service_fn(move |event: LambdaEvent<ApiGatewayV2httpRequest>| async move {
            Ok::<_, lambda_runtime::Error>(http_event(live, handle, event.payload).await)
        }))
        .await
    })
}

/// Serves jobs from a queue, the records of a batch handed over together.
pub fn jobs<H>(needs: &[Need], handle: &H) -> ExitCode
where
    H: AsyncFn(&Live, Vec<Job>) -> Vec<Handled>,
{
    start(needs, async |live| {
        let live = &live;
        lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
            Ok::<_, lambda_runtime::Error>(queue_event(live, handle, event.payload).await)
        }))
        .await
    })
}

/// Serves ticks of EventBridge Scheduler, and what an operator invokes by hand: the handler gets the event.
pub fn ticks<H>(needs: &[Need], handle: &H) -> ExitCode
where
    H: AsyncFn(&Live, Value) -> Result<(), Fault>,
{
    start(needs, async |live| {
        let live = &live;
        lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
            let event = &event.payload;
            let handled = tick_event(live, async |live| handle(live, event.clone()).await).await;
            handled.map_err(lambda_runtime::Error::from)
        }))
        .await
    })
}

/// One HTTP event through a handler.
pub async fn http_event<H>(live: &Live, handle: H, event: ApiGatewayV2httpRequest) -> ApiGatewayV2httpResponse
where
    H: AsyncFn(&Live, Request) -> Reply,
{
    let request = request(event);
    let (id, method) = (request.id, request.method.clone());
    let reply = trace::within(id, handle(live, request)).await;
    tracing::info!(request.id = %id, %method, status = reply.status.as_u16(), "answered {id}");
    response(reply)
}

/// One tick through a handler.
pub async fn tick_event<H>(live: &Live, handle: H) -> Result<(), Fault>
where
    H: AsyncFn(&Live) -> Result<(), Fault>,
{
    trace::within(new_request_id(), handle(live)).await
}

/// A name for a request, a batch or a tick.
pub fn new_request_id() -> RequestId {
    RequestId::new(super::clock::now(), super::clock::random().map_or(0, u128::from_be_bytes))
}

/// A request from its event. Path and query are kept as the caller wrote them: Twilio signs them so.
fn request(event: ApiGatewayV2httpRequest) -> Request {
    let http = event.request_context.http;
    let mut headers = event.headers;
    if let Some(cookies) = event.cookies.filter(|cookies| !cookies.is_empty())
        && let Ok(line) = http::HeaderValue::from_str(&cookies.join("; "))
    {
        headers.insert(http::header::COOKIE, line);
    }
    let body = event.body.unwrap_or_default();
    let body = if event.is_base64_encoded {
        // What does not decode is no body that a caller sent; an empty one is refused where a body is needed.
        BASE64.decode(body.as_bytes()).unwrap_or_default()
    } else {
        body.into_bytes()
    };
    // The stage's name stands in front of the path unless it is `$default` or a custom domain hides it.
    let raw = event.raw_path.unwrap_or_default();
    let stage = event.request_context.stage.unwrap_or_default();
    let path = match raw.strip_prefix(&format!("/{stage}")) {
        Some(rest) if !stage.is_empty() && rest.starts_with('/') => rest.to_owned(),
        _ => raw,
    };
    Request {
        id: new_request_id(),
        now: super::clock::now(),
        method: http.method,
        path,
        query: event.raw_query_string.unwrap_or_default(),
        headers,
        body,
        peer: http.source_ip.unwrap_or_default(),
    }
}

fn response(reply: Reply) -> ApiGatewayV2httpResponse {
    let mut response = ApiGatewayV2httpResponse::default();
    response.status_code = i64::from(reply.status.as_u16());
    response.headers = reply.headers;
    if reply.bytes.is_empty() {
        response.body = (!reply.body.is_empty()).then_some(Body::Text(reply.body));
    } else {
        // Serialized as base64; the gateway decodes it because of the flag.
        response.body = Some(Body::Binary(reply.bytes));
        response.is_base64_encoded = true;
    }
    response.cookies = reply.cookies;
    response
}

/// One SQS event through a handler. A record that is no job goes back, and after its tries to the dead letters.
pub async fn queue_event<H>(live: &Live, handle: H, event: SqsEvent) -> SqsBatchResponse
where
    H: AsyncFn(&Live, Vec<Job>) -> Vec<Handled>,
{
    let mut jobs = Vec::new();
    let mut ids = Vec::new();
    let mut failed = Vec::new();
    for record in event.records {
        let id = record.message_id.unwrap_or_default();
        if let Some(Ok(job)) = record.body.as_deref().map(serde_json::from_str) {
            jobs.push(job);
            ids.push(id);
        } else {
            tracing::error!(record = %id, "a queue message is no job");
            failed.push(id);
        }
    }
    if !jobs.is_empty() {
        let handled = trace::within(new_request_id(), handle(live, jobs)).await;
        let handled = handled.into_iter().chain(std::iter::repeat(Handled::Again));
        failed.extend(ids.into_iter().zip(handled).filter(|(_, handled)| *handled == Handled::Again).map(|(id, _)| id));
    }
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = failed
        .into_iter()
        .map(|id| {
            let mut failure = BatchItemFailure::default();
            failure.item_identifier = id;
            failure
        })
        .collect();
    response
}

/// The largest HTTP body that the gateway of the local system reads before it refuses.
pub const GATEWAY_LIMIT: usize = 4 * MAX_BODY_BYTES;

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn bytes_are_handed_over_as_base64_and_text_as_it_is() {
        let bytes = Reply::bytes(StatusCode::OK, "image/gif", vec![0xff, 0x00, b'a']);
        let answer = serde_json::to_value(response(bytes)).unwrap();
        assert_eq!((&answer["body"], &answer["isBase64Encoded"]), (&"/wBh".into(), &true.into()));
        let text = Reply::text(StatusCode::OK, "text/plain", "héllo".to_owned());
        let answer = serde_json::to_value(response(text)).unwrap();
        assert_eq!((&answer["body"], &answer["isBase64Encoded"]), (&"héllo".into(), &false.into()));
    }
}
