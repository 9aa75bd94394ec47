//! The Lambda function for queue `post`.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(poster::NEEDS, &async |live, jobs| poster::handle(live, jobs).await)
}
