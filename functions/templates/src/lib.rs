//! /v1/templates: texts with named fields, kept sealed; POST /v1/messages fills them in.

use http::{Method, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use telbuddy::api_key::Scope;
use telbuddy::credential::{LoadKeys, OpenKey, data_key};
use telbuddy::edge::{Access, Fields, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, TemplateId};
use telbuddy::live::Need;
use telbuddy::platform::Chance;
use telbuddy::seal::Purpose;
use telbuddy::session::{KeepSessions, Site, caller};
use telbuddy::template::{
    Content, Created, FieldName, KeepTemplates, MOST_TEMPLATES, Name, ReadTemplates, Template, Text, Updated,
};
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/templates", access: Access::Scope(Scope::TemplatesRead) },
    Route { method: "POST", path: "/v1/templates", access: Access::Scope(Scope::TemplatesWrite) },
    Route { method: "GET", path: "/v1/templates/{id}", access: Access::Scope(Scope::TemplatesRead) },
    Route { method: "PUT", path: "/v1/templates/{id}", access: Access::Scope(Scope::TemplatesWrite) },
    Route { method: "DELETE", path: "/v1/templates/{id}", access: Access::Scope(Scope::TemplatesWrite) },
];

/// The services that it calls. It may open the purposes payload and match, and neither calls Twilio nor could.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys];

/// How often a removal looks again because somebody else changed the template meanwhile.
const TRIES: u32 = 5;

/// A new template.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    /// Its name, for people: 1 to 64 characters, different from your other templates' in more than capital letters.
    #[schema(example = "Table ready", max_length = 64)]
    name: String,
    /// The text, up to 1,600 characters. `{{first_name}}` is a field: a small letter, then small letters, digits and
    /// `_`. At most 20 different ones. `\{`, `\}` and `\\` are a brace and a backslash that mean nothing else.
    #[schema(example = "Hello {{first_name}}, your table is ready.", max_length = 1600)]
    body: String,
}

/// The next revision of a template.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeTemplate {
    /// As with a new one; may be the same.
    #[schema(example = "Table ready", max_length = 64)]
    name: String,
    /// As with a new one.
    #[schema(example = "Hello {{first_name}}, your table is ready.", max_length = 1600)]
    body: String,
    /// The revision that you read: if it is not the newest any more, nothing is changed.
    #[schema(example = 1)]
    revision: u32,
}

/// A template.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Template)]
pub struct TemplateView {
    /// Names it.
    #[schema(value_type = String, example = "tpl_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: TemplateId,
    /// Its name.
    #[schema(example = "Table ready")]
    name: String,
    /// Its text.
    #[schema(example = "Hello {{first_name}}, your table is ready.")]
    body: String,
    /// Its fields, in the order in which they come.
    #[schema(value_type = Vec<String>, example = json!(["first_name"]))]
    fields: Vec<FieldName>,
    /// Counts its changes, from 1.
    revision: u32,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// The last change.
    #[schema(value_type = String, format = "date-time")]
    updated_at: Timestamp,
}

impl TemplateView {
    fn of(template: &Template, content: &Content) -> Self {
        Self {
            id: template.id,
            name: content.name.as_str().to_owned(),
            body: content.text.source().to_owned(),
            fields: content.text.fields().to_vec(),
            revision: template.revision,
            created_at: template.created,
            updated_at: template.updated,
        }
    }
}

/// A page of templates.
#[derive(Serialize, utoipa::ToSchema)]
pub struct TemplateList {
    /// Newest first.
    data: Vec<TemplateView>,
    /// Give this as `cursor` for the next page; null at the end.
    next_cursor: Option<String>,
}

/// Answers one request.
///
/// AWS calls: 1 read of the session; once in five minutes and key (payload; to write also match) 1 read and 1 KMS call
/// with its entry in the access log; once a minute 1 write of the caller's last call. Reading: 1 read. Making: 1
/// transaction of 3 items. Changing: 1 read, 1 transaction of 1 item, with another name of 3. Removing: 1 read, 1
/// transaction of 3 items; it opens nothing.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: KeepSessions + ReadTemplates + KeepTemplates + OpenKey + LoadKeys + Chance + Sync,
{
    answer(request.id, async {
        let (_, segments) = request.route(ROUTES)?;
        match (&request.method, segments.first()) {
            (&Method::POST, _) => create(world, site, &request).await,
            (&Method::PUT, Some(id)) => change(world, site, &request, id).await,
            (&Method::DELETE, Some(id)) => remove(world, site, &request, id).await,
            (_, Some(id)) => show(world, site, &request, id).await,
            (_, None) => list(world, site, &request).await,
        }
    })
    .await
}

/// List templates.
#[utoipa::path(get, path = "/v1/templates", tag = "templates",
    params(("limit" = Option<u16>, Query, description = "1 to 100; 20 if left out"),
        ("cursor" = Option<String>, Query, description = "From the page before")),
    responses(
    (status = 200, description = "Newest first", body = TemplateList),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Parameters do not fit", body = telbuddy::edge::ProblemBody)))]
async fn list<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadTemplates + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let query = request.query(&["limit", "cursor"])?;
    let limit = query.limit(20, 100)?;
    let before = query.get("cursor").map(str::parse::<TemplateId>).transpose();
    let before = before.map_err(|_| Problem::field("cursor", "invalid", "give next_cursor of the page before"))?;
    let mut templates = world.list_templates(account, before, limit + 1).await?;
    let more = templates.len() > usize::from(limit);
    templates.truncate(usize::from(limit));
    let next_cursor = templates.last().filter(|_| more).map(|last| last.id.to_string());
    let mut data = Vec::new();
    for template in &templates {
        data.push(TemplateView::of(template, &open(world, template).await?));
    }
    Ok(Reply::json(StatusCode::OK, &TemplateList { data, next_cursor }))
}

/// Show a template.
#[utoipa::path(get, path = "/v1/templates/{id}", tag = "templates",
    params(("id" = String, Path, description = "The template's id")), responses(
    (status = 200, description = "The template", body = TemplateView),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such template", body = telbuddy::edge::ProblemBody)))]
async fn show<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadTemplates + OpenKey + LoadKeys + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let template = load(world, account, id).await?;
    let content = open(world, &template).await?;
    Ok(Reply::json(StatusCode::OK, &TemplateView::of(&template, &content)))
}

/// Make a template.
#[utoipa::path(post, path = "/v1/templates", tag = "templates", request_body = NewTemplate, responses(
    (status = 201, description = "It is stored", body = TemplateView),
    (status = 400, description = "Not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "Another template has the name, or there are 200", body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit; where a text is at fault its place is named",
        body = telbuddy::edge::ProblemBody)))]
async fn create<W>(world: &W, site: &Site, request: &Request) -> Result<Reply, Problem>
where
    W: KeepSessions + KeepTemplates + OpenKey + LoadKeys + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let NewTemplate { name, body } = request.json()?;
    let content = parse(name, body)?;
    let id = TemplateId::new(request.now, world.dice()?);
    let (name_hash, sealed) = seal(world, account, id, &content).await?;
    let (created, updated) = (request.now, request.now);
    let template = Template { id, account, revision: 1, name_hash, sealed, created, updated };
    match world.create_template(&template).await? {
        Created::Stored => {}
        Created::NameTaken => return Err(name_taken()),
        Created::TooMany => {
            let detail = format!("the account has {MOST_TEMPLATES}, and that is the most: remove one first");
            return Err(Problem::new(Kind::TooManyTemplates, detail));
        }
    }
    tracing::info!(account.id = %account, template.id = %id, "stored {id}");
    Ok(Reply::json(StatusCode::CREATED, &TemplateView::of(&template, &content)))
}

/// Change a template.
///
/// What was accepted keeps the text that it was accepted with, also a request for many that is gone on with later.
#[utoipa::path(put, path = "/v1/templates/{id}", tag = "templates", request_body = ChangeTemplate,
    params(("id" = String, Path, description = "The template's id")), responses(
    (status = 200, description = "It is stored, with the next revision", body = TemplateView),
    (status = 400, description = "Not JSON", body = telbuddy::edge::ProblemBody),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such template", body = telbuddy::edge::ProblemBody),
    (status = 409, description = "It was changed since you read it, or another one has the name",
        body = telbuddy::edge::ProblemBody),
    (status = 422, description = "Fields do not fit; where a text is at fault its place is named",
        body = telbuddy::edge::ProblemBody)))]
async fn change<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadTemplates + KeepTemplates + OpenKey + LoadKeys + Chance + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    let ChangeTemplate { name, body, revision } = request.json()?;
    let content = parse(name, body)?;
    let read = load(world, account, id).await?;
    if read.revision != revision {
        return Err(changed());
    }
    let (name_hash, sealed) = seal(world, account, read.id, &content).await?;
    let template = Template { revision: revision + 1, name_hash, sealed, updated: request.now, ..read.clone() };
    match world.update_template(&read, &template).await? {
        Updated::Stored => {}
        Updated::Changed => return Err(changed()),
        Updated::NameTaken => return Err(name_taken()),
    }
    let id = template.id;
    tracing::info!(account.id = %account, template.id = %id, revision = template.revision, "changed {id}");
    Ok(Reply::json(StatusCode::OK, &TemplateView::of(&template, &content)))
}

/// Remove a template, whichever revision it has.
#[utoipa::path(delete, path = "/v1/templates/{id}", tag = "templates",
    params(("id" = String, Path, description = "The template's id")), responses(
    (status = 204, description = "It is gone; what was accepted with it is sent"),
    (status = 401, description = "Not signed in", body = telbuddy::edge::ProblemBody),
    (status = 404, description = "No such template", body = telbuddy::edge::ProblemBody)))]
async fn remove<W>(world: &W, site: &Site, request: &Request, id: &str) -> Result<Reply, Problem>
where
    W: KeepSessions + ReadTemplates + KeepTemplates + Sync,
{
    let account = caller(world, site, request, ROUTES).await?.account;
    for _ in 0..TRIES {
        let read = load(world, account, id).await?;
        if world.remove_template(&read).await? {
            let id = read.id;
            tracing::info!(account.id = %account, template.id = %id, "removed {id}");
            return Ok(Reply::empty(StatusCode::NO_CONTENT));
        }
    }
    Err(Fault::transient("others kept changing the same template").into())
}

fn parse(name: String, body: String) -> Result<Content, Problem> {
    let mut fields = Fields::default();
    let name = fields.take("name", Name::parse(name));
    let text = Text::parse(body).map_err(|error| fields.add("body", error.code(), error.to_string()));
    match (name, text) {
        (Some(name), Ok(text)) => fields.done(Content { name, text }),
        _ => Err(fields.into_problem()),
    }
}

/// The name's hash, and name and text sealed.
async fn seal<W>(
    world: &W,
    account: AccountId,
    id: TemplateId,
    content: &Content,
) -> Result<(String, telbuddy::seal::Sealed), Fault>
where
    W: OpenKey + LoadKeys + Chance,
{
    let match_key = data_key(world, account, Purpose::Match, None).await?;
    let payload_key = data_key(world, account, Purpose::Payload, None).await?;
    Ok((content.name.hash(&match_key), content.seal(&payload_key, id, world.random()?)?))
}

async fn open<W: OpenKey + LoadKeys>(world: &W, template: &Template) -> Result<Content, Fault> {
    let version = template.sealed.key_version()?;
    Content::open(template, &data_key(world, template.account, Purpose::Payload, Some(version)).await?)
}

async fn load<W: ReadTemplates>(world: &W, account: AccountId, id: &str) -> Result<Template, Problem> {
    let missing = || Problem::not_found("there is no template with this id; GET /v1/templates lists them");
    let id: TemplateId = id.parse().map_err(|_| missing())?;
    world.load_template(account, id).await?.ok_or_else(missing)
}

fn changed() -> Problem {
    let detail = "it was changed since you read it: read it again, and change that with its revision";
    Problem::new(Kind::TemplateChanged, detail)
}

fn name_taken() -> Problem {
    let detail = "another of your templates has this name, but for capital letters: choose another one";
    Problem::new(Kind::TemplateNameTaken, detail)
}

#[derive(OpenApi)]
#[openapi(paths(list, show, create, change, remove))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

#[cfg(test)]
mod tests;
