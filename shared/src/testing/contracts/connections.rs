//! Connected numbers: counted in the gate, changed by one writer at a time, found when they are due.

use futures::future::{join, join_all};
use jiff::SignedDuration;

use super::count;
use crate::account::CreateAccount;
use crate::connection::{Begun, Connection, FindDueConnections, KeepConnections, State, Target};
use crate::credential::{KeepCredential, MintKey, SaveCredential, Saved};
use crate::ids::AccountId;
use crate::platform::{Chance, Clock};
use crate::seal::Sealed;
use crate::testing::fresh::{self, account, connect, credential, secs, sid, sid_hash};

fn new<W: Clock + Chance>(world: &W, account: AccountId) -> Connection {
    let now = world.now();
    Connection {
        account,
        target: Target::parse(sid(world, "PN").as_str()).unwrap(),
        state: State::Connecting,
        snapshot: Sealed(fresh::dice(world).to_be_bytes().to_vec()),
        revision: 0,
        since: now,
        seen: now,
    }
}

async fn numbers<W: KeepCredential>(world: &W, account: AccountId) -> u32 {
    world.credential_history(account).await.unwrap().numbers
}

pub async fn a_connection_reads_back_and_is_counted<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let credential = connect(world, account).await;
    let connection = new(world, account);
    assert_eq!(world.load_connection(account, &connection.target).await, Ok(None));
    let due = world.now() + secs(60);
    assert_eq!(world.begin_connection(&connection, &credential, due).await, Ok(Begun::Stored));
    assert_eq!(world.begin_connection(&connection, &credential, due).await, Ok(Begun::Stored), "our own, repeated");
    let other = Connection { snapshot: Sealed(vec![1]), ..connection.clone() };
    assert_eq!(world.begin_connection(&other, &credential, due).await, Ok(Begun::Raced));
    assert_eq!(world.load_connection(account, &connection.target).await, Ok(Some(connection.clone())));
    let second = new(world, account);
    assert_eq!(world.begin_connection(&second, &credential, due).await, Ok(Begun::Stored));
    let mut all = vec![connection.clone(), second];
    all.sort_by(|a, b| a.target.cmp(&b.target));
    assert_eq!(world.list_connections(account).await, Ok(all));
    assert_eq!(numbers(world, account).await, 2);
    assert_eq!(world.list_connections(self::account(world, 1).await).await, Ok(Vec::new()));
    let moved = connection.moved(State::Connected, world.now());
    assert_eq!(world.end_connection(&moved).await, Ok(false), "another revision");
    assert_eq!(world.end_connection(&connection).await, Ok(true));
    assert_eq!(world.end_connection(&connection).await, Ok(false));
    assert_eq!(
        (world.load_connection(account, &connection.target).await, numbers(world, account).await),
        (Ok(None), 1)
    );
}

pub async fn of_two_updates_at_once_one_is_written<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let credential = connect(world, account).await;
    let (connection, due) = (new(world, account), world.now() + secs(60));
    world.begin_connection(&connection, &credential, due).await.unwrap();
    let moves = [State::Connected, State::Changed].map(|state| connection.moved(state, world.now()));
    let (one, two) = join(world.update_connection(&moves[0], due), world.update_connection(&moves[1], due)).await;
    let answers = [one, two];
    assert_eq!((count(&answers, &Ok(true)), count(&answers, &Ok(false))), (1, 1), "{answers:?}");
    let winner = answers.iter().position(|answer| *answer == Ok(true)).unwrap();
    assert_eq!(world.load_connection(account, &connection.target).await, Ok(Some(moves[winner].clone())));
    assert_eq!(world.update_connection(&moves[winner], due).await, Ok(true), "our own, repeated");
    let gone = new(world, account).moved(State::Connected, world.now());
    assert_eq!(world.update_connection(&gone, due).await, Ok(false), "an update makes no row");
}

pub async fn of_many_beginnings_at_once_one_is_stored_and_counted<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let credential = connect(world, account).await;
    let target = new(world, account).target;
    let all: Vec<_> = (0..8).map(|_| Connection { target: target.clone(), ..new(world, account) }).collect();
    let due = world.now() + secs(60);
    let answers = join_all(all.iter().map(|one| world.begin_connection(one, &credential, due))).await;
    assert_eq!((count(&answers, &Ok(Begun::Stored)), count(&answers, &Ok(Begun::Raced))), (1, 7), "{answers:?}");
    assert_eq!(numbers(world, account).await, 1);
}

pub async fn only_the_newest_credential_connects_numbers<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let save = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::Stored));
    let (connection, due) = (new(world, account), world.now() + secs(60));
    assert_eq!(world.begin_connection(&connection, &old, due).await, Ok(Begun::Raced));
    assert_eq!(world.remove_credential(&save.credential, &sid_hash(&old.account_sid), 0).await, Ok(true));
    assert_eq!(world.begin_connection(&connection, &save.credential, due).await, Ok(Begun::Raced), "it is removed");
    assert_eq!((world.list_connections(account).await, numbers(world, account).await), (Ok(Vec::new()), 0));
}

pub async fn a_number_connected_meanwhile_keeps_its_twilio_account<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let hash = sid_hash(&old.account_sid);
    let connection = new(world, account);
    world.begin_connection(&connection, &old, world.now() + secs(60)).await.unwrap();
    assert_eq!(world.remove_credential(&old, &hash, 0).await, Ok(false), "one was connected meanwhile");
    let another = sid(world, "AC");
    let replace =
        |save: SaveCredential, numbers| SaveCredential { replaced_sid_hash: Some(hash.clone()), numbers, ..save };
    let save = credential(world, account, 2, &another).await;
    assert_eq!(world.save_credential(replace(save.clone(), 0)).await, Ok(Saved::Raced));
    let rotation = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(replace(rotation, 0)).await, Ok(Saved::Stored), "the same Twilio account");
    let save = SaveCredential { credential: fresh::next_version(save.credential), ..save };
    assert_eq!(world.save_credential(replace(save, 1)).await, Ok(Saved::Stored), "knowingly");
    assert_eq!(world.end_connection(&connection).await, Ok(true), "the snapshot outlives the credential");
}

pub async fn due_connections_come_when_it_is_their_time<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + KeepConnections + FindDueConnections + Clock + Chance,
{
    let account = account(world, 1).await;
    let credential = connect(world, account).await;
    let (connection, now) = (new(world, account), world.now());
    let due = async |at| {
        let found = world.find_due_connections(at, 1_000).await.unwrap();
        found.contains(&(account, connection.target.clone()))
    };
    world.begin_connection(&connection, &credential, now + secs(60)).await.unwrap();
    assert_eq!((due(now + secs(59)).await, due(now + secs(60)).await), (false, true));
    world.look_at_connection_again(account, &connection.target, now + secs(120)).await.unwrap();
    assert_eq!((due(now + secs(119)).await, due(now + secs(120)).await), (false, true));
    let seen = connection.moved(State::Connected, now);
    let later = now + SignedDuration::from_hours(6);
    assert_eq!(world.update_connection(&seen, later).await, Ok(true));
    assert_eq!((due(later - secs(1)).await, due(later).await), (false, true));
    assert_eq!(world.end_connection(&seen).await, Ok(true));
    world.look_at_connection_again(account, &connection.target, now).await.unwrap();
    assert!(!due(later).await, "what is gone does not come back");
}
