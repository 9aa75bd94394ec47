//! The Lambda function for the account's API keys.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(account::NEEDS, &async |live, request| account::handle(live, &live.site, request).await)
}
