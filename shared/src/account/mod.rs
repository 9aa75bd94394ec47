//! An account and its users: sign-up, e-mail verification, passwords. Types and decisions without I/O.

mod password;
mod port;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::fault::Fault;
use crate::ids::{AccountId, UserId};
use crate::number::Country;
use crate::seal::{DataKey, Sealed};
use crate::secret::{HookId, TokenHash};

pub use password::{Hashed, Password, PasswordError, Peppers};
pub use port::*;

/// The name of the sealed field, part of its additional data.
pub const PROFILE_FIELD: &str = "profile";

/// Prefix of the token in a link that confirms an address.
pub const LINK_PREFIX: &str = "tbv_";

/// How long a link to confirm an address works.
pub const VERIFICATION_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// An e-mail address: trimmed, lower case, with one `@`, a dot in its domain and no spaces or control characters.
///
/// Whether it is somebody's shows when the mail arrives; more syntax than this only turns away real addresses.
#[derive(Clone, PartialEq, Eq)]
pub struct Email(String);

/// Why a text is not taken as an e-mail address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an e-mail address: write it as name@example.com, at most 254 characters")]
pub struct EmailError;

impl Email {
    /// Reads an address.
    pub fn parse(text: &str) -> Result<Self, EmailError> {
        let text = text.trim().to_lowercase();
        let (local, domain) = text.rsplit_once('@').ok_or(EmailError)?;
        let good = text.len() <= 254
            && (1..=64).contains(&local.len())
            && !local.contains('@')
            && domain.contains('.')
            && domain.split('.').all(|label| !label.is_empty())
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "<>()[]\\,;:\"".contains(c));
        if good { Ok(Self(text)) } else { Err(EmailError) }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Addresses are personal: they do not print.
impl std::fmt::Debug for Email {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Email(…)")
    }
}

impl Drop for Email {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The platform's keyed hash of an e-mail address; finds a user without storing the address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EmailIndex(pub String);

/// What an account says of itself; stored sealed only.
#[derive(Serialize, Deserialize)]
pub struct Profile {
    /// The owner's name.
    pub name: String,
    /// The owner's e-mail address.
    pub email: String,
    /// The company.
    pub company: String,
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.name.zeroize();
        self.email.zeroize();
        self.company.zeroize();
    }
}

impl Profile {
    /// Seals the profile under the account's profile key.
    pub fn seal(&self, key: &DataKey, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let clear = serde_json::to_vec(self).map_err(|_| Fault::permanent("a profile did not serialize"))?;
        Ok(key.seal(PROFILE_FIELD, &clear, nonce)?)
    }

    /// Opens a sealed profile.
    pub fn open(sealed: &Sealed, key: &DataKey) -> Result<Self, Fault> {
        let clear = key.open(PROFILE_FIELD, sealed)?;
        serde_json::from_slice(&clear).map_err(|_| Fault::permanent("a stored profile does not read"))
    }
}

/// A user as stored: nothing personal but the hash that proves the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account.
    pub account: AccountId,
    /// The user.
    pub id: UserId,
    /// Whose address it is, once confirmed: log-in finds the user by it.
    pub email: EmailIndex,
    /// The password's hash.
    pub password: Hashed,
    /// Whether the e-mail address was confirmed.
    pub verified: bool,
}

/// What every send has to check, in one small item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// The webhook path; made with the first credential and the same ever after, since numbers are configured with it.
    pub hook: Option<HookId>,
    /// Twilio refused the credential; over with the next one that is connected.
    pub credential_refused: bool,
    /// When it was refused, as long as nobody has noted that the owner was told.
    pub refusal_untold: Option<Timestamp>,
    /// Frozen because of an unusual pattern; over when the customer lifts it.
    pub frozen: bool,
    /// Whether a carrier credential is connected.
    pub connected: bool,
    /// Connected numbers and messaging services: while there are any, the Twilio account is not let go.
    pub numbers: u32,
    /// Version of the newest carrier credential; it only ever rises, also over a removal, so that a cached credential
    /// of that version is never a stale one.
    pub credential_version: u32,
    /// Destinations that are allowed.
    pub countries: Vec<Country>,
    /// The account's own country; numbers without a prefix are read as of there.
    pub home: Country,
    /// Segments that may be accepted in one UTC day.
    pub daily_ceiling: u64,
}

/// Why an account may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Twilio refused the credential; connect it anew.
    CredentialRefused,
    /// Frozen because of an unusual pattern; the customer can lift it.
    Frozen,
}

impl Gate {
    /// The daily ceiling of a new account, in segments.
    pub const FIRST_CEILING: u64 = 500;

    /// The gate of a new account: its own country only, nothing connected.
    pub fn new(home: Country) -> Self {
        Self {
            hook: None,
            credential_refused: false,
            refusal_untold: None,
            frozen: false,
            connected: false,
            numbers: 0,
            credential_version: 0,
            countries: vec![home],
            home,
            daily_ceiling: Self::FIRST_CEILING,
        }
    }

    /// Why sending is stopped, if it is; a freeze is named first.
    pub fn stopped(&self) -> Option<Stop> {
        if self.frozen { Some(Stop::Frozen) } else { self.credential_refused.then_some(Stop::CredentialRefused) }
    }

    /// Stops sending for a reason; each reason ends by itself.
    pub fn stop(&mut self, stop: Stop) {
        match stop {
            Stop::CredentialRefused => self.credential_refused = true,
            Stop::Frozen => self.frozen = true,
        }
    }
}

/// Whether an account's sending was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Just now, by this call: the owner is to be told, by this caller and nobody else.
    Now,
    /// Before, and nobody has noted yet that the owner was told: look again in a while.
    Untold,
    /// Nothing was changed: it was stopped before, or the credential that was refused is not the newest any more.
    Unchanged,
}

/// Everything that sign-up writes in one transaction.
#[derive(Debug, Clone)]
pub struct NewAccount {
    /// The account.
    pub account: AccountId,
    /// Its owner, not verified. The address belongs to the account only once it is confirmed: of several sign-ups with
    /// one address the one counts whose link the owner of the mailbox opens, with the password given there.
    pub owner: User,
    /// The sealed [`Profile`].
    pub profile: Sealed,
    /// The gate.
    pub gate: Gate,
    /// The wrapped data keys: profile, payload, match.
    pub keys: Vec<crate::seal::WrappedKeys>,
    /// The credit to start with, micro-credits.
    pub credit: crate::ledger::MicroCredits,
    /// When.
    pub now: Timestamp,
}

/// Whether sign-up made an account. The caller's answer is the same either way (promise N12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignedUp {
    /// A new account, until its address is confirmed one of possibly several.
    Created,
    /// The address is confirmed for an account already: nothing was written, its owner is told by mail.
    Known(AccountId, UserId),
}

/// A link's token as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailToken {
    /// The account and user that it confirms.
    pub account: AccountId,
    /// The user.
    pub user: UserId,
    /// Hash of the token.
    pub hash: TokenHash,
    /// It is refused from then on.
    pub expires: Timestamp,
}

/// Text of a name or company: trimmed, 1 to 100 characters, no control characters.
pub fn parse_label(text: &str) -> Result<String, LabelError> {
    let text = text.trim();
    let good = (1..=100).contains(&text.chars().count()) && !text.contains(|c: char| c.is_control());
    if good { Ok(text.to_owned()) } else { Err(LabelError) }
}

/// Why a name or company is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write 1 to 100 characters on one line")]
pub struct LabelError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_folded_and_nonsense_is_refused() {
        assert_eq!(Email::parse(" Ann@Example.COM ").unwrap().as_str(), "ann@example.com");
        for wrong in
            ["", "a", "a@b", "@example.com", "a b@example.com", "a@b@example.com", "a@ex..com", "a\n@example.com"]
        {
            assert!(Email::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Email::parse(&format!("{}@example.com", "x".repeat(65))).is_err());
    }

    #[test]
    fn an_address_does_not_print() {
        assert_eq!(format!("{:?}", Email::parse("ann@example.com").unwrap()), "Email(…)");
    }
}
