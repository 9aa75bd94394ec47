//! KMS: makes and opens data keys, remembers opened ones for five minutes, and notes each opening (N2, N11).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::DataKeySpec;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use super::config::{Aws, Config, ConfigError, KMS_KEY, aws_config};
use super::{Live, Need, not_asked_for};
use crate::access_log::Opening;
use crate::credential::{MintKey, OpenKey};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::seal::{DataKey, Purpose, Uses, WrappedKey, WrappedKeys};

/// How long an opened key is remembered.
const REMEMBER: SignedDuration = SignedDuration::from_mins(5);
/// How many opened keys are remembered: five of each of 1,000 accounts.
const MOST: usize = 5_000;

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
    fn count_anew(&mut self, which: Which, uses: Option<Uses>, now: Timestamp) {
        if self.last.len() >= 2 * MOST && !self.last.contains_key(&which) {
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
    function: String,
    memory: Mutex<Memory>,
}

impl Vault {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client = wanted.then(|| Client::from_conf(aws_config!(aws_sdk_kms, config, aws, "KMS")));
        let key = config.required(KMS_KEY, wanted)?;
        Ok(Self { client, key, function: config.function(), memory: Mutex::default() })
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
        if memory.slots.len() >= MOST {
            let first = memory.slots.iter().min_by_key(|(_, slot)| slot.until).map(|(which, _)| *which);
            first.and_then(|which| memory.slots.remove(&which));
        }
        let fresh = || Slot { opened: Arc::default(), until: now + REMEMBER };
        memory.slots.entry(which).or_insert_with(fresh).clone()
    }

    async fn unwrap(&self, account: AccountId, purpose: Purpose, wrapped: &WrappedKey) -> Result<DataKey, Fault> {
        let answer = self
            .client()?
            .decrypt()
            .key_id(&self.key)
            .ciphertext_blob(Blob::new(wrapped.blob.clone()))
            .encryption_context("account", account.to_string())
            .encryption_context("purpose", purpose.as_str())
            .send()
            .await
            .map_err(|error| fault("decrypt", &error))?;
        let clear = Zeroizing::new(answer.plaintext.map(Blob::into_inner).unwrap_or_default());
        data_key(account, purpose, wrapped.version, &clear)
    }
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
        Ok((data_key(account, purpose, version, &clear)?, WrappedKey { version, blob }))
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
            self.vault.memory().count_anew(which, None, now);
            let key = self.vault.unwrap(account, purpose, wrapped).await?;
            self.vault.memory().count_anew(which, Some(key.uses()), now);
            Ok::<_, Fault>(key)
        };
        let key = slot.opened.get_or_try_init(open).await?.clone();
        let mut memory = self.vault.memory();
        let newest = memory.newest.entry((account, purpose)).or_default();
        *newest = wrapped.version.max(*newest);
        Ok(key)
    }
}
