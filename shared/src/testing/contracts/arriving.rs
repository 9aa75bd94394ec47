//! Texts that arrive.

use super::{at_once, count};
use crate::ids::{AccountId, MessageId};
use crate::message::Seen;
use crate::message::{Message, ReadMessages, RecordInbound};
use crate::platform::{Chance, Clock};
use crate::testing::fresh;

pub async fn a_text_is_recorded_once_however_often_it_comes<W>(world: &W)
where
    W: RecordInbound + ReadMessages + Clock + Chance,
{
    let (account, now) = (AccountId::new(world.now(), fresh::dice(world)), world.now());
    let text = fresh::inbound(world, account, now);
    // Each delivery of the webhook got an id of its own.
    let id = |_| MessageId::new(now, fresh::dice(world));
    let copies: Vec<_> = (0..50).map(|n| Message { id: id(n), ..text.clone() }).collect();
    let answers = at_once(50, |n| world.record_inbound(&copies[n], now)).await;
    let before = Ok(Seen::Before(now));
    assert_eq!((count(&answers, &Ok(Seen::First)), count(&answers, &before)), (1, 49), "{answers:?}");
    let winner = answers.iter().position(|answer| *answer == Ok(Seen::First)).unwrap();
    assert_eq!(world.list_messages(account, None, 100).await, Ok(vec![copies[winner].clone()]));
    let replayed = Message { created: now + fresh::secs(3600), ..copies[winner].clone() };
    assert_eq!(world.record_inbound(&replayed, now).await, before, "what comes again counts as of its first arrival");
}

pub async fn the_same_sid_in_another_account_is_another_text<W>(world: &W)
where
    W: RecordInbound + ReadMessages + Clock + Chance,
{
    let now = world.now();
    let [ours, theirs] = [0, 1].map(|_| AccountId::new(now, fresh::dice(world)));
    let text = fresh::inbound(world, theirs, now);
    assert_eq!(world.record_inbound(&text, now).await, Ok(Seen::First));
    let other = Message { account: ours, ..text };
    assert_eq!(world.record_inbound(&other, now).await, Ok(Seen::First));
    assert_eq!(world.load_message(ours, other.id).await, Ok(Some(other)));
}
