//! Passwords: argon2id with a pepper (promise N12), hashed and never encrypted.

use std::collections::BTreeMap;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::Email;
use crate::fault::Fault;

/// OWASP Password Storage Cheat Sheet, first of its equivalent choices: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;

/// A new password: 12 to 256 characters, any of them, nothing trimmed (OWASP ASVS 5.0, 6.2.1, 6.2.5, 6.2.8, 6.2.9).
pub struct Password(SecretString);

/// Why a new password is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Fewer than 12 characters.
    #[error("too short: take at least 12 characters; a few words in a row are good")]
    TooShort,
    /// More than 256 characters.
    #[error("too long: take at most 256 characters")]
    TooLong,
    /// The e-mail address, or one character over and over.
    #[error("too easy to guess: do not use the e-mail address, its name or one repeated character")]
    TooEasy,
}

impl Password {
    /// Checks a password that somebody chose.
    pub fn parse(text: SecretString, email: &Email) -> Result<Self, PasswordError> {
        let clear = text.expose_secret();
        let length = clear.chars().count();
        if length < 12 {
            return Err(PasswordError::TooShort);
        }
        if length > 256 {
            return Err(PasswordError::TooLong);
        }
        let lower = Zeroizing::new(clear.to_lowercase());
        let one_character = clear.chars().next().is_some_and(|first| clear.chars().all(|c| c == first));
        if one_character || lower.as_str() == email.as_str() || email.as_str().starts_with(&format!("{}@", *lower)) {
            return Err(PasswordError::TooEasy);
        }
        Ok(Self(text))
    }
}

/// The peppers by version; the newest hashes, all of them verify. They live in Secrets Manager, not beside the hashes.
pub struct Peppers(pub BTreeMap<u32, Zeroizing<Vec<u8>>>);

/// A password's hash (PHC string with parameters and salt) and the version of the pepper that went in.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Hashed {
    /// `$argon2id$…`
    pub phc: String,
    /// Which pepper.
    pub pepper: u32,
}

impl Peppers {
    /// Hashes a new password with 128 random bits of salt. Takes about 20 ms of CPU and 19 MiB.
    pub fn hash(&self, password: &Password, salt: [u8; 16]) -> Result<Hashed, Fault> {
        let (&version, pepper) = self.0.last_key_value().ok_or(Fault::permanent("no pepper is configured"))?;
        let phc = argon2id(pepper)?
            .hash_password_with_salt(password.0.expose_secret().as_bytes(), &salt)
            .map_err(|error| Fault::Permanent(format!("argon2: {error}")))?;
        Ok(Hashed { phc: phc.to_string(), pepper: version })
    }

    /// Whether `given` is the password behind `stored`. With `None` it does the same work against a hash that nothing
    /// matches, so that an unknown address takes as long as a known one.
    pub fn matches(&self, given: &SecretString, stored: Option<&Hashed>) -> Result<bool, Fault> {
        let (&newest, _) = self.0.last_key_value().ok_or(Fault::permanent("no pepper is configured"))?;
        let nobody = Hashed { phc: NOBODY.to_owned(), pepper: newest };
        let hashed = stored.unwrap_or(&nobody);
        let pepper = self.0.get(&hashed.pepper).ok_or(Fault::permanent("the pepper of a password is gone"))?;
        let phc =
            PasswordHash::new(&hashed.phc).map_err(|_| Fault::permanent("a stored password hash does not read"))?;
        let same = argon2id(pepper)?.verify_password(given.expose_secret().as_bytes(), &phc).is_ok();
        Ok(same && stored.is_some())
    }
}

/// Parameters as above, random salt, an output that no password has (all zero bits).
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5c3NhbHQxMjM0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn argon2id(pepper: &[u8]) -> Result<Argon2<'_>, Fault> {
    let wrong = |error| Fault::Permanent(format!("argon2: {error}"));
    let params = Params::new(MEMORY_KIB, PASSES, 1, None).map_err(wrong)?;
    Argon2::new_with_secret(pepper, Algorithm::Argon2id, Version::V0x13, params).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peppers(version: u32) -> Peppers {
        Peppers((1..=version).map(|v| (v, Zeroizing::new(vec![u8::try_from(v).unwrap(); 32]))).collect())
    }

    fn password(text: &str) -> Result<Password, PasswordError> {
        Password::parse(SecretString::from(text), &Email::parse("ann.example@example.com").unwrap())
    }

    #[test]
    fn only_the_right_password_matches_and_old_peppers_still_do() {
        let hashed = peppers(1).hash(&password("correct horse battery").unwrap(), [3; 16]).unwrap();
        assert!(hashed.phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", hashed.phc);
        let right = SecretString::from("correct horse battery");
        assert!(peppers(2).matches(&right, Some(&hashed)).unwrap());
        assert!(!peppers(2).matches(&SecretString::from("correct horse batterY"), Some(&hashed)).unwrap());
        let moved = Hashed { pepper: 2, ..hashed };
        assert!(!peppers(2).matches(&right, Some(&moved)).unwrap());
    }

    #[test]
    fn nobody_has_a_password() {
        assert!(!peppers(1).matches(&SecretString::from(""), None).unwrap());
    }

    #[test]
    fn easy_short_and_endless_passwords_are_refused() {
        assert_eq!(password("elevenchars").err(), Some(PasswordError::TooShort));
        assert_eq!(password("Ann.Example@example.com").err(), Some(PasswordError::TooEasy));
        assert_eq!(password("aaaaaaaaaaaaaaaa").err(), Some(PasswordError::TooEasy));
        assert_eq!(password(&"é".repeat(257)).err(), Some(PasswordError::TooLong));
        assert!(password(&"ab".repeat(128)).is_ok());
    }
}
