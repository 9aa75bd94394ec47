//! The Lambda function for the access log.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(access_log::NEEDS, &async |live, request| access_log::handle(live, &live.site, request).await)
}
