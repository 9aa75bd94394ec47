//! A webhook that answers is left alone for a day; one that does not is told once, with what to do.

use std::collections::BTreeMap;

use telbuddy::alert::Alert;
use telbuddy::quarantine::{Cause, ReadQuarantine};
use telbuddy::testing::setup::{Customer, called, site, site_with_fallback};
use telbuddy::testing::{World, fresh};

use super::*;

async fn run(world: &World, customer: &Customer) {
    let job = Job::SelfTest { account: customer.account };
    assert_eq!(handle(world, &site(), vec![job]).await, [Handled::Done]);
}

fn due_in(world: &World, customer: &Customer) -> i64 {
    world.routine_due(customer.account, Routine::SelfTest).unwrap().duration_since(world.now()).as_hours()
}

#[tokio::test]
async fn a_webhook_that_answers_costs_a_read_and_a_write_and_opens_nothing_but_its_own_secret() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    run(&world, &customer).await;
    let costs = [("load_credential", 1), ("load_keys", 1), ("open_key", 1), ("call_self", 1), ("do_routine_at", 1)];
    assert_eq!(called(&world), BTreeMap::from(costs));
    let purposes: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    assert_eq!((purposes, due_in(&world, &customer)), (vec![Purpose::Hook], 24));
    let token = HookSecret::AuthToken(format!("token-{}", customer.credential.account_sid.as_str()).into());
    assert!(world.self_calls() == [SelfCall::new("https://api.example.com", &customer.credential, &token)]);
    assert_eq!(world.jobs(), []);
}

#[tokio::test]
async fn one_answer_that_is_missing_is_no_news() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for answer in [None, Some(502), Some(403)] {
        world.answer_self_next(answer);
        run(&world, &customer).await;
        assert_eq!((world.jobs(), due_in(&world, &customer)), (Vec::new(), 24));
    }
}

#[tokio::test]
async fn a_webhook_that_fails_is_recorded_each_time_and_told_once_until_it_was_well_for_a_day() {
    for (answer, cause) in [
        (None, Cause::SelfTestUnanswered),
        (Some(403), Cause::SelfTestRefused),
        (Some(301), Cause::SelfTestRefused),
        (Some(200), Cause::SelfTestRefused),
    ] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let fails = async || {
            world.answer_self_next(answer);
            world.answer_self_next(answer);
            run(&world, &customer).await;
            assert_eq!(due_in(&world, &customer), 1, "soon again");
        };
        let first = world.now();
        for _ in 0..30 {
            fails().await;
            world.advance(TEST_SOON);
        }
        let alert = |since| Job::Alert {
            account: customer.account,
            alert: Alert::SignatureFailed { cause, recently_rotated: false },
            since,
        };
        assert_eq!(world.take_jobs(Queue::Mail), [alert(first)], "{answer:?}");
        let records = world.read_quarantine(customer.account, world.now()).await.unwrap();
        assert_eq!((records.len(), records[0].cause, records[0].count), (1, cause, 30));
        assert_eq!(records[0].facts.route, RouteKind::SelfTest);
        run(&world, &customer).await;
        world.advance(Routine::SelfTest.every());
        fails().await;
        assert_eq!(world.take_jobs(Queue::Mail), [alert(world.now())], "it is news again");
    }
}

#[tokio::test]
async fn a_fault_gives_the_test_back_and_what_is_not_connected_is_not_tested() {
    for method in ["load_credential", "load_keys", "open_key", "quarantine", "enqueue", "do_routine_at"] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        world.answer_self_next(None);
        world.answer_self_next(None);
        world.fail_next(method, Fault::transient("busy"));
        let job = Job::SelfTest { account: customer.account };
        assert_eq!(handle(&world, &site(), vec![job]).await, [Handled::Again], "{method}");
        run(&world, &customer).await;
    }
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    assert_eq!(world.remove_credential(&customer.credential, &customer.sid_hash, 0).await, Ok(true));
    run(&world, &customer).await;
    assert!(world.self_calls().is_empty());
    let wrong = Job::CatchUp { account: customer.account };
    assert_eq!(handle(&world, &site(), vec![wrong]).await, [Handled::Again]);
}

#[tokio::test]
async fn a_shared_key_signs_its_test_too() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let secret = HookSecret::SharedKey("webhooks_sharedkey_1".to_owned(), "shared".into());
    let call = SelfCall::new("https://api.example.com", &customer.credential, &secret);
    assert_eq!(call.settings.as_deref(), Some("key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"));
    let url = format!("https://api.example.com{}", call.path);
    let params = [("AccountSid".to_owned(), customer.credential.account_sid.as_str().to_owned())];
    assert_eq!(call.signature, telbuddy::inbound::signature::sign_with_shared_key("shared", &url, &params));
    assert!(fresh::OWN.starts_with('+') && !call.form.contains("shared"));
}

#[tokio::test]
async fn a_second_host_is_tested_too_and_each_says_for_itself_what_is_wrong() {
    let well = Some(204);
    for (first, second, causes) in [
        ([well, well], [well, well], vec![]),
        ([well, well], [None, None], vec![Cause::SelfTestFallback]),
        ([well, well], [Some(403), Some(403)], vec![Cause::SelfTestFallback]),
        ([well, well], [None, well], vec![]),
        ([None, None], [well, well], vec![Cause::SelfTestUnanswered]),
        ([Some(403), Some(403)], [None, None], vec![Cause::SelfTestFallback, Cause::SelfTestRefused]),
    ] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        world.answer_self_at("https://api.example.com", &first);
        world.answer_self_at("https://second.example.net", &second);
        let job = Job::SelfTest { account: customer.account };
        assert_eq!(handle(&world, &site_with_fallback(), vec![job]).await, [Handled::Done]);
        let mut found: Vec<_> = world.read_quarantine(customer.account, world.now()).await.unwrap();
        found.sort_by_key(|record| record.cause.code());
        assert_eq!(found.iter().map(|record| record.cause).collect::<Vec<_>>(), causes, "{first:?} {second:?}");
        assert_eq!(due_in(&world, &customer), if causes.is_empty() { 24 } else { 1 });
        assert_eq!(world.take_jobs(Queue::Mail).len(), causes.len());
    }
}
