//! Sealing: AES-256-GCM under an account's data key for one purpose (promise N2).
//!
//! Envelope v1, byte by byte:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | format, 0x01 |
//! | 1 | algorithm, 0x01 = AES-256-GCM with HKDF-SHA256 and key commitment |
//! | 2-5 | version of the data key, big endian |
//! | 6-17 | nonce, 96 random bits |
//! | 18-49 | commitment to the data key (GCM alone lets one ciphertext open under two keys) |
//! | 50- | ciphertext and 16 bytes of tag |
//!
//! Additional data: the bytes 0-49, then account, field and purpose, each with its length in front.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, hmac};
use data_encoding::BASE64URL_NOPAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::ids::AccountId;

const FORMAT: u8 = 1;
const AES_256_GCM_COMMITTED: u8 = 1;
const COMMITMENT_LEN: usize = 32;
const HEADER_LEN: usize = 6 + NONCE_LEN + COMMITMENT_LEN;

/// What a data key is for. A function may open only the purposes that its policy names (docs/ARCHITECTURE.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The carrier credential, for calls to Twilio.
    Send,
    /// What checks Twilio's signatures.
    Hook,
    /// A message while it waits to be sent.
    Payload,
    /// Name, e-mail address and company.
    Profile,
    /// Keyed hashes of numbers and bodies; never rotated, since hashes must stay comparable.
    Match,
}

impl Purpose {
    /// The word in KMS's encryption context, in additional data and in keys of items.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Hook => "hook",
            Self::Payload => "payload",
            Self::Profile => "profile",
            Self::Match => "match",
        }
    }

    /// Every purpose, for tables and tests.
    pub const ALL: [Self; 5] = [Self::Send, Self::Hook, Self::Payload, Self::Profile, Self::Match];
}

/// One of an account's data keys in clear. In memory only, zeroed when dropped, without a way to print it.
#[derive(Clone)]
pub struct DataKey {
    account: AccountId,
    purpose: Purpose,
    version: u32,
    bytes: Arc<Zeroizing<[u8; 32]>>,
    uses: Uses,
    seals: Arc<AtomicU64>,
}

/// How many envelopes one opening of a data key seals at most, all its copies together.
///
/// With random nonces of 96 bits a key is good for 2^32 envelopes (NIST SP 800-38D, 8.3): then two have the same nonce
/// with a probability of at most 2^-32. Nobody counts them over all environments; openings are counted, since each has an
/// entry in the access log. A version that was opened 2^15 times ([`MOST_OPENINGS`]) is replaced: 2^15 × 2^16 = 2^31.
/// The other half is for openings until it is.
pub const MOST_SEALS: u64 = 1 << 16;

/// After how many openings a version of a key is replaced by a new one ([`MOST_SEALS`]).
pub const MOST_OPENINGS: u64 = 1 << 15;

/// A key with fewer seals left than this is opened anew before it is used up: whoever holds a copy can still finish.
pub const SPARE_SEALS: u64 = 1 << 10;

const _: () = assert!(2 * MOST_SEALS * MOST_OPENINGS <= 1 << 32 && SPARE_SEALS < MOST_SEALS);

/// How often an opened data key was used, counted by all its copies: openings, seals and keyed hashes. It outlives the
/// key, and has nothing of it.
#[derive(Debug, Clone, Default)]
pub struct Uses(Arc<AtomicU64>);

impl Uses {
    /// So far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A data key as KMS wrapped it; only KMS opens it, with account and purpose as its encryption context.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrappedKey {
    /// Which of the account's keys for this purpose; counts from 1.
    pub version: u32,
    /// KMS's ciphertext.
    pub blob: Vec<u8>,
    /// When the data key was made; 1970 for those from before this was noted.
    pub made: Timestamp,
}

/// An account's wrapped keys for one purpose: the newest seals, all of them open.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKeys {
    /// Whose.
    pub account: AccountId,
    /// What for.
    pub purpose: Purpose,
    /// All versions, oldest first; never empty.
    pub versions: Vec<WrappedKey>,
}

impl WrappedKeys {
    /// The version that seals now.
    pub fn current(&self) -> Option<&WrappedKey> {
        self.versions.iter().max_by_key(|key| key.version)
    }

    /// One version, to open what it sealed.
    pub fn version(&self, version: u32) -> Option<&WrappedKey> {
        self.versions.iter().find(|key| key.version == version)
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey(v{}, {} bytes)", self.version, self.blob.len())
    }
}

impl fmt::Debug for WrappedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKeys({} {} {:?})", self.account, self.purpose.as_str(), self.versions)
    }
}

/// Sealed bytes as they are stored. They may be printed: without the key they say nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(#[serde(with = "base64_bytes")] pub Vec<u8>);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

impl Sealed {
    /// The version of the data key that this needs.
    pub fn key_version(&self) -> Result<u32, SealError> {
        let bytes = self.0.get(2..6).ok_or(SealError::Malformed)?;
        Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| SealError::Malformed)?))
    }
}

mod base64_bytes {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?.as_bytes()).map_err(D::Error::custom)
    }
}

/// Why something could not be sealed or opened. It says nothing about the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not an envelope of a known format.
    #[error("not a sealed value of a known format")]
    Malformed,
    /// Sealed with another version of the key.
    #[error("sealed with another version of the data key")]
    OtherVersion,
    /// Another key, account, field or purpose, or a changed byte.
    #[error("does not open: another key, account or field, or a changed byte")]
    DoesNotOpen,
    /// This opening of the key has sealed as much as it may; open it again.
    #[error("this opening of the data key has sealed as much as it may")]
    UsedUp,
    /// The system gave no randomness, or the cipher failed.
    #[error("sealing failed")]
    Failed,
}

impl From<SealError> for Fault {
    fn from(error: SealError) -> Self {
        match error {
            // The next try opens it again.
            SealError::UsedUp => Self::Transient(error.to_string()),
            SealError::Malformed | SealError::OtherVersion | SealError::DoesNotOpen | SealError::Failed => {
                Self::Permanent(error.to_string())
            }
        }
    }
}

impl DataKey {
    /// A key as KMS gave it out.
    pub fn new(account: AccountId, purpose: Purpose, version: u32, bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { account, purpose, version, bytes: Arc::new(bytes), uses: Uses::default(), seals: Arc::default() }
    }

    /// The count of its uses, shared by all its copies.
    pub fn uses(&self) -> Uses {
        self.uses.clone()
    }

    /// Whose key it is.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// What the key is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The version that envelopes of this key carry.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Whether it is time to open it again: what it may seal is nearly used up.
    pub fn nearly_used_up(&self) -> bool {
        self.seals.load(Ordering::Relaxed) + SPARE_SEALS >= MOST_SEALS
    }

    /// Seals `clear` for one named field of the account, with `nonce` of 96 random bits. `Err` with
    /// [`SealError::UsedUp`] after [`MOST_SEALS`] envelopes.
    pub fn seal(&self, field: &str, clear: &[u8], nonce: [u8; NONCE_LEN]) -> Result<Sealed, SealError> {
        self.uses.add_one();
        if self.seals.fetch_add(1, Ordering::Relaxed) >= MOST_SEALS {
            return Err(SealError::UsedUp);
        }
        let mut envelope = Vec::with_capacity(HEADER_LEN + clear.len() + 16);
        envelope.extend([FORMAT, AES_256_GCM_COMMITTED]);
        envelope.extend(self.version.to_be_bytes());
        envelope.extend(nonce);
        envelope.extend(*self.derive(b"telbuddy commit v1")?);
        let aad = self.additional_data(&envelope, field);
        let mut content = Zeroizing::new(clear.to_vec());
        let tag = self
            .cipher()?
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut content)
            .map_err(|_| SealError::Failed)?;
        envelope.extend(content.iter());
        envelope.extend(tag.as_ref());
        Ok(Sealed(envelope))
    }

    /// Opens what [`DataKey::seal`] made for the same account, field, purpose and version.
    pub fn open(&self, field: &str, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.uses.add_one();
        let (header, content) = sealed.0.split_at_checked(HEADER_LEN).ok_or(SealError::Malformed)?;
        if header.first_chunk() != Some(&[FORMAT, AES_256_GCM_COMMITTED]) {
            return Err(SealError::Malformed);
        }
        if sealed.key_version()? != self.version {
            return Err(SealError::OtherVersion);
        }
        let nonce: [u8; NONCE_LEN] =
            header.get(6..6 + NONCE_LEN).and_then(|n| n.try_into().ok()).ok_or(SealError::Malformed)?;
        let commitment = header.get(6 + NONCE_LEN..).ok_or(SealError::Malformed)?;
        if !bool::from(self.derive(b"telbuddy commit v1")?.as_slice().ct_eq(commitment)) {
            return Err(SealError::DoesNotOpen);
        }
        let aad = self.additional_data(header, field);
        let mut clear = Zeroizing::new(content.to_vec());
        let length = self
            .cipher()?
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut clear)
            .map_err(|_| SealError::DoesNotOpen)?
            .len();
        clear.truncate(length);
        Ok(clear)
    }

    /// HMAC-SHA256 of `value` in the namespace `what`, as text: comparable inside the account, joinable with nothing
    /// outside it (promise N1). Only for keys of purpose [`Purpose::Match`].
    pub fn keyed_hash(&self, what: &str, value: &str) -> String {
        self.uses.add_one();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.bytes.as_slice());
        let mut context = hmac::Context::with_key(&key);
        context.update(&[u8::try_from(what.len()).unwrap_or(u8::MAX)]);
        context.update(what.as_bytes());
        context.update(value.as_bytes());
        BASE64URL_NOPAD.encode(context.sign().as_ref())
    }

    fn cipher(&self) -> Result<LessSafeKey, SealError> {
        let key = self.derive(b"telbuddy seal v1")?;
        UnboundKey::new(&AES_256_GCM, key.as_slice()).map(LessSafeKey::new).map_err(|_| SealError::Failed)
    }

    /// HKDF-SHA256 (RFC 5869): separate keys for the cipher and for the commitment.
    fn derive(&self, info: &[u8]) -> Result<Zeroizing<[u8; 32]>, SealError> {
        let mut out = Zeroizing::new([0; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
            .extract(self.bytes.as_slice())
            .expand(&[info], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(out.as_mut_slice()))
            .map_err(|_| SealError::Failed)?;
        Ok(out)
    }

    fn additional_data(&self, header: &[u8], field: &str) -> Vec<u8> {
        let account = self.account.to_string();
        let mut aad = header.to_vec();
        for part in [account.as_bytes(), field.as_bytes(), self.purpose.as_str().as_bytes()] {
            aad.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            aad.extend(part);
        }
        aad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(account: u128, purpose: Purpose, version: u32) -> DataKey {
        DataKey::new(AccountId::from_bits(account), purpose, version, Zeroizing::new([9; 32]))
    }

    #[test]
    fn what_was_sealed_opens() {
        let key = key(1, Purpose::Payload, 3);
        let sealed = key.seal("message", b"hello", [1; 12]).unwrap();
        assert_eq!(sealed.key_version(), Ok(3));
        assert_eq!(key.open("message", &sealed).unwrap().as_slice(), b"hello");
    }

    #[test]
    fn nothing_opens_under_another_account_field_purpose_version_or_key() {
        let sealed = key(1, Purpose::Payload, 1).seal("message", b"hello", [1; 12]).unwrap();
        let other_bytes = DataKey::new(AccountId::from_bits(1), Purpose::Payload, 1, Zeroizing::new([8; 32]));
        assert!(key(2, Purpose::Payload, 1).open("message", &sealed).is_err());
        assert!(key(1, Purpose::Profile, 1).open("message", &sealed).is_err());
        assert!(key(1, Purpose::Payload, 2).open("message", &sealed).is_err());
        assert!(key(1, Purpose::Payload, 1).open("other", &sealed).is_err());
        assert!(other_bytes.open("message", &sealed).is_err());
    }

    #[test]
    fn no_flipped_bit_opens() {
        let key = key(1, Purpose::Send, 1);
        let sealed = key.seal("credential", b"token", [1; 12]).unwrap();
        for at in 0..sealed.0.len() * 8 {
            let mut changed = sealed.clone();
            changed.0[at / 8] ^= 1 << (at % 8);
            assert!(key.open("credential", &changed).is_err(), "bit {at}");
        }
        for length in 0..sealed.0.len() {
            assert!(key.open("credential", &Sealed(sealed.0[..length].to_vec())).is_err());
        }
    }

    /// The format is a promise to stored data: this row may only ever be joined by rows of later formats.
    #[test]
    fn the_envelope_is_as_documented() {
        let sealed = key(1, Purpose::Payload, 1).seal("message", b"hello", [1; 12]).unwrap();
        insta::assert_snapshot!(data_encoding::HEXLOWER.encode(&sealed.0));
    }

    #[test]
    fn every_use_by_any_copy_is_counted() {
        let one = key(1, Purpose::Match, 1);
        let (copy, uses) = (one.clone(), one.uses());
        let sealed = one.seal("field", b"clear", [1; 12]).unwrap();
        copy.open("field", &sealed).unwrap();
        copy.open("other", &sealed).unwrap_err();
        copy.keyed_hash("number", "+1");
        assert_eq!(uses.count(), 4);
        drop((one, copy));
        assert_eq!(uses.count(), 4, "the count outlives the key");
    }

    #[test]
    fn all_copies_together_seal_so_many_times_and_then_the_key_only_opens() {
        let one = key(1, Purpose::Payload, 1);
        let copy = one.clone();
        let sealed = one.seal("field", b"clear", [1; 12]).unwrap();
        one.seals.store(MOST_SEALS - SPARE_SEALS - 1, Ordering::Relaxed);
        assert!(!copy.nearly_used_up());
        copy.seal("field", b"clear", [2; 12]).unwrap();
        assert!(one.nearly_used_up(), "with seals to spare");
        one.seals.store(MOST_SEALS - 1, Ordering::Relaxed);
        copy.seal("field", b"clear", [3; 12]).unwrap();
        for key in [&one, &copy] {
            assert_eq!(key.seal("field", b"clear", [4; 12]), Err(SealError::UsedUp));
            assert!(key.open("field", &sealed).is_ok());
        }
    }

    #[test]
    fn hashes_differ_between_namespaces() {
        let key = key(1, Purpose::Match, 1);
        assert_ne!(key.keyed_hash("ab", "c"), key.keyed_hash("a", "bc"));
        assert_eq!(key.keyed_hash("number", "+1"), key.keyed_hash("number", "+1"));
    }
}
