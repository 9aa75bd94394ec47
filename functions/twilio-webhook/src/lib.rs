//! Twilio's webhooks: verifies the signature, queues the event, answers. Nothing unsigned gets in, nothing signed gets lost.

use http::StatusCode;
use telbuddy::credential::{FindHook, FoundHook, HookSecret, OpenKey};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::{CallId, MessageId};
use telbuddy::inbound::signature::{
    Params, Presented, Rejection, SigningKeys, Verified, as_signed, verified_at_either,
};
use telbuddy::inbound::{Arrived, News, NotAnEvent, TwilioEvent, call_news, call_sid, status_news};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::quarantine::{Cause, Facts, Failure, QuarantineWebhook, RouteKind, count_and_tell};
use telbuddy::seal::{DataKey, WrappedKeys};
use telbuddy::secret::{ExposeSecret, HookId};
use telbuddy::session::Site;

const MESSAGES: &str = "/hooks/twilio/{hook}/messages";
const STATUS: &str = "/hooks/twilio/{hook}/status/{message_id}";
const VOICE: &str = "/hooks/twilio/{hook}/voice";
const CALLS: &str = "/hooks/twilio/{hook}/calls/{call_id}";
/// What `self-test` calls.
const SELF_TEST: &str = "/hooks/twilio/{hook}/self-test";

/// Twilio's signature.
const SIGNATURE: &str = "x-twilio-signature";
/// Sent only when a shared key signs, and names it.
const SHARED_KEY: &str = "x-twilio-webhooks-signature-settings";

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: MESSAGES, access: Access::Open },
    Route { method: "POST", path: STATUS, access: Access::Open },
    Route { method: "POST", path: VOICE, access: Access::Open },
    Route { method: "POST", path: CALLS, access: Access::Open },
    Route { method: "POST", path: SELF_TEST, access: Access::Open },
];

/// The services that it calls. It may open the purposes hook and match.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// Answers one webhook: path, size, signature, durable queue, answer, in this order.
///
/// A call that arrives is answered in words and ends: nothing follows from it until there is voice, so nothing is queued.
///
/// AWS calls: 1 batch read, 1 queue message (a call that arrives, our own test: none); once in five minutes and key 1 KMS call with its entry in the access log.
/// A path that cannot be a hook costs none, an unknown one the read only. A signature that does not fit costs 1 read
/// and 1 update of the quarantine; if the owner is told of it, 1 queue message and 1 update more.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: FindHook + OpenKey + QuarantineWebhook + EnqueueJob + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        let hook = segments.first().and_then(|text| HookId::parse(text)).ok_or_else(unknown)?;
        request.check_size()?;
        let found = world.find_hook(&hook).await?.ok_or_else(unknown)?;
        let params = match check_signature(world, site, &request, &found).await? {
            Ok(params) => params,
            // Nothing follows from this path; that it was not believed is said by who called it.
            Err(_) if route.path == SELF_TEST => return Err(bad_signature()),
            Err(cause) => return Err(refuse(world, &request, &found, route, cause).await),
        };
        let (news, reply) = match route.path {
            STATUS => (status(segments.get(1).copied().unwrap_or_default(), params.get())?, no_content()),
            CALLS => (call(segments.get(1).copied().unwrap_or_default(), params.get())?, no_content()),
            SELF_TEST => (None, no_content()),
            VOICE => {
                let sid = call_sid(params.get()).map_err(malformed)?;
                tracing::info!(account.id = %found.credential.account, %sid, "a call arrives and is answered in words");
                (None, no_voice())
            }
            _ => (Some(text(world, &request, &found, params.get()).await?), no_reply()),
        };
        if let Some(news) = news {
            let event = TwilioEvent { account: found.credential.account, at: request.now, news };
            // Only what the queue has taken is acknowledged.
            world.enqueue(Job::Twilio(event), 0).await?;
        }
        Ok(reply)
    })
    .await
}

fn unknown() -> Problem {
    Problem::not_found("no account has this webhook; copy the address from GET /v1/credentials/twilio")
}

fn no_content() -> Reply {
    Reply::empty(StatusCode::NO_CONTENT)
}

/// TwiML that answers nothing.
fn no_reply() -> Reply {
    Reply::text(StatusCode::OK, "text/xml", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>".to_owned())
}

/// TwiML for whoever calls a number that takes texts only. It is the same for every call.
fn no_voice() -> Reply {
    let twiml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Say language=\"en-US\">Thank you for calling. This \
                 number does not take calls. Please send a text message instead. Goodbye.</Say><Hangup/></Response>";
    Reply::text(StatusCode::OK, "text/xml", twiml.to_owned())
}

/// Counts a failed check and tells the owner if that is news. The answer is the same whatever comes of it.
async fn refuse<W: QuarantineWebhook + EnqueueJob>(
    world: &W,
    request: &Request,
    found: &FoundHook,
    route: &Route,
    cause: Cause,
) -> Problem {
    let account = found.credential.account;
    let kind = match route.path {
        STATUS => RouteKind::Status,
        VOICE => RouteKind::Voice,
        CALLS => RouteKind::Calls,
        _ => RouteKind::Messages,
    };
    let headers = (request.header(SIGNATURE).is_some(), request.header(SHARED_KEY).is_some());
    let facts = Facts::of(&found.credential, kind, headers, request.now);
    let (id, code) = (request.id, cause.code());
    tracing::warn!(account.id = %account, request.id = %id, cause = code, ?facts, "a webhook is refused");
    if let Err(fault) = count_and_tell(world, &Failure { account, cause, at: request.now, facts }).await {
        tracing::error!(account.id = %account, request.id = %id, %fault, "a refused webhook was not recorded whole");
    }
    bad_signature()
}

fn bad_signature() -> Problem {
    Problem::new(
        Kind::BadSignature,
        "the signature does not fit this address and the stored Auth Token: if the token was changed at Twilio, \
         connect the account again; GET /v1/quarantine says more",
    )
}

/// The parameters, once Twilio's signature over the exact public URL, or that of the second host, fits one of the
/// account's secrets: the current one, or in a rotation the one before. Why not, otherwise.
async fn check_signature<W: OpenKey>(
    world: &W,
    site: &Site,
    request: &Request,
    found: &FoundHook,
) -> Result<Result<Verified<Params>, Cause>, Problem> {
    let stored = &found.credential;
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    // From configuration and the raw path, never from Host: what a proxy does to the request must not count.
    let url = |origin: &str| format!("{}{}{query}", as_signed(origin), request.path);
    let (first, second) = (url(&site.origin), site.fallback.as_deref().map(url));
    let presented = Presented {
        signature: request.header(SIGNATURE),
        shared_key_settings: request.header(SHARED_KEY),
        url: &first,
        content_type: request.header(http::header::CONTENT_TYPE),
        body: &request.body,
    };
    let mut fits = None;
    for sealed in stored.verifiers(request.now) {
        let key = key(world, &found.hook_keys, Some(sealed.key_version().map_err(Fault::from)?)).await?;
        let secret = HookSecret::open(sealed, &key)?;
        let keys = match &secret {
            HookSecret::AuthToken(token) => SigningKeys { auth_tokens: &[token.expose_secret()], shared_key: None },
            HookSecret::SharedKey(id, secret) => {
                SigningKeys { auth_tokens: &[], shared_key: Some((id, secret.expose_secret())) }
            }
        };
        let this = verified_at_either(&presented, second.as_deref(), &keys);
        fits = Some(match fits {
            None => this,
            Some(Ok(params)) => Ok(params),
            // What the current secret says is what is told.
            Some(Err(first)) => this.map_err(|_| first),
        });
    }
    Ok(match fits.unwrap_or(Err(Rejection::NoKey)) {
        Err(rejection) => Err(Cause::Rejected(rejection)),
        Ok(params) if params.get().get("AccountSid") != Some(stored.account_sid.as_str()) => Err(Cause::OtherAccount),
        Ok(params) => Ok(params),
    })
}

async fn key<W: OpenKey>(world: &W, keys: &WrappedKeys, version: Option<u32>) -> Result<DataKey, Fault> {
    match world.remembered_key(keys.account, keys.purpose, version) {
        Some(key) => Ok(key),
        None => world.open_key(keys, version).await,
    }
}

fn malformed(error: NotAnEvent) -> Problem {
    Problem::new(Kind::InvalidInput, format!("{error}: this is not one of Twilio's webhooks"))
}

/// A status callback; `None` if it says nothing new.
fn status(message: &str, params: &Params) -> Result<Option<News>, Problem> {
    let message: MessageId = message.parse().map_err(|_| unknown())?;
    news(status_news(params, message))
}

/// A call's status callback; `None` if it says nothing new.
fn call(call: &str, params: &Params) -> Result<Option<News>, Problem> {
    let call: CallId = call.parse().map_err(|_| unknown())?;
    news(call_news(params, call))
}

fn news(read: Result<News, NotAnEvent>) -> Result<Option<News>, Problem> {
    match read {
        Ok(news) => Ok(Some(news)),
        Err(NotAnEvent::NothingNew) => Ok(None),
        Err(error @ NotAnEvent::Parameter(_)) => Err(malformed(error)),
    }
}

/// A text that arrived: its body and its sender's number stay at Twilio.
async fn text<W>(world: &W, request: &Request, found: &FoundHook, params: &Params) -> Result<News, Problem>
where
    W: OpenKey + Chance,
{
    let arrived = Arrived::told(params).map_err(malformed)?;
    let match_key = key(world, &found.match_keys, None).await?;
    Ok(arrived.news(MessageId::new(request.now, world.dice()?), &match_key))
}

#[cfg(test)]
mod tests;
