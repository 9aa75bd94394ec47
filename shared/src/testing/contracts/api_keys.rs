//! API keys: counted exactly, and gone at once when they are revoked.

use futures::future::join;

use super::{at_once, count};
use crate::api_key::{ApiKey, CheckApiKey, KeepApiKeys, MOST_KEYS, Scope};
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::testing::fresh::{self, secs};

fn someone<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

async fn made<W: KeepApiKeys + Clock + Chance>(world: &W, account: AccountId) -> ApiKey {
    let key = fresh::api_key(world, account);
    assert_eq!(world.create_api_key(key.clone()).await, Ok(true));
    key
}

pub async fn an_api_key_loads_as_it_was_made<W: CheckApiKey + KeepApiKeys + Clock + Chance>(world: &W) {
    let account = someone(world);
    let plain = made(world, account).await;
    let scopes = vec![Scope::MessagesSend, Scope::UsageRead];
    let expires = Some(world.now() + secs(3_600));
    let narrow = ApiKey { scopes, expires, ..fresh::api_key(world, account) };
    assert_eq!(world.create_api_key(narrow.clone()).await, Ok(true));
    for key in [&plain, &narrow] {
        assert_eq!(world.load_api_key(account, &key.hash).await, Ok(Some(key.clone())));
    }
    assert_eq!(world.load_api_key(someone(world), &plain.hash).await, Ok(None), "another account has no such key");
    assert_eq!(world.load_api_key(account, &fresh::api_key(world, account).hash).await, Ok(None));
    let again = world.create_api_key(plain).await;
    assert!(again.is_err(), "a token is new: {again:?}");
}

pub async fn a_touch_moves_the_last_use_and_never_back<W>(world: &W)
where
    W: CheckApiKey + KeepApiKeys + Clock + Chance,
{
    let key = made(world, someone(world)).await;
    let used = async || world.load_api_key(key.account, &key.hash).await.unwrap().unwrap().used;
    let later = key.created + secs(120);
    assert_eq!(world.touch_api_key(key.account, &key.hash, later).await, Ok(true));
    assert_eq!(used().await, Some(later));
    assert_eq!(world.touch_api_key(key.account, &key.hash, key.created + secs(60)).await, Ok(true));
    assert_eq!(used().await, Some(later), "a slower call does not move it back");
}

pub async fn a_revoked_key_is_gone_and_no_touch_brings_it_back<W>(world: &W)
where
    W: CheckApiKey + KeepApiKeys + Clock + Chance,
{
    let key = made(world, someone(world)).await;
    assert_eq!(world.revoke_api_key(key.account, key.id).await, Ok(true));
    assert_eq!(world.load_api_key(key.account, &key.hash).await, Ok(None));
    assert_eq!(world.touch_api_key(key.account, &key.hash, key.created + secs(60)).await, Ok(false));
    assert_eq!(world.load_api_key(key.account, &key.hash).await, Ok(None));
    assert_eq!(world.revoke_api_key(key.account, key.id).await, Ok(false));
    assert_eq!(world.list_api_keys(key.account).await, Ok(Vec::new()));
}

pub async fn of_a_touch_and_a_revocation_at_once_no_key_is_left<W>(world: &W)
where
    W: CheckApiKey + KeepApiKeys + Clock + Chance,
{
    let account = someone(world);
    for _ in 0..8 {
        let key = made(world, account).await;
        let touches = at_once(8, |_| world.touch_api_key(account, &key.hash, key.created + secs(60)));
        let (touches, revoked) = join(touches, world.revoke_api_key(account, key.id)).await;
        assert_eq!(revoked, Ok(true));
        assert!(touches.iter().all(Result::is_ok), "{touches:?}");
        assert_eq!(world.load_api_key(account, &key.hash).await, Ok(None));
    }
}

pub async fn a_key_is_revoked_in_its_own_account_only<W>(world: &W)
where
    W: CheckApiKey + KeepApiKeys + Clock + Chance,
{
    let account = someone(world);
    let (key, other) = (made(world, account).await, made(world, account).await);
    assert_eq!(world.revoke_api_key(someone(world), key.id).await, Ok(false));
    assert_eq!(world.load_api_key(account, &key.hash).await, Ok(Some(key.clone())));
    assert_eq!(world.revoke_api_key(account, key.id).await, Ok(true));
    assert_eq!(world.load_api_key(account, &other.hash).await, Ok(Some(other)), "others of the account stay");
}

pub async fn of_thirty_keys_made_at_once_twenty_are_kept<W: KeepApiKeys + Clock + Chance>(world: &W) {
    let account = someone(world);
    let made = at_once(30, |_| world.create_api_key(fresh::api_key(world, account))).await;
    assert_eq!((count(&made, &Ok(true)), count(&made, &Ok(false))), (20, 10), "{made:?}");
    assert_eq!(world.list_api_keys(account).await.unwrap().len(), 20);
    self::made(world, someone(world)).await;
}

pub async fn of_many_revocations_at_once_one_counts<W: KeepApiKeys + Clock + Chance>(world: &W) {
    let account = someone(world);
    for _ in 0..MOST_KEYS {
        made(world, account).await;
    }
    let one = world.list_api_keys(account).await.unwrap().remove(0);
    let revoked = at_once(8, |_| world.revoke_api_key(account, one.id)).await;
    assert_eq!((count(&revoked, &Ok(true)), count(&revoked, &Ok(false))), (1, 7), "{revoked:?}");
    // It made room for one key and no more.
    let made = at_once(3, |_| world.create_api_key(fresh::api_key(world, account))).await;
    assert_eq!((count(&made, &Ok(true)), count(&made, &Ok(false))), (1, 2), "{made:?}");
    for key in world.list_api_keys(account).await.unwrap() {
        assert_eq!(world.revoke_api_key(account, key.id).await, Ok(true), "all of them are counted");
    }
}

pub async fn the_list_shows_every_key_newest_first<W: KeepApiKeys + Clock + Chance>(world: &W) {
    let (account, now) = (someone(world), world.now());
    let mut wanted = Vec::new();
    for ago in [10, 300, 100] {
        let created = now - secs(ago);
        // Expired ones are there too, until they are deleted.
        let expires = (ago == 300).then(|| now - secs(1));
        let key = ApiKey { created, expires, ..fresh::api_key(world, account) };
        assert_eq!(world.create_api_key(key.clone()).await, Ok(true));
        wanted.push(key);
    }
    made(world, someone(world)).await;
    wanted.sort_by_key(|key| std::cmp::Reverse(key.created));
    assert_eq!(world.list_api_keys(account).await, Ok(wanted));
}
