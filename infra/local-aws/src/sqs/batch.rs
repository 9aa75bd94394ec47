//! What the three batch actions have in common.

use crate::reply::{Refusal, sqs_query_code};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashSet;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Batch<Entry> {
    pub queue_url: String,
    pub entries: Vec<BatchEntry<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct BatchEntry<Entry> {
    pub id: String,
    #[serde(flatten)]
    pub entry: Entry,
}

/// What a batch as a whole must be.
pub(super) fn check_batch<Entry>(batch: &Batch<Entry>) -> Result<(), Refusal> {
    let entries = &batch.entries;
    if entries.is_empty() {
        return Err(Refusal::new("EmptyBatchRequest", "There should be at least one entry in the request."));
    }
    if entries.len() > 10 {
        let message = "Maximum number of entries per request are 10.";
        return Err(Refusal::new("TooManyEntriesInBatchRequest", message));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !entries.iter().all(|entry| (1..=80).contains(&entry.id.len()) && entry.id.chars().all(allowed)) {
        let message = "A batch entry id has 1 to 80 alphanumeric characters, hyphens and underscores.";
        return Err(Refusal::new("InvalidBatchEntryId", message));
    }
    if entries.iter().map(|entry| &entry.id).collect::<HashSet<_>>().len() < entries.len() {
        return Err(Refusal::new("BatchEntryIdsNotDistinct", "Two or more batch entries have the same Id."));
    }
    Ok(())
}

/// Does each entry by itself: one refused entry does not keep the others from succeeding. Our own failure fails all.
pub(super) fn each<Entry>(
    batch: &Batch<Entry>,
    mut act: impl FnMut(&Entry) -> Result<Map<String, Value>, Refusal>,
) -> Result<Value, Refusal> {
    let (mut successful, mut failed) = (Vec::new(), Vec::new());
    for BatchEntry { id, entry } in &batch.entries {
        match act(entry) {
            Ok(mut fields) => {
                fields.insert("Id".into(), id.clone().into());
                successful.push(Value::Object(fields));
            }
            Err(refusal) if refusal.status >= 500 => return Err(refusal),
            Err(Refusal { code, message, .. }) => {
                failed
                    .push(json!({ "Id": id, "SenderFault": true, "Code": sqs_query_code(&code), "Message": message }));
            }
        }
    }
    Ok(json!({ "Successful": successful, "Failed": failed }))
}

/// A parameter that SQS does not take.
pub(super) fn invalid(reason: impl std::fmt::Display) -> Refusal {
    Refusal::new("InvalidParameterValueException", format!("One or more parameters are invalid. Reason: {reason}"))
}
