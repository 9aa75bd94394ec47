//! Every way into a hook and out of it: what is not signed costs little, what is signed is queued before it is answered.

use std::collections::BTreeMap;

use http::{Method, header};
use telbuddy::credential::{KeepCredential, Saved};
use telbuddy::inbound::signature::sign;
use telbuddy::inbound::{Consent, News};
use telbuddy::message::Status;
use telbuddy::platform::Clock;
use telbuddy::seal::Purpose;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const SID: &str = "SM0123456789abcdef0123456789abcdef";
const FROM: &str = "+14155552671";

type Pairs = Vec<(String, String)>;

fn pairs(customer: &Customer, more: &[(&str, &str)]) -> Pairs {
    let account = customer.credential.account_sid.as_str();
    let all = [("MessageSid", SID), ("AccountSid", account)].into_iter().chain(more.iter().copied());
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn text(customer: &Customer, body: &str) -> Pairs {
    pairs(customer, &[("From", FROM), ("To", fresh::OWN), ("Body", body), ("NumSegments", "2")])
}

fn status_params(customer: &Customer, word: &str) -> Pairs {
    pairs(customer, &[("MessageStatus", word)])
}

fn messages_path(customer: &Customer) -> String {
    format!("/hooks/twilio/{}/messages", customer.credential.hook.reveal())
}

fn status_path(customer: &Customer) -> String {
    format!("/hooks/twilio/{}/status/{}", customer.credential.hook.reveal(), MessageId::from_bits(7))
}

/// As Twilio posts it, signed with this token.
fn signed(world: &World, path: &str, params: &Pairs, token: &str) -> Request {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    let request = request(world, Method::POST, path, &form);
    let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let signature = sign(token, &format!("https://api.example.com{path}"), params);
    with_header(request, header::HeaderName::from_static("x-twilio-signature"), &signature)
}

fn token(customer: &Customer) -> String {
    format!("token-{}", customer.credential.account_sid.as_str())
}

async fn posted(world: &World, customer: &Customer, path: &str, params: &Pairs) -> Reply {
    handle(world, &site(), signed(world, path, params, &token(customer))).await
}

/// The calls that cost: an opening that is remembered does not.
fn costs(world: &World) -> BTreeMap<&'static str, u32> {
    called(world).into_iter().filter(|(method, _)| *method != "open_key").collect()
}

#[tokio::test]
async fn a_webhook_costs_one_read_and_one_queue_message_and_opens_its_keys_once() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let each = BTreeMap::from([("find_hook", 1), ("enqueue", 1)]);
    for (path, params, openings) in [
        (status_path(&customer), status_params(&customer, "delivered"), 1),
        (messages_path(&customer), text(&customer, "hi"), 2),
        (messages_path(&customer), text(&customer, "hi"), 2),
        (status_path(&customer), status_params(&customer, "delivered"), 2),
    ] {
        world.forget_calls();
        assert!(posted(&world, &customer, &path, &params).await.status.is_success());
        assert_eq!((costs(&world), world.openings().len()), (each.clone(), openings), "{path}");
    }
    let purposes: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    assert_eq!(purposes, [Purpose::Hook, Purpose::Match]);
}

#[tokio::test]
async fn a_status_is_queued_with_the_id_of_its_path() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let params = pairs(&customer, &[("MessageStatus", "undelivered"), ("ErrorCode", "30003")]);
    let reply = posted(&world, &customer, &status_path(&customer), &params).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::NO_CONTENT, ""));
    let message = MessageId::from_bits(7);
    let news = News::Status { message, sid: SID.to_owned(), status: Status::Undelivered, error_code: Some(30_003) };
    assert_eq!(world.jobs(), [Job::Twilio(TwilioEvent { account: customer.account, at: world.now(), news })]);
}

#[tokio::test]
async fn a_text_is_queued_without_its_words_and_without_its_senders_number() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let reply = posted(&world, &customer, &messages_path(&customer), &text(&customer, "Stop!")).await;
    assert_eq!((reply.status, reply.headers[header::CONTENT_TYPE].to_str().unwrap()), (StatusCode::OK, "text/xml"));
    let jobs = world.jobs();
    let [Job::Twilio(TwilioEvent { news: News::Text { consent, own, segments, country, .. }, .. })] = jobs.as_slice()
    else {
        panic!("{jobs:?}")
    };
    assert_eq!((*consent, own.as_str(), *segments, *country), (Some(Consent::Stop), fresh::OWN, 2, Some(fresh::us())));
    assert!(!world.holds_in_clear("Stop!") && !world.holds_in_clear(&FROM[1..]));
}

#[tokio::test]
async fn one_sender_has_one_hash_in_each_channel_and_a_short_code_has_one_too() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for from in [FROM, FROM, "72975", "72975", "VENDOR", "whatsapp:+14155552671"] {
        let params = pairs(&customer, &[("From", from), ("To", fresh::OWN), ("Body", "hi")]);
        posted(&world, &customer, &messages_path(&customer), &params).await;
    }
    let hashes: Vec<_> = world
        .jobs()
        .into_iter()
        .map(|job| match job {
            Job::Twilio(TwilioEvent { news: News::Text { other_hash, .. }, .. }) => other_hash,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((&hashes[0], &hashes[2]), (&hashes[1], &hashes[3]));
    assert_eq!(std::collections::BTreeSet::from_iter(&hashes).len(), 4);
}

#[tokio::test]
async fn a_queue_that_does_not_take_the_event_is_no_success_and_twilio_comes_again() {
    for fault in [Fault::transient("busy"), Fault::Ambiguous("reset".to_owned())] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        for (path, params) in [
            (status_path(&customer), status_params(&customer, "sent")),
            (messages_path(&customer), text(&customer, "hi")),
        ] {
            world.fail_next("enqueue", fault.clone());
            let reply = posted(&world, &customer, &path, &params).await;
            assert_eq!((reply.status, world.jobs()), (StatusCode::SERVICE_UNAVAILABLE, Vec::new()));
        }
        posted(&world, &customer, &status_path(&customer), &status_params(&customer, "sent")).await;
        assert_eq!(world.jobs().len(), 1);
    }
}

#[tokio::test]
async fn faults_on_the_way_to_the_queue_are_no_success_either() {
    for method in ["find_hook", "open_key", "random"] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let request = signed(&world, &messages_path(&customer), &text(&customer, "hi"), &token(&customer));
        world.fail_next(method, Fault::transient("busy"));
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, world.jobs()), (StatusCode::SERVICE_UNAVAILABLE, Vec::new()), "{method}");
    }
}

#[tokio::test]
async fn a_status_word_that_says_nothing_is_answered_and_not_queued() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for word in ["receiving", "tomorrow", ""] {
        let reply = posted(&world, &customer, &status_path(&customer), &status_params(&customer, word)).await;
        assert_eq!((reply.status, world.jobs()), (StatusCode::NO_CONTENT, Vec::new()), "{word:?}");
    }
}

#[tokio::test]
async fn signed_parameters_that_are_no_message_are_named() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let no_status = pairs(&customer, &[]);
    let no_sender = pairs(&customer, &[("To", fresh::OWN)]);
    for (path, params, name) in
        [(status_path(&customer), no_status, "MessageStatus"), (messages_path(&customer), no_sender, "From")]
    {
        let reply = posted(&world, &customer, &path, &params).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(reply.body.contains(name), "{}", reply.body);
    }
    assert_eq!(world.jobs(), []);
}

#[tokio::test]
async fn another_accounts_sid_is_refused_even_when_signed() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let reply = posted(&world, &customer, &messages_path(&customer), &text(&other, "hi")).await;
    assert_eq!((reply.status, world.jobs()), (StatusCode::FORBIDDEN, Vec::new()));
}

#[tokio::test]
async fn a_signature_for_another_path_or_by_another_account_is_refused() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let params = status_params(&customer, "delivered");
    let mut moved = signed(&world, &status_path(&customer), &params, &token(&customer));
    moved.path = moved.path.replace(&MessageId::from_bits(7).to_string(), &MessageId::from_bits(8).to_string());
    let mut asked = signed(&world, &status_path(&customer), &params, &token(&customer));
    asked.query = "a=1".to_owned();
    let foreign = signed(&world, &status_path(&customer), &params, &token(&other));
    for request in [moved, asked, foreign] {
        let reply = handle(&world, &site(), request).await;
        assert_eq!((reply.status, world.jobs()), (StatusCode::FORBIDDEN, Vec::new()));
    }
}

#[tokio::test]
async fn a_path_that_cannot_be_a_hook_and_a_body_that_is_too_large_cost_no_call_at_all() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let hook = customer.credential.hook.reveal();
    let cases = [
        ("/hooks/twilio/x/messages".to_owned(), 0, StatusCode::NOT_FOUND),
        (format!("/hooks/twilio/{}/messages", hook.to_uppercase()), 0, StatusCode::NOT_FOUND),
        (format!("/hooks/twilio/{}/messages", &hook[1..]), 0, StatusCode::NOT_FOUND),
        (format!("/hooks/twilio/{hook}/calls"), 0, StatusCode::NOT_FOUND),
        (messages_path(&customer), 70_000, StatusCode::PAYLOAD_TOO_LARGE),
    ];
    for (path, length, status) in cases {
        let reply = handle(&world, &site(), request(&world, Method::POST, &path, &"x".repeat(length))).await;
        assert_eq!((reply.status, called(&world)), (status, BTreeMap::new()), "{path}");
    }
}

#[tokio::test]
async fn the_hook_of_a_removed_credential_is_gone_and_costs_the_read_only() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    // Its key is warm.
    posted(&world, &customer, &status_path(&customer), &status_params(&customer, "sent")).await;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 0).await, Ok(true));
    world.forget_calls();
    let reply = posted(&world, &customer, &status_path(&customer), &status_params(&customer, "delivered")).await;
    assert_eq!((reply.status, called(&world)), (StatusCode::NOT_FOUND, BTreeMap::from([("find_hook", 1)])));
}

#[tokio::test]
async fn what_is_not_signed_is_refused_after_the_read() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut request = signed(&world, &messages_path(&customer), &text(&customer, "hi"), &token(&customer));
    request.headers.remove("x-twilio-signature");
    let reply = handle(&world, &site(), request).await;
    assert_eq!((reply.status, costs(&world)), (StatusCode::FORBIDDEN, BTreeMap::from([("find_hook", 1)])));
}

/// The old token counts for the window and not a moment longer; the new one from the start.
#[tokio::test]
async fn in_a_rotation_both_tokens_sign_until_the_window_closes() {
    use telbuddy::credential::{Previous, ROTATION_WINDOW};
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let before = customer.credential.clone();
    let until = world.now() + ROTATION_WINDOW;
    let mut save = fresh::credential(&world, customer.account, 2, &before.account_sid).await;
    let (new_key, mut new_keys) = fresh::minted(&world, customer.account, Purpose::Hook, 2).await;
    let old_keys = telbuddy::credential::LoadKeys::load_keys(&world, customer.account, Purpose::Hook).await.unwrap();
    new_keys.versions.splice(0..0, old_keys.unwrap().versions);
    save.credential.verify = HookSecret::AuthToken("new".into()).seal(&new_key, [3; 12]).unwrap();
    save.credential.hook = before.hook;
    save.credential.previous = vec![Previous { verify: before.verify.clone(), until }];
    save.sid_hash.clone_from(&customer.sid_hash);
    save.replaced_sid_hash = Some(customer.sid_hash.clone());
    save.keys.retain(|keys| keys.purpose == Purpose::Send);
    save.keys.push(new_keys);
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));

    let (path, params) = (status_path(&customer), status_params(&customer, "sent"));
    let status = async |token: &str| handle(&world, &site(), signed(&world, &path, &params, token)).await.status;
    let old = token(&customer);
    let good = StatusCode::NO_CONTENT;
    assert_eq!([status(&old).await, status("new").await, status("").await], [good, good, StatusCode::FORBIDDEN]);
    world.set_now(until - fresh::secs(1));
    assert_eq!(status(&old).await, good);
    world.set_now(until);
    assert_eq!([status(&old).await, status("new").await], [StatusCode::FORBIDDEN, good]);
}
