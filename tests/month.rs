//! A month of an account's life by chance: what its statement says is what a model of a few lines says, the rules find
//! the export in order, and it is written to `TELBUDDY_MONTH_EXPORT`, where `.ci/statement.py` recomputes it by itself.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use http::{Method, header};
use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use telbuddy::account::{CreateAccount, Gate, SignedUp};
use telbuddy::api_key::{ApiKey, KEY_PREFIX, KeepApiKeys, Scope};
use telbuddy::ids::{AccountId, EntryId};
use telbuddy::ledger::export::{EXPORT_FORMAT, Export, ExportedEntry, Statement, StatementState, verify};
use telbuddy::ledger::{
    Book, Change, Changed, CreditKind, Entry, Grant, MicroCredits, Occasion, PRICE_LISTS, PostOutcome, Posted,
    UsageEvent, UsageKind, Zone, give_credits, take_back_credits,
};
use telbuddy::message::{Format, Message, Outcome, RecordInbound, RecordMessage, RecordOutcome, Recorded, Seen};
use telbuddy::platform::{Chance, Clock, Handled, Job};
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{request, site, with_header};

const MICRO: i64 = 1_000_000;
const MONTHS: [&str; 3] = ["2026-11", "2026-12", "2027-01"];

/// What credits came together, as a child would keep them: a pile with a date.
struct Pile {
    source: String,
    ends: Option<Timestamp>,
    left: i64,
}

/// The model: what is left of each pile, what was used and is in no pile, and what happened in each month.
#[derive(Default)]
struct Model {
    piles: Vec<Pile>,
    /// Used, and not taken from a pile.
    open: i64,
    /// Reserved for messages that are not posted.
    held: i64,
    /// By month: what was used, given, sold, ended and taken back.
    months: BTreeMap<(String, &'static str), i64>,
}

impl Model {
    fn note(&mut self, month: &str, what: &'static str, amount: i64) {
        *self.months.entry((month.to_owned(), what)).or_default() += amount;
    }

    fn of(&self, month: &str, what: &'static str) -> i64 {
        self.months.get(&(month.to_owned(), what)).copied().unwrap_or_default()
    }

    fn balance(&self) -> i64 {
        self.piles.iter().map(|pile| pile.left).sum::<i64>() - self.open
    }

    /// Takes what was used from the pile that ends first. Only when the piles change: a correction downwards before that
    /// makes less of it, one after it is used up by what comes next.
    fn settle(&mut self) {
        self.piles.sort_by_key(|pile| (pile.ends.is_none(), pile.ends));
        for pile in &mut self.piles {
            let take = self.open.clamp(0, pile.left);
            pile.left -= take;
            self.open -= take;
        }
    }

    fn end(&mut self, now: Timestamp, month: &str) {
        if self.piles.iter().any(|pile| pile.left > 0 && pile.ends.is_some_and(|ends| ends <= now)) {
            self.settle();
        }
        let mut reserved = self.held;
        let mut room = (self.balance() - self.held).max(0);
        let mut gone = 0;
        for pile in self.piles.iter_mut().filter(|pile| pile.ends.is_some_and(|ends| ends <= now)) {
            let kept = reserved.min(pile.left);
            reserved -= kept;
            let ends = room.min(pile.left - kept);
            pile.left -= ends;
            room -= ends;
            gone += ends;
        }
        self.note(month, "expired", gone);
    }

    fn take_back(&mut self, source: &str, amount: i64, month: &str) {
        let mut rest = amount;
        for pile in self.piles.iter_mut().filter(|pile| pile.source == source) {
            let gone = rest.min(pile.left);
            pile.left -= gone;
            rest -= gone;
        }
        self.open += rest;
        self.note(month, "refunds", amount);
    }
}

/// A charge that may be corrected, once more and less.
struct Charged {
    event: UsageEvent,
    corrections: u32,
}

struct Life {
    world: World,
    account: AccountId,
    zone: Zone,
    chance: StdRng,
    model: Model,
    /// Taken by Twilio, and not posted: the queue is slow.
    late: Vec<Message>,
    charged: Vec<Charged>,
    bought: Vec<(String, i64)>,
    /// How often what happened.
    did: BTreeMap<&'static str, u32>,
}

impl Life {
    async fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let zone = Zone::parse("America/New_York").unwrap();
        let mut new = fresh::new_account(&world, 100);
        new.gate = Gate { zone: zone.clone(), daily_ceiling: 100_000, ..new.gate };
        let account = new.account;
        assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
        let mut model = Model::default();
        model.note("2026-11", "issued", 100 * MICRO);
        model.piles.push(Pile { source: "trial".to_owned(), ends: None, left: 100 * MICRO });
        let chance = StdRng::seed_from_u64(seed);
        let (late, charged, bought, did) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Self { world, account, zone, chance, model, late, charged, bought, did }
    }

    fn month(&self) -> String {
        self.zone.month(self.world.now())
    }

    fn any(&mut self, range: RangeInclusive<u32>) -> u32 {
        self.chance.random_range(range)
    }

    /// Some hours later, one thing happens, and the roll-up runs.
    async fn step(&mut self) {
        let minutes = self.any(61..=600);
        self.world.advance(SignedDuration::from_mins(i64::from(minutes)));
        let what = self.any(0..=19);
        match what {
            0..=5 => self.send(Format::Sms, false).await,
            6 => self.send(Format::Mms, false).await,
            7..=9 => self.send(Format::Sms, true).await,
            10 => self.fail().await,
            11 => self.hear().await,
            12 | 13 => self.correct().await,
            14 => self.give().await,
            15 => self.take_back().await,
            _ => self.post_late().await,
        }
        let now = self.world.now();
        usage_rollup::handle(&self.world).await.unwrap();
        let month = self.month();
        self.model.end(now, &month);
    }

    fn did(&mut self, what: &'static str) {
        *self.did.entry(what).or_default() += 1;
    }

    /// What the queue of posts does, once or twice.
    async fn post(&mut self, message: &Message) {
        for _ in 0..self.any(1..=2) {
            let job = Job::Post { account: self.account, message: message.id };
            assert_eq!(poster::handle(&self.world, vec![job]).await, [Handled::Done]);
        }
    }

    /// A message that was accepted, if there is credit for it.
    async fn accepted(&mut self, format: Format) -> Option<Message> {
        let segments = if format == Format::Mms { 1 } else { self.any(1..=4) };
        let mut outgoing = fresh::outgoing(&self.world, self.account, segments, self.world.now());
        outgoing.daily_ceiling = 100_000;
        outgoing.message.format = format;
        let price = if format == Format::Mms { PRICE_LISTS[0].mms.0 } else { u64::from(segments) * 1_000_000 };
        outgoing.message.held = MicroCredits(price);
        let held = i64::try_from(price).unwrap();
        let covered = self.model.balance() - self.model.held >= held;
        let recorded = self.world.record_message(&outgoing).await.unwrap();
        assert_eq!(recorded == Recorded::Accepted, covered, "{recorded:?}");
        if !covered {
            self.did("not enough credit");
            return None;
        }
        self.model.held += held;
        Some(outgoing.message)
    }

    async fn outcome(&self, message: &Message, outcome: &Outcome) {
        let claimed = fresh::claimed(&self.world, message, self.world.now()).await;
        self.world.record_outcome(&claimed, outcome, self.world.now()).await.unwrap();
    }

    async fn send(&mut self, format: Format, late: bool) {
        let Some(message) = self.accepted(format).await else { return };
        let sid = fresh::sid(&self.world, "SM").as_str().to_owned();
        self.outcome(&message, &Outcome::Sent { sid }).await;
        if late {
            self.late.push(message);
        } else {
            self.charge(&message).await;
        }
    }

    async fn charge(&mut self, message: &Message) {
        let before = self.world.charges(self.account).len();
        self.post(message).await;
        let charges = self.world.charges(self.account);
        assert_eq!(charges.len(), before + 1, "charged once, however often it is posted");
        let held = message.held.plus().0;
        let month = self.month();
        self.model.held -= held;
        self.model.open += held;
        self.model.note(&month, "used", held);
        self.model.note(&month, "units", i64::from(message.segments));
        self.did(if month == self.zone.month(message.created) { "charged" } else { "charged in a later month" });
        let event =
            charges.into_iter().map(|(_, event)| event).find(|event| event.message == Some(message.id)).unwrap();
        self.charged.push(Charged { event, corrections: 0 });
    }

    async fn post_late(&mut self) {
        for message in std::mem::take(&mut self.late) {
            self.charge(&message).await;
        }
    }

    /// Twilio refuses it: nothing is charged.
    async fn fail(&mut self) {
        let Some(message) = self.accepted(Format::Sms).await else { return };
        self.outcome(&message, &Outcome::Rejected { code: None }).await;
        self.post(&message).await;
        self.model.held -= message.held.plus().0;
        self.did("failed");
    }

    /// A text that arrives costs nothing and is in the ledger.
    async fn hear(&mut self) {
        let text = fresh::inbound(&self.world, self.account, self.world.now());
        assert_eq!(self.world.record_inbound(&text, self.world.now()).await, Ok(Seen::First));
        self.post(&text).await;
        let month = self.month();
        self.model.note(&month, "units", 1);
        self.did("arrived");
    }

    /// Twilio counted a segment more or less than we did. It is posted in place of a text's own charge.
    async fn correct(&mut self) {
        let sms: Vec<usize> =
            (0..self.charged.len()).filter(|n| self.charged[*n].event.format == Format::Sms).collect();
        if sms.is_empty() {
            return;
        }
        let of = sms[self.chance.random_range(0..sms.len())];
        let units = if self.charged[of].event.units > 1 && self.chance.random_bool(0.5) { -1 } else { 1 };
        let Charged { event, corrections } = &mut self.charged[of];
        *corrections += 1;
        event.units += units;
        let by = format!("2026-12-{:02}", *corrections);
        let difference = UsageEvent { units, credits: Change(units * MICRO), ..event.clone() };
        let occasion = Occasion::Correction { by, sid: event.sid.clone(), kind: event.kind };
        for expected in [Posted::Charged, Posted::SidTaken] {
            let now = self.world.now();
            let text = fresh::inbound(&self.world, self.account, now);
            assert_eq!(self.world.record_inbound(&text, now).await, Ok(Seen::First));
            let id = EntryId::new(now, fresh::dice(&self.world));
            let charge = Entry::charge(id, difference.clone(), now, &self.zone);
            let entry = Entry { occasion: occasion.clone(), ..charge };
            assert_eq!(self.world.post_charge(&text, entry, now, &[], None).await, Ok(expected));
        }
        let month = self.month();
        self.model.open += units * MICRO;
        self.model.note(&month, "used", units * MICRO);
        self.model.note(&month, "units", units);
        self.did("corrected");
    }

    async fn give(&mut self) {
        let n = i64::from(self.any(5..=60));
        let now = self.world.now();
        let ends = self.chance.random_bool(0.7);
        let days = i64::from(self.any(1..=9));
        let source = format!("cs_{}", self.bought.len());
        let kind = if self.chance.random_bool(0.3) { CreditKind::Included } else { CreditKind::Purchased };
        let expires = ends.then(|| now + SignedDuration::from_hours(24 * days));
        let credits = MicroCredits::whole(u64::try_from(n).unwrap());
        let grant = Grant { source: source.clone(), kind, credits, expires };
        assert_eq!(give_credits(&self.world, self.account, &grant, now).await, Ok(Changed::Now));
        assert_eq!(give_credits(&self.world, self.account, &grant, now).await, Ok(Changed::Before));
        let month = self.month();
        self.model.settle();
        self.model.piles.push(Pile { source: source.clone(), ends: expires, left: n * MICRO });
        self.model.note(&month, if kind == CreditKind::Included { "issued" } else { "sold" }, n * MICRO);
        self.bought.push((source, n * MICRO));
        self.did("given");
    }

    async fn take_back(&mut self) {
        let Some((source, amount)) = self.bought.pop() else { return };
        let by = format!("re_{source}_{}", self.did.get("taken back").copied().unwrap_or_default());
        let credits = Change(amount).above();
        let now = self.world.now();
        for expected in [Changed::Now, Changed::Before] {
            let taken = take_back_credits(&self.world, self.account, &source, credits, &by, now).await;
            assert_eq!(taken, Ok(expected));
        }
        let month = self.month();
        self.model.settle();
        self.model.take_back(&source, amount, &month);
        // The next one has another name.
        self.bought.push((format!("gone-{}", self.bought.len()), 0));
        self.did("taken back");
    }

    /// As `telbuddy statement fetch` does it.
    async fn export(&self, authorization: &str, month: &str) -> Export {
        let get = async |path: &str| {
            let request = request(&self.world, Method::GET, path, "");
            let request = with_header(request, header::AUTHORIZATION, authorization);
            let body = usage::handle(&self.world, &site(), request).await.body;
            serde_json::from_str::<serde_json::Value>(&body).unwrap()
        };
        let statement = get(&format!("/v1/statements/{month}")).await;
        let statement: Statement = serde_json::from_value(statement).unwrap();
        let (mut entries, mut cursor) = (Vec::<ExportedEntry>::new(), String::new());
        loop {
            let page = get(&format!("/v1/credits/entries?month={month}&limit=7{cursor}")).await;
            entries.extend(serde_json::from_value::<Vec<ExportedEntry>>(page["data"].clone()).unwrap());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        Export { format: EXPORT_FORMAT.to_owned(), statement, entries }
    }

    /// What the statement of a month says is what the model says.
    fn compare(&self, statement: &Statement, carried: &mut i64) {
        let month = statement.month.as_str();
        let moved = |book| statement.movements_micro.get(&book).copied().unwrap_or_default().0;
        let of = |what| self.model.of(month, what);
        assert_eq!(moved(Book::UsedMessageSegments), of("used"), "{month}");
        assert_eq!((-moved(Book::Issued), -moved(Book::Sold)), (of("issued"), of("sold")), "{month}");
        assert_eq!((moved(Book::Expired), moved(Book::Refunds)), (of("expired"), of("refunds")), "{month}");
        let had = |books: &BTreeMap<Book, Change>| -> i64 {
            let books_of_the_customer = [Book::Included, Book::Purchased, Book::Clearing];
            books_of_the_customer.into_iter().filter_map(|book| books.get(&book)).map(|amount| amount.0).sum()
        };
        assert_eq!(had(&statement.opening_micro), *carried, "{month}");
        *carried += of("issued") + of("sold") - of("used") - of("expired") - of("refunds");
        assert_eq!(had(&statement.closing_micro), *carried, "{month}");
        let (left, owed) = (statement.credits_left_micro.plus().0, statement.owed_micro.plus().0);
        assert_eq!((left, owed), ((*carried).max(0), (-*carried).max(0)), "{month}");
        let units = statement.used_units.get(&UsageKind::MessageSegments).copied().unwrap_or_default();
        assert_eq!(units, of("units"), "{month}");
    }
}

/// The header `authorization` of an API key that may read usage.
async fn bearer(world: &World, account: AccountId) -> String {
    let token = Token::new(account, world.random().unwrap());
    let key = fresh::api_key(world, account);
    let key = ApiKey { hash: token.hash(), scopes: vec![Scope::UsageRead], ..key };
    assert_eq!(world.create_api_key(key).await, Ok(true));
    format!("Bearer {}", token.reveal(KEY_PREFIX).expose_secret())
}

/// For what recomputes it without this code.
#[expect(clippy::disallowed_methods, reason = "CI names the file")]
fn write(export: &Export) {
    let Ok(file) = std::env::var("TELBUDDY_MONTH_EXPORT") else { return };
    std::fs::write(file, serde_json::to_string_pretty(export).unwrap()).unwrap();
}

#[tokio::test]
async fn the_statements_of_a_life_by_chance_are_what_a_model_of_a_few_lines_says() {
    let mut did = BTreeMap::new();
    let mut largest: Option<Export> = None;
    for seed in 0..12 {
        let mut life = Life::new(seed).await;
        let end: Timestamp = "2027-01-06T00:00:00Z".parse().unwrap();
        while life.world.now() < end {
            life.step().await;
        }
        life.post_late().await;
        life.world.advance(SignedDuration::from_hours(2));
        usage_rollup::handle(&life.world).await.unwrap();
        let (now, month) = (life.world.now(), life.month());
        life.model.end(now, &month);

        let authorization = bearer(&life.world, life.account).await;
        let mut carried = 0;
        for month in MONTHS {
            let export = life.export(&authorization, month).await;
            if life.model.of(month, "expired") > 0 {
                life.did("ended");
            }
            life.compare(&export.statement, &mut carried);
            let verified = verify(&export).unwrap_or_else(|found| panic!("{seed}, {month}: {found:#?}"));
            assert_eq!((verified.entries, verified.uncounted.len()), (export.entries.len(), 0));
            let state = if month == "2027-01" { StatementState::Open } else { StatementState::Closed };
            assert_eq!(export.statement.state, state);
            let more = largest.as_ref().is_none_or(|largest| largest.entries.len() < export.entries.len());
            if more && month == "2026-12" {
                largest = Some(export);
            }
        }
        assert_eq!(carried, life.model.balance(), "what was left is what the piles say");
        let allowance = life.world.allowance(life.account).unwrap();
        assert_eq!(allowance.free.and(allowance.held.plus()).0, carried, "and what may be spent");
        for (what, times) in life.did {
            *did.entry(what).or_insert(0) += times;
        }
    }
    // Not one of these is missing by chance.
    for what in
        ["charged", "charged in a later month", "failed", "arrived", "corrected", "given", "ended", "taken back"]
    {
        assert!(did.get(what).is_some_and(|times| *times >= 3), "{what}: {did:?}");
    }
    write(&largest.unwrap());
}
