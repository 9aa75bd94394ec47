//! Fresh accounts, credentials and messages for tests: ids from chance, so that tests share one store without meeting.

use jiff::{SignedDuration, Timestamp};

use crate::account::{
    CreateAccount, EmailIndex, FreezeReason, Gate, Hashed, KeepMailTokens, MailToken, NewAccount, SignedUp, Stop, User,
};
use crate::api_key::{ApiKey, KeyName, Scope};
use crate::credential::{
    Auth, Carrier, CredentialKind, HookSecret, KeepCredential, MintKey, Region, SaveCredential, Saved, Sid,
    StoredCredential,
};
use crate::ids::{AccountId, ApiKeyId, EntryId, MessageId, SessionId, UserId};
use crate::ledger::{Entry, MicroCredits, PRICE_LISTS, Settlement, Zone, settle};
use crate::message::segments::Encoding;
use crate::message::{
    Claim, ClaimMessage, Claimed, Direction, Fence, Format, Idempotency, IdempotencyKey, Message, Outgoing,
    RecordMessage, Recorded, Status,
};
use crate::number::Country;
use crate::opt_out::Heard;
use crate::pace::MOST_PER_SECOND;
use crate::platform::{Chance, Clock};
use crate::seal::{DataKey, Purpose, Sealed, WrappedKeys};
use crate::secret::{HookId, Token};
use crate::session::Session;

/// The sender of every fresh message.
pub const OWN: &str = "+15005550006";

/// A freeze, where it does not matter why.
pub const FROZEN: Stop = Stop::Frozen(FreezeReason::Velocity);

/// Some seconds.
pub fn secs(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

/// Random bits that succeed.
pub fn dice<W: Chance>(world: &W) -> u128 {
    world.dice().unwrap()
}

/// Random text.
pub fn word<W: Chance>(world: &W) -> String {
    format!("{:032x}", dice(world))
}

/// The country of every fresh account.
pub fn us() -> Country {
    Country::parse("US").unwrap()
}

/// What sign-up would write, without data keys.
pub fn new_account<W: Clock + Chance>(world: &W, credit: u64) -> NewAccount {
    let now = world.now();
    let account = AccountId::new(now, dice(world));
    let password = Hashed { phc: "$argon2id$none".to_owned(), pepper: 1 };
    NewAccount {
        account,
        owner: User {
            account,
            id: UserId::new(now, dice(world)),
            email: EmailIndex(word(world)),
            password,
            verified: false,
        },
        profile: Sealed(vec![1, 2, 3]),
        // Fast, so that a test which is not about the pace need not wait.
        gate: Gate { sender_rates: [(OWN.to_owned(), MOST_PER_SECOND)].into(), ..Gate::new(us()) },
        keys: Vec::new(),
        credit: MicroCredits::whole(credit),
        now,
    }
}

/// An account whose owner's address is confirmed.
pub async fn confirmed<W: CreateAccount + KeepMailTokens + Chance>(world: &W, new: NewAccount) {
    let (account, user, now) = (new.account, new.owner.id, new.now);
    assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
    let hash = Token::new(account, world.random().unwrap()).hash();
    let token = MailToken { account, user, hash: hash.clone(), expires: now + secs(60) };
    world.keep_mail_token(token).await.unwrap();
    assert_eq!(world.confirm_email(account, &hash, now).await, Ok(true));
}

/// An account with so many credits and no data keys.
pub async fn account<W: CreateAccount + Clock + Chance>(world: &W, credit: u64) -> AccountId {
    let new = new_account(world, credit);
    let account = new.account;
    assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
    account
}

/// An account with so many credits and data keys for profile, payload and match, as sign-up makes them.
pub async fn account_with_keys<W: CreateAccount + MintKey + Clock + Chance>(world: &W, credit: u64) -> AccountId {
    let mut new = new_account(world, credit);
    let account = new.account;
    for purpose in [Purpose::Profile, Purpose::Payload, Purpose::Match] {
        new.keys.push(minted(world, account, purpose, 1).await.1);
    }
    assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
    account
}

/// A new data key, in clear and wrapped.
pub async fn minted<W: MintKey>(
    world: &W,
    account: AccountId,
    purpose: Purpose,
    version: u32,
) -> (DataKey, WrappedKeys) {
    let (key, wrapped) = world.mint_key(account, purpose, version).await.unwrap();
    (key, WrappedKeys { account, purpose, versions: vec![wrapped] })
}

/// A SID that no other test has.
pub fn sid<W: Chance>(world: &W, prefix: &'static str) -> Sid {
    Sid::parse(prefix, &format!("{prefix}{}", word(world))).unwrap()
}

/// A credential of the version for a Twilio account, sealed and ready to save. The Auth Token is "token-" and the SID.
pub async fn credential<W: MintKey + Clock + Chance>(
    world: &W,
    account: AccountId,
    version: u32,
    account_sid: &Sid,
) -> SaveCredential {
    let (send_key, send_wrapped) = minted(world, account, Purpose::Send, version).await;
    let (hook_key, hook_wrapped) = minted(world, account, Purpose::Hook, version).await;
    let token = format!("token-{}", account_sid.as_str());
    let auth = Auth::AuthToken(token.clone().into());
    let carrier = Carrier { account_sid: account_sid.clone(), region: Region::Us1, auth };
    let hook = HookSecret::AuthToken(token.into());
    SaveCredential {
        credential: StoredCredential {
            account,
            version,
            account_sid: account_sid.clone(),
            region: Region::Us1,
            kind: CredentialKind::AuthToken,
            friendly_name: Some("A Twilio account".to_owned()),
            trial: Some(false),
            connected_at: world.now(),
            secret_since: world.now(),
            hook: HookId::new(account, world.random().unwrap()),
            send: carrier.seal(&send_key, world.random().unwrap()).unwrap(),
            verify: hook.seal(&hook_key, world.random().unwrap()).unwrap(),
            previous: Vec::new(),
        },
        sid_hash: sid_hash(account_sid),
        replaced_sid_hash: None,
        numbers: 0,
        keys: vec![send_wrapped, hook_wrapped],
        keys_read: Vec::new(),
    }
}

/// The same credential with the next version.
pub fn next_version(credential: StoredCredential) -> StoredCredential {
    StoredCredential { version: credential.version + 1, ..credential }
}

/// Stands for the platform's hash of an Account SID.
pub fn sid_hash(account_sid: &Sid) -> String {
    format!("hash-of-{}", account_sid.as_str())
}

/// Connects a new Twilio account to an account that has none yet.
pub async fn connect<W: MintKey + KeepCredential + Clock + Chance>(world: &W, account: AccountId) -> StoredCredential {
    let save = credential(world, account, 1, &sid(world, "AC")).await;
    let stored = save.credential.clone();
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    stored
}

/// A session that starts now.
pub fn session<W: Clock + Chance>(world: &W, account: AccountId) -> Session {
    let now = world.now();
    Session {
        id: SessionId::new(now, dice(world)),
        account,
        user: UserId::new(now, dice(world)),
        hash: Token::new(account, world.random().unwrap()).hash(),
        started: now,
        seen: now,
    }
}

/// An API key for everything, made now and never used.
pub fn api_key<W: Clock + Chance>(world: &W, account: AccountId) -> ApiKey {
    let now = world.now();
    ApiKey {
        id: ApiKeyId::new(now, dice(world)),
        account,
        hash: Token::new(account, world.random().unwrap()).hash(),
        name: KeyName::parse("Till 4").unwrap(),
        scopes: Scope::ALL.to_vec(),
        made_by: UserId::new(now, dice(world)),
        created: now,
        used: None,
        expires: None,
    }
}

/// A message to accept, created `at`, that costs one credit for each segment.
pub fn outgoing<W: Chance>(world: &W, account: AccountId, segments: u32, at: Timestamp) -> Outgoing {
    let id = MessageId::new(at, dice(world));
    Outgoing {
        message: Message {
            id,
            account,
            direction: Direction::Outbound,
            format: Format::Sms,
            status: Status::Accepted,
            revision: 0,
            sid: None,
            own: OWN.to_owned(),
            other_hash: word(world),
            country: Some(us()),
            segments,
            encoding: Some(Encoding::Gsm7),
            held: MicroCredits::whole(u64::from(segments)),
            price_version: PRICE_LISTS[0].version.to_owned(),
            error_code: None,
            reason: None,
            attempts: 0,
            settled: false,
            released: false,
            settling: None,
            created: at,
            held_until: None,
            valid_until: at + crate::message::VALIDITY,
            updated: at,
        },
        payload: Sealed(id.bits().to_be_bytes().to_vec()),
        idempotency: Idempotency {
            key: IdempotencyKey::parse(Some(&word(world))).unwrap(),
            fingerprint: word(world),
            answer: id.to_string(),
            batch: None,
            expires: at + crate::message::IDEMPOTENCY_LIFE,
        },
        daily_ceiling: 500,
        room: MicroCredits::ZERO,
    }
}

/// A message of one segment, accepted `at`.
pub async fn accepted<W: RecordMessage + Chance>(world: &W, account: AccountId, at: Timestamp) -> Message {
    let outgoing = outgoing(world, account, 1, at);
    assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Accepted));
    outgoing.message
}

/// A claim on a message that must succeed.
pub async fn claimed<W: ClaimMessage + Chance>(world: &W, message: &Message, now: Timestamp) -> Claimed {
    let claim = world.claim_message(message.account, message.id, Fence(dice(world)), now).await;
    let Ok(Claim::Mine(claimed)) = claim else { panic!("not mine: {claim:?}") };
    *claimed
}

/// A text that arrived `at`.
pub fn inbound<W: Chance>(world: &W, account: AccountId, at: Timestamp) -> Message {
    let outgoing = outgoing(world, account, 1, at);
    Message {
        direction: Direction::Inbound,
        status: Status::Received,
        sid: Some(sid(world, "SM").as_str().to_owned()),
        encoding: None,
        held: MicroCredits(0),
        ..outgoing.message
    }
}

/// A text by which somebody said something.
pub fn heard<W: Chance>(world: &W) -> Heard {
    Heard::Text(sid(world, "SM").as_str().to_owned())
}

/// The entry that charges a message which Twilio took.
pub fn charge<W: Chance>(world: &W, message: &Message, at: Timestamp) -> Entry {
    let zone = Zone::default();
    let settlement = settle(message, &zone);
    let Settlement::Charge(event) = settlement else { panic!("{:?} is not to be charged", message.status) };
    Entry::charge(EntryId::new(at, dice(world)), event, at, &zone)
}
