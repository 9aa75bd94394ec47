//! The Lambda function for Stripe's webhook.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(stripe_webhook::NEEDS, &async |live, request| stripe_webhook::handle(live, request).await)
}
