//! Checks every request against Twilio's own OpenAPI document (`openapi.json`; for Messaging Services
//! `messaging_v1.rs`): the contract of the double's users.

use std::collections::HashMap;
use std::sync::LazyLock;

use jsonschema::{Draft, Validator};
use serde_json::{Map, Value, json};

use crate::rest::Pairs;
use crate::{ROOT, messaging_v1};

const DOCUMENT: &str = include_str!("../openapi.json");

/// All operations of both documents.
pub(crate) struct Contract {
    pub operations: Vec<Operation>,
}

/// One path and method.
pub(crate) struct Operation {
    pub id: String,
    method: String,
    template: String,
    path: Part,
    query: Part,
    form: Part,
    /// Status and converted schema of the documented success answer.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests check our answers with it"))]
    pub answer: Option<Value>,
}

/// One place where parameters stand.
struct Part {
    place: &'static str,
    fields: Map<String, Value>,
    validator: Validator,
}

/// What does not fit.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub field: String,
    pub message: String,
}

/// Where a request leads.
pub(crate) enum Route<'c> {
    Known(&'c Operation, Pairs),
    WrongMethod,
    Unknown,
}

static CONTRACT: LazyLock<Result<Contract, String>> = LazyLock::new(Contract::load);

/// The contract; `Err` says why `openapi.json` cannot be used.
pub(crate) fn contract() -> Result<&'static Contract, &'static str> {
    CONTRACT.as_ref().map_err(String::as_str)
}

impl Contract {
    fn load() -> Result<Self, String> {
        let document: Value = serde_json::from_str(DOCUMENT).map_err(|error| error.to_string())?;
        let mut operations = Vec::new();
        for document in [document, messaging_v1::document()] {
            let paths = document.get("paths").and_then(Value::as_object).ok_or("no paths")?;
            for (template, item) in paths {
                for method in ["get", "post", "delete"] {
                    if let Some(operation) = item.get(method) {
                        operations.push(Operation::load(&document, template, method, operation)?);
                    }
                }
            }
        }
        Ok(Self { operations })
    }

    pub(crate) fn route(&self, method: &str, path: &str) -> Route<'_> {
        let mut route = Route::Unknown;
        for operation in &self.operations {
            let Some(values) = fill(&operation.template, path) else {
                continue;
            };
            if operation.method == method {
                return Route::Known(operation, values);
            }
            route = Route::WrongMethod;
        }
        route
    }
}

impl Operation {
    fn load(document: &Value, template: &str, method: &str, operation: &Value) -> Result<Self, String> {
        let parameters = operation.get("parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let part = |place: &'static str| {
            let mut fields = Map::new();
            for parameter in parameters.iter().filter(|p| p.get("in").and_then(Value::as_str) == Some(place)) {
                let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default();
                fields.insert(name.into(), convert(document, parameter.get("schema").unwrap_or(&Value::Null)));
            }
            Part::load(place, fields, &json!([]))
        };
        let form = operation.pointer("/requestBody/content/application~1x-www-form-urlencoded/schema");
        let form = form.map(|schema| convert(document, schema)).unwrap_or_default();
        let fields = form.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        let answers = operation.get("responses").and_then(Value::as_object);
        let answer = answers.and_then(|all| all.values().find_map(|r| r.pointer("/content/application~1json/schema")));
        Ok(Self {
            id: operation.get("operationId").and_then(Value::as_str).unwrap_or_default().into(),
            method: method.to_uppercase(),
            template: template.into(),
            path: part("path")?,
            query: part("query")?,
            form: Part::load("body", fields, form.get("required").unwrap_or(&json!([])))?,
            answer: answer.map(|schema| convert(document, schema)),
        })
    }

    /// Paths of 2010-04-01 name the account; with Messaging API v1 it is the caller's.
    pub(crate) fn names_account(&self) -> bool {
        self.template.starts_with(ROOT)
    }

    /// `Err` names the first field that does not fit.
    pub(crate) fn check(&self, path: &Pairs, query: &Pairs, form: &Pairs) -> Result<(), Misfit> {
        self.path.check(path)?;
        self.query.check(query)?;
        self.form.check(form)
    }
}

impl Part {
    fn load(place: &'static str, fields: Map<String, Value>, required: &Value) -> Result<Self, String> {
        let schema =
            json!({"type": "object", "properties": fields, "required": required, "additionalProperties": false});
        let validator = jsonschema::options()
            .with_draft(Draft::Draft7)
            .should_validate_formats(true)
            .with_format("uri", is_uri)
            .with_format("date-time", |text: &str| is_date(text) || text.parse::<jiff::Timestamp>().is_ok())
            .with_format("date", is_date)
            .with_format("iso-country-code", |text: &str| {
                text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase())
            })
            .build(&schema)
            .map_err(|error| error.to_string())?;
        Ok(Self { place, fields, validator })
    }

    fn check(&self, pairs: &Pairs) -> Result<(), Misfit> {
        let instance = self.typed(pairs)?;
        let Some(error) = self.validator.iter_errors(&instance).next() else {
            return Ok(());
        };
        let text = error.to_string();
        let at = error.instance_path().to_string();
        let at = at.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        // Missing and unknown fields are errors of the whole object: their names stand in quotes in the text.
        let field = if at.is_empty() { quoted(&text) } else { at };
        Err(Misfit { message: format!("{} field {field}: {text}", self.place), field })
    }

    /// The pairs as JSON, each text read as its schema's type when it can be.
    fn typed(&self, pairs: &Pairs) -> Result<Value, Misfit> {
        let mut object = Map::new();
        for (name, text) in &pairs.0 {
            let schema = self.fields.get(name).unwrap_or(&Value::Null);
            // An empty SID in a form means none: so a number's application is taken away.
            if self.place == "body" && text.is_empty() && schema.get("pattern").is_some() {
                continue;
            }
            if is_type(schema, "array") {
                let items = schema.get("items").unwrap_or(&Value::Null);
                let list = object.entry(name.clone()).or_insert_with(|| json!([]));
                list.as_array_mut().into_iter().for_each(|list| list.push(read(items, text)));
            } else if object.insert(name.clone(), read(schema, text)).is_some() {
                let message = format!("{} field {name}: stands more than once", self.place);
                return Err(Misfit { field: name.clone(), message });
            }
        }
        Ok(Value::Object(object))
    }
}

fn read(schema: &Value, text: &str) -> Value {
    let typed = if is_type(schema, "integer") {
        text.parse::<i64>().ok().map(Value::from)
    } else if is_type(schema, "number") {
        text.parse::<f64>().ok().map(Value::from)
    } else if is_type(schema, "boolean") {
        text.parse::<bool>().ok().map(Value::from)
    } else {
        None
    };
    typed.unwrap_or_else(|| text.into())
}

fn is_type(schema: &Value, name: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == name,
        Some(Value::Array(several)) => several.iter().any(|one| one == name),
        _ => false,
    }
}

fn is_date(text: &str) -> bool {
    text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10
}

/// Empty clears a URL; otherwise it is absolute.
fn is_uri(text: &str) -> bool {
    text.is_empty() || url::Url::parse(text).is_ok()
}

fn quoted(text: &str) -> String {
    text.split(['"', '\'']).nth(1).unwrap_or("?").to_owned()
}

/// OpenAPI 3.0 to JSON Schema: references put in place, `nullable` made a type, formats dropped where Twilio says so.
fn convert(document: &Value, schema: &Value) -> Value {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        return convert(document, target);
    }
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        Value::Array(list) => return list.iter().map(|item| convert(document, item)).collect(),
        other => return other.clone(),
    };
    if schema.get("x-twilio").and_then(|x| x.get("ignoreFormat")).is_some() {
        schema.remove("format");
    }
    if schema.remove("nullable") == Some(Value::Bool(true)) {
        if let Some(kind) = schema.get_mut("type") {
            *kind = json!([kind, "null"]);
        }
        schema.get_mut("enum").and_then(Value::as_array_mut).into_iter().for_each(|list| list.push(Value::Null));
    }
    for name in ["properties", "items"] {
        let Some(inner) = schema.get_mut(name) else {
            continue;
        };
        *inner = match inner.as_object() {
            Some(fields) if name == "properties" => {
                fields.iter().map(|(key, field)| (key.clone(), convert(document, field))).collect()
            }
            _ => convert(document, inner),
        };
    }
    Value::Object(schema)
}

/// The path's values when it has the template's form: `/Accounts/{Sid}.json`.
fn fill(template: &str, path: &str) -> Option<Pairs> {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    let mut values: HashMap<String, String> = HashMap::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(Pairs(values.into_iter().collect())),
            (Some(wanted), Some(given)) if wanted == given => {}
            (Some(wanted), Some(given)) => {
                let (name, end) = wanted.strip_prefix('{')?.split_once('}')?;
                let value = given.strip_suffix(end)?;
                // `/Media/ME1` and `/Media/ME1.json` are different resources: a value has no dot.
                if value.is_empty() || value.contains('.') {
                    return None;
                }
                values.insert(name.into(), value.into());
            }
            _ => return None,
        }
    }
}
