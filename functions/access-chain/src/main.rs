//! The Lambda function for the schedule that links the access log.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::ticks(access_chain::NEEDS, &async |live, _| access_chain::handle(live).await)
}
