//! What an account has at Stripe.

use jiff::Timestamp;

use super::{at_once, count};
use crate::billing::object::SubscriptionStatus;
use crate::billing::{ApplyStanding, Billing, EVENTS_LIFE, KeepBilling, PlanId, RememberEvents, Standing, StripeId};
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, secs};

fn account<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

fn customer<W: Chance>(world: &W) -> StripeId {
    format!("cus_{}", fresh::dice(world)).parse().unwrap()
}

fn standing(made: Timestamp) -> Standing {
    Standing {
        subscription: "sub_1".parse().unwrap(),
        made,
        status: SubscriptionStatus::Active,
        plan: Some(PlanId::Growth),
        period_end: Some(made + secs(30)),
        ends: None,
        grace_until: None,
    }
}

pub async fn a_customer_is_kept_and_found_from_either_side<W>(world: &W)
where
    W: KeepBilling + ApplyStanding + Clock + Chance,
{
    let (account, customer) = (account(world), customer(world));
    assert_eq!(world.load_billing(account).await, Ok(None));
    assert_eq!(world.find_customer(&customer).await, Ok(None));
    assert_eq!(world.keep_customer(account, &customer).await, Ok(customer.clone()));
    assert_eq!(world.keep_customer(account, &customer).await, Ok(customer.clone()), "its answer may have been lost");
    let kept = Billing { customer: customer.clone(), standing: None, read: None };
    assert_eq!(world.load_billing(account).await, Ok(Some(kept)));
    assert_eq!(world.find_customer(&customer).await, Ok(Some(account)));
}

pub async fn of_many_customers_made_at_once_the_account_has_one_and_the_others_are_nobodys<W>(world: &W)
where
    W: KeepBilling + ApplyStanding + Clock + Chance,
{
    let account = account(world);
    let made: Vec<_> = (0..10).map(|_| customer(world)).collect();
    let kept = at_once(10, |n| world.keep_customer(account, &made[n])).await;
    let first = kept[0].clone().unwrap();
    assert_eq!(count(&kept, &Ok(first.clone())), 10, "{kept:?}");
    for customer in made {
        let expected = (customer == first).then_some(account);
        assert_eq!(world.find_customer(&customer).await, Ok(expected));
    }
}

pub async fn a_customer_is_one_accounts<W>(world: &W)
where
    W: KeepBilling + ApplyStanding + Clock + Chance,
{
    let (one, other, customer) = (account(world), account(world), customer(world));
    assert_eq!(world.keep_customer(one, &customer).await, Ok(customer.clone()));
    assert!(world.keep_customer(other, &customer).await.is_err());
    assert_eq!(world.load_billing(other).await, Ok(None));
    assert_eq!(world.find_customer(&customer).await, Ok(Some(one)));
}

pub async fn what_was_read_is_stored_over_what_was_loaded_only<W>(world: &W)
where
    W: KeepBilling + ApplyStanding + Clock + Chance,
{
    let (account, customer, now) = (account(world), customer(world), world.now());
    let first = standing(now);
    assert_eq!(world.save_standing(account, &first, now, None).await, Ok(false), "there is no customer");
    assert_eq!(world.load_billing(account).await, Ok(None));
    world.keep_customer(account, &customer).await.unwrap();
    assert_eq!(world.save_standing(account, &first, now, Some(now)).await, Ok(false), "nothing was read before");
    assert_eq!(world.save_standing(account, &first, now, None).await, Ok(true));
    let kept = Billing { customer: customer.clone(), standing: Some(first.clone()), read: Some(now) };
    assert_eq!(world.load_billing(account).await, Ok(Some(kept)));
    let grace_until = Some(now + secs(60));
    let second = Standing { status: SubscriptionStatus::PastDue, plan: None, grace_until, ends: Some(now), ..first };
    assert_eq!(world.save_standing(account, &second, now + secs(1), None).await, Ok(false));
    assert_eq!(world.save_standing(account, &second, now + secs(1), Some(now)).await, Ok(true));
    let kept = world.load_billing(account).await.unwrap().unwrap();
    assert_eq!((kept.standing, kept.read), (Some(second), Some(now + secs(1))));
    assert_eq!(world.keep_customer(account, &customer).await, Ok(customer), "and it loses nothing of that");
    assert!(world.load_billing(account).await.unwrap().unwrap().standing.is_some());
}

pub async fn of_many_readings_at_once_one_is_stored<W>(world: &W)
where
    W: KeepBilling + ApplyStanding + Clock + Chance,
{
    let (account, customer, now) = (account(world), customer(world), world.now());
    world.keep_customer(account, &customer).await.unwrap();
    let standing = standing(now);
    let at = |n: usize| now + secs(i64::try_from(n).unwrap());
    let saved = at_once(20, |n| world.save_standing(account, &standing, at(n), None)).await;
    assert_eq!(count(&saved, &Ok(true)), 1, "{saved:?}");
    let first = world.load_billing(account).await.unwrap().unwrap().read;
    let saved = at_once(20, |n| world.save_standing(account, &standing, at(n + 20), first)).await;
    assert_eq!(count(&saved, &Ok(true)), 1, "{saved:?}");
}

pub async fn an_event_that_was_applied_is_remembered_for_its_time_and_from_the_last_time<W>(world: &W)
where
    W: RememberEvents + Clock + Chance,
{
    let (event, now): (StripeId, _) = (format!("evt_{}", fresh::dice(world)).parse().unwrap(), world.now());
    assert_eq!(world.is_applied(&event, now).await, Ok(false));
    let noted = at_once(10, |_| world.note_applied(&event, now)).await;
    assert_eq!(count(&noted, &Ok(())), 10);
    assert_eq!(world.is_applied(&event, now + EVENTS_LIFE - secs(1)).await, Ok(true));
    assert_eq!(world.is_applied(&event, now + EVENTS_LIFE).await, Ok(false));
    world.note_applied(&event, now + secs(10)).await.unwrap();
    world.note_applied(&event, now + secs(5)).await.unwrap();
    assert_eq!(world.is_applied(&event, now + EVENTS_LIFE + secs(9)).await, Ok(true));
}
