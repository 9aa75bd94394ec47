//! The HTTP side: accepts connections until told to stop, and leads each request to its service.

use crate::calls::{Call, Calls, Service};
use crate::faults::{Dropped, Faults};
use crate::reply::{Refusal, Reply, reply};
use crate::sqs::Sqs;
use crate::store::{Store, new_uuid};
use crate::{kms, secrets, ses};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// More than any action takes: DynamoDB's 16 MiB.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// How long requests that are under way may take after a stop.
const GRACE: Duration = Duration::from_secs(5);

/// Learns that all is to stop: because it was said, or because nobody is left to say it.
#[derive(Clone)]
pub(crate) struct Stopped(pub watch::Receiver<bool>);

impl Stopped {
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stopped| *stopped).await; // `Err` when the sender is gone
    }
}

/// What answers the requests of a listener. `Err` closes the connection without an answer; axum has no way to do that,
/// which is why this is hyper.
pub(crate) trait Answer: Send + Sync + 'static {
    fn answer(&self, request: Request<Bytes>) -> impl Future<Output = Result<Reply, Dropped>> + Send;
}

/// Serves until `stopped`, then lets the requests under way finish.
pub(crate) async fn serve(listener: TcpListener, answer: Arc<impl Answer>, mut stopped: Stopped) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&answer), stopped.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = stopped.wait() => break,
        }
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, finished).await.is_err() {
        tracing::warn!("requests under way were cut off at the stop");
    }
}

async fn connection(stream: TcpStream, answer: Arc<impl Answer>, mut stopped: Stopped) {
    // Answers are small and awaited: waiting to fill a packet only costs time. When it fails it is only slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, Arc::clone(&answer)));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

async fn respond(request: Request<Incoming>, answer: Arc<impl Answer>) -> Result<Reply, Dropped> {
    let (head, body) = request.into_parts();
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => answer.answer(Request::from_parts(head, body.to_bytes())).await,
        Err(error) => {
            let refusal = Refusal::new("RequestEntityTooLarge", error.to_string());
            Ok(plain_reply(Refusal { status: 413, ..refusal }))
        }
    }
}

/// For requests of no known service: the JSON that most of them speak.
fn plain_reply(refusal: Refusal) -> Reply {
    reply(Service::Kms, Err(refusal), "")
}

/// Everything but DynamoDB, behind one port.
pub(crate) struct Endpoints {
    pub store: Arc<Store>,
    pub sqs: Arc<Sqs>,
    pub mail: PathBuf,
    pub calls: Arc<Calls>,
    pub done: Arc<Calls>,
    pub faults: Arc<Faults>,
}

impl Answer for Endpoints {
    async fn answer(&self, request: Request<Bytes>) -> Result<Reply, Dropped> {
        let request_id = new_uuid().unwrap_or_default();
        let call = match Call::of(&request) {
            Some(call) if call.service != Service::DynamoDb => call,
            _ => return Ok(plain_reply(Refusal::unknown_operation("this request"))),
        };
        self.calls.count(&call);
        // The signature is not verified, but a client that forgot to sign is to notice it here and not on AWS.
        if !request.headers().contains_key(header::AUTHORIZATION) {
            let refusal = Refusal::new("MissingAuthenticationTokenException", "Missing Authentication Token");
            return Ok(reply(call.service, Err(Refusal { status: 403, ..refusal }), &request_id));
        }
        let body = request.into_body();
        let work = async {
            let outcome = self.act(call.clone(), body.clone()).await;
            if outcome.is_ok() {
                self.done.count(&call);
            }
            reply(call.service, outcome, &request_id)
        };
        self.faults.around(&call, &body, work).await
    }
}

impl Endpoints {
    async fn act(&self, call: Call, body: Bytes) -> Result<Value, Refusal> {
        let store = Arc::clone(&self.store);
        let action = call.action;
        match call.service {
            Service::Kms => blocking(move || kms::answer(&store, &action, &body)).await,
            Service::SecretsManager => blocking(move || secrets::answer(&store, &action, &body)).await,
            Service::Sqs => Arc::clone(&self.sqs).answer(action, body).await,
            Service::Ses => {
                let mail = self.mail.clone();
                blocking(move || ses::send_email(&mail, &body)).await
            }
            Service::DynamoDb => Err(Refusal::unknown_operation(&action)),
        }
    }
}

/// Runs `work`, which may wait for the disk, where it does not hold up the other requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Refusal::internal(error.to_string())),
    }
}
