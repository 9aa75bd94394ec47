//! The Lambda function for the queue of events to deliver.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(deliverer::NEEDS, &async |live, jobs| deliverer::handle(live, jobs).await)
}
