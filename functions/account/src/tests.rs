//! Keys are made once, shown once and counted, for the calls that it claims.

use http::{Method, header};
use serde_json::{Value, json};
use telbuddy::account::Gate;
use telbuddy::api_key::CheckApiKey;
use telbuddy::fault::Fault;
use telbuddy::ledger::Zone;
use telbuddy::session::TOUCH_EVERY;
use telbuddy::testing::World;
use telbuddy::testing::fresh::secs;
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const PATH: &str = "/v1/account/api-keys";

async fn call(world: &World, customer: &Customer, method: Method, path: &str, body: &str) -> Reply {
    handle(world, &site(), customer.request(world, method, path, body)).await
}

async fn make_one(world: &World, customer: &Customer, body: &Value) -> Reply {
    call(world, customer, Method::POST, PATH, &body.to_string()).await
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

#[tokio::test]
async fn each_answer_costs_the_calls_that_it_claims() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let made = make_one(&world, &customer, &json!({ "name": "Till 4", "scopes": ["messages:send"] })).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
    assert_eq!(called(&world), [("load_session", 1), ("create_api_key", 1)].into_iter().collect());
    world.forget_calls();
    assert_eq!(call(&world, &customer, Method::GET, PATH, "").await.status, StatusCode::OK);
    assert_eq!(called(&world), [("load_session", 1), ("list_api_keys", 1)].into_iter().collect());
    world.forget_calls();
    world.advance(TOUCH_EVERY);
    let path = format!("{PATH}/{}", json_of(&made)["id"].as_str().unwrap());
    assert_eq!(call(&world, &customer, Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
    let calls = [("load_session", 1), ("touch_session", 1), ("revoke_api_key", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(call(&world, &customer, Method::DELETE, &path, "").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_account_is_shown_and_its_time_zone_changed_for_one_call_each_and_nothing_else_changes() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let shown = call(&world, &customer, Method::GET, "/v1/account", "").await;
    let expected = json!({ "id": customer.account.to_string(), "country": "US", "time_zone": "UTC",
        "created_at": "2026-11-24T06:00:00Z" });
    assert_eq!((shown.status, json_of(&shown)), (StatusCode::OK, expected.clone()));
    assert_eq!(called(&world), [("load_session", 1), ("load_gate", 1)].into_iter().collect());
    let before = world.gate(customer.account).unwrap();
    for _ in 0..2 {
        world.forget_calls();
        let ask = json!({ "time_zone": "europe/vienna" }).to_string();
        let changed = call(&world, &customer, Method::PATCH, "/v1/account", &ask).await;
        assert_eq!((changed.status, &json_of(&changed)["time_zone"]), (StatusCode::OK, &json!("Europe/Vienna")));
        assert_eq!(called(&world), [("load_session", 1), ("save_zone", 1)].into_iter().collect());
        let zone = Zone::parse("Europe/Vienna").unwrap();
        assert_eq!(world.gate(customer.account).unwrap(), Gate { zone, ..before.clone() });
    }
}

#[tokio::test]
async fn what_is_no_time_zone_names_its_field_and_changes_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (ask, field) in [
        (json!({ "time_zone": "Vienna" }), "time_zone"),
        (json!({ "time_zone": "" }), "time_zone"),
        (json!({ "time_zone": null }), "time_zone"),
        (json!({}), "time_zone"),
        (json!({ "time_zone": "UTC", "country": "AT" }), "country"),
    ] {
        let reply = call(&world, &customer, Method::PATCH, "/v1/account", &ask.to_string()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{ask}");
        assert_eq!(json_of(&reply)["errors"][0]["field"], field, "{}", reply.body);
    }
    assert_eq!(world.gate(customer.account).unwrap().zone, Zone::default());
}

#[tokio::test]
async fn a_key_with_its_scope_sees_the_account_and_none_changes_it() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "time_zone": "Europe/Vienna" }).to_string();
    for (scopes, sees) in [(&[Scope::AccountRead][..], StatusCode::OK), (&[Scope::UsageRead], StatusCode::FORBIDDEN)] {
        let (_, bearer) = customer.api_key(&world, scopes).await;
        for (method, body, status) in [(Method::GET, "", sees), (Method::PATCH, &ask, StatusCode::FORBIDDEN)] {
            let asking = request(&world, method, "/v1/account", body);
            let reply = handle(&world, &site(), with_header(asking, header::AUTHORIZATION, &bearer)).await;
            assert_eq!(reply.status, status, "{}", reply.body);
        }
    }
    assert_eq!(world.gate(customer.account).unwrap().zone, Zone::default());
}

#[tokio::test]
async fn a_fault_changes_no_time_zone_and_a_lost_answer_may_be_asked_again() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "time_zone": "Europe/Vienna" }).to_string();
    world.fail_next("save_zone", Fault::transient("busy"));
    world.lose_answer("save_zone", Fault::transient("no answer"));
    for (status, zone) in [
        (StatusCode::SERVICE_UNAVAILABLE, "UTC"),
        (StatusCode::SERVICE_UNAVAILABLE, "Europe/Vienna"),
        (StatusCode::OK, "Europe/Vienna"),
    ] {
        assert_eq!(call(&world, &customer, Method::PATCH, "/v1/account", &ask).await.status, status);
        assert_eq!(world.gate(customer.account).unwrap().zone.as_str(), zone);
    }
}

#[tokio::test]
async fn a_key_is_shown_once_and_only_its_hash_is_kept() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask =
        json!({ "name": " Till 4 ", "scopes": ["usage:read", "messages:send"], "expires_at": "2026-12-01T00:00:00Z" });
    let made = json_of(&make_one(&world, &customer, &ask).await);
    let text = made["key"].as_str().unwrap();
    let token = Token::parse(KEY_PREFIX, text).unwrap();
    assert_eq!(token.account(), customer.account);
    let kept = world.load_api_key(customer.account, &token.hash()).await.unwrap().unwrap();
    assert_eq!((kept.made_by, kept.id.to_string().as_str()), (customer.user, made["id"].as_str().unwrap()));
    assert!(!world.holds_in_clear(&text[34..]), "the key is in a table");
    let list = call(&world, &customer, Method::GET, PATH, "").await;
    assert!(!list.body.contains(&text[34..]) && !list.body.contains(&kept.hash.0), "{}", list.body);
    let wanted = json!({ "data": [{
        "id": made["id"], "name": "Till 4", "scopes": ["messages:send", "usage:read"],
        "created_at": "2026-11-24T06:00:00Z", "last_used_at": null, "expires_at": "2026-12-01T00:00:00Z",
        "expired": false,
    }], "next_cursor": null });
    assert_eq!(json_of(&list), wanted);
}

#[tokio::test]
async fn what_does_not_fit_names_its_field_and_makes_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (ask, field) in [
        (json!({ "name": "", "scopes": ["usage:read"] }), "name"),
        (json!({ "name": "a", "scopes": [] }), "scopes"),
        (json!({ "name": "a" }), "scopes"),
        (json!({ "name": "a", "scopes": ["usage:read", "usage:read"] }), "scopes"),
        (json!({ "name": "a", "scopes": ["keys:write"] }), "scopes[0]"),
        (json!({ "name": "a", "scopes": ["usage:read"], "expires_at": "2026-11-24T06:00:00Z" }), "expires_at"),
        (json!({ "name": "a", "scopes": ["usage:read"], "expires_at": "soon" }), "expires_at"),
        (json!({ "name": "a", "scopes": ["usage:read"], "key": "tb_live_mine" }), "key"),
    ] {
        let reply = make_one(&world, &customer, &ask).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{ask}");
        assert_eq!(json_of(&reply)["errors"][0]["field"], field, "{}", reply.body);
    }
    assert_eq!(world.list_api_keys(customer.account).await, Ok(Vec::new()));
}

#[tokio::test]
async fn the_twenty_first_key_is_refused_and_an_expired_one_counts_until_it_is_deleted() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let short = json!({ "name": "short", "scopes": ["usage:read"], "expires_at": "2026-11-24T06:00:10Z" });
    let first = json_of(&make_one(&world, &customer, &short).await);
    let ask = json!({ "name": "a", "scopes": ["usage:read"] });
    for _ in 1..MOST_KEYS {
        assert_eq!(make_one(&world, &customer, &ask).await.status, StatusCode::CREATED);
    }
    world.advance(secs(10));
    let refused = make_one(&world, &customer, &ask).await;
    assert_eq!((refused.status, refused.body.contains("too-many-api-keys")), (StatusCode::CONFLICT, true));
    let list = json_of(&call(&world, &customer, Method::GET, PATH, "").await);
    let expired: Vec<_> = list["data"].as_array().unwrap().iter().filter(|key| key["expired"] == true).collect();
    assert_eq!((expired.len(), &expired[0]["id"]), (1, &first["id"]));
    let path = format!("{PATH}/{}", first["id"].as_str().unwrap());
    assert_eq!(call(&world, &customer, Method::DELETE, &path, "").await.status, StatusCode::NO_CONTENT);
    assert_eq!(make_one(&world, &customer, &ask).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_key_makes_shows_and_revokes_no_key() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (key, bearer) = customer.api_key(&world, &Scope::ALL).await;
    let one = format!("{PATH}/{}", key.id);
    let ask = json!({ "name": "a", "scopes": ["usage:read"] }).to_string();
    for (method, path, body) in [(Method::GET, PATH, ""), (Method::POST, PATH, &ask), (Method::DELETE, &one, "")] {
        let request = with_header(request(&world, method, path, body), header::AUTHORIZATION, &bearer);
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, reply.body.contains("session-needed")), (StatusCode::FORBIDDEN, true));
    }
    assert_eq!(world.list_api_keys(customer.account).await, Ok(vec![key]));
}

#[tokio::test]
async fn another_accounts_keys_are_neither_shown_nor_revoked() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    let (key, _) = ann.api_key(&world, &[Scope::UsageRead]).await;
    let list = call(&world, &bob, Method::GET, PATH, "").await;
    assert_eq!(list.body, r#"{"data":[],"next_cursor":null}"#);
    let path = format!("{PATH}/{}", key.id);
    assert_eq!(call(&world, &bob, Method::DELETE, &path, "").await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.list_api_keys(ann.account).await, Ok(vec![key]));
}

#[tokio::test]
async fn another_sites_page_makes_no_key() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "name": "a", "scopes": ["usage:read"] }).to_string();
    let asking = customer.request(&world, Method::POST, PATH, &ask);
    let asking = with_header(asking, header::ORIGIN, "https://evil.example");
    assert_eq!(handle(&world, &site(), asking).await.status, StatusCode::FORBIDDEN);
    assert_eq!(world.list_api_keys(customer.account).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_fault_makes_nothing_and_a_lost_answer_leaves_a_key_that_the_list_shows() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "name": "a", "scopes": ["usage:read"] });
    world.fail_next("create_api_key", Fault::transient("busy"));
    assert_eq!(make_one(&world, &customer, &ask).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.list_api_keys(customer.account).await, Ok(Vec::new()));
    world.lose_answer("create_api_key", Fault::transient("no answer"));
    let lost = make_one(&world, &customer, &ask).await;
    assert!(lost.status == StatusCode::SERVICE_UNAVAILABLE && !lost.body.contains(KEY_PREFIX), "{}", lost.body);
    assert_eq!(world.list_api_keys(customer.account).await.unwrap().len(), 1);
}
