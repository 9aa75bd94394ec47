//! Events arrive at a customer's own server, signed, once for each thing that happened, and what failed can be had
//! again.

use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::canary::{self, Marker};
use crate::content::at_twilio;
use crate::inbound::configure_number;
use crate::support::{Client, Running, eventually, start};

const ENDPOINTS: &str = "/v1/webhook-endpoints";

const ARRIVED: &str = "arrived-and-kept-nowhere-5d02";
const SENT: &str = "sent-and-kept-nowhere-81ac";

/// A request that arrived: headers in lower case, and the body.
#[derive(Clone, Debug)]
pub struct Received {
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Received {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// As the specification has it, worked out here anew.
    fn is_signed_by(&self, secret: &str) -> bool {
        let key = BASE64.decode(secret.strip_prefix("whsec_").unwrap().as_bytes()).unwrap();
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let content = format!("{id}.{at}.{}", self.body);
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), content.as_bytes());
        let wanted = format!("v1,{}", BASE64.encode(tag.as_ref()));
        self.header("webhook-signature").split(' ').any(|given| given == wanted)
    }
}

/// A customer's server on this machine: it answers as it is told, and remembers.
#[derive(Clone)]
pub struct Receiver {
    pub url: String,
    status: Arc<Mutex<u16>>,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/hooks?key=of-the-customer", listener.local_addr().unwrap().port());
        let server = Self { url, status: Arc::new(Mutex::new(204)), received: Arc::default() };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.serve(stream).await });
            }
        });
        server
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let mut bytes = Vec::new();
            let head = loop {
                let mut some = [0; 4096];
                let n = stream.read(&mut some).await.ok().filter(|n| *n > 0)?;
                bytes.extend_from_slice(&some[..n]);
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
            };
            let text = String::from_utf8(bytes[..head].to_vec()).ok()?;
            let headers: Vec<_> = text
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
                .collect();
            let length: usize = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
            while bytes.len() < head + length {
                let mut some = [0; 4096];
                let n = stream.read(&mut some).await.ok().filter(|n| *n > 0)?;
                bytes.extend_from_slice(&some[..n]);
            }
            let body = String::from_utf8(bytes[head..].to_vec()).ok()?;
            self.received.lock().unwrap().push(Received { headers, body });
            let status = *self.status.lock().unwrap();
            let answer = format!("HTTP/1.1 {status} As told\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
        }
    }

    fn answer(&self, status: u16) {
        *self.status.lock().unwrap() = status;
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    fn types(&self) -> Vec<String> {
        self.received().iter().map(|one| one.json()["type"].as_str().unwrap().to_owned()).collect()
    }

    async fn until(&self, n: usize) -> Vec<Received> {
        eventually(&format!("{n} events arrive"), async || {
            let received = self.received();
            (received.len() >= n).then_some(received)
        })
        .await
    }
}

/// A new endpoint at the server: its path and its secret.
async fn endpoint(client: &Client, server: &Receiver, events: Value) -> (String, String) {
    let ask = json!({ "url": server.url, "events": events });
    let new = client.post(ENDPOINTS, ask).await.expect(StatusCode::CREATED);
    let text = |name: &str| new[name].as_str().unwrap().to_owned();
    (format!("{ENDPOINTS}/{}", text("id")), text("secret"))
}

async fn patch(client: &Client, path: &str, body: Value) -> Value {
    client.send(Method::PATCH, path, Some(body.to_string()), &[]).await.expect(StatusCode::OK)
}

/// Waits until the newest delivery has this status.
async fn newest(client: &Client, path: &str, status: &str) -> Value {
    eventually(&format!("the newest delivery is {status}"), async || {
        let page = client.get(&format!("{path}/deliveries?limit=1")).await.expect(StatusCode::OK);
        let newest = page["data"].get(0).cloned()?;
        (newest["status"] == status).then_some(newest)
    })
    .await
}

async fn arrives(running: &Running, carrier: &crate::support::Carrier, body: &str) {
    let text = json!({ "from": "+14155552671", "to": carrier.number, "body": body });
    let answer = running.client().post("/_local/twilio/inbound", text).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_messages_is_told_once_signed_and_without_their_content() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let server = Receiver::start().await;
    let (path, secret) = endpoint(&client, &server, json!(["*"])).await;

    let id = client.accepted("one", carrier.text("+14155552671", "a secret of the customer")).await;
    client.until(&id, "delivered").await;
    let received = server.until(2).await;
    let mut types = server.types();
    types.sort_unstable();
    assert_eq!(types, ["message.delivered", "message.sent"]);
    for one in &received {
        assert!(one.is_signed_by(&secret), "{one:?}");
        assert!(!one.is_signed_by(&format!("whsec_{}", BASE64.encode(&[7; 32]))));
        let body = one.json();
        assert_eq!((&body["id"], &body["version"]), (&json!(one.header("webhook-id")), &json!(1)));
        assert_eq!((&body["data"]["id"], &body["data"]["direction"]), (&json!(id), &json!("outbound")));
        assert_eq!(one.header("content-type"), "application/json");
        assert!(!one.body.contains("a secret") && !one.body.contains("4155552671"), "{}", one.body);
    }

    arrives(&running, &carrier, "an answer of somebody").await;
    let received = server.until(3).await;
    let text = received[2].json();
    assert_eq!((&text["type"], &text["data"]["own_sender"]), (&json!("message.received"), &json!(carrier.number)));
    assert!(!received[2].body.contains("an answer") && !received[2].body.contains("4155552671"));

    let newest = newest(&client, &path, "delivered").await;
    assert_eq!((&newest["event_id"], &newest["attempts"][0]["http_status"]), (&text["id"], &json!(204)));
    let shown = client.get(&format!("{path}/deliveries/{}", newest["id"].as_str().unwrap())).await.body;
    assert_eq!(shown["payload"], received[2].body);
    assert_eq!(client.get(&format!("{path}/deliveries")).await.body["data"].as_array().unwrap().len(), 3);
    running.stop().await;
}

/// Two endpoints hear of the same messages: one gets what they say, also at a retry and when it is resent, the other
/// does not; and nothing of it is in a table, a queue or a log afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn who_turned_content_on_gets_what_a_message_says_and_it_is_kept_nowhere() {
    canary::logs();
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    configure_number(&running, &client, &carrier).await;
    let (with, without) = (Receiver::start().await, Receiver::start().await);
    let (plain, _) = endpoint(&client, &without, json!(["*"])).await;
    let (path, secret) = endpoint(&client, &with, json!(["*"])).await;
    assert_eq!(patch(&client, &path, json!({ "include_content": true })).await["include_content"], true);
    assert_eq!(client.get(&plain).await.body["include_content"], false);

    with.answer(503);
    arrives(&running, &carrier, ARRIVED).await;
    with.until(1).await;
    with.answer(204);
    let received = with.until(2).await;
    for one in &received {
        assert!(one.is_signed_by(&secret), "{one:?}");
        let data = &one.json()["data"];
        let content = json!({ "body": ARRIVED, "to": carrier.number, "from": "+14155552671", "media": [] });
        assert_eq!((&data["content"], &data["content_missing"]), (&content, &Value::Null));
    }
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    let arrived = newest(&client, &path, "delivered").await;
    let id = client.accepted("one", carrier.text("+14155552671", SENT)).await;
    client.until(&id, "delivered").await;
    for one in &with.until(4).await[2..] {
        assert_eq!(one.json()["data"]["content"]["body"], SENT, "{one:?}");
    }
    let told = without.until(3).await;
    assert!(told.iter().all(|one| one.json()["data"].get("content").is_none()), "{told:?}");

    // A test says nothing of a message; what is resent is read again, and gone by then.
    client.send(Method::POST, &format!("{path}/test"), None, &[]).await.expect(StatusCode::ACCEPTED);
    assert!(with.until(5).await[4].json()["data"].get("content").is_none());
    at_twilio(&running, &carrier, &received[0].json()["data"]["twilio_sid"], None).await;
    let resend = format!("{path}/deliveries/{}/resend", arrived["id"].as_str().unwrap());
    client.send(Method::POST, &resend, None, &[]).await.expect(StatusCode::ACCEPTED);
    let data = with.until(6).await[5].json()["data"].clone();
    assert_eq!((&data["content"], &data["content_missing"]), (&Value::Null, &json!("gone_at_twilio")));

    let markers = [Marker::new("what arrived", ARRIVED), Marker::new("what was sent", SENT)];
    let mut found = canary::search(&running, &markers);
    for path in [&path, &plain] {
        for delivery in client.get(&format!("{path}/deliveries")).await.body["data"].as_array().unwrap() {
            let shown = client.get(&format!("{path}/deliveries/{}", delivery["id"].as_str().unwrap())).await;
            found.look("the log of deliveries", shown.text.as_bytes(), &markers);
        }
    }
    for one in told {
        found.look("an event without content", format!("{:?} {}", one.headers, one.body).as_bytes(), &markers);
    }
    assert_eq!(found.hits, Vec::<String>::new());
    // The search does find it where it is.
    found.look("the events with content", format!("{received:?} {:?}", with.received()).as_bytes(), &markers);
    assert_eq!(found.hits.len(), 2, "{:?}", found.hits);
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_made_up_for_by_recovering_each_event_once_by_its_id() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let server = Receiver::start().await;
    let (path, secret) = endpoint(&client, &server, json!(["message.delivered"])).await;
    let since = client.get(&path).await.body["created_at"].clone();

    // Gone: the endpoint is disabled, its owner told, and nothing more is sent.
    server.answer(410);
    let id = client.accepted("one", carrier.text("+14155552671", "hi")).await;
    client.until(&id, "delivered").await;
    let lost = newest(&client, &path, "failed").await;
    let off = client.get(&path).await.expect(StatusCode::OK);
    assert_eq!((&off["enabled"], &off["disabled"]["reason"]), (&json!(false), &json!("gone")));
    let mail = running.mail_text("ann@example.com", 2).await;
    assert!(mail.contains("410 Gone") && mail.contains("POST /v1/webhook-endpoints/whep_"), "{mail}");
    let recover = format!("{path}/recover");
    let ask = json!({ "since": since });
    assert_eq!(client.post(&recover, ask.clone()).await.problem(StatusCode::CONFLICT), "endpoint-disabled");

    server.answer(200);
    let on = patch(&client, &path, json!({ "enabled": true })).await;
    assert_eq!((&on["enabled"], &on["disabled"]), (&json!(true), &Value::Null));
    assert_eq!(client.post(&recover, ask.clone()).await.expect(StatusCode::OK)["resent"], 1);
    let made_up = newest(&client, &path, "delivered").await;
    assert_eq!(made_up["event_id"], lost["event_id"]);
    assert_eq!(client.post(&recover, ask).await.expect(StatusCode::OK)["resent"], 0, "it has arrived");
    let received = server.received();
    assert_eq!(received.len(), 2, "{received:?}");
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert!(received[1].is_signed_by(&secret));

    // Asked for by hand it comes again, under the same id.
    let resend = format!("{path}/deliveries/{}/resend", lost["id"].as_str().unwrap());
    client.send(Method::POST, &resend, None, &[]).await.expect(StatusCode::ACCEPTED);
    let received = server.until(3).await;
    assert_eq!(received[2].header("webhook-id"), lost["event_id"].as_str().unwrap());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_beside_the_one_before_and_a_failing_server_is_tried_again() {
    let running = start().await;
    let client = running.signed_in("ann").await;
    let server = Receiver::start().await;
    let (path, first) = endpoint(&client, &server, json!(["message.sent"])).await;
    let test =
        async || client.send(Method::POST, &format!("{path}/test"), None, &[]).await.expect(StatusCode::ACCEPTED);
    let sent = test().await;
    assert_eq!(server.until(1).await[0].json()["id"], sent["event_id"]);

    let rotated = client.send(Method::POST, &format!("{path}/secret"), None, &[]).await.expect(StatusCode::OK);
    let second = rotated["secret"].as_str().unwrap();
    test().await;
    let received = server.until(2).await;
    assert!(received[0].is_signed_by(&first) && !received[0].is_signed_by(second));
    assert!(received[1].is_signed_by(&first) && received[1].is_signed_by(second));

    server.answer(503);
    test().await;
    let failed = newest(&client, &path, "failed").await;
    let attempt = &failed["attempts"][0];
    assert_eq!((failed["attempts"].as_array().unwrap().len(), &attempt["http_status"]), (1, &json!(503)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_for_a_while_gets_the_event_with_the_next_try() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let server = Receiver::start().await;
    let (path, _) = endpoint(&client, &server, json!(["message.sent"])).await;
    server.answer(500);
    client.accepted("one", carrier.text("+14155552671", "hi")).await;
    server.until(1).await;
    server.answer(200);
    let arrived = newest(&client, &path, "delivered").await;
    let statuses: Vec<_> =
        arrived["attempts"].as_array().unwrap().iter().map(|attempt| attempt["http_status"].clone()).collect();
    assert_eq!(statuses, [json!(500), json!(200)]);
    let received = server.received();
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    let well = eventually("the failure is forgotten", async || {
        let endpoint = client.get(&path).await.body;
        endpoint["failing_since"].is_null().then_some(endpoint)
    });
    assert_eq!(well.await["enabled"], true);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_owner_is_alerted_to_is_told_too() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let server = Receiver::start().await;
    let (_, secret) = endpoint(&client, &server, json!(["credential.refused"])).await;
    let path = format!("/_local/twilio/accounts/{}/secondary-token", carrier.account_sid);
    client.post(&path, json!({})).await;
    client.post(&format!("{path}/promote"), json!({})).await.expect(StatusCode::OK);
    let _ = client.accepted("one", carrier.text("+14155552671", "hi")).await;
    let received = server.until(1).await;
    assert!(received[0].is_signed_by(&secret));
    assert_eq!(server.types(), ["credential.refused"]);
    running.stop().await;
}
