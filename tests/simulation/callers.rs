//! Who calls: programs that send messages and repeat what they got no answer to, people who take them back, Twilio.

use std::collections::BTreeMap;

use http::{HeaderName, Method, header};
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus as Dice;
use serde_json::{Value, json};
use telbuddy::edge::{Reply, Request};
use telbuddy::ids::{AccountId, MessageId, SessionId};
use telbuddy::inbound::signature::sign;
use telbuddy::ledger::MicroCredits;
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::session::{KeepSessions, Session, TOKEN_PREFIX};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, OWN};
use telbuddy::testing::setup::{Customer, request, site, with_header};

use super::invariants::Invariant;
use super::machine::{Event, Hub, State};
use super::ports::at_once;
use super::twilio::SimulatedTwilio;

/// A mark in every text that is sent: nothing of it may be left in clear (promise N1).
pub const MARK: &str = "Zebra-7731";

const CUSTOMERS: usize = 3;
const AREAS: [&str; 12] = ["206", "212", "303", "310", "312", "404", "415", "503", "512", "602", "617", "702"];
/// Repeats of one request, at most; in calm weather the first is answered.
const MOST_TRIES: u32 = 40;

/// What a request asks for.
#[derive(Clone, PartialEq, Eq)]
enum Wish {
    /// Messages with this text to these.
    Send { to: Vec<String>, text: String },
    /// That this message is sent again.
    Resend(MessageId),
    /// That it is not.
    Drop(MessageId),
}

/// A request, and how far it has come.
struct Ask {
    customer: usize,
    key: String,
    wish: Wish,
    body: String,
    at: Timestamp,
    /// It is made twice at the same time.
    twice: bool,
    /// Its first message is taken back so long after the answer.
    cancel_after: Option<SignedDuration>,
    tries: u32,
    open: u32,
    /// What was answered: a message for each recipient who gets one.
    answer: Option<Vec<Option<MessageId>>>,
    refused: Option<u16>,
}

/// A text that somebody sends to a customer.
struct Text {
    customer: usize,
    sid: String,
    from: String,
    body: &'static str,
    at: Timestamp,
    times: u32,
    open: u32,
    taken: bool,
}

pub struct Callers {
    customers: Vec<Customer>,
    asks: Vec<Ask>,
    texts: Vec<Text>,
    /// Whether some messages say the same to the same.
    alike: bool,
}

/// A number in the United States, far from the others: neighbours would look like pumping.
fn number(dice: &mut Dice) -> String {
    let area = AREAS[dice.random_range(0..AREAS.len())];
    format!("+1{area}{}{:06}", dice.random_range(2..10), dice.random_range(0..1_000_000))
}

fn words(dice: &mut Dice, n: usize) -> String {
    match dice.random_range(0..10) {
        0 => format!("{MARK} {n} {}", "again and ".repeat(20)),
        1 => format!("{MARK} {n} \u{1f382}"),
        _ => format!("{MARK} {n}"),
    }
}

impl Callers {
    pub fn new(world: &World, n_messages: usize, now: Timestamp, dice: &mut Dice) -> Self {
        let mut customers = Vec::new();
        for _ in 0..CUSTOMERS.min(n_messages) {
            let made = world.clone();
            customers.push(at_once(Box::pin(async move { Ok(Customer::new(&made).await) })).unwrap());
        }
        // Some have less than they want to send.
        let plenty = u64::try_from(n_messages).unwrap() * 4 + 100;
        for customer in &customers {
            let credit = if dice.random_range(0..5) == 0 { plenty / 20 } else { plenty };
            world.change_allowance(customer.account, |allowance| allowance.free = MicroCredits::whole(credit).plus());
            let rate = if dice.random() { 1 } else { 100 };
            world.change_gate(customer.account, |gate| {
                gate.daily_ceiling = 1_000_000;
                gate.sender_rates.insert(OWN.to_owned(), rate);
            });
        }
        let span = i64::try_from(n_messages).unwrap() * 1_500;
        let alike = dice.random_range(0..3) == 0;
        let mut callers = Self { customers, asks: Vec::new(), texts: Vec::new(), alike };
        let mut left = n_messages;
        while left > 0 {
            let many = dice.random_range(0..5) == 0 && left > 1;
            let n = if many { left.min(dice.random_range(2..=30)) } else { 1 };
            left -= n;
            let at = now + SignedDuration::from_millis(dice.random_range(0..=span));
            let ask = callers.new_ask(n, many, at, dice);
            callers.asks.push(ask);
        }
        for n in 0..n_messages / 10 {
            let at = now + SignedDuration::from_millis(dice.random_range(0..=span));
            let body = ["hello", "STOP", "START"][dice.random_range(0..3)];
            let customer = dice.random_range(0..callers.customers.len());
            let sid = format!("SM{:032x}", 0xffff_0000_0000_u64 + u64::try_from(n).unwrap());
            // Often it is somebody who is written to.
            let (mut from, times) = (number(dice), dice.random_range(1..=3));
            let ask = &callers.asks[dice.random_range(0..callers.asks.len())];
            if let (Wish::Send { to, .. }, true, true) = (&ask.wish, ask.customer == customer, dice.random()) {
                from.clone_from(&to[0]);
            }
            callers.texts.push(Text { customer, sid, from, body, at, times, open: 0, taken: false });
        }
        callers
    }

    fn new_ask(&self, n: usize, many: bool, at: Timestamp, dice: &mut Dice) -> Ask {
        let mut to: Vec<_> = (0..n).map(|_| number(dice)).collect();
        let mut text = words(dice, self.asks.len());
        let mut customer = dice.random_range(0..self.customers.len());
        if many && dice.random_range(0..4) == 0 {
            to.push(to[0].clone());
            to.push("no number".to_owned());
        }
        // The same to the same, under another key: that is another message.
        if self.alike
            && !many
            && dice.random_range(0..3) == 0
            && let Some(Ask { wish: Wish::Send { to: before, text: said }, customer: who, .. }) = self.asks.last()
        {
            (to, text, customer) = (vec![before[0].clone()], said.clone(), *who);
        }
        let mut body = json!({"from": OWN, "body": text});
        body["to"] = if many { json!(to) } else { json!(to[0]) };
        if dice.random_range(0..6) == 0 {
            let until = at + SignedDuration::from_secs(dice.random_range(60..2_000));
            body["send_at"] = json!(until.to_string());
        }
        if dice.random_range(0..10) == 0 {
            body["validity_seconds"] = json!(dice.random_range(60..600));
        }
        let cancel = dice.random_range(0..8) == 0;
        Ask {
            customer,
            key: format!("key-{}", self.asks.len()),
            wish: Wish::Send { to, text },
            body: body.to_string(),
            at,
            twice: dice.random_range(0..10) == 0,
            cancel_after: cancel.then(|| SignedDuration::from_millis(dice.random_range(0..20_000))),
            tries: 0,
            open: 0,
            answer: None,
            refused: None,
        }
    }

    /// People decide about what could not be confirmed: again, or not; or they leave it. Some click twice.
    pub fn decide(state: &mut State) {
        for (account, message) in std::mem::take(&mut state.watch.to_decide) {
            let customer = state.callers.customers.iter().position(|customer| customer.account == account).unwrap();
            for _ in 0..state.dice.random_range(0..3) {
                let wish = if state.dice.random() { Wish::Resend(message) } else { Wish::Drop(message) };
                let word = if wish == Wish::Resend(message) { "resend" } else { "drop" };
                let (key, at) = (format!("key-{}", state.callers.asks.len()), state.now);
                let body = json!({"decision": word}).to_string();
                let twice = state.dice.random();
                let n = state.callers.asks.len();
                state.callers.asks.push(Ask {
                    customer,
                    key,
                    wish,
                    body,
                    at,
                    twice,
                    cancel_after: None,
                    tries: 0,
                    open: 0,
                    answer: None,
                    refused: None,
                });
                Self::plan_ask(state, n);
            }
        }
    }

    /// What was asked for with a message: for whom, to whom, with what text.
    pub fn intents(&self) -> BTreeMap<MessageId, (AccountId, String, String)> {
        let mut intents = BTreeMap::new();
        // A resend comes after what it sends again.
        for ask in &self.asks {
            let account = self.customers[ask.customer].account;
            for (at, id) in ask.answer.iter().flatten().enumerate().filter_map(|(at, id)| Some((at, (*id)?))) {
                let intent = match &ask.wish {
                    Wish::Send { to, text } => (account, to[at].clone(), text.clone()),
                    Wish::Resend(before) | Wish::Drop(before) => {
                        intents.get(before).cloned().unwrap_or((account, String::new(), String::new()))
                    }
                };
                intents.insert(id, intent);
            }
        }
        intents
    }

    /// Messages that more than one request was told to have sent again.
    pub fn resent_twice(&self) -> Vec<MessageId> {
        let mut resent: BTreeMap<MessageId, usize> = BTreeMap::new();
        for ask in self.asks.iter().filter(|ask| ask.answer.is_some()) {
            if let Wish::Resend(before) = ask.wish {
                *resent.entry(before).or_default() += 1;
            }
        }
        resent.into_iter().filter(|(_, n)| *n > 1).map(|(message, _)| message).collect()
    }

    /// The last request that is made.
    pub fn last(&self) -> Timestamp {
        let asks = self.asks.iter().map(|ask| ask.at);
        asks.chain(self.texts.iter().map(|text| text.at)).max().unwrap()
    }

    pub fn accounts(&self) -> Vec<AccountId> {
        self.customers.iter().map(|customer| customer.account).collect()
    }

    /// Messages that somebody was told of.
    pub fn answered(&self) -> impl Iterator<Item = (AccountId, MessageId)> {
        self.asks.iter().flat_map(|ask| {
            let account = self.customers[ask.customer].account;
            ask.answer.iter().flatten().flatten().map(move |id| (account, *id))
        })
    }

    /// Texts that were answered with 2xx: account and SID.
    pub fn taken_texts(&self) -> impl Iterator<Item = (AccountId, &str)> {
        let taken = self.texts.iter().filter(|text| text.taken);
        taken.map(|text| (self.customers[text.customer].account, text.sid.as_str()))
    }

    pub fn are_waiting(&self) -> bool {
        self.asks.iter().any(|ask| ask.open > 0 || (ask.answer.is_none() && ask.refused.is_none()))
            || self.texts.iter().any(|text| text.open > 0)
    }

    /// Puts the first request of each into the queue of events.
    pub fn plan(state: &mut State) {
        for n in 0..state.callers.asks.len() {
            Self::plan_ask(state, n);
        }
        let texts: Vec<_> = state.callers.texts.iter().map(|text| (text.at, text.times)).collect();
        for (n, (at, times)) in texts.into_iter().enumerate() {
            for time in 0..times {
                state.callers.texts[n].open += 1;
                let wait = state.millis(0, 60_000 * i64::from(time));
                state.at(at + wait, Event::Text(n));
            }
        }
    }

    fn plan_ask(state: &mut State, n: usize) {
        let Ask { at, twice, .. } = state.callers.asks[n];
        for _ in 0..=u8::from(twice) {
            state.callers.asks[n].open += 1;
            let wait = state.millis(0, 50);
            state.at(at + wait, Event::Ask(n));
        }
    }

    /// A session that began now: that they end is not what is looked at here.
    fn request(hub: &Hub, customer: usize, method: Method, path: &str, body: &str) -> Request {
        let (world, state) = (&hub.world, hub.state());
        let Customer { account, user, .. } = state.callers.customers[customer];
        let (now, token) = (state.now, Token::new(account, fresh_bytes(world)));
        let id = SessionId::new(now, fresh::dice(world));
        // The environment's clock may be behind.
        let (started, hash) = (now - SignedDuration::from_mins(5), token.hash());
        let session = Session { id, account, user, hash, started, seen: started };
        let there = world.clone();
        at_once(Box::pin(async move { there.start_session(session).await })).unwrap();
        let cookie = format!("{}={}", site().cookie_name(), token.reveal(TOKEN_PREFIX).expose_secret());
        with_header(request(world, method, path, body), header::COOKIE, &cookie)
    }

    pub fn ask(hub: &Hub, n: usize) -> Request {
        let (customer, key, body, path) = {
            let mut state = hub.state();
            let ask = &mut state.callers.asks[n];
            ask.tries += 1;
            let path = match &ask.wish {
                Wish::Send { .. } => "/v1/messages".to_owned(),
                Wish::Resend(message) | Wish::Drop(message) => format!("/v1/messages/{message}/decision"),
            };
            (ask.customer, ask.key.clone(), ask.body.clone(), path)
        };
        let request = Self::request(hub, customer, Method::POST, &path, &body);
        with_header(request, HeaderName::from_static("idempotency-key"), &key)
    }

    pub fn asked(state: &mut State, n: usize, reply: Option<Reply>) {
        let lost = state.meets(|weather| weather.reply_lost);
        let reply = reply.filter(|_| !lost);
        let status = reply.as_ref().map(|reply| reply.status.as_u16());
        state.say(|| format!("ask {n}: {status:?}"));
        state.callers.asks[n].open -= 1;
        match (status, reply) {
            (Some(202), Some(reply)) => {
                let ids = ids(&reply.body);
                let first = state.callers.asks[n].answer.is_none();
                if first {
                    state.callers.asks[n].answer = Some(ids.clone());
                    if let Some(wait) = state.callers.asks[n].cancel_after {
                        state.callers.asks[n].open += 1;
                        state.after(wait, Event::Cancel(n));
                    }
                } else if state.callers.asks[n].answer.as_ref() != Some(&ids) {
                    state.violated(Invariant::SameAnswer, None, format!("ask {n}: {ids:?}"));
                }
            }
            (None | Some(500..), _) if state.callers.asks[n].tries < MOST_TRIES => {
                state.callers.asks[n].open += 1;
                let wait = state.millis(500, 30_000);
                state.after(wait, Event::Ask(n));
            }
            (Some(200), _) if matches!(state.callers.asks[n].wish, Wish::Drop(_)) => {
                state.callers.asks[n].answer = Some(Vec::new());
            }
            (Some(status @ 409), _) if !matches!(state.callers.asks[n].wish, Wish::Send { .. }) => {
                state.callers.asks[n].refused = Some(status);
            }
            (Some(status @ (402 | 422)), _) => state.callers.asks[n].refused = Some(status),
            (status, _) => state.violated(Invariant::SameAnswer, None, format!("ask {n}: {status:?}")),
        }
    }

    /// Takes back the first message of a request.
    pub fn cancel(hub: &Hub, n: usize) -> Option<Request> {
        let (customer, message) = {
            let state = hub.state();
            let ask = &state.callers.asks[n];
            (ask.customer, ask.answer.iter().flatten().flatten().next().copied())
        };
        let Some(message) = message else {
            hub.state().callers.asks[n].open -= 1;
            return None;
        };
        Some(Self::request(hub, customer, Method::DELETE, &format!("/v1/messages/{message}"), ""))
    }

    pub fn canceled(state: &mut State, n: usize, reply: Option<Reply>) {
        match reply.map(|reply| reply.status.as_u16()) {
            Some(200) => {
                state.callers.asks[n].open -= 1;
                let message = state.callers.asks[n].answer.iter().flatten().flatten().next().copied();
                state.watch.canceled.extend(message);
            }
            Some(409) => state.callers.asks[n].open -= 1,
            None | Some(500..) => {
                let wait = state.millis(500, 10_000);
                state.after(wait, Event::Cancel(n));
            }
            Some(status) => state.violated(Invariant::SameAnswer, None, format!("cancel {n}: {status}")),
        }
    }

    pub fn text(hub: &Hub, n: usize) -> Request {
        let state = hub.state();
        let Text { customer, sid, from, body, .. } = &state.callers.texts[n];
        let customer = &state.callers.customers[*customer];
        let path = format!("/hooks/twilio/{}/messages", customer.credential.hook.reveal());
        let params = [("MessageSid", sid.as_str()), ("From", from), ("To", OWN), ("Body", body), ("NumSegments", "1")];
        signed(&hub.world, customer.credential.account_sid.as_str(), &path, &params)
    }

    pub fn texted(state: &mut State, n: usize, reply: Option<Reply>) {
        let status = reply.map(|reply| reply.status.as_u16());
        state.callers.texts[n].open -= 1;
        match status {
            Some(200..=299) => state.callers.texts[n].taken = true,
            None | Some(500..) => {}
            Some(status) => state.violated(Invariant::NothingSignedLost, None, format!("{status} for text {n}")),
        }
    }

    /// The request of a callback.
    pub fn callback(hub: &Hub, id: u64) -> Option<Request> {
        let state = hub.state();
        let callback = state.callback(id)?;
        let taken = state.twilio.taken.get(&callback.sid)?;
        let (url, _) = taken.callback.split_once('#')?;
        let path = url.strip_prefix(&site().origin)?;
        let code = SimulatedTwilio::error_code(callback.word).map(|code| code.to_string());
        let mut params = vec![("MessageSid", callback.sid.as_str()), ("MessageStatus", callback.word)];
        params.extend(code.as_deref().map(|code| ("ErrorCode", code)));
        Some(signed(&hub.world, &taken.account_sid, path, &params))
    }
}

fn fresh_bytes<const N: usize>(world: &World) -> [u8; N] {
    use telbuddy::platform::Chance;
    world.random().unwrap()
}

/// As Twilio posts it, signed.
fn signed(world: &World, account_sid: &str, path: &str, params: &[(&str, &str)]) -> Request {
    let all = params.iter().copied().chain([("AccountSid", account_sid)]);
    let params: Vec<_> = all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(&params).finish();
    let request = request(world, Method::POST, path, &form);
    let request = with_header(request, header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let signature = sign(&format!("token-{account_sid}"), &format!("{}{path}", site().origin), &params);
    with_header(request, HeaderName::from_static("x-twilio-signature"), &signature)
}

/// The messages that an answer names; `None` for a recipient who gets none.
fn ids(body: &str) -> Vec<Option<MessageId>> {
    let body: Value = serde_json::from_str(body).unwrap();
    let id = |row: &Value| row["id"].as_str().map(|id| id.parse().unwrap());
    match body["data"].as_array() {
        Some(rows) => rows.iter().map(id).collect(),
        None => vec![id(&body)],
    }
}
