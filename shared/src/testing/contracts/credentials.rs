//! The carrier credential, its hook, and the gate behind it.

use futures::future::join;

use super::count;
use crate::account::{CreateAccount, LoadGate, Stop, StopSending, Stopped};
use crate::credential::{
    Carrier, FindHook, HookSecret, KeepCredential, LoadKeys, MintKey, OpenKey, SaveCredential, Saved,
};
use crate::ids::AccountId;
use crate::message::LoadSender;
use crate::platform::{Chance, Clock};
use crate::seal::Purpose;
use crate::secret::HookId;
use crate::testing::fresh::{self, FROZEN, account, connect, credential, sid, sid_hash};

pub async fn a_credential_reads_back_and_its_version_rises<W>(world: &W)
where
    W: CreateAccount + MintKey + OpenKey + KeepCredential + LoadKeys + LoadSender + Clock + Chance,
{
    let (account, sid) = (account(world, 1).await, sid(world, "AC"));
    assert_eq!(world.load_credential(account).await, Ok(None));
    assert_eq!(world.credential_history(account).await.map(|history| history.version), Ok(0));
    for version in [1, 2] {
        let save = credential(world, account, version, &sid).await;
        assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::Stored));
        let stored = world.load_credential(account).await.unwrap().unwrap();
        assert_eq!(stored, save.credential);
        assert_eq!(world.credential_history(account).await.map(|history| history.version), Ok(version));
        let keys = world.load_keys(account, Purpose::Send).await.unwrap().unwrap();
        assert_eq!(keys, save.keys[0]);
        let key = world.open_key(&keys, None).await.unwrap();
        assert!(Carrier::open(&stored, &key).is_ok());
        assert!(gate(world, account).await.connected);
    }
}

/// The gate as a sender sees it.
async fn gate<W: LoadSender + Clock + Chance>(world: &W, account: AccountId) -> crate::account::Gate {
    let (session, key) =
        (fresh::session(world, account), fresh::outgoing(world, account, 1, world.now()).idempotency.key);
    world.load_sender(&session.proof(), &key, &[], None).await.unwrap().facts.unwrap().gate
}

pub async fn a_version_that_does_not_follow_is_refused<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + Clock + Chance,
{
    let account = account(world, 1).await;
    let stored = connect(world, account).await;
    for version in [1, 3] {
        let save = credential(world, account, version, &stored.account_sid).await;
        assert_eq!(world.save_credential(save).await, Ok(Saved::Raced), "version {version}");
    }
    assert_eq!(world.load_credential(account).await, Ok(Some(stored)), "nothing was stored");
    assert_eq!(world.credential_history(account).await.map(|history| history.version), Ok(1));
}

pub async fn a_twilio_account_belongs_to_one_account<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + LoadSender + Clock + Chance,
{
    let (ours, theirs) = (account(world, 1).await, account(world, 1).await);
    let stored = connect(world, theirs).await;
    let save = credential(world, ours, 1, &stored.account_sid).await;
    assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::TakenByAnother));
    assert_eq!(world.load_credential(ours).await, Ok(None));
    assert!(!gate(world, ours).await.connected);
    assert_eq!(world.remove_credential(&stored, &sid_hash(&stored.account_sid), 0).await, Ok(true));
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored), "free after the removal");
}

pub async fn of_two_accounts_at_once_one_gets_the_twilio_account<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + Clock + Chance,
{
    let sid = sid(world, "AC");
    let (one, two) = (account(world, 1).await, account(world, 1).await);
    let saves = (credential(world, one, 1, &sid).await, credential(world, two, 1, &sid).await);
    let (first, second) = join(world.save_credential(saves.0), world.save_credential(saves.1)).await;
    let answers = [first, second];
    assert_eq!(
        (count(&answers, &Ok(Saved::Stored)), count(&answers, &Ok(Saved::TakenByAnother))),
        (1, 1),
        "{answers:?}"
    );
}

pub async fn of_two_saves_at_once_one_is_stored<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + Clock + Chance,
{
    let account = account(world, 1).await;
    let saves = [
        credential(world, account, 1, &sid(world, "AC")).await,
        credential(world, account, 1, &sid(world, "AC")).await,
    ];
    let [one, two] = saves.clone();
    let (first, second) = join(world.save_credential(one), world.save_credential(two)).await;
    let answers = [first, second];
    assert_eq!((count(&answers, &Ok(Saved::Stored)), count(&answers, &Ok(Saved::Raced))), (1, 1), "{answers:?}");
    let winner = answers.iter().position(|answer| *answer == Ok(Saved::Stored)).unwrap();
    let stored = world.load_credential(account).await.unwrap().unwrap();
    assert_eq!(stored, saves[winner].credential);
    let other = self::account(world, 1).await;
    let loser = credential(world, other, 1, &saves[1 - winner].credential.account_sid).await;
    assert_eq!(world.save_credential(loser).await, Ok(Saved::Stored), "the loser holds no Twilio account");
}

pub async fn a_replaced_twilio_account_is_free_again<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + Clock + Chance,
{
    let (ours, theirs) = (account(world, 1).await, account(world, 1).await);
    let old = connect(world, ours).await;
    let save = SaveCredential {
        replaced_sid_hash: Some(sid_hash(&old.account_sid)),
        ..credential(world, ours, 2, &sid(world, "AC")).await
    };
    assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::Stored));
    let taken = credential(world, theirs, 1, &old.account_sid).await;
    assert_eq!(world.save_credential(taken).await, Ok(Saved::Stored), "the old one is free");
    let held = credential(world, theirs, 2, &save.credential.account_sid).await;
    assert_eq!(world.save_credential(held).await, Ok(Saved::TakenByAnother), "the new one is not");
}

pub async fn a_removed_credential_leaves_nothing_but_its_version<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + LoadKeys + FindHook + LoadSender + Clock + Chance,
{
    let account = fresh::account_with_keys(world, 1).await;
    let stored = connect(world, account).await;
    let hash = sid_hash(&stored.account_sid);
    assert!(world.find_hook(&stored.hook).await.unwrap().is_some());
    assert_eq!(world.remove_credential(&stored, &hash, 0).await, Ok(true));
    assert_eq!(world.load_credential(account).await, Ok(None));
    assert_eq!(world.load_keys(account, Purpose::Send).await, Ok(None));
    assert_eq!(world.load_keys(account, Purpose::Hook).await, Ok(None));
    assert_eq!(world.find_hook(&stored.hook).await, Ok(None));
    assert!(!gate(world, account).await.connected);
    assert_eq!(world.credential_history(account).await.map(|history| history.version), Ok(1));
    assert_eq!(world.remove_credential(&stored, &hash, 0).await, Ok(false), "there is nothing left");
    let save = credential(world, account, 2, &stored.account_sid).await;
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
}

pub async fn a_removal_of_an_older_version_removes_nothing<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let save = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(save.clone()).await, Ok(Saved::Stored));
    assert_eq!(world.remove_credential(&old, &sid_hash(&old.account_sid), 0).await, Ok(false));
    assert_eq!(world.load_credential(account).await, Ok(Some(save.credential)));
}

pub async fn a_hook_is_found_by_its_secret_only<W>(world: &W)
where
    W: CreateAccount + MintKey + OpenKey + KeepCredential + FindHook + Clock + Chance,
{
    let account = fresh::account_with_keys(world, 1).await;
    let stored = connect(world, account).await;
    let found = world.find_hook(&stored.hook).await.unwrap().unwrap();
    assert_eq!(found.credential, stored);
    let key = world.open_key(&found.hook_keys, None).await.unwrap();
    assert!(HookSecret::open(&found.credential.verify, &key).is_ok());
    assert_eq!((found.match_keys.account, found.match_keys.purpose), (account, Purpose::Match));
    let guessed = HookId::new(account, world.random().unwrap());
    assert_eq!(world.find_hook(&guessed).await, Ok(None));
    let nobodys = HookId::new(AccountId::from_bits(fresh::dice(world)), world.random().unwrap());
    assert_eq!(world.find_hook(&nobodys).await, Ok(None));
}

pub async fn a_new_credential_ends_a_stop_for_a_refused_one<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + StopSending + LoadSender + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let stopped = world.stop_sending(account, Stop::CredentialRefused, 1, world.now()).await;
    assert_eq!(stopped, Ok(Stopped::Now));
    assert_eq!(gate(world, account).await.stopped(), Some(Stop::CredentialRefused));
    let save = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(gate(world, account).await.stopped(), None);
}

pub async fn a_new_credential_does_not_lift_a_freeze<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + StopSending + LoadSender + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    assert_eq!(world.stop_sending(account, FROZEN, 1, world.now()).await, Ok(Stopped::Now));
    let save = credential(world, account, 2, &old.account_sid).await;
    world.save_credential(save).await.unwrap();
    assert_eq!(gate(world, account).await.stopped(), Some(FROZEN));
}

pub async fn each_stop_ends_by_itself<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + StopSending + LoadSender + Clock + Chance,
{
    for stops in [[FROZEN, Stop::CredentialRefused], [Stop::CredentialRefused, FROZEN]] {
        let account = account(world, 1).await;
        let old = connect(world, account).await;
        assert_eq!(gate(world, account).await.stopped(), None);
        for stop in stops {
            assert_eq!(world.stop_sending(account, stop, 1, world.now()).await, Ok(Stopped::Now));
        }
        let stopped = gate(world, account).await;
        assert_eq!((stopped.frozen.is_some(), stopped.credential_refused), (true, true), "{stops:?}");
        let save = credential(world, account, 2, &old.account_sid).await;
        assert_eq!(world.save_credential(save).await, Ok(Saved::Stored), "a frozen account may renew its credential");
        let renewed = gate(world, account).await;
        assert_eq!((renewed.frozen.is_some(), renewed.credential_refused), (true, false), "{stops:?}");
    }
}

pub async fn a_refusal_stays_untold_until_it_is_noted_or_over<W>(world: &W)
where
    W: CreateAccount + MintKey + KeepCredential + StopSending + LoadGate + Clock + Chance,
{
    let account = account(world, 1).await;
    let old = connect(world, account).await;
    let (stop, now) = (Stop::CredentialRefused, world.now());
    let untold = async || world.load_gate(account).await.unwrap().unwrap().refusal_untold;
    assert_eq!(
        world.stop_sending(account, stop, 2, now).await,
        Ok(Stopped::Unchanged),
        "of a version that is not there"
    );
    assert_eq!((world.stop_sending(account, stop, 1, now).await, untold().await), (Ok(Stopped::Now), Some(now)));
    let later = now + fresh::secs(1);
    assert_eq!((world.stop_sending(account, stop, 1, later).await, untold().await), (Ok(Stopped::Untold), Some(now)));
    assert_eq!(
        (world.stop_told(account, stop, later).await, untold().await),
        (Ok(()), Some(now)),
        "of another refusal"
    );
    assert_eq!((world.stop_told(account, stop, now).await, untold().await), (Ok(()), None));
    assert_eq!((world.stop_sending(account, stop, 1, later).await, untold().await), (Ok(Stopped::Unchanged), None));
    // A new credential: the next refusal is another one, and a note about the first does not count for it.
    let save = credential(world, account, 2, &old.account_sid).await;
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(world.stop_sending(account, stop, 1, later).await, Ok(Stopped::Unchanged), "it was replaced");
    assert_eq!(world.stop_sending(account, stop, 2, later).await, Ok(Stopped::Now));
    assert_eq!((world.stop_told(account, stop, now).await, untold().await), (Ok(()), Some(later)));
    let save = credential(world, account, 3, &old.account_sid).await;
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    assert_eq!(untold().await, None, "nobody has to be told of what is over");
}
