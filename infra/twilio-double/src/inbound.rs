//! Plays texts and calls that arrive: stores them, asks the webhook of the number or of its Messaging Service, carries
//! out `<Message>` answers.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::callbacks::Reply;
use crate::errors::Refusal;
use crate::messages::{blank, callback_of_service, may_send, put_media, service_of};
use crate::progress::{call_moved, call_params, count, hook_about, named};
use crate::state::{Account, Call, Callback, Message, Number, OptOut, Service, Tx, new_sid, now};
use crate::{API_VERSION, Inner, ROOT};

/// A text that arrives.
pub(crate) struct Text {
    pub from: String,
    pub to: String,
    pub body: String,
    pub n_media: usize,
    pub opt_out_type: Option<String>,
    pub service: Option<String>,
}

/// Stores the text, tells the number's `SmsUrl` or its service, and answers with what that said. `Err` is for the
/// person who asked.
pub(crate) async fn text(double: &Arc<Inner>, text: Text) -> Result<Value, String> {
    let (message, hook) = double.store.change(|tx| arrive(tx, double, &text)).map_err(Refusal::text)?;
    let hook = match hook {
        Ok(hook) => hook,
        Err(note) => return Ok(untold(json!({"message_sid": message.sid}), &note)),
    };
    let outcome = double.send_or_fall_back(&hook).await;
    if let Ok(reply) = outcome.as_ref().map(|reply| replies(&reply.body)) {
        for body in reply {
            answer(double, &message, body);
        }
    }
    Ok(told(json!({"message_sid": message.sid}), outcome))
}

/// The message, and its webhook or why there is none.
type Arrived = (Message, Result<Callback, String>);

fn arrive(tx: &Tx<'_>, double: &Inner, text: &Text) -> Result<Arrived, Refusal> {
    let (number, account) = owner(tx, &text.to)?;
    let service = text.service.clone().or_else(|| number.service.clone());
    let mut message = Message {
        account: account.sid.clone(),
        direction: "inbound".into(),
        from: Some(text.from.clone()),
        to: text.to.clone(),
        body: text.body.clone(),
        status: "received".into(),
        service,
        n_media: text.n_media,
        sent: Some(now()),
        ..blank(new_sid(if text.n_media > 0 { "MM" } else { "SM" }), now())
    };
    message.n_segments = count(&message);
    tx.put(&message)?;
    let media = put_media(tx, &message, text.n_media, "image/gif")?;
    note_opt_out(tx, &message, text)?;

    let mut params = named(vec![
        ("MessageSid", message.sid.clone()),
        ("SmsSid", message.sid.clone()),
        ("SmsMessageSid", message.sid.clone()),
        ("AccountSid", message.account.clone()),
        ("From", text.from.clone()),
        ("To", text.to.clone()),
        ("Body", text.body.clone()),
        ("NumMedia", text.n_media.to_string()),
        ("NumSegments", message.n_segments.to_string()),
        ("SmsStatus", "received".into()),
        ("ApiVersion", API_VERSION.into()),
        ("FromCity", String::new()),
        ("FromCountry", "US".into()),
        ("ToCity", String::new()),
        ("ToCountry", "US".into()),
    ]);
    params.extend(message.service.clone().map(|sid| ("MessagingServiceSid".into(), sid)));
    params.extend(text.opt_out_type.clone().map(|kind| ("OptOutType".into(), kind)));
    for (n, piece) in media.iter().enumerate() {
        let (account, parent, sid) = (&piece.account, &piece.message, &piece.sid);
        let url = format!("{}{ROOT}/Accounts/{account}/Messages/{parent}/Media/{sid}", double.base_url);
        params.push((format!("MediaUrl{n}"), url));
        params.push((format!("MediaContentType{n}"), piece.content_type.clone()));
    }
    let service = service_of(tx, &message)?.filter(|service| service.account == account.sid);
    let hook = text_targets(&number, service.as_ref()).map(|((url, method), fallback)| Callback {
        sid: new_sid(""),
        account: account.sid.clone(),
        about: message.sid.clone(),
        url,
        method,
        voice: false,
        params,
        is_status: false,
        fallback,
    });
    Ok((message, hook))
}

/// URL and method.
type Target = (String, String);

/// Whom a text is told, and whom when that fails: the service, or the number's own URLs when there is no service, it
/// is not one that was made, or it defers to its numbers. `Err` says what to set. A text that nobody is told of is
/// stored all the same (Twilio documents that it drops one if the service's `inbound_request_url` is null).
fn text_targets(number: &Number, service: Option<&Service>) -> Result<(Target, Option<Target>), String> {
    let Some(service) = service.filter(|service| !service.defers_to_number()) else {
        return target(number, "sms").map(|first| (first, target(number, "sms_fallback").ok()));
    };
    let of_service = |url: &str, method: &str| {
        let url = service.setting(url)?.to_owned();
        Some((url, service.setting(method).unwrap_or("POST").to_owned()))
    };
    let sid = &service.sid;
    let none = || format!("{sid} has no InboundRequestUrl: set it with POST /v1/Services/{sid}");
    let first = of_service("inbound_request_url", "inbound_method").ok_or_else(none)?;
    Ok((first, of_service("fallback_url", "fallback_method")))
}

fn owner(tx: &Tx<'_>, to: &str) -> Result<(Number, Account), Refusal> {
    let say = |text: String| Refusal::saying(20404, text);
    let number = tx.number(to)?;
    let number =
        number.ok_or_else(|| say(format!("no account of the double owns {to}: take one of GET /_local/twilio")))?;
    let account = tx.get::<Account>(&number.account)?.filter(|account| account.status == "active");
    let account = account.ok_or_else(|| say(format!("the account of {to} is not active: Twilio drops this")))?;
    Ok((number, account))
}

/// A number's webhook: `sms`, `sms_fallback`, `voice`, `voice_fallback`. `Err` says what to set. Where an application
/// or a trunk is set, Twilio does not look at the URLs; the double has neither, so then nobody is asked.
fn target(number: &Number, name: &str) -> Result<Target, String> {
    let path = format!("{ROOT}/Accounts/{}/IncomingPhoneNumbers/{}.json", number.account, number.sid);
    let (kind, others) = match name.strip_prefix("sms") {
        Some(_) => ("Sms", &["sms_application_sid"][..]),
        None => ("Voice", &["voice_application_sid", "trunk_sid"][..]),
    };
    if let Some(other) = others.iter().find_map(|other| number.setting(other)) {
        return Err(format!(
            "{} leaves this to {other}, which the double has not: clear it with POST {path}",
            number.number
        ));
    }
    let none = || format!("{} has no {kind}Url: set it with POST {path}", number.number);
    let url = number.setting(&format!("{name}_url")).ok_or_else(none)?;
    Ok((url.to_owned(), number.setting(&format!("{name}_method")).unwrap_or("POST").to_owned()))
}

/// STOP blocks the number and its Messaging Service for this recipient, START lifts that.
fn note_opt_out(tx: &Tx<'_>, message: &Message, text: &Text) -> Result<(), Refusal> {
    let word = text.opt_out_type.clone().unwrap_or_else(|| text.body.trim().to_uppercase());
    let senders = message.service.iter().chain([&message.to]);
    for sender in senders {
        let sid = OptOut::key(&message.account, sender, &text.from);
        match &word[..] {
            "STOP" | "STOPALL" | "UNSUBSCRIBE" | "CANCEL" | "END" | "QUIT" | "REVOKE" | "OPTOUT" => {
                tx.put(&OptOut { sid, account: message.account.clone() })?;
            }
            "START" | "UNSTOP" => drop(tx.remove::<OptOut>(&sid)?),
            _ => {}
        }
    }
    Ok(())
}

/// Sends one `<Message>` of a TwiML answer, unless Twilio would refuse it.
fn answer(double: &Arc<Inner>, to: &Message, body: String) {
    let mut reply = Message {
        account: to.account.clone(),
        direction: "outbound-reply".into(),
        from: Some(to.to.clone()),
        to: to.from.clone().unwrap_or_default(),
        body,
        status: "queued".into(),
        service: to.service.clone(),
        ..blank(new_sid("SM"), now())
    };
    reply.n_segments = count(&reply);
    let stored = double.store.change(|tx| {
        let account = tx.get::<Account>(&reply.account)?.ok_or_else(|| Refusal::new(20404))?;
        may_send(tx, &account, &reply)?;
        callback_of_service(tx, &mut reply)?;
        Ok::<_, Refusal>(tx.put(&reply)?)
    });
    match stored {
        Ok(()) => double.follow(reply.sid, Vec::new()),
        Err(refusal) => tracing::warn!(code = refusal.code, "twilio-double: a TwiML reply is refused"),
    }
}

/// Texts of the `<Message>` verbs, at most ten as with Twilio. Enough of XML for TwiML that programs write.
fn replies(twiml: &str) -> Vec<String> {
    let mut texts = Vec::new();
    if !twiml.contains("<Response") {
        return texts;
    }
    for part in twiml.split("<Message").skip(1).take(10) {
        let Some((attributes, rest)) = part.split_once('>') else {
            continue;
        };
        if attributes.ends_with('/') || !(attributes.is_empty() || attributes.starts_with(char::is_whitespace)) {
            continue;
        }
        let inner = rest.split("</Message>").next().unwrap_or_default();
        let body = inner.split_once("<Body>").map_or(inner, |(_, rest)| rest);
        let body = body.split("</Body>").next().unwrap_or_default();
        texts.push(unescape(body.split('<').next().unwrap_or_default()));
    }
    texts
}

fn unescape(text: &str) -> String {
    let plain = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    plain.replace("&#39;", "'").replace("&amp;", "&")
}

/// Stores a call that arrives, asks the number's `VoiceUrl`, and lets the call run its course.
pub(crate) async fn call(double: &Arc<Inner>, from: &str, to: &str) -> Result<Value, String> {
    let ring = |tx: &Tx<'_>| {
        let (number, account) = owner(tx, to)?;
        let voice_url = target(&number, "voice");
        let now = now();
        let mut call = Call {
            sid: new_sid("CA"),
            account: account.sid,
            direction: "inbound".into(),
            to: to.into(),
            from: from.into(),
            status: "ringing".into(),
            url: voice_url.clone().ok(),
            fallback: target(&number, "voice_fallback").ok(),
            status_callback: number
                .setting("status_callback")
                .map(|url| (url.to_owned(), number.setting("status_callback_method").unwrap_or("POST").to_owned())),
            events: vec!["completed".into()],
            sequence: 0,
            initiated: true,
            created: now,
            updated: now,
            answered: None,
            ended: None,
        };
        call_moved(tx, &mut call, "ringing", now)?;
        Ok::<_, Refusal>((call, voice_url))
    };
    let (call, voice_url) = double.store.change(ring).map_err(Refusal::text)?;
    let sid = json!({"call_sid": call.sid});
    let voice_url = match voice_url {
        Ok(target) => target,
        Err(note) => {
            double.follow(call.sid, Vec::new());
            return Ok(untold(sid, &note));
        }
    };
    let mut hook = hook_about(&call, &voice_url, call_params(&call, "ringing"));
    hook.fallback.clone_from(&call.fallback);
    let outcome = double.send_or_fall_back(&hook).await;
    double.follow(call.sid, Vec::new());
    Ok(told(sid, outcome))
}

fn told(mut answer: Value, outcome: Result<Reply, String>) -> Value {
    let more = match outcome {
        Ok(reply) => json!({"webhook_status": reply.status, "webhook_body": reply.body}),
        Err(error) => {
            json!({"webhook_status": null, "webhook_body": null, "note": format!("no answer: {error}")})
        }
    };
    merge(&mut answer, more);
    answer
}

fn untold(mut answer: Value, note: &str) -> Value {
    merge(&mut answer, json!({"webhook_status": null, "webhook_body": null, "note": note}));
    answer
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (into.as_object_mut(), more) {
        fields.extend(more);
    }
}
