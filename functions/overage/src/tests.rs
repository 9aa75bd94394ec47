//! Beyond all credit only by a person's wish, on a plan that is billed, and within its limit.

use http::Method;
use telbuddy::testing::World;
use telbuddy::testing::setup::{Customer, called, site};

use super::*;

async fn put(world: &World, customer: &Customer, body: &str) -> Reply {
    handle(world, &site(), customer.request(world, Method::PUT, "/v1/credits/overage", body)).await
}

async fn on_a_paid_plan(world: &World) -> Customer {
    let customer = Customer::new(world).await;
    world.change_gate(customer.account, |gate| gate.overage_allowed = true);
    world.forget_calls();
    customer
}

#[tokio::test]
async fn a_wish_stands_at_once_and_is_taken_back_at_once() {
    let world = World::new(1);
    let customer = on_a_paid_plan(&world).await;
    let reply = put(&world, &customer, r#"{"monthly_limit_micro":50000000}"#).await;
    assert_eq!(reply.body, r#"{"monthly_limit_micro":50000000,"month":"2026-11","billed_micro":0}"#);
    let calls = [("load_session", 1), ("load_gate", 1), ("load_purse", 2), ("save_step", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    let allowance = world.allowance(customer.account).unwrap();
    assert_eq!((allowance.room, allowance.available()), (MicroCredits::whole(50), MicroCredits::whole(150)));
    let reply = put(&world, &customer, r#"{"monthly_limit_micro":null}"#).await;
    assert_eq!(reply.body, r#"{"monthly_limit_micro":null,"month":"2026-11","billed_micro":0}"#);
    assert_eq!(world.allowance(customer.account).unwrap().available(), MicroCredits::whole(100));
}

#[tokio::test]
async fn what_was_used_beyond_is_billed_when_the_wish_is_taken_back_and_counts_if_it_comes_again() {
    let world = World::new(1);
    let customer = on_a_paid_plan(&world).await;
    put(&world, &customer, r#"{"monthly_limit_micro":50000000}"#).await;
    world.change_allowance(customer.account, |allowance| {
        allowance.used = MicroCredits::whole(120);
        allowance.free = MicroCredits::whole(20).minus();
    });
    let reply = put(&world, &customer, r#"{"monthly_limit_micro":null}"#).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    let allowance = world.allowance(customer.account).unwrap();
    assert_eq!((allowance.free.0, allowance.owed()), (0, MicroCredits::ZERO));
    let again = put(&world, &customer, r#"{"monthly_limit_micro":50000000}"#).await;
    assert_eq!(again.status, StatusCode::OK);
    assert!(world.entries(customer.account).iter().all(telbuddy::ledger::Entry::balanced));
}

#[tokio::test]
async fn a_plan_without_it_a_limit_of_nought_and_one_with_too_many_noughts_are_refused() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let reply = put(&world, &customer, r#"{"monthly_limit_micro":50000000}"#).await;
    assert_eq!(reply.status, StatusCode::CONFLICT);
    assert!(reply.body.contains("problems/no-overage"), "{}", reply.body);
    assert_eq!(put(&world, &customer, r#"{"monthly_limit_micro":null}"#).await.status, StatusCode::OK);
    let customer = on_a_paid_plan(&world).await;
    for wrong in ["0", "1000000000001", "-1", "1.5", r#""5""#] {
        let reply = put(&world, &customer, &format!(r#"{{"monthly_limit_micro":{wrong}}}"#)).await;
        assert!(reply.status.is_client_error(), "{wrong}: {}", reply.body);
    }
    assert_eq!(world.allowance(customer.account).unwrap().room, MicroCredits::ZERO);
}
