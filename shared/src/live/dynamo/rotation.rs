//! Walking and replacing wrapped keys, and what they sealed: tables `keys`, `credentials`, `accounts`.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};

use super::keys::{self, Key, Table};
use super::rows::{CredentialRow, KeysRow};
use super::{Dynamo, Transacted, fault, from_item, n, text, to_item};
use crate::credential::StoredCredential;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::rotation::{KeysChange, KeysCursor, KeysPage, ReplaceKeys, WalkKeys};
use crate::seal::Sealed;
use crate::template::Template;

fn cursor(pk: &str, sk: &str) -> Result<KeysCursor, Fault> {
    let (account, purpose) =
        keys::parse_data_keys(pk, sk).ok_or(Fault::permanent("a stored key of wrapped keys does not read"))?;
    Ok(KeysCursor { account, purpose })
}

impl WalkKeys for Live {
    /// 1 Scan with a limit: the one place that walks a table, for an operator's job.
    async fn walk_keys(&self, after: Option<KeysCursor>, limit: u8) -> Result<KeysPage, Fault> {
        let db = &self.dynamo;
        let start = after.map(|after| keys::data_keys(after.account, after.purpose).attributes());
        let answer = db
            .client()?
            .scan()
            .table_name(db.name(Table::Keys))
            .limit(i32::from(limit))
            .consistent_read(true)
            .set_exclusive_start_key(start)
            .send()
            .await
            .map_err(|error| fault("walk keys", &error))?;
        let last = answer.last_evaluated_key;
        let next = last.map(|key| cursor(&text(&key, "pk")?, &text(&key, "sk")?)).transpose()?;
        let rows = answer.items.unwrap_or_default().into_iter().map(|item| {
            let at = cursor(&text(&item, "pk")?, &text(&item, "sk")?)?;
            from_item::<KeysRow>(item)?.keys(at.account, at.purpose)
        });
        Ok(KeysPage { keys: rows.collect::<Result<_, _>>()?, next })
    }
}

impl Dynamo {
    /// The write of a row of wrapped keys that still is as it was read.
    fn change_keys(&self, change: &KeysChange) -> Result<TransactWriteItem, Fault> {
        let key: Key = keys::data_keys(change.new.account, change.new.purpose);
        let read = KeysRow::from(&change.read).stored_versions()?;
        self.put(&key, to_item(&key, &KeysRow::from(&change.new))?, "versions = :read", &[(":read", read)])
    }
}

impl ReplaceKeys for Live {
    async fn replace_keys(&self, change: &KeysChange) -> Result<bool, Fault> {
        let db = &self.dynamo;
        Ok(matches!(db.transact(vec![db.change_keys(change)?]).await?, Transacted::Committed))
    }

    async fn replace_profile(&self, account: AccountId, read: &Sealed, new: &Sealed) -> Result<bool, Fault> {
        let bytes = |sealed: &Sealed| AttributeValue::B(Blob::new(sealed.0.clone()));
        let values = [(":read", bytes(read)), (":new", bytes(new))];
        let db = &self.dynamo;
        Ok(db.update_one(&keys::profile(account), "SET sealed = :new", "sealed = :read", &values).await?.is_ok())
    }

    async fn replace_template(&self, read: &Template, new: &Sealed) -> Result<bool, Fault> {
        self.reseal_template(read, new).await
    }

    /// 1 transaction. Of a customer's change at the same time and this one exactly one takes place: both raise the
    /// version of the gate by one. What was disconnected meanwhile stays so.
    async fn replace_credential(
        &self,
        read: &StoredCredential,
        new: &StoredCredential,
        changes: &[KeysChange],
    ) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let row = keys::credential(read.account);
        let before = (":before", n(read.version));
        let values = [(":version", n(new.version)), before.clone(), (":yes", AttributeValue::Bool(true))];
        let mut parts = vec![
            db.update(
                &keys::gate(read.account),
                "SET credential_version = :version",
                "credential_version = :before AND connected = :yes",
                &values,
            )?,
            db.put(&row, to_item(&row, &CredentialRow::from(new))?, "version = :before", &[before])?,
        ];
        for change in changes {
            parts.push(db.change_keys(change)?);
        }
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}
