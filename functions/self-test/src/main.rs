//! The Lambda function for the queue of accounts whose webhook is tested.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(self_test::NEEDS, &async |live, jobs| self_test::handle(live, &live.site, jobs).await)
}
