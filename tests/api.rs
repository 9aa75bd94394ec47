//! The API's description: made from the code, committed, served, and complete.

use std::collections::BTreeSet;

use reqwest::{Method, StatusCode};
use serde_json::Value;
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Route};
use telbuddy_local::functions::{Trigger, all, openapi};

use crate::support::{Client, Running, start};

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
    let routes = routes_of(&running);
    let mut routes: BTreeSet<_> = routes.iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    // Hooks are Twilio's, not a caller's.
    routes.retain(|route| !route.contains("/hooks/"));
    assert_eq!(described, routes);
    assert_eq!(running.client().get("/v1/health").await.expect(StatusCode::OK)["status"], "ok");
    running.stop().await;
}

fn routes_of(running: &Running) -> Vec<Route> {
    let http = |trigger| if let Trigger::Http(routes, _) = trigger { routes } else { &[][..] };
    all(&running.config).unwrap().into_iter().flat_map(|function| http(function.trigger)).copied().collect()
}

/// Calls a route with nothing in it: what it says is about who calls.
async fn problem_of(client: &Client, route: &Route) -> (u16, String, String) {
    let path = route.path.replace(['{', '}'], "");
    let method = Method::from_bytes(route.method.as_bytes()).unwrap();
    let answer = client.send(method, &path, None, &[("idempotency-key", "a")]).await;
    let text = |name: &str| answer.body[name].as_str().unwrap_or_default().to_owned();
    let kind = text("type").trim_start_matches("https://telbuddy.dev/problems/").to_owned();
    (answer.status.as_u16(), kind, text("detail"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_whom_its_table_names_and_nobody_else() {
    let running = start().await;
    let ann = running.signed_in("ann").await;
    // Each account has at most twenty keys.
    let bob = running.signed_in("bob").await;
    let nobody = running.client();
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        let others: Vec<_> = Scope::ALL.into_iter().filter(|other| *other != scope).map(Scope::as_str).collect();
        let only = ann.by_key(&ann.make_api_key(&[scope.as_str()]).await.1);
        keys.push((scope, only, bob.by_key(&bob.make_api_key(&others).await.1)));
    }
    let (revoked, all) = ann.make_api_key(&Scope::ALL.map(Scope::as_str)).await;
    let gone = ann.by_key(&all);
    ann.delete(&format!("/v1/account/api-keys/{revoked}")).await.expect(StatusCode::NO_CONTENT);
    let all = ann.by_key(&ann.make_api_key(&Scope::ALL.map(Scope::as_str)).await.1);
    let both = Client { cookie: ann.cookie.clone(), ..all.clone() };

    let mut seen = BTreeSet::new();
    for route in routes_of(&running).iter().filter(|route| route.access != Access::Open) {
        let name = format!("{} {}", route.method, route.path);
        for (client, expected) in [(&nobody, (401, "not-signed-in")), (&gone, (401, "not-signed-in"))] {
            let (status, kind, _) = problem_of(client, route).await;
            assert_eq!((status, kind.as_str()), expected, "{name}");
        }
        assert_eq!(problem_of(&both, route).await.1, "two-credentials", "{name}");
        match route.access {
            Access::Scope(scope) => {
                let (_, only, without) = keys.iter().find(|(of, ..)| *of == scope).unwrap();
                let (status, kind, detail) = problem_of(without, route).await;
                assert_eq!((status, kind.as_str()), (403, "scope-missing"), "{name}");
                assert!(detail.contains(scope.as_str()), "{name}: {detail}");
                let (status, kind, _) = problem_of(only, route).await;
                assert!(status != 401 && kind != "scope-missing" && kind != "session-needed", "{name}: {kind}");
                seen.insert(scope.as_str());
            }
            _ => assert_eq!(problem_of(&all, route).await.1, "session-needed", "{name}"),
        }
    }
    assert_eq!(seen, Scope::ALL.map(Scope::as_str).into(), "each scope opens something");
    ann.get("/v1/sessions/current").await.expect(StatusCode::OK);
    running.stop().await;
}

#[test]
fn what_a_key_may_never_do_takes_no_key() {
    let never = |path: &str| {
        path.contains("/api-keys")
            || path.contains("/credentials")
            || path.contains("/sessions")
            || path.contains("unfreeze")
    };
    let description: Value = serde_json::from_str(meta::OPENAPI).unwrap();
    let mut seen = 0;
    for (path, item) in description["paths"].as_object().unwrap().iter().filter(|(path, _)| never(path)) {
        for (method, operation) in item.as_object().unwrap() {
            let ways = operation["security"].to_string();
            assert!(!ways.contains("api_key"), "{method} {path}: {ways}");
            seen += 1;
        }
    }
    assert!(seen >= 13, "{seen}");
    let send = &description["paths"]["/v1/messages"]["post"]["security"];
    assert_eq!(send.to_string(), r#"[{"session":[]},{"api_key":["messages:send"]}]"#);
    let ways = description["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(ways.keys().collect::<Vec<_>>(), ["api_key", "session"]);
    assert_eq!((&ways["api_key"]["scheme"], &ways["session"]["in"]), (&"bearer".into(), &"cookie".into()));
}
