//! Signatures as the Standard Webhooks specification has them, so that its verifiers in any language take them.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use secrecy::SecretString;
use zeroize::{Zeroize, Zeroizing};

use super::{PreviousSecret, SECRET_PREFIX};
use crate::fault::Fault;
use crate::ids::{EndpointId, EventId};
use crate::seal::{DataKey, Sealed};
use jiff::{SignedDuration, Timestamp};

/// How long a secret that was replaced still signs beside the new one.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(24);

/// Secrets that were replaced less than [`OVERLAP`] ago, at most: each is one more signature in the header.
pub const MOST_PREVIOUS: usize = 4;

/// What signs the events of one endpoint: 256 random bits. It does not print.
pub struct SigningSecret([u8; 32]);

impl Drop for SigningSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The sealed field; it names the endpoint, so that one endpoint's secret does not open as another's.
pub fn secret_field(endpoint: EndpointId) -> String {
    format!("endpoint-secret/{endpoint}")
}

impl SigningSecret {
    /// From 256 bits of the system's randomness.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// The text to hand out, once: `whsec_` and base64.
    pub fn reveal(&self) -> SecretString {
        let encoded = Zeroizing::new(BASE64.encode(&self.0));
        SecretString::from(format!("{SECRET_PREFIX}{}", encoded.as_str()))
    }

    /// Sealed under the account's key.
    pub fn seal(&self, key: &DataKey, endpoint: EndpointId, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        Ok(key.seal(&secret_field(endpoint), &self.0, nonce)?)
    }

    /// Opened again.
    pub fn open(sealed: &Sealed, key: &DataKey, endpoint: EndpointId) -> Result<Self, Fault> {
        let clear = key.open(&secret_field(endpoint), sealed)?;
        let bytes = clear.as_slice().try_into();
        bytes.map(Self).map_err(|_| Fault::permanent("a stored signing secret does not read"))
    }

    fn sign(&self, event: EventId, at: Timestamp, body: &str) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        context.update(format!("{event}.{}.", at.as_second()).as_bytes());
        context.update(body.as_bytes());
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    }
}

/// The header `webhook-signature`: one signature for each secret that counts, with a space between.
pub fn signature(secrets: &[SigningSecret], event: EventId, at: Timestamp, body: &str) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| secret.sign(event, at, body)).collect();
    signatures.join(" ")
}

/// The secrets before a new one: those that still count, and the one that is replaced now. `None` if that would be too
/// many.
pub fn replaced(current: Sealed, previous: &[PreviousSecret], now: Timestamp) -> Option<Vec<PreviousSecret>> {
    let mut all: Vec<_> = previous.iter().filter(|before| now < before.until).cloned().collect();
    all.push(PreviousSecret { secret: current, until: now + OVERLAP });
    (all.len() <= MOST_PREVIOUS).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::AccountId;
    use crate::seal::Purpose;
    use crate::secret::ExposeSecret;

    /// Worked out with Python's hmac and base64 from the specification's text.
    #[test]
    fn it_is_signed_as_the_specification_says() {
        let secret = SigningSecret::new([7; 32]);
        assert_eq!(secret.reveal().expose_secret(), "whsec_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
        let at = Timestamp::from_second(1_700_000_000).unwrap();
        let event = EventId::from_bits(1);
        assert_eq!(signature(&[secret], event, at, r#"{"a":1}"#), "v1,Y44VVTTvmtP8lkvJ84H2IKiOAcjDrYONsmY5vSAxiHI=");
    }

    #[test]
    fn another_endpoints_secret_does_not_open() {
        let key = DataKey::new(AccountId::from_bits(1), Purpose::Profile, 1, Zeroizing::new([1; 32]));
        let sealed = SigningSecret::new([7; 32]).seal(&key, EndpointId::from_bits(1), [0; 12]).unwrap();
        assert!(SigningSecret::open(&sealed, &key, EndpointId::from_bits(1)).is_ok());
        assert!(SigningSecret::open(&sealed, &key, EndpointId::from_bits(2)).is_err());
    }

    #[test]
    fn a_secret_counts_for_a_day_after_it_was_replaced() {
        let now = Timestamp::UNIX_EPOCH;
        let first = replaced(Sealed(vec![1]), &[], now).unwrap();
        assert_eq!(first, [PreviousSecret { secret: Sealed(vec![1]), until: now + OVERLAP }]);
        let second = replaced(Sealed(vec![2]), &first, now + OVERLAP - SignedDuration::from_secs(1)).unwrap();
        assert_eq!(second.len(), 2);
        let third = replaced(Sealed(vec![3]), &second, now + OVERLAP).unwrap();
        let secrets: Vec<_> = third.iter().map(|before| before.secret.clone()).collect();
        assert_eq!(secrets, [Sealed(vec![2]), Sealed(vec![3])]);
        let most: Vec<_> = (0..4).map(|n| PreviousSecret { secret: Sealed(vec![n]), until: now + OVERLAP }).collect();
        assert_eq!(replaced(Sealed(vec![9]), &most, now), None);
    }
}
