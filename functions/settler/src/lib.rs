//! Queue `settle`: looks at Twilio for each message of which it is not known whether Twilio took it. It sends nothing.

use futures::future::join_all;
use jiff::Timestamp;
use telbuddy::credential::{KeepCredential, LoadKeys, OpenKey, data_key, open_carrier};
use telbuddy::fault::Fault;
use telbuddy::live::Need;
use telbuddy::message::{
    Adopted, FindDue, LOOK_AGAIN, ListAtCarrier, Listed, Listings, Message, Payload, SettleMessage, Status, adopt,
    after_clean_listing, ask_again, listing_due, proves,
};
use telbuddy::platform::{Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::seal::{Purpose, Sealed};

/// The queue of this function.
pub const QUEUE: Queue = Queue::Settle;

/// The services that it calls. It may open the purposes send and payload.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Messages of one page.
const PAGE: u16 = 100;
/// Pages of one listing. Nobody gets so many texts from one account in half an hour; if so, the listing proves nothing.
const MOST_PAGES: usize = 5;

/// Works through a batch, its messages at the same time.
///
/// AWS calls for each: 2 reads, 1 write; if Twilio has something that fits 1 read more, a transaction in place of the
/// write, and 1 hint; once in five minutes and key 1 read and 1 KMS call with its entry in the access log. Twilio: 1 GET
/// for each page, nearly always 1.
pub async fn handle<W>(world: &W, listings: &Listings, jobs: Vec<Job>) -> Vec<Handled>
where
    W: SettleMessage + ListAtCarrier + FindDue + KeepCredential + OpenKey + LoadKeys + EnqueueJob + Clock + Sync,
{
    join_all(jobs.into_iter().map(async |job| match settle(world, listings, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "a message could not be looked for");
            Handled::Again
        }
    }))
    .await
}

async fn settle<W>(world: &W, listings: &Listings, job: Job) -> Result<(), Fault>
where
    W: SettleMessage + ListAtCarrier + FindDue + KeepCredential + OpenKey + LoadKeys + EnqueueJob + Clock,
{
    let Job::Settle { account, message } = job else {
        return Err(Fault::permanent("this queue takes messages to look for only"));
    };
    let Some((message, Some(sealed))) = world.load_with_payload(account, message).await? else { return Ok(()) };
    let asked = world.now();
    // Settled by now, or another job was quicker.
    if listing_due(&message, listings).is_none_or(|at| at > asked) {
        return Ok(());
    }
    let listing = list(world, &message, &sealed).await?;
    if !listing.fits.is_empty() && adopt_one(world, &message, &listing.fits).await? {
        return Ok(());
    }
    if listing.proves { count(world, listings, &message, asked).await } else { put_off(world, &message).await }
}

/// What Twilio's list says of a message.
struct Listing {
    /// These can be it, oldest first; they may belong to others.
    fits: Vec<Listed>,
    /// Whether the list is complete, so that what is not in it was not taken.
    proves: bool,
}

/// Twilio's list of what went to this recipient, as far back as it can matter.
async fn list<W>(world: &W, message: &Message, sealed: &Sealed) -> Result<Listing, Fault>
where
    W: ListAtCarrier + KeepCredential + OpenKey + LoadKeys,
{
    let mut listing = Listing { fits: Vec::new(), proves: false };
    let Some(stored) = world.load_credential(message.account).await? else { return Ok(listing) };
    let key = data_key(world, message.account, Purpose::Payload, Some(sealed.key_version()?)).await?;
    let payload = Payload::open(sealed, &key, message.id)?;
    let carrier = open_carrier(world, &stored).await?;
    let mut next = None;
    for _ in 0..MOST_PAGES {
        let page = match world.list_at_carrier(&carrier, &payload.to, PAGE, next.as_ref()).await {
            Ok(page) => page,
            Err(trouble) => {
                tracing::info!(message.id = %message.id, ?trouble, "Twilio cannot be asked about {}", message.id);
                break;
            }
        };
        let far_enough = page.messages.last().is_some_and(|last| last.is_before(message));
        listing.fits.extend(page.messages.into_iter().filter(|listed| listed.can_be(message, &payload)));
        next = page.next;
        if far_enough || next.is_none() {
            listing.proves = proves(&stored, message);
            break;
        }
    }
    listing.fits.reverse();
    Ok(listing)
}

/// Takes the first that belongs to no other message: identical messages are interchangeable. `false` if there is none.
async fn adopt_one<W>(world: &W, message: &Message, fits: &[Listed]) -> Result<bool, Fault>
where
    W: SettleMessage + EnqueueJob + Clock,
{
    let sids = fits.iter().map(|listed| listed.sid.clone()).collect();
    let free = world.free_sids(message.account, sids).await?;
    for listed in fits.iter().filter(|listed| free.contains(&listed.sid)) {
        let now = world.now();
        let Some(adopted) = adopt(message, &listed.report(), now) else { return Ok(true) };
        match world.adopt_sid(&adopted, Some(now + LOOK_AGAIN), &[], None).await? {
            Adopted::Adopted => {
                tracing::info!(message.id = %message.id, status = ?adopted.status, "Twilio has {}", message.id);
                post(world, message).await;
                return Ok(true);
            }
            // A callback or a late answer came in between.
            Adopted::Moved => return Ok(true),
            Adopted::Taken(_) => {}
        }
    }
    Ok(false)
}

/// A listing that counts: the message is not there.
async fn count<W>(world: &W, listings: &Listings, message: &Message, asked: Timestamp) -> Result<(), Fault>
where
    W: SettleMessage + EnqueueJob + Clock,
{
    let counted = after_clean_listing(message, asked, listings);
    let due = listing_due(&counted, listings).unwrap_or(world.now() + LOOK_AGAIN);
    if world.record_listing(&counted, due).await? && counted.status == Status::Unconfirmed {
        tracing::warn!(message.id = %message.id, "Twilio does not have {}: unconfirmed", message.id);
        post(world, message).await;
    }
    Ok(())
}

/// Nothing was found out: again later.
async fn put_off<W: FindDue + Clock>(world: &W, message: &Message) -> Result<(), Fault> {
    world.look_again(message, ask_again(message, world.now())).await.map(|_| ())
}

/// A hint; the sweeper finds what is due if it gets lost.
async fn post<W: EnqueueJob>(world: &W, message: &Message) {
    let Message { account, id, .. } = *message;
    if let Err(fault) = world.enqueue(Job::Post { account, message: id }, 0).await {
        tracing::warn!(message.id = %id, %fault, "the hint for {id} is lost; the sweeper will find it");
    }
}

#[cfg(test)]
mod tests;
