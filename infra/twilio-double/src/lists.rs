//! Pages of lists, date filters, and the small resources: caller IDs, usage, balance, keys.

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde_json::{Value, json};

use crate::errors::Refusal;
use crate::resources;
use crate::rest::{Ask, Pairs};
use crate::state::{Call, Key, Message, Tx, new_sid, now};
use crate::{API_VERSION, ROOT};

/// One page of a list, with the paths of its neighbours.
struct Page {
    rows: Vec<Value>,
    page: usize,
    size: usize,
    own: String,
    first: String,
    next: Option<String>,
    previous: Option<String>,
}

/// A token names the last row of the page before, so that new rows do not shift the pages.
fn cut(ask: &Ask, items: &[Value]) -> Page {
    let number = |name: &str| ask.query.get(name).and_then(|text| text.parse::<usize>().ok());
    let size = number("PageSize").unwrap_or(50);
    let page = number("Page").unwrap_or(0);
    let start = match ask.query.filled("PageToken").map(|token| (token.starts_with("PA"), token.get(2..))) {
        Some((forward, Some(id))) => match items.iter().position(|item| row_id(item) == id) {
            Some(at) if forward => at + 1,
            Some(at) => at.saturating_sub(size),
            None => items.len(),
        },
        _ => page.saturating_mul(size).min(items.len()),
    };
    let rows: Vec<Value> = items.iter().skip(start).take(size).cloned().collect();
    let link = |page: usize, token: Option<String>| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let kept = ask.query.0.iter().filter(|(name, _)| !matches!(&name[..], "Page" | "PageSize" | "PageToken"));
        query.extend_pairs(kept).append_pair("PageSize", &size.to_string()).append_pair("Page", &page.to_string());
        query.extend_pairs(token.iter().map(|token| ("PageToken", token)));
        format!("{}?{}", ask.path, query.finish())
    };
    let next = rows.last().filter(|_| start + rows.len() < items.len());
    let next = next.map(|row| link(page + 1, Some(format!("PA{}", row_id(row)))));
    let previous = rows.first().filter(|_| start > 0 && page > 0);
    let previous = previous.map(|row| link(page - 1, Some(format!("PB{}", row_id(row)))));
    let (own, first) = (link(page, ask.query.filled("PageToken").map(str::to_owned)), link(0, None));
    Page { rows, page, size, own, first, next, previous }
}

/// One page in the form of 2010-04-01.
pub(crate) fn page(ask: &Ask, name: &str, items: &[Value]) -> Value {
    let Page { rows, page, size, own, first, next, previous } = cut(ask, items);
    let start = page.saturating_mul(size);
    let mut answer = json!({
        "start": start,
        "end": start + rows.len().saturating_sub(1),
        "page": page,
        "page_size": size,
        "uri": own,
        "first_page_uri": first,
        "next_page_uri": next,
        "previous_page_uri": previous,
    });
    if let Some(fields) = answer.as_object_mut() {
        fields.insert(name.into(), rows.into());
    }
    answer
}

/// One page in the form of Messaging API v1.
pub(crate) fn page_of_v1(ask: &Ask, key: &str, items: &[Value]) -> Value {
    let Page { rows, page, size, own, first, next, previous } = cut(ask, items);
    let url = |path: String| format!("{}{path}", ask.double.base_url);
    json!({
        key: rows,
        "meta": {
            "page": page,
            "page_size": size,
            "first_page_url": url(first),
            "previous_page_url": previous.map(url),
            "url": url(own),
            "next_page_url": next.map(url),
            "key": key,
        },
    })
}

fn row_id(item: &Value) -> String {
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("sid") {
        "" => format!("{}{}{}", text("phone_number"), text("category"), text("start_date")),
        sid => sid.to_owned(),
    }
}

/// Does the time pass the filters `name`, `name<` and `name>`? Both bounds belong to the range.
pub(crate) fn in_range(query: &Pairs, name: &str, time: Option<Timestamp>) -> bool {
    let bound = |sign: &str| query.filled(&format!("{name}{sign}"));
    if ["", "<", ">"].iter().all(|sign| bound(sign).is_none()) {
        return true;
    }
    let Some(time) = time else { return false };
    let day = |time: Timestamp| time.to_zoned_datetime(TimeZone::UTC).date();
    let on = |text: &str| match text.parse::<Timestamp>() {
        Ok(exact) => exact.as_second() == time.as_second(),
        Err(_) => text.parse::<Date>().is_ok_and(|date| date == day(time)),
    };
    bound("").is_none_or(on)
        && bound("<").and_then(moment).is_none_or(|bound| time <= bound)
        && bound(">").and_then(moment).is_none_or(|bound| time >= bound)
}

/// A date means its midnight.
fn moment(text: &str) -> Option<Timestamp> {
    let date = || text.parse::<Date>().ok()?.to_zoned_datetime(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    text.parse().ok().or_else(date)
}

pub(crate) fn caller_ids(ask: &Ask) -> Value {
    let wanted = |number: &str| {
        let matches = |name: &str| ask.query.filled(name).is_none_or(|wanted| wanted == number);
        matches("PhoneNumber") && matches("FriendlyName")
    };
    let account = &ask.account;
    let known = account.verified.iter().filter(|(_, number)| wanted(number));
    let items: Vec<Value> = known.map(|(sid, number)| resources::caller_id(account, sid, number)).collect();
    page(ask, "outgoing_caller_ids", &items)
}

/// Category, unit, and what one message or call counts.
const CATEGORIES: [(&str, &str); 6] = [
    ("sms-outbound", "segments"),
    ("sms-inbound", "segments"),
    ("mms-outbound", "messages"),
    ("mms-inbound", "messages"),
    ("calls-outbound", "minutes"),
    ("calls-inbound", "minutes"),
];

struct Use {
    at: Timestamp,
    category: String,
    usage: i64,
    micros: i64,
}

fn uses(ask: &Ask) -> Result<Vec<Use>, Refusal> {
    let side = |direction: &str| {
        if direction == "inbound" { "inbound" } else { "outbound" }
    };
    let (messages, calls) = ask.double.store.change(|tx| {
        let account = Some(&ask.account.sid[..]);
        Ok::<_, Refusal>((tx.list::<Message>(account)?, tx.list::<Call>(account)?))
    })?;
    let messages = messages.iter().filter(|m| m.sent.is_some() || m.status == "received").map(|m| {
        let kind = if m.n_media > 0 { "mms" } else { "sms" };
        let usage = i64::from(m.n_segments);
        Use { at: m.created, category: format!("{kind}-{}", side(&m.direction)), usage, micros: usage * 7900 }
    });
    let calls = calls.iter().filter_map(|call| {
        let usage = (call.seconds()? + 59) / 60;
        let category = format!("calls-{}", side(&call.direction));
        Some(Use { at: call.created, category, usage, micros: usage * 14_000 })
    });
    Ok(messages.chain(calls).collect())
}

#[expect(clippy::cast_precision_loss, reason = "a display value of a double")]
fn dollars(micros: i64) -> f64 {
    micros as f64 / 1_000_000.0
}

/// Usage per category: of all time (`period` empty), or per period with any use.
pub(crate) fn usage(ask: &Ask, period: &str) -> Result<Value, Refusal> {
    let uses = uses(ask)?;
    let name = |at: Timestamp| at.strftime(period).to_string();
    let mut periods: Vec<String> = uses.iter().map(|one| name(one.at)).chain([name(now())]).collect();
    periods.sort();
    periods.dedup();
    let (from, to) = (ask.query.filled("StartDate"), ask.query.filled("EndDate"));
    let mut items = Vec::new();
    for period in periods.iter().rev() {
        for (category, unit) in CATEGORIES.into_iter().chain([("totalprice", "usd")]) {
            if ask.query.filled("Category").is_some_and(|wanted| wanted != category) {
                continue;
            }
            let counted: Vec<&Use> = uses
                .iter()
                .filter(|one| name(one.at) == *period && (category == "totalprice" || one.category == category))
                .filter(|one| {
                    let day = one.at.strftime("%Y-%m-%d").to_string();
                    from.is_none_or(|from| &day[..] >= from) && to.is_none_or(|to| &day[..] <= to)
                })
                .collect();
            items.push(usage_record(ask, period, category, unit, &counted));
        }
    }
    Ok(page(ask, "usage_records", &items))
}

fn usage_record(ask: &Ask, period: &str, category: &str, unit: &str, counted: &[&Use]) -> Value {
    let today = now().strftime("%Y-%m-%d").to_string();
    let created = ask.account.created.strftime("%Y-%m-%d").to_string();
    let (start, end) = match period.len() {
        10 => (period.to_owned(), period.to_owned()),
        7 => (format!("{period}-01"), last_day(period)),
        _ => (created, today),
    };
    let price = dollars(counted.iter().map(|one| one.micros).sum());
    let usage: i64 = counted.iter().map(|one| one.usage).sum();
    let is_price = category == "totalprice";
    json!({
        "account_sid": ask.account.sid,
        "api_version": API_VERSION,
        "as_of": now().strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string(),
        "category": category,
        "description": format!("twilio-double: {category}"),
        "count": counted.len().to_string(),
        "count_unit": if category.starts_with("calls") { "calls" } else { "messages" },
        "usage": if is_price { price.to_string() } else { usage.to_string() },
        "usage_unit": unit,
        "price": price,
        "price_unit": "usd",
        "start_date": start,
        "end_date": end,
        "subresource_uris": {},
        "uri": format!("{ROOT}/Accounts/{}/Usage/Records.json?Category={category}", ask.account.sid),
    })
}

fn last_day(month: &str) -> String {
    format!("{month}-01").parse::<Date>().map_or_else(|_| month.to_owned(), |day| day.last_of_month().to_string())
}

/// A hundred dollars less what was used.
pub(crate) fn balance(ask: &Ask) -> Result<Value, Refusal> {
    let spent: i64 = uses(ask)?.iter().map(|one| one.micros).sum();
    let balance = format!("{:.5}", dollars(100_000_000 - spent));
    Ok(json!({"account_sid": ask.account.sid, "balance": balance, "currency": "USD"}))
}

pub(crate) fn keys(ask: &Ask) -> Result<Value, Refusal> {
    let keys: Vec<Key> = ask.double.store.list(Some(&ask.account.sid))?;
    Ok(page(ask, "keys", &keys.iter().rev().map(resources::key).collect::<Vec<_>>()))
}

/// The only answer that shows the secret.
pub(crate) fn create_key(ask: &Ask) -> Result<Value, Refusal> {
    let key = new_key(&ask.account.sid, ask.form.filled("FriendlyName").unwrap_or_default());
    ask.double.store.change(|tx| tx.put(&key))?;
    let mut answer = resources::key(&key);
    answer
        .as_object_mut()
        .into_iter()
        .for_each(|fields| drop(fields.insert("secret".into(), key.secret.clone().into())));
    Ok(answer)
}

pub(crate) fn new_key(account: &str, name: &str) -> Key {
    let now = now();
    Key {
        sid: new_sid("SK"),
        account: account.into(),
        secret: new_sid(""),
        name: name.into(),
        created: now,
        updated: now,
    }
}

fn find_key(ask: &Ask, tx: &Tx<'_>) -> Result<Key, Refusal> {
    tx.get::<Key>(ask.sid())?.filter(|key| key.account == ask.account.sid).ok_or_else(|| ask.not_found())
}

pub(crate) fn fetch_key(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| Ok(resources::key(&find_key(ask, tx)?)))
}

pub(crate) fn update_key(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let mut key = find_key(ask, tx)?;
        if let Some(name) = ask.form.get("FriendlyName") {
            name.clone_into(&mut key.name);
        }
        key.updated = now();
        tx.put(&key)?;
        Ok(resources::key(&key))
    })
}

pub(crate) fn delete_key(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let key = find_key(ask, tx)?;
        tx.remove::<Key>(&key.sid)?;
        Ok(Value::Null)
    })
}
