//! Checks every request, answer and event against the description of Stripe's API (`openapi.json`): the contract of the
//! double's users.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

const DOCUMENT: &str = include_str!("../openapi.json");

/// What the description has.
pub(crate) struct Contract {
    /// The version of Stripe's API that it describes.
    pub version: String,
    operations: Vec<Operation>,
    document: Value,
    /// Of the resources, by the word in their field `object`.
    resources: BTreeMap<&'static str, Validator>,
}

/// One path and method.
pub(crate) struct Operation {
    method: &'static str,
    template: String,
    /// Parameters of the query, or of the form.
    schema: Value,
    params: Validator,
    answer: Option<Validator>,
}

/// What does not fit.
#[derive(Debug)]
pub(crate) struct Misfit {
    pub code: &'static str,
    pub param: String,
    pub message: String,
}

/// Where a request leads.
pub(crate) enum Route<'c> {
    Known(&'c Operation, String),
    WrongMethod,
    Unknown,
}

static CONTRACT: LazyLock<Result<Contract, String>> = LazyLock::new(Contract::load);

/// The contract; `Err` says why `openapi.json` cannot be used.
pub(crate) fn contract() -> Result<&'static Contract, &'static str> {
    CONTRACT.as_ref().map_err(String::as_str)
}

const RESOURCES: [(&str, &str); 10] = [
    ("customer", "Customer"),
    ("checkout.session", "Checkout.Session"),
    ("subscription", "Subscription"),
    ("invoice", "Invoice"),
    ("charge", "Charge"),
    ("refund", "Refund"),
    ("dispute", "Dispute"),
    ("payment_intent", "PaymentIntent"),
    ("radar.early_fraud_warning", "Radar.EarlyFraudWarning"),
    ("event", "Event"),
];

impl Contract {
    fn load() -> Result<Self, String> {
        let document: Value = serde_json::from_str(DOCUMENT).map_err(|error| error.to_string())?;
        let document = converted(&document);
        let version = document.pointer("/info/version").and_then(Value::as_str).ok_or("no version")?.to_owned();
        let mut operations = Vec::new();
        for (template, item) in document.get("paths").and_then(Value::as_object).ok_or("no paths")? {
            for method in ["get", "post", "delete"] {
                if let Some(operation) = item.get(method) {
                    operations.push(Operation::load(&document, template, method, operation)?);
                }
            }
        }
        let resource = |(object, name): (&'static str, &str)| {
            Ok((object, validator(&document, &json!({ "$ref": format!("#/components/schemas/{name}") }))?))
        };
        let resources = RESOURCES.into_iter().map(resource).collect::<Result<_, String>>()?;
        Ok(Self { version, operations, document, resources })
    }

    pub(crate) fn route(&self, method: &str, path: &str) -> Route<'_> {
        let mut route = Route::Unknown;
        for operation in &self.operations {
            let Some(id) = fill(&operation.template, path) else { continue };
            if operation.method.eq_ignore_ascii_case(method) {
                return Route::Known(operation, id);
            }
            route = Route::WrongMethod;
        }
        route
    }

    /// What does not fit in a resource; nothing for those that are not described.
    pub(crate) fn misfit_of_resource(&self, resource: &Value) -> Option<String> {
        let object = resource.get("object").and_then(Value::as_str)?;
        let error = self.resources.get(object)?.iter_errors(resource).next()?.to_string();
        Some(format!("{object}: {}", error.chars().take(300).collect::<String>()))
    }

    /// Parameters as JSON, read by their types, if they fit.
    pub(crate) fn read(&self, operation: &Operation, text: &str) -> Result<Value, Misfit> {
        let mut nested = Value::Object(Map::new());
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !insert(&mut nested, &way(&name), &value) {
                return Err(misfit("parameter_invalid", &name, "stands more than once"));
            }
        }
        let params = self.typed(&operation.schema, lists(nested));
        let Some(error) = operation.params.iter_errors(&params).next() else { return Ok(params) };
        let text = error.to_string();
        let at = error.instance_path().to_string();
        let at = at.trim_start_matches('/').to_owned();
        // Missing and unknown fields are errors of the object around them: their names stand in quotes in the text.
        let quoted = || text.split(['"', '\'']).nth(1).unwrap_or("?").to_owned();
        let code = if text.contains("required") {
            "parameter_missing"
        } else if text.contains("dditional propert") || text.contains("nevaluated") {
            "parameter_unknown"
        } else {
            "parameter_invalid"
        };
        let param = if code == "parameter_invalid" { at } else { format!("{at} {}", quoted()).trim().to_owned() };
        Err(misfit(code, &param, &text.chars().take(300).collect::<String>()))
    }

    /// Reads texts as their schema's types where they can be.
    fn typed(&self, schema: &Value, value: Value) -> Value {
        let schema = self.resolved(schema);
        match value {
            Value::String(text) => self.typed_text(schema, text),
            Value::Array(values) => {
                let items =
                    self.of_kind(schema, "array").and_then(|schema| schema.get("items")).unwrap_or(&Value::Null);
                values.into_iter().map(|value| self.typed(items, value)).collect()
            }
            Value::Object(fields) => {
                let schema = self.of_kind(schema, "object").unwrap_or(&Value::Null);
                let known = |name: &str| schema.get("properties").and_then(|known| known.get(name));
                let typed = |(name, value): (String, Value)| {
                    let field = known(&name).or_else(|| schema.get("additionalProperties")).unwrap_or(&Value::Null);
                    let value = self.typed(field, value);
                    (name, value)
                };
                fields.into_iter().map(typed).collect()
            }
            other => other,
        }
    }

    fn typed_text(&self, schema: &Value, text: String) -> Value {
        let number = || text.parse::<i64>().ok().map(Value::from);
        let flag = || text.parse::<bool>().ok().map(Value::from);
        // Where any text will do it stays one: what metadata holds is text.
        let any_text = self.of_kind(schema, "string").is_some_and(|schema| schema.get("enum").is_none());
        let read = if any_text {
            None
        } else if self.of_kind(schema, "integer").is_some() {
            number()
        } else if self.of_kind(schema, "boolean").is_some() {
            flag()
        } else {
            None
        };
        read.unwrap_or(Value::String(text))
    }

    /// The part of a schema that is of this type, in whichever alternative.
    fn of_kind<'s>(&'s self, schema: &'s Value, kind: &str) -> Option<&'s Value> {
        let schema = self.resolved(schema);
        let of = |value: &Value| match value {
            Value::String(one) => one == kind,
            Value::Array(several) => several.iter().any(|one| one == kind),
            _ => false,
        };
        if schema.get("type").is_some_and(of) {
            return Some(schema);
        }
        let several = schema.get("anyOf").or_else(|| schema.get("allOf")).and_then(Value::as_array)?;
        several.iter().find_map(|one| self.of_kind(one, kind))
    }

    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let Some(reference) = schema.get("$ref").and_then(Value::as_str) else { return schema };
        self.document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null)
    }
}

impl Operation {
    fn load(document: &Value, template: &str, method: &'static str, operation: &Value) -> Result<Self, String> {
        let schema = if method == "post" {
            let form = operation.pointer("/requestBody/content/application~1x-www-form-urlencoded/schema").cloned();
            form.unwrap_or_else(|| json!({ "type": "object", "additionalProperties": false }))
        } else {
            let parameters = operation.get("parameters").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let of_query =
                parameters.iter().filter(|parameter| parameter.get("in").is_some_and(|place| place == "query"));
            let named = |parameter: &Value| {
                let name = parameter.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                (name, parameter.get("schema").cloned().unwrap_or_default())
            };
            let fields: Map<String, Value> = of_query.map(named).collect();
            json!({ "type": "object", "properties": fields, "additionalProperties": false })
        };
        let answer = operation.pointer("/responses/200/content/application~1json/schema");
        Ok(Self {
            method,
            template: template.to_owned(),
            params: validator(document, &schema)?,
            answer: answer.map(|schema| validator(document, schema)).transpose()?,
            schema,
        })
    }

    /// Its path with `{id}`, and its method: what it is called by.
    pub(crate) fn name(&self) -> (&'static str, &str) {
        (self.method, &self.template)
    }

    /// What does not fit in an answer of ours.
    pub(crate) fn misfit_of_answer(&self, answer: &Value) -> Option<String> {
        let error = self.answer.as_ref()?.iter_errors(answer).next()?;
        let text = error.to_string().chars().take(300).collect::<String>();
        Some(format!("answer to {} {} at {}: {text}", self.method, self.template, error.instance_path()))
    }
}

fn misfit(code: &'static str, param: &str, message: &str) -> Misfit {
    Misfit { code, param: param.to_owned(), message: message.to_owned() }
}

/// A validator whose references lead into the document.
fn validator(document: &Value, schema: &Value) -> Result<Validator, String> {
    let mut schema = schema.clone();
    if let (Some(fields), Some(components)) = (schema.as_object_mut(), document.get("components")) {
        fields.insert("components".to_owned(), components.clone());
    }
    jsonschema::options().with_draft(jsonschema::Draft::Draft202012).build(&schema).map_err(|error| error.to_string())
}

/// OpenAPI 3.0 to JSON Schema: what is `nullable` may be null.
fn converted(schema: &Value) -> Value {
    match schema {
        Value::Array(values) => values.iter().map(converted).collect(),
        Value::Object(fields) => {
            let mut fields: Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), converted(value))).collect();
            // A property may be called so; then it is a schema and no flag.
            if fields.get("nullable") != Some(&Value::Bool(true)) {
                return Value::Object(fields);
            }
            fields.remove("nullable");
            json!({ "anyOf": [Value::Object(fields), { "type": "null" }] })
        }
        other => other.clone(),
    }
}

/// `a[b][0]` as a, b, 0.
fn way(name: &str) -> Vec<String> {
    name.split('[').map(|part| part.trim_end_matches(']').to_owned()).collect()
}

/// `false` if there is something already.
fn insert(into: &mut Value, way: &[String], text: &str) -> bool {
    let (Some((first, rest)), Some(fields)) = (way.split_first(), into.as_object_mut()) else { return false };
    if rest.is_empty() {
        return fields.insert(first.clone(), text.into()).is_none();
    }
    insert(fields.entry(first.clone()).or_insert_with(|| json!({})), rest, text)
}

/// Objects whose names are 0, 1, 2 … are lists.
fn lists(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let numbered = !fields.is_empty() && (0..fields.len()).all(|at| fields.contains_key(&at.to_string()));
    if numbered {
        let mut fields = fields;
        let n_values = fields.len();
        return (0..n_values).filter_map(|at| fields.remove(&at.to_string())).map(lists).collect();
    }
    fields.into_iter().map(|(name, value)| (name, lists(value))).collect()
}

/// The id in the path when it has the template's form; empty for a template without one.
fn fill(template: &str, path: &str) -> Option<String> {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    let mut id = String::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(id),
            (Some(wanted), Some(given)) if wanted == given => {}
            (Some(wanted), Some(given)) if wanted.starts_with('{') && given.contains('_') => {
                given.clone_into(&mut id);
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, path: &str, form: &str) -> Result<Value, Misfit> {
        let contract = contract().unwrap();
        let Route::Known(operation, _) = contract.route(method, path) else { panic!("no operation at {path}") };
        contract.read(operation, form)
    }

    #[test]
    fn a_form_is_read_by_the_types_of_the_description() {
        let form = "mode=payment&line_items[0][quantity]=2&line_items[0][price_data][unit_amount]=5\
                    &line_items[0][price_data][currency]=usd&invoice_creation[enabled]=true&metadata[a]=7";
        let read = read("POST", "/v1/checkout/sessions", form).unwrap();
        let item = &read["line_items"][0];
        assert_eq!((&item["quantity"], &item["price_data"]["unit_amount"]), (&json!(2), &json!(5)));
        assert_eq!((&read["invoice_creation"]["enabled"], &read["metadata"]["a"]), (&json!(true), &json!("7")));
    }

    #[test]
    fn what_the_description_does_not_have_is_refused_by_name() {
        for (method, path, form, code, param) in [
            (
                "POST",
                "/v1/checkout/sessions",
                "mode=payment&payment_method_types[0]=card",
                "parameter_unknown",
                "payment_method_types",
            ),
            ("POST", "/v1/checkout/sessions", "card_number=4242424242424242", "parameter_unknown", "card_number"),
            ("POST", "/v1/checkout/sessions", "line_items[0][amount]=5", "parameter_unknown", "line_items/0 amount"),
            (
                "POST",
                "/v1/checkout/sessions",
                "line_items[0][quantity]=two",
                "parameter_invalid",
                "line_items/0/quantity",
            ),
            ("POST", "/v1/billing/meter_events", "event_name=x", "parameter_missing", "payload"),
            ("POST", "/v1/subscriptions/sub_1/pause", "behavior=void", "parameter_unknown", "behavior"),
            ("GET", "/v1/events", "delivered=false", "parameter_unknown", "delivered"),
            ("GET", "/v1/events", "limit=all", "parameter_invalid", "limit"),
            ("POST", "/v1/customers", "email=a&email=b", "parameter_invalid", "email"),
        ] {
            let misfit = read(method, path, form).unwrap_err();
            assert_eq!((misfit.code, misfit.param.as_str()), (code, param), "{form}: {}", misfit.message);
        }
    }

    #[test]
    fn other_paths_and_methods_lead_nowhere() {
        let contract = contract().unwrap();
        assert!(matches!(contract.route("GET", "/v1/nothing"), Route::Unknown));
        assert!(matches!(contract.route("GET", "/v1/customers/cus_1/cards"), Route::Unknown));
        assert!(matches!(contract.route("DELETE", "/v1/invoices/in_1"), Route::WrongMethod));
    }

    #[test]
    fn the_fixtures_and_the_templates_fit_the_description_and_what_lacks_a_field_does_not() {
        let contract = contract().unwrap();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/stripe/fixtures");
        let (mut n_objects, mut kinds) = (0, std::collections::BTreeSet::new());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let event: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            if event["object"] != "event" {
                continue;
            }
            assert_eq!(contract.misfit_of_resource(&event), None, "{}", path.display());
            let object = &event["data"]["object"];
            assert_eq!(contract.misfit_of_resource(object), None, "{}", path.display());
            let kind = object["object"].as_str().unwrap();
            if contract.resources.contains_key(kind) {
                n_objects += 1;
                kinds.insert(kind.to_owned());
                let mut less = object.clone();
                less.as_object_mut().unwrap().remove("id");
                assert!(contract.misfit_of_resource(&less).unwrap().contains("id"), "{kind}");
            }
        }
        assert!(n_objects > 30 && kinds.len() == RESOURCES.len() - 1, "{n_objects} objects of {kinds:?}");
        for (object, _) in RESOURCES.iter().filter(|(object, _)| *object != "event") {
            let made = crate::flows::made(object, "x", json!({})).unwrap();
            assert_eq!(contract.misfit_of_resource(&made), None);
        }
    }
}
