//! Messages: what a caller asks for, when it is accepted, and every state on the way (promises N1, N4, N8).

pub mod advice;
mod batch;
mod content;
mod port;
mod quiet;
pub mod segments;
mod settling;
mod state;
mod view;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::account::{Gate, QuietHours, Stop};
use crate::credential::Sid;
use crate::edge::{Kind, Problem};
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::ledger::{Allowance, MicroCredits, prices_at};
use crate::number::{Country, E164, SenderId, zones};
use crate::seal::{DataKey, Sealed};

pub use batch::*;
pub use content::*;
pub use port::*;
pub use quiet::*;
pub use settling::*;
pub use state::*;
pub use view::*;

/// Name of the sealed field.
pub const PAYLOAD_FIELD: &str = "message-payload";
/// Twilio's limit for `Body`, in characters (error 21617).
pub const MAX_BODY_CHARACTERS: usize = 1600;
/// Twilio's limit for `MediaUrl`s of a message.
pub const MAX_MEDIA: usize = 10;
/// An accepted message whose queue message got lost is looked at again after this long.
pub const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// A message is sent within this time of its acceptance, or of the time that it was held for, or expires; callers may
/// choose another one up to [`MOST_VALIDITY`].
pub const VALIDITY: SignedDuration = SignedDuration::from_hours(4);
/// Twilio's limit for `ValidityPeriod`.
pub const MOST_VALIDITY: SignedDuration = SignedDuration::from_hours(10);
/// Below this Twilio advises against a `ValidityPeriod`: what is handed over would expire on its way.
pub const LEAST_VALIDITY: SignedDuration = SignedDuration::from_secs(60);
/// How far ahead a message may be held, as with Twilio's own scheduling.
pub const MOST_AHEAD: SignedDuration = SignedDuration::from_hours(35 * 24);

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the customer.
    Outbound,
    /// To the customer.
    Inbound,
}

impl Direction {
    /// The word in keys, exports and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// SMS or MMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Text only.
    Sms,
    /// With media.
    Mms,
}

impl Format {
    /// The word in exports and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sms => "sms",
            Self::Mms => "mms",
        }
    }
}

/// Whom a message is from: the customer's own number or name, or a messaging service that chooses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sender {
    /// A number, short code or name.
    Id(SenderId),
    /// A Twilio messaging service.
    Service(Sid),
}

impl Sender {
    /// The text that is stored; it is the customer's own.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => id.as_str(),
            Self::Service(sid) => sid.as_str(),
        }
    }
}

/// What a caller asks to be sent, parsed, to whomever it goes; the text comes beside it.
#[derive(Debug)]
pub struct Draft {
    /// From whom.
    pub sender: Sender,
    /// Addresses of media.
    pub media_urls: Vec<url::Url>,
    /// Not before.
    pub send_at: Option<Timestamp>,
    /// How long it may wait once it may go.
    pub validity: SignedDuration,
}

/// Why a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeldBy {
    /// The caller chose the time.
    SendAt,
    /// It is quiet where the recipient is.
    QuietHours,
}

/// Until when a message waits, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// It goes out then.
    pub until: Timestamp,
    /// Why.
    pub by: HeldBy,
    /// IANA name of the recipient's zone, if its quiet hours decided.
    pub zone: Option<String>,
}

/// A message's text. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Body(String);

/// Why a text is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too long: Twilio takes at most 1600 characters; split the text or shorten it")]
pub struct BodyTooLong;

impl Body {
    /// Takes a text as it is.
    pub fn parse(text: String) -> Result<Self, BodyTooLong> {
        if text.chars().count() > MAX_BODY_CHARACTERS { Err(BodyTooLong) } else { Ok(Self(text)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl Draft {
    /// SMS or MMS.
    pub fn format(&self) -> Format {
        if self.media_urls.is_empty() { Format::Sms } else { Format::Mms }
    }

    /// Whether it has to wait for this recipient, decided at `now`: for the time that the caller chose, and if that is in
    /// the quiet hours where the recipient is, until they are over.
    pub fn held(&self, quiet_hours: Option<&QuietHours>, to: &E164, now: Timestamp) -> Option<Held> {
        let at = self.send_at.filter(|at| *at > now);
        let quiet = quiet_hours.and_then(|hours| quiet_until(hours, at.unwrap_or(now), &zones(to)));
        match quiet {
            Some(Quiet { until, zone }) => Some(Held { until, by: HeldBy::QuietHours, zone: Some(zone) }),
            None => at.map(|until| Held { until, by: HeldBy::SendAt, zone: None }),
        }
    }

    /// Segments and price with this text, which may be empty only beside media, by the prices of `now`.
    pub fn quote(&self, body: &Body, now: Timestamp) -> Quote {
        let (segments, prices) = (segments::count(body.as_str()), prices_at(now));
        let hold = prices.message(Direction::Outbound, self.format(), segments.segments);
        Quote { segments, hold, price_version: prices.version }
    }

    /// With this text for one recipient, by the prices of `now`.
    pub fn row(&self, to: E164, body: Body, now: Timestamp) -> Row {
        Row { to, quote: self.quote(&body, now), body: Arc::new(body) }
    }
}

/// What waits sealed until the message is sent, and is gone with its outcome.
#[derive(Serialize, Deserialize)]
pub struct Payload {
    /// The recipient.
    pub to: String,
    /// The text.
    pub body: String,
    /// Addresses of media.
    pub media_urls: Vec<String>,
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.to.zeroize();
        self.body.zeroize();
        self.media_urls.zeroize();
    }
}

impl Payload {
    /// What to keep of a draft with its text for one recipient.
    pub fn of(draft: &Draft, body: &Body, to: &E164) -> Self {
        Self {
            to: to.as_str().to_owned(),
            body: body.as_str().to_owned(),
            media_urls: draft.media_urls.iter().map(ToString::to_string).collect(),
        }
    }

    /// Sealed under the account's payload key. The field names the message, so that one message's payload does not open
    /// as another's.
    pub fn seal(&self, key: &DataKey, message: MessageId, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let clear = serde_json::to_vec(self).map_err(|_| Fault::permanent("a payload did not serialize"))?;
        let clear = zeroize::Zeroizing::new(clear);
        Ok(key.seal(&format!("{PAYLOAD_FIELD}/{message}"), &clear, nonce)?)
    }

    /// Opened again.
    pub fn open(sealed: &Sealed, key: &DataKey, message: MessageId) -> Result<Self, Fault> {
        let clear = key.open(&format!("{PAYLOAD_FIELD}/{message}"), sealed)?;
        serde_json::from_slice(&clear).map_err(|_| Fault::permanent("a stored payload does not read"))
    }
}

/// The keyed hash by which an account compares numbers of others (promise N1).
pub fn number_hash(match_key: &DataKey, number: &E164) -> String {
    match_key.keyed_hash("number", number.as_str())
}

/// A message as stored: metadata only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Our id.
    pub id: MessageId,
    /// Whose.
    pub account: AccountId,
    /// Which way.
    pub direction: Direction,
    /// SMS or MMS.
    pub format: Format,
    /// Where it stands.
    pub status: Status,
    /// Counts the writes to this row; a write names the revision that it read.
    pub revision: u32,
    /// Twilio's SID, once known.
    pub sid: Option<String>,
    /// The customer's own number, name or messaging service.
    pub own: String,
    /// Keyed hash of the other party.
    pub other_hash: String,
    /// The other party's country, if known.
    pub country: Option<Country>,
    /// Segments by our own count, or as Twilio told for a text that arrived.
    pub segments: u32,
    /// GSM-7 or UCS-2; not known of a text that arrived.
    pub encoding: Option<segments::Encoding>,
    /// What was reserved at acceptance, and is charged when Twilio takes it.
    pub held: MicroCredits,
    /// The price list that counts for it.
    pub price_version: String,
    /// Twilio's error, if it failed there.
    pub error_code: Option<u32>,
    /// Why we did not send it, if so.
    pub reason: Option<Reason>,
    /// How often we tried.
    pub attempts: u32,
    /// Whether its outcome is in the ledger.
    pub settled: bool,
    /// Whether its hold was given back: if it turns out later that Twilio took it, it is charged without one.
    pub released: bool,
    /// If it was ever not known whether Twilio took it: what was found out.
    pub settling: Option<Settling>,
    /// When it was accepted or arrived.
    pub created: Timestamp,
    /// Not before then, if it was held at its acceptance.
    pub held_until: Option<Timestamp>,
    /// It is not handed to Twilio from then on.
    pub valid_until: Timestamp,
    /// The last change.
    pub updated: Timestamp,
}

impl Message {
    /// What is still reserved for it: nothing once its hold was given back.
    pub fn hold(&self) -> MicroCredits {
        if self.released { MicroCredits::ZERO } else { self.held }
    }
}

/// Everything that accepting one message writes, in one transaction of three items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The row.
    pub message: Message,
    /// Sealed until sent.
    pub payload: Sealed,
    /// The caller's key, with a hash of the request and the answer to give again.
    pub idempotency: Idempotency,
    /// The account's segments per day.
    pub daily_ceiling: u64,
    /// What may be used beyond all credit, as it was read.
    pub room: MicroCredits,
}

/// The record behind an `Idempotency-Key`: as in the IETF draft, kept for 24 h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// What the caller sent in the header.
    pub key: IdempotencyKey,
    /// Keyed hash of the request.
    pub fingerprint: String,
    /// The answer's body; ids and counts only. Empty for a request to many, whose answer follows from `batch`.
    pub answer: String,
    /// How far a request to many has come.
    pub batch: Option<Batch>,
    /// It is forgotten then.
    pub expires: Timestamp,
}

/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// A caller's `Idempotency-Key`: 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Reads the header.
    pub fn parse(header: Option<&str>) -> Result<Self, Problem> {
        let text = header.unwrap_or_default();
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self(text.to_owned()));
        }
        Err(Problem::new(
            Kind::IdempotencyKeyMissing,
            "send a header Idempotency-Key of 1 to 128 visible ASCII characters, a new UUID for each message; repeat \
             it only to repeat the same request",
        ))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was loaded to decide on an ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderFacts {
    /// What sends have to check.
    pub gate: Gate,
    /// What may be spent.
    pub allowance: Allowance,
}

/// What the rules say no to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// No Twilio account is connected.
    NotConnected,
    /// Sending is stopped.
    Stopped(Stop),
    /// The destination is not on the list.
    Country(Option<Country>),
    /// The credit does not cover it.
    Credit {
        /// What it costs.
        needed: MicroCredits,
        /// What there is.
        available: MicroCredits,
    },
    /// More was used than there was credit for: a message was charged whose hold had been given back, or credit was
    /// taken back that was spent.
    Owed(MicroCredits),
    /// The day's segments are used up.
    DailyCeiling(u64),
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotConnected => {
                Self::new(Kind::NotConnected, "connect a Twilio account first: PUT /v1/credentials/twilio")
            }
            Refusal::Stopped(Stop::CredentialRefused) => Self::new(
                Kind::SendingStopped,
                "Twilio refused the stored credential: connect the account again with PUT /v1/credentials/twilio",
            ),
            Refusal::Stopped(Stop::Frozen(reason)) => Self::new(
                Kind::SendingStopped,
                "sending was frozen because of an unusual pattern: GET /v1/sending-policy shows it, and if it was you, \
                 POST /v1/account/sending/unfreeze lifts it",
            )
            .with_errors([("frozen".to_owned(), reason.as_str(), reason.detail().to_owned())]),
            Refusal::Country(country) => {
                let country = country.map_or_else(|| "this destination".to_owned(), |country| country.to_string());
                Self::new(Kind::CountryNotAllowed, format!("{country} is not on the account's list of destinations"))
            }
            Refusal::Credit { needed, available } => Self::new(
                Kind::NotEnoughCredit,
                format!("the message needs {} micro-credits and {} are left", needed.0, available.0),
            ),
            Refusal::Owed(owed) => Self::new(
                Kind::NotEnoughCredit,
                format!("{} micro-credits are owed: sending goes on when new credits have paid them", owed.0),
            ),
            Refusal::DailyCeiling(ceiling) => Self::new(
                Kind::DailyCeiling,
                format!("the account's {ceiling} segments of this UTC day are used up; more tomorrow"),
            ),
        }
    }
}

/// Segments and price of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Segments by Twilio's rules.
    pub segments: segments::Segments,
    /// What is reserved for it.
    pub hold: MicroCredits,
    /// The price list that this is by.
    pub price_version: &'static str,
}

/// Whether the account may send at all.
pub fn check_gate(gate: &Gate) -> Result<(), Refusal> {
    if !gate.connected {
        return Err(Refusal::NotConnected);
    }
    gate.stopped().map_or(Ok(()), |stop| Err(Refusal::Stopped(stop)))
}

/// Whether the account may send to there.
pub fn check_country(gate: &Gate, to: &E164) -> Result<(), Refusal> {
    let country = to.country();
    let allowed = country.is_some_and(|country| gate.countries.contains(&country));
    if allowed { Ok(()) } else { Err(Refusal::Country(country)) }
}

/// Whether the account may send this to one recipient. The order is the order in which a person would mend things.
pub fn decide(facts: &SenderFacts, to: &E164, quote: Quote, now: Timestamp) -> Result<(), Refusal> {
    check_gate(&facts.gate)?;
    check_country(&facts.gate, to)?;
    check_allowance(&facts.allowance, quote.hold, quote.segments.segments, facts.gate.daily_ceiling, now)
}

/// Whether the allowance covers a message; also decided again when the allowance changed while we were writing.
pub fn check_allowance(
    allowance: &Allowance,
    hold: MicroCredits,
    segments: u32,
    ceiling: u64,
    now: Timestamp,
) -> Result<(), Refusal> {
    if allowance.owed() > MicroCredits::ZERO {
        return Err(Refusal::Owed(allowance.owed()));
    }
    if allowance.available() < hold {
        return Err(Refusal::Credit { needed: hold, available: allowance.available() });
    }
    if allowance.segments_on(now).saturating_add(u64::from(segments)) > ceiling {
        return Err(Refusal::DailyCeiling(ceiling));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::FreezeReason;
    use crate::ledger::{Change, TRIAL_CREDIT};

    fn facts() -> SenderFacts {
        let now = Timestamp::UNIX_EPOCH;
        let mut gate = Gate::new(Country::parse("US").unwrap());
        gate.connected = true;
        SenderFacts { gate, allowance: Allowance::new(TRIAL_CREDIT, now) }
    }

    fn to(number: &str) -> E164 {
        E164::parse(number, None).unwrap()
    }

    fn body(text: &str) -> Body {
        Body::parse(text.to_owned()).unwrap()
    }

    fn draft() -> Draft {
        Draft {
            sender: Sender::Id(SenderId::parse("+15005550006").unwrap()),
            media_urls: Vec::new(),
            send_at: None,
            validity: VALIDITY,
        }
    }

    fn decided(facts: &SenderFacts, number: &str, now: Timestamp) -> Result<(), Refusal> {
        decide(facts, &to(number), draft().quote(&body("hi"), now), now)
    }

    #[test]
    fn what_is_to_go_later_is_held_and_what_is_past_is_not() {
        let now = Timestamp::UNIX_EPOCH;
        let at = |secs| now + SignedDuration::from_secs(secs);
        let held =
            |hours: Option<&QuietHours>, send_at| Draft { send_at, ..draft() }.held(hours, &to("+12125550100"), at(10));
        for send_at in [None, Some(at(9)), Some(at(10))] {
            assert_eq!(held(None, send_at), None);
        }
        assert_eq!(held(None, Some(at(11))), Some(Held { until: at(11), by: HeldBy::SendAt, zone: None }));
        // 1 January 1970, 00:00 UTC is 19:00 in New York.
        let hours = QuietHours { from: "18:00".parse().unwrap(), to: "20:00".parse().unwrap() };
        let hours = Some(&hours);
        let quiet = Some(Held { until: at(3_600), by: HeldBy::QuietHours, zone: Some("America/New_York".to_owned()) });
        assert_eq!((held(hours, None), held(hours, Some(at(1_800)))), (quiet.clone(), quiet));
        assert_eq!(held(hours, Some(at(7_200))), Some(Held { until: at(7_200), by: HeldBy::SendAt, zone: None }));
    }

    #[test]
    fn a_message_is_priced_by_its_segments() {
        let quote = draft().quote(&body(&"a".repeat(161)), Timestamp::UNIX_EPOCH);
        assert_eq!((quote.segments.segments, quote.hold), (2, MicroCredits::whole(2)));
    }

    #[test]
    fn each_rule_refuses_by_itself() {
        let now = Timestamp::UNIX_EPOCH;
        let refused = |change: fn(&mut SenderFacts)| {
            let mut facts = facts();
            change(&mut facts);
            decided(&facts, "+14155552671", now).unwrap_err()
        };
        assert_eq!(refused(|f| f.gate.connected = false), Refusal::NotConnected);
        let frozen = Stop::Frozen(FreezeReason::Pumping);
        assert_eq!(
            refused(|f| f.gate.stop(Stop::Frozen(FreezeReason::Pumping), Timestamp::UNIX_EPOCH)),
            Refusal::Stopped(frozen)
        );
        assert_eq!(refused(|f| f.gate.daily_ceiling = 0), Refusal::DailyCeiling(0));
        assert_eq!(
            refused(|f| f.allowance.free = Change(999_999)),
            Refusal::Credit { needed: MicroCredits::whole(1), available: MicroCredits(999_999) }
        );
        let abroad = decided(&facts(), "+442071838750", now).unwrap_err();
        assert_eq!(abroad, Refusal::Country(Country::parse("GB").ok()));
    }

    #[test]
    fn a_refusal_for_a_freeze_names_its_reason_and_the_way_out() {
        let refusal = Refusal::Stopped(Stop::Frozen(FreezeReason::Pumping));
        let reply = Problem::from(refusal).into_reply(crate::ids::RequestId::from_bits(1));
        let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        let error = (&body["errors"][0]["field"], &body["errors"][0]["code"]);
        assert_eq!((reply.status.as_u16(), error), (403, (&"frozen".into(), &"pumping".into())));
        assert!(body["detail"].as_str().unwrap().contains("POST /v1/account/sending/unfreeze"), "{body}");
    }

    #[test]
    fn yesterdays_segments_do_not_count_today() {
        let mut facts = facts();
        facts.allowance.day_segments = Gate::FIRST_CEILING;
        let tomorrow = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24);
        assert!(decided(&facts, "+14155552671", Timestamp::UNIX_EPOCH).is_err());
        assert!(decided(&facts, "+14155552671", tomorrow).is_ok());
    }

    #[test]
    fn one_messages_payload_does_not_open_as_anothers() {
        let key =
            DataKey::new(AccountId::from_bits(1), crate::seal::Purpose::Payload, 1, zeroize::Zeroizing::new([1; 32]));
        let sealed = Payload::of(&draft(), &body("hi"), &to("+14155552671"))
            .seal(&key, MessageId::from_bits(1), [0; 12])
            .unwrap();
        assert!(Payload::open(&sealed, &key, MessageId::from_bits(1)).is_ok());
        assert!(Payload::open(&sealed, &key, MessageId::from_bits(2)).is_err());
    }
}
