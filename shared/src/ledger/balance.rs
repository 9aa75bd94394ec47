//! An account's credits as they are shown: the numbers of one look that go together.

use jiff::{SignedDuration, Timestamp};

use super::{Lot, MicroCredits, Overage, Period, PurseFacts};

/// How far ahead one is told of credits that end.
pub const ENDING_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// What an account has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// Credit that is free for new messages.
    pub available: MicroCredits,
    /// Reserved for messages on their way.
    pub held: MicroCredits,
    /// Everything that was ever charged.
    pub used: MicroCredits,
    /// Used beyond all credit and what may be used beyond it.
    pub owed: MicroCredits,
    /// What is left of each, once all that was used is taken from them; the first to end first. Together they are what is
    /// available and held, as long as nothing is reserved or used beyond all credit.
    pub lots: Vec<Lot>,
    /// What warnings go by.
    pub period: Period,
    /// What was used of the period's credit.
    pub used_in_period: MicroCredits,
    /// What may be used beyond all credit, if it is wished; `billed` is that of the month of the look.
    pub overage: Option<Overage>,
    /// How much new messages may still use beyond all credit.
    pub beyond_left: MicroCredits,
    /// Used beyond all credit and not billed yet.
    pub beyond_unbilled: MicroCredits,
}

impl Balance {
    /// Of what was read together.
    pub fn of(facts: &PurseFacts, now: Timestamp) -> Self {
        let PurseFacts { purse, allowance, zone } = facts;
        let month = zone.month(now);
        let overage = purse.overage.clone().map(|overage| {
            let anew = Overage { month: month.clone(), billed: MicroCredits::ZERO, ..overage.clone() };
            if overage.month == month { overage } else { anew }
        });
        Self {
            overage,
            beyond_left: MicroCredits(allowance.available().0.saturating_sub(allowance.credit().0)),
            beyond_unbilled: allowance.beyond(),
            available: allowance.credit(),
            held: allowance.held,
            used: allowance.used,
            owed: allowance.owed(),
            lots: purse.drawn(allowance.used).lots,
            period: purse.period,
            used_in_period: MicroCredits(allowance.used.0.saturating_sub(purse.period.used_before.0)),
        }
    }

    /// What is left in all lots.
    pub fn left(&self) -> MicroCredits {
        sum(&self.lots)
    }

    /// Lots that end within [`ENDING_SOON`], the first to end first, and what is left of them. One whose time is over
    /// holds what is reserved, until that is used or given back.
    pub fn ending_soon(&self, now: Timestamp) -> (Vec<Lot>, MicroCredits) {
        let soon = |lot: &&Lot| lot.expires.is_some_and(|expires| expires <= now + ENDING_SOON);
        let lots: Vec<Lot> = self.lots.iter().filter(soon).cloned().collect();
        let left = sum(&lots);
        (lots, left)
    }

    /// How much of the period's credit is used, in percent, rounded down; `None` if there was none.
    pub fn percent(&self) -> Option<u64> {
        let percent = u128::from(self.used_in_period.0) * 100 / u128::from(self.period.credit.0).max(1);
        (self.period.credit.0 > 0).then(|| u64::try_from(percent).unwrap_or(u64::MAX))
    }
}

fn sum(lots: &[Lot]) -> MicroCredits {
    MicroCredits(lots.iter().fold(0, |sum, lot| sum.saturating_add(lot.left.0)))
}

impl PurseFacts {
    /// Whether purse and allowance are of one moment. A message that is accepted, charged or given back changes the
    /// allowance alone and moves credits between what is free, held and used, so that they go together all the same; only
    /// a change of the purse, which changes both, can come between the two reads and show here.
    pub fn go_together(&self) -> bool {
        let lots: i128 = self.purse.lots.iter().map(|lot| i128::from(lot.left.0)).sum();
        let ever_there = lots + i128::from(self.purse.cleared.0);
        let allowance = &self.allowance;
        let accounted_for = i128::from(allowance.free.0) + i128::from(allowance.held.0) + i128::from(allowance.used.0);
        ever_there == accounted_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Allowance, CreditKind, Grant, Purse, Zone};

    fn whole(n: u64) -> MicroCredits {
        MicroCredits::whole(n)
    }

    fn at(days: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * days)
    }

    fn granted(facts: &PurseFacts, source: &str, credits: u64, expires: Option<i64>) -> PurseFacts {
        let kind = if expires.is_some() { CreditKind::Included } else { CreditKind::Purchased };
        let grant = Grant { source: source.to_owned(), kind, credits: whole(credits), expires: expires.map(at) };
        let step = facts.purse.grant(&facts.allowance, &grant, at(0));
        let allowance = Allowance { free: facts.allowance.free.and(step.free), ..facts.allowance.clone() };
        PurseFacts { purse: step.purse, allowance, ..facts.clone() }
    }

    fn nothing() -> PurseFacts {
        let allowance = Allowance::new(MicroCredits::ZERO, at(0));
        PurseFacts { purse: Purse::default(), allowance, zone: Zone::default() }
    }

    #[test]
    fn what_is_left_in_lots_is_what_is_available_and_held() {
        let mut facts = granted(&granted(&nothing(), "in_1", 10, Some(20)), "cs_1", 5, None);
        facts.allowance.free = whole(6).plus();
        (facts.allowance.held, facts.allowance.used) = (whole(2), whole(7));
        assert!(facts.go_together());
        let balance = Balance::of(&facts, at(1));
        assert_eq!((balance.left(), balance.available, balance.held), (whole(8), whole(6), whole(2)));
        let left: Vec<_> = balance.lots.iter().map(|lot| (lot.source.as_str(), lot.left)).collect();
        assert_eq!(left, [("in_1", whole(3)), ("cs_1", whole(5))]);
        assert_eq!((balance.period.credit, balance.used_in_period, balance.percent()), (whole(15), whole(7), Some(46)));
    }

    #[test]
    fn what_ends_within_thirty_days_is_told_and_what_never_ends_or_later_is_not() {
        let all = [("in_1", 1, Some(40)), ("in_2", 2, Some(30)), ("in_3", 4, Some(31)), ("cs_1", 8, None)];
        let facts = all.iter().fold(nothing(), |facts, (source, n, ends)| granted(&facts, source, *n, *ends));
        let (lots, left) = Balance::of(&facts, at(1)).ending_soon(at(1));
        let sources: Vec<_> = lots.iter().map(|lot| lot.source.as_str()).collect();
        assert_eq!((sources, left), (vec!["in_2", "in_3"], whole(6)));
    }

    #[test]
    fn what_is_owed_is_missing_in_the_lots() {
        let mut facts = granted(&nothing(), "cs_1", 5, None);
        facts.allowance.free = whole(3).minus();
        (facts.allowance.held, facts.allowance.used) = (whole(2), whole(6));
        assert!(facts.go_together());
        let balance = Balance::of(&facts, at(1));
        assert_eq!((balance.available, balance.owed, balance.left()), (whole(0), whole(3), whole(0)));
        assert_eq!((balance.percent(), Balance::of(&nothing(), at(1)).percent()), (Some(120), None));
    }

    #[test]
    fn what_may_be_used_beyond_is_shown_beside_the_credit_and_its_month_begins_anew() {
        let mut facts = granted(&nothing(), "cs_1", 5, None);
        let step = facts.purse.with_overage(&facts.allowance, Some(whole(20)), "1970-01");
        facts.allowance.room = step.room.unwrap();
        facts.purse = step.purse;
        facts.allowance.free = whole(4).minus();
        (facts.allowance.held, facts.allowance.used) = (whole(1), whole(8));
        assert!(facts.go_together());
        let balance = Balance::of(&facts, at(1));
        assert_eq!((balance.available, balance.owed, balance.left()), (whole(0), whole(0), whole(0)));
        assert_eq!((balance.beyond_left, balance.beyond_unbilled), (whole(16), whole(3)));
        let step = facts.purse.billed(&facts.allowance, "1970-01").unwrap();
        facts.allowance.free = facts.allowance.free.and(step.free);
        facts.allowance.room = step.room.unwrap();
        facts.purse = step.purse;
        assert!(facts.go_together());
        let billed = |now| Balance::of(&facts, now).overage.map(|overage| (overage.month, overage.billed));
        assert_eq!(billed(at(1)), Some(("1970-01".to_owned(), whole(3))));
        assert_eq!(billed(at(40)), Some(("1970-02".to_owned(), whole(0))));
        let balance = Balance::of(&facts, at(1));
        assert_eq!((balance.beyond_left, balance.beyond_unbilled, balance.available), (whole(16), whole(0), whole(0)));
    }

    #[test]
    fn a_purse_of_another_moment_is_seen() {
        let before = granted(&nothing(), "cs_1", 5, None);
        let after = granted(&before, "cs_2", 5, None);
        assert!(before.go_together() && after.go_together());
        assert!(!PurseFacts { purse: after.purse.clone(), ..before.clone() }.go_together());
        assert!(!PurseFacts { allowance: after.allowance, ..before }.go_together());
    }
}
