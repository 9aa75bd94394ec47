//! Messages and idempotency records in tables `messages` and `once`.

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, Key, MESSAGES, Table};
use super::rows::{
    AllowanceRow, ApiKeyRow, CredentialRow, GateRow, IdempotencyRow, KeysRow, SessionRow, message, message_item,
};
use super::{Item, Transacted, blocker, fault, from_item, millis, n, s, to_item};
use crate::account::Gate;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId, TemplateId};
use crate::ledger::{Allowance, Granularity, MicroCredits};
use crate::live::Live;
use crate::message::{
    CancelMessage, Canceled, Chunk, ChunkRecorded, Claim, ClaimMessage, Claimed, FIRST_LISTING, Fence, FindDue, Guard,
    Idempotency, IdempotencyKey, LEASE, LOOK_AGAIN, LoadGuards, LoadSender, Loaded, Message, Outcome, Outgoing,
    ReadMessages, Reason, RecordBatch, RecordInbound, RecordMessage, RecordOutcome, Recorded, Refusal, RowOutcome,
    Seen, SenderFacts, Status, UpdateMessage, check_allowance, due, due_shard, open_to,
};
use crate::seal::{Purpose, Sealed};
use crate::session::{Pass, Proof, Way};

/// The route that idempotency keys of messages belong to.
const ROUTE: &str = "POST /v1/messages";

impl LoadSender for Live {
    async fn load_sender(
        &self,
        proof: &Proof,
        key: &IdempotencyKey,
        purposes: &[Purpose],
        template: Option<TemplateId>,
    ) -> Result<Loaded, Fault> {
        let account = proof.account;
        let pass = match proof.way {
            Way::Session => keys::session(account, &proof.hash),
            Way::ApiKey => keys::api_key(account, &proof.hash),
        };
        let gate = keys::gate(account);
        let (allowance, earlier) = (keys::allowance(account), keys::idempotency(account, ROUTE, key));
        let mut wanted = vec![pass.clone(), gate.clone(), allowance.clone(), earlier.clone()];
        let template = template.map(|template| keys::template(account, template));
        wanted.extend(template.clone());
        wanted.extend(purposes.iter().map(|purpose| keys::data_keys(account, *purpose)));
        let mut found = self.dynamo.batch_get(&wanted).await?;
        let pass = found.remove(&pass).map(|item| match proof.way {
            Way::Session => from_item::<SessionRow>(item)?.session(account).map(Pass::Session),
            Way::ApiKey => from_item::<ApiKeyRow>(item)?.api_key(account).map(Pass::ApiKey),
        });
        let gate = found.remove(&gate).map(|item| Gate::try_from(from_item::<GateRow>(item)?)).transpose()?;
        let allowance = found.remove(&allowance).map(from_item::<AllowanceRow>).transpose()?;
        let earlier = found.remove(&earlier).map(from_item::<IdempotencyRow>).transpose()?;
        let mut wrapped = Vec::new();
        for purpose in purposes {
            if let Some(item) = found.remove(&keys::data_keys(account, *purpose)) {
                wrapped.push(from_item::<KeysRow>(item)?.keys(account, *purpose)?);
            }
        }
        Ok(Loaded {
            pass: pass.transpose()?,
            facts: gate
                .zip(allowance)
                .map(|(gate, allowance)| SenderFacts { gate, allowance: Allowance::from(allowance) }),
            earlier: earlier.map(|row| row.idempotency(key.clone())).transpose()?,
            keys: wrapped,
            template: template.and_then(|key| found.remove(&key)).map(super::templates::template).transpose()?,
        })
    }
}

impl RecordMessage for Live {
    async fn record_message(&self, outgoing: &Outgoing) -> Result<Recorded, Fault> {
        let recorded = self.record_intent(outgoing, None).await?;
        recorded.ok_or(Fault::permanent("a refused write gave no reason"))
    }
}

impl Live {
    /// 1 transaction of 3 items, and with it the write to another message; tried again, decided anew, when the
    /// allowance's day turned in between. `None`: that other message stood in the way.
    pub(super) async fn record_intent(
        &self,
        outgoing: &Outgoing,
        other: Option<&TransactWriteItem>,
    ) -> Result<Option<Recorded>, Fault> {
        let db = &self.dynamo;
        let Outgoing { message, idempotency, .. } = outgoing;
        let (account, now) = (message.account, message.created);
        let record = keys::idempotency(account, ROUTE, &idempotency.key);
        let (row, item) = intent(message, &outgoing.payload, now)?;
        if u64::from(message.segments) > outgoing.daily_ceiling {
            return Ok(Some(Recorded::Refused(Refusal::DailyCeiling(outgoing.daily_ceiling))));
        }
        let (mut hold, mut same_day) = (Hold::of(outgoing), true);
        for _ in 0..4 {
            let mut parts = vec![
                db.put(
                    &record,
                    to_item(&record, &IdempotencyRow::from(idempotency))?,
                    "attribute_not_exists(pk) OR expires <= :now",
                    &[(":now", millis(now))],
                )?,
                db.put_new(&row, item.clone())?,
                self.hold(&hold, same_day)?,
            ];
            parts.extend(other.cloned());
            let reasons = match db.transact(parts).await? {
                Transacted::Committed => return Ok(Some(Recorded::Accepted)),
                Transacted::Refused(reasons) => reasons,
            };
            if let Some(earlier) = blocker(&reasons, 0) {
                let row: IdempotencyRow = from_item(earlier)?;
                return Ok(Some(Recorded::Earlier(row.idempotency(idempotency.key.clone())?)));
            }
            if blocker(&reasons, 3).is_some() {
                return Ok(None);
            }
            if blocker(&reasons, 1).is_some() {
                return Err(Fault::permanent("a new message's id was taken"));
            }
            let allowance = blocker(&reasons, 2).filter(|item| !item.is_empty());
            let allowance = Allowance::from(from_item::<AllowanceRow>(
                allowance.ok_or(Fault::permanent("the account has no allowance"))?,
            )?);
            if let Err(refusal) =
                check_allowance(&allowance, message.held, message.segments, outgoing.daily_ceiling, now)
            {
                return Ok(Some(Recorded::Refused(refusal)));
            }
            (hold.room, same_day) = (allowance.room, allowance.day == Granularity::utc_day(now));
        }
        Err(Fault::transient("the allowance kept changing"))
    }
}

/// A message's item with its payload and the time of its first look.
fn intent(message: &Message, payload: &Sealed, now: Timestamp) -> Result<(Key, Item), Fault> {
    let row = keys::message(message.account, message.id);
    let mut item = message_item(&row, message)?;
    item.insert("payload".to_owned(), binary(payload));
    set_due(&mut item, message.id, message.held_until.unwrap_or(now + LOOK_AGAIN));
    if let Some(until) = message.held_until {
        item.insert("not_before".to_owned(), millis(until));
    }
    Ok((row, item))
}

/// What one transaction reserves.
struct Hold {
    account: AccountId,
    credits: u64,
    segments: u64,
    daily_ceiling: u64,
    /// What may be used beyond all credit, as it was read.
    room: MicroCredits,
    now: Timestamp,
}

impl Hold {
    fn of(outgoing: &Outgoing) -> Self {
        let Outgoing { message, daily_ceiling, room, .. } = outgoing;
        let segments = u64::from(message.segments);
        let (account, credits, now) = (message.account, message.held.0, message.created);
        Self { account, credits, segments, daily_ceiling: *daily_ceiling, room: *room, now }
    }

    fn of_all(chunk: &Chunk) -> Self {
        let sum = |each: fn(&Message) -> u64| chunk.messages.iter().map(|(message, _)| each(message)).sum();
        Self {
            account: chunk.account,
            credits: sum(|message| message.held.0),
            segments: sum(|message| u64::from(message.segments)),
            daily_ceiling: chunk.daily_ceiling,
            room: chunk.room,
            now: chunk.now,
        }
    }
}

impl RecordBatch for Live {
    async fn begin_batch(
        &self,
        account: AccountId,
        idempotency: &Idempotency,
        now: Timestamp,
    ) -> Result<Option<Idempotency>, Fault> {
        let db = &self.dynamo;
        let record = keys::idempotency(account, ROUTE, &idempotency.key);
        let item = to_item(&record, &IdempotencyRow::from(idempotency))?;
        let condition = "attribute_not_exists(pk) OR expires <= :now";
        match db.transact(vec![db.put(&record, item, condition, &[(":now", millis(now))])?]).await? {
            Transacted::Committed => Ok(None),
            Transacted::Refused(reasons) => {
                let earlier = blocker(&reasons, 0).ok_or(Fault::permanent("a refused write gave no reason"))?;
                Ok(Some(from_item::<IdempotencyRow>(earlier)?.idempotency(idempotency.key.clone())?))
            }
        }
    }

    /// 1 transaction of at most 92 items; tried again when the allowance's day turned in between.
    async fn record_chunk(&self, chunk: &Chunk) -> Result<ChunkRecorded, Fault> {
        let db = &self.dynamo;
        let record = keys::idempotency(chunk.account, ROUTE, &chunk.key);
        let before = RowOutcome::to_text(&chunk.batch.outcomes);
        let after = format!("{before}{}", RowOutcome::to_text(&chunk.outcomes));
        let mut hold = Hold::of_all(chunk);
        if hold.segments > chunk.daily_ceiling {
            // No condition below would see it: what is left of the ceiling cannot be less than nothing.
            let there = db.get::<AllowanceRow>(&keys::allowance(chunk.account)).await?;
            return Ok(ChunkRecorded::Refused(Allowance::from(
                there.ok_or(Fault::permanent("the account has no allowance"))?,
            )));
        }
        let mut same_day = true;
        for _ in 0..4 {
            let values = [(":batch", s(chunk.batch.id.to_string())), (":before", s(&before)), (":after", s(&after))];
            let advance =
                db.update(&record, "SET outcomes = :after", "batch_id = :batch AND outcomes = :before", &values)?;
            let mut parts = vec![advance];
            if !chunk.messages.is_empty() {
                parts.push(self.hold(&hold, same_day)?);
            }
            for (message, payload) in &chunk.messages {
                let (key, item) = intent(message, payload, chunk.now)?;
                parts.push(db.put_new(&key, item)?);
            }
            let reasons = match db.transact(parts).await? {
                Transacted::Committed => return Ok(ChunkRecorded::Recorded),
                Transacted::Refused(reasons) => reasons,
            };
            if let Some(there) = blocker(&reasons, 0) {
                let there = Some(there).filter(|item| !item.is_empty()).ok_or(Fault::permanent("a batch is gone"))?;
                let there = from_item::<IdempotencyRow>(there)?.idempotency(chunk.key.clone())?.batch;
                let there = there.filter(|batch| batch.id == chunk.batch.id && batch.outcomes != chunk.batch.outcomes);
                return there.map(ChunkRecorded::Moved).ok_or(Fault::permanent("a batch's key was used anew"));
            }
            let allowance = blocker(&reasons, 1).filter(|item| !item.is_empty());
            let allowance = allowance.ok_or(Fault::permanent("a new message's id was taken"))?;
            let allowance = Allowance::from(from_item::<AllowanceRow>(allowance)?);
            let today = Granularity::utc_day(chunk.now);
            let (credits, segments) = (hold.credits, hold.segments);
            let covered = allowance.available().0 >= credits
                && allowance.segments_on(chunk.now).saturating_add(segments) <= chunk.daily_ceiling;
            if !covered {
                return Ok(ChunkRecorded::Refused(allowance));
            }
            (hold.room, same_day) = (allowance.room, allowance.day == today);
        }
        Err(Fault::transient("the allowance kept changing"))
    }
}

impl Live {
    /// The hold on the allowance, which also counts the day's segments: on the day that is stored, or on a new day.
    fn hold(&self, hold: &Hold, same_day: bool) -> Result<TransactWriteItem, Fault> {
        let today = Granularity::utc_day(hold.now);
        let mut values = vec![(":hold", n(hold.credits)), (":today", s(today)), (":segments", n(hold.segments))];
        let (expression, condition) = if same_day {
            values.push((":still", n(hold.daily_ceiling.saturating_sub(hold.segments))));
            (
                "SET available = available - :hold, held = held + :hold, day_segments = day_segments + :segments",
                "day_utc = :today AND day_segments <= :still",
            )
        } else {
            (
                "SET available = available - :hold, held = held + :hold, day_segments = :segments, day_utc = :today",
                "day_utc < :today",
            )
        };
        // Beyond all credit only as far as was read, and while that stands.
        let covered = if hold.room == MicroCredits::ZERO {
            "available >= :hold"
        } else {
            let least = MicroCredits(hold.credits).plus().and(hold.room.minus());
            values.extend([(":least", n(least.0)), (":room", n(hold.room.0))]);
            "available >= :least AND room = :room"
        };
        let condition = format!("{covered} AND {condition}");
        self.dynamo.update(&keys::allowance(hold.account), expression, &condition, &values)
    }
}

fn binary(sealed: &Sealed) -> AttributeValue {
    AttributeValue::B(sealed.0.clone().into())
}

pub(super) fn shard_word(shard: u8) -> AttributeValue {
    s(format!("due#{shard:02}"))
}

fn set_due(item: &mut Item, id: MessageId, at: Timestamp) {
    item.insert("due_shard".to_owned(), shard_word(due_shard(id)));
    item.insert("due_at".to_owned(), millis(at));
}

impl ReadMessages for Live {
    async fn load_message(&self, account: AccountId, id: MessageId) -> Result<Option<Message>, Fault> {
        let key = keys::message(account, id);
        let mut found = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        found.remove(&key).map(message).transpose()
    }

    async fn list_messages(
        &self,
        account: AccountId,
        before: Option<MessageId>,
        limit: u16,
    ) -> Result<Vec<Message>, Fault> {
        let db = &self.dynamo;
        let start = before.map(|before| keys::message(account, before).attributes());
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(MESSAGES))
            .scan_index_forward(false)
            .set_exclusive_start_key(start)
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("list messages", &error))?;
        answer.items.unwrap_or_default().into_iter().map(message).collect()
    }
}

impl ClaimMessage for Live {
    async fn claim_message(
        &self,
        account: AccountId,
        id: MessageId,
        fence: Fence,
        now: Timestamp,
    ) -> Result<Claim, Fault> {
        let lease = now + LEASE;
        let claimed = self
            .dynamo
            .update_one(
                &keys::message(account, id),
                "SET #status = :dispatching, fence = :fence, lease = :lease, attempts = attempts + :one, \
                 revision = revision + :one, updated = :now, due_shard = :shard, due_at = :lease REMOVE not_before",
                "attribute_exists(payload) AND #status IN (:accepted, :retryable, :held) \
                 AND (attribute_not_exists(not_before) OR not_before <= :now)",
                &[
                    (":dispatching", word(Status::Dispatching)?),
                    (":accepted", word(Status::Accepted)?),
                    (":retryable", word(Status::Retryable)?),
                    (":held", word(Status::Held)?),
                    (":fence", s(fence.0.to_string())),
                    (":lease", millis(lease)),
                    (":one", n(1)),
                    (":now", millis(now)),
                    (":shard", shard_word(due_shard(id))),
                ],
            )
            .await?;
        let item = match claimed {
            Ok(item) => item,
            // The SDK repeated our own write after its answer was lost: the fence says so.
            Err(Some(item))
                if item.get("fence") == Some(&s(fence.0.to_string()))
                    && item.get("status") == Some(&word(Status::Dispatching)?) =>
            {
                item
            }
            Err(None) => return Ok(Claim::Done),
            Err(Some(item)) => {
                let time = |name: &str| {
                    let ms = item.get(name).and_then(|at| at.as_n().ok()?.parse().ok())?;
                    Timestamp::from_millisecond(ms).ok()
                };
                let (not_before, lease) = (time("not_before"), time("lease"));
                return Ok(match (message(item)?.status, not_before, lease) {
                    (Status::Accepted | Status::Retryable | Status::Held, Some(at), _) => Claim::TooEarly(at),
                    (Status::Dispatching, _, Some(at)) => Claim::Busy(at),
                    _ => Claim::Done,
                });
            }
        };
        let payload = item.get("payload").and_then(|payload| payload.as_b().ok());
        let payload = Sealed(payload.ok_or(Fault::permanent("a message to send has no payload"))?.as_ref().to_vec());
        let is = |name: &str| item.get(name) == Some(&AttributeValue::Bool(true));
        let (counted, in_line) = (is("counted"), is("in_line"));
        Ok(Claim::Mine(Box::new(Claimed { message: message(item)?, payload, fence, counted, in_line })))
    }
}

impl CancelMessage for Live {
    async fn cancel_message(&self, account: AccountId, id: MessageId, now: Timestamp) -> Result<Canceled, Fault> {
        let canceled = self
            .dynamo
            .update_one(
                &keys::message(account, id),
                "SET #status = :canceled, revision = revision + :one, updated = :now, due_shard = :shard, due_at = :due \
                 REMOVE payload, not_before",
                "#status IN (:held, :accepted, :retryable)",
                &[
                    (":canceled", word(Status::Canceled)?),
                    (":held", word(Status::Held)?),
                    (":accepted", word(Status::Accepted)?),
                    (":retryable", word(Status::Retryable)?),
                    (":one", n(1)),
                    (":now", millis(now)),
                    (":shard", shard_word(due_shard(id))),
                    (":due", millis(now + LOOK_AGAIN)),
                ],
            )
            .await?;
        match canceled {
            Ok(item) => Ok(Canceled::Canceled(message(item)?)),
            Err(None) => Ok(Canceled::NotFound),
            Err(Some(item)) => {
                let message = message(item)?;
                let canceled = message.status == Status::Canceled;
                Ok(if canceled { Canceled::Canceled(message) } else { Canceled::TooLate(message) })
            }
        }
    }
}

/// An enum's stored word.
pub(super) fn word(value: impl Serialize) -> Result<AttributeValue, Fault> {
    serde_dynamo::to_attribute_value(value).map_err(|_| Fault::permanent("a word did not serialize"))
}

impl LoadGuards for Live {
    async fn load_guards(&self, claimed: &[Claimed], wanted: &[(AccountId, Purpose)]) -> Result<Vec<Guard>, Fault> {
        let opt_out = |c: &Claimed| keys::opt_out(c.message.account, &c.message.own, &c.message.other_hash);
        let mut batch: Vec<Key> = Vec::new();
        for one in claimed {
            let account = one.message.account;
            batch.extend([keys::gate(account), keys::allowance(account), keys::credential(account), opt_out(one)]);
        }
        batch.extend(wanted.iter().map(|(account, purpose)| keys::data_keys(*account, *purpose)));
        let found = self.dynamo.batch_get(&batch).await?;
        let item = |key: &Key| found.get(key).cloned();
        let mut guards = Vec::new();
        for one in claimed {
            let account = one.message.account;
            let gate = item(&keys::gate(account)).map(from_item::<GateRow>).transpose()?;
            let gate = gate.map(Gate::try_from).transpose()?;
            let allowance = item(&keys::allowance(account)).map(from_item::<AllowanceRow>).transpose()?;
            let allowance = allowance.map(Allowance::from);
            let credential = item(&keys::credential(account)).map(from_item::<CredentialRow>).transpose()?;
            let credential = credential.map(|row| row.credential(account)).transpose()?;
            let mut wrapped = Vec::new();
            for (owner, purpose) in wanted.iter().filter(|(owner, _)| *owner == account) {
                if let Some(row) = item(&keys::data_keys(*owner, *purpose)) {
                    wrapped.push(from_item::<KeysRow>(row)?.keys(*owner, *purpose)?);
                }
            }
            guards.push(Guard {
                // What does not read keeps its own message back and no other of the batch.
                opted_out: item(&opt_out(one))
                    .is_some_and(|item| super::opt_outs::opt_out(item).map_or(true, |row| row.standing().is_some())),
                stopped: gate.as_ref().and_then(Gate::stopped),
                owed: allowance.is_some_and(|there| there.owed() > MicroCredits::ZERO),
                daily_ceiling: gate.as_ref().map_or(0, |gate| gate.daily_ceiling),
                counts_from: gate.as_ref().map_or(Timestamp::UNIX_EPOCH, Gate::counts_from),
                rate: gate.as_ref().and_then(|gate| gate.rate_of(&one.message.own)),
                credential: credential.filter(|_| gate.is_some_and(|gate| gate.connected)),
                keys: wrapped,
            });
        }
        Ok(guards)
    }
}

impl RecordOutcome for Live {
    async fn record_outcome(&self, claimed: &Claimed, outcome: &Outcome, now: Timestamp) -> Result<Status, Fault> {
        let held = &claimed.message;
        let mut set = "SET #status = :status, revision = revision + :one, updated = :now".to_owned();
        let mut remove = vec!["lease"];
        let mut values = vec![
            (":status", word(outcome.status())?),
            (":one", n(1)),
            (":now", millis(now)),
            (":fence", s(claimed.fence.0.to_string())),
        ];
        let names = [":open0", ":open1", ":open2"];
        let open: Vec<_> = names.into_iter().zip(open_to(outcome)).collect();
        for (name, status) in &open {
            values.push((name, word(status)?));
        }
        let mut assign = |assignment: &str, name: &'static str, value: AttributeValue| {
            set.push_str(assignment);
            values.push((name, value));
        };
        match outcome {
            Outcome::Sent { sid } => {
                assign(", sid = :sid", ":sid", s(sid));
                // If its hold was given back meanwhile it is to be charged after all.
                assign(", settled = :no", ":no", AttributeValue::Bool(false));
            }
            Outcome::Rejected { code: Some(code) } => assign(", error_code = :code", ":code", n(code)),
            Outcome::Refused(reason) => assign(", reason = :reason", ":reason", word(reason)?),
            Outcome::Expired => assign(", reason = :reason", ":reason", word(Reason::TooOld)?),
            Outcome::Retry { not_before } | Outcome::InLine { not_before } => {
                let in_line = matches!(outcome, Outcome::InLine { .. });
                assign(", not_before = :not_before", ":not_before", millis(*not_before));
                assign(", counted = :counted", ":counted", AttributeValue::Bool(claimed.counted));
                assign(", in_line = :in_line", ":in_line", AttributeValue::Bool(in_line));
                // Nobody tried it.
                let attempts = held.attempts.saturating_sub(u32::from(in_line));
                assign(", attempts = :attempts", ":attempts", n(attempts));
            }
            Outcome::Unknown => {
                assign(", unknown_since = :now, clean_listings = :none", ":none", n(0));
            }
            Outcome::Rejected { code: None } => {}
        }
        match due(held, outcome, now) {
            Some(at) => {
                assign(", due_shard = :shard", ":shard", shard_word(due_shard(held.id)));
                assign(", due_at = :due", ":due", millis(at));
            }
            None => remove.extend(["due_shard", "due_at"]),
        }
        if !outcome.keeps_payload() {
            remove.extend(["payload", "decide_until"]);
        }
        let expression = format!("{set} REMOVE {}", remove.join(", "));
        // A callback that came first stands.
        let open: Vec<_> = open.into_iter().map(|(name, _)| name).collect();
        let condition = format!("fence = :fence AND #status IN ({})", open.join(", "));
        match self.dynamo.update_one(&keys::message(held.account, held.id), &expression, &condition, &values).await? {
            Ok(_) => Ok(outcome.status()),
            Err(Some(item)) => Ok(message(item)?.status),
            Err(None) => Err(Fault::permanent("a claimed message is gone")),
        }
    }
}

/// Values of an expression, by their names.
type Values = Vec<(&'static str, AttributeValue)>;

/// How a message's row is written anew while it has the revision before: the expression and its values. The condition is
/// [`UNCHANGED`].
pub(super) fn rewrite(
    message: &Message,
    due: Option<Timestamp>,
    keep_payload: bool,
) -> Result<(String, Values), Fault> {
    let mut set = "SET #status = :status, revision = :revision, updated = :updated, settled = :settled".to_owned();
    let mut values = vec![
        (":status", word(message.status)?),
        (":revision", n(message.revision)),
        (":before", n(message.revision.saturating_sub(1))),
        (":updated", millis(message.updated)),
        (":settled", AttributeValue::Bool(message.settled)),
    ];
    let mut assign = |name: &'static str, placeholder: &'static str, value: AttributeValue| {
        set.extend([", ", name, " = ", placeholder]);
        values.push((placeholder, value));
    };
    if let Some(sid) = &message.sid {
        assign("sid", ":sid", s(sid));
    }
    if let Some(code) = message.error_code {
        assign("error_code", ":code", n(code));
    }
    let mut remove = vec!["lease", "not_before"];
    if !keep_payload {
        remove.push("payload");
    }
    if message.reason.is_none() {
        remove.push("reason");
    }
    if let Some(settling) = &message.settling {
        assign("unknown_since", ":since", millis(settling.since));
        assign("clean_listings", ":clean", n(settling.clean));
        if let Some(resent_as) = settling.resent_as {
            assign("resent_as", ":resent_as", s(resent_as.to_string()));
        }
    }
    match message.settling.and_then(|settling| settling.decide_until) {
        Some(until) => assign("decide_until", ":decide_until", millis(until)),
        None => remove.push("decide_until"),
    }
    match due {
        Some(at) => {
            assign("due_shard", ":shard", shard_word(due_shard(message.id)));
            assign("due_at", ":due", millis(at));
        }
        None => remove.extend(["due_shard", "due_at"]),
    }
    Ok((format!("{set} REMOVE {}", remove.join(", ")), values))
}

/// Nobody else wrote the row since it was read.
pub(super) const UNCHANGED: &str = "revision = :before";

impl Live {
    pub(super) async fn write_unchanged(
        &self,
        message: &Message,
        due: Option<Timestamp>,
        keep_payload: bool,
    ) -> Result<bool, Fault> {
        let (expression, values) = rewrite(message, due, keep_payload)?;
        let key = keys::message(message.account, message.id);
        match self.dynamo.update_one(&key, &expression, UNCHANGED, &values).await? {
            Ok(_) => Ok(true),
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            Err(Some(item)) => Ok(super::rows::message(item)? == *message),
            Err(None) => Ok(false),
        }
    }
}

impl UpdateMessage for Live {
    async fn update_message(&self, message: &Message, due: Option<Timestamp>) -> Result<bool, Fault> {
        self.write_unchanged(message, due, false).await
    }
}

/// Which message a SID belongs to, and since when.
#[derive(Serialize, Deserialize)]
pub(super) struct SidRow {
    pub message: MessageId,
    pub first: i64,
}

impl RecordInbound for Live {
    async fn record_inbound(&self, message: &Message, due: Timestamp) -> Result<Seen, Fault> {
        let db = &self.dynamo;
        let text = message.sid.as_deref().ok_or(Fault::permanent("a text that arrived has no SID"))?;
        let (row, once) = (keys::message(message.account, message.id), keys::sid(message.account, text));
        let mut item = message_item(&row, message)?;
        set_due(&mut item, message.id, due);
        let parts = vec![
            db.put_new(
                &once,
                to_item(&once, &SidRow { message: message.id, first: message.created.as_millisecond() })?,
            )?,
            db.put_new(&row, item)?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(Seen::First),
            Transacted::Refused(reasons) => {
                let before = blocker(&reasons, 0).ok_or(Fault::permanent("a new message's id was taken"))?;
                let row: SidRow = from_item(before)?;
                let first = Timestamp::from_millisecond(row.first);
                Ok(Seen::Before(first.map_err(|_| Fault::permanent("a stored time does not read"))?))
            }
        }
    }
}

impl FindDue for Live {
    async fn find_due(&self, shard: u8, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, MessageId)>, Fault> {
        self.dynamo.query_due(Table::Messages, shard_word(shard), now, limit, keys::parse_message).await
    }

    async fn end_lease(&self, message: &Message, now: Timestamp) -> Result<bool, Fault> {
        let ended = self
            .dynamo
            .update_one(
                &keys::message(message.account, message.id),
                "SET #status = :unknown, revision = revision + :one, updated = :now, unknown_since = :now, \
                 clean_listings = :none, due_at = :first REMOVE lease",
                "#status = :dispatching AND lease <= :now",
                &[
                    (":unknown", word(Status::Unknown)?),
                    (":dispatching", word(Status::Dispatching)?),
                    (":one", n(1)),
                    (":now", millis(now)),
                    (":none", n(0)),
                    (":first", millis(now + FIRST_LISTING)),
                ],
            )
            .await;
        Ok(ended?.is_ok())
    }

    async fn stop_looking(&self, message: &Message) -> Result<(), Fault> {
        let stopped = self
            .dynamo
            .update_one(
                &keys::message(message.account, message.id),
                "REMOVE due_shard, due_at",
                "revision = :revision",
                &[(":revision", n(message.revision))],
            )
            .await;
        stopped.map(|_| ())
    }

    async fn look_again(&self, message: &Message, at: Timestamp) -> Result<bool, Fault> {
        let moved = self
            .dynamo
            .update_one(
                &keys::message(message.account, message.id),
                "SET due_at = :at",
                "revision = :revision AND attribute_exists(due_at)",
                &[(":at", millis(at)), (":revision", n(message.revision))],
            )
            .await;
        Ok(moved?.is_ok())
    }
}
