//! POST /v1/messages: checks the rules, records, enqueues; for one recipient, or row by row for many.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::credential::{LoadKeys, OpenKey, data_key};
use telbuddy::edge::{Fields, Kind, Problem, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, BatchId, MessageId};
use telbuddy::ledger::MicroCredits;
use telbuddy::message::segments::Encoding;
use telbuddy::message::{
    self, Batch, Chunk, ChunkRecorded, Direction, Draft, Held, HeldBy, IDEMPOTENCY_LIFE, Idempotency, IdempotencyKey,
    LoadSender, Loaded, Message, Outgoing, Payload, Quote, RecordBatch, RecordMessage, Recorded, RowOutcome,
    SenderFacts, Status, check_country, check_gate, decide, number_hash, parse_rows, plan_chunk,
};
use telbuddy::number::E164;
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::seal::{DataKey, Purpose, Sealed};
use telbuddy::session::{KeepSessions, Site, admit, not_signed_in};
use telbuddy::template::{Content, FieldName, FieldValues, Template, Text, Unfilled, Values};

use crate::ROUTES;
use crate::ask::{Ask, Recipient, Recipients, SendMessage, Words, parse};

/// Waits beyond this belong to the sweeper: SQS delays no longer.
const LONGEST_DELAY_SECS: i64 = 900;
/// Chunks that one request works through at most, races included; the next one with the same key goes on.
const MOST_CHUNKS: usize = 100;

/// An accepted message.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Accepted {
    /// Names the message.
    #[schema(value_type = String, example = "msg_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: MessageId,
    /// `accepted`, or `held` if it waits for a time of its own.
    status: Status,
    /// Segments that Twilio will bill.
    segments: u32,
    /// Alphabet of the segments.
    encoding: Encoding,
    /// What was reserved for it, in millionths of a credit.
    credits_held_micro: MicroCredits,
    /// When it goes out; null: now.
    #[schema(value_type = Option<String>, format = "date-time")]
    held_until: Option<Timestamp>,
    /// Why it waits.
    held_by: Option<HeldBy>,
    /// The recipient's time zone, if its quiet hours decided.
    #[schema(example = "America/New_York")]
    held_zone: Option<String>,
}

/// What became of a request for many recipients.
#[derive(Serialize, utoipa::ToSchema)]
pub struct AcceptedBatch {
    /// Names the request.
    #[schema(value_type = String, example = "batch_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    batch_id: BatchId,
    /// A result for each recipient, in their order.
    data: Vec<Row>,
}

/// The result for one recipient.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Row {
    /// It is a message.
    Accepted(Accepted),
    /// It is none.
    Refused {
        /// Why not.
        error: RowError,
    },
}

/// Why a recipient gets no message.
#[derive(Serialize, utoipa::ToSchema)]
pub struct RowError {
    /// A stable word for programs.
    #[schema(example = "not_a_number")]
    code: &'static str,
    /// What to do.
    detail: String,
    /// Fields of the template that have no text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["first_name"]))]
    missing_fields: Vec<FieldName>,
    /// Texts for fields that the template does not have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>, example = json!(["nick_name"]))]
    unknown_fields: Vec<FieldName>,
}

/// Send a message, or the same one to many.
#[utoipa::path(post, path = "/v1/messages", tag = "message", request_body = SendMessage,
    params(("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters, new for each request")),
    responses(
    (status = 202, description = "Accepted; a repetition with the same key gets the same answer. For an array of \
        recipients `{batch_id, data}` with a result for each, and a repetition finishes what was cut off",
        body = Accepted),
    (status = 400, description = "No Idempotency-Key, or not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 402, description = "The credit is used up", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "Sending is stopped, or not to there, or the API key lacks the scope",
        body = telbuddy::edge::ProblemBody),
    (status = 409, description = "No Twilio account is connected", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or the key was used for another request",
        body = telbuddy::edge::ProblemBody)))]
pub(crate) async fn accept<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadSender + RecordMessage + RecordBatch + OpenKey + LoadKeys + EnqueueJob + Chance + Sync,
{
    let proof = site.proof(request)?;
    let key = IdempotencyKey::parse(request.header("idempotency-key"))?;
    let account = proof.account;
    let remembered = [Purpose::Payload, Purpose::Match].map(|purpose| world.remembered_key(account, purpose, None));
    let wanted: Vec<_> = [Purpose::Payload, Purpose::Match]
        .into_iter()
        .zip(&remembered)
        .filter_map(|(purpose, key)| key.is_none().then_some(purpose))
        .collect();
    let asked = request.json::<SendMessage>();
    let template = asked.as_ref().ok().and_then(SendMessage::template);
    let loaded = world.load_sender(&proof, &key, &wanted, template).await?;

    admit(world, &proof, loaded.pass.clone(), request, ROUTES).await?;
    let facts = loaded.facts.clone().ok_or_else(|| not_signed_in(Some(proof.way)))?;
    let earlier = loaded.earlier.as_ref().filter(|earlier| earlier.expires > request.now);
    let first_time = earlier.is_none().then_some(request.now);
    let Ask { recipients, words, draft } = parse(asked?, facts.gate.home, first_time)?;
    let [payload_key, match_key] = remembered;
    let match_key = key_of(world, &loaded, Purpose::Match, match_key).await?;
    let fingerprint = fingerprint(&match_key, &recipients, &words, &draft);
    if let Some(earlier) = earlier {
        same_request(earlier, &fingerprint)?;
    }
    match (&recipients, &words, earlier) {
        (Recipients::One(_), _, Some(earlier)) => return Ok(again(earlier)),
        (Recipients::One(to), Words::Body(body), None) => {
            decide(&facts, to, draft.quote(body, request.now), request.now)?;
        }
        // What it says is sealed: what that costs is decided when it is open.
        (Recipients::One(to), Words::Template(..), None) => {
            check_gate(&facts.gate)?;
            check_country(&facts.gate, to)?;
        }
        (Recipients::Many(_), _, None) => check_gate(&facts.gate)?,
        // What was cut off is gone on with; what is complete has its answer.
        (Recipients::Many(_), _, Some(_)) => {}
    }
    let payload_key = key_of(world, &loaded, Purpose::Payload, payload_key).await?;
    let text = match (&words, earlier) {
        (Words::Template(..), None) => Some(open_template(world, loaded.template.as_ref(), &payload_key).await?),
        // A request for many that was begun has a text of its own.
        (Words::Template(..), Some(_)) | (Words::Body(_), _) => None,
    };
    let sender = Accepting { account, key, fingerprint, facts, draft, payload_key, match_key, now: request.now };
    match recipients {
        Recipients::One(to) => {
            let body = match (words, text) {
                (Words::Body(body), _) => body,
                (Words::Template(_, shared), Some(text)) => {
                    text.fill(Values { shared: &shared, own: None }).map_err(|why| unfilled_problem(&why))?
                }
                (Words::Template(..), None) => return Err(no_text().into()),
            };
            let row = sender.draft.row(to, body, request.now);
            decide(&sender.facts, &row.to, row.quote, request.now)?;
            sender.one(world, &row).await
        }
        Recipients::Many(rows) => {
            let batch = earlier.and_then(|earlier| earlier.batch.clone());
            sender.many(world, &rows, &words, text.as_ref(), batch).await
        }
    }
}

pub(crate) async fn key_of<W: OpenKey>(
    world: &W,
    loaded: &Loaded,
    purpose: Purpose,
    remembered: Option<DataKey>,
) -> Result<DataKey, Fault> {
    if let Some(key) = remembered {
        return Ok(key);
    }
    let keys = loaded.keys.iter().find(|keys| keys.purpose == purpose);
    world.open_key(keys.ok_or(Fault::permanent("the account has no data key"))?, None).await
}

/// A template's text.
async fn open_template<W>(world: &W, template: Option<&Template>, payload_key: &DataKey) -> Result<Text, Problem>
where
    W: OpenKey + LoadKeys,
{
    let missing = || Problem::field("template.id", "not_found", "there is none; GET /v1/templates lists them");
    let template = template.ok_or_else(missing)?;
    Ok(Content::open(template, &opens(world, payload_key, &template.sealed).await?)?.text)
}

/// The key that opens what is sealed: the one at hand, but for what is under another version.
async fn opens<W: OpenKey + LoadKeys>(world: &W, at_hand: &DataKey, sealed: &Sealed) -> Result<DataKey, Fault> {
    let version = sealed.key_version()?;
    if version == at_hand.version() {
        return Ok(at_hand.clone());
    }
    data_key(world, at_hand.account(), at_hand.purpose(), Some(version)).await
}

/// A problem if the key came with another request.
pub(crate) fn same_request(earlier: &Idempotency, fingerprint: &str) -> Result<(), Problem> {
    if earlier.fingerprint == fingerprint {
        return Ok(());
    }
    Err(Problem::new(
        Kind::IdempotencyKeyReused,
        "the key came with another request in the last 24 hours: take a new key for a new request",
    ))
}

/// The stored answer.
pub(crate) fn again(earlier: &Idempotency) -> Reply {
    replayed(Reply::text(StatusCode::ACCEPTED, "application/json", earlier.answer.clone()))
}

fn replayed(reply: Reply) -> Reply {
    reply.with_header(header::HeaderName::from_static("idempotent-replayed"), "true")
}

/// What makes two requests the same: every field, each with its length in front. Of a template its id and what the
/// fields are filled with, and not its text: a repetition is one whatever became of the template.
fn fingerprint(match_key: &DataKey, recipients: &Recipients, words: &Words, draft: &Draft) -> String {
    let send_at = draft.send_at.map_or_else(String::new, |at| at.to_string());
    let validity = draft.validity.as_secs().to_string();
    // A map of texts always serializes, and its names are in order.
    let json = |fields: &FieldValues| serde_json::to_string(fields).unwrap_or_default();
    let (kind, body, template) = match words {
        Words::Body(body) => ("", body.as_str(), None),
        Words::Template(id, shared) => ("template-", "", Some([id.to_string(), json(shared)])),
    };
    let (kind, to) = match recipients {
        Recipients::One(to) => (format!("{kind}one"), vec![to.as_str().to_owned()]),
        Recipients::Many(rows) => {
            let row = |row: &Recipient| [Some(row.to.clone()), template.as_ref().map(|_| json(&row.fields))];
            (format!("{kind}many"), rows.iter().flat_map(row).flatten().collect())
        }
    };
    let urls = draft.media_urls.iter().map(ToString::to_string);
    let fixed = [kind, draft.sender.as_str().to_owned(), body.to_owned(), send_at, validity];
    let parts =
        fixed.into_iter().chain(template.into_iter().flatten()).chain(to).chain(["media".to_owned()]).chain(urls);
    let text: Vec<_> = parts.map(|part| format!("{}:{part}", part.len())).collect();
    match_key.keyed_hash("request", &text.concat())
}

/// A request that may be accepted, with all that it needs.
pub(crate) struct Accepting {
    pub(crate) account: AccountId,
    pub(crate) key: IdempotencyKey,
    pub(crate) fingerprint: String,
    pub(crate) facts: SenderFacts,
    pub(crate) draft: Draft,
    pub(crate) payload_key: DataKey,
    pub(crate) match_key: DataKey,
    pub(crate) now: Timestamp,
}

/// The rows of a request for many, and why a template made no message of some.
struct Rows {
    rows: Vec<Result<message::Row, RowOutcome>>,
    unfilled: BTreeMap<usize, Unfilled>,
}

impl Accepting {
    async fn one<W>(self, world: &W, row: &message::Row) -> Result<Reply, Problem>
    where
        W: RecordMessage + EnqueueJob + Chance + Sync,
    {
        let outgoing = self.outgoing(world, row)?;
        match world.record_message(&outgoing).await? {
            Recorded::Accepted => {}
            Recorded::Earlier(earlier) => {
                same_request(&earlier, &self.fingerprint)?;
                return Ok(again(&earlier));
            }
            Recorded::Refused(refusal) => return Err(refusal.into()),
        }
        Ok(self.accept(world, outgoing).await)
    }

    /// What is to be recorded for one recipient, with the answer.
    pub(crate) fn outgoing<W: Chance>(&self, world: &W, row: &message::Row) -> Result<Outgoing, Fault> {
        let held = self.draft.held(self.facts.gate.quiet_hours.as_ref(), &row.to, self.now);
        let id = MessageId::new(self.now, world.dice()?);
        let (message, payload) = self.message(id, row, held.as_ref(), world.random()?)?;
        let answer = serde_json::to_string(&accepted(id, row.quote, held));
        let answer = answer.map_err(|_| Fault::permanent("an answer did not serialize"))?;
        let idempotency = self.record(answer, None);
        let (daily_ceiling, room) = (self.facts.gate.daily_ceiling, self.facts.allowance.room);
        Ok(Outgoing { message, payload, idempotency, daily_ceiling, room })
    }

    /// It is recorded: wakes the sender and answers.
    pub(crate) async fn accept<W: EnqueueJob>(&self, world: &W, outgoing: Outgoing) -> Reply {
        let (id, held_until) = (outgoing.message.id, outgoing.message.held_until);
        tracing::info!(account.id = %self.account, message.id = %id, "accepted {id}");
        self.wake(world, vec![(id, held_until)]).await;
        Reply::text(StatusCode::ACCEPTED, "application/json", outgoing.idempotency.answer)
    }

    async fn many<W>(
        mut self,
        world: &W,
        recipients: &[Recipient],
        words: &Words,
        text: Option<&Text>,
        earlier: Option<Batch>,
    ) -> Result<Reply, Problem>
    where
        W: RecordBatch + OpenKey + LoadKeys + EnqueueJob + Chance + Sync,
    {
        let complete = earlier.as_ref().is_some_and(|batch| batch.outcomes.len() >= recipients.len());
        if earlier.is_some() && !complete {
            check_gate(&self.facts.gate)?;
        }
        let mut batch = match earlier {
            Some(batch) => batch,
            None => self.begin(world, text).await?,
        };
        // The text that the request began with, also if another one with the same key began it.
        let text = match &batch.template {
            Some(sealed) => Some(Text::open(sealed, &opens(world, &self.payload_key, sealed).await?, batch.id)?),
            None => None,
        };
        let Rows { rows, unfilled } = self.rows(recipients, words, text.as_ref(), batch.created)?;
        for _ in 0..MOST_CHUNKS {
            let left = rows.get(batch.outcomes.len()..).unwrap_or_default();
            if left.is_empty() {
                let reply = Reply::json(StatusCode::ACCEPTED, &self.answer(&batch, &rows, &unfilled));
                return Ok(if complete { replayed(reply) } else { reply });
            }
            let outcomes = plan_chunk(&self.facts, left, self.now);
            let chunk = self.chunk(world, &batch, &rows, outcomes)?;
            match world.record_chunk(&chunk).await? {
                ChunkRecorded::Recorded => {
                    let ids: Vec<_> =
                        chunk.messages.iter().map(|(message, _)| (message.id, message.held_until)).collect();
                    tracing::info!(account.id = %self.account, batch.id = %batch.id, n = ids.len(), "accepted a chunk");
                    for (message, _) in &chunk.messages {
                        self.facts.allowance.reserve(message.held, u64::from(message.segments), self.now);
                    }
                    self.wake(world, ids).await;
                    batch.outcomes.extend(&chunk.outcomes);
                }
                ChunkRecorded::Moved(there) => batch = there,
                ChunkRecorded::Refused(allowance) => self.facts.allowance = allowance,
            }
        }
        Err(Problem::from(Fault::transient("a request for many kept meeting others; the same key goes on with it")))
    }

    /// Each recipient with its text, or why there is none. The prices are those of the time when the request `began`.
    fn rows(
        &self,
        recipients: &[Recipient],
        words: &Words,
        text: Option<&Text>,
        began: Timestamp,
    ) -> Result<Rows, Fault> {
        let numbers = parse_rows(recipients.iter().map(|row| row.to.as_str()), self.facts.gate.home);
        let mut unfilled = BTreeMap::new();
        let rows = match (words, text) {
            (Words::Body(body), _) => {
                let (quote, body) = (self.draft.quote(body, began), Arc::new(body.clone()));
                let row = |to| message::Row { to, body: Arc::clone(&body), quote };
                numbers.into_iter().map(|to| to.map(row)).collect()
            }
            (Words::Template(_, shared), Some(text)) => {
                let row = |(at, (to, row)): (usize, (Result<E164, RowOutcome>, &Recipient))| {
                    let to = to?;
                    match text.fill(Values { shared, own: Some(&row.fields) }) {
                        Ok(body) => Ok(self.draft.row(to, body, began)),
                        Err(why) => {
                            let outcome = RowOutcome::from(&why);
                            unfilled.insert(at, why);
                            Err(outcome)
                        }
                    }
                };
                numbers.into_iter().zip(recipients).enumerate().map(row).collect()
            }
            (Words::Template(..), None) => return Err(no_text()),
        };
        Ok(Rows { rows, unfilled })
    }

    /// The record of a new request for many, or of the one that was quicker with the same key.
    async fn begin<W: RecordBatch + Chance>(&self, world: &W, text: Option<&Text>) -> Result<Batch, Problem> {
        let id = BatchId::new(self.now, world.dice()?);
        let template = match text {
            Some(text) => Some(text.seal(&self.payload_key, id, world.random()?)?),
            None => None,
        };
        let quiet_hours = self.facts.gate.quiet_hours;
        let batch = Batch { id, created: self.now, quiet_hours, template, outcomes: Vec::new() };
        let record = self.record(String::new(), Some(batch.clone()));
        let Some(earlier) = world.begin_batch(self.account, &record, self.now).await? else { return Ok(batch) };
        same_request(&earlier, &self.fingerprint)?;
        earlier.batch.ok_or_else(|| Problem::from(Fault::permanent("a request for many has no batch")))
    }

    fn record(&self, answer: String, batch: Option<Batch>) -> Idempotency {
        let (key, fingerprint) = (self.key.clone(), self.fingerprint.clone());
        Idempotency { key, fingerprint, answer, batch, expires: self.now + IDEMPOTENCY_LIFE }
    }

    fn chunk<W: Chance>(
        &self,
        world: &W,
        batch: &Batch,
        rows: &[Result<message::Row, RowOutcome>],
        outcomes: Vec<RowOutcome>,
    ) -> Result<Chunk, Fault> {
        let first = batch.outcomes.len();
        let mut messages = Vec::new();
        for (at, (row, outcome)) in rows.iter().skip(first).zip(&outcomes).enumerate() {
            if let (Ok(row), RowOutcome::Accepted) = (row, outcome) {
                let held = self.draft.held(batch.quiet_hours.as_ref(), &row.to, self.now);
                messages.push(self.message(batch.message_id(first + at), row, held.as_ref(), world.random()?)?);
            }
        }
        Ok(Chunk {
            account: self.account,
            key: self.key.clone(),
            batch: batch.clone(),
            outcomes,
            messages,
            daily_ceiling: self.facts.gate.daily_ceiling,
            room: self.facts.allowance.room,
            now: self.now,
        })
    }

    fn message(
        &self,
        id: MessageId,
        row: &message::Row,
        held: Option<&Held>,
        nonce: [u8; 12],
    ) -> Result<(Message, Sealed), Fault> {
        let (draft, now) = (&self.draft, self.now);
        let message::Row { to, body, quote } = row;
        let message = Message {
            id,
            account: self.account,
            direction: Direction::Outbound,
            format: draft.format(),
            status: if held.is_some() { Status::Held } else { Status::Accepted },
            revision: 0,
            sid: None,
            own: draft.sender.as_str().to_owned(),
            other_hash: number_hash(&self.match_key, to),
            country: to.country(),
            segments: quote.segments.segments,
            encoding: Some(quote.segments.encoding),
            held: quote.hold,
            price_version: quote.price_version.to_owned(),
            error_code: None,
            reason: None,
            attempts: 0,
            settled: false,
            released: false,
            settling: None,
            created: now,
            valid_until: held.map_or(now, |held| held.until) + draft.validity,
            held_until: held.map(|held| held.until),
            updated: now,
        };
        let payload = Payload::of(draft, body, to).seal(&self.payload_key, id, nonce)?;
        Ok((message, payload))
    }

    /// The answer to a request for many, from how far it has come: the same each time.
    fn answer(
        &self,
        batch: &Batch,
        rows: &[Result<message::Row, RowOutcome>],
        unfilled: &BTreeMap<usize, Unfilled>,
    ) -> AcceptedBatch {
        let held = |to: &E164| self.draft.held(batch.quiet_hours.as_ref(), to, batch.created);
        let row = |(at, (row, outcome)): (usize, (&Result<message::Row, RowOutcome>, &RowOutcome))| match (
            row,
            refused(*outcome),
        ) {
            (Ok(row), None) => Row::Accepted(accepted(batch.message_id(at), row.quote, held(&row.to))),
            (_, refused) => {
                let (code, detail) = refused.unwrap_or_default();
                Row::Refused { error: RowError::new(code, detail, unfilled.get(&at)) }
            }
        };
        AcceptedBatch { batch_id: batch.id, data: rows.iter().zip(&batch.outcomes).enumerate().map(row).collect() }
    }

    /// Hints only: if they get lost, the sweeper finds the messages within two minutes.
    async fn wake<W: EnqueueJob>(&self, world: &W, ids: Vec<(MessageId, Option<Timestamp>)>) {
        let wait = |until: Option<Timestamp>| until.map_or(0, |until| until.duration_since(self.now).as_secs() + 1);
        let mut by_wait: BTreeMap<i64, Vec<Job>> = BTreeMap::new();
        for (message, until) in ids {
            by_wait.entry(wait(until)).or_default().push(Job::Send { account: self.account, message });
        }
        for (wait, mut jobs) in by_wait.into_iter().filter(|(wait, _)| *wait <= LONGEST_DELAY_SECS) {
            let delay_secs = u16::try_from(wait).unwrap_or(0);
            let sent = match jobs.pop() {
                Some(job) if jobs.is_empty() => world.enqueue(job, delay_secs).await,
                last => world.enqueue_all(jobs.into_iter().chain(last).collect(), delay_secs).await,
            };
            if let Err(fault) = sent {
                tracing::warn!(account.id = %self.account, %fault, "hints are lost; the sweeper will find the messages");
            }
        }
    }
}

fn accepted(id: MessageId, quote: Quote, held: Option<Held>) -> Accepted {
    Accepted {
        id,
        status: if held.is_some() { Status::Held } else { Status::Accepted },
        segments: quote.segments.segments,
        encoding: quote.segments.encoding,
        credits_held_micro: quote.hold,
        held_until: held.as_ref().map(|held| held.until),
        held_by: held.as_ref().map(|held| held.by),
        held_zone: held.and_then(|held| held.zone),
    }
}

fn no_text() -> Fault {
    Fault::permanent("a request with a template has no text")
}

/// What a template made no message of says, for one recipient.
fn unfilled_problem(why: &Unfilled) -> Problem {
    let mut fields = Fields::default();
    match why {
        Unfilled::Fields { missing, extra } => {
            for name in missing {
                let field = format!("template.fields.{}", name.as_str());
                fields.add(&field, "missing", "the template has this field: give a text for it".to_owned());
            }
            for name in extra {
                let field = format!("template.fields.{}", name.as_str());
                fields.add(&field, "unknown", "the template has no such field".to_owned());
            }
        }
        Unfilled::TooLong => fields.add("template.fields", "too_long", TOO_LONG.to_owned()),
        Unfilled::Empty => fields.add("template.fields", "empty", EMPTY.to_owned()),
    }
    fields.into_problem()
}

const TOO_LONG: &str = "filled in, the template is above 1,600 characters: shorten the texts";
const EMPTY: &str = "filled in, the template says nothing: give a text for a field";

impl RowError {
    fn new(code: &'static str, detail: &str, unfilled: Option<&Unfilled>) -> Self {
        let (missing_fields, unknown_fields) = match unfilled {
            Some(Unfilled::Fields { missing, extra }) => (missing.clone(), extra.clone()),
            Some(Unfilled::TooLong | Unfilled::Empty) | None => (Vec::new(), Vec::new()),
        };
        Self { code, detail: detail.to_owned(), missing_fields, unknown_fields }
    }
}

/// What a refused row says.
fn refused(outcome: RowOutcome) -> Option<(&'static str, &'static str)> {
    match outcome {
        RowOutcome::Accepted => None,
        RowOutcome::NotANumber => {
            Some(("not_a_number", "no phone number: write it in international form, such as +14155552671"))
        }
        RowOutcome::Repeated => Some(("repeated", "this recipient stands further up: each gets the text once")),
        RowOutcome::Country => Some(("country_not_allowed", "this destination is not on the account's list")),
        RowOutcome::Credit => Some(("not_enough_credit", "the credit did not cover it")),
        RowOutcome::Ceiling => Some(("daily_ceiling", "the account's segments of this UTC day are used up")),
        RowOutcome::Fields => {
            Some(("template_fields", "give a text for each of the template's fields, and for no other one"))
        }
        RowOutcome::TooLong => Some(("too_long", TOO_LONG)),
        RowOutcome::Empty => Some(("empty", EMPTY)),
    }
}
