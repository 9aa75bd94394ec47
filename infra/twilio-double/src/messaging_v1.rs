//! The contract of Messaging Services: the part of Twilio's Messaging API v1 that the double serves.

use serde_json::{Map, Value, json};

/// In the form of an OpenAPI document, but written by hand: names and types are those of `twilio_messaging_v1.json` in
/// Twilio's public repository `twilio-oai` and of the pages on the resources `Services` and `PhoneNumbers` below
/// twilio.com/docs/messaging/api; the bounds are those that the pages give in words (`ValidityPeriod` 1 to 36,000).
/// Of Twilio's fields only `InboundRequestUrl` and its like are acted on; the others are kept and shown.
pub(crate) fn document() -> Value {
    let service = answer(&[
        ("sid", sid("MG")),
        ("account_sid", sid("AC")),
        ("friendly_name", text()),
        ("date_created", time()),
        ("date_updated", time()),
        ("inbound_request_url", nullable(url())),
        ("inbound_method", nullable(method())),
        ("fallback_url", nullable(url())),
        ("fallback_method", nullable(method())),
        ("status_callback", nullable(url())),
        ("sticky_sender", yes_or_no()),
        ("mms_converter", yes_or_no()),
        ("smart_encoding", yes_or_no()),
        ("scan_message_content", scan()),
        ("fallback_to_long_code", yes_or_no()),
        ("area_code_geomatch", yes_or_no()),
        ("synchronous_validation", yes_or_no()),
        ("validity_period", json!({"type": "integer"})),
        ("url", url()),
        ("links", json!({"type": "object"})),
        ("usecase", text()),
        ("us_app_to_person_registered", yes_or_no()),
        ("use_inbound_webhook_on_number", yes_or_no()),
    ]);
    let form = [
        ("FriendlyName", text()),
        ("InboundRequestUrl", url()),
        ("InboundMethod", method()),
        ("FallbackUrl", url()),
        ("FallbackMethod", method()),
        ("StatusCallback", url()),
        ("StickySender", yes_or_no()),
        ("MmsConverter", yes_or_no()),
        ("SmartEncoding", yes_or_no()),
        ("ScanMessageContent", scan()),
        ("FallbackToLongCode", yes_or_no()),
        ("AreaCodeGeomatch", yes_or_no()),
        ("ValidityPeriod", json!({"type": "integer", "minimum": 1, "maximum": 36_000})),
        ("SynchronousValidation", yes_or_no()),
        ("Usecase", text()),
        ("UseInboundWebhookOnNumber", yes_or_no()),
    ];
    let number = answer(&[
        ("sid", sid("PN")),
        ("account_sid", sid("AC")),
        ("service_sid", sid("MG")),
        ("date_created", time()),
        ("date_updated", time()),
        ("phone_number", text()),
        ("country_code", nullable(text())),
        ("capabilities", json!({"type": "array", "items": {"type": "string", "enum": ["Voice", "SMS", "MMS"]}})),
        ("url", url()),
    ]);
    let update = json!({"required": true, "content": {"application/x-www-form-urlencoded": {"schema": answer(&form)}}});
    let with_body = |mut operation: Value| {
        operation
            .as_object_mut()
            .into_iter()
            .for_each(|fields| drop(fields.insert("requestBody".into(), update.clone())));
        operation
    };
    json!({"paths": {
        "/v1/Services": {"get": operation("ListService", &pages(), &list("services", &service))},
        "/v1/Services/{Sid}": {
            "get": operation("FetchService", &[of_path("Sid")], &service),
            "post": with_body(operation("UpdateService", &[of_path("Sid")], &service)),
        },
        "/v1/Services/{ServiceSid}/PhoneNumbers": {"get": operation(
            "ListPhoneNumber",
            &[&pages()[..], &[of_path("ServiceSid")]].concat(),
            &list("phone_numbers", &number),
        )},
    }})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn url() -> Value {
    json!({"type": "string", "format": "uri"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn method() -> Value {
    json!({"type": "string", "enum": ["GET", "POST"]})
}

fn scan() -> Value {
    json!({"type": "string", "enum": ["inherit", "enable", "disable"]})
}

fn yes_or_no() -> Value {
    json!({"type": "boolean"})
}

fn sid(prefix: &str) -> Value {
    json!({"type": "string", "minLength": 34, "maxLength": 34, "pattern": format!("^{prefix}[0-9a-fA-F]{{32}}$")})
}

fn nullable(mut schema: Value) -> Value {
    schema.as_object_mut().into_iter().for_each(|fields| drop(fields.insert("nullable".into(), true.into())));
    schema
}

fn answer(fields: &[(&str, Value)]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({"type": "object", "properties": properties})
}

fn list(key: &str, item: &Value) -> Value {
    let meta = answer(&[
        ("first_page_url", url()),
        ("key", text()),
        ("next_page_url", nullable(url())),
        ("page", json!({"type": "integer"})),
        ("page_size", json!({"type": "integer"})),
        ("previous_page_url", nullable(url())),
        ("url", url()),
    ]);
    answer(&[(key, json!({"type": "array", "items": item})), ("meta", meta)])
}

fn of_path(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": sid("MG")})
}

fn pages() -> Vec<Value> {
    vec![
        json!({"name": "PageSize", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 1000}}),
        json!({"name": "Page", "in": "query", "schema": {"type": "integer", "minimum": 0}}),
        json!({"name": "PageToken", "in": "query", "schema": {"type": "string"}}),
    ]
}

fn operation(id: &str, parameters: &[Value], answer: &Value) -> Value {
    let ok = json!({"description": "OK", "content": {"application/json": {"schema": answer}}});
    json!({"operationId": id, "parameters": parameters, "responses": {"200": ok}})
}
