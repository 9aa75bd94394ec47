//! The quarantine (promise N6): failed checks of webhook signatures, counted by account and cause, so that a wrong
//! configuration is seen and not silent. Nothing of what came is kept: no path, no parameter, no signature, no address.

mod port;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::credential::StoredCredential;
use crate::ids::AccountId;
use crate::inbound::signature::Rejection;

pub use port::*;

/// A record ends so long after its last failure.
pub const KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The owner is told of a cause that was quiet for so long.
pub const QUIET: SignedDuration = SignedDuration::from_hours(24);

/// Whoever met a cause first has told the owner within this time, or did not come to it.
const TOLD_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// How long a replaced webhook secret is the likely cause of a failed check.
const RECENT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Why a webhook was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cause {
    /// Its signature was not believed.
    Rejected(Rejection),
    /// The signature fits, and the webhook names another Twilio account.
    OtherAccount,
    /// Our own signed test was answered otherwise than by the webhook that believes it.
    SelfTestRefused,
    /// Our own signed test got no answer.
    SelfTestUnanswered,
    /// Our own signed test did not pass at the second host, where Twilio goes once the first has failed.
    SelfTestFallback,
}

impl Cause {
    /// Every cause.
    pub fn all() -> impl Iterator<Item = Self> {
        let others = [Self::OtherAccount, Self::SelfTestRefused, Self::SelfTestUnanswered, Self::SelfTestFallback];
        Rejection::ALL.into_iter().map(Self::Rejected).chain(others)
    }

    /// A stable name for rows, logs and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.code(),
            Self::OtherAccount => "other_account",
            Self::SelfTestRefused => "self_test_refused",
            Self::SelfTestUnanswered => "self_test_unanswered",
            Self::SelfTestFallback => "self_test_fallback",
        }
    }

    /// Reads a name back.
    pub fn parse(code: &str) -> Option<Self> {
        Self::all().find(|cause| cause.code() == code)
    }

    /// What to do about it, for people. `rotated`: the webhook secret was replaced recently.
    pub fn advice(self, rotated: bool) -> &'static str {
        match self {
            Self::Rejected(Rejection::Mismatch) if rotated => {
                "The webhook secret was replaced here recently, and Twilio does not sign with the new one: promote the \
                 secondary Auth Token in the Twilio Console (or use the new shared key there). If you did so a moment \
                 ago, wait a few minutes."
            }
            Self::Rejected(Rejection::Mismatch) => {
                "If the Auth Token was changed at Twilio, give us the new one: PUT /v1/credentials/twilio, or POST \
                 /v1/credentials/twilio/rotation. If it was not, compare the address that your numbers call with \
                 inbound_url of GET /v1/credentials/twilio. If both are right, somebody else calls this address; such \
                 requests are refused, and there is nothing to do."
            }
            Self::Rejected(Rejection::MissingHeader) => {
                "The requests have no X-Twilio-Signature header: they are not from Twilio, and there is nothing to do, \
                 or a proxy between Twilio and us strips the header: let it through."
            }
            Self::Rejected(Rejection::NoKey) => {
                "We hold no secret that such a request could be signed with: the connected shared key signs, and \
                 Twilio used an Auth Token, or the other way round. Connect the account again with PUT \
                 /v1/credentials/twilio."
            }
            Self::Rejected(Rejection::UnknownSharedKey) => {
                "Twilio signs with a shared key that is not the connected one: give us its id and secret with POST \
                 /v1/credentials/twilio/rotation, or use the connected one at Twilio."
            }
            Self::Rejected(Rejection::UnknownAlgorithm) => {
                "Twilio names a signature algorithm that we do not know: choose HMAC_SHA256 for the shared key."
            }
            Self::Rejected(Rejection::BodyHashMissing | Rejection::BodyHashMismatch) => {
                "Body and query do not belong together: something between Twilio and us changes requests."
            }
            Self::Rejected(Rejection::BodyTooLarge | Rejection::TooManyParameters | Rejection::NotAForm) => {
                "These requests do not look like Twilio's message webhooks: somebody else calls this address, or \
                 something between Twilio and us changes requests."
            }
            Self::OtherAccount => {
                "The signature fits, but the webhook is about another Twilio account than the connected one: set this \
                 address on numbers of the connected account only, and connect the other account to a TelBuddy account \
                 of its own."
            }
            Self::SelfTestRefused => {
                "We called your webhook at its public address, signed as Twilio signs, and it was not believed: \
                 something between changes requests (path, query or body), the address leads elsewhere, or it is not \
                 the one that signatures are checked for. Whoever runs this TelBuddy compares TELBUDDY_PUBLIC_URL with \
                 the address from outside. You have nothing to change at Twilio."
            }
            Self::SelfTestUnanswered => {
                "We called your webhook at its public address and got no answer in time: Twilio may not get one \
                 either. Whoever runs this TelBuddy looks at the domain's DNS, its certificate and the gateway. What \
                 arrives meanwhile is found in Twilio's list within an hour."
            }
            Self::SelfTestFallback => {
                "We called your webhook at its second address, signed as Twilio signs, and it did not answer or was not \
                 believed. Nothing is lost as long as the first address works. Whoever runs this TelBuddy compares \
                 TELBUDDY_FALLBACK_URL with that address, and looks at its DNS, its certificate and its gateway. You \
                 have nothing to change at Twilio."
            }
        }
    }
}

impl From<Cause> for String {
    fn from(cause: Cause) -> Self {
        cause.code().to_owned()
    }
}

/// A text that names no cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cause of a failed check")]
pub struct NotACause;

impl TryFrom<String> for Cause {
    type Error = NotACause;

    fn try_from(code: String) -> Result<Self, NotACause> {
        Self::parse(&code).ok_or(NotACause)
    }
}

/// Which of the webhooks it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// A text that arrives.
    Messages,
    /// The status of a message.
    Status,
    /// A call that arrives.
    Voice,
    /// The status of a call.
    Calls,
    /// Our own daily test.
    SelfTest,
}

/// Whether a webhook secret took the place of another one of the same Twilio account a short time ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// No.
    None,
    /// Yes, and the one before still counts.
    WindowOpen,
    /// Yes, in the last days, and the one before does not count any more.
    Recent,
}

impl Rotation {
    fn of(stored: &StoredCredential, now: Timestamp) -> Self {
        if stored.previous.iter().any(|previous| now < previous.until) {
            Self::WindowOpen
        } else if !stored.previous.is_empty() && now < stored.secret_since + RECENT {
            Self::Recent
        } else {
            Self::None
        }
    }

    /// Whether it did.
    pub fn is_recent(self) -> bool {
        self != Self::None
    }
}

/// One failed check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose webhook.
    pub account: AccountId,
    /// Why.
    pub cause: Cause,
    /// When.
    pub at: Timestamp,
    /// What it looked like.
    pub facts: Facts,
}

/// What is known of a failed check and may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Which webhook.
    pub route: RouteKind,
    /// Whether the signature header was there.
    pub signature_header: bool,
    /// Whether the header was there that names a shared key.
    pub shared_key_header: bool,
    /// Since when the current webhook secret is stored.
    pub secret_since: Timestamp,
    /// Whether it had just taken the place of another one.
    pub rotation: Rotation,
}

impl Facts {
    /// Of a check against this credential.
    pub fn of(stored: &StoredCredential, route: RouteKind, headers: (bool, bool), now: Timestamp) -> Self {
        let (signature_header, shared_key_header) = headers;
        Self {
            route,
            signature_header,
            shared_key_header,
            secret_since: stored.secret_since,
            rotation: Rotation::of(stored, now),
        }
    }
}

/// Failures of one account and cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Why.
    pub cause: Cause,
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
    /// What the last looked like.
    pub facts: Facts,
    /// When the owner was told; `None` if that is still to be.
    pub alerted: Option<Timestamp>,
}

impl Record {
    /// Age of the webhook secret at the last failure.
    pub fn secret_age_secs(&self) -> i64 {
        self.last.duration_since(self.facts.secret_since).as_secs().max(0)
    }

    /// Code checks: DynamoDB removes rows late.
    pub fn kept(&self, now: Timestamp) -> bool {
        now < self.last + KEPT
    }
}

/// What a failure that was just counted was counted onto.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// The failure of that cause before this one.
    pub previous: Option<Timestamp>,
    /// The first of all.
    pub first: Timestamp,
    /// When the owner was told.
    pub alerted: Option<Timestamp>,
}

impl Noted {
    /// Whether the owner is to be told: the cause is new or was quiet for a day, or whoever should have told it did
    /// not.
    pub fn is_news(&self, now: Timestamp) -> bool {
        let quiet = self.previous.is_none_or(|previous| now >= previous + QUIET);
        let owed = self.alerted.is_none() && now >= self.first + TOLD_WITHIN;
        quiet || owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    #[test]
    fn a_cause_reads_back_from_its_name_and_each_has_one_of_its_own() {
        let names: std::collections::BTreeSet<_> = Cause::all().map(Cause::code).collect();
        assert_eq!(names.len(), Cause::all().count());
        for cause in Cause::all() {
            let text = serde_json::to_string(&cause).unwrap();
            assert_eq!((serde_json::from_str::<Cause>(&text).unwrap(), text), (cause, format!("\"{}\"", cause.code())));
        }
        assert!(serde_json::from_str::<Cause>("\"love\"").is_err());
    }

    #[test]
    fn the_owner_is_told_of_the_first_and_again_after_a_quiet_day() {
        let noted = |previous: Option<i64>, alerted: Option<i64>| Noted {
            previous: previous.map(at),
            first: at(0),
            alerted: alerted.map(at),
        };
        let day = 24 * 3600;
        for (previous, alerted, now, news) in [
            (None, None, 0, true),
            (Some(0), Some(0), 0, false),
            (Some(0), Some(0), day - 1, false),
            (Some(0), Some(0), day, true),
            // It went on all day: that is no news.
            (Some(2 * day - 60), Some(0), 2 * day, false),
            // Whoever came first is about to tell, or did not come to it.
            (Some(0), None, 59, false),
            (Some(0), None, 60, true),
        ] {
            assert_eq!(noted(previous, alerted).is_news(at(now)), news, "{previous:?} {alerted:?} {now}");
        }
    }
}
