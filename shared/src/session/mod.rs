//! Sessions: who is calling, and how a browser proves it (promise N12).

mod port;

use http::{Method, header};
use jiff::{SignedDuration, Timestamp};

use crate::account::EmailIndex;
use crate::api_key::{ApiKey, KEY_PREFIX};
use crate::edge::{Access, Kind, Problem, Request, Route};
use crate::fault::Fault;
use crate::ids::{AccountId, ApiKeyId, SessionId, UserId};
use crate::platform::{CountTries, Platform};
use crate::secret::{ExposeSecret, Token, TokenHash};

pub use port::*;

/// Prefix of a session token.
pub const TOKEN_PREFIX: &str = "tbs_";
/// A session ends this long after log-in, whatever happens (ASVS 7.3.2).
pub const ABSOLUTE_LIFE: SignedDuration = SignedDuration::from_hours(12);
/// A session ends after this long without a call (ASVS 7.3.1).
pub const IDLE_LIFE: SignedDuration = SignedDuration::from_mins(30);
/// The last call is written down at most this often.
pub const TOUCH_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// A session as stored; the token is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Shown in lists.
    pub id: SessionId,
    /// The account.
    pub account: AccountId,
    /// The user.
    pub user: UserId,
    /// Hash of the token.
    pub hash: TokenHash,
    /// When the user logged in.
    pub started: Timestamp,
    /// The last call, to the minute.
    pub seen: Timestamp,
}

impl Session {
    /// What a request with its cookie shows.
    pub fn proof(&self) -> Proof {
        Proof { account: self.account, way: Way::Session, hash: self.hash.clone() }
    }

    /// When the session ends if nothing more comes.
    pub fn ends(&self) -> Timestamp {
        (self.started + ABSOLUTE_LIFE).min(self.seen + IDLE_LIFE)
    }

    /// Whether it still counts. Code checks: DynamoDB removes expired rows up to two days late.
    pub fn alive(&self, now: Timestamp) -> bool {
        now < self.ends()
    }

    /// Whether the last call should be written down now.
    pub fn wants_touch(&self, now: Timestamp) -> bool {
        now >= self.seen + TOUCH_EVERY
    }
}

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account: AccountId,
    /// Who in it, and how they came in.
    pub by: By,
}

/// Who acts: a person with a session, or a program with an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The user, by the cookie of a session.
    User(UserId),
    /// The API key.
    Key(ApiKeyId),
}

impl By {
    /// As it is stored.
    pub fn to_text(self) -> String {
        match self {
            Self::User(user) => format!("user {user}"),
            Self::Key(key) => format!("key {key}"),
        }
    }

    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ')? {
            ("user", id) => id.parse().ok().map(Self::User),
            ("key", id) => id.parse().ok().map(Self::Key),
            _ => None,
        }
    }
}

/// What a request shows to be let in. It has the hash only; the store knows whether it is anyone's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The account that the token claims.
    pub account: AccountId,
    /// What kind of token it is.
    pub way: Way,
    /// Its hash.
    pub hash: TokenHash,
}

/// The two ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The cookie of a session.
    Session,
    /// `Authorization: Bearer` with an API key.
    ApiKey,
}

/// What the store has for a [`Proof`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pass {
    /// A session, ended or not.
    Session(Session),
    /// An API key, expired or not.
    ApiKey(ApiKey),
}

impl Pass {
    /// Who it lets in.
    pub fn caller(&self) -> Caller {
        match self {
            Self::Session(session) => Caller { account: session.account, by: By::User(session.user) },
            Self::ApiKey(key) => Caller { account: key.account, by: By::Key(key.id) },
        }
    }

    fn alive(&self, now: Timestamp) -> bool {
        match self {
            Self::Session(session) => session.alive(now),
            Self::ApiKey(key) => key.alive(now),
        }
    }

    /// Whether it opens a route; a session opens each.
    pub fn check(&self, access: Access) -> Result<(), Problem> {
        let Self::ApiKey(key) = self else { return Ok(()) };
        match access {
            Access::Scope(scope) if key.may(scope) => Ok(()),
            Access::Scope(scope) => {
                let scope = scope.as_str();
                let detail = format!("the API key lacks the scope {scope}: make one that has it, and use that");
                Err(Problem::new(Kind::ScopeMissing, detail))
            }
            Access::Session | Access::Open => Err(Problem::new(
                Kind::SessionNeeded,
                "log in with POST /v1/sessions and call this with the cookie that it sets",
            )),
        }
    }
}

/// How the site is reached: decides the cookie's name and flags and what counts as the same site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The public origin, such as `https://api.example.com`, without a slash at the end.
    pub origin: String,
    /// The origin of a second host, if there is one: Twilio goes there with a webhook that the first host failed.
    pub fallback: Option<String>,
    /// Where links in mails lead: the frontend's origin.
    pub app: String,
    /// Further origins whose pages may call with a cookie.
    pub allowed_origins: Vec<String>,
}

impl Site {
    /// Where Twilio reaches our webhooks: at the public origin, and at that of a second host if there is one.
    pub fn hook_origins(&self) -> impl Iterator<Item = &str> {
        [Some(&self.origin), self.fallback.as_ref()].into_iter().flatten().map(String::as_str)
    }

    fn secure(&self) -> bool {
        self.origin.starts_with("https://")
    }

    /// The cookie's name: with `__Host-` a browser keeps it to this host, over TLS only (RFC 6265bis 4.1.3.2). A plain
    /// http origin (the local system) cannot use the prefix.
    pub fn cookie_name(&self) -> &'static str {
        if self.secure() { "__Host-telbuddy_session" } else { "telbuddy_session" }
    }

    /// The line that sets the cookie.
    pub fn cookie(&self, token: &Token) -> String {
        let secure = if self.secure() { "; Secure" } else { "" };
        let (name, token) = (self.cookie_name(), token.reveal(TOKEN_PREFIX));
        let age = ABSOLUTE_LIFE.as_secs();
        format!("{name}={}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}", token.expose_secret())
    }

    /// The line that removes it.
    pub fn no_cookie(&self) -> String {
        let secure = if self.secure() { "; Secure" } else { "" };
        format!("{}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax{secure}", self.cookie_name())
    }

    /// What a request shows: a session's cookie, or an API key, and not both.
    ///
    /// With a cookie unsafe methods have to come from our own site: a browser says so in `Sec-Fetch-Site` or `Origin`
    /// (ASVS 3.5); a program that sends neither is no browser and carries no foreign cookie. A key needs no such check:
    /// no browser adds it by itself.
    pub fn proof(&self, request: &Request) -> Result<Proof, Problem> {
        // One that is no text is there as well.
        let authorization = request.headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
        let (way, token) = match (request.cookie(self.cookie_name()), authorization) {
            (None, None) => return Err(not_signed_in(None)),
            (Some(_), Some(_)) => {
                let detail = "send the session's cookie or the header authorization, and not both";
                return Err(Problem::new(Kind::TwoCredentials, detail));
            }
            (Some(cookie), None) => {
                self.check_same_site(request)?;
                (Way::Session, Token::parse(TOKEN_PREFIX, cookie))
            }
            (None, Some(authorization)) => (Way::ApiKey, bearer(authorization)),
        };
        let token = token.ok_or_else(|| not_signed_in(Some(way)))?;
        Ok(Proof { account: token.account(), way, hash: token.hash() })
    }

    /// Refuses unsafe requests that a page of another site made.
    pub fn check_same_site(&self, request: &Request) -> Result<(), Problem> {
        if [Method::GET, Method::HEAD, Method::OPTIONS].contains(&request.method) {
            return Ok(());
        }
        let ours = |origin: &str| origin == self.origin || self.allowed_origins.iter().any(|allowed| allowed == origin);
        let origin = request.header(header::ORIGIN);
        let good = match (request.header("sec-fetch-site"), origin) {
            (Some("same-origin" | "none") | None, None) => true,
            (_, Some(origin)) => ours(origin),
            (Some(_), None) => false,
        };
        if good {
            Ok(())
        } else {
            Err(Problem::new(Kind::CrossSite, "call from a page of this site, or ask for your origin to be allowed"))
        }
    }
}

/// The API key of an `Authorization` header.
fn bearer(authorization: &str) -> Option<Token> {
    let (scheme, token) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") { Token::parse(KEY_PREFIX, token.trim()) } else { None }
}

/// Tries at a password in a window, of one caller for one account. They are counted before the password is looked at,
/// so that a flood costs no hashing.
pub const TRIES_PER_PAIR: u32 = 10;
/// The same, of one caller.
pub const TRIES_PER_PEER: u32 = 50;
/// The same, for one account from anywhere: high, so that a stranger from one place cannot lock an owner out.
pub const TRIES_PER_ACCOUNT: u32 = 100;
/// The window: a quarter of an hour.
pub const TRIES_WINDOW_SECS: u32 = 900;

/// Counts a try at somebody's password, wherever it is asked for: 3 counters, and 429 above their limits.
pub async fn count_password_try<W: CountTries>(
    world: &W,
    platform: &Platform,
    index: &EmailIndex,
    request: &Request,
) -> Result<(), Problem> {
    let peer = platform.hash("peer", &request.peer_network());
    let tries = [
        (format!("login-peer#{peer}"), TRIES_PER_PEER),
        (format!("login#{}#{peer}", index.0), TRIES_PER_PAIR),
        (format!("login#{}", index.0), TRIES_PER_ACCOUNT),
    ];
    for (what, limit) in tries {
        if !world.count_try(&what, limit, TRIES_WINDOW_SECS, request.now).await? {
            return Err(Problem::new(Kind::TooManyRequests, "too many tries; wait a quarter of an hour"));
        }
    }
    Ok(())
}

/// The one answer to every way of not being signed in, for each way of trying: which of them it was is not told.
pub fn not_signed_in(tried: Option<Way>) -> Problem {
    match tried {
        None => Problem::new(
            Kind::NotSignedIn,
            "log in with POST /v1/sessions and send the cookie that it sets, or send an API key: authorization: Bearer \
             tb_live_…",
        ),
        Some(Way::Session) => {
            Problem::new(Kind::NotSignedIn, "log in with POST /v1/sessions and send the cookie that it sets")
        }
        Some(Way::ApiKey) => Problem::new(
            Kind::NotSignedIn,
            "there is no such API key: it is not whole, was revoked, or has expired; send authorization: Bearer \
             tb_live_…",
        ),
    }
    .with_header(header::WWW_AUTHENTICATE, "Bearer")
}

/// Who makes this request, if the route lets them: 1 read, and once a minute 1 write of the last call.
///
/// `routes` are the function's own: the entry of the request's route says who may call it, so that no handler asks for
/// less.
pub async fn caller<W: KeepSessions>(
    world: &W,
    site: &Site,
    request: &Request,
    routes: &[Route],
) -> Result<Caller, Problem> {
    Ok(enter(world, site, request, routes).await?.caller())
}

/// The same with the session or key itself.
pub async fn enter<W: KeepSessions>(
    world: &W,
    site: &Site,
    request: &Request,
    routes: &[Route],
) -> Result<Pass, Problem> {
    let proof = site.proof(request)?;
    let pass = match proof.way {
        Way::Session => world.load_session(proof.account, &proof.hash).await?.map(Pass::Session),
        Way::ApiKey => world.load_api_key(proof.account, &proof.hash).await?.map(Pass::ApiKey),
    };
    admit(world, &proof, pass, request, routes).await
}

/// Lets in what was found for a proof, if it counts and the route lets it, and writes down the call when it is time;
/// what was revoked meanwhile is out.
pub async fn admit<W: KeepSessions>(
    world: &W,
    proof: &Proof,
    found: Option<Pass>,
    request: &Request,
    routes: &[Route],
) -> Result<Pass, Problem> {
    let out = || not_signed_in(Some(proof.way));
    let pass = found.filter(|pass| pass.alive(request.now)).ok_or_else(out)?;
    pass.check(request.route(routes)?.0.access)?;
    if write_down(world, &pass, request.now).await? { Ok(pass) } else { Err(out()) }
}

/// Writes down the call when it is time; `false` if the session or key was revoked meanwhile.
async fn write_down<W: KeepSessions>(world: &W, pass: &Pass, now: Timestamp) -> Result<bool, Fault> {
    match pass {
        Pass::Session(session) if session.wants_touch(now) => {
            world.touch_session(session.account, &session.hash, now).await
        }
        Pass::ApiKey(key) if key.wants_touch(now) => world.touch_api_key(key.account, &key.hash, now).await,
        Pass::Session(_) | Pass::ApiKey(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_key::{KeyName, Scope};
    use crate::ids::RequestId;
    use http::{HeaderMap, HeaderValue};

    fn site(origin: &str) -> Site {
        Site {
            origin: origin.to_owned(),
            fallback: None,
            app: origin.to_owned(),
            allowed_origins: vec!["https://app.example.com".to_owned()],
        }
    }

    fn request(method: Method, headers: &[(&'static str, &str)]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Request {
            id: RequestId::from_bits(0),
            now: Timestamp::UNIX_EPOCH,
            method,
            path: "/".to_owned(),
            query: String::new(),
            headers: map,
            body: Vec::new(),
            peer: String::new(),
        }
    }

    /// The full product of Sec-Fetch-Site × Origin × method.
    #[test]
    fn only_our_own_pages_and_programs_may_change_things() {
        let site = site("https://api.example.com");
        for fetch in [None, Some("same-origin"), Some("same-site"), Some("cross-site"), Some("none")] {
            for origin in [
                None,
                Some("https://api.example.com"),
                Some("https://app.example.com"),
                Some("https://evil.example"),
                Some("null"),
            ] {
                for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                    let headers: Vec<_> = [fetch.map(|f| ("sec-fetch-site", f)), origin.map(|o| ("origin", o))]
                        .into_iter()
                        .flatten()
                        .collect();
                    let allowed = site.check_same_site(&request(method.clone(), &headers)).is_ok();
                    let expected = method == Method::GET
                        || match origin {
                            Some(origin) => origin.ends_with("p.example.com") || origin.ends_with("api.example.com"),
                            None => matches!(fetch, None | Some("same-origin" | "none")),
                        };
                    assert_eq!(allowed, expected, "{method} {fetch:?} {origin:?}");
                }
            }
        }
    }

    /// The full product of cookies × `Authorization`.
    #[test]
    fn a_request_shows_a_session_or_a_key_and_not_both() {
        let site = site("https://api.example.com");
        let token = Token::new(AccountId::from_bits(7), [1; 32]);
        let (session, key) = (token.reveal(TOKEN_PREFIX), token.reveal(KEY_PREFIX));
        let (session, key) = (session.expose_secret(), key.expose_secret());
        let cookies = [None, Some(session), Some(key), Some("")];
        let bearers = ["Bearer", "bearer", "BEARER"].map(|scheme| format!("{scheme} {key}"));
        let wrong = [
            String::new(),
            key.to_owned(),
            format!("Basic {key}"),
            format!("Bearer {session}"),
            format!("Bearer {}", &key[..key.len() - 1]),
            format!("Bearer {key},Bearer {key}"),
            format!("Bearer {key}é"),
        ];
        for cookie in cookies {
            for (header, good) in [None]
                .into_iter()
                .chain(bearers.iter().map(|text| Some((text, true))))
                .chain(wrong.iter().map(|text| Some((text, false))))
                .map(|given| (given.map(|(text, _)| text.as_str()), given.is_some_and(|(_, good)| good)))
            {
                let line = cookie.map(|cookie| format!("{}={cookie}", site.cookie_name()));
                let headers: Vec<_> =
                    [line.as_deref().map(|line| ("cookie", line)), header.map(|text| ("authorization", text))]
                        .into_iter()
                        .flatten()
                        .collect();
                let shown = site.proof(&request(Method::POST, &headers));
                let shown = shown.map(|proof| (proof.way, proof.account)).map_err(|problem| problem.kind());
                let expected = match (cookie, header) {
                    (Some(_), Some(_)) => Err(Kind::TwoCredentials),
                    (Some(cookie), None) if cookie == session => Ok((Way::Session, token.account())),
                    (None, Some(_)) if good => Ok((Way::ApiKey, token.account())),
                    _ => Err(Kind::NotSignedIn),
                };
                assert_eq!(shown, expected, "{cookie:?} {header:?}");
            }
        }
    }

    #[test]
    fn a_key_is_no_ambient_credential_and_may_come_from_any_page() {
        let key = Token::new(AccountId::from_bits(7), [1; 32]).reveal(KEY_PREFIX);
        let bearer = format!("Bearer {}", key.expose_secret());
        let headers = [("authorization", bearer.as_str()), ("origin", "https://elsewhere.example")];
        let shown = site("https://api.example.com").proof(&request(Method::POST, &headers));
        assert_eq!(shown.unwrap().way, Way::ApiKey);
    }

    #[test]
    fn a_key_opens_routes_of_its_scopes_and_nothing_else() {
        for has in Scope::ALL {
            let key = Pass::ApiKey(ApiKey {
                id: ApiKeyId::from_bits(1),
                account: AccountId::from_bits(1),
                hash: TokenHash(String::new()),
                name: KeyName::parse("key").unwrap(),
                scopes: vec![has],
                made_by: UserId::from_bits(1),
                created: Timestamp::UNIX_EPOCH,
                used: None,
                expires: None,
            });
            let kind = |access| key.check(access).map_err(|problem| problem.kind());
            for wanted in Scope::ALL {
                let expected = if wanted == has { Ok(()) } else { Err(Kind::ScopeMissing) };
                assert_eq!(kind(Access::Scope(wanted)), expected, "{has:?} {wanted:?}");
            }
            assert_eq!(kind(Access::Session), Err(Kind::SessionNeeded));
            assert_eq!(kind(Access::Open), Err(Kind::SessionNeeded), "a route that is open asks nobody in");
        }
    }

    #[test]
    fn the_cookie_is_host_bound_over_tls_and_says_so_when_it_is_not() {
        let token = Token::new(AccountId::from_bits(1), [1; 32]);
        let line = site("https://api.example.com").cookie(&token);
        assert!(line.starts_with("__Host-telbuddy_session=tbs_"), "{line}");
        assert!(line.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax; Secure"), "{line}");
        assert!(site("http://127.0.0.1:8787").cookie(&token).starts_with("telbuddy_session=tbs_"));
    }

    #[test]
    fn a_session_ends_when_idle_and_in_any_case_after_half_a_day() {
        let start = Timestamp::UNIX_EPOCH;
        let mut session = Session {
            id: SessionId::from_bits(1),
            account: AccountId::from_bits(1),
            user: UserId::from_bits(1),
            hash: TokenHash(String::new()),
            started: start,
            seen: start,
        };
        assert!(session.alive(start + SignedDuration::from_mins(29)));
        assert!(!session.alive(start + SignedDuration::from_mins(30)));
        session.seen = start + SignedDuration::from_hours(11) + SignedDuration::from_mins(59);
        assert!(!session.alive(start + SignedDuration::from_hours(12)));
    }
}
