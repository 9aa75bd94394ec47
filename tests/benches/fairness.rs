//! How long one customer's single message waits while another's many are in the queue, through the whole local system.
//!
//! `cargo bench -p telbuddy-tests --bench fairness`, with `-- 100000` for so many messages (the default is 10,000, which
//! is enough to see that their number does not matter). Of the times only their ratio says something.

#![expect(clippy::print_stdout, reason = "a bench reports")]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what does not work here ends the bench"
)]
#![expect(dead_code, unreachable_pub, reason = "the stories' support, of which this uses a part")]

#[path = "../support.rs"]
mod support;

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use telbuddy::live::local;
use tokio::time::Instant;

use support::{Carrier, Client, Running};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let asked = arguments.iter().find_map(|argument| argument.parse().ok());
    // `cargo test --benches` and `-- --test` only see that it runs.
    let n = asked.unwrap_or(if arguments.iter().any(|argument| argument == "--test") { 1_000 } else { 10_000 });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(measure(n));
}

async fn measure(n: usize) {
    let (mut config, data) = (None, std::sync::Arc::new(tempfile::tempdir().unwrap()));
    let running = support::start_with(data, |made| config.insert(made).clone()).await;
    let dynamodb = local::dynamodb(&config.unwrap()).unwrap();
    let (ann, hers) = running.connected("ann").await;
    let (bob, his) = running.connected("bob").await;

    // Credit for all of it; a store that the operator fills.
    let tables = dynamodb.list_tables().send().await.unwrap();
    let ledger = tables.table_names().iter().find(|name| name.ends_with("ledger")).unwrap();
    let me = ann.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let key = |text: &str| aws_sdk_dynamodb::types::AttributeValue::S(text.to_owned());
    dynamodb
        .update_item()
        .table_name(ledger)
        .key("pk", key(me["account_id"].as_str().unwrap()))
        .key("sk", key("ALLOWANCE#0"))
        .update_expression("SET available = :much")
        .expression_attribute_values(":much", aws_sdk_dynamodb::types::AttributeValue::N("1000000000000".to_owned()))
        .send()
        .await
        .unwrap();
    let fast = json!([{ "sender": hers.number, "segments_per_second": 1_000 }]);
    let policy = json!({ "countries": ["US"], "daily_ceiling_segments": 1_000_000, "quiet_hours": null,
        "sender_rates": fast });
    ann.put("/v1/sending-policy", policy).await.expect(StatusCode::OK);

    let mut alone = Vec::new();
    for at in 0..5 {
        alone.push(single(&running, &bob, &his, &format!("alone{at}")).await);
    }
    // Numbers far from each other: neighbours would look like an attack and freeze the account.
    let numbers: Vec<_> = (0..n).map(|at| format!("+1415{:07}", 2_000_000 + at * 79_191 % 7_999_993)).collect();
    for (at, chunk) in numbers.chunks(1_000).enumerate() {
        let ask = json!({ "to": chunk, "from": hers.number, "body": "to all" });
        ann.message(&format!("all{at}"), ask).await.expect(StatusCode::ACCEPTED);
    }
    let mut beside = Vec::new();
    for at in 0..5 {
        beside.push(single(&running, &bob, &his, &format!("beside{at}")).await);
    }
    let handed_over = running.journal(&hers).await.len();
    let ms =
        |times: &[Duration]| times.iter().map(|time| format!("{} ms", time.as_millis())).collect::<Vec<_>>().join(", ");
    println!("from the request to Twilio, alone:                     {}", ms(&alone));
    println!("while {} of {n} messages of another customer wait: {}", n - handed_over, ms(&beside));
    running.stop().await;
}

/// How long one message takes from the request until Twilio has it.
async fn single(running: &Running, client: &Client, carrier: &Carrier, key: &str) -> Duration {
    let begun = Instant::now();
    client.accepted(key, carrier.text("+14155552671", key)).await;
    while !running.journal(carrier).await.iter().any(|one| one["body"] == key) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    begun.elapsed()
}
