//! Usage: billable facts, and the rows by hour, day and month that the roll-up adds them to.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

use super::{Change, Entry, Totals, Zone, month_of};
use crate::ids::{AccountId, MessageId};
use crate::message::{Direction, Format};
use crate::number::Country;

/// One billable fact, unique by account, Twilio SID and kind; or what corrects one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageEvent {
    /// The account.
    pub account: AccountId,
    /// Twilio's SID of the message or call.
    pub sid: String,
    /// Our message, of a message.
    pub message: Option<MessageId>,
    /// What kind of work.
    pub kind: UsageKind,
    /// Which way.
    pub direction: Direction,
    /// SMS or MMS, of a message.
    pub format: Format,
    /// The other party's country.
    pub country: Option<Country>,
    /// Segments, begun minutes or replies. A correction has the difference.
    pub units: i64,
    /// Their price. A correction has the difference.
    pub credits: Change,
    /// Version of the price list.
    pub price_version: String,
    /// When it was accepted or arrived: decides the period.
    pub at: Timestamp,
    /// That time's day in the account's time zone, as it was when it was posted.
    pub day: Date,
    /// Twilio's error code, of what failed.
    pub error: Option<u32>,
}

impl UsageEvent {
    /// The period that it belongs to.
    fn period(&self, granularity: Granularity) -> String {
        match granularity {
            Granularity::Hour => Granularity::utc_hour(self.at),
            Granularity::Day => self.day.to_string(),
            Granularity::Month => month_of(self.day),
        }
    }

    /// The row of a granularity that it is counted in.
    pub fn slot(&self, granularity: Granularity) -> UsageSlot {
        UsageSlot {
            granularity,
            period: self.period(granularity),
            kind: self.kind,
            direction: self.direction,
            country: self.country,
            error: self.error,
        }
    }
}

/// Kinds of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageKind {
    /// Segments of an SMS, or one MMS.
    MessageSegments,
    /// A message that Twilio refused, or that did not arrive. It costs nothing of its own: what was sent is counted, and
    /// charged, as segments.
    FailedMessages,
    /// Begun minutes of one leg of a call.
    CallMinutes,
    /// Replies of the assistant.
    AiReplies,
}

impl UsageKind {
    /// The word in keys and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageSegments => "message_segments",
            Self::FailedMessages => "failed_messages",
            Self::CallMinutes => "call_minutes",
            Self::AiReplies => "ai_replies",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 4] = [Self::MessageSegments, Self::FailedMessages, Self::CallMinutes, Self::AiReplies];

    /// Which rows it is counted in.
    pub fn about(self) -> About {
        match self {
            Self::MessageSegments | Self::CallMinutes | Self::AiReplies => About::Usage,
            Self::FailedMessages => About::Failures,
        }
    }
}

/// What rows are about: sums of what is paid must not have what failed among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum About {
    /// What was used.
    Usage,
    /// What failed, by error.
    Failures,
}

/// How long the periods of a usage row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// UTC hours.
    Hour,
    /// Days in the account's time zone.
    Day,
    /// Months in the account's time zone.
    Month,
}

impl Granularity {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    /// The word in keys and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The period that a time falls into: hours in UTC, days and months by the account's clock.
    pub fn period(self, at: Timestamp, zone: &Zone) -> String {
        match self {
            Self::Hour => Self::utc_hour(at),
            Self::Day => zone.day(at).to_string(),
            Self::Month => zone.month(at),
        }
    }

    /// Whether a text has the shape of its periods.
    pub fn fits(self, text: &str) -> bool {
        let shape = match self {
            Self::Hour => "0000-00-00T00",
            Self::Day => "0000-00-00",
            Self::Month => "0000-00",
        };
        let alike = |(given, wanted): (u8, u8)| if wanted == b'0' { given.is_ascii_digit() } else { given == wanted };
        text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(alike)
    }

    /// The hour of a time in UTC: `2026-11-24T06`. Sorts by time.
    pub fn utc_hour(at: Timestamp) -> String {
        let at = Offset::UTC.to_datetime(at);
        format!("{}T{:02}", at.date(), at.hour())
    }

    /// The day of a time in UTC: `2026-11-24`.
    pub fn utc_day(at: Timestamp) -> String {
        Offset::UTC.to_datetime(at).date().to_string()
    }
}

/// What a usage row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageSlot {
    /// Length of the period.
    pub granularity: Granularity,
    /// The period: `2026-11-24T06`, `2026-11-24` or `2026-11`.
    pub period: String,
    /// Kind of work.
    pub kind: UsageKind,
    /// Which way.
    pub direction: Direction,
    /// The other party's country.
    pub country: Option<Country>,
    /// Twilio's error code, of what failed.
    pub error: Option<u32>,
}

/// Sums of a usage row. They are signed, because a correction may be counted before what it corrects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSums {
    /// Usage events: messages, legs, replies.
    pub events: i64,
    /// Segments, minutes, replies.
    pub units: i64,
    /// Their price.
    pub credits: Change,
}

impl UsageSums {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            units: self.units.saturating_add(other.units),
            credits: self.credits.and(other.credits),
        }
    }
}

/// What journal entries add to which rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolledUp {
    /// Usage rows.
    pub usage: BTreeMap<(AccountId, UsageSlot), UsageSums>,
    /// A month's totals.
    pub totals: BTreeMap<(AccountId, String), Totals>,
}

impl RolledUp {
    /// How many rows they are.
    pub fn rows(&self) -> usize {
        self.usage.len() + self.totals.len()
    }
}

/// What a set of journal entries adds to which rows of which accounts.
pub fn roll_up(entries: &[Entry]) -> RolledUp {
    let mut rolled = RolledUp::default();
    for entry in entries {
        if let Some(event) = &entry.usage {
            for granularity in Granularity::ALL {
                let sums = rolled.usage.entry((event.account, event.slot(granularity))).or_default();
                *sums = sums.plus(entry.sums());
            }
        }
        if !entry.lines.is_empty() {
            rolled.totals.entry((entry.account, entry.month.clone())).or_default().add(entry);
        }
    }
    rolled
}
