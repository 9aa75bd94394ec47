//! Every five minutes: links openings of data keys into their accounts' hash chains. The only writer of chains; may be
//! stopped and run twice at any point.

use std::collections::BTreeMap;

use telbuddy::access_log::{LinkAccess, Opening, PENDING_SHARDS, link, worn_out};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::{EnqueueJob, Job};
use telbuddy::rotation::KeyTask;

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Queues];

/// Openings of one transaction: 45 entries, 45 removed openings and the head stay below DynamoDB's 100.
const OPENINGS: u8 = 45;
/// Rounds of one run in each shard; the next run goes on.
const ROUNDS: u32 = 200;

/// One run. AWS calls: 1 query for each of 16 shards, and for each account with news 1 read and 1 transaction;
/// 1 queue message for a key that was opened as often as it may, to replace it.
pub async fn handle<W: LinkAccess + EnqueueJob>(world: &W) -> Result<(), Fault> {
    let mut first_fault = Ok(());
    for shard in 0..PENDING_SHARDS {
        // One shard that does not read must not keep the others from being linked.
        if let Err(fault) = link_shard(world, shard).await {
            first_fault = first_fault.and(Err(fault));
        }
    }
    first_fault
}

async fn link_shard<W: LinkAccess + EnqueueJob>(world: &W, shard: u8) -> Result<(), Fault> {
    for _ in 0..ROUNDS {
        let openings = world.load_pending(shard, OPENINGS).await?;
        if openings.is_empty() {
            break;
        }
        link_all(world, openings).await?;
    }
    Ok(())
}

async fn link_all<W: LinkAccess + EnqueueJob>(world: &W, openings: Vec<Opening>) -> Result<(), Fault> {
    let mut by_account: BTreeMap<AccountId, Vec<Opening>> = BTreeMap::new();
    for opening in openings {
        by_account.entry(opening.account).or_default().push(opening);
    }
    for (account, openings) in by_account {
        let head = world.load_head(account).await?;
        let entries = link(&head, openings);
        // Before the count moves on, so that it is not lost; a second job finds the key replaced.
        for worn in worn_out(&head, &entries) {
            let (purpose, task) = (worn.purpose, KeyTask::Renew { up_to: worn.version });
            tracing::info!(account.id = %account, purpose = purpose.as_str(), "a key of {account} is worn out");
            world.enqueue(Job::RotateKey { account, purpose, task }, 0).await?;
        }
        if !world.append_entries(account, &head, &entries).await? {
            // Another run at the same time was quicker: what is still pending comes in the next round.
            tracing::info!(account.id = %account, "the chain of {account} grew meanwhile");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use telbuddy::access_log::{Export, ReadAccess, verify};
    use telbuddy::credential::{MintKey, OpenKey};
    use telbuddy::seal::{MOST_OPENINGS, Purpose, WrappedKeys};
    use telbuddy::testing::World;

    async fn open_keys(world: &World, account: AccountId, n: u32) {
        for version in 1..=n {
            let (_, wrapped) = world.mint_key(account, Purpose::Send, version).await.unwrap();
            let keys = WrappedKeys { account, purpose: Purpose::Send, versions: vec![wrapped] };
            world.open_key(&keys, None).await.unwrap();
        }
    }

    async fn chain(world: &World, account: AccountId) -> Export {
        Export { account_id: account, entries: world.read_access(account, 0, u16::MAX).await.unwrap() }
    }

    #[tokio::test]
    async fn every_opening_is_linked_once_in_its_own_accounts_chain() {
        let world = World::new(1);
        let (one, two) = (AccountId::from_bits(1), AccountId::from_bits(2));
        open_keys(&world, one, 70).await;
        open_keys(&world, two, 3).await;
        // Two runs at the same time, then one more.
        let (first, second) = futures::join!(handle(&world), handle(&world));
        assert_eq!((first, second), (Ok(()), Ok(())));
        handle(&world).await.unwrap();
        open_keys(&world, two, 5).await;
        handle(&world).await.unwrap();
        assert_eq!(verify(&chain(&world, one).await).unwrap().sequence, 70);
        let openings = world.openings().iter().filter(|opening| opening.account == two).count();
        assert_eq!(verify(&chain(&world, two).await).unwrap().sequence, openings as u64);
    }

    #[tokio::test]
    async fn a_run_that_failed_half_way_is_finished_by_the_next() {
        let world = World::new(2);
        let account = AccountId::from_bits(1);
        open_keys(&world, account, 40).await;
        world.fail_next("append_entries", Fault::transient("planted"));
        assert!(handle(&world).await.is_err());
        handle(&world).await.unwrap();
        assert_eq!(verify(&chain(&world, account).await).unwrap().sequence, 40);
    }

    #[tokio::test]
    async fn a_key_that_was_opened_as_often_as_it_may_gets_one_job_to_replace_it() {
        let world = World::new(3);
        let account = AccountId::from_bits(1);
        let again = async || {
            world.forget_keys();
            let (_, wrapped) = world.mint_key(account, Purpose::Payload, 4).await.unwrap();
            let keys = WrappedKeys { account, purpose: Purpose::Payload, versions: vec![wrapped] };
            world.open_key(&keys, None).await.unwrap();
        };
        world.set_openings(account, Purpose::Payload, 4, MOST_OPENINGS - 2);
        again().await;
        handle(&world).await.unwrap();
        assert_eq!(world.jobs(), []);
        again().await;
        again().await;
        // The queue fails, then the chain: neither loses the job.
        world.fail_next("enqueue", Fault::transient("planted"));
        handle(&world).await.unwrap_err();
        world.fail_next("append_entries", Fault::transient("planted"));
        handle(&world).await.unwrap_err();
        handle(&world).await.unwrap();
        let job = Job::RotateKey { account, purpose: Purpose::Payload, task: KeyTask::Renew { up_to: 4 } };
        assert!(world.jobs().iter().all(|queued| *queued == job) && !world.jobs().is_empty());
        let before = world.jobs().len();
        again().await;
        handle(&world).await.unwrap();
        assert_eq!(world.jobs().len(), before, "it was said");
        assert_eq!(world.load_head(account).await.unwrap().openings.of(Purpose::Payload, 4), MOST_OPENINGS + 2);
    }
}
