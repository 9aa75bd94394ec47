//! Every way into Stripe's webhook and out of it: what is not signed costs nothing, what is signed is queued first.

use std::collections::BTreeMap;

use http::{HeaderName, Method, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use telbuddy::billing::signature::sign;
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::platform::{Clock, Queue};
use telbuddy::testing::setup::{called, request, with_header};
use telbuddy::testing::{World, fresh};

use super::*;

const PATH: &str = "/hooks/stripe";
const SECRET: &str = "whsec_of_stripe";
const SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");

fn world() -> World {
    let world = World::new(1);
    world.set_stripe_secrets(&[SECRET]);
    world
}

fn event(id: &str) -> Value {
    let invoice = json!({
        "id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": "ann@example.com",
        "metadata": { "telbuddy_account_id": AccountId::from_bits(7) },
    });
    let data = json!({ "object": invoice });
    json!({ "id": id, "object": "event", "type": "invoice.paid", "created": 1_795_500_000, "data": data })
}

/// As Stripe posts it, signed at a time with a secret.
fn signed_at(world: &World, body: &str, at: Timestamp, secret: &str) -> Request {
    let signature = sign(secret, at, body.as_bytes());
    let request = request(world, Method::POST, PATH, body);
    let request = with_header(request, header::CONTENT_TYPE, "application/json; charset=utf-8");
    with_header(request, SIGNATURE, &signature)
}

fn signed(world: &World, body: &str) -> Request {
    signed_at(world, body, world.now(), SECRET)
}

#[tokio::test]
async fn an_event_is_queued_as_ids_before_it_is_acknowledged() {
    let world = world();
    let reply = handle(&world, signed(&world, &event("evt_1").to_string())).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(called(&world), BTreeMap::from([("platform", 1), ("enqueue", 1)]));
    let jobs = world.take_jobs(Queue::StripeEvents);
    assert_eq!(jobs, [Job::Stripe(StripeEvent::read(&event("evt_1")).unwrap())]);
    assert_eq!(jobs[0].account(), AccountId::from_bits(7), "the queue is fair between accounts");
    let body = serde_json::to_string(&jobs[0]).unwrap();
    assert!(body.contains("in_1") && !body.contains("ann"), "{body}");
    assert_eq!(serde_json::from_str::<Job>(&body).unwrap(), jobs[0]);
}

#[tokio::test]
async fn an_unknown_type_is_taken_like_any_other() {
    let world = world();
    let mut event = event("evt_1");
    event["type"] = "some.future.type".into();
    event["data"]["object"] = json!({ "object": "some.future.thing" });
    assert_eq!(handle(&world, signed(&world, &event.to_string())).await.status, StatusCode::NO_CONTENT);
    let [Job::Stripe(event)] = &world.take_jobs(Queue::StripeEvents)[..] else { panic!("one event is queued") };
    assert_eq!((event.kind.as_str(), &event.object), ("some.future.type", &None));
}

#[tokio::test]
async fn what_is_not_signed_for_this_body_and_time_is_refused_with_400_and_not_queued() {
    let world = world();
    let body = event("evt_1").to_string();
    let good = signed(&world, &body);
    let mut unsigned = good.clone();
    unsigned.headers.remove(SIGNATURE);
    let mut other_body = good.clone();
    other_body.body = event("evt_2").to_string().into_bytes();
    let refused = [
        (signed_at(&world, &body, world.now(), "whsec_guess"), "no signature matches"),
        (signed_at(&world, &body, world.now(), ""), "no signature matches"),
        (signed_at(&world, &body, world.now() - fresh::secs(301), SECRET), "too old"),
        (signed_at(&world, &body, world.now() + fresh::secs(301), SECRET), "has not come yet"),
        (with_header(good.clone(), SIGNATURE, "v1=00"), "exactly one time"),
        (unsigned, "no Stripe-Signature"),
        (other_body, "no signature matches"),
        (signed(&world, ""), "empty"),
    ];
    for (n, (request, cause)) in refused.into_iter().enumerate() {
        world.forget_calls();
        let reply = handle(&world, request).await;
        assert_eq!((reply.status, called(&world)), (StatusCode::BAD_REQUEST, BTreeMap::from([("platform", 1)])), "{n}");
        assert!(reply.body.contains("bad-event-signature") && reply.body.contains(cause), "{n}: {}", reply.body);
        assert!(!reply.body.contains(SECRET) && !reply.body.contains("evt_"));
    }
    assert_eq!(world.jobs(), []);
}

#[tokio::test]
async fn while_a_secret_rolls_both_sign_and_afterwards_the_new_one_only() {
    let world = World::new(1);
    let body = event("evt_1").to_string();
    for (secrets, statuses) in [(&["now", "then"][..], [204, 204]), (&["now"], [400, 204]), (&["then"], [204, 400])] {
        world.set_stripe_secrets(secrets);
        let got = ["then", "now"].map(|secret| handle(&world, signed_at(&world, &body, world.now(), secret)));
        let got = futures::future::join_all(got).await;
        assert_eq!(got.iter().map(|reply| reply.status.as_u16()).collect::<Vec<_>>(), statuses, "{secrets:?}");
    }
}

#[tokio::test]
async fn without_a_secret_there_is_no_such_hook() {
    let world = World::new(1);
    let reply = handle(&world, signed(&world, &event("evt_1").to_string())).await;
    assert_eq!((reply.status, called(&world)), (StatusCode::NOT_FOUND, BTreeMap::from([("platform", 1)])));
    assert!(reply.body.contains("nothing is sold here"), "{}", reply.body);
}

#[tokio::test]
async fn another_path_or_method_and_a_body_that_is_too_large_cost_no_call_at_all() {
    let world = world();
    for (method, path, length, status) in [
        (Method::POST, "/hooks/stripe/", 0, StatusCode::NOT_FOUND),
        (Method::GET, PATH, 0, StatusCode::METHOD_NOT_ALLOWED),
        (Method::POST, PATH, MAX_EVENT_BYTES + 1, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let reply = handle(&world, request(&world, method, path, &"x".repeat(length))).await;
        assert_eq!((reply.status, called(&world)), (status, BTreeMap::new()), "{path}");
    }
    let mut large = event("evt_1");
    large["data"]["object"]["lines"] = "x".repeat(200_000).into();
    let reply = handle(&world, signed(&world, &large.to_string())).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT, "an invoice may have many lines");
}

#[tokio::test]
async fn a_signed_body_that_is_no_event_is_not_one_of_stripes() {
    let world = world();
    let nameless = json!({ "object": "event", "type": "invoice.paid", "created": 1 }).to_string();
    for body in ["[]", "{", "{}", nameless.as_str()] {
        let reply = handle(&world, signed(&world, body)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
    assert_eq!(world.jobs(), []);
}

#[tokio::test]
async fn what_is_not_queued_is_not_acknowledged_and_the_repeat_makes_up_for_it() {
    for lost in [false, true] {
        for fault in [Fault::transient("busy"), Fault::Ambiguous("reset".to_owned())] {
            let world = world();
            let request = signed(&world, &event("evt_1").to_string());
            if lost {
                world.lose_answer("enqueue", fault);
            } else {
                world.fail_next("enqueue", fault);
            }
            assert_eq!(handle(&world, request.clone()).await.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(world.jobs().len(), usize::from(lost));
            assert_eq!(handle(&world, request).await.status, StatusCode::NO_CONTENT);
        }
    }
    let world = world();
    world.fail_next("platform", Fault::transient("busy"));
    let reply = handle(&world, signed(&world, &event("evt_1").to_string())).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
}
