//! Data keys: how long they are remembered, and how they are replaced while the system runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use local_aws::{LocalAws, Service};
use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::credential::{FindHook, KeepCredential, LoadKeys, OpenKey, Saved};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::config::{KEY_CACHE_ACCOUNTS, KEY_CACHE_SECONDS, KMS_KEY, KMS_KEY_BEFORE, TABLE_PREFIX};
use telbuddy::live::{Config, Live, Need};
use telbuddy::platform::{Clock, EnqueueJob, Handled, Job};
use telbuddy::rotation::{KeyTask, WalkKeys};
use telbuddy::seal::{Purpose, WrappedKeys};
use telbuddy::testing::contracts::access;
use telbuddy::testing::fresh;
use telbuddy::testing::sealed::{self, Held};

use crate::support::{Client, start, start_aws, start_aws_in, start_with};

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

fn value<'a>(config: &'a Config, name: &str) -> &'a str {
    config.values().find(|(of, _)| *of == name).unwrap().1
}

/// A second key in KMS.
async fn another_kms_key(config: &Config) -> String {
    let kms = telbuddy::live::local::kms(config).unwrap();
    kms.create_key().send().await.unwrap().key_metadata.unwrap().key_id
}

/// The configuration in which it is the current key and the first one the one before.
fn moving(config: &Config, to: &str) -> Config {
    config.with(KMS_KEY, to).with(KMS_KEY_BEFORE, value(config, KMS_KEY))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_kms_key_before_opens_as_long_as_that_one_is_named() {
    let (system, _data) = start_aws().await;
    let account = AccountId::from_bits(1);
    let (_, old) = fresh::minted(&environment(&system.config), account, Purpose::Send, 1).await;
    let config = moving(&system.config, &another_kms_key(&system.config).await);
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

/// Entries of the access log, linked and pending, of all accounts.
fn entries(aws: &LocalAws, config: &Config) -> u64 {
    let mut ask = json!({
        "TableName": format!("{}access-log", value(config, TABLE_PREFIX)), "ConsistentRead": true,
        "FilterExpression": "begins_with(pk, :pending) OR begins_with(sk, :entry)",
        "ExpressionAttributeValues": { ":pending": { "S": "PENDING#" }, ":entry": { "S": "ENTRY#" } },
    });
    let mut count = 0;
    loop {
        let page = aws.database().scan(serde_json::from_value(ask.clone()).unwrap()).unwrap();
        let page = serde_json::to_value(page).unwrap();
        count += page["Count"].as_u64().unwrap();
        match page.get("LastEvaluatedKey") {
            Some(last) if !last.is_null() => ask["ExclusiveStartKey"] = last.clone(),
            _ => return count,
        }
    }
}

/// All rows of wrapped keys.
async fn all_keys(live: &Live) -> Vec<WrappedKeys> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = live.walk_keys(after, 250).await.unwrap();
        keys.extend(page.keys);
        after = page.next;
        if after.is_none() {
            return keys;
        }
    }
}

/// Does something with each, eight at a time.
async fn each<T, R>(all: impl IntoIterator<Item = T>, one: impl AsyncFn(T) -> R) -> Vec<R> {
    let one = &one;
    futures::stream::iter(all).map(|item| one(item)).buffer_unordered(8).collect().await
}

/// What the double's blobs begin with: a version, then the id of the KMS key.
fn is_under(wrapped: &WrappedKeys, kms_key: &str) -> bool {
    let id = u128::from_str_radix(&kms_key.replace('-', ""), 16).unwrap().to_be_bytes();
    wrapped.versions.iter().all(|key| key.blob[1..17] == id)
}

/// Sends messages one after the other until it is told to stop or the credit is nearly gone; gives their ids.
async fn keeps_sending(client: Client, text: Value, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut ids = Vec::new();
    while !stop.load(Ordering::Relaxed) && ids.len() < 80 {
        ids.push(client.accepted(&format!("during-{}", ids.len()), text.clone()).await);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_accounts_move_to_another_kms_key_while_a_customer_sends() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let text = carrier.text("+14155552671", "hi");
    client.until(&client.accepted("before", text.clone()).await, "delivered").await;
    let live = environment(&running.config);
    let all: Vec<Held> = each(0..1000, async |_| sealed::someone(&live).await).await;
    let new_key = another_kms_key(&running.config).await;
    let aws = running.aws.clone();
    let data = running.stop().await;
    let mut n_opened = opened(&aws);
    drop(aws);

    // Deployed with the new key, and the old one as the one before.
    let running = start_with(data, |config| moving(&config, &new_key)).await;
    let live = environment(&running.config);
    assert!(all_keys(&live).await.iter().all(|keys| !is_under(keys, &new_key)));
    let client = Client { base: running.url.clone(), ..client };
    let stop = Arc::new(AtomicBool::new(false));
    let sending = tokio::spawn(keeps_sending(client.clone(), text.clone(), Arc::clone(&stop)));
    live.enqueue(Job::RotateKeys { task: KeyTask::Rewrap, after: None }, 0).await.unwrap();
    let started = Instant::now();
    loop {
        let keys = all_keys(&live).await;
        if keys.iter().all(|keys| is_under(keys, &new_key)) {
            assert_eq!(keys.len(), 5 * 1001);
            break;
        }
        assert!(started.elapsed() < Duration::from_mins(5), "the re-wrap does not end");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let ids = sending.await.unwrap();
    assert!(ids.len() > 3, "{} messages were sent meanwhile", ids.len());
    for id in &ids {
        client.until(id, "delivered").await;
    }
    assert_eq!(running.journal(&carrier).await.len(), 1 + ids.len(), "none is lost and none is doubled");

    // The old key opens nothing any more, and nothing needs it.
    let kms = telbuddy::live::local::kms(&running.config).unwrap();
    kms.disable_key().key_id(value(&running.config, KMS_KEY_BEFORE)).send().await.unwrap();
    let live = environment(&running.config);
    let keys = all_keys(&live).await;
    let unwrapped = each(&keys, async |keys| {
        for key in &keys.versions {
            let blob = aws_sdk_kms::primitives::Blob::new(key.blob.clone());
            let call = kms.decrypt().ciphertext_blob(blob).encryption_context("account", keys.account.to_string());
            call.encryption_context("purpose", keys.purpose.as_str()).send().await.unwrap();
        }
    });
    // Ours beside the system's: without an entry.
    let n_unlogged = unwrapped.await.len() as u64;
    let open = each(all.iter().step_by(10), async |held| sealed::opens(&live, held).await).await;
    assert!(open.len() == 100 && open.iter().all(Result::is_ok), "{open:?}");
    let aws = running.aws.clone();
    let data = running.stop().await;
    n_opened += opened(&aws);
    drop(aws);

    let running = start_with(data, |config| config.with(KMS_KEY, &new_key)).await;
    let client = Client { base: running.url.clone(), ..client };
    client.until(&client.accepted("after", text).await, "delivered").await;
    let aws = running.aws.clone();
    let data = running.stop().await;
    n_opened += opened(&aws);
    drop(aws);
    let system = start_aws_in(data.path()).await;
    assert_eq!(entries(&system.aws, &system.config), n_opened - n_unlogged, "as many entries as KMS opened keys");
}

/// A key rotation of our own beside those of the system.
async fn handle(live: &Live, task: KeyTask) {
    let mut jobs = vec![Job::RotateKeys { task, after: None }];
    while let Some(job) = jobs.pop() {
        assert_eq!(key_rotation::handle(live, vec![job.clone()]).await, [Handled::Done]);
        if let Job::RotateKeys { task, after } = job {
            let page = live.walk_keys(after, 25).await.unwrap();
            jobs.extend(page.next.map(|next| Job::RotateKeys { task, after: Some(next) }));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_seal_that_is_killed_again_and_again_leaves_nothing_under_the_old_keys() {
    let (system, _data) = start_aws().await;
    let live = environment(&system.config);
    let mut all: Vec<Held> = each(0..6, async |_| sealed::someone(&live).await).await;
    assert_eq!(sealed::rotate(&live, &mut all[0], "a token").await, Ok(Saved::Stored));
    tokio::time::sleep(Duration::from_millis(5)).await;
    let older_than: Timestamp = live.now();
    let job = Job::RotateKeys { task: KeyTask::Reseal { older_than }, after: None };
    // Each environment dies a little later than the one before: somewhere else.
    let mut killed = 0;
    for n in 1..36 {
        let dying = environment(&system.config);
        let work = key_rotation::handle(&dying, vec![job.clone()]);
        if tokio::time::timeout(Duration::from_micros(300 * n * n), work).await.is_err() {
            killed += 1;
        }
        if n % 5 == 1 {
            let open = each(&all, async |held| sealed::opens(&environment(&system.config), held).await).await;
            assert!(open.iter().all(Result::is_ok), "{open:?}");
        }
    }
    assert!(killed > 2, "{killed}");
    handle(&environment(&system.config), KeyTask::Reseal { older_than }).await;
    for held in &all {
        let live = environment(&system.config);
        assert_eq!(sealed::opens(&live, held).await, Ok(()));
        assert_eq!(sealed::under_old_keys(&live, held, older_than).await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_customers_rotation_and_a_re_seal_at_once_one_takes_place_and_what_the_customer_was_told_is_so() {
    let (system, _data) = start_aws().await;
    let live = environment(&system.config);
    for n in 0..20 {
        let mut held = sealed::someone(&live).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        let (account, purpose) = (held.account, Purpose::Send);
        let task = KeyTask::Reseal { older_than: live.now() };
        let other = environment(&system.config);
        let reseal = async {
            tokio::time::sleep(Duration::from_millis(n % 5)).await;
            key_rotation::handle(&other, vec![Job::RotateKey { account, purpose, task }]).await
        };
        let (saved, handled) = tokio::join!(sealed::rotate(&live, &mut held, "the newest"), reseal);
        assert_eq!(handled, [Handled::Done]);
        let before = held.clone();
        match saved.unwrap() {
            Saved::Stored => assert_eq!(held.token, "the newest"),
            Saved::Raced => assert_ne!(held.token, "the newest"),
            Saved::TakenByAnother => panic!("nobody else has it"),
        }
        assert_eq!(sealed::credential_opens(&environment(&system.config), &before).await, Ok(()));
    }
}

/// Rows as a backup has them.
fn backup(aws: &LocalAws, config: &Config, rows: &[(&str, String, &str)]) -> Vec<(String, Value)> {
    let read = |(table, pk, sk): &(&str, String, &str)| {
        let table = format!("{}{table}", value(config, TABLE_PREFIX));
        let ask = json!({ "TableName": table, "Key": { "pk": { "S": pk }, "sk": { "S": sk } } });
        let row = aws.database().get_item(serde_json::from_value(ask).unwrap()).unwrap();
        (table, serde_json::to_value(row).unwrap()["Item"].clone())
    };
    rows.iter().map(read).collect()
}

fn put_back(aws: &LocalAws, rows: &[(String, Value)]) {
    for (table, row) in rows {
        assert!(row.is_object(), "{table}");
        let ask = json!({ "TableName": table, "Item": row });
        aws.database().put_item(serde_json::from_value(ask).unwrap()).unwrap();
    }
}

/// Promise N3: what is sealed is dead with its keys, and alive again for as long as those can be recovered.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_opens_nothing_without_the_keys_and_opens_with_them() {
    let (system, _data) = start_aws().await;
    let (aws, config) = (&system.aws, &system.config);
    let live = environment(config);
    let held = sealed::someone(&live).await;
    let account = held.account.to_string();
    let stored = live.load_credential(held.account).await.unwrap().unwrap();
    let sealed_rows =
        backup(aws, config, &[("credentials", account.clone(), "TWILIO"), ("accounts", account.clone(), "GATE")]);
    let keys = backup(aws, config, &[("keys", account.clone(), "send"), ("keys", account.clone(), "hook")]);
    assert_eq!(live.remove_credential(&stored, &fresh::sid_hash(&stored.account_sid), 0).await, Ok(true));

    put_back(aws, &sealed_rows);
    let restored = environment(config);
    assert_eq!(restored.load_credential(held.account).await, Ok(Some(stored.clone())));
    for purpose in [Purpose::Send, Purpose::Hook] {
        assert_eq!(restored.load_keys(held.account, purpose).await, Ok(None));
    }
    let error = sealed::credential_opens(&restored, &held).await.unwrap_err();
    assert_eq!(error, Fault::Permanent(format!("{account} has no send key")));
    assert_eq!(restored.find_hook(&stored.hook).await, Ok(None), "no webhook is checked with it");
    let other = sealed::someone(&live).await;
    for purpose in [Purpose::Send, Purpose::Hook] {
        // Nor do keys of somebody else, or new ones of the same version.
        let mut foreign = live.load_keys(other.account, purpose).await.unwrap().unwrap();
        foreign.account = held.account;
        assert!(environment(config).open_key(&foreign, None).await.is_err());
        let (new, _) = fresh::minted(&live, held.account, purpose, 1).await;
        let field =
            if purpose == Purpose::Send { telbuddy::credential::SEND_FIELD } else { telbuddy::credential::HOOK_FIELD };
        assert!(new.open(field, if purpose == Purpose::Send { &stored.send } else { &stored.verify }).is_err());
    }

    // Within the day the keys can be recovered too: that is why a receipt names its end.
    put_back(aws, &keys);
    assert_eq!(sealed::credential_opens(&environment(config), &held).await, Ok(()));
    assert_eq!(sealed::opens(&environment(config), &held).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_system_renews_a_worn_out_key_and_goes_on_sending() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let text = carrier.text("+14155552671", "hi");
    client.until(&client.accepted("before", text.clone()).await, "delivered").await;
    let page = client.get("/v1/access-log").await.expect(StatusCode::OK);
    let account: AccountId = page["account_id"].as_str().unwrap().parse().unwrap();
    let live = environment(&running.config);
    for purpose in [Purpose::Send, Purpose::Payload, Purpose::Profile] {
        live.enqueue(Job::RotateKey { account, purpose, task: KeyTask::Renew { up_to: 1 } }, 0).await.unwrap();
    }
    let renewed = async || {
        let mut newest = Vec::new();
        for purpose in [Purpose::Send, Purpose::Hook, Purpose::Payload, Purpose::Profile] {
            newest.push(live.load_keys(account, purpose).await.unwrap().unwrap().current().unwrap().version);
        }
        (newest == [2; 4]).then_some(())
    };
    crate::support::eventually("all keys are renewed", renewed).await;
    client.until(&client.accepted("after", text).await, "delivered").await;
    let connected = client.get("/v1/credentials/twilio").await.expect(StatusCode::OK);
    assert_eq!(connected["key_version"], 2);
    assert_eq!(running.journal(&carrier).await.len(), 2);
    running.no_contract_violations().await;
    running.stop().await;
}
