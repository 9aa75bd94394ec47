//! Carrier credentials, and the vault that makes, wraps and opens data keys.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroizing;

use super::{State, Strikes, World, dump};
use crate::access_log;
use crate::account::Gate;
use crate::credential::{
    FindHook, FoundHook, History, KeepCredential, LoadKeys, MintKey, OpenKey, SaveCredential, Saved, StoredCredential,
};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::rotation::{KeysChange, KeysCursor, KeysPage, ReplaceKeys, RewrapKey, WalkKeys};
use crate::seal::{DataKey, Purpose, Sealed, Uses, WrappedKey, WrappedKeys};
use crate::secret::HookId;
use crate::template::Template;

/// How long an opened key is remembered.
const REMEMBER: SignedDuration = SignedDuration::from_mins(5);
/// The field under which the master key wraps; account and purpose are bound by the envelope, as KMS binds its context.
const WRAPPED_FIELD: &str = "wrapped-data-key";

/// That a data key was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Whose.
    pub account: AccountId,
    /// What for.
    pub purpose: Purpose,
    /// Which.
    pub version: u32,
    /// When.
    pub at: Timestamp,
}

#[derive(Default)]
pub(super) struct Credentials {
    stored: BTreeMap<AccountId, StoredCredential>,
    claims: BTreeMap<String, AccountId>,
    pub(super) keys: BTreeMap<(AccountId, Purpose), WrappedKeys>,
    /// KMS keys, oldest first; the last one wraps. `None`: disabled.
    pub(super) masters: Vec<Option<[u8; 32]>>,
    opened: BTreeMap<(AccountId, Purpose, u32), (DataKey, Timestamp)>,
    newest: BTreeMap<(AccountId, Purpose), u32>,
    last: BTreeMap<(AccountId, Purpose, u32), Uses>,
    pub(super) openings: Vec<Opening>,
}

impl Credentials {
    /// A KMS key, counted from 1, bound to account and purpose.
    fn master(&self, account: AccountId, purpose: Purpose, nth: u32) -> Result<DataKey, Fault> {
        let at = usize::try_from(nth).ok().and_then(|nth| nth.checked_sub(1));
        let master = at.and_then(|at| self.masters.get(at).copied().flatten());
        let master = master.ok_or(Fault::permanent("this KMS key is disabled"))?;
        Ok(DataKey::new(account, purpose, nth, Zeroizing::new(master)))
    }

    fn newest_master(&self) -> u32 {
        u32::try_from(self.masters.len()).unwrap_or(u32::MAX)
    }

    fn wrap(&self, account: AccountId, purpose: Purpose, clear: &[u8; 32], nonce: [u8; 12]) -> Result<Vec<u8>, Fault> {
        Ok(self.master(account, purpose, self.newest_master())?.seal(WRAPPED_FIELD, clear, nonce)?.0)
    }

    fn unwrap(&self, account: AccountId, purpose: Purpose, wrapped: &WrappedKey) -> Result<[u8; 32], Fault> {
        let sealed = Sealed(wrapped.blob.clone());
        let clear = self.master(account, purpose, sealed.key_version()?)?.open(WRAPPED_FIELD, &sealed)?;
        clear.as_slice().try_into().map_err(|_| Fault::permanent("not a data key"))
    }

    pub(super) fn get(&self, account: AccountId) -> Option<&StoredCredential> {
        self.stored.get(&account)
    }

    pub(super) fn forget(&mut self) {
        self.opened.clear();
        self.newest.clear();
        self.last.clear();
    }

    fn remembered(
        &self,
        account: AccountId,
        purpose: Purpose,
        version: Option<u32>,
        now: Timestamp,
    ) -> Option<DataKey> {
        let version = version.or_else(|| self.newest.get(&(account, purpose)).copied())?;
        let (key, until) = self.opened.get(&(account, purpose, version))?;
        (*until > now && !key.nearly_used_up()).then(|| key.clone())
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.stored);
        for stored in self.stored.values() {
            bytes.extend(stored.send.0.iter().chain(&stored.verify.0));
        }
        dump(bytes, &self.claims);
        for wrapped in self.keys.values().flat_map(|keys| &keys.versions) {
            bytes.extend(&wrapped.blob);
        }
        dump(bytes, &self.openings);
    }
}

impl MintKey for World {
    async fn mint_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        version: u32,
    ) -> Result<(DataKey, WrappedKey), Fault> {
        self.call("mint_key", |state| {
            let clear = Zeroizing::new(state.random::<32>());
            let nonce = state.random();
            let blob = state.credentials.wrap(account, purpose, &clear, nonce)?;
            let wrapped = WrappedKey { version, blob, made: state.now };
            Ok((DataKey::new(account, purpose, version, clear), wrapped))
        })
        .await
    }
}

impl OpenKey for World {
    fn remembered_key(&self, account: AccountId, purpose: Purpose, version: Option<u32>) -> Option<DataKey> {
        let mut state = self.state();
        *state.calls.entry("remembered_key").or_default() += 1;
        if state.strike("remembered_key", Strikes::Before).is_some() {
            return None;
        }
        state.credentials.remembered(account, purpose, version, state.now)
    }

    async fn open_key(&self, keys: &WrappedKeys, version: Option<u32>) -> Result<DataKey, Fault> {
        self.call("open_key", |state| {
            let (account, purpose) = (keys.account, keys.purpose);
            let wrapped = match version {
                Some(version) => keys.version(version),
                None => keys.current(),
            };
            let wrapped = wrapped
                .ok_or_else(|| Fault::Transient(format!("{account}: this {} key is not there", purpose.as_str())))?;
            let key = state.open(account, purpose, wrapped)?;
            if version.is_none() {
                state.credentials.newest.insert((account, purpose), wrapped.version);
            }
            Ok(key)
        })
        .await
    }
}

impl State {
    /// Notes the opening before its use, then unwraps; a remembered key costs neither.
    fn open(&mut self, account: AccountId, purpose: Purpose, wrapped: &WrappedKey) -> Result<DataKey, Fault> {
        let (now, version) = (self.now, wrapped.version);
        let id = EntryId::new(now, u128::from_be_bytes(self.random()));
        let vault = &mut self.credentials;
        if let Some(key) = vault.remembered(account, purpose, Some(version), now) {
            return Ok(key);
        }
        vault.openings.push(Opening { account, purpose, version, at: now });
        let which = (account, purpose, version);
        let opening = access_log::Opening {
            id,
            account,
            function: "world".to_owned(),
            purpose,
            key_version: version,
            request_id: self.request,
            uses_before: vault.last.get(&which).map(Uses::count),
            at: now,
        };
        self.access_log.pending.insert(id, opening);
        vault.last.insert(which, Uses::default());
        let clear = vault.unwrap(account, purpose, wrapped)?;
        let key = DataKey::new(account, purpose, version, Zeroizing::new(clear));
        vault.last.insert(which, key.uses());
        vault.opened.insert(which, (key.clone(), now + REMEMBER));
        Ok(key)
    }
}

impl LoadKeys for World {
    async fn load_keys(&self, account: AccountId, purpose: Purpose) -> Result<Option<WrappedKeys>, Fault> {
        self.call("load_keys", |state| Ok(state.credentials.keys.get(&(account, purpose)).cloned())).await
    }
}

impl KeepCredential for World {
    async fn load_credential(&self, account: AccountId) -> Result<Option<StoredCredential>, Fault> {
        self.call("load_credential", |state| Ok(state.credentials.get(account).cloned())).await
    }

    async fn credential_history(&self, account: AccountId) -> Result<History, Fault> {
        self.call("credential_history", |state| {
            let gate = state.accounts.gates.get(&account).ok_or(Fault::permanent("the account has no gate"))?;
            Ok(History {
                version: gate.credential_version,
                hook: gate.hook,
                numbers: gate.numbers,
                refused: gate.credential_refused,
            })
        })
        .await
    }

    async fn save_credential(&self, save: SaveCredential) -> Result<Saved, Fault> {
        self.call("save_credential", |state| {
            let credentials = &mut state.credentials;
            let account = save.credential.account;
            let mine = |owner: Option<&AccountId>| owner == Some(&account);
            let claimed = credentials.claims.get(&save.sid_hash);
            if claimed.is_some() && !mine(claimed) {
                return Ok(Saved::TakenByAnother);
            }
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(Saved::Raced) };
            let version = save.credential.version;
            let next = gate.credential_version == version.saturating_sub(1)
                && credentials.stored.get(&account).is_none_or(|stored| stored.version < version);
            let replaced = save.replaced_sid_hash.filter(|old| *old != save.sid_hash);
            let lost = replaced.as_ref().is_some_and(|old| !mine(credentials.claims.get(old)));
            let cut_off = replaced.is_some() && gate.numbers != save.numbers;
            let changed = |read: &WrappedKeys| credentials.keys.get(&(account, read.purpose)) != Some(read);
            if !next || lost || cut_off || save.keys_read.iter().any(changed) {
                return Ok(Saved::Raced);
            }
            gate.connected = true;
            gate.credential_version = version;
            gate.hook = Some(save.credential.hook);
            if save.keys.iter().any(|keys| keys.purpose == Purpose::Send) {
                gate.credential_refused = false;
                gate.refusal_untold = None;
            }
            state.routines.begin(&save.credential, replaced.is_some());
            if let Some(old) = replaced {
                credentials.claims.remove(&old);
            }
            credentials.claims.insert(save.sid_hash, account);
            credentials.stored.insert(account, save.credential);
            for wrapped in save.keys {
                credentials.keys.insert((account, wrapped.purpose), wrapped);
            }
            Ok(Saved::Stored)
        })
        .await
    }

    async fn remove_credential(&self, stored: &StoredCredential, sid_hash: &str, numbers: u32) -> Result<bool, Fault> {
        self.call("remove_credential", |state| {
            let credentials = &mut state.credentials;
            let account = stored.account;
            let same = credentials.stored.get(&account).is_some_and(|kept| kept.version == stored.version);
            let mine = credentials.claims.get(sid_hash) == Some(&account);
            let gate = state.accounts.gates.get_mut(&account);
            let unchanged = |gate: &&mut Gate| gate.credential_version == stored.version && gate.numbers == numbers;
            let Some(gate) = gate.filter(unchanged) else { return Ok(false) };
            if !same || !mine {
                return Ok(false);
            }
            gate.connected = false;
            credentials.stored.remove(&account);
            credentials.claims.remove(sid_hash);
            for purpose in [Purpose::Send, Purpose::Hook] {
                credentials.keys.remove(&(account, purpose));
            }
            state.routines.end(account);
            Ok(true)
        })
        .await
    }
}

impl FindHook for World {
    async fn find_hook(&self, hook: &HookId) -> Result<Option<FoundHook>, Fault> {
        self.call("find_hook", |state| {
            let account = hook.account();
            let credential = state.credentials.get(account).filter(|stored| stored.hook == *hook);
            let keys = |purpose| state.credentials.keys.get(&(account, purpose)).cloned();
            Ok(credential
                .cloned()
                .zip(keys(Purpose::Hook))
                .zip(keys(Purpose::Match))
                .map(|((credential, hook_keys), match_keys)| FoundHook { credential, hook_keys, match_keys }))
        })
        .await
    }
}

impl WalkKeys for World {
    async fn walk_keys(&self, after: Option<KeysCursor>, limit: u8) -> Result<KeysPage, Fault> {
        self.call("walk_keys", |state| {
            let rows = &state.credentials.keys;
            let behind = |at: &(AccountId, Purpose)| after.is_none_or(|after| *at > (after.account, after.purpose));
            let keys: Vec<_> = rows
                .iter()
                .filter(|(at, _)| behind(at))
                .take(usize::from(limit))
                .map(|(_, keys)| keys.clone())
                .collect();
            let full = keys.len() == usize::from(limit);
            let last = keys.last().filter(|_| full);
            let next = last.map(|keys| KeysCursor { account: keys.account, purpose: keys.purpose });
            Ok(KeysPage { keys, next })
        })
        .await
    }
}

impl RewrapKey for World {
    async fn rewrap_key(
        &self,
        account: AccountId,
        purpose: Purpose,
        wrapped: &WrappedKey,
    ) -> Result<Option<WrappedKey>, Fault> {
        self.call("rewrap_key", |state| {
            let nonce = state.random();
            let vault = &state.credentials;
            if Sealed(wrapped.blob.clone()).key_version()? == vault.newest_master() {
                return Ok(None);
            }
            let clear = vault.unwrap(account, purpose, wrapped)?;
            let blob = vault.wrap(account, purpose, &clear, nonce)?;
            Ok(Some(WrappedKey { blob, ..wrapped.clone() }))
        })
        .await
    }
}

impl ReplaceKeys for World {
    async fn replace_keys(&self, change: &KeysChange) -> Result<bool, Fault> {
        self.call("replace_keys", |state| Ok(state.credentials.change_keys(std::slice::from_ref(change)))).await
    }

    async fn replace_profile(&self, account: AccountId, read: &Sealed, new: &Sealed) -> Result<bool, Fault> {
        self.call("replace_profile", |state| {
            let profile = state.accounts.profiles.get_mut(&account).filter(|profile| *profile == read);
            Ok(profile.map(|profile| profile.clone_from(new)).is_some())
        })
        .await
    }

    async fn replace_template(&self, read: &Template, new: &Sealed) -> Result<bool, Fault> {
        self.call("replace_template", |state| Ok(state.templates.reseal(read, new))).await
    }

    async fn replace_credential(
        &self,
        read: &StoredCredential,
        new: &StoredCredential,
        changes: &[KeysChange],
    ) -> Result<bool, Fault> {
        self.call("replace_credential", |state| {
            let gate = state.accounts.gates.get_mut(&read.account);
            let gate = gate.filter(|gate| gate.credential_version == read.version && gate.connected);
            let stored = state.credentials.get(read.account).is_some_and(|stored| stored.version == read.version);
            let Some(gate) = gate.filter(|_| stored) else { return Ok(false) };
            if !state.credentials.change_keys(changes) {
                return Ok(false);
            }
            gate.credential_version = new.version;
            state.credentials.stored.insert(new.account, new.clone());
            Ok(true)
        })
        .await
    }
}

impl Credentials {
    /// All or none of them.
    fn change_keys(&mut self, changes: &[KeysChange]) -> bool {
        let at = |keys: &WrappedKeys| (keys.account, keys.purpose);
        let same = changes.iter().all(|change| self.keys.get(&at(&change.read)) == Some(&change.read));
        if same {
            self.keys.extend(changes.iter().map(|change| (at(&change.new), change.new.clone())));
        }
        same
    }
}

impl World {
    /// From now on another KMS key wraps; what the ones before wrapped still opens.
    pub fn new_kms_key(&self) {
        let mut state = self.state();
        let master = state.random();
        state.credentials.masters.push(Some(master));
    }

    /// Only the newest KMS key is left.
    pub fn disable_kms_keys_before(&self) {
        let masters = &mut self.state().credentials.masters;
        let newest = masters.len() - 1;
        masters[..newest].fill(None);
    }

    /// All rows of wrapped keys.
    pub fn wrapped_keys(&self) -> Vec<WrappedKeys> {
        self.state().credentials.keys.values().cloned().collect()
    }
}
