//! A stateful fake of every port ([`World`]), makers of fresh accounts and messages ([`fresh`], [`sealed`]), and the
//! contract tests of the ports ([`contracts`](mod@contracts)), which the fake and the live adapters both pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "test support: what does not fit is a bug of the test, and a panic names the line"
)]

pub mod contracts;
pub mod fresh;
pub mod sealed;
pub mod setup;
mod world;

pub use world::{CameIn, Checked, Opening, Queued, SentMail, Taken, TwilioView, World};
