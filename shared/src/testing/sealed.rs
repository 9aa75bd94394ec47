//! An account with something sealed under each purpose, and the check that all of it still opens to what it was.

use jiff::Timestamp;

use crate::account::{CreateAccount, FindUser, Profile, SignedUp};
use crate::credential::{
    Auth, Carrier, HookSecret, KeepCredential, LoadKeys, MintKey, OpenKey, SaveCredential, Saved, Sid,
    StoredCredential, data_key,
};
use crate::fault::Fault;
use crate::ids::{AccountId, TemplateId};
use crate::platform::{Chance, Clock};
use crate::seal::{DataKey, Purpose, Sealed, WrappedKeys};
use crate::secret::ExposeSecret;
use crate::template::{Content, Created, KeepTemplates, Name, ReadTemplates, Template, Text, Updated};
use crate::testing::fresh::{self, minted};

/// The field of what is sealed under purpose payload.
const WAITING_FIELD: &str = "waiting";
/// What it is.
const WAITING: &[u8] = b"what waits to be sent";

/// What an account holds, in clear.
#[derive(Clone)]
pub struct Held {
    /// The account.
    pub account: AccountId,
    /// Its Twilio account.
    pub sid: Sid,
    /// The secret for calls and for webhooks.
    pub token: String,
    /// Those before it that still check webhooks, the latest first.
    pub tokens_before: Vec<String>,
    /// What its first template says.
    pub template: String,
    template_id: TemplateId,
    name: String,
    hash: String,
    waiting: Sealed,
}

/// An account that is connected, with a profile, something that waits to be sent, a template, and keyed hashes.
pub async fn someone<W>(world: &W) -> Held
where
    W: CreateAccount + MintKey + KeepCredential + KeepTemplates + Clock + Chance,
{
    let mut new = fresh::new_account(world, 100);
    let (account, name) = (new.account, format!("Ann {}", fresh::word(world)));
    let (profile_key, profile_keys) = minted(world, account, Purpose::Profile, 1).await;
    let (payload_key, payload_keys) = minted(world, account, Purpose::Payload, 1).await;
    let (match_key, match_keys) = minted(world, account, Purpose::Match, 1).await;
    let profile =
        Profile { name: name.clone(), company: "Example Ltd".to_owned(), email: "ann@example.com".to_owned() };
    new.profile = profile.seal(&profile_key, world.random().unwrap()).unwrap();
    new.keys = vec![profile_keys, payload_keys, match_keys];
    assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
    let credential = fresh::connect(world, account).await;
    let template = "Hello {{first_name}}".to_owned();
    Held {
        account,
        template_id: store_template(world, account, &payload_key, &template).await,
        template,
        token: format!("token-{}", credential.account_sid.as_str()),
        sid: credential.account_sid,
        tokens_before: Vec::new(),
        name,
        hash: match_key.keyed_hash("number", "+1"),
        waiting: payload_key.seal(WAITING_FIELD, WAITING, world.random().unwrap()).unwrap(),
    }
}

async fn store_template<W>(world: &W, account: AccountId, key: &DataKey, says: &str) -> TemplateId
where
    W: KeepTemplates + Clock + Chance,
{
    let (id, now) = (TemplateId::new(world.now(), fresh::dice(world)), world.now());
    let sealed = content(says).seal(key, id, world.random().unwrap()).unwrap();
    let name_hash = fresh::word(world);
    let template = Template { id, account, revision: 1, name_hash, sealed, created: now, updated: now };
    assert_eq!(world.create_template(&template).await, Ok(Created::Stored));
    id
}

fn content(says: &str) -> Content {
    Content { name: Name::parse("Hello".to_owned()).unwrap(), text: Text::parse(says.to_owned()).unwrap() }
}

/// One more template.
pub async fn add_template<W>(world: &W, held: &Held, says: &str)
where
    W: KeepTemplates + OpenKey + LoadKeys + Clock + Chance,
{
    let key = data_key(world, held.account, Purpose::Payload, None).await.unwrap();
    store_template(world, held.account, &key, says).await;
}

/// A customer's change of the first template, as the function for templates writes it.
pub async fn change_template<W>(world: &W, held: &Held, says: &str) -> Updated
where
    W: ReadTemplates + KeepTemplates + OpenKey + LoadKeys + Chance,
{
    let read = world.load_template(held.account, held.template_id).await.unwrap().unwrap();
    let key = data_key(world, held.account, Purpose::Payload, None).await.unwrap();
    let sealed = content(says).seal(&key, read.id, world.random().unwrap()).unwrap();
    let new = Template { revision: read.revision + 1, sealed, ..read.clone() };
    world.update_template(&read, &new).await.unwrap()
}

/// A customer's rotation to another token, as the function for credentials writes it. `held` follows if it was stored.
pub async fn rotate<W>(world: &W, held: &mut Held, token: &str) -> Result<Saved, Fault>
where
    W: MintKey + LoadKeys + KeepCredential + Clock + Chance,
{
    let account = held.account;
    let before = world.load_credential(account).await?.unwrap();
    let version = before.version + 1;
    let mut save = SaveCredential {
        credential: StoredCredential { version, previous: before.kept(world.now()), ..before.clone() },
        sid_hash: fresh::sid_hash(&before.account_sid),
        replaced_sid_hash: None,
        numbers: 0,
        keys: Vec::new(),
        keys_read: Vec::new(),
    };
    for purpose in [Purpose::Send, Purpose::Hook] {
        let read = world.load_keys(account, purpose).await?.unwrap();
        let (key, new) = world.mint_key(account, purpose, version).await?;
        let nonce = world.random()?;
        if purpose == Purpose::Send {
            let auth = Auth::AuthToken(token.to_owned().into());
            let carrier = Carrier { account_sid: before.account_sid.clone(), region: before.region, auth };
            save.credential.send = carrier.seal(&key, nonce)?;
        } else {
            save.credential.verify = HookSecret::AuthToken(token.to_owned().into()).seal(&key, nonce)?;
        }
        save.keys.push(read.with_new(new, None));
        save.keys_read.push(read);
    }
    let saved = world.save_credential(save).await?;
    if saved == Saved::Stored {
        held.tokens_before.insert(0, std::mem::replace(&mut held.token, token.to_owned()));
    }
    Ok(saved)
}

/// Opens everything of it.
pub async fn opens<W>(world: &W, held: &Held) -> Result<(), Fault>
where
    W: FindUser + LoadKeys + OpenKey + KeepCredential + ReadTemplates + Clock,
{
    let account = held.account;
    let key = async |purpose, sealed: &Sealed| data_key(world, account, purpose, Some(sealed.key_version()?)).await;
    let profile = world.load_profile(account).await?.unwrap();
    assert_eq!(Profile::open(&profile, &key(Purpose::Profile, &profile).await?)?.name, held.name);
    let waiting = key(Purpose::Payload, &held.waiting).await?.open(WAITING_FIELD, &held.waiting)?;
    assert_eq!(waiting.as_slice(), WAITING);
    let template = world.load_template(account, held.template_id).await?.unwrap();
    let says = Content::open(&template, &key(Purpose::Payload, &template.sealed).await?)?.text;
    assert_eq!(says.source(), held.template);
    let match_key = data_key(world, account, Purpose::Match, None).await?;
    assert_eq!(match_key.keyed_hash("number", "+1"), held.hash);
    credential_opens(world, held).await
}

/// Opens its credential.
pub async fn credential_opens<W>(world: &W, held: &Held) -> Result<(), Fault>
where
    W: LoadKeys + OpenKey + KeepCredential + Clock,
{
    let stored = world.load_credential(held.account).await?.unwrap();
    let key =
        async |purpose, sealed: &Sealed| data_key(world, held.account, purpose, Some(sealed.key_version()?)).await;
    let carrier = Carrier::open(&stored, &key(Purpose::Send, &stored.send).await?)?;
    let Auth::AuthToken(token) = &carrier.auth else { panic!("connected with a token") };
    assert_eq!(token.expose_secret(), held.token);
    let mut tokens = Vec::new();
    for sealed in stored.verifiers(world.now()) {
        let secret = HookSecret::open(sealed, &key(Purpose::Hook, sealed).await?)?;
        let HookSecret::AuthToken(token) = secret else { panic!("connected with a token") };
        tokens.push(token.expose_secret().to_owned());
    }
    let wanted: Vec<_> = std::iter::once(&held.token).chain(&held.tokens_before).cloned().collect();
    assert_eq!(tokens, wanted);
    Ok(())
}

/// What is sealed under a key that was made before a time, by name; what waits to be sent may be.
pub async fn under_old_keys<W>(world: &W, held: &Held, older_than: Timestamp) -> Vec<&'static str>
where
    W: FindUser + LoadKeys + KeepCredential + ReadTemplates,
{
    let stored = world.load_credential(held.account).await.unwrap().unwrap();
    let profile = world.load_profile(held.account).await.unwrap().unwrap();
    let mut sealed = vec![("profile", Purpose::Profile, profile), ("send", Purpose::Send, stored.send)];
    let template = world.load_template(held.account, held.template_id).await.unwrap().unwrap();
    sealed.push(("template", Purpose::Payload, template.sealed));
    sealed.push(("verify", Purpose::Hook, stored.verify));
    sealed.extend(stored.previous.into_iter().map(|before| ("previous", Purpose::Hook, before.verify)));
    let mut old = Vec::new();
    for (name, purpose, sealed) in sealed {
        let keys: WrappedKeys = world.load_keys(held.account, purpose).await.unwrap().unwrap();
        if keys.version(sealed.key_version().unwrap()).is_none_or(|key| key.made < older_than) {
            old.push(name);
        }
    }
    old
}
