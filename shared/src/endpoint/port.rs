//! What endpoints ask of the world.

use std::fmt;

use jiff::Timestamp;

use super::{Answer, Delivery, Endpoint, EndpointUrl, Event, Listeners, WhyDisabled};
use crate::fault::Fault;
use crate::ids::{AccountId, DeliveryId, EndpointId, EventId, MessageId};
use crate::ledger::{Entry, Zone};
use crate::message::{Fence, Message};

/// Stores endpoints. Each change also writes what the endpoint listens to into the gate, in one transaction.
pub trait KeepEndpoints {
    /// One of them.
    fn load_endpoint(
        &self,
        account: AccountId,
        endpoint: EndpointId,
    ) -> impl Future<Output = Result<Option<Endpoint>, Fault>> + Send;

    /// All of an account, oldest first.
    fn list_endpoints(&self, account: AccountId) -> impl Future<Output = Result<Vec<Endpoint>, Fault>> + Send;

    /// Stores a new one; `false` if the account has [`super::MOST_ENDPOINTS`].
    fn create_endpoint(&self, new: &Endpoint) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Writes it if its row still has the revision before; `false` if another write came between, or it is gone.
    fn update_endpoint(&self, new: &Endpoint) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Removes it; `false` if there is none. What is on its way to it is not sent any more.
    fn delete_endpoint(
        &self,
        account: AccountId,
        endpoint: EndpointId,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Writes down how an endpoint does. None of these is a change by the customer: each names what it read of the row.
pub trait NoteHealth {
    /// That nothing but failures come of tries since then; what stands there stays.
    fn note_failing(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        since: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// That it works again: takes away what was read, and nothing newer.
    fn note_recovered(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        failing_since: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Disables it, if it still fails as it was read, and takes it out of the gate: whoever gets `true` tells the
    /// owner.
    fn disable_endpoint(
        &self,
        read: &Endpoint,
        why: WhyDisabled,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Notes that the owner was told of the disabling at that time.
    fn endpoint_told(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        disabled_at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Loads a message with whoever is to be told of it: 1 read of both.
pub trait LoadToTell {
    /// `None`: there is no such message.
    fn load_to_tell(
        &self,
        account: AccountId,
        message: MessageId,
    ) -> impl Future<Output = Result<Option<ToTell>, Fault>> + Send;
}

/// What was loaded to tell of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToTell {
    /// The message.
    pub message: Message,
    /// Whom to tell.
    pub listeners: Listeners,
    /// By which the account's days begin.
    pub zone: Zone,
}

/// Changes a message after it was sent, and tells of it.
pub trait UpdateAndTell {
    /// As [`crate::message::UpdateMessage`], with what endpoints are told of it and the `failure` to be counted, all in
    /// one transaction or not at all.
    fn update_and_tell(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Tells endpoints of an event that no row of its own makes.
pub trait TellEndpoints {
    /// Writes the deliveries for whoever listens, and gives them: 1 read, and 1 transaction if somebody does. What was
    /// told before, with the same id and time, is not told again.
    fn tell_endpoints(
        &self,
        account: AccountId,
        event: &Event,
    ) -> impl Future<Output = Result<Vec<Delivery>, Fault>> + Send;
}

/// Makes, reads and resends deliveries.
pub trait KeepDeliveries {
    /// Stores a new one.
    fn create_delivery(&self, new: &Delivery) -> impl Future<Output = Result<(), Fault>> + Send;

    /// One of them.
    fn load_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
    ) -> impl Future<Output = Result<Option<Delivery>, Fault>> + Send;

    /// An endpoint's, newest first, older than `before`.
    fn list_deliveries(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        before: Option<DeliveryId>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Delivery>, Fault>> + Send;

    /// An endpoint's, oldest first, later than `after`.
    fn deliveries_since(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        after: DeliveryId,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Delivery>, Fault>> + Send;

    /// One conditional write: what is not pending is again, with all its tries. Of any number at once one counts.
    fn resend_delivery(
        &self,
        delivery: &Delivery,
        now: Timestamp,
    ) -> impl Future<Output = Result<Resent, Fault>> + Send;
}

/// What became of resending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resent {
    /// It is pending now.
    Now,
    /// It was pending already.
    Pending,
    /// It is gone.
    Gone,
}

/// Takes deliveries and records what came of them.
pub trait WorkDeliveries {
    /// One conditional write: of any number of workers exactly one gets it. The claim ends with its lease.
    fn claim_delivery(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
        fence: Fence,
        now: Timestamp,
    ) -> impl Future<Output = Result<DeliveryClaim, Fault>> + Send;

    /// Writes status, tries and the next one, if the fence still holds; `false` if somebody else has it.
    fn record_attempt(&self, after: &Delivery, fence: Fence) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// What a claim gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryClaim {
    /// It is ours to try; the row after the claim, which counts as a try.
    Mine(Box<Delivery>),
    /// There is nothing to try: it has arrived, was given up, is not there, is somebody else's, or has to wait.
    Nothing,
}

/// Finds deliveries that something has to be done about.
pub trait FindDueDeliveries {
    /// Those of one shard that are due, earliest first.
    fn find_due_deliveries(
        &self,
        shard: u8,
        now: Timestamp,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<(AccountId, EndpointId, DeliveryId)>, Fault>> + Send;

    /// Puts off the next look at one that is still due.
    fn look_at_delivery_again(
        &self,
        account: AccountId,
        endpoint: EndpointId,
        delivery: DeliveryId,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Number of shards of the index of due deliveries: four writes for each, and a partition takes a thousand a second.
pub const DELIVERY_SHARDS: u8 = 4;

/// The shard of a delivery.
pub fn delivery_shard(delivery: DeliveryId) -> u8 {
    u8::try_from(delivery.bits() % u128::from(DELIVERY_SHARDS)).unwrap_or(0)
}

/// Sends to an endpoint.
pub trait CallEndpoint {
    /// One POST, never repeated by itself, no redirect followed, to addresses of the public Internet only, looked at
    /// when it is connected. At most 15 seconds, and 16 KiB of the answer are read and forgotten.
    fn call_endpoint(&self, url: &EndpointUrl, signed: &Signed) -> impl Future<Output = Answer> + Send;
}

/// What is sent. Its body does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Signed {
    /// `webhook-id`.
    pub event: EventId,
    /// `webhook-timestamp`: of this try.
    pub at: Timestamp,
    /// `webhook-signature`.
    pub signature: String,
    /// The body.
    pub body: String,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signed({}, {} bytes)", self.event, self.body.len())
    }
}
