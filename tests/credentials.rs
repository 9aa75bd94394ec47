//! Connecting a Twilio account: each way that it can go wrong has its own clear answer, and no secret ever comes back.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::start;

const PATH: &str = "/v1/credentials/twilio";

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_checked_at_twilio_before_it_is_stored() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    let carrier = running.carrier(json!({})).await;
    assert_eq!(client.get(PATH).await.problem(StatusCode::NOT_FOUND), "not-found");

    let wrong = json!({ "account_sid": carrier.account_sid, "auth_token": "0".repeat(32) });
    assert_eq!(client.put(PATH, wrong).await.problem(StatusCode::UNPROCESSABLE_ENTITY), "carrier-refused-credential");
    let suspended = running.carrier(json!({ "status": "suspended" })).await;
    let refused = client.put(PATH, suspended.credential()).await;
    assert_eq!(refused.problem(StatusCode::UNPROCESSABLE_ENTITY), "carrier-account-inactive");
    assert_eq!(client.get(PATH).await.problem(StatusCode::NOT_FOUND), "not-found");

    client.put(PATH, carrier.credential()).await.expect(StatusCode::OK);
    let shown = client.get(PATH).await;
    assert!(!shown.text.contains(&carrier.auth_token));
    let shown = shown.expect(StatusCode::OK);
    assert_eq!(
        (&shown["account_sid"], &shown["kind"], &shown["trial"]),
        (&json!(carrier.account_sid), &json!("auth_token"), &json!(false))
    );
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_sends_and_the_token_only_checks_webhooks() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    let carrier = running.carrier(json!({ "type": "Trial", "verified": ["+14155552671"] })).await;
    let key = client.post(&format!("/_local/twilio/accounts/{}/keys", carrier.account_sid), json!({})).await.body;
    let credential = json!({
        "account_sid": carrier.account_sid, "auth_token": carrier.auth_token,
        "api_key_sid": key["sid"], "api_key_secret": key["secret"],
    });
    let shown = client.put(PATH, credential.clone()).await.expect(StatusCode::OK);
    assert_eq!(
        (&shown["kind"], &shown["friendly_name"], &shown["trial"]),
        (&json!("api_key"), &json!(null), &json!(null))
    );
    let id = client.accepted("k", carrier.text("+14155552671", "by key")).await;
    client.until(&id, "delivered").await;

    let mut wrong = credential;
    wrong["api_key_secret"] = "wrong".into();
    assert_eq!(client.put(PATH, wrong).await.problem(StatusCode::UNPROCESSABLE_ENTITY), "carrier-refused-credential");
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_twilio_account_belongs_to_one_telbuddy_account() {
    let running = start().await;
    let (ann, carrier) = running.connected("ann").await;
    let bob = running.signed_in("bob").await;
    let taken = bob.put(PATH, carrier.credential()).await;
    assert_eq!(taken.problem(StatusCode::CONFLICT), "carrier-account-taken");
    ann.delete(PATH).await.expect(StatusCode::NO_CONTENT);
    bob.put(PATH, carrier.credential()).await.expect(StatusCode::OK);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_keeps_the_webhook_and_removing_stops_sending() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let before = client.get(PATH).await.expect(StatusCode::OK);
    let other = running.carrier(json!({})).await;
    let after = client.put(PATH, other.credential()).await.expect(StatusCode::OK);
    assert_eq!(after["inbound_url"], before["inbound_url"]);
    assert_eq!(after["key_version"], 2);
    let id = client.accepted("k1", other.text("+14155552671", "by the new one")).await;
    client.until(&id, "delivered").await;
    assert_eq!((running.journal(&carrier).await.len(), running.journal(&other).await.len()), (0, 1));
    // The replaced account is free again.
    let bob = running.signed_in("bob").await;
    bob.put(PATH, carrier.credential()).await.expect(StatusCode::OK);

    client.delete(PATH).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(client.delete(PATH).await.problem(StatusCode::NOT_FOUND), "not-found");
    let refused = client.message("k2", other.text("+14155552671", "by none")).await;
    assert_eq!(refused.problem(StatusCode::CONFLICT), "not-connected");
    // Connected anew: the same path, which numbers are configured with, and a version that was never used before.
    let again = client.put(PATH, other.credential()).await.expect(StatusCode::OK);
    assert_eq!(again["inbound_url"], before["inbound_url"]);
    assert_eq!(again["key_version"], 3);
    running.stop().await;
}

/// Sends a message and waits for Twilio's signed callback.
async fn sends(client: &crate::support::Client, carrier: &crate::support::Carrier, key: &str) {
    let id = client.accepted(key, carrier.text("+14155552671", "hello")).await;
    client.until(&id, "delivered").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_the_auth_token_loses_no_webhook() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let path = format!("/_local/twilio/accounts/{}/secondary-token", carrier.account_sid);
    let new = client.post(&path, json!({})).await.body["secondary_auth_token"].as_str().unwrap().to_owned();

    let rotation = "/v1/credentials/twilio/rotation";
    let wrong = client.post(rotation, json!({ "auth_token": "0".repeat(32) })).await;
    assert_eq!(wrong.problem(StatusCode::UNPROCESSABLE_ENTITY), "carrier-refused-credential");
    client.post(rotation, json!({ "auth_token": new })).await.expect(StatusCode::OK);
    // Its answer got lost, and the caller asks again: the token that still signs is not pushed out.
    let rotated = client.post(rotation, json!({ "auth_token": new })).await.expect(StatusCode::OK);
    assert_eq!(rotated["key_version"], 3);
    assert!(rotated["previous_valid_until"].is_string());
    // Twilio still signs with the old one, then with the new one, and the old one is refused by then.
    sends(&client, &carrier, "before").await;
    client.post(&format!("{path}/promote"), json!({})).await.expect(StatusCode::OK);
    sends(&client, &carrier, "after").await;

    // Connecting the same account again is a rotation too: what is under way still counts.
    let connected = json!({ "account_sid": carrier.account_sid, "auth_token": new });
    let replaced = client.put(PATH, connected).await.expect(StatusCode::OK);
    assert!(replaced["previous_valid_until"].is_string());
    sends(&client, &carrier, "replaced").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_shared_key_no_auth_token_is_held_and_it_rotates_as_well() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    let carrier = running.carrier(json!({})).await;
    let account = format!("/_local/twilio/accounts/{}", carrier.account_sid);
    let new_key = async || client.post(&format!("{account}/keys"), json!({})).await.body;
    let new_shared = async || client.post(&format!("{account}/shared-key"), json!({})).await.body;
    let (key, shared) = (new_key().await, new_shared().await);
    let connected = client
        .put(
            PATH,
            json!({ "account_sid": carrier.account_sid, "api_key_sid": key["sid"], "api_key_secret": key["secret"],
                "signing_key_id": shared["id"], "signing_key": shared["secret"] }),
        )
        .await
        .expect(StatusCode::OK);
    assert_eq!(connected["kind"], "api_key_and_shared_key");
    sends(&client, &carrier, "k1").await;

    // The customer stores the new shared key here first, or Twilio signs with it first: messages in both windows settle.
    let shared = new_shared().await;
    let rotation = "/v1/credentials/twilio/rotation";
    let ask = json!({ "signing_key_id": shared["id"], "signing_key": shared["secret"] });
    client.post(rotation, ask).await.expect(StatusCode::OK);
    sends(&client, &carrier, "k2").await;
    let key = new_key().await;
    let ask = json!({ "api_key_sid": key["sid"], "api_key_secret": key["secret"] });
    client.post(rotation, ask).await.expect(StatusCode::OK);
    sends(&client, &carrier, "k3").await;
    let wrong_kind = client.post(rotation, json!({ "auth_token": carrier.auth_token })).await;
    assert_eq!(wrong_kind.problem(StatusCode::UNPROCESSABLE_ENTITY), "invalid-input");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whole_and_fitting_secrets_are_taken() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    let rotation = client.post("/v1/credentials/twilio/rotation", json!({ "auth_token": "x" })).await;
    assert_eq!(rotation.problem(StatusCode::NOT_FOUND), "not-found");
    let sid = format!("AC{}", "0".repeat(32));
    let key = format!("SK{}", "0".repeat(32));
    let cases = [
        (json!({ "account_sid": sid, "api_key_sid": key, "api_key_secret": "s" }), "auth_token"),
        (
            json!({ "account_sid": sid, "api_key_sid": key, "api_key_secret": "s", "signing_key": "s" }),
            "signing_key_id",
        ),
        (
            json!({ "account_sid": sid, "api_key_sid": key, "api_key_secret": "s", "signing_key_id": "i" }),
            "signing_key",
        ),
        (json!({ "account_sid": sid, "auth_token": "t", "signing_key_id": "i", "signing_key": "s" }), "auth_token"),
        (json!({ "account_sid": sid, "signing_key_id": "i", "signing_key": "s" }), "auth_token"),
        (json!({ "account_sid": sid, "auth_token": "with space" }), "auth_token"),
    ];
    for (ask, field) in cases {
        let answer = client.put(PATH, ask.clone()).await.expect(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer["errors"][0]["field"], field, "{ask}: {answer}");
    }
    running.stop().await;
}
