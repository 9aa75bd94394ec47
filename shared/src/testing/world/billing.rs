//! What accounts have at Stripe, and a small Stripe: objects that a test puts there, and what was asked of it.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::billing::object::{
    Charge, CheckoutSession, Dispute, FraudWarning, Invoice, Listed, PaidFor, Refund, Subscription,
};
use crate::billing::{
    ApplyStanding, Billing, Checkout, EVENTS_LIFE, KeepBilling, KeepCustomer, OpenPortal, OperationKey, ReadInvoices,
    ReadPayment, ReadSubscription, RememberEvents, Sale, Standing, StartCheckout, StripeError, StripeId,
};
use crate::fault::Fault;
use crate::ids::AccountId;

#[derive(Default)]
pub(super) struct Stripe {
    rows: BTreeMap<AccountId, Billing>,
    customers: BTreeMap<StripeId, AccountId>,
    /// What was made by which operation: asked again it is not made again.
    made: BTreeMap<OperationKey, StripeId>,
    checkouts: Vec<Checkout>,
    sessions: BTreeMap<StripeId, CheckoutSession>,
    subscriptions: BTreeMap<StripeId, Subscription>,
    invoices: BTreeMap<StripeId, Invoice>,
    charges: BTreeMap<StripeId, Charge>,
    refunds: BTreeMap<StripeId, Refund>,
    disputes: BTreeMap<StripeId, Dispute>,
    warnings: BTreeMap<StripeId, FraudWarning>,
    payments: BTreeMap<StripeId, PaidFor>,
    applied: BTreeMap<StripeId, Timestamp>,
}

impl Stripe {
    /// Our rows only: what is at Stripe is not at rest here.
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.rows);
        dump(bytes, &self.customers);
        dump(bytes, &self.applied);
    }

    fn new_id(&mut self, prefix: &str, key: &OperationKey) -> StripeId {
        let next = self.made.len() + 1;
        let id = || format!("{prefix}_{next}").parse().expect("an id of Stripe's");
        self.made.entry(key.clone()).or_insert_with(id).clone()
    }
}

/// Stripe's side of a world.
pub struct StripeView<'w> {
    pub(super) world: &'w World,
}

impl StripeView<'_> {
    /// Puts or replaces a subscription.
    pub fn put_subscription(&self, subscription: Subscription) {
        self.world.state().stripe.subscriptions.insert(subscription.id.clone(), subscription);
    }

    /// Puts or replaces a checkout.
    pub fn put_session(&self, session: CheckoutSession) {
        let mut state = self.world.state();
        if let Some(intent) = &session.payment_intent {
            state.stripe.payments.insert(intent.clone(), PaidFor::Checkout(session.clone()));
        }
        state.stripe.sessions.insert(session.id.clone(), session);
    }

    /// Puts or replaces an invoice; `paid_by`: by which payment it was paid.
    pub fn put_invoice(&self, invoice: Invoice, paid_by: Option<StripeId>) {
        let mut state = self.world.state();
        if let Some(intent) = paid_by {
            state.stripe.payments.insert(intent, PaidFor::Invoice(invoice.clone()));
        }
        state.stripe.invoices.insert(invoice.id.clone(), invoice);
    }

    /// Puts or replaces a charge.
    pub fn put_charge(&self, charge: Charge) {
        self.world.state().stripe.charges.insert(charge.id.clone(), charge);
    }

    /// Puts or replaces a refund.
    pub fn put_refund(&self, refund: Refund) {
        self.world.state().stripe.refunds.insert(refund.id.clone(), refund);
    }

    /// Puts or replaces a dispute.
    pub fn put_dispute(&self, dispute: Dispute) {
        self.world.state().stripe.disputes.insert(dispute.id.clone(), dispute);
    }

    /// Puts or replaces a bank's warning.
    pub fn put_warning(&self, warning: FraudWarning) {
        self.world.state().stripe.warnings.insert(warning.id.clone(), warning);
    }

    /// Every checkout that was made, oldest first.
    pub fn checkouts(&self) -> Vec<Checkout> {
        self.world.state().stripe.checkouts.clone()
    }

    /// How many objects were made.
    pub fn n_made(&self) -> usize {
        self.world.state().stripe.made.len()
    }
}

impl KeepBilling for World {
    async fn load_billing(&self, account: AccountId) -> Result<Option<Billing>, Fault> {
        self.call("load_billing", |state| Ok(state.stripe.rows.get(&account).cloned())).await
    }

    async fn keep_customer(&self, account: AccountId, customer: &StripeId) -> Result<StripeId, Fault> {
        self.call("keep_customer", |state| {
            if let Some(kept) = state.stripe.rows.get(&account) {
                return Ok(kept.customer.clone());
            }
            if state.stripe.customers.contains_key(customer) {
                return Err(not_valid("a customer of Stripe's is another account's"));
            }
            let row = Billing { customer: customer.clone(), standing: None, read: None };
            state.stripe.rows.insert(account, row);
            state.stripe.customers.insert(customer.clone(), account);
            Ok(customer.clone())
        })
        .await
    }
}

impl ApplyStanding for World {
    async fn find_customer(&self, customer: &StripeId) -> Result<Option<AccountId>, Fault> {
        self.call("find_customer", |state| Ok(state.stripe.customers.get(customer).copied())).await
    }

    async fn save_standing(
        &self,
        account: AccountId,
        standing: &Standing,
        read: Timestamp,
        before: Option<Timestamp>,
    ) -> Result<bool, Fault> {
        self.call("save_standing", |state| {
            let Some(row) = state.stripe.rows.get_mut(&account).filter(|row| row.read == before) else {
                return Ok(false);
            };
            (row.standing, row.read) = (Some(standing.clone()), Some(read));
            Ok(true)
        })
        .await
    }
}

impl RememberEvents for World {
    async fn is_applied(&self, event: &StripeId, now: Timestamp) -> Result<bool, Fault> {
        self.call("is_applied", |state| Ok(state.stripe.applied.get(event).is_some_and(|at| now < *at + EVENTS_LIFE)))
            .await
    }

    async fn note_applied(&self, event: &StripeId, now: Timestamp) -> Result<(), Fault> {
        self.call("note_applied", |state| {
            let at = state.stripe.applied.entry(event.clone()).or_insert(now);
            *at = now.max(*at);
            Ok(())
        })
        .await
    }
}

impl KeepCustomer for World {
    async fn make_customer(&self, _: AccountId, key: &OperationKey) -> Result<StripeId, StripeError> {
        Ok(self.call("make_customer", |state| Ok(state.stripe.new_id("cus", key))).await?)
    }

    async fn delete_customer(&self, customer: &StripeId) -> Result<bool, StripeError> {
        let deleted = self.call("delete_customer", |state| {
            let subscriptions = &mut state.stripe.subscriptions;
            let n_before = subscriptions.len();
            subscriptions.retain(|_, one| one.customer != *customer);
            Ok(subscriptions.len() < n_before)
        });
        Ok(deleted.await?)
    }
}

impl StartCheckout for World {
    async fn start_checkout(&self, checkout: &Checkout, key: &OperationKey) -> Result<CheckoutSession, StripeError> {
        let made = self.call("start_checkout", |state| {
            let stripe = &mut state.stripe;
            let is_new = !stripe.made.contains_key(key);
            let id = stripe.new_id("cs", key);
            if is_new {
                stripe.checkouts.push(checkout.clone());
            }
            let (mode, amount) = match &checkout.sale {
                Sale::Subscription { .. } => ("subscription", 0),
                Sale::TopUp { cents, .. } => ("payment", *cents),
            };
            let session = serde_json::json!({
                "id": id, "url": format!("https://checkout.example.com/{id}"), "mode": mode, "status": "open",
                "payment_status": "unpaid", "customer": checkout.customer, "amount_total": amount, "currency": "usd",
                "client_reference_id": checkout.account,
            });
            let session: CheckoutSession = serde_json::from_value(session).expect("a checkout");
            stripe.sessions.insert(id, session.clone());
            Ok(session)
        });
        Ok(made.await?)
    }
}

impl OpenPortal for World {
    async fn open_portal(
        &self,
        customer: &StripeId,
        return_url: &str,
        _: &OperationKey,
    ) -> Result<String, StripeError> {
        let page = format!("https://portal.example.com/{customer}?back={return_url}");
        Ok(self.call("open_portal", |_| Ok(page)).await?)
    }
}

impl ReadSubscription for World {
    async fn read_subscription(&self, id: &StripeId) -> Result<Option<Subscription>, StripeError> {
        Ok(self.call("read_subscription", |state| Ok(state.stripe.subscriptions.get(id).cloned())).await?)
    }
}

impl ReadInvoices for World {
    async fn read_invoice(&self, id: &StripeId) -> Result<Option<Invoice>, StripeError> {
        Ok(self.call("read_invoice", |state| Ok(state.stripe.invoices.get(id).cloned())).await?)
    }

    async fn list_invoices(
        &self,
        customer: &StripeId,
        after: Option<&StripeId>,
        limit: u16,
    ) -> Result<Listed<Invoice>, StripeError> {
        let listed = self.call("list_invoices", |state| {
            let of_customer = |one: &&Invoice| one.customer.as_ref() == Some(customer);
            let mut all: Vec<_> = state.stripe.invoices.values().filter(of_customer).cloned().collect();
            all.sort_by_key(|one| std::cmp::Reverse((one.created, one.id.clone())));
            let begin = after.and_then(|after| all.iter().position(|one| one.id == *after)).map_or(0, |at| at + 1);
            let mut data = all.split_off(begin);
            let has_more = data.len() > usize::from(limit);
            data.truncate(usize::from(limit));
            Ok(Listed { data, has_more })
        });
        Ok(listed.await?)
    }
}

impl ReadPayment for World {
    async fn read_checkout(&self, id: &StripeId) -> Result<Option<CheckoutSession>, StripeError> {
        Ok(self.call("read_checkout", |state| Ok(state.stripe.sessions.get(id).cloned())).await?)
    }

    async fn read_charge(&self, id: &StripeId) -> Result<Option<Charge>, StripeError> {
        Ok(self.call("read_charge", |state| Ok(state.stripe.charges.get(id).cloned())).await?)
    }

    async fn read_refund(&self, id: &StripeId) -> Result<Option<Refund>, StripeError> {
        Ok(self.call("read_refund", |state| Ok(state.stripe.refunds.get(id).cloned())).await?)
    }

    async fn read_dispute(&self, id: &StripeId) -> Result<Option<Dispute>, StripeError> {
        Ok(self.call("read_dispute", |state| Ok(state.stripe.disputes.get(id).cloned())).await?)
    }

    async fn read_fraud_warning(&self, id: &StripeId) -> Result<Option<FraudWarning>, StripeError> {
        Ok(self.call("read_fraud_warning", |state| Ok(state.stripe.warnings.get(id).cloned())).await?)
    }

    async fn find_paid(&self, payment_intent: &StripeId) -> Result<Option<PaidFor>, StripeError> {
        Ok(self.call("find_paid", |state| Ok(state.stripe.payments.get(payment_intent).cloned())).await?)
    }
}
