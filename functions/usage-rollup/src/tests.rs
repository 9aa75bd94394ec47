//! The sums are the same however often, at whatever time and up to whatever point the roll-up runs.

use futures::future::join3;
use jiff::Timestamp;
use telbuddy::ids::{AccountId, EntryId};
use telbuddy::ledger::{
    About, Book, CreditKind, Entry, Grant, Granularity, MicroCredits, PostOutcome, Posted, ReadUsage, RecountUsage,
    UsageSums, Zone, failure_at_posting, give_credits,
};
use telbuddy::message::{Message, Outcome, RecordOutcome};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{called, crash_after, row};

use super::*;

/// A message that Twilio took.
async fn sent(world: &World, account: AccountId) -> Message {
    let message = fresh::accepted(world, account, world.now()).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    let sid = fresh::sid(world, "SM").as_str().to_owned();
    world.record_outcome(&claimed, &Outcome::Sent { sid }, world.now()).await.unwrap();
    row(world, &message)
}

async fn post(world: &World, message: &Message) {
    let posted = world.post_charge(message, fresh::charge(world, message, world.now()), world.now(), &[], None).await;
    assert_eq!(posted, Ok(Posted::Charged));
}

async fn posted(world: &World, account: AccountId, n: usize) {
    for _ in 0..n {
        post(world, &sent(world, account).await).await;
    }
    world.forget_calls();
}

/// Messages by day, as customers see them, and the same by hour and month.
async fn messages(world: &World, account: AccountId) -> i64 {
    let count = async |granularity| {
        let page = world.read_usage(account, About::Usage, granularity, ("2026", "2027"), None, 1000).await.unwrap();
        let sums = page.rows.into_iter().fold(UsageSums::default(), |all, (_, sums)| all.plus(sums));
        assert_eq!((sums.units, sums.credits.0), (sums.events, sums.events * 1_000_000));
        sums.events
    };
    let [hour, day, month] =
        [count(Granularity::Hour).await, count(Granularity::Day).await, count(Granularity::Month).await];
    assert_eq!((hour, month), (day, day));
    day
}

#[tokio::test]
async fn an_empty_journal_costs_one_query_for_each_shard_and_one_for_credits_that_end() {
    let world = World::new(1);
    handle(&world).await.unwrap();
    assert_eq!(called(&world), [("load_journal", 16), ("find_ending", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_shard_with_more_than_twenty_events_takes_a_query_and_a_transaction_for_each_twenty() {
    let world = World::new(1);
    let account = fresh::account(&world, 100).await;
    handle(&world).await.unwrap();
    for n in 0..45 {
        let message = sent(&world, account).await;
        let item = Entry { id: EntryId::from_bits(16 * n + 3), ..fresh::charge(&world, &message, world.now()) };
        assert_eq!(world.post_charge(&message, item, world.now(), &[], None).await, Ok(Posted::Charged));
    }
    world.forget_calls();
    handle(&world).await.unwrap();
    let calls = [("load_journal", 16 + 3), ("count_journal", 3), ("load_purse", 3), ("find_ending", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!(messages(&world, account).await, 45);
}

#[tokio::test]
async fn twenty_events_of_twenty_accounts_and_hours_fit_into_one_transaction() {
    let world = World::new(1);
    let mut accounts = Vec::new();
    for n in 0..20 {
        let account = fresh::account(&world, 1).await;
        handle(&world).await.unwrap();
        let message = sent(&world, account).await;
        let item = Entry { id: EntryId::from_bits(16 * n), ..fresh::charge(&world, &message, world.now()) };
        world.post_charge(&message, item, world.now(), &[], None).await.unwrap();
        world.advance(secs(3_600));
        accounts.push(account);
    }
    world.forget_calls();
    handle(&world).await.unwrap();
    assert_eq!(called(&world)["count_journal"], 1);
    for account in accounts {
        assert_eq!(messages(&world, account).await, 1);
    }
}

#[tokio::test]
async fn running_again_adds_nothing() {
    let world = World::new(1);
    let account = fresh::account(&world, 100).await;
    posted(&world, account, 30).await;
    for _ in 0..3 {
        handle(&world).await.unwrap();
        assert_eq!(messages(&world, account).await, 30);
    }
}

#[tokio::test]
async fn two_runs_at_once_while_more_is_posted_count_everything_once() {
    for seed in 0..20 {
        let world = World::new(seed);
        let account = fresh::account(&world, 100).await;
        posted(&world, account, 10).await;
        let late = [sent(&world, account).await, sent(&world, account).await, sent(&world, account).await];
        let posting = async {
            for message in &late {
                post(&world, message).await;
            }
        };
        let (one, two, ()) = join3(handle(&world), handle(&world), posting).await;
        assert_eq!((one, two), (Ok(()), Ok(())));
        handle(&world).await.unwrap();
        assert_eq!(messages(&world, account).await, 13, "seed {seed}");
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_anywhere_is_made_up_for_by_the_next() {
    for polls in 0..60 {
        let world = World::new(u64::try_from(polls).unwrap());
        let account = fresh::account(&world, 100).await;
        posted(&world, account, 25).await;
        crash_after(polls, handle(&world));
        handle(&world).await.unwrap();
        assert_eq!(messages(&world, account).await, 25, "{polls} polls");
    }
}

#[tokio::test]
async fn a_fault_counts_nothing_and_a_lost_answer_counts_once() {
    let world = World::new(1);
    let account = fresh::account(&world, 100).await;
    posted(&world, account, 1).await;
    world.fail_next("count_journal", Fault::transient("busy"));
    assert!(handle(&world).await.is_err());
    assert_eq!(messages(&world, account).await, 0);
    world.lose_answer("count_journal", Fault::Ambiguous("reset".to_owned()));
    assert!(handle(&world).await.is_err());
    handle(&world).await.unwrap();
    assert_eq!(messages(&world, account).await, 1);
}

/// What fails in every run, such as a damaged item, must not hold up the other shards for good.
#[tokio::test]
async fn a_fault_in_one_shard_keeps_no_other_from_being_counted_and_the_run_says_so() {
    for method in ["load_journal", "count_journal"] {
        let world = World::new(1);
        let account = fresh::account(&world, 100).await;
        for shard in 0..16 {
            let message = sent(&world, account).await;
            let item = Entry { id: EntryId::from_bits(shard), ..fresh::charge(&world, &message, world.now()) };
            world.post_charge(&message, item, world.now(), &[], None).await.unwrap();
        }
        world.fail_next(method, Fault::permanent("a damaged item"));
        assert_eq!(handle(&world).await, Err(Fault::permanent("a damaged item")));
        assert_eq!(messages(&world, account).await, 15, "{method}");
    }
}

/// An account with messages that were counted, some that failed, and some that wait to be counted.
async fn with_everything(world: &World) -> AccountId {
    let account = fresh::account(world, 100).await;
    posted(world, account, 7).await;
    for code in [Some(21_211), None] {
        let message = fresh::accepted(world, account, world.now()).await;
        let claimed = fresh::claimed(world, &message, world.now()).await;
        world.record_outcome(&claimed, &Outcome::Rejected { code }, world.now()).await.unwrap();
        let message = row(world, &message);
        let event = failure_at_posting(&message, &Zone::default()).unwrap();
        let failure =
            Entry::failure(EntryId::new(world.now(), fresh::dice(world)), event, world.now(), &Zone::default());
        assert_eq!(world.post_release(&message, world.now(), &[], Some(&failure)).await, Ok(true));
    }
    handle(world).await.unwrap();
    posted(world, account, 2).await;
    account
}

fn ask(account: AccountId) -> Value {
    serde_json::json!({ "recount": account.to_string() })
}

#[tokio::test]
async fn counted_again_what_is_right_stays_and_what_is_wrong_becomes_as_it_was() {
    let world = World::new(1);
    let account = with_everything(&world).await;
    let before = world.load_counted(account).await.unwrap();
    run(&world, &ask(account)).await.unwrap();
    assert_eq!(called(&world).get("put_right"), None, "nothing was wrong");
    world.spoil_counts(account);
    assert_ne!(world.load_counted(account).await.unwrap(), before);
    run(&world, &ask(account)).await.unwrap();
    assert_eq!(world.load_counted(account).await.unwrap(), before);
    // What waited is still to be counted, once.
    handle(&world).await.unwrap();
    assert_eq!(messages(&world, account).await, 9);
    assert_eq!(recount(&world, account).await, Ok(0));
}

#[tokio::test]
async fn counting_again_while_more_is_posted_and_counted_neither_loses_nor_doubles_anything() {
    for seed in 0..40 {
        let world = World::new(seed);
        let account = with_everything(&world).await;
        world.spoil_counts(account);
        let late = [sent(&world, account).await, sent(&world, account).await, sent(&world, account).await];
        let going_on = async {
            for message in &late {
                post(&world, message).await;
                handle(&world).await.unwrap();
            }
        };
        let ask = ask(account);
        let (_, (), _) = join3(run(&world, &ask), going_on, run(&world, &ask)).await;
        // In the end, when all is quiet.
        handle(&world).await.unwrap();
        run(&world, &ask).await.unwrap();
        assert_eq!(messages(&world, account).await, 12, "seed {seed}");
    }
}

#[tokio::test]
async fn what_is_no_account_is_said_and_nothing_is_counted() {
    let world = World::new(1);
    for wrong in [serde_json::json!({ "recount": "acct_" }), serde_json::json!({ "recount": 7 })] {
        let fault = run(&world, &wrong).await.unwrap_err();
        assert!(fault.to_string().contains("give the id of an account"), "{fault}");
    }
    assert_eq!(called(&world), [].into_iter().collect());
}

/// The warnings that were queued, in their order.
fn warned(world: &World) -> Vec<(AccountId, u8, Timestamp)> {
    let warning = |job| match job {
        Job::Alert { account, alert: Alert::CreditsUsed { percent }, since } => Some((account, percent, since)),
        _ => None,
    };
    world.jobs().into_iter().filter_map(warning).collect()
}

async fn included(world: &World, account: AccountId, source: &str, credits: u64, expires: Option<Timestamp>) {
    let credits = MicroCredits::whole(credits);
    let grant = Grant { source: source.to_owned(), kind: CreditKind::Included, credits, expires };
    give_credits(world, account, &grant, world.now()).await.unwrap();
}

#[tokio::test]
async fn each_warning_comes_once_in_a_period_and_new_included_credits_begin_the_next() {
    let world = World::new(1);
    let account = fresh::account(&world, 10).await;
    let began = world.now();
    let mut seen = Vec::new();
    for used in 1..=10 {
        posted(&world, account, 1).await;
        for _ in 0..2 {
            handle(&world).await.unwrap();
        }
        seen.push((used, warned(&world).len()));
    }
    assert_eq!(warned(&world), [(account, 50, began), (account, 80, began), (account, 100, began)]);
    assert_eq!((seen[3], seen[4], seen[7], seen[9]), ((4, 0), (5, 1), (8, 2), (10, 3)));
    world.advance(secs(86_400));
    included(&world, account, "in_1", 10, None).await;
    posted(&world, account, 4).await;
    handle(&world).await.unwrap();
    assert_eq!(warned(&world).len(), 3, "four of ten");
    posted(&world, account, 5).await;
    handle(&world).await.unwrap();
    assert_eq!(warned(&world)[3..], [(account, 80, began + secs(86_400))], "50 was passed in one run");
}

#[tokio::test]
async fn a_warning_costs_a_queue_message_and_a_write_and_is_not_for_what_was_only_given_or_failed() {
    let world = World::new(1);
    let account = fresh::account(&world, 2).await;
    handle(&world).await.unwrap();
    assert_eq!(warned(&world), []);
    posted(&world, account, 1).await;
    handle(&world).await.unwrap();
    let calls = [
        ("load_journal", 16 + 1),
        ("count_journal", 1),
        ("load_purse", 1),
        ("enqueue", 1),
        ("note_warning", 1),
        ("find_ending", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
}

/// The last of the credits: no other charge comes that could bring the warning.
#[tokio::test]
async fn a_run_that_is_stopped_anywhere_warns_all_the_same_and_twice_only_as_the_same_event() {
    let mut twice = 0;
    for polls in 0..80 {
        let world = World::new(u64::try_from(polls).unwrap());
        let account = fresh::account(&world, 1).await;
        let began = world.now();
        posted(&world, account, 1).await;
        world.advance(secs(60));
        crash_after(polls, handle(&world));
        world.advance(secs(60));
        for _ in 0..2 {
            handle(&world).await.unwrap();
        }
        let warned = warned(&world);
        assert!(matches!(warned.len(), 1 | 2), "{polls} polls: {warned:?}");
        assert!(warned.iter().all(|warning| *warning == (account, 100, began)), "{polls} polls: {warned:?}");
        assert_eq!(messages(&world, account).await, 1, "{polls} polls");
        twice += usize::from(warned.len() == 2);
    }
    assert!(twice > 0, "no crash came between the queue and the note");
}

#[tokio::test]
async fn two_runs_at_once_warn_of_one_event_and_count_once() {
    for seed in 0..20 {
        let world = World::new(seed);
        let account = fresh::account(&world, 6).await;
        let began = world.now();
        posted(&world, account, 3).await;
        let (one, two, ()) = join3(handle(&world), handle(&world), async {}).await;
        assert_eq!((one, two), (Ok(()), Ok(())));
        handle(&world).await.unwrap();
        let warned = warned(&world);
        assert!(!warned.is_empty() && warned.iter().all(|warning| *warning == (account, 50, began)), "{warned:?}");
        assert_eq!(messages(&world, account).await, 3, "seed {seed}");
    }
}

#[tokio::test]
async fn a_fault_that_passes_keeps_the_warning_for_the_next_run_and_one_that_stays_keeps_nothing_from_being_counted() {
    for (method, fault, counted) in [
        ("load_purse", Fault::transient("busy"), 0),
        ("enqueue", Fault::transient("busy"), 0),
        ("note_warning", Fault::transient("busy"), 0),
        ("load_purse", Fault::permanent("a damaged item"), 1),
    ] {
        let world = World::new(1);
        let account = fresh::account(&world, 1).await;
        posted(&world, account, 1).await;
        world.fail_next(method, fault.clone());
        assert_eq!(handle(&world).await, Err(fault), "{method}");
        assert_eq!(messages(&world, account).await, counted, "{method}");
        handle(&world).await.unwrap();
        assert_eq!(messages(&world, account).await, 1, "{method}");
        let twice = usize::from(method == "note_warning");
        assert_eq!(warned(&world).len(), if counted == 1 { 0 } else { 1 + twice }, "{method}");
    }
}

fn expired(world: &World, account: AccountId) -> i64 {
    world.entries(account).iter().map(|entry| entry.on(Book::Expired).0).sum::<i64>() / 1_000_000
}

#[tokio::test]
async fn credits_end_at_their_time_and_those_that_are_reserved_when_they_are_given_back() {
    let world = World::new(1);
    let account = fresh::account(&world, 0).await;
    let ends = world.now() + secs(7_200);
    included(&world, account, "in_1", 10, Some(ends)).await;
    let waiting = fresh::accepted(&world, account, world.now()).await;
    let claimed = fresh::claimed(&world, &waiting, world.now()).await;
    for (after, gone) in [(7_199, 0), (1, 9), (0, 9), (60, 9)] {
        world.advance(secs(after));
        handle(&world).await.unwrap();
        assert_eq!(expired(&world, account), gone, "{after} s later");
    }
    world.record_outcome(&claimed, &Outcome::Rejected { code: None }, world.now()).await.unwrap();
    assert_eq!(world.post_release(&row(&world, &waiting), world.now(), &[], None).await, Ok(true));
    handle(&world).await.unwrap();
    assert_eq!(expired(&world, account), 9, "looked at once an hour");
    world.advance(secs(3_600));
    handle(&world).await.unwrap();
    assert_eq!((expired(&world, account), world.allowance(account).unwrap().available()), (10, MicroCredits::ZERO));
    world.forget_calls();
    world.advance(secs(86_400));
    handle(&world).await.unwrap();
    assert!(!called(&world).contains_key("load_purse"), "nothing is left to end");
}

#[tokio::test]
async fn a_fault_with_one_accounts_credits_keeps_no_others_from_ending_and_the_run_says_so() {
    for method in ["load_purse", "save_step"] {
        let world = World::new(1);
        let ends = world.now() + secs(60);
        let mut accounts = Vec::new();
        for _ in 0..3 {
            let account = fresh::account(&world, 0).await;
            included(&world, account, "in_1", 10, Some(ends)).await;
            accounts.push(account);
        }
        handle(&world).await.unwrap();
        world.advance(secs(60));
        world.fail_next(method, Fault::permanent("a damaged item"));
        assert_eq!(handle(&world).await, Err(Fault::permanent("a damaged item")));
        let gone = || accounts.iter().map(|account| expired(&world, *account)).sum::<i64>();
        assert_eq!(gone(), 20, "{method}");
        handle(&world).await.unwrap();
        assert_eq!(gone(), 30, "{method}");
    }
}

#[tokio::test]
async fn a_run_that_is_stopped_while_credits_end_ends_them_once() {
    for polls in 0..60 {
        let world = World::new(u64::try_from(polls).unwrap());
        let account = fresh::account(&world, 0).await;
        included(&world, account, "in_1", 10, Some(world.now() + secs(60))).await;
        handle(&world).await.unwrap();
        world.advance(secs(60));
        crash_after(polls, handle(&world));
        handle(&world).await.unwrap();
        assert_eq!(expired(&world, account), 10, "{polls} polls");
        assert_eq!(world.allowance(account).unwrap().available(), MicroCredits::ZERO);
    }
}
