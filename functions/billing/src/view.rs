//! What the routes take and answer. No field takes a card, a name or an address: Stripe's pages ask for those.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::billing::object::{Invoice, SubscriptionStatus};
use telbuddy::billing::{PLANS, Plan, PlanId, PlanPrices, Standing, TOP_UPS, credits_for};
use telbuddy::ledger::MicroCredits;

/// Millionths of a dollar in a cent.
const MICROS_A_CENT: u64 = 10_000;

/// Subscribe.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCheckout {
    /// Which plan; `trial` is not sold.
    pub plan: PlanId,
}

/// Buy credits.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTopUp {
    /// How many, in millionths: one of those that `GET /v1/billing/plans` lists.
    #[schema(example = 2_500_000_000_u64)]
    pub credits_micro: u64,
}

/// Stripe's page to go to.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Page {
    /// Open it in a browser. It is good for a day if it is a checkout, for some minutes if it is the portal.
    #[schema(example = "https://checkout.stripe.com/c/pay/cs_…")]
    pub url: String,
}

/// What is sold.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Offer {
    /// Plans, cheapest first.
    plans: Vec<PlanView>,
    /// Credits by themselves.
    top_ups: Vec<TopUpView>,
}

/// A plan.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PlanView {
    /// What `POST /v1/billing/checkout` takes.
    id: PlanId,
    /// What people call it.
    #[schema(example = "Growth")]
    name: &'static str,
    /// A month of it, in millionths of a dollar, without tax.
    #[schema(example = 49_000_000)]
    price_usd_micro: u64,
    /// Credits that come with each month, in millionths. Of the trial: once.
    #[schema(value_type = u64, example = 6_000_000_000_u64)]
    credits_included_micro: MicroCredits,
    /// Whether it can be bought here.
    available: bool,
}

/// A top-up.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TopUpView {
    /// In millionths.
    #[schema(value_type = u64, example = 2_500_000_000_u64)]
    credits_micro: MicroCredits,
    /// In millionths of a dollar, without tax.
    #[schema(example = 25_000_000)]
    price_usd_micro: u64,
}

impl Offer {
    /// As it is sold at these prices.
    pub fn of(prices: &PlanPrices) -> Self {
        let plan = |plan: &Plan| PlanView {
            id: plan.id,
            name: plan.name,
            price_usd_micro: u64::from(plan.cents_a_month) * MICROS_A_CENT,
            credits_included_micro: plan.included,
            available: prices.price(plan.id).is_some(),
        };
        let top_up = |cents: u32| TopUpView {
            credits_micro: credits_for(cents.into()),
            price_usd_micro: u64::from(cents) * MICROS_A_CENT,
        };
        let top_ups = if prices.is_selling() { TOP_UPS.map(top_up).into() } else { Vec::new() };
        Self { plans: PLANS.iter().map(plan).collect(), top_ups }
    }
}

/// What an account has subscribed to.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SubscriptionView {
    /// The plan: `trial` without a subscription, null if it is none of those on offer.
    plan: Option<PlanId>,
    /// How the subscription stands, as Stripe calls it; null without one.
    status: Option<SubscriptionStatus>,
    /// When the period ends that is paid.
    #[schema(value_type = Option<String>, format = "date-time")]
    current_period_end: Option<Timestamp>,
    /// When the subscription ends, if that is set.
    #[schema(value_type = Option<String>, format = "date-time")]
    ends_at: Option<Timestamp>,
    /// A renewal was not paid: until when you can go on before it is.
    #[schema(value_type = Option<String>, format = "date-time")]
    grace_until: Option<Timestamp>,
}

impl SubscriptionView {
    /// As it stands; nothing: the trial.
    pub fn of(standing: Option<&Standing>) -> Self {
        match standing {
            Some(standing) => Self {
                plan: standing.plan,
                status: Some(standing.status),
                current_period_end: standing.period_end,
                ends_at: standing.ends,
                grace_until: standing.grace_until,
            },
            None => Self {
                plan: Some(PlanId::Trial),
                status: None,
                current_period_end: None,
                ends_at: None,
                grace_until: None,
            },
        }
    }
}

/// An invoice.
#[derive(Serialize, utoipa::ToSchema)]
pub struct InvoiceView {
    /// Stripe's id of it.
    #[schema(example = "in_1TBs0aK3pQ7xYw2dR8")]
    id: String,
    /// Its number, once it is final.
    number: Option<String>,
    /// `draft`, `open`, `paid`, `void` or `uncollectible`.
    status: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// With tax, in the currency's smallest unit, as on the invoice. Below zero: it is set off later.
    total_minor: i64,
    /// What of it is paid, the same.
    paid_minor: u64,
    /// The currency, in small letters.
    #[schema(example = "usd")]
    currency: String,
    /// Stripe's page with the invoice and its receipt, or to pay it. It ends some weeks later: ask again.
    url: Option<String>,
    /// The same as PDF.
    pdf_url: Option<String>,
}

impl From<Invoice> for InvoiceView {
    fn from(invoice: Invoice) -> Self {
        Self {
            id: invoice.id.into(),
            number: invoice.number,
            status: invoice.status,
            created_at: invoice.created,
            total_minor: invoice.total,
            paid_minor: invoice.amount_paid,
            currency: invoice.currency,
            url: invoice.hosted_invoice_url,
            pdf_url: invoice.invoice_pdf,
        }
    }
}

/// A page of invoices.
#[derive(Serialize, utoipa::ToSchema)]
pub struct InvoicePage {
    /// Newest first.
    pub data: Vec<InvoiceView>,
    /// Give this as `cursor` for the next page; null at the end.
    pub next_cursor: Option<String>,
}
