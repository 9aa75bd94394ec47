//! The price list: versions with the day from which each counts. A message keeps the version that it was priced with.

use jiff::Timestamp;

use super::{MicroCredits, UsageKind};
use crate::message::{Direction, Format};

/// Every price list there ever was, oldest first. A list is never changed once it was in use: a new one follows it.
pub const PRICE_LISTS: &[Prices] = &[FIRST];

const FIRST: Prices = Prices {
    version: "2026-11-01",
    sms_segment: MicroCredits::whole(1),
    mms: MicroCredits::whole(3),
    inbound: MicroCredits(0),
    call_minute: MicroCredits::whole(2),
    ai_reply: MicroCredits::whole(5),
};

/// What TelBuddy's own work costs; Twilio bills carriage to the customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// The UTC day from which it counts, as `2026-11-01`; names it.
    pub version: &'static str,
    /// One segment of an outgoing SMS.
    pub sms_segment: MicroCredits,
    /// One outgoing MMS.
    pub mms: MicroCredits,
    /// One segment of a text that arrives.
    pub inbound: MicroCredits,
    /// One begun minute of one leg of a call.
    pub call_minute: MicroCredits,
    /// One reply of the assistant.
    pub ai_reply: MicroCredits,
}

/// The list that counts at a time: the newest that is in force, or the first of all.
pub fn prices_at(now: Timestamp) -> &'static Prices {
    in_force(PRICE_LISTS, now)
}

fn in_force(lists: &'static [Prices], now: Timestamp) -> &'static Prices {
    let day = super::Granularity::utc_day(now);
    lists.iter().rev().find(|list| list.version <= day.as_str()).unwrap_or(&FIRST)
}

/// The list of a version.
pub fn prices_of(version: &str) -> Option<&'static Prices> {
    PRICE_LISTS.iter().find(|list| list.version == version)
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

    /// What `units` of a kind of work cost, as an entry names them. What failed costs nothing of its own.
    pub fn work(&self, kind: UsageKind, direction: Direction, format: Format, units: u32) -> MicroCredits {
        match kind {
            UsageKind::MessageSegments => self.message(direction, format, units),
            UsageKind::CallMinutes => self.call_minute.times(units),
            UsageKind::AiReplies => self.ai_reply.times(units),
            UsageKind::FailedMessages => MicroCredits(0),
        }
    }
}

/// Minutes that count of one leg of a call: each begun one.
pub fn minutes_of_leg(seconds: u32) -> u32 {
    seconds.div_ceil(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: &[Prices] = &[FIRST, Prices { version: "2027-01-01", sms_segment: MicroCredits::whole(2), ..FIRST }];

    #[test]
    fn the_newest_list_in_force_counts_from_the_first_moment_of_its_day() {
        let at = |text: &str| in_force(LATER, text.parse().unwrap()).version;
        assert_eq!(at("2026-12-31T23:59:59.999Z"), "2026-11-01");
        assert_eq!(at("2027-01-01T00:00:00Z"), "2027-01-01");
        assert_eq!(at("2020-01-01T00:00:00Z"), "2026-11-01", "before the first list the first counts");
        assert!(PRICE_LISTS.is_sorted_by(|a, b| a.version < b.version), "oldest first");
    }

    #[test]
    fn a_begun_minute_counts_as_a_whole_one() {
        assert_eq!([0, 1, 59, 60, 61, 3_600].map(minutes_of_leg), [0, 1, 1, 1, 2, 60]);
    }
}
