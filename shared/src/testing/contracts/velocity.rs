//! Counters of what is handed over.

use std::collections::BTreeSet;

use super::at_once;
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, secs};
use crate::velocity::{CountPassing, Mark, Minute};

fn minute<W: Clock + Chance>(world: &W) -> Minute {
    let account = AccountId::from_bits(fresh::dice(world));
    Minute::of(account, jiff::Timestamp::UNIX_EPOCH, world.now())
}

fn marks<W: Chance>(world: &W, n: usize) -> BTreeSet<Mark> {
    (0..n).map(|_| Mark::stored(fresh::word(world))).collect()
}

pub async fn an_account_is_counted_exactly_by_fifty_batches_at_once<W: CountPassing + Clock + Chance>(world: &W) {
    let minute = minute(world);
    let mut totals: Vec<_> =
        at_once(50, |_| world.count_account(minute, 10)).await.into_iter().map(Result::unwrap).collect();
    totals.sort_unstable();
    assert_eq!(totals, (1..=50).map(|n| n * 10).collect::<Vec<_>>(), "no two batches see the same total");
}

pub async fn a_prefix_is_counted_exactly_by_fifty_batches_at_once<W: CountPassing + Clock + Chance>(world: &W) {
    let minute = minute(world);
    let batches: Vec<_> = (0..50).map(|_| marks(world, 3)).collect();
    let seen = at_once(50, |n| world.count_prefix(minute, "prefix", &batches[n])).await;
    let mut sizes = Vec::new();
    for (seen, batch) in seen.into_iter().map(Result::unwrap).zip(&batches) {
        assert!(seen.is_superset(batch), "a batch sees itself");
        sizes.push(seen.len());
    }
    sizes.sort_unstable();
    assert_eq!(sizes, (1..=50).map(|n| n * 3).collect::<Vec<_>>(), "of any two batches one sees the other");
}

pub async fn the_same_message_in_a_prefix_counts_once<W: CountPassing + Clock + Chance>(world: &W) {
    let (minute, batch) = (minute(world), marks(world, 5));
    for _ in 0..2 {
        assert_eq!(world.count_prefix(minute, "prefix", &batch).await, Ok(batch.clone()));
    }
    let more = marks(world, 2);
    let both = batch.union(&more).cloned().collect();
    assert_eq!(world.count_prefix(minute, "prefix", &more).await, Ok(both));
}

pub async fn counters_are_of_one_account_minute_prefix_and_beginning<W>(world: &W)
where
    W: CountPassing + Clock + Chance,
{
    let (first, batch) = (minute(world), marks(world, 2));
    world.count_account(first, 7).await.unwrap();
    world.count_prefix(first, "prefix", &batch).await.unwrap();
    let others = [
        Minute { account: AccountId::from_bits(fresh::dice(world)), ..first },
        Minute { minute: first.minute + 1, ..first },
        Minute { counts_from: world.now() + secs(1), ..first },
    ];
    let one = marks(world, 1);
    for other in others {
        assert_eq!(world.count_account(other, 1).await, Ok(1), "{other:?}");
        assert_eq!(world.count_prefix(other, "prefix", &one).await, Ok(one.clone()), "{other:?}");
    }
    assert_eq!(world.count_prefix(first, "another", &one).await, Ok(one));
    assert_eq!(world.count_account(first, 1).await, Ok(8));
}
