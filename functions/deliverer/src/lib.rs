//! Queue `deliver`: sends each event to its endpoint, signed, and writes down what came of it.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use telbuddy::alert::Alert;
use telbuddy::credential::{KeepCredential, LoadKeys, OpenKey, data_key, load_carrier};
use telbuddy::endpoint::{
    About, Answer, Attempt, CallEndpoint, ContentMissing, Delivery, DeliveryClaim, DeliveryStatus, Endpoint, Health,
    KeepEndpoints, MOST_DELAY, NoteHealth, Signed, SigningSecret, Trouble, WhyDisabled, WorkDeliveries, health,
    signature,
};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, EndpointId, EventId};
use telbuddy::live::Need;
use telbuddy::message::{Content, Fence, ReadContent, read_content};
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::seal::Purpose;

/// The queue of this function.
pub const QUEUE: Queue = Queue::Deliver;

/// The services that it calls. It may open the purposes profile, to sign, and send, to read from Twilio what is told to
/// an endpoint with `include_content`.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio, Need::Endpoints];

/// Whoever disabled an endpoint has told its owner within this time, or did not come to it.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// Works through a batch, its deliveries at the same time. A crash between the endpoint's answer and our row sends the
/// event again, with the same `webhook-id`.
///
/// AWS calls for each: 1 claim, 1 read, 1 write; 1 hint if it is tried again soon; once in five minutes and account 1
/// read and 1 KMS call with its entry in the access log. The first failure of an endpoint and the first success after
/// it 1 write more; disabling it 1 transaction, 1 alert, 1 write. A job with nothing to claim costs 1 write. 1 POST.
///
/// With `include_content`, for an event of a message that Twilio has, 1 read more (credential) and once in five minutes
/// and account 1 read and 1 KMS call with its entry in the access log; Twilio: 1 GET, 1 more with media. What that said
/// is in the POST and nowhere else. If Twilio cannot be asked, there is no POST, and this was a try of the delivery.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: WorkDeliveries + KeepEndpoints + NoteHealth + CallEndpoint + OpenKey + LoadKeys + EnqueueJob,
    W: KeepCredential + ReadContent + Clock + Chance + Sync,
{
    join_all(jobs.into_iter().map(async |job| match deliver(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an event could not be delivered");
            Handled::Again
        }
    }))
    .await
}

async fn deliver<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: WorkDeliveries + KeepEndpoints + NoteHealth + CallEndpoint + OpenKey + LoadKeys + EnqueueJob,
    W: KeepCredential + ReadContent + Clock + Chance + Sync,
{
    let Job::Deliver { account, endpoint, delivery } = job else {
        return Err(Fault::permanent("this queue takes events to deliver only"));
    };
    let fence = Fence(world.dice()?);
    let claim = world.claim_delivery(account, endpoint, delivery, fence, world.now()).await?;
    let DeliveryClaim::Mine(delivery) = claim else { return Ok(()) };
    let endpoint = world.load_endpoint(account, endpoint).await?;
    if let Some(endpoint) = &endpoint {
        tell_if_owed(world, endpoint).await?;
    }
    let attempt = match endpoint.as_ref().filter(|endpoint| endpoint.disabled.is_none()) {
        Some(endpoint) => attempt(world, endpoint, &delivery).await?,
        None => Attempt { at: world.now(), result: Answer::None(Trouble::Disabled), took_ms: 0 },
    };
    let says = endpoint.as_ref().map(|endpoint| {
        let says = health(endpoint, delivery.event.kind, attempt.result, world.now());
        (endpoint, says)
    });
    // Before the delivery is written: until the owner is told, its lease leads back here.
    if let Some((endpoint, Health::Disable(why))) = says {
        disable(world, endpoint, why).await?;
    }
    record(world, *delivery, fence, attempt).await?;
    if let Some((endpoint, says)) = says {
        note(world, endpoint, says).await;
    }
    Ok(())
}

/// One try: one POST, or none while Twilio cannot be asked what to send.
async fn attempt<W>(world: &W, endpoint: &Endpoint, delivery: &Delivery) -> Result<Attempt, Fault>
where
    W: CallEndpoint + KeepCredential + ReadContent + OpenKey + LoadKeys + Clock + Sync,
{
    let began = world.now();
    if let Some(body) = body(world, endpoint, delivery).await {
        return call(world, endpoint, delivery.event.id, body).await;
    }
    let result = Answer::None(Trouble::TwilioUnavailable);
    Ok(Attempt { at: began, result, took_ms: ms_since(began, world.now()) })
}

/// What is sent. `None`: it has to have content, which Twilio may give at a later try.
async fn body<W>(world: &W, endpoint: &Endpoint, delivery: &Delivery) -> Option<String>
where
    W: KeepCredential + ReadContent + OpenKey + LoadKeys + Clock + Sync,
{
    let event = &delivery.event;
    let Some(about) = event.about().filter(|_| endpoint.include_content) else { return Some(event.body()) };
    let content = read(world, endpoint.account, &about).await;
    if let Err(why) = &content {
        tracing::info!(delivery.id = %delivery.id, ?why, "there is no content for {}", delivery.id);
    }
    let wait = content.as_ref().is_err_and(|why| why.is_passing()) && !delivery.is_last_try(world.now());
    (!wait).then(|| event.body_with(&about, content))
}

async fn read<W>(world: &W, account: AccountId, about: &About) -> Result<Content, ContentMissing>
where
    W: KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    let sid = about.sid.as_ref().ok_or(ContentMissing::NotAtTwilio)?;
    // Whatever our own fault is: the event is not lost for it.
    let carrier = load_carrier(world, account).await.map_err(|fault| {
        tracing::warn!(account.id = %account, %fault, "Twilio cannot be asked for content");
        ContentMissing::TwilioUnavailable
    });
    let carrier = carrier?.ok_or(ContentMissing::NotConnected)?;
    read_content(world, &carrier, sid).await?.ok_or(ContentMissing::Redacted)
}

/// One POST, with a signature by each secret that counts.
async fn call<W>(world: &W, endpoint: &Endpoint, event: EventId, body: String) -> Result<Attempt, Fault>
where
    W: CallEndpoint + OpenKey + LoadKeys + Clock,
{
    let at = world.now();
    let mut secrets = Vec::new();
    for sealed in endpoint.signers(at) {
        let key = data_key(world, endpoint.account, Purpose::Profile, Some(sealed.key_version()?)).await?;
        secrets.push(SigningSecret::open(sealed, &key, endpoint.id)?);
    }
    let signature = signature(&secrets, event, at, &body);
    drop(secrets);
    let result = world.call_endpoint(&endpoint.url, &Signed { event, at, signature, body }).await;
    Ok(Attempt { at, result, took_ms: ms_since(at, world.now()) })
}

fn ms_since(began: Timestamp, now: Timestamp) -> u32 {
    u32::try_from(now.duration_since(began).as_millis()).unwrap_or(0)
}

/// What came of it, and a hint for the next try if the queue can hold it so long; else the sweeper wakes it.
async fn record<W>(world: &W, delivery: Delivery, fence: Fence, attempt: Attempt) -> Result<(), Fault>
where
    W: WorkDeliveries + EnqueueJob + Clock + Chance + Sync,
{
    let [dice] = world.random::<1>()?;
    let now = world.now();
    let after = delivery.after(attempt, dice, now);
    let (account, id, status) = (after.account, after.id, after.status);
    if !world.record_attempt(&after, fence).await? {
        tracing::warn!(delivery.id = %id, "{id} took longer than its lease: somebody else has it");
        return Ok(());
    }
    match status {
        DeliveryStatus::Failed => tracing::warn!(account.id = %account, delivery.id = %id, "gave {id} up"),
        DeliveryStatus::Delivered | DeliveryStatus::Pending => {
            tracing::info!(account.id = %account, delivery.id = %id, ?status, "tried {id}");
        }
    }
    if let Some(wait) = after.next.map(|next| next.duration_since(now))
        && wait <= MOST_DELAY
        && let Err(fault) = world.enqueue(after.job(), delay_secs(wait)).await
    {
        tracing::warn!(delivery.id = %id, %fault, "the hint for {id} is lost; the sweeper will find it");
    }
    Ok(())
}

/// Whole seconds, rounded up, as SQS delays them.
fn delay_secs(wait: SignedDuration) -> u16 {
    u16::try_from(wait.as_secs() + 1).unwrap_or(900).min(900)
}

/// A note that is lost is made by the next try.
async fn note<W: NoteHealth + Clock>(world: &W, endpoint: &Endpoint, says: Health) {
    let (account, id) = (endpoint.account, endpoint.id);
    let noted = match (says, endpoint.failing_since) {
        (Health::Failing, _) => world.note_failing(account, id, world.now()).await,
        (Health::Recovered, Some(since)) => world.note_recovered(account, id, since).await,
        (Health::Same | Health::Recovered | Health::Disable(_), _) => Ok(()),
    };
    if let Err(fault) = noted {
        tracing::warn!(endpoint.id = %id, %fault, "how {id} does could not be noted");
    }
}

/// Nothing is sent there any more. Who writes that tells the owner; others leave it to them.
async fn disable<W>(world: &W, endpoint: &Endpoint, why: WhyDisabled) -> Result<(), Fault>
where
    W: NoteHealth + EnqueueJob + Clock,
{
    let now = world.now();
    if world.disable_endpoint(endpoint, why, now).await? {
        let id = endpoint.id;
        tracing::warn!(account.id = %endpoint.account, endpoint.id = %id, why = why.as_str(), "{id} is disabled");
        tell(world, endpoint.account, id, why, now).await?;
    }
    Ok(())
}

/// Tells the owner of a disabling that nobody noted to have told; whoever disabled it has a minute for it.
async fn tell_if_owed<W: NoteHealth + EnqueueJob + Clock>(world: &W, endpoint: &Endpoint) -> Result<(), Fault> {
    match endpoint.disabled {
        Some(disabled) if disabled.untold && world.now() >= disabled.at + TOLD_WITHIN => {
            tell(world, endpoint.account, endpoint.id, disabled.why, disabled.at).await
        }
        _ => Ok(()),
    }
}

async fn tell<W>(
    world: &W,
    account: AccountId,
    endpoint: EndpointId,
    why: WhyDisabled,
    at: Timestamp,
) -> Result<(), Fault>
where
    W: NoteHealth + EnqueueJob,
{
    let alert = Alert::EndpointDisabled { endpoint, why };
    world.enqueue(Job::Alert { account, alert, since: at }, 0).await?;
    if let Err(fault) = world.endpoint_told(account, endpoint, at).await {
        tracing::warn!(endpoint.id = %endpoint, %fault, "that the owner was told is not noted: it may be told twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
