//! Failed checks of webhook signatures in table `once`: a row for each account and cause.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, Table};
use super::{Item, fault, from_item, millis, n, s, text};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::quarantine::{
    Cause, Facts, Failure, KEPT, Noted, QuarantineWebhook, ReadQuarantine, Record, Rotation, RouteKind,
};

/// As stored; the cause is the sort key.
#[derive(Serialize, Deserialize)]
struct QuarantineRow {
    failures: u64,
    first_at: i64,
    last_at: i64,
    /// 0: none.
    previous_at: i64,
    route_kind: RouteKind,
    signature_header: bool,
    shared_key_header: bool,
    secret_since: i64,
    rotation: Rotation,
    alerted_at: Option<i64>,
}

fn at(ms: i64) -> Result<Timestamp, Fault> {
    Timestamp::from_millisecond(ms).map_err(|_| Fault::permanent("a stored time does not read"))
}

fn flag(flag: bool) -> AttributeValue {
    AttributeValue::Bool(flag)
}

fn record(item: Item) -> Result<Record, Fault> {
    let cause = Cause::parse(&text(&item, "sk")?).ok_or(Fault::permanent("a stored cause does not read"))?;
    let row: QuarantineRow = from_item(item)?;
    Ok(Record {
        cause,
        count: row.failures,
        first: at(row.first_at)?,
        last: at(row.last_at)?,
        facts: Facts {
            route: row.route_kind,
            signature_header: row.signature_header,
            shared_key_header: row.shared_key_header,
            secret_since: at(row.secret_since)?,
            rotation: row.rotation,
        },
        alerted: row.alerted_at.map(at).transpose()?,
    })
}

/// The row may be there or not: every failure counts.
const ANY: &str = "attribute_not_exists(pk) OR attribute_exists(pk)";

impl QuarantineWebhook for Live {
    async fn quarantine(&self, failure: &Failure) -> Result<Noted, Fault> {
        let facts = failure.facts;
        let key = keys::quarantine(failure.account, failure.cause);
        let count = "SET previous_at = if_not_exists(last_at, :none), last_at = :now, \
            first_at = if_not_exists(first_at, :now), route_kind = :route, signature_header = :signature, \
            shared_key_header = :shared, secret_since = :since, rotation = :rotation, \
            #ttl = :ends, v = :v ADD failures :one";
        let values = [
            (":none", n(0)),
            (":now", millis(failure.at)),
            (":route", word(facts.route)?),
            (":signature", flag(facts.signature_header)),
            (":shared", flag(facts.shared_key_header)),
            (":since", millis(facts.secret_since)),
            (":rotation", word(facts.rotation)?),
            (":ends", n((failure.at + KEPT).as_second())),
            (":v", n(1)),
            (":one", n(1)),
        ];
        let counted = self.dynamo.update_one(&key, count, ANY, &values);
        let item = counted.await?.map_err(|_| Fault::permanent("a failed check could not be counted"))?;
        let row: QuarantineRow = from_item(item)?;
        Ok(Noted {
            previous: (row.previous_at != 0).then(|| at(row.previous_at)).transpose()?,
            first: at(row.first_at)?,
            alerted: row.alerted_at.map(at).transpose()?,
        })
    }

    async fn note_alert(&self, account: AccountId, cause: Cause, alerted: Option<Timestamp>) -> Result<(), Fault> {
        let key = keys::quarantine(account, cause);
        let noted = match alerted {
            Some(at) => {
                let set = "SET alerted_at = :at";
                self.dynamo.update_one(&key, set, "attribute_exists(pk)", &[(":at", millis(at))]).await
            }
            None => self.dynamo.update_one(&key, "REMOVE alerted_at", "attribute_exists(pk)", &[]).await,
        };
        noted.map(|_| ())
    }
}

/// An enum as it is stored.
fn word(value: impl Serialize) -> Result<AttributeValue, Fault> {
    serde_dynamo::to_attribute_value(value).map_err(|_| Fault::permanent("a word did not serialize"))
}

impl ReadQuarantine for Live {
    /// 1 query: an account has at most one row for each cause.
    async fn read_quarantine(&self, account: AccountId, now: Timestamp) -> Result<Vec<Record>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Once))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(keys::quarantine_of(account)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("read quarantine", &error))?;
        let mut records = Vec::new();
        for item in answer.items.unwrap_or_default() {
            records.push(record(item)?);
        }
        records.retain(|record| record.kept(now));
        Ok(records)
    }
}
