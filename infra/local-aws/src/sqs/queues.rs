//! Queues and their attributes.

use crate::reply::Refusal;
use crate::store::{Store, now_ms};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// AWS raised it from 256 KiB to 1 MiB in August 2025. It also limits the sum of a batch.
pub(super) const MAX_MESSAGE_BYTES: usize = 1_048_576;
const ARN_PREFIX: &str = "arn:aws:sqs:us-east-1:000000000000:";
const ACCOUNT: &str = "000000000000";

/// The numbers that a queue can be set to: name, default, least, most.
const NUMBERS: [(&str, i64, i64, i64); 5] = [
    ("DelaySeconds", 0, 0, 900),
    ("MaximumMessageSize", 1_048_576, 1024, 1_048_576),
    ("MessageRetentionPeriod", 345_600, 60, 1_209_600),
    ("ReceiveMessageWaitTimeSeconds", 0, 0, 20),
    ("VisibilityTimeout", 30, 0, 43_200),
];
/// Stored and given back, without effect here.
const STORED_ONLY: [&str; 5] =
    ["Policy", "RedriveAllowPolicy", "SqsManagedSseEnabled", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds"];

type Attributes = BTreeMap<String, String>;

/// A queue as stored.
pub(super) struct Queue {
    pub name: String,
    attributes: Attributes,
    created_ms: i64,
    changed_ms: i64,
}

/// Where messages go that were received too often.
pub(super) struct Redrive {
    pub dead_letters: String,
    pub max_receives: i64,
}

impl Queue {
    /// A number that the queue was set to, or its default.
    pub fn number(&self, name: &str) -> i64 {
        let set = self.attributes.get(name).and_then(|value| value.parse().ok());
        set.unwrap_or_else(|| NUMBERS.iter().find(|number| number.0 == name).map_or(0, |number| number.1))
    }

    pub fn redrive(&self) -> Option<Redrive> {
        self.attributes.get("RedrivePolicy").and_then(|policy| parse_redrive(policy).ok())
    }

    pub fn arn(&self) -> String {
        format!("{ARN_PREFIX}{}", self.name)
    }

    /// Messages sent before this have expired.
    pub fn oldest_ms(&self) -> i64 {
        now_ms() - self.number("MessageRetentionPeriod") * 1000
    }
}

/// The queue that a URL names.
pub(super) fn find(tx: &Transaction, queue_url: &str) -> Result<Queue, Refusal> {
    named(tx, &name_in(queue_url)?)?.ok_or_else(does_not_exist)
}

/// A queue URL ends in account and name. The host is not looked at: with port 0 it differs between starts.
pub(crate) fn name_in(queue_url: &str) -> Result<String, Refusal> {
    let invalid = || Refusal::new("InvalidAddress", format!("{queue_url} is not the URL of a queue"));
    let (rest, name) = queue_url.rsplit_once('/').ok_or_else(invalid)?;
    if name.is_empty() || !rest.ends_with(&format!("/{ACCOUNT}")) {
        return Err(invalid());
    }
    Ok(name.to_owned())
}

fn does_not_exist() -> Refusal {
    Refusal::new("QueueDoesNotExist", "The specified queue does not exist.")
}

pub(super) fn named(tx: &Transaction, name: &str) -> Result<Option<Queue>, Refusal> {
    let row = tx
        .prepare_cached("SELECT attributes, created_ms, changed_ms FROM queues WHERE name = ?1")?
        .query_row(params![name], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((attributes, created_ms, changed_ms)) = row else {
        return Ok(None);
    };
    let attributes = serde_json::from_str(&attributes).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(Some(Queue { name: name.to_owned(), attributes, created_ms, changed_ms }))
}

pub(super) fn names(tx: &Transaction) -> Result<Vec<String>, Refusal> {
    let mut query = tx.prepare_cached("SELECT name FROM queues ORDER BY name")?;
    let names = query.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(names)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateQueue {
    queue_name: String,
    #[serde(default)]
    attributes: Attributes,
}

pub(super) fn create(store: &Store, ask: &CreateQueue, base_url: &str) -> Result<Value, Refusal> {
    let name = &ask.queue_name;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 80 || !name.chars().all(allowed) {
        let message = "a queue name has 1 to 80 of the characters A-Z a-z 0-9 - _; this double makes no FIFO queues";
        return Err(Refusal::new("InvalidParameterValueException", message));
    }
    let answer = json!({ "QueueUrl": url_of(base_url, name) });
    store.write(|tx| {
        check(tx, &ask.attributes)?;
        if let Some(queue) = named(tx, name)? {
            let differs = ask.attributes.iter().any(|(name, value)| effective(&queue, name) != *value);
            return if differs {
                let message = "A queue already exists with the same name and a different value for an attribute";
                Err(Refusal::new("QueueNameExists", message))
            } else {
                Ok(answer)
            };
        }
        tx.execute(
            "INSERT INTO queues (name, attributes, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?3)",
            params![name, json!(ask.attributes).to_string(), now_ms()],
        )?;
        Ok(answer)
    })
}

fn effective(queue: &Queue, attribute: &str) -> String {
    match queue.attributes.get(attribute) {
        Some(value) => value.clone(),
        None if STORED_ONLY.contains(&attribute) || attribute == "RedrivePolicy" => String::new(),
        None => queue.number(attribute).to_string(),
    }
}

fn url_of(base_url: &str, name: &str) -> String {
    format!("{base_url}/{ACCOUNT}/{name}")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct OfQueue {
    pub queue_url: String,
}

pub(super) fn delete(store: &Store, ask: &OfQueue) -> Result<Value, Refusal> {
    store.write(|tx| {
        let queue = find(tx, &ask.queue_url)?;
        tx.execute("DELETE FROM queues WHERE name = ?1", params![queue.name])?;
        Ok(json!({}))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueUrl {
    queue_name: String,
}

pub(super) fn url(store: &Store, ask: &GetQueueUrl, base_url: &str) -> Result<Value, Refusal> {
    store.read(|tx| {
        let queue = named(tx, &ask.queue_name)?.ok_or_else(does_not_exist)?;
        Ok(json!({ "QueueUrl": url_of(base_url, &queue.name) }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListQueues {
    #[serde(default)]
    queue_name_prefix: String,
}

pub(super) fn list(store: &Store, ask: &ListQueues, base_url: &str) -> Result<Value, Refusal> {
    store.read(|tx| {
        let names = names(tx)?.into_iter().filter(|name| name.starts_with(&ask.queue_name_prefix));
        Ok(json!({ "QueueUrls": names.map(|name| url_of(base_url, &name)).collect::<Vec<_>>() }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GetQueueAttributes {
    queue_url: String,
    #[serde(default)]
    attribute_names: Vec<String>,
}

pub(super) fn attributes(store: &Store, ask: &GetQueueAttributes) -> Result<Value, Refusal> {
    store.read(|tx| {
        let queue = find(tx, &ask.queue_url)?;
        let mut all: BTreeMap<&str, String> =
            queue.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        for (name, ..) in NUMBERS {
            all.insert(name, queue.number(name).to_string());
        }
        let counts = counts(tx, &queue.name)?;
        all.insert("ApproximateNumberOfMessages", counts.visible.to_string());
        all.insert("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string());
        all.insert("ApproximateNumberOfMessagesDelayed", counts.delayed.to_string());
        all.insert("QueueArn", queue.arn());
        all.insert("CreatedTimestamp", (queue.created_ms / 1000).to_string());
        all.insert("LastModifiedTimestamp", (queue.changed_ms / 1000).to_string());
        let wanted = |name: &str| ask.attribute_names.iter().any(|wanted| wanted == "All" || wanted == name);
        let chosen: Map<String, Value> =
            all.into_iter().filter(|(name, _)| wanted(name)).map(|(name, value)| (name.into(), value.into())).collect();
        Ok(json!({ "Attributes": chosen }))
    })
}

/// How many messages of a queue wait, are with a consumer, or are not due yet.
pub(super) struct Counts {
    pub visible: u64,
    pub in_flight: u64,
    pub delayed: u64,
}

pub(super) fn counts(tx: &Transaction, queue: &str) -> Result<Counts, Refusal> {
    let counts = tx
        .prepare_cached(
            "SELECT count(*) FILTER (WHERE visible_ms <= ?2),
                    count(*) FILTER (WHERE visible_ms > ?2 AND receipt IS NOT NULL),
                    count(*) FILTER (WHERE visible_ms > ?2 AND receipt IS NULL)
             FROM messages WHERE queue = ?1",
        )?
        .query_row(params![queue, now_ms()], |row| {
            Ok(Counts { visible: row.get(0)?, in_flight: row.get(1)?, delayed: row.get(2)? })
        })?;
    Ok(counts)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SetQueueAttributes {
    queue_url: String,
    attributes: Attributes,
}

pub(super) fn set_attributes(store: &Store, ask: &SetQueueAttributes) -> Result<(String, Value), Refusal> {
    store.write(|tx| {
        let mut queue = find(tx, &ask.queue_url)?;
        check(tx, &ask.attributes)?;
        queue.attributes.extend(ask.attributes.clone());
        queue.attributes.retain(|_, value| !value.is_empty()); // how AWS takes a redrive policy away
        tx.execute(
            "UPDATE queues SET attributes = ?2, changed_ms = ?3 WHERE name = ?1",
            params![queue.name, json!(queue.attributes).to_string(), now_ms()],
        )?;
        Ok((queue.name, json!({})))
    })
}

fn check(tx: &Transaction, attributes: &Attributes) -> Result<(), Refusal> {
    for (name, value) in attributes {
        let invalid = |reason: &str| {
            Refusal::new("InvalidAttributeValue", format!("Invalid value for the parameter {name}. Reason: {reason}"))
        };
        if let Some((_, _, least, most)) = NUMBERS.iter().find(|number| number.0 == name) {
            let number = value.parse::<i64>().ok().filter(|number| (least..=most).contains(&number));
            number.ok_or_else(|| invalid(&format!("it must be from {least} to {most}.")))?;
        } else if name == "RedrivePolicy" {
            if !value.is_empty() {
                let redrive = parse_redrive(value).map_err(|reason| invalid(&reason))?;
                named(tx, &redrive.dead_letters)?.ok_or_else(|| invalid("Dead letter target does not exist."))?;
            }
        } else if !STORED_ONLY.contains(&name.as_str()) {
            return Err(Refusal::new("InvalidAttributeName", format!("Unknown Attribute {name}.")));
        }
    }
    Ok(())
}

fn parse_redrive(policy: &str) -> Result<Redrive, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Policy {
        dead_letter_target_arn: String,
        max_receive_count: Value, // a number, or the same as text
    }
    let policy: Policy = serde_json::from_str(policy).map_err(|error| error.to_string())?;
    let dead_letters = policy.dead_letter_target_arn.strip_prefix(ARN_PREFIX);
    let dead_letters = dead_letters.ok_or("deadLetterTargetArn is not the ARN of a queue here.")?.to_owned();
    let count = policy.max_receive_count;
    let max_receives = count.as_i64().or_else(|| count.as_str()?.parse().ok()).filter(|n| (1..=1000).contains(n));
    Ok(Redrive { dead_letters, max_receives: max_receives.ok_or("maxReceiveCount must be from 1 to 1000.")? })
}
