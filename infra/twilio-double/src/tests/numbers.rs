//! Settings of numbers: set, cleared, ignored, put back; and lists of numbers.

use serde_json::json;

use super::{PHONE, World};

const FOREIGN: &str = "https://customer.example/sms?x=1&y=a%20b#rc=3&rp=all";
const APPLICATION: &str = "AP00000000000000000000000000000001";

#[tokio::test]
async fn an_empty_text_clears_a_url_and_an_application() {
    let world = World::new().await;
    let path = world.number_path().await;
    let url = world.receiver.url("/");
    let set = [("SmsUrl", &url[..]), ("StatusCallback", &url), ("SmsApplicationSid", APPLICATION)];
    let (_, number) = world.rest("POST", &path, &set).await;
    assert_eq!(number["sms_url"], url);
    assert_eq!(number["sms_application_sid"], APPLICATION);
    let (_, number) = world.rest("POST", &path, &set.map(|(name, _)| (name, ""))).await;
    assert_eq!((&number["sms_url"], &number["status_callback"]), (&json!(""), &json!("")));
    assert_eq!(number["sms_application_sid"], json!(null));
    assert_eq!(world.overview().await["contract_violation_count"], 0);
}

#[tokio::test]
async fn where_an_application_is_set_the_urls_of_the_number_are_not_asked() {
    let world = World::new().await;
    let url = world.receiver.url("/");
    world.set_number(&[("SmsUrl", &url), ("SmsFallbackUrl", &url), ("VoiceUrl", &url)]).await;
    world.set_number(&[("SmsApplicationSid", APPLICATION), ("VoiceApplicationSid", APPLICATION)]).await;
    let text = world.inbound("hi").await;
    let call = world.control("/calls", json!({"from": PHONE, "to": world.from()})).await.1;
    for answer in [text, call] {
        assert!(answer["note"].as_str().unwrap().contains(APPLICATION), "{answer}");
    }
    assert_eq!(world.journal().await[0]["body"], "hi", "stored all the same");
    world.set_number(&[("SmsApplicationSid", ""), ("VoiceApplicationSid", "")]).await;
    assert_eq!(world.inbound("hi").await["webhook_status"], 200);
    world.receiver.exactly(1).await;
}

#[tokio::test]
async fn an_application_for_calls_and_a_trunk_exclude_each_other() {
    let world = World::new().await;
    let path = world.number_path().await;
    let trunk = "TK00000000000000000000000000000001";
    world.set_number(&[("VoiceApplicationSid", APPLICATION)]).await;
    let (_, number) = world.rest("POST", &path, &[("TrunkSid", trunk)]).await;
    assert_eq!((&number["voice_application_sid"], &number["trunk_sid"]), (&json!(null), &json!(trunk)));
    let (_, number) = world.rest("POST", &path, &[("VoiceApplicationSid", APPLICATION)]).await;
    assert_eq!((&number["voice_application_sid"], &number["trunk_sid"]), (&json!(APPLICATION), &json!(null)));
}

#[tokio::test]
async fn the_console_sets_any_url_and_rest_puts_it_back_to_the_byte() {
    let world = World::new().await;
    let path = world.number_path().await;
    let raw = json!({"sms_url": FOREIGN, "voice_application_sid": APPLICATION, "friendly_name": "Front desk"});
    let (_, number) = world.control(&format!("/numbers/{}", world.from()), raw.clone()).await;
    assert_eq!((&number["sms_url"], &number["friendly_name"]), (&raw["sms_url"], &raw["friendly_name"]));
    let sid = number["sid"].as_str().unwrap();
    let (_, number) = world.control(&format!("/numbers/{sid}"), json!({"sms_method": "GET"})).await;

    let url = world.receiver.url("/");
    let (_, other) = world.rest("POST", &path, &[("SmsUrl", &url), ("SmsMethod", "POST")]).await;
    assert_eq!(other["sms_url"], url);
    let (_, back) = world.rest("POST", &path, &[("SmsUrl", FOREIGN), ("SmsMethod", "GET")]).await;
    for name in ["sms_url", "sms_method", "voice_application_sid", "friendly_name"] {
        assert_eq!(back[name], number[name], "{name}");
    }
    // The same URL in another field of the number is put back, on another number it is foreign.
    assert_eq!(world.rest("POST", &path, &[("SmsFallbackUrl", FOREIGN)]).await.0, 200);
    let other = world.get(&format!("/IncomingPhoneNumbers.json?PhoneNumber={}", &world.account.numbers[1][1..])).await;
    let other = format!("/IncomingPhoneNumbers/{}.json", other["incoming_phone_numbers"][0]["sid"].as_str().unwrap());
    for (path, url) in [(&other, FOREIGN), (&path, "https://customer.example/sms?x=1&y=a%20b")] {
        let (status, answer) = world.rest("POST", path, &[("SmsUrl", url)]).await;
        assert_eq!((status, &answer["code"]), (400, &json!(21205)), "{url}");
    }
}

#[tokio::test]
async fn a_url_survives_a_restart_as_one_that_can_be_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let delay = std::time::Duration::from_millis(15);
    let before = World::kept_in(folder.path(), delay).await;
    before.control(&format!("/numbers/{}", before.from()), json!({"sms_url": FOREIGN})).await;
    before.set_number(&[("SmsUrl", "")]).await;
    before.double.stop().await;
    let after = World::kept_in(folder.path(), delay).await;
    after.set_number(&[("SmsUrl", FOREIGN)]).await;
    assert_eq!(after.get(&after.number_path().await).await["sms_url"], FOREIGN);
}

#[tokio::test]
async fn wrong_raw_settings_are_answered_with_what_is_wrong() {
    let world = World::new().await;
    let number = format!("/numbers/{}", world.from());
    let service = world.new_service(&[]).await.replace("/v1/Services", "/services");
    let services = format!("/accounts/{}/services", world.account.account_sid);
    for (path, body, hint) in [
        (&number[..], json!({"sms_uri": "x"}), "\"sms_uri\" is not a setting"),
        (&number, json!({"sid": "x"}), "\"sid\" is not a setting"),
        (&number, json!({"sms_url": 1}), "not of the type"),
        (&number, json!([]), "send JSON like"),
        ("/numbers/+1", json!({}), "no number +1"),
        ("/numbers/PN1", json!({}), "no number PN1"),
        (&service, json!({"sticky_sender": "yes"}), "not of the type"),
        ("/services/MG1", json!({}), "no service MG1"),
        (&services, json!({"numbers": ["+1"]}), "has no number +1"),
        ("/accounts/AC1/services", json!({}), "no account AC1"),
    ] {
        let (status, answer) = world.control(path, body).await;
        let error = answer["error"].as_str().unwrap();
        assert!(status == 400 && error.contains(hint), "{path}: {error}");
    }
    assert_eq!(world.get("/v1/Services").await["services"].as_array().unwrap().len(), 1, "nothing half made");
}

#[tokio::test]
async fn numbers_are_listed_by_part_in_pages_of_up_to_a_thousand() {
    let world = World::new().await;
    for n in 1000..1005 {
        let wanted = format!("+1415700{n}");
        assert_eq!(world.rest("POST", "/IncomingPhoneNumbers.json", &[("PhoneNumber", &wanted)]).await.0, 201);
    }
    let numbers = |page: &serde_json::Value| {
        let rows = page["incoming_phone_numbers"].as_array().unwrap();
        rows.iter().map(|row| row["phone_number"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut path = "/IncomingPhoneNumbers.json?PageSize=2&PhoneNumber=%2B1415700".to_owned();
    let mut seen = Vec::new();
    while !path.is_empty() {
        let page = world.get(&path).await;
        assert!(numbers(&page).len() <= 2);
        seen.extend(numbers(&page));
        path = page["next_page_uri"].as_str().unwrap_or_default().to_owned();
        assert!(path.is_empty() || path.contains("PhoneNumber=%2B1415700"), "the next page keeps the filter: {path}");
    }
    assert_eq!(seen, [4, 3, 2, 1, 0].map(|n| format!("+1415700100{n}")));
    let page = world.get("/IncomingPhoneNumbers.json?PageSize=1000").await;
    assert_eq!((numbers(&page).len(), &page["next_page_uri"]), (7, &json!(null)));
    for (part, n) in [("%2B14157001004", 1), ("700*00*", 5), ("%2B1415*001003", 1), ("9999999", 0)] {
        let page = world.get(&format!("/IncomingPhoneNumbers.json?PhoneNumber={part}")).await;
        assert_eq!(numbers(&page).len(), n, "{part}");
    }
}
