//! The Lambda function for the queue of accounts whose charges are set against Twilio's lists.

use std::process::ExitCode;

use telbuddy::live::serve;
use telbuddy::reconciliation::SETTLED_AFTER;

fn main() -> ExitCode {
    serve::jobs(reconciler::NEEDS, &async |live, jobs| reconciler::handle(live, SETTLED_AFTER, jobs).await)
}
