//! Queue `send`: claims each message, checks what has to be checked last, hands it to Twilio once, records the outcome.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use telbuddy::account::{LoadGate, Stop, StopSending, Stopped};
use telbuddy::alert::Alert;
use telbuddy::credential::{Carrier, LoadKeys, OpenKey, StoredCredential, data_key};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::inbound::{Consent, RecordConsent};
use telbuddy::live::Need;
use telbuddy::message::{
    Claim, ClaimMessage, Claimed, CreateMessage, Created, Fence, Guard, LoadGuards, Message, Outcome, Payload, Reason,
    RecordOutcome, Standing, VALIDITY, retry_at,
};
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::seal::{DataKey, Purpose};
use telbuddy::session::Site;

/// The queue of this function.
pub const QUEUE: Queue = Queue::Send;

/// The services that it calls. It may open the purposes send and payload.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Twilio's error for a recipient who has opted out.
const OPTED_OUT: u32 = 21610;

/// Whoever stopped an account has told its owner within this time, or did not come to it.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// What is sent needs these two keys.
const PURPOSES: [Purpose; 2] = [Purpose::Send, Purpose::Payload];

/// Works through a batch, its messages at the same time.
///
/// Calls: for each message 1 claim, 1 Twilio, 1 outcome, 1 hint; for the batch 1 read of opt-outs, gates and
/// credentials; once in five minutes and key 1 KMS call with its entry in the access log. A job with nothing to claim
/// costs 1 read of the gate. The first 401 of a credential costs 2 writes and 1 alert more, each further one 1 write.
pub async fn handle<W>(world: &W, site: &Site, jobs: Vec<Job>) -> Vec<Handled>
where
    W: ClaimMessage
        + LoadGuards
        + RecordOutcome
        + RecordConsent
        + StopSending
        + LoadGate
        + CreateMessage
        + OpenKey
        + LoadKeys
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    let claims = join_all(jobs.iter().map(|job| claim(world, job))).await;
    let mut mine = Vec::new();
    // `None`: claimed, and handled with the others that were.
    let mut handled = Vec::new();
    for claim in claims {
        handled.push(match claim {
            Ok(Ok(claimed)) => {
                mine.push(*claimed);
                None
            }
            Ok(Err(handled)) => Some(handled),
            Err(fault) => {
                tracing::warn!(%fault, "a claim failed");
                Some(Handled::Again)
            }
        });
    }
    let mut dispatched = if mine.is_empty() { Vec::new() } else { dispatch(world, site, &mine).await }.into_iter();
    handled.into_iter().map(|handled| handled.or_else(|| dispatched.next()).unwrap_or(Handled::Again)).collect()
}

/// The message, if it is ours to send now, or what that leaves to do for its job.
async fn claim<W>(world: &W, job: &Job) -> Result<Result<Box<Claimed>, Handled>, Fault>
where
    W: ClaimMessage + LoadGate + StopSending + EnqueueJob + Clock + Chance + Sync,
{
    let Job::Send { account, message } = job else {
        return Err(Fault::permanent("this queue takes messages to send only"));
    };
    match world.claim_message(*account, *message, Fence(world.dice()?), world.now()).await? {
        Claim::Mine(claimed) => Ok(Ok(claimed)),
        // Somebody else has it or will: the sweeper owns what gets stuck, not the queue. But the job may have come
        // again because its owner was not told of a refusal.
        Claim::Done | Claim::NotNow(_) => tell_if_owed(world, *account).await.map(Err),
    }
}

async fn dispatch<W>(world: &W, site: &Site, mine: &[Claimed]) -> Vec<Handled>
where
    W: LoadGuards
        + RecordOutcome
        + RecordConsent
        + StopSending
        + CreateMessage
        + OpenKey
        + LoadKeys
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    let mut keys: Vec<(AccountId, Purpose)> = Vec::new();
    for claimed in mine {
        let account = claimed.message.account;
        let missing = PURPOSES.into_iter().filter(|p| world.remembered_key(account, *p, None).is_none());
        keys.extend(missing.map(|purpose| (account, purpose)));
    }
    keys.sort_unstable();
    keys.dedup();
    match world.load_guards(mine, &keys).await {
        Ok(guards) => {
            join_all(mine.iter().zip(&guards).map(|(claimed, guard)| send_one(world, site, claimed, guard))).await
        }
        Err(fault) => {
            tracing::warn!(%fault, "the last checks could not be made");
            join_all(mine.iter().map(async |claimed| put_back(world, claimed, None).await)).await;
            vec![Handled::Done; mine.len()]
        }
    }
}

/// One message to Twilio and its outcome into its row.
async fn send_one<W>(world: &W, site: &Site, claimed: &Claimed, guard: &Guard) -> Handled
where
    W: RecordOutcome
        + RecordConsent
        + StopSending
        + CreateMessage
        + OpenKey
        + LoadKeys
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    let credential = match last_check(claimed, guard, world.now()) {
        Ok(credential) => credential,
        Err(outcome) => {
            record(world, claimed, outcome).await;
            return Handled::Done;
        }
    };
    let opened = open(world, claimed, guard, credential).await;
    let (carrier, payload) = match opened {
        Ok(opened) => opened,
        Err(fault) => {
            tracing::warn!(message.id = %claimed.message.id, %fault, "what is to be sent does not open");
            put_back(world, claimed, None).await;
            return Handled::Done;
        }
    };
    let callback = status_callback(site, credential, claimed);
    let created = world.create_message(&carrier, &claimed.message.own, &payload, &callback).await;
    drop((carrier, payload));
    match created {
        Created::Accepted { sid } => record(world, claimed, Outcome::Sent { sid }).await,
        Created::Unknown => record(world, claimed, Outcome::Unknown).await,
        Created::NotProcessed { retry_after_secs } => put_back(world, claimed, retry_after_secs).await,
        Created::Rejected { http, code } => {
            let handled = if http == 401 { stop(world, credential).await } else { Handled::Done };
            if code == Some(OPTED_OUT) {
                note_opt_out(world, claimed).await;
            }
            record(world, claimed, Outcome::Rejected { code }).await;
            return handled;
        }
    }
    Handled::Done
}

/// Twilio refuses the credential: sending stops, and who changed the gate tells the owner. First the gate, since only
/// its write says who is first; it notes that the owner is still to be told, and until that is done the job comes again
/// (docs/decisions/0017).
async fn stop<W: StopSending + EnqueueJob + Clock>(world: &W, credential: &StoredCredential) -> Handled {
    let (account, now) = (credential.account, world.now());
    match world.stop_sending(account, Stop::CredentialRefused, credential.version, now).await {
        Ok(Stopped::Now) => {
            tracing::error!(account.id = %account, "Twilio refuses the credential: sending is stopped");
            tell(world, account, now).await
        }
        Ok(Stopped::Untold) => Handled::Again,
        Ok(Stopped::Unchanged) => Handled::Done,
        Err(fault) => {
            tracing::error!(account.id = %account, %fault, "it is not known whether sending was stopped");
            Handled::Again
        }
    }
}

/// Tells the owner of a refusal that nobody noted to have told; whoever stopped the account has a minute for it.
async fn tell_if_owed<W>(world: &W, account: AccountId) -> Result<Handled, Fault>
where
    W: LoadGate + StopSending + EnqueueJob + Clock,
{
    let gate = world.load_gate(account).await?;
    match gate.and_then(|gate| gate.refusal_untold) {
        None => Ok(Handled::Done),
        Some(since) if world.now() < since + TOLD_WITHIN => Ok(Handled::Again),
        Some(since) => Ok(tell(world, account, since).await),
    }
}

async fn tell<W: StopSending + EnqueueJob>(world: &W, account: AccountId, since: Timestamp) -> Handled {
    let alert = Job::Alert { account, alert: Alert::CredentialRefused, since };
    if let Err(fault) = world.enqueue(alert, 0).await {
        tracing::error!(account.id = %account, %fault, "the owner could not be told that sending is stopped");
        return Handled::Again;
    }
    if let Err(fault) = world.refusal_told(account, since).await {
        tracing::warn!(account.id = %account, %fault, "that the owner was told is not noted: it may be told twice");
    }
    Handled::Done
}

/// Twilio says that this recipient has opted out of this sender: that is taken as truth (promise N9).
async fn note_opt_out<W: RecordConsent + Clock>(world: &W, claimed: &Claimed) {
    let Message { account, id, own, other_hash, .. } = &claimed.message;
    let source = format!("error {OPTED_OUT} for {id}");
    let noted = world.record_consent(*account, own, other_hash, Consent::Stop, &source, world.now()).await;
    if let Err(fault) = noted {
        tracing::error!(message.id = %id, %fault, "Twilio told of an opt-out that could not be stored");
    }
}

/// What is checked with the row already ours and right before Twilio: a STOP or a freeze that was stored before wins.
fn last_check<'g>(claimed: &Claimed, guard: &'g Guard, now: Timestamp) -> Result<&'g StoredCredential, Outcome> {
    if guard.opted_out {
        return Err(Outcome::Refused(Reason::OptedOut));
    }
    if let Some(stop) = guard.stopped {
        return Err(Outcome::Refused(stop.into()));
    }
    if now >= claimed.message.created + VALIDITY {
        return Err(Outcome::Expired);
    }
    guard.credential.as_ref().ok_or(Outcome::Refused(Reason::NotConnected))
}

async fn open<W: OpenKey + LoadKeys>(
    world: &W,
    claimed: &Claimed,
    guard: &Guard,
    credential: &StoredCredential,
) -> Result<(Carrier, Payload), Fault> {
    let send_key = key(world, guard, credential.account, Purpose::Send, credential.send.key_version()?).await?;
    let version = claimed.payload.key_version()?;
    let payload_key = key(world, guard, claimed.message.account, Purpose::Payload, version).await?;
    let payload = Payload::open(&claimed.payload, &payload_key, claimed.message.id)?;
    Ok((Carrier::open(credential, &send_key)?, payload))
}

/// A key: remembered, or loaded with the guard, or (a credential replaced this very moment) loaded now.
async fn key<W: OpenKey + LoadKeys>(
    world: &W,
    guard: &Guard,
    account: AccountId,
    purpose: Purpose,
    version: u32,
) -> Result<DataKey, Fault> {
    match guard.keys.iter().find(|keys| keys.purpose == purpose && keys.version(version).is_some()) {
        Some(keys) => world.open_key(keys, Some(version)).await,
        None => data_key(world, account, purpose, Some(version)).await,
    }
}

/// Where Twilio reports the message's status. Our id in the path settles what became of it even if Twilio's answer got
/// lost. The fragment asks Twilio to repeat failed callbacks twice (connection overrides); it is not signed.
fn status_callback(site: &Site, credential: &StoredCredential, claimed: &Claimed) -> String {
    let (hook, message) = (credential.hook.reveal(), claimed.message.id);
    format!("{}/hooks/twilio/{hook}/status/{message}#rc=2&rp=5xx,ct,rt", site.origin)
}

/// Certainly not processed: try again later, or let it expire.
async fn put_back<W>(world: &W, claimed: &Claimed, retry_after_secs: Option<u32>)
where
    W: RecordOutcome + EnqueueJob + Clock + Chance + Sync,
{
    let [dice] = world.random::<1>().unwrap_or([0]);
    let outcome = match retry_at(&claimed.message, retry_after_secs, dice, world.now()) {
        Some(not_before) => Outcome::Retry { not_before },
        None => Outcome::Expired,
    };
    record(world, claimed, outcome).await;
}

/// Writes the outcome and wakes who comes next. A write that fails leaves the claim to its lease: the message becomes
/// `unknown`, and Twilio's callback settles it.
async fn record<W>(world: &W, claimed: &Claimed, outcome: Outcome)
where
    W: RecordOutcome + EnqueueJob + Clock + Sync,
{
    let message = &claimed.message;
    let (account, id) = (message.account, message.id);
    let now = world.now();
    let status = match world.record_outcome(claimed, &outcome, now).await {
        Ok(status) => status,
        Err(fault) => {
            tracing::error!(message.id = %id, %fault, "the outcome of {id} could not be stored");
            return;
        }
    };
    tracing::info!(account.id = %account, message.id = %id, ?status, "handled {id}");
    let hint = match (&outcome, status.standing()) {
        (Outcome::Retry { not_before }, _) => Some((Job::Send { account, message: id }, delay_secs(*not_before - now))),
        (_, Standing::AtCarrier | Standing::Over) => Some((Job::Post { account, message: id }, 0)),
        (_, Standing::Waiting | Standing::Arrived) => None,
    };
    if let Some((job, delay_secs)) = hint
        && let Err(fault) = world.enqueue(job, delay_secs).await
    {
        tracing::warn!(message.id = %id, %fault, "the hint for {id} is lost; the sweeper will find it");
    }
}

/// Whole seconds, rounded up, as SQS delays them; what is longer belongs to the sweeper.
fn delay_secs(wait: SignedDuration) -> u16 {
    u16::try_from(wait.as_secs() + 1).unwrap_or(900).min(900)
}

#[cfg(test)]
mod tests;
