//! What is asked of Stripe and what of the store, and that no card finds a place anywhere.

use std::collections::BTreeMap;

use http::{HeaderName, Method, header};
use serde_json::{Value, json};
use telbuddy::billing::ApplyStanding;
use telbuddy::fault::Fault;
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::setup::{Customer, called, request, site, with_header};

use super::*;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

fn prices() -> PlanPrices {
    PlanPrices::parse("starter=price_1,growth=price_2,scale=price_3").unwrap()
}

fn ask(world: &World, customer: &Customer, method: Method, path: &str, body: &Value) -> Request {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let request = Request { query: query.to_owned(), ..request(world, method, path, &body) };
    let request = with_header(request, header::COOKIE, &customer.cookie);
    with_header(request, header::CONTENT_TYPE, "application/json")
}

async fn get(world: &World, customer: &Customer, path: &str) -> (u16, Value) {
    answered(&handle(world, &site(), &prices(), ask(world, customer, Method::GET, path, &Value::Null)).await)
}

async fn post(world: &World, customer: &Customer, path: &str, key: &str, body: Value) -> (u16, Value) {
    let request = ask(world, customer, Method::POST, path, &body);
    let request = if key.is_empty() { request } else { with_header(request, KEY, key) };
    answered(&handle(world, &site(), &prices(), request).await)
}

fn answered(reply: &Reply) -> (u16, Value) {
    (reply.status.as_u16(), serde_json::from_str(&reply.body).unwrap_or_default())
}

fn subscribe(plan: &str) -> Value {
    json!({ "plan": plan })
}

/// A subscription at the world's Stripe, and in our row.
async fn subscribed(world: &World, customer: &Customer, status: &str) {
    let given = json!({
        "id": "sub_1", "customer": "cus_1", "created": 1_795_000_000, "status": status,
        "items": { "data": [{ "id": "si_1", "price": "price_2", "current_period_end": 1_797_000_000 }] },
    });
    let read = serde_json::from_value(given).unwrap();
    let standing = Standing::of(&read, &prices(), None, world.now());
    world.stripe().put_subscription(read);
    let before = world.load_billing(customer.account).await.unwrap().unwrap().read;
    assert_eq!(world.save_standing(customer.account, &standing, world.now(), before).await, Ok(true));
}

#[tokio::test]
async fn plans_are_data_that_anybody_may_read_and_cost_no_call() {
    let world = World::new(1);
    let request = request(&world, Method::GET, PLANS, "");
    let (status, body) = answered(&handle(&world, &site(), &prices(), request.clone()).await);
    assert_eq!((status, called(&world)), (200, BTreeMap::new()));
    let growth = &body["plans"][2];
    assert_eq!((&growth["id"], &growth["price_usd_micro"]), (&json!("growth"), &json!(49_000_000)));
    assert_eq!((&growth["credits_included_micro"], &growth["available"]), (&json!(6_000_000_000_u64), &json!(true)));
    assert_eq!((&body["plans"][0]["id"], &body["plans"][0]["available"]), (&json!("trial"), &json!(false)));
    assert_eq!(body["top_ups"][1], json!({ "credits_micro": 2_500_000_000_u64, "price_usd_micro": 25_000_000 }));
    let (_, unsold) = answered(&handle(&world, &site(), &PlanPrices::default(), request).await);
    assert_eq!((&unsold["plans"][2]["available"], &unsold["top_ups"]), (&json!(false), &json!([])));
}

#[tokio::test]
async fn the_first_checkout_makes_the_customer_and_the_next_does_not() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (status, body) = post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await;
    assert_eq!((status, body), (201, json!({ "url": "https://checkout.example.com/cs_2" })));
    let calls =
        [("load_session", 1), ("load_billing", 1), ("make_customer", 1), ("keep_customer", 1), ("start_checkout", 1)];
    assert_eq!(called(&world), BTreeMap::from(calls));
    world.forget_calls();
    let (status, _) = post(&world, &customer, TOP_UP, "two", json!({ "credits_micro": 2_500_000_000_u64 })).await;
    let calls = [("load_session", 1), ("load_billing", 1), ("start_checkout", 1)];
    assert_eq!((status, called(&world)), (201, BTreeMap::from(calls)));
    let made = world.stripe().checkouts();
    let id: StripeId = "cus_1".parse().unwrap();
    assert!(made.iter().all(|one| one.account == customer.account && one.customer == id));
    assert_eq!(made[0].sale, Sale::Subscription { price: "price_2".parse().unwrap() });
    assert_eq!(made[1].sale, Sale::TopUp { cents: 2500, name: "2500 TelBuddy credits".to_owned() });
    assert_eq!(made[0].success_url, "https://app.example.com/billing?checkout={CHECKOUT_SESSION_ID}");
}

#[tokio::test]
async fn the_same_key_gives_the_same_page_and_fifty_at_once_are_one_purchase() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let all = (0..50).map(|_| post(&world, &customer, CHECKOUT, "one", subscribe("growth")));
    let answers = futures::future::join_all(all).await;
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 201), "{answers:?}");
    assert_eq!((world.stripe().checkouts().len(), world.stripe().n_made()), (1, 2));
    post(&world, &customer, CHECKOUT, "two", subscribe("growth")).await;
    assert_eq!(world.stripe().checkouts().len(), 2);
}

#[tokio::test]
async fn a_key_or_a_crash_between_two_steps_buys_nothing_twice() {
    for (method, lost) in
        [("make_customer", true), ("keep_customer", true), ("keep_customer", false), ("start_checkout", true)]
    {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        if lost {
            world.lose_answer(method, Fault::Ambiguous("reset".to_owned()));
        } else {
            world.fail_next(method, Fault::transient("busy"));
        }
        assert_eq!(post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await.0, 503, "{method}");
        assert_eq!(post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await.0, 201, "{method}");
        assert_eq!((world.stripe().checkouts().len(), world.stripe().n_made()), (1, 2), "{method}");
    }
}

#[tokio::test]
async fn a_second_subscription_is_not_sold_while_the_first_lives() {
    for (status, expected) in [("active", 409), ("past_due", 409), ("paused", 409), ("unpaid", 409), ("canceled", 201)]
    {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await;
        subscribed(&world, &customer, status).await;
        let (got, body) = post(&world, &customer, CHECKOUT, "two", subscribe("scale")).await;
        assert_eq!(got, expected, "{status}: {body}");
        let top_up = post(&world, &customer, TOP_UP, "three", json!({ "credits_micro": 1_000_000_000_u64 })).await;
        assert_eq!(top_up.0, 201, "credits are sold at any time");
    }
}

#[tokio::test]
async fn the_portal_is_for_who_bought_something() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (status, body) = post(&world, &customer, PORTAL, "", Value::Null).await;
    assert_eq!((status, &body["type"]), (409, &json!("https://telbuddy.dev/problems/nothing-bought")));
    post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await;
    let (status, body) = post(&world, &customer, PORTAL, "", Value::Null).await;
    let page = "https://portal.example.com/cus_1?back=https://app.example.com/billing";
    assert_eq!((status, body), (201, json!({ "url": page })));
}

#[tokio::test]
async fn a_subscription_is_shown_as_it_stands_at_stripe() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let none =
        json!({ "plan": "trial", "status": null, "current_period_end": null, "ends_at": null, "grace_until": null });
    assert_eq!(get(&world, &customer, SUBSCRIPTION).await, (200, none));
    post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await;
    subscribed(&world, &customer, "active").await;
    let (_, shown) = get(&world, &customer, SUBSCRIPTION).await;
    assert_eq!((&shown["plan"], &shown["status"]), (&json!("growth"), &json!("active")));
    assert_eq!(shown["current_period_end"], "2026-12-11T14:40:00Z");
    subscribed(&world, &customer, "past_due").await;
    let (_, shown) = get(&world, &customer, SUBSCRIPTION).await;
    assert_eq!((&shown["status"], shown["grace_until"].is_string()), (&json!("past_due"), true));
}

#[tokio::test]
async fn invoices_are_read_at_stripe_in_pages_and_kept_nowhere() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let empty = json!({ "data": [], "next_cursor": null });
    assert_eq!(get(&world, &customer, INVOICES).await, (200, empty));
    post(&world, &customer, CHECKOUT, "one", subscribe("growth")).await;
    for n in 1..=3 {
        let invoice = json!({
            "id": format!("in_{n}"), "customer": "cus_1", "created": 1_795_000_000 + n, "currency": "usd",
            "total": 4900,
            "amount_paid": 4900, "status": "paid", "number": format!("N-{n}"), "lines": { "data": [] },
            "hosted_invoice_url": format!("https://invoice.example.com/{n}"), "invoice_pdf": null,
        });
        world.stripe().put_invoice(serde_json::from_value(invoice).unwrap(), None);
    }
    let (_, first) = get(&world, &customer, "/v1/billing/invoices?limit=2").await;
    let ids: Vec<_> = first["data"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!((ids, &first["next_cursor"]), (vec![json!("in_3"), json!("in_2")], &json!("in_2")));
    assert_eq!(first["data"][0]["url"], "https://invoice.example.com/3");
    let (_, second) = get(&world, &customer, "/v1/billing/invoices?limit=2&cursor=in_2").await;
    assert_eq!((&second["data"][0]["id"], &second["next_cursor"]), (&json!("in_1"), &Value::Null));
    assert_eq!(get(&world, &customer, "/v1/billing/invoices?cursor=in-1").await.0, 422);
    assert!(!world.holds_in_clear("invoice.example.com") && !world.holds_in_clear("N-1"));
}

#[tokio::test]
async fn a_card_has_no_field_here_and_fits_into_none() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for number in ["4242424242424242", "4242 4242 4242 4242", "5555555555554444", "378282246310005", "6011111111111117"]
    {
        for (path, body) in [
            (CHECKOUT, json!({ "plan": number })),
            (CHECKOUT, json!({ "plan": "growth", "card_number": number })),
            (CHECKOUT, json!({ "plan": "growth", "card": { "number": number, "cvc": "123" } })),
            (TOP_UP, json!({ "credits_micro": number })),
            (TOP_UP, json!({ "credits_micro": number.parse::<u64>().unwrap_or(0) })),
            (TOP_UP, json!({ "credits_micro": 1_000_000_000_u64, "number": number })),
        ] {
            let (status, answer) = post(&world, &customer, path, "one", body.clone()).await;
            assert_eq!(status, 422, "{body}");
            assert!(!answer.to_string().contains(number), "{answer}");
        }
        let query = format!("{INVOICES}?cursor={}", number.replace(' ', "+"));
        let (status, answer) = get(&world, &customer, &query).await;
        assert!(!answer.to_string().contains(number) && (status == 422 || answer["data"] == json!([])), "{answer}");
    }
    assert_eq!((world.stripe().n_made(), world.stripe().checkouts()), (0, vec![]));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_stripe_is_asked() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (path, key, body, status, name) in [
        (CHECKOUT, "", subscribe("growth"), 400, "idempotency-key-missing"),
        (TOP_UP, "", json!({ "credits_micro": 1_000_000_000_u64 }), 400, "idempotency-key-missing"),
        (CHECKOUT, "one", subscribe("trial"), 422, "invalid-input"),
        (CHECKOUT, "one", subscribe("gold"), 422, "invalid-input"),
        (CHECKOUT, "one", json!({}), 422, "invalid-input"),
        (TOP_UP, "one", json!({ "credits_micro": 1 }), 422, "invalid-input"),
    ] {
        let (got, answer) = post(&world, &customer, path, key, body.clone()).await;
        assert_eq!((got, &answer["type"]), (status, &json!(format!("https://telbuddy.dev/problems/{name}"))), "{body}");
    }
    let request = with_header(ask(&world, &customer, Method::POST, CHECKOUT, &subscribe("growth")), KEY, "one");
    let (status, answer) = answered(&handle(&world, &site(), &PlanPrices::default(), request).await);
    assert_eq!((status, answer["detail"].as_str().unwrap().contains("nothing is sold here")), (404, true));
    assert_eq!(world.stripe().n_made(), 0);
}
