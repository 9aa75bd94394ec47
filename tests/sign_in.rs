//! Signing up, confirming, logging in and out (promise N12).

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::{PASSWORD, start};

#[tokio::test(flavor = "multi_thread")]
async fn signing_up_again_tells_the_caller_nothing_and_the_owner_by_mail() {
    let running = start().await;
    let client = running.client();
    let ask = json!({ "name": "Ann", "email": "ann@example.com", "company": "Example", "password": PASSWORD, "country": "US" });
    let first = client.post("/v1/signup", ask.clone()).await;
    let token = running.link_token("ann@example.com", 1).await;
    // Not confirmed yet: a new link, and both work.
    client.post("/v1/signup", ask.clone()).await.expect(StatusCode::ACCEPTED);
    let second_token = running.link_token("ann@example.com", 2).await;
    assert_ne!(token, second_token);
    client.post("/v1/email-verifications", json!({ "token": token })).await.expect(StatusCode::NO_CONTENT);

    let known = client.post("/v1/signup", json!({ "name": "Eve", "email": " ANN@example.com ", "company": "Evil", "password": "another password", "country": "GB" })).await;
    assert_eq!((known.status, known.text.as_str()), (first.status, first.text.as_str()));
    let mail = running.mail_text("ann@example.com", 3).await;
    assert!(mail.contains("has an account already") && !mail.contains("token="), "{mail}");
    // Nothing was changed: the first password still is the password.
    let mut client = client;
    client.log_in("ann@example.com", "another password").await.problem(StatusCode::UNAUTHORIZED);
    client.log_in("ann@example.com", PASSWORD).await.expect(StatusCode::CREATED);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signed_up_first_with_my_address_does_not_get_my_account() {
    let running = start().await;
    let mut client = running.client();
    client.sign_up("ann@example.com", "the stranger's password").await;
    running.link_token("ann@example.com", 1).await;
    client.sign_up("ann@example.com", PASSWORD).await;
    let mine = running.link_token("ann@example.com", 2).await;
    client.post("/v1/email-verifications", json!({ "token": mine })).await.expect(StatusCode::NO_CONTENT);
    client.log_in("ann@example.com", "the stranger's password").await.problem(StatusCode::UNAUTHORIZED);
    client.log_in("ann@example.com", PASSWORD).await.expect(StatusCode::CREATED);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_works_once_and_only_whole() {
    let running = start().await;
    let client = running.client();
    client.sign_up("ann@example.com", PASSWORD).await;
    let token = running.link_token("ann@example.com", 1).await;
    let mut tampered = token.clone().into_bytes();
    let last = tampered.len() - 2;
    tampered[last] = if tampered[last] == b'A' { b'B' } else { b'A' };
    for wrong in ["", "tbv_", &token[..token.len() - 1], std::str::from_utf8(&tampered).unwrap()] {
        let answer = client.post("/v1/email-verifications", json!({ "token": wrong })).await;
        assert_eq!(answer.problem(StatusCode::UNPROCESSABLE_ENTITY), "link-not-valid");
    }
    client.post("/v1/email-verifications", json!({ "token": token })).await.expect(StatusCode::NO_CONTENT);
    let again = client.post("/v1/email-verifications", json!({ "token": token })).await;
    assert_eq!(again.problem(StatusCode::UNPROCESSABLE_ENTITY), "link-not-valid");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_address_and_wrong_password_look_the_same() {
    let running = start().await;
    let mut client = running.client();
    client.sign_up("ann@example.com", PASSWORD).await;
    let unconfirmed = client.log_in("ann@example.com", PASSWORD).await;
    assert_eq!(unconfirmed.problem(StatusCode::UNAUTHORIZED), "wrong-credentials");
    let wrong = client.log_in("ann@example.com", "wrong password here").await;
    let unknown = client.log_in("nobody@example.com", "wrong password here").await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let without_id = |mut body: serde_json::Value| {
        body["request_id"] = "".into();
        body
    };
    assert_eq!(without_id(wrong.body), without_id(unknown.body));
    assert!(client.cookie.is_none());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_for_the_account() {
    let running = start().await;
    let mut client = running.client();
    for _ in 0..10 {
        client.log_in("ann@example.com", "guess guess guess").await.problem(StatusCode::UNAUTHORIZED);
    }
    let limited = client.log_in("ann@example.com", "guess guess guess").await;
    assert_eq!(limited.problem(StatusCode::TOO_MANY_REQUESTS), "too-many-requests");
    // Others are not touched by it.
    client.log_in("bob@example.com", "guess guess guess").await.problem(StatusCode::UNAUTHORIZED);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_and_revoking_end_a_session_at_once() {
    let running = start().await;
    let first = running.signed_in("ann").await;
    let mut second = running.client();
    second.log_in("ann@example.com", PASSWORD).await.expect(StatusCode::CREATED);
    assert_ne!(first.cookie, second.cookie);

    let sessions = first.get("/v1/sessions").await.expect(StatusCode::OK)["data"].as_array().unwrap().clone();
    assert_eq!(sessions.len(), 2);
    let other = sessions.iter().find(|session| session["current"] == false).unwrap();
    let path = format!("/v1/sessions/{}", other["id"].as_str().unwrap());
    first.delete(&path).await.expect(StatusCode::NO_CONTENT);
    second.get("/v1/sessions/current").await.problem(StatusCode::UNAUTHORIZED);
    first.delete(&path).await.problem(StatusCode::NOT_FOUND);

    let gone = first.delete("/v1/sessions/current").await;
    assert!(gone.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    for path in ["/v1/sessions", "/v1/messages", "/v1/usage", "/v1/credits", "/v1/credentials/twilio"] {
        assert_eq!(first.get(path).await.problem(StatusCode::UNAUTHORIZED), "not-signed-in", "{path}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_page_cannot_use_the_cookie() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("origin", "https://evil.example")],
        &[("sec-fetch-site", "same-site")],
    ] {
        let answer = client.send(Method::DELETE, "/v1/sessions/current", None, headers).await;
        assert_eq!(answer.problem(StatusCode::FORBIDDEN), "cross-site", "{headers:?}");
    }
    client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    running.stop().await;
}
