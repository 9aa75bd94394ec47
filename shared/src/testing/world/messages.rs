//! Messages and idempotency records. The conditions are those of the live adapters, in Rust.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{State, World, dump, not_valid};
use crate::account::Gate;
use crate::endpoint::{Delivery, UpdateAndTell};
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId, TemplateId};
use crate::ledger::{Entry, Granularity, MicroCredits};
use crate::message::{
    Adopted, CancelMessage, Canceled, Chunk, ChunkRecorded, Claim, ClaimMessage, Claimed, FIRST_LISTING, Fence,
    FindDue, FindUnseen, Guard, Idempotency, IdempotencyKey, LEASE, LOOK_AGAIN, LoadGuards, LoadSender, Loaded,
    Message, Outcome, Outgoing, ReadMessages, Reason, RecordBatch, RecordInbound, RecordMessage, RecordOutcome,
    RecordResend, Recorded, Resent, Seen, SenderFacts, SettleMessage, Settling, Status, UpdateMessage, check_allowance,
    decidable_until, due, due_after_decision, due_shard, open_to,
};
use crate::seal::{Purpose, Sealed};
use crate::session::{Pass, Proof, Way};

/// A message with what lies beside it.
struct Row {
    message: Message,
    payload: Option<Sealed>,
    fence: Option<Fence>,
    lease: Option<Timestamp>,
    not_before: Option<Timestamp>,
    due: Option<Timestamp>,
    counted: bool,
    in_line: bool,
}

impl Row {
    fn new(message: Message, payload: Option<Sealed>, due: Timestamp) -> Self {
        Self {
            message,
            payload,
            fence: None,
            lease: None,
            not_before: None,
            due: Some(due),
            counted: false,
            in_line: false,
        }
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

    /// Whether a message is not settled yet; what was `unconfirmed` has to be so still.
    pub(super) fn unsettled(&self, message: &Message) -> bool {
        let row = self.rows.get(&(message.account, message.id));
        row.is_some_and(|row| !row.message.settled && row.message.status == message.status)
    }

    /// Marks a message as settled and takes it off the list of due work.
    pub(super) fn settle(&mut self, message: &Message, released: bool, now: Timestamp) {
        if let Some(row) = self.rows.get_mut(&(message.account, message.id)) {
            row.message.settled = true;
            row.message.released |= released;
            let status = row.message.status;
            row.written(status, now);
            row.due = decidable_until(&row.message);
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
        proof: &Proof,
        key: &IdempotencyKey,
        purposes: &[Purpose],
        template: Option<TemplateId>,
    ) -> Result<Loaded, Fault> {
        self.call("load_sender", |state| {
            let (account, token) = (proof.account, (proof.account, proof.hash.clone()));
            let pass = match proof.way {
                Way::Session => state.accounts.sessions.get(&token).cloned().map(Pass::Session),
                Way::ApiKey => state.accounts.api_keys.get(&token).cloned().map(Pass::ApiKey),
            };
            let gate = state.accounts.gates.get(&account).cloned();
            let allowance = state.ledger.allowances.get(&account).cloned();
            let keys = purposes.iter().filter_map(|purpose| state.credentials.keys.get(&(account, *purpose)).cloned());
            Ok(Loaded {
                pass,
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
        self.call("record_message", |state| state.record(outgoing)).await
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
            let covered = allowance.available().0 >= credits
                && allowance.segments_on(chunk.now) + segments <= chunk.daily_ceiling;
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
                let (message, counted, in_line) = (row.message.clone(), row.counted, row.in_line);
                Ok(Claim::Mine(Box::new(Claimed { message, payload, fence, counted, in_line })))
            };
            let ready = match row.message.status {
                Status::Accepted | Status::Retryable | Status::Held => row.not_before.is_none_or(|at| at <= now),
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
            Ok(match (row.message.status, row.not_before, row.lease) {
                (Status::Accepted | Status::Retryable | Status::Held, Some(at), _) => Claim::TooEarly(at),
                (Status::Dispatching, _, Some(at)) => Claim::Busy(at),
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
                    owed: state.ledger.allowances.get(account).is_some_and(|there| there.owed() > MicroCredits::ZERO),
                    daily_ceiling: gate.map_or(0, |gate| gate.daily_ceiling),
                    counts_from: gate.map_or(Timestamp::UNIX_EPOCH, Gate::counts_from),
                    rate: gate.and_then(|gate| gate.rate_of(own)),
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
            if row.fence != Some(claimed.fence) || !open_to(outcome).contains(&row.message.status) {
                return Ok(row.message.status);
            }
            row.written(outcome.status(), now);
            row.lease = None;
            row.due = due(held, outcome, now);
            if !outcome.keeps_payload() {
                row.payload = None;
                row.message.settling = row.message.settling.map(Settling::decided);
            }
            match outcome {
                Outcome::Sent { sid } => (row.message.sid, row.message.settled) = (Some(sid.clone()), false),
                Outcome::Rejected { code: Some(code) } => row.message.error_code = Some(*code),
                Outcome::Refused(reason) => row.message.reason = Some(*reason),
                Outcome::Expired => row.message.reason = Some(Reason::TooOld),
                Outcome::Retry { not_before } => {
                    (row.not_before, row.counted, row.in_line) = (Some(*not_before), claimed.counted, false);
                }
                Outcome::InLine { not_before } => {
                    (row.not_before, row.counted, row.in_line) = (Some(*not_before), claimed.counted, true);
                    row.message.attempts = row.message.attempts.saturating_sub(1);
                }
                Outcome::Unknown => row.message.settling = Some(Settling::begin(now)),
                Outcome::Rejected { code: None } => {}
            }
            Ok(outcome.status())
        })
        .await
    }
}

impl Row {
    /// Writes what every writer of the whole row writes, if the row has the revision before.
    fn rewrite(&mut self, message: &Message, due: Option<Timestamp>, keep_payload: bool) -> bool {
        if self.message.revision != message.revision.saturating_sub(1) {
            return false;
        }
        let (sid, error_code) = (self.message.sid.take(), self.message.error_code);
        let attempts = self.message.attempts;
        let (since, until) = (message.settling, message.settling.and_then(|settling| settling.decide_until));
        let settling = since.or(self.message.settling).map(|settling| Settling { decide_until: until, ..settling });
        self.message = Message {
            sid: message.sid.clone().or(sid),
            error_code: message.error_code.or(error_code),
            reason: message.reason.and(self.message.reason),
            attempts,
            settling,
            ..message.clone()
        };
        if !keep_payload {
            self.payload = None;
        }
        (self.lease, self.not_before, self.due) = (None, None, due);
        true
    }
}

impl UpdateMessage for World {
    async fn update_message(&self, message: &Message, due: Option<Timestamp>) -> Result<bool, Fault> {
        self.call("update_message", |state| {
            let Some(row) = state.messages.rows.get_mut(&(message.account, message.id)) else { return Ok(false) };
            Ok(row.rewrite(message, due, false) || row.message == *message)
        })
        .await
    }
}

impl UpdateAndTell for World {
    async fn update_and_tell(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<bool, Fault> {
        self.call("update_and_tell", |state| {
            let Some(row) = state.messages.rows.get_mut(&(message.account, message.id)) else { return Ok(false) };
            if row.rewrite(message, due, false) {
                state.endpoints.put(told);
                state.ledger.count(failure);
                return Ok(true);
            }
            Ok(row.message == *message)
        })
        .await
    }
}

impl SettleMessage for World {
    async fn load_with_payload(
        &self,
        account: AccountId,
        id: MessageId,
    ) -> Result<Option<(Message, Option<Sealed>)>, Fault> {
        self.call("load_with_payload", |state| {
            let row = state.messages.rows.get(&(account, id));
            Ok(row.map(|row| (row.message.clone(), row.payload.clone())))
        })
        .await
    }

    async fn free_sids(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<String>, Fault> {
        self.call("free_sids", |state| {
            Ok(sids.into_iter().filter(|sid| state.owner_of(account, sid).is_none()).collect())
        })
        .await
    }

    async fn adopt_sid(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<Adopted, Fault> {
        self.call("adopt_sid", |state| {
            let sid = message.sid.clone().ok_or(Fault::permanent("an adoption has no SID"))?;
            if let Some(owner) = state.owner_of(message.account, &sid) {
                return Ok(Adopted::Taken(owner));
            }
            let row = state.messages.rows.get_mut(&(message.account, message.id));
            if !row.is_some_and(|row| row.rewrite(message, due, false)) {
                return Ok(Adopted::Moved);
            }
            state.messages.sids.insert((message.account, sid), (message.id, message.updated));
            state.endpoints.put(told);
            state.ledger.count(failure);
            Ok(Adopted::Adopted)
        })
        .await
    }

    async fn record_listing(&self, message: &Message, due: Timestamp) -> Result<bool, Fault> {
        self.call("record_listing", |state| {
            let Some(row) = state.messages.rows.get_mut(&(message.account, message.id)) else { return Ok(false) };
            Ok(row.rewrite(message, Some(due), true) || row.message == *message)
        })
        .await
    }
}

impl RecordResend for World {
    async fn record_resend(&self, outgoing: &Outgoing, dropped: &Message) -> Result<Resent, Fault> {
        self.call("record_resend", |state| {
            let old = (dropped.account, dropped.id);
            let unchanged =
                state.messages.rows.get(&old).is_some_and(|row| row.message.revision + 1 == dropped.revision);
            let earlier = state.earlier(outgoing);
            if earlier.is_none() && !unchanged {
                return Ok(Resent::Moved);
            }
            let recorded = state.record(outgoing)?;
            if recorded == Recorded::Accepted
                && let Some(row) = state.messages.rows.get_mut(&old)
            {
                row.rewrite(dropped, due_after_decision(dropped), false);
            }
            Ok(Resent::Recorded(recorded))
        })
        .await
    }
}

impl State {
    /// The message that a SID belongs to: the one that it was recorded for, or charged for.
    fn owner_of(&self, account: AccountId, sid: &str) -> Option<MessageId> {
        let recorded = self.messages.sids.get(&(account, sid.to_owned())).map(|(message, _)| *message);
        recorded.or_else(|| self.ledger.charged_for(account, sid))
    }

    /// An earlier request with the same key that counts.
    fn earlier(&self, outgoing: &Outgoing) -> Option<Idempotency> {
        let key = (outgoing.message.account, outgoing.idempotency.key.clone());
        self.messages.idempotency.get(&key).filter(|earlier| earlier.expires > outgoing.message.created).cloned()
    }

    fn record(&mut self, outgoing: &Outgoing) -> Result<Recorded, Fault> {
        let Outgoing { message, payload, idempotency, daily_ceiling, .. } = outgoing;
        let (account, now) = (message.account, message.created);
        if let Some(earlier) = self.earlier(outgoing) {
            return Ok(Recorded::Earlier(earlier));
        }
        if self.messages.rows.contains_key(&(account, message.id)) {
            return Err(Fault::permanent("a new message's id was taken"));
        }
        let allowance = self.ledger.allowances.get_mut(&account);
        let allowance = allowance.ok_or(Fault::permanent("the account has no allowance"))?;
        if let Err(refusal) = check_allowance(allowance, message.held, message.segments, *daily_ceiling, now) {
            return Ok(Recorded::Refused(refusal));
        }
        if allowance.day > Granularity::utc_day(now) {
            // A slow clock meets a day that has begun already.
            return Err(Fault::transient("the allowance kept changing"));
        }
        allowance.reserve(message.held, u64::from(message.segments), now);
        self.messages.idempotency.insert((account, idempotency.key.clone()), idempotency.clone());
        self.messages.rows.insert((account, message.id), Row::intent(message, payload, now));
        Ok(Recorded::Accepted)
    }
}

impl FindUnseen for World {
    async fn unseen_sids(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<String>, Fault> {
        self.call("unseen_sids", |state| {
            if sids.len() > 100 {
                return Err(not_valid("unseen SIDs"));
            }
            let known = &state.messages.sids;
            Ok(sids.into_iter().filter(|sid| !known.contains_key(&(account, sid.clone()))).collect())
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
            row.message.settling = Some(Settling::begin(now));
            (row.lease, row.due) = (None, Some(now + FIRST_LISTING));
            Ok(true)
        })
        .await
    }

    async fn stop_looking(&self, message: &Message) -> Result<(), Fault> {
        self.call("stop_looking", |state| {
            let row = state.messages.rows.get_mut(&(message.account, message.id));
            if let Some(row) = row.filter(|row| row.message.revision == message.revision) {
                row.due = None;
            }
            Ok(())
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
