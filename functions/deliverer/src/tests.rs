//! Each event arrives signed, is tried over three days, and an endpoint where nothing arrives is disabled and told
//! once.

use serde_json::{Value, json};
use telbuddy::connection;
use telbuddy::credential::Sid;
use telbuddy::endpoint::{
    Choice, DELIVERY_LEASE, EndpointUrl, Event, EventType, FAILS_FOR, KeepDeliveries, PreviousSecret, Reach, Resent,
    replaced,
};
use telbuddy::ids::EventId;
use telbuddy::message::{CarrierText, Message};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{BODY, Customer, TO, called, crash_after};

use super::*;

const URL: &str = "https://example.com/hooks?key=1";

/// An account with an endpoint whose secret is made of `7`s.
async fn endpoint(world: &World) -> Endpoint {
    let account = fresh::account_with_keys(world, 1).await;
    endpoint_of(world, account, false).await
}

async fn endpoint_of(world: &World, account: AccountId, include_content: bool) -> Endpoint {
    let key = data_key(world, account, Purpose::Profile, None).await.unwrap();
    let id = EndpointId::new(world.now(), fresh::dice(world));
    let new = Endpoint {
        account,
        id,
        url: EndpointUrl::parse(URL, Reach::Public).unwrap(),
        choice: Choice::All,
        include_content,
        description: String::new(),
        secret: SigningSecret::new([7; 32]).seal(&key, id, [1; 12]).unwrap(),
        previous: Vec::new(),
        disabled: None,
        failing_since: None,
        revision: 0,
        created: world.now(),
        updated: world.now(),
    };
    assert_eq!(world.create_endpoint(&new).await, Ok(true));
    world.forget_calls();
    new
}

/// An event for an endpoint that waits to be delivered.
async fn waiting(world: &World, endpoint: &Endpoint, kind: EventType) -> Delivery {
    let now = world.now();
    let event = Event { id: EventId::new(now, fresh::dice(world)), kind, at: now, data: r#"{"n":1}"#.to_owned() };
    let delivery = Delivery::new(endpoint.account, endpoint.id, event, now);
    world.create_delivery(&delivery).await.unwrap();
    world.forget_calls();
    delivery
}

async fn row(world: &World, delivery: &Delivery) -> Delivery {
    let Delivery { account, endpoint, id, .. } = *delivery;
    world.load_delivery(account, endpoint, id).await.unwrap().unwrap()
}

async fn stands(world: &World, endpoint: &Endpoint) -> Endpoint {
    world.load_endpoint(endpoint.account, endpoint.id).await.unwrap().unwrap()
}

fn http(status: u16) -> Answer {
    Answer::Http { status, bytes: 0 }
}

fn alerts(world: &World) -> usize {
    world.jobs().iter().filter(|job| matches!(job, Job::Alert { .. })).count()
}

#[tokio::test]
async fn an_event_arrives_once_signed_with_its_id_and_time() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    let copies = vec![delivery.job(); 5];
    assert_eq!(handle(&world, copies).await, [Handled::Done; 5]);
    let received = world.received();
    let [(url, signed)] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!((url.as_str(), signed.event, signed.at), (URL, delivery.event.id, world.now()));
    assert_eq!(signed.body, delivery.event.body());
    let wanted = signature(&[SigningSecret::new([7; 32])], delivery.event.id, world.now(), &signed.body);
    assert_eq!(signed.signature, wanted);
    let after = row(&world, &delivery).await;
    assert_eq!((after.status, after.attempts.len(), after.tries), (DeliveryStatus::Delivered, 1, 1));
    assert_eq!(world.jobs(), []);
}

#[tokio::test]
async fn a_delivery_costs_a_claim_a_read_and_a_write() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    for _ in 0..2 {
        let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        let calls = [("claim_delivery", 1), ("load_endpoint", 1), ("call_endpoint", 1), ("record_attempt", 1)];
        assert_eq!(called(&world), calls.into_iter().collect());
        world.forget_calls();
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        assert_eq!(called(&world), [("claim_delivery", 1)].into_iter().collect());
    }
}

#[tokio::test]
async fn two_secrets_make_two_signatures_until_the_older_one_is_over() {
    let world = World::new(1);
    let read = endpoint(&world).await;
    let key = data_key(&world, read.account, Purpose::Profile, None).await.unwrap();
    let new = Endpoint {
        secret: SigningSecret::new([8; 32]).seal(&key, read.id, [2; 12]).unwrap(),
        previous: replaced(read.secret.clone(), &[], world.now()).unwrap(),
        revision: 1,
        ..read
    };
    assert_eq!(world.update_endpoint(&new).await, Ok(true));
    let [PreviousSecret { until, .. }] = new.previous[..] else { panic!("one secret was replaced") };
    for (at, bytes) in [(until - secs(1), &[8, 7][..]), (until, &[8])] {
        world.set_now(at);
        let delivery = waiting(&world, &new, EventType::MessageSent).await;
        handle(&world, vec![delivery.job()]).await;
        let secrets: Vec<_> = bytes.iter().map(|byte| SigningSecret::new([*byte; 32])).collect();
        let signed = world.received().pop().unwrap().1;
        assert_eq!(signed.signature, signature(&secrets, delivery.event.id, at, &signed.body));
    }
}

#[tokio::test]
async fn what_fails_is_tried_eleven_times_by_hints_and_the_sweeper_with_the_same_id_and_body() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    world.endpoints_answer([Answer::None(Trouble::TimedOut), Answer::None(Trouble::NoConnection)]);
    world.endpoints_answer(std::iter::repeat_n(http(500), 20));
    let mut hinted = 0;
    handle(&world, vec![delivery.job()]).await;
    while let Some(next) = row(&world, &delivery).await.next {
        let wait = next.duration_since(world.now());
        let queued = world.queued().pop();
        assert_eq!(queued.is_some(), wait <= MOST_DELAY, "{wait}");
        if let Some(queued) = queued {
            hinted += 1;
            assert!(queued.ready >= next && queued.ready < next + secs(2));
            world.set_now(queued.ready);
            assert_eq!(handle(&world, world.take_jobs(QUEUE)).await, [Handled::Done]);
        } else {
            world.set_now(next);
            assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        }
    }
    let after = row(&world, &delivery).await;
    assert_eq!((after.status, after.tries, after.attempts.len(), hinted), (DeliveryStatus::Failed, 11, 11, 3));
    let received = world.received();
    assert_eq!(received.len(), 11);
    assert!(received.iter().all(|(_, signed)| signed.event == delivery.event.id && signed.body == received[0].1.body));
    // Resent, it starts anew.
    assert_eq!(world.resend_delivery(&after, world.now()).await, Ok(Resent::Now));
    world.endpoints_answer([]);
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    assert_eq!(row(&world, &delivery).await.tries, 1);
}

#[tokio::test]
async fn failures_are_noted_once_and_forgotten_with_the_first_success() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    let began = world.now();
    for (answer, failing) in [(500, Some(began)), (503, Some(began)), (200, None), (200, None)] {
        world.endpoints_answer([http(answer)]);
        let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
        handle(&world, vec![delivery.job()]).await;
        assert_eq!(stands(&world, &endpoint).await.failing_since, failing, "{answer}");
        world.advance(secs(60));
    }
    world.endpoints_answer([http(500)]);
    let test = waiting(&world, &endpoint, EventType::EndpointTest).await;
    handle(&world, vec![test.job()]).await;
    assert_eq!(stands(&world, &endpoint).await.failing_since, None, "a test that fails says nothing");
    assert_eq!(row(&world, &test).await.status, DeliveryStatus::Failed);
}

#[tokio::test]
async fn five_days_of_failures_disable_an_endpoint_and_alert_once() {
    for seed in 0..20 {
        let world = World::new(seed);
        let endpoint = endpoint(&world).await;
        world.endpoints_answer(std::iter::repeat_n(http(500), 9));
        let first = waiting(&world, &endpoint, EventType::MessageSent).await;
        handle(&world, vec![first.job()]).await;
        world.take_jobs(QUEUE);
        world.advance(FAILS_FOR);
        let mut jobs = Vec::new();
        for _ in 0..8 {
            jobs.push(waiting(&world, &endpoint, EventType::MessageSent).await.job());
        }
        assert_eq!(handle(&world, jobs).await, [Handled::Done; 8]);
        let disabled = stands(&world, &endpoint).await.disabled.unwrap();
        assert_eq!((disabled.why, disabled.untold, alerts(&world)), (WhyDisabled::Failing, false, 1), "seed {seed}");
        assert!(!world.gate(endpoint.account).unwrap().listeners.0[&endpoint.id].has(EventType::MessageSent));
        // What is still on its way is not sent.
        let n_sent = world.received().len();
        let late = waiting(&world, &endpoint, EventType::MessageSent).await;
        handle(&world, vec![late.job()]).await;
        let late = row(&world, &late).await;
        assert_eq!((late.status, late.attempts[0].result), (DeliveryStatus::Failed, Answer::None(Trouble::Disabled)));
        assert_eq!(world.received().len(), n_sent);
    }
}

#[tokio::test]
async fn gone_disables_at_once_and_a_removed_endpoint_gets_nothing() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    world.endpoints_answer([http(410)]);
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    handle(&world, vec![delivery.job()]).await;
    assert_eq!(stands(&world, &endpoint).await.disabled.unwrap().why, WhyDisabled::Gone);
    assert_eq!((row(&world, &delivery).await.status, alerts(&world)), (DeliveryStatus::Failed, 1));
    let late = waiting(&world, &endpoint, EventType::MessageSent).await;
    assert_eq!(world.delete_endpoint(endpoint.account, endpoint.id).await, Ok(true));
    assert_eq!(handle(&world, vec![late.job()]).await, [Handled::Done]);
    assert_eq!((row(&world, &late).await.status, world.received().len()), (DeliveryStatus::Failed, 1));
}

/// Wherever it crashes: after a while the owner is told, mostly once, and never not at all.
#[tokio::test]
async fn an_alert_is_not_lost_in_a_crash() {
    for polls in 0..40 {
        let world = World::new(polls);
        let endpoint = endpoint(&world).await;
        world.endpoints_answer([http(410), http(410)]);
        let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
        let _ = crash_after(usize::try_from(polls).unwrap(), handle(&world, vec![delivery.job()]));
        for _ in 0..3 {
            world.advance(DELIVERY_LEASE + secs(1));
            assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        }
        let disabled = stands(&world, &endpoint).await.disabled.unwrap();
        assert!(!disabled.untold && (1..=2).contains(&alerts(&world)), "{polls}: {}", alerts(&world));
        assert_eq!(row(&world, &delivery).await.status, DeliveryStatus::Failed);
    }
}

#[tokio::test]
async fn an_alert_that_finds_no_queue_comes_with_the_next_try() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    world.endpoints_answer([http(410)]);
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Again]);
    assert_eq!((alerts(&world), stands(&world, &endpoint).await.disabled.unwrap().untold), (0, true));
    world.advance(DELIVERY_LEASE);
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    assert_eq!((alerts(&world), stands(&world, &endpoint).await.disabled.unwrap().untold), (1, false));
}

#[tokio::test]
async fn a_key_that_does_not_open_leaves_the_delivery_to_its_lease() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    world.forget_keys();
    world.fail_next("open_key", Fault::transient("KMS is busy"));
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Again]);
    assert_eq!(world.received(), []);
    world.advance(DELIVERY_LEASE);
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    assert_eq!(world.received().len(), 1);
}

#[tokio::test]
async fn a_job_of_another_queue_is_refused() {
    let world = World::new(1);
    let job = Job::Post { account: AccountId::from_bits(1), message: telbuddy::ids::MessageId::from_bits(1) };
    assert_eq!(handle(&world, vec![job]).await, [Handled::Again]);
}

#[tokio::test]
async fn no_secret_lies_in_clear() {
    let world = World::new(1);
    let endpoint = endpoint(&world).await;
    let delivery = waiting(&world, &endpoint, EventType::MessageSent).await;
    handle(&world, vec![delivery.job()]).await;
    let at_rest = world.at_rest();
    assert!(!at_rest.windows(8).any(|window| window == [7; 8]));
    assert!(!world.holds_in_clear("whsec_"));
}

/// Somebody whose endpoint includes content, or does not.
async fn customer(world: &World, include_content: bool) -> (Customer, Endpoint) {
    let customer = Customer::new(world).await;
    let endpoint = endpoint_of(world, customer.account, include_content).await;
    (customer, endpoint)
}

/// A text that arrived with so many pictures, its SID, and the event of it that waits to be delivered.
async fn text(world: &World, customer: &Customer, endpoint: &Endpoint, n_media: usize) -> (Message, String, Delivery) {
    let message = fresh::inbound(world, customer.account, world.now());
    let media: Vec<_> = (0..n_media).map(|_| fresh::sid(world, "ME")).collect();
    let pieces: Vec<(Sid, &str)> = media.iter().map(|sid| (sid.clone(), "image/jpeg")).collect();
    let text = CarrierText { body: BODY.to_owned(), to: fresh::OWN.to_owned(), from: Some(TO.to_owned()), n_media: 0 };
    let sid = message.sid.clone().unwrap();
    world.twilio().add_text(customer.credential.account_sid.as_str(), &sid, text, &pieces);
    let delivery = told(world, endpoint, &message, EventType::MessageReceived).await;
    (message, sid, delivery)
}

/// An event of a message that waits to be delivered.
async fn told(world: &World, endpoint: &Endpoint, message: &Message, kind: EventType) -> Delivery {
    let delivery = Delivery::new(endpoint.account, endpoint.id, Event::of_message(message, kind), world.now());
    world.create_delivery(&delivery).await.unwrap();
    world.forget_calls();
    delivery
}

/// What the endpoint got last.
fn last(world: &World) -> Value {
    serde_json::from_str(&world.received().pop().unwrap().1.body).unwrap()
}

#[tokio::test]
async fn content_is_sent_to_who_asked_for_it_for_one_read_and_one_get_more_and_is_kept_nowhere() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let each = [("claim_delivery", 1), ("load_endpoint", 1), ("call_endpoint", 1), ("record_attempt", 1)];
    let more = [("load_credential", 1), ("read_text", 1)];
    let cold = [("load_keys", 1), ("open_key", 1)];
    for calls in [[each.as_slice(), &more, &cold].concat(), [each.as_slice(), &more].concat()] {
        let (message, _, delivery) = text(&world, &customer, &endpoint, 0).await;
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        assert_eq!(called(&world), calls.into_iter().collect());
        let body = last(&world);
        let content = json!({ "body": BODY, "to": fresh::OWN, "from": TO, "media": [] });
        assert_eq!((&body["data"]["content"], &body["data"]["content_missing"]), (&content, &Value::Null));
        assert_eq!((&body["data"]["id"], &body["version"]), (&json!(message.id), &json!(1)));
        let (_, signed) = world.received().pop().unwrap();
        let wanted = signature(&[SigningSecret::new([7; 32])], signed.event, signed.at, &signed.body);
        assert_eq!(signed.signature, wanted);
        assert!(!format!("{signed:?}").contains(BODY));
        assert_eq!(row(&world, &delivery).await.status, DeliveryStatus::Delivered);
    }
    let opened: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    assert_eq!(opened.iter().filter(|purpose| **purpose == Purpose::Send).count(), 1, "{opened:?}");
    assert!(!world.holds_in_clear(BODY) && !world.holds_in_clear(TO));
    assert!(world.jobs().iter().all(|job| !format!("{job:?}").contains(BODY)));
}

#[tokio::test]
async fn who_did_not_ask_for_content_gets_the_event_as_stored_and_twilio_is_not_asked() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, false).await;
    let (_, _, delivery) = text(&world, &customer, &endpoint, 1).await;
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    let calls = [("claim_delivery", 1), ("load_endpoint", 1), ("call_endpoint", 1), ("record_attempt", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(world.received()[0].1.body, delivery.event.body());
    assert_eq!(last(&world)["data"].get("content").or(last(&world)["data"].get("content_missing")), None);
}

#[tokio::test]
async fn media_are_listed_by_one_get_more_with_our_own_addresses() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let (message, _, delivery) = text(&world, &customer, &endpoint, 2).await;
    handle(&world, vec![delivery.job()]).await;
    assert_eq!((called(&world)["read_text"], called(&world)["list_media"]), (1, 1));
    let path = |n| format!("/v1/messages/{}/media/{n}", message.id);
    let piece = |n| json!({ "n": n, "content_type": "image/jpeg", "path": path(n) });
    assert_eq!(last(&world)["data"]["content"]["media"], json!([piece(0), piece(1)]));
}

#[tokio::test]
async fn an_event_that_is_about_no_message_or_one_that_twilio_never_had_costs_nothing_more() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let test = Event::test(endpoint.id, fresh::dice(&world), world.now());
    let id = EventId::new(world.now(), fresh::dice(&world));
    let frozen = Event { id, kind: EventType::SendingFrozen, ..test.clone() };
    let message = Message { sid: None, ..fresh::inbound(&world, customer.account, world.now()) };
    let refused = Event::of_message(&message, EventType::MessageFailed);
    for event in [test, frozen, refused] {
        let delivery = Delivery::new(endpoint.account, endpoint.id, event, world.now());
        world.create_delivery(&delivery).await.unwrap();
        world.forget_calls();
        handle(&world, vec![delivery.job()]).await;
        let calls = [("claim_delivery", 1), ("load_endpoint", 1), ("call_endpoint", 1), ("record_attempt", 1)];
        assert_eq!(called(&world), calls.into_iter().collect());
        let about_one = delivery.event.kind == EventType::MessageFailed;
        let missing = about_one.then(|| json!("not_at_twilio"));
        assert_eq!(last(&world)["data"].get("content_missing"), missing.as_ref());
    }
}

/// What happens at Twilio to the message with a SID.
type Happens<'a> = &'a dyn Fn(&str);

#[tokio::test]
async fn what_stays_missing_goes_out_at_once_and_says_why() {
    use connection::Trouble::{Inactive, NotAllowed, Refused};
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let twilio = || world.twilio();
    let cases: [(&str, Happens<'_>); 5] = [
        ("gone_at_twilio", &|sid| twilio().delete_text(sid)),
        ("redacted", &|sid| twilio().redact_text(sid)),
        ("refused_by_twilio", &|sid| twilio().text_says(sid, Refused)),
        ("refused_by_twilio", &|sid| twilio().text_says(sid, Inactive)),
        ("refused_by_twilio", &|sid| twilio().text_says(sid, NotAllowed)),
    ];
    for (why, happens) in cases {
        let (_, sid, delivery) = text(&world, &customer, &endpoint, 0).await;
        happens(&sid);
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        let data = last(&world)["data"].clone();
        assert_eq!((&data["content"], &data["content_missing"]), (&Value::Null, &json!(why)));
        assert_eq!(row(&world, &delivery).await.status, DeliveryStatus::Delivered);
    }
    let (_, _, delivery) = text(&world, &customer, &endpoint, 0).await;
    let gone = world.remove_credential(&customer.credential, &customer.sid_hash, 0).await;
    assert_eq!(gone, Ok(true));
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    assert_eq!(last(&world)["data"]["content_missing"], "not_connected");
}

#[tokio::test]
async fn while_twilio_cannot_be_asked_nothing_is_sent_and_the_endpoint_is_not_blamed() {
    use connection::Trouble::{Busy, Unreachable};
    for trouble in [Busy, Unreachable] {
        let world = World::new(1);
        let (customer, endpoint) = customer(&world, true).await;
        // Long ago it failed: what Twilio does not answer must not be what disables it.
        world.note_failing(endpoint.account, endpoint.id, world.now()).await.unwrap();
        world.advance(FAILS_FOR);
        let (_, sid, delivery) = text(&world, &customer, &endpoint, 0).await;
        let good = CarrierText { body: BODY.to_owned(), to: fresh::OWN.to_owned(), from: None, n_media: 0 };
        world.twilio().text_says(&sid, trouble);
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        assert_eq!(world.received(), []);
        let after = row(&world, &delivery).await;
        let unasked = Answer::None(Trouble::TwilioUnavailable);
        assert_eq!((after.status, after.attempts[0].result), (DeliveryStatus::Pending, unasked));
        assert!(stands(&world, &endpoint).await.disabled.is_none());
        // The hint wakes the next try, which reads again.
        world.twilio().add_text(customer.credential.account_sid.as_str(), &sid, good, &[]);
        world.set_now(world.queued().pop().unwrap().ready);
        assert_eq!(handle(&world, world.take_jobs(QUEUE)).await, [Handled::Done]);
        assert_eq!(last(&world)["data"]["content"]["body"], BODY);
        assert_eq!(world.received()[0].1.event, delivery.event.id);
        assert_eq!(row(&world, &delivery).await.status, DeliveryStatus::Delivered);
        assert_eq!(stands(&world, &endpoint).await.failing_since, None);
    }
}

#[tokio::test]
async fn the_last_try_goes_without_content_and_resent_it_is_read_again() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let (_, sid, delivery) = text(&world, &customer, &endpoint, 0).await;
    world.twilio().text_says(&sid, connection::Trouble::Unreachable);
    handle(&world, vec![delivery.job()]).await;
    while let Some(next) = row(&world, &delivery).await.next {
        assert_eq!(world.received(), []);
        world.set_now(next);
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    }
    let after = row(&world, &delivery).await;
    assert_eq!((after.status, after.tries, world.received().len()), (DeliveryStatus::Delivered, 11, 1));
    assert_eq!(last(&world)["data"]["content_missing"], "twilio_unavailable");
    let back = CarrierText { body: BODY.to_owned(), to: fresh::OWN.to_owned(), from: None, n_media: 0 };
    world.twilio().add_text(customer.credential.account_sid.as_str(), &sid, back, &[]);
    assert_eq!(world.resend_delivery(&after, world.now()).await, Ok(Resent::Now));
    assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
    assert_eq!(last(&world)["data"]["content"]["body"], BODY);
}

#[tokio::test]
async fn a_retry_reads_again_and_sends_what_the_message_says_by_then_under_the_same_id() {
    let world = World::new(1);
    let (customer, endpoint) = customer(&world, true).await;
    let (_, sid, delivery) = text(&world, &customer, &endpoint, 0).await;
    world.endpoints_answer([http(503)]);
    handle(&world, vec![delivery.job()]).await;
    assert_eq!(last(&world)["data"]["content"]["body"], BODY);
    world.twilio().delete_text(&sid);
    world.set_now(row(&world, &delivery).await.next.unwrap());
    handle(&world, vec![delivery.job()]).await;
    assert_eq!(last(&world)["data"]["content_missing"], "gone_at_twilio");
    let received = world.received();
    assert_eq!((received.len(), received[0].1.event), (2, received[1].1.event));
    assert!(!world.holds_in_clear(BODY));
}

#[tokio::test]
async fn a_fault_of_our_own_before_twilio_is_asked_waits_for_the_next_try_too() {
    for (method, fault) in [
        ("load_credential", Fault::transient("DynamoDB is busy")),
        ("load_keys", Fault::transient("DynamoDB is busy")),
        ("open_key", Fault::transient("KMS is busy")),
        ("open_key", Fault::permanent("KMS refuses")),
    ] {
        let world = World::new(1);
        let (customer, endpoint) = customer(&world, true).await;
        let (_, _, delivery) = text(&world, &customer, &endpoint, 0).await;
        world.fail_next(method, fault);
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done], "{method}");
        assert_eq!((world.received(), row(&world, &delivery).await.status), (vec![], DeliveryStatus::Pending));
        world.set_now(row(&world, &delivery).await.next.unwrap());
        assert_eq!(handle(&world, vec![delivery.job()]).await, [Handled::Done]);
        assert_eq!(last(&world)["data"]["content"]["body"], BODY, "{method}");
    }
}
