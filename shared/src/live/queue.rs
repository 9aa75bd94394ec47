//! SQS: puts jobs into queues. Standard queues; the group makes them fair between accounts.

use aws_sdk_sqs::Client;
use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;

use super::config::{Aws, Config, ConfigError, QUEUE_URL_PREFIX, aws_config};
use super::{Live, Need, not_asked_for};
use crate::fault::Fault;
use crate::platform::{EnqueueJob, Job, Queue};

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

/// What SQS takes in one call.
const BATCH: usize = 10;

fn body(job: &Job) -> Result<String, Fault> {
    serde_json::to_string(job).map_err(|_| Fault::permanent("a job did not serialize"))
}

impl Queues {
    fn client(&self) -> Result<&Client, Fault> {
        self.client.as_ref().ok_or_else(|| not_asked_for(Need::Queues))
    }

    fn url(&self, queue: Queue) -> String {
        format!("{}{}", self.url_prefix, queue.name())
    }

    /// 1 `SendMessageBatch` of at most ten jobs of one queue.
    async fn send_batch(&self, queue: Queue, jobs: &[Job], delay_secs: u16) -> Result<(), Fault> {
        let entry = |(at, job): (usize, &Job)| {
            SendMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .message_body(body(job)?)
                .message_group_id(job.account().to_string())
                .set_delay_seconds((delay_secs > 0).then_some(i32::from(delay_secs.min(900))))
                .build()
                .map_err(|_| Fault::permanent("a job's entry did not build"))
        };
        let entries = jobs.iter().enumerate().map(entry).collect::<Result<Vec<_>, Fault>>()?;
        let sent =
            self.client()?.send_message_batch().queue_url(self.url(queue)).set_entries(Some(entries)).send().await;
        let sent = sent.map_err(|error| {
            let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or("no answer");
            Fault::Transient(format!("SQS send to {}: {code}", queue.name()))
        })?;
        match sent.failed.len() {
            0 => Ok(()),
            n_failed => Err(Fault::Transient(format!("SQS send to {}: {n_failed} refused", queue.name()))),
        }
    }
}

impl EnqueueJob for Live {
    async fn enqueue_all(&self, jobs: Vec<Job>, delay_secs: u16) -> Result<(), Fault> {
        let Some(queue) = jobs.first().map(Job::queue) else { return Ok(()) };
        let sends = jobs.chunks(BATCH).map(|jobs| self.queues.send_batch(queue, jobs, delay_secs));
        futures::future::join_all(sends).await.into_iter().collect()
    }

    /// 1 SendMessage.
    async fn enqueue(&self, job: Job, delay_secs: u16) -> Result<(), Fault> {
        let sent = self
            .queues
            .client()?
            .send_message()
            .queue_url(self.queues.url(job.queue()))
            .message_body(body(&job)?)
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
