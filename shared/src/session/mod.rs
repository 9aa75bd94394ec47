//! Sessions: who is calling, and how a browser proves it (promise N12).

mod port;

use http::{Method, header};
use jiff::{SignedDuration, Timestamp};

use crate::account::EmailIndex;
use crate::edge::{Kind, Problem, Request};
use crate::ids::{AccountId, SessionId, UserId};
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
    /// The user.
    pub user: UserId,
}

/// How the site is reached: decides the cookie's name and flags and what counts as the same site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The public origin, such as `https://api.example.com`, without a slash at the end.
    pub origin: String,
    /// Where links in mails lead: the frontend's origin.
    pub app: String,
    /// Further origins whose pages may call with a cookie.
    pub allowed_origins: Vec<String>,
}

impl Site {
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

    /// The session token of a request. Unsafe methods have to come from our own site: a browser says so in
    /// `Sec-Fetch-Site` or `Origin` (ASVS 3.5); a program that sends neither is no browser and carries no foreign cookie.
    pub fn token(&self, request: &Request) -> Result<Token, Problem> {
        let cookie = request.cookie(self.cookie_name()).ok_or_else(not_signed_in)?;
        self.check_same_site(request)?;
        Token::parse(TOKEN_PREFIX, cookie).ok_or_else(not_signed_in)
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

/// The one answer to every way of not being signed in.
pub fn not_signed_in() -> Problem {
    Problem::new(Kind::NotSignedIn, "log in with POST /v1/sessions and send the cookie that it sets")
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

/// Who makes this request: 1 read, and once a minute 1 write that moves the idle limit.
pub async fn caller<W: KeepSessions>(world: &W, site: &Site, request: &Request) -> Result<Caller, Problem> {
    let token = site.token(request)?;
    let session = world.load_session(token.account(), &token.hash()).await?;
    let session = session.filter(|session| session.alive(request.now)).ok_or_else(not_signed_in)?;
    admit(world, session, request.now).await
}

/// Lets a live session in and writes down the call when it is time; a session revoked meanwhile is out.
pub async fn admit<W: KeepSessions>(world: &W, session: Session, now: Timestamp) -> Result<Caller, Problem> {
    if session.wants_touch(now) && !world.touch_session(session.account, &session.hash, now).await? {
        return Err(not_signed_in());
    }
    Ok(Caller { account: session.account, user: session.user })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RequestId;
    use http::{HeaderMap, HeaderValue};

    fn site(origin: &str) -> Site {
        Site {
            origin: origin.to_owned(),
            app: origin.to_owned(),
            allowed_origins: vec!["https://app.example.com".to_owned()],
        }
    }

    fn request(method: Method, headers: &[(&'static str, &str)]) -> Request {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).unwrap());
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
