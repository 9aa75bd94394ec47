//! The API's description: made from the code, committed, served, and complete.

use std::collections::BTreeSet;

use reqwest::StatusCode;
use serde_json::Value;
use telbuddy_local::functions::{Trigger, all, openapi};

use crate::support::start;

#[test]
fn the_committed_description_is_the_codes() {
    let made: Value = serde_json::from_str(&openapi().to_json().unwrap()).unwrap();
    let committed: Value = serde_json::from_str(meta::OPENAPI).unwrap();
    assert!(made == committed, "run: cargo run -- openapi > functions/meta/openapi.json");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_described_and_every_description_is_a_route() {
    let running = start().await;
    let served = running.client().get("/v1/openapi.json").await.expect(StatusCode::OK);
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut described = BTreeSet::new();
    for (path, item) in served["paths"].as_object().unwrap() {
        described.extend(item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let mut routes = BTreeSet::new();
    for function in all(&running.config).unwrap() {
        if let Trigger::Http(of_function, _) = function.trigger {
            routes.extend(of_function.iter().map(|route| format!("{} {}", route.method, route.path)));
        }
    }
    // Hooks are Twilio's, not a caller's.
    routes.retain(|route| !route.contains("/hooks/"));
    assert_eq!(described, routes);
    assert_eq!(running.client().get("/v1/health").await.expect(StatusCode::OK)["status"], "ok");
    running.stop().await;
}
