//! What endpoints are told. An event is metadata, as the API shows it: no text, no media, no number of the other party.
//! What its message says is added when it is sent, for an endpoint that asked for it (`content.rs`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Delivery;
use crate::alert::Alert;
use crate::ids::{AccountId, EndpointId, EventId, MessageId};
use crate::message::segments::Encoding;
use crate::message::{Direction, Format, Message, Reason, Standing, Status};
use crate::number::Country;

/// Version of the payload's shape, of every type: within one, fields are only added.
pub const PAYLOAD_VERSION: u32 = 1;

/// The types of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum EventType {
    /// Twilio took a message.
    #[serde(rename = "message.sent")]
    MessageSent,
    /// A message arrived at its recipient.
    #[serde(rename = "message.delivered")]
    MessageDelivered,
    /// Twilio sent a message, and the carrier did not deliver it.
    #[serde(rename = "message.undelivered")]
    MessageUndelivered,
    /// A message was not sent: refused by us or by Twilio, too old, or failed at Twilio.
    #[serde(rename = "message.failed")]
    MessageFailed,
    /// It could not be found out whether Twilio took a message.
    #[serde(rename = "message.unconfirmed")]
    MessageUnconfirmed,
    /// A message was taken back before it was sent.
    #[serde(rename = "message.canceled")]
    MessageCanceled,
    /// A text arrived.
    #[serde(rename = "message.received")]
    MessageReceived,
    /// The account's sending was frozen.
    #[serde(rename = "sending.frozen")]
    SendingFrozen,
    /// Twilio refuses the stored credential.
    #[serde(rename = "credential.refused")]
    CredentialRefused,
    /// A connected number was changed at Twilio.
    #[serde(rename = "number.changed")]
    NumberChanged,
    /// Webhooks of Twilio are refused, because their signature does not fit.
    #[serde(rename = "signature.failed")]
    SignatureFailed,
    /// An endpoint was disabled, because nothing arrived there; told to the others.
    #[serde(rename = "endpoint.disabled")]
    EndpointDisabled,
    /// Half, four fifths or all of the period's credits are used.
    #[serde(rename = "credits.used")]
    CreditsUsed,
    /// What was charged on a day differs from Twilio's list: a person has to decide.
    #[serde(rename = "reconciliation.differs")]
    ReconciliationDiffers,
    /// A test that somebody asked for. It is not chosen: every endpoint takes it.
    #[serde(rename = "endpoint.test")]
    EndpointTest,
}

impl EventType {
    /// Every type that an endpoint may choose.
    pub const CHOICES: [Self; 14] = [
        Self::MessageSent,
        Self::MessageDelivered,
        Self::MessageUndelivered,
        Self::MessageFailed,
        Self::MessageUnconfirmed,
        Self::MessageCanceled,
        Self::MessageReceived,
        Self::SendingFrozen,
        Self::CredentialRefused,
        Self::NumberChanged,
        Self::SignatureFailed,
        Self::EndpointDisabled,
        Self::CreditsUsed,
        Self::ReconciliationDiffers,
    ];

    /// The word in requests, payloads and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageSent => "message.sent",
            Self::MessageDelivered => "message.delivered",
            Self::MessageUndelivered => "message.undelivered",
            Self::MessageFailed => "message.failed",
            Self::MessageUnconfirmed => "message.unconfirmed",
            Self::MessageCanceled => "message.canceled",
            Self::MessageReceived => "message.received",
            Self::SendingFrozen => "sending.frozen",
            Self::CredentialRefused => "credential.refused",
            Self::NumberChanged => "number.changed",
            Self::SignatureFailed => "signature.failed",
            Self::EndpointDisabled => "endpoint.disabled",
            Self::CreditsUsed => "credits.used",
            Self::ReconciliationDiffers => "reconciliation.differs",
            Self::EndpointTest => "endpoint.test",
        }
    }

    /// Whether it is told of a message.
    pub fn is_of_message(self) -> bool {
        match self {
            Self::MessageSent
            | Self::MessageDelivered
            | Self::MessageUndelivered
            | Self::MessageFailed
            | Self::MessageUnconfirmed
            | Self::MessageCanceled
            | Self::MessageReceived => true,
            Self::SendingFrozen
            | Self::CredentialRefused
            | Self::NumberChanged
            | Self::SignatureFailed
            | Self::EndpointDisabled
            | Self::CreditsUsed
            | Self::ReconciliationDiffers
            | Self::EndpointTest => false,
        }
    }

    /// Reads the word of a type that may be chosen.
    pub fn parse(word: &str) -> Option<Self> {
        Self::CHOICES.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Which events an endpoint gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// All, those of later versions too.
    All,
    /// These.
    Only(BTreeSet<EventType>),
}

/// The word that stands for every type.
const ALL: &str = "*";

impl Choice {
    /// Reads the words of a request or of a row: `["*"]`, or types. An unknown one is the error.
    pub fn parse<T: AsRef<str>>(words: &[T]) -> Result<Self, UnknownType> {
        if let [word] = words
            && word.as_ref() == ALL
        {
            return Ok(Self::All);
        }
        let types = words.iter().map(|word| EventType::parse(word.as_ref()).ok_or(UnknownType));
        types.collect::<Result<BTreeSet<_>, _>>().map(Self::Only)
    }

    /// The words.
    pub fn words(&self) -> Vec<&'static str> {
        match self {
            Self::All => vec![ALL],
            Self::Only(types) => types.iter().map(|kind| kind.as_str()).collect(),
        }
    }

    /// Whether a type is one of them.
    pub fn has(&self, kind: EventType) -> bool {
        match self {
            Self::All => true,
            Self::Only(types) => types.contains(&kind),
        }
    }
}

/// A word that is no type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a type of event; [\"*\"] stands for all of them")]
pub struct UnknownType;

/// Every endpoint of an account, with what it gets now: nothing while it is disabled. It is part of the account's gate,
/// so that whoever has that read knows without another call whom an event has to be written for, mostly nobody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listeners(pub BTreeMap<EndpointId, Choice>);

impl Listeners {
    /// The endpoints that get events of a type.
    pub fn of(&self, kind: EventType) -> impl Iterator<Item = EndpointId> {
        self.0.iter().filter(move |(_, choice)| choice.has(kind)).map(|(endpoint, _)| *endpoint)
    }

    /// The deliveries that some events make, to be written with what made them.
    pub fn deliveries(&self, account: AccountId, events: &[Event], now: Timestamp) -> Vec<Delivery> {
        let of_event = |event| self.of(event).map(move |endpoint| (endpoint, event));
        let all = events.iter().flat_map(|event| of_event(event.kind).map(move |(endpoint, _)| (endpoint, event)));
        all.map(|(endpoint, event)| Delivery::new(account, endpoint, event.clone(), now)).collect()
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The same each time that it is told, to every endpoint: a receiver knows by it what it has already.
    pub id: EventId,
    /// What.
    pub kind: EventType,
    /// When.
    pub at: Timestamp,
    /// What there is to say, as a JSON object.
    pub data: String,
}

/// An id that follows from what happened: with the time of the thing that it happened to, and a hash in place of
/// chance.
fn event_id(of: Timestamp, parts: &[&str]) -> EventId {
    EventId::new(of, hash_bits(parts))
}

/// 128 bits of SHA-256 over some texts, each with its length in front.
pub(super) fn hash_bits(parts: &[&str]) -> u128 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let hash: [u8; 32] = hasher.finalize().into();
    u128::from_be_bytes(*hash.first_chunk().unwrap_or(&[0; 16]))
}

/// What is told of a message.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = EventMessage)]
pub struct MessageData {
    /// Names the message.
    #[schema(value_type = String, example = "msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: MessageId,
    /// Which way.
    direction: Direction,
    /// SMS or MMS.
    format: Format,
    /// Where it stood then.
    status: Status,
    /// Twilio's SID, once known.
    twilio_sid: Option<String>,
    /// Your number, name or messaging service.
    own_sender: String,
    /// Keyed hash of the other party, as in `GET /v1/messages`.
    other_party_hash: String,
    /// The other party's country.
    #[schema(value_type = Option<String>, example = "US")]
    country: Option<Country>,
    /// Segments.
    segments: u32,
    /// Alphabet of the segments.
    encoding: Option<Encoding>,
    /// Twilio's error code, if it failed there.
    error_code: Option<u32>,
    /// Why it was not sent, if we did not.
    reason: Option<Reason>,
    /// When it was accepted or arrived.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
}

impl Event {
    /// What happened to a message: one event for each message and type.
    pub fn of_message(message: &Message, kind: EventType) -> Self {
        // A message that is told of late may be further by then.
        let status = if kind == EventType::MessageSent { Status::Sent } else { message.status };
        let sent = status == Status::Sent;
        let data = MessageData {
            id: message.id,
            direction: message.direction,
            format: message.format,
            status,
            twilio_sid: message.sid.clone(),
            own_sender: message.own.clone(),
            other_party_hash: message.other_hash.clone(),
            country: message.country,
            segments: message.segments,
            encoding: message.encoding,
            error_code: message.error_code.filter(|_| !sent),
            reason: message.reason.filter(|_| !sent),
            created_at: message.created,
        };
        let id = event_id(message.created, &["message", &message.id.to_string(), kind.as_str()]);
        Self { id, kind, at: message.updated, data: json(&data) }
    }

    /// What the owner is alerted to, told to endpoints too.
    pub fn of_alert(account: AccountId, alert: &Alert, since: Timestamp) -> Self {
        let kind = match alert {
            Alert::SignatureFailed { .. } => EventType::SignatureFailed,
            Alert::CredentialRefused => EventType::CredentialRefused,
            Alert::NumberDrifted { .. } => EventType::NumberChanged,
            Alert::SendingFrozen { .. } => EventType::SendingFrozen,
            Alert::EndpointDisabled { .. } => EventType::EndpointDisabled,
            Alert::CreditsUsed { .. } => EventType::CreditsUsed,
            Alert::ReconciliationDiffers { .. } => EventType::ReconciliationDiffers,
        };
        let data = match alert {
            Alert::SignatureFailed { cause, recently_rotated } => {
                serde_json::json!({ "cause": cause.code(), "recently_rotated": recently_rotated, "since": since })
            }
            Alert::CredentialRefused => serde_json::json!({ "since": since }),
            Alert::NumberDrifted { number_sid } => {
                serde_json::json!({ "number_sid": number_sid.as_str(), "since": since })
            }
            Alert::SendingFrozen { reason } => serde_json::json!({ "reason": reason.as_str(), "since": since }),
            Alert::CreditsUsed { percent } => serde_json::json!({ "percent": percent, "since": since }),
            Alert::ReconciliationDiffers { day } => serde_json::json!({ "day": day, "since": since }),
            Alert::EndpointDisabled { endpoint, why } => {
                serde_json::json!({ "endpoint_id": endpoint, "reason": why.as_str(), "since": since })
            }
        };
        let data = data.to_string();
        let id = event_id(since, &["alert", &account.to_string(), kind.as_str(), &data]);
        Self { id, kind, at: since, data }
    }

    /// A test of one endpoint.
    pub fn test(endpoint: EndpointId, dice: u128, now: Timestamp) -> Self {
        let data = serde_json::json!({ "endpoint_id": endpoint }).to_string();
        Self { id: EventId::new(now, dice), kind: EventType::EndpointTest, at: now, data }
    }

    /// The body that is sent, without content: the same bytes at every try.
    pub fn body(&self) -> String {
        self.body_of(&self.data)
    }

    pub(super) fn body_of(&self, data: &str) -> String {
        let Self { id, kind, at, .. } = self;
        let kind = kind.as_str();
        format!(r#"{{"id":"{id}","type":"{kind}","version":{PAYLOAD_VERSION},"timestamp":"{at}","data":{data}}}"#)
    }
}

fn json(data: &MessageData) -> String {
    // Strings, numbers and enums: this cannot fail.
    serde_json::to_string(data).unwrap_or_else(|_| "{}".to_owned())
}

/// What is to be told of a message when it is posted: everything that happened to it up to then, whoever wrote it down.
pub fn told_at_posting(message: &Message) -> Vec<Event> {
    let mut events = Vec::new();
    if message.status.standing() == Standing::AtCarrier {
        events.push(Event::of_message(message, EventType::MessageSent));
    }
    if message.status != Status::Sent
        && let Some(kind) = type_of(message.status)
    {
        events.push(Event::of_message(message, kind));
    }
    events
}

/// What is to be told of a change of a message: nothing before it is posted, or when it is to be posted once more, since
/// that will tell all of it.
pub fn told_by_change(before: &Message, after: &Message) -> Vec<Event> {
    if !before.settled || !after.settled || before.status == after.status {
        return Vec::new();
    }
    let at_carrier = |message: &Message| message.status.standing() == Standing::AtCarrier;
    let mut events = told_at_posting(after);
    events.retain(|event| event.kind != EventType::MessageSent || (at_carrier(after) && !at_carrier(before)));
    events
}

/// The event of a status, if there is one.
fn type_of(status: Status) -> Option<EventType> {
    match status {
        Status::Sent => Some(EventType::MessageSent),
        Status::Delivered => Some(EventType::MessageDelivered),
        Status::Undelivered => Some(EventType::MessageUndelivered),
        Status::Failed | Status::Rejected | Status::Refused | Status::Expired => Some(EventType::MessageFailed),
        Status::Unconfirmed => Some(EventType::MessageUnconfirmed),
        Status::Canceled => Some(EventType::MessageCanceled),
        Status::Received => Some(EventType::MessageReceived),
        // On its way, or given up by the customer, who knows it.
        Status::Held
        | Status::Accepted
        | Status::Retryable
        | Status::Dispatching
        | Status::Unknown
        | Status::Sending
        | Status::Dropped => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::MicroCredits;

    fn message(status: Status) -> Message {
        Message {
            id: MessageId::from_bits(1),
            account: AccountId::from_bits(1),
            direction: Direction::Outbound,
            format: Format::Sms,
            status,
            revision: 3,
            sid: Some("SM0123456789abcdef0123456789abcdef".to_owned()),
            own: "+15005550006".to_owned(),
            other_hash: "hash".to_owned(),
            country: Country::parse("US").ok(),
            segments: 1,
            encoding: Some(Encoding::Gsm7),
            held: MicroCredits::whole(1),
            price_version: "test".to_owned(),
            error_code: None,
            reason: None,
            attempts: 1,
            settled: false,
            released: false,
            settling: None,
            created: Timestamp::UNIX_EPOCH,
            held_until: None,
            valid_until: Timestamp::UNIX_EPOCH,
            updated: Timestamp::from_second(60).unwrap(),
        }
    }

    fn types(events: &[Event]) -> Vec<&'static str> {
        events.iter().map(|event| event.kind.as_str()).collect()
    }

    #[test]
    fn the_words_are_those_of_serde() {
        for kind in EventType::CHOICES.into_iter().chain([EventType::EndpointTest]) {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        assert_eq!(EventType::parse("endpoint.test"), None, "nobody chooses it");
    }

    #[test]
    fn a_choice_reads_back_and_says_what_it_has() {
        let words = ["message.received", "message.sent"];
        let choice = Choice::parse(&words).unwrap();
        assert_eq!(choice.words(), ["message.sent", "message.received"]);
        assert!(choice.has(EventType::MessageSent) && !choice.has(EventType::MessageFailed));
        let all = Choice::parse(&["*"]).unwrap();
        assert_eq!((all.words(), all.has(EventType::EndpointDisabled)), (vec!["*"], true));
        assert!(Choice::parse(&["message.sent", "*"]).is_err());
        assert!(Choice::parse(&["message.read"]).is_err());
    }

    #[test]
    fn an_event_has_the_same_id_each_time_and_another_one_for_each_message_and_type() {
        let sent = message(Status::Sent);
        let late = Message { revision: 9, updated: Timestamp::from_second(99).unwrap(), ..message(Status::Delivered) };
        let id = |message: &Message, kind| Event::of_message(message, kind).id;
        assert_eq!(id(&sent, EventType::MessageSent), id(&late, EventType::MessageSent));
        assert_ne!(id(&late, EventType::MessageDelivered), id(&late, EventType::MessageSent));
        let other = Message { id: MessageId::from_bits(2), ..sent.clone() };
        assert_ne!(id(&sent, EventType::MessageSent), id(&other, EventType::MessageSent));
    }

    #[test]
    fn posting_tells_all_that_happened_and_a_change_only_what_is_new_since() {
        for (status, told) in [
            (Status::Accepted, &[][..]),
            (Status::Unknown, &[]),
            (Status::Sent, &["message.sent"]),
            (Status::Sending, &["message.sent"]),
            (Status::Delivered, &["message.sent", "message.delivered"]),
            (Status::Failed, &["message.sent", "message.failed"]),
            (Status::Rejected, &["message.failed"]),
            (Status::Expired, &["message.failed"]),
            (Status::Unconfirmed, &["message.unconfirmed"]),
            (Status::Canceled, &["message.canceled"]),
            (Status::Received, &["message.received"]),
            (Status::Dropped, &[]),
        ] {
            assert_eq!(types(&told_at_posting(&message(status))), told, "{status:?}");
        }
        let settled = |status| Message { settled: true, ..message(status) };
        for (before, after, told) in [
            (message(Status::Sent), message(Status::Delivered), &[][..]),
            (settled(Status::Sent), settled(Status::Sending), &[]),
            (settled(Status::Sent), settled(Status::Delivered), &["message.delivered"]),
            (settled(Status::Delivered), settled(Status::Undelivered), &["message.undelivered"]),
            (settled(Status::Unconfirmed), settled(Status::Sent), &["message.sent"]),
            (settled(Status::Unconfirmed), settled(Status::Delivered), &["message.sent", "message.delivered"]),
            (settled(Status::Unconfirmed), settled(Status::Dropped), &[]),
        ] {
            assert_eq!(types(&told_by_change(&before, &after)), told, "{before:?} {after:?}");
        }
    }

    #[test]
    fn the_body_is_metadata_with_a_version() {
        let body = Event::of_message(&message(Status::Delivered), EventType::MessageDelivered).body();
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&body).unwrap());
    }

    #[test]
    fn an_event_is_for_those_who_chose_it() {
        let choice = |words: &[&str]| Choice::parse(words).unwrap();
        let [all, some, none] = [1, 2, 3].map(EndpointId::from_bits);
        let listeners = [(all, choice(&["*"])), (some, choice(&["message.received"])), (none, choice(&[]))];
        let listeners = Listeners(listeners.into_iter().collect());
        let events = [EventType::MessageReceived, EventType::MessageSent].map(|kind| Event {
            id: EventId::from_bits(1),
            kind,
            at: Timestamp::UNIX_EPOCH,
            data: "{}".to_owned(),
        });
        let made = listeners.deliveries(AccountId::from_bits(1), &events, Timestamp::UNIX_EPOCH);
        let made: Vec<_> = made.iter().map(|delivery| (delivery.endpoint, delivery.event.kind)).collect();
        let received = EventType::MessageReceived;
        assert_eq!(made, [(all, received), (some, received), (all, EventType::MessageSent)]);
    }
}
