//! What messages ask of the world.

use jiff::Timestamp;

use super::{
    Batch, CarrierMedia, CarrierText, Chunk, Content, FetchedMedia, Idempotency, IdempotencyKey, ListedPage, Message,
    MessageSid, Outcome, Outgoing, Payload, Refusal, SenderFacts, Status,
};
use crate::account::Stop;
use crate::connection::{PageMark, Trouble};
use crate::credential::{Carrier, Sid, StoredCredential};
use crate::endpoint::Delivery;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId, TemplateId};
use crate::ledger::{Allowance, Entry};
use crate::seal::{Purpose, Sealed, WrappedKeys};
use crate::session::{Pass, Proof};
use crate::template::Template;

/// Loads what accepting a message needs: 1 `BatchGetItem` for all of it.
pub trait LoadSender {
    /// Session or API key, gate, allowance, an earlier request with this key, the wrapped keys of the purposes named,
    /// and the template named, of the account that the proof claims.
    fn load_sender(
        &self,
        proof: &Proof,
        key: &IdempotencyKey,
        keys: &[Purpose],
        template: Option<TemplateId>,
    ) -> impl Future<Output = Result<Loaded, Fault>> + Send;
}

/// What [`LoadSender`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The session or API key of the proof, ended or not.
    pub pass: Option<Pass>,
    /// Gate and allowance; `None` if the account is gone.
    pub facts: Option<SenderFacts>,
    /// An earlier request with the same key, expired or not.
    pub earlier: Option<Idempotency>,
    /// Wrapped keys.
    pub keys: Vec<WrappedKeys>,
    /// The template, if one was named and is there.
    pub template: Option<Template>,
}

/// Records a message as accepted.
pub trait RecordMessage {
    /// One transaction of three items: the idempotency record (if there is none that counts), the intent with its sealed
    /// payload, and the hold on the allowance.
    fn record_message(&self, outgoing: &Outgoing) -> impl Future<Output = Result<Recorded, Fault>> + Send;
}

/// What became of it. In every case but the first nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// Accepted.
    Accepted,
    /// This key was used before: give that answer, if the request is the same.
    Earlier(Idempotency),
    /// The allowance changed since it was loaded and does not cover the message now.
    Refused(Refusal),
}

/// Records a request for many recipients.
pub trait RecordBatch {
    /// The record behind the caller's key, if there is none that counts: 1 conditional write. `Some`: this key was used
    /// before.
    fn begin_batch(
        &self,
        account: AccountId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Idempotency>, Fault>> + Send;

    /// One transaction: the outcomes of the next rows, their messages, and one hold for all of them.
    fn record_chunk(&self, chunk: &Chunk) -> impl Future<Output = Result<ChunkRecorded, Fault>> + Send;
}

/// What became of a chunk. In every case but the first nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkRecorded {
    /// It is recorded.
    Recorded,
    /// Another request with this key was quicker: that is how far the batch is.
    Moved(Batch),
    /// The allowance changed since it was loaded and does not cover the chunk now.
    Refused(Allowance),
}

/// Reads messages.
pub trait ReadMessages {
    /// One by id.
    fn load_message(
        &self,
        account: AccountId,
        message: MessageId,
    ) -> impl Future<Output = Result<Option<Message>, Fault>> + Send;

    /// An account's messages, newest first, older than `before`.
    fn list_messages(
        &self,
        account: AccountId,
        before: Option<MessageId>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Message>, Fault>> + Send;
}

/// Reads from Twilio what messages say. Nothing of it is stored or logged.
pub trait ReadContent {
    /// 1 GET: a message.
    fn read_text(
        &self,
        carrier: &Carrier,
        message: &MessageSid,
    ) -> impl Future<Output = Result<CarrierText, Trouble>> + Send;

    /// 1 GET: what media it has, at most 10.
    fn list_media(
        &self,
        carrier: &Carrier,
        message: &MessageSid,
    ) -> impl Future<Output = Result<Vec<CarrierMedia>, Trouble>> + Send;

    /// 1 GET at exactly this piece's address of Twilio's API, with the credential; no redirect is followed.
    fn fetch_media(
        &self,
        carrier: &Carrier,
        message: &MessageSid,
        media: &Sid,
    ) -> impl Future<Output = Result<FetchedMedia, Trouble>> + Send;
}

/// What a message says: 1 GET, and 1 more if it has media. `None`: its text was removed at Twilio.
pub async fn read_content<W: ReadContent>(
    world: &W,
    carrier: &Carrier,
    message: &MessageSid,
) -> Result<Option<Content>, Trouble> {
    let text = world.read_text(carrier, message).await?;
    if text.is_redacted() {
        return Ok(None);
    }
    let media = if text.n_media == 0 { Vec::new() } else { world.list_media(carrier, message).await? };
    Ok(Some(Content::new(text, media)))
}

/// Takes back what is not handed over yet.
pub trait CancelMessage {
    /// One conditional write that also removes the payload: of a cancel and a claim at the same time one wins. What is
    /// canceled already is canceled.
    fn cancel_message(
        &self,
        account: AccountId,
        message: MessageId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Canceled, Fault>> + Send;
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canceled {
    /// It will not be sent.
    Canceled(Message),
    /// It is with Twilio, or on its way there, or was over before.
    TooLate(Message),
    /// There is no such message.
    NotFound,
}

/// Takes a message to send it.
pub trait ClaimMessage {
    /// One conditional write: of any number of workers exactly one gets the message. The claim ends with its lease.
    fn claim_message(
        &self,
        account: AccountId,
        message: MessageId,
        fence: Fence,
        now: Timestamp,
    ) -> impl Future<Output = Result<Claim, Fault>> + Send;
}

/// Names one claim, so that a late writer is told apart from the one that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fence(pub u128);

/// What a claim gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The message is ours to send.
    Mine(Box<Claimed>),
    /// There is nothing to send: it was handed over, ended, or is not there.
    Done,
    /// Another worker has it until then.
    Busy(Timestamp),
    /// It has to wait until then.
    TooEarly(Timestamp),
}

/// A claimed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The row, after the claim.
    pub message: Message,
    /// What to send.
    pub payload: Sealed,
    /// Names the claim.
    pub fence: Fence,
    /// Whether it was counted when it was about to be handed over; a message that waits again is not counted again.
    pub counted: bool,
    /// Whether it has a slot in its sender's line, the one that it waited for.
    pub in_line: bool,
}

/// Loads what has to be checked at the last step: 1 strongly consistent `BatchGetItem` for a whole batch.
pub trait LoadGuards {
    /// For each claimed message, in order. `keys` says for each account which wrapped keys are wanted.
    fn load_guards(
        &self,
        claimed: &[Claimed],
        keys: &[(AccountId, Purpose)],
    ) -> impl Future<Output = Result<Vec<Guard>, Fault>> + Send;
}

/// What stands between a claimed message and Twilio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Whether the recipient has opted out of this sender.
    pub opted_out: bool,
    /// Why sending is stopped, if it is.
    pub stopped: Option<Stop>,
    /// Whether credit is owed: what was accepted is not covered by what was paid.
    pub owed: bool,
    /// The account's segments per day: how fast it may send follows from it.
    pub daily_ceiling: u64,
    /// What is sent is counted from here on.
    pub counts_from: Timestamp,
    /// Segments a second that its sender may send; `None`: as they come.
    pub rate: Option<u32>,
    /// The credential that counts; `None` if none is connected.
    pub credential: Option<StoredCredential>,
    /// The wrapped keys that were asked for.
    pub keys: Vec<WrappedKeys>,
}

/// Records what came of a claim.
pub trait RecordOutcome {
    /// One write that removes the payload (but for what is sent later, which needs it again, and for an unknown outcome,
    /// until it is known or given up). What is sent later remembers whether it was counted. Only the holder of the fence may, and
    /// nothing that a callback told already is undone: the answer is the message's status afterwards.
    fn record_outcome(
        &self,
        claimed: &Claimed,
        outcome: &Outcome,
        now: Timestamp,
    ) -> impl Future<Output = Result<Status, Fault>> + Send;
}

/// Hands a message to Twilio.
pub trait CreateMessage {
    /// One POST, never repeated by itself, no redirect followed. `validity_secs`: Twilio gives up after so long.
    fn create_message(
        &self,
        carrier: &Carrier,
        sender: &str,
        payload: &Payload,
        status_callback: &str,
        validity_secs: u32,
    ) -> impl Future<Output = Created> + Send;
}

/// What the POST came to. What is not certain is `Unknown`, never something better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// 201 with a SID.
    Accepted {
        /// Twilio's SID.
        sid: String,
    },
    /// 4xx but for 408, 409 and 429.
    Rejected {
        /// HTTP status.
        http: u16,
        /// Twilio's error code.
        code: Option<u32>,
    },
    /// 429, or no byte was written: certainly not processed.
    NotProcessed {
        /// From `Retry-After`.
        retry_after_secs: Option<u32>,
    },
    /// Time-out, reset, 408, 409, 5xx, an unreadable answer.
    Unknown,
}

/// Lists what Twilio has.
pub trait ListAtCarrier {
    /// 1 GET: a page of at most `limit` messages to and from this number, newest first.
    fn list_at_carrier(
        &self,
        carrier: &Carrier,
        to: &str,
        limit: u16,
        from: Option<&PageMark>,
    ) -> impl Future<Output = Result<ListedPage, Trouble>> + Send;
}

/// Lists what arrived at Twilio.
pub trait ListArrived {
    /// 1 GET: a page of at most `limit` messages of the account, sent or received since then, newest first. Twilio has no
    /// filter for those that arrived.
    fn list_arrived(
        &self,
        carrier: &Carrier,
        since: Timestamp,
        limit: u16,
        from: Option<&PageMark>,
    ) -> impl Future<Output = Result<ListedPage, Trouble>> + Send;
}

/// Knows which texts were recorded.
pub trait FindUnseen {
    /// Which of these SIDs were never recorded: at most 100, 1 read.
    fn unseen_sids(
        &self,
        account: AccountId,
        sids: Vec<String>,
    ) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;
}

/// Settles what is not known.
pub trait SettleMessage {
    /// A message with its payload, while it has one: 1 read.
    fn load_with_payload(
        &self,
        account: AccountId,
        message: MessageId,
    ) -> impl Future<Output = Result<Option<(Message, Option<Sealed>)>, Fault>> + Send;

    /// Which of these SIDs belong to no message: neither charged for one nor adopted by one. 1 read for each 50.
    fn free_sids(
        &self,
        account: AccountId,
        sids: Vec<String>,
    ) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;

    /// Writes `message`, which has a SID now, if its row still has the revision before and the SID belongs to no other
    /// message; binds the SID and removes the payload. One transaction, with what endpoints are `told` of it, and with
    /// the `failure` to be counted.
    fn adopt_sid(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> impl Future<Output = Result<Adopted, Fault>> + Send;

    /// Writes what a listing came to, and the next look, if the row still has the revision before; keeps the payload.
    /// `false` if another write came between.
    fn record_listing(&self, message: &Message, due: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// What became of an adoption. In every case but the first nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// The SID belongs to the message now.
    Adopted,
    /// It belongs to this message.
    Taken(MessageId),
    /// Another write to the message came between.
    Moved,
}

/// Sends again what a person decided to.
pub trait RecordResend {
    /// As [`RecordMessage`], in one transaction with the message that it replaces, written as `dropped` if its row still
    /// has the revision before: of two decisions at once, or of a decision and a callback, one counts.
    fn record_resend(
        &self,
        outgoing: &Outgoing,
        dropped: &Message,
    ) -> impl Future<Output = Result<Resent, Fault>> + Send;
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resent {
    /// As when a message is recorded.
    Recorded(Recorded),
    /// The message that it was to replace was written meanwhile: nothing was written.
    Moved,
}

/// Changes a message after it was sent.
pub trait UpdateMessage {
    /// Writes `message` if its row still has the revision before; `false` if another write came between. Removes the
    /// payload, and with it the time to decide. `due`: when the sweeper has to look at it.
    fn update_message(
        &self,
        message: &Message,
        due: Option<Timestamp>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Records a text that arrived.
pub trait RecordInbound {
    /// The row and the uniqueness of its SID in one transaction.
    fn record_inbound(&self, message: &Message, due: Timestamp) -> impl Future<Output = Result<Seen, Fault>> + Send;
}

/// Whether a text came for the first time. Twilio's signatures have no time in them: what comes again may be a replay,
/// and what it says counts as of its first arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It was recorded now.
    First,
    /// It was recorded before, then.
    Before(Timestamp),
}

/// Finds messages that something has to be done about.
pub trait FindDue {
    /// Messages of one shard that are due, earliest first.
    fn find_due(
        &self,
        shard: u8,
        now: Timestamp,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<(AccountId, MessageId)>, Fault>> + Send;

    /// A lease that is over leaves `unknown`: one conditional write; `false` if the message moved on.
    fn end_lease(&self, message: &Message, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Takes a message off the list that nothing has to be done about, if its row still has this revision.
    fn stop_looking(&self, message: &Message) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Puts off the next look.
    fn look_again(&self, message: &Message, at: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Number of shards of the index of due messages.
pub const DUE_SHARDS: u8 = 16;

/// The shard of a message.
pub fn due_shard(message: MessageId) -> u8 {
    u8::try_from(message.bits() % u128::from(DUE_SHARDS)).unwrap_or(0)
}
