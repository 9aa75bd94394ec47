//! GET /v1/reconciliations: how what was charged compares with Twilio's lists, and a person's word on large differences.

use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use telbuddy::account::LoadGate;
use telbuddy::api_key::Scope;
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::AccountId;
use telbuddy::ledger::{Change, MicroCredits};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock};
use telbuddy::reconciliation::{
    CarrierUsage, Decision, Difference, KeepComparison, MOST_NAMED, PostCorrection, ReadCharges, ReadReports, Reason,
    Report, State, post_differences,
};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/reconciliations", access: Access::Scope(Scope::UsageRead) },
    Route { method: "GET", path: "/v1/reconciliations/{day}", access: Access::Scope(Scope::UsageRead) },
    Route { method: "POST", path: "/v1/reconciliations/{day}/decision", access: Access::Session },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// How often a decision is tried that another write comes between.
const TRIES: usize = 4;

/// How one day compares.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Reconciliation {
    /// The UTC day, by Twilio's time of sending.
    #[schema(value_type = String, format = Date, example = "2026-11-24")]
    day: Date,
    /// How it stands.
    state: State,
    /// Why it is `unknown`; it is tried again, for two weeks at least.
    reason: Option<Reason>,
    /// When it was looked at last.
    #[schema(value_type = String, format = DateTime)]
    looked_at: Timestamp,
    /// Messages of which both sides say the same.
    same: u64,
    /// Messages with other segments at Twilio.
    different: u64,
    /// Messages that were charged and that Twilio does not have, because they were deleted there, for instance.
    only_here: u64,
    /// Messages that only Twilio has: other software of the Twilio account's owner. They are not charged.
    only_at_twilio: u64,
    /// What the differences add to segments; below zero: Twilio lists fewer.
    segments_difference: i64,
    /// What they add to what was charged, in millionths of a credit.
    credits_difference_micro: Change,
    /// How much they move in all, up or down.
    credits_moved_micro: MicroCredits,
    /// Up to how much is posted without a person.
    limit_micro: MicroCredits,
    /// Differences that are posted as corrections.
    posted: u64,
    /// What a person decided.
    decision: Option<Decision>,
    /// What Twilio's usage records say of the day, foreign traffic included. Empty until both sides are gone through.
    twilio_usage: Vec<CarrierUsage>,
    /// Whether there is no more here than in the usage records; null if they do not say.
    within_twilio_usage: Option<bool>,
}

impl From<&Report> for Reconciliation {
    fn from(report: &Report) -> Self {
        let tallies = &report.tallies;
        Self {
            day: report.day,
            state: report.state,
            reason: report.reason,
            looked_at: report.looked,
            same: tallies.same,
            different: tallies.different,
            only_here: tallies.only_here,
            only_at_twilio: tallies.only_at_twilio,
            segments_difference: tallies.segments,
            credits_difference_micro: tallies.credits,
            credits_moved_micro: tallies.moved,
            limit_micro: tallies.limit(),
            posted: report.posted,
            decision: report.decision,
            twilio_usage: report.usage.clone(),
            within_twilio_usage: report.within_records(),
        }
    }
}

/// A page of days.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReconciliationList {
    /// Newest day first.
    data: Vec<Reconciliation>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// The messages of one class.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Named {
    /// The first 200 of Twilio's SIDs.
    sids: Vec<String>,
    /// How many there are besides.
    more: u64,
}

impl Named {
    fn of(sids: &[String], all: u64) -> Self {
        Self { sids: sids.to_vec(), more: rest(all, sids.len()) }
    }
}

/// The messages with other segments.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Differences {
    /// The first 200, by SID.
    data: Vec<Difference>,
    /// How many there are besides.
    more: u64,
}

fn rest(all: u64, shown: usize) -> u64 {
    all.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX))
}

/// One day with the SIDs of what differs.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ReconciliationDetail {
    /// How it stands.
    #[serde(flatten)]
    reconciliation: Reconciliation,
    /// Messages with other segments at Twilio.
    differences: Differences,
    /// Messages that Twilio does not have.
    only_here_sids: Named,
    /// Messages that only Twilio has.
    only_at_twilio_sids: Named,
}

/// What a person decides.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionBody {
    /// Post the corrections, or keep what was charged.
    decision: Decision,
}

/// Answers one request. AWS calls, beside the session's 1 read and once a minute 1 write: the list 1 read, a day 2; a
/// decision 1 read and 1 write, to post 1 write more, for each fifty differences 3 reads, and for each 1 transaction.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + ReadReports + ReadCharges + KeepComparison + PostCorrection + LoadGate + Clock + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, segments.as_slice()) {
            ("POST", [day, ..]) => decide(world, site, &request, day).await,
            (_, [day, ..]) => show(world, site, &request, day).await,
            (_, []) => list(world, site, &request).await,
        }
    })
    .await
}

/// List compared days.
///
/// Each UTC day is compared a day after its end, when Twilio's list and our postings have settled.
#[utoipa::path(get, path = "/v1/reconciliations", tag = "usage",
    params(("limit" = Option<u16>, Query, description = "1 to 100; 30 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Newest day first", body = ReconciliationList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn list<W: KeepSessions + ReadReports>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem> {
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(30, 100)?;
    let before = query.get("cursor").map(|cursor| parse_day(cursor).ok_or("give next_cursor of the page before"));
    let before = before.transpose().map_err(|detail| Problem::field("cursor", "invalid", detail))?;
    let mut reports = world.list_reports(account, before, limit + 1).await?;
    let more = reports.len() > usize::from(limit);
    reports.truncate(usize::from(limit));
    let next_cursor = reports.last().filter(|_| more).map(|last| last.day.to_string());
    let data = reports.iter().map(Reconciliation::from).collect();
    Ok(Reply::json(StatusCode::OK, &ReconciliationList { data, next_cursor }))
}

/// A day in its one spelling.
fn parse_day(text: &str) -> Option<Date> {
    text.parse::<Date>().ok().filter(|day| day.to_string() == text)
}

/// Show a compared day with the SIDs of what differs.
#[utoipa::path(get, path = "/v1/reconciliations/{day}", tag = "usage",
    params(("day" = String, Path, description = "The UTC day, as 2026-11-24")),
    responses(
    (status = 200, description = "How it compares", body = ReconciliationDetail),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "The day was not compared yet", body = telbuddy::edge::ProblemBody)))]
async fn show<W>(world: &W, site: &Site, request: &Request, day: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadReports,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let report = load(world, account, day).await?;
    Ok(Reply::json(StatusCode::OK, &detail(world, account, &report).await?))
}

async fn load<W: ReadReports>(world: &W, account: AccountId, day: &str) -> Result<Report, Problem> {
    let missing = || {
        Problem::not_found(
            "this day was not compared yet; GET /v1/reconciliations lists the days, written as 2026-11-24",
        )
    };
    world.load_report(account, parse_day(day).ok_or_else(missing)?).await?.ok_or_else(missing)
}

async fn detail<W: ReadReports>(
    world: &W,
    account: AccountId,
    report: &Report,
) -> Result<ReconciliationDetail, Problem> {
    let Report { day, attempt, tallies, .. } = report;
    let most = u16::try_from(MOST_NAMED).unwrap_or(u16::MAX);
    let data = if tallies.different == 0 {
        Vec::new()
    } else {
        world.list_differences(account, *day, *attempt, None, most).await?
    };
    let more = rest(tallies.different, data.len());
    Ok(ReconciliationDetail {
        reconciliation: report.into(),
        differences: Differences { data, more },
        only_here_sids: Named::of(&report.only_here, tallies.only_here),
        only_at_twilio_sids: Named::of(&report.only_at_twilio, tallies.only_at_twilio),
    })
}

/// Decide about a day whose differences are above the limit.
///
/// `post` posts what the segments in Twilio's list add or take off; `keep` leaves what was charged. What Twilio does not
/// have is not given back. The same decision again is fine, and goes on where an interrupted one ended.
#[utoipa::path(post, path = "/v1/reconciliations/{day}/decision", tag = "usage", request_body = DecisionBody,
    params(("day" = String, Path, description = "The UTC day, as 2026-11-24")),
    responses(
    (status = 200, description = "Decided, and all that it posts is posted", body = ReconciliationDetail),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "No API key may do this", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "The day was not compared yet", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "There is nothing to decide, or it was decided otherwise",
        body = telbuddy::edge::ProblemBody),
    (status = 422, description = "The decision does not fit", body = telbuddy::edge::ProblemBody)))]
async fn decide<W>(world: &W, site: &Site, request: &Request, day: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadReports + ReadCharges + KeepComparison + PostCorrection + LoadGate + Clock + Chance,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let DecisionBody { decision } = request.json()?;
    let mut decided = None;
    for _ in 0..TRIES {
        let report = load(world, account, day).await?;
        let next = report.decided(decision).ok_or_else(|| {
            Problem::new(Kind::NothingToDecide, "nothing waits for a decision on this day, or it was decided otherwise")
        })?;
        // First the decision, then what it posts: no other one can come between.
        if next == report || world.save_report(account, &next).await? {
            decided = Some(next);
            break;
        }
    }
    let busy = || Problem::new(Kind::Unavailable, "others keep deciding about this day: try again");
    let mut report = decided.ok_or_else(busy)?;
    if decision == Decision::Post && report.posted < report.tallies.different {
        let (mut posted, mut after) = (0, None);
        loop {
            let (n, last) = post_differences(world, account, &report, after.as_deref()).await?;
            posted += n;
            after = last;
            if after.is_none() {
                break;
            }
        }
        report = report.all_posted(posted);
        // Somebody else with the same decision may have noted it: it is the same.
        world.save_report(account, &report).await?;
        tracing::info!(account.id = %account, day, posted, "a person had a day's corrections posted");
    }
    Ok(Reply::json(StatusCode::OK, &detail(world, account, &report).await?))
}

#[derive(OpenApi)]
#[openapi(paths(list, show, decide))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
