//! /v1/webhook-endpoints: where a customer is told what happens, secrets, tests, what was delivered, and sending it
//! again.

mod deliveries;
mod view;

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use telbuddy::api_key::Scope;
use telbuddy::credential::{LoadKeys, OpenKey, data_key};
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::endpoint::{
    Choice, ContentData, Delivery, Disabled, Endpoint, EndpointUrl, Event, EventType, KeepDeliveries, KeepEndpoints,
    MOST_ENDPOINTS, MessageData, Reach, SigningSecret, WhyDisabled, replaced,
};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, EndpointId};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, CountTries, EnqueueJob};
use telbuddy::seal::Purpose;
use telbuddy::secret::ExposeSecret;
use telbuddy::session::{KeepSessions, Pass, Site, enter};
use utoipa::OpenApi;

use view::{DeliveryView, EndpointList, EndpointView, NewEndpoint, NewSecret};

const ENDPOINTS: &str = "/v1/webhook-endpoints";
const ENDPOINT: &str = "/v1/webhook-endpoints/{id}";
const SECRET: &str = "/v1/webhook-endpoints/{id}/secret";
const TEST: &str = "/v1/webhook-endpoints/{id}/test";
const RECOVER: &str = "/v1/webhook-endpoints/{id}/recover";
const DELIVERIES: &str = "/v1/webhook-endpoints/{id}/deliveries";
const DELIVERY: &str = "/v1/webhook-endpoints/{id}/deliveries/{delivery_id}";
const RESEND: &str = "/v1/webhook-endpoints/{id}/deliveries/{delivery_id}/resend";

const READ: Access = Access::Scope(Scope::WebhooksRead);
const WRITE: Access = Access::Scope(Scope::WebhooksWrite);
/// Also for having content sent somewhere: a key that may not read messages must not get at them by an endpoint.
const READ_CONTENT: Access = Access::Scope(Scope::MessagesRead);

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: ENDPOINTS, access: READ },
    Route { method: "POST", path: ENDPOINTS, access: WRITE },
    Route { method: "GET", path: ENDPOINT, access: READ },
    Route { method: "PATCH", path: ENDPOINT, access: WRITE },
    Route { method: "DELETE", path: ENDPOINT, access: WRITE },
    Route { method: "POST", path: SECRET, access: WRITE },
    Route { method: "POST", path: TEST, access: WRITE },
    Route { method: "POST", path: RECOVER, access: WRITE },
    Route { method: "GET", path: DELIVERIES, access: READ },
    Route { method: "GET", path: DELIVERY, access: READ },
    Route { method: "POST", path: RESEND, access: WRITE },
];

/// The services that it calls. It may open the purpose profile.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues];

/// Tests of an account in an hour: each makes us call an address that the customer chose.
const TESTS_PER_HOUR: u32 = 60;
/// Events that an account has resent one by one in an hour.
const RESENDS_PER_HOUR: u32 = 600;
const HOUR_SECS: u32 = 3_600;
/// How often a change is tried again because somebody else changed the endpoint meanwhile.
const TRIES: u32 = 5;
/// Characters of a description.
const MOST_DESCRIPTION: usize = 100;

/// A new endpoint.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateEndpoint {
    /// Where events are sent: https, on the public Internet, at most 1024 characters.
    #[schema(example = "https://example.com/webhooks/telbuddy")]
    url: String,
    /// Which events: types, or `["*"]` for all of them, those of later versions too.
    #[schema(example = json!(["message.delivered", "message.received"]))]
    events: Vec<String>,
    /// Whether events of messages have with them what the message says: text, numbers, media. To turn it on an API key
    /// needs the scope messages:read too.
    #[serde(default)]
    include_content: bool,
    /// What you call it; at most 100 characters.
    #[serde(default)]
    #[schema(example = "Orders")]
    description: String,
}

/// A change; what is left out stays as it is.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeEndpoint {
    /// Where events are sent.
    #[schema(example = "https://example.com/webhooks/telbuddy")]
    url: Option<String>,
    /// Which events.
    #[schema(example = json!(["*"]))]
    events: Option<Vec<String>>,
    /// Whether events of messages have with them what the message says. To turn it on, and to change the URL while it is
    /// on, an API key needs the scope messages:read too.
    include_content: Option<bool>,
    /// What you call it.
    description: Option<String>,
    /// False: nothing is sent there, and what happens meanwhile is not sent later. True ends that, whoever did it.
    enabled: Option<bool>,
}

/// Answers one request.
///
/// AWS calls, beside 1 read of the session or key and once a minute 1 write of its last call: listing and showing 1
/// read; making 1 transaction (the first one ever 2); changing 1 read and 1 transaction; removing 1 transaction; a new
/// secret as a change; a test 1 read, 1 counter, 1 write, 1 hint; deliveries 1 read; resending 2 reads, 1 counter, 1
/// write, 1 hint; recovering 2 reads, 1 write for each failed one and 1 hint for each ten. Making and a new secret also
/// cost 1 read and 1 KMS call with its entry in the access log once in five minutes.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + KeepEndpoints + KeepDeliveries + CountTries + OpenKey + LoadKeys + EnqueueJob + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        let pass = enter(world, site, &request, ROUTES).await?;
        let account = pass.caller().account;
        let id = segments.first().copied().unwrap_or_default();
        let delivery = segments.get(1).copied().unwrap_or_default();
        match (route.method, route.path) {
            ("GET", ENDPOINTS) => list(world, account).await,
            ("POST", ENDPOINTS) => create(world, site, &request, &pass).await,
            ("GET", ENDPOINT) => show(world, account, id).await,
            ("PATCH", ENDPOINT) => change(world, site, &request, &pass, id).await,
            ("DELETE", ENDPOINT) => remove(world, account, id).await,
            (_, SECRET) => rotate(world, &request, account, id).await,
            (_, TEST) => test(world, &request, account, id).await,
            (_, RECOVER) => deliveries::recover(world, &request, account, id).await,
            (_, DELIVERIES) => deliveries::list(world, &request, account, id).await,
            ("GET", _) => deliveries::show(world, account, id, delivery).await,
            _ => deliveries::resend(world, &request, account, id, delivery).await,
        }
    })
    .await
}

/// An endpoint by the id in the path.
async fn find<W: KeepEndpoints>(world: &W, account: AccountId, id: &str) -> Result<Endpoint, Problem> {
    let none = || Problem::not_found("there is no such endpoint; GET /v1/webhook-endpoints lists them");
    let id: EndpointId = id.parse().map_err(|_| none())?;
    world.load_endpoint(account, id).await?.ok_or_else(none)
}

/// The same, if anything is sent there.
async fn find_enabled<W: KeepEndpoints>(world: &W, account: AccountId, id: &str) -> Result<Endpoint, Problem> {
    let endpoint = find(world, account, id).await?;
    if endpoint.disabled.is_some() {
        let detail = format!("enable it first: PATCH /v1/webhook-endpoints/{id} {{\"enabled\": true}}");
        return Err(Problem::new(Kind::EndpointDisabled, detail));
    }
    Ok(endpoint)
}

/// List your webhook endpoints.
#[utoipa::path(get, path = "/v1/webhook-endpoints", tag = "webhooks", responses(
    (status = 200, description = "All of them, oldest first", body = EndpointList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn list<W: KeepEndpoints>(world: &W, account: AccountId) -> Result<Reply, Problem> {
    let data = world.list_endpoints(account).await?.iter().map(EndpointView::of).collect();
    Ok(Reply::json(StatusCode::OK, &EndpointList { data, next_cursor: () }))
}

/// Add a webhook endpoint. The secret that signs is in this answer and in no other one.
///
/// Each event is one POST with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature` of the Standard
/// Webhooks specification, for which there are verifiers in most languages. Answer 2xx within 15 seconds. What fails is
/// tried again for three days; an event may come more than once, with the same `webhook-id`. No event holds a text,
/// media or a number of the other party, unless `include_content` is true.
///
/// With `include_content`, `data` of each event of a message also has `content` and `content_missing`
/// (`EventMessageContent`), read live from Twilio at each try and stored nowhere, so that a later try may say something
/// else. While Twilio cannot be asked the event waits for its next try; the last one goes without. What is deleted at
/// Twilio, or cannot be read because Twilio refuses the credential, goes without at once and says why.
#[utoipa::path(post, path = "/v1/webhook-endpoints", tag = "webhooks", request_body = CreateEndpoint, responses(
    (status = 201, description = "Added", body = NewEndpoint),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site, or the API key may not read messages",
        body = telbuddy::edge::ProblemBody),
    (status = 409, description = "You have ten", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn create<W>(world: &W, site: &Site, request: &Request, pass: &Pass) -> Result<Reply, Problem>
where
    W: KeepEndpoints + OpenKey + LoadKeys + Chance + Sync,
{
    let ask: CreateEndpoint = request.json()?;
    let mut fields = Fields::default();
    let url = fields.take("url", EndpointUrl::parse(&ask.url, Reach::of(site)));
    let choice = choose(&mut fields, &ask.events);
    let description = describe(&mut fields, &ask.description);
    let Some(((url, choice), description)) = url.zip(choice).zip(description) else {
        return Err(fields.into_problem());
    };
    if ask.include_content {
        pass.check(READ_CONTENT)?;
    }
    let account = pass.caller().account;
    let (id, now) = (EndpointId::new(request.now, world.dice()?), request.now);
    let (secret, sealed) = new_secret(world, account, id).await?;
    let endpoint = Endpoint {
        account,
        id,
        url,
        choice,
        include_content: ask.include_content,
        description,
        secret: sealed,
        previous: Vec::new(),
        disabled: None,
        failing_since: None,
        revision: 0,
        created: now,
        updated: now,
    };
    if !world.create_endpoint(&endpoint).await? {
        let detail = format!("an account has at most {MOST_ENDPOINTS}: remove one you do not need");
        return Err(Problem::new(Kind::TooManyEndpoints, detail));
    }
    tracing::info!(account.id = %account, endpoint.id = %id, "endpoint {id} was added");
    let view = EndpointView::of(&endpoint);
    Ok(Reply::json(StatusCode::CREATED, &NewEndpoint { view, secret: secret.reveal().expose_secret().to_owned() }))
}

async fn new_secret<W>(
    world: &W,
    account: AccountId,
    id: EndpointId,
) -> Result<(SigningSecret, telbuddy::seal::Sealed), Fault>
where
    W: OpenKey + LoadKeys + Chance,
{
    let key = data_key(world, account, Purpose::Profile, None).await?;
    let secret = SigningSecret::new(world.random()?);
    let sealed = secret.seal(&key, id, world.random()?)?;
    Ok((secret, sealed))
}

/// The events that somebody asks for; none at all is no use.
fn choose(fields: &mut Fields, words: &[String]) -> Option<Choice> {
    if words.is_empty() {
        fields.add("events", "invalid", "give at least one type, or [\"*\"] for all".to_owned());
        return None;
    }
    let n_errors = words.iter().enumerate().filter(|(at, word)| {
        let unknown = EventType::parse(word).is_none() && !(words.len() == 1 && *word == "*");
        if unknown {
            let known: Vec<_> = EventType::CHOICES.iter().map(|kind| kind.as_str()).collect();
            let detail = format!("no such type; there are {}, and [\"*\"] alone for all of them", known.join(", "));
            fields.add(&format!("events[{at}]"), "unknown", detail);
        }
        unknown
    });
    if n_errors.count() > 0 { None } else { Choice::parse(words).ok() }
}

fn describe(fields: &mut Fields, text: &str) -> Option<String> {
    let text = text.trim();
    if text.chars().count() > MOST_DESCRIPTION || text.chars().any(char::is_control) {
        let detail = format!("write at most {MOST_DESCRIPTION} characters on one line");
        fields.add("description", "invalid", detail);
        return None;
    }
    Some(text.to_owned())
}

/// Show a webhook endpoint.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 200, description = "The endpoint, without its secret", body = EndpointView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody)))]
async fn show<W: KeepEndpoints>(world: &W, account: AccountId, id: &str) -> Result<Reply, Problem> {
    Ok(Reply::json(StatusCode::OK, &EndpointView::of(&find(world, account, id).await?)))
}

/// Change a webhook endpoint, disable it, or enable it again.
#[utoipa::path(patch, path = "/v1/webhook-endpoints/{id}", tag = "webhooks", request_body = ChangeEndpoint,
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 200, description = "As it is now", body = EndpointView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site, or the API key may not read messages",
        body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn change<W>(world: &W, site: &Site, request: &Request, pass: &Pass, id: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints,
{
    let ask: ChangeEndpoint = request.json()?;
    let mut fields = Fields::default();
    let url = ask.url.as_deref().and_then(|url| fields.take("url", EndpointUrl::parse(url, Reach::of(site))));
    let choice = ask.events.as_deref().and_then(|words| choose(&mut fields, words));
    let description = ask.description.as_deref().and_then(|text| describe(&mut fields, text));
    fields.done(())?;
    let changed = update(world, pass.caller().account, id, |endpoint| {
        let content = ask.include_content.unwrap_or(endpoint.include_content);
        if content && (ask.include_content.is_some() || url.is_some()) {
            pass.check(READ_CONTENT)?;
        }
        endpoint.include_content = content;
        endpoint.url = url.clone().unwrap_or_else(|| endpoint.url.clone());
        endpoint.choice = choice.clone().unwrap_or_else(|| endpoint.choice.clone());
        endpoint.description = description.clone().unwrap_or_else(|| endpoint.description.clone());
        endpoint.updated = request.now;
        match ask.enabled {
            Some(true) => (endpoint.disabled, endpoint.failing_since) = (None, None),
            Some(false) => {
                let disabled = Disabled { at: request.now, why: WhyDisabled::Customer, untold: false };
                endpoint.disabled.get_or_insert(disabled);
            }
            None => {}
        }
        Ok(())
    });
    Ok(Reply::json(StatusCode::OK, &EndpointView::of(&changed.await?)))
}

/// Reads, changes and writes; again if somebody else was quicker.
async fn update<W: KeepEndpoints>(
    world: &W,
    account: AccountId,
    id: &str,
    change: impl Fn(&mut Endpoint) -> Result<(), Problem>,
) -> Result<Endpoint, Problem> {
    for _ in 0..TRIES {
        let mut endpoint = find(world, account, id).await?;
        endpoint.revision += 1;
        change(&mut endpoint)?;
        if world.update_endpoint(&endpoint).await? {
            tracing::info!(account.id = %account, endpoint.id = %endpoint.id, "endpoint {} was changed", endpoint.id);
            return Ok(endpoint);
        }
    }
    Err(Fault::transient("others kept changing the same endpoint").into())
}

/// Remove a webhook endpoint. What is on its way there is not sent any more.
#[utoipa::path(delete, path = "/v1/webhook-endpoints/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 204, description = "Removed"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody)))]
async fn remove<W: KeepEndpoints>(world: &W, account: AccountId, id: &str) -> Result<Reply, Problem> {
    let none = || Problem::not_found("there is no such endpoint");
    let id: EndpointId = id.parse().map_err(|_| none())?;
    if !world.delete_endpoint(account, id).await? {
        return Err(none());
    }
    tracing::info!(account.id = %account, endpoint.id = %id, "endpoint {id} was removed");
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

/// Make a new secret. It is in this answer and in no other one; the one before signs beside it for 24 hours.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/secret", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 200, description = "The new secret", body = NewSecret),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Four secrets before it still sign", body = telbuddy::edge::ProblemBody)))]
async fn rotate<W>(world: &W, request: &Request, account: AccountId, id: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints + OpenKey + LoadKeys + Chance + Sync,
{
    let endpoint = find(world, account, id).await?;
    let (secret, sealed) = new_secret(world, account, endpoint.id).await?;
    let changed = update(world, account, id, |endpoint| {
        let previous = replaced(endpoint.secret.clone(), &endpoint.previous, request.now);
        endpoint.previous = previous.ok_or_else(|| {
            Problem::new(Kind::TooManyRequests, "four secrets before this one still sign; each does for 24 hours")
        })?;
        endpoint.secret = sealed.clone();
        endpoint.updated = request.now;
        Ok(())
    });
    let previous_valid_until = changed.await?.previous.last().map(|before| before.until);
    let secret = secret.reveal().expose_secret().to_owned();
    Ok(Reply::json(StatusCode::OK, &NewSecret { secret, previous_valid_until }))
}

/// Send a test event. It is tried once; `GET …/deliveries/{delivery_id}` shows what came of it.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/test", tag = "webhooks",
    params(("id" = String, Path, description = "whep_…")), responses(
    (status = 202, description = "On its way", body = DeliveryView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such endpoint", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "It is disabled", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Too many tests in this hour", body = telbuddy::edge::ProblemBody)))]
async fn test<W>(world: &W, request: &Request, account: AccountId, id: &str) -> Result<Reply, Problem>
where
    W: KeepEndpoints + KeepDeliveries + CountTries + EnqueueJob + Chance + Sync,
{
    let endpoint = find_enabled(world, account, id).await?;
    limit(world, "endpoint-test", account, TESTS_PER_HOUR, request.now).await?;
    let event = Event::test(endpoint.id, world.dice()?, request.now);
    let delivery = Delivery::new(account, endpoint.id, event, request.now);
    world.create_delivery(&delivery).await?;
    deliveries::wake(world, vec![delivery.job()]).await;
    Ok(Reply::json(StatusCode::ACCEPTED, &DeliveryView::of(&delivery)))
}

async fn limit<W: CountTries>(
    world: &W,
    what: &str,
    account: AccountId,
    most: u32,
    now: Timestamp,
) -> Result<(), Problem> {
    if world.count_try(&format!("{what}#{account}"), most, HOUR_SECS, now).await? {
        return Ok(());
    }
    Err(Problem::new(Kind::TooManyRequests, format!("at most {most} in an hour; wait a while")))
}

#[derive(OpenApi)]
#[openapi(
    paths(
        list,
        create,
        show,
        change,
        remove,
        rotate,
        test,
        deliveries::list,
        deliveries::show,
        deliveries::resend,
        deliveries::recover
    ),
    components(schemas(MessageData, ContentData))
)]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
