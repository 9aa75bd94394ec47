//! `cargo run`: starts the local system, says where it is, stops on Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use telbuddy::access_log::{Export, verify};
use telbuddy_local::{LocalSystem, Options, StartError, env_file, functions, start_aws};

/// TelBuddy on this machine: the API, every function, queues, schedules, and doubles of AWS, Twilio and Stripe.
#[derive(Parser)]
#[command(name = "cargo run --", version, about, after_help = "The README shows a first message with curl.")]
struct Arguments {
    /// Port of the API; the four ports after it are for the doubles of AWS, Twilio and Stripe. 0 takes any free ones.
    #[arg(long, global = true, default_value_t = 8787, value_parser = clap::value_parser!(u16).range(0..=65_000))]
    port: u16,
    /// Folder for all data; it survives restarts and kill -9.
    #[arg(long, global = true, default_value = ".telbuddy")]
    data: PathBuf,
    /// Configures `localhost` as the second host: numbers that are connected get it as their fallback.
    #[arg(long, global = true)]
    fallback: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Only the doubles of AWS, Twilio and Stripe, for `cargo lambda watch` to work against.
    Aws,
    /// Prints the API's description (OpenAPI 3.1).
    Openapi,
    /// Checks an exported access log: a JSON object of `account_id` and `entries`, which are the data of all pages of
    /// GET /v1/access-log in order.
    VerifyAccessLog {
        /// The export.
        file: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Openapi) => return print_openapi(),
        Some(Command::VerifyAccessLog { file }) => return verify_access_log(file),
        Some(Command::Aws) | None => {}
    }
    let filter = tracing_subscriber::EnvFilter::new(telbuddy::live::telemetry::FILTER);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).compact().init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads can be started: {error}")),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "the one line that says why it does not start")]
fn fail(line: &str) -> ExitCode {
    eprintln!("telbuddy: {line}");
    ExitCode::FAILURE
}

#[expect(clippy::print_stdout, reason = "what a person reads")]
fn print_openapi() -> ExitCode {
    match functions::openapi().to_pretty_json() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("the description does not serialize: {error}")),
    }
}

#[expect(clippy::print_stdout, reason = "what a person reads")]
fn verify_access_log(file: &Path) -> ExitCode {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => return fail(&format!("{} cannot be read: {error}", file.display())),
    };
    let export: Export = match serde_json::from_slice(&text) {
        Ok(export) => export,
        Err(error) => return fail(&format!("{} is no export of an access log: {error}", file.display())),
    };
    match verify(&export) {
        Ok(head) => {
            println!("{} entries, whole and in order; the chain ends with {}", head.sequence, head.hash);
            ExitCode::SUCCESS
        }
        Err(broken) => fail(&broken.to_string()),
    }
}

#[expect(clippy::print_stdout, reason = "what a person reads")]
async fn run(arguments: Arguments) -> Result<(), StartError> {
    let options = Options {
        port: arguments.port,
        data: arguments.data.clone(),
        fallback: arguments.fallback,
        faults: false,
        callback_delay: Duration::from_millis(300),
    };
    if matches!(arguments.command, Some(Command::Aws)) {
        return run_aws(&options).await;
    }
    let system = LocalSystem::start(options).await?;
    let url = &system.url;
    println!(
        "TelBuddy is at {url} (data in {})\n\
         mails that would be sent: {url}/_local/mail\n\
         Twilio double, a phone:   {url}/_local/twilio/phone\n\
         Stripe double:            {url}/_local/stripe\n\
         the API's description:    {url}/v1/openapi.json\n\n\
         Sign up next:\n\
         curl -s {url}/v1/signup -H 'content-type: application/json' -d '{{\"name\":\"Ann Example\",\
         \"email\":\"ann@example.com\",\"company\":\"Example Ltd\",\"password\":\"correct horse battery staple\",\
         \"country\":\"US\"}}'\n\n\
         Ctrl-C stops it.",
        arguments.data.display()
    );
    stop_signal().await;
    println!("stopping");
    system.stop().await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what a person reads")]
async fn run_aws(options: &Options) -> Result<(), StartError> {
    let started = start_aws(options, "http://127.0.0.1:9000").await?;
    let file = options.data.join("lambda.env");
    std::fs::write(&file, env_file(&started.config)).map_err(|error| StartError::SetUp(error.to_string()))?;
    println!(
        "AWS is at {} and DynamoDB at {}, doubles both; Twilio's double is at {}, Stripe's at {}\n\n\
         cargo lambda watch --env-file {}\n\nCtrl-C stops it.",
        started.aws.aws_url(),
        started.aws.dynamodb_url(),
        started.twilio.base_url(),
        started.stripe.base_url(),
        file.display()
    );
    stop_signal().await;
    started.twilio.stop().await;
    started.stripe.stop().await;
    started.aws.stop().await;
    Ok(())
}

/// Ctrl-C, or a service manager's TERM.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
