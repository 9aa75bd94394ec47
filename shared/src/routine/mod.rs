//! What is done again and again for each connected account: Twilio's list of texts that arrived is gone through every
//! hour, so that a webhook that got lost is made up for; once a day we call the account's webhook ourselves, signed as
//! Twilio signs, to see that it can be reached; and each finished day is set against Twilio's list (`reconciliation`).
//!
//! Everything here is a pure function. Rows of it are there exactly as long as something is connected: they come and go
//! in the transactions that connect and disconnect.

mod port;

use jiff::{SignedDuration, Timestamp};

use crate::connection::PageMark;
use crate::credential::{HookSecret, StoredCredential};
use crate::inbound::signature::{sign, sign_with_shared_key};
use crate::quarantine::Cause;
use crate::secret::ExposeSecret;

pub use port::*;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Routine {
    /// Looking for texts that arrived and were not told.
    Arrivals,
    /// Calling the account's webhook ourselves.
    SelfTest,
    /// Setting what was charged against what Twilio has.
    Reconciliation,
}

impl Routine {
    /// Every routine.
    pub const ALL: [Self; 3] = [Self::Arrivals, Self::SelfTest, Self::Reconciliation];

    /// A stable name for keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrivals => "arrivals",
            Self::SelfTest => "self-test",
            Self::Reconciliation => "reconciliation",
        }
    }

    /// Time between two of it, and from connecting to the first.
    pub fn every(self) -> SignedDuration {
        match self {
            Self::Arrivals => SignedDuration::from_hours(1),
            Self::SelfTest | Self::Reconciliation => SignedDuration::from_hours(24),
        }
    }
}

/// Each look reaches so far into what the one before saw: Twilio may list a text later than it came.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(1);

/// Time until the next look when Twilio could not be asked.
pub const LOOK_SOON: SignedDuration = SignedDuration::from_mins(15);

/// How far the looks for texts that arrived have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Since when the Twilio account is connected: what arrived before is not ours to know.
    pub connected_since: Timestamp,
    /// When the last complete look was begun.
    pub looked: Timestamp,
    /// A look that was begun and has pages left.
    pub open: Option<OpenLook>,
    /// Counts writes.
    pub revision: u32,
}

/// A look with pages left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLook {
    /// When it was begun.
    pub begun: Timestamp,
    /// Its next page.
    pub next: PageMark,
}

impl Progress {
    /// Of an account that was connected just now.
    pub fn new(connected_since: Timestamp) -> Self {
        Self { connected_since, looked: connected_since, open: None, revision: 0 }
    }

    /// From when on texts are listed.
    pub fn since(&self) -> Timestamp {
        (self.looked - OVERLAP).max(self.connected_since)
    }

    /// After one page of a list: with the mark of the next one, or complete. `now`: when the page was asked for.
    #[must_use]
    pub fn after_page(&self, next: Option<PageMark>, now: Timestamp) -> Self {
        let begun = self.open.as_ref().map_or(now, |open| open.begun);
        let (looked, open) = match next {
            Some(next) => (self.looked, Some(OpenLook { begun, next })),
            None => (begun, None),
        };
        Self { looked, open, revision: self.revision + 1, ..self.clone() }
    }

    /// Begun anew, when Twilio does not know the mark any more.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { open: None, revision: self.revision + 1, ..self.clone() }
    }
}

/// Time until the next self-test after one that failed: as long as it fails, the cause is not quiet, and told once.
pub const TEST_SOON: SignedDuration = SignedDuration::from_hours(1);

/// A call of our own to an account's webhook. It does not print: path and signature let one in.
#[derive(Clone, PartialEq, Eq)]
pub struct SelfCall {
    /// The public origin, or the second host's.
    pub origin: String,
    /// Path there.
    pub path: String,
    /// The form.
    pub form: String,
    /// `X-Twilio-Signature`.
    pub signature: String,
    /// `X-Twilio-Webhooks-Signature-Settings`, for a shared key.
    pub settings: Option<String>,
}

impl SelfCall {
    /// Signed as Twilio would, for the address that Twilio would call.
    pub fn new(origin: &str, stored: &StoredCredential, secret: &HookSecret) -> Self {
        let path = format!("/hooks/twilio/{}/self-test", stored.hook.reveal());
        let params = [("AccountSid".to_owned(), stored.account_sid.as_str().to_owned())];
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
        let url = format!("{origin}{path}");
        let (signature, settings) = match secret {
            HookSecret::AuthToken(token) => (sign(token.expose_secret(), &url, &params), None),
            HookSecret::SharedKey(id, secret) => (
                sign_with_shared_key(secret.expose_secret(), &url, &params),
                Some(format!("key={id},algorithm=HMAC_SHA256")),
            ),
        };
        Self { origin: origin.to_owned(), path, form, signature, settings }
    }
}

/// What an answer to it means: `None` if all is well, or if the webhook is gone with the credential.
pub fn failed(answer: Option<u16>) -> Option<Cause> {
    match answer {
        Some(204) => None,
        Some(_) => Some(Cause::SelfTestRefused),
        None => Some(Cause::SelfTestUnanswered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mins: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(mins)
    }

    #[test]
    fn a_look_reaches_an_hour_behind_the_last_complete_one_and_never_before_connecting() {
        let progress = Progress::new(at(0));
        assert_eq!(progress.since(), at(0));
        let hour = progress.after_page(None, at(60));
        assert_eq!((hour.looked, hour.since()), (at(60), at(0)));
        assert_eq!(hour.after_page(None, at(180)).since(), at(120));
    }

    #[test]
    fn a_look_of_several_pages_counts_as_of_its_beginning_and_only_once_it_is_complete() {
        let mark = |page| PageMark::new(page, "PA1");
        let first = Progress::new(at(0)).after_page(mark(1), at(60));
        assert_eq!((first.looked, first.since()), (at(0), at(0)));
        let second = first.after_page(mark(2), at(61));
        assert_eq!(second.open, Some(OpenLook { begun: at(60), next: mark(2).unwrap() }));
        let whole = second.after_page(None, at(62));
        assert_eq!((whole.looked, whole.open.clone(), whole.revision), (at(60), None, 3));
        let anew = second.anew();
        assert_eq!((anew.looked, anew.open.clone(), anew.revision), (at(0), None, 3));
    }
}
