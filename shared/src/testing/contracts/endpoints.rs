//! Endpoints: the gate knows each of them, one writer at a time changes one, and deliveries are made, tried and resent
//! once.

use futures::future::{join, join_all};
use jiff::Timestamp;

use super::{at_once, count};
use crate::account::{CreateAccount, LoadGate};
use crate::endpoint::{
    Answer, Attempt, Choice, DELIVER_AGAIN, DELIVERY_LEASE, DELIVERY_SHARDS, Delivery, DeliveryClaim, DeliveryStatus,
    Disabled, Endpoint, EndpointUrl, Event, EventType, FindDueDeliveries, KeepDeliveries, KeepEndpoints, LoadToTell,
    MOST_ENDPOINTS, NoteHealth, PreviousSecret, Reach, Resent, TellEndpoints, ToTell, UpdateAndTell, WhyDisabled,
    WorkDeliveries, delivery_shard,
};
use crate::ids::{AccountId, DeliveryId, EndpointId, EventId};
use crate::ledger::{PostOutcome, Posted};
use crate::message::{
    Adopted, ClaimMessage, Fence, Message, Outcome, RecordMessage, RecordOutcome, Report, SettleMessage, Status,
    apply_report,
};
use crate::platform::{Chance, Clock};
use crate::seal::Sealed;
use crate::testing::fresh::{accepted, account, charge, claimed, dice, secs, sid};

fn new<W: Clock + Chance>(world: &W, account: AccountId, words: &[&str]) -> Endpoint {
    let now = world.now();
    Endpoint {
        account,
        id: EndpointId::new(now, dice(world)),
        url: EndpointUrl::parse("https://example.com/hooks", Reach::Public).unwrap(),
        choice: Choice::parse(words).unwrap(),
        include_content: false,
        description: "Ours".to_owned(),
        secret: Sealed(dice(world).to_be_bytes().to_vec()),
        previous: Vec::new(),
        disabled: None,
        failing_since: None,
        revision: 0,
        created: now,
        updated: now,
    }
}

async fn listeners<W: LoadGate>(world: &W, account: AccountId) -> Vec<(EndpointId, Choice)> {
    world.load_gate(account).await.unwrap().unwrap().listeners.0.into_iter().collect()
}

/// The next change of an endpoint.
fn changed(read: &Endpoint, change: impl FnOnce(&mut Endpoint)) -> Endpoint {
    let mut new = Endpoint { revision: read.revision + 1, ..read.clone() };
    change(&mut new);
    new
}

fn event<W: Chance>(world: &W, kind: EventType, at: Timestamp) -> Event {
    Event { id: EventId::new(at, dice(world)), kind, at, data: r#"{"n":1}"#.to_owned() }
}

async fn delivery<W: KeepDeliveries + Chance>(world: &W, at: Timestamp) -> Delivery {
    let (account, endpoint) = (AccountId::from_bits(dice(world)), EndpointId::from_bits(dice(world)));
    let delivery = Delivery::new(account, endpoint, event(world, EventType::MessageSent, at), at);
    world.create_delivery(&delivery).await.unwrap();
    delivery
}

async fn load<W: KeepDeliveries>(world: &W, delivery: &Delivery) -> Delivery {
    world.load_delivery(delivery.account, delivery.endpoint, delivery.id).await.unwrap().unwrap()
}

async fn claim<W: WorkDeliveries>(world: &W, delivery: &Delivery, fence: Fence, now: Timestamp) -> Option<Delivery> {
    let Delivery { account, endpoint, id, .. } = delivery;
    match world.claim_delivery(*account, *endpoint, *id, fence, now).await.unwrap() {
        DeliveryClaim::Mine(claimed) => Some(*claimed),
        DeliveryClaim::Nothing => None,
    }
}

fn attempt(status: u16, at: Timestamp) -> Attempt {
    Attempt { at, result: Answer::Http { status, bytes: 7 }, took_ms: 12 }
}

/// When the index next shows a delivery, of some times.
async fn due_at<W: FindDueDeliveries>(world: &W, delivery: &Delivery, times: &[Timestamp]) -> Option<Timestamp> {
    for at in times {
        let found = world.find_due_deliveries(delivery_shard(delivery.id), *at, 1_000).await.unwrap();
        if found.contains(&(delivery.account, delivery.endpoint, delivery.id)) {
            return Some(*at);
        }
    }
    None
}

pub async fn an_endpoint_reads_back_and_the_gate_knows_it<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + LoadGate + Clock + Chance,
{
    let account = account(world, 1).await;
    assert_eq!(listeners(world, account).await, []);
    let first = Endpoint { include_content: true, ..new(world, account, &["message.sent", "message.received"]) };
    assert_eq!(world.create_endpoint(&first).await, Ok(true));
    assert_eq!(world.create_endpoint(&first).await, Ok(true), "our own, repeated");
    let second = new(world, account, &["*"]);
    assert_eq!(world.create_endpoint(&second).await, Ok(true));
    assert_eq!(world.load_endpoint(account, first.id).await, Ok(Some(first.clone())));
    let mut both = vec![first.clone(), second.clone()];
    both.sort_by_key(|endpoint| endpoint.id);
    assert_eq!(world.list_endpoints(account).await, Ok(both.clone()));
    let known: Vec<_> = both.iter().map(|endpoint| (endpoint.id, endpoint.choice.clone())).collect();
    assert_eq!(listeners(world, account).await, known);

    let before = PreviousSecret { secret: first.secret.clone(), until: world.now() + secs(60) };
    let disabled = Disabled { at: world.now(), why: WhyDisabled::Customer, untold: false };
    let off = changed(&first, |new| {
        (new.secret, new.previous, new.disabled) = (Sealed(vec![9]), vec![before], Some(disabled));
        new.include_content = false;
    });
    assert_eq!(world.update_endpoint(&off).await, Ok(true));
    assert_eq!(world.update_endpoint(&off).await, Ok(true), "our own, repeated");
    assert_eq!(world.load_endpoint(account, first.id).await, Ok(Some(off)));
    let known = listeners(world, account).await;
    assert!(known.contains(&(first.id, Choice::parse::<&str>(&[]).unwrap())), "{known:?}");

    assert_eq!(world.delete_endpoint(account, first.id).await, Ok(true));
    assert_eq!(world.delete_endpoint(account, first.id).await, Ok(false));
    assert_eq!(world.load_endpoint(account, first.id).await, Ok(None));
    assert_eq!(listeners(world, account).await, [(second.id, second.choice.clone())]);
    let gone = changed(&first, |_| ());
    assert_eq!(world.update_endpoint(&gone).await, Ok(false), "no change brings it back");
    assert_eq!(world.list_endpoints(account).await, Ok(vec![second]));
}

pub async fn of_many_new_endpoints_at_once_exactly_ten_are_stored<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + LoadGate + Clock + Chance,
{
    let account = account(world, 1).await;
    let all: Vec<_> = (0..14).map(|_| new(world, account, &["*"])).collect();
    let stored = join_all(all.iter().map(|new| world.create_endpoint(new))).await;
    let most = usize::try_from(MOST_ENDPOINTS).unwrap();
    assert_eq!((count(&stored, &Ok(true)), count(&stored, &Ok(false))), (most, 4));
    assert_eq!(world.list_endpoints(account).await.unwrap().len(), most);
    assert_eq!(listeners(world, account).await.len(), most);
    let one = world.list_endpoints(account).await.unwrap().remove(0);
    assert_eq!(world.delete_endpoint(account, one.id).await, Ok(true));
    assert_eq!(world.create_endpoint(&new(world, account, &["*"])).await, Ok(true), "there is room again");
}

pub async fn of_two_changes_of_an_endpoint_at_once_one_is_written<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + LoadGate + Clock + Chance,
{
    let account = account(world, 1).await;
    let read = new(world, account, &["*"]);
    assert_eq!(world.create_endpoint(&read).await, Ok(true));
    let changes = ["one", "two"].map(|name| changed(&read, |new| name.clone_into(&mut new.description)));
    let written = join_all(changes.iter().map(|change| world.update_endpoint(change))).await;
    assert_eq!(count(&written, &Ok(true)), 1);
    let stands = world.load_endpoint(account, read.id).await.unwrap().unwrap();
    assert_eq!(written[usize::from(stands == changes[1])], Ok(true));
}

pub async fn of_many_disablings_at_once_one_counts_and_it_is_told_once<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + NoteHealth + LoadGate + Clock + Chance,
{
    let account = account(world, 1).await;
    let endpoint = new(world, account, &["*"]);
    assert_eq!(world.create_endpoint(&endpoint).await, Ok(true));
    let since = world.now();
    for at in [since, since + secs(60)] {
        world.note_failing(account, endpoint.id, at).await.unwrap();
    }
    let read = world.load_endpoint(account, endpoint.id).await.unwrap().unwrap();
    assert_eq!(read.failing_since, Some(since), "the first failure counts");
    let at = since + secs(120);
    let disabled = at_once(8, |_| world.disable_endpoint(&read, WhyDisabled::Failing, at)).await;
    assert_eq!(count(&disabled, &Ok(true)), 1);
    let off = world.load_endpoint(account, endpoint.id).await.unwrap().unwrap();
    assert_eq!(off.disabled, Some(Disabled { at, why: WhyDisabled::Failing, untold: true }));
    assert_eq!(listeners(world, account).await, [(endpoint.id, Choice::parse::<&str>(&[]).unwrap())]);
    world.endpoint_told(account, endpoint.id, at + secs(1)).await.unwrap();
    assert_eq!(world.load_endpoint(account, endpoint.id).await, Ok(Some(off)), "that is another disabling");
    world.endpoint_told(account, endpoint.id, at).await.unwrap();
    let told = world.load_endpoint(account, endpoint.id).await.unwrap().unwrap();
    assert_eq!(told.disabled, Some(Disabled { at, why: WhyDisabled::Failing, untold: false }));
}

pub async fn an_endpoint_that_works_again_is_not_disabled<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + NoteHealth + Clock + Chance,
{
    let account = account(world, 1).await;
    let endpoint = new(world, account, &["*"]);
    assert_eq!(world.create_endpoint(&endpoint).await, Ok(true));
    let since = world.now();
    world.note_failing(account, endpoint.id, since).await.unwrap();
    let read = world.load_endpoint(account, endpoint.id).await.unwrap().unwrap();
    world.note_recovered(account, endpoint.id, since + secs(1)).await.unwrap();
    assert_eq!(world.load_endpoint(account, endpoint.id).await, Ok(Some(read.clone())), "that is a newer failure");
    world.note_recovered(account, endpoint.id, since).await.unwrap();
    assert_eq!(world.load_endpoint(account, endpoint.id).await, Ok(Some(endpoint.clone())));
    assert_eq!(world.disable_endpoint(&read, WhyDisabled::Failing, since + secs(2)).await, Ok(false));
    // Nor is one that its owner changed meanwhile, or that is gone.
    assert_eq!(world.update_endpoint(&changed(&endpoint, |_| ())).await, Ok(true));
    assert_eq!(world.disable_endpoint(&endpoint, WhyDisabled::Gone, since + secs(2)).await, Ok(false));
    assert_eq!(world.delete_endpoint(account, endpoint.id).await, Ok(true));
    world.note_failing(account, endpoint.id, since).await.unwrap();
    assert_eq!(world.load_endpoint(account, endpoint.id).await, Ok(None), "no note brings it back");
}

pub async fn a_message_loads_with_whoever_is_to_be_told<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + LoadToTell + RecordMessage + Clock + Chance,
{
    let account = account(world, 10).await;
    let message = accepted(world, account, world.now()).await;
    let ToTell { message: found, listeners, .. } = world.load_to_tell(account, message.id).await.unwrap().unwrap();
    assert_eq!((&found, listeners.0.len()), (&message, 0));
    let endpoint = new(world, account, &["message.sent"]);
    assert_eq!(world.create_endpoint(&endpoint).await, Ok(true));
    let ToTell { listeners, .. } = world.load_to_tell(account, message.id).await.unwrap().unwrap();
    assert_eq!(listeners.of(EventType::MessageSent).collect::<Vec<_>>(), [endpoint.id]);
    let other = crate::ids::MessageId::from_bits(dice(world));
    assert_eq!(world.load_to_tell(account, other).await, Ok(None));
}

pub async fn an_event_is_told_once_to_each_that_listens<W>(world: &W)
where
    W: CreateAccount + KeepEndpoints + KeepDeliveries + TellEndpoints + Clock + Chance,
{
    let account = account(world, 1).await;
    let frozen = event(world, EventType::SendingFrozen, world.now());
    assert_eq!(world.tell_endpoints(account, &frozen).await, Ok(vec![]));
    let [all, deaf, late] =
        [&["*"][..], &["message.sent"], &["sending.frozen"]].map(|words| new(world, account, words));
    for endpoint in [&all, &deaf] {
        assert_eq!(world.create_endpoint(endpoint).await, Ok(true));
    }
    let told = async |endpoint: &Endpoint| {
        let told = world.list_deliveries(account, endpoint.id, None, 10).await.unwrap();
        told.into_iter().map(|delivery| delivery.event).collect::<Vec<_>>()
    };
    let written = at_once(8, |_| async { world.tell_endpoints(account, &frozen).await.unwrap().len() }).await;
    assert_eq!(written.iter().sum::<usize>(), 1);
    assert_eq!((told(&all).await, told(&deaf).await), (vec![frozen.clone()], vec![]));
    assert_eq!(world.create_endpoint(&late).await, Ok(true));
    let written = world.tell_endpoints(account, &frozen).await.unwrap();
    assert_eq!(written.iter().map(|one| one.endpoint).collect::<Vec<_>>(), [late.id]);
    assert_eq!((told(&all).await, told(&late).await), (vec![frozen.clone()], vec![frozen]));
}

pub async fn deliveries_list_newest_first_and_oldest_first_in_pages<W>(world: &W)
where
    W: KeepDeliveries + Clock + Chance,
{
    let (account, endpoint) = (AccountId::from_bits(dice(world)), EndpointId::from_bits(dice(world)));
    let (mut all, now) = (Vec::new(), world.now());
    for n in 0..5 {
        let at = now + secs(n);
        let one = Delivery::new(account, endpoint, event(world, EventType::MessageSent, at), at);
        world.create_delivery(&one).await.unwrap();
        all.push(one);
    }
    let forward = world.deliveries_since(account, endpoint, DeliveryId::from_bits(0), 3).await.unwrap();
    assert_eq!(forward, all[..3]);
    assert_eq!(world.deliveries_since(account, endpoint, forward[2].id, 3).await.unwrap(), all[3..]);
    let from_then = DeliveryId::new(now + secs(3), 0);
    assert_eq!(world.deliveries_since(account, endpoint, from_then, 10).await.unwrap(), all[3..]);
    all.reverse();
    let page = world.list_deliveries(account, endpoint, None, 3).await.unwrap();
    assert_eq!(page, all[..3]);
    assert_eq!(world.list_deliveries(account, endpoint, Some(page[2].id), 3).await.unwrap(), all[3..]);
    let other = EndpointId::from_bits(dice(world));
    assert_eq!(world.list_deliveries(account, other, None, 3).await, Ok(vec![]));
}

pub async fn of_many_workers_one_gets_a_delivery_and_it_is_due_when_its_lease_ends<W>(world: &W)
where
    W: KeepDeliveries + WorkDeliveries + FindDueDeliveries + Clock + Chance,
{
    let now = world.now();
    let new = delivery(world, now).await;
    assert_eq!(load(world, &new).await, new);
    assert_eq!(claim(world, &new, Fence(1), now - secs(1)).await, None, "not before its time");
    let hinted = [now, now + DELIVER_AGAIN];
    assert_eq!(due_at(world, &new, &hinted).await, Some(now + DELIVER_AGAIN), "its hint comes first");
    let fences: Vec<_> = (0..8).map(|_| Fence(dice(world))).collect();
    let claims = join_all(fences.iter().map(|fence| claim(world, &new, *fence, now))).await;
    let mine: Vec<_> = claims.iter().flatten().collect();
    assert_eq!((mine.len(), mine[0].tries), (1, 1));
    let over = now + DELIVERY_LEASE;
    assert_eq!(claim(world, &new, Fence(2), over - secs(1)).await, None);
    assert_eq!(due_at(world, &new, &[over - secs(1), over]).await, Some(over));
    let again = claim(world, &new, Fence(2), over).await.unwrap();
    assert_eq!(again.tries, 2, "who was lost with the first counts as a try");
}

pub async fn an_attempt_is_recorded_by_the_holder_of_the_claim<W>(world: &W)
where
    W: KeepDeliveries + WorkDeliveries + FindDueDeliveries + Clock + Chance,
{
    let now = world.now();
    let new = delivery(world, now).await;
    let stale = claim(world, &new, Fence(1), now).await.unwrap();
    let later = now + DELIVERY_LEASE;
    let held = claim(world, &new, Fence(2), later).await.unwrap();
    let late = stale.after(attempt(200, now), 0, now);
    assert_eq!(world.record_attempt(&late, Fence(1)).await, Ok(false));
    assert_eq!(load(world, &new).await, held);

    let failed = held.after(attempt(500, later), 0, later);
    assert_eq!(world.record_attempt(&failed, Fence(2)).await, Ok(true));
    assert_eq!(load(world, &new).await, failed);
    let next = failed.next.unwrap();
    assert_eq!(claim(world, &new, Fence(3), next - secs(1)).await, None);
    let looks = [next, next + DELIVER_AGAIN];
    assert_eq!(due_at(world, &new, &looks).await, Some(next + DELIVER_AGAIN));

    let held = claim(world, &new, Fence(3), next).await.unwrap();
    let arrived = held.after(attempt(204, next), 0, next);
    assert_eq!(world.record_attempt(&arrived, Fence(3)).await, Ok(true));
    assert_eq!(world.record_attempt(&arrived, Fence(3)).await, Ok(true), "our own, repeated");
    let stands = load(world, &new).await;
    assert_eq!((stands.status, stands.attempts.len(), stands.next), (DeliveryStatus::Delivered, 2, None));
    assert_eq!(due_at(world, &new, &[next + secs(1_000_000)]).await, None);
    assert_eq!(claim(world, &new, Fence(4), next + secs(1_000_000)).await, None);
}

pub async fn what_waits_longer_than_a_queue_holds_is_due_at_its_time<W>(world: &W)
where
    W: KeepDeliveries + WorkDeliveries + FindDueDeliveries + Clock + Chance,
{
    let now = world.now();
    let new = delivery(world, now).await;
    let held = claim(world, &new, Fence(1), now).await.unwrap();
    let waits = Delivery { tries: 5, ..held }.after(attempt(500, now), 0, now);
    let next = waits.next.unwrap();
    assert!(next > now + secs(900));
    assert_eq!(world.record_attempt(&waits, Fence(1)).await, Ok(true));
    assert_eq!(due_at(world, &new, &[next - secs(1), next]).await, Some(next));
    let Delivery { account, endpoint, id, .. } = new;
    world.look_at_delivery_again(account, endpoint, id, next + secs(60)).await.unwrap();
    assert_eq!(due_at(world, &new, &[next, next + secs(60)]).await, Some(next + secs(60)));
    world.look_at_delivery_again(account, endpoint, id, next).await.unwrap();
    assert_eq!(due_at(world, &new, &[next, next + secs(60)]).await, Some(next + secs(60)), "never sooner");
}

pub async fn of_many_resendings_at_once_one_counts<W>(world: &W)
where
    W: KeepDeliveries + WorkDeliveries + FindDueDeliveries + Clock + Chance,
{
    let now = world.now();
    let new = delivery(world, now).await;
    assert_eq!(world.resend_delivery(&new, now).await, Ok(Resent::Pending), "it is on its way");
    let held = claim(world, &new, Fence(1), now).await.unwrap();
    let gone = held.after(attempt(410, now), 0, now);
    assert_eq!(world.record_attempt(&gone, Fence(1)).await, Ok(true));
    let again = now + secs(100);
    let resent = at_once(8, |_| world.resend_delivery(&gone, again)).await;
    assert_eq!((count(&resent, &Ok(Resent::Now)), count(&resent, &Ok(Resent::Pending))), (1, 7));
    let stands = load(world, &new).await;
    assert_eq!((stands.status, stands.next, stands.tries), (DeliveryStatus::Pending, Some(again), 0));
    assert_eq!(stands.attempts, gone.attempts, "what was tried before stays to be seen");
    assert_eq!(due_at(world, &new, &[again, again + DELIVER_AGAIN]).await, Some(again + DELIVER_AGAIN));
    assert_eq!(world.record_attempt(&gone, Fence(1)).await, Ok(false), "a worker of before has nothing to say");
    assert!(claim(world, &new, Fence(2), again).await.is_some());
    let unknown = Delivery { id: DeliveryId::from_bits(dice(world)), ..new };
    assert_eq!(world.resend_delivery(&unknown, now).await, Ok(Resent::Gone));
}

pub async fn of_a_resending_and_a_claim_at_once_nothing_is_lost<W>(world: &W)
where
    W: KeepDeliveries + WorkDeliveries + Clock + Chance,
{
    let now = world.now();
    let new = delivery(world, now).await;
    let held = claim(world, &new, Fence(1), now).await.unwrap();
    let failed = Delivery { tries: 11, ..held }.after(attempt(500, now), 0, now);
    assert_eq!(world.record_attempt(&failed, Fence(1)).await, Ok(true));
    let (resent, claimed) = join(world.resend_delivery(&failed, now), claim(world, &new, Fence(2), now)).await;
    assert_eq!(resent, Ok(Resent::Now));
    let stands = load(world, &new).await;
    assert_eq!(stands.status, DeliveryStatus::Pending);
    assert_eq!(stands.tries, u32::from(claimed.is_some()));
}

pub async fn due_deliveries_come_earliest_first<W>(world: &W)
where
    W: KeepDeliveries + FindDueDeliveries + Clock + Chance,
{
    let now = world.now();
    let mut made = Vec::new();
    for n in [3, 1, 2] {
        made.push(delivery(world, now + secs(n)).await);
    }
    made.sort_by_key(|delivery| delivery.created);
    for shard in 0..DELIVERY_SHARDS {
        let found = world.find_due_deliveries(shard, now + secs(100), 1_000).await.unwrap();
        let found: Vec<_> = found.into_iter().filter(|(_, _, id)| made.iter().any(|one| one.id == *id)).collect();
        let mine = made.iter().filter(|delivery| delivery_shard(delivery.id) == shard);
        let mine: Vec<_> = mine.map(|delivery| (delivery.account, delivery.endpoint, delivery.id)).collect();
        assert_eq!(found, mine);
    }
}

/// A message of ten credits' account that Twilio took, with what one endpoint is told of it.
async fn sent<W>(world: &W) -> (Message, Vec<Delivery>)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + LoadToTell + Clock + Chance,
{
    let account = account(world, 10).await;
    let message = accepted(world, account, world.now()).await;
    let claimed = claimed(world, &message, world.now()).await;
    let outcome = Outcome::Sent { sid: sid(world, "SM").as_str().to_owned() };
    world.record_outcome(&claimed, &outcome, world.now()).await.unwrap();
    let ToTell { message, .. } = world.load_to_tell(account, message.id).await.unwrap().unwrap();
    let told = told(&message, EventType::MessageSent, EndpointId::from_bits(dice(world)));
    (message, told)
}

fn told(message: &Message, kind: EventType, endpoint: EndpointId) -> Vec<Delivery> {
    vec![Delivery::new(message.account, endpoint, Event::of_message(message, kind), message.updated)]
}

async fn written<W: KeepDeliveries>(world: &W, told: &[Delivery]) -> usize {
    let Delivery { account, endpoint, .. } = told[0];
    world.list_deliveries(account, endpoint, None, 10).await.unwrap().len()
}

pub async fn what_is_told_of_a_posting_is_written_with_it_once<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + LoadToTell + PostOutcome + KeepDeliveries,
    W: Clock + Chance,
{
    let (message, told) = sent(world).await;
    let posted = at_once(8, |_| async {
        world.post_charge(&message, charge(world, &message, world.now()), world.now(), &told, None).await.unwrap()
    })
    .await;
    assert_eq!((count(&posted, &Posted::Charged), written(world, &told).await), (1, 1));
    assert_eq!(load(world, &told[0]).await, told[0]);
    assert_eq!(world.post_release(&message, world.now(), &told, None).await, Ok(false));
    assert_eq!(written(world, &told).await, 1);
}

pub async fn a_posting_of_a_status_that_changed_meanwhile_tells_nothing<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + LoadToTell + PostOutcome + KeepDeliveries,
    W: UpdateAndTell + Clock + Chance,
{
    let (message, told) = sent(world).await;
    let report = Report { sid: message.sid.clone().unwrap(), status: Status::Delivered, error_code: None };
    let delivered = apply_report(&message, &report, world.now()).unwrap();
    assert_eq!(world.update_and_tell(&delivered, Some(world.now()), &[], None).await, Ok(true));
    let item = charge(world, &message, world.now());
    assert_eq!(world.post_charge(&message, item.clone(), world.now(), &told, None).await, Ok(Posted::Before));
    assert_eq!(world.post_release(&message, world.now(), &told, None).await, Ok(false));
    assert_eq!(written(world, &told).await, 0);
    assert_eq!(world.post_charge(&delivered, item, world.now(), &told, None).await, Ok(Posted::Charged));
    assert_eq!(written(world, &told).await, 1);
}

pub async fn what_is_told_of_a_change_is_written_with_it_or_not_at_all<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + LoadToTell + UpdateAndTell + KeepDeliveries,
    W: Clock + Chance,
{
    let (message, _) = sent(world).await;
    let sid = message.sid.clone().unwrap();
    let changes = [Status::Delivered, Status::Undelivered, Status::Failed].map(|status| {
        let report = Report { sid: sid.clone(), status, error_code: None };
        apply_report(&message, &report, world.now()).unwrap()
    });
    let endpoint = EndpointId::from_bits(dice(world));
    let tell = |change: &Message| told(change, EventType::MessageDelivered, endpoint);
    let due = Some(world.now());
    let done =
        join_all(changes.iter().map(async |change| world.update_and_tell(change, due, &tell(change), None).await));
    assert_eq!(count(&done.await, &Ok(true)), 1);
    let ToTell { message: stands, .. } = world.load_to_tell(message.account, message.id).await.unwrap().unwrap();
    let list = world.list_deliveries(message.account, endpoint, None, 10).await.unwrap();
    assert_eq!(list.iter().map(|one| &one.event).collect::<Vec<_>>(), [&tell(&stands)[0].event]);
    assert_eq!(world.update_and_tell(&stands, due, &tell(&stands), None).await, Ok(true), "our own, repeated");
    assert_eq!(written(world, &list).await, 1);
}

pub async fn what_is_told_of_an_adoption_is_written_with_it_or_not_at_all<W>(world: &W)
where
    W: CreateAccount + RecordMessage + ClaimMessage + RecordOutcome + LoadToTell + SettleMessage + KeepDeliveries,
    W: Clock + Chance,
{
    let account = account(world, 10).await;
    let report = Report { sid: sid(world, "SM").as_str().to_owned(), status: Status::Delivered, error_code: None };
    let mut adopting = Vec::new();
    for _ in 0..2 {
        let message = accepted(world, account, world.now()).await;
        let claimed = claimed(world, &message, world.now()).await;
        world.record_outcome(&claimed, &Outcome::Unknown, world.now()).await.unwrap();
        let ToTell { message: unknown, .. } = world.load_to_tell(account, message.id).await.unwrap().unwrap();
        let adopted = apply_report(&unknown, &report, world.now()).unwrap();
        let told = told(&adopted, EventType::MessageDelivered, EndpointId::from_bits(dice(world)));
        adopting.push((adopted, told));
    }
    let done =
        join_all(adopting.iter().map(async |(message, told)| world.adopt_sid(message, None, told, None).await)).await;
    for ((_, told), done) in adopting.iter().zip(&done) {
        assert_eq!(written(world, told).await, usize::from(*done == Ok(Adopted::Adopted)));
    }
    assert_eq!(count(&done, &Ok(Adopted::Adopted)), 1);
}
