//! The old credential works until the new one does, whatever fails on the way.

use http::{Method, header};
use telbuddy::account::Stop;
use telbuddy::credential::{Check, OpenKey, ROTATION_WINDOW};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const SID: &str = "AC0123456789abcdef0123456789abcdef";

fn put(world: &World, customer: &Customer, account_sid: &str, token: &str) -> Request {
    let body = format!(r#"{{"account_sid":"{account_sid}","auth_token":"{token}"}}"#);
    customer.request(world, Method::PUT, PATH, &body)
}

fn rotate_to(world: &World, customer: &Customer, token: &str) -> Request {
    customer.request(world, Method::POST, ROTATION, &format!(r#"{{"auth_token":"{token}"}}"#))
}

async fn stored(world: &World, customer: &Customer) -> StoredCredential {
    world.load_credential(customer.account).await.unwrap().expect("something is connected")
}

async fn opened(world: &World, customer: &Customer, purpose: Purpose, version: u32) -> DataKey {
    let keys = world.load_keys(customer.account, purpose).await.unwrap().unwrap();
    world.open_key(&keys, Some(version)).await.unwrap()
}

/// The Auth Token that a send would use now.
async fn sends_with(world: &World, customer: &Customer) -> String {
    let stored = stored(world, customer).await;
    let key = opened(world, customer, Purpose::Send, stored.send.key_version().unwrap()).await;
    match Carrier::open(&stored, &key).unwrap().auth {
        Auth::AuthToken(token) => token.expose_secret().to_owned(),
        Auth::ApiKey(..) => panic!("an API key"),
    }
}

/// The Auth Tokens that a webhook may be signed with now.
async fn verifies(world: &World, customer: &Customer) -> Vec<String> {
    let stored = stored(world, customer).await;
    let mut tokens = Vec::new();
    for sealed in stored.verifiers(world.now()) {
        let key = opened(world, customer, Purpose::Hook, sealed.key_version().unwrap()).await;
        let HookSecret::AuthToken(token) = HookSecret::open(sealed, &key).unwrap() else { panic!("a shared key") };
        tokens.push(token.expose_secret().to_owned());
    }
    tokens
}

fn first_token(customer: &Customer) -> String {
    format!("token-{}", customer.credential.account_sid.as_str())
}

#[tokio::test]
async fn connecting_and_rotating_cost_a_check_four_reads_two_data_keys_and_a_transaction_and_open_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let calls = [
        ("load_session", 1),
        ("count_try", 1),
        ("check_carrier", 1),
        ("platform", 1),
        ("load_credential", 1),
        ("credential_history", 1),
        ("load_keys", 2),
        ("mint_key", 2),
        ("save_credential", 1),
    ];
    for asking in [put(&world, &customer, SID, "second"), rotate_to(&world, &customer, "third")] {
        world.forget_calls();
        assert_eq!(handle(&world, &site(), asking).await.status, StatusCode::OK);
        assert_eq!((called(&world), world.openings()), (calls.into_iter().collect(), Vec::new()));
    }
}

#[tokio::test]
async fn a_replaced_credential_keeps_its_hook_and_the_key_version_before() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    assert_eq!(handle(&world, &site(), put(&world, &customer, SID, "second")).await.status, StatusCode::OK);
    let now = stored(&world, &customer).await;
    assert_eq!((now.hook, now.version, now.account_sid.as_str()), (customer.credential.hook, 2, SID));
    assert_eq!((sends_with(&world, &customer).await, verifies(&world, &customer).await).0, "second");
    assert_eq!(verifies(&world, &customer).await, ["second"]);
    // A worker that read the old credential a moment ago.
    let old_key = opened(&world, &customer, Purpose::Send, 1).await;
    assert!(Carrier::open(&customer.credential, &old_key).is_ok());
}

#[tokio::test]
async fn a_fault_at_any_step_leaves_the_old_credential_working() {
    for method in [
        "load_session",
        "count_try",
        "check_carrier",
        "platform",
        "load_credential",
        "credential_history",
        "load_keys",
        "mint_key",
        "random",
        "save_credential",
    ] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        for asking in [put(&world, &customer, SID, "second"), rotate_to(&world, &customer, "second")] {
            world.fail_next(method, Fault::transient("busy"));
            let reply = handle(&world, &site(), asking).await;
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{method}");
            assert_eq!(stored(&world, &customer).await, customer.credential, "{method}");
            assert_eq!(sends_with(&world, &customer).await, first_token(&customer), "{method}");
            assert_eq!(verifies(&world, &customer).await, [first_token(&customer)], "{method}");
        }
        let reply = handle(&world, &site(), put(&world, &customer, SID, "second")).await;
        assert_eq!(
            (reply.status, sends_with(&world, &customer).await.as_str()),
            (StatusCode::OK, "second"),
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_lost_answer_of_the_save_leaves_the_new_one_working_and_asking_again_works_too() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.lose_answer("save_credential", Fault::Ambiguous("reset".to_owned()));
    let reply = handle(&world, &site(), put(&world, &customer, SID, "second")).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sends_with(&world, &customer).await, "second");
    assert_eq!(handle(&world, &site(), put(&world, &customer, SID, "second")).await.status, StatusCode::OK);
    assert_eq!((stored(&world, &customer).await.version, sends_with(&world, &customer).await.as_str()), (3, "second"));
}

#[tokio::test]
async fn what_twilio_does_not_confirm_is_not_stored() {
    for (check, status) in [
        (Check::Busy, StatusCode::SERVICE_UNAVAILABLE),
        (Check::Unreachable, StatusCode::SERVICE_UNAVAILABLE),
        (Check::Refused, StatusCode::UNPROCESSABLE_ENTITY),
        (Check::Inactive, StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        world.twilio().check_says(SID, check.clone());
        world.twilio().check_says(customer.credential.account_sid.as_str(), check.clone());
        for asking in [put(&world, &customer, SID, "second"), rotate_to(&world, &customer, "second")] {
            assert_eq!(handle(&world, &site(), asking).await.status, status, "{check:?}");
            let calls = called(&world);
            assert!(!calls.contains_key("save_credential") && !calls.contains_key("mint_key"), "{check:?}");
            assert_eq!(sends_with(&world, &customer).await, first_token(&customer), "{check:?}");
        }
    }
}

#[tokio::test]
async fn of_two_changes_at_once_the_stored_one_is_whole() {
    for seed in 0..20 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let site = site();
        let (one, two) = tokio::join!(
            handle(&world, &site, put(&world, &customer, SID, "one")),
            handle(&world, &site, put(&world, &customer, SID, "two")),
        );
        let stored_by = [(one, "one"), (two, "two")].into_iter().filter(|(reply, _)| reply.status == StatusCode::OK);
        let stored_by: Vec<_> = stored_by.map(|(_, token)| token).collect();
        assert!(!stored_by.is_empty(), "seed {seed}");
        let token = sends_with(&world, &customer).await;
        assert!(stored_by.contains(&token.as_str()), "seed {seed}: who was told no is not the one that counts");
        assert_eq!(verifies(&world, &customer).await, [token]);
        assert_eq!(stored(&world, &customer).await.version as usize, 1 + stored_by.len());
    }
}

#[tokio::test]
async fn a_new_credential_ends_a_refusal_and_leaves_a_freeze() {
    for (stop, after) in [(Stop::CredentialRefused, None), (fresh::FROZEN, Some(fresh::FROZEN))] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        world.stop(customer.account, stop);
        assert_eq!(handle(&world, &site(), put(&world, &customer, SID, "second")).await.status, StatusCode::OK);
        assert_eq!(world.gate(customer.account).unwrap().stopped(), after);
    }
}

#[tokio::test]
async fn a_rotation_sends_with_the_new_token_and_verifies_with_both_for_a_day() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    assert_eq!(handle(&world, &site(), rotate_to(&world, &customer, "second")).await.status, StatusCode::OK);
    let now = stored(&world, &customer).await;
    assert_eq!((now.hook, now.account_sid), (customer.credential.hook, customer.credential.account_sid.clone()));
    assert_eq!(sends_with(&world, &customer).await, "second");
    world.advance(ROTATION_WINDOW - secs(1));
    assert_eq!(verifies(&world, &customer).await, ["second".to_owned(), first_token(&customer)]);
    world.advance(secs(1));
    assert_eq!(verifies(&world, &customer).await, ["second"]);
}

#[tokio::test]
async fn a_repeated_rotation_does_not_push_out_the_token_that_still_signs() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for token in ["second", "second", "third"] {
        assert_eq!(handle(&world, &site(), rotate_to(&world, &customer, token)).await.status, StatusCode::OK);
    }
    let first = first_token(&customer);
    assert_eq!(verifies(&world, &customer).await, ["third", "second", "second", first.as_str()]);
    // Bounded: the oldest goes.
    assert_eq!(handle(&world, &site(), rotate_to(&world, &customer, "fourth")).await.status, StatusCode::OK);
    assert_eq!(verifies(&world, &customer).await, ["fourth", "third", "second", "second"]);
    world.advance(ROTATION_WINDOW);
    assert_eq!(verifies(&world, &customer).await, ["fourth"]);
}

#[tokio::test]
async fn a_taken_twilio_account_is_refused_without_touching_the_old_credential() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    let bobs = bob.credential.account_sid.as_str().to_owned();
    let reply = handle(&world, &site(), put(&world, &ann, &bobs, "second")).await;
    assert_eq!((reply.status, stored(&world, &ann).await), (StatusCode::CONFLICT, ann.credential.clone()));
    assert_eq!(sends_with(&world, &ann).await, first_token(&ann));
}

#[tokio::test]
async fn removing_takes_the_keys_with_it_and_a_fault_leaves_it_whole() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.fail_next("remove_credential", Fault::transient("busy"));
    let remove = || customer.request(&world, Method::DELETE, PATH, "");
    assert_eq!(handle(&world, &site(), remove()).await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(sends_with(&world, &customer).await, first_token(&customer));
    world.forget_calls();
    assert_eq!(handle(&world, &site(), remove()).await.status, StatusCode::NO_CONTENT);
    let calls = [
        ("load_session", 1),
        ("load_credential", 1),
        ("credential_history", 1),
        ("platform", 1),
        ("remove_credential", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
    for purpose in [Purpose::Send, Purpose::Hook] {
        assert_eq!(world.load_keys(customer.account, purpose).await, Ok(None));
    }
    // Connected again, it counts on: a remembered key of the old version is never taken for the new one.
    assert_eq!(handle(&world, &site(), put(&world, &customer, SID, "second")).await.status, StatusCode::OK);
    assert_eq!((stored(&world, &customer).await.version, sends_with(&world, &customer).await.as_str()), (2, "second"));
}

#[tokio::test]
async fn no_answer_and_no_row_holds_a_secret() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for asking in [
        put(&world, &customer, SID, "a-very-secret-token"),
        rotate_to(&world, &customer, "another-secret-token"),
        customer.request(&world, Method::GET, PATH, ""),
    ] {
        let reply = handle(&world, &site(), asking).await;
        assert!(!reply.body.contains("secret-token"), "{}", reply.body);
    }
    assert!(!world.holds_in_clear("secret-token"));
}

#[tokio::test]
async fn the_twenty_first_credential_in_a_quarter_of_an_hour_is_refused_before_twilio_is_asked() {
    let world = World::new(1);
    // A window begins.
    world.set_now("2026-11-24T06:15:00Z".parse().unwrap());
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    world.twilio().check_says(SID, Check::Refused);
    world.twilio().check_says(customer.credential.account_sid.as_str(), Check::Refused);
    let site = site();
    for n in 0..10 {
        for asking in [put(&world, &customer, SID, &format!("{n}")), rotate_to(&world, &customer, &format!("{n}"))] {
            assert_eq!(handle(&world, &site, asking).await.status, StatusCode::UNPROCESSABLE_ENTITY);
        }
    }
    assert_eq!(world.twilio().checked().len(), 20);
    world.advance(secs(30));
    for asking in [put(&world, &customer, SID, "again"), rotate_to(&world, &customer, "again")] {
        let reply = handle(&world, &site, asking).await;
        assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(reply.headers[header::RETRY_AFTER], "870");
        assert!(reply.body.contains("too-many-requests"), "{}", reply.body);
    }
    assert_eq!(world.twilio().checked().len(), 20, "Twilio was not asked");
    assert_eq!(sends_with(&world, &customer).await, first_token(&customer));
    // Another account, another count; and a look costs no try.
    assert_eq!(handle(&world, &site, rotate_to(&world, &other, "new")).await.status, StatusCode::OK);
    let look = customer.request(&world, Method::GET, PATH, "");
    assert_eq!(handle(&world, &site, look).await.status, StatusCode::OK);
    world.advance(secs(870));
    let asking = rotate_to(&world, &customer, "again");
    assert_eq!(handle(&world, &site, asking).await.status, StatusCode::UNPROCESSABLE_ENTITY, "a new window");
}

#[tokio::test]
async fn of_fifty_credentials_at_once_twilio_sees_twenty() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.twilio().check_says(SID, Check::Refused);
    let site = site();
    let asking = (0..50).map(|n| handle(&world, &site, put(&world, &customer, SID, &format!("{n}"))));
    let replies = futures::future::join_all(asking).await;
    let limited = replies.iter().filter(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!((limited, world.twilio().checked().len()), (30, 20));
}

#[tokio::test]
async fn a_credential_that_twilio_refused_is_shown_so_until_a_new_one_for_calls_is_stored() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let status = async |asking: Request| {
        let reply = handle(&world, &site(), asking).await;
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        body["status"].as_str().unwrap().to_owned()
    };
    let look = || customer.request(&world, Method::GET, PATH, "");
    assert_eq!(status(look()).await, "connected");
    world.stop(customer.account, Stop::CredentialRefused);
    assert_eq!(status(look()).await, "refused");
    assert_eq!(status(rotate_to(&world, &customer, "second")).await, "connected");
    assert_eq!(status(look()).await, "connected");
    // A new token for webhooks alone ends nothing.
    let (sid, key) = (customer.credential.account_sid.as_str(), format!("SK{}", "0".repeat(32)));
    let body =
        format!(r#"{{"account_sid":"{sid}","auth_token":"second","api_key_sid":"{key}","api_key_secret":"third"}}"#);
    assert_eq!(status(customer.request(&world, Method::PUT, PATH, &body)).await, "connected");
    world.stop(customer.account, Stop::CredentialRefused);
    assert_eq!(status(rotate_to(&world, &customer, "fourth")).await, "refused");
    let body = format!(r#"{{"api_key_sid":"{key}","api_key_secret":"fifth"}}"#);
    assert_eq!(status(customer.request(&world, Method::POST, ROTATION, &body)).await, "connected");
}

#[tokio::test]
async fn the_age_of_a_webhook_secret_counts_from_its_own_storing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let connected = stored(&world, &customer).await;
    assert_eq!(connected.secret_since, connected.connected_at);
    world.advance(secs(60));
    assert_eq!(handle(&world, &site(), rotate_to(&world, &customer, "second")).await.status, StatusCode::OK);
    let rotated = stored(&world, &customer).await;
    assert_eq!((rotated.secret_since, rotated.connected_at), (world.now(), connected.connected_at));
    world.advance(secs(60));
    assert_eq!(handle(&world, &site(), put(&world, &customer, SID, "third")).await.status, StatusCode::OK);
    let replaced = stored(&world, &customer).await;
    assert_eq!((replaced.secret_since, replaced.connected_at), (world.now(), world.now()));
}

#[tokio::test]
async fn who_is_not_signed_in_makes_no_call_to_twilio() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let asking = put(&world, &customer, SID, "second");
    let nobody = with_header(request(&world, Method::PUT, PATH, ""), header::COOKIE, "");
    world.advance(telbuddy::session::IDLE_LIFE);
    for asking in [nobody, Request { now: world.now(), ..asking }] {
        assert_eq!(handle(&world, &site(), asking).await.status, StatusCode::UNAUTHORIZED);
    }
    assert!(world.twilio().checked().is_empty());
}
