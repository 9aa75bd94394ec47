//! SQS: puts jobs into queues. Standard queues; the group makes them fair between accounts.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;

use super::config::{Aws, Config, ConfigError, QUEUE_URL_PREFIX, aws_config};
use super::{Live, Need, not_asked_for};
use crate::fault::Fault;
use crate::platform::{EnqueueJob, Job};

pub(super) struct Queues {
    client: Option<Client>,
    url_prefix: String,
}

impl Queues {
    pub(super) fn new(config: &Config, aws: &Aws, wanted: bool) -> Result<Self, ConfigError> {
        let client = wanted.then(|| Client::from_conf(aws_config!(aws_sdk_sqs, config, aws, "SQS")));
        Ok(Self { client, url_prefix: config.required(QUEUE_URL_PREFIX, wanted)? })
    }
}

impl EnqueueJob for Live {
    /// 1 SendMessage.
    async fn enqueue(&self, job: Job, delay_secs: u16) -> Result<(), Fault> {
        let client = self.queues.client.as_ref().ok_or_else(|| not_asked_for(Need::Queues))?;
        let body = serde_json::to_string(&job).map_err(|_| Fault::permanent("a job did not serialize"))?;
        let sent = client
            .send_message()
            .queue_url(format!("{}{}", self.queues.url_prefix, job.queue().name()))
            .message_body(body)
            .message_group_id(job.account().to_string())
            .set_delay_seconds((delay_secs > 0).then_some(i32::from(delay_secs.min(900))))
            .send()
            .await;
        sent.map(|_| ()).map_err(|error| {
            let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or("no answer");
            Fault::Transient(format!("SQS send to {}: {code}", job.queue().name()))
        })
    }
}
