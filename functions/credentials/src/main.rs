//! The Lambda function for the carrier credential.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(credentials::NEEDS, &async |live, request| credentials::handle(live, &live.site, request).await)
}
