//! Queue `numbers`: looks whether Twilio still has what we set for a connected number. It changes nothing there.

use futures::future::join_all;
use jiff::SignedDuration;
use telbuddy::alert::Alert;
use telbuddy::connection::{
    CHECK_EVERY, CHECK_SOON, ConfigureNumbers, Connection, KeepConnections, Snapshot, State, Trouble, is_news, look,
};
use telbuddy::credential::{KeepCredential, LoadKeys, OpenKey, data_key, open_carrier};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::{Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::seal::Purpose;

/// The queue of this function.
pub const QUEUE: Queue = Queue::Numbers;

/// The services that it calls. It may open the purposes send and profile.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Works through a batch, its numbers at the same time.
///
/// AWS calls for each: 2 reads, 1 transaction; once in five minutes and key 1 read and 1 KMS call with its entry in the
/// access log; for a change that is new 1 alert. Twilio: 1 read.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: KeepConnections + KeepCredential + ConfigureNumbers + OpenKey + LoadKeys + EnqueueJob + Clock + Sync,
{
    join_all(jobs.into_iter().map(async |job| match check(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "a connected number could not be looked at");
            Handled::Again
        }
    }))
    .await
}

async fn check<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: KeepConnections + KeepCredential + ConfigureNumbers + OpenKey + LoadKeys + EnqueueJob + Clock,
{
    let Job::CheckNumber { account, target } = job else {
        return Err(Fault::permanent("this queue takes connected numbers only"));
    };
    let Some(connection) = world.load_connection(account, &target).await? else { return Ok(()) };
    let (state, wait) = match see(world, account, &connection).await? {
        Some(state) => (state, next_look(state)),
        None => (connection.state, CHECK_SOON),
    };
    let now = world.now();
    let seen = connection.moved(state, now);
    if is_news(connection.state, state) {
        tracing::warn!(account.id = %account, number = target.as_str(), ?state, "a connected number was changed");
        // Before the row turns: a crash in between tells it twice, and not never.
        let alert = Alert::NumberDrifted { number_sid: target };
        world.enqueue(Job::Alert { account, alert, since: now }, 0).await?;
    }
    // A customer's request at the same time knows better.
    world.update_connection(&seen, now + wait).await.map(|_| ())
}

/// What is begun and not finished is looked at sooner.
fn next_look(state: State) -> SignedDuration {
    match state {
        State::Connecting | State::Restoring => CHECK_SOON,
        State::Connected | State::Changed | State::Gone => CHECK_EVERY,
    }
}

/// What Twilio says of it now; `None` if it cannot be asked.
async fn see<W>(world: &W, account: AccountId, connection: &Connection) -> Result<Option<State>, Fault>
where
    W: KeepCredential + ConfigureNumbers + OpenKey + LoadKeys,
{
    let Some(stored) = world.load_credential(account).await? else { return Ok(None) };
    let key = data_key(world, account, Purpose::Profile, Some(connection.snapshot.key_version()?)).await?;
    let snapshot = Snapshot::open(&connection.snapshot, &key, &connection.target)?;
    if snapshot.account_sid != stored.account_sid {
        return Ok(None);
    }
    let carrier = open_carrier(world, &stored).await?;
    let answer = world.read_settings(&carrier, &connection.target).await;
    let now = match &answer {
        Ok(settings) => Some(settings),
        Err(Trouble::NotFound) => None,
        Err(trouble) => {
            tracing::info!(account.id = %account, ?trouble, "Twilio cannot be asked about a connected number");
            return Ok(None);
        }
    };
    Ok(Some(look(now, &snapshot, connection.state)))
}

#[cfg(test)]
mod tests;
