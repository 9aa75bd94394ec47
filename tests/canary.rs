//! The canary (promises N1, N2): marked bodies, numbers, tokens and passwords go through every entry point, then every
//! table, queue, dead letter, log line and answer is searched for them: plain, base64, hex and URL-encoded.
//!
//! What Twilio keeps (the double's own file) and what a mail has to say (the mail folder) is not ours to be empty of it.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use data_encoding::{BASE64, BASE64URL, HEXLOWER, HEXUPPER};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use telbuddy::inbound::signature;
use tracing_subscriber::EnvFilter;

use crate::support::{Answer, Carrier, Client, Running, eventually, start};
use crate::webhooks::Receiver;

/// Every log line of this process, at the most talkative level that our own code has.
pub fn logs() -> &'static Captured {
    static LOGS: OnceLock<Captured> = OnceLock::new();
    LOGS.get_or_init(|| {
        let captured = Captured::default();
        let filter = EnvFilter::new(telbuddy::live::telemetry::FILTER.replace("=info", "=trace"));
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        captured
    })
}

#[derive(Clone, Default)]
pub struct Captured(pub Arc<Mutex<Vec<u8>>>);

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A value that must be nowhere, in all the forms that a leak may have.
pub struct Marker {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Marker {
    pub fn new(name: &'static str, value: &str) -> Self {
        let bytes = value.as_bytes();
        let mut forms = vec![bytes.to_vec(), HEXLOWER.encode(bytes).into_bytes(), HEXUPPER.encode(bytes).into_bytes()];
        let url_encoded: String = form_urlencoded::byte_serialize(bytes).collect();
        forms.push(url_encoded.into_bytes());
        // Base64 of a longer text shows the value shifted by 0, 1 or 2 bytes; the first and last characters depend on
        // its neighbours and are cut.
        for shift in 0..3 {
            let shifted = [&b"\0\0"[..shift], bytes].concat();
            for encoding in [&BASE64, &BASE64URL] {
                let text = encoding.encode(&shifted);
                let text = text.trim_end_matches('=');
                forms.push(text.as_bytes()[if shift == 0 { 0 } else { 4 }..text.len() - 3].to_vec());
            }
        }
        forms.push(value.chars().rev().collect::<String>().into_bytes());
        // As `Debug` shows bytes.
        let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
        forms.push(numbers.join(", ").into_bytes());
        Self { name, forms }
    }

    fn is_in(&self, haystack: &[u8]) -> bool {
        self.forms.iter().any(|form| memchr::memmem::find(haystack, form).is_some())
    }
}

/// Where a search looked and what it found.
#[derive(Debug, Default)]
pub struct Search {
    pub bytes: usize,
    pub places: usize,
    pub hits: Vec<String>,
}

impl Search {
    pub fn look(&mut self, place: &str, haystack: &[u8], markers: &[Marker]) {
        self.places += 1;
        self.bytes += haystack.len();
        self.hits.extend(markers.iter().filter(|m| m.is_in(haystack)).map(|m| format!("{} in {place}", m.name)));
    }
}

/// Every file of the AWS double: tables, queues and dead letters with their journals. Deleted rows included, as far as
/// SQLite keeps them.
pub fn search(running: &Running, markers: &[Marker]) -> Search {
    let mut search = Search::default();
    let ours = |path: &Path| {
        let name = path.to_string_lossy();
        !name.contains("/mail/") && !name.contains("twilio-double") && !name.ends_with("/lock")
    };
    let files: Vec<_> = running.aws.raw_files().into_iter().filter(|path| ours(path)).collect();
    assert!(files.iter().any(|path| path.ends_with("dynamodb.sqlite")), "{files:?}");
    for path in files {
        search.look(&path.to_string_lossy(), &std::fs::read(&path).unwrap_or_default(), markers);
    }
    search.look("a log line", &logs().0.lock().unwrap(), markers);
    search
}

/// A client that keeps what it was answered.
struct Listening {
    client: Client,
    heard: Mutex<Vec<u8>>,
}

impl Listening {
    fn hear(&self, answer: Answer) -> Answer {
        self.heard.lock().unwrap().extend(answer.text.as_bytes());
        answer
    }

    async fn call(&self, method: Method, path: &str, body: Value, headers: &[(&str, &str)]) -> Answer {
        self.hear(self.client.send(method, path, Some(body.to_string()), headers).await)
    }
}

const BODY: &str = "canary-body-9c1f0d";
const NAME: &str = "Canary Name Kx7";
const COMPANY: &str = "Canary Company Qz9";
const EMAIL: &str = "canary-k8s2v@example.com";
const PASSWORD: &str = "canary password 51e7a9";
const WRONG_PASSWORD: &str = "canary wrong password 77";
const TO: &str = "+14155558713";
const OPTED_OUT: &str = "+14155559246";
const TEXTER: &str = "+14155553968";
const TEMPLATE_NAME: &str = "Canary Template Jw3";
const TEMPLATE_TEXT: &str = "canary-text-77b2ce";
const MEDIA: &str = "https://example.com/canary-media-4f2b.png";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_marked_is_anywhere_at_rest_in_logs_or_in_answers() {
    logs();
    let running = start().await;
    let mut client = running.client();
    let sign_up = json!({ "name": NAME, "email": EMAIL, "company": COMPANY, "password": PASSWORD, "country": "US" });
    client.post("/v1/signup", sign_up.clone()).await.expect(StatusCode::ACCEPTED);
    let mail_token = running.link_token(EMAIL, 1).await;
    client.post("/v1/email-verifications", json!({ "token": mail_token })).await.expect(StatusCode::NO_CONTENT);
    client.log_in(EMAIL, WRONG_PASSWORD).await.problem(StatusCode::UNAUTHORIZED);
    client.log_in(EMAIL, PASSWORD).await.expect(StatusCode::CREATED);
    let session_token = client.cookie.clone().unwrap().split_once('=').unwrap().1.to_owned();
    let carrier = running.carrier(json!({})).await;
    let key = client.post(&format!("/_local/twilio/accounts/{}/keys", carrier.account_sid), json!({})).await.body;
    let key_secret = key["secret"].as_str().unwrap().to_owned();

    let (receiver, endpoint_path, endpoint) = receives(&client, false).await;
    // What it is told is read at Twilio for it, and goes through our hands only.
    let (content, content_path, _) = receives(&client, true).await;
    let rotated = client.post(&format!("{endpoint_path}/secret"), json!({})).await.expect(StatusCode::OK);
    let [signing_secret_before, signing_secret] =
        [&endpoint, &rotated].map(|answer| answer["secret"].as_str().unwrap().to_owned());

    let (_, api_key) = client.make_api_key(&["messages:send", "messages:read"]).await;
    let (id, revoked_key) = client.make_api_key(&["messages:send"]).await;
    client.delete(&format!("/v1/account/api-keys/{id}")).await.expect(StatusCode::NO_CONTENT);

    let markers = [
        Marker::new("the body", BODY),
        Marker::new("the template's name", TEMPLATE_NAME),
        Marker::new("the template's text", TEMPLATE_TEXT),
        Marker::new("the name", NAME),
        Marker::new("the company", COMPANY),
        Marker::new("the e-mail address", EMAIL),
        Marker::new("the password", PASSWORD),
        Marker::new("the wrong password", WRONG_PASSWORD),
        Marker::new("the recipient", &TO[2..]),
        Marker::new("who opted out", &OPTED_OUT[2..]),
        Marker::new("who texted", &TEXTER[2..]),
        Marker::new("the media", MEDIA),
        Marker::new("the mail token", &mail_token[30..]),
        Marker::new("the session token", &session_token[30..]),
        Marker::new("the API key", &api_key[34..]),
        Marker::new("the revoked API key", &revoked_key[34..]),
        Marker::new("the signing secret", &signing_secret[6..]),
        Marker::new("the signing secret before", &signing_secret_before[6..]),
        Marker::new("the Auth Token", &carrier.auth_token),
        Marker::new("the key secret", &key_secret),
    ];

    let client = Listening { client, heard: Mutex::default() };
    let put = |credential| client.call(Method::PUT, "/v1/credentials/twilio", credential, &[]);
    put(json!({ "account_sid": carrier.account_sid, "auth_token": carrier.auth_token, "api_key_sid": key["sid"], "api_key_secret": key_secret }))
        .await
        .expect(StatusCode::OK);
    put(json!({ "account_sid": format!("AC{}", "0".repeat(32)), "auth_token": carrier.auth_token }))
        .await
        .problem(StatusCode::UNPROCESSABLE_ENTITY);
    put(json!({ "account_sid": carrier.auth_token, "auth_token": [carrier.auth_token] })).await;
    put(carrier.credential()).await.expect(StatusCode::OK);
    let hook =
        client.hear(client.client.get("/v1/credentials/twilio").await).body["inbound_url"].as_str().unwrap().to_owned();

    // Each way that a message can end, and those that wait while we look.
    let send = |key: &'static str, to: &'static str, body: &'static str, media: Value| {
        let text = json!({ "to": to, "from": carrier.number, "body": body, "media_urls": media });
        let client = &client;
        async move { client.call(Method::POST, "/v1/messages", text, &[("idempotency-key", key)]).await }
    };
    for (key, kind) in [("a", "none"), ("b", "429"), ("c", "drop"), ("d", "accept_then_drop"), ("e", "500")] {
        if kind != "none" {
            running.fault(&carrier, json!({ "next": 1, "kind": kind })).await;
        }
        send(key, TO, BODY, json!([MEDIA])).await.expect(StatusCode::ACCEPTED);
        let found = search(&running, &markers);
        assert_eq!(found.hits, Vec::<String>::new(), "while {kind} was under way");
    }
    the_other_way_in(&client, &carrier, &api_key, &revoked_key).await;
    templates(&client, &carrier).await;
    send("f", "+15005550001", BODY, json!([])).await.expect(StatusCode::ACCEPTED);
    send("a", TO, "another", json!([])).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    send("g", TO, BODY, json!([BODY])).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    send("h", BODY, BODY, json!(BODY)).await.problem(StatusCode::UNPROCESSABLE_ENTITY);

    texts(&client, &carrier, &hook).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    send("i", OPTED_OUT, BODY, json!([])).await.expect(StatusCode::ACCEPTED);
    all_have_ended(&client).await;
    opt_outs(&client, &carrier).await;
    let lists = ["/v1/opt-outs", "/v1/usage", "/v1/credits", "/v1/sessions", "/v1/account/api-keys"];
    for path in lists.into_iter().chain(["/_local/queues", "/_local/tables"]) {
        client.hear(client.client.get(path).await).expect(StatusCode::OK);
    }

    let told = receiver.received();
    assert!(told.len() > 10, "{} events", told.len());
    deliveries(&client, &endpoint_path).await;
    deliveries(&client, &content_path).await;
    let n_bodies = content.received().iter().filter(|one| one.body.contains(BODY) && one.body.contains(TO)).count();
    assert!(n_bodies > 1, "{n_bodies} events had their content");

    let mut found = search(&running, &markers);
    for one in told {
        found.look("an event", format!("{:?} {}", one.headers, one.body).as_bytes(), &markers);
    }
    found.look("an answer", &client.heard.lock().unwrap(), &markers);
    assert_eq!(found.hits, Vec::<String>::new());
    assert!(found.bytes > 500_000 && found.places >= 4, "too little was searched: {found:?}");
    println!("searched {} bytes in {} places for {} markers: no hit", found.bytes, found.places, markers.len());

    positive_control(&running, &markers).await;
    running.stop().await;
}

/// A customer's server that gets every event, the path of its endpoint, and the answer that made it.
async fn receives(client: &Client, include_content: bool) -> (Receiver, String, Value) {
    let receiver = Receiver::start().await;
    let ask = json!({ "url": receiver.url, "events": ["*"], "include_content": include_content });
    let new = client.post("/v1/webhook-endpoints", ask).await.expect(StatusCode::CREATED);
    (receiver, format!("/v1/webhook-endpoints/{}", new["id"].as_str().unwrap()), new)
}

/// Texts that arrive: good, STOP, forged.
async fn texts(client: &Listening, carrier: &Carrier, hook: &str) {
    for (n, (from, body)) in [(TEXTER, BODY), (OPTED_OUT, "STOP")].into_iter().enumerate() {
        let sid = format!("SM{n:032}");
        let params: Vec<_> = [
            ("MessageSid", sid.as_str()),
            ("AccountSid", &carrier.account_sid),
            ("From", from),
            ("To", &carrier.number),
            ("Body", body),
            ("NumMedia", "1"),
            ("MediaUrl0", MEDIA),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
        let signature = signature::sign(&carrier.auth_token, hook, &params);
        let path = hook.strip_prefix(&client.client.base).unwrap();
        for signature in [signature.as_str(), "AAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
            let headers = [("content-type", "application/x-www-form-urlencoded"), ("x-twilio-signature", signature)];
            client.hear(client.client.send(Method::POST, path, Some(form.clone()), &headers).await);
        }
    }
}

/// What the log of deliveries shows.
async fn deliveries(client: &Listening, endpoint: &str) {
    let listed = client.hear(client.client.get(&format!("{endpoint}/deliveries")).await);
    for delivery in listed.expect(StatusCode::OK)["data"].as_array().unwrap() {
        let path = format!("{endpoint}/deliveries/{}", delivery["id"].as_str().unwrap());
        client.hear(client.client.get(&path).await).expect(StatusCode::OK);
    }
}

/// A template that stays, filled in for one and for many, and refused. What shows it to its owner is not listened to.
async fn templates(client: &Listening, carrier: &Carrier) {
    let text = json!({ "name": TEMPLATE_NAME, "body": format!("{TEMPLATE_TEXT} {{{{field}}}} {TEMPLATE_TEXT}") });
    let made = client.client.post("/v1/templates", text.clone()).await.expect(StatusCode::CREATED);
    let path = format!("/v1/templates/{}", made["id"].as_str().unwrap());
    client.client.get(&path).await.expect(StatusCode::OK);
    client.call(Method::POST, "/v1/templates", text, &[]).await.problem(StatusCode::CONFLICT);
    let wrong = json!({ "name": TEMPLATE_NAME, "body": format!("{TEMPLATE_TEXT} {{{{") });
    client.call(Method::POST, "/v1/templates", wrong, &[]).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    let stale = json!({ "name": TEMPLATE_NAME, "body": TEMPLATE_TEXT, "revision": 7 });
    client.call(Method::PUT, &path, stale, &[]).await.problem(StatusCode::CONFLICT);
    let to = json!([{ "to": TO, "fields": { "field": BODY } }, "+14155558714", OPTED_OUT, BODY]);
    for (key, to, fields, status) in [
        ("one-filled", json!(TO), json!({ "field": BODY }), StatusCode::ACCEPTED),
        ("one-missing", json!(TO), json!({}), StatusCode::UNPROCESSABLE_ENTITY),
        ("one-unfit", json!(TO), json!({ "Field": BODY }), StatusCode::UNPROCESSABLE_ENTITY),
        ("many", to, json!({}), StatusCode::ACCEPTED),
    ] {
        let ask = json!({ "to": to, "from": carrier.number, "template": { "id": made["id"], "fields": fields } });
        client.call(Method::POST, "/v1/messages", ask, &[("idempotency-key", key)]).await.expect(status);
    }
}

/// A key sends, lacks a scope, is revoked, and comes in the wrong place.
async fn the_other_way_in(client: &Listening, carrier: &Carrier, key: &str, revoked: &str) {
    let program = Listening { client: client.client.by_key(key), heard: Mutex::default() };
    let text = json!({ "to": TO, "from": carrier.number, "body": BODY });
    let headers = [("idempotency-key", "k")];
    program.call(Method::POST, "/v1/messages", text, &headers).await.expect(StatusCode::ACCEPTED);
    program.hear(program.client.get("/v1/usage").await).problem(StatusCode::FORBIDDEN);
    program.hear(program.client.get(&format!("/v1/messages/{key}")).await).problem(StatusCode::NOT_FOUND);
    program.hear(program.client.by_key(revoked).get("/v1/messages").await).problem(StatusCode::UNAUTHORIZED);
    let misplaced = json!({ "name": "a", "scopes": [key] });
    client.call(Method::POST, "/v1/account/api-keys", misplaced, &[]).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
    client.heard.lock().unwrap().append(&mut program.heard.lock().unwrap());
}

/// Numbers through every route that takes them in its body.
async fn opt_outs(client: &Listening, carrier: &Carrier) {
    for path in ["/v1/opt-outs", "/v1/opt-outs/check", "/v1/opt-outs/removals"] {
        let mut ask = json!({ "numbers": [TO, OPTED_OUT, TEXTER, BODY], "from": carrier.number });
        if path.ends_with("removals") {
            ask["evidence"] = json!({ "kind": BODY, "given_at": BODY });
            client.call(Method::POST, path, ask.clone(), &[]).await.problem(StatusCode::UNPROCESSABLE_ENTITY);
            ask["evidence"] = json!({ "kind": "spoken", "given_at": "2026-01-02T03:04:05Z" });
        }
        let answer = client.call(Method::POST, path, ask, &[]).await.expect(StatusCode::OK);
        assert_eq!(answer["data"].as_array().unwrap().len(), 4);
    }
}

/// Waits until every message has come to its end.
async fn all_have_ended(client: &Listening) {
    let mut ends = ["delivered"; 6].to_vec();
    ends.extend(["received", "received", "refused", "rejected", "unknown", "unknown"]);
    eventually("every message has come to its end", async || {
        let list = client.hear(client.client.get("/v1/messages").await).expect(StatusCode::OK);
        let messages = list["data"].as_array().unwrap();
        let mut statuses: Vec<_> = messages.iter().map(|message| message["status"].as_str().unwrap()).collect();
        statuses.sort_unstable();
        (statuses == ends).then_some(())
    })
    .await;
}

/// The search finds what is there: one leak of each kind, planted.
async fn positive_control(running: &Running, markers: &[Marker]) {
    let before = search(running, markers).hits.len();
    tracing::warn!(target: "telbuddy", "planted: {}", HEXLOWER.encode(BODY.as_bytes()));
    assert_eq!(search(running, markers).hits.len(), before + 1, "a planted log line was not found");
    let leak = json!({ "text": BASE64.encode(format!("x{PASSWORD}").as_bytes()) }).to_string();
    let queue = telbuddy::live::local::sqs(&running.config).unwrap();
    let url = queue.list_queues().send().await.unwrap().queue_urls.unwrap_or_default();
    let dead = url.iter().find(|url| url.ends_with("-dead")).unwrap();
    queue.send_message().queue_url(dead).message_body(leak).send().await.unwrap();
    let hits = search(running, markers).hits;
    assert!(hits.iter().any(|hit| hit.starts_with("the password in")), "a planted dead letter was not found: {hits:?}");
}
