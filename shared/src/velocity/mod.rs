//! Velocity: how an attack looks from where messages are handed over, and what is counted to see it (promise N8).
//!
//! Counted before Twilio is called: a batch that meets a limit hands nothing over, so what gets out within a minute is
//! at most the limit, however many batches run at the same time (docs/decisions/0016).

mod port;

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account::FreezeReason;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::message::Message;
use crate::number::E164;
use crate::seal::DataKey;

pub use port::*;

/// Different numbers of one hundred (those that differ in the last two digits only) that may be sent to in a minute.
/// Pumping walks through a range that somebody is paid for and fills hundreds; customers are scattered: 200 messages a
/// second into 10 million numbers put 30 into one hundred less often than once in 10^20 minutes. A company that texts
/// its own row of extensions can meet it; so it is not lower. It does not rise with the ceiling, because the size of an
/// account says nothing about how its recipients lie.
pub const MOST_NEIGHBOURS: usize = 29;

/// Messages that may go to one prefix (10,000 numbers) in a minute, at least. A campaign at one message a second cannot
/// reach it even if all of its recipients share a prefix, as in a small town.
pub const LEAST_PER_PREFIX: usize = 100;

/// One message a minute may go to one prefix for each so many segments of the daily ceiling, if that is more. An account
/// that sends 200 messages a second into one city of a few thousand prefixes puts less than 20 into the busiest.
pub const CEILING_PER_PREFIX: u64 = 1_000;

/// Messages that an account may send in a minute, at least: one full batch of `POST /v1/messages`.
pub const LEAST_PER_MINUTE: u64 = 1_000;

/// An account may send this part of its daily ceiling in a minute. A campaign that uses up the day in a few minutes is
/// fine; what burns half of it within one is stopped while there is something left.
pub const CEILING_PER_MINUTE: u64 = 2;

/// How long counters are kept, in seconds: 24 hours, to look at them after a freeze.
pub const COUNTERS_LIFE_SECS: i64 = 24 * 3_600;

/// What an account may hand over in one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages in all.
    pub account: u64,
    /// Messages to one prefix.
    pub prefix: usize,
    /// Different numbers of one hundred.
    pub neighbours: usize,
}

impl Limits {
    /// The limits of an account with this daily ceiling.
    pub fn of(daily_ceiling: u64) -> Self {
        let by_ceiling = usize::try_from(daily_ceiling / CEILING_PER_PREFIX).unwrap_or(usize::MAX);
        Self {
            account: (daily_ceiling / CEILING_PER_MINUTE).max(LEAST_PER_MINUTE),
            prefix: by_ceiling.max(LEAST_PER_PREFIX),
            neighbours: MOST_NEIGHBOURS,
        }
    }

    /// What one prefix's minute looks like; pumping is named first, since it says more.
    pub fn of_prefix(&self, marks: &BTreeSet<Mark>) -> Option<FreezeReason> {
        if busiest_hundred(marks) > self.neighbours {
            return Some(FreezeReason::Pumping);
        }
        (marks.len() > self.prefix).then_some(FreezeReason::Velocity)
    }

    /// What the account's minute looks like.
    pub fn of_account(&self, messages: u64) -> Option<FreezeReason> {
        (messages > self.account).then_some(FreezeReason::Velocity)
    }
}

/// How many different numbers the busiest hundred has.
fn busiest_hundred(marks: &BTreeSet<Mark>) -> usize {
    let mut hundreds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for mark in marks {
        let (hundred, number) = mark.parts();
        hundreds.entry(hundred).or_default().insert(number);
    }
    hundreds.values().map(BTreeSet::len).max().unwrap_or(0)
}

/// A minute of an account, which its counters are of. Lifting a freeze begins counting anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Minute {
    /// Whose.
    pub account: AccountId,
    /// When counting began.
    pub counts_from: Timestamp,
    /// Minutes since 1970.
    pub minute: i64,
}

impl Minute {
    /// The minute of `now`.
    pub fn of(account: AccountId, counts_from: Timestamp, now: Timestamp) -> Self {
        Self { account, counts_from, minute: now.as_second().div_euclid(60) }
    }
}

const HUNDRED_LEN: usize = 6;
const NUMBER_LEN: usize = 8;
const MESSAGE_LEN: usize = 10;

/// One message in a prefix's minute: the beginnings of two keyed hashes, of the number's hundred and of the number, and
/// the end of our message id. Counting the same message twice counts it once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(String);

impl Mark {
    fn parts(&self) -> (&str, &str) {
        let (hundred, rest) = self.0.split_at_checked(HUNDRED_LEN).unwrap_or((&self.0, ""));
        (hundred, rest.get(..NUMBER_LEN).unwrap_or(rest))
    }

    /// A mark as it was stored.
    pub fn stored(text: String) -> Self {
        Self(text)
    }

    /// The text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message that is about to be handed over, as it is counted: nothing of it can be read without the account's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passing {
    /// Keyed hash of the number's prefix.
    pub prefix: String,
    /// What is noted of it there.
    pub mark: Mark,
}

impl Passing {
    /// How this message to `to` is counted.
    pub fn of(match_key: &DataKey, message: &Message, to: &E164) -> Self {
        let hundred = match_key.keyed_hash("hundred", to.hundred());
        let number = match_key.keyed_hash("neighbour", to.as_str());
        let id = message.id.to_string();
        let start = |text: &str, len| text.get(..len).unwrap_or_default().to_owned();
        let end = id.get(id.len().saturating_sub(MESSAGE_LEN)..).unwrap_or_default();
        Self {
            prefix: match_key.keyed_hash("prefix", to.prefix()),
            mark: Mark(start(&hundred, HUNDRED_LEN) + &start(&number, NUMBER_LEN) + end),
        }
    }
}

/// Counts what an account is about to hand over in one batch: `Some` if it is an attack by its looks, and then nothing
/// of it may go.
///
/// Calls: 1 for each prefix, at the same time, and then 1 for the account. In this order a failure counts nothing
/// twice: a prefix knows its messages, and the account is counted last.
pub async fn count_batch<W: CountPassing + Sync>(
    world: &W,
    minute: Minute,
    limits: Limits,
    passing: &[&Passing],
) -> Result<Option<FreezeReason>, Fault> {
    let mut by_prefix: BTreeMap<&str, BTreeSet<Mark>> = BTreeMap::new();
    for one in passing {
        by_prefix.entry(&one.prefix).or_default().insert(one.mark.clone());
    }
    let prefixes = by_prefix.iter().map(|(prefix, marks)| world.count_prefix(minute, prefix, marks));
    let seen = join_all(prefixes).await.into_iter().collect::<Result<Vec<_>, Fault>>()?;
    if let Some(reason) = seen.iter().filter_map(|marks| limits.of_prefix(marks)).min() {
        return Ok(Some(reason));
    }
    let n_messages = u64::try_from(passing.len()).unwrap_or(u64::MAX);
    Ok(limits.of_account(world.count_account(minute, n_messages).await?))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::ids::MessageId;
    use crate::seal::Purpose;

    /// Counters in memory; chance by a fixed sequence, so that every run sees the same numbers.
    struct Campaign {
        key: DataKey,
        limits: Limits,
        sent: u64,
        state: u64,
        account: u64,
        prefixes: BTreeMap<String, BTreeSet<Mark>>,
    }

    impl Campaign {
        fn new(daily_ceiling: u64) -> Self {
            let account = AccountId::from_bits(1);
            let key = DataKey::new(account, Purpose::Match, 1, Zeroizing::new([1; 32]));
            let limits = Limits::of(daily_ceiling);
            Self { key, limits, sent: 0, state: 1, account: 0, prefixes: BTreeMap::new() }
        }

        /// Knuth's linear congruential generator; the upper bits are good enough to scatter recipients.
        fn below(&mut self, most: u64) -> u64 {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.state >> 33) % most
        }

        fn minute_is_over(&mut self) {
            self.account = 0;
            self.prefixes.clear();
        }

        /// One message is counted; whether it would freeze the account.
        fn send(&mut self, to: &str) -> Option<FreezeReason> {
            self.sent += 1;
            let message = message(self.sent);
            let passing = Passing::of(&self.key, &message, &E164::from_network(to).unwrap());
            let marks = self.prefixes.entry(passing.prefix).or_default();
            marks.insert(passing.mark);
            let of_prefix = self.limits.of_prefix(marks);
            self.account += 1;
            of_prefix.or(self.limits.of_account(self.account))
        }
    }

    fn message(n: u64) -> Message {
        use crate::ledger::MicroCredits;
        use crate::message::{Direction, Format, Status};
        Message {
            id: MessageId::from_bits(u128::from(n)),
            account: AccountId::from_bits(1),
            direction: Direction::Outbound,
            format: Format::Sms,
            status: Status::Dispatching,
            revision: 1,
            sid: None,
            own: String::new(),
            other_hash: String::new(),
            country: None,
            segments: 1,
            encoding: None,
            held: MicroCredits(0),
            price_version: String::new(),
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

    /// How many messages go before the first that freezes, and why.
    fn until_frozen(daily_ceiling: u64, numbers: impl Iterator<Item = String>) -> Option<(usize, FreezeReason)> {
        let mut campaign = Campaign::new(daily_ceiling);
        numbers.enumerate().find_map(|(n, to)| campaign.send(&to).map(|reason| (n, reason)))
    }

    #[test]
    fn sequential_numbers_are_pumping_after_29_whatever_the_ceiling() {
        for ceiling in [1, Campaign::new(500).limits.account, 1_000_000] {
            let numbers = (0..500).map(|n| format!("+1415555{n:04}"));
            assert_eq!(until_frozen(ceiling, numbers), Some((29, FreezeReason::Pumping)));
        }
        // Every third number, and in any order.
        let scattered = (0..500).map(|n| format!("+9234512{:05}", n * 7_919 % 33 * 3));
        assert_eq!(until_frozen(500, scattered), Some((29, FreezeReason::Pumping)));
    }

    #[test]
    fn one_prefix_at_random_is_velocity_after_100() {
        let mut campaign = Campaign::new(500);
        let frozen = (0..).find_map(|n| {
            let last = campaign.below(10_000);
            campaign.send(&format!("+1415555{last:04}")).map(|reason| (n, reason))
        });
        assert_eq!(frozen, Some((100, FreezeReason::Velocity)));
    }

    #[test]
    fn one_number_over_and_over_is_velocity_and_not_pumping() {
        let numbers = std::iter::repeat_n("+14155552671".to_owned(), 500);
        assert_eq!(until_frozen(500, numbers), Some((100, FreezeReason::Velocity)));
    }

    #[test]
    fn the_account_in_all_is_limited_by_its_ceiling() {
        let spread = || (0..).map(|n: u64| format!("+1{:010}", 2_000_000_000 + n * 10_007));
        assert_eq!(until_frozen(500, spread()), Some((1_000, FreezeReason::Velocity)));
        assert_eq!(until_frozen(10_000, spread()), Some((5_000, FreezeReason::Velocity)));
    }

    #[test]
    fn a_thousand_recipients_of_one_country_at_one_a_second_freeze_nothing() {
        // Of all mobile numbers of a small country, of one area code, and of a town with a single prefix.
        for (prefix, range) in [("+3546", 1_000_000), ("+1415", 10_000_000), ("+1415555", 10_000)] {
            let mut campaign = Campaign::new(1_000);
            let digits = range.to_string().len() - 1;
            for second in 0..1_000 {
                if second % 60 == 0 {
                    campaign.minute_is_over();
                }
                let last = campaign.below(range);
                assert_eq!(campaign.send(&format!("{prefix}{last:0digits$}")), None, "{prefix} {second}");
            }
        }
    }

    #[test]
    fn two_hundred_a_second_of_a_large_account_freeze_nothing() {
        // A city of four area codes.
        let mut campaign = Campaign::new(100_000);
        for _ in 0..3 {
            campaign.minute_is_over();
            for _ in 0..12_000 {
                let (area, last) = (campaign.below(4), campaign.below(8_000_000));
                let to = format!("+1{}{:07}", [212, 646, 917, 347][usize::try_from(area).unwrap()], 2_000_000 + last);
                assert_eq!(campaign.send(&to), None);
            }
        }
    }

    #[test]
    fn a_mark_shows_nothing_of_the_number_and_tells_messages_apart() {
        let key = |byte| DataKey::new(AccountId::from_bits(1), Purpose::Match, 1, Zeroizing::new([byte; 32]));
        let number = |text: &str| E164::from_network(text).unwrap();
        let one = Passing::of(&key(1), &message(1), &number("+14155552671"));
        assert_eq!(one, Passing::of(&key(1), &message(1), &number("+14155552671")));
        let text = format!("{one:?}");
        assert!(!text.contains("4155") && !text.contains("2671"), "{text}");
        assert_ne!(one.prefix, Passing::of(&key(2), &message(1), &number("+14155552671")).prefix);
        let again = Passing::of(&key(1), &message(2), &number("+14155552671"));
        assert_eq!((&one.prefix, one.mark.parts()), (&again.prefix, again.mark.parts()));
        assert_ne!(one.mark, again.mark);
        let neighbour = Passing::of(&key(1), &message(1), &number("+14155552699"));
        assert_eq!((&one.prefix, one.mark.parts().0), (&neighbour.prefix, neighbour.mark.parts().0));
        assert_ne!(one.mark.parts().1, neighbour.mark.parts().1);
        let farther = Passing::of(&key(1), &message(1), &number("+14155552571"));
        assert_ne!(one.mark.parts().0, farther.mark.parts().0);
    }
}
