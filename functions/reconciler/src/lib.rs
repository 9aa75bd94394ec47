//! Queue `reconcile`: sets what was charged on a finished day against what Twilio has, by SID, and posts small
//! differences.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::join_all;
use jiff::SignedDuration;
use telbuddy::account::LoadGate;
use telbuddy::alert::Alert;
use telbuddy::connection::{ASK_AGAIN, Trouble};
use telbuddy::credential::{Carrier, KeepCredential, LoadKeys, OpenKey, open_carrier};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::ledger::UsageEvent;
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::reconciliation::{
    CATEGORIES, CarrierUsage, Compared, Course, KeepComparison, KeepCourse, PostCorrection, ReadCharges, ReadDay,
    ReadReports, Report, Stage, State, bounds, charged_sid, differences, ids_of, post_differences, wait,
};
use telbuddy::routine::{FindDueRoutines, Routine};

/// The queue of this function.
pub const QUEUE: Queue = Queue::Reconcile;

/// The services that it calls. It may open the purpose send.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Twilio];

/// Messages of a page of Twilio's list.
const PAGE: u16 = 500;
/// Our own messages of a page: what is not in Twilio's list is asked for one by one.
const OUR_PAGE: u16 = 200;
/// Pages of one run; a job of its own goes on behind them.
const MOST_STEPS: usize = 10;

/// What this function asks of the world.
pub trait Ports:
    KeepCourse
    + FindDueRoutines
    + KeepCredential
    + OpenKey
    + LoadKeys
    + ReadDay
    + ReadCharges
    + KeepComparison
    + ReadReports
    + PostCorrection
    + LoadGate
    + EnqueueJob
    + Clock
    + Chance
    + Sync
{
}

impl<W> Ports for W where
    W: KeepCourse
        + FindDueRoutines
        + KeepCredential
        + OpenKey
        + LoadKeys
        + ReadDay
        + ReadCharges
        + KeepComparison
        + ReadReports
        + PostCorrection
        + LoadGate
        + EnqueueJob
        + Clock
        + Chance
        + Sync
{
}

/// Works through a batch, its accounts at the same time. A day is compared once it ended `settled_after` ago.
///
/// AWS calls for each: 4 reads; for each page of 500 of Twilio's list 5 reads and 2 writes; for each page of 200 of our
/// messages 1 read and 1 write, and for each run 1 read of what Twilio's list had; for each difference 1 transaction; 2
/// writes at the end of a day; once in five minutes and key 1 read and 1 KMS call with its entry in the access log.
/// Twilio: 1 GET for each page, 1 for each message of ours that is not in the list, 4 for the usage records.
pub async fn handle<W: Ports>(world: &W, settled_after: SignedDuration, jobs: Vec<Job>) -> Vec<Handled> {
    join_all(jobs.into_iter().map(async |job| match reconcile(world, settled_after, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "an account's charges could not be compared");
            Handled::Again
        }
    }))
    .await
}

async fn reconcile<W: Ports>(world: &W, settled_after: SignedDuration, job: Job) -> Result<(), Fault> {
    let Job::Reconcile { account } = job else {
        return Err(Fault::permanent("this queue takes accounts to compare only"));
    };
    let Some(mut course) = world.load_course(account).await? else { return Ok(()) };
    if !course.is_settled(world.now(), settled_after) {
        return world.do_routine_at(account, Routine::Reconciliation, course.due(account, world.now())).await;
    }
    let Some(stored) = world.load_credential(account).await? else { return Ok(()) };
    // The credential of another Twilio account comes together with another course.
    if world.load_course(account).await?.as_ref() != Some(&course) {
        return world.enqueue(Job::Reconcile { account }, 0).await;
    }
    let carrier = open_carrier(world, &stored).await?;
    let mut day = Day::load(world, account, &course).await?;
    for _ in 0..MOST_STEPS {
        if day.report.is_done() {
            let next = course.after();
            let (now, goes_on) = (world.now(), next.is_settled(world.now(), settled_after));
            let due = if goes_on { now + ASK_AGAIN } else { next.due(account, now) };
            if !world.save_course(account, &course, due).await? || !goes_on {
                return Ok(());
            }
            course = next;
            day = Day::load(world, account, &course).await?;
            continue;
        }
        match day.step(world, &carrier).await? {
            Ok(next) => {
                if !day.save(world, next).await? {
                    // Another run is quicker.
                    return Ok(());
                }
            }
            Err(trouble) => return day.put_off(world, &course, trouble).await,
        }
    }
    world.enqueue(Job::Reconcile { account }, 0).await
}

/// One day of an account, under way.
struct Day {
    account: AccountId,
    report: Report,
    /// What Twilio's list had, once it is needed.
    seen: Option<BTreeSet<String>>,
}

impl Day {
    async fn load<W: Ports>(world: &W, account: AccountId, course: &Course) -> Result<Self, Fault> {
        let before = world.load_report(account, course.day).await?;
        Ok(Self { account, report: Report::begin(course, before, world.now()), seen: None })
    }

    /// Does what is next; whatever it writes may be written again.
    async fn step<W: Ports>(&mut self, world: &W, carrier: &Carrier) -> Result<Result<Report, Trouble>, Fault> {
        match self.report.stage.clone() {
            Stage::AtTwilio { page, .. } => self.list(world, carrier, page).await,
            Stage::Here { after } => self.look_for_ours(world, carrier, after).await,
            Stage::Records => Ok(read_records(world, carrier, &self.report).await),
            Stage::Posting { after } => {
                let (n, last) = post_differences(world, self.account, &self.report, after.as_deref()).await?;
                Ok(Ok(self.report.after_posting(n, last.as_deref(), world.now())))
            }
            Stage::Done => Ok(Ok(self.report.clone())),
        }
    }

    /// A page of Twilio's list.
    async fn list<W: Ports>(&self, world: &W, carrier: &Carrier, page: u32) -> Result<Result<Report, Trouble>, Fault> {
        let Self { account, report, .. } = self;
        let listed = match world.list_day(carrier, report.day, PAGE, report.mark().as_ref()).await {
            Ok(listed) => listed,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let of_day: BTreeMap<_, _> =
            listed.messages.into_iter().filter(|it| it.is_of(report.day)).map(|it| (it.sid.clone(), it)).collect();
        let mut charges = self.charges(world, of_day.keys().cloned().collect()).await?;
        let compared = of_day.values().map(|it| Compared::new(it, charges.remove(&it.sid)));
        let compared = compared.collect::<Result<Vec<_>, _>>()?;
        let ours: Vec<_> = compared.iter().filter(|one| one.charge.is_some()).map(|one| one.sid.clone()).collect();
        if !ours.is_empty() {
            world.keep_seen(*account, report.day, page, &ours, world.now()).await?;
        }
        self.keep(world, &compared).await?;
        Ok(Ok(report.after_page(page, &compared, listed.next.as_ref(), world.now())))
    }

    /// A page of our own messages: what Twilio's list did not have is asked for by its SID. It may have been sent on
    /// another day, or never; then it belongs there, or here. A message that Twilio does not know is only here.
    async fn look_for_ours<W: Ports>(
        &mut self,
        world: &W,
        carrier: &Carrier,
        after: Option<MessageId>,
    ) -> Result<Result<Report, Trouble>, Fault> {
        let report = &self.report;
        let (before, to) = ids_of(report.day).ok_or(Fault::permanent("no such day"))?;
        let made = world.list_made(self.account, after.unwrap_or(before), to, OUR_PAGE).await?;
        let last = made.last().filter(|_| made.len() == usize::from(OUR_PAGE)).map(|message| message.id);
        let charged = made.iter().filter_map(|message| charged_sid(message, report.connected_since));
        let charged: BTreeSet<_> = charged.map(str::to_owned).collect();
        if !charged.is_empty() && self.seen.is_none() {
            self.seen = Some(world.load_seen(self.account, report.day).await?);
        }
        let seen = self.seen.as_ref();
        let unseen = charged.into_iter().filter(|sid| seen.is_none_or(|seen| !seen.contains(sid))).collect();
        let mut compared = Vec::new();
        for (sid, charge) in self.charges(world, unseen).await? {
            match world.look_up(carrier, &sid).await {
                Ok(Some(it)) if it.sent.is_none() || it.is_of(report.day) => {
                    compared.push(Compared::new(&it, Some(charge))?);
                }
                Ok(Some(_)) => {}
                Ok(None) => compared.push(Compared::only_here(charge)),
                Err(trouble) => return Ok(Err(trouble)),
            }
        }
        self.keep(world, &compared).await?;
        Ok(Ok(report.after_ours(&compared, last, world.now())))
    }

    async fn charges<W: Ports>(&self, world: &W, sids: Vec<String>) -> Result<BTreeMap<String, UsageEvent>, Fault> {
        let charges = if sids.is_empty() { Vec::new() } else { world.load_charges(self.account, sids).await? };
        Ok(charges.into_iter().map(|charge| (charge.sid.clone(), charge)).collect())
    }

    /// Keeps the differences before the report counts them.
    async fn keep<W: Ports>(&self, world: &W, compared: &[Compared]) -> Result<(), Fault> {
        let (report, found) = (&self.report, differences(compared));
        if found.is_empty() {
            return Ok(());
        }
        world.keep_differences(self.account, report.day, report.attempt, &found).await
    }

    /// First the owner is told, then it counts: told twice is better than never.
    async fn save<W: Ports>(&mut self, world: &W, next: Report) -> Result<bool, Fault> {
        let Report { day, state, .. } = next;
        if state == State::NeedsDecision {
            let since = bounds(day).map_or(next.looked, |(_, end)| end);
            let alert = Alert::ReconciliationDiffers { day };
            world.enqueue(Job::Alert { account: self.account, alert, since }, 0).await?;
            tracing::warn!(account.id = %self.account, %day, "a day's charges differ by more than the limit");
        }
        let saved = world.save_report(self.account, &next).await?;
        if saved && next.is_done() && next.tallies.only_here > 0 {
            let missing = next.tallies.only_here;
            tracing::warn!(account.id = %self.account, %day, missing, "Twilio does not have what was charged");
        }
        self.report = next;
        Ok(saved)
    }

    /// Twilio could not be asked: the day stays unknown, and is tried again, until the next one has its turn.
    async fn put_off<W: Ports>(self, world: &W, course: &Course, trouble: Trouble) -> Result<(), Fault> {
        let (account, now) = (self.account, world.now());
        tracing::info!(account.id = %account, day = %course.day, ?trouble, "Twilio cannot be asked about a day");
        let unknown = self.report.unknown(trouble, now);
        if !world.save_report(account, &unknown).await? {
            return Ok(());
        }
        let due = now + wait(unknown.tries);
        if course.is_given_up(now) {
            return world.save_course(account, course, due).await.map(|_| ());
        }
        world.do_routine_at(account, Routine::Reconciliation, due).await
    }
}

/// What Twilio's usage records say; a key that may not read them leaves them unsaid.
async fn read_records<W: Ports>(world: &W, carrier: &Carrier, report: &Report) -> Result<Report, Trouble> {
    let mut usage = Vec::new();
    for category in CATEGORIES {
        usage.push(match world.read_record(carrier, report.day, category).await {
            Ok(said) => said,
            Err(Trouble::NotAllowed | Trouble::NotFound | Trouble::Rejected(_)) => CarrierUsage::unsaid(category),
            Err(trouble) => return Err(trouble),
        });
    }
    Ok(report.judged(usage, world.now()))
}

#[cfg(test)]
mod tests;
