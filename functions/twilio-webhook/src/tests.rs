//! Every way into a hook and out of it: what is not signed costs little, what is signed is queued before it is answered.

use std::collections::BTreeMap;

use http::{Method, header};
use jiff::Timestamp;
use telbuddy::credential::{KeepCredential, Saved};
use telbuddy::inbound::signature::sign;
use telbuddy::inbound::{Consent, News};
use telbuddy::message::Status;
use telbuddy::platform::{Clock, Queue};
use telbuddy::quarantine::{ReadQuarantine, Record, Rotation};
use telbuddy::seal::Purpose;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{Customer, called, request, site, site_with_fallback, with_header};

use telbuddy::alert::Alert;

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

const CALL_SID: &str = "CA0123456789abcdef0123456789abcdef";

fn call_params(customer: &Customer, more: &[(&str, &str)]) -> Pairs {
    let account = customer.credential.account_sid.as_str();
    let own = [("CallSid", CALL_SID), ("AccountSid", account), ("From", FROM), ("To", fresh::OWN)];
    own.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn voice_path(customer: &Customer) -> String {
    format!("/hooks/twilio/{}/voice", customer.credential.hook.reveal())
}

fn call_path(customer: &Customer) -> String {
    format!("/hooks/twilio/{}/calls/{}", customer.credential.hook.reveal(), CallId::from_bits(9))
}

/// As Twilio posts it, signed with this token.
fn signed(world: &World, path: &str, params: &Pairs, token: &str) -> Request {
    signed_for("https://api.example.com", world, path, params, token)
}

/// As Twilio posts it to another origin.
fn signed_for(origin: &str, world: &World, path: &str, params: &Pairs, token: &str) -> Request {
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(params).finish();
    let request = request(world, Method::POST, path, &form);
    let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let signature = sign(token, &format!("{origin}{path}"), params);
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
async fn a_call_that_arrives_is_answered_in_words_that_name_nobody_and_costs_the_read_only() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let params = call_params(&customer, &[("CallStatus", "ringing"), ("CallerName", "Ann <Say>")]);
    let reply = posted(&world, &customer, &voice_path(&customer), &params).await;
    assert_eq!((reply.status, costs(&world)), (StatusCode::OK, BTreeMap::from([("find_hook", 1)])));
    assert_eq!(reply.headers["content-type"], "text/xml");
    let twiml = &reply.body;
    assert!(twiml.contains("<Response><Say") && twiml.ends_with("</Say><Hangup/></Response>"), "{twiml}");
    let plain = request(&world, Method::POST, &voice_path(&customer), "");
    assert_eq!(handle(&world, &site(), plain).await.status, StatusCode::FORBIDDEN);
    let other = call_params(&customer, &[("CallStatus", "ringing"), ("From", "+447700900123")]);
    assert_eq!(posted(&world, &customer, &voice_path(&customer), &other).await.body, *twiml);
}

#[tokio::test]
async fn our_own_test_is_believed_when_it_is_signed_and_nothing_follows_from_it() {
    use telbuddy::routine::SelfCall;
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let secret = HookSecret::AuthToken(token(&customer).into());
    let as_sent = |call: &SelfCall| {
        let request = request(&world, Method::POST, &call.path, &call.form);
        let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        with_header(request, header::HeaderName::from_static("x-twilio-signature"), &call.signature)
    };
    for (origin, status) in
        [("https://api.example.com", StatusCode::NO_CONTENT), ("https://elsewhere.example.com", StatusCode::FORBIDDEN)]
    {
        let call = SelfCall::new(origin, &customer.credential, &secret);
        let reply = handle(&world, &site(), as_sent(&call)).await;
        assert_eq!((reply.status, world.jobs()), (status, Vec::new()));
    }
    assert_eq!(records(&world, &customer).await, [], "who called it says so");
    assert_eq!(costs(&world), BTreeMap::from([("find_hook", 2), ("read_quarantine", 1)]));
}

#[tokio::test]
async fn a_calls_status_is_queued_with_ids_only_before_it_is_answered() {
    use telbuddy::inbound::CallStatus;
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (path, params) = (call_path(&customer), call_params(&customer, &[("CallStatus", "no-answer")]));
    let reply = posted(&world, &customer, &path, &params).await;
    assert_eq!((reply.status, reply.body.as_str()), (StatusCode::NO_CONTENT, ""));
    let news = News::Call { call: CallId::from_bits(9), sid: CALL_SID.to_owned(), status: CallStatus::NoAnswer };
    assert_eq!(world.jobs(), [Job::Twilio(TwilioEvent { account: customer.account, at: world.now(), news })]);
    world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!(posted(&world, &customer, &path, &params).await.status, StatusCode::SERVICE_UNAVAILABLE);
    let message = path.replace("/calls/call_", "/calls/msg_");
    assert_eq!(posted(&world, &customer, &message, &params).await.status, StatusCode::NOT_FOUND);
    assert_eq!(world.jobs().len(), 1);
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
    for (path, params, name) in [
        (status_path(&customer), no_status.clone(), "MessageStatus"),
        (messages_path(&customer), no_sender, "From"),
        (voice_path(&customer), no_status.clone(), "CallSid"),
        (call_path(&customer), no_status, "CallSid"),
        (call_path(&customer), call_params(&customer, &[]), "CallStatus"),
    ] {
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
    assert_eq!((reply.status, world.take_jobs(Queue::TwilioEvents)), (StatusCode::FORBIDDEN, Vec::new()));
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
        assert_eq!((reply.status, world.take_jobs(Queue::TwilioEvents)), (StatusCode::FORBIDDEN, Vec::new()));
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
    let first = BTreeMap::from([("find_hook", 1), ("quarantine", 1), ("enqueue", 1), ("note_alert", 1)]);
    let further = BTreeMap::from([("find_hook", 1), ("quarantine", 1)]);
    for each in [first, further] {
        world.forget_calls();
        let reply = handle(&world, &site(), request.clone()).await;
        assert_eq!((reply.status, costs(&world)), (StatusCode::FORBIDDEN, each));
    }
}

async fn records(world: &World, customer: &Customer) -> Vec<Record> {
    world.read_quarantine(customer.account, world.now()).await.unwrap()
}

fn alert(customer: &Customer, cause: Cause, recently_rotated: bool, since: Timestamp) -> Job {
    Job::Alert { account: customer.account, alert: Alert::SignatureFailed { cause, recently_rotated }, since }
}

#[tokio::test]
async fn each_way_to_fail_is_recorded_under_its_cause_and_told_once() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let (path, params) = (messages_path(&customer), text(&customer, "hi"));
    let good = || signed(&world, &path, &params, &token(&customer));
    let mut unsigned = good();
    unsigned.headers.remove(SIGNATURE);
    let shared = with_header(good(), header::HeaderName::from_static(SHARED_KEY), "key=x, algorithm=HMAC_MD5");
    let cases = [
        (unsigned, Cause::Rejected(Rejection::MissingHeader), RouteKind::Messages, (false, false)),
        (
            signed(&world, &path, &params, "guess"),
            Cause::Rejected(Rejection::Mismatch),
            RouteKind::Messages,
            (true, false),
        ),
        (
            signed(&world, &path, &text(&other, "hi"), &token(&customer)),
            Cause::OtherAccount,
            RouteKind::Messages,
            (true, false),
        ),
        (shared, Cause::Rejected(Rejection::UnknownAlgorithm), RouteKind::Messages, (true, true)),
        (
            with_header(good(), header::CONTENT_TYPE, "text/plain"),
            Cause::Rejected(Rejection::NotAForm),
            RouteKind::Messages,
            (true, false),
        ),
    ];
    world.advance(fresh::secs(90));
    for (request, cause, route, (signature_header, shared_key_header)) in cases {
        let at = world.now();
        for _ in 0..3 {
            let reply = handle(&world, &site(), Request { now: at, ..request.clone() }).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN);
        }
        let record = records(&world, &customer).await.into_iter().find(|record| record.cause == cause);
        let record = record.unwrap_or_else(|| panic!("no record of {cause:?}"));
        let secret_since = customer.credential.secret_since;
        let rotation = Rotation::None;
        let facts = Facts { route, signature_header, shared_key_header, secret_since, rotation };
        assert_eq!(record, Record { cause, count: 3, first: at, last: at, facts, alerted: Some(at) });
        assert_eq!(record.secret_age_secs(), 90);
        assert_eq!(world.take_jobs(Queue::Mail), [alert(&customer, cause, false, at)]);
    }
    assert_eq!(records(&world, &other).await, []);
    let mut status = signed(&world, &status_path(&customer), &status_params(&customer, "sent"), "guess");
    status.now = world.now();
    handle(&world, &site(), status).await;
    let of_route = async |route| {
        let records = records(&world, &customer).await;
        records.into_iter().find(|record| record.facts.route == route).map(|record| record.count)
    };
    assert_eq!(of_route(RouteKind::Status).await, Some(4), "the same cause by another route");
    for (path, route, count) in
        [(voice_path(&customer), RouteKind::Voice, 5), (call_path(&customer), RouteKind::Calls, 6)]
    {
        let forged = signed(&world, &path, &call_params(&customer, &[("CallStatus", "completed")]), "guess");
        handle(&world, &site(), forged).await;
        assert_eq!(of_route(route).await, Some(count));
    }
}

#[tokio::test]
async fn fifty_forged_at_once_are_fifty_in_one_record_and_one_alert() {
    for seed in 0..5 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let request = signed(&world, &messages_path(&customer), &text(&customer, "hi"), "guess");
        let site = site();
        let replies = futures::future::join_all((0..50).map(|_| handle(&world, &site, request.clone()))).await;
        assert!(replies.iter().all(|reply| reply.status == StatusCode::FORBIDDEN));
        let records = records(&world, &customer).await;
        assert_eq!((records.len(), records[0].count, world.jobs().len()), (1, 50, 1), "seed {seed}");
    }
}

#[tokio::test]
async fn the_answer_is_403_whatever_fails_and_an_alert_that_was_lost_is_made_up_for() {
    for (method, lost, count, told) in [
        ("quarantine", false, 1, 1),
        ("quarantine", true, 2, 1),
        ("enqueue", false, 2, 1),
        ("enqueue", true, 2, 2),
        ("note_alert", false, 2, 2),
        ("note_alert", true, 2, 1),
    ] {
        for fault in [Fault::transient("busy"), Fault::permanent("denied"), Fault::Ambiguous("reset".to_owned())] {
            let world = World::new(1);
            let customer = Customer::new(&world).await;
            if lost {
                world.lose_answer(method, fault);
            } else {
                world.fail_next(method, fault);
            }
            for _ in 0..2 {
                let request = signed(&world, &messages_path(&customer), &text(&customer, "hi"), "guess");
                let reply = handle(&world, &site(), request).await;
                assert_eq!(reply.status, StatusCode::FORBIDDEN, "{method}");
                assert!(reply.body.contains("bad-signature"), "{method}: {}", reply.body);
                world.advance(fresh::secs(60));
            }
            let records = records(&world, &customer).await;
            assert_eq!((records[0].count, world.jobs().len()), (count, told), "{method}, lost {lost}");
        }
    }
}

#[tokio::test]
async fn nothing_of_a_refused_webhook_is_kept() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let request = signed(&world, &messages_path(&customer), &text(&customer, "a private word"), "guess");
    let signature = request.header(SIGNATURE).unwrap().to_owned();
    handle(&world, &site(), request).await;
    let record = format!("{:?} {:?}", records(&world, &customer).await, world.jobs());
    let hook = customer.credential.hook.reveal();
    for text in ["a private word", &FROM[1..], &fresh::OWN[1..], SID, &signature, &hook, "guess", "198.51.100.7"] {
        assert!(!record.contains(text), "{text} in {record}");
    }
    assert!(!world.holds_in_clear("a private word") && !world.holds_in_clear(&FROM[1..]));
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
    // Only what was signed by neither is in quarantine, and the record says that the window is open.
    let facts = async || {
        let records = records(&world, &customer).await;
        let [Record { count, facts, .. }] = records.as_slice() else { panic!("{records:?}") };
        (*count, facts.rotation, facts.secret_since)
    };
    let rotated = until - ROTATION_WINDOW;
    assert_eq!(facts().await, (1, Rotation::WindowOpen, rotated));
    // Not promoted in time.
    world.set_now(until);
    assert_eq!([status(&old).await, status("new").await], [StatusCode::FORBIDDEN, good]);
    assert_eq!(facts().await, (2, Rotation::Recent, rotated));
    // By then a rotation is not the likely cause any more.
    world.advance(ROTATION_WINDOW * 6);
    assert_eq!(status(&old).await, StatusCode::FORBIDDEN);
    assert_eq!(facts().await, (3, Rotation::None, rotated));
    let mismatch = Cause::Rejected(Rejection::Mismatch);
    assert_eq!(
        world.jobs().iter().filter(|job| matches!(job, Job::Alert { .. })).cloned().collect::<Vec<_>>(),
        [
            alert(&customer, mismatch, true, rotated),
            alert(&customer, mismatch, true, until),
            alert(&customer, mismatch, false, until + ROTATION_WINDOW * 6),
        ]
    );
}

#[tokio::test]
async fn a_webhook_is_believed_at_either_host_and_at_no_other() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let path = messages_path(&customer);
    // As Twilio has it, the second host is told what the first one did.
    let failed = format!("https://api.example.com{path}");
    let mut params = text(&customer, "hi");
    params.extend([("ErrorCode".to_owned(), "11200".to_owned()), ("ErrorUrl".to_owned(), failed)]);
    let two = site_with_fallback();
    for (origin, of_one, of_two) in [
        ("https://api.example.com", StatusCode::OK, StatusCode::OK),
        ("https://second.example.net", StatusCode::FORBIDDEN, StatusCode::OK),
        ("https://third.example.net", StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
        ("http://second.example.net", StatusCode::FORBIDDEN, StatusCode::FORBIDDEN),
    ] {
        for (site, expected) in [(&site(), of_one), (&two, of_two)] {
            let request = signed_for(origin, &world, &path, &params, &token(&customer));
            let reply = handle(&world, site, request).await;
            assert_eq!(
                (reply.status, world.take_jobs(Queue::TwilioEvents).len()),
                (expected, usize::from(expected == 200))
            );
        }
        let request = signed_for(origin, &world, &path, &params, "another token");
        assert_eq!(handle(&world, &two, request).await.status, StatusCode::FORBIDDEN, "{origin}");
    }
    let causes: Vec<_> = records(&world, &customer).await.into_iter().map(|record| record.cause).collect();
    assert_eq!(causes, [Cause::Rejected(Rejection::Mismatch)], "what the public address says is told");
}
