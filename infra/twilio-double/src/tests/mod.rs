//! The double as its users see it: over HTTP, with a receiver for its webhooks.

mod faults;
mod numbers;
mod rest;
mod services;
mod webhooks;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{Options, ReadyAccount, TwilioDouble};

pub const PHONE: &str = "+12065550123";
pub const SERVICE: &str = "MG00000000000000000000000000000004";

/// A webhook that came in.
#[derive(Clone, Debug)]
pub struct Hook {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub pairs: Vec<(String, String)>,
}

impl Hook {
    pub fn get(&self, name: &str) -> String {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Receives webhooks, answers with the queued answers first, then with 200 and nothing.
#[derive(Clone, Default)]
pub struct Receiver {
    hooks: Arc<Mutex<Vec<Hook>>>,
    pub answers: Arc<Mutex<Vec<(u16, &'static str)>>>,
    pub origin: String,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Self { origin, ..Self::default() };
        let inner = receiver.clone();
        let app = Router::new().fallback(move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let pairs = form_urlencoded::parse(&body).into_owned().collect();
            inner.hooks.lock().unwrap().push(Hook { method, target: uri.to_string(), headers, pairs });
            let mut answers = inner.answers.lock().unwrap();
            let (status, text) = if answers.is_empty() { (200, "") } else { answers.remove(0) };
            std::future::ready((StatusCode::from_u16(status).unwrap(), text))
        });
        tokio::spawn(axum::serve(listener, app).into_future());
        receiver
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    pub fn all(&self) -> Vec<Hook> {
        self.hooks.lock().unwrap().clone()
    }

    /// Waits until `n` hooks are there, then a little longer to see that no more come.
    pub async fn exactly(&self, n: usize) -> Vec<Hook> {
        for _ in 0..400 {
            if self.all().len() >= n {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let hooks = self.all();
        assert_eq!(hooks.len(), n, "{hooks:?}");
        hooks
    }

    pub async fn statuses(&self, n: usize) -> Vec<String> {
        self.exactly(n).await.iter().map(|hook| hook.get("MessageStatus")).collect()
    }
}

/// The double, its ready account, and the receiver.
pub struct World {
    pub double: TwilioDouble,
    pub account: ReadyAccount,
    pub receiver: Receiver,
    pub http: reqwest::Client,
    control: String,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Options { callback_delay: Duration::from_millis(15), ..Options::default() }).await
    }

    /// Leaves time to act on messages and calls before they are final.
    pub async fn slow() -> Self {
        Self::with(Options { callback_delay: Duration::from_millis(150), ..Options::default() }).await
    }

    pub async fn kept_in(folder: &Path, callback_delay: Duration) -> Self {
        let data = Some(folder.to_path_buf());
        Self::with(Options { data, callback_delay, ..Options::default() }).await
    }

    pub async fn with(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let double = TwilioDouble::start(listener, options).await.unwrap();
        let side = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = format!("http://{}/_local/twilio", side.local_addr().unwrap());
        tokio::spawn(axum::serve(side, double.control()).into_future());
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap();
        Self { account: double.account(), double, receiver: Receiver::start().await, http, control }
    }

    pub fn from(&self) -> &str {
        &self.account.numbers[0]
    }

    /// A request with other credentials; the path follows `/2010-04-01/Accounts/{AccountSid}`, unless it names its API.
    /// A whole URL of the double is its path.
    pub async fn rest_as(
        &self,
        (user, secret): (&str, &str),
        method: &str,
        path: &str,
        form: &[(&str, &str)],
    ) -> Result<(u16, Value), reqwest::Error> {
        let path = path.strip_prefix(&self.double.base_url()).unwrap_or(path);
        let path = if path.starts_with("/2010") || path.starts_with("/v1/") {
            path.to_owned()
        } else {
            format!("/2010-04-01/Accounts/{}{path}", self.account.account_sid)
        };
        let url = format!("{}{path}", self.double.base_url());
        let mut request = self.http.request(method.parse().unwrap(), url).basic_auth(user, Some(secret));
        if method == "POST" {
            request = request.form(form);
        }
        let response = request.send().await?;
        assert_eq!(response.headers()["server"], "twilio-double");
        let status = response.status().as_u16();
        Ok((status, response.json().await.unwrap_or(Value::Null)))
    }

    pub async fn rest(&self, method: &str, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
        let caller = (&self.account.account_sid[..], &self.account.auth_token[..]);
        self.rest_as(caller, method, path, form).await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.rest("GET", path, &[]).await.1
    }

    /// Sends a message with further fields; the answer's code, 0 when accepted, and the answer.
    pub async fn send(&self, fields: &[(&str, &str)]) -> (u64, Value) {
        let mut form: HashMap<&str, &str> = HashMap::from([("To", PHONE), ("From", self.from()), ("Body", "hello")]);
        form.extend(fields.iter().copied());
        let form: Vec<_> = form.into_iter().filter(|(_, value)| *value != "-").collect();
        let (status, answer) = self.rest("POST", "/Messages.json", &form).await;
        assert_eq!(status == 201, answer["code"].is_null(), "{answer}");
        (answer["code"].as_u64().unwrap_or(0), answer)
    }

    pub async fn control(&self, path: &str, body: Value) -> (u16, Value) {
        let response = self.http.post(format!("{}{path}", self.control)).json(&body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn look(&self, path: &str) -> String {
        self.http.get(format!("{}{path}", self.control)).send().await.unwrap().text().await.unwrap()
    }

    pub async fn overview(&self) -> Value {
        serde_json::from_str(&self.look("").await).unwrap()
    }

    pub async fn journal(&self) -> Vec<Value> {
        let journal: Value = serde_json::from_str(&self.look("/journal").await).unwrap();
        journal["data"].as_array().unwrap().clone()
    }

    pub async fn inbound(&self, body: &str) -> Value {
        self.control("/inbound", json!({"from": PHONE, "to": self.from(), "body": body})).await.1
    }

    /// Path of the first number.
    pub async fn number_path(&self) -> String {
        let path = format!("/IncomingPhoneNumbers.json?PhoneNumber={}", self.from().replace('+', "%2B"));
        let numbers = self.get(&path).await;
        format!("/IncomingPhoneNumbers/{}.json", numbers["incoming_phone_numbers"][0]["sid"].as_str().unwrap())
    }

    /// Sets fields of the first number.
    pub async fn set_number(&self, form: &[(&str, &str)]) {
        let (status, answer) = self.rest("POST", &self.number_path().await, form).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Makes a Messaging Service with these numbers; its path.
    pub async fn new_service(&self, numbers: &[&str]) -> String {
        let path = format!("/accounts/{}/services", self.account.account_sid);
        let (status, answer) = self.control(&path, json!({"friendly_name": "Front desk", "numbers": numbers})).await;
        assert_eq!(status, 200, "{answer}");
        format!("/v1/Services/{}", answer["sid"].as_str().unwrap())
    }

    /// Waits for a status of a message or call.
    pub async fn until(&self, path: &str, status: &str) -> Value {
        let mut answer = Value::Null;
        for _ in 0..400 {
            answer = self.get(path).await;
            if answer["status"] == status {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never {status}: {answer}");
    }
}

pub fn message_path(message: &Value) -> String {
    format!("/Messages/{}.json", message["sid"].as_str().unwrap())
}
