//! Allowances, entries, the journal and usage rows.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId, MessageId};
use crate::ledger::{
    About, Allowance, Granularity, JournalItem, PostOutcome, Posted, ReadUsage, RollUpUsage, UsageKind, UsagePage,
    UsageSlot, UsageSums, journal_shard,
};
use crate::message::{Direction, Message};

/// DynamoDB's limit of items in one transaction.
const MOST_ITEMS: usize = 100;

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) allowances: BTreeMap<AccountId, Allowance>,
    entries: BTreeMap<(AccountId, String, UsageKind), JournalItem>,
    journal: BTreeMap<(u8, EntryId), JournalItem>,
    /// By the text that sorts a row inside its account and granularity.
    usage: BTreeMap<(AccountId, About, Granularity, String), (UsageSlot, UsageSums)>,
}

impl Ledger {
    pub(super) fn entries_of(&self, account: AccountId) -> Vec<JournalItem> {
        self.entries.values().filter(|item| item.event.account == account).cloned().collect()
    }

    /// Puts what failed into the journal.
    pub(super) fn count(&mut self, failure: Option<&JournalItem>) {
        self.journal.extend(failure.map(|item| ((journal_shard(item.id), item.id), item.clone())));
    }

    pub(super) fn charged_for(&self, account: AccountId, sid: &str) -> Option<MessageId> {
        let entry = self.entries.get(&(account, sid.to_owned(), UsageKind::MessageSegments));
        entry.map(|item| item.event.message)
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.allowances);
        dump(bytes, &self.entries);
        dump(bytes, &self.usage);
    }
}

/// As the store sorts usage rows, and as cursors name them.
fn sort_text(slot: &UsageSlot) -> String {
    let direction = match slot.direction {
        Direction::Outbound => "outbound",
        Direction::Inbound => "inbound",
    };
    let country = slot.country.map_or_else(|| "-".to_owned(), |country| country.as_str().to_owned());
    let error = slot.error.map_or_else(String::new, |error| format!("#{error}"));
    format!("{}#{}#{direction}#{country}{error}", slot.period, slot.kind.as_str())
}

fn misfit() -> Fault {
    Fault::permanent("the ledger does not fit the message: look at it")
}

impl PostOutcome for World {
    async fn post_charge(
        &self,
        message: &Message,
        item: JournalItem,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&JournalItem>,
    ) -> Result<Posted, Fault> {
        self.call("post_charge", |state| {
            if !state.messages.unsettled(message) {
                return Ok(Posted::Before);
            }
            let event = &item.event;
            let entry = (message.account, event.sid.clone(), event.kind);
            let journal = (journal_shard(item.id), item.id);
            let sid_taken = state.ledger.entries.contains_key(&entry);
            let taken = state.ledger.journal.contains_key(&journal);
            let allowance = state.ledger.allowances.get_mut(&message.account);
            let Some(allowance) = allowance.filter(|allowance| allowance.held >= message.held && !taken) else {
                return Err(misfit());
            };
            if sid_taken {
                return Ok(Posted::SidTaken);
            }
            allowance.held.0 -= message.held.0;
            allowance.used.0 += event.credits.0;
            allowance.available.0 += message.held.0.saturating_sub(event.credits.0);
            state.messages.settle(message, now);
            state.endpoints.put(told);
            state.ledger.entries.insert(entry, item.clone());
            state.ledger.journal.insert(journal, item);
            state.ledger.count(failure);
            Ok(Posted::Charged)
        })
        .await
    }

    async fn post_release(
        &self,
        message: &Message,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&JournalItem>,
    ) -> Result<bool, Fault> {
        self.call("post_release", |state| {
            if !state.messages.unsettled(message) {
                return Ok(false);
            }
            let allowance = state.ledger.allowances.get_mut(&message.account);
            let allowance = allowance.filter(|allowance| allowance.held >= message.held).ok_or_else(misfit)?;
            allowance.held.0 -= message.held.0;
            allowance.available.0 += message.held.0;
            state.messages.settle(message, now);
            state.endpoints.put(told);
            state.ledger.count(failure);
            Ok(true)
        })
        .await
    }
}

impl RollUpUsage for World {
    async fn load_journal(&self, shard: u8, limit: u8) -> Result<Vec<JournalItem>, Fault> {
        self.call("load_journal", |state| {
            if limit == 0 {
                return Err(not_valid("load journal"));
            }
            let all = (shard, EntryId::from_bits(0))..=(shard, EntryId::from_bits(u128::MAX));
            Ok(state.ledger.journal.range(all).map(|(_, item)| item.clone()).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn count_journal(
        &self,
        items: &[JournalItem],
        sums: Vec<((AccountId, UsageSlot), UsageSums)>,
    ) -> Result<bool, Fault> {
        self.call("count_journal", |state| {
            if !(1..=MOST_ITEMS).contains(&(items.len() + sums.len())) {
                return Err(not_valid("transaction"));
            }
            let key = |item: &JournalItem| (journal_shard(item.id), item.id);
            if !items.iter().all(|item| state.ledger.journal.contains_key(&key(item))) {
                return Ok(false);
            }
            for item in items {
                state.ledger.journal.remove(&key(item));
            }
            for ((account, slot), sum) in sums {
                let row = (account, slot.kind.about(), slot.granularity, sort_text(&slot));
                let (_, held) = state.ledger.usage.entry(row).or_insert((slot, UsageSums::default()));
                *held = held.plus(sum);
            }
            Ok(true)
        })
        .await
    }
}

impl ReadUsage for World {
    async fn read_usage(
        &self,
        account: AccountId,
        about: About,
        granularity: Granularity,
        periods: (&str, &str),
        after: Option<&str>,
        limit: u16,
    ) -> Result<UsagePage, Fault> {
        self.call("read_usage", |state| {
            // '$' comes right after the '#' that ends a period.
            let (from, to) = (periods.0.to_owned(), format!("{}$", periods.1));
            let outside = |after: &str| after < from.as_str() || after > to.as_str();
            if limit == 0 || from > to || after.is_some_and(outside) {
                return Err(not_valid("read usage"));
            }
            let rows =
                state.ledger.usage.range((account, about, granularity, from)..=(account, about, granularity, to));
            let rows = rows.filter(|((_, _, _, sort), _)| after.is_none_or(|after| sort.as_str() > after));
            let page: Vec<_> = rows.take(usize::from(limit)).map(|(_, row)| row.clone()).collect();
            // The store does not look whether more follows: a full page has a next one, which may be empty.
            let full = page.len() == usize::from(limit);
            let next = page.last().filter(|_| full).map(|(slot, _)| sort_text(slot));
            Ok(UsagePage { rows: page, next })
        })
        .await
    }

    async fn load_allowance(&self, account: AccountId) -> Result<Option<Allowance>, Fault> {
        self.call("load_allowance", |state| Ok(state.ledger.allowances.get(&account).cloned())).await
    }
}
