//! The seeds of the corpus: real envelopes, and near misses that each get a step further into the parser.

use super::envelope::{FIELD, key};

/// File name and bytes. Everything is fixed, nonces too, so that the files can be made again to the byte.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let sealed = |clear: &[u8]| key().seal(FIELD, clear, [3; 12]).map(|sealed| sealed.0).unwrap_or_default();
    let real = sealed(b"Your code is 482913.");
    let changed = |at: usize, byte: u8| {
        let mut envelope = real.clone();
        envelope.iter_mut().skip(at).take(1).for_each(|place| *place = byte);
        envelope
    };
    let cut = |length: usize| real.iter().take(length).copied().collect::<Vec<u8>>();
    let tail = real.len() - 1;
    [
        ("real-empty", sealed(b"")),
        ("real-one-byte", sealed(&[0])),
        ("real-text", real.clone()),
        ("real-300-bytes", sealed(&[0x61; 300])),
        ("real-unicode", sealed("Grüße 🎉".as_bytes())),
        ("nothing", Vec::new()),
        ("format-only", cut(2)),
        ("no-version", cut(5)),
        ("version-only", cut(6)),
        ("header-one-short", cut(49)),
        ("header-only", cut(50)),
        ("tag-one-short", sealed(b"").iter().take(65).copied().collect()),
        ("other-format", changed(0, 2)),
        ("other-algorithm", changed(1, 2)),
        ("other-version", changed(5, 2)),
        ("highest-version", changed(2, 0xff)),
        ("other-nonce", changed(6, 4)),
        ("other-commitment", changed(18, real.get(18).map_or(0, |byte| byte ^ 1))),
        ("other-content", changed(50, real.get(50).map_or(0, |byte| byte ^ 1))),
        ("other-tag", changed(tail, real.get(tail).map_or(0, |byte| byte ^ 1))),
        ("twice", [real.clone(), real.clone()].concat()),
        ("base64-text", b"AQEAAAABAwMDAwMDAwMDAwMD".to_vec()),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
