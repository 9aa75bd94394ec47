//! Data keys: how long they are remembered, and how they are replaced while the system runs.

use std::time::Duration;

use local_aws::{LocalAws, Service};
use telbuddy::credential::OpenKey;
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::config::{KEY_CACHE_ACCOUNTS, KEY_CACHE_SECONDS, KMS_KEY, KMS_KEY_BEFORE};
use telbuddy::live::{Config, Live, Need};
use telbuddy::seal::{Purpose, WrappedKeys};
use telbuddy::testing::contracts::access;
use telbuddy::testing::fresh;

use crate::support::start_aws;

/// Adapters of their own, as another environment of a function has them.
fn environment(config: &Config) -> Live {
    let needs = [Need::Tables, Need::Keys, Need::PlatformSecret, Need::Queues, Need::Mail, Need::Twilio];
    Live::new(config, &needs).unwrap()
}

/// How many data keys KMS opened.
fn opened(aws: &LocalAws) -> u64 {
    aws.answered().get(&(Service::Kms, "Decrypt".to_owned())).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opened_key_that_is_over_is_opened_again_and_the_entry_tells_its_uses() {
    let (system, _data) = start_aws().await;
    let live = environment(&system.config.with(KEY_CACHE_SECONDS, "1"));
    let over = async || tokio::time::sleep(Duration::from_millis(1010)).await;
    access::an_opening_tells_how_often_the_one_before_was_used(&live, over).await;
    assert_eq!(opened(&system.aws), 4, "as often as there are entries");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_remembered_is_bounded_and_what_would_be_over_first_is_forgotten_first() {
    let (system, _data) = start_aws().await;
    let live = environment(&system.config.with(KEY_CACHE_ACCOUNTS, "1"));
    let mut keys: Vec<WrappedKeys> = Vec::new();
    for n in 1..=6 {
        keys.push(fresh::minted(&live, AccountId::from_bits(n), Purpose::Match, 1).await.1);
    }
    let remembered = |n: usize| live.remembered_key(keys[n].account, Purpose::Match, None).is_some();
    for key in &keys[..5] {
        live.open_key(key, None).await.unwrap();
        // Each is over a little later than the one before.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!((0..5).all(remembered), "five keys for the one account");
    live.open_key(&keys[4], None).await.unwrap();
    assert!((0..5).all(remembered), "what is remembered takes no room");
    live.open_key(&keys[5], None).await.unwrap();
    assert!((1..6).all(remembered) && !remembered(0));
    assert_eq!(opened(&system.aws), 6);
    live.open_key(&keys[0], None).await.unwrap();
    assert!(remembered(0) && !remembered(1));
    assert_eq!(opened(&system.aws), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cache_each_use_is_an_opening() {
    let (system, _data) = start_aws().await;
    let live = environment(&system.config.with(KEY_CACHE_SECONDS, "0"));
    let (_, wrapped) = fresh::minted(&live, AccountId::from_bits(1), Purpose::Send, 1).await;
    for n in 1..=3 {
        live.open_key(&wrapped, None).await.unwrap();
        assert!(live.remembered_key(wrapped.account, Purpose::Send, Some(1)).is_none());
        assert_eq!(opened(&system.aws), n);
    }
}

/// A second key in KMS, and a configuration in which it is the current one and the first the one before.
async fn another_kms_key(config: &Config) -> (String, Config) {
    let kms = telbuddy::live::local::kms(config).unwrap();
    let current = config.values().find(|(name, _)| *name == KMS_KEY).unwrap().1;
    let made = kms.create_key().send().await.unwrap().key_metadata.unwrap().key_id;
    (current.to_owned(), config.with(KMS_KEY, &made).with(KMS_KEY_BEFORE, current))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_kms_key_before_opens_as_long_as_that_one_is_named() {
    let (system, _data) = start_aws().await;
    let account = AccountId::from_bits(1);
    let (_, old) = fresh::minted(&environment(&system.config), account, Purpose::Send, 1).await;
    let (_, config) = another_kms_key(&system.config).await;
    let live = environment(&config);
    live.open_key(&old, None).await.unwrap();
    assert_eq!(opened(&system.aws), 1, "a refusal is no opening");
    let (_, new) = fresh::minted(&live, account, Purpose::Hook, 1).await;
    live.open_key(&new, None).await.unwrap();
    let swapped = WrappedKeys { purpose: Purpose::Hook, ..old.clone() };
    assert!(environment(&config).open_key(&swapped, None).await.is_err(), "the context counts with both keys");

    let only_new = environment(&config.with(KMS_KEY_BEFORE, ""));
    only_new.open_key(&new, None).await.unwrap();
    let refused = only_new.open_key(&old, None).await.err();
    assert_eq!(refused, Some(Fault::permanent("KMS decrypt: IncorrectKeyException")));
    assert_eq!(opened(&system.aws), 3);
}
