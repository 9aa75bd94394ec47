//! Entries of the ledger, and a month's totals of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Change, UsageEvent, UsageKind, UsageSums, Zone};
use crate::ids::{AccountId, EntryId};

/// The books of one customer that entries move credits between. What the customer has is above zero in the first three,
/// and where it came from is below zero in `Issued`, `Sold` and `Billed`, so that all of them together are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Book {
    /// Credits of the plan or the trial.
    Included,
    /// Credits that were bought.
    Purchased,
    /// What was used and not yet taken from the included or purchased credits: zero or below. What these do not cover is
    /// owed.
    Clearing,
    /// Given with a plan or the trial.
    Issued,
    /// Bought.
    Sold,
    /// Used beyond all credit, by the customer's wish, and billed afterwards.
    Billed,
    /// Used for segments of messages.
    UsedMessageSegments,
    /// Used for minutes of calls.
    UsedCallMinutes,
    /// Used for replies of the assistant.
    UsedAiReplies,
    /// Ended unused.
    Expired,
    /// Put right by a person or by the comparison with Twilio.
    Adjustments,
    /// Taken back, because the payment was.
    Refunds,
}

impl Book {
    /// Every book.
    pub const ALL: [Self; 12] = [
        Self::Included,
        Self::Purchased,
        Self::Clearing,
        Self::Issued,
        Self::Sold,
        Self::Billed,
        Self::UsedMessageSegments,
        Self::UsedCallMinutes,
        Self::UsedAiReplies,
        Self::Expired,
        Self::Adjustments,
        Self::Refunds,
    ];

    /// The word in rows, exports and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Included => "included",
            Self::Purchased => "purchased",
            Self::Clearing => "clearing",
            Self::Issued => "issued",
            Self::Sold => "sold",
            Self::Billed => "billed",
            Self::UsedMessageSegments => "used_message_segments",
            Self::UsedCallMinutes => "used_call_minutes",
            Self::UsedAiReplies => "used_ai_replies",
            Self::Expired => "expired",
            Self::Adjustments => "adjustments",
            Self::Refunds => "refunds",
        }
    }

    /// Where a kind of usage is booked; `None`: what failed costs nothing of its own.
    pub fn of(kind: UsageKind) -> Option<Self> {
        match kind {
            UsageKind::MessageSegments => Some(Self::UsedMessageSegments),
            UsageKind::CallMinutes => Some(Self::UsedCallMinutes),
            UsageKind::AiReplies => Some(Self::UsedAiReplies),
            UsageKind::FailedMessages => None,
        }
    }
}

/// One line of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The book.
    pub book: Book,
    /// By how much it changes.
    pub amount: Change,
}

/// Why there is an entry: one of an account for each occasion, however often it is told (promise N5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "occasion", rename_all = "snake_case")]
pub enum Occasion {
    /// Work, by Twilio's SID and its kind.
    Usage {
        /// Twilio's SID.
        sid: String,
        /// Kind.
        kind: UsageKind,
    },
    /// Credits of a plan or the trial, or bought ones; by what they came with: `trial`, or Stripe's id of the invoice or
    /// the Checkout Session.
    Grant {
        /// What they came with.
        source: String,
    },
    /// What was used is taken from the credits.
    Draw {
        /// Counts the changes of the purse.
        revision: u32,
    },
    /// Credits that ended unused.
    Expiry {
        /// What they came with.
        source: String,
        /// Counts the changes of the purse: what was reserved at their end may end later.
        revision: u32,
    },
    /// A payment was taken back; by Stripe's id of the refund or dispute.
    ClawBack {
        /// Of what.
        by: String,
    },
    /// What was used beyond all credit is to be billed.
    Overage {
        /// Counts the changes of the purse.
        revision: u32,
    },
    /// Puts another entry right.
    Correction {
        /// What showed that it was wrong: the day that was compared, or a person's own mark.
        by: String,
        /// Twilio's SID.
        sid: String,
        /// Kind.
        kind: UsageKind,
    },
}

impl Occasion {
    /// What names it in keys: the same cause has the same word, and no other.
    pub fn word(&self) -> String {
        match self {
            Self::Usage { sid, kind } => format!("{sid}#{}", kind.as_str()),
            Self::Grant { source } => format!("GRANT#{source}"),
            Self::Draw { revision } => format!("DRAW#{revision}"),
            Self::Expiry { source, revision } => format!("EXPIRY#{source}#{revision}"),
            Self::ClawBack { by } => format!("CLAWBACK#{by}"),
            Self::Overage { revision } => format!("OVERAGE#{revision}"),
            Self::Correction { by, sid, kind } => format!("CORRECTION#{by}#{sid}#{}", kind.as_str()),
        }
    }
}

/// A posting: written once, never changed. Its lines sum to zero. Without lines it is not part of the ledger: something to
/// be counted that costs nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names it; rises with the time of posting.
    pub id: EntryId,
    /// Whose.
    pub account: AccountId,
    /// Why.
    pub occasion: Occasion,
    /// What moves where.
    pub lines: Vec<Line>,
    /// When it was posted.
    pub posted: Timestamp,
    /// The month of its statement, by the account's time zone: `2026-11`.
    pub month: String,
    /// The work that it charges or corrects.
    pub usage: Option<UsageEvent>,
}

impl Entry {
    /// Charges work.
    pub fn charge(id: EntryId, event: UsageEvent, posted: Timestamp, zone: &Zone) -> Self {
        let lines = Book::of(event.kind).map_or_else(Vec::new, |book| {
            vec![Line { book, amount: event.credits }, Line { book: Book::Clearing, amount: event.credits.back() }]
        });
        Self {
            id,
            account: event.account,
            occasion: Occasion::Usage { sid: event.sid.clone(), kind: event.kind },
            lines,
            posted,
            month: zone.month(posted),
            usage: Some(event),
        }
    }

    /// Counts a message that failed, once for each message.
    pub fn failure(id: EntryId, event: UsageEvent, posted: Timestamp, zone: &Zone) -> Self {
        // What Twilio refused has no SID.
        let sid = event.message.map_or_else(|| event.sid.clone(), |message| message.to_string());
        let occasion = Occasion::Usage { sid, kind: event.kind };
        Self { lines: Vec::new(), occasion, ..Self::charge(id, event, posted, zone) }
    }

    /// What it adds to usage rows. A correction changes what an event costs and how many units it has, not how many
    /// events there were.
    pub fn sums(&self) -> UsageSums {
        let Some(event) = &self.usage else { return UsageSums::default() };
        let events = i64::from(!matches!(self.occasion, Occasion::Correction { .. }));
        UsageSums { events, units: event.units, credits: event.credits }
    }

    /// What its lines change a book by.
    pub fn on(&self, book: Book) -> Change {
        self.lines.iter().filter(|line| line.book == book).fold(Change::ZERO, |sum, line| sum.and(line.amount))
    }

    /// Whether its lines sum to zero, exactly.
    pub fn balanced(&self) -> bool {
        self.lines.iter().map(|line| i128::from(line.amount.0)).sum::<i128>() == 0
    }
}

/// A month's sums by book, with the number of its entries and a digest of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sums; a book that did not change is left out.
    pub books: BTreeMap<Book, Change>,
    /// Segments, minutes and replies that were charged, after corrections; a kind without any is left out.
    pub units: BTreeMap<UsageKind, i64>,
    /// Entries.
    pub entries: u64,
    /// The sum of [`mark`] of each: the same in whatever order they are counted.
    pub digest: u128,
}

impl Totals {
    /// Whether they say the same; a book that sums to nothing is as good as none.
    pub fn same_as(&self, other: &Self) -> bool {
        let of = |totals: &Self, book: Book| totals.books.get(&book).copied().unwrap_or_default();
        let books = Book::ALL.into_iter().all(|book| of(self, book) == of(other, book));
        let units = |totals: &Self, kind: UsageKind| totals.units.get(&kind).copied().unwrap_or_default();
        let units = UsageKind::ALL.into_iter().all(|kind| units(self, kind) == units(other, kind));
        books && units && (self.entries, self.digest) == (other.entries, other.digest)
    }

    /// Both together.
    pub fn merge(&mut self, other: &Self) {
        for (book, amount) in &other.books {
            let sum = self.books.entry(*book).or_default();
            *sum = sum.and(*amount);
        }
        for (kind, units) in &other.units {
            self.charge(*kind, *units);
        }
        self.entries = self.entries.saturating_add(other.entries);
        self.digest = self.digest.saturating_add(other.digest);
    }

    /// Counts an entry.
    pub fn add(&mut self, entry: &Entry) {
        for line in &entry.lines {
            let sum = self.books.entry(line.book).or_default();
            *sum = sum.and(line.amount);
        }
        if let Some(event) = &entry.usage {
            self.charge(event.kind, event.units);
        }
        self.entries = self.entries.saturating_add(1);
        self.digest = self.digest.saturating_add(mark(entry));
    }

    fn charge(&mut self, kind: UsageKind, units: i64) {
        let sum = self.units.entry(kind).or_default();
        *sum = sum.saturating_add(units);
    }
}

/// A number that stands for all that an entry says: the first 12 bytes of the SHA-256 of its canonical text. A sum of a
/// thousand million of them still fits the 38 digits of DynamoDB's numbers.
pub fn mark(entry: &Entry) -> u128 {
    let hash = Sha256::digest(canonical(entry).as_bytes());
    hash.iter().take(12).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// An entry as one line of text, its parts separated by `|`, as `telbuddy statement verify` and everybody else who
/// recomputes a statement builds it (docs/statement-export.md). All that an export says of an entry is in it.
pub fn canonical(entry: &Entry) -> String {
    let mut parts = vec![
        "v1".to_owned(),
        entry.id.to_string(),
        entry.account.to_string(),
        entry.occasion.word(),
        entry.posted.as_millisecond().to_string(),
        entry.month.clone(),
    ];
    parts.extend(entry.lines.iter().map(|line| format!("{}={}", line.book.as_str(), line.amount.0)));
    if let Some(event) = &entry.usage {
        parts.extend([
            event.sid.clone(),
            event.message.map_or_else(|| "-".to_owned(), |message| message.to_string()),
            event.kind.as_str().to_owned(),
            event.direction.as_str().to_owned(),
            event.format.as_str().to_owned(),
            event.country.map_or_else(|| "-".to_owned(), |country| country.to_string()),
            event.units.to_string(),
            event.credits.0.to_string(),
            event.price_version.clone(),
            event.at.as_millisecond().to_string(),
            event.day.to_string(),
        ]);
    }
    parts.join("|")
}
