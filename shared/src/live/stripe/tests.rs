//! What the client asks, and what it makes of answers, against a server on this machine that answers as it is told.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::ids::AccountId;
use crate::live::config::STAGE;

const QUICK: Limits = Limits {
    try_for: Duration::from_millis(300),
    begin_until: Duration::from_secs(5),
    tries: 3,
    backoff: Duration::from_millis(10),
};

/// Answers each connection with the next of these, and keeps what was asked. An empty one is a broken connection.
struct Server {
    base: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            for answer in answers {
                let Ok((mut stream, _)) = listener.accept().await else { return };
                let kept = Arc::clone(&kept);
                tokio::spawn(async move {
                    let mut request = vec![0; 8192];
                    let n_bytes = stream.read(&mut request).await.unwrap_or(0);
                    kept.lock().unwrap().push(String::from_utf8_lossy(&request[..n_bytes]).into_owned());
                    if answer == "late" {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { base, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    async fn ask(&self, method: Method) -> Result<Value, StripeError> {
        let key = OperationKey::new("checkout", AccountId::from_bits(1), "one");
        let key = (method == Method::POST).then_some(&key);
        let params = json!({ "mode": "payment", "created": { "gte": 5 } });
        self.stripe().ask("sk_test_x", &Ask { method, path: "/v1/things".to_owned(), params, key }).await
    }

    fn stripe(&self) -> Stripe {
        let (client, base) = (Some(client(QUICK).unwrap()), self.base.clone());
        Stripe { client, base, stage: "local".to_owned(), limits: QUICK }
    }
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

fn good() -> String {
    answer(200, "", r#"{"id":"x_1"}"#)
}

fn error(status: u16, headers: &str, kind: &str, code: &str) -> String {
    let error = json!({ "type": kind, "code": code, "param": "customer", "message": "No such: ann@example.com" });
    answer(status, headers, &json!({ "error": error }).to_string())
}

#[tokio::test]
async fn a_post_has_its_key_version_secret_and_form_and_a_get_has_them_in_its_query() {
    let server = Server::start(vec![good(), good()]).await;
    assert_eq!(server.ask(Method::POST).await.unwrap()["id"], "x_1");
    assert_eq!(server.ask(Method::GET).await.unwrap()["id"], "x_1");
    let [post, get] = &server.asked()[..] else { panic!("two requests") };
    let account = AccountId::from_bits(1);
    assert!(post.starts_with("POST /v1/things HTTP/1.1\r\n"), "{post}");
    for line in [
        "authorization: Bearer sk_test_x",
        "stripe-version: 2026-10-28.endive",
        &format!("idempotency-key: tb:checkout:{account}:one"),
        "content-type: application/x-www-form-urlencoded",
    ] {
        assert!(post.to_lowercase().contains(&line.to_lowercase()), "{line}: {post}");
    }
    let (_, body) = post.split_once("\r\n\r\n").unwrap();
    let pairs: Vec<_> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    assert_eq!(pairs.len(), 2);
    assert!(pairs.contains(&("created[gte]".to_owned(), "5".to_owned())), "{pairs:?}");
    assert!(get.starts_with("GET /v1/things?") && get.contains("created%5Bgte%5D=5"), "{get}");
    assert!(!get.contains("idempotency-key"));
}

#[tokio::test]
async fn what_may_pass_is_asked_again_with_the_same_key_and_then_done() {
    for first in [
        error(429, "", "rate_limit_error", ""),
        error(429, "", "invalid_request_error", "lock_timeout"),
        error(409, "", "idempotency_error", "idempotency_key_in_use"),
        error(500, "", "api_error", ""),
        answer(503, "", "<html>a proxy</html>"),
        error(400, "stripe-should-retry: true\r\n", "invalid_request_error", ""),
        String::new(),
    ] {
        let server = Server::start(vec![first.clone(), good()]).await;
        assert_eq!(server.ask(Method::POST).await.unwrap()["id"], "x_1", "{first}");
        let asked = server.asked();
        assert_eq!((asked.len(), &asked[0]), (2, &asked[1]), "the same request: {first}");
    }
}

#[tokio::test]
async fn what_stays_is_a_fault_that_says_whether_stripe_may_have_done_it() {
    let busy = || vec![error(429, "", "rate_limit_error", ""); 3];
    let broken = || vec![error(500, "", "api_error", ""); 3];
    let gone = || vec![String::new(); 3];
    for (answers, method, expected) in [
        (busy(), Method::POST, "transient"),
        (busy(), Method::GET, "transient"),
        (broken(), Method::POST, "ambiguous"),
        (broken(), Method::GET, "transient"),
        (broken(), Method::DELETE, "transient"),
        (gone(), Method::POST, "ambiguous"),
        (gone(), Method::GET, "transient"),
        (vec!["late".to_owned(); 3], Method::POST, "ambiguous"),
        (vec![answer(200, "", "<html>")], Method::POST, "ambiguous"),
        (vec![answer(302, "location: http://127.0.0.1:1/\r\n", "")], Method::GET, "permanent"),
        (vec![error(401, "", "invalid_request_error", "")], Method::GET, "permanent"),
        (vec![error(403, "", "invalid_request_error", "")], Method::POST, "permanent"),
        (vec![error(500, "stripe-should-retry: false\r\n", "api_error", "")], Method::POST, "ambiguous"),
        (vec![error(429, "retry-after: 60\r\n", "rate_limit_error", "")], Method::POST, "transient"),
    ] {
        let n_answers = answers.len();
        let server = Server::start(answers).await;
        let error = server.ask(method.clone()).await.unwrap_err();
        let kind = match &error {
            StripeError::Fault(Fault::Transient(_)) => "transient",
            StripeError::Fault(Fault::Ambiguous(_)) => "ambiguous",
            StripeError::Fault(Fault::Permanent(_)) => "permanent",
            StripeError::Refused(_) => "refused",
        };
        assert_eq!(kind, expected, "{method}: {error}");
        assert_eq!(server.asked().len(), n_answers, "{method}: {error}");
        assert!(!error.to_string().contains("ann@example.com") && !error.to_string().contains("sk_test"), "{error}");
    }
}

#[tokio::test]
async fn a_no_of_stripes_is_told_by_type_code_and_parameter_and_is_not_asked_again() {
    let missing = error(404, "request-id: req_1\r\n", "invalid_request_error", "resource_missing");
    let reused = error(400, "", "idempotency_error", "");
    let server = Server::start(vec![missing, reused]).await;
    let error = server.ask(Method::GET).await.unwrap_err();
    assert!(error.is_missing() && !error.is_key_reused());
    let text = "Stripe refused GET /v1/things: 404 invalid_request_error resource_missing customer (req_1)";
    assert_eq!(error.to_string(), text);
    assert_eq!(Fault::from(error), Fault::permanent(text));
    let error = server.ask(Method::POST).await.unwrap_err();
    assert!(error.is_key_reused() && !error.is_missing(), "{error}");
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test]
async fn nobody_listening_is_a_fault_that_passes_since_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    drop(listener);
    let server = Server { base, asked: Arc::default() };
    assert!(matches!(server.ask(Method::POST).await, Err(StripeError::Fault(Fault::Transient(_)))));
}

#[test]
fn waits_grow_and_differ() {
    for tries in 1..=4 {
        let most = Duration::from_millis(100 << (tries - 1));
        let waits: std::collections::BTreeSet<_> =
            (0..50).map(|_| backoff(Duration::from_millis(100), tries).unwrap()).collect();
        assert!(waits.iter().all(|wait| (most / 2..=most).contains(wait)), "{tries}: {waits:?}");
        assert!(waits.len() > 10);
    }
}

#[test]
fn stripe_is_at_stripe_and_locally_it_may_be_on_this_machine() {
    let at = |stage: &str, url: Option<&str>| {
        let values = [(STAGE, Some(stage)), (STRIPE_URL, url)];
        let values = values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        Stripe::new(&Config::from_values(values), false).map(|stripe| stripe.base)
    };
    assert_eq!(at("prod", None), Ok(STRIPE.to_owned()));
    assert_eq!(at("prod", Some("https://api.stripe.com/")), Ok(STRIPE.to_owned()));
    assert_eq!(at("local", Some("http://127.0.0.1:9/")), Ok("http://127.0.0.1:9".to_owned()));
    for (stage, url) in [
        ("prod", "http://127.0.0.1:9"),
        ("local", "http://127.0.0.1.example.com:9"),
        ("local", "http://10.0.0.1:9"),
        ("prod", "https://api.stripe.com.example.com"),
        ("prod", "http://api.stripe.com"),
    ] {
        assert!(at(stage, Some(url)).is_err(), "{stage} {url}");
    }
}
