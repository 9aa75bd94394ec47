//! Numbers of an account, and numbers to buy.

use serde_json::{Map, Value};

use crate::errors::Refusal;
use crate::rest::{Ask, is_e164};
use crate::state::{Number, Tx, new_number, now};
use crate::{lists, magic, resources};

/// Buys a number: a certain one, or any of an area code.
pub(crate) fn buy(ask: &Ask) -> Result<Value, Refusal> {
    let now = now();
    let wanted = match (ask.form.filled("PhoneNumber"), ask.form.filled("AreaCode")) {
        (Some(number), _) => number.to_owned(),
        (None, Some(code)) if magic::area_code(code).is_some() => return Err(Refusal::new(21452)),
        (None, Some(code)) if code.len() != 3 || code.parse::<u16>().is_err() => {
            return Err(Refusal::new(21451));
        }
        (None, Some(code)) => new_number(code),
        (None, None) => return Err(Refusal::new(21421)),
    };
    if let Some(code) = magic::purchase(&wanted) {
        return Err(Refusal::new(code));
    }
    if !is_e164(&wanted) {
        return Err(Refusal::new(21421));
    }
    let mut number = Number::new(&ask.account.sid, &wanted, now);
    number.set(settings(ask, &number)?, now);
    ask.double.store.change(|tx| {
        if number.number != magic::GOOD && tx.number(&number.number)?.is_some() {
            return Err(Refusal::new(21422));
        }
        Ok(tx.put(&number)?)
    })?;
    Ok(resources::number(&number))
}

fn settings(ask: &Ask, number: &Number) -> Result<Map<String, Value>, Refusal> {
    let settings = resources::settings(&ask.form.0);
    ask.callable_or_known(&settings, &number.had)?;
    Ok(settings)
}

pub(crate) fn list(ask: &Ask) -> Result<Value, Refusal> {
    let mut numbers: Vec<Number> = ask.double.store.list(Some(&ask.account.sid))?;
    numbers.reverse();
    let query = &ask.query;
    numbers.retain(|number| {
        let name = number.setting("friendly_name").unwrap_or(&number.number);
        query.filled("PhoneNumber").is_none_or(|part| matches(&number.number, part))
            && query.filled("FriendlyName").is_none_or(|wanted| wanted == name)
            && query.filled("Beta").is_none_or(|beta| beta == "false")
            && query.filled("Origin").is_none_or(|origin| origin == "twilio")
    });
    Ok(lists::page(ask, "incoming_phone_numbers", &numbers.iter().map(resources::number).collect::<Vec<_>>()))
}

/// Does the pattern stand somewhere in the number? A `*` is any digit.
fn matches(number: &str, pattern: &str) -> bool {
    let fits =
        |part: &[u8]| part.iter().zip(pattern.as_bytes()).all(|(digit, wanted)| digit == wanted || *wanted == b'*');
    pattern.is_empty() || number.as_bytes().windows(pattern.len()).any(fits)
}

fn find(ask: &Ask, tx: &Tx<'_>) -> Result<Number, Refusal> {
    let number = tx.get::<Number>(ask.sid())?.filter(|number| number.account == ask.account.sid);
    number.ok_or_else(|| ask.not_found())
}

pub(crate) fn fetch(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| Ok(resources::number(&find(ask, tx)?)))
}

pub(crate) fn update(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let mut number = find(ask, tx)?;
        number.set(settings(ask, &number)?, now());
        tx.put(&number)?;
        Ok(resources::number(&number))
    })
}

pub(crate) fn delete(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let number = find(ask, tx)?;
        tx.remove::<Number>(&number.sid)?;
        Ok(Value::Null)
    })
}

/// Numbers to buy: new ones with each request, in the United States and Canada only.
pub(crate) fn available(ask: &Ask, area: Option<&str>) -> Result<Value, Refusal> {
    let country = ask.values.get("CountryCode").unwrap_or_default();
    if !matches!(country, "US" | "CA") {
        return Err(ask.not_found());
    }
    let area = area.or(ask.query.filled("AreaCode")).unwrap_or("415");
    let n = if magic::area_code(area).is_some() { 0 } else { 20 };
    let mut numbers: Vec<String> = (0..n).map(|_| new_number(area)).collect();
    if let Some(part) = ask.query.filled("Contains") {
        numbers.retain(|number| number.contains(part.trim_matches('*')));
    }
    let items: Vec<Value> = numbers.iter().map(|number| resources::available(number, country)).collect();
    Ok(lists::page(ask, "available_phone_numbers", &items))
}
