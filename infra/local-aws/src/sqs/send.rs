//! Sending: what a message must be, and where in the line it goes.

use super::batch::{Batch, check_batch, each, invalid};
use super::queues::{self, MAX_MESSAGE_BYTES, Queue};
use crate::reply::Refusal;
use crate::store::{Store, new_uuid, now_ms};
use base64::{Engine, prelude::BASE64_STANDARD};
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SendMessage {
    queue_url: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Content {
    message_body: String,
    delay_seconds: Option<i64>,
    message_group_id: Option<String>,
    message_deduplication_id: Option<String>,
    #[serde(default)]
    message_attributes: BTreeMap<String, Attribute>,
    #[serde(default)]
    message_system_attributes: BTreeMap<String, Attribute>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Attribute {
    data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    string_value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_value: Option<String>,
}

impl Attribute {
    /// The kind of value as SQS's checksum writes it, and the value's bytes.
    fn value(&self) -> Option<(u8, Vec<u8>)> {
        match (&self.string_value, &self.binary_value) {
            (Some(text), None) => Some((1, text.clone().into_bytes())),
            (None, Some(binary)) => Some((2, BASE64_STANDARD.decode(binary).ok()?)),
            _ => None,
        }
    }
}

pub(super) fn send(store: &Store, ask: &SendMessage) -> Result<(String, Value), Refusal> {
    store.write(|tx| {
        let queue = queues::find(tx, &ask.queue_url)?;
        let sent = put(tx, &queue, &ask.content)?;
        Ok((queue.name, sent.into()))
    })
}

pub(super) fn send_batch(store: &Store, batch: &Batch<Content>) -> Result<(String, Value), Refusal> {
    check_batch(batch)?;
    if batch.entries.iter().map(|entry| entry.entry.bytes()).sum::<usize>() > MAX_MESSAGE_BYTES {
        let message = format!("Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes.");
        return Err(Refusal::new("BatchRequestTooLong", message));
    }
    store.write(|tx| {
        let queue = queues::find(tx, &batch.queue_url)?;
        let answer = each(batch, |content| put(tx, &queue, content))?;
        Ok((queue.name, answer))
    })
}

impl Content {
    /// What counts toward the size limit: the body and each attribute's name, type and value.
    fn bytes(&self) -> usize {
        let attributes = self.message_attributes.iter().map(|(name, attribute)| {
            name.len() + attribute.data_type.len() + attribute.value().map_or(0, |(_, value)| value.len())
        });
        self.message_body.len() + attributes.sum::<usize>()
    }

    fn check(&self, queue: &Queue) -> Result<(), Refusal> {
        let most = usize::try_from(queue.number("MaximumMessageSize")).unwrap_or(MAX_MESSAGE_BYTES);
        if self.message_body.is_empty() {
            return Err(Refusal::new(
                "MissingParameterException",
                "The request must contain the parameter MessageBody.",
            ));
        }
        if self.bytes() > most {
            return Err(invalid(format!("Message must be shorter than {most} bytes.")));
        }
        if !self.message_body.chars().all(is_allowed) {
            return Err(Refusal::new(
                "InvalidMessageContents",
                "The message contains characters outside the allowed set.",
            ));
        }
        if self.delay_seconds.is_some_and(|delay| !(0..=900).contains(&delay)) {
            return Err(invalid("DelaySeconds must be >= 0 and <= 900."));
        }
        if self.message_deduplication_id.is_some() {
            return Err(invalid("MessageDeduplicationId is not valid for a standard queue."));
        }
        let group_is_fine =
            |group: &String| (1..=128).contains(&group.len()) && group.chars().all(|c| c.is_ascii_graphic());
        if !self.message_group_id.as_ref().is_none_or(group_is_fine) {
            return Err(invalid("MessageGroupId has 1 to 128 alphanumeric and punctuation characters."));
        }
        if self.message_attributes.len() > 10 {
            return Err(invalid("Number of message attributes exceeds the allowed maximum of 10."));
        }
        let attribute_is_fine = |attribute: &Attribute| {
            let kind = attribute.data_type.split('.').next().unwrap_or_default();
            match (kind, attribute.value()) {
                ("String" | "Number", Some((1, value))) | ("Binary", Some((2, value))) => !value.is_empty(),
                _ => false,
            }
        };
        if !self.message_attributes.values().all(attribute_is_fine) {
            return Err(invalid("a message attribute has a DataType and one fitting, non-empty value."));
        }
        Ok(())
    }
}

/// The characters of an XML document.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..)
}

/// Puts one message into the queue, and its group at the end of the line when it is not waiting yet.
fn put(tx: &Transaction, queue: &Queue, content: &Content) -> Result<Map<String, Value>, Refusal> {
    content.check(queue)?;
    let id = new_uuid()?;
    let now = now_ms();
    let delay_secs = content.delay_seconds.unwrap_or_else(|| queue.number("DelaySeconds"));
    let tenant = content.message_group_id.as_deref().unwrap_or_default();
    let trace = content.message_system_attributes.get("AWSTraceHeader");
    tx.prepare_cached(
        "INSERT INTO messages (queue, id, body, attributes, trace, tenant, sent_ms, visible_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        queue.name,
        id,
        content.message_body,
        json!(content.message_attributes).to_string(),
        trace.and_then(|trace| trace.string_value.as_deref()),
        tenant,
        now,
        now + delay_secs * 1000,
    ])?;
    line_up(tx, &queue.name, tenant)?;
    let mut sent = Map::new();
    sent.insert("MessageId".into(), id.into());
    sent.insert("MD5OfMessageBody".into(), md5_of(content.message_body.as_bytes()).into());
    if let Some(md5) = attributes_md5(&content.message_attributes) {
        sent.insert("MD5OfMessageAttributes".into(), md5.into());
    }
    Ok(sent)
}

/// Puts a group at the end of the line, when it is not waiting yet.
pub(super) fn line_up(tx: &Transaction, queue: &str, tenant: &str) -> Result<(), Refusal> {
    tx.prepare_cached("INSERT OR IGNORE INTO turns (queue, tenant, served) VALUES (?1, ?2, ?3)")?.execute(params![
        queue,
        tenant,
        next_turn(tx, queue)?
    ])?;
    Ok(())
}

/// The number of the turn after all that are waiting.
pub(super) fn next_turn(tx: &Transaction, queue: &str) -> Result<i64, Refusal> {
    let next = tx
        .prepare_cached("SELECT coalesce(max(served), 0) + 1 FROM turns WHERE queue = ?1")?
        .query_row(params![queue], |row| row.get(0))?;
    Ok(next)
}

/// SQS's checksum over message attributes, which most SDKs check; `None` without attributes.
pub(super) fn attributes_md5(attributes: &BTreeMap<String, Attribute>) -> Option<String> {
    if attributes.is_empty() {
        return None;
    }
    let mut bytes = Vec::new();
    for (name, attribute) in attributes {
        let (kind, value) = attribute.value()?;
        add_part(&mut bytes, name.as_bytes());
        add_part(&mut bytes, attribute.data_type.as_bytes());
        bytes.push(kind);
        add_part(&mut bytes, &value);
    }
    Some(md5_of(&bytes))
}

fn add_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend(part);
}

pub(super) fn md5_of(bytes: &[u8]) -> String {
    format!("{:x}", md5::compute(bytes))
}
