//! Keys are replaced whatever stops, repeats or comes between, and everything opens before, between and after.

use jiff::SignedDuration;
use telbuddy::account::Stop;
use telbuddy::connection::{Begun, Settings, Snapshot, State, Target};
use telbuddy::credential::{Saved, data_key};
use telbuddy::endpoint::{Choice, EndpointUrl, Reach, SigningSecret, signature};
use telbuddy::ids::{EndpointId, EventId};
use telbuddy::template::{KeepTemplates, MOST_TEMPLATES, Updated};
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::sealed::{
    Held, add_template, change_template, opens, rotate as rotate_token, someone, under_old_keys,
};
use telbuddy::testing::setup::{called, crash_after};

use super::*;

/// Some accounts, one of them with a rotation behind it, and a day later.
async fn accounts(world: &World, n: usize) -> Vec<Held> {
    let mut all = Vec::new();
    for _ in 0..n {
        all.push(someone(world).await);
    }
    world.advance(SignedDuration::from_hours(24));
    assert_eq!(rotate_token(world, &mut all[0], "a token").await, Ok(Saved::Stored));
    world.advance(SignedDuration::from_mins(1));
    world.forget_calls();
    all
}

fn rewrap_all() -> Job {
    Job::RotateKeys { task: KeyTask::Rewrap, after: None }
}

/// A new key for whatever is older than now.
fn reseal_all(world: &World) -> Job {
    Job::RotateKeys { task: KeyTask::Reseal { older_than: world.now() }, after: None }
}

/// Works until the queue is empty, in an environment that remembers no key.
async fn work_off(world: &World, first: &[Job]) {
    world.forget_keys();
    let mut jobs = first.to_vec();
    for _ in 0..200 {
        if jobs.is_empty() {
            assert_eq!(world.jobs(), []);
            return;
        }
        let handled = handle(world, jobs.clone()).await;
        jobs = jobs.into_iter().zip(handled).filter(|(_, h)| *h == Handled::Again).map(|(job, _)| job).collect();
        world.advance(SignedDuration::from_secs(i64::from(AGAIN_SECS)));
        jobs.extend(world.take_jobs(QUEUE));
    }
    panic!("it does not end: {jobs:?}");
}

async fn all_open(world: &World, all: &[Held]) {
    world.forget_keys();
    for held in all {
        assert_eq!(opens(world, held).await, Ok(()));
    }
}

/// After this re-seal.
async fn nothing_is_under_an_old_key(world: &World, all: &[Held], reseal: &Job) {
    let Job::RotateKeys { task: KeyTask::Reseal { older_than }, .. } = reseal else { panic!("no re-seal") };
    for held in all {
        assert_eq!(under_old_keys(world, held, *older_than).await, [""; 0], "{}", held.account);
    }
}

/// Versions of an account's keys of one purpose.
fn versions(world: &World, held: &Held, purpose: Purpose) -> Vec<u32> {
    let rows = world.wrapped_keys();
    let row = rows.iter().find(|keys| (keys.account, keys.purpose) == (held.account, purpose)).unwrap();
    row.versions.iter().map(|key| key.version).collect()
}

#[tokio::test]
async fn a_re_seal_makes_one_new_key_each_and_leaves_hashes_and_what_waits() {
    let world = World::new(1);
    let all = accounts(&world, 12).await;
    let job = reseal_all(&world);
    work_off(&world, std::slice::from_ref(&job)).await;
    assert!(called(&world)["walk_keys"] >= 3, "60 rows are three pages");
    all_open(&world, &all).await;
    nothing_is_under_an_old_key(&world, &all, &job).await;
    for held in &all[1..] {
        let of = |purpose| versions(&world, held, purpose);
        assert_eq!([of(Purpose::Send), of(Purpose::Hook), of(Purpose::Payload), of(Purpose::Profile)], [[1, 2]; 4]);
        assert_eq!(of(Purpose::Match), [1]);
    }
    assert_eq!(versions(&world, &all[0], Purpose::Hook), [1, 2, 3]);
}

/// The snapshot of a connected number opens under the newest key, also one that a run left behind.
#[tokio::test]
async fn snapshots_of_connected_numbers_are_sealed_anew_with_the_profile() {
    let world = World::new(1);
    let account = someone(&world).await.account;
    let credential = world.load_credential(account).await.unwrap().unwrap();
    let target = Target::parse(fresh::sid(&world, "PN").as_str()).unwrap();
    let key = data_key(&world, account, Purpose::Profile, None).await.unwrap();
    let account_sid = credential.account_sid.clone();
    let snapshot = Snapshot { account_sid, before: Settings::default(), set: Settings::default(), standing: None };
    let connection = Connection {
        account,
        target: target.clone(),
        state: State::Connected,
        snapshot: snapshot.seal(&key, &target, [7; 12]).unwrap(),
        revision: 0,
        since: world.now(),
        seen: world.now(),
    };
    let due = world.now() + CHECK_EVERY;
    assert_eq!(world.begin_connection(&connection, &credential, due).await, Ok(Begun::Stored));
    for rotation in 1..=5 {
        world.advance(SignedDuration::from_hours(100));
        let task = KeyTask::Reseal { older_than: world.now() };
        // The first try of each stops at the snapshot.
        world.fail_next("update_connection", Fault::transient("busy"));
        work_off(&world, &[Job::RotateKey { account, purpose: Purpose::Profile, task }]).await;
        world.forget_keys();
        let now = world.connections_of(account).remove(0);
        let version = now.snapshot.key_version().unwrap();
        assert_eq!(version, rotation + 1);
        let key = data_key(&world, account, Purpose::Profile, Some(version)).await.unwrap();
        assert_eq!(Snapshot::open(&now.snapshot, &key, &target), Ok(snapshot.clone()));
    }
}

/// What signs events opens under the newest key, the secret before it too, also after a run that was left behind.
#[tokio::test]
async fn secrets_of_endpoints_are_sealed_anew_with_the_profile() {
    let world = World::new(1);
    let account = someone(&world).await.account;
    let key = data_key(&world, account, Purpose::Profile, None).await.unwrap();
    let id = EndpointId::from_bits(7);
    let sealed = |byte: u8| SigningSecret::new([byte; 32]).seal(&key, id, [byte; 12]).unwrap();
    let now = world.now();
    let until = |hours| now + SignedDuration::from_hours(hours);
    let endpoint = Endpoint {
        account,
        id,
        url: EndpointUrl::parse("https://example.com/", Reach::Public).unwrap(),
        choice: Choice::All,
        include_content: false,
        description: String::new(),
        secret: sealed(1),
        previous: vec![
            PreviousSecret { secret: sealed(2), until: until(1) },
            PreviousSecret { secret: sealed(3), until: until(1_000) },
        ],
        disabled: None,
        failing_since: None,
        revision: 0,
        created: now,
        updated: now,
    };
    assert_eq!(world.create_endpoint(&endpoint).await, Ok(true));
    for rotation in 1..=5 {
        world.advance(SignedDuration::from_hours(100));
        let task = KeyTask::Reseal { older_than: world.now() };
        world.fail_next("update_endpoint", Fault::transient("busy"));
        work_off(&world, &[Job::RotateKey { account, purpose: Purpose::Profile, task }]).await;
        world.forget_keys();
        let now = world.list_endpoints(account).await.unwrap().remove(0);
        assert_eq!((now.revision, now.previous.len(), now.previous[0].until), (rotation, 1, until(1_000)));
        let key = data_key(&world, account, Purpose::Profile, Some(rotation + 1)).await.unwrap();
        let event = EventId::from_bits(1);
        let opened = [&now.secret, &now.previous[0].secret].map(|one| SigningSecret::open(one, &key, id).unwrap());
        let as_before = [1, 3].map(|byte| SigningSecret::new([byte; 32]));
        assert_eq!(signature(&opened, event, until(0), "{}"), signature(&as_before, event, until(0), "{}"));
    }
}

#[tokio::test]
async fn a_re_seal_of_one_account_makes_the_calls_that_are_written_and_none_when_it_is_done() {
    let world = World::new(1);
    let held = someone(&world).await;
    world.advance(SignedDuration::from_hours(1));
    let task = KeyTask::Reseal { older_than: world.now() };
    let of = |purpose| Job::RotateKey { account: held.account, purpose, task };
    let count = async |purpose| {
        world.forget_calls();
        world.forget_keys();
        assert_eq!(handle(&world, vec![of(purpose)]).await, [Handled::Done]);
        called(&world)
    };
    let calls = |calls: &[(&'static str, u32)]| calls.iter().copied().collect::<BTreeMap<_, _>>();
    assert_eq!(
        count(Purpose::Payload).await,
        calls(&[
            ("load_keys", 1),
            ("list_templates", 2),
            ("mint_key", 1),
            ("open_key", 2),
            ("replace_keys", 1),
            ("replace_template", 1)
        ])
    );
    assert_eq!(
        count(Purpose::Profile).await,
        calls(&[
            ("load_keys", 1),
            ("list_connections", 2),
            ("list_endpoints", 2),
            ("load_profile", 2),
            ("mint_key", 1),
            ("open_key", 2),
            ("replace_keys", 1),
            ("replace_profile", 1)
        ])
    );
    assert_eq!(
        count(Purpose::Send).await,
        calls(&[("load_credential", 1), ("load_keys", 3), ("mint_key", 2), ("open_key", 2), ("replace_credential", 1)])
    );
    assert_eq!(count(Purpose::Hook).await, calls(&[("load_credential", 1), ("load_keys", 3)]));
    assert_eq!(count(Purpose::Payload).await, calls(&[("load_keys", 1), ("list_templates", 2)]));
    assert_eq!(
        count(Purpose::Profile).await,
        calls(&[("load_keys", 1), ("list_connections", 2), ("list_endpoints", 2), ("load_profile", 2)])
    );
    assert_eq!(count(Purpose::Match).await, calls(&[("load_keys", 1)]));
}

#[tokio::test]
async fn a_re_wrap_opens_nothing_and_the_kms_key_before_is_needed_no_more() {
    let world = World::new(1);
    let all = accounts(&world, 12).await;
    world.new_kms_key();
    world.forget_keys();
    let before = world.openings().len();
    work_off(&world, &[rewrap_all()]).await;
    assert_eq!(world.openings().len(), before);
    world.disable_kms_keys_before();
    all_open(&world, &all).await;
    world.forget_calls();
    work_off(&world, &[rewrap_all()]).await;
    assert!(!called(&world).contains_key("replace_keys"), "there is nothing left to move");
}

/// A kill at every await point, and the queue gives the job again.
#[tokio::test]
async fn killed_anywhere_it_goes_on_and_everything_opens() {
    for rewraps in [true, false] {
        for seed in 0..3 {
            for polls in 1.. {
                let world = World::new(seed);
                let all = accounts(&world, 2).await;
                let job = if rewraps { rewrap_all() } else { reseal_all(&world) };
                if rewraps {
                    world.new_kms_key();
                }
                let done = crash_after(polls, handle(&world, vec![job.clone()])).is_some();
                // Half done is whole too.
                all_open(&world, &all).await;
                work_off(&world, std::slice::from_ref(&job)).await;
                if rewraps {
                    world.disable_kms_keys_before();
                }
                all_open(&world, &all).await;
                if !rewraps {
                    nothing_is_under_an_old_key(&world, &all, &job).await;
                    assert_eq!(versions(&world, &all[1], Purpose::Payload), [1, 2], "seed {seed}, {polls} polls");
                }
                if done {
                    assert!(polls > 5, "{polls}");
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn two_at_the_same_time_and_one_in_the_middle_of_another_task_do_no_harm() {
    for seed in 0..20 {
        let world = World::new(seed);
        let all = accounts(&world, 3).await;
        world.new_kms_key();
        let (reseal, rewrap) = (reseal_all(&world), rewrap_all());
        let jobs = || vec![reseal.clone(), rewrap.clone(), reseal.clone()];
        futures::join!(handle(&world, jobs()), handle(&world, jobs()));
        work_off(&world, &[reseal.clone(), rewrap.clone()]).await;
        world.disable_kms_keys_before();
        all_open(&world, &all).await;
        nothing_is_under_an_old_key(&world, &all, &reseal).await;
        assert_eq!(versions(&world, &all[1], Purpose::Profile), [1, 2], "seed {seed}");
    }
}

#[tokio::test]
async fn of_a_customers_rotation_and_a_re_seal_at_once_the_newest_secret_is_in_force() {
    let mut outcomes = std::collections::BTreeMap::new();
    for seed in 0..40 {
        let world = World::new(seed);
        let mut all = accounts(&world, 1).await;
        let (job, mut held) = (reseal_all(&world), all[0].clone());
        let (saved, handled) =
            futures::join!(rotate_token(&world, &mut held, "the newest"), handle(&world, vec![job.clone()]));
        let saved = saved.unwrap();
        *outcomes.entry(format!("{saved:?}")).or_insert(0) += 1;
        assert_eq!(handled, [Handled::Done]);
        world.forget_keys();
        // What the customer was told is so.
        assert_eq!(opens(&world, &held).await, Ok(()), "seed {seed}: {saved:?}");
        if saved == Saved::Raced {
            assert_eq!(rotate_token(&world, &mut held, "the newest").await, Ok(Saved::Stored));
        }
        work_off(&world, std::slice::from_ref(&job)).await;
        all[0] = held;
        assert_eq!(all[0].token, "the newest");
        all_open(&world, &all).await;
        nothing_is_under_an_old_key(&world, &all, &job).await;
    }
    assert_eq!(outcomes.len(), 2, "each is first in some worlds: {outcomes:?}");
}

#[tokio::test]
async fn a_faulty_row_is_tried_by_itself_and_keeps_no_other_waiting() {
    let world = World::new(1);
    let all = accounts(&world, 2).await;
    world.new_kms_key();
    world.fail_next("rewrap_key", Fault::permanent("a damaged key"));
    world.fail_next("replace_keys", Fault::transient("busy"));
    world.lose_answer("replace_keys", Fault::transient("no answer"));
    assert_eq!(handle(&world, vec![rewrap_all()]).await, [Handled::Done]);
    let own = world.queued();
    assert_eq!(own.len(), 3, "{own:?}");
    assert!(own.iter().all(|queued| queued.delay_secs == AGAIN_SECS && matches!(queued.job, Job::RotateKey { .. })));
    world.advance(SignedDuration::from_mins(1));
    let jobs = world.take_jobs(QUEUE);
    work_off(&world, &jobs).await;
    world.disable_kms_keys_before();
    all_open(&world, &all).await;
}

/// A permission or a variable is missing: the page stays in the queue, and not a job for each row.
#[tokio::test]
async fn a_page_where_nothing_works_comes_again_as_it_is() {
    let world = World::new(1);
    let all = accounts(&world, 2).await;
    world.new_kms_key();
    for _ in 0..10 {
        world.fail_next("rewrap_key", Fault::permanent("not configured"));
    }
    assert_eq!(handle(&world, vec![rewrap_all()]).await, [Handled::Again]);
    assert_eq!(world.jobs(), []);
    work_off(&world, &[rewrap_all()]).await;
    world.disable_kms_keys_before();
    all_open(&world, &all).await;
}

#[tokio::test]
async fn a_page_whose_follower_could_not_be_queued_comes_again() {
    let world = World::new(1);
    let all = accounts(&world, 6).await;
    world.fail_next("enqueue", Fault::transient("no answer"));
    let job = reseal_all(&world);
    assert_eq!(handle(&world, vec![job.clone()]).await, [Handled::Again]);
    work_off(&world, std::slice::from_ref(&job)).await;
    nothing_is_under_an_old_key(&world, &all, &job).await;
    assert_eq!(versions(&world, &all[5], Purpose::Payload), [1, 2]);
}

#[tokio::test]
async fn a_worn_out_version_is_replaced_once() {
    let world = World::new(1);
    let all = accounts(&world, 2).await;
    let worn = |purpose, up_to| Job::RotateKey { account: all[1].account, purpose, task: KeyTask::Renew { up_to } };
    for purpose in [Purpose::Send, Purpose::Payload, Purpose::Profile, Purpose::Match] {
        assert_eq!(handle(&world, vec![worn(purpose, 1), worn(purpose, 1)]).await, [Handled::Done; 2]);
        assert_eq!(handle(&world, vec![worn(purpose, 1)]).await, [Handled::Done]);
    }
    let of = |purpose| versions(&world, &all[1], purpose);
    assert_eq!([of(Purpose::Send), of(Purpose::Hook), of(Purpose::Payload), of(Purpose::Profile)], [[1, 2]; 4]);
    assert_eq!(of(Purpose::Match), [1]);
    assert_eq!(versions(&world, &all[0], Purpose::Payload), [1], "nobody else's");
    all_open(&world, &all).await;
}

#[tokio::test]
async fn a_secret_whose_window_is_over_is_not_sealed_again_and_no_stop_is_lifted() {
    let world = World::new(1);
    let mut all = accounts(&world, 1).await;
    world.stop(all[0].account, Stop::CredentialRefused);
    world.advance(SignedDuration::from_hours(25));
    all[0].tokens_before.clear();
    work_off(&world, &[reseal_all(&world)]).await;
    let stored = world.load_credential(all[0].account).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.previous), (3, vec![]));
    assert_eq!(world.gate(all[0].account).unwrap().stopped(), Some(Stop::CredentialRefused));
    all_open(&world, &all).await;
}

#[tokio::test]
async fn an_account_that_is_gone_is_done_and_a_job_for_another_queue_goes_back() {
    let world = World::new(1);
    let account = AccountId::from_bits(1);
    let gone = |purpose| Job::RotateKey { account, purpose, task: KeyTask::Rewrap };
    let wrong = Job::Post { account, message: telbuddy::ids::MessageId::from_bits(1) };
    let handled = handle(&world, vec![gone(Purpose::Send), wrong, gone(Purpose::Payload)]).await;
    assert_eq!(handled, [Handled::Done, Handled::Again, Handled::Done]);
}

/// Promise N2, here for what is in memory for a moment.
#[tokio::test]
async fn no_secret_is_in_a_table_or_a_job() {
    let world = World::new(1);
    let all = accounts(&world, 2).await;
    world.fail_next("replace_credential", Fault::transient("busy"));
    handle(&world, vec![reseal_all(&world)]).await;
    for held in &all {
        assert!(!world.holds_in_clear(&held.token));
    }
}

/// Revision by revision: the customer's changes and the new seals, whichever is first.
#[tokio::test]
async fn a_template_that_is_changed_at_the_same_time_says_what_the_customer_changed_it_to() {
    let mut tries = std::collections::BTreeSet::new();
    for seed in 0..60 {
        let world = World::new(seed);
        let mut held = accounts(&world, 1).await.remove(0);
        let job = reseal_all(&world);
        let change = async {
            // Later in each world.
            for _ in 0..seed / 3 {
                world.load_keys(held.account, Purpose::Match).await.unwrap();
            }
            change_template(&world, &held, "changed {{a}}").await
        };
        let (handled, changed) = futures::join!(handle(&world, vec![job.clone()]), change);
        assert_eq!(handled, [Handled::Done]);
        assert_eq!(changed, Updated::Stored, "sealing anew is no change");
        held.template = "changed {{a}}".to_owned();
        world.forget_keys();
        assert_eq!(opens(&world, &held).await, Ok(()));
        tries.insert(world.calls()["replace_template"]);
        work_off(&world, std::slice::from_ref(&job)).await;
        all_open(&world, std::slice::from_ref(&held)).await;
    }
    assert_eq!(tries.into_iter().collect::<Vec<_>>(), [1, 2], "in some worlds the change comes between");
}

#[tokio::test]
async fn two_hundred_templates_are_sealed_anew_over_faults_and_one_that_is_removed() {
    let world = World::new(1);
    let held = someone(&world).await;
    for _ in 1..MOST_TEMPLATES {
        add_template(&world, &held, "x").await;
    }
    world.advance(SignedDuration::from_hours(1));
    let task = KeyTask::Reseal { older_than: world.now() };
    world.fail_next("replace_template", Fault::transient("busy"));
    world.lose_answer("replace_template", Fault::transient("no answer"));
    work_off(&world, &[Job::RotateKey { account: held.account, purpose: Purpose::Payload, task }]).await;
    assert_eq!(versions(&world, &held, Purpose::Payload), [1, 2]);
    let all = templates(&world, held.account).await.unwrap();
    assert_eq!(all.len(), usize::try_from(MOST_TEMPLATES).unwrap());
    assert!(all.iter().all(|template| template.sealed.key_version() == Ok(2) && template.revision == 1));
    all_open(&world, std::slice::from_ref(&held)).await;
    let gone = templates(&world, held.account).await.unwrap().remove(0);
    assert_eq!(world.remove_template(&gone).await, Ok(true));
    work_off(&world, &[reseal_all(&world)]).await;
    assert_eq!(world.load_template(held.account, gone.id).await, Ok(None), "none comes back");
}

/// A message may be held for five weeks, over any number of new keys.
#[tokio::test]
async fn what_waits_for_weeks_opens_over_many_new_keys() {
    let world = World::new(1);
    let held = someone(&world).await;
    for _ in 0..11 {
        world.advance(SignedDuration::from_hours(75));
        let task = KeyTask::Reseal { older_than: world.now() };
        work_off(&world, &[Job::RotateKey { account: held.account, purpose: Purpose::Payload, task }]).await;
        all_open(&world, std::slice::from_ref(&held)).await;
    }
    assert_eq!(versions(&world, &held, Purpose::Payload).len(), 12);
}
