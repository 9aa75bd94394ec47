//! Carries messages and calls on from status to status, and their callbacks with them.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::errors::{Refusal, meaning};
use crate::faults::Kind;
use crate::magic::{self, Fate};
use crate::messages::service_of;
use crate::resources::rfc_2822;
use crate::rest::until;
use crate::state::{Account, Call, Callback, Message, Number, StoreError, Tx, new_sid, now};
use crate::{API_VERSION, Inner};

type Params = Vec<(String, String)>;

impl Inner {
    /// Goes on with a message or call until it is final; `waiting` callbacks go first.
    pub(crate) fn follow(self: &Arc<Self>, sid: String, waiting: Vec<Callback>) {
        let line = self.line(waiting);
        let double = Arc::clone(self);
        self.spawn(async move {
            if let Err(error) = double.go_on(&sid, &line).await {
                tracing::error!(%error, "twilio-double: cannot go on with {sid}");
            }
        });
    }

    async fn go_on(&self, sid: &str, line: &UnboundedSender<Callback>) -> Result<(), StoreError> {
        while let Some(wait) = self.wait(sid)? {
            tokio::time::sleep(wait).await;
            for hook in self.store.change(|tx| step(tx, sid, now()))? {
                let _ = line.send(hook);
            }
        }
        Ok(())
    }

    /// Sends callbacks one after the other, so that they keep their order: those given, then those put into the line.
    fn line(self: &Arc<Self>, first: Vec<Callback>) -> UnboundedSender<Callback> {
        let (line, mut hooks) = unbounded_channel::<Callback>();
        let double = Arc::clone(self);
        self.spawn(async move {
            for hook in first {
                double.send_in_turn(hook).await;
            }
            while let Some(hook) = hooks.recv().await {
                double.send_in_turn(hook).await;
            }
        });
        line
    }

    /// Stores a change made by REST and sends its callbacks.
    pub(crate) fn change(
        self: &Arc<Self>,
        work: impl FnOnce(&Tx<'_>) -> Result<Vec<Callback>, Refusal>,
    ) -> Result<(), Refusal> {
        drop(self.line(self.store.change(work)?));
        Ok(())
    }

    /// Do the callbacks of a new message come in the wrong order?
    pub(crate) fn strikes_order(&self, account: &str) -> bool {
        self.faults.strike(&[Kind::CallbackReordered], account).is_some()
    }

    /// A late callback leaves the line, so that the following ones overtake it.
    async fn send_in_turn(self: &Arc<Self>, hook: Callback) {
        let late = hook.is_status.then(|| self.faults.strike(&[Kind::CallbackLate], &hook.account)).flatten();
        if let Some(fault) = late {
            let double = Arc::clone(self);
            self.spawn(async move {
                tokio::time::sleep(fault.delay(5000)).await;
                double.send_stored(&hook).await;
            });
            return;
        }
        self.send_stored(&hook).await;
    }

    /// Goes on with everything a former run left unfinished.
    pub(crate) fn resume(self: &Arc<Self>) -> Result<(), StoreError> {
        let (messages, calls, hooks) = self.store.change(|tx| {
            Ok::<_, StoreError>((tx.list::<Message>(None)?, tx.list::<Call>(None)?, tx.list::<Callback>(None)?))
        })?;
        let open = messages.iter().filter(|m| !m.is_final() && !m.deleted).map(|m| (m.sid.clone(), m.reordered));
        let mut open: Vec<_> =
            open.chain(calls.iter().filter(|c| !c.is_final()).map(|c| (c.sid.clone(), false))).collect();
        for hook in &hooks {
            if !open.iter().any(|(sid, _)| *sid == hook.about) {
                open.push((hook.about.clone(), false));
            }
        }
        for (sid, reordered) in open {
            let waiting = hooks.iter().filter(|hook| hook.about == sid && !reordered).cloned().collect();
            self.follow(sid, waiting);
        }
        Ok(())
    }

    /// Time until the next step; `None` when there is none.
    fn wait(&self, sid: &str) -> Result<Option<Duration>, StoreError> {
        let delay = self.options.callback_delay;
        if sid.starts_with("CA") {
            let call: Option<Call> = self.store.get(sid)?;
            return Ok(call.filter(|call| !call.is_final()).map(|_| delay));
        }
        let message: Option<Message> = self.store.get(sid)?;
        Ok(message.filter(|message| !message.is_final()).map(|message| match message.send_at {
            Some(at) if message.status == "scheduled" => until(at),
            _ => delay,
        }))
    }
}

/// One step; the callbacks to send now are also stored.
fn step(tx: &Tx<'_>, sid: &str, now: Timestamp) -> Result<Vec<Callback>, StoreError> {
    if sid.starts_with("CA") {
        return match tx.get::<Call>(sid)? {
            Some(call) if !call.is_final() => step_call(tx, call, now),
            _ => Ok(Vec::new()),
        };
    }
    match tx.get::<Message>(sid)? {
        Some(message) if !message.is_final() => step_message(tx, message, now),
        _ => Ok(Vec::new()),
    }
}

fn step_message(tx: &Tx<'_>, mut message: Message, now: Timestamp) -> Result<Vec<Callback>, StoreError> {
    let active = tx.get::<Account>(&message.account)?.is_some_and(|account| account.status == "active");
    let fate = magic::fate(&message.to);
    let (status, error) = match message.status.as_str() {
        "accepted" | "scheduled" => {
            if choose_sender(tx, &mut message)? {
                ("queued", None)
            } else {
                ("failed", Some(21704))
            }
        }
        "queued" if !active => ("failed", Some(30002)),
        "queued" => ("sending", None),
        "sending" if fate == Fate::Unknown => ("failed", Some(30005)),
        "sending" => ("sent", None),
        _ if fate == Fate::Unreachable => ("undelivered", Some(30003)),
        _ => ("delivered", None),
    };
    status.clone_into(&mut message.status);
    message.error = error;
    message.updated = now;
    if status == "sent" {
        message.sent = Some(now);
    }
    if message.is_final() && message.sent.is_some() {
        message.price = Some(format!("-{:.5}", 0.0079 * f64::from(message.n_segments.max(1))));
    }
    tx.put(&message)?;
    message_moved(tx, &message)
}

/// Stores the callback for the message's status and returns what is to be sent now.
pub(crate) fn message_moved(tx: &Tx<'_>, message: &Message) -> Result<Vec<Callback>, StoreError> {
    let Some(url) = &message.status_callback else {
        return Ok(Vec::new());
    };
    let hook = Callback {
        sid: new_sid(""),
        account: message.account.clone(),
        about: message.sid.clone(),
        url: url.clone(),
        method: "POST".into(),
        voice: false,
        params: message_params(message),
        is_status: true,
        fallback: None,
    };
    tx.put(&hook)?;
    match (message.reordered, message.is_final()) {
        (false, _) => Ok(vec![hook]),
        (true, false) => Ok(Vec::new()),
        (true, true) => {
            let mut held = tx.list::<Callback>(Some(&message.account))?;
            held.retain(|hook| hook.about == message.sid);
            held.reverse();
            Ok(held)
        }
    }
}

/// Chooses `From` out of the service's pool and counts; false when there is no number left.
fn choose_sender(tx: &Tx<'_>, message: &mut Message) -> Result<bool, StoreError> {
    message.n_segments = count(message);
    if message.from.is_some() {
        return Ok(true);
    }
    let numbers = tx.list::<Number>(Some(&message.account))?;
    let same = |number: &&Number| number.service == message.service;
    let chosen = match service_of(tx, message)? {
        // A service that was made sends from its pool only; the pool of another SID forms by itself.
        Some(_) => numbers.iter().find(same),
        None => numbers.iter().find(same).or_else(|| numbers.iter().find(|n| n.service.is_none())).or(numbers.first()),
    };
    let Some(mut number) = chosen.cloned() else {
        return Ok(false);
    };
    if number.service.is_none() {
        number.service.clone_from(&message.service);
        tx.put(&number)?;
    }
    message.from = Some(number.number);
    Ok(true)
}

/// Segments that Twilio would bill; an MMS counts as one.
pub(crate) fn count(message: &Message) -> u32 {
    if message.n_media > 0 { 1 } else { telbuddy::message::segments::count(&message.body).segments }
}

fn message_params(message: &Message) -> Params {
    let mut params = vec![
        ("MessageSid", message.sid.clone()),
        ("SmsSid", message.sid.clone()),
        ("MessageStatus", message.status.clone()),
        ("SmsStatus", message.status.clone()),
        ("AccountSid", message.account.clone()),
        ("To", message.to.clone()),
        ("ApiVersion", API_VERSION.into()),
    ];
    params.extend(message.from.clone().map(|from| ("From", from)));
    params.extend(message.service.clone().map(|service| ("MessagingServiceSid", service)));
    if let Some(code) = message.error {
        params.push(("ErrorCode", code.to_string()));
        params.push(("ErrorMessage", meaning(code).into()));
    }
    if matches!(message.status.as_str(), "delivered" | "undelivered") {
        params.push(("RawDlrDoneDate", message.updated.strftime("%y%m%d%H%M").to_string()));
    }
    named(params)
}

fn step_call(tx: &Tx<'_>, mut call: Call, now: Timestamp) -> Result<Vec<Callback>, StoreError> {
    let inbound = call.direction == "inbound";
    let fate = if inbound { Fate::Succeeds } else { magic::fate(&call.to) };
    let mut hooks = Vec::new();
    let event = match call.status.as_str() {
        "queued" if !call.initiated => {
            call.initiated = true;
            "initiated"
        }
        "queued" => set(&mut call, "ringing", "ringing"),
        "ringing" if fate == Fate::Unreachable => set(&mut call, "no-answer", "completed"),
        "ringing" if fate == Fate::Unknown => set(&mut call, "busy", "completed"),
        "ringing" => {
            call.answered = Some(now);
            let event = set(&mut call, "in-progress", "answered");
            if !inbound {
                hooks.extend(call_hook(tx, &call)?);
            }
            event
        }
        _ => set(&mut call, "completed", "completed"),
    };
    hooks.extend(call_moved(tx, &mut call, event, now)?);
    Ok(hooks)
}

fn set(call: &mut Call, status: &str, event: &'static str) -> &'static str {
    status.clone_into(&mut call.status);
    event
}

/// The request for the call's TwiML, now that it is answered.
pub(crate) fn call_hook(tx: &Tx<'_>, call: &Call) -> Result<Option<Callback>, StoreError> {
    let Some(target) = &call.url else {
        return Ok(None);
    };
    let mut hook = hook_about(call, target, call_params(call, &call.status));
    hook.is_status = false;
    hook.fallback.clone_from(&call.fallback);
    tx.put(&hook)?;
    Ok(Some(hook))
}

/// Stores the call and, if the event was asked for, its callback.
pub(crate) fn call_moved(
    tx: &Tx<'_>,
    call: &mut Call,
    event: &str,
    now: Timestamp,
) -> Result<Option<Callback>, StoreError> {
    call.updated = now;
    if call.is_final() {
        call.ended = Some(now);
    }
    let Some(target) = call.status_callback.clone().filter(|_| call.events.iter().any(|on| on == event)) else {
        tx.put(call)?;
        return Ok(None);
    };
    // The webhook says "initiated" where the resource says "queued".
    let status = if event == "initiated" { event } else { &call.status };
    let mut params = call_params(call, status);
    params.extend(named(vec![
        ("Timestamp", rfc_2822(now)),
        ("CallbackSource", "call-progress-events".into()),
        ("SequenceNumber", call.sequence.to_string()),
    ]));
    if let Some(seconds) = call.seconds() {
        let minutes = (seconds + 59) / 60;
        params.extend(named(vec![("CallDuration", seconds.to_string()), ("Duration", minutes.to_string())]));
    }
    call.sequence += 1;
    tx.put(call)?;
    let hook = hook_about(call, &target, params);
    tx.put(&hook)?;
    Ok(Some(hook))
}

pub(crate) fn hook_about(call: &Call, (url, method): &(String, String), params: Params) -> Callback {
    Callback {
        sid: new_sid(""),
        account: call.account.clone(),
        about: call.sid.clone(),
        url: url.clone(),
        method: method.clone(),
        voice: true,
        params,
        is_status: true,
        fallback: None,
    }
}

pub(crate) fn call_params(call: &Call, status: &str) -> Params {
    named(vec![
        ("CallSid", call.sid.clone()),
        ("AccountSid", call.account.clone()),
        ("From", call.from.clone()),
        ("To", call.to.clone()),
        ("Caller", call.from.clone()),
        ("Called", call.to.clone()),
        ("CallStatus", status.to_owned()),
        ("Direction", call.direction.clone()),
        ("ApiVersion", API_VERSION.into()),
    ])
}

pub(crate) fn named(params: Vec<(&str, String)>) -> Params {
    params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
