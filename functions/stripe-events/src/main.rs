//! The Lambda function for Stripe's events.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::jobs(stripe_events::NEEDS, &async |live, jobs| stripe_events::handle(live, &live.prices, jobs).await)
}
