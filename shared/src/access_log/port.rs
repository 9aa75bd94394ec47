//! What the access log asks of the world.

use super::{Entry, Head, Opening};
use crate::fault::Fault;
use crate::ids::AccountId;

/// Links pending openings into chains.
pub trait LinkAccess {
    /// Up to `limit` pending openings of one shard, of any accounts.
    fn load_pending(&self, shard: u8, limit: u8) -> impl Future<Output = Result<Vec<Opening>, Fault>> + Send;

    /// The end of an account's chain.
    fn load_head(&self, account: AccountId) -> impl Future<Output = Result<Head, Fault>> + Send;

    /// Writes entries behind `head` and removes their pending openings, in one transaction. `false` if the chain grew or
    /// an opening was linked meanwhile: nothing was written, load again.
    fn append_entries(
        &self,
        account: AccountId,
        head: &Head,
        entries: &[Entry],
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads chains.
pub trait ReadAccess {
    /// An account's entries behind the sequence `after`, in order.
    fn read_access(
        &self,
        account: AccountId,
        after: u64,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Entry>, Fault>> + Send;
}
