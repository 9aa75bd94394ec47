//! `telbuddy`: for customers.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use telbuddy_cli::{check, fetch};

/// What a customer does with TelBuddy beside its API.
#[derive(Parser)]
#[command(name = "telbuddy", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A month's statement and the ledger's entries that it sums up.
    #[command(subcommand)]
    Statement(StatementCommand),
}

#[derive(Subcommand)]
enum StatementCommand {
    /// Recomputes an export to the last millionth of a credit: 0 if all of it is as stated, 1 with each finding if not.
    Verify {
        /// The export, as `fetch` writes it.
        file: PathBuf,
    },
    /// Writes the export of a month to standard output. The environment variable `TELBUDDY_API_KEY` holds an API key
    /// with the scope usage:read.
    Fetch {
        /// Where the API is, as `https://api.example.com`.
        base: String,
        /// The month, as 2026-11.
        month: String,
    },
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Statement(StatementCommand::Verify { file }) => verify_file(&file),
        Command::Statement(StatementCommand::Fetch { base, month }) => fetch_month(&base, &month),
    }
}

fn verify_file(file: &Path) -> ExitCode {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => return fail(&format!("{}: {error}", file.display())),
    };
    let checked = check(&text);
    let told = tell(&checked.text);
    if checked.fits { told } else { ExitCode::FAILURE }
}

#[expect(clippy::disallowed_methods, reason = "an argument would show the key to everybody on this machine")]
fn fetch_month(base: &str, month: &str) -> ExitCode {
    let Ok(key) = std::env::var("TELBUDDY_API_KEY") else {
        return fail("set TELBUDDY_API_KEY to an API key with the scope usage:read");
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    let export = match runtime.block_on(fetch(base, month, &key.into())) {
        Ok(export) => export,
        Err(error) => return fail(&error.to_string()),
    };
    match serde_json::to_string_pretty(&export) {
        Ok(text) => tell(&(text + "\n")),
        Err(error) => fail(&error.to_string()),
    }
}

/// To standard output; what cannot be written there is a failure, not a panic.
fn tell(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "the one line that says why it failed")]
fn fail(line: &str) -> ExitCode {
    eprintln!("telbuddy: {line}");
    ExitCode::FAILURE
}
