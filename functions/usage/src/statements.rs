//! GET /v1/statements/{month}: what the books had, what the month changed, and what they have, as JSON or as a page to
//! print.

use std::fmt::Write;

use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::Date;
use telbuddy::account::LoadGate;
use telbuddy::edge::{HTML, Problem, Reply, Request, escaped, html};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::export::{Statement, StatementState, statement as sum_up};
use telbuddy::ledger::{Book, ReadUsage, UsageKind, Zone, first_day, month_of};
use telbuddy::session::{KeepSessions, Site, caller};

use crate::ROUTES;

/// What is no month.
pub fn no_month() -> Problem {
    Problem::field("month", "invalid", "give a month as 2026-11")
}

/// Why a month in which nothing was posted has no statement: the account was not there, or it is yet to come.
pub fn outside(month: Date, account: AccountId, zone: &Zone, now: Timestamp) -> Option<Problem> {
    let (first, last) = (zone.month(account.made()), zone.month(now));
    let asked = month_of(month);
    if asked < first {
        return Some(Problem::not_found(format!("the account is there since {first}; it has no statement of {asked}")));
    }
    (asked > last).then(|| Problem::not_found(format!("{asked} has not begun; the newest statement is that of {last}")))
}

/// The statement of a month.
#[utoipa::path(get, path = "/v1/statements/{month}", tag = "usage",
    params(("month" = String, Path, description = "As 2026-11, by the account's time zone")),
    responses(
    (status = 200, description = "The statement; by `Accept: text/html` as a page to print. While its state is `open`, \
        entries of the last minutes may not be counted yet", content((Statement = "application/json"),
        (String = "text/html"))),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Before the account or in the future", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Not a month", body = telbuddy::edge::ProblemBody)))]
pub async fn statement<W>(world: &W, site: &Site, request: &Request, month: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + ReadUsage + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let day = first_day(month).ok_or_else(no_month)?;
    let zone = world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?.zone;
    let totals = world.load_totals(account).await?;
    if !totals.iter().any(|(there, _)| there == month) {
        outside(day, account, &zone, request.now).map_or(Ok(()), Err)?;
    }
    let statement = sum_up(account, day, &zone, &totals, request.now);
    if request.prefers(&["application/json", HTML]) == HTML {
        return Ok(page(&statement));
    }
    Ok(Reply::json(StatusCode::OK, &statement))
}

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:52rem;\
padding:0 1rem;color:#111}\
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}\
th,td{padding:.3rem .5rem;border-bottom:1px solid #ccc;text-align:left}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}tfoot td{font-weight:600}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:#555}dd{margin:0;overflow-wrap:anywhere}\
.note{border:1px solid #b60;padding:.5rem .8rem}\
@page{margin:18mm}@media print{body{margin:0;max-width:none;font-size:11px}\
h2,tr{break-inside:avoid;break-after:avoid}}";

/// The statement for people. Everything in it that varies is escaped.
fn page(statement: &Statement) -> Reply {
    let mut body = String::new();
    let Statement { month, account_id, time_zone, as_of, .. } = statement;
    let state = match statement.state {
        StatementState::Open => "open",
        StatementState::Closed => "final",
    };
    let mut facts = vec![
        ("Account", account_id.to_string()),
        ("Month", format!("{month}, by the clock of {}", time_zone.as_str())),
        ("State", format!("{state}, as of {as_of}")),
        ("Credits left", credits(i128::from(statement.credits_left_micro.0))),
        ("Credits owed", credits(i128::from(statement.owed_micro.0))),
        ("Entries", statement.entries.to_string()),
        ("Digest of the entries", statement.digest.clone()),
    ];
    for kind in UsageKind::ALL {
        let Some(units) = statement.used_units.get(&kind) else { continue };
        facts.push((name_of_units(kind), units.to_string()));
    }
    let _ = write!(body, "<h1>TelBuddy statement of {}</h1>", escaped(month));
    if let Some(note) = &statement.note {
        let _ = write!(body, "<p class=\"note\">{}</p>", escaped(note));
    }
    body.push_str("<dl>");
    for (name, fact) in facts {
        let _ = write!(body, "<dt>{}</dt><dd>{}</dd>", escaped(name), escaped(&fact));
    }
    body.push_str(
        "</dl><h2>Credits by book</h2><table><thead><tr><th>Book</th><th class=\"n\">Opening</th>\
        <th class=\"n\">Movement</th><th class=\"n\">Closing</th></tr></thead><tbody>",
    );
    let columns = [&statement.opening_micro, &statement.movements_micro, &statement.closing_micro];
    for book in Book::ALL.into_iter().filter(|book| columns.iter().any(|column| column.contains_key(book))) {
        let cells = columns.map(|column| column.get(&book).map_or(0, |amount| i128::from(amount.0)));
        row(&mut body, name_of(book), cells.map(credits));
    }
    body.push_str("</tbody><tfoot>");
    let sums = columns.map(|column| column.values().map(|amount| i128::from(amount.0)).sum());
    row(&mut body, "All books", sums.map(credits));
    body.push_str(
        "</tfoot></table><h2>Prices in credits</h2><table><thead><tr><th>From</th><th class=\"n\">SMS segment</th>\
        <th class=\"n\">MMS</th><th class=\"n\">Text received, segment</th><th class=\"n\">Call minute</th>\
        <th class=\"n\">Assistant's reply</th></tr></thead><tbody>",
    );
    for list in &statement.price_lists {
        let prices =
            [list.sms_segment_micro, list.mms_micro, list.inbound_micro, list.call_minute_micro, list.ai_reply_micro];
        row(&mut body, &list.version, prices.map(|price| credits(i128::from(price.0))));
    }
    body.push_str("</tbody></table><h2>Recompute it</h2><p>Every entry is at <code>GET /v1/credits/entries?month=");
    body.push_str(&escaped(month));
    body.push_str(
        "</code>. <code>telbuddy statement fetch</code> writes the statement with its entries into one file, and \
        <code>telbuddy statement verify</code> recomputes it. All books together are zero: each entry takes from one \
        what it gives to another.</p>",
    );
    html(&format!("TelBuddy statement of {month}"), STYLE, &body)
}

fn row<const N: usize>(body: &mut String, name: &str, cells: [String; N]) {
    let _ = write!(body, "<tr><td>{}</td>", escaped(name));
    for cell in cells {
        let _ = write!(body, "<td class=\"n\">{}</td>", escaped(&cell));
    }
    body.push_str("</tr>");
}

/// Millionths as credits, exactly: `-12.5`.
fn credits(micro: i128) -> String {
    let sign = if micro < 0 { "-" } else { "" };
    let (whole, rest) = (micro.unsigned_abs() / 1_000_000, micro.unsigned_abs() % 1_000_000);
    if rest == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{}", format!("{rest:06}").trim_end_matches('0'))
}

fn name_of(book: Book) -> &'static str {
    match book {
        Book::Included => "Included credits",
        Book::Purchased => "Purchased credits",
        Book::Clearing => "Used, not yet taken from credits",
        Book::Issued => "Given with the plan or the trial",
        Book::Sold => "Sold",
        Book::Billed => "Billed afterwards",
        Book::UsedMessageSegments => "Used for messages",
        Book::UsedCallMinutes => "Used for calls",
        Book::UsedAiReplies => "Used for the assistant",
        Book::Expired => "Ended unused",
        Book::Adjustments => "Put right",
        Book::Refunds => "Taken back with a payment",
    }
}

fn name_of_units(kind: UsageKind) -> &'static str {
    match kind {
        UsageKind::MessageSegments => "Segments of messages",
        UsageKind::FailedMessages => "Failed messages",
        UsageKind::CallMinutes => "Minutes of calls",
        UsageKind::AiReplies => "Replies of the assistant",
    }
}

#[cfg(test)]
mod tests;
