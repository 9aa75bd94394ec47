//! The Lambda function for health and description.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(meta::NEEDS, &async |_, request| meta::handle(request).await)
}
