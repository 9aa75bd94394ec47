//! PUT /v1/credits/overage: what may be used beyond all credit and is billed afterwards; nothing unless wished.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use telbuddy::account::LoadGate;
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ledger::{KeepPurse, MicroCredits, set_overage};
use telbuddy::live::Need;
use telbuddy::platform::Chance;
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function. No API key lets anybody spend more than was paid.
pub const ROUTES: &[Route] = &[Route { method: "PUT", path: "/v1/credits/overage", access: Access::Session }];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// The most that a wish may be for: a million credits a month. A mistyped nought more is asked about.
const MOST: MicroCredits = MicroCredits::whole(1_000_000);

/// What is wished.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WishOverage {
    /// The most of a calendar month, in millionths of a credit; null: nothing, sending stops when the credits are used.
    #[schema(value_type = Option<u64>, example = 50_000_000)]
    monthly_limit_micro: Option<MicroCredits>,
}

/// What stands.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OverageView {
    /// The most of a calendar month; null: nothing.
    monthly_limit_micro: Option<MicroCredits>,
    /// The month by the account's time zone.
    #[schema(example = "2026-11")]
    month: String,
    /// Used beyond all credit in it and billed, up to now.
    billed_micro: MicroCredits,
}

/// Answers one request. AWS calls: 2 reads, once a minute 1 write of the session's last call; then 2 reads and 1
/// transaction of purse and allowance, and 2 entries if something was used beyond all credit before.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + LoadGate + KeepPurse + Chance + Sync,
{
    answer(request.id, async {
        request.route(ROUTES)?;
        put(world, site, &request).await
    })
    .await
}

/// Have what is used beyond all credit billed afterwards, up to a limit each month; or not any more.
///
/// Asked for again with the same limit nothing changes. What was used up to now is billed either way.
#[utoipa::path(put, path = "/v1/credits/overage", tag = "usage", request_body = WishOverage, responses(
    (status = 200, description = "It stands", body = OverageView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "An API key may not", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "The plan has no overage", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "The limit does not fit", body = telbuddy::edge::ProblemBody)))]
async fn put<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + KeepPurse + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let WishOverage { monthly_limit_micro: limit } = request.json()?;
    if limit.is_some_and(|limit| limit == MicroCredits::ZERO || limit > MOST) {
        let detail = format!("give 1 to {} micro-credits, or null for no overage", MOST.0);
        return Err(Problem::field("monthly_limit_micro", "out_of_range", detail));
    }
    let gone = || Fault::permanent("the account has no gate");
    let gate = world.load_gate(account).await?.ok_or_else(gone)?;
    // Taking the wish back is always possible.
    if limit.is_some() && !gate.overage_allowed {
        let detail = "your plan stops when its credits are used: buy more with POST /v1/billing/top-ups";
        return Err(Problem::new(Kind::NoOverage, detail));
    }
    set_overage(world, account, limit, request.now).await?;
    let purse = world.load_purse(account).await?.ok_or_else(gone)?.purse;
    let month = gate.zone.month(request.now);
    let billed = purse.overage.as_ref().filter(|overage| overage.month == month).map(|overage| overage.billed);
    tracing::info!(account.id = %account, limit = ?purse.overage.as_ref().map(|o| o.monthly_limit), "overage is set");
    let monthly_limit_micro = purse.overage.map(|overage| overage.monthly_limit);
    let view = OverageView { monthly_limit_micro, month, billed_micro: billed.unwrap_or_default() };
    Ok(Reply::json(StatusCode::OK, &view))
}

#[derive(OpenApi)]
#[openapi(paths(put))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
