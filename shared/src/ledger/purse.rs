//! The purse: which credits an account has, when they end, and what was taken from them.
//!
//! A send does not touch it: charges are booked against `Clearing`, and taken from the lots, the one that ends first
//! first, whenever the purse changes. So the busy item of an account stays small, and still each credit is known by what
//! it came with.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Allowance, Book, Change, Line, MicroCredits, Occasion};

/// Where credits come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreditKind {
    /// With a plan or the trial.
    Included,
    /// Bought.
    Purchased,
}

impl CreditKind {
    fn book(self) -> Book {
        match self {
            Self::Included => Book::Included,
            Self::Purchased => Book::Purchased,
        }
    }

    fn origin(self) -> Book {
        match self {
            Self::Included => Book::Issued,
            Self::Purchased => Book::Sold,
        }
    }
}

/// Credits to give. Given once for each source, however often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What they come with: [`TRIAL`], or Stripe's id of the invoice or the Checkout Session.
    pub source: String,
    /// Where they come from.
    pub kind: CreditKind,
    /// How many.
    pub credits: MicroCredits,
    /// When they end; `None`: never.
    pub expires: Option<Timestamp>,
}

/// The source of the credits that a new account has.
pub const TRIAL: &str = "trial";

/// Credit of a new account: 100 credits.
pub const TRIAL_CREDIT: MicroCredits = MicroCredits::whole(100);

/// Credits that came together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lot {
    /// What they came with.
    pub source: String,
    /// Where they come from.
    pub kind: CreditKind,
    /// How many came.
    pub granted: MicroCredits,
    /// How many are left, of those whose use was taken from a lot.
    pub left: MicroCredits,
    /// When they end; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// What warnings about the use of credits go by: all credit that there was when the included credits came, and what was
/// bought since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Period {
    /// When it began.
    pub began: Timestamp,
    /// Credit to use.
    pub credit: MicroCredits,
    /// What had been used before.
    pub used_before: MicroCredits,
    /// The highest warning that was given, in percent.
    pub warned: u8,
}

/// Warnings, in percent of a period's credit.
pub const WARNINGS: [u8; 3] = [50, 80, 100];

/// The credits of an account.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purse {
    /// What is there, the first to end first.
    pub lots: Vec<Lot>,
    /// How much of what the allowance counts as used was taken from lots, less what was charged otherwise.
    pub cleared: Change,
    /// The warnings' period.
    pub period: Period,
    /// What may be used beyond all credit, if the customer wished it.
    pub overage: Option<Overage>,
    /// Counts the changes.
    pub revision: u32,
}

/// What may be used beyond all credit and is billed afterwards. It is a customer's wish; without it sending stops hard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overage {
    /// The most of one month.
    pub monthly_limit: MicroCredits,
    /// The month that `billed` counts, by the account's time zone: `2026-11`.
    pub month: String,
    /// Billed of it.
    pub billed: MicroCredits,
}

impl Overage {
    /// What of the limit is left in a month, for what is not billed yet.
    fn room(&self, month: &str) -> MicroCredits {
        let billed = if self.month == month { self.billed.0 } else { 0 };
        MicroCredits(self.monthly_limit.0.saturating_sub(billed))
    }
}

/// A change of a purse: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The purse after it, with the next revision.
    pub purse: Purse,
    /// What is posted.
    pub entries: Vec<(Occasion, Vec<Line>)>,
    /// What the allowance changes by.
    pub free: Change,
    /// What may be used beyond all credit from then on, if that changes.
    pub room: Option<MicroCredits>,
    /// Only if the allowance has still this much used, and enough free.
    pub only_if_used: Option<MicroCredits>,
}

/// How often what was used beyond all credit is billed.
pub const BILL_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// How long until the end of credits is tried again that are reserved at their end.
pub const END_AGAIN: SignedDuration = SignedDuration::from_hours(1);

impl Step {
    /// Bills what was used beyond all credit, if the customer's wish covers it. What it does not cover stays owed.
    fn bill(&mut self, beyond: MicroCredits, month: &str) {
        let Some(overage) = &mut self.purse.overage else { return };
        let covered = MicroCredits(beyond.0.min(overage.room(month).0));
        if covered.0 == 0 {
            return;
        }
        if overage.month != month {
            (overage.month, overage.billed) = (month.to_owned(), MicroCredits::ZERO);
        }
        overage.billed.0 = overage.billed.0.saturating_add(covered.0);
        let lines = vec![
            Line { book: Book::Clearing, amount: covered.plus() },
            Line { book: Book::Billed, amount: covered.minus() },
        ];
        self.purse.cleared = self.purse.cleared.and(covered.plus());
        self.entries.push((Occasion::Overage { revision: self.purse.revision }, lines));
        self.free = self.free.and(covered.plus());
    }
}

impl Purse {
    /// Of an account from before there were purses: all it ever had is the trial's.
    pub fn of_old(allowance: &Allowance) -> Self {
        let all = allowance.free.and(allowance.held.plus()).and(allowance.used.plus()).above();
        let lot = Lot { source: TRIAL.to_owned(), kind: CreditKind::Included, granted: all, left: all, expires: None };
        Self { lots: vec![lot], period: Period { credit: all, ..Period::default() }, ..Self::default() }
    }

    /// What was used and not taken from a lot yet.
    fn open(&self, used: MicroCredits) -> Change {
        used.plus().and(self.cleared.back())
    }

    /// As it would be if all that was used were taken from it now.
    #[must_use]
    pub fn drawn(&self, used: MicroCredits) -> Self {
        let mut purse = self.clone();
        purse.draw(used);
        purse
    }

    /// Takes what was used from the lots, the first to end first: the lines of it.
    fn draw(&mut self, used: MicroCredits) -> Vec<Line> {
        let mut open = self.open(used).above().0;
        let mut lines: Vec<Line> = Vec::new();
        let mut taken = MicroCredits::ZERO;
        for lot in &mut self.lots {
            let take = open.min(lot.left.0);
            open -= take;
            lot.left.0 -= take;
            taken.0 += take;
            let book = lot.kind.book();
            match lines.iter_mut().find(|line| line.book == book) {
                Some(line) => line.amount = line.amount.and(MicroCredits(take).minus()),
                None if take > 0 => lines.push(Line { book, amount: MicroCredits(take).minus() }),
                None => {}
            }
        }
        self.lots.retain(|lot| lot.left.0 > 0);
        if taken.0 > 0 {
            lines.push(Line { book: Book::Clearing, amount: taken.plus() });
            self.cleared = self.cleared.and(taken.plus());
        }
        lines
    }

    /// The beginning of each step: the next revision, and what was used is taken from the lots.
    fn step(&self, used: MicroCredits) -> Step {
        let mut purse = Self { revision: self.revision + 1, ..self.clone() };
        let drawn = purse.draw(used);
        let draw = Occasion::Draw { revision: purse.revision };
        let entries = if drawn.is_empty() { Vec::new() } else { vec![(draw, drawn)] };
        Step { purse, entries, free: Change::ZERO, room: None, only_if_used: None }
    }

    fn sort(&mut self) {
        // What never ends comes last; of two that end together the one that came first is used first.
        self.lots.sort_by_key(|lot| (lot.expires.is_none(), lot.expires));
    }

    /// With more credits. They pay first what is owed: `free` is one number.
    pub fn grant(&self, allowance: &Allowance, grant: &Grant, now: Timestamp) -> Step {
        let mut step = self.step(allowance.used);
        let Grant { source, kind, credits, expires } = grant.clone();
        let lines = vec![
            Line { book: kind.book(), amount: credits.plus() },
            Line { book: kind.origin(), amount: credits.minus() },
        ];
        step.entries.push((Occasion::Grant { source: source.clone() }, lines));
        step.free = credits.plus();
        let purse = &mut step.purse;
        purse.lots.push(Lot { source, kind, granted: credits, left: credits, expires });
        purse.sort();
        purse.period = match kind {
            CreditKind::Included => Period {
                began: now,
                credit: allowance.free.and(credits.plus()).and(allowance.held.plus()).above(),
                used_before: allowance.used,
                warned: 0,
            },
            // More credit may put the use below a warning again; what was given is not given twice in a period.
            CreditKind::Purchased => {
                Period { credit: MicroCredits(purse.period.credit.0.saturating_add(credits.0)), ..purse.period }
            }
        };
        step
    }

    /// Without what has ended by now, as far as it is not reserved; `None` if nothing has.
    pub fn end(&self, allowance: &Allowance, now: Timestamp) -> Option<Step> {
        let ended = |lot: &Lot| lot.expires.is_some_and(|expires| expires <= now);
        if !self.lots.iter().any(ended) {
            return None;
        }
        let mut step = self.step(allowance.used);
        // What is reserved will be taken from what ends first, and keeps it until it is charged or given back.
        let (mut room, mut reserved) = (allowance.credit().0, allowance.held.0);
        let revision = step.purse.revision;
        for lot in step.purse.lots.iter_mut().filter(|lot| ended(lot)) {
            let kept = reserved.min(lot.left.0);
            reserved -= kept;
            let gone = MicroCredits(room.min(lot.left.0 - kept));
            if gone.0 == 0 {
                continue;
            }
            room -= gone.0;
            lot.left.0 -= gone.0;
            step.free = step.free.and(gone.minus());
            let lines = vec![
                Line { book: lot.kind.book(), amount: gone.minus() },
                Line { book: Book::Expired, amount: gone.plus() },
            ];
            step.entries.push((Occasion::Expiry { source: lot.source.clone(), revision }, lines));
        }
        step.purse.lots.retain(|lot| lot.left.0 > 0);
        // A charge in between would have come out of the lot that ends.
        step.only_if_used = Some(allowance.used);
        (step.purse.lots != self.lots).then_some(step)
    }

    /// Without what a payment brought that was taken back: what is left of it goes, what was spent of it is owed. `by`:
    /// Stripe's id of the refund or dispute.
    pub fn claw_back(&self, allowance: &Allowance, source: &str, credits: MicroCredits, by: &str) -> Step {
        let mut step = self.step(allowance.used);
        let purse = &mut step.purse;
        let mut lines = vec![Line { book: Book::Refunds, amount: credits.plus() }];
        let mut rest = credits;
        if let Some(lot) = purse.lots.iter_mut().find(|lot| lot.source == source) {
            let gone = MicroCredits(rest.0.min(lot.left.0));
            lot.left.0 -= gone.0;
            rest.0 -= gone.0;
            if gone.0 > 0 {
                lines.push(Line { book: lot.kind.book(), amount: gone.minus() });
            }
        }
        if rest.0 > 0 {
            lines.push(Line { book: Book::Clearing, amount: rest.minus() });
            purse.cleared = purse.cleared.and(rest.minus());
        }
        purse.lots.retain(|lot| lot.left.0 > 0);
        step.entries.push((Occasion::ClawBack { by: by.to_owned() }, lines));
        step.free = credits.minus();
        step
    }

    /// With this wish about what may be used beyond all credit: the most of a month, or nothing. What was used of it up
    /// to now is billed. `month`: the current one.
    pub fn with_overage(&self, allowance: &Allowance, limit: Option<MicroCredits>, month: &str) -> Step {
        let mut step = self.step(allowance.used);
        step.bill(allowance.beyond(), month);
        let purse = &mut step.purse;
        let billed = match &purse.overage {
            Some(overage) if overage.month == month => overage.billed,
            Some(_) | None => MicroCredits::ZERO,
        };
        purse.overage = limit.map(|monthly_limit| Overage { monthly_limit, month: month.to_owned(), billed });
        step.room = Some(purse.overage.as_ref().map_or(MicroCredits::ZERO, |overage| overage.room(month)));
        step
    }

    /// With what was used beyond all credit billed, and the room of this month; `None` if there is nothing to do.
    pub fn billed(&self, allowance: &Allowance, month: &str) -> Option<Step> {
        let overage = self.overage.as_ref()?;
        if allowance.beyond() == MicroCredits::ZERO && allowance.room == overage.room(month) {
            return None;
        }
        let mut step = self.step(allowance.used);
        step.bill(allowance.beyond(), month);
        step.room = step.purse.overage.as_ref().map(|overage| overage.room(month));
        Some(step)
    }

    /// When it has to be looked at: credits end then, or an hour of what is used beyond all credit.
    pub fn due(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.lots.iter().filter_map(|lot| lot.expires).min();
        let hour = self.overage.as_ref().map(|_| now + BILL_EVERY);
        ends.into_iter().chain(hour).min()
    }

    /// The warning to give now: the highest that the use has reached, if it was not given in this period. None of a purse
    /// that is not stored yet, of an account from before there were purses: nothing could note that it was given.
    pub fn warning(&self, used: MicroCredits) -> Option<u8> {
        if self.revision == 0 {
            return None;
        }
        let Period { credit, used_before, warned, .. } = self.period;
        let spent = used.0.saturating_sub(used_before.0);
        let reached =
            |percent: &u8| credit.0 > 0 && u128::from(spent) * 100 >= u128::from(credit.0) * u128::from(*percent);
        WARNINGS.into_iter().rev().find(reached).filter(|percent| *percent > warned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(days: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days)
    }

    fn whole(n: u64) -> MicroCredits {
        MicroCredits::whole(n)
    }

    fn grant(source: &str, kind: CreditKind, credits: u64, expires: Option<i64>) -> Grant {
        Grant { source: source.to_owned(), kind, credits: whole(credits), expires: expires.map(at) }
    }

    /// A purse with its allowance, as the store keeps them.
    struct Account {
        purse: Purse,
        allowance: Allowance,
    }

    impl Account {
        fn new() -> Self {
            Self { purse: Purse::default(), allowance: Allowance::new(MicroCredits::ZERO, at(0)) }
        }

        fn apply(&mut self, step: Step) -> Vec<String> {
            let sums = step.entries.iter().map(|(_, lines)| lines.iter().map(|line| line.amount.0).sum::<i64>());
            assert!(sums.clone().all(|sum| sum == 0), "{step:?}");
            self.allowance.free = self.allowance.free.and(step.free);
            self.purse = step.purse;
            let line = |line: &Line| format!("{} {}", line.book.as_str(), line.amount.0 / 1_000_000);
            let lines = |lines: &[Line]| lines.iter().map(line).collect::<Vec<_>>().join(", ");
            step.entries.iter().map(|(cause, of)| format!("{}: {}", cause.word(), lines(of))).collect()
        }

        fn grant(&mut self, grant: &Grant) -> Vec<String> {
            self.apply(self.purse.grant(&self.allowance, grant, at(0)))
        }

        fn spend(&mut self, credits: u64) {
            self.allowance.free = self.allowance.free.and(whole(credits).minus());
            self.allowance.used.0 += whole(credits).0;
        }

        fn hold(&mut self, credits: u64) {
            self.allowance.reserve(whole(credits), 1, at(0));
        }

        /// What is left of each lot, all that was used taken from it.
        fn lots(&self) -> Vec<(String, u64)> {
            let purse = self.purse.drawn(self.allowance.used);
            purse.lots.iter().map(|lot| (lot.source.clone(), lot.left.0 / 1_000_000)).collect()
        }
    }

    fn lot(source: &str, left: u64) -> (String, u64) {
        (source.to_owned(), left)
    }

    #[test]
    fn what_ends_first_is_used_first_and_what_never_ends_last() {
        let mut account = Account::new();
        account.grant(&grant("cs_1", CreditKind::Purchased, 10, None));
        account.grant(&grant("in_1", CreditKind::Included, 10, Some(30)));
        account.grant(&grant("cs_2", CreditKind::Purchased, 10, Some(20)));
        account.spend(12);
        assert_eq!(account.lots(), [lot("in_1", 8), lot("cs_1", 10)]);
        let posted = account.grant(&grant("cs_3", CreditKind::Purchased, 5, Some(5)));
        assert_eq!(
            posted,
            ["DRAW#4: purchased -10, included -2, clearing 12", "GRANT#cs_3: purchased 5, sold -5"],
            "what was used before new credits came is not taken from them"
        );
        assert_eq!(account.lots(), [lot("cs_3", 5), lot("in_1", 8), lot("cs_1", 10)]);
    }

    #[test]
    fn credits_end_at_their_time_except_what_is_reserved() {
        let mut account = Account::new();
        account.grant(&grant("in_1", CreditKind::Included, 10, Some(30)));
        account.hold(4);
        assert_eq!(account.purse.end(&account.allowance, at(29)), None);
        assert_eq!(account.purse.due(at(29)), Some(at(30)));
        let step = account.purse.end(&account.allowance, at(30)).unwrap();
        assert_eq!(step.only_if_used, Some(MicroCredits::ZERO));
        assert_eq!(account.apply(step), ["EXPIRY#in_1#2: included -6, expired 6"]);
        assert_eq!((account.allowance.available(), account.lots()), (MicroCredits::ZERO, vec![lot("in_1", 4)]));
        assert_eq!(account.purse.due(at(30)), Some(at(30)));
        assert_eq!(account.purse.end(&account.allowance, at(30)), None, "all of it is reserved");
        let mut richer =
            account.purse.grant(&account.allowance, &grant("cs_1", CreditKind::Purchased, 9, None), at(30));
        assert_eq!(richer.purse.lots.remove(1).left, whole(9));
        let allowance = Allowance { free: whole(9).plus(), ..account.allowance.clone() };
        assert_eq!(richer.purse.end(&allowance, at(30)), None, "also when new credits come");
        // Three are charged, one is given back and ends.
        account.allowance.held = MicroCredits::ZERO;
        account.allowance.used = whole(3);
        account.allowance.free = whole(1).plus();
        let step = account.purse.end(&account.allowance, at(31)).unwrap();
        assert_eq!(account.apply(step), ["DRAW#3: included -3, clearing 3", "EXPIRY#in_1#3: included -1, expired 1"]);
        assert_eq!((account.allowance.available(), account.lots()), (MicroCredits::ZERO, vec![]));
        assert_eq!(account.purse.due(at(31)), None);
    }

    #[test]
    fn what_is_taken_back_after_it_was_spent_is_owed_and_the_next_credits_pay_it() {
        let mut account = Account::new();
        account.grant(&grant("cs_1", CreditKind::Purchased, 10, None));
        account.spend(7);
        let step = account.purse.claw_back(&account.allowance, "cs_1", whole(10), "re_1");
        assert_eq!(
            account.apply(step),
            ["DRAW#2: purchased -7, clearing 7", "CLAWBACK#re_1: refunds 10, purchased -3, clearing -7"]
        );
        let Allowance { free, .. } = account.allowance;
        assert_eq!(
            (free, account.allowance.available(), account.allowance.owed()),
            (whole(7).minus(), whole(0), whole(7))
        );
        account.grant(&grant("cs_2", CreditKind::Purchased, 20, None));
        assert_eq!((account.allowance.available(), account.allowance.owed()), (whole(13), whole(0)));
        assert_eq!(account.lots(), [lot("cs_2", 13)]);
    }

    #[test]
    fn each_warning_comes_once_in_a_period_and_the_next_period_begins_anew() {
        let mut account = Account::new();
        account.grant(&grant("in_1", CreditKind::Included, 100, None));
        let mut warned = Vec::new();
        for _ in 0..110 {
            account.spend(1);
            if let Some(percent) = account.purse.warning(account.allowance.used) {
                warned.push((account.allowance.used.0 / 1_000_000, percent));
                account.purse.period.warned = percent;
            }
        }
        assert_eq!(warned, [(50, 50), (80, 80), (100, 100)]);
        account.grant(&grant("in_2", CreditKind::Included, 100, None));
        assert_eq!(account.purse.period.credit, whole(90), "ten were owed");
        account.spend(40);
        assert_eq!(account.purse.warning(account.allowance.used), None);
        account.spend(40);
        assert_eq!(account.purse.warning(account.allowance.used), Some(80), "50 is skipped");
    }

    #[test]
    fn an_account_from_before_has_all_it_ever_had_from_the_trial() {
        let mut allowance = Allowance::new(whole(100), at(0));
        allowance.reserve(whole(10), 10, at(0));
        allowance.used = whole(30);
        allowance.free = whole(60).plus();
        let purse = Purse::of_old(&allowance);
        assert_eq!(purse.lots[0].left, whole(100));
        assert_eq!(purse.drawn(allowance.used).lots[0].left, whole(70));
        assert_eq!(purse.warning(whole(100)), None, "it would come again and again");
    }
}
