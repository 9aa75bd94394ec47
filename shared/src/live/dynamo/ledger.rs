//! Allowances, entries, the journal and usage rows in table `ledger`.

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;

use super::keys::{self, Table};
use super::messages::{shard_word, word};
use super::rows::{AllowanceRow, UsageEventRow, UsageRow};
use super::{Dynamo, Transacted, blocker, fault, from_item, millis, n, s, text, to_item};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::ledger::{
    About, Allowance, Granularity, JournalItem, PostOutcome, Posted, ReadUsage, RollUpUsage, UsagePage, UsageSlot,
    UsageSums, journal_shard,
};
use crate::live::Live;
use crate::message::{Message, decidable_until, due_shard};

impl PostOutcome for Live {
    /// 1 transaction of message, allowance, entry and journal item.
    async fn post_charge(
        &self,
        message: &Message,
        item: JournalItem,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&JournalItem>,
    ) -> Result<Posted, Fault> {
        let db = &self.dynamo;
        let event = &item.event;
        if event.credits > message.held {
            return Err(Fault::permanent("a charge above its hold: credit would appear from nowhere"));
        }
        let entry = keys::entry(message.account, &event.sid, event.kind);
        let row = UsageEventRow::from(&item);
        let mut parts = vec![
            self.settled(message, now)?,
            db.update(
                &keys::allowance(message.account),
                "SET held = held - :held, used = used + :charge, available = available + :rest",
                "held >= :held",
                &[
                    (":held", n(message.held.0)),
                    (":charge", n(event.credits.0)),
                    (":rest", n(message.held.0.saturating_sub(event.credits.0))),
                ],
            )?,
            db.put_new(&entry, to_item(&entry, &row)?)?,
            db.put_journal(&item)?,
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
        failure: Option<&JournalItem>,
    ) -> Result<bool, Fault> {
        let mut parts = vec![
            self.settled(message, now)?,
            self.dynamo.update(
                &keys::allowance(message.account),
                "SET held = held - :held, available = available + :held",
                "held >= :held",
                &[(":held", n(message.held.0))],
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

impl Dynamo {
    /// What the roll-up is to count.
    pub(super) fn put_journal(&self, item: &JournalItem) -> Result<TransactWriteItem, Fault> {
        let key = keys::journal(journal_shard(item.id), item.id);
        self.put_new(&key, to_item(&key, &UsageEventRow::from(item))?)
    }
}

impl Live {
    /// The status has to be the one that was read: by it the hold is charged or given back, and endpoints are told. What
    /// is `unconfirmed` is looked at again when its payload has to go.
    fn settled(&self, message: &Message, now: Timestamp) -> Result<TransactWriteItem, Fault> {
        let key = keys::message(message.account, message.id);
        let mut values = vec![
            (":yes", AttributeValue::Bool(true)),
            (":no", AttributeValue::Bool(false)),
            (":one", n(1)),
            (":now", millis(now)),
            (":status", word(message.status)?),
        ];
        let condition = "settled = :no AND #status = :status";
        let set = "SET settled = :yes, revision = revision + :one, updated = :now";
        let Some(until) = decidable_until(message) else {
            return self.dynamo.update(&key, &format!("{set} REMOVE due_shard, due_at"), condition, &values);
        };
        values.extend([(":shard", shard_word(due_shard(message.id))), (":until", millis(until))]);
        let set = format!("{set}, due_shard = :shard, due_at = :until");
        self.dynamo.update(&key, &set, condition, &values)
    }
}

fn misfit() -> Fault {
    Fault::permanent("the ledger does not fit the message: look at it")
}

impl RollUpUsage for Live {
    async fn load_journal(&self, shard: u8, limit: u8) -> Result<Vec<JournalItem>, Fault> {
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
        let items = answer.items.unwrap_or_default();
        items.into_iter().map(|item| from_item::<UsageEventRow>(item)?.try_into()).collect()
    }

    async fn count_journal(
        &self,
        items: &[JournalItem],
        sums: Vec<((AccountId, UsageSlot), UsageSums)>,
    ) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let mut parts = Vec::new();
        for item in items {
            let key = keys::journal(journal_shard(item.id), item.id);
            parts.push(db.delete(&key, "attribute_exists(pk)", &[])?);
        }
        for ((account, slot), sum) in &sums {
            parts.push(db.update(
                &keys::usage(*account, slot),
                "SET v = :v, events = if_not_exists(events, :none) + :events, \
                 units = if_not_exists(units, :none) + :units, credits = if_not_exists(credits, :none) + :credits",
                "attribute_not_exists(pk) OR v = :v",
                &[
                    (":v", n(1)),
                    (":none", n(0)),
                    (":events", n(sum.events)),
                    (":units", n(sum.units)),
                    (":credits", n(sum.credits.0)),
                ],
            )?);
        }
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
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
}
