//! The Lambda function for sign-up.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(signup::NEEDS, &async |live, request| signup::handle(live, request).await)
}
