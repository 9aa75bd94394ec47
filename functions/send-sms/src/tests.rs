//! Accepting: once for each key, whole or not at all, and for the calls that it claims.

use std::collections::{BTreeMap, BTreeSet};

use http::{Method, header};
use jiff::SignedDuration;
use serde_json::{Value, json};
use telbuddy::account::Stop;
use telbuddy::api_key::{ApiKey, CheckApiKey, KEY_PREFIX, KeepApiKeys};
use telbuddy::credential::data_key;
use telbuddy::fault::Fault;
use telbuddy::ids::TemplateId;
use telbuddy::ledger::MicroCredits;
use telbuddy::message::{Message, Payload, Status, VALIDITY};
use telbuddy::platform::Clock;
use telbuddy::rotation::{KeysChange, ReplaceKeys};
use telbuddy::seal::Purpose;
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::session::TOUCH_EVERY;
use telbuddy::template::{Content, Created, KeepTemplates, Name, ReadTemplates, Template, Text, Updated};
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
    world.stop(customer.account, fresh::FROZEN);
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
        world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(1).plus());
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

/// A request of the customer's own making.
fn posting(world: &World, customer: &Customer, key: &str, body: &Value) -> Request {
    let request = customer.request(world, Method::POST, "/v1/messages", &body.to_string());
    with_header(request, header::HeaderName::from_static("idempotency-key"), key)
}

fn to_many(recipients: &[String]) -> Value {
    json!({ "to": recipients, "from": fresh::OWN, "body": BODY })
}

fn numbers(n: usize) -> Vec<String> {
    (0..n).map(|at| format!("+1415555{at:04}")).collect()
}

fn body_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

/// Gives a customer means for many messages.
fn enrich(world: &World, customer: &Customer) {
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(10_000).plus());
    world.change_gate(customer.account, |gate| gate.daily_ceiling = 10_000);
}

#[tokio::test]
async fn an_array_gives_a_result_for_each_recipient() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(2).plus());
    let recipients = [TO, "nonsense", "(415) 555-2671", "+442071838750", "+14155552672", "+14155552673"];
    let ask = to_many(&recipients.map(str::to_owned));
    let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
    let answer = body_of(&reply);
    let row = |at: usize| answer["data"][at]["error"]["code"].as_str().or(answer["data"][at]["status"].as_str());
    let rows: Vec<_> = (0..6).map(|at| row(at).unwrap()).collect();
    let expected = ["accepted", "not_a_number", "repeated", "country_not_allowed", "accepted", "not_enough_credit"];
    assert_eq!(rows, expected);
    let messages: BTreeSet<_> = world.messages_of(customer.account).iter().map(|m| m.id.to_string()).collect();
    let told: BTreeSet<_> = [0, 4].map(|at| answer["data"][at]["id"].as_str().unwrap().to_owned()).into();
    assert_eq!((messages, reserved(&world, &customer), world.jobs().len()), (told, 2, 2));
    let again = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!((&again.body, &again.headers["idempotent-replayed"]), (&reply.body, &"true".parse().unwrap()));
    let other = handle(&world, &site(), posting(&world, &customer, "a", &to_many(&numbers(2)))).await;
    assert_eq!((other.status, world.jobs().len()), (StatusCode::UNPROCESSABLE_ENTITY, 2));
}

#[tokio::test]
async fn many_cost_one_transaction_and_one_call_of_hints_for_each_chunk() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    let reply = handle(&world, &site(), posting(&world, &customer, "a", &to_many(&numbers(1_000)))).await;
    assert_eq!(body_of(&reply)["data"].as_array().unwrap().len(), 1_000);
    let calls = [("load_sender", 1), ("open_key", 2), ("begin_batch", 1), ("record_chunk", 12), ("enqueue_all", 12)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!((world.messages_of(customer.account).len(), reserved(&world, &customer)), (1_000, 1_000));
    assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear("415555"));
}

/// A crash at every point, then the same key: each recipient gets one message, and one hold for each.
#[tokio::test]
async fn a_crash_anywhere_in_a_batch_is_gone_on_with_by_the_same_key() {
    let ask = to_many(&numbers(200));
    for polls in 0..40 {
        let world = World::new(u64::try_from(polls).unwrap());
        let customer = Customer::new(&world).await;
        enrich(&world, &customer);
        crash_after(polls, handle(&world, &site(), posting(&world, &customer, "a", &ask)));
        let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{polls}: {}", reply.body);
        let hashes: BTreeSet<_> = world.messages_of(customer.account).into_iter().map(|m| m.other_hash).collect();
        assert_eq!((world.messages_of(customer.account).len(), hashes.len()), (200, 200), "{polls}");
        assert_eq!(reserved(&world, &customer), 200, "{polls}");
        assert_eq!(body_of(&reply)["data"].as_array().unwrap().len(), 200);
    }
}

#[tokio::test]
async fn one_key_for_many_twice_at_the_same_time_is_one_batch_with_one_answer() {
    let ask = to_many(&numbers(200));
    for seed in 0..10 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        enrich(&world, &customer);
        let (first, second) = (posting(&world, &customer, "a", &ask), posting(&world, &customer, "a", &ask));
        let site = site();
        let (one, two) = tokio::join!(handle(&world, &site, first), handle(&world, &site, second));
        assert_eq!((one.status, &one.body), (two.status, &two.body), "seed {seed}");
        assert_eq!((world.messages_of(customer.account).len(), reserved(&world, &customer)), (200, 200));
    }
}

#[tokio::test]
async fn credit_that_is_used_up_meanwhile_refuses_the_last_rows_and_no_more() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(100).plus());
    let ask = to_many(&numbers(120));
    let (first, second) = (posting(&world, &customer, "a", &ask), posting(&world, &customer, "b", &ask));
    let site = site();
    let (one, two) = tokio::join!(handle(&world, &site, first), handle(&world, &site, second));
    assert_eq!((one.status, two.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    let refused = |reply: &Reply| reply.body.matches("not_enough_credit").count();
    assert_eq!(refused(&one) + refused(&two), 140);
    assert_eq!((world.messages_of(customer.account).len(), reserved(&world, &customer)), (100, 100));
}

#[tokio::test]
async fn what_is_cut_off_is_not_gone_on_with_while_sending_is_stopped() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    let ask = to_many(&numbers(200));
    world.lose_answer("record_chunk", Fault::transient("reset"));
    let cut = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!((cut.status, world.messages_of(customer.account).len()), (StatusCode::SERVICE_UNAVAILABLE, 90));
    world.stop(customer.account, Stop::Frozen(telbuddy::account::FreezeReason::Velocity));
    let stopped = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!((stopped.status, world.messages_of(customer.account).len()), (StatusCode::FORBIDDEN, 90));
    world.change_gate(customer.account, |gate| gate.frozen = None);
    let done = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!((done.status, world.messages_of(customer.account).len()), (StatusCode::ACCEPTED, 200));
}

#[tokio::test]
async fn what_is_to_go_later_waits_with_its_hold() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (wait, hint) in [(600, Some(601)), (7_200, None)] {
        world.advance(SignedDuration::from_secs(1));
        let at = world.now() + SignedDuration::from_secs(wait);
        let ask =
            json!({ "to": TO, "from": fresh::OWN, "body": BODY, "send_at": at.to_string(), "validity_seconds": 60 });
        let key = format!("wait-{wait}");
        let reply = handle(&world, &site(), posting(&world, &customer, &key, &ask)).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
        let answer = body_of(&reply);
        assert_eq!((&answer["status"], &answer["held_by"]), (&json!("held"), &json!("send_at")));
        assert_eq!(answer["held_until"], json!(at));
        let message = world.messages_of(customer.account).remove(0);
        assert_eq!((message.status, message.held_until), (Status::Held, Some(at)));
        assert_eq!(message.valid_until, at + SignedDuration::from_secs(60));
        assert_eq!(world.queued().last().map(|queued| queued.delay_secs), hint.or(Some(601)));
    }
    assert_eq!((world.jobs().len(), reserved(&world, &customer)), (1, 2));
    // Within the hour it is sent only if it is not taken back.
    world.advance(SignedDuration::from_secs(1));
    let now = json!({ "to": TO, "from": fresh::OWN, "body": BODY });
    handle(&world, &site(), posting(&world, &customer, "now", &now)).await;
    let message = world.messages_of(customer.account).remove(0);
    assert_eq!((message.valid_until, message.held_until), (world.now() + VALIDITY, None));
}

/// Twenty minutes later the time is past: for one recipient, and for many that were cut off half way.
#[tokio::test]
async fn a_repetition_after_the_time_has_come_gets_the_same_answer() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    let at = world.now() + SignedDuration::from_secs(600);
    let one = json!({ "to": TO, "from": fresh::OWN, "body": BODY, "send_at": at.to_string() });
    let mut many = to_many(&numbers(200));
    many["send_at"] = at.to_string().into();
    let first = handle(&world, &site(), posting(&world, &customer, "one", &one)).await;
    world.lose_answer("record_chunk", Fault::transient("reset"));
    let cut = handle(&world, &site(), posting(&world, &customer, "many", &many)).await;
    assert_eq!((first.status, cut.status), (StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE));
    world.advance(SignedDuration::from_secs(1_200));
    let again = handle(&world, &site(), posting(&world, &customer, "one", &one)).await;
    assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &first.body));
    let done = handle(&world, &site(), posting(&world, &customer, "many", &many)).await;
    assert_eq!((done.status, world.messages_of(customer.account).len()), (StatusCode::ACCEPTED, 201));
    let other = handle(&world, &site(), posting(&world, &customer, "new", &one)).await;
    assert_eq!(body_of(&other)["errors"][0]["field"], "send_at");
}

#[tokio::test]
async fn times_and_counts_that_do_not_fit_are_named() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let base = json!({ "to": TO, "from": fresh::OWN, "body": BODY });
    let cases = [
        ("send_at", json!("tomorrow")),
        ("send_at", json!("2026-11-24T05:59:59Z")),
        ("send_at", json!("2026-12-30T00:00:00Z")),
        ("validity_seconds", json!(59)),
        ("validity_seconds", json!(36_001)),
        ("to", json!([])),
        ("to", json!(numbers(1_001))),
        ("to", json!(7)),
        ("to[0]", json!([7])),
    ];
    for (field, value) in cases {
        let mut ask = base.clone();
        ask[field.trim_end_matches("[0]")] = value.clone();
        let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        let named = body_of(&reply)["errors"][0]["field"].clone();
        assert_eq!((reply.status.as_u16(), named), (422, json!(field)), "{value}: {}", reply.body);
    }
    assert_eq!(world.messages_of(customer.account).len(), 0);
}

#[tokio::test]
async fn taking_back_costs_one_read_one_write_and_a_hint_and_is_told_when_it_is_too_late() {
    let world = World::new(1);
    let (customer, stranger) = (Customer::new(&world).await, Customer::new(&world).await);
    let message = customer.message(&world).await;
    let path = format!("/v1/messages/{}", message.id);
    let foreign = handle(&world, &site(), stranger.request(&world, Method::DELETE, &path, "")).await;
    assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    world.forget_calls();
    let remove = || customer.request(&world, Method::DELETE, &path, "");
    let reply = handle(&world, &site(), remove()).await;
    assert_eq!((reply.status, &body_of(&reply)["status"]), (StatusCode::OK, &json!("canceled")));
    let calls = [("load_session", 1), ("cancel_message", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(world.jobs(), [Job::Post { account: customer.account, message: message.id }]);
    assert_eq!(world.payload_of(customer.account, message.id), None);
    assert_eq!(handle(&world, &site(), remove()).await.status, StatusCode::OK);
    let sent = customer.message(&world).await;
    fresh::claimed(&world, &sent, world.now()).await;
    let path = format!("/v1/messages/{}", sent.id);
    let late = handle(&world, &site(), customer.request(&world, Method::DELETE, &path, "")).await;
    assert_eq!(
        (late.status, body_of(&late)["detail"].as_str().unwrap().contains("dispatching")),
        (StatusCode::CONFLICT, true)
    );
}

/// 06:00 UTC is 01:00 in New York and 22:00 in Los Angeles.
#[tokio::test]
async fn quiet_hours_are_those_of_each_recipient_and_a_repetition_tells_the_same() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let quiet = telbuddy::account::QuietHours { from: "23:00".parse().unwrap(), to: "09:00".parse().unwrap() };
    world.change_gate(customer.account, |gate| gate.quiet_hours = Some(quiet));
    let ask = to_many(&["+12125550123".to_owned(), "+14155550123".to_owned()]);
    let asking = || posting(&world, &customer, "a", &ask);
    let reply = handle(&world, &site(), asking()).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
    let rows = body_of(&reply)["data"].clone();
    assert_eq!((&rows[0]["status"], &rows[0]["held_by"]), (&json!("held"), &json!("quiet_hours")));
    assert_eq!(rows[0]["held_zone"], "America/New_York");
    assert_eq!(rows[0]["held_until"], "2026-11-24T14:00:00Z");
    assert_eq!((&rows[1]["status"], &rows[1]["held_until"]), (&json!("accepted"), &Value::Null));
    assert_eq!(world.jobs().len(), 1, "who waits for the morning is the sweeper's");
    world.change_gate(customer.account, |gate| gate.quiet_hours = None);
    assert_eq!(handle(&world, &site(), asking()).await.body, reply.body);
}

/// A template of the customer's.
async fn template(world: &World, customer: &Customer, body: &str) -> Template {
    let payload = data_key(world, customer.account, Purpose::Payload, None).await.unwrap();
    let name = Name::parse(fresh::word(world)).unwrap();
    let (id, now) = (TemplateId::new(world.now(), fresh::dice(world)), world.now());
    let content = Content { name, text: Text::parse(body.to_owned()).unwrap() };
    let sealed = content.seal(&payload, id, world.random().unwrap()).unwrap();
    let (account, name_hash) = (customer.account, fresh::word(world));
    let template = Template { id, account, revision: 1, name_hash, sealed, created: now, updated: now };
    assert_eq!(world.create_template(&template).await, Ok(Created::Stored));
    world.forget_keys();
    world.forget_calls();
    template
}

/// The template says something else from now on.
async fn rewritten(world: &World, read: &Template, body: &str) {
    let payload = data_key(world, read.account, Purpose::Payload, None).await.unwrap();
    let content = Content { name: Name::parse("new".to_owned()).unwrap(), text: Text::parse(body.to_owned()).unwrap() };
    let sealed = content.seal(&payload, read.id, world.random().unwrap()).unwrap();
    let new = Template { revision: read.revision + 1, sealed, ..read.clone() };
    assert_eq!(world.update_template(read, &new).await, Ok(Updated::Stored));
}

fn with_template(template: &Template, to: &Value, fields: &Value) -> Value {
    json!({ "to": to, "from": fresh::OWN, "template": { "id": template.id, "fields": fields } })
}

/// What waits to be sent, by number.
async fn waiting(world: &World, customer: &Customer) -> BTreeMap<String, String> {
    let key = data_key(world, customer.account, Purpose::Payload, None).await.unwrap();
    let messages = world.messages_of(customer.account).into_iter();
    let payload = |message: Message| {
        let sealed = world.payload_of(customer.account, message.id).unwrap();
        let payload = Payload::open(&sealed, &key, message.id).unwrap();
        (payload.to.clone(), payload.body.clone())
    };
    messages.map(payload).collect()
}

#[tokio::test]
async fn a_template_is_filled_in_by_the_calls_of_any_message_and_priced_by_what_it_says() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let stored = template(&world, &customer, "Hello {{name}}! {{name}}").await;
    let ask = with_template(&stored, &json!(TO), &json!({ "name": "ö".repeat(40) }));
    let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
    let calls = [("load_sender", 1), ("open_key", 2), ("record_message", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    let said = format!("Hello {0}! {0}", "ö".repeat(40));
    assert_eq!(body_of(&reply)["segments"], json!(telbuddy::message::segments::count(&said).segments));
    assert_eq!(waiting(&world, &customer).await, BTreeMap::from([(TO.to_owned(), said)]));
    assert!(!world.holds_in_clear("Hello") && !world.holds_in_clear("öö"));
}

#[tokio::test]
async fn a_repetition_gets_its_answer_whatever_became_of_the_template_and_other_fields_are_another_request() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (stored, other) = (template(&world, &customer, "{{a}}").await, template(&world, &customer, "{{a}}").await);
    let ask = with_template(&stored, &json!(TO), &json!({ "a": "x" }));
    let first = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    rewritten(&world, &stored, "{{another}}").await;
    for removed in [false, true] {
        if removed {
            let now = world.load_template(customer.account, stored.id).await.unwrap().unwrap();
            assert_eq!(world.remove_template(&now).await, Ok(true));
        }
        let again = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &first.body));
    }
    let mut body = ask.clone();
    body.as_object_mut().unwrap().remove("template");
    body["body"] = json!("x");
    for changed in [
        with_template(&stored, &json!(TO), &json!({ "a": "y" })),
        with_template(&stored, &json!(TO), &json!({ "a": "x", "b": "" })),
        with_template(&stored, &json!([TO]), &json!({ "a": "x" })),
        with_template(&other, &json!(TO), &json!({ "a": "x" })),
        body,
    ] {
        let reply = handle(&world, &site(), posting(&world, &customer, "a", &changed)).await;
        assert!(reply.body.contains("idempotency-key-reused"), "{changed}: {}", reply.body);
    }
    assert_eq!(world.messages_of(customer.account).len(), 1);
}

#[tokio::test]
async fn what_a_template_makes_no_message_of_is_named() {
    let world = World::new(1);
    let (customer, stranger) = (Customer::new(&world).await, Customer::new(&world).await);
    let stored = template(&world, &customer, "{{a}}{{b}}").await;
    let foreign = template(&world, &stranger, "x").await;
    let long = "x".repeat(1_600);
    let single = |fields| with_template(&stored, &json!(TO), &fields);
    for (ask, errors) in [
        (
            single(json!({ "b": "", "c": "" })),
            json!([["template.fields.a", "missing"], ["template.fields.c", "unknown"]]),
        ),
        (single(json!({})), json!([["template.fields.a", "missing"], ["template.fields.b", "missing"]])),
        (single(json!({ "a": long, "b": "x" })), json!([["template.fields", "too_long"]])),
        (single(json!({ "a": "", "b": "" })), json!([["template.fields", "empty"]])),
        (single(json!({ "a": 1, "b": "" })), json!([["template.fields.a", "type"]])),
        (single(json!({ "A": "" })), json!([["template.fields", "type"]])),
        (with_template(&foreign, &json!(TO), &json!({})), json!([["template.id", "not_found"]])),
        (with_template(&foreign, &json!([TO]), &json!({})), json!([["template.id", "not_found"]])),
        (json!({ "to": TO, "from": fresh::OWN, "template": { "id": "x" } }), json!([["template.id", "invalid"]])),
        (
            json!({ "to": TO, "from": fresh::OWN, "template": { "id": stored.id }, "body": "x" }),
            json!([["body", "one_of"]]),
        ),
        (
            json!({ "to": [TO, { "to": TO, "fields": { "a": "" } }], "from": fresh::OWN, "body": "x" }),
            json!([["to[1].fields", "no_template"]]),
        ),
        (with_template(&stored, &json!([{ "to": TO, "body": "x" }]), &json!({})), json!([["to[0].body", "unknown"]])),
        (with_template(&stored, &json!([{ "fields": {} }]), &json!({})), json!([["to[0].to", "missing"]])),
        (with_template(&stored, &json!([3]), &json!({})), json!([["to[0]", "type"]])),
    ] {
        let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        let named = body_of(&reply)["errors"]
            .as_array()
            .map(|errors| errors.iter().map(|error| json!([error["field"], error["code"]])).collect::<Vec<_>>());
        assert_eq!((reply.status.as_u16(), json!(named)), (422, errors), "{ask}: {}", reply.body);
    }
    assert_eq!((world.messages_of(customer.account).len(), reserved(&world, &customer)), (0, 0));
}

#[tokio::test]
async fn a_template_that_the_credit_does_not_cover_is_refused_with_the_figures() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let stored = template(&world, &customer, "{{a}}").await;
    let ask = |n| with_template(&stored, &json!(TO), &json!({ "a": "x".repeat(n) }));
    world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(1).plus());
    let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask(161))).await;
    assert_eq!(reply.status, StatusCode::PAYMENT_REQUIRED, "{}", reply.body);
    world.change_gate(customer.account, |gate| gate.connected = false);
    world.forget_keys();
    world.forget_calls();
    let reply = handle(&world, &site(), posting(&world, &customer, "b", &ask(160))).await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    let calls = [("load_sender", 1), ("open_key", 1)];
    assert_eq!(called(&world), calls.into_iter().collect(), "nothing of the template is opened");
    world.change_gate(customer.account, |gate| gate.connected = true);
    let reply = handle(&world, &site(), posting(&world, &customer, "b", &ask(160))).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
}

/// Rows as texts and as objects; own fields before those for all.
#[tokio::test]
async fn each_recipient_may_have_fields_of_its_own_and_what_does_not_fit_is_that_rows_error() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    let stored = template(&world, &customer, "Hello {{name}}, at {{time}}").await;
    let long = "x".repeat(1_600);
    let to = json!([
        "+14155550001",
        { "to": "+14155550002", "fields": { "name": "Bob" } },
        { "to": "+14155550003", "fields": { "name": "Cleo", "time": "x".repeat(200) } },
        { "to": "+14155550004", "fields": { "nick": "D" } },
        { "to": "+14155550005", "fields": { "time": long } },
        { "to": "+14155550002", "fields": { "name": "Bob again" } },
        { "to": "nobody", "fields": { "nick": "D" } },
    ]);
    let ask = with_template(&stored, &to, &json!({ "name": "all", "time": "nine" }));
    let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
    let rows = body_of(&reply)["data"].clone();
    let codes: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["error"]["code"].clone()).collect();
    let none = Value::Null;
    let expected = [
        &none,
        &none,
        &none,
        &json!("template_fields"),
        &json!("too_long"),
        &json!("repeated"),
        &json!("not_a_number"),
    ];
    assert_eq!(codes.iter().collect::<Vec<_>>(), expected);
    let segments: Vec<_> = (0..3).map(|at| rows[at]["segments"].clone()).collect();
    assert_eq!((segments, reserved(&world, &customer)), (vec![json!(1), json!(1), json!(2)], 4));
    assert_eq!(rows[3]["error"]["unknown_fields"], json!(["nick"]));
    assert!(rows[3]["error"].get("missing_fields").is_none());
    let said = [
        ("1", "Hello all, at nine"),
        ("2", "Hello Bob, at nine"),
        ("3", &format!("Hello Cleo, at {}", "x".repeat(200))),
    ];
    let said = said.map(|(n, text)| (format!("+1415555000{n}"), text.to_owned()));
    assert_eq!(waiting(&world, &customer).await, BTreeMap::from(said));
    let missing = with_template(
        &stored,
        &json!(["+14155550001", { "to": "+14155550002", "fields": { "name": "B" } }]),
        &json!({}),
    );
    let reply = handle(&world, &site(), posting(&world, &customer, "b", &missing)).await;
    let missing = |at: usize| body_of(&reply)["data"][at]["error"]["missing_fields"].clone();
    assert_eq!((missing(0), missing(1)), (json!(["name", "time"]), json!(["time"])));
    let again = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!(body_of(&again)["data"], rows);
}

/// A crash at every point, then the template changes or goes, then the same key: one text, that of the beginning, and
/// the same answer each time.
#[tokio::test]
async fn a_batch_that_is_gone_on_with_says_what_it_began_to_say() {
    let rows: Vec<_> = numbers(200).iter().map(|to| json!({ "to": to, "fields": { "n": &to[2..] } })).collect();
    let mut texts = BTreeSet::new();
    for polls in 0..60 {
        let world = World::new(u64::try_from(polls).unwrap());
        let customer = Customer::new(&world).await;
        enrich(&world, &customer);
        let stored = template(&world, &customer, "one {{n}}").await;
        let ask = with_template(&stored, &json!(rows), &json!({}));
        crash_after(polls, handle(&world, &site(), posting(&world, &customer, "a", &ask)));
        rewritten(&world, &stored, &format!("two {{{{n}}}} {}", "x".repeat(160))).await;
        let reply = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{polls}: {}", reply.body);
        let now = world.load_template(customer.account, stored.id).await.unwrap().unwrap();
        assert_eq!(world.remove_template(&now).await, Ok(true));
        let again = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
        assert_eq!(again.body, reply.body, "{polls}");
        let said = waiting(&world, &customer).await;
        let beginnings: BTreeSet<_> = said.values().map(|text| text[..3].to_owned()).collect();
        assert_eq!((said.len(), beginnings.len()), (200, 1), "{polls}");
        for (to, text) in &said {
            assert!(text[4..].starts_with(&to[2..]), "{text}");
        }
        let each = if beginnings.contains("one") { 1 } else { 2 };
        assert_eq!((reserved(&world, &customer), &body_of(&reply)["data"][7]["segments"]), (200 * each, &json!(each)));
        assert!(!world.holds_in_clear("one 4") && !world.holds_in_clear("two 4"));
        texts.extend(beginnings);
    }
    assert_eq!(texts.len(), 2, "some began before the change, and some did not");
}

/// Two requests with one key at the same time, between which the template changes.
#[tokio::test]
async fn one_key_twice_around_a_change_of_the_template_is_one_batch_with_one_text() {
    let mut texts = BTreeSet::new();
    for seed in 0..30 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        enrich(&world, &customer);
        let stored = template(&world, &customer, "one").await;
        let ask = with_template(&stored, &json!(numbers(100)), &json!({}));
        let (first, second) = (posting(&world, &customer, "a", &ask), posting(&world, &customer, "a", &ask));
        let site = site();
        let (one, (), two) = tokio::join!(
            handle(&world, &site, first),
            rewritten(&world, &stored, "two"),
            handle(&world, &site, second)
        );
        assert_eq!((one.status, &one.body), (StatusCode::ACCEPTED, &two.body), "seed {seed}: {}", one.body);
        let said: BTreeSet<_> = waiting(&world, &customer).await.into_values().collect();
        assert_eq!((said.len(), world.messages_of(customer.account).len()), (1, 100));
        texts.extend(said);
    }
    assert_eq!(texts.len(), 2);
}

/// A template under a key that was replaced, a batch that began under it, and an environment that remembers nothing.
#[tokio::test]
async fn templates_and_batches_open_over_a_new_key() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    enrich(&world, &customer);
    let stored = template(&world, &customer, "Hello {{name}}").await;
    let fields = json!({ "name": "Ann" });
    let ask = with_template(&stored, &json!(numbers(200)), &fields);
    world.lose_answer("record_chunk", Fault::transient("reset"));
    let cut = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!(cut.status, StatusCode::SERVICE_UNAVAILABLE);
    let read = world.load_keys(customer.account, Purpose::Payload).await.unwrap().unwrap();
    let new = fresh::minted(&world, customer.account, Purpose::Payload, 2).await.1.versions.remove(0);
    let change = KeysChange { new: read.with_new(new, None), read };
    assert_eq!(world.replace_keys(&change).await, Ok(true));
    world.forget_keys();
    let done = handle(&world, &site(), posting(&world, &customer, "a", &ask)).await;
    assert_eq!((done.status, world.messages_of(customer.account).len()), (StatusCode::ACCEPTED, 200), "{}", done.body);
    world.forget_keys();
    world.forget_calls();
    let single = with_template(&stored, &json!(TO), &fields);
    let reply = handle(&world, &site(), posting(&world, &customer, "b", &single)).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.body);
    let calls = [("load_sender", 1), ("open_key", 3), ("load_keys", 1), ("record_message", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect(), "one more read and opening for the old version");
}

mod deciding {
    //! What could not be confirmed: of all that comes at once one thing counts, and nothing is sent by itself.

    use telbuddy::ledger::PostOutcome;
    use telbuddy::message::{
        ClaimMessage, DECIDE_WITHIN, Fence, Outcome, Payload, RecordOutcome, Report, apply_report, unconfirmed,
    };
    use telbuddy::testing::setup::row;

    use super::*;

    /// A message that was given up; `posted`: its hold is given back already.
    async fn given_up(world: &World, customer: &Customer, posted: bool) -> Message {
        let message = customer.message(world).await;
        let claim = fresh::claimed(world, &message, world.now()).await;
        world.record_outcome(&claim, &Outcome::Unknown, world.now()).await.unwrap();
        let over = unconfirmed(&row(world, &message), world.now());
        assert_eq!(world.record_listing(&over, world.now()).await, Ok(true));
        if posted {
            assert_eq!(world.post_release(&over, world.now(), &[], None).await, Ok(true));
        }
        world.forget_calls();
        row(world, &message)
    }

    fn decision(world: &World, customer: &Customer, message: &Message, what: &str, key: &str) -> Request {
        let path = format!("/v1/messages/{}/decision", message.id);
        let request = customer.request(world, Method::POST, &path, &json!({ "decision": what }).to_string());
        with_header(request, header::HeaderName::from_static("idempotency-key"), key)
    }

    async fn decide(world: &World, customer: &Customer, message: &Message, what: &str, key: &str) -> (u16, Value) {
        let reply = handle(world, &site(), decision(world, customer, message, what, key)).await;
        (reply.status.as_u16(), serde_json::from_str(&reply.body).unwrap())
    }

    fn other(world: &World, message: &Message) -> Option<Message> {
        world.messages_of(message.account).into_iter().find(|row| row.id != message.id)
    }

    fn has_payload(world: &World, message: &Message) -> bool {
        world.payload_of(message.account, message.id).is_some()
    }

    #[tokio::test]
    async fn the_view_says_what_to_do_and_until_when() {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let message = given_up(&world, &customer, true).await;
        let view = serde_json::to_value(MessageView::from(message)).unwrap();
        assert_eq!((&view["status"], &view["credits_micro"]), (&json!("unconfirmed"), &json!(0)));
        assert_eq!(view["decision"]["until"], json!(world.now() + DECIDE_WITHIN));
        assert!(view["decision"]["advice"].as_str().unwrap().contains("/decision"));
    }

    #[tokio::test]
    async fn sending_again_is_a_new_message_with_the_same_text_and_the_old_one_names_it() {
        for posted in [true, false] {
            let world = World::new(1);
            let customer = Customer::new(&world).await;
            let message = given_up(&world, &customer, posted).await;
            let (status, answer) = decide(&world, &customer, &message, "resend", "k").await;
            let calls = [("load_sender", 1), ("load_with_payload", 1), ("record_resend", 1)];
            let mut calls = BTreeMap::from(calls);
            calls.insert("enqueue", if posted { 1 } else { 2 });
            let costs = called(&world).into_iter().filter(|(method, _)| *method != "open_key").collect();
            assert_eq!((calls, world.openings().len()), (costs, 2));
            let new = other(&world, &message).unwrap();
            assert_eq!((status, &answer["id"], &answer["status"]), (202, &json!(new.id), &json!("accepted")));
            let old = row(&world, &message);
            assert_eq!((old.status, old.settling.unwrap().resent_as), (Status::Dropped, Some(new.id)));
            assert!(!has_payload(&world, &old));
            assert_eq!((new.own.as_str(), &new.other_hash.is_empty()), (fresh::OWN, &false));
            let claim = world.claim_message(new.account, new.id, Fence(1), world.now()).await.unwrap();
            let telbuddy::message::Claim::Mine(claim) = claim else { panic!("{claim:?}") };
            let keys = telbuddy::credential::LoadKeys::load_keys(&world, new.account, Purpose::Payload).await;
            let key = world.open_key(&keys.unwrap().unwrap(), None).await.unwrap();
            let payload = Payload::open(&claim.payload, &key, new.id).unwrap();
            assert_eq!((payload.to.as_str(), payload.body.as_str()), (TO, BODY));
            assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear(&TO[1..]));
        }
    }

    #[tokio::test]
    async fn the_same_key_gives_the_same_answer_and_is_not_another_requests() {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let message = given_up(&world, &customer, true).await;
        let first = decide(&world, &customer, &message, "resend", "k").await;
        assert_eq!(decide(&world, &customer, &message, "resend", "k").await, first);
        let (status, problem) = decide(&world, &customer, &message, "resend", "another").await;
        assert_eq!((status, &problem["title"]), (409, &json!("There is nothing to decide")));
        assert!(problem["detail"].as_str().unwrap().contains(first.1["id"].as_str().unwrap()), "{problem}");
        let second = given_up(&world, &customer, true).await;
        assert_eq!(decide(&world, &customer, &second, "resend", "k").await.0, 422);
        assert_eq!(sent(&world, &customer, "k").await.status, StatusCode::UNPROCESSABLE_ENTITY);
        let mut keyless = decision(&world, &customer, &second, "resend", "k");
        keyless.headers.remove("idempotency-key");
        assert_eq!(handle(&world, &site(), keyless).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(row(&world, &second).status, Status::Unconfirmed);
    }

    #[tokio::test]
    async fn an_api_key_decides_with_the_scope_to_send_and_about_its_own_accounts_messages_only() {
        let world = World::new(1);
        let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
        let message = given_up(&world, &customer, true).await;
        let (_, reads) = customer.api_key(&world, &[Scope::MessagesRead]).await;
        let (_, strange) = other.api_key(&world, &Scope::ALL).await;
        let (_, sends) = customer.api_key(&world, &[Scope::MessagesSend]).await;
        for (bearer, expected) in [(&reads, StatusCode::FORBIDDEN), (&strange, StatusCode::NOT_FOUND)] {
            for what in ["resend", "drop"] {
                let request = by_key(decision(&world, &customer, &message, what, "k"), bearer);
                assert_eq!(handle(&world, &site(), request).await.status, expected, "{what}");
            }
        }
        // What does not fit is told to those who are let in.
        for (bearer, expected) in [(&reads, StatusCode::FORBIDDEN), (&sends, StatusCode::UNPROCESSABLE_ENTITY)] {
            let request = by_key(decision(&world, &customer, &message, "both", "k"), bearer);
            assert_eq!(handle(&world, &site(), request).await.status, expected);
        }
        assert_eq!(row(&world, &message).status, Status::Unconfirmed);
        let resend = by_key(decision(&world, &customer, &message, "resend", "k"), &sends);
        assert_eq!(handle(&world, &site(), resend).await.status, StatusCode::ACCEPTED);
        assert_eq!(row(&world, &message).status, Status::Dropped);
    }

    #[tokio::test]
    async fn dropping_removes_what_it_said_and_may_be_repeated() {
        for posted in [true, false] {
            let world = World::new(1);
            let customer = Customer::new(&world).await;
            let message = given_up(&world, &customer, posted).await;
            let (status, view) = decide(&world, &customer, &message, "drop", "").await;
            assert_eq!((status, &view["status"], &view["decision"]), (200, &json!("dropped"), &Value::Null));
            let calls = [("load_session", 1), ("load_message", 1), ("update_message", 1)];
            let mut calls = BTreeMap::from(calls);
            calls.extend((!posted).then_some(("enqueue", 1)));
            assert_eq!((called(&world), has_payload(&world, &message)), (calls, false));
            assert_eq!(due_later(&world).await.is_empty(), posted, "a hold that is not given back is looked after");
            assert_eq!(decide(&world, &customer, &message, "drop", "").await, (status, view));
            assert_eq!(decide(&world, &customer, &message, "resend", "k").await.0, 409);
            assert_eq!(other(&world, &message), None);
        }
    }

    #[tokio::test]
    async fn only_what_is_unconfirmed_and_still_there_is_decided_about() {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let accepted = customer.message(&world).await;
        let message = given_up(&world, &customer, true).await;
        let stranger = Customer::new(&world).await;
        let late = unconfirmed(&given_up(&world, &customer, true).await, world.now() - DECIDE_WITHIN);
        assert_eq!(world.record_listing(&late, world.now()).await, Ok(true));
        for what in ["resend", "drop"] {
            assert_eq!(decide(&world, &customer, &accepted, what, "a").await.0, 409, "{what}");
            assert_eq!(decide(&world, &customer, &late, what, "b").await.0, 409, "{what}: too late");
        }
        assert_eq!(decide(&world, &customer, &message, "perhaps", "c").await.0, 422);
        assert_eq!(decide(&world, &stranger, &message, "drop", "d").await.0, 404);
        assert_eq!(decide(&world, &stranger, &message, "resend", "d").await.0, 404);
        assert_eq!(row(&world, &message), message);
    }

    #[tokio::test]
    async fn the_rules_of_now_count_and_what_they_refuse_can_still_be_decided() {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let message = given_up(&world, &customer, true).await;
        world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits(0).plus());
        assert_eq!(decide(&world, &customer, &message, "resend", "k").await.0, 402);
        world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(1).plus());
        world.stop(customer.account, Stop::CredentialRefused);
        assert_eq!(decide(&world, &customer, &message, "resend", "k").await.0, 403);
        assert_eq!((row(&world, &message), has_payload(&world, &message)), (message.clone(), true));
        world.change_gate(customer.account, |gate| gate.credential_refused = false);
        assert_eq!(decide(&world, &customer, &message, "resend", "k").await.0, 202);
    }

    /// Two people, or a callback, at the same time: one outcome, and one message more at most.
    #[tokio::test]
    async fn of_decisions_and_a_callback_at_once_exactly_one_counts() {
        for seed in 0..60 {
            let world = World::new(seed);
            let customer = Customer::new(&world).await;
            let message = given_up(&world, &customer, seed % 2 == 0).await;
            let telling = async {
                if seed % 3 > 0 {
                    return false;
                }
                let report = Report { sid: "SM1".to_owned(), status: Status::Delivered, error_code: None };
                let told = apply_report(&row(&world, &message), &report, world.now());
                let Some(told) = told else { return false };
                world.update_message(&told, None).await.unwrap()
            };
            let (one, two, three, told) = tokio::join!(
                decide(&world, &customer, &message, "resend", "a"),
                decide(&world, &customer, &message, "resend", "b"),
                decide(&world, &customer, &message, "drop", ""),
                telling
            );
            let n_resent = [one.0, two.0].iter().filter(|status| **status == 202).count();
            let n_won = n_resent + usize::from(three.0 == 200) + usize::from(told);
            assert_eq!(n_won, 1, "seed {seed}: {} {} {} {told}", one.0, two.0, three.0);
            assert_eq!(world.messages_of(customer.account).len(), 1 + n_resent, "seed {seed}");
            let old = row(&world, &message);
            assert_eq!(old.status == Status::Delivered, told, "seed {seed}");
            assert_eq!(old.settling.unwrap().resent_as.is_some(), n_resent == 1, "seed {seed}");
        }
    }

    /// The poster gives the hold back while a person decides: that is no reason to refuse the decision.
    #[tokio::test]
    async fn a_hold_that_is_given_back_meanwhile_stops_no_decision() {
        for seed in 0..30 {
            let world = World::new(seed);
            let customer = Customer::new(&world).await;
            let message = given_up(&world, &customer, false).await;
            let posting = world.post_release(&message, world.now(), &[], None);
            let (decided, _) = tokio::join!(decide(&world, &customer, &message, "resend", "k"), posting);
            assert_eq!((decided.0, world.messages_of(customer.account).len()), (202, 2), "seed {seed}");
            let old = row(&world, &message);
            if !old.settled {
                assert_eq!(world.post_release(&old, world.now(), &[], None).await, Ok(true));
            }
            assert_eq!(reserved(&world, &customer), 1, "seed {seed}");
        }
    }

    #[tokio::test]
    async fn a_crash_at_any_point_and_the_same_key_again_send_one_message_more() {
        for polls in 0..30 {
            let world = World::new(u64::try_from(polls).unwrap());
            let customer = Customer::new(&world).await;
            let message = given_up(&world, &customer, true).await;
            crash_after(polls, decide(&world, &customer, &message, "resend", "k"));
            let between = row(&world, &message).status == Status::Unconfirmed;
            assert_eq!((between, between), (has_payload(&world, &message), other(&world, &message).is_none()));
            assert_eq!(decide(&world, &customer, &message, "resend", "k").await.0, 202, "{polls} polls");
            assert_eq!((world.messages_of(customer.account).len(), reserved(&world, &customer)), (2, 1));
        }
    }
}
