//! Which entries of an open month its statement does not count yet.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};

use crate::ids::EntryId;
use crate::ledger::{Entry, JOURNAL_SHARDS, journal_shard, mark};

/// What the search for uncounted entries found.
pub(super) enum Search {
    /// These.
    Found(HashSet<EntryId>),
    /// None that could be.
    None,
    /// Too many combinations to try them.
    TooMany,
}

/// How far back from when the statement was read an entry may be and not be counted: the widest window that can be
/// searched is taken.
const WINDOWS: [SignedDuration; 3] =
    [SignedDuration::from_hours(1), SignedDuration::from_mins(10), SignedDuration::from_mins(3)];

/// Combinations that are tried for one half of the shards.
const MOST_COMBINATIONS: usize = 300_000;

/// Which `more` entries, whose marks sum to `missing`, are not counted. Each shard of the journal is counted in the
/// order of ids, so it can only be the last ones of each. The shards are searched in two halves that have to meet.
pub(super) fn uncounted(entries: &[Entry], more: u64, missing: u128, as_of: Timestamp) -> Search {
    let more = usize::try_from(more).unwrap_or(usize::MAX);
    let mut too_many = false;
    for window in WINDOWS {
        let since = as_of.checked_sub(window).unwrap_or(Timestamp::MIN);
        let mut shards: Vec<Vec<&Entry>> = vec![Vec::new(); usize::from(JOURNAL_SHARDS)];
        for entry in entries.iter().filter(|entry| entry.posted >= since) {
            if let Some(shard) = shards.get_mut(usize::from(journal_shard(entry.id))) {
                shard.push(entry);
            }
        }
        for shard in &mut shards {
            shard.sort_by_key(|entry| std::cmp::Reverse(entry.id));
            shard.truncate(more);
        }
        let (left, right) = shards.split_at(shards.len() / 2);
        let (Some(left), Some(right)) = (combinations(left), combinations(right)) else {
            too_many = true;
            continue;
        };
        let left: HashMap<(usize, u128), Vec<EntryId>> =
            left.into_iter().map(|ids| ((ids.0.len(), ids.1), ids.0)).collect();
        for (mut ids, sum) in right {
            let Some(number) = more.checked_sub(ids.len()) else { continue };
            let Some(rest) = missing.checked_sub(sum) else { continue };
            if let Some(others) = left.get(&(number, rest)) {
                ids.extend(others);
                return Search::Found(ids.into_iter().collect());
            }
        }
        return if too_many { Search::TooMany } else { Search::None };
    }
    Search::TooMany
}

/// Every choice of how many of the last entries of each shard are not counted, with the sum of their marks.
fn combinations(shards: &[Vec<&Entry>]) -> Option<Vec<(Vec<EntryId>, u128)>> {
    let number = shards.iter().try_fold(1_usize, |number, shard| number.checked_mul(shard.len() + 1))?;
    if number > MOST_COMBINATIONS {
        return None;
    }
    let mut all: Vec<(Vec<EntryId>, u128)> = vec![(Vec::new(), 0)];
    for shard in shards {
        let mut next = all.clone();
        for (ids, sum) in &all {
            let (mut ids, mut sum) = (ids.clone(), *sum);
            for entry in shard {
                ids.push(entry.id);
                sum = sum.saturating_add(mark(entry));
                next.push((ids.clone(), sum));
            }
        }
        all = next;
    }
    Some(all)
}
