//! Comparisons with Twilio: reports, differences and corrections in table `ledger`, what a list had in table `once`.

use std::collections::BTreeSet;

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::keys::{self, Key, MESSAGES, Table};
use super::rows::{EntryRow, message};
use super::settling::charge_of;
use super::{Item, Transacted, blocker, fault, from_item, n, s, text, to_item};
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::ledger::{Entry, UsageEvent};
use crate::live::Live;
use crate::message::Message;
use crate::reconciliation::{Difference, KeepComparison, PostCorrection, ReadCharges, ReadReports, Report, TRY_FOR};

/// Entries of one batch read.
const AT_ONCE: usize = 100;

/// Whatever there was before: the same again.
const ALWAYS: &str = "attribute_not_exists(pk) OR attribute_exists(pk)";

impl ReadCharges for Live {
    /// 1 batch read for a hundred.
    async fn load_charges(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<UsageEvent>, Fault> {
        let mut charges = Vec::new();
        for some in sids.chunks(AT_ONCE) {
            let wanted: Vec<Key> = some.iter().map(|sid| keys::entry(account, &charge_of(sid))).collect();
            for (_, item) in self.dynamo.batch_get(&wanted).await? {
                charges.extend(Entry::try_from(from_item::<EntryRow>(item)?)?.usage);
            }
        }
        Ok(charges)
    }

    /// 1 query.
    async fn list_made(
        &self,
        account: AccountId,
        after: MessageId,
        to: MessageId,
        limit: u16,
    ) -> Result<Vec<Message>, Fault> {
        let db = &self.dynamo;
        let from = MessageId::from_bits(after.bits().saturating_add(1));
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":from", s(format!("{MESSAGES}{from}")))
            .expression_attribute_values(":to", s(format!("{MESSAGES}{to}")))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("list messages by time", &error))?;
        answer.items.unwrap_or_default().into_iter().map(message).collect()
    }
}

impl KeepComparison for Live {
    /// 1 write.
    async fn keep_seen(
        &self,
        account: AccountId,
        day: Date,
        page: u32,
        sids: &[String],
        now: Timestamp,
    ) -> Result<(), Fault> {
        let key = keys::seen(account, day, page);
        let ends = now + TRY_FOR + TRY_FOR;
        let mut item = key.attributes();
        item.insert("v".to_owned(), n(1));
        item.insert("sids".to_owned(), s(sids.join(" ")));
        item.insert("ttl".to_owned(), n(ends.as_second()));
        self.dynamo.transact(vec![self.dynamo.put(&key, item, ALWAYS, &[])?]).await.map(|_| ())
    }

    /// 1 query for each megabyte: a day of twenty thousand messages.
    async fn load_seen(&self, account: AccountId, day: Date) -> Result<BTreeSet<String>, Fault> {
        let db = &self.dynamo;
        let (mut seen, mut start) = (BTreeSet::new(), None);
        loop {
            let answer = db
                .client()?
                .query()
                .table_name(db.name(Table::Once))
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", s(keys::seen_on(account, day)))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| fault("load what was seen", &error))?;
            for item in answer.items.unwrap_or_default() {
                seen.extend(text(&item, "sids")?.split_whitespace().map(str::to_owned));
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(seen);
            }
        }
    }

    /// 1 transaction for a hundred.
    async fn keep_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        differences: &[Difference],
    ) -> Result<(), Fault> {
        for some in differences.chunks(AT_ONCE) {
            let put = |difference: &Difference| {
                let key = keys::difference(account, day, attempt, &difference.sid);
                self.dynamo.put(&key, to_item(&key, difference)?, ALWAYS, &[])
            };
            self.dynamo.transact(some.iter().map(put).collect::<Result<_, _>>()?).await?;
        }
        Ok(())
    }

    /// 1 write.
    async fn save_report(&self, account: AccountId, report: &Report) -> Result<bool, Fault> {
        let key = keys::reconciled(account, report.day);
        let before = (":before", n(report.revision.saturating_sub(1)));
        let condition = "revision = :before OR (:before = :none AND attribute_not_exists(pk))";
        let put = self.dynamo.put(&key, to_item(&key, report)?, condition, &[before, (":none", n(0))])?;
        Ok(matches!(self.dynamo.transact(vec![put]).await?, Transacted::Committed))
    }
}

impl ReadReports for Live {
    async fn load_report(&self, account: AccountId, day: Date) -> Result<Option<Report>, Fault> {
        self.dynamo.get(&keys::reconciled(account, day)).await
    }

    /// 1 query.
    async fn list_reports(&self, account: AccountId, before: Option<Date>, limit: u16) -> Result<Vec<Report>, Fault> {
        let last = before.map_or(Date::MAX, |before| before.saturating_sub(1.day()));
        let range = (keys::RECONCILED.to_owned(), format!("{}{last}", keys::RECONCILED));
        self.query_ledger(account, range, false, limit).await?.into_iter().map(from_item).collect()
    }

    /// 1 query.
    async fn list_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<Difference>, Fault> {
        let prefix = keys::differences(day, attempt);
        // '!' comes right after what is the same, '~' behind all that SIDs are made of.
        let from = after.map_or_else(|| prefix.clone(), |after| format!("{prefix}{after}!"));
        let items = self.query_ledger(account, (from, format!("{prefix}~")), true, limit).await?;
        items.into_iter().map(from_item).collect()
    }
}

impl Live {
    async fn query_ledger(
        &self,
        account: AccountId,
        (from, to): (String, String),
        forward: bool,
        limit: u16,
    ) -> Result<Vec<Item>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Ledger))
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":from", s(from))
            .expression_attribute_values(":to", s(to))
            .scan_index_forward(forward)
            .consistent_read(true)
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("read what was compared", &error))?;
        Ok(answer.items.unwrap_or_default())
    }
}

impl PostCorrection for Live {
    /// 1 transaction of entry, its place in the journal, and allowance.
    async fn post_correction(&self, entry: &Entry) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let credits = entry.usage.as_ref().ok_or(Fault::permanent("a correction without work"))?.credits;
        let parts = vec![
            db.put_entry(entry)?,
            db.put_journal(entry)?,
            db.update(
                &keys::allowance(entry.account),
                "SET used = used + :credits, available = available - :credits",
                "used >= :least",
                &[(":credits", n(credits.0)), (":least", n(credits.below().0))],
            )?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(false),
            Transacted::Refused(_) => Err(Fault::permanent("the ledger does not fit the correction: look at it")),
        }
    }
}
