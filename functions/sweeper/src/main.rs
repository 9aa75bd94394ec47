//! The Lambda function for the schedule that finds what got stuck.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::ticks(sweeper::NEEDS, &async |live, _| sweeper::handle(live).await)
}
