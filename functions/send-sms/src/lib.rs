//! POST and GET /v1/messages: checks the rules, records, enqueues; lists and shows what became of it.

use http::{StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::api_key::Scope;
use telbuddy::credential::OpenKey;
use telbuddy::credential::Sid;
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::ledger::{MicroCredits, PRICES};
use telbuddy::live::Need;
use telbuddy::message::segments::Encoding;
use telbuddy::message::{
    Ask, Body, Direction, Format, IDEMPOTENCY_LIFE, Idempotency, IdempotencyKey, LoadSender, Loaded, MAX_MEDIA,
    Message, Outgoing, Payload, Quote, ReadMessages, Reason, RecordMessage, Recorded, Sender, Standing, Status, decide,
    number_hash,
};
use telbuddy::number::{Country, E164, SenderId};
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::seal::{DataKey, Purpose};
use telbuddy::session::{KeepSessions, Site, admit, caller, not_signed_in};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/messages", access: Access::Scope(Scope::MessagesSend) },
    Route { method: "GET", path: "/v1/messages", access: Access::Scope(Scope::MessagesRead) },
    Route { method: "GET", path: "/v1/messages/{id}", access: Access::Scope(Scope::MessagesRead) },
];

/// The services that it calls. It may open the purposes payload and match, and neither calls Twilio nor could.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// A message to send.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// The recipient: +14155552671, or a national number of your account's country.
    #[schema(example = "+14155552671")]
    to: String,
    /// One of your Twilio numbers, a short code or an alphanumeric name. This or `messaging_service_sid`.
    #[schema(example = "+15005550006")]
    from: Option<String>,
    /// A Twilio messaging service that chooses the number.
    #[schema(example = "MG00000000000000000000000000000000")]
    messaging_service_sid: Option<String>,
    /// The text, up to 1,600 characters; may be left out beside media.
    #[schema(example = "Your table is ready.", max_length = 1600)]
    #[serde(default)]
    body: String,
    /// Up to 10 https addresses of media, which Twilio fetches.
    #[serde(default)]
    media_urls: Vec<String>,
}

/// An accepted message.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Accepted {
    /// Names the message.
    #[schema(value_type = String, example = "msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: MessageId,
    /// `accepted`.
    status: Status,
    /// Segments that Twilio will bill.
    segments: u32,
    /// Alphabet of the segments.
    encoding: Encoding,
    /// What was reserved for it, in millionths of a credit.
    credits_held_micro: MicroCredits,
    /// Set when it waits for a time of its own; null: it goes out now.
    #[schema(value_type = Option<String>, format = "date-time")]
    held_until: Option<Timestamp>,
}

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
    /// Twilio's error code, if it failed there.
    error_code: Option<u32>,
    /// Twilio's page about the error.
    error_url: Option<String>,
    /// Why it was not sent, if we did not.
    reason: Option<Reason>,
    /// When it was accepted or arrived.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// The last change.
    #[schema(value_type = String, format = "date-time")]
    updated_at: Timestamp,
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
            error_url: message.error_code.map(|code| format!("https://www.twilio.com/docs/api/errors/{code}")),
            error_code: message.error_code,
            reason: message.reason,
            created_at: message.created,
            updated_at: message.updated,
        }
    }
}

/// Answers one request.
///
/// Accepting, AWS calls: 1 batch read, 1 transaction of 3 items, 1 queue message; once in five minutes and key 1 KMS
/// call with its entry in the access log; once a minute 1 write of the caller's last call. Reading: 2 reads.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + LoadSender + RecordMessage + ReadMessages + OpenKey + EnqueueJob + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, segments.first()) {
            ("POST", _) => accept(world, site, &request).await,
            (_, Some(id)) => show(world, site, &request, id).await,
            _ => list(world, site, &request).await,
        }
    })
    .await
}

/// Send a message.
#[utoipa::path(post, path = "/v1/messages", tag = "message", request_body = SendMessage,
    params(("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters, new for each message")),
    responses(
    (status = 202, description = "Accepted; a repetition with the same key gets the same answer", body = Accepted),
    (status = 400, description = "No Idempotency-Key, or not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 402, description = "The credit is used up", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "Sending is stopped, or not to there, or the API key lacks the scope",
        body = telbuddy::edge::ProblemBody),
    (status = 409, description = "No Twilio account is connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or the key was used for another request",
        body = telbuddy::edge::ProblemBody)))]
async fn accept<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadSender + RecordMessage + OpenKey + EnqueueJob + Chance + Sync,
{
    let proof = site.proof(request)?;
    let key = IdempotencyKey::parse(request.header("idempotency-key"))?;
    let account = proof.account;
    let remembered = [Purpose::Payload, Purpose::Match].map(|purpose| world.remembered_key(account, purpose, None));
    let wanted: Vec<_> = [Purpose::Payload, Purpose::Match]
        .into_iter()
        .zip(&remembered)
        .filter_map(|(purpose, key)| key.is_none().then_some(purpose))
        .collect();
    let loaded = world.load_sender(&proof, &key, &wanted).await?;

    admit(world, &proof, loaded.pass.clone(), request, ROUTES).await?;
    let facts = loaded.facts.clone().ok_or_else(|| not_signed_in(Some(proof.way)))?;
    let ask = parse(request.json()?, facts.gate.home)?;
    let [payload_key, match_key] = remembered;
    let match_key = key_of(world, &loaded, Purpose::Match, match_key).await?;
    let fingerprint = fingerprint(&match_key, &ask);
    if let Some(earlier) = loaded.earlier.as_ref().filter(|earlier| earlier.expires > request.now) {
        return again(earlier, &fingerprint);
    }

    let quote = decide(&facts, &ask, request.now)?;
    let payload_key = key_of(world, &loaded, Purpose::Payload, payload_key).await?;
    let id = MessageId::new(request.now, world.dice()?);
    let message = accepted_message(account, id, &ask, quote, &match_key, request.now);
    let body = answer_of(&message, quote)?;
    let outgoing = Outgoing {
        payload: Payload::of(&ask).seal(&payload_key, id, world.random()?)?,
        idempotency: Idempotency {
            key,
            fingerprint: fingerprint.clone(),
            answer: body.clone(),
            expires: request.now + IDEMPOTENCY_LIFE,
        },
        daily_ceiling: facts.gate.daily_ceiling,
        message,
    };
    match world.record_message(&outgoing).await? {
        Recorded::Accepted => {}
        Recorded::Earlier(earlier) => return again(&earlier, &fingerprint),
        Recorded::Refused(refusal) => return Err(refusal.into()),
    }
    // A hint only: if it gets lost, the sweeper finds the message within two minutes.
    if let Err(fault) = world.enqueue(Job::Send { account, message: id }, 0).await {
        tracing::warn!(message.id = %id, %fault, "accepted {id}, but its hint is lost; the sweeper will find it");
    }
    tracing::info!(account.id = %account, message.id = %id, "accepted {id}");
    Ok(Reply::text(StatusCode::ACCEPTED, "application/json", body))
}

async fn key_of<W: OpenKey>(
    world: &W,
    loaded: &Loaded,
    purpose: Purpose,
    remembered: Option<DataKey>,
) -> Result<DataKey, Fault> {
    if let Some(key) = remembered {
        return Ok(key);
    }
    let keys = loaded.keys.iter().find(|keys| keys.purpose == purpose);
    world.open_key(keys.ok_or(Fault::permanent("the account has no data key"))?, None).await
}

/// The stored answer if the request is the same, a problem if it is another.
fn again(earlier: &Idempotency, fingerprint: &str) -> Result<Reply, Problem> {
    if earlier.fingerprint == fingerprint {
        let reply = Reply::text(StatusCode::ACCEPTED, "application/json", earlier.answer.clone());
        return Ok(reply.with_header(header::HeaderName::from_static("idempotent-replayed"), "true"));
    }
    Err(Problem::new(
        Kind::IdempotencyKeyReused,
        "the key came with another request in the last 24 hours: take a new key for a new message",
    ))
}

/// What makes two requests the same: every field, each with its length in front.
fn fingerprint(match_key: &DataKey, ask: &Ask) -> String {
    let urls = ask.media_urls.iter().map(url::Url::as_str);
    let parts = [ask.to.as_str(), ask.sender.as_str(), ask.body.as_str()].into_iter().chain(urls);
    let text: Vec<_> = parts.map(|part| format!("{}:{part}", part.len())).collect();
    match_key.keyed_hash("request", &text.concat())
}

fn parse(ask: SendMessage, home: Country) -> Result<Ask, Problem> {
    let mut fields = Fields::default();
    let to = fields.take("to", E164::parse(&ask.to, Some(home)));
    let sender = match (ask.from, ask.messaging_service_sid) {
        (Some(from), None) => fields.take("from", SenderId::parse(&from)).map(Sender::Id),
        (None, Some(sid)) => fields.take("messaging_service_sid", Sid::parse("MG", &sid)).map(Sender::Service),
        _ => {
            fields.add("from", "one_of", "give either from or messaging_service_sid, and not both".to_owned());
            None
        }
    };
    if ask.body.is_empty() && ask.media_urls.is_empty() {
        fields.add("body", "missing", "give a text, or media".to_owned());
    }
    let body = fields.take("body", Body::parse(ask.body));
    if ask.media_urls.len() > MAX_MEDIA {
        fields.add("media_urls", "too_many", format!("at most {MAX_MEDIA}"));
    }
    let mut media_urls = Vec::new();
    for (at, text) in ask.media_urls.iter().enumerate() {
        match url::Url::parse(text) {
            Ok(url) if url.scheme() == "https" && url.host_str().is_some() => media_urls.push(url),
            _ => fields.add(
                &format!("media_urls[{at}]"),
                "invalid",
                "give an https address that Twilio can fetch".to_owned(),
            ),
        }
    }
    match (to, sender, body) {
        (Some(to), Some(sender), Some(body)) => fields.done(Ask { to, sender, body, media_urls }),
        _ => Err(fields.into_problem()),
    }
}

fn accepted_message(
    account: AccountId,
    id: MessageId,
    ask: &Ask,
    quote: Quote,
    match_key: &DataKey,
    now: Timestamp,
) -> Message {
    Message {
        id,
        account,
        direction: Direction::Outbound,
        format: ask.format(),
        status: Status::Accepted,
        revision: 0,
        sid: None,
        own: ask.sender.as_str().to_owned(),
        other_hash: number_hash(match_key, &ask.to),
        country: ask.to.country(),
        segments: quote.segments.segments,
        encoding: Some(quote.segments.encoding),
        held: quote.hold,
        price_version: PRICES.version.to_owned(),
        error_code: None,
        reason: None,
        attempts: 0,
        settled: false,
        created: now,
        updated: now,
    }
}

fn answer_of(message: &Message, quote: Quote) -> Result<String, Fault> {
    let accepted = Accepted {
        id: message.id,
        status: message.status,
        segments: quote.segments.segments,
        encoding: quote.segments.encoding,
        credits_held_micro: quote.hold,
        held_until: None,
    };
    serde_json::to_string(&accepted).map_err(|_| Fault::permanent("an answer did not serialize"))
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
    let missing = || Problem::not_found("there is no message with this id; GET /v1/messages lists them");
    let id: MessageId = id.parse().map_err(|_| missing())?;
    let message = world.load_message(account, id).await?.ok_or_else(missing)?;
    Ok(Reply::json(StatusCode::OK, &MessageView::from(message)))
}

#[derive(OpenApi)]
#[openapi(paths(accept, list, show))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
