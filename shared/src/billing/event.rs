//! An event of Stripe's as far as we keep it: a hint of what to look at. Ids, a type and a time; nothing personal.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::signature::Verified;
use crate::ids::AccountId;

/// Under which name an object at Stripe carries our account, in its `metadata`.
pub const ACCOUNT: &str = "telbuddy_account_id";

/// One of Stripe's ids: `cus_…`, `in_…`. Letters, digits and `_`, so that it fits into a path and a key as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StripeId(String);

/// A text that is none of Stripe's ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one of Stripe's ids: up to 255 letters, digits and underscores")]
pub struct NotAStripeId;

impl StripeId {
    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StripeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StripeId {
    type Err = NotAStripeId;

    fn from_str(text: &str) -> Result<Self, NotAStripeId> {
        let fits = (1..=255).contains(&text.len());
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if fits && plain { Ok(Self(text.to_owned())) } else { Err(NotAStripeId) }
    }
}

impl TryFrom<String> for StripeId {
    type Error = NotAStripeId;

    fn try_from(text: String) -> Result<Self, NotAStripeId> {
        text.parse()
    }
}

impl From<StripeId> for String {
    fn from(id: StripeId) -> Self {
        id.0
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRef {
    /// `invoice`, `checkout.session` …
    pub kind: String,
    /// Its id.
    pub id: StripeId,
}

/// An event on its way from the webhook to its effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StripeEvent {
    /// Stripe's id of it: the same however often it comes.
    pub id: StripeId,
    /// `invoice.paid` …
    pub kind: String,
    /// When it happened at Stripe.
    pub created: Timestamp,
    /// What it is about. The few objects that have no id of their own yet have none here.
    pub object: Option<ObjectRef>,
    /// Whose object it is at Stripe.
    pub customer: Option<StripeId>,
    /// Whose it is here, if the object says so: we write it on what we make. A hint: what the customer's row says
    /// counts.
    pub account: Option<AccountId>,
}

/// Signed, and still not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// Not JSON, or no object.
    #[error("the body is not a JSON object")]
    NotJson,
    /// A part is missing or does not read.
    #[error("the event's {0} is missing or does not read")]
    Part(&'static str),
}

impl StripeEvent {
    /// Reads a signed event: one with its object as it was (`event`), or one that only names it (`v2.core.event`).
    ///
    /// Errs when id, type or time are missing. An unknown type is an event like any other.
    pub fn told(signed: Verified<'_>) -> Result<Self, NotAnEvent> {
        let event: Value = serde_json::from_slice(signed.body()).map_err(|_| NotAnEvent::NotJson)?;
        Self::read(&event)
    }

    /// Reads an event of Stripe's list, which came over our own connection.
    pub fn read(event: &Value) -> Result<Self, NotAnEvent> {
        let object = event.as_object().ok_or(NotAnEvent::NotJson)?;
        let id = object.get("id").and_then(id_of).ok_or(NotAnEvent::Part("id"))?;
        let kind = object.get("type").and_then(Value::as_str).and_then(word).ok_or(NotAnEvent::Part("type"))?;
        let created = object.get("created").and_then(time).ok_or(NotAnEvent::Part("created"))?;
        let (kind_name, about) = match event.pointer("/data/object") {
            Some(about) if object.get("object").is_some_and(|kind| kind == "event") => ("object", about),
            _ => ("type", object.get("related_object").unwrap_or(&Value::Null)),
        };
        let about_kind = about.get(kind_name).and_then(Value::as_str).and_then(word);
        let about_id = about.get("id").and_then(id_of);
        let customer = match about_kind.as_deref() {
            Some("customer") => about_id.clone(),
            _ => about.get("customer").and_then(id_of),
        };
        let object = about_kind.zip(about_id).map(|(kind, id)| ObjectRef { kind, id });
        Ok(Self { id, kind, created, object, customer, account: account_of(about) })
    }
}

/// Whose an object is, as we wrote on it when we had it made.
fn account_of(object: &Value) -> Option<AccountId> {
    let places = ["/client_reference_id", "/metadata/telbuddy_account_id"];
    // An invoice has its subscription's metadata with it.
    let of_subscription = "/parent/subscription_details/metadata/telbuddy_account_id";
    let places = places.into_iter().chain([of_subscription]);
    places.filter_map(|place| object.pointer(place)?.as_str()).find_map(|text| text.parse().ok())
}

/// An id, or the id of an object in its place.
fn id_of(value: &Value) -> Option<StripeId> {
    value.as_str().or_else(|| value.get("id")?.as_str())?.parse().ok()
}

/// A type's name: small letters, digits, dots and underscores.
fn word(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
    ((1..=100).contains(&text.len()) && text.bytes().all(plain)).then(|| text.to_owned())
}

/// Seconds since 1970, or RFC 3339 in events that only name their object.
fn time(value: &Value) -> Option<Timestamp> {
    match value {
        Value::Number(secs) => Timestamp::from_second(secs.as_i64()?).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::billing::signature::{Presented, TOLERANCE, sign, verified};

    fn told(body: &[u8]) -> Result<StripeEvent, NotAnEvent> {
        let now = Timestamp::from_second(1_793_664_000).unwrap();
        let header = sign("whsec_x", now, body);
        let presented = Presented { signature: Some(&header), body };
        StripeEvent::told(verified(&presented, &["whsec_x"], now, TOLERANCE).unwrap())
    }

    fn event(object: &Value) -> Value {
        let data = json!({ "object": object, "previous_attributes": { "name": "Ann" } });
        json!({ "id": "evt_1", "object": "event", "type": "invoice.paid", "created": 1_793_664_000, "data": data })
    }

    fn read(event: &Value) -> Result<StripeEvent, NotAnEvent> {
        told(event.to_string().as_bytes())
    }

    #[test]
    fn an_event_is_read_into_ids_and_nothing_else_of_it_is_kept() {
        let account = AccountId::from_bits(7);
        let invoice = json!({
            "id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": "ann@example.com",
            "parent": { "subscription_details": { "metadata": { ACCOUNT: account } } },
        });
        let told = read(&event(&invoice)).unwrap();
        let kept = serde_json::to_value(&told).unwrap();
        assert_eq!(
            kept,
            json!({
                "id": "evt_1", "kind": "invoice.paid", "created": "2026-11-03T00:00:00Z",
                "object": { "kind": "invoice", "id": "in_1" }, "customer": "cus_1", "account": account,
            })
        );
        assert_eq!(serde_json::from_value::<StripeEvent>(kept).unwrap(), told);
    }

    #[test]
    fn an_event_that_only_names_its_object_is_read_the_same() {
        let meter = json!({ "id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1" });
        let thin = json!({
            "id": "evt_2", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found",
            "created": "2026-11-03T00:10:00.000Z", "related_object": meter,
        });
        let told = read(&thin).unwrap();
        assert_eq!(told.object, Some(ObjectRef { kind: "billing.meter".to_owned(), id: "mtr_1".parse().unwrap() }));
        assert_eq!((told.created.as_second(), told.customer, told.account), (1_793_664_600, None, None));
    }

    #[test]
    fn a_customer_is_its_own_and_an_object_may_stand_for_its_id() {
        let customer = read(&event(&json!({ "id": "cus_1", "object": "customer", "customer": "cus_2" }))).unwrap();
        assert_eq!(customer.customer.unwrap().as_str(), "cus_1");
        let charge = json!({ "id": "ch_1", "object": "charge", "customer": { "id": "cus_3", "name": "Ann" } });
        assert_eq!(read(&event(&charge)).unwrap().customer.unwrap().as_str(), "cus_3");
    }

    #[test]
    fn an_account_is_read_only_where_we_write_it_and_only_if_it_is_one() {
        let ours = AccountId::from_bits(7);
        for (object, expected) in [
            (json!({ "client_reference_id": ours }), Some(ours)),
            (json!({ "metadata": { ACCOUNT: ours } }), Some(ours)),
            (json!({ "metadata": { ACCOUNT: "acc_of_others" }, "client_reference_id": "x" }), None),
            (json!({ "description": ours }), None),
        ] {
            assert_eq!(read(&event(&object)).unwrap().account, expected, "{object}");
        }
    }

    #[test]
    fn what_lacks_an_id_a_type_or_a_time_is_no_event_and_says_what_is_missing() {
        let good = event(&json!({ "id": "in_1", "object": "invoice" }));
        for (part, wrong) in [
            ("id", json!("evt_1/../x")),
            ("id", json!("")),
            ("id", json!("e".repeat(256))),
            ("type", json!("Invoice paid, ann@example.com")),
            ("type", json!(1)),
            ("created", json!("soon")),
            ("created", json!(i64::MAX)),
        ] {
            let mut event = good.clone();
            event[part] = wrong;
            assert_eq!(read(&event), Err(NotAnEvent::Part(part)));
            event.as_object_mut().unwrap().remove(part);
            assert_eq!(read(&event), Err(NotAnEvent::Part(part)));
        }
        for body in [&b"[]"[..], b"\"evt\"", b"{", b"\xff"] {
            assert_eq!(told(body), Err(NotAnEvent::NotJson));
        }
    }
}
