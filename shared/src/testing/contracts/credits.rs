//! Credits: given once for each source, ended once, taken back once, and none appear or vanish whatever comes at once.

use jiff::Timestamp;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::ids::AccountId;
use crate::ledger::{
    Balance, Book, Change, Changed, CreditKind, Entry, Grant, KeepPurse, MicroCredits, PostOutcome, Posted, ReadUsage,
    TRIAL, give_credits, set_overage, take_back_credits, tend_credits,
};
use crate::message::{
    ClaimMessage, Message, Outcome, Outgoing, ReadMessages, RecordMessage, RecordOutcome, Recorded, Refusal, Report,
    Status, UpdateMessage, apply_report, unconfirmed,
};
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, account, charge, claimed, outgoing, secs};

fn credits(source: &str, n: u64, expires: Option<Timestamp>) -> Grant {
    let kind = if expires.is_some() { CreditKind::Included } else { CreditKind::Purchased };
    Grant { source: source.to_owned(), kind, credits: MicroCredits::whole(n), expires }
}

/// Free, held and used, in whole credits.
async fn allowance<W: ReadUsage>(world: &W, account: AccountId) -> (i64, u64, u64) {
    let there = world.load_allowance(account).await.unwrap().unwrap();
    (there.free.0 / 1_000_000, there.held.0 / 1_000_000, there.used.0 / 1_000_000)
}

/// What is left of each lot when all that was used is taken from it.
async fn lots<W: KeepPurse>(world: &W, account: AccountId) -> Vec<(String, u64)> {
    let facts = world.load_purse(account).await.unwrap().unwrap();
    let purse = facts.purse.drawn(facts.allowance.used);
    purse.lots.into_iter().map(|lot| (lot.source, lot.left.0 / 1_000_000)).collect()
}

fn lot(source: &str, left: u64) -> (String, u64) {
    (source.to_owned(), left)
}

/// Everything that was posted this month, as the sum of each book.
async fn books<W: ReadUsage + Clock>(world: &W, account: AccountId) -> Vec<(Book, i64)> {
    let entries = all_entries(world, account).await;
    assert!(entries.iter().all(Entry::balanced), "{entries:?}");
    let sum = |book| entries.iter().fold(Change::ZERO, |sum, entry| sum.and(entry.on(book))).0 / 1_000_000;
    Book::ALL.into_iter().map(|book| (book, sum(book))).filter(|(_, sum)| *sum != 0).collect()
}

async fn all_entries<W: ReadUsage + Clock>(world: &W, account: AccountId) -> Vec<Entry> {
    let month = crate::ledger::Zone::default().month(world.now());
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = entries.last().map(|entry| entry.id);
        let page = world.list_entries(account, &month, after, 2).await.unwrap();
        if page.is_empty() {
            return entries;
        }
        entries.extend(page);
    }
}

/// A message of three credits that Twilio took.
async fn taken<W>(world: &W, account: AccountId) -> Message
where
    W: RecordMessage + ClaimMessage + RecordOutcome + ReadMessages + Clock + Chance,
{
    let outgoing = outgoing(world, account, 3, world.now());
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
    let claim = claimed(world, &outgoing.message, world.now()).await;
    let sid = fresh::word(world);
    world.record_outcome(&claim, &Outcome::Sent { sid }, world.now()).await.unwrap();
    world.load_message(account, outgoing.message.id).await.unwrap().unwrap()
}

async fn charged<W: PostOutcome + Clock + Chance>(world: &W, message: &Message) {
    let entry = charge(world, message, world.now());
    assert_eq!(world.post_charge(message, entry, world.now(), &[], None).await, Ok(Posted::Charged));
}

pub async fn a_new_account_has_its_first_credits_as_an_entry<W>(world: &W)
where
    W: CreateAccount + KeepPurse + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    assert_eq!(allowance(world, account).await, (10, 0, 0));
    assert_eq!(lots(world, account).await, [lot(TRIAL, 10)]);
    assert_eq!(books(world, account).await, [(Book::Included, 10), (Book::Issued, -10)]);
}

pub async fn credits_are_given_once_for_each_source<W>(world: &W)
where
    W: CreateAccount + KeepPurse + ReadUsage + Clock + Chance + Sync,
{
    let (account, now) = (account(world, 10).await, world.now());
    let wanted = [credits("cs_1", 5, None), credits("cs_2", 7, None)];
    let given = at_once(12, |n| give_credits(world, account, &wanted[n % 2], now)).await;
    assert_eq!((count(&given, &Ok(Changed::Now)), count(&given, &Ok(Changed::Before))), (2, 10), "{given:?}");
    assert_eq!(allowance(world, account).await, (22, 0, 0));
    assert_eq!(give_credits(world, account, &wanted[0], now).await, Ok(Changed::Before));
    let expected = [(Book::Included, 10), (Book::Purchased, 12), (Book::Issued, -10), (Book::Sold, -12)];
    assert_eq!(books(world, account).await, expected);
    let nobody = AccountId::from_bits(fresh::dice(world));
    assert_eq!(give_credits(world, nobody, &wanted[0], now).await, Ok(Changed::NoAccount));
}

/// Purse and allowance are two rows, read in one call and not in one instant.
pub async fn purse_and_allowance_go_together_while_messages_are_accepted_and_charged<W>(world: &W)
where
    W: CreateAccount
        + KeepPurse
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance
        + Sync,
{
    let (account, now) = (account(world, 60).await, world.now());
    give_credits(world, account, &credits("in_1", 40, Some(now + secs(3_600))), now).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..8 {
        waiting.push(taken(world, account).await);
    }
    let wanted: Vec<_> = (0..8).map(|_| outgoing(world, account, 1, now)).collect();
    let charges = at_once(8, |n| charged(world, &waiting[n]));
    let holds = at_once(8, |n| world.record_message(&wanted[n]));
    let looks = at_once(24, |_| world.load_purse(account));
    let (_, held, looks) = futures::future::join3(charges, holds, looks).await;
    assert_eq!(count(&held, &Ok(Recorded::Accepted)), 8, "{held:?}");
    for facts in looks {
        let facts = facts.unwrap().unwrap();
        assert!(facts.go_together(), "{facts:?}");
        let balance = Balance::of(&facts, now);
        assert_eq!(balance.left().0, balance.available.0 + balance.held.0);
    }
    assert_eq!(allowance(world, account).await, (68, 8, 24));
    assert_eq!(lots(world, account).await, [lot("in_1", 16), lot(TRIAL, 60)]);
}

pub async fn credits_end_once_and_what_is_reserved_ends_when_it_is_given_back<W>(world: &W)
where
    W: CreateAccount
        + KeepPurse
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance
        + Sync,
{
    let (account, now) = (account(world, 0).await, world.now());
    let expires = now + secs(3_600);
    assert_eq!(give_credits(world, account, &credits("in_1", 10, Some(expires)), now).await, Ok(Changed::Now));
    let due = async |at| world.find_ending(at, 1_000).await.unwrap().contains(&account);
    assert_eq!((due(expires - secs(1)).await, due(expires).await), (false, true));
    let message = taken(world, account).await;
    assert_eq!(tend_credits(world, account, expires - secs(1)).await, Ok(Changed::Before));
    let ended = at_once(8, |_| tend_credits(world, account, expires)).await;
    assert_eq!(count(&ended, &Ok(Changed::Now)), 1, "{ended:?}");
    assert_eq!(allowance(world, account).await, (0, 3, 0));
    assert!(!due(expires).await, "looked at again later");
    let later = expires + secs(3_600);
    assert!(due(later).await);
    charged(world, &message).await;
    assert_eq!(tend_credits(world, account, later).await, Ok(Changed::Now), "what was used is taken from it");
    assert_eq!((allowance(world, account).await, lots(world, account).await), ((0, 0, 3), vec![]));
    assert!(!due(later + secs(86_400)).await);
    let expected = [(Book::Issued, -10), (Book::UsedMessageSegments, 3), (Book::Expired, 7)];
    assert_eq!(books(world, account).await, expected);
}

pub async fn of_an_end_and_a_hold_at_once_no_credit_is_lost_or_made<W>(world: &W)
where
    W: CreateAccount + KeepPurse + RecordMessage + ReadUsage + Clock + Chance + Sync,
{
    for _ in 0..6 {
        let (account, now) = (account(world, 0).await, world.now());
        let expires = now + secs(3_600);
        give_credits(world, account, &credits("in_1", 10, Some(expires)), now).await.unwrap();
        let wanted: Vec<_> = (0..3).map(|_| outgoing(world, account, 3, now)).collect();
        let holds = at_once(3, |n| world.record_message(&wanted[n]));
        let (ended, held) = futures::future::join(tend_credits(world, account, expires), holds).await;
        let n = u64::try_from(count(&held, &Ok(Recorded::Accepted))).unwrap();
        assert!(ended.is_ok(), "{ended:?}");
        let (free, reserved, used) = allowance(world, account).await;
        let ends = books(world, account).await.into_iter().find(|(book, _)| *book == Book::Expired);
        let gone = ends.map_or(0, |(_, n)| n);
        assert_eq!((reserved, used), (3 * n, 0));
        assert_eq!(free + gone + i64::try_from(reserved).unwrap(), 10, "{held:?}");
    }
}

pub async fn what_is_taken_back_after_it_was_spent_is_owed_and_stops_sending_until_it_is_paid<W>(world: &W)
where
    W: CreateAccount
        + KeepPurse
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance
        + Sync,
{
    let (account, now) = (account(world, 0).await, world.now());
    give_credits(world, account, &credits("cs_1", 10, None), now).await.unwrap();
    for _ in 0..2 {
        let message = taken(world, account).await;
        charged(world, &message).await;
    }
    let all = MicroCredits::whole(10);
    let taken_back = at_once(6, |_| take_back_credits(world, account, "cs_1", all, "re_1", now)).await;
    assert_eq!(count(&taken_back, &Ok(Changed::Now)), 1, "{taken_back:?}");
    assert_eq!((allowance(world, account).await, lots(world, account).await), ((-6, 0, 6), vec![]));
    let refused = world.record_message(&outgoing(world, account, 1, now)).await;
    assert_eq!(refused, Ok(Recorded::Refused(Refusal::Owed(MicroCredits::whole(6)))));
    give_credits(world, account, &credits("cs_2", 9, None), now).await.unwrap();
    assert_eq!((allowance(world, account).await, lots(world, account).await), ((3, 0, 6), vec![lot("cs_2", 3)]));
    assert_eq!(world.record_message(&outgoing(world, account, 3, now)).await, Ok(Recorded::Accepted));
    let expected = [
        (Book::Purchased, 9),
        (Book::Clearing, -6),
        (Book::Sold, -19),
        (Book::UsedMessageSegments, 6),
        (Book::Refunds, 10),
    ];
    assert_eq!(books(world, account).await, expected);
}

/// Twilio tells of a message after its hold was given back, and the credit is spent by then.
pub async fn what_is_confirmed_after_its_hold_was_given_back_is_charged_once_and_may_be_owed<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + UpdateMessage
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 4).await, world.now());
    let first = outgoing(world, account, 3, now);
    assert_eq!(world.record_message(&first).await, Ok(Recorded::Accepted));
    let claim = claimed(world, &first.message, now).await;
    world.record_outcome(&claim, &Outcome::Unknown, now).await.unwrap();
    let held = world.load_message(account, first.message.id).await.unwrap().unwrap();
    let given_up = unconfirmed(&held, now);
    assert_eq!(world.update_message(&given_up, None).await, Ok(true));
    let held = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert_eq!(world.post_release(&held, now, &[], None).await, Ok(true));
    assert_eq!(allowance(world, account).await, (4, 0, 0));
    let other = taken(world, account).await;
    charged(world, &other).await;
    assert_eq!(allowance(world, account).await, (1, 0, 3));
    let released = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert!(released.settled && released.released);
    let sid = fresh::word(world);
    let report = Report { sid, status: Status::Delivered, error_code: None };
    let confirmed = apply_report(&released, &report, now).unwrap();
    assert_eq!(world.update_message(&confirmed, Some(now)).await, Ok(true));
    let confirmed = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert!(!confirmed.settled, "it is to be charged after all");
    let entries: Vec<_> = (0..8).map(|_| charge(world, &confirmed, now)).collect();
    let posted = at_once(8, |n| world.post_charge(&confirmed, entries[n].clone(), now, &[], None)).await;
    assert_eq!((count(&posted, &Ok(Posted::Charged)), count(&posted, &Ok(Posted::Before))), (1, 7), "{posted:?}");
    assert_eq!(allowance(world, account).await, (-2, 0, 6));
}

/// The late answer of the claim itself does the same as a late callback.
pub async fn a_late_answer_after_the_hold_was_given_back_is_to_be_charged<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + UpdateMessage
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 4).await, world.now());
    let first = outgoing(world, account, 3, now);
    assert_eq!(world.record_message(&first).await, Ok(Recorded::Accepted));
    let claim = claimed(world, &first.message, now).await;
    world.record_outcome(&claim, &Outcome::Unknown, now).await.unwrap();
    let held = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert_eq!(world.update_message(&unconfirmed(&held, now), None).await, Ok(true));
    let held = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert_eq!(world.post_release(&held, now, &[], None).await, Ok(true));
    let sid = fresh::word(world);
    assert_eq!(world.record_outcome(&claim, &Outcome::Sent { sid }, now).await, Ok(Status::Sent));
    let sent = world.load_message(account, first.message.id).await.unwrap().unwrap();
    assert_eq!((sent.settled, sent.released), (false, true));
    charged(world, &sent).await;
    assert_eq!(allowance(world, account).await, (1, 0, 3));
}

pub async fn a_warning_is_noted_once<W>(world: &W)
where
    W: CreateAccount + KeepPurse + Clock + Chance + Sync,
{
    let account = account(world, 10).await;
    let facts = world.load_purse(account).await.unwrap().unwrap();
    let noted = at_once(6, |_| world.note_warning(account, &facts.purse, 50)).await;
    assert_eq!(count(&noted, &Ok(true)), 1, "{noted:?}");
    assert_eq!(world.note_warning(account, &facts.purse, 80).await, Ok(true));
    assert_eq!(world.note_warning(account, &facts.purse, 50).await, Ok(false), "a higher one was given");
    assert_eq!(world.load_purse(account).await.unwrap().unwrap().purse.period.warned, 80);
    give_credits(world, account, &credits("cs_1", 5, None), world.now()).await.unwrap();
    assert_eq!(world.note_warning(account, &facts.purse, 100).await, Ok(false), "the purse is another one");
}

pub async fn beyond_all_credit_exactly_the_room_may_be_used_and_it_is_billed_once<W>(world: &W)
where
    W: CreateAccount
        + KeepPurse
        + RecordMessage
        + ClaimMessage
        + RecordOutcome
        + ReadMessages
        + PostOutcome
        + ReadUsage
        + Clock
        + Chance
        + Sync,
{
    let (account, now) = (account(world, 4).await, world.now());
    assert_eq!(set_overage(world, account, Some(MicroCredits::whole(8)), now).await, Ok(Changed::Now));
    // Twelve credits in all: four messages of three, whether or not the room was known when they were asked for.
    let room = |n: usize| if n.is_multiple_of(2) { MicroCredits::whole(8) } else { MicroCredits::ZERO };
    let wanted: Vec<_> = (0..8).map(|n| Outgoing { room: room(n), ..outgoing(world, account, 3, now) }).collect();
    let held = at_once(8, |n| world.record_message(&wanted[n])).await;
    assert_eq!(count(&held, &Ok(Recorded::Accepted)), 4, "{held:?}");
    assert_eq!(allowance(world, account).await, (-8, 12, 0));
    let bill = at_once(4, |_| tend_credits(world, account, now)).await;
    assert!(bill.iter().all(|done| *done == Ok(Changed::Before)), "what is reserved is not used: {bill:?}");
    for (outgoing, _) in wanted.iter().zip(&held).filter(|(_, held)| **held == Ok(Recorded::Accepted)) {
        let claim = claimed(world, &outgoing.message, now).await;
        world.record_outcome(&claim, &Outcome::Sent { sid: fresh::word(world) }, now).await.unwrap();
        let message = world.load_message(account, outgoing.message.id).await.unwrap().unwrap();
        charged(world, &message).await;
    }
    assert_eq!(allowance(world, account).await, (-8, 0, 12));
    let bill = at_once(4, |_| tend_credits(world, account, now)).await;
    assert_eq!(count(&bill, &Ok(Changed::Now)), 1, "{bill:?}");
    let there = world.load_allowance(account).await.unwrap().unwrap();
    assert_eq!((there.free, there.room, there.owed()), (Change::ZERO, MicroCredits::ZERO, MicroCredits::ZERO));
    let more = world.record_message(&outgoing(world, account, 1, now)).await;
    assert!(matches!(more, Ok(Recorded::Refused(Refusal::Credit { .. }))), "{more:?}");
    let expected = [(Book::Issued, -4), (Book::Billed, -8), (Book::UsedMessageSegments, 12)];
    assert_eq!(books(world, account).await, expected);
    // A new month has its room again.
    let next = now + secs(40 * 86_400);
    assert_eq!(tend_credits(world, account, next).await, Ok(Changed::Now));
    let there = world.load_allowance(account).await.unwrap().unwrap();
    assert_eq!((there.free, there.room), (Change::ZERO, MicroCredits::whole(8)));
    assert_eq!(set_overage(world, account, None, next).await, Ok(Changed::Now));
    assert_eq!(world.load_allowance(account).await.unwrap().unwrap().room, MicroCredits::ZERO);
}
