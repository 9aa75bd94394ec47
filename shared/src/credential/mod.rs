//! The carrier credential: what a customer connects, what is stored of it, and what a check at Twilio can say.

mod port;

use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::edge::{Kind, Problem};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::seal::{DataKey, Sealed, WrappedKeys};
use crate::secret::HookId;

pub use port::*;

/// Name of the sealed field with what calls Twilio.
pub const SEND_FIELD: &str = "carrier-send";
/// Name of the sealed field with what checks Twilio's signatures.
pub const HOOK_FIELD: &str = "carrier-hook";

/// A Twilio SID of one kind: two letters and 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sid(String);

/// Why a text is not the SID that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SID of this kind: it starts with \"{0}\" and has 32 hexadecimal digits; the Twilio Console shows it")]
pub struct SidError(&'static str);

impl Sid {
    /// Reads a SID that starts with `prefix`, such as `AC`.
    pub fn parse(prefix: &'static str, text: &str) -> Result<Self, SidError> {
        let digits = text.strip_prefix(prefix).ok_or(SidError(prefix))?;
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() == 32 && digits.bytes().all(hex) { Ok(Self(text.to_owned())) } else { Err(SidError(prefix)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Twilio's regions: they choose the host, from this list and from nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// United States.
    #[default]
    Us1,
    /// Ireland.
    Ie1,
    /// Australia.
    Au1,
}

impl Region {
    /// Twilio's API host for the region (Twilio "Global Infrastructure", 2026: `api.{region}.twilio.com` is gone).
    pub fn host(self) -> &'static str {
        match self {
            Self::Us1 => "api.twilio.com",
            Self::Ie1 => "api.dublin.ie1.twilio.com",
            Self::Au1 => "api.sydney.au1.twilio.com",
        }
    }

    /// The same for the Messaging API.
    pub fn messaging_host(self) -> &'static str {
        match self {
            Self::Us1 => "messaging.twilio.com",
            Self::Ie1 => "messaging.dublin.ie1.twilio.com",
            Self::Au1 => "messaging.sydney.au1.twilio.com",
        }
    }
}

/// How calls to Twilio are authorised.
#[derive(Clone)]
pub enum Auth {
    /// Account SID and Auth Token.
    AuthToken(SecretString),
    /// An API key: SID and secret.
    ApiKey(Sid, SecretString),
}

/// What a call to Twilio needs. No way to print it.
#[derive(Clone)]
pub struct Carrier {
    /// The Twilio account.
    pub account_sid: Sid,
    /// Its region.
    pub region: Region,
    /// Who we are there.
    pub auth: Auth,
}

/// What checks Twilio's signatures: the Auth Token, or the shared key that an account's webhooks are signed with
/// (Twilio's Webhooks configuration API, public beta; then no Auth Token is held at all).
#[derive(Clone)]
pub enum HookSecret {
    /// The Auth Token.
    AuthToken(SecretString),
    /// A shared key: its id, as Twilio names it in a header, and its secret.
    SharedKey(String, SecretString),
}

/// What a customer wants to connect, checked for form.
pub struct NewCredential {
    /// For calls.
    pub carrier: Carrier,
    /// For webhooks.
    pub hook: HookSecret,
}

/// The kind of a credential, as answers show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    /// Account SID and Auth Token.
    AuthToken,
    /// API key, with the Auth Token for webhooks only.
    ApiKey,
    /// API key, with a shared key for webhooks: no Auth Token is held. Twilio calls shared keys a public beta.
    ApiKeyAndSharedKey,
}

/// A credential as stored: secrets sealed, each half under the key of its purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCredential {
    /// Whose.
    pub account: AccountId,
    /// Counts from 1; the data keys of purpose send and hook have the same version.
    pub version: u32,
    /// The Twilio account.
    pub account_sid: Sid,
    /// Its region.
    pub region: Region,
    /// Which kind.
    pub kind: CredentialKind,
    /// Twilio's name of the account; unknown to an API key.
    pub friendly_name: Option<String>,
    /// Whether it is a trial account; unknown to an API key.
    pub trial: Option<bool>,
    /// When it was connected.
    pub connected_at: Timestamp,
    /// Since when the current webhook secret is stored: connected or rotated then.
    pub secret_since: Timestamp,
    /// The webhook path; the same as long as the account has a credential.
    pub hook: HookId,
    /// Sealed for purpose send.
    pub send: Sealed,
    /// Sealed for purpose hook.
    pub verify: Sealed,
    /// What checked signatures before a rotation, the latest first, while it still counts.
    pub previous: Vec<Previous>,
}

/// How long the secret before a rotation still checks signatures.
pub const ROTATION_WINDOW: SignedDuration = SignedDuration::from_hours(24);

/// How many secrets before the current one are kept at most, and their data keys with them.
pub const MOST_PREVIOUS: usize = 3;

/// The webhook secret before a rotation, sealed with its own version of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Previous {
    /// Sealed for purpose hook.
    pub verify: Sealed,
    /// It counts until then.
    pub until: Timestamp,
}

impl StoredCredential {
    /// The sealed secrets that may check a signature at `now`, the current one first.
    pub fn verifiers(&self, now: Timestamp) -> impl Iterator<Item = &Sealed> {
        let previous = self.previous.iter().filter(move |previous| now < previous.until);
        std::iter::once(&self.verify).chain(previous.map(|previous| &previous.verify))
    }

    /// The webhook secrets that go on counting beside a new one from `now` on: this one, and those that a rotation a
    /// moment ago left. So a rotation that is repeated, because its answer got lost, loses nothing.
    pub fn kept(&self, now: Timestamp) -> Vec<Previous> {
        let this = Previous { verify: self.verify.clone(), until: now + ROTATION_WINDOW };
        let open = self.previous.iter().filter(|previous| now < previous.until).cloned();
        std::iter::once(this).chain(open).take(MOST_PREVIOUS).collect()
    }
}

#[derive(Serialize, Deserialize)]
struct SendSecret {
    key_sid: Option<String>,
    secret: String,
}

/// As sealed: `key_id` is there for a shared key.
#[derive(Serialize, Deserialize)]
struct HookRow {
    key_id: Option<String>,
    secret: String,
}

impl Drop for SendSecret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Drop for HookRow {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

fn to_json(value: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, Fault> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|_| Fault::permanent("a credential did not serialize"))
}

impl Carrier {
    /// Seals what calls need, under the account's key of purpose send.
    pub fn seal(&self, key: &DataKey, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let (key_sid, secret) = match &self.auth {
            Auth::AuthToken(token) => (None, token),
            Auth::ApiKey(sid, secret) => (Some(sid.as_str().to_owned()), secret),
        };
        let secret = SendSecret { key_sid, secret: secret.expose_secret().to_owned() };
        Ok(key.seal(SEND_FIELD, &to_json(&secret)?, nonce)?)
    }

    /// The carrier of a stored credential.
    pub fn open(stored: &StoredCredential, key: &DataKey) -> Result<Self, Fault> {
        let clear = key.open(SEND_FIELD, &stored.send)?;
        let secret: SendSecret =
            serde_json::from_slice(&clear).map_err(|_| Fault::permanent("a stored credential does not read"))?;
        let text = SecretString::from(secret.secret.clone());
        let auth = match &secret.key_sid {
            None => Auth::AuthToken(text),
            Some(sid) => {
                let sid = Sid::parse("SK", sid).map_err(|_| Fault::permanent("a stored key SID does not read"))?;
                Auth::ApiKey(sid, text)
            }
        };
        Ok(Self { account_sid: stored.account_sid.clone(), region: stored.region, auth })
    }
}

impl NewCredential {
    /// Which kind it is.
    pub fn kind(&self) -> CredentialKind {
        match (&self.carrier.auth, &self.hook) {
            (Auth::AuthToken(_), _) => CredentialKind::AuthToken,
            (Auth::ApiKey(..), HookSecret::AuthToken(_)) => CredentialKind::ApiKey,
            (Auth::ApiKey(..), HookSecret::SharedKey(..)) => CredentialKind::ApiKeyAndSharedKey,
        }
    }
}

impl HookSecret {
    /// Seals what checks signatures, under the account's key of purpose hook.
    pub fn seal(&self, key: &DataKey, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let (key_id, secret) = match self {
            Self::AuthToken(token) => (None, token),
            Self::SharedKey(id, secret) => (Some(id.clone()), secret),
        };
        let row = HookRow { key_id, secret: secret.expose_secret().to_owned() };
        Ok(key.seal(HOOK_FIELD, &to_json(&row)?, nonce)?)
    }

    /// What checks the signatures of a stored credential's webhooks.
    pub fn open(sealed: &Sealed, key: &DataKey) -> Result<Self, Fault> {
        let clear = key.open(HOOK_FIELD, sealed)?;
        let row: HookRow =
            serde_json::from_slice(&clear).map_err(|_| Fault::permanent("a stored webhook secret does not read"))?;
        let secret = SecretString::from(row.secret.clone());
        Ok(match &row.key_id {
            None => Self::AuthToken(secret),
            Some(id) => Self::SharedKey(id.clone(), secret),
        })
    }
}

/// What Twilio says of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// It works. What an API key cannot know is `None`.
    Works {
        /// Twilio's name of the account.
        friendly_name: Option<String>,
        /// Whether it is a trial account.
        trial: Option<bool>,
    },
    /// Wrong SID, token, key or secret.
    Refused,
    /// The account is suspended or closed.
    Inactive,
    /// Twilio has too many of our calls at once.
    Busy,
    /// No answer, or none that reads.
    Unreachable,
}

/// What a check at Twilio means for the caller: the facts to store, or a clear answer.
pub fn accept_check(check: Check) -> Result<(Option<String>, Option<bool>), Problem> {
    match check {
        Check::Works { friendly_name, trial } => Ok((friendly_name, trial)),
        Check::Refused => Err(Problem::new(
            Kind::CarrierRefusedCredential,
            "Twilio refused it: copy Account SID and Auth Token (or API key SID and secret) from the Twilio Console \
             again, and check that they belong together and to this region; a subaccount has a token of its own, its parent's \
             does not count",
        )),
        Check::Inactive => Err(Problem::new(
            Kind::CarrierAccountInactive,
            "Twilio says that the account is suspended or closed: clear this up in the Twilio Console, then connect again",
        )),
        Check::Busy => Err(Problem::new(
            Kind::CarrierUnavailable,
            "Twilio answers that the account has too many calls at once: try again in a minute; nothing was changed",
        )),
        Check::Unreachable => Err(Problem::new(
            Kind::CarrierUnavailable,
            "Twilio did not answer: try again in a minute; nothing was changed",
        )),
    }
}

/// What `save_credential` writes in one transaction.
#[derive(Debug, Clone)]
pub struct SaveCredential {
    /// The credential; its version is one above the one that it replaces.
    pub credential: StoredCredential,
    /// Platform hash of its Account SID: one SID, one TelBuddy account.
    pub sid_hash: String,
    /// Platform hash of the Account SID that it replaces, if that was another.
    pub replaced_sid_hash: Option<String>,
    /// How many connected numbers were seen: with another Account SID, one connected meanwhile is a race.
    pub numbers: u32,
    /// The wrapped keys of the purposes that were sealed anew (send, hook or both): the new version and the one before.
    pub keys: Vec<WrappedKeys>,
    /// The rows of these keys as they were read, where there was one: if one was moved to another KMS key meanwhile,
    /// nothing is stored.
    pub keys_read: Vec<WrappedKeys>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// Stored.
    Stored,
    /// Another TelBuddy account has this Twilio account.
    TakenByAnother,
    /// Another change came in between; nothing was stored.
    Raced,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Purpose;

    #[test]
    fn a_sid_is_two_letters_and_32_hex_digits() {
        let good = format!("AC{}", "0a".repeat(16));
        assert_eq!(Sid::parse("AC", &good).unwrap().as_str(), good);
        for wrong in ["", "AC", &good[..33], &good.to_uppercase(), &format!("{good}0"), &good.replace("AC", "SK")] {
            assert!(Sid::parse("AC", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_half_opens_under_its_own_purpose_only() {
        let account = AccountId::from_bits(1);
        let key = |purpose| DataKey::new(account, purpose, 1, Zeroizing::new([1; 32]));
        let sid = Sid::parse("AC", &format!("AC{}", "00".repeat(16))).unwrap();
        let carrier = Carrier { account_sid: sid.clone(), region: Region::Us1, auth: Auth::AuthToken("t".into()) };
        let hook = HookSecret::AuthToken("t".into());
        let stored = StoredCredential {
            account,
            version: 1,
            account_sid: sid,
            region: Region::Us1,
            kind: CredentialKind::AuthToken,
            friendly_name: None,
            trial: None,
            connected_at: Timestamp::UNIX_EPOCH,
            secret_since: Timestamp::UNIX_EPOCH,
            hook: HookId::new(account, [0; 16]),
            send: carrier.seal(&key(Purpose::Send), [0; 12]).unwrap(),
            verify: hook.seal(&key(Purpose::Hook), [0; 12]).unwrap(),
            previous: Vec::new(),
        };
        assert!(Carrier::open(&stored, &key(Purpose::Send)).is_ok());
        assert!(Carrier::open(&stored, &key(Purpose::Hook)).is_err());
        assert!(HookSecret::open(&stored.verify, &key(Purpose::Hook)).is_ok());
        assert!(HookSecret::open(&stored.send, &key(Purpose::Hook)).is_err());
    }
}
