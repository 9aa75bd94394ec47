//! Delivers events to our webhook as Stripe does: signed, at least once, again when they were not taken.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use telbuddy::billing::signature;

use crate::Inner;
use crate::contract::contract;
use crate::faults::Kind;
use crate::state::{StoreError, at, int, now, text, with};

/// How often an event is tried. Stripe does it for three days; here the steps are short.
const TRIES: i64 = 4;

impl Inner {
    /// Sends what is not delivered yet, each event in a task of its own.
    pub(crate) fn deliver(self: &Arc<Self>) {
        let waiting = self.store.change(|tx| {
            let mut waiting = tx.list("event")?;
            // Not while it is under way: `delivered` is null until a task has it.
            waiting.retain(|stored| at(stored, "delivered").is_null());
            waiting.reverse();
            for stored in &waiting {
                tx.put("event", with(stored.clone(), json!({ "delivered": "under way" })))?;
            }
            Ok::<_, StoreError>(waiting)
        });
        let waiting = match waiting {
            Ok(waiting) => waiting,
            Err(error) => return tracing::error!(%error, "stripe-double: events cannot be read"),
        };
        for stored in waiting {
            let event = at(&stored, "event").clone();
            if let Ok(contract) = contract() {
                let about = at(&event, "data/object");
                let misfits = [contract.misfit_of_resource(&event), contract.misfit_of_resource(about)];
                for misfit in misfits.into_iter().flatten() {
                    self.note(format!("event {}: {misfit}", text(&event, "type")));
                }
            }
            let double = Arc::clone(self);
            self.spawn(async move { double.carry(&event).await });
        }
    }

    /// What was under way when the double was stopped is sent again.
    pub(crate) fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        self.store.change(|tx| {
            for stored in tx.list("event")?.into_iter().filter(|stored| at(stored, "delivered") == "under way") {
                tx.put("event", with(stored, json!({ "delivered": null })))?;
            }
            Ok::<_, StoreError>(())
        })?;
        self.deliver();
        Ok(())
    }

    async fn carry(&self, event: &Value) {
        let fault = self.faults.strike(Kind::OF_EVENTS);
        let late = if fault == Some(Kind::EventLate) { 5 } else { 1 };
        tokio::time::sleep(self.options.event_delay * late).await;
        let mut tries = 0;
        let mut taken = false;
        while !taken && tries < TRIES {
            if tries > 0 {
                tokio::time::sleep(Duration::from_millis(200 << tries)).await;
            }
            tries += 1;
            taken = fault != Some(Kind::EventLost) && self.post(event).await;
        }
        if fault == Some(Kind::EventTwice) {
            self.post(event).await;
        }
        let kept = self.settle(text(event, "id"), taken, tries);
        if let Err(error) = kept {
            tracing::error!(%error, "stripe-double: a delivery cannot be noted");
        }
    }

    fn settle(&self, id: &str, taken: bool, tries: i64) -> Result<(), StoreError> {
        self.store.change(|tx| {
            let Some(stored) = tx.get("event", id)? else { return Ok(()) };
            let tries = int(&stored, "tries") + tries;
            let waits = i64::from(!taken);
            let noted = json!({ "delivered": taken, "tries": tries, "event": { "pending_webhooks": waits } });
            tx.put("event", with(stored, noted)).map(|_| ())
        })
    }

    /// One try; whether it was taken. Signed anew each time, as the age of a signature counts.
    pub(crate) async fn post(&self, event: &Value) -> bool {
        let body = event.to_string();
        let signature = signature::sign(&self.ready.signing_secret, now(), body.as_bytes());
        let url = format!("{}/hooks/stripe", self.options.site);
        let request = self.http.post(url).header("stripe-signature", signature);
        let sent = request.header("content-type", "application/json; charset=utf-8").body(body).send().await;
        let taken = sent.as_ref().is_ok_and(|answer| answer.status().is_success());
        if !taken {
            let status = sent.map(|answer| answer.status().as_u16()).unwrap_or_default();
            tracing::warn!(status, event.id = text(event, "id"), "stripe-double: an event was not taken");
        }
        taken
    }
}
