//! Queue `catch-up`: goes through Twilio's list of what arrived and tells `twilio-events` of each
//! text that no webhook told.

use futures::future::join_all;
use telbuddy::connection::{ASK_AGAIN, Trouble};
use telbuddy::credential::{KeepCredential, LoadKeys, OpenKey, data_key, open_carrier};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::inbound::{Arrived, TwilioEvent};
use telbuddy::live::Need;
use telbuddy::message::{FindUnseen, ListArrived, Listed};
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::routine::{FindDueRoutines, KeepProgress, LOOK_SOON, Routine};
use telbuddy::seal::{DataKey, Purpose};

/// The queue of this function.
pub const QUEUE: Queue = Queue::CatchUp;

/// The services that it calls. It may open the purposes send and match.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Messages of one page: as many SIDs as one read takes.
const PAGE: u16 = 100;
/// Pages of one run; a job of its own goes on behind them.
const MOST_PAGES: usize = 10;

/// Works through a batch, its accounts at the same time.
///
/// AWS calls for each: 2 reads, and for each page of Twilio's list, nearly always 1, 1 write; if something arrived 1
/// read, and if it was not told 1 queue message for ten texts; once in five minutes and key 1 read and 1 KMS call with
/// its entry in the access log. Twilio: 1 GET for each page.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: KeepProgress
        + FindDueRoutines
        + KeepCredential
        + OpenKey
        + LoadKeys
        + ListArrived
        + FindUnseen
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    join_all(jobs.into_iter().map(async |job| match catch_up(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an account's texts could not be looked for");
            Handled::Again
        }
    }))
    .await
}

async fn catch_up<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: KeepProgress
        + FindDueRoutines
        + KeepCredential
        + OpenKey
        + LoadKeys
        + ListArrived
        + FindUnseen
        + EnqueueJob
        + Clock
        + Chance,
{
    let Job::CatchUp { account } = job else {
        return Err(Fault::permanent("this queue takes accounts to look at only"));
    };
    let Some(mut progress) = world.load_progress(account).await? else { return Ok(()) };
    let Some(stored) = world.load_credential(account).await? else { return Ok(()) };
    let carrier = open_carrier(world, &stored).await?;
    for _ in 0..MOST_PAGES {
        let asked = world.now();
        let mark = progress.open.as_ref().map(|open| open.next.clone());
        let page = match world.list_arrived(&carrier, progress.since(), PAGE, mark.as_ref()).await {
            Ok(page) => page,
            // Twilio does not know the mark any more.
            Err(Trouble::Rejected(_) | Trouble::NotFound) if mark.is_some() => {
                return world.save_progress(account, &progress.anew(), asked + LOOK_SOON).await.map(|_| ());
            }
            Err(trouble) => {
                tracing::info!(account.id = %account, ?trouble, "Twilio cannot be asked for what arrived");
                return world.do_routine_at(account, Routine::Arrivals, asked + LOOK_SOON).await;
            }
        };
        adopt(world, account, &page.messages).await?;
        progress = progress.after_page(page.next, asked);
        let wait = if progress.open.is_some() { ASK_AGAIN } else { Routine::Arrivals.every() };
        // Only what the queue has taken counts as looked at. Another look at the same time was quicker: it goes on.
        if !world.save_progress(account, &progress, asked + wait).await? || progress.open.is_none() {
            return Ok(());
        }
    }
    world.enqueue(Job::CatchUp { account }, 0).await
}

/// Has each text recorded that no webhook told, as if it had: whoever is first, the SID is recorded once.
async fn adopt<W>(world: &W, account: AccountId, messages: &[Listed]) -> Result<(), Fault>
where
    W: OpenKey + LoadKeys + FindUnseen + EnqueueJob + Chance,
{
    let arrived = |listed| match Arrived::listed(listed)? {
        Ok(arrived) => Some((arrived, listed)),
        Err(error) => {
            tracing::warn!(sid = %listed.sid, %error, "a listed text is left out");
            None
        }
    };
    let texts: Vec<(Arrived<'_>, &Listed)> = messages.iter().filter_map(arrived).collect();
    if texts.is_empty() {
        return Ok(());
    }
    let sids = texts.iter().map(|(text, _)| text.sid().to_owned()).collect();
    let unseen = world.unseen_sids(account, sids).await?;
    if unseen.is_empty() {
        return Ok(());
    }
    let key = data_key(world, account, Purpose::Match, None).await?;
    let mut events = Vec::new();
    // The oldest first, as they came.
    for (text, listed) in texts.iter().rev().filter(|(text, _)| unseen.iter().any(|sid| sid == text.sid())) {
        events.push(event(world, account, (text, listed), &key)?);
    }
    tracing::warn!(account.id = %account, texts = events.len(), "texts arrived that no webhook told");
    world.enqueue_all(events, 0).await
}

/// As of when it arrived: a word in it must not lift a newer one.
fn event<W: Chance>(
    world: &W,
    account: AccountId,
    (text, listed): (&Arrived<'_>, &Listed),
    key: &DataKey,
) -> Result<Job, Fault> {
    let at = listed.created;
    let news = text.news(MessageId::new(at, world.dice()?), key);
    Ok(Job::Twilio(TwilioEvent { account, at, news }))
}

#[cfg(test)]
mod tests;
