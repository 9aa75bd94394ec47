//! What the sweeper finds. The list is the whole store's, so each fact looks for its own messages in it.

use crate::account::CreateAccount;
use crate::ids::{AccountId, MessageId};
use crate::ledger::PostOutcome;
use crate::message::Seen;
use crate::message::{
    ClaimMessage, FIRST_LISTING, FindDue, LEASE, LOOK_AGAIN, Message, Outcome, ReadMessages, RecordInbound,
    RecordMessage, RecordOutcome, Status, due_shard,
};
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, accepted, account, claimed, secs};
use jiff::Timestamp;

/// An account's messages in one shard of the list.
async fn due_of<W: FindDue>(world: &W, account: AccountId, shard: u8, now: Timestamp) -> Vec<MessageId> {
    let found = world.find_due(shard, now, 1_000).await.unwrap();
    found.into_iter().filter(|(owner, _)| *owner == account).map(|(_, id)| id).collect()
}

async fn is_due<W: FindDue>(world: &W, message: &Message, now: Timestamp) -> bool {
    due_of(world, message.account, due_shard(message.id), now).await.contains(&message.id)
}

pub async fn due_messages_come_earliest_first_and_not_before_their_time<W>(world: &W)
where
    W: RecordInbound + FindDue + Clock + Chance,
{
    let (account, now) = (AccountId::new(world.now(), fresh::dice(world)), world.now());
    let dice = fresh::dice(world);
    let mut ids = Vec::new();
    // All in one shard, recorded latest first; the ids sort in yet another order.
    for (n, after) in [(1_u8, 30), (3, 10), (2, 20)] {
        let id = MessageId::from_bits((dice << 8 | u128::from(n)) << 4);
        let text = Message { id, ..fresh::inbound(world, account, now) };
        assert_eq!(world.record_inbound(&text, now + secs(after)).await, Ok(Seen::First));
        ids.push(text.id);
    }
    let shard = due_shard(ids[0]);
    let [third, first, second] = ids[..] else { panic!("three messages") };
    assert_eq!(due_of(world, account, shard, now + secs(9)).await, []);
    assert_eq!(due_of(world, account, shard, now + secs(20)).await, [first, second]);
    assert_eq!(due_of(world, account, shard, now + secs(60)).await, [first, second, third]);
    assert_eq!(due_of(world, account, (shard + 1) % 16, now + secs(60)).await, []);
}

pub async fn an_outcome_moves_a_message_to_its_next_time<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let [unknown, sent] = [accepted(world, account, now).await, accepted(world, account, now).await];
    assert!(!is_due(world, &unknown, now + LOOK_AGAIN - secs(1)).await);
    assert!(is_due(world, &unknown, now + LOOK_AGAIN).await, "a lost hint is found");
    let claim = claimed(world, &unknown, now).await;
    assert_eq!(world.record_outcome(&claim, &Outcome::Unknown, now).await, Ok(Status::Unknown));
    assert!(!is_due(world, &unknown, now + FIRST_LISTING - secs(1)).await);
    assert!(is_due(world, &unknown, now + FIRST_LISTING).await, "it is looked for");
    let claim = claimed(world, &sent, now).await;
    let outcome = Outcome::Sent { sid: fresh::word(world) };
    assert_eq!(world.record_outcome(&claim, &outcome, now + secs(5)).await, Ok(Status::Sent));
    assert!(!is_due(world, &sent, now + secs(4) + LOOK_AGAIN).await);
    assert!(is_due(world, &sent, now + secs(5) + LOOK_AGAIN).await, "its posting is looked after");
}

pub async fn a_claim_is_due_when_its_lease_ends<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let at = now + secs(30);
    let claim = claimed(world, &message, at).await;
    assert!(!is_due(world, &message, at + LEASE - secs(1)).await);
    assert!(is_due(world, &message, at + LEASE).await);
    let not_before = at + secs(200);
    let retry = Outcome::Retry { not_before };
    assert_eq!(world.record_outcome(&claim, &retry, at).await, Ok(Status::Retryable));
    assert!(!is_due(world, &message, not_before - secs(1)).await);
    assert!(is_due(world, &message, not_before).await);
}

pub async fn a_lease_ends_once_and_not_early<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ClaimMessage + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    assert_eq!(world.end_lease(&message, now + LEASE).await, Ok(false), "nobody has it");
    let claim = claimed(world, &message, now).await;
    assert_eq!(world.end_lease(&claim.message, now + LEASE - secs(1)).await, Ok(false));
    assert_eq!(world.end_lease(&claim.message, now + LEASE).await, Ok(true));
    assert_eq!(world.end_lease(&claim.message, now + LEASE).await, Ok(false));
    let row = world.load_message(account, message.id).await.unwrap().unwrap();
    assert_eq!((row.status, row.revision), (Status::Unknown, claim.message.revision + 1));
    assert!(!is_due(world, &message, now + LEASE + FIRST_LISTING - secs(1)).await);
    assert!(is_due(world, &message, now + LEASE + FIRST_LISTING).await, "it is looked for");
}

pub async fn a_later_look_needs_the_same_revision<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ReadMessages
        + ClaimMessage
        + RecordOutcome
        + PostOutcome
        + FindDue
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    assert_eq!(world.look_again(&message, now + secs(600)).await, Ok(true));
    assert!(!is_due(world, &message, now + secs(599)).await);
    assert!(is_due(world, &message, now + secs(600)).await);
    let claim = claimed(world, &message, now).await;
    assert_eq!(world.look_again(&message, now + secs(900)).await, Ok(false), "it moved on");
    assert!(is_due(world, &message, now + LEASE).await);
    world.record_outcome(&claim, &Outcome::Sent { sid: "SM1".to_owned() }, now).await.unwrap();
    let sent = world.load_message(account, message.id).await.unwrap().unwrap();
    assert!(world.post_release(&sent, now, &[], None).await.unwrap());
    let posted = Message { revision: sent.revision + 1, ..sent };
    assert_eq!(world.look_again(&posted, now + secs(900)).await, Ok(false), "what left the list does not come back");
    assert!(!is_due(world, &message, now + secs(900)).await);
}

pub async fn what_nothing_has_to_be_done_about_leaves_the_list<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let claim = claimed(world, &message, now).await;
    world.stop_looking(&message).await.unwrap();
    assert!(is_due(world, &message, now + LEASE).await, "it moved on since it was looked at");
    world.stop_looking(&claim.message).await.unwrap();
    assert!(!is_due(world, &message, now + LEASE).await);
}
