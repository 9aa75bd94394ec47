//! Payment by Stripe: signed events, read into ids (promises N5, N6, N13). Cards, names and addresses stay at Stripe.

pub mod signature;

mod event;

pub use event::{ACCOUNT, NotAStripeId, NotAnEvent, ObjectRef, StripeEvent, StripeId};
