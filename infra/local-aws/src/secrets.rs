//! Secrets Manager: named secrets with versions, sealed on the disk under a KMS key of their own.
//!
//! Not emulated: rotation, deletion and its recovery window, resource policies, replicas, tags, stages other than
//! AWSCURRENT and AWSPREVIOUS, `KmsKeyId`.

use crate::kms;
use crate::reply::{Refusal, parse};
use crate::store::{Store, epoch_seconds, new_uuid, now_ms, random};
use base64::{Engine, prelude::BASE64_STANDARD};
use rusqlite::{OptionalExtension, Transaction, params};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const CURRENT: &str = "AWSCURRENT";
const PREVIOUS: &str = "AWSPREVIOUS";
const KEY_ALIAS: &str = "alias/aws/secretsmanager";
const MAX_BYTES: usize = 65_536;

/// Answers one Secrets Manager action.
pub(crate) fn answer(store: &Store, action: &str, body: &[u8]) -> Result<Value, Refusal> {
    match action {
        "CreateSecret" => create(store, &parse(body)?),
        "PutSecretValue" => put(store, &parse(body)?),
        "GetSecretValue" => get(store, &parse(body)?),
        "DescribeSecret" => describe(store, &parse(body)?),
        other => Err(Refusal::unknown_operation(other)),
    }
}

/// Makes the key that seals the secrets, when it is not there yet.
pub(crate) fn prepare(store: &Store) -> Result<(), Refusal> {
    store.write_durably(|tx| {
        let aliases = "SELECT count(*) FROM kms_aliases WHERE name = ?1";
        if tx.query_row(aliases, params![KEY_ALIAS], |row| row.get::<_, i64>(0))? == 0 {
            let key = kms::new_key(tx, "seals the secrets of Secrets Manager")?;
            kms::name_key(tx, KEY_ALIAS, &key)?;
        }
        Ok(())
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateSecret {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(flatten)]
    content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutSecretValue {
    secret_id: String,
    version_stages: Option<Vec<String>>,
    #[serde(flatten)]
    content: Content,
}

/// What both writing actions carry.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    client_request_token: Option<String>,
    secret_string: Option<String>,
    secret_binary: Option<String>,
}

impl Content {
    /// The value and whether it is text; `None` when the call carries none.
    fn value(&self) -> Result<Option<(Vec<u8>, bool)>, Refusal> {
        let value = match (&self.secret_string, &self.secret_binary) {
            (None, None) => return Ok(None),
            (Some(text), None) => (text.clone().into_bytes(), true),
            (None, Some(binary)) => {
                let bytes = BASE64_STANDARD.decode(binary);
                (bytes.map_err(|error| Refusal::new("SerializationException", error.to_string()))?, false)
            }
            (Some(_), Some(_)) => {
                return Err(invalid("give SecretString or SecretBinary, not both"));
            }
        };
        if value.0.len() > MAX_BYTES {
            return Err(invalid("a secret has at most 65536 bytes"));
        }
        Ok(Some(value))
    }
}

fn invalid(message: &str) -> Refusal {
    Refusal::new("InvalidParameterException", message)
}

fn create(store: &Store, ask: &CreateSecret) -> Result<Value, Refusal> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
    if ask.name.is_empty() || ask.name.len() > 512 || !ask.name.chars().all(allowed) {
        return Err(invalid("a name has 1 to 512 of the characters A-Z a-z 0-9 / _ + = . @ -"));
    }
    let value = ask.content.value()?;
    store.write_durably(|tx| {
        if let Some(secret) = find(tx, &ask.name)? {
            return create_again(tx, ask, &secret, value.as_ref());
        }
        // AWS adds six random characters, so that a secret made anew under an old name has another ARN.
        let suffix = u32::from_be_bytes(random()?) & 0xff_ffff;
        let arn = format!("arn:aws:secretsmanager:us-east-1:000000000000:secret:{}-{suffix:06x}", ask.name);
        tx.execute(
            "INSERT INTO secrets (name, arn, description, created_ms, changed_ms) VALUES (?1, ?2, ?3, ?4, ?4)",
            params![ask.name, arn, ask.description, now_ms()],
        )?;
        let mut reply = Map::new();
        if let Some(value) = &value {
            let version = write_version(tx, &ask.name, &ask.content, value)?;
            reply.insert("VersionId".into(), version.into());
        }
        reply.insert("ARN".into(), arn.into());
        reply.insert("Name".into(), ask.name.clone().into());
        Ok(reply.into())
    })
}

/// The same call with the same token and value succeeds again; anything else meets the secret that is there.
fn create_again(
    tx: &Transaction,
    ask: &CreateSecret,
    secret: &Secret,
    value: Option<&(Vec<u8>, bool)>,
) -> Result<Value, Refusal> {
    let exists = || {
        let message = format!("The operation failed because the secret {} already exists.", ask.name);
        Refusal::new("ResourceExistsException", message)
    };
    let token = ask.content.client_request_token.as_ref().ok_or_else(exists)?;
    let version = find_version(tx, &secret.name, "id", token)?.ok_or_else(exists)?;
    if Some(&version.open(tx, &secret.name)?) != value.map(|(bytes, _)| bytes) {
        return Err(exists());
    }
    Ok(json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": token }))
}

fn put(store: &Store, ask: &PutSecretValue) -> Result<Value, Refusal> {
    if ask.version_stages.as_ref().is_some_and(|stages| *stages != [CURRENT]) {
        return Err(invalid("this double knows no stages but AWSCURRENT and AWSPREVIOUS"));
    }
    let value = ask.content.value()?.ok_or_else(|| invalid("SecretString or SecretBinary is required"))?;
    store.write_durably(|tx| {
        let secret = expect(tx, &ask.secret_id)?;
        let version = write_version(tx, &secret.name, &ask.content, &value)?;
        Ok(json!({ "ARN": secret.arn, "Name": secret.name, "VersionId": version, "VersionStages": [CURRENT] }))
    })
}

/// Stores a value as the current version and makes the one before it AWSPREVIOUS. Returns the version's id.
fn write_version(
    tx: &Transaction,
    secret: &str,
    content: &Content,
    value: &(Vec<u8>, bool),
) -> Result<String, Refusal> {
    let id = match &content.client_request_token {
        Some(token) => token.clone(),
        None => new_uuid()?,
    };
    if let Some(version) = find_version(tx, secret, "id", &id)? {
        if version.open(tx, secret)? == value.0 {
            return Ok(id);
        }
        let message = "a version with this ClientRequestToken and another value exists";
        return Err(Refusal::new("ResourceExistsException", message));
    }
    let now = now_ms();
    let had_current = find_version(tx, secret, "stage", CURRENT)?.is_some();
    if had_current {
        let set = "UPDATE secret_versions SET stage = ?3 WHERE secret = ?1 AND stage = ?2";
        tx.execute(set, params![secret, PREVIOUS, None::<String>])?;
        tx.execute(set, params![secret, CURRENT, PREVIOUS])?;
    }
    let sealed = kms::seal(tx, KEY_ALIAS, &value.0, &context(secret, &id))?;
    tx.execute(
        "INSERT INTO secret_versions (secret, id, is_text, sealed, stage, created_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![secret, id, value.1, sealed, CURRENT, now],
    )?;
    tx.execute("UPDATE secrets SET changed_ms = ?2 WHERE name = ?1", params![secret, now])?;
    Ok(id)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GetSecretValue {
    secret_id: String,
    version_id: Option<String>,
    version_stage: Option<String>,
}

fn get(store: &Store, ask: &GetSecretValue) -> Result<Value, Refusal> {
    store.read(|tx| {
        let secret = expect(tx, &ask.secret_id)?;
        let stage = ask.version_stage.as_deref();
        let version = match &ask.version_id {
            Some(id) => find_version(tx, &secret.name, "id", id)?
                .filter(|version| stage.is_none_or(|stage| version.stage.as_deref() == Some(stage))),
            None => find_version(tx, &secret.name, "stage", stage.unwrap_or(CURRENT))?,
        };
        let version = version.ok_or_else(|| not_found("Secrets Manager can't find the specified secret value."))?;
        let value = version.open(tx, &secret.name)?;
        let (field, value) = if version.is_text {
            ("SecretString", String::from_utf8_lossy(&value).into_owned())
        } else {
            ("SecretBinary", BASE64_STANDARD.encode(value))
        };
        Ok(json!({
            "ARN": secret.arn, "Name": secret.name, "VersionId": version.id, field: value,
            "VersionStages": version.stage.as_slice(), "CreatedDate": epoch_seconds(version.created_ms),
        }))
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DescribeSecret {
    secret_id: String,
}

fn describe(store: &Store, ask: &DescribeSecret) -> Result<Value, Refusal> {
    store.read(|tx| {
        let secret = expect(tx, &ask.secret_id)?;
        let mut versions = Map::new();
        let mut query = tx.prepare("SELECT id, stage FROM secret_versions WHERE secret = ?1 AND stage IS NOT NULL")?;
        let mut rows = query.query(params![secret.name])?;
        while let Some(row) = rows.next()? {
            versions.insert(row.get(0)?, json!([row.get::<_, String>(1)?]));
        }
        Ok(json!({
            "ARN": secret.arn, "Name": secret.name, "Description": secret.description,
            "CreatedDate": epoch_seconds(secret.created_ms), "LastChangedDate": epoch_seconds(secret.changed_ms),
            "VersionIdsToStages": versions,
        }))
    })
}

struct Secret {
    name: String,
    arn: String,
    description: String,
    created_ms: i64,
    changed_ms: i64,
}

/// By name, by ARN, or by ARN without its random end.
fn find(tx: &Transaction, name: &str) -> Result<Option<Secret>, Refusal> {
    let secret = tx
        .prepare_cached(
            "SELECT name, arn, description, created_ms, changed_ms FROM secrets
             WHERE name = ?1 OR arn = ?1 OR substr(arn, 1, length(arn) - 7) = ?1",
        )?
        .query_row(params![name], |row| {
            Ok(Secret {
                name: row.get(0)?,
                arn: row.get(1)?,
                description: row.get(2)?,
                created_ms: row.get(3)?,
                changed_ms: row.get(4)?,
            })
        })
        .optional()?;
    Ok(secret)
}

fn expect(tx: &Transaction, name: &str) -> Result<Secret, Refusal> {
    find(tx, name)?.ok_or_else(|| not_found("Secrets Manager can't find the specified secret."))
}

fn not_found(message: &str) -> Refusal {
    Refusal::new("ResourceNotFoundException", message)
}

struct Version {
    id: String,
    is_text: bool,
    sealed: Vec<u8>,
    stage: Option<String>,
    created_ms: i64,
}

impl Version {
    fn open(&self, tx: &Transaction, secret: &str) -> Result<Vec<u8>, Refusal> {
        kms::open(tx, &self.sealed, &context(secret, &self.id)).map(|(_, value)| value)
    }
}

/// `column` is `id` or `stage`.
fn find_version(tx: &Transaction, secret: &str, column: &str, is: &str) -> Result<Option<Version>, Refusal> {
    let version = tx
        .prepare_cached(&format!(
            "SELECT id, is_text, sealed, stage, created_ms FROM secret_versions WHERE secret = ?1 AND {column} = ?2"
        ))?
        .query_row(params![secret, is], |row| {
            Ok(Version {
                id: row.get(0)?,
                is_text: row.get(1)?,
                sealed: row.get(2)?,
                stage: row.get(3)?,
                created_ms: row.get(4)?,
            })
        })
        .optional()?;
    Ok(version)
}

fn context(secret: &str, version: &str) -> kms::Context {
    [("secret".to_owned(), secret.to_owned()), ("version".to_owned(), version.to_owned())].into()
}
