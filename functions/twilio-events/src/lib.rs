//! Queue `twilio-events`: applies what Twilio told us, once, in whatever order it comes.

use futures::future::join_all;
use telbuddy::endpoint::{Delivery, LoadToTell, ToTell, UpdateAndTell, told_by_change};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, EntryId, MessageId};
use telbuddy::inbound::{News, TwilioEvent};
use telbuddy::ledger::{Entry, failure_by_change, prices_at};
use telbuddy::live::Need;
use telbuddy::message::{
    Adopted, Direction, LOOK_AGAIN, Message, RecordInbound, Report, Seen, SettleMessage, Status, apply_report,
};
use telbuddy::opt_out::{Heard, RecordConsent};
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};

/// The queue of this function.
pub const QUEUE: Queue = Queue::TwilioEvents;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Works through a batch, its events at the same time.
///
/// AWS calls for a status: 1 read, 1 conditional write (a transaction of 3 items if it was not known whether Twilio had
/// the message, and one when it failed after its posting), and 1 hint when the message is to be posted, or when
/// endpoints are to be told. For a text: 1 transaction, 1 hint, and between them for START 1 conditional write, for
/// STOP 2; twice that in a messaging service. For a call's status none.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: LoadToTell + UpdateAndTell + SettleMessage + RecordInbound + RecordConsent + EnqueueJob + Clock + Chance + Sync,
{
    join_all(jobs.into_iter().map(async |job| match apply(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an event could not be applied");
            Handled::Again
        }
    }))
    .await
}

async fn apply<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: LoadToTell + UpdateAndTell + SettleMessage + RecordInbound + RecordConsent + EnqueueJob + Clock + Chance + Sync,
{
    let Job::Twilio(event) = job else {
        return Err(Fault::permanent("this queue takes Twilio's events only"));
    };
    match event.news {
        News::Status { message, sid, status, error_code } => {
            report(world, event.account, message, &Report { sid, status, error_code }).await
        }
        News::Call { call, sid, status } => {
            // Taken and done with, like a status for a message that is not there: no call is made before there is voice.
            tracing::info!(account.id = %event.account, %call, %sid, ?status, "a status for a call that is not there");
            Ok(())
        }
        News::Text { .. } => text(world, event).await,
    }
}

/// A status: read, decide, write if nothing came between; else read again.
///
/// A message that a listing may look for gets its SID in the transaction that binds it. If the SID was found for an
/// identical message first, the report is that one's: otherwise one of Twilio's messages would settle two of ours.
async fn report<W>(world: &W, account: AccountId, id: MessageId, report: &Report) -> Result<(), Fault>
where
    W: LoadToTell + UpdateAndTell + SettleMessage + EnqueueJob + Clock + Chance,
{
    let mut id = id;
    for _ in 0..8 {
        let Some(ToTell { message: held, listeners, zone }) = world.load_to_tell(account, id).await? else {
            tracing::warn!(message.id = %id, "a status for a message that is not there");
            return Ok(());
        };
        let now = world.now();
        let Some(message) = apply_report(&held, report, now) else { return Ok(()) };
        let due = (!message.settled).then_some(now + LOOK_AGAIN);
        let told = listeners.deliveries(account, &told_by_change(&held, &message), now);
        let failure = match failure_by_change(&held, &message, &zone) {
            Some(event) => Some(Entry::failure(EntryId::new(now, world.dice()?), event, now, &zone)),
            None => None,
        };
        let failure = failure.as_ref();
        let written = if held.sid.is_none() && matches!(held.status, Status::Unknown | Status::Unconfirmed) {
            match world.adopt_sid(&message, due, &told, failure).await? {
                Adopted::Adopted => true,
                Adopted::Moved => false,
                Adopted::Taken(owner) => {
                    tracing::info!(message.id = %id, "the status for {id} is that of {owner}, which is identical");
                    id = owner;
                    false
                }
            }
        } else {
            world.update_and_tell(&message, due, &told, failure).await?
        };
        if written {
            tracing::info!(message.id = %id, status = ?message.status, "Twilio reported on {id}");
            return if message.settled { wake(world, &told).await } else { post(world, account, id).await };
        }
    }
    Err(Fault::transient("the message kept changing"))
}

/// A hint; the sweeper finds what is due if it gets lost.
async fn post<W: EnqueueJob>(world: &W, account: AccountId, message: MessageId) -> Result<(), Fault> {
    world.enqueue(Job::Post { account, message }, 0).await
}

/// The same for what endpoints are told.
async fn wake<W: EnqueueJob>(world: &W, told: &[Delivery]) -> Result<(), Fault> {
    if told.is_empty() {
        return Ok(());
    }
    world.enqueue_all(told.iter().map(Delivery::job).collect(), 0).await
}

/// A text that arrived: the row is written once; what it says about consent is noted each time that it comes, so that a
/// crash in between loses nothing.
async fn text<W>(world: &W, event: TwilioEvent) -> Result<(), Fault>
where
    W: RecordInbound + RecordConsent + EnqueueJob,
{
    let (account, at) = (event.account, event.at);
    let News::Text { message: id, sid, own, service, other_hash, country, format, segments, consent } = event.news
    else {
        return Ok(());
    };
    let prices = prices_at(at);
    let message = Message {
        id,
        account,
        direction: Direction::Inbound,
        format,
        status: Status::Received,
        revision: 0,
        sid: Some(sid.clone()),
        own: own.clone(),
        other_hash: other_hash.clone(),
        country,
        segments,
        encoding: None,
        held: prices.message(Direction::Inbound, format, segments),
        price_version: prices.version.to_owned(),
        error_code: None,
        reason: None,
        attempts: 0,
        settled: false,
        released: false,
        settling: None,
        created: at,
        held_until: None,
        valid_until: at,
        updated: at,
    };
    let seen = world.record_inbound(&message, at + LOOK_AGAIN).await?;
    // A word counts as of the text's first arrival: one that comes again, even much later, lifts nothing.
    let said_at = match seen {
        Seen::First => at,
        Seen::Before(first) => first,
    };
    if let Some(consent) = consent {
        let heard = Heard::Text(sid);
        // A number in a messaging service: Twilio blocks the whole service, so both are noted.
        for sender in [Some(&own), service.as_ref()].into_iter().flatten() {
            world.record_consent(account, sender, &other_hash, consent, &heard, said_at).await?;
        }
    }
    match seen {
        Seen::First => post(world, account, id).await,
        Seen::Before(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
