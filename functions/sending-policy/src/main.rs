//! The Lambda function for the sending policy.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(sending_policy::NEEDS, &async |live, request| sending_policy::handle(live, &live.site, request).await)
}
