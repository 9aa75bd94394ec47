//! What a customer sees of endpoints: secrets once, reasons for what is refused, and nothing of anybody else's.

use http::Method;
use serde_json::{Value, json};
use telbuddy::endpoint::{Answer, Attempt, DeliveryStatus, NoteHealth, WorkDeliveries};
use telbuddy::ids::{DeliveryId, EventId};
use telbuddy::message::Fence;
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const URL: &str = "https://example.com/hooks";

async fn call(world: &World, customer: &Customer, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let reply = handle(world, &site(), customer.request(world, method, path, &body)).await;
    (reply.status, serde_json::from_str(&reply.body).unwrap_or(Value::Null))
}

async fn get(world: &World, customer: &Customer, path: &str) -> (StatusCode, Value) {
    call(world, customer, Method::GET, path, &Value::Null).await
}

async fn post(world: &World, customer: &Customer, path: &str, body: Value) -> (StatusCode, Value) {
    call(world, customer, Method::POST, path, &body).await
}

/// A new endpoint for all events: its path and the answer.
async fn created(world: &World, customer: &Customer) -> (String, Value) {
    let (status, answer) = post(world, customer, ENDPOINTS, json!({ "url": URL, "events": ["*"] })).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let path = format!("{ENDPOINTS}/{}", answer["id"].as_str().unwrap());
    world.forget_calls();
    (path, answer)
}

fn id(answer: &Value) -> EndpointId {
    answer["id"].as_str().unwrap().parse().unwrap()
}

/// A delivery that came to this at its first try, `after` seconds from now.
async fn delivery(
    world: &World,
    customer: &Customer,
    endpoint: EndpointId,
    status: Option<u16>,
    after: i64,
) -> Delivery {
    let at = world.now() + secs(after);
    let kind = EventType::MessageSent;
    let event = Event { id: EventId::new(at, fresh::dice(world)), kind, at, data: r#"{"n":1}"#.to_owned() };
    let new = Delivery::new(customer.account, endpoint, event, at);
    world.create_delivery(&new).await.unwrap();
    if let Some(status) = status {
        world.claim_delivery(new.account, endpoint, new.id, Fence(1), at).await.unwrap();
        let tried = Delivery { tries: 11, ..new.clone() };
        let tried = tried.after(Attempt { at, result: Answer::Http { status, bytes: 3 }, took_ms: 12 }, 0, at);
        assert_eq!(world.record_attempt(&tried, Fence(1)).await, Ok(true));
    }
    world.forget_calls();
    new
}

fn hinted(world: &World) -> usize {
    world.take_jobs(telbuddy::platform::Queue::Deliver).len()
}

#[tokio::test]
async fn a_secret_is_shown_when_it_is_made_and_never_again() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let secret = new["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
    world.advance(secs(60));
    let (status, rotated) = post(&world, &customer, &format!("{path}/secret"), Value::Null).await;
    let second = rotated["secret"].as_str().unwrap();
    assert_eq!((status, second == secret), (StatusCode::OK, false));
    assert_eq!(rotated["previous_valid_until"], "2026-11-25T06:01:00Z");
    for path in [ENDPOINTS, &path, &format!("{path}/deliveries")] {
        let (_, answer) = get(&world, &customer, path).await;
        assert!(!answer.to_string().contains("whsec_"), "{answer}");
    }
    let (_, patched) = call(&world, &customer, Method::PATCH, &path, &json!({ "enabled": true })).await;
    assert_eq!(patched["secret"], Value::Null);
    assert!(!world.holds_in_clear(&secret[6..]) && !world.holds_in_clear(&second[6..]));
}

#[tokio::test]
async fn the_fifth_new_secret_within_a_day_has_to_wait() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, _) = created(&world, &customer).await;
    let rotate = async || post(&world, &customer, &format!("{path}/secret"), Value::Null).await.0;
    for _ in 0..4 {
        assert_eq!(rotate().await, StatusCode::OK);
    }
    assert_eq!(rotate().await, StatusCode::TOO_MANY_REQUESTS);
    world.advance(secs(24 * 3_600));
    // The session is over by then; it is the secrets that are looked at.
    let endpoint = world.list_endpoints(customer.account).await.unwrap().remove(0);
    assert_eq!(endpoint.signers(world.now()).count(), 1);
}

#[tokio::test]
async fn an_endpoint_is_made_shown_changed_and_removed() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "url": URL, "events": ["message.received", "message.sent"], "description": " Orders " });
    let (status, new) = post(&world, &customer, ENDPOINTS, ask).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!((&new["events"], &new["description"]), (&json!(["message.sent", "message.received"]), &json!("Orders")));
    assert_eq!((&new["enabled"], &new["disabled"]), (&json!(true), &Value::Null));
    let path = format!("{ENDPOINTS}/{}", new["id"].as_str().unwrap());
    let listens = |kind| world.gate(customer.account).unwrap().listeners.of(kind).count();
    assert_eq!((listens(EventType::MessageSent), listens(EventType::MessageFailed)), (1, 0));

    let (_, off) = call(&world, &customer, Method::PATCH, &path, &json!({ "enabled": false })).await;
    assert_eq!((&off["enabled"], &off["disabled"]["reason"]), (&json!(false), &json!("customer")));
    assert_eq!((&off["url"], &off["description"]), (&json!(URL), &json!("Orders")), "the rest stays");
    assert_eq!(listens(EventType::MessageSent), 0);
    let change = json!({ "enabled": true, "events": ["*"], "url": "https://example.org/" });
    let (_, on) = call(&world, &customer, Method::PATCH, &path, &change).await;
    assert_eq!((&on["enabled"], &on["url"], &on["events"]), (&json!(true), &change["url"], &json!(["*"])));
    assert_eq!(listens(EventType::MessageFailed), 1);
    assert_eq!(get(&world, &customer, &path).await, (StatusCode::OK, on.clone()));
    assert_eq!(get(&world, &customer, ENDPOINTS).await.1, json!({ "data": [on], "next_cursor": null }));

    assert_eq!(call(&world, &customer, Method::DELETE, &path, &Value::Null).await.0, StatusCode::NO_CONTENT);
    for method in [Method::DELETE, Method::GET] {
        assert_eq!(call(&world, &customer, method, &path, &Value::Null).await.0, StatusCode::NOT_FOUND);
    }
    assert_eq!(listens(EventType::MessageFailed), 0);
}

#[tokio::test]
async fn content_is_included_only_where_somebody_asked_for_it_and_until_they_do_not() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    assert_eq!(new["include_content"], false);
    let stored = async || world.load_endpoint(customer.account, id(&new)).await.unwrap().unwrap().include_content;
    for (change, on) in [
        (json!({ "include_content": true }), true),
        (json!({ "url": "https://example.org/" }), true),
        (json!({ "include_content": null }), true),
        (json!({ "include_content": false, "url": URL }), false),
        (json!({ "enabled": true }), false),
    ] {
        let (status, changed) = call(&world, &customer, Method::PATCH, &path, &change).await;
        assert_eq!((status, &changed["include_content"], stored().await), (StatusCode::OK, &json!(on), on), "{change}");
    }
    let ask = json!({ "url": URL, "events": ["*"], "include_content": true });
    let (status, with) = post(&world, &customer, ENDPOINTS, ask).await;
    assert_eq!((status, &with["include_content"]), (StatusCode::CREATED, &json!(true)));
    for bad in [json!("yes"), json!(1)] {
        let ask = json!({ "include_content": bad });
        let (status, _) = call(&world, &customer, Method::PATCH, &path, &ask).await;
        assert!(status.is_client_error(), "{ask}: {status}");
    }
}

/// Else a key that may only keep endpoints could read every message, by having it sent to a server of its own.
#[tokio::test]
async fn a_key_that_may_not_read_messages_cannot_have_their_content_sent_anywhere() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let (_, writes) = customer.api_key(&world, &[Scope::WebhooksWrite]).await;
    let (_, reads_too) = customer.api_key(&world, &[Scope::WebhooksWrite, Scope::MessagesRead]).await;
    let send = async |bearer: &str, method, path: &str, ask: &Value| {
        let request = request(&world, method, path, &ask.to_string());
        let bearer = with_header(request, http::header::AUTHORIZATION, bearer);
        let reply = handle(&world, &site(), bearer).await;
        (reply.status.as_u16(), reply.body)
    };
    let make = json!({ "url": URL, "events": ["*"], "include_content": true });
    let turn_on = json!({ "include_content": true });
    let (refused, text) = send(&writes, Method::POST, ENDPOINTS, &make).await;
    assert!(refused == 403 && text.contains("scope-missing") && text.contains("messages:read"), "{refused} {text}");
    assert_eq!(send(&writes, Method::PATCH, &path, &turn_on).await.0, 403);
    assert_eq!(world.list_endpoints(customer.account).await.unwrap().len(), 1);
    assert!(!world.load_endpoint(customer.account, id(&new)).await.unwrap().unwrap().include_content);
    assert_eq!(send(&reads_too, Method::POST, ENDPOINTS, &make).await.0, 201);
    assert_eq!(send(&reads_too, Method::PATCH, &path, &turn_on).await.0, 200);
    // While it is on, no other address either; everything else, and turning it off.
    for (ask, status) in [
        (json!({ "url": "https://evil.example/" }), 403),
        (json!({ "url": "https://evil.example/", "include_content": true }), 403),
        (json!({ "description": "Ours", "enabled": false }), 200),
        (json!({ "url": "https://example.org/", "include_content": false }), 200),
    ] {
        assert_eq!(send(&writes, Method::PATCH, &path, &ask).await.0, status, "{ask}");
    }
}

#[tokio::test]
async fn enabling_forgets_the_failures_and_disabling_keeps_the_first_reason() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    world.note_failing(customer.account, id(&new), world.now()).await.unwrap();
    let read = world.load_endpoint(customer.account, id(&new)).await.unwrap().unwrap();
    assert_eq!(world.disable_endpoint(&read, WhyDisabled::Failing, world.now()).await, Ok(true));
    let (_, off) = call(&world, &customer, Method::PATCH, &path, &json!({ "enabled": false })).await;
    assert_eq!(off["disabled"]["reason"], "failing");
    let (_, on) = call(&world, &customer, Method::PATCH, &path, &json!({ "enabled": true })).await;
    assert_eq!((&on["enabled"], &on["failing_since"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn what_does_not_fit_is_named() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let long = "x".repeat(101);
    let table = [
        (json!({ "url": "http://example.com/", "events": ["*"] }), "url"),
        (json!({ "url": "https://169.254.169.254/", "events": ["*"] }), "url"),
        (json!({ "url": "http://127.0.0.1/", "events": ["*"] }), "url"),
        (json!({ "url": "https://a:b@example.com/", "events": ["*"] }), "url"),
        (json!({ "url": URL, "events": [] }), "events"),
        (json!({ "url": URL, "events": ["message.sent", "message.read"] }), "events[1]"),
        (json!({ "url": URL, "events": ["*", "message.sent"] }), "events[0]"),
        (json!({ "url": URL, "events": ["endpoint.test"] }), "events[0]"),
        (json!({ "url": URL, "events": ["*"], "description": long }), "description"),
        (json!({ "url": URL, "events": ["*"], "secret": "mine" }), "secret"),
        (json!({ "url": URL }), "events"),
    ];
    for (ask, field) in table {
        let (status, problem) = post(&world, &customer, ENDPOINTS, ask.clone()).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{ask}");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    assert_eq!(world.list_endpoints(customer.account).await, Ok(vec![]));
    let (path, _) = created(&world, &customer).await;
    let (status, problem) = call(&world, &customer, Method::PATCH, &path, &json!({ "url": "https://10.0.0.1/" })).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("url")));
}

#[tokio::test]
async fn the_eleventh_endpoint_is_refused() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for _ in 0..10 {
        created(&world, &customer).await;
    }
    let (status, problem) = post(&world, &customer, ENDPOINTS, json!({ "url": URL, "events": ["*"] })).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["type"].as_str().unwrap().ends_with("too-many-endpoints"));
}

#[tokio::test]
async fn another_accounts_endpoint_is_not_there() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    let (path, new) = created(&world, &ann).await;
    let one = delivery(&world, &ann, id(&new), Some(500), 0).await;
    let deliveries = format!("{path}/deliveries");
    let one = format!("{deliveries}/{}", one.id);
    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::PATCH, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/secret")),
        (Method::POST, format!("{path}/test")),
        (Method::POST, format!("{path}/recover")),
        (Method::GET, deliveries),
        (Method::GET, one.clone()),
        (Method::POST, format!("{one}/resend")),
    ] {
        let recover = json!({ "since": "2026-01-01T00:00:00Z" });
        let body = if path.ends_with("recover") { recover } else { json!({ "enabled": false }) };
        let (status, _) = call(&world, &bob, method, &path, &body).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(get(&world, &bob, ENDPOINTS).await.1["data"], json!([]));
    assert_eq!((get(&world, &ann, &path).await.1["enabled"].clone(), hinted(&world)), (json!(true), 0));
}

#[tokio::test]
async fn nothing_is_shown_without_a_session() {
    let world = World::new(1);
    for route in ROUTES {
        let path = route.path.replace("{id}", "whep_1").replace("{delivery_id}", "wdel_1");
        let method = Method::from_bytes(route.method.as_bytes()).unwrap();
        let reply = handle(&world, &site(), request(&world, method, &path, "{}")).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{} {path}", route.method);
    }
    assert_eq!(called(&world).len(), 0);
}

#[tokio::test]
async fn a_test_is_an_event_of_its_own_that_is_hinted_and_shown() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, _) = created(&world, &customer).await;
    let (status, sent) = post(&world, &customer, &format!("{path}/test"), Value::Null).await;
    assert_eq!(
        (status, &sent["event_type"], &sent["status"]),
        (StatusCode::ACCEPTED, &json!("endpoint.test"), &json!("pending"))
    );
    let calls =
        [("load_session", 1), ("load_endpoint", 1), ("count_try", 1), ("create_delivery", 1), ("enqueue_all", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(hinted(&world), 1);
    let (_, shown) = get(&world, &customer, &format!("{path}/deliveries/{}", sent["id"].as_str().unwrap())).await;
    let payload: Value = serde_json::from_str(shown["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&payload["id"], &payload["type"], &payload["version"]),
        (&sent["event_id"], &json!("endpoint.test"), &json!(1))
    );
    for _ in 0..59 {
        assert_eq!(post(&world, &customer, &format!("{path}/test"), Value::Null).await.0, StatusCode::ACCEPTED);
    }
    let (status, _) = post(&world, &customer, &format!("{path}/test"), Value::Null).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn nothing_is_sent_to_a_disabled_endpoint() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let one = delivery(&world, &customer, id(&new), Some(500), 0).await;
    call(&world, &customer, Method::PATCH, &path, &json!({ "enabled": false })).await;
    for (path, body) in [
        (format!("{path}/test"), Value::Null),
        (format!("{path}/deliveries/{}/resend", one.id), Value::Null),
        (format!("{path}/recover"), json!({ "since": "2026-01-01T00:00:00Z" })),
    ] {
        let (status, problem) = post(&world, &customer, &path, body).await;
        assert_eq!(status, StatusCode::CONFLICT, "{path}");
        assert!(problem["type"].as_str().unwrap().ends_with("endpoint-disabled"));
    }
    assert_eq!(hinted(&world), 0);
}

#[tokio::test]
async fn deliveries_list_newest_first_in_pages_with_their_tries() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let mut ids = Vec::new();
    for (n, status) in [(0, Some(200)), (1, Some(500)), (2, None)] {
        ids.push(delivery(&world, &customer, id(&new), status, n).await.id.to_string());
    }
    ids.reverse();
    let (_, page) = get(&world, &customer, &format!("{path}/deliveries?limit=2")).await;
    let shown = |page: &Value| -> Vec<String> {
        page["data"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!((shown(&page), &page["data"][1]["status"]), (ids[..2].to_vec(), &json!("failed")));
    let attempt = &page["data"][1]["attempts"][0];
    assert_eq!(
        (&attempt["http_status"], &attempt["error"], &attempt["took_ms"]),
        (&json!(500), &Value::Null, &json!(12))
    );
    let cursor = page["next_cursor"].as_str().unwrap();
    let (_, rest) = get(&world, &customer, &format!("{path}/deliveries?limit=2&cursor={cursor}")).await;
    assert_eq!((shown(&rest), &rest["next_cursor"]), (ids[2..].to_vec(), &Value::Null));
    let (status, _) = get(&world, &customer, &format!("{path}/deliveries?cursor=evt_1")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let unknown = DeliveryId::from_bits(1);
    assert_eq!(get(&world, &customer, &format!("{path}/deliveries/{unknown}")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_delivery_is_resent_once_however_often_it_is_asked_for() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let one = delivery(&world, &customer, id(&new), Some(200), 0).await;
    let resend = format!("{path}/deliveries/{}/resend", one.id);
    for _ in 0..3 {
        let (status, shown) = post(&world, &customer, &resend, Value::Null).await;
        assert_eq!((status, &shown["status"]), (StatusCode::ACCEPTED, &json!("pending")));
    }
    assert_eq!(hinted(&world), 1);
    let unknown = format!("{path}/deliveries/{}/resend", DeliveryId::from_bits(1));
    assert_eq!(post(&world, &customer, &unknown, Value::Null).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn recovering_sends_what_failed_since_then_once_page_by_page() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, new) = created(&world, &customer).await;
    let endpoint = id(&new);
    for n in 0..60 {
        let status = if n % 2 == 0 { 500 } else { 200 };
        delivery(&world, &customer, endpoint, Some(status), n).await;
    }
    let since = world.now() + secs(4);
    let ask = json!({ "since": since });
    let recover = format!("{path}/recover");
    // Two people at once, and again: each failed delivery once.
    let (one, two) = futures::future::join(
        post(&world, &customer, &recover, ask.clone()),
        post(&world, &customer, &recover, ask.clone()),
    )
    .await;
    let resent = |answer: &(StatusCode, Value)| answer.1["resent"].as_u64().unwrap();
    assert_eq!(resent(&one) + resent(&two), 25);
    let cursor = one.1["next_cursor"].as_str().unwrap();
    let rest = post(&world, &customer, &recover, json!({ "since": since, "cursor": cursor })).await;
    assert_eq!((resent(&rest), &rest.1["next_cursor"]), (3, &Value::Null));
    assert_eq!(resent(&post(&world, &customer, &recover, ask).await), 0);
    assert_eq!(hinted(&world), 28);
    let old = world.deliveries_of(customer.account, endpoint);
    let count = |status| old.iter().filter(|one| one.status == status).count();
    assert_eq!((count(DeliveryStatus::Pending), count(DeliveryStatus::Failed)), (28, 2), "two are older");
}

/// Somebody else changes it at the same moment: both changes stand.
#[tokio::test]
async fn changes_at_once_both_take_place() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let (path, _) = created(&world, &customer).await;
        let secret_path = format!("{path}/secret");
        let (rotated, named) = futures::future::join(
            post(&world, &customer, &secret_path, Value::Null),
            call(&world, &customer, Method::PATCH, &path, &json!({ "description": "Ours" })),
        )
        .await;
        assert_eq!((rotated.0, named.0), (StatusCode::OK, StatusCode::OK));
        let (_, stands) = get(&world, &customer, &path).await;
        assert_eq!(stands["description"], "Ours", "seed {seed}");
        assert_eq!(stands["previous_secrets_until"].as_array().unwrap().len(), 1, "seed {seed}");
    }
}
