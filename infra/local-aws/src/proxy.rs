//! A hop in front of DynamoDB that counts calls and injects faults. It exists only when faults are on.

use crate::calls::{Call, Calls, Service};
use crate::faults::{Dropped, Faults};
use crate::reply::{Refusal, Reply, reply};
use crate::server::Answer;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;

type Upstream = SendRequest<Full<Bytes>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct Proxy {
    dynamodb: SocketAddr,
    idle: Mutex<Vec<Upstream>>,
    calls: Arc<Calls>,
    faults: Arc<Faults>,
}

impl Proxy {
    pub fn new(dynamodb: SocketAddr, calls: Arc<Calls>, faults: Arc<Faults>) -> Proxy {
        Proxy { dynamodb, idle: Mutex::default(), calls, faults }
    }

    async fn forward(&self, request: Request<Bytes>) -> Reply {
        self.try_forward(request).await.unwrap_or_else(|error| {
            let refusal = Refusal { code: "InternalServerError".into(), ..Refusal::internal(error.to_string()) };
            reply(Service::DynamoDb, Err(refusal), "proxy")
        })
    }

    async fn try_forward(&self, request: Request<Bytes>) -> Result<Reply, Failure> {
        let mut upstream = match self.take_idle() {
            Some(upstream) => upstream,
            None => self.connect().await?,
        };
        let (head, body) = upstream.send_request(request.map(Full::new)).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(upstream);
        Ok(Response::from_parts(head, Full::new(body)))
    }

    fn take_idle(&self) -> Option<Upstream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|upstream| !upstream.is_closed());
        idle.pop_if(|upstream| upstream.is_ready())
    }

    async fn connect(&self) -> Result<Upstream, Failure> {
        let stream = TcpStream::connect(self.dynamodb).await?;
        stream.set_nodelay(true)?;
        let (upstream, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(upstream)
    }
}

impl Answer for Proxy {
    async fn answer(&self, request: Request<Bytes>) -> Result<Reply, Dropped> {
        let Some(call) = Call::of(&request) else {
            return Ok(self.forward(request).await);
        };
        self.calls.count(&call);
        let body = request.body().clone();
        self.faults.around(&call, &body, self.forward(request)).await
    }
}
