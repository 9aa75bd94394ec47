//! The states of a message and what may follow what. Everything here is a pure function.
//!
//! ```text
//! held(until) ──┐
//! accepted <─> dispatching(attempt, fence, lease) ─> sent(sid) ─> sending ─> delivered | undelivered | failed
//!    │ │            │ 429, or no byte was written ─> retryable(not_before) ─> dispatching
//!    │ └> expired   │ 4xx ─> rejected(code)     the last check says no ─> refused(reason)
//!    └> canceled    └ time-out, reset, 408, 5xx, unreadable 201, lease over ─> unknown ─> sent, by a signed callback
//!                   unknown ─> sent, by a listing (`settling.rs`) ; clean listings ─> unconfirmed ─> sent, by a callback
//!                                                                  unconfirmed ─> dropped, by a person
//! ```

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{FIRST_LISTING, LOOK_AGAIN, Message, Settling};
use crate::account::Stop;
use crate::platform::MOST_DELAY;

/// How long a claim holds. HTTP 10 s < function 30 s < lease 60 s < visibility 180 s.
pub const LEASE: SignedDuration = SignedDuration::from_secs(60);

/// What could neither be found nor missed at Twilio for this long is `unconfirmed` anyway: shown to the customer, who
/// decides, and its hold given back. A callback that comes even later still counts.
pub const GIVE_UP: SignedDuration = SignedDuration::from_hours(24);

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its time.
    Held,
    /// Waits to be sent.
    Accepted,
    /// Twilio was busy or not reachable; it is tried again.
    Retryable,
    /// Being handed to Twilio right now.
    Dispatching,
    /// It is not known whether Twilio took it; looked into, never sent again blindly.
    Unknown,
    /// Could not be settled; a person decides.
    Unconfirmed,
    /// Twilio took it.
    Sent,
    /// On its way to the carrier.
    Sending,
    /// Arrived.
    Delivered,
    /// Twilio sent it, the carrier did not deliver it.
    Undelivered,
    /// Twilio could not send it.
    Failed,
    /// Twilio refused it for good.
    Rejected,
    /// We refused it at the last check.
    Refused,
    /// Too old to be sent.
    Expired,
    /// The customer took it back.
    Canceled,
    /// Given up by a person after `unconfirmed`.
    Dropped,
    /// A text that arrived.
    Received,
}

/// What a status means for money and for the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not decided.
    Waiting,
    /// Twilio has it: it is charged.
    AtCarrier,
    /// It was not sent as far as anybody knows, and will not be: nothing is charged.
    Over,
    /// It came to us.
    Arrived,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 17] = [
        Self::Held,
        Self::Accepted,
        Self::Retryable,
        Self::Dispatching,
        Self::Unknown,
        Self::Unconfirmed,
        Self::Sent,
        Self::Sending,
        Self::Delivered,
        Self::Undelivered,
        Self::Failed,
        Self::Rejected,
        Self::Refused,
        Self::Expired,
        Self::Canceled,
        Self::Dropped,
        Self::Received,
    ];

    /// What it means.
    pub fn standing(self) -> Standing {
        match self {
            Self::Held | Self::Accepted | Self::Retryable | Self::Dispatching | Self::Unknown => Standing::Waiting,
            Self::Sent | Self::Sending | Self::Delivered | Self::Undelivered | Self::Failed => Standing::AtCarrier,
            Self::Unconfirmed | Self::Rejected | Self::Refused | Self::Expired | Self::Canceled | Self::Dropped => {
                Standing::Over
            }
            Self::Received => Standing::Arrived,
        }
    }

    /// Its place in the order that callbacks may only climb (promise N5).
    pub fn rank(self) -> u8 {
        match self {
            Self::Held | Self::Accepted | Self::Retryable => 0,
            Self::Dispatching => 1,
            Self::Unknown => 2,
            Self::Unconfirmed => 3,
            Self::Sent => 10,
            Self::Sending => 20,
            Self::Delivered
            | Self::Undelivered
            | Self::Failed
            | Self::Rejected
            | Self::Refused
            | Self::Expired
            | Self::Canceled
            | Self::Dropped
            | Self::Received => 30,
        }
    }
}

/// Why we did not send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The recipient has opted out.
    OptedOut,
    /// The account's sending is frozen.
    Frozen,
    /// Twilio refuses the credential.
    CredentialRefused,
    /// No Twilio account is connected any more.
    NotConnected,
    /// Credit is owed: a payment was taken back, or more was used than was known.
    Owed,
    /// It waited longer than it is valid.
    TooOld,
}

impl From<Stop> for Reason {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::CredentialRefused => Self::CredentialRefused,
            Stop::Frozen(_) => Self::Frozen,
        }
    }
}

/// What came of handing a message to Twilio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Twilio answered 201.
    Sent {
        /// Twilio's SID.
        sid: String,
    },
    /// Twilio refused it for good.
    Rejected {
        /// Twilio's error code, if the answer had one.
        code: Option<u32>,
    },
    /// We refused it at the last check.
    Refused(Reason),
    /// It is too old.
    Expired,
    /// Certainly not processed: try again then.
    Retry {
        /// Not before.
        not_before: Timestamp,
    },
    /// It has a slot in its sender's line, later: nobody tried it.
    InLine {
        /// The slot.
        not_before: Timestamp,
    },
    /// Not known.
    Unknown,
}

impl Outcome {
    /// Whether it is still to be sent, or might have been: the payload is needed.
    pub fn keeps_payload(&self) -> bool {
        match self {
            Self::Retry { .. } | Self::InLine { .. } | Self::Unknown => true,
            Self::Sent { .. } | Self::Rejected { .. } | Self::Refused(_) | Self::Expired => false,
        }
    }

    /// The status that it leads to.
    pub fn status(&self) -> Status {
        match self {
            Self::Sent { .. } => Status::Sent,
            Self::Rejected { .. } => Status::Rejected,
            Self::Refused(_) => Status::Refused,
            Self::Expired => Status::Expired,
            Self::Retry { .. } => Status::Retryable,
            Self::InLine { .. } => Status::Accepted,
            Self::Unknown => Status::Unknown,
        }
    }
}

/// Where a message may be for an outcome to count. A late answer of the same claim is evidence even after its lease, but not
/// to know still is no news, and what a person has to decide about by now is not sent again.
pub fn open_to(outcome: &Outcome) -> &'static [Status] {
    match outcome {
        Outcome::Unknown | Outcome::InLine { .. } => &[Status::Dispatching],
        Outcome::Retry { .. } => &[Status::Dispatching, Status::Unknown],
        Outcome::Sent { .. } | Outcome::Rejected { .. } | Outcome::Refused(_) | Outcome::Expired => {
            &[Status::Dispatching, Status::Unknown, Status::Unconfirmed]
        }
    }
}

/// When the sweeper has to look at a message again; `None`: never.
pub fn due(message: &Message, outcome: &Outcome, now: Timestamp) -> Option<Timestamp> {
    match outcome {
        Outcome::Retry { not_before } => Some(*not_before),
        // Woken by a delayed hint, which may get lost; what SQS cannot delay is woken a little early and delayed then.
        Outcome::InLine { not_before } if *not_before - now <= MOST_DELAY => Some(*not_before + LOOK_AGAIN),
        Outcome::InLine { not_before } => Some(*not_before - LOOK_AGAIN),
        // A signed callback settles it; if none comes, it is looked for.
        Outcome::Unknown => Some(now + FIRST_LISTING),
        Outcome::Sent { .. } | Outcome::Rejected { .. } | Outcome::Refused(_) | Outcome::Expired => {
            (!message.settled).then(|| now + LOOK_AGAIN)
        }
    }
}

/// When to try again after `attempts` tries: 2 s, doubled each time, at most 5 min, with up to a half of jitter from
/// `dice`; `None` when the message would be too old then.
pub fn retry_at(message: &Message, retry_after_secs: Option<u32>, dice: u8, now: Timestamp) -> Option<Timestamp> {
    let base_ms = 2_000_u64 << message.attempts.saturating_sub(1).min(8);
    let base_ms = base_ms.min(300_000).max(u64::from(retry_after_secs.unwrap_or(0)) * 1_000);
    let delay_ms = base_ms + base_ms * u64::from(dice) / 512;
    let at = now + SignedDuration::from_millis(i64::try_from(delay_ms).unwrap_or(300_000));
    (at < message.valid_until).then_some(at)
}

/// What Twilio's status callback says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Twilio's SID.
    pub sid: String,
    /// The status.
    pub status: Status,
    /// Twilio's error code.
    pub error_code: Option<u32>,
}

/// Our word for Twilio's `MessageStatus`; `None` for a word that says nothing new or is not known. `canceled` is not
/// known: we schedule nothing at Twilio, and a callback must never be a way to get a hold back for what was sent.
///
/// Twilio's `sent` means that the carrier has it, ours that Twilio has it: so Twilio's is still `sending` here.
pub fn status_of_twilio(word: &str) -> Option<Status> {
    match word {
        "accepted" | "scheduled" | "queued" => Some(Status::Sent),
        "sending" | "sent" => Some(Status::Sending),
        "delivered" | "read" => Some(Status::Delivered),
        "undelivered" => Some(Status::Undelivered),
        "failed" => Some(Status::Failed),
        _ => None,
    }
}

/// The message after a report, or `None` if the report changes nothing: an older or repeated status, another message's
/// SID. In whatever order and number reports come, the end is the same (promise N5).
pub fn apply_report(message: &Message, report: &Report, now: Timestamp) -> Option<Message> {
    let foreign = message.sid.as_ref().is_some_and(|sid| *sid != report.sid);
    if foreign || message.direction == super::Direction::Inbound || !climbs(message, report) {
        return None;
    }
    Some(Message {
        status: report.status,
        sid: Some(report.sid.clone()),
        error_code: report.error_code.or(message.error_code),
        reason: None,
        settling: message.settling.map(Settling::decided),
        // Its hold was given back: it is charged after all.
        settled: message.settled && message.status != Status::Unconfirmed,
        released: message.released || (message.settled && message.status == Status::Unconfirmed),
        updated: now,
        revision: message.revision + 1,
        ..message.clone()
    })
}

/// A report counts if its status ranks higher. Of two final ones that contradict each other the one that sorts higher
/// wins, so that the order of arrival does not matter. What we ended ourselves without a SID is not reopened.
fn climbs(message: &Message, report: &Report) -> bool {
    let (held, told) = (message.status, report.status);
    if held.standing() == Standing::Over && held != Status::Unconfirmed && message.sid.is_none() {
        return false;
    }
    (told.rank(), told) > (held.rank(), held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{AccountId, MessageId};
    use crate::ledger::MicroCredits;
    use crate::message::{Direction, Format, VALIDITY};
    use proptest::prelude::*;

    fn message(status: Status) -> Message {
        Message {
            id: MessageId::from_bits(1),
            account: AccountId::from_bits(1),
            direction: Direction::Outbound,
            format: Format::Sms,
            status,
            revision: 0,
            sid: None,
            own: "+15005550006".to_owned(),
            other_hash: String::new(),
            country: None,
            segments: 1,
            encoding: None,
            held: MicroCredits::whole(1),
            price_version: String::new(),
            error_code: None,
            reason: None,
            attempts: 1,
            settled: false,
            released: false,
            settling: None,
            created: Timestamp::UNIX_EPOCH,
            held_until: None,
            valid_until: Timestamp::UNIX_EPOCH + VALIDITY,
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    fn report(word: &str) -> Report {
        let error_code = matches!(word, "undelivered" | "failed").then_some(30003);
        Report { sid: "SM1".to_owned(), status: status_of_twilio(word).unwrap(), error_code }
    }

    fn after(start: Status, words: &[&str]) -> (Status, Option<u32>) {
        let end = words.iter().fold(message(start), |held, word| {
            apply_report(&held, &report(word), Timestamp::UNIX_EPOCH).unwrap_or(held)
        });
        (end.status, end.error_code)
    }

    #[test]
    fn a_callback_settles_what_was_not_known() {
        for start in [Status::Dispatching, Status::Unknown, Status::Unconfirmed, Status::Sent] {
            assert_eq!(after(start, &["delivered"]).0, Status::Delivered, "{start:?}");
        }
    }

    #[test]
    fn what_we_ended_ourselves_stays_ended() {
        for start in [Status::Rejected, Status::Refused, Status::Expired, Status::Dropped] {
            assert_eq!(after(start, &["queued", "delivered"]).0, start);
        }
    }

    #[test]
    fn another_messages_sid_changes_nothing() {
        let held = Message { sid: Some("SM2".to_owned()), ..message(Status::Sent) };
        assert_eq!(apply_report(&held, &report("delivered"), Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn waiting_doubles_and_ends_with_validity() {
        let now = Timestamp::UNIX_EPOCH;
        let mut held = message(Status::Dispatching);
        assert_eq!(retry_at(&held, None, 0, now), Some(now + SignedDuration::from_secs(2)));
        held.attempts = 3;
        assert_eq!(retry_at(&held, None, 255, now), Some(now + SignedDuration::from_millis(11_984)));
        assert_eq!(retry_at(&held, Some(30), 0, now), Some(now + SignedDuration::from_secs(30)));
        held.attempts = u32::MAX;
        assert_eq!(retry_at(&held, None, 0, now), Some(now + SignedDuration::from_secs(300)));
        assert_eq!(retry_at(&held, None, 0, now + VALIDITY), None);
    }

    proptest! {
        /// Every order and number of one message's callbacks ends in the same state.
        #[test]
        fn the_order_of_callbacks_does_not_matter(
            words in prop::collection::vec(
                prop::sample::select(vec!["queued", "sending", "sent", "delivered", "undelivered", "failed", "read"]), 1..8),
            shuffle in any::<prop::sample::Index>(),
        ) {
            let mut other = words.clone();
            other.rotate_left(shuffle.index(words.len()));
            other.reverse();
            other.extend(words.iter());
            prop_assert_eq!(after(Status::Dispatching, &words).0, after(Status::Dispatching, &other).0);
        }

        #[test]
        fn a_status_never_goes_back(words in prop::collection::vec(
            prop::sample::select(vec!["queued", "sending", "sent", "delivered", "failed"]), 1..8))
        {
            let mut held = message(Status::Dispatching);
            for word in words {
                let next = apply_report(&held, &report(word), Timestamp::UNIX_EPOCH).unwrap_or_else(|| held.clone());
                prop_assert!(next.status.rank() >= held.status.rank());
                held = next;
            }
        }
    }
}
