//! Connecting a customer's numbers at the Twilio double and giving them back, over real HTTP.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::connection::Target;
use telbuddy::live::{Live, Need};
use telbuddy::platform::{EnqueueJob, Job};

use crate::support::{Carrier, Client, Running, eventually, start};

/// What a customer's number is configured for before TelBuddy comes.
fn theirs() -> Value {
    json!({
        "sms_url": "https://shop.example/sms?key=a%20b&x=#rc=3&rp=all", "sms_method": "GET",
        "sms_fallback_url": "https://shop.example/fallback", "voice_url": "https://shop.example/voice",
        "sms_application_sid": format!("AP{}", "0a".repeat(16)), "friendly_name": "Front desk",
    })
}

/// Connected, with a number that has been in use for something else.
async fn shop(running: &Running) -> (Client, Carrier, String) {
    let (client, carrier) = running.connected("ann").await;
    let listed = client.get("/v1/numbers").await.expect(StatusCode::OK);
    let numbers = listed["data"].as_array().unwrap();
    let sid = numbers.iter().find(|number| number["phone_number"] == carrier.number.as_str()).unwrap()["sid"].clone();
    let sid = sid.as_str().unwrap().to_owned();
    client.post(&format!("/_local/twilio/numbers/{sid}"), theirs()).await.expect(StatusCode::OK);
    (client, carrier, sid)
}

/// What stands at Twilio, read with the customer's own token; without what every change moves.
async fn at_twilio(running: &Running, carrier: &Carrier, sid: &str) -> Value {
    let url = format!(
        "{}/2010-04-01/Accounts/{}/IncomingPhoneNumbers/{sid}.json",
        running.twilio.base_url(),
        carrier.account_sid
    );
    let asked = running.client().http.get(url).basic_auth(&carrier.account_sid, Some(&carrier.auth_token));
    let mut answer: Value = asked.send().await.unwrap().json().await.unwrap();
    answer.as_object_mut().unwrap().remove("date_updated");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_number_brings_texts_here_and_is_given_back_byte_for_byte() {
    let running = start().await;
    let (client, carrier, sid) = shop(&running).await;
    let path = format!("/v1/numbers/{sid}/connection");
    let before = at_twilio(&running, &carrier, &sid).await;

    let shown = client.post(&format!("{path}?dry_run=true"), json!({})).await.expect(StatusCode::OK);
    assert_eq!((&shown["dry_run"], &shown["changes"][2]["from"]), (&json!(true), &before["sms_url"]));
    assert_eq!(at_twilio(&running, &carrier, &sid).await, before);

    let connected = client.post(&path, json!({})).await.expect(StatusCode::OK);
    assert_eq!((&connected["changes"], &connected["state"]), (&shown["changes"], &json!("connected")));
    let now = at_twilio(&running, &carrier, &sid).await;
    for untouched in ["sms_fallback_url", "voice_url", "friendly_name"] {
        assert_eq!(now[untouched], before[untouched], "{untouched}");
    }
    let text = json!({ "from": "+12065550123", "to": carrier.number, "body": "hello" });
    client.post("/_local/twilio/inbound", text).await.expect(StatusCode::OK);
    eventually("the text arrives", async || {
        let listed = client.get("/v1/messages").await.expect(StatusCode::OK);
        (listed["data"][0]["direction"] == "inbound").then_some(())
    })
    .await;

    // While it is connected the credential that gives it back is not let go by accident.
    let kept = client.delete("/v1/credentials/twilio").await;
    assert_eq!(kept.problem(StatusCode::CONFLICT), "numbers-connected");
    let other = running.carrier(json!({})).await;
    let kept = client.put("/v1/credentials/twilio", other.credential()).await;
    assert_eq!(kept.problem(StatusCode::CONFLICT), "numbers-connected");
    client.put("/v1/credentials/twilio", carrier.credential()).await.expect(StatusCode::OK);

    let restored = client.delete(&path).await.expect(StatusCode::OK);
    assert_eq!(restored["changes"][2]["to"], before["sms_url"]);
    assert_eq!(at_twilio(&running, &carrier, &sid).await, before);
    assert_eq!(client.delete(&path).await.problem(StatusCode::NOT_FOUND), "not-found");
    client.delete("/v1/credentials/twilio").await.expect(StatusCode::NO_CONTENT);
    assert_eq!(client.get("/v1/numbers").await.problem(StatusCode::CONFLICT), "not-connected");
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_messaging_service_is_connected_for_all_of_its_pool() {
    let running = start().await;
    let (client, carrier, number) = shop(&running).await;
    let made = format!("/_local/twilio/accounts/{}/services", carrier.account_sid);
    let service = client.post(&made, json!({ "friendly_name": "Pool", "numbers": [carrier.number] })).await.body;
    let sid = service["sid"].as_str().unwrap().to_owned();
    let theirs = json!({ "inbound_request_url": "https://shop.example/pool", "use_inbound_webhook_on_number": true });
    client.post(&format!("/_local/twilio/services/{sid}"), theirs).await.expect(StatusCode::OK);

    let listed = client.get("/v1/numbers").await.expect(StatusCode::OK);
    let member = listed["data"].as_array().unwrap().iter().find(|one| one["sid"] == number.as_str()).unwrap();
    assert_eq!(member["messaging_service_sid"], sid.as_str());
    assert_eq!(listed["messaging_services"][0]["numbers"], 1);

    let path = format!("/v1/numbers/{sid}/connection");
    let connected = client.post(&path, json!({})).await.expect(StatusCode::OK);
    assert_eq!((&connected["kind"], &connected["state"]), (&json!("messaging_service"), &json!("connected")));
    let text = json!({ "from": "+12065550123", "to": carrier.number, "body": "STOP" });
    client.post("/_local/twilio/inbound", text).await.expect(StatusCode::OK);
    eventually("the text arrives", async || {
        let listed = client.get("/v1/messages").await.expect(StatusCode::OK);
        (listed["data"][0]["direction"] == "inbound").then_some(())
    })
    .await;
    let restored = client.delete(&path).await.expect(StatusCode::OK);
    let to: Vec<_> = restored["changes"].as_array().unwrap().iter().map(|change| change["to"].clone()).collect();
    assert_eq!(to, [json!("https://shop.example/pool"), json!("true")]);
    running.no_contract_violations().await;
    running.stop().await;
}

/// Asks for a look now: the schedule does it every six hours.
async fn look(running: &Running, client: &Client, sid: &str) {
    let who = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let account = who["account_id"].as_str().unwrap().parse().unwrap();
    let live = Live::new(&running.config, &[Need::Queues]).unwrap();
    let target = Target::parse(sid).unwrap();
    live.enqueue(Job::CheckNumber { account, target }, 0).await.unwrap();
    eventually("the look is over", async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let queues = running.aws.queues().unwrap();
        let queue = queues.into_iter().find(|queue| queue.name.ends_with("-numbers")).unwrap();
        (queue.visible + queue.in_flight == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_changes_at_twilio_is_seen_and_never_overwritten() {
    let running = start().await;
    let (client, carrier, sid) = shop(&running).await;
    let path = format!("/v1/numbers/{sid}/connection");
    client.post(&path, json!({})).await.expect(StatusCode::OK);
    let theirs = json!({ "sms_url": "https://new.example/sms" });
    client.post(&format!("/_local/twilio/numbers/{sid}"), theirs).await.expect(StatusCode::OK);
    let changed = at_twilio(&running, &carrier, &sid).await;
    look(&running, &client, &sid).await;
    for answer in [client.post(&path, json!({})).await, client.delete(&path).await] {
        assert_eq!(answer.body["errors"][0]["field"], "SmsUrl");
        assert_eq!(answer.problem(StatusCode::CONFLICT), "number-changed");
    }
    assert_eq!(at_twilio(&running, &carrier, &sid).await, changed);
    client.delete(&format!("{path}?when_changed=keep")).await.expect(StatusCode::OK);
    assert_eq!(at_twilio(&running, &carrier, &sid).await, changed);
    running.stop().await;
}
