//! The stored shapes and their way into the rules' shapes and back. A stored shape changes by a new version only.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::keys::Key;
use super::{Item, from_item, text, to_item};
use crate::account::{EmailIndex, Freeze, FreezeReason, Gate, Hashed, Lifted, QuietHours, User};
use crate::api_key::{ApiKey, KeyName, Scope};
use crate::credential::{CredentialKind, Previous, Region, Sid, StoredCredential};
use crate::endpoint::{Choice, Listeners};
use crate::fault::Fault;
use crate::ids::{AccountId, ApiKeyId, BatchId, EntryId, MessageId, SessionId, UserId};
use crate::ledger::{
    Allowance, Change, Entry, Line, Lot, MicroCredits, Occasion, Overage, Period, Purse, UsageEvent, UsageKind, Zone,
};
use crate::message::segments::Encoding;
use crate::message::{
    Batch, Direction, Format, Idempotency, IdempotencyKey, Message, Reason, RowOutcome, Settling, Status, VALIDITY,
};
use crate::number::Country;
use crate::pace::SenderRates;
use crate::seal::{Purpose, Sealed, WrappedKey, WrappedKeys};
use crate::secret::{HookId, TokenHash};
use crate::session::Session;

fn at(ms: i64) -> Result<Timestamp, Fault> {
    Timestamp::from_millisecond(ms).map_err(|_| Fault::permanent("a stored time does not read"))
}

fn damaged(what: &'static str) -> impl Fn() -> Fault {
    move || Fault::Permanent(format!("a stored {what} does not read"))
}

/// Bytes as DynamoDB's binary.
pub(super) mod binary {
    use serde::{Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    struct Bytes;

    impl de::Visitor<'_> for Bytes {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
            Ok(bytes.to_vec())
        }

        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
            Ok(bytes)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_byte_buf(Bytes)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct EmailRow {
    pub account: AccountId,
    pub user: UserId,
}

#[derive(Serialize, Deserialize)]
pub(super) struct ProfileRow {
    #[serde(with = "binary")]
    pub sealed: Vec<u8>,
    pub created: i64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct UserRow {
    id: UserId,
    email: EmailIndex,
    phc: String,
    pepper: u32,
    verified: bool,
}

impl From<&User> for UserRow {
    fn from(user: &User) -> Self {
        Self {
            id: user.id,
            email: user.email.clone(),
            phc: user.password.phc.clone(),
            pepper: user.password.pepper,
            verified: user.verified,
        }
    }
}

impl UserRow {
    pub fn user(self, account: AccountId) -> User {
        let password = Hashed { phc: self.phc, pepper: self.pepper };
        User { account, id: self.id, email: self.email, password, verified: self.verified }
    }
}

#[derive(Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "as stored")]
pub(super) struct GateRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hook: Option<String>,
    #[serde(default)]
    credential_refused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refusal_untold: Option<i64>,
    #[serde(default)]
    frozen: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    freeze_untold: bool,
    /// Left out of rows that were frozen before reasons were stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen_reason: Option<FreezeReason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frozen_since: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifted_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifted_by: Option<UserId>,
    connected: bool,
    #[serde(default)]
    numbers: u32,
    credential_version: u32,
    countries: Vec<Country>,
    home: Country,
    daily_ceiling: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quiet_hours: Option<QuietHours>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    listeners: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "SenderRates::is_empty")]
    sender_rates: SenderRates,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Zone>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    overage_allowed: bool,
}

impl From<&Gate> for GateRow {
    fn from(gate: &Gate) -> Self {
        Self {
            hook: gate.hook.map(|hook| hook.reveal()),
            credential_refused: gate.credential_refused,
            refusal_untold: gate.refusal_untold.map(Timestamp::as_millisecond),
            frozen: gate.frozen.is_some(),
            freeze_untold: gate.freeze_untold,
            frozen_reason: gate.frozen.map(|freeze| freeze.reason),
            frozen_since: gate.frozen.map(|freeze| freeze.since.as_millisecond()),
            lifted_at: gate.lifted.map(|lifted| lifted.at.as_millisecond()),
            lifted_by: gate.lifted.map(|lifted| lifted.by),
            connected: gate.connected,
            numbers: gate.numbers,
            credential_version: gate.credential_version,
            countries: gate.countries.clone(),
            home: gate.home,
            daily_ceiling: gate.daily_ceiling,
            quiet_hours: gate.quiet_hours,
            listeners: gate.listeners.0.iter().map(|(id, choice)| (id.to_string(), words(choice))).collect(),
            sender_rates: gate.sender_rates.clone(),
            zone: Some(gate.zone.clone()).filter(|zone| *zone != Zone::default()),
            overage_allowed: gate.overage_allowed,
        }
    }
}

/// A choice as it is stored.
pub(super) fn words(choice: &Choice) -> Vec<String> {
    choice.words().into_iter().map(str::to_owned).collect()
}

impl TryFrom<GateRow> for Gate {
    type Error = Fault;

    fn try_from(row: GateRow) -> Result<Self, Fault> {
        let freeze = Freeze {
            reason: row.frozen_reason.unwrap_or(FreezeReason::Unnamed),
            since: at(row.frozen_since.unwrap_or_default())?,
        };
        let lifted_at = row.lifted_at.map(at).transpose()?;
        Ok(Self {
            hook: row.hook.as_deref().and_then(HookId::parse),
            credential_refused: row.credential_refused,
            refusal_untold: row.refusal_untold.map(at).transpose()?,
            freeze_untold: row.freeze_untold,
            frozen: row.frozen.then_some(freeze),
            lifted: lifted_at.zip(row.lifted_by).map(|(at, by)| Lifted { at, by }),
            connected: row.connected,
            numbers: row.numbers,
            credential_version: row.credential_version,
            countries: row.countries,
            home: row.home,
            daily_ceiling: row.daily_ceiling,
            quiet_hours: row.quiet_hours,
            listeners: Listeners(
                row.listeners
                    .iter()
                    .map(|(id, words)| {
                        let id = id.parse().map_err(|_| Fault::permanent("a stored endpoint does not read"))?;
                        // A type of a later version is no reason to send nothing at all.
                        let known: Vec<_> = words.iter().filter(|word| Choice::parse(&[word]).is_ok()).collect();
                        Ok((id, Choice::parse(&known).unwrap_or(Choice::All)))
                    })
                    .collect::<Result<_, Fault>>()?,
            ),
            sender_rates: row.sender_rates,
            zone: row.zone.unwrap_or_default(),
            overage_allowed: row.overage_allowed,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct SessionRow {
    id: SessionId,
    user: UserId,
    hash: TokenHash,
    started: i64,
    seen: i64,
    ttl: i64,
}

impl From<&Session> for SessionRow {
    fn from(session: &Session) -> Self {
        Self {
            id: session.id,
            user: session.user,
            hash: session.hash.clone(),
            started: session.started.as_millisecond(),
            seen: session.seen.as_millisecond(),
            ttl: (session.started + crate::session::ABSOLUTE_LIFE).as_second(),
        }
    }
}

impl SessionRow {
    pub fn session(self, account: AccountId) -> Result<Session, Fault> {
        Ok(Session {
            id: self.id,
            account,
            user: self.user,
            hash: self.hash,
            started: at(self.started)?,
            seen: at(self.seen)?,
        })
    }
}

/// Without `ttl`: an expired key counts until it is deleted, or the count would be wrong.
#[derive(Serialize, Deserialize)]
pub(super) struct ApiKeyRow {
    id: ApiKeyId,
    hash: TokenHash,
    name: KeyName,
    scopes: Vec<Scope>,
    made_by: UserId,
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<i64>,
}

impl From<&ApiKey> for ApiKeyRow {
    fn from(key: &ApiKey) -> Self {
        Self {
            id: key.id,
            hash: key.hash.clone(),
            name: key.name.clone(),
            scopes: key.scopes.clone(),
            made_by: key.made_by,
            created: key.created.as_millisecond(),
            used: key.used.map(Timestamp::as_millisecond),
            expires: key.expires.map(Timestamp::as_millisecond),
        }
    }
}

impl ApiKeyRow {
    pub fn api_key(self, account: AccountId) -> Result<ApiKey, Fault> {
        Ok(ApiKey {
            id: self.id,
            account,
            hash: self.hash,
            name: self.name,
            scopes: self.scopes,
            made_by: self.made_by,
            created: at(self.created)?,
            used: self.used.map(at).transpose()?,
            expires: self.expires.map(at).transpose()?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct MailTokenRow {
    pub user: UserId,
    pub expires: i64,
    pub ttl: i64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct KeysRow {
    versions: Vec<KeyVersion>,
}

#[derive(Serialize, Deserialize)]
struct KeyVersion {
    version: u32,
    #[serde(with = "binary")]
    blob: Vec<u8>,
    /// Left out where it is not known: a row is compared with what was read of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    made: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(made: &i64) -> bool {
    *made == 0
}

impl From<&WrappedKeys> for KeysRow {
    fn from(keys: &WrappedKeys) -> Self {
        let version = |key: &WrappedKey| KeyVersion {
            version: key.version,
            blob: key.blob.clone(),
            made: key.made.as_millisecond(),
        };
        Self { versions: keys.versions.iter().map(version).collect() }
    }
}

impl KeysRow {
    pub fn keys(self, account: AccountId, purpose: Purpose) -> Result<WrappedKeys, Fault> {
        let key =
            |key: KeyVersion| Ok::<_, Fault>(WrappedKey { version: key.version, blob: key.blob, made: at(key.made)? });
        let versions = self.versions.into_iter().map(key).collect::<Result<_, _>>()?;
        Ok(WrappedKeys { account, purpose, versions })
    }

    /// The attribute `versions` as it is stored, to compare with.
    pub fn stored_versions(&self) -> Result<AttributeValue, Fault> {
        serde_dynamo::to_attribute_value(&self.versions).map_err(|_| Fault::permanent("a row did not serialize"))
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct CredentialRow {
    version: u32,
    account_sid: Sid,
    region: Region,
    kind: CredentialKind,
    friendly_name: Option<String>,
    trial: Option<bool>,
    connected_at: i64,
    /// Left out of rows from before it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret_since: Option<i64>,
    hook: String,
    #[serde(with = "binary")]
    send: Vec<u8>,
    #[serde(with = "binary")]
    verify: Vec<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    previous: Vec<PreviousRow>,
}

#[derive(Serialize, Deserialize)]
struct PreviousRow {
    #[serde(with = "binary")]
    verify: Vec<u8>,
    until: i64,
}

impl From<&StoredCredential> for CredentialRow {
    fn from(stored: &StoredCredential) -> Self {
        Self {
            version: stored.version,
            account_sid: stored.account_sid.clone(),
            region: stored.region,
            kind: stored.kind,
            friendly_name: stored.friendly_name.clone(),
            trial: stored.trial,
            connected_at: stored.connected_at.as_millisecond(),
            secret_since: Some(stored.secret_since.as_millisecond()),
            hook: stored.hook.reveal(),
            send: stored.send.0.clone(),
            verify: stored.verify.0.clone(),
            previous: stored
                .previous
                .iter()
                .map(|previous| PreviousRow {
                    verify: previous.verify.0.clone(),
                    until: previous.until.as_millisecond(),
                })
                .collect(),
        }
    }
}

impl CredentialRow {
    pub fn credential(self, account: AccountId) -> Result<StoredCredential, Fault> {
        Ok(StoredCredential {
            account,
            version: self.version,
            account_sid: self.account_sid,
            region: self.region,
            kind: self.kind,
            friendly_name: self.friendly_name,
            trial: self.trial,
            connected_at: at(self.connected_at)?,
            secret_since: at(self.secret_since.unwrap_or(self.connected_at))?,
            hook: HookId::parse(&self.hook).ok_or_else(damaged("hook"))?,
            send: Sealed(self.send),
            verify: Sealed(self.verify),
            previous: self
                .previous
                .into_iter()
                .map(|row| Ok(Previous { verify: Sealed(row.verify), until: at(row.until)? }))
                .collect::<Result<_, Fault>>()?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct ClaimRow {
    pub account: AccountId,
}

#[derive(Serialize, Deserialize)]
pub(super) struct MessageRow {
    direction: Direction,
    format: Format,
    status: Status,
    revision: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    own: String,
    other_hash: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    country: Option<Country>,
    segments: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    held: MicroCredits,
    price_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    attempts: u32,
    settled: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    released: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknown_since: Option<i64>,
    #[serde(default)]
    clean_listings: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    decide_until: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resent_as: Option<MessageId>,
    created: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held_until: Option<i64>,
    /// Rows from before it could be chosen have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    valid_until: Option<i64>,
    updated: i64,
}

impl From<&Message> for MessageRow {
    fn from(message: &Message) -> Self {
        Self {
            direction: message.direction,
            format: message.format,
            status: message.status,
            revision: message.revision,
            sid: message.sid.clone(),
            own: message.own.clone(),
            other_hash: message.other_hash.clone(),
            country: message.country,
            segments: message.segments,
            encoding: message.encoding,
            held: message.held,
            price_version: message.price_version.clone(),
            error_code: message.error_code,
            reason: message.reason,
            attempts: message.attempts,
            settled: message.settled,
            released: message.released,
            unknown_since: message.settling.map(|settling| settling.since.as_millisecond()),
            clean_listings: message.settling.map_or(0, |settling| settling.clean),
            decide_until: message.settling.and_then(|settling| settling.decide_until).map(Timestamp::as_millisecond),
            resent_as: message.settling.and_then(|settling| settling.resent_as),
            created: message.created.as_millisecond(),
            held_until: message.held_until.map(Timestamp::as_millisecond),
            valid_until: Some(message.valid_until.as_millisecond()),
            updated: message.updated.as_millisecond(),
        }
    }
}

/// A message from its item.
pub(super) fn message(item: Item) -> Result<Message, Fault> {
    let (pk, sk) = (text(&item, "pk")?, text(&item, "sk")?);
    let (account, id) = super::keys::parse_message(&pk, &sk).ok_or_else(damaged("key of a message"))?;
    let row: MessageRow = from_item(item)?;
    let settling = row.unknown_since.map(|since| {
        Ok::<_, Fault>(Settling {
            since: at(since)?,
            clean: row.clean_listings,
            decide_until: row.decide_until.map(at).transpose()?,
            resent_as: row.resent_as,
        })
    });
    Ok(Message {
        id,
        account,
        direction: row.direction,
        format: row.format,
        status: row.status,
        revision: row.revision,
        sid: row.sid,
        own: row.own,
        other_hash: row.other_hash,
        country: row.country,
        segments: row.segments,
        encoding: row.encoding,
        held: row.held,
        price_version: row.price_version,
        error_code: row.error_code,
        reason: row.reason,
        attempts: row.attempts,
        settled: row.settled,
        released: row.released,
        settling: settling.transpose()?,
        created: at(row.created)?,
        held_until: row.held_until.map(at).transpose()?,
        valid_until: row.valid_until.map_or_else(|| Ok(at(row.created)? + VALIDITY), at)?,
        updated: at(row.updated)?,
    })
}

#[derive(Serialize, Deserialize)]
pub(super) struct IdempotencyRow {
    pub fingerprint: String,
    pub answer: String,
    pub expires: i64,
    pub ttl: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_id: Option<BatchId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcomes: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quiet_hours: Option<QuietHours>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    template: Option<Bytes>,
}

/// Bytes that may be left out.
#[derive(Serialize, Deserialize)]
struct Bytes(#[serde(with = "binary")] Vec<u8>);

impl From<&Idempotency> for IdempotencyRow {
    fn from(idempotency: &Idempotency) -> Self {
        Self {
            fingerprint: idempotency.fingerprint.clone(),
            answer: idempotency.answer.clone(),
            expires: idempotency.expires.as_millisecond(),
            ttl: idempotency.expires.as_second(),
            batch_id: idempotency.batch.as_ref().map(|batch| batch.id),
            created: idempotency.batch.as_ref().map(|batch| batch.created.as_millisecond()),
            outcomes: idempotency.batch.as_ref().map(|batch| RowOutcome::to_text(&batch.outcomes)),
            quiet_hours: idempotency.batch.as_ref().and_then(|batch| batch.quiet_hours),
            template: idempotency.batch.as_ref().and_then(|batch| Some(Bytes(batch.template.as_ref()?.0.clone()))),
        }
    }
}

impl IdempotencyRow {
    pub fn idempotency(self, key: IdempotencyKey) -> Result<Idempotency, Fault> {
        let batch = match (self.batch_id, self.created, self.outcomes) {
            (Some(id), Some(created), Some(outcomes)) => Some(Batch {
                id,
                created: at(created)?,
                quiet_hours: self.quiet_hours,
                template: self.template.map(|Bytes(bytes)| Sealed(bytes)),
                outcomes: RowOutcome::from_text(&outcomes).ok_or_else(damaged("batch"))?,
            }),
            _ => None,
        };
        let expires = at(self.expires)?;
        Ok(Idempotency { key, fingerprint: self.fingerprint, answer: self.answer, batch, expires })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct AllowanceRow {
    /// Below zero: owed.
    available: Change,
    held: MicroCredits,
    used: MicroCredits,
    day_utc: String,
    day_segments: u64,
    #[serde(default)]
    room: MicroCredits,
}

impl From<&Allowance> for AllowanceRow {
    fn from(allowance: &Allowance) -> Self {
        Self {
            available: allowance.free,
            held: allowance.held,
            used: allowance.used,
            day_utc: allowance.day.clone(),
            day_segments: allowance.day_segments,
            room: allowance.room,
        }
    }
}

impl From<AllowanceRow> for Allowance {
    fn from(row: AllowanceRow) -> Self {
        Self {
            free: row.available,
            held: row.held,
            used: row.used,
            day: row.day_utc,
            day_segments: row.day_segments,
            room: row.room,
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct PurseRow {
    lots: Vec<Lot>,
    cleared: Change,
    began: i64,
    credit: MicroCredits,
    used_before: MicroCredits,
    warned: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    overage: Option<Overage>,
    revision: u32,
}

impl From<&Purse> for PurseRow {
    fn from(purse: &Purse) -> Self {
        let Period { began, credit, used_before, warned } = purse.period;
        let (lots, cleared, revision) = (purse.lots.clone(), purse.cleared, purse.revision);
        let overage = purse.overage.clone();
        Self { lots, cleared, began: began.as_millisecond(), credit, used_before, warned, overage, revision }
    }
}

impl TryFrom<PurseRow> for Purse {
    type Error = Fault;

    fn try_from(row: PurseRow) -> Result<Self, Fault> {
        let PurseRow { lots, cleared, began, credit, used_before, warned, overage, revision } = row;
        let period = Period { began: at(began)?, credit, used_before, warned };
        Ok(Self { lots, cleared, period, overage, revision })
    }
}

/// An entry, in the ledger and in the journal.
#[derive(Serialize, Deserialize)]
pub(super) struct EntryRow {
    id: EntryId,
    account: AccountId,
    occasion: Occasion,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lines: Vec<Line>,
    posted: i64,
    month: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usage: Option<UsageEventRow>,
}

impl EntryRow {
    /// The message that was charged.
    pub fn message(&self) -> Option<MessageId> {
        self.usage.as_ref().and_then(|usage| usage.message)
    }
}

/// The work of an entry.
#[derive(Serialize, Deserialize)]
struct UsageEventRow {
    sid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<MessageId>,
    kind: UsageKind,
    direction: Direction,
    format: Format,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    country: Option<Country>,
    units: i64,
    credits: Change,
    price_version: String,
    at: i64,
    day: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<u32>,
}

impl From<&Entry> for EntryRow {
    fn from(entry: &Entry) -> Self {
        let usage = entry.usage.as_ref().map(|event| UsageEventRow {
            sid: event.sid.clone(),
            message: event.message,
            kind: event.kind,
            direction: event.direction,
            format: event.format,
            country: event.country,
            units: event.units,
            credits: event.credits,
            price_version: event.price_version.clone(),
            at: event.at.as_millisecond(),
            day: event.day,
            error: event.error,
        });
        Self {
            id: entry.id,
            account: entry.account,
            occasion: entry.occasion.clone(),
            lines: entry.lines.clone(),
            posted: entry.posted.as_millisecond(),
            month: entry.month.clone(),
            usage,
        }
    }
}

impl TryFrom<EntryRow> for Entry {
    type Error = Fault;

    fn try_from(row: EntryRow) -> Result<Self, Fault> {
        let account = row.account;
        let usage = row.usage.map(|row| {
            Ok::<_, Fault>(UsageEvent {
                account,
                sid: row.sid,
                message: row.message,
                kind: row.kind,
                direction: row.direction,
                format: row.format,
                country: row.country,
                units: row.units,
                credits: row.credits,
                price_version: row.price_version,
                at: at(row.at)?,
                day: row.day,
                error: row.error,
            })
        });
        Ok(Self {
            id: row.id,
            account,
            occasion: row.occasion,
            lines: row.lines,
            posted: at(row.posted)?,
            month: row.month,
            usage: usage.transpose()?,
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct UsageRow {
    pub events: i64,
    pub units: i64,
    pub credits: Change,
}

/// Puts a message's row together.
pub(super) fn message_item(key: &Key, message: &Message) -> Result<Item, Fault> {
    to_item(key, &MessageRow::from(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(row: &serde_json::Value) -> Gate {
        let row: GateRow = serde_json::from_value(row.clone()).unwrap();
        Gate::try_from(row).unwrap()
    }

    #[test]
    fn a_gate_from_before_freezes_had_reasons_reads() {
        let row = serde_json::json!({ "connected": true, "credential_version": 1, "countries": ["US"], "home": "US",
            "daily_ceiling": 500, "frozen": true });
        let read = gate(&row);
        let unnamed = Freeze { reason: FreezeReason::Unnamed, since: Timestamp::UNIX_EPOCH };
        assert_eq!((read.frozen, read.lifted, read.quiet_hours), (Some(unnamed), None, None));
    }

    #[test]
    fn a_gate_reads_back_as_it_was_stored() {
        let mut stored = Gate::new(Country::parse("US").unwrap());
        let now = Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_secs(7);
        stored.frozen = Some(Freeze { reason: FreezeReason::Pumping, since: now });
        stored.lifted = Some(Lifted { at: now, by: UserId::from_bits(1) });
        stored.quiet_hours = Some(QuietHours { from: "21:00".parse().unwrap(), to: "08:00".parse().unwrap() });
        stored.sender_rates.insert("+14155550100".to_owned(), 12);
        assert_eq!(gate(&serde_json::to_value(GateRow::from(&stored)).unwrap()), stored);
    }
}
