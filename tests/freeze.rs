//! An attack from an account is frozen, the customer sees why and lifts it, and sending goes on (N8).

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;
use telbuddy::velocity::MOST_NEIGHBOURS;

use crate::support::{Client, PASSWORD, eventually, start};

const UNFREEZE: &str = "/v1/account/sending/unfreeze";

/// Waits until none of the newest messages waits any more, and counts them by status.
async fn ended(client: &Client, n: usize) -> (usize, usize) {
    eventually("every message ends", async || {
        let list = client.get("/v1/messages?limit=100").await.expect(StatusCode::OK);
        let messages = list["data"].as_array().unwrap();
        let count = |status: &str| messages.iter().filter(|message| message["status"] == status).count();
        let (delivered, refused) = (count("delivered"), count("refused"));
        assert!(messages.iter().all(|m| m["status"] != "refused" || m["reason"] == "frozen"), "{list}");
        (delivered + refused == n).then_some((delivered, refused))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attack_is_frozen_shown_lifted_by_the_password_only_and_sending_goes_on() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    assert_eq!(client.get("/v1/sending-policy").await.expect(StatusCode::OK)["stopped"], json!([]));

    // Ninety neighbouring numbers at once: whoever gets paid for them, it is not Ann.
    let asks: Vec<_> = (0..90).map(|n| (format!("k{n}"), carrier.text(&format!("+141555526{n:02}"), "hi"))).collect();
    let answers = join_all(asks.iter().map(|(key, ask)| client.message(key, ask.clone()))).await;
    let accepted = answers.iter().filter(|answer| answer.status == StatusCode::ACCEPTED).count();
    let (delivered, refused) = ended(&client, accepted).await;
    // It may have met the turn of a minute; two minutes let through twice the limit at most.
    assert!(delivered <= 2 * MOST_NEIGHBOURS, "{delivered} of {accepted} went out");
    assert_eq!(running.journal(&carrier).await.len(), delivered, "nothing else reached Twilio");
    assert!(refused > 0);

    let policy = client.get("/v1/sending-policy").await.expect(StatusCode::OK);
    assert_eq!((&policy["stopped"], &policy["frozen"]["reason"]), (&json!(["frozen"]), &json!("pumping")));
    let refusal = client.message("more", carrier.text("+14155552671", "hi")).await;
    assert_eq!(refusal.body["errors"][0]["code"], "pumping");
    assert!(refusal.body["detail"].as_str().unwrap().contains(UNFREEZE), "{}", refusal.text);
    assert_eq!(refusal.problem(StatusCode::FORBIDDEN), "sending-stopped");

    // No change of the policy lifts it, nor a wrong password, nor a new credential.
    let open = json!({ "countries": ["US"], "daily_ceiling_segments": 5_000, "quiet_hours": null });
    let saved = client.put("/v1/sending-policy", open).await.expect(StatusCode::OK);
    assert_eq!(saved["risks"][0]["code"], "ceiling_raised");
    client.put("/v1/credentials/twilio", carrier.credential()).await.expect(StatusCode::OK);
    let wrong = client.post(UNFREEZE, json!({ "password": "not the password" })).await;
    assert_eq!(wrong.problem(StatusCode::UNAUTHORIZED), "wrong-credentials");
    let still = client.get("/v1/sending-policy").await.expect(StatusCode::OK);
    assert_eq!(still["frozen"], policy["frozen"]);

    // What was refused costs nothing.
    let credits = eventually("the holds are given back", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then_some(credits)
    });
    assert_eq!(credits.await["used_micro"], json!(delivered * 1_000_000));

    let lift = json!({ "password": PASSWORD, "since": policy["frozen"]["since"] });
    let lifted = client.post(UNFREEZE, lift).await.expect(StatusCode::OK);
    assert_eq!((&lifted["frozen"], &lifted["stopped"]), (&json!(null), &json!([])));
    let who = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    assert_eq!(lifted["lifted"]["by"], who["user_id"]);
    // The same numbers in the same minute: what came before the lift counts no more.
    let id = client.accepted("again", carrier.text("+14155552600", "now it is me")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_accounts_freeze_is_nobody_elses() {
    let running = start().await;
    let (ann, ann_carrier) = running.connected("ann").await;
    let (bob, bob_carrier) = running.connected("bob").await;
    for n in 0..80 {
        let to = format!("+141555526{n:02}");
        let answer = ann.message(&format!("k{n}"), ann_carrier.text(&to, "hi")).await;
        if answer.status == StatusCode::FORBIDDEN {
            break;
        }
    }
    eventually("Ann is frozen", async || {
        let policy = ann.get("/v1/sending-policy").await.expect(StatusCode::OK);
        (policy["stopped"] == json!(["frozen"])).then_some(())
    })
    .await;
    let id = bob.accepted("k", bob_carrier.text("+14155552671", "hi")).await;
    bob.until(&id, "delivered").await;
    assert_eq!(bob.get("/v1/sending-policy").await.expect(StatusCode::OK)["frozen"], json!(null));
    // Bob's password is nobody's key to Ann's account.
    bob.post(UNFREEZE, json!({ "password": PASSWORD })).await.expect(StatusCode::OK);
    assert_eq!(ann.get("/v1/sending-policy").await.expect(StatusCode::OK)["stopped"], json!(["frozen"]));
    running.stop().await;
}
