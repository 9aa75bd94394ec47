//! Messaging Services: requests of their API, who is told of a text, whose status callback counts.

use serde_json::{Value, json};
use telbuddy::inbound::signature::sign;

use super::{PHONE, SERVICE, World, message_path};

const FOREIGN: &str = "https://customer.example/in?x=1#rc=3";

fn sid(path: &str) -> &str {
    path.rsplit('/').next().unwrap()
}

async fn set(world: &World, path: &str, form: &[(&str, &str)]) -> Value {
    let (status, answer) = world.rest("POST", path, form).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

#[tokio::test]
async fn a_request_that_does_not_fit_the_field_list_is_refused_and_listed() {
    let world = World::new().await;
    let path = world.new_service(&[]).await;
    let cases = [
        ("InboundUrl", "http://localhost/"),
        ("InboundMethod", "PUT"),
        ("StickySender", "yes"),
        ("ValidityPeriod", "0"),
        ("ValidityPeriod", "36001"),
        ("ValidityPeriod", "soon"),
        ("StatusCallback", "no url"),
        ("UseInboundWebhookOnNumber", ""),
    ];
    for (field, value) in cases {
        let (status, answer) = world.rest("POST", &path, &[(field, value)]).await;
        assert_eq!((status, &answer["code"]), (400, &json!(20001)), "{field}={value}");
    }
    for path in ["/v1/Services?PageSize=1001", "/v1/Services/MG1", "/v1/Services/MG1/PhoneNumbers"] {
        assert_eq!(world.rest("GET", path, &[]).await.0, 400, "{path}");
    }
    assert_eq!(world.rest("DELETE", &path, &[]).await.0, 405);
    let overview = world.overview().await;
    assert_eq!(overview["contract_violation_count"], cases.len() + 4);
    assert_eq!(overview["contract_violations"][cases.len() + 3]["field"], "InboundUrl");
    assert_eq!(world.get(&path).await["validity_period"], 36_000, "nothing was set");
}

#[tokio::test]
async fn the_account_is_the_callers() {
    let world = World::new().await;
    let path = world.new_service(&[world.from()]).await;
    let own = world.account.account_sid.clone();
    let key = world.control(&format!("/accounts/{own}/keys"), json!({})).await.1;
    let other = world.control("/accounts", json!({})).await.1;
    let by_token = (&own[..], &world.account.auth_token[..]);
    let by_key = (key["sid"].as_str().unwrap(), key["secret"].as_str().unwrap());
    let by_other = (other["account_sid"].as_str().unwrap(), other["auth_token"].as_str().unwrap());
    let numbers = format!("{path}/PhoneNumbers");
    for (caller, path, expected) in [
        (by_token, &path, (200, json!(null))),
        (by_key, &path, (200, json!(null))),
        (by_key, &numbers, (200, json!(null))),
        (by_other, &path, (404, json!(20404))),
        (by_other, &numbers, (404, json!(20404))),
        ((by_key.0, "wrong"), &path, (401, json!(20003))),
        ((by_token.0, "wrong"), &path, (401, json!(20003))),
    ] {
        let (status, answer) = world.rest_as(caller, "GET", path, &[]).await.unwrap();
        assert_eq!((status, answer["code"].clone()), expected, "{path} as {}", caller.0);
    }
    let (status, _) = world.rest_as(by_other, "POST", &path, &[("FriendlyName", "mine")]).await.unwrap();
    assert_eq!(status, 404);
    let (_, list) = world.rest_as(by_other, "GET", "/v1/Services", &[]).await.unwrap();
    assert_eq!(list["services"], json!([]));
    assert_eq!(world.get(&path).await["friendly_name"], "Front desk");
}

#[tokio::test]
async fn services_are_listed_in_pages() {
    let world = World::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(sid(&world.new_service(&[]).await).to_owned());
    }
    made.reverse();
    let (mut seen, mut back) = (Vec::new(), Value::Null);
    let mut path = "/v1/Services?PageSize=2".to_owned();
    while !path.is_empty() {
        let page = world.get(&path).await;
        seen.extend(page["services"].as_array().unwrap().iter().map(|one| one["sid"].as_str().unwrap().to_owned()));
        let meta = &page["meta"];
        assert_eq!((&meta["key"], &meta["page_size"]), (&json!("services"), &json!(2)));
        assert!(meta["url"].as_str().unwrap().starts_with(&world.double.base_url()));
        back = meta["previous_page_url"].clone();
        path = meta["next_page_url"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, made);
    assert_eq!(world.get(back.as_str().unwrap()).await["services"][0]["sid"], json!(made[2]));
}

#[tokio::test]
async fn a_text_to_a_pool_is_told_the_service_and_without_a_url_only_stored() {
    let world = World::new().await;
    let path = world.new_service(&[world.from()]).await;
    let (own, service) = (world.receiver.url("/number"), world.receiver.url("/service"));
    world.set_number(&[("SmsUrl", &own), ("SmsFallbackUrl", &own)]).await;
    let answer = world.inbound("nobody").await;
    assert!(answer["note"].as_str().unwrap().contains("has no InboundRequestUrl"), "{answer}");

    set(&world, &path, &[("InboundRequestUrl", &service)]).await;
    assert_eq!(world.inbound("service").await["webhook_status"], 200);
    assert_eq!(set(&world, &path, &[("InboundRequestUrl", "")]).await["inbound_request_url"], json!(null));
    world.inbound("nobody").await;
    set(&world, &path, &[("InboundRequestUrl", &service), ("UseInboundWebhookOnNumber", "true")]).await;
    world.inbound("number").await;
    set(&world, &path, &[("UseInboundWebhookOnNumber", "false")]).await;
    world.inbound("service").await;

    let hooks = world.receiver.exactly(3).await;
    let seen: Vec<_> = hooks.iter().map(|hook| (&hook.target[1..], hook.get("Body"))).collect();
    assert!(seen.iter().all(|(target, body)| target == body), "{seen:?}");
    assert_eq!(seen.iter().map(|(target, _)| *target).collect::<Vec<_>>(), ["service", "number", "service"]);
    assert!(hooks.iter().all(|hook| hook.get("MessagingServiceSid") == sid(&path)));
    assert_eq!(hooks[0].header("x-twilio-signature"), sign(&world.account.auth_token, &service, &hooks[0].pairs));
    assert_eq!(world.journal().await.len(), 5, "all are stored");
}

#[tokio::test]
async fn a_service_has_methods_a_fallback_and_retries_of_its_own() {
    let world = World::new().await;
    let path = world.new_service(&[world.from()]).await;
    let (first, second) = (world.receiver.url("/in?x=1"), world.receiver.url("/fallback"));
    let url = format!("{first}#rc=1&rp=5xx");
    let form = [("InboundRequestUrl", &url[..]), ("InboundMethod", "GET"), ("FallbackUrl", &second)];
    let service = set(&world, &path, &form).await;
    assert_eq!((&service["inbound_request_url"], &service["fallback_method"]), (&json!(url), &json!("POST")));
    world.receiver.answers.lock().unwrap().extend([(503, ""), (503, "")]);
    assert_eq!(world.inbound("hi").await["webhook_status"], 200);
    let hooks = world.receiver.exactly(3).await;
    for hook in &hooks[..2] {
        assert!(hook.method == "GET" && hook.target.starts_with("/in?x=1&"), "{hook:?}");
        assert!(!hook.target.contains("rc="), "the fragment is not sent");
        let signed = world.receiver.url(&hook.target);
        assert_eq!(hook.header("x-twilio-signature"), sign(&world.account.auth_token, &signed, &[]));
    }
    assert_eq!((&hooks[2].method.to_string()[..], &hooks[2].target[..]), ("POST", "/fallback"));
    assert_eq!((hooks[2].get("ErrorCode"), hooks[2].get("ErrorUrl")), ("11200".into(), first));
}

#[tokio::test]
async fn a_text_to_a_number_outside_every_pool_that_was_made_is_told_the_number() {
    let world = World::new().await;
    let path = world.new_service(&[&world.account.numbers[1]]).await;
    set(&world, &path, &[("InboundRequestUrl", &world.receiver.url("/service"))]).await;
    world.set_number(&[("SmsUrl", &world.receiver.url("/number"))]).await;
    world.inbound("no service").await;
    let message = world.send(&[("From", "-"), ("MessagingServiceSid", SERVICE)]).await.1;
    world.until(&message_path(&message), "delivered").await;
    world.inbound("a service that formed by itself").await;
    let hooks = world.receiver.exactly(2).await;
    assert!(hooks.iter().all(|hook| hook.target == "/number"));
    assert_eq!([0, 1].map(|n| hooks[n].get("MessagingServiceSid")), ["", SERVICE]);
}

#[tokio::test]
async fn the_status_callback_of_a_service_counts_for_its_messages_without_their_own() {
    let world = World::new().await;
    let path = world.new_service(&[world.from()]).await;
    let (service, own) = (world.receiver.url("/service"), world.receiver.url("/own"));
    let twiml = "<Response><Message>yes</Message></Response>";
    set(&world, &path, &[("StatusCallback", &service)]).await;
    let by_service = [("From", "-"), ("MessagingServiceSid", sid(&path))];
    let message = world.send(&by_service).await.1;
    world.until(&message_path(&message), "delivered").await;
    let [from, with] = by_service;
    world.send(&[from, with, ("StatusCallback", &own)]).await;
    world.send(&[]).await;
    let hooks = world.receiver.exactly(8).await;
    let to = |target: &str| hooks.iter().filter(|hook| hook.target == target).count();
    assert_eq!((to("/service"), to("/own")), (4, 4), "the message that names a number only has no callback");
    assert_eq!(hooks[0].get("MessagingServiceSid"), sid(&path));

    set(&world, &path, &[("InboundRequestUrl", &world.receiver.url("/in"))]).await;
    world.receiver.answers.lock().unwrap().push((200, twiml));
    world.inbound("a reply by TwiML").await;
    let hooks = world.receiver.exactly(12).await;
    assert_eq!(
        hooks[9..].iter().map(|hook| hook.get("MessageStatus")).collect::<Vec<_>>(),
        ["sending", "sent", "delivered"]
    );
    assert!(hooks[9..].iter().all(|hook| hook.target == "/service"));
}

#[tokio::test]
async fn a_service_sends_from_its_pool_only() {
    let world = World::new().await;
    let second = &world.account.numbers[1];
    let path = world.new_service(&[second]).await;
    let by = |path: &str| sid(path).to_owned();
    let message = world.send(&[("From", "-"), ("MessagingServiceSid", &by(&path))]).await.1;
    assert_eq!(world.until(&message_path(&message), "delivered").await["from"], json!(second));
    let empty = world.new_service(&[]).await;
    assert_eq!(world.send(&[("From", "-"), ("MessagingServiceSid", &by(&empty))]).await.0, 21704);
    let other = world.control("/accounts", json!({})).await.1;
    let made = format!("/accounts/{}/services", other["account_sid"].as_str().unwrap());
    let foreign = world.control(&made, json!({})).await.1;
    assert_eq!(world.send(&[("From", "-"), ("MessagingServiceSid", foreign["sid"].as_str().unwrap())]).await.0, 21705);
    let again = format!("/accounts/{}/services", world.account.account_sid);
    let (status, answer) = world.control(&again, json!({"numbers": [second]})).await;
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("a number has one service"), "{answer}");
}

#[tokio::test]
async fn stop_to_one_number_of_a_pool_blocks_the_whole_service() {
    let world = World::new().await;
    let path = world.new_service(&[world.from(), &world.account.numbers[1]]).await;
    world.inbound("STOP").await;
    assert_eq!(world.send(&[("From", &world.account.numbers[1]), ("MessagingServiceSid", sid(&path))]).await.0, 21610);
}

#[tokio::test]
async fn the_console_sets_any_url_of_a_service_and_rest_puts_it_back_to_the_byte() {
    let world = World::new().await;
    let path = world.new_service(&[world.from()]).await;
    let raw = json!({"inbound_request_url": FOREIGN, "status_callback": FOREIGN, "sticky_sender": false});
    let (_, before) = world.control(&path.replace("/v1/Services", "/services"), raw).await;
    assert_eq!(world.get(&path).await, before);
    assert_eq!(world.inbound("hi").await["webhook_status"], json!(null), "the double calls this machine only");

    let url = world.receiver.url("/");
    set(&world, &path, &[("InboundRequestUrl", &url), ("StatusCallback", "")]).await;
    let mut back = set(&world, &path, &[("InboundRequestUrl", FOREIGN), ("StatusCallback", FOREIGN)]).await;
    back["date_updated"] = before["date_updated"].clone();
    assert_eq!(back, before);
    let (status, answer) = world.rest("POST", &path, &[("FallbackUrl", "https://customer.example/")]).await;
    assert_eq!((status, &answer["code"]), (400, &json!(21205)));
    let text = json!({"from": PHONE, "to": world.from(), "messaging_service_sid": sid(&path)});
    assert!(world.control("/inbound", text).await.1["note"].as_str().unwrap().contains("is not on this machine"));
}
