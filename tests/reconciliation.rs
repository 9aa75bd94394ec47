//! Each finished day is set against Twilio's list: what differs is named and put right once (N7, N8).

use jiff::SignedDuration;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use telbuddy::live::Live;
use telbuddy::platform::{Handled, Job};

use crate::inbound::{arrives, configure_number};
use crate::support::{Carrier, Client, Running, eventually, start};

/// Compares today as if it had been over for long enough: what the sweeper's job does two nights later.
async fn compare(running: &Running, client: &Client) {
    let session = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let account = session["account_id"].as_str().unwrap().parse().unwrap();
    let live = Live::new(&running.config.named("reconciler"), reconciler::NEEDS).unwrap();
    let settled_after = SignedDuration::from_hours(-24);
    let jobs = vec![Job::Reconcile { account }];
    assert_eq!(reconciler::handle(&live, settled_after, jobs).await, [Handled::Done]);
}

/// A call of the customer's own other software at Twilio.
async fn at_twilio(running: &Running, carrier: &Carrier, method: Method, path: &str, form: &[(&str, &str)]) -> Value {
    let url = format!("{}/2010-04-01/Accounts/{}{path}", running.twilio.base_url(), carrier.account_sid);
    let request = reqwest::Client::builder().no_proxy().build().unwrap().request(method, url);
    let request = request.basic_auth(&carrier.account_sid, Some(&carrier.auth_token));
    let request = if form.is_empty() { request } else { request.form(form) };
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    serde_json::from_str(&answer.text().await.unwrap()).unwrap_or(Value::Null)
}

async fn counts(client: &Client, sid: &str, segments: u32) {
    let path = format!("/_local/twilio/messages/{sid}");
    client.post(&path, json!({ "num_segments": segments })).await.expect(StatusCode::OK);
}

/// Sends a text and gives Twilio's SID.
async fn sent(client: &Client, carrier: &Carrier, key: &str) -> String {
    let id = client.accepted(key, carrier.text("+14155552671", "Your table is ready.")).await;
    client.until(&id, "delivered").await["twilio_sid"].as_str().unwrap().to_owned()
}

/// Credits that were charged, once nothing is held any more.
async fn charged(client: &Client) -> u64 {
    eventually("nothing is held", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == 0).then(|| credits["used_micro"].as_u64().unwrap() / 1_000_000)
    })
    .await
}

async fn only_day(client: &Client) -> Value {
    let list = client.get("/v1/reconciliations").await.expect(StatusCode::OK);
    assert_eq!((list["data"].as_array().unwrap().len(), &list["next_cursor"]), (1, &Value::Null), "{list}");
    let day = list["data"][0]["day"].as_str().unwrap();
    client.get(&format!("/v1/reconciliations/{day}")).await.expect(StatusCode::OK)
}

async fn segments(client: &Client) -> i64 {
    let usage = client.get("/v1/usage?granularity=month").await.expect(StatusCode::OK);
    let rows = usage["data"].as_array().unwrap().iter().filter(|row| row["direction"] == "outbound");
    rows.map(|row| row["segments"].as_i64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_planted_difference_is_named_and_put_right_once_and_foreign_traffic_is_not_billed() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let mut sids = Vec::new();
    for n in 0..4 {
        sids.push(sent(&client, &carrier, &format!("k{n}")).await);
    }
    arrives(&client, &carrier, "+14155552672", "hello").await;
    eventually("the text is recorded", async || {
        let list = client.get("/v1/messages?limit=100").await.expect(StatusCode::OK);
        (list["data"].as_array().unwrap().len() == 5).then_some(())
    })
    .await;
    let foreign = [("From", carrier.number.as_str()), ("To", "+14155552673"), ("Body", "from elsewhere")];
    let foreign = at_twilio(&running, &carrier, Method::POST, "/Messages.json", &foreign).await;
    let foreign = foreign["sid"].as_str().unwrap();
    eventually("it is sent", async || {
        let there = at_twilio(&running, &carrier, Method::GET, &format!("/Messages/{foreign}.json"), &[]).await;
        there["date_sent"].is_string().then_some(())
    })
    .await;
    assert_eq!(charged(&client).await, 4);
    eventually("all is counted", async || (segments(&client).await == 4).then_some(())).await;
    counts(&client, &sids[1], 4).await;
    at_twilio(&running, &carrier, Method::DELETE, &format!("/Messages/{}.json", sids[2]), &[]).await;
    for _ in 0..2 {
        compare(&running, &client).await;
        let day = only_day(&client).await;
        assert_eq!((&day["state"], &day["posted"]), (&json!("corrected"), &json!(1)), "{day}");
        // Three of ours and the text that arrived; the one that was posted at Twilio alone.
        assert_eq!((&day["same"], &day["different"]), (&json!(3), &json!(1)), "{day}");
        let difference = json!({ "sid": sids[1], "charged": 1, "listed": 4, "credits_micro": 3_000_000 });
        assert_eq!(day["differences"], json!({ "data": [difference], "more": 0 }));
        assert_eq!(day["only_here_sids"], json!({ "sids": [sids[2]], "more": 0 }));
        assert_eq!(day["only_at_twilio_sids"], json!({ "sids": [foreign], "more": 0 }));
        assert_eq!(day["within_twilio_usage"], true, "{day}");
        assert!(day["twilio_usage"][0]["as_of"].is_string(), "{day}");
        assert_eq!(charged(&client).await, 7);
    }
    eventually("the right period has it", async || (segments(&client).await == 7).then_some(())).await;
    let list = client.get("/v1/messages?limit=100").await.expect(StatusCode::OK);
    assert_eq!(list["data"].as_array().unwrap().len(), 5, "what is not ours is not shown as ours");
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_difference_waits_for_a_person_who_is_told_by_mail() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let sid = sent(&client, &carrier, "k1").await;
    assert_eq!(charged(&client).await, 1);
    counts(&client, &sid, 30).await;
    compare(&running, &client).await;
    let day = only_day(&client).await;
    assert_eq!((&day["state"], &day["limit_micro"]), (&json!("needs_decision"), &json!(5_000_000)), "{day}");
    assert_eq!(charged(&client).await, 1, "nothing is posted");
    let mail = running.mail_text("ann@example.com", 2).await;
    let path = format!("/v1/reconciliations/{}/decision", day["day"].as_str().unwrap());
    assert!(mail.contains(&path), "{mail}");
    let by_key = client.by_key(&client.make_api_key(&["usage:read"]).await.1);
    by_key.get("/v1/reconciliations").await.expect(StatusCode::OK);
    by_key.post(&path, json!({ "decision": "post" })).await.expect(StatusCode::FORBIDDEN);
    for _ in 0..2 {
        let decided = client.post(&path, json!({ "decision": "post" })).await.expect(StatusCode::OK);
        assert_eq!((&decided["state"], &decided["posted"]), (&json!("decided"), &json!(1)), "{decided}");
        assert_eq!(charged(&client).await, 30);
    }
    let refused = client.post(&path, json!({ "decision": "keep" })).await;
    assert_eq!(refused.problem(StatusCode::CONFLICT), "nothing-to-decide");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_twilio_account_that_cannot_be_asked_leaves_the_day_unknown_until_it_can() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    sent(&client, &carrier, "k1").await;
    assert_eq!(charged(&client).await, 1);
    let account = format!("/_local/twilio/accounts/{}", carrier.account_sid);
    client.post(&account, json!({ "status": "suspended" })).await.expect(StatusCode::OK);
    compare(&running, &client).await;
    let day = only_day(&client).await;
    assert_eq!((&day["state"], &day["reason"]), (&json!("unknown"), &json!("account_inactive")), "{day}");
    assert_eq!((&day["same"], &day["within_twilio_usage"]), (&json!(0), &Value::Null), "{day}");
    client.post(&account, json!({ "status": "active" })).await.expect(StatusCode::OK);
    compare(&running, &client).await;
    let day = only_day(&client).await;
    assert_eq!((&day["state"], &day["reason"], &day["same"]), (&json!("agrees"), &Value::Null, &json!(1)), "{day}");
    running.stop().await;
}
