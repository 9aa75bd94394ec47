//! Templates: sealed at rest, changed only as they were read, refused with the place that is at fault.

use std::collections::BTreeSet;

use futures::future::join;
use http::header;
use serde_json::{Value, json};
use telbuddy::platform::Clock;
use telbuddy::seal::WrappedKeys;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{Customer, called, site, with_header};

use super::*;

const TEXT: &str = r"Hello {{first_name}}, your table for {{n}} is ready. \{{:";

async fn asked(world: &World, customer: &Customer, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let reply = handle(world, &site(), customer.request(world, method, path, &body)).await;
    let value = if reply.body.is_empty() { Value::Null } else { serde_json::from_str(&reply.body).unwrap() };
    (reply.status.as_u16(), value)
}

async fn made(world: &World, customer: &Customer, name: &str) -> Value {
    let (status, made) =
        asked(world, customer, Method::POST, "/v1/templates", &json!({ "name": name, "body": TEXT })).await;
    assert_eq!(status, 201, "{made}");
    made
}

fn path(template: &Value) -> String {
    format!("/v1/templates/{}", template["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_template_reads_back_and_says_nothing_at_rest() {
    let world = World::new(1);
    let (customer, stranger) = (Customer::new(&world).await, Customer::new(&world).await);
    let made = made(&world, &customer, "Table ready").await;
    let expected = json!({
        "id": made["id"], "name": "Table ready", "body": TEXT, "fields": ["first_name", "n"], "revision": 1,
        "created_at": world.now(), "updated_at": world.now(),
    });
    assert_eq!(made, expected);
    assert_eq!(asked(&world, &customer, Method::GET, &path(&made), &Value::Null).await, (200, expected.clone()));
    let (status, list) = asked(&world, &customer, Method::GET, "/v1/templates", &Value::Null).await;
    assert_eq!((status, &list), (200, &json!({ "data": [expected], "next_cursor": null })));
    for text in ["Table ready", "table ready", "Hello", "first_name"] {
        assert!(!world.holds_in_clear(text), "{text}");
    }
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(asked(&world, &stranger, method, &path(&made), &Value::Null).await.0, 404);
    }
    let change = json!({ "name": "x", "body": "x", "revision": 1 });
    assert_eq!(asked(&world, &stranger, Method::PUT, &path(&made), &change).await.0, 404);
    let (_, list) = asked(&world, &stranger, Method::GET, "/v1/templates", &Value::Null).await;
    assert_eq!(list["data"], json!([]));
}

#[tokio::test]
async fn each_request_makes_the_calls_that_are_written() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let session = [("load_session", 1)];
    let cold = [("load_keys", 2), ("open_key", 2)];
    let count = async |method, path: &str, body: &Value| {
        world.forget_calls();
        let (status, answer) = asked(&world, &customer, method, path, body).await;
        assert!((200..300).contains(&status), "{answer}");
        (called(&world), answer)
    };
    let calls = |more: &[(&'static str, u32)]| session.into_iter().chain(more.iter().copied()).collect();
    let ask = json!({ "name": "a", "body": TEXT });
    let (made, template) = count(Method::POST, "/v1/templates", &ask).await;
    assert_eq!(made, calls(&[&cold[..], &[("create_template", 1)]].concat()));
    let path = path(&template);
    assert_eq!(count(Method::GET, &path, &Value::Null).await.0, calls(&[("load_template", 1)]));
    assert_eq!(count(Method::GET, "/v1/templates", &Value::Null).await.0, calls(&[("list_templates", 1)]));
    let change = json!({ "name": "b", "body": TEXT, "revision": 1 });
    let changed = calls(&[("load_template", 1), ("update_template", 1)]);
    assert_eq!(count(Method::PUT, &path, &change).await.0, changed);
    world.forget_keys();
    let read = [("load_template", 1), ("load_keys", 1), ("open_key", 1)];
    assert_eq!(count(Method::GET, &path, &Value::Null).await.0, calls(&read));
    world.forget_keys();
    let removed = calls(&[("load_template", 1), ("remove_template", 1)]);
    assert_eq!(count(Method::DELETE, &path, &Value::Null).await.0, removed, "a removal opens nothing");
}

#[tokio::test]
async fn templates_come_in_pages_newest_first() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for n in 0..5 {
        made(&world, &customer, &format!("number {n}")).await;
        world.advance(fresh::secs(1));
    }
    let (mut names, mut next) = (Vec::new(), "/v1/templates?limit=2".to_owned());
    for size in [2, 2, 1] {
        let (_, page) = asked(&world, &customer, Method::GET, &next, &Value::Null).await;
        let rows = page["data"].as_array().unwrap();
        assert_eq!((rows.len(), page["next_cursor"].is_null()), (size, size == 1));
        names.extend(rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()));
        next = format!("/v1/templates?limit=2&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
    }
    assert_eq!(names, ["number 4", "number 3", "number 2", "number 1", "number 0"]);
    for wrong in ["limit=0", "limit=101", "cursor=x", "x=1"] {
        let (status, _) = asked(&world, &customer, Method::GET, &format!("/v1/templates?{wrong}"), &Value::Null).await;
        assert_eq!(status, 422, "{wrong}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_where() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let many = (0..21).map(|n| format!("{{{{f{n}}}}}")).collect::<Vec<_>>().concat();
    for (name, body, field, code, place) in [
        ("", "x", "name", "invalid", "1 to 64"),
        (" x", "x", "name", "invalid", "spaces"),
        ("x", "", "body", "missing", "give the text"),
        ("x", &"a".repeat(1_601), "body", "too_long", "1600"),
        ("x", "Hi {{name}", "body", "unknown_syntax", "at character 4:"),
        ("x", "é {{Name}}", "body", "unknown_syntax", "at character 3:"),
        ("x", r"C:\x", "body", "unknown_syntax", "at character 3:"),
        ("x", &many, "body", "too_many_fields", "at character 131:"),
    ] {
        let ask = json!({ "name": name, "body": body });
        let (status, problem) = asked(&world, &customer, Method::POST, "/v1/templates", &ask).await;
        let error = &problem["errors"][0];
        assert_eq!((status, &error["field"], &error["code"]), (422, &json!(field), &json!(code)), "{problem}");
        assert!(error["detail"].as_str().unwrap().contains(place), "{problem}");
    }
    let (_, problem) =
        asked(&world, &customer, Method::POST, "/v1/templates", &json!({ "name": "", "body": "" })).await;
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
    let made = made(&world, &customer, "x").await;
    let wrong = json!({ "name": "x", "body": "}}", "revision": 1 });
    assert_eq!(asked(&world, &customer, Method::PUT, &path(&made), &wrong).await.0, 422);
    let unknown = json!({ "name": "x", "body": "x", "html": "x" });
    assert_eq!(asked(&world, &customer, Method::POST, "/v1/templates", &unknown).await.0, 422);
}

#[tokio::test]
async fn a_name_is_one_templates_and_free_when_that_is_renamed_or_removed() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (first, second) = (made(&world, &customer, "Bills").await, made(&world, &customer, "Tables").await);
    let kind = |problem: &Value| problem["type"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let again = json!({ "name": "bILLS", "body": "x" });
    let (status, problem) = asked(&world, &customer, Method::POST, "/v1/templates", &again).await;
    assert_eq!((status, kind(&problem)), (409, "template-name-taken".to_owned()));
    let change = |name: &str, revision| json!({ "name": name, "body": "new", "revision": revision });
    let (status, problem) = asked(&world, &customer, Method::PUT, &path(&second), &change("BILLS", 1)).await;
    assert_eq!((status, kind(&problem)), (409, "template-name-taken".to_owned()));
    assert_eq!(asked(&world, &customer, Method::PUT, &path(&first), &change("BILLS", 1)).await.0, 200, "its own");
    let (status, renamed) = asked(&world, &customer, Method::PUT, &path(&first), &change("Paid", 2)).await;
    assert_eq!((status, &renamed["name"], &renamed["revision"]), (200, &json!("Paid"), &json!(3)));
    assert_eq!(asked(&world, &customer, Method::PUT, &path(&second), &change("Bills", 1)).await.0, 200);
    assert_eq!(asked(&world, &customer, Method::DELETE, &path(&second), &Value::Null).await.0, 204);
    made(&world, &customer, "bills").await;
    assert_eq!(asked(&world, &customer, Method::DELETE, &path(&second), &Value::Null).await.0, 404);
    let elsewhere = Customer::new(&world).await;
    made(&world, &elsewhere, "Paid").await;
}

#[tokio::test]
async fn of_two_changes_at_once_one_is_stored_and_the_other_is_told() {
    let mut winners = BTreeSet::new();
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let made = made(&world, &customer, "x").await;
        let (path, one, two) = (path(&made), ["one", "x", "1"], ["two", "x", "1"]);
        let change = |[body, name, _]: [&str; 3]| json!({ "name": name, "body": body, "revision": 1 });
        let (one, two) = (change(one), change(two));
        let (one, two) = join(
            asked(&world, &customer, Method::PUT, &path, &one),
            asked(&world, &customer, Method::PUT, &path, &two),
        )
        .await;
        let (won, lost) = if one.0 == 200 { (one, two) } else { (two, one) };
        assert_eq!((won.0, lost.0), (200, 409), "{won:?} {lost:?}");
        assert!(lost.1["type"].as_str().unwrap().ends_with("/template-changed"));
        assert_eq!(asked(&world, &customer, Method::GET, &path, &Value::Null).await, (200, won.1.clone()));
        winners.insert(won.1["body"].to_string());
    }
    assert_eq!(winners.len(), 2, "each wins in some worlds");
}

#[tokio::test]
async fn a_change_of_what_was_read_before_another_one_changes_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let made = made(&world, &customer, "x").await;
    let change = |body: &str, revision: u32| json!({ "name": "x", "body": body, "revision": revision });
    assert_eq!(asked(&world, &customer, Method::PUT, &path(&made), &change("two", 1)).await.0, 200);
    for revision in [0, 1, 3] {
        assert_eq!(asked(&world, &customer, Method::PUT, &path(&made), &change("three", revision)).await.0, 409);
    }
    let (_, now) = asked(&world, &customer, Method::GET, &path(&made), &Value::Null).await;
    assert_eq!((&now["body"], &now["revision"]), (&json!("two"), &json!(2)));
}

#[tokio::test]
async fn a_removal_and_a_change_at_once_leave_the_template_or_none() {
    let mut seen = BTreeSet::new();
    for seed in 0..30 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let template = made(&world, &customer, "x").await;
        let (path, change) = (path(&template), json!({ "name": "y", "body": "y", "revision": 1 }));
        let (changed, removed) = join(
            asked(&world, &customer, Method::PUT, &path, &change),
            asked(&world, &customer, Method::DELETE, &path, &Value::Null),
        )
        .await;
        // A removal removes whatever is there: it looks again after a change.
        assert_eq!(removed.0, 204);
        assert_eq!(asked(&world, &customer, Method::GET, &path, &Value::Null).await.0, 404);
        for name in ["x", "y"] {
            made(&world, &customer, name).await;
        }
        seen.insert(changed.0);
    }
    assert_eq!(seen, BTreeSet::from([200, 404, 409]));
}

#[tokio::test]
async fn the_two_hundred_and_first_template_is_refused() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut last = Value::Null;
    for n in 0..MOST_TEMPLATES {
        last = made(&world, &customer, &format!("number {n}")).await;
    }
    let more = json!({ "name": "one more", "body": "x" });
    let (status, problem) = asked(&world, &customer, Method::POST, "/v1/templates", &more).await;
    assert_eq!(status, 409);
    assert!(problem["type"].as_str().unwrap().ends_with("/too-many-templates"), "{problem}");
    assert_eq!(asked(&world, &customer, Method::DELETE, &path(&last), &Value::Null).await.0, 204);
    assert_eq!(asked(&world, &customer, Method::POST, "/v1/templates", &more).await.0, 201);
}

/// The keys were replaced, in another environment.
#[tokio::test]
async fn what_is_under_an_older_key_opens_and_what_is_new_is_under_the_newest() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let before = made(&world, &customer, "before").await;
    let read = world.load_keys(customer.account, Purpose::Payload).await.unwrap().unwrap();
    let (_, WrappedKeys { versions, .. }) = fresh::minted(&world, customer.account, Purpose::Payload, 2).await;
    let new = read.with_new(versions[0].clone(), None);
    let change = telbuddy::rotation::KeysChange { read, new };
    assert_eq!(telbuddy::rotation::ReplaceKeys::replace_keys(&world, &change).await, Ok(true));
    world.forget_keys();
    let after = made(&world, &customer, "after").await;
    let version = async |template: &Value| {
        let id = template["id"].as_str().unwrap().parse().unwrap();
        world.load_template(customer.account, id).await.unwrap().unwrap().sealed.key_version().unwrap()
    };
    assert_eq!((version(&before).await, version(&after).await), (1, 2));
    let (_, list) = asked(&world, &customer, Method::GET, "/v1/templates", &Value::Null).await;
    let names: BTreeSet<_> = list["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["after", "before"]));
}

#[tokio::test]
async fn a_key_reads_or_writes_as_its_scopes_say() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let stored = made(&world, &customer, "x").await;
    let (_, reads) = customer.api_key(&world, &[Scope::TemplatesRead]).await;
    let (_, writes) = customer.api_key(&world, &[Scope::TemplatesWrite]).await;
    let (path, change) = (path(&stored), json!({ "name": "x", "body": "y", "revision": 1 }).to_string());
    for (method, path, body, by_reader, by_writer) in [
        (Method::GET, "/v1/templates", "", 200, 403),
        (Method::GET, path.as_str(), "", 200, 403),
        (Method::POST, "/v1/templates", r#"{"name":"y","body":"y"}"#, 403, 201),
        (Method::PUT, path.as_str(), change.as_str(), 403, 200),
        (Method::DELETE, path.as_str(), "", 403, 204),
    ] {
        for (bearer, status) in [(&reads, by_reader), (&writes, by_writer)] {
            let mut request = customer.request(&world, method.clone(), path, body);
            request.headers.remove(header::COOKIE);
            let reply = handle(&world, &site(), with_header(request, header::AUTHORIZATION, bearer)).await;
            assert_eq!(reply.status.as_u16(), status, "{method} {path}: {}", reply.body);
        }
    }
}
