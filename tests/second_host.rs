//! A first host that fails in every way it can, and a second one: each text arrives, and once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::live::config::{FALLBACK_URL, PUBLIC_URL};
use telbuddy::live::{Config, Live};
use telbuddy::platform::{Handled, Job};
use telbuddy_local::{LocalSystem, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::inbound::set_number;
use crate::support::{Carrier, Client, Running, eventually, options, start_with};

/// What the first host does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    /// Hands it on, and the answer back.
    HandsOn,
    /// Answers 503.
    Refuses,
    /// Hands it on, and answers 503 in the answer's place.
    LosesTheAnswer,
    /// Hangs up.
    HangsUp,
}

/// The first host: in front of the local system, which is the second one.
struct Front {
    url: String,
    shared: Arc<Mutex<Shared>>,
    listens: JoinHandle<()>,
}

struct Shared {
    does: Does,
    behind: String,
    asked: usize,
}

impl Front {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let shared = Arc::new(Mutex::new(Shared { does: Does::HandsOn, behind: String::new(), asked: 0 }));
        let serving = Arc::clone(&shared);
        let listens = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = Arc::clone(&serving);
                tokio::spawn(async move { serve(stream, &serving).await });
            }
        });
        Self { url, shared, listens }
    }

    fn does(&self, does: Does) {
        self.shared.lock().unwrap().does = does;
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        std::mem::take(&mut self.shared.lock().unwrap().asked)
    }

    /// Nothing listens there any more.
    async fn goes_down(self) {
        self.listens.abort();
        assert!(self.listens.await.unwrap_err().is_cancelled());
    }
}

/// One request of a connection, which is closed then.
async fn serve(mut stream: TcpStream, shared: &Mutex<Shared>) -> Option<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        let n = stream.read_buf(&mut bytes).await.ok().filter(|n| *n > 0)?;
        assert!(n > 0 && bytes.len() < 100_000);
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            break (head, length);
        }
    };
    let body = bytes.split_off(bytes.len() - length);
    let (does, behind) = {
        let mut shared = shared.lock().unwrap();
        shared.asked += 1;
        (shared.does, shared.behind.clone())
    };
    let path = head.split(' ').nth(1)?;
    let (mut status, mut text) = (StatusCode::SERVICE_UNAVAILABLE, String::new());
    if matches!(does, Does::HandsOn | Does::LosesTheAnswer) {
        let mut request = reqwest::Client::new().post(format!("{behind}{path}")).body(body);
        for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(": ")) {
            if !["host", "content-length", "connection"].contains(&&*name.to_lowercase()) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.ok()?;
        if does == Does::HandsOn {
            (status, text) = (answer.status(), answer.text().await.ok()?);
        } else {
            assert!(answer.status().is_success(), "{}", answer.status());
        }
    }
    if does != Does::HangsUp {
        let head = format!("HTTP/1.1 {} x\r\ncontent-length: {}", status.as_u16(), text.len());
        let answer = format!("{head}\r\nconnection: close\r\n\r\n{text}");
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
    Some(())
}

/// The local system behind a first host, and with a second one if `fallback` says so.
async fn behind(front: &Front, fallback: bool) -> (Running, Client, Carrier) {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let running = start_with(data, |config| {
        let own = config.values().find(|(name, _)| *name == PUBLIC_URL).unwrap().1.to_owned();
        let config = config.with(PUBLIC_URL, &front.url);
        if fallback { config.with(FALLBACK_URL, &own) } else { config }
    })
    .await;
    front.shared.lock().unwrap().behind.clone_from(&running.url);
    let (client, carrier) = running.connected("ann").await;
    (running, client, carrier)
}

async fn number_sid(client: &Client, carrier: &Carrier) -> String {
    let listed = client.get("/v1/numbers").await.expect(StatusCode::OK);
    let numbers = listed["data"].as_array().unwrap();
    let one = numbers.iter().find(|number| number["phone_number"] == carrier.number.as_str()).unwrap();
    one["sid"].as_str().unwrap().to_owned()
}

async fn connect(client: &Client, sid: &str) -> Value {
    client.post(&format!("/v1/numbers/{sid}/connection"), json!({})).await.expect(StatusCode::OK)
}

/// Somebody's text, and what Twilio made of it.
async fn text(client: &Client, carrier: &Carrier, body: &str) -> Value {
    let text = json!({ "from": "+14155552671", "to": carrier.number, "body": body });
    client.post("/_local/twilio/inbound", text).await.expect(StatusCode::OK)
}

/// The SIDs of what arrived, once there are `n` and the queue is empty.
async fn arrived(running: &Running, client: &Client, n: usize) -> Vec<Value> {
    eventually(&format!("{n} texts are recorded"), async || {
        let queues = running.aws.queues().unwrap();
        let waiting = queues.iter().filter(|queue| queue.name.ends_with("-twilio-events"));
        if waiting.map(|queue| queue.visible + queue.in_flight).sum::<u64>() > 0 {
            return None;
        }
        let listed = client.get("/v1/messages?limit=100").await.expect(StatusCode::OK);
        let texts = listed["data"].as_array().unwrap().iter().filter(|message| message["direction"] == "inbound");
        let sids: Vec<_> = texts.map(|text| text["twilio_sid"].clone()).collect();
        (sids.len() >= n).then_some(sids)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn however_the_first_host_fails_a_text_arrives_through_the_second_and_once() {
    let front = Front::start().await;
    let (running, client, carrier) = behind(&front, true).await;
    let sid = number_sid(&client, &carrier).await;
    let changes = connect(&client, &sid).await["changes"].clone();
    let to = |name: &str| {
        let change = changes.as_array().unwrap().iter().find(|change| change["setting"] == name).unwrap();
        change["to"].as_str().unwrap().to_owned()
    };
    assert!(to("SmsUrl").starts_with(&front.url) && to("SmsFallbackUrl").starts_with(&running.url), "{changes}");
    let mut sent = Vec::new();
    for (does, tries) in
        [(Does::HandsOn, 1), (Does::Refuses, 3), (Does::LosesTheAnswer, 3), (Does::HangsUp, 3), (Does::HandsOn, 1)]
    {
        front.does(does);
        let answer = text(&client, &carrier, &format!("{does:?}")).await;
        assert_eq!((&answer["webhook_status"], front.asked()), (&json!(200), tries), "{does:?}: {answer}");
        sent.push(answer["message_sid"].clone());
        let mut arrived = arrived(&running, &client, sent.len()).await;
        arrived.sort_by_key(|sid| sent.iter().position(|known| known == sid));
        assert_eq!(arrived, sent, "{does:?}");
    }
    front.goes_down().await;
    let answer = text(&client, &carrier, "nobody listens").await;
    assert_eq!(answer["webhook_status"], 200, "{answer}");
    assert_eq!(arrived(&running, &client, sent.len() + 1).await.len(), sent.len() + 1);
    let quarantine = client.get("/v1/quarantine").await.expect(StatusCode::OK);
    assert_eq!(quarantine["data"], json!([]), "each was believed at the address where it came");
    running.no_contract_violations().await;
    running.stop().await;
}

/// What the test above would see if the second host were not asked.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_second_host_such_a_text_does_not_come() {
    let front = Front::start().await;
    let (running, client, carrier) = behind(&front, false).await;
    connect(&client, &number_sid(&client, &carrier).await).await;
    front.does(Does::Refuses);
    let answer = text(&client, &carrier, "hello").await;
    assert_eq!((&answer["webhook_status"], front.asked()), (&json!(503), 3), "{answer}");
    front.does(Does::HandsOn);
    let told = text(&client, &carrier, "hello?").await;
    assert_eq!(arrived(&running, &client, 1).await, [told["message_sid"].clone()]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_messaging_service_falls_back_for_its_pool_and_gets_its_own_fallback_again() {
    let front = Front::start().await;
    let (running, client, carrier) = behind(&front, true).await;
    let made = format!("/_local/twilio/accounts/{}/services", carrier.account_sid);
    let service = client.post(&made, json!({ "friendly_name": "Pool", "numbers": [carrier.number] })).await.body;
    let sid = service["sid"].as_str().unwrap().to_owned();
    let theirs = json!({ "inbound_request_url": "https://shop.example/pool", "fallback_method": "GET",
        "fallback_url": "https://shop.example/second" });
    client.post(&format!("/_local/twilio/services/{sid}"), theirs).await.expect(StatusCode::OK);
    connect(&client, &sid).await;
    front.does(Does::Refuses);
    let sent = text(&client, &carrier, "hello").await;
    assert_eq!((&sent["webhook_status"], front.asked()), (&json!(200), 3), "{sent}");
    assert_eq!(arrived(&running, &client, 1).await, [sent["message_sid"].clone()]);
    let restored = client.delete(&format!("/v1/numbers/{sid}/connection")).await.expect(StatusCode::OK);
    let to: Vec<_> = restored["changes"].as_array().unwrap().iter().map(|change| change["to"].clone()).collect();
    assert_eq!(to, ["GET", "https://shop.example/second", "https://shop.example/pool"]);
    running.no_contract_violations().await;
    running.stop().await;
}

/// Both hosts as the daily test sees them: through real HTTP, each signed for its own address.
#[tokio::test(flavor = "multi_thread")]
async fn the_daily_test_says_which_of_the_two_hosts_does_not_let_it_through() {
    let front = Front::start().await;
    let (running, client, _) = behind(&front, true).await;
    let session = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
    let account = session["account_id"].as_str().unwrap().parse().unwrap();
    let tested = async |config: &Config| {
        let live = Live::new(config, self_test::NEEDS).unwrap();
        assert_eq!(self_test::handle(&live, &live.site, vec![Job::SelfTest { account }]).await, [Handled::Done]);
        let quarantine = client.get("/v1/quarantine").await.expect(StatusCode::OK);
        let records = quarantine["data"].as_array().unwrap().clone();
        records.into_iter().map(|record| record["cause"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!((tested(&running.config).await, front.asked()), (BTreeSet::new(), 1));
    // It reaches the functions, and they check signatures for another address.
    let elsewhere = running.config.with(FALLBACK_URL, &running.url.replace("127.0.0.1", "localhost"));
    assert_eq!(tested(&elsewhere).await, BTreeSet::from(["self_test_fallback".to_owned()]));
    front.does(Does::Refuses);
    let both = ["self_test_fallback", "self_test_refused"].map(str::to_owned);
    assert_eq!(tested(&running.config).await, BTreeSet::from(both));
    running.stop().await;
}

/// `cargo run -- --fallback`: one listener under two names.
#[tokio::test(flavor = "multi_thread")]
async fn the_local_system_is_a_second_host_under_another_name_if_it_is_asked_to() {
    for fallback in [true, false] {
        let data = Arc::new(tempfile::tempdir().unwrap());
        let system = LocalSystem::start(Options { fallback, ..options(data.path()) }).await.unwrap();
        let running = Running { system, data };
        let (client, carrier) = running.connected("ann").await;
        let changes = connect(&client, &number_sid(&client, &carrier).await).await["changes"].to_string();
        let second = running.url.replace("127.0.0.1", "localhost");
        assert_eq!((changes.contains("SmsFallbackUrl"), changes.contains(&second)), (fallback, fallback), "{changes}");
        let shown = client.get("/v1/credentials/twilio").await.expect(StatusCode::OK);
        let hook = shown["inbound_url"].as_str().unwrap().replace(&running.url, &second);
        set_number(&running, &client, &carrier, "SmsUrl", &hook).await;
        // Without one Twilio signs for an address that is none of ours.
        let answer = text(&client, &carrier, "hello").await;
        assert_eq!(answer["webhook_status"], if fallback { 200 } else { 403 }, "{answer}");
        running.stop().await;
    }
}
