//! A double of Stripe: a stateful stand-in for the part of its API that TelBuddy calls, on this machine. **It is not
//! Stripe**, and no money moves.
//!
//! Customers, checkouts with a page that a person can click through, subscriptions, invoices, refunds, disputes, a
//! portal, meter events; events that are signed and delivered, late and twice if that is asked for. Every request,
//! answer and event is checked against a description of Stripe's API; what does not fit is refused and listed.
//!
//! There is no field for a card: its pages have buttons for test cards.

mod contract;
mod control;
mod deliver;
mod faults;
mod flows;
mod rest;
mod state;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::faults::Faults;
use crate::state::{Store, Tx, new_id, text};

pub use crate::flows::{PRICES, Price};
pub use crate::state::StoreError;

/// How the double behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for `stripe-double.sqlite`; `None` keeps all in memory.
    pub data: Option<PathBuf>,
    /// Where TelBuddy is: events go to its `/hooks/stripe`, and its pages lead to `/_local/stripe/…` there.
    pub site: String,
    /// Time between what happens and its event.
    pub event_delay: Duration,
}

/// What is needed to use the double. No `Debug`: it holds secrets, though ones that open nothing real.
#[derive(Clone)]
pub struct Ready {
    /// `sk_test_…`
    pub secret_key: String,
    /// `whsec_…`: signs its events.
    pub signing_secret: String,
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
    /// The client for events.
    #[error("no HTTP client for events")]
    Client(#[from] reqwest::Error),
    /// `openapi.json`
    #[error("openapi.json cannot be used: {0}")]
    Contract(&'static str),
}

/// The running double.
#[derive(Clone)]
pub struct StripeDouble {
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
    ready: Ready,
    violations: Mutex<Vec<String>>,
    /// `None` once stopped: then nothing new starts.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl StripeDouble {
    /// Serves on the listener in a task of its own, and goes on with events that a former run left unfinished.
    #[expect(clippy::unused_async, reason = "must be called in a runtime; async says so")]
    pub async fn start(listener: TcpListener, options: Options) -> Result<StripeDouble, StartError> {
        contract::contract().map_err(StartError::Contract)?;
        let store = Store::open(options.data.as_deref())?;
        let ready = store.change(|tx| ready(tx, &options.site))?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(10))
            .user_agent("Stripe/1.0 (stripe-double)")
            .no_proxy()
            .build()?;
        let inner = Arc::new(Inner {
            store,
            faults: Faults::default(),
            http,
            options,
            base_url: format!("http://127.0.0.1:{}", listener.local_addr()?.port()),
            ready,
            violations: Mutex::new(Vec::new()),
            tasks: Mutex::new(Some(JoinSet::new())),
        });
        let app = Router::new().fallback(rest::serve).with_state(Arc::clone(&inner));
        let (stop, stopped) = oneshot::channel::<()>();
        let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "stripe-double: the server ended");
            }
        });
        inner.resume()?;
        Ok(StripeDouble { inner, server: Arc::new(Mutex::new(Some((stop, server)))) })
    }

    /// Where the REST API is: `http://127.0.0.1:port`.
    pub fn base_url(&self) -> String {
        self.inner.base_url.clone()
    }

    /// Its key and what signs its events, the same at each start.
    pub fn ready(&self) -> Ready {
        self.inner.ready.clone()
    }

    /// The routes `/_local/stripe…` for people and tests.
    pub fn control(&self) -> Router {
        control::router(Arc::clone(&self.inner))
    }

    /// What did not fit the description of Stripe's API: requests, and answers and events of the double's own.
    pub fn violations(&self) -> Vec<String> {
        self.inner.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Closes the listener and ends the deliveries under way; the next start goes on with them.
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

fn ready(tx: &Tx<'_>, site: &str) -> Result<Ready, StoreError> {
    tx.put("setting", json!({ "id": "site", "url": site }))?;
    let secrets: Value = if let Some(secrets) = tx.get("setting", "secrets")? {
        secrets
    } else {
        let (key, signing) = (new_id("sk_test"), new_id("whsec"));
        tx.put("setting", json!({ "id": "secrets", "key": key, "signing": signing }))?
    };
    let (key, signing) = (text(&secrets, "key").to_owned(), text(&secrets, "signing").to_owned());
    Ok(Ready { secret_key: key, signing_secret: signing })
}
