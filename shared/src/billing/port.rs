//! What billing asks of the world: Stripe's deeds.

use jiff::{SignedDuration, Timestamp};

use super::object::{Charge, CheckoutSession, Dispute, FraudWarning, Invoice, Listed, PaidFor, Refund, Subscription};
use super::{Standing, StripeEvent, StripeId};
use crate::edge::{Kind, Problem};
use crate::fault::Fault;
use crate::ids::AccountId;

/// Names one operation of ours, so that Stripe does it once however often it is asked (for at least a day).
///
/// Made of our own ids, never of chance: a retry after a crash has to find the same one. At most 255 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationKey(String);

impl OperationKey {
    /// The operation `what` of an account, told from others of the kind by `which`: an id of ours, or a hash.
    pub fn new(what: &'static str, account: AccountId, which: &str) -> Self {
        let mut text = format!("tb:{what}:{account}:{which}");
        text.truncate(text.floor_char_boundary(255));
        Self(text)
    }

    /// The header's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Stripe's no: what was asked for cannot be had, and asking again does not help.
///
/// Stripe's own words are not in it: they may repeat what was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Stripe refused {what}: {status} {kind} {code} {param} ({request})")]
pub struct Refused {
    /// What was asked for.
    pub what: String,
    /// HTTP status.
    pub status: u16,
    /// `invalid_request_error`, `idempotency_error`, `card_error` …; empty if it did not say.
    pub kind: String,
    /// `resource_missing` …; empty if it did not say.
    pub code: String,
    /// Which parameter is at fault; empty if it did not say.
    pub param: String,
    /// Stripe's id of the request, for its support; empty if it did not say.
    pub request: String,
}

/// Why Stripe did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StripeError {
    /// It said no.
    #[error("{0}")]
    Refused(Refused),
    /// It could not be asked, or did not say.
    #[error("{0}")]
    Fault(Fault),
}

impl StripeError {
    /// Whether the object that was asked for is not there (any more).
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.code == "resource_missing" || refused.status == 404)
    }

    /// Whether the operation's key was used for another request.
    pub fn is_key_reused(&self) -> bool {
        matches!(self, Self::Refused(refused) if refused.kind == "idempotency_error")
    }
}

impl From<Fault> for StripeError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StripeError> for Fault {
    fn from(error: StripeError) -> Self {
        match error {
            StripeError::Refused(refused) => Self::Permanent(refused.to_string()),
            StripeError::Fault(fault) => fault,
        }
    }
}

impl From<StripeError> for Problem {
    fn from(error: StripeError) -> Self {
        if error.is_key_reused() {
            return Self::new(Kind::IdempotencyKeyReused, "repeat an Idempotency-Key only to repeat the same request");
        }
        Fault::from(error).into()
    }
}

/// What is kept of an account's payments: ids and how its subscription stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Billing {
    /// Its customer at Stripe.
    pub customer: StripeId,
    /// What it has subscribed to, if it ever did.
    pub standing: Option<Standing>,
    /// When that was read at Stripe.
    pub read: Option<Timestamp>,
}

/// Keeps what an account has at Stripe.
pub trait KeepBilling {
    /// Nothing if the account has no customer yet.
    fn load_billing(&self, account: AccountId) -> impl Future<Output = Result<Option<Billing>, Fault>> + Send;

    /// Makes a customer the account's, and the account the customer's, in one transaction; the customer that the
    /// account has then: if it had one, that one, and the new one is nobody's.
    fn keep_customer(
        &self,
        account: AccountId,
        customer: &StripeId,
    ) -> impl Future<Output = Result<StripeId, Fault>> + Send;
}

/// Applies what was read at Stripe.
pub trait ApplyStanding {
    /// Whose a customer is. It stays known after the account has gone, so that what comes late is nobody else's.
    fn find_customer(&self, customer: &StripeId) -> impl Future<Output = Result<Option<AccountId>, Fault>> + Send;

    /// Stores what was read at `read`, if what is stored was still read at `before`. `false` if somebody stored
    /// meanwhile: load again and read again, so that what is stored never goes backwards.
    fn save_standing(
        &self,
        account: AccountId,
        standing: &Standing,
        read: Timestamp,
        before: Option<Timestamp>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// How long an event is remembered that was applied: Stripe sends one again for three days, and lists them for thirty.
pub const EVENTS_LIFE: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Remembers which events were applied.
pub trait RememberEvents {
    /// Whether it was.
    fn is_applied(&self, event: &StripeId, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// It was, at `now`.
    fn note_applied(&self, event: &StripeId, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// What a checkout is to sell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sale {
    /// A subscription at a price of Stripe's.
    Subscription {
        /// The price.
        price: StripeId,
    },
    /// Credits, once.
    TopUp {
        /// What they cost, in cents.
        cents: u32,
        /// What the invoice calls them.
        name: String,
    },
}

/// A checkout to be made. Stripe's page asks for name, address and card; we do not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// For whom.
    pub account: AccountId,
    /// Its customer at Stripe.
    pub customer: StripeId,
    /// What is sold.
    pub sale: Sale,
    /// Where Stripe leads after a payment.
    pub success_url: String,
    /// Where it leads without one.
    pub cancel_url: String,
}

/// A change of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Another price for this item from now on; what is left of the period is set off.
    Price {
        /// The item.
        item: StripeId,
        /// Its new price.
        price: StripeId,
    },
    /// End with the period, or go on after all.
    CancelAtPeriodEnd(bool),
    /// No invoices from now on, until it is resumed.
    Pause,
    /// Go on after a pause.
    Resume,
}

/// Usage for a meter of Stripe's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterEvent {
    /// The meter's event name.
    pub name: &'static str,
    /// Whose.
    pub customer: StripeId,
    /// How much, in whole units.
    pub value: u64,
    /// Stripe counts one identifier once, for at least a day.
    pub identifier: String,
    /// When it was used: at most 35 days ago.
    pub at: Timestamp,
}

/// Makes and removes customers.
pub trait KeepCustomer {
    /// A new customer, with our account id on it and nothing else.
    fn make_customer(
        &self,
        account: AccountId,
        key: &OperationKey,
    ) -> impl Future<Output = Result<StripeId, StripeError>> + Send;

    /// Deletes it: cards go, subscriptions end at once. `false` if it was not there any more.
    fn delete_customer(&self, customer: &StripeId) -> impl Future<Output = Result<bool, StripeError>> + Send;
}

/// Makes checkouts.
pub trait StartCheckout {
    /// A checkout with its page.
    fn start_checkout(
        &self,
        checkout: &Checkout,
        key: &OperationKey,
    ) -> impl Future<Output = Result<CheckoutSession, StripeError>> + Send;
}

/// Opens the customer portal.
pub trait OpenPortal {
    /// The address of a page for this customer; it is good for minutes.
    fn open_portal(
        &self,
        customer: &StripeId,
        return_url: &str,
        key: &OperationKey,
    ) -> impl Future<Output = Result<String, StripeError>> + Send;
}

/// Reads subscriptions.
pub trait ReadSubscription {
    /// One, as it stands now; nothing if there is none.
    fn read_subscription(
        &self,
        id: &StripeId,
    ) -> impl Future<Output = Result<Option<Subscription>, StripeError>> + Send;
}

/// Changes subscriptions.
pub trait ChangeSubscription {
    /// Changes one; how it stands then.
    fn change_subscription(
        &self,
        id: &StripeId,
        change: &Change,
        key: &OperationKey,
    ) -> impl Future<Output = Result<Subscription, StripeError>> + Send;

    /// Ends one now, without an invoice for the rest. Nothing if there was none.
    fn cancel_subscription(
        &self,
        id: &StripeId,
    ) -> impl Future<Output = Result<Option<Subscription>, StripeError>> + Send;
}

/// Reads invoices.
pub trait ReadInvoices {
    /// One; nothing if there is none.
    fn read_invoice(&self, id: &StripeId) -> impl Future<Output = Result<Option<Invoice>, StripeError>> + Send;

    /// A customer's, newest first, behind `after`.
    fn list_invoices(
        &self,
        customer: &StripeId,
        after: Option<&StripeId>,
        limit: u16,
    ) -> impl Future<Output = Result<Listed<Invoice>, StripeError>> + Send;
}

/// Reads what became of payments.
pub trait ReadPayment {
    /// A checkout; nothing if there is none.
    fn read_checkout(&self, id: &StripeId)
    -> impl Future<Output = Result<Option<CheckoutSession>, StripeError>> + Send;

    /// A charge; nothing if there is none.
    fn read_charge(&self, id: &StripeId) -> impl Future<Output = Result<Option<Charge>, StripeError>> + Send;

    /// A refund; nothing if there is none.
    fn read_refund(&self, id: &StripeId) -> impl Future<Output = Result<Option<Refund>, StripeError>> + Send;

    /// A dispute; nothing if there is none.
    fn read_dispute(&self, id: &StripeId) -> impl Future<Output = Result<Option<Dispute>, StripeError>> + Send;

    /// A bank's warning; nothing if there is none.
    fn read_fraud_warning(
        &self,
        id: &StripeId,
    ) -> impl Future<Output = Result<Option<FraudWarning>, StripeError>> + Send;

    /// What a payment was for; nothing if it was neither a checkout nor an invoice.
    fn find_paid(&self, payment_intent: &StripeId)
    -> impl Future<Output = Result<Option<PaidFor>, StripeError>> + Send;
}

/// Reads events.
pub trait ReadStripeEvents {
    /// One; nothing if there is none (any more: Stripe keeps them for 30 days).
    fn read_stripe_event(&self, id: &StripeId)
    -> impl Future<Output = Result<Option<StripeEvent>, StripeError>> + Send;

    /// A page of those since a time that some destination did not take, newest first, behind `after`.
    fn list_undelivered(
        &self,
        since: Timestamp,
        after: Option<&StripeId>,
    ) -> impl Future<Output = Result<Listed<StripeEvent>, StripeError>> + Send;
}

/// Reports usage.
pub trait ReportUsage {
    /// Returns when Stripe has taken it. What is wrong with it Stripe says later, by an event.
    fn report_usage(
        &self,
        event: &MeterEvent,
        key: &OperationKey,
    ) -> impl Future<Output = Result<(), StripeError>> + Send;
}
