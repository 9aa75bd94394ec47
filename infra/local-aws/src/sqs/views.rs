//! What the queues hold, for inspection: looking changes nothing.

use super::queues::{counts, named, names};
use crate::reply::Refusal;
use crate::store::now_ms;
use rusqlite::{Transaction, params};

/// How many messages of each queue a view shows.
const SHOWN: i64 = 50;

/// One queue at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// The queue's name.
    pub name: String,
    /// The queue for messages that were received too often.
    pub dead_letters: Option<String>,
    /// Messages that a receive would return.
    pub visible: u64,
    /// Messages that a consumer has received and not deleted yet.
    pub in_flight: u64,
    /// Messages sent with a delay that is not over.
    pub delayed: u64,
    /// The 50 oldest messages.
    pub messages: Vec<MessageView>,
}

/// One message in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageView {
    /// The message id that SQS gave.
    pub id: String,
    /// The body as sent.
    pub body: String,
    /// How often it was received; a message keeps its count when it goes to the dead letters.
    pub receives: u64,
    /// The message group, when it was sent with one.
    pub group: Option<String>,
    /// Whether a receive would return it now.
    pub visible: bool,
    /// When it was sent, in milliseconds since 1970.
    pub sent_ms: i64,
}

pub(super) fn all(tx: &Transaction) -> Result<Vec<QueueView>, Refusal> {
    names(tx)?.into_iter().map(|name| view(tx, name)).collect()
}

fn view(tx: &Transaction, name: String) -> Result<QueueView, Refusal> {
    let counts = counts(tx, &name)?;
    let redrive = named(tx, &name)?.and_then(|queue| queue.redrive());
    let messages = tx
        .prepare_cached(
            "SELECT id, body, receives, nullif(tenant, ''), visible_ms <= ?2, sent_ms FROM messages
             WHERE queue = ?1 ORDER BY seq LIMIT ?3",
        )?
        .query_map(params![name, now_ms(), SHOWN], |row| {
            Ok(MessageView {
                id: row.get(0)?,
                body: row.get(1)?,
                receives: row.get(2)?,
                group: row.get(3)?,
                visible: row.get(4)?,
                sent_ms: row.get(5)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(QueueView {
        name,
        dead_letters: redrive.map(|redrive| redrive.dead_letters),
        visible: counts.visible,
        in_flight: counts.in_flight,
        delayed: counts.delayed,
        messages,
    })
}
