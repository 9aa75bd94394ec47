//! Pending openings and accounts' chains in table `access-log`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, Table};
use super::{Dynamo, Transacted, fault, from_item, s, to_item};
use crate::access_log::{Entry, Head, LinkAccess, Opening, ReadAccess, pending_shard};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId, RequestId};
use crate::live::Live;
use crate::seal::Purpose;

#[derive(Serialize, Deserialize)]
struct OpeningRow {
    id: EntryId,
    account: AccountId,
    function: String,
    purpose: Purpose,
    key_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<RequestId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses_before: Option<u64>,
    at: i64,
}

impl TryFrom<OpeningRow> for Opening {
    type Error = Fault;

    fn try_from(row: OpeningRow) -> Result<Self, Fault> {
        let at = Timestamp::from_millisecond(row.at).map_err(|_| Fault::permanent("a stored time does not read"))?;
        Ok(Self {
            id: row.id,
            account: row.account,
            function: row.function,
            purpose: row.purpose,
            key_version: row.key_version,
            request_id: row.request,
            uses_before: row.uses_before,
            at,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct HeadRow {
    last_sequence: u64,
    last_hash: String,
    #[serde(default)]
    openings: Vec<OpeningsRow>,
}

#[derive(Serialize, Deserialize)]
struct OpeningsRow {
    purpose: Purpose,
    version: u32,
    openings: u64,
}

impl From<&Head> for HeadRow {
    fn from(head: &Head) -> Self {
        let counts = head.openings.iter();
        Self {
            last_sequence: head.sequence,
            last_hash: head.hash.clone(),
            openings: counts.map(|(purpose, version, openings)| OpeningsRow { purpose, version, openings }).collect(),
        }
    }
}

impl From<HeadRow> for Head {
    fn from(row: HeadRow) -> Self {
        let counts = row.openings.into_iter();
        Self {
            sequence: row.last_sequence,
            hash: row.last_hash,
            openings: counts.map(|count| (count.purpose, count.version, count.openings)).collect(),
        }
    }
}

impl Dynamo {
    /// Notes that a data key is about to be opened: 1 write.
    pub(in crate::live) async fn note_opening(&self, opening: &Opening) -> Result<(), Fault> {
        let key = keys::pending_access(pending_shard(opening.id), opening.id);
        let row = OpeningRow {
            id: opening.id,
            account: opening.account,
            function: opening.function.clone(),
            purpose: opening.purpose,
            key_version: opening.key_version,
            request: opening.request_id,
            uses_before: opening.uses_before,
            at: opening.at.as_millisecond(),
        };
        match self.transact(vec![self.put_new(&key, to_item(&key, &row)?)?]).await? {
            Transacted::Committed => Ok(()),
            Transacted::Refused(_) => Err(Fault::permanent("an access-log entry was there already")),
        }
    }
}

impl LinkAccess for Live {
    async fn load_pending(&self, shard: u8, limit: u8) -> Result<Vec<Opening>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::AccessLog))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(keys::pending_shard(shard)))
            .limit(i32::from(limit))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("load pending", &error))?;
        let items = answer.items.unwrap_or_default();
        items.into_iter().map(|item| from_item::<OpeningRow>(item)?.try_into()).collect()
    }

    async fn load_head(&self, account: AccountId) -> Result<Head, Fault> {
        let row = self.dynamo.get::<HeadRow>(&keys::access_head(account)).await?;
        Ok(row.map(Head::from).unwrap_or_default())
    }

    /// 1 transaction: the head moves, the entries appear, their openings go.
    async fn append_entries(&self, account: AccountId, head: &Head, entries: &[Entry]) -> Result<bool, Fault> {
        if entries.is_empty() {
            return Ok(true);
        }
        let end = entries.iter().fold(head.clone(), |head, entry| head.after(entry));
        let db = &self.dynamo;
        let key = keys::access_head(account);
        let row = HeadRow::from(&end);
        let mut parts = vec![if head.sequence == 0 {
            db.put_new(&key, to_item(&key, &row)?)?
        } else {
            db.put(&key, to_item(&key, &row)?, "last_hash = :before", &[(":before", s(&head.hash))])?
        }];
        for entry in entries {
            let key = keys::access_entry(account, entry.sequence);
            parts.push(db.put_new(&key, to_item(&key, entry)?)?);
            let pending = keys::pending_access(pending_shard(entry.id), entry.id);
            parts.push(db.delete(&pending, "attribute_exists(pk)", &[])?);
        }
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

impl ReadAccess for Live {
    async fn read_access(&self, account: AccountId, after: u64, limit: u16) -> Result<Vec<Entry>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::AccessLog))
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":from", s(keys::access_sort(after.saturating_add(1))))
            .expression_attribute_values(":to", s(keys::access_sort(u64::MAX)))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("read access log", &error))?;
        let items = answer.items.unwrap_or_default();
        items
            .into_iter()
            .map(|mut item| {
                // The row is the entry and its keys; the entry refuses fields that it does not know.
                item.retain(|name, _| !["pk", "sk", "v"].contains(&name.as_str()));
                from_item(item)
            })
            .collect()
    }
}
