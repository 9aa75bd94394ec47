//! Routines: there as long as something is connected, found when they are due, moved by one writer at a time.

use super::{at_once, count};
use crate::account::CreateAccount;
use crate::connection::PageMark;
use crate::credential::{KeepCredential, MintKey, SaveCredential, Saved};
use crate::message::{FindUnseen, RecordInbound};
use crate::platform::{Chance, Clock};
use crate::routine::{FindDueRoutines, KeepProgress, Progress, Routine};
use crate::testing::fresh::{self, account, connect, credential, secs, sid, sid_hash};

pub async fn routines_come_with_a_credential_and_go_with_it<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + FindDueRoutines + KeepProgress + Clock + Chance,
{
    let account = account(world, 1).await;
    assert_eq!(world.load_progress(account).await, Ok(None));
    let stored = connect(world, account).await;
    let since = stored.connected_at;
    assert_eq!(world.load_progress(account).await, Ok(Some(Progress::new(since))));
    let due = async |at| {
        let found = world.find_due_routines(at, 1_000).await.unwrap();
        found.contains(&(account, Routine::Arrivals))
    };
    let first = since + Routine::Arrivals.every();
    assert_eq!((due(first - secs(1)).await, due(first).await), (false, true));
    world.do_routine_at(account, Routine::Arrivals, first + secs(60)).await.unwrap();
    assert_eq!((due(first + secs(59)).await, due(first + secs(60)).await), (false, true));
    let removed = world.remove_credential(&stored, &sid_hash(&stored.account_sid), 0).await;
    assert_eq!((removed, world.load_progress(account).await), (Ok(true), Ok(None)));
    world.do_routine_at(account, Routine::Arrivals, first).await.unwrap();
    assert!(!due(first + secs(60)).await, "what is gone does not come back");
}

pub async fn a_rotation_keeps_what_was_looked_at_and_another_twilio_account_begins_anew<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepProgress + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let due = old.connected_at + secs(60);
    let looked = Progress::new(old.connected_at).after_page(PageMark::new(1, "PA1"), old.connected_at + secs(5));
    assert_eq!(world.save_progress(account, &looked, due).await, Ok(true));
    let rotation = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(rotation).await, Ok(Saved::Stored));
    assert_eq!(world.load_progress(account).await, Ok(Some(looked.clone())));
    let mut save = credential(world, account, 3, &sid(world, "AC")).await;
    save.credential.connected_at = old.connected_at + secs(30);
    let save = SaveCredential { replaced_sid_hash: Some(sid_hash(&old.account_sid)), ..save };
    let since = save.credential.connected_at;
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(world.save_progress(account, &looked.after_page(None, due), due).await, Ok(false), "of the one before");
    let anew = world.load_progress(account).await.unwrap().unwrap();
    assert_eq!((anew.connected_since, anew.looked, anew.open), (since, since, None));
}

pub async fn of_many_looks_at_once_one_moves_the_progress<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepProgress + Clock + Chance,
{
    let account = account(world, 1).await;
    let since = connect(world, account).await.connected_at;
    let first = Progress::new(since);
    let marks: Vec<_> = (1..9).map(|n| first.after_page(PageMark::new(n, "PA1"), since + secs(i64::from(n)))).collect();
    let answers = at_once(8, |n| world.save_progress(account, &marks[n], since + secs(60))).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 7), "{answers:?}");
    let winner = answers.iter().position(|answer| *answer == Ok(true)).unwrap();
    assert_eq!(world.load_progress(account).await, Ok(Some(marks[winner].clone())));
    let whole = marks[winner].after_page(None, since + secs(70));
    assert_eq!(world.save_progress(account, &whole, since + secs(80)).await, Ok(true));
    assert_eq!(world.load_progress(account).await, Ok(Some(whole)));
}

pub async fn a_recorded_sid_is_seen_in_its_own_account_only<W>(world: &W)
where
    W: RecordInbound + FindUnseen + Clock + Chance,
{
    let now = world.now();
    let [ours, theirs] = [0, 1].map(|_| crate::ids::AccountId::new(now, fresh::dice(world)));
    let text = fresh::inbound(world, ours, now);
    world.record_inbound(&text, now).await.unwrap();
    let (seen, unseen) = (text.sid.clone().unwrap(), sid(world, "SM").as_str().to_owned());
    let both = vec![seen.clone(), unseen.clone()];
    assert_eq!(world.unseen_sids(ours, both.clone()).await, Ok(vec![unseen]));
    assert_eq!(world.unseen_sids(theirs, both.clone()).await, Ok(both));
    assert_eq!(world.unseen_sids(ours, Vec::new()).await, Ok(Vec::new()));
}
