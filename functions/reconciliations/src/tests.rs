//! Days are listed and shown, and a person decides once.

use http::Method;
use jiff::ToSpan;
use serde_json::{Value, json};
use telbuddy::ledger::{Occasion, PostOutcome, Posted};
use telbuddy::message::{Outcome, ReadMessages, RecordMessage, RecordOutcome};
use telbuddy::reconciliation::{Compared, Course, classify, utc_day};
use telbuddy::testing::setup::{Customer, request, site, with_header};
use telbuddy::testing::{World, fresh};

use super::*;

async fn ask(world: &World, request: Request) -> (StatusCode, Value) {
    let reply = handle(world, &site(), request).await;
    let body = serde_json::from_str(&reply.body).unwrap_or(Value::Null);
    (reply.status, body)
}

async fn get(world: &World, customer: &Customer, path: &str) -> (StatusCode, Value) {
    ask(world, customer.request(world, Method::GET, path, "")).await
}

async fn decide(world: &World, customer: &Customer, day: &str, decision: &str) -> (StatusCode, Value) {
    let body = json!({ "decision": decision }).to_string();
    let path = format!("/v1/reconciliations/{day}/decision");
    ask(world, customer.request(world, Method::POST, &path, &body)).await
}

/// A day with `n` messages of one segment of which Twilio lists two.
async fn differing(world: &World, customer: &Customer, n: u32) -> String {
    let now = world.now();
    let day = utc_day(now);
    let mut compared = Vec::new();
    for _ in 0..n {
        let outgoing = fresh::outgoing(world, customer.account, 1, now);
        world.record_message(&outgoing).await.unwrap();
        let claim = fresh::claimed(world, &outgoing.message, now).await;
        let sid = fresh::sid(world, "SM").as_str().to_owned();
        world.record_outcome(&claim, &Outcome::Sent { sid: sid.clone() }, now).await.unwrap();
        let message = world.load_message(customer.account, outgoing.message.id).await.unwrap().unwrap();
        let charge = fresh::charge(world, &message, now);
        let event = charge.usage.clone().unwrap();
        assert_eq!(world.post_charge(&message, charge, now, &[], None).await, Ok(Posted::Charged));
        let (segments, direction) = (Some(2), message.direction);
        let listed = telbuddy::reconciliation::AtTwilio { sid, segments, sent: Some(now), direction };
        assert_ne!(classify(&listed, Some(&event)), Ok(telbuddy::reconciliation::Class::Same));
        compared.push(Compared::new(&listed, Some(event)).unwrap());
    }
    let found = telbuddy::reconciliation::differences(&compared);
    world.keep_differences(customer.account, day, 0, &found).await.unwrap();
    let report = Report::new(&Course { day, ..Course::new(now) }, now);
    let report = report.after_ours(&compared, None, now);
    assert_eq!(world.save_report(customer.account, &report).await, Ok(true));
    let judged = report.judged(Vec::new(), now);
    assert_eq!(world.save_report(customer.account, &judged).await, Ok(true));
    day.to_string()
}

fn corrections(world: &World, customer: &Customer) -> usize {
    let entries = world.entries(customer.account);
    entries.iter().filter(|entry| matches!(entry.occasion, Occasion::Correction { .. })).count()
}

#[tokio::test]
async fn days_list_newest_first_in_pages_and_with_a_key_that_may_read_usage() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for n in 0..3 {
        let day = utc_day(world.now()).saturating_add(n.days());
        let course = Course { day, ..Course::new(world.now()) };
        let report = Report::new(&course, world.now()).after_ours(&[], None, world.now());
        assert_eq!(world.save_report(customer.account, &report).await, Ok(true));
    }
    let (status, first) = get(&world, &customer, "/v1/reconciliations?limit=2").await;
    let days = |list: &Value| {
        list["data"].as_array().unwrap().iter().map(|row| row["day"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((status, days(&first)), (StatusCode::OK, vec!["2026-11-26".to_owned(), "2026-11-25".to_owned()]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, last) = get(&world, &customer, &format!("/v1/reconciliations?limit=2&cursor={cursor}")).await;
    assert_eq!((days(&last), last["next_cursor"].clone()), (vec!["2026-11-24".to_owned()], Value::Null));
    assert_eq!((&last["data"][0]["state"], &last["data"][0]["within_twilio_usage"]), (&json!("running"), &Value::Null));
    for wrong in ["cursor=x", "cursor=2026-11-24T00:00", "limit=0", "other=1"] {
        let (status, _) = get(&world, &customer, &format!("/v1/reconciliations?{wrong}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    for (scope, wanted) in [(Scope::UsageRead, StatusCode::OK), (Scope::MessagesRead, StatusCode::FORBIDDEN)] {
        let (_, key) = customer.api_key(&world, &[scope]).await;
        let with_key =
            with_header(request(&world, Method::GET, "/v1/reconciliations", ""), http::header::AUTHORIZATION, &key);
        assert_eq!(ask(&world, with_key).await.0, wanted, "{scope:?}");
    }
}

#[tokio::test]
async fn a_day_names_the_sids_of_each_class_and_another_account_sees_nothing() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let day = differing(&world, &customer, 6).await;
    let (status, shown) = get(&world, &customer, &format!("/v1/reconciliations/{day}")).await;
    assert_eq!((status, &shown["state"], &shown["different"]), (StatusCode::OK, &json!("needs_decision"), &json!(6)));
    assert_eq!((&shown["segments_difference"], &shown["credits_difference_micro"]), (&json!(6), &json!(6_000_000)));
    let data = shown["differences"]["data"].as_array().unwrap();
    assert_eq!((data.len(), &data[0]["charged"], &data[0]["listed"]), (6, &json!(1), &json!(2)));
    assert_eq!(shown["only_here_sids"], json!({ "sids": [], "more": 0 }));
    for path in [format!("/v1/reconciliations/{day}"), "/v1/reconciliations/tomorrow".to_owned()] {
        assert_eq!(get(&world, &other, &path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(decide(&world, &other, &day, "post").await.0, StatusCode::NOT_FOUND);
    assert_eq!(corrections(&world, &customer), 0);
}

#[tokio::test]
async fn a_person_posts_what_differs_once_however_often_it_is_said() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    // More than a page of differences.
    world.change_allowance(customer.account, |allowance| allowance.free.0 += 100_000_000);
    let day = differing(&world, &customer, 60).await;
    let before = world.allowance(customer.account).unwrap();
    for _ in 0..2 {
        let (status, decided) = decide(&world, &customer, &day, "post").await;
        assert_eq!(
            (status, &decided["state"], &decided["decision"]),
            (StatusCode::OK, &json!("decided"), &json!("post"))
        );
        assert_eq!((&decided["posted"], corrections(&world, &customer)), (&json!(60), 60));
    }
    let after = world.allowance(customer.account).unwrap();
    assert_eq!(after.used.0 - before.used.0, 60_000_000);
    let (status, refused) = decide(&world, &customer, &day, "keep").await;
    assert_eq!((status, refused["type"].as_str().is_some()), (StatusCode::CONFLICT, true), "{refused}");
}

#[tokio::test]
async fn what_is_kept_is_not_posted_and_a_key_decides_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let day = differing(&world, &customer, 6).await;
    let (_, key) = customer.api_key(&world, &[Scope::UsageRead]).await;
    let path = format!("/v1/reconciliations/{day}/decision");
    let with_key = request(&world, Method::POST, &path, r#"{"decision":"post"}"#);
    let with_key = with_header(with_key, http::header::AUTHORIZATION, &key);
    assert_eq!(ask(&world, with_key).await.0, StatusCode::FORBIDDEN);
    let (status, _) = decide(&world, &customer, &day, "perhaps").await;
    assert!(status.is_client_error(), "{status}");
    let (status, kept) = decide(&world, &customer, &day, "keep").await;
    assert_eq!((status, &kept["decision"], &kept["posted"]), (StatusCode::OK, &json!("keep"), &json!(0)));
    assert_eq!(decide(&world, &customer, &day, "keep").await.0, StatusCode::OK);
    assert_eq!(decide(&world, &customer, &day, "post").await.0, StatusCode::CONFLICT);
    assert_eq!(corrections(&world, &customer), 0);
}

#[tokio::test]
async fn of_two_decisions_at_once_one_stands_whole() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let day = differing(&world, &customer, 6).await;
        let (post, keep) = futures_join(&world, &customer, &day).await;
        let wanted = match (post, keep) {
            (StatusCode::OK, StatusCode::CONFLICT) => 6,
            (StatusCode::CONFLICT, StatusCode::OK) => 0,
            other => panic!("both or none: {other:?}"),
        };
        assert_eq!(corrections(&world, &customer), wanted, "seed {seed}");
    }
}

async fn futures_join(world: &World, customer: &Customer, day: &str) -> (StatusCode, StatusCode) {
    let (post, keep) = tokio::join!(decide(world, customer, day, "post"), decide(world, customer, day, "keep"));
    (post.0, keep.0)
}

#[tokio::test]
async fn a_decision_that_was_interrupted_goes_on_where_it_ended() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let day = differing(&world, &customer, 6).await;
    world.fail_next("post_correction", telbuddy::fault::Fault::transient("busy"));
    assert!(decide(&world, &customer, &day, "post").await.0.is_server_error());
    let (_, shown) = get(&world, &customer, &format!("/v1/reconciliations/{day}")).await;
    assert_eq!((&shown["state"], &shown["posted"]), (&json!("decided"), &json!(0)));
    assert_eq!(decide(&world, &customer, &day, "keep").await.0, StatusCode::CONFLICT, "it is decided");
    let (status, decided) = decide(&world, &customer, &day, "post").await;
    assert_eq!((status, &decided["posted"], corrections(&world, &customer)), (StatusCode::OK, &json!(6), 6));
}
