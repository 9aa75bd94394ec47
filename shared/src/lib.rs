//! TelBuddy's common crate.
//!
//! Two layers and one wall between them. Without features this crate is the rules: types that prove something and pure
//! decisions, with no AWS, Twilio or Lambda in scope, so that a rule that reaches outward does not build. The feature
//! `live` adds the adapters, `testing` a stateful fake of every port and the contract tests that both pass.
//!
//! Invariants (docs/ARCHITECTURE.md says how each is checked):
//!
//! - nouns ([`access_log`], [`account`], [`alert`], [`session`], [`api_key`], [`billing`], [`credential`],
//!   [`connection`], [`message`], [`inbound`], [`endpoint`], [`opt_out`], [`pace`], [`quarantine`], [`ledger`],
//!   [`reconciliation`],
//!   [`rotation`], [`template`], [`velocity`]) import no `live`, no clock, no randomness and no client;
//! - only `live` names an AWS, Twilio or Stripe type, only `live::dynamo::keys` builds a key of an item, only
//!   `live::serve` names a Lambda type;
//! - only `main.rs` and `live::config` read the environment;
//! - functions do not depend on functions.

pub mod access_log;
pub mod account;
pub mod alert;
pub mod api_key;
pub mod billing;
pub mod connection;
pub mod credential;
pub mod edge;
pub mod endpoint;
pub mod fault;
pub mod ids;
pub mod inbound;
pub mod ledger;
pub mod message;
pub mod number;
pub mod opt_out;
pub mod pace;
pub mod platform;
pub mod quarantine;
pub mod reconciliation;
pub mod rotation;
pub mod routine;
pub mod seal;
pub mod secret;
pub mod session;
pub mod template;
pub mod velocity;

#[cfg(feature = "live")]
pub mod live;
#[cfg(feature = "testing")]
pub mod testing;
