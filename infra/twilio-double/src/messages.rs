//! Messages, their media and feedback.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::errors::Refusal;
use crate::magic;
use crate::progress::{count, message_moved};
use crate::resources::{self, rfc_2822};
use crate::rest::{Ask, is_e164};
use crate::state::{Account, Media, Message, Number, OptOut, Service, Tx, new_sid, now};
use crate::{ROOT, StoreError, lists, services};

const MAX_BODY: usize = 1600;

/// Accepts a message, or says why Twilio would not.
pub(crate) fn create(ask: &Ask) -> Result<Value, Refusal> {
    let now = now();
    let form = &ask.form;
    let to = form.filled("To").ok_or_else(|| Refusal::new(21604))?;
    let (from, service) = (form.filled("From"), form.filled("MessagingServiceSid"));
    if from.is_none() && service.is_none() {
        return Err(Refusal::new(21603));
    }
    if let Some(code) = magic::message_to(to).or_else(|| from.and_then(magic::message_from)) {
        return Err(Refusal::new(code));
    }
    if !is_e164(to) {
        return Err(Refusal::new(21211));
    }
    if from == Some(to) {
        return Err(Refusal::new(21266));
    }
    let body = body_of(ask)?;
    let media_urls = form.all("MediaUrl");
    if media_urls.len() > 10 || media_urls.iter().any(|url| url::Url::parse(url).is_err()) {
        return Err(Refusal::new(21620));
    }
    let status_callback = form.filled("StatusCallback").map(str::to_owned);
    if let Some(url) = &status_callback {
        ask.callable(url, 21609)?;
    }
    let send_at = send_at(ask, service, now)?;
    let status = match (send_at, service) {
        (Some(_), _) => "scheduled",
        (None, Some(_)) => "accepted",
        (None, None) => "queued",
    };
    let sid = new_sid(if media_urls.is_empty() { "SM" } else { "MM" });
    let mut message = Message {
        account: ask.account.sid.clone(),
        direction: "outbound-api".into(),
        to: to.into(),
        from: from.map(str::to_owned),
        body,
        status: status.into(),
        service: service.map(str::to_owned),
        status_callback,
        n_media: media_urls.len(),
        send_at,
        ..blank(sid, now)
    };
    if service.is_none() {
        message.n_segments = count(&message);
    }
    ask.double.store.change(|tx| {
        may_send(tx, &ask.account, &message)?;
        callback_of_service(tx, &mut message)?;
        message.reordered = message.status_callback.is_some() && ask.double.strikes_order(&message.account);
        put_media(tx, &message, media_urls.len(), "image/gif")?;
        Ok::<_, Refusal>(tx.put(&message)?)
    })?;
    ask.double.follow(message.sid.clone(), Vec::new());
    Ok(resources::message(&message))
}

/// A message of which only the SID and the time are settled.
pub(crate) fn blank(sid: String, now: Timestamp) -> Message {
    Message {
        sid,
        account: String::new(),
        direction: String::new(),
        to: String::new(),
        from: None,
        body: String::new(),
        status: String::new(),
        service: None,
        status_callback: None,
        n_segments: 0,
        n_media: 0,
        error: None,
        price: None,
        created: now,
        updated: now,
        sent: None,
        send_at: None,
        redacted: false,
        deleted: false,
        reordered: false,
    }
}

fn body_of(ask: &Ask) -> Result<String, Refusal> {
    let form = &ask.form;
    let text = form.filled("Body").unwrap_or_default();
    if text.chars().count() > MAX_BODY {
        return Err(Refusal::new(21617));
    }
    let Some(template) = form.filled("ContentSid") else {
        if text.is_empty() && form.filled("MediaUrl").is_none() {
            return Err(Refusal::new(21602));
        }
        let prefix = if ask.account.kind == "Trial" { "Sent from your Twilio trial account - " } else { "" };
        return Ok(format!("{prefix}{text}"));
    };
    let variables = form.filled("ContentVariables").unwrap_or("{}");
    if !serde_json::from_str::<Value>(variables).is_ok_and(|json| json.is_object()) {
        return Err(Refusal::new(21656));
    }
    Ok(format!("[template {template} {variables}]"))
}

fn send_at(ask: &Ask, service: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Refusal> {
    if ask.form.filled("ScheduleType").is_none() {
        return Ok(None);
    }
    if service.is_none() {
        return Err(Refusal::new(35118));
    }
    let at = ask.form.filled("SendAt").ok_or_else(|| Refusal::new(35111))?;
    let at: Timestamp = at.parse().map_err(|_| Refusal::new(35114))?;
    let ahead = at.duration_since(now);
    if ahead < SignedDuration::from_secs(300) || ahead > SignedDuration::from_hours(35 * 24) {
        return Err(Refusal::new(35114));
    }
    Ok(Some(at))
}

/// Does the sender belong to the account, and may it write to this recipient?
pub(crate) fn may_send(tx: &Tx<'_>, account: &Account, message: &Message) -> Result<(), Refusal> {
    let mut senders: Vec<String> = message.service.iter().cloned().collect();
    let service = service_of(tx, message)?;
    if service.as_ref().is_some_and(|service| service.account != account.sid) {
        return Err(Refusal::new(21705));
    }
    if let Some(from) = message.from.as_deref().filter(|from| *from != magic::GOOD) {
        let number = tx.number(from)?.ok_or_else(|| Refusal::new(21606))?;
        if number.account != account.sid {
            return Err(Refusal::new(21660));
        }
        senders.extend(number.service);
    } else if message.from.is_none() {
        let pool = match &service {
            Some(service) => services::pool(tx, service)?,
            None => tx.list::<Number>(Some(&account.sid))?,
        };
        if pool.is_empty() {
            return Err(Refusal::new(21704));
        }
    }
    senders.extend(message.from.clone());
    for sender in &senders {
        if tx.get::<OptOut>(&OptOut::key(&account.sid, sender, &message.to))?.is_some() {
            return Err(Refusal::new(21610));
        }
    }
    if account.kind == "Trial" && !account.verified.iter().any(|(_, number)| *number == message.to) {
        return Err(Refusal::new(21608));
    }
    Ok(())
}

/// The message's service, if it is one that was made: any other SID of a service is taken too, and has no settings.
pub(crate) fn service_of(tx: &Tx<'_>, message: &Message) -> Result<Option<Service>, StoreError> {
    message.service.as_deref().map_or(Ok(None), |sid| tx.get(sid))
}

/// A message without a status callback takes the one of its service.
pub(crate) fn callback_of_service(tx: &Tx<'_>, message: &mut Message) -> Result<(), StoreError> {
    if message.status_callback.is_none() {
        let service = service_of(tx, message)?;
        message.status_callback = service.and_then(|service| service.setting("status_callback").map(str::to_owned));
    }
    Ok(())
}

/// Adds `n` pieces of media to a message.
pub(crate) fn put_media(tx: &Tx<'_>, message: &Message, n: usize, content_type: &str) -> Result<Vec<Media>, Refusal> {
    let piece = || Media {
        sid: new_sid("ME"),
        account: message.account.clone(),
        message: message.sid.clone(),
        content_type: content_type.into(),
        created: message.created,
    };
    let media: Vec<Media> = std::iter::repeat_with(piece).take(n).collect();
    media.iter().try_for_each(|piece| tx.put(piece))?;
    Ok(media)
}

pub(crate) fn list(ask: &Ask) -> Result<Value, Refusal> {
    let mut messages: Vec<Message> = ask.double.store.list(Some(&ask.account.sid))?;
    messages.reverse();
    messages.retain(|message| {
        !message.deleted
            && ask.query.filled("To").is_none_or(|to| to == message.to)
            && ask.query.filled("From").is_none_or(|from| Some(from) == message.from.as_deref())
            // Not yet sent: its creation counts, so that a list for reconciliation shows it.
            && lists::in_range(&ask.query, "DateSent", message.sent.or(Some(message.created)))
    });
    Ok(lists::page(ask, "messages", &messages.iter().map(resources::message).collect::<Vec<_>>()))
}

fn find(ask: &Ask, tx: &Tx<'_>, sid: &str) -> Result<Message, Refusal> {
    let message = tx.get::<Message>(sid)?.filter(|message| message.account == ask.account.sid && !message.deleted);
    message.ok_or_else(|| ask.not_found())
}

pub(crate) fn fetch(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| Ok(resources::message(&find(ask, tx, ask.sid())?)))
}

/// Redacts (`Body` empty) or cancels (`Status=canceled`).
pub(crate) fn update(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.change(|tx| {
        let mut message = find(ask, tx, ask.sid())?;
        message.updated = now();
        match (ask.form.get("Body"), ask.form.get("Status")) {
            (Some(""), None) if !message.is_final() => return Err(Refusal::new(20009)),
            (Some(""), None) => message.redacted = true,
            (None, Some("canceled")) if message.status != "scheduled" => {
                return Err(Refusal::new(30409));
            }
            (None, Some("canceled")) => message.status = "canceled".into(),
            (None, None) => {}
            _ => return Err(Refusal::new(30400)),
        }
        tx.put(&message)?;
        if message.status == "canceled" && ask.form.get("Status").is_some() {
            return Ok(message_moved(tx, &message)?);
        }
        Ok(Vec::new())
    })?;
    fetch(ask)
}

pub(crate) fn delete(ask: &Ask) -> Result<Value, Refusal> {
    ask.double.store.change(|tx| {
        let mut message = find(ask, tx, ask.sid())?;
        if !message.is_final() {
            return Err(Refusal::new(20009));
        }
        for media in media_of(ask, tx, &message.sid)? {
            tx.remove::<Media>(&media.sid)?;
        }
        message.deleted = true;
        tx.put(&message)?;
        Ok(Value::Null)
    })
}

fn media_of(ask: &Ask, tx: &Tx<'_>, message: &str) -> Result<Vec<Media>, Refusal> {
    let mut media = tx.list::<Media>(Some(&ask.account.sid))?;
    media.retain(|media| media.message == message);
    Ok(media)
}

fn parent(ask: &Ask) -> &str {
    ask.values.get("MessageSid").unwrap_or_default()
}

pub(crate) fn list_media(ask: &Ask) -> Result<Value, Refusal> {
    let mut media = ask.double.store.change(|tx| {
        find(ask, tx, parent(ask))?;
        media_of(ask, tx, parent(ask))
    })?;
    media.retain(|media| lists::in_range(&ask.query, "DateCreated", Some(media.created)));
    Ok(lists::page(ask, "media_list", &media.iter().map(resources::media).collect::<Vec<_>>()))
}

pub(crate) fn media(ask: &Ask) -> Result<Media, Refusal> {
    let media: Option<Media> = ask.double.store.get(ask.sid())?;
    let mine = |media: &Media| media.account == ask.account.sid && media.message == parent(ask);
    media.filter(mine).ok_or_else(|| ask.not_found())
}

pub(crate) fn delete_media(ask: &Ask) -> Result<Value, Refusal> {
    let media = media(ask)?;
    ask.double.store.change(|tx| tx.remove::<Media>(&media.sid))?;
    Ok(Value::Null)
}

pub(crate) fn feedback(ask: &Ask) -> Result<Value, Refusal> {
    let message = ask.double.store.change(|tx| find(ask, tx, parent(ask)))?;
    let now = rfc_2822(now());
    Ok(json!({
        "account_sid": message.account,
        "message_sid": message.sid,
        "outcome": ask.form.filled("Outcome").unwrap_or("confirmed"),
        "date_created": now,
        "date_updated": now,
        "uri": format!("{ROOT}/Accounts/{}/Messages/{}/Feedback.json", message.account, message.sid),
    }))
}
