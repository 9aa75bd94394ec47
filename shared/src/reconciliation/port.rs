//! What reconciliation asks of the world.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;

use super::{AtTwilio, CarrierUsage, Course, Difference, Report};
use crate::connection::{PageMark, Trouble};
use crate::credential::Carrier;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::ledger::{Entry, UsageEvent};
use crate::message::Message;

/// Reads what Twilio has of a day.
pub trait ReadDay {
    /// 1 GET: a page of what was sent or arrived on a UTC day.
    fn list_day(
        &self,
        carrier: &Carrier,
        day: Date,
        limit: u16,
        from: Option<&PageMark>,
    ) -> impl Future<Output = Result<DayPage, Trouble>> + Send;

    /// 1 GET: one message; `None`: Twilio does not have it.
    fn look_up(&self, carrier: &Carrier, sid: &str) -> impl Future<Output = Result<Option<AtTwilio>, Trouble>> + Send;

    /// 1 GET: what the usage records say of a UTC day and one category, without subaccounts.
    fn read_record(
        &self,
        carrier: &Carrier,
        day: Date,
        category: &str,
    ) -> impl Future<Output = Result<CarrierUsage, Trouble>> + Send;
}

/// A page of a day's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DayPage {
    /// Messages.
    pub messages: Vec<AtTwilio>,
    /// Where the next page begins.
    pub next: Option<PageMark>,
}

/// Reads what was charged.
pub trait ReadCharges {
    /// The charges of these SIDs, in no order; what was not charged is left out.
    fn load_charges(
        &self,
        account: AccountId,
        sids: Vec<String>,
    ) -> impl Future<Output = Result<Vec<UsageEvent>, Fault>> + Send;

    /// An account's messages with `after < id <= to`, oldest first.
    fn list_made(
        &self,
        account: AccountId,
        after: MessageId,
        to: MessageId,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Message>, Fault>> + Send;
}

/// Keeps which day an account has next, in the row of its routine.
pub trait KeepCourse {
    /// `None` if nothing is connected.
    fn load_course(&self, account: AccountId) -> impl Future<Output = Result<Option<Course>, Fault>> + Send;

    /// Moves on to the day after, with its time; `false` if it is another's turn or another connection meanwhile.
    fn save_course(
        &self,
        account: AccountId,
        before: &Course,
        due: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Keeps a comparison while it is under way.
pub trait KeepComparison {
    /// Notes which SIDs a page of Twilio's list had; the same page again replaces it. They end by themselves.
    fn keep_seen(
        &self,
        account: AccountId,
        day: Date,
        page: u32,
        sids: &[String],
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Every SID that was noted.
    fn load_seen(&self, account: AccountId, day: Date) -> impl Future<Output = Result<BTreeSet<String>, Fault>> + Send;

    /// Notes differences that were found in an attempt; the same again changes nothing.
    fn keep_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        differences: &[Difference],
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Writes a report if its row still has the revision before, or if there is none; `false` if another write came
    /// between.
    fn save_report(&self, account: AccountId, report: &Report) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads reports.
pub trait ReadReports {
    /// One day's.
    fn load_report(&self, account: AccountId, day: Date) -> impl Future<Output = Result<Option<Report>, Fault>> + Send;

    /// Newest day first, of days before `before`.
    fn list_reports(
        &self,
        account: AccountId,
        before: Option<Date>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Report>, Fault>> + Send;

    /// A day's differences of an attempt by SID, after the SID `after`.
    fn list_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        after: Option<&str>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Difference>, Fault>> + Send;
}

/// Posts corrections.
pub trait PostCorrection {
    /// One transaction: the entry, its place in the journal, and what it changes in the allowance. `false` if there is one
    /// for its cause already: nothing was written.
    fn post_correction(&self, entry: &Entry) -> impl Future<Output = Result<bool, Fault>> + Send;
}
