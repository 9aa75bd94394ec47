//! The carrier credential: connect, show without secrets, replace, remove.

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::credential::{
    Auth, Carrier, CheckCarrier, CredentialKind, HookSecrets, KeepCredential, LoadKeys, MintKey, NewCredential, Region,
    SaveCredential, Saved, Sid, StoredCredential, accept_check,
};
use telbuddy::edge::{Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::{Chance, PlatformKeys};
use telbuddy::seal::{DataKey, Purpose, WrappedKeys};
use telbuddy::secret::{ExposeSecret, HookId, SecretString};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

const PATH: &str = "/v1/credentials/twilio";

/// The routes of this function.
pub const ROUTES: &[Route] =
    &[Route { method: "PUT", path: PATH }, Route { method: "GET", path: PATH }, Route { method: "DELETE", path: PATH }];

/// The services that it calls. It seals and cannot open: its policy has GenerateDataKey and no Decrypt.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::PlatformSecret, Need::Twilio];

/// What to connect: an Auth Token alone, or an API key and the Auth Token for webhooks.
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
    /// Twilio region; us1 if left out.
    #[serde(default)]
    region: Region,
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
    /// `connected`.
    status: &'static str,
    /// Twilio's name of the account; null if an API key cannot know it.
    friendly_name: Option<String>,
    /// Whether it is a trial account; null if an API key cannot know it.
    trial: Option<bool>,
    /// When it was connected.
    #[schema(value_type = String, format = "date-time")]
    connected_at: Timestamp,
    /// Version of the data keys that seal it.
    key_version: u32,
    /// Set this as the webhook of your numbers for texts that arrive ("A message comes in", HTTP POST).
    inbound_url: String,
}

impl CredentialView {
    fn of(stored: &StoredCredential, site: &Site) -> Self {
        Self {
            account_sid: stored.account_sid.clone(),
            kind: stored.kind,
            region: stored.region,
            status: "connected",
            friendly_name: stored.friendly_name.clone(),
            trial: stored.trial,
            connected_at: stored.connected_at,
            key_version: stored.version,
            inbound_url: format!("{}/hooks/twilio/{}/messages", site.origin, stored.hook.reveal()),
        }
    }
}

/// Answers one request.
///
/// Connecting, calls: 1 read (session), 1 Twilio, 1 secret (first time), 4 reads, 2 data keys, 1 transaction.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + KeepCredential + CheckCarrier + MintKey + LoadKeys + PlatformKeys + Chance + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.method {
            "PUT" => connect(world, site, &request).await,
            "GET" => show(world, site, &request).await,
            _ => disconnect(world, site, &request).await,
        }
    })
    .await
}

/// Connect a Twilio account, or replace its credential.
#[utoipa::path(put, path = "/v1/credentials/twilio", tag = "credential", request_body = Connect, responses(
    (status = 200, description = "Checked at Twilio and stored sealed", body = CredentialView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Another TelBuddy account has this Twilio account", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or Twilio refused it", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn connect<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + CheckCarrier + MintKey + LoadKeys + PlatformKeys + Chance + Sync,
{
    let account = caller(world, site, request).await?.account;
    let new = parse(request.json()?)?;
    let (friendly_name, trial) = accept_check(world.check_carrier(&new.carrier).await?)?;
    let platform = world.platform().await?;
    let before = world.load_credential(account).await?;
    let version = world.credential_version(account).await? + 1;
    let (send_key, send_keys) = next_key(world, account, Purpose::Send, version).await?;
    let (hook_key, hook_keys) = next_key(world, account, Purpose::Hook, version).await?;
    let hook = match &before {
        // Numbers are configured with it: it stays.
        Some(before) => before.hook,
        None => HookId::new(account, world.random()?),
    };
    let credential = StoredCredential {
        account,
        version,
        account_sid: new.carrier.account_sid.clone(),
        region: new.carrier.region,
        kind: new.carrier.kind(),
        friendly_name,
        trial,
        connected_at: request.now,
        hook,
        send: new.carrier.seal(&send_key, world.random()?)?,
        verify: new.hook.seal(&hook_key, world.random()?)?,
    };
    let view = CredentialView::of(&credential, site);
    let hash = |sid: &Sid| platform.hash("carrier", sid.as_str());
    let save = SaveCredential {
        sid_hash: hash(&credential.account_sid),
        replaced_sid_hash: before.map(|before| hash(&before.account_sid)),
        credential,
        keys: [send_keys, hook_keys],
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

/// A new version of a key. The one before stays for those who read it a moment ago.
async fn next_key<W>(
    world: &W,
    account: AccountId,
    purpose: Purpose,
    version: u32,
) -> Result<(DataKey, WrappedKeys), Problem>
where
    W: MintKey + LoadKeys,
{
    let before = world.load_keys(account, purpose).await?;
    let (key, wrapped) = world.mint_key(account, purpose, version).await?;
    let mut versions: Vec<_> = before.and_then(|keys| keys.current().cloned()).into_iter().collect();
    versions.push(wrapped);
    Ok((key, WrappedKeys { account, purpose, versions }))
}

fn parse(ask: Connect) -> Result<NewCredential, Problem> {
    let mut fields = Fields::default();
    let account_sid = fields.take("account_sid", Sid::parse("AC", &ask.account_sid));
    let token = ask.auth_token.filter(|token| !token.expose_secret().is_empty());
    for (name, secret) in [("auth_token", token.as_ref()), ("api_key_secret", ask.api_key_secret.as_ref())] {
        let text = secret.map_or("x", ExposeSecret::expose_secret);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            fields.add(
                name,
                "invalid",
                "copy it from the Twilio Console: 1 to 128 visible ASCII characters".to_owned(),
            );
        }
    }
    let Some(token) = token else {
        fields.add("auth_token", "missing", "the Auth Token is needed to check the signatures of webhooks".to_owned());
        return Err(fields.into_problem());
    };
    let auth = match (ask.api_key_sid, ask.api_key_secret) {
        (None, None) => Some(Auth::AuthToken(token.clone())),
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
    match (account_sid, auth) {
        (Some(account_sid), Some(auth)) => {
            let carrier = Carrier { account_sid, region: ask.region, auth };
            fields.done(NewCredential { carrier, hook: HookSecrets { auth_tokens: vec![token] } })
        }
        _ => Err(fields.into_problem()),
    }
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
    let account = caller(world, site, request).await?.account;
    let stored = world.load_credential(account).await?.ok_or_else(nothing_connected)?;
    Ok(Reply::json(StatusCode::OK, &CredentialView::of(&stored, site)))
}

fn nothing_connected() -> Problem {
    Problem::not_found("no Twilio account is connected; connect one with PUT /v1/credentials/twilio")
}

/// Disconnect: the credential and the keys that opened it are gone.
#[utoipa::path(delete, path = "/v1/credentials/twilio", tag = "credential", responses(
    (status = 204, description = "Disconnected"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is connected", body = telbuddy::edge::ProblemBody)))]
async fn disconnect<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + PlatformKeys + Sync,
{
    let account = caller(world, site, request).await?.account;
    let stored = world.load_credential(account).await?.ok_or_else(nothing_connected)?;
    let platform = world.platform().await?;
    if world.remove_credential(&stored, &platform.hash("carrier", stored.account_sid.as_str())).await? {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    Err(Problem::from(Fault::transient("the credential was changed at the same time")))
}

#[derive(OpenApi)]
#[openapi(paths(connect, show, disconnect))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
