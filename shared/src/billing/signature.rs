//! Stripe's webhook signatures: the only door through which an event's content comes in.
//!
//! Sources: Stripe's "Webhook signatures" page and its official libraries (npm `stripe` 23.1.0, `PyPI` `stripe`
//! 16.1.0). Vectors made with both are in `tests/vectors/stripe/`. Where the two differ, and for times ahead of ours,
//! the rule here is the stricter one: the bytes as they came, exactly one plain number `t`, and five minutes either
//! way.

use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use jiff::{SignedDuration, Timestamp};
use subtle::{Choice, ConstantTimeEq as _};

/// Largest event that is looked at. Stripe's are a few kilobytes, an invoice with many lines some tens.
pub const MAX_EVENT_BYTES: usize = 256 * 1024;

/// How far a signature's time may be from ours, before or after.
pub const TOLERANCE: SignedDuration = SignedDuration::from_secs(300);

/// A webhook request as it reached us, before anything in it is believed.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// `Stripe-Signature`.
    pub signature: Option<&'a str>,
    /// The body, byte by byte.
    pub body: &'a [u8],
}

/// An event's bytes that came with a good signature. [`verified`] is the only way to make one.
#[derive(Clone, Copy)]
pub struct Verified<'a> {
    body: &'a [u8],
    secret: usize,
}

impl<'a> Verified<'a> {
    /// The bytes.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Which of the secrets signed it, counted from nought.
    pub const fn secret(&self) -> usize {
        self.secret
    }
}

/// Events hold names and addresses: only the amount is shown.
impl fmt::Debug for Verified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({} bytes, by secret {})", self.body.len(), self.secret)
    }
}

/// Why an event was not believed. Says nothing about its content, so it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// More than [`MAX_EVENT_BYTES`].
    #[error("the body is larger than 256 KiB")]
    BodyTooLarge,
    /// No bytes, which no event has.
    #[error("the body is empty")]
    BodyEmpty,
    /// No `Stripe-Signature`, or an empty one.
    #[error("the request has no Stripe-Signature header")]
    MissingHeader,
    /// Not exactly one plain number `t`.
    #[error("the signature header has not exactly one time")]
    NoTime,
    /// We hold no secret.
    #[error("there is no signing secret here")]
    NoSecret,
    /// No secret made any of the signatures for this time and body.
    #[error("no signature matches: check the endpoint's secret")]
    Mismatch,
    /// Signed too long ago: a replay, or a clock that is wrong.
    #[error("the signature is too old")]
    TooOld,
    /// Signed in the future: a clock is wrong.
    #[error("the signature's time has not come yet")]
    TooNew,
}

/// Checks an event's signature against every secret and hands out its bytes.
///
/// Several secrets are held while one is rolled at Stripe, which then sends a `v1` of each. Errs when the request is
/// too large or empty, when no secret made any `v1`, or when the signed time is further than `tolerance` from `now`.
/// All are computed and compared in constant time, so that the time taken does not tell which one was near.
pub fn verified<'a>(
    presented: &Presented<'a>,
    secrets: &[&str],
    now: Timestamp,
    tolerance: SignedDuration,
) -> Result<Verified<'a>, Rejection> {
    let body = presented.body;
    if body.len() > MAX_EVENT_BYTES {
        return Err(Rejection::BodyTooLarge);
    }
    if body.is_empty() {
        return Err(Rejection::BodyEmpty);
    }
    let header = presented.signature.filter(|header| !header.is_empty()).ok_or(Rejection::MissingHeader)?;
    let time = time(header)?;
    if secrets.iter().all(|secret| secret.is_empty()) {
        return Err(Rejection::NoSecret);
    }
    let mut by = None;
    // An empty secret is one that anybody has.
    for (n, secret) in secrets.iter().enumerate().filter(|(_, secret)| !secret.is_empty()) {
        let expected = mac(secret, time, body);
        let good = values(header, "v1")
            .map(|given| decoded(given).map_or(Choice::from(0), |given| expected.as_ref().ct_eq(&given)))
            .fold(Choice::from(0), |any, one| any | one);
        by = by.or(bool::from(good).then_some(n));
    }
    let secret = by.ok_or(Rejection::Mismatch)?;
    // Only what is signed is believed, the time too.
    let at: i64 = time.parse().map_err(|_| Rejection::NoTime)?;
    let age = SignedDuration::from_secs(now.as_second().saturating_sub(at));
    if age > tolerance {
        return Err(Rejection::TooOld);
    }
    if age < -tolerance {
        return Err(Rejection::TooNew);
    }
    Ok(Verified { body, secret })
}

/// Signs as Stripe does: `t=<time>,v1=<HMAC-SHA256 over time, a dot and the body, in hex>`.
pub fn sign(secret: &str, now: Timestamp, body: &[u8]) -> String {
    let time = now.as_second().to_string();
    let mac = mac(secret, &time, body);
    format!("t={time},v1={}", HEXLOWER.encode(mac.as_ref()))
}

fn mac(secret: &str, time: &str, body: &[u8]) -> hmac::Tag {
    // The secret's text, `whsec_` included, and not what it may decode to.
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    context.update(time.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign()
}

/// The values of one key: parts between commas, cut at the first `=`; nothing is trimmed, unknown parts count for
/// nothing.
fn values<'a>(header: &'a str, key: &str) -> impl Iterator<Item = &'a str> {
    header.split(',').filter_map(|part| part.split_once('=')).filter(move |(name, _)| *name == key).map(|(_, v)| v)
}

/// The one time, as it is written: up to twelve digits without a sign or a nought in front.
fn time(header: &str) -> Result<&str, Rejection> {
    let mut times = values(header, "t");
    let (Some(time), None) = (times.next(), times.next()) else { return Err(Rejection::NoTime) };
    let plain = (1..=12).contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit());
    if plain && (time == "0" || !time.starts_with('0')) { Ok(time) } else { Err(Rejection::NoTime) }
}

fn decoded(signature: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(signature.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "whsec_of_the_endpoint";

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    fn check(header: &str, body: &[u8], secrets: &[&str], now: i64) -> Result<usize, Rejection> {
        let presented = Presented { signature: Some(header), body };
        verified(&presented, secrets, at(now), TOLERANCE).map(|good| good.secret())
    }

    #[test]
    fn what_is_signed_comes_out_as_it_was_sent_and_does_not_print() {
        let body = b"{\"email\":\"ann@example.com\"}";
        let header = sign(SECRET, at(1000), body);
        let presented = Presented { signature: Some(&header), body };
        let good = verified(&presented, &[SECRET], at(1000), TOLERANCE).unwrap();
        assert_eq!(good.body(), body);
        assert_eq!(format!("{good:?}"), "Verified(27 bytes, by secret 0)");
    }

    #[test]
    fn while_a_secret_rolls_either_signs_and_afterwards_the_new_one_only() {
        let (old, new) = (sign("old", at(1000), b"x"), sign("new", at(1000), b"x"));
        let both = format!("{old},{}", new.split_once(',').unwrap().1);
        assert_eq!(check(&old, b"x", &["new", "old"], 1000), Ok(1));
        assert_eq!(check(&new, b"x", &["new", "old"], 1000), Ok(0));
        assert_eq!(check(&both, b"x", &["new", "old"], 1000), Ok(0));
        assert_eq!(check(&both, b"x", &["old"], 1000), Ok(0));
        assert_eq!(check(&old, b"x", &["new"], 1000), Err(Rejection::Mismatch));
    }

    #[test]
    fn five_minutes_either_way_are_taken_and_a_second_more_is_not() {
        let header = sign(SECRET, at(10_000), b"x");
        for (now, expected) in
            [(9_699, Err(Rejection::TooNew)), (9_700, Ok(0)), (10_300, Ok(0)), (10_301, Err(Rejection::TooOld))]
        {
            assert_eq!(check(&header, b"x", &[SECRET], now), expected, "{now}");
        }
    }

    #[test]
    fn an_empty_secret_opens_nothing() {
        let header = sign("", at(1000), b"x");
        assert_eq!(check(&header, b"x", &[], 1000), Err(Rejection::NoSecret));
        assert_eq!(check(&header, b"x", &["", ""], 1000), Err(Rejection::NoSecret));
        assert_eq!(check(&header, b"x", &["", SECRET], 1000), Err(Rejection::Mismatch));
        assert_eq!(check(&sign(SECRET, at(1000), b"x"), b"x", &["", SECRET], 1000), Ok(1));
    }

    #[test]
    fn what_has_no_header_no_body_or_too_much_of_one_is_refused_before_anything_is_computed() {
        let presented = Presented { signature: None, body: b"x" };
        let refused = verified(&presented, &[SECRET], at(1000), TOLERANCE).map(|good| good.secret());
        assert_eq!(refused, Err(Rejection::MissingHeader));
        assert_eq!(check("", b"x", &[SECRET], 1000), Err(Rejection::MissingHeader));
        assert_eq!(check(&sign(SECRET, at(1000), b""), b"", &[SECRET], 1000), Err(Rejection::BodyEmpty));
        for (length, expected) in [(MAX_EVENT_BYTES, Ok(0)), (MAX_EVENT_BYTES + 1, Err(Rejection::BodyTooLarge))] {
            let body = vec![b'x'; length];
            assert_eq!(check(&sign(SECRET, at(1000), &body), &body, &[SECRET], 1000), expected, "{length}");
        }
    }

    proptest! {
        #[test]
        fn one_changed_byte_of_the_body_or_the_header_is_refused(
            body in prop::collection::vec(any::<u8>(), 1..200),
            at_byte in any::<prop::sample::Index>(),
            other in any::<u8>(),
        ) {
            let header = sign(SECRET, at(1_793_664_000), &body);
            prop_assert_eq!(check(&header, &body, &[SECRET], 1_793_664_000), Ok(0));
            let mut changed = body.clone();
            let place = at_byte.index(body.len());
            changed[place] = other;
            let same = changed == body;
            prop_assert_eq!(check(&header, &changed, &[SECRET], 1_793_664_000).is_ok(), same);
            let mut bytes = header.clone().into_bytes();
            let place = at_byte.index(bytes.len());
            bytes[place] = b'0' + other % 10;
            if let Ok(changed) = String::from_utf8(bytes) && changed != header {
                prop_assert!(check(&changed, &body, &[SECRET], 1_793_664_000).is_err(), "{}", changed);
            }
        }

        #[test]
        fn no_header_makes_it_panic(header in any::<String>(), body in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = check(&header, &body, &[SECRET], 1000);
        }
    }
}
