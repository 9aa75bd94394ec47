//! What was delivered, and sending it again: one event, or all that failed since a time.

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use telbuddy::edge::{Problem, Reply, Request};
use telbuddy::endpoint::{Delivery, DeliveryStatus, KeepDeliveries, KeepEndpoints, Resent};
use telbuddy::ids::{AccountId, DeliveryId};
use telbuddy::platform::{CountTries, EnqueueJob, Job};

use crate::view::{DeliveryDetail, DeliveryPage, DeliveryView, Recovered};
use crate::{RESENDS_PER_HOUR, find, find_enabled, limit};

/// Deliveries that one request to recover looks at.
const RECOVER_PAGE: u16 = 50;

/// Which events to send again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// Failed deliveries that were made then or later.
    #[schema(value_type = String, format = "date-time")]
    since: Timestamp,
    /// `next_cursor` of the answer before, to go on there.
    cursor: Option<String>,
}

/// Hints; the sweeper finds what is due if they get lost.
pub async fn wake<W: EnqueueJob>(world: &W, jobs: Vec<Job>) {
    if jobs.is_empty() {
        return;
    }
    if let Err(fault) = world.enqueue_all(jobs, 0).await {
        tracing::warn!(%fault, "the hints for some deliveries are lost; the sweeper will find them");
    }
}

fn cursor(text: &str) -> Result<DeliveryId, Problem> {
    text.parse().map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the answer before"))
}

/// List what was delivered to an endpoint in the last 30 days.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}/deliveries", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…"),
        ("limit" = Option<u16>, Query, description = "1 to 100; 50 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Newest first", body = DeliveryPage),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
pub async fn list<W>(world: &W, request: &Request, account: AccountId, id: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints + KeepDeliveries,
{
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(50, 100)?;
    let before = query.get("cursor").map(cursor).transpose()?;
    let endpoint = find(world, account, id).await?;
    let page = world.list_deliveries(account, endpoint.id, before, limit).await?;
    let full = page.len() == usize::from(limit);
    let next_cursor = page.last().filter(|_| full).map(|last| last.id.to_string());
    let data = page.iter().map(DeliveryView::of).collect();
    Ok(Reply::json(StatusCode::OK, &DeliveryPage { data, next_cursor }))
}

async fn find_one<W: KeepDeliveries>(
    world: &W,
    account: AccountId,
    endpoint: telbuddy::ids::EndpointId,
    delivery: &str,
) -> Result<Delivery, Problem> {
    let id: DeliveryId = delivery.parse().map_err(|_| gone())?;
    world.load_delivery(account, endpoint, id).await?.ok_or_else(gone)
}

fn gone() -> Problem {
    Problem::not_found("there is no such delivery to this endpoint; they are kept for 30 days")
}

/// Show a delivery with what is, or was, sent.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}/deliveries/{delivery_id}", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…"), ("delivery_id" = String, Path, description = "wdel_…")),
    responses(
    (status = 200, description = "The delivery, its tries and its payload", body = DeliveryDetail),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint or delivery", body = telbuddy::edge::ProblemBody)))]
pub async fn show<W>(world: &W, account: AccountId, id: &str, delivery: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints + KeepDeliveries,
{
    let endpoint = find(world, account, id).await?;
    let delivery = find_one(world, account, endpoint.id, delivery).await?;
    Ok(Reply::json(StatusCode::OK, &DeliveryDetail::of(&delivery)))
}

/// Send an event again, with all its tries. What is on its way already stays so.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/deliveries/{delivery_id}/resend", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…"), ("delivery_id" = String, Path, description = "wdel_…")),
    responses(
    (status = 202, description = "On its way", body = DeliveryView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint or delivery", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "The endpoint is disabled", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Too many in this hour", body = telbuddy::edge::ProblemBody)))]
pub async fn resend<W>(
    world: &W,
    request: &Request,
    account: AccountId,
    id: &str,
    delivery: &str,
) -> Result<Reply, Problem>
where
    W: KeepEndpoints + KeepDeliveries + CountTries + EnqueueJob,
{
    let endpoint = find_enabled(world, account, id).await?;
    let delivery = find_one(world, account, endpoint.id, delivery).await?;
    limit(world, "endpoint-resend", account, RESENDS_PER_HOUR, request.now).await?;
    let pending = match world.resend_delivery(&delivery, request.now).await? {
        Resent::Now => {
            wake(world, vec![delivery.job()]).await;
            delivery.resent(request.now)
        }
        Resent::Pending => delivery,
        Resent::Gone => return Err(gone()),
    };
    Ok(Reply::json(StatusCode::ACCEPTED, &DeliveryView::of(&pending)))
}

/// Send everything again that failed since a time. One request looks at 50 deliveries; go on with `next_cursor` until
/// it is null. Repeating a request sends nothing twice: what is on its way, or has arrived, stays as it is.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/recover", tag = "webhooks", request_body = Recover,
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 200, description = "How many of these are on their way again", body = Recovered),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "It is disabled", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
pub async fn recover<W>(world: &W, request: &Request, account: AccountId, id: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints + KeepDeliveries + EnqueueJob,
{
    let ask: Recover = request.json()?;
    let first = DeliveryId::new(ask.since, 0);
    let after = ask.cursor.as_deref().map_or(Ok(first), cursor)?.max(first);
    let endpoint = find_enabled(world, account, id).await?;
    let page = world.deliveries_since(account, endpoint.id, after, RECOVER_PAGE).await?;
    let full = page.len() == usize::from(RECOVER_PAGE);
    let next_cursor = page.last().filter(|_| full).map(|last| last.id.to_string());
    let mut jobs = Vec::new();
    for delivery in page.iter().filter(|delivery| delivery.status == DeliveryStatus::Failed) {
        if world.resend_delivery(delivery, request.now).await? == Resent::Now {
            jobs.push(delivery.job());
        }
    }
    let resent = jobs.len();
    wake(world, jobs).await;
    tracing::info!(account.id = %account, endpoint.id = %endpoint.id, resent, "failed events are sent again");
    Ok(Reply::json(StatusCode::OK, &Recovered { resent, next_cursor }))
}
