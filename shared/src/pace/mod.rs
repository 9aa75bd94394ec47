//! Pace: how fast a sender may go, and who goes when. Every carrier takes so many segments a second from a sender; what
//! comes faster waits here, where a STOP, a freeze or the customer can still take it back, and not in Twilio's queue,
//! which is long but not endless (error 30001).
//!
//! A sender has a line with an end: a point in time. A message gets the slot at the end and moves the end on by as long
//! as its segments take. Whose slot is not now is put down until then and costs nothing meanwhile.

mod port;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::number::SenderId;

pub use port::*;

/// The fastest sender there can be, in segments a second: slots are whole milliseconds. Short codes go up to some
/// hundreds.
pub const MOST_PER_SECOND: u32 = 1_000;

/// Senders with a rate of their own that an account may name; GATE, where they stand, is read with every send.
pub const MOST_RATES: usize = 100;

/// Segments a second by sender, where a customer knows better than [`usual_rate`].
pub type SenderRates = BTreeMap<String, u32>;

/// Segments a second that carriers take from a sender, if nothing better is known; `None` for a messaging service, whose
/// messages Twilio spreads over its senders.
///
/// Source: Twilio's pages on message throughput. A long code of the US or Canada 1 (with a 10DLC campaign more, which
/// only the customer knows), toll-free 3, elsewhere and for names 10, short codes 100.
pub fn usual_rate(own: &str) -> Option<u32> {
    const TOLL_FREE: [&str; 7] = ["800", "833", "844", "855", "866", "877", "888"];
    match SenderId::parse(own).ok()? {
        SenderId::Number(number) => Some(match number.as_str().strip_prefix("+1") {
            Some(national) if TOLL_FREE.iter().any(|code| national.starts_with(code)) => 3,
            Some(_) => 1,
            None => 10,
        }),
        SenderId::ShortCode(_) => Some(100),
        SenderId::Alphanumeric(_) => Some(10),
    }
}

/// How long a sender is busy with so many segments at so many a second.
pub fn takes(segments: u32, per_second: u32) -> SignedDuration {
    let ms = (u64::from(segments.max(1)) * 1_000).div_ceil(u64::from(per_second.max(1)));
    SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Whether a slot may be used `now`. A fast sender's segments of one second may go at once, since nobody can wait for a
/// few milliseconds; at one a second there is nothing to be early for.
pub fn is_now(slot: Timestamp, per_second: u32, now: Timestamp) -> bool {
    slot <= now + SignedDuration::from_secs(1) - takes(1, per_second)
}

/// What is to become of a message with this slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It goes out.
    Now,
    /// It waits until then.
    At(Timestamp),
    /// It would not be valid any more.
    Never,
}

/// Hands out a stretch of a sender's line that begins at `start`, to messages in this order: segments, and until when
/// each is valid.
pub fn turns(start: Timestamp, per_second: u32, messages: &[(u32, Timestamp)], now: Timestamp) -> Vec<Turn> {
    let mut slot = start;
    let turn = |(segments, valid_until): &(u32, Timestamp)| {
        let mine = slot;
        slot += takes(*segments, per_second);
        if is_now(mine, per_second, now) {
            Turn::Now
        } else if mine < *valid_until {
            Turn::At(mine)
        } else {
            Turn::Never
        }
    };
    messages.iter().map(turn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn ms(n: i64) -> SignedDuration {
        SignedDuration::from_millis(n)
    }

    #[test]
    fn a_sender_has_the_rate_of_its_kind_and_a_service_none() {
        let service = format!("MG{}", "0".repeat(32));
        let rates = [
            ("+14155550100", Some(1)),
            ("+16135550100", Some(1)),
            ("+18335550100", Some(3)),
            ("+18005550100", Some(3)),
            ("+447700900123", Some(10)),
            ("12345", Some(100)),
            ("TelBuddy", Some(10)),
            (service.as_str(), None),
        ];
        for (own, rate) in rates {
            assert_eq!(usual_rate(own), rate, "{own}");
        }
    }

    #[test]
    fn a_long_code_sends_one_segment_a_second() {
        let messages = vec![(1, NOW + ms(3_600_000)); 4];
        let expected = [Turn::Now, Turn::At(NOW + ms(1_000)), Turn::At(NOW + ms(2_000)), Turn::At(NOW + ms(3_000))];
        assert_eq!(turns(NOW, 1, &messages, NOW), expected);
        assert_eq!(turns(NOW + ms(1), 1, &messages[..1], NOW), [Turn::At(NOW + ms(1))], "not even a little early");
    }

    #[test]
    fn what_has_more_segments_keeps_the_line_longer() {
        let later = NOW + ms(3_600_000);
        assert_eq!(turns(NOW, 1, &[(3, later), (1, later)], NOW), [Turn::Now, Turn::At(NOW + ms(3_000))]);
        assert_eq!(takes(7, 3), ms(2_334), "rounded up: never faster");
    }

    #[test]
    fn a_fast_sender_sends_what_belongs_to_one_second_at_once() {
        let turns = turns(NOW, 10, &[(1, NOW + ms(3_600_000)); 12], NOW);
        assert_eq!(turns.iter().filter(|turn| **turn == Turn::Now).count(), 10);
        assert_eq!(turns[10..], [Turn::At(NOW + ms(1_000)), Turn::At(NOW + ms(1_100))]);
    }

    /// However messages come, any stretch of time has no more segments than its seconds allow, one second's more.
    #[test]
    fn no_stretch_of_time_has_more_segments_than_the_rate_allows() {
        for per_second in [1, 3, 10, 100] {
            let (mut end, mut sent, mut state) = (NOW, Vec::new(), 1_u64);
            for _ in 0..2_000 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let now = NOW + ms(i64::try_from(state >> 40).unwrap() % 100_000);
                let segments = u32::try_from(state >> 33 & 3).unwrap() + 1;
                let start = end.max(now);
                end = start + takes(segments, per_second);
                match turns(start, per_second, &[(segments, Timestamp::MAX)], now)[0] {
                    Turn::Now => sent.push((now, segments)),
                    Turn::At(at) => sent.push((at, segments)),
                    Turn::Never => panic!("it is valid for ever"),
                }
            }
            sent.sort_unstable();
            for (at, (from, _)) in sent.iter().enumerate() {
                let mut segments = 0_u32;
                for (until, more) in &sent[at..] {
                    // The last message may go over by its own segments: it began when there was room.
                    let seconds = until.duration_since(*from).as_secs_f64();
                    assert!(
                        f64::from(segments) <= (seconds + 1.0) * f64::from(per_second) + 4.0,
                        "{segments} segments in {seconds} s at {per_second}"
                    );
                    segments += more;
                }
            }
        }
    }

    #[test]
    fn what_would_come_too_late_never_goes() {
        let messages = [(1, NOW + ms(500)), (1, NOW + ms(500)), (1, NOW + ms(5_000))];
        assert_eq!(turns(NOW, 1, &messages, NOW), [Turn::Now, Turn::Never, Turn::At(NOW + ms(2_000))]);
    }
}
