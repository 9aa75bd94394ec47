//! What was used, page by page, and what is left, for the calls that it claims.

use http::Method;
use telbuddy::fault::Fault;
use telbuddy::ids::EntryId;
use telbuddy::ledger::{Entry, PostOutcome, RollUpUsage, Zone, failure_at_posting, roll_up};
use telbuddy::message::{Outcome, RecordOutcome};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, row, site};

use super::*;

async fn get(world: &World, customer: &Customer, path: &str) -> Reply {
    handle(world, &site(), customer.request(world, Method::GET, path, "")).await
}

/// A message that Twilio took, posted and counted.
async fn counted(world: &World, customer: &Customer) {
    let message = customer.message(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    let sid = fresh::sid(world, "SM").as_str().to_owned();
    world.record_outcome(&claimed, &Outcome::Sent { sid }, world.now()).await.unwrap();
    let message = row(world, &message);
    let item: Entry = fresh::charge(world, &message, world.now());
    world.post_charge(&message, item.clone(), world.now(), &[], None).await.unwrap();
    let items = [item];
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    world.forget_calls();
}

/// Every page of a query: the number of rows of each.
async fn pages(world: &World, customer: &Customer, query: &str) -> Vec<usize> {
    let (mut sizes, mut cursor) = (Vec::new(), String::new());
    loop {
        let reply = get(world, customer, &format!("/v1/usage?{query}{cursor}")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        sizes.push(reply.body.matches(r#""period":"#).count());
        let Some((_, next)) = reply.body.split_once(r#""next_cursor":""#) else { return sizes };
        cursor = format!("&cursor={}", next.split('"').next().unwrap().replace('#', "%23"));
    }
}

#[tokio::test]
async fn each_answer_costs_the_session_one_read_and_of_usage_the_accounts_time_zone() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let usage = vec![("load_session", 1), ("load_gate", 1), ("read_usage", 1)];
    let credits = vec![("load_session", 1), ("load_allowance", 1)];
    for (path, calls) in [("/v1/usage", usage.clone()), ("/v1/usage/errors", usage), ("/v1/credits", credits)] {
        world.forget_calls();
        assert_eq!(get(&world, &customer, path).await.status, StatusCode::OK);
        assert_eq!(called(&world), calls.into_iter().collect());
    }
}

#[tokio::test]
async fn what_waits_is_held_and_what_was_taken_is_used() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    counted(&world, &customer).await;
    customer.message(&world).await;
    let reply = get(&world, &customer, "/v1/credits").await;
    assert_eq!(reply.body, r#"{"available_micro":98000000,"held_micro":1000000,"used_micro":1000000}"#);
}

#[tokio::test]
async fn what_failed_is_shown_by_error_with_what_to_do_and_not_among_what_was_used() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let mut items = Vec::new();
    for code in [Some(30_003), Some(30_003), None] {
        let message = customer.message(&world).await;
        let claimed = fresh::claimed(&world, &message, world.now()).await;
        world.record_outcome(&claimed, &Outcome::Rejected { code }, world.now()).await.unwrap();
        let event = failure_at_posting(&row(&world, &message), &Zone::default()).unwrap();
        let id = EntryId::new(world.now(), fresh::dice(&world));
        items.push(Entry::failure(id, event, world.now(), &Zone::default()));
        let message = row(&world, &message);
        assert_eq!(world.post_release(&message, world.now(), &[], items.last()).await, Ok(true));
    }
    assert_eq!(world.count_journal(&items, &roll_up(&items)).await, Ok(true));
    let reply = get(&world, &customer, "/v1/usage/errors").await;
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&body["data"]).unwrap(), @r#"
    [
      {
        "advice": "Twilio gave no reason: look at the messages in the Twilio Console",
        "country": "US",
        "error_code": null,
        "error_url": null,
        "fault": "unknown",
        "messages": 1,
        "period": "2026-11-24",
        "permanent": true
      },
      {
        "advice": "the telephone was off or out of reach: try once more in an hour",
        "country": "US",
        "error_code": 30003,
        "error_url": "https://www.twilio.com/docs/api/errors/30003",
        "fault": "recipient",
        "messages": 2,
        "period": "2026-11-24",
        "permanent": false
      }
    ]
    "#);
    assert_eq!(pages(&world, &customer, "").await, [0], "nothing was used");
    let other = Customer::new(&world).await;
    assert_eq!(get(&world, &other, "/v1/usage/errors").await.body, r#"{"data":[],"next_cursor":null}"#);
}

#[tokio::test]
async fn cursors_lead_over_every_row_once_and_stay_inside_the_range() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for _ in 0..5 {
        counted(&world, &customer).await;
        world.advance(secs(300));
    }
    world.advance(secs(3_600));
    let session = customer.session.clone();
    // The same session, kept awake.
    telbuddy::session::KeepSessions::touch_session(&world, session.account, &session.hash, world.now()).await.unwrap();
    counted(&world, &customer).await;
    assert_eq!(pages(&world, &customer, "granularity=hour&limit=1").await.iter().sum::<usize>(), 2);
    assert_eq!(pages(&world, &customer, "granularity=hour").await, [2]);
    assert_eq!(pages(&world, &customer, "granularity=hour&to=2026-11-24T06:59:59Z").await, [1]);
    assert_eq!(pages(&world, &customer, "granularity=day&from=2026-11-24&to=2026-11-24").await, [1]);
    assert_eq!(pages(&world, &customer, "granularity=month&from=2026-12-01&to=2026-12-31").await, [0]);
    let foreign = get(&world, &customer, "/v1/usage?from=2026-11-24&cursor=2025-01-01%23x").await;
    assert_eq!(foreign.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_fault_is_no_nought() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (path, read) in [("/v1/usage", "read_usage"), ("/v1/credits", "load_allowance")] {
        world.fail_next(read, Fault::transient("busy"));
        assert_eq!(get(&world, &customer, path).await.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

#[tokio::test]
async fn another_accounts_usage_is_not_shown() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    counted(&world, &ann).await;
    assert_eq!((pages(&world, &ann, "").await, pages(&world, &bob, "").await), (vec![1], vec![0]));
}
