//! The Lambda function behind /v1/reconciliations.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(reconciliations::NEEDS, &async |live, request| reconciliations::handle(live, &live.site, request).await)
}
