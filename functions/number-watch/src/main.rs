//! The Lambda function for the queue of connected numbers to look at.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(number_watch::NEEDS, &async |live, jobs| number_watch::handle(live, jobs).await)
}
