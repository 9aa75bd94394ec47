//! Endpoints: addresses of a customer's own that are told what happens, by signed webhooks (Standard Webhooks).
//!
//! An event becomes durable in the transaction that makes it: for each endpoint that gets it a delivery is written
//! there (docs/decisions/0021). A delivery is tried over three days, then given up, and can be resent.

mod address;
mod content;
mod delivery;
mod event;
mod port;
mod signing;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, EndpointId};
use crate::seal::Sealed;

pub use address::*;
pub use content::*;
pub use delivery::*;
pub use event::*;
pub use port::*;
pub use signing::*;

/// What a signing secret starts with.
pub const SECRET_PREFIX: &str = "whsec_";

/// Endpoints that an account may have.
pub const MOST_ENDPOINTS: u32 = 10;

/// An endpoint as stored. The URL is the customer's own, and is shown to nobody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose.
    pub account: AccountId,
    /// Names it.
    pub id: EndpointId,
    /// Where events are sent.
    pub url: EndpointUrl,
    /// Which.
    pub choice: Choice,
    /// Whether events of messages have with them what the message says.
    pub include_content: bool,
    /// What the customer calls it.
    pub description: String,
    /// Signs, sealed.
    pub secret: Sealed,
    /// Those before it that still sign, oldest first.
    pub previous: Vec<PreviousSecret>,
    /// Nothing is sent there, since when and why.
    pub disabled: Option<Disabled>,
    /// Since when nothing but failures came of tries.
    pub failing_since: Option<Timestamp>,
    /// Counts the writes to this row; a write names the revision that it read.
    pub revision: u32,
    /// When it was made.
    pub created: Timestamp,
    /// When the customer changed it last.
    pub updated: Timestamp,
}

/// A secret that was replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// Sealed.
    pub secret: Sealed,
    /// It signs until then.
    pub until: Timestamp,
}

/// That an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disabled {
    /// Since when.
    pub at: Timestamp,
    /// Why.
    pub why: WhyDisabled,
    /// Whether it is still to be noted that the owner was told.
    pub untold: bool,
}

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyDisabled {
    /// The customer did it.
    Customer,
    /// It answered 410 Gone.
    Gone,
    /// Nothing but failures for five days.
    Failing,
}

impl WhyDisabled {
    /// The stable word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

impl Endpoint {
    /// What it gets now.
    pub fn listens_to(&self) -> Choice {
        if self.disabled.is_some() { Choice::Only(std::collections::BTreeSet::new()) } else { self.choice.clone() }
    }

    /// The sealed secrets that sign now, the newest first.
    pub fn signers(&self, now: Timestamp) -> impl Iterator<Item = &Sealed> {
        let before = self.previous.iter().rev().filter(move |before| now < before.until);
        std::iter::once(&self.secret).chain(before.map(|before| &before.secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    pub(super) fn endpoint() -> Endpoint {
        Endpoint {
            account: AccountId::from_bits(1),
            id: EndpointId::from_bits(1),
            url: EndpointUrl::parse("https://example.com/hooks", Reach::Public).unwrap(),
            choice: Choice::All,
            include_content: false,
            description: String::new(),
            secret: Sealed(vec![1]),
            previous: Vec::new(),
            disabled: None,
            failing_since: None,
            revision: 0,
            created: Timestamp::UNIX_EPOCH,
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn the_newest_secret_signs_first_and_those_before_it_for_their_time() {
        let now = Timestamp::UNIX_EPOCH;
        let before =
            |n: u8, secs| PreviousSecret { secret: Sealed(vec![n]), until: now + SignedDuration::from_secs(secs) };
        let rotated = Endpoint { secret: Sealed(vec![3]), previous: vec![before(1, 0), before(2, 1)], ..endpoint() };
        let signers: Vec<_> = rotated.signers(now).cloned().collect();
        assert_eq!(signers, [Sealed(vec![3]), Sealed(vec![2])]);
    }

    #[test]
    fn a_disabled_endpoint_listens_to_nothing() {
        let disabled = Disabled { at: Timestamp::UNIX_EPOCH, why: WhyDisabled::Customer, untold: false };
        let off = Endpoint { disabled: Some(disabled), ..endpoint() };
        assert!(endpoint().listens_to().has(EventType::MessageSent));
        assert!(!off.listens_to().has(EventType::MessageSent));
    }
}
