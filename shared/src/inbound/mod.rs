//! What Twilio tells us: signed webhooks, parsed into events without content, and opt-outs (promises N5, N6, N9).

mod port;
pub mod signature;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::credential::Sid;
use crate::ids::{AccountId, MessageId};
use crate::message::{Format, Status, status_of_twilio};
use crate::number::Country;

pub use port::*;

/// An event on its way from the webhook to its effect. Nothing personal: SIDs, status, and keyed hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwilioEvent {
    /// Whose webhook it came by.
    pub account: AccountId,
    /// When it came.
    pub at: Timestamp,
    /// What happened.
    pub news: News,
}

/// What happened at Twilio.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum News {
    /// A message's status changed.
    Status {
        /// Our id, from the path.
        message: MessageId,
        /// Twilio's SID.
        sid: String,
        /// The status.
        status: Status,
        /// Twilio's error code.
        error_code: Option<u32>,
    },
    /// A text arrived.
    Text {
        /// Our id for it.
        message: MessageId,
        /// Twilio's SID.
        sid: String,
        /// The customer's number or service that it came to.
        own: String,
        /// The number's messaging service, if it is in one.
        service: Option<String>,
        /// Keyed hash of who sent it.
        other_hash: String,
        /// Their country.
        country: Option<Country>,
        /// SMS or MMS.
        format: Format,
        /// As Twilio counts.
        segments: u32,
        /// Whether it was an opt-out or opt-in word.
        consent: Option<Consent>,
    },
}

/// What a recipient said about being texted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// STOP and its like.
    Stop,
    /// START and UNSTOP.
    Start,
}

/// Twilio's default words ("Twilio support for opt-out keywords", with REVOKE and OPTOUT since 2025) and what the FCC's
/// list (47 CFR 64.1200(a)(10)) has beyond them. HELP and INFO change nothing.
const STOP_WORDS: [&str; 10] =
    ["STOP", "STOPALL", "UNSUBSCRIBE", "CANCEL", "END", "QUIT", "REVOKE", "OPTOUT", "OPT OUT", "OPT-OUT"];
/// YES is not here: it must not opt in somebody who meant something else.
const START_WORDS: [&str; 2] = ["START", "UNSTOP"];

/// What a text says about consent. `opt_out_type` (Advanced Opt-Out) is Twilio's own decision and wins.
pub fn consent(opt_out_type: Option<&str>, body: &str) -> Option<Consent> {
    match opt_out_type {
        Some("STOP") => return Some(Consent::Stop),
        Some("START") => return Some(Consent::Start),
        Some("HELP") => return None,
        _ => {}
    }
    let word = body.trim().trim_matches(|c: char| c.is_ascii_punctuation()).trim().to_uppercase();
    if STOP_WORDS.contains(&word.as_str()) {
        Some(Consent::Stop)
    } else if START_WORDS.contains(&word.as_str()) {
        Some(Consent::Start)
    } else {
        None
    }
}

/// Why a signed webhook is not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// A parameter that Twilio always sends is missing or malformed.
    #[error("the parameter {0} is missing or malformed")]
    Parameter(&'static str),
    /// A status that says nothing new.
    #[error("this status changes nothing")]
    NothingNew,
}

/// Reads a status callback. `message` comes from the path, which Twilio signed with the rest.
pub fn status_news(params: &signature::Params, message: MessageId) -> Result<News, NotAnEvent> {
    let sid = message_sid(params)?;
    let word = params.get("MessageStatus").ok_or(NotAnEvent::Parameter("MessageStatus"))?;
    let status = status_of_twilio(word).ok_or(NotAnEvent::NothingNew)?;
    let error_code = params.get("ErrorCode").and_then(|code| code.parse().ok());
    Ok(News::Status { message, sid, status, error_code })
}

/// The SID that every message webhook carries, checked for form.
pub fn message_sid(params: &signature::Params) -> Result<String, NotAnEvent> {
    let sid = params.get("MessageSid").unwrap_or_default();
    let good = Sid::parse("SM", sid).is_ok() || Sid::parse("MM", sid).is_ok();
    if good { Ok(sid.to_owned()) } else { Err(NotAnEvent::Parameter("MessageSid")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_is_heard_in_its_usual_spellings_and_not_in_a_sentence_about_something_else() {
        for text in ["STOP", "stop", " Stop. ", "StopAll", "opt-out", "Opt out!", "QUIT", "revoke", "optout", "\"end\""]
        {
            assert_eq!(consent(None, text), Some(Consent::Stop), "{text}");
        }
        for text in ["START", "unstop"] {
            assert_eq!(consent(None, text), Some(Consent::Start), "{text}");
        }
        for text in ["", "yes", "help", "the bus stop is closed", "don't stop", "…"] {
            assert_eq!(consent(None, text), None, "{text}");
        }
    }

    #[test]
    fn twilios_own_decision_wins() {
        assert_eq!(consent(Some("STOP"), "arrête"), Some(Consent::Stop));
        assert_eq!(consent(Some("HELP"), "stop"), None);
    }
}
