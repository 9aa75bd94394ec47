//! What every account's minutes handed over.

use std::collections::{BTreeMap, BTreeSet};

use super::{World, dump};
use crate::fault::Fault;
use crate::velocity::{CountPassing, Mark, Minute};

#[derive(Default)]
pub(super) struct Velocity {
    accounts: BTreeMap<Minute, u64>,
    prefixes: BTreeMap<(Minute, String), BTreeSet<Mark>>,
}

impl Velocity {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.accounts);
        dump(bytes, &self.prefixes);
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
