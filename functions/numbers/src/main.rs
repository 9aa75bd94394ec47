//! The Lambda function for numbers and messaging services.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(numbers::NEEDS, &async |live, request| numbers::handle(live, &live.site, request).await)
}
