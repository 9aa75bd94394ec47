//! The Lambda function for templates.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(templates::NEEDS, &async |live, request| templates::handle(live, &live.site, request).await)
}
