//! Twilio's webhooks: verifies the signature, queues the event, answers. Nothing unsigned gets in, nothing signed gets lost.

use http::StatusCode;
use telbuddy::alert::Alert;
use telbuddy::credential::{FindHook, FoundHook, HookSecret, OpenKey, Sid};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::MessageId;
use telbuddy::inbound::signature::{Params, Presented, Rejection, SigningKeys, Verified, as_signed, verified};
use telbuddy::inbound::{News, NotAnEvent, TwilioEvent, consent, message_sid, status_news};
use telbuddy::live::Need;
use telbuddy::message::{Format, number_hash};
use telbuddy::number::{Channel, parse_address};
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::quarantine::{Cause, Facts, Failure, QuarantineWebhook, RouteKind};
use telbuddy::seal::{DataKey, WrappedKeys};
use telbuddy::secret::{ExposeSecret, HookId};
use telbuddy::session::Site;

const MESSAGES: &str = "/hooks/twilio/{hook}/messages";
const STATUS: &str = "/hooks/twilio/{hook}/status/{message_id}";

/// Twilio's signature.
const SIGNATURE: &str = "x-twilio-signature";
/// Sent only when a shared key signs, and names it.
const SHARED_KEY: &str = "x-twilio-webhooks-signature-settings";

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: MESSAGES, access: Access::Open },
    Route { method: "POST", path: STATUS, access: Access::Open },
];

/// The services that it calls. It may open the purposes hook and match.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// Answers one webhook: path, size, signature, durable queue, answer, in this order.
///
/// AWS calls: 1 batch read, 1 queue message; once in five minutes and key 1 KMS call with its entry in the access log.
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
            Err(cause) => return Err(refuse(world, &request, &found, route, cause).await),
        };
        let (news, reply) = match route.path {
            STATUS => (status(segments.get(1).copied().unwrap_or_default(), params.get())?, no_content()),
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

/// Counts a failed check and tells the owner if that is news. The answer is the same whatever comes of it.
async fn refuse<W: QuarantineWebhook + EnqueueJob>(
    world: &W,
    request: &Request,
    found: &FoundHook,
    route: &Route,
    cause: Cause,
) -> Problem {
    let account = found.credential.account;
    let kind = if route.path == STATUS { RouteKind::Status } else { RouteKind::Messages };
    let headers = (request.header(SIGNATURE).is_some(), request.header(SHARED_KEY).is_some());
    let facts = Facts::of(&found.credential, kind, headers, request.now);
    let (id, code) = (request.id, cause.code());
    tracing::warn!(account.id = %account, request.id = %id, cause = code, ?facts, "a webhook is refused");
    if let Err(fault) = quarantine(world, &Failure { account, cause, at: request.now, facts }).await {
        tracing::error!(account.id = %account, request.id = %id, %fault, "a refused webhook was not recorded whole");
    }
    Problem::new(
        Kind::BadSignature,
        "the signature does not fit this address and the stored Auth Token: if the token was changed at Twilio, \
         connect the account again; GET /v1/quarantine says more",
    )
}

async fn quarantine<W: QuarantineWebhook + EnqueueJob>(world: &W, failure: &Failure) -> Result<(), Fault> {
    let Failure { account, cause, at, facts } = *failure;
    if !world.quarantine(failure).await?.is_news(at) {
        return Ok(());
    }
    let alert = Alert::SignatureFailed { cause, recently_rotated: facts.rotation.is_recent() };
    let told = world.enqueue(Job::Alert { account, alert, since: at }, 0).await;
    // Not told: the next failure tries again.
    world.note_alert(account, cause, told.is_ok().then_some(at)).await?;
    told
}

/// The parameters, once Twilio's signature over the exact public URL fits one of the account's secrets: the current one,
/// or in a rotation the one before. Why not, otherwise.
async fn check_signature<W: OpenKey>(
    world: &W,
    site: &Site,
    request: &Request,
    found: &FoundHook,
) -> Result<Result<Verified<Params>, Cause>, Problem> {
    let stored = &found.credential;
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    // From configuration and the raw path, never from Host: what a proxy does to the request must not count.
    let url = format!("{}{}{query}", as_signed(&site.origin), request.path);
    let presented = Presented {
        signature: request.header(SIGNATURE),
        shared_key_settings: request.header(SHARED_KEY),
        url: &url,
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
        let this = verified(&presented, &keys);
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
    Problem::new(Kind::InvalidInput, format!("{error}: this is not one of Twilio's message webhooks"))
}

/// A status callback; `None` if it says nothing new.
fn status(message: &str, params: &Params) -> Result<Option<News>, Problem> {
    let message: MessageId = message.parse().map_err(|_| unknown())?;
    match status_news(params, message) {
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
    let parameter = |name: &'static str| params.get(name).ok_or(malformed(NotAnEvent::Parameter(name)));
    let sid = message_sid(params).map_err(malformed)?;
    let from = parameter("From")?;
    let match_key = key(world, &found.match_keys, None).await?;
    let (other_hash, country) = match parse_address(from) {
        Some((Channel::Sms, number)) => (number_hash(&match_key, &number), number.country()),
        // WhatsApp and others: what somebody says there is not said about texts.
        Some((Channel::Whatsapp | Channel::Other, number)) => (match_key.keyed_hash("address", from), number.country()),
        // A short code or a name: no number, but still somebody.
        None => (match_key.keyed_hash("address", from), None),
    };
    let count = |name| params.get(name).and_then(|count| count.parse::<u32>().ok());
    Ok(News::Text {
        message: MessageId::new(request.now, world.dice()?),
        sid,
        own: own_address(parameter("To")?)?,
        service: params.get("MessagingServiceSid").filter(|sid| Sid::parse("MG", sid).is_ok()).map(str::to_owned),
        other_hash,
        country,
        format: if count("NumMedia").unwrap_or(0) > 0 { Format::Mms } else { Format::Sms },
        segments: count("NumSegments").unwrap_or(1).max(1),
        consent: consent(params.get("OptOutType"), params.get("Body").unwrap_or_default()),
    })
}

/// The customer's own number as sends name it; an address of another channel as Twilio names it.
fn own_address(to: &str) -> Result<String, Problem> {
    match parse_address(to) {
        Some((Channel::Sms, number)) => Ok(number.as_str().to_owned()),
        _ if to.len() <= MAX_ADDRESS_BYTES => Ok(to.to_owned()),
        _ => Err(malformed(NotAnEvent::Parameter("To"))),
    }
}

/// Longer than any address that Twilio has.
const MAX_ADDRESS_BYTES: usize = 128;

#[cfg(test)]
mod tests;
