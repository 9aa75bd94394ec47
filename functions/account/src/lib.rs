//! GET and PATCH /v1/account: shows the account, changes its time zone; GET, POST and DELETE /v1/account/api-keys: lists
//! API keys, makes one, revokes one.

mod profile;

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::account::{LoadGate, SaveZone};
use telbuddy::api_key::{ApiKey, KEY_PREFIX, KeepApiKeys, KeyName, MOST_KEYS, Scope};
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::ApiKeyId;
use telbuddy::live::Need;
use telbuddy::platform::Chance;
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::session::{By, KeepSessions, Site, caller, not_signed_in};
use utoipa::OpenApi;

/// The routes of this function. No key makes, shows or revokes keys, or changes the account.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/account", access: Access::Scope(Scope::AccountRead) },
    Route { method: "PATCH", path: "/v1/account", access: Access::Session },
    Route { method: "GET", path: "/v1/account/api-keys", access: Access::Session },
    Route { method: "POST", path: "/v1/account/api-keys", access: Access::Session },
    Route { method: "DELETE", path: "/v1/account/api-keys/{id}", access: Access::Session },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables];

/// A key to make.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MakeApiKey {
    /// What you call it: 1 to 64 characters. It is stored in clear.
    #[schema(example = "Till 4", min_length = 1, max_length = 64)]
    name: String,
    /// What it may do: at least one, each once.
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// When it ends by itself; left out: never.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
}

/// A key, without its token.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ApiKeyView {
    /// Names it.
    #[schema(value_type = String, example = "key_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: ApiKeyId,
    /// What you call it.
    #[schema(example = "Till 4")]
    name: String,
    /// What it may do.
    scopes: Vec<Scope>,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// The last call, to the minute; null: none yet.
    #[schema(value_type = Option<String>, format = "date-time")]
    last_used_at: Option<Timestamp>,
    /// When it ends by itself; null: never.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
    /// Whether it is over. It stays here, and counts, until you delete it.
    expired: bool,
}

/// A new key with its token.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NewApiKey {
    /// The key as lists show it.
    #[serde(flatten)]
    view: ApiKeyView,
    /// Send it as `Authorization: Bearer …`. It is shown here and never again: only its hash is stored.
    #[schema(example = "tb_live_01KAV0Z8M1Q4T9W2X5Y7B3C6D8…", format = "password")]
    key: String,
}

/// An account's keys.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ApiKeyList {
    /// Newest first; all of them.
    data: Vec<ApiKeyView>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    next_cursor: (),
}

impl ApiKeyView {
    fn of(key: &ApiKey, now: Timestamp) -> Self {
        Self {
            id: key.id,
            name: key.name.as_str().to_owned(),
            scopes: key.scopes.clone(),
            created_at: key.created,
            last_used_at: key.used,
            expires_at: key.expires,
            expired: !key.alive(now),
        }
    }
}

/// Answers one request.
///
/// AWS calls: 1 read, once a minute 1 write of the session's last call; then to show the account 1 read, to change it 1
/// write; to list keys 1 query, to make one 1 transaction, to revoke one 1 query and 1 transaction.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + KeepApiKeys + LoadGate + SaveZone + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, segments.first()) {
            ("GET", None) if route.path == "/v1/account" => profile::show(world, site, &request).await,
            ("PATCH", _) => profile::change(world, site, &request).await,
            (_, Some(id)) => revoke(world, site, &request, id).await,
            ("POST", None) => make(world, site, &request).await,
            _ => list(world, site, &request).await,
        }
    })
    .await
}

/// List the account's API keys.
#[utoipa::path(get, path = "/v1/account/api-keys", tag = "account", responses(
    (status = 200, description = "Newest first", body = ApiKeyList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepApiKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let keys = world.list_api_keys(account).await?;
    let data = keys.iter().map(|key| ApiKeyView::of(key, request.now)).collect();
    Ok(Reply::json(StatusCode::OK, &ApiKeyList { data, next_cursor: () }))
}

/// Make an API key.
///
/// If the answer is lost, the key is in the list and nobody has its token: delete it and make another. There is no
/// `Idempotency-Key`, because a stored answer would be a stored token.
#[utoipa::path(post, path = "/v1/account/api-keys", tag = "account", request_body = MakeApiKey, responses(
    (status = 201, description = "Made; the only time that the key is shown", body = NewApiKey),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "The account has 20 keys", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn make<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepApiKeys + Chance + Sync,
{
    let caller = caller(world, site, request, ROUTES).await?;
    // The route lets users in only.
    let By::User(made_by) = caller.by else { return Err(not_signed_in(None)) };
    let (name, scopes, expires) = parse(request.json()?, request.now)?;
    let token = Token::new(caller.account, world.random()?);
    let key = ApiKey {
        id: ApiKeyId::new(request.now, world.dice()?),
        account: caller.account,
        hash: token.hash(),
        name,
        scopes,
        made_by,
        created: request.now,
        used: None,
        expires,
    };
    let view = ApiKeyView::of(&key, request.now);
    if !world.create_api_key(key).await? {
        let detail = format!("an account has at most {MOST_KEYS} API keys, expired ones included: delete one first");
        return Err(Problem::new(Kind::TooManyApiKeys, detail));
    }
    let (account, id) = (caller.account, view.id);
    tracing::info!(account.id = %account, api_key.id = %id, user.id = %made_by, "made {id}");
    let key = token.reveal(KEY_PREFIX).expose_secret().to_owned();
    Ok(Reply::json(StatusCode::CREATED, &NewApiKey { view, key }))
}

type Wanted = (KeyName, Vec<Scope>, Option<Timestamp>);

fn parse(ask: MakeApiKey, now: Timestamp) -> Result<Wanted, Problem> {
    let mut fields = Fields::default();
    let name = fields.take("name", KeyName::parse(&ask.name));
    let mut scopes = ask.scopes;
    let given = scopes.len();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        fields.add("scopes", "missing", format!("give at least one of: {known}"));
    } else if scopes.len() < given {
        fields.add("scopes", "repeated", "give each scope once".to_owned());
    }
    if ask.expires_at.is_some_and(|expires| expires <= now) {
        fields.add("expires_at", "past", "give a time that is still to come".to_owned());
    }
    match name {
        Some(name) => fields.done((name, scopes, ask.expires_at)),
        None => Err(fields.into_problem()),
    }
}

/// Revoke an API key, at once and for good.
#[utoipa::path(delete, path = "/v1/account/api-keys/{id}", tag = "account",
    params(("id" = String, Path, description = "From the list of keys")), responses(
    (status = 204, description = "It is gone"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such key", body = telbuddy::edge::ProblemBody)))]
async fn revoke<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepApiKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let missing = || Problem::not_found("there is no API key with this id; GET /v1/account/api-keys lists them");
    let id: ApiKeyId = id.parse().map_err(|_| missing())?;
    if !world.revoke_api_key(account, id).await? {
        return Err(missing());
    }
    tracing::info!(account.id = %account, api_key.id = %id, "revoked {id}");
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

#[derive(OpenApi)]
#[openapi(paths(profile::show, profile::change, list, make, revoke))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
