//! What API keys ask of the world.

use jiff::Timestamp;

use super::ApiKey;
use crate::fault::Fault;
use crate::ids::{AccountId, ApiKeyId};
use crate::secret::TokenHash;

/// Checks a key that a request shows. Found by its hash: how long that takes tells nothing about a key of 256 random
/// bits, and unknown, expired and revoked ones cost the same.
pub trait CheckApiKey {
    /// One by the hash of its token, expired or not.
    fn load_api_key(
        &self,
        account: AccountId,
        hash: &TokenHash,
    ) -> impl Future<Output = Result<Option<ApiKey>, Fault>> + Send;

    /// Writes down the last call; `false` if the key is gone (it does not come back).
    fn touch_api_key(
        &self,
        account: AccountId,
        hash: &TokenHash,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Makes, lists and revokes keys.
pub trait KeepApiKeys {
    /// One transaction of the key and the account's count of keys, which never goes above
    /// [`MOST_KEYS`](super::MOST_KEYS): `false` if there are as many already.
    fn create_api_key(&self, key: ApiKey) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// All of an account's keys, newest first.
    fn list_api_keys(&self, account: AccountId) -> impl Future<Output = Result<Vec<ApiKey>, Fault>> + Send;

    /// Removes one and counts it down, once however many ask at the same time; `false` if there was none.
    fn revoke_api_key(&self, account: AccountId, key: ApiKeyId) -> impl Future<Output = Result<bool, Fault>> + Send;
}
