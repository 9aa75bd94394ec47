//! Fetches a statement with all of its entries.

use jiff::SignedDuration;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use telbuddy::ledger::export::{EXPORT_FORMAT, Export, ExportedEntry, Statement};

/// Entries of one page.
const PAGE: &str = "1000";

/// What is posted so long after the statement was read is surely not counted in it, and is left out.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address cannot be used.
    #[error("{0} is no address of the API: give one as https://api.example.com")]
    Address(String),
    /// The key would go over the network in clear.
    #[error("an API key goes over https only, or to this machine")]
    InClear,
    /// The key cannot be a header.
    #[error("TELBUDDY_API_KEY holds no API key")]
    Key,
    /// No answer.
    #[error("no answer from {path}: {error}")]
    Network {
        /// Of what.
        path: String,
        /// What happened.
        error: reqwest::Error,
    },
    /// The API refused.
    #[error("{path} answered {status}: {detail}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The status.
        status: u16,
        /// What the API says about it.
        detail: String,
    },
}

/// A page of GET /v1/credits/entries.
#[derive(Deserialize)]
struct Page {
    data: Vec<ExportedEntry>,
    next_cursor: Option<String>,
}

/// What the API says when it refuses.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// The statement of a month as JSON, and every entry of it. The statement is read first: so whatever it counts is listed
/// after it.
pub async fn fetch(base: &str, month: &str, key: &SecretString) -> Result<Export, FetchError> {
    let api = Api::new(base, key)?;
    let statement: Statement = api.get(&["v1", "statements", month], &[]).await?;
    let last = statement.as_of.checked_add(SLACK).unwrap_or(statement.as_of);
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut query = vec![("month", month), ("limit", PAGE)];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: Page = api.get(&["v1", "credits", "entries"], &query).await?;
        let late = page.data.last().is_some_and(|entry| entry.posted_at > last);
        entries.extend(page.data.into_iter().filter(|entry| entry.posted_at <= last));
        cursor = page.next_cursor.filter(|_| !late);
        if cursor.is_none() {
            return Ok(Export { format: EXPORT_FORMAT.to_owned(), statement, entries });
        }
    }
}

struct Api {
    http: Client,
    base: Url,
    authorization: HeaderValue,
}

impl Api {
    fn new(base: &str, key: &SecretString) -> Result<Self, FetchError> {
        let address = || FetchError::Address(base.to_owned());
        let url: Url = base.parse().map_err(|_| address())?;
        let host = url.host_str().ok_or_else(address)?;
        let here = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        if url.scheme() != "https" && !(url.scheme() == "http" && here) {
            return Err(FetchError::InClear);
        }
        let bearer = format!("Bearer {}", key.expose_secret().trim());
        let mut authorization = HeaderValue::from_str(&bearer).map_err(|_| FetchError::Key)?;
        authorization.set_sensitive(true);
        // A redirect would take the key elsewhere.
        let mut http = Client::builder().redirect(Policy::none());
        if here {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| FetchError::Network { path: base.to_owned(), error })?;
        Ok(Self { http, base: url, authorization })
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T, FetchError> {
        let mut url = self.base.clone();
        url.path_segments_mut().map_err(|()| FetchError::Address(self.base.to_string()))?.pop_if_empty().extend(path);
        let path = url.path().to_owned();
        let network = |error: reqwest::Error| FetchError::Network { path: path.clone(), error: error.without_url() };
        let request = self.http.get(url).query(query).header(AUTHORIZATION, self.authorization.clone());
        let answer = request.header(ACCEPT, "application/json").send().await.map_err(network)?;
        let status = answer.status();
        if status.is_success() {
            return answer.json().await.map_err(network);
        }
        let problem = answer.json::<Problem>().await;
        let detail = problem.map_or_else(|_| "this is not TelBuddy's API".to_owned(), |problem| problem.detail);
        Err(FetchError::Refused { path, status: status.as_u16(), detail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_over_https_or_to_this_machine_and_nowhere_else() {
        let allowed = |base: &str| Api::new(base, &"tbk_1".into()).is_ok();
        for base in ["https://api.example.com", "http://127.0.0.1:8787", "http://localhost:1/", "http://[::1]:1"] {
            assert!(allowed(base), "{base}");
        }
        for base in ["http://api.example.com", "http://localhost.example.com", "ftp://127.0.0.1", "api", ""] {
            assert!(!allowed(base), "{base}");
        }
        assert!(Api::new("https://api.example.com", &"tbk\n1".into()).is_err());
    }
}
