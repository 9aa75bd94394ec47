//! POST /v1/signup and POST /v1/email-verifications: makes an account, confirms its owner's address.

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use telbuddy::account::{
    CreateAccount, Email, Gate, KeepMailTokens, LINK_PREFIX, NewAccount, Password, Profile, SignedUp, User, parse_label,
};
use telbuddy::credential::MintKey;
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::ids::{AccountId, UserId};
use telbuddy::ledger::TRIAL_CREDIT;
use telbuddy::live::Need;
use telbuddy::number::Country;
use telbuddy::platform::{Chance, CountTries, EnqueueJob, Job, Mail, Platform, PlatformKeys};
use telbuddy::seal::{DataKey, Purpose, WrappedKeys};
use telbuddy::secret::{ExposeSecret, SecretString, Token};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "POST", path: "/v1/signup", access: Access::Open },
    Route { method: "POST", path: "/v1/email-verifications", access: Access::Open },
];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::PlatformSecret, Need::Queues];

/// Tries per caller's address and quarter of an hour.
const TRIES: u32 = 20;
const WINDOW_SECS: u32 = 900;
/// Mails to one address in an hour.
const MAILS: u32 = 5;
const MAIL_WINDOW_SECS: u32 = 3600;

/// What somebody signs up with.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignUp {
    /// Your name.
    #[schema(example = "Ann Example", max_length = 100)]
    name: String,
    /// Your e-mail address; a link to confirm it is mailed there.
    #[schema(example = "ann@example.com", max_length = 254)]
    email: String,
    /// Your company.
    #[schema(example = "Example Ltd", max_length = 100)]
    company: String,
    /// 12 to 256 characters, any of them.
    #[schema(value_type = String, format = "password", min_length = 12, max_length = 256)]
    password: SecretString,
    /// ISO 3166 country; the first destination that messages may go to.
    #[schema(example = "US")]
    country: String,
}

/// A link's token.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailVerification {
    /// The token from the link in the mail.
    #[schema(value_type = String, example = "tbv_…")]
    token: SecretString,
}

/// Answers one request.
///
/// Sign-up, AWS calls: 2 counters, 1 secret (first time), 3 data keys, 1 transaction, 1 queue message; the same for an
/// address that has an account. Verification: 1 counter, 2 reads, 1 transaction.
pub async fn handle<W>(world: &W, request: Request) -> Reply
where
    W: CreateAccount + KeepMailTokens + MintKey + PlatformKeys + EnqueueJob + CountTries + Chance + Sync,
{
    answer(request.id, async {
        match request.route(ROUTES)?.0.path {
            "/v1/signup" => sign_up(world, &request).await,
            _ => verify_email(world, &request).await,
        }
    })
    .await
}

/// Make an account.
#[utoipa::path(post, path = "/v1/signup", tag = "account", request_body = SignUp, responses(
    (status = 202, description = "A mail with a link is on its way, whether or not the address has an account"),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody),
    (status = 429, description = "Too many tries", body = telbuddy::edge::ProblemBody)))]
async fn sign_up<W>(world: &W, request: &Request) -> Result<Reply, Problem>
where
    W: CreateAccount + MintKey + PlatformKeys + EnqueueJob + CountTries + Chance + Sync,
{
    let ask: SignUp = request.json()?;
    let (profile, email, password, country) = parse(ask)?;
    let platform = world.platform().await?;
    limit_tries(world, "signup", &platform, request).await?;

    let index = platform.email_index(&email);
    let account = AccountId::new(request.now, world.dice()?);
    let owner = UserId::new(request.now, world.dice()?);
    let hashed = platform.peppers.hash(&password, world.random()?)?;
    let (profile_key, profile_keys) = mint(world, account, Purpose::Profile).await?;
    let new = NewAccount {
        account,
        owner: User { account, id: owner, email: index.clone(), password: hashed, verified: false },
        profile: profile.seal(&profile_key, world.random()?)?,
        gate: Gate::new(country),
        keys: vec![
            profile_keys,
            mint(world, account, Purpose::Payload).await?.1,
            mint(world, account, Purpose::Match).await?.1,
        ],
        credit: TRIAL_CREDIT,
        now: request.now,
    };
    let (account, user) = match world.create_account(new).await? {
        SignedUp::Created => (account, owner),
        SignedUp::Known(account, user) => (account, user),
    };
    // Nobody's mailbox is flooded from here; the caller is not told.
    if world.count_try(&format!("signup-mail#{}", index.0), MAILS, MAIL_WINDOW_SECS, request.now).await? {
        world.enqueue(Job::Mail { account, user, mail: Mail::SignUp }, 0).await?;
    }
    Ok(Reply::json(StatusCode::ACCEPTED, &json!({ "next": "open the link in the mail that we sent" })))
}

fn parse(ask: SignUp) -> Result<(Profile, Email, Password, Country), Problem> {
    let mut fields = Fields::default();
    let name = fields.take("name", parse_label(&ask.name));
    let company = fields.take("company", parse_label(&ask.company));
    let email = fields.take("email", Email::parse(&ask.email));
    let country = fields.take("country", Country::parse(&ask.country));
    let password = match &email {
        Some(email) => fields.take("password", Password::parse(ask.password, email)),
        None => None,
    };
    match (name, company, email, country, password) {
        (Some(name), Some(company), Some(email), Some(country), Some(password)) => {
            let profile = Profile { name, company, email: email.as_str().to_owned() };
            Ok((profile, email, password, country))
        }
        _ => Err(fields.into_problem()),
    }
}

async fn mint<W: MintKey>(world: &W, account: AccountId, purpose: Purpose) -> Result<(DataKey, WrappedKeys), Problem> {
    let (key, wrapped) = world.mint_key(account, purpose, 1).await?;
    Ok((key, WrappedKeys { account, purpose, versions: vec![wrapped] }))
}

/// Confirm an e-mail address.
#[utoipa::path(post, path = "/v1/email-verifications", tag = "account", request_body = EmailVerification, responses(
    (status = 204, description = "Confirmed: log in"),
    (status = 422, description = "The link is used up, too old or wrong", body = telbuddy::edge::ProblemBody)))]
async fn verify_email<W>(world: &W, request: &Request) -> Result<Reply, Problem>
where
    W: KeepMailTokens + PlatformKeys + CountTries + Sync,
{
    let ask: EmailVerification = request.json()?;
    let platform = world.platform().await?;
    limit_tries(world, "verify", &platform, request).await?;
    let token = Token::parse(LINK_PREFIX, ask.token.expose_secret());
    let confirmed = match token {
        Some(token) => world.confirm_email(token.account(), &token.hash(), request.now).await?,
        None => false,
    };
    if confirmed {
        return Ok(Reply::empty(StatusCode::NO_CONTENT));
    }
    Err(Problem::new(
        Kind::LinkNotValid,
        "the link was used, is older than a day, is not complete, or its address has an account by now: log in, or sign up \
         again to get a new link",
    ))
}

async fn limit_tries<W: CountTries>(
    world: &W,
    what: &str,
    platform: &Platform,
    request: &Request,
) -> Result<(), Problem> {
    let counter = format!("{what}#{}", platform.hash("peer", &request.peer_network()));
    if world.count_try(&counter, TRIES, WINDOW_SECS, request.now).await? {
        return Ok(());
    }
    Err(Problem::new(Kind::TooManyRequests, "too many tries from this address; wait a quarter of an hour"))
}

#[derive(OpenApi)]
#[openapi(paths(sign_up, verify_email))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
