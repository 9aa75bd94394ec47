//! API keys in table `accounts`.

use jiff::Timestamp;

use super::keys::{self, Table};
use super::rows::ApiKeyRow;
use super::{Transacted, blocker, fault, from_item, millis, n, s, to_item};
use crate::api_key::{ApiKey, CheckApiKey, KeepApiKeys, MOST_KEYS};
use crate::fault::Fault;
use crate::ids::{AccountId, ApiKeyId};
use crate::live::Live;
use crate::secret::TokenHash;

impl CheckApiKey for Live {
    async fn load_api_key(&self, account: AccountId, hash: &TokenHash) -> Result<Option<ApiKey>, Fault> {
        let row = self.dynamo.get::<ApiKeyRow>(&keys::api_key(account, hash)).await?;
        row.map(|row| row.api_key(account)).transpose()
    }

    async fn touch_api_key(&self, account: AccountId, hash: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        let key = keys::api_key(account, hash);
        let condition = "attribute_exists(pk) AND (attribute_not_exists(used) OR used <= :now)";
        let touched = self.dynamo.update_one(&key, "SET used = :now", condition, &[(":now", millis(now))]).await;
        // A later call may have touched it first: then it is there.
        Ok(match touched? {
            Ok(_) => true,
            Err(item) => item.is_some(),
        })
    }
}

impl KeepApiKeys for Live {
    /// 1 transaction of 2 items.
    async fn create_api_key(&self, api_key: ApiKey) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let key = keys::api_key(api_key.account, &api_key.hash);
        let item = to_item(&key, &ApiKeyRow::from(&api_key))?;
        let counted = db.update(
            &keys::api_key_count(api_key.account),
            "SET kept = if_not_exists(kept, :none) + :one, v = :one",
            "attribute_not_exists(pk) OR kept < :most",
            &[(":none", n(0)), (":one", n(1)), (":most", n(MOST_KEYS))],
        )?;
        match db.transact(vec![db.put_new(&key, item)?, counted]).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => {
                Err(Fault::permanent("a new API key's token was there already"))
            }
            Transacted::Refused(_) => Ok(false),
        }
    }

    async fn list_api_keys(&self, account: AccountId) -> Result<Vec<ApiKey>, Fault> {
        let db = &self.dynamo;
        // At most MOST_KEYS small items: one page holds them.
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Accounts))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(keys::API_KEYS))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("list API keys", &error))?;
        let items = answer.items.unwrap_or_default().into_iter();
        let mut all: Vec<_> =
            items.map(|item| from_item::<ApiKeyRow>(item)?.api_key(account)).collect::<Result<_, _>>()?;
        all.sort_by_key(|key| std::cmp::Reverse((key.created, key.id)));
        Ok(all)
    }

    /// 1 query, and 1 transaction of 2 items.
    async fn revoke_api_key(&self, account: AccountId, id: ApiKeyId) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let found = self.list_api_keys(account).await?.into_iter().find(|found| found.id == id);
        let Some(found) = found else { return Ok(false) };
        let parts = vec![
            db.delete(&keys::api_key(account, &found.hash), "attribute_exists(pk)", &[])?,
            db.update(&keys::api_key_count(account), "SET kept = kept - :one", "kept >= :one", &[(":one", n(1))])?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(false),
            Transacted::Refused(_) => Err(Fault::permanent("an account has more API keys than were counted")),
        }
    }
}
