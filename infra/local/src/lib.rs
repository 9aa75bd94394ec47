//! The local system: all of TelBuddy in one process, on this machine only. No Docker, no account anywhere.
//!
//! An HTTP listener makes API Gateway v2 events and calls the same handlers as Lambda does; pollers receive from SQS
//! and call consumers with SQS events, partial failures and dead letters included; a scheduler ticks. AWS is
//! `local-aws`, Twilio is `twilio-double`, Stripe `stripe-double`: doubles, and they say so.

pub mod functions;
mod gateway;
mod pages;
mod pollers;
mod setup;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use local_aws::LocalAws;
use stripe_double::StripeDouble;
use telbuddy::live::{Config, config};
use tokio::net::TcpListener;
use tokio::sync::watch;
use twilio_double::TwilioDouble;

pub use setup::env_file;

/// How the local system is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Port of the API; the AWS double, its DynamoDB, the doubles of Twilio and Stripe take the four ports after it. 0:
    /// any free ones.
    pub port: u16,
    /// Where data is kept.
    pub data: PathBuf,
    /// Whether `localhost` is configured as the second host, beside `127.0.0.1`: one listener is both.
    pub fallback: bool,
    /// Whether faults can be injected into AWS (tests): costs a hop in front of DynamoDB.
    pub faults: bool,
    /// Time between two steps of a message at the Twilio double, and before an event of the Stripe double.
    pub callback_delay: Duration,
}

/// Why it does not start: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken.
    #[error("port {port} is taken by another program ({reason}); stop that one, or choose another with --port")]
    PortTaken {
        /// Which port.
        port: u16,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The data folder or the AWS double.
    #[error("{0}")]
    Aws(#[from] local_aws::StartError),
    /// The Twilio double.
    #[error(
        "the Twilio double does not start: {0}; if its file is damaged, move twilio-double.sqlite out of the data folder"
    )]
    Twilio(#[from] twilio_double::StartError),
    /// The Stripe double.
    #[error(
        "the Stripe double does not start: {0}; if its file is damaged, move stripe-double.sqlite out of the data \
         folder"
    )]
    Stripe(#[from] stripe_double::StartError),
    /// Queues, keys or tables could not be made.
    #[error("the local AWS could not be set up: {0}")]
    SetUp(String),
    /// Configuration.
    #[error("{0}")]
    Config(#[from] telbuddy::live::ConfigError),
}

/// The running system.
pub struct LocalSystem {
    /// Address of the API.
    pub url: String,
    /// What the functions were configured with.
    pub config: Config,
    /// The AWS double.
    pub aws: LocalAws,
    /// The Twilio double.
    pub twilio: TwilioDouble,
    /// The Stripe double.
    pub stripe: StripeDouble,
    stop: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Only the AWS double, set up: for `cargo lambda watch` to work against.
pub struct LocalAwsOnly {
    /// What functions have to be configured with.
    pub config: Config,
    /// The AWS double.
    pub aws: LocalAws,
    /// The Twilio double.
    pub twilio: TwilioDouble,
    /// The Stripe double.
    pub stripe: StripeDouble,
}

async fn bind(port: u16) -> Result<TcpListener, StartError> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpListener::bind(address).await.map_err(|reason| StartError::PortTaken { port, reason })
}

fn port_of(listener: &TcpListener) -> u16 {
    listener.local_addr().map_or(0, |address| address.port())
}

/// The port `n` after `port`, or any if it is 0.
fn after(port: u16, n: u16) -> u16 {
    if port == 0 { 0 } else { port.saturating_add(n) }
}

/// Starts the doubles of AWS, Twilio and Stripe and what the functions need in them. `site`: where the API will be.
pub async fn start_aws(options: &Options, site: &str) -> Result<LocalAwsOnly, StartError> {
    let aws = LocalAws::start(local_aws::Options {
        data: options.data.clone(),
        dynamodb_port: after(options.port, 2),
        aws_port: after(options.port, 1),
        faults: options.faults,
    })
    .await?;
    let twilio_options = twilio_double::Options {
        data: Some(options.data.clone()),
        callback_delay: options.callback_delay,
        ..twilio_double::Options::default()
    };
    let twilio = TwilioDouble::start(bind(after(options.port, 3)).await?, twilio_options).await?;
    let stripe_options = stripe_double::Options {
        data: Some(options.data.clone()),
        site: site.to_owned(),
        event_delay: options.callback_delay,
    };
    let stripe = StripeDouble::start(bind(after(options.port, 4)).await?, stripe_options).await?;
    let config = setup::config(&aws, &twilio, &stripe, site, options.fallback);
    setup::create_resources(&aws, &config, &stripe.ready()).await.map_err(StartError::SetUp)?;
    Ok(LocalAwsOnly { config, aws, twilio, stripe })
}

impl LocalSystem {
    /// Starts everything.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::start_with(options, |config| config).await
    }

    /// The same with other values for the functions.
    pub async fn start_with(options: Options, change: impl FnOnce(Config) -> Config) -> Result<Self, StartError> {
        let listener = bind(options.port).await?;
        let url = format!("http://127.0.0.1:{}", port_of(&listener));
        let LocalAwsOnly { config, aws, twilio, stripe } = start_aws(&options, &url).await?;
        let config = change(config);
        let functions = Arc::new(functions::all(&config)?);
        let (stop, stopped) = watch::channel(false);
        let mut tasks = pollers::start(&functions, &config, &stopped)?;
        let router = pages::router(aws.clone(), &config).merge(twilio.control()).merge(stripe.control());
        let router = gateway::router(functions, router);
        let mut until = stopped.clone();
        tasks.push(tokio::spawn(async move {
            let shutdown = async move {
                let _ = until.wait_for(|stop| *stop).await;
            };
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            if let Err(error) = axum::serve(listener, service).with_graceful_shutdown(shutdown).await {
                tracing::error!(%error, "the HTTP listener ended");
            }
        }));
        Ok(Self { url, config, aws, twilio, stripe, stop, tasks })
    }

    /// Stops everything; what was accepted is on disk.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        // Long polls end when the queues do.
        self.twilio.stop().await;
        self.stripe.stop().await;
        self.aws.stop().await;
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_secs(3), task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// A local configuration's table prefix, for whoever looks into the tables.
pub(crate) fn table_prefix(config: &Config) -> String {
    config
        .values()
        .find(|(name, _)| *name == config::TABLE_PREFIX)
        .map_or_else(String::new, |(_, prefix)| prefix.to_owned())
}
