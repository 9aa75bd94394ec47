//! Allowances, purses, entries, the journal, usage rows and totals in table `ledger`.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;

use super::keys::{self, ENTRIES_INDEX, Table};
use super::messages::{shard_word, word};
use super::rows::{AllowanceRow, EntryRow, GateRow, PurseRow, UsageRow};
use super::{Dynamo, Item, Transacted, blocker, fault, from_item, millis, n, s, text, to_item};
use crate::account::Gate;
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::ledger::{
    About, Allowance, Book, Change, Counted, Entry, Granularity, JOURNAL_SHARDS, KeepPurse, PostOutcome, Posted, Purse,
    PurseFacts, ReadUsage, RecountUsage, RollUpUsage, RolledUp, Step, Stepped, Totals, UsageKind, UsagePage, UsageSums,
    Wrong, journal_shard,
};
use crate::live::Live;
use crate::message::{Message, decidable_until, due_shard};

impl PostOutcome for Live {
    /// 1 transaction of message, allowance, entry and its place in the journal.
    async fn post_charge(
        &self,
        message: &Message,
        entry: Entry,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<Posted, Fault> {
        let db = &self.dynamo;
        let charge = entry.usage.as_ref().ok_or(Fault::permanent("a charge without work"))?.credits;
        let hold = message.hold();
        let mut parts = vec![
            self.settled(message, false, now)?,
            db.update(
                &keys::allowance(message.account),
                "SET held = held - :held, used = used + :charge, available = available + :rest",
                "held >= :held",
                &[(":held", n(hold.0)), (":charge", n(charge.0)), (":rest", n(hold.plus().and(charge.back()).0))],
            )?,
            db.put_entry(&entry)?,
            db.put_journal(&entry)?,
        ];
        parts.extend(db.put_deliveries(told)?);
        parts.extend(db.put_failure(failure)?);
        match db.transact(parts).await? {
            Transacted::Committed => Ok(Posted::Charged),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(Posted::Before),
            Transacted::Refused(reasons) if blocker(&reasons, 2).is_some() => Ok(Posted::SidTaken),
            Transacted::Refused(_) => Err(misfit()),
        }
    }

    /// 1 transaction of message and allowance.
    async fn post_release(
        &self,
        message: &Message,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<bool, Fault> {
        let hold = message.hold();
        let mut parts = vec![
            self.settled(message, true, now)?,
            self.dynamo.update(
                &keys::allowance(message.account),
                "SET held = held - :held, available = available + :held",
                "held >= :held",
                &[(":held", n(hold.0))],
            )?,
        ];
        parts.extend(self.dynamo.put_deliveries(told)?);
        parts.extend(self.dynamo.put_failure(failure)?);
        match self.dynamo.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(false),
            Transacted::Refused(_) => Err(misfit()),
        }
    }
}

impl Dynamo {
    /// What the roll-up is to count.
    pub(super) fn put_journal(&self, entry: &Entry) -> Result<TransactWriteItem, Fault> {
        let key = keys::journal(journal_shard(entry.id), entry.id);
        self.put_new(&key, to_item(&key, &EntryRow::from(entry))?)
    }

    /// What failed, for the roll-up to count, and kept to count it again. It has no place in a statement. Who counts it is
    /// decided by the write that it comes with, so that nothing is asked here.
    pub(super) fn put_failure(&self, failure: Option<&Entry>) -> Result<Vec<TransactWriteItem>, Fault> {
        let Some(entry) = failure else { return Ok(Vec::new()) };
        let key = keys::entry(entry.account, &entry.occasion);
        let item = to_item(&key, &EntryRow::from(entry))?;
        let kept = self.put(&key, item, "attribute_not_exists(pk) OR attribute_exists(pk)", &[])?;
        Ok(vec![self.put_journal(entry)?, kept])
    }

    /// The first entry of its occasion, in its month's list.
    pub(super) fn put_entry(&self, entry: &Entry) -> Result<TransactWriteItem, Fault> {
        if !entry.balanced() {
            return Err(Fault::permanent("an entry does not sum to zero: credit would appear or vanish"));
        }
        let key = keys::entry(entry.account, &entry.occasion);
        let mut item = to_item(&key, &EntryRow::from(entry))?;
        item.insert("statement".to_owned(), s(keys::statement(entry.account, &entry.month)));
        item.insert("entry".to_owned(), s(entry.id.to_string()));
        self.put_new(&key, item)
    }
}

impl Live {
    /// The status has to be the one that was read: by it the hold is charged or given back, and endpoints are told. What
    /// is `unconfirmed` is looked at again when its payload has to go.
    fn settled(&self, message: &Message, released: bool, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let key = keys::message(message.account, message.id);
        let mut values = vec![
            (":yes", AttributeValue::Bool(true)),
            (":no", AttributeValue::Bool(false)),
            (":one", n(1)),
            (":now", millis(now)),
            (":status", word(message.status)?),
        ];
        let condition = "settled = :no AND #status = :status";
        let mut set = "SET settled = :yes, revision = revision + :one, updated = :now".to_owned();
        if released {
            set.push_str(", released = :yes");
        }
        let Some(until) = decidable_until(message) else {
            return self.dynamo.update(&key, &format!("{set} REMOVE due_shard, due_at"), condition, &values);
        };
        values.extend([(":shard", shard_word(due_shard(message.id))), (":until", millis(until))]);
        set.push_str(", due_shard = :shard, due_at = :until");
        self.dynamo.update(&key, &set, condition, &values)
    }
}

fn misfit() -> Fault {
    Fault::permanent("the ledger does not fit the message: look at it")
}

impl RollUpUsage for Live {
    async fn load_journal(&self, shard: u8, limit: u8) -> Result<Vec<Entry>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Ledger))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(keys::journal_shard(shard)))
            .limit(i32::from(limit))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("load journal", &error))?;
        entries(answer.items)
    }

    async fn count_journal(&self, entries: &[Entry], rolled: &RolledUp) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let mut parts = Vec::new();
        for entry in entries {
            let key = keys::journal(journal_shard(entry.id), entry.id);
            parts.push(db.delete(&key, "attribute_exists(pk)", &[])?);
        }
        for ((account, slot), sum) in &rolled.usage {
            parts.push(db.update(
                &keys::usage(*account, slot),
                "SET v = :v, events = if_not_exists(events, :none) + :events, \
                 units = if_not_exists(units, :none) + :units, credits = if_not_exists(credits, :none) + :credits",
                COUNTED_AS_NOW,
                &[
                    (":v", n(1)),
                    (":none", n(0)),
                    (":events", n(sum.events)),
                    (":units", n(sum.units)),
                    (":credits", n(sum.credits.0)),
                ],
            )?);
        }
        for ((account, month), totals) in &rolled.totals {
            parts.push(db.add_totals(*account, month, totals)?);
        }
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

/// Rows whose shape is that of this code.
const COUNTED_AS_NOW: &str = "attribute_not_exists(pk) OR v = :v";

impl Dynamo {
    fn add_totals(&self, account: AccountId, month: &str, totals: &Totals) -> Result<TransactWriteItem, Fault> {
        let mut set = "SET v = :v, entries = if_not_exists(entries, :none) + :entries, \
                       digest = if_not_exists(digest, :none) + :digest"
            .to_owned();
        let mut values =
            vec![(":v", n(1)), (":none", n(0)), (":entries", n(totals.entries)), (":digest", n(totals.digest))];
        for (book, sum) in &totals.books {
            let (name, value) = (book.as_str(), placeholder(*book));
            set.extend([", ", name, " = if_not_exists(", name, ", :none) + ", value]);
            values.push((value, n(sum.0)));
        }
        for (kind, units) in &totals.units {
            let (name, value) = units_of(*kind);
            set.extend([", ", name, " = if_not_exists(", name, ", :none) + ", value]);
            values.push((value, n(*units)));
        }
        self.update(&keys::totals(account, month), &set, COUNTED_AS_NOW, &values)
    }
}

fn placeholder(book: Book) -> &'static str {
    match book {
        Book::Included => ":included",
        Book::Purchased => ":purchased",
        Book::Clearing => ":clearing",
        Book::Issued => ":issued",
        Book::Sold => ":sold",
        Book::Billed => ":billed",
        Book::UsedMessageSegments => ":used_message_segments",
        Book::UsedCallMinutes => ":used_call_minutes",
        Book::UsedAiReplies => ":used_ai_replies",
        Book::Expired => ":expired",
        Book::Adjustments => ":adjustments",
        Book::Refunds => ":refunds",
    }
}

/// Where a month's units of a kind are, and their placeholder.
fn units_of(kind: UsageKind) -> (&'static str, &'static str) {
    match kind {
        UsageKind::MessageSegments => ("units_message_segments", ":units_message_segments"),
        UsageKind::FailedMessages => ("units_failed_messages", ":units_failed_messages"),
        UsageKind::CallMinutes => ("units_call_minutes", ":units_call_minutes"),
        UsageKind::AiReplies => ("units_ai_replies", ":units_ai_replies"),
    }
}

fn entries(items: Option<Vec<Item>>) -> Result<Vec<Entry>, Fault> {
    let items = items.unwrap_or_default();
    items.into_iter().map(|item| from_item::<EntryRow>(item)?.try_into()).collect()
}

/// A month's totals from its row.
fn totals(item: &Item) -> Result<(String, Totals), Fault> {
    let damaged = || Fault::permanent("a stored month's totals do not read");
    let number = |name: &str| item.get(name).and_then(|value| value.as_n().ok());
    let mut totals = Totals {
        entries: number("entries").and_then(|value| value.parse().ok()).ok_or_else(damaged)?,
        digest: number("digest").and_then(|value| value.parse().ok()).ok_or_else(damaged)?,
        ..Totals::default()
    };
    for book in Book::ALL {
        if let Some(value) = number(book.as_str()) {
            totals.books.insert(book, Change(value.parse().map_err(|_| damaged())?));
        }
    }
    for kind in UsageKind::ALL {
        if let Some(value) = number(units_of(kind).0) {
            totals.units.insert(kind, value.parse().map_err(|_| damaged())?);
        }
    }
    let month = text(item, "sk")?.strip_prefix(keys::TOTALS).map(str::to_owned);
    Ok((month.ok_or_else(damaged)?, totals))
}

impl RecountUsage for Live {
    /// 3 queries, more if there is much.
    async fn load_counted(&self, account: AccountId) -> Result<Counted, Fault> {
        let mut counted = Counted::default();
        for family in [keys::TOTALS, keys::USAGE, keys::FAILURES] {
            let mut after = None;
            loop {
                let (items, next) = self.dynamo.page_of(account, family, after, 1_000).await?;
                for item in items {
                    if family == keys::TOTALS {
                        counted.totals.extend([totals(&item)?]);
                        continue;
                    }
                    let slot = keys::parse_usage(&text(&item, "sk")?);
                    let row: UsageRow = from_item(item)?;
                    let sums = UsageSums { events: row.events, units: row.units, credits: row.credits };
                    counted.usage.insert(slot.ok_or(Fault::permanent("a usage row's key does not read"))?, sums);
                }
                let Some(next) = next else { break };
                after = Some(next);
            }
        }
        Ok(counted)
    }

    async fn list_posted(
        &self,
        account: AccountId,
        after: Option<&str>,
        limit: u16,
    ) -> Result<(Vec<Entry>, Option<String>), Fault> {
        let (items, next) = self.dynamo.page_of(account, keys::ENTRIES, after.map(str::to_owned), limit).await?;
        Ok((entries(Some(items))?, next))
    }

    async fn waiting(&self, account: AccountId) -> Result<BTreeSet<EntryId>, Fault> {
        let db = &self.dynamo;
        let mut ids = BTreeSet::new();
        for shard in 0..JOURNAL_SHARDS {
            let mut start = None;
            loop {
                let answer = db
                    .client()?
                    .query()
                    .table_name(db.name(Table::Ledger))
                    .key_condition_expression("pk = :pk")
                    .filter_expression("account = :account")
                    .expression_attribute_values(":pk", s(keys::journal_shard(shard)))
                    .expression_attribute_values(":account", s(account.to_string()))
                    .set_exclusive_start_key(start)
                    .consistent_read(true)
                    .send()
                    .await
                    .map_err(|error| fault("load what waits", &error))?;
                ids.extend(entries(answer.items)?.into_iter().map(|entry| entry.id));
                start = answer.last_evaluated_key;
                if start.is_none() {
                    break;
                }
            }
        }
        Ok(ids)
    }

    async fn put_right(&self, account: AccountId, wrong: &Wrong) -> Result<bool, Fault> {
        let db = &self.dynamo;
        match wrong {
            Wrong::Usage(slot, before, right) => {
                let (key, row) = (keys::usage(account, slot), usage_row(right));
                let item = to_item(&key, &row)?;
                let part = match before {
                    None => db.put_new(&key, item)?,
                    Some(before) => db.put(
                        &key,
                        item,
                        "events = :events AND units = :units AND credits = :credits",
                        &[
                            (":events", n(before.events)),
                            (":units", n(before.units)),
                            (":credits", n(before.credits.0)),
                        ],
                    )?,
                };
                Ok(matches!(db.transact(vec![part]).await?, Transacted::Committed))
            }
            Wrong::Totals(month, before, right) => {
                let key = keys::totals(account, month);
                let mut item: Item = key.attributes();
                item.extend([("v".to_owned(), n(1)), ("entries".to_owned(), n(right.entries))]);
                item.insert("digest".to_owned(), n(right.digest));
                item.extend(right.books.iter().map(|(book, sum)| (book.as_str().to_owned(), n(sum.0))));
                item.extend(right.units.iter().map(|(kind, units)| (units_of(*kind).0.to_owned(), n(*units))));
                let part = match before {
                    None => db.put_new(&key, item)?,
                    Some(before) => db.put(
                        &key,
                        item,
                        "entries = :entries AND digest = :digest",
                        &[(":entries", n(before.entries)), (":digest", n(before.digest))],
                    )?,
                };
                Ok(matches!(db.transact(vec![part]).await?, Transacted::Committed))
            }
        }
    }
}

fn usage_row(sums: &UsageSums) -> UsageRow {
    UsageRow { events: sums.events, units: sums.units, credits: sums.credits }
}

impl Dynamo {
    /// A page of an account's items whose sort keys start with `family`, behind the sort key `after`, strongly consistent.
    async fn page_of(
        &self,
        account: AccountId,
        family: &str,
        after: Option<String>,
        limit: u16,
    ) -> Result<(Vec<Item>, Option<String>), Fault> {
        let start = after.map(|after| [("pk".to_owned(), s(account.to_string())), ("sk".to_owned(), s(after))].into());
        let answer = self
            .client()?
            .query()
            .table_name(self.name(Table::Ledger))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(family))
            .set_exclusive_start_key(start)
            .limit(i32::from(limit))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("read the ledger", &error))?;
        let next = answer.last_evaluated_key.map(|key| text(&key, "sk")).transpose()?;
        Ok((answer.items.unwrap_or_default(), next))
    }
}

/// The shard of the due index that purses are in: few writes a month for each account need no more than one.
const CREDITS_DUE: &str = "due#credits";

impl KeepPurse for Live {
    /// 1 query.
    async fn find_ending(&self, now: Timestamp, limit: u16) -> Result<Vec<AccountId>, Fault> {
        self.dynamo.query_due(Table::Ledger, s(CREDITS_DUE), now, limit, keys::parse_purse).await
    }

    async fn note_warning(&self, account: AccountId, purse: &Purse, percent: u8) -> Result<bool, Fault> {
        let values = [(":percent", n(percent)), (":revision", n(purse.revision))];
        let condition = "revision = :revision AND warned < :percent";
        let noted = self.dynamo.update_one(&keys::purse(account), "SET warned = :percent", condition, &values).await;
        Ok(noted?.is_ok())
    }

    async fn look_at_purse_again(&self, account: AccountId, purse: &Purse, at: Timestamp) -> Result<(), Fault> {
        let values = [(":at", millis(at)), (":revision", n(purse.revision))];
        let condition = "revision = :revision AND attribute_exists(due_at)";
        let moved = self.dynamo.update_one(&keys::purse(account), "SET due_at = :at", condition, &values).await;
        moved.map(|_| ())
    }

    /// 1 batch read.
    async fn load_purse(&self, account: AccountId) -> Result<Option<PurseFacts>, Fault> {
        let (purse, allowance, gate) = (keys::purse(account), keys::allowance(account), keys::gate(account));
        let mut found: HashMap<_, _> = self.dynamo.batch_get(&[purse.clone(), allowance.clone(), gate.clone()]).await?;
        let (Some(allowance), Some(gate)) = (found.remove(&allowance), found.remove(&gate)) else { return Ok(None) };
        let allowance = Allowance::from(from_item::<AllowanceRow>(allowance)?);
        let zone = Gate::try_from(from_item::<GateRow>(gate)?)?.zone;
        let purse = found.remove(&purse).map(|item| Purse::try_from(from_item::<PurseRow>(item)?)).transpose()?;
        let purse = purse.unwrap_or_else(|| Purse::of_old(&allowance));
        Ok(Some(PurseFacts { purse, allowance, zone }))
    }

    /// 1 transaction of purse and allowance, and of each entry with its place in the journal.
    async fn save_step(
        &self,
        account: AccountId,
        step: &Step,
        entries: &[Entry],
        now: Timestamp,
    ) -> Result<Stepped, Fault> {
        let db = &self.dynamo;
        let key = keys::purse(account);
        let before = step.purse.revision.saturating_sub(1);
        let mut purse = to_item(&key, &PurseRow::from(&step.purse))?;
        if let Some(due) = step.purse.due(now) {
            purse.insert("due_shard".to_owned(), s(CREDITS_DUE));
            purse.insert("due_at".to_owned(), millis(due));
        }
        let mut parts = vec![db.put(
            &key,
            purse,
            // An account from before there were purses has none.
            if before == 0 { "revision = :before OR attribute_not_exists(pk)" } else { "revision = :before" },
            &[(":before", n(before))],
        )?];
        let mut set = "SET available = available + :free".to_owned();
        let mut values = vec![(":free", n(step.free.0))];
        if let Some(room) = step.room {
            set.push_str(", room = :room");
            values.push((":room", n(room.0)));
        }
        let mut condition = "attribute_exists(pk)";
        if let Some(used) = step.only_if_used {
            condition = "used = :used AND available >= :least";
            values.extend([(":used", n(used.0)), (":least", n(step.free.below().0))]);
        }
        parts.push(db.update(&keys::allowance(account), &set, condition, &values)?);
        for entry in entries {
            parts.extend([db.put_entry(entry)?, db.put_journal(entry)?]);
        }
        match db.transact(parts).await? {
            Transacted::Committed => Ok(Stepped::Done),
            // Said before the purse's revision: what was done before has moved it.
            Transacted::Refused(reasons) if (2..reasons.len()).any(|part| blocker(&reasons, part).is_some()) => {
                Ok(Stepped::Before)
            }
            Transacted::Refused(_) => Ok(Stepped::Moved),
        }
    }
}

impl ReadUsage for Live {
    async fn read_usage(
        &self,
        account: AccountId,
        about: About,
        granularity: Granularity,
        periods: (&str, &str),
        after: Option<&str>,
        limit: u16,
    ) -> Result<UsagePage, Fault> {
        let db = &self.dynamo;
        let prefix = keys::usage_prefix(about, granularity);
        let start = after.map(|after| {
            [("pk".to_owned(), s(account.to_string())), ("sk".to_owned(), s(format!("{prefix}{after}")))].into()
        });
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Ledger))
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":from", s(format!("{prefix}{}", periods.0)))
            .expression_attribute_values(":to", s(format!("{prefix}{}$", periods.1)))
            .set_exclusive_start_key(start)
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("read usage", &error))?;
        let mut rows = Vec::new();
        for item in answer.items.unwrap_or_default() {
            let sort = text(&item, "sk")?;
            let slot = keys::parse_usage(&sort).ok_or(Fault::permanent("a usage row's key does not read"))?;
            let row: UsageRow = from_item(item)?;
            rows.push((slot, UsageSums { events: row.events, units: row.units, credits: row.credits }));
        }
        let last = answer.last_evaluated_key.map(|key| text(&key, "sk")).transpose()?;
        let next = last.and_then(|sort| sort.strip_prefix(&prefix).map(str::to_owned));
        Ok(UsagePage { rows, next })
    }

    async fn load_allowance(&self, account: AccountId) -> Result<Option<Allowance>, Fault> {
        let row = self.dynamo.get::<AllowanceRow>(&keys::allowance(account)).await?;
        Ok(row.map(Allowance::from))
    }

    /// 1 query.
    async fn load_totals(&self, account: AccountId) -> Result<Vec<(String, Totals)>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Ledger))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(keys::TOTALS))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("load totals", &error))?;
        answer.items.unwrap_or_default().iter().map(totals).collect()
    }

    /// 1 query of the index, and 1 more for each megabyte.
    async fn list_entries(
        &self,
        account: AccountId,
        month: &str,
        after: Option<EntryId>,
        limit: u16,
    ) -> Result<Vec<Entry>, Fault> {
        let db = &self.dynamo;
        let mut query = db
            .client()?
            .query()
            .table_name(db.name(Table::Ledger))
            .index_name(ENTRIES_INDEX)
            .expression_attribute_values(":statement", s(keys::statement(account, month)));
        query = match after {
            Some(after) => query
                .key_condition_expression("statement = :statement AND entry > :after")
                .expression_attribute_values(":after", s(after.to_string())),
            None => query.key_condition_expression("statement = :statement"),
        };
        let mut found = Vec::new();
        let mut start = None;
        loop {
            let left = i32::from(limit) - i32::try_from(found.len()).unwrap_or(i32::MAX);
            let page = query.clone().limit(left).set_exclusive_start_key(start).send().await;
            let page = page.map_err(|error| fault("list entries", &error))?;
            found.extend(entries(page.items)?);
            start = page.last_evaluated_key;
            if start.is_none() || found.len() >= usize::from(limit) {
                return Ok(found);
            }
        }
    }
}
