//! SES: sends mail.

use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::error::ProvideErrorMetadata;
use aws_sdk_sesv2::types::{Body, Content, Destination, EmailContent, Message};

use super::config::{Aws, Config, ConfigError, MAIL_FROM, aws_config};
use super::{Live, Need, not_asked_for};
use crate::fault::Fault;
use crate::platform::{Letter, SendMail};

pub(super) struct Mailer {
    client: Option<Client>,
    from: String,
}

impl Mailer {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client = wanted.then(|| Client::from_conf(aws_config!(aws_sdk_sesv2, config, aws, "SESV2")));
        Ok(Self { client, from: config.required(MAIL_FROM, wanted)? })
    }
}

impl SendMail for Live {
    /// 1 SendEmail.
    async fn send_mail(&self, letter: Letter) -> Result<(), Fault> {
        let client = self.mailer.client.as_ref().ok_or_else(|| not_asked_for(Need::Mail))?;
        let incomplete = |_| Fault::permanent("a mail did not build");
        let text = |text: String| Content::builder().data(text).charset("UTF-8").build().map_err(incomplete);
        let message = Message::builder()
            .subject(text(letter.subject.clone())?)
            .body(Body::builder().text(text(letter.text.clone())?).build())
            .build();
        let sent = client
            .send_email()
            .from_email_address(&self.mailer.from)
            .destination(Destination::builder().to_addresses(letter.to.as_str()).build())
            .content(EmailContent::builder().simple(message).build())
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| {
            let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or("no answer");
            match code {
                "MessageRejected" | "MailFromDomainNotVerifiedException" | "BadRequestException" => {
                    Fault::Permanent(format!("SES: {code}"))
                }
                _ => Fault::Transient(format!("SES: {code}")),
            }
        })
    }
}
