//! GET /v1/credits: what is left, of which credits, when they end, and how far the warnings are.

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use telbuddy::edge::{Problem, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::ledger::{Balance, CreditKind, KeepPurse, Lot, MicroCredits, Overage, PurseFacts};
use telbuddy::session::{KeepSessions, Site, caller};

use crate::ROUTES;

/// How often it is read again when credits were given or ended between two rows.
const LOOKS: u32 = 3;

/// What is left, in millionths of a credit.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Credits {
    /// Credit that is free for new messages.
    available_micro: MicroCredits,
    /// Reserved for messages on their way.
    held_micro: MicroCredits,
    /// Everything that was ever charged, after corrections.
    used_micro: MicroCredits,
    /// Used beyond all credit and what may be used beyond it: while it is above zero nothing is sent.
    owed_micro: MicroCredits,
    /// What may be used beyond all credit; null: nothing.
    overage: Option<OverageNow>,
    /// What there is, the first to be used first, as if all that was used were taken from it by now. As long as nothing is
    /// reserved or used beyond all credit, what is left in all of them is what is available and held.
    lots: Vec<LotView>,
    /// What ends in the next 30 days.
    expiring: Expiring,
    /// What warnings go by.
    warnings: Warnings,
}

/// What may be used beyond all credit and is billed afterwards, as wished with `PUT /v1/credits/overage`.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OverageNow {
    /// The most of a calendar month.
    monthly_limit_micro: MicroCredits,
    /// The month by the account's time zone.
    #[schema(example = "2026-11")]
    month: String,
    /// Used of it in this month and billed. It is billed once an hour.
    billed_micro: MicroCredits,
    /// Used of it and not billed yet.
    unbilled_micro: MicroCredits,
    /// What new messages may still use beyond all credit.
    left_micro: MicroCredits,
}

/// Credits that came together.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = CreditLot)]
pub struct LotView {
    /// Whether they came with a plan or the trial, or were bought.
    kind: CreditKind,
    /// How many came.
    granted_micro: MicroCredits,
    /// How many are left, what is reserved counted in.
    left_micro: MicroCredits,
    /// When they end; null: never. What is reserved by then ends when it is given back.
    #[schema(value_type = Option<String>, format = "date-time")]
    expires_at: Option<Timestamp>,
}

/// Credits that end in the next 30 days.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ExpiringCredits)]
pub struct Expiring {
    /// What is left of all of them.
    total_micro: MicroCredits,
    /// The soonest first.
    lots: Vec<LotView>,
}

/// The period of warnings: it begins with included credits. At 50, 80 and 100 percent the owner gets one mail each, and
/// endpoints the event `credits.used`.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = CreditWarnings)]
pub struct Warnings {
    /// When the period began.
    #[schema(value_type = String, format = "date-time")]
    period_began_at: Timestamp,
    /// What there was then and was bought since.
    credit_micro: MicroCredits,
    /// What was used of it.
    used_micro: MicroCredits,
    /// The same in percent, rounded down; null if there was no credit.
    #[schema(example = 57)]
    percent: Option<u64>,
    /// The highest warning that was given in the period: 0, 50, 80 or 100.
    #[schema(example = 50)]
    warned_percent: u8,
}

impl From<Lot> for LotView {
    fn from(lot: Lot) -> Self {
        Self { kind: lot.kind, granted_micro: lot.granted, left_micro: lot.left, expires_at: lot.expires }
    }
}

impl Credits {
    fn of(balance: Balance, now: Timestamp) -> Self {
        let (soon, total_micro) = balance.ending_soon(now);
        let warnings = Warnings {
            period_began_at: balance.period.began,
            credit_micro: balance.period.credit,
            used_micro: balance.used_in_period,
            percent: balance.percent(),
            warned_percent: balance.period.warned,
        };
        let (unbilled_micro, left_micro) = (balance.beyond_unbilled, balance.beyond_left);
        let overage = balance.overage.map(|Overage { monthly_limit, month, billed }| OverageNow {
            monthly_limit_micro: monthly_limit,
            month,
            billed_micro: billed,
            unbilled_micro,
            left_micro,
        });
        Self {
            overage,
            available_micro: balance.available,
            held_micro: balance.held,
            used_micro: balance.used,
            owed_micro: balance.owed,
            expiring: Expiring { total_micro, lots: soon.into_iter().map(LotView::from).collect() },
            lots: balance.lots.into_iter().map(LotView::from).collect(),
            warnings,
        }
    }
}

/// What is left.
///
/// All numbers are of one moment, also while messages are charged.
#[utoipa::path(get, path = "/v1/credits", tag = "usage", responses(
    (status = 200, description = "The account's credit", body = Credits),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
pub async fn credits<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepPurse + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let facts = look(world, account).await?;
    Ok(Reply::json(StatusCode::OK, &Credits::of(Balance::of(&facts, request.now), request.now)))
}

/// Purse and allowance of one moment. Both are read in one call, but not in one instant; charges in between do not tear
/// them apart, and where credits were given or ended in between, it is read again.
pub(crate) async fn look<W: KeepPurse>(world: &W, account: AccountId) -> Result<PurseFacts, Fault> {
    let mut looks = 1;
    loop {
        let facts = world.load_purse(account).await?.ok_or(Fault::permanent("the account has no allowance"))?;
        if facts.go_together() {
            return Ok(facts);
        }
        if looks == LOOKS {
            tracing::error!(account.id = %account, "purse and allowance of {account} do not go together: look at them");
            return Ok(facts);
        }
        looks += 1;
    }
}
