//! The customer's numbers at Twilio: list them live, connect them (a diff first), give them back as they were.

use futures::future::{join_all, try_join};
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use telbuddy::api_key::Scope;
use telbuddy::connection::{
    Begun, CHECK_EVERY, CHECK_SOON, Capabilities, CarrierNumber, CarrierService, Change, ConfigureNumbers, Connect,
    Connection, Disconnect, KeepConnections, PageMark, Settings, Snapshot, State, Target, TargetKind, Trouble,
    WhenChanged, connect, disconnect, look,
};
use telbuddy::credential::{Carrier, KeepCredential, LoadKeys, OpenKey, StoredCredential, data_key, open_carrier};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::platform::Chance;
use telbuddy::seal::{DataKey, Purpose};
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

const CONNECTION: &str = "/v1/numbers/{sid}/connection";

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/numbers", access: Access::Scope(Scope::NumbersRead) },
    Route { method: "POST", path: CONNECTION, access: Access::Scope(Scope::NumbersWrite) },
    Route { method: "DELETE", path: CONNECTION, access: Access::Scope(Scope::NumbersWrite) },
];

/// The services that it calls. It may open the purposes send and profile.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Twilio];

/// Messaging services that are listed, and whose pools are read.
const SERVICES: u16 = 20;

/// A number at Twilio.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NumberView {
    /// Its SID.
    #[schema(example = "PN00000000000000000000000000000000")]
    sid: String,
    /// In E.164.
    #[schema(example = "+14155550100")]
    phone_number: String,
    /// Its name at Twilio.
    friendly_name: String,
    /// What it can do.
    capabilities: Capabilities,
    /// The messaging service whose pool it is in: connect that one, its webhook counts. Null on later pages, and if it
    /// is in none.
    messaging_service_sid: Option<String>,
    /// Null if it is not connected.
    connection: Option<ConnectionState>,
}

/// A messaging service at Twilio.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ServiceView {
    /// Its SID.
    #[schema(example = "MG00000000000000000000000000000000")]
    sid: String,
    /// Its name at Twilio.
    friendly_name: String,
    /// Numbers in its pool.
    numbers: usize,
    /// Null if it is not connected.
    connection: Option<ConnectionState>,
}

/// How a connection stands, compared with Twilio right now.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConnectionState {
    /// `connected`; `changed` if somebody changed at Twilio what we had set; `connecting` and `restoring` if a request
    /// was not finished: repeat it.
    state: State,
    /// When it was connected.
    #[schema(value_type = String, format = "date-time")]
    since: Timestamp,
}

/// A page of numbers.
#[derive(Serialize, utoipa::ToSchema)]
pub struct NumbersPage {
    /// The numbers, in Twilio's order.
    data: Vec<NumberView>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
    /// On the first page: the messaging services, at most 20. Null on later pages, and if the API key may not list them.
    messaging_services: Option<Vec<ServiceView>>,
    /// SIDs that were connected and that Twilio does not have any more.
    gone: Vec<String>,
}

/// What was, or would be, changed at Twilio.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ConnectionView {
    /// SID of the number or the messaging service.
    sid: String,
    /// Which of the two.
    kind: TargetKind,
    /// True: nothing was changed.
    dry_run: bool,
    /// How it stands; null if it is not connected.
    state: Option<State>,
    /// The settings that differ, each with what it was and what it is (or would be). Others are never touched.
    changes: Vec<Change>,
}

/// Answers one request.
///
/// AWS calls: 3 reads (session, credential, connections), once in five minutes and key 1 read and 1 KMS call with its
/// entry in the access log; connecting and disconnecting 2 transactions. Twilio: to connect and to disconnect 1 read and
/// 1 change; to list 1 read, on the first page 1 more and 1 for each messaging service.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + KeepCredential + KeepConnections + ConfigureNumbers + OpenKey + LoadKeys + Chance + Sync,
{
    answer(request.id, async {
        let (route, segments) = request.route(ROUTES)?;
        let sid = segments.first().copied().unwrap_or_default();
        match route.method {
            "GET" => list(world, site, &request).await,
            "POST" => connect_one(world, site, &request, sid).await,
            _ => disconnect_one(world, site, &request, sid).await,
        }
    })
    .await
}

/// Whose request it is, and what it needs: the stored credential and the way to call Twilio with it.
async fn carrier<W>(world: &W, account: AccountId) -> Result<(StoredCredential, Carrier), Problem>
where
    W: KeepCredential + OpenKey + LoadKeys,
{
    let stored = world.load_credential(account).await?.ok_or_else(|| {
        Problem::new(Kind::NotConnected, "connect a Twilio account first, with PUT /v1/credentials/twilio")
    })?;
    let carrier = open_carrier(world, &stored).await?;
    Ok((stored, carrier))
}

fn target(sid: &str) -> Result<Target, Problem> {
    Target::parse(sid).ok_or_else(|| {
        Problem::not_found("give the SID of a number (PN…) or of a messaging service (MG…); GET /v1/numbers lists them")
    })
}

/// The numbers of the connected Twilio account, read live.
#[utoipa::path(get, path = "/v1/numbers", tag = "numbers",
    params(("limit" = Option<u16>, Query, description = "1 to 1000; 50 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Numbers and messaging services", body = NumbersPage),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Nothing is connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit, or Twilio refuses", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + KeepConnections + ConfigureNumbers + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(50, 1000)?;
    let wrong = || Problem::field("cursor", "invalid", "give next_cursor of the page before");
    let from = query.get("cursor").map(|text| PageMark::parse(text).ok_or_else(wrong)).transpose()?;
    let (_, carrier) = carrier(world, account).await?;
    let (page, services) =
        try_join(async { world.list_numbers(&carrier, limit, from.as_ref()).await.map_err(Problem::from) }, async {
            // They are the same on every page: the first one tells.
            if from.is_some() { Ok(None) } else { services(world, &carrier).await }
        })
        .await?;
    let known = Known::load(world, account).await?;
    let pools = services.as_deref().unwrap_or_default();
    let view = |number: CarrierNumber| {
        let pool = pools.iter().find(|(_, pool)| pool.contains(&number.target));
        NumberView {
            messaging_service_sid: pool.map(|(service, _)| service.target.as_str().to_owned()),
            connection: known.state(&number.target, &number.settings),
            sid: number.target.as_str().to_owned(),
            phone_number: number.phone_number,
            friendly_name: number.friendly_name,
            capabilities: number.capabilities,
        }
    };
    let service_view = |(service, pool): &(CarrierService, Vec<Target>)| ServiceView {
        sid: service.target.as_str().to_owned(),
        friendly_name: service.friendly_name.clone(),
        numbers: pool.len(),
        connection: known.state(&service.target, &service.settings),
    };
    let answer = NumbersPage {
        data: page.numbers.into_iter().map(view).collect(),
        next_cursor: page.next.as_ref().map(PageMark::cursor),
        messaging_services: services.as_ref().map(|services| services.iter().map(service_view).collect()),
        gone: known.gone(),
    };
    Ok(Reply::json(StatusCode::OK, &answer))
}

type Pools = Vec<(CarrierService, Vec<Target>)>;

/// The messaging services with their pools; `None` if the API key may not list them.
async fn services<W: ConfigureNumbers>(world: &W, carrier: &Carrier) -> Result<Option<Pools>, Problem> {
    let services = match world.list_services(carrier, SERVICES).await {
        Ok(services) => services,
        Err(Trouble::NotAllowed | Trouble::NotFound) => return Ok(None),
        Err(trouble) => return Err(trouble.into()),
    };
    let pools = join_all(services.iter().map(|service| world.list_pool(carrier, &service.target))).await;
    let pools = pools.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(Some(services.into_iter().zip(pools).collect()))
}

/// The account's connections with their snapshots.
struct Known(Vec<(Connection, Snapshot)>);

impl Known {
    async fn load<W: KeepConnections + OpenKey + LoadKeys>(world: &W, account: AccountId) -> Result<Self, Fault> {
        let mut known = Vec::new();
        for connection in world.list_connections(account).await? {
            let snapshot = open(world, &connection).await?;
            known.push((connection, snapshot));
        }
        Ok(Self(known))
    }

    /// How a connection stands, now that Twilio has these settings.
    fn state(&self, target: &Target, now: &Settings) -> Option<ConnectionState> {
        let found = self.0.iter().find(|(connection, _)| connection.target == *target);
        found.map(|(connection, snapshot)| ConnectionState {
            state: look(Some(now), snapshot, connection.state),
            since: connection.since,
        })
    }

    fn gone(&self) -> Vec<String> {
        let gone = self.0.iter().filter(|(connection, _)| connection.state == State::Gone);
        gone.map(|(connection, _)| connection.target.as_str().to_owned()).collect()
    }
}

async fn open<W: OpenKey + LoadKeys>(world: &W, connection: &Connection) -> Result<Snapshot, Fault> {
    let version = connection.snapshot.key_version()?;
    let key = data_key(world, connection.account, Purpose::Profile, Some(version)).await?;
    Snapshot::open(&connection.snapshot, &key, &connection.target)
}

/// Connect a number or a messaging service: texts that arrive come here.
///
/// What stands at Twilio is remembered first, then our webhook is set: `SmsUrl` and `SmsMethod`, and no application in
/// front of them; for a messaging service `InboundRequestUrl`, `InboundMethod` and `UseInboundWebhookOnNumber`. If this
/// TelBuddy has a second host, the fallback is set to it too (`SmsFallbackUrl`, `SmsFallbackMethod`; `FallbackUrl`,
/// `FallbackMethod`). Nothing else is touched. A request that was cut off is finished by repeating it.
#[utoipa::path(post, path = "/v1/numbers/{sid}/connection", tag = "numbers",
    params(("sid" = String, Path, description = "PN… or MG…"),
        ("dry_run" = Option<bool>, Query, description = "true: only show what would change")),
    responses(
    (status = 200, description = "What was changed, or would be", body = ConnectionView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "The Twilio account has no such number", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Nothing is connected, or somebody changed at Twilio what we had set: nothing was \
        overwritten", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Twilio refuses", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn connect_one<W>(world: &W, site: &Site, request: &Request, sid: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + KeepConnections + ConfigureNumbers + OpenKey + LoadKeys + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let target = target(sid)?;
    let dry_run = request.query(&["dry_run"])?.flag("dry_run")?;
    let (stored, carrier) = carrier(world, account).await?;
    let known = known(world, account, &target).await?;
    let now = world.read_settings(&carrier, &target).await?;
    let ours = Settings::ours(target.kind(), &site.origin, site.fallback.as_deref(), &stored.hook);
    let plan = connect(
        &now,
        &ours,
        &stored.account_sid,
        known.as_ref().map(|(connection, snapshot)| (connection.state, snapshot)),
    );
    let known = known.map(|(connection, _)| connection);
    let (changes, state) = match plan {
        Connect::Changed(changes) => return Err(changed(&changes, CHANGED_BEFORE_CONNECT)),
        Connect::Stands if dry_run => (Vec::new(), known.map(|known| known.state)),
        Connect::Set(snapshot) if dry_run => (now.changes(&snapshot.set), known.map(|known| known.state)),
        Connect::Stands => {
            if let Some(known) = known.filter(|known| known.state != State::Connected) {
                update(world, &known.moved(State::Connected, request.now)).await?;
            }
            (Vec::new(), Some(State::Connected))
        }
        Connect::Set(snapshot) => {
            let key = data_key(world, account, Purpose::Profile, None).await?;
            let begun = begin(world, request, (known.as_ref(), &stored), &key, (&target, &snapshot)).await?;
            let set = world.write_settings(&carrier, &target, &snapshot.set).await;
            if let Err(trouble) = set
                && known.is_none()
                && trouble != Trouble::Unreachable
            {
                // It certainly did not take place, and nothing is to be given back.
                world.end_connection(&begun).await?;
            }
            stands(&set?, &snapshot.set)?;
            let (mut done, kept) = (begun.moved(State::Connected, request.now), snapshot.settled(&ours));
            if kept != snapshot {
                done.snapshot = kept.seal(&key, &target, world.random()?)?;
            }
            update(world, &done).await?;
            (now.changes(&snapshot.set), Some(State::Connected))
        }
    };
    Ok(view(&target, dry_run, state, changes))
}

async fn known<W>(world: &W, account: AccountId, target: &Target) -> Result<Option<(Connection, Snapshot)>, Fault>
where
    W: KeepConnections + OpenKey + LoadKeys,
{
    let Some(connection) = world.load_connection(account, target).await? else { return Ok(None) };
    let snapshot = open(world, &connection).await?;
    Ok(Some((connection, snapshot)))
}

/// Writes down what stands at Twilio and what will, before Twilio is told.
async fn begin<W>(
    world: &W,
    request: &Request,
    (known, stored): (Option<&Connection>, &StoredCredential),
    key: &DataKey,
    (target, snapshot): (&Target, &Snapshot),
) -> Result<Connection, Problem>
where
    W: KeepConnections + Chance,
{
    let sealed = snapshot.seal(key, target, world.random()?)?;
    if let Some(known) = known {
        let begun = Connection { snapshot: sealed, ..known.moved(State::Connecting, request.now) };
        update(world, &begun).await?;
        return Ok(begun);
    }
    let begun = Connection {
        account: stored.account,
        target: target.clone(),
        state: State::Connecting,
        snapshot: sealed,
        revision: 0,
        since: request.now,
        seen: request.now,
    };
    match world.begin_connection(&begun, stored, request.now + CHECK_SOON).await? {
        Begun::Stored => Ok(begun),
        Begun::Raced => Err(raced()),
    }
}

async fn update<W: KeepConnections>(world: &W, connection: &Connection) -> Result<(), Problem> {
    let wait = if connection.state == State::Connected { CHECK_EVERY } else { CHECK_SOON };
    let written = world.update_connection(connection, connection.seen + wait).await?;
    if written { Ok(()) } else { Err(raced()) }
}

fn raced() -> Problem {
    Problem::from(Fault::transient("the connection or the credential was changed at the same time"))
}

/// Twilio answers a change with what stands there then.
fn stands(now: &Settings, wanted: &Settings) -> Result<(), Problem> {
    let differ = wanted.changed_in(now);
    if differ.is_empty() {
        return Ok(());
    }
    let detail =
        "Twilio took the change and stored something else; look at the settings in its Console, then repeat this";
    Err(Problem::new(Kind::CarrierRejected, detail).with_errors(differ.iter().map(|change| {
        (change.setting.clone(), "stored_differently", format!("asked for {:?}, stored {:?}", change.from, change.to))
    })))
}

fn view(target: &Target, dry_run: bool, state: Option<State>, changes: Vec<Change>) -> Reply {
    let (sid, kind) = (target.as_str().to_owned(), target.kind());
    Reply::json(StatusCode::OK, &ConnectionView { sid, kind, dry_run, state, changes })
}

const CHANGED_BEFORE_CONNECT: &str = "somebody changed at Twilio what we had set, and nothing was overwritten: to connect \
     again, first DELETE this connection with ?when_changed=keep (leaves Twilio as it is now) or ?when_changed=restore \
     (puts back what stood there before)";
const CHANGED_BEFORE_RESTORE: &str = "somebody changed at Twilio what we had set, and nothing was overwritten: repeat \
     this with ?when_changed=keep (leaves Twilio as it is now) or ?when_changed=restore (puts back what stood there before)";

fn changed(changes: &[Change], detail: &str) -> Problem {
    Problem::new(Kind::NumberChanged, detail).with_errors(changes.iter().map(|change| {
        (change.setting.clone(), "changed", format!("we had set {:?}, now it is {:?}", change.from, change.to))
    }))
}

/// Give a number or a messaging service back as it was before it was connected, byte for byte.
#[utoipa::path(delete, path = "/v1/numbers/{sid}/connection", tag = "numbers",
    params(("sid" = String, Path, description = "PN… or MG…"),
        ("when_changed" = Option<String>, Query, description = "If somebody changed at Twilio what we had set: `keep` \
            leaves it, `restore` overwrites it; left out: 409 with what was changed")),
    responses(
    (status = 200, description = "What was put back", body = ConnectionView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "It is not connected", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Nothing is connected, or somebody changed at Twilio what we had set: nothing was \
        overwritten", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit, or Twilio refuses", body = telbuddy::edge::ProblemBody),
    (status = 503, description = "Twilio cannot be asked", body = telbuddy::edge::ProblemBody)))]
async fn disconnect_one<W>(world: &W, site: &Site, request: &Request, sid: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepCredential + KeepConnections + ConfigureNumbers + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let target = target(sid)?;
    let when_changed = when_changed(request)?;
    let known = known(world, account, &target).await?;
    let (connection, snapshot) = known.ok_or_else(|| Problem::not_found("this one is not connected"))?;
    let stored = world.load_credential(account).await?;
    let Some(stored) = stored.filter(|stored| stored.account_sid == snapshot.account_sid) else {
        return forget(world, &connection, &snapshot, when_changed).await;
    };
    let carrier = open_carrier(world, &stored).await?;
    let now = match world.read_settings(&carrier, &target).await {
        Ok(now) => Some(now),
        Err(Trouble::NotFound) => None,
        Err(trouble) => return Err(trouble.into()),
    };
    let (connection, changes) = match disconnect(now.as_ref(), &snapshot, when_changed) {
        Disconnect::Changed(changes) => return Err(changed(&changes, CHANGED_BEFORE_RESTORE)),
        Disconnect::Forget => (connection, Vec::new()),
        Disconnect::Restore => {
            let restoring = connection.moved(State::Restoring, request.now);
            update(world, &restoring).await?;
            stands(&world.write_settings(&carrier, &target, &snapshot.before).await?, &snapshot.before)?;
            (restoring, now.unwrap_or_default().changes(&snapshot.before))
        }
    };
    if world.end_connection(&connection).await? { Ok(view(&target, false, None, changes)) } else { Err(raced()) }
}

/// Its Twilio account is not connected: nothing can be put back, only forgotten, and only when that is asked for.
async fn forget<W: KeepConnections>(
    world: &W,
    connection: &Connection,
    snapshot: &Snapshot,
    when_changed: WhenChanged,
) -> Result<Reply, Problem> {
    if when_changed != WhenChanged::Keep {
        let account_sid = snapshot.account_sid.as_str();
        let detail = format!(
            "it belongs to the Twilio account {account_sid}, which is not connected: connect that one first, or add \
             ?when_changed=keep to leave Twilio as it is and forget what stood there before"
        );
        return Err(Problem::new(Kind::NotConnected, detail));
    }
    if world.end_connection(connection).await? {
        Ok(view(&connection.target, false, None, Vec::new()))
    } else {
        Err(raced())
    }
}

fn when_changed(request: &Request) -> Result<WhenChanged, Problem> {
    match request.query(&["when_changed"])?.get("when_changed") {
        None => Ok(WhenChanged::Ask),
        Some("keep") => Ok(WhenChanged::Keep),
        Some("restore") => Ok(WhenChanged::Restore),
        Some(_) => Err(Problem::field("when_changed", "invalid", "give keep or restore, or leave it out")),
    }
}

#[derive(OpenApi)]
#[openapi(paths(list, connect_one, disconnect_one))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
