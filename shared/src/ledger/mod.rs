//! Credits and usage: prices, the allowance that a send reserves from, and how outcomes become usage (N7, N8).

mod port;

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, EntryId, MessageId};
use crate::message::{Direction, Format, Message, Standing, Status};
use crate::number::Country;

pub use port::*;

/// Credits in millionths. Never below zero: what cannot be taken is an error of the rules, not a negative balance.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct MicroCredits(pub u64);

impl MicroCredits {
    /// `n` whole credits.
    pub const fn whole(n: u64) -> Self {
        Self(n * 1_000_000)
    }

    /// `n` times this; saturates, which only ever makes a hold larger and so refuses it.
    #[must_use]
    pub fn times(self, n: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(n)))
    }
}

/// Credit of a new account, until plans come: 100 credits.
pub const TRIAL_CREDIT: MicroCredits = MicroCredits::whole(100);

/// The price list that counts now. A message keeps the version that it was priced with.
pub const PRICES: Prices = Prices {
    version: "2026-11-01",
    sms_segment: MicroCredits::whole(1),
    mms: MicroCredits::whole(3),
    inbound: MicroCredits(0),
};

/// What TelBuddy's own work costs; Twilio bills carriage to the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// The day that it took effect.
    pub version: &'static str,
    /// One segment of an outgoing SMS.
    pub sms_segment: MicroCredits,
    /// One outgoing MMS.
    pub mms: MicroCredits,
    /// One segment of a text that arrives.
    pub inbound: MicroCredits,
}

impl Prices {
    /// The price of one message.
    pub fn message(&self, direction: Direction, format: Format, segments: u32) -> MicroCredits {
        match (direction, format) {
            (Direction::Outbound, Format::Sms) => self.sms_segment.times(segments),
            (Direction::Outbound, Format::Mms) => self.mms,
            (Direction::Inbound, Format::Sms | Format::Mms) => self.inbound.times(segments),
        }
    }
}

/// What an account may still spend, as stored; sends reserve from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Free to reserve.
    pub available: MicroCredits,
    /// Reserved for messages whose outcome is not posted yet.
    pub held: MicroCredits,
    /// Spent.
    pub used: MicroCredits,
    /// The UTC day that `day_segments` counts, as `2026-11-24`.
    pub day: String,
    /// Segments accepted on that day.
    pub day_segments: u64,
}

impl Allowance {
    /// The allowance of a new account.
    pub fn new(credit: MicroCredits, now: Timestamp) -> Self {
        Self {
            available: credit,
            held: MicroCredits(0),
            used: MicroCredits(0),
            day: Granularity::Day.period(now),
            day_segments: 0,
        }
    }

    /// Takes a hold, and counts its segments on the day of `now`. Whoever calls has checked that it is covered.
    pub fn reserve(&mut self, hold: MicroCredits, segments: u64, now: Timestamp) {
        self.day_segments = self.segments_on(now) + segments;
        self.day = Granularity::Day.period(now);
        self.available.0 = self.available.0.saturating_sub(hold.0);
        self.held.0 = self.held.0.saturating_add(hold.0);
    }

    /// Segments accepted on the day of `now`.
    pub fn segments_on(&self, now: Timestamp) -> u64 {
        if self.day == Granularity::Day.period(now) { self.day_segments } else { 0 }
    }
}

/// What to do with a message's hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Twilio took it: charge, and record the usage.
    Charge(UsageEvent),
    /// It will never be sent: give the hold back.
    Release,
    /// It is not decided yet.
    NotYet,
    /// It was settled before.
    Done,
}

/// One billable fact, unique by account, Twilio SID and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageEvent {
    /// The account.
    pub account: AccountId,
    /// Twilio's SID of the message.
    pub sid: String,
    /// Our message.
    pub message: MessageId,
    /// What kind of work.
    pub kind: UsageKind,
    /// Which way.
    pub direction: Direction,
    /// The other party's country.
    pub country: Option<Country>,
    /// Segments.
    pub units: u32,
    /// The price.
    pub credits: MicroCredits,
    /// Version of the price list.
    pub price_version: String,
    /// When Twilio took it or it arrived: decides the period.
    pub at: Timestamp,
    /// Twilio's error code, of what failed.
    pub error: Option<u32>,
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
}

impl UsageKind {
    /// The word in keys and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageSegments => "message_segments",
            Self::FailedMessages => "failed_messages",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 2] = [Self::MessageSegments, Self::FailedMessages];

    /// Which rows it is counted in.
    pub fn about(self) -> About {
        match self {
            Self::MessageSegments => About::Usage,
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

/// What is to be counted as failed when a message is posted: Twilio refused it, or it is known already that it did not
/// arrive. What happens to it later is [`failure_by_change`]'s, so that each failure is counted once.
pub fn failure_at_posting(message: &Message) -> Option<UsageEvent> {
    let failed = matches!(message.status, Status::Rejected | Status::Undelivered | Status::Failed);
    failed.then(|| UsageEvent {
        account: message.account,
        sid: message.sid.clone().unwrap_or_default(),
        message: message.id,
        kind: UsageKind::FailedMessages,
        direction: message.direction,
        country: message.country,
        units: message.segments,
        credits: MicroCredits(0),
        price_version: message.price_version.clone(),
        at: message.created,
        error: message.error_code,
    })
}

/// What is to be counted as failed when the status of a message changes that was posted before. One of Twilio's words
/// for it after another does not make it fail twice.
pub fn failure_by_change(before: &Message, after: &Message) -> Option<UsageEvent> {
    let counted = failure_at_posting(before).is_some();
    if before.settled && !counted { failure_at_posting(after) } else { None }
}

/// Decides what becomes of a message's hold.
pub fn settle(message: &Message) -> Settlement {
    if message.settled {
        return Settlement::Done;
    }
    match (message.status.standing(), &message.sid) {
        (Standing::AtCarrier | Standing::Arrived, Some(sid)) => Settlement::Charge(UsageEvent {
            account: message.account,
            sid: sid.clone(),
            message: message.id,
            kind: UsageKind::MessageSegments,
            direction: message.direction,
            country: message.country,
            units: message.segments,
            credits: message.held,
            price_version: message.price_version.clone(),
            at: message.created,
            error: None,
        }),
        (Standing::Over, _) => Settlement::Release,
        (Standing::Waiting | Standing::AtCarrier | Standing::Arrived, _) => Settlement::NotYet,
    }
}

/// A posted usage event that the roll-up has not counted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalItem {
    /// Names the item; the entry has the same id.
    pub id: EntryId,
    /// What was posted.
    pub event: UsageEvent,
}

/// How long the periods of a usage row are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Granularity {
    /// Hours.
    Hour,
    /// UTC days.
    Day,
    /// UTC months.
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

    /// The period that `at` falls into, in UTC: `2026-11-24T06`, `2026-11-24`, `2026-11`. Sorts by time.
    pub fn period(self, at: Timestamp) -> String {
        let at = Offset::UTC.to_datetime(at);
        match self {
            Self::Hour => format!("{}T{:02}", at.date(), at.hour()),
            Self::Day => at.date().to_string(),
            Self::Month => format!("{:04}-{:02}", at.year(), at.month()),
        }
    }
}

/// What a usage row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageSlot {
    /// Length of the period.
    pub granularity: Granularity,
    /// The period.
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

/// Sums of a usage row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSums {
    /// Usage events: messages.
    pub events: u64,
    /// Segments.
    pub units: u64,
    /// Credits.
    pub credits: MicroCredits,
}

impl UsageSums {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_add(other.events),
            units: self.units.saturating_add(other.units),
            credits: MicroCredits(self.credits.0.saturating_add(other.credits.0)),
        }
    }
}

/// What a set of journal items adds to which rows of which accounts.
pub fn roll_up(items: &[JournalItem]) -> std::collections::BTreeMap<(AccountId, UsageSlot), UsageSums> {
    let mut rows = std::collections::BTreeMap::new();
    for JournalItem { event, .. } in items {
        for granularity in Granularity::ALL {
            let slot = UsageSlot {
                granularity,
                period: granularity.period(event.at),
                kind: event.kind,
                direction: event.direction,
                country: event.country,
                error: event.error,
            };
            let sums: &mut UsageSums = rows.entry((event.account, slot)).or_default();
            *sums = sums.plus(UsageSums { events: 1, units: u64::from(event.units), credits: event.credits });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbound() -> Message {
        Message {
            id: MessageId::from_bits(1),
            account: AccountId::from_bits(1),
            direction: Direction::Outbound,
            format: Format::Sms,
            status: Status::Sent,
            revision: 0,
            sid: Some("SM1".to_owned()),
            own: "+15005550006".to_owned(),
            other_hash: "hash".to_owned(),
            country: None,
            segments: 1,
            encoding: None,
            held: MicroCredits::whole(1),
            price_version: "v".to_owned(),
            error_code: None,
            reason: None,
            attempts: 1,
            settled: false,
            settling: None,
            created: Timestamp::UNIX_EPOCH,
            held_until: None,
            valid_until: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn periods_are_utc_and_sort_by_time() {
        let at: Timestamp = "2026-11-24T23:59:59.999+01:00".parse().unwrap();
        let periods = Granularity::ALL.map(|granularity| granularity.period(at));
        assert_eq!(periods, ["2026-11-24T22", "2026-11-24", "2026-11"]);
    }

    /// Whatever comes in which order, a failure is counted at the posting or at the change, once.
    #[test]
    fn a_message_fails_once_whether_it_is_known_at_its_posting_or_later() {
        let message = |status, settled| Message { status, settled, error_code: Some(30_003), ..outbound() };
        for failed in [Status::Undelivered, Status::Failed] {
            let at_posting = failure_at_posting(&message(failed, false)).unwrap();
            assert_eq!((at_posting.error, at_posting.credits), (Some(30_003), MicroCredits(0)));
            // Not posted yet: the posting counts it.
            assert_eq!(failure_by_change(&message(Status::Sent, false), &message(failed, false)), None);
            assert!(failure_by_change(&message(Status::Sent, true), &message(failed, true)).is_some());
            assert_eq!(failure_by_change(&message(Status::Undelivered, true), &message(failed, true)), None, "twice");
        }
        assert!(failure_at_posting(&message(Status::Rejected, false)).is_some());
        for fine in [Status::Sent, Status::Delivered, Status::Refused, Status::Expired, Status::Canceled] {
            assert_eq!(failure_at_posting(&message(fine, false)), None, "{fine:?}");
            assert_eq!(failure_by_change(&message(Status::Sent, true), &message(fine, true)), None, "{fine:?}");
        }
    }

    #[test]
    fn each_event_counts_once_in_each_length_of_period() {
        let event = UsageEvent {
            account: AccountId::from_bits(1),
            sid: "SM1".to_owned(),
            message: MessageId::from_bits(1),
            kind: UsageKind::MessageSegments,
            direction: Direction::Outbound,
            country: None,
            units: 2,
            credits: MicroCredits::whole(2),
            price_version: "v".to_owned(),
            at: Timestamp::UNIX_EPOCH,
            error: None,
        };
        let later = UsageEvent { at: "1970-01-02T00:00:00Z".parse().unwrap(), ..event.clone() };
        let items = [event.clone(), event, later].map(|event| JournalItem { id: EntryId::from_bits(0), event });
        let rows = roll_up(&items);
        let units: Vec<_> =
            rows.iter().map(|((_, slot), sums)| (slot.period.as_str(), sums.events, sums.units)).collect();
        assert_eq!(
            units,
            [
                ("1970-01-01T00", 2, 4),
                ("1970-01-02T00", 1, 2),
                ("1970-01-01", 2, 4),
                ("1970-01-02", 1, 2),
                ("1970-01", 3, 6)
            ]
        );
    }
}
