//! What must hold for any bytes that are read as an envelope. The fuzzer calls it, and so does
//! `cargo test -p telbuddy`.

use telbuddy::ids::AccountId;
use telbuddy::seal::{DataKey, Purpose, SealError, Sealed};

/// The field that everything here is sealed for.
pub const FIELD: &str = "message";
/// Bytes in front of the ciphertext, and of the tag behind it.
const HEADER: usize = 50;
const TAG: usize = 16;

/// The key that envelopes of the corpus are sealed with. It guards nothing.
pub fn key() -> DataKey {
    key_of(1, Purpose::Payload, 1, 7)
}

fn key_of(account: u128, purpose: Purpose, version: u32, byte: u8) -> DataKey {
    DataKey::new(AccountId::from_bits(account), purpose, version, [byte; 32].into())
}

/// Reads `data` as an envelope, as one behind a right header, and as content: what opens is exactly what was sealed,
/// what does not open is an error value.
pub fn fuzz_envelope(data: &[u8]) {
    let opens = reads(data);
    // A fuzzer does not guess 32 bytes of commitment: with the header of a real envelope the rest is tried too.
    let real = key().seal(FIELD, b"", [0; 12]).map(|sealed| sealed.0).unwrap_or_default();
    let mut behind: Vec<u8> = real.iter().take(HEADER).copied().collect();
    assert_eq!(behind.len(), HEADER, "sealing works");
    behind.extend(data.get(HEADER..).unwrap_or(data));
    // A nonce of the data's own, where it has one.
    if let (Some(into), Some(nonce)) = (behind.get_mut(6..18), data.get(6..18)) {
        into.copy_from_slice(nonce);
    }
    assert!(!opens || reads(&behind), "an envelope that opens has this header itself");
    seals(data);
}

/// Opens `data`, compares with what the documented layout says, and tells whether it opened.
fn reads(data: &[u8]) -> bool {
    let sealed = Sealed(data.to_vec());
    let version = data.get(2..6).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    assert_eq!(sealed.key_version().ok(), version);
    assert!(version.is_some() || sealed.key_version() == Err(SealError::Malformed));

    let clear = key().open(FIELD, &sealed);
    let malformed = data.len() < HEADER || data.get(..2) != Some(&[1, 1]);
    match &clear {
        Ok(clear) => {
            assert_eq!(clear.len() + HEADER + TAG, data.len());
            let nonce: [u8; 12] = data.get(6..18).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            // Sealing is a function of key, field, content and nonce, so only what it made can open.
            assert_eq!(key().seal(FIELD, clear, nonce).as_ref(), Ok(&sealed), "opens, but was not sealed like this");
            for (name, other, field) in others() {
                assert!(other.open(field, &sealed).is_err(), "opens for another {name} too");
            }
        }
        Err(SealError::Malformed) => assert!(malformed),
        Err(SealError::OtherVersion) => assert!(!malformed && version != Some(key().version())),
        Err(SealError::DoesNotOpen) => assert!(!malformed && version == Some(key().version())),
        Err(SealError::Failed | SealError::UsedUp) => {
            assert_eq!(clear.as_ref().err(), None, "opening needs nothing that can fail");
        }
    }
    clear.is_ok()
}

/// Keys and fields of which each differs in one point from those of the corpus.
fn others() -> [(&'static str, DataKey, &'static str); 5] {
    [
        ("account", key_of(2, Purpose::Payload, 1, 7), FIELD),
        ("purpose", key_of(1, Purpose::Profile, 1, 7), FIELD),
        ("version", key_of(1, Purpose::Payload, 2, 7), FIELD),
        ("key", key_of(1, Purpose::Payload, 1, 8), FIELD),
        ("field", key(), "messag"),
    ]
}

/// Seals `data` itself: it opens again, and not after one changed, one lost or one added byte.
fn seals(data: &[u8]) {
    let nonce = std::array::from_fn(|n| data.get(n).copied().unwrap_or(0));
    let sealed = key().seal(FIELD, data, nonce).unwrap_or(Sealed(Vec::new()));
    assert_eq!(key().open(FIELD, &sealed).as_deref().map(Vec::as_slice), Ok(data), "what was sealed opens");
    // The place and the change come from the data, so that the fuzzer chooses them.
    let number = data.iter().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
    let mut changed = sealed.clone();
    let place = number % changed.0.len().max(1);
    changed.0.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 1 << (number % 8));
    let (mut shorter, mut longer) = (sealed.clone(), sealed);
    shorter.0.pop();
    longer.0.push(0);
    for (name, envelope) in [("changed", changed), ("lost", shorter), ("added", longer)] {
        assert!(!reads(&envelope.0), "opens with a byte {name}");
    }
}
