//! Stripe's client against the Stripe double: each request fits Stripe's description, each answer is read, and what the
//! network does to either does nothing twice.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};
use telbuddy::billing::object::{InvoiceLine, Mode, PaidFor, SubscriptionStatus};
use telbuddy::billing::{
    Change, ChangeSubscription, Checkout, KeepCustomer, MeterEvent, OpenPortal, OperationKey, ReadInvoices,
    ReadPayment, ReadStripeEvents, ReadSubscription, ReportUsage, Sale, StartCheckout, StripeError, StripeId,
};
use telbuddy::fault::Fault;
use telbuddy::ids::AccountId;
use telbuddy::live::{Live, Need};

use crate::support::{Client, Running, eventually, start};

const GROWTH: &str = "price_localGrowthMonthly";
const SCALE: &str = "price_localScaleMonthly";

fn key(which: &str) -> OperationKey {
    OperationKey::new("test", account(), which)
}

fn account() -> AccountId {
    AccountId::from_bits(7)
}

fn id(text: &str) -> StripeId {
    text.parse().unwrap()
}

fn live(running: &Running) -> Live {
    Live::new(&running.config, &[Need::Stripe, Need::PlatformSecret]).unwrap()
}

fn checkout(customer: &StripeId, sale: Sale) -> Checkout {
    let (success, cancel) = ("https://app.example.com/?paid={CHECKOUT_SESSION_ID}", "https://app.example.com/");
    let (success_url, cancel_url) = (success.to_owned(), cancel.to_owned());
    Checkout { account: account(), customer: customer.clone(), sale, success_url, cancel_url }
}

fn growth() -> Sale {
    Sale::Subscription { price: id(GROWTH) }
}

fn top_up() -> Sale {
    Sale::TopUp { cents: 2500, name: "2,500 TelBuddy credits".to_owned() }
}

/// Does something with the double as a person or a test would.
async fn act(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(&format!("/_local/stripe/{path}"), body).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    answer.body
}

/// Every event that the double told of, oldest first, once all are delivered.
async fn told(client: &Client) -> Vec<String> {
    eventually("all events are delivered", async || {
        let body = client.get("/_local/stripe").await.body;
        let events = body["events"].as_array().unwrap();
        let all = events.iter().all(|event| event["delivered"] == true);
        all.then(|| events.iter().rev().map(|event| event["type"].as_str().unwrap().to_owned()).collect())
    })
    .await
}

fn assert_no_violations(running: &Running) {
    assert_eq!(running.stripe.violations(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_made_read_changed_paused_and_ended() {
    let running = start().await;
    let (live, client) = (live(&running), running.client());
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    let session = live.start_checkout(&checkout(&customer, growth()), &key("checkout")).await.unwrap();
    assert_eq!((session.mode, session.account), (Mode::Subscription, Some(account())));
    let page = session.url.unwrap();
    assert!(page.starts_with(&format!("{}/_local/stripe/checkout/{}", running.url, session.id)), "{page}");
    act(&client, &format!("checkout/{}", session.id), json!({ "card": "4242" })).await;

    let session = live.read_checkout(&session.id).await.unwrap().unwrap();
    assert_eq!((session.status.as_deref(), session.payment_status.as_str()), (Some("complete"), "paid"));
    let sub = session.subscription.unwrap();
    let read = live.read_subscription(&sub).await.unwrap().unwrap();
    assert_eq!((read.status, read.metadata.account), (SubscriptionStatus::Active, Some(account())));
    assert_eq!(read.items.data[0].price, id(GROWTH));
    assert!(read.period_end().unwrap() > Timestamp::UNIX_EPOCH);

    let invoices = live.list_invoices(&customer, None, 10).await.unwrap();
    let invoice = live.read_invoice(&invoices.data[0].id).await.unwrap().unwrap();
    assert_eq!((invoice.subscription(), invoice.account()), (Some(&sub), Some(account())));
    assert_eq!((invoice.status.as_deref(), invoice.total), (Some("paid"), 4900));
    assert!(invoice.hosted_invoice_url.unwrap().starts_with(&running.url));

    let change = Change::Price { item: read.items.data[0].id.clone(), price: id(SCALE) };
    let changed = live.change_subscription(&sub, &change, &key("upgrade")).await.unwrap();
    assert_eq!(changed.items.data[0].price, id(SCALE));
    let newest = live.list_invoices(&customer, None, 1).await.unwrap();
    assert!(newest.has_more && newest.data[0].lines.data.iter().all(InvoiceLine::is_proration));
    let older = live.list_invoices(&customer, Some(&newest.data[0].id), 10).await.unwrap();
    assert_eq!((older.data.len(), &older.data[0].id), (1, &invoice.id));

    for (change, status, ends) in [
        (Change::CancelAtPeriodEnd(true), SubscriptionStatus::Active, true),
        (Change::CancelAtPeriodEnd(false), SubscriptionStatus::Active, false),
        (Change::Pause, SubscriptionStatus::Paused, false),
        (Change::Resume, SubscriptionStatus::Active, false),
    ] {
        let changed = live.change_subscription(&sub, &change, &key(&format!("{change:?}"))).await.unwrap();
        assert_eq!((changed.status, changed.cancel_at_period_end), (status, ends), "{change:?}");
    }
    let page = live.open_portal(&customer, "https://app.example.com/", &key("portal")).await.unwrap();
    assert!(page.starts_with(&format!("{}/_local/stripe/portal/", running.url)), "{page}");
    let ended = live.cancel_subscription(&sub).await.unwrap().unwrap();
    assert_eq!(ended.status, SubscriptionStatus::Canceled);
    assert_eq!(live.cancel_subscription(&sub).await, Ok(None));
    assert_eq!(live.delete_customer(&customer).await, Ok(true));
    assert_eq!(live.delete_customer(&id("cus_nobody")).await, Ok(false));
    let refused = live.start_checkout(&checkout(&customer, growth()), &key("late")).await.unwrap_err();
    assert!(refused.is_missing(), "{refused}");
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_up_is_paid_given_back_and_disputed_and_each_is_found_by_its_payment() {
    let running = start().await;
    let (live, client) = (live(&running), running.client());
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    let session = live.start_checkout(&checkout(&customer, top_up()), &key("top-up")).await.unwrap();
    let declined = client.post(&format!("/_local/stripe/checkout/{}", session.id), json!({ "card": "0002" })).await;
    assert_eq!(declined.status, StatusCode::PAYMENT_REQUIRED);
    act(&client, &format!("checkout/{}", session.id), json!({})).await;
    let session = live.read_checkout(&session.id).await.unwrap().unwrap();
    let intent = session.payment_intent.clone().unwrap();
    assert_eq!(live.find_paid(&intent).await, Ok(Some(PaidFor::Checkout(session.clone()))));

    let journal = client.get("/_local/stripe/journal").await.body;
    let charge = id(journal["payments"][0]["id"].as_str().unwrap());
    let read = live.read_charge(&charge).await.unwrap().unwrap();
    assert_eq!((read.amount, read.payment_intent, read.customer), (2500, Some(intent), Some(customer.clone())));
    let refund = act(&client, "refunds", json!({ "charge": charge.as_str(), "amount": 500 })).await;
    let refund = live.read_refund(&id(refund["id"].as_str().unwrap())).await.unwrap().unwrap();
    assert_eq!(
        (refund.amount, refund.charge, refund.status.as_deref()),
        (500, Some(charge.clone()), Some("succeeded"))
    );
    let dispute = act(&client, "disputes", json!({ "charge": charge.as_str() })).await;
    let dispute = id(dispute["id"].as_str().unwrap());
    act(&client, &format!("disputes/{dispute}/close"), json!({ "won": true })).await;
    let dispute = live.read_dispute(&dispute).await.unwrap().unwrap();
    assert_eq!((dispute.charge, dispute.status.as_str()), (charge, "won"));

    let session = live.start_checkout(&checkout(&customer, growth()), &key("checkout")).await.unwrap();
    act(&client, &format!("checkout/{}", session.id), json!({})).await;
    let journal = client.get("/_local/stripe/journal").await.body;
    let charge = id(journal["payments"][0]["id"].as_str().unwrap());
    let intent = live.read_charge(&charge).await.unwrap().unwrap().payment_intent.unwrap();
    let Ok(Some(PaidFor::Invoice(invoice))) = live.find_paid(&intent).await else { panic!("an invoice was paid") };
    assert_eq!(invoice.total, 4900);
    assert_eq!(live.find_paid(&id("pi_nobody")).await, Ok(None));
    for kind in ["in_nobody", "sub_nobody"] {
        assert_eq!(live.read_invoice(&id(kind)).await, Ok(None));
        assert_eq!(live.read_subscription(&id(kind)).await, Ok(None));
        assert_eq!(live.read_charge(&id(kind)).await, Ok(None));
    }
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted_once_by_its_identifier_and_not_when_it_is_too_old() {
    let running = start().await;
    let live = live(&running);
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    let now: Timestamp = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map(|age| Timestamp::from_second(i64::try_from(age.as_secs()).unwrap()).unwrap())
        .unwrap();
    let identifier = "acct_7-2026-11-24T06".to_owned();
    let event = MeterEvent { name: "telbuddy_segments", customer, value: 12, identifier, at: now };
    for which in ["once", "once"] {
        assert_eq!(live.report_usage(&event, &key(which)).await, Ok(()));
    }
    // A day later the key is forgotten, and the identifier may be: our own record has to know.
    let refused = live.report_usage(&event, &key("another")).await.unwrap_err();
    assert!(refused.to_string().contains("duplicate_meter_event"), "{refused}");
    let old = MeterEvent { identifier: "old".to_owned(), at: now - Duration::from_hours(36 * 24), ..event };
    let refused = live.report_usage(&old, &key("old")).await.unwrap_err();
    assert!(refused.to_string().contains("timestamp_too_far_in_past"), "{refused}");
    let journal = running.client().get("/_local/stripe/journal").await.body;
    assert_eq!(journal["meter_events"].as_array().unwrap().len(), 1);
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_asked_for_again_and_nothing_is_done_twice() {
    let running = start().await;
    let (live, client) = (live(&running), running.client());
    for (n, kind) in ["accept_then_drop", "drop", "500", "429", "lock_timeout"].into_iter().enumerate() {
        act(&client, "faults", json!({ "kind": kind, "next": 2 })).await;
        let made = live.make_customer(account(), &key(kind)).await.unwrap();
        assert_eq!(live.make_customer(account(), &key(kind)).await.unwrap(), made, "the same operation");
        let customers = client.get("/_local/stripe").await.body["objects"]["customer"].as_array().unwrap().len();
        assert_eq!(customers, n + 1, "{kind}");
    }
    act(&client, "faults", json!({ "kind": "accept_then_drop", "next": 3 })).await;
    let lost = live.make_customer(account(), &key("lost")).await;
    assert!(matches!(lost, Err(StripeError::Fault(Fault::Ambiguous(_)))), "{lost:?}");
    let made = live.make_customer(account(), &key("lost")).await.unwrap();
    let body = client.get("/_local/stripe").await.body;
    let customers = body["objects"]["customer"].as_array().unwrap();
    assert_eq!((customers.len(), customers[0]["id"].as_str()), (6, Some(made.as_str())));
    let customer = &made;
    live.start_checkout(&checkout(customer, growth()), &key("sale")).await.unwrap();
    let reused = live.start_checkout(&checkout(customer, top_up()), &key("sale")).await.unwrap_err();
    assert!(reused.is_key_reused(), "{reused}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_signed_taken_by_the_webhook_and_found_in_the_list_when_they_were_not() {
    let running = start().await;
    let (live, client) = (live(&running), running.client());
    act(&client, "faults", json!({ "kind": "event_twice" })).await;
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    assert_eq!(told(&client).await, ["customer.created"]);
    let since: Timestamp = "2020-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(live.list_undelivered(since, None).await.unwrap().data, []);

    act(&client, "faults", json!({ "kind": "event_lost" })).await;
    live.delete_customer(&customer).await.unwrap();
    let missed = eventually("a delivery is given up", async || {
        let page = live.list_undelivered(since, None).await.unwrap();
        page.data.into_iter().next()
    })
    .await;
    assert_eq!((missed.kind.as_str(), missed.customer), ("customer.deleted", Some(customer)));
    assert_eq!(live.read_stripe_event(&missed.id).await.unwrap().unwrap().kind, "customer.deleted");
    assert_eq!(live.read_stripe_event(&id("evt_nobody")).await, Ok(None));
    let resent = act(&client, &format!("events/{}/resend", missed.id), json!({})).await;
    assert_eq!(resent["taken"], true);
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_goes_through_the_pages_and_no_page_asks_for_a_card() {
    let running = start().await;
    let live = live(&running);
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    let session = live.start_checkout(&checkout(&customer, growth()), &key("checkout")).await.unwrap();
    let page = session.url.clone().unwrap();
    let html = http.get(&page).send().await.unwrap().text().await.unwrap();
    assert!(
        html.contains("double of Stripe") && html.contains("4242 4242 4242 4242") && html.contains("$ 49.00"),
        "{html}"
    );
    let declined = http.post(&page).form(&[("card", "0002")]).send().await.unwrap();
    assert!(declined.text().await.unwrap().contains("declined"));
    let paid = http.post(&page).form(&[("card", "4242")]).send().await.unwrap();
    let led_to = paid.headers()["location"].to_str().unwrap();
    assert_eq!(
        (paid.status(), led_to),
        (StatusCode::SEE_OTHER, &*format!("https://app.example.com/?paid={}", session.id))
    );
    let portal = live.open_portal(&customer, "https://app.example.com/", &key("portal")).await.unwrap();
    let html_of_portal = http.get(&portal).send().await.unwrap().text().await.unwrap();
    assert!(html_of_portal.contains("Your subscription is active") && html_of_portal.contains("LOCAL-0001"));
    let canceled = http.post(&portal).form(&[("action", "cancel")]).send().await.unwrap();
    assert_eq!(canceled.status(), StatusCode::SEE_OTHER);
    let sub = live.read_checkout(&session.id).await.unwrap().unwrap().subscription.unwrap();
    assert!(live.read_subscription(&sub).await.unwrap().unwrap().cancel_at_period_end);
    let invoice = live.list_invoices(&customer, None, 1).await.unwrap().data[0].hosted_invoice_url.clone().unwrap();
    let receipt = http.get(invoice).send().await.unwrap().text().await.unwrap();
    assert!(receipt.contains("Growth: $ 49.00"), "{receipt}");
    for page in [html, html_of_portal, receipt] {
        assert!(!page.contains("type=\"text\"") && !page.contains("type=\"number\"") && !page.contains("type=\"tel\""));
    }
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_not_paid_is_past_due_then_paid_or_over() {
    let running = start().await;
    let (live, client) = (live(&running), running.client());
    let customer = live.make_customer(account(), &key("customer")).await.unwrap();
    let session = live.start_checkout(&checkout(&customer, growth()), &key("checkout")).await.unwrap();
    act(&client, &format!("checkout/{}", session.id), json!({})).await;
    let sub = live.read_checkout(&session.id).await.unwrap().unwrap().subscription.unwrap();
    let status = async || live.read_subscription(&sub).await.unwrap().unwrap().status;
    act(&client, &format!("subscriptions/{sub}/end-period"), json!({ "card": "0002" })).await;
    assert_eq!(status().await, SubscriptionStatus::PastDue);
    let open = live.list_invoices(&customer, None, 1).await.unwrap().data.remove(0);
    assert!(open.next_payment_attempt.is_some());
    act(&client, &format!("invoices/{}", open.id), json!({})).await;
    assert_eq!(status().await, SubscriptionStatus::Active);
    act(&client, &format!("subscriptions/{sub}/end-period"), json!({ "card": "0002", "last": true })).await;
    assert_eq!(status().await, SubscriptionStatus::Canceled);
    let types = told(&client).await;
    for kind in [
        "customer.subscription.created",
        "customer.subscription.updated",
        "customer.subscription.deleted",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
        "invoice.payment_failed",
        "checkout.session.completed",
    ] {
        assert!(types.iter().any(|one| one == kind), "{kind}: {types:?}");
    }
    assert_no_violations(&running);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_double_refuses_what_stripe_would_and_lists_what_does_not_fit_its_description() {
    let running = start().await;
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = running.stripe.ready();
    let version = telbuddy::live::STRIPE_VERSION;
    let ask = async |secret: &str, version: &str, key: &str, form: &str| {
        let url = format!("{}/v1/customers", running.stripe.base_url());
        let request = http.post(url).bearer_auth(secret).header("stripe-version", version);
        let request = if key.is_empty() { request } else { request.header("idempotency-key", key) };
        let answer = request.body(form.to_owned()).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap()["error"]["code"].clone())
    };
    let good = ready.secret_key.as_str();
    assert_eq!(ask("sk_test_guess", version, "a", "").await.0, 401);
    assert_no_violations(&running);
    assert_eq!(ask(good, version, "a", "metadata[a]=1").await, (200, Value::Null));
    assert_no_violations(&running);
    for (version, key, form, status, listed) in [
        ("2024-06-20", "b", "", 400, "Stripe-Version"),
        (version, "c", "card[number]=4242424242424242", 400, "parameter_unknown card"),
        (version, "", "metadata[a]=1", 200, "without Idempotency-Key"),
    ] {
        assert_eq!(ask(good, version, key, form).await.0, status, "{form}");
        let violations = running.stripe.violations();
        assert!(violations.last().unwrap().contains(listed), "{violations:?}");
    }
    running.stop().await;
}

/// Promise N13, for the whole API: no name of a field or parameter is one of a card's.
#[test]
fn no_field_of_the_api_is_for_a_card() {
    fn names(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                let named = fields.get("properties").and_then(Value::as_object);
                into.extend(named.into_iter().flat_map(|named| named.keys().cloned()));
                if fields.contains_key("in") {
                    into.extend(fields.get("name").and_then(Value::as_str).map(str::to_owned));
                }
                fields.values().for_each(|value| names(value, into));
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, into)),
            _ => {}
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../functions/meta/openapi.json");
    let description: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut all = Vec::new();
    names(&description, &mut all);
    assert!(all.len() > 300 && all.contains(&"credits_micro".to_owned()), "{} names", all.len());
    let of_cards = ["card", "cards", "cvc", "cvv", "pan", "iban", "expiry", "exp", "cardholder"];
    let found: Vec<_> =
        all.iter().filter(|name| name.to_lowercase().split(['_', '-']).any(|part| of_cards.contains(&part))).collect();
    assert_eq!(found, Vec::<&String>::new());
}

const MICRO: u64 = 1_000_000;

async fn buy(client: &Client, path: &str, key: &str, body: Value) -> String {
    let headers = [("idempotency-key", key)];
    let answer = client.send(reqwest::Method::POST, path, Some(body.to_string()), &headers).await;
    answer.expect(StatusCode::CREATED)["url"].as_str().unwrap().to_owned()
}

async fn until_credits(client: &Client, credits: u64) {
    eventually("the credits are there", async || {
        let available = client.get("/v1/credits").await.body["available_micro"].as_u64().unwrap();
        (available == credits * MICRO).then_some(())
    })
    .await;
}

/// Pays on the page of a checkout, as a person does.
async fn pay(running: &Running, page: &str) {
    let path = page.strip_prefix(&format!("{}/_local/stripe/", running.url)).unwrap();
    act(&running.client(), path, json!({ "card": "4242" })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_bought_topped_up_changed_not_paid_paid_given_back_and_ended() {
    let running = start().await;
    let (ann, double) = (running.signed_in("ann").await, running.client());
    let plans = ann.get("/v1/billing/plans").await.expect(StatusCode::OK);
    assert_eq!(plans["plans"][2]["available"], true);
    until_credits(&ann, 100).await;
    // Every event of what follows may come twice, late, or both.
    act(&double, "faults", json!({ "kind": "event_twice", "next": 30 })).await;
    act(&double, "faults", json!({ "kind": "event_late", "next": 10 })).await;

    let page = buy(&ann, "/v1/billing/checkout", "one", json!({ "plan": "growth" })).await;
    assert_eq!(buy(&ann, "/v1/billing/checkout", "one", json!({ "plan": "growth" })).await, page);
    pay(&running, &page).await;
    until_credits(&ann, 6_100).await;
    let subscription = eventually("the plan is set", async || {
        let shown = ann.get("/v1/billing/subscription").await.expect(StatusCode::OK);
        (shown["plan"] == "growth" && shown["status"] == "active").then_some(shown)
    })
    .await;
    assert!(subscription["current_period_end"].is_string() && subscription["ends_at"].is_null());
    let (body, headers) = (json!({ "plan": "scale" }).to_string(), [("idempotency-key", "two")]);
    let again = ann.send(reqwest::Method::POST, "/v1/billing/checkout", Some(body), &headers).await;
    assert_eq!(again.problem(StatusCode::CONFLICT), "subscribed");

    let page = buy(&ann, "/v1/billing/top-ups", "three", json!({ "credits_micro": 2_500 * MICRO })).await;
    pay(&running, &page).await;
    until_credits(&ann, 8_600).await;
    let invoices = ann.get("/v1/billing/invoices").await.expect(StatusCode::OK);
    let totals: Vec<_> = invoices["data"].as_array().unwrap().iter().map(|one| one["total_minor"].clone()).collect();
    assert_eq!(totals, [json!(2500), json!(4900)]);
    assert!(invoices["data"][0]["url"].as_str().unwrap().starts_with(&running.url), "{invoices}");

    // A fifth of the top-up goes back, then the whole of it is disputed by mistake, and won.
    let charge = double.get("/_local/stripe/journal").await.body["payments"][0]["id"].clone();
    act(&double, "refunds", json!({ "charge": charge, "amount": 500 })).await;
    until_credits(&ann, 8_100).await;
    let dispute = act(&double, "disputes", json!({ "charge": charge })).await;
    until_credits(&ann, 5_600).await;
    act(&double, &format!("disputes/{}/close", dispute["id"].as_str().unwrap()), json!({ "won": true })).await;
    until_credits(&ann, 8_100).await;

    // Another plan for the rest of the month, in the portal.
    let portal = ann.post("/v1/billing/portal", json!({})).await.expect(StatusCode::CREATED);
    let portal =
        portal["url"].as_str().unwrap().strip_prefix(&format!("{}/_local/stripe/", running.url)).unwrap().to_owned();
    act(&double, &portal, json!({ "action": "plan", "price": SCALE })).await;
    let shown = async |name: &str, wanted: Value| {
        eventually("the subscription is as it should be", async || {
            let shown = ann.get("/v1/billing/subscription").await.expect(StatusCode::OK);
            (shown[name] == wanted).then_some(shown)
        })
        .await
    };
    shown("plan", json!("scale")).await;
    let credits = eventually("the difference arrives", async || {
        let available = ann.get("/v1/credits").await.body["available_micro"].as_u64().unwrap();
        (available > 22_000 * MICRO).then_some(available)
    })
    .await;
    assert!(credits <= 22_100 * MICRO, "at most the difference of a month: {credits}");

    // A renewal is not paid, then it is; then nobody pays at all.
    let overview = double.get("/_local/stripe").await.body;
    let sub = overview["objects"]["subscription"][0]["id"].as_str().unwrap().to_owned();
    act(&double, &format!("subscriptions/{sub}/end-period"), json!({ "card": "0002" })).await;
    let past_due = shown("status", json!("past_due")).await;
    assert!(past_due["grace_until"].is_string());
    let open = ann.get("/v1/billing/invoices?limit=1").await.expect(StatusCode::OK);
    assert_eq!(open["data"][0]["status"], "open");
    let page = open["data"][0]["url"].as_str().unwrap().to_owned();
    pay(&running, &page).await;
    assert!(shown("status", json!("active")).await["grace_until"].is_null());
    act(&double, &portal, json!({ "action": "cancel" })).await;
    eventually("the end is known", async || {
        let shown = ann.get("/v1/billing/subscription").await.expect(StatusCode::OK);
        shown["ends_at"].is_string().then_some(())
    })
    .await;
    act(&double, &format!("subscriptions/{sub}/end-period"), json!({})).await;
    shown("status", json!("canceled")).await;
    told(&double).await;
    assert_no_violations(&running);
    let queues = running.aws.queues().unwrap();
    let dead = queues.iter().find(|queue| queue.name.ends_with("stripe-events-dead")).unwrap();
    assert_eq!(dead.visible, 0);
    running.stop().await;
}
