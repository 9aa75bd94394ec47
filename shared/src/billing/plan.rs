//! What is sold: plans with included credits, and credits by themselves. Data, in one place.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::StripeId;
use super::object::{Subscription, SubscriptionStatus};
use crate::ledger::MicroCredits;

/// A plan's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlanId {
    /// What every account begins with. It is not bought and does not renew.
    Trial,
    /// The small one.
    Starter,
    /// The middle one.
    Growth,
    /// The large one.
    Scale,
}

impl PlanId {
    /// The word in configuration; the same as in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Starter => "starter",
            Self::Growth => "growth",
            Self::Scale => "scale",
        }
    }
}

/// A plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub id: PlanId,
    /// What people call it.
    pub name: &'static str,
    /// A month of it, in cents. Stripe's price of the plan has to be the same.
    pub cents_a_month: u32,
    /// Credits that come with each month. Of the trial: once.
    pub included: MicroCredits,
}

/// All plans, cheapest first.
pub const PLANS: [Plan; 4] = [
    Plan { id: PlanId::Trial, name: "Trial", cents_a_month: 0, included: crate::ledger::TRIAL_CREDIT },
    Plan { id: PlanId::Starter, name: "Starter", cents_a_month: 1_900, included: MicroCredits::whole(2_000) },
    Plan { id: PlanId::Growth, name: "Growth", cents_a_month: 4_900, included: MicroCredits::whole(6_000) },
    Plan { id: PlanId::Scale, name: "Scale", cents_a_month: 14_900, included: MicroCredits::whole(20_000) },
];

impl Plan {
    /// The plan of this name.
    pub fn of(id: PlanId) -> Option<&'static Self> {
        PLANS.iter().find(|plan| plan.id == id)
    }
}

/// Credits by themselves: a credit costs a cent.
pub const CREDITS_A_CENT: u64 = 1;

/// What top-ups there are, in cents.
pub const TOP_UPS: [u32; 4] = [1_000, 2_500, 10_000, 50_000];

/// What so many cents buy.
pub fn credits_for(cents: u64) -> MicroCredits {
    MicroCredits(cents.saturating_mul(CREDITS_A_CENT).saturating_mul(1_000_000))
}

/// Which price at Stripe is which plan: the operator makes them there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanPrices(BTreeMap<PlanId, StripeId>);

impl PlanPrices {
    /// Reads `starter=price_…,growth=price_…,scale=price_…`: every paid plan once, each with a price of its own.
    /// Nothing at all: nothing is sold.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let mut prices = BTreeMap::new();
        for pair in text.split(',') {
            let (word, price) = pair.trim().split_once('=')?;
            let plan = PLANS.iter().find(|plan| plan.id.as_str() == word && plan.id != PlanId::Trial)?;
            let price: StripeId = price.parse().ok()?;
            if prices.values().any(|other| *other == price) || prices.insert(plan.id, price).is_some() {
                return None;
            }
        }
        (prices.len() == PLANS.len() - 1).then_some(Self(prices))
    }

    /// A plan's price, if it is sold.
    pub fn price(&self, plan: PlanId) -> Option<&StripeId> {
        self.0.get(&plan)
    }

    /// The plan of a price.
    pub fn plan(&self, price: &StripeId) -> Option<&'static Plan> {
        let (id, _) = self.0.iter().find(|(_, known)| *known == price)?;
        Plan::of(*id)
    }

    /// Whether anything is sold.
    pub fn is_selling(&self) -> bool {
        !self.0.is_empty()
    }
}

/// How long an account goes on after a renewal was not paid.
pub const GRACE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// What an account has subscribed to, as last read at Stripe. Ids, words and times; nothing of who pays how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Which subscription.
    pub subscription: StripeId,
    /// When it was made: of two that live the later one counts.
    pub made: Timestamp,
    /// How it stands.
    pub status: SubscriptionStatus,
    /// The plan; nothing if its price is none of ours.
    pub plan: Option<PlanId>,
    /// When its period ends.
    pub period_end: Option<Timestamp>,
    /// When it ends, if that is set.
    pub ends: Option<Timestamp>,
    /// Until when the account goes on although a renewal was not paid.
    pub grace_until: Option<Timestamp>,
}

impl Standing {
    /// What a subscription says, read at `now`. What was `before` is asked when the grace began.
    pub fn of(read: &Subscription, prices: &PlanPrices, before: Option<&Self>, now: Timestamp) -> Self {
        let plan = read.items.data.iter().find_map(|item| prices.plan(&item.price)).map(|plan| plan.id);
        let began = before.filter(|before| before.subscription == read.id).and_then(|before| before.grace_until);
        let in_grace = read.status == SubscriptionStatus::PastDue;
        Self {
            subscription: read.id.clone(),
            made: read.created,
            status: read.status,
            plan,
            period_end: read.period_end(),
            ends: read.cancel_at.or_else(|| read.cancel_at_period_end.then(|| read.period_end()).flatten()),
            grace_until: in_grace.then(|| began.unwrap_or(now + GRACE)),
        }
    }

    /// Whether it is a subscription that can still come to something: another one is not sold beside it.
    pub fn is_alive(&self) -> bool {
        match self.status {
            SubscriptionStatus::Trialing
            | SubscriptionStatus::Active
            | SubscriptionStatus::PastDue
            | SubscriptionStatus::Unpaid
            | SubscriptionStatus::Paused
            | SubscriptionStatus::Unknown => true,
            // Its checkout is not over yet, or never came to anything.
            SubscriptionStatus::Incomplete | SubscriptionStatus::IncompleteExpired | SubscriptionStatus::Canceled => {
                false
            }
        }
    }

    /// Whether the account may send by it: paid, in a trial, or in its grace.
    pub fn allows_sending(&self, now: Timestamp) -> bool {
        match self.status {
            // A word that we do not know says nothing that would end what was bought.
            SubscriptionStatus::Trialing | SubscriptionStatus::Active | SubscriptionStatus::Unknown => true,
            SubscriptionStatus::PastDue => self.grace_until.is_some_and(|until| now < until),
            SubscriptionStatus::Incomplete
            | SubscriptionStatus::IncompleteExpired
            | SubscriptionStatus::Unpaid
            | SubscriptionStatus::Paused
            | SubscriptionStatus::Canceled => false,
        }
    }

    /// Whether this takes the place of what is stored: the same subscription, one that lives of a dead one's, or of two
    /// alike the later one. So the order in which two are told of does not matter.
    pub fn replaces(&self, stored: &Self) -> bool {
        if self.subscription == stored.subscription {
            return true;
        }
        let rank = |one: &Self| (one.is_alive(), one.made, one.subscription.clone());
        rank(self) > rank(stored)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    fn prices() -> PlanPrices {
        PlanPrices::parse("starter=price_1, growth=price_2,scale=price_3").unwrap()
    }

    fn subscription(id: &str, made: i64, status: &str, price: &str) -> Subscription {
        let item = json!({ "id": "si_1", "price": price, "current_period_end": 2000 });
        let given = json!({
            "id": id, "customer": "cus_1", "created": made, "status": status, "items": { "data": [item] },
        });
        serde_json::from_value(given).unwrap()
    }

    fn standing(id: &str, made: i64, status: &str) -> Standing {
        Standing::of(&subscription(id, made, status, "price_2"), &prices(), None, at(1000))
    }

    #[test]
    fn every_paid_plan_has_one_price_or_nothing_is_sold() {
        assert_eq!(prices().plan(&"price_2".parse().unwrap()).map(|plan| plan.id), Some(PlanId::Growth));
        assert_eq!(prices().price(PlanId::Scale).map(StripeId::as_str), Some("price_3"));
        assert_eq!((prices().price(PlanId::Trial), prices().plan(&"price_9".parse().unwrap())), (None, None));
        assert!(!PlanPrices::parse("").unwrap().is_selling() && prices().is_selling());
        for wrong in [
            "starter=price_1",
            "starter=price_1,growth=price_1,scale=price_3",
            "starter=price_1,starter=price_2,scale=price_3",
            "trial=price_0,starter=price_1,growth=price_2,scale=price_3",
            "starter=price 1,growth=price_2,scale=price_3",
            "other=price_1,growth=price_2,scale=price_3",
            "starter",
        ] {
            assert_eq!(PlanPrices::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn plans_rise_in_price_and_credits_and_more_cost_less_each() {
        for pair in PLANS.windows(2) {
            assert!(pair[0].cents_a_month < pair[1].cents_a_month && pair[0].included < pair[1].included);
        }
        for plan in &PLANS[1..] {
            assert!(plan.included > credits_for(plan.cents_a_month.into()), "a plan is cheaper than a top-up");
            assert_eq!(serde_json::to_value(plan.id).unwrap(), plan.id.as_str());
        }
        assert_eq!(credits_for(2500), MicroCredits::whole(2500));
        assert_eq!(credits_for(u64::MAX), MicroCredits(u64::MAX));
    }

    #[test]
    fn a_renewal_that_is_not_paid_has_a_grace_that_begins_once_and_ends() {
        let past_due = subscription("sub_1", 5, "past_due", "price_2");
        let first = Standing::of(&past_due, &prices(), Some(&standing("sub_1", 5, "active")), at(1000));
        assert_eq!(first.grace_until, Some(at(1000) + GRACE));
        let again = Standing::of(&past_due, &prices(), Some(&first), at(90_000));
        assert_eq!(again.grace_until, first.grace_until, "a further try moves nothing");
        assert!(again.allows_sending(at(1000) + GRACE - SignedDuration::from_secs(1)));
        assert!(!again.allows_sending(at(1000) + GRACE));
        let paid = Standing::of(&subscription("sub_1", 5, "active", "price_2"), &prices(), Some(&again), at(95_000));
        assert_eq!((paid.grace_until, paid.allows_sending(at(1000) + GRACE)), (None, true));
    }

    #[test]
    fn what_may_send_and_what_lives() {
        for (status, sends, lives) in [
            ("trialing", true, true),
            ("active", true, true),
            ("past_due", true, true),
            ("unpaid", false, true),
            ("paused", false, true),
            ("canceled", false, false),
            ("incomplete", false, false),
            ("incomplete_expired", false, false),
            ("some_future_status", true, true),
        ] {
            let standing = standing("sub_1", 5, status);
            assert_eq!((standing.allows_sending(at(1000)), standing.is_alive()), (sends, lives), "{status}");
        }
    }

    #[test]
    fn of_two_subscriptions_the_one_that_lives_counts_and_of_two_that_live_the_later_in_whatever_order() {
        let (old, new) = (standing("sub_1", 5, "active"), standing("sub_2", 6, "active"));
        assert!(new.replaces(&old) && !old.replaces(&new));
        let ended = standing("sub_2", 6, "canceled");
        assert!(ended.replaces(&new), "of the same one what was read counts");
        assert!(old.replaces(&ended) && !ended.replaces(&old));
    }

    #[test]
    fn a_price_of_nobodys_is_no_plan_and_an_end_is_told() {
        let mut read = subscription("sub_1", 5, "active", "price_of_others");
        assert_eq!(Standing::of(&read, &prices(), None, at(1)).plan, None);
        assert_eq!(Standing::of(&read, &prices(), None, at(1)).ends, None);
        read.cancel_at_period_end = true;
        assert_eq!(Standing::of(&read, &prices(), None, at(1)).ends, Some(at(2000)));
        read.cancel_at = Some(at(1500));
        assert_eq!(Standing::of(&read, &prices(), None, at(1)).ends, Some(at(1500)));
    }
}
