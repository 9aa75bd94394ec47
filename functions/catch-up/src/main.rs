//! The Lambda function for the queue of accounts whose texts that arrived are looked for.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(catch_up::NEEDS, &async |live, jobs| catch_up::handle(live, jobs).await)
}
