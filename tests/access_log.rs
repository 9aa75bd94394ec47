//! The access log (promise N11): as many entries as KMS opened keys, in a chain that the customer can check.

use local_aws::Service;
use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::access_log::{Entry, Export, verify};

use crate::support::{eventually, start};

#[tokio::test(flavor = "multi_thread")]
async fn every_key_that_kms_opened_is_in_the_customers_log() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let mut requests = Vec::new();
    for n in 0..3 {
        let answer = client.message(&format!("k{n}"), carrier.text("+14155552671", "hi")).await;
        requests.push(answer.headers["x-request-id"].to_str().unwrap().to_owned());
        let id = answer.expect(StatusCode::ACCEPTED)["id"].as_str().unwrap().to_owned();
        client.until(&id, "delivered").await;
    }
    // Ann is the only account: every Decrypt was for her.
    let opened = running.aws.answered()[&(Service::Kms, "Decrypt".to_owned())];
    let export = eventually("all openings are linked", async || {
        let mut entries: Vec<Value> = Vec::new();
        let mut path = "/v1/access-log?limit=2".to_owned();
        loop {
            let page = client.get(&path).await.expect(StatusCode::OK);
            entries.extend(page["data"].as_array().unwrap().iter().cloned());
            match page["next_cursor"].as_str() {
                Some(cursor) => path = format!("/v1/access-log?limit=2&cursor={cursor}"),
                None => {
                    break (entries.len() as u64 == opened)
                        .then(|| json!({ "account_id": page["account_id"], "entries": entries }));
                }
            }
        }
    })
    .await;
    let export: Export = serde_json::from_value(export).unwrap();
    assert_eq!(verify(&export).unwrap().sequence, opened);
    // Mailer: profile. API: payload and match. Sender: send, payload and match. Webhook: hook.
    let mut purposes: Vec<_> = export.entries.iter().map(|entry: &Entry| entry.purpose.as_str()).collect();
    purposes.sort_unstable();
    assert_eq!(purposes, ["hook", "match", "match", "payload", "payload", "profile", "send"]);

    // Each names what it was opened for: here the first message, whose answer has the same id.
    assert!(export.entries.iter().all(|entry| entry.request_id.is_some()));
    let of_api = export.entries.iter().filter(|entry| entry.function == "send-sms");
    let named: Vec<_> = of_api.map(|entry| entry.request_id.unwrap().to_string()).collect();
    assert_eq!(named, [requests[0].clone(), requests[0].clone()]);
    // No key was opened before in its environment.
    assert!(export.entries.iter().all(|entry| entry.uses_before.is_none()));

    let bob = running.signed_in("bob").await;
    let page = bob.get("/v1/access-log").await.expect(StatusCode::OK);
    assert!(page["data"].as_array().unwrap().iter().all(|entry| entry["purpose"] == "profile"), "{page}");
    running.stop().await;
}
