//! Counters of tries in table `once`.

use jiff::Timestamp;

use super::keys;
use super::n;
use crate::fault::Fault;
use crate::live::Live;
use crate::platform::CountTries;

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
