//! Carrier credentials in table `credentials`, wrapped data keys in table `keys`.

use aws_sdk_dynamodb::types::AttributeValue;

use super::keys;
use super::rows::{ClaimRow, CredentialRow, KeysRow};
use super::{Transacted, blocker, from_item, n, s, to_item};
use crate::account::LoadGate;
use crate::credential::{
    FindHook, FoundHook, History, KeepCredential, LoadKeys, SaveCredential, Saved, StoredCredential,
};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::seal::{Purpose, WrappedKeys};
use crate::secret::HookId;

impl LoadKeys for Live {
    async fn load_keys(&self, account: AccountId, purpose: Purpose) -> Result<Option<WrappedKeys>, Fault> {
        let row = self.dynamo.get::<KeysRow>(&keys::data_keys(account, purpose)).await?;
        row.map(|row| row.keys(account, purpose)).transpose()
    }
}

impl KeepCredential for Live {
    async fn load_credential(&self, account: AccountId) -> Result<Option<StoredCredential>, Fault> {
        let row = self.dynamo.get::<CredentialRow>(&keys::credential(account)).await?;
        row.map(|row| row.credential(account)).transpose()
    }

    async fn credential_history(&self, account: AccountId) -> Result<History, Fault> {
        let gate = self.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?;
        Ok(History {
            version: gate.credential_version,
            hook: gate.hook,
            numbers: gate.numbers,
            refused: gate.credential_refused,
        })
    }

    async fn save_credential(&self, save: SaveCredential) -> Result<Saved, Fault> {
        let db = &self.dynamo;
        let stored = &save.credential;
        let account = stored.account;
        let claim = keys::carrier_claim(&save.sid_hash);
        let row = keys::credential(account);
        let before = stored.version.saturating_sub(1);
        let mut gate = "SET connected = :yes, credential_version = :version, hook = :hook".to_owned();
        let mut values = vec![
            (":yes", AttributeValue::Bool(true)),
            (":version", n(stored.version)),
            (":hook", s(stored.hook.reveal())),
            (":before", n(before)),
        ];
        // Only a new secret for calls ends what a refused one began.
        if save.keys.iter().any(|keys| keys.purpose == Purpose::Send) {
            gate.push_str(", credential_refused = :no REMOVE refusal_untold");
            values.push((":no", AttributeValue::Bool(false)));
        }
        let replaced = save.replaced_sid_hash.as_deref().filter(|old| *old != save.sid_hash);
        // Numbers of the account that is replaced must not be left pointing at us.
        let unchanged = if replaced.is_some() {
            values.push((":numbers", n(save.numbers)));
            "credential_version = :before AND (numbers = :numbers OR attribute_not_exists(numbers))"
        } else {
            "credential_version = :before"
        };
        let mut parts = vec![
            // One Twilio account, one TelBuddy account.
            db.put(
                &claim,
                to_item(&claim, &ClaimRow { account })?,
                "attribute_not_exists(pk) OR account = :me",
                &[(":me", s(account.to_string()))],
            )?,
            // The version only rises, and only by one: of two changes at the same time one wins.
            db.update(&keys::gate(account), &gate, unchanged, &values)?,
            db.put(
                &row,
                to_item(&row, &CredentialRow::from(stored))?,
                "attribute_not_exists(pk) OR version < :version",
                &[(":version", n(stored.version))],
            )?,
        ];
        for wrapped in &save.keys {
            let key = keys::data_keys(account, wrapped.purpose);
            let item = to_item(&key, &KeysRow::from(wrapped))?;
            parts.push(match save.keys_read.iter().find(|read| read.purpose == wrapped.purpose) {
                // What is kept of it may have been moved to another KMS key since.
                Some(read) => {
                    let read = KeysRow::from(read).stored_versions()?;
                    db.put(&key, item, "versions = :read", &[(":read", read)])?
                }
                None => db.put(&key, item, "attribute_not_exists(pk) OR attribute_exists(pk)", &[])?,
            });
        }
        if let Some(old) = replaced {
            parts.push(db.delete(&keys::carrier_claim(old), "account = :me", &[(":me", s(account.to_string()))])?);
        }
        parts.extend(db.begin_routines(stored, replaced.is_some())?);
        match db.transact(parts).await? {
            Transacted::Committed => Ok(Saved::Stored),
            Transacted::Refused(reasons) if blocker(&reasons, 0).is_some() => Ok(Saved::TakenByAnother),
            Transacted::Refused(_) => Ok(Saved::Raced),
        }
    }

    async fn remove_credential(&self, stored: &StoredCredential, sid_hash: &str, numbers: u32) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let account = stored.account;
        let mut parts = vec![
            db.delete(&keys::credential(account), "version = :version", &[(":version", n(stored.version))])?,
            db.delete(&keys::carrier_claim(sid_hash), "account = :me", &[(":me", s(account.to_string()))])?,
            db.update(
                &keys::gate(account),
                "SET connected = :no",
                "credential_version = :version AND (numbers = :numbers OR attribute_not_exists(numbers))",
                &[(":no", AttributeValue::Bool(false)), (":version", n(stored.version)), (":numbers", n(numbers))],
            )?,
        ];
        for purpose in [Purpose::Send, Purpose::Hook] {
            parts.push(db.delete(&keys::data_keys(account, purpose), "attribute_exists(pk)", &[])?);
        }
        parts.extend(db.end_routines(account)?);
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

impl FindHook for Live {
    /// 1 BatchGetItem: credential and wrapped keys.
    async fn find_hook(&self, hook: &HookId) -> Result<Option<FoundHook>, Fault> {
        let account = hook.account();
        let [credential, hook_keys, match_keys] = [
            keys::credential(account),
            keys::data_keys(account, Purpose::Hook),
            keys::data_keys(account, Purpose::Match),
        ];
        let mut found = self.dynamo.batch_get(&[credential.clone(), hook_keys.clone(), match_keys.clone()]).await?;
        let items = (found.remove(&credential), found.remove(&hook_keys), found.remove(&match_keys));
        let (Some(credential), Some(hook_keys), Some(match_keys)) = items else { return Ok(None) };
        let credential = from_item::<CredentialRow>(credential)?.credential(account)?;
        if credential.hook != *hook {
            return Ok(None);
        }
        Ok(Some(FoundHook {
            credential,
            hook_keys: from_item::<KeysRow>(hook_keys)?.keys(account, Purpose::Hook)?,
            match_keys: from_item::<KeysRow>(match_keys)?.keys(account, Purpose::Match)?,
        }))
    }
}
