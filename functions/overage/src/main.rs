//! The Lambda function for what may be used beyond all credit.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(overage::NEEDS, &async |live, request| overage::handle(live, &live.site, request).await)
}
