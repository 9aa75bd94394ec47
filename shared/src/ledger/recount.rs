//! Counts an account's usage again from its entries, while everything goes on.
//!
//! Rows are read, then all entries, then what waits in the journal, then the rows once more. If the rows are the same both
//! times, nothing was counted in between; so what was counted is exactly what was listed and does not wait. A row that
//! says something else is put right, if it is still as it was read: whatever is counted after that is added to it.

use std::collections::BTreeMap;

use super::{Entry, RecountUsage, RolledUp, Totals, UsageSlot, UsageSums, roll_up};
use crate::fault::Fault;
use crate::ids::AccountId;

/// What is counted of an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Usage rows.
    pub usage: BTreeMap<UsageSlot, UsageSums>,
    /// Months' totals.
    pub totals: BTreeMap<String, Totals>,
}

impl Counted {
    /// Counts entries of the account.
    fn add(&mut self, entries: &[Entry]) {
        let RolledUp { usage, totals } = roll_up(entries);
        for ((_, slot), sums) in usage {
            let there = self.usage.entry(slot).or_default();
            *there = there.plus(sums);
        }
        for ((_, month), more) in totals {
            self.totals.entry(month).or_default().merge(&more);
        }
    }
}

/// A row to put right: what stands there, and what should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A usage row; `None`: it is missing.
    Usage(UsageSlot, Option<UsageSums>, UsageSums),
    /// A month's totals; `None`: they are missing.
    Totals(String, Option<Totals>, Totals),
}

/// Rows that say something else than the entries. One that should not be there says nothing.
pub fn compare(stands: &Counted, should: &Counted) -> Vec<Wrong> {
    let slots = stands.usage.keys().chain(should.usage.keys().filter(|slot| !stands.usage.contains_key(slot)));
    let usage = slots.filter_map(|slot| {
        let (there, right) = (stands.usage.get(slot), should.usage.get(slot).copied().unwrap_or_default());
        (there.copied().unwrap_or_default() != right).then(|| Wrong::Usage(slot.clone(), there.copied(), right))
    });
    let months = stands.totals.keys().chain(should.totals.keys().filter(|month| !stands.totals.contains_key(*month)));
    let totals = months.filter_map(|month| {
        let (there, right) = (stands.totals.get(month), should.totals.get(month).cloned().unwrap_or_default());
        let same = there.map_or(right == Totals::default(), |there| there.same_as(&right));
        (!same).then(|| Wrong::Totals(month.clone(), there.cloned(), right))
    });
    usage.chain(totals).collect()
}

/// How often it is tried again because something was counted in between.
const TRIES: usize = 10;
/// Entries of one page.
const PAGE: u16 = 500;

/// Puts every row of an account right that does not follow from its entries; the number of rows that were wrong. Reads
/// everything of the account: 1 query for each page of rows and entries, 16 for the journal, 1 write for each wrong row.
pub async fn recount<W: RecountUsage>(world: &W, account: AccountId) -> Result<usize, Fault> {
    let mut wrong = 0;
    for _ in 0..TRIES {
        let before = world.load_counted(account).await?;
        let (mut entries, mut after) = (Vec::new(), None);
        loop {
            let (page, next) = world.list_posted(account, after.as_deref(), PAGE).await?;
            entries.extend(page);
            let Some(next) = next else { break };
            after = Some(next);
        }
        let waiting = world.waiting(account).await?;
        let stands = world.load_counted(account).await?;
        if stands != before {
            continue;
        }
        entries.retain(|entry| !waiting.contains(&entry.id));
        let mut should = Counted::default();
        should.add(&entries);
        let differences = compare(&stands, &should);
        let mut moved = false;
        for one in &differences {
            if world.put_right(account, one).await? {
                wrong += 1;
            } else {
                moved = true;
            }
        }
        if !moved {
            return Ok(wrong);
        }
    }
    Err(Fault::transient("usage is counted all the time: try again when the account is quieter"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Book, Change, Granularity, UsageKind};
    use crate::message::Direction;

    #[test]
    fn what_is_missing_what_is_wrong_and_what_should_not_be_there_are_found_and_nothing_else() {
        let slot = |period: &str| UsageSlot {
            granularity: Granularity::Day,
            period: period.to_owned(),
            kind: UsageKind::MessageSegments,
            direction: Direction::Outbound,
            country: None,
            error: None,
        };
        let sums = |n| UsageSums { events: n, units: n, credits: Change(n) };
        let totals =
            |n| Totals { entries: 1, digest: 1, books: [(Book::Included, Change(n))].into(), ..Totals::default() };
        let stands = Counted {
            usage: [(slot("1"), sums(1)), (slot("2"), sums(2)), (slot("3"), sums(0))].into(),
            totals: [("2026-10".to_owned(), totals(1)), ("2026-11".to_owned(), totals(2))].into(),
        };
        assert_eq!(compare(&stands, &stands), []);
        let should = Counted {
            usage: [(slot("1"), sums(1)), (slot("4"), sums(4))].into(),
            totals: [("2026-11".to_owned(), totals(3))].into(),
        };
        let wrong = compare(&stands, &should);
        assert_eq!(
            wrong,
            [
                Wrong::Usage(slot("2"), Some(sums(2)), sums(0)),
                Wrong::Usage(slot("4"), None, sums(4)),
                Wrong::Totals("2026-10".to_owned(), Some(totals(1)), Totals::default()),
                Wrong::Totals("2026-11".to_owned(), Some(totals(2)), totals(3)),
            ]
        );
    }
}
