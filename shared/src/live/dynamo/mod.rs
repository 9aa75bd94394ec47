//! DynamoDB: rows, conditions and transactions behind the ports. One file per family of items.

mod access_log;
mod accounts;
mod api_keys;
mod billing;
mod connections;
mod credentials;
mod endpoints;
pub mod keys;
mod ledger;
mod messages;
mod once;
mod opt_outs;
mod quarantine;
mod reconciliations;
mod rotation;
mod routines;
mod rows;
pub mod schema;
mod settling;
mod templates;

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason, KeysAndAttributes, TransactWriteItem};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::config::{Aws, Config, ConfigError, TABLE_PREFIX, aws_config};
use super::{Need, not_asked_for};
use crate::fault::Fault;
use keys::{DUE_INDEX, Key, Table};

/// An item as DynamoDB has it.
type Item = HashMap<String, AttributeValue>;

/// The tables.
pub(super) struct Dynamo {
    client: Option<Client>,
    prefix: String,
}

impl Dynamo {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client = wanted.then(|| Client::from_conf(aws_config!(aws_sdk_dynamodb, config, aws, "DYNAMODB")));
        Ok(Self { client, prefix: config.required(TABLE_PREFIX, wanted)? })
    }

    fn client(&self) -> Result<&Client, Fault> {
        self.client.as_ref().ok_or_else(|| not_asked_for(Need::Tables))
    }

    fn name(&self, table: Table) -> String {
        format!("{}{}", self.prefix, table.name())
    }

    /// One item, strongly consistent.
    async fn get<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, Fault> {
        let answer = self
            .client()?
            .get_item()
            .table_name(self.name(key.table))
            .set_key(Some(key.attributes()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("read", &error))?;
        answer.item.map(from_item).transpose()
    }

    /// Several items of any tables in one call, strongly consistent, in no order; what DynamoDB leaves out is asked again.
    async fn batch_get(&self, keys: &[Key]) -> Result<HashMap<Key, Item>, Fault> {
        let mut wanted: HashMap<String, KeysAndAttributes> = HashMap::new();
        let mut by_name: HashMap<String, Table> = HashMap::new();
        for key in keys {
            let name = self.name(key.table);
            by_name.insert(name.clone(), key.table);
            let slot = wanted.remove(&name);
            let mut list = slot.map(|slot| slot.keys).unwrap_or_default();
            let attributes = key.attributes();
            if !list.contains(&attributes) {
                list.push(attributes);
            }
            let built = KeysAndAttributes::builder().set_keys(Some(list)).consistent_read(true).build();
            wanted.insert(name, built.map_err(|_| Fault::permanent("a batch read did not build"))?);
        }
        let mut found = HashMap::new();
        for attempt in 0..6 {
            if wanted.is_empty() {
                return Ok(found);
            }
            if attempt > 0 {
                pause(attempt).await?;
            }
            let answer = self
                .client()?
                .batch_get_item()
                .set_request_items(Some(wanted))
                .send()
                .await
                .map_err(|error| fault("batch read", &error))?;
            for (name, items) in answer.responses.unwrap_or_default() {
                let Some(&table) = by_name.get(&name) else { continue };
                for item in items {
                    let (pk, sk) = (text(&item, "pk")?, text(&item, "sk")?);
                    found.insert(Key { table, pk, sk }, item);
                }
            }
            wanted = answer.unprocessed_keys.unwrap_or_default();
        }
        Err(Fault::transient("batch read: DynamoDB keeps leaving items out"))
    }

    /// A transaction. A conflict with another writer is tried again with jitter; if it stays, that is a transient fault
    /// and never an answer about the data.
    async fn transact(&self, items: Vec<TransactWriteItem>) -> Result<Transacted, Fault> {
        for attempt in 0..8 {
            if attempt > 0 {
                pause(attempt).await?;
            }
            let sent = self.client()?.transact_write_items().set_transact_items(Some(items.clone())).send().await;
            let Err(error) = sent else { return Ok(Transacted::Committed) };
            let reasons = match error.as_service_error() {
                Some(service) if service.is_transaction_canceled_exception() => match service {
                    aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(canceled) => {
                        canceled.cancellation_reasons().to_vec()
                    }
                    _ => Vec::new(),
                },
                _ => return Err(fault("transaction", &error)),
            };
            let code = |wanted: &str| reasons.iter().any(|reason| reason.code() == Some(wanted));
            if code("ConditionalCheckFailed") {
                return Ok(Transacted::Refused(reasons));
            }
            if !(code("TransactionConflict") || code("ThrottlingError") || code("ProvisionedThroughputExceeded")) {
                let codes: Vec<_> = reasons.iter().filter_map(CancellationReason::code).collect();
                return Err(Fault::Permanent(format!("transaction: {}", codes.join(", "))));
            }
        }
        Err(Fault::transient("transaction: other writers kept changing the same items"))
    }

    /// What is due by now on one shard of a table's index `due`, by its key: 1 query.
    async fn query_due<T>(
        &self,
        table: Table,
        shard: AttributeValue,
        now: Timestamp,
        limit: u16,
        parse: impl Fn(&str, &str) -> Option<T>,
    ) -> Result<Vec<T>, Fault> {
        let answer = self
            .client()?
            .query()
            .table_name(self.name(table))
            .index_name(DUE_INDEX)
            .key_condition_expression("due_shard = :shard AND due_at <= :now")
            .expression_attribute_values(":shard", shard)
            .expression_attribute_values(":now", millis(now))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("find what is due", &error))?;
        let key = |item: &Item| {
            let parsed = parse(&text(item, "pk")?, &text(item, "sk")?);
            parsed.ok_or(Fault::permanent("a due item is not what belongs on its shard"))
        };
        answer.items.unwrap_or_default().iter().map(key).collect()
    }
}

/// How a transaction ended.
enum Transacted {
    Committed,
    /// A condition said no: the reason of each item, in order, with the item as it is if that was asked for.
    Refused(Vec<CancellationReason>),
}

/// The item that stood in the way at place `n` of a refused transaction: `None` if that condition held.
fn blocker(reasons: &[CancellationReason], n: usize) -> Option<Item> {
    let reason = reasons.get(n)?;
    (reason.code() == Some("ConditionalCheckFailed")).then(|| reason.item().cloned().unwrap_or_default())
}

/// Waits longer each time, with jitter: writers that met once should not meet again.
async fn pause(attempt: u32) -> Result<(), Fault> {
    let [dice] = super::clock::random::<1>()?;
    let most_ms = 10_u64 << attempt.min(6);
    tokio::time::sleep(Duration::from_millis(most_ms / 2 + most_ms * u64::from(dice) / 512)).await;
    Ok(())
}

/// Classifies an error of the SDK, which has tried again already. All our writes are conditional, so that a write
/// whose answer was lost may be repeated: it is transient.
fn fault<E: ProvideErrorMetadata>(what: &str, error: &SdkError<E>) -> Fault {
    let permanent =
        ["AccessDeniedException", "ResourceNotFoundException", "ValidationException", "UnrecognizedClientException"];
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("unnamed error");
            let text = format!("DynamoDB {what}: {code}");
            if permanent.contains(&code) { Fault::Permanent(text) } else { Fault::Transient(text) }
        }
        SdkError::ConstructionFailure(_) => Fault::Permanent(format!("DynamoDB {what}: the request did not build")),
        _ => Fault::Transient(format!("DynamoDB {what}: no answer")),
    }
}

/// A row as an item under its key, with the version of its shape.
fn to_item(key: &Key, row: &impl Serialize) -> Result<Item, Fault> {
    let mut item: Item = serde_dynamo::to_item(row).map_err(|_| Fault::permanent("a row did not serialize"))?;
    item.extend(key.attributes());
    item.insert("v".to_owned(), n(1));
    Ok(item)
}

/// A row from an item. What does not read is named by its type only: serde's text may hold the value.
fn from_item<T: DeserializeOwned>(item: Item) -> Result<T, Fault> {
    serde_dynamo::from_item(item)
        .map_err(|_| Fault::Permanent(format!("a stored {} does not read", std::any::type_name::<T>())))
}

fn text(item: &Item, name: &str) -> Result<String, Fault> {
    let value = item.get(name).and_then(|value| value.as_s().ok());
    value.cloned().ok_or_else(|| Fault::Permanent(format!("a stored item has no {name}")))
}

fn s(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn n(value: impl std::fmt::Display) -> AttributeValue {
    AttributeValue::N(format!("{value}"))
}

fn millis(at: Timestamp) -> AttributeValue {
    n(at.as_millisecond())
}

/// Builders of the parts of a transaction.
mod part {
    use aws_sdk_dynamodb::types::{
        AttributeValue, ConditionCheck, Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
    };

    use super::{Dynamo, Fault, Item, Key};

    fn incomplete<E>(_: E) -> Fault {
        Fault::permanent("a part of a transaction did not build")
    }

    /// The aliases of DynamoDB's reserved words that two expressions use.
    fn reserved<'a>(
        expression: &'a str,
        condition: &'a str,
    ) -> impl Iterator<Item = (&'static str, &'static str)> + 'a {
        let words = [("#status", "status"), ("#ttl", "ttl"), ("#zone", "zone")];
        words.into_iter().filter(move |(alias, _)| expression.contains(alias) || condition.contains(alias))
    }

    impl Dynamo {
        /// Puts an item if `condition` holds.
        pub(super) fn put(
            &self,
            key: &Key,
            item: Item,
            condition: &str,
            values: &[(&str, AttributeValue)],
        ) -> Result<TransactWriteItem, Fault> {
            let mut put = Put::builder()
                .table_name(self.name(key.table))
                .set_item(Some(item))
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (name, value) in values {
                put = put.expression_attribute_values(*name, value.clone());
            }
            Ok(TransactWriteItem::builder().put(put.build().map_err(incomplete)?).build())
        }

        /// Puts an item if there is none.
        pub(super) fn put_new(&self, key: &Key, item: Item) -> Result<TransactWriteItem, Fault> {
            self.put(key, item, "attribute_not_exists(pk)", &[])
        }

        /// Updates an item if `condition` holds. Names that DynamoDB reserves are written `#status`, `#ttl`, `#zone`.
        pub(super) fn update(
            &self,
            key: &Key,
            expression: &str,
            condition: &str,
            values: &[(&str, AttributeValue)],
        ) -> Result<TransactWriteItem, Fault> {
            let mut update = Update::builder()
                .table_name(self.name(key.table))
                .set_key(Some(key.attributes()))
                .update_expression(expression)
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (alias, name) in reserved(expression, condition) {
                update = update.expression_attribute_names(alias, name);
            }
            for (name, value) in values {
                update = update.expression_attribute_values(*name, value.clone());
            }
            Ok(TransactWriteItem::builder().update(update.build().map_err(incomplete)?).build())
        }

        /// Writes nothing, but lets the transaction commit only if `condition` holds.
        pub(super) fn check(&self, key: &Key, condition: &str) -> Result<TransactWriteItem, Fault> {
            let check = ConditionCheck::builder()
                .table_name(self.name(key.table))
                .set_key(Some(key.attributes()))
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            Ok(TransactWriteItem::builder().condition_check(check.build().map_err(incomplete)?).build())
        }

        /// Deletes an item if `condition` holds.
        pub(super) fn delete(
            &self,
            key: &Key,
            condition: &str,
            values: &[(&str, AttributeValue)],
        ) -> Result<TransactWriteItem, Fault> {
            let mut delete = Delete::builder()
                .table_name(self.name(key.table))
                .set_key(Some(key.attributes()))
                .condition_expression(condition)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (name, value) in values {
                delete = delete.expression_attribute_values(*name, value.clone());
            }
            Ok(TransactWriteItem::builder().delete(delete.build().map_err(incomplete)?).build())
        }

        /// One conditional update outside a transaction: the item after it, or the item that stood in the way (`None`
        /// if there was none).
        pub(super) async fn update_one(
            &self,
            key: &Key,
            expression: &str,
            condition: &str,
            values: &[(&str, AttributeValue)],
        ) -> Result<Result<Item, Option<Item>>, Fault> {
            use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
            let mut update = self
                .client()?
                .update_item()
                .table_name(self.name(key.table))
                .set_key(Some(key.attributes()))
                .update_expression(expression)
                .condition_expression(condition)
                .return_values(aws_sdk_dynamodb::types::ReturnValue::AllNew)
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            for (alias, name) in reserved(expression, condition) {
                update = update.expression_attribute_names(alias, name);
            }
            for (name, value) in values {
                update = update.expression_attribute_values(*name, value.clone());
            }
            match update.send().await {
                Ok(answer) => Ok(Ok(answer.attributes.unwrap_or_default())),
                Err(error) => match error.as_service_error() {
                    Some(UpdateItemError::ConditionalCheckFailedException(failed)) => Ok(Err(failed.item().cloned())),
                    _ => Err(super::fault("update", &error)),
                },
            }
        }
    }
}
