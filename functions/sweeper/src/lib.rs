//! Every minute: finds what a lost hint or a dead worker left, and wakes who has to go on. Nothing is ever sent from here.

use telbuddy::connection::{ASK_AGAIN, FindDueConnections};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::live::Need;
use telbuddy::message::{DUE_SHARDS, FindDue, LOOK_AGAIN, Message, ReadMessages, Standing, Status, UpdateMessage};
use telbuddy::platform::{Clock, EnqueueJob, Job};

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Messages that one run looks at in each shard; the next run goes on.
const AT_MOST: u16 = 500;

/// One run. AWS calls: 1 query for each of 16 shards and 1 for connected numbers; for each message that is due 1 read,
/// 1 hint, 1 write; for each number 1 hint, 1 write.
pub async fn handle<W>(world: &W) -> Result<(), Fault>
where
    W: FindDue + FindDueConnections + ReadMessages + UpdateMessage + EnqueueJob + Clock + Sync,
{
    let mut first_fault = Ok(());
    for shard in 0..DUE_SHARDS {
        for (account, message) in world.find_due(shard, world.now(), AT_MOST).await? {
            // One message that cannot be looked at must not keep the others from it.
            if let Err(fault) = look_at(world, account, message).await {
                tracing::error!(message.id = %message, %fault, "{message} could not be looked at");
                first_fault = first_fault.and(Err(fault));
            }
        }
    }
    first_fault.and(look_at_numbers(world).await)
}

/// Asks for a look at each connected number whose time has come.
async fn look_at_numbers<W: FindDueConnections + EnqueueJob + Clock>(world: &W) -> Result<(), Fault> {
    let now = world.now();
    for (account, target) in world.find_due_connections(now, AT_MOST).await? {
        world.enqueue(Job::CheckNumber { account, target: target.clone() }, 0).await?;
        world.look_at_connection_again(account, &target, now + ASK_AGAIN).await?;
    }
    Ok(())
}

async fn look_at<W>(world: &W, account: AccountId, id: MessageId) -> Result<(), Fault>
where
    W: FindDue + ReadMessages + UpdateMessage + EnqueueJob + Clock,
{
    let Some(message) = world.load_message(account, id).await? else { return Ok(()) };
    let message = &message;
    let now = world.now();
    let job = match (message.status, message.status.standing()) {
        (Status::Held | Status::Accepted | Status::Retryable, _) => Job::Send { account, message: id },
        (Status::Dispatching, _) => {
            // The worker is gone and nobody knows how far it came: never sent again blindly.
            if world.end_lease(message, now).await? {
                tracing::warn!(message.id = %id, "the worker of {id} is gone: unknown until Twilio reports");
            }
            return Ok(());
        }
        (Status::Unknown, _) => {
            let revision = message.revision + 1;
            let given_up = Message { status: Status::Unconfirmed, revision, updated: now, ..message.clone() };
            if !world.update_message(&given_up, Some(now + LOOK_AGAIN)).await? {
                return Ok(());
            }
            tracing::warn!(message.id = %id, "Twilio never reported on {id}: unconfirmed");
            return world.enqueue(Job::Post { account, message: id }, 0).await;
        }
        (_, Standing::AtCarrier | Standing::Over | Standing::Arrived) if !message.settled => {
            Job::Post { account, message: id }
        }
        // Changed since the index was read.
        _ => return Ok(()),
    };
    tracing::info!(message.id = %id, status = ?message.status, "woke {id}");
    world.enqueue(job, 0).await?;
    world.look_again(message, now + LOOK_AGAIN).await.map(|_| ())
}

#[cfg(test)]
mod tests;
