//! The world as a small machine: tables, a vault, queues, a mailbox and a Twilio, in memory, with a clock that tests
//! set.
//!
//! Each port method is atomic. Before it acts it steps back up to two times (the seed says how often), so that futures
//! that are joined meet each other in an order that differs by seed and is the same every time.

mod access_log;
mod accounts;
mod api_keys;
mod billing;
mod connections;
mod credentials;
mod endpoints;
mod ledger;
mod messages;
mod opt_outs;
mod quarantine;
mod reconciliations;
mod routines;
mod templates;
mod twilio;
mod velocity;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::account::{Gate, Peppers, Stop};
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId, RequestId};
use crate::ledger::{Allowance, Entry, Purse, UsageEvent};
use crate::message::Message;
use crate::opt_out::OptOut;
use crate::platform::{Chance, Clock, EnqueueJob, Job, Letter, Platform, PlatformKeys, Queue, SendMail};
use crate::seal::{Purpose, Sealed};

pub use billing::StripeView;
pub use credentials::Opening;
pub use twilio::{CameIn, Checked, Taken, TwilioView};

/// Every port, kept in memory. Clones share one state.
#[derive(Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
}

/// A job in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// The job.
    pub job: Job,
    /// The delay that was asked for.
    pub delay_secs: u16,
    /// A worker gets it from then on.
    pub ready: Timestamp,
}

/// A mail that went out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMail {
    /// To.
    pub to: String,
    /// Subject.
    pub subject: String,
    /// Plain text.
    pub text: String,
}

/// When a planned fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strikes {
    /// Nothing took place.
    Before,
    /// It took place, and its answer is lost.
    After,
    /// Nothing took place, and the caller panics.
    Panic,
}

/// All there is.
struct State {
    seed: u64,
    drawn: u64,
    now: Timestamp,
    request: Option<RequestId>,
    accounts: accounts::Accounts,
    access_log: access_log::AccessLog,
    connections: connections::Connections,
    credentials: credentials::Credentials,
    endpoints: endpoints::Endpoints,
    messages: messages::Messages,
    quarantine: quarantine::Quarantine,
    reconciliations: reconciliations::Reconciliations,
    routines: routines::Routines,
    velocity: velocity::Velocity,
    opt_outs: opt_outs::OptOuts,
    templates: templates::Templates,
    ledger: ledger::Ledger,
    stripe: billing::Stripe,
    twilio: twilio::Twilio,
    platform: Arc<Platform>,
    jobs: Vec<Queued>,
    mails: Vec<SentMail>,
    calls: BTreeMap<&'static str, u32>,
    faults: BTreeMap<String, VecDeque<(Strikes, Fault)>>,
}

impl State {
    /// A block of the seed's randomness: the same seed, the same world.
    fn block(&mut self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(self.seed.to_be_bytes());
        hasher.update(self.drawn.to_be_bytes());
        self.drawn += 1;
        hasher.finalize().into()
    }

    fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(32) {
            let block = self.block();
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
        bytes
    }

    /// The fault that is planned to come first; a planned panic panics.
    fn strike_before<'w>(state: MutexGuard<'w, Self>, method: &str) -> Result<MutexGuard<'w, Self>, Fault> {
        let mut state = state;
        if state.strike(method, Strikes::Panic).is_some() {
            drop(state);
            panic!("a planted panic in {method}");
        }
        match state.strike(method, Strikes::Before) {
            Some(fault) => Err(fault),
            None => Ok(state),
        }
    }

    fn strike(&mut self, method: &str, when: Strikes) -> Option<Fault> {
        let planned = self.faults.get_mut(method)?;
        let (strikes, _) = planned.front()?;
        if *strikes == when { planned.pop_front().map(|(_, fault)| fault) } else { None }
    }
}

impl World {
    /// A world at 2026-11-24 06:00 UTC; the same seed gives the same ids, tokens and order of steps.
    pub fn new(seed: u64) -> Self {
        let now = "2026-11-24T06:00:00Z".parse().unwrap();
        let platform = Platform {
            index_key: Zeroizing::new(vec![7; 32]),
            peppers: Peppers(BTreeMap::from([(1, Zeroizing::new(vec![9; 32]))])),
            twilio_auth_tokens: Vec::new(),
            stripe_webhook_secrets: Vec::new(),
            stripe_key: None,
        };
        let mut state = State {
            seed,
            drawn: 0,
            now,
            request: None,
            accounts: accounts::Accounts::default(),
            access_log: access_log::AccessLog::default(),
            connections: connections::Connections::default(),
            credentials: credentials::Credentials::default(),
            endpoints: endpoints::Endpoints::default(),
            messages: messages::Messages::default(),
            quarantine: quarantine::Quarantine::default(),
            reconciliations: reconciliations::Reconciliations::default(),
            routines: routines::Routines::default(),
            velocity: velocity::Velocity::default(),
            opt_outs: opt_outs::OptOuts::default(),
            templates: templates::Templates::default(),
            ledger: ledger::Ledger::default(),
            stripe: billing::Stripe::default(),
            twilio: twilio::Twilio::default(),
            platform: Arc::new(platform),
            jobs: Vec::new(),
            mails: Vec::new(),
            calls: BTreeMap::new(),
            faults: BTreeMap::new(),
        };
        let master = state.random();
        state.credentials.masters.push(Some(master));
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One call of a port method: steps back, is counted, meets the fault that was planned for it, and acts at once.
    async fn call<T>(
        &self,
        method: &'static str,
        act: impl FnOnce(&mut State) -> Result<T, Fault> + Send,
    ) -> Result<T, Fault> {
        let [dice] = self.state().random::<1>();
        step_back(dice % 3).await;
        let mut state = self.state();
        *state.calls.entry(method).or_default() += 1;
        let mut state = State::strike_before(state, method)?;
        let done = act(&mut state)?;
        match state.strike(method, Strikes::After) {
            Some(fault) => Err(fault),
            None => Ok(done),
        }
    }

    /// Sets the clock.
    pub fn set_now(&self, now: Timestamp) {
        self.state().now = now;
    }

    /// Moves the clock.
    pub fn advance(&self, by: SignedDuration) {
        self.state().now += by;
    }

    /// What is worked on from now on: the access log names it.
    pub fn set_request(&self, request: RequestId) {
        self.state().request = Some(request);
    }

    /// The next call of this port method fails and changes nothing. Several plans for one method strike one after
    /// the other. For `create_message`, `Ambiguous` is a time-out and the others are "certainly not processed".
    pub fn fail_next(&self, method: &str, fault: Fault) {
        self.plan(method, Strikes::Before, fault);
    }

    /// The next call of this port method that succeeds takes place, and its answer is lost: the caller sees the fault.
    pub fn lose_answer(&self, method: &str, fault: Fault) {
        self.plan(method, Strikes::After, fault);
    }

    /// The next call of this port method panics and changes nothing.
    pub fn panic_next(&self, method: &str) {
        self.plan(method, Strikes::Panic, Fault::permanent("a planted panic"));
    }

    /// Forgets the faults and panics that did not strike.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    fn plan(&self, method: &str, strikes: Strikes, fault: Fault) {
        assert!(METHODS.contains(&method), "no port has a method {method}");
        self.state().faults.entry(method.to_owned()).or_default().push_back((strikes, fault));
    }

    /// How often each port method was called, failed calls included; the clock is not counted.
    pub fn calls(&self) -> BTreeMap<&'static str, u32> {
        self.state().calls.clone()
    }

    /// Counts from nought again.
    pub fn forget_calls(&self) {
        self.state().calls.clear();
    }

    /// Every job that waits, oldest first.
    pub fn jobs(&self) -> Vec<Job> {
        self.state().jobs.iter().map(|queued| queued.job.clone()).collect()
    }

    /// The same with delays.
    pub fn queued(&self) -> Vec<Queued> {
        self.state().jobs.clone()
    }

    /// Takes out of one queue what a worker would get now; delayed jobs stay until the clock is there.
    pub fn take_jobs(&self, queue: Queue) -> Vec<Job> {
        let mut state = self.state();
        let now = state.now;
        let taken = state.jobs.extract_if(.., |queued| queued.job.queue() == queue && queued.ready <= now);
        taken.map(|queued| queued.job).collect()
    }

    /// Every mail that went out, oldest first.
    pub fn mails(&self) -> Vec<SentMail> {
        self.state().mails.clone()
    }

    /// Twilio's side.
    pub fn twilio(&self) -> TwilioView<'_> {
        TwilioView { world: self }
    }

    /// Stripe's side.
    pub fn stripe(&self) -> StripeView<'_> {
        StripeView { world: self }
    }

    /// An account's messages, newest first.
    pub fn messages_of(&self, account: AccountId) -> Vec<Message> {
        self.state().messages.of(account, None).collect()
    }

    /// A message's sealed payload, while it has one.
    pub fn payload_of(&self, account: AccountId, message: MessageId) -> Option<Sealed> {
        self.state().messages.payload(account, message)
    }

    /// An account's allowance.
    pub fn allowance(&self, account: AccountId) -> Option<Allowance> {
        self.state().ledger.allowances.get(&account).cloned()
    }

    /// Changes an allowance as an operator could.
    pub fn change_allowance(&self, account: AccountId, change: impl FnOnce(&mut Allowance)) {
        change(self.state().ledger.allowances.get_mut(&account).expect("the account has an allowance"));
    }

    /// An account's gate.
    pub fn gate(&self, account: AccountId) -> Option<Gate> {
        self.state().accounts.gates.get(&account).cloned()
    }

    /// Changes a gate as an operator could.
    pub fn change_gate(&self, account: AccountId, change: impl FnOnce(&mut Gate)) {
        change(self.state().accounts.gates.get_mut(&account).expect("the account has a gate"));
    }

    /// Stops an account's sending from outside.
    pub fn stop(&self, account: AccountId, stop: Stop) {
        let now = self.now();
        self.change_gate(account, |gate| gate.stop(stop, now));
    }

    /// The ledger's entries of an account, in the order of posting.
    pub fn entries(&self, account: AccountId) -> Vec<Entry> {
        self.state().ledger.entries_of(account)
    }

    /// What was charged of an account's work, with its entries.
    pub fn charges(&self, account: AccountId) -> Vec<(Entry, UsageEvent)> {
        self.entries(account).into_iter().filter_map(|entry| Some((entry.clone(), entry.usage?))).collect()
    }

    /// An account's credits.
    pub fn purse(&self, account: AccountId) -> Option<Purse> {
        self.state().ledger.purses.get(&account).cloned()
    }

    /// Gives the platform a number of its own, whose webhooks these Auth Tokens sign, the current one first.
    pub fn set_platform_tokens(&self, tokens: &[&str]) {
        let mut state = self.state();
        state.platform = Arc::new(Platform {
            index_key: state.platform.index_key.clone(),
            peppers: Peppers(state.platform.peppers.0.clone()),
            twilio_auth_tokens: tokens.iter().map(|token| (*token).into()).collect(),
            stripe_webhook_secrets: state.platform.stripe_webhook_secrets.clone(),
            stripe_key: state.platform.stripe_key.clone(),
        });
    }

    /// Gives the platform the secrets that Stripe signs its events with.
    pub fn set_stripe_secrets(&self, secrets: &[&str]) {
        let mut state = self.state();
        state.platform = Arc::new(Platform {
            index_key: state.platform.index_key.clone(),
            peppers: Peppers(state.platform.peppers.0.clone()),
            twilio_auth_tokens: state.platform.twilio_auth_tokens.clone(),
            stripe_webhook_secrets: secrets.iter().map(|secret| (*secret).into()).collect(),
            stripe_key: state.platform.stripe_key.clone(),
        });
    }

    /// What is known of a recipient and a sender of the account.
    pub fn opt_out(&self, account: AccountId, own: &str, other_hash: &str) -> OptOut {
        self.state().opt_outs.get(account, own, other_hash)
    }

    /// Every opening of a data key that was noted.
    pub fn openings(&self) -> Vec<Opening> {
        self.state().credentials.openings.clone()
    }

    /// As if an account's chain had counted so many openings of a key already.
    pub fn set_openings(&self, account: AccountId, purpose: Purpose, version: u32, openings: u64) {
        let mut state = self.state();
        let head = state.access_log.heads.entry(account).or_default();
        head.openings = [(purpose, version, openings)].into_iter().collect();
    }

    /// Forgets the opened keys, as a new environment of the function would have none.
    pub fn forget_keys(&self) {
        self.state().credentials.forget();
    }

    /// Whether a text lies anywhere in the tables or in a queue in clear (promises N1 and N2).
    pub fn holds_in_clear(&self, text: &str) -> bool {
        self.at_rest().windows(text.len().max(1)).any(|window| window == text.as_bytes())
    }

    /// Everything in the tables and queues, as bytes.
    pub fn at_rest(&self) -> Vec<u8> {
        let state = self.state();
        let mut bytes = Vec::new();
        state.accounts.dump(&mut bytes);
        state.connections.dump(&mut bytes);
        state.credentials.dump(&mut bytes);
        state.endpoints.dump(&mut bytes);
        state.messages.dump(&mut bytes);
        state.quarantine.dump(&mut bytes);
        state.reconciliations.dump(&mut bytes);
        state.routines.dump(&mut bytes);
        state.velocity.dump(&mut bytes);
        state.opt_outs.dump(&mut bytes);
        state.templates.dump(&mut bytes);
        state.ledger.dump(&mut bytes);
        state.stripe.dump(&mut bytes);
        dump(&mut bytes, &state.jobs);
        bytes
    }
}

/// Adds a row as text.
fn dump(bytes: &mut Vec<u8>, row: &impl Debug) {
    bytes.extend(format!("{row:?}\n").bytes());
}

/// The same refusal as the store's for a transaction or a query that it does not take.
fn not_valid(what: &str) -> Fault {
    Fault::Permanent(format!("{what}: ValidationException"))
}

/// Lets others go first, so many times.
async fn step_back(mut times: u8) {
    std::future::poll_fn(|context| {
        if times == 0 {
            return Poll::Ready(());
        }
        times -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Clock for World {
    fn now(&self) -> Timestamp {
        self.state().now
    }
}

impl Chance for World {
    fn random<const N: usize>(&self) -> Result<[u8; N], Fault> {
        let mut state = self.state();
        *state.calls.entry("random").or_default() += 1;
        State::strike_before(state, "random").map(|mut state| state.random())
    }
}

impl PlatformKeys for World {
    async fn platform(&self) -> Result<Arc<Platform>, Fault> {
        self.call("platform", |state| Ok(Arc::clone(&state.platform))).await
    }
}

impl EnqueueJob for World {
    async fn enqueue(&self, job: Job, delay_secs: u16) -> Result<(), Fault> {
        self.call("enqueue", |state| {
            let ready = state.now + SignedDuration::from_secs(i64::from(delay_secs.min(900)));
            state.jobs.push(Queued { job, delay_secs, ready });
            Ok(())
        })
        .await
    }

    async fn enqueue_all(&self, jobs: Vec<Job>, delay_secs: u16) -> Result<(), Fault> {
        self.call("enqueue_all", |state| {
            let ready = state.now + SignedDuration::from_secs(i64::from(delay_secs.min(900)));
            state.jobs.extend(jobs.into_iter().map(|job| Queued { job, delay_secs, ready }));
            Ok(())
        })
        .await
    }
}

impl SendMail for World {
    async fn send_mail(&self, letter: Letter) -> Result<(), Fault> {
        self.call("send_mail", |state| {
            let Letter { to, subject, text } = letter;
            state.mails.push(SentMail { to: to.as_str().to_owned(), subject, text });
            Ok(())
        })
        .await
    }
}

/// Every port method that can be planned to fail.
const METHODS: [&str; 186] = [
    "adopt_sid",
    "append_entries",
    "begin_batch",
    "begin_connection",
    "call_endpoint",
    "call_self",
    "cancel_message",
    "check_carrier",
    "claim_delivery",
    "claim_message",
    "confirm_email",
    "count_account",
    "count_journal",
    "count_prefix",
    "count_try",
    "create_account",
    "create_api_key",
    "create_delivery",
    "create_endpoint",
    "create_message",
    "create_template",
    "credential_history",
    "delete_customer",
    "delete_endpoint",
    "deliveries_since",
    "disable_endpoint",
    "do_routine_at",
    "end_connection",
    "end_lease",
    "end_session",
    "endpoint_told",
    "enqueue",
    "enqueue_all",
    "enter_opt_outs",
    "fetch_media",
    "find_customer",
    "find_due",
    "find_due_connections",
    "find_due_deliveries",
    "find_due_routines",
    "find_ending",
    "find_hook",
    "find_paid",
    "find_user",
    "free_sids",
    "has_stopped",
    "is_applied",
    "keep_customer",
    "keep_differences",
    "keep_mail_token",
    "keep_seen",
    "lift_freeze",
    "list_api_keys",
    "list_arrived",
    "list_at_carrier",
    "list_connections",
    "list_day",
    "list_deliveries",
    "list_differences",
    "list_endpoints",
    "list_entries",
    "list_invoices",
    "list_made",
    "list_media",
    "list_messages",
    "list_numbers",
    "list_opt_outs",
    "list_pool",
    "list_posted",
    "list_reports",
    "list_services",
    "list_sessions",
    "list_templates",
    "load_allowance",
    "load_api_key",
    "load_billing",
    "load_charges",
    "load_connection",
    "load_counted",
    "load_course",
    "load_credential",
    "load_delivery",
    "load_endpoint",
    "load_gate",
    "load_guards",
    "load_head",
    "load_journal",
    "load_keys",
    "load_message",
    "load_opt_outs",
    "load_owner",
    "load_pending",
    "load_profile",
    "load_progress",
    "load_purse",
    "load_report",
    "load_seen",
    "load_sender",
    "load_session",
    "load_template",
    "load_to_tell",
    "load_totals",
    "load_user",
    "load_with_payload",
    "look_again",
    "look_at_connection_again",
    "look_at_delivery_again",
    "look_at_purse_again",
    "look_up",
    "make_customer",
    "mint_key",
    "note_alert",
    "note_applied",
    "note_failing",
    "note_recovered",
    "note_warning",
    "open_key",
    "open_portal",
    "opt_out_senders",
    "platform",
    "post_charge",
    "post_correction",
    "post_release",
    "put_right",
    "quarantine",
    "random",
    "read_access",
    "read_charge",
    "read_checkout",
    "read_dispute",
    "read_fraud_warning",
    "read_invoice",
    "read_quarantine",
    "read_record",
    "read_refund",
    "read_settings",
    "read_subscription",
    "read_text",
    "read_usage",
    "record_attempt",
    "record_chunk",
    "record_consent",
    "record_inbound",
    "record_listing",
    "record_message",
    "record_outcome",
    "record_platform_word",
    "record_resend",
    "remembered_key",
    "remove_credential",
    "remove_opt_outs",
    "remove_template",
    "replace_credential",
    "replace_keys",
    "replace_profile",
    "replace_template",
    "resend_delivery",
    "revoke_api_key",
    "rewrap_key",
    "save_course",
    "save_credential",
    "save_policy",
    "save_progress",
    "save_report",
    "save_standing",
    "save_step",
    "save_zone",
    "send_mail",
    "start_checkout",
    "start_session",
    "stop_looking",
    "stop_sending",
    "stop_told",
    "take_slots",
    "tell_endpoints",
    "touch_api_key",
    "touch_session",
    "unseen_sids",
    "update_and_tell",
    "update_connection",
    "update_endpoint",
    "update_message",
    "update_template",
    "waiting",
    "walk_keys",
    "write_settings",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::{LinkAccess, PENDING_SHARDS};
    use crate::credential::{Auth, Carrier, Check, CheckCarrier, OpenKey, Region};
    use crate::ids::UserId;
    use crate::message::{ClaimMessage, CreateMessage, Created, Fence, Payload, ReadMessages, RecordMessage, Recorded};
    use crate::platform::Mail;
    use crate::testing::fresh::{self, secs};

    fn carrier(world: &World) -> Carrier {
        let auth = Auth::AuthToken("a token".into());
        Carrier { account_sid: fresh::sid(world, "AC"), region: Region::Us1, auth }
    }

    async fn post(world: &World, carrier: &Carrier) -> Created {
        let payload = Payload { to: "+14155552671".to_owned(), body: "hello".to_owned(), media_urls: Vec::new() };
        world.create_message(carrier, fresh::OWN, &payload, "https://api.example.com/hook", 60).await
    }

    #[tokio::test]
    async fn a_planned_fault_changes_nothing_and_a_lost_answer_hides_what_took_place() {
        let world = World::new(1);
        let account = fresh::account(&world, 10).await;
        let outgoing = fresh::outgoing(&world, account, 1, world.now());
        world.fail_next("record_message", Fault::transient("busy"));
        world.lose_answer("record_message", Fault::transient("no answer"));
        assert_eq!(world.record_message(&outgoing).await, Err(Fault::transient("busy")));
        assert_eq!(world.load_message(account, outgoing.message.id).await, Ok(None));
        assert_eq!(world.record_message(&outgoing).await, Err(Fault::transient("no answer")));
        assert_eq!(world.messages_of(account), vec![outgoing.message.clone()]);
        assert_eq!(world.record_message(&outgoing).await, Ok(Recorded::Earlier(outgoing.idempotency)));
        assert_eq!(world.calls()["record_message"], 3);
    }

    #[tokio::test]
    async fn twilio_answers_as_scripted_and_remembers_what_it_took() {
        let world = World::new(1);
        let carrier = carrier(&world);
        let busy = Created::NotProcessed { retry_after_secs: Some(3) };
        world.twilio().answer_next(busy.clone());
        world.twilio().lose_next_answer();
        assert_eq!(post(&world, &carrier).await, busy);
        assert!(world.twilio().taken().is_empty());
        assert_eq!(post(&world, &carrier).await, Created::Unknown);
        let Created::Accepted { sid } = post(&world, &carrier).await else { panic!("the default is to accept") };
        world.fail_next("create_message", Fault::Ambiguous("reset".to_owned()));
        assert_eq!(post(&world, &carrier).await, Created::Unknown);
        let taken = world.twilio().taken();
        assert_eq!((world.twilio().posts(), taken.len()), (3, 2), "the reset came before Twilio saw anything");
        assert_eq!((taken[1].sid.as_str(), taken[1].body.as_str()), (sid.as_str(), "hello"));
        assert_ne!(taken[0].sid, sid);
        world.twilio().check_says(carrier.account_sid.as_str(), Check::Refused);
        assert_eq!(world.check_carrier(&carrier).await, Ok(Check::Refused));
        assert_eq!(world.twilio().checked().len(), 1);
    }

    #[tokio::test]
    async fn a_delayed_job_comes_when_the_clock_is_there() {
        let world = World::new(1);
        let (account, user) = (AccountId::from_bits(1), UserId::from_bits(1));
        let job = Job::Mail { account, user, mail: Mail::SignUp };
        world.enqueue(job.clone(), 10).await.unwrap();
        assert_eq!(world.take_jobs(Queue::Mail), []);
        world.advance(secs(10));
        assert_eq!(world.take_jobs(Queue::Send), []);
        assert_eq!(world.take_jobs(Queue::Mail), [job]);
        assert_eq!(world.jobs(), []);
    }

    #[tokio::test]
    async fn an_opened_key_is_forgotten_after_five_minutes() {
        let world = World::new(1);
        let (_, wrapped) = fresh::minted(&world, AccountId::from_bits(1), Purpose::Send, 1).await;
        for openings in [1, 2] {
            world.open_key(&wrapped, None).await.unwrap();
            world.advance(secs(299));
            world.open_key(&wrapped, None).await.unwrap();
            assert_eq!(world.openings().len(), openings);
            world.advance(secs(1));
            assert!(world.remembered_key(wrapped.account, Purpose::Send, None).is_none());
        }
    }

    #[tokio::test]
    async fn an_opening_names_its_request() {
        let world = World::new(1);
        let (_, wrapped) = fresh::minted(&world, AccountId::from_bits(1), Purpose::Send, 1).await;
        world.set_request(RequestId::from_bits(5));
        world.open_key(&wrapped, None).await.unwrap();
        let mut pending = Vec::new();
        for shard in 0..PENDING_SHARDS {
            pending.extend(world.load_pending(shard, 10).await.unwrap());
        }
        let named: Vec<_> = pending.iter().map(|opening| opening.request_id).collect();
        assert_eq!(named, [Some(RequestId::from_bits(5))]);
    }

    #[tokio::test]
    async fn what_lies_in_clear_is_found_wherever_it_lies() {
        let world = World::new(1);
        let account = fresh::account(&world, 10).await;
        let mut outgoing = fresh::outgoing(&world, account, 1, world.now());
        outgoing.payload = Sealed(b"a careless seal".to_vec());
        world.record_message(&outgoing).await.unwrap();
        assert!(world.holds_in_clear("careless"));
        assert!(world.holds_in_clear(&outgoing.idempotency.fingerprint));
        assert!(!world.holds_in_clear("careful"));
    }

    #[tokio::test]
    async fn joined_calls_meet_in_an_order_that_the_seed_decides() {
        let mut orders = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let world = World::new(seed);
            let account = fresh::account(&world, 10).await;
            let message = fresh::accepted(&world, account, world.now()).await;
            let claim = |n| world.claim_message(account, message.id, Fence(n), world.now());
            let (first, _) = futures::future::join(claim(1), claim(2)).await;
            orders.insert(matches!(first, Ok(crate::message::Claim::Mine(_))));
        }
        assert_eq!(orders.len(), 2, "the first caller wins in some worlds and loses in others");
    }
}
