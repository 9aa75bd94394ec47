//! What changes a purse: decided again as long as something else comes between.

use jiff::Timestamp;

use super::{END_AGAIN, Entry, Grant, KeepPurse, MicroCredits, Occasion, PurseFacts, Step, Stepped, Zone};
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::platform::Chance;

/// How often a step is decided before it is left to the next time.
const TRIES: usize = 8;

/// What became of a change of credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Done now.
    Now,
    /// Done before, or nothing to do.
    Before,
    /// There is no such account.
    NoAccount,
}

/// Gives credits, once for each source. 1 read and 1 transaction of purse, allowance, and for each entry two.
pub async fn give_credits<W>(world: &W, account: AccountId, grant: &Grant, now: Timestamp) -> Result<Changed, Fault>
where
    W: KeepPurse + Chance + Sync,
{
    change_credits(world, account, now, |facts| Some(facts.purse.grant(&facts.allowance, grant, now))).await
}

/// Takes back what a payment brought that was itself taken back, once for each refund or dispute `by`. Calls as
/// [`give_credits`].
pub async fn take_back_credits<W>(
    world: &W,
    account: AccountId,
    source: &str,
    credits: MicroCredits,
    by: &str,
    now: Timestamp,
) -> Result<Changed, Fault>
where
    W: KeepPurse + Chance + Sync,
{
    change_credits(world, account, now, |facts| Some(facts.purse.claw_back(&facts.allowance, source, credits, by)))
        .await
}

/// Has what is used beyond all credit billed afterwards, up to a limit each month; or not any more. Calls as
/// [`give_credits`].
pub async fn set_overage<W>(
    world: &W,
    account: AccountId,
    limit: Option<MicroCredits>,
    now: Timestamp,
) -> Result<Changed, Fault>
where
    W: KeepPurse + Chance + Sync,
{
    let decide = |facts: &PurseFacts| Some(facts.purse.with_overage(&facts.allowance, limit, &facts.zone.month(now)));
    change_credits(world, account, now, decide).await
}

/// Ends credits whose time has come, and bills what was used beyond all credit. Calls as [`give_credits`], for each of
/// both; and 1 read, and 1 write if there was nothing to do or some of it is reserved.
pub async fn tend_credits<W>(world: &W, account: AccountId, now: Timestamp) -> Result<Changed, Fault>
where
    W: KeepPurse + Chance + Sync,
{
    let ended = change_credits(world, account, now, |facts| facts.purse.end(&facts.allowance, now)).await?;
    let bill = |facts: &PurseFacts| facts.purse.billed(&facts.allowance, &facts.zone.month(now));
    let billed = change_credits(world, account, now, bill).await?;
    let changed = if ended == Changed::Now { ended } else { billed };
    if let Some(facts) = world.load_purse(account).await?
        && let Some(due) = facts.purse.due(now)
        && (due <= now || changed == Changed::Before)
    {
        // What has ended and is still there is reserved.
        let due = if due <= now { now + END_AGAIN } else { due };
        world.look_at_purse_again(account, &facts.purse, due).await?;
    }
    Ok(changed)
}

async fn change_credits<W>(
    world: &W,
    account: AccountId,
    now: Timestamp,
    decide: impl Fn(&PurseFacts) -> Option<Step>,
) -> Result<Changed, Fault>
where
    W: KeepPurse + Chance + Sync,
{
    for _ in 0..TRIES {
        let Some(facts) = world.load_purse(account).await? else { return Ok(Changed::NoAccount) };
        let Some(step) = decide(&facts) else { return Ok(Changed::Before) };
        let entries = entries(world, account, &step, &facts.zone, now)?;
        match world.save_step(account, &step, &entries, now).await? {
            Stepped::Done => return Ok(Changed::Now),
            Stepped::Before => return Ok(Changed::Before),
            Stepped::Moved => {}
        }
    }
    Err(Fault::transient("the account's credits kept changing"))
}

/// A step's entries with their names.
fn entries<W: Chance>(
    world: &W,
    account: AccountId,
    step: &Step,
    zone: &Zone,
    now: Timestamp,
) -> Result<Vec<Entry>, Fault> {
    let entry = |(occasion, lines): &(Occasion, Vec<super::Line>)| {
        let id = EntryId::new(now, world.dice()?);
        let (occasion, lines) = (occasion.clone(), lines.clone());
        Ok(Entry { id, account, occasion, lines, posted: now, month: zone.month(now), usage: None })
    };
    step.entries.iter().map(entry).collect()
}
