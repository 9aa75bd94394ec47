//! Queue `post`: posts each message's outcome to the ledger, once: charges what Twilio took, gives back what it did not.

use futures::future::join_all;
use telbuddy::fault::Fault;
use telbuddy::ids::EntryId;
use telbuddy::ledger::{JournalItem, PostOutcome, Posted, Settlement, settle};
use telbuddy::live::Need;
use telbuddy::message::ReadMessages;
use telbuddy::platform::{Chance, Clock, Handled, Job, Queue};

/// The queue of this function.
pub const QUEUE: Queue = Queue::Post;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// Works through a batch, its messages at the same time. AWS calls for each: 1 read, 1 transaction.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: ReadMessages + PostOutcome + Clock + Chance + Sync,
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
    W: ReadMessages + PostOutcome + Clock + Chance + Sync,
{
    let Job::Post { account, message } = job else {
        return Err(Fault::permanent("this queue takes outcomes only"));
    };
    let Some(message) = world.load_message(account, message).await? else { return Ok(()) };
    let now = world.now();
    match settle(&message) {
        Settlement::Charge(event) => {
            let item = JournalItem { id: EntryId::new(now, world.dice()?), event };
            if world.post_charge(&message, item, now).await? == Posted::SidTaken {
                tracing::error!(message.id = %message.id, "another message was charged for the SID of {}", message.id);
                world.post_release(&message, now).await?;
            }
        }
        Settlement::Release => {
            world.post_release(&message, now).await?;
        }
        Settlement::NotYet | Settlement::Done => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
