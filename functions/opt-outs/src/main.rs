//! The Lambda function for opt-outs.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(opt_outs::NEEDS, &async |live, request| opt_outs::handle(live, &live.site, request).await)
}
