//! What the quarantine asks of the world.

use jiff::Timestamp;

use super::{Cause, Failure, Noted, Record};
use crate::alert::Alert;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::platform::{EnqueueJob, Job};

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

/// Counts a failed check and has the owner told if that is news: 1 update, and then 1 queue message and 1 update more.
pub async fn count_and_tell<W: QuarantineWebhook + EnqueueJob>(world: &W, failure: &Failure) -> Result<(), Fault> {
    let Failure { account, cause, at, facts } = *failure;
    if !world.quarantine(failure).await?.is_news(at) {
        return Ok(());
    }
    let alert = Alert::SignatureFailed { cause, recently_rotated: facts.rotation.is_recent() };
    let told = world.enqueue(Job::Alert { account, alert, since: at }, 0).await;
    // Not told: the next failure tries again.
    world.note_alert(account, cause, told.is_ok().then_some(at)).await?;
    told
}
