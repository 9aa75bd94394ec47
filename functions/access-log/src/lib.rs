//! GET /v1/access-log: who opened which of the account's keys, as a chain that the customer can check (promise N11).

use http::StatusCode;
use serde::Serialize;
use telbuddy::access_log::{Entry, ReadAccess};
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Problem, Reply, Request, Route, answer};
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] =
    &[Route { method: "GET", path: "/v1/access-log", access: Access::Scope(Scope::AccountRead) }];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// A page of the access log.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AccessPage {
    /// The account: part of every entry's hash.
    #[schema(value_type = String, example = "acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    account_id: AccountId,
    /// Oldest first.
    data: Vec<Entry>,
    /// Give this as `cursor` for the next page; null at the end of what is linked so far.
    next_cursor: Option<String>,
}

/// Answers one request. AWS calls: 2 reads, once a minute 1 write of the caller's last call.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + ReadAccess + Sync,
{
    answer(request.id, async {
        request.route(ROUTES)?;
        read(world, site, &request).await
    })
    .await
}

/// Who opened which of your keys.
#[utoipa::path(get, path = "/v1/access-log", tag = "account",
    params(("limit" = Option<u16>, Query, description = "1 to 1000; 100 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Linked within five minutes of the opening; check an export of all pages with the \
        verifier", body = AccessPage),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn read<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadAccess + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let after = query.get("cursor").map_or(Ok(0), str::parse::<u64>);
    let after = after.map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the page before"))?;
    let mut data = world.read_access(account, after, limit + 1).await?;
    let more = data.len() > usize::from(limit);
    data.truncate(usize::from(limit));
    let next_cursor = data.last().filter(|_| more).map(|last| last.sequence.to_string());
    Ok(Reply::json(StatusCode::OK, &AccessPage { account_id: account, data, next_cursor }))
}

#[derive(OpenApi)]
#[openapi(paths(read))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
