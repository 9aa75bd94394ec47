//! Opt-outs. The conditions are those of the live adapters, in Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::inbound::Consent;
use crate::opt_out::{
    EnterOptOuts, Entered, Entry, Evidence, Heard, OptOut, PlatformWord, ReadOptOuts, ReadPlatformOptOut,
    RecordConsent, RecordPlatformWord, Removal, Said, stopped,
};
use crate::session::By;

/// By account, sender and recipient.
type Rows = BTreeMap<(AccountId, String, String), OptOut>;

#[derive(Default)]
pub(super) struct OptOuts {
    rows: Rows,
    senders: BTreeSet<(AccountId, String)>,
    /// What the platform's own number heard, by caller and SID.
    platform: BTreeMap<(String, String), PlatformWord>,
}

impl OptOuts {
    pub(super) fn get(&self, account: AccountId, own: &str, other: &str) -> OptOut {
        self.rows.get(&(account, own.to_owned(), other.to_owned())).cloned().unwrap_or_default()
    }

    fn row(&mut self, account: AccountId, own: &str, other: &str) -> &mut OptOut {
        self.rows.entry((account, own.to_owned(), other.to_owned())).or_default()
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.rows);
        dump(bytes, &self.platform);
    }
}

impl RecordConsent for World {
    async fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        heard: &Heard,
        at: Timestamp,
    ) -> Result<(), Fault> {
        self.call("record_consent", |state| {
            if consent == Consent::Stop {
                state.opt_outs.senders.insert((account, own.to_owned()));
            }
            let row = state.opt_outs.row(account, own, other_hash);
            let counts = row.said.as_ref().is_none_or(|said| match consent {
                Consent::Stop => said.at <= at,
                Consent::Start => said.at < at,
            });
            if counts {
                row.said = Some(Said { consent, at, heard: heard.clone() });
            }
            Ok(())
        })
        .await
    }
}

impl EnterOptOuts for World {
    async fn enter_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        by: By,
        at: Timestamp,
    ) -> Result<Vec<Entry>, Fault> {
        self.call("enter_opt_outs", |state| {
            state.opt_outs.senders.insert((account, own.to_owned()));
            let enter = |other: &String| {
                let row = state.opt_outs.row(account, own, other);
                if row.entered.as_ref().is_none_or(|entered| entered.at <= at) {
                    row.entered = Some(Entered { consent: Consent::Stop, at, by, evidence: None });
                }
                row.entry()
            };
            Ok(recipients.iter().map(enter).collect())
        })
        .await
    }

    async fn remove_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        (by, evidence): (By, Evidence),
        at: Timestamp,
    ) -> Result<Vec<Removal>, Fault> {
        self.call("remove_opt_outs", |state| {
            let remove = |other: &String| {
                let removal = state.opt_outs.get(account, own, other).removal(at);
                if removal == Removal::Removed {
                    let entered = Entered { consent: Consent::Start, at, by, evidence: Some(evidence) };
                    state.opt_outs.row(account, own, other).entered = Some(entered);
                }
                removal
            };
            Ok(recipients.iter().map(remove).collect())
        })
        .await
    }
}

impl ReadOptOuts for World {
    async fn load_opt_outs(&self, account: AccountId, own: &str, recipients: &[String]) -> Result<Vec<OptOut>, Fault> {
        self.call("load_opt_outs", |state| {
            Ok(recipients.iter().map(|other| state.opt_outs.get(account, own, other)).collect())
        })
        .await
    }

    async fn opt_out_senders(&self, account: AccountId) -> Result<Vec<String>, Fault> {
        self.call("opt_out_senders", |state| {
            let ours = state.opt_outs.senders.iter().filter(|(owner, _)| *owner == account);
            Ok(ours.map(|(_, own)| own.clone()).collect())
        })
        .await
    }

    async fn list_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<(String, OptOut)>, Fault> {
        self.call("list_opt_outs", |state| {
            if limit == 0 {
                return Err(not_valid("list opt-outs"));
            }
            let from = (account, own.to_owned(), after.unwrap_or_default().to_owned());
            let rows = state.opt_outs.rows.range((Bound::Excluded(from), Bound::Unbounded));
            let ours = rows.take_while(|((owner, sender, _), _)| *owner == account && sender == own);
            Ok(ours.map(|((_, _, other), row)| (other.clone(), row.clone())).take(usize::from(limit)).collect())
        })
        .await
    }
}

impl RecordPlatformWord for World {
    async fn record_platform_word(&self, caller_hash: &str, sid: &str, word: PlatformWord) -> Result<(), Fault> {
        self.call("record_platform_word", |state| {
            state.opt_outs.platform.entry((caller_hash.to_owned(), sid.to_owned())).or_insert(word);
            Ok(())
        })
        .await
    }
}

impl ReadPlatformOptOut for World {
    async fn has_stopped(&self, caller_hash: &str) -> Result<bool, Fault> {
        self.call("has_stopped", |state| {
            let theirs = state.opt_outs.platform.iter().filter(|((caller, _), _)| caller == caller_hash);
            Ok(stopped(&theirs.map(|(_, word)| *word).collect::<Vec<_>>()))
        })
        .await
    }
}
