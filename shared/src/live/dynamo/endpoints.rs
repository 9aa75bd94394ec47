//! Endpoints and deliveries in table `messages`; the gate knows what each endpoint listens to.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, ENDPOINTS, Key, Table};
use super::messages::{UNCHANGED, rewrite};
use super::rows::{GateRow, message, words};
use super::{Dynamo, Item, Transacted, blocker, fault, from_item, millis, n, s, text, to_item};
use crate::account::Gate;
use crate::endpoint::{
    Attempt, Choice, DELIVER_AGAIN, DELIVERY_LEASE, Delivery, DeliveryClaim, DeliveryStatus, Disabled, Endpoint,
    EndpointUrl, Event, EventType, FindDueDeliveries, KEPT, KeepDeliveries, KeepEndpoints, LoadToTell, MOST_ENDPOINTS,
    NoteHealth, PreviousSecret, Resent, TellEndpoints, ToTell, UpdateAndTell, WhyDisabled, WorkDeliveries,
    delivery_shard,
};
use crate::fault::Fault;
use crate::ids::{AccountId, DeliveryId, EndpointId, EventId, MessageId};
use crate::ledger::Entry;
use crate::live::Live;
use crate::message::{Fence, Message};
use crate::seal::Sealed;

#[derive(Serialize, Deserialize)]
struct EndpointRow {
    url: EndpointUrl,
    choice: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    include_content: bool,
    description: String,
    #[serde(with = "super::rows::binary")]
    secret: Vec<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous: Vec<PreviousRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disabled_why: Option<WhyDisabled>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    untold: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failing_since: Option<i64>,
    revision: u32,
    created: i64,
    updated: i64,
}

#[derive(Serialize, Deserialize)]
struct PreviousRow {
    #[serde(with = "super::rows::binary")]
    secret: Vec<u8>,
    until: i64,
}

impl From<&Endpoint> for EndpointRow {
    fn from(endpoint: &Endpoint) -> Self {
        let previous = |before: &PreviousSecret| PreviousRow {
            secret: before.secret.0.clone(),
            until: before.until.as_millisecond(),
        };
        Self {
            url: endpoint.url.clone(),
            choice: words(&endpoint.choice),
            include_content: endpoint.include_content,
            description: endpoint.description.clone(),
            secret: endpoint.secret.0.clone(),
            previous: endpoint.previous.iter().map(previous).collect(),
            disabled_at: endpoint.disabled.map(|disabled| disabled.at.as_millisecond()),
            disabled_why: endpoint.disabled.map(|disabled| disabled.why),
            untold: endpoint.disabled.is_some_and(|disabled| disabled.untold),
            failing_since: endpoint.failing_since.map(Timestamp::as_millisecond),
            revision: endpoint.revision,
            created: endpoint.created.as_millisecond(),
            updated: endpoint.updated.as_millisecond(),
        }
    }
}

fn damaged() -> Fault {
    Fault::permanent("a stored endpoint or delivery does not read")
}

fn at(ms: i64) -> Result<Timestamp, Fault> {
    Timestamp::from_millisecond(ms).map_err(|_| damaged())
}

fn endpoint(item: Item) -> Result<Endpoint, Fault> {
    let (account, id) = keys::parse_endpoint(&text(&item, "pk")?, &text(&item, "sk")?).ok_or_else(damaged)?;
    let row: EndpointRow = from_item(item)?;
    let disabled_at = row.disabled_at.map(at).transpose()?;
    let disabled = disabled_at.zip(row.disabled_why);
    let previous = |row: PreviousRow| Ok(PreviousSecret { secret: Sealed(row.secret), until: at(row.until)? });
    Ok(Endpoint {
        account,
        id,
        url: row.url,
        choice: Choice::parse(&row.choice).map_err(|_| damaged())?,
        include_content: row.include_content,
        description: row.description,
        secret: Sealed(row.secret),
        previous: row.previous.into_iter().map(previous).collect::<Result<_, Fault>>()?,
        disabled: disabled.map(|(at, why)| Disabled { at, why, untold: row.untold }),
        failing_since: row.failing_since.map(at).transpose()?,
        revision: row.revision,
        created: at(row.created)?,
        updated: at(row.updated)?,
    })
}

fn endpoint_item(key: &Key, endpoint: &Endpoint) -> Result<Item, Fault> {
    to_item(key, &EndpointRow::from(endpoint))
}

/// A choice as the gate has it.
fn listens(choice: &Choice) -> AttributeValue {
    AttributeValue::L(words(choice).into_iter().map(s).collect())
}

/// Where the gate has it: the id is a name by itself.
fn listener(endpoint: EndpointId) -> String {
    format!("listeners.{endpoint}")
}

impl Dynamo {
    /// What an endpoint listens to, into the gate.
    fn set_listener(&self, endpoint: &Endpoint) -> Result<TransactWriteItem, Fault> {
        let (db, name) = (self, listener(endpoint.id));
        db.update(
            &keys::gate(endpoint.account),
            &format!("SET {name} = :choice"),
            &format!("attribute_exists({name})"),
            &[(":choice", listens(&endpoint.listens_to()))],
        )
    }

    /// The same for a new one: beside others if there may be one more, or as the first.
    fn add_listener(&self, endpoint: &Endpoint, first: bool) -> Result<TransactWriteItem, Fault> {
        let (db, gate) = (self, keys::gate(endpoint.account));
        let choice = listens(&endpoint.listens_to());
        if first {
            let map = AttributeValue::M(HashMap::from([(endpoint.id.to_string(), choice)]));
            let condition = "attribute_exists(pk) AND attribute_not_exists(listeners)";
            return db.update(&gate, "SET listeners = :map", condition, &[(":map", map)]);
        }
        db.update(
            &gate,
            &format!("SET {} = :choice", listener(endpoint.id)),
            "attribute_exists(listeners) AND size(listeners) < :most",
            &[(":choice", choice), (":most", n(MOST_ENDPOINTS))],
        )
    }

    /// The puts of new deliveries, for the transaction of what makes them.
    pub(super) fn put_deliveries(&self, deliveries: &[Delivery]) -> Result<Vec<TransactWriteItem>, Fault> {
        deliveries
            .iter()
            .map(|delivery| {
                let key = keys::delivery(delivery.account, delivery.endpoint, delivery.id);
                self.put_new(&key, delivery_item(&key, delivery)?)
            })
            .collect()
    }
}

impl KeepEndpoints for Live {
    async fn load_endpoint(&self, account: AccountId, id: EndpointId) -> Result<Option<Endpoint>, Fault> {
        let key = keys::endpoint(account, id);
        let mut found = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        found.remove(&key).map(endpoint).transpose()
    }

    /// 1 query: there are few.
    async fn list_endpoints(&self, account: AccountId) -> Result<Vec<Endpoint>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(ENDPOINTS))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("list endpoints", &error))?;
        answer.items.unwrap_or_default().into_iter().map(endpoint).collect()
    }

    /// 1 transaction; the account's first endpoint ever 2.
    async fn create_endpoint(&self, new: &Endpoint) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let key = keys::endpoint(new.account, new.id);
        let mut first = false;
        for _ in 0..4 {
            let parts = vec![db.put_new(&key, endpoint_item(&key, new)?)?, db.add_listener(new, first)?];
            let reasons = match db.transact(parts).await? {
                Transacted::Committed => return Ok(true),
                Transacted::Refused(reasons) => reasons,
            };
            if let Some(there) = blocker(&reasons, 0) {
                // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
                let own = endpoint(there)? == *new;
                return if own { Ok(true) } else { Err(Fault::permanent("a new endpoint's id was taken")) };
            }
            let gate = blocker(&reasons, 1).filter(|item| !item.is_empty());
            let has_some = gate.ok_or(Fault::permanent("the account has no gate"))?.contains_key("listeners");
            if has_some && !first {
                return Ok(false);
            }
            first = !has_some;
        }
        Err(Fault::transient("the endpoints kept changing"))
    }

    async fn update_endpoint(&self, new: &Endpoint) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let key = keys::endpoint(new.account, new.id);
        let before = [(":before", n(new.revision.saturating_sub(1)))];
        let parts =
            vec![db.put(&key, endpoint_item(&key, new)?, "revision = :before", &before)?, db.set_listener(new)?];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) => {
                let there = blocker(&reasons, 0).filter(|item| !item.is_empty()).map(endpoint).transpose()?;
                Ok(there.is_some_and(|there| there == *new))
            }
        }
    }

    async fn delete_endpoint(&self, account: AccountId, id: EndpointId) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let name = listener(id);
        let parts = vec![
            db.delete(&keys::endpoint(account, id), "attribute_exists(pk)", &[])?,
            db.update(&keys::gate(account), &format!("REMOVE {name}"), &format!("attribute_exists({name})"), &[])?,
        ];
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

impl NoteHealth for Live {
    async fn note_failing(&self, account: AccountId, id: EndpointId, since: Timestamp) -> Result<(), Fault> {
        let (key, values) = (keys::endpoint(account, id), [(":since", millis(since))]);
        let condition = "attribute_exists(pk) AND attribute_not_exists(failing_since)";
        self.dynamo.update_one(&key, "SET failing_since = :since", condition, &values).await.map(|_| ())
    }

    async fn note_recovered(&self, account: AccountId, id: EndpointId, failing_since: Timestamp) -> Result<(), Fault> {
        let (key, values) = (keys::endpoint(account, id), [(":since", millis(failing_since))]);
        let recovered = self.dynamo.update_one(&key, "REMOVE failing_since", "failing_since = :since", &values);
        recovered.await.map(|_| ())
    }

    /// 1 transaction.
    async fn disable_endpoint(&self, read: &Endpoint, why: WhyDisabled, now: Timestamp) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let disabled = Endpoint { disabled: Some(Disabled { at: now, why, untold: true }), ..read.clone() };
        let mut condition = "revision = :revision AND attribute_not_exists(disabled_at)".to_owned();
        let mut values = vec![
            (":at", millis(now)),
            (":why", s(why.as_str())),
            (":yes", AttributeValue::Bool(true)),
            (":one", n(1)),
            (":revision", n(read.revision)),
        ];
        if let Some(since) = read.failing_since {
            condition.push_str(" AND failing_since = :since");
            values.push((":since", millis(since)));
        }
        let set = "SET disabled_at = :at, disabled_why = :why, untold = :yes, revision = revision + :one";
        let parts = vec![
            db.update(&keys::endpoint(read.account, read.id), set, &condition, &values)?,
            db.set_listener(&disabled)?,
        ];
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }

    async fn endpoint_told(&self, account: AccountId, id: EndpointId, disabled_at: Timestamp) -> Result<(), Fault> {
        let values = [(":at", millis(disabled_at)), (":one", n(1))];
        let told = "SET revision = revision + :one REMOVE untold";
        let condition = "disabled_at = :at AND attribute_exists(untold)";
        self.dynamo.update_one(&keys::endpoint(account, id), told, condition, &values).await.map(|_| ())
    }
}

impl LoadToTell for Live {
    async fn load_to_tell(&self, account: AccountId, id: MessageId) -> Result<Option<ToTell>, Fault> {
        let (row, gate) = (keys::message(account, id), keys::gate(account));
        let mut found = self.dynamo.batch_get(&[row.clone(), gate.clone()]).await?;
        let gate = found.remove(&gate).map(|item| Gate::try_from(from_item::<GateRow>(item)?)).transpose()?;
        let (listeners, zone) = gate.map(|gate| (gate.listeners, gate.zone)).unwrap_or_default();
        Ok(found.remove(&row).map(message).transpose()?.map(|message| ToTell { message, listeners, zone }))
    }
}

impl UpdateAndTell for Live {
    /// 1 conditional write; with something to tell or to count 1 transaction.
    async fn update_and_tell(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<bool, Fault> {
        if told.is_empty() && failure.is_none() {
            return self.write_unchanged(message, due, false).await;
        }
        let db = &self.dynamo;
        let (expression, values) = rewrite(message, due, false)?;
        let key = keys::message(message.account, message.id);
        let mut parts = vec![db.update(&key, &expression, UNCHANGED, &values)?];
        parts.extend(db.put_deliveries(told)?);
        parts.extend(db.put_failure(failure)?);
        match db.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) => match blocker(&reasons, 0).filter(|item| !item.is_empty()) {
                Some(there) => Ok(super::rows::message(there)? == *message),
                None => Ok(false),
            },
        }
    }
}

impl TellEndpoints for Live {
    async fn tell_endpoints(&self, account: AccountId, event: &Event) -> Result<Vec<Delivery>, Fault> {
        let db = &self.dynamo;
        let Some(row) = db.get::<GateRow>(&keys::gate(account)).await? else { return Ok(Vec::new()) };
        let listeners = Gate::try_from(row)?.listeners;
        let mut new = listeners.deliveries(account, std::slice::from_ref(event), event.at);
        // Some may be there: it was told before, and an endpoint was added since.
        for _ in 0..2 {
            if new.is_empty() {
                return Ok(new);
            }
            match db.transact(db.put_deliveries(&new)?).await? {
                Transacted::Committed => return Ok(new),
                Transacted::Refused(reasons) => {
                    let mut place = 0..;
                    new.retain(|_| place.next().is_some_and(|place| blocker(&reasons, place).is_none()));
                }
            }
        }
        // Somebody else tells the same right now.
        Ok(Vec::new())
    }
}

#[derive(Serialize, Deserialize)]
struct DeliveryRow {
    event: EventId,
    kind: EventType,
    at: i64,
    data: String,
    status: DeliveryStatus,
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<i64>,
    tries: u32,
    attempts: Vec<Attempt>,
    ttl: i64,
}

fn ttl(from: Timestamp) -> i64 {
    (from + KEPT).as_second()
}

fn delivery_item(key: &Key, delivery: &Delivery) -> Result<Item, Fault> {
    let row = DeliveryRow {
        event: delivery.event.id,
        kind: delivery.event.kind,
        at: delivery.event.at.as_millisecond(),
        data: delivery.event.data.clone(),
        status: delivery.status,
        created: delivery.created.as_millisecond(),
        not_before: delivery.next.map(Timestamp::as_millisecond),
        tries: delivery.tries,
        attempts: delivery.attempts.clone(),
        ttl: ttl(delivery.created),
    };
    let mut item = to_item(key, &row)?;
    if let Some(due) = delivery.due(delivery.created) {
        item.insert("due_shard".to_owned(), shard_word(delivery_shard(delivery.id)));
        item.insert("due_at".to_owned(), millis(due));
    }
    Ok(item)
}

fn delivery(item: Item) -> Result<Delivery, Fault> {
    let key = keys::parse_delivery(&text(&item, "pk")?, &text(&item, "sk")?);
    let (account, endpoint, id) = key.ok_or_else(damaged)?;
    let row: DeliveryRow = from_item(item)?;
    Ok(Delivery {
        account,
        endpoint,
        id,
        event: Event { id: row.event, kind: row.kind, at: at(row.at)?, data: row.data },
        status: row.status,
        created: at(row.created)?,
        next: row.not_before.map(at).transpose()?,
        tries: row.tries,
        attempts: row.attempts,
    })
}

fn shard_word(shard: u8) -> AttributeValue {
    s(format!("due#deliveries#{shard:02}"))
}

fn word(value: impl Serialize) -> Result<AttributeValue, Fault> {
    serde_dynamo::to_attribute_value(value).map_err(|_| Fault::permanent("a word did not serialize"))
}

impl KeepDeliveries for Live {
    async fn create_delivery(&self, new: &Delivery) -> Result<(), Fault> {
        let db = &self.dynamo;
        match db.transact(db.put_deliveries(std::slice::from_ref(new))?).await? {
            // Only our own write can be there: the id is of this event and this endpoint.
            Transacted::Committed | Transacted::Refused(_) => Ok(()),
        }
    }

    async fn load_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        id: DeliveryId,
    ) -> Result<Option<Delivery>, Fault> {
        let key = keys::delivery(account, endpoint, id);
        let mut found = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        found.remove(&key).map(delivery).transpose()
    }

    async fn list_deliveries(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        before: Option<DeliveryId>,
        limit: u16,
    ) -> Result<Vec<Delivery>, Fault> {
        let start = before.map(|before| keys::delivery(account, endpoint, before));
        self.page_of_deliveries(account, endpoint, start, false, limit).await
    }

    async fn deliveries_since(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        after: DeliveryId,
        limit: u16,
    ) -> Result<Vec<Delivery>, Fault> {
        let start = keys::delivery(account, endpoint, after);
        self.page_of_deliveries(account, endpoint, Some(start), true, limit).await
    }

    async fn resend_delivery(&self, old: &Delivery, now: Timestamp) -> Result<Resent, Fault> {
        let resent = self
            .dynamo
            .update_one(
                &keys::delivery(old.account, old.endpoint, old.id),
                "SET #status = :pending, not_before = :now, tries = :none, due_shard = :shard, due_at = :due, \
                 #ttl = :ttl REMOVE fence",
                "attribute_exists(pk) AND #status <> :pending",
                &[
                    (":pending", word(DeliveryStatus::Pending)?),
                    (":now", millis(now)),
                    (":none", n(0)),
                    (":shard", shard_word(delivery_shard(old.id))),
                    (":due", millis(now + DELIVER_AGAIN)),
                    (":ttl", n(ttl(now))),
                ],
            )
            .await?;
        Ok(match resent {
            Ok(_) => Resent::Now,
            Err(Some(_)) => Resent::Pending,
            Err(None) => Resent::Gone,
        })
    }
}

impl Live {
    /// 1 query of an endpoint's deliveries, from behind a key in one direction.
    async fn page_of_deliveries(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        start: Option<Key>,
        forward: bool,
        limit: u16,
    ) -> Result<Vec<Delivery>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(keys::deliveries(account, endpoint)))
            .scan_index_forward(forward)
            .consistent_read(true)
            .set_exclusive_start_key(start.map(|start| start.attributes()))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("list deliveries", &error))?;
        answer.items.unwrap_or_default().into_iter().map(delivery).collect()
    }
}

impl WorkDeliveries for Live {
    async fn claim_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        id: DeliveryId,
        fence: Fence,
        now: Timestamp,
    ) -> Result<DeliveryClaim, Fault> {
        let fence = s(fence.0.to_string());
        let claimed = self
            .dynamo
            .update_one(
                &keys::delivery(account, endpoint, id),
                "SET fence = :fence, not_before = :lease, due_at = :lease, tries = tries + :one",
                "#status = :pending AND not_before <= :now",
                &[
                    (":fence", fence.clone()),
                    (":lease", millis(now + DELIVERY_LEASE)),
                    (":one", n(1)),
                    (":pending", word(DeliveryStatus::Pending)?),
                    (":now", millis(now)),
                ],
            )
            .await?;
        match claimed {
            Ok(item) => Ok(DeliveryClaim::Mine(Box::new(delivery(item)?))),
            // The SDK repeated our own write after its answer was lost: the fence says so.
            Err(Some(item)) if item.get("fence") == Some(&fence) => Ok(DeliveryClaim::Mine(Box::new(delivery(item)?))),
            Err(_) => Ok(DeliveryClaim::Nothing),
        }
    }

    async fn record_attempt(&self, after: &Delivery, fence: Fence) -> Result<bool, Fault> {
        let mut set = "SET #status = :status, attempts = :attempts".to_owned();
        let mut values = vec![
            (":status", word(after.status)?),
            (":attempts", word(&after.attempts)?),
            (":fence", s(fence.0.to_string())),
            (":pending", word(DeliveryStatus::Pending)?),
        ];
        let ended = after.attempts.last().map_or(after.created, |attempt| attempt.at);
        match after.next.zip(after.due(ended)) {
            Some((next, due)) => {
                set.push_str(", not_before = :next, due_at = :due");
                values.extend([(":next", millis(next)), (":due", millis(due))]);
            }
            None => set.push_str(" REMOVE not_before, due_shard, due_at"),
        }
        let key = keys::delivery(after.account, after.endpoint, after.id);
        let condition = "fence = :fence AND #status = :pending";
        match self.dynamo.update_one(&key, &set, condition, &values).await? {
            Ok(_) => Ok(true),
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            Err(Some(item)) => Ok(delivery(item)? == *after),
            Err(None) => Ok(false),
        }
    }
}

impl FindDueDeliveries for Live {
    /// 1 query.
    async fn find_due_deliveries(
        &self,
        shard: u8,
        now: Timestamp,
        limit: u16,
    ) -> Result<Vec<(AccountId, EndpointId, DeliveryId)>, Fault> {
        self.dynamo.query_due(Table::Messages, shard_word(shard), now, limit, keys::parse_delivery).await
    }

    async fn look_at_delivery_again(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        id: DeliveryId,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let (key, values) = (keys::delivery(account, endpoint, id), [(":at", millis(at))]);
        // What moved on meanwhile has a later time already, or none.
        self.dynamo.update_one(&key, "SET due_at = :at", "due_at < :at", &values).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Reach;

    #[test]
    fn an_endpoint_from_before_content_could_be_included_includes_none() {
        let stored = Endpoint {
            account: AccountId::from_bits(1),
            id: EndpointId::from_bits(1),
            url: EndpointUrl::parse("https://example.com/hooks", Reach::Public).unwrap(),
            choice: Choice::All,
            include_content: true,
            description: String::new(),
            secret: Sealed(vec![1]),
            previous: Vec::new(),
            disabled: None,
            failing_since: None,
            revision: 0,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
        };
        let item = endpoint_item(&keys::endpoint(stored.account, stored.id), &stored).unwrap();
        assert_eq!(endpoint(item.clone()), Ok(stored.clone()));
        let mut before = item;
        assert!(before.remove("include_content").is_some());
        assert_eq!(endpoint(before), Ok(Endpoint { include_content: false, ..stored }));
    }
}
