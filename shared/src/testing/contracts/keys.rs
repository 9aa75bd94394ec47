//! Data keys: making, wrapping, opening.

use super::at_once;
use crate::account::CreateAccount;
use crate::credential::{LoadKeys, MintKey, OpenKey, data_key};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::seal::{DataKey, MOST_SEALS, Purpose, SPARE_SEALS, WrappedKeys};
use crate::testing::fresh::{self, minted};

fn someone<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

/// Whether two keys are the same: what one seals the other opens.
fn same(one: &DataKey, two: &DataKey) -> bool {
    let sealed = one.seal("field", b"clear", [3; 12]).unwrap();
    two.open("field", &sealed).is_ok_and(|clear| clear.as_slice() == b"clear")
}

/// Whether it is refused for good.
fn refused(opened: &Result<DataKey, Fault>) -> bool {
    matches!(opened, Err(Fault::Permanent(_)))
}

pub async fn a_minted_key_opens_again<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let account = someone(world);
    for purpose in Purpose::ALL {
        let (key, wrapped) = minted(world, account, purpose, 1).await;
        let opened = world.open_key(&wrapped, Some(1)).await.unwrap();
        assert!(same(&key, &opened), "{purpose:?}");
        let other = minted(world, account, purpose, 1).await.0;
        assert!(!same(&key, &other), "each key is new: {purpose:?}");
    }
}

pub async fn another_accounts_wrapped_key_does_not_open<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let (ours, theirs) = (someone(world), someone(world));
    let (_, wrapped) = minted(world, theirs, Purpose::Payload, 1).await;
    let stolen = WrappedKeys { account: ours, ..wrapped.clone() };
    assert!(refused(&world.open_key(&stolen, None).await), "another account's key opened");
    assert!(world.remembered_key(ours, Purpose::Payload, None).is_none());
    assert!(world.open_key(&wrapped, None).await.is_ok(), "its owner's still opens");
}

pub async fn another_purposes_wrapped_key_does_not_open<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let account = someone(world);
    let (_, wrapped) = minted(world, account, Purpose::Send, 1).await;
    let bent = WrappedKeys { purpose: Purpose::Hook, ..wrapped };
    assert!(refused(&world.open_key(&bent, None).await), "a key opened for another purpose");
}

pub async fn a_changed_wrapped_key_does_not_open<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let account = someone(world);
    let (_, mut wrapped) = minted(world, account, Purpose::Send, 1).await;
    if let Some(last) = wrapped.versions[0].blob.last_mut() {
        *last ^= 1;
    }
    assert!(refused(&world.open_key(&wrapped, None).await), "a changed key opened");
}

pub async fn an_opened_key_is_remembered_and_no_other<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let account = someone(world);
    let remembered = |purpose, version| world.remembered_key(account, purpose, version);
    let (key, first) = minted(world, account, Purpose::Hook, 1).await;
    assert!(remembered(Purpose::Hook, None).is_none());
    assert!(remembered(Purpose::Hook, Some(1)).is_none());
    world.open_key(&first, None).await.unwrap();
    assert!(same(&key, &remembered(Purpose::Hook, None).unwrap()));
    assert!(same(&key, &remembered(Purpose::Hook, Some(1)).unwrap()));
    assert!(remembered(Purpose::Hook, Some(2)).is_none());
    assert!(remembered(Purpose::Send, None).is_none());
    assert!(world.remembered_key(someone(world), Purpose::Hook, None).is_none());
    let (newer, second) = minted(world, account, Purpose::Hook, 2).await;
    let both = WrappedKeys { versions: [first.versions, second.versions].concat(), ..second };
    assert!(same(&newer, &world.open_key(&both, None).await.unwrap()), "the newest seals");
    assert!(same(&newer, &remembered(Purpose::Hook, None).unwrap()));
    assert!(same(&key, &world.open_key(&both, Some(1)).await.unwrap()), "the older one still opens");
}

pub async fn a_key_that_is_nearly_used_up_is_opened_again<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let account = someone(world);
    let (_, wrapped) = minted(world, account, Purpose::Payload, 1).await;
    let first = world.open_key(&wrapped, None).await.unwrap();
    for _ in 0..MOST_SEALS - SPARE_SEALS - 1 {
        first.seal("field", b"", [0; 12]).unwrap();
    }
    assert!(world.remembered_key(account, Purpose::Payload, None).is_some());
    first.seal("field", b"", [0; 12]).unwrap();
    assert!(world.remembered_key(account, Purpose::Payload, None).is_none());
    assert!(world.remembered_key(account, Purpose::Payload, Some(1)).is_none());
    first.seal("field", b"", [0; 12]).unwrap();
    let again = world.open_key(&wrapped, None).await.unwrap();
    assert!(same(&first, &again) && again.uses().count() == 1, "the same key, counted from nought");
    assert!(!again.nearly_used_up());
}

pub async fn keys_opened_at_once_are_the_same<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let (key, wrapped) = minted(world, someone(world), Purpose::Payload, 1).await;
    let opened = at_once(10, |_| world.open_key(&wrapped, None)).await;
    assert!(opened.iter().all(|opened| opened.as_ref().is_ok_and(|opened| same(&key, opened))));
}

/// Single flight: one KMS call and one entry in the access log. `openings` counts an account's entries; it is no port,
/// so that this fact is not in the list.
pub async fn ten_openings_at_once_are_noted_as_one<W, F>(world: &W, openings: F)
where
    W: MintKey + OpenKey + Clock + Chance,
    F: AsyncFn(AccountId) -> usize,
{
    let account = someone(world);
    let (_, wrapped) = minted(world, account, Purpose::Payload, 1).await;
    assert_eq!(openings(account).await, 0);
    let opened = at_once(10, |_| world.open_key(&wrapped, None)).await;
    assert!(opened.iter().all(Result::is_ok));
    assert_eq!(openings(account).await, 1);
    world.open_key(&wrapped, Some(1)).await.unwrap();
    assert_eq!(openings(account).await, 1, "a remembered key is not opened again");
}

pub async fn a_version_that_is_not_there_does_not_open<W: MintKey + OpenKey + Clock + Chance>(world: &W) {
    let (_, wrapped) = minted(world, someone(world), Purpose::Payload, 1).await;
    assert!(world.open_key(&wrapped, Some(2)).await.is_err());
    let none = WrappedKeys { versions: Vec::new(), ..wrapped };
    assert!(world.open_key(&none, None).await.is_err());
}

pub async fn keys_load_by_account_and_purpose<W>(world: &W)
where
    W: CreateAccount + MintKey + OpenKey + LoadKeys + Clock + Chance,
{
    let account = fresh::account_with_keys(world, 1).await;
    let keys = world.load_keys(account, Purpose::Payload).await.unwrap().unwrap();
    assert_eq!((keys.account, keys.purpose, keys.versions.len()), (account, Purpose::Payload, 1));
    let key = world.open_key(&keys, None).await.unwrap();
    assert!(same(&key, &data_key(world, account, Purpose::Payload, None).await.unwrap()));
    assert_eq!(world.load_keys(account, Purpose::Send).await, Ok(None), "nothing is connected");
    assert_eq!(world.load_keys(someone(world), Purpose::Payload).await, Ok(None));
}
