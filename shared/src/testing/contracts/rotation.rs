//! Replacing wrapped keys and what they sealed: only what still is as it was read.

use futures::future::join;

use super::{at_once, count};
use crate::account::{CreateAccount, FindUser, Stop, StopSending};
use crate::credential::{Carrier, KeepCredential, LoadKeys, MintKey, OpenKey, SaveCredential, Saved, StoredCredential};
use crate::ids::AccountId;
use crate::message::LoadSender;
use crate::platform::{Chance, Clock};
use crate::rotation::{KeysChange, ReplaceKeys, WalkKeys};
use crate::seal::{Purpose, Sealed, WrappedKeys};
use crate::testing::fresh::{self, account_with_keys, connect, credential, minted, sid_hash};

async fn row<W: LoadKeys>(world: &W, account: AccountId, purpose: Purpose) -> WrappedKeys {
    world.load_keys(account, purpose).await.unwrap().unwrap()
}

/// A change to a new version of a key.
async fn change<W: MintKey + LoadKeys>(world: &W, account: AccountId, purpose: Purpose, version: u32) -> KeysChange {
    let read = row(world, account, purpose).await;
    let (_, new) = world.mint_key(account, purpose, version).await.unwrap();
    KeysChange { new: read.with_new(new, None), read }
}

pub async fn a_walk_in_pages_finds_every_row_once<W>(world: &W)
where
    W: CreateAccount + MintKey + WalkKeys + Clock + Chance,
{
    let mut ours = Vec::new();
    for _ in 0..3 {
        let account = account_with_keys(world, 1).await;
        ours.extend([Purpose::Payload, Purpose::Profile, Purpose::Match].map(|purpose| (account, purpose)));
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = world.walk_keys(after, 4).await.unwrap();
        assert!(page.keys.len() <= 4);
        found.extend(page.keys.iter().map(|keys| (keys.account, keys.purpose)));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    for row in ours {
        assert_eq!(count(&found, &row), 1, "{row:?}");
    }
}

pub async fn of_keys_replaced_at_once_one_is_written<W>(world: &W)
where
    W: CreateAccount + MintKey + LoadKeys + ReplaceKeys + Clock + Chance,
{
    let account = account_with_keys(world, 1).await;
    let mut changes = Vec::new();
    for _ in 0..4 {
        changes.push(change(world, account, Purpose::Payload, 2).await);
    }
    let replaced = at_once(4, |n| world.replace_keys(&changes[n])).await;
    assert_eq!((count(&replaced, &Ok(true)), count(&replaced, &Ok(false))), (1, 3), "{replaced:?}");
    let winner = replaced.iter().position(|replaced| *replaced == Ok(true)).unwrap();
    assert_eq!(row(world, account, Purpose::Payload).await, changes[winner].new);
    let gone = KeysChange {
        read: WrappedKeys { account: AccountId::from_bits(0), ..changes[0].read.clone() },
        ..changes[0].clone()
    };
    let elsewhere = KeysChange { new: WrappedKeys { account: AccountId::from_bits(0), ..gone.new.clone() }, ..gone };
    assert_eq!(world.replace_keys(&elsewhere).await, Ok(false), "a row that is gone does not come back");
}

pub async fn a_profile_is_replaced_as_it_was_read_only<W>(world: &W)
where
    W: CreateAccount + FindUser + MintKey + ReplaceKeys + Clock + Chance,
{
    let account = account_with_keys(world, 1).await;
    let read = world.load_profile(account).await.unwrap().unwrap();
    let news = [Sealed(vec![4]), Sealed(vec![5])];
    let (one, two) =
        join(world.replace_profile(account, &read, &news[0]), world.replace_profile(account, &read, &news[1])).await;
    let replaced = [one, two];
    assert_eq!((count(&replaced, &Ok(true)), count(&replaced, &Ok(false))), (1, 1), "{replaced:?}");
    let winner = replaced.iter().position(|replaced| *replaced == Ok(true)).unwrap();
    assert_eq!(world.load_profile(account).await.unwrap().unwrap(), news[winner]);
    let nobody = AccountId::from_bits(0);
    assert_eq!(world.replace_profile(nobody, &read, &read).await, Ok(false));
    assert_eq!(world.load_profile(nobody).await, Ok(None));
}

/// The same secrets under the next version, sealed with new keys.
async fn resealed<W>(world: &W, stored: &StoredCredential) -> (StoredCredential, Vec<KeysChange>)
where
    W: MintKey + OpenKey + LoadKeys + Chance,
{
    let (account, version) = (stored.account, stored.version + 1);
    let send = row(world, account, Purpose::Send).await;
    let carrier = Carrier::open(stored, &world.open_key(&send, None).await.unwrap()).unwrap();
    let (key, new) = minted(world, account, Purpose::Send, version).await;
    let sealed = carrier.seal(&key, world.random().unwrap()).unwrap();
    let changes = vec![
        KeysChange { new: send.with_new(new.versions[0].clone(), None), read: send },
        change(world, account, Purpose::Hook, version).await,
    ];
    (StoredCredential { version, send: sealed, ..stored.clone() }, changes)
}

pub async fn a_resealed_credential_has_the_next_version_and_lifts_no_stop<W>(world: &W)
where
    W: CreateAccount
        + MintKey
        + OpenKey
        + KeepCredential
        + LoadKeys
        + ReplaceKeys
        + StopSending
        + LoadSender
        + Clock
        + Chance,
{
    let account = account_with_keys(world, 1).await;
    let old = connect(world, account).await;
    world.stop_sending(account, Stop::CredentialRefused, 1, world.now()).await.unwrap();
    let (new, changes) = resealed(world, &old).await;
    assert_eq!(world.replace_credential(&old, &new, &changes).await, Ok(true));
    assert_eq!(world.load_credential(account).await, Ok(Some(new.clone())));
    let history = world.credential_history(account).await.unwrap();
    assert_eq!((history.version, history.hook, history.refused), (2, Some(old.hook), true));
    assert_eq!(row(world, account, Purpose::Send).await, changes[0].new);
    assert_eq!(row(world, account, Purpose::Hook).await, changes[1].new);
    let key = world.open_key(&changes[0].new, Some(2)).await.unwrap();
    assert!(Carrier::open(&new, &key).is_ok());
    let (session, key) =
        (fresh::session(world, account), fresh::outgoing(world, account, 1, world.now()).idempotency.key);
    let gate = world.load_sender(&session.proof(), &key, &[], None).await.unwrap().facts.unwrap().gate;
    assert_eq!((gate.connected, gate.stopped()), (true, Some(Stop::CredentialRefused)));
    assert_eq!(world.replace_credential(&old, &new, &changes).await, Ok(false), "it is not as it was read any more");
}

pub async fn of_a_customers_change_and_a_reseal_at_once_one_takes_place<W>(world: &W)
where
    W: CreateAccount + MintKey + OpenKey + KeepCredential + LoadKeys + ReplaceKeys + Clock + Chance,
{
    let account = account_with_keys(world, 1).await;
    let old = connect(world, account).await;
    let (new, changes) = resealed(world, &old).await;
    let save = credential(world, account, 2, &old.account_sid).await;
    let (saved, replaced) =
        join(world.save_credential(save.clone()), world.replace_credential(&old, &new, &changes)).await;
    let stored = world.load_credential(account).await.unwrap().unwrap();
    match (saved, replaced) {
        (Ok(Saved::Stored), Ok(false)) => assert_eq!(stored, save.credential),
        (Ok(Saved::Raced), Ok(true)) => assert_eq!(stored, new),
        both => panic!("{both:?}"),
    }
}

pub async fn what_was_disconnected_is_not_resealed<W>(world: &W)
where
    W: CreateAccount + MintKey + OpenKey + KeepCredential + LoadKeys + ReplaceKeys + Clock + Chance,
{
    let account = account_with_keys(world, 1).await;
    let old = connect(world, account).await;
    let (new, changes) = resealed(world, &old).await;
    assert_eq!(world.remove_credential(&old, &sid_hash(&old.account_sid), 0).await, Ok(true));
    assert_eq!(world.replace_credential(&old, &new, &changes).await, Ok(false));
    assert_eq!(world.load_credential(account).await, Ok(None));
    assert_eq!(world.load_keys(account, Purpose::Send).await, Ok(None));
}

/// Otherwise a rotation would put back keys that a re-wrap has moved.
pub async fn a_credential_is_not_saved_over_keys_that_changed_since_they_were_read<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + LoadKeys + ReplaceKeys + Clock + Chance,
{
    let account = account_with_keys(world, 1).await;
    let old = connect(world, account).await;
    let save = credential(world, account, 2, &old.account_sid).await;
    let save = SaveCredential { keys_read: vec![row(world, account, Purpose::Send).await], ..save };
    let moved = change(world, account, Purpose::Send, 2).await;
    assert_eq!(world.replace_keys(&moved).await, Ok(true));
    assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::Raced));
    assert_eq!(world.load_credential(account).await, Ok(Some(old)));
    assert_eq!(row(world, account, Purpose::Send).await, moved.new);
    let save = SaveCredential { keys_read: vec![moved.new], ..save };
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
}
