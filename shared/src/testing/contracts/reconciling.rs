//! Reconciliation: a correction is posted once, one writer at a time moves a report, and days come in order.

use futures::future::join;
use jiff::ToSpan;
use jiff::civil::Date;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::credential::{KeepCredential, MintKey, SaveCredential, Saved};
use crate::ids::{AccountId, EntryId, MessageId};
use crate::ledger::{Change, Entry, PostOutcome, Posted, ReadUsage, UsageEvent, Zone};
use crate::message::{ClaimMessage, Message, Outcome, ReadMessages, RecordMessage, RecordOutcome};
use crate::platform::{Chance, Clock};
use crate::reconciliation::{
    Course, Difference, KeepComparison, KeepCourse, PostCorrection, ReadCharges, ReadReports, Report, correction,
    utc_day,
};
use crate::testing::fresh::{self, account, charge, claimed, connect, credential, secs, sid, sid_hash};

/// A message with three credits held that Twilio took, and its charge, not posted yet.
async fn sent<W>(world: &W, account: AccountId) -> (Message, Entry)
where
    W: RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + Clock + Chance,
{
    let outgoing = fresh::outgoing(world, account, 3, world.now());
    world.record_message(&outgoing).await.unwrap();
    let claim = claimed(world, &outgoing.message, world.now()).await;
    let outcome = Outcome::Sent { sid: fresh::word(world) };
    world.record_outcome(&claim, &outcome, world.now()).await.unwrap();
    let message = world.load_message(account, outgoing.message.id).await.unwrap().unwrap();
    let entry = charge(world, &message, world.now());
    (message, entry)
}

fn put_right<W: Clock + Chance>(world: &W, original: &UsageEvent, listed: i64) -> Entry {
    let (charged, now) = (original.units, world.now());
    let credits = Change((listed - charged) * 1_000_000);
    let difference = Difference { sid: original.sid.clone(), charged, listed, credits };
    let id = EntryId::new(now, fresh::dice(world));
    correction(id, original, &difference, utc_day(now), now, &Zone::default())
}

/// Free, held and used, in whole credits.
async fn credits<W: ReadUsage>(world: &W, account: AccountId) -> (i64, u64, u64) {
    let allowance = world.load_allowance(account).await.unwrap().unwrap();
    (allowance.free.0 / 1_000_000, allowance.held.0 / 1_000_000, allowance.used.0 / 1_000_000)
}

pub async fn of_eight_postings_of_a_correction_at_once_one_counts<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + PostCorrection
        + ReadCharges
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let (message, entry) = sent(world, account).await;
    let event = entry.usage.clone().unwrap();
    assert_eq!(world.load_charges(account, vec![event.sid.clone()]).await, Ok(Vec::new()), "not charged yet");
    assert_eq!(world.post_charge(&message, entry, world.now(), &[], None).await, Ok(Posted::Charged));
    let sids = vec![fresh::word(world), event.sid.clone()];
    assert_eq!(world.load_charges(account, sids).await, Ok(vec![event.clone()]));
    assert_eq!(credits(world, account).await, (7, 0, 3));
    // Each job names its own entry.
    let entries: Vec<_> = (0..8).map(|_| put_right(world, &event, 5)).collect();
    let answers = at_once(8, |n| world.post_correction(&entries[n])).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 7), "{answers:?}");
    assert_eq!(credits(world, account).await, (5, 0, 5));
    assert_eq!(world.load_charges(account, vec![event.sid.clone()]).await, Ok(vec![event]), "it stays as it was");
}

pub async fn of_corrections_and_a_charge_at_once_all_count<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + PostCorrection
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let mut posted = Vec::new();
    for _ in 0..2 {
        let (message, entry) = sent(world, account).await;
        posted.push(entry.usage.clone().unwrap());
        assert_eq!(world.post_charge(&message, entry, world.now(), &[], None).await, Ok(Posted::Charged));
    }
    let (message, entry) = sent(world, account).await;
    let (up, down) = (put_right(world, &posted[0], 6), put_right(world, &posted[1], 1));
    let (charged, (up, down)) = join(
        world.post_charge(&message, entry, world.now(), &[], None),
        join(world.post_correction(&up), world.post_correction(&down)),
    )
    .await;
    assert_eq!((charged, up, down), (Ok(Posted::Charged), Ok(true), Ok(true)));
    // Three charges of three, three more for one and two fewer for another: all of ten, with nothing left.
    assert_eq!(credits(world, account).await, (0, 0, 10));
}

pub async fn a_correction_that_takes_back_more_than_was_ever_used_is_refused<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostCorrection
        + ReadUsage
        + Clock
        + Chance,
{
    let account = account(world, 10).await;
    let (_, entry) = sent(world, account).await;
    let answer = world.post_correction(&put_right(world, &entry.usage.unwrap(), 1)).await;
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(credits(world, account).await, (7, 3, 0));
}

const DAY: Date = Date::constant(2026, 11, 22);

fn new_account<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

fn report<W: Clock>(world: &W, day: Date) -> Report {
    Report::new(&Course { day, ..Course::new(world.now()) }, world.now())
}

pub async fn of_many_writers_of_a_report_at_once_one_counts<W>(world: &W)
where
    W: KeepComparison + ReadReports + Clock + Chance,
{
    let (account, first) = (new_account(world), report(world, DAY));
    assert_eq!(world.load_report(account, DAY).await, Ok(None));
    for revision in 1..3 {
        let nexts: Vec<_> = (0..8).map(|tries| Report { tries, revision, ..first.clone() }).collect();
        let answers = at_once(8, |n| world.save_report(account, &nexts[n])).await;
        assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 7), "{answers:?}");
        let winner = answers.iter().position(|answer| *answer == Ok(true)).unwrap();
        assert_eq!(world.load_report(account, DAY).await, Ok(Some(nexts[winner].clone())));
    }
    let skips = Report { revision: 4, ..first };
    assert_eq!(world.save_report(account, &skips).await, Ok(false));
}

pub async fn reports_list_newest_first_in_pages<W>(world: &W)
where
    W: KeepComparison + ReadReports + Clock + Chance,
{
    let (account, other) = (new_account(world), new_account(world));
    let days: Vec<Date> = (0..5).map(|n| DAY.saturating_add(n.days())).collect();
    for day in &days {
        let saved = Report { revision: 1, ..report(world, *day) };
        assert_eq!(world.save_report(account, &saved).await, Ok(true));
    }
    assert_eq!(world.list_reports(other, None, 10).await, Ok(Vec::new()));
    let (mut before, mut found) = (None, Vec::new());
    loop {
        let page = world.list_reports(account, before, 2).await.unwrap();
        found.extend(page.iter().map(|report| report.day));
        before = page.last().map(|last| last.day);
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!(found, days.into_iter().rev().collect::<Vec<_>>());
}

pub async fn what_a_list_had_and_what_differs_are_noted_once_for_each_attempt<W>(world: &W)
where
    W: KeepComparison + ReadReports + Clock + Chance,
{
    let (account, now) = (new_account(world), world.now());
    let sids: Vec<_> = (0..4).map(|n| format!("SM{n:032}")).collect();
    assert_eq!(world.load_seen(account, DAY).await, Ok([].into()));
    for (page, some) in sids.chunks(2).enumerate() {
        for _ in 0..2 {
            world.keep_seen(account, DAY, u32::try_from(page).unwrap(), some, now).await.unwrap();
        }
    }
    assert_eq!(world.load_seen(account, DAY).await, Ok(sids.iter().cloned().collect()));
    assert_eq!(world.load_seen(account, DAY.saturating_add(1.day())).await, Ok([].into()));
    let difference = |sid: &String| Difference { sid: sid.clone(), charged: 1, listed: 2, credits: Change(1_000_000) };
    let all: Vec<_> = sids.iter().map(difference).collect();
    for _ in 0..2 {
        world.keep_differences(account, DAY, 0, &all[..3]).await.unwrap();
    }
    world.keep_differences(account, DAY, 1, &all[3..]).await.unwrap();
    world.keep_differences(account, DAY, 1, &[]).await.unwrap();
    let list = async |attempt, after, limit| world.list_differences(account, DAY, attempt, after, limit).await;
    assert_eq!(list(0, None, 2).await, Ok(all[..2].to_vec()));
    assert_eq!(list(0, Some(sids[1].as_str()), 2).await, Ok(all[2..3].to_vec()));
    assert_eq!(list(0, Some(sids[2].as_str()), 2).await, Ok(Vec::new()));
    assert_eq!(list(1, None, 10).await, Ok(all[3..].to_vec()));
}

pub async fn messages_list_by_the_time_of_their_ids<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadCharges + Clock + Chance,
{
    let account = account(world, 10).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let outgoing = fresh::outgoing(world, account, 1, world.now() + secs(n));
        world.record_message(&outgoing).await.unwrap();
        ids.push(outgoing.message.id);
    }
    let list = async |after, to, limit| {
        let made = world.list_made(account, after, to, limit).await.unwrap();
        made.into_iter().map(|message| message.id).collect::<Vec<_>>()
    };
    assert_eq!(list(MessageId::from_bits(0), MessageId::from_bits(u128::MAX), 10).await, ids);
    assert_eq!(list(ids[0], ids[3], 10).await, ids[1..4]);
    assert_eq!(list(ids[0], ids[3], 2).await, ids[1..3]);
    assert_eq!(list(ids[4], MessageId::from_bits(u128::MAX), 2).await, []);
}

pub async fn days_come_in_order_and_another_twilio_account_begins_anew<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepCourse + Clock + Chance,
{
    let account = account(world, 1).await;
    assert_eq!(world.load_course(account).await, Ok(None));
    let old = connect(world, account).await;
    let (first, due) = (Course::new(old.connected_at), old.connected_at + secs(60));
    assert_eq!(world.load_course(account).await, Ok(Some(first.clone())));
    let answers = at_once(8, |_| world.save_course(account, &first, due)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 7), "{answers:?}");
    assert_eq!(world.load_course(account).await, Ok(Some(first.after())));
    let rotation = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(rotation).await, Ok(Saved::Stored));
    assert_eq!(world.load_course(account).await, Ok(Some(first.after())));
    let mut save = credential(world, account, 3, &sid(world, "AC")).await;
    save.credential.connected_at = old.connected_at + secs(30);
    let save = SaveCredential { replaced_sid_hash: Some(sid_hash(&old.account_sid)), ..save };
    let (new, since) = (save.credential.clone(), save.credential.connected_at);
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(world.load_course(account).await, Ok(Some(Course::new(since))));
    assert_eq!(world.save_course(account, &first.after(), due).await, Ok(false), "of the one before");
    assert_eq!(world.remove_credential(&new, &sid_hash(&new.account_sid), 0).await, Ok(true));
    assert_eq!(world.load_course(account).await, Ok(None));
    assert_eq!(world.save_course(account, &Course::new(since), due).await, Ok(false));
}
