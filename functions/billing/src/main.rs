//! The Lambda function for plans, checkouts, the customer portal and invoices.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(billing::NEEDS, &async |live, request| billing::handle(live, &live.site, &live.prices, request).await)
}
