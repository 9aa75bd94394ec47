//! An account and its users: sign-up, e-mail verification, passwords. Types and decisions without I/O.

mod password;
mod policy;
mod port;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::endpoint::Listeners;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId, UserId};
use crate::ledger::{Allowance, CreditKind, Entry, Grant, MicroCredits, Occasion, Purse, TRIAL, Zone};
use crate::number::Country;
use crate::pace::{SenderRates, usual_rate};
use crate::seal::{DataKey, Sealed};
use crate::secret::{HookId, TokenHash};

pub use password::{Hashed, Password, PasswordError, Peppers};
pub use policy::{LocalTime, LocalTimeError, MOST_COUNTRIES, Policy, QuietHours, Risk};
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
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and any of them may be true beside any other"
)]
pub struct Gate {
    /// The webhook path; made with the first credential and the same ever after, since numbers are configured with it.
    pub hook: Option<HookId>,
    /// Twilio refused the credential; over with the next one that is connected.
    pub credential_refused: bool,
    /// When it was refused, as long as nobody has noted that the owner was told.
    pub refusal_untold: Option<Timestamp>,
    /// Frozen because of an unusual pattern; over when the customer lifts it.
    pub frozen: Option<Freeze>,
    /// Whether it is still to be noted that the owner was told of the freeze.
    pub freeze_untold: bool,
    /// The last freeze that was lifted. What is sent is counted anew from then on.
    pub lifted: Option<Lifted>,
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
    /// When recipients are not to be disturbed, by the clock of where they are.
    pub quiet_hours: Option<QuietHours>,
    /// The account's endpoints, and what each of them is told.
    pub listeners: Listeners,
    /// Senders whose rate the customer knows better than we do.
    pub sender_rates: SenderRates,
    /// By which its days and months begin.
    pub zone: Zone,
    /// Whether the plan can be billed afterwards for what is used beyond all credit.
    pub overage_allowed: bool,
}

/// Why an account may not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Twilio refused the credential; connect it anew.
    CredentialRefused,
    /// Frozen because of an unusual pattern; the customer can lift it.
    Frozen(FreezeReason),
}

impl Stop {
    /// The stable word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CredentialRefused => "credential_refused",
            Self::Frozen(_) => "frozen",
        }
    }
}

/// A freeze of an account's sending. `since` tells it apart from an earlier or later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freeze {
    /// Which pattern it was.
    pub reason: FreezeReason,
    /// Since when.
    pub since: Timestamp,
}

/// The pattern that froze an account's sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FreezeReason {
    /// Many neighbouring numbers within a minute, as when somebody is paid for messages to a range of numbers.
    Pumping,
    /// More messages within a minute than the account sends, to one prefix or in all.
    Velocity,
    /// Frozen before reasons were stored.
    Unnamed,
}

impl FreezeReason {
    /// The stable word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pumping => "pumping",
            Self::Velocity => "velocity",
            Self::Unnamed => "unnamed",
        }
    }

    /// What was seen, for a person.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Pumping => "messages went to many neighbouring numbers within a minute",
            Self::Velocity => "far more messages went out within a minute than the daily ceiling leads to expect",
            Self::Unnamed => "an unusual pattern was seen",
        }
    }
}

/// That a freeze was lifted, when and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifted {
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub by: UserId,
}

/// What became of lifting a freeze.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lift {
    /// It is lifted.
    Done,
    /// Nothing is frozen.
    NotFrozen,
    /// Another freeze than the one that was seen, which stays.
    Other(Freeze),
}

/// Whether an account's sending was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Just now, by this call: the owner is to be told, by this caller and nobody else.
    Now,
    /// Before, for a refused credential, and nobody has noted yet that the owner was told: look again in a while.
    Untold,
    /// Nothing was changed: it was stopped before, or the credential that was refused is not the newest any more.
    Unchanged,
}

impl Gate {
    /// The daily ceiling of a new account, in segments.
    pub const FIRST_CEILING: u64 = 500;

    /// The highest daily ceiling that a customer can set, in segments: 200 messages a second for 80 minutes. Above it a
    /// slip of the finger or of an attacker has no bound that means anything; who needs more is somebody to talk to.
    pub const MOST_CEILING: u64 = 1_000_000;

    /// The gate of a new account: its own country only, nothing connected.
    pub fn new(home: Country) -> Self {
        Self {
            hook: None,
            credential_refused: false,
            refusal_untold: None,
            frozen: None,
            freeze_untold: false,
            lifted: None,
            connected: false,
            numbers: 0,
            credential_version: 0,
            countries: vec![home],
            home,
            daily_ceiling: Self::FIRST_CEILING,
            quiet_hours: None,
            listeners: Listeners::default(),
            sender_rates: SenderRates::new(),
            zone: Zone::default(),
            overage_allowed: false,
        }
    }

    /// Segments a second that a sender may send; `None`: as they come.
    pub fn rate_of(&self, own: &str) -> Option<u32> {
        self.sender_rates.get(own).copied().or_else(|| usual_rate(own))
    }

    /// Why sending is stopped, if it is; a freeze is named first.
    pub fn stopped(&self) -> Option<Stop> {
        self.stops().into_iter().flatten().next()
    }

    /// Every reason for which sending is stopped, the first of which is the one that is named.
    pub fn stops(&self) -> [Option<Stop>; 2] {
        let frozen = self.frozen.map(|freeze| Stop::Frozen(freeze.reason));
        [frozen, self.credential_refused.then_some(Stop::CredentialRefused)]
    }

    /// The stops of which it is still to be noted that the owner was told, and since when they are.
    pub fn untold(&self) -> [Option<(Stop, Timestamp)>; 2] {
        let freeze = self.frozen.filter(|_| self.freeze_untold);
        [
            freeze.map(|freeze| (Stop::Frozen(freeze.reason), freeze.since)),
            self.refusal_untold.map(|since| (Stop::CredentialRefused, since)),
        ]
    }

    /// Stops sending for a reason; each reason ends by itself. A freeze that is there stays as it is.
    pub fn stop(&mut self, stop: Stop, now: Timestamp) {
        match stop {
            Stop::CredentialRefused => self.credential_refused = true,
            Stop::Frozen(reason) => {
                self.frozen.get_or_insert(Freeze { reason, since: now });
            }
        }
    }

    /// What is sent is counted anew from here on: since the last freeze was lifted, or ever.
    pub fn counts_from(&self) -> Timestamp {
        self.lifted.map_or(Timestamp::UNIX_EPOCH, |lifted| lifted.at)
    }
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
    /// The credit to start with.
    pub credit: MicroCredits,
    /// When.
    pub now: Timestamp,
}

impl NewAccount {
    /// What the ledger begins with: the credits, the allowance of them, and the entry that gives them.
    pub fn first_credits(&self) -> (Purse, Allowance, Entry) {
        let nothing = Allowance::new(MicroCredits::ZERO, self.now);
        let grant = Grant { source: TRIAL.to_owned(), kind: CreditKind::Included, credits: self.credit, expires: None };
        let step = Purse::default().grant(&nothing, &grant, self.now);
        let nothing_given = || (Occasion::Grant { source: TRIAL.to_owned() }, Vec::new());
        let (occasion, lines) = step.entries.into_iter().next_back().unwrap_or_else(nothing_given);
        let entry = Entry {
            id: EntryId::from_bits(self.account.bits()),
            account: self.account,
            occasion,
            lines,
            posted: self.now,
            month: self.gate.zone.month(self.now),
            usage: None,
        };
        (step.purse, Allowance::new(self.credit, self.now), entry)
    }
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
