//! What the ledger asks of the world.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    About, Allowance, Counted, Entry, Granularity, Purse, RolledUp, Step, Totals, UsageSlot, UsageSums, Wrong, Zone,
};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::message::Message;

/// Posts outcomes.
pub trait PostOutcome {
    /// Charges: the message is marked settled, its hold becomes use, the entry is written and put into the journal, all in
    /// one transaction, with what endpoints are `told` of the message, and with the `failure` to be counted if it failed.
    /// What has no hold any more is charged all the same: then credit may come to be owed.
    fn post_charge(
        &self,
        message: &Message,
        entry: Entry,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> impl Future<Output = Result<Posted, Fault>> + Send;

    /// Gives the hold back and marks the message settled, in one transaction, with what endpoints are `told` of it, and
    /// with the `failure` to be counted.
    /// `false` if it was settled before, or has another status meanwhile: who gave it that one has it posted. What is
    /// `unconfirmed` stays on the sweeper's list until its time to decide is over.
    fn post_release(
        &self,
        message: &Message,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// What became of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// Charged now.
    Charged,
    /// Settled before, or it has another status meanwhile: who gave it that one has it posted.
    Before,
    /// Another message was charged for this SID: nothing was written. One of Twilio's messages is paid once.
    SidTaken,
}

/// Counts what was posted into usage rows and a month's totals.
pub trait RollUpUsage {
    /// Up to `limit` entries of one shard of the journal: what is not counted yet.
    fn load_journal(&self, shard: u8, limit: u8) -> impl Future<Output = Result<Vec<Entry>, Fault>> + Send;

    /// Adds to the rows and removes the entries from the journal in one transaction. `false` if some entry was counted
    /// meanwhile: nothing was added, load again.
    fn count_journal(&self, entries: &[Entry], rolled: &RolledUp) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Counts usage again.
pub trait RecountUsage {
    /// Every row of the account, strongly consistent.
    fn load_counted(&self, account: AccountId) -> impl Future<Output = Result<Counted, Fault>> + Send;

    /// Everything that was ever posted, in no order that means anything, strongly consistent: at most `limit` of it,
    /// behind the mark `after`, with the mark of the next page.
    fn list_posted(
        &self,
        account: AccountId,
        after: Option<&str>,
        limit: u16,
    ) -> impl Future<Output = Result<(Vec<Entry>, Option<String>), Fault>> + Send;

    /// What of it is in the journal, strongly consistent.
    fn waiting(&self, account: AccountId) -> impl Future<Output = Result<BTreeSet<EntryId>, Fault>> + Send;

    /// Writes what a row should be, if it is still as it was read.
    fn put_right(&self, account: AccountId, wrong: &Wrong) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Number of shards that the journal is spread over.
pub const JOURNAL_SHARDS: u8 = 16;

/// The shard of an entry.
pub fn journal_shard(entry: EntryId) -> u8 {
    u8::try_from(entry.bits() % u128::from(JOURNAL_SHARDS)).unwrap_or(0)
}

/// Reads usage and credit.
pub trait ReadUsage {
    /// Rows of one granularity with `from <= period <= to`, in order, at most `limit`, after the slot `after`: what was
    /// used, or what failed.
    fn read_usage(
        &self,
        account: AccountId,
        about: About,
        granularity: Granularity,
        periods: (&str, &str),
        after: Option<&str>,
        limit: u16,
    ) -> impl Future<Output = Result<UsagePage, Fault>> + Send;

    /// What the account may still spend.
    fn load_allowance(&self, account: AccountId) -> impl Future<Output = Result<Option<Allowance>, Fault>> + Send;

    /// The totals of each month, oldest first.
    fn load_totals(&self, account: AccountId) -> impl Future<Output = Result<Vec<(String, Totals)>, Fault>> + Send;

    /// The entries of a month in the order of posting, at most `limit`, after the entry `after`. One that was posted a
    /// moment ago may be missing.
    fn list_entries(
        &self,
        account: AccountId,
        month: &str,
        after: Option<EntryId>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Entry>, Fault>> + Send;
}

/// Keeps the credits of an account.
pub trait KeepPurse {
    /// Accounts of which credits end by now, the earliest first.
    fn find_ending(&self, now: Timestamp, limit: u16) -> impl Future<Output = Result<Vec<AccountId>, Fault>> + Send;

    /// Notes that a warning was given, if the purse is as it was read and none so high was given meanwhile. A purse of an
    /// account from before there were purses is not noted anywhere.
    fn note_warning(
        &self,
        account: AccountId,
        purse: &Purse,
        percent: u8,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Has it found again then, if it is as it was read.
    fn look_at_purse_again(
        &self,
        account: AccountId,
        purse: &Purse,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Purse, allowance and time zone; `None`: there is no such account.
    fn load_purse(&self, account: AccountId) -> impl Future<Output = Result<Option<PurseFacts>, Fault>> + Send;

    /// Writes a step: the purse if it has still the revision before, what it changes in the allowance, and its entries,
    /// which are those of `step.entries` in their order, into ledger and journal.
    fn save_step(
        &self,
        account: AccountId,
        step: &Step,
        entries: &[Entry],
        now: Timestamp,
    ) -> impl Future<Output = Result<Stepped, Fault>> + Send;
}

/// What was loaded to change a purse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurseFacts {
    /// The credits.
    pub purse: Purse,
    /// What may be spent.
    pub allowance: Allowance,
    /// By which days begin.
    pub zone: Zone,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stepped {
    /// Written.
    Done,
    /// There is an entry for one of its causes already: nothing was written.
    Before,
    /// Something changed since it was decided: load and decide again.
    Moved,
}

/// A page of usage rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePage {
    /// The rows.
    pub rows: Vec<(UsageSlot, UsageSums)>,
    /// Give this as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}
