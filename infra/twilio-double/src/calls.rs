//! Calls: made, listed, ended. TwiML is fetched but its verbs are not carried out.

use serde_json::Value;

use crate::errors::Refusal;
use crate::progress::{call_hook, call_moved};
use crate::rest::{Ask, Pairs, is_e164};
use crate::state::{Call, Tx, new_sid, now};
use crate::{lists, magic, resources};

/// A URL of the form with its method.
fn target(form: &Pairs, url: &str, method: &str) -> Option<(String, String)> {
    let method = form.filled(method).unwrap_or("POST");
    form.filled(url).map(|url| (url.to_owned(), method.to_owned()))
}

pub(crate) fn create(ask: &Ask) -> Result<Value, Refusal> {
    let now = now();
    let form = &ask.form;
    let to = form.filled("To").ok_or_else(|| Refusal::new(21201))?;
    let from = form.filled("From").ok_or_else(|| Refusal::new(21213))?;
    if let Some(code) = magic::call_to(to).or_else(|| magic::call_from(from)) {
        return Err(Refusal::new(code));
    }
    if !is_e164(to) {
        return Err(Refusal::new(21217));
    }
    if ["Url", "Twiml", "ApplicationSid"].iter().all(|name| form.filled(name).is_none()) {
        return Err(Refusal::new(21205));
    }
    for url in ["Url", "FallbackUrl", "StatusCallback"].iter().filter_map(|name| form.filled(name)) {
        ask.callable(url, 21205)?;
    }
    let mut events: Vec<String> = form.all("StatusCallbackEvent").into_iter().map(str::to_owned).collect();
    if events.is_empty() {
        events.push("completed".into());
    }
    let call = Call {
        sid: new_sid("CA"),
        account: ask.account.sid.clone(),
        direction: "outbound-api".into(),
        to: to.into(),
        from: from.into(),
        status: "queued".into(),
        url: target(form, "Url", "Method"),
        fallback: target(form, "FallbackUrl", "FallbackMethod"),
        status_callback: target(form, "StatusCallback", "StatusCallbackMethod"),
        events,
        sequence: 0,
        initiated: false,
        created: now,
        updated: now,
        answered: None,
        ended: None,
    };
    ask.double.store.change(|tx| {
        let verified = |number: &str| ask.account.verified.iter().any(|(_, known)| known == number);
        let owned = tx.number(from)?.is_some_and(|number| number.account == ask.account.sid);
        if !owned && !verified(from) && from != magic::GOOD {
            return Err(Refusal::new(21210));
        }
        if ask.account.kind == "Trial" && !verified(to) {
            return Err(Refusal::new(21219));
        }
        Ok(tx.put(&call)?)
    })?;
    ask.double.follow(call.sid.clone(), Vec::new());
    Ok(resources::call(&call))
}

pub(crate) fn list(ask: &Ask) -> Result<Value, Refusal> {
    let query = &ask.query;
    let mut calls: Vec<Call> = ask.double.store.list(Some(&ask.account.sid))?;
    calls.reverse();
    calls.retain(|call| {
        query.filled("To").is_none_or(|to| to == call.to)
            && query.filled("From").is_none_or(|from| from == call.from)
            && query.filled("Status").is_none_or(|status| status == call.status)
            && query.filled("ParentCallSid").is_none()
            && lists::in_range(query, "StartTime", call.answered)
            && lists::in_range(query, "EndTime", call.ended)
    });
    Ok(lists::page(ask, "calls", &calls.iter().map(resources::call).collect::<Vec<_>>()))
}

fn find(ask: &Ask, tx: &Tx<'_>) -> Result<Call, Refusal> {
    let call = tx.get::<Call>(ask.sid())?.filter(|call| call.account == ask.account.sid);
    call.ok_or_else(|| ask.not_found())
}

pub(crate) fn fetch(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| Ok(resources::call(&find(ask, tx)?)))
}

/// Ends a call, or sends it to other TwiML.
pub(crate) fn update(ask: &Ask) -> Result<Value, Refusal> {
    let form = &ask.form;
    for url in ["Url", "FallbackUrl", "StatusCallback"].iter().filter_map(|name| form.filled(name)) {
        ask.callable(url, 21205)?;
    }
    ask.double.change(|tx| {
        let mut call = find(ask, tx)?;
        if call.is_final() {
            return Err(Refusal::new(21220));
        }
        if let Some(target) = target(form, "StatusCallback", "StatusCallbackMethod") {
            call.status_callback = Some(target);
        }
        let new_url = target(form, "Url", "Method");
        let hook = match (form.filled("Status"), new_url) {
            // Only a call that nobody has answered can be canceled.
            (Some("canceled"), _) if call.answered.is_some() => return Err(Refusal::new(21220)),
            (Some(status), _) => {
                status.clone_into(&mut call.status);
                call_moved(tx, &mut call, "completed", now())?
            }
            (None, Some(url)) => {
                call.url = Some(url);
                tx.put(&call)?;
                if call.answered.is_some() { call_hook(tx, &call)? } else { None }
            }
            (None, None) => {
                tx.put(&call)?;
                None
            }
        };
        Ok(hook.into_iter().collect())
    })?;
    fetch(ask)
}
