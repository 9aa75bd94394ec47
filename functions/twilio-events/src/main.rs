//! The Lambda function for queue `twilio-events`.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(twilio_events::NEEDS, &async |live, jobs| twilio_events::handle(live, jobs).await)
}
