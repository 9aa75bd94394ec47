//! POST /v1/messages/{id}/decision: a message that could not be confirmed is sent again as a new one, or dropped.

use http::StatusCode;
use serde::Deserialize;
use telbuddy::credential::OpenKey;
use telbuddy::edge::{Kind, Problem, Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::message::{
    IdempotencyKey, LoadSender, Loaded, Message, Payload, ReadMessages, RecordResend, Recorded, Resent, SenderFacts,
    SettleMessage, Status, UpdateMessage, decidable_until, decide as decide_sending, draft_again, dropped,
    due_after_decision,
};
use telbuddy::platform::{Chance, EnqueueJob, Job};
use telbuddy::seal::{DataKey, Purpose};
use telbuddy::session::{KeepSessions, Site, admit, caller, not_signed_in};

use crate::accept::{Accepting, again, key_of, same_request};
use crate::{Accepted, MessageView, ROUTES, missing};

/// A row may be written meanwhile without settling anything: its hold is given back, say. So often it is read again.
const TRIES: usize = 4;

/// What to do with a message that could not be confirmed.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// What.
    decision: Decision,
}

/// The two ways out.
#[derive(Clone, Copy, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Send it as a new message, under the rules of now. If Twilio has the first one after all, the recipient gets both.
    Resend,
    /// Leave it.
    Drop,
}

/// Decide about an `unconfirmed` message, within 24 hours: send it again as a new message, or drop it.
#[utoipa::path(post, path = "/v1/messages/{id}/decision", tag = "message", request_body = Decide,
    params(("id" = String, Path, description = "The message's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "Needed to send again, as for POST /v1/messages; its \
            keys and these are the same")),
    responses(
    (status = 200, description = "Dropped", body = MessageView),
    (status = 202, description = "Accepted as a new message; a repetition with the same key gets the same answer",
        body = Accepted),
    (status = 400, description = "No Idempotency-Key, or not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 402, description = "The credit is used up", body = telbuddy::edge::ProblemBody),
    (status = 403, description = "Sending is stopped, or not to there, or the API key lacks the scope", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such message", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "There is nothing to decide about it, or no Twilio account is connected",
        body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit, or the key was used for another request",
        body = telbuddy::edge::ProblemBody)))]
pub(crate) async fn decide<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions
        + LoadSender
        + ReadMessages
        + SettleMessage
        + UpdateMessage
        + RecordResend
        + OpenKey
        + EnqueueJob
        + Chance
        + Sync,
{
    // What does not fit is told to those who are let in.
    match request.json() {
        Ok(Decide { decision: Decision::Resend }) => resend(world, site, request, id).await,
        other => {
            let account = caller(world, site, request, ROUTES).await?.account;
            other?;
            drop_it(world, account, request, id.parse().map_err(|_| missing())?).await
        }
    }
}

async fn drop_it<W>(world: &W, account: AccountId, request: &Request, id: MessageId) -> Result<Reply, Problem>
where
    W: ReadMessages + UpdateMessage + EnqueueJob + Sync,
{
    for _ in 0..TRIES {
        let held = world.load_message(account, id).await?.ok_or_else(missing)?;
        if held.status == Status::Dropped && held.settling().resent_as.is_none() {
            return Ok(Reply::json(StatusCode::OK, &MessageView::from(held)));
        }
        check_open(&held, request)?;
        let after = dropped(&held, None, request.now);
        if world.update_message(&after, due_after_decision(&after)).await? {
            tracing::info!(account.id = %account, message.id = %id, "{id} is dropped");
            give_back(world, &after).await;
            return Ok(Reply::json(StatusCode::OK, &MessageView::from(after)));
        }
    }
    Err(kept_changing())
}

async fn resend<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + LoadSender + SettleMessage + RecordResend + OpenKey + EnqueueJob + Chance + Sync,
{
    let proof = site.proof(request)?;
    let key = IdempotencyKey::parse(request.header("idempotency-key"))?;
    let account = proof.account;
    let loaded = world.load_sender(&proof, &key, &[Purpose::Payload, Purpose::Match], None).await?;
    admit(world, &proof, loaded.pass.clone(), request, ROUTES).await?;
    let facts = loaded.facts.clone().ok_or_else(|| not_signed_in(Some(proof.way)))?;
    let id: MessageId = id.parse().map_err(|_| missing())?;
    let match_key = key_of(world, &loaded, Purpose::Match, None).await?;
    let fingerprint = match_key.keyed_hash("request", &format!("resend {id}"));
    if let Some(earlier) = loaded.earlier.as_ref().filter(|earlier| earlier.expires > request.now) {
        same_request(earlier, &fingerprint)?;
        return Ok(again(earlier));
    }
    let asked = Asked { account, id, key, fingerprint, match_key, facts, loaded };
    for _ in 0..TRIES {
        if let Some(reply) = asked.resend(world, request).await? {
            return Ok(reply);
        }
    }
    Err(kept_changing())
}

/// A signed-in caller's wish to have a message sent again.
struct Asked {
    account: AccountId,
    id: MessageId,
    key: IdempotencyKey,
    fingerprint: String,
    match_key: DataKey,
    facts: SenderFacts,
    loaded: Loaded,
}

impl Asked {
    /// One try; `None`: the message was written meanwhile.
    async fn resend<W>(&self, world: &W, request: &Request) -> Result<Option<Reply>, Problem>
    where
        W: SettleMessage + RecordResend + OpenKey + EnqueueJob + Chance + Sync,
    {
        let found = world.load_with_payload(self.account, self.id).await?;
        let (held, payload) = found.ok_or_else(missing)?;
        check_open(&held, request)?;
        let sealed = payload.ok_or(Fault::permanent("a message to decide about has no payload"))?;
        let keys = self.loaded.keys.iter().find(|keys| keys.purpose == Purpose::Payload);
        let keys = keys.ok_or(Fault::permanent("the account has no data key"))?;
        let key = world.open_key(keys, Some(sealed.key_version().map_err(Fault::from)?)).await?;
        let payload = Payload::open(&sealed, &key, held.id)?;
        let (row, draft) = draft_again(&held, &payload, request.now)?;
        let facts = self.facts.clone();
        decide_sending(&facts, &row.to, row.quote, request.now)?;
        let accepting = Accepting {
            account: self.account,
            key: self.key.clone(),
            fingerprint: self.fingerprint.clone(),
            facts,
            draft,
            payload_key: world.open_key(keys, None).await?,
            match_key: self.match_key.clone(),
            now: request.now,
        };
        let outgoing = accepting.outgoing(world, &row)?;
        let after = dropped(&held, Some(outgoing.message.id), request.now);
        match world.record_resend(&outgoing, &after).await? {
            Resent::Moved => Ok(None),
            Resent::Recorded(Recorded::Accepted) => {
                tracing::info!(message.id = %held.id, "{} is sent again as {}", held.id, outgoing.message.id);
                give_back(world, &after).await;
                Ok(Some(accepting.accept(world, outgoing).await))
            }
            Resent::Recorded(Recorded::Earlier(earlier)) => {
                same_request(&earlier, &self.fingerprint)?;
                Ok(Some(again(&earlier)))
            }
            Resent::Recorded(Recorded::Refused(refusal)) => Err(refusal.into()),
        }
    }
}

/// A problem if there is nothing to decide about the message.
fn check_open(held: &Message, request: &Request) -> Result<(), Problem> {
    if decidable_until(held).is_some_and(|until| until > request.now) {
        return Ok(());
    }
    let detail = match (held.status, held.settling().resent_as) {
        (Status::Unconfirmed, _) => {
            "the 24 hours to decide are over, and what it said is gone: send a new message".into()
        }
        (_, Some(new)) => format!("it was sent again already, as {new}"),
        (_, None) => "only what is unconfirmed is decided about: GET /v1/messages/{id} shows where it stands".into(),
    };
    Err(Problem::new(Kind::NothingToDecide, detail))
}

/// A hint to the poster while the hold is not given back; the sweeper finds it if it gets lost.
async fn give_back<W: EnqueueJob>(world: &W, over: &Message) {
    let Message { account, id, .. } = *over;
    if !over.settled
        && let Err(fault) = world.enqueue(Job::Post { account, message: id }, 0).await
    {
        tracing::warn!(message.id = %id, %fault, "the hint for {id} is lost; the sweeper will find it");
    }
}

fn kept_changing() -> Problem {
    Problem::from(Fault::transient("the message kept changing"))
}
