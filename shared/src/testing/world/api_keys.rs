//! API keys.

use jiff::Timestamp;

use super::World;
use crate::api_key::{ApiKey, CheckApiKey, KeepApiKeys, MOST_KEYS};
use crate::fault::Fault;
use crate::ids::{AccountId, ApiKeyId};
use crate::secret::TokenHash;

impl CheckApiKey for World {
    async fn load_api_key(&self, account: AccountId, hash: &TokenHash) -> Result<Option<ApiKey>, Fault> {
        self.call("load_api_key", |state| Ok(state.accounts.api_keys.get(&(account, hash.clone())).cloned())).await
    }

    async fn touch_api_key(&self, account: AccountId, hash: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        self.call("touch_api_key", |state| {
            let Some(key) = state.accounts.api_keys.get_mut(&(account, hash.clone())) else { return Ok(false) };
            key.used = key.used.max(Some(now));
            Ok(true)
        })
        .await
    }
}

impl KeepApiKeys for World {
    async fn create_api_key(&self, key: ApiKey) -> Result<bool, Fault> {
        self.call("create_api_key", |state| {
            let keys = &mut state.accounts.api_keys;
            let place = (key.account, key.hash.clone());
            if keys.contains_key(&place) {
                return Err(Fault::permanent("a new API key's token was there already"));
            }
            if keys.values().filter(|kept| kept.account == key.account).count() >= MOST_KEYS as usize {
                return Ok(false);
            }
            keys.insert(place, key);
            Ok(true)
        })
        .await
    }

    async fn list_api_keys(&self, account: AccountId) -> Result<Vec<ApiKey>, Fault> {
        self.call("list_api_keys", |state| {
            let keys = state.accounts.api_keys.values().filter(|key| key.account == account);
            let mut keys: Vec<_> = keys.cloned().collect();
            keys.sort_by_key(|key| std::cmp::Reverse((key.created, key.id)));
            Ok(keys)
        })
        .await
    }

    async fn revoke_api_key(&self, account: AccountId, id: ApiKeyId) -> Result<bool, Fault> {
        self.call("revoke_api_key", |state| {
            let before = state.accounts.api_keys.len();
            state.accounts.api_keys.retain(|_, kept| kept.account != account || kept.id != id);
            Ok(state.accounts.api_keys.len() < before)
        })
        .await
    }
}
