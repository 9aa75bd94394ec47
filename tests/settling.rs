//! Settling (promise N4): what Twilio took and never told of is found in its lists; what it did not take is shown to the
//! customer, who decides; nothing is sent again by itself.
//!
//! Time passes by moving the times in the row, through the port that writes them, and not by a switch: the schedule, the
//! sweeper and the settler are those of every stage.

use std::time::Duration;

use jiff::SignedDuration;
use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::connection::Trouble;
use telbuddy::credential::{Auth, Carrier as Credential, Region, Sid};
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::live::{Live, Need};
use telbuddy::message::{Direction, ListAtCarrier, Message, SettleMessage, Settling, Status};
use telbuddy::platform::Clock;

use crate::support::{Carrier, Client, Running, eventually, start};

const TO: &str = "+14155552671";

/// The system's rows, by the adapters of the functions.
struct Rows {
    live: Live,
    account: AccountId,
}

impl Rows {
    async fn of(running: &Running, client: &Client) -> Self {
        let session = client.get("/v1/sessions/current").await.expect(StatusCode::OK);
        let account = session["account_id"].as_str().unwrap().parse().unwrap();
        Self { live: Live::new(&running.config, &[Need::Tables]).unwrap(), account }
    }

    async fn message(&self, id: &str) -> Message {
        let id: MessageId = id.parse().unwrap();
        self.live.load_with_payload(self.account, id).await.unwrap().unwrap().0
    }

    /// So long ago it became unknown, and was looked for last: the sweeper's next run finds it.
    async fn let_pass(&self, id: &str, by: SignedDuration) {
        loop {
            let message = self.message(id).await;
            let Some(settling) = message.settling.filter(|_| message.status == Status::Unknown) else { return };
            let older = Message {
                settling: Some(Settling { since: settling.since - by, ..settling }),
                updated: message.updated - by,
                revision: message.revision + 1,
                ..message
            };
            if self.live.record_listing(&older, self.live.now()).await.unwrap() {
                return;
            }
        }
    }

    /// Waits until it was looked for. On a busy machine a call of the sweeper or to Twilio may fail, and the next look is a
    /// minute away: then it is made due again.
    async fn until(&self, id: &str, what: &str, done: impl Fn(&Message) -> bool) {
        for _ in 0..5 {
            for _ in 0..160 {
                if done(&self.message(id).await) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.let_pass(id, SignedDuration::ZERO).await;
        }
        panic!("{id} was looked for five times and never {what}");
    }

    async fn until_clean(&self, id: &str, n_clean: u32) {
        let what = format!("missed {n_clean} times");
        self.until(id, &what, |message| message.settling.unwrap().clean == n_clean).await;
    }

    async fn until_known(&self, id: &str) {
        self.until(id, "settled", |message| message.status != Status::Unknown).await;
    }
}

/// A message of which nobody here knows what became of it.
async fn unknown(running: &Running, client: &Client, carrier: &Carrier, key: &str, kind: &str) -> String {
    running.fault(carrier, json!({ "next": 1, "kind": kind })).await;
    let id = client.accepted(key, carrier.text(TO, "The table is ready.")).await;
    client.until(&id, "unknown").await;
    id
}

async fn credits(client: &Client, held_micro: u64, used_micro: u64) {
    eventually("all is posted", async || {
        let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
        (credits["held_micro"] == held_micro && credits["used_micro"] == used_micro).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_twilio_took_and_never_told_of_is_found_in_its_list_and_charged_once() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    running.fault(&carrier, json!({ "rate": 1.0, "kind": "callback_lost" })).await;
    let rows = Rows::of(&running, &client).await;
    let lost = unknown(&running, &client, &carrier, "a", "accept_then_drop").await;
    // The same text again, which Twilio never gets: one of Twilio's messages settles one of ours.
    let never = unknown(&running, &client, &carrier, "b", "drop").await;
    assert_eq!(running.journal(&carrier).await.len(), 1);
    rows.let_pass(&lost, SignedDuration::from_mins(2)).await;
    rows.until_known(&lost).await;
    let found = client.until(&lost, "delivered").await;
    assert_eq!(found["twilio_sid"], running.journal(&carrier).await[0]["sid"]);
    rows.let_pass(&never, SignedDuration::from_mins(2)).await;
    rows.until_clean(&never, 1).await;
    assert_eq!(rows.message(&never).await.status, Status::Unknown);
    credits(&client, 1_000_000, 1_000_000).await;
    assert_eq!(running.journal(&carrier).await.len(), 1);
    running.no_contract_violations().await;
    running.stop().await;
}

async fn decide(client: &Client, id: &str, key: &str, decision: &str) -> (StatusCode, Value) {
    let path = format!("/v1/messages/{id}/decision");
    let body = json!({ "decision": decision }).to_string();
    let answer = client.send(reqwest::Method::POST, &path, Some(body), &[("idempotency-key", key)]).await;
    (answer.status, answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_twilio_did_not_take_is_unconfirmed_and_a_person_has_it_sent_again_or_dropped() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let rows = Rows::of(&running, &client).await;
    let [first, second] = [
        unknown(&running, &client, &carrier, "a", "drop").await,
        unknown(&running, &client, &carrier, "b", "drop").await,
    ];
    for (n_clean, mins) in [(1, 2), (2, 4)] {
        for id in [&first, &second] {
            rows.let_pass(id, SignedDuration::from_mins(mins)).await;
        }
        for id in [&first, &second] {
            rows.until_clean(id, n_clean).await;
        }
    }
    credits(&client, 2_000_000, 0).await;
    for id in [&first, &second] {
        rows.let_pass(id, SignedDuration::from_mins(20)).await;
    }
    for id in [&first, &second] {
        rows.until_known(id).await;
        let shown = client.until(id, "unconfirmed").await;
        assert!(shown["decision"]["until"].is_string(), "{shown}");
    }
    credits(&client, 0, 0).await;
    assert_eq!(running.journal(&carrier).await.len(), 0, "nothing is sent by itself");

    let (status, new) = decide(&client, &first, "again", "resend").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{new}");
    assert_eq!(decide(&client, &first, "again", "resend").await, (status, new.clone()));
    client.until(new["id"].as_str().unwrap(), "delivered").await;
    let old = client.until(&first, "dropped").await;
    assert_eq!((&old["resent_as"], &old["decision"]), (&new["id"], &Value::Null));
    assert_eq!(decide(&client, &second, "", "drop").await.0, StatusCode::OK);
    assert_eq!(decide(&client, &second, "more", "resend").await.0, StatusCode::CONFLICT);
    let sent = running.journal(&carrier).await;
    assert_eq!((sent.len(), &sent[0]["to"], &sent[0]["body"]), (1, &json!(TO), &json!("The table is ready.")));
    credits(&client, 0, 1_000_000).await;
    running.no_contract_violations().await;
    running.stop().await;
}

/// The adapter alone: what Twilio lists reads as it was sent, page by page.
#[tokio::test(flavor = "multi_thread")]
async fn twilios_list_reads_newest_first_in_pages() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    for body in ["one", "two", "three"] {
        let id = client.accepted(body, carrier.text(TO, body)).await;
        client.until(&id, "delivered").await;
    }
    let mut picture = carrier.text(TO, "four");
    picture["media_urls"] = json!(["https://example.com/a.png"]);
    let id = client.accepted("four", picture).await;
    client.until(&id, "delivered").await;
    client.accepted("other", carrier.text("+14155552672", "to somebody else")).await;

    let live = Live::new(&running.config, &[Need::Twilio]).unwrap();
    let auth = |token: &str| Auth::AuthToken(token.to_owned().into());
    let account_sid = Sid::parse("AC", &carrier.account_sid).unwrap();
    let mut credential = Credential { account_sid, region: Region::Us1, auth: auth(&carrier.auth_token) };
    let (mut read, mut next, mut n_pages) = (Vec::new(), None, 0);
    loop {
        let page = live.list_at_carrier(&credential, TO, 3, next.as_ref()).await.unwrap();
        n_pages += 1;
        read.extend(page.messages);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let bodies: Vec<_> = read.iter().map(|listed| listed.body.as_str()).collect();
    assert_eq!((bodies, n_pages), (vec!["four", "three", "two", "one"], 2));
    let sids: Vec<_> = running.journal(&carrier).await.iter().map(|one| one["sid"].to_string()).collect();
    for listed in &read {
        assert_eq!((listed.to.as_str(), listed.from.as_deref()), (TO, Some(carrier.number.as_str())));
        assert_eq!((listed.direction, listed.service.as_deref()), (Direction::Outbound, None));
        assert_eq!((listed.status.as_str(), listed.error_code), ("delivered", None));
        assert_eq!(listed.n_media, usize::from(listed.body == "four"));
        assert!(sids.contains(&json!(listed.sid).to_string()));
        assert!(live.now().duration_since(listed.created) < SignedDuration::from_mins(1));
    }
    credential.auth = auth("0123456789abcdef0123456789abcdef");
    assert_eq!(live.list_at_carrier(&credential, TO, 3, None).await.unwrap_err(), Trouble::Refused);
    running.stop().await;
}
