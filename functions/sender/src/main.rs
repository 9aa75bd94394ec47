//! The Lambda function for queue `send`.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(sender::NEEDS, &async |live, jobs| sender::handle(live, &live.site, jobs).await)
}
