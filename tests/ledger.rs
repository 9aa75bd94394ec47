//! The ledger against a trivial model of it: any sequence of reservations (hundreds at once), charges, releases, late
//! confirmations, grants, endings, and payments taken back comes to the same credits, and the books always add up.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use jiff::SignedDuration;
use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use telbuddy::ids::AccountId;
use telbuddy::ledger::{
    Book, Change, CreditKind, Entry, Grant, KeepPurse, MicroCredits, PostOutcome, Posted, ReadUsage, RollUpUsage,
    TRIAL, Totals, give_credits, take_back_credits, tend_credits,
};
use telbuddy::message::{
    Message, Outcome, Outgoing, ReadMessages, RecordMessage, RecordOutcome, Recorded, Report, Status, UpdateMessage,
    apply_report, unconfirmed,
};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use tokio::runtime::Runtime;

/// What may happen. Messages and grants are named by when they came.
#[derive(Debug, Clone)]
enum Step {
    /// So many messages of so many credits each, all at once.
    Reserve { messages: usize, credits: u32 },
    /// Twilio takes the oldest that waits.
    Charge,
    /// The oldest that waits comes to nothing.
    Release,
    /// The oldest that waits cannot be settled and is given back.
    GiveUp,
    /// Twilio tells of the oldest that was given up.
    Confirm,
    /// Credits come, to end after so many hours.
    Grant { credits: u32, hours: Option<u32> },
    /// A part of the newest grant's payment is taken back.
    TakeBack { percent: u8 },
    /// Time goes by.
    Wait { hours: u32 },
}

/// Credits that came together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lot {
    source: String,
    left: u64,
    expires: Option<u32>,
}

/// One number for everything; what is used is taken from a lot at once.
#[derive(Debug, Clone)]
struct Model {
    hour: u32,
    free: i64,
    waiting: Vec<u32>,
    given_up: Vec<u32>,
    used: u64,
    /// Used or taken back, and covered by no lot.
    debt: u64,
    lots: Vec<Lot>,
    grants: Vec<u32>,
    taken_back: Vec<u32>,
}

impl Model {
    fn use_up(&mut self, credits: u32) {
        self.debt += u64::from(credits);
        for lot in &mut self.lots {
            let take = lot.left.min(self.debt);
            lot.left -= take;
            self.debt -= take;
        }
        self.lots.retain(|lot| lot.left > 0);
    }

    fn end(&mut self) {
        let mut reserved: u64 = self.waiting.iter().map(|credits| u64::from(*credits)).sum();
        for lot in self.lots.iter_mut().filter(|lot| lot.expires.is_some_and(|end| end <= self.hour)) {
            let kept = reserved.min(lot.left);
            reserved -= kept;
            let gone = (lot.left - kept).min(u64::try_from(self.free).unwrap_or(0));
            lot.left -= gone;
            self.free -= i64::try_from(gone).unwrap();
        }
        self.lots.retain(|lot| lot.left > 0);
    }
}

const FIRST: u32 = 100;

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let lots = vec![Lot { source: TRIAL.to_owned(), left: u64::from(FIRST), expires: None }];
        let (waiting, given_up, grants, taken_back) = (vec![], vec![], vec![], vec![]);
        let free = i64::from(FIRST);
        Just(Self { hour: 0, free, waiting, given_up, used: 0, debt: 0, lots, grants, taken_back }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        prop_oneof![
            4 => (1..40_usize, 1..6_u32).prop_map(|(messages, credits)| Step::Reserve { messages, credits }),
            1 => (1..4_u32).prop_map(|credits| Step::Reserve { messages: 500, credits }),
            6 => Just(Step::Charge),
            3 => Just(Step::Release),
            3 => Just(Step::GiveUp),
            3 => Just(Step::Confirm),
            3 => (1..60_u32, prop::option::of(1..50_u32)).prop_map(|(credits, hours)| Step::Grant { credits, hours }),
            1 => (1..=100_u8).prop_map(|percent| Step::TakeBack { percent }),
            2 => (1..30_u32).prop_map(|hours| Step::Wait { hours }),
        ]
        .boxed()
    }

    fn apply(mut state: Self, step: &Step) -> Self {
        let model = &mut state;
        match *step {
            Step::Reserve { messages, credits } => {
                let covered = usize::try_from(model.free / i64::from(credits)).unwrap_or(0).min(messages);
                model.waiting.extend(vec![credits; covered]);
                model.free -= i64::from(credits) * i64::try_from(covered).unwrap();
            }
            Step::Charge if !model.waiting.is_empty() => {
                let credits = model.waiting.remove(0);
                model.used += u64::from(credits);
                model.use_up(credits);
            }
            Step::Release if !model.waiting.is_empty() => model.free += i64::from(model.waiting.remove(0)),
            Step::GiveUp if !model.waiting.is_empty() => {
                let credits = model.waiting.remove(0);
                model.free += i64::from(credits);
                model.given_up.push(credits);
            }
            Step::Confirm if !model.given_up.is_empty() => {
                let credits = model.given_up.remove(0);
                model.free -= i64::from(credits);
                model.used += u64::from(credits);
                model.use_up(credits);
            }
            Step::Grant { credits, hours } => {
                let source = format!("cs_{}", model.grants.len());
                model.grants.push(credits);
                model.free += i64::from(credits);
                let expires = hours.map(|hours| model.hour + hours);
                model.lots.push(Lot { source, left: u64::from(credits), expires });
                model.lots.sort_by_key(|lot| (lot.expires.is_none(), lot.expires));
                model.use_up(0);
            }
            Step::TakeBack { percent } if model.grants.len() > model.taken_back.len() => {
                let newest = model.grants.len() - 1;
                let amount = model.grants[newest] * u32::from(percent) / 100;
                model.taken_back.push(amount);
                model.free -= i64::from(amount);
                let source = format!("cs_{newest}");
                let mut rest = u64::from(amount);
                if let Some(lot) = model.lots.iter_mut().find(|lot| lot.source == source) {
                    let gone = lot.left.min(rest);
                    lot.left -= gone;
                    rest -= gone;
                }
                model.use_up(u32::try_from(rest).unwrap());
            }
            Step::Wait { hours } => {
                model.hour += hours;
                model.end();
            }
            Step::Charge | Step::Release | Step::GiveUp | Step::Confirm | Step::TakeBack { .. } => {}
        }
        state
    }
}

/// The rules, with the fake world's store.
struct Ledger {
    runtime: Arc<Runtime>,
    world: World,
    account: AccountId,
    waiting: Vec<Message>,
    given_up: Vec<Message>,
    grants: Vec<u32>,
    taken_back: usize,
}

impl Ledger {
    async fn now_at(&self, message: &Message) -> Message {
        self.world.load_message(self.account, message.id).await.unwrap().unwrap()
    }

    async fn outcome(&self, message: &Message, outcome: &Outcome) -> Message {
        let claimed = fresh::claimed(&self.world, message, self.world.now()).await;
        self.world.record_outcome(&claimed, outcome, self.world.now()).await.unwrap();
        self.now_at(message).await
    }

    /// Charged by several workers at once: one of them counts.
    async fn charge(&self, message: &Message) {
        let (world, now) = (&self.world, self.world.now());
        let entries: Vec<_> = (0..3).map(|_| fresh::charge(world, message, now)).collect();
        let posted = join_all(entries.into_iter().map(|entry| world.post_charge(message, entry, now, &[], None))).await;
        assert_eq!(posted.iter().filter(|one| **one == Ok(Posted::Charged)).count(), 1, "{posted:?}");
    }

    async fn act(&mut self, step: Step) {
        let (world, account, now) = (self.world.clone(), self.account, self.world.now());
        match step {
            Step::Reserve { messages, credits } => {
                let ask = |_| Outgoing { daily_ceiling: 1_000_000, ..fresh::outgoing(&world, account, credits, now) };
                let asked: Vec<_> = (0..messages).map(ask).collect();
                let answers = join_all(asked.iter().map(|outgoing| world.record_message(outgoing))).await;
                for (outgoing, answer) in asked.into_iter().zip(answers) {
                    if answer == Ok(Recorded::Accepted) {
                        self.waiting.push(outgoing.message);
                    } else {
                        assert!(matches!(answer, Ok(Recorded::Refused(_))), "{answer:?}");
                    }
                }
            }
            Step::Charge if !self.waiting.is_empty() => {
                let message = self.waiting.remove(0);
                let sent = self.outcome(&message, &Outcome::Sent { sid: fresh::word(&world) }).await;
                self.charge(&sent).await;
            }
            Step::Release if !self.waiting.is_empty() => {
                let message = self.waiting.remove(0);
                let over = self.outcome(&message, &Outcome::Expired).await;
                let released = join_all((0..3).map(|_| world.post_release(&over, now, &[], None))).await;
                assert_eq!(released.iter().filter(|one| **one == Ok(true)).count(), 1, "{released:?}");
            }
            Step::GiveUp if !self.waiting.is_empty() => {
                let message = self.waiting.remove(0);
                let unknown = self.outcome(&message, &Outcome::Unknown).await;
                assert_eq!(world.update_message(&unconfirmed(&unknown, now), None).await, Ok(true));
                let given_up = self.now_at(&message).await;
                assert_eq!(world.post_release(&given_up, now, &[], None).await, Ok(true));
                self.given_up.push(message);
            }
            Step::Confirm if !self.given_up.is_empty() => {
                let message = self.given_up.remove(0);
                let held = self.now_at(&message).await;
                let report = Report { sid: fresh::word(&world), status: Status::Sent, error_code: None };
                assert_eq!(world.update_message(&apply_report(&held, &report, now).unwrap(), None).await, Ok(true));
                let confirmed = self.now_at(&message).await;
                self.charge(&confirmed).await;
            }
            Step::Grant { credits, hours } => {
                let grant = Grant {
                    source: format!("cs_{}", self.grants.len()),
                    kind: if hours.is_some() { CreditKind::Included } else { CreditKind::Purchased },
                    credits: MicroCredits::whole(u64::from(credits)),
                    expires: hours.map(|hours| now + SignedDuration::from_hours(i64::from(hours))),
                };
                self.grants.push(credits);
                for given in join_all((0..3).map(|_| give_credits(&world, account, &grant, now))).await {
                    given.unwrap();
                }
            }
            Step::TakeBack { percent } if self.grants.len() > self.taken_back => {
                let newest = self.grants.len() - 1;
                let amount = MicroCredits::whole(u64::from(self.grants[newest] * u32::from(percent) / 100));
                let (source, by) = (format!("cs_{newest}"), format!("re_{}", self.taken_back));
                self.taken_back += 1;
                for _ in 0..2 {
                    take_back_credits(&world, account, &source, amount, &by, now).await.unwrap();
                }
            }
            Step::Wait { hours } => {
                world.advance(SignedDuration::from_hours(i64::from(hours)));
                tend_credits(&world, account, world.now()).await.unwrap();
            }
            Step::Charge | Step::Release | Step::GiveUp | Step::Confirm | Step::TakeBack { .. } => {}
        }
    }

    async fn check(&self, model: &Model) {
        let facts = self.world.load_purse(self.account).await.unwrap().unwrap();
        let whole = |credits: MicroCredits| credits.0 / 1_000_000;
        let allowance = &facts.allowance;
        assert_eq!(allowance.free.0, model.free * 1_000_000);
        assert_eq!(whole(allowance.held), model.waiting.iter().map(|credits| u64::from(*credits)).sum::<u64>());
        assert_eq!(whole(allowance.used), model.used);
        let purse = facts.purse.drawn(allowance.used);
        let lots: Vec<_> = purse.lots.iter().map(|lot| (lot.source.as_str(), whole(lot.left))).collect();
        let expected: Vec<_> = model.lots.iter().map(|lot| (lot.source.as_str(), lot.left)).collect();
        assert_eq!(lots, expected);
        // The books.
        let mut books: BTreeMap<Book, Change> = BTreeMap::new();
        let entries = self.world.entries(self.account);
        for entry in &entries {
            assert!(entry.balanced(), "{entry:?}");
            for line in &entry.lines {
                let sum = books.entry(line.book).or_default();
                *sum = sum.and(line.amount);
            }
        }
        let of = |book| books.get(&book).copied().unwrap_or_default();
        let theirs = of(Book::Included).and(of(Book::Purchased)).and(of(Book::Clearing));
        assert_eq!(theirs, allowance.free.and(allowance.held.plus()), "what the books say the customer has");
        assert_eq!(of(Book::UsedMessageSegments), allowance.used.plus());
        assert_eq!(books.values().map(|sum| sum.0).sum::<i64>(), 0);
    }

    /// What was rolled up is what was posted, to the last entry.
    async fn check_totals(&self) {
        // What ends in a run is counted in the next.
        for _ in 0..2 {
            usage_rollup::handle(&self.world).await.unwrap();
        }
        let mut expected: BTreeMap<String, Totals> = BTreeMap::new();
        for entry in self.world.entries(self.account).iter().filter(|entry: &&Entry| !entry.lines.is_empty()) {
            expected.entry(entry.month.clone()).or_default().add(entry);
        }
        let totals: BTreeMap<_, _> = self.world.load_totals(self.account).await.unwrap().into_iter().collect();
        assert_eq!(totals, expected);
        assert_eq!(self.world.load_journal(0, 1).await, Ok(vec![]));
    }
}

impl StateMachineTest for Ledger {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime = Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap());
        let world = World::new(1);
        let account = runtime.block_on(fresh::account(&world, u64::from(FIRST)));
        let (waiting, given_up, grants) = (Vec::new(), Vec::new(), Vec::new());
        Self { runtime, world, account, waiting, given_up, grants, taken_back: 0 }
    }

    fn apply(mut ledger: Self, _: &Model, step: Step) -> Self {
        let runtime = Arc::clone(&ledger.runtime);
        runtime.block_on(ledger.act(step));
        ledger
    }

    fn check_invariants(ledger: &Self, model: &Model) {
        ledger.runtime.block_on(ledger.check(model));
    }

    fn teardown(ledger: Self, _: Model) {
        ledger.runtime.block_on(ledger.check_totals());
    }
}

prop_state_machine! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn whatever_happens_in_whatever_order_the_ledger_comes_to_the_same_as_a_trivial_one(sequential 1..60 => Ledger);
}
