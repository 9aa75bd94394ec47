//! Pending openings and accounts' chains.

use std::collections::BTreeMap;

use super::World;
use crate::access_log::{Entry, Head, LinkAccess, Opening, ReadAccess, pending_shard};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};

#[derive(Default)]
pub(super) struct AccessLog {
    pub(super) pending: BTreeMap<EntryId, Opening>,
    chains: BTreeMap<AccountId, Vec<Entry>>,
    pub(super) heads: BTreeMap<AccountId, Head>,
}

impl AccessLog {
    fn head(&self, account: AccountId) -> Head {
        self.heads.get(&account).cloned().unwrap_or_default()
    }
}

impl LinkAccess for World {
    async fn load_pending(&self, shard: u8, limit: u8) -> Result<Vec<Opening>, Fault> {
        self.call("load_pending", |state| {
            let of_shard = state.access_log.pending.values().filter(|opening| pending_shard(opening.id) == shard);
            Ok(of_shard.take(usize::from(limit)).cloned().collect())
        })
        .await
    }

    async fn load_head(&self, account: AccountId) -> Result<Head, Fault> {
        self.call("load_head", |state| Ok(state.access_log.head(account))).await
    }

    async fn append_entries(&self, account: AccountId, head: &Head, entries: &[Entry]) -> Result<bool, Fault> {
        self.call("append_entries", |state| {
            let log = &mut state.access_log;
            if log.head(account) != *head || entries.iter().any(|entry| !log.pending.contains_key(&entry.id)) {
                return Ok(false);
            }
            for entry in entries {
                log.pending.remove(&entry.id);
            }
            let end = entries.iter().fold(head.clone(), |head, entry| head.after(entry));
            log.heads.insert(account, end);
            log.chains.entry(account).or_default().extend(entries.iter().cloned());
            Ok(true)
        })
        .await
    }
}

impl ReadAccess for World {
    async fn read_access(&self, account: AccountId, after: u64, limit: u16) -> Result<Vec<Entry>, Fault> {
        self.call("read_access", |state| {
            let chain = state.access_log.chains.get(&account).cloned().unwrap_or_default();
            Ok(chain.into_iter().filter(|entry| entry.sequence > after).take(usize::from(limit)).collect())
        })
        .await
    }
}
