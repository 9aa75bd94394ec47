//! GET and PATCH /v1/account: what the account is, and by which time zone its days begin. Who owns it is sealed, and not
//! shown here.

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::account::{Gate, LoadGate, SaveZone};
use telbuddy::edge::{Problem, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::Zone;
use telbuddy::number::Country;
use telbuddy::session::{KeepSessions, Site, caller};

use crate::ROUTES;

/// An account.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Account)]
pub(crate) struct AccountView {
    /// Names it.
    #[schema(value_type = String, example = "acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: AccountId,
    /// Its own country: numbers without a prefix are read as of there.
    #[schema(value_type = String, example = "AT")]
    country: Country,
    /// By which its days and months begin, of usage and statements.
    #[schema(value_type = String, example = "Europe/Vienna")]
    time_zone: Zone,
    /// When it signed up.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
}

/// A change of an account.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeAccount {
    /// A time zone of the IANA database.
    #[schema(example = "Europe/Vienna")]
    time_zone: String,
}

/// Show the account.
#[utoipa::path(get, path = "/v1/account", tag = "account", responses(
    (status = 200, description = "The account", body = AccountView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
pub(crate) async fn show<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadGate + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let gate = world.load_gate(account).await?.ok_or_else(no_gate)?;
    Ok(Reply::json(StatusCode::OK, &view(account, gate)))
}

/// Change the account's time zone.
///
/// Days and months begin by it from then on: of usage, of statements, and of what is asked for by days. What was counted
/// stays where it is, so that the day of the change may be longer or shorter than others. Hours are UTC always.
#[utoipa::path(patch, path = "/v1/account", tag = "account", request_body = ChangeAccount, responses(
    (status = 200, description = "Saved; the last of several at the same time stands", body = AccountView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "No such time zone", body = telbuddy::edge::ProblemBody)))]
pub(crate) async fn change<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + SaveZone + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let ask: ChangeAccount = request.json()?;
    let zone = Zone::parse(&ask.time_zone);
    let zone = zone.map_err(|error| Problem::field("time_zone", "invalid", error.to_string()))?;
    let gate = world.save_zone(account, &zone).await?.ok_or_else(no_gate)?;
    tracing::info!(account.id = %account, zone = zone.as_str(), "the time zone of {account} was saved");
    Ok(Reply::json(StatusCode::OK, &view(account, gate)))
}

fn view(id: AccountId, gate: Gate) -> AccountView {
    AccountView { id, country: gate.home, time_zone: gate.zone, created_at: id.made() }
}

fn no_gate() -> Fault {
    Fault::permanent("the account has no gate")
}
