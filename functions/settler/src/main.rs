//! The Lambda function for the queue of messages to look for at Twilio.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(settler::NEEDS, &async |live, jobs| settler::handle(live, &live.listings, jobs).await)
}
