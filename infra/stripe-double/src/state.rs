//! The double's memory: JSON documents by kind and id, in one SQLite file.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Map, Value};

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite.
    #[error("SQLite: {0}")]
    Sql(#[from] rusqlite::Error),
    /// A stored document.
    #[error("a stored document does not read: {0}")]
    Json(#[from] serde_json::Error),
}

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS docs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, id TEXT NOT NULL, doc TEXT NOT NULL,
        UNIQUE (kind, id)) STRICT;";

/// The open file.
pub(crate) struct Store(Mutex<Connection>);

impl Store {
    /// Opens or makes `stripe-double.sqlite` in the folder; without a folder it lives in memory.
    pub(crate) fn open(folder: Option<&Path>) -> Result<Self, StoreError> {
        let connection = match folder {
            Some(folder) => Connection::open(folder.join("stripe-double.sqlite"))?,
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
}

/// One transaction.
pub(crate) struct Tx<'c>(Transaction<'c>);

impl Tx<'_> {
    pub(crate) fn get(&self, kind: &str, id: &str) -> Result<Option<Value>, StoreError> {
        let mut query = self.0.prepare_cached("SELECT doc FROM docs WHERE kind = ? AND id = ?")?;
        let row: Option<String> = query.query_row(params![kind, id], |row| row.get(0)).optional()?;
        Ok(row.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// All of a kind, newest first.
    pub(crate) fn list(&self, kind: &str) -> Result<Vec<Value>, StoreError> {
        let mut query = self.0.prepare_cached("SELECT doc FROM docs WHERE kind = ? ORDER BY seq DESC")?;
        let rows = query.query_map(params![kind], |row| row.get::<_, String>(0))?;
        rows.map(|row| Ok(serde_json::from_str(&row?)?)).collect()
    }

    /// Stores a document under its own `id`, and gives it back.
    pub(crate) fn put(&self, kind: &str, doc: Value) -> Result<Value, StoreError> {
        let sql = "INSERT INTO docs (kind, id, doc) VALUES (?, ?, ?)
                   ON CONFLICT (kind, id) DO UPDATE SET doc = excluded.doc";
        self.0.prepare_cached(sql)?.execute(params![kind, text(&doc, "id"), serde_json::to_string(&doc)?])?;
        Ok(doc)
    }
}

/// A new id: the prefix and 24 letters and digits.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", data_encoding::HEXLOWER.encode(&rand::random::<[u8; 12]>()))
}

/// The double's clock.
#[expect(clippy::disallowed_methods, reason = "a server on its own; this is its one place that reads the time")]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}

/// The same in seconds.
pub(crate) fn now_secs() -> i64 {
    now().as_second()
}

/// A field's text; empty if it is none.
pub(crate) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    at(value, field).as_str().unwrap_or_default()
}

/// A field's number; nought if it is none.
pub(crate) fn int(value: &Value, field: &str) -> i64 {
    at(value, field).as_i64().unwrap_or_default()
}

/// A field, by its way in: `parent/subscription_details`. Null if it is not there.
pub(crate) fn at<'v>(value: &'v Value, way: &str) -> &'v Value {
    way.split('/').try_fold(value, |value, part| value.get(part)).unwrap_or(&Value::Null)
}

/// The same with these fields; objects are merged.
pub(crate) fn with(base: Value, changes: Value) -> Value {
    match (base, changes) {
        (Value::Object(mut base), Value::Object(changes)) => {
            for (name, change) in changes {
                let old = base.remove(&name).unwrap_or_default();
                base.insert(name, with(old, change));
            }
            Value::Object(base)
        }
        (_, change) => change,
    }
}

/// Those of the fields that differ, as they were.
pub(crate) fn differing(before: &Value, after: &Value) -> Value {
    let (Some(before), Some(after)) = (before.as_object(), after.as_object()) else { return Value::Null };
    let changed = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    let old = |name: &str| before.get(name).cloned().unwrap_or_default();
    Value::Object(changed.map(|(name, _)| (name.clone(), old(name))).collect::<Map<_, _>>())
}
