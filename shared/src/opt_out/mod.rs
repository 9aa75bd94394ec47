//! Opt-outs: whom a sender may not text, by whose word, and who may take that back (promise N9).
//!
//! Two words count for each account, sender (a number, a name or a messaging service) and recipient: what the recipient
//! said last, and what the customer entered last. Each is the latest by its own time, so that the order in which they are
//! stored does not matter; [`OptOut::standing`] says what follows from both.

mod port;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::MessageId;
use crate::inbound::Consent;
use crate::session::By;

pub use port::*;

/// Twilio's error for a recipient who has opted out.
pub const OPTED_OUT: u32 = 21610;

/// How we know what a recipient said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// By a text of theirs: Twilio's SID.
    Text(String),
    /// By Twilio's error 21610 about a message of ours.
    Refusal(MessageId),
}

impl Heard {
    /// As it is stored.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(sid) => format!("text {sid}"),
            Self::Refusal(message) => format!("error {OPTED_OUT} for {message}"),
        }
    }

    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(sid) = text.strip_prefix("text ") {
            return Some(Self::Text(sid.to_owned()));
        }
        let message = text.strip_prefix("error ")?.strip_prefix(&format!("{OPTED_OUT} for "))?;
        message.parse().ok().map(Self::Refusal)
    }
}

/// What a customer has to show that a recipient consented again. No free text: it would hold personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// They filled in a form on a website or in an app.
    WebForm,
    /// They wrote it: a letter, an e-mail, a signed paper.
    Written,
    /// They said it, and it was noted or recorded.
    Spoken,
    /// They never opted out: the entry was a mistake.
    EnteredByMistake,
}

impl EvidenceKind {
    /// The word in rows and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WebForm => "web_form",
            Self::Written => "written",
            Self::Spoken => "spoken",
            Self::EnteredByMistake => "entered_by_mistake",
        }
    }
}

/// Which evidence there is, and of when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// What it is.
    pub kind: EvidenceKind,
    /// When the consent was given.
    pub given: Timestamp,
}

/// A recipient's last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Stop or start.
    pub consent: Consent,
    /// When they said it.
    pub at: Timestamp,
    /// How we know.
    pub heard: Heard,
}

/// The customer's last word about a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// Stop, or start for a removal.
    pub consent: Consent,
    /// When it was entered.
    pub at: Timestamp,
    /// Who did it.
    pub by: By,
    /// Of a removal: what the customer has to show for it.
    pub evidence: Option<Evidence>,
}

/// Both words about one recipient and one sender.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptOut {
    /// The recipient's.
    pub said: Option<Said>,
    /// The customer's.
    pub entered: Option<Entered>,
}

/// What somebody said to the platform's own number, by which alerts go out. Nothing of it counts for a customer's senders,
/// nor theirs for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformWord {
    /// Stop or start.
    pub consent: Consent,
    /// When its text first came. Twilio's signature has no time in it: a text that is played back has its first one.
    pub at: Timestamp,
}

/// Whether all words of one caller, in any order, say that they get no alerts: the latest stands, and of two at the same
/// time STOP does.
pub fn stopped(words: &[PlatformWord]) -> bool {
    let last = words.iter().max_by_key(|word| (word.at, word.consent == Consent::Stop));
    last.is_some_and(|word| word.consent == Consent::Stop)
}

/// The word by which a recipient is opted out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'o> {
    /// Their own: only they can take it back, since Twilio blocks them too.
    Said(&'o Said),
    /// The customer's.
    Entered(&'o Entered),
}

impl Standing<'_> {
    /// Since when.
    pub fn since(&self) -> Timestamp {
        match self {
            Self::Said(said) => said.at,
            Self::Entered(entered) => entered.at,
        }
    }
}

impl OptOut {
    /// The word that keeps texts back, if one does. Of the recipient's and the customer's word the later one stands, and
    /// of two at the same time STOP does; but no entry lifts the recipient's own STOP, however late it comes to us.
    pub fn standing(&self) -> Option<Standing<'_>> {
        match (&self.said, &self.entered) {
            (Some(said), _) if said.consent == Consent::Stop => Some(Standing::Said(said)),
            (said, Some(entered))
                if entered.consent == Consent::Stop && said.as_ref().is_none_or(|said| said.at <= entered.at) =>
            {
                Some(Standing::Entered(entered))
            }
            _ => None,
        }
    }

    /// What an entry has come to, seen after it.
    pub fn entry(&self) -> Entry {
        if self.standing().is_some() { Entry::OptedOut } else { Entry::LaterWord }
    }

    /// What a removal at this time comes to, seen before it; [`Removal::Removed`] if it may be written.
    pub fn removal(&self, at: Timestamp) -> Removal {
        match self.standing() {
            None => Removal::NotOptedOut,
            Some(Standing::Said(_)) => Removal::RecipientsOwn,
            Some(Standing::Entered(entered)) if entered.at >= at => Removal::LaterWord,
            Some(Standing::Entered(_)) => Removal::Removed,
        }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The recipient is opted out.
    OptedOut,
    /// A later word lifted it already.
    LaterWord,
}

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The entry is lifted.
    Removed,
    /// There was nothing to lift.
    NotOptedOut,
    /// The recipient said it, or Twilio did for them: only they can take it back.
    RecipientsOwn,
    /// It was entered again at the same time or later.
    LaterWord,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ApiKeyId, UserId};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn opt_out(said: Option<(Consent, i64)>, entered: Option<(Consent, i64)>) -> OptOut {
        let heard = Heard::Text("SM1".to_owned());
        OptOut {
            said: said.map(|(consent, second)| Said { consent, at: at(second), heard }),
            entered: entered.map(|(consent, second)| Entered {
                consent,
                at: at(second),
                by: By::User(UserId::from_bits(2)),
                evidence: None,
            }),
        }
    }

    #[test]
    fn the_later_word_stands_and_nobody_lifts_the_recipients_own_stop() {
        use Consent::{Start, Stop};
        for (said, entered, out) in [
            (None, None, false),
            (Some((Stop, 1)), None, true),
            (Some((Start, 1)), None, false),
            (None, Some((Stop, 1)), true),
            (None, Some((Start, 1)), false),
            (Some((Start, 1)), Some((Stop, 2)), true),
            (Some((Start, 2)), Some((Stop, 2)), true),
            (Some((Start, 3)), Some((Stop, 2)), false),
            (Some((Stop, 1)), Some((Stop, 2)), true),
            (Some((Stop, 1)), Some((Start, 2)), true),
        ] {
            let opt_out = opt_out(said, entered);
            assert_eq!(opt_out.standing().is_some(), out, "{opt_out:?}");
        }
    }

    #[test]
    fn a_removal_lifts_what_was_entered_before_it_and_nothing_else() {
        use Consent::{Start, Stop};
        for (said, entered, removal) in [
            (None, None, Removal::NotOptedOut),
            (None, Some((Start, 1)), Removal::NotOptedOut),
            (Some((Start, 3)), Some((Stop, 1)), Removal::NotOptedOut),
            (None, Some((Stop, 1)), Removal::Removed),
            (Some((Start, 1)), Some((Stop, 1)), Removal::Removed),
            (None, Some((Stop, 5)), Removal::LaterWord),
            (Some((Stop, 1)), None, Removal::RecipientsOwn),
            (Some((Stop, 1)), Some((Stop, 2)), Removal::RecipientsOwn),
            (Some((Stop, 9)), Some((Stop, 2)), Removal::RecipientsOwn),
        ] {
            let opt_out = opt_out(said, entered);
            assert_eq!(opt_out.removal(at(5)), removal, "{opt_out:?}");
        }
    }

    #[test]
    fn sources_read_back_as_they_were_stored_before() {
        let (message, user) = (MessageId::from_bits(1), UserId::from_bits(2));
        for (heard, text) in [
            (Heard::Text("SM1".to_owned()), "text SM1"),
            (Heard::Refusal(message), "error 21610 for msg_00000000000000000000000001"),
        ] {
            assert_eq!((heard.to_text().as_str(), Heard::parse(text)), (text, Some(heard)));
        }
        let key = ApiKeyId::from_bits(3);
        for (by, text) in [
            (By::User(user), "user usr_00000000000000000000000002"),
            (By::Key(key), "key key_00000000000000000000000003"),
        ] {
            assert_eq!((by.to_text().as_str(), By::parse(text)), (text, Some(by)));
        }
        for text in [
            "",
            "text",
            "error 21611 for msg_00000000000000000000000001",
            "user x",
            "key x",
            "key usr_00000000000000000000000002",
        ] {
            assert_eq!((Heard::parse(text), By::parse(text)), (None, None), "{text}");
        }
    }
}
