//! KMS: symmetric keys that seal and open with AES-256-GCM, bound to their encryption context.
//!
//! Not emulated: key policies and grants, who called, asymmetric and HMAC keys, imported material, multi-region keys,
//! the rotation itself (only that it was asked for), `CancelKeyDeletion`, `DryRun`, tags, throttling.

use crate::reply::{Refusal, parse};
use crate::store::{Store, epoch_seconds, new_uuid, now_ms, random, uuid_text};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine, prelude::BASE64_STANDARD};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A ciphertext blob: this byte, 16 bytes of key id, 12 of nonce, then the ciphertext and its tag.
const BLOB_VERSION: u8 = 1;
const ARN_PREFIX: &str = "arn:aws:kms:us-east-1:000000000000:";
const DAY_MS: i64 = 86_400_000;

/// The encryption context, in the one order that both sides agree on.
pub(crate) type Context = BTreeMap<String, String>;

/// Answers one KMS action.
pub(crate) fn answer(store: &Store, action: &str, body: &[u8]) -> Result<Value, Refusal> {
    match action {
        "CreateKey" => create_key(store, &parse(body)?),
        "CreateAlias" => create_alias(store, &parse(body)?),
        "DescribeKey" => store.read(|tx| Ok(json!({ "KeyMetadata": find(tx, &target(body)?)?.metadata() }))),
        "EnableKeyRotation" => enable_rotation(store, &target(body)?),
        "EnableKey" => set_state(store, &target(body)?, State::Enabled),
        "DisableKey" => set_state(store, &target(body)?, State::Disabled),
        "ScheduleKeyDeletion" => schedule_deletion(store, &parse(body)?),
        "GenerateDataKey" => generate_data_key(store, &parse(body)?),
        "Encrypt" => encrypt(store, &parse(body)?),
        "Decrypt" => decrypt(store, &parse(body)?),
        "ReEncrypt" => re_encrypt(store, &parse(body)?),
        other => Err(Refusal::unknown_operation(other)),
    }
}

/// Forgets the keys whose waiting time before deletion is over.
pub(crate) fn sweep(store: &Store) -> Result<(), Refusal> {
    store.write_durably(|tx| {
        tx.execute("DELETE FROM kms_keys WHERE deletion_ms <= ?1", params![now_ms()])?;
        Ok(())
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Enabled,
    Disabled,
    PendingDeletion,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Enabled => "Enabled",
            State::Disabled => "Disabled",
            State::PendingDeletion => "PendingDeletion",
        }
    }

    fn parse(name: &str) -> State {
        match name {
            "Enabled" => State::Enabled,
            "Disabled" => State::Disabled,
            _ => State::PendingDeletion,
        }
    }
}

/// A key as stored. It has no `Debug`: it holds the material.
pub(crate) struct Key {
    id: String,
    material: Vec<u8>,
    state: State,
    description: String,
    created_ms: i64,
    deletion_ms: Option<i64>,
}

impl Key {
    fn arn(&self) -> String {
        format!("{ARN_PREFIX}key/{}", self.id)
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({
            "AWSAccountId": "000000000000", "KeyId": self.id, "Arn": self.arn(),
            "CreationDate": epoch_seconds(self.created_ms), "Enabled": self.state == State::Enabled,
            "Description": self.description, "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": self.state.name(),
            "Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT", "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"], "MultiRegion": false,
        });
        if let (Some(at), Some(fields)) = (self.deletion_ms, metadata.as_object_mut()) {
            fields.insert("DeletionDate".into(), epoch_seconds(at).into());
        }
        metadata
    }

    /// `Err` unless the key may seal and open.
    fn usable(self) -> Result<Key, Refusal> {
        match self.state {
            State::Enabled => Ok(self),
            State::Disabled => Err(Refusal::new("DisabledException", format!("{} is disabled.", self.arn()))),
            State::PendingDeletion => Err(self.pending_deletion()),
        }
    }

    fn pending_deletion(&self) -> Refusal {
        Refusal::new("KMSInvalidStateException", format!("{} is pending deletion.", self.arn()))
    }

    fn cipher(&self) -> Result<LessSafeKey, Refusal> {
        let key = UnboundKey::new(&AES_256_GCM, &self.material);
        Ok(LessSafeKey::new(key.map_err(|_| Refusal::internal("the key material has a wrong length"))?))
    }

    fn seal(&self, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, Refusal> {
        let header = header(&self.id)?;
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut sealed = plaintext.to_vec();
        self.cipher()?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(bound_data(&header, context)),
                &mut sealed,
            )
            .map_err(|_| Refusal::internal("sealing failed"))?;
        Ok([header.as_slice(), &nonce, &sealed].concat())
    }
}

/// Makes a key for another double that keeps its values sealed, and returns its id.
pub(crate) fn new_key(tx: &Transaction, description: &str) -> Result<String, Refusal> {
    let id = new_uuid()?;
    tx.execute(
        "INSERT INTO kms_keys (id, material, state, description, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, random::<32>()?, State::Enabled.name(), description, now_ms()],
    )?;
    Ok(id)
}

pub(crate) fn name_key(tx: &Transaction, alias: &str, id: &str) -> Result<(), Refusal> {
    let taken = tx.execute("INSERT OR IGNORE INTO kms_aliases (name, key) VALUES (?1, ?2)", params![alias, id])? == 0;
    if taken {
        return Err(Refusal::new("AlreadyExistsException", format!("An alias with the name {alias} already exists")));
    }
    Ok(())
}

/// Seals under the key that `name` stands for.
pub(crate) fn seal(tx: &Transaction, name: &str, plaintext: &[u8], context: &Context) -> Result<Vec<u8>, Refusal> {
    find(tx, name)?.usable()?.seal(plaintext, context)
}

/// Opens a blob and says which key did. `Err` when a byte of it or of the context differs from when it was sealed.
pub(crate) fn open(tx: &Transaction, blob: &[u8], context: &Context) -> Result<(Key, Vec<u8>), Refusal> {
    let invalid = || Refusal::new("InvalidCiphertextException", "the ciphertext or its encryption context is wrong");
    let (header, rest) = blob.split_at_checked(17).ok_or_else(invalid)?;
    let (version, id) = header.split_first().ok_or_else(invalid)?;
    let id = u128::from_be_bytes(id.try_into().map_err(|_| invalid())?);
    let (nonce, sealed) = rest.split_at_checked(NONCE_LEN).ok_or_else(invalid)?;
    if *version != BLOB_VERSION {
        return Err(invalid());
    }
    let key = load(tx, &uuid_text(id))?.ok_or_else(invalid)?.usable()?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| invalid())?;
    let mut sealed = sealed.to_vec();
    let plaintext = key
        .cipher()?
        .open_in_place(nonce, Aad::from(bound_data(header, context)), &mut sealed)
        .map_err(|_| invalid())?
        .to_vec();
    Ok((key, plaintext))
}

fn header(id: &str) -> Result<[u8; 17], Refusal> {
    let id = u128::from_str_radix(&id.replace('-', ""), 16).map_err(|_| Refusal::internal("a key has a wrong id"))?;
    let mut header = [BLOB_VERSION; 17];
    if let Some((_, rest)) = header.split_first_mut() {
        rest.copy_from_slice(&id.to_be_bytes());
    }
    Ok(header)
}

/// Each part with its length before it, so that no two contexts give the same bytes.
fn bound_data(header: &[u8], context: &Context) -> Vec<u8> {
    let parts = context.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    let mut bytes = header.to_vec();
    for part in parts {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Target {
    key_id: String,
}

fn target(body: &[u8]) -> Result<String, Refusal> {
    parse::<Target>(body).map(|target| target.key_id)
}

/// The key that an id, an alias or the ARN of either stands for.
fn find(tx: &Transaction, name: &str) -> Result<Key, Refusal> {
    let unknown = || Refusal::new("NotFoundException", format!("{name} is not found."));
    let short = name.strip_prefix(ARN_PREFIX).unwrap_or(name);
    let id = if short.starts_with("alias/") {
        tx.prepare_cached("SELECT key FROM kms_aliases WHERE name = ?1")?
            .query_row(params![short], |row| row.get(0))
            .optional()?
            .ok_or_else(unknown)?
    } else {
        short.strip_prefix("key/").unwrap_or(short).to_owned()
    };
    load(tx, &id)?.ok_or_else(unknown)
}

fn load(tx: &Transaction, id: &str) -> Result<Option<Key>, Refusal> {
    let key = tx
        .prepare_cached(
            "SELECT id, material, state, description, created_ms, deletion_ms FROM kms_keys
             WHERE id = ?1 AND (deletion_ms IS NULL OR deletion_ms > ?2)",
        )?
        .query_row(params![id, now_ms()], |row| {
            Ok(Key {
                id: row.get(0)?,
                material: row.get(1)?,
                state: State::parse(&row.get::<_, String>(2)?),
                description: row.get(3)?,
                created_ms: row.get(4)?,
                deletion_ms: row.get(5)?,
            })
        })
        .optional()?;
    Ok(key)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKey {
    #[serde(default)]
    description: String,
    key_spec: Option<String>,
    key_usage: Option<String>,
}

fn create_key(store: &Store, ask: &CreateKey) -> Result<Value, Refusal> {
    let symmetric = ask.key_spec.as_deref().is_none_or(|spec| spec == "SYMMETRIC_DEFAULT")
        && ask.key_usage.as_deref().is_none_or(|usage| usage == "ENCRYPT_DECRYPT");
    if !symmetric {
        return Err(Refusal::new("UnsupportedOperationException", "this double makes only SYMMETRIC_DEFAULT keys"));
    }
    store.write_durably(|tx| {
        let id = new_key(tx, &ask.description)?;
        Ok(json!({ "KeyMetadata": find(tx, &id)?.metadata() }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateAlias {
    alias_name: String,
    target_key_id: String,
}

fn create_alias(store: &Store, ask: &CreateAlias) -> Result<Value, Refusal> {
    if !ask.alias_name.starts_with("alias/") || ask.alias_name.starts_with("alias/aws/") {
        let message = "an alias name starts with alias/, and not with alias/aws/";
        return Err(Refusal::new("InvalidAliasNameException", message));
    }
    store.write_durably(|tx| {
        let key = find(tx, &ask.target_key_id)?;
        name_key(tx, &ask.alias_name, &key.id)?;
        Ok(json!({}))
    })
}

fn enable_rotation(store: &Store, name: &str) -> Result<Value, Refusal> {
    store.write(|tx| {
        let key = find(tx, name)?.usable()?;
        tx.execute("UPDATE kms_keys SET rotates = 1 WHERE id = ?1", params![key.id])?;
        Ok(json!({}))
    })
}

fn set_state(store: &Store, name: &str, state: State) -> Result<Value, Refusal> {
    store.write_durably(|tx| {
        let key = find(tx, name)?;
        if key.state == State::PendingDeletion {
            return Err(key.pending_deletion());
        }
        tx.execute("UPDATE kms_keys SET state = ?2 WHERE id = ?1", params![key.id, state.name()])?;
        Ok(json!({}))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScheduleKeyDeletion {
    key_id: String,
    pending_window_in_days: Option<i64>,
}

fn schedule_deletion(store: &Store, ask: &ScheduleKeyDeletion) -> Result<Value, Refusal> {
    let days = ask.pending_window_in_days.unwrap_or(30);
    if !(7..=30).contains(&days) {
        return Err(Refusal::new("ValidationException", "PendingWindowInDays must be from 7 to 30"));
    }
    store.write_durably(|tx| {
        let key = find(tx, &ask.key_id)?;
        if key.state == State::PendingDeletion {
            return Err(key.pending_deletion());
        }
        let at = now_ms() + days * DAY_MS;
        let state = State::PendingDeletion.name();
        tx.execute("UPDATE kms_keys SET state = ?2, deletion_ms = ?3 WHERE id = ?1", params![key.id, state, at])?;
        Ok(json!({
            "KeyId": key.arn(), "DeletionDate": epoch_seconds(at), "KeyState": state, "PendingWindowInDays": days,
        }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GenerateDataKey {
    key_id: String,
    key_spec: Option<String>,
    #[serde(default)]
    encryption_context: Context,
}

fn generate_data_key(store: &Store, ask: &GenerateDataKey) -> Result<Value, Refusal> {
    if ask.key_spec.as_deref() != Some("AES_256") {
        return Err(Refusal::new("ValidationException", "this double makes only data keys with KeySpec AES_256"));
    }
    store.read(|tx| {
        let key = find(tx, &ask.key_id)?.usable()?;
        let data_key: [u8; 32] = random()?;
        let blob = key.seal(&data_key, &ask.encryption_context)?;
        Ok(json!({
            "KeyId": key.arn(), "Plaintext": BASE64_STANDARD.encode(data_key),
            "CiphertextBlob": BASE64_STANDARD.encode(blob),
        }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypt {
    key_id: String,
    plaintext: String,
    #[serde(default)]
    encryption_context: Context,
}

fn encrypt(store: &Store, ask: &Encrypt) -> Result<Value, Refusal> {
    let plaintext = bytes_of(&ask.plaintext)?;
    if !(1..=4096).contains(&plaintext.len()) {
        return Err(Refusal::new("ValidationException", "the plaintext must have 1 to 4096 bytes"));
    }
    store.read(|tx| {
        let key = find(tx, &ask.key_id)?.usable()?;
        let blob = key.seal(&plaintext, &ask.encryption_context)?;
        Ok(json!({
            "KeyId": key.arn(), "CiphertextBlob": BASE64_STANDARD.encode(blob),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypt {
    ciphertext_blob: String,
    key_id: Option<String>,
    #[serde(default)]
    encryption_context: Context,
}

fn decrypt(store: &Store, ask: &Decrypt) -> Result<Value, Refusal> {
    let blob = bytes_of(&ask.ciphertext_blob)?;
    store.read(|tx| {
        let (key, plaintext) = open_with(tx, &blob, &ask.encryption_context, ask.key_id.as_deref())?;
        Ok(json!({
            "KeyId": key.arn(), "Plaintext": BASE64_STANDARD.encode(plaintext),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReEncrypt {
    ciphertext_blob: String,
    source_key_id: Option<String>,
    #[serde(default)]
    source_encryption_context: Context,
    destination_key_id: String,
    #[serde(default)]
    destination_encryption_context: Context,
}

fn re_encrypt(store: &Store, ask: &ReEncrypt) -> Result<Value, Refusal> {
    let blob = bytes_of(&ask.ciphertext_blob)?;
    store.read(|tx| {
        let (from, plaintext) = open_with(tx, &blob, &ask.source_encryption_context, ask.source_key_id.as_deref())?;
        let to = find(tx, &ask.destination_key_id)?.usable()?;
        let blob = to.seal(&plaintext, &ask.destination_encryption_context)?;
        Ok(json!({
            "CiphertextBlob": BASE64_STANDARD.encode(blob), "SourceKeyId": from.arn(), "KeyId": to.arn(),
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT", "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }))
    })
}

/// Opens a blob; when the caller names a key, it must be the one.
fn open_with(
    tx: &Transaction,
    blob: &[u8],
    context: &Context,
    expected: Option<&str>,
) -> Result<(Key, Vec<u8>), Refusal> {
    let expected = expected.map(|name| find(tx, name)).transpose()?;
    let opened = open(tx, blob, context)?;
    if expected.is_some_and(|key| key.id != opened.0.id) {
        return Err(Refusal::new("IncorrectKeyException", "the ciphertext was sealed under another key"));
    }
    Ok(opened)
}

fn bytes_of(text: &str) -> Result<Vec<u8>, Refusal> {
    BASE64_STANDARD.decode(text).map_err(|error| Refusal::new("SerializationException", error.to_string()))
}
