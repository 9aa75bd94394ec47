//! Opt-outs from the first word to the last (promise N9): texts, Twilio's error, entries, look-ups, CSV.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::inbound::{arrives, configure_number};
use crate::support::{Answer, Carrier, Client, eventually, start};

const ANN: &str = "+14155552671";
const BOB: &str = "+14155552672";
const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

/// The list, once it has so many rows.
async fn listed(client: &Client, n: usize) -> Vec<Value> {
    eventually("the opt-outs are listed", async || {
        let list = client.get("/v1/opt-outs").await.expect(StatusCode::OK);
        let rows = list["data"].as_array().unwrap().clone();
        (rows.len() == n).then_some(rows)
    })
    .await
}

async fn csv(client: &Client) -> String {
    let answer = client.send(Method::GET, "/v1/opt-outs", None, &[("accept", "text/csv")]).await;
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8", "{}", answer.text);
    answer.text
}

/// The result of a request about one number, or the code of its error.
fn result(answer: Answer) -> String {
    let row = &answer.expect(StatusCode::OK)["data"][0];
    row["result"].as_str().or(row["error"]["code"].as_str()).unwrap().to_owned()
}

async fn entered(client: &Client, carrier: &Carrier, number: &str) -> String {
    result(client.post("/v1/opt-outs", json!({ "numbers": [number], "from": carrier.number })).await)
}

async fn removed(client: &Client, carrier: &Carrier, number: &str) -> String {
    let evidence = json!({ "kind": "web_form", "given_at": "2026-01-02T03:04:05Z" });
    let ask = json!({ "numbers": [number], "from": carrier.number, "evidence": evidence });
    result(client.post("/v1/opt-outs/removals", ask).await)
}

async fn checked(client: &Client, carrier: &Carrier, number: &str) -> String {
    result(client.post("/v1/opt-outs/check", json!({ "numbers": [number], "from": carrier.number })).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipients_word_is_listed_and_enforced_and_only_they_take_it_back() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let stop = arrives(&client, &carrier, ANN, "ＳＴＯＰ.").await;
    let rows = listed(&client, 1).await;
    assert_eq!((&rows[0]["source"], &rows[0]["reference"]), (&json!("text"), &stop["message_sid"]));
    assert_eq!(rows[0]["sender"], carrier.number.as_str());
    let id = client.accepted("k1", carrier.text(ANN, "still there?")).await;
    let refused = client.until(&id, "refused").await;
    assert_eq!((&refused["reason"], &refused["other_party_hash"]), (&json!("opted_out"), &rows[0]["recipient_hash"]));
    assert_eq!(checked(&client, &carrier, ANN).await, "opted_out");
    assert_eq!(checked(&client, &carrier, BOB).await, "not_opted_out");
    // Neither a removal nor an entry and then a removal lifts it.
    assert_eq!(removed(&client, &carrier, ANN).await, "only_the_recipient");
    assert_eq!(entered(&client, &carrier, ANN).await, "opted_out");
    assert_eq!(removed(&client, &carrier, ANN).await, "only_the_recipient");
    arrives(&client, &carrier, ANN, "start").await;
    listed(&client, 0).await;
    let id = client.accepted("k2", carrier.text(ANN, "welcome back")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_customer_enters_is_enforced_until_they_lift_it() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    assert_eq!(entered(&client, &carrier, ANN).await, "opted_out");
    let user = client.get("/v1/sessions/current").await.expect(StatusCode::OK)["user_id"].clone();
    let rows = listed(&client, 1).await;
    assert_eq!((&rows[0]["source"], &rows[0]["reference"]), (&json!("manual"), &user));
    let text = csv(&client).await;
    let hash = rows[0]["recipient_hash"].as_str().unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.lines().nth(1).unwrap().starts_with(&format!("{hash},{},", carrier.number)), "{text}");
    let id = client.accepted("k1", carrier.text(ANN, "no?")).await;
    assert_eq!(client.until(&id, "refused").await["reason"], "opted_out");
    // Another account of the same person's number is another matter.
    let (other, other_carrier) = running.connected("bob").await;
    assert_eq!(checked(&other, &other_carrier, ANN).await, "not_opted_out");
    assert_eq!(removed(&client, &carrier, ANN).await, "removed");
    assert_eq!(removed(&client, &carrier, ANN).await, "not_opted_out");
    let id = client.accepted("k2", carrier.text(ANN, "yes!")).await;
    client.until(&id, "delivered").await;
    let bodies: Vec<_> = running.journal(&carrier).await.iter().map(|m| m["body"].clone()).collect();
    assert_eq!(bodies, ["yes!"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twilios_word_is_taken_as_truth_and_explained() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // Twilio hears STOP while nothing points here.
    let ask = json!({ "from": ANN, "to": carrier.number, "body": "STOP" });
    let heard = client.post("/_local/twilio/inbound", ask).await.expect(StatusCode::OK);
    assert_eq!(heard["webhook_status"], Value::Null);
    let id = client.accepted("k1", carrier.text(ANN, "hello?")).await;
    let rejected = client.until(&id, "rejected").await;
    assert_eq!((&rejected["error_code"], &rejected["error"]["code"]), (&json!(21610), &json!(21610)));
    assert_eq!((&rejected["error"]["fault"], &rejected["error"]["permanent"]), (&json!("recipient"), &json!(true)));
    let rows = listed(&client, 1).await;
    assert_eq!((&rows[0]["source"], &rows[0]["reference"]), (&json!("error_21610"), &json!(id)));
    assert_eq!(removed(&client, &carrier, ANN).await, "only_the_recipient");
    let id = client.accepted("k2", carrier.text(ANN, "and now?")).await;
    client.until(&id, "refused").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_to_a_number_in_a_service_counts_for_the_service_too() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let says = async |body: &str| {
        let ask = json!({ "from": ANN, "to": carrier.number, "body": body, "messaging_service_sid": SERVICE });
        let told = client.post("/_local/twilio/inbound", ask).await.expect(StatusCode::OK);
        assert_eq!(told["webhook_status"], 200, "{told}");
    };
    says("revoke").await;
    let rows = listed(&client, 2).await;
    let senders: Vec<_> = rows.iter().map(|row| row["sender"].as_str().unwrap()).collect();
    assert_eq!(senders, [carrier.number.as_str(), SERVICE]);
    let by_service = |to: &str| json!({ "to": to, "messaging_service_sid": SERVICE, "body": "hi" });
    for (key, text) in [("k1", by_service(ANN)), ("k2", carrier.text(ANN, "hi"))] {
        let id = client.accepted(key, text).await;
        assert_eq!(client.until(&id, "refused").await["reason"], "opted_out", "{key}");
    }
    says("UNSTOP").await;
    listed(&client, 0).await;
    // An entry for the service keeps back what goes by the service only.
    let ask = json!({ "numbers": [ANN], "messaging_service_sid": SERVICE });
    assert_eq!(result(client.post("/v1/opt-outs", ask).await), "opted_out");
    let id = client.accepted("k3", by_service(ANN)).await;
    assert_eq!(client.until(&id, "refused").await["reason"], "opted_out");
    let id = client.accepted("k4", carrier.text(ANN, "by number")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_numbers_go_in_and_come_out_again() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let numbers: Vec<_> = (0..1_000).map(|n| format!("+1415555{n:04}")).collect();
    let ask = json!({ "numbers": numbers, "from": carrier.number });
    for path in ["/v1/opt-outs", "/v1/opt-outs/check"] {
        let answer = client.post(path, ask.clone()).await.expect(StatusCode::OK);
        let rows = answer["data"].as_array().unwrap();
        assert_eq!(rows.iter().filter(|row| row["result"] == "opted_out").count(), 1_000, "{path}");
    }
    let (mut hashes, mut path) = (Vec::new(), "/v1/opt-outs?limit=300".to_owned());
    loop {
        let page = client.get(&path).await.expect(StatusCode::OK);
        hashes.extend(page["data"].as_array().unwrap().iter().map(|row| row["recipient_hash"].to_string()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/opt-outs?limit=300&cursor={cursor}");
    }
    assert!(hashes.is_sorted());
    hashes.dedup();
    assert_eq!((hashes.len(), csv(&client).await.lines().count()), (1_000, 1_001));
    running.stop().await;
}
