//! Settling: whose a SID is, what listings come to, and what a person decides.

use jiff::Timestamp;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::ids::AccountId;
use crate::ledger::{PostOutcome, Posted, ReadUsage};
use crate::message::{
    Adopted, Claim, ClaimMessage, Claimed, DECIDE_WITHIN, Fence, FindDue, LEASE, LOOK_AGAIN, Listings, Message,
    Outcome, Outgoing, ReadMessages, RecordInbound, RecordMessage, RecordOutcome, RecordResend, Recorded, Refusal,
    Report, Resent, Seen, SettleMessage, Settling, Status, UpdateMessage, adopt, after_clean_listing, apply_report,
    dropped, due_shard, unconfirmed,
};
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, accepted, account, charge, claimed, secs};

async fn load<W: ReadMessages>(world: &W, message: &Message) -> Message {
    world.load_message(message.account, message.id).await.unwrap().unwrap()
}

async fn has_payload<W: SettleMessage>(world: &W, message: &Message) -> bool {
    world.load_with_payload(message.account, message.id).await.unwrap().unwrap().1.is_some()
}

async fn is_due<W: FindDue>(world: &W, message: &Message, at: Timestamp) -> bool {
    let found = world.find_due(due_shard(message.id), at, 1_000).await.unwrap();
    found.contains(&(message.account, message.id))
}

async fn credits<W: ReadUsage>(world: &W, account: AccountId) -> (u64, u64, u64) {
    let there = world.load_allowance(account).await.unwrap().unwrap();
    (there.available().0 / 1_000_000, there.held.0 / 1_000_000, there.used.0 / 1_000_000)
}

/// A message whose claim ended without a word from Twilio.
async fn unknown<W>(world: &W, account: AccountId) -> Claimed
where
    W: RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + Clock + Chance,
{
    let now = world.now();
    let claim = claimed(world, &accepted(world, account, now).await, now).await;
    assert_eq!(world.record_outcome(&claim, &Outcome::Unknown, now).await, Ok(Status::Unknown));
    Claimed { message: load(world, &claim.message).await, ..claim }
}

/// The same, given up.
async fn given_up<W>(world: &W, account: AccountId) -> Claimed
where
    W: RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + SettleMessage + Clock + Chance,
{
    let claim = unknown(world, account).await;
    let message = unconfirmed(&claim.message, world.now());
    assert_eq!(world.record_listing(&message, world.now() + LOOK_AGAIN).await, Ok(true));
    Claimed { message, ..claim }
}

fn found<W: Chance>(world: &W) -> Report {
    Report { sid: fresh::sid(world, "SM").as_str().to_owned(), status: Status::Sent, error_code: None }
}

/// The message that replaces another.
fn resend<W: Chance>(world: &W, old: &Message, at: Timestamp) -> (Outgoing, Message) {
    let outgoing = fresh::outgoing(world, old.account, 1, at);
    let dropped = dropped(old, Some(outgoing.message.id), at);
    (outgoing, dropped)
}

pub async fn what_is_not_known_keeps_its_payload_and_says_since_when<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + SettleMessage
        + FindDue
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let timed_out = unknown(world, account).await;
    assert_eq!(timed_out.message.settling, Some(Settling::begin(timed_out.message.updated)));
    let found = world.load_with_payload(account, timed_out.message.id).await;
    assert_eq!(found, Ok(Some((timed_out.message.clone(), Some(timed_out.payload)))));
    let lease = now + LEASE;
    let died = claimed(world, &accepted(world, account, now).await, now).await;
    assert_eq!(world.end_lease(&died.message, lease).await, Ok(true));
    assert_eq!(load(world, &died.message).await.settling, Some(Settling::begin(lease)));
    let nobody = fresh::outgoing(world, account, 1, now).message;
    assert_eq!(world.load_with_payload(account, nobody.id).await, Ok(None));
}

pub async fn a_listing_is_recorded_on_the_revision_that_it_read_and_keeps_the_payload<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + SettleMessage
        + FindDue
        + Clock
        + Chance,
{
    let claim = unknown(world, account(world, 10).await).await;
    let at = world.now() + secs(120);
    let counted = after_clean_listing(&claim.message, at, &Listings::default());
    let answers = at_once(8, |_| world.record_listing(&counted, at + secs(60))).await;
    assert!(count(&answers, &Ok(true)) >= 1, "{answers:?}");
    let row = load(world, &claim.message).await;
    assert_eq!((&row, row.settling.unwrap().clean), (&counted, 1), "counted once");
    assert!(has_payload(world, &row).await);
    assert!(!is_due(world, &row, at + secs(59)).await && is_due(world, &row, at + secs(60)).await);
    let stale = after_clean_listing(&claim.message, at + secs(1), &Listings::default());
    assert_eq!(world.record_listing(&stale, at).await, Ok(false));
    assert_eq!(load(world, &claim.message).await, counted);
}

pub async fn an_adopted_sid_is_the_messages_and_the_payload_is_gone<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + SettleMessage + Clock + Chance,
{
    let account = account(world, 10).await;
    let claim = unknown(world, account).await;
    let report = found(world);
    let adopted = adopt(&claim.message, &report, world.now()).unwrap();
    assert_eq!(world.adopt_sid(&adopted, Some(world.now()), &[], None).await, Ok(Adopted::Adopted));
    assert_eq!(load(world, &claim.message).await, adopted);
    assert_eq!((adopted.status, adopted.sid), (Status::Sent, Some(report.sid.clone())));
    assert!(!has_payload(world, &claim.message).await);
    assert_eq!(world.free_sids(account, vec![report.sid]).await, Ok(Vec::new()));
}

/// Two identical messages and one of Twilio's: it settles one of them, whichever.
pub async fn of_identical_messages_at_once_one_adopts_a_sid<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + SettleMessage + Clock + Chance,
{
    let account = account(world, 20).await;
    let report = found(world);
    let mut adoptions = Vec::new();
    for _ in 0..12 {
        let claim = unknown(world, account).await;
        adoptions.push(adopt(&claim.message, &report, world.now()).unwrap());
    }
    let answers = at_once(12, |n| world.adopt_sid(&adoptions[n], Some(world.now()), &[], None)).await;
    let winner = answers.iter().position(|answer| *answer == Ok(Adopted::Adopted)).unwrap();
    assert_eq!(count(&answers, &Ok(Adopted::Adopted)), 1, "{answers:?}");
    assert_eq!(count(&answers, &Ok(Adopted::Taken(adoptions[winner].id))), 11, "{answers:?}");
    for (n, adoption) in adoptions.iter().enumerate() {
        let expected = if n == winner { Status::Sent } else { Status::Unknown };
        assert_eq!(load(world, adoption).await.status, expected);
        assert_eq!(has_payload(world, adoption).await, n != winner);
    }
}

pub async fn of_an_adoption_and_a_callback_at_once_one_is_written<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + SettleMessage
        + UpdateMessage
        + Clock
        + Chance,
{
    let account = account(world, 20).await;
    for _ in 0..8 {
        let claim = unknown(world, account).await;
        let now = world.now();
        let adopted = adopt(&claim.message, &found(world), now).unwrap();
        let told = apply_report(&claim.message, &found(world), now).unwrap();
        let (adoption, callback) =
            futures::future::join(world.adopt_sid(&adopted, Some(now), &[], None), world.update_message(&told, None))
                .await;
        let row = load(world, &claim.message).await;
        match (adoption.unwrap(), callback.unwrap()) {
            (Adopted::Adopted, false) => assert_eq!(row, adopted),
            (Adopted::Moved, true) => {
                assert_eq!(row, told);
                let sids = vec![adopted.sid.unwrap()];
                assert_eq!(world.free_sids(account, sids.clone()).await, Ok(sids), "the other SID is still free");
            }
            both => panic!("{both:?}"),
        }
    }
}

pub async fn a_sid_that_was_charged_for_or_arrived_is_not_free<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + RecordInbound
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + SettleMessage
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 20).await, world.now());
    let claim = claimed(world, &accepted(world, account, now).await, now).await;
    let report = found(world);
    world.record_outcome(&claim, &Outcome::Sent { sid: report.sid.clone() }, now).await.unwrap();
    let sent = load(world, &claim.message).await;
    assert_eq!(world.post_charge(&sent, charge(world, &sent, now), now, &[], None).await, Ok(Posted::Charged));
    let text = fresh::inbound(world, account, now);
    assert_eq!(world.record_inbound(&text, now).await, Ok(Seen::First));
    let others = vec![report.sid.clone(), text.sid.clone().unwrap()];
    let free: Vec<_> = (0..70).map(|_| found(world).sid).collect();
    let all = [&free[..35], &others, &free[35..]].concat();
    assert_eq!(world.free_sids(account, all.clone()).await, Ok(free), "in order, in more than one read");
    let elsewhere = self::account(world, 1).await;
    assert_eq!(world.free_sids(elsewhere, all.clone()).await, Ok(all), "each account has its own");
    let lost = unknown(world, account).await;
    let adopted = adopt(&lost.message, &report, now).unwrap();
    assert_eq!(world.adopt_sid(&adopted, Some(now), &[], None).await, Ok(Adopted::Taken(sent.id)));
    assert_eq!(load(world, &lost.message).await, lost.message);
}

pub async fn what_is_given_up_keeps_its_payload_and_a_late_answer_still_counts<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + SettleMessage + Clock + Chance,
{
    let account = account(world, 20).await;
    let now = world.now();
    let claim = given_up(world, account).await;
    assert_eq!(load(world, &claim.message).await, claim.message);
    assert!(claim.message.settling.unwrap().decide_until >= Some(now + DECIDE_WITHIN));
    assert!(has_payload(world, &claim.message).await);
    for no_news in [Outcome::Unknown, Outcome::Retry { not_before: now }] {
        assert_eq!(world.record_outcome(&claim, &no_news, now).await, Ok(Status::Unconfirmed), "{no_news:?}");
        assert_eq!(load(world, &claim.message).await, claim.message);
    }
    let late = Outcome::Sent { sid: fresh::word(world) };
    assert_eq!(world.record_outcome(&claim, &late, now).await, Ok(Status::Sent));
    let row = load(world, &claim.message).await;
    assert_eq!(row.settling.unwrap().decide_until, None);
    assert!(!has_payload(world, &row).await);
}

pub async fn what_is_given_up_is_released_and_looked_at_again_when_the_time_to_decide_is_over<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + ReadUsage
        + PostOutcome
        + SettleMessage
        + UpdateMessage
        + FindDue
        + Clock
        + Chance,
{
    let account = account(world, 20).await;
    let now = world.now();
    let claim = given_up(world, account).await;
    assert_eq!(world.post_release(&claim.message, now, &[], None).await, Ok(true));
    assert_eq!(credits(world, account).await, (20, 0, 0));
    let until = claim.message.settling.unwrap().decide_until.unwrap();
    let row = load(world, &claim.message).await;
    assert!(has_payload(world, &row).await);
    assert!(!is_due(world, &row, until - secs(1)).await && is_due(world, &row, until).await);
    // What a callback settled meanwhile is not given back.
    let other = given_up(world, account).await;
    let told = apply_report(&other.message, &found(world), now).unwrap();
    assert_eq!(world.update_message(&told, Some(now + LOOK_AGAIN)).await, Ok(true));
    assert_eq!(world.post_release(&other.message, now, &[], None).await, Ok(false));
    assert_eq!((credits(world, account).await, load(world, &other.message).await), ((19, 1, 0), told));
}

pub async fn a_resend_replaces_the_message_whole<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + ReadUsage
        + SettleMessage
        + RecordResend
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 20).await, world.now());
    let claim = given_up(world, account).await;
    let (outgoing, dropped) = resend(world, &claim.message, now);
    let recorded = world.record_resend(&outgoing, &dropped).await;
    assert_eq!(recorded, Ok(Resent::Recorded(Recorded::Accepted)));
    assert_eq!(load(world, &claim.message).await, dropped);
    assert_eq!(dropped.settling.unwrap().resent_as, Some(outgoing.message.id));
    assert!(!has_payload(world, &dropped).await && has_payload(world, &outgoing.message).await);
    assert_eq!(load(world, &outgoing.message).await, outgoing.message);
    assert_eq!(credits(world, account).await, (18, 2, 0), "the first hold is given back by the poster");
    let again = world.record_resend(&outgoing, &dropped).await;
    assert_eq!(again, Ok(Resent::Recorded(Recorded::Earlier(outgoing.idempotency.clone()))));
    let late = world.record_outcome(&claim, &Outcome::Sent { sid: fresh::word(world) }, now).await;
    assert_eq!(late, Ok(Status::Dropped), "what a person ended stays ended");
}

pub async fn of_decisions_and_a_callback_at_once_one_counts<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + ReadUsage
        + SettleMessage
        + UpdateMessage
        + RecordResend
        + Clock
        + Chance,
{
    for _ in 0..6 {
        let (account, now) = (account(world, 20).await, world.now());
        let old = given_up(world, account).await.message;
        let resends: Vec<_> = (0..4).map(|_| resend(world, &old, now)).collect();
        let drop = dropped(&old, None, now);
        let told = apply_report(&old, &found(world), now).unwrap();
        let resending = at_once(4, |n| world.record_resend(&resends[n].0, &resends[n].1));
        let others = futures::future::join(world.update_message(&drop, None), world.update_message(&told, None));
        let (answers, (dropping, telling)) = futures::future::join(resending, others).await;
        let resent = count(&answers, &Ok(Resent::Recorded(Recorded::Accepted)));
        assert_eq!(count(&answers, &Ok(Resent::Moved)), 4 - resent, "{answers:?}");
        let n_wins = resent + usize::from(dropping.unwrap()) + usize::from(telling.unwrap());
        assert_eq!(n_wins, 1, "{answers:?}");
        assert_eq!(world.list_messages(account, None, 20).await.unwrap().len(), 1 + resent);
        assert_eq!(credits(world, account).await.1, 1 + u64::try_from(resent).unwrap());
        assert!(!has_payload(world, &old).await);
    }
}

pub async fn a_resend_that_is_not_covered_leaves_the_decision_open<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + SettleMessage
        + RecordResend
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 1).await, world.now());
    let old = given_up(world, account).await.message;
    let (outgoing, dropped) = resend(world, &old, now);
    let answer = world.record_resend(&outgoing, &dropped).await;
    assert!(matches!(answer, Ok(Resent::Recorded(Recorded::Refused(Refusal::Credit { .. })))), "{answer:?}");
    assert_eq!(load(world, &old).await, old);
    assert!(has_payload(world, &old).await);
    assert_eq!(world.load_message(account, outgoing.message.id).await, Ok(None));
}

/// A late 429 of the same claim: certainly not taken, so it waits to be sent, and what becomes of that begins anew.
pub async fn what_was_not_known_and_waits_again_begins_anew<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + SettleMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let claim = unknown(world, account).await;
    let counted = after_clean_listing(&claim.message, now + secs(120), &Listings::default());
    assert_eq!(world.record_listing(&counted, now).await, Ok(true));
    let retry = Outcome::Retry { not_before: now };
    assert_eq!(world.record_outcome(&claim, &retry, now).await, Ok(Status::Retryable));
    let at = now + secs(200);
    let again = world.claim_message(account, claim.message.id, Fence(fresh::dice(world)), at).await;
    let Ok(Claim::Mine(again)) = again else { panic!("{again:?}") };
    assert_eq!(world.record_outcome(&again, &Outcome::Unknown, at).await, Ok(Status::Unknown));
    assert_eq!(load(world, &claim.message).await.settling, Some(Settling::begin(at)));
}
