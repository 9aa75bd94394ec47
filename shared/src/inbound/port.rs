//! What opt-outs ask of the world.

use jiff::Timestamp;

use super::Consent;
use crate::fault::Fault;
use crate::ids::AccountId;

/// Records what recipients said (promise N9): per account, sender or messaging service, and recipient.
pub trait RecordConsent {
    /// The latest word counts, by the time that it was said, in whatever order the events come.
    fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        source: &str,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}
