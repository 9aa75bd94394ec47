//! Queue `send`: claims each message, checks what has to be checked last, hands it to Twilio once, records the outcome.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use telbuddy::account::{FreezeReason, LoadGate, Stop, StopSending, Stopped};
use telbuddy::alert::Alert;
use telbuddy::credential::{Carrier, LoadKeys, OpenKey, StoredCredential, data_key};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::inbound::Consent;
use telbuddy::live::Need;
use telbuddy::message::{
    Claim, ClaimMessage, Claimed, CreateMessage, Created, Fence, Guard, LoadGuards, MOST_VALIDITY, Message, Outcome,
    Payload, Reason, RecordOutcome, Standing, retry_at,
};
use telbuddy::number::E164;
use telbuddy::opt_out::{Heard, OPTED_OUT, RecordConsent};
use telbuddy::pace::{TakeSlots, Turn, takes, turns};
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, MOST_DELAY, Queue};
use telbuddy::seal::{DataKey, Purpose, WrappedKeys};
use telbuddy::session::Site;
use telbuddy::velocity::{CountPassing, Limits, Minute, Passing, count_batch};

/// The queue of this function.
pub const QUEUE: Queue = Queue::Send;

/// The services that it calls. It may open the purposes send, payload and match.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Whoever stopped an account has told its owner within this time, or did not come to it.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// What is sent needs these keys; the last one to count what goes where without noting numbers.
const PURPOSES: [Purpose; 3] = [Purpose::Send, Purpose::Payload, Purpose::Match];

/// Works through a batch, its messages at the same time.
///
/// Calls: for each message 1 claim, 1 Twilio, 1 outcome, 1 hint; for the batch 1 read of opt-outs, gates and
/// credentials, 1 for each sender that has a pace (2 if others are in its line), and to count what goes out 1 for each
/// account and 1 for each of its prefixes; once in five minutes and key 1 KMS call with its entry in the access log. A
/// job with nothing to claim costs 1 read of the gate, one that comes too early 1 hint. What has to wait in its sender's
/// line costs 1 outcome and 1 hint now, and 1 claim when its time has come. What stops an account (the first refusal of a
/// credential, a freeze) costs 2 writes and 1 alert more, each further refusal 1 write.
pub async fn handle<W>(world: &W, site: &Site, jobs: Vec<Job>) -> Vec<Handled>
where
    W: ClaimMessage
        + LoadGuards
        + TakeSlots
        + CountPassing
        + StopSending
        + LoadGate
        + RecordOutcome
        + RecordConsent
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
    let mut dispatched = if mine.is_empty() { Vec::new() } else { dispatch(world, site, mine).await }.into_iter();
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
        Claim::Done | Claim::Busy(_) => tell_if_owed(world, *account).await.map(Err),
        Claim::TooEarly(at) => {
            let wait = at - world.now();
            // Longer waits are the sweeper's.
            if wait <= MOST_DELAY {
                world.enqueue(job.clone(), delay_secs(wait)).await?;
            }
            Ok(Err(Handled::Done))
        }
    }
}

async fn dispatch<W>(world: &W, site: &Site, mine: Vec<Claimed>) -> Vec<Handled>
where
    W: LoadGuards
        + TakeSlots
        + CountPassing
        + StopSending
        + RecordOutcome
        + RecordConsent
        + CreateMessage
        + OpenKey
        + LoadKeys
        + EnqueueJob
        + Clock
        + Chance
        + Sync,
{
    let mut keys: Vec<(AccountId, Purpose)> = Vec::new();
    for claimed in &mine {
        let account = claimed.message.account;
        let missing = PURPOSES.into_iter().filter(|p| world.remembered_key(account, *p, None).is_none());
        keys.extend(missing.map(|purpose| (account, purpose)));
    }
    keys.sort_unstable();
    keys.dedup();
    let guards = match world.load_guards(&mine, &keys).await {
        Ok(guards) => guards,
        Err(fault) => {
            tracing::warn!(%fault, "the last checks could not be made");
            join_all(mine.iter().map(|claimed| put_back(world, claimed, None))).await;
            return vec![Handled::Done; mine.len()];
        }
    };
    let steps = join_all(mine.iter().zip(&guards).map(|(claimed, guard)| check(world, claimed, guard))).await;
    let steps = line_up(world, &mine, &guards, steps).await;
    let found = find_attacks(world, &mine, &guards, &steps).await;
    join_all(mine.into_iter().zip(steps).map(|(claimed, step)| {
        let found = found.get(&claimed.message.account).copied();
        finish(world, site, claimed, step, found)
    }))
    .await
}

/// What is to become of a claimed message.
enum Step<'g> {
    /// It is ready to be handed over.
    Send(Box<Ready<'g>>),
    /// It goes no further now.
    End(Outcome),
    /// It has to wait.
    Wait,
}

/// What it takes to hand a message over.
struct Ready<'g> {
    credential: &'g StoredCredential,
    carrier: Carrier,
    payload: Payload,
    passing: Passing,
}

/// The last check, and everything opened.
async fn check<'g, W>(world: &W, claimed: &Claimed, guard: &'g Guard) -> Step<'g>
where
    W: OpenKey + LoadKeys + Clock + Sync,
{
    let credential = match last_check(claimed, guard, world.now()) {
        Ok(credential) => credential,
        Err(outcome) => return Step::End(outcome),
    };
    match open(world, claimed, guard, credential).await {
        Ok(ready) => Step::Send(Box::new(ready)),
        Err(fault) => {
            tracing::warn!(message.id = %claimed.message.id, %fault, "what is to be sent does not open");
            Step::Wait
        }
    }
}

/// Gives what is ready its turn in its sender's line. Not being able to is no reason to be faster than the carrier.
async fn line_up<'g, W>(world: &W, mine: &[Claimed], guards: &[Guard], mut steps: Vec<Step<'g>>) -> Vec<Step<'g>>
where
    W: TakeSlots + Clock + Sync,
{
    type Line<'l, 'g> = Vec<(&'l Message, &'l mut Step<'g>)>;
    let mut lines: BTreeMap<(AccountId, &str, u32), Line<'_, 'g>> = BTreeMap::new();
    for ((claimed, guard), step) in mine.iter().zip(guards).zip(&mut steps) {
        if let (Step::Send(_), Some(rate), false) = (&*step, guard.rate, claimed.in_line) {
            let message = &claimed.message;
            lines.entry((message.account, &message.own, rate)).or_default().push((message, step));
        }
    }
    join_all(lines.into_iter().map(async |((account, own, rate), line)| {
        let messages: Vec<_> = line.iter().map(|(message, _)| (message.segments, message.valid_until)).collect();
        let stretch = messages.iter().map(|(segments, _)| takes(*segments, rate)).sum();
        let latest = messages.iter().map(|(_, valid_until)| *valid_until).max().unwrap_or_default();
        let now = world.now();
        let slots = world.take_slots(account, own, stretch, now, latest).await;
        let turns = match slots {
            Ok(Some(start)) => turns(start, rate, &messages, now),
            Ok(None) => vec![Turn::Never; messages.len()],
            Err(fault) => {
                tracing::warn!(account.id = %account, %fault, "a sender's line could not be joined");
                Vec::new()
            }
        };
        let mut turns = turns.into_iter();
        for (_, step) in line {
            match turns.next() {
                Some(Turn::Now) => {}
                Some(Turn::At(not_before)) => *step = Step::End(Outcome::InLine { not_before }),
                Some(Turn::Never) => *step = Step::End(Outcome::Expired),
                None => *step = Step::Wait,
            }
        }
    }))
    .await;
    steps
}

/// What counting an account's part of a batch came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// Nothing unusual: it goes out.
    Usual,
    /// An attack by its looks: the account is frozen now, and nothing goes out. What is left to do for its jobs.
    Attack(Handled),
    /// It could not be counted, or the account not be frozen: what is not counted waits. Counting has to come before
    /// sending, or a table that is slow would be an open door; and refusing would be a loss that nobody can explain.
    NotKnown,
}

/// Counts what each account is about to hand over, and freezes the accounts whose counters look like an attack.
async fn find_attacks<W>(
    world: &W,
    mine: &[Claimed],
    guards: &[Guard],
    steps: &[Step<'_>],
) -> BTreeMap<AccountId, Found>
where
    W: CountPassing + StopSending + EnqueueJob + Clock + Sync,
{
    let mut accounts: BTreeMap<AccountId, (&Guard, Vec<&Passing>)> = BTreeMap::new();
    for ((claimed, guard), step) in mine.iter().zip(guards).zip(steps) {
        if let Step::Send(ready) = step
            && !claimed.counted
        {
            let (_, passing) = accounts.entry(claimed.message.account).or_insert((guard, Vec::new()));
            passing.push(&ready.passing);
        }
    }
    let found = accounts.into_iter().map(async |(account, (guard, passing))| {
        let minute = Minute::of(account, guard.counts_from, world.now());
        let found = match count_batch(world, minute, Limits::of(guard.daily_ceiling), &passing).await {
            Ok(None) => Found::Usual,
            Ok(Some(reason)) => freeze(world, account, reason).await,
            Err(fault) => {
                tracing::warn!(account.id = %account, %fault, "what goes out could not be counted");
                Found::NotKnown
            }
        };
        (account, found)
    });
    join_all(found).await.into_iter().collect()
}

async fn freeze<W>(world: &W, account: AccountId, reason: FreezeReason) -> Found
where
    W: StopSending + EnqueueJob + Clock,
{
    let (stop, now) = (Stop::Frozen(reason), world.now());
    // A freeze has nothing to do with a version of the credential.
    match world.stop_sending(account, stop, 0, now).await {
        Ok(Stopped::Now) => {
            tracing::error!(account.id = %account, reason = reason.as_str(), "sending of {account} is frozen");
            Found::Attack(tell(world, account, stop, now).await)
        }
        Ok(Stopped::Untold | Stopped::Unchanged) => Found::Attack(Handled::Done),
        Err(fault) => {
            tracing::error!(account.id = %account, %fault, "sending could not be frozen");
            Found::NotKnown
        }
    }
}

/// Takes the step, unless counting said otherwise.
async fn finish<W>(world: &W, site: &Site, claimed: Claimed, step: Step<'_>, found: Option<Found>) -> Handled
where
    W: StopSending + RecordOutcome + RecordConsent + CreateMessage + EnqueueJob + Clock + Chance + Sync,
{
    match (step, found) {
        (Step::End(outcome), _) => record(world, &claimed, outcome).await,
        (Step::Wait, _) => put_back(world, &claimed, None).await,
        (Step::Send(_), Some(Found::Attack(handled))) => {
            record(world, &claimed, Outcome::Refused(Reason::Frozen)).await;
            return handled;
        }
        (Step::Send(_), Some(Found::NotKnown)) if !claimed.counted => put_back(world, &claimed, None).await,
        (Step::Send(ready), _) => return hand_over(world, site, &Claimed { counted: true, ..claimed }, *ready).await,
    }
    Handled::Done
}

/// One message to Twilio and its outcome into its row.
async fn hand_over<W>(world: &W, site: &Site, claimed: &Claimed, ready: Ready<'_>) -> Handled
where
    W: StopSending + RecordOutcome + RecordConsent + CreateMessage + EnqueueJob + Clock + Chance + Sync,
{
    let Ready { credential, carrier, payload, .. } = ready;
    let callback = status_callback(site, credential, claimed);
    let validity = validity_secs(&claimed.message, world.now());
    let created = world.create_message(&carrier, &claimed.message.own, &payload, &callback, validity).await;
    drop((carrier, payload));
    match created {
        Created::Accepted { sid } => record(world, claimed, Outcome::Sent { sid }).await,
        Created::Unknown => record(world, claimed, Outcome::Unknown).await,
        Created::NotProcessed { retry_after_secs } => put_back(world, claimed, retry_after_secs).await,
        Created::Rejected { http, code } => {
            let refused = refuses_credential(http, code);
            let handled = if refused { stop(world, credential).await } else { Handled::Done };
            if code == Some(OPTED_OUT) {
                note_opt_out(world, claimed).await;
            }
            record(world, claimed, Outcome::Rejected { code }).await;
            return handled;
        }
    }
    Handled::Done
}

/// Whether an answer is about the credential or the account and not about this message: 401, and 403 with a code of the
/// 20000s (Twilio's for authentication and accounts: not active, a permission missing, test credentials) or none. A 403
/// of another code, such as 21408 for a destination that is switched off, ends its own message only.
fn refuses_credential(http: u16, code: Option<u32>) -> bool {
    http == 401 || (http == 403 && code.is_none_or(|code| (20_000..21_000).contains(&code)))
}

/// Twilio refuses the credential: sending stops, and who changed the gate tells the owner. First the gate, since only
/// its write says who is first; it notes that the owner is still to be told, and until that is done the job comes again
/// (docs/decisions/0017).
async fn stop<W: StopSending + EnqueueJob + Clock>(world: &W, credential: &StoredCredential) -> Handled {
    let (account, stop, now) = (credential.account, Stop::CredentialRefused, world.now());
    match world.stop_sending(account, stop, credential.version, now).await {
        Ok(Stopped::Now) => {
            tracing::error!(account.id = %account, "Twilio refuses the credential: sending is stopped");
            tell(world, account, stop, now).await
        }
        Ok(Stopped::Untold) => Handled::Again,
        Ok(Stopped::Unchanged) => Handled::Done,
        Err(fault) => {
            tracing::error!(account.id = %account, %fault, "it is not known whether sending was stopped");
            Handled::Again
        }
    }
}

/// Tells the owner of a stop that nobody noted to have told; whoever stopped the account has a minute for it.
async fn tell_if_owed<W>(world: &W, account: AccountId) -> Result<Handled, Fault>
where
    W: LoadGate + StopSending + EnqueueJob + Clock,
{
    let Some(gate) = world.load_gate(account).await? else { return Ok(Handled::Done) };
    let mut handled = Handled::Done;
    for (stop, since) in gate.untold().into_iter().flatten() {
        if world.now() < since + TOLD_WITHIN || tell(world, account, stop, since).await == Handled::Again {
            handled = Handled::Again;
        }
    }
    Ok(handled)
}

async fn tell<W: StopSending + EnqueueJob>(world: &W, account: AccountId, stop: Stop, since: Timestamp) -> Handled {
    let alert = match stop {
        Stop::CredentialRefused => Alert::CredentialRefused,
        Stop::Frozen(reason) => Alert::SendingFrozen { reason },
    };
    if let Err(fault) = world.enqueue(Job::Alert { account, alert, since }, 0).await {
        tracing::error!(account.id = %account, %fault, "the owner could not be told that sending is stopped");
        return Handled::Again;
    }
    if let Err(fault) = world.stop_told(account, stop, since).await {
        tracing::warn!(account.id = %account, %fault, "that the owner was told is not noted: it may be told twice");
    }
    Handled::Done
}

/// Twilio says that this recipient has opted out of this sender: that is taken as truth (promise N9).
async fn note_opt_out<W: RecordConsent + Clock>(world: &W, claimed: &Claimed) {
    let Message { account, id, own, other_hash, .. } = &claimed.message;
    let heard = Heard::Refusal(*id);
    let noted = world.record_consent(*account, own, other_hash, Consent::Stop, &heard, world.now()).await;
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
    // Its hold goes back, and pays.
    if guard.owed {
        return Err(Outcome::Refused(Reason::Owed));
    }
    if now >= claimed.message.valid_until {
        return Err(Outcome::Expired);
    }
    guard.credential.as_ref().ok_or(Outcome::Refused(Reason::NotConnected))
}

async fn open<'g, W: OpenKey + LoadKeys>(
    world: &W,
    claimed: &Claimed,
    guard: &Guard,
    credential: &'g StoredCredential,
) -> Result<Ready<'g>, Fault> {
    let account = claimed.message.account;
    let send_key = key(world, guard, account, Purpose::Send, Some(credential.send.key_version()?)).await?;
    let payload_key = key(world, guard, account, Purpose::Payload, Some(claimed.payload.key_version()?)).await?;
    let match_key = key(world, guard, account, Purpose::Match, None).await?;
    let payload = Payload::open(&claimed.payload, &payload_key, claimed.message.id)?;
    let to = E164::from_network(&payload.to).ok_or(Fault::permanent("a stored recipient is not a number"))?;
    let passing = Passing::of(&match_key, &claimed.message, &to);
    Ok(Ready { credential, carrier: Carrier::open(credential, &send_key)?, payload, passing })
}

/// A key, the newest if no version is named: remembered, or loaded with the guard, or (a credential replaced this very
/// moment) loaded now.
async fn key<W: OpenKey + LoadKeys>(
    world: &W,
    guard: &Guard,
    account: AccountId,
    purpose: Purpose,
    version: Option<u32>,
) -> Result<DataKey, Fault> {
    let fits =
        |keys: &&WrappedKeys| keys.purpose == purpose && version.is_none_or(|version| keys.version(version).is_some());
    match guard.keys.iter().find(fits) {
        Some(keys) => world.open_key(keys, version).await,
        None => data_key(world, account, purpose, version).await,
    }
}

/// Where Twilio reports the message's status. Our id in the path settles what became of it even if Twilio's answer got
/// lost. The fragment asks Twilio to repeat failed callbacks twice (connection overrides); it is not signed.
fn status_callback(site: &Site, credential: &StoredCredential, claimed: &Claimed) -> String {
    let (hook, message) = (credential.hook.reveal(), claimed.message.id);
    format!("{}/hooks/twilio/{hook}/status/{message}#rc=2&rp=5xx,ct,rt", site.origin)
}

/// What is left of its validity: Twilio must not deliver it later than we would.
fn validity_secs(message: &Message, now: Timestamp) -> u32 {
    let left = message.valid_until.duration_since(now).min(MOST_VALIDITY).as_secs();
    u32::try_from(left.max(1)).unwrap_or(1)
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
        (Outcome::InLine { not_before }, _) if *not_before - now > MOST_DELAY => None,
        (Outcome::Retry { not_before } | Outcome::InLine { not_before }, _) => {
            Some((Job::Send { account, message: id }, delay_secs(*not_before - now)))
        }
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
