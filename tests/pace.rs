//! A sender's pace, and fairness between customers: a long line of one customer's is nobody else's.

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{eventually, start};

/// Scattered: neighbouring numbers would look like an attack.
fn scattered(n: usize) -> Vec<String> {
    let areas = [212, 213, 303, 305, 312, 404, 415, 503, 617, 702];
    (0..n).map(|n| format!("+1{}555{}", areas[n % 10], 1_000 + 137 * (n / 10))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_code_hands_over_a_segment_a_second_and_what_waits_can_be_taken_back() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let usual = json!({ "countries": ["US"], "daily_ceiling_segments": 500, "quiet_hours": null });
    client.put("/v1/sending-policy", usual).await.expect(StatusCode::OK);

    let ask = json!({ "to": scattered(6), "from": carrier.number, "body": "one after the other" });
    let answer = client.message("k", ask).await.expect(StatusCode::ACCEPTED);
    let ids: Vec<_> = answer["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();

    // Whoever waits last is taken back. It has seconds to go: nothing has to be quick for that.
    let status = async |id: &str| {
        client.get(&format!("/v1/messages/{id}")).await.expect(StatusCode::OK)["status"].as_str().unwrap().to_owned()
    };
    eventually("the first is on its way", async || (!running.journal(&carrier).await.is_empty()).then_some(())).await;
    let mut waiting = Vec::new();
    for id in &ids {
        if status(id).await == "accepted" {
            waiting.push(*id);
        }
    }
    let canceled = waiting.pop().expect("five wait for a second each");
    client.delete(&format!("/v1/messages/{canceled}")).await.expect(StatusCode::OK);
    for id in ids.iter().filter(|id| **id != canceled) {
        client.until(id, "delivered").await;
    }

    let journal = running.journal(&carrier).await;
    let times = journal.iter().map(|one| one["created"].as_str().unwrap().parse::<Timestamp>().unwrap());
    let (first, last) = (times.clone().min().unwrap(), times.clone().max().unwrap());
    // Slots are a second apart; how long Twilio is on the way to the first one counts against it.
    assert!(times.count() == 5 && last.duration_since(first).as_secs() >= 2, "from {first} to {last}");
    running.stop().await;
}

/// Ninety of Ann's are in the queue; what Bob asks for then goes out after a few of them, not after all.
#[tokio::test(flavor = "multi_thread")]
async fn one_customers_long_queue_does_not_keep_another_waiting() {
    let running = start().await;
    let ((ann, hers), (bob, his)) = (running.connected("ann").await, running.connected("bob").await);
    // Slow, so that the queue stays long while Bob comes.
    running.fault(&hers, json!({ "rate": 1.0, "kind": "slow", "ms": 300 })).await;
    let ask = json!({ "to": scattered(90), "from": hers.number, "body": "to all" });
    ann.message("k", ask).await.expect(StatusCode::ACCEPTED);
    let before = running.journal(&hers).await.len();
    let id = bob.accepted("k", his.text("+14155552671", "only you")).await;
    bob.until(&id, "delivered").await;
    let overtaken = 90 - running.journal(&hers).await.len();
    assert!(overtaken >= 30, "{before} of Ann's were out when Bob came, and only {overtaken} were left after him");
    running.stop().await;
}
