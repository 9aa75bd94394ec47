//! Queue `post`: posts each message's outcome to the ledger, once: charges what Twilio took, gives back what it did
//! not, has the account's endpoints told what happened to it up to then, and what failed counted.

use futures::future::join_all;
use telbuddy::endpoint::{Delivery, LoadToTell, ToTell, told_at_posting};
use telbuddy::fault::Fault;
use telbuddy::ids::EntryId;
use telbuddy::ledger::{Entry, PostOutcome, Posted, Settlement, failure_at_posting, settle};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};

/// The queue of this function.
pub const QUEUE: Queue = Queue::Post;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Works through a batch, its messages at the same time. AWS calls for each: 1 read, 1 transaction, and 1 hint if an
/// endpoint is to be told.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: LoadToTell + PostOutcome + EnqueueJob + Clock + Chance + Sync,
{
    join_all(jobs.into_iter().map(async |job| match post(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an outcome could not be posted");
            Handled::Again
        }
    }))
    .await
}

async fn post<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: LoadToTell + PostOutcome + EnqueueJob + Clock + Chance + Sync,
{
    let Job::Post { account, message } = job else {
        return Err(Fault::permanent("this queue takes outcomes only"));
    };
    let Some(ToTell { message, listeners, zone }) = world.load_to_tell(account, message).await? else {
        return Ok(());
    };
    let now = world.now();
    let told = listeners.deliveries(account, &told_at_posting(&message), now);
    let failure = match failure_at_posting(&message, &zone) {
        Some(event) => Some(Entry::failure(EntryId::new(now, world.dice()?), event, now, &zone)),
        None => None,
    };
    let failure = failure.as_ref();
    match settle(&message, &zone) {
        Settlement::Charge(event) => {
            let entry = Entry::charge(EntryId::new(now, world.dice()?), event, now, &zone);
            match world.post_charge(&message, entry, now, &told, failure).await? {
                Posted::Charged => wake(world, &told).await,
                Posted::Before => {}
                Posted::SidTaken => {
                    let id = message.id;
                    tracing::error!(message.id = %id, "another message was charged for the SID of {id}");
                    if world.post_release(&message, now, &told, failure).await? {
                        wake(world, &told).await;
                    }
                }
            }
        }
        Settlement::Release => {
            if world.post_release(&message, now, &told, failure).await? {
                wake(world, &told).await;
            }
        }
        Settlement::NotYet | Settlement::Done => {}
    }
    Ok(())
}

/// Hints; the sweeper finds what is due if they get lost.
async fn wake<W: EnqueueJob>(world: &W, told: &[Delivery]) {
    if told.is_empty() {
        return;
    }
    if let Err(fault) = world.enqueue_all(told.iter().map(Delivery::job).collect(), 0).await {
        tracing::warn!(%fault, "the hints for some deliveries are lost; the sweeper will find them");
    }
}

#[cfg(test)]
mod tests;
