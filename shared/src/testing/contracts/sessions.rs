//! Sessions on the server's side.

use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::session::{ABSOLUTE_LIFE, IDLE_LIFE, KeepSessions, Session};
use crate::testing::fresh::{self, secs};

fn someone<W: Clock + Chance>(world: &W) -> AccountId {
    AccountId::new(world.now(), fresh::dice(world))
}

async fn started<W: KeepSessions + Clock + Chance>(world: &W, account: AccountId) -> Session {
    let session = fresh::session(world, account);
    assert_eq!(world.start_session(session.clone()).await, Ok(()));
    session
}

pub async fn a_session_loads_as_it_was_started<W: KeepSessions + Clock + Chance>(world: &W) {
    let session = started(world, someone(world)).await;
    assert_eq!(world.load_session(session.account, &session.hash).await, Ok(Some(session.clone())));
    assert_eq!(
        world.load_session(someone(world), &session.hash).await,
        Ok(None),
        "another account has no such session"
    );
    let other = fresh::session(world, session.account);
    assert_eq!(world.load_session(session.account, &other.hash).await, Ok(None));
    let again = world.start_session(session.clone()).await;
    assert!(again.is_err(), "a token is new: {again:?}");
}

pub async fn a_touch_moves_the_last_call_and_never_back<W: KeepSessions + Clock + Chance>(world: &W) {
    let session = started(world, someone(world)).await;
    let seen = async || world.load_session(session.account, &session.hash).await.unwrap().unwrap().seen;
    let later = session.seen + secs(120);
    assert_eq!(world.touch_session(session.account, &session.hash, later).await, Ok(true));
    assert_eq!(seen().await, later);
    assert_eq!(world.touch_session(session.account, &session.hash, session.seen + secs(60)).await, Ok(true));
    assert_eq!(seen().await, later, "a slower call does not move it back");
}

pub async fn a_revoked_session_is_gone_and_no_touch_brings_it_back<W: KeepSessions + Clock + Chance>(world: &W) {
    let session = started(world, someone(world)).await;
    assert_eq!(world.end_session(session.account, session.id).await, Ok(true));
    assert_eq!(world.load_session(session.account, &session.hash).await, Ok(None));
    assert_eq!(world.touch_session(session.account, &session.hash, session.seen + secs(60)).await, Ok(false));
    assert_eq!(world.load_session(session.account, &session.hash).await, Ok(None));
    assert_eq!(world.end_session(session.account, session.id).await, Ok(false));
}

pub async fn a_session_is_revoked_in_its_own_account_only<W: KeepSessions + Clock + Chance>(world: &W) {
    let account = someone(world);
    let (session, other) = (started(world, account).await, started(world, account).await);
    assert_eq!(world.end_session(someone(world), session.id).await, Ok(false));
    assert_eq!(world.load_session(account, &session.hash).await, Ok(Some(session.clone())));
    assert_eq!(world.end_session(account, session.id).await, Ok(true));
    assert_eq!(world.load_session(account, &other.hash).await, Ok(Some(other)), "others of the account stay");
}

pub async fn the_list_shows_live_sessions_newest_first<W: KeepSessions + Clock + Chance>(world: &W) {
    let (account, now) = (someone(world), world.now());
    let start = async |started, seen| {
        let session = Session { started, seen, ..fresh::session(world, account) };
        assert_eq!(world.start_session(session.clone()).await, Ok(()));
        session
    };
    let older = start(now - secs(300), now).await;
    let newer = start(now - secs(100), now).await;
    start(now - IDLE_LIFE, now - IDLE_LIFE).await;
    start(now - ABSOLUTE_LIFE, now).await;
    started(world, someone(world)).await;
    assert_eq!(world.list_sessions(account, now).await, Ok(vec![newer, older.clone()]));
    assert_eq!(world.list_sessions(account, now + IDLE_LIFE).await, Ok(Vec::new()));
}
