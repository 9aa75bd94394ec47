//! The Lambda function for sessions.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(sessions::NEEDS, &async |live, request| sessions::handle(live, &live.site, request).await)
}
