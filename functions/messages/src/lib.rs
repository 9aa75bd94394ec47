//! GET /v1/messages and below: what became of messages, and what they say, read live from Twilio; their media.

use futures::{StreamExt, stream};
use http::{StatusCode, header};
use serde::Serialize;
use telbuddy::api_key::Scope;
use telbuddy::connection::Trouble;
use telbuddy::credential::{Carrier, KeepCredential, LoadKeys, OpenKey, load_carrier};
use telbuddy::edge::{Access, Kind, Problem, Query, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::live::Need;
use telbuddy::message::{
    Content, FetchedMedia, MAX_MEDIA_BYTES, Message, MessageSid, MessageView, ReadContent, ReadMessages, Unavailable,
    read_content, shown_type,
};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/messages", access: Access::Scope(Scope::MessagesRead) },
    Route { method: "GET", path: "/v1/messages/{id}", access: Access::Scope(Scope::MessagesRead) },
    Route { method: "GET", path: "/v1/messages/{id}/media/{n}", access: Access::Scope(Scope::MessagesRead) },
];

/// The services that it calls. It may open the purpose send, to call Twilio, and no message that waits.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Twilio];

/// Messages of a list that are shown with their content: each costs a call to Twilio.
const MOST_WITH_CONTENT: u16 = 20;
/// Calls to Twilio at the same time.
const AT_ONCE: usize = 10;

/// A message, with its content if that was asked for.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ShownMessage {
    #[serde(flatten)]
    message: MessageView,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    read: Option<ReadMessage>,
}

/// With `include=content`: what the message says, read from Twilio a moment ago and kept nowhere.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReadMessage {
    /// Null if it cannot be shown.
    content: Option<Content>,
    /// Why not; null if it is shown.
    content_unavailable: Option<Unavailable>,
}

/// A page of messages.
#[derive(Serialize, utoipa::ToSchema)]
pub struct MessageList {
    /// Newest first.
    data: Vec<ShownMessage>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Answers one request.
///
/// AWS calls: 2 reads (session, message or page). With content 1 more (credential), and once in five minutes 1 read and 1
/// KMS call with its entry in the access log; Twilio: 1 GET for each message, and 1 more for each with media, 10 at the
/// same time. Media: the same 3 reads; Twilio: 2 GETs (the list of media, the piece). No answer may be cached, as ever.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + ReadMessages + KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    answer(request.id, async {
        let (_, segments) = request.route(ROUTES)?;
        match segments.as_slice() {
            [id, n, ..] => media(world, site, &request, id, n).await,
            [id] => show(world, site, &request, id).await,
            [] => list(world, site, &request).await,
        }
    })
    .await
}

/// List messages.
#[utoipa::path(get, path = "/v1/messages", tag = "message",
    params(("limit" = Option<u16>, Query, description = "1 to 100; 20 if left out. With content at most 20"),
        ("cursor" = Option<String>, Query, description = "From the page before"),
        ("include" = Option<String>, Query, description = "`content`: what each says, read live from Twilio")),
    responses(
    (status = 200, description = "Newest first", body = MessageList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadMessages + KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor", "include"])?;
    let (limit, with_content) = (query.limit(20, 100)?, with_content(&query)?);
    if with_content && limit > MOST_WITH_CONTENT {
        let detail = format!("with include=content at most {MOST_WITH_CONTENT}: each is read from Twilio");
        return Err(Problem::field("limit", "too_many", detail));
    }
    let before = query.get("cursor").map(str::parse::<MessageId>).transpose();
    let before = before.map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the page before"))?;
    let mut messages = world.list_messages(account, before, limit + 1).await?;
    let more = messages.len() > usize::from(limit);
    messages.truncate(usize::from(limit));
    let next_cursor = messages.last().filter(|_| more).map(|last| last.id.to_string());
    let data = shown(world, account, messages, with_content).await?;
    Ok(Reply::json(StatusCode::OK, &MessageList { data, next_cursor }))
}

/// Show a message.
#[utoipa::path(get, path = "/v1/messages/{id}", tag = "message",
    params(("id" = String, Path, description = "The message's id"),
        ("include" = Option<String>, Query, description = "`content`: what it says, read live from Twilio")),
    responses(
    (status = 200, description = "Its metadata, and its content if that was asked for", body = ShownMessage),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such message", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn show<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadMessages + KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let with_content = with_content(&request.query(&["include"])?)?;
    let message = load(world, account, id).await?;
    let shown = shown(world, account, vec![message], with_content).await?;
    let shown = shown.first().ok_or(Fault::permanent("a message got lost"))?;
    Ok(Reply::json(StatusCode::OK, shown))
}

fn with_content(query: &Query) -> Result<bool, Problem> {
    match query.get("include") {
        None => Ok(false),
        Some("content") => Ok(true),
        Some(_) => Err(Problem::field("include", "invalid", "give content, or leave it out")),
    }
}

async fn load<W: ReadMessages>(world: &W, account: AccountId, id: &str) -> Result<Message, Problem> {
    let id: MessageId = id.parse().map_err(|_| missing())?;
    world.load_message(account, id).await?.ok_or_else(missing)
}

fn missing() -> Problem {
    Problem::not_found("there is no message with this id; GET /v1/messages lists them")
}

/// The messages as the answer shows them. Content that cannot be had leaves its reason, and the others as they are.
async fn shown<W>(
    world: &W,
    account: AccountId,
    messages: Vec<Message>,
    with_content: bool,
) -> Result<Vec<ShownMessage>, Fault>
where
    W: KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    if !with_content {
        return Ok(messages.into_iter().map(|message| ShownMessage { message: message.into(), read: None }).collect());
    }
    let sids: Vec<_> = messages.iter().map(|message| message.sid.as_deref().and_then(MessageSid::parse)).collect();
    let carrier = if sids.iter().any(Option::is_some) { load_carrier(world, account).await? } else { None };
    let reads: Vec<_> = sids.iter().map(|sid| read(world, carrier.as_ref(), sid.as_ref())).collect();
    let read: Vec<_> = stream::iter(reads).buffered(AT_ONCE).collect().await;
    let one = |(message, read): (Message, Result<Content, Unavailable>)| {
        let (content, content_unavailable) = match read {
            Ok(content) => (Some(content), None),
            Err(why) => (None, Some(why)),
        };
        ShownMessage { message: message.into(), read: Some(ReadMessage { content, content_unavailable }) }
    };
    Ok(messages.into_iter().zip(read).map(one).collect())
}

async fn read<W: ReadContent>(
    world: &W,
    carrier: Option<&Carrier>,
    sid: Option<&MessageSid>,
) -> Result<Content, Unavailable> {
    let sid = sid.ok_or(Unavailable::NotAtTwilioYet)?;
    let carrier = carrier.ok_or(Unavailable::TwilioUnavailable)?;
    read_content(world, carrier, sid).await?.ok_or(Unavailable::Redacted)
}

/// A piece of a message's media.
///
/// Twilio keeps it. Where Twilio leads to its media store, this leads there, to an address that is good for some hours;
/// where Twilio answers with the piece itself, up to 4 MB, this does too. Types that a browser could run are files to be
/// saved.
#[utoipa::path(get, path = "/v1/messages/{id}/media/{n}", tag = "message",
    params(("id" = String, Path, description = "The message's id"),
        ("n" = u16, Path, description = "Its place, from 0, as `include=content` lists it")),
    responses(
    (status = 200, description = "The piece itself", content_type = "application/octet-stream"),
    (status = 303, description = "It is there, in Twilio's media store"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such message or piece, or Twilio does not have it any more",
        body = telbuddy::edge::ProblemBody),
    (status = 409, description = "No Twilio account is connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Twilio refuses", body = telbuddy::edge::ProblemBody),
    (status = 502, description = "It is too large, or not where Twilio keeps media",
        body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn media<W>(world: &W, site: &Site, request: &Request, id: &str, n: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadMessages + KeepCredential + ReadContent + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let message = load(world, account, id).await?;
    let sid = message.sid.as_deref().and_then(MessageSid::parse).ok_or_else(no_piece)?;
    let n: usize = n.parse().map_err(|_| no_piece())?;
    let carrier = load_carrier(world, account).await?.ok_or_else(|| {
        Problem::new(Kind::NotConnected, "connect a Twilio account first, with PUT /v1/credentials/twilio")
    })?;
    let pieces = world.list_media(&carrier, &sid).await.map_err(problem)?;
    let piece = pieces.get(n).ok_or_else(no_piece)?;
    Ok(match world.fetch_media(&carrier, &sid, &piece.sid).await.map_err(problem)? {
        FetchedMedia::Elsewhere(url) => Reply::empty(StatusCode::SEE_OTHER).with_header(header::LOCATION, url.as_str()),
        FetchedMedia::Bytes { content_type, bytes } => passed_on(&content_type, bytes),
        FetchedMedia::TooLarge => {
            let detail = format!("it is above {MAX_MEDIA_BYTES} bytes: the Twilio Console shows it");
            return Err(Problem::new(Kind::MediaRefused, detail));
        }
        FetchedMedia::NotAllowed => {
            let detail = "Twilio leads to a host that is not known as its media store: tell support the request_id";
            return Err(Problem::new(Kind::MediaRefused, detail));
        }
    })
}

fn no_piece() -> Problem {
    Problem::not_found("the message has no such piece of media; GET /v1/messages/{id}?include=content lists them")
}

fn problem(trouble: Trouble) -> Problem {
    if trouble == Trouble::NotFound { no_piece() } else { trouble.into() }
}

/// A stranger chose bytes and type: the browser only shows what cannot run, and must not guess (`nosniff`, as with every
/// answer).
fn passed_on(content_type: &str, bytes: Vec<u8>) -> Reply {
    match shown_type(content_type) {
        Some(shown) => Reply::bytes(StatusCode::OK, shown, bytes),
        None => Reply::bytes(StatusCode::OK, "application/octet-stream", bytes)
            .with_header(header::CONTENT_DISPOSITION, "attachment"),
    }
}

#[derive(OpenApi)]
#[openapi(paths(list, show, media))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
