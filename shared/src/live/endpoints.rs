//! Calls customers' endpoints: the one client here that goes where somebody else says.
//!
//! A host that is an address is checked before the call. A name is looked up by the connector itself, at each new
//! connection, and it gets only those addresses that may be reached: there is no moment between check and use.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Response, header, redirect, retry};

use super::config::{Config, ConfigError, PUBLIC_URL};
use super::{Live, Need, not_asked_for};
use crate::endpoint::{Answer, CallEndpoint, EndpointUrl, Reach, Signed, Trouble};

/// What a call may take.
#[derive(Clone, Copy)]
struct Limits {
    connect: Duration,
    /// In all. HTTP 15 s < function 30 s < lease 60 s.
    total: Duration,
    /// Bytes of the answer's body that are read.
    bytes: usize,
}

const LIMITS: Limits = Limits { connect: Duration::from_secs(5), total: Duration::from_secs(15), bytes: 16 * 1024 };

pub(super) struct Endpoints {
    client: Option<Client>,
    reach: Reach,
    limits: Limits,
}

impl Endpoints {
    pub(super) fn new(config: &Config, wanted: bool) -> Result<Self, ConfigError> {
        let reach = Reach::of(&config.site()?);
        Self::with(reach, LIMITS, wanted).map_err(|_| ConfigError::Wrong(PUBLIC_URL, "no HTTP client can be built"))
    }

    fn with(reach: Reach, limits: Limits, wanted: bool) -> Result<Self, reqwest::Error> {
        let client = if wanted { Some(client(reach, limits)?) } else { None };
        Ok(Self { client, reach, limits })
    }

    async fn call(&self, client: &Client, url: &EndpointUrl, signed: &Signed) -> Answer {
        if !url.may_be_reached(self.reach) {
            return Answer::None(Trouble::AddressRefused);
        }
        let request = client
            .post(url.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", signed.event.to_string())
            .header("webhook-timestamp", signed.at.as_second())
            .header("webhook-signature", &signed.signature)
            .body(signed.body.clone());
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                Answer::Http { status, bytes: read(answer, self.limits.bytes).await }
            }
            Err(error) => Answer::None(trouble(&error)),
        }
    }
}

fn client(reach: Reach, limits: Limits) -> Result<Client, reqwest::Error> {
    Client::builder()
        .timeout(limits.total)
        .connect_timeout(limits.connect)
        // A connection that slept with a frozen environment may be dead.
        .pool_idle_timeout(Duration::from_secs(4))
        .http1_only()
        .https_only(reach == Reach::Public)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .no_proxy()
        .referer(false)
        .dns_resolver(PublicNames { reach })
        .user_agent(concat!("telbuddy-webhooks/", env!("CARGO_PKG_VERSION")))
        .tls_certs_only(super::tls::all_roots())
        .build()
}

/// Reads and forgets the body, up to a limit; how much there was. The status counts, whatever comes after it.
async fn read(mut answer: Response, most: usize) -> u32 {
    let mut bytes = 0;
    while bytes < most
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        bytes += chunk.len();
    }
    u32::try_from(bytes.min(most)).unwrap_or(u32::MAX)
}

fn trouble(error: &reqwest::Error) -> Trouble {
    let mut source: Option<&dyn Error> = error.source();
    while let Some(cause) = source {
        match cause.downcast_ref() {
            Some(NameError::Refused) => return Trouble::AddressRefused,
            Some(NameError::Unknown) => return Trouble::NameUnknown,
            None => source = cause.source(),
        }
    }
    if error.is_timeout() {
        Trouble::TimedOut
    } else if error.is_connect() {
        Trouble::NoConnection
    } else {
        Trouble::Broken
    }
}

/// Looks names up, and gives out only addresses that may be reached.
struct PublicNames {
    reach: Reach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum NameError {
    #[error("the name is not known")]
    Unknown,
    #[error("the name leads to no address of the public Internet")]
    Refused,
}

impl Resolve for PublicNames {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await.map_err(|_| NameError::Unknown)?;
            let allowed: Vec<SocketAddr> = found.filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(NameError::Refused.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

impl CallEndpoint for Live {
    async fn call_endpoint(&self, url: &EndpointUrl, signed: &Signed) -> Answer {
        let Some(client) = &self.endpoints.client else {
            tracing::error!(fault = %not_asked_for(Need::Endpoints), "no endpoint can be called");
            return Answer::None(Trouble::NoConnection);
        };
        self.endpoints.call(client, url, signed).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::EventId;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn signed() -> Signed {
        let body = r#"{"a":1}"#.to_owned();
        Signed { event: EventId::from_bits(1), at: jiff::Timestamp::UNIX_EPOCH, signature: "v1,x".to_owned(), body }
    }

    /// A server on this machine that answers each request with these bytes, and counts connections.
    async fn server(answer: Vec<u8>) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
                if answer.is_empty() {
                    tokio::time::sleep(Duration::from_mins(1)).await;
                }
            }
        });
        (format!("http://127.0.0.1:{port}/"), connections)
    }

    fn short() -> Limits {
        Limits { total: Duration::from_millis(300), ..LIMITS }
    }

    async fn call(url: &str, reach: Reach, limits: Limits) -> Answer {
        // Read as of the local system, as if the rules had been others when it was stored.
        let url = EndpointUrl::parse(url, Reach::Local).unwrap();
        let endpoints = Endpoints::with(reach, limits, true).unwrap();
        endpoints.call(endpoints.client.as_ref().unwrap(), &url, &signed()).await
    }

    #[tokio::test]
    async fn an_answer_is_its_status_and_what_was_read_of_it() {
        let (url, _) = server(b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\nok".to_vec()).await;
        assert_eq!(call(&url, Reach::Local, LIMITS).await, Answer::Http { status: 202, bytes: 2 });
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n".to_vec();
        answer.extend(std::iter::repeat_n(b'x', 1_000_000));
        let (url, _) = server(answer).await;
        assert_eq!(call(&url, Reach::Local, LIMITS).await, Answer::Http { status: 200, bytes: 16 * 1024 });
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let (other, connections) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {other}\r\ncontent-length: 0\r\n\r\n");
        let (url, _) = server(answer.into_bytes()).await;
        assert_eq!(call(&url, Reach::Local, LIMITS).await, Answer::Http { status: 307, bytes: 0 });
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_has_not_answered() {
        let (url, _) = server(Vec::new()).await;
        assert_eq!(call(&url, Reach::Local, short()).await, Answer::None(Trouble::TimedOut));
    }

    #[tokio::test]
    async fn nobody_listening_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
        drop(listener);
        assert_eq!(call(&url, Reach::Local, LIMITS).await, Answer::None(Trouble::NoConnection));
    }

    /// The name leads to this machine: it is looked up, and refused before a byte leaves.
    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_when_it_is_connected_to() {
        let (url, connections) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
        let endpoints = Endpoints::with(Reach::Public, LIMITS, true).unwrap();
        let port = url.trim_end_matches('/').rsplit(':').next().unwrap();
        let request = endpoints.client.as_ref().unwrap().post(format!("https://localhost:{port}/"));
        let error = request.send().await.unwrap_err();
        assert_eq!(trouble(&error), Trouble::AddressRefused, "{error:?}");
        let by_address = call(&url, Reach::Public, LIMITS).await;
        assert_eq!(by_address, Answer::None(Trouble::AddressRefused));
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_name_that_is_nobodys_is_not_known() {
        let answer = call("https://does-not-exist.invalid/", Reach::Public, LIMITS).await;
        assert_eq!(answer, Answer::None(Trouble::NameUnknown));
    }
}
