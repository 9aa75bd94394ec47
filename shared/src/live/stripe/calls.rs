//! The calls: what is asked, and which of our ports that keeps. 1 request each if nothing else is said.

use jiff::Timestamp;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Ask;
use crate::billing::object::{
    Charge, CheckoutSession, Dispute, FraudWarning, Invoice, Listed, PaidFor, Refund, Subscription, TOP_UP,
};
use crate::billing::{
    ACCOUNT, Change, ChangeSubscription, Checkout, KeepCustomer, MeterEvent, OpenPortal, OperationKey, ReadInvoices,
    ReadPayment, ReadStripeEvents, ReadSubscription, ReportUsage, Sale, StartCheckout, StripeError, StripeEvent,
    StripeId,
};
use crate::ids::AccountId;
use crate::live::Live;

fn get<'a>(path: String, params: Value) -> Ask<'a> {
    Ask { method: Method::GET, path, params, key: None }
}

fn delete<'a>(path: String) -> Ask<'a> {
    Ask { method: Method::DELETE, path, params: Value::Null, key: None }
}

fn post(path: String, params: Value, key: &OperationKey) -> Ask<'_> {
    Ask { method: Method::POST, path, params, key: Some(key) }
}

#[derive(Deserialize)]
struct OnlyId {
    id: StripeId,
}

#[derive(Deserialize)]
struct Page {
    url: String,
}

#[derive(Deserialize)]
struct InvoicePayment {
    invoice: StripeId,
}

/// What we write on each object, so that events say whose they are, and of which deployment.
fn written(account: AccountId, stage: &str, kind: Option<&str>) -> Value {
    json!({ ACCOUNT: account, "telbuddy_env": stage, "kind": kind })
}

impl KeepCustomer for Live {
    async fn make_customer(&self, account: AccountId, key: &OperationKey) -> Result<StripeId, StripeError> {
        let params = json!({ "metadata": written(account, &self.stripe.stage, None) });
        let made: OnlyId = self.ask_stripe(post("/v1/customers".to_owned(), params, key)).await?;
        Ok(made.id)
    }

    async fn delete_customer(&self, customer: &StripeId) -> Result<bool, StripeError> {
        let deleted = self.find_at_stripe::<Value>(delete(format!("/v1/customers/{customer}"))).await?;
        Ok(deleted.is_some())
    }
}

/// A checkout as Stripe takes it. Which ways to pay there are is set at Stripe, not here.
fn checkout_params(checkout: &Checkout, stage: &str) -> Value {
    let mut params = json!({
        "customer": checkout.customer,
        "client_reference_id": checkout.account,
        "success_url": checkout.success_url,
        "cancel_url": checkout.cancel_url,
        // A company may give its VAT id, and the invoice gets the name and address that belong to it.
        "tax_id_collection": { "enabled": true },
        "customer_update": { "name": "auto", "address": "auto" },
    });
    let more = match &checkout.sale {
        Sale::Subscription { price } => {
            let written = written(checkout.account, stage, None);
            json!({
                "mode": "subscription",
                "line_items": [{ "price": price, "quantity": 1 }],
                "metadata": written,
                "subscription_data": { "metadata": written },
            })
        }
        Sale::TopUp { cents, name } => {
            let written = written(checkout.account, stage, Some(TOP_UP));
            let price = json!({ "currency": "usd", "unit_amount": cents, "product_data": { "name": name } });
            json!({
                "mode": "payment",
                "line_items": [{ "price_data": price, "quantity": 1 }],
                "metadata": written,
                "payment_intent_data": { "metadata": written },
                // Without it a single payment has a receipt and no invoice.
                "invoice_creation": { "enabled": true, "invoice_data": { "metadata": written } },
            })
        }
    };
    if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
        params.extend(more);
    }
    params
}

impl StartCheckout for Live {
    async fn start_checkout(&self, checkout: &Checkout, key: &OperationKey) -> Result<CheckoutSession, StripeError> {
        let params = checkout_params(checkout, &self.stripe.stage);
        self.ask_stripe(post("/v1/checkout/sessions".to_owned(), params, key)).await
    }
}

impl OpenPortal for Live {
    async fn open_portal(
        &self,
        customer: &StripeId,
        return_url: &str,
        key: &OperationKey,
    ) -> Result<String, StripeError> {
        let params = json!({ "customer": customer, "return_url": return_url });
        let page: Page = self.ask_stripe(post("/v1/billing_portal/sessions".to_owned(), params, key)).await?;
        Ok(page.url)
    }
}

impl ReadSubscription for Live {
    async fn read_subscription(&self, id: &StripeId) -> Result<Option<Subscription>, StripeError> {
        self.find_at_stripe(get(format!("/v1/subscriptions/{id}"), Value::Null)).await
    }
}

impl ChangeSubscription for Live {
    async fn change_subscription(
        &self,
        id: &StripeId,
        change: &Change,
        key: &OperationKey,
    ) -> Result<Subscription, StripeError> {
        let path = format!("/v1/subscriptions/{id}");
        let (path, params) = match change {
            Change::Price { item, price } => (path, json!({ "items": [{ "id": item, "price": price }] })),
            Change::CancelAtPeriodEnd(ends) => (path, json!({ "cancel_at_period_end": ends })),
            Change::Pause => (format!("{path}/pause"), json!({ "type": "subscription" })),
            Change::Resume => (format!("{path}/resume"), Value::Null),
        };
        self.ask_stripe(post(path, params, key)).await
    }

    async fn cancel_subscription(&self, id: &StripeId) -> Result<Option<Subscription>, StripeError> {
        self.find_at_stripe(delete(format!("/v1/subscriptions/{id}"))).await
    }
}

impl ReadInvoices for Live {
    async fn read_invoice(&self, id: &StripeId) -> Result<Option<Invoice>, StripeError> {
        self.find_at_stripe(get(format!("/v1/invoices/{id}"), Value::Null)).await
    }

    async fn list_invoices(
        &self,
        customer: &StripeId,
        after: Option<&StripeId>,
        limit: u16,
    ) -> Result<Listed<Invoice>, StripeError> {
        let params = json!({ "customer": customer, "limit": limit, "starting_after": after });
        self.ask_stripe(get("/v1/invoices".to_owned(), params)).await
    }
}

impl ReadPayment for Live {
    async fn read_checkout(&self, id: &StripeId) -> Result<Option<CheckoutSession>, StripeError> {
        self.find_at_stripe(get(format!("/v1/checkout/sessions/{id}"), Value::Null)).await
    }

    async fn read_charge(&self, id: &StripeId) -> Result<Option<Charge>, StripeError> {
        self.find_at_stripe(get(format!("/v1/charges/{id}"), Value::Null)).await
    }

    async fn read_refund(&self, id: &StripeId) -> Result<Option<Refund>, StripeError> {
        self.find_at_stripe(get(format!("/v1/refunds/{id}"), Value::Null)).await
    }

    async fn read_dispute(&self, id: &StripeId) -> Result<Option<Dispute>, StripeError> {
        self.find_at_stripe(get(format!("/v1/disputes/{id}"), Value::Null)).await
    }

    async fn read_fraud_warning(&self, id: &StripeId) -> Result<Option<FraudWarning>, StripeError> {
        self.find_at_stripe(get(format!("/v1/radar/early_fraud_warnings/{id}"), Value::Null)).await
    }

    /// 1 request for a checkout, 3 for an invoice: a payment names neither, since 2025.
    async fn find_paid(&self, payment_intent: &StripeId) -> Result<Option<PaidFor>, StripeError> {
        let params = json!({ "payment_intent": payment_intent, "limit": 1 });
        let sessions = self.ask_stripe(get("/v1/checkout/sessions".to_owned(), params)).await?;
        let Listed::<CheckoutSession> { data: sessions, .. } = sessions;
        if let Some(session) = sessions.into_iter().next() {
            return Ok(Some(PaidFor::Checkout(session)));
        }
        let payment = json!({ "type": "payment_intent", "payment_intent": payment_intent });
        let params = json!({ "payment": payment, "limit": 1 });
        let payments = self.ask_stripe(get("/v1/invoice_payments".to_owned(), params)).await?;
        let Listed::<InvoicePayment> { data: payments, .. } = payments;
        match payments.first() {
            Some(payment) => Ok(self.read_invoice(&payment.invoice).await?.map(PaidFor::Invoice)),
            None => Ok(None),
        }
    }
}

impl ReadStripeEvents for Live {
    async fn read_stripe_event(&self, id: &StripeId) -> Result<Option<StripeEvent>, StripeError> {
        let found: Option<Value> = self.find_at_stripe(get(format!("/v1/events/{id}"), Value::Null)).await?;
        Ok(found.as_ref().and_then(read_event))
    }

    async fn list_undelivered(
        &self,
        since: Timestamp,
        after: Option<&StripeId>,
    ) -> Result<Listed<StripeEvent>, StripeError> {
        let created = json!({ "gte": since.as_second() });
        let params = json!({ "delivery_success": false, "created": created, "limit": 100, "starting_after": after });
        let page: Listed<Value> = self.ask_stripe(get("/v1/events".to_owned(), params)).await?;
        Ok(Listed { data: page.data.iter().filter_map(read_event).collect(), has_more: page.has_more })
    }
}

fn read_event(event: &Value) -> Option<StripeEvent> {
    StripeEvent::read(event).inspect_err(|error| tracing::error!(%error, "an event of Stripe's list is none")).ok()
}

impl ReportUsage for Live {
    async fn report_usage(&self, event: &MeterEvent, key: &OperationKey) -> Result<(), StripeError> {
        let payload = json!({ "stripe_customer_id": event.customer, "value": event.value.to_string() });
        let params = json!({
            "event_name": event.name, "payload": payload, "identifier": event.identifier,
            "timestamp": event.at.as_second(),
        });
        self.ask_stripe::<Value>(post("/v1/billing/meter_events".to_owned(), params, key)).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::super::form;
    use super::*;

    fn form_of(sale: Sale) -> String {
        let checkout = Checkout {
            account: AccountId::from_bits(1),
            customer: "cus_1".parse().unwrap(),
            sale,
            success_url: "https://app.example.com/billing?paid".to_owned(),
            cancel_url: "https://app.example.com/billing".to_owned(),
        };
        let pairs = form::pairs(&checkout_params(&checkout, "dev"));
        let mut lines: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn a_checkout_says_whose_it_is_wherever_an_event_may_look_and_names_no_way_to_pay() {
        insta::assert_snapshot!(form_of(Sale::Subscription { price: "price_1".parse().unwrap() }));
        insta::assert_snapshot!(form_of(Sale::TopUp { cents: 2500, name: "2,500 TelBuddy credits".to_owned() }));
    }
}
