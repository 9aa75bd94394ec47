//! Accounts, users, mail tokens, sessions and counters of tries.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{World, dump};
use crate::account::{
    CreateAccount, EmailIndex, FindUser, Gate, KeepMailTokens, Lift, LiftFreeze, Lifted, LoadGate, MailToken,
    NewAccount, Policy, SavePolicy, SaveZone, SignedUp, Stop, StopSending, Stopped, User,
};
use crate::api_key::ApiKey;
use crate::fault::Fault;
use crate::ids::{AccountId, SessionId, UserId};
use crate::ledger::Zone;
use crate::platform::CountTries;
use crate::seal::Sealed;
use crate::secret::TokenHash;
use crate::session::{KeepSessions, Session};

#[derive(Default)]
pub(super) struct Accounts {
    emails: BTreeMap<EmailIndex, (AccountId, UserId)>,
    pub(super) profiles: BTreeMap<AccountId, Sealed>,
    users: BTreeMap<(AccountId, UserId), User>,
    pub(super) gates: BTreeMap<AccountId, Gate>,
    mail_tokens: BTreeMap<(AccountId, TokenHash), MailToken>,
    pub(super) sessions: BTreeMap<(AccountId, TokenHash), Session>,
    pub(super) api_keys: BTreeMap<(AccountId, TokenHash), ApiKey>,
    tries: BTreeMap<(String, i64), u32>,
}

impl Accounts {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.emails);
        self.profiles.values().for_each(|sealed| bytes.extend(&sealed.0));
        dump(bytes, &self.users);
        dump(bytes, &self.gates);
        dump(bytes, &self.mail_tokens);
        dump(bytes, &self.sessions);
        dump(bytes, &self.api_keys);
        dump(bytes, &self.tries);
    }
}

impl CreateAccount for World {
    async fn create_account(&self, new: NewAccount) -> Result<SignedUp, Fault> {
        self.call("create_account", |state| {
            if let Some(&(account, user)) = state.accounts.emails.get(&new.owner.email) {
                return Ok(SignedUp::Known(account, user));
            }
            let account = new.account;
            if state.accounts.gates.contains_key(&account) {
                return Err(Fault::permanent("a new account's id was taken"));
            }
            let (purse, allowance, entry) = new.first_credits();
            state.accounts.profiles.insert(account, new.profile);
            state.accounts.users.insert((account, new.owner.id), new.owner);
            state.accounts.gates.insert(account, new.gate);
            state.ledger.allowances.insert(account, allowance);
            state.ledger.purses.insert(account, purse);
            state.ledger.post(entry);
            for wrapped in new.keys {
                state.credentials.keys.insert((account, wrapped.purpose), wrapped);
            }
            Ok(SignedUp::Created)
        })
        .await
    }
}

impl FindUser for World {
    async fn find_user(&self, email: &EmailIndex) -> Result<Option<User>, Fault> {
        self.call("find_user", |state| {
            let found = state.accounts.emails.get(email);
            Ok(found.and_then(|who| state.accounts.users.get(who)).cloned())
        })
        .await
    }

    async fn load_user(&self, account: AccountId, user: UserId) -> Result<Option<User>, Fault> {
        self.call("load_user", |state| Ok(state.accounts.users.get(&(account, user)).cloned())).await
    }

    async fn load_owner(&self, account: AccountId) -> Result<Option<User>, Fault> {
        self.call("load_owner", |state| {
            let of_account = state.accounts.users.values().filter(|user| user.account == account);
            Ok(of_account.min_by_key(|user| user.id).cloned())
        })
        .await
    }

    async fn load_profile(&self, account: AccountId) -> Result<Option<Sealed>, Fault> {
        self.call("load_profile", |state| Ok(state.accounts.profiles.get(&account).cloned())).await
    }
}

impl KeepMailTokens for World {
    async fn keep_mail_token(&self, token: MailToken) -> Result<(), Fault> {
        self.call("keep_mail_token", |state| {
            let key = (token.account, token.hash.clone());
            if state.accounts.mail_tokens.contains_key(&key) {
                return Err(Fault::permanent("a new token was there already"));
            }
            state.accounts.mail_tokens.insert(key, token);
            Ok(())
        })
        .await
    }

    async fn confirm_email(&self, account: AccountId, token: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        self.call("confirm_email", |state| {
            let accounts = &mut state.accounts;
            let key = (account, token.clone());
            let Some(kept) = accounts.mail_tokens.get(&key).filter(|kept| kept.expires > now) else {
                return Ok(false);
            };
            let Some(user) = accounts.users.get_mut(&(account, kept.user)) else { return Ok(false) };
            let owner = accounts.emails.entry(user.email.clone()).or_insert((account, kept.user));
            if owner.0 != account {
                return Ok(false);
            }
            user.verified = true;
            accounts.mail_tokens.remove(&key);
            Ok(true)
        })
        .await
    }
}

impl KeepSessions for World {
    async fn start_session(&self, session: Session) -> Result<(), Fault> {
        self.call("start_session", |state| {
            let key = (session.account, session.hash.clone());
            if state.accounts.sessions.contains_key(&key) {
                return Err(Fault::permanent("a new session's token was there already"));
            }
            state.accounts.sessions.insert(key, session);
            Ok(())
        })
        .await
    }

    async fn load_session(&self, account: AccountId, hash: &TokenHash) -> Result<Option<Session>, Fault> {
        self.call("load_session", |state| Ok(state.accounts.sessions.get(&(account, hash.clone())).cloned())).await
    }

    async fn touch_session(&self, account: AccountId, hash: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        self.call("touch_session", |state| {
            let Some(session) = state.accounts.sessions.get_mut(&(account, hash.clone())) else { return Ok(false) };
            session.seen = session.seen.max(now);
            Ok(true)
        })
        .await
    }

    async fn list_sessions(&self, account: AccountId, now: Timestamp) -> Result<Vec<Session>, Fault> {
        self.call("list_sessions", |state| {
            let of_account = state.accounts.sessions.values().filter(|session| session.account == account);
            let mut sessions: Vec<_> = of_account.filter(|session| session.alive(now)).cloned().collect();
            sessions.sort_by_key(|session| std::cmp::Reverse(session.started));
            Ok(sessions)
        })
        .await
    }

    async fn end_session(&self, account: AccountId, session: SessionId) -> Result<bool, Fault> {
        self.call("end_session", |state| {
            let before = state.accounts.sessions.len();
            state.accounts.sessions.retain(|_, kept| kept.account != account || kept.id != session);
            Ok(state.accounts.sessions.len() < before)
        })
        .await
    }
}

impl CountTries for World {
    async fn count_try(&self, what: &str, limit: u32, window_secs: u32, now: Timestamp) -> Result<bool, Fault> {
        self.call("count_try", |state| {
            let window = now.as_second().div_euclid(i64::from(window_secs.max(1)));
            let tries = state.accounts.tries.entry((what.to_owned(), window)).or_default();
            let kept = *tries < limit;
            *tries += u32::from(kept);
            Ok(kept)
        })
        .await
    }
}

impl LoadGate for World {
    async fn load_gate(&self, account: AccountId) -> Result<Option<Gate>, Fault> {
        self.call("load_gate", |state| Ok(state.accounts.gates.get(&account).cloned())).await
    }
}

impl StopSending for World {
    async fn stop_sending(
        &self,
        account: AccountId,
        stop: Stop,
        credential_version: u32,
        now: Timestamp,
    ) -> Result<Stopped, Fault> {
        self.call("stop_sending", |state| {
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(Stopped::Unchanged) };
            let open = match stop {
                Stop::Frozen(_) => gate.frozen.is_none(),
                Stop::CredentialRefused => !gate.credential_refused && gate.credential_version == credential_version,
            };
            if !open {
                let untold = stop == Stop::CredentialRefused && gate.refusal_untold.is_some();
                return Ok(if untold { Stopped::Untold } else { Stopped::Unchanged });
            }
            gate.stop(stop, now);
            match stop {
                Stop::CredentialRefused => gate.refusal_untold = Some(now),
                Stop::Frozen(_) => gate.freeze_untold = true,
            }
            Ok(Stopped::Now)
        })
        .await
    }

    async fn stop_told(&self, account: AccountId, stop: Stop, since: Timestamp) -> Result<(), Fault> {
        self.call("stop_told", |state| {
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(()) };
            match stop {
                Stop::CredentialRefused if gate.refusal_untold == Some(since) => gate.refusal_untold = None,
                Stop::Frozen(_) if gate.frozen.is_some_and(|freeze| freeze.since == since) => {
                    gate.freeze_untold = false;
                }
                Stop::CredentialRefused | Stop::Frozen(_) => {}
            }
            Ok(())
        })
        .await
    }
}

impl SavePolicy for World {
    async fn save_policy(&self, account: AccountId, policy: &Policy) -> Result<Option<Gate>, Fault> {
        self.call("save_policy", |state| {
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(None) };
            let Policy { countries, daily_ceiling, quiet_hours, sender_rates } = policy.clone();
            *gate = Gate { countries, daily_ceiling, quiet_hours, sender_rates, ..gate.clone() };
            Ok(Some(gate.clone()))
        })
        .await
    }
}

impl SaveZone for World {
    async fn save_zone(&self, account: AccountId, zone: &Zone) -> Result<Option<Gate>, Fault> {
        self.call("save_zone", |state| {
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(None) };
            gate.zone = zone.clone();
            Ok(Some(gate.clone()))
        })
        .await
    }
}

impl LiftFreeze for World {
    async fn lift_freeze(
        &self,
        account: AccountId,
        seen: Timestamp,
        by: UserId,
        now: Timestamp,
    ) -> Result<Lift, Fault> {
        self.call("lift_freeze", |state| {
            let Some(gate) = state.accounts.gates.get_mut(&account) else { return Ok(Lift::NotFrozen) };
            let lifted = Lifted { at: now, by };
            match gate.frozen {
                Some(freeze) if freeze.since == seen => {
                    (gate.frozen, gate.lifted, gate.freeze_untold) = (None, Some(lifted), false);
                    Ok(Lift::Done)
                }
                Some(freeze) => Ok(Lift::Other(freeze)),
                None if gate.lifted == Some(lifted) => Ok(Lift::Done),
                None => Ok(Lift::NotFrozen),
            }
        })
        .await
    }
}
