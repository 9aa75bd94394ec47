//! Credits and usage: prices, the allowance that a send reserves from, and how outcomes become usage (N7, N8).
//!
//! The ledger is double-entry: each [`Entry`] moves credits between [`Book`]s and its lines sum to zero. Entries are never
//! changed; what was wrong is put right by another entry that names it. A send does not write an entry when it reserves:
//! the `held` of its message is the reservation, and [`Allowance`] is the sum of all of them that one condition can check.
//! Everything here is a pure function, except for [`give_credits`] and its like, which decide and write until it holds.

mod balance;
mod entry;
pub mod export;
mod grouping;
mod keep;
mod port;
mod prices;
mod purse;
mod recount;
mod usage;
mod zone;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::message::{Message, Standing, Status};

pub use balance::*;
pub use entry::*;
pub use grouping::*;
pub use keep::*;
pub use port::*;
pub use prices::*;
pub use purse::*;
pub use recount::*;
pub use usage::*;
pub use zone::*;

/// Credits in millionths: an amount, never below zero.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct MicroCredits(pub u64);

impl MicroCredits {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `n` whole credits.
    pub const fn whole(n: u64) -> Self {
        Self(n * 1_000_000)
    }

    /// `n` times this; saturates, which only ever makes a hold larger and so refuses it.
    #[must_use]
    pub fn times(self, n: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(n)))
    }

    /// As a change upwards. What no account can have saturates, and then nothing sums to zero with it.
    pub fn plus(self) -> Change {
        Change(i64::try_from(self.0).unwrap_or(i64::MAX))
    }

    /// As a change downwards.
    pub fn minus(self) -> Change {
        Change(-self.plus().0)
    }
}

/// A change, or a balance that may be below zero, in millionths of a credit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Change(pub i64);

impl Change {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// What is above zero.
    pub fn above(self) -> MicroCredits {
        MicroCredits(u64::try_from(self.0).unwrap_or(0))
    }

    /// What is below zero, as an amount.
    pub fn below(self) -> MicroCredits {
        MicroCredits(if self.0 < 0 { self.0.unsigned_abs() } else { 0 })
    }

    /// The other way.
    #[must_use]
    pub fn back(self) -> Self {
        Self(self.0.saturating_neg())
    }

    /// Both together; saturates, far above what any account can have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// What an account may still spend, as stored; sends reserve from it, each with one condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// All credit that is neither used nor reserved. Below zero after something was charged that was not reserved, or
    /// taken back that was spent: then nothing is available, and the rest is owed.
    pub free: Change,
    /// Reserved for messages whose outcome is not posted yet.
    pub held: MicroCredits,
    /// Everything that was ever charged, after corrections.
    pub used: MicroCredits,
    /// The UTC day that `day_segments` counts, as `2026-11-24`.
    pub day: String,
    /// Segments accepted on that day.
    pub day_segments: u64,
    /// What may be used beyond all credit, to be billed afterwards; nothing unless the customer wished it.
    pub room: MicroCredits,
}

impl Allowance {
    /// The allowance of a new account.
    pub fn new(credit: MicroCredits, now: Timestamp) -> Self {
        Self {
            free: credit.plus(),
            held: MicroCredits(0),
            used: MicroCredits(0),
            day: Granularity::utc_day(now),
            day_segments: 0,
            room: MicroCredits::ZERO,
        }
    }

    /// Credit that is neither used nor reserved; never below zero.
    pub fn credit(&self) -> MicroCredits {
        self.free.above()
    }

    /// What new messages may reserve: credit, and what may be used beyond it. Never below zero.
    pub fn available(&self) -> MicroCredits {
        self.free.and(self.room.plus()).above()
    }

    /// What is owed: sending stops while it is above zero.
    pub fn owed(&self) -> MicroCredits {
        self.free.and(self.room.plus()).below()
    }

    /// What was used beyond all credit and not billed yet. What is only reserved is not used.
    pub fn beyond(&self) -> MicroCredits {
        self.free.and(self.held.plus()).below()
    }

    /// Takes a hold, and counts its segments on the day of `now`. Whoever calls has checked that it is covered.
    pub fn reserve(&mut self, hold: MicroCredits, segments: u64, now: Timestamp) {
        self.day_segments = self.segments_on(now) + segments;
        self.day = Granularity::utc_day(now);
        self.free = self.free.and(hold.minus());
        self.held.0 = self.held.0.saturating_add(hold.0);
    }

    /// Segments accepted on the day of `now`.
    pub fn segments_on(&self, now: Timestamp) -> u64 {
        if self.day == Granularity::utc_day(now) { self.day_segments } else { 0 }
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

/// Decides what becomes of a message's hold. `zone`: the account's, by which its days begin.
pub fn settle(message: &Message, zone: &Zone) -> Settlement {
    if message.settled {
        return Settlement::Done;
    }
    match (message.status.standing(), &message.sid) {
        (Standing::AtCarrier | Standing::Arrived, Some(sid)) => Settlement::Charge(UsageEvent {
            account: message.account,
            sid: sid.clone(),
            message: Some(message.id),
            kind: UsageKind::MessageSegments,
            direction: message.direction,
            format: message.format,
            country: message.country,
            units: i64::from(message.segments),
            credits: message.held.plus(),
            price_version: message.price_version.clone(),
            at: message.created,
            day: zone.day(message.created),
            error: None,
        }),
        (Standing::Over, _) => Settlement::Release,
        (Standing::Waiting | Standing::AtCarrier | Standing::Arrived, _) => Settlement::NotYet,
    }
}

/// What is to be counted as failed when a message is posted: Twilio refused it, or it is known already that it did not
/// arrive. What happens to it later is [`failure_by_change`]'s, so that each failure is counted once.
pub fn failure_at_posting(message: &Message, zone: &Zone) -> Option<UsageEvent> {
    let failed = matches!(message.status, Status::Rejected | Status::Undelivered | Status::Failed);
    failed.then(|| UsageEvent {
        account: message.account,
        sid: message.sid.clone().unwrap_or_default(),
        message: Some(message.id),
        kind: UsageKind::FailedMessages,
        direction: message.direction,
        format: message.format,
        country: message.country,
        units: i64::from(message.segments),
        credits: Change::ZERO,
        price_version: message.price_version.clone(),
        at: message.created,
        day: zone.day(message.created),
        error: message.error_code,
    })
}

/// What is to be counted as failed when the status of a message changes that was posted before. One of Twilio's words
/// for it after another does not make it fail twice.
pub fn failure_by_change(before: &Message, after: &Message, zone: &Zone) -> Option<UsageEvent> {
    let counted = failure_at_posting(before, zone).is_some();
    if before.settled && after.settled && !counted { failure_at_posting(after, zone) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AccountId, EntryId, MessageId};
    use crate::message::{Direction, Format};

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
            released: false,
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
        let periods = Granularity::ALL.map(|granularity| granularity.period(at, &Zone::default()));
        assert_eq!(periods, ["2026-11-24T22", "2026-11-24", "2026-11"]);
    }

    /// Whatever comes in which order, a failure is counted at the posting or at the change, once.
    #[test]
    fn a_message_fails_once_whether_it_is_known_at_its_posting_or_later() {
        let message = |status, settled| Message { status, settled, error_code: Some(30_003), ..outbound() };
        for failed in [Status::Undelivered, Status::Failed] {
            let at_posting = failure_at_posting(&message(failed, false), &Zone::default()).unwrap();
            assert_eq!((at_posting.error, at_posting.credits), (Some(30_003), Change::ZERO));
            // Not posted yet: the posting counts it.
            assert_eq!(
                failure_by_change(&message(Status::Sent, false), &message(failed, false), &Zone::default()),
                None
            );
            assert!(
                failure_by_change(&message(Status::Sent, true), &message(failed, true), &Zone::default()).is_some()
            );
            assert_eq!(
                failure_by_change(&message(Status::Undelivered, true), &message(failed, true), &Zone::default()),
                None,
                "twice"
            );
        }
        assert!(failure_at_posting(&message(Status::Rejected, false), &Zone::default()).is_some());
        for fine in [Status::Sent, Status::Delivered, Status::Refused, Status::Expired, Status::Canceled] {
            assert_eq!(failure_at_posting(&message(fine, false), &Zone::default()), None, "{fine:?}");
            assert_eq!(
                failure_by_change(&message(Status::Sent, true), &message(fine, true), &Zone::default()),
                None,
                "{fine:?}"
            );
        }
    }

    #[test]
    fn each_event_counts_once_in_each_length_of_period_and_in_the_months_totals() {
        let zone = Zone::parse("America/New_York").unwrap();
        let at: Timestamp = "2026-12-01T03:00:00Z".parse().unwrap();
        let message = Message { segments: 2, held: MicroCredits::whole(2), created: at, ..outbound() };
        let Settlement::Charge(event) = settle(&message, &zone) else { panic!("not charged") };
        let later: Timestamp = "2026-12-01T06:00:00Z".parse().unwrap();
        let charge = |n, event: &UsageEvent, posted| Entry::charge(EntryId::from_bits(n), event.clone(), posted, &zone);
        let next_day = UsageEvent { day: zone.day(later), at: later, ..event.clone() };
        let entries = [charge(0, &event, at), charge(1, &event, at), charge(2, &next_day, later)];
        let rolled = roll_up(&entries);
        let units: Vec<_> =
            rolled.usage.iter().map(|((_, slot), sums)| (slot.period.as_str(), sums.events, sums.units)).collect();
        assert_eq!(
            units,
            [
                ("2026-12-01T03", 2, 4),
                ("2026-12-01T06", 1, 2),
                ("2026-11-30", 2, 4),
                ("2026-12-01", 1, 2),
                ("2026-11", 2, 4),
                ("2026-12", 1, 2),
            ]
        );
        let totals: Vec<_> =
            rolled.totals.iter().map(|((_, month), totals)| (month.as_str(), totals.entries)).collect();
        assert_eq!(totals, [("2026-11", 2), ("2026-12", 1)]);
        let november = &rolled.totals[&(event.account, "2026-11".to_owned())];
        let of = |book| november.books.get(&book).copied();
        assert_eq!(of(Book::UsedMessageSegments), Some(MicroCredits::whole(4).plus()));
        assert_eq!(of(Book::Clearing), Some(MicroCredits::whole(4).minus()));
    }

    /// Whatever is counted together, in whatever order, the sums are the same.
    #[test]
    fn a_digest_is_the_same_in_each_order_and_another_for_each_change_of_an_entry() {
        let Settlement::Charge(event) = settle(&outbound(), &Zone::default()) else { panic!("not charged") };
        let entry = |n: u128, credits| {
            let event = UsageEvent { credits: Change(credits), ..event.clone() };
            Entry::charge(EntryId::from_bits(n), event, Timestamp::UNIX_EPOCH, &Zone::default())
        };
        let sum = |entries: &[Entry]| {
            let mut totals = Totals::default();
            for entry in entries {
                totals.add(entry);
            }
            totals
        };
        let (a, b) = (entry(1, 5), entry(2, 7));
        assert_eq!(sum(&[a.clone(), b.clone()]), sum(&[b.clone(), a.clone()]));
        let mut merged = sum(std::slice::from_ref(&a));
        merged.merge(&sum(std::slice::from_ref(&b)));
        assert_eq!(merged, sum(&[a.clone(), b]));
        // The same sums with one and eleven: only the digest tells.
        let (c, d) = (entry(1, 6), entry(2, 6));
        let (left, right) = (sum(&[a, entry(2, 7)]), sum(&[c, d]));
        assert_eq!(left.books, right.books);
        assert_ne!(left.digest, right.digest);
    }
}
