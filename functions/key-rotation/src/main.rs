//! The Lambda function for queue `key-rotation`.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(key_rotation::NEEDS, &async |live, jobs| key_rotation::handle(live, jobs).await)
}
