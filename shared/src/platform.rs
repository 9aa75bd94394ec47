//! What belongs to the platform and not to one account: its hash key and peppers, the clock, chance, queues and mail.

use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

use crate::account::{Email, EmailIndex, Peppers};
use crate::alert::Alert;
use crate::billing::StripeEvent;
use crate::connection::Target;
use crate::fault::Fault;
use crate::ids::{AccountId, DeliveryId, EndpointId, MessageId, UserId};
use crate::inbound::TwilioEvent;
use crate::number::E164;
use crate::rotation::{KeyTask, KeysCursor};
use crate::seal::Purpose;
use crate::secret::SecretString;

/// The platform's secret from Secrets Manager, read once per environment.
pub struct Platform {
    /// Keys the e-mail index, the uniqueness of Twilio accounts, and callers' addresses in rate limits.
    pub index_key: Zeroizing<Vec<u8>>,
    /// Peppers of passwords.
    pub peppers: Peppers,
    /// Auth Tokens of the platform's own Twilio account, which sign what its number hears: the current one, then in a
    /// rotation the one before. None if it has no number.
    pub twilio_auth_tokens: Vec<SecretString>,
    /// What Stripe signs its events with: a secret for each of our destinations there, and while one is rolled the one
    /// before. None if nothing is sold here.
    pub stripe_webhook_secrets: Vec<SecretString>,
    /// The key of Stripe's API. None if nothing is sold here.
    pub stripe_key: Option<SecretString>,
}

impl Platform {
    /// How a user is found by address.
    pub fn email_index(&self, email: &Email) -> EmailIndex {
        EmailIndex(self.hash("email", email.as_str()))
    }

    /// Under what the words of one who texted the platform's number are kept.
    pub fn caller_hash(&self, number: &E164) -> String {
        self.hash("platform-opt-out", number.as_str())
    }

    /// HMAC-SHA256 of a value in a namespace, as text.
    pub fn hash(&self, what: &str, value: &str) -> String {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.index_key));
        context.update(&[u8::try_from(what.len()).unwrap_or(u8::MAX)]);
        context.update(what.as_bytes());
        context.update(value.as_bytes());
        BASE64URL_NOPAD.encode(context.sign().as_ref())
    }
}

/// Gives the platform's secret.
pub trait PlatformKeys {
    /// Reads it at the first call and remembers it.
    fn platform(&self) -> impl Future<Output = Result<Arc<Platform>, Fault>> + Send;
}

/// Tells the time, to the millisecond.
pub trait Clock {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// Gives randomness that cannot be guessed.
pub trait Chance {
    /// `N` random bytes.
    fn random<const N: usize>(&self) -> Result<[u8; N], Fault>;

    /// 128 random bits, for ids.
    fn dice(&self) -> Result<u128, Fault> {
        self.random().map(u128::from_be_bytes)
    }
}

/// Work for another function. Ids only: a lost one is found again by the sweeper. Webhook events are the exception:
/// they have no row yet, and carry what their effect needs and nothing personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case", deny_unknown_fields)]
pub enum Job {
    /// Send this message (queue `send`).
    Send {
        /// Whose.
        account: AccountId,
        /// Which.
        message: MessageId,
    },
    /// Look at Twilio for this message, of which it is not known whether Twilio took it (queue `settle`).
    Settle {
        /// Whose.
        account: AccountId,
        /// Which.
        message: MessageId,
    },
    /// Post this message's outcome to the ledger (queue `post`).
    Post {
        /// Whose.
        account: AccountId,
        /// Which.
        message: MessageId,
    },
    /// Send a mail to a user (queue `mail`).
    Mail {
        /// Whose.
        account: AccountId,
        /// To whom.
        user: UserId,
        /// Which mail.
        mail: Mail,
    },
    /// Tell an account's owner by mail what happened (queue `mail`).
    Alert {
        /// Whose.
        account: AccountId,
        /// What.
        alert: Alert,
        /// When it began.
        since: Timestamp,
    },
    /// Apply what Twilio told us (queue `twilio-events`).
    Twilio(TwilioEvent),
    /// Apply what Stripe told us (queue `stripe-events`).
    Stripe(StripeEvent),
    /// Look whether Twilio still has what we set for a connected number (queue `numbers`).
    CheckNumber {
        /// Whose.
        account: AccountId,
        /// Which number or messaging service.
        target: Target,
    },
    /// Call the account's webhook as Twilio would (queue `self-test`).
    SelfTest {
        /// Whose.
        account: AccountId,
    },
    /// Look for texts that arrived and were not told (queue `catch-up`).
    CatchUp {
        /// Whose.
        account: AccountId,
    },
    /// Set what was charged against what Twilio has (queue `reconcile`).
    Reconcile {
        /// Whose.
        account: AccountId,
    },
    /// Send this event to this endpoint (queue `deliver`).
    Deliver {
        /// Whose.
        account: AccountId,
        /// To whom.
        endpoint: EndpointId,
        /// Which.
        delivery: DeliveryId,
    },
    /// Do this with the keys of every account, a page at a time (queue `key-rotation`).
    RotateKeys {
        /// What.
        task: KeyTask,
        /// Behind which row the page begins; the first page if it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<KeysCursor>,
    },
    /// Do this with one account's keys of one purpose (queue `key-rotation`).
    RotateKey {
        /// Whose.
        account: AccountId,
        /// What for.
        purpose: Purpose,
        /// What.
        task: KeyTask,
    },
}

/// The mails that TelBuddy sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mail {
    /// Somebody signed up with this address: confirm it, or learn that it has an account.
    SignUp,
}

/// The queues, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Messages to send.
    Send,
    /// Messages to look for at Twilio.
    Settle,
    /// Outcomes to post.
    Post,
    /// Mails to write.
    Mail,
    /// Twilio's events.
    TwilioEvents,
    /// Stripe's events.
    StripeEvents,
    /// Connected numbers to look at.
    Numbers,
    /// Accounts whose texts that arrived are looked for.
    CatchUp,
    /// Accounts whose webhook is tested.
    SelfTest,
    /// Accounts whose charges are set against Twilio's lists.
    Reconcile,
    /// Keys to replace.
    KeyRotation,
    /// Events to deliver.
    Deliver,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 12] = [
        Self::Send,
        Self::Settle,
        Self::Post,
        Self::Mail,
        Self::TwilioEvents,
        Self::StripeEvents,
        Self::Numbers,
        Self::CatchUp,
        Self::SelfTest,
        Self::Reconcile,
        Self::KeyRotation,
        Self::Deliver,
    ];

    /// Its name, without the stage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Settle => "settle",
            Self::Post => "post",
            Self::Mail => "mail",
            Self::TwilioEvents => "twilio-events",
            Self::StripeEvents => "stripe-events",
            Self::Numbers => "numbers",
            Self::CatchUp => "catch-up",
            Self::SelfTest => "self-test",
            Self::Reconcile => "reconcile",
            Self::KeyRotation => "key-rotation",
            Self::Deliver => "deliver",
        }
    }
}

impl Job {
    /// The queue that it goes to.
    pub fn queue(&self) -> Queue {
        match self {
            Self::Send { .. } => Queue::Send,
            Self::Settle { .. } => Queue::Settle,
            Self::Post { .. } => Queue::Post,
            Self::Mail { .. } | Self::Alert { .. } => Queue::Mail,
            Self::Twilio(_) => Queue::TwilioEvents,
            Self::Stripe(_) => Queue::StripeEvents,
            Self::CheckNumber { .. } => Queue::Numbers,
            Self::CatchUp { .. } => Queue::CatchUp,
            Self::SelfTest { .. } => Queue::SelfTest,
            Self::Reconcile { .. } => Queue::Reconcile,
            Self::Deliver { .. } => Queue::Deliver,
            Self::RotateKeys { .. } | Self::RotateKey { .. } => Queue::KeyRotation,
        }
    }

    /// Whose work it is: the group by which a queue is fair.
    pub fn account(&self) -> AccountId {
        match self {
            Self::Send { account, .. }
            | Self::Settle { account, .. }
            | Self::Post { account, .. }
            | Self::Mail { account, .. }
            | Self::Alert { account, .. }
            | Self::CheckNumber { account, .. }
            | Self::CatchUp { account }
            | Self::SelfTest { account }
            | Self::Reconcile { account }
            | Self::Deliver { account, .. }
            | Self::RotateKey { account, .. } => *account,
            Self::Twilio(event) => event.account,
            // What says nothing of an account, and all accounts' work: a group of its own.
            Self::Stripe(event) => event.account.unwrap_or(AccountId::from_bits(0)),
            Self::RotateKeys { .. } => AccountId::from_bits(0),
        }
    }
}

/// What became of one job of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It is done, or will be found again without the queue.
    Done,
    /// The queue should give it again.
    Again,
}

/// The longest that SQS delays a job.
pub const MOST_DELAY: SignedDuration = SignedDuration::from_secs(900);

/// Puts work into queues.
pub trait EnqueueJob {
    /// Returns when the queue has accepted the job; it is given to a worker after `delay_secs` (at most 900).
    fn enqueue(&self, job: Job, delay_secs: u16) -> impl Future<Output = Result<(), Fault>> + Send;

    /// The same for several jobs of one queue, ten by ten. On a fault some of them may be in the queue.
    fn enqueue_all(&self, jobs: Vec<Job>, delay_secs: u16) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// A mail ready to go.
pub struct Letter {
    /// To.
    pub to: Email,
    /// Subject.
    pub subject: String,
    /// Plain text.
    pub text: String,
}

/// Sends mail.
pub trait SendMail {
    /// Returns when the mail service has accepted it.
    fn send_mail(&self, letter: Letter) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Counts tries, to slow down guessing.
pub trait CountTries {
    /// Adds one to the counter named `what` in the window that `now` falls into, and says whether `limit` is kept.
    fn count_try(
        &self,
        what: &str,
        limit: u32,
        window_secs: u32,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}
