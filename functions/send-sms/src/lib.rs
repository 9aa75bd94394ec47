//! POST, GET and DELETE /v1/messages: accepts (`accept.rs`), lists and shows what became of it, takes back, and does what
//! a person decides about what could not be confirmed (`decision.rs`).

mod accept;
mod ask;
mod decision;

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use telbuddy::api_key::Scope;
use telbuddy::credential::OpenKey;
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::MessageId;
use telbuddy::ledger::MicroCredits;
use telbuddy::live::Need;
use telbuddy::message::advice::{self, AtFault};
use telbuddy::message::segments::Encoding;
use telbuddy::message::{
    CancelMessage, Canceled, Direction, Format, LoadSender, Message, ReadMessages, Reason, RecordBatch, RecordMessage,
    RecordResend, SettleMessage, Standing, Status, UpdateMessage, decidable_until,
};
use telbuddy::number::Country;
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

pub use accept::{Accepted, AcceptedBatch};

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/messages", access: Access::Scope(Scope::MessagesSend) },
    Route { method: "GET", path: "/v1/messages", access: Access::Scope(Scope::MessagesRead) },
    Route { method: "GET", path: "/v1/messages/{id}", access: Access::Scope(Scope::MessagesRead) },
    Route { method: "DELETE", path: "/v1/messages/{id}", access: Access::Scope(Scope::MessagesSend) },
    Route { method: "POST", path: "/v1/messages/{id}/decision", access: Access::Scope(Scope::MessagesSend) },
];

/// The services that it calls. It may open the purposes payload and match, and neither calls Twilio nor could.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

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

/// A page of messages.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MessageList {
    /// Newest first.
    data: Vec<MessageView>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
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

/// Answers one request.
///
/// Accepting one, AWS calls: 1 batch read, 1 transaction of 3 items, 1 queue message; once in five minutes and key 1 KMS
/// call with its entry in the access log; once a minute 1 write of the caller's last call. Accepting many: the same
/// read, 1 write, and for each 90 messages 1 transaction and 9 calls to the queue. Reading: 2 reads. Canceling: 1 read,
/// 1 write, 1 queue message. Deciding: to drop 2 reads, 1 write; to send again 2 reads, 1 transaction of 4 items, 1 queue
/// message; either 1 queue message more while the hold is not given back.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions
        + LoadSender
        + RecordMessage
        + RecordBatch
        + RecordResend
        + ReadMessages
        + SettleMessage
        + UpdateMessage
        + CancelMessage
        + OpenKey
        + EnqueueJob
        + Chance
        + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, segments.first()) {
            ("POST", Some(id)) => decision::decide(world, site, &request, id).await,
            ("POST", None) => accept::accept(world, site, &request).await,
            ("DELETE", id) => cancel(world, site, &request, id.copied().unwrap_or_default()).await,
            (_, Some(id)) => show(world, site, &request, id).await,
            _ => list(world, site, &request).await,
        }
    })
    .await
}

/// List messages.
#[utoipa::path(get, path = "/v1/messages", tag = "message",
    params(("limit" = Option<u16>, Query, description = "1 to 100; 20 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Newest first", body = MessageList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadMessages + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(20, 100)?;
    let before = query.get("cursor").map(str::parse::<MessageId>).transpose();
    let before = before.map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the page before"))?;
    let mut messages = world.list_messages(account, before, limit + 1).await?;
    let more = messages.len() > usize::from(limit);
    messages.truncate(usize::from(limit));
    let next_cursor = messages.last().filter(|_| more).map(|last| last.id.to_string());
    let data = messages.into_iter().map(MessageView::from).collect();
    Ok(Reply::json(StatusCode::OK, &MessageList { data, next_cursor }))
}

/// Show a message.
#[utoipa::path(get, path = "/v1/messages/{id}", tag = "message",
    params(("id" = String, Path, description = "The message's id")), responses(
    (status = 200, description = "Its metadata", body = MessageView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such message", body = telbuddy::edge::ProblemBody)))]
async fn show<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadMessages + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let id: MessageId = id.parse().map_err(|_| missing())?;
    let message = world.load_message(account, id).await?.ok_or_else(missing)?;
    Ok(Reply::json(StatusCode::OK, &MessageView::from(message)))
}

/// Take a message back that is not handed over to Twilio yet.
#[utoipa::path(delete, path = "/v1/messages/{id}", tag = "message",
    params(("id" = String, Path, description = "The message's id")), responses(
    (status = 200, description = "It will not be sent; what was reserved for it is given back", body = MessageView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such message", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "It is with Twilio or over already", body = telbuddy::edge::ProblemBody)))]
async fn cancel<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + CancelMessage + EnqueueJob + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let id: MessageId = id.parse().map_err(|_| missing())?;
    match world.cancel_message(account, id, request.now).await? {
        Canceled::Canceled(message) => {
            if let Err(fault) = world.enqueue(Job::Post { account, message: id }, 0).await {
                tracing::warn!(message.id = %id, %fault, "the hint for {id} is lost; the sweeper will find it");
            }
            Ok(Reply::json(StatusCode::OK, &MessageView::from(message)))
        }
        Canceled::TooLate(message) => {
            let status = serde_json::to_value(message.status).ok().and_then(|word| word.as_str().map(str::to_owned));
            let detail = format!("it is {} already and cannot be taken back", status.unwrap_or_default());
            Err(Problem::new(Kind::TooLate, detail))
        }
        Canceled::NotFound => Err(missing()),
    }
}

fn missing() -> Problem {
    Problem::not_found("there is no message with this id; GET /v1/messages lists them")
}

#[derive(OpenApi)]
#[openapi(paths(accept::accept, list, show, cancel, decision::decide), components(schemas(AcceptedBatch)))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
