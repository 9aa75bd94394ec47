//! Payment by Stripe: signed events, read into ids, and what is asked of Stripe (promises N5, N6, N13). Cards, names
//! and addresses stay at Stripe.

pub mod decide;
pub mod object;
pub mod signature;

mod event;
mod plan;
mod port;

pub use event::{ACCOUNT, NotAStripeId, NotAnEvent, ObjectRef, StripeEvent, StripeId};
pub use plan::{CREDITS_A_CENT, GRACE, PLANS, Plan, PlanId, PlanPrices, Standing, TOP_UPS, credits_for};
pub use port::*;
