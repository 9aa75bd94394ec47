//! API keys: how a program comes in, and what it may then do.

mod port;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{AccountId, ApiKeyId, UserId};
use crate::secret::TokenHash;
use crate::session::{Proof, TOUCH_EVERY, Way};

pub use port::*;

/// Prefix of an API key.
pub const KEY_PREFIX: &str = "tb_live_";
/// An account's keys, expired ones included, are at most so many.
pub const MOST_KEYS: u32 = 20;

/// What a key may do. Nothing here makes keys, changes credentials or sessions, or lifts a freeze: for these a person
/// logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Scope {
    /// Send messages, take back what is not sent yet, and decide about what could not be confirmed.
    #[serde(rename = "messages:send")]
    MessagesSend,
    /// Read what became of messages, what they say, and their media.
    #[serde(rename = "messages:read")]
    MessagesRead,
    /// List and show templates.
    #[serde(rename = "templates:read")]
    TemplatesRead,
    /// Make, change and remove templates.
    #[serde(rename = "templates:write")]
    TemplatesWrite,
    /// Read usage and credit.
    #[serde(rename = "usage:read")]
    UsageRead,
    /// List and check opt-outs.
    #[serde(rename = "opt_outs:read")]
    OptOutsRead,
    /// Record and remove opt-outs.
    #[serde(rename = "opt_outs:write")]
    OptOutsWrite,
    /// List the numbers of the connected Twilio account.
    #[serde(rename = "numbers:read")]
    NumbersRead,
    /// Connect numbers and give them back.
    #[serde(rename = "numbers:write")]
    NumbersWrite,
    /// Show the sending policy and what stops sending.
    #[serde(rename = "sending_policy:read")]
    SendingPolicyRead,
    /// Replace the sending policy: destinations, daily ceiling, quiet hours, rates. It lifts no freeze.
    #[serde(rename = "sending_policy:write")]
    SendingPolicyWrite,
    /// List webhook endpoints and what was delivered to them.
    #[serde(rename = "webhooks:read")]
    WebhooksRead,
    /// Add, change and remove webhook endpoints, with their secrets; send tests, and events again.
    #[serde(rename = "webhooks:write")]
    WebhooksWrite,
    /// Read the account and what was recorded about it: the access log, and webhooks that were refused.
    #[serde(rename = "account:read")]
    AccountRead,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 14] = [
        Self::MessagesSend,
        Self::MessagesRead,
        Self::TemplatesRead,
        Self::TemplatesWrite,
        Self::UsageRead,
        Self::OptOutsRead,
        Self::OptOutsWrite,
        Self::NumbersRead,
        Self::NumbersWrite,
        Self::SendingPolicyRead,
        Self::SendingPolicyWrite,
        Self::WebhooksRead,
        Self::WebhooksWrite,
        Self::AccountRead,
    ];

    /// The word in requests and answers; the same as stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessagesSend => "messages:send",
            Self::MessagesRead => "messages:read",
            Self::TemplatesRead => "templates:read",
            Self::TemplatesWrite => "templates:write",
            Self::UsageRead => "usage:read",
            Self::OptOutsRead => "opt_outs:read",
            Self::OptOutsWrite => "opt_outs:write",
            Self::NumbersRead => "numbers:read",
            Self::NumbersWrite => "numbers:write",
            Self::SendingPolicyRead => "sending_policy:read",
            Self::SendingPolicyWrite => "sending_policy:write",
            Self::WebhooksRead => "webhooks:read",
            Self::WebhooksWrite => "webhooks:write",
            Self::AccountRead => "account:read",
        }
    }
}

/// A key as stored; the token is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Shown in lists.
    pub id: ApiKeyId,
    /// The account.
    pub account: AccountId,
    /// Hash of the token.
    pub hash: TokenHash,
    /// What its owner calls it.
    pub name: KeyName,
    /// What it may do; sorted, each once, at least one.
    pub scopes: Vec<Scope>,
    /// Who made it.
    pub made_by: UserId,
    /// When.
    pub created: Timestamp,
    /// The last call, to the minute.
    pub used: Option<Timestamp>,
    /// When it ends by itself.
    pub expires: Option<Timestamp>,
}

impl ApiKey {
    /// What a request with it shows.
    pub fn proof(&self) -> Proof {
        Proof { account: self.account, way: Way::ApiKey, hash: self.hash.clone() }
    }

    /// Whether it still counts. An expired key stays in the list until it is deleted.
    pub fn alive(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|expires| now < expires)
    }

    /// Whether it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the last call should be written down now.
    pub fn wants_touch(&self, now: Timestamp) -> bool {
        self.used.is_none_or(|used| now >= used + TOUCH_EVERY)
    }
}

/// What an owner calls a key: 1 to 64 characters on one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyName(String);

/// A text that is no name of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give 1 to 64 characters on one line")]
pub struct NotAKeyName;

impl KeyName {
    /// A name without the space around it.
    pub fn parse(text: &str) -> Result<Self, NotAKeyName> {
        let text = text.trim();
        if (1..=64).contains(&text.chars().count()) && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAKeyName)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    fn a_scope_is_one_word_everywhere() {
        for scope in Scope::ALL {
            assert_eq!(serde_json::to_string(&scope).unwrap(), format!("\"{}\"", scope.as_str()));
            let kept = scope.as_str().chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == ':');
            assert!(kept, "{}", scope.as_str());
        }
    }

    #[test]
    fn a_name_is_a_short_line() {
        assert_eq!(KeyName::parse("  Till 4 ").unwrap().as_str(), "Till 4");
        assert!(KeyName::parse(&"é".repeat(64)).is_ok());
        for wrong in ["", "  ", "two\nlines", "a\u{7}b", &"x".repeat(65)] {
            assert_eq!(KeyName::parse(wrong), Err(NotAKeyName), "{wrong:?}");
        }
    }

    #[test]
    fn a_key_counts_until_it_expires_and_is_touched_once_a_minute() {
        let start = Timestamp::UNIX_EPOCH;
        let mut key = ApiKey {
            id: ApiKeyId::from_bits(1),
            account: AccountId::from_bits(1),
            hash: TokenHash(String::new()),
            name: KeyName::parse("key").unwrap(),
            scopes: vec![Scope::UsageRead],
            made_by: UserId::from_bits(1),
            created: start,
            used: None,
            expires: None,
        };
        assert!(key.alive(start + SignedDuration::from_hours(24 * 3650)));
        key.expires = Some(start + SignedDuration::from_secs(10));
        assert!(key.alive(start + SignedDuration::from_secs(9)) && !key.alive(start + SignedDuration::from_secs(10)));
        assert!(key.wants_touch(start), "the first call counts");
        key.used = Some(start);
        assert!(!key.wants_touch(start + SignedDuration::from_secs(59)));
        assert!(key.wants_touch(start + SignedDuration::from_secs(60)));
        assert!(key.may(Scope::UsageRead) && !key.may(Scope::MessagesSend));
    }
}
