//! Every minute: counts posted usage into rows by hour, day and month. May be stopped and run twice at any point.

use telbuddy::fault::Fault;
use telbuddy::ledger::{JOURNAL_SHARDS, RollUpUsage, roll_up};
use telbuddy::live::Need;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// Items of one transaction: 20 removed and at most 60 rows of three periods each stay below DynamoDB's 100.
const ITEMS: u8 = 20;
/// Transactions of one run in each shard; the next run goes on.
const ROUNDS: u32 = 200;

/// One run. AWS calls: 1 query for each of 16 shards, and for each 20 new events 1 query and 1 transaction. The cost
/// follows what is new, not the history and not the number of accounts.
pub async fn handle<W: RollUpUsage>(world: &W) -> Result<(), Fault> {
    let mut first_fault = Ok(());
    for shard in 0..JOURNAL_SHARDS {
        // One shard that cannot be counted must not keep the others from it.
        first_fault = first_fault.and(count_shard(world, shard).await);
    }
    first_fault
}

async fn count_shard<W: RollUpUsage>(world: &W, shard: u8) -> Result<(), Fault> {
    for _ in 0..ROUNDS {
        let items = world.load_journal(shard, ITEMS).await?;
        if items.is_empty() {
            return Ok(());
        }
        // Another run at the same time may have counted them: then nothing was added, and they are gone from the journal.
        world.count_journal(&items, roll_up(&items).into_iter().collect()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
