//! What every account's minutes handed over, and how far the lines of its senders reach.

use std::collections::{BTreeMap, BTreeSet};

use super::{World, dump};
use jiff::{SignedDuration, Timestamp};

use crate::fault::Fault;
use crate::ids::AccountId;
use crate::pace::TakeSlots;
use crate::velocity::{CountPassing, Mark, Minute};

#[derive(Default)]
pub(super) struct Velocity {
    accounts: BTreeMap<Minute, u64>,
    prefixes: BTreeMap<(Minute, String), BTreeSet<Mark>>,
    lines: BTreeMap<(AccountId, String), Timestamp>,
}

impl Velocity {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.accounts);
        dump(bytes, &self.prefixes);
        dump(bytes, &self.lines);
    }
}

impl CountPassing for World {
    async fn count_prefix(
        &self,
        minute: Minute,
        prefix: &str,
        marks: &BTreeSet<Mark>,
    ) -> Result<BTreeSet<Mark>, Fault> {
        self.call("count_prefix", |state| {
            let counted = state.velocity.prefixes.entry((minute, prefix.to_owned())).or_default();
            counted.extend(marks.iter().cloned());
            Ok(counted.clone())
        })
        .await
    }

    async fn count_account(&self, minute: Minute, n_messages: u64) -> Result<u64, Fault> {
        self.call("count_account", |state| {
            let counted = state.velocity.accounts.entry(minute).or_default();
            *counted += n_messages;
            Ok(*counted)
        })
        .await
    }
}

impl TakeSlots for World {
    async fn take_slots(
        &self,
        account: AccountId,
        own: &str,
        takes: SignedDuration,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        self.call("take_slots", |state| {
            let end = state.velocity.lines.entry((account, own.to_owned())).or_insert(Timestamp::UNIX_EPOCH);
            if *end > now && *end >= latest {
                return Ok(None);
            }
            let start = now.max(*end);
            *end = start + takes;
            Ok(Some(start))
        })
        .await
    }
}
