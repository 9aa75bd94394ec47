//! Who gets in, for how long, and what a guess costs us.

use http::{Method, header};
use telbuddy::account::{CreateAccount, Hashed, Password, SignedUp};
use telbuddy::api_key::Scope;
use telbuddy::fault::Fault;
use telbuddy::platform::Clock;
use telbuddy::session::{ABSOLUTE_LIFE, IDLE_LIFE, TOUCH_EVERY, TRIES_PER_PAIR, TRIES_PER_PEER, TRIES_WINDOW_SECS};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const ADDRESS: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery";

/// A user as sign-up leaves it.
async fn signed_up(world: &World, verified: bool) {
    let platform = world.platform().await.unwrap();
    let email = Email::parse(ADDRESS).unwrap();
    let password = Password::parse(PASSWORD.into(), &email).unwrap();
    let mut new = fresh::new_account(world, 100);
    new.owner.email = platform.email_index(&email);
    new.owner.password = platform.peppers.hash(&password, [7; 16]).unwrap();
    if verified {
        fresh::confirmed(world, new).await;
    } else {
        assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
    }
    world.forget_calls();
}

async fn log_in(world: &World, email: &str, password: &str) -> Reply {
    let body = serde_json::json!({ "email": email, "password": password }).to_string();
    handle(world, &site(), request(world, Method::POST, "/v1/sessions", &body)).await
}

async fn with_cookie(world: &World, method: Method, path: &str, cookie: &str) -> Reply {
    handle(world, &site(), with_header(request(world, method, path, ""), header::COOKIE, cookie)).await
}

async fn current(world: &World, cookie: &str) -> StatusCode {
    with_cookie(world, Method::GET, "/v1/sessions/current", cookie).await.status
}

#[tokio::test]
async fn a_log_in_costs_three_counters_a_read_and_a_write() {
    let world = World::new(1);
    signed_up(&world, true).await;
    assert_eq!(log_in(&world, ADDRESS, PASSWORD).await.status, StatusCode::CREATED);
    let calls = [("platform", 1), ("count_try", 3), ("find_user", 1), ("start_session", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
}

#[tokio::test]
async fn an_unknown_address_and_a_wrong_password_are_the_same_answer_by_the_same_calls() {
    let world = World::new(1);
    signed_up(&world, true).await;
    let mut seen = Vec::new();
    for (email, password) in [(ADDRESS, "wrong horse battery"), ("bob@example.com", PASSWORD)] {
        world.forget_calls();
        let reply = log_in(&world, email, password).await;
        let id = reply.headers["x-request-id"].to_str().unwrap();
        seen.push((reply.status, reply.body.replace(id, ""), reply.cookies, world.calls()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, StatusCode::UNAUTHORIZED);
}

/// Promise N12, by time: a hash is computed for nobody too. Without it the answer would come in a hundredth of the time.
#[tokio::test]
async fn an_unknown_address_takes_as_long_as_a_wrong_password() {
    let world = World::new(1);
    signed_up(&world, true).await;
    let quickest = async |email: &str| {
        let mut times = Vec::new();
        for _ in 0..3 {
            let start = std::time::Instant::now();
            log_in(&world, email, "wrong horse battery").await;
            times.push(start.elapsed());
        }
        times.into_iter().min().unwrap()
    };
    let (known, unknown) = (quickest(ADDRESS).await, quickest("bob@example.com").await);
    assert!(unknown * 5 > known && known * 5 > unknown, "{known:?} {unknown:?}");
}

#[tokio::test]
async fn before_the_address_is_confirmed_nobody_has_it() {
    let world = World::new(1);
    signed_up(&world, false).await;
    assert_eq!(log_in(&world, ADDRESS, "wrong horse battery").await.status, StatusCode::UNAUTHORIZED);
    let reply = log_in(&world, ADDRESS, PASSWORD).await;
    assert_eq!((reply.status, reply.cookies.len()), (StatusCode::UNAUTHORIZED, 0));
}

/// Hashing is behind the look for the user: a call that was not made is a hash that was not computed.
#[tokio::test]
async fn after_the_limit_no_password_is_hashed_not_even_the_right_one_until_the_window_is_over() {
    let world = World::new(1);
    signed_up(&world, true).await;
    for _ in 0..TRIES_PER_PAIR {
        assert_eq!(log_in(&world, ADDRESS, "wrong horse battery").await.status, StatusCode::UNAUTHORIZED);
    }
    world.forget_calls();
    assert_eq!(log_in(&world, ADDRESS, PASSWORD).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(called(&world), [("platform", 1), ("count_try", 2)].into_iter().collect());
    assert_eq!(log_in(&world, "bob@example.com", PASSWORD).await.status, StatusCode::UNAUTHORIZED, "others may try");
    world.advance(secs(TRIES_WINDOW_SECS.into()));
    assert_eq!(log_in(&world, ADDRESS, PASSWORD).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_callers_limit_counts_over_all_addresses_and_is_that_callers_alone() {
    let world = World::new(1);
    signed_up(&world, true).await;
    let platform = world.platform().await.unwrap();
    let peer = format!("login-peer#{}", platform.hash("peer", "198.51.100.7"));
    for _ in 0..TRIES_PER_PEER {
        assert_eq!(world.count_try(&peer, TRIES_PER_PEER, TRIES_WINDOW_SECS, world.now()).await, Ok(true));
    }
    world.forget_calls();
    assert_eq!(log_in(&world, ADDRESS, PASSWORD).await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(called(&world), [("platform", 1), ("count_try", 1)].into_iter().collect());
    let body = serde_json::json!({ "email": ADDRESS, "password": PASSWORD }).to_string();
    let mut elsewhere = request(&world, Method::POST, "/v1/sessions", &body);
    elsewhere.peer = "203.0.113.9".to_owned();
    assert_eq!(handle(&world, &site(), elsewhere).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn each_log_in_has_a_cookie_of_its_own_that_is_stored_as_a_hash() {
    let world = World::new(1);
    signed_up(&world, true).await;
    let (one, two) = (log_in(&world, ADDRESS, PASSWORD).await, log_in(&world, ADDRESS, PASSWORD).await);
    assert_eq!((one.cookies.len(), two.cookies.len()), (1, 1));
    assert_ne!(one.cookies, two.cookies);
    for reply in [one, two] {
        let cookie = reply.cookies[0].split(';').next().unwrap();
        assert_eq!(current(&world, cookie).await, StatusCode::OK);
        assert!(!world.holds_in_clear(cookie.split_once('=').unwrap().1) && !reply.body.contains("tbs_"));
    }
}

#[tokio::test]
async fn a_fault_at_any_step_of_a_log_in_sets_no_cookie() {
    for method in ["platform", "count_try", "find_user", "random", "start_session"] {
        let world = World::new(1);
        signed_up(&world, true).await;
        let body = serde_json::json!({ "email": ADDRESS, "password": PASSWORD }).to_string();
        let request = request(&world, Method::POST, "/v1/sessions", &body);
        world.fail_next(method, Fault::transient("busy"));
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, reply.cookies.len()), (StatusCode::SERVICE_UNAVAILABLE, 0), "{method}");
    }
}

#[tokio::test]
async fn a_password_whose_hash_does_not_read_is_our_fault_and_lets_nobody_in() {
    let world = World::new(1);
    let email = Email::parse(ADDRESS).unwrap();
    let mut new = fresh::new_account(&world, 100);
    new.owner.email = world.platform().await.unwrap().email_index(&email);
    new.owner.password = Hashed { phc: "damaged".to_owned(), pepper: 1 };
    fresh::confirmed(&world, new).await;
    let reply = log_in(&world, ADDRESS, "damaged").await;
    assert_eq!((reply.status, reply.cookies.len()), (StatusCode::INTERNAL_SERVER_ERROR, 0));
}

#[tokio::test]
async fn an_idle_session_is_over_after_half_an_hour() {
    for (late, status) in [(-1, StatusCode::OK), (0, StatusCode::UNAUTHORIZED)] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        world.advance(IDLE_LIFE + secs(late));
        assert_eq!(current(&world, &customer.cookie).await, status, "{late}");
    }
}

#[tokio::test]
async fn a_busy_session_is_over_after_half_a_day() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let end = customer.session.started + ABSOLUTE_LIFE;
    while world.now() + secs(1_200) < end {
        world.advance(secs(1_200));
        assert_eq!(current(&world, &customer.cookie).await, StatusCode::OK);
    }
    world.set_now(end - secs(1));
    assert_eq!(current(&world, &customer.cookie).await, StatusCode::OK);
    world.set_now(end);
    assert_eq!(current(&world, &customer.cookie).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_call_costs_one_read_and_once_a_minute_one_write() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.advance(TOUCH_EVERY - secs(1));
    current(&world, &customer.cookie).await;
    assert_eq!(called(&world), [("load_session", 1)].into_iter().collect());
    world.advance(secs(1));
    for writes in [1, 0] {
        world.forget_calls();
        current(&world, &customer.cookie).await;
        assert_eq!(called(&world).get("touch_session").copied().unwrap_or(0), writes);
    }
}

#[tokio::test]
async fn a_session_that_is_revoked_while_it_calls_is_not_brought_back() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        world.advance(TOUCH_EVERY);
        let revoking = world.end_session(customer.account, customer.session.id);
        let (_, revoked) = tokio::join!(current(&world, &customer.cookie), revoking);
        assert_eq!(revoked, Ok(true));
        assert_eq!(current(&world, &customer.cookie).await, StatusCode::UNAUTHORIZED, "seed {seed}");
    }
}

#[tokio::test]
async fn another_accounts_session_cannot_be_revoked_or_seen() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    let path = format!("/v1/sessions/{}", bob.session.id);
    assert_eq!(with_cookie(&world, Method::DELETE, &path, &ann.cookie).await.status, StatusCode::NOT_FOUND);
    assert_eq!(current(&world, &bob.cookie).await, StatusCode::OK);
    let list = with_cookie(&world, Method::GET, "/v1/sessions", &ann.cookie).await.body;
    assert!(list.contains(&ann.session.id.to_string()) && !list.contains(&bob.session.id.to_string()));
}

#[tokio::test]
async fn a_log_out_that_fails_says_so_and_keeps_the_cookie() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.fail_next("end_session", Fault::transient("busy"));
    let path = "/v1/sessions/current";
    let reply = with_cookie(&world, Method::DELETE, path, &customer.cookie).await;
    assert_eq!((reply.status, reply.cookies.len()), (StatusCode::SERVICE_UNAVAILABLE, 0));
    let reply = with_cookie(&world, Method::DELETE, path, &customer.cookie).await;
    assert_eq!((reply.status, reply.cookies[0].contains("Max-Age=0")), (StatusCode::NO_CONTENT, true));
    assert_eq!(current(&world, &customer.cookie).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_cookie_that_is_no_token_costs_no_call_at_all() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let name = site().cookie_name();
    for cookie in [String::new(), format!("{name}="), format!("{name}=tbs_x"), customer.cookie.replace("tbs_", "tbv_")]
    {
        assert_eq!(current(&world, &cookie).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(called(&world), [].into());
}

#[tokio::test]
async fn an_api_key_sees_and_ends_no_session() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (_, bearer) = customer.api_key(&world, &Scope::ALL).await;
    let one = format!("/v1/sessions/{}", customer.session.id);
    for (method, path) in [
        (Method::GET, "/v1/sessions"),
        (Method::GET, "/v1/sessions/current"),
        (Method::DELETE, "/v1/sessions/current"),
        (Method::DELETE, one.as_str()),
    ] {
        world.forget_calls();
        let request = with_header(request(&world, method, path, ""), header::AUTHORIZATION, &bearer);
        let reply = handle(&world, &site(), request).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
        assert!(reply.body.contains("session-needed"), "{}", reply.body);
        assert_eq!(called(&world), [("load_api_key", 1)].into_iter().collect());
    }
    assert_eq!(current(&world, &customer.cookie).await, StatusCode::OK);
}
