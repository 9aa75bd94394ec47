//! A text that no webhook told is told once, as of when it came; what Twilio cannot show now is looked for again.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use telbuddy::credential::Carrier;
use telbuddy::inbound::{Consent, News};
use telbuddy::message::RecordInbound;
use telbuddy::routine::OVERLAP;
use telbuddy::testing::setup::{Customer, called};
use telbuddy::testing::{CameIn, World, fresh};

use super::*;

const FROM: &str = "+14155552671";

/// A customer who was connected an hour ago.
async fn connected(seed: u64) -> (World, Customer) {
    let world = World::new(seed);
    let customer = Customer::new(&world).await;
    world.advance(Routine::Arrivals.every());
    (world, customer)
}

fn sid(n: u32) -> String {
    format!("SM{n:032x}")
}

/// A text that arrived so many seconds ago.
fn arrived(world: &World, customer: &Customer, n: u32, body: &str, ago: i64) -> Timestamp {
    let at = world.now() - fresh::secs(ago);
    let text = CameIn { sid: sid(n), from: FROM.to_owned(), to: fresh::OWN.to_owned(), body: body.to_owned(), at };
    world.twilio().arrives(customer.credential.account_sid.as_str(), text);
    at
}

async fn look(world: &World, customer: &Customer) {
    let job = Job::CatchUp { account: customer.account };
    assert_eq!(handle(world, vec![job]).await, [Handled::Done]);
}

fn told(world: &World) -> Vec<TwilioEvent> {
    let jobs = world.take_jobs(Queue::TwilioEvents).into_iter();
    jobs.map(|job| if let Job::Twilio(event) = job { event } else { panic!("{job:?}") }).collect()
}

fn sids(events: &[TwilioEvent]) -> Vec<String> {
    let sid = |event: &TwilioEvent| {
        if let News::Text { sid, .. } = &event.news { sid.clone() } else { panic!("{event:?}") }
    };
    events.iter().map(sid).collect()
}

fn due_in(world: &World, customer: &Customer) -> SignedDuration {
    world.routine_due(customer.account, Routine::Arrivals).unwrap().duration_since(world.now())
}

#[tokio::test]
async fn a_text_that_no_webhook_told_is_told_as_of_when_it_came_and_without_its_words() {
    let (world, customer) = connected(1).await;
    let at = arrived(&world, &customer, 1, "Stop!", 1_800);
    world.forget_calls();
    look(&world, &customer).await;
    let costs = [
        ("load_progress", 1),
        ("load_credential", 1),
        ("load_keys", 2),
        ("open_key", 2),
        ("list_arrived", 1),
        ("unseen_sids", 1),
        ("enqueue_all", 1),
        ("save_progress", 1),
    ];
    assert_eq!(called(&world), BTreeMap::from(costs));
    let purposes: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    assert_eq!(purposes, [Purpose::Send, Purpose::Match]);
    assert!(!world.holds_in_clear("Stop!") && !world.holds_in_clear(&FROM[1..]));
    let events = told(&world);
    let [TwilioEvent { account, at: said, news: News::Text { own, consent, segments, .. } }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((*account, *said, own.as_str()), (customer.account, at, fresh::OWN));
    assert_eq!((*consent, *segments), (Some(Consent::Stop), 1));
    assert_eq!(due_in(&world, &customer), Routine::Arrivals.every());
}

#[tokio::test]
async fn what_was_recorded_and_what_was_sent_is_not_told_and_a_quiet_hour_costs_two_reads_and_a_write() {
    let (world, customer) = connected(1).await;
    look(&world, &customer).await;
    world.forget_calls();
    look(&world, &customer).await;
    let quiet = [("load_progress", 1), ("load_credential", 1), ("list_arrived", 1), ("save_progress", 1)];
    assert_eq!(called(&world), BTreeMap::from(quiet));
    let at = arrived(&world, &customer, 1, "hello", 60);
    let mut row = fresh::inbound(&world, customer.account, at);
    row.sid = Some(sid(1));
    world.record_inbound(&row, at).await.unwrap();
    arrived(&world, &customer, 2, "hello", 30);
    look(&world, &customer).await;
    assert_eq!(sids(&told(&world)), [sid(2)]);
}

#[tokio::test]
async fn a_look_reaches_an_hour_back_behind_the_last_and_never_before_connecting() {
    let (world, customer) = connected(1).await;
    arrived(&world, &customer, 1, "before connecting", 3_601);
    arrived(&world, &customer, 2, "since", 3_599);
    look(&world, &customer).await;
    assert_eq!(sids(&told(&world)), [sid(2)]);
    // Twilio lists this one only now.
    let late = OVERLAP.as_secs() - 1;
    world.advance(fresh::secs(60));
    arrived(&world, &customer, 3, "late", late);
    arrived(&world, &customer, 4, "too late", late + 120);
    look(&world, &customer).await;
    let late = sids(&told(&world));
    assert!(late.contains(&sid(3)) && !late.contains(&sid(1)), "{late:?}");
}

#[tokio::test]
async fn a_long_list_goes_on_page_by_page_and_run_by_run_and_tells_each_text_once() {
    let (world, customer) = connected(1).await;
    let most = u32::try_from(MOST_PAGES).unwrap() * u32::from(PAGE);
    for n in 0..most + 150 {
        arrived(&world, &customer, n, "hi", i64::from(n));
    }
    world.forget_calls();
    look(&world, &customer).await;
    assert_eq!((called(&world)["list_arrived"], world.take_jobs(Queue::CatchUp).len()), (10, 1));
    assert_eq!(due_in(&world, &customer), ASK_AGAIN, "if the hint gets lost");
    // New ones do not shift the pages.
    arrived(&world, &customer, 9_999, "new", 0);
    look(&world, &customer).await;
    let mut all = sids(&told(&world));
    all.sort();
    let wanted: Vec<_> = (0..most + 150).map(sid).collect();
    assert_eq!(all, wanted);
    assert_eq!((due_in(&world, &customer), world.jobs()), (Routine::Arrivals.every(), Vec::new()));
    look(&world, &customer).await;
    assert!(sids(&told(&world)).contains(&sid(9_999)));
}

#[tokio::test]
async fn while_twilio_cannot_be_asked_nothing_counts_as_looked_at() {
    for trouble in [Trouble::Refused, Trouble::Busy, Trouble::Unreachable, Trouble::NotAllowed] {
        let (world, customer) = connected(1).await;
        arrived(&world, &customer, 1, "hi", 1_800);
        let before = world.load_progress(customer.account).await;
        world.twilio().trouble_next(trouble);
        look(&world, &customer).await;
        assert_eq!((world.load_progress(customer.account).await, due_in(&world, &customer)), (before, LOOK_SOON));
        // Hours later it is still found.
        world.advance(SignedDuration::from_hours(30));
        look(&world, &customer).await;
        assert_eq!(sids(&told(&world)), [sid(1)], "{trouble:?}");
    }
}

#[tokio::test]
async fn a_mark_that_twilio_does_not_know_any_more_begins_the_look_anew() {
    let (world, customer) = connected(1).await;
    for n in 0..150 {
        arrived(&world, &customer, n, "hi", i64::from(n));
    }
    world.twilio().no_trouble_next();
    world.twilio().trouble_next(Trouble::Rejected(Some(20_001)));
    look(&world, &customer).await;
    assert_eq!((told(&world).len(), due_in(&world, &customer)), (100, LOOK_SOON));
    look(&world, &customer).await;
    assert_eq!(told(&world).len(), 150, "what the queue has not recorded yet is told again, and recorded once");
}

#[tokio::test]
async fn no_fault_loses_a_text() {
    for method in
        ["load_progress", "load_credential", "load_keys", "open_key", "unseen_sids", "enqueue_all", "save_progress"]
    {
        for fault in [Fault::transient("busy"), Fault::Ambiguous("reset".to_owned())] {
            let (world, customer) = connected(1).await;
            arrived(&world, &customer, 1, "STOP", 1_800);
            world.fail_next(method, fault);
            let job = Job::CatchUp { account: customer.account };
            assert_eq!(handle(&world, vec![job]).await, [Handled::Again], "{method}");
            look(&world, &customer).await;
            assert!(sids(&told(&world)).contains(&sid(1)), "{method}");
        }
    }
}

#[tokio::test]
async fn looks_at_once_tell_every_text_and_count_once() {
    for seed in 0..20 {
        let (world, customer) = connected(seed).await;
        for n in 0..250 {
            arrived(&world, &customer, n, "hi", i64::from(n));
        }
        let jobs = vec![Job::CatchUp { account: customer.account }; 4];
        assert_eq!(handle(&world, jobs).await, [Handled::Done; 4]);
        let mut all = sids(&told(&world));
        all.sort();
        all.dedup();
        let whole = world.load_progress(customer.account).await.unwrap().unwrap();
        assert_eq!((all.len(), whole.looked, whole.open), (250, world.now(), None), "seed {seed}");
    }
}

#[tokio::test]
async fn what_is_not_connected_is_not_looked_at_and_another_job_goes_back() {
    let (world, customer) = connected(1).await;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 0).await, Ok(true));
    arrived(&world, &customer, 1, "hi", 60);
    world.forget_calls();
    look(&world, &customer).await;
    assert_eq!((called(&world), world.jobs()), (BTreeMap::from([("load_progress", 1)]), Vec::new()));
    let wrong = Job::Post { account: customer.account, message: MessageId::from_bits(1) };
    assert_eq!(handle(&world, vec![wrong]).await, [Handled::Again]);
}

#[tokio::test]
async fn the_list_is_of_the_connected_twilio_account() {
    let (world, customer) = connected(1).await;
    let carrier: Carrier = open_carrier(&world, &customer.credential).await.unwrap();
    assert_eq!(carrier.account_sid, customer.credential.account_sid);
    let other = Customer::new(&world).await;
    arrived(&world, &other, 1, "theirs", 0);
    look(&world, &customer).await;
    assert_eq!(told(&world), []);
}
