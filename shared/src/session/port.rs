//! What sessions ask of the world.

use jiff::Timestamp;

use super::Session;
use crate::api_key::CheckApiKey;
use crate::fault::Fault;
use crate::ids::{AccountId, SessionId};
use crate::secret::TokenHash;

/// Stores sessions on the server's side: what is revoked here is over at once. Whoever lets sessions in lets API keys in
/// too, where the route says so.
pub trait KeepSessions: CheckApiKey {
    /// Stores a new one.
    fn start_session(&self, session: Session) -> impl Future<Output = Result<(), Fault>> + Send;

    /// One by the hash of its token, ended or not.
    fn load_session(
        &self,
        account: AccountId,
        hash: &TokenHash,
    ) -> impl Future<Output = Result<Option<Session>, Fault>> + Send;

    /// Writes down the last call; `false` if the session is gone (it does not come back).
    fn touch_session(
        &self,
        account: AccountId,
        hash: &TokenHash,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// All of an account's sessions that have not ended, newest first.
    fn list_sessions(
        &self,
        account: AccountId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Session>, Fault>> + Send;

    /// Removes one; `false` if there was none.
    fn end_session(&self, account: AccountId, session: SessionId) -> impl Future<Output = Result<bool, Fault>> + Send;
}
