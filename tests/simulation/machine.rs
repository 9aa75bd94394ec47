//! The machine: one seeded chance, one simulated time, one queue of events. Nothing runs beside it, so a seed replays.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use jiff::{SignedDuration, Timestamp};
use rand::rngs::Xoshiro256PlusPlus as Dice;
use rand::{RngExt, SeedableRng};
use telbuddy::connection::{PageMark, Trouble};
use telbuddy::edge::{Reply, Request};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, MessageId};
use telbuddy::message::{Created, ListedPage, Listings, Payload};
use telbuddy::platform::{Clock, Handled, Job, Queue};
use telbuddy::testing::World;
use telbuddy::testing::setup::site;

use super::callers::Callers;
use super::invariants::{Invariant, Violation, Watch};
use super::ports::{Effect, Env, Place, at_once};
use super::queues::{Receipt, SimulatedQueues};
use super::twilio::{Callback, Course, SimulatedTwilio};
use super::weather::Weather;

/// Names a task.
pub type TaskId = u64;

/// A planted bug: the invariants have to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A time-out of Twilio is taken for "certainly not processed": the sender tries again.
    RetryOnTimeout,
    /// A hold is given back without looking whether it was before.
    ReleaseWithoutCondition,
    /// A job leaves its queue when it is received, not when it is done.
    EarlyAck,
    /// The last check does not look at opt-outs.
    DeafToStops,
}

/// The functions that run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    SendSms,
    Sender,
    TwilioWebhook,
    TwilioEvents,
    Poster,
    Settler,
    Sweeper,
    UsageRollup,
}

impl Function {
    pub const ALL: [Self; 8] = [
        Self::SendSms,
        Self::Sender,
        Self::TwilioWebhook,
        Self::TwilioEvents,
        Self::Poster,
        Self::Settler,
        Self::Sweeper,
        Self::UsageRollup,
    ];
}

/// The queues that have a consumer here, and it.
const CONSUMERS: [(Queue, Function); 4] = [
    (Queue::Send, Function::Sender),
    (Queue::Settle, Function::Settler),
    (Queue::Post, Function::Poster),
    (Queue::TwilioEvents, Function::TwilioEvents),
];

/// Those that may be lost as a whole: they only wake.
const HINTS: [Queue; 3] = [Queue::Send, Queue::Settle, Queue::Post];

fn secs(n: i64) -> SignedDuration {
    SignedDuration::from_secs(n)
}

/// A function's time-out, as in the template.
const FUNCTION_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);
/// Environments of one function at the same time.
const MOST_PLACES: usize = 4;
/// Rest has to come within this time after the last trouble: a day until what is unknown is given up, a day to decide.
const REST_WITHIN: SignedDuration = SignedDuration::from_hours(60);

/// What a run is.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub n_messages: usize,
    /// `None`: drawn from the seed.
    pub weather: Option<Weather>,
    pub bug: Option<Bug>,
    /// The first task of this function dies at its await point of this number, counted from 1.
    pub crash: Option<(Function, u32)>,
    /// Keeps a log, to look at a seed.
    pub verbose: bool,
}

/// What a run came to.
pub struct Outcome {
    pub violation: Option<Violation>,
    /// The same for the same plan.
    pub trace: u64,
    pub log: Vec<String>,
    /// Whether the planned crash struck.
    pub crashed: bool,
    pub counts: Counts,
}

/// What took place, to see that a run was no walk in the park.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub at_carrier: u64,
    pub calls: u64,
    pub faults: u64,
    pub crashes: u64,
    pub redelivered: u64,
    /// Identical messages that share one SID: the known gap of docs/decisions/0011.
    pub shared_sids: u64,
}

/// What becomes of a call.
pub struct Fate {
    pub before: SignedDuration,
    pub kind: Kind,
    pub after: SignedDuration,
}

/// See [`Weather`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Fine,
    Throttled,
    RequestLost,
    AnswerLost,
    Repeated,
    Late(SignedDuration),
}

/// Something that is going to happen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    Wake(TaskId),
    Late(u64),
    Receive(Queue),
    Tick,
    Redrive,
    Ask(usize),
    Cancel(usize),
    Text(usize),
    Arrive(u64),
    Step(String),
    Callback(u64),
}

/// Who waits for a task.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Ask(usize),
    Cancel(usize),
    Text(usize),
    Callback(u64),
}

enum What {
    Http(Origin),
    Jobs(Vec<Receipt>),
    Tick,
}

enum Ended {
    Reply(Reply),
    Handled(Vec<Handled>),
    Tick(Result<(), Fault>),
}

type Work = Pin<Box<dyn Future<Output = Ended> + Send>>;

struct Task {
    function: Function,
    place: Arc<Mutex<Place>>,
    work: Work,
    what: What,
    started: Timestamp,
    awaits: u32,
}

/// What every task shares.
pub struct State {
    pub now: Timestamp,
    pub dice: Dice,
    pub weather: Weather,
    pub queues: SimulatedQueues,
    pub twilio: SimulatedTwilio,
    pub watch: Watch,
    pub callers: Callers,
    callbacks: BTreeMap<u64, Callback>,
    events: BinaryHeap<Reverse<(Timestamp, u32, u64, Event)>>,
    last_id: u64,
    /// The next look into each queue.
    looks: BTreeMap<Queue, Timestamp>,
    late: BTreeMap<u64, Effect<()>>,
    /// Things under way that are no task: POSTs, Twilio's steps, callbacks, late effects.
    under_way: u64,
    bug: Option<Bug>,
    trace: DefaultHasher,
    log: Option<Vec<String>>,
    counts: Counts,
}

impl State {
    pub fn id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether something of this chance in ten thousand strikes.
    fn strikes(&mut self, chance: u32) -> bool {
        chance > 0 && self.dice.random_range(0..10_000) < chance
    }

    /// Whether this trouble strikes.
    pub fn meets(&mut self, trouble: impl Fn(&Weather) -> u32) -> bool {
        let chance = trouble(&self.weather);
        self.strikes(chance)
    }

    pub fn millis(&mut self, from: i64, to: i64) -> SignedDuration {
        SignedDuration::from_millis(self.dice.random_range(from..=to))
    }

    /// Plans an event; of two at the same time chance decides.
    pub fn at(&mut self, at: Timestamp, event: Event) {
        if matches!(event, Event::Late(_) | Event::Arrive(_) | Event::Step(_) | Event::Callback(_)) {
            self.under_way += 1;
        }
        let (tie, id) = (self.dice.random(), self.id());
        self.events.push(Reverse((at, tie, id, event)));
    }

    pub fn after(&mut self, wait: SignedDuration, event: Event) {
        let at = self.now + wait;
        self.at(at, event);
    }

    pub fn violated(&mut self, invariant: Invariant, message: Option<MessageId>, what: impl Into<String>) {
        let what = what.into();
        self.say(|| format!("VIOLATED {invariant:?} {message:?} {what}"));
        if self.watch.violation.is_none() {
            self.watch.violation = Some(Violation { invariant, message, what, at: self.now });
        }
    }

    /// A line for the log of a seed that somebody looks at.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now} {}", line()));
        }
    }

    /// Plans a look into a queue, unless there is one by then.
    fn look_into(&mut self, queue: Queue, at: Timestamp) {
        if self.looks.get(&queue).is_none_or(|planned| *planned > at) {
            self.looks.insert(queue, at);
            self.at(at, Event::Receive(queue));
        }
    }

    pub fn shared_sid(&mut self) {
        self.counts.shared_sids += 1;
    }

    fn enqueue(&mut self, jobs: Vec<Job>, delay_secs: u16) {
        for job in jobs {
            let copies = if self.meets(|weather| weather.queue_twice) { 2 } else { 1 };
            for _ in 0..copies {
                let visible = self.now + secs(i64::from(delay_secs)) + self.millis(1, 300);
                let queue = job.queue();
                self.say(|| format!("queued {job:?}"));
                self.queues.push(job.clone(), visible);
                self.look_into(queue, visible);
            }
        }
    }
}

/// The shared state and the fake world, as tasks have them.
#[derive(Clone)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    pub world: World,
}

impl Hub {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Timestamp {
        self.state().now
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.state().bug == Some(bug)
    }

    /// Wakes a task after this time.
    pub fn wake(&self, task: TaskId, wait: SignedDuration) -> Timestamp {
        let mut state = self.state();
        let until = state.now + wait;
        state.at(until, Event::Wake(task));
        until
    }

    pub fn fate(&self, task: TaskId, method: &'static str) -> Fate {
        let mut state = self.state();
        state.counts.calls += 1;
        let weather = state.weather.clone();
        let late = state.millis(1_000, 20_000);
        let kinds = [
            (weather.throttled, Kind::Throttled),
            (weather.request_lost, Kind::RequestLost),
            (weather.answer_lost, Kind::AnswerLost),
            (weather.repeated, Kind::Repeated),
            (weather.late, Kind::Late(late)),
        ];
        let kind = kinds.into_iter().find(|(chance, _)| state.strikes(*chance)).map_or(Kind::Fine, |(_, kind)| kind);
        let slow = if state.meets(|weather| weather.slow) { state.millis(1_000, 12_000) } else { SignedDuration::ZERO };
        let (before, after) = (state.millis(1, 20), state.millis(1, 20) + slow);
        state.counts.faults += u64::from(kind != Kind::Fine);
        (task, method, kind).hash(&mut state.trace);
        Fate { before, kind, after }
    }

    /// What came of a call, for the log.
    pub fn note(&self, task: TaskId, method: &str, fate: &Fate, fault: Option<&Fault>) {
        self.state().say(|| format!("task {task}: {method} {:?} {fault:?}", fate.kind));
    }

    /// An effect that takes place when its caller has given up, or is dead.
    pub fn later<T: 'static>(&self, wait: SignedDuration, effect: Effect<T>) {
        let mut state = self.state();
        let id = state.id();
        state.late.insert(id, Box::pin(async move { effect.await.map(|_| ()) }));
        state.after(wait, Event::Late(id));
    }

    pub fn enqueue(&self, jobs: Vec<Job>, delay_secs: u16) {
        self.state().enqueue(jobs, delay_secs);
    }

    pub fn post(&self, task: TaskId, what: (&str, &str, &Payload, &str)) -> Course {
        let mut state = self.state();
        let State { twilio, weather, dice, now, .. } = &mut *state;
        let course = twilio.post(what, weather, *now, dice);
        let message = state.twilio.message_of(course.post);
        Watch::posted(&mut state, &self.world, message);
        state.say(|| format!("task {task}: POST {} {} arrives {:?}", course.post, what.3, course.arrives));
        if let Some(wait) = course.arrives {
            state.after(wait, Event::Arrive(course.post));
        }
        course
    }

    pub fn answer(&self, post: u64) -> Created {
        self.state().twilio.answer(post)
    }

    /// Twilio's list, if it can be asked.
    pub fn list(
        &self,
        account_sid: &str,
        to: &str,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        let mut state = self.state();
        if state.meets(|weather| weather.list) {
            return Err(if state.dice.random() { Trouble::Busy } else { Trouble::Unreachable });
        }
        let page = state.twilio.list((account_sid, to), limit, from.map_or(0, |mark| mark.page), state.now);
        state.say(|| format!("Twilio lists {page:?}"));
        Ok(page)
    }

    /// Looks at what an effect left.
    pub fn observe(&self, about: Option<(AccountId, MessageId)>) {
        if let Some((account, message)) = about {
            Watch::observe(self, account, message);
        }
    }
}

/// One run.
pub struct Machine {
    pub hub: Hub,
    plan: Plan,
    tasks: BTreeMap<TaskId, Task>,
    idle: BTreeMap<Function, Vec<Arc<Mutex<Place>>>>,
    storm_ends: Timestamp,
    rested: bool,
    crashed: bool,
}

impl Machine {
    pub fn new(plan: Plan) -> Self {
        let mut dice = Dice::seed_from_u64(plan.seed);
        let world = World::new(plan.seed);
        // Any hour and minute: days and hours end in the middle of some runs.
        world.advance(secs(dice.random_range(0..24 * 3_600)));
        let now = world.now();
        let weather = plan.weather.clone().unwrap_or_else(|| Weather::drawn(&mut dice));
        let callers = Callers::new(&world, plan.n_messages, now, &mut dice);
        let lag = [0, 30, 300][dice.random_range(0..3)];
        let twilio = SimulatedTwilio::that_lists_after(secs(lag));
        let storm_ends = callers.last() + SignedDuration::from_mins(45);
        let state = State {
            now,
            dice,
            weather,
            queues: SimulatedQueues::default(),
            twilio,
            watch: Watch::new(&world, &callers),
            callers,
            callbacks: BTreeMap::new(),
            events: BinaryHeap::new(),
            last_id: 0,
            looks: BTreeMap::new(),
            late: BTreeMap::new(),
            under_way: 0,
            bug: plan.bug,
            trace: DefaultHasher::new(),
            log: plan.verbose.then(Vec::new),
            counts: Counts::default(),
        };
        let hub = Hub { state: Arc::new(Mutex::new(state)), world };
        let machine = Self {
            hub,
            plan,
            tasks: BTreeMap::new(),
            idle: BTreeMap::new(),
            storm_ends,
            rested: false,
            crashed: false,
        };
        {
            let mut state = machine.hub.state();
            Callers::plan(&mut state);
            state.after(secs(20), Event::Tick);
            state.after(secs(600), Event::Redrive);
        }
        machine
    }

    /// Runs until all is at rest, or an invariant does not hold.
    pub fn run(mut self) -> Outcome {
        loop {
            let next = self.hub.state().events.pop();
            let Some(Reverse((at, _, _, event))) = next else { break };
            {
                let mut state = self.hub.state();
                state.now = state.now.max(at);
                (&at, format!("{event:?}")).hash(&mut state.trace);
                if matches!(event, Event::Late(_) | Event::Arrive(_) | Event::Step(_) | Event::Callback(_)) {
                    state.under_way -= 1;
                }
            }
            let now = self.hub.now();
            self.hub.world.set_now(now);
            if event == Event::Tick && now > self.storm_ends {
                self.hub.state().weather = Weather::calm();
                // Twice: the roll-up follows the last posting.
                let rested = self.is_at_rest();
                if rested && self.rested {
                    break;
                }
                self.rested = rested;
                if now > self.storm_ends + REST_WITHIN {
                    Watch::tell_unrest(&self.hub);
                    break;
                }
            }
            self.happen(event);
            if self.hub.state().watch.violation.is_some() {
                break;
            }
        }
        if self.hub.state().watch.violation.is_none() {
            Watch::check_end(&self.hub);
        }
        let mut state = self.hub.state();
        let mut counts = state.counts.clone();
        let rows = state.watch.accounts.iter().flat_map(|account| self.hub.world.messages_of(*account));
        counts.messages = u64::try_from(rows.count()).unwrap();
        counts.at_carrier = u64::try_from(state.twilio.taken.len()).unwrap();
        counts.redelivered = state.queues.redelivered;
        Outcome {
            violation: state.watch.violation.take(),
            trace: state.trace.finish(),
            log: state.log.take().unwrap_or_default(),
            crashed: self.crashed,
            counts,
        }
    }

    fn is_at_rest(&self) -> bool {
        let state = self.hub.state();
        let queues = CONSUMERS.map(|(queue, _)| queue);
        let busy = !self.tasks.is_empty() || state.under_way > 0 || state.callers.are_waiting();
        !busy && state.queues.are_empty(&queues) && Watch::rows_rest(&state.watch, &self.hub.world)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(task) => self.poll(task),
            Event::Late(id) => {
                let effect = self.hub.state().late.remove(&id);
                if let Some(effect) = effect {
                    let done = at_once(effect);
                    self.hub.state().say(|| format!("late effect {id}: {done:?}"));
                }
            }
            Event::Receive(queue) => self.receive(queue),
            Event::Tick => self.tick(),
            Event::Redrive => {
                let mut state = self.hub.state();
                let now = state.now;
                state.queues.redrive(now);
                for (queue, _) in CONSUMERS {
                    state.look_into(queue, now + secs(1));
                }
                state.after(secs(600), Event::Redrive);
            }
            Event::Ask(n) => self.ask(n),
            Event::Cancel(n) => self.cancel(n),
            Event::Text(n) => self.text(n),
            Event::Arrive(post) => {
                let mut state = self.hub.state();
                let State { twilio, dice, now, .. } = &mut *state;
                let (sid, taken) = twilio.arrive(post, *now, dice);
                let message = taken.message;
                state.say(|| format!("Twilio takes {message} as {sid}: {taken:?}"));
                Watch::taken(&mut state, message);
                let wait = state.millis(50, 3_000);
                state.after(wait, Event::Step(sid));
            }
            Event::Step(sid) => self.step(sid),
            Event::Callback(id) => self.call_back(id),
        }
    }

    // Tasks.

    fn spawn(&mut self, function: Function, what: What, work: impl FnOnce(Env) -> Work) {
        let place = self.idle.entry(function).or_default().pop().unwrap_or_default();
        let (id, started) = {
            let mut state = self.hub.state();
            // A clock jumps between two uses or stays as it is.
            if state.meets(|weather| weather.jump) {
                place.lock().unwrap().off = state.millis(-30_000, 30_000);
            }
            (state.id(), state.now)
        };
        let env = Env { hub: self.hub.clone(), task: id, place: Arc::clone(&place) };
        let work = work(env);
        self.tasks.insert(id, Task { function, place, work, what, started, awaits: 0 });
        self.poll(id);
    }

    fn poll(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        {
            let mut state = self.hub.state();
            let planned = self.plan.crash == Some((task.function, task.awaits)) && !self.crashed;
            let late = state.now >= task.started + FUNCTION_TIMEOUT;
            if planned || late || (task.awaits > 0 && state.meets(|weather| weather.crash)) {
                self.crashed |= planned;
                state.counts.crashes += 1;
                let function = task.function;
                state.say(|| format!("task {id}: {function:?} dies"));
                drop(state);
                let task = self.tasks.remove(&id);
                if let Some(Task { what, .. }) = task {
                    self.died(&what);
                }
                return;
            }
        }
        task.awaits += 1;
        let polled = task.work.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        if let Poll::Ready(ended) = polled
            && let Some(Task { function, place, what, .. }) = self.tasks.remove(&id)
        {
            self.idle.entry(function).or_default().push(place);
            self.ended(id, what, ended);
        }
    }

    /// Its queue gives its jobs again; its caller sees a 502.
    fn died(&mut self, what: &What) {
        match what {
            What::Http(origin) => self.replied(*origin, None),
            What::Jobs(_) | What::Tick => {}
        }
    }

    fn ended(&mut self, id: TaskId, what: What, ended: Ended) {
        self.hub.state().say(|| format!("task {id}: done"));
        match (what, ended) {
            (What::Http(origin), Ended::Reply(reply)) => self.replied(origin, Some(reply)),
            (What::Jobs(receipts), Ended::Handled(handled)) => {
                let mut state = self.hub.state();
                for (receipt, handled) in receipts.into_iter().zip(handled) {
                    if handled == Handled::Done && !state.meets(|weather| weather.delete_lost) {
                        state.queues.delete(receipt);
                    }
                }
            }
            (What::Tick, Ended::Tick(done)) => self.hub.state().say(|| format!("task {id}: {done:?}")),
            _ => {}
        }
    }

    fn replied(&mut self, origin: Origin, reply: Option<Reply>) {
        let mut state = self.hub.state();
        match origin {
            Origin::Ask(n) => Callers::asked(&mut state, n, reply),
            Origin::Cancel(n) => Callers::canceled(&mut state, n, reply),
            Origin::Text(n) => Callers::texted(&mut state, n, reply),
            Origin::Callback(id) => {
                let Some(callback) = state.callbacks.remove(&id) else { return };
                let Callback { sid, word, tries_left } = callback;
                match reply.map(|reply| reply.status.as_u16()) {
                    Some(200..=299) => {
                        if let Some(taken) = state.twilio.taken.get_mut(&sid) {
                            taken.heard.push(word);
                        }
                    }
                    None | Some(500..) if tries_left > 0 => {
                        let wait = state.millis(100, 5_000);
                        state.callbacks.insert(id, Callback { sid, word, tries_left: tries_left - 1 });
                        state.after(wait, Event::Callback(id));
                    }
                    None | Some(500..) => state.say(|| format!("Twilio gives up telling that {sid} is {word}")),
                    Some(status) => {
                        state.violated(Invariant::NothingSignedLost, None, format!("{status} for {word} of {sid}"));
                    }
                }
            }
        }
    }

    // Queues.

    fn receive(&mut self, queue: Queue) {
        let Some((_, function)) = CONSUMERS.into_iter().find(|(consumed, _)| *consumed == queue) else { return };
        let busy = self.tasks.values().filter(|task| task.function == function).count();
        let batch = {
            let mut state = self.hub.state();
            if state.looks.get(&queue).is_none_or(|at| *at > state.now) {
                // Another look was planned, for an earlier time.
                return;
            }
            state.looks.remove(&queue);
            if busy >= MOST_PLACES {
                let at = state.now + state.millis(100, 400);
                state.look_into(queue, at);
                return;
            }
            let State { queues, dice, now, .. } = &mut *state;
            let (batch, now) = (queues.receive(queue, *now, dice), *now);
            if let Some(next) = queues.next(queue) {
                state.look_into(queue, next.max(now));
            }
            if state.bug == Some(Bug::EarlyAck) {
                for (receipt, _) in &batch {
                    state.queues.delete(*receipt);
                }
            }
            batch
        };
        if batch.is_empty() {
            return;
        }
        let (receipts, jobs): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        self.hub.state().say(|| format!("{function:?} gets {jobs:?}"));
        self.spawn(function, What::Jobs(receipts), move |env| {
            Box::pin(async move {
                Ended::Handled(match function {
                    Function::Sender => sender::handle(&env, &site(), jobs).await,
                    Function::Settler => settler::handle(&env, &Listings::default(), jobs).await,
                    Function::Poster => poster::handle(&env, jobs).await,
                    _ => twilio_events::handle(&env, jobs).await,
                })
            })
        });
    }

    fn tick(&mut self) {
        self.spawn(Function::Sweeper, What::Tick, |env| {
            Box::pin(async move { Ended::Tick(sweeper::handle(&env).await) })
        });
        self.spawn(Function::UsageRollup, What::Tick, |env| {
            Box::pin(async move { Ended::Tick(usage_rollup::handle(&env).await) })
        });
        let mut state = self.hub.state();
        Callers::decide(&mut state);
        if state.meets(|weather| weather.purge) {
            let queue = HINTS[state.dice.random_range(0..HINTS.len())];
            state.say(|| format!("all of {queue:?} is lost"));
            state.queues.purge(queue);
        }
        // When nothing else happens any more, a look every 20 minutes shows the same as one a minute.
        let quiet = state.now > self.storm_ends + SignedDuration::from_mins(40);
        state.after(secs(if quiet { 1_200 } else { 60 }), Event::Tick);
    }

    // Callers.

    fn ask(&mut self, n: usize) {
        let request = Callers::ask(&self.hub, n);
        self.http(Function::SendSms, Origin::Ask(n), request);
    }

    fn cancel(&mut self, n: usize) {
        if let Some(request) = Callers::cancel(&self.hub, n) {
            self.http(Function::SendSms, Origin::Cancel(n), request);
        }
    }

    fn text(&mut self, n: usize) {
        let request = Callers::text(&self.hub, n);
        self.http(Function::TwilioWebhook, Origin::Text(n), request);
    }

    fn http(&mut self, function: Function, origin: Origin, request: Request) {
        self.spawn(function, What::Http(origin), move |env| {
            let request = Request { now: env.now(), ..request };
            Box::pin(async move {
                Ended::Reply(match function {
                    Function::SendSms => send_sms::handle(&env, &site(), request).await,
                    _ => twilio_webhook::handle(&env, &site(), request).await,
                })
            })
        });
    }

    // Twilio.

    fn step(&mut self, sid: String) {
        let mut state = self.hub.state();
        let Some(word) = state.twilio.step(&sid) else { return };
        let copies = match (state.meets(|weather| weather.callback_lost), state.meets(|weather| weather.callback_twice))
        {
            (true, _) => 0,
            (false, true) => 2,
            (false, false) => 1,
        };
        state.say(|| format!("Twilio: {sid} is {word}, told {copies} times"));
        for _ in 0..copies {
            let late = if state.meets(|weather| weather.callback_late) { state.millis(0, 7_200_000) } else { secs(0) };
            let wait = state.millis(20, 500) + late;
            let id = state.id();
            state.callbacks.insert(id, Callback { sid: sid.clone(), word, tries_left: 2 });
            state.after(wait, Event::Callback(id));
        }
        let wait = state.millis(50, 5_000);
        state.after(wait, Event::Step(sid));
    }

    fn call_back(&mut self, id: u64) {
        let Some(request) = Callers::callback(&self.hub, id) else { return };
        self.http(Function::TwilioWebhook, Origin::Callback(id), request);
    }
}

impl State {
    pub fn callback(&self, id: u64) -> Option<Callback> {
        self.callbacks.get(&id).cloned()
    }
}
