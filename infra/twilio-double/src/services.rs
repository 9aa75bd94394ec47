//! Messaging Services and the numbers in their pools.

use serde_json::{Map, Value, json};

use crate::errors::Refusal;
use crate::rest::Ask;
use crate::state::{Number, Service, Tx, now};
use crate::{lists, resources};

pub(crate) fn list(ask: &Ask) -> Result<Value, Refusal> {
    let mut services: Vec<Service> = ask.double.store.list(Some(&ask.account.sid))?;
    services.reverse();
    let base = &ask.double.base_url;
    let items: Vec<Value> = services.iter().map(|service| resources::service(service, base)).collect();
    Ok(lists::page_of_v1(ask, "services", &items))
}

pub(crate) fn fetch(ask: &Ask) -> Result<Value, Refusal> {
    let service = ask.double.store.change(|tx| find(ask, tx, ask.sid()))?;
    Ok(resources::service(&service, &ask.double.base_url))
}

pub(crate) fn update(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let mut service = find(ask, tx, ask.sid())?;
        let settings = settings(&resources::service(&service, ""), &ask.form.0);
        ask.callable_or_known(&settings, &service.had)?;
        service.set(settings, now());
        tx.put(&service)?;
        Ok(resources::service(&service, &ask.double.base_url))
    })
}

/// The form's fields in the types of the answer; an empty URL is null.
fn settings(answer: &Value, form: &[(String, String)]) -> Map<String, Value> {
    let value = |name: &str, text: &str| match answer.get(name) {
        Some(Value::Bool(_)) => Value::Bool(text == "true"),
        Some(Value::Number(_)) => text.parse::<u32>().map_or(Value::Null, Value::from),
        _ if text.is_empty() && resources::is_url(name) => Value::Null,
        _ => text.into(),
    };
    form.iter()
        .map(|(name, text)| (resources::snake_case(name), text))
        .map(|(n, text)| (n.clone(), value(&n, text)))
        .collect()
}

pub(crate) fn list_numbers(ask: &Ask) -> Result<Value, Refusal> {
    let sid = ask.values.get("ServiceSid").unwrap_or_default();
    let mut numbers = ask.double.store.change(|tx| {
        let service = find(ask, tx, sid)?;
        Ok::<_, Refusal>(pool(tx, &service)?)
    })?;
    numbers.reverse();
    let items: Vec<Value> = numbers.iter().map(|number| in_pool(ask, sid, number)).collect();
    Ok(lists::page_of_v1(ask, "phone_numbers", &items))
}

/// The numbers that send for the service.
pub(crate) fn pool(tx: &Tx<'_>, service: &Service) -> Result<Vec<Number>, crate::StoreError> {
    let mut numbers = tx.list::<Number>(Some(&service.account))?;
    numbers.retain(|number| number.service.as_deref() == Some(&service.sid));
    Ok(numbers)
}

fn in_pool(ask: &Ask, service: &str, number: &Number) -> Value {
    json!({
        "sid": number.sid,
        "account_sid": number.account,
        "service_sid": service,
        "date_created": resources::iso_8601(number.created),
        "date_updated": resources::iso_8601(number.updated),
        "phone_number": number.number,
        "country_code": number.number.starts_with("+1").then_some("US"),
        "capabilities": ["Voice", "SMS", "MMS"],
        "url": format!("{}/v1/Services/{service}/PhoneNumbers/{}", ask.double.base_url, number.sid),
    })
}

fn find(ask: &Ask, tx: &Tx<'_>, sid: &str) -> Result<Service, Refusal> {
    let service = tx.get::<Service>(sid)?.filter(|service| service.account == ask.account.sid);
    service.ok_or_else(|| ask.not_found())
}
