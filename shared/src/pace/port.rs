//! What keeping a pace asks of the world.

use jiff::{SignedDuration, Timestamp};

use crate::fault::Fault;
use crate::ids::AccountId;

/// A sender's line.
pub trait TakeSlots {
    /// Moves the end of the line on by `takes` and says where the stretch begins: now, or at the end that was there.
    /// `None`, and nothing is moved, if that end lies at `latest` or beyond. 1 update, 2 if the line was busy.
    fn take_slots(
        &self,
        account: AccountId,
        own: &str,
        takes: SignedDuration,
        now: Timestamp,
        latest: Timestamp,
    ) -> impl Future<Output = Result<Option<Timestamp>, Fault>> + Send;
}
