//! Sessions: log in, log out, who am I, list, revoke.

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::account::{Email, FindUser};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::SessionId;
use telbuddy::live::Need;
use telbuddy::platform::{Chance, CountTries, PlatformKeys};
use telbuddy::secret::{SecretString, Token};
use telbuddy::session::{KeepSessions, Pass, Session, Site, caller, count_password_try, enter, not_signed_in};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/sessions", access: Access::Open },
    Route { method: "GET", path: "/v1/sessions", access: Access::Session },
    Route { method: "GET", path: "/v1/sessions/current", access: Access::Session },
    Route { method: "DELETE", path: "/v1/sessions/current", access: Access::Session },
    Route { method: "DELETE", path: "/v1/sessions/{id}", access: Access::Session },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::PlatformSecret];

/// Who logs in.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The e-mail address.
    #[schema(example = "ann@example.com")]
    email: String,
    /// The password.
    #[schema(value_type = String, format = "password")]
    password: SecretString,
}

/// A session, without its token.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SessionView {
    /// Names it.
    #[schema(value_type = String, example = "ses_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: SessionId,
    /// The account.
    #[schema(value_type = String, example = "acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    account_id: telbuddy::ids::AccountId,
    /// The user.
    #[schema(value_type = String, example = "usr_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    user_id: telbuddy::ids::UserId,
    /// When the user logged in.
    #[schema(value_type = String, format = "date-time")]
    started_at: Timestamp,
    /// The last call, to the minute.
    #[schema(value_type = String, format = "date-time")]
    seen_at: Timestamp,
    /// When it ends if nothing more comes.
    #[schema(value_type = String, format = "date-time")]
    ends_at: Timestamp,
    /// Whether this is the session that asks.
    current: bool,
}

/// An account's sessions.
#[derive(Serialize, utoipa::ToSchema)]
pub struct SessionList {
    /// Newest first; all of them.
    data: Vec<SessionView>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    next_cursor: (),
}

impl SessionView {
    fn of(session: &Session, current: bool) -> Self {
        Self {
            id: session.id,
            account_id: session.account,
            user_id: session.user,
            started_at: session.started,
            seen_at: session.seen,
            ends_at: session.ends(),
            current,
        }
    }
}

/// Answers one request.
///
/// Log-in, AWS calls: 1 secret (first time), 3 counters, 2 reads, 1 write. Others: 1 read, once a minute 1 write
/// (the idle limit), and 1 query or delete.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: FindUser + KeepSessions + PlatformKeys + CountTries + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        match (route.method, route.path) {
            ("POST", _) => log_in(world, site, &request).await,
            ("GET", "/v1/sessions") => list(world, site, &request).await,
            ("GET", _) => current(world, site, &request).await,
            (_, "/v1/sessions/current") => log_out(world, site, &request).await,
            _ => revoke(world, site, &request, segments.first().copied().unwrap_or_default()).await,
        }
    })
    .await
}

/// Log in.
#[utoipa::path(post, path = "/v1/sessions", tag = "session", request_body = LogIn, responses(
    (status = 201, description = "Logged in; the cookie is set", body = SessionView),
    (status = 401, description = "The e-mail address or the password is wrong", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "The request came from another site", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Too many tries", body = telbuddy::edge::ProblemBody)))]
async fn log_in<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: FindUser + KeepSessions + PlatformKeys + CountTries + Chance + Sync,
{
    site.check_same_site(request)?;
    let ask: LogIn = request.json()?;
    let email = Email::parse(&ask.email).map_err(|error| Problem::field("email", "invalid", error.to_string()))?;
    let platform = world.platform().await?;
    let index = platform.email_index(&email);
    count_password_try(world, &platform, &index, request).await?;
    let user = world.find_user(&index).await?;
    let known = platform.peppers.matches(&ask.password, user.as_ref().map(|user| &user.password))?;
    let Some(user) = user.filter(|_| known) else {
        return Err(Problem::new(
            Kind::WrongCredentials,
            "check both; after signing up, open the link in the mail first",
        ));
    };
    // A new token at every log-in (ASVS 7.2.4).
    let token = Token::new(user.account, world.random()?);
    let session = Session {
        id: SessionId::new(request.now, world.dice()?),
        account: user.account,
        user: user.id,
        hash: token.hash(),
        started: request.now,
        seen: request.now,
    };
    let view = SessionView::of(&session, true);
    world.start_session(session).await?;
    Ok(Reply::json(StatusCode::CREATED, &view).with_cookie(site.cookie(&token)))
}

/// Who am I.
#[utoipa::path(get, path = "/v1/sessions/current", tag = "session", responses(
    (status = 200, description = "The session that asks", body = SessionView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn current<W: KeepSessions>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem> {
    Ok(Reply::json(StatusCode::OK, &SessionView::of(&asking(world, site, request).await?, true)))
}

/// The session that asks, let in.
async fn asking<W: KeepSessions>(world: &W, site: &Site, request: &Request) -> Result<Session, Problem> {
    match enter(world, site, request, ROUTES).await? {
        Pass::Session(session) => Ok(session),
        // Not on these routes.
        Pass::ApiKey(_) => Err(not_signed_in(None)),
    }
}

/// List the account's sessions.
#[utoipa::path(get, path = "/v1/sessions", tag = "session", responses(
    (status = 200, description = "Newest first", body = SessionList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn list<W: KeepSessions>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem> {
    let own = asking(world, site, request).await?;
    let sessions = world.list_sessions(own.account, request.now).await?;
    let data = sessions.iter().map(|session| SessionView::of(session, session.id == own.id)).collect();
    Ok(Reply::json(StatusCode::OK, &SessionList { data, next_cursor: () }))
}

/// Log out.
#[utoipa::path(delete, path = "/v1/sessions/current", tag = "session", responses(
    (status = 204, description = "Logged out"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn log_out<W: KeepSessions>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem> {
    let own = asking(world, site, request).await?;
    world.end_session(own.account, own.id).await?;
    Ok(Reply::empty(StatusCode::NO_CONTENT).with_cookie(site.no_cookie()))
}

/// Revoke a session.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "session",
    params(("id" = String, Path, description = "From the list of sessions")), responses(
    (status = 204, description = "It is over"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such session", body = telbuddy::edge::ProblemBody)))]
async fn revoke<W: KeepSessions>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem> {
    let caller = caller(world, site, request, ROUTES).await?;
    let missing = || Problem::not_found("there is no session with this id; GET /v1/sessions lists them");
    let id: SessionId = id.parse().map_err(|_| missing())?;
    if world.end_session(caller.account, id).await? {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    Err(missing())
}

#[derive(OpenApi)]
#[openapi(paths(log_in, current, list, log_out, revoke))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
