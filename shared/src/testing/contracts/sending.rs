//! From the claim to the outcome: fences, callbacks, opt-outs and the last check.

use futures::future::join;
use jiff::Timestamp;

use super::{at_once, count};
use crate::account::{CreateAccount, Gate, StopSending, Stopped};
use crate::credential::{KeepCredential, MintKey};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::inbound::Consent;
use crate::message::{
    Claim, ClaimMessage, Claimed, Fence, FindDue, LEASE, LoadGuards, Message, Outcome, Outgoing, ReadMessages, Reason,
    RecordMessage, RecordOutcome, Report, Status, UpdateMessage, apply_report,
};
use crate::opt_out::RecordConsent;
use crate::platform::{Chance, Clock};
use crate::seal::Purpose;
use crate::testing::fresh::{self, FROZEN, OWN, accepted, account, claimed, secs};

fn sent<W: Chance>(world: &W) -> Outcome {
    Outcome::Sent { sid: fresh::word(world) }
}

fn fence<W: Chance>(world: &W) -> Fence {
    Fence(fresh::dice(world))
}

async fn load<W: ReadMessages>(world: &W, message: &Message) -> Message {
    world.load_message(message.account, message.id).await.unwrap().unwrap()
}

/// Whether a further claim finds nothing to send.
async fn nothing_to_send<W: ClaimMessage + Clock + Chance>(world: &W, message: &Message) -> bool {
    let late = world.now() + secs(86_400);
    world.claim_message(message.account, message.id, fence(world), late).await == Ok(Claim::Done)
}

pub async fn of_many_workers_one_claims<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let fences: Vec<_> = (0..16).map(|_| fence(world)).collect();
    let answers = at_once(16, |n| world.claim_message(account, message.id, fences[n], now)).await;
    let mine = answers.iter().filter(|answer| matches!(answer, Ok(Claim::Mine(_)))).count();
    assert_eq!((mine, count(&answers, &Ok(Claim::Busy(now + LEASE)))), (1, 15), "{answers:?}");
    assert_eq!(load(world, &message).await.attempts, 1);
    let later = world.claim_message(account, message.id, fence(world), now + LEASE + secs(1)).await;
    assert!(!matches!(later, Ok(Claim::Mine(_))), "a lease that is over is never sent blindly: {later:?}");
}

pub async fn a_claim_hands_out_the_payload_and_counts_the_attempt<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let outgoing = fresh::outgoing(world, account, 2, now);
    world.record_message(&outgoing).await.unwrap();
    let (fence, at) = (fence(world), now + secs(1));
    let claim = world.claim_message(account, outgoing.message.id, fence, at).await;
    let message =
        Message { status: Status::Dispatching, attempts: 1, revision: 1, updated: at, ..outgoing.message.clone() };
    let mine = Claimed { message: message.clone(), payload: outgoing.payload, fence, counted: false, in_line: false };
    assert_eq!(claim, Ok(Claim::Mine(Box::new(mine))));
    assert_eq!(load(world, &message).await, message);
}

pub async fn a_retry_waits_for_its_time<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let first = claimed(world, &message, now).await;
    let not_before = now + secs(30);
    assert_eq!(world.record_outcome(&first, &Outcome::Retry { not_before }, now).await, Ok(Status::Retryable));
    let early = world.claim_message(account, message.id, fence(world), not_before - secs(1)).await;
    assert_eq!(early, Ok(Claim::TooEarly(not_before)));
    let second = claimed(world, &message, not_before).await;
    assert_eq!(second.payload, first.payload, "a retry needs the payload again");
    assert_eq!(second.message.attempts, 2);
    let outcome = sent(world);
    assert_eq!(world.record_outcome(&first, &outcome, not_before).await, Ok(Status::Dispatching), "an old fence");
}

pub async fn a_retry_remembers_whether_the_message_was_counted<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let mut claim = claimed(world, &message, now).await;
    for counted in [false, true, false] {
        claim.counted = counted;
        let retry = Outcome::Retry { not_before: now };
        assert_eq!(world.record_outcome(&claim, &retry, now).await, Ok(Status::Retryable));
        claim = claimed(world, &message, now).await;
        assert_eq!(claim.counted, counted);
    }
}

pub async fn what_is_in_line_waits_for_its_slot_and_keeps_it_once<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let first = claimed(world, &message, now).await;
    let not_before = now + secs(30);
    assert_eq!(world.record_outcome(&first, &Outcome::InLine { not_before }, now).await, Ok(Status::Accepted));
    let waiting = load(world, &message).await;
    assert_eq!((waiting.status, waiting.attempts), (Status::Accepted, 0), "nobody tried it");
    let early = world.claim_message(account, message.id, fence(world), not_before - secs(1)).await;
    assert_eq!(early, Ok(Claim::TooEarly(not_before)));
    let second = claimed(world, &message, not_before).await;
    assert_eq!((second.in_line, &second.payload, second.message.attempts), (true, &first.payload, 1));
    let late = world.record_outcome(&first, &Outcome::InLine { not_before }, not_before).await;
    assert_eq!(late, Ok(Status::Dispatching), "an old fence");
    let retry = Outcome::Retry { not_before };
    assert_eq!(world.record_outcome(&second, &retry, not_before).await, Ok(Status::Retryable));
    assert!(!claimed(world, &message, not_before).await.in_line, "the slot is used up");
}

pub async fn an_outcome_removes_the_payload<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let outcomes = [
        sent(world),
        Outcome::Rejected { code: Some(21211) },
        Outcome::Rejected { code: None },
        Outcome::Refused(Reason::OptedOut),
        Outcome::Expired,
    ];
    for outcome in outcomes {
        let message = accepted(world, account, now).await;
        let claim = claimed(world, &message, now).await;
        let at = now + secs(2);
        assert_eq!(world.record_outcome(&claim, &outcome, at).await, Ok(outcome.status()), "{outcome:?}");
        assert!(nothing_to_send(world, &message).await, "{outcome:?}");
        // The claim's own fence would be given the payload again, if there were one.
        let again = world.claim_message(account, message.id, claim.fence, at).await;
        assert!(!matches!(again, Ok(Claim::Mine(_))), "{outcome:?}: the payload is still there");
        let mut expected = Message {
            status: outcome.status(),
            revision: claim.message.revision + 1,
            updated: at,
            ..claim.message.clone()
        };
        match &outcome {
            Outcome::Sent { sid } => expected.sid = Some(sid.clone()),
            Outcome::Rejected { code } => expected.error_code = *code,
            Outcome::Refused(reason) => expected.reason = Some(*reason),
            Outcome::Expired => expected.reason = Some(Reason::TooOld),
            Outcome::Retry { .. } | Outcome::InLine { .. } | Outcome::Unknown => {}
        }
        assert_eq!(load(world, &message).await, expected);
    }
}

pub async fn a_message_that_is_not_there_has_nothing_to_send<W>(world: &W)
where
    W: ClaimMessage + RecordOutcome + Clock + Chance,
{
    let nobody = AccountId::new(world.now(), fresh::dice(world));
    let outgoing = fresh::outgoing(world, nobody, 1, world.now());
    let claim = world.claim_message(nobody, outgoing.message.id, fence(world), world.now()).await;
    assert_eq!(claim, Ok(Claim::Done));
    let Outgoing { message, payload, .. } = outgoing;
    let ghost = Claimed { message, payload, fence: fence(world), counted: false, in_line: false };
    let recorded = world.record_outcome(&ghost, &Outcome::Unknown, world.now()).await;
    assert!(matches!(recorded, Err(Fault::Permanent(_))), "{recorded:?}");
}

pub async fn only_the_fence_may_record<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let claim = claimed(world, &message, now).await;
    let stranger = Claimed { fence: fence(world), ..claim.clone() };
    assert_eq!(world.record_outcome(&stranger, &Outcome::Expired, now).await, Ok(Status::Dispatching));
    assert_eq!(load(world, &message).await, claim.message, "nothing changed");
    assert_eq!(world.record_outcome(&claim, &sent(world), now).await, Ok(Status::Sent));
}

/// A message as a callback changes it.
async fn called_back<W: ReadMessages + UpdateMessage + Clock>(
    world: &W,
    message: &Message,
    sid: &str,
    status: Status,
) -> Message {
    let held = load(world, message).await;
    let report = Report { sid: sid.to_owned(), status, error_code: None };
    let told = apply_report(&held, &report, world.now() + secs(3)).unwrap();
    assert_eq!(world.update_message(&told, None).await, Ok(true));
    told
}

pub async fn an_outcome_does_not_undo_what_a_callback_told<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + UpdateMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let sid = fresh::word(world);
    let not_before = now + secs(9);
    for outcome in [Outcome::Sent { sid: sid.clone() }, Outcome::Unknown, Outcome::Retry { not_before }] {
        for status in [Status::Sent, Status::Delivered] {
            let message = accepted(world, account, now).await;
            let claim = claimed(world, &message, now).await;
            let told = called_back(world, &message, &sid, status).await;
            assert_eq!(world.record_outcome(&claim, &outcome, now + secs(5)).await, Ok(status), "{outcome:?}");
            assert_eq!(load(world, &message).await, told, "{outcome:?}");
            assert!(nothing_to_send(world, &message).await);
        }
    }
}

pub async fn a_late_answer_of_the_same_claim_settles_what_was_unknown<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let claim = claimed(world, &message, now).await;
    assert_eq!(world.end_lease(&claim.message, now + LEASE).await, Ok(true));
    assert!(nothing_to_send(world, &message).await, "unknown is never sent again blindly");
    let sid = fresh::word(world);
    let answer = world.record_outcome(&claim, &Outcome::Sent { sid: sid.clone() }, now + LEASE + secs(1)).await;
    assert_eq!(answer, Ok(Status::Sent));
    let row = load(world, &message).await;
    assert_eq!((row.status, row.sid), (Status::Sent, Some(sid)));
    assert!(nothing_to_send(world, &message).await);
}

pub async fn a_late_answer_of_another_claim_settles_nothing<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + FindDue + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let claim = claimed(world, &message, now).await;
    assert_eq!(world.end_lease(&claim.message, now + LEASE).await, Ok(true));
    let stranger = Claimed { fence: fence(world), ..claim };
    assert_eq!(world.record_outcome(&stranger, &sent(world), now + LEASE).await, Ok(Status::Unknown));
    let row = load(world, &message).await;
    assert_eq!((row.status, row.sid), (Status::Unknown, None));
}

pub async fn an_outcome_recorded_twice_stays<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + RecordOutcome + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let claim = claimed(world, &message, now).await;
    let outcome = sent(world);
    assert_eq!(world.record_outcome(&claim, &outcome, now).await, Ok(Status::Sent));
    let row = load(world, &message).await;
    assert_eq!(world.record_outcome(&claim, &outcome, now + secs(1)).await, Ok(Status::Sent));
    assert_eq!(world.record_outcome(&claim, &Outcome::Unknown, now + secs(1)).await, Ok(Status::Sent));
    assert_eq!(load(world, &message).await, row);
}

pub async fn an_update_needs_the_revision_that_it_read<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + UpdateMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let told = called_back(world, &message, &fresh::word(world), Status::Sending).await;
    assert_eq!(load(world, &message).await, told);
    let stale =
        Message { status: Status::Sent, revision: message.revision + 1, updated: now + secs(9), ..message.clone() };
    assert_eq!(world.update_message(&stale, None).await, Ok(false));
    let ahead = Message { revision: told.revision + 2, ..stale };
    assert_eq!(world.update_message(&ahead, None).await, Ok(false));
    assert_eq!(load(world, &message).await, told);
    let ghost = fresh::outgoing(world, account, 1, now).message;
    assert_eq!(world.update_message(&ghost, None).await, Ok(false), "no row comes from an update");
    assert_eq!(world.load_message(account, ghost.id).await, Ok(None));
}

pub async fn of_two_different_updates_at_once_one_is_written<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + UpdateMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let told = |status| {
        let report = Report { sid: "SM1".to_owned(), status, error_code: None };
        apply_report(&message, &report, now).unwrap()
    };
    let (one, two) = (told(Status::Sent), told(Status::Delivered));
    let (first, second) = join(world.update_message(&one, None), world.update_message(&two, None)).await;
    let answers = [first, second];
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 1), "{answers:?}");
    let winner = if answers[0] == Ok(true) { one } else { two };
    assert_eq!(load(world, &message).await, winner);
}

pub async fn an_update_removes_the_payload<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + ReadMessages + UpdateMessage + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let message = accepted(world, account, now).await;
    let canceled = Message { status: Status::Canceled, revision: message.revision + 1, ..message.clone() };
    assert_eq!(world.update_message(&canceled, None).await, Ok(true));
    assert!(nothing_to_send(world, &message).await);
    // Even if a state machine with a bug brought it back, there is nothing left to send.
    let back = Message { status: Status::Accepted, revision: canceled.revision + 1, ..message.clone() };
    assert_eq!(world.update_message(&back, None).await, Ok(true));
    assert!(nothing_to_send(world, &message).await);
}

/// Whether the last check sees an opt-out.
async fn opted_out<W: LoadGuards>(world: &W, claim: &Claimed) -> bool {
    world.load_guards(std::slice::from_ref(claim), &[]).await.unwrap()[0].opted_out
}

/// A claimed message of a new account.
async fn ready<W: CreateAccount + RecordMessage + ClaimMessage + Clock + Chance>(world: &W) -> Claimed {
    let account = account(world, 10).await;
    let message = accepted(world, account, world.now()).await;
    claimed(world, &message, world.now()).await
}

pub async fn the_latest_word_of_a_recipient_counts_in_any_order<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + LoadGuards + RecordConsent + Clock + Chance,
{
    use Consent::{Start, Stop};
    let now = world.now();
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for (words, ends_out) in [([Stop, Start, Stop], true), ([Start, Stop, Start], false)] {
        for order in orders {
            let claim = ready(world).await;
            let Message { account, other_hash, .. } = &claim.message;
            let heard = fresh::heard(world);
            for n in order {
                let at = now + secs(i64::try_from(n).unwrap());
                world.record_consent(*account, OWN, other_hash, words[n], &heard, at).await.unwrap();
            }
            assert_eq!(opted_out(world, &claim).await, ends_out, "{words:?} in order {order:?}");
        }
    }
}

pub async fn stop_wins_a_tie<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + LoadGuards + RecordConsent + Clock + Chance,
{
    for words in [[Consent::Stop, Consent::Start], [Consent::Start, Consent::Stop]] {
        let claim = ready(world).await;
        let Message { account, other_hash, .. } = &claim.message;
        let same_time = world.now();
        for word in words {
            world.record_consent(*account, OWN, other_hash, word, &fresh::heard(world), same_time).await.unwrap();
        }
        assert!(opted_out(world, &claim).await, "{words:?}");
    }
}

pub async fn a_stop_said_before_the_last_check_is_seen<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + LoadGuards + RecordConsent + Clock + Chance,
{
    let claim = ready(world).await;
    assert!(!opted_out(world, &claim).await);
    let Message { account, other_hash, .. } = &claim.message;
    world.record_consent(*account, OWN, other_hash, Consent::Stop, &fresh::heard(world), world.now()).await.unwrap();
    assert!(opted_out(world, &claim).await);
    let later = world.now() + secs(1);
    world.record_consent(*account, OWN, other_hash, Consent::Start, &fresh::heard(world), later).await.unwrap();
    assert!(!opted_out(world, &claim).await);
}

pub async fn a_stop_is_for_its_sender_and_account_only<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + LoadGuards + RecordConsent + Clock + Chance,
{
    let (claim, other) = (ready(world).await, ready(world).await);
    let Message { account, other_hash, .. } = &claim.message;
    let stop = async |account, own: &str, other_hash: &str| {
        world.record_consent(account, own, other_hash, Consent::Stop, &fresh::heard(world), world.now()).await.unwrap();
    };
    stop(other.message.account, OWN, other_hash).await;
    stop(*account, "+15005550007", other_hash).await;
    stop(*account, OWN, &other.message.other_hash).await;
    assert!(!opted_out(world, &claim).await);
    stop(*account, OWN, other_hash).await;
    assert!(opted_out(world, &claim).await);
}

pub async fn guards_come_in_order_with_the_keys_that_were_asked_for<W>(world: &W)
where
    W: CreateAccount
        + MintKey
        + KeepCredential
        + RecordMessage
        + ClaimMessage
        + LoadGuards
        + RecordConsent
        + Clock
        + Chance,
{
    let now = world.now();
    let (one, two) = (fresh::account_with_keys(world, 10).await, fresh::account_with_keys(world, 10).await);
    let credential = fresh::connect(world, one).await;
    let mut claims = Vec::new();
    for account in [two, one, two] {
        claims.push(claimed(world, &accepted(world, account, now).await, now).await);
    }
    let last = &claims[2].message.other_hash;
    world.record_consent(two, OWN, last, Consent::Stop, &fresh::heard(world), now).await.unwrap();
    let wanted = [(one, Purpose::Send), (one, Purpose::Payload), (two, Purpose::Payload), (two, Purpose::Send)];
    let guards = world.load_guards(&claims, &wanted).await.unwrap();
    let opted_out: Vec<_> = guards.iter().map(|guard| guard.opted_out).collect();
    assert_eq!(opted_out, [false, false, true]);
    let credentials: Vec<_> = guards.iter().map(|guard| guard.credential.clone()).collect();
    assert_eq!(credentials, [None, Some(credential), None]);
    let keys: Vec<Vec<_>> =
        guards.iter().map(|guard| guard.keys.iter().map(|keys| (keys.account, keys.purpose)).collect()).collect();
    let second = vec![(two, Purpose::Payload)];
    assert_eq!(keys, [second.clone(), vec![(one, Purpose::Send), (one, Purpose::Payload)], second]);
}

pub async fn guards_see_a_stopped_account<W>(world: &W)
where
    W: CreateAccount
        + MintKey
        + KeepCredential
        + RecordMessage
        + ClaimMessage
        + LoadGuards
        + StopSending
        + Clock
        + Chance,
{
    let claim = ready(world).await;
    let account = claim.message.account;
    let stored = fresh::connect(world, account).await;
    let guard = async || world.load_guards(std::slice::from_ref(&claim), &[]).await.unwrap().remove(0);
    let open = guard().await;
    assert_eq!((open.stopped, open.credential.as_ref()), (None, Some(&stored)));
    assert_eq!((open.daily_ceiling, open.counts_from), (Gate::FIRST_CEILING, Timestamp::UNIX_EPOCH));
    assert_eq!(world.stop_sending(account, FROZEN, 1, world.now()).await, Ok(Stopped::Now));
    assert_eq!(guard().await.stopped, Some(FROZEN));
    let hash = fresh::sid_hash(&stored.account_sid);
    assert_eq!(world.remove_credential(&stored, &hash, 0).await, Ok(true));
    assert_eq!(guard().await.credential, None);
}
