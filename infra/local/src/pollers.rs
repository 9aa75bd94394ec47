//! Event sources: SQS pollers that call the consumers with batches, and the scheduler.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value, json};
use telbuddy::live::config::QUEUE_URL_PREFIX;
use telbuddy::live::serve::sqs;
use telbuddy::live::{Config, ConfigError, local};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::functions::{Function, Trigger};

/// Batches of one queue that are worked on at the same time.
const CONCURRENCY: usize = 2;
/// Records of a batch, the same as in the template.
const BATCH: i32 = 10;

/// Starts all of them; they end when `stopped` turns true.
pub fn start(
    functions: &Arc<Vec<Function>>,
    config: &Config,
    stopped: &watch::Receiver<bool>,
) -> Result<Vec<JoinHandle<()>>, ConfigError> {
    let client = local::sqs(config)?;
    let prefix = config.values().find(|(name, _)| *name == QUEUE_URL_PREFIX).map_or("", |(_, value)| value).to_owned();
    let mut tasks = Vec::new();
    for (at, function) in functions.iter().enumerate() {
        let workers = if matches!(function.trigger, Trigger::Queue(..)) { CONCURRENCY } else { 1 };
        for _ in 0..workers {
            let (functions, client, prefix) = (functions.clone(), client.clone(), prefix.clone());
            let mut until = stopped.clone();
            let run = async move {
                let Some(function) = functions.get(at) else { return };
                match &function.trigger {
                    Trigger::Http(..) => {}
                    Trigger::Queue(queue, call) => poll(&client, &format!("{prefix}{}", queue.name()), call).await,
                    Trigger::Schedule(every, call) => tick(function.name, *every, call).await,
                }
            };
            tasks.push(tokio::spawn(async move {
                tokio::select! {
                    () = run => {}
                    _ = until.wait_for(|stop| *stop) => {}
                }
            }));
        }
    }
    Ok(tasks)
}

type QueueCall = dyn Fn(sqs::SqsEvent) -> BoxFuture<'static, sqs::SqsBatchResponse> + Send + Sync;
type TickCall = dyn Fn(()) -> BoxFuture<'static, Result<(), telbuddy::fault::Fault>> + Send + Sync;

/// Receives, calls, deletes what was handled. What was not becomes visible again, and after its tries a dead letter.
async fn poll(client: &aws_sdk_sqs::Client, url: &str, call: &QueueCall) {
    loop {
        let received = client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(BATCH)
            .wait_time_seconds(20)
            .message_system_attribute_names(aws_sdk_sqs::types::MessageSystemAttributeName::All)
            .send()
            .await;
        let Ok(received) = received else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        };
        let messages = received.messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let records: Vec<_> = messages.iter().map(|message| record(message, url)).collect();
        let failed: Vec<String> = match serde_json::from_value(json!({ "Records": records })) {
            // A panic of a handler costs its batch, as on Lambda, and not the poller.
            Ok(event) => match tokio::spawn(call(event)).await {
                Ok(answer) => answer.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect(),
                Err(_) => messages.iter().filter_map(|message| message.message_id.clone()).collect(),
            },
            Err(error) => {
                tracing::error!(%error, "messages made no event");
                continue;
            }
        };
        for message in &messages {
            let id = message.message_id.as_deref().unwrap_or_default();
            if failed.iter().any(|failed| failed == id) {
                continue;
            }
            let handle = message.receipt_handle.as_deref().unwrap_or_default();
            if client.delete_message().queue_url(url).receipt_handle(handle).send().await.is_err() {
                tracing::warn!("a handled message could not be deleted; it will come again");
            }
        }
    }
}

/// A record as Lambda's event source mapping makes it.
fn record(message: &aws_sdk_sqs::types::Message, url: &str) -> Value {
    let name = url.rsplit('/').next().unwrap_or_default();
    let attributes: serde_json::Map<String, Value> = message
        .attributes
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str().to_owned(), value.clone().into()))
        .collect();
    json!({
        "messageId": message.message_id,
        "receiptHandle": message.receipt_handle,
        "body": message.body,
        "md5OfBody": message.md5_of_body,
        "attributes": attributes,
        "messageAttributes": {},
        "eventSource": "aws:sqs",
        "eventSourceARN": format!("arn:aws:sqs:us-east-1:000000000000:{name}"),
        "awsRegion": "us-east-1",
    })
}

async fn tick(name: &str, every: Duration, call: &TickCall) {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match tokio::spawn(call(())).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => tracing::warn!(function = name, %fault, "a scheduled run failed"),
            Err(_) => tracing::error!(function = name, "a scheduled run panicked"),
        }
    }
}
