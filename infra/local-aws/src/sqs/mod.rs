//! SQS: standard queues with batches, delays, visibility, long polls, redrive and fair groups.
//!
//! Stricter than AWS, so that nothing leans on luck: every message comes in order of its turn, an old receipt handle never
//! deletes, an attribute reads exactly. Not emulated: FIFO queues (refused), the rare double delivery and the loose order
//! of AWS, queue policies and encryption settings (stored only), tags, `StartMessageMoveTask`, the limits of 120,000
//! messages in flight and of one purge a minute, the 12 hours over all extensions of a visibility time-out.

mod batch;
mod queues;
mod send;
mod settle;
mod take;
mod views;

pub use views::{MessageView, QueueView};

use crate::reply::{Refusal, parse};
use crate::server::{Stopped, blocking};
use crate::store::{Store, now_ms};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) struct Sqs {
    store: Arc<Store>,
    /// What queue URLs begin with.
    base_url: String,
    bells: Mutex<HashMap<String, Arc<Notify>>>,
    stopped: Stopped,
}

impl Sqs {
    pub fn new(store: Arc<Store>, base_url: String, stopped: Stopped) -> Sqs {
        Sqs { store, base_url, bells: Mutex::default(), stopped }
    }

    /// Answers one SQS action. Only a receive may take long.
    pub async fn answer(self: Arc<Self>, action: String, body: Bytes) -> Result<Value, Refusal> {
        match action.as_str() {
            "ReceiveMessage" => self.receive(&body).await,
            _ => blocking(move || self.act(&action, &body)).await,
        }
    }

    fn act(&self, action: &str, body: &[u8]) -> Result<Value, Refusal> {
        match action {
            "CreateQueue" => queues::create(&self.store, &parse(body)?, &self.base_url),
            "DeleteQueue" => queues::delete(&self.store, &parse(body)?),
            "GetQueueUrl" => queues::url(&self.store, &parse(body)?, &self.base_url),
            "ListQueues" => queues::list(&self.store, &parse(body)?, &self.base_url),
            "GetQueueAttributes" => queues::attributes(&self.store, &parse(body)?),
            "SetQueueAttributes" => self.ring(queues::set_attributes(&self.store, &parse(body)?)),
            "SendMessage" => self.ring(send::send(&self.store, &parse(body)?)),
            "SendMessageBatch" => self.ring(send::send_batch(&self.store, &parse(body)?)),
            "DeleteMessage" => settle::delete(&self.store, &parse(body)?),
            "DeleteMessageBatch" => settle::delete_batch(&self.store, &parse(body)?),
            "ChangeMessageVisibility" => self.ring(settle::change_visibility(&self.store, &parse(body)?)),
            "ChangeMessageVisibilityBatch" => self.ring(settle::change_visibility_batch(&self.store, &parse(body)?)),
            "PurgeQueue" => settle::purge(&self.store, &parse(body)?),
            other => Err(Refusal::unknown_operation(other)),
        }
    }

    /// Receives at once, or waits until a message is sent or becomes visible, the wait is over, or the server stops.
    async fn receive(self: Arc<Self>, body: &[u8]) -> Result<Value, Refusal> {
        let ask: Arc<take::Receive> = Arc::new(parse(body)?);
        let bell = self.bell(&queues::name_in(&ask.queue_url)?);
        let mut stopped = self.stopped.clone();
        let begun = Instant::now();
        loop {
            let mut rung = pin!(bell.notified());
            rung.as_mut().enable(); // from here on a ring is not missed
            let taken = {
                let (sqs, ask) = (Arc::clone(&self), Arc::clone(&ask));
                blocking(move || take::take(&sqs.store, &ask)).await?
            };
            for queue in &taken.moved_to {
                self.bell(queue).notify_waiters();
            }
            let over = begun + Duration::from_secs(taken.wait_secs);
            if !taken.messages.is_empty() {
                return Ok(json!({ "Messages": taken.messages }));
            }
            if Instant::now() >= over {
                return Ok(json!({}));
            }
            let next = taken.next_visible_ms.map(|at| Duration::from_millis((at - now_ms()).max(0).unsigned_abs() + 1));
            let wake_at = next.map_or(over, |next| over.min(Instant::now() + next));
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep_until(wake_at) => {}
                () = stopped.wait() => return Ok(json!({})),
            }
        }
    }

    /// Wakes the long polls of the queue that was changed, and passes the answer on.
    fn ring(&self, outcome: Result<(String, Value), Refusal>) -> Result<Value, Refusal> {
        let (queue, answer) = outcome?;
        self.bell(&queue).notify_waiters();
        Ok(answer)
    }

    fn bell(&self, queue: &str) -> Arc<Notify> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(bells.entry(queue.to_owned()).or_default())
    }
}

/// Drops messages older than their queue keeps them.
pub(crate) fn sweep(store: &Store) -> Result<(), Refusal> {
    settle::drop_expired(store)
}

/// What the queues hold, for a person or a test.
pub(crate) fn views(store: &Store) -> Result<Vec<QueueView>, Refusal> {
    store.read(views::all)
}
