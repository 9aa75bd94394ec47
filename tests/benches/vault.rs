//! A credential read with its data key at hand and without, against the AWS double; and how many calls each costs.
//!
//! `cargo bench -p telbuddy-tests --bench vault`. The calls are counted and the same on every machine; of the times
//! only their ratio says something, since the double answers at once where KMS takes milliseconds.

#![expect(clippy::print_stdout, reason = "a bench reports")]
#![expect(clippy::unwrap_used, reason = "what does not work here ends the bench, and names the line")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion};
use local_aws::Service;
use telbuddy::credential::{Carrier, KeepCredential, MintKey, data_key};
use telbuddy::ids::AccountId;
use telbuddy::live::{Config, Live, Need};
use telbuddy::seal::Purpose;
use telbuddy::testing::fresh;
use telbuddy_local::{LocalAwsOnly, Options};
use tokio::runtime::Runtime;

fn main() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let local = runtime.block_on(telbuddy_local::start_aws(&options(data.path()), "http://127.0.0.1:1")).unwrap();
    let account = runtime.block_on(async {
        let world = live(&local.config);
        let account = fresh::account_with_keys(&world, 1).await;
        fresh::connect(&world, account).await;
        account
    });

    // `cargo test --benches` and `-- --test` only see that it runs.
    let n = if std::env::args().any(|argument| argument == "--test") { 10 } else { 1_000 };
    runtime.block_on(count(&local, account, n));

    let mut criterion = Criterion::default().configure_from_args();
    times(&mut criterion, &runtime, &local.config, account);
    criterion.final_summary();
}

/// With faults possible, since otherwise DynamoDB's calls are not counted.
fn options(data: &Path) -> Options {
    Options { port: 0, data: data.to_owned(), fallback: false, faults: true, callback_delay: Duration::from_millis(20) }
}

/// As an environment has it at its start: nothing is remembered.
fn live(config: &Config) -> Live {
    Live::new(config, &[Need::Tables, Need::Keys]).unwrap()
}

/// What sending a message needs: the credential in clear.
async fn read(world: &Live, account: AccountId) -> Carrier {
    let key = data_key(world, account, Purpose::Send, None).await.unwrap();
    let stored = world.load_credential(account).await.unwrap().unwrap();
    Carrier::open(&stored, &key).unwrap()
}

/// Prints the calls of `n` messages of one account: in one environment, and with an environment for each message.
async fn count(local: &LocalAwsOnly, account: AccountId, n: u32) {
    let before = calls(local);
    let world = live(&local.config);
    for _ in 0..n {
        read(&world, account).await;
    }
    let between = calls(local);
    for _ in 0..n {
        read(&live(&local.config), account).await;
    }
    let after = calls(local);
    println!("calls for {n} messages of one account, and for one of them:");
    for (name, from, to) in [("key remembered", &before, &between), ("key never remembered", &between, &after)] {
        for service in [Service::Kms, Service::DynamoDb] {
            let made = to.get(&service).unwrap_or(&0) - from.get(&service).unwrap_or(&0);
            let each = f64::from(u32::try_from(made).unwrap()) / f64::from(n);
            println!("  {name:20} {:8} {made:6} {each:8.3}", service.to_string());
        }
    }
}

fn calls(local: &LocalAwsOnly) -> BTreeMap<Service, u64> {
    let mut sums = BTreeMap::new();
    for ((service, _), n) in local.aws.calls() {
        *sums.entry(service).or_default() += n;
    }
    sums
}

fn times(criterion: &mut Criterion, runtime: &Runtime, config: &Config, account: AccountId) {
    let mut group = criterion.benchmark_group("credential");
    let world = live(config);
    group.bench_function("key remembered", |bench| bench.iter(|| runtime.block_on(read(&world, account))));
    // A new environment each time, its connections opened before the clock starts.
    let opened = || {
        let world = live(config);
        runtime.block_on(async {
            world.load_credential(account).await.unwrap();
            world.mint_key(account, Purpose::Match, 1).await.unwrap();
        });
        world
    };
    group.bench_function("key not remembered", |bench| {
        let routine = |world: Live| {
            runtime.block_on(read(&world, account));
            world
        };
        bench.iter_batched(opened, routine, BatchSize::PerIteration);
    });
    group.finish();
}
