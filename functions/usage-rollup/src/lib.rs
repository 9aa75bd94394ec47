//! Every minute: counts what was posted into rows by hour, day and month, and into each month's totals; warns whose
//! credits run low; and ends credits whose time has come. May be stopped and run twice at any point.

use std::collections::BTreeSet;

use serde_json::Value;
use telbuddy::alert::Alert;
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::{Entry, JOURNAL_SHARDS, KeepPurse, RecountUsage, RollUpUsage, recount, roll_up, tend_credits};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Job};

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Entries of one transaction: 20 removed, at most 60 rows of three periods each, and at most 20 totals are DynamoDB's 100.
const ENTRIES: u8 = 20;
/// Transactions of one run in each shard; the next run goes on.
const ROUNDS: u32 = 200;
/// Accounts whose credits end in one run.
const ENDING: u16 = 100;

/// What an operator asks for by hand: `{"recount": "acct_…"}`.
const RECOUNT: &str = "recount";

/// A tick; or, asked by hand, one account's rows and totals are counted again from its entries and put right where they
/// say something else. It can be done at any time and as often as one likes.
pub async fn run<W>(world: &W, event: &Value) -> Result<(), Fault>
where
    W: RollUpUsage + RecountUsage + KeepPurse + EnqueueJob + Clock + Chance + Sync,
{
    let Some(account) = event.get(RECOUNT) else { return handle(world).await };
    let account = account.as_str().and_then(|account| account.parse::<AccountId>().ok());
    let account = account.ok_or(Fault::permanent("give the id of an account to recount: {\"recount\": \"acct_…\"}"))?;
    let wrong = recount(world, account).await?;
    tracing::info!(account.id = %account, wrong, "counted the usage of {account} again: {wrong} rows were wrong");
    Ok(())
}

/// One run. AWS calls: 1 query for each of 16 shards and 1 for credits that end; for each 20 new entries 1 query, 1
/// transaction, and 1 read for each account among them; for a warning 1 queue message and 1 write; for credits that end
/// 1 read and 1 transaction. The cost follows what is new, not the history and not the number of accounts.
pub async fn handle<W>(world: &W) -> Result<(), Fault>
where
    W: RollUpUsage + KeepPurse + EnqueueJob + Clock + Chance + Sync,
{
    let mut first_fault = Ok(());
    for shard in 0..JOURNAL_SHARDS {
        // One shard that cannot be counted must not keep the others from it.
        first_fault = first_fault.and(count_shard(world, shard).await);
    }
    first_fault.and(end_due_credits(world).await)
}

async fn count_shard<W: RollUpUsage + KeepPurse + EnqueueJob>(world: &W, shard: u8) -> Result<(), Fault> {
    let mut first_fault = Ok(());
    for _ in 0..ROUNDS {
        let entries = world.load_journal(shard, ENTRIES).await?;
        if entries.is_empty() {
            return first_fault;
        }
        // Before they leave the journal: after the last of an account's credits no other entry would bring it here again.
        match warn(world, &entries).await {
            // What will not pass by itself must not keep the others from being counted.
            Err(fault @ Fault::Permanent(_)) => first_fault = first_fault.and(Err(fault)),
            other => other?,
        }
        // Another run at the same time may have counted them: then nothing was added, and they are gone from the journal.
        world.count_journal(&entries, &roll_up(&entries)).await?;
    }
    first_fault
}

/// Warns each account that was charged, if its use has reached a warning that was not given. Queued first: a crash before
/// it is noted warns twice rather than never, and endpoints know the second by its id.
async fn warn<W: KeepPurse + EnqueueJob>(world: &W, entries: &[Entry]) -> Result<(), Fault> {
    let charged = entries.iter().filter(|entry| entry.usage.is_some() && !entry.lines.is_empty());
    let accounts: BTreeSet<AccountId> = charged.map(|entry| entry.account).collect();
    let mut worst = Ok(());
    for account in accounts {
        match warn_account(world, account).await {
            // Something that passes is worth another run, whatever else there is.
            Err(fault) if worst.is_ok() || !matches!(fault, Fault::Permanent(_)) => worst = Err(fault),
            _ => {}
        }
    }
    worst
}

async fn warn_account<W: KeepPurse + EnqueueJob>(world: &W, account: AccountId) -> Result<(), Fault> {
    let Some(facts) = world.load_purse(account).await? else { return Ok(()) };
    let Some(percent) = facts.purse.warning(facts.allowance.used) else { return Ok(()) };
    let (alert, since) = (Alert::CreditsUsed { percent }, facts.purse.period.began);
    world.enqueue(Job::Alert { account, alert, since }, 0).await?;
    world.note_warning(account, &facts.purse, percent).await?;
    Ok(())
}

async fn end_due_credits<W: KeepPurse + Clock + Chance + Sync>(world: &W) -> Result<(), Fault> {
    let now = world.now();
    let mut first_fault = Ok(());
    for account in world.find_ending(now, ENDING).await? {
        let ended = tend_credits(world, account, now).await;
        if let Ok(changed) = &ended {
            tracing::info!(account.id = %account, ?changed, "the time of some credits is over");
        }
        first_fault = first_fault.and(ended.map(|_| ()));
    }
    first_fault
}

#[cfg(test)]
mod tests;
