//! Accepting: once for each key, whole or not at all, and for the calls that it claims.

use std::collections::BTreeMap;

use http::Method;
use telbuddy::account::Stop;
use telbuddy::message::{Outcome, RecordOutcome};
use telbuddy::platform::Clock;
use telbuddy::session::TOUCH_EVERY;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{BODY, Customer, TO, called, crash_after, due_later, site, with_header};

use super::*;

fn asking(world: &World, customer: &Customer, key: &str, body: &str) -> Request {
    let body = format!(r#"{{"to":"{TO}","from":"{}","body":"{body}"}}"#, fresh::OWN);
    let request = customer.request(world, Method::POST, "/v1/messages", &body);
    with_header(request, header::HeaderName::from_static("idempotency-key"), key)
}

async fn sent(world: &World, customer: &Customer, key: &str) -> Reply {
    handle(world, &site(), asking(world, customer, key, BODY)).await
}

fn reserved(world: &World, customer: &Customer) -> u64 {
    world.allowance(customer.account).unwrap().held.0 / 1_000_000
}

#[tokio::test]
async fn accepting_costs_one_read_one_transaction_one_hint_and_two_openings_when_cold() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let each = BTreeMap::from([("load_sender", 1), ("record_message", 1), ("enqueue", 1)]);
    assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::ACCEPTED);
    let mut cold = each.clone();
    cold.insert("open_key", 2);
    assert_eq!(called(&world), cold);
    world.forget_calls();
    assert_eq!(sent(&world, &customer, "b").await.status, StatusCode::ACCEPTED);
    assert_eq!((called(&world), world.openings().len()), (each.clone(), 2));
    world.advance(TOUCH_EVERY);
    world.forget_calls();
    sent(&world, &customer, "c").await;
    assert_eq!(called(&world), each.into_iter().chain([("touch_session", 1)]).collect());
}

#[tokio::test]
async fn the_row_has_no_body_and_no_number_and_the_hint_only_ids() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    sent(&world, &customer, "a").await;
    let message = world.messages_of(customer.account).remove(0);
    assert_eq!(world.jobs(), [Job::Send { account: customer.account, message: message.id }]);
    assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear(&TO[1..]));
    assert_eq!((message.status, message.segments, reserved(&world, &customer)), (Status::Accepted, 1, 1));
}

#[tokio::test]
async fn a_repetition_costs_one_read_and_gets_the_same_answer() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let first = sent(&world, &customer, "a").await;
    world.forget_calls();
    let again = sent(&world, &customer, "a").await;
    assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &first.body));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(called(&world), [("load_sender", 1)].into_iter().collect());
    let other = handle(&world, &site(), asking(&world, &customer, "a", "another")).await;
    assert_eq!((other.status, reserved(&world, &customer)), (StatusCode::UNPROCESSABLE_ENTITY, 1));
}

#[tokio::test]
async fn a_repetition_is_answered_even_when_the_message_would_not_be_accepted_now() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let first = sent(&world, &customer, "a").await;
    world.stop(customer.account, Stop::Frozen);
    assert_eq!(sent(&world, &customer, "a").await.body, first.body);
    assert_eq!(sent(&world, &customer, "b").await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn one_key_twice_at_the_same_time_is_one_message_with_one_answer() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let (one, two) = tokio::join!(sent(&world, &customer, "a"), sent(&world, &customer, "a"));
        assert_eq!((one.status, &one.body), (two.status, &two.body));
        assert_eq!((world.messages_of(customer.account).len(), world.jobs().len()), (1, 1), "seed {seed}");
        assert_eq!(reserved(&world, &customer), 1);
    }
}

#[tokio::test]
async fn credit_that_is_used_up_between_the_read_and_the_write_accepts_no_more_than_there_is() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        world.change_allowance(customer.account, |allowance| allowance.available = MicroCredits::whole(1));
        let (one, two) = tokio::join!(sent(&world, &customer, "a"), sent(&world, &customer, "b"));
        let mut statuses = [one.status.as_u16(), two.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!((statuses, world.jobs().len()), ([202, 402], 1), "seed {seed}");
    }
}

#[tokio::test]
async fn a_fault_before_the_write_reserves_nothing_and_the_same_key_works_then() {
    for method in ["load_sender", "open_key", "random", "record_message"] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let request = asking(&world, &customer, "a", BODY);
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(handle(&world, &site(), request).await.status, StatusCode::SERVICE_UNAVAILABLE, "{method}");
        assert_eq!((reserved(&world, &customer), world.jobs()), (0, Vec::new()), "{method}");
        assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::ACCEPTED, "{method}");
        assert_eq!(world.messages_of(customer.account).len(), 1);
    }
}

#[tokio::test]
async fn a_lost_answer_of_the_write_is_answered_by_the_same_key_and_the_sweeper_sends_it() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.lose_answer("record_message", Fault::Ambiguous("reset".to_owned()));
    let reply = sent(&world, &customer, "a").await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::ACCEPTED);
    let messages = world.messages_of(customer.account);
    assert_eq!((messages.len(), reserved(&world, &customer)), (1, 1));
    assert_eq!(due_later(&world).await, [messages[0].id]);
}

#[tokio::test]
async fn a_lost_hint_is_an_accepted_message_that_the_sweeper_finds() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::ACCEPTED);
    let id = world.messages_of(customer.account)[0].id;
    assert_eq!((world.jobs(), due_later(&world).await), (Vec::new(), vec![id]));
}

#[tokio::test]
async fn a_crash_at_any_point_and_the_same_key_again_is_one_message_with_one_hold() {
    for polls in 0..12 {
        let world = World::new(u64::try_from(polls).unwrap());
        let customer = Customer::new(&world).await;
        crash_after(polls, handle(&world, &site(), asking(&world, &customer, "a", BODY)));
        assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::ACCEPTED);
        let messages = world.messages_of(customer.account);
        assert_eq!((messages.len(), reserved(&world, &customer)), (1, 1), "{polls} polls");
        assert_eq!(due_later(&world).await, [messages[0].id], "{polls} polls");
    }
}

#[tokio::test]
async fn what_the_rules_refuse_costs_the_read_and_opens_no_payload_key() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.stop(customer.account, Stop::CredentialRefused);
    assert_eq!(sent(&world, &customer, "a").await.status, StatusCode::FORBIDDEN);
    assert_eq!(called(&world), [("load_sender", 1), ("open_key", 1)].into_iter().collect());
    assert_eq!(world.openings()[0].purpose, Purpose::Match);
}

#[tokio::test]
async fn who_has_no_cookie_or_no_key_costs_no_call_at_all() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut nobody = asking(&world, &customer, "a", BODY);
    nobody.headers.remove(header::COOKIE);
    let mut keyless = asking(&world, &customer, "a", BODY);
    keyless.headers.remove("idempotency-key");
    for (request, status) in [(nobody, StatusCode::UNAUTHORIZED), (keyless, StatusCode::BAD_REQUEST)] {
        assert_eq!(handle(&world, &site(), request).await.status, status);
    }
    assert_eq!(called(&world), BTreeMap::new());
}

#[tokio::test]
async fn a_session_that_is_over_or_revoked_sends_nothing_though_its_keys_are_warm() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    sent(&world, &customer, "a").await;
    world.end_session(customer.account, customer.session.id).await.unwrap();
    assert_eq!(sent(&world, &customer, "b").await.status, StatusCode::UNAUTHORIZED);
    let idle = Customer::new(&world).await;
    world.advance(telbuddy::session::IDLE_LIFE);
    assert_eq!(sent(&world, &idle, "a").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(world.jobs().len(), 1);
}

#[tokio::test]
async fn reading_costs_two_reads_and_shows_no_other_accounts_message() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let message = customer.message(&world).await;
    for (path, read) in
        [("/v1/messages".to_owned(), "list_messages"), (format!("/v1/messages/{}", message.id), "load_message")]
    {
        world.forget_calls();
        let reply = handle(&world, &site(), customer.request(&world, Method::GET, &path, "")).await;
        assert!(reply.body.contains(&message.id.to_string()), "{}", reply.body);
        assert_eq!(called(&world), [("load_session", 1), (read, 1)].into_iter().collect());
        let reply = handle(&world, &site(), other.request(&world, Method::GET, &path, "")).await;
        assert!(!reply.body.contains(&message.own), "{}", reply.body);
    }
}

#[tokio::test]
async fn a_page_that_ends_exactly_at_the_last_message_has_no_next() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for _ in 0..4 {
        customer.message(&world).await;
    }
    let mut path = "/v1/messages?limit=2".to_owned();
    for more in [true, false] {
        let reply = handle(&world, &site(), customer.request(&world, Method::GET, &path, "")).await;
        let page: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!((page["data"].as_array().unwrap().len(), page["next_cursor"].is_string()), (2, more));
        path = format!("/v1/messages?limit=2&cursor={}", page["next_cursor"].as_str().unwrap_or_default());
    }
}

#[tokio::test]
async fn what_twilio_refused_is_shown_with_who_is_at_fault_and_what_to_do() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let shown = async |code| {
        let message = customer.message(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        let outcome = Outcome::Rejected { code };
        world.record_outcome(&claimed, &outcome, world.now()).await.unwrap();
        let path = format!("/v1/messages/{}", message.id);
        let reply = handle(&world, &site(), customer.request(&world, Method::GET, &path, "")).await;
        serde_json::from_str::<serde_json::Value>(&reply.body).unwrap()
    };
    let known = shown(Some(21610)).await;
    assert_eq!(known["error_code"], 21610);
    assert_eq!((&known["error"]["code"], &known["error"]["fault"]), (&21610.into(), &"recipient".into()));
    assert_eq!(known["error"]["advice"], advice::advice(21610).advice);
    assert_eq!(shown(Some(39_999)).await["error"]["fault"], "unknown");
    assert_eq!(shown(None).await["error"], serde_json::Value::Null);
}
