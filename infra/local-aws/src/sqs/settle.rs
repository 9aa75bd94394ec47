//! What becomes of a message: deleted, hidden for longer, given back, purged, expired.

use super::batch::{Batch, check_batch, each, invalid};
use super::queues::{self, OfQueue, Queue};
use crate::reply::Refusal;
use crate::store::{Store, now_ms};
use base64::{Engine, prelude::BASE64_STANDARD};
use rusqlite::{Transaction, params};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// How a receipt handle begins, below its base64: junk is told from a handle that is old.
pub(super) const RECEIPT_PREFIX: &str = "receipt/";
pub(super) const MAX_VISIBILITY_SECS: i64 = 43_200;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DeleteMessage {
    queue_url: String,
    #[serde(flatten)]
    receipt: Receipt,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Receipt {
    receipt_handle: String,
}

impl Receipt {
    fn check(&self) -> Result<(), Refusal> {
        let bytes = BASE64_STANDARD.decode(&self.receipt_handle).unwrap_or_default();
        if bytes.starts_with(RECEIPT_PREFIX.as_bytes()) {
            return Ok(());
        }
        let message = format!("The input receipt handle \"{}\" is not a valid receipt handle.", self.receipt_handle);
        Err(Refusal::new("ReceiptHandleIsInvalid", message))
    }
}

pub(super) fn delete(store: &Store, ask: &DeleteMessage) -> Result<Value, Refusal> {
    store.write(|tx| {
        let queue = queues::find(tx, &ask.queue_url)?;
        remove(tx, &queue, &ask.receipt).map(Value::Object)
    })
}

pub(super) fn delete_batch(store: &Store, batch: &Batch<Receipt>) -> Result<Value, Refusal> {
    check_batch(batch)?;
    store.write(|tx| {
        let queue = queues::find(tx, &batch.queue_url)?;
        each(batch, |receipt| remove(tx, &queue, receipt))
    })
}

/// Succeeds, as on AWS, also when the handle is old or the message gone; then it deletes nothing.
fn remove(tx: &Transaction, queue: &Queue, receipt: &Receipt) -> Result<Map<String, Value>, Refusal> {
    receipt.check()?;
    tx.prepare_cached("DELETE FROM messages WHERE receipt = ?1 AND queue = ?2")?
        .execute(params![receipt.receipt_handle, queue.name])?;
    Ok(Map::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ChangeVisibility {
    queue_url: String,
    #[serde(flatten)]
    change: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Change {
    visibility_timeout: Option<i64>,
    #[serde(flatten)]
    receipt: Receipt,
}

pub(super) fn change_visibility(store: &Store, ask: &ChangeVisibility) -> Result<(String, Value), Refusal> {
    store.write(|tx| {
        let queue = queues::find(tx, &ask.queue_url)?;
        let done = hide(tx, &queue, &ask.change)?;
        Ok((queue.name, done.into()))
    })
}

pub(super) fn change_visibility_batch(store: &Store, batch: &Batch<Change>) -> Result<(String, Value), Refusal> {
    check_batch(batch)?;
    store.write(|tx| {
        let queue = queues::find(tx, &batch.queue_url)?;
        let answer = each(batch, |change| hide(tx, &queue, change))?;
        Ok((queue.name, answer))
    })
}

fn hide(tx: &Transaction, queue: &Queue, change: &Change) -> Result<Map<String, Value>, Refusal> {
    change.receipt.check()?;
    let secs = change.visibility_timeout.filter(|secs| (0..=MAX_VISIBILITY_SECS).contains(secs));
    let secs = secs.ok_or_else(|| invalid("VisibilityTimeout must be >= 0 and <= 43200."))?;
    let now = now_ms();
    let hidden = tx
        .prepare_cached("UPDATE messages SET visible_ms = ?3 WHERE receipt = ?1 AND queue = ?2 AND visible_ms > ?4")?
        .execute(params![change.receipt.receipt_handle, queue.name, now + secs * 1000, now])?;
    if hidden == 0 {
        return Err(Refusal::new(
            "MessageNotInflight",
            "The message is deleted, visible again, or with another receiver.",
        ));
    }
    Ok(Map::new())
}

pub(super) fn purge(store: &Store, ask: &OfQueue) -> Result<Value, Refusal> {
    store.write(|tx| {
        let queue = queues::find(tx, &ask.queue_url)?;
        tx.execute("DELETE FROM messages WHERE queue = ?1", params![queue.name])?;
        Ok(json!({}))
    })
}

pub(super) fn drop_expired(store: &Store) -> Result<(), Refusal> {
    store.write(|tx| {
        for name in queues::names(tx)? {
            if let Some(queue) = queues::named(tx, &name)? {
                let delete = "DELETE FROM messages WHERE queue = ?1 AND sent_ms <= ?2";
                tx.execute(delete, params![name, queue.oldest_ms()])?;
            }
        }
        Ok(())
    })
}
