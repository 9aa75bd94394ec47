//! The simulation: the real handlers over the fake world, under weather, from one seed (docs/decisions/0020).
//!
//! Everything that the handlers ask of the world goes through [`ports::Env`]: a call is two await points, and at each
//! the scheduler in [`machine`] may delay it, run others, let it fail before or after its effect, repeat it, let it take
//! place late, or drop the whole task. SQS, Twilio, callers and clocks are simulated. See [`invariants`] for what has to
//! hold.
//!
//! A run that fails prints its seed and how to replay it.

mod callers;
mod invariants;
mod machine;
mod ports;
mod queues;
mod twilio;
mod weather;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use invariants::{Invariant, Violation};
use machine::{Bug, Counts, Function, Machine, Outcome, Plan};
use weather::Weather;

/// Runs of the test, and messages of each. `TELBUDDY_SIMULATION_SEEDS` and `TELBUDDY_SIMULATION_MESSAGES` ask for
/// others.
const SEEDS: u64 = 200;
const MESSAGES: usize = 50;

fn plan(seed: u64, n_messages: usize) -> Plan {
    Plan { seed, n_messages, weather: None, bug: None, crash: None, verbose: false }
}

/// A number from the environment of the test.
fn asked<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var_os(name)?.to_str()?.parse().ok()
}

/// A run; a panic of a handler is a violation like any other.
fn run(plan: &Plan) -> Outcome {
    let machine = Machine::new(plan.clone());
    let hub = machine.hub.clone();
    catch_unwind(AssertUnwindSafe(|| machine.run())).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let violation =
            Violation { invariant: Invariant::NoPanic, message: None, what: what.unwrap_or_default(), at: hub.now() };
        let counts = Counts::default();
        Outcome { violation: Some(violation), trace: 0, log: Vec::new(), crashed: false, counts }
    })
}

/// What to print of a run that failed: the seed, how to replay it, and what happened to its message.
fn report(plan: &Plan, violation: &Violation) -> String {
    let again = run(&Plan { verbose: true, ..plan.clone() });
    let about = violation.message.map(|message| message.to_string());
    let lines: Vec<_> =
        again.log.iter().filter(|line| about.as_ref().is_none_or(|about| line.contains(about))).collect();
    let last = lines.iter().rev().take(60).rev().map(|line| line.as_str()).collect::<Vec<_>>().join("\n");
    let Plan { seed, n_messages, .. } = plan;
    let replay = if plan.weather.is_some() || plan.bug.is_some() {
        "this test again".to_owned()
    } else {
        format!(
            "TELBUDDY_SIMULATION_SEED={seed} TELBUDDY_SIMULATION_MESSAGES={n_messages} \
             cargo test -p telbuddy-tests simulation::a_seed_replays -- --nocapture"
        )
    };
    format!("seed {seed} of {n_messages} messages: {violation:?}\n{last}\nreplay: {replay}")
}

/// Runs these, on every core; the first that fails is told in full.
fn all_hold(plans: &[Plan]) -> Vec<Outcome> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = run(plan);
            if let Some(violation) = &outcome.violation {
                panic!("{}", report(plan, violation));
            }
            outcomes.push(outcome);
        }
        outcomes
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = workers.into_iter().map(std::thread::ScopedJoinHandle::join);
        ended.flat_map(|outcomes| outcomes.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[test]
fn nothing_is_doubled_or_lost_whatever_the_weather() {
    let seeds = asked("TELBUDDY_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let n_messages = asked("TELBUDDY_SIMULATION_MESSAGES").unwrap_or(MESSAGES);
    let plans: Vec<_> = (0..seeds).map(|seed| plan(seed, n_messages)).collect();
    let outcomes = all_hold(&plans);
    let sum = |count: fn(&Counts) -> u64| outcomes.iter().map(|outcome| count(&outcome.counts)).sum::<u64>();
    let counts = Counts {
        messages: sum(|counts| counts.messages),
        at_carrier: sum(|counts| counts.at_carrier),
        calls: sum(|counts| counts.calls),
        faults: sum(|counts| counts.faults),
        crashes: sum(|counts| counts.crashes),
        redelivered: sum(|counts| counts.redelivered),
        shared_sids: sum(|counts| counts.shared_sids),
    };
    println!("{seeds} seeds: {counts:?}");
    // No walk in the park.
    assert!(counts.messages >= 10_000 || seeds < SEEDS || n_messages < MESSAGES, "{counts:?}");
    assert!(
        seeds < SEEDS || [counts.faults, counts.crashes, counts.redelivered].iter().all(|n| *n > seeds),
        "{counts:?}"
    );
}

/// The same for one run that has all of them at once, so that batches are full and queues are long.
#[test]
fn ten_thousand_messages_in_one_run_hold_too() {
    let outcomes = all_hold(&[plan(0, 10_000)]);
    println!("{:?}", outcomes[0].counts);
    assert!(outcomes[0].counts.messages >= 9_000, "{:?}", outcomes[0].counts);
}

/// To look at one seed: `TELBUDDY_SIMULATION_SEED=… cargo test … -- --nocapture` prints all that happens. The same seed
/// is the same run.
#[test]
fn a_seed_replays() {
    let asked_for: Option<u64> = asked("TELBUDDY_SIMULATION_SEED");
    let n_messages = asked("TELBUDDY_SIMULATION_MESSAGES").unwrap_or(MESSAGES);
    for seed in asked_for.map_or(0..3, |seed| seed..seed + 1) {
        let plan = Plan { verbose: asked_for.is_some(), ..plan(seed, n_messages) };
        let (first, second) = (run(&plan), run(&plan));
        first.log.iter().for_each(|line| println!("{line}"));
        assert_eq!((first.trace, &first.counts), (second.trace, &second.counts), "seed {seed}");
        assert_eq!(first.violation, None, "seed {seed}");
    }
    let other = run(&plan(1_000_003, n_messages));
    assert_ne!(other.trace, run(&plan(1_000_004, n_messages)).trace);
}

/// A planted bug is found, by the invariant that it breaks, within the seeds of every run of the tests.
fn finds(bug: Bug, invariant: Invariant) {
    let violation = |seed| run(&Plan { bug: Some(bug), ..plan(seed, MESSAGES) }).violation;
    let found = (0..SEEDS).find(|seed| violation(*seed).is_some_and(|violation| violation.invariant == invariant));
    println!("{bug:?}: {found:?}");
    assert!(found.is_some(), "{bug:?} is not found");
}

#[test]
fn a_retry_after_a_time_out_is_found_as_a_double() {
    finds(Bug::RetryOnTimeout, Invariant::NoDoubles);
}

#[test]
fn a_release_without_its_condition_is_found_as_a_hold_that_ends_twice() {
    finds(Bug::ReleaseWithoutCondition, Invariant::EachHoldEnds);
}

#[test]
fn an_early_ack_is_found_as_a_report_that_does_not_count() {
    finds(Bug::EarlyAck, Invariant::NothingSignedLost);
}

#[test]
fn a_last_check_that_is_deaf_to_stops_is_found() {
    finds(Bug::DeafToStops, Invariant::StopKept);
}

/// One message, nothing else wrong, and a crash at the first await point, the second, and so on to the last of each
/// function; with hints, without any, and with a Twilio that took it and did not say so.
#[test]
fn a_crash_at_any_await_point_loses_nothing() {
    let calm = Weather::calm();
    let weathers = [
        calm.clone(),
        Weather { purge: 10_000, ..calm.clone() },
        Weather { post: 10_000, callback_lost: 5_000, ..calm.clone() },
    ];
    let mut points = Function::ALL.map(|function| (function, 0));
    for (function, n) in &mut points {
        for weather in &weathers {
            for seed in 0..4 {
                for at in 1.. {
                    let plan = Plan { weather: Some(weather.clone()), crash: Some((*function, at)), ..plan(seed, 1) };
                    let outcome = run(&plan);
                    if let Some(violation) = outcome.violation {
                        panic!("{function:?} at {at}, {weather:?}: {}", report(&plan, &violation));
                    }
                    if !outcome.crashed {
                        break;
                    }
                    *n += 1;
                }
            }
        }
    }
    println!("crashes of each function: {points:?}");
    assert!(points.iter().all(|(_, n)| *n > 10), "{points:?}");
}
