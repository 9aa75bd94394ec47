//! The carrier credential: connect, show without secrets, replace, remove.

use http::{StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::credential::{
    Auth, Carrier, CheckCarrier, CredentialKind, History, HookSecret, KeepCredential, LoadKeys, MOST_PREVIOUS, MintKey,
    NewCredential, Region, SaveCredential, Saved, Sid, StoredCredential, accept_check,
};
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::{Chance, CountTries, PlatformKeys};
use telbuddy::seal::{DataKey, Purpose, WrappedKeys};
use telbuddy::secret::{ExposeSecret, HookId, SecretString};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

const PATH: &str = "/v1/credentials/twilio";
const ROTATION: &str = "/v1/credentials/twilio/rotation";

/// Credentials that an account may give in a quarter of an hour, connecting and rotating together: Twilio is asked
/// about each, and nobody is to try out tokens here.
const TRIES: u32 = 20;
const WINDOW_SECS: u32 = 900;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "PUT", path: PATH, access: Access::Session },
    Route { method: "GET", path: PATH, access: Access::Session },
    Route { method: "DELETE", path: PATH, access: Access::Session },
    Route { method: "POST", path: ROTATION, access: Access::Session },
];

/// The services that it calls. It seals and cannot open: its policy has GenerateDataKey and no Decrypt.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::PlatformSecret, Need::Twilio];

/// What to connect: an Auth Token alone; an API key and the Auth Token for webhooks; or an API key and the shared key
/// that your webhooks are signed with (a public beta at Twilio), and then no Auth Token at all.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Twilio Account SID.
    #[schema(example = "AC00000000000000000000000000000000", pattern = "^AC[0-9a-f]{32}$")]
    account_sid: String,
    /// Auth Token. With an API key it is used to check webhooks only.
    #[schema(value_type = Option<String>, format = "password")]
    auth_token: Option<SecretString>,
    /// SID of an API key.
    #[schema(example = "SK00000000000000000000000000000000", pattern = "^SK[0-9a-f]{32}$")]
    api_key_sid: Option<String>,
    /// The API key's secret.
    #[schema(value_type = Option<String>, format = "password")]
    api_key_secret: Option<SecretString>,
    /// Id of the shared key, as Twilio names it in `X-Twilio-Webhooks-Signature-Settings`.
    #[schema(example = "webhooks_sharedkey_00000000000000000000000001")]
    signing_key_id: Option<String>,
    /// The shared key's secret.
    #[schema(value_type = Option<String>, format = "password")]
    signing_key: Option<SecretString>,
    /// Twilio region; us1 if left out.
    #[serde(default)]
    region: Region,
}

/// What replaces what: a new Auth Token, a new API key, or a new shared key, each of the kind that is connected.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotate {
    /// The new Auth Token: create it at Twilio as the secondary one, rotate here, then promote it there.
    #[schema(value_type = Option<String>, format = "password")]
    auth_token: Option<SecretString>,
    /// SID of the new API key.
    #[schema(example = "SK00000000000000000000000000000000", pattern = "^SK[0-9a-f]{32}$")]
    api_key_sid: Option<String>,
    /// Its secret.
    #[schema(value_type = Option<String>, format = "password")]
    api_key_secret: Option<SecretString>,
    /// Id of the new shared key.
    signing_key_id: Option<String>,
    /// Its secret.
    #[schema(value_type = Option<String>, format = "password")]
    signing_key: Option<SecretString>,
}

/// A Twilio permission that TelBuddy uses.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Permission {
    /// The permission, as a restricted API key names it.
    permission: &'static str,
    /// What for.
    why: &'static str,
}

/// What a restricted API key needs, and no more.
const PERMISSIONS: [Permission; 4] = [
    Permission { permission: "Messages: create", why: "to send what you ask us to send" },
    Permission { permission: "Messages: list, read", why: "to check that the key works" },
    Permission {
        permission: "Incoming phone numbers: list, read, update",
        why: "only if you connect numbers here: to list them, to set their webhook, to give them back as they were",
    },
    Permission {
        permission: "Messaging services: list, read, update",
        why: "the same for messaging services, whose webhook counts for the numbers in their pool",
    },
];

/// Whether a credential works.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CredentialStatus {
    /// As far as we know.
    Connected,
    /// Twilio answered 401 or 403 to it.
    Refused,
}

/// A connected credential. No secret is ever shown.
#[derive(Serialize, utoipa::ToSchema)]
pub struct CredentialView {
    /// Twilio Account SID.
    #[schema(value_type = String, example = "AC00000000000000000000000000000000")]
    account_sid: Sid,
    /// Which kind.
    kind: CredentialKind,
    /// Twilio region.
    region: Region,
    /// `connected`, or `refused`: Twilio answered 401 or 403 to it, and sending is stopped until a new one is stored.
    status: CredentialStatus,
    /// Twilio's name of the account; null if an API key cannot know it.
    friendly_name: Option<String>,
    /// Whether it is a trial account; null if an API key cannot know it.
    trial: Option<bool>,
    /// When it was connected.
    #[schema(value_type = String, format = "date-time")]
    connected_at: Timestamp,
    /// Version of the data keys that seal it.
    key_version: u32,
    /// While a rotation's window is open: until when the secret before it still checks webhooks.
    #[schema(value_type = Option<String>, format = "date-time")]
    previous_valid_until: Option<Timestamp>,
    /// The Twilio permissions that are used, and why.
    permissions: &'static [Permission],
    /// What to know about this account.
    notes: Vec<&'static str>,
    /// Set this as the webhook of your numbers for texts that arrive ("A message comes in", HTTP POST).
    inbound_url: String,
}

impl CredentialView {
    fn of(stored: &StoredCredential, refused: bool, site: &Site, now: Timestamp) -> Self {
        Self {
            account_sid: stored.account_sid.clone(),
            kind: stored.kind,
            region: stored.region,
            status: if refused { CredentialStatus::Refused } else { CredentialStatus::Connected },
            friendly_name: stored.friendly_name.clone(),
            trial: stored.trial,
            connected_at: stored.connected_at,
            key_version: stored.version,
            previous_valid_until: stored
                .previous
                .iter()
                .map(|previous| previous.until)
                .filter(|until| now < *until)
                .max(),
            permissions: &PERMISSIONS,
            notes: notes(stored),
            inbound_url: format!("{}/hooks/twilio/{}/messages", site.origin, stored.hook.reveal()),
        }
    }
}

fn notes(stored: &StoredCredential) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if stored.trial == Some(true) {
        notes.push("A trial account: Twilio delivers to verified numbers only, and puts a line in front of each text.");
    }
    match stored.kind {
        CredentialKind::AuthToken => {
            notes.push("An Auth Token can do everything in the account. A restricted API key would be enough for us.");
        }
        CredentialKind::ApiKey => {}
        CredentialKind::ApiKeyAndSharedKey => {
            notes.push("Signing webhooks with shared keys is a public beta at Twilio.");
        }
    }
    notes
}

/// Answers one request.
///
/// Connecting or rotating an Auth Token, calls: 1 read (session), 1 counter, 1 Twilio, 1 secret (first time), 4 reads,
/// 2 data keys, 1 transaction.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + KeepCredential + CountTries + CheckCarrier + MintKey + LoadKeys + PlatformKeys + Chance + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.method {
            "POST" => rotate(world, site, &request).await,
            "PUT" => connect(world, site, &request).await,
            "GET" => show(world, site, &request).await,
            _ => disconnect(world, site, &request).await,
        }
    })
    .await
}

/// Connect a Twilio account, or replace its credential.
#[utoipa::path(put, path = "/v1/credentials/twilio", tag = "credential", request_body = Connect, params(
    ("leave_numbers" = Option<bool>, Query, description = "true: let another Twilio account take the place of this one \
        although numbers are connected; at Twilio they keep pointing here")), responses(
    (status = 200, description = "Checked at Twilio and stored sealed", body = CredentialView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Another TelBuddy account has this Twilio account, or numbers of the one before are \
        connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or Twilio refused it", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "More than 20 tries in a quarter of an hour", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn connect<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + CountTries + CheckCarrier + MintKey + LoadKeys + PlatformKeys + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let leave_numbers = leave_numbers(request)?;
    let new = parse(request.json()?)?;
    limit_tries(world, account, request.now).await?;
    let before = world.load_credential(account).await?;
    let history = world.credential_history(account).await?;
    if before.as_ref().is_some_and(|before| before.account_sid != new.carrier.account_sid) {
        check_numbers(&history, leave_numbers)?;
    }
    let (friendly_name, trial) = accept_check(world.check_carrier(&new.carrier).await?)?;
    let version = history.version + 1;
    let (send_key, send_keys) = next_key(world, account, Purpose::Send, version).await?;
    let (hook_key, hook_keys) = next_key(world, account, Purpose::Hook, version).await?;
    let hook = match history.hook {
        // Numbers are configured with it: it stays.
        Some(hook) => hook,
        None => HookId::new(account, world.random()?),
    };
    // Callbacks that are under way were signed with the secret before.
    let same = before.as_ref().filter(|before| before.account_sid == new.carrier.account_sid);
    let previous = same.map_or_else(Vec::new, |before| before.kept(request.now));
    let credential = StoredCredential {
        account,
        version,
        account_sid: new.carrier.account_sid.clone(),
        region: new.carrier.region,
        kind: new.kind(),
        friendly_name,
        trial,
        connected_at: request.now,
        secret_since: request.now,
        hook,
        send: new.carrier.seal(&send_key, world.random()?)?,
        verify: new.hook.seal(&hook_key, world.random()?)?,
        previous,
    };
    save(world, site, request, credential, (before.as_ref(), &history), vec![send_keys, hook_keys]).await
}

/// Whether the customer knows that connected numbers keep pointing here.
fn leave_numbers(request: &Request) -> Result<bool, Problem> {
    request.query(&["leave_numbers"])?.flag("leave_numbers")
}

/// Without a credential numbers cannot be given back: that comes first.
fn check_numbers(history: &History, leave_numbers: bool) -> Result<(), Problem> {
    if history.numbers == 0 || leave_numbers {
        return Ok(());
    }
    let detail = format!(
        "{} of your numbers and messaging services are connected: give them back with DELETE \
         /v1/numbers/{{sid}}/connection first (GET /v1/numbers lists them), or add ?leave_numbers=true to leave them \
         pointing here",
        history.numbers
    );
    Err(Problem::new(Kind::NumbersConnected, detail))
}

/// Rotate a secret without losing a webhook.
///
/// The new secret is used from now on; the one before still checks webhooks for 24 hours, since Twilio signs with the
/// primary Auth Token until the secondary one is promoted.
#[utoipa::path(post, path = "/v1/credentials/twilio/rotation", tag = "credential", request_body = Rotate, responses(
    (status = 200, description = "Both count for the window", body = CredentialView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or Twilio refused it", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "More than 20 tries in a quarter of an hour", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn rotate<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + CountTries + CheckCarrier + MintKey + LoadKeys + PlatformKeys + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let ask = parse_rotation(request.json()?)?;
    let before = world.load_credential(account).await?.ok_or_else(nothing_connected)?;
    let rotation = fit(ask, before.kind)?;
    limit_tries(world, account, request.now).await?;
    if let Some(auth) = rotation.to_check() {
        let carrier = Carrier { account_sid: before.account_sid.clone(), region: before.region, auth };
        accept_check(world.check_carrier(&carrier).await?)?;
    }
    let history = world.credential_history(account).await?;
    let version = history.version + 1;
    let mut credential = StoredCredential { version, ..before.clone() };
    let mut keys = Vec::new();
    if let Some(auth) = rotation.auth {
        let carrier = Carrier { account_sid: before.account_sid.clone(), region: before.region, auth };
        let (key, wrapped) = next_key(world, account, Purpose::Send, version).await?;
        credential.send = carrier.seal(&key, world.random()?)?;
        keys.push(wrapped);
    }
    if let Some(hook) = rotation.hook {
        let (key, wrapped) = next_key(world, account, Purpose::Hook, version).await?;
        credential.verify = hook.seal(&key, world.random()?)?;
        credential.previous = before.kept(request.now);
        credential.secret_since = request.now;
        keys.push(wrapped);
    }
    save(world, site, request, credential, (Some(&before), &history), keys).await
}

/// Counts a credential that Twilio would be asked about.
async fn limit_tries<W: CountTries>(world: &W, account: AccountId, now: Timestamp) -> Result<(), Problem> {
    if world.count_try(&format!("credential#{account}"), TRIES, WINDOW_SECS, now).await? {
        return Ok(());
    }
    let window = i64::from(WINDOW_SECS);
    let rest = window - now.as_second().rem_euclid(window);
    let detail = "too many credentials were tried; the one that is connected goes on working";
    Err(Problem::new(Kind::TooManyRequests, detail).with_header(header::RETRY_AFTER, &rest.to_string()))
}

/// What a rotation replaces.
struct Rotation {
    auth: Option<Auth>,
    hook: Option<HookSecret>,
}

impl Rotation {
    /// What Twilio can be asked about: the new secret for calls, or a new Auth Token for webhooks. A shared key has no
    /// call that it could sign.
    fn to_check(&self) -> Option<Auth> {
        match (&self.auth, &self.hook) {
            (Some(auth), _) => Some(auth.clone()),
            (None, Some(HookSecret::AuthToken(token))) => Some(Auth::AuthToken(token.clone())),
            (None, Some(HookSecret::SharedKey(..)) | None) => None,
        }
    }
}

/// The rotation for the kind that is connected.
fn fit(ask: Secrets, kind: CredentialKind) -> Result<Rotation, Problem> {
    let Secrets { token, key, shared } = ask;
    let wrong = |field, detail: &str| Err(Problem::field(field, "not_of_this_kind", detail));
    match (kind, token, key, shared) {
        (CredentialKind::AuthToken, Some(token), None, None) => {
            Ok(Rotation { auth: Some(Auth::AuthToken(token.clone())), hook: Some(HookSecret::AuthToken(token)) })
        }
        (CredentialKind::AuthToken, ..) => {
            wrong("auth_token", "an Auth Token is connected: give the new one, and it alone")
        }
        (CredentialKind::ApiKey, token, key, None) if token.is_some() || key.is_some() => {
            Ok(Rotation { auth: key, hook: token.map(HookSecret::AuthToken) })
        }
        (CredentialKind::ApiKey, ..) => {
            wrong("api_key_sid", "give a new API key, a new Auth Token for webhooks, or both")
        }
        (CredentialKind::ApiKeyAndSharedKey, None, key, shared) if shared.is_some() || key.is_some() => {
            Ok(Rotation { auth: key, hook: shared })
        }
        (CredentialKind::ApiKeyAndSharedKey, ..) => {
            wrong("signing_key", "give a new API key, a new shared key, or both; no Auth Token")
        }
    }
}

/// Stores a credential in the place of the one before it.
async fn save<W>(
    world: &W,
    site: &Site,
    request: &Request,
    credential: StoredCredential,
    (before, history): (Option<&StoredCredential>, &History),
    keys: Vec<NextKeys>,
) -> Result<Reply, Problem>
where
    W: KeepCredential + PlatformKeys,
{
    let platform = world.platform().await?;
    let hash = |sid: &Sid| platform.hash("carrier", sid.as_str());
    // What ends a refusal is a new secret for calls.
    let refused = history.refused && !keys.iter().any(|keys| keys.new.purpose == Purpose::Send);
    let view = CredentialView::of(&credential, refused, site, request.now);
    let save = SaveCredential {
        sid_hash: hash(&credential.account_sid),
        replaced_sid_hash: before.map(|before| hash(&before.account_sid)),
        numbers: history.numbers,
        credential,
        keys_read: keys.iter().filter_map(|keys| keys.read.clone()).collect(),
        keys: keys.into_iter().map(|keys| keys.new).collect(),
    };
    match world.save_credential(save).await? {
        Saved::Stored => Ok(Reply::json(StatusCode::OK, &view)),
        Saved::TakenByAnother => Err(Problem::new(
            Kind::CarrierAccountTaken,
            "disconnect it there first, or ask support if you do not know that account",
        )),
        Saved::Raced => Err(Problem::from(Fault::transient("the credential was changed at the same time"))),
    }
}

/// Wrapped keys with a new version, and the row as it was read.
struct NextKeys {
    read: Option<WrappedKeys>,
    new: WrappedKeys,
}

/// A new version of a key. Those before stay: for those who read one a moment ago, and for a rotation's window.
async fn next_key<W>(
    world: &W,
    account: AccountId,
    purpose: Purpose,
    version: u32,
) -> Result<(DataKey, NextKeys), Problem>
where
    W: MintKey + LoadKeys,
{
    let read = world.load_keys(account, purpose).await?;
    let (key, wrapped) = world.mint_key(account, purpose, version).await?;
    let mut versions = read.as_ref().map_or_else(Vec::new, |keys| keys.versions.clone());
    versions.sort_unstable_by_key(|key| key.version);
    versions.drain(..versions.len().saturating_sub(MOST_PREVIOUS));
    versions.push(wrapped);
    Ok((key, NextKeys { read, new: WrappedKeys { account, purpose, versions } }))
}

/// Secrets as they came, checked for form.
struct Secrets {
    token: Option<SecretString>,
    key: Option<Auth>,
    shared: Option<HookSecret>,
}

/// Checks the secrets of a request for form; each pair has to be whole.
fn parse_secrets(
    fields: &mut Fields,
    token: Option<SecretString>,
    key: (Option<String>, Option<SecretString>),
    shared: (Option<String>, Option<SecretString>),
) -> Secrets {
    let whole = |text: &str| (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    let secrets = [("auth_token", &token), ("api_key_secret", &key.1), ("signing_key", &shared.1)];
    for (name, secret) in secrets {
        if secret.as_ref().is_some_and(|secret| !whole(secret.expose_secret())) {
            fields.add(
                name,
                "invalid",
                "copy it from the Twilio Console: 1 to 128 visible ASCII characters".to_owned(),
            );
        }
    }
    let key = match key {
        (None, None) => None,
        (Some(sid), Some(secret)) => {
            fields.take("api_key_sid", Sid::parse("SK", &sid)).map(|sid| Auth::ApiKey(sid, secret))
        }
        (Some(_), None) => {
            fields.add("api_key_secret", "missing", "an API key needs its secret".to_owned());
            None
        }
        (None, Some(_)) => {
            fields.add("api_key_sid", "missing", "an API key's secret needs its SID".to_owned());
            None
        }
    };
    let shared = match shared {
        (None, None) => None,
        (Some(id), Some(secret)) if whole(&id) => Some(HookSecret::SharedKey(id, secret)),
        (Some(_), Some(_)) => {
            fields.add("signing_key_id", "invalid", "copy the key's id as Twilio shows it".to_owned());
            None
        }
        (Some(_), None) => {
            fields.add("signing_key", "missing", "a shared key needs its secret".to_owned());
            None
        }
        (None, Some(_)) => {
            fields.add("signing_key_id", "missing", "a shared key's secret needs its id".to_owned());
            None
        }
    };
    Secrets { token, key, shared }
}

fn parse(ask: Connect) -> Result<NewCredential, Problem> {
    let mut fields = Fields::default();
    let account_sid = fields.take("account_sid", Sid::parse("AC", &ask.account_sid));
    let api_key = (ask.api_key_sid, ask.api_key_secret);
    let secrets = parse_secrets(&mut fields, ask.auth_token, api_key, (ask.signing_key_id, ask.signing_key));
    let secrets = match secrets {
        Secrets { token: Some(token), key: None, shared: None } => {
            Some((Auth::AuthToken(token.clone()), HookSecret::AuthToken(token)))
        }
        Secrets { token: Some(token), key: Some(key), shared: None } => Some((key, HookSecret::AuthToken(token))),
        Secrets { token: None, key: Some(key), shared: Some(shared) } => Some((key, shared)),
        Secrets { token: Some(_), shared: Some(_), .. } => {
            fields.add(
                "auth_token",
                "not_needed",
                "with a shared key leave the Auth Token out: we would rather not hold it".to_owned(),
            );
            None
        }
        Secrets { token: None, .. } => {
            fields.add(
                "auth_token",
                "missing",
                "give the Auth Token, or an API key and a shared key: signatures of webhooks have to be checked"
                    .to_owned(),
            );
            None
        }
    };
    match (account_sid, secrets) {
        (Some(account_sid), Some((auth, hook))) => {
            fields.done(NewCredential { carrier: Carrier { account_sid, region: ask.region, auth }, hook })
        }
        _ => Err(fields.into_problem()),
    }
}

fn parse_rotation(ask: Rotate) -> Result<Secrets, Problem> {
    let mut fields = Fields::default();
    let api_key = (ask.api_key_sid, ask.api_key_secret);
    let secrets = parse_secrets(&mut fields, ask.auth_token, api_key, (ask.signing_key_id, ask.signing_key));
    fields.done(secrets)
}

/// Show what is connected.
#[utoipa::path(get, path = "/v1/credentials/twilio", tag = "credential", responses(
    (status = 200, description = "Without secrets", body = CredentialView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is connected", body = telbuddy::edge::ProblemBody)))]
async fn show<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let stored = world.load_credential(account).await?.ok_or_else(nothing_connected)?;
    let refused = world.credential_history(account).await?.refused;
    Ok(Reply::json(StatusCode::OK, &CredentialView::of(&stored, refused, site, request.now)))
}

fn nothing_connected() -> Problem {
    Problem::not_found("no Twilio account is connected; connect one with PUT /v1/credentials/twilio")
}

/// Disconnect: the credential and the keys that opened it are gone.
#[utoipa::path(delete, path = "/v1/credentials/twilio", tag = "credential", params(
    ("leave_numbers" = Option<bool>, Query, description = "true: although numbers are connected; at Twilio they keep \
        pointing here")), responses(
    (status = 204, description = "Disconnected"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is connected", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Numbers are connected", body = telbuddy::edge::ProblemBody)))]
async fn disconnect<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + PlatformKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let leave_numbers = leave_numbers(request)?;
    let stored = world.load_credential(account).await?.ok_or_else(nothing_connected)?;
    let history = world.credential_history(account).await?;
    check_numbers(&history, leave_numbers)?;
    let platform = world.platform().await?;
    let sid_hash = platform.hash("carrier", stored.account_sid.as_str());
    if world.remove_credential(&stored, &sid_hash, history.numbers).await? {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    Err(Problem::from(Fault::transient("the credential was changed at the same time")))
}

#[derive(OpenApi)]
#[openapi(paths(connect, show, disconnect, rotate))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
