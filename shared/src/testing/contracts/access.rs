//! The access log: openings, and the chains they end up in.

use super::at_once;
use crate::access_log::{Export, Head, LinkAccess, Opening, PENDING_SHARDS, ReadAccess, link, verify};
use crate::credential::{MintKey, OpenKey};
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::seal::Purpose;
use crate::testing::fresh::{self, minted};

/// An account that opened one key of each purpose.
async fn opened<W: MintKey + OpenKey + Clock + Chance>(world: &W) -> AccountId {
    let account = AccountId::new(world.now(), fresh::dice(world));
    for purpose in Purpose::ALL {
        let (_, wrapped) = minted(world, account, purpose, 1).await;
        world.open_key(&wrapped, None).await.unwrap();
    }
    account
}

async fn pending<W: LinkAccess>(world: &W, account: AccountId) -> Vec<Opening> {
    let mut openings = Vec::new();
    for shard in 0..PENDING_SHARDS {
        openings.extend(world.load_pending(shard, u8::MAX).await.unwrap());
    }
    openings.retain(|opening| opening.account == account);
    openings
}

pub async fn every_opening_is_pending_until_it_is_linked<W>(world: &W)
where
    W: MintKey + OpenKey + LinkAccess + ReadAccess + Clock + Chance,
{
    let account = opened(world).await;
    let openings = pending(world, account).await;
    let mut purposes: Vec<_> = openings.iter().map(|opening| opening.purpose).collect();
    purposes.sort_unstable();
    let mut all = Purpose::ALL.to_vec();
    all.sort_unstable();
    assert_eq!(purposes, all, "one for each opening");

    let (first, rest) = openings.split_at(2);
    let head = world.load_head(account).await.unwrap();
    assert_eq!(head, Head::default());
    assert!(world.append_entries(account, &head, &link(&head, first.to_vec())).await.unwrap());
    let head = world.load_head(account).await.unwrap();
    assert_eq!(head.sequence, 2);
    assert!(world.append_entries(account, &head, &link(&head, rest.to_vec())).await.unwrap());
    assert_eq!(pending(world, account).await, []);

    let mut entries = world.read_access(account, 0, 3).await.unwrap();
    assert_eq!(entries.len(), 3);
    entries.extend(world.read_access(account, 3, 10).await.unwrap());
    let head = world.load_head(account).await.unwrap();
    assert_eq!(verify(&Export { account_id: account, entries }), Ok(head));
}

pub async fn of_two_writers_of_a_chain_one_appends<W>(world: &W)
where
    W: MintKey + OpenKey + LinkAccess + ReadAccess + Clock + Chance,
{
    let account = opened(world).await;
    let openings = pending(world, account).await;
    let head = Head::default();
    let entries = link(&head, openings);
    let appended = at_once(8, |_| world.append_entries(account, &head, &entries)).await;
    assert_eq!(appended.into_iter().filter(|appended| matches!(appended, Ok(true))).count(), 1);
    assert_eq!(world.read_access(account, 0, 100).await.unwrap(), entries);
}

/// The count of uses reaches the chain with the next opening. `until_it_is_over` waits until an opened key is
/// forgotten; it is no port, so that this fact is not in the list.
pub async fn an_opening_tells_how_often_the_one_before_was_used<W, F>(world: &W, until_it_is_over: F)
where
    W: MintKey + OpenKey + LinkAccess + ReadAccess + Clock + Chance,
    F: AsyncFn(),
{
    let account = AccountId::new(world.now(), fresh::dice(world));
    let (_, wrapped) = minted(world, account, Purpose::Payload, 1).await;
    for uses in [3, 0, 1] {
        let key = world.open_key(&wrapped, None).await.unwrap();
        for n in 0..uses {
            // A copy of the key counts too.
            let copy = world.open_key(&wrapped, Some(1)).await.unwrap();
            if n == 0 {
                copy.seal("field", b"clear", [n; 12]).unwrap().0
            } else {
                key.keyed_hash("a", "b").into()
            };
        }
        until_it_is_over().await;
    }
    world.open_key(&wrapped, None).await.unwrap();
    let head = Head::default();
    let entries = link(&head, pending(world, account).await);
    assert!(world.append_entries(account, &head, &entries).await.unwrap());
    let read = world.read_access(account, 0, 10).await.unwrap();
    assert_eq!(read, entries);
    let uses: Vec<_> = read.iter().map(|entry| entry.uses_before).collect();
    assert_eq!(uses, [None, Some(3), Some(0), Some(1)]);
}
