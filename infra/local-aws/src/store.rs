//! The SQLite file that KMS, Secrets Manager and SQS share, and the checks before a data file is used.

use crate::StartError;
use crate::reply::Refusal;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The layout below. A file with a higher number was written by a newer build.
const LAYOUT: i64 = 1;

const TABLES: &str = "
CREATE TABLE kms_keys (
  id TEXT PRIMARY KEY, material BLOB NOT NULL, state TEXT NOT NULL, description TEXT NOT NULL,
  rotates INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL, deletion_ms INTEGER
) STRICT;
CREATE TABLE kms_aliases (
  name TEXT PRIMARY KEY, key TEXT NOT NULL REFERENCES kms_keys(id) ON DELETE CASCADE
) STRICT;
CREATE TABLE secrets (
  name TEXT PRIMARY KEY, arn TEXT NOT NULL UNIQUE, description TEXT NOT NULL,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE secret_versions (
  secret TEXT NOT NULL REFERENCES secrets(name) ON DELETE CASCADE, id TEXT NOT NULL,
  is_text INTEGER NOT NULL, sealed BLOB NOT NULL, stage TEXT, created_ms INTEGER NOT NULL,
  PRIMARY KEY (secret, id)
) STRICT;
CREATE UNIQUE INDEX secret_stages ON secret_versions(secret, stage) WHERE stage IS NOT NULL;
CREATE TABLE queues (
  name TEXT PRIMARY KEY, attributes TEXT NOT NULL, created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE messages (
  seq INTEGER PRIMARY KEY, queue TEXT NOT NULL REFERENCES queues(name) ON DELETE CASCADE,
  id TEXT NOT NULL, body TEXT NOT NULL, attributes TEXT NOT NULL, trace TEXT, tenant TEXT NOT NULL,
  sent_ms INTEGER NOT NULL, visible_ms INTEGER NOT NULL, receives INTEGER NOT NULL DEFAULT 0,
  first_received_ms INTEGER, receipt TEXT UNIQUE, dead_from TEXT
) STRICT;
CREATE INDEX messages_by_tenant ON messages(queue, tenant, visible_ms);
CREATE INDEX messages_by_time ON messages(queue, visible_ms);
CREATE TABLE turns (
  queue TEXT NOT NULL REFERENCES queues(name) ON DELETE CASCADE, tenant TEXT NOT NULL, served INTEGER NOT NULL,
  PRIMARY KEY (queue, tenant)
) STRICT;
";

/// Guarantees that the file is open, whole, of this layout, and readable by its owner alone.
pub(crate) struct Store {
    connection: Mutex<Connection>,
}

impl Store {
    /// Opens the file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Store, StartError> {
        let (connection, layout) = open(path).map_err(|cause| unusable(path, &cause))?;
        if layout != LAYOUT {
            let reason = format!("it has layout {layout}, and this build knows only {LAYOUT}");
            return Err(StartError::DataDamaged { path: path.into(), reason });
        }
        Ok(Store { connection: Mutex::new(connection) })
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work`, which only reads, on one state of the data.
    pub fn read<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Refusal>) -> Result<T, Refusal> {
        transact(&mut self.lock(), TransactionBehavior::Deferred, work)
    }

    /// Runs `work` in one transaction, undone when it returns `Err`.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Refusal>) -> Result<T, Refusal> {
        transact(&mut self.lock(), TransactionBehavior::Immediate, work)
    }

    /// Like [`Store::write`], and on the disk before it returns, so that a power cut cannot take back a key under which
    /// DynamoDB already holds something.
    pub fn write_durably<T>(&self, work: impl FnOnce(&Transaction) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let mut connection = self.lock();
        connection.pragma_update(None, "synchronous", "FULL")?;
        let outcome = transact(&mut connection, TransactionBehavior::Immediate, work);
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        outcome
    }
}

fn transact<T>(
    connection: &mut Connection,
    behavior: TransactionBehavior,
    work: impl FnOnce(&Transaction) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let transaction = connection.transaction_with_behavior(behavior)?;
    let value = work(&transaction)?;
    transaction.commit()?;
    Ok(value)
}

/// The open file and the number of its layout; a new file gets ours.
fn open(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // NORMAL writes each commit to the operating system but does not wait for the disk: `kill -9` loses nothing, a power
    // cut may lose the last moments of the queues, whose loss the system is built to bear. Keys use `write_durably`.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // A deleted key or secret must not stay behind in a free page.
    connection.pragma_update(None, "secure_delete", true)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut layout = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if layout == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", LAYOUT)?;
        layout = LAYOUT;
    }
    transaction.commit()?;
    Ok((connection, layout))
}

/// The folder for the data, made when it is not there, and readable by its owner alone.
pub(crate) fn make_folder(path: &Path) -> Result<(), StartError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|cause| StartError::not_writable(path, &cause))
}

/// Takes the folder for this process. The lock ends with the file, also when the process is killed.
pub(crate) fn take_lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join("lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|cause| StartError::not_writable(&path, &cause))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::DataInUse { path: folder.into() }),
        Err(std::fs::TryLockError::Error(cause)) => Err(StartError::not_writable(&path, &cause)),
    }
}

/// Checks the SQLite file at `path` before anything else opens it, or makes an empty one with mode 0600. The files that
/// SQLite puts next to it (`-wal`, `-shm`) take the same mode.
pub(crate) fn prepare_file(path: &Path) -> Result<(), StartError> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|cause| StartError::not_writable(path, &cause))?;
    #[cfg(unix)]
    file.set_permissions(<Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600))
        .map_err(|cause| StartError::not_writable(path, &cause))?;
    drop(file);

    let connection = Connection::open(path).map_err(|cause| unusable(path, &cause))?;
    let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match verdict.map_err(|cause| unusable(path, &cause))?.as_str() {
        "ok" => Ok(()),
        reason => Err(StartError::DataDamaged { path: path.into(), reason: reason.replace('\n', " ") }),
    }
}

fn unusable(path: &Path, cause: &rusqlite::Error) -> StartError {
    let path = path.to_path_buf();
    match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StartError::DataInUse { path },
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::DiskFull) => {
            StartError::not_writable(&path, cause)
        }
        _ => StartError::DataDamaged { path, reason: cause.to_string() },
    }
}

/// Milliseconds since 1970. The doubles are the outside world, so they have a clock of their own.
#[expect(clippy::disallowed_methods, reason = "the doubles stand for services that have their own clock")]
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Seconds with a fraction: how AWS's JSON protocols write a time.
#[expect(clippy::cast_precision_loss, reason = "exact for the next 285,000 years")]
pub(crate) fn epoch_seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// Bytes that nobody can guess. `Err` only when the operating system has none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Refusal::internal("no random bytes"))?;
    Ok(bytes)
}

/// A new id in the shape of a UUID.
pub(crate) fn new_uuid() -> Result<String, Refusal> {
    let random = u128::from_be_bytes(random()?);
    let versioned = (random & !(0xf << 76) & !(0b11 << 62)) | (0x4 << 76) | (0b10 << 62);
    Ok(uuid_text(versioned))
}

/// `n` in the shape of a UUID.
pub(crate) fn uuid_text(n: u128) -> String {
    let (head, tail) = (n >> 64, n & u128::from(u64::MAX));
    let (node, variant) = (tail & 0xffff_ffff_ffff, tail >> 48);
    format!("{:08x}-{:04x}-{:04x}-{variant:04x}-{node:012x}", head >> 32, (head >> 16) & 0xffff, head & 0xffff)
}
