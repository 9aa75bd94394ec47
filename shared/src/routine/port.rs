//! What routines ask of the world.

use jiff::Timestamp;

use super::{Progress, Routine, SelfCall};
use crate::fault::Fault;
use crate::ids::AccountId;

/// Finds routines whose time has come.
pub trait FindDueRoutines {
    /// Earliest first.
    fn find_due_routines(
        &self,
        now: Timestamp,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<(AccountId, Routine)>, Fault>> + Send;

    /// Sets its next time, unless nothing is connected any more.
    fn do_routine_at(
        &self,
        account: AccountId,
        routine: Routine,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Remembers how far the looks for texts that arrived have come.
pub trait KeepProgress {
    /// `None` if nothing is connected.
    fn load_progress(&self, account: AccountId) -> impl Future<Output = Result<Option<Progress>, Fault>> + Send;

    /// Writes `progress` and its next time if its row still has the revision before; `false` if another write came
    /// between.
    fn save_progress(
        &self,
        account: AccountId,
        progress: &Progress,
        due: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Calls our own public address.
pub trait CallSelf {
    /// 1 POST to the public origin, through everything that Twilio's webhooks pass: the status, or `None` without an
    /// answer in time. No redirect is followed.
    fn call_self(&self, call: &SelfCall) -> impl Future<Output = Option<u16>> + Send;
}
