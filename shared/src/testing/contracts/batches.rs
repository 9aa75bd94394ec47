//! Requests for many recipients, messages that wait for their time, and taking back.

use futures::future::join;
use jiff::{SignedDuration, Timestamp};

use super::{at_once, count};
use crate::account::{CreateAccount, QuietHours};
use crate::ids::{AccountId, BatchId, MessageId};
use crate::ledger::{MicroCredits, PostOutcome, ReadUsage};
use crate::message::{
    Batch, CancelMessage, Canceled, Chunk, ChunkRecorded, Claim, ClaimMessage, Fence, FindDue, IDEMPOTENCY_LIFE,
    Idempotency, LOOK_AGAIN, Message, Outcome, ReadMessages, RecordBatch, RecordMessage, RecordOutcome, Recorded,
    RowOutcome, Status, due_shard,
};
use crate::platform::{Chance, Clock};
use crate::seal::Sealed;
use crate::testing::fresh::{self, account, claimed, secs};

fn quiet() -> QuietHours {
    QuietHours { from: "21:00".parse().unwrap(), to: "08:00".parse().unwrap() }
}

fn record<W: Clock + Chance>(world: &W) -> Idempotency {
    let batch = Batch {
        id: BatchId::from_bits(fresh::dice(world)),
        created: world.now(),
        quiet_hours: Some(quiet()),
        template: Some(Sealed(fresh::word(world).into_bytes())),
        outcomes: Vec::new(),
    };
    let other = fresh::outgoing(world, AccountId::from_bits(1), 1, world.now()).idempotency;
    Idempotency { answer: String::new(), batch: Some(batch), expires: world.now() + IDEMPOTENCY_LIFE, ..other }
}

/// The next `n` messages of a batch, and one row that is none.
fn chunk<W: Clock + Chance>(world: &W, account: AccountId, record: &Idempotency, n: usize) -> Chunk {
    let batch = record.batch.clone().unwrap();
    let first = batch.outcomes.len();
    let message = |row| {
        let outgoing = fresh::outgoing(world, account, 2, world.now());
        (Message { id: batch.message_id(row), ..outgoing.message }, outgoing.payload)
    };
    let mut outcomes = vec![RowOutcome::NotANumber];
    outcomes.extend(std::iter::repeat_n(RowOutcome::Accepted, n));
    Chunk {
        account,
        key: record.key.clone(),
        messages: (first + 1..=first + n).map(message).collect(),
        outcomes,
        daily_ceiling: 500,
        room: MicroCredits::ZERO,
        now: world.now(),
        batch,
    }
}

async fn begun<W: RecordBatch + Clock + Chance>(world: &W, account: AccountId) -> Idempotency {
    let record = record(world);
    assert_eq!(world.begin_batch(account, &record, world.now()).await, Ok(None));
    record
}

/// Available and held, in whole credits, and the day's segments.
async fn state<W: ReadUsage>(world: &W, account: AccountId) -> (u64, u64, u64) {
    let allowance = world.load_allowance(account).await.unwrap().unwrap();
    (allowance.available().0 / 1_000_000, allowance.held.0 / 1_000_000, allowance.day_segments)
}

pub async fn of_many_beginnings_of_a_batch_one_counts<W>(world: &W)
where
    W: CreateAccount + RecordBatch + RecordMessage + Clock + Chance,
{
    let account = account(world, 10).await;
    let first = record(world);
    let records: Vec<_> = (0..8).map(|_| Idempotency { key: first.key.clone(), ..record(world) }).collect();
    let answers = at_once(8, |n| world.begin_batch(account, &records[n], world.now())).await;
    assert_eq!(count(&answers, &Ok(None)), 1, "{answers:?}");
    let winner = &records[answers.iter().position(|answer| *answer == Ok(None)).unwrap()];
    assert_eq!(count(&answers, &Ok(Some(winner.clone()))), 7, "{answers:?}");
    // One key, whatever it was used for.
    let single = fresh::outgoing(world, account, 1, world.now());
    let single = crate::message::Outgoing {
        idempotency: Idempotency { key: first.key.clone(), ..single.idempotency.clone() },
        ..single
    };
    assert_eq!(world.record_message(&single).await, Ok(Recorded::Earlier(winner.clone())));
    let later = winner.expires;
    assert_eq!(world.begin_batch(account, &first, later).await, Ok(None), "forgotten by then");
}

pub async fn a_chunk_is_recorded_whole_with_one_hold<W>(world: &W)
where
    W: CreateAccount + RecordBatch + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 200).await;
    let record = begun(world, account).await;
    let chunk = chunk(world, account, &record, crate::message::CHUNK);
    assert_eq!(world.record_chunk(&chunk).await, Ok(ChunkRecorded::Recorded));
    assert_eq!(state(world, account).await, (20, 180, 180));
    for (message, _) in [&chunk.messages[0], &chunk.messages[89]] {
        assert_eq!(world.load_message(account, message.id).await, Ok(Some(message.clone())));
    }
    let earlier = world.begin_batch(account, &record, world.now()).await.unwrap().unwrap();
    let begun = record.batch.clone().unwrap();
    assert_eq!(earlier.batch.unwrap(), Batch { outcomes: chunk.outcomes.clone(), ..begun }, "and keeps its template");
    // The same chunk again is not recorded: the batch has moved on.
    let moved = Batch { outcomes: chunk.outcomes.clone(), ..chunk.batch.clone() };
    assert_eq!(world.record_chunk(&chunk).await, Ok(ChunkRecorded::Moved(moved)));
    assert_eq!(state(world, account).await, (20, 180, 180));
}

pub async fn of_one_chunk_at_once_one_is_recorded<W>(world: &W)
where
    W: CreateAccount + RecordBatch + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 100).await;
    let record = begun(world, account).await;
    let chunk = chunk(world, account, &record, 3);
    let answers = at_once(8, |_| world.record_chunk(&chunk)).await;
    let moved = Batch { outcomes: chunk.outcomes.clone(), ..chunk.batch.clone() };
    let counts = (count(&answers, &Ok(ChunkRecorded::Recorded)), count(&answers, &Ok(ChunkRecorded::Moved(moved))));
    assert_eq!(counts, (1, 7), "{answers:?}");
    assert_eq!(state(world, account).await, (94, 6, 6));
    assert_eq!(world.list_messages(account, None, 100).await.unwrap().len(), 3);
}

pub async fn a_chunk_that_is_not_covered_writes_nothing<W>(world: &W)
where
    W: CreateAccount + RecordBatch + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 5).await;
    let record = begun(world, account).await;
    let too_dear = chunk(world, account, &record, 3);
    let over_the_ceiling = Chunk { daily_ceiling: 3, ..chunk(world, account, &record, 2) };
    for chunk in [too_dear, over_the_ceiling] {
        let ChunkRecorded::Refused(allowance) = world.record_chunk(&chunk).await.unwrap() else { panic!("recorded") };
        assert_eq!((allowance.available(), allowance.held), (MicroCredits::whole(5), MicroCredits(0)));
    }
    assert_eq!(state(world, account).await, (5, 0, 0));
    assert_eq!(world.list_messages(account, None, 100).await, Ok(Vec::new()));
    // Rows that are no message need no cover.
    let none = chunk(world, account, &record, 0);
    assert_eq!(world.record_chunk(&none).await, Ok(ChunkRecorded::Recorded));
    let moved = Idempotency { batch: Some(Batch { outcomes: none.outcomes, ..none.batch }), ..record };
    assert_eq!(world.record_chunk(&chunk(world, account, &moved, 2)).await, Ok(ChunkRecorded::Recorded));
    assert_eq!(state(world, account).await, (1, 4, 4));
}

pub async fn a_chunk_on_a_new_day_counts_that_day<W>(world: &W)
where
    W: CreateAccount + RecordBatch + ReadUsage + Clock + Chance,
{
    let account = account(world, 100).await;
    let record = begun(world, account).await;
    let today = chunk(world, account, &record, 2);
    assert_eq!(world.record_chunk(&today).await, Ok(ChunkRecorded::Recorded));
    let record = begun(world, account).await;
    let tomorrow = Chunk { now: world.now() + SignedDuration::from_hours(24), ..chunk(world, account, &record, 3) };
    assert_eq!(world.record_chunk(&tomorrow).await, Ok(ChunkRecorded::Recorded));
    assert_eq!(state(world, account).await, (90, 10, 6));
}

/// A message that waits until then.
async fn held<W: RecordMessage + Clock + Chance>(world: &W, account: AccountId, until: Timestamp) -> Message {
    let mut outgoing = fresh::outgoing(world, account, 1, world.now());
    (outgoing.message.status, outgoing.message.held_until) = (Status::Held, Some(until));
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
    outgoing.message
}

async fn claim<W: ClaimMessage + Chance>(world: &W, message: &Message, at: Timestamp) -> Claim {
    world.claim_message(message.account, message.id, Fence(fresh::dice(world)), at).await.unwrap()
}

async fn is_due<W: FindDue>(world: &W, message: &Message, at: Timestamp) -> bool {
    let found = world.find_due(due_shard(message.id), at, 1_000).await.unwrap();
    found.contains(&(message.account, message.id))
}

pub async fn a_held_message_goes_out_at_its_time_and_not_before<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ClaimMessage + FindDue + Clock + Chance,
{
    let (account, until) = (account(world, 10).await, world.now() + secs(7_200));
    let message = held(world, account, until).await;
    assert_eq!(world.load_message(account, message.id).await, Ok(Some(message.clone())));
    assert_eq!(claim(world, &message, until - secs(1)).await, Claim::TooEarly(until));
    assert_eq!((is_due(world, &message, until - secs(1)).await, is_due(world, &message, until).await), (false, true));
    assert!(matches!(claim(world, &message, until).await, Claim::Mine(_)));
}

pub async fn what_is_not_handed_over_can_be_taken_back<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ReadMessages
        + ClaimMessage
        + RecordOutcome
        + CancelMessage
        + PostOutcome
        + ReadUsage
        + FindDue
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let waits = held(world, account, now + secs(7_200)).await;
    let accepted = fresh::accepted(world, account, now).await;
    let retried = fresh::accepted(world, account, now).await;
    let first = claimed(world, &retried, now).await;
    world.record_outcome(&first, &Outcome::Retry { not_before: now + secs(30) }, now).await.unwrap();
    for message in [&waits, &accepted, &retried] {
        let Canceled::Canceled(canceled) = world.cancel_message(account, message.id, now).await.unwrap() else {
            panic!("too late for {message:?}")
        };
        assert_eq!((canceled.status, canceled.updated), (Status::Canceled, now));
        let again = world.cancel_message(account, message.id, now + secs(1)).await;
        assert_eq!(again, Ok(Canceled::Canceled(canceled.clone())), "once is enough");
        assert_eq!(claim(world, message, now + secs(9_000)).await, Claim::Done);
        assert!(is_due(world, message, now + LOOK_AGAIN).await, "a lost hint to give the hold back is found");
        assert_eq!(world.post_release(&canceled, now, &[], None).await, Ok(true));
    }
    assert_eq!(state(world, account).await.0, 10, "every hold came back");
    assert_eq!(world.cancel_message(account, MessageId::from_bits(1), now).await, Ok(Canceled::NotFound));
    let other = self::account(world, 1).await;
    assert_eq!(world.cancel_message(other, waits.id, now).await, Ok(Canceled::NotFound));
}

pub async fn what_is_handed_over_cannot_be_taken_back<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + CancelMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    for outcome in [Outcome::Sent { sid: fresh::word(world) }, Outcome::Unknown, Outcome::Rejected { code: None }] {
        let message = fresh::accepted(world, account, now).await;
        let first = claimed(world, &message, now).await;
        let too_late = world.cancel_message(account, message.id, now).await;
        assert_eq!(too_late, Ok(Canceled::TooLate(first.message.clone())));
        assert_eq!(world.record_outcome(&first, &outcome, now).await, Ok(outcome.status()));
        let too_late = world.cancel_message(account, message.id, now).await.unwrap();
        assert!(matches!(too_late, Canceled::TooLate(message) if message.status == outcome.status()));
    }
}

pub async fn of_a_cancel_and_a_claim_at_once_one_wins<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + CancelMessage + Clock + Chance,
{
    let (account, now) = (account(world, 50).await, world.now());
    for _ in 0..20 {
        let message = fresh::accepted(world, account, now).await;
        let (claim, cancel) = join(claim(world, &message, now), world.cancel_message(account, message.id, now)).await;
        match (&claim, &cancel) {
            (Claim::Mine(_), Ok(Canceled::TooLate(_))) | (Claim::Done, Ok(Canceled::Canceled(_))) => {}
            both => panic!("exactly one: {both:?}"),
        }
    }
}
