//! The fuzz target inside `cargo test`: over the corpus, and over mutations of its envelopes.
#![cfg(test)]

mod envelope;
mod seeds;

use std::collections::BTreeMap;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use envelope::fuzz_envelope;

fn corpus() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/envelope");
    let read = |file: std::io::Result<std::fs::DirEntry>| {
        let file = file.unwrap();
        (file.file_name().into_string().unwrap(), std::fs::read(file.path()).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(read).collect()
}

#[test]
fn every_file_of_the_corpus_holds() {
    let corpus = corpus();
    for data in corpus.values() {
        fuzz_envelope(data);
    }
    let opens = |data: &Vec<u8>| envelope::key().open(envelope::FIELD, &telbuddy::seal::Sealed(data.clone())).is_ok();
    let opened: Vec<_> = corpus.iter().filter(|(_, data)| opens(data)).map(|(name, _)| name).collect();
    assert!(opened.len() >= 5 && corpus.len() >= opened.len() + 15, "real envelopes and near misses: {opened:?}");
}

#[test]
fn the_seeds_in_the_corpus_are_those_of_seeds_rs() {
    let corpus = corpus();
    for (name, bytes) in seeds::seeds() {
        assert_eq!(corpus.get(&name), Some(&bytes), "{name}: cargo run --bin seeds in shared/fuzz");
        let real = envelope::key().open(envelope::FIELD, &telbuddy::seal::Sealed(bytes)).is_ok();
        assert_eq!(real, name.starts_with("real-"), "{name}");
    }
}

/// One change to an envelope.
#[derive(Debug, Clone)]
enum Change {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index),
    Swap(Index, Index),
    Append(Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Change::Swap(a, b)),
        vec(any::<u8>(), 1..40).prop_map(Change::Append),
    ]
}

fn apply(data: &mut Vec<u8>, change: Change) {
    let n = data.len();
    match change {
        Change::Append(bytes) => data.extend(bytes),
        _ if n == 0 => {}
        Change::Set(at, byte) => data[at.index(n)] = byte,
        Change::Flip(at, bit) => data[at.index(n)] ^= 1 << bit,
        Change::Cut(at) => data.truncate(at.index(n)),
        Change::Insert(at, bytes) => drop(data.splice(at.index(n)..at.index(n), bytes).collect::<Vec<_>>()),
        Change::Remove(at) => drop(data.remove(at.index(n))),
        Change::Swap(a, b) => data.swap(a.index(n), b.index(n)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_mutation_of_the_corpus_panics_or_opens_as_what_was_not_sealed(
        start in select(corpus().into_values().collect::<Vec<_>>()),
        changes in vec(change(), 0..6),
    ) {
        let mut data = start;
        for change in changes {
            apply(&mut data, change);
        }
        fuzz_envelope(&data);
    }

    #[test]
    fn no_bytes_at_all_panic(data in vec(any::<u8>(), 0..600)) {
        fuzz_envelope(&data);
    }
}
