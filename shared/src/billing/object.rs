//! Stripe's objects as far as we use them. Fields that are not here are not read, values that are new are no error.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::StripeId;
use crate::ids::AccountId;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed<T> {
    /// What it holds, newest first.
    pub data: Vec<T>,
    /// Whether older ones follow.
    #[serde(default)]
    pub has_more: bool,
}

/// What we write on the objects that we have made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Metadata {
    /// Whose it is.
    #[serde(default, deserialize_with = "lenient", rename = "telbuddy_account_id")]
    pub account: Option<AccountId>,
    /// [`TOP_UP`], or nothing.
    #[serde(default, deserialize_with = "lenient")]
    pub kind: Option<String>,
}

/// What `kind` says on a checkout for credits.
pub const TOP_UP: &str = "credits_topup";

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: StripeId,
    /// Whose.
    #[serde(deserialize_with = "id")]
    pub customer: StripeId,
    /// When it was made.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub created: Timestamp,
    /// How it stands.
    pub status: SubscriptionStatus,
    /// What is subscribed to.
    pub items: Listed<SubscriptionItem>,
    /// Whether it ends with the period.
    #[serde(default)]
    pub cancel_at_period_end: bool,
    /// When it ends, if that is set.
    #[serde(default, with = "jiff::fmt::serde::timestamp::second::optional")]
    pub cancel_at: Option<Timestamp>,
    /// When its trial ends.
    #[serde(default, with = "jiff::fmt::serde::timestamp::second::optional")]
    pub trial_end: Option<Timestamp>,
    /// Set while its invoices are not collected, at whatever status.
    #[serde(default, deserialize_with = "is_there", rename = "pause_collection")]
    pub collection_paused: bool,
    /// What we wrote on it.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
}

impl Subscription {
    /// The end of the period: since 2025 each item has its own, and ours are the same.
    pub fn period_end(&self) -> Option<Timestamp> {
        self.items.data.iter().filter_map(|item| item.current_period_end).max()
    }
}

/// One thing that is subscribed to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubscriptionItem {
    /// Its id.
    pub id: StripeId,
    /// Its price.
    #[serde(deserialize_with = "id")]
    pub price: StripeId,
    /// When its period ends.
    #[serde(default, with = "jiff::fmt::serde::timestamp::second::optional")]
    pub current_period_end: Option<Timestamp>,
}

/// How a subscription stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionStatus {
    /// The first payment is open.
    Incomplete,
    /// The first payment never came. Final.
    IncompleteExpired,
    /// In its trial.
    Trialing,
    /// Paid.
    Active,
    /// A renewal was not paid, and is tried again.
    PastDue,
    /// Not paid, and not tried any more.
    Unpaid,
    /// Paused: no invoices.
    Paused,
    /// Over. Final.
    Canceled,
    /// A word of Stripe's that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A checkout.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CheckoutSession {
    /// Its id.
    pub id: StripeId,
    /// Its page, while it is open.
    #[serde(default)]
    pub url: Option<String>,
    /// What for.
    pub mode: Mode,
    /// `open`, `complete` or `expired`.
    #[serde(default)]
    pub status: Option<String>,
    /// `paid`, `unpaid` or `no_payment_required`.
    pub payment_status: String,
    /// Whose.
    #[serde(default, deserialize_with = "optional_id")]
    pub customer: Option<StripeId>,
    /// What came of it, in mode subscription.
    #[serde(default, deserialize_with = "optional_id")]
    pub subscription: Option<StripeId>,
    /// What came of it, in mode payment.
    #[serde(default, deserialize_with = "optional_id")]
    pub payment_intent: Option<StripeId>,
    /// In the smallest unit of `currency`, with discount and tax.
    #[serde(default)]
    pub amount_total: Option<u64>,
    /// In small letters.
    #[serde(default)]
    pub currency: Option<String>,
    /// What of the total is not ours.
    #[serde(default, deserialize_with = "or_default")]
    pub total_details: TotalDetails,
    /// What we wrote on it.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// What it was made for: the account, once more.
    #[serde(default, deserialize_with = "lenient", rename = "client_reference_id")]
    pub account: Option<AccountId>,
}

/// Parts of a total.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct TotalDetails {
    /// Tax.
    #[serde(default)]
    pub amount_tax: u64,
}

/// What a checkout is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One payment.
    Payment,
    /// A subscription.
    Subscription,
    /// A card for later; we make none.
    Setup,
    /// A word of Stripe's that this version does not know.
    #[serde(other)]
    Unknown,
}

/// An invoice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Invoice {
    /// Its id.
    pub id: StripeId,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`.
    #[serde(default)]
    pub status: Option<String>,
    /// `subscription_cycle` …
    #[serde(default)]
    pub billing_reason: Option<String>,
    /// Whose.
    #[serde(default, deserialize_with = "optional_id")]
    pub customer: Option<StripeId>,
    /// Its number, once it is final.
    #[serde(default)]
    pub number: Option<String>,
    /// When it was made.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub created: Timestamp,
    /// In small letters.
    pub currency: String,
    /// With tax, in the smallest unit of `currency`; below zero if Stripe owes.
    pub total: i64,
    /// What of it is paid.
    #[serde(default)]
    pub amount_paid: u64,
    /// Stripe's page of it, for a while.
    #[serde(default)]
    pub hosted_invoice_url: Option<String>,
    /// The same as PDF.
    #[serde(default)]
    pub invoice_pdf: Option<String>,
    /// When payment is tried again; nothing after the last try.
    #[serde(default, with = "jiff::fmt::serde::timestamp::second::optional")]
    pub next_payment_attempt: Option<Timestamp>,
    /// What it came from.
    #[serde(default)]
    pub parent: Option<InvoiceParent>,
    /// What is paid for.
    pub lines: Listed<InvoiceLine>,
}

impl Invoice {
    /// The subscription it is for.
    pub fn subscription(&self) -> Option<&StripeId> {
        self.parent.as_ref()?.subscription_details.as_ref()?.subscription.as_ref()
    }

    /// Whose it is, as its subscription says.
    pub fn account(&self) -> Option<AccountId> {
        self.parent.as_ref()?.subscription_details.as_ref()?.metadata.account
    }
}

/// What an invoice came from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InvoiceParent {
    /// A subscription.
    #[serde(default)]
    pub subscription_details: Option<SubscriptionDetails>,
}

/// The subscription behind an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SubscriptionDetails {
    /// Which.
    #[serde(default, deserialize_with = "optional_id")]
    pub subscription: Option<StripeId>,
    /// What we wrote on it.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
}

/// A line of an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InvoiceLine {
    /// In the smallest unit of the invoice's currency; below zero for what is given back.
    pub amount: i64,
    /// What it is for in time.
    pub period: Period,
    /// What it came from.
    #[serde(default)]
    pub parent: Option<LineParent>,
    /// Its price.
    #[serde(default)]
    pub pricing: Option<Pricing>,
}

impl InvoiceLine {
    /// Its price.
    pub fn price(&self) -> Option<&StripeId> {
        self.pricing.as_ref()?.price_details.as_ref()?.price.as_ref()
    }

    /// Whether it is for part of a period, after a change of plan.
    pub fn is_proration(&self) -> bool {
        let details = self.parent.as_ref().and_then(|parent| parent.subscription_item_details.as_ref());
        details.is_some_and(|details| details.proration)
    }
}

/// From when to when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Period {
    /// From.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub start: Timestamp,
    /// To.
    #[serde(with = "jiff::fmt::serde::timestamp::second::required")]
    pub end: Timestamp,
}

/// What a line came from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LineParent {
    /// An item of a subscription.
    #[serde(default)]
    pub subscription_item_details: Option<ItemDetails>,
}

/// The item behind a line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ItemDetails {
    /// For part of a period.
    #[serde(default)]
    pub proration: bool,
}

/// The price of a line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pricing {
    /// Which.
    #[serde(default)]
    pub price_details: Option<PriceDetails>,
}

/// Which price.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PriceDetails {
    /// Its id.
    #[serde(default, deserialize_with = "optional_id")]
    pub price: Option<StripeId>,
}

/// A charge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Charge {
    /// Its id.
    pub id: StripeId,
    /// Whose.
    #[serde(default, deserialize_with = "optional_id")]
    pub customer: Option<StripeId>,
    /// The payment that it belongs to.
    #[serde(default, deserialize_with = "optional_id")]
    pub payment_intent: Option<StripeId>,
    /// In the smallest unit of its currency.
    pub amount: u64,
}

/// A refund.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refund {
    /// Its id.
    pub id: StripeId,
    /// What is given back.
    #[serde(default, deserialize_with = "optional_id")]
    pub charge: Option<StripeId>,
    /// In the smallest unit of its currency.
    pub amount: u64,
    /// `pending`, `requires_action`, `succeeded`, `failed` or `canceled`.
    #[serde(default)]
    pub status: Option<String>,
}

/// A dispute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Dispute {
    /// Its id.
    pub id: StripeId,
    /// What is disputed.
    #[serde(deserialize_with = "id")]
    pub charge: StripeId,
    /// In the smallest unit of its currency.
    pub amount: u64,
    /// `needs_response`, `won`, `warning_closed` …
    pub status: String,
}

/// A bank's warning that a charge was fraud.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FraudWarning {
    /// Its id.
    pub id: StripeId,
    /// Which charge.
    #[serde(deserialize_with = "id")]
    pub charge: StripeId,
    /// Whether the charge can still be given back.
    #[serde(default)]
    pub actionable: bool,
}

/// What a payment was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaidFor {
    /// A checkout for credits.
    Checkout(CheckoutSession),
    /// An invoice of a subscription.
    Invoice(Invoice),
}

/// An id, or an object in its place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Expandable {
    Id(StripeId),
    Object { id: StripeId },
}

impl From<Expandable> for StripeId {
    fn from(given: Expandable) -> Self {
        match given {
            Expandable::Id(id) | Expandable::Object { id } => id,
        }
    }
}

fn id<'de, D: Deserializer<'de>>(from: D) -> Result<StripeId, D::Error> {
    Expandable::deserialize(from).map(StripeId::from)
}

fn optional_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<StripeId>, D::Error> {
    Ok(Option::<Expandable>::deserialize(from)?.map(StripeId::from))
}

/// Null is as good as left out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// What others wrote there is not ours: nothing, and no error.
fn lenient<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

fn is_there<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    Ok(!Value::deserialize(from)?.is_null())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_new_at_stripe_is_no_error() {
        let given = json!({
            "id": "sub_1", "customer": { "id": "cus_1", "deleted": true }, "status": "some_future_status", "created": 1,
            "items": { "data": [{ "id": "si_1", "price": { "id": "price_1" }, "quantity": 1 }] },
            "pause_collection": { "behavior": "void" }, "metadata": { "telbuddy_account_id": "of others" }, "more": [1],
        });
        let read: Subscription = serde_json::from_value(given).unwrap();
        assert_eq!((read.status, read.customer.as_str()), (SubscriptionStatus::Unknown, "cus_1"));
        assert_eq!((read.collection_paused, read.metadata.account, read.period_end()), (true, None, None));
    }

    #[test]
    fn an_invoice_says_whose_and_for_which_subscription_in_its_parent() {
        let account = AccountId::from_bits(7);
        let details = json!({ "subscription": "sub_1", "metadata": { "telbuddy_account_id": account } });
        let mut given = json!({
            "id": "in_1", "created": 1, "currency": "usd", "total": 4900, "lines": { "data": [] },
            "parent": { "type": "subscription_details", "subscription_details": details },
        });
        let read: Invoice = serde_json::from_value(given.clone()).unwrap();
        assert_eq!((read.subscription().map(StripeId::as_str), read.account()), (Some("sub_1"), Some(account)));
        given["parent"] = Value::Null;
        let read: Invoice = serde_json::from_value(given).unwrap();
        assert_eq!((read.subscription(), read.account()), (None, None));
    }
}
