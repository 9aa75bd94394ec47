//! Settling what is not known, in tables `messages` and `ledger`.

use std::collections::HashMap;

use jiff::Timestamp;

use super::keys::{self, Key};
use super::messages::{SidRow, UNCHANGED, rewrite};
use super::rows::{EntryRow, message};
use super::{Item, Transacted, blocker, from_item, to_item};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::ledger::{Entry, Occasion, UsageKind};
use crate::live::Live;
use crate::message::{Adopted, FindUnseen, Message, Outgoing, RecordResend, Resent, SettleMessage, due_after_decision};
use crate::seal::Sealed;

/// SIDs of one batch read: two keys for each, and DynamoDB takes a hundred.
const SIDS_AT_ONCE: usize = 50;

/// What a message's charge is filed under.
pub(super) fn charge_of(sid: &str) -> Occasion {
    Occasion::Usage { sid: sid.to_owned(), kind: UsageKind::MessageSegments }
}

/// Where it would stand that a SID belongs to a message: as adopted or arrived, and as charged.
fn owners(account: AccountId, sid: &str) -> [Key; 2] {
    [keys::sid(account, sid), keys::entry(account, &charge_of(sid))]
}

impl SettleMessage for Live {
    async fn load_with_payload(
        &self,
        account: AccountId,
        id: MessageId,
    ) -> Result<Option<(Message, Option<Sealed>)>, Fault> {
        let key = keys::message(account, id);
        let mut found: HashMap<Key, Item> = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        let Some(item) = found.remove(&key) else { return Ok(None) };
        let payload = item.get("payload").and_then(|payload| payload.as_b().ok());
        let payload = payload.map(|payload| Sealed(payload.as_ref().to_vec()));
        Ok(Some((message(item)?, payload)))
    }

    async fn free_sids(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<String>, Fault> {
        let mut free = Vec::new();
        for some in sids.chunks(SIDS_AT_ONCE) {
            let wanted: Vec<_> = some.iter().flat_map(|sid| owners(account, sid)).collect();
            let found = self.dynamo.batch_get(&wanted).await?;
            let is_free = |sid: &&String| owners(account, sid).iter().all(|key| !found.contains_key(key));
            free.extend(some.iter().filter(is_free).cloned());
        }
        Ok(free)
    }

    /// 1 transaction of 3 items: the SID, the message, and a look at the ledger.
    async fn adopt_sid(
        &self,
        adopting: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<Adopted, Fault> {
        let db = &self.dynamo;
        let text = adopting.sid.as_deref().ok_or(Fault::permanent("an adoption has no SID"))?;
        let once = keys::sid(adopting.account, text);
        let entry = keys::entry(adopting.account, &charge_of(text));
        let bound = SidRow { message: adopting.id, first: adopting.updated.as_millisecond() };
        let (expression, values) = rewrite(adopting, due, false)?;
        let mut parts = vec![
            db.put_new(&once, to_item(&once, &bound)?)?,
            db.check(&entry, "attribute_not_exists(pk)")?,
            db.update(&keys::message(adopting.account, adopting.id), &expression, UNCHANGED, &values)?,
        ];
        parts.extend(db.put_deliveries(told)?);
        parts.extend(db.put_failure(failure)?);
        let reasons = match db.transact(parts).await? {
            Transacted::Committed => return Ok(Adopted::Adopted),
            Transacted::Refused(reasons) => reasons,
        };
        if let Some(owner) = blocker(&reasons, 0) {
            return Ok(Adopted::Taken(from_item::<SidRow>(owner)?.message));
        }
        if let Some(owner) = blocker(&reasons, 1) {
            let owner = from_item::<EntryRow>(owner)?.message();
            return Ok(Adopted::Taken(owner.ok_or(Fault::permanent("a charge of a message names none"))?));
        }
        Ok(Adopted::Moved)
    }

    async fn record_listing(&self, message: &Message, due: Timestamp) -> Result<bool, Fault> {
        self.write_unchanged(message, Some(due), true).await
    }
}

impl FindUnseen for Live {
    async fn unseen_sids(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<String>, Fault> {
        let wanted: Vec<_> = sids.iter().map(|sid| keys::sid(account, sid)).collect();
        let found = if wanted.is_empty() { HashMap::new() } else { self.dynamo.batch_get(&wanted).await? };
        Ok(sids.into_iter().filter(|sid| !found.contains_key(&keys::sid(account, sid))).collect())
    }
}

impl RecordResend for Live {
    /// 1 transaction of 4 items.
    async fn record_resend(&self, outgoing: &Outgoing, dropped: &Message) -> Result<Resent, Fault> {
        let due = due_after_decision(dropped);
        let (expression, values) = rewrite(dropped, due, false)?;
        let key = keys::message(dropped.account, dropped.id);
        let replaced = self.dynamo.update(&key, &expression, UNCHANGED, &values)?;
        let recorded = self.record_intent(outgoing, Some(&replaced)).await?;
        Ok(recorded.map_or(Resent::Moved, Resent::Recorded))
    }
}
