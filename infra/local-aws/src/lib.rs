//! Doubles of the AWS services that TelBuddy uses, for one machine: the real AWS SDK clients work with their endpoint on
//! loopback, and what was answered survives `kill -9`.
//!
//! `DynamoDB` is [`dynoxide`] on a port of its own; KMS, Secrets Manager, SQS and SES share another. All data is in one
//! folder: `dynamodb.sqlite`, `aws.sqlite` (it holds key material, mode 0600), `mail/` and a lock. Each module says what
//! its double does not emulate; for all of them: signatures are not verified (but must be there), IAM allows everything,
//! one account and one region exist, nothing throttles. [`Faults`] makes the failures that a healthy machine does not.
//! `DynamoDB` by itself shows no `TransactionConflict`, and its TTL deletion runs every 30 seconds instead of within days.

mod calls;
mod faults;
mod kms;
mod proxy;
mod reply;
mod secrets;
mod server;
mod ses;
mod sqs;
mod store;

pub use calls::Service;
pub use faults::{Fault, Faults, FaultsOff, Injection, When};
pub use ses::Mail;
pub use sqs::{MessageView, QueueView};

use calls::Calls;
use dynoxide::Database;
use proxy::Proxy;
use server::{Endpoints, Stopped, serve};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How often expired items, messages and keys are removed.
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// How long [`LocalAws::stop`] waits for requests that are under way.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder for all data; made when it is not there.
    pub data: PathBuf,
    /// The port for `DynamoDB`, 0 for any.
    pub dynamodb_port: u16,
    /// The port for all other services, 0 for any.
    pub aws_port: u16,
    /// Whether [`Faults`] can be injected. It puts a proxy in front of `DynamoDB`, which also counts its calls.
    pub faults: bool,
}

/// Why the doubles do not start. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be opened.
    #[error(
        "port {port} for {service} cannot be opened ({reason}); stop the program that holds it or choose another port"
    )]
    PortTaken {
        /// The port asked for.
        port: u16,
        /// What it is for.
        service: &'static str,
        /// The system's words.
        reason: String,
    },
    /// Another process uses the folder.
    #[error("the data folder {} is in use by another process; stop that one or start with another --data folder", path.display())]
    DataInUse {
        /// The folder or the file in it.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be written.
    #[error("{} cannot be written ({reason}); make it writable or start with another --data folder", path.display())]
    DataNotWritable {
        /// The folder or file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// A data file is not what this build wrote, or no longer.
    #[error("the data file {} is damaged ({reason}); move it away or start with another --data folder", path.display())]
    DataDamaged {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        reason: String,
    },
}

impl StartError {
    fn not_writable(path: &Path, reason: &impl fmt::Display) -> StartError {
        StartError::DataNotWritable { path: path.into(), reason: reason.to_string() }
    }
}

/// The data file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the queues cannot be read: {0}")]
pub struct ReadError(String);

/// The running doubles. Clones are the same one; when the last is dropped, it stops as soon as it can.
#[derive(Clone)]
pub struct LocalAws {
    inner: Arc<Inner>,
}

struct Inner {
    data: PathBuf,
    database: Database,
    store: Arc<Store>,
    calls: Arc<Calls>,
    done: Arc<Calls>,
    faults: Arc<Faults>,
    dynamodb: SocketAddr,
    aws: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for LocalAws {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { data, dynamodb, aws, .. } = &*self.inner;
        write!(out, "LocalAws {{ data: {}, dynamodb: {dynamodb}, aws: {aws} }}", data.display())
    }
}

impl LocalAws {
    /// Checks the data, opens the ports on 127.0.0.1 and serves in tasks of the current runtime.
    pub async fn start(options: Options) -> Result<LocalAws, StartError> {
        let data = options.data.clone();
        let opened = tokio::task::spawn_blocking(move || Opened::open(&data)).await;
        let opened = opened.map_err(|error| StartError::not_writable(&options.data, &error))??;
        let dynamodb_listener = listen(options.dynamodb_port, "DynamoDB").await?;
        let aws_listener = listen(options.aws_port, "KMS, Secrets Manager, SQS and SES").await?;
        let inner_listener = if options.faults { Some(listen(0, "DynamoDB behind its proxy").await?) } else { None };
        let dynamodb = address(&dynamodb_listener, options.dynamodb_port)?;
        let aws = address(&aws_listener, options.aws_port)?;

        let (stop, signal) = watch::channel(false);
        let stopped = Stopped(signal);
        let (calls, faults) = (Arc::new(Calls::default()), Arc::new(Faults::new(options.faults)));
        let done = Arc::new(Calls::default());
        let Opened { lock, database, store } = opened;
        let mut tasks = Vec::new();

        let database_listener = if let Some(listener) = inner_listener {
            let proxy = Proxy::new(address(&listener, 0)?, Arc::clone(&calls), Arc::clone(&faults));
            tasks.push(tokio::spawn(serve(dynamodb_listener, Arc::new(proxy), stopped.clone())));
            listener
        } else {
            dynamodb_listener
        };
        tasks.push(tokio::spawn(serve_database(
            database_listener,
            database.clone(),
            stopped.clone(),
            Arc::clone(&lock),
        )));

        let endpoints = Endpoints {
            store: Arc::clone(&store),
            sqs: Arc::new(sqs::Sqs::new(Arc::clone(&store), format!("http://{aws}"), stopped.clone())),
            mail: mail_folder(&options.data),
            calls: Arc::clone(&calls),
            done: Arc::clone(&done),
            faults: Arc::clone(&faults),
        };
        let endpoints_lock = Arc::clone(&lock);
        let endpoints_stopped = stopped.clone();
        tasks.push(tokio::spawn(async move {
            serve(aws_listener, Arc::new(endpoints), endpoints_stopped).await;
            drop(endpoints_lock);
        }));
        tasks.push(tokio::spawn(sweep(database.clone(), Arc::clone(&store), stopped)));

        let tasks = Mutex::new(tasks);
        let inner = Inner { data: options.data, database, store, calls, done, faults, dynamodb, aws, stop, tasks };
        Ok(LocalAws { inner: Arc::new(inner) })
    }

    /// The endpoint for a `DynamoDB` client.
    pub fn dynamodb_url(&self) -> String {
        format!("http://{}", self.inner.dynamodb)
    }

    /// The endpoint for a KMS, Secrets Manager, SQS or SES client.
    pub fn aws_url(&self) -> String {
        format!("http://{}", self.inner.aws)
    }

    /// The embedded `DynamoDB`, for inspection.
    pub fn database(&self) -> &Database {
        &self.inner.database
    }

    /// All mails that were sent, newest first. `Err` when the folder or a mail in it cannot be read.
    pub fn mails(&self) -> io::Result<Vec<Mail>> {
        ses::mails(&mail_folder(&self.inner.data))
    }

    /// What each queue holds. `Err` when the data file cannot be read.
    pub fn queues(&self) -> Result<Vec<QueueView>, ReadError> {
        sqs::views(&self.inner.store).map_err(|refusal| ReadError(refusal.message))
    }

    /// How often each action was called since the start; `DynamoDB`'s only when faults are on.
    pub fn calls(&self) -> BTreeMap<(Service, String), u64> {
        self.inner.calls.so_far()
    }

    /// How often each action of KMS, Secrets Manager, SQS and SES was done: without what was refused.
    pub fn answered(&self) -> BTreeMap<(Service, String), u64> {
        self.inner.done.so_far()
    }

    /// The faults to come.
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    /// Every file in the data folder, to be searched for what must not be in any of them.
    pub fn raw_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.inner.data.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }

    /// Stops accepting, lets requests under way finish, wakes long polls, and gives the data folder free.
    pub async fn stop(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for mut task in tasks {
            if tokio::time::timeout(STOP_WITHIN, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

/// The data, checked and locked.
struct Opened {
    /// The servers hold it, so the folder is free when the last has ended.
    lock: Arc<File>,
    database: Database,
    store: Arc<Store>,
}

impl Opened {
    fn open(data: &Path) -> Result<Opened, StartError> {
        store::make_folder(data)?;
        let lock = Arc::new(store::take_lock(data)?);
        store::make_folder(&mail_folder(data))?;
        let (database_path, store_path) = (data.join("dynamodb.sqlite"), data.join("aws.sqlite"));
        store::prepare_file(&database_path)?;
        store::prepare_file(&store_path)?;
        let damaged = |path: &Path, reason: String| StartError::DataDamaged { path: path.into(), reason };
        let database = Database::new(&database_path.to_string_lossy())
            .map_err(|error| damaged(&database_path, error.to_string()))?;
        let store = Store::open(&store_path)?;
        secrets::prepare(&store).map_err(|refusal| damaged(&store_path, refusal.message))?;
        Ok(Opened { lock, database, store: Arc::new(store) })
    }
}

fn mail_folder(data: &Path) -> PathBuf {
    data.join("mail")
}

async fn listen(port: u16, service: &'static str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    listener.map_err(|error| StartError::PortTaken { port, service, reason: error.to_string() })
}

fn address(listener: &TcpListener, port: u16) -> Result<SocketAddr, StartError> {
    let address = listener.local_addr();
    address.map_err(|error| StartError::PortTaken { port, service: "AWS", reason: error.to_string() })
}

async fn serve_database(listener: TcpListener, database: Database, mut stopped: Stopped, lock: Arc<File>) {
    let stop = async move { stopped.wait().await };
    if let Err(error) = dynoxide::server::serve_with_shutdown(listener, database, stop).await {
        tracing::error!(%error, "DynamoDB stopped serving");
    }
    drop(lock);
}

async fn sweep(database: Database, store: Arc<Store>, mut stopped: Stopped) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_EVERY) => {}
            () = stopped.wait() => return,
        }
        let (database, store) = (database.clone(), Arc::clone(&store));
        let swept = tokio::task::spawn_blocking(move || {
            let items = database.sweep_ttl().map_err(|error| error.to_string());
            let rest = sqs::sweep(&store).and_then(|()| kms::sweep(&store)).map_err(|refusal| refusal.message);
            items.and(rest)
        });
        match swept.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the sweep of expired data failed"),
            Err(error) => tracing::warn!(%error, "the sweep of expired data failed"),
        }
    }
}
