//! The Lambda function for usage.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(usage::NEEDS, &async |live, request| usage::handle(live, &live.site, request).await)
}
