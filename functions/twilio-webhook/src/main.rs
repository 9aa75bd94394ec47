//! The Lambda function for Twilio's webhooks.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(twilio_webhook::NEEDS, &async |live, request| twilio_webhook::handle(live, &live.site, request).await)
}
