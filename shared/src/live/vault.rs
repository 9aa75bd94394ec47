//! KMS: makes and opens data keys, remembers opened ones for at most five minutes, and notes each opening (N2, N11).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::decrypt::DecryptError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::config::{
    Aws, Config, ConfigError, KEY_CACHE_ACCOUNTS, KEY_CACHE_SECONDS, KMS_KEY, KMS_KEY_BEFORE, aws_config,
};
use super::{Live, Need, not_asked_for};
use crate::access_log::Opening;
use crate::credential::{MintKey, OpenKey};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::rotation::RewrapKey;
use crate::seal::{DataKey, Purpose, Uses, WrappedKey, WrappedKeys};

/// How long opened keys are remembered, and how many: one of each purpose for each account.
struct Bounds {
    remember: SignedDuration,
    most: usize,
}

impl Bounds {
    fn new(config: &Config) -> Result<Self, ConfigError> {
        let seconds = config.number(KEY_CACHE_SECONDS, 300, 0..=300, "has to be a number of seconds from 0 to 300")?;
        let accounts = config.number(KEY_CACHE_ACCOUNTS, 1000, 1..=1000, "has to be a number from 1 to 1000")?;
        let remember = SignedDuration::from_secs(i64::from(seconds));
        Ok(Self { remember, most: usize::from(accounts) * Purpose::ALL.len() })
    }
}

type Which = (AccountId, Purpose, u32);

/// A key that is being opened or was: callers at the same time share one KMS call.
#[derive(Clone)]
struct Slot {
    opened: Arc<OnceCell<DataKey>>,
    until: Timestamp,
}

impl Slot {
    /// Not over, and its key not nearly used up.
    fn lives(&self, now: Timestamp) -> bool {
        self.until > now && !self.opened.get().is_some_and(DataKey::nearly_used_up)
    }
}

#[derive(Default)]
struct Memory {
    slots: HashMap<Which, Slot>,
    newest: HashMap<(AccountId, Purpose), u32>,
    /// The count of each key's last opening and when it was: the next one reports it.
    last: HashMap<Which, (Uses, Timestamp)>,
}

impl Memory {
    /// How often the last opening was used, as far as it is remembered.
    fn uses_before(&self, which: Which) -> Option<u64> {
        self.last.get(&which).map(|(uses, _)| uses.count())
    }

    /// A key was opened, or that was tried (`None`): counts from nought. Makes room by forgetting the oldest count.
    fn count_anew(&mut self, which: Which, uses: Option<Uses>, now: Timestamp, most: usize) {
        if self.last.len() >= 2 * most && !self.last.contains_key(&which) {
            let oldest = self.last.iter().min_by_key(|(_, (_, at))| *at).map(|(which, _)| *which);
            oldest.and_then(|which| self.last.remove(&which));
        }
        self.last.insert(which, (uses.unwrap_or_default(), now));
    }
}

/// The vault's key and what was opened lately.
pub(super) struct Vault {
    client: Option<Client>,
    key: String,
    before: Option<String>,
    function: String,
    bounds: Bounds,
    memory: Mutex<Memory>,
}

impl Vault {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client = wanted.then(|| Client::from_conf(aws_config!(aws_sdk_kms, config, aws, "KMS")));
        let key = config.required(KMS_KEY, wanted)?;
        let before = config.optional(KMS_KEY_BEFORE).map(str::to_owned);
        let (function, bounds) = (config.function(), Bounds::new(config)?);
        Ok(Self { client, key, before, function, bounds, memory: Mutex::default() })
    }

    fn client(&self) -> Result<&Client, Fault> {
        self.client.as_ref().ok_or_else(|| not_asked_for(Need::Keys))
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a key; makes room by forgetting what is over, and then what would be over first.
    fn slot(&self, which: Which, now: Timestamp) -> Slot {
        let mut guard = self.memory();
        let memory = &mut *guard;
        memory.slots.retain(|_, slot| slot.lives(now));
        // Which version is the newest is remembered as long as that key is: nothing here grows with the accounts.
        memory.newest.retain(|(account, purpose), version| memory.slots.contains_key(&(*account, *purpose, *version)));
        if memory.slots.len() >= self.bounds.most && !memory.slots.contains_key(&which) {
            let first = memory.slots.iter().min_by_key(|(_, slot)| slot.until).map(|(which, _)| *which);
            first.and_then(|which| memory.slots.remove(&which));
        }
        let fresh = || Slot { opened: Arc::default(), until: now + self.bounds.remember };
        memory.slots.entry(which).or_insert_with(fresh).clone()
    }

    /// Asks with the current key; a data key that was not moved to it yet, with the one before.
    async fn unwrap(&self, account: AccountId, purpose: Purpose, wrapped: &WrappedKey) -> Result<DataKey, Fault> {
        let clear = match (self.decrypt(&self.key, account, purpose, wrapped).await, &self.before) {
            (Err(error), Some(before)) if is_of_another_key(&error) => {
                self.decrypt(before, account, purpose, wrapped).await
            }
            (opened, _) => opened,
        };
        data_key(account, purpose, wrapped.version, &clear.map_err(|error| fault("decrypt", &error))?)
    }

    async fn decrypt(
        &self,
        key: &str,
        account: AccountId,
        purpose: Purpose,
        wrapped: &WrappedKey,
    ) -> Result<Zeroizing<Vec<u8>>, SdkError<DecryptError>> {
        let Some(client) = &self.client else { return Err(SdkError::construction_failure(not_asked_for(Need::Keys))) };
        let answer = client
            .decrypt()
            .key_id(key)
            .ciphertext_blob(Blob::new(wrapped.blob.clone()))
            .encryption_context("account", account.to_string())
            .encryption_context("purpose", purpose.as_str())
            .send()
            .await?;
        Ok(Zeroizing::new(answer.plaintext.map(Blob::into_inner).unwrap_or_default()))
    }
}

/// KMS refuses without opening: another of its keys wrapped this.
fn is_of_another_key<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("IncorrectKeyException")
}

fn data_key(account: AccountId, purpose: Purpose, version: u32, clear: &[u8]) -> Result<DataKey, Fault> {
    let bytes: [u8; 32] = clear.try_into().map_err(|_| Fault::permanent("KMS: the data key is not 256 bits long"))?;
    Ok(DataKey::new(account, purpose, version, Zeroizing::new(bytes)))
}

fn fault<E: ProvideErrorMetadata>(what: &str, error: &SdkError<E>) -> Fault {
    let transient =
        ["ThrottlingException", "KMSInternalException", "DependencyTimeoutException", "KeyUnavailableException"];
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("unnamed error");
            let text = format!("KMS {what}: {code}");
            if transient.contains(&code) { Fault::Transient(text) } else { Fault::Permanent(text) }
        }
        _ => Fault::Transient(format!("KMS {what}: no answer")),
    }
}

impl MintKey for Live {
    async fn mint_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        version: u32,
    ) -> Result<(DataKey, WrappedKey), Fault> {
        let answer = self
            .vault
            .client()?
            .generate_data_key()
            .key_id(&self.vault.key)
            .key_spec(DataKeySpec::Aes256)
            .encryption_context("account", account.to_string())
            .encryption_context("purpose", purpose.as_str())
            .send()
            .await
            .map_err(|error| fault("generate data key", &error))?;
        let clear = Zeroizing::new(answer.plaintext.map(Blob::into_inner).unwrap_or_default());
        let blob = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
        let made = super::clock::now();
        Ok((data_key(account, purpose, version, &clear)?, WrappedKey { version, blob, made }))
    }
}

impl RewrapKey for Live {
    /// 1 `ReEncrypt`: the data key stays inside KMS.
    async fn rewrap_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        wrapped: &WrappedKey,
    ) -> Result<Option<WrappedKey>, Fault> {
        let Some(before) = &self.vault.before else {
            return Err(Fault::Permanent(format!("there is no KMS key to move from: set {KMS_KEY_BEFORE}")));
        };
        let context = [("account", account.to_string()), ("purpose", purpose.as_str().to_owned())];
        let mut call = self.vault.client()?.re_encrypt().source_key_id(before).destination_key_id(&self.vault.key);
        for (name, value) in context {
            call = call.source_encryption_context(name, &value).destination_encryption_context(name, &value);
        }
        match call.ciphertext_blob(Blob::new(wrapped.blob.clone())).send().await {
            Ok(answer) => {
                let blob = answer.ciphertext_blob.map(Blob::into_inner).unwrap_or_default();
                Ok(Some(WrappedKey { blob, ..wrapped.clone() }))
            }
            Err(error) if is_of_another_key(&error) => Ok(None),
            Err(error) => Err(fault("re-encrypt", &error)),
        }
    }
}

impl OpenKey for Live {
    fn remembered_key(&self, account: AccountId, purpose: Purpose, version: Option<u32>) -> Option<DataKey> {
        let now = super::clock::now();
        let memory = self.vault.memory();
        let version = version.or_else(|| memory.newest.get(&(account, purpose)).copied())?;
        let slot = memory.slots.get(&(account, purpose, version)).filter(|slot| slot.lives(now))?;
        slot.opened.get().cloned()
    }

    async fn open_key(&self, keys: &WrappedKeys, version: Option<u32>) -> Result<DataKey, Fault> {
        let wrapped = match version {
            Some(version) => keys.version(version),
            None => keys.current(),
        };
        let (account, purpose) = (keys.account, keys.purpose);
        let wrapped = wrapped
            .ok_or_else(|| Fault::Transient(format!("{account}: this {} key is not there", purpose.as_str())))?;
        let now = super::clock::now();
        let which = (account, purpose, wrapped.version);
        let slot = self.vault.slot(which, now);
        let open = || async {
            // Before its use: an opening that leaves no trace must not be possible.
            let opening = Opening {
                id: EntryId::new(now, u128::from_be_bytes(super::clock::random()?)),
                account,
                function: self.vault.function.clone(),
                purpose,
                key_version: wrapped.version,
                request_id: super::trace::request_id(),
                uses_before: self.vault.memory().uses_before(which),
                at: now,
            };
            self.dynamo.note_opening(&opening).await?;
            self.vault.memory().count_anew(which, None, now, self.vault.bounds.most);
            let key = self.vault.unwrap(account, purpose, wrapped).await?;
            self.vault.memory().count_anew(which, Some(key.uses()), now, self.vault.bounds.most);
            Ok::<_, Fault>(key)
        };
        let key = slot.opened.get_or_try_init(open).await?.clone();
        let mut memory = self.vault.memory();
        let newest = memory.newest.entry((account, purpose)).or_default();
        *newest = wrapped.version.max(*newest);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_has_bounds_and_a_number_outside_names_its_variable() {
        let none = Config::from_values([]);
        let bounds = |name, value| Bounds::new(&none.with(name, value)).map(|bounds| (bounds.remember, bounds.most));
        let usual = Bounds::new(&none).unwrap();
        assert_eq!((usual.remember, usual.most), (SignedDuration::from_mins(5), 5000));
        assert_eq!(bounds(KEY_CACHE_SECONDS, "0"), Ok((SignedDuration::ZERO, 5000)));
        assert_eq!(bounds(KEY_CACHE_ACCOUNTS, "1"), Ok((SignedDuration::from_mins(5), 5)));
        for (name, value) in [
            (KEY_CACHE_SECONDS, "301"),
            (KEY_CACHE_SECONDS, "-1"),
            (KEY_CACHE_SECONDS, "five"),
            (KEY_CACHE_ACCOUNTS, "0"),
            (KEY_CACHE_ACCOUNTS, "1001"),
        ] {
            let error = bounds(name, value).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
