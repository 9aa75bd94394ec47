//! Reconciliation: each finished day, what was charged is set against what Twilio has, by SID.
//!
//! A day is one of UTC, by Twilio's `DateSent`: of Twilio's lists it is the only filter by time, and each message has one
//! day by it, so that nothing is compared twice. Everything here is a pure function.

mod keep;
mod port;

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::connection::{PageMark, Trouble};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId, MessageId};
use crate::ledger::{Book, Change, Entry, Line, MicroCredits, Occasion, UsageEvent, UsageKind, Zone, prices_of};
use crate::message::{Direction, Format, Message};

pub use keep::*;
pub use port::*;

/// How long after its end a day is compared. Until then a message may still wait in Twilio's queue (10 hours at most), or
/// is looked for here (a day at most), or its posting is tried again: what differs would only not be there yet.
pub const SETTLED_AFTER: SignedDuration = SignedDuration::from_hours(24);

/// Accounts begin within so long, so that Twilio and the tables do not get all of them at one moment.
const SPREAD: SignedDuration = SignedDuration::from_hours(6);

/// So long a day is tried that Twilio does not let us compare; then the next one has its turn.
pub const TRY_FOR: SignedDuration = SignedDuration::from_hours(14 * 24);

/// SIDs that a report names of each class; it says how many there are.
pub const MOST_NAMED: usize = 200;

/// The smallest limit of what is posted without a person: an account with few messages would have none otherwise.
const LEAST_LIMIT: MicroCredits = MicroCredits::whole(5);
/// The largest: a fault of our counting that touches everybody must not move more before a person has seen it.
const MOST_LIMIT: MicroCredits = MicroCredits::whole(100);
/// One in so many of a day's credits: 5 %.
const ONE_IN: u64 = 20;

/// A message as Twilio lists it: nothing of what it says, and nobody's number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtTwilio {
    /// Twilio's SID.
    pub sid: String,
    /// Segments; `None`: Twilio does not say (0 stands for "not yet known" there).
    pub segments: Option<u32>,
    /// When it was sent, or arrived; `None`: it never was.
    pub sent: Option<Timestamp>,
    /// Which way.
    pub direction: Direction,
}

impl AtTwilio {
    /// Whether it belongs to this day.
    pub fn is_of(&self, day: Date) -> bool {
        self.sent.is_some_and(|sent| utc_day(sent) == day)
    }
}

/// A charge that does not fit what Twilio lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Difference {
    /// Twilio's SID.
    pub sid: String,
    /// Segments that were charged.
    pub charged: i64,
    /// Segments that Twilio lists.
    pub listed: i64,
    /// What is to be posted, in millionths of a credit.
    #[serde(rename = "credits_micro")]
    pub credits: Change,
}

/// What the two sides say of one SID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Class {
    /// The same.
    Same,
    /// Both have it, with other segments.
    Different(Difference),
    /// Charged here, and not at Twilio.
    OnlyHere,
    /// At Twilio, and not charged here: traffic of other software of the customer's.
    OnlyAtTwilio,
}

/// Sets one message at Twilio against its charge. An MMS has one price, whatever its segments.
pub fn classify(listed: &AtTwilio, charge: Option<&UsageEvent>) -> Result<Class, Fault> {
    let Some(charge) = charge else { return Ok(Class::OnlyAtTwilio) };
    let Some(segments) = listed.segments.filter(|segments| *segments > 0) else { return Ok(Class::Same) };
    if charge.format == Format::Mms || charge.units == i64::from(segments) {
        return Ok(Class::Same);
    }
    let prices = prices_of(&charge.price_version).ok_or(Fault::permanent("a charge names no price list"))?;
    let price = prices.message(charge.direction, charge.format, segments);
    Ok(Class::Different(Difference {
        sid: charge.sid.clone(),
        charged: charge.units,
        listed: i64::from(segments),
        credits: price.plus().and(charge.credits.back()),
    }))
}

/// The entry that puts a charge right: in the same period and row as what it corrects, at the price of that time.
pub fn correction(
    id: EntryId,
    charge: &UsageEvent,
    difference: &Difference,
    day: Date,
    posted: Timestamp,
    zone: &Zone,
) -> Entry {
    let Difference { charged, listed, credits, .. } = difference;
    let lines = vec![
        Line { book: Book::UsedMessageSegments, amount: *credits },
        Line { book: Book::Clearing, amount: credits.back() },
    ];
    Entry {
        id,
        account: charge.account,
        occasion: occasion(day, &charge.sid),
        lines,
        posted,
        month: zone.month(posted),
        usage: Some(UsageEvent { units: listed - charged, credits: *credits, ..charge.clone() }),
    }
}

/// Why there is a correction: one for each day and SID.
pub fn occasion(day: Date, sid: &str) -> Occasion {
    Occasion::Correction { by: day.to_string(), sid: sid.to_owned(), kind: UsageKind::MessageSegments }
}

/// Sums of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tallies {
    /// SIDs of which both say the same.
    pub same: u64,
    /// SIDs with other segments.
    pub different: u64,
    /// SIDs that were charged and that Twilio does not have.
    pub only_here: u64,
    /// SIDs that only Twilio has.
    pub only_at_twilio: u64,
    /// What the differences add to segments, all together.
    pub segments: i64,
    /// What they add to credits, all together.
    pub credits: Change,
    /// How much they move, up or down.
    pub moved: MicroCredits,
    /// What was charged for everything that both have.
    pub charged: Change,
}

impl Tallies {
    /// Counts one SID, once.
    pub fn count(&mut self, class: &Class, charge: Option<&UsageEvent>) {
        if let Some(charge) = charge.filter(|_| matches!(class, Class::Same | Class::Different(_))) {
            self.charged = self.charged.and(charge.credits);
        }
        match class {
            Class::Same => self.same += 1,
            Class::OnlyHere => self.only_here += 1,
            Class::OnlyAtTwilio => self.only_at_twilio += 1,
            Class::Different(Difference { charged, listed, credits, .. }) => {
                self.different += 1;
                self.segments += listed - charged;
                self.credits = self.credits.and(*credits);
                self.moved.0 = self.moved.0.saturating_add(credits.0.unsigned_abs());
            }
        }
    }

    /// All that were counted.
    pub fn all(&self) -> u64 {
        self.same + self.different + self.only_here + self.only_at_twilio
    }

    /// How much may be moved without a person: 5 % of the day's credits, at least 5 credits, at most 100.
    pub fn limit(&self) -> MicroCredits {
        MicroCredits((self.charged.above().0 / ONE_IN).clamp(LEAST_LIMIT.0, MOST_LIMIT.0))
    }
}

/// How a day stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Twilio could not be asked; it is tried again.
    Unknown,
    /// Being compared.
    Running,
    /// Everything that was charged is at Twilio, with the same segments.
    Agrees,
    /// Some of what was charged is not at Twilio (any more); everything else agrees.
    Missing,
    /// The differences are posted as corrections.
    Corrected,
    /// The differences are above the limit: nothing is posted until a person decides.
    NeedsDecision,
    /// A person has decided.
    Decided,
}

/// What a person decides about differences above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Post the corrections.
    Post,
    /// What was charged stays.
    Keep,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// Go on with Twilio's list.
    AtTwilio {
        /// Pages so far.
        page: u32,
        /// Where the next one begins; `None`: at the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<String>,
    },
    /// Go on with our own messages.
    Here {
        /// Behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<MessageId>,
    },
    /// Read what Twilio's usage records say of the day, and see what all of it means.
    Records,
    /// Post corrections.
    Posting {
        /// Behind this SID.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Nothing.
    Done,
}

const BEGINNING: Stage = Stage::AtTwilio { page: 0, mark: None };

/// What Twilio's usage records say of a day: of all the account's traffic, foreign traffic too, so that ours cannot be
/// more. They lag: `as_of` says until when they count. What Twilio does not say is `None`, never 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CarrierUsage {
    /// Twilio's category, such as `sms-outbound`.
    #[schema(example = "sms-outbound")]
    pub category: String,
    /// How many events.
    pub count: Option<u64>,
    /// How much, in `unit`.
    pub usage: Option<u64>,
    /// What `usage` counts: segments or messages.
    pub unit: Option<String>,
    /// Until when they count.
    #[schema(example = "2026-11-26T03:00:00+00:00")]
    pub as_of: Option<String>,
}

impl CarrierUsage {
    /// Of which Twilio says nothing.
    pub fn unsaid(category: &str) -> Self {
        Self { category: category.to_owned(), count: None, usage: None, unit: None, as_of: None }
    }
}

/// The categories that are read.
pub const CATEGORIES: [&str; 4] = ["sms-outbound", "sms-inbound", "mms-outbound", "mms-inbound"];

/// One day's comparison: what is known, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The day.
    pub day: Date,
    /// Since when the Twilio account was connected that it is compared with.
    pub connected_since: Timestamp,
    /// How it stands.
    pub state: State,
    /// What is next.
    pub stage: Stage,
    /// Sums so far.
    pub tallies: Tallies,
    /// The first SIDs that are only here.
    pub only_here: Vec<String>,
    /// The first SIDs that are only at Twilio.
    pub only_at_twilio: Vec<String>,
    /// What Twilio's usage records say.
    pub usage: Vec<CarrierUsage>,
    /// Corrections of it that are posted.
    pub posted: u64,
    /// When it was looked at last.
    pub looked: Timestamp,
    /// Why Twilio could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How often in a row it could not.
    pub tries: u32,
    /// Counts the beginnings: what was noted in one that was given up does not count in the next.
    pub attempt: u32,
    /// What a person decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Counts the writes.
    pub revision: u32,
}

/// Why a day is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Twilio refuses the credential.
    CredentialRefused,
    /// The Twilio account is not active.
    AccountInactive,
    /// The API key may not list messages.
    NotAllowed,
    /// Too many requests.
    TwilioBusy,
    /// Twilio did not know the list's next page any more: it was begun anew.
    ListMoved,
    /// No answer, or none that reads.
    TwilioUnreachable,
}

impl From<Trouble> for Reason {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused => Self::CredentialRefused,
            Trouble::Inactive => Self::AccountInactive,
            Trouble::NotAllowed => Self::NotAllowed,
            Trouble::Busy => Self::TwilioBusy,
            Trouble::NotFound | Trouble::Rejected(_) => Self::ListMoved,
            Trouble::Unreachable => Self::TwilioUnreachable,
        }
    }
}

impl Report {
    /// Of a day that is begun now.
    pub fn new(course: &Course, now: Timestamp) -> Self {
        Self {
            day: course.day,
            connected_since: course.connected_since,
            state: State::Running,
            stage: BEGINNING,
            tallies: Tallies::default(),
            only_here: Vec::new(),
            only_at_twilio: Vec::new(),
            usage: Vec::new(),
            posted: 0,
            looked: now,
            reason: None,
            tries: 0,
            attempt: 0,
            decision: None,
            revision: 0,
        }
    }

    /// Of the day that an account has next: goes on with what there is, unless that is of another connection.
    pub fn begin(course: &Course, before: Option<Self>, now: Timestamp) -> Self {
        match before {
            Some(before) if before.connected_since == course.connected_since => before,
            Some(Self { revision, attempt, .. }) => Self { revision, attempt: attempt + 1, ..Self::new(course, now) },
            None => Self::new(course, now),
        }
    }

    /// The same with the next revision, and Twilio answers.
    fn next(&self, stage: Stage, now: Timestamp) -> Self {
        let revision = self.revision + 1;
        Self { stage, state: State::Running, looked: now, reason: None, tries: 0, revision, ..self.clone() }
    }

    /// The page of Twilio's list to ask for.
    pub fn mark(&self) -> Option<PageMark> {
        let Stage::AtTwilio { mark: Some(mark), .. } = &self.stage else { return None };
        PageMark::parse(mark)
    }

    /// After a page of Twilio's list.
    #[must_use]
    pub fn after_page(&self, page: u32, compared: &[Compared], next: Option<&PageMark>, now: Timestamp) -> Self {
        let stage = match next {
            Some(mark) => Stage::AtTwilio { page: page + 1, mark: Some(mark.cursor()) },
            None => Stage::Here { after: None },
        };
        self.with(compared, stage, now)
    }

    /// After a page of our own messages, up to `last`; `None`: there are no more.
    #[must_use]
    pub fn after_ours(&self, compared: &[Compared], last: Option<MessageId>, now: Timestamp) -> Self {
        let stage = last.map_or(Stage::Records, |last| Stage::Here { after: Some(last) });
        self.with(compared, stage, now)
    }

    fn with(&self, compared: &[Compared], stage: Stage, now: Timestamp) -> Self {
        let mut report = self.next(stage, now);
        for Compared { sid, class, charge } in compared {
            report.tallies.count(class, charge.as_ref());
            let named = match class {
                Class::OnlyHere => &mut report.only_here,
                Class::OnlyAtTwilio => &mut report.only_at_twilio,
                Class::Same | Class::Different(_) => continue,
            };
            if named.len() < MOST_NAMED {
                named.push(sid.clone());
            }
        }
        report
    }

    /// Once both sides are gone through: what all of it means.
    #[must_use]
    pub fn judged(&self, usage: Vec<CarrierUsage>, now: Timestamp) -> Self {
        let Tallies { different, moved, .. } = self.tallies;
        let mut report = match (different > 0, moved <= self.tallies.limit()) {
            (true, true) => self.next(Stage::Posting { after: None }, now),
            (true, false) => Self { state: State::NeedsDecision, ..self.next(Stage::Done, now) },
            (false, _) => Self { state: self.without_difference(), ..self.next(Stage::Done, now) },
        };
        report.usage = usage;
        report
    }

    fn without_difference(&self) -> State {
        if self.tallies.only_here > 0 { State::Missing } else { State::Agrees }
    }

    /// After some corrections were posted, up to the SID `last`; `None`: there are no more.
    #[must_use]
    pub fn after_posting(&self, n: u64, last: Option<&str>, now: Timestamp) -> Self {
        let posted = self.posted + n;
        match last {
            Some(last) => Self { posted, ..self.next(Stage::Posting { after: Some(last.to_owned()) }, now) },
            None => Self { posted, state: State::Corrected, ..self.next(Stage::Done, now) },
        }
    }

    /// When Twilio could not be asked: unknown, with what is known so far. A list that moved is begun anew.
    #[must_use]
    pub fn unknown(&self, trouble: Trouble, now: Timestamp) -> Self {
        let reason = Some(Reason::from(trouble));
        let (tries, revision) = (self.tries.saturating_add(1), self.revision + 1);
        let anew = reason == Some(Reason::ListMoved);
        let attempt = self.attempt + u32::from(anew);
        let kept = if anew { Self { attempt, ..Self::new(&self.course(), now) } } else { self.clone() };
        Self { state: State::Unknown, looked: now, reason, tries, revision, ..kept }
    }

    fn course(&self) -> Course {
        Course { connected_since: self.connected_since, day: self.day }
    }

    /// Whether nothing is left to compare or to post.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// With a person's decision, if it is open or was the same before; then nothing changes.
    pub fn decided(&self, decision: Decision) -> Option<Self> {
        match (self.state, self.decision) {
            (State::NeedsDecision, None) => {
                let revision = self.revision + 1;
                Some(Self { state: State::Decided, decision: Some(decision), revision, ..self.clone() })
            }
            (State::Decided, Some(before)) if before == decision => Some(self.clone()),
            _ => None,
        }
    }

    /// After all corrections that a person decided on were posted.
    #[must_use]
    pub fn all_posted(&self, posted: u64) -> Self {
        Self { posted, revision: self.revision + 1, ..self.clone() }
    }

    /// What it shows of itself: `None` if Twilio's records do not say, else whether they are at least what was charged.
    pub fn within_records(&self) -> Option<bool> {
        let of = |category: &str| self.usage.iter().find(|usage| usage.category == category)?.count;
        let counts: Option<Vec<u64>> = CATEGORIES.into_iter().map(of).collect();
        let all: u64 = counts?.into_iter().fold(0, u64::saturating_add);
        Some(self.tallies.same + self.tallies.different <= all)
    }
}

/// A SID with what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compared {
    /// Twilio's SID.
    pub sid: String,
    /// What the sides say.
    pub class: Class,
    /// What was charged.
    pub charge: Option<UsageEvent>,
}

impl Compared {
    /// From both sides.
    pub fn new(listed: &AtTwilio, charge: Option<UsageEvent>) -> Result<Self, Fault> {
        Ok(Self { sid: listed.sid.clone(), class: classify(listed, charge.as_ref())?, charge })
    }

    /// Charged, and not at Twilio.
    pub fn only_here(charge: UsageEvent) -> Self {
        Self { sid: charge.sid.clone(), class: Class::OnlyHere, charge: Some(charge) }
    }
}

/// The differences among them.
pub fn differences(compared: &[Compared]) -> Vec<Difference> {
    let difference = |one: &Compared| if let Class::Different(it) = &one.class { Some(it.clone()) } else { None };
    compared.iter().filter_map(difference).collect()
}

/// Which day an account has next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// Since when the Twilio account is connected: what was sent before is not ours.
    pub connected_since: Timestamp,
    /// The next day.
    pub day: Date,
}

impl Course {
    /// Of an account that was connected then.
    pub fn new(connected_since: Timestamp) -> Self {
        Self { connected_since, day: utc_day(connected_since) }
    }

    /// With the day after.
    #[must_use]
    pub fn after(&self) -> Self {
        Self { day: self.day.saturating_add(1.day()), ..self.clone() }
    }

    /// Whether the day is finished, so long after its end.
    pub fn is_settled(&self, now: Timestamp, after: SignedDuration) -> bool {
        bounds(self.day).is_some_and(|(_, end)| end.saturating_add(after).is_ok_and(|at| at <= now))
    }

    /// When the account's turn is, at the latest when it is asked for again.
    pub fn due(&self, account: AccountId, now: Timestamp) -> Timestamp {
        let spread = i64::try_from(account.bits() % u128::from(SPREAD.as_secs().unsigned_abs())).unwrap_or(0);
        let end = bounds(self.day).map_or(now, |(_, end)| end);
        (end + SETTLED_AFTER + SignedDuration::from_secs(spread)).max(now)
    }

    /// Whether the day has been tried for long enough.
    pub fn is_given_up(&self, now: Timestamp) -> bool {
        self.is_settled(now, SETTLED_AFTER + TRY_FOR)
    }
}

/// Time until the next try, after so many that failed: a quarter of an hour, doubled each time, up to six hours.
pub fn wait(tries: u32) -> SignedDuration {
    SignedDuration::from_mins(15 << tries.saturating_sub(1).min(5)).min(SignedDuration::from_hours(6))
}

/// The UTC day of a time.
pub fn utc_day(at: Timestamp) -> Date {
    Offset::UTC.to_datetime(at).date()
}

/// Ids between which a day's messages are, the lower one not included.
pub fn ids_of(day: Date) -> Option<(MessageId, MessageId)> {
    let (start, end) = bounds(day)?;
    let last_before =
        |at: Timestamp| Some(MessageId::new(at.checked_sub(SignedDuration::from_millis(1)).ok()?, u128::MAX));
    Some((last_before(start)?, last_before(end)?))
}

/// The first moment of a UTC day, and the first after it.
pub fn bounds(day: Date) -> Option<(Timestamp, Timestamp)> {
    let start = |day: Date| TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0)).ok();
    Some((start(day)?, start(day.tomorrow().ok()?)?))
}

/// The SID under which one of our messages was charged, if it was, since the Twilio account is connected.
pub fn charged_sid(message: &Message, connected_since: Timestamp) -> Option<&str> {
    let charged = message.settled && !message.released && message.created >= connected_since;
    message.sid.as_deref().filter(|_| charged)
}

#[cfg(test)]
mod tests;
