//! What a message says, told to an endpoint that asked for it (`include_content`): read at each try, stored nowhere
//! (promise N1).

use serde::{Deserialize, Serialize};

use super::Event;
use crate::connection::Trouble;
use crate::ids::MessageId;
use crate::message::{Content, MessageSid};

/// Added to `EventMessage` for an endpoint with `include_content`: what the message says, read from Twilio at this try
/// and kept nowhere.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = EventMessageContent)]
pub struct ContentData {
    /// Null if it cannot be told.
    content: Option<ToldContent>,
    /// Why not; null if it is told.
    content_missing: Option<ContentMissing>,
}

/// What a message says.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = EventContent)]
pub struct ToldContent {
    /// The text.
    #[schema(example = "Your table is ready.")]
    body: String,
    /// To whom.
    #[schema(example = "+14155552671")]
    to: String,
    /// From whom; null while a messaging service has not chosen.
    from: Option<String>,
    /// Its media.
    media: Vec<ToldPiece>,
}

/// A piece of media of a message.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = EventMediaPiece)]
pub struct ToldPiece {
    /// Its place, from 0.
    n: usize,
    /// Its type, as Twilio says.
    #[schema(example = "image/jpeg")]
    content_type: String,
    /// Where this API has it, for a session or an API key with the scope messages:read.
    #[schema(example = "/v1/messages/msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8/media/0")]
    path: String,
}

/// Why an event has no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContentMissing {
    /// The message has no SID: it was not handed over, or nobody knows.
    NotAtTwilio,
    /// No Twilio account is connected any more.
    NotConnected,
    /// Twilio does not have it: it was deleted there, or is in another Twilio account.
    GoneAtTwilio,
    /// Its text was removed at Twilio.
    Redacted,
    /// Twilio refuses the credential or the call.
    RefusedByTwilio,
    /// Twilio could not be asked at any try up to the last one.
    TwilioUnavailable,
}

impl ContentMissing {
    /// Whether it may be there a while later.
    pub fn is_passing(self) -> bool {
        self == Self::TwilioUnavailable
    }
}

impl From<Trouble> for ContentMissing {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotFound => Self::GoneAtTwilio,
            Trouble::Refused | Trouble::Inactive | Trouble::NotAllowed | Trouble::Rejected(_) => Self::RefusedByTwilio,
            Trouble::Busy | Trouble::Unreachable => Self::TwilioUnavailable,
        }
    }
}

/// The message that an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Which.
    pub message: MessageId,
    /// Where Twilio has it.
    pub sid: Option<MessageSid>,
}

#[derive(Deserialize)]
struct AboutData {
    id: MessageId,
    twilio_sid: Option<String>,
}

impl Event {
    /// The message that it is about; `None` if it is about none.
    pub fn about(&self) -> Option<About> {
        if !self.kind.is_of_message() {
            return None;
        }
        let data: AboutData = serde_json::from_str(&self.data).ok()?;
        Some(About { message: data.id, sid: data.twilio_sid.as_deref().and_then(MessageSid::parse) })
    }

    /// The body that is sent with what the message says, or with why that is missing: what is sent without content, and
    /// two fields more in `data`.
    pub fn body_with(&self, about: &About, content: Result<Content, ContentMissing>) -> String {
        let (content, content_missing) = match content {
            Ok(content) => (Some(told(about.message, content)), None),
            Err(why) => (None, Some(why)),
        };
        // Strings, numbers and enums: this cannot fail.
        let more = serde_json::to_string(&ContentData { content, content_missing }).unwrap_or_default();
        match (self.data.strip_suffix('}'), more.strip_prefix('{')) {
            (Some(data), Some(more)) => self.body_of(&format!("{data},{more}")),
            _ => self.body(),
        }
    }
}

fn told(message: MessageId, content: Content) -> ToldContent {
    let Content { body, to, from, media } = content;
    let piece =
        |n: usize, content_type| ToldPiece { n, content_type, path: format!("/v1/messages/{message}/media/{n}") };
    let media = media.into_iter().map(|one| piece(one.n, one.content_type)).collect();
    ToldContent { body, to, from, media }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::EventType;
    use crate::ids::{EndpointId, EventId};
    use crate::message::MediaPiece;
    use jiff::Timestamp;

    const SID: &str = "MM0123456789abcdef0123456789abcdef";

    fn event(data: &str) -> Event {
        let kind = EventType::MessageReceived;
        Event { id: EventId::from_bits(1), kind, at: Timestamp::UNIX_EPOCH, data: data.to_owned() }
    }

    fn of_message(sid: &str) -> Event {
        event(&format!(r#"{{"id":"{}","format":"mms","twilio_sid":{sid}}}"#, MessageId::from_bits(7)))
    }

    #[test]
    fn an_event_of_a_message_knows_which_and_every_other_one_is_about_none() {
        let with_sid = of_message(&format!("\"{SID}\"")).about().unwrap();
        assert_eq!(with_sid, About { message: MessageId::from_bits(7), sid: MessageSid::parse(SID) });
        for no_sid in ["null", "\"../../Accounts\""] {
            assert_eq!(of_message(no_sid).about().unwrap().sid, None, "{no_sid}");
        }
        assert_eq!(event("{}").about(), None);
        let test = Event::test(EndpointId::from_bits(1), 1, Timestamp::UNIX_EPOCH);
        assert_eq!(test.about(), None);
        let frozen = Event { kind: EventType::SendingFrozen, ..of_message("null") };
        assert_eq!(frozen.about(), None);
    }

    #[test]
    fn content_is_two_more_fields_and_leads_to_our_own_route_of_media() {
        let event = of_message(&format!("\"{SID}\""));
        let about = event.about().unwrap();
        let media = vec![MediaPiece { n: 0, content_type: "image/jpeg".to_owned() }];
        let (body, to) = ("say \"hi\"\n}".to_owned(), "+15005550006".to_owned());
        let with = event.body_with(&about, Ok(Content { body, to, from: Some("+14155552671".to_owned()), media }));
        let mut with: serde_json::Value = serde_json::from_str(&with).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&with).unwrap());
        let data = with["data"].as_object_mut().unwrap();
        assert!(data.remove("content").is_some() && data.remove("content_missing").is_some());
        assert_eq!(with, serde_json::from_str::<serde_json::Value>(&event.body()).unwrap());
    }

    #[test]
    fn content_that_is_missing_says_why() {
        let event = of_message("null");
        for why in [ContentMissing::NotAtTwilio, ContentMissing::GoneAtTwilio, ContentMissing::TwilioUnavailable] {
            let body = event.body_with(&event.about().unwrap(), Err(why));
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["data"]["content"], serde_json::Value::Null);
            assert_eq!(body["data"]["content_missing"], serde_json::to_value(why).unwrap());
        }
    }

    #[test]
    fn only_what_passes_is_waited_for() {
        for (trouble, passes) in [
            (Trouble::NotFound, false),
            (Trouble::Refused, false),
            (Trouble::Inactive, false),
            (Trouble::NotAllowed, false),
            (Trouble::Rejected(Some(20_003)), false),
            (Trouble::Busy, true),
            (Trouble::Unreachable, true),
        ] {
            assert_eq!(ContentMissing::from(trouble).is_passing(), passes, "{trouble:?}");
        }
    }
}
