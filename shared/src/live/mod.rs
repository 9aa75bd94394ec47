//! The adapters: the only code that knows AWS, Twilio, Stripe, Lambda and customers' endpoints.

mod clock;
pub mod config;
pub mod dynamo;
mod endpoints;
pub mod local;
mod mail;
mod queue;
pub mod secrets;
mod selfcall;
pub mod serve;
mod stripe;
pub mod telemetry;
mod tls;
mod trace;
mod twilio;
mod vault;

use crate::billing::PlanPrices;
use crate::message::Listings;
use crate::session::Site;

pub use config::{Config, ConfigError};
pub use stripe::STRIPE_VERSION;

use dynamo::Dynamo;
use endpoints::Endpoints;
use mail::Mailer;
use queue::Queues;
use secrets::Secrets;
use selfcall::Door;
use stripe::Stripe;
use twilio::Twilio;
use vault::Vault;

/// A power of a function: which service it calls. The template gives the same list as policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// DynamoDB.
    Tables,
    /// KMS.
    Keys,
    /// Secrets Manager: the platform's secret.
    PlatformSecret,
    /// SQS.
    Queues,
    /// SES.
    Mail,
    /// Twilio's API.
    Twilio,
    /// Stripe's API, with the platform's secret for the key.
    Stripe,
    /// Our own public address.
    Site,
    /// Customers' endpoints.
    Endpoints,
}

/// Every port, kept by the real services. Made once per environment, in init: clients, TLS and configuration; nothing
/// is called until a request needs it.
pub struct Live {
    /// How the site is reached.
    pub site: Site,
    /// When Twilio is asked for what is not known; only the settler does.
    pub listings: Listings,
    /// Which price at Stripe is which plan.
    pub prices: PlanPrices,
    dynamo: Dynamo,
    vault: Vault,
    secrets: Secrets,
    queues: Queues,
    mailer: Mailer,
    twilio: Twilio,
    stripe: Stripe,
    door: Door,
    endpoints: Endpoints,
}

impl Live {
    /// The adapters that `needs` names; the others answer every call with a fault that says so.
    pub fn new(config: &Config, needs: &[Need]) -> Result<Self, ConfigError> {
        let needs = |need| needs.contains(&need);
        let of_aws = [Need::Tables, Need::Keys, Need::PlatformSecret, Need::Queues, Need::Mail];
        let aws = config.aws(of_aws.into_iter().any(needs))?;
        let dynamo = Dynamo::new(config, &aws, needs(Need::Tables))?;
        Ok(Self {
            site: config.site()?,
            listings: config.listings()?,
            prices: config.prices()?,
            vault: Vault::new(config, &aws, needs(Need::Keys))?,
            secrets: Secrets::new(config, &aws, needs(Need::PlatformSecret))?,
            queues: Queues::new(config, &aws, needs(Need::Queues))?,
            mailer: Mailer::new(config, &aws, needs(Need::Mail))?,
            twilio: Twilio::new(config, needs(Need::Twilio))?,
            stripe: Stripe::new(config, needs(Need::Stripe))?,
            door: Door::new(config, needs(Need::Site))?,
            endpoints: Endpoints::new(config, needs(Need::Endpoints))?,
            dynamo,
        })
    }
}

/// What a call gets whose service the function did not ask for.
fn not_asked_for(need: Need) -> crate::fault::Fault {
    crate::fault::Fault::Permanent(format!("this function was started without {need:?}; add it to its NEEDS"))
}
