//! Wrong input on every route: no 500, no panic, and a problem that says what to do.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use telbuddy_local::functions::{Trigger, all};

use crate::support::{Answer, start};

fn check(what: &str, answer: &Answer) {
    assert!(answer.status.as_u16() < 500, "{what}: {} {}", answer.status, answer.text);
    if answer.status.is_client_error() {
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}: {}", answer.text);
        for name in ["type", "title", "detail", "request_id"] {
            assert!(
                answer.body[name].as_str().is_some_and(|text| !text.is_empty()),
                "{what}: no {name} in {}",
                answer.text
            );
        }
        assert_eq!(answer.body["status"], answer.status.as_u16(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_nonsense_with_a_problem() {
    let running = start().await;
    let (signed_in, _) = running.connected("ann").await;
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "\"text\"",
        "{}",
        "{\"unknown\":1}",
        "{\"to\":1,\"email\":[],\"token\":{}}",
        "\u{0}",
        "{\"a\":\"\u{fffd}\"}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    ];
    let mut asked = 0;
    for function in all(&running.config).unwrap() {
        let Trigger::Http(routes, _) = function.trigger else { continue };
        for route in routes {
            for id in ["x", "msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8", "%00", "%ff%fe", "..%2f..", "ü", "🦀"] {
                let path = ["{id}", "{n}", "{hook}", "{message_id}"]
                    .iter()
                    .fold(route.path.to_owned(), |path, name| path.replace(name, id));
                if route.method == "DELETE" && !route.path.contains('{') {
                    continue;
                }
                let method = Method::from_bytes(route.method.as_bytes()).unwrap();
                for query in ["", "?", "?limit=0", "?limit=x&limit=2", "?cursor=%ff", "?from=x&to=%00", "?unknown=1&&="]
                {
                    for client in [&signed_in, &running.client()] {
                        let bodies: &[&str] = if route.method == "GET" { &[""] } else { &bodies };
                        for body in bodies.iter().filter(|_| query.is_empty() || route.method == "GET") {
                            let headers = [("idempotency-key", "k")];
                            let body = (!body.is_empty()).then(|| (*body).to_owned());
                            let what = format!("{method} {path}{query} {body:?}");
                            check(&what, &client.send(method.clone(), &format!("{path}{query}"), body, &headers).await);
                            asked += 1;
                        }
                    }
                }
                if !route.path.contains('{') {
                    break;
                }
            }
        }
    }
    assert!(asked > 300, "{asked}");
    // Still alive.
    running.client().get("/v1/health").await.expect(StatusCode::OK);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_types_and_sizes_that_do_not_fit_are_named() {
    let running = start().await;
    let client = running.client();
    assert_eq!(client.get("/v1/nothing").await.problem(StatusCode::NOT_FOUND), "not-found");
    let method = client.get("/v1/signup").await;
    assert_eq!(method.headers["allow"], "POST");
    assert_eq!(method.problem(StatusCode::METHOD_NOT_ALLOWED), "method-not-allowed");
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let form = client.send(Method::POST, "/v1/sessions", Some("email=a".to_owned()), &form).await;
    assert_eq!(form.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE), "unsupported-media-type");
    let large = json!({ "name": "x".repeat(70_000) });
    assert_eq!(client.post("/v1/signup", large).await.problem(StatusCode::PAYLOAD_TOO_LARGE), "body-too-large");
    let huge = client.send(Method::POST, "/v1/signup", Some("x".repeat(1_000_000)), &[]).await;
    assert_eq!(huge.problem(StatusCode::PAYLOAD_TOO_LARGE), "body-too-large");
    running.stop().await;
}

fn fields(answer: Answer) -> Vec<String> {
    let body = answer.expect(StatusCode::UNPROCESSABLE_ENTITY);
    body["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_at_fault_is_named_at_once() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let ask = json!({ "name": "", "email": "nobody", "company": "\n", "password": "short", "country": "XX" });
    assert_eq!(fields(client.post("/v1/signup", ask).await), ["name", "company", "email", "country"]);
    let ask = json!({ "name": "A", "email": "a@example.com", "company": "B", "password": "short", "country": "US" });
    assert_eq!(fields(client.post("/v1/signup", ask).await), ["password"]);
    let ask =
        json!({ "name": "A", "email": "a@example.com", "company": "B", "password": "x", "country": "US", "plan": 1 });
    assert_eq!(fields(client.post("/v1/signup", ask).await), ["plan"]);

    let text = |change: Value| {
        let mut text = carrier.text("+14155552671", "hi");
        text.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        text
    };
    let cases = [
        (json!({ "to": "call me" }), vec!["to"]),
        (json!({ "to": "+1" }), vec!["to"]),
        (json!({ "from": null }), vec!["from"]),
        (json!({ "messaging_service_sid": "MG00000000000000000000000000000000" }), vec!["from"]),
        (json!({ "body": "" }), vec!["body"]),
        (json!({ "body": "x".repeat(1601) }), vec!["body"]),
        (
            json!({ "media_urls": ["http://example.com/a.png", "https://example.com/b.png", "nowhere"] }),
            vec!["media_urls[0]", "media_urls[2]"],
        ),
        (json!({ "media_urls": vec!["https://example.com/a.png"; 11] }), vec!["media_urls"]),
        (json!({ "to": [7] }), vec!["to[0]"]),
        (json!({ "sendat": "now" }), vec!["sendat"]),
    ];
    for (change, expected) in cases {
        assert_eq!(fields(client.message("k", text(change.clone())).await), expected, "{change}");
    }
    let cases = [
        (json!({ "account_sid": "AC1", "auth_token": "t" }), vec!["account_sid"]),
        (json!({ "account_sid": carrier.account_sid }), vec!["auth_token"]),
        (json!({ "account_sid": carrier.account_sid, "auth_token": "" }), vec!["auth_token"]),
        (
            json!({ "account_sid": carrier.account_sid, "auth_token": "t", "api_key_sid": "SK1" }),
            vec!["api_key_secret"],
        ),
        (json!({ "account_sid": carrier.account_sid, "auth_token": "t", "region": "mars" }), vec!["region"]),
    ];
    for (ask, expected) in cases {
        assert_eq!(fields(client.put("/v1/credentials/twilio", ask.clone()).await), expected, "{ask}");
    }
    let cases = [
        ("granularity=year", "granularity"),
        ("from=2026-13-01", "from"),
        ("from=2026-02-01&to=2026-01-01", "from"),
        ("limit=0", "limit"),
        ("x=1", "x"),
        ("cursor=1", "cursor"),
    ];
    for (query, field) in cases {
        assert_eq!(fields(client.get(&format!("/v1/usage?{query}")).await), [field], "{query}");
    }
    running.stop().await;
}
