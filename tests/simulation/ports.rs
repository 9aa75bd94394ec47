//! Every port as a function has it in one environment: the fake world behind weather. Each call is two await points,
//! one before its effect and one after it, and the scheduler decides what happens at either.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use jiff::{SignedDuration, Timestamp};
use telbuddy::account::{Gate, LoadGate, Stop, StopSending, Stopped};
use telbuddy::api_key::{ApiKey, CheckApiKey};
use telbuddy::connection::{FindDueConnections, PageMark, Target, Trouble};
use telbuddy::credential::{
    Carrier, FindHook, FoundHook, History, KeepCredential, LoadKeys, OpenKey, SaveCredential, Saved, StoredCredential,
};
use telbuddy::endpoint::{Delivery, FindDueDeliveries, LoadToTell, ToTell, UpdateAndTell};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, DeliveryId, EndpointId, MessageId, SessionId, TemplateId};
use telbuddy::inbound::Consent;
use telbuddy::ledger::{
    Entry, KeepPurse, PostOutcome, Posted, Purse, PurseFacts, RollUpUsage, RolledUp, Step, Stepped,
};
use telbuddy::message::{
    Adopted, CancelMessage, Canceled, Chunk, ChunkRecorded, Claim, ClaimMessage, Claimed, CreateMessage, Created,
    Fence, FindDue, Guard, Idempotency, IdempotencyKey, ListAtCarrier, ListedPage, LoadGuards, LoadSender, Loaded,
    Message, Outcome, Outgoing, Payload, ReadMessages, RecordBatch, RecordInbound, RecordMessage, RecordOutcome,
    RecordResend, Recorded, Resent, Seen, SettleMessage, Status, UpdateMessage,
};
use telbuddy::opt_out::{Heard, RecordConsent};
use telbuddy::pace::TakeSlots;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Job};
use telbuddy::quarantine::{Cause, Failure, Noted, QuarantineWebhook};
use telbuddy::routine::{FindDueRoutines, Routine};
use telbuddy::seal::{DataKey, Purpose, Sealed, WrappedKeys};
use telbuddy::secret::{HookId, TokenHash};
use telbuddy::session::{KeepSessions, Proof, Session};
use telbuddy::velocity::{CountPassing, Mark, Minute};

use super::invariants::Watch;
use super::machine::{Bug, Hub, Kind, TaskId};

/// An effect that does not borrow: it can take place when its caller is gone.
pub type Effect<T> = Pin<Box<dyn Future<Output = Result<T, Fault>> + Send>>;

/// A place where one function runs, one task at a time.
#[derive(Default)]
pub struct Place {
    /// How far its clock is from the true one.
    pub off: SignedDuration,
    keys: BTreeMap<(AccountId, Purpose, Option<u32>), (DataKey, Timestamp)>,
}

/// The ports of one task.
#[derive(Clone)]
pub struct Env {
    pub hub: Hub,
    pub task: TaskId,
    pub place: Arc<Mutex<Place>>,
}

/// Runs an effect at this instant: the fake world waits for nobody.
pub fn at_once<T>(mut effect: Effect<T>) -> Result<T, Fault> {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(done) = effect.as_mut().poll(&mut context) {
            return done;
        }
    }
}

impl Env {
    async fn call<T: Send + 'static>(
        &self,
        method: &'static str,
        effect: impl Fn() -> Effect<T> + Send,
    ) -> Result<T, Fault> {
        let fate = self.hub.fate(self.task, method);
        self.sleep(fate.before).await;
        let no_answer = || Fault::Transient(format!("{method}: no answer"));
        let done = match fate.kind {
            Kind::Fine => at_once(effect()),
            Kind::Throttled => Err(Fault::Transient(format!("{method}: throttled"))),
            Kind::RequestLost => Err(no_answer()),
            Kind::AnswerLost => at_once(effect()).and_then(|_| Err(no_answer())),
            Kind::Repeated => at_once(effect()).and_then(|_| at_once(effect())),
            Kind::Late(after) => {
                self.hub.later(after, effect());
                Err(no_answer())
            }
        };
        self.hub.note(self.task, method, &fate, done.as_ref().err());
        self.sleep(fate.after).await;
        done
    }

    async fn sleep(&self, wait: SignedDuration) {
        let until = self.hub.wake(self.task, wait);
        std::future::poll_fn(|context| {
            if self.hub.now() >= until {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// What an argument is inside an effect: its own.
macro_rules! own {
    ($arg:ident Option<& $($of:tt)*) => {
        $arg.cloned()
    };
    ($arg:ident & $($of:tt)*) => {
        $arg.to_owned()
    };
    ($arg:ident $($of:tt)*) => {
        $arg
    };
}

/// And how it is handed on.
macro_rules! lend {
    ($arg:ident Option<& $($of:tt)*) => {
        $arg.as_ref()
    };
    ($arg:ident & $($of:tt)*) => {
        &$arg
    };
    ($arg:ident $($of:tt)*) => {
        $arg
    };
}

/// Whose row an effect writes, if it is one message's.
macro_rules! about {
    () => {
        None
    };
    ($account:expr, $id:expr) => {
        Some(($account, $id))
    };
}

/// Ports that are the fake world's behind [`Env::call`]. `of`: the message whose row is looked at after the effect.
macro_rules! ports {
    ($($port:ident { $(
        fn $method:ident($(($arg:ident: $($of:tt)*)),*) -> $ok:ty $(, of $account:expr, $id:expr)?;
    )* })*) => { $(
        impl $port for Env { $(
            async fn $method(&self, $($arg: $($of)*),*) -> Result<$ok, Fault> {
                let hub = self.hub.clone();
                $(let $arg = own!($arg $($of)*);)*
                self.call(stringify!($method), move || {
                    let hub = hub.clone();
                    $(let $arg = $arg.clone();)*
                    Box::pin(async move {
                        let about = about!($($account, $id)?);
                        let done = hub.world.$method($(lend!($arg $($of)*)),*).await;
                        hub.observe(about);
                        done
                    })
                })
                .await
            }
        )* }
    )* };
}

ports! {
    KeepSessions {
        fn start_session((session: Session)) -> ();
        fn load_session((account: AccountId), (hash: &TokenHash)) -> Option<Session>;
        fn touch_session((account: AccountId), (hash: &TokenHash), (now: Timestamp)) -> bool;
        fn list_sessions((account: AccountId), (now: Timestamp)) -> Vec<Session>;
        fn end_session((account: AccountId), (session: SessionId)) -> bool;
    }
    CheckApiKey {
        fn load_api_key((account: AccountId), (hash: &TokenHash)) -> Option<ApiKey>;
        fn touch_api_key((account: AccountId), (hash: &TokenHash), (now: Timestamp)) -> bool;
    }
    LoadSender {
        fn load_sender((proof: &Proof), (key: &IdempotencyKey), (keys: &[Purpose]), (template: Option<TemplateId>))
            -> Loaded;
    }
    RecordMessage {
        fn record_message((outgoing: &Outgoing)) -> Recorded, of outgoing.message.account, outgoing.message.id;
    }
    RecordBatch {
        fn begin_batch((account: AccountId), (record: &Idempotency), (now: Timestamp)) -> Option<Idempotency>;
        fn record_chunk((chunk: &Chunk)) -> ChunkRecorded;
    }
    ReadMessages {
        fn load_message((account: AccountId), (message: MessageId)) -> Option<Message>;
        fn list_messages((account: AccountId), (before: Option<MessageId>), (limit: u16)) -> Vec<Message>;
    }
    CancelMessage {
        fn cancel_message((account: AccountId), (message: MessageId), (now: Timestamp)) -> Canceled,
            of account, message;
    }
    ClaimMessage {
        fn claim_message((account: AccountId), (message: MessageId), (fence: Fence), (now: Timestamp)) -> Claim,
            of account, message;
    }
    RecordOutcome {
        fn record_outcome((claimed: &Claimed), (outcome: &Outcome), (now: Timestamp)) -> Status,
            of claimed.message.account, claimed.message.id;
    }
    UpdateMessage {
        fn update_message((message: &Message), (due: Option<Timestamp>)) -> bool, of message.account, message.id;
    }
    LoadToTell {
        fn load_to_tell((account: AccountId), (message: MessageId)) -> Option<ToTell>;
    }
    UpdateAndTell {
        fn update_and_tell((message: &Message), (due: Option<Timestamp>), (told: &[Delivery]),
            (failure: Option<&Entry>)) -> bool, of message.account, message.id;
    }
    FindDueDeliveries {
        fn find_due_deliveries((shard: u8), (now: Timestamp), (limit: u16)) -> Vec<(AccountId, EndpointId, DeliveryId)>;
        fn look_at_delivery_again((account: AccountId), (endpoint: EndpointId), (delivery: DeliveryId),
            (at: Timestamp)) -> ();
    }
    RecordInbound {
        fn record_inbound((message: &Message), (due: Timestamp)) -> Seen, of message.account, message.id;
    }
    FindDue {
        fn find_due((shard: u8), (now: Timestamp), (limit: u16)) -> Vec<(AccountId, MessageId)>;
        fn end_lease((message: &Message), (now: Timestamp)) -> bool, of message.account, message.id;
        fn look_again((message: &Message), (at: Timestamp)) -> bool, of message.account, message.id;
        fn stop_looking((message: &Message)) -> (), of message.account, message.id;
    }
    SettleMessage {
        fn load_with_payload((account: AccountId), (message: MessageId)) -> Option<(Message, Option<Sealed>)>;
        fn free_sids((account: AccountId), (sids: Vec<String>)) -> Vec<String>;
        fn adopt_sid((message: &Message), (due: Option<Timestamp>), (told: &[Delivery]),
            (failure: Option<&Entry>)) -> Adopted, of message.account, message.id;
        fn record_listing((message: &Message), (due: Timestamp)) -> bool, of message.account, message.id;
    }
    RecordResend {
        fn record_resend((outgoing: &Outgoing), (dropped: &Message)) -> Resent, of dropped.account, dropped.id;
    }
    KeepCredential {
        fn load_credential((account: AccountId)) -> Option<StoredCredential>;
        fn credential_history((account: AccountId)) -> History;
        fn save_credential((save: SaveCredential)) -> Saved;
        fn remove_credential((stored: &StoredCredential), (sid_hash: &str), (numbers: u32)) -> bool;
    }
    FindDueConnections {
        fn find_due_connections((now: Timestamp), (limit: u16)) -> Vec<(AccountId, Target)>;
        fn look_at_connection_again((account: AccountId), (target: &Target), (at: Timestamp)) -> ();
    }
    FindDueRoutines {
        fn find_due_routines((now: Timestamp), (limit: u16)) -> Vec<(AccountId, Routine)>;
        fn do_routine_at((account: AccountId), (routine: Routine), (at: Timestamp)) -> ();
    }
    RollUpUsage {
        fn load_journal((shard: u8), (limit: u8)) -> Vec<Entry>;
        fn count_journal((entries: &[Entry]), (rolled: &RolledUp)) -> bool;
    }
    KeepPurse {
        fn find_ending((now: Timestamp), (limit: u16)) -> Vec<AccountId>;
        fn note_warning((account: AccountId), (purse: &Purse), (percent: u8)) -> bool;
        fn look_at_purse_again((account: AccountId), (purse: &Purse), (at: Timestamp)) -> ();
        fn load_purse((account: AccountId)) -> Option<PurseFacts>;
        fn save_step((account: AccountId), (step: &Step), (entries: &[Entry]), (now: Timestamp)) -> Stepped;
    }
    LoadGate {
        fn load_gate((account: AccountId)) -> Option<Gate>;
    }
    StopSending {
        fn stop_sending((account: AccountId), (stop: Stop), (version: u32), (now: Timestamp)) -> Stopped;
        fn stop_told((account: AccountId), (stop: Stop), (since: Timestamp)) -> ();
    }
    TakeSlots {
        fn take_slots((account: AccountId), (own: &str), (takes: SignedDuration), (now: Timestamp),
            (latest: Timestamp)) -> Option<Timestamp>;
    }
    CountPassing {
        fn count_prefix((minute: Minute), (prefix: &str), (marks: &BTreeSet<Mark>)) -> BTreeSet<Mark>;
        fn count_account((minute: Minute), (n_messages: u64)) -> u64;
    }
    FindHook {
        fn find_hook((hook: &HookId)) -> Option<FoundHook>;
    }
    QuarantineWebhook {
        fn quarantine((failure: &Failure)) -> Noted;
        fn note_alert((account: AccountId), (cause: Cause), (alerted: Option<Timestamp>)) -> ();
    }
    LoadKeys {
        fn load_keys((account: AccountId), (purpose: Purpose)) -> Option<WrappedKeys>;
    }
}

impl RecordConsent for Env {
    async fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        heard: &Heard,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let (hub, own, other_hash, heard) = (self.hub.clone(), own.to_owned(), other_hash.to_owned(), heard.clone());
        self.call("record_consent", move || {
            let (hub, own, other_hash, heard) = (hub.clone(), own.clone(), other_hash.clone(), heard.clone());
            Box::pin(async move {
                let done = hub.world.record_consent(account, &own, &other_hash, consent, &heard, at).await;
                Watch::consented(&hub, account, &own, &other_hash);
                done
            })
        })
        .await
    }
}

impl LoadGuards for Env {
    async fn load_guards(&self, claimed: &[Claimed], keys: &[(AccountId, Purpose)]) -> Result<Vec<Guard>, Fault> {
        let (hub, claimed, keys) = (self.hub.clone(), claimed.to_owned(), keys.to_owned());
        let deaf = self.hub.has(Bug::DeafToStops);
        self.call("load_guards", move || {
            let (hub, claimed, keys) = (hub.clone(), claimed.clone(), keys.clone());
            Box::pin(async move {
                let mut guards = hub.world.load_guards(&claimed, &keys).await?;
                for guard in &mut guards {
                    guard.opted_out &= !deaf;
                }
                Ok(guards)
            })
        })
        .await
    }
}

impl PostOutcome for Env {
    async fn post_charge(
        &self,
        message: &Message,
        entry: Entry,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<Posted, Fault> {
        let (hub, message, told, failure) = (self.hub.clone(), message.clone(), told.to_owned(), failure.cloned());
        self.call("post_charge", move || {
            let (hub, message, entry) = (hub.clone(), message.clone(), entry.clone());
            let (told, failure) = (told.clone(), failure.clone());
            Box::pin(async move {
                let done = hub.world.post_charge(&message, entry, now, &told, failure.as_ref()).await;
                hub.observe(Some((message.account, message.id)));
                done
            })
        })
        .await
    }

    async fn post_release(
        &self,
        message: &Message,
        now: Timestamp,
        told: &[Delivery],
        failure: Option<&Entry>,
    ) -> Result<bool, Fault> {
        let (hub, message, told, failure) = (self.hub.clone(), message.clone(), told.to_owned(), failure.cloned());
        let unconditional = self.hub.has(Bug::ReleaseWithoutCondition);
        self.call("post_release", move || {
            let (hub, message, told, failure) = (hub.clone(), message.clone(), told.clone(), failure.clone());
            Box::pin(async move {
                let mut done = hub.world.post_release(&message, now, &told, failure.as_ref()).await;
                if unconditional && done == Ok(false) {
                    hub.world.change_allowance(message.account, |allowance| {
                        allowance.held.0 = allowance.held.0.saturating_sub(message.held.0);
                        allowance.free = allowance.free.and(message.held.plus());
                    });
                    done = Ok(true);
                }
                hub.observe(Some((message.account, message.id)));
                done
            })
        })
        .await
    }
}

/// Five minutes, as the vault remembers.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(5);

impl OpenKey for Env {
    fn remembered_key(&self, account: AccountId, purpose: Purpose, version: Option<u32>) -> Option<DataKey> {
        let now = self.now();
        let place = self.place.lock().unwrap();
        let (key, until) = place.keys.get(&(account, purpose, version))?;
        (now < *until).then(|| key.clone())
    }

    async fn open_key(&self, keys: &WrappedKeys, version: Option<u32>) -> Result<DataKey, Fault> {
        let which = (keys.account, keys.purpose, version);
        if let Some(key) = self.remembered_key(which.0, which.1, which.2) {
            return Ok(key);
        }
        let (hub, keys) = (self.hub.clone(), keys.clone());
        let key = self
            .call("open_key", move || {
                let (hub, keys) = (hub.clone(), keys.clone());
                Box::pin(async move {
                    // What it remembers is another environment's.
                    hub.world.forget_keys();
                    hub.world.open_key(&keys, version).await
                })
            })
            .await?;
        let until = self.now() + REMEMBERED;
        self.place.lock().unwrap().keys.insert(which, (key.clone(), until));
        Ok(key)
    }
}

impl EnqueueJob for Env {
    async fn enqueue(&self, job: Job, delay_secs: u16) -> Result<(), Fault> {
        self.enqueue_all(vec![job], delay_secs).await
    }

    async fn enqueue_all(&self, jobs: Vec<Job>, delay_secs: u16) -> Result<(), Fault> {
        let hub = self.hub.clone();
        self.call("enqueue", move || {
            let (hub, jobs) = (hub.clone(), jobs.clone());
            Box::pin(async move {
                hub.enqueue(jobs, delay_secs);
                Ok(())
            })
        })
        .await
    }
}

impl CreateMessage for Env {
    async fn create_message(
        &self,
        carrier: &Carrier,
        sender: &str,
        payload: &Payload,
        status_callback: &str,
        _: u32,
    ) -> Created {
        let connecting = self.hub.fate(self.task, "create_message");
        self.sleep(connecting.before).await;
        let course = self.hub.post(self.task, (carrier.account_sid.as_str(), sender, payload, status_callback));
        self.sleep(course.answered).await;
        match self.hub.answer(course.post) {
            Created::Unknown if self.hub.has(Bug::RetryOnTimeout) => Created::NotProcessed { retry_after_secs: None },
            created => created,
        }
    }
}

impl ListAtCarrier for Env {
    async fn list_at_carrier(
        &self,
        carrier: &Carrier,
        to: &str,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        let fate = self.hub.fate(self.task, "list_at_carrier");
        self.sleep(fate.before).await;
        let page = self.hub.list(carrier.account_sid.as_str(), to, limit, from);
        self.sleep(fate.after).await;
        page
    }
}

impl Clock for Env {
    fn now(&self) -> Timestamp {
        self.hub.now() + self.place.lock().unwrap().off
    }
}

impl Chance for Env {
    fn random<const N: usize>(&self) -> Result<[u8; N], Fault> {
        self.hub.world.random()
    }
}
