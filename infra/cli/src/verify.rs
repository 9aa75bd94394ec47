//! Recomputes an export, and says what came out.

use std::fmt::Write;

use telbuddy::ledger::MicroCredits;
use telbuddy::ledger::export::{Export, Statement, StatementState, Verified, verify};

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whether all of it is as it is stated.
    pub fits: bool,
    /// Lines for people.
    pub text: String,
}

/// Recomputes an export from its text.
pub fn check(export: &[u8]) -> Checked {
    let export: Export = match serde_json::from_slice(export) {
        Ok(export) => export,
        Err(error) => return Checked { fits: false, text: format!("this does not read as an export: {error}\n") },
    };
    match verify(&export) {
        Ok(verified) => Checked { fits: true, text: report(&export.statement, &verified) },
        Err(findings) => {
            let mut text = String::new();
            for finding in &findings {
                let _ = writeln!(text, "{finding}");
            }
            let _ = writeln!(text, "{}", count(findings.len(), "finding"));
            Checked { fits: false, text }
        }
    }
}

fn report(statement: &Statement, verified: &Verified) -> String {
    let Statement { account_id, month, as_of, .. } = statement;
    let state = match statement.state {
        StatementState::Open => format!("open, as of {as_of}"),
        StatementState::Closed => "final".to_owned(),
    };
    let mut text = format!("{month} of {account_id}, {state}\n");
    let lines = [
        format!("{}, each balanced, once, and as its mark says", count(verified.entries, "entry")),
        format!("{} of work, each at the price of its list", count(verified.charges, "charge")),
        format!(
            "{} moved by what the entries sum to; opening and movement make the closing",
            count(verified.books, "book")
        ),
        format!("number and digest of the entries: {}, {}", statement.entries, statement.digest),
        format!("left: {} credits, owed: {}", credits(statement.credits_left_micro), credits(statement.owed_micro)),
    ];
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    if !verified.uncounted.is_empty() {
        let ids: Vec<String> = verified.uncounted.iter().map(ToString::to_string).collect();
        let uncounted = count(ids.len(), "entry");
        let _ = writeln!(text, "  not counted in the statement yet, and so not checked against it: {uncounted}");
        let _ = writeln!(text, "    {}", ids.join("\n    "));
    }
    text.push_str("all of it is as stated\n");
    text
}

fn count(n: usize, one: &str) -> String {
    match (n, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{n} {stem}ies"),
        (_, None) => format!("{n} {one}s"),
    }
}

fn credits(amount: MicroCredits) -> String {
    let text = format!("{}.{:06}", amount.0 / 1_000_000, amount.0 % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
