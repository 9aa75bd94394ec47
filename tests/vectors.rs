//! Twilio's vectors: every row of every file in `vectors/twilio/`, whatever rows they hold. Stripe's signatures.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use telbuddy::billing::signature as of_stripe;
use telbuddy::inbound::signature::{self, KeyUsed, Presented, Rejection, SigningKeys};
use telbuddy::message::segments;
use telbuddy::number::{self, Channel};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/twilio");
const FORM: &str = "application/x-www-form-urlencoded";

/// Every object in any list of any file, so that a new file or a new list is found without a change here.
fn rows() -> Vec<Value> {
    let mut rows = vec![];
    for entry in fs::read_dir(FOLDER).expect("the folder of vectors is there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("a vector file can be read");
            collect(serde_json::from_str(&text).expect("a vector file is JSON"), &mut rows);
        }
    }
    rows
}

fn collect(value: Value, rows: &mut Vec<Value>) {
    match value {
        Value::Array(list) if list.iter().all(Value::is_object) => rows.extend(list),
        Value::Array(list) => list.into_iter().for_each(|value| collect(value, rows)),
        Value::Object(object) => object.into_iter().for_each(|(_, value)| collect(value, rows)),
        _ => {}
    }
}

fn has(row: &Value, names: &[&str]) -> bool {
    names.iter().all(|name| row.get(name).is_some())
}

fn text<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    row.get(name).and_then(Value::as_str)
}

fn pairs(row: &Value) -> Vec<(String, String)> {
    let list = row.get("params").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().map(|pair| serde_json::from_value(pair.clone()).expect("a parameter is a pair of strings")).collect()
}

fn encoded(pairs: &[(String, String)]) -> Vec<u8> {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
}

fn is_segment_row(row: &Value) -> bool {
    has(row, &["body", "encoding", "segments", "units"])
}

fn is_signature_row(row: &Value) -> bool {
    has(row, &["url", "auth_token", "signature", "valid"])
}

fn is_shared_key_row(row: &Value) -> bool {
    has(row, &["url", "secret", "signature", "valid"])
}

#[track_caller]
fn assert_all_pass(n_rows: usize, failures: &[String]) {
    assert!(n_rows > 0, "no rows found in {FOLDER}");
    assert!(failures.is_empty(), "{} of {n_rows} rows fail:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn vectors_twilio_segments_are_counted_as_twilios_calculator_does() {
    let rows: Vec<_> = rows().into_iter().filter(is_segment_row).collect();
    let mut failures = vec![];
    for row in &rows {
        let body = if row.get("smart_encoding").and_then(Value::as_bool).unwrap_or_default() {
            text(row, "body_after_smart_encoding").or(text(row, "body"))
        } else {
            text(row, "body")
        };
        let got = segments::count(body.expect("a body is a string"));
        let same = text(row, "encoding") == Some(got.encoding.as_str())
            && row["segments"].as_u64() == Some(got.segments.into())
            && row["units"].as_u64() == Some(got.units.into());
        if !same {
            failures.push(format!("{} {}: {got:?}", row["id"], row["note"]));
        }
    }
    assert_all_pass(rows.len(), &failures);
}

#[test]
fn vectors_twilio_signatures_follow_the_rule_over_decoded_parameters() {
    // Rows on which the official libraries differ are held to `meta.reference_rule` too: `valid` is what it gives.
    let rows: Vec<_> = rows().into_iter().filter(is_signature_row).collect();
    let mut failures = vec![];
    let forms = || rows.iter().filter(|row| row.get("raw_body").is_none_or(Value::is_null));
    for row in forms() {
        let (token, url) = (text(row, "auth_token").unwrap_or_default(), text(row, "url").unwrap_or_default());
        let good = text(row, "signature").is_some_and(|s| signature::is_signed_by(token, url, &pairs(row), s));
        if Some(good) != row["valid"].as_bool() {
            failures.push(format!("{} ({}) {}: {good}", row["id"], row["class"], row["note"]));
        }
    }
    assert_all_pass(forms().count(), &failures);
}

#[test]
fn vectors_twilio_signatures_open_a_request_exactly_when_they_should() {
    let rows: Vec<_> = rows().into_iter().filter(is_signature_row).collect();
    let mut failures = vec![];
    for row in &rows {
        let params = pairs(row);
        let raw_body = text(row, "raw_body");
        let body = raw_body.map_or_else(|| encoded(&params), |raw| raw.as_bytes().to_vec());
        let fallback = if raw_body.is_some() { "application/json" } else { FORM };
        let presented = Presented {
            signature: text(row, "signature"),
            shared_key_settings: None,
            url: text(row, "url").unwrap_or_default(),
            content_type: text(row, "content_type").or_else(|| (!body.is_empty()).then_some(fallback)),
            body: &body,
        };
        let token = text(row, "auth_token").unwrap_or_default();
        let keys = SigningKeys { auth_tokens: &["of-another-account", token], shared_key: None };
        let result = signature::verified(&presented, &keys);
        // An empty token computes, but anyone can compute it: the door refuses it, whatever the row says.
        let expected = row["valid"].as_bool() == Some(true) && !token.is_empty();
        let same = match &result {
            Ok(verified) if raw_body.is_some() => verified.get().json() == Some(&body[..]),
            Ok(verified) => verified.get().pairs() == params && verified.which() == KeyUsed::Previous,
            Err(_) => true,
        };
        if !same || result.is_ok() != expected {
            failures.push(format!("{} ({}) {}: {result:?}", row["id"], row["class"], row["note"]));
        }
    }
    assert_all_pass(rows.len(), &failures);
}

#[test]
fn vectors_twilio_valid_rows_are_what_we_sign_ourselves() {
    let rows: Vec<_> = rows().into_iter().filter(is_signature_row).filter(|row| row["valid"] == true).collect();
    let mut failures = vec![];
    for row in &rows {
        let url = text(row, "signed_url").or(text(row, "url")).unwrap_or_default();
        let ours = signature::sign(text(row, "auth_token").unwrap_or_default(), url, &pairs(row));
        if Some(ours.as_str()) != text(row, "signature") {
            failures.push(format!("{} {}: {ours}", row["id"], row["note"]));
        }
    }
    assert_all_pass(rows.len(), &failures);
}

#[test]
fn vectors_twilio_shared_keys_open_a_request_exactly_when_they_should() {
    let rows: Vec<_> = rows().into_iter().filter(is_shared_key_row).collect();
    let mut failures = vec![];
    for row in &rows {
        let body = encoded(&pairs(row));
        let secret = text(row, "secret").unwrap_or_default();
        let settings = text(row, "settings_header");
        let key_id = settings
            .and_then(|settings| settings.split(',').find_map(|part| part.trim().strip_prefix("key=")))
            .map_or("none", str::trim);
        let presented = Presented {
            signature: text(row, "signature"),
            shared_key_settings: settings,
            url: text(row, "url").unwrap_or_default(),
            content_type: Some(FORM),
            body: &body,
        };
        // Without a settings header the row means the secret as a classic Auth Token.
        let keys = SigningKeys { auth_tokens: &[secret], shared_key: Some((key_id, secret)) };
        let result = signature::verified(&presented, &keys);
        let which = if settings.is_some_and(|s| !s.trim().is_empty()) { KeyUsed::SharedKey } else { KeyUsed::Current };
        let expected = row["valid"].as_bool() == Some(true);
        let same = result.as_ref().map_or(true, |verified| verified.which() == which);
        if !same || result.is_ok() != expected {
            failures.push(format!("{} {}: {result:?}", row["id"], row["note"]));
        }
        if let Err(rejection) = result
            && !matches!(rejection, Rejection::Mismatch | Rejection::UnknownAlgorithm)
        {
            failures.push(format!("{}: refused for another reason, {rejection}", row["id"]));
        }
    }
    assert_all_pass(rows.len(), &failures);
}

#[test]
fn vectors_twilio_addresses_in_signed_forms_are_numbers_we_accept() {
    let mut failures = vec![];
    let mut n_addresses = 0;
    for row in rows().iter().filter(|row| is_signature_row(row)) {
        for (name, value) in pairs(row).iter().filter(|(name, _)| matches!(name.as_str(), "From" | "To")) {
            let is_number =
                value.len() > 10 && value.strip_prefix('+').is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
            if is_number {
                n_addresses += 1;
                let read = number::parse_address(value);
                if !read.is_some_and(|(channel, number)| channel == Channel::Sms && number.as_str() == value) {
                    failures.push(format!("{} {name}", row["id"]));
                }
            }
        }
    }
    assert_all_pass(n_addresses, &failures);
}

#[test]
fn vectors_stripe_signatures_open_an_event_exactly_when_they_should() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/stripe/signature-vectors.json");
    let file: Value = serde_json::from_str(&fs::read_to_string(path).expect("the vectors are there")).expect("JSON");
    let rows = file["vectors"].as_array().expect("a list of vectors");
    let (mut failures, mut n_decided) = (vec![], 0);
    for row in rows {
        let body = data_encoding::HEXLOWER.decode(text(row, "body_hex").unwrap_or_default().as_bytes()).expect("hex");
        let presented = of_stripe::Presented { signature: text(row, "header"), body: &body };
        let now = Timestamp::from_second(row["now"].as_i64().expect("a time")).expect("a time");
        let tolerance = SignedDuration::from_secs(row["tolerance"].as_i64().expect("seconds"));
        let secret = text(row, "secret").unwrap_or_default();
        // The secret is the second of two, as it is while one rolls; ours is never the one that anybody has.
        let result = of_stripe::verified(&presented, &["whsec_of_another", secret], now, tolerance);
        // Where either verdict is right, there is none to hold to.
        let Some(expected) = row["expected"]["recommended"].as_bool() else { continue };
        n_decided += 1;
        if result.is_ok() != expected || result.is_ok_and(|good| good.body() != body || good.secret() != 1) {
            failures.push(format!("{} {}: {result:?}", row["name"], row["note"]));
        }
    }
    assert!(n_decided >= 70, "only {n_decided} of {} vectors are decided", rows.len());
    assert_all_pass(n_decided, &failures);
}

#[test]
fn vectors_stripe_plain_signatures_are_what_we_sign_ourselves() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/stripe/signature-vectors.json");
    let file: Value = serde_json::from_str(&fs::read_to_string(path).expect("the vectors are there")).expect("JSON");
    let (mut failures, mut n_rows) = (vec![], 0);
    let rows = file["vectors"].as_array().expect("a list of vectors").iter();
    for row in rows.filter(|row| row["name"].as_str().is_some_and(|name| name.starts_with("valid_"))) {
        let header = text(row, "header").unwrap_or_default();
        let Some(secs) = header.strip_prefix("t=").and_then(|rest| rest.split(',').next()?.parse().ok()) else {
            continue;
        };
        let body = data_encoding::HEXLOWER.decode(text(row, "body_hex").unwrap_or_default().as_bytes()).expect("hex");
        let at = Timestamp::from_second(secs).expect("a time");
        let ours = of_stripe::sign(text(row, "secret").unwrap_or_default(), at, &body);
        n_rows += 1;
        if !header.starts_with(&ours) {
            failures.push(format!("{}: {ours}", row["name"]));
        }
    }
    assert_all_pass(n_rows, &failures);
}
