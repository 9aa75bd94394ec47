//! Identifiers: prefixed ULIDs, so that a value says what it names and one kind cannot stand in for another.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// A text that is not an identifier of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind: it starts with \"{prefix}\" and 26 characters follow")]
pub struct NotAnId {
    /// The prefix that this kind of id has.
    pub prefix: &'static str,
}

/// Milliseconds since 1970 as ULIDs count them; times before 1970 count as 1970.
fn ulid_millis(now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or(0)
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// A new id from the time and 80 random bits (the low bits of `dice`).
            pub fn new(now: Timestamp, dice: u128) -> Self {
                Self(Ulid::from_parts(ulid_millis(now), dice))
            }

            /// When it was made, to the millisecond.
            pub fn made(self) -> Timestamp {
                let millis = i64::try_from(self.0.timestamp_ms()).unwrap_or(0);
                Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
            }

            /// The 128 bits without the prefix.
            pub fn bits(self) -> u128 {
                self.0.0
            }

            /// The id with these 128 bits.
            pub fn from_bits(bits: u128) -> Self {
                Self(Ulid(bits))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let wrong = NotAnId { prefix: $prefix };
                let ulid = text.strip_prefix($prefix).ok_or(wrong)?;
                let id = Self(Ulid::from_string(ulid).map_err(|_| wrong)?);
                // Crockford's alphabet has aliases (i, l, o, small letters): only the one canonical spelling is an id.
                if id.to_string() == text { Ok(id) } else { Err(wrong) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

prefixed_id!(
    /// One TelBuddy customer (tenant).
    AccountId, "acct_"
);
prefixed_id!(
    /// A person who signs in to an account.
    UserId, "usr_"
);
prefixed_id!(
    /// One SMS/MMS that TelBuddy was asked to send, or one that arrived.
    MessageId, "msg_"
);
prefixed_id!(
    /// One call that TelBuddy was asked to make.
    CallId, "call_"
);
prefixed_id!(
    /// One request to send to many recipients.
    BatchId, "batch_"
);
prefixed_id!(
    /// One template of texts.
    TemplateId, "tpl_"
);
prefixed_id!(
    /// One signed-in session, as lists show it; the token itself is never shown again.
    SessionId, "ses_"
);
prefixed_id!(
    /// One API key, as lists show it; the token itself is shown once.
    ApiKeyId, "key_"
);
prefixed_id!(
    /// One entry of the ledger.
    EntryId, "ent_"
);
prefixed_id!(
    /// A customer's address that events are delivered to.
    EndpointId, "whep_"
);
prefixed_id!(
    /// Something that happened in an account, as endpoints are told; the same event has the same id.
    EventId, "evt_"
);
prefixed_id!(
    /// One event on its way to one endpoint.
    DeliveryId, "wdel_"
);
prefixed_id!(
    /// One request to the HTTP API, as logs and error answers name it.
    RequestId, "req_"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text() {
        let id = AccountId::new(Timestamp::UNIX_EPOCH, 7);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let at: Timestamp = "2026-11-24T06:00:00.123Z".parse().unwrap();
        assert_eq!(AccountId::new(at, u128::MAX).made(), at);
    }

    #[test]
    fn another_kinds_id_and_other_spellings_are_refused() {
        let id = AccountId::new(Timestamp::UNIX_EPOCH, u128::MAX).to_string();
        assert!(id.parse::<UserId>().is_err());
        assert!(id.to_lowercase().parse::<AccountId>().is_err());
        assert!("acct_".parse::<AccountId>().is_err());
        assert!("acct_ééééééééééééé".parse::<AccountId>().is_err());
    }

    #[test]
    fn later_ids_sort_later() {
        let early = MessageId::new("2026-01-01T00:00:00Z".parse().unwrap(), u128::MAX);
        let late = MessageId::new("2026-01-01T00:00:01Z".parse().unwrap(), 0);
        assert!(early.to_string() < late.to_string());
    }
}
