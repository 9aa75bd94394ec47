//! What recipients said and what customers entered, in any order and at once.

use futures::future::join;
use jiff::Timestamp;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::ids::{AccountId, ApiKeyId, UserId};
use crate::inbound::Consent;
use crate::message::{ClaimMessage, Claimed, LoadGuards, Message, RecordMessage};
use crate::opt_out::{
    EnterOptOuts, Entered, Entry, Evidence, EvidenceKind, Heard, OptOut, PlatformWord, ReadOptOuts, ReadPlatformOptOut,
    RecordConsent, RecordPlatformWord, Removal,
};
use crate::platform::{Chance, Clock};
use crate::session::By;
use crate::testing::fresh::{self, OWN, accepted, account, claimed, secs};

const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

fn owner<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

fn user<W: Clock + Chance>(world: &W) -> By {
    By::User(UserId::new(world.now(), fresh::dice(world)))
}

/// A key of a program.
fn program() -> By {
    By::Key(ApiKeyId::from_bits(7))
}

fn evidence(given: Timestamp) -> Evidence {
    Evidence { kind: EvidenceKind::WebForm, given }
}

async fn enter<W: EnterOptOuts>(world: &W, account: AccountId, other: &str, at: Timestamp) -> Entry {
    world.enter_opt_outs(account, OWN, &[other.to_owned()], program(), at).await.unwrap().remove(0)
}

async fn remove<W: EnterOptOuts>(world: &W, account: AccountId, other: &str, at: Timestamp) -> Removal {
    let shown = (program(), evidence(at));
    world.remove_opt_outs(account, OWN, &[other.to_owned()], shown, at).await.unwrap().remove(0)
}

async fn say<W: RecordConsent + Chance>(world: &W, account: AccountId, other: &str, said: Consent, at: Timestamp) {
    world.record_consent(account, OWN, other, said, &fresh::heard(world), at).await.unwrap();
}

async fn known<W: ReadOptOuts>(world: &W, account: AccountId, other: &str) -> OptOut {
    world.load_opt_outs(account, OWN, &[other.to_owned()]).await.unwrap().remove(0)
}

async fn is_out<W: ReadOptOuts>(world: &W, account: AccountId, other: &str) -> bool {
    known(world, account, other).await.standing().is_some()
}

pub async fn an_entry_stands_until_its_removal_and_both_read_back<W>(world: &W)
where
    W: EnterOptOuts + ReadOptOuts + Clock + Chance,
{
    let (account, now, by) = (owner(world), world.now(), user(world));
    let others = ["a".to_owned()];
    assert_eq!(known(world, account, "a").await, OptOut::default());
    assert_eq!(world.enter_opt_outs(account, OWN, &others, by, now).await, Ok(vec![Entry::OptedOut]));
    let entered = Entered { consent: Consent::Stop, at: now, by, evidence: None };
    assert_eq!(known(world, account, "a").await, OptOut { said: None, entered: Some(entered) });
    let (later, shown) = (now + secs(5), evidence(now - secs(3600)));
    let removed = world.remove_opt_outs(account, OWN, &others, (program(), shown), later).await;
    assert_eq!(removed, Ok(vec![Removal::Removed]));
    let entered = Entered { consent: Consent::Start, at: later, by: program(), evidence: Some(shown) };
    assert_eq!(known(world, account, "a").await, OptOut { said: None, entered: Some(entered) });
    // Again, it is an entry without evidence.
    assert_eq!(enter(world, account, "a", later + secs(1)).await, Entry::OptedOut);
    assert_eq!(known(world, account, "a").await.entered.unwrap().evidence, None);
}

pub async fn no_removal_lifts_what_the_recipient_said<W>(world: &W)
where
    W: EnterOptOuts + RecordConsent + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    let message = fresh::outgoing(world, account, 1, now).message.id;
    for (other, heard) in [("text", fresh::heard(world)), ("error", Heard::Refusal(message))] {
        world.record_consent(account, OWN, other, Consent::Stop, &heard, now).await.unwrap();
        assert_eq!(remove(world, account, other, now + secs(1)).await, Removal::RecipientsOwn);
        // An entry on top of it does not make it the customer's.
        assert_eq!(enter(world, account, other, now + secs(2)).await, Entry::OptedOut);
        assert_eq!(remove(world, account, other, now + secs(3)).await, Removal::RecipientsOwn);
        assert_eq!(known(world, account, other).await.said.unwrap().heard, heard);
        // Only they can take it back, and then the entry before it is over too.
        say(world, account, other, Consent::Start, now + secs(4)).await;
        assert!(!is_out(world, account, other).await, "{other}");
        assert_eq!(remove(world, account, other, now + secs(5)).await, Removal::NotOptedOut);
    }
}

/// What the recipient says comes by a queue, late and in any order; what the customer does comes when it comes.
pub async fn words_come_to_the_same_end_in_any_order<W>(world: &W)
where
    W: EnterOptOuts + RecordConsent + ReadOptOuts + Clock + Chance,
{
    use Consent::{Start, Stop};
    let (account, now) = (owner(world), world.now());
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    // An entry at second 2, and texts at these times.
    for (n, texts, out) in [
        (0, [(Stop, 1), (Start, 3)], false),
        (1, [(Start, 1), (Stop, 3)], true),
        (2, [(Stop, 0), (Start, 1)], true),
        (3, [(Start, 2), (Start, 1)], true),
    ] {
        for (m, order) in orders.iter().enumerate() {
            let other = format!("{n}/{m}");
            for step in order {
                match texts.get(*step) {
                    Some((said, second)) => say(world, account, &other, *said, now + secs(*second)).await,
                    None => drop(enter(world, account, &other, now + secs(2)).await),
                }
            }
            assert_eq!(is_out(world, account, &other).await, out, "{texts:?} in order {order:?}");
        }
    }
    // A text of before a removal that comes after it: the removal would have been refused.
    enter(world, account, "late", now).await;
    assert_eq!(remove(world, account, "late", now + secs(2)).await, Removal::Removed);
    say(world, account, "late", Stop, now + secs(1)).await;
    assert!(is_out(world, account, "late").await);
}

pub async fn of_an_entry_and_a_removal_at_the_same_time_the_entry_stands<W>(world: &W)
where
    W: EnterOptOuts + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    enter(world, account, "a", now).await;
    assert_eq!(remove(world, account, "a", now).await, Removal::LaterWord);
    assert_eq!(remove(world, account, "a", now - secs(1)).await, Removal::LaterWord, "a slow clock");
    assert!(is_out(world, account, "a").await);
    assert_eq!(remove(world, account, "a", now + secs(1)).await, Removal::Removed);
    assert_eq!(enter(world, account, "a", now).await, Entry::LaterWord, "a slow clock");
    assert_eq!(enter(world, account, "a", now + secs(1)).await, Entry::OptedOut);
    // At once, whoever comes first.
    for n in 0..20 {
        let other = format!("at once {n}");
        enter(world, account, &other, now).await;
        let at = now + secs(1);
        let (removal, entry) = join(remove(world, account, &other, at), enter(world, account, &other, at)).await;
        assert!([Removal::Removed, Removal::LaterWord].contains(&removal), "{removal:?}");
        assert_eq!((entry, is_out(world, account, &other).await), (Entry::OptedOut, true));
    }
}

pub async fn of_a_stop_and_a_removal_at_once_the_stop_stands<W>(world: &W)
where
    W: EnterOptOuts + RecordConsent + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    for n in 0..20 {
        let other = format!("{n}");
        enter(world, account, &other, now).await;
        // The text is older than the removal by its time.
        let said = say(world, account, &other, Consent::Stop, now + secs(1));
        let (removal, ()) = join(remove(world, account, &other, now + secs(2)), said).await;
        assert!([Removal::Removed, Removal::RecipientsOwn].contains(&removal), "{removal:?}");
        assert!(is_out(world, account, &other).await);
    }
}

pub async fn of_many_removals_at_once_one_lifts<W>(world: &W)
where
    W: EnterOptOuts + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    enter(world, account, "a", now).await;
    // Each in a request of its own, so each at a time and by a user of its own.
    let users: Vec<_> = (0..20).map(|_| user(world)).collect();
    let removals = at_once(20, async |n| {
        let at = now + secs(1 + i64::try_from(n).unwrap());
        let others = ["a".to_owned()];
        world.remove_opt_outs(account, OWN, &others, (users[n], evidence(at)), at).await.unwrap().remove(0)
    })
    .await;
    assert_eq!((count(&removals, &Removal::Removed), count(&removals, &Removal::NotOptedOut)), (1, 19));
    let winner = removals.iter().position(|removal| *removal == Removal::Removed).unwrap();
    assert_eq!(known(world, account, "a").await.entered.unwrap().by, users[winner]);
}

pub async fn a_removal_of_nothing_leaves_nothing<W>(world: &W)
where
    W: EnterOptOuts + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    assert_eq!(remove(world, account, "a", now).await, Removal::NotOptedOut);
    assert_eq!(known(world, account, "a").await, OptOut::default());
    assert_eq!(world.opt_out_senders(account).await, Ok(Vec::new()));
    assert_eq!(world.list_opt_outs(account, OWN, None, 10).await, Ok(Vec::new()));
}

pub async fn many_are_entered_removed_and_looked_up_in_their_order<W>(world: &W)
where
    W: EnterOptOuts + RecordConsent + ReadOptOuts + Clock + Chance,
{
    let (account, now) = (owner(world), world.now());
    let others: Vec<_> = (0..230).map(|n| format!("{n:03}")).collect();
    say(world, account, "107", Consent::Stop, now).await;
    let entries = world.enter_opt_outs(account, OWN, &others[100..], program(), now).await;
    assert_eq!(entries, Ok(vec![Entry::OptedOut; 130]));
    let shown = (program(), evidence(now));
    let removals = world.remove_opt_outs(account, OWN, &others[..110], shown, now + secs(1)).await.unwrap();
    let expected = |n| match n {
        0..100 => Removal::NotOptedOut,
        107 => Removal::RecipientsOwn,
        _ => Removal::Removed,
    };
    assert_eq!(removals, (0..110).map(expected).collect::<Vec<_>>());
    let known = world.load_opt_outs(account, OWN, &others).await.unwrap();
    let out: Vec<_> = known.iter().map(|known| known.standing().is_some()).collect();
    assert_eq!(out, (0..230).map(|n| n == 107 || n >= 110).collect::<Vec<_>>());
}

pub async fn opt_outs_list_by_sender_and_in_pages<W>(world: &W)
where
    W: EnterOptOuts + RecordConsent + ReadOptOuts + Clock + Chance,
{
    let ([ours, theirs], now) = ([owner(world), owner(world)], world.now());
    for other in ["c", "a", "d", "b"] {
        enter(world, ours, other, now).await;
    }
    say(world, ours, "e", Consent::Start, now).await;
    world.record_consent(ours, SERVICE, "f", Consent::Stop, &fresh::heard(world), now).await.unwrap();
    world.record_consent(ours, "started only", "g", Consent::Start, &fresh::heard(world), now).await.unwrap();
    enter(world, theirs, "h", now).await;
    assert_eq!(world.opt_out_senders(ours).await, Ok(vec![OWN.to_owned(), SERVICE.to_owned()]));
    let page = async |own: &str, after: Option<&str>, limit| {
        let rows = world.list_opt_outs(ours, own, after, limit).await.unwrap();
        rows.into_iter().map(|(other, _)| other).collect::<String>()
    };
    assert_eq!(page(OWN, None, 2).await, "ab");
    assert_eq!(page(OWN, Some("b"), 2).await, "cd");
    assert_eq!(page(OWN, Some("d"), 2).await, "e");
    assert_eq!(page(OWN, Some("e"), 2).await, "");
    assert_eq!((page(SERVICE, None, 9).await, page(OWN, Some("bb"), 9).await), ("f".to_owned(), "cde".to_owned()));
    let listed = world.list_opt_outs(ours, OWN, None, 1).await.unwrap().remove(0).1;
    assert_eq!(listed, known(world, ours, "a").await);
}

/// A claimed message from a sender to a new recipient.
async fn ready<W>(world: &W, account: AccountId, own: &str) -> Claimed
where
    W: RecordMessage + ClaimMessage + Clock + Chance,
{
    let message = accepted(world, account, world.now()).await;
    let claimed = claimed(world, &message, world.now()).await;
    Claimed { message: Message { own: own.to_owned(), ..claimed.message }, ..claimed }
}

pub async fn the_last_check_sees_entries_of_its_own_sender_only<W>(world: &W)
where
    W: CreateAccount
        + RecordMessage
        + ClaimMessage
        + LoadGuards
        + RecordConsent
        + EnterOptOuts
        + ReadOptOuts
        + Clock
        + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let held = async |claim: &Claimed| world.load_guards(std::slice::from_ref(claim), &[]).await.unwrap()[0].opted_out;
    for (sender, another) in [(OWN, SERVICE), (SERVICE, OWN)] {
        let claim = ready(world, account, sender).await;
        let others = [claim.message.other_hash.clone()];
        world.enter_opt_outs(account, another, &others, program(), now).await.unwrap();
        assert!(!held(&claim).await, "{another} is another sender than {sender}");
        world.enter_opt_outs(account, sender, &others, program(), now).await.unwrap();
        assert!(held(&claim).await, "{sender}");
        let shown = (program(), evidence(now));
        world.remove_opt_outs(account, sender, &others, shown, now + secs(1)).await.unwrap();
        assert!(!held(&claim).await, "{sender}");
        // The recipient lifts an entry too, and their STOP counts beside a removal.
        world.enter_opt_outs(account, sender, &others, program(), now + secs(2)).await.unwrap();
        for (said, second, out) in [(Consent::Start, 3, false), (Consent::Stop, 4, true)] {
            let heard = fresh::heard(world);
            world.record_consent(account, sender, &others[0], said, &heard, now + secs(second)).await.unwrap();
            assert_eq!(held(&claim).await, out, "{sender}");
        }
    }
}

/// A caller of the platform's number, and SIDs of their texts.
fn caller<W: Chance>(world: &W) -> (String, impl Fn(usize) -> String) {
    let own = fresh::word(world);
    (own.clone(), move |n| format!("SM{own}{n}"))
}

async fn tell<W: RecordPlatformWord>(world: &W, caller: &str, sid: &str, consent: Consent, at: Timestamp) {
    assert_eq!(world.record_platform_word(caller, sid, PlatformWord { consent, at }).await, Ok(()));
}

pub async fn the_last_word_to_the_platform_stands_in_any_order<W>(world: &W)
where
    W: RecordPlatformWord + ReadPlatformOptOut + Clock + Chance,
{
    use Consent::{Start, Stop};
    let now = world.now();
    for (words, out) in [
        ([(Stop, 0), (Start, 1), (Stop, 2)], true),
        ([(Start, 0), (Stop, 1), (Start, 2)], false),
        ([(Start, 0), (Start, 1), (Stop, 1)], true),
    ] {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let (caller, sid) = caller(world);
            assert_eq!(world.has_stopped(&caller).await, Ok(false), "nothing said");
            for n in order {
                let (consent, second) = words[n];
                tell(world, &caller, &sid(n), consent, now + secs(second)).await;
            }
            assert_eq!(world.has_stopped(&caller).await, Ok(out), "{words:?} in order {order:?}");
        }
    }
}

/// Twilio's signature has no time in it: it is as good a year later.
pub async fn a_text_to_the_platform_that_is_played_back_changes_nothing<W>(world: &W)
where
    W: RecordPlatformWord + ReadPlatformOptOut + Clock + Chance,
{
    let ((caller, sid), now) = (caller(world), world.now());
    tell(world, &caller, &sid(1), Consent::Start, now).await;
    tell(world, &caller, &sid(2), Consent::Stop, now + secs(1)).await;
    tell(world, &caller, &sid(1), Consent::Start, now + secs(2)).await;
    assert_eq!(world.has_stopped(&caller).await, Ok(true));
    // The next START is a text of its own, and the old STOP does not come back.
    tell(world, &caller, &sid(3), Consent::Start, now + secs(3)).await;
    tell(world, &caller, &sid(2), Consent::Stop, now + secs(4)).await;
    assert_eq!(world.has_stopped(&caller).await, Ok(false));
}

pub async fn of_words_to_the_platform_at_once_the_stop_stands<W>(world: &W)
where
    W: RecordPlatformWord + ReadPlatformOptOut + Clock + Chance,
{
    let now = world.now();
    for _ in 0..5 {
        // Each of a START and a STOP comes 25 times, all at once; copies come later by their own time.
        let (caller, sid) = caller(world);
        at_once(50, |n| {
            let (caller, sid) = (&caller, sid(n % 2));
            let consent = if n % 2 == 0 { Consent::Start } else { Consent::Stop };
            async move { tell(world, caller, &sid, consent, now).await }
        })
        .await;
        assert_eq!(world.has_stopped(&caller).await, Ok(true));
        // 50 copies of one START: the first that is written has its time, and the STOP of a second later stands.
        at_once(50, |n| {
            let (caller, sid) = (&caller, sid(2));
            let at = now + secs(if n == 0 { 1 } else { 2 });
            async move { tell(world, caller, &sid, Consent::Start, at).await }
        })
        .await;
        assert_eq!(world.has_stopped(&caller).await, Ok(false));
        tell(world, &caller, &sid(3), Consent::Stop, now + secs(3)).await;
        at_once(50, |_| tell_again(world, &caller, sid(2), now + secs(4))).await;
        assert_eq!(world.has_stopped(&caller).await, Ok(true));
    }
}

async fn tell_again<W: RecordPlatformWord>(world: &W, caller: &str, sid: String, at: Timestamp) {
    tell(world, caller, &sid, Consent::Start, at).await;
}

pub async fn words_to_the_platform_and_to_a_customer_never_mix<W>(world: &W)
where
    W: RecordPlatformWord + ReadPlatformOptOut + RecordConsent + ReadOptOuts + Clock + Chance,
{
    let (account, (caller, sid), now) = (owner(world), caller(world), world.now());
    say(world, account, &caller, Consent::Stop, now).await;
    assert_eq!(world.has_stopped(&caller).await, Ok(false));
    let (other, _) = self::caller(world);
    tell(world, &other, &sid(0), Consent::Stop, now).await;
    assert!(!is_out(world, account, &other).await);
    assert_eq!((world.has_stopped(&other).await, world.has_stopped(&caller).await), (Ok(true), Ok(false)));
    // A START to the platform lifts no customer's opt-out.
    tell(world, &caller, &sid(1), Consent::Start, now + secs(1)).await;
    assert!(is_out(world, account, &caller).await);
}
