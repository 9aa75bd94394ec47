//! What the ledger asks of the world.

use jiff::Timestamp;

use super::{About, Allowance, Granularity, JournalItem, UsageSlot, UsageSums};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::message::Message;

/// Posts outcomes.
pub trait PostOutcome {
    /// Charges: the message is marked settled, the hold becomes use, the entry and the journal item are written, all in
    /// one transaction, with what endpoints are `told` of the message, and with the `failure` to be counted if it failed.
    fn post_charge(
        &self,
        message: &Message,
        item: JournalItem,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&JournalItem>,
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
        failure: Option<&JournalItem>,
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

/// Counts posted usage into rows.
pub trait RollUpUsage {
    /// Up to `limit` journal items of one shard that are not counted yet.
    fn load_journal(&self, shard: u8, limit: u8) -> impl Future<Output = Result<Vec<JournalItem>, Fault>> + Send;

    /// Adds the sums and removes the items in one transaction. `false` if some item was counted meanwhile: nothing was
    /// added, load again.
    fn count_journal(
        &self,
        items: &[JournalItem],
        sums: Vec<((AccountId, UsageSlot), UsageSums)>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Number of shards that journal items spread over.
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
}

/// A page of usage rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsagePage {
    /// The rows.
    pub rows: Vec<(UsageSlot, UsageSums)>,
    /// Give this as `after` for the next page; `None` at the end.
    pub next: Option<String>,
}
