//! What is refused is seen (N6): webhooks whose signature does not fit, and a credential that Twilio does not take any
//! more.

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::credential::{KeepCredential, SaveCredential, Saved, StoredCredential};
use telbuddy::inbound::signature;
use telbuddy::live::{Live, Need};
use telbuddy::platform::{Clock, PlatformKeys};

use crate::inbound::{configure_number, encoded, post_hook, text_params};
use crate::support::{Client, Running, eventually, start};

const CREDENTIAL: &str = "/v1/credentials/twilio";

/// The account's quarantine.
async fn quarantine(client: &Client) -> Vec<Value> {
    client.get("/v1/quarantine").await.expect(StatusCode::OK)["data"].as_array().unwrap().clone()
}

fn of_cause<'q>(records: &'q [Value], cause: &str) -> &'q Value {
    records.iter().find(|record| record["cause"] == cause).unwrap_or_else(|| panic!("no {cause} in {records:?}"))
}

/// Subjects and texts of the alerts at `/_local/mail` that came to this address: its mails but for the first, with the
/// link.
async fn alerts(running: &Running, email: &str) -> Vec<(String, String)> {
    let client = running.client();
    let answer = client.send(reqwest::Method::GET, "/_local/mail", None, &[("accept", "application/json")]).await;
    let mails = answer.expect(StatusCode::OK)["data"].as_array().unwrap().clone();
    let to = mails.iter().filter(|mail| mail["to"].as_array().is_some_and(|to| to.contains(&json!(email))));
    let text = |mail: &Value, name: &str| mail[name].as_str().unwrap().to_owned();
    let mut found: Vec<_> = to.map(|mail| (text(mail, "subject"), text(mail, "text"))).collect();
    found.retain(|(subject, _)| subject != "Confirm your address");
    found
}

async fn until_alerts(running: &Running, email: &str, n: usize) -> Vec<(String, String)> {
    eventually("the owner is told", async || {
        let alerts = alerts(running, email).await;
        (alerts.len() >= n).then_some(alerts)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_webhooks_are_seen_in_quarantine_and_told_by_one_mail_for_each_cause() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let (bob, bobs) = running.connected("bob").await;
    let url = configure_number(&running, &client, &carrier).await;
    assert_eq!(quarantine(&client).await, Vec::<Value>::new());
    let params = text_params(&carrier, &format!("SM{}", "1".repeat(32)));
    let wrong = signature::sign(&bobs.auth_token, &url, &params);
    let forged = join_all((0..50).map(|_| post_hook(&client, &url, encoded(&params), Some(&wrong)))).await;
    assert!(forged.iter().all(|answer| answer.status == StatusCode::FORBIDDEN));
    let foreign = text_params(&bobs, &format!("SM{}", "2".repeat(32)));
    let signed = signature::sign(&carrier.auth_token, &url, &foreign);
    let status = url.replace("/messages", "/status/msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z");
    for answer in [
        post_hook(&client, &status, encoded(&params), None).await,
        post_hook(&client, &url, encoded(&foreign), Some(&signed)).await,
    ] {
        assert_eq!(answer.problem(StatusCode::FORBIDDEN), "bad-signature");
    }

    let mails = until_alerts(&running, "ann@example.com", 3).await;
    let records = quarantine(&client).await;
    assert_eq!(records.len(), 3, "{records:?}");
    for (cause, count, route, header, advice) in [
        ("signature_mismatch", 50, "messages", true, "PUT /v1/credentials/twilio"),
        ("signature_missing", 1, "status", false, "proxy"),
        ("other_account", 1, "messages", true, "another Twilio account"),
    ] {
        let record = of_cause(&records, cause);
        assert_eq!((&record["count"], &record["route"]), (&json!(count), &json!(route)), "{record}");
        assert_eq!((&record["signature_header"], &record["recently_rotated"]), (&json!(header), &json!(false)));
        assert!(record["detail"].as_str().unwrap().contains(advice), "{record}");
        assert!(record["alerted_at"].is_string() && record["secret_age_seconds"].as_i64().unwrap() < 60, "{record}");
        let told = mails.iter().filter(|(_, text)| text.contains(&format!("({cause})"))).count();
        assert_eq!(told, 1, "{cause}: {mails:?}");
    }
    // Nothing of what came, and nothing that would let anybody in.
    let hook = url.rsplit('/').nth(1).unwrap();
    let shown = format!("{records:?} {mails:?}");
    for (_, value) in &params {
        assert!(value.len() < 4 || !shown.contains(value.as_str()), "{value} in {shown}");
    }
    for secret in [hook, &wrong, &carrier.auth_token, &bobs.auth_token] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
    assert_eq!(quarantine(&bob).await, Vec::<Value>::new());
    assert_eq!(alerts(&running, "bob@example.com").await, []);
    running.stop().await;
}

/// Stored a day ago, as far as the window of the secret before is concerned.
async fn close_the_window(running: &Running, client: &Client) {
    let live = Live::new(&running.config, &[Need::Tables, Need::PlatformSecret]).unwrap();
    let session = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let account = session["account_id"].as_str().unwrap().parse().unwrap();
    let mut stored = live.load_credential(account).await.unwrap().unwrap();
    for previous in &mut stored.previous {
        previous.until = live.now();
    }
    let sid_hash = live.platform().await.unwrap().hash("carrier", stored.account_sid.as_str());
    let credential = StoredCredential { version: stored.version + 1, ..stored };
    let replaced_sid_hash = Some(sid_hash.clone());
    let save =
        SaveCredential { credential, sid_hash, replaced_sid_hash, numbers: 0, keys: Vec::new(), keys_read: Vec::new() };
    assert_eq!(live.save_credential(save).await, Ok(Saved::Stored));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_that_was_not_promoted_in_time_says_so() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let path = format!("/_local/twilio/accounts/{}/secondary-token", carrier.account_sid);
    let new = client.post(&path, json!({})).await.body["secondary_auth_token"].as_str().unwrap().to_owned();
    client.post("/v1/credentials/twilio/rotation", json!({ "auth_token": new })).await.expect(StatusCode::OK);
    let arrives = async || {
        let text = json!({ "from": "+14155552671", "to": carrier.number, "body": "hi" });
        client.post("/_local/twilio/inbound", text).await.expect(StatusCode::OK)["webhook_status"].clone()
    };
    assert_eq!(arrives().await, 200, "the window is open");
    close_the_window(&running, &client).await;
    assert_eq!(arrives().await, 403);
    let records = quarantine(&client).await;
    let record = of_cause(&records, "signature_mismatch");
    assert_eq!((&record["recently_rotated"], &record["rotation_window_open"]), (&json!(true), &json!(false)));
    assert!(record["detail"].as_str().unwrap().contains("promote the secondary Auth Token"), "{record}");
    let mails = until_alerts(&running, "ann@example.com", 1).await;
    assert!(mails[0].1.contains("promote the secondary Auth Token"), "{mails:?}");
    // What it says helps.
    client.post(&format!("{path}/promote"), json!({})).await.expect(StatusCode::OK);
    assert_eq!(arrives().await, 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_twilio_refuses_is_told_once_and_shown_until_a_new_one_works() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // Changed at Twilio, and not here.
    let path = format!("/_local/twilio/accounts/{}/secondary-token", carrier.account_sid);
    let new = client.post(&path, json!({})).await.body["secondary_auth_token"].as_str().unwrap().to_owned();
    client.post(&format!("{path}/promote"), json!({})).await.expect(StatusCode::OK);
    let sends =
        (0..5).map(|n| client.message(Box::leak(format!("k{n}").into_boxed_str()), carrier.text("+14155552671", "hi")));
    join_all(sends).await;
    let refused = eventually("sending is stopped", async || {
        let shown = client.get(CREDENTIAL).await.expect(StatusCode::OK);
        (shown["status"] == "refused").then_some(shown)
    });
    assert_eq!(refused.await["account_sid"], carrier.account_sid.as_str());
    let mails = until_alerts(&running, "ann@example.com", 1).await;
    assert!(mails[0].1.contains("POST /v1/credentials/twilio/rotation"), "{mails:?}");
    let stopped = client.message("later", carrier.text("+14155552671", "hi")).await;
    assert_eq!(stopped.problem(StatusCode::FORBIDDEN), "sending-stopped");

    let connected = json!({ "account_sid": carrier.account_sid, "auth_token": new });
    let shown = client.put(CREDENTIAL, connected).await.expect(StatusCode::OK);
    assert_eq!(shown["status"], "connected");
    assert_eq!(client.get(CREDENTIAL).await.expect(StatusCode::OK)["status"], "connected");
    let id = client.accepted("works", carrier.text("+14155552671", "hi")).await;
    client.until(&id, "delivered").await;
    assert_eq!(alerts(&running, "ann@example.com").await.len(), 1, "once");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_tried_out_here() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let guess = async |n: usize| {
        let auth_token = format!("{n:032x}");
        client.post("/v1/credentials/twilio/rotation", json!({ "auth_token": auth_token })).await
    };
    // Connecting was one of twenty. (At the turn of a quarter of an hour a few more are let through.)
    let mut answers = join_all((0..45).map(guess)).await;
    answers.retain(|answer| answer.status == StatusCode::TOO_MANY_REQUESTS);
    assert!((5..=26).contains(&answers.len()), "{}", answers.len());
    let wait: i64 = answers[0].headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    let id = client.accepted("k", carrier.text("+14155552671", "goes on")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}
