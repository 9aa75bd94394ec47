//! Posting outcomes: once, and no credit appears or vanishes.

use crate::ledger::Posted;
use crate::message::Seen;
use futures::future::join;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::ids::AccountId;
use crate::ledger::{Change, PostOutcome, ReadUsage};
use crate::message::{
    ClaimMessage, FindDue, Message, Outcome, ReadMessages, RecordInbound, RecordMessage, RecordOutcome, due_shard,
};
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, account, charge, claimed, secs};

/// A message with three credits held that came to this outcome.
async fn ended<W>(world: &W, account: AccountId, outcome: &Outcome) -> Message
where
    W: RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + Clock + Chance,
{
    let outgoing = fresh::outgoing(world, account, 3, world.now());
    world.record_message(&outgoing).await.unwrap();
    let claim = claimed(world, &outgoing.message, world.now()).await;
    assert_eq!(world.record_outcome(&claim, outcome, world.now()).await, Ok(outcome.status()));
    world.load_message(account, outgoing.message.id).await.unwrap().unwrap()
}

fn sent<W: Chance>(world: &W) -> Outcome {
    Outcome::Sent { sid: fresh::word(world) }
}

/// Available, held and used, in whole credits.
async fn credits<W: ReadUsage>(world: &W, account: AccountId) -> (u64, u64, u64) {
    let allowance = world.load_allowance(account).await.unwrap().unwrap();
    (allowance.available().0 / 1_000_000, allowance.held.0 / 1_000_000, allowance.used.0 / 1_000_000)
}

pub async fn a_charge_is_posted_once_and_no_credit_appears_or_vanishes<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let message = ended(world, account, &sent(world)).await;
    ended(world, account, &sent(world)).await;
    assert_eq!(credits(world, account).await, (4, 6, 0));
    // Each worker names its own entry.
    let items: Vec<_> = (0..16).map(|_| charge(world, &message, world.now())).collect();
    let answers = at_once(16, |n| world.post_charge(&message, items[n].clone(), world.now(), &[], None)).await;
    let charged = count(&answers, &Ok(Posted::Charged));
    assert_eq!((charged, count(&answers, &Ok(Posted::Before))), (1, 15), "{answers:?}");
    assert_eq!(credits(world, account).await, (4, 3, 3));
    let late = charge(world, &message, world.now());
    assert_eq!(world.post_charge(&message, late, world.now(), &[], None).await, Ok(Posted::Before));
    assert_eq!(credits(world, account).await, (4, 3, 3));
}

pub async fn a_release_gives_the_hold_back_once<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let message = ended(world, account, &Outcome::Rejected { code: Some(21211) }).await;
    ended(world, account, &Outcome::Expired).await;
    let answers = at_once(16, |_| world.post_release(&message, world.now(), &[], None)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 15), "{answers:?}");
    assert_eq!(credits(world, account).await, (7, 3, 0));
}

pub async fn of_a_charge_and_a_release_at_once_one_is_posted<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let message = ended(world, account, &sent(world)).await;
    let item = charge(world, &message, world.now());
    let (charged, released) = join(
        world.post_charge(&message, item, world.now(), &[], None),
        world.post_release(&message, world.now(), &[], None),
    )
    .await;
    let expected = match (charged, released) {
        (Ok(Posted::Charged), Ok(false)) => (7, 0, 3),
        (Ok(Posted::Before), Ok(true)) => (10, 0, 0),
        other => panic!("both or none: {other:?}"),
    };
    assert_eq!(credits(world, account).await, expected);
}

pub async fn a_posted_message_is_settled_and_no_longer_due<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + FindDue
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let late = now + secs(86_400);
    let charged = ended(world, account, &sent(world)).await;
    let released = ended(world, account, &Outcome::Expired).await;
    let is_due = async |message: &Message| {
        let found = world.find_due(due_shard(message.id), late, 1_000).await.unwrap();
        found.contains(&(account, message.id))
    };
    assert!(is_due(&charged).await && is_due(&released).await);
    let item = charge(world, &charged, now);
    assert_eq!(world.post_charge(&charged, item, now + secs(1), &[], None).await, Ok(Posted::Charged));
    assert_eq!(world.post_release(&released, now + secs(1), &[], None).await, Ok(true));
    for message in [charged, released] {
        let row = world.load_message(account, message.id).await.unwrap().unwrap();
        let settled = Message {
            settled: true,
            released: row.released,
            revision: message.revision + 1,
            updated: now + secs(1),
            ..message.clone()
        };
        assert_eq!(row, settled);
        assert!(!is_due(&message).await);
    }
}

pub async fn one_sid_is_charged_once<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let outcome = sent(world);
    let (one, two) = (ended(world, account, &outcome).await, ended(world, account, &outcome).await);
    assert_eq!(
        world.post_charge(&one, charge(world, &one, world.now()), world.now(), &[], None).await,
        Ok(Posted::Charged)
    );
    let second = world.post_charge(&two, charge(world, &two, world.now()), world.now(), &[], None).await;
    assert_eq!(second, Ok(Posted::SidTaken), "one of Twilio's messages is paid once");
    assert_eq!(credits(world, account).await, (4, 3, 3));
}

pub async fn a_text_that_arrived_is_posted_without_a_hold<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let text = fresh::inbound(world, account, world.now());
    assert_eq!(world.record_inbound(&text, world.now()).await, Ok(Seen::First));
    let item = charge(world, &text, world.now());
    assert_eq!(item.usage.as_ref().unwrap().credits, Change::ZERO);
    assert_eq!(world.post_charge(&text, item.clone(), world.now(), &[], None).await, Ok(Posted::Charged));
    assert_eq!(world.post_charge(&text, item, world.now(), &[], None).await, Ok(Posted::Before));
    assert_eq!(credits(world, account).await, (10, 0, 0));
}
