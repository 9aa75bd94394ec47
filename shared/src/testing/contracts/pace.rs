//! Lines of senders.

use super::at_once;
use crate::ids::AccountId;
use crate::pace::TakeSlots;
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, secs};

const OWN: &str = fresh::OWN;

fn account<W: Chance>(world: &W) -> AccountId {
    AccountId::from_bits(fresh::dice(world))
}

pub async fn of_fifty_at_once_each_gets_a_stretch_of_its_own<W: TakeSlots + Clock + Chance>(world: &W) {
    let (account, now) = (account(world), world.now());
    let taken = at_once(50, |_| world.take_slots(account, OWN, secs(3), now, now + secs(3_600))).await;
    let mut starts: Vec<_> = taken.into_iter().map(|start| start.unwrap().unwrap()).collect();
    starts.sort_unstable();
    assert_eq!(starts, (0..50).map(|n| now + secs(3 * n)).collect::<Vec<_>>());
}

pub async fn a_line_begins_anew_once_its_end_has_passed<W: TakeSlots + Clock + Chance>(world: &W) {
    let (account, now) = (account(world), world.now());
    let take = async |at| world.take_slots(account, OWN, secs(10), at, at + secs(3_600)).await.unwrap().unwrap();
    assert_eq!(take(now).await, now);
    assert_eq!(take(now + secs(9)).await, now + secs(10));
    assert_eq!(take(now + secs(20)).await, now + secs(20), "its end is now: nobody is in it");
    assert_eq!(take(now + secs(99)).await, now + secs(99));
}

pub async fn a_line_that_is_too_long_is_not_joined_and_not_made_longer<W: TakeSlots + Clock + Chance>(world: &W) {
    let (account, now) = (account(world), world.now());
    let take = async |latest| world.take_slots(account, OWN, secs(60), now, now + secs(latest)).await.unwrap();
    assert_eq!(take(60).await, Some(now));
    for _ in 0..3 {
        assert_eq!(take(60).await, None);
    }
    assert_eq!(take(61).await, Some(now + secs(60)), "the others took nothing");
}

pub async fn each_sender_of_each_account_has_a_line<W: TakeSlots + Clock + Chance>(world: &W) {
    let (one, other, now) = (account(world), account(world), world.now());
    for (account, own) in [(one, OWN), (other, OWN), (one, "12345")] {
        assert_eq!(world.take_slots(account, own, secs(60), now, now + secs(61)).await, Ok(Some(now)));
    }
}
