//! One event on its way to one endpoint: when it is tried again, when it is given up, when the endpoint is disabled.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::hash_bits;
use super::{Endpoint, Event, EventType, WhyDisabled};
use crate::ids::{AccountId, DeliveryId, EndpointId};
use crate::platform::Job;

/// How long a claim holds. Content 10 s + HTTP 15 s < function 30 s < lease 60 s < visibility 180 s.
pub const DELIVERY_LEASE: SignedDuration = SignedDuration::from_secs(60);

/// A delivery whose queue message got lost is looked at again after this long.
pub const DELIVER_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// How long deliveries are kept.
pub const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The longest delay of a queue message; what has to wait longer belongs to the sweeper.
pub const MOST_DELAY: SignedDuration = SignedDuration::from_secs(900);

/// Tries that a row remembers, the last ones.
pub const MOST_ATTEMPTS_KEPT: usize = 20;

/// The waits between tries: 11 tries within 3 days.
const WAITS_SECS: [i64; 10] = [5, 60, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 64_800, 79_200];

/// An endpoint where nothing but failures came of tries for this long is disabled.
pub const FAILS_FOR: SignedDuration = SignedDuration::from_hours(5 * 24);

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// It is tried now, or will be.
    Pending,
    /// The endpoint answered 2xx.
    Delivered,
    /// Given up; it can be resent.
    Failed,
}

/// One event for one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub account: AccountId,
    /// To whom.
    pub endpoint: EndpointId,
    /// Names it; later ones sort later.
    pub id: DeliveryId,
    /// What.
    pub event: Event,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// When it was made.
    pub created: Timestamp,
    /// Not tried before; while a try is on, its lease.
    pub next: Option<Timestamp>,
    /// Tries since it was made, or resent last.
    pub tries: u32,
    /// The last tries, oldest first.
    pub attempts: Vec<Attempt>,
}

/// One try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// What came of it.
    pub result: Answer,
    /// How long it took.
    pub took_ms: u32,
}

/// What an endpoint answered. Its text is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It answered.
    Http {
        /// The status.
        status: u16,
        /// Bytes of its body that were read, at most 16 KiB.
        bytes: u32,
    },
    /// It did not.
    None(Trouble),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The host's name leads nowhere, or only to addresses that are not on the public Internet.
    AddressRefused,
    /// The host's name is not known.
    NameUnknown,
    /// No connection, or no TLS.
    NoConnection,
    /// It took more than 15 seconds.
    TimedOut,
    /// The connection broke off.
    Broken,
    /// The endpoint was disabled or removed: nothing was sent.
    Disabled,
    /// Twilio could not be asked what the message says: nothing was sent, it is tried again.
    TwilioUnavailable,
}

impl Answer {
    /// Whether the event has arrived.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Http { status: 200..=299, .. })
    }
}

impl Delivery {
    /// A new one, to be tried at once.
    pub fn new(account: AccountId, endpoint: EndpointId, event: Event, now: Timestamp) -> Self {
        // One for each event and endpoint: whoever makes it again makes the same one.
        let id = DeliveryId::new(now, hash_bits(&[&event.id.to_string(), &endpoint.to_string()]));
        let (status, next) = (DeliveryStatus::Pending, Some(now));
        Self { account, endpoint, id, event, status, created: now, next, tries: 0, attempts: Vec::new() }
    }

    /// The hint that wakes who delivers it.
    pub fn job(&self) -> Job {
        Job::Deliver { account: self.account, endpoint: self.endpoint, delivery: self.id }
    }

    /// The same, on its way again with all its tries.
    #[must_use]
    pub fn resent(self, now: Timestamp) -> Self {
        Self { status: DeliveryStatus::Pending, next: Some(now), tries: 0, ..self }
    }

    /// The same, after a try; `dice` spreads the next ones.
    #[must_use]
    pub fn after(mut self, attempt: Attempt, dice: u8, now: Timestamp) -> Self {
        self.attempts.push(attempt);
        let forgotten = self.attempts.len().saturating_sub(MOST_ATTEMPTS_KEPT);
        self.attempts.drain(..forgotten);
        self.next = match attempt.result {
            answer if answer.is_success() => None,
            Answer::Http { status: 410, .. } | Answer::None(Trouble::Disabled) => None,
            // A person waits for it.
            _ if self.event.kind == EventType::EndpointTest => None,
            Answer::Http { .. } | Answer::None(_) => next_try(self.tries, dice, now),
        };
        self.status = match (attempt.result.is_success(), self.next) {
            (true, _) => DeliveryStatus::Delivered,
            (false, Some(_)) => DeliveryStatus::Pending,
            (false, None) => DeliveryStatus::Failed,
        };
        self
    }

    /// Whether the try that is on is the last one.
    pub fn is_last_try(&self, now: Timestamp) -> bool {
        next_try(self.tries, 0, now).is_none()
    }

    /// When the sweeper has to look at it: a while after its hint in the queue, or at its time if that is too far away
    /// for the queue.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        self.next.map(|next| if next.duration_since(now) > MOST_DELAY { next } else { next + DELIVER_AGAIN })
    }
}

/// When to try again after so many tries, up to a tenth sooner by `dice`; `None` when it is given up.
pub fn next_try(tries: u32, dice: u8, now: Timestamp) -> Option<Timestamp> {
    let wait = WAITS_SECS.get(usize::try_from(tries.checked_sub(1)?).ok()?)?;
    Some(now + SignedDuration::from_millis(wait * 1_000 - wait * 100 * i64::from(dice) / 255))
}

/// What an answer says of its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing new.
    Same,
    /// It works again.
    Recovered,
    /// It fails since now.
    Failing,
    /// It is to be disabled.
    Disable(WhyDisabled),
}

/// What an answer says of its endpoint: disabled are those that are gone, and those where nothing but failures came of
/// tries for days. A test that fails is no failure, and what Twilio did not answer is none of the endpoint.
pub fn health(endpoint: &Endpoint, event: EventType, answer: Answer, now: Timestamp) -> Health {
    if endpoint.disabled.is_some() {
        return Health::Same;
    }
    match (answer, endpoint.failing_since) {
        (answer, None) if answer.is_success() => Health::Same,
        (answer, Some(_)) if answer.is_success() => Health::Recovered,
        (Answer::Http { status: 410, .. }, _) => Health::Disable(WhyDisabled::Gone),
        (Answer::None(Trouble::Disabled | Trouble::TwilioUnavailable), _) => Health::Same,
        _ if event == EventType::EndpointTest => Health::Same,
        (_, None) => Health::Failing,
        (_, Some(since)) if now >= since + FAILS_FOR => Health::Disable(WhyDisabled::Failing),
        (_, Some(_)) => Health::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::tests::endpoint;
    use crate::ids::EventId;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn delivery(kind: EventType) -> Delivery {
        let event = Event { id: EventId::from_bits(1), kind, at: NOW, data: "{}".to_owned() };
        Delivery::new(AccountId::from_bits(1), EndpointId::from_bits(1), event, NOW)
    }

    fn attempt(result: Answer) -> Attempt {
        Attempt { at: NOW, result, took_ms: 5 }
    }

    fn http(status: u16) -> Answer {
        Answer::Http { status, bytes: 0 }
    }

    #[test]
    fn eleven_tries_within_three_days_each_wait_longer() {
        for dice in [0, 100, 255] {
            let (mut now, mut held, mut waits) = (NOW, delivery(EventType::MessageSent), Vec::new());
            loop {
                held.tries += 1;
                assert_eq!(held.is_last_try(now), held.tries == 11);
                held = held.after(attempt(http(500)), dice, now);
                let Some(next) = held.next else { break };
                assert_eq!(held.status, DeliveryStatus::Pending);
                waits.push(next.duration_since(now));
                now = next;
            }
            assert_eq!((held.tries, held.status), (11, DeliveryStatus::Failed));
            assert!(waits.is_sorted(), "{waits:?}");
            let in_all = now.duration_since(NOW);
            assert!(in_all <= SignedDuration::from_hours(72) && in_all > SignedDuration::from_hours(64), "{in_all}");
        }
        assert_eq!(next_try(1, 0, NOW), Some(NOW + SignedDuration::from_secs(5)));
        assert_eq!(next_try(1, 255, NOW), Some(NOW + SignedDuration::from_millis(4_500)));
    }

    #[test]
    fn an_answer_decides_what_becomes_of_a_delivery() {
        use DeliveryStatus::{Delivered, Failed, Pending};
        for (answer, status) in [
            (http(200), Delivered),
            (http(204), Delivered),
            (http(299), Delivered),
            (http(199), Pending),
            (http(301), Pending),
            (http(400), Pending),
            (http(410), Failed),
            (http(503), Pending),
            (Answer::None(Trouble::TimedOut), Pending),
            (Answer::None(Trouble::AddressRefused), Pending),
            (Answer::None(Trouble::TwilioUnavailable), Pending),
            (Answer::None(Trouble::Disabled), Failed),
        ] {
            let held = Delivery { tries: 1, ..delivery(EventType::MessageSent) }.after(attempt(answer), 0, NOW);
            assert_eq!((held.status, held.next.is_some()), (status, status == Pending), "{answer:?}");
        }
        let test = Delivery { tries: 1, ..delivery(EventType::EndpointTest) }.after(attempt(http(500)), 0, NOW);
        assert_eq!(test.status, Failed, "a test is tried once");
    }

    #[test]
    fn the_last_tries_are_kept() {
        let mut held = delivery(EventType::MessageSent);
        for ms in 0..50 {
            held = held.after(Attempt { took_ms: ms, ..attempt(http(500)) }, 0, NOW);
        }
        assert_eq!((held.attempts.len(), held.attempts[0].took_ms), (20, 30));
    }

    #[test]
    fn five_days_of_nothing_but_failures_or_gone_disable() {
        let well = endpoint();
        let failing = Endpoint { failing_since: Some(NOW), ..endpoint() };
        let sent = EventType::MessageSent;
        let later = NOW + FAILS_FOR;
        let just_before = later - SignedDuration::from_secs(1);
        assert_eq!(health(&well, sent, http(200), NOW), Health::Same);
        assert_eq!(health(&well, sent, http(500), NOW), Health::Failing);
        assert_eq!(health(&failing, sent, http(500), just_before), Health::Same);
        assert_eq!(health(&failing, sent, http(500), later), Health::Disable(WhyDisabled::Failing));
        assert_eq!(health(&failing, sent, http(200), later), Health::Recovered);
        assert_eq!(health(&well, sent, http(410), NOW), Health::Disable(WhyDisabled::Gone));
        let unasked = Answer::None(Trouble::TwilioUnavailable);
        assert_eq!(
            (health(&well, sent, unasked, NOW), health(&failing, sent, unasked, later)),
            (Health::Same, Health::Same)
        );
        for test in [http(500), Answer::None(Trouble::TimedOut)] {
            assert_eq!(health(&failing, EventType::EndpointTest, test, later), Health::Same);
        }
    }
}
