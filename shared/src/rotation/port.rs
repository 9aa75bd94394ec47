//! What replacing keys asks of the world.

use super::KeysCursor;
use crate::credential::StoredCredential;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::seal::{Purpose, Sealed, WrappedKey, WrappedKeys};
use crate::template::Template;

/// Some rows of wrapped keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysPage {
    /// The rows, of any accounts.
    pub keys: Vec<WrappedKeys>,
    /// The last row that was looked at; `None` at the end of the table.
    pub next: Option<KeysCursor>,
}

/// Walks the wrapped keys of all accounts: an operator's job, never a request's.
pub trait WalkKeys {
    /// The rows behind `after` in the table's own order, which is none that we know. A row that is there from the first
    /// page to the last is in one of them.
    fn walk_keys(&self, after: Option<KeysCursor>, limit: u8) -> impl Future<Output = Result<KeysPage, Fault>> + Send;
}

/// Moves wrapped keys to another KMS key.
pub trait RewrapKey {
    /// The same data key, wrapped by KMS's current key instead of the one before; it is not opened here. `None`: it was
    /// moved already.
    fn rewrap_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        wrapped: &WrappedKey,
    ) -> impl Future<Output = Result<Option<WrappedKey>, Fault>> + Send;
}

/// A row of wrapped keys as it was read, and what takes its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysChange {
    /// As it was read.
    pub read: WrappedKeys,
    /// As it shall be.
    pub new: WrappedKeys,
}

/// Replaces keys and what they sealed, each only if it still is as it was read: `false` if not, and nothing was
/// written.
pub trait ReplaceKeys {
    /// Wrapped keys.
    fn replace_keys(&self, change: &KeysChange) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// The sealed profile.
    fn replace_profile(
        &self,
        account: AccountId,
        read: &Sealed,
        new: &Sealed,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// What a template says; its revision stays.
    fn replace_template(&self, read: &Template, new: &Sealed) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// The credential with its keys and its version in the gate, in one transaction. A stop for a refused credential
    /// stays: the secrets are the same.
    fn replace_credential(
        &self,
        read: &StoredCredential,
        new: &StoredCredential,
        keys: &[KeysChange],
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}
