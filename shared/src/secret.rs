//! Values that must not be seen: bearer tokens and their hashes. Secrets of customers are `secrecy::SecretString`.

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::ids::AccountId;

pub use secrecy::{ExposeSecret, SecretString};

/// 256 random bits with the account that they belong to: a session token or a token from a mail.
///
/// The account id is a hint that saves a look-up; only the random part proves anything. Written as
/// `<prefix><26 characters account><43 characters random>`.
pub struct Token {
    account: AccountId,
    random: [u8; 32],
}

impl Token {
    /// A token of `account` from 256 bits of the system's randomness.
    pub fn new(account: AccountId, random: [u8; 32]) -> Self {
        Self { account, random }
    }

    /// Reads a token back; `None` if the text is not one. A token that reads is not yet a token that is known.
    pub fn parse(prefix: &str, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(prefix)?;
        let (account, random) = rest.split_at_checked(26)?;
        Some(Self {
            account: format!("{}{account}", AccountId::PREFIX).parse().ok()?,
            random: BASE64URL_NOPAD.decode(random.as_bytes()).ok()?.try_into().ok()?,
        })
    }

    /// The text to hand out, once.
    pub fn reveal(&self, prefix: &str) -> SecretString {
        let account = self.account.to_string();
        let account = account.trim_start_matches(AccountId::PREFIX);
        SecretString::from(format!("{prefix}{account}{}", BASE64URL_NOPAD.encode(&self.random)))
    }

    /// The account that the token claims to belong to.
    pub fn account(&self) -> AccountId {
        self.account
    }

    /// What is stored in place of the token: SHA-256, enough for 256 random bits.
    pub fn hash(&self) -> TokenHash {
        let mut hasher = Sha256::new();
        hasher.update(self.account.bits().to_be_bytes());
        hasher.update(self.random);
        TokenHash(BASE64URL_NOPAD.encode(&hasher.finalize()))
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.random.zeroize();
    }
}

/// The stored form of a [`Token`]. It opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct TokenHash(pub String);

/// The secret part of a webhook path: the account as a hint and 128 random bits that prove it.
///
/// In a URL it is 52 characters of base32 (RFC 4648 without padding, lower case): unreserved characters only, so that
/// no proxy re-encodes the path that Twilio signed.
#[derive(Clone, Copy, Eq)]
pub struct HookId {
    account: AccountId,
    random: [u8; 16],
}

impl HookId {
    /// A hook of `account` from 128 random bits.
    pub fn new(account: AccountId, random: [u8; 16]) -> Self {
        Self { account, random }
    }

    /// Reads a path segment; `None` if it cannot be a hook (the caller answers 404 without a look-up).
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 52 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return None;
        }
        let bytes = BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok()?;
        let (account, random) = bytes.split_at_checked(16)?;
        Some(Self {
            account: AccountId::from_bits(u128::from_be_bytes(account.try_into().ok()?)),
            random: random.try_into().ok()?,
        })
    }

    /// The path segment.
    pub fn reveal(&self) -> String {
        let mut bytes = [0; 32];
        let (account, random) = bytes.split_at_mut(16);
        account.copy_from_slice(&self.account.bits().to_be_bytes());
        random.copy_from_slice(&self.random);
        BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()
    }

    /// The account that the path claims to belong to.
    pub fn account(&self) -> AccountId {
        self.account
    }
}

impl PartialEq for HookId {
    /// In constant time for the random part.
    fn eq(&self, other: &Self) -> bool {
        self.account == other.account && bool::from(self.random.ct_eq(&other.random))
    }
}

/// Hooks are not printed: whoever knows one can make us do work.
impl std::fmt::Debug for HookId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HookId(of {})", self.account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[test]
    fn a_token_reads_back_and_any_other_text_does_not() {
        let token = Token::new(AccountId::new(Timestamp::UNIX_EPOCH, 5), [7; 32]);
        let text = token.reveal("tbs_");
        let read = Token::parse("tbs_", text.expose_secret()).unwrap();
        assert_eq!(read.hash(), token.hash());
        assert_eq!(read.account(), token.account());
        for wrong in ["", "tbs_", "tbs_é", &text.expose_secret()[1..], &format!("{}A", text.expose_secret())] {
            assert!(Token::parse("tbs_", wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_same_random_part_under_another_account_has_another_hash() {
        let one = Token::new(AccountId::from_bits(1), [7; 32]);
        let two = Token::new(AccountId::from_bits(2), [7; 32]);
        assert_ne!(one.hash(), two.hash());
    }

    #[test]
    fn a_hook_is_52_unreserved_characters_and_reads_back() {
        let hook = HookId::new(AccountId::from_bits(u128::MAX / 3), [0xfe; 16]);
        let text = hook.reveal();
        assert_eq!(text.len(), 52);
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        assert!(HookId::parse(&text).unwrap() == hook);
        assert!(HookId::parse(&text.to_uppercase()).is_none());
        assert!(HookId::parse(&text[1..]).is_none());
    }
}
