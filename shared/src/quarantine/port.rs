//! What the quarantine asks of the world.

use jiff::Timestamp;

use super::{Cause, Failure, Noted, Record};
use crate::fault::Fault;
use crate::ids::AccountId;

/// Counts failed checks.
pub trait QuarantineWebhook {
    /// 1 update of the account's row for this cause, atomic: of any number of failures at once exactly one sees that
    /// there was none before it.
    fn quarantine(&self, failure: &Failure) -> impl Future<Output = Result<Noted, Fault>> + Send;

    /// 1 update: when the owner was told of the cause; `None` if that failed and is to be done with the next failure.
    fn note_alert(
        &self,
        account: AccountId,
        cause: Cause,
        alerted: Option<Timestamp>,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads the quarantine.
pub trait ReadQuarantine {
    /// An account's records that have not ended at `now`: one for each cause, in no order.
    fn read_quarantine(
        &self,
        account: AccountId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Record>, Fault>> + Send;
}
