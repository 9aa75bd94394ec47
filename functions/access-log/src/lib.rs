//! What the customer can check: who opened which of the account's keys, as a chain (promise N11), and webhooks that
//! were refused, by cause (promise N6).

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use telbuddy::access_log::{Entry, ReadAccess};
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Problem, Reply, Request, Route, answer};
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::quarantine::{ReadQuarantine, Record, Rotation, RouteKind};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/access-log", access: Access::Scope(Scope::AccountRead) },
    Route { method: "GET", path: "/v1/quarantine", access: Access::Scope(Scope::AccountRead) },
];

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
    W: KeepSessions + ReadAccess + ReadQuarantine + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.path {
            "/v1/quarantine" => quarantine(world, site, &request).await,
            _ => read(world, site, &request).await,
        }
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

/// Webhooks that were refused for one cause.
#[derive(Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the answer")]
pub struct QuarantineView {
    /// Why.
    #[schema(example = "signature_mismatch")]
    cause: &'static str,
    /// What to do.
    detail: &'static str,
    /// How many.
    count: u64,
    /// The first.
    #[schema(value_type = String, format = "date-time")]
    first_at: Timestamp,
    /// The last; what follows tells of it. 30 days after it the record ends.
    #[schema(value_type = String, format = "date-time")]
    last_at: Timestamp,
    /// Which webhook it was.
    route: RouteKind,
    /// Whether it had `X-Twilio-Signature`.
    signature_header: bool,
    /// Whether it had `X-Twilio-Webhooks-Signature-Settings`, which names a shared key.
    shared_key_header: bool,
    /// Since when the webhook secret was stored that it was checked with: connected or rotated then.
    #[schema(value_type = String, format = "date-time")]
    secret_since: Timestamp,
    /// How old that secret was.
    secret_age_seconds: i64,
    /// Whether it had taken the place of another one in the seven days before.
    recently_rotated: bool,
    /// Whether the one before still counted.
    rotation_window_open: bool,
    /// When you were told by mail; null if that is still to be.
    #[schema(value_type = Option<String>, format = "date-time")]
    alerted_at: Option<Timestamp>,
}

/// An account's quarantine.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Quarantine {
    /// One for each cause, the latest first; all of them.
    data: Vec<QuarantineView>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    next_cursor: (),
}

impl QuarantineView {
    fn of(record: &Record) -> Self {
        let facts = record.facts;
        Self {
            cause: record.cause.code(),
            detail: record.cause.advice(facts.rotation.is_recent()),
            count: record.count,
            first_at: record.first,
            last_at: record.last,
            route: facts.route,
            signature_header: facts.signature_header,
            shared_key_header: facts.shared_key_header,
            secret_since: facts.secret_since,
            secret_age_seconds: record.secret_age_secs(),
            recently_rotated: facts.rotation.is_recent(),
            rotation_window_open: facts.rotation == Rotation::WindowOpen,
            alerted_at: record.alerted,
        }
    }
}

/// Webhooks that were refused because their signature did not fit.
#[utoipa::path(get, path = "/v1/quarantine", tag = "credential", responses(
    (status = 200, description = "By cause, with what to do; nothing of what came is kept", body = Quarantine),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn quarantine<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadQuarantine + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let mut records = world.read_quarantine(account, request.now).await?;
    records.sort_by_key(|record| std::cmp::Reverse(record.last));
    let data = records.iter().map(QuarantineView::of).collect();
    Ok(Reply::json(StatusCode::OK, &Quarantine { data, next_cursor: () }))
}

#[derive(OpenApi)]
#[openapi(paths(read, quarantine))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
