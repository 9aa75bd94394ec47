//! Failed checks of webhook signatures.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{World, dump};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::quarantine::{Cause, Failure, Noted, QuarantineWebhook, ReadQuarantine, Record};

#[derive(Default)]
pub(super) struct Quarantine {
    records: BTreeMap<(AccountId, &'static str), Record>,
}

impl Quarantine {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.records);
    }
}

impl QuarantineWebhook for World {
    async fn quarantine(&self, failure: &Failure) -> Result<Noted, Fault> {
        self.call("quarantine", |state| {
            let Failure { account, cause, at, facts } = *failure;
            let records = &mut state.quarantine.records;
            let before = records.get(&(account, cause.code())).cloned();
            let previous = before.as_ref().map(|before| before.last);
            let first = Record { cause, count: 0, first: at, last: at, facts, alerted: None };
            let record = before.unwrap_or(first);
            let noted = Noted { previous, first: record.first, alerted: record.alerted };
            let record = Record { count: record.count + 1, last: at, facts, ..record };
            records.insert((account, cause.code()), record);
            Ok(noted)
        })
        .await
    }

    async fn note_alert(&self, account: AccountId, cause: Cause, alerted: Option<Timestamp>) -> Result<(), Fault> {
        self.call("note_alert", |state| {
            if let Some(record) = state.quarantine.records.get_mut(&(account, cause.code())) {
                record.alerted = alerted;
            }
            Ok(())
        })
        .await
    }
}

impl ReadQuarantine for World {
    async fn read_quarantine(&self, account: AccountId, now: Timestamp) -> Result<Vec<Record>, Fault> {
        self.call("read_quarantine", |state| {
            let of_account = state.quarantine.records.iter().filter(|((owner, _), _)| *owner == account);
            Ok(of_account.map(|(_, record)| record.clone()).filter(|record| record.kept(now)).collect())
        })
        .await
    }
}
