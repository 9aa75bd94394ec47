//! A double of Twilio: a stateful stand-in for its 2010-04-01 REST API, and for Messaging Services of its Messaging
//! API v1 on the same port, on this machine. **It is not Twilio.**
//!
//! It accepts what Twilio would accept, refuses with Twilio's codes, carries messages and calls on from status to status
//! with signed callbacks, plays texts and calls that arrive, and fails on demand. Every request is checked against
//! Twilio's OpenAPI document; what does not fit is refused and listed.
//!
//! `To` numbers that end in `0041` end as undelivered (30003; calls: no-answer), in `0042` as failed (30005; calls:
//! busy). The magic numbers of Twilio's test credentials work for every account.

mod callbacks;
mod calls;
mod connection;
mod control;
mod errors;
mod faults;
mod inbound;
mod lists;
mod magic;
mod messages;
mod messaging_v1;
mod numbers;
mod progress;
mod resources;
mod rest;
mod services;
mod state;
#[cfg(test)]
mod tests;
mod validate;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::{Cut, Lines};
use crate::faults::Faults;
use crate::state::{Account, Number, Store, Tx, new_number, new_sid, now};

pub use crate::state::StoreError;

const API_VERSION: &str = "2010-04-01";
const ROOT: &str = "/2010-04-01";

/// How the double behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for `twilio-double.sqlite`; `None` keeps all in memory.
    pub data: Option<PathBuf>,
    /// Time between two statuses of a message or call.
    pub callback_delay: Duration,
    /// Calls webhooks on other machines too; otherwise such URLs are refused.
    pub allow_any_host: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { data: None, callback_delay: Duration::from_millis(300), allow_any_host: false }
    }
}

/// An account that is ready for use. No `Debug`: it holds a secret, though one that opens nothing real.
#[derive(Clone)]
pub struct ReadyAccount {
    /// `AC…`
    pub account_sid: String,
    /// Signs its webhooks.
    pub auth_token: String,
    /// Its numbers in E.164.
    pub numbers: Vec<String>,
}

/// The double could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The file of the double's state.
    #[error("the double's store cannot be opened")]
    Store(#[from] StoreError),
    /// The listener has no address.
    #[error("the listener has no address")]
    Listener(#[from] std::io::Error),
    /// The client for webhooks.
    #[error("no HTTP client for webhooks")]
    Client(#[from] reqwest::Error),
    /// `openapi.json`
    #[error("openapi.json cannot be used: {0}")]
    Contract(&'static str),
}

/// The running double.
#[derive(Clone)]
pub struct TwilioDouble {
    inner: Arc<Inner>,
    server: Arc<Mutex<Option<Server>>>,
}

/// Ends the server, and tells when it has ended.
type Server = (oneshot::Sender<()>, JoinHandle<()>);

struct Inner {
    store: Store,
    faults: Faults,
    http: reqwest::Client,
    options: Options,
    base_url: String,
    ready: ReadyAccount,
    /// `None` once stopped: then nothing new starts.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl TwilioDouble {
    /// Serves on the listener in a task of its own, and goes on with messages that a former run left unfinished.
    #[expect(clippy::unused_async, reason = "must be called in a runtime; async says so")]
    pub async fn start(listener: TcpListener, options: Options) -> Result<TwilioDouble, StartError> {
        validate::contract().map_err(StartError::Contract)?;
        let store = Store::open(options.data.as_deref())?;
        let ready = store.change(ready_account)?;
        let inner = Arc::new(Inner {
            store,
            faults: Faults::default(),
            http: http_client()?,
            options,
            base_url: format!("http://127.0.0.1:{}", listener.local_addr()?.port()),
            ready,
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let app = Router::new().fallback(rest::serve).with_state(Arc::clone(&inner));
        let service = app.into_make_service_with_connect_info::<Cut>();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(Lines(listener), service).with_graceful_shutdown(async { drop(stopped.await) });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "twilio-double: the server ended");
            }
        });
        inner.resume()?;
        Ok(TwilioDouble { inner, server: Arc::new(Mutex::new(Some((stop, server)))) })
    }

    /// Where the REST API is: `http://127.0.0.1:port`.
    pub fn base_url(&self) -> String {
        self.inner.base_url.clone()
    }

    /// The account made at the first start.
    pub fn account(&self) -> ReadyAccount {
        self.inner.ready.clone()
    }

    /// The routes `/_local/twilio…` for people and tests.
    pub fn control(&self) -> Router {
        control::router(Arc::clone(&self.inner))
    }

    /// Closes the listener and ends the callbacks under way; the next start goes on with them.
    pub async fn stop(&self) {
        let tasks = self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        if let Some((stop, mut server)) = server {
            let _ = stop.send(());
            if tokio::time::timeout(Duration::from_secs(1), &mut server).await.is_err() {
                server.abort();
            }
        }
    }
}

impl Inner {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = tasks.as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(work);
        }
    }
}

/// Without redirects, as Twilio; without a proxy, as it stays on this machine.
fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // A kept connection that the receiver has closed would look like a failed webhook.
        .pool_max_idle_per_host(0)
        .connect_timeout(Duration::from_secs(5))
        .user_agent("TwilioProxy/1.1 (twilio-double)")
        .no_proxy()
        .build()
}

fn ready_account(tx: &Tx<'_>) -> Result<ReadyAccount, StoreError> {
    let (account, numbers) = match tx.list::<Account>(None)?.into_iter().next() {
        Some(account) => {
            let numbers = tx.list::<Number>(Some(&account.sid))?;
            (account, numbers.into_iter().map(|number| number.number).collect())
        }
        None => open_account(tx)?,
    };
    Ok(ReadyAccount { account_sid: account.sid, auth_token: account.token, numbers })
}

/// Makes an account with two numbers.
fn open_account(tx: &Tx<'_>) -> Result<(Account, Vec<String>), StoreError> {
    let now = now();
    let sid = new_sid("AC");
    let account = Account {
        account: sid.clone(),
        sid,
        token: new_sid(""),
        secondary: None,
        shared_key: None,
        status: "active".into(),
        kind: "Full".into(),
        created: now,
        verified: Vec::new(),
    };
    tx.put(&account)?;
    let mut numbers = Vec::new();
    for area in ["415", "212"] {
        let mut number = new_number(area);
        while tx.number(&number)?.is_some() {
            number = new_number(area);
        }
        tx.put(&Number::new(&account.sid, &number, now))?;
        numbers.push(number);
    }
    Ok((account, numbers))
}
