//! GET /v1/credits/entries: the entries that a month's statement sums up, as JSON or CSV.

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use telbuddy::account::LoadGate;
use telbuddy::edge::{CSV, CsvTable, Problem, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::EntryId;
use telbuddy::ledger::export::{ExportedEntry, StatementState, state_of};
use telbuddy::ledger::{Book, ReadUsage, first_day, month_of};
use telbuddy::session::{KeepSessions, Site, caller};

use crate::ROUTES;
use crate::statements::{no_month, outside};

/// A page of entries.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EntryList {
    /// In the order of posting.
    data: Vec<ExportedEntry>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
    /// Whether more entries may come into this month.
    state: StatementState,
    /// When this was read. Of an open month, what was posted within the last minutes may be listed here before the
    /// statement counts it.
    #[schema(value_type = String, format = DateTime)]
    as_of: Timestamp,
}

/// The entries of a month.
#[utoipa::path(get, path = "/v1/credits/entries", tag = "usage",
    params(("month" = Option<String>, Query, description = "As 2026-11, by the account's clock; this one if left out"),
        ("limit" = Option<u16>, Query, description = "1 to 1000; 100 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "A page of entries; by `Accept: text/csv` as a table with a column for each book and \
        the next page in the header `link`", content((EntryList = "application/json"), (String = "text/csv"))),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Before the account or in the future", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
pub async fn entries<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["month", "limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let after = query.get("cursor").map(str::parse::<EntryId>).transpose();
    let after = after.map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the page before"))?;
    let zone = world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?.zone;
    let day = match query.get("month") {
        Some(month) => first_day(month).ok_or_else(no_month)?,
        None => zone.day(request.now).first_of_month(),
    };
    let found = world.list_entries(account, &month_of(day), after, limit).await?;
    if found.is_empty() && after.is_none() {
        outside(day, account, &zone, request.now).map_or(Ok(()), Err)?;
    }
    let full = found.len() == usize::from(limit);
    let next_cursor = found.last().filter(|_| full).map(|entry| entry.id.to_string());
    let data: Vec<ExportedEntry> = found.iter().map(ExportedEntry::from).collect();
    if request.prefers(&["application/json", CSV]) == CSV {
        return Ok(table(&data).into_reply(request, next_cursor.as_deref()));
    }
    let state = state_of(day, &zone, request.now);
    Ok(Reply::json(StatusCode::OK, &EntryList { data, next_cursor, state, as_of: request.now }))
}

/// One row for each entry.
fn table(entries: &[ExportedEntry]) -> CsvTable {
    let facts = ["id", "account_id", "occasion", "posted_at", "month"];
    let work = ["sid", "message_id", "kind", "direction", "format", "country", "units", "credits_micro"];
    let rest = ["price_version", "at", "day", "mark"];
    let books = Book::ALL.map(Book::as_str);
    let mut table = CsvTable::new([&facts[..], &books, &work, &rest].concat());
    for exported in entries {
        let entry = exported.entry();
        let mut row = vec![
            exported.id.to_string(),
            exported.account_id.to_string(),
            exported.occasion.word(),
            exported.posted_at.to_string(),
            exported.month.clone(),
        ];
        row.extend(Book::ALL.map(|book| {
            let there = entry.lines.iter().any(|line| line.book == book);
            if there { entry.on(book).0.to_string() } else { String::new() }
        }));
        match &exported.usage {
            Some(usage) => row.extend([
                usage.sid.clone(),
                usage.message_id.map(|message| message.to_string()).unwrap_or_default(),
                usage.kind.as_str().to_owned(),
                usage.direction.as_str().to_owned(),
                usage.format.as_str().to_owned(),
                usage.country.map(|country| country.to_string()).unwrap_or_default(),
                usage.units.to_string(),
                usage.credits_micro.0.to_string(),
                usage.price_version.clone(),
                usage.at.to_string(),
                usage.day.to_string(),
            ]),
            None => row.extend(vec![String::new(); work.len() + rest.len() - 1]),
        }
        row.push(exported.mark.clone());
        table.row(row);
    }
    table
}
