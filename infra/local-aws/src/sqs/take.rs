//! Receiving: whose turn it is, and when a message has been received too often.

use super::batch::invalid;
use super::queues::{self, Queue};
use super::send::{Attribute, attributes_md5, line_up, md5_of, next_turn};
use super::settle::{MAX_VISIBILITY_SECS, RECEIPT_PREFIX};
use crate::reply::Refusal;
use crate::store::{Store, new_uuid, now_ms};
use base64::{Engine, prelude::BASE64_STANDARD};
use rusqlite::{Transaction, params};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Receive {
    pub queue_url: String,
    max_number_of_messages: Option<usize>,
    wait_time_seconds: Option<i64>,
    visibility_timeout: Option<i64>,
    #[serde(default)]
    message_attribute_names: Vec<String>,
    #[serde(default)]
    message_system_attribute_names: Vec<String>,
    /// The older name of the field above.
    #[serde(default)]
    attribute_names: Vec<String>,
}

/// What one look into the queue gave.
pub(super) struct Taken {
    pub messages: Vec<Value>,
    /// How long the caller waits when there are none.
    pub wait_secs: u64,
    /// When a message that is hidden now becomes visible.
    pub next_visible_ms: Option<i64>,
    /// Dead-letter queues that received a message on the way.
    pub moved_to: Vec<String>,
}

/// Takes up to the wanted number of messages, one of each group in turn, so that a group with many messages does not
/// keep the others waiting. A message that was received too often goes to the dead letters instead.
pub(super) fn take(store: &Store, ask: &Receive) -> Result<Taken, Refusal> {
    let most = ask.max_number_of_messages.unwrap_or(1);
    if !(1..=10).contains(&most) {
        return Err(invalid("MaxNumberOfMessages must be between 1 and 10, if provided."));
    }
    if ask.wait_time_seconds.is_some_and(|wait| !(0..=20).contains(&wait)) {
        return Err(invalid("WaitTimeSeconds must be >= 0 and <= 20, if provided."));
    }
    if ask.visibility_timeout.is_some_and(|timeout| !(0..=MAX_VISIBILITY_SECS).contains(&timeout)) {
        return Err(invalid("VisibilityTimeout must be >= 0 and <= 43200, if provided."));
    }
    store.write(|tx| {
        let queue = queues::find(tx, &ask.queue_url)?;
        let now = now_ms();
        let mut moved_to = Vec::new();
        let mut lines = Vec::new();
        for tenant in tenants(tx, &queue.name)? {
            let waiting = waiting(tx, &queue, &tenant, most, now, &mut moved_to)?;
            if !waiting.is_empty() {
                lines.push((tenant, waiting));
            }
            if lines.len() == most {
                break;
            }
        }
        let visibility_secs = ask.visibility_timeout.unwrap_or_else(|| queue.number("VisibilityTimeout"));
        let mut messages = Vec::new();
        for (tenant, seq) in one_of_each_in_turn(lines, most) {
            messages.push(hand_out(tx, ask, seq, now, visibility_secs)?);
            let turn = next_turn(tx, &queue.name)?;
            tx.prepare_cached("UPDATE turns SET served = ?3 WHERE queue = ?1 AND tenant = ?2")?
                .execute(params![queue.name, tenant, turn])?;
        }
        let next_visible_ms = tx
            .prepare_cached("SELECT min(visible_ms) FROM messages WHERE queue = ?1 AND visible_ms > ?2")?
            .query_row(params![queue.name, now], |row| row.get(0))?;
        let wait_secs = ask.wait_time_seconds.unwrap_or_else(|| queue.number("ReceiveMessageWaitTimeSeconds"));
        Ok(Taken { messages, wait_secs: wait_secs.unsigned_abs(), next_visible_ms, moved_to })
    })
}

/// The groups in the order of their turn.
fn tenants(tx: &Transaction, queue: &str) -> Result<Vec<String>, Refusal> {
    let mut query = tx.prepare_cached("SELECT tenant FROM turns WHERE queue = ?1 ORDER BY served, tenant")?;
    let tenants = query.query_map(params![queue], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(tenants)
}

/// The first visible messages of one group. Moves those that were received too often, and lets a group without messages
/// leave the line.
fn waiting(
    tx: &Transaction,
    queue: &Queue,
    tenant: &str,
    most: usize,
    now: i64,
    moved_to: &mut Vec<String>,
) -> Result<Vec<i64>, Refusal> {
    let redrive = queue.redrive();
    let (mut waiting, mut spent) = (Vec::new(), Vec::new());
    {
        let mut query = tx.prepare_cached(
            "SELECT seq, receives FROM messages
             WHERE queue = ?1 AND tenant = ?2 AND visible_ms <= ?3 AND sent_ms > ?4 ORDER BY visible_ms, seq",
        )?;
        let mut rows = query.query(params![queue.name, tenant, now, queue.oldest_ms()])?;
        while waiting.len() < most
            && let Some(row) = rows.next()?
        {
            let (seq, receives) = (row.get(0)?, row.get::<_, i64>(1)?);
            match &redrive {
                Some(redrive) if receives >= redrive.max_receives => spent.push(seq),
                _ => waiting.push(seq),
            }
        }
    }
    if let Some(redrive) = redrive
        && !spent.is_empty()
        && queues::named(tx, &redrive.dead_letters)?.is_some()
    {
        for seq in spent {
            tx.prepare_cached(
                "UPDATE messages SET queue = ?2, visible_ms = ?3, receipt = NULL, dead_from = ?4 WHERE seq = ?1",
            )?
            .execute(params![seq, redrive.dead_letters, now, queue.arn()])?;
        }
        line_up(tx, &redrive.dead_letters, tenant)?;
        moved_to.push(redrive.dead_letters);
    }
    if waiting.is_empty() {
        tx.prepare_cached(
            "DELETE FROM turns WHERE queue = ?1 AND tenant = ?2
             AND NOT EXISTS (SELECT 1 FROM messages WHERE queue = ?1 AND tenant = ?2)",
        )?
        .execute(params![queue.name, tenant])?;
    }
    Ok(waiting)
}

fn one_of_each_in_turn(lines: Vec<(String, Vec<i64>)>, most: usize) -> Vec<(String, i64)> {
    let mut ranked: Vec<(usize, String, i64)> = Vec::new();
    for (tenant, seqs) in lines {
        ranked.extend(seqs.into_iter().enumerate().map(|(rank, seq)| (rank, tenant.clone(), seq)));
    }
    ranked.sort_by_key(|(rank, ..)| *rank); // stable: within a rank the order of turns stays
    ranked.into_iter().take(most).map(|(_, tenant, seq)| (tenant, seq)).collect()
}

/// Gives the message a new receipt handle, which ends the one before, hides it, and writes it as SQS does.
fn hand_out(tx: &Transaction, ask: &Receive, seq: i64, now: i64, visibility_secs: i64) -> Result<Value, Refusal> {
    let receipt = BASE64_STANDARD.encode(format!("{RECEIPT_PREFIX}{}", new_uuid()?));
    let message = tx
        .prepare_cached(
            "UPDATE messages SET receipt = ?2, visible_ms = ?3, receives = receives + 1,
               first_received_ms = coalesce(first_received_ms, ?4)
             WHERE seq = ?1
             RETURNING id, body, attributes, trace, tenant, sent_ms, receives, first_received_ms, dead_from",
        )?
        .query_row(params![seq, receipt, now + visibility_secs * 1000, now], |row| {
            let system = [
                ("SenderId", Some("AIDALOCALAWSDOUBLE".to_owned())),
                ("AWSTraceHeader", row.get(3)?),
                ("MessageGroupId", Some(row.get::<_, String>(4)?).filter(|group| !group.is_empty())),
                ("SentTimestamp", Some(row.get::<_, i64>(5)?.to_string())),
                ("ApproximateReceiveCount", Some(row.get::<_, i64>(6)?.to_string())),
                ("ApproximateFirstReceiveTimestamp", Some(row.get::<_, i64>(7)?.to_string())),
                ("DeadLetterQueueSourceArn", row.get(8)?),
            ];
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, system))
        })?;
    let (id, body, attributes, system) = message;
    let wanted = |name: &str| {
        let asked = ask.message_system_attribute_names.iter().chain(&ask.attribute_names);
        asked.into_iter().any(|asked| asked == "All" || asked == name)
    };
    let system: Map<String, Value> = system
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), Value::String(value.filter(|_| wanted(name))?))))
        .collect();
    let attributes: BTreeMap<String, Attribute> =
        serde_json::from_str(&attributes).map_err(|error| Refusal::internal(error.to_string()))?;
    let chosen: BTreeMap<String, Attribute> =
        attributes.into_iter().filter(|(name, _)| is_asked(&ask.message_attribute_names, name)).collect();

    let mut message =
        json!({ "MessageId": id, "ReceiptHandle": receipt, "MD5OfBody": md5_of(body.as_bytes()), "Body": body });
    if let Some(fields) = message.as_object_mut() {
        if !system.is_empty() {
            fields.insert("Attributes".into(), system.into());
        }
        if let Some(md5) = attributes_md5(&chosen) {
            fields.insert("MD5OfMessageAttributes".into(), md5.into());
            fields.insert("MessageAttributes".into(), json!(chosen));
        }
    }
    Ok(message)
}

/// Attributes are asked for by name, by prefix (`order.*`) or all together.
fn is_asked(asked: &[String], name: &str) -> bool {
    asked.iter().any(|asked| {
        asked == "All" || asked == name || asked.strip_suffix(".*").is_some_and(|prefix| name.starts_with(prefix))
    })
}
