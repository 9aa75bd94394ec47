//! The Lambda function that shows messages.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(messages::NEEDS, &async |live, request| messages::handle(live, &live.site, request).await)
}
