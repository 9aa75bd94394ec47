//! Queue `key-rotation`: moves data keys to another KMS key, and makes new ones and seals anew what the old ones
//! sealed.
//!
//! An operator starts it (docs/runbooks/keys.md), or `access-chain` for a key that is worn out. Each step is a write
//! that takes place only if what it replaces still is as it was read: so it may stop anywhere, go on, and run twice.

use std::collections::BTreeMap;

use futures::future::join_all;
use telbuddy::account::{FindUser, PROFILE_FIELD};
use telbuddy::connection::{CHECK_EVERY, Connection, KeepConnections, snapshot_field};
use telbuddy::credential::{
    HOOK_FIELD, KeepCredential, LoadKeys, MintKey, OpenKey, Previous, SEND_FIELD, StoredCredential,
};
use telbuddy::endpoint::{Endpoint, KeepEndpoints, PreviousSecret, secret_field};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Queue};
use telbuddy::rotation::{KeyTask, KeysChange, KeysCursor, ReplaceKeys, RewrapKey, WalkKeys};
use telbuddy::seal::{DataKey, Purpose, Sealed, WrappedKeys};
use telbuddy::template::{ReadTemplates, Template, template_field};

/// The queue of this function.
pub const QUEUE: Queue = Queue::KeyRotation;

/// The services that it calls. It makes and opens send, hook, payload and profile, and moves all wrapped keys.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// Rows of a page.
const PAGE: u8 = 25;
/// Templates that are read at once: together they are below what one read gives.
const TEMPLATES_PAGE: u16 = 100;
/// How often one row is looked at again because somebody else changed it meanwhile.
const TRIES: u32 = 5;
/// What failed in a page is tried again by itself, a little later.
const AGAIN_SECS: u16 = 60;

/// Works through a batch of pages and single keys.
///
/// AWS calls for a page: 1 scan, 1 queue message; for each of its rows: re-wrap: 1 KMS call for each version and 1
/// write; re-seal of payload: 2 reads for each 100 templates, up to 3 KMS calls, 1 write and 1 for each template; of
/// profile: 6 reads, 3 KMS calls, 2 writes and 1 for each connected number and endpoint; of send and hook together: 6
/// reads, up to 7 KMS calls, 1 transaction. Each key that is opened is an entry in the access log: 1 write.
pub async fn handle<W>(world: &W, jobs: Vec<Job>) -> Vec<Handled>
where
    W: WalkKeys
        + RewrapKey
        + ReplaceKeys
        + LoadKeys
        + MintKey
        + OpenKey
        + KeepCredential
        + FindUser
        + KeepConnections
        + ReadTemplates
        + KeepEndpoints
        + EnqueueJob,
    W: Clock + Chance + Sync,
{
    join_all(jobs.into_iter().map(async |job| match rotate(world, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "keys could not be replaced");
            Handled::Again
        }
    }))
    .await
}

async fn rotate<W>(world: &W, job: Job) -> Result<(), Fault>
where
    W: WalkKeys
        + RewrapKey
        + ReplaceKeys
        + LoadKeys
        + MintKey
        + OpenKey
        + KeepCredential
        + FindUser
        + KeepConnections
        + ReadTemplates
        + KeepEndpoints
        + EnqueueJob,
    W: Clock + Chance + Sync,
{
    match job {
        Job::RotateKeys { task, after } => page(world, task, after).await,
        Job::RotateKey { account, purpose, task } => match world.load_keys(account, purpose).await? {
            Some(keys) => row(world, keys, task).await,
            None => Ok(()),
        },
        _ => Err(Fault::permanent("this queue takes keys only")),
    }
}

/// One page of all accounts' keys, then a job for the next one.
async fn page<W>(world: &W, task: KeyTask, after: Option<KeysCursor>) -> Result<(), Fault>
where
    W: WalkKeys
        + RewrapKey
        + ReplaceKeys
        + LoadKeys
        + MintKey
        + OpenKey
        + KeepCredential
        + FindUser
        + KeepConnections
        + ReadTemplates
        + KeepEndpoints
        + EnqueueJob,
    W: Clock + Chance + Sync,
{
    let page = world.walk_keys(after, PAGE).await?;
    let n_rows = page.keys.len();
    let mut accounts: BTreeMap<AccountId, Vec<WrappedKeys>> = BTreeMap::new();
    for keys in page.keys {
        accounts.entry(keys.account).or_default().push(keys);
    }
    // Accounts at the same time, the rows of one account in turn: send and hook are one credential.
    let rows = accounts.into_values().map(async |rows| {
        let mut failed = Vec::new();
        for keys in rows {
            let (account, purpose) = (keys.account, keys.purpose);
            if let Err(fault) = row(world, keys, task).await {
                failed.push((account, purpose, fault));
            }
        }
        failed
    });
    let failed: Vec<_> = join_all(rows).await.into_iter().flatten().collect();
    // If nothing works it is not for the rows: a permission, a variable, KMS.
    if let Some((_, _, fault)) = failed.first().filter(|_| n_rows > 1 && failed.len() == n_rows) {
        return Err(fault.clone());
    }
    // A row that fails gets a job of its own: one damaged key must not keep the others from being replaced.
    for (account, purpose, fault) in failed {
        let purpose_word = purpose.as_str();
        tracing::warn!(account.id = %account, purpose_word, %fault, "a key of {account} is tried again later");
        world.enqueue(Job::RotateKey { account, purpose, task }, AGAIN_SECS).await?;
    }
    let Some(next) = page.next else {
        tracing::info!(n_rows, "the last page of keys is done");
        return Ok(());
    };
    world.enqueue(Job::RotateKeys { task, after: Some(next) }, 0).await?;
    let account = next.account;
    tracing::info!(account.id = %account, n_rows, "a page of keys is done; the next begins behind {account}");
    Ok(())
}

/// One account's keys of one purpose.
async fn row<W>(world: &W, keys: WrappedKeys, task: KeyTask) -> Result<(), Fault>
where
    W: RewrapKey
        + ReplaceKeys
        + LoadKeys
        + MintKey
        + OpenKey
        + KeepCredential
        + FindUser
        + KeepConnections
        + ReadTemplates
        + KeepEndpoints
        + Clock
        + Chance
        + Sync,
{
    if task == KeyTask::Rewrap {
        return rewrap(world, keys).await;
    }
    match keys.purpose {
        Purpose::Send | Purpose::Hook => reseal_credential(world, keys.account, task).await,
        Purpose::Profile => reseal_profiles(world, keys, task).await,
        // What waits is opened with its own version, which stays that long; templates wait for nothing.
        Purpose::Payload => reseal_templates(world, keys, task).await,
        // Hashes have to stay comparable.
        Purpose::Match => Ok(()),
    }
}

/// Moves every version to the current KMS key. Nothing is opened.
async fn rewrap<W>(world: &W, mut read: WrappedKeys) -> Result<(), Fault>
where
    W: RewrapKey + ReplaceKeys + LoadKeys,
{
    for _ in 0..TRIES {
        let mut new = read.clone();
        for key in &mut new.versions {
            if let Some(moved) = world.rewrap_key(read.account, read.purpose, key).await? {
                *key = moved;
            }
        }
        let change = KeysChange { read, new };
        if change.read == change.new || world.replace_keys(&change).await? {
            return Ok(());
        }
        match world.load_keys(change.read.account, change.read.purpose).await? {
            Some(now) => read = now,
            None => return Ok(()),
        }
    }
    Err(changing())
}

/// Makes a new version if one is due; gives the keys as they are then, `None` if the account has none any more.
async fn renew<W>(
    world: &W,
    mut read: WrappedKeys,
    task: KeyTask,
    needed: Option<u32>,
) -> Result<Option<WrappedKeys>, Fault>
where
    W: ReplaceKeys + LoadKeys + MintKey,
{
    for _ in 0..TRIES {
        let Some(newest) = read.current().filter(|newest| task.renews(newest)) else { return Ok(Some(read)) };
        let (_, new) = world.mint_key(read.account, read.purpose, newest.version + 1).await?;
        let change = KeysChange { new: read.with_new(new, needed), read };
        if world.replace_keys(&change).await? {
            return Ok(Some(change.new));
        }
        match world.load_keys(change.read.account, change.read.purpose).await? {
            Some(now) => read = now,
            None => return Ok(None),
        }
    }
    Err(changing())
}

/// A new version of purpose profile, and everything that is sealed under it sealed anew. A run that stopped between
/// left what opens with an old version, and the next one finishes it.
async fn reseal_profiles<W>(world: &W, keys: WrappedKeys, task: KeyTask) -> Result<(), Fault>
where
    W: ReplaceKeys + LoadKeys + MintKey + OpenKey + FindUser + KeepConnections + KeepEndpoints + Clock + Chance + Sync,
{
    let profile = world.load_profile(keys.account).await?;
    let snapshots = world.list_connections(keys.account).await?.into_iter().map(|connection| connection.snapshot);
    let endpoints = world.list_endpoints(keys.account).await?;
    let secrets = endpoints.into_iter().flat_map(|endpoint| {
        let before = endpoint.previous.into_iter().map(|before| before.secret);
        std::iter::once(endpoint.secret).chain(before)
    });
    let versions = profile.into_iter().chain(snapshots).chain(secrets).map(|sealed| sealed.key_version());
    let needed = versions.collect::<Result<Vec<_>, _>>()?.into_iter().min();
    let Some(keys) = renew(world, keys, task, needed).await? else { return Ok(()) };
    reseal_profile(world, &keys).await?;
    reseal_snapshots(world, &keys).await?;
    reseal_endpoints(world, &keys).await
}

/// What signs the events of the account's endpoints. One that changed meanwhile is as with snapshots.
async fn reseal_endpoints<W>(world: &W, keys: &WrappedKeys) -> Result<(), Fault>
where
    W: OpenKey + KeepEndpoints + Clock + Chance + Sync,
{
    for read in world.list_endpoints(keys.account).await? {
        let field = secret_field(read.id);
        let mut new = Endpoint { revision: read.revision + 1, ..read.clone() };
        if let Some(secret) = sealed_anew(world, keys, &field, &read.secret).await? {
            new.secret = secret;
        }
        new.previous.retain(|before| world.now() < before.until);
        for before in &mut new.previous {
            if let Some(secret) = sealed_anew(world, keys, &field, &before.secret).await? {
                *before = PreviousSecret { secret, until: before.until };
            }
        }
        let same = new.secret == read.secret && new.previous == read.previous;
        if !same && !world.update_endpoint(&new).await? {
            return Err(changing());
        }
    }
    Ok(())
}

/// A new version of purpose payload, and every template sealed anew. One that is changed at the same time is read
/// again.
async fn reseal_templates<W>(world: &W, keys: WrappedKeys, task: KeyTask) -> Result<(), Fault>
where
    W: ReplaceKeys + LoadKeys + MintKey + OpenKey + ReadTemplates + Chance + Sync,
{
    let account = keys.account;
    let versions = templates(world, account).await?.into_iter().map(|template| template.sealed.key_version());
    let needed = versions.collect::<Result<Vec<_>, _>>()?.into_iter().min();
    let Some(keys) = renew(world, keys, task, needed).await? else { return Ok(()) };
    for template in templates(world, account).await? {
        reseal_template(world, &keys, template).await?;
    }
    Ok(())
}

async fn reseal_template<W>(world: &W, keys: &WrappedKeys, mut read: Template) -> Result<(), Fault>
where
    W: ReplaceKeys + OpenKey + ReadTemplates + Chance + Sync,
{
    for _ in 0..TRIES {
        let Some(new) = sealed_anew(world, keys, &template_field(read.id), &read.sealed).await? else { return Ok(()) };
        if world.replace_template(&read, &new).await? {
            return Ok(());
        }
        match world.load_template(read.account, read.id).await? {
            Some(now) => read = now,
            None => return Ok(()),
        }
    }
    Err(changing())
}

/// All templates of an account.
async fn templates<W: ReadTemplates>(world: &W, account: AccountId) -> Result<Vec<Template>, Fault> {
    let mut all: Vec<Template> = Vec::new();
    loop {
        let page = world.list_templates(account, all.last().map(|last| last.id), TEMPLATES_PAGE).await?;
        let full = page.len() >= usize::from(TEMPLATES_PAGE);
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// What stood at Twilio before the account's numbers were connected. One that changed meanwhile is under the newest key
/// already, or the next run's.
async fn reseal_snapshots<W>(world: &W, keys: &WrappedKeys) -> Result<(), Fault>
where
    W: OpenKey + KeepConnections + Clock + Chance + Sync,
{
    for read in world.list_connections(keys.account).await? {
        let field = snapshot_field(&read.target);
        if let Some(snapshot) = sealed_anew(world, keys, &field, &read.snapshot).await? {
            let now = world.now();
            let new = Connection { snapshot, ..read.moved(read.state, now) };
            if !world.update_connection(&new, now + CHECK_EVERY).await? {
                return Err(changing());
            }
        }
    }
    Ok(())
}

/// Name, e-mail address and company.
async fn reseal_profile<W>(world: &W, keys: &WrappedKeys) -> Result<(), Fault>
where
    W: ReplaceKeys + OpenKey + FindUser + Chance + Sync,
{
    for _ in 0..TRIES {
        let Some(read) = world.load_profile(keys.account).await? else { return Ok(()) };
        let Some(new) = sealed_anew(world, keys, PROFILE_FIELD, &read).await? else { return Ok(()) };
        if world.replace_profile(keys.account, &read, &new).await? {
            return Ok(());
        }
    }
    Err(changing())
}

/// A value under the newest version; `None` if it is already.
async fn sealed_anew<W>(world: &W, keys: &WrappedKeys, field: &str, read: &Sealed) -> Result<Option<Sealed>, Fault>
where
    W: OpenKey + Chance,
{
    let version = read.key_version()?;
    if keys.current().is_none_or(|newest| version >= newest.version) {
        return Ok(None);
    }
    let clear = opened(world, keys, Some(version)).await?.open(field, read)?;
    let newest = opened(world, keys, None).await?;
    Ok(Some(newest.seal(field, &clear, world.random()?)?))
}

/// The credential: both halves and what checked signatures before, under new keys and the next version, if one of them
/// is under an old key. A customer's change at the same time and this one exclude each other; if that one was first,
/// its keys are new, and only a secret before it may be left to do.
async fn reseal_credential<W>(world: &W, account: AccountId, task: KeyTask) -> Result<(), Fault>
where
    W: ReplaceKeys + LoadKeys + MintKey + OpenKey + KeepCredential + Clock + Chance + Sync,
{
    for _ in 0..TRIES {
        let Some(read) = world.load_credential(account).await? else { return Ok(()) };
        let send = world.load_keys(account, Purpose::Send).await?;
        let hook = world.load_keys(account, Purpose::Hook).await?;
        // Gone meanwhile: disconnected.
        let (Some(send), Some(hook)) = (send, hook) else { return Ok(()) };
        let now = world.now();
        let under_old = |keys: &WrappedKeys, sealed: &Sealed| {
            Ok::<_, Fault>(keys.version(sealed.key_version()?).is_some_and(|key| task.renews(key)))
        };
        let mut due = under_old(&send, &read.send)?;
        for verify in read.verifiers(now) {
            due |= under_old(&hook, verify)?;
        }
        if !due {
            return Ok(());
        }
        let version = read.version + 1;
        let (send_key, send_new) = world.mint_key(account, Purpose::Send, version).await?;
        let (hook_key, hook_new) = world.mint_key(account, Purpose::Hook, version).await?;
        let mut previous = Vec::new();
        for before in read.previous.iter().filter(|before| now < before.until) {
            let verify = moved(world, &hook, &hook_key, HOOK_FIELD, &before.verify).await?;
            previous.push(Previous { verify, until: before.until });
        }
        let new = StoredCredential {
            version,
            send: moved(world, &send, &send_key, SEND_FIELD, &read.send).await?,
            verify: moved(world, &hook, &hook_key, HOOK_FIELD, &read.verify).await?,
            previous,
            ..read.clone()
        };
        let changes = [
            KeysChange { new: send.with_new(send_new, None), read: send },
            KeysChange { new: hook.with_new(hook_new, None), read: hook },
        ];
        if world.replace_credential(&read, &new, &changes).await? {
            return Ok(());
        }
    }
    Err(changing())
}

/// A value of the credential under a new key. In clear it is in memory only, and zeroed when this ends.
async fn moved<W>(world: &W, keys: &WrappedKeys, to: &DataKey, field: &str, read: &Sealed) -> Result<Sealed, Fault>
where
    W: OpenKey + Chance,
{
    let clear = opened(world, keys, Some(read.key_version()?)).await?.open(field, read)?;
    Ok(to.seal(field, &clear, world.random()?)?)
}

async fn opened<W: OpenKey>(world: &W, keys: &WrappedKeys, version: Option<u32>) -> Result<DataKey, Fault> {
    let version = version.or_else(|| keys.current().map(|newest| newest.version));
    match world.remembered_key(keys.account, keys.purpose, version) {
        Some(key) => Ok(key),
        None => world.open_key(keys, version).await,
    }
}

fn changing() -> Fault {
    Fault::transient("others kept changing the same keys")
}

#[cfg(test)]
mod tests;
