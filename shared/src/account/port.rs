//! What accounts ask of the world.

use jiff::Timestamp;

use super::{EmailIndex, Gate, Lift, MailToken, NewAccount, Policy, SignedUp, Stop, Stopped, User};
use crate::fault::Fault;
use crate::ids::{AccountId, UserId};
use crate::ledger::Zone;
use crate::seal::Sealed;
use crate::secret::TokenHash;

/// Writes a new account.
pub trait CreateAccount {
    /// All of it in one transaction, or nothing if the address is confirmed for an account already.
    fn create_account(&self, new: NewAccount) -> impl Future<Output = Result<SignedUp, Fault>> + Send;
}

/// Finds users.
pub trait FindUser {
    /// By the hash of the e-mail address.
    fn find_user(&self, email: &EmailIndex) -> impl Future<Output = Result<Option<User>, Fault>> + Send;

    /// By id.
    fn load_user(&self, account: AccountId, user: UserId) -> impl Future<Output = Result<Option<User>, Fault>> + Send;

    /// Who signed up for the account.
    fn load_owner(&self, account: AccountId) -> impl Future<Output = Result<Option<User>, Fault>> + Send;

    /// The account's sealed profile.
    fn load_profile(&self, account: AccountId) -> impl Future<Output = Result<Option<Sealed>, Fault>> + Send;
}

/// Keeps the hashes of tokens that went out by mail.
pub trait KeepMailTokens {
    /// Stores one.
    fn keep_mail_token(&self, token: MailToken) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Uses one up, marks its user as verified and makes the address theirs, in one transaction: of any number of
    /// confirmations of one address by several accounts exactly one counts. `false`: unknown, used or expired, or the
    /// address is another account's.
    fn confirm_email(
        &self,
        account: AccountId,
        token: &TokenHash,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Looks at what every send checks.
pub trait LoadGate {
    /// The gate; `None` if there is no such account.
    fn load_gate(&self, account: AccountId) -> impl Future<Output = Result<Option<Gate>, Fault>> + Send;
}

/// Stops sending.
pub trait StopSending {
    /// One conditional write, so that of any number of calls exactly one changes the gate; for a refused credential
    /// only while the refused version still is the newest. That one also notes that the owner is still to be told.
    fn stop_sending(
        &self,
        account: AccountId,
        stop: Stop,
        credential_version: u32,
        now: Timestamp,
    ) -> impl Future<Output = Result<Stopped, Fault>> + Send;

    /// Notes that the owner was told of the stop of that time; a later one is another.
    fn stop_told(
        &self,
        account: AccountId,
        stop: Stop,
        since: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Changes what an account may send.
pub trait SavePolicy {
    /// Writes the policy and nothing else: a stop of the same moment stands. The gate after it; `None` if there is no
    /// such account.
    fn save_policy(
        &self,
        account: AccountId,
        policy: &Policy,
    ) -> impl Future<Output = Result<Option<Gate>, Fault>> + Send;
}

/// Changes by which days and months begin.
pub trait SaveZone {
    /// Writes the time zone and nothing else: a policy of the same moment stands. The gate after it; `None` if there is
    /// no such account.
    fn save_zone(&self, account: AccountId, zone: &Zone) -> impl Future<Output = Result<Option<Gate>, Fault>> + Send;
}

/// Lifts a freeze, and no other stop.
pub trait LiftFreeze {
    /// Only the one that began at `seen`; notes when and by whom.
    fn lift_freeze(
        &self,
        account: AccountId,
        seen: Timestamp,
        by: UserId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Lift, Fault>> + Send;
}
