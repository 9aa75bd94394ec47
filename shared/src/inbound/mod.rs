//! What Twilio tells us: signed webhooks, parsed into events without content, and opt-outs (promises N5, N6, N9).

pub mod signature;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::credential::Sid;
use crate::ids::{AccountId, CallId, MessageId};
use crate::message::{Direction, Format, Listed, Status, number_hash, status_of_twilio};
use crate::number::{Channel, Country, E164, parse_address};
use crate::seal::DataKey;

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
    /// A call's status changed.
    Call {
        /// Our id, from the path.
        call: CallId,
        /// Twilio's SID.
        sid: String,
        /// The status.
        status: CallStatus,
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

/// Where a call stands, in Twilio's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallStatus {
    /// Twilio has it.
    Queued,
    /// Twilio began to dial.
    Initiated,
    /// It rings.
    Ringing,
    /// Somebody answered.
    InProgress,
    /// It is over, and somebody had answered.
    Completed,
    /// The line was busy.
    Busy,
    /// Nobody answered.
    NoAnswer,
    /// It could not be connected.
    Failed,
    /// It was ended before anybody answered.
    Canceled,
}

impl CallStatus {
    /// Reads Twilio's word; `None` if it is not one of them.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "queued" => Self::Queued,
            "initiated" => Self::Initiated,
            "ringing" => Self::Ringing,
            "in-progress" | "answered" => Self::InProgress,
            "completed" => Self::Completed,
            "busy" => Self::Busy,
            "no-answer" => Self::NoAnswer,
            "failed" => Self::Failed,
            "canceled" => Self::Canceled,
            _ => return None,
        })
    }
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
/// YES is not here: Twilio's current list does not have it for sure, and it must not opt in somebody who meant something
/// else. Where Twilio itself takes it for a START, it says so in `OptOutType`.
const START_WORDS: [&str; 2] = ["START", "UNSTOP"];

/// What a text says about consent. `opt_out_type` (Advanced Opt-Out) is Twilio's own decision and wins. Otherwise the text
/// has to be one of the words and nothing else: case, width, invisible characters, and what stands around it that is
/// neither letter nor digit do not matter.
pub fn consent(opt_out_type: Option<&str>, body: &str) -> Option<Consent> {
    match opt_out_type {
        Some("STOP") => return Some(Consent::Stop),
        Some("START") => return Some(Consent::Start),
        Some("HELP") => return None,
        _ => {}
    }
    let plain: String = body.chars().filter(|c| !invisible(*c)).map(plain).collect();
    let word = plain.trim_matches(|c: char| !c.is_alphanumeric()).to_uppercase();
    if STOP_WORDS.contains(&word.as_str()) {
        Some(Consent::Stop)
    } else if START_WORDS.contains(&word.as_str()) {
        Some(Consent::Start)
    } else {
        None
    }
}

/// Characters that are not seen and that keyboards and copied texts put between others: soft hyphen, zero-width spaces
/// and joiners, marks of direction, variation selectors, the byte order mark.
fn invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// A full-width character as the usual one, Turkish capital I as I.
fn plain(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        'İ' => 'I',
        c => c,
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

/// Longer than any address that Twilio has.
const MAX_ADDRESS_BYTES: usize = 128;

/// A text that arrived, as a webhook or a list tells it. It stays in memory: [`Arrived::news`] is what is kept of it.
#[derive(Clone, Copy)]
pub struct Arrived<'a> {
    sid: &'a str,
    from: &'a str,
    to: &'a str,
    service: Option<&'a str>,
    opt_out_type: Option<&'a str>,
    body: &'a str,
    n_media: u32,
    n_segments: u32,
}

impl<'a> Arrived<'a> {
    /// As a webhook tells it.
    pub fn told(params: &'a signature::Params) -> Result<Self, NotAnEvent> {
        let parameter = |name: &'static str| params.get(name).ok_or(NotAnEvent::Parameter(name));
        let count = |name| params.get(name).and_then(|count| count.parse::<u32>().ok());
        let arrived = Self {
            sid: parameter("MessageSid")?,
            from: parameter("From")?,
            to: parameter("To")?,
            service: params.get("MessagingServiceSid"),
            opt_out_type: params.get("OptOutType"),
            body: params.get("Body").unwrap_or_default(),
            n_media: count("NumMedia").unwrap_or(0),
            n_segments: count("NumSegments").unwrap_or(1),
        };
        arrived.checked()
    }

    /// As Twilio lists it; `None` for what did not arrive. A list does not say what Advanced Opt-Out made of the text.
    pub fn listed(listed: &'a Listed) -> Option<Result<Self, NotAnEvent>> {
        if listed.direction != Direction::Inbound {
            return None;
        }
        let arrived = Self {
            sid: &listed.sid,
            from: listed.from.as_deref().unwrap_or_default(),
            to: &listed.to,
            service: listed.service.as_deref(),
            opt_out_type: None,
            body: &listed.body,
            n_media: u32::try_from(listed.n_media).unwrap_or(u32::MAX),
            n_segments: listed.n_segments,
        };
        Some(arrived.checked())
    }

    fn checked(self) -> Result<Self, NotAnEvent> {
        let good = Sid::parse("SM", self.sid).is_ok() || Sid::parse("MM", self.sid).is_ok();
        match (good, self.from, self.to) {
            (false, ..) => Err(NotAnEvent::Parameter("MessageSid")),
            (_, "", _) => Err(NotAnEvent::Parameter("From")),
            (_, _, to) if to.is_empty() || to.len() > MAX_ADDRESS_BYTES => Err(NotAnEvent::Parameter("To")),
            _ => Ok(self),
        }
    }

    /// Twilio's SID.
    pub fn sid(&self) -> &'a str {
        self.sid
    }

    /// What a text says about consent, and who says it; `None` if it says nothing, and for what is no text from a number:
    /// what somebody says by `WhatsApp` is not said about texts.
    pub fn word(&self) -> Option<(E164, Consent)> {
        let (Channel::Sms, number) = parse_address(self.from)? else { return None };
        Some((number, consent(self.opt_out_type, self.body)?))
    }

    /// What is kept of it: its words and its sender's number stay at Twilio. `match_key`: the account's newest of purpose
    /// match.
    pub fn news(&self, message: MessageId, match_key: &DataKey) -> News {
        let (other_hash, country) = match parse_address(self.from) {
            Some((Channel::Sms, number)) => (number_hash(match_key, &number), number.country()),
            // WhatsApp and others: what somebody says there is not said about texts.
            Some((Channel::Whatsapp | Channel::Other, number)) => {
                (match_key.keyed_hash("address", self.from), number.country())
            }
            // A short code or a name: no number, but still somebody.
            None => (match_key.keyed_hash("address", self.from), None),
        };
        // The customer's own number as sends name it; an address of another channel as Twilio names it.
        let own = match parse_address(self.to) {
            Some((Channel::Sms, number)) => number.as_str().to_owned(),
            _ => self.to.to_owned(),
        };
        News::Text {
            message,
            sid: self.sid.to_owned(),
            own,
            service: self.service.filter(|sid| Sid::parse("MG", sid).is_ok()).map(str::to_owned),
            other_hash,
            country,
            format: if self.n_media > 0 { Format::Mms } else { Format::Sms },
            segments: self.n_segments.max(1),
            consent: consent(self.opt_out_type, self.body),
        }
    }
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

/// Reads a status callback of a call. `call` comes from the path, which Twilio signed with the rest.
pub fn call_news(params: &signature::Params, call: CallId) -> Result<News, NotAnEvent> {
    let sid = call_sid(params)?;
    let word = params.get("CallStatus").ok_or(NotAnEvent::Parameter("CallStatus"))?;
    let status = CallStatus::parse(word).ok_or(NotAnEvent::NothingNew)?;
    Ok(News::Call { call, sid, status })
}

/// The SID that every voice webhook carries, checked for form.
pub fn call_sid(params: &signature::Params) -> Result<String, NotAnEvent> {
    let sid = params.get("CallSid").unwrap_or_default();
    if Sid::parse("CA", sid).is_ok() { Ok(sid.to_owned()) } else { Err(NotAnEvent::Parameter("CallSid")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_twilio_is_heard_in_any_case_and_help_is_nothing() {
        let words = [
            (Some(Consent::Stop), "STOP STOPALL UNSUBSCRIBE CANCEL END QUIT REVOKE OPTOUT"),
            (Some(Consent::Start), "START UNSTOP"),
            (None, "HELP INFO YES NO ENDE STOPP STOPALLALL UNSTART"),
        ];
        for (said, words) in words {
            for word in words.split(' ') {
                let lower = word.to_lowercase();
                let mixed = format!("{}{}", &word[..1], &lower[1..]);
                for text in [word, &lower, &mixed] {
                    assert_eq!(consent(None, text), said, "{text}");
                }
            }
        }
    }

    #[test]
    fn stop_is_heard_in_its_usual_spellings_and_not_in_a_sentence_about_something_else() {
        for text in [
            " Stop. ",
            "\r\n\tstop\n",
            "opt-out",
            "Opt out!",
            "\"end\"",
            "“STOP”",
            "¡Stop!",
            "*stop*",
            "stop 🛑",
            "(quit)",
            "ＳＴＯＰ",
            "ｓｔｏｐ！",
            "\u{feff}STOP",
            "S\u{200b}T\u{200d}O\u{2060}P",
            "\u{202e}stop\u{202c}",
            "\u{a0}stop\u{3000}",
            "UNSUBSCRİBE",
            "qu\u{ad}it",
        ] {
            assert_eq!(consent(None, text), Some(Consent::Stop), "{text}");
        }
        for text in [" unstop!", "Ｓtart", "start 🙂"] {
            assert_eq!(consent(None, text), Some(Consent::Start), "{text}");
        }
        for text in [
            "",
            "…",
            "\u{200b}",
            "yes",
            "the bus stop is closed",
            "don't stop",
            "stop it",
            "stop stop",
            "s t o p",
            "stop1",
            "2stop",
            "start stop",
            "optouts",
        ] {
            assert_eq!(consent(None, text), None, "{text}");
        }
    }

    /// Space and punctuation as people type them around a word, and what cannot be seen.
    const AROUND: &str = "[ \\t\\n.,!?;:'\"()*_~“”…。！\u{3000}\u{a0}\u{200b}\u{feff}-]{0,6}";

    proptest::proptest! {
        #[test]
        fn a_word_is_heard_however_it_is_dressed(
            n in 0..12_usize,
            capitals in proptest::collection::vec(proptest::bool::ANY, 11),
            wide in proptest::collection::vec(proptest::bool::ANY, 11),
            hidden in proptest::collection::vec(proptest::option::of(0..5_usize), 11),
            before in AROUND,
            after in AROUND,
        ) {
            let words: Vec<_> = STOP_WORDS.iter().chain(&START_WORDS).collect();
            let mut text = before;
            for (at, letter) in words[n].chars().enumerate() {
                let letter = if capitals[at] { letter } else { letter.to_ascii_lowercase() };
                let full_width = u32::from(letter) + 0xfee0;
                text.push(if wide[at] && letter != ' ' { char::from_u32(full_width).unwrap() } else { letter });
                text.extend(hidden[at].map(|which| ['\u{200b}', '\u{200d}', '\u{2060}', '\u{feff}', '\u{ad}'][which]));
            }
            text.push_str(&after);
            let said = if n < STOP_WORDS.len() { Consent::Stop } else { Consent::Start };
            proptest::prop_assert_eq!(consent(None, &text), Some(said));
        }

        #[test]
        fn a_word_among_others_is_none(
            n in 0..12_usize, other in "[a-z0-9]{1,8}", before in proptest::bool::ANY, between in " |, |-|\n"
        ) {
            let words: Vec<_> = STOP_WORDS.iter().chain(&START_WORDS).collect();
            let text =
                if before { format!("{other}{between}{}", words[n]) } else { format!("{}{between}{other}", words[n]) };
            proptest::prop_assert_eq!(consent(None, &text), None);
        }
    }

    #[test]
    fn every_status_of_a_call_reads_and_is_stored_under_twilios_word() {
        for word in "queued initiated ringing in-progress completed busy no-answer failed canceled".split(' ') {
            let status = CallStatus::parse(word).unwrap();
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{word}\""));
        }
        assert_eq!(CallStatus::parse("answered"), Some(CallStatus::InProgress), "as the event is called");
        assert_eq!(CallStatus::parse("Completed"), None);
    }

    #[test]
    fn twilios_own_decision_wins() {
        assert_eq!(consent(Some("STOP"), "arrête"), Some(Consent::Stop));
        assert_eq!(consent(Some("START"), "yes"), Some(Consent::Start));
        assert_eq!(consent(Some("START"), "stop"), Some(Consent::Start));
        assert_eq!(consent(Some("HELP"), "stop"), None);
        assert_eq!(consent(Some("a new type"), "stop"), Some(Consent::Stop));
    }
}
