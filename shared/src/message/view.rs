//! A message as the API shows it.

use jiff::Timestamp;
use serde::Serialize;

use super::advice::{self, AtFault};
use super::segments::Encoding;
use super::{Direction, Format, Message, Reason, Standing, Status, decidable_until};
use crate::ids::MessageId;
use crate::ledger::MicroCredits;
use crate::number::Country;

/// A message's metadata. Its text and the other party's number are at Twilio only.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MessageView {
    /// Names the message.
    #[schema(value_type = String, example = "msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: MessageId,
    /// Which way.
    direction: Direction,
    /// SMS or MMS.
    format: Format,
    /// Where it stands.
    status: Status,
    /// Twilio's SID, once known.
    twilio_sid: Option<String>,
    /// Your number, name or messaging service.
    own_sender: String,
    /// Keyed hash of the other party: the same number has the same hash in your account, and another elsewhere.
    other_party_hash: String,
    /// The other party's country.
    #[schema(value_type = Option<String>, example = "US")]
    country: Option<Country>,
    /// Segments.
    segments: u32,
    /// Alphabet of the segments.
    encoding: Option<Encoding>,
    /// The price, in millionths of a credit; 0 for what was never sent.
    credits_micro: MicroCredits,
    /// The price list that it was priced with.
    price_version: String,
    /// Twilio's error, if it failed there: who is at fault and what to do.
    error: Option<ErrorView>,
    /// Twilio's error code, as in `error`.
    error_code: Option<u32>,
    /// Twilio's page about the error.
    error_url: Option<String>,
    /// Why it was not sent, if we did not.
    reason: Option<Reason>,
    /// What there is to decide about it, while it is `unconfirmed`; null otherwise.
    decision: Option<DecisionView>,
    /// The message that you had sent in its place.
    #[schema(value_type = Option<String>)]
    resent_as: Option<MessageId>,
    /// When it goes out, if it was to wait; null otherwise.
    #[schema(value_type = Option<String>, format = "date-time")]
    held_until: Option<Timestamp>,
    /// It expires unsent then.
    #[schema(value_type = String, format = "date-time")]
    valid_until: Timestamp,
    /// When it was accepted or arrived.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// The last change.
    #[schema(value_type = String, format = "date-time")]
    updated_at: Timestamp,
}

/// One of Twilio's errors.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = MessageError)]
pub struct ErrorView {
    /// Twilio's code.
    #[schema(example = 30003)]
    code: u32,
    /// Who has to do something about it.
    fault: AtFault,
    /// What to do.
    #[schema(example = "the telephone was off or out of reach: try once more in an hour")]
    advice: &'static str,
    /// Whether the same message would only fail again.
    permanent: bool,
}

impl ErrorView {
    fn of(code: u32) -> Self {
        let advice::Advice { fault, advice, permanent } = advice::advice(code);
        Self { code, fault, advice, permanent }
    }
}

/// What a person may decide about an `unconfirmed` message.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = MessageDecision)]
pub struct DecisionView {
    /// What to do.
    advice: &'static str,
    /// Until then; what it says is removed then.
    #[schema(value_type = String, format = "date-time")]
    until: Timestamp,
}

impl DecisionView {
    fn until(until: Timestamp) -> Self {
        let advice = "Twilio never confirmed this message, and its lists did not show it: it was most likely not sent, and \
            nothing was charged. Have it sent again or dropped with POST /v1/messages/{id}/decision; ask the recipient \
            first if a second one would do harm";
        Self { advice, until }
    }
}

impl From<Message> for MessageView {
    fn from(message: Message) -> Self {
        let decision = decidable_until(&message).map(DecisionView::until);
        Self {
            id: message.id,
            direction: message.direction,
            format: message.format,
            status: message.status,
            twilio_sid: message.sid,
            own_sender: message.own,
            other_party_hash: message.other_hash,
            country: message.country,
            segments: message.segments,
            encoding: message.encoding,
            credits_micro: if message.status.standing() == Standing::Over { MicroCredits(0) } else { message.held },
            price_version: message.price_version,
            error: message.error_code.map(ErrorView::of),
            error_url: message.error_code.map(|code| format!("https://www.twilio.com/docs/api/errors/{code}")),
            error_code: message.error_code,
            reason: message.reason,
            decision,
            resent_as: message.settling.and_then(|settling| settling.resent_as),
            held_until: message.held_until,
            valid_until: message.valid_until,
            created_at: message.created,
            updated_at: message.updated,
        }
    }
}
