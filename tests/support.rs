//! A local system for each test, and a client that remembers its cookie.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use telbuddy::live::{Config, Live, Need};
use telbuddy_local::{LocalAwsOnly, LocalSystem, Options};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// A system with a folder of its own.
pub struct Running {
    pub system: LocalSystem,
    pub data: Arc<TempDir>,
}

impl Deref for Running {
    type Target = LocalSystem;

    fn deref(&self) -> &LocalSystem {
        &self.system
    }
}

pub async fn start() -> Running {
    start_in(Arc::new(tempfile::tempdir().unwrap())).await
}

/// One whose AWS can be made to fail.
pub async fn start_with_faults() -> Running {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let system = LocalSystem::start(Options { faults: true, ..options(data.path()) }).await.unwrap();
    Running { system, data }
}

pub async fn start_in(data: Arc<TempDir>) -> Running {
    start_with(data, |config| config).await
}

/// The system on this data, with other values for its functions.
pub async fn start_with(data: Arc<TempDir>, change: impl FnOnce(Config) -> Config) -> Running {
    let system = LocalSystem::start_with(options(data.path()), change).await.unwrap();
    Running { system, data }
}

pub fn options(data: &Path) -> Options {
    Options {
        port: 0,
        data: data.to_owned(),
        fallback: false,
        faults: false,
        callback_delay: Duration::from_millis(20),
    }
}

impl Running {
    pub async fn stop(self) -> Arc<TempDir> {
        self.system.stop().await;
        self.data
    }

    pub fn client(&self) -> Client {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { http, base: self.url.clone(), cookie: None, api_key: None }
    }

    /// A signed-in client whose e-mail address is confirmed.
    pub async fn signed_in(&self, name: &str) -> Client {
        let mut client = self.client();
        let email = format!("{name}@example.com");
        client.sign_up(&email, PASSWORD).await;
        let token = self.link_token(&email, 1).await;
        client.post("/v1/email-verifications", json!({ "token": token })).await.expect(StatusCode::NO_CONTENT);
        client.log_in(&email, PASSWORD).await.expect(StatusCode::CREATED);
        client
    }

    /// A signed-in client with a Twilio account of its own at the double, whose number is as fast as can be: who wants to
    /// see a long code's pace saves another policy.
    pub async fn connected(&self, name: &str) -> (Client, Carrier) {
        let client = self.signed_in(name).await;
        let carrier = self.carrier(json!({})).await;
        client.put("/v1/credentials/twilio", carrier.credential()).await.expect(StatusCode::OK);
        let fast = json!([{ "sender": carrier.number, "segments_per_second": 1_000 }]);
        let policy = json!({ "countries": ["US"], "daily_ceiling_segments": 500, "quiet_hours": null,
            "sender_rates": fast });
        client.put("/v1/sending-policy", policy).await.expect(StatusCode::OK);
        (client, carrier)
    }

    /// A new account at the Twilio double.
    pub async fn carrier(&self, options: Value) -> Carrier {
        let answer = self.client().post("/_local/twilio/accounts", options).await;
        assert!(answer.status.is_success(), "{answer:?}");
        let text = |name: &str| answer.body[name].as_str().unwrap().to_owned();
        let number = answer.body["numbers"][0].as_str().unwrap().to_owned();
        Carrier { account_sid: text("account_sid"), auth_token: text("auth_token"), number }
    }

    /// The token of the newest mail with a link to an address, once there are `n` mails to it.
    pub async fn link_token(&self, email: &str, n: usize) -> String {
        let text = self.mail_text(email, n).await;
        text.split("token=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    pub async fn mail_text(&self, email: &str, n: usize) -> String {
        eventually("a mail arrives", async || {
            let mails = self.aws.mails().unwrap();
            let mails: Vec<_> = mails.into_iter().filter(|mail| mail.to.iter().any(|to| to == email)).collect();
            (mails.len() >= n).then(|| mails[0].text.clone())
        })
        .await
    }

    /// What the Twilio double accepted of an account.
    pub async fn journal(&self, carrier: &Carrier) -> Vec<Value> {
        let path = format!("/_local/twilio/journal?account_sid={}", carrier.account_sid);
        self.client().get(&path).await.body["data"].as_array().unwrap().clone()
    }

    pub async fn fault(&self, carrier: &Carrier, mut fault: Value) {
        fault["account_sid"] = carrier.account_sid.clone().into();
        let answer = self.client().post("/_local/twilio/faults", fault).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// That nothing we sent to Twilio went against its OpenAPI document.
    pub async fn no_contract_violations(&self) {
        let view = self.client().get("/_local/twilio").await;
        assert_eq!(view.body["contract_violations"], json!([]), "our client drifted from Twilio's OpenAPI");
    }
}

pub const PASSWORD: &str = "correct horse battery staple";

/// An account at the Twilio double.
pub struct Carrier {
    pub account_sid: String,
    pub auth_token: String,
    pub number: String,
}

impl Carrier {
    pub fn credential(&self) -> Value {
        json!({ "account_sid": self.account_sid, "auth_token": self.auth_token })
    }

    pub fn text(&self, to: &str, body: &str) -> Value {
        json!({ "to": to, "from": self.number, "body": body })
    }
}

/// A caller of the API.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub base: String,
    pub cookie: Option<String>,
    pub api_key: Option<String>,
}

/// An answer, its body read as JSON where it is.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    /// The stable end of a problem's `type`.
    #[track_caller]
    pub fn problem(self, status: StatusCode) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        let body = self.expect(status);
        body["type"].as_str().unwrap().trim_start_matches("https://telbuddy.dev/problems/").to_owned()
    }
}

impl Client {
    pub async fn send(&self, method: Method, path: &str, body: Option<String>, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        if let Some(key) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if let Some(body) = body {
            request = request.body(body);
            if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                request = request.header("content-type", "application/json");
            }
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status, headers, text, body }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, Some(body.to_string()), &[]).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(Method::PUT, path, Some(body.to_string()), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None, &[]).await
    }

    pub async fn sign_up(&self, email: &str, password: &str) {
        let ask = json!({ "name": "Ann Example", "email": email, "company": "Example Ltd", "password": password, "country": "US" });
        self.post("/v1/signup", ask).await.expect(StatusCode::ACCEPTED);
    }

    /// Logs in and remembers the cookie.
    pub async fn log_in(&mut self, email: &str, password: &str) -> Answer {
        let answer = self.post("/v1/sessions", json!({ "email": email, "password": password })).await;
        if let Some(line) = answer.headers.get("set-cookie") {
            self.cookie = Some(line.to_str().unwrap().split(';').next().unwrap().to_owned());
        }
        answer
    }

    /// A new API key: its id and the key.
    pub async fn make_api_key(&self, scopes: &[&str]) -> (String, String) {
        let ask = json!({ "name": "Till 4", "scopes": scopes });
        let made = self.post("/v1/account/api-keys", ask).await.expect(StatusCode::CREATED);
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    /// A caller with an API key and no cookie.
    pub fn by_key(&self, key: &str) -> Self {
        Self { cookie: None, api_key: Some(key.to_owned()), ..self.clone() }
    }

    pub async fn message(&self, key: &str, body: Value) -> Answer {
        self.send(Method::POST, "/v1/messages", Some(body.to_string()), &[("idempotency-key", key)]).await
    }

    /// Sends a message and gives its id.
    pub async fn accepted(&self, key: &str, body: Value) -> String {
        let answer = self.message(key, body).await.expect(StatusCode::ACCEPTED);
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a message has a status.
    pub async fn until(&self, id: &str, status: &str) -> Value {
        let path = format!("/v1/messages/{id}");
        eventually(&format!("{id} becomes {status}"), async || {
            let message = self.get(&path).await.expect(StatusCode::OK);
            (message["status"] == status).then_some(message)
        })
        .await
    }
}

/// Asks again until there is an answer; at most a minute of pauses, for a busy machine.
pub async fn eventually<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    for _ in 0..1_200 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("waited a minute and never saw that {what}");
}

/// The doubles of AWS and Twilio alone, for adapters that a test makes by itself.
pub async fn start_aws() -> (LocalAwsOnly, TempDir) {
    let data = tempfile::tempdir().unwrap();
    (start_aws_in(data.path()).await, data)
}

/// The same on data that is there: nothing works on it.
pub async fn start_aws_in(data: &Path) -> LocalAwsOnly {
    telbuddy_local::start_aws(&options(data), "http://127.0.0.1:1").await.unwrap()
}

/// The real adapters on the embedded AWS: the AWS is one for all contract tests of this process, the adapters are the
/// test's own, because connections live on the runtime that opened them.
pub struct LiveStore(Live);

impl Deref for LiveStore {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.0
    }
}

/// Every test has a runtime of its own; the servers need one that outlives them all.
pub async fn live_store() -> LiveStore {
    static CONFIG: OnceCell<Config> = OnceCell::const_new();
    let config = CONFIG.get_or_init(|| async {
        let (send, receive) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let data = tempfile::tempdir().unwrap();
                let aws = start_aws_in(data.path()).await;
                assert!(send.send(aws.config.clone()).is_ok());
                std::future::pending::<()>().await;
            });
        });
        receive.await.unwrap()
    });
    let needs = [Need::Tables, Need::Keys, Need::PlatformSecret, Need::Queues, Need::Mail, Need::Twilio];
    LiveStore(Live::new(config.await, &needs).unwrap())
}
