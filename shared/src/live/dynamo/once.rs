//! Counters in table `once`: of tries, of what is handed over, and how far the lines of senders reach.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::{SignedDuration, Timestamp};

use super::{Item, keys, millis, n};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::pace::TakeSlots;
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

/// How long the end of a line is kept after it has passed, in seconds; it says nothing any more then.
const LINE_LIFE_SECS: i64 = 3_600;

impl TakeSlots for Live {
    /// The SDK may repeat it after a lost answer and move the end on twice: a gap in the line, and nothing comes too
    /// early.
    async fn take_slots(
        &self,
        account: AccountId,
        own: &str,
        takes: SignedDuration,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        let key = keys::line(account, own);
        let ends = (":ends", n(latest.max(now + takes).as_second() + LINE_LIFE_SECS));
        for _ in 0..4 {
            let values = [(":end", millis(now + takes)), (":now", millis(now)), ends.clone()];
            let idle = "attribute_not_exists(line_end) OR line_end <= :now";
            if self.dynamo.update_one(&key, "SET line_end = :end, #ttl = :ends", idle, &values).await?.is_ok() {
                return Ok(Some(now));
            }
            let takes_ms = n(takes.as_millis());
            let values = [(":takes", takes_ms), (":now", millis(now)), (":latest", millis(latest)), ends.clone()];
            let busy = "line_end > :now AND line_end < :latest";
            match self.dynamo.update_one(&key, "ADD line_end :takes SET #ttl = :ends", busy, &values).await? {
                Ok(item) => return Ok(Some(line_end(&item)? - takes)),
                Err(Some(item)) if line_end(&item)? >= latest => return Ok(None),
                // The line ended between the two writes.
                Err(_) => {}
            }
        }
        Err(Fault::transient("a sender's line kept changing"))
    }
}

fn line_end(item: &Item) -> Result<Timestamp, Fault> {
    let ms = item.get("line_end").and_then(|end| end.as_n().ok()?.parse().ok());
    let end = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    end.ok_or(Fault::permanent("a stored line does not read"))
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
