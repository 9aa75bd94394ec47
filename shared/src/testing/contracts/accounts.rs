//! Sign-up, users, mailed tokens, tries.

use super::{at_once, count};
use crate::account::{CreateAccount, EmailIndex, FindUser, KeepMailTokens, MailToken, NewAccount, SignedUp, User};
use crate::ids::UserId;
use crate::platform::{Chance, Clock, CountTries};
use crate::secret::Token;
use crate::testing::fresh::{self, new_account, secs};

pub async fn of_many_confirmations_of_one_address_one_counts<W>(world: &W)
where
    W: CreateAccount + FindUser + KeepMailTokens + Clock + Chance,
{
    let first = new_account(world, 1);
    let email = &first.owner.email;
    let mut tokens = Vec::new();
    for _ in 0..32 {
        let mut new = new_account(world, 1);
        new.owner.email = email.clone();
        assert_eq!(world.create_account(new.clone()).await, Ok(SignedUp::Created), "not confirmed, so nobody's yet");
        tokens.push(mailed(world, &new).await);
    }
    assert_eq!(world.find_user(email).await, Ok(None));
    let now = world.now();
    let answers = at_once(32, |n| world.confirm_email(tokens[n].account, &tokens[n].hash, now)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 31), "{answers:?}");
    let winner = &tokens[answers.iter().position(|answer| *answer == Ok(true)).unwrap()];
    let found = world.find_user(email).await.unwrap().unwrap();
    assert_eq!((found.account, found.id, found.verified), (winner.account, winner.user, true));
    // From now on the address is known, and signing up with it writes nothing.
    let mut late = new_account(world, 1);
    late.owner.email = email.clone();
    assert_eq!(world.create_account(late.clone()).await, Ok(SignedUp::Known(winner.account, winner.user)));
    assert_eq!(world.load_user(late.account, late.owner.id).await, Ok(None));
    assert_eq!(world.load_profile(late.account).await, Ok(None));
}

pub async fn a_confirmed_account_is_found_by_address_and_by_id<W>(world: &W)
where
    W: CreateAccount + FindUser + KeepMailTokens + Clock + Chance,
{
    let (new, token) = token(world).await;
    let (account, owner) = (new.account, new.owner.clone());
    let owner_id = owner.id;
    assert_eq!(world.find_user(&owner.email).await, Ok(None));
    assert_eq!(world.load_user(account, owner.id).await, Ok(Some(owner.clone())));
    assert_eq!(world.confirm_email(account, &token.hash, new.now).await, Ok(true));
    let confirmed = User { verified: true, ..owner };
    assert_eq!(world.find_user(&confirmed.email).await, Ok(Some(confirmed)));
    assert_eq!(world.load_profile(account).await, Ok(Some(new.profile)));
    assert_eq!(world.load_owner(account).await, Ok(world.load_user(account, owner_id).await.unwrap()));
    let nobody = crate::ids::AccountId::from_bits(fresh::dice(world));
    assert_eq!(world.load_owner(nobody).await, Ok(None));
    assert_eq!(world.find_user(&EmailIndex(fresh::word(world))).await, Ok(None));
    assert_eq!(world.load_user(account, UserId::from_bits(fresh::dice(world))).await, Ok(None));
}

/// A token for a new account's owner that lives for a minute.
async fn mailed<W: KeepMailTokens + Chance>(world: &W, new: &NewAccount) -> MailToken {
    let token = MailToken {
        account: new.account,
        user: new.owner.id,
        hash: Token::new(new.account, world.random().unwrap()).hash(),
        expires: new.now + secs(60),
    };
    assert_eq!(world.keep_mail_token(token.clone()).await, Ok(()));
    token
}

/// A new account and a token for its owner that lives for a minute.
async fn token<W: CreateAccount + KeepMailTokens + Clock + Chance>(world: &W) -> (NewAccount, MailToken) {
    let new = new_account(world, 1);
    assert_eq!(world.create_account(new.clone()).await, Ok(SignedUp::Created));
    let token = mailed(world, &new).await;
    (new, token)
}

pub async fn a_mailed_token_confirms_once<W>(world: &W)
where
    W: CreateAccount + FindUser + KeepMailTokens + Clock + Chance,
{
    let (new, token) = token(world).await;
    let verified = async || world.load_user(new.account, new.owner.id).await.unwrap().unwrap().verified;
    assert!(!verified().await);
    assert_eq!(world.confirm_email(new.account, &token.hash, new.now).await, Ok(true));
    assert!(verified().await);
    assert_eq!(world.confirm_email(new.account, &token.hash, new.now).await, Ok(false));
    assert!(verified().await);
}

pub async fn of_many_uses_of_a_mailed_token_one_counts<W>(world: &W)
where
    W: CreateAccount + KeepMailTokens + Clock + Chance,
{
    let (new, token) = token(world).await;
    let answers = at_once(16, |_| world.confirm_email(new.account, &token.hash, new.now)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 15), "{answers:?}");
}

pub async fn an_expired_token_confirms_nothing<W>(world: &W)
where
    W: CreateAccount + FindUser + KeepMailTokens + Clock + Chance,
{
    let (new, token) = token(world).await;
    assert_eq!(world.confirm_email(new.account, &token.hash, token.expires).await, Ok(false));
    assert_eq!(world.confirm_email(new.account, &token.hash, token.expires + secs(1)).await, Ok(false));
    assert!(!world.load_user(new.account, new.owner.id).await.unwrap().unwrap().verified);
    assert_eq!(world.confirm_email(new.account, &token.hash, token.expires - secs(1)).await, Ok(true));
}

pub async fn a_token_confirms_nothing_in_another_account<W>(world: &W)
where
    W: CreateAccount + FindUser + KeepMailTokens + Clock + Chance,
{
    let (new, token) = token(world).await;
    let other = new_account(world, 1);
    assert_eq!(world.create_account(other.clone()).await, Ok(SignedUp::Created));
    assert_eq!(world.confirm_email(other.account, &token.hash, new.now).await, Ok(false));
    assert!(!world.load_user(other.account, other.owner.id).await.unwrap().unwrap().verified);
    assert!(!world.load_user(new.account, new.owner.id).await.unwrap().unwrap().verified);
}

pub async fn tries_stop_exactly_at_the_limit<W: CountTries + Clock + Chance>(world: &W) {
    let (what, now) = (fresh::word(world), world.now());
    let answers = at_once(25, |_| world.count_try(&what, 10, 900, now)).await;
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (10, 15), "{answers:?}");
    assert_eq!(world.count_try(&fresh::word(world), 10, 900, now).await, Ok(true), "another name counts by itself");
}

pub async fn a_new_window_counts_anew<W: CountTries + Clock + Chance>(world: &W) {
    let (what, now) = (fresh::word(world), world.now());
    assert_eq!(world.count_try(&what, 1, 60, now).await, Ok(true));
    assert_eq!(world.count_try(&what, 1, 60, now).await, Ok(false));
    assert_eq!(world.count_try(&what, 1, 60, now + secs(60)).await, Ok(true));
    assert_eq!(world.count_try(&what, 1, 60, now + secs(60)).await, Ok(false));
}
