//! Queue `stripe-events`: looks at Stripe for what an event says happened, and applies it, once, in whatever order they
//! come.

use futures::future::join_all;
use jiff::SignedDuration;
use telbuddy::account::{FreezeReason, Stop, StopSending, Stopped};
use telbuddy::alert::Alert;
use telbuddy::billing::decide::{Effect, Look, of_checkout, of_dispute, of_fraud_warning, of_invoice, of_refund};
use telbuddy::billing::object::{Charge, PaidFor};
use telbuddy::billing::{
    ApplyStanding, KeepBilling, PlanPrices, ReadInvoices, ReadPayment, ReadSubscription, RememberEvents, Standing,
    StripeEvent, StripeId,
};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::{Changed, KeepPurse, give_credits, take_back_credits};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};

/// The queue of this function.
pub const QUEUE: Queue = Queue::StripeEvents;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::PlatformSecret, Need::Queues, Need::Stripe];

/// How often a plan is read again because another event of it was applied meanwhile.
const TRIES: usize = 8;

/// Works through a batch, its events at the same time.
///
/// AWS calls for an event that says something: 1 read, 1 read of the customer's account, and 1 write at the end; for
/// credits 1 read and 1 transaction each time they come or go, for a plan 1 read and 1 conditional write, for a freeze
/// 1 conditional write and 1 queue message. Stripe: 1 request; for a refund or a dispute 3, if it was of an invoice 5,
/// and for a bank's warning 2. An event that says nothing: none at all.
pub async fn handle<W>(world: &W, prices: &PlanPrices, jobs: Vec<Job>) -> Vec<Handled>
where
    W: RememberEvents
        + KeepBilling
        + ApplyStanding
        + KeepPurse
        + StopSending
        + ReadSubscription
        + ReadInvoices
        + ReadPayment
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    join_all(jobs.into_iter().map(async |job| match apply(world, prices, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an event of Stripe's could not be applied");
            Handled::Again
        }
    }))
    .await
}

async fn apply<W>(world: &W, prices: &PlanPrices, job: Job) -> Result<(), Fault>
where
    W: RememberEvents
        + KeepBilling
        + ApplyStanding
        + KeepPurse
        + StopSending
        + ReadSubscription
        + ReadInvoices
        + ReadPayment
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    let Job::Stripe(event) = job else {
        return Err(Fault::permanent("this queue takes Stripe's events only"));
    };
    let (id, kind) = (&event.id, event.kind.as_str());
    let look = match Look::of(&event) {
        Look::Nowhere(why) => {
            tracing::info!(event.id = %id, kind, why, "nothing follows from {id}");
            return Ok(());
        }
        Look::Person(why) => {
            tracing::error!(event.id = %id, kind, why, "a person has to look at {id}");
            return Ok(());
        }
        Look::Unknown => {
            tracing::warn!(event.id = %id, unknown = kind, "{id} is of a type that this version does not know");
            return Ok(());
        }
        look => look,
    };
    // What follows is done once by itself; a freeze that a person lifted must not come again with a late copy.
    if world.is_applied(id, world.now()).await? {
        tracing::info!(event.id = %id, kind, "{id} was applied before");
        return Ok(());
    }
    if let Some((customer, effects)) = found(world, prices, &event, look).await? {
        if let Some(account) = world.find_customer(&customer).await? {
            for effect in effects {
                take_effect(world, prices, account, &event, effect).await?;
            }
        } else {
            // Of another deployment that shares the account at Stripe, or made by hand there.
            tracing::warn!(event.id = %id, kind, customer.id = %customer, "the customer is nobody's here");
        }
    }
    world.note_applied(id, world.now()).await
}

/// What is found where the event says to look, and whose it is. Nothing if it is not there (any more).
async fn found<W>(
    world: &W,
    prices: &PlanPrices,
    event: &StripeEvent,
    look: Look,
) -> Result<Option<(StripeId, Vec<Effect>)>, Fault>
where
    W: ReadSubscription + ReadInvoices + ReadPayment + Sync,
{
    let found = match look {
        Look::Checkout(id) => {
            let session = world.read_checkout(&id).await?;
            session.and_then(|session| Some((session.customer.clone()?, vec![of_checkout(&session)])))
        }
        Look::Invoice(id) => {
            let invoice = world.read_invoice(&id).await?;
            invoice.and_then(|invoice| Some((invoice.customer.clone()?, vec![of_invoice(&invoice, prices)])))
        }
        Look::Subscription(id) => event.customer.clone().map(|customer| (customer, vec![Effect::SetPlan(id)])),
        Look::Refund(id) => match world.read_refund(&id).await? {
            Some(refund) => paid(world, refund.charge.as_ref())
                .await?
                .map(|(customer, charge, paid)| (customer, of_refund(&refund, &charge, &paid, prices))),
            None => None,
        },
        Look::Dispute(id) => match world.read_dispute(&id).await? {
            Some(dispute) => paid(world, Some(&dispute.charge))
                .await?
                .map(|(customer, charge, paid)| (customer, of_dispute(&dispute, &charge, &paid, prices))),
            None => None,
        },
        Look::FraudWarning(id) => match world.read_fraud_warning(&id).await? {
            Some(warning) => {
                let charge = world.read_charge(&warning.charge).await?;
                charge.and_then(|charge| Some((charge.customer?, vec![of_fraud_warning(&warning)])))
            }
            None => None,
        },
        Look::Nowhere(_) | Look::Person(_) | Look::Unknown => None,
    };
    if found.is_none() {
        tracing::warn!(event.id = %event.id, kind = event.kind, "what {} is about is not there", event.id);
    }
    Ok(found)
}

/// A charge with whose it is and what it paid for.
async fn paid<W: ReadPayment>(
    world: &W,
    charge: Option<&StripeId>,
) -> Result<Option<(StripeId, Charge, PaidFor)>, Fault> {
    let Some(charge) = charge else { return Ok(None) };
    let Some(charge) = world.read_charge(charge).await? else { return Ok(None) };
    let Some(intent) = &charge.payment_intent else { return Ok(None) };
    let Some(paid) = world.find_paid(intent).await? else { return Ok(None) };
    let customer = match &paid {
        PaidFor::Checkout(session) => session.customer.clone(),
        PaidFor::Invoice(invoice) => invoice.customer.clone(),
    };
    Ok(customer.or_else(|| charge.customer.clone()).map(|customer| (customer, charge, paid)))
}

async fn take_effect<W>(
    world: &W,
    prices: &PlanPrices,
    account: AccountId,
    event: &StripeEvent,
    effect: Effect,
) -> Result<(), Fault>
where
    W: KeepBilling + ApplyStanding + KeepPurse + StopSending + ReadSubscription + EnqueueJob + Clock + Chance + Sync,
{
    let id = &event.id;
    match effect {
        Effect::Grant(grant) => {
            let given = give_credits(world, account, &grant, world.now()).await?;
            told(account, id, &grant.source, grant.credits.0, given, "credits come");
        }
        Effect::ClawBack { source, credits, by } => {
            let taken = take_back_credits(world, account, &source, credits, &by, world.now()).await?;
            told(account, id, &by, credits.0, taken, "credits go");
        }
        Effect::SetPlan(subscription) => set_plan(world, prices, account, &subscription).await?,
        Effect::Freeze(reason) => freeze(world, account, reason).await?,
        Effect::Ignore(why) => tracing::info!(account.id = %account, event.id = %id, why, "nothing follows from {id}"),
    }
    Ok(())
}

fn told(account: AccountId, event: &StripeId, by: &str, credits_micro: u64, changed: Changed, what: &str) {
    match changed {
        Changed::Now => tracing::info!(account.id = %account, event.id = %event, by, credits_micro, "{what} by {by}"),
        Changed::Before => tracing::info!(account.id = %account, event.id = %event, by, "{by} was counted before"),
        Changed::NoAccount => tracing::warn!(account.id = %account, event.id = %event, by, "{account} is gone"),
    }
}

/// Reads how the subscription stands and stores it; if another reading was stored meanwhile, again, so that what is
/// stored never goes backwards.
async fn set_plan<W>(world: &W, prices: &PlanPrices, account: AccountId, subscription: &StripeId) -> Result<(), Fault>
where
    W: KeepBilling + ApplyStanding + ReadSubscription + Clock,
{
    for _ in 0..TRIES {
        let Some(kept) = world.load_billing(account).await? else { return Ok(()) };
        let Some(read) = world.read_subscription(subscription).await? else { return Ok(()) };
        let now = world.now();
        let standing = Standing::of(&read, prices, kept.standing.as_ref(), now);
        if kept.standing.as_ref().is_some_and(|stored| *stored == standing || !standing.replaces(stored)) {
            return Ok(());
        }
        // Each reading has a time of its own, since the next one is stored over this one by it.
        let at = kept.read.map_or(now, |before| now.max(before + SignedDuration::from_millis(1)));
        if world.save_standing(account, &standing, at, kept.read).await? {
            let (plan, status) = (standing.plan.map(telbuddy::billing::PlanId::as_str), standing.status);
            tracing::info!(account.id = %account, subscription.id = %subscription, plan, ?status, "a plan is set");
            return Ok(());
        }
    }
    Err(Fault::transient("an account's plan kept changing"))
}

/// Stops sending and has the owner told; who stopped it tells.
async fn freeze<W: StopSending + EnqueueJob + Clock>(
    world: &W,
    account: AccountId,
    reason: FreezeReason,
) -> Result<(), Fault> {
    let (stop, now) = (Stop::Frozen(reason), world.now());
    if world.stop_sending(account, stop, 0, now).await? != Stopped::Now {
        return Ok(());
    }
    tracing::error!(account.id = %account, reason = reason.as_str(), "sending of {account} is frozen");
    let alert = Alert::SendingFrozen { reason };
    world.enqueue(Job::Alert { account, alert, since: now }, 0).await?;
    world.stop_told(account, stop, now).await
}

#[cfg(test)]
mod tests;
