//! From the journal to usage rows. The journal is the whole store's, so each fact picks its own items out of it.

use crate::ledger::Posted;
use crate::message::Seen;
use jiff::Timestamp;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::ids::{AccountId, EntryId};
use crate::ledger::{
    About, Change, Entry, Granularity, JOURNAL_SHARDS, PostOutcome, ReadUsage, RecountUsage, RollUpUsage, Totals,
    UsageEvent, UsageKind, UsageSlot, UsageSums, Wrong, Zone, journal_shard, recount, roll_up,
};
use crate::message::{Direction, RecordInbound};
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, account, charge};

/// Noon of a day in November 2026.
fn day(n: u8) -> Timestamp {
    format!("2026-11-{n:02}T12:00:00Z").parse().unwrap()
}

/// Posts a text of one segment that arrived then. Its entry sorts to the front of the journal, where every fact finds it.
async fn posted<W>(world: &W, account: AccountId, at: Timestamp) -> Entry
where
    W: RecordInbound + PostOutcome + Clock + Chance,
{
    let text = fresh::inbound(world, account, at);
    assert_eq!(world.record_inbound(&text, at).await, Ok(Seen::First));
    let mut item = charge(world, &text, at);
    item.id = EntryId::new(Timestamp::UNIX_EPOCH, fresh::dice(world));
    assert_eq!(world.post_charge(&text, item.clone(), at, &[], None).await, Ok(Posted::Charged));
    item
}

/// An account's items in the journal.
async fn journal_of<W: RollUpUsage>(world: &W, account: AccountId) -> Vec<Entry> {
    let mut items = Vec::new();
    for shard in 0..JOURNAL_SHARDS {
        let found = world.load_journal(shard, 200).await.unwrap();
        assert!(found.iter().all(|item| journal_shard(item.id) == shard));
        // The entry of the account's first credits is not about usage.
        items.extend(found.into_iter().filter(|item| item.account == account && item.usage.is_some()));
    }
    items.sort_by_key(|item| item.id);
    items
}

/// All rows of one granularity.
async fn rows<W: ReadUsage>(world: &W, account: AccountId, granularity: Granularity) -> Vec<(String, i64, i64)> {
    let page = world.read_usage(account, About::Usage, granularity, ("2026", "2027"), None, 100).await.unwrap();
    assert_eq!(page.next, None);
    page.rows.into_iter().map(|(slot, sums)| (slot.period, sums.events, sums.units)).collect()
}

fn row(period: &str, n: i64) -> (String, i64, i64) {
    (period.to_owned(), n, n)
}

pub async fn posted_usage_is_counted_once_however_often_the_roll_up_runs<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for n in [3, 3, 4] {
        items.push(posted(world, account, day(n)).await);
    }
    items.sort_by_key(|item| item.id);
    assert_eq!(journal_of(world, account).await, items);
    assert_eq!(rows(world, account, Granularity::Day).await, []);
    assert_eq!(world.count_journal(&items[..2], &roll_up(&items[..2])).await, Ok(true));
    assert_eq!(journal_of(world, account).await, items[2..]);
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(false), "some were counted before");
    assert_eq!(journal_of(world, account).await, items[2..], "and then nothing is removed");
    assert_eq!(world.count_journal(&items[2..], &roll_up(&items[2..])).await, Ok(true));
    assert_eq!(world.count_journal(&items[2..], &roll_up(&items[2..])).await, Ok(false));
    assert_eq!(journal_of(world, account).await, []);
    let days = [row("2026-11-03", 2), row("2026-11-04", 1)];
    assert_eq!(rows(world, account, Granularity::Day).await, days);
    let mut november = Totals::default();
    for item in &items {
        november.add(item);
    }
    assert_eq!((november.entries, november.units[&UsageKind::MessageSegments]), (3, 3));
    assert_eq!(world.load_totals(account).await, Ok(vec![("2026-11".to_owned(), november)]));
    assert_eq!(rows(world, account, Granularity::Month).await, [row("2026-11", 3)]);
    let hours = [row("2026-11-03T12", 2), row("2026-11-04T12", 1)];
    assert_eq!(rows(world, account, Granularity::Hour).await, hours);
}

pub async fn of_roll_ups_at_once_one_counts<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for _ in 0..4 {
        items.push(posted(world, account, day(5)).await);
    }
    let rolled = roll_up(&items);
    let answers = at_once(8, |_| world.count_journal(&items, &rolled)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 7), "{answers:?}");
    assert_eq!(rows(world, account, Granularity::Month).await, [row("2026-11", 4)]);
}

pub async fn usage_reads_by_range_and_granularity<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for n in [1, 2, 10, 20] {
        items.push(posted(world, account, day(n)).await);
    }
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    let days = async |from, to| {
        let page = world.read_usage(account, About::Usage, Granularity::Day, (from, to), None, 100).await.unwrap();
        page.rows.into_iter().map(|(slot, _)| slot.period).collect::<Vec<_>>()
    };
    assert_eq!(days("2026-11-02", "2026-11-10").await, ["2026-11-02", "2026-11-10"], "both ends count");
    assert_eq!(days("2026-11-03", "2026-11-09").await, Vec::<String>::new());
    assert_eq!(days("2026-11-01", "2026-11-01").await, ["2026-11-01"]);
    assert_eq!(days("2026-11-11", "2027-01-01").await, ["2026-11-20"]);
    let slot = UsageSlot {
        granularity: Granularity::Month,
        period: "2026-11".to_owned(),
        kind: UsageKind::MessageSegments,
        direction: Direction::Inbound,
        country: Some(fresh::us()),
        error: None,
    };
    let month =
        world.read_usage(account, About::Usage, Granularity::Month, ("2026-11", "2026-11"), None, 100).await.unwrap();
    assert_eq!(month.rows, [(slot, UsageSums { events: 4, units: 4, credits: Change::ZERO })]);
}

pub async fn what_failed_is_counted_by_error_beside_what_was_used<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for error in [Some(30_003), Some(30_003), None, Some(21_211)] {
        let text = fresh::inbound(world, account, day(1));
        assert_eq!(world.record_inbound(&text, day(1)).await, Ok(Seen::First));
        let item = charge(world, &text, day(1));
        let event = UsageEvent { kind: UsageKind::FailedMessages, error, ..item.usage.clone().unwrap() };
        let id = EntryId::new(Timestamp::UNIX_EPOCH, fresh::dice(world));
        let failure = Entry::failure(id, event, day(1), &Zone::default());
        let posted = at_once(5, |_| world.post_charge(&text, item.clone(), day(1), &[], Some(&failure))).await;
        assert_eq!(count(&posted, &Ok(Posted::Charged)), 1, "{posted:?}");
        items.extend([item, failure]);
    }
    assert_eq!(journal_of(world, account).await.len(), 8, "each once");
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    let day = ("2026-11-01", "2026-11-01");
    let read = async |about| world.read_usage(account, about, Granularity::Day, day, None, 100).await.unwrap().rows;
    let used: Vec<_> = read(About::Usage).await.into_iter().map(|(slot, sums)| (slot.error, sums.events)).collect();
    assert_eq!(used, [(None, 4)]);
    let failed: Vec<_> =
        read(About::Failures).await.into_iter().map(|(slot, sums)| (slot.error, sums.events)).collect();
    assert_eq!(failed, [(None, 1), (Some(21_211), 1), (Some(30_003), 2)]);
}

pub async fn usage_reads_in_pages<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for n in 1..=5 {
        items.push(posted(world, account, day(n)).await);
    }
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..9 {
        let periods = ("2026-11-01", "2026-11-04");
        let page =
            world.read_usage(account, About::Usage, Granularity::Day, periods, after.as_deref(), 2).await.unwrap();
        assert!(page.rows.len() <= 2);
        seen.extend(page.rows.into_iter().map(|(slot, _)| slot.period));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(after, None, "the pages end");
    assert_eq!(seen, ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]);
}

pub async fn an_account_sees_its_own_usage_only<W>(world: &W)
where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + ReadUsage + Clock + Chance,
{
    let (ours, theirs) = (account(world, 10).await, account(world, 10).await);
    let items = [posted(world, ours, day(7)).await, posted(world, theirs, day(8)).await];
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    assert_eq!(rows(world, ours, Granularity::Day).await, [row("2026-11-07", 1)]);
    assert_eq!(rows(world, theirs, Granularity::Day).await, [row("2026-11-08", 1)]);
}

pub async fn counted_again_from_its_entries_an_accounts_usage_is_the_same_and_what_is_wrong_is_put_right_once<W>(
    world: &W,
) where
    W: CreateAccount + RecordInbound + PostOutcome + RollUpUsage + RecountUsage + ReadUsage + Clock + Chance + Sync,
{
    let account = account(world, 10).await;
    let mut items = Vec::new();
    for n in [1, 1, 2, 3] {
        items.push(posted(world, account, day(n)).await);
    }
    assert_eq!(world.count_journal(&items[..3], &roll_up(&items[..3])).await, Ok(true));
    let waiting = world.waiting(account).await.unwrap();
    assert!(waiting.contains(&items[3].id) && !waiting.contains(&items[0].id));
    // In pages of two all entries come once: four texts and the account's first credits.
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = world.list_posted(account, after.as_deref(), 2).await.unwrap();
        listed.extend(page.into_iter().map(|entry| entry.id));
        let Some(next) = next else { break };
        after = Some(next);
    }
    listed.sort();
    listed.dedup();
    assert_eq!(listed.len(), 5);
    let right = world.load_counted(account).await.unwrap();
    assert_eq!(recount(world, account).await, Ok(0));
    // A row that is wrong, one that is missing, one that nothing explains, and a month that is wrong.
    let (slot, sums) = right.usage.iter().next().map(|(slot, sums)| (slot.clone(), *sums)).unwrap();
    let nothing = UsageSums::default();
    let more = UsageSums { events: sums.events + 1, ..sums };
    let other = UsageSlot { period: "2026-10".to_owned(), granularity: Granularity::Month, ..slot.clone() };
    let answers = at_once(4, |_| async {
        let wrong = Wrong::Usage(slot.clone(), Some(sums), more);
        world.put_right(account, &wrong).await
    });
    assert_eq!(count(&answers.await, &Ok(true)), 1);
    assert_eq!(world.put_right(account, &Wrong::Usage(other.clone(), None, more)).await, Ok(true));
    assert_eq!(world.put_right(account, &Wrong::Usage(other.clone(), None, more)).await, Ok(false));
    assert_eq!(recount(world, account).await, Ok(2));
    let mut after = world.load_counted(account).await.unwrap();
    assert_eq!(after.usage.remove(&other), Some(nothing));
    assert_eq!(after, right);
    assert_eq!(world.count_journal(&items[3..], &roll_up(&items[3..])).await, Ok(true));
    assert_eq!(recount(world, account).await, Ok(0));
}
