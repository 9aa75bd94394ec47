//! The sending policy (destinations, daily ceiling, quiet hours), what stops sending, and lifting a freeze.

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::account::{
    FindUser, FreezeReason, Gate, Lift, LiftFreeze, LoadGate, MOST_COUNTRIES, Policy, QuietHours, Risk, SavePolicy,
    Stop,
};
use telbuddy::api_key::Scope;
use telbuddy::credential::Sid;
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, UserId};
use telbuddy::live::Need;
use telbuddy::message::Sender;
use telbuddy::number::{Country, SenderId};
use telbuddy::pace::{MOST_PER_SECOND, MOST_RATES, SenderRates};
use telbuddy::platform::{CountTries, PlatformKeys};
use telbuddy::secret::SecretString;
use telbuddy::session::{By, KeepSessions, Site, Way, caller, count_password_try, not_signed_in};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/sending-policy", access: Access::Scope(Scope::SendingPolicyRead) },
    Route { method: "PUT", path: "/v1/sending-policy", access: Access::Scope(Scope::SendingPolicyWrite) },
    Route { method: "POST", path: "/v1/account/sending/unfreeze", access: Access::Session },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::PlatformSecret];

/// The whole policy; it replaces the one before.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendingPolicy {
    /// Destinations that are allowed, by ISO 3166 codes of two letters; at least one.
    #[schema(example = json!(["CA", "US"]), min_items = 1)]
    countries: Vec<String>,
    /// Segments that may be accepted in one UTC day.
    #[schema(example = 500, minimum = 1, maximum = 1_000_000)]
    daily_ceiling_segments: u64,
    /// When recipients are not to be disturbed, by the clock of where they are; null: never.
    #[serde(deserialize_with = "Option::deserialize")]
    #[schema(required)]
    quiet_hours: Option<QuietHoursBody>,
    /// Senders that are faster or slower than what is usual for their kind: a long code of the US or Canada 1 segment a
    /// second, toll-free 3, other numbers and names 10, short codes 100, a messaging service as fast as it comes. Left
    /// out: none.
    #[serde(default)]
    #[schema(max_items = 100)]
    sender_rates: Vec<SenderRate>,
}

/// How fast a sender is.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SenderRate {
    /// A number, short code, name or messaging service, as in `from` or `messaging_service_sid` of a message.
    #[schema(example = "+14155550100")]
    sender: String,
    /// Segments that are handed to Twilio in a second; with a 10DLC campaign, what Twilio shows for it.
    #[schema(example = 12, minimum = 1, maximum = 1_000)]
    segments_per_second: u32,
}

/// Hours of a day; over midnight if `to` is earlier.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuietHours)]
pub struct QuietHoursBody {
    /// From then on.
    #[schema(example = "21:00")]
    from: String,
    /// Until then.
    #[schema(example = "08:00")]
    to: String,
}

/// Who lifts a freeze.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Unfreeze {
    /// The password again.
    #[schema(value_type = String, format = "password")]
    password: SecretString,
    /// The freeze that is meant, by its `since`; a newer one is not lifted. Left out: the one that is there.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "date-time")]
    since: Option<Timestamp>,
}

/// What may be sent, and what stops it.
#[derive(Serialize, utoipa::ToSchema)]
pub struct PolicyView {
    /// Destinations that are allowed.
    #[schema(value_type = Vec<String>, example = json!(["US"]))]
    countries: Vec<Country>,
    /// Segments that may be accepted in one UTC day.
    daily_ceiling_segments: u64,
    /// When recipients are not to be disturbed, by the clock of where they are.
    quiet_hours: Option<QuietHoursBody>,
    /// Senders with a rate of their own.
    sender_rates: Vec<SenderRate>,
    /// Every reason for which nothing is sent now: `frozen`, `credential_refused`; empty if there is none.
    #[schema(value_type = Vec<String>)]
    stopped: Vec<&'static str>,
    /// The freeze, if sending is frozen.
    frozen: Option<FreezeView>,
    /// The last freeze that was lifted.
    lifted: Option<LiftedView>,
    /// What this change means if somebody else gets into the account; empty if it opens nothing.
    risks: Vec<RiskView>,
}

/// Why sending is frozen.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Freeze)]
pub struct FreezeView {
    /// The pattern.
    reason: FreezeReason,
    /// Since when.
    #[schema(value_type = String, format = "date-time")]
    since: Timestamp,
    /// What was seen and what to do.
    detail: String,
}

/// That a freeze was lifted.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Lifted)]
pub struct LiftedView {
    /// When.
    #[schema(value_type = String, format = "date-time")]
    at: Timestamp,
    /// By which user.
    #[schema(value_type = String, example = "usr_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    by: UserId,
}

/// A risk.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = PolicyRisk)]
pub struct RiskView {
    /// A stable word: `ceiling_raised`, `countries_added`.
    code: &'static str,
    /// What it means.
    detail: String,
}

impl PolicyView {
    fn of(gate: Gate, risks: &[Risk]) -> Self {
        let quiet = |QuietHours { from, to }| QuietHoursBody { from: from.to_string(), to: to.to_string() };
        let frozen = gate.frozen.map(|freeze| FreezeView {
            reason: freeze.reason,
            since: freeze.since,
            detail: format!(
                "{}; look at GET /v1/messages, and if it was you, lift it with POST /v1/account/sending/unfreeze; if \
                 not, first change the password, end all sessions and revoke API keys",
                freeze.reason.detail()
            ),
        });
        Self {
            stopped: gate.stops().into_iter().flatten().map(Stop::as_str).collect(),
            countries: gate.countries,
            daily_ceiling_segments: gate.daily_ceiling,
            quiet_hours: gate.quiet_hours.map(quiet),
            sender_rates: (gate.sender_rates.into_iter())
                .map(|(sender, segments_per_second)| SenderRate { sender, segments_per_second })
                .collect(),
            frozen,
            lifted: gate.lifted.map(|lifted| LiftedView { at: lifted.at, by: lifted.by }),
            risks: risks.iter().map(|risk| RiskView { code: risk.as_str(), detail: risk.detail() }).collect(),
        }
    }
}

/// Answers one request.
///
/// AWS calls, beside the session's 1 read and once a minute 1 write: showing 1 read; saving 1 read and 1 write; lifting
/// 1 secret (first time), 3 reads, 3 counters and 1 write.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + LoadGate + SavePolicy + LiftFreeze + FindUser + PlatformKeys + CountTries + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.method {
            "GET" => show(world, site, &request).await,
            "PUT" => save(world, site, &request).await,
            _ => unfreeze(world, site, &request).await,
        }
    })
    .await
}

/// Show the sending policy.
#[utoipa::path(get, path = "/v1/sending-policy", tag = "sending", responses(
    (status = 200, description = "What may be sent, and what stops it", body = PolicyView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn show<W: KeepSessions + LoadGate>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem> {
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    Ok(Reply::json(StatusCode::OK, &PolicyView::of(gate(world, account).await?, &[])))
}

async fn gate<W: LoadGate>(world: &W, account: AccountId) -> Result<Gate, Fault> {
    world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))
}

/// Replace the sending policy. It lifts no freeze and ends no other stop.
#[utoipa::path(put, path = "/v1/sending-policy", tag = "sending", request_body = SendingPolicy, responses(
    (status = 200, description = "Saved; the last of several at the same time stands", body = PolicyView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn save<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + SavePolicy + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let policy = parse(request.json()?)?;
    let risks = policy.risks(&gate(world, account).await?);
    let saved = world.save_policy(account, &policy).await?.ok_or(Fault::permanent("the account has no gate"))?;
    tracing::info!(account.id = %account, risks = risks.len(), "the sending policy of {account} was saved");
    Ok(Reply::json(StatusCode::OK, &PolicyView::of(saved, &risks)))
}

fn parse(ask: SendingPolicy) -> Result<Policy, Problem> {
    let mut fields = Fields::default();
    let mut countries: Vec<Country> = Vec::new();
    if !(1..=MOST_COUNTRIES).contains(&ask.countries.len()) {
        fields.add("countries", "invalid", format!("give 1 to {MOST_COUNTRIES} countries"));
    }
    for (at, code) in ask.countries.iter().take(MOST_COUNTRIES).enumerate() {
        countries.extend(fields.take(&format!("countries[{at}]"), Country::parse(code)));
    }
    countries.sort_unstable();
    countries.dedup();
    if !(1..=Gate::MOST_CEILING).contains(&ask.daily_ceiling_segments) {
        let detail = format!("give a whole number from 1 to {}", Gate::MOST_CEILING);
        fields.add("daily_ceiling_segments", "invalid", detail);
    }
    let quiet_hours = ask.quiet_hours.and_then(|QuietHoursBody { from, to }| {
        let from = fields.take("quiet_hours.from", from.parse());
        let to = fields.take("quiet_hours.to", to.parse());
        let (from, to) = from.zip(to)?;
        if from == to {
            fields.add("quiet_hours.to", "invalid", "give another time than from; to never send, stop".to_owned());
        }
        Some(QuietHours { from, to })
    });
    let sender_rates = rates(&mut fields, &ask.sender_rates);
    fields.done(Policy { countries, daily_ceiling: ask.daily_ceiling_segments, quiet_hours, sender_rates })
}

/// By the text that a message's sender is stored as, so that they are found again.
fn rates(fields: &mut Fields, asked: &[SenderRate]) -> SenderRates {
    let mut rates = SenderRates::new();
    if asked.len() > MOST_RATES {
        fields.add("sender_rates", "invalid", format!("give at most {MOST_RATES} senders"));
    }
    for (at, SenderRate { sender, segments_per_second }) in asked.iter().take(MOST_RATES).enumerate() {
        let service = Sid::parse("MG", sender).map(Sender::Service);
        let sender = service.map_or_else(|_| SenderId::parse(sender).map(Sender::Id), Ok);
        let sender = fields.take(&format!("sender_rates[{at}].sender"), sender);
        if !(1..=MOST_PER_SECOND).contains(segments_per_second) {
            let detail = format!("give a whole number from 1 to {MOST_PER_SECOND}");
            fields.add(&format!("sender_rates[{at}].segments_per_second"), "invalid", detail);
        }
        if sender.is_some_and(|sender| rates.insert(sender.as_str().to_owned(), *segments_per_second).is_some()) {
            fields.add(&format!("sender_rates[{at}].sender"), "invalid", "is there twice".to_owned());
        }
    }
    rates
}

/// Lift a freeze of sending. Nothing else that stops sending ends by it.
#[utoipa::path(post, path = "/v1/account/sending/unfreeze", tag = "sending", request_body = Unfreeze, responses(
    (status = 200, description = "Nothing is frozen any more", body = PolicyView),
    (status = 401, description = "Not signed in, or the password is wrong", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Sending was frozen again since; look first", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Too many tries, log-in's counted too", body = telbuddy::edge::ProblemBody)))]
async fn unfreeze<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + LiftFreeze + FindUser + PlatformKeys + CountTries + Sync,
{
    let caller = caller(world, site, request, ROUTES).await?;
    let not_signed_in = || not_signed_in(Some(Way::Session));
    // The route lets users in only.
    let By::User(lifting) = caller.by else { return Err(not_signed_in()) };
    let ask: Unfreeze = request.json()?;
    let user = world.load_user(caller.account, lifting).await?.ok_or_else(not_signed_in)?;
    let platform = world.platform().await?;
    count_password_try(world, &platform, &user.email, request).await?;
    // Seen before the password is looked at, which takes a while: what comes meanwhile is another freeze.
    let seen = gate(world, caller.account).await?.frozen.map(|freeze| ask.since.unwrap_or(freeze.since));
    if !platform.peppers.matches(&ask.password, Some(&user.password))? {
        return Err(Problem::new(Kind::WrongCredentials, "the password is wrong; nothing was changed"));
    }
    if let Some(seen) = seen {
        match world.lift_freeze(caller.account, seen, lifting, request.now).await? {
            Lift::Done => tracing::warn!(account.id = %caller.account, user.id = %lifting, "a freeze was lifted"),
            Lift::NotFrozen => {}
            Lift::Other(freeze) => {
                let detail = format!("it is frozen since {}: look at GET /v1/sending-policy first", freeze.since);
                return Err(Problem::new(Kind::FrozenAgain, detail));
            }
        }
    }
    Ok(Reply::json(StatusCode::OK, &PolicyView::of(gate(world, caller.account).await?, &[])))
}

#[derive(OpenApi)]
#[openapi(paths(show, save, unfreeze))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
