//! What arrives: signed texts are recorded once, unsigned ones not at all, and STOP is heard (N5, N6, N9).

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use telbuddy::ids::AccountId;
use telbuddy::inbound::signature;
use telbuddy::live::config::PUBLIC_URL;
use telbuddy::live::{Live, Need};
use telbuddy::platform::{Clock, Handled, Job};
use telbuddy::routine::{FindDueRoutines, Routine};

use crate::support::{Carrier, Client, Running, eventually, start};

/// Points the account's number at its hook, as a customer does in Twilio's Console.
pub async fn configure_number(running: &Running, client: &Client, carrier: &Carrier) -> String {
    let hook =
        client.get("/v1/credentials/twilio").await.expect(StatusCode::OK)["inbound_url"].as_str().unwrap().to_owned();
    set_number(running, client, carrier, "SmsUrl", &hook).await;
    hook
}

/// Changes a setting of the account's number at Twilio.
pub async fn set_number(running: &Running, client: &Client, carrier: &Carrier, setting: &str, value: &str) {
    let numbers =
        format!("{}/2010-04-01/Accounts/{}/IncomingPhoneNumbers", running.twilio.base_url(), carrier.account_sid);
    let auth = |request: reqwest::RequestBuilder| request.basic_auth(&carrier.account_sid, Some(&carrier.auth_token));
    let list: Value = auth(client.http.get(format!("{numbers}.json"))).send().await.unwrap().json().await.unwrap();
    let sid = list["incoming_phone_numbers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|n| n["phone_number"] == carrier.number)
        .unwrap()["sid"]
        .as_str()
        .unwrap()
        .to_owned();
    let set = auth(client.http.post(format!("{numbers}/{sid}.json"))).form(&[(setting, value)]).send().await.unwrap();
    assert!(set.status().is_success());
}

pub async fn arrives(client: &Client, carrier: &Carrier, from: &str, body: &str) -> Value {
    let answer =
        client.post("/_local/twilio/inbound", json!({ "from": from, "to": carrier.number, "body": body })).await;
    let body = answer.expect(StatusCode::OK);
    assert_eq!(body["webhook_status"], 200, "{body}");
    body
}

async fn received(client: &Client, n: usize) -> Vec<Value> {
    eventually("the texts are recorded", async || {
        let list = client.get("/v1/messages?limit=100").await.expect(StatusCode::OK);
        let texts: Vec<_> =
            list["data"].as_array().unwrap().iter().filter(|m| m["direction"] == "inbound").cloned().collect();
        (texts.len() >= n).then_some(texts)
    })
    .await
}

/// The word of a text is noted right after its row, which is all that the API shows.
async fn settle_down() {
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_arrives_is_recorded_and_counted() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let sent = arrives(&client, &carrier, "+14155552671", "Is the table free?").await;
    let texts = received(&client, 1).await;
    assert_eq!((&texts[0]["twilio_sid"], &texts[0]["status"]), (&sent["message_sid"], &json!("received")));
    assert_eq!(texts[0]["own_sender"], carrier.number.as_str());
    // The same person has the same hash in both directions.
    let id = client.accepted("k", carrier.text("+14155552671", "Yes.")).await;
    let out = client.get(&format!("/v1/messages/{id}")).await.expect(StatusCode::OK);
    assert_eq!(out["other_party_hash"], texts[0]["other_party_hash"]);
    eventually("it is in the usage", async || {
        let rows = client.get("/v1/usage").await.expect(StatusCode::OK);
        rows["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["direction"] == "inbound" && row["messages"] == 1)
            .then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_stop_gets_nothing_more_until_start() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    arrives(&client, &carrier, "+14155552671", "Stop!").await;
    received(&client, 1).await;
    settle_down().await;
    let id = client.accepted("k1", carrier.text("+14155552671", "still there?")).await;
    let refused = client.until(&id, "refused").await;
    assert_eq!(refused["reason"], "opted_out");
    // Somebody else still gets texts.
    let id = client.accepted("k2", carrier.text("+14155552672", "hello")).await;
    client.until(&id, "delivered").await;
    arrives(&client, &carrier, "+14155552671", "START").await;
    received(&client, 2).await;
    settle_down().await;
    let id = client.accepted("k3", carrier.text("+14155552671", "welcome back")).await;
    client.until(&id, "delivered").await;
    let bodies: Vec<_> = running
        .journal(&carrier)
        .await
        .iter()
        .filter(|m| m["direction"] == "outbound-api")
        .map(|m| m["body"].clone())
        .collect();
    assert_eq!(bodies, ["hello", "welcome back"]);
    running.stop().await;
}

pub fn text_params(carrier: &Carrier, sid: &str) -> Vec<(String, String)> {
    [
        ("MessageSid", sid),
        ("SmsSid", sid),
        ("AccountSid", &carrier.account_sid),
        ("From", "+14155552671"),
        ("To", &carrier.number),
        ("Body", "a b+c ü"),
        ("NumSegments", "1"),
        ("NumMedia", "0"),
        ("Empty", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

pub fn encoded(params: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish()
}

pub async fn post_hook(client: &Client, url: &str, body: String, signature: Option<&str>) -> crate::support::Answer {
    let path = url.strip_prefix(&client.base).unwrap();
    let mut headers = vec![("content-type", "application/x-www-form-urlencoded")];
    headers.extend(signature.map(|signature| ("x-twilio-signature", signature)));
    client.send(Method::POST, path, Some(body), &headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_a_number_hears_that_it_takes_texts() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let hook = configure_number(&running, &client, &carrier).await;
    set_number(&running, &client, &carrier, "VoiceUrl", &hook.replace("/messages", "/voice")).await;
    let call = json!({ "from": "+14155552671", "to": carrier.number });
    let answer = client.post("/_local/twilio/calls", call).await.expect(StatusCode::OK);
    assert_eq!(answer["webhook_status"], 200, "{answer}");
    assert!(answer["webhook_body"].as_str().unwrap().contains("<Hangup/>"), "{answer}");
    running.stop().await;
}

/// Has Twilio's list of what arrived gone through now.
async fn catch_up(running: &Running, client: &Client) {
    let (live, account) = (Live::new(&running.config, &[Need::Tables]).unwrap(), account_of(client).await);
    live.do_routine_at(account, Routine::Arrivals, live.now()).await.unwrap();
}

async fn account_of(client: &Client) -> AccountId {
    let session = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    session["account_id"].as_str().unwrap().parse().unwrap()
}

/// The webhook passes, with its secret and through the gateway; then it is called at an address that leads elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_daily_test_goes_through_the_public_address_and_tells_when_it_does_not() {
    let running = start().await;
    let (client, _) = running.connected("ann").await;
    let account = account_of(&client).await;
    let job = || vec![Job::SelfTest { account }];
    let live = Live::new(&running.config, self_test::NEEDS).unwrap();
    assert_eq!(self_test::handle(&live, &live.site, job()).await, [Handled::Done]);
    let quarantine = async || client.get("/v1/quarantine").await.expect(StatusCode::OK)["data"].clone();
    assert_eq!(quarantine().await, json!([]));
    for (origin, cause) in [
        // Nothing listens there; and this is signed for another address than the one that it reaches.
        ("http://127.0.0.1:9".to_owned(), "self_test_unanswered"),
        (running.url.replace("127.0.0.1", "localhost"), "self_test_refused"),
    ] {
        let moved = Live::new(&running.config.with(PUBLIC_URL, &origin), self_test::NEEDS).unwrap();
        assert_eq!(self_test::handle(&moved, &moved.site, job()).await, [Handled::Done]);
        let records = quarantine().await;
        let record = records.as_array().unwrap().iter().find(|record| record["cause"] == cause);
        let record = record.unwrap_or_else(|| panic!("no {cause} in {records}"));
        assert_eq!((&record["route"], record["alerted_at"].is_string()), (&json!("self_test"), true), "{record}");
        assert!(record["detail"].as_str().unwrap().contains("Whoever runs this TelBuddy"), "{record}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_whose_webhook_got_lost_is_found_in_twilios_list_and_its_stop_is_heard() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // Twilio has nowhere to tell it.
    let lost = json!({ "from": "+14155552671", "to": carrier.number, "body": "STOP" });
    let lost = client.post("/_local/twilio/inbound", lost).await.expect(StatusCode::OK);
    assert_eq!(lost["webhook_status"], Value::Null, "{lost}");
    configure_number(&running, &client, &carrier).await;
    let told = arrives(&client, &carrier, "+14155552672", "hello").await;
    received(&client, 1).await;
    catch_up(&running, &client).await;
    let texts = received(&client, 2).await;
    let sids: std::collections::BTreeSet<_> = texts.iter().map(|text| text["twilio_sid"].as_str().unwrap()).collect();
    assert_eq!(sids, [&lost, &told].map(|text| text["message_sid"].as_str().unwrap()).into());
    settle_down().await;
    let id = client.accepted("k1", carrier.text("+14155552671", "still there?")).await;
    assert_eq!(client.until(&id, "refused").await["reason"], "opted_out");
    // Again, and with copies of a webhook beside it: every text is there once and charged once.
    let url =
        client.get("/v1/credentials/twilio").await.expect(StatusCode::OK)["inbound_url"].as_str().unwrap().to_owned();
    let params = text_params(&carrier, lost["message_sid"].as_str().unwrap());
    let signature = signature::sign(&carrier.auth_token, &url, &params);
    let copies = join_all((0..10).map(|_| post_hook(&client, &url, encoded(&params), Some(&signature))));
    let (copies, ()) = futures::future::join(copies, catch_up(&running, &client)).await;
    assert!(copies.iter().all(|copy| copy.status == StatusCode::OK));
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
    assert_eq!(received(&client, 2).await.len(), 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_copies_of_one_text_are_one_text() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let url = configure_number(&running, &client, &carrier).await;
    let params = text_params(&carrier, &format!("SM{}", "0".repeat(32)));
    let signature = signature::sign(&carrier.auth_token, &url, &params);
    let copies = (0..50).map(|_| post_hook(&client, &url, encoded(&params), Some(&signature)));
    for answer in join_all(copies).await {
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.text.ends_with("<Response/>"));
    }
    received(&client, 1).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(received(&client, 1).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unsigned_gets_in() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let (_, other) = running.connected("bob").await;
    let url = configure_number(&running, &client, &carrier).await;
    let params = text_params(&carrier, &format!("SM{}", "1".repeat(32)));
    let good = signature::sign(&carrier.auth_token, &url, &params);
    let mut changed = params.clone();
    changed[5].1.push('!');
    let foreign = text_params(&other, &format!("SM{}", "2".repeat(32)));
    let refused = [
        (params.clone(), None),
        (params.clone(), Some(String::new())),
        (changed, Some(good.clone())),
        (params.clone(), Some(signature::sign(&other.auth_token, &url, &params))),
        (params.clone(), Some(signature::sign(&carrier.auth_token, &format!("{url}?x=1"), &params))),
        // Signed with the right token, but about another Twilio account.
        (foreign.clone(), Some(signature::sign(&carrier.auth_token, &url, &foreign))),
    ];
    for (params, signature) in refused {
        let answer = post_hook(&client, &url, encoded(&params), signature.as_deref()).await;
        assert_eq!(answer.problem(StatusCode::FORBIDDEN), "bad-signature");
    }
    // Unknown, malformed and half-known paths are all just not there.
    let hook = url.rsplit('/').nth(1).unwrap();
    let half = format!("{}{}", &hook[..26], "a".repeat(26));
    for wrong in ["x".to_owned(), "a".repeat(52), half, hook.to_uppercase()] {
        let url = url.replace(hook, &wrong);
        assert_eq!(
            post_hook(&client, &url, encoded(&params), Some(&good)).await.status,
            StatusCode::NOT_FOUND,
            "{wrong}"
        );
    }
    let large = post_hook(&client, &url, "a".repeat(65 * 1024), Some(&good)).await;
    assert_eq!(large.problem(StatusCode::PAYLOAD_TOO_LARGE), "body-too-large");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(client.get("/v1/messages").await.expect(StatusCode::OK)["data"], json!([]));
    // And the good one is.
    assert_eq!(post_hook(&client, &url, encoded(&params), Some(&good)).await.status, StatusCode::OK);
    received(&client, 1).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_status_for_another_accounts_message_changes_nothing() {
    let running = start().await;
    let (ann, ann_carrier) = running.connected("ann").await;
    let (bob, bob_carrier) = running.connected("bob").await;
    running.fault(&ann_carrier, json!({ "next": 1, "kind": "drop" })).await;
    let id = ann.accepted("k", ann_carrier.text("+14155552671", "hi")).await;
    ann.until(&id, "unknown").await;
    // Bob signs, with his own token and through his own hook, a status for Ann's message.
    let hook =
        bob.get("/v1/credentials/twilio").await.expect(StatusCode::OK)["inbound_url"].as_str().unwrap().to_owned();
    let url = hook.replace("/messages", &format!("/status/{id}"));
    let sid = format!("SM{}", "3".repeat(32));
    let params: Vec<_> =
        [("MessageSid", sid.as_str()), ("MessageStatus", "delivered"), ("AccountSid", &bob_carrier.account_sid)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    let signature = signature::sign(&bob_carrier.auth_token, &url, &params);
    assert_eq!(post_hook(&bob, &url, encoded(&params), Some(&signature)).await.status, StatusCode::NO_CONTENT);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(ann.get(&format!("/v1/messages/{id}")).await.expect(StatusCode::OK)["status"], "unknown");
    running.stop().await;
}

/// Plays a signed text as Twilio would, by hand.
async fn plays(client: &Client, carrier: &Carrier, url: &str, sid: &str, (from, to): (&str, &str), body: &str) {
    let params: Vec<_> =
        [("MessageSid", sid), ("AccountSid", &carrier.account_sid), ("From", from), ("To", to), ("Body", body)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    let signature = signature::sign(&carrier.auth_token, url, &params);
    assert_eq!(post_hook(client, url, encoded(&params), Some(&signature)).await.status, StatusCode::OK);
    // What a replay does not do cannot be waited for.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_not_lifted_by_an_old_start_nor_by_one_on_another_channel() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let url = configure_number(&running, &client, &carrier).await;
    let sid = |n: u8| format!("SM{n:032x}");
    let texts = ("+14155552671", carrier.number.as_str());
    let whatsapp_to = format!("whatsapp:{}", carrier.number);
    plays(&client, &carrier, &url, &sid(1), texts, "START").await;
    plays(&client, &carrier, &url, &sid(2), texts, "STOP").await;
    plays(&client, &carrier, &url, &sid(1), texts, "START").await;
    plays(&client, &carrier, &url, &sid(3), ("whatsapp:+14155552671", &whatsapp_to), "START").await;
    let id = client.accepted("k1", carrier.text("+14155552671", "still out?")).await;
    assert_eq!(client.until(&id, "refused").await["reason"], "opted_out");
    plays(&client, &carrier, &url, &sid(4), texts, "START").await;
    let id = client.accepted("k2", carrier.text("+14155552671", "welcome back")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_cannot_forge_a_free_message() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let hook =
        client.get("/v1/credentials/twilio").await.expect(StatusCode::OK)["inbound_url"].as_str().unwrap().to_owned();
    // Twilio is busy once: the message waits for two seconds, in which the forged word comes.
    running.fault(&carrier, json!({ "next": 1, "kind": "429" })).await;
    let id = client.accepted("k", carrier.text("+14155552671", "for free?")).await;
    client.until(&id, "retryable").await;
    let url = hook.replace("/messages", &format!("/status/{id}"));
    let params: Vec<_> = [
        ("MessageSid", format!("SM{}", "9".repeat(32))),
        ("MessageStatus", "canceled".to_owned()),
        ("AccountSid", carrier.account_sid.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();
    let signature = signature::sign(&carrier.auth_token, &url, &params);
    assert_eq!(post_hook(&client, &url, encoded(&params), Some(&signature)).await.status, StatusCode::NO_CONTENT);
    client.until(&id, "delivered").await;
    let credits = eventually("it is charged", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then_some(credits)
    });
    assert_eq!(credits.await["used_micro"], 1_000_000);
    running.stop().await;
}
