//! GET /v1/usage and /v1/usage/errors: what was used and what failed, by period.

use http::StatusCode;
use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Serialize;
use serde_json::Value;
use telbuddy::account::LoadGate;
use telbuddy::edge::{CSV, CsvTable, Fields, Problem, Query, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::{About, Change, Granularity, Group, Grouping, Pile, ReadUsage, UsageKind, UsageSums, Zone};
use telbuddy::message::Direction;
use telbuddy::message::advice::{Advice, AtFault, advice};
use telbuddy::number::Country;
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::IntoParams;

use crate::ROUTES;

/// Rows that are read from the store at once.
const READ: u16 = 1_000;
/// Reads after which a page ends before its limit.
const MOST_READS: u32 = 20;

/// What both routes take.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes what `Asked` reads")]
struct AskedParams {
    /// A day of the account's time zone as 2026-11-24, from its first moment on, or an RFC 3339 time; the last 30 days if
    /// left out. The whole period that it falls into is shown.
    from: Option<String>,
    /// A day of the account's time zone, up to its last moment, or an RFC 3339 time, included; now if left out. The whole
    /// period that it falls into is shown.
    to: Option<String>,
    /// hour: UTC hours; day, as if left out, and month: those of the account's time zone at the time of posting
    granularity: Option<Granularity>,
    /// JSON: 1 to 1000, 100 if left out; CSV: 1 to 10000, 10000 if left out. A page may be shorter
    limit: Option<u16>,
    /// `next_cursor` of the page before, with the same other parameters
    cursor: Option<String>,
}

const PARAMS: [&str; 5] = ["from", "to", "granularity", "limit", "cursor"];

/// What was used in one period.
#[derive(Serialize, utoipa::ToSchema)]
pub struct UsageRow {
    /// The period: a UTC hour as `2026-11-24T06`, or a day or month of the account's time zone as `2026-11-24` or
    /// `2026-11`.
    #[schema(example = "2026-11-24")]
    period: String,
    /// Kind of work; null: all kinds, if not grouped by it.
    kind: Option<UsageKind>,
    /// Which way; null: both, if not grouped by it.
    direction: Option<Direction>,
    /// The other party's country; null: not known, or all countries, if not grouped by it.
    #[schema(value_type = Option<String>, example = "US")]
    country: Option<Country>,
    /// Messages; of other kinds, legs of calls or replies.
    messages: i64,
    /// Segments; of other kinds, begun minutes or replies.
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
    /// The period in which the messages were accepted: a UTC hour as `2026-11-24T06`, or a day or month of the account's
    /// time zone as `2026-11-24` or `2026-11`.
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

impl From<(Group, UsageSums)> for UsageRow {
    fn from((group, sums): (Group, UsageSums)) -> Self {
        Self {
            period: group.period,
            kind: group.kind,
            direction: group.direction,
            country: group.country.flatten(),
            messages: sums.events,
            segments: sums.units,
            credits_micro: sums.credits,
        }
    }
}

impl From<(Group, UsageSums)> for ErrorRow {
    fn from((group, sums): (Group, UsageSums)) -> Self {
        let Advice { fault, advice, permanent } = group.error.map_or(NO_CODE, advice);
        Self {
            period: group.period,
            country: group.country.flatten(),
            messages: sums.events,
            error_code: group.error,
            fault,
            advice,
            permanent,
            error_url: group.error.map(|code| format!("https://www.twilio.com/docs/api/errors/{code}")),
        }
    }
}

/// What was used.
///
/// Rows by period, and in it by what `group_by` names; what it does not name is summed. Hours are UTC; days and months are
/// those of the account's time zone (`GET /v1/account`). After a change of the time zone, what was counted stays where it
/// is. New usage is counted within two minutes. As JSON or, with `Accept: text/csv`, as CSV with the same columns.
#[utoipa::path(get, path = "/v1/usage", tag = "usage",
    params(AskedParams, ("group_by" = Option<String>, Query,
        description = "Some of kind, direction and country with commas between them, or empty for one row of each period; \
                       all three if left out")),
    responses(
    (status = 200, description = "Earliest first; of CSV the header `link` has the address of the next page",
        content((UsageList = "application/json"), (String = "text/csv"))),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 406, description = "Neither JSON nor CSV is accepted", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
pub async fn usage<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let asked_as = As::of(request)?;
    let query = request.query(&[&PARAMS[..], &["group_by"]].concat())?;
    let grouping = query.get("group_by").map_or(Ok(Grouping::ALL), Grouping::parse);
    let grouping = grouping.map_err(|error| Problem::field("group_by", "invalid", error.to_string()))?;
    let asked = Asked::parse(&query, asked_as, &zone(world, account).await?, grouping, request.now)?;
    let (rows, next_cursor) = read(world, account, About::Usage, asked).await?;
    let data: Vec<_> = rows.into_iter().map(UsageRow::from).collect();
    match asked_as {
        As::Csv => Ok(table(&USAGE_COLUMNS, &data)?.into_reply(request, next_cursor.as_deref())),
        As::Json => Ok(Reply::json(StatusCode::OK, &UsageList { data, next_cursor })),
    }
}

/// What failed, by Twilio's error: refused at once, or sent and not delivered.
///
/// Hours are UTC; days and months are those of the account's time zone. New failures are counted within two minutes.
/// As JSON or, with `Accept: text/csv`, as CSV with the same columns.
#[utoipa::path(get, path = "/v1/usage/errors", tag = "usage", params(AskedParams),
    responses(
    (status = 200, description = "Earliest first; of CSV the header `link` has the address of the next page",
        content((ErrorList = "application/json"), (String = "text/csv"))),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 406, description = "Neither JSON nor CSV is accepted", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
pub async fn errors<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let asked_as = As::of(request)?;
    let query = request.query(&PARAMS)?;
    let asked = Asked::parse(&query, asked_as, &zone(world, account).await?, Grouping::ALL, request.now)?;
    let (rows, next_cursor) = read(world, account, About::Failures, asked).await?;
    let data: Vec<_> = rows.into_iter().map(ErrorRow::from).collect();
    match asked_as {
        As::Csv => Ok(table(&ERROR_COLUMNS, &data)?.into_reply(request, next_cursor.as_deref())),
        As::Json => Ok(Reply::json(StatusCode::OK, &ErrorList { data, next_cursor })),
    }
}

async fn zone<W: LoadGate>(world: &W, account: AccountId) -> Result<Zone, Fault> {
    Ok(world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?.zone)
}

/// How an answer is wanted.
#[derive(Clone, Copy)]
enum As {
    Json,
    Csv,
}

impl As {
    fn of(request: &Request) -> Result<Self, Problem> {
        Ok(if request.accepts(&["application/json", CSV])? == CSV { Self::Csv } else { Self::Json })
    }
}

/// The columns of CSV: the fields of [`UsageRow`].
const USAGE_COLUMNS: [&str; 7] = ["period", "kind", "direction", "country", "messages", "segments", "credits_micro"];

/// The columns of CSV: the fields of [`ErrorRow`].
const ERROR_COLUMNS: [&str; 8] =
    ["period", "country", "messages", "error_code", "fault", "advice", "permanent", "error_url"];

/// The rows as JSON has them, cell by cell; null is an empty one.
fn table<R: Serialize>(columns: &[&'static str], rows: &[R]) -> Result<CsvTable, Fault> {
    let mut table = CsvTable::new(columns.iter().copied());
    for row in rows {
        let row = serde_json::to_value(row).map_err(|_| Fault::permanent("a row did not serialize"))?;
        table.row(columns.iter().map(|column| match row.get(column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }));
    }
    Ok(table)
}

/// Which rows are asked for.
struct Asked {
    granularity: Granularity,
    /// The first period and the last.
    periods: (String, String),
    grouping: Grouping,
    limit: u16,
    /// The last row of the page before.
    after: Option<Group>,
}

impl Asked {
    fn parse(query: &Query, asked_as: As, zone: &Zone, grouping: Grouping, now: Timestamp) -> Result<Self, Problem> {
        let limit = match asked_as {
            As::Json => query.limit(100, 1_000)?,
            As::Csv => query.limit(10_000, 10_000)?,
        };
        let (granularity, periods) = range(query, zone, now)?;
        let wrong = || {
            Problem::field("cursor", "invalid", "give next_cursor of the page before, with the same other parameters")
        };
        let cursor = query.get("cursor").map(|text| Group::parse(text, grouping, granularity).ok_or_else(wrong));
        Ok(Self { granularity, periods, grouping, limit, after: cursor.transpose()? })
    }
}

fn range(query: &Query, zone: &Zone, now: Timestamp) -> Result<(Granularity, (String, String)), Problem> {
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
            fields.done((granularity, (granularity.period(from, zone), granularity.period(to, zone))))
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

type Rows = (Vec<(Group, UsageSums)>, Option<String>);

/// One page. What is put together is read from the beginning of the cursor's period, and until a later period begins.
async fn read<W: ReadUsage>(world: &W, account: AccountId, about: About, asked: Asked) -> Result<Rows, Fault> {
    let Asked { granularity, periods: (mut from, to), grouping, limit, after } = asked;
    let as_stored = grouping == Grouping::ALL;
    // The range may have moved on since the page before, if it was left out.
    let within = after.as_ref().filter(|after| after.period >= from);
    let mut place = within.filter(|_| as_stored).map(Group::text);
    if let Some(after) = within.filter(|_| !as_stored) {
        from.clone_from(&after.period);
    }
    if from > to || place.as_ref().is_some_and(|place| *place > format!("{to}$")) {
        return Ok((Vec::new(), None));
    }
    let mut pile = Pile::new(grouping, after.as_ref());
    let limit = usize::from(limit);
    let mut reads = 0;
    let all_read = loop {
        let wanted =
            if as_stored { u16::try_from(limit.saturating_sub(pile.whole())).unwrap_or(READ).min(READ) } else { READ };
        let page = world.read_usage(account, about, granularity, (&from, &to), place.as_deref(), wanted).await?;
        pile.put(page.rows);
        place = page.next;
        reads += 1;
        if place.is_none() || pile.whole() >= limit || (reads >= MOST_READS && pile.whole() > 0) {
            break place.is_none();
        }
    };
    Ok(pile.page(limit, all_read))
}
