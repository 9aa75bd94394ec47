//! What counting asks of the world.

use std::collections::BTreeSet;

use super::{Mark, Minute};
use crate::fault::Fault;

/// Counts what is about to be handed over, exactly, from any number of batches at once.
pub trait CountPassing {
    /// Adds messages to a prefix's minute, each once however often it comes, and gives all that are there then: 1
    /// update.
    fn count_prefix(
        &self,
        minute: Minute,
        prefix: &str,
        marks: &BTreeSet<Mark>,
    ) -> impl Future<Output = Result<BTreeSet<Mark>, Fault>> + Send;

    /// Adds to the number of messages of an account's minute and gives it: 1 update.
    fn count_account(&self, minute: Minute, n_messages: u64) -> impl Future<Output = Result<u64, Fault>> + Send;
}
