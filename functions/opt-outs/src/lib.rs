//! /v1/opt-outs: who has opted out of which sender, and why; entries, removals and look-ups by number (promise N9).

use std::collections::BTreeMap;

use http::{StatusCode, header};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::api_key::Scope;
use telbuddy::credential::{LoadKeys, OpenKey, Sid, data_key};
use telbuddy::edge::{Access, Fields, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::Need;
use telbuddy::message::{Sender, number_hash};
use telbuddy::number::{E164, NumberError, SenderId};
use telbuddy::opt_out::{EnterOptOuts, Entry, Evidence, EvidenceKind, Heard, OptOut, ReadOptOuts, Removal, Standing};
use telbuddy::seal::Purpose;
use telbuddy::session::{By, KeepSessions, Site, caller};
use utoipa::OpenApi;

const REMOVALS: &str = "/v1/opt-outs/removals";
const CHECK: &str = "/v1/opt-outs/check";

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/opt-outs", access: Access::Scope(Scope::OptOutsRead) },
    Route { method: "POST", path: "/v1/opt-outs", access: Access::Scope(Scope::OptOutsWrite) },
    Route { method: "POST", path: REMOVALS, access: Access::Scope(Scope::OptOutsWrite) },
    Route { method: "POST", path: CHECK, access: Access::Scope(Scope::OptOutsRead) },
];

/// The services that it calls. It may open the purpose match.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys];

/// The most numbers of one request.
const MOST_NUMBERS: usize = 1_000;
/// The fewest rows that one read of a list asks for: lifted ones lie between.
const FEWEST_ROWS: u16 = 100;
/// The most rows that one read of a list asks for.
const MOST_ROWS: u16 = 1_000;
/// The most reads of one page: what is left is on the next.
const MOST_READS: usize = 40;

/// Numbers and the sender that they are about.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipients {
    /// 1 to 1,000 numbers in international form.
    #[schema(example = json!(["+14155552671"]), min_items = 1, max_items = 1000)]
    numbers: Vec<String>,
    /// One of your numbers, short codes or names. This or `messaging_service_sid`.
    #[schema(example = "+15005550006")]
    from: Option<String>,
    /// A messaging service; a number of it is another sender.
    #[schema(example = "MG00000000000000000000000000000000")]
    messaging_service_sid: Option<String>,
}

/// The same, and what you have to show that these people consented again.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveOptOuts {
    /// 1 to 1,000 numbers in international form.
    #[schema(example = json!(["+14155552671"]), min_items = 1, max_items = 1000)]
    numbers: Vec<String>,
    /// One of your numbers, short codes or names. This or `messaging_service_sid`.
    #[schema(example = "+15005550006")]
    from: Option<String>,
    /// A messaging service; a number of it is another sender.
    #[schema(example = "MG00000000000000000000000000000000")]
    messaging_service_sid: Option<String>,
    /// What you have to show. Keep the proof itself; TelBuddy keeps its kind and time.
    evidence: EvidenceBody,
}

/// What you have to show.
#[derive(Deserialize, utoipa::ToSchema)]
#[schema(as = OptInEvidence)]
#[serde(deny_unknown_fields)]
pub struct EvidenceBody {
    /// Which kind.
    kind: EvidenceKind,
    /// When the consent was given; not in the future.
    #[schema(format = "date-time", example = "2026-11-24T06:00:00Z")]
    given_at: String,
}

/// Where an opt-out comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A text of the recipient; `reference` is Twilio's SID.
    Text,
    /// Twilio's error 21610; `reference` is the message that it was about.
    #[serde(rename = "error_21610")]
    Error21610,
    /// Entered by a user; `reference` is the user.
    Manual,
    /// Entered with an API key; `reference` is the key.
    Api,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Error21610 => "error_21610",
            Self::Manual => "manual",
            Self::Api => "api",
        }
    }

    /// The source of a word with what it refers to.
    fn of(standing: Standing<'_>) -> (Self, Option<String>) {
        match standing {
            Standing::Said(said) => match &said.heard {
                Heard::Text(text) => (Self::Text, Some(text.clone())),
                Heard::Refusal(message) => (Self::Error21610, Some(message.to_string())),
            },
            Standing::Entered(entered) => match entered.by {
                By::User(user) => (Self::Manual, Some(user.to_string())),
                By::Key(key) => (Self::Api, Some(key.to_string())),
            },
        }
    }
}

/// An opt-out.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OptOut)]
pub struct OptOutView {
    /// Keyed hash of the recipient, the same as `other_party_hash` of messages.
    recipient_hash: String,
    /// Your number, name or messaging service.
    sender: String,
    /// Names the sender in queries, where no number may stand.
    sender_id: String,
    /// Where it comes from.
    source: Source,
    /// What the source refers to: a SID, a message, a user or an API key.
    reference: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = "date-time")]
    opted_out_at: Timestamp,
}

/// A page of opt-outs.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OptOutList {
    /// By sender and hash.
    data: Vec<OptOutView>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// What became of one number, or what is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowResult {
    /// It is opted out.
    OptedOut,
    /// It was opted out by an entry, and is not any more.
    Removed,
    /// It is not opted out.
    NotOptedOut,
}

/// One number's answer.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = OptOutRow)]
pub struct RowView {
    /// Its place in `numbers`, from 0.
    row: usize,
    /// Keyed hash of the recipient; null if it is no number.
    recipient_hash: Option<String>,
    /// What became of it; null if `error` says why nothing did.
    result: Option<RowResult>,
    /// Of a look-up: where the opt-out comes from.
    source: Option<Source>,
    /// Why nothing became of it.
    error: Option<RowError>,
}

/// Why nothing became of one number.
#[derive(Clone, Serialize, utoipa::ToSchema)]
#[schema(as = OptOutRowError)]
pub struct RowError {
    /// As an HTTP status.
    status: u16,
    /// A stable word for programs.
    code: &'static str,
    /// What to do, for people.
    detail: String,
}

impl RowError {
    fn conflict(code: &'static str, detail: &str) -> Self {
        Self { status: 409, code, detail: detail.to_owned() }
    }

    fn later_word() -> Self {
        Self::conflict("later_word", "somebody changed this at the same time or later: look, and ask again if need be")
    }
}

/// Every number's answer, in the order of the request.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OptOutRows {
    /// One for each number.
    data: Vec<RowView>,
}

/// Answers one request.
///
/// AWS calls: 1 read of the session or API key; 1 read of the wrapped keys and 1 KMS call with its entry in the access
/// log once in five minutes; once a minute 1 write of the caller's last call. Listing: 1 read for the senders and at
/// least 1 for each. Entering: 1 write for the sender and 1 for each number. Removing: 1 write for each number. Looking
/// up: 1 read for each 100.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + EnterOptOuts + ReadOptOuts + OpenKey + LoadKeys + Sync,
{
    answer(request.id, async {
        let (route, _) = request.route(ROUTES)?;
        match (route.method, route.path) {
            ("GET", _) => list(world, site, &request).await,
            (_, REMOVALS) => remove(world, site, &request).await,
            (_, CHECK) => look_up(world, site, &request).await,
            _ => enter(world, site, &request).await,
        }
    })
    .await
}

/// List opt-outs.
///
/// Those that stand now, of every sender or of one, as JSON or, with `Accept: text/csv`, as CSV with the header `Link`
/// for the next page.
#[utoipa::path(get, path = "/v1/opt-outs", tag = "opt-outs",
    params(("sender_id" = Option<String>, Query, description = "Only of this sender: `sender_id` of a row"),
        ("limit" = Option<u16>, Query, description = "JSON: 1 to 1000, 100 if left out; CSV: 1 to 10000, 10000"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "By sender and hash; a page may be shorter than its limit", content(
        (OptOutList = "application/json"), (String = "text/csv"))),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadOptOuts + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["sender_id", "limit", "cursor"])?;
    let as_csv = wants_csv(request);
    let limit = if as_csv { query.limit(10_000, 10_000)? } else { query.limit(100, 1_000)? };
    let wrong = || Problem::field("cursor", "invalid", "give next_cursor of the page before");
    let cursor = query.get("cursor").map(|text| Mark::parse(text).ok_or_else(wrong)).transpose()?;
    let mut senders = senders(world, account).await?;
    senders.retain(|sender| query.get("sender_id").is_none_or(|id| sender.id == id));
    let from = match cursor {
        None => Mark::default(),
        Some(mark) => {
            let at = senders.iter().position(|sender| sender.id == mark.sender_id).ok_or_else(wrong)?;
            senders.drain(..at);
            mark
        }
    };
    let (data, next) = page(world, account, &senders, from, limit).await?;
    let next_cursor = next.map(|mark| mark.to_text());
    if !as_csv {
        return Ok(Reply::json(StatusCode::OK, &OptOutList { data, next_cursor }));
    }
    let reply = Reply::text(StatusCode::OK, "text/csv; charset=utf-8", csv(&data));
    let reply = reply.with_header(header::CONTENT_DISPOSITION, "attachment; filename=\"opt-outs.csv\"");
    let Some(cursor) = next_cursor else { return Ok(reply) };
    let filter = query.get("sender_id").map(|id| format!("sender_id={id}&")).unwrap_or_default();
    let link = format!("</v1/opt-outs?{filter}limit={limit}&cursor={cursor}>; rel=\"next\"");
    Ok(reply.with_header(header::LINK, &link))
}

/// Whether CSV comes before JSON in `Accept`.
fn wants_csv(request: &Request) -> bool {
    let accept = request.header(header::ACCEPT).unwrap_or_default();
    let mut types = accept.split(',').map(|kind| kind.split(';').next().unwrap_or_default().trim().to_lowercase());
    types.find(|kind| ["text/csv", "application/json", "*/*"].contains(&kind.as_str())).is_some_and(|k| k == "text/csv")
}

/// One of the account's senders, with the name by which it may stand in a URL.
struct Listed {
    id: String,
    own: String,
}

/// The senders that anybody ever opted out of.
async fn senders<W: ReadOptOuts + OpenKey + LoadKeys>(world: &W, account: AccountId) -> Result<Vec<Listed>, Fault> {
    let senders = world.opt_out_senders(account).await?;
    if senders.is_empty() {
        return Ok(Vec::new());
    }
    let key = data_key(world, account, Purpose::Match, None).await?;
    Ok(senders.into_iter().map(|own| Listed { id: key.keyed_hash("sender", &own), own }).collect())
}

/// How far a list was read: up to a sender's recipient, or before its first.
#[derive(Clone, Default)]
struct Mark {
    sender_id: String,
    recipient: String,
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let (sender_id, recipient) = text.split_once('.')?;
        let plain =
            |part: &str| part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        (plain(sender_id) && plain(recipient))
            .then(|| Self { sender_id: sender_id.to_owned(), recipient: recipient.to_owned() })
    }

    fn to_text(&self) -> String {
        format!("{}.{}", self.sender_id, self.recipient)
    }
}

/// Up to `limit` opt-outs that stand, and where the next page begins if there may be more. What was lifted lies between
/// them, so the reads are limited too.
async fn page<W: ReadOptOuts>(
    world: &W,
    account: AccountId,
    senders: &[Listed],
    mut from: Mark,
    limit: u16,
) -> Result<(Vec<OptOutView>, Option<Mark>), Fault> {
    let most = usize::from(limit);
    let mut found = Vec::new();
    let mut reads = 0;
    for sender in senders {
        if from.sender_id != sender.id {
            from = Mark { sender_id: sender.id.clone(), recipient: String::new() };
        }
        loop {
            if reads == MOST_READS {
                return Ok((found, Some(from)));
            }
            reads += 1;
            // One more than the page has: it tells whether there is a next.
            let missing = u16::try_from(most + 1 - found.len()).unwrap_or(MOST_ROWS);
            let wanted = missing.clamp(FEWEST_ROWS, MOST_ROWS);
            let after = Some(from.recipient.as_str()).filter(|recipient| !recipient.is_empty());
            let rows = world.list_opt_outs(account, &sender.own, after, wanted).await?;
            let is_last = rows.len() < usize::from(wanted);
            for (recipient, opt_out) in rows {
                if let Some(standing) = opt_out.standing() {
                    if found.len() == most {
                        return Ok((found, Some(from)));
                    }
                    found.push(view(&recipient, sender, standing));
                }
                from.recipient = recipient;
            }
            if is_last {
                break;
            }
        }
    }
    Ok((found, None))
}

fn view(recipient: &str, sender: &Listed, standing: Standing<'_>) -> OptOutView {
    let (source, reference) = Source::of(standing);
    OptOutView {
        recipient_hash: recipient.to_owned(),
        sender: sender.own.clone(),
        sender_id: sender.id.clone(),
        source,
        reference,
        opted_out_at: standing.since(),
    }
}

/// RFC 4180, with a line of names.
fn csv(rows: &[OptOutView]) -> String {
    let mut text = "recipient_hash,sender,sender_id,source,reference,opted_out_at\r\n".to_owned();
    for row in rows {
        let at = row.opted_out_at.to_string();
        let reference = row.reference.as_deref().unwrap_or_default();
        let fields = [&row.recipient_hash, &row.sender, &row.sender_id, row.source.as_str(), reference, &at];
        text.push_str(&fields.map(csv_field).join(","));
        text.push_str("\r\n");
    }
    text
}

fn csv_field(field: &str) -> String {
    if field.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Opt recipients out.
///
/// The same request again has the same effect; nothing but keyed hashes of the numbers is kept.
#[utoipa::path(post, path = "/v1/opt-outs", tag = "opt-outs", request_body = Recipients, responses(
    (status = 200, description = "What became of each number", body = OptOutRows),
    (status = 400, description = "Not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn enter<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + EnterOptOuts + OpenKey + LoadKeys + Sync,
{
    let caller = caller(world, site, request, ROUTES).await?;
    request.query(&[])?;
    let ask = Ask::of(request)?;
    let list = ask.hashed(world, caller.account).await?;
    let entries = world.enter_opt_outs(caller.account, &ask.own, &list.recipients, caller.by, request.now).await?;
    tracing::info!(account.id = %caller.account, numbers = entries.len(), "entered opt-outs");
    Ok(list.answer(entries, |entry, row| match entry {
        Entry::OptedOut => row.result = Some(RowResult::OptedOut),
        Entry::LaterWord => row.error = Some(RowError::later_word()),
    }))
}

/// Lift opt-outs that were entered.
///
/// What the recipient said by a text, or Twilio by error 21610, only the recipient can take back, with START: such a
/// row is refused with 409.
#[utoipa::path(post, path = "/v1/opt-outs/removals", tag = "opt-outs", request_body = RemoveOptOuts, responses(
    (status = 200, description = "What became of each number", body = OptOutRows),
    (status = 400, description = "Not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn remove<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + EnterOptOuts + OpenKey + LoadKeys + Sync,
{
    let caller = caller(world, site, request, ROUTES).await?;
    request.query(&[])?;
    let RemoveOptOuts { numbers, from, messaging_service_sid, evidence } = request.json()?;
    let mut fields = Fields::default();
    let given = evidence.given_at.parse().ok().filter(|given: &Timestamp| *given <= request.now);
    let given = fields.take("evidence.given_at", given.ok_or("give an RFC 3339 time that is not in the future"));
    let ask = Ask::parse(Recipients { numbers, from, messaging_service_sid }, &mut fields);
    let (Some(given), Some(ask)) = (given, ask) else { return Err(fields.into_problem()) };
    let list = ask.hashed(world, caller.account).await?;
    let shown = (caller.by, Evidence { kind: evidence.kind, given });
    let removals = world.remove_opt_outs(caller.account, &ask.own, &list.recipients, shown, request.now).await?;
    tracing::info!(account.id = %caller.account, numbers = removals.len(), "removed opt-outs");
    Ok(list.answer(removals, |removal, row| match removal {
        Removal::Removed => row.result = Some(RowResult::Removed),
        Removal::NotOptedOut => row.result = Some(RowResult::NotOptedOut),
        Removal::LaterWord => row.error = Some(RowError::later_word()),
        Removal::RecipientsOwn => {
            row.error = Some(RowError::conflict(
                "only_the_recipient",
                "the recipient opted out themselves and Twilio blocks them too: only their START lifts it",
            ));
        }
    }))
}

/// Look up which numbers are opted out of a sender.
#[utoipa::path(post, path = "/v1/opt-outs/check", tag = "opt-outs", request_body = Recipients, responses(
    (status = 200, description = "What is known of each number", body = OptOutRows),
    (status = 400, description = "Not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit", body = telbuddy::edge::ProblemBody)))]
async fn look_up<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadOptOuts + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    request.query(&[])?;
    let ask = Ask::of(request)?;
    let list = ask.hashed(world, account).await?;
    let known = world.load_opt_outs(account, &ask.own, &list.recipients).await?;
    Ok(list.answer(known, |known: &OptOut, row| {
        let source = known.standing().map(|standing| Source::of(standing).0);
        row.result = Some(if source.is_some() { RowResult::OptedOut } else { RowResult::NotOptedOut });
        row.source = source;
    }))
}

/// What a request is about.
struct Ask {
    own: String,
    numbers: Vec<Result<E164, NumberError>>,
}

impl Ask {
    /// Reads a body that is nothing else.
    fn of(request: &Request) -> Result<Self, Problem> {
        let mut fields = Fields::default();
        Self::parse(request.json()?, &mut fields).ok_or_else(|| fields.into_problem())
    }

    /// Reads the fields and notes what is wrong. A number that is none is its row's error, not the request's.
    fn parse(ask: Recipients, fields: &mut Fields) -> Option<Self> {
        let sender = match (ask.from, ask.messaging_service_sid) {
            (Some(from), None) => fields.take("from", SenderId::parse(&from)).map(Sender::Id),
            (None, Some(sid)) => fields.take("messaging_service_sid", Sid::parse("MG", &sid)).map(Sender::Service),
            _ => {
                fields.add("from", "one_of", "give either from or messaging_service_sid, and not both".to_owned());
                None
            }
        };
        let counted = Some(ask.numbers).filter(|numbers| (1..=MOST_NUMBERS).contains(&numbers.len()));
        let numbers = fields.take("numbers", counted.ok_or("give 1 to 1,000 numbers"))?;
        let numbers = numbers.iter().map(|number| E164::parse(number, None)).collect();
        Some(Self { own: sender?.as_str().to_owned(), numbers })
    }

    /// The numbers' hashes; from here on there are no numbers.
    async fn hashed<W: OpenKey + LoadKeys>(&self, world: &W, account: AccountId) -> Result<HashedList, Fault> {
        let key = data_key(world, account, Purpose::Match, None).await?;
        let hash = |number: &Result<E164, NumberError>| match number {
            Ok(number) => Ok(number_hash(&key, number)),
            Err(error) => Err(*error),
        };
        let rows: Vec<_> = self.numbers.iter().map(hash).collect();
        let mut recipients: Vec<_> = rows.iter().flatten().cloned().collect();
        recipients.sort_unstable();
        recipients.dedup();
        Ok(HashedList { rows, recipients })
    }
}

/// The rows of a request, and their recipients, each once.
struct HashedList {
    rows: Vec<Result<String, NumberError>>,
    recipients: Vec<String>,
}

impl HashedList {
    /// The answer to each row, from what there is for each recipient.
    fn answer<T>(&self, all: Vec<T>, tell: impl Fn(&T, &mut RowView)) -> Reply {
        let of: BTreeMap<&String, T> = self.recipients.iter().zip(all).collect();
        let row = |(row, hash): (usize, &Result<String, NumberError>)| {
            let mut view = RowView { row, recipient_hash: None, result: None, source: None, error: None };
            match hash {
                Ok(hash) => {
                    view.recipient_hash = Some(hash.clone());
                    of.get(hash).into_iter().for_each(|one| tell(one, &mut view));
                }
                Err(error) => {
                    view.error = Some(RowError { status: 422, code: "invalid_number", detail: error.to_string() });
                }
            }
            view
        };
        let data = self.rows.iter().enumerate().map(row).collect();
        Reply::json(StatusCode::OK, &OptOutRows { data })
    }
}

#[derive(OpenApi)]
#[openapi(paths(list, enter, remove, look_up))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
