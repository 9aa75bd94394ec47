//! Every minute: finds what a lost hint or a dead worker left, and wakes who has to go on. Nothing is ever sent from
//! here.

use telbuddy::connection::{ASK_AGAIN, FindDueConnections};
use telbuddy::endpoint::{DELIVER_AGAIN, DELIVERY_SHARDS, FindDueDeliveries};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::live::Need;
use telbuddy::message::{
    DUE_SHARDS, FindDue, GIVE_UP, LOOK_AGAIN, ReadMessages, SettleMessage, Standing, Status, UpdateMessage,
    decidable_until, unconfirmed, undecided,
};
use telbuddy::platform::{Clock, EnqueueJob, Job};
use telbuddy::routine::{FindDueRoutines, Routine};

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Messages that one run looks at in each shard; the next run goes on.
const AT_MOST: u16 = 500;

/// One run. AWS calls: 1 query for each of 16 shards, 1 for connected numbers and 1 for routines; for each message that
/// is due 1 read, 1 hint, 1 write; for each number or routine 1 hint, 1 write.
pub async fn handle<W>(world: &W) -> Result<(), Fault>
where
    W: FindDue
        + FindDueConnections
        + FindDueRoutines
        + FindDueDeliveries
        + ReadMessages
        + SettleMessage
        + UpdateMessage
        + EnqueueJob
        + Clock
        + Sync,
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
    let numbers = look_at_numbers(world).await;
    let deliveries = look_at_deliveries(world).await;
    first_fault.and(numbers).and(deliveries).and(begin_routines(world).await)
}

/// Wakes who delivers each event whose time has come.
async fn look_at_deliveries<W: FindDueDeliveries + EnqueueJob + Clock>(world: &W) -> Result<(), Fault> {
    let now = world.now();
    for shard in 0..DELIVERY_SHARDS {
        for (account, endpoint, delivery) in world.find_due_deliveries(shard, now, AT_MOST).await? {
            world.enqueue(Job::Deliver { account, endpoint, delivery }, 0).await?;
            world.look_at_delivery_again(account, endpoint, delivery, now + DELIVER_AGAIN).await?;
        }
    }
    Ok(())
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

/// Wakes who does each routine whose time has come, and sets the time to ask again if the job gets lost.
async fn begin_routines<W: FindDueRoutines + EnqueueJob + Clock>(world: &W) -> Result<(), Fault> {
    let now = world.now();
    for (account, routine) in world.find_due_routines(now, AT_MOST).await? {
        let job = match routine {
            Routine::Arrivals => Job::CatchUp { account },
            Routine::SelfTest => Job::SelfTest { account },
            Routine::Reconciliation => Job::Reconcile { account },
        };
        world.enqueue(job, 0).await?;
        world.do_routine_at(account, routine, now + ASK_AGAIN).await?;
    }
    Ok(())
}

async fn look_at<W>(world: &W, account: AccountId, id: MessageId) -> Result<(), Fault>
where
    W: FindDue + ReadMessages + SettleMessage + UpdateMessage + EnqueueJob + Clock,
{
    let Some(message) = world.load_message(account, id).await? else { return Ok(()) };
    let message = &message;
    let now = world.now();
    let job = match (message.status, message.status.standing()) {
        (Status::Held | Status::Accepted | Status::Retryable, _) => Job::Send { account, message: id },
        (Status::Dispatching, _) => {
            // The worker is gone and nobody knows how far it came: never sent again blindly.
            if world.end_lease(message, now).await? {
                tracing::warn!(message.id = %id, "the worker of {id} is gone: unknown");
            }
            return Ok(());
        }
        (Status::Unknown, _) if now >= message.settling().since + GIVE_UP => {
            if !world.record_listing(&unconfirmed(message, now), now + LOOK_AGAIN).await? {
                return Ok(());
            }
            tracing::warn!(message.id = %id, "Twilio could not be asked about {id} for a day: unconfirmed");
            return world.enqueue(Job::Post { account, message: id }, 0).await;
        }
        (Status::Unknown, _) => {
            // First this, then the hint: the settler's own word about the next look has to stand.
            if !world.look_again(message, now + LOOK_AGAIN).await? {
                return Ok(());
            }
            tracing::info!(message.id = %id, "{id} is looked for at Twilio");
            return world.enqueue(Job::Settle { account, message: id }, 0).await;
        }
        (Status::Unconfirmed, _) if decidable_until(message).is_some_and(|until| until <= now) => {
            let due = (!message.settled).then(|| now + LOOK_AGAIN);
            world.update_message(&undecided(message, now), due).await?;
            tracing::info!(message.id = %id, "nobody decided about {id}: its payload is removed");
            return Ok(());
        }
        (_, Standing::AtCarrier | Standing::Over | Standing::Arrived) if !message.settled => {
            Job::Post { account, message: id }
        }
        // Changed since the index was read, or put on the list by somebody who did not see its end.
        _ => {
            return match decidable_until(message) {
                Some(until) => world.look_again(message, until).await.map(|_| ()),
                None => world.stop_looking(message).await,
            };
        }
    };
    tracing::info!(message.id = %id, status = ?message.status, "woke {id}");
    world.enqueue(job, 0).await?;
    world.look_again(message, now + LOOK_AGAIN).await.map(|_| ())
}

#[cfg(test)]
mod tests;
