//! The canary for credentials (promise N2): a thousand connects and rotations, each with secrets of its own, and then
//! every step of connecting, rotating, sending and checking webhooks fails or panics in turn. None of the secrets is in
//! a table, a queue, a mail, an answer, a log line or a panic's message.
//!
//! The thousand run on the fake world, in one process and with no server: its tables hold the same rows, and it can
//! fail at every method of every port. What the real adapters say when AWS fails is looked at in the running system.
//!
//! Every fault that a handler meets is logged with its whole text, and all that a problem holds is in its answer:
//! reading logs and answers is reading `Display` and `Debug` of both.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};

use data_encoding::BASE64;
use futures::FutureExt;
use local_aws::{Fault as AwsFault, Injection, Service};
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use telbuddy::account::Email;
use telbuddy::credential::{Auth, Check, KeepCredential};
use telbuddy::edge::{Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::inbound::signature;
use telbuddy::message::{Created, Message};
use telbuddy::platform::{Job, Letter, Queue, SendMail};
use telbuddy::secret::ExposeSecret;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{OWN, secs};
use telbuddy::testing::setup::{Customer, request, site, with_header};

use crate::canary::{Marker, Search, logs, search};
use crate::support::{Answer, start_with_faults};

const PATH: &str = "/v1/credentials/twilio";
const ROTATION: &str = "/v1/credentials/twilio/rotation";

/// In every secret of these tests, so that one search finds them all.
const MARK: &str = "Canary5ecretQ7x9VbK2";

fn secret(n: usize) -> String {
    format!("{n:06}{MARK}{n:06}")
}

/// What panics of this process have said.
fn panics() -> &'static Arc<Mutex<Vec<u8>>> {
    static PANICS: OnceLock<Arc<Mutex<Vec<u8>>>> = OnceLock::new();
    PANICS.get_or_init(|| {
        let said = Arc::new(Mutex::new(Vec::new()));
        let (kept, before) = (said.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            kept.lock().unwrap().extend(format!("{info}\n{info:?}\n").into_bytes());
            if !info.to_string().contains("planted") {
                before(info);
            }
        }));
        said
    })
}

/// The ways to be connected: an Auth Token, an API key with one, an API key with a shared key.
const KINDS: usize = 3;

/// Connects a Twilio account in one of the ways; `n` numbers its secrets.
fn connect(world: &World, customer: &Customer, kind: usize, n: usize) -> Request {
    let sid = customer.credential.account_sid.as_str();
    let mut ask = rotation(kind, n);
    ask["account_sid"] = sid.into();
    customer.request(world, Method::PUT, PATH, &ask.to_string())
}

/// The secrets of one way, new ones.
fn rotation(kind: usize, n: usize) -> Value {
    let (key, one, two) = (format!("SK{n:032x}"), secret(n), secret(n + 500_000));
    match kind {
        0 => json!({ "auth_token": one }),
        1 => json!({ "api_key_sid": key, "api_key_secret": one, "auth_token": two }),
        _ => json!({ "api_key_sid": key, "api_key_secret": one, "signing_key_id": "an-id", "signing_key": two }),
    }
}

fn rotate(world: &World, customer: &Customer, kind: usize, n: usize) -> Request {
    customer.request(world, Method::POST, ROTATION, &rotation(kind, n).to_string())
}

/// Everything that was said to somebody.
#[derive(Default)]
struct Heard(Vec<u8>);

impl Heard {
    fn hear(&mut self, what: &impl std::fmt::Debug) {
        self.0.extend(format!("{what:?}\n").into_bytes());
    }

    /// Runs a handler; what it answers, or what its panic carries, is heard.
    async fn of(&mut self, handled: impl Future<Output = Reply>) -> Option<StatusCode> {
        match AssertUnwindSafe(handled).catch_unwind().await {
            Ok(reply) => {
                self.hear(&reply);
                Some(reply.status)
            }
            Err(panic) => {
                self.hear(&panic.downcast_ref::<String>());
                None
            }
        }
    }
}

/// Searches everything that the fake world holds and all that was said.
fn search_world(world: &World, heard: &Heard, mark: &str) -> Search {
    let markers = [Marker::new("a secret", mark)];
    let mut search = Search::default();
    search.look("tables and queues", &world.at_rest(), &markers);
    search.look("a mail", format!("{:?}", world.mails()).as_bytes(), &markers);
    search.look("an answer", &heard.0, &markers);
    search.look("a log line", &logs().0.lock().unwrap(), &markers);
    search.look("a panic", &panics().lock().unwrap(), &markers);
    search
}

#[tokio::test]
async fn no_secret_of_a_thousand_connects_and_rotations_is_anywhere() {
    logs();
    panics();
    let (world, site, mut heard) = (World::new(7), site(), Heard::default());
    let mut stored = 0;
    // Each as often as one account may in a quarter of an hour.
    for customer in 0..50 {
        let n = |step: usize| customer * 20 + step;
        let customer = Customer::new(&world).await;
        for step in 0..10 {
            let kind = (n(step) / 5) % KINDS;
            for asking in [connect(&world, &customer, kind, n(step)), rotate(&world, &customer, kind, n(step + 10))] {
                heard.hear(&asking);
                let status = heard.of(credentials::handle(&world, &site, asking)).await;
                stored += usize::from(status == Some(StatusCode::OK));
            }
        }
        let look = customer.request(&world, Method::GET, PATH, "");
        heard.of(credentials::handle(&world, &site, look)).await;
        heard.hear(&world.load_credential(customer.account).await);
    }
    assert_eq!(stored, 1_000);
    let found = search_world(&world, &heard, MARK);
    assert_eq!(found.hits, Vec::<String>::new());
    assert!(found.bytes > 1_000_000, "too little was searched: {found:?}");

    // The search finds what is there, and the secrets were there.
    let planted = "p1anted-W8zr4Lq0";
    heard.hear(&planted.as_bytes());
    let to = Email::parse("ann@example.com").unwrap();
    let letter = Letter { to, subject: "planted".to_owned(), text: BASE64.encode(planted.as_bytes()) };
    world.send_mail(letter).await.unwrap();
    let panicked: Result<(), _> = AssertUnwindSafe(async { panic!("planted: {planted}") }).catch_unwind().await;
    assert!(panicked.is_err());
    tracing::warn!(target: "telbuddy", "planted: {planted}");
    let places = search_world(&world, &heard, planted).hits;
    assert_eq!(places, ["a mail", "an answer", "a log line", "a panic"].map(|place| format!("a secret in {place}")));
    let checked = world.twilio().checked();
    let last = checked.last().unwrap();
    assert!(
        matches!(&last.auth, Auth::ApiKey(_, secret) | Auth::AuthToken(secret) if secret.expose_secret().contains(MARK))
    );
}

/// Each way that one call of a port can go wrong.
const WRONGS: usize = 7;

fn go_wrong(world: &World, method: &str, wrong: usize) {
    let faults = [Fault::transient("busy"), Fault::permanent("denied"), Fault::Ambiguous("reset".to_owned())];
    match wrong {
        0..3 => world.fail_next(method, faults[wrong].clone()),
        3..6 => world.lose_answer(method, faults[wrong - 3].clone()),
        _ => world.panic_next(method),
    }
}

/// The methods of ports that were called since the last look.
fn methods(world: &World) -> Vec<&'static str> {
    let methods = world.calls().into_keys().collect();
    world.forget_calls();
    methods
}

#[tokio::test]
async fn no_secret_is_shown_when_connecting_or_rotating_fails_at_any_step_or_is_ill_formed() {
    logs();
    panics();
    let (world, site, mut heard) = (World::new(8), site(), Heard::default());
    let (mut n, mut failed, mut panicked) = (0, 0, 0);
    for kind in 0..KINDS {
        for rotates in [false, true] {
            let asking = |customer: &Customer, n: usize| {
                if rotates { rotate(&world, customer, kind, n) } else { connect(&world, customer, kind, n) }
            };
            let customer = Customer::new(&world).await;
            heard.of(credentials::handle(&world, &site, connect(&world, &customer, kind, 0))).await;
            // A minute later, so that the session's last call is written too.
            world.advance(secs(60));
            methods(&world);
            assert_eq!(heard.of(credentials::handle(&world, &site, asking(&customer, 1))).await, Some(StatusCode::OK));
            let steps = methods(&world);
            assert!(steps.contains(&"mint_key") && steps.contains(&"save_credential"), "{steps:?}");
            for (method, wrong) in steps.iter().flat_map(|method| (0..WRONGS).map(move |wrong| (*method, wrong))) {
                n += 2;
                let customer = Customer::new(&world).await;
                heard.of(credentials::handle(&world, &site, connect(&world, &customer, kind, n))).await;
                world.advance(secs(60));
                let asking = asking(&customer, n + 1);
                go_wrong(&world, method, wrong);
                match heard.of(credentials::handle(&world, &site, asking)).await {
                    None => panicked += 1,
                    Some(status) => failed += usize::from(status.is_server_error()),
                }
                world.forget_faults();
            }
            // What Twilio says.
            for check in [Check::Refused, Check::Inactive, Check::Busy, Check::Unreachable] {
                n += 1;
                world.twilio().check_says(customer.credential.account_sid.as_str(), check);
                let status = heard.of(credentials::handle(&world, &site, asking(&customer, n))).await.unwrap();
                assert!(!status.is_success());
            }
        }
    }
    assert!(failed > 200 && panicked > 50, "{failed} failed and {panicked} panicked of {n}");

    let customer = Customer::new(&world).await;
    for (path, body) in ill_formed() {
        let method = if path == ROTATION { Method::POST } else { Method::PUT };
        let status = heard.of(credentials::handle(&world, &site, customer.request(&world, method, &path, &body))).await;
        assert!(status.unwrap().is_client_error(), "{path} {body}");
    }
    let found = search_world(&world, &heard, MARK);
    assert_eq!(found.hits, Vec::<String>::new());
}

/// Secrets where they do not belong, and in bodies that do not read.
fn ill_formed() -> Vec<(String, String)> {
    let (sid, secret) = (format!("AC{}", "0".repeat(32)), secret(1));
    let connects = [
        json!({ "account_sid": secret, "auth_token": secret }).to_string(),
        json!({ "account_sid": sid, "auth_token": [secret] }).to_string(),
        json!({ "account_sid": sid, "auth_token": { "value": secret } }).to_string(),
        json!({ "account_sid": sid, "auth_token": format!("{secret} {secret}") }).to_string(),
        json!({ "account_sid": sid, "auth_token": secret.repeat(9) }).to_string(),
        json!({ "account_sid": sid, "api_key_sid": secret, "api_key_secret": secret }).to_string(),
        json!({ "account_sid": sid, "signing_key_id": format!(" {secret}"), "signing_key": secret }).to_string(),
        json!({ "account_sid": sid, "auth_token": secret, "region": secret }).to_string(),
        json!({ "account_sid": sid, "auth_token": secret, "token": secret }).to_string(),
        format!(r#"{{"account_sid":"{sid}","auth_token":"{secret}","auth_token":"{secret}"}}"#),
        format!(r#"{{"account_sid":"{sid}","auth_token":"{secret}"#),
        format!(r#"{{"account_sid":"{sid}","auth_token":{secret}}}"#),
        format!(r#""{secret}""#),
        secret.clone(),
    ];
    let rotations = [
        json!({ "auth_token": null, "signing_key": secret }).to_string(),
        json!({ "api_key_secret": secret }).to_string(),
        json!({ "auth_token": [secret] }).to_string(),
        json!({ "auth_token": secret, "signing_key_id": secret, "signing_key": secret }).to_string(),
    ];
    let good = json!({ "account_sid": sid, "auth_token": secret }).to_string();
    let query = [(format!("{PATH}?leave_numbers={secret}"), good)];
    let connects = connects.into_iter().map(|body| (PATH.to_owned(), body));
    let rotations = rotations.into_iter().map(|body| (ROTATION.to_owned(), body));
    connects.chain(rotations).chain(query).collect()
}

/// A text that arrives, signed with a token.
fn arrives(world: &World, customer: &Customer, token: &str) -> Request {
    let path = format!("/hooks/twilio/{}/messages", customer.credential.hook.reveal());
    let account = customer.credential.account_sid.as_str();
    let sid = format!("SM{}", "0".repeat(32));
    let params = [("MessageSid", sid.as_str()), ("AccountSid", account), ("From", "+14155552671"), ("To", OWN)];
    let params = params.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
    let request = request(world, Method::POST, &path, &form);
    let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let signed = signature::sign(token, &format!("{}{path}", site().origin), &params);
    with_header(request, header::HeaderName::from_static("x-twilio-signature"), &signed)
}

/// What a connected secret is used for.
struct Use {
    /// One that it signed, and one that another signed.
    webhooks: [Request; 2],
    /// One that Twilio takes, and one to which it answers 401.
    messages: [Message; 2],
}

/// It checks webhooks, sends, is refused, and its owner is told.
async fn used(world: &World, use_of: Use, heard: &mut Heard) {
    let site = site();
    for request in use_of.webhooks {
        heard.hear(&request);
        heard.of(twilio_webhook::handle(world, &site, request)).await;
    }
    for (message, refused) in use_of.messages.into_iter().zip([false, true]) {
        if refused {
            world.twilio().answer_next(Created::Rejected { http: 401, code: Some(20_003) });
        }
        let job = Job::Send { account: message.account, message: message.id };
        let sending = AssertUnwindSafe(sender::handle(world, &site, vec![job])).catch_unwind().await;
        heard.hear(&sending.map_err(|panic| panic.downcast_ref::<String>().cloned()));
    }
    let jobs = world.take_jobs(Queue::Mail);
    heard.hear(&jobs);
    let mailing = AssertUnwindSafe(mailer::handle(world, &site, jobs)).catch_unwind().await;
    heard.hear(&mailing.map_err(|panic| panic.downcast_ref::<String>().cloned()));
}

#[tokio::test]
async fn no_secret_is_shown_when_what_uses_it_fails_at_any_step() {
    logs();
    panics();
    let (world, mut heard, mut n) = (World::new(9), Heard::default(), 0);
    let using = async |n: usize| {
        let customer = Customer::new(&world).await;
        let asking = connect(&world, &customer, 0, n);
        assert_eq!(credentials::handle(&world, &site(), asking).await.status, StatusCode::OK);
        let use_of = Use {
            webhooks: [n, n + 1].map(|n| arrives(&world, &customer, &secret(n))),
            messages: [customer.message(&world).await, customer.message(&world).await],
        };
        world.forget_calls();
        use_of
    };
    used(&world, using(0).await, &mut heard).await;
    let steps = methods(&world);
    for step in ["open_key", "create_message", "stop_sending", "quarantine", "note_alert", "load_owner"] {
        assert!(steps.contains(&step), "{step} is not in {steps:?}");
    }
    for (method, wrong) in steps.iter().flat_map(|method| (0..WRONGS).map(move |wrong| (*method, wrong))) {
        n += 2;
        let use_of = using(n).await;
        go_wrong(&world, method, wrong);
        used(&world, use_of, &mut heard).await;
        world.forget_faults();
    }
    let found = search_world(&world, &heard, MARK);
    assert_eq!(found.hits, Vec::<String>::new());
    assert!(String::from_utf8_lossy(&panics().lock().unwrap()).contains("a planted panic in open_key"));
}

/// The real adapters, and what they say when a call of AWS is denied, breaks, or gets no answer.
#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_shown_when_aws_fails_at_any_call() {
    logs();
    let running = start_with_faults().await;
    let mut heard = Vec::new();
    let mut markers = Vec::new();
    let denied = |code: &str, status| AwsFault::Error { status, code: code.to_owned() };
    let faults = [
        denied("AccessDeniedException", 400),
        denied("ValidationException", 400),
        denied("InternalFailure", 500),
        AwsFault::DropRequest,
    ];
    let calls = [
        (Service::SecretsManager, "GetSecretValue"),
        (Service::Kms, "GenerateDataKey"),
        (Service::DynamoDb, "GetItem"),
        (Service::DynamoDb, "UpdateItem"),
        (Service::DynamoDb, "TransactWriteItems"),
    ];
    let mut failed = 0;
    for (nth, fault) in faults.into_iter().enumerate() {
        let (client, carrier) = running.connected(&format!("canary{nth}")).await;
        markers.push(Marker::new("the first token", &carrier.auth_token));
        let path = format!("/_local/twilio/accounts/{}/secondary-token", carrier.account_sid);
        for (service, action) in calls {
            for rotates in [false, true] {
                let made = client.post(&path, json!({})).await.expect(StatusCode::OK);
                let new = made["secondary_auth_token"].as_str().unwrap().to_owned();
                markers.push(Marker::new("a new token", &new));
                running.aws.faults().inject(Injection::next(20, service, action, fault.clone())).unwrap();
                let answer: Answer = if rotates {
                    client.post(ROTATION, json!({ "auth_token": new })).await
                } else {
                    client.put(PATH, json!({ "account_sid": carrier.account_sid, "auth_token": new })).await
                };
                running.aws.faults().clear();
                failed += usize::from(answer.status.is_server_error());
                heard.extend(format!("{answer:?}").into_bytes());
            }
        }
    }
    // The platform's secret is read once and remembered: all others fail each time.
    assert_eq!(failed, 4 * 4 * 2, "{failed}");
    let mut found = search(&running, &markers);
    found.look("an answer", &heard, &markers);
    found.look("a mail", format!("{:?}", running.aws.mails().unwrap()).as_bytes(), &markers);
    assert_eq!(found.hits, Vec::<String>::new());
    running.stop().await;
}
