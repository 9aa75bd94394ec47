//! A month's statement, the entries it sums up, and the check that the one follows from the other (promise N7).
//!
//! `docs/statement-export.md` specifies the format, so that others can do the same sum without this code.

use std::collections::BTreeMap;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Book, Change, Entry, Line, MicroCredits, Occasion, PRICE_LISTS, Prices, Totals, UsageEvent, UsageKind, Zone, mark,
};
use crate::ids::{AccountId, EntryId, MessageId};
use crate::message::{Direction, Format};
use crate::number::Country;

mod uncounted;
mod verify;

pub use verify::*;

/// What an export says first.
pub const EXPORT_FORMAT: &str = "telbuddy-statement-1";

/// How long after a month's end nothing is posted into it any more, and all of it is counted.
pub const CLOSES_AFTER: SignedDuration = SignedDuration::from_hours(48);

/// A statement and the entries that it sums up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// [`EXPORT_FORMAT`].
    pub format: String,
    /// The statement.
    pub statement: Statement,
    /// All of its entries.
    pub entries: Vec<ExportedEntry>,
}

/// A month's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Statement {
    /// The account.
    #[schema(value_type = String, example = "acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    pub account_id: AccountId,
    /// The month.
    #[schema(example = "2026-11")]
    pub month: String,
    /// By which the month begins and ends.
    #[schema(value_type = String, example = "Europe/Vienna")]
    pub time_zone: Zone,
    /// Whether it is final.
    pub state: StatementState,
    /// When it was read.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Timestamp,
    /// What to know about a statement that is not final; null if it is.
    pub note: Option<String>,
    /// What the books had before, in millionths of a credit; a book without any is left out.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub opening_micro: BTreeMap<Book, Change>,
    /// What the month's entries changed.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub movements_micro: BTreeMap<Book, Change>,
    /// Both together.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub closing_micro: BTreeMap<Book, Change>,
    /// How many entries are summed up.
    pub entries: u64,
    /// The sum of their marks, as a decimal number.
    #[schema(example = "41249308123987412983741298374")]
    pub digest: String,
    /// Units that were charged, after corrections: segments, begun minutes, replies.
    #[schema(value_type = BTreeMap<String, i64>)]
    pub used_units: BTreeMap<UsageKind, i64>,
    /// Credits that were left at the end, in millionths; what was reserved for messages on their way is among them.
    pub credits_left_micro: MicroCredits,
    /// What was owed at the end.
    pub owed_micro: MicroCredits,
    /// Every price list, the oldest first. Each charge names the version that it was priced by.
    pub price_lists: Vec<PriceList>,
}

/// Whether a statement is final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatementState {
    /// Entries may still come, and those of the last minutes may not be counted.
    Open,
    /// It stays as it is: two days after the month's end.
    Closed,
}

/// A price list, in millionths of a credit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PriceList {
    /// The UTC day from which it counts; names it.
    #[schema(example = "2026-11-01")]
    pub version: String,
    /// One segment of an outgoing SMS.
    pub sms_segment_micro: MicroCredits,
    /// One outgoing MMS.
    pub mms_micro: MicroCredits,
    /// One segment of a text that arrives.
    pub inbound_micro: MicroCredits,
    /// One begun minute of one leg of a call.
    pub call_minute_micro: MicroCredits,
    /// One reply of the assistant.
    pub ai_reply_micro: MicroCredits,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportedEntry {
    /// Names it; rises with the time of posting.
    #[schema(value_type = String, example = "ent_01KAV0ZB7N2R5S8T1V4W6X9Y0Z")]
    pub id: EntryId,
    /// Whose.
    #[schema(value_type = String, example = "acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    pub account_id: AccountId,
    /// Why.
    #[serde(flatten)]
    pub occasion: Occasion,
    /// When it was posted.
    #[schema(value_type = String, format = DateTime)]
    pub posted_at: Timestamp,
    /// The month of its statement.
    #[schema(example = "2026-11")]
    pub month: String,
    /// What moves where; the amounts sum to zero.
    pub lines: Vec<ExportedLine>,
    /// The work that it charges or corrects; null if it is about something else.
    pub usage: Option<ExportedUsage>,
    /// Stands for all of the above, as a decimal number: 12 bytes of a SHA-256.
    #[schema(example = "41249308123987412983741298374")]
    pub mark: String,
}

/// One line of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportedLine {
    /// The book.
    pub book: Book,
    /// By how much it changes, in millionths of a credit.
    pub amount_micro: Change,
}

/// Work that was charged, or what a correction changes about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExportedUsage {
    /// Twilio's SID of the message or call.
    pub sid: String,
    /// Our message, of a message.
    #[schema(value_type = Option<String>, example = "msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z")]
    pub message_id: Option<MessageId>,
    /// Kind of work.
    pub kind: UsageKind,
    /// Which way.
    pub direction: Direction,
    /// SMS or MMS, of a message.
    pub format: Format,
    /// The other party's country.
    #[schema(value_type = Option<String>, example = "US")]
    pub country: Option<Country>,
    /// Segments, begun minutes or replies; of a correction the difference.
    pub units: i64,
    /// Their price, in millionths of a credit; of a correction the difference.
    pub credits_micro: Change,
    /// Version of the price list.
    #[schema(example = "2026-11-01")]
    pub price_version: String,
    /// When it was accepted or arrived.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// That time's day in the account's time zone.
    #[schema(value_type = String, example = "2026-11-24")]
    pub day: Date,
}

impl From<&Prices> for PriceList {
    fn from(prices: &Prices) -> Self {
        Self {
            version: prices.version.to_owned(),
            sms_segment_micro: prices.sms_segment,
            mms_micro: prices.mms,
            inbound_micro: prices.inbound,
            call_minute_micro: prices.call_minute,
            ai_reply_micro: prices.ai_reply,
        }
    }
}

impl PriceList {
    /// The same as rules; its version is looked up apart.
    fn prices(&self) -> Prices {
        Prices {
            version: "",
            sms_segment: self.sms_segment_micro,
            mms: self.mms_micro,
            inbound: self.inbound_micro,
            call_minute: self.call_minute_micro,
            ai_reply: self.ai_reply_micro,
        }
    }
}

impl From<&Entry> for ExportedEntry {
    fn from(entry: &Entry) -> Self {
        let usage = entry.usage.as_ref().map(|event| ExportedUsage {
            sid: event.sid.clone(),
            message_id: event.message,
            kind: event.kind,
            direction: event.direction,
            format: event.format,
            country: event.country,
            units: event.units,
            credits_micro: event.credits,
            price_version: event.price_version.clone(),
            at: to_the_millisecond(event.at),
            day: event.day,
        });
        let line = |line: &Line| ExportedLine { book: line.book, amount_micro: line.amount };
        Self {
            id: entry.id,
            account_id: entry.account,
            occasion: entry.occasion.clone(),
            posted_at: to_the_millisecond(entry.posted),
            month: entry.month.clone(),
            lines: entry.lines.iter().map(line).collect(),
            usage,
            mark: mark(entry).to_string(),
        }
    }
}

/// As the ledger keeps times.
fn to_the_millisecond(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

impl ExportedEntry {
    /// The entry that it shows.
    pub fn entry(&self) -> Entry {
        let usage = self.usage.as_ref().map(|usage| UsageEvent {
            account: self.account_id,
            sid: usage.sid.clone(),
            message: usage.message_id,
            kind: usage.kind,
            direction: usage.direction,
            format: usage.format,
            country: usage.country,
            units: usage.units,
            credits: usage.credits_micro,
            price_version: usage.price_version.clone(),
            at: usage.at,
            day: usage.day,
            error: None,
        });
        let line = |line: &ExportedLine| Line { book: line.book, amount: line.amount_micro };
        Entry {
            id: self.id,
            account: self.account_id,
            occasion: self.occasion.clone(),
            lines: self.lines.iter().map(line).collect(),
            posted: self.posted_at,
            month: self.month.clone(),
            usage,
        }
    }
}

/// Whether a month's statement is final at a time.
pub fn state_of(month: Date, zone: &Zone, now: Timestamp) -> StatementState {
    let closes = zone.end(month.last_of_month()).and_then(|end| end.checked_add(CLOSES_AFTER).ok());
    if closes.is_some_and(|closes| closes < now) { StatementState::Closed } else { StatementState::Open }
}

/// The statement of a month, which begins with the day `month`, from the totals of all months.
pub fn statement(
    account: AccountId,
    month: Date,
    zone: &Zone,
    totals: &[(String, Totals)],
    now: Timestamp,
) -> Statement {
    let name = super::month_of(month);
    let mut before = Totals::default();
    for (_, earlier) in totals.iter().filter(|(month, _)| *month < name) {
        before.merge(earlier);
    }
    let found = totals.iter().find(|(month, _)| *month == name);
    let of = found.map(|(_, totals)| totals.clone()).unwrap_or_default();
    let mut closing = before.clone();
    closing.merge(&of);
    let balance = balance(&closing.books);
    let state = state_of(month, zone, now);
    let note =
        "not final: entries may still come, and those of the last minutes may be listed and not yet counted here";
    Statement {
        account_id: account,
        month: name,
        time_zone: zone.clone(),
        state,
        as_of: now,
        note: (state == StatementState::Open).then(|| note.to_owned()),
        opening_micro: before.books,
        movements_micro: of.books,
        closing_micro: closing.books,
        entries: of.entries,
        digest: of.digest.to_string(),
        used_units: of.units,
        credits_left_micro: balance.above(),
        owed_micro: balance.below(),
        price_lists: PRICE_LISTS.iter().map(PriceList::from).collect(),
    }
}

/// What the customer has: above zero it is left, below it is owed.
fn balance(books: &BTreeMap<Book, Change>) -> Change {
    let of = |book| books.get(&book).copied().unwrap_or_default();
    of(Book::Included).and(of(Book::Purchased)).and(of(Book::Clearing))
}

#[cfg(test)]
mod tests;
