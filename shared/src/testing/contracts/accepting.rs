//! Accepting messages: holds, idempotency keys, the daily ceiling, reading back.

use jiff::Timestamp;

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::api_key::KeepApiKeys;
use crate::credential::MintKey;
use crate::ids::AccountId;
use crate::ledger::{Allowance, Granularity, MicroCredits, ReadUsage};
use crate::message::{
    IDEMPOTENCY_LIFE, Idempotency, LoadSender, Outgoing, ReadMessages, RecordMessage, Recorded, Refusal,
};
use crate::platform::{Chance, Clock};
use crate::seal::Purpose;
use crate::session::{KeepSessions, Pass, Proof, Way};
use crate::testing::fresh::{self, account, outgoing, secs};

/// Available, held and used, in whole credits.
async fn credits<W: ReadUsage>(world: &W, account: AccountId) -> (u64, u64, u64) {
    let allowance = world.load_allowance(account).await.unwrap().unwrap();
    let (available, Allowance { held, used, .. }) = (allowance.available(), allowance);
    (available.0 / 1_000_000, held.0 / 1_000_000, used.0 / 1_000_000)
}

/// `n` messages of one segment, created `at`, under a ceiling.
fn some<W: Chance>(world: &W, account: AccountId, n: usize, ceiling: u64, at: Timestamp) -> Vec<Outgoing> {
    (0..n).map(|_| Outgoing { daily_ceiling: ceiling, ..outgoing(world, account, 1, at) }).collect()
}

pub async fn an_accepted_message_is_there_with_its_hold<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let outgoing = outgoing(world, account, 3, world.now());
    assert_eq!(world.load_message(account, outgoing.message.id).await, Ok(None));
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
    assert_eq!(world.load_message(account, outgoing.message.id).await, Ok(Some(outgoing.message.clone())));
    assert_eq!(credits(world, account).await, (7, 3, 0));
    let other = self::account(world, 10).await;
    assert_eq!(world.load_message(other, outgoing.message.id).await, Ok(None), "another account does not see it");
}

pub async fn parallel_accepts_take_exactly_what_the_credit_covers<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 20).await;
    let all = some(world, account, 60, 500, world.now());
    let answers = at_once(60, |n| world.record_message(&all[n])).await;
    let refused = Recorded::Refused(Refusal::Credit { needed: MicroCredits::whole(1), available: MicroCredits(0) });
    assert_eq!(count(&answers, &Ok(Recorded::Accepted)), 20, "{answers:?}");
    assert_eq!(count(&answers, &Ok(refused)), 40, "{answers:?}");
    assert_eq!(credits(world, account).await, (0, 20, 0));
    assert_eq!(world.list_messages(account, None, 100).await.unwrap().len(), 20);
}

pub async fn a_message_that_is_not_covered_is_refused_with_the_figures<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 2).await;
    let outgoing = outgoing(world, account, 3, world.now());
    let refusal = Refusal::Credit { needed: MicroCredits::whole(3), available: MicroCredits::whole(2) };
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Refused(refusal)));
    assert_eq!(credits(world, account).await, (2, 0, 0));
    assert_eq!(world.load_message(account, outgoing.message.id).await, Ok(None), "nothing was written");
    let small = Outgoing { idempotency: outgoing.idempotency, ..fresh::outgoing(world, account, 2, world.now()) };
    assert_eq!(world.record_message(&small).await, Ok(Recorded::Accepted), "nor was the key used up");
}

pub async fn the_same_key_gives_the_stored_answer<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 10).await;
    let first = outgoing(world, account, 1, world.now());
    assert_eq!(world.record_message(&first).await, Ok(Recorded::Accepted));
    let mut again = outgoing(world, account, 1, world.now());
    again.idempotency.key = first.idempotency.key.clone();
    assert_eq!(world.record_message(&again).await, Ok(Recorded::Earlier(first.idempotency.clone())));
    assert_eq!(world.load_message(account, again.message.id).await, Ok(None));
    assert_eq!(credits(world, account).await, (9, 1, 0));
    let mut expensive = outgoing(world, account, 11, world.now());
    expensive.idempotency.key = first.idempotency.key.clone();
    let answer = world.record_message(&expensive).await;
    assert_eq!(answer, Ok(Recorded::Earlier(first.idempotency)), "the key is looked at before the credit");
}

pub async fn of_fifty_with_the_same_key_one_is_accepted<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + ReadUsage + Clock + Chance,
{
    let account = account(world, 100).await;
    let key = outgoing(world, account, 1, world.now()).idempotency.key;
    let mut all = some(world, account, 50, 500, world.now());
    for outgoing in &mut all {
        outgoing.idempotency.key = key.clone();
    }
    let answers = at_once(50, |n| world.record_message(&all[n])).await;
    assert_eq!(count(&answers, &Ok(Recorded::Accepted)), 1, "{answers:?}");
    let winner = answers.iter().position(|answer| *answer == Ok(Recorded::Accepted)).unwrap();
    assert_eq!(count(&answers, &Ok(Recorded::Earlier(all[winner].idempotency.clone()))), 49, "{answers:?}");
    assert_eq!(credits(world, account).await, (99, 1, 0));
    assert_eq!(world.list_messages(account, None, 100).await, Ok(vec![all[winner].message.clone()]));
}

pub async fn an_expired_key_counts_as_new<W>(world: &W)
where
    W: CreateAccount + RecordMessage + LoadSender + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let first = outgoing(world, account, 1, now);
    assert_eq!(world.record_message(&first).await, Ok(Recorded::Accepted));
    let again = |at| {
        let mut again = outgoing(world, account, 1, at);
        again.idempotency.key = first.idempotency.key.clone();
        again
    };
    let early = again(now + IDEMPOTENCY_LIFE - secs(1));
    assert_eq!(world.record_message(&early).await, Ok(Recorded::Earlier(first.idempotency.clone())));
    let late = again(now + IDEMPOTENCY_LIFE);
    assert_eq!(world.record_message(&late).await, Ok(Recorded::Accepted));
    assert_eq!(earlier(world, account, &late).await, Some(late.idempotency.clone()), "the new record stands");
}

/// What the record behind the key says.
async fn earlier<W: LoadSender + Clock + Chance>(world: &W, account: AccountId, of: &Outgoing) -> Option<Idempotency> {
    let session = fresh::session(world, account);
    world.load_sender(&session.proof(), &of.idempotency.key, &[], None).await.unwrap().earlier
}

pub async fn another_accounts_key_is_another_key<W>(world: &W)
where
    W: CreateAccount + RecordMessage + Clock + Chance,
{
    let (ours, theirs) = (account(world, 1).await, account(world, 1).await);
    let first = outgoing(world, theirs, 1, world.now());
    assert_eq!(world.record_message(&first).await, Ok(Recorded::Accepted));
    let mut same = outgoing(world, ours, 1, world.now());
    same.idempotency.key = first.idempotency.key;
    assert_eq!(world.record_message(&same).await, Ok(Recorded::Accepted));
}

pub async fn the_daily_ceiling_is_exact<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadUsage + Clock + Chance,
{
    let (account, now) = (account(world, 100).await, world.now());
    let record = async |segments| {
        let outgoing = Outgoing { daily_ceiling: 10, ..outgoing(world, account, segments, now) };
        world.record_message(&outgoing).await.unwrap()
    };
    let full = Recorded::Refused(Refusal::DailyCeiling(10));
    assert_eq!(record(7).await, Recorded::Accepted);
    assert_eq!(record(4).await, full);
    assert_eq!(record(3).await, Recorded::Accepted);
    assert_eq!(record(1).await, full);
    assert_eq!(credits(world, account).await, (90, 10, 0));
}

pub async fn parallel_accepts_stop_at_the_daily_ceiling<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadUsage + Clock + Chance,
{
    let account = account(world, 100).await;
    let all = some(world, account, 30, 10, world.now());
    let answers = at_once(30, |n| world.record_message(&all[n])).await;
    assert_eq!(count(&answers, &Ok(Recorded::Accepted)), 10, "{answers:?}");
    assert_eq!(count(&answers, &Ok(Recorded::Refused(Refusal::DailyCeiling(10)))), 20, "{answers:?}");
    assert_eq!(credits(world, account).await, (90, 10, 0));
}

pub async fn a_new_day_counts_anew<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadUsage + Clock + Chance,
{
    let (account, now) = (account(world, 100).await, world.now());
    let tomorrow = now + secs(86_400);
    for at in [now, tomorrow] {
        let all = some(world, account, 3, 2, at);
        assert_eq!(world.record_message(&all[0]).await, Ok(Recorded::Accepted));
        assert_eq!(world.record_message(&all[1]).await, Ok(Recorded::Accepted));
        let full = Ok(Recorded::Refused(Refusal::DailyCeiling(2)));
        assert_eq!(world.record_message(&all[2]).await, full);
        let allowance = world.load_allowance(account).await.unwrap().unwrap();
        assert_eq!((allowance.day, allowance.day_segments), (Granularity::utc_day(at), 2));
    }
    assert_eq!(credits(world, account).await, (96, 4, 0));
}

pub async fn a_new_day_is_counted_exactly_by_parallel_accepts<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadUsage + Clock + Chance,
{
    let (account, tomorrow) = (account(world, 100).await, world.now() + secs(86_400));
    let all = some(world, account, 20, 10, tomorrow);
    let answers = at_once(20, |n| world.record_message(&all[n])).await;
    let accepted = count(&answers, &Ok(Recorded::Accepted));
    assert_eq!(accepted, 10, "{answers:?}");
    let allowance = world.load_allowance(account).await.unwrap().unwrap();
    assert_eq!((allowance.day, allowance.day_segments), (Granularity::utc_day(tomorrow), 10));
    assert_eq!(credits(world, account).await, (90, 10, 0));
}

pub async fn a_message_above_the_ceiling_is_refused_on_a_fresh_day<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadUsage + Clock + Chance,
{
    let (account, now) = (account(world, 100).await, world.now());
    for at in [now, now + secs(86_400)] {
        let large = Outgoing { daily_ceiling: 10, ..outgoing(world, account, 11, at) };
        assert_eq!(world.record_message(&large).await, Ok(Recorded::Refused(Refusal::DailyCeiling(10))), "{at}");
    }
    assert_eq!(credits(world, account).await, (100, 0, 0));
}

pub async fn the_sender_loads_with_all_that_a_decision_needs<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepSessions + RecordMessage + LoadSender + Clock + Chance,
{
    let (account, now) = (fresh::account_with_keys(world, 10).await, world.now());
    let session = fresh::session(world, account);
    let outgoing = outgoing(world, account, 1, now);
    let load = async |keys: &[Purpose]| {
        world.load_sender(&session.proof(), &outgoing.idempotency.key, keys, None).await.unwrap()
    };
    let before = load(&[]).await;
    assert_eq!((before.pass, before.earlier, before.keys), (None, None, Vec::new()));
    let facts = before.facts.unwrap();
    assert_eq!(facts.gate, fresh::new_account(world, 0).gate);
    assert_eq!(facts.allowance, Allowance::new(MicroCredits::whole(10), now));
    assert_eq!(world.start_session(session.clone()).await, Ok(()));
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
    let after = load(&[Purpose::Payload, Purpose::Match, Purpose::Send]).await;
    assert_eq!(after.pass, Some(Pass::Session(session.clone())));
    assert_eq!(after.earlier, Some(outgoing.idempotency.clone()));
    let purposes: Vec<_> = after.keys.iter().map(|keys| (keys.account, keys.purpose)).collect();
    assert_eq!(purposes, [(account, Purpose::Payload), (account, Purpose::Match)]);
    assert_eq!(after.facts.unwrap().allowance.held, MicroCredits::whole(1));
}

pub async fn the_sender_loads_with_its_api_key_in_the_same_call<W>(world: &W)
where
    W: CreateAccount + KeepApiKeys + KeepSessions + LoadSender + Clock + Chance,
{
    let account = account(world, 10).await;
    let (key, session) = (fresh::api_key(world, account), fresh::session(world, account));
    let load = async |proof: &Proof| {
        let idempotency = outgoing(world, account, 1, world.now()).idempotency.key;
        world.load_sender(proof, &idempotency, &[], None).await.unwrap()
    };
    let before = load(&key.proof()).await;
    assert_eq!((before.pass, before.facts.is_some()), (None, true));
    assert_eq!(world.create_api_key(key.clone()).await, Ok(true));
    assert_eq!(world.start_session(session.clone()).await, Ok(()));
    assert_eq!(load(&key.proof()).await.pass, Some(Pass::ApiKey(key.clone())));
    // A key is no session and a session no key, whatever the hash.
    assert_eq!(load(&Proof { way: Way::Session, ..key.proof() }).await.pass, None);
    assert_eq!(load(&Proof { way: Way::ApiKey, ..session.proof() }).await.pass, None);
    assert_eq!(world.revoke_api_key(account, key.id).await, Ok(true));
    assert_eq!(load(&key.proof()).await.pass, None);
}

pub async fn an_account_that_is_not_there_has_no_facts<W: LoadSender + ReadUsage + Clock + Chance>(world: &W) {
    let nobody = AccountId::new(world.now(), fresh::dice(world));
    let session = fresh::session(world, nobody);
    let key = outgoing(world, nobody, 1, world.now()).idempotency.key;
    let loaded = world.load_sender(&session.proof(), &key, &[Purpose::Payload], None).await.unwrap();
    assert_eq!((loaded.pass, loaded.facts, loaded.earlier, loaded.keys), (None, None, None, Vec::new()));
    assert_eq!(world.load_allowance(nobody).await, Ok(None));
}

pub async fn messages_list_newest_first_in_pages<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ReadMessages + Clock + Chance,
{
    let (account, now) = (account(world, 10).await, world.now());
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(fresh::accepted(world, account, now + secs(n)).await.id);
    }
    ids.reverse();
    fresh::accepted(world, self::account(world, 10).await, now).await;
    let mut seen = Vec::new();
    for _ in 0..9 {
        let page = world.list_messages(account, seen.last().copied(), 2).await.unwrap();
        assert!(page.len() <= 2);
        if page.is_empty() {
            break;
        }
        seen.extend(page.iter().map(|message| message.id));
    }
    assert_eq!(seen, ids);
}
