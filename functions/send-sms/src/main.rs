//! The Lambda function for messages.

use std::process::ExitCode;

use telbuddy::live::serve;

fn main() -> ExitCode {
    serve::http(send_sms::NEEDS, &async |live, request| send_sms::handle(live, &live.site, request).await)
}
