//! What messages say and their media, read live at the Twilio double over real HTTP; and a Twilio that leads astray.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, redirect};
use serde_json::{Value, json};
use telbuddy::connection::Trouble;
use telbuddy::credential::{Auth, Carrier as Credential, Region, Sid};
use telbuddy::live::config::TWILIO_URL;
use telbuddy::live::{Config, Live, Need};
use telbuddy::message::{FetchedMedia, MAX_MEDIA_BYTES, MessageSid, ReadContent};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Carrier, Client, Running, eventually, start};

/// Connected, with a number whose texts come here.
async fn shop(running: &Running) -> (Client, Carrier) {
    let (client, carrier) = running.connected("ann").await;
    let listed = client.get("/v1/numbers").await.expect(StatusCode::OK);
    for number in listed["data"].as_array().unwrap() {
        let path = format!("/v1/numbers/{}/connection", number["sid"].as_str().unwrap());
        client.post(&path, json!({})).await.expect(StatusCode::OK);
    }
    (client, carrier)
}

/// A picture that arrives: our id of it.
async fn picture(client: &Client, carrier: &Carrier) -> String {
    let text = json!({ "from": "+12065550123", "to": carrier.number, "body": "look at this", "media": 1 });
    client.post("/_local/twilio/inbound", text).await.expect(StatusCode::OK);
    eventually("the picture arrives", async || {
        let listed = client.get("/v1/messages").await.expect(StatusCode::OK);
        let rows = listed["data"].as_array().unwrap();
        let row = rows.iter().find(|row| row["direction"] == "inbound")?;
        Some(row["id"].as_str().unwrap().to_owned())
    })
    .await
}

/// Changes a message at Twilio with the customer's own token.
pub async fn at_twilio(running: &Running, carrier: &Carrier, sid: &Value, form: Option<&str>) {
    let base = running.twilio.base_url();
    let sid = sid.as_str().unwrap();
    let url = format!("{base}/2010-04-01/Accounts/{}/Messages/{sid}.json", carrier.account_sid);
    let http = running.client().http;
    let asked = match form {
        Some(form) => http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form.to_owned()),
        None => http.delete(url),
    };
    let answer = asked.basic_auth(&carrier.account_sid, Some(&carrier.auth_token)).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_messages_say_is_read_at_twilio_and_lies_nowhere_here() {
    let running = start().await;
    let (client, carrier) = shop(&running).await;
    let mut sent = Vec::new();
    for body in ["to be shown", "to be redacted", "to be deleted"] {
        let id = client.accepted(&body.replace(' ', "-"), carrier.text("+14155552671", body)).await;
        sent.push(client.until(&id, "delivered").await);
    }
    at_twilio(&running, &carrier, &sent[1]["twilio_sid"], Some("Body=")).await;
    at_twilio(&running, &carrier, &sent[2]["twilio_sid"], None).await;
    let pictured = picture(&client, &carrier).await;

    let page = client.get("/v1/messages?include=content&limit=20").await;
    assert_eq!(page.headers["cache-control"], "no-store");
    let page = page.expect(StatusCode::OK);
    let rows: Vec<_> = page["data"].as_array().unwrap().iter().map(|row| &row["content"]).collect();
    let shown = json!({ "body": "to be shown", "to": "+14155552671", "from": carrier.number, "media": [] });
    let arrived = json!({
        "body": "look at this", "to": carrier.number, "from": "+12065550123",
        "media": [{ "n": 0, "content_type": "image/gif" }],
    });
    assert_eq!(rows, [&arrived, &Value::Null, &Value::Null, &shown]);
    let why: Vec<_> = page["data"].as_array().unwrap().iter().map(|row| &row["content_unavailable"]).collect();
    assert_eq!(why, [&Value::Null, &json!("gone_at_twilio"), &json!("redacted"), &Value::Null]);
    let one = client.get(&format!("/v1/messages/{pictured}?include=content")).await.expect(StatusCode::OK);
    assert_eq!((&one["content"], &one["direction"]), (&arrived, &json!("inbound")));
    let many = client.get("/v1/messages?include=content&limit=21").await;
    assert_eq!(many.problem(StatusCode::UNPROCESSABLE_ENTITY), "invalid-input");

    let tables = client.get("/_local/tables?name=messages").await.text;
    assert!(tables.contains(&pictured) && !tables.contains("look at this") && !tables.contains("12065550123"));
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn media_lead_to_twilios_store_and_the_customers_credential_stays_here() {
    let running = start().await;
    let (mut client, carrier) = shop(&running).await;
    client.http = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).build().unwrap();
    let id = picture(&client, &carrier).await;
    let led = client.get(&format!("/v1/messages/{id}/media/0")).await;
    assert_eq!((led.status, led.text.as_str()), (StatusCode::SEE_OTHER, ""));
    let location = led.headers["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(&format!("{}/_cdn/ME", running.twilio.base_url())), "{location}");
    // A browser gets the picture there, without any credential.
    let fetched = client.http.get(location).send().await.unwrap().bytes().await.unwrap();
    assert!(fetched.starts_with(b"GIF89a"));
    for path in [format!("/v1/messages/{id}/media/1"), format!("/v1/messages/{id}/media/x")] {
        assert_eq!(client.get(&path).await.problem(StatusCode::NOT_FOUND), "not-found");
    }
    let stranger = running.signed_in("bob").await;
    assert_eq!(stranger.get(&format!("/v1/messages/{id}/media/0")).await.problem(StatusCode::NOT_FOUND), "not-found");
    running.no_contract_violations().await;
    running.stop().await;
}

/// A server that gives every request this answer, and the requests that came.
async fn server(answer: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    server_with(answer, Vec::new(), Duration::ZERO).await
}

/// One that goes on after its answer: with the same piece again and again, each after a pause, until nobody listens.
async fn server_with(answer: Vec<u8>, again: Vec<u8>, pause: Duration) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut buffer = [0; 4096];
                let n = stream.read(&mut buffer).await.unwrap_or(0);
                if n == 0 {
                    break;
                }
                request.extend_from_slice(&buffer[..n]);
            }
            seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            let mut written = stream.write_all(&answer).await;
            while written.is_ok() && !again.is_empty() {
                tokio::time::sleep(pause).await;
                written = stream.write_all(&again).await;
            }
        }
    });
    (base, requests)
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The adapter in front of a Twilio that is there, with a credential, a message and a piece of media.
fn before(running: &Running, base: String) -> (Live, Credential, MessageSid, Sid) {
    let values = running.config.values().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::from_values(values.chain([(TWILIO_URL.to_owned(), base)]));
    let carrier = Credential {
        account_sid: Sid::parse("AC", &format!("AC{DIGITS}")).unwrap(),
        region: Region::Us1,
        auth: Auth::AuthToken("hush".to_owned().into()),
    };
    let (message, media) = (MessageSid::parse(&format!("MM{DIGITS}")), Sid::parse("ME", &format!("ME{DIGITS}")));
    (Live::new(&config, &[Need::Twilio]).unwrap(), carrier, message.unwrap(), media.unwrap())
}

const DIGITS: &str = "0123456789abcdef0123456789abcdef";

/// What the adapter makes of a Twilio that gives this answer, and the one request that Twilio got.
async fn fetched(running: &Running, given: Vec<u8>) -> (FetchedMedia, String) {
    let (base, requests) = server(given).await;
    let (live, carrier, message, media) = before(running, base);
    let fetched = live.fetch_media(&carrier, &message, &media).await.unwrap();
    let requests = requests.lock().unwrap();
    assert_eq!(requests.len(), 1, "no redirect is followed and nothing is repeated");
    (fetched, requests[0].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_credential_goes_to_the_pieces_own_address_and_no_redirect_is_followed() {
    let running = start().await;
    let (trap, trapped) = server(answer("200 OK", b"caught")).await;
    let cdn = "https://mms.twiliocdn.com/AC0/0a?Signature=b";
    for status in [301, 302, 303, 307, 308] {
        let (fetched, request) = fetched(&running, answer(&format!("{status} X\r\nLocation: {cdn}"), b"")).await;
        let FetchedMedia::Elsewhere(url) = fetched else { panic!("{status}: {fetched:?}") };
        assert_eq!(url.as_str(), cdn);
        let line = format!("GET /2010-04-01/Accounts/AC{DIGITS}/Messages/MM{DIGITS}/Media/ME{DIGITS} HTTP/1.1\r\n");
        assert!(request.starts_with(&line), "{request}");
        assert!(request.to_lowercase().contains("\r\nauthorization: basic "), "{request}");
    }
    for hostile in [
        trap.clone(),
        format!("{trap}/_cdn/x"),
        "https://mms.twiliocdn.com@127.0.0.1/x".to_owned(),
        "https://mms.twiliocdn.com.evil.example/x".to_owned(),
        r"https://evil.example\@mms.twiliocdn.com/x".to_owned(),
        "https://mms.twiliocdn.com./x".to_owned(),
        "https://xn--mms-8cd.twiliocdn.com/x".to_owned(),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://mms.twiliocdn.com/x".to_owned(),
        "/v1/credentials/twilio".to_owned(),
        "//evil.example/x".to_owned(),
        "javascript:alert(1)".to_owned(),
        "https://127.0.0.1/x".to_owned(),
        "https://[::ffff:169.254.169.254]/x".to_owned(),
        "https://mms.twiliocdn.com:8443/x".to_owned(),
        // The store's own address, and then a second leap: it is not asked, so nothing follows it.
        format!("{trap}/redirect?to=https://mms.twiliocdn.com/x"),
        String::new(),
    ] {
        let (fetched, _) = fetched(&running, answer(&format!("307 X\r\nLocation: {hostile}"), b"")).await;
        assert_eq!(fetched, FetchedMedia::NotAllowed, "{hostile}");
    }
    let (nowhere, _) = fetched(&running, answer("307 X", b"")).await;
    assert_eq!(nowhere, FetchedMedia::NotAllowed);
    assert!(trapped.lock().unwrap().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_twilio_answers_come_whole_up_to_four_mebibytes() {
    let running = start().await;
    let picture = b"\xff\xd8\xff\x00 picture".to_vec();
    let (small, _) = fetched(&running, answer("200 OK\r\nContent-Type: image/jpeg", &picture)).await;
    assert_eq!(small, FetchedMedia::Bytes { content_type: "image/jpeg".to_owned(), bytes: picture });
    let (most, _) = fetched(&running, answer("200 OK", &vec![7; MAX_MEDIA_BYTES])).await;
    assert!(matches!(most, FetchedMedia::Bytes { bytes, .. } if bytes.len() == MAX_MEDIA_BYTES));
    let (above, _) = fetched(&running, answer("200 OK", &vec![7; MAX_MEDIA_BYTES + 1])).await;
    assert_eq!(above, FetchedMedia::TooLarge);
    running.stop().await;
}

/// What Twilio leads texts and lists of media to is not asked either: these addresses do not redirect.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_in_place_of_a_text_or_a_list_is_no_answer_and_is_not_followed() {
    let running = start().await;
    let (trap, trapped) = server(answer("200 OK", b"{\"body\":\"caught\",\"media_list\":[]}")).await;
    for status in [301, 302, 303, 307, 308] {
        let (base, requests) = server(answer(&format!("{status} X\r\nLocation: {trap}/x"), b"")).await;
        let (live, carrier, message, _) = before(&running, base);
        assert_eq!(live.read_text(&carrier, &message).await, Err(Trouble::Unreachable));
        assert_eq!(live.list_media(&carrier, &message).await, Err(Trouble::Unreachable));
        assert_eq!(requests.lock().unwrap().len(), 2, "one each");
    }
    assert!(trapped.lock().unwrap().is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_without_an_end_are_left_where_the_limit_is() {
    let running = start().await;
    let mebibyte = vec![7; 1024 * 1024];
    let chunk = [b"100000\r\n".as_slice(), &mebibyte, b"\r\n"].concat();
    for head in ["Transfer-Encoding: chunked", "Content-Length: 99999999999"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n{head}\r\n\r\n");
        let (base, _) = server_with(head.into_bytes(), chunk.clone(), Duration::ZERO).await;
        let (live, carrier, message, media) = before(&running, base);
        assert_eq!(live.fetch_media(&carrier, &message, &media).await, Ok(FetchedMedia::TooLarge));
    }
    running.stop().await;
}

/// The function has 30 s: two calls for media, or two for each of ten messages at a time and twice of that, have to fit.
#[tokio::test(flavor = "multi_thread")]
async fn a_twilio_that_drips_is_given_up_in_time() {
    let running = start().await;
    let drip = |head: &str| server_with(head.as_bytes().to_vec(), b"x".to_vec(), Duration::from_millis(100));
    let (base, _) = drip("HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n").await;
    let (silent, _) = drip("").await;
    let (live, carrier, message, media) = before(&running, base);
    let (live_silent, ..) = before(&running, silent);
    let began = Instant::now();
    let (bytes, text, list, nothing) = tokio::join!(
        async { (live.fetch_media(&carrier, &message, &media).await, began.elapsed()) },
        async { (live.read_text(&carrier, &message).await, began.elapsed()) },
        async { (live.list_media(&carrier, &message).await, began.elapsed()) },
        async { (live_silent.fetch_media(&carrier, &message, &media).await, began.elapsed()) },
    );
    assert_eq!((bytes.0, nothing.0), (Err(Trouble::Unreachable), Err(Trouble::Unreachable)));
    assert_eq!((text.0, list.0), (Err(Trouble::Unreachable), Err(Trouble::Unreachable)));
    assert!(text.1.max(list.1) < Duration::from_secs(6), "{:?} {:?}", text.1, list.1);
    assert!(bytes.1.max(nothing.1) < Duration::from_secs(12), "{:?} {:?}", bytes.1, nothing.1);
    running.stop().await;
}
