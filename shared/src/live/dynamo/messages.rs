//! Messages, opt-outs and idempotency records in tables `messages` and `once`.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, DUE_INDEX, Key, MESSAGES, Table};
use super::rows::{
    AllowanceRow, ApiKeyRow, CredentialRow, GateRow, IdempotencyRow, KeysRow, SessionRow, message, message_item,
};
use super::{Item, Transacted, blocker, fault, from_item, millis, n, s, text, to_item};
use crate::account::{Gate, Stop};
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::inbound::{Consent, RecordConsent};
use crate::ledger::{Allowance, Granularity};
use crate::live::Live;
use crate::message::{
    Claim, ClaimMessage, Claimed, Fence, FindDue, GIVE_UP, Guard, IdempotencyKey, LEASE, LOOK_AGAIN, LoadGuards,
    LoadSender, Loaded, Message, Outcome, Outgoing, ReadMessages, Reason, RecordInbound, RecordMessage, RecordOutcome,
    Recorded, Refusal, Seen, SenderFacts, Status, UpdateMessage, check_allowance, due, due_shard,
};
use crate::seal::{Purpose, Sealed};
use crate::session::{Pass, Proof, Way};

/// The route that idempotency keys of messages belong to.
const ROUTE: &str = "POST /v1/messages";

impl LoadSender for Live {
    async fn load_sender(&self, proof: &Proof, key: &IdempotencyKey, purposes: &[Purpose]) -> Result<Loaded, Fault> {
        let account = proof.account;
        let pass = match proof.way {
            Way::Session => keys::session(account, &proof.hash),
            Way::ApiKey => keys::api_key(account, &proof.hash),
        };
        let gate = keys::gate(account);
        let (allowance, earlier) = (keys::allowance(account), keys::idempotency(account, ROUTE, key));
        let mut wanted = vec![pass.clone(), gate.clone(), allowance.clone(), earlier.clone()];
        wanted.extend(purposes.iter().map(|purpose| keys::data_keys(account, *purpose)));
        let mut found = self.dynamo.batch_get(&wanted).await?;
        let pass = found.remove(&pass).map(|item| match proof.way {
            Way::Session => from_item::<SessionRow>(item)?.session(account).map(Pass::Session),
            Way::ApiKey => from_item::<ApiKeyRow>(item)?.api_key(account).map(Pass::ApiKey),
        });
        let gate = found.remove(&gate).map(from_item::<GateRow>).transpose()?;
        let allowance = found.remove(&allowance).map(from_item::<AllowanceRow>).transpose()?;
        let earlier = found.remove(&earlier).map(from_item::<IdempotencyRow>).transpose()?;
        let mut wrapped = Vec::new();
        for purpose in purposes {
            if let Some(item) = found.remove(&keys::data_keys(account, *purpose)) {
                wrapped.push(from_item::<KeysRow>(item)?.keys(account, *purpose));
            }
        }
        Ok(Loaded {
            pass: pass.transpose()?,
            facts: gate
                .zip(allowance)
                .map(|(gate, allowance)| SenderFacts { gate: Gate::from(gate), allowance: Allowance::from(allowance) }),
            earlier: earlier.map(|row| row.idempotency(key.clone())).transpose()?,
            keys: wrapped,
        })
    }
}

impl RecordMessage for Live {
    /// 1 transaction of 3 items; tried again, decided anew, when the allowance's day turned in between.
    async fn record_message(&self, outgoing: &Outgoing) -> Result<Recorded, Fault> {
        let db = &self.dynamo;
        let Outgoing { message, idempotency, .. } = outgoing;
        let (account, now) = (message.account, message.created);
        let record = keys::idempotency(account, ROUTE, &idempotency.key);
        let row = keys::message(account, message.id);
        let mut item = message_item(&row, message)?;
        item.insert("payload".to_owned(), binary(&outgoing.payload));
        set_due(&mut item, message.id, now + LOOK_AGAIN);
        if u64::from(message.segments) > outgoing.daily_ceiling {
            return Ok(Recorded::Refused(Refusal::DailyCeiling(outgoing.daily_ceiling)));
        }
        let mut same_day = true;
        for _ in 0..4 {
            let parts = vec![
                db.put(
                    &record,
                    to_item(&record, &IdempotencyRow::from(idempotency))?,
                    "attribute_not_exists(pk) OR expires <= :now",
                    &[(":now", millis(now))],
                )?,
                db.put_new(&row, item.clone())?,
                self.hold(outgoing, same_day)?,
            ];
            let reasons = match db.transact(parts).await? {
                Transacted::Committed => return Ok(Recorded::Accepted),
                Transacted::Refused(reasons) => reasons,
            };
            if let Some(earlier) = blocker(&reasons, 0) {
                let row: IdempotencyRow = from_item(earlier)?;
                return Ok(Recorded::Earlier(row.idempotency(idempotency.key.clone())?));
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
                return Ok(Recorded::Refused(refusal));
            }
            same_day = allowance.day == Granularity::Day.period(now);
        }
        Err(Fault::transient("the allowance kept changing"))
    }
}

impl Live {
    /// The hold on the allowance, which also counts the day's segments: on the day that is stored, or on a new day.
    fn hold(&self, outgoing: &Outgoing, same_day: bool) -> Result<aws_sdk_dynamodb::types::TransactWriteItem, Fault> {
        let message = &outgoing.message;
        let segments = u64::from(message.segments);
        let today = Granularity::Day.period(message.created);
        let mut values = vec![(":hold", n(message.held.0)), (":today", s(today)), (":segments", n(segments))];
        let (expression, condition) = if same_day {
            values.push((":room", n(outgoing.daily_ceiling.saturating_sub(segments))));
            (
                "SET available = available - :hold, held = held + :hold, day_segments = day_segments + :segments",
                "available >= :hold AND day_utc = :today AND day_segments <= :room",
            )
        } else {
            (
                "SET available = available - :hold, held = held + :hold, day_segments = :segments, day_utc = :today",
                "available >= :hold AND day_utc < :today",
            )
        };
        self.dynamo.update(&keys::allowance(message.account), expression, condition, &values)
    }
}

fn binary(sealed: &Sealed) -> AttributeValue {
    AttributeValue::B(sealed.0.clone().into())
}

fn shard_word(shard: u8) -> AttributeValue {
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
                "attribute_exists(payload) AND (#status = :accepted OR (#status = :retryable AND not_before <= :now))",
                &[
                    (":dispatching", word(Status::Dispatching)?),
                    (":accepted", word(Status::Accepted)?),
                    (":retryable", word(Status::Retryable)?),
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
                let wait =
                    item.get("not_before").or_else(|| item.get("lease")).and_then(|at| at.as_n().ok()?.parse().ok());
                let wait = wait.and_then(|at| Timestamp::from_millisecond(at).ok());
                let held = message(item)?;
                return Ok(match (held.status, wait) {
                    (Status::Retryable | Status::Dispatching, Some(at)) => Claim::NotNow(at),
                    _ => Claim::Done,
                });
            }
        };
        let payload = item.get("payload").and_then(|payload| payload.as_b().ok());
        let payload = Sealed(payload.ok_or(Fault::permanent("a message to send has no payload"))?.as_ref().to_vec());
        Ok(Claim::Mine(Box::new(Claimed { message: message(item)?, payload, fence })))
    }
}

/// An enum's stored word.
fn word(value: impl Serialize) -> Result<AttributeValue, Fault> {
    serde_dynamo::to_attribute_value(value).map_err(|_| Fault::permanent("a word did not serialize"))
}

impl LoadGuards for Live {
    async fn load_guards(&self, claimed: &[Claimed], wanted: &[(AccountId, Purpose)]) -> Result<Vec<Guard>, Fault> {
        let opt_out = |c: &Claimed| keys::opt_out(c.message.account, &c.message.own, &c.message.other_hash);
        let mut batch: Vec<Key> = Vec::new();
        for one in claimed {
            let account = one.message.account;
            batch.extend([keys::gate(account), keys::credential(account), opt_out(one)]);
        }
        batch.extend(wanted.iter().map(|(account, purpose)| keys::data_keys(*account, *purpose)));
        let found = self.dynamo.batch_get(&batch).await?;
        let item = |key: &Key| found.get(key).cloned();
        let mut guards = Vec::new();
        for one in claimed {
            let account = one.message.account;
            let gate = item(&keys::gate(account)).map(from_item::<GateRow>).transpose()?.map(Gate::from);
            let credential = item(&keys::credential(account)).map(from_item::<CredentialRow>).transpose()?;
            let credential = credential.map(|row| row.credential(account)).transpose()?;
            let mut wrapped = Vec::new();
            for (owner, purpose) in wanted.iter().filter(|(owner, _)| *owner == account) {
                if let Some(row) = item(&keys::data_keys(*owner, *purpose)) {
                    wrapped.push(from_item::<KeysRow>(row)?.keys(*owner, *purpose));
                }
            }
            guards.push(Guard {
                opted_out: item(&opt_out(one)).is_some_and(|item| item.get("consent") == Some(&s("stop"))),
                stopped: gate.as_ref().and_then(Gate::stopped),
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
            (":dispatching", word(Status::Dispatching)?),
            (":unknown", word(Status::Unknown)?),
            (":unconfirmed", word(Status::Unconfirmed)?),
        ];
        let mut assign = |assignment: &str, name: &'static str, value: AttributeValue| {
            set.push_str(assignment);
            values.push((name, value));
        };
        match outcome {
            Outcome::Sent { sid } => assign(", sid = :sid", ":sid", s(sid)),
            Outcome::Rejected { code: Some(code) } => assign(", error_code = :code", ":code", n(code)),
            Outcome::Refused(reason) => assign(", reason = :reason", ":reason", word(reason)?),
            Outcome::Expired => assign(", reason = :reason", ":reason", word(Reason::TooOld)?),
            Outcome::Retry { not_before } => assign(", not_before = :not_before", ":not_before", millis(*not_before)),
            Outcome::Rejected { code: None } | Outcome::Unknown => {}
        }
        match due(held, outcome, now) {
            Some(at) => {
                assign(", due_shard = :shard", ":shard", shard_word(due_shard(held.id)));
                assign(", due_at = :due", ":due", millis(at));
            }
            None => remove.extend(["due_shard", "due_at"]),
        }
        if !matches!(outcome, Outcome::Retry { .. } | Outcome::Unknown) {
            remove.push("payload");
        }
        let expression = format!("{set} REMOVE {}", remove.join(", "));
        // A late answer of the same claim is evidence even after its lease; a callback that came first stands.
        let condition = "fence = :fence AND #status IN (:dispatching, :unknown, :unconfirmed)";
        match self.dynamo.update_one(&keys::message(held.account, held.id), &expression, condition, &values).await? {
            Ok(_) => Ok(outcome.status()),
            Err(Some(item)) => Ok(message(item)?.status),
            Err(None) => Err(Fault::permanent("a claimed message is gone")),
        }
    }

    async fn stop_sending(&self, account: AccountId, stop: Stop, credential_version: u32) -> Result<(), Fault> {
        self.close_gate(account, stop, credential_version).await
    }
}

impl UpdateMessage for Live {
    async fn update_message(&self, message: &Message, due: Option<Timestamp>) -> Result<bool, Fault> {
        let mut set = "SET #status = :status, revision = :revision, updated = :updated".to_owned();
        let mut values = vec![
            (":status", word(message.status)?),
            (":revision", n(message.revision)),
            (":before", n(message.revision.saturating_sub(1))),
            (":updated", millis(message.updated)),
        ];
        if let Some(sid) = &message.sid {
            set.push_str(", sid = :sid");
            values.push((":sid", s(sid)));
        }
        if let Some(code) = message.error_code {
            set.push_str(", error_code = :code");
            values.push((":code", n(code)));
        }
        let mut remove = vec!["payload", "lease", "not_before"];
        if message.reason.is_none() {
            remove.push("reason");
        }
        match due {
            Some(at) => {
                set.push_str(", due_shard = :shard, due_at = :due");
                values.extend([(":shard", shard_word(due_shard(message.id))), (":due", millis(at))]);
            }
            None => remove.extend(["due_shard", "due_at"]),
        }
        let expression = format!("{set} REMOVE {}", remove.join(", "));
        let key = keys::message(message.account, message.id);
        match self.dynamo.update_one(&key, &expression, "revision = :before", &values).await? {
            Ok(_) => Ok(true),
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            Err(Some(item)) => Ok(super::rows::message(item)? == *message),
            Err(None) => Ok(false),
        }
    }
}

impl RecordInbound for Live {
    async fn record_inbound(&self, message: &Message, due: Timestamp) -> Result<Seen, Fault> {
        #[derive(Serialize, Deserialize)]
        struct SidRow {
            message: MessageId,
            first: i64,
        }
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
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .index_name(DUE_INDEX)
            .key_condition_expression("due_shard = :shard AND due_at <= :now")
            .expression_attribute_values(":shard", shard_word(shard))
            .expression_attribute_values(":now", millis(now))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("find due", &error))?;
        let items = answer.items.unwrap_or_default();
        items
            .iter()
            .map(|item| {
                let key = keys::parse_message(&text(item, "pk")?, &text(item, "sk")?);
                key.ok_or(Fault::permanent("a due item is no message"))
            })
            .collect()
    }

    async fn end_lease(&self, message: &Message, now: Timestamp) -> Result<bool, Fault> {
        let ended = self
            .dynamo
            .update_one(
                &keys::message(message.account, message.id),
                "SET #status = :unknown, revision = revision + :one, updated = :now, due_at = :give_up REMOVE lease",
                "#status = :dispatching AND lease <= :now",
                &[
                    (":unknown", word(Status::Unknown)?),
                    (":dispatching", word(Status::Dispatching)?),
                    (":one", n(1)),
                    (":now", millis(now)),
                    (":give_up", millis(now + GIVE_UP)),
                ],
            )
            .await;
        Ok(ended?.is_ok())
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

impl RecordConsent for Live {
    /// 1 conditional update: a later word stands; of two at the same time STOP does.
    async fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        source: &str,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let same_time = match consent {
            Consent::Stop => " OR said_at = :at",
            Consent::Start => "",
        };
        let recorded = self
            .dynamo
            .update_one(
                &keys::opt_out(account, own, other_hash),
                "SET consent = :consent, said_at = :at, said_by = :by, v = :v",
                &format!("attribute_not_exists(pk) OR said_at < :at{same_time}"),
                &[(":consent", word(consent)?), (":at", millis(at)), (":by", s(source)), (":v", n(1))],
            )
            .await;
        recorded.map(|_| ())
    }
}
