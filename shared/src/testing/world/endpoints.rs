//! Endpoints, deliveries, and the receivers behind the URLs. The conditions are those of the live adapters, in Rust.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::endpoint::{
    Answer, CallEndpoint, Choice, DELIVER_AGAIN, DELIVERY_LEASE, Delivery, DeliveryClaim, DeliveryStatus, Disabled,
    Endpoint, EndpointUrl, Event, FindDueDeliveries, KeepDeliveries, KeepEndpoints, LoadToTell, MOST_ENDPOINTS,
    NoteHealth, Resent, Signed, TellEndpoints, ToTell, Trouble, WhyDisabled, WorkDeliveries, delivery_shard,
};
use crate::fault::Fault;
use crate::ids::{AccountId, DeliveryId, EndpointId, MessageId};
use crate::message::Fence;

/// A delivery with what lies beside it.
struct Row {
    delivery: Delivery,
    fence: Option<Fence>,
    due: Option<Timestamp>,
}

#[derive(Default)]
pub(super) struct Endpoints {
    rows: BTreeMap<(AccountId, EndpointId), Endpoint>,
    deliveries: BTreeMap<(AccountId, EndpointId, DeliveryId), Row>,
    /// What receivers answer next; 204 if nothing is planned.
    answers: VecDeque<Answer>,
    received: Vec<(String, Signed)>,
}

impl Endpoints {
    /// Writes new deliveries; `false`, and nothing is written, if one of them is there.
    pub(super) fn put(&mut self, deliveries: &[Delivery]) -> bool {
        let key = |delivery: &Delivery| (delivery.account, delivery.endpoint, delivery.id);
        if deliveries.iter().any(|delivery| self.deliveries.contains_key(&key(delivery))) {
            return false;
        }
        for delivery in deliveries {
            let due = delivery.due(delivery.created);
            self.deliveries.insert(key(delivery), Row { delivery: delivery.clone(), fence: None, due });
        }
        true
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        for endpoint in self.rows.values() {
            dump(bytes, endpoint);
            bytes.extend(&endpoint.secret.0);
            bytes.extend(endpoint.previous.iter().flat_map(|before| &before.secret.0));
        }
        for row in self.deliveries.values() {
            dump(bytes, &row.delivery);
        }
    }
}

impl World {
    /// What the next calls of endpoints get, one after the other; 204 after that.
    pub fn endpoints_answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.state().endpoints.answers.extend(answers);
    }

    /// Everything that was sent to endpoints, oldest first, with the URL.
    pub fn received(&self) -> Vec<(String, Signed)> {
        self.state().endpoints.received.clone()
    }

    /// An account's deliveries to one endpoint, oldest first.
    pub fn deliveries_of(&self, account: AccountId, endpoint: EndpointId) -> Vec<Delivery> {
        let state = self.state();
        let rows = state.endpoints.deliveries.iter();
        let rows = rows.filter(|((owner, to, _), _)| (*owner, *to) == (account, endpoint));
        rows.map(|(_, row)| row.delivery.clone()).collect()
    }
}

impl KeepEndpoints for World {
    async fn load_endpoint(&self, account: AccountId, endpoint: EndpointId) -> Result<Option<Endpoint>, Fault> {
        self.call("load_endpoint", |state| Ok(state.endpoints.rows.get(&(account, endpoint)).cloned())).await
    }

    async fn list_endpoints(&self, account: AccountId) -> Result<Vec<Endpoint>, Fault> {
        self.call("list_endpoints", |state| {
            let rows = state.endpoints.rows.iter().filter(|((owner, _), _)| *owner == account);
            Ok(rows.map(|(_, endpoint)| endpoint.clone()).collect())
        })
        .await
    }

    async fn create_endpoint(&self, new: &Endpoint) -> Result<bool, Fault> {
        self.call("create_endpoint", |state| {
            if let Some(there) = state.endpoints.rows.get(&(new.account, new.id)) {
                return if there == new { Ok(true) } else { Err(Fault::permanent("a new endpoint's id was taken")) };
            }
            let gate = state.accounts.gates.get_mut(&new.account);
            let gate = gate.ok_or(Fault::permanent("the account has no gate"))?;
            if gate.listeners.0.len() >= usize::try_from(MOST_ENDPOINTS).unwrap() {
                return Ok(false);
            }
            gate.listeners.0.insert(new.id, new.listens_to());
            state.endpoints.rows.insert((new.account, new.id), new.clone());
            Ok(true)
        })
        .await
    }

    async fn update_endpoint(&self, new: &Endpoint) -> Result<bool, Fault> {
        self.call("update_endpoint", |state| {
            let Some(row) = state.endpoints.rows.get_mut(&(new.account, new.id)) else { return Ok(false) };
            if row.revision != new.revision.saturating_sub(1) {
                return Ok(row == new);
            }
            *row = new.clone();
            let gate = state.accounts.gates.get_mut(&new.account).expect("the account has a gate");
            gate.listeners.0.insert(new.id, new.listens_to());
            Ok(true)
        })
        .await
    }

    async fn delete_endpoint(&self, account: AccountId, endpoint: EndpointId) -> Result<bool, Fault> {
        self.call("delete_endpoint", |state| {
            let removed = state.endpoints.rows.remove(&(account, endpoint)).is_some();
            if let Some(gate) = state.accounts.gates.get_mut(&account) {
                gate.listeners.0.remove(&endpoint);
            }
            Ok(removed)
        })
        .await
    }
}

impl NoteHealth for World {
    async fn note_failing(&self, account: AccountId, endpoint: EndpointId, since: Timestamp) -> Result<(), Fault> {
        self.call("note_failing", |state| {
            if let Some(row) = state.endpoints.rows.get_mut(&(account, endpoint)) {
                row.failing_since.get_or_insert(since);
            }
            Ok(())
        })
        .await
    }

    async fn note_recovered(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        failing_since: Timestamp,
    ) -> Result<(), Fault> {
        self.call("note_recovered", |state| {
            if let Some(row) = state.endpoints.rows.get_mut(&(account, endpoint)) {
                row.failing_since = row.failing_since.filter(|since| *since != failing_since);
            }
            Ok(())
        })
        .await
    }

    async fn disable_endpoint(&self, read: &Endpoint, why: WhyDisabled, now: Timestamp) -> Result<bool, Fault> {
        self.call("disable_endpoint", |state| {
            let row = state.endpoints.rows.get_mut(&(read.account, read.id));
            let same = |row: &&mut Endpoint| {
                row.revision == read.revision
                    && row.disabled.is_none()
                    && (read.failing_since.is_none() || row.failing_since == read.failing_since)
            };
            let Some(row) = row.filter(same) else { return Ok(false) };
            row.disabled = Some(Disabled { at: now, why, untold: true });
            row.revision += 1;
            let gate = state.accounts.gates.get_mut(&read.account).expect("the account has a gate");
            gate.listeners.0.insert(read.id, Choice::Only(std::collections::BTreeSet::new()));
            Ok(true)
        })
        .await
    }

    async fn endpoint_told(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        disabled_at: Timestamp,
    ) -> Result<(), Fault> {
        self.call("endpoint_told", |state| {
            if let Some(row) = state.endpoints.rows.get_mut(&(account, endpoint))
                && let Some(disabled) = &mut row.disabled
                && disabled.at == disabled_at
                && disabled.untold
            {
                disabled.untold = false;
                row.revision += 1;
            }
            Ok(())
        })
        .await
    }
}

impl LoadToTell for World {
    async fn load_to_tell(&self, account: AccountId, message: MessageId) -> Result<Option<ToTell>, Fault> {
        self.call("load_to_tell", |state| {
            let gate = state.accounts.gates.get(&account).cloned();
            let (listeners, zone) = gate.map(|gate| (gate.listeners, gate.zone)).unwrap_or_default();
            let found = state.messages.of(account, None).find(|found| found.id == message);
            Ok(found.map(|message| ToTell { message, listeners, zone }))
        })
        .await
    }
}

impl TellEndpoints for World {
    async fn tell_endpoints(&self, account: AccountId, event: &Event) -> Result<Vec<Delivery>, Fault> {
        self.call("tell_endpoints", |state| {
            let Some(gate) = state.accounts.gates.get(&account) else { return Ok(Vec::new()) };
            let mut new = gate.listeners.deliveries(account, std::slice::from_ref(event), event.at);
            new.retain(|one| state.endpoints.put(std::slice::from_ref(one)));
            Ok(new)
        })
        .await
    }
}

impl KeepDeliveries for World {
    async fn create_delivery(&self, new: &Delivery) -> Result<(), Fault> {
        self.call("create_delivery", |state| {
            state.endpoints.put(std::slice::from_ref(new));
            Ok(())
        })
        .await
    }

    async fn load_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
    ) -> Result<Option<Delivery>, Fault> {
        self.call("load_delivery", |state| {
            let row = state.endpoints.deliveries.get(&(account, endpoint, delivery));
            Ok(row.map(|row| row.delivery.clone()))
        })
        .await
    }

    async fn list_deliveries(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        before: Option<DeliveryId>,
        limit: u16,
    ) -> Result<Vec<Delivery>, Fault> {
        self.call("list_deliveries", |state| {
            if limit == 0 {
                return Err(not_valid("list deliveries"));
            }
            let (first, last) = (DeliveryId::from_bits(0), before.unwrap_or(DeliveryId::from_bits(u128::MAX)));
            let rows = state.endpoints.deliveries.range((account, endpoint, first)..=(account, endpoint, last)).rev();
            let rows = rows.filter(|((_, _, id), _)| before != Some(*id));
            Ok(rows.map(|(_, row)| row.delivery.clone()).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn deliveries_since(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        after: DeliveryId,
        limit: u16,
    ) -> Result<Vec<Delivery>, Fault> {
        self.call("deliveries_since", |state| {
            if limit == 0 {
                return Err(not_valid("list deliveries"));
            }
            let last = DeliveryId::from_bits(u128::MAX);
            let rows = state.endpoints.deliveries.range((account, endpoint, after)..=(account, endpoint, last));
            let rows = rows.filter(|((_, _, id), _)| *id != after);
            Ok(rows.map(|(_, row)| row.delivery.clone()).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn resend_delivery(&self, delivery: &Delivery, now: Timestamp) -> Result<Resent, Fault> {
        self.call("resend_delivery", |state| {
            let key = (delivery.account, delivery.endpoint, delivery.id);
            let Some(row) = state.endpoints.deliveries.get_mut(&key) else { return Ok(Resent::Gone) };
            if row.delivery.status == DeliveryStatus::Pending {
                return Ok(Resent::Pending);
            }
            row.delivery = row.delivery.clone().resent(now);
            (row.fence, row.due) = (None, Some(now + DELIVER_AGAIN));
            Ok(Resent::Now)
        })
        .await
    }
}

impl WorkDeliveries for World {
    async fn claim_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
        fence: Fence,
        now: Timestamp,
    ) -> Result<DeliveryClaim, Fault> {
        self.call("claim_delivery", |state| {
            let row = state.endpoints.deliveries.get_mut(&(account, endpoint, delivery));
            let Some(row) = row else { return Ok(DeliveryClaim::Nothing) };
            let ready = row.delivery.status == DeliveryStatus::Pending && row.delivery.next.is_some_and(|at| at <= now);
            if ready {
                let lease = Some(now + DELIVERY_LEASE);
                (row.fence, row.due, row.delivery.next) = (Some(fence), lease, lease);
                row.delivery.tries += 1;
            } else if row.fence != Some(fence) {
                return Ok(DeliveryClaim::Nothing);
            }
            Ok(DeliveryClaim::Mine(Box::new(row.delivery.clone())))
        })
        .await
    }

    async fn record_attempt(&self, after: &Delivery, fence: Fence) -> Result<bool, Fault> {
        self.call("record_attempt", |state| {
            let key = (after.account, after.endpoint, after.id);
            let Some(row) = state.endpoints.deliveries.get_mut(&key) else { return Ok(false) };
            if row.fence != Some(fence) || row.delivery.status != DeliveryStatus::Pending {
                return Ok(row.delivery == *after);
            }
            let ended = after.attempts.last().map_or(after.created, |attempt| attempt.at);
            row.due = after.due(ended);
            row.delivery = after.clone();
            Ok(true)
        })
        .await
    }
}

impl FindDueDeliveries for World {
    async fn find_due_deliveries(
        &self,
        shard: u8,
        now: Timestamp,
        limit: u16,
    ) -> Result<Vec<(AccountId, EndpointId, DeliveryId)>, Fault> {
        self.call("find_due_deliveries", |state| {
            if limit == 0 {
                return Err(not_valid("find due deliveries"));
            }
            let rows = state.endpoints.deliveries.iter().filter(|((_, _, id), _)| delivery_shard(*id) == shard);
            let mut found: Vec<_> =
                rows.filter_map(|(key, row)| Some((row.due.filter(|at| *at <= now)?, *key))).collect();
            found.sort_unstable();
            Ok(found.into_iter().map(|(_, key)| key).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn look_at_delivery_again(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
        at: Timestamp,
    ) -> Result<(), Fault> {
        self.call("look_at_delivery_again", |state| {
            if let Some(row) = state.endpoints.deliveries.get_mut(&(account, endpoint, delivery))
                && row.due.is_some_and(|due| due < at)
            {
                row.due = Some(at);
            }
            Ok(())
        })
        .await
    }
}

impl CallEndpoint for World {
    /// A planned fault is no answer.
    async fn call_endpoint(&self, url: &EndpointUrl, signed: &Signed) -> Answer {
        let (url, signed) = (url.as_str().to_owned(), signed.clone());
        let called = self.call("call_endpoint", |state| {
            state.endpoints.received.push((url, signed));
            Ok(state.endpoints.answers.pop_front().unwrap_or(Answer::Http { status: 204, bytes: 0 }))
        });
        called.await.unwrap_or(Answer::None(Trouble::NoConnection))
    }
}
