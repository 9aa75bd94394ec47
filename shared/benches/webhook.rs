//! Believing a webhook, beside a bare HMAC-SHA1 of the same bytes; and how many forged ones are refused in a second.
//!
//! `cargo bench -p telbuddy --bench webhook`: ratio and rate first, then criterion's times. No call to AWS is in it: those
//! are counted by the tests of `twilio-webhook` (1 read and 1 queue message for what is believed, 1 read and 1 update for
//! what is not).
//!
//! With `-- --only <case> <times>` one case runs so often and nothing else does: `.ci/instructions.sh` counts its
//! instructions under callgrind.

#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac as aws_lc;
use criterion::Criterion;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;
use telbuddy::inbound::signature::{Presented, SigningKeys, sign, verified, verified_at_either};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";
const URL: &str = "https://api.example.com/hooks/twilio/agnlmd5cqg4tjhqluxy5mnqzvbebnd5jts36afhhpw7uv547ywza/messages";
const SECOND: &str =
    "https://two.example.com/hooks/twilio/agnlmd5cqg4tjhqluxy5mnqzvbebnd5jts36afhhpw7uv547ywza/messages";

fn main() {
    let params = params();
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
    let signature = sign(TOKEN, URL, &params);
    let forged = sign(OTHER, URL, &params);
    let presented = |signature| Presented {
        signature: Some(signature),
        shared_key_settings: None,
        url: URL,
        content_type: Some("application/x-www-form-urlencoded"),
        body: form.as_bytes(),
    };
    let keys = SigningKeys { auth_tokens: &[TOKEN], shared_key: None };
    let believed = || black_box(verified(black_box(&presented(&signature)), &keys)).is_ok();
    let refused = || black_box(verified(black_box(&presented(&forged)), &keys)).is_err();

    // The text that is signed, put together before: nothing but the hash is timed.
    let mut sorted = params.clone();
    sorted.sort();
    let signed: String = std::iter::once(URL.to_owned()).chain(sorted.into_iter().map(|(n, v)| n + &v)).collect();
    let key = aws_lc::Key::new(aws_lc::HMAC_SHA1_FOR_LEGACY_USE_ONLY, TOKEN.as_bytes());
    let bare = || black_box(aws_lc::sign(&key, black_box(signed.as_bytes()))).as_ref().len() == 20;
    // The crates that our check is made of.
    let ready = Hmac::<Sha1>::new_from_slice(TOKEN.as_bytes()).ok();
    let bare_of_ours = || {
        let mac = ready.clone().map(|mac| mac.chain_update(black_box(signed.as_bytes())).finalize().into_bytes());
        black_box(mac).is_some_and(|tag| tag.len() == 20)
    };
    let refused_twice = || black_box(verified_at_either(black_box(&presented(&forged)), Some(SECOND), &keys)).is_err();

    let mut arguments = std::env::args().skip_while(|argument| argument != "--only").skip(1);
    if let Some(case) = arguments.next() {
        let times: u32 = arguments.next().and_then(|times| times.parse().ok()).unwrap_or(1);
        let work: &dyn Fn() -> bool = match &*case {
            "believed" => &believed,
            "refused" => &refused,
            "refused-at-two-hosts" => &refused_twice,
            "bare" => &bare,
            _ => &bare_of_ours,
        };
        assert!((0..times).all(|_| work()), "what fails is not to be counted");
        return;
    }

    println!("{} parameters, {} bytes signed", params.len(), signed.len());
    println!("believed / bare HMAC-SHA1 of the same bytes: {:.1}", ratio(believed, bare));
    println!("refused / believed:                          {:.2}", ratio(refused, believed));
    println!("forged ones refused in a second, one core:   {:.0}", rate(refused));

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("a text's webhook");
    group.bench_function("believed", |bench| bench.iter(believed));
    group.bench_function("refused", |bench| bench.iter(refused));
    group.bench_function("bare HMAC-SHA1", |bench| bench.iter(bare));
    group.finish();
    criterion.final_summary();
}

/// As Twilio sends them with a text.
fn params() -> Vec<(String, String)> {
    [
        ("ToCountry", "US"),
        ("ToState", "CA"),
        ("SmsMessageSid", "SM00000000000000000000000000000002"),
        ("NumMedia", "0"),
        ("ToCity", ""),
        ("FromZip", "94105"),
        ("SmsSid", "SM00000000000000000000000000000002"),
        ("FromState", "CA"),
        ("SmsStatus", "received"),
        ("FromCity", "SAN FRANCISCO"),
        ("Body", "Is the table by the window still free tonight at eight? We are four. 👍"),
        ("FromCountry", "US"),
        ("To", "+15005550006"),
        ("ToZip", ""),
        ("NumSegments", "2"),
        ("MessageSid", "SM00000000000000000000000000000002"),
        ("AccountSid", "AC0123456789abcdef0123456789abcdef"),
        ("From", "+15005550010"),
        ("ApiVersion", "2010-04-01"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
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

/// How often in a second: the best of some rounds.
fn rate(work: impl Fn() -> bool) -> f64 {
    const TIMES: u16 = 20_000;
    let round = || {
        let started = Instant::now();
        for _ in 0..TIMES {
            assert!(work(), "what fails is not to be timed");
        }
        f64::from(TIMES) / started.elapsed().as_secs_f64()
    };
    (0..5).map(|_| round()).fold(0.0, f64::max)
}
