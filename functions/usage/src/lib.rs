//! GET /v1/usage, /v1/usage/errors and /v1/credits: what was used, what failed and why, and what is left.

use http::StatusCode;
use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use telbuddy::account::LoadGate;
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Fields, Problem, Query, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ledger::{
    About, Change, Granularity, MicroCredits, ReadUsage, UsageKind, UsagePage, UsageSlot, UsageSums, Zone,
};
use telbuddy::live::Need;
use telbuddy::message::Direction;
use telbuddy::message::advice::{Advice, AtFault, advice};
use telbuddy::number::Country;
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/usage", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/usage/errors", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/credits", access: Access::Scope(Scope::UsageRead) },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// What was used in one period.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UsageRow {
    /// The period in UTC: `2026-11-24T06`, `2026-11-24` or `2026-11`.
    #[schema(example = "2026-11-24")]
    period: String,
    /// Kind of work.
    kind: UsageKind,
    /// Which way.
    direction: Direction,
    /// The other party's country.
    #[schema(value_type = Option<String>, example = "US")]
    country: Option<Country>,
    /// Messages.
    messages: i64,
    /// Segments.
    segments: i64,
    /// Their price, in millionths of a credit.
    credits_micro: Change,
}

/// A page of usage.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UsageList {
    /// Earliest first.
    data: Vec<UsageRow>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// What failed in one period, for one reason.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ErrorRow {
    /// The period in UTC in which the messages were accepted: `2026-11-24T06`, `2026-11-24` or `2026-11`.
    #[schema(example = "2026-11-24")]
    period: String,
    /// The recipients' country.
    #[schema(value_type = Option<String>, example = "US")]
    country: Option<Country>,
    /// Messages that failed.
    messages: i64,
    /// Twilio's error code; null if it gave none.
    #[schema(example = 30003)]
    error_code: Option<u32>,
    /// Who has to do something.
    fault: AtFault,
    /// What to do.
    #[schema(example = "the telephone was off or out of reach: try once more in an hour")]
    advice: &'static str,
    /// Whether the same messages would only fail again.
    permanent: bool,
    /// Twilio's page about the error.
    error_url: Option<String>,
}

/// A page of errors.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ErrorList {
    /// Earliest first.
    data: Vec<ErrorRow>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Of what failed without a code.
const NO_CODE: Advice = Advice {
    fault: AtFault::Unknown,
    advice: "Twilio gave no reason: look at the messages in the Twilio Console",
    permanent: true,
};

impl From<(UsageSlot, UsageSums)> for ErrorRow {
    fn from((slot, sums): (UsageSlot, UsageSums)) -> Self {
        let Advice { fault, advice, permanent } = slot.error.map_or(NO_CODE, advice);
        Self {
            period: slot.period,
            country: slot.country,
            messages: sums.events,
            error_code: slot.error,
            fault,
            advice,
            permanent,
            error_url: slot.error.map(|code| format!("https://www.twilio.com/docs/api/errors/{code}")),
        }
    }
}

/// What is left.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Credits {
    /// Free for new messages, in millionths of a credit.
    available_micro: MicroCredits,
    /// Reserved for messages on their way.
    held_micro: MicroCredits,
    /// Spent.
    used_micro: MicroCredits,
}

impl From<(UsageSlot, UsageSums)> for UsageRow {
    fn from((slot, sums): (UsageSlot, UsageSums)) -> Self {
        Self {
            period: slot.period,
            kind: slot.kind,
            direction: slot.direction,
            country: slot.country,
            messages: sums.events,
            segments: sums.units,
            credits_micro: sums.credits,
        }
    }
}

/// Answers one request. AWS calls: 2 reads, 3 for usage, once a minute 1 write of the caller's last call.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.path {
            "/v1/usage" => usage(world, site, &request).await,
            "/v1/usage/errors" => errors(world, site, &request).await,
            _ => credits(world, site, &request).await,
        }
    })
    .await
}

/// What was used.
#[utoipa::path(get, path = "/v1/usage", tag = "usage",
    params(("from" = Option<String>, Query, description = "First day, or RFC 3339 time; the last 30 days if left out"),
        ("to" = Option<String>, Query, description = "Last day, or RFC 3339 time, included; now if left out"),
        ("granularity" = Option<Granularity>, Query, description = "day if left out"),
        ("limit" = Option<u16>, Query, description = "1 to 1000; 100 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Rows by period; new usage is counted within two minutes", body = UsageList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn usage<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let page = read(world, site, request, About::Usage).await?;
    let data = page.rows.into_iter().map(UsageRow::from).collect();
    Ok(Reply::json(StatusCode::OK, &UsageList { data, next_cursor: page.next }))
}

/// What failed, by Twilio's error: refused at once, or sent and not delivered.
#[utoipa::path(get, path = "/v1/usage/errors", tag = "usage",
    params(("from" = Option<String>, Query, description = "First day, or RFC 3339 time; the last 30 days if left out"),
        ("to" = Option<String>, Query, description = "Last day, or RFC 3339 time, included; now if left out"),
        ("granularity" = Option<Granularity>, Query, description = "day if left out"),
        ("limit" = Option<u16>, Query, description = "1 to 1000; 100 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Rows by period; new failures are counted within two minutes", body = ErrorList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn errors<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let page = read(world, site, request, About::Failures).await?;
    let data = page.rows.into_iter().map(ErrorRow::from).collect();
    Ok(Reply::json(StatusCode::OK, &ErrorList { data, next_cursor: page.next }))
}

async fn read<W>(world: &W, site: &Site, request: &Request, about: About) -> Result<UsagePage, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["from", "to", "granularity", "limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let zone = world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?.zone;
    let (granularity, from, to) = range(&query, &zone, request.now)?;
    let cursor = query.get("cursor");
    // A cursor is the end of a row's key: outside the range it is nobody's.
    let within = |cursor: &str| {
        cursor.len() <= 100
            && cursor >= from.as_str()
            && cursor.starts_with(char::is_numeric)
            && cursor <= format!("{to}$").as_str()
    };
    if cursor.is_some_and(|cursor| !within(cursor)) {
        return Err(Problem::field("cursor", "invalid", "give next_cursor of the page before"));
    }
    Ok(world.read_usage(account, about, granularity, (&from, &to), cursor, limit).await?)
}

fn range(query: &Query, zone: &Zone, now: Timestamp) -> Result<(Granularity, String, String), Problem> {
    let mut fields = Fields::default();
    let word = query.get("granularity").unwrap_or("day");
    let granularity = Granularity::ALL.into_iter().find(|granularity| granularity.as_str() == word);
    let granularity = fields.take("granularity", granularity.ok_or("give hour, day or month"));
    let mut time = |name: &str, missing: Timestamp, ends_day: bool| match query.get(name) {
        None => Some(missing),
        Some(text) => {
            fields.take(name, parse_time(text, zone, ends_day).ok_or("give a day as 2026-11-24 or an RFC 3339 time"))
        }
    };
    let from = time("from", now - SignedDuration::from_hours(30 * 24), false);
    let to = time("to", now, true);
    match (granularity, from, to) {
        (Some(granularity), Some(from), Some(to)) if from <= to => {
            fields.done((granularity, granularity.period(from, zone), granularity.period(to, zone)))
        }
        (Some(_), Some(_), Some(_)) => Err(Problem::field("from", "invalid", "from has to be before to")),
        _ => Err(fields.into_problem()),
    }
}

/// A time, or a day of the account: its first moment or its last.
fn parse_time(text: &str, zone: &Zone, ends_day: bool) -> Option<Timestamp> {
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let day: Date = text.parse().ok()?;
    if ends_day { zone.end(day) } else { zone.start(day) }
}

/// What is left.
#[utoipa::path(get, path = "/v1/credits", tag = "usage", responses(
    (status = 200, description = "The account's credit", body = Credits),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn credits<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let allowance = world.load_allowance(account).await?.ok_or(Fault::permanent("the account has no allowance"))?;
    let credits =
        Credits { available_micro: allowance.available(), held_micro: allowance.held, used_micro: allowance.used };
    Ok(Reply::json(StatusCode::OK, &credits))
}

#[derive(OpenApi)]
#[openapi(paths(usage, errors, credits))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
