//! A customer who is signed in and connected, requests as the gateway gives them, and a look at what a function called.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jiff::Timestamp;

use super::{World, fresh};
use crate::account::{CreateAccount, SignedUp};
use crate::api_key::{ApiKey, KEY_PREFIX, KeepApiKeys, Scope};
use crate::credential::{KeepCredential, Saved, StoredCredential};
use crate::edge::Request;
use crate::ids::{AccountId, MessageId, RequestId, SessionId, UserId};
use crate::message::{DUE_SHARDS, FindDue, LOOK_AGAIN, Message, Payload, RecordMessage, Recorded};
use crate::platform::{Chance, Clock, PlatformKeys};
use crate::seal::{DataKey, Purpose};
use crate::secret::{ExposeSecret, Token};
use crate::session::{KeepSessions, Session, Site, TOKEN_PREFIX};

/// The recipient of every customer's message.
pub const TO: &str = "+14155552671";
/// Its text.
pub const BODY: &str = "Your table is ready.";

/// Where the functions are reached.
pub fn site() -> Site {
    let origin = "https://api.example.com".to_owned();
    Site { origin, fallback: None, app: "https://app.example.com".to_owned(), allowed_origins: Vec::new() }
}

/// The same with a second host.
pub fn site_with_fallback() -> Site {
    Site { fallback: Some("https://second.example.net".to_owned()), ..site() }
}

/// Somebody with 100 credits, a Twilio account and a session that starts now. Making one opens no key.
pub struct Customer {
    /// The account.
    pub account: AccountId,
    /// Its owner.
    pub user: UserId,
    /// What is connected. Its Auth Token is "token-" and the Account SID.
    pub credential: StoredCredential,
    /// The platform's hash of its Account SID.
    pub sid_hash: String,
    /// The session.
    pub session: Session,
    /// The header `Cookie` of the session.
    pub cookie: String,
    payload_key: DataKey,
}

impl Customer {
    /// A new one; the calls of making it are not counted.
    pub async fn new(world: &World) -> Self {
        let mut new = fresh::new_account(world, 100);
        let (account, user) = (new.account, new.owner.id);
        let (payload_key, payload_keys) = fresh::minted(world, account, Purpose::Payload, 1).await;
        new.keys.push(payload_keys);
        for purpose in [Purpose::Profile, Purpose::Match] {
            new.keys.push(fresh::minted(world, account, purpose, 1).await.1);
        }
        assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
        let mut save = fresh::credential(world, account, 1, &fresh::sid(world, "AC")).await;
        let credential = save.credential.clone();
        let sid_hash = world.platform().await.unwrap().hash("carrier", credential.account_sid.as_str());
        save.sid_hash.clone_from(&sid_hash);
        assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
        let token = Token::new(account, world.random().unwrap());
        let cookie = format!("{}={}", site().cookie_name(), token.reveal(TOKEN_PREFIX).expose_secret());
        let (started, id) = (world.now(), SessionId::new(world.now(), fresh::dice(world)));
        let session = Session { id, account, user, hash: token.hash(), started, seen: started };
        world.start_session(session.clone()).await.unwrap();
        world.forget_calls();
        Self { account, user, credential, sid_hash, session, cookie, payload_key }
    }

    /// A message of one segment with [`BODY`] to [`TO`], accepted now; its calls are not counted.
    pub async fn message(&self, world: &World) -> Message {
        self.message_to(world, TO).await
    }

    /// The same to another number.
    pub async fn message_to(&self, world: &World, to: &str) -> Message {
        let mut outgoing = fresh::outgoing(world, self.account, 1, world.now());
        let payload = Payload { to: to.to_owned(), body: BODY.to_owned(), media_urls: Vec::new() };
        let nonce = world.random().unwrap();
        outgoing.payload = payload.seal(&self.payload_key, outgoing.message.id, nonce).unwrap();
        outgoing.daily_ceiling = world.gate(self.account).unwrap().daily_ceiling;
        assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
        world.forget_calls();
        outgoing.message
    }

    /// An API key with these scopes, and its header `Authorization`; its calls are not counted.
    pub async fn api_key(&self, world: &World, scopes: &[Scope]) -> (ApiKey, String) {
        let token = Token::new(self.account, world.random().unwrap());
        let scopes = scopes.to_vec();
        let key = ApiKey { hash: token.hash(), scopes, ..fresh::api_key(world, self.account) };
        assert_eq!(world.create_api_key(key.clone()).await, Ok(true));
        world.forget_calls();
        (key, format!("Bearer {}", token.reveal(KEY_PREFIX).expose_secret()))
    }

    /// A request in this customer's session.
    pub fn request(&self, world: &World, method: Method, path: &str, body: &str) -> Request {
        with_header(request(world, method, path, body), header::COOKIE, &self.cookie)
    }
}

/// A request without a session; a body is JSON.
pub fn request(world: &World, method: Method, path: &str, body: &str) -> Request {
    let mut headers = HeaderMap::new();
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    Request {
        id: RequestId::new(world.now(), fresh::dice(world)),
        now: world.now(),
        method,
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        body: body.as_bytes().to_vec(),
        peer: "198.51.100.7".to_owned(),
    }
}

/// The same with a header.
pub fn with_header(mut request: Request, name: HeaderName, value: &str) -> Request {
    request.headers.insert(name, HeaderValue::from_str(value).unwrap());
    request
}

/// The message's row as it is now; the look is not counted.
pub fn row(world: &World, message: &Message) -> Message {
    world.messages_of(message.account).into_iter().find(|row| row.id == message.id).expect("the message has a row")
}

/// The calls that left the function: not chance and not the look at remembered keys.
pub fn called(world: &World) -> BTreeMap<&'static str, u32> {
    let mut calls = world.calls();
    calls.retain(|method, _| !["random", "remembered_key"].contains(method));
    calls
}

/// A crash: polls so many times, then drops the future. What it gave if it was done by then.
pub fn crash_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    (0..polls).find_map(|_| match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => None,
    })
}

/// What the sweeper finds once it looks at what is waiting now.
pub async fn due_later(world: &World) -> Vec<MessageId> {
    due(world, world.now() + LOOK_AGAIN).await
}

/// What the sweeper finds now.
pub async fn due_now(world: &World) -> Vec<MessageId> {
    due(world, world.now()).await
}

async fn due(world: &World, at: Timestamp) -> Vec<MessageId> {
    let mut found = Vec::new();
    for shard in 0..DUE_SHARDS {
        let due = world.find_due(shard, at, 10).await.unwrap();
        found.extend(due.into_iter().map(|(_, message)| message));
    }
    found
}
