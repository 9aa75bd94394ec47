//! What the double remembers: accounts, numbers, keys, messages, media, calls, callbacks still to send, opt-outs.
//! Each is one JSON row of one SQLite file; every change is a transaction, so a kill leaves a state it can go on from.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::resources::is_url;

/// The store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("sqlite")]
    Sqlite(#[from] rusqlite::Error),
    /// A row is not what this version writes.
    #[error("a stored row has another shape")]
    Shape(#[from] serde_json::Error),
}

/// A thing with a row.
pub(crate) trait Doc: Serialize + DeserializeOwned {
    const KIND: &'static str;
    fn id(&self) -> &str;
    fn account(&self) -> &str;
}

macro_rules! doc {
    ($type:ty, $kind:literal) => {
        impl Doc for $type {
            const KIND: &'static str = $kind;
            fn id(&self) -> &str {
                &self.sid
            }
            fn account(&self) -> &str {
                &self.account
            }
        }
    };
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    pub sid: String,
    /// Its own SID: an account is its own parent.
    pub account: String,
    pub token: String,
    /// The secondary Auth Token: calls may use it, webhooks are signed with it once it is promoted.
    #[serde(default)]
    pub secondary: Option<String>,
    /// The shared key that webhooks are signed with in place of the Auth Token: id and secret.
    #[serde(default)]
    pub shared_key: Option<(String, String)>,
    pub status: String,
    pub kind: String,
    pub created: Timestamp,
    /// Verified caller IDs: SID and number.
    pub verified: Vec<(String, String)>,
}
doc!(Account, "account");

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Number {
    pub sid: String,
    pub account: String,
    pub number: String,
    /// The Messaging Service that first sent from it: the pool it belongs to.
    pub service: Option<String>,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// What was set by the REST API, under the names of its answers.
    pub settings: Map<String, Value>,
    /// Every URL that ever stood in the settings: whoever borrowed the number may put it back.
    #[serde(default)]
    pub had: Vec<String>,
}
doc!(Number, "number");

impl Number {
    /// A number with nothing set.
    pub(crate) fn new(account: &str, number: &str, now: Timestamp) -> Self {
        Self {
            sid: new_sid("PN"),
            account: account.to_owned(),
            number: number.to_owned(),
            service: None,
            created: now,
            updated: now,
            settings: Map::new(),
            had: Vec::new(),
        }
    }

    /// Changes settings. An application for calls takes the trunk away, and the other way round.
    pub(crate) fn set(&mut self, settings: Map<String, Value>, now: Timestamp) {
        let given = |name: &str| settings.get(name).is_some_and(|value| !value.is_null());
        for (one, other) in [("voice_application_sid", "trunk_sid"), ("trunk_sid", "voice_application_sid")] {
            if given(one) && !given(other) {
                self.settings.insert(other.into(), Value::Null);
            }
        }
        keep(&mut self.settings, &mut self.had, settings);
        self.updated = now;
    }

    /// A setting that is a non-empty text.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        filled(&self.settings, name)
    }
}

/// A Messaging Service. Its pool are the numbers that name it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Service {
    pub sid: String,
    pub account: String,
    pub created: Timestamp,
    pub updated: Timestamp,
    /// What was set, under the names of Twilio's answers.
    pub settings: Map<String, Value>,
    /// Every URL that ever stood in the settings.
    pub had: Vec<String>,
}
doc!(Service, "service");

impl Service {
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        filled(&self.settings, name)
    }

    /// Its numbers' own URLs are asked instead of the service's.
    pub(crate) fn defers_to_number(&self) -> bool {
        self.settings.get("use_inbound_webhook_on_number") == Some(&Value::Bool(true))
    }

    pub(crate) fn set(&mut self, settings: Map<String, Value>, now: Timestamp) {
        keep(&mut self.settings, &mut self.had, settings);
        self.updated = now;
    }
}

fn filled<'m>(settings: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    settings.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Puts new values in, and remembers every URL.
fn keep(settings: &mut Map<String, Value>, had: &mut Vec<String>, new: Map<String, Value>) {
    for url in urls(settings).chain(urls(&new)) {
        if !had.iter().any(|known| known == url) {
            had.push(url.to_owned());
        }
    }
    settings.extend(new);
}

/// The URLs among the settings.
pub(crate) fn urls(settings: &Map<String, Value>) -> impl Iterator<Item = &str> {
    settings.keys().filter(|name| is_url(name)).filter_map(|name| filled(settings, name))
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Key {
    pub sid: String,
    pub account: String,
    pub secret: String,
    pub name: String,
    pub created: Timestamp,
    pub updated: Timestamp,
}
doc!(Key, "key");

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Message {
    pub sid: String,
    pub account: String,
    pub direction: String,
    pub to: String,
    pub from: Option<String>,
    pub body: String,
    pub status: String,
    pub service: Option<String>,
    pub status_callback: Option<String>,
    pub n_segments: u32,
    pub n_media: usize,
    pub error: Option<u32>,
    pub price: Option<String>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub sent: Option<Timestamp>,
    pub send_at: Option<Timestamp>,
    /// REST shows an empty body; the journal keeps it.
    pub redacted: bool,
    /// REST shows nothing; the journal keeps it.
    pub deleted: bool,
    /// Its callbacks come when it is final, newest first.
    pub reordered: bool,
}
doc!(Message, "message");

impl Message {
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "delivered" | "undelivered" | "failed" | "canceled" | "received" | "read")
    }
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Media {
    pub sid: String,
    pub account: String,
    pub message: String,
    pub content_type: String,
    pub created: Timestamp,
}
doc!(Media, "media");

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Call {
    pub sid: String,
    pub account: String,
    pub direction: String,
    pub to: String,
    pub from: String,
    pub status: String,
    pub url: Option<(String, String)>,
    pub fallback: Option<(String, String)>,
    pub status_callback: Option<(String, String)>,
    pub events: Vec<String>,
    pub sequence: u32,
    /// The `initiated` step is past, although the status still reads `queued`.
    pub initiated: bool,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub answered: Option<Timestamp>,
    pub ended: Option<Timestamp>,
}
doc!(Call, "call");

impl Call {
    pub(crate) fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "busy" | "failed" | "no-answer" | "canceled")
    }

    /// Seconds of an answered, ended call; a started second counts.
    pub(crate) fn seconds(&self) -> Option<i64> {
        let (answered, ended) = (self.answered?, self.ended?);
        let millis = ended.as_millisecond() - answered.as_millisecond();
        Some(((millis + 999) / 1000).max(1))
    }
}

/// A webhook still to send; the row goes when the last try is over.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Callback {
    /// The idempotency token: the same on every try.
    pub sid: String,
    pub account: String,
    /// The message or call it tells of.
    pub about: String,
    pub url: String,
    pub method: String,
    pub voice: bool,
    pub params: Vec<(String, String)>,
    /// Tells of a status, so that callback faults strike it; otherwise it asks for TwiML.
    pub is_status: bool,
    /// URL and method to try when the first fails.
    pub fallback: Option<(String, String)>,
}
doc!(Callback, "callback");

/// A recipient who said STOP to a number or a Messaging Service.
#[derive(Serialize, Deserialize)]
pub(crate) struct OptOut {
    pub sid: String,
    pub account: String,
}
doc!(OptOut, "opt-out");

impl OptOut {
    pub(crate) fn key(account: &str, sender: &str, recipient: &str) -> String {
        format!("{account}|{sender}|{recipient}")
    }
}

/// A request that did not fit Twilio's OpenAPI.
#[derive(Serialize, Deserialize)]
pub(crate) struct Violation {
    pub sid: String,
    pub account: String,
    pub method: String,
    pub path: String,
    pub field: String,
    pub message: String,
}
doc!(Violation, "violation");

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS docs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, account TEXT NOT NULL,
        doc TEXT NOT NULL, UNIQUE (kind, id)) STRICT;
    CREATE INDEX IF NOT EXISTS docs_by_account ON docs (kind, account, seq);";

/// The open file.
pub(crate) struct Store(Mutex<Connection>);

impl Store {
    /// Opens or makes `twilio-double.sqlite` in the folder; without a folder it lives in memory.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let connection = match folder {
            Some(folder) => Connection::open(folder.join("twilio-double.sqlite"))?,
            None => Connection::open_in_memory()?,
        };
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(connection)))
    }

    /// Runs one change: all of it is kept when it returns `Ok`, none when it returns `Err`.
    pub(crate) fn change<R, E: From<StoreError>>(&self, work: impl FnOnce(&Tx<'_>) -> Result<R, E>) -> Result<R, E> {
        let mut connection = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tx = Tx(connection.transaction().map_err(StoreError::from)?);
        let result = work(&tx)?;
        tx.0.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    pub(crate) fn get<D: Doc>(&self, id: &str) -> Result<Option<D>, StoreError> {
        self.change(|tx| tx.get(id))
    }

    pub(crate) fn list<D: Doc>(&self, account: Option<&str>) -> Result<Vec<D>, StoreError> {
        self.change(|tx| tx.list(account))
    }
}

/// One transaction.
pub(crate) struct Tx<'c>(Transaction<'c>);

impl Tx<'_> {
    pub(crate) fn get<D: Doc>(&self, id: &str) -> Result<Option<D>, StoreError> {
        let mut query = self.0.prepare_cached("SELECT doc FROM docs WHERE kind = ? AND id = ?")?;
        let row: Option<String> = query.query_row(params![D::KIND, id], |row| row.get(0)).optional()?;
        Ok(row.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// All of a kind, of one account or of all, oldest first.
    pub(crate) fn list<D: Doc>(&self, account: Option<&str>) -> Result<Vec<D>, StoreError> {
        let sql = match account {
            Some(_) => "SELECT doc FROM docs WHERE kind = ?1 AND account = ?2 ORDER BY seq",
            None => "SELECT doc FROM docs WHERE kind = ?1 AND ?2 IS NULL ORDER BY seq",
        };
        let mut query = self.0.prepare_cached(sql)?;
        let rows = query.query_map(params![D::KIND, account], |row| row.get::<_, String>(0))?;
        rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
    }

    pub(crate) fn put<D: Doc>(&self, doc: &D) -> Result<(), StoreError> {
        let sql = "INSERT INTO docs (kind, id, account, doc) VALUES (?, ?, ?, ?)
                   ON CONFLICT (kind, id) DO UPDATE SET doc = excluded.doc";
        let text = serde_json::to_string(doc)?;
        self.0.prepare_cached(sql)?.execute(params![D::KIND, doc.id(), doc.account(), text])?;
        Ok(())
    }

    /// True when there was one.
    pub(crate) fn remove<D: Doc>(&self, id: &str) -> Result<bool, StoreError> {
        let n = self.0.prepare_cached("DELETE FROM docs WHERE kind = ? AND id = ?")?.execute(params![D::KIND, id])?;
        Ok(n > 0)
    }

    /// The number's owner may be any account.
    pub(crate) fn number(&self, number: &str) -> Result<Option<Number>, StoreError> {
        Ok(self.list::<Number>(None)?.into_iter().find(|known| known.number == number))
    }
}

/// A new SID: the prefix and 32 hexadecimal digits.
pub(crate) fn new_sid(prefix: &str) -> String {
    format!("{prefix}{}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>()))
}

/// The double's clock.
#[expect(clippy::disallowed_methods, reason = "a server on its own; this is its one place that reads the time")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// A number that nobody owns: exchange 555, and no end that the double treats specially.
pub(crate) fn new_number(area: &str) -> String {
    format!("+1{area}555{:04}", rand::random_range(1000..9000))
}
