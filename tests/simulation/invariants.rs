//! What has to hold, whatever happens: some of it after each effect, the rest when all is at rest.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::ledger::{About, Change, Granularity, MicroCredits, ReadUsage, RollUpUsage, UsageSums};
use telbuddy::message::{Direction, Message, ReadMessages, Standing, Status, status_of_twilio};
use telbuddy::testing::World;

use super::callers::{Callers, MARK};
use super::machine::{Hub, State};
use super::ports::at_once;

/// What did not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// One message, one text: Twilio takes no message twice.
    NoDoubles,
    /// What was answered with 202 is there and has an end.
    NothingLost,
    /// The end is what became of it at Twilio.
    Truthful,
    /// What is signed is answered with 2xx in the end, and what was answered with 2xx counts.
    NothingSignedLost,
    /// Available, held and used are together what they were in the beginning.
    Conserved,
    /// Each reservation ends as a charge or is given back, once.
    EachHoldEnds,
    /// A status only follows what it may follow.
    NeverBackwards,
    /// No payload is left after an outcome.
    NoPayloadLeft,
    /// A STOP that was stored before a message was claimed is kept.
    StopKept,
    /// A repeated request gets the same answer.
    SameAnswer,
    /// Usage is the sum of the entries.
    UsageAddsUp,
    /// A handler does not panic.
    NoPanic,
}

/// The first that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    pub message: Option<MessageId>,
    pub what: String,
    pub at: Timestamp,
}

/// What was seen so far.
pub struct Watch {
    pub violation: Option<Violation>,
    pub accounts: Vec<AccountId>,
    credit: BTreeMap<AccountId, u64>,
    statuses: BTreeMap<MessageId, Status>,
    taken: BTreeSet<MessageId>,
    /// When a worker got a message, by true time.
    claimed: BTreeMap<MessageId, Timestamp>,
    /// Since when recipients are opted out, by true time.
    stopped: BTreeMap<(AccountId, String), Timestamp>,
    /// Somebody was told that these are taken back.
    pub canceled: BTreeSet<MessageId>,
    /// These were given up, and nobody has decided yet.
    pub to_decide: Vec<(AccountId, MessageId)>,
}

/// What may follow a status, but for itself. By hand and not by rank, so that a mistake there shows here.
fn may_follow(before: Status, after: Status) -> bool {
    use Status::{
        Accepted, Canceled, Delivered, Dispatching, Dropped, Expired, Failed, Held, Refused, Rejected, Retryable,
        Sending, Sent, Unconfirmed, Undelivered, Unknown,
    };
    match before {
        Held | Accepted | Retryable => matches!(after, Dispatching | Canceled),
        Dispatching => matches!(
            after,
            Accepted
                | Retryable
                | Unknown
                | Sent
                | Sending
                | Delivered
                | Undelivered
                | Failed
                | Rejected
                | Refused
                | Expired
        ),
        Unknown => matches!(
            after,
            Retryable | Unconfirmed | Sent | Sending | Delivered | Undelivered | Failed | Rejected | Refused | Expired
        ),
        Unconfirmed => {
            matches!(after, Sent | Sending | Delivered | Undelivered | Failed | Rejected | Refused | Expired | Dropped)
        }
        Sent => matches!(after, Sending | Delivered | Undelivered | Failed),
        Sending => matches!(after, Delivered | Undelivered | Failed),
        _ => false,
    }
}

/// Whether somebody may still need what the message says.
fn needs_payload(status: Status) -> bool {
    matches!(status.standing(), Standing::Waiting) || status == Status::Unconfirmed
}

fn row(world: &World, account: AccountId, message: MessageId) -> Option<Message> {
    let world = world.clone();
    at_once(Box::pin(async move { world.load_message(account, message).await })).unwrap()
}

impl Watch {
    pub fn new(world: &World, callers: &Callers) -> Self {
        let accounts = callers.accounts();
        let credit = |account: &AccountId| (*account, world.allowance(*account).unwrap().available().0);
        Self {
            violation: None,
            credit: accounts.iter().map(credit).collect(),
            accounts,
            statuses: BTreeMap::new(),
            taken: BTreeSet::new(),
            claimed: BTreeMap::new(),
            stopped: BTreeMap::new(),
            canceled: BTreeSet::new(),
            to_decide: Vec::new(),
        }
    }

    /// After an effect on a message.
    pub fn observe(hub: &Hub, account: AccountId, id: MessageId) {
        let Some(row) = row(&hub.world, account, id) else { return };
        let allowance = hub.world.allowance(account).unwrap();
        let payload = hub.world.payload_of(account, id).is_some();
        let mut state = hub.state();
        let before = state.watch.statuses.insert(id, row.status);
        if before.is_some_and(|before| before != row.status && !may_follow(before, row.status)) {
            state.violated(Invariant::NeverBackwards, Some(id), format!("{before:?} -> {:?}", row.status));
        }
        if before != Some(row.status) {
            state.say(|| format!("{id} is {:?}", row.status));
        }
        if row.status == Status::Unconfirmed && before != Some(row.status) {
            state.watch.to_decide.push((account, id));
        }
        if row.status == Status::Dispatching && before != Some(row.status) {
            let now = state.now;
            state.watch.claimed.insert(id, now);
        }
        if payload && !needs_payload(row.status) {
            state.violated(Invariant::NoPayloadLeft, Some(id), format!("{:?}", row.status));
        }
        let sum = allowance.free.and(allowance.held.plus()).and(allowance.used.plus());
        if state.watch.credit.get(&account).map(|credit| MicroCredits(*credit).plus()) != Some(sum) {
            state.violated(Invariant::Conserved, Some(id), format!("{allowance:?}"));
        }
    }

    /// After somebody said something about being texted by the customers' one number.
    pub fn consented(hub: &Hub, account: AccountId, own: &str, other_hash: &str) {
        let stands = hub.world.opt_out(account, own, other_hash).standing().is_some();
        let mut state = hub.state();
        let (who, now) = ((account, other_hash.to_owned()), state.now);
        if stands {
            state.watch.stopped.entry(who).or_insert(now);
        } else {
            state.watch.stopped.remove(&who);
        }
    }

    /// A message is handed to Twilio.
    pub fn posted(state: &mut State, world: &World, message: MessageId) {
        let Some(row) = state.watch.accounts.iter().find_map(|account| row(world, *account, message)) else { return };
        let stopped = state.watch.stopped.get(&(row.account, row.other_hash));
        if stopped.is_some_and(|stopped| state.watch.claimed.get(&message).is_some_and(|claimed| stopped < claimed)) {
            state.violated(Invariant::StopKept, Some(message), "its recipient had said STOP");
        }
    }

    /// Twilio takes a message.
    pub fn taken(state: &mut State, message: MessageId) {
        if !state.watch.taken.insert(message) {
            state.violated(Invariant::NoDoubles, Some(message), "Twilio took it twice");
        }
    }

    /// Whether every row has its end.
    pub fn rows_rest(watch: &Watch, world: &World) -> bool {
        watch.accounts.iter().all(|account| world.messages_of(*account).iter().all(|row| rests(world, row)))
    }

    /// It did not come to rest: what is in the way.
    pub fn tell_unrest(hub: &Hub) {
        let accounts = hub.state().watch.accounts.clone();
        for account in accounts {
            for row in hub.world.messages_of(account) {
                if !rests(&hub.world, &row) {
                    let payload = hub.world.payload_of(account, row.id).is_some();
                    let invariant = match (row.status.standing(), row.settled) {
                        (Standing::Waiting, _) => Invariant::NothingLost,
                        (_, false) => Invariant::EachHoldEnds,
                        (_, true) => Invariant::NoPayloadLeft,
                    };
                    let what = format!("{:?}, settled: {}, payload: {payload}", row.status, row.settled);
                    hub.state().violated(invariant, Some(row.id), what);
                }
            }
        }
        hub.state().violated(Invariant::NothingLost, None, "it does not come to rest");
    }

    /// When all is at rest.
    pub fn check_end(hub: &Hub) {
        let world = &hub.world;
        let mut rows = BTreeMap::new();
        let accounts = hub.state().watch.accounts.clone();
        for account in accounts.iter().copied() {
            rows.extend(world.messages_of(account).into_iter().map(|row| (row.id, row)));
        }
        let mut state = hub.state();
        check_answers(&mut state, &rows);
        check_twilio(&mut state, &rows);
        check_texts(&mut state, &rows);
        for account in accounts {
            check_ledger(&mut state, world, account, &rows);
            check_usage(&mut state, world, account, &rows);
        }
        if world.holds_in_clear(MARK) {
            state.violated(Invariant::NoPayloadLeft, None, "a text lies in clear");
        }
    }
}

fn rests(world: &World, row: &Message) -> bool {
    row.settled && row.status.standing() != Standing::Waiting && world.payload_of(row.account, row.id).is_none()
}

type Rows = BTreeMap<MessageId, Message>;

/// Each message that somebody was told of is there. (That each row has its end is what rest means.)
fn check_answers(state: &mut State, rows: &Rows) {
    let answered: Vec<_> = state.callers.answered().collect();
    for (account, id) in answered {
        if rows.get(&id).is_none_or(|row| row.account != account) {
            state.violated(Invariant::NothingLost, Some(id), "it was answered with 202 and is not there");
        }
    }
    for id in state.watch.canceled.clone() {
        if rows.get(&id).is_none_or(|row| row.status != Status::Canceled) {
            state.violated(Invariant::Truthful, Some(id), "it was taken back, and goes on");
        }
    }
}

/// Rows and what Twilio has say the same.
fn check_twilio(state: &mut State, rows: &Rows) {
    let mut owners: BTreeMap<&str, Vec<&Message>> = BTreeMap::new();
    for row in rows.values().filter(|row| row.direction == Direction::Outbound) {
        if let Some(sid) = &row.sid {
            owners.entry(sid).or_default().push(row);
        }
        if row.status.standing() == Standing::AtCarrier
            && row.sid.as_ref().is_none_or(|sid| !state.twilio.taken.contains_key(sid))
        {
            state.violated(Invariant::Truthful, Some(row.id), format!("{:?}, and Twilio never took it", row.status));
        }
    }
    let intents = state.callers.intents();
    for (sid, taken) in state.twilio.taken.clone() {
        let id = taken.message;
        // Identical messages are interchangeable.
        let alike = |row: &Message| {
            row.id == id
                || intents.get(&row.id).is_some_and(|(account, to, text)| {
                    rows.get(&id).is_some_and(|row| row.account == *account) && *to == taken.to && *text == taken.body
                })
        };
        match owners.get(sid.as_str()).map(Vec::as_slice) {
            Some([row]) if alike(row) => {
                let told = row.status.rank();
                let heard = taken.heard.iter().filter_map(|word| status_of_twilio(word));
                if heard.map(Status::rank).max().is_some_and(|heard| told < heard) {
                    let what = format!("{:?}, and Twilio told {:?}", row.status, taken.heard);
                    state.violated(Invariant::NothingSignedLost, Some(row.id), what);
                }
                let stands = status_of_twilio(taken.word);
                if stands.is_none_or(|stands| told > stands.rank() || (told == 30 && row.status != stands)) {
                    state.violated(Invariant::Truthful, Some(row.id), format!("{:?} is {}", row.status, taken.word));
                }
            }
            // The known gap of docs/decisions/0011: the one that was sent was not posted when the other was looked for.
            Some([one, other]) if alike(one) && alike(other) => state.shared_sid(),
            Some(several) => {
                let ids: Vec<_> = several.iter().map(|row| (row.id, row.status)).collect();
                state.violated(Invariant::Truthful, Some(id), format!("{sid} belongs to {ids:?}"));
            }
            None => {
                let status = rows.get(&id).map(|row| row.status);
                let what = format!("{status:?}, and Twilio has it as {sid} and told {:?}", taken.heard);
                let heard = !taken.heard.is_empty();
                let invariant = if heard { Invariant::NothingSignedLost } else { Invariant::Truthful };
                state.violated(invariant, Some(id), what);
            }
        }
    }
    for id in state.callers.resent_twice() {
        state.violated(Invariant::NoDoubles, Some(id), "it was sent again twice");
    }
}

/// Each text that was answered with 2xx is there, once.
fn check_texts(state: &mut State, rows: &Rows) {
    let mut arrived: BTreeMap<(AccountId, &str), usize> = BTreeMap::new();
    for row in rows.values().filter(|row| row.direction == Direction::Inbound) {
        *arrived.entry((row.account, row.sid.as_deref().unwrap_or_default())).or_default() += 1;
    }
    let taken: BTreeSet<_> = state.callers.taken_texts().collect();
    let lost: Vec<_> =
        taken.iter().filter(|text| arrived.get(*text) != Some(&1)).map(|text| text.1.to_owned()).collect();
    let twice: Vec<_> = arrived.iter().filter(|(_, n)| **n != 1).map(|(text, _)| text.1.to_owned()).collect();
    for sid in lost.into_iter().chain(twice) {
        state.violated(Invariant::NothingSignedLost, None, format!("the text {sid} is not there once"));
    }
}

/// Each hold became one entry or went back, and nothing else was charged.
fn check_ledger(state: &mut State, world: &World, account: AccountId, rows: &Rows) {
    let allowance = world.allowance(account).unwrap();
    let posted = world.charges(account);
    let mut charged: BTreeMap<MessageId, usize> = BTreeMap::new();
    for (entry, event) in &posted {
        let Some(row) = event.message.and_then(|message| rows.get(&message)) else {
            state.violated(Invariant::EachHoldEnds, event.message, format!("charged for nothing: {event:?}"));
            continue;
        };
        *charged.entry(row.id).or_default() += 1;
        let right = row.sid.as_ref() == Some(&event.sid)
            && row.held.plus() == event.credits
            && i64::from(row.segments) == event.units
            && entry.balanced();
        if !right {
            state.violated(Invariant::EachHoldEnds, Some(row.id), format!("charged: {event:?}"));
        }
    }
    let mut sharing: BTreeMap<&str, Vec<MessageId>> = BTreeMap::new();
    for row in rows.values() {
        if let Some(sid) = &row.sid {
            sharing.entry(sid).or_default().push(row.id);
        }
    }
    for row in rows.values().filter(|row| row.account == account) {
        let wanted = match row.status.standing() {
            Standing::AtCarrier | Standing::Arrived => 1,
            Standing::Over | Standing::Waiting => 0,
        };
        let n: usize = match &row.sid {
            // Of identical messages that share a SID one is charged.
            Some(sid) => sharing.get(sid.as_str()).into_iter().flatten().filter_map(|id| charged.get(id)).sum(),
            None => charged.get(&row.id).copied().unwrap_or(0),
        };
        if n != wanted {
            state.violated(Invariant::EachHoldEnds, Some(row.id), format!("{:?} is charged {n} times", row.status));
        }
    }
    let used = posted.iter().fold(Change::ZERO, |sum, (_, event)| sum.and(event.credits));
    let credit = MicroCredits(state.watch.credit[&account]).plus();
    let right = (credit.and(used.back()), MicroCredits(0), used.above());
    if (allowance.free, allowance.held, allowance.used) != right {
        state.violated(Invariant::EachHoldEnds, None, format!("{allowance:?}, entries: {used:?}, credit: {credit:?}"));
    }
}

/// Hours, days and months each add up to the entries, what failed to the messages that did, and nothing waits to be
/// counted.
fn check_usage(state: &mut State, world: &World, account: AccountId, rows: &Rows) {
    let (mut entries, mut failed) = (UsageSums::default(), UsageSums::default());
    for (entry, _) in world.charges(account) {
        entries = entries.plus(entry.sums());
    }
    for row in rows.values().filter(|row| row.account == account) {
        if matches!(row.status, Status::Rejected | Status::Undelivered | Status::Failed) {
            failed = failed.plus(UsageSums { events: 1, units: i64::from(row.segments), credits: Change::ZERO });
        }
    }
    for (about, wanted) in [(About::Usage, entries), (About::Failures, failed)] {
        for granularity in Granularity::ALL {
            let there = world.clone();
            let read = async move { there.read_usage(account, about, granularity, ("0", "9"), None, u16::MAX).await };
            let rows = at_once(Box::pin(read)).unwrap().rows;
            let counted = rows.into_iter().fold(UsageSums::default(), |sum, (_, row)| sum.plus(row));
            if counted != wanted {
                let what = format!("{about:?}, {granularity:?}: {counted:?} is not {wanted:?}");
                state.violated(Invariant::UsageAddsUp, None, what);
            }
        }
    }
    for shard in 0..telbuddy::ledger::JOURNAL_SHARDS {
        let there = world.clone();
        let waiting = at_once(Box::pin(async move { there.load_journal(shard, 1).await })).unwrap();
        if !waiting.is_empty() {
            state.violated(Invariant::UsageAddsUp, None, "the journal is not empty");
        }
    }
}
