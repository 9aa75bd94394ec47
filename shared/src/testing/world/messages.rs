//! Messages and idempotency records. The conditions are those of the live adapters, in Rust.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::account::Gate;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId, TemplateId};
use crate::ledger::{Granularity, MicroCredits};
use crate::message::{
    CancelMessage, Canceled, Chunk, ChunkRecorded, Claim, ClaimMessage, Claimed, Fence, FindDue, GIVE_UP, Guard,
    Idempotency, IdempotencyKey, LEASE, LOOK_AGAIN, LoadGuards, LoadSender, Loaded, Message, Outcome, Outgoing,
    ReadMessages, Reason, RecordBatch, RecordInbound, RecordMessage, RecordOutcome, Recorded, Seen, SenderFacts,
    Status, UpdateMessage, check_allowance, due, due_shard,
};
use crate::seal::{Purpose, Sealed};
use crate::secret::TokenHash;

/// A message with what lies beside it.
struct Row {
    message: Message,
    payload: Option<Sealed>,
    fence: Option<Fence>,
    lease: Option<Timestamp>,
    not_before: Option<Timestamp>,
    due: Option<Timestamp>,
    counted: bool,
}

impl Row {
    fn new(message: Message, payload: Option<Sealed>, due: Timestamp) -> Self {
        Self { message, payload, fence: None, lease: None, not_before: None, due: Some(due), counted: false }
    }

    fn intent(message: &Message, payload: &Sealed, now: Timestamp) -> Self {
        let due = message.held_until.unwrap_or(now + LOOK_AGAIN);
        Self { not_before: message.held_until, ..Self::new(message.clone(), Some(payload.clone()), due) }
    }

    fn written(&mut self, status: Status, now: Timestamp) {
        self.message.status = status;
        self.message.revision += 1;
        self.message.updated = now;
    }
}

#[derive(Default)]
pub(super) struct Messages {
    rows: BTreeMap<(AccountId, MessageId), Row>,
    sids: BTreeMap<(AccountId, String), (MessageId, Timestamp)>,
    idempotency: BTreeMap<(AccountId, IdempotencyKey), Idempotency>,
}

impl Messages {
    /// Newest first, older than `before`.
    pub(super) fn of(&self, account: AccountId, before: Option<MessageId>) -> impl Iterator<Item = Message> {
        let end = before.unwrap_or(MessageId::from_bits(u128::MAX));
        let all = self.rows.range((account, MessageId::from_bits(0))..=(account, end)).rev();
        all.filter(move |((_, id), _)| before != Some(*id)).map(|(_, row)| row.message.clone())
    }

    pub(super) fn payload(&self, account: AccountId, message: MessageId) -> Option<Sealed> {
        self.rows.get(&(account, message))?.payload.clone()
    }

    /// Marks a message as settled and takes it off the list of due work; `None` if it was before or is not there.
    pub(super) fn unsettled(&self, message: &Message) -> bool {
        self.rows.get(&(message.account, message.id)).is_some_and(|row| !row.message.settled)
    }

    pub(super) fn settle(&mut self, message: &Message, now: Timestamp) {
        if let Some(row) = self.rows.get_mut(&(message.account, message.id)) {
            row.message.settled = true;
            let status = row.message.status;
            row.written(status, now);
            row.due = None;
        }
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        for row in self.rows.values() {
            dump(bytes, &row.message);
            bytes.extend(row.payload.iter().flat_map(|payload| &payload.0));
        }
        dump(bytes, &self.sids);
        dump(bytes, &self.idempotency);
        let batches = self.idempotency.values().filter_map(|record| record.batch.as_ref());
        bytes.extend(batches.filter_map(|batch| batch.template.as_ref()).flat_map(|template| &template.0));
    }
}

impl LoadSender for World {
    async fn load_sender(
        &self,
        account: AccountId,
        session: &TokenHash,
        key: &IdempotencyKey,
        purposes: &[Purpose],
        template: Option<TemplateId>,
    ) -> Result<Loaded, Fault> {
        self.call("load_sender", |state| {
            let gate = state.accounts.gates.get(&account).cloned();
            let allowance = state.ledger.allowances.get(&account).cloned();
            let keys = purposes.iter().filter_map(|purpose| state.credentials.keys.get(&(account, *purpose)).cloned());
            Ok(Loaded {
                session: state.accounts.sessions.get(&(account, session.clone())).cloned(),
                facts: gate.zip(allowance).map(|(gate, allowance)| SenderFacts { gate, allowance }),
                earlier: state.messages.idempotency.get(&(account, key.clone())).cloned(),
                keys: keys.collect(),
                template: template.and_then(|id| state.templates.get(account, id).cloned()),
            })
        })
        .await
    }
}

impl RecordMessage for World {
    async fn record_message(&self, outgoing: &Outgoing) -> Result<Recorded, Fault> {
        self.call("record_message", |state| {
            let Outgoing { message, payload, idempotency, daily_ceiling } = outgoing;
            let (account, now) = (message.account, message.created);
            let key = (account, idempotency.key.clone());
            if let Some(earlier) = state.messages.idempotency.get(&key).filter(|earlier| earlier.expires > now) {
                return Ok(Recorded::Earlier(earlier.clone()));
            }
            if state.messages.rows.contains_key(&(account, message.id)) {
                return Err(Fault::permanent("a new message's id was taken"));
            }
            let allowance = state.ledger.allowances.get_mut(&account);
            let allowance = allowance.ok_or(Fault::permanent("the account has no allowance"))?;
            if let Err(refusal) = check_allowance(allowance, message.held, message.segments, *daily_ceiling, now) {
                return Ok(Recorded::Refused(refusal));
            }
            if allowance.day > Granularity::Day.period(now) {
                // A slow clock meets a day that has begun already.
                return Err(Fault::transient("the allowance kept changing"));
            }
            allowance.reserve(message.held, u64::from(message.segments), now);
            state.messages.idempotency.insert(key, idempotency.clone());
            state.messages.rows.insert((account, message.id), Row::intent(message, payload, now));
            Ok(Recorded::Accepted)
        })
        .await
    }
}

impl RecordBatch for World {
    async fn begin_batch(
        &self,
        account: AccountId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Idempotency>, Fault> {
        self.call("begin_batch", |state| {
            let key = (account, idempotency.key.clone());
            if let Some(earlier) = state.messages.idempotency.get(&key).filter(|earlier| earlier.expires > now) {
                return Ok(Some(earlier.clone()));
            }
            state.messages.idempotency.insert(key, idempotency.clone());
            Ok(None)
        })
        .await
    }

    async fn record_chunk(&self, chunk: &Chunk) -> Result<ChunkRecorded, Fault> {
        self.call("record_chunk", |state| {
            let record = state.messages.idempotency.get_mut(&(chunk.account, chunk.key.clone()));
            let record = record.ok_or(Fault::permanent("a batch is gone"))?;
            let there = record.batch.as_mut().filter(|there| there.id == chunk.batch.id);
            let there = there.ok_or(Fault::permanent("a batch's key was used anew"))?;
            if there.outcomes != chunk.batch.outcomes {
                return Ok(ChunkRecorded::Moved(there.clone()));
            }
            let (credits, segments) = chunk.messages.iter().fold((0, 0), |(credits, segments), (message, _)| {
                (credits + message.held.0, segments + u64::from(message.segments))
            });
            let allowance = state.ledger.allowances.get_mut(&chunk.account);
            let allowance = allowance.ok_or(Fault::permanent("the account has no allowance"))?;
            let covered =
                allowance.available.0 >= credits && allowance.segments_on(chunk.now) + segments <= chunk.daily_ceiling;
            if !chunk.messages.is_empty() && !covered {
                return Ok(ChunkRecorded::Refused(allowance.clone()));
            }
            if !chunk.messages.is_empty() {
                allowance.reserve(MicroCredits(credits), segments, chunk.now);
            }
            there.outcomes.extend(&chunk.outcomes);
            for (message, payload) in &chunk.messages {
                state.messages.rows.insert((chunk.account, message.id), Row::intent(message, payload, chunk.now));
            }
            Ok(ChunkRecorded::Recorded)
        })
        .await
    }
}

impl ReadMessages for World {
    async fn load_message(&self, account: AccountId, id: MessageId) -> Result<Option<Message>, Fault> {
        self.call("load_message", |state| Ok(state.messages.rows.get(&(account, id)).map(|row| row.message.clone())))
            .await
    }

    async fn list_messages(
        &self,
        account: AccountId,
        before: Option<MessageId>,
        limit: u16,
    ) -> Result<Vec<Message>, Fault> {
        self.call("list_messages", |state| {
            if limit == 0 {
                return Err(not_valid("list messages"));
            }
            Ok(state.messages.of(account, before).take(usize::from(limit)).collect())
        })
        .await
    }
}

impl ClaimMessage for World {
    async fn claim_message(
        &self,
        account: AccountId,
        id: MessageId,
        fence: Fence,
        now: Timestamp,
    ) -> Result<Claim, Fault> {
        self.call("claim_message", |state| {
            let Some(row) = state.messages.rows.get_mut(&(account, id)) else { return Ok(Claim::Done) };
            let mine = |row: &Row| {
                let payload = row.payload.clone().ok_or(Fault::permanent("a message to send has no payload"))?;
                let (message, counted) = (row.message.clone(), row.counted);
                Ok(Claim::Mine(Box::new(Claimed { message, payload, fence, counted })))
            };
            let ready = match row.message.status {
                Status::Accepted => true,
                Status::Retryable | Status::Held => row.not_before.is_some_and(|at| at <= now),
                _ => false,
            };
            if ready && row.payload.is_some() {
                row.written(Status::Dispatching, now);
                row.message.attempts += 1;
                (row.fence, row.not_before) = (Some(fence), None);
                (row.lease, row.due) = (Some(now + LEASE), Some(now + LEASE));
                return mine(row);
            }
            if row.fence == Some(fence) && row.message.status == Status::Dispatching {
                return mine(row);
            }
            Ok(match (row.message.status, row.not_before.or(row.lease)) {
                (Status::Retryable | Status::Held | Status::Dispatching, Some(at)) => Claim::NotNow(at),
                _ => Claim::Done,
            })
        })
        .await
    }
}

impl CancelMessage for World {
    async fn cancel_message(&self, account: AccountId, id: MessageId, now: Timestamp) -> Result<Canceled, Fault> {
        self.call("cancel_message", |state| {
            let Some(row) = state.messages.rows.get_mut(&(account, id)) else { return Ok(Canceled::NotFound) };
            if matches!(row.message.status, Status::Held | Status::Accepted | Status::Retryable) {
                row.written(Status::Canceled, now);
                (row.payload, row.not_before, row.due) = (None, None, Some(now + LOOK_AGAIN));
            }
            let message = row.message.clone();
            let canceled = message.status == Status::Canceled;
            Ok(if canceled { Canceled::Canceled(message) } else { Canceled::TooLate(message) })
        })
        .await
    }
}

impl LoadGuards for World {
    async fn load_guards(&self, claimed: &[Claimed], wanted: &[(AccountId, Purpose)]) -> Result<Vec<Guard>, Fault> {
        self.call("load_guards", |state| {
            let guard = |one: &Claimed| {
                let Message { account, own, other_hash, .. } = &one.message;
                let gate = state.accounts.gates.get(account);
                let owned = wanted.iter().filter(|(owner, _)| owner == account);
                Guard {
                    opted_out: state.opt_outs.get(*account, own, other_hash).standing().is_some(),
                    stopped: gate.and_then(Gate::stopped),
                    daily_ceiling: gate.map_or(0, |gate| gate.daily_ceiling),
                    counts_from: gate.map_or(Timestamp::UNIX_EPOCH, Gate::counts_from),
                    credential: state.credentials.get(*account).filter(|_| gate.is_some_and(|g| g.connected)).cloned(),
                    keys: owned.filter_map(|key| state.credentials.keys.get(key).cloned()).collect(),
                }
            };
            Ok(claimed.iter().map(guard).collect())
        })
        .await
    }
}

impl RecordOutcome for World {
    async fn record_outcome(&self, claimed: &Claimed, outcome: &Outcome, now: Timestamp) -> Result<Status, Fault> {
        self.call("record_outcome", |state| {
            let held = &claimed.message;
            let row = state.messages.rows.get_mut(&(held.account, held.id));
            let row = row.ok_or(Fault::permanent("a claimed message is gone"))?;
            let open = matches!(row.message.status, Status::Dispatching | Status::Unknown | Status::Unconfirmed);
            if row.fence != Some(claimed.fence) || !open {
                return Ok(row.message.status);
            }
            row.written(outcome.status(), now);
            row.lease = None;
            row.due = due(held, outcome, now);
            if !matches!(outcome, Outcome::Retry { .. } | Outcome::Unknown) {
                row.payload = None;
            }
            match outcome {
                Outcome::Sent { sid } => row.message.sid = Some(sid.clone()),
                Outcome::Rejected { code: Some(code) } => row.message.error_code = Some(*code),
                Outcome::Refused(reason) => row.message.reason = Some(*reason),
                Outcome::Expired => row.message.reason = Some(Reason::TooOld),
                Outcome::Retry { not_before } => {
                    (row.not_before, row.counted) = (Some(*not_before), claimed.counted);
                }
                Outcome::Rejected { code: None } | Outcome::Unknown => {}
            }
            Ok(outcome.status())
        })
        .await
    }
}

impl UpdateMessage for World {
    async fn update_message(&self, message: &Message, due: Option<Timestamp>) -> Result<bool, Fault> {
        self.call("update_message", |state| {
            let Some(row) = state.messages.rows.get_mut(&(message.account, message.id)) else { return Ok(false) };
            if row.message.revision != message.revision.saturating_sub(1) {
                return Ok(row.message == *message);
            }
            row.message.status = message.status;
            row.message.revision = message.revision;
            row.message.updated = message.updated;
            row.message.sid = message.sid.clone().or(row.message.sid.take());
            row.message.error_code = message.error_code.or(row.message.error_code);
            if message.reason.is_none() {
                row.message.reason = None;
            }
            (row.payload, row.lease, row.not_before, row.due) = (None, None, None, due);
            Ok(true)
        })
        .await
    }
}

impl RecordInbound for World {
    async fn record_inbound(&self, message: &Message, due: Timestamp) -> Result<Seen, Fault> {
        self.call("record_inbound", |state| {
            let sid = message.sid.clone().ok_or(Fault::permanent("a text that arrived has no SID"))?;
            let (row, once) = ((message.account, message.id), (message.account, sid));
            if let Some((_, first)) = state.messages.sids.get(&once) {
                return Ok(Seen::Before(*first));
            }
            if state.messages.rows.contains_key(&row) {
                return Err(Fault::permanent("a new message's id was taken"));
            }
            state.messages.sids.insert(once, (message.id, message.created));
            state.messages.rows.insert(row, Row::new(message.clone(), None, due));
            Ok(Seen::First)
        })
        .await
    }
}

impl FindDue for World {
    async fn find_due(&self, shard: u8, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, MessageId)>, Fault> {
        self.call("find_due", |state| {
            if limit == 0 {
                return Err(not_valid("find due"));
            }
            let waiting = state.messages.rows.iter().filter(|((_, id), _)| due_shard(*id) == shard);
            let mut found: Vec<_> =
                waiting.filter_map(|(key, row)| Some((row.due.filter(|at| *at <= now)?, *key))).collect();
            found.sort_unstable();
            Ok(found.into_iter().map(|(_, key)| key).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn end_lease(&self, message: &Message, now: Timestamp) -> Result<bool, Fault> {
        self.call("end_lease", |state| {
            let row = state.messages.rows.get_mut(&(message.account, message.id));
            let over = |row: &&mut Row| {
                row.message.status == Status::Dispatching && row.lease.is_some_and(|lease| lease <= now)
            };
            let Some(row) = row.filter(over) else { return Ok(false) };
            row.written(Status::Unknown, now);
            (row.lease, row.due) = (None, Some(now + GIVE_UP));
            Ok(true)
        })
        .await
    }

    async fn look_again(&self, message: &Message, at: Timestamp) -> Result<bool, Fault> {
        self.call("look_again", |state| {
            let row = state.messages.rows.get_mut(&(message.account, message.id));
            let same = |row: &&mut Row| row.message.revision == message.revision && row.due.is_some();
            let Some(row) = row.filter(same) else { return Ok(false) };
            row.due = Some(at);
            Ok(true)
        })
        .await
    }
}
