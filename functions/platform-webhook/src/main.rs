//! The Lambda function for the webhook of the platform's own number.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(platform_webhook::NEEDS, &async |live, request| {
        platform_webhook::handle(live, &live.site, request).await
    })
}
