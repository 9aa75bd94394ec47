//! The Lambda function for webhook endpoints and what was delivered to them.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(webhook_endpoints::NEEDS, &async |live, request| {
        webhook_endpoints::handle(live, &live.site, request).await
    })
}
