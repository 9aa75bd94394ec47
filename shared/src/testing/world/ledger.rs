//! Allowances, purses, entries, the journal, usage rows and totals.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId, MessageId};
use crate::ledger::{
    About, Allowance, Counted, Entry, Granularity, KeepPurse, Occasion, PostOutcome, Posted, Purse, PurseFacts,
    ReadUsage, RecountUsage, RollUpUsage, RolledUp, Step, Stepped, Totals, UsageEvent, UsageKind, UsagePage, UsageSlot,
    UsageSums, Wrong, journal_shard,
};
use crate::message::Message;

/// DynamoDB's limit of items in one transaction.
const MOST_ITEMS: usize = 100;

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) allowances: BTreeMap<AccountId, Allowance>,
    pub(super) purses: BTreeMap<AccountId, Purse>,
    entries: BTreeMap<(AccountId, Occasion), Entry>,
    journal: BTreeMap<(u8, EntryId), Entry>,
    /// By the text that sorts a row inside its account and granularity.
    usage: BTreeMap<(AccountId, About, Granularity, String), (UsageSlot, UsageSums)>,
    totals: BTreeMap<(AccountId, String), Totals>,
    /// When credits end.
    ending: BTreeMap<AccountId, Timestamp>,
}

impl Ledger {
    /// In the order of posting. What failed is counted, and no part of the ledger.
    pub(super) fn entries_of(&self, account: AccountId) -> Vec<Entry> {
        let of_ledger = |entry: &&Entry| entry.account == account && !entry.lines.is_empty();
        let mut entries: Vec<_> = self.entries.values().filter(of_ledger).cloned().collect();
        entries.sort_by_key(|entry| entry.id);
        entries
    }

    /// Puts what failed into the journal.
    pub(super) fn count(&mut self, failure: Option<&Entry>) {
        if let Some(entry) = failure {
            self.post(entry.clone());
        }
    }

    /// Writes an entry, once for its occasion, and puts it into the journal.
    pub(super) fn post(&mut self, entry: Entry) {
        self.journal.insert((journal_shard(entry.id), entry.id), entry.clone());
        self.entries.insert((entry.account, entry.occasion.clone()), entry);
    }

    fn has(&self, account: AccountId, occasion: &Occasion) -> bool {
        self.entries.contains_key(&(account, occasion.clone()))
    }

    pub(super) fn charged_for(&self, account: AccountId, sid: &str) -> Option<MessageId> {
        let occasion = Occasion::Usage { sid: sid.to_owned(), kind: UsageKind::MessageSegments };
        self.entries.get(&(account, occasion))?.usage.as_ref()?.message
    }

    /// What was charged for a SID.
    pub(super) fn charge_of(&self, account: AccountId, sid: &str) -> Option<UsageEvent> {
        let occasion = Occasion::Usage { sid: sid.to_owned(), kind: UsageKind::MessageSegments };
        self.entries.get(&(account, occasion))?.usage.clone()
    }

    /// Puts a charge right, once; `false`: it was done before.
    pub(super) fn correct(&mut self, entry: &Entry) -> Result<bool, Fault> {
        if !entry.balanced() {
            return Err(Fault::permanent("an entry does not sum to zero"));
        }
        if self.has(entry.account, &entry.occasion) {
            return Ok(false);
        }
        let credits = entry.usage.as_ref().ok_or(Fault::permanent("a correction without work"))?.credits;
        let allowance = self.allowances.get_mut(&entry.account);
        let allowance = allowance.filter(|allowance| allowance.used >= credits.below()).ok_or_else(misfit)?;
        allowance.used = allowance.used.plus().and(credits).above();
        allowance.free = allowance.free.and(credits.back());
        self.post(entry.clone());
        Ok(true)
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.allowances);
        dump(bytes, &self.purses);
        dump(bytes, &self.entries);
        dump(bytes, &self.usage);
        dump(bytes, &self.totals);
    }
}

/// As the store sorts usage rows, and as cursors name them.
fn sort_text(slot: &UsageSlot) -> String {
    let direction = slot.direction.as_str();
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
        entry: Entry,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<Posted, Fault> {
        self.call("post_charge", |state| {
            if !entry.balanced() {
                return Err(Fault::permanent("an entry does not sum to zero"));
            }
            if !state.messages.unsettled(message) {
                return Ok(Posted::Before);
            }
            let charge = entry.usage.as_ref().ok_or(Fault::permanent("a charge without work"))?.credits;
            let sid_taken = state.ledger.has(message.account, &entry.occasion);
            let taken = state.ledger.journal.contains_key(&(journal_shard(entry.id), entry.id));
            let hold = message.hold();
            let allowance = state.ledger.allowances.get_mut(&message.account);
            let Some(allowance) = allowance.filter(|allowance| allowance.held >= hold && !taken) else {
                return Err(misfit());
            };
            if sid_taken {
                return Ok(Posted::SidTaken);
            }
            allowance.held.0 -= hold.0;
            allowance.used = allowance.used.plus().and(charge).above();
            allowance.free = allowance.free.and(hold.plus()).and(charge.back());
            state.messages.settle(message, false, now);
            state.endpoints.put(told);
            state.ledger.post(entry);
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
        failure: Option<&Entry>,
    ) -> Result<bool, Fault> {
        self.call("post_release", |state| {
            if !state.messages.unsettled(message) {
                return Ok(false);
            }
            let hold = message.hold();
            let allowance = state.ledger.allowances.get_mut(&message.account);
            let allowance = allowance.filter(|allowance| allowance.held >= hold).ok_or_else(misfit)?;
            allowance.held.0 -= hold.0;
            allowance.free = allowance.free.and(hold.plus());
            state.messages.settle(message, true, now);
            state.endpoints.put(told);
            state.ledger.count(failure);
            Ok(true)
        })
        .await
    }
}

impl RollUpUsage for World {
    async fn load_journal(&self, shard: u8, limit: u8) -> Result<Vec<Entry>, Fault> {
        self.call("load_journal", |state| {
            if limit == 0 {
                return Err(not_valid("load journal"));
            }
            let all = (shard, EntryId::from_bits(0))..=(shard, EntryId::from_bits(u128::MAX));
            Ok(state.ledger.journal.range(all).map(|(_, entry)| entry.clone()).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn count_journal(&self, entries: &[Entry], rolled: &RolledUp) -> Result<bool, Fault> {
        self.call("count_journal", |state| {
            if !(1..=MOST_ITEMS).contains(&(entries.len() + rolled.rows())) {
                return Err(not_valid("transaction"));
            }
            let key = |entry: &Entry| (journal_shard(entry.id), entry.id);
            if !entries.iter().all(|entry| state.ledger.journal.contains_key(&key(entry))) {
                return Ok(false);
            }
            for entry in entries {
                state.ledger.journal.remove(&key(entry));
            }
            for ((account, slot), sum) in rolled.usage.clone() {
                let row = (account, slot.kind.about(), slot.granularity, sort_text(&slot));
                let (_, held) = state.ledger.usage.entry(row).or_insert((slot, UsageSums::default()));
                *held = held.plus(sum);
            }
            for (row, more) in &rolled.totals {
                state.ledger.totals.entry(row.clone()).or_default().merge(more);
            }
            Ok(true)
        })
        .await
    }
}

impl RecountUsage for World {
    async fn load_counted(&self, account: AccountId) -> Result<Counted, Fault> {
        self.call("load_counted", |state| {
            let usage = state.ledger.usage.iter().filter(|((whose, ..), _)| *whose == account);
            let totals = state.ledger.totals.iter().filter(|((whose, _), _)| *whose == account);
            Ok(Counted {
                usage: usage.map(|(_, row)| row.clone()).collect(),
                totals: totals.map(|((_, month), totals)| (month.clone(), totals.clone())).collect(),
            })
        })
        .await
    }

    async fn list_posted(
        &self,
        account: AccountId,
        after: Option<&str>,
        limit: u16,
    ) -> Result<(Vec<Entry>, Option<String>), Fault> {
        self.call("list_posted", |state| {
            if limit == 0 {
                return Err(not_valid("list posted"));
            }
            let of = state.ledger.entries.values().filter(|entry| entry.account == account);
            let mut entries: Vec<_> = of.map(|entry| (entry.occasion.word(), entry.clone())).collect();
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            entries.retain(|(word, _)| after.is_none_or(|after| word.as_str() > after));
            entries.truncate(usize::from(limit));
            let full = entries.len() == usize::from(limit);
            let next = entries.last().filter(|_| full).map(|(word, _)| word.clone());
            Ok((entries.into_iter().map(|(_, entry)| entry).collect(), next))
        })
        .await
    }

    async fn waiting(&self, account: AccountId) -> Result<BTreeSet<EntryId>, Fault> {
        self.call("waiting", |state| {
            let of = state.ledger.journal.values().filter(|entry| entry.account == account);
            Ok(of.map(|entry| entry.id).collect())
        })
        .await
    }

    async fn put_right(&self, account: AccountId, wrong: &Wrong) -> Result<bool, Fault> {
        self.call("put_right", |state| match wrong {
            Wrong::Usage(slot, before, right) => {
                let key = (account, slot.kind.about(), slot.granularity, sort_text(slot));
                let stands = state.ledger.usage.get(&key).map(|(_, sums)| *sums);
                if stands != *before {
                    return Ok(false);
                }
                state.ledger.usage.insert(key, (slot.clone(), *right));
                Ok(true)
            }
            Wrong::Totals(month, before, right) => {
                let key = (account, month.clone());
                if state.ledger.totals.get(&key) != before.as_ref() {
                    return Ok(false);
                }
                state.ledger.totals.insert(key, right.clone());
                Ok(true)
            }
        })
        .await
    }
}

impl World {
    /// Changes every usage row and every month's totals of an account, as a bug could.
    pub fn spoil_counts(&self, account: AccountId) {
        let ledger = &mut self.state().ledger;
        for ((whose, ..), (_, sums)) in &mut ledger.usage {
            sums.events += i64::from(*whose == account);
        }
        for ((whose, _), totals) in &mut ledger.totals {
            totals.entries += u64::from(*whose == account);
        }
    }
}

impl KeepPurse for World {
    async fn find_ending(&self, now: Timestamp, limit: u16) -> Result<Vec<AccountId>, Fault> {
        self.call("find_ending", |state| {
            if limit == 0 {
                return Err(not_valid("find ending credits"));
            }
            let waiting = state.ledger.ending.iter().filter(|(_, at)| **at <= now);
            let mut due: Vec<_> = waiting.map(|(account, at)| (*at, *account)).collect();
            due.sort();
            Ok(due.into_iter().map(|(_, account)| account).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn note_warning(&self, account: AccountId, purse: &Purse, percent: u8) -> Result<bool, Fault> {
        self.call("note_warning", |state| {
            let there = state.ledger.purses.get_mut(&account).filter(|there| there.revision == purse.revision);
            let Some(there) = there.filter(|there| there.period.warned < percent) else { return Ok(false) };
            there.period.warned = percent;
            Ok(true)
        })
        .await
    }

    async fn look_at_purse_again(&self, account: AccountId, purse: &Purse, at: Timestamp) -> Result<(), Fault> {
        self.call("look_at_purse_again", |state| {
            let stands = state.ledger.purses.get(&account).is_some_and(|there| there.revision == purse.revision);
            if let Some(due) = state.ledger.ending.get_mut(&account).filter(|_| stands) {
                *due = at;
            }
            Ok(())
        })
        .await
    }

    async fn load_purse(&self, account: AccountId) -> Result<Option<PurseFacts>, Fault> {
        self.call("load_purse", |state| {
            let Some(allowance) = state.ledger.allowances.get(&account).cloned() else { return Ok(None) };
            let Some(gate) = state.accounts.gates.get(&account) else { return Ok(None) };
            let purse = state.ledger.purses.get(&account).cloned();
            let purse = purse.unwrap_or_else(|| Purse::of_old(&allowance));
            Ok(Some(PurseFacts { purse, allowance, zone: gate.zone.clone() }))
        })
        .await
    }

    async fn save_step(
        &self,
        account: AccountId,
        step: &Step,
        entries: &[Entry],
        now: Timestamp,
    ) -> Result<Stepped, Fault> {
        self.call("save_step", |state| {
            if !entries.iter().all(Entry::balanced) {
                return Err(Fault::permanent("an entry does not sum to zero"));
            }
            if entries.iter().any(|entry| state.ledger.has(account, &entry.occasion)) {
                return Ok(Stepped::Before);
            }
            let revision = state.ledger.purses.get(&account).map_or(0, |purse| purse.revision);
            let Some(allowance) = state.ledger.allowances.get_mut(&account) else { return Ok(Stepped::Moved) };
            let stands =
                step.only_if_used.is_none_or(|used| allowance.used == used && allowance.credit() >= step.free.below());
            if revision != step.purse.revision.saturating_sub(1) || !stands {
                return Ok(Stepped::Moved);
            }
            allowance.free = allowance.free.and(step.free);
            allowance.room = step.room.unwrap_or(allowance.room);
            state.ledger.purses.insert(account, step.purse.clone());
            match step.purse.due(now) {
                Some(due) => state.ledger.ending.insert(account, due),
                None => state.ledger.ending.remove(&account),
            };
            for entry in entries {
                state.ledger.post(entry.clone());
            }
            Ok(Stepped::Done)
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

    async fn load_totals(&self, account: AccountId) -> Result<Vec<(String, Totals)>, Fault> {
        self.call("load_totals", |state| {
            let of = state.ledger.totals.iter().filter(|((whose, _), _)| *whose == account);
            Ok(of.map(|((_, month), totals)| (month.clone(), totals.clone())).collect())
        })
        .await
    }

    async fn list_entries(
        &self,
        account: AccountId,
        month: &str,
        after: Option<EntryId>,
        limit: u16,
    ) -> Result<Vec<Entry>, Fault> {
        self.call("list_entries", |state| {
            if limit == 0 {
                return Err(not_valid("list entries"));
            }
            let mut entries = state.ledger.entries_of(account);
            entries.retain(|entry| entry.month == month && after.is_none_or(|after| entry.id > after));
            entries.truncate(usize::from(limit));
            Ok(entries)
        })
        .await
    }
}
