//! POST and DELETE /v1/messages: accepts (`accept.rs`), takes back, and does what a person decides about what could not
//! be confirmed (`decision.rs`).

mod accept;
mod ask;
mod decision;

use http::StatusCode;
use telbuddy::api_key::Scope;
use telbuddy::credential::{LoadKeys, OpenKey};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::MessageId;
use telbuddy::live::Need;
use telbuddy::message::{
    CancelMessage, Canceled, LoadSender, MessageView, ReadMessages, RecordBatch, RecordMessage, RecordResend,
    SettleMessage, UpdateMessage,
};
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

pub use accept::{Accepted, AcceptedBatch};

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/messages", access: Access::Scope(Scope::MessagesSend) },
    Route { method: "DELETE", path: "/v1/messages/{id}", access: Access::Scope(Scope::MessagesSend) },
    Route { method: "POST", path: "/v1/messages/{id}/decision", access: Access::Scope(Scope::MessagesSend) },
];

/// The services that it calls. It may open the purposes payload and match, and neither calls Twilio nor could.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// Answers one request.
///
/// Accepting one, AWS calls: 1 batch read, 1 transaction of 3 items, 1 queue message; once in five minutes and key 1 KMS
/// call with its entry in the access log; once a minute 1 write of the caller's last call. Accepting many: the same
/// read, 1 write, and for each 90 messages 1 transaction and 9 calls to the queue. Canceling: 1 read,
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
        + LoadKeys
        + EnqueueJob
        + Chance
        + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, segments.first()) {
            ("POST", Some(id)) => decision::decide(world, site, &request, id).await,
            ("POST", None) => accept::accept(world, site, &request).await,
            (_, id) => cancel(world, site, &request, id.copied().unwrap_or_default()).await,
        }
    })
    .await
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
#[openapi(paths(accept::accept, cancel, decision::decide), components(schemas(AcceptedBatch)))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
