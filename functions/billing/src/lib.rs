//! /v1/billing/…: plans, Stripe's pages to subscribe, to buy credits and to manage both, and invoices, read at Stripe
//! when asked. Cards, names and addresses never come here (promise N13).

mod view;

use data_encoding::BASE64URL_NOPAD;
use http::StatusCode;
use sha2::{Digest, Sha256};
use telbuddy::api_key::Scope;
use telbuddy::billing::{
    Billing, Checkout, KeepBilling, KeepCustomer, OpenPortal, OperationKey, PlanPrices, ReadInvoices, ReadSubscription,
    Sale, Standing, StartCheckout, StripeId, TOP_UPS, credits_for,
};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::message::IdempotencyKey;
use telbuddy::session::{KeepSessions, Site, caller};
use utoipa::OpenApi;

use view::{InvoicePage, InvoiceView, NewCheckout, NewTopUp, Offer, Page, SubscriptionView};

const PLANS: &str = "/v1/billing/plans";
const CHECKOUT: &str = "/v1/billing/checkout";
const TOP_UP: &str = "/v1/billing/top-ups";
const PORTAL: &str = "/v1/billing/portal";
const SUBSCRIPTION: &str = "/v1/billing/subscription";
const INVOICES: &str = "/v1/billing/invoices";

const READ: Access = Access::Scope(Scope::AccountRead);

/// The routes of this function. Who buys is a person.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: PLANS, access: Access::Open },
    Route { method: "POST", path: CHECKOUT, access: Access::Session },
    Route { method: "POST", path: TOP_UP, access: Access::Session },
    Route { method: "POST", path: PORTAL, access: Access::Session },
    Route { method: "GET", path: SUBSCRIPTION, access: READ },
    Route { method: "GET", path: INVOICES, access: READ },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::PlatformSecret, Need::Stripe];

/// Answers one request.
///
/// AWS calls, beside 1 read of the session or key and once a minute 1 write of its last call: 1 read; of the first
/// purchase of an account 1 transaction; once per environment 1 read of the secret. Plans: none. Stripe: 1 request; of
/// the first purchase 2; of what was never bought none.
pub async fn handle<W>(world: &W, site: &Site, prices: &PlanPrices, request: Request) -> Reply
where
    W: KeepSessions + KeepBilling + KeepCustomer + StartCheckout + OpenPortal + ReadSubscription + ReadInvoices + Sync,
{
    answer(request.id, async {
        let (route, _) = request.route(ROUTES)?;
        if route.path == PLANS {
            return plans(prices, &request);
        }
        let account = caller(world, site, &request, ROUTES).await?.account;
        match route.path {
            CHECKOUT => checkout(world, site, prices, &request, account).await,
            TOP_UP => top_up(world, site, prices, &request, account).await,
            PORTAL => portal(world, site, &request, account).await,
            SUBSCRIPTION => subscription(world, prices, &request, account).await,
            _ => invoices(world, &request, account).await,
        }
    })
    .await
}

/// What is sold: plans with their credits, and credits by themselves.
#[utoipa::path(get, path = "/v1/billing/plans", tag = "billing", responses(
    (status = 200, description = "Prices are in US dollars, without tax", body = Offer)))]
fn plans(prices: &PlanPrices, request: &Request) -> Result<Reply, Problem> {
    request.query(&[])?;
    Ok(Reply::json(StatusCode::OK, &Offer::of(prices)))
}

/// Get a page at Stripe to subscribe to a plan.
///
/// The subscription begins when it is paid there. An account has one: to change or end it, open the portal.
#[utoipa::path(post, path = "/v1/billing/checkout", tag = "billing", request_body = NewCheckout,
    params(("Idempotency-Key" = String, Header, description = "Repeat it to get the same page again")),
    responses(
    (status = 201, description = "Open the page", body = Page),
    (status = 400, description = "No Idempotency-Key", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is sold in this deployment", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "The account has a subscription", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn checkout<W>(
    world: &W,
    site: &Site,
    prices: &PlanPrices,
    request: &Request,
    account: AccountId,
) -> Result<Reply, Problem>
where
    W: KeepBilling + KeepCustomer + StartCheckout + ReadSubscription + Sync,
{
    let key = idempotency(request)?;
    let ask: NewCheckout = request.json()?;
    check_selling(prices)?;
    let price = prices.price(ask.plan).cloned();
    let price = price.ok_or_else(|| Problem::field("plan", "invalid", "the trial is not sold: give another plan"))?;
    let kept = world.load_billing(account).await?;
    if let Some(standing) = kept.as_ref().and_then(|kept| kept.standing.as_ref()) {
        check_no_subscription(world, prices, standing, request).await?;
    }
    let sale = Sale::Subscription { price };
    open_checkout(world, site, account, kept, sale, &OperationKey::new("checkout", account, &key)).await
}

/// What is stored may be older than what was bought or ended meanwhile: Stripe is asked.
async fn check_no_subscription<W: ReadSubscription>(
    world: &W,
    prices: &PlanPrices,
    stored: &Standing,
    request: &Request,
) -> Result<(), Problem> {
    let read = world.read_subscription(&stored.subscription).await?;
    if read.is_some_and(|read| Standing::of(&read, prices, Some(stored), request.now).is_alive()) {
        let detail = "the account has a subscription: change or end it in the portal, POST /v1/billing/portal";
        return Err(Problem::new(Kind::Subscribed, detail));
    }
    Ok(())
}

/// Get a page at Stripe to buy credits. They come when they are paid, and do not depend on a plan.
#[utoipa::path(post, path = "/v1/billing/top-ups", tag = "billing", request_body = NewTopUp,
    params(("Idempotency-Key" = String, Header, description = "Repeat it to get the same page again")),
    responses(
    (status = 201, description = "Open the page", body = Page),
    (status = 400, description = "No Idempotency-Key", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "Nothing is sold in this deployment", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn top_up<W>(
    world: &W,
    site: &Site,
    prices: &PlanPrices,
    request: &Request,
    account: AccountId,
) -> Result<Reply, Problem>
where
    W: KeepBilling + KeepCustomer + StartCheckout + Sync,
{
    let key = idempotency(request)?;
    let ask: NewTopUp = request.json()?;
    check_selling(prices)?;
    let offered = TOP_UPS.into_iter().find(|cents| credits_for((*cents).into()).0 == ask.credits_micro);
    let detail = "there is no such top-up: GET /v1/billing/plans lists them";
    let cents = offered.ok_or_else(|| Problem::field("credits_micro", "invalid", detail))?;
    let name = format!("{} TelBuddy credits", credits_for(cents.into()).0 / 1_000_000);
    let kept = world.load_billing(account).await?;
    let sale = Sale::TopUp { cents, name };
    open_checkout(world, site, account, kept, sale, &OperationKey::new("top-up", account, &key)).await
}

async fn open_checkout<W>(
    world: &W,
    site: &Site,
    account: AccountId,
    kept: Option<Billing>,
    sale: Sale,
    key: &OperationKey,
) -> Result<Reply, Problem>
where
    W: KeepBilling + KeepCustomer + StartCheckout + Sync,
{
    let customer = match kept {
        Some(kept) => kept.customer,
        None => first_customer(world, account).await?,
    };
    let checkout = Checkout {
        account,
        customer,
        sale,
        // The last part is Stripe's own: it puts the id in.
        success_url: format!("{}/billing?checkout={{CHECKOUT_SESSION_ID}}", site.app),
        cancel_url: format!("{}/billing", site.app),
    };
    let session = world.start_checkout(&checkout, key).await?;
    tracing::info!(account.id = %account, checkout.id = %session.id, "a checkout is open: {}", session.id);
    match session.url {
        Some(url) => Ok(Reply::json(StatusCode::CREATED, &Page { url })),
        // The answer is that of the first request, and its checkout is over.
        None => {
            Err(Problem::new(Kind::CheckoutOver, "this checkout is over: begin another with a new Idempotency-Key"))
        }
    }
}

/// Makes the account's customer at Stripe. Two at once end with one: the operation is the account's.
async fn first_customer<W: KeepBilling + KeepCustomer>(world: &W, account: AccountId) -> Result<StripeId, Problem> {
    let made = world.make_customer(account, &OperationKey::new("customer", account, "first")).await?;
    Ok(world.keep_customer(account, &made).await?)
}

/// Get a page at Stripe to change the plan, how it is paid, and what stands on invoices, or to end the subscription.
#[utoipa::path(post, path = "/v1/billing/portal", tag = "billing", responses(
    (status = 201, description = "Open the page within minutes", body = Page),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Nothing was ever bought", body = telbuddy::edge::ProblemBody)))]
async fn portal<W>(world: &W, site: &Site, request: &Request, account: AccountId) -> Result<Reply, Problem>
where
    W: KeepBilling + OpenPortal + Sync,
{
    let Some(kept) = world.load_billing(account).await? else {
        let detail = "nothing was bought yet: begin with POST /v1/billing/checkout or POST /v1/billing/top-ups";
        return Err(Problem::new(Kind::NothingBought, detail));
    };
    // Each click is an operation of its own: the page is good for minutes.
    let key = OperationKey::new("portal", account, &request.id.to_string());
    let url = world.open_portal(&kept.customer, &format!("{}/billing", site.app), &key).await?;
    Ok(Reply::json(StatusCode::CREATED, &Page { url }))
}

/// What you have subscribed to, as it stands at Stripe now.
#[utoipa::path(get, path = "/v1/billing/subscription", tag = "billing", responses(
    (status = 200, description = "Without a subscription: the trial", body = SubscriptionView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody)))]
async fn subscription<W>(
    world: &W,
    prices: &PlanPrices,
    request: &Request,
    account: AccountId,
) -> Result<Reply, Problem>
where
    W: KeepBilling + ReadSubscription + Sync,
{
    request.query(&[])?;
    let stored = world.load_billing(account).await?.and_then(|kept| kept.standing);
    let now = match &stored {
        Some(stored) => {
            let read = world.read_subscription(&stored.subscription).await?;
            read.map(|read| Standing::of(&read, prices, Some(stored), request.now))
        }
        None => None,
    };
    Ok(Reply::json(StatusCode::OK, &SubscriptionView::of(now.as_ref())))
}

/// Your invoices, with links to Stripe's pages of them. They are read there and kept nowhere here.
#[utoipa::path(get, path = "/v1/billing/invoices", tag = "billing",
    params(("limit" = Option<u16>, Query, description = "1 to 100; 20 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Newest first", body = InvoicePage),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn invoices<W>(world: &W, request: &Request, account: AccountId) -> Result<Reply, Problem>
where
    W: KeepBilling + ReadInvoices + Sync,
{
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(20, 100)?;
    let wrong = || Problem::field("cursor", "invalid", "give next_cursor of the page before");
    let after: Option<StripeId> = query.get("cursor").map(str::parse).transpose().map_err(|_| wrong())?;
    let Some(kept) = world.load_billing(account).await? else {
        return Ok(Reply::json(StatusCode::OK, &InvoicePage { data: Vec::new(), next_cursor: None }));
    };
    let listed = world.list_invoices(&kept.customer, after.as_ref(), limit).await;
    let listed = listed.map_err(|error| if error.is_missing() { wrong() } else { error.into() })?;
    let next_cursor = listed.data.last().filter(|_| listed.has_more).map(|last| last.id.to_string());
    let data = listed.data.into_iter().map(InvoiceView::from).collect();
    Ok(Reply::json(StatusCode::OK, &InvoicePage { data, next_cursor }))
}

fn check_selling(prices: &PlanPrices) -> Result<(), Problem> {
    if prices.is_selling() {
        return Ok(());
    }
    Err(Problem::not_found("nothing is sold here: this deployment has no prices of Stripe's"))
}

/// The caller's key as part of an operation's: hashed, since Stripe has no use for what callers write there.
fn idempotency(request: &Request) -> Result<String, Problem> {
    let key = IdempotencyKey::parse(request.header("idempotency-key"))?;
    Ok(BASE64URL_NOPAD.encode(&Sha256::digest(key.as_str())))
}

#[derive(OpenApi)]
#[openapi(paths(plans, checkout, top_up, portal, subscription, invoices))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
