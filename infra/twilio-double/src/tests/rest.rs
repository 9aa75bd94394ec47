//! Requests and answers.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{PHONE, SERVICE, World, message_path};
use crate::validate::contract;

/// The documented schema, with every field wanted and no other allowed.
fn strict(schema: &Value) -> Value {
    let Value::Object(fields) = schema else {
        return schema.clone();
    };
    let mut fields: Map<String, Value> = fields.clone();
    if let Some(Value::Object(properties)) = fields.get("properties").cloned() {
        fields.insert("required".into(), properties.keys().cloned().collect());
        fields.insert("additionalProperties".into(), false.into());
        fields.insert("properties".into(), properties.iter().map(|(k, v)| (k.clone(), strict(v))).collect());
    }
    if let Some(items) = fields.get("items").cloned() {
        fields.insert("items".into(), strict(&items));
    }
    Value::Object(fields)
}

struct Checked<'w> {
    world: &'w World,
    seen: BTreeSet<&'static str>,
}

impl Checked<'_> {
    async fn call(&mut self, id: &'static str, method: &str, path: &str, form: &[(&str, &str)]) -> Value {
        let (status, answer) = self.world.rest(method, path, form).await;
        let operation = contract().unwrap().operations.iter().find(|operation| operation.id == id).unwrap();
        let Some(schema) = &operation.answer else {
            assert_eq!((status, &answer), (204, &Value::Null), "{id}");
            self.seen.insert(id);
            return answer;
        };
        assert!(status < 300, "{id}: {status} {answer}");
        let validator = jsonschema::options().should_validate_formats(false).build(&strict(schema)).unwrap();
        let errors: Vec<_> = validator.iter_errors(&answer).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{id}: {errors:?}");
        self.seen.insert(id);
        answer
    }
}

#[tokio::test]
async fn every_operation_answers_in_the_documented_shape() {
    let world = World::slow().await;
    let mut w = Checked { world: &world, seen: BTreeSet::new() };
    messages_and_media(&mut w).await;
    calls(&mut w).await;
    numbers(&mut w).await;
    account_and_usage(&mut w).await;
    keys(&mut w).await;
    services(&mut w).await;
    let operations = &contract().unwrap().operations;
    assert_eq!(w.seen, operations.iter().map(|operation| &operation.id[..]).collect());
    assert_eq!(world.overview().await["contract_violations"], json!([]));
}

fn sid(answer: &Value) -> &str {
    answer["sid"].as_str().unwrap()
}

async fn messages_and_media(w: &mut Checked<'_>) {
    let mut form = vec![("To", PHONE), ("From", w.world.from()), ("Body", "hi")];
    form.extend([("MediaUrl", "http://127.0.0.1/a"), ("MediaUrl", "http://127.0.0.1/b")]);
    let message = w.call("CreateMessage", "POST", "/Messages.json", &form).await;
    assert_eq!(message["num_media"], "2");
    assert_eq!((&message["date_sent"], &message["price"]), (&Value::Null, &Value::Null));
    let path = message_path(&message);
    w.world.until(&path, "delivered").await;
    w.call("FetchMessage", "GET", &path, &[]).await;
    w.call("ListMessage", "GET", "/Messages.json", &[]).await;
    let below = path.replace(".json", "");
    let list = w.call("ListMedia", "GET", &format!("{below}/Media.json"), &[]).await;
    let media = format!("{below}/Media/{}.json", sid(&list["media_list"][0]));
    w.call("FetchMedia", "GET", &media, &[]).await;
    w.call("DeleteMedia", "DELETE", &media, &[]).await;
    let feedback = format!("{below}/Feedback.json");
    w.call("CreateMessageFeedback", "POST", &feedback, &[("Outcome", "confirmed")]).await;
    w.call("UpdateMessage", "POST", &path, &[("Body", "")]).await;
    w.call("DeleteMessage", "DELETE", &path, &[]).await;
}

async fn calls(w: &mut Checked<'_>) {
    let url = w.world.receiver.url("/");
    let form = [("To", PHONE), ("From", w.world.from()), ("Url", &url)];
    let call = w.call("CreateCall", "POST", "/Calls.json", &form).await;
    let path = format!("/Calls/{}.json", sid(&call));
    w.call("UpdateCall", "POST", &path, &[("Status", "completed")]).await;
    w.call("FetchCall", "GET", &path, &[]).await;
    w.call("ListCall", "GET", "/Calls.json?Status=completed", &[]).await;
}

async fn numbers(w: &mut Checked<'_>) {
    let shop = "/AvailablePhoneNumbers/US";
    let local = format!("{shop}/Local.json?AreaCode=303");
    let local = w.call("ListAvailablePhoneNumberLocal", "GET", &local, &[]).await;
    w.call("ListAvailablePhoneNumberMobile", "GET", &format!("{shop}/Mobile.json"), &[]).await;
    w.call("ListAvailablePhoneNumberTollFree", "GET", &format!("{shop}/TollFree.json"), &[]).await;
    let wanted = [("PhoneNumber", local["available_phone_numbers"][0]["phone_number"].as_str().unwrap())];
    let number = w.call("CreateIncomingPhoneNumber", "POST", "/IncomingPhoneNumbers.json", &wanted).await;
    let path = format!("/IncomingPhoneNumbers/{}.json", sid(&number));
    let url = w.world.receiver.url("/");
    let form = [("SmsUrl", &url[..]), ("VoiceCallerIdLookup", "true"), ("TrunkSid", "")];
    let number = w.call("UpdateIncomingPhoneNumber", "POST", &path, &form).await;
    assert_eq!(number["sms_url"], url);
    w.call("FetchIncomingPhoneNumber", "GET", &path, &[]).await;
    w.call("ListIncomingPhoneNumber", "GET", "/IncomingPhoneNumbers.json", &[]).await;
    w.call("DeleteIncomingPhoneNumber", "DELETE", &path, &[]).await;
}

async fn account_and_usage(w: &mut Checked<'_>) {
    let own = &w.world.account.account_sid;
    w.world.control(&format!("/accounts/{own}"), json!({"verified": [PHONE]})).await;
    let path = format!("/2010-04-01/Accounts/{own}.json");
    w.call("FetchAccount", "GET", &path, &[]).await;
    let ids = w.call("ListOutgoingCallerId", "GET", "/OutgoingCallerIds.json", &[]).await;
    assert_eq!(ids["outgoing_caller_ids"][0]["phone_number"], PHONE);
    w.call("ListUsageRecord", "GET", "/Usage/Records.json", &[]).await;
    w.call("ListUsageRecordDaily", "GET", "/Usage/Records/Daily.json", &[]).await;
    let month = "/Usage/Records/Monthly.json?Category=mms-outbound";
    let month = w.call("ListUsageRecordMonthly", "GET", month, &[]).await;
    assert_eq!(month["usage_records"][0]["count"], "1");
    let balance = w.call("FetchBalance", "GET", "/Balance.json", &[]).await;
    assert_eq!(balance["balance"], "99.99210");
}

async fn keys(w: &mut Checked<'_>) {
    let key = w.call("CreateNewKey", "POST", "/Keys.json", &[("FriendlyName", "one")]).await;
    let path = format!("/Keys/{}.json", sid(&key));
    w.call("UpdateKey", "POST", &path, &[("FriendlyName", "two")]).await;
    assert_eq!(w.call("FetchKey", "GET", &path, &[]).await["friendly_name"], "two");
    w.call("ListKey", "GET", "/Keys.json", &[]).await;
    w.call("DeleteKey", "DELETE", &path, &[]).await;
}

async fn services(w: &mut Checked<'_>) {
    let path = w.world.new_service(&[w.world.from()]).await;
    let url = w.world.receiver.url("/");
    let form = [("FriendlyName", "two"), ("InboundRequestUrl", &url[..]), ("ValidityPeriod", "14400")];
    let service = w.call("UpdateService", "POST", &path, &form).await;
    assert_eq!((&service["friendly_name"], &service["validity_period"]), (&json!("two"), &json!(14_400)));
    assert_eq!(w.call("FetchService", "GET", &path, &[]).await, service);
    assert_eq!(w.call("ListService", "GET", "/v1/Services", &[]).await["services"], json!([service]));
    let numbers = service["links"]["phone_numbers"].as_str().unwrap();
    let numbers = w.call("ListPhoneNumber", "GET", numbers, &[]).await;
    assert_eq!(numbers["phone_numbers"][0]["phone_number"], w.world.from());
    assert_eq!(numbers["phone_numbers"][0]["service_sid"], service["sid"]);
}

/// Request, form, and the field that does not fit.
type Misfitting<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn a_request_that_does_not_fit_the_openapi_is_refused_and_listed() {
    let world = World::new().await;
    let at = "POST /Messages.json";
    let good = [("To", PHONE), ("From", world.from()), ("Body", "hi")];
    let cases: [Misfitting; 8] = [
        (at, &[("From", world.from()), ("Body", "hi")], "To"),
        (at, &[good[0], good[1], good[2], ("Subject", "x")], "Subject"),
        (at, &[good[0], good[1], good[2], ("ValidityPeriod", "soon")], "ValidityPeriod"),
        (at, &[good[0], good[1], good[2], ("ScheduleType", "later")], "ScheduleType"),
        (at, &[good[0], good[2], ("MessagingServiceSid", "MG1")], "MessagingServiceSid"),
        (at, &[good[0], good[1], good[2], ("StatusCallback", "no url")], "StatusCallback"),
        ("GET /Messages.json?PageSize=5000", &[], "PageSize"),
        ("GET /Messages/SM1.json", &[], "Sid"),
    ];
    for (request, form, field) in &cases {
        let (method, path) = request.split_once(' ').unwrap();
        let (status, answer) = world.rest(method, path, form).await;
        let message = answer["message"].as_str().unwrap();
        assert_eq!((status, &answer["code"]), (400, &json!(20001)), "{field}");
        assert!(message.starts_with("twilio-double: request does not fit Twilio's OpenAPI: "), "{message}");
        assert!(message.contains(field), "{message}");
    }
    let overview = world.overview().await;
    assert_eq!(overview["contract_violation_count"], cases.len());
    let listed: Vec<_> =
        overview["contract_violations"].as_array().unwrap().iter().rev().map(|v| v["field"].clone()).collect();
    assert_eq!(listed, cases.iter().map(|case| json!(case.2)).collect::<Vec<_>>());
    assert_eq!(world.journal().await, Vec::<Value>::new());
    let (status, answer) = world.rest("DELETE", "/Messages.json", &[]).await;
    assert_eq!((status, &answer["code"]), (405, &json!(20004)));
    assert_eq!(world.overview().await["contract_violation_count"], cases.len() + 1);
}

#[tokio::test]
async fn callers_are_told_apart_by_token_and_key() {
    let world = World::new().await;
    let sid = world.account.account_sid.clone();
    let key = world.control(&format!("/accounts/{sid}/keys"), json!({})).await.1;
    let key = (key["sid"].as_str().unwrap(), key["secret"].as_str().unwrap());
    let other = world.control("/accounts", json!({"status": "active", "type": "Full"})).await.1;
    let other = (other["account_sid"].as_str().unwrap(), other["auth_token"].as_str().unwrap());
    let own = (&sid[..], &world.account.auth_token[..]);
    let account = format!("/2010-04-01/Accounts/{sid}.json");
    let nobody = "/2010-04-01/Accounts/AC00000000000000000000000000000009/Messages.json";
    let unknown = "/Messages/SM00000000000000000000000000000009.json";
    for (caller, path, expected) in [
        (own, "/Messages.json", (200, json!(null))),
        (own, &account, (200, json!(null))),
        (key, "/Messages.json", (200, json!(null))),
        (key, &account, (401, json!(20003))),
        (key, "/Keys.json", (401, json!(20003))),
        ((&sid, "wrong"), "/Messages.json", (401, json!(20003))),
        ((key.0, "wrong"), "/Messages.json", (401, json!(20003))),
        (other, "/Messages.json", (404, json!(20404))),
        (own, nobody, (404, json!(20404))),
        (key, nobody, (401, json!(20003))),
        (own, unknown, (404, json!(20404))),
        (own, "/Faxes.json", (404, json!(20404))),
    ] {
        let (status, answer) = world.rest_as(caller, "GET", path, &[]).await.unwrap();
        assert_eq!((status, answer["code"].clone()), expected, "{path} as {}", caller.0);
    }
    world.control(&format!("/accounts/{sid}"), json!({"status": "suspended"})).await;
    let (status, answer) = world.rest("GET", "/Messages.json", &[]).await;
    assert_eq!((status, &answer["code"]), (401, &json!(20005)));
}

#[tokio::test]
async fn a_message_is_refused_with_twilios_code() {
    let world = World::new().await;
    let long = "x".repeat(1601);
    let soon = "2020-01-01T00:00:00Z";
    let own = world.from();
    let cases: [(&[(&str, &str)], u64); 22] = [
        (&[("From", "-")], 21603),
        (&[("Body", &long)], 21617),
        (&[("Body", "-")], 21602),
        (&[("Body", "")], 21602),
        (&[("To", "12")], 21211),
        (&[("To", own)], 21266),
        (&[("To", "+15005550001")], 21211),
        (&[("To", "+15005550002")], 21612),
        (&[("To", "+15005550003")], 21408),
        (&[("To", "+15005550004")], 21610),
        (&[("To", "+15005550009")], 21614),
        (&[("From", "+15005550001")], 21212),
        (&[("From", "+15005550007")], 21606),
        (&[("From", "+15005550008")], 21611),
        (&[("From", "+14155559999")], 21606),
        (&[("MediaUrl", "no url")], 21620),
        (&[("ScheduleType", "fixed")], 35118),
        (&[("ScheduleType", "fixed"), ("MessagingServiceSid", SERVICE)], 35111),
        (&[("ScheduleType", "fixed"), ("MessagingServiceSid", SERVICE), ("SendAt", soon)], 35114),
        (&[("StatusCallback", "https://example.com/")], 21609),
        (&[("ContentSid", "HX00000000000000000000000000000001"), ("ContentVariables", "no")], 21656),
        (&[("From", "+15005550006")], 0),
    ];
    for (fields, code) in cases {
        assert_eq!(world.send(fields).await.0, code, "{fields:?}");
    }
    assert_eq!(world.overview().await["contract_violation_count"], 0);
    assert_eq!(world.journal().await.len(), 1);
}

#[tokio::test]
async fn a_trial_account_writes_to_verified_numbers_only() {
    let world = World::new().await;
    let own = format!("/accounts/{}", world.account.account_sid);
    world.control(&own, json!({"type": "Trial", "verified": [PHONE]})).await;
    assert_eq!(world.send(&[("To", "+12065550199")]).await.0, 21608);
    assert_eq!(world.send(&[]).await.1["body"], "Sent from your Twilio trial account - hello");
}

#[tokio::test]
async fn segments_are_counted_as_twilio_bills_them() {
    let world = World::new().await;
    assert_eq!(world.send(&[("Body", &"a".repeat(161))]).await.1["num_segments"], "2");
    assert_eq!(world.send(&[("Body", &"ж".repeat(71))]).await.1["num_segments"], "2");
    let message = world.send(&[("From", "-"), ("MessagingServiceSid", SERVICE)]).await.1;
    assert_eq!(
        (&message["num_segments"], &message["status"], &message["from"]),
        (&json!("0"), &json!("accepted"), &Value::Null)
    );
    let message = world.until(&message_path(&message), "delivered").await;
    assert_eq!((&message["num_segments"], &message["from"]), (&json!("1"), &json!(world.from())));
    assert_eq!(message["price"], "-0.00790");
}

#[tokio::test]
async fn a_scheduled_message_can_be_canceled_and_a_sent_one_redacted_and_deleted() {
    let world = World::slow().await;
    let in_an_hour = (crate::state::now() + jiff::SignedDuration::from_hours(1)).to_string();
    let scheduled = [("ScheduleType", "fixed"), ("SendAt", &in_an_hour[..]), ("MessagingServiceSid", SERVICE)];
    let message = world.send(&scheduled).await.1;
    assert_eq!(message["status"], "scheduled");
    let path = message_path(&message);
    assert_eq!(world.rest("DELETE", &path, &[]).await.1["code"], 20009);
    assert_eq!(world.rest("POST", &path, &[("Status", "canceled")]).await.1["status"], "canceled");

    let path = message_path(&world.send(&[]).await.1);
    assert_eq!(world.rest("POST", &path, &[("Body", "")]).await.1["code"], 20009);
    world.until(&path, "delivered").await;
    assert_eq!(world.rest("POST", &path, &[("Status", "canceled")]).await.1["code"], 30409);
    assert_eq!(world.rest("POST", &path, &[("Body", "other")]).await.1["code"], 30400);
    assert_eq!(world.rest("POST", &path, &[("Body", "")]).await.1["body"], "");
    assert_eq!(world.rest("DELETE", &path, &[]).await.0, 204);
    assert_eq!(world.rest("GET", &path, &[]).await.0, 404);
    assert_eq!(world.journal().await[1]["body"], "hello", "the journal forgets nothing");
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let world = World::new().await;
    for n in 0..5 {
        world.send(&[("Body", &n.to_string())]).await;
    }
    world.send(&[("To", "+12065550177")]).await;
    let mut path = format!("/Messages.json?PageSize=2&To={}&DateSent%3E=2020-01-01", PHONE.replace('+', "%2B"));
    let mut bodies = Vec::new();
    let mut back = Value::Null;
    while !path.is_empty() {
        let page = world.get(&path).await;
        bodies.extend(page["messages"].as_array().unwrap().iter().map(|m| m["body"].as_str().unwrap().to_owned()));
        back = page["previous_page_uri"].clone();
        path = page["next_page_uri"].as_str().unwrap_or_default().to_owned();
        // A new message must not shift the pages.
        world.send(&[("Body", "new")]).await;
    }
    assert_eq!(bodies, ["4", "3", "2", "1", "0"]);
    let back = world.get(back.as_str().unwrap()).await;
    assert_eq!(back["messages"][0]["body"], "2");
    assert_eq!(world.get("/Messages.json?DateSent=2020-01-01").await["messages"], json!([]));
    assert_eq!(world.get("/Messages.json?DateSent%3C=2020-01-01").await["messages"], json!([]));
}

#[tokio::test]
async fn numbers_are_bought_once_and_magic_numbers_answer() {
    let world = World::new().await;
    for (form, code) in [
        (("PhoneNumber", "+15005550000"), json!(21422)),
        (("PhoneNumber", "+15005550001"), json!(21421)),
        (("PhoneNumber", "+15005550006"), json!(null)),
        (("AreaCode", "533"), json!(21452)),
        (("AreaCode", "500"), json!(null)),
        (("PhoneNumber", world.from()), json!(21422)),
        (("SmsUrl", "http://localhost/"), json!(21421)),
    ] {
        assert_eq!(world.rest("POST", "/IncomingPhoneNumbers.json", &[form]).await.1["code"], code, "{form:?}");
    }
}

#[tokio::test]
async fn media_files_are_redirected_to_the_store_for_callers_with_credentials() {
    let world = World::new().await;
    let message = world.send(&[("MediaUrl", "http://127.0.0.1/a.gif")]).await.1;
    assert!(message["sid"].as_str().unwrap().starts_with("MM"));
    let list = world.get(message["subresource_uris"]["media"].as_str().unwrap()).await;
    let uri = list["media_list"][0]["uri"].as_str().unwrap().replace(".json", "");
    let url = format!("{}{uri}", world.double.base_url());
    assert_eq!(world.http.get(&url).send().await.unwrap().status(), 401);
    let own = (&world.account.account_sid, &world.account.auth_token);
    let redirect = world.http.get(&url).basic_auth(own.0, Some(own.1)).send().await.unwrap();
    assert_eq!(redirect.status(), 307);
    let file = world.http.get(redirect.headers()["location"].to_str().unwrap()).send().await.unwrap();
    assert_eq!((file.status().as_u16(), file.headers()["content-type"].to_str().unwrap()), (200, "image/gif"));
}
