//! Envelopes that an independent implementation made: every row of every file in `vectors/seal/`.

use data_encoding::HEXLOWER;
use serde_json::Value;
use telbuddy::seal::{DataKey, Purpose, Sealed};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/seal");

fn bytes(row: &Value, name: &str) -> Vec<u8> {
    HEXLOWER.decode(row[name].as_str().unwrap().as_bytes()).unwrap()
}

#[test]
fn vectors_seal_open_exactly_when_they_should_and_are_what_we_seal_ourselves() {
    let mut opened = 0;
    let mut refused = 0;
    for file in std::fs::read_dir(FOLDER).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let file: Value = serde_json::from_str(&text).unwrap();
        for row in file["vectors"].as_array().unwrap() {
            let text = |name: &str| row[name].as_str().unwrap();
            let purpose = Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == text("purpose")).unwrap();
            let version = u32::try_from(row["version"].as_u64().unwrap()).unwrap();
            let key: [u8; 32] = bytes(row, "key").try_into().unwrap();
            let key = DataKey::new(text("account").parse().unwrap(), purpose, version, key.into());
            let sealed = Sealed(bytes(row, "envelope"));
            let clear = key.open(text("field"), &sealed);
            if row["opens"] == true {
                assert_eq!(clear.unwrap().as_slice(), bytes(row, "clear"), "{}", row["id"]);
                let nonce = bytes(row, "nonce").try_into().unwrap();
                assert_eq!(key.seal(text("field"), &bytes(row, "clear"), nonce).unwrap(), sealed, "{}", row["id"]);
                opened += 1;
            } else {
                assert!(clear.is_err(), "{}", row["id"]);
                refused += 1;
            }
        }
    }
    assert!(opened >= 5 && refused >= 40, "{opened} opened, {refused} refused");
}
