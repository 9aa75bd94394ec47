//! A table as CSV (RFC 4180), for answers that a spreadsheet opens.

use http::{HeaderName, StatusCode, header};

use super::{Reply, Request};

/// The content type.
pub const CSV: &str = "text/csv";

/// A table that grows by rows.
pub struct CsvTable(csv::Writer<Vec<u8>>);

impl CsvTable {
    /// With the names of its columns in the first line.
    pub fn new<'c>(names: impl IntoIterator<Item = &'c str>) -> Self {
        let mut table = Self(csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new()));
        table.row(names);
        table
    }

    /// One row more, with as many cells as there are names; another number is left out, which no caller of ours has.
    pub fn row<C: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| guarded(cell.as_ref())).collect();
        if let Err(error) = self.0.write_record(&cells) {
            tracing::error!(%error, "a row of a table does not fit");
        }
    }

    /// The answer. Where a page follows, the header `link` has its address (RFC 8288), which is `request`'s own with
    /// another cursor.
    pub fn into_reply(self, request: &Request, next_cursor: Option<&str>) -> Reply {
        let Some(text) = self.0.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()) else {
            return Reply::empty(StatusCode::INTERNAL_SERVER_ERROR);
        };
        let reply = Reply::text(StatusCode::OK, "text/csv; charset=utf-8; header=present", text)
            .with_header(header::VARY, "accept");
        match next_cursor {
            Some(cursor) => reply.with_header(HeaderName::from_static("link"), &next_link(request, cursor)),
            None => reply,
        }
    }
}

/// Spreadsheets run a cell that begins like a formula: such text gets an apostrophe. Numbers stay.
fn guarded(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<i128>().is_err();
    if formula { format!("'{cell}") } else { cell.to_owned() }
}

fn next_link(request: &Request, cursor: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(form_urlencoded::parse(request.query.as_bytes()).filter(|(name, _)| name != "cursor"));
    query.append_pair("cursor", cursor);
    format!("<{}?{}>; rel=\"next\"", request.path, query.finish())
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_a_formula_does_not_run() {
        let mut table = CsvTable::new(["a", "b"]);
        table.row(["1", "-5"]);
        table.row(["x, \"y\"", "=1+1"]);
        table.row(["line\nbreak", "-A1"]);
        let reply = table.into_reply(&request(""), None);
        assert_eq!(reply.body, "a,b\r\n1,-5\r\n\"x, \"\"y\"\"\",'=1+1\r\n\"line\nbreak\",'-A1\r\n");
        assert!(!reply.headers.contains_key("link"));
    }

    #[test]
    fn the_next_page_has_the_same_query_with_another_cursor() {
        let mut request = request("");
        request.query = "month=2026-11&cursor=old&limit=2".to_owned();
        let reply = CsvTable::new(["a"]).into_reply(&request, Some("2026-11-24#x"));
        assert_eq!(reply.headers["link"], "</v1/messages?month=2026-11&limit=2&cursor=2026-11-24%23x>; rel=\"next\"");
    }
}
