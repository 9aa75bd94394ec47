//! Counters in table `once`: of tries, and of what is handed over.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use super::{Item, keys, n};
use crate::fault::Fault;
use crate::live::Live;
use crate::platform::CountTries;
use crate::velocity::{COUNTERS_LIFE_SECS, CountPassing, Mark, Minute};

impl CountTries for Live {
    /// 1 conditional update: at the limit nothing is written any more.
    async fn count_try(&self, what: &str, limit: u32, window_secs: u32, now: Timestamp) -> Result<bool, Fault> {
        if limit == 0 {
            return Ok(false);
        }
        let window = now.as_second().div_euclid(i64::from(window_secs.max(1)));
        let ends = (window + 2) * i64::from(window_secs.max(1));
        let counted = self
            .dynamo
            .update_one(
                &keys::tries(what, window),
                "SET tries = if_not_exists(tries, :none) + :one, #ttl = :ends",
                "attribute_not_exists(tries) OR tries < :limit",
                &[(":none", n(0)), (":one", n(1)), (":limit", n(limit)), (":ends", n(ends))],
            )
            .await;
        Ok(counted?.is_ok())
    }
}

impl CountPassing for Live {
    async fn count_prefix(
        &self,
        minute: Minute,
        prefix: &str,
        marks: &BTreeSet<Mark>,
    ) -> Result<BTreeSet<Mark>, Fault> {
        let marks = AttributeValue::Ss(marks.iter().map(|mark| mark.as_str().to_owned()).collect());
        let item = self.count_passing(minute, Some(prefix), "ADD marks :added SET #ttl = :ends", marks).await?;
        let marks = item.get("marks").and_then(|marks| marks.as_ss().ok());
        let marks = marks.ok_or(Fault::permanent("a stored counter does not read"))?;
        Ok(marks.iter().cloned().map(Mark::stored).collect())
    }

    /// The SDK may repeat it after a lost answer, and count a batch twice: the limits have room for that.
    async fn count_account(&self, minute: Minute, n_messages: u64) -> Result<u64, Fault> {
        let item = self.count_passing(minute, None, "ADD messages :added SET #ttl = :ends", n(n_messages)).await?;
        let messages = item.get("messages").and_then(|messages| messages.as_n().ok()?.parse().ok());
        messages.ok_or(Fault::permanent("a stored counter does not read"))
    }
}

impl Live {
    /// 1 update without a condition that could fail: everything counts.
    async fn count_passing(
        &self,
        minute: Minute,
        prefix: Option<&str>,
        expression: &str,
        added: AttributeValue,
    ) -> Result<Item, Fault> {
        let key = keys::passing(minute, prefix);
        let ends = minute.minute.saturating_mul(60).saturating_add(COUNTERS_LIFE_SECS);
        let always = "attribute_exists(pk) OR attribute_not_exists(pk)";
        let values = [(":added", added), (":ends", n(ends))];
        let counted = self.dynamo.update_one(&key, expression, always, &values).await?;
        counted.map_err(|_| Fault::permanent("a counter refused to count"))
    }
}
