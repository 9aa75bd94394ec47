//! The Lambda function for queue `mail`.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(mailer::NEEDS, &async |live, jobs| mailer::handle(live, &live.site, jobs).await)
}
