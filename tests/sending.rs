//! Sending under faults: never twice, never lost silently (N4), exact credit (N8), statuses that only climb (N5).

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::{eventually, start};

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_lost_after_twilio_took_the_message_is_settled_by_the_callback() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    running.fault(&carrier, json!({ "next": 1, "kind": "accept_then_drop" })).await;
    let id = client.accepted("k", carrier.text("+14155552671", "once")).await;
    client.until(&id, "delivered").await;
    assert_eq!(running.journal(&carrier).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_stays_unknown_and_is_not_sent_again() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    for (n, kind) in ["drop", "500"].iter().enumerate() {
        running.fault(&carrier, json!({ "next": 1, "kind": kind })).await;
        let id = client.accepted(&format!("k{n}"), carrier.text("+14155552671", "maybe")).await;
        client.until(&id, "unknown").await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(running.journal(&carrier).await.len(), 0);
    // The hold stays until it is settled.
    let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
    assert_eq!(credits["held_micro"], 2_000_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_twilio_is_asked_again_and_the_message_goes_out_once() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    running.fault(&carrier, json!({ "next": 1, "kind": "429" })).await;
    let id = client.accepted("k", carrier.text("+14155552671", "later")).await;
    client.until(&id, "retryable").await;
    client.until(&id, "delivered").await;
    assert_eq!(running.journal(&carrier).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_double_and_reordered_callbacks_end_in_the_same_state() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    for (n, kind) in ["callback_twice", "callback_reordered", "callback_late"].iter().enumerate() {
        running.fault(&carrier, json!({ "next": 1, "kind": kind, "ms": 500 })).await;
        let id = client.accepted(&format!("k{n}"), carrier.text("+14155552671", "hello")).await;
        client.until(&id, "delivered").await;
    }
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let statuses: Vec<_> = client.get("/v1/messages").await.expect(StatusCode::OK)["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(statuses, ["delivered"; 3]);
    let used = eventually("all three are posted", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then(|| credits["used_micro"].clone())
    });
    assert_eq!(used.await, 3_000_000);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twilios_refusals_are_final_and_give_the_credit_back() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // Twilio's magic numbers: to +15005550001 is invalid, 0002 not routable, 0004 has opted out.
    for (n, (to, code)) in
        [("+15005550001", 21211), ("+15005550002", 21612), ("+15005550004", 21610)].iter().enumerate()
    {
        let id = client.accepted(&format!("k{n}"), carrier.text(to, "no")).await;
        let message = client.until(&id, "rejected").await;
        assert_eq!(message["error_code"], *code);
        assert!(message["error_url"].as_str().unwrap().ends_with(&code.to_string()));
    }
    for (to, status, code) in [("+14155550041", "undelivered", 30003), ("+14155550042", "failed", 30005)] {
        let id = client.accepted(to, carrier.text(to, "no")).await;
        let message = client.until(&id, status).await;
        assert_eq!(message["error_code"], code);
    }
    // Refused ones cost nothing; what failed after Twilio took it is charged.
    let credits = eventually("all are posted", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then_some(credits)
    });
    let credits = credits.await;
    let numbers = ["available_micro", "held_micro", "used_micro"].map(|name| credits[name].as_u64());
    assert_eq!(numbers, [Some(98_000_000), Some(0), Some(2_000_000)]);
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_stops_sending_until_it_is_connected_anew() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let path = format!("/_local/twilio/accounts/{}", carrier.account_sid);
    let suspended = client.post(&path, json!({ "status": "suspended" })).await;
    assert!(suspended.status.is_success(), "{suspended:?}");
    let id = client.accepted("k1", carrier.text("+14155552671", "no")).await;
    client.until(&id, "rejected").await;
    let refused = client.message("k2", carrier.text("+14155552671", "no")).await;
    assert_eq!(refused.problem(StatusCode::FORBIDDEN), "sending-stopped");
    client.post(&path, json!({ "status": "active" })).await;
    client.put("/v1/credentials/twilio", carrier.credential()).await.expect(StatusCode::OK);
    let id = client.accepted("k3", carrier.text("+14155552671", "yes")).await;
    client.until(&id, "delivered").await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_message() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let body = carrier.text("+14155552671", "once");
    let answers = join_all((0..50).map(|_| client.message("same", body.clone()))).await;
    let first = answers[0].text.clone();
    for answer in answers {
        assert_eq!((answer.status, &answer.text), (StatusCode::ACCEPTED, &first));
    }
    let other = client.message("same", carrier.text("+14155552671", "twice")).await;
    assert_eq!(other.problem(StatusCode::UNPROCESSABLE_ENTITY), "idempotency-key-reused");
    let none = client.post("/v1/messages", body).await;
    assert_eq!(none.problem(StatusCode::BAD_REQUEST), "idempotency-key-missing");
    let id = serde_json::from_str::<serde_json::Value>(&first).unwrap()["id"].as_str().unwrap().to_owned();
    client.until(&id, "delivered").await;
    assert_eq!(running.journal(&carrier).await.len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_parallel_sends_with_credit_for_100_exactly_100_are_accepted() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let keys: Vec<_> = (0..200).map(|n| format!("k{n}")).collect();
    let answers = join_all(keys.iter().map(|key| client.message(key, carrier.text("+14155552671", "hi")))).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(StatusCode::ACCEPTED), count(StatusCode::PAYMENT_REQUIRED)), (100, 100));
    let credits = eventually("all are posted", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then_some(credits)
    });
    let credits = credits.await;
    let numbers = ["available_micro", "held_micro", "used_micro"].map(|name| credits[name].as_u64());
    assert_eq!(numbers, [Some(0), Some(0), Some(100_000_000)]);
    assert_eq!(running.journal(&carrier).await.len(), 100);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_accounts_own_country_is_allowed_at_first() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let abroad = client.message("k", carrier.text("+442071838750", "hi")).await;
    assert_eq!(abroad.problem(StatusCode::FORBIDDEN), "country-not-allowed");
    // A national number is read as of the account's country.
    let id = client.accepted("k", carrier.text("(415) 555-2671", "hi")).await;
    client.until(&id, "delivered").await;
    assert_eq!(running.journal(&carrier).await[0]["to"], "+14155552671");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_reaches_many_each_once_and_the_same_key_again_sends_nothing() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // Scattered: neighbouring numbers would look like an attack.
    let areas = [212, 213, 303, 305, 312, 404, 415, 503, 617, 702];
    let mut recipients: Vec<_> = (0..95).map(|n| format!("+1{}555{}", areas[n % 10], 1_000 + 137 * (n / 10))).collect();
    recipients.push("nonsense".to_owned());
    recipients.push(recipients[0].clone());
    let ask = json!({ "to": recipients, "from": carrier.number, "body": "to all" });
    let first = client.message("k", ask.clone()).await;
    let answer = first.expect(StatusCode::ACCEPTED);
    let rows = answer["data"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["status"] == "accepted").count(), 95);
    assert_eq!((&rows[95]["error"]["code"], &rows[96]["error"]["code"]), (&json!("not_a_number"), &json!("repeated")));
    let again = client.message("k", ask).await.expect(StatusCode::ACCEPTED);
    assert_eq!(again, answer);
    for row in rows.iter().take(95) {
        client.until(row["id"].as_str().unwrap(), "delivered").await;
    }
    let mut reached: Vec<_> = running.journal(&carrier).await.iter().map(|one| one["to"].to_string()).collect();
    reached.sort();
    reached.dedup();
    assert_eq!((reached.len(), running.journal(&carrier).await.len()), (95, 95));
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a caller's own clock")]
async fn a_message_for_later_waits_and_can_be_taken_back() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let later = |secs: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(secs);
        let mut ask = carrier.text("+14155552671", "later");
        ask["send_at"] = at.to_string().into();
        ask
    };
    let soon = client.message("soon", later(2)).await.expect(StatusCode::ACCEPTED);
    let never = client.message("never", later(3_600)).await.expect(StatusCode::ACCEPTED);
    assert_eq!((&soon["status"], &never["held_by"]), (&json!("held"), &json!("send_at")));
    let path = format!("/v1/messages/{}", never["id"].as_str().unwrap());
    let canceled = client.delete(&path).await.expect(StatusCode::OK);
    assert_eq!(canceled["status"], "canceled");
    client.until(soon["id"].as_str().unwrap(), "delivered").await;
    let too_late = client.delete(&format!("/v1/messages/{}", soon["id"].as_str().unwrap())).await;
    assert_eq!(too_late.problem(StatusCode::CONFLICT), "too-late");
    assert_eq!(running.journal(&carrier).await.len(), 1);
    eventually("the hold of the canceled one comes back", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0 && credits["used_micro"] == 1_000_000).then_some(())
    })
    .await;
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_shown_by_error_with_what_to_do() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    // What the double ends as undelivered, and what Twilio's magic numbers refuse.
    let undelivered = client.accepted("k1", carrier.text("+14155550041", "hi")).await;
    let refused = client.accepted("k2", carrier.text("+15005550001", "hi")).await;
    client.until(&undelivered, "undelivered").await;
    client.until(&refused, "rejected").await;
    let rows = eventually("both are counted", async || {
        let errors = client.get("/v1/usage/errors").await.expect(StatusCode::OK);
        errors["data"].as_array().filter(|rows| rows.len() == 2).cloned()
    })
    .await;
    let seen: Vec<_> = rows.iter().map(|row| (&row["error_code"], &row["fault"], &row["messages"])).collect();
    let customer = json!("customer");
    assert_eq!(seen[0], (&json!(21_211), &customer, &json!(1)), "{rows:?}");
    assert_eq!((seen[1].0, seen[1].2), (&json!(30_003), &json!(1)), "{rows:?}");
    let used = client.get("/v1/usage").await.expect(StatusCode::OK);
    assert_eq!((&used["data"].as_array().unwrap().len(), &used["data"][0]["messages"]), (&1, &json!(1)), "{used}");
    running.stop().await;
}
