//! What credentials and data keys ask of the world.

use super::{Carrier, Check, SaveCredential, Saved, StoredCredential};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::seal::{DataKey, Purpose, WrappedKey, WrappedKeys};
use crate::secret::HookId;

/// Makes and opens data keys (KMS).
pub trait MintKey {
    /// A new data key, in clear to seal with and wrapped to store. Needs no right to open.
    fn mint_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        version: u32,
    ) -> impl Future<Output = Result<(DataKey, WrappedKey), Fault>> + Send;
}

/// Opens wrapped data keys. Opened keys are remembered for at most five minutes.
pub trait OpenKey {
    /// The key, if it is remembered: `None` for `version` means the newest one.
    fn remembered_key(&self, account: AccountId, purpose: Purpose, version: Option<u32>) -> Option<DataKey>;

    /// Opens one of the wrapped keys (`None`: the newest). The first opening in five minutes costs one KMS call and one
    /// entry in the account's access log (promise N11); callers at the same time wait for that one.
    fn open_key(&self, keys: &WrappedKeys, version: Option<u32>)
    -> impl Future<Output = Result<DataKey, Fault>> + Send;
}

/// Loads wrapped data keys.
pub trait LoadKeys {
    /// An account's keys for one purpose; `None` if it has none, because it is gone or nothing is connected.
    fn load_keys(
        &self,
        account: AccountId,
        purpose: Purpose,
    ) -> impl Future<Output = Result<Option<WrappedKeys>, Fault>> + Send;
}

/// A data key by account and purpose: remembered, or loaded and opened (1 read and 1 KMS call).
pub async fn data_key<W: OpenKey + LoadKeys>(
    world: &W,
    account: AccountId,
    purpose: Purpose,
    version: Option<u32>,
) -> Result<DataKey, Fault> {
    if let Some(key) = world.remembered_key(account, purpose, version) {
        return Ok(key);
    }
    let keys = world.load_keys(account, purpose).await?;
    let keys = keys.ok_or_else(|| Fault::Permanent(format!("{account} has no {} key", purpose.as_str())))?;
    world.open_key(&keys, version).await
}

/// What outlives a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The version of the newest credential that the account ever had; 0 if none.
    pub version: u32,
    /// The webhook path.
    pub hook: Option<HookId>,
    /// Connected numbers and messaging services.
    pub numbers: u32,
    /// Whether Twilio refused the newest one.
    pub refused: bool,
}

/// The carrier of a stored credential, to call Twilio with: its key remembered, or loaded and opened.
pub async fn open_carrier<W: OpenKey + LoadKeys>(world: &W, stored: &StoredCredential) -> Result<Carrier, Fault> {
    let key = data_key(world, stored.account, Purpose::Send, Some(stored.send.key_version()?)).await?;
    Carrier::open(stored, &key)
}

/// The carrier of an account, to call Twilio with: 1 read, and its key as [`open_carrier`] has it. `None`: no Twilio
/// account is connected.
pub async fn load_carrier<W>(world: &W, account: AccountId) -> Result<Option<Carrier>, Fault>
where
    W: KeepCredential + OpenKey + LoadKeys,
{
    match world.load_credential(account).await? {
        Some(stored) => open_carrier(world, &stored).await.map(Some),
        None => Ok(None),
    }
}

/// Stores the carrier credential.
pub trait KeepCredential {
    /// The stored one, if any.
    fn load_credential(
        &self,
        account: AccountId,
    ) -> impl Future<Output = Result<Option<StoredCredential>, Fault>> + Send;

    /// What the account's gate knows of its credentials: 1 read.
    fn credential_history(&self, account: AccountId) -> impl Future<Output = Result<History, Fault>> + Send;

    /// Stores or replaces: credential, keys, uniqueness of the SID and the gate, in one transaction.
    fn save_credential(&self, save: SaveCredential) -> impl Future<Output = Result<Saved, Fault>> + Send;

    /// Removes credential, keys and the claim on the SID, and closes the gate; `false` if another change came between.
    /// `numbers`: how many connected numbers were seen; one that was connected meanwhile is such a change.
    fn remove_credential(
        &self,
        stored: &StoredCredential,
        sid_hash: &str,
        numbers: u32,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Finds whom a webhook belongs to.
pub trait FindHook {
    /// The credential behind a webhook path and the keys that open its signing secret and hash numbers: at most 1 read.
    /// `None`: no such path.
    fn find_hook(&self, hook: &HookId) -> impl Future<Output = Result<Option<FoundHook>, Fault>> + Send;
}

/// A webhook's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundHook {
    /// The credential.
    pub credential: StoredCredential,
    /// Keys of purpose hook.
    pub hook_keys: WrappedKeys,
    /// Keys of purpose match.
    pub match_keys: WrappedKeys,
}

/// Asks Twilio whether a credential works.
pub trait CheckCarrier {
    /// One harmless read.
    fn check_carrier(&self, carrier: &Carrier) -> impl Future<Output = Result<Check, Fault>> + Send;
}
