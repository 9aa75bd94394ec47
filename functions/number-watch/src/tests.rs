//! A change at Twilio is seen and told once; the look itself changes nothing there.

use telbuddy::connection::{Begun, Settings, Target};
use telbuddy::platform::Chance;
use telbuddy::testing::setup::{Customer, called};
use telbuddy::testing::{World, fresh};

use super::*;

struct Connected {
    world: World,
    customer: Customer,
    target: Target,
}

fn settings(url: &str) -> Settings {
    Settings([("SmsUrl".to_owned(), url.to_owned())].into())
}

/// A customer with a connected number.
async fn connected() -> Connected {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let target = Target::parse(fresh::sid(&world, "PN").as_str()).unwrap();
    let account_sid = customer.credential.account_sid.clone();
    world.twilio().add_target(account_sid.as_str(), &target, "+14155550100", settings("ours"));
    let key = data_key(&world, customer.account, Purpose::Profile, None).await.unwrap();
    let snapshot = Snapshot { account_sid, before: settings("theirs"), set: settings("ours"), standing: None };
    let connection = Connection {
        account: customer.account,
        target: target.clone(),
        state: State::Connected,
        snapshot: snapshot.seal(&key, &target, world.random().unwrap()).unwrap(),
        revision: 0,
        since: world.now(),
        seen: world.now(),
    };
    let due = world.now() + CHECK_EVERY;
    assert_eq!(world.begin_connection(&connection, &customer.credential, due).await, Ok(Begun::Stored));
    world.advance(CHECK_EVERY);
    world.forget_calls();
    Connected { world, customer, target }
}

impl Connected {
    async fn look(&self) -> Vec<Handled> {
        handle(&self.world, vec![self.job()]).await
    }

    fn job(&self) -> Job {
        Job::CheckNumber { account: self.customer.account, target: self.target.clone() }
    }

    fn state(&self) -> State {
        self.world.connections_of(self.customer.account)[0].state
    }

    fn next(&self) -> SignedDuration {
        self.world.due_of(self.customer.account, &self.target).unwrap().duration_since(self.world.now())
    }
}

#[tokio::test]
async fn a_look_costs_one_call_to_twilio_and_writes_nothing_there() {
    let it = connected().await;
    assert_eq!(it.look().await, [Handled::Done]);
    let calls = [
        ("load_connection", 1),
        ("load_credential", 1),
        ("load_keys", 1),
        ("open_key", 1),
        ("read_settings", 1),
        ("update_connection", 1),
    ];
    let mut called = called(&it.world);
    // The profile key was opened to seal the snapshot, and its five minutes are over.
    assert_eq!((called.remove("load_keys"), called.remove("open_key")), (Some(2), Some(2)));
    let expected: Vec<_> = calls.into_iter().filter(|(name, _)| !["load_keys", "open_key"].contains(name)).collect();
    assert_eq!(called, expected.into_iter().collect());
    assert_eq!((it.state(), it.next(), it.world.twilio().writes()), (State::Connected, CHECK_EVERY, 0));
}

#[tokio::test]
async fn what_somebody_changed_or_gave_up_is_seen_and_what_came_back_too() {
    let it = connected().await;
    it.world.twilio().change_setting(&it.target, "SmsUrl", "new");
    it.look().await;
    assert_eq!((it.state(), it.next()), (State::Changed, CHECK_EVERY));
    let alert = Alert::NumberDrifted { number_sid: it.target.clone() };
    let alert = Job::Alert { account: it.customer.account, alert, since: it.world.now() };
    assert_eq!(it.world.jobs(), std::slice::from_ref(&alert));
    it.look().await;
    assert_eq!(it.world.jobs(), std::slice::from_ref(&alert), "told once");
    it.world.twilio().change_setting(&it.target, "SmsUrl", "ours");
    it.look().await;
    assert_eq!(it.state(), State::Connected);
    it.world.twilio().remove_target(&it.target);
    it.look().await;
    assert_eq!((it.state(), it.world.jobs()), (State::Gone, vec![alert.clone(), alert]));
    assert_eq!(it.world.twilio().writes(), 0);
}

#[tokio::test]
async fn a_change_whose_alert_cannot_go_out_is_looked_at_again_and_then_told() {
    let it = connected().await;
    it.world.twilio().change_setting(&it.target, "SmsUrl", "new");
    it.world.fail_next("enqueue", Fault::transient("busy"));
    assert_eq!((it.look().await, it.state()), (vec![Handled::Again], State::Connected));
    assert_eq!((it.look().await, it.state()), (vec![Handled::Done], State::Changed));
    assert_eq!(it.world.jobs().len(), 1);
}

#[tokio::test]
async fn a_twilio_that_cannot_be_asked_is_asked_again_soon_and_nothing_is_concluded() {
    for trouble in [Trouble::Busy, Trouble::Unreachable, Trouble::Refused, Trouble::NotAllowed, Trouble::Inactive] {
        let it = connected().await;
        it.world.twilio().trouble_next(trouble);
        assert_eq!(it.look().await, [Handled::Done]);
        assert_eq!((it.state(), it.next()), (State::Connected, CHECK_SOON), "{trouble:?}");
    }
    let it = connected().await;
    let Connected { world, customer, .. } = &it;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 1).await, Ok(true));
    it.look().await;
    assert_eq!((it.state(), it.next()), (State::Connected, CHECK_SOON), "nothing is connected to ask with");
}

#[tokio::test]
async fn a_customers_own_request_meanwhile_stands() {
    let it = connected().await;
    let before = it.world.connections_of(it.customer.account)[0].clone();
    let restoring = before.moved(State::Restoring, it.world.now());
    let (answer, _) = futures::join!(it.look(), it.world.update_connection(&restoring, it.world.now()));
    assert_eq!(answer, [Handled::Done]);
    let now = &it.world.connections_of(it.customer.account)[0];
    assert!(now.revision > before.revision);
    // Given up meanwhile: a look at what is gone is done.
    assert_eq!(it.world.end_connection(now).await, Ok(true));
    assert_eq!(it.look().await, [Handled::Done]);
}

#[tokio::test]
async fn a_fault_of_the_store_and_a_job_of_another_queue_come_again() {
    let it = connected().await;
    it.world.fail_next("load_connection", Fault::transient("busy"));
    let other = Job::Post {
        account: it.customer.account,
        message: fresh::outgoing(&it.world, it.customer.account, 1, it.world.now()).message.id,
    };
    assert_eq!(handle(&it.world, vec![it.job(), other]).await, [Handled::Again, Handled::Again]);
    assert_eq!(it.look().await, [Handled::Done]);
}
