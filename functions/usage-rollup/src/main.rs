//! The Lambda function for the schedule that counts usage.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::ticks(usage_rollup::NEEDS, &async |live, event| usage_rollup::run(live, &event).await)
}
