//! The main job: sign up, connect, send, see it delivered, see the usage; and it is all still there after a restart.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Client, eventually, start, start_in};

async fn usage_rows(client: &Client) -> Vec<Value> {
    eventually("usage is counted", async || {
        let rows = client.get("/v1/usage").await.expect(StatusCode::OK)["data"].as_array().unwrap().clone();
        (!rows.is_empty()).then_some(rows)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_out_is_delivered_and_counted_and_survives_a_restart() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;

    let accepted =
        client.message("k1", carrier.text("+14155552671", "Your table is ready.")).await.expect(StatusCode::ACCEPTED);
    assert_eq!(accepted["segments"], 1);
    assert_eq!(accepted["credits_held_micro"], 1_000_000);
    let id = accepted["id"].as_str().unwrap().to_owned();
    let message = client.until(&id, "delivered").await;
    assert_eq!(message["country"], "US");

    let journal = running.journal(&carrier).await;
    assert_eq!(journal.len(), 1);
    assert_eq!(journal[0]["body"], "Your table is ready.");
    assert_eq!(message["twilio_sid"], journal[0]["sid"]);

    let rows = usage_rows(&client).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (&rows[0]["messages"], &rows[0]["segments"], &rows[0]["credits_micro"]),
        (&json!(1), &json!(1), &json!(1_000_000))
    );
    let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
    let numbers = ["available_micro", "held_micro", "used_micro", "owed_micro"].map(|name| credits[name].clone());
    assert_eq!(numbers, [json!(99_000_000), json!(0), json!(1_000_000), json!(0)]);
    running.no_contract_violations().await;

    let data = running.stop().await;
    let running = start_in(data).await;
    let mut again = running.client();
    again.cookie = client.cookie.clone();
    assert_eq!(again.get(&format!("/v1/messages/{id}")).await.expect(StatusCode::OK)["status"], "delivered");
    assert_eq!(usage_rows(&again).await, rows);
    // Keys, secret and credential survived as well: a second message goes out.
    let id = again.accepted("k2", carrier.text("+14155552671", "Still here.")).await;
    again.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_see_nothing_of_each_other() {
    let running = start().await;
    let (ann, carrier) = running.connected("ann").await;
    let (bob, _) = running.connected("bob").await;
    let id = ann.accepted("k", carrier.text("+14155552671", "for Ann's customer")).await;
    ann.until(&id, "delivered").await;

    let path = format!("/v1/messages/{id}");
    assert_eq!(bob.get(&path).await.problem(StatusCode::NOT_FOUND), "not-found");
    assert_eq!(bob.get("/v1/messages").await.expect(StatusCode::OK)["data"], json!([]));
    assert_eq!(bob.get("/v1/usage").await.expect(StatusCode::OK)["data"], json!([]));
    let session = ann.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(bob.delete(&path).await.problem(StatusCode::NOT_FOUND), "not-found");
    ann.get("/v1/sessions/current").await.expect(StatusCode::OK);

    // Ann's token with Bob's account id in front is nobody's.
    let (ann_cookie, bob_cookie) = (ann.cookie.clone().unwrap(), bob.cookie.clone().unwrap());
    let at = bob_cookie.find("tbs_").unwrap() + 4 + 26;
    let mut forged = bob.clone();
    forged.cookie = Some(format!("{}{}", &bob_cookie[..at], &ann_cookie[at..]));
    assert_eq!(forged.get("/v1/sessions/current").await.problem(StatusCode::UNAUTHORIZED), "not-signed-in");

    // The same key of another account is another key.
    let other = running.carrier(json!({})).await;
    bob.put("/v1/credentials/twilio", other.credential()).await.expect(StatusCode::OK);
    let second = bob.accepted("k", other.text("+14155552671", "for Bob's customer")).await;
    assert_ne!(second, id);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_messages_go_from_the_newest_to_the_oldest() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(client.accepted(&format!("k{n}"), carrier.text("+14155552671", "hi")).await);
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    ids.reverse();
    let mut seen = Vec::new();
    let mut path = "/v1/messages?limit=2".to_owned();
    loop {
        let page = client.get(&path).await.expect(StatusCode::OK);
        seen.extend(page["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/messages?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ids);
    running.stop().await;
}
