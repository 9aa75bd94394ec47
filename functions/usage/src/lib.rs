//! GET /v1/usage, /v1/usage/errors and /v1/credits: what was used, what failed and why, and what is left.
//! GET /v1/credits/entries and /v1/statements/{month}: the ledger's entries, and the statement that sums them up.

mod entries;
mod statements;

mod credits;
mod rows;

use telbuddy::account::LoadGate;
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Reply, Request, Route, answer};
use telbuddy::ledger::{KeepPurse, ReadUsage};
use telbuddy::live::Need;
use telbuddy::session::{KeepSessions, Site};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/usage", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/usage/errors", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/credits", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/credits/entries", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/statements/{month}", access: Access::Scope(Scope::UsageRead) },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// Answers one request. AWS calls: 1 read of the session or API key, once a minute 1 write of the caller's last call; for
/// usage and errors 1 read of the account's time zone, and 1 of rows, or 1 for each 1000 rows that are read; for credits
/// 1 batch read; for entries and statements 2 reads.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + LoadGate + ReadUsage + KeepPurse + Sync,
{
    answer(request.id, async {
        let (route, values) = request.route(ROUTES)?;
        match (route.path, values.as_slice()) {
            ("/v1/usage", _) => rows::usage(world, site, &request).await,
            ("/v1/usage/errors", _) => rows::errors(world, site, &request).await,
            ("/v1/credits/entries", _) => entries::entries(world, site, &request).await,
            ("/v1/statements/{month}", [month]) => statements::statement(world, site, &request, month).await,
            _ => credits::credits(world, site, &request).await,
        }
    })
    .await
}

#[derive(OpenApi)]
#[openapi(paths(rows::usage, rows::errors, credits::credits, entries::entries, statements::statement))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
