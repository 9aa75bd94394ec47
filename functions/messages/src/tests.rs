//! Reading: two calls for metadata, content live from Twilio and never stored, media from nowhere but Twilio.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use telbuddy::credential::Sid;
use telbuddy::message::{CarrierText, CdnUrl, Outcome, RecordInbound, RecordOutcome, advice};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{BODY, Customer, TO, called, site, with_header};

use super::*;

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

/// A text that arrived and that Twilio has, with so many pictures.
async fn arrived(world: &World, customer: &Customer, body: &str, n_media: usize) -> (Message, Vec<Sid>) {
    let message = fresh::inbound(world, customer.account, world.now());
    world.record_inbound(&message, world.now()).await.unwrap();
    let media: Vec<_> = (0..n_media).map(|_| fresh::sid(world, "ME")).collect();
    let pieces: Vec<_> = media.iter().map(|sid| (sid.clone(), "image/jpeg")).collect();
    let text = CarrierText { body: body.to_owned(), to: fresh::OWN.to_owned(), from: Some(TO.to_owned()), n_media: 0 };
    let sid = message.sid.as_deref().unwrap();
    world.twilio().add_text(customer.credential.account_sid.as_str(), sid, text, &pieces);
    world.forget_calls();
    (message, media)
}

async fn got(world: &World, customer: &Customer, path: &str) -> Reply {
    handle(world, &site(), customer.request(world, Method::GET, path, "")).await
}

fn header_of<'r>(reply: &'r Reply, name: &str) -> Option<&'r str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok())
}

fn body_of(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

#[tokio::test]
async fn a_message_with_content_costs_one_more_read_and_one_get_and_nothing_of_it_stays() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (message, _) = arrived(&world, &customer, BODY, 0).await;
    let path = format!("/v1/messages/{}?include=content", message.id);
    let reply = got(&world, &customer, &path).await;
    let content = json!({ "body": BODY, "to": fresh::OWN, "from": TO, "media": [] });
    assert_eq!((&body_of(&reply)["content"], &body_of(&reply)["content_unavailable"]), (&content, &Value::Null));
    assert_eq!((&body_of(&reply)["id"], header_of(&reply, "cache-control")), (&json!(message.id), Some("no-store")));
    let warm = [("load_session", 1), ("load_message", 1), ("load_credential", 1), ("read_text", 1)];
    let cold = warm.into_iter().chain([("load_keys", 1), ("open_key", 1)]);
    assert_eq!(called(&world), cold.collect());
    world.forget_calls();
    got(&world, &customer, &path).await;
    assert_eq!(called(&world), warm.into_iter().collect());
    assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear(TO));
    let plain = got(&world, &customer, &format!("/v1/messages/{}", message.id)).await;
    assert!(body_of(&plain).get("content").is_none() && body_of(&plain).get("content_unavailable").is_none());
}

#[tokio::test]
async fn media_are_listed_by_one_more_get() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (message, _) = arrived(&world, &customer, "", 2).await;
    let reply = got(&world, &customer, &format!("/v1/messages/{}?include=content", message.id)).await;
    let piece = |n| json!({ "n": n, "content_type": "image/jpeg" });
    assert_eq!(body_of(&reply)["content"]["media"], json!([piece(0), piece(1)]));
    assert_eq!((called(&world)["read_text"], called(&world)["list_media"]), (1, 1));
}

#[tokio::test]
async fn what_cannot_be_had_leaves_its_reason_and_every_other_message_its_content() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut ids = BTreeMap::new();
    ids.insert("not_at_twilio_yet", customer.message(&world).await.id);
    for why in ["gone_at_twilio", "redacted", "twilio_unavailable", "shown"] {
        let (message, _) = arrived(&world, &customer, why, 0).await;
        let sid = message.sid.as_deref().unwrap();
        match why {
            "gone_at_twilio" => world.twilio().delete_text(sid),
            "redacted" => world.twilio().redact_text(sid),
            "twilio_unavailable" => world.twilio().text_says(sid, Trouble::Busy),
            _ => {}
        }
        ids.insert(why, message.id);
    }
    world.forget_calls();
    let reply = got(&world, &customer, "/v1/messages?include=content").await;
    assert_eq!((reply.status, header_of(&reply, "cache-control")), (StatusCode::OK, Some("no-store")));
    for (why, id) in ids {
        let page = body_of(&reply);
        let row = page["data"].as_array().unwrap().iter().find(|row| row["id"] == json!(id)).unwrap();
        let expected = if why == "shown" { (json!("shown"), Value::Null) } else { (Value::Null, json!(why)) };
        assert_eq!((row["content"]["body"].clone(), row["content_unavailable"].clone()), expected, "{row}");
    }
    assert_eq!(called(&world)["read_text"], 4);
}

#[tokio::test]
async fn without_a_connected_account_or_an_answer_the_list_is_still_there() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    arrived(&world, &customer, BODY, 0).await;
    world.fail_next("read_text", Fault::Ambiguous("time-out".to_owned()));
    let unavailable = async || {
        let reply = got(&world, &customer, "/v1/messages?include=content").await;
        (reply.status, body_of(&reply)["data"][0]["content_unavailable"].clone())
    };
    assert_eq!(unavailable().await, (StatusCode::OK, json!("twilio_unavailable")));
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 0).await, Ok(true));
    assert_eq!(unavailable().await, (StatusCode::OK, json!("twilio_unavailable")));
}

#[tokio::test]
async fn twenty_are_read_ten_at_a_time_and_more_are_refused_before_any_call_to_twilio() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for n in 0..25 {
        world.advance(fresh::secs(1));
        arrived(&world, &customer, &format!("text {n}"), 0).await;
    }
    let reply = got(&world, &customer, "/v1/messages?include=content&limit=20").await;
    let bodies: Vec<_> = (0..20).map(|at| body_of(&reply)["data"][at]["content"]["body"].clone()).collect();
    let newest_first: Vec<_> = (5..25).rev().map(|n| json!(format!("text {n}"))).collect();
    assert_eq!((bodies, called(&world)["read_text"]), (newest_first, 20));
    assert_eq!(world.twilio().most_reads_at_once(), 10);
    world.forget_calls();
    let refused = got(&world, &customer, "/v1/messages?include=content&limit=21").await;
    assert_eq!((refused.status.as_u16(), &body_of(&refused)["errors"][0]["field"]), (422, &json!("limit")));
    assert_eq!(called(&world), [("load_session", 1)].into_iter().collect());
    assert_eq!(got(&world, &customer, "/v1/messages?include=body").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(got(&world, &customer, "/v1/messages?limit=100").await.status, StatusCode::OK);
}

#[tokio::test]
async fn another_accounts_message_and_media_are_not_there() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let (message, _) = arrived(&world, &customer, BODY, 1).await;
    for path in ["?include=content", "/media/0"] {
        let reply = got(&world, &other, &format!("/v1/messages/{}{path}", message.id)).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND);
    }
    assert!(!called(&world).contains_key("read_text") && !called(&world).contains_key("list_media"));
}

#[tokio::test]
async fn media_cost_two_gets_and_lead_to_twilios_store() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (message, media) = arrived(&world, &customer, BODY, 2).await;
    let url = "https://mms.twiliocdn.com/AC0/0a?Signature=b";
    world.twilio().media_says(&media[1], FetchedMedia::Elsewhere(CdnUrl::parse(url, None).unwrap()));
    let reply = got(&world, &customer, &format!("/v1/messages/{}/media/1", message.id)).await;
    assert_eq!((reply.status, header_of(&reply, "location")), (StatusCode::SEE_OTHER, Some(url)));
    assert_eq!((header_of(&reply, "cache-control"), reply.body.as_str()), (Some("no-store"), ""));
    let ours = [("load_session", 1), ("load_message", 1), ("load_credential", 1), ("load_keys", 1), ("open_key", 1)];
    let calls = ours.into_iter().chain([("list_media", 1), ("fetch_media", 1)]);
    assert_eq!(called(&world), calls.collect());
    for path in ["2", "-1", "x", "99999999999999999999999", "0"] {
        let reply = got(&world, &customer, &format!("/v1/messages/{}/media/{path}", message.id)).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn bytes_are_passed_on_and_what_a_browser_could_run_is_only_saved() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (message, media) = arrived(&world, &customer, BODY, 1).await;
    let path = format!("/v1/messages/{}/media/0", message.id);
    for (told, passed_on) in [("image/png", "image/png"), ("text/html", "application/octet-stream")] {
        let fetched = FetchedMedia::Bytes { content_type: told.to_owned(), bytes: vec![0xff, 1, 2] };
        world.twilio().media_says(&media[0], fetched);
        let reply = got(&world, &customer, &path).await;
        assert_eq!((reply.status, &reply.bytes), (StatusCode::OK, &vec![0xff, 1, 2]));
        assert_eq!(
            (header_of(&reply, "content-type"), header_of(&reply, "x-content-type-options")),
            (Some(passed_on), Some("nosniff"))
        );
        assert_eq!(reply.headers.contains_key("content-disposition"), told != passed_on);
        assert_eq!(header_of(&reply, "cache-control"), Some("no-store"));
    }
    for refused in [FetchedMedia::TooLarge, FetchedMedia::NotAllowed] {
        world.twilio().media_says(&media[0], refused);
        assert_eq!(got(&world, &customer, &path).await.status, StatusCode::BAD_GATEWAY);
    }
    world.twilio().text_says(message.sid.as_deref().unwrap(), Trouble::Refused);
    assert_eq!(got(&world, &customer, &path).await.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_hostile_sid_in_our_row_reaches_no_address() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for sid in ["../../Accounts/AC0", "SM0123456789abcdef0123456789abcde/", "//evil.example/", "SM0@evil.example", ""] {
        world.advance(fresh::secs(1));
        let message = Message { sid: Some(sid.to_owned()), ..fresh::inbound(&world, customer.account, world.now()) };
        world.record_inbound(&message, world.now()).await.unwrap();
        world.forget_calls();
        let media = got(&world, &customer, &format!("/v1/messages/{}/media/0", message.id)).await;
        assert_eq!(media.status, StatusCode::NOT_FOUND, "{sid}");
        let shown = got(&world, &customer, &format!("/v1/messages/{}?include=content", message.id)).await;
        assert_eq!(body_of(&shown)["content_unavailable"], "not_at_twilio_yet", "{sid}");
        assert_eq!(called(&world), [("load_session", 2), ("load_message", 2)].into_iter().collect());
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

#[tokio::test]
async fn a_key_that_may_read_reads_all_of_it_and_one_that_may_send_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (message, media) = arrived(&world, &customer, BODY, 1).await;
    let elsewhere = CdnUrl::parse("https://mms.twiliocdn.com/AC0/0a", None).unwrap();
    world.twilio().media_says(&media[0], FetchedMedia::Elsewhere(elsewhere));
    let (_, reads) = customer.api_key(&world, &[Scope::MessagesRead]).await;
    let (_, sends) = customer.api_key(&world, &[Scope::MessagesSend]).await;
    for (path, status) in [("", 200), ("?include=content", 200), ("/media/0", 303)] {
        for (bearer, status) in [(&reads, status), (&sends, 403)] {
            let path = format!("/v1/messages/{}{path}", message.id);
            let mut request = customer.request(&world, Method::GET, &path, "");
            request.headers.remove(header::COOKIE);
            let reply = handle(&world, &site(), with_header(request, header::AUTHORIZATION, bearer)).await;
            assert_eq!(reply.status.as_u16(), status, "{path}: {}", reply.body);
        }
    }
}
