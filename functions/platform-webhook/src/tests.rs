//! Every way into the platform's webhook and out of it: what is not signed is not kept, what is signed is kept once.

use std::collections::BTreeMap;

use http::{HeaderName, Method, header};
use telbuddy::fault::Fault;
use telbuddy::inbound::signature::sign;
use telbuddy::opt_out::ReadPlatformOptOut;
use telbuddy::testing::setup::{called, request, site, site_with_fallback, with_header};
use telbuddy::testing::{World, fresh};

use super::*;

const PATH: &str = "/hooks/platform/messages";
const FROM: &str = "+14155552671";
const TOKEN: &str = "platform-token";
const SIGNATURE: HeaderName = HeaderName::from_static("x-twilio-signature");

fn world() -> World {
    let world = World::new(1);
    world.set_platform_tokens(&[TOKEN]);
    world
}

fn sid(n: u32) -> String {
    format!("SM{n:032x}")
}

/// As Twilio posts it.
fn signed(world: &World, sid: &str, from: &str, more: &[(&str, &str)], token: &str) -> Request {
    let own = [("MessageSid", sid), ("From", from), ("To", "+15005550006")];
    let pairs: Vec<_> = own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
    let request = request(world, Method::POST, PATH, &form);
    let signature = sign(token, &format!("{}{PATH}", site().origin), &pairs);
    let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=UTF-8");
    with_header(request, SIGNATURE, &signature)
}

fn text(world: &World, n: u32, body: &str) -> Request {
    signed(world, &sid(n), FROM, &[("Body", body)], TOKEN)
}

async fn said(world: &World, n: u32, body: &str) -> StatusCode {
    world.advance(fresh::secs(1));
    handle(world, &site(), text(world, n, body)).await.status
}

async fn has_stopped(world: &World) -> bool {
    let platform = world.platform().await.unwrap();
    let number = telbuddy::number::parse_address(FROM).unwrap().1;
    world.has_stopped(&platform.caller_hash(&number)).await.unwrap()
}

#[tokio::test]
async fn stop_and_start_are_kept_and_the_answer_is_an_empty_response() {
    let world = world();
    for (n, body, out) in [(1, "Stop", true), (2, "START", false), (3, "unsubscribe", true)] {
        world.advance(fresh::secs(1));
        world.forget_calls();
        let reply = handle(&world, &site(), text(&world, n, body)).await;
        assert_eq!((reply.status, &reply.headers["content-type"]), (StatusCode::OK, &"text/xml".parse().unwrap()));
        assert_eq!(reply.body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>");
        assert_eq!(called(&world), BTreeMap::from([("platform", 1), ("record_platform_word", 1)]));
        assert_eq!(has_stopped(&world).await, out, "{body}");
    }
    assert!(!world.holds_in_clear(&FROM[1..]), "the number is nowhere in clear");
}

#[tokio::test]
async fn help_and_all_else_is_answered_the_same_and_kept_nowhere() {
    let world = world();
    let before = world.at_rest();
    let requests = [
        text(&world, 1, "HELP"),
        text(&world, 2, "please stop texting"),
        signed(&world, &sid(3), FROM, &[("Body", "stop"), ("OptOutType", "HELP")], TOKEN),
        signed(&world, &sid(4), &format!("whatsapp:{FROM}"), &[("Body", "stop")], TOKEN),
        signed(&world, &sid(5), "262966", &[("Body", "stop")], TOKEN),
    ];
    for request in requests {
        world.forget_calls();
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, called(&world)), (StatusCode::OK, BTreeMap::from([("platform", 1)])));
        assert!(reply.body.ends_with("<Response/>"));
    }
    assert_eq!(world.at_rest(), before);
}

#[tokio::test]
async fn a_text_that_is_played_back_does_not_lift_a_later_stop() {
    let world = world();
    assert_eq!([said(&world, 1, "START").await, said(&world, 2, "STOP").await], [StatusCode::OK; 2]);
    assert_eq!(said(&world, 1, "START").await, StatusCode::OK);
    assert!(has_stopped(&world).await);
    said(&world, 3, "START").await;
    assert!(!has_stopped(&world).await);
}

#[tokio::test]
async fn fifty_copies_of_a_stop_and_a_start_at_once_end_in_the_stop() {
    let world = world();
    let (start, stop) = (text(&world, 1, "START"), text(&world, 2, "STOP"));
    let site = site();
    let copies = (0..50).map(|n| handle(&world, &site, if n % 2 == 0 { start.clone() } else { stop.clone() }));
    let replies = futures::future::join_all(copies).await;
    assert!(replies.iter().all(|reply| reply.status == StatusCode::OK));
    assert!(has_stopped(&world).await);
}

#[tokio::test]
async fn without_a_token_there_is_no_such_hook() {
    let world = World::new(1);
    let reply = handle(&world, &site(), text(&world, 1, "STOP")).await;
    assert_eq!((reply.status, called(&world)), (StatusCode::NOT_FOUND, BTreeMap::from([("platform", 1)])));
    assert!(reply.body.contains("no Twilio Auth Token"), "{}", reply.body);
}

#[tokio::test]
async fn in_a_rotation_both_tokens_sign_and_afterwards_the_new_one_only() {
    let world = World::new(1);
    let old = signed(&world, &sid(1), FROM, &[("Body", "STOP")], "then");
    let new = signed(&world, &sid(2), FROM, &[("Body", "STOP")], "now");
    for (tokens, statuses) in [(&["now", "then"][..], [200, 200]), (&["now"], [403, 200]), (&["then"], [200, 403])] {
        world.set_platform_tokens(tokens);
        let site = site();
        let got = [handle(&world, &site, old.clone()).await.status, handle(&world, &site, new.clone()).await.status];
        assert_eq!(got.map(|status| status.as_u16()), statuses, "{tokens:?}");
    }
}

#[tokio::test]
async fn what_is_not_signed_for_this_address_and_body_is_refused_and_not_kept() {
    let world = world();
    let good = text(&world, 1, "STOP");
    let mut unsigned = good.clone();
    unsigned.headers.remove(SIGNATURE);
    let mut other_body = good.clone();
    other_body.body = text(&world, 1, "START").body;
    let shared = HeaderName::from_static("x-twilio-webhooks-signature-settings");
    let json = with_header(good.clone(), header::CONTENT_TYPE, "application/json");
    let refused = [
        signed(&world, &sid(1), FROM, &[("Body", "STOP")], "guess"),
        signed(&world, &sid(1), FROM, &[("Body", "STOP")], ""),
        Request { query: "a=1".to_owned(), ..good.clone() },
        with_header(good.clone(), header::CONTENT_TYPE, "text/plain"),
        with_header(good, shared, "key=x, algorithm=HMAC_SHA1"),
        json,
        unsigned,
        other_body,
    ];
    let before = world.at_rest();
    for (n, request) in refused.into_iter().enumerate() {
        world.forget_calls();
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, called(&world)), (StatusCode::FORBIDDEN, BTreeMap::from([("platform", 1)])), "{n}");
        assert!(reply.body.contains("bad-signature") && !reply.body.contains(TOKEN));
    }
    assert_eq!(world.at_rest(), before);
}

#[tokio::test]
async fn another_path_and_a_body_that_is_too_large_cost_no_call_at_all() {
    let world = world();
    for (path, length, status) in [
        ("/hooks/platform/voice", 0, StatusCode::NOT_FOUND),
        ("/hooks/platform/messages/", 0, StatusCode::NOT_FOUND),
        (PATH, 70_000, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let reply = handle(&world, &site(), request(&world, Method::POST, path, &"x".repeat(length))).await;
        assert_eq!((reply.status, called(&world)), (status, BTreeMap::new()), "{path}");
    }
}

#[tokio::test]
async fn a_signed_form_that_is_no_text_is_not_one_of_twilios() {
    let world = world();
    for (sid, from) in [("", FROM), ("SM1", FROM), (sid(1).as_str(), "")] {
        let reply = handle(&world, &site(), signed(&world, sid, from, &[("Body", "STOP")], TOKEN)).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{sid} {from}");
    }
    assert!(!has_stopped(&world).await);
}

#[tokio::test]
async fn what_is_not_stored_is_not_acknowledged_and_the_repeat_makes_up_for_it() {
    for lost in [false, true] {
        for fault in [Fault::transient("busy"), Fault::Ambiguous("reset".to_owned())] {
            let world = world();
            if lost {
                world.lose_answer("record_platform_word", fault);
            } else {
                world.fail_next("record_platform_word", fault);
            }
            assert_eq!(said(&world, 1, "STOP").await, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(has_stopped(&world).await, lost);
            assert_eq!((said(&world, 1, "STOP").await, has_stopped(&world).await), (StatusCode::OK, true));
        }
    }
    let world = world();
    world.fail_next("platform", Fault::transient("busy"));
    assert_eq!(said(&world, 1, "STOP").await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_stop_at_the_second_host_counts_if_there_is_one() {
    let world = world();
    let origin = "https://second.example.net";
    let sid = sid(1);
    let pairs = [("MessageSid", &*sid), ("From", FROM), ("To", "+15005550006"), ("Body", "STOP")];
    let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
    let asked = || {
        let request = request(&world, Method::POST, PATH, &form);
        let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        with_header(request, SIGNATURE, &sign(TOKEN, &format!("{origin}{PATH}"), &pairs))
    };
    assert_eq!(handle(&world, &site(), asked()).await.status, StatusCode::FORBIDDEN);
    assert!(!has_stopped(&world).await);
    assert_eq!(handle(&world, &site_with_fallback(), asked()).await.status, StatusCode::OK);
    assert!(has_stopped(&world).await);
}
