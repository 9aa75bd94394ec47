//! The sending policy, freezes and their end.

use futures::future::{join, join3};
use jiff::Timestamp;

use super::{at_once, count};
use crate::account::{
    CreateAccount, Freeze, FreezeReason, Gate, Lift, LiftFreeze, Lifted, LoadGate, Policy, QuietHours, SavePolicy,
    SaveZone, Stop, StopSending, Stopped,
};
use crate::ids::{AccountId, UserId};
use crate::ledger::Zone;
use crate::number::Country;
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, FROZEN, account, secs};

fn policy(codes: &[&str], daily_ceiling: u64, quiet: Option<(&str, &str)>) -> Policy {
    let quiet_hours = quiet.map(|(from, to)| QuietHours { from: from.parse().unwrap(), to: to.parse().unwrap() });
    let countries = codes.iter().map(|code| Country::parse(code).unwrap()).collect();
    let sender_rates = quiet.map(|(from, _)| (from.to_owned(), 7)).into_iter().collect();
    Policy { countries, daily_ceiling, quiet_hours, sender_rates }
}

async fn gate<W: LoadGate>(world: &W, account: AccountId) -> Gate {
    world.load_gate(account).await.unwrap().unwrap()
}

fn someone<W: Clock + Chance>(world: &W) -> UserId {
    UserId::new(world.now(), fresh::dice(world))
}

pub async fn a_policy_reads_back_and_replaces_the_one_before<W>(world: &W)
where
    W: CreateAccount + LoadGate + SavePolicy + Clock + Chance,
{
    let account = account(world, 1).await;
    for policy in [
        policy(&["CA", "US"], 2_000, Some(("21:00", "08:00"))),
        policy(&["GB"], 1, Some(("12:30", "13:00"))),
        policy(&["US"], Gate::MOST_CEILING, None),
    ] {
        let Policy { countries, daily_ceiling, quiet_hours, sender_rates } = policy.clone();
        let expected = Gate { countries, daily_ceiling, quiet_hours, sender_rates, ..gate(world, account).await };
        assert_eq!(world.save_policy(account, &policy).await, Ok(Some(expected.clone())));
        assert_eq!(gate(world, account).await, expected);
    }
    let nobody = AccountId::from_bits(fresh::dice(world));
    assert_eq!(world.save_policy(nobody, &policy(&["US"], 1, None)).await, Ok(None));
    assert_eq!(world.load_gate(nobody).await, Ok(None), "no gate comes from a policy");
}

pub async fn of_a_policy_and_a_freeze_at_once_both_stand<W>(world: &W)
where
    W: CreateAccount + LoadGate + SavePolicy + StopSending + Clock + Chance,
{
    for round in 0..10 {
        let account = account(world, 1).await;
        let policy = policy(&["CA"], 700 + round, Some(("20:00", "09:00")));
        let (saved, stopped) =
            join(world.save_policy(account, &policy), world.stop_sending(account, FROZEN, 0, world.now())).await;
        assert!(saved.unwrap().is_some());
        assert_eq!(stopped, Ok(Stopped::Now));
        let gate = gate(world, account).await;
        assert_eq!((gate.daily_ceiling, gate.stopped()), (700 + round, Some(FROZEN)));
    }
}

pub async fn a_time_zone_reads_back_and_saving_it_again_changes_nothing<W>(world: &W)
where
    W: CreateAccount + LoadGate + SaveZone + Clock + Chance,
{
    let account = account(world, 1).await;
    for name in ["Europe/Vienna", "Europe/Vienna", "Asia/Kolkata", "UTC"] {
        let zone = Zone::parse(name).unwrap();
        let expected = Gate { zone: zone.clone(), ..gate(world, account).await };
        assert_eq!(world.save_zone(account, &zone).await, Ok(Some(expected.clone())));
        assert_eq!(gate(world, account).await, expected);
    }
    let nobody = AccountId::from_bits(fresh::dice(world));
    assert_eq!(world.save_zone(nobody, &Zone::default()).await, Ok(None));
    assert_eq!(world.load_gate(nobody).await, Ok(None), "no gate comes from a time zone");
}

pub async fn of_a_time_zone_a_policy_and_a_freeze_at_once_all_stand<W>(world: &W)
where
    W: CreateAccount + LoadGate + SavePolicy + SaveZone + StopSending + Clock + Chance,
{
    for (round, name) in ["Europe/Vienna", "Asia/Kolkata", "America/New_York", "Pacific/Auckland"].iter().enumerate() {
        let (account, zone) = (account(world, 1).await, Zone::parse(name).unwrap());
        let ceiling = 700 + u64::try_from(round).unwrap();
        let policy = policy(&["CA"], ceiling, Some(("20:00", "09:00")));
        let (changed, saved, stopped) = join3(
            world.save_zone(account, &zone),
            world.save_policy(account, &policy),
            world.stop_sending(account, FROZEN, 0, world.now()),
        )
        .await;
        assert!(changed.unwrap().is_some_and(|gate| gate.zone == zone) && saved.unwrap().is_some());
        assert_eq!(stopped, Ok(Stopped::Now));
        let gate = gate(world, account).await;
        assert_eq!((gate.zone, gate.daily_ceiling), (zone, ceiling));
        assert_eq!((gate.quiet_hours, gate.frozen.is_some()), (policy.quiet_hours, true));
    }
}

pub async fn of_many_freezes_at_once_one_counts<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + Clock + Chance,
{
    let (account, now) = (account(world, 1).await, world.now());
    let reason = |n: usize| if n.is_multiple_of(2) { FreezeReason::Pumping } else { FreezeReason::Velocity };
    let times: Vec<_> = (0..50).map(|n| now + secs(n)).collect();
    let answers = at_once(50, |n| world.stop_sending(account, Stop::Frozen(reason(n)), 0, times[n])).await;
    let told = (count(&answers, &Ok(Stopped::Now)), count(&answers, &Ok(Stopped::Unchanged)));
    assert_eq!(told, (1, 49), "{answers:?}");
    let first = answers.iter().position(|answer| *answer == Ok(Stopped::Now)).unwrap();
    let freeze = Freeze { reason: reason(first), since: times[first] };
    assert_eq!(gate(world, account).await.frozen, Some(freeze), "the one that counts is the one that is shown");
    let nobody = AccountId::from_bits(fresh::dice(world));
    assert_eq!(world.stop_sending(nobody, FROZEN, 0, now).await, Ok(Stopped::Unchanged));
    assert_eq!(world.load_gate(nobody).await, Ok(None), "no gate comes from a stop");
}

pub async fn a_refused_credential_is_told_once<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + Clock + Chance,
{
    let (account, now) = (account(world, 1).await, world.now());
    let answers = at_once(16, |_| world.stop_sending(account, Stop::CredentialRefused, 0, now)).await;
    assert_eq!((count(&answers, &Ok(Stopped::Now)), count(&answers, &Ok(Stopped::Untold))), (1, 15));
    assert_eq!(world.stop_told(account, Stop::CredentialRefused, now).await, Ok(()));
    for version in [0, 1] {
        let again = world.stop_sending(account, Stop::CredentialRefused, version, now).await;
        assert_eq!(again, Ok(Stopped::Unchanged), "version {version}");
    }
    assert_eq!(gate(world, account).await.stops(), [None, Some(Stop::CredentialRefused)]);
}

pub async fn a_freeze_stays_untold_until_it_is_noted_or_lifted<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + LiftFreeze + Clock + Chance,
{
    let (account, by, now) = (account(world, 1).await, someone(world), world.now());
    let untold = async || gate(world, account).await.untold()[0];
    assert_eq!((world.stop_told(account, FROZEN, now).await, untold().await), (Ok(()), None), "nothing is frozen");
    for (since, noted) in [(now, true), (now + secs(9), false)] {
        assert_eq!(world.stop_sending(account, FROZEN, 0, since).await, Ok(Stopped::Now));
        assert_eq!(untold().await, Some((FROZEN, since)));
        assert_eq!(world.stop_told(account, FROZEN, since + secs(1)).await, Ok(()));
        assert_eq!(untold().await, Some((FROZEN, since)), "a note about another freeze");
        if noted {
            assert_eq!(world.stop_told(account, FROZEN, since).await, Ok(()));
            assert_eq!(untold().await, None);
        }
        assert_eq!(world.lift_freeze(account, since, by, since + secs(2)).await, Ok(Lift::Done));
        assert_eq!(untold().await, None, "nobody has to be told of what is over");
    }
}

pub async fn a_lift_ends_the_freeze_that_was_seen_and_nothing_else<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + LiftFreeze + Clock + Chance,
{
    let (account, by, now) = (account(world, 1).await, someone(world), world.now());
    assert_eq!(world.lift_freeze(account, now, by, now).await, Ok(Lift::NotFrozen));
    world.stop_sending(account, Stop::CredentialRefused, 0, now).await.unwrap();
    world.stop_sending(account, FROZEN, 0, now).await.unwrap();
    let freeze = Freeze { reason: FreezeReason::Velocity, since: now };
    for other in [now - secs(1), now + secs(1)] {
        assert_eq!(world.lift_freeze(account, other, by, now).await, Ok(Lift::Other(freeze)));
    }
    assert_eq!(gate(world, account).await.frozen, Some(freeze));
    let later = now + secs(5);
    assert_eq!(world.lift_freeze(account, now, by, later).await, Ok(Lift::Done));
    let after = gate(world, account).await;
    assert_eq!((after.stopped(), after.lifted), (Some(Stop::CredentialRefused), Some(Lifted { at: later, by })));
    assert_eq!(after.counts_from(), later);
    assert_eq!(world.lift_freeze(account, now, someone(world), later + secs(1)).await, Ok(Lift::NotFrozen));
    let nobody = AccountId::from_bits(fresh::dice(world));
    assert_eq!(world.lift_freeze(nobody, now, by, now).await, Ok(Lift::NotFrozen));
    assert_eq!(world.load_gate(nobody).await, Ok(None), "no gate comes from a lift");
}

/// As one of a row that was frozen before times were stored reads.
pub async fn a_freeze_of_no_time_is_lifted_too<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + LiftFreeze + Clock + Chance,
{
    let (account, long_ago) = (account(world, 1).await, Timestamp::UNIX_EPOCH);
    world.stop_sending(account, Stop::Frozen(FreezeReason::Unnamed), 0, long_ago).await.unwrap();
    assert_eq!(world.lift_freeze(account, long_ago, someone(world), world.now()).await, Ok(Lift::Done));
    assert_eq!(gate(world, account).await.frozen, None);
}

pub async fn of_many_lifts_at_once_one_counts<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + LiftFreeze + Clock + Chance,
{
    let (account, now) = (account(world, 1).await, world.now());
    world.stop_sending(account, FROZEN, 0, now).await.unwrap();
    let users: Vec<_> = (0..16).map(|_| someone(world)).collect();
    let answers = at_once(16, |n| world.lift_freeze(account, now, users[n], now + secs(1))).await;
    assert_eq!((count(&answers, &Ok(Lift::Done)), count(&answers, &Ok(Lift::NotFrozen))), (1, 15), "{answers:?}");
    let first = answers.iter().position(|answer| *answer == Ok(Lift::Done)).unwrap();
    assert_eq!(gate(world, account).await.lifted.map(|lifted| lifted.by), Some(users[first]));
}

/// An older click: the freeze that it means was lifted by somebody else, and a new one came.
pub async fn a_newer_freeze_is_never_lifted_by_an_older_click<W>(world: &W)
where
    W: CreateAccount + LoadGate + StopSending + LiftFreeze + Clock + Chance,
{
    for _ in 0..20 {
        let (account, first) = (account(world, 1).await, world.now());
        let (one, two, second) = (someone(world), someone(world), first + secs(2));
        let pumping = Stop::Frozen(FreezeReason::Pumping);
        world.stop_sending(account, FROZEN, 0, first).await.unwrap();
        let (lift, again, frozen) = join3(
            world.lift_freeze(account, first, one, first + secs(1)),
            world.lift_freeze(account, first, two, first + secs(1)),
            world.stop_sending(account, pumping, 0, second),
        )
        .await;
        assert_eq!(count(&[lift, again], &Ok(Lift::Done)), 1);
        let new = Freeze { reason: FreezeReason::Pumping, since: second };
        let came_through = frozen == Ok(Stopped::Now);
        assert_eq!(gate(world, account).await.frozen, came_through.then_some(new), "{frozen:?}");
        if !came_through {
            // It came before the lift: what it saw was frozen already. It comes again.
            assert_eq!(world.stop_sending(account, pumping, 0, second).await, Ok(Stopped::Now));
        }
        assert_eq!(world.lift_freeze(account, first, one, second + secs(1)).await, Ok(Lift::Other(new)));
        assert_eq!(gate(world, account).await.frozen, Some(new));
    }
}
