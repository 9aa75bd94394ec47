//! Failed checks of webhook signatures.

use jiff::Timestamp;

use super::at_once;
use crate::ids::AccountId;
use crate::inbound::signature::Rejection;
use crate::platform::{Chance, Clock};
use crate::quarantine::{
    Cause, Facts, Failure, KEPT, Noted, QUIET, QuarantineWebhook, ReadQuarantine, Record, Rotation, RouteKind,
};
use crate::testing::fresh::{self, secs};

const MISMATCH: Cause = Cause::Rejected(Rejection::Mismatch);

fn failure<W: Clock + Chance>(world: &W) -> Failure {
    let at = world.now();
    let facts = Facts {
        route: RouteKind::Messages,
        signature_header: true,
        shared_key_header: false,
        secret_since: at - secs(90),
        rotation: Rotation::None,
    };
    Failure { account: AccountId::new(at, fresh::dice(world)), cause: MISMATCH, at, facts }
}

async fn the_record<W: ReadQuarantine>(world: &W, account: AccountId, now: Timestamp) -> Record {
    let records = world.read_quarantine(account, now).await.unwrap();
    assert_eq!(records.len(), 1, "{records:?}");
    records[0].clone()
}

pub async fn of_fifty_failures_at_once_all_count_and_one_is_the_first<W>(world: &W)
where
    W: QuarantineWebhook + ReadQuarantine + Clock + Chance,
{
    let failure = failure(world);
    let noted = at_once(50, |_| world.quarantine(&failure)).await;
    let news = noted.iter().filter(|noted| noted.as_ref().unwrap().is_news(failure.at)).count();
    let first = noted.iter().filter(|noted| noted.as_ref().unwrap().previous.is_none()).count();
    assert_eq!((first, news), (1, 1), "{noted:?}");
    let record = the_record(world, failure.account, failure.at).await;
    assert_eq!((record.count, record.first, record.last), (50, failure.at, failure.at));
}

pub async fn a_record_shows_the_first_and_what_the_last_looked_like<W>(world: &W)
where
    W: QuarantineWebhook + ReadQuarantine + Clock + Chance,
{
    let first = failure(world);
    let noted = world.quarantine(&first).await;
    assert_eq!(noted, Ok(Noted { previous: None, first: first.at, alerted: None }));
    let facts = Facts {
        route: RouteKind::Status,
        signature_header: false,
        shared_key_header: true,
        secret_since: first.at,
        rotation: Rotation::WindowOpen,
    };
    let second = Failure { at: first.at + secs(7), facts, ..first };
    let noted = world.quarantine(&second).await;
    assert_eq!(noted, Ok(Noted { previous: Some(first.at), first: first.at, alerted: None }));
    let record = the_record(world, first.account, second.at).await;
    let wanted = Record { cause: MISMATCH, count: 2, first: first.at, last: second.at, facts, alerted: None };
    assert_eq!((record.secret_age_secs(), record), (7, wanted));
}

pub async fn each_cause_and_each_account_counts_by_itself<W>(world: &W)
where
    W: QuarantineWebhook + ReadQuarantine + Clock + Chance,
{
    let failure = failure(world);
    for cause in Cause::all() {
        let noted = world.quarantine(&Failure { cause, ..failure.clone() }).await.unwrap();
        assert_eq!(noted.previous, None, "{cause:?}");
    }
    let mut seen: Vec<_> = world.read_quarantine(failure.account, failure.at).await.unwrap();
    seen.sort_by_key(|record| record.cause.code());
    let mut causes: Vec<_> = Cause::all().map(|cause| (cause.code(), 1)).collect();
    causes.sort_unstable();
    assert_eq!(seen.iter().map(|record| (record.cause.code(), record.count)).collect::<Vec<_>>(), causes);
    let other = AccountId::new(failure.at, fresh::dice(world));
    assert_eq!(world.read_quarantine(other, failure.at).await, Ok(Vec::new()));
}

pub async fn the_owner_is_told_once_a_day_at_most_and_what_is_owed_stays_owed<W>(world: &W)
where
    W: QuarantineWebhook + ReadQuarantine + Clock + Chance,
{
    let first = failure(world);
    let (account, start) = (first.account, first.at);
    let again = async |at: Timestamp| world.quarantine(&Failure { at, ..first.clone() }).await.unwrap().is_news(at);
    assert!(again(start).await);
    // The queue did not take it.
    assert_eq!(world.note_alert(account, MISMATCH, None).await, Ok(()));
    assert!(again(start + secs(60)).await, "still owed");
    assert_eq!(world.note_alert(account, MISMATCH, Some(start + secs(60))).await, Ok(()));
    assert_eq!(the_record(world, account, start).await.alerted, Some(start + secs(60)));
    assert!(!again(start + secs(120)).await, "told");
    assert!(!again(start + QUIET).await, "it went on");
    let later = start + QUIET + QUIET;
    assert!(again(later).await, "after a quiet day");
    assert_eq!(world.note_alert(account, MISMATCH, None).await, Ok(()));
    assert!(again(later + secs(1)).await, "owed again");
}

pub async fn a_record_ends_a_month_after_its_last_failure<W>(world: &W)
where
    W: QuarantineWebhook + ReadQuarantine + Clock + Chance,
{
    let failure = failure(world);
    world.quarantine(&failure).await.unwrap();
    let ends = failure.at + KEPT;
    assert_eq!(world.read_quarantine(failure.account, ends - secs(1)).await.unwrap().len(), 1);
    assert_eq!(world.read_quarantine(failure.account, ends).await, Ok(Vec::new()));
    // A note about nothing makes no row.
    let nobody = AccountId::new(failure.at, fresh::dice(world));
    assert_eq!(world.note_alert(nobody, MISMATCH, Some(failure.at)).await, Ok(()));
    assert_eq!(world.read_quarantine(nobody, failure.at).await, Ok(Vec::new()));
}
