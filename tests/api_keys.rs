//! API keys: the second way in, for programs.

use reqwest::StatusCode;
use serde_json::json;

use crate::support::{start, start_in};

const TO: &str = "+14155552671";

#[tokio::test(flavor = "multi_thread")]
async fn a_program_sends_and_reads_with_a_key_until_it_is_revoked() {
    let running = start().await;
    let (ann, carrier) = running.connected("ann").await;
    let (id, key) = ann.make_api_key(&["messages:send", "messages:read"]).await;
    assert!(key.starts_with("tb_live_") && key.len() == 77, "{key}");
    let till = ann.by_key(&key);
    let message = till.accepted("a", carrier.text(TO, "Your table is ready.")).await;
    till.until(&message, "delivered").await;
    // One account, two ways in: the same message, and the same idempotency key.
    assert_eq!(ann.get(&format!("/v1/messages/{message}")).await.expect(StatusCode::OK)["id"], message.as_str());
    assert_eq!(ann.accepted("a", carrier.text(TO, "Your table is ready.")).await, message);
    // What its scopes do not cover, it may not, and hears which one it lacks.
    let usage = till.get("/v1/usage").await;
    assert!(usage.text.contains("usage:read"), "{}", usage.text);
    assert_eq!(usage.problem(StatusCode::FORBIDDEN), "scope-missing");
    let credential = till.put("/v1/credentials/twilio", carrier.credential()).await;
    assert_eq!(credential.problem(StatusCode::FORBIDDEN), "session-needed");
    let more = till.post("/v1/account/api-keys", json!({ "name": "more", "scopes": ["usage:read"] })).await;
    assert_eq!(more.problem(StatusCode::FORBIDDEN), "session-needed");

    ann.delete(&format!("/v1/account/api-keys/{id}")).await.expect(StatusCode::NO_CONTENT);
    let revoked = till.message("b", carrier.text(TO, "again")).await;
    assert_eq!(revoked.headers["www-authenticate"], "Bearer");
    assert_eq!(revoked.problem(StatusCode::UNAUTHORIZED), "not-signed-in");
    till.get("/v1/messages").await.problem(StatusCode::UNAUTHORIZED);
    ann.delete(&format!("/v1/account/api-keys/{id}")).await.problem(StatusCode::NOT_FOUND);
    assert_eq!(ann.get("/v1/messages").await.expect(StatusCode::OK)["data"].as_array().unwrap().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_survives_a_restart_and_its_last_use_is_seen() {
    let running = start().await;
    let ann = running.signed_in("ann").await;
    let (id, key) = ann.make_api_key(&["usage:read"]).await;
    let list = ann.get("/v1/account/api-keys").await;
    assert!(!list.text.contains(&key[34..]), "shown again: {}", list.text);
    let list = list.expect(StatusCode::OK);
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["last_used_at"]), (&id.as_str().into(), &json!(null)));
    let data = running.stop().await;

    let running = start_in(data).await;
    let ann = crate::support::Client { base: running.url.clone(), ..ann };
    ann.by_key(&key).get("/v1/usage").await.expect(StatusCode::OK);
    let list = ann.get("/v1/account/api-keys").await.expect(StatusCode::OK);
    assert!(list["data"][0]["last_used_at"].is_string(), "{list}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_works_for_its_own_account_and_only_whole() {
    let running = start().await;
    let (ann, bob) = (running.signed_in("ann").await, running.signed_in("bob").await);
    let (_, key) = ann.make_api_key(&["usage:read"]).await;
    let (_, other) = bob.make_api_key(&["usage:read"]).await;
    let session = ann.cookie.clone().unwrap().split_once('=').unwrap().1.to_owned();
    let crossed = format!("{}{}", &other[..34], &key[34..]);
    let as_key = session.replace("tbs_", "tb_live_");
    let mut answers = Vec::new();
    for wrong in ["", "tb_live_", &key[..76], &key[3..], &crossed, &session, &as_key] {
        let answer = running.client().by_key(wrong).get("/v1/usage").await;
        let detail = answer.body["detail"].as_str().unwrap_or_default().to_owned();
        answers.push((answer.problem(StatusCode::UNAUTHORIZED), detail));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // Nor is a key a session.
    let name = ann.cookie.clone().unwrap().split_once('=').unwrap().0.to_owned();
    let mut as_cookie = running.client();
    as_cookie.cookie = Some(format!("{name}={}", key.replace("tb_live_", "tbs_")));
    as_cookie.get("/v1/usage").await.problem(StatusCode::UNAUTHORIZED);
    ann.by_key(&key).get("/v1/usage").await.expect(StatusCode::OK);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_come_from_any_page_and_not_beside_a_cookie() {
    let running = start().await;
    let ann = running.signed_in("ann").await;
    let (_, key) = ann.make_api_key(&["numbers:write"]).await;
    let elsewhere = [("origin", "https://elsewhere.example"), ("sec-fetch-site", "cross-site")];
    let path = "/v1/numbers/PN0123456789abcdef0123456789abcdef/connection";
    let program = ann.by_key(&key).send(reqwest::Method::POST, path, None, &elsewhere).await;
    assert_eq!(program.problem(StatusCode::CONFLICT), "not-connected");
    let browser = ann.send(reqwest::Method::POST, path, None, &elsewhere).await;
    assert_eq!(browser.problem(StatusCode::FORBIDDEN), "cross-site");
    let both = crate::support::Client { cookie: ann.cookie.clone(), ..ann.by_key(&key) };
    assert_eq!(both.get("/v1/numbers").await.problem(StatusCode::BAD_REQUEST), "two-credentials");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_keys_asked_for_at_once_are_twenty() {
    let running = start().await;
    let ann = running.signed_in("ann").await;
    let ask = json!({ "name": "Till 4", "scopes": ["usage:read"] });
    let asked = futures::future::join_all((0..30).map(|_| ann.post("/v1/account/api-keys", ask.clone()))).await;
    let made = asked.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
    let refused = asked.into_iter().filter(|answer| answer.status == StatusCode::CONFLICT);
    let refused: Vec<_> = refused.map(|answer| answer.problem(StatusCode::CONFLICT)).collect();
    assert_eq!((made, refused), (20, vec!["too-many-api-keys".to_owned(); 10]));
    running.stop().await;
}
