//! Allowances, purses, entries, the journal, usage rows and totals in table `ledger`.

use std::collections::HashMap;

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
    About, Allowance, Book, Change, Entry, Granularity, KeepPurse, MicroCredits, PostOutcome, Posted, Purse,
    PurseFacts, ReadUsage, RollUpUsage, RolledUp, Step, Stepped, Totals, UsagePage, UsageSums, journal_shard,
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
        let hold = hold_of(message);
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
        parts.extend(failure.map(|failure| db.put_journal(failure)).transpose()?);
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
        let hold = hold_of(message);
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
        parts.extend(failure.map(|failure| self.dynamo.put_journal(failure)).transpose()?);
        match self.dynamo.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(false),
            Transacted::Refused(_) => Err(misfit()),
        }
    }
}

/// What is still reserved for a message.
fn hold_of(message: &Message) -> MicroCredits {
    if message.released { MicroCredits::ZERO } else { message.held }
}

impl Dynamo {
    /// What the roll-up is to count.
    pub(super) fn put_journal(&self, entry: &Entry) -> Result<TransactWriteItem, Fault> {
        let key = keys::journal(journal_shard(entry.id), entry.id);
        self.put_new(&key, to_item(&key, &EntryRow::from(entry))?)
    }

    /// The first entry of its cause, in its month's list.
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
    let month = text(item, "sk")?.strip_prefix(keys::TOTALS).map(str::to_owned);
    Ok((month.ok_or_else(damaged)?, totals))
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
            "revision = :before OR (:before = :none AND attribute_not_exists(pk))",
            &[(":before", n(before)), (":none", n(0))],
        )?];
        let set = "SET available = available + :free";
        let free = (":free", n(step.free.0));
        parts.push(match step.only_if_used {
            Some(used) => db.update(
                &keys::allowance(account),
                set,
                "used = :used AND available >= :least",
                &[free, (":used", n(used.0)), (":least", n(step.free.below().0))],
            )?,
            None => db.update(&keys::allowance(account), set, "attribute_exists(pk)", &[free])?,
        });
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

    /// 1 query of the index.
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
            .expression_attribute_values(":statement", s(keys::statement(account, month)))
            .limit(i32::from(limit));
        query = match after {
            Some(after) => query
                .key_condition_expression("statement = :statement AND entry > :after")
                .expression_attribute_values(":after", s(after.to_string())),
            None => query.key_condition_expression("statement = :statement"),
        };
        let answer = query.send().await.map_err(|error| fault("list entries", &error))?;
        entries(answer.items)
    }
}
