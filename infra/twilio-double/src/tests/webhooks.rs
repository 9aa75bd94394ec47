//! Status callbacks, texts and calls that arrive, opt-outs, restarts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use telbuddy::inbound::signature::sign;

use crate::callbacks::may_call;

use super::{PHONE, SERVICE, World, message_path};

#[tokio::test]
async fn a_message_goes_through_all_statuses_with_signed_callbacks() {
    let world = World::new().await;
    let url = world.receiver.url("/status?id=a%20b");
    let with_fragment = url.replace("http://", "http://user:secret@") + "#rc=2&rp=5xx";
    world.receiver.answers.lock().unwrap().push((500, ""));
    let (_, message) = world.send(&[("StatusCallback", &with_fragment)]).await;
    assert_eq!(message["status"], "queued");

    // The first callback came twice: the 500 was retried, as the fragment asks.
    assert_eq!(world.receiver.statuses(4).await, ["sending", "sending", "sent", "delivered"]);
    let hooks = world.receiver.all();
    let token = |n: usize| hooks[n].header("i-twilio-idempotency-token").to_owned();
    assert_eq!(token(0), token(1));
    assert_ne!(token(1), token(2));
    for hook in &hooks {
        assert_eq!(hook.target, "/status?id=a%20b");
        assert_eq!(hook.header("x-twilio-signature"), sign(&world.account.auth_token, &url, &hook.pairs));
        assert_eq!(hook.header("user-agent"), "TwilioProxy/1.1 (twilio-double)");
        assert_eq!(hook.header("authorization"), "");
        assert!(hook.header("content-type").starts_with("application/x-www-form-urlencoded"));
        for (name, value) in [
            ("MessageSid", message["sid"].as_str().unwrap()),
            ("SmsSid", message["sid"].as_str().unwrap()),
            ("AccountSid", &world.account.account_sid),
            ("From", world.from()),
            ("To", PHONE),
            ("ApiVersion", "2010-04-01"),
            ("SmsStatus", &hook.get("MessageStatus")),
            ("ErrorCode", ""),
        ] {
            assert_eq!(hook.get(name), value, "{name}");
        }
    }
    let message = world.get(&message_path(&message)).await;
    assert!(message["date_sent"].as_str().unwrap().ends_with(" +0000"));
}

#[test]
fn webhooks_stay_on_this_machine_unless_the_options_say_otherwise() {
    for url in ["http://127.0.0.1:1/a", "http://localhost/", "https://[::1]/", "http://api.localhost:3000/"] {
        assert!(may_call(url, false), "{url}");
    }
    for url in ["https://example.com/", "http://10.0.0.1/", "http://localhost.example.com/"] {
        assert!(!may_call(url, false) && may_call(url, true), "{url}");
    }
    assert!(!may_call("file:///etc/passwd", true));
}

#[tokio::test]
async fn without_a_fragment_an_error_answer_is_not_retried() {
    let world = World::new().await;
    world.receiver.answers.lock().unwrap().push((500, ""));
    world.send(&[("StatusCallback", &world.receiver.url("/"))]).await;
    assert_eq!(world.receiver.statuses(3).await, ["sending", "sent", "delivered"]);
}

#[tokio::test]
async fn user_and_password_of_the_url_follow_a_401() {
    let world = World::new().await;
    world.receiver.answers.lock().unwrap().push((401, ""));
    let url = world.receiver.url("/").replace("http://", "http://user:secret@");
    world.set_number(&[("SmsUrl", &url)]).await;
    world.inbound("hi").await;
    let hooks = world.receiver.exactly(2).await;
    assert_eq!((hooks[0].header("authorization"), hooks[1].header("authorization")), ("", "Basic dXNlcjpzZWNyZXQ="));
}

#[tokio::test]
async fn a_service_message_is_accepted_first_and_names_its_service() {
    let world = World::new().await;
    let form = [("From", "-"), ("MessagingServiceSid", SERVICE), ("StatusCallback", &world.receiver.url("/"))];
    world.send(&form).await;
    assert_eq!(world.receiver.statuses(4).await, ["queued", "sending", "sent", "delivered"]);
    assert!(world.receiver.all().iter().all(|hook| hook.get("MessagingServiceSid") == SERVICE));
}

#[tokio::test]
async fn numbers_with_a_documented_end_fail() {
    let world = World::new().await;
    for (to, status, code) in [("+12065550041", "undelivered", 30003), ("+12065550042", "failed", 30005)] {
        let (_, message) = world.send(&[("To", to), ("StatusCallback", &world.receiver.url("/"))]).await;
        let message = world.until(&message_path(&message), status).await;
        assert_eq!(message["error_code"], code);
    }
    let hooks = world.receiver.exactly(5).await;
    let errors = hooks.iter().map(|hook| hook.get("ErrorCode")).filter(|code| !code.is_empty());
    assert_eq!(errors.collect::<Vec<_>>(), ["30003", "30005"]);
}

#[tokio::test]
async fn a_text_that_arrives_is_posted_and_a_twiml_answer_is_sent() {
    let world = World::new().await;
    let answer = world.inbound("lost").await;
    assert!(answer["note"].as_str().unwrap().contains("has no SmsUrl"));

    let url = world.receiver.url("/sms");
    world.set_number(&[("SmsUrl", &url)]).await;
    let twiml = "<?xml version=\"1.0\"?><Response><Message><Body>fish &amp; chips</Body></Message></Response>";
    world.receiver.answers.lock().unwrap().push((200, twiml));
    let ask = json!({"from": PHONE, "to": world.from(), "body": "hi", "media": 1, "messaging_service_sid": SERVICE});
    let (_, answer) = world.control("/inbound", ask).await;
    assert_eq!((&answer["webhook_status"], &answer["webhook_body"]), (&json!(200), &json!(twiml)));

    let hook = &world.receiver.exactly(1).await[0];
    assert_eq!(hook.header("x-twilio-signature"), sign(&world.account.auth_token, &url, &hook.pairs));
    for (name, value) in [
        ("MessageSid", answer["message_sid"].as_str().unwrap()),
        ("SmsMessageSid", answer["message_sid"].as_str().unwrap()),
        ("From", PHONE),
        ("To", world.from()),
        ("Body", "hi"),
        ("NumMedia", "1"),
        ("NumSegments", "1"),
        ("MessagingServiceSid", SERVICE),
        ("MediaContentType0", "image/gif"),
        ("OptOutType", ""),
    ] {
        assert_eq!(hook.get(name), value, "{name}");
    }
    assert!(hook.get("MediaUrl0").starts_with(&world.double.base_url()));
    let journal = world.journal().await;
    assert_eq!(journal.len(), 3);
    assert_eq!((&journal[1]["direction"], &journal[1]["status"]), (&json!("inbound"), &json!("received")));
    assert_eq!((&journal[2]["direction"], &journal[2]["body"]), (&json!("outbound-reply"), &json!("fish & chips")));
    assert_eq!(journal[2]["to"], PHONE);
}

#[tokio::test]
async fn a_failed_sms_url_leads_to_the_fallback() {
    let world = World::new().await;
    let (first, second) = (world.receiver.url("/a"), world.receiver.url("/b"));
    world.set_number(&[("SmsUrl", &first), ("SmsFallbackUrl", &second), ("SmsFallbackMethod", "GET")]).await;
    world.receiver.answers.lock().unwrap().push((503, ""));
    assert_eq!(world.inbound("hi").await["webhook_status"], 200);
    let hooks = world.receiver.exactly(2).await;
    assert_eq!(hooks[1].method, "GET");
    assert!(hooks[1].target.starts_with("/b?") && hooks[1].target.contains("ErrorCode=11200"));
    let url = world.receiver.url(&hooks[1].target);
    assert_eq!(hooks[1].header("x-twilio-signature"), sign(&world.account.auth_token, &url, &[]));
}

#[tokio::test]
async fn stop_blocks_the_recipient_until_start() {
    let world = World::new().await;
    let (other, own) = (world.account.numbers[1].clone(), world.from());
    for (word, code) in [(" stop ", 21610), ("please stop", 21610), ("START", 0), ("Unsubscribe", 21610), ("unstop", 0)]
    {
        world.inbound(word).await;
        assert_eq!(world.send(&[]).await.0, code, "after {word}");
        assert_eq!(world.send(&[("From", &other)]).await.0, 0, "another number");
    }
    // A number that a service has used stands for the service: STOP to it blocks the whole service.
    let by_service = [("From", "-"), ("MessagingServiceSid", SERVICE)];
    let message = world.send(&by_service).await.1;
    world.until(&message_path(&message), "delivered").await;
    let ask = json!({"from": PHONE, "to": own, "body": "stopp", "opt_out_type": "STOP"});
    world.control("/inbound", ask).await;
    assert_eq!(world.send(&by_service).await.0, 21610);
}

#[tokio::test]
async fn a_call_runs_through_its_events() {
    let world = World::new().await;
    let (url, status) = (world.receiver.url("/twiml"), world.receiver.url("/status"));
    let mut form = vec![("To", PHONE), ("From", world.from()), ("Url", &url[..]), ("StatusCallback", &status[..])];
    form.extend(["initiated", "ringing", "answered", "completed"].map(|event| ("StatusCallbackEvent", event)));
    let (_, call) = world.rest("POST", "/Calls.json", &form).await;
    let hooks = world.receiver.exactly(5).await;
    let seen: Vec<_> = hooks.iter().map(|h| (&h.target[..], h.get("CallStatus"), h.get("SequenceNumber"))).collect();
    let expected = [
        ("/status", "initiated", "0"),
        ("/status", "ringing", "1"),
        ("/twiml", "in-progress", ""),
        ("/status", "in-progress", "2"),
        ("/status", "completed", "3"),
    ];
    assert_eq!(seen, expected.map(|(target, status, n)| (target, status.to_owned(), n.to_owned())));
    assert_eq!((hooks[4].get("CallDuration"), hooks[4].get("Duration")), ("1".into(), "1".into()));
    assert_eq!(hooks[4].header("x-twilio-signature"), sign(&world.account.auth_token, &status, &hooks[4].pairs));
    let path = format!("/Calls/{}.json", call["sid"].as_str().unwrap());
    assert_eq!(world.get(&path).await["duration"], "1");
    assert_eq!(world.rest("POST", &path, &[("Status", "completed")]).await.1["code"], 21220);
    for (field, value, code) in
        [("From", "+14155559999", 21210), ("To", "+15005550003", 21215), ("To", "x", 21217), ("Url", "", 21205)]
    {
        let mut form = form.clone();
        form.iter_mut().filter(|(name, _)| *name == field).for_each(|pair| pair.1 = value);
        assert_eq!(world.rest("POST", "/Calls.json", &form).await.1["code"], code, "{field}={value}");
    }
}

#[tokio::test]
async fn a_call_that_arrives_asks_the_voice_url() {
    let world = World::new().await;
    let (voice, status) = (world.receiver.url("/voice"), world.receiver.url("/status"));
    world.set_number(&[("VoiceUrl", &voice), ("StatusCallback", &status)]).await;
    world.receiver.answers.lock().unwrap().push((200, "<Response/>"));
    let (_, answer) = world.control("/calls", json!({"from": PHONE, "to": world.from()})).await;
    assert_eq!((&answer["webhook_status"], &answer["webhook_body"]), (&json!(200), &json!("<Response/>")));
    let hooks = world.receiver.exactly(2).await;
    assert_eq!((hooks[0].get("CallStatus"), hooks[0].get("Direction")), ("ringing".into(), "inbound".into()));
    assert_eq!((hooks[1].get("CallStatus"), hooks[1].get("SequenceNumber")), ("completed".into(), "0".into()));
}

#[tokio::test]
async fn unfinished_messages_go_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let before = World::kept_in(folder.path(), Duration::from_millis(400)).await;
    let url = before.receiver.url("/");
    let (_, message) = before.send(&[("StatusCallback", &url)]).await;
    before.double.stop().await;
    assert!(before.http.get(before.double.base_url()).send().await.is_err(), "the listener is closed");
    assert_eq!(before.receiver.all().len(), 0);

    let after = World::kept_in(folder.path(), Duration::from_millis(15)).await;
    assert_eq!(after.account.auth_token, before.account.auth_token);
    assert_eq!(after.account.numbers, before.account.numbers);
    assert_eq!(before.receiver.statuses(3).await, ["sending", "sent", "delivered"]);
    assert_eq!(after.get(&message_path(&message)).await["status"], "delivered");
}

#[tokio::test]
async fn a_callback_that_was_due_at_a_stop_is_sent_after_the_restart() {
    let folder = tempfile::tempdir().unwrap();
    let before = World::kept_in(folder.path(), Duration::from_millis(15)).await;
    before.control("/faults", json!({"next": 1, "kind": "callback_late", "ms": 60_000})).await;
    before.send(&[("StatusCallback", &before.receiver.url("/"))]).await;
    assert_eq!(before.receiver.statuses(2).await, ["sent", "delivered"]);
    before.double.stop().await;
    let _after = World::kept_in(folder.path(), Duration::from_millis(15)).await;
    assert_eq!(before.receiver.statuses(3).await, ["sent", "delivered", "sending"]);
}

/// Runs itself once more as the process that is killed, in a folder that has a file `victim`.
#[tokio::test]
async fn an_accepted_message_survives_kill_9() {
    if Path::new("victim").exists() {
        let world = World::kept_in(Path::new("."), Duration::from_mins(1)).await;
        world.send(&[]).await;
        std::fs::write("accepted", "").unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("victim"), "").unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::webhooks::an_accepted_message_survives_kill_9"])
        .current_dir(folder.path())
        .spawn()
        .unwrap();
    for _ in 0..1000 {
        if folder.path().join("accepted").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    victim.kill().unwrap();
    victim.wait().unwrap();
    let world = World::kept_in(folder.path(), Duration::from_millis(15)).await;
    let journal = world.journal().await;
    assert_eq!(journal.len(), 1);
    world.until(&message_path(&journal[0]), "delivered").await;
}

#[tokio::test]
async fn other_twiml_does_not_hurry_a_call() {
    let world = World::slow().await;
    let url = world.receiver.url("/");
    let form = [("To", PHONE), ("From", world.from()), ("Url", &url)];
    let (_, call) = world.rest("POST", "/Calls.json", &form).await;
    let path = format!("/Calls/{}.json", call["sid"].as_str().unwrap());
    world.until(&path, "in-progress").await;
    let (_, call) = world.rest("POST", &path, &[("Url", &world.receiver.url("/other"))]).await;
    assert_eq!(call["status"], "in-progress");
    let hooks = world.receiver.exactly(2).await;
    assert_eq!((&hooks[0].target[..], &hooks[1].target[..]), ("/", "/other"));
    world.until(&path, "completed").await;
}

#[tokio::test]
async fn the_phone_page_shows_texts_escaped_and_its_form_sends_one() {
    let world = World::new().await;
    world.inbound("<b>hi</b>").await;
    assert!(world.look("/phone").await.contains("&lt;b&gt;hi&lt;/b&gt;"));
    let form = [("from", PHONE), ("to", world.from()), ("body", "by form")];
    let answer = world.http.post(format!("{}/inbound", world.control)).form(&form).send().await.unwrap();
    assert_eq!(answer.status(), 303);
    assert_eq!(answer.headers()["location"], "/_local/twilio/phone");
    assert_eq!(world.journal().await[1]["body"], "by form");
    let overview = world.overview().await;
    assert_eq!(overview["auth_token"], json!(world.account.auth_token));
    assert_eq!(overview["base_url"], json!(world.double.base_url()));
    assert_eq!(overview["numbers"], json!(world.account.numbers));
}

#[tokio::test]
async fn wrong_control_input_is_answered_with_what_to_do() {
    let world = World::new().await;
    let own = world.from();
    for (path, body, hint) in [
        ("/inbound", json!({"from": PHONE}), "send JSON like"),
        ("/inbound", json!({"from": "me", "to": own}), "write \"me\" as"),
        ("/inbound", json!({"from": PHONE, "to": "+1"}), "no account of the double owns +1"),
        ("/inbound", json!({"from": PHONE, "to": own, "media": 11}), "at most 10"),
        ("/calls", json!([]), "send JSON like"),
        ("/faults", json!({"kind": "fire"}), "unknown variant"),
        ("/faults", json!({"kind": "drop"}), "give \"next\""),
        ("/faults", json!({"kind": "drop", "rate": 2}), "from 0 to 1"),
        ("/accounts", json!({"status": "new"}), "active, suspended or closed"),
        ("/accounts/AC1/keys", json!({}), "no account AC1"),
    ] {
        let (status, answer) = world.control(path, body).await;
        assert_eq!(status, 400);
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(hint), "{error}");
    }
    assert_eq!(world.journal().await, Vec::<Value>::new());
}
