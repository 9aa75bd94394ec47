//! Sealing and opening 300 bytes, beside bare AES-256-GCM of the same library and the derivation of keys.
//!
//! `cargo bench -p telbuddy --bench seal`: ratios first, each taken in turns within this run, then criterion's times.

#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use criterion::Criterion;
use telbuddy::ids::AccountId;
use telbuddy::seal::{DataKey, Purpose};

const KEY: [u8; 32] = [7; 32];
const NONCE: [u8; 12] = [3; 12];
const CLEAR: [u8; 300] = [0x61; 300];
/// About as much additional data as an envelope has.
const AAD: [u8; 102] = [1; 102];

fn main() {
    let key = data_key();
    let sealed = key.seal("message", &CLEAR, NONCE).ok();
    let cipher = bare_key();
    let bare_sealed = cipher.as_ref().map(bare_seal);
    let (Some(sealed), Some(cipher), Some(bare_sealed)) = (sealed, cipher, bare_sealed) else {
        println!("sealing does not work here");
        return;
    };

    // A key seals 2^16 envelopes at most, far fewer than a bench.
    let (sealing, n_sealed) = (RefCell::new(data_key()), Cell::new(0_u32));
    let seal = || {
        if n_sealed.replace(n_sealed.get() + 1) == 50_000 {
            sealing.replace(data_key());
            n_sealed.set(1);
        }
        black_box(sealing.borrow().seal("message", black_box(&CLEAR), NONCE)).is_ok()
    };
    let open = || black_box(key.open("message", black_box(&sealed))).is_ok();
    let aes_seal = || black_box(bare_seal(&cipher)).len() > CLEAR.len();
    let aes_open = || black_box(bare_open(&cipher, &bare_sealed));
    let schedule = || black_box(bare_key()).is_some();
    let derivation = || black_box(derive());

    println!("seal / bare AES-256-GCM with its key at hand: {:.1}", ratio(seal, aes_seal));
    println!("open / bare AES-256-GCM with its key at hand: {:.1}", ratio(open, aes_open));
    println!("seal / two derivations of a key:               {:.2}", ratio(seal, || derivation() && derivation()));
    println!("one derivation / bare AES-256-GCM:             {:.1}", ratio(derivation, aes_seal));

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("300 bytes");
    group.bench_function("seal", |bench| bench.iter(seal));
    group.bench_function("seal, bare AES-256-GCM", |bench| bench.iter(aes_seal));
    group.bench_function("open", |bench| bench.iter(open));
    group.bench_function("open, bare AES-256-GCM", |bench| bench.iter(aes_open));
    group.bench_function("one derivation, HKDF-SHA256", |bench| bench.iter(derivation));
    group.bench_function("key schedule of AES-256-GCM", |bench| bench.iter(schedule));
    group.finish();
    criterion.final_summary();
}

fn data_key() -> DataKey {
    DataKey::new(AccountId::from_bits(1), Purpose::Payload, 1, KEY.into())
}

fn bare_key() -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, black_box(&KEY)).ok().map(LessSafeKey::new)
}

fn bare_seal(cipher: &LessSafeKey) -> Vec<u8> {
    let mut content = black_box(&CLEAR).to_vec();
    let nonce = Nonce::assume_unique_for_key(NONCE);
    if cipher.seal_in_place_append_tag(nonce, Aad::from(AAD), &mut content).is_err() {
        content.clear();
    }
    content
}

fn bare_open(cipher: &LessSafeKey, sealed: &[u8]) -> bool {
    let mut content = black_box(sealed).to_vec();
    cipher.open_in_place(Nonce::assume_unique_for_key(NONCE), Aad::from(AAD), &mut content).is_ok()
}

/// As an envelope does it twice: for the cipher's key and for the commitment.
fn derive() -> bool {
    let mut out = [0; 32];
    let pseudorandom = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(black_box(&KEY));
    pseudorandom.expand(&[b"telbuddy seal v1"], hkdf::HKDF_SHA256).is_ok_and(|okm| okm.fill(&mut out).is_ok())
}

/// How many times as long the one takes as the other: the median of rounds in turns, so that a slow moment of the
/// machine strikes both.
fn ratio(one: impl Fn() -> bool, other: impl Fn() -> bool) -> f64 {
    let round = |work: &dyn Fn() -> bool| -> Duration {
        let started = Instant::now();
        for _ in 0..2_000 {
            assert!(work(), "what fails is not to be timed");
        }
        started.elapsed()
    };
    let mut ratios: Vec<f64> = (0..31).map(|_| round(&one).as_secs_f64() / round(&other).as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(15).copied().unwrap_or(f64::NAN)
}
