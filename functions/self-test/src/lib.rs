//! Queue `self-test`: calls an account's webhook at its public address, signed as Twilio signs, to see that
//! Twilio could.

use futures::future::join_all;
use telbuddy::credential::{HookSecret, KeepCredential, LoadKeys, OpenKey, data_key};
use telbuddy::fault::Fault;
use telbuddy::live::Need;
use telbuddy::platform::{Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::quarantine::{Cause, Facts, Failure, QuarantineWebhook, RouteKind, count_and_tell};
use telbuddy::routine::{CallSelf, FindDueRoutines, Routine, SelfCall, TEST_SOON, failed};
use telbuddy::seal::Purpose;
use telbuddy::session::Site;

/// The queue of this function.
pub const QUEUE: Queue = Queue::SelfTest;

/// The services that it calls. It may open the purpose hook.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Site];

/// Works through a batch, its accounts at the same time.
///
/// AWS calls for each: 1 read, 1 write; once in five minutes and key 1 read and 1 KMS call with its entry in the access
/// log; a test that fails costs 1 update of the quarantine more, and if the owner is told of it, 1 queue message and 1
/// update. HTTP: 1 POST to our own address; 1 more if the first was not answered as it should. With a second host all of
/// that at both, at the same time.
pub async fn handle<W>(world: &W, site: &Site, jobs: Vec<Job>) -> Vec<Handled>
where
    W: KeepCredential + OpenKey + LoadKeys + CallSelf + QuarantineWebhook + FindDueRoutines + EnqueueJob + Clock + Sync,
{
    join_all(jobs.into_iter().map(async |job| match test(world, site, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an account's webhook could not be tested");
            Handled::Again
        }
    }))
    .await
}

async fn test<W>(world: &W, site: &Site, job: Job) -> Result<(), Fault>
where
    W: KeepCredential + OpenKey + LoadKeys + CallSelf + QuarantineWebhook + FindDueRoutines + EnqueueJob + Clock,
{
    let Job::SelfTest { account } = job else {
        return Err(Fault::permanent("this queue takes accounts to test only"));
    };
    let Some(stored) = world.load_credential(account).await? else { return Ok(()) };
    let key = data_key(world, account, Purpose::Hook, Some(stored.verify.key_version()?)).await?;
    let secret = HookSecret::open(&stored.verify, &key)?;
    let calls = site.hook_origins().map(|origin| SelfCall::new(origin, &stored, &secret));
    let causes = join_all(calls.map(async |call| {
        let cause = try_twice(world, &call).await?;
        Some(if call.origin == site.origin { cause } else { Cause::SelfTestFallback })
    }));
    let causes: Vec<_> = causes.await.into_iter().flatten().collect();
    let now = world.now();
    let facts = Facts::of(&stored, RouteKind::SelfTest, (true, matches!(secret, HookSecret::SharedKey(..))), now);
    for cause in &causes {
        tracing::warn!(account.id = %account, cause = cause.code(), "an account's webhook did not pass its test");
        count_and_tell(world, &Failure { account, cause: *cause, at: now, facts }).await?;
    }
    let wait = if causes.is_empty() { Routine::SelfTest.every() } else { TEST_SOON };
    world.do_routine_at(account, Routine::SelfTest, now + wait).await
}

/// What is wrong with one address; a moment of a network is no news.
async fn try_twice<W: CallSelf>(world: &W, call: &SelfCall) -> Option<Cause> {
    failed(world.call_self(call).await)?;
    failed(world.call_self(call).await)
}

#[cfg(test)]
mod tests;
