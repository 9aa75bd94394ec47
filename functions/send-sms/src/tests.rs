//! Accepting: once for each key, whole or not at all, and for the calls that it claims.

use std::collections::BTreeMap;

use http::Method;
use telbuddy::account::Stop;
use telbuddy::api_key::{ApiKey, CheckApiKey, KEY_PREFIX, KeepApiKeys};
use telbuddy::platform::Clock;
use telbuddy::secret::{ExposeSecret, Token};
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

/// The same with an API key in place of the cookie.
fn by_key(mut request: Request, bearer: &str) -> Request {
    request.headers.remove(header::COOKIE);
    with_header(request, header::AUTHORIZATION, bearer)
}

#[tokio::test]
async fn an_api_key_sends_by_the_same_calls_as_a_session() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (key, bearer) = customer.api_key(&world, &[Scope::MessagesSend]).await;
    let each = BTreeMap::from([("load_sender", 1), ("record_message", 1), ("enqueue", 1)]);
    let with = |more: &[(&'static str, u32)]| each.clone().into_iter().chain(more.iter().copied()).collect();
    let plan: [(&str, i64, BTreeMap<_, _>); 3] = [
        ("a", 0, with(&[("open_key", 2), ("touch_api_key", 1)])),
        ("b", 59, with(&[])),
        ("c", 1, with(&[("touch_api_key", 1)])),
    ];
    for (idempotency, later, calls) in plan {
        world.advance(fresh::secs(later));
        world.forget_calls();
        let reply = handle(&world, &site(), by_key(asking(&world, &customer, idempotency, BODY), &bearer)).await;
        assert_eq!((reply.status, called(&world)), (StatusCode::ACCEPTED, calls), "{idempotency}");
    }
    let used = world.load_api_key(customer.account, &key.hash).await.unwrap().unwrap().used;
    assert_eq!(used, Some(world.now()));
    assert!(!world.holds_in_clear(&bearer[40..]), "the key is in a table");
}

#[tokio::test]
async fn a_key_without_the_scope_sends_nothing_and_learns_no_earlier_answer() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    sent(&world, &customer, "a").await;
    let (_, bearer) = customer.api_key(&world, &[Scope::MessagesRead]).await;
    for idempotency in ["a", "b"] {
        world.forget_calls();
        let reply = handle(&world, &site(), by_key(asking(&world, &customer, idempotency, BODY), &bearer)).await;
        assert_eq!((reply.status, called(&world)), (StatusCode::FORBIDDEN, [("load_sender", 1)].into_iter().collect()));
        assert!(reply.body.contains("scope-missing") && reply.body.contains("messages:send"), "{}", reply.body);
    }
    let list = by_key(customer.request(&world, Method::GET, "/v1/messages", ""), &bearer);
    assert_eq!(handle(&world, &site(), list).await.status, StatusCode::OK);
    assert_eq!(world.jobs().len(), 1);
}

#[tokio::test]
async fn unknown_expired_and_revoked_keys_get_the_same_answer_by_the_same_calls() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let (_, good) = customer.api_key(&world, &Scope::ALL).await;
    let (revoked, by_revoked) = customer.api_key(&world, &Scope::ALL).await;
    world.revoke_api_key(customer.account, revoked.id).await.unwrap();
    let token = Token::new(customer.account, world.random().unwrap());
    let expires = Some(world.now() + fresh::secs(60));
    let short = ApiKey { hash: token.hash(), expires, ..fresh::api_key(&world, customer.account) };
    assert_eq!(world.create_api_key(short).await, Ok(true));
    let by_expired = format!("Bearer {}", token.reveal(KEY_PREFIX).expose_secret());
    world.advance(fresh::secs(60));
    let unknown = Token::new(customer.account, world.random().unwrap());
    let by_unknown = format!("Bearer {}", unknown.reveal(KEY_PREFIX).expose_secret());
    // The random part of one account's key with another account in front.
    let start = "Bearer tb_live_".len();
    let strange = format!("{}{}{}", &good[..start], &other.account.to_string()["acct_".len()..], &good[start + 26..]);
    let mut answers = Vec::new();
    for bearer in [by_revoked, by_expired, by_unknown, strange] {
        world.forget_calls();
        let reply = handle(&world, &site(), by_key(asking(&world, &customer, "a", BODY), &bearer)).await;
        let id = reply.headers["x-request-id"].to_str().unwrap();
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        answers.push((reply.status, reply.body.replace(id, ""), called(&world)));
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert_eq!(answers[0].2, [("load_sender", 1)].into_iter().collect());
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    let reply = handle(&world, &site(), by_key(asking(&world, &customer, "a", BODY), &good)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_key_revoked_while_a_message_comes_in_sends_it_whole_or_not_at_all() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let (key, bearer) = customer.api_key(&world, &[Scope::MessagesSend]).await;
        let (site, request) = (site(), by_key(asking(&world, &customer, "a", BODY), &bearer));
        let (reply, revoked) =
            tokio::join!(handle(&world, &site, request), world.revoke_api_key(customer.account, key.id));
        assert_eq!(revoked, Ok(true));
        assert_eq!(world.load_api_key(customer.account, &key.hash).await, Ok(None), "no touch brings it back");
        let sent = world.jobs().len();
        assert_eq!(sent, usize::from(reply.status == StatusCode::ACCEPTED));
        assert_eq!((reserved(&world, &customer), world.messages_of(customer.account).len()), (sent as u64, sent));
        seen.insert((reply.status.as_u16(), world.calls().contains_key("touch_api_key")));
    }
    // It came first; it was gone when it was looked up; it was gone when its call was written down.
    assert_eq!(seen, [(202, true), (401, false), (401, true)].into_iter().collect());
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
