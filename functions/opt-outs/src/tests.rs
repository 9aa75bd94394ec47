//! Lists page by page, rows in the order of their numbers, and nothing kept but hashes, for the calls that it claims.

use http::Method;
use serde_json::{Value, json};
use telbuddy::ids::ApiKeyId;
use telbuddy::inbound::Consent;
use telbuddy::opt_out::RecordConsent;
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, OWN, secs};
use telbuddy::testing::setup::{Customer, TO, called, request, site, with_header};

use super::*;

const SERVICE: &str = "MG0123456789abcdef0123456789abcdef";

async fn post(world: &World, customer: &Customer, path: &str, body: Value) -> Reply {
    handle(world, &site(), customer.request(world, Method::POST, path, &body.to_string())).await
}

async fn get(world: &World, customer: &Customer, path: &str) -> Reply {
    handle(world, &site(), customer.request(world, Method::GET, path, "")).await
}

async fn get_csv(world: &World, customer: &Customer, path: &str) -> Reply {
    let request = customer.request(world, Method::GET, path, "");
    handle(world, &site(), with_header(request, header::ACCEPT, "text/csv, */*;q=0.1")).await
}

fn data(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    serde_json::from_str::<Value>(&reply.body).unwrap()["data"].as_array().unwrap().clone()
}

fn removal(numbers: &Value, now: Timestamp) -> Value {
    json!({ "numbers": numbers, "from": OWN, "evidence": { "kind": "written", "given_at": now } })
}

fn results(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|row| row["result"].as_str().or(row["error"]["code"].as_str()).unwrap()).collect()
}

#[tokio::test]
async fn each_request_costs_what_it_claims() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let ask = json!({ "numbers": [TO, "+14155552672"], "from": OWN });
    let cases = [
        ("/v1/opt-outs", ask.clone(), vec!["enter_opt_outs", "load_keys", "open_key"]),
        ("/v1/opt-outs", ask.clone(), vec!["enter_opt_outs"]),
        ("/v1/opt-outs/check", ask.clone(), vec!["load_opt_outs"]),
        ("/v1/opt-outs/removals", removal(&ask["numbers"], world.now()), vec!["remove_opt_outs"]),
    ];
    for (path, body, calls) in cases {
        world.forget_calls();
        assert_eq!(post(&world, &customer, path, body).await.status, StatusCode::OK);
        assert_eq!(called(&world), calls.into_iter().chain(["load_session"]).map(|call| (call, 1)).collect());
    }
    world.forget_calls();
    assert_eq!(get(&world, &customer, "/v1/opt-outs").await.status, StatusCode::OK);
    let calls = ["load_session", "opt_out_senders", "list_opt_outs"];
    assert_eq!(called(&world), calls.map(|call| (call, 1)).into_iter().collect());
    let purposes: Vec<_> = world.openings().iter().map(|opening| opening.purpose).collect();
    assert_eq!(purposes, [Purpose::Match]);
}

#[tokio::test]
async fn rows_answer_in_order_and_nothing_but_hashes_is_kept_or_told() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let numbers = json!(["+14155552679", TO, "call me", "+1 (415) 555-2671", "4155552671"]);
    let body = json!({ "numbers": numbers, "from": OWN });
    let reply = post(&world, &customer, "/v1/opt-outs", body.clone()).await;
    let rows = data(&reply);
    assert_eq!(results(&rows), ["opted_out", "opted_out", "invalid_number", "opted_out", "invalid_number"]);
    assert_eq!(rows.iter().map(|row| row["row"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!((&rows[1]["recipient_hash"], &rows[2]["recipient_hash"]), (&rows[3]["recipient_hash"], &Value::Null));
    assert!(!reply.body.contains("5552679") && !reply.body.contains("call me"), "{}", reply.body);
    assert!(!world.holds_in_clear("415555267"));
    // The same hash as messages have.
    let key = data_key(&world, customer.account, Purpose::Match, None).await.unwrap();
    assert_eq!(rows[1]["recipient_hash"], number_hash(&key, &E164::parse(TO, None).unwrap()));
    // The same request again has the same effect.
    let again = post(&world, &customer, "/v1/opt-outs", body).await;
    assert_eq!(again.body, reply.body);
    assert_eq!(data(&get(&world, &customer, "/v1/opt-outs").await).len(), 2);
}

#[tokio::test]
async fn an_entry_with_an_api_key_names_the_key_and_one_scope_does_not_stand_for_the_other() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (writing, writer) = customer.api_key(&world, &[Scope::OptOutsWrite]).await;
    let (_, reader) = customer.api_key(&world, &[Scope::OptOutsRead]).await;
    let ask = json!({ "numbers": [TO], "from": OWN }).to_string();
    let call = async |bearer: &str, method: Method, path: &str, body: &str| {
        let request = with_header(request(&world, method, path, body), header::AUTHORIZATION, bearer);
        handle(&world, &site(), request).await
    };
    for (bearer, method, path) in [
        (&reader, Method::POST, "/v1/opt-outs"),
        (&reader, Method::POST, REMOVALS),
        (&writer, Method::POST, CHECK),
        (&writer, Method::GET, "/v1/opt-outs"),
    ] {
        let reply = call(bearer, method, path, &ask).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
        assert!(reply.body.contains("scope-missing"), "{}", reply.body);
    }
    assert_eq!(results(&data(&call(&writer, Method::POST, "/v1/opt-outs", &ask).await)), ["opted_out"]);
    assert_eq!(results(&data(&call(&reader, Method::POST, CHECK, &ask).await)), ["opted_out"]);
    let row = data(&call(&reader, Method::GET, "/v1/opt-outs", "").await).remove(0);
    assert_eq!((&row["source"], &row["reference"]), (&json!("api"), &json!(writing.id)));
    world.advance(secs(5));
    let removal = removal(&json!([TO]), world.now()).to_string();
    assert_eq!(results(&data(&call(&writer, Method::POST, REMOVALS, &removal).await)), ["removed"]);
}

#[tokio::test]
async fn an_entry_is_the_users_and_its_removal_needs_evidence() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let numbers = json!([TO]);
    post(&world, &customer, "/v1/opt-outs", json!({ "numbers": numbers, "from": OWN })).await;
    let row = data(&get(&world, &customer, "/v1/opt-outs").await).remove(0);
    assert_eq!((&row["source"], &row["sender"]), (&json!("manual"), &json!(OWN)));
    assert_eq!(row["reference"], customer.user.to_string());
    assert_eq!(row["opted_out_at"], world.now().to_string());
    world.advance(secs(5));
    let good = removal(&numbers, world.now());
    for (field, value) in [
        ("evidence", Value::Null),
        ("evidence", json!({ "kind": "written" })),
        ("evidence", json!({ "kind": "a note about Bob", "given_at": world.now() })),
        ("evidence", json!({ "kind": "written", "given_at": world.now() + secs(1) })),
        ("evidence", json!({ "kind": "written", "given_at": world.now(), "note": "Bob said so" })),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let reply = post(&world, &customer, "/v1/opt-outs/removals", body.clone()).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
        assert!(!reply.body.contains("Bob"), "{}", reply.body);
    }
    let mut twice = Vec::new();
    for _ in 0..2 {
        let rows = data(&post(&world, &customer, "/v1/opt-outs/removals", good.clone()).await);
        twice.push(rows[0]["result"].clone());
    }
    assert_eq!(twice, ["removed", "not_opted_out"]);
    assert_eq!(data(&get(&world, &customer, "/v1/opt-outs").await), Vec::<Value>::new());
}

#[tokio::test]
async fn what_the_recipient_said_is_refused_with_409_and_looked_up_with_its_source() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let key = data_key(&world, customer.account, Purpose::Match, None).await.unwrap();
    let numbers = json!(["+14155552671", "+14155552672", "+14155552673", "+14155552674"]);
    let hash = |n: usize| number_hash(&key, &E164::parse(numbers[n].as_str().unwrap(), None).unwrap());
    let message = customer.message(&world).await.id;
    for (n, heard) in [(0, fresh::heard(&world)), (1, Heard::Refusal(message))] {
        world.record_consent(customer.account, OWN, &hash(n), Consent::Stop, &heard, world.now()).await.unwrap();
    }
    post(&world, &customer, "/v1/opt-outs", json!({ "numbers": [numbers[2]], "from": OWN })).await;
    let ask = json!({ "numbers": numbers, "from": OWN });
    let rows = data(&post(&world, &customer, "/v1/opt-outs/check", ask).await);
    let sources: Vec<_> = rows.iter().map(|row| &row["source"]).collect();
    assert_eq!(sources, [&json!("text"), &json!("error_21610"), &json!("manual"), &Value::Null]);
    assert_eq!(results(&rows), ["opted_out", "opted_out", "opted_out", "not_opted_out"]);
    world.advance(secs(1));
    let rows = data(&post(&world, &customer, "/v1/opt-outs/removals", removal(&numbers, world.now())).await);
    assert_eq!(results(&rows), ["only_the_recipient", "only_the_recipient", "removed", "not_opted_out"]);
    assert_eq!((&rows[0]["error"]["status"], &rows[0]["result"]), (&json!(409), &Value::Null));
    let csv = get_csv(&world, &customer, "/v1/opt-outs").await;
    assert!(csv.body.contains(&format!(",error_21610,{message},2026-11-24T06:00:00Z\r\n")), "{}", csv.body);
}

#[tokio::test]
async fn a_number_and_a_service_that_has_it_are_two_senders() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let of_service = json!({ "numbers": [TO], "messaging_service_sid": SERVICE });
    post(&world, &customer, "/v1/opt-outs", of_service.clone()).await;
    let rows = data(&post(&world, &customer, "/v1/opt-outs/check", of_service).await);
    assert_eq!(results(&rows), ["opted_out"]);
    let rows = data(&post(&world, &customer, "/v1/opt-outs/check", json!({ "numbers": [TO], "from": OWN })).await);
    assert_eq!(results(&rows), ["not_opted_out"]);
}

/// Opt-outs of some senders, each with some recipients; every third is lifted by its recipient.
async fn filled(world: &World, customer: &Customer, senders: u32, recipients: u32) {
    for sender in 0..senders {
        let own = format!("+1500555{sender:04}");
        let others: Vec<_> = (0..recipients).map(|n| format!("{n:04}")).collect();
        world
            .enter_opt_outs(customer.account, &own, &others, By::Key(ApiKeyId::from_bits(7)), world.now())
            .await
            .unwrap();
        for other in others.iter().step_by(3) {
            let (heard, at) = (fresh::heard(world), world.now() + secs(1));
            world.record_consent(customer.account, &own, other, Consent::Start, &heard, at).await.unwrap();
        }
    }
}

#[tokio::test]
async fn every_page_size_shows_each_opt_out_once_and_the_last_page_has_no_next() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    filled(&world, &customer, 3, 7).await;
    let whole = data(&get(&world, &customer, "/v1/opt-outs").await);
    assert_eq!(whole.len(), 3 * 4, "of seven the first, fourth and seventh are lifted");
    for limit in 1..=13 {
        let (mut all, mut pages, mut path) = (Vec::new(), 0, format!("/v1/opt-outs?limit={limit}"));
        loop {
            let reply = get(&world, &customer, &path).await;
            all.extend(data(&reply));
            pages += 1;
            let answer: Value = serde_json::from_str(&reply.body).unwrap();
            let Some(cursor) = answer["next_cursor"].as_str() else { break };
            assert!(!cursor.contains("1500555"), "a number stands in the URL of the next page");
            path = format!("/v1/opt-outs?limit={limit}&cursor={cursor}");
        }
        assert_eq!((&all, pages), (&whole, 12_usize.div_ceil(limit)), "limit {limit}");
    }
    let sender_id = whole[5]["sender_id"].as_str().unwrap();
    let one = data(&get(&world, &customer, &format!("/v1/opt-outs?sender_id={sender_id}")).await);
    assert_eq!(one, whole[4..8]);
    assert_eq!(data(&get(&world, &customer, "/v1/opt-outs?sender_id=nobody").await), Vec::<Value>::new());
}

#[tokio::test]
async fn a_page_stops_after_forty_reads_and_the_next_goes_on() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    filled(&world, &customer, 100, 2).await;
    let (mut all, mut path, mut sizes) = (Vec::new(), "/v1/opt-outs?limit=1000".to_owned(), Vec::new());
    loop {
        world.forget_calls();
        let reply = get(&world, &customer, &path).await;
        assert!(called(&world)["list_opt_outs"] <= 40);
        sizes.push(data(&reply).len());
        all.extend(data(&reply).iter().map(|row| row["sender"].as_str().unwrap().to_owned()));
        let answer: Value = serde_json::from_str(&reply.body).unwrap();
        let Some(cursor) = answer["next_cursor"].as_str() else { break };
        path = format!("/v1/opt-outs?limit=1000&cursor={cursor}");
    }
    assert_eq!(sizes, [40, 40, 20]);
    assert_eq!(all, (0..100).map(|n| format!("+1500555{n:04}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn csv_has_the_rows_of_the_list_and_links_to_the_next_page() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    filled(&world, &customer, 1, 4).await;
    // Twilio names addresses of other channels; whatever is in one, it stays one field.
    let odd = "rcs:\"A, B\"";
    world
        .enter_opt_outs(customer.account, odd, &["x".to_owned()], By::Key(ApiKeyId::from_bits(7)), world.now())
        .await
        .unwrap();
    let whole = get_csv(&world, &customer, "/v1/opt-outs").await;
    assert_eq!(whole.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8");
    assert_eq!(whole.headers.get(header::LINK), None);
    let lines: Vec<_> = whole.body.split_terminator("\r\n").collect();
    assert_eq!(lines[0], "recipient_hash,sender,sender_id,source,reference,opted_out_at");
    assert!(
        lines[1].starts_with("0001,+15005550000,")
            && lines[1].ends_with(",api,key_00000000000000000000000007,2026-11-24T06:00:00Z")
    );
    assert!(lines[3].starts_with("x,\"rcs:\"\"A, B\"\"\","), "{}", lines[3]);
    assert_eq!(lines.len(), 1 + 3);
    let first = get_csv(&world, &customer, "/v1/opt-outs?limit=2").await;
    let link = first.headers[header::LINK].to_str().unwrap();
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")).unwrap();
    let rest = get_csv(&world, &customer, next).await;
    assert_eq!(rest.body.split_terminator("\r\n").collect::<Vec<_>>(), [lines[0], lines[3]]);
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_writes_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let many: Vec<_> = (0..1_001).map(|n| format!("+1415555{n:04}")).collect();
    for (body, field) in [
        (json!({ "numbers": [], "from": OWN }), "numbers"),
        (json!({ "numbers": many, "from": OWN }), "numbers"),
        (json!({ "numbers": TO, "from": OWN }), "numbers"),
        (json!({ "numbers": [TO] }), "from"),
        (json!({ "numbers": [TO], "from": OWN, "messaging_service_sid": SERVICE }), "from"),
        (json!({ "numbers": [TO], "from": "+1" }), "from"),
        (json!({ "numbers": [TO], "messaging_service_sid": "MG1" }), "messaging_service_sid"),
        (json!({ "numbers": [TO], "from": OWN, "note": "x" }), "note"),
    ] {
        for path in ["/v1/opt-outs", "/v1/opt-outs/check"] {
            let reply = post(&world, &customer, path, body.clone()).await;
            assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", reply.body);
            assert!(reply.body.contains(&format!("\"field\":\"{field}\"")), "{}", reply.body);
        }
    }
    for query in ["cursor=x", "cursor=x.y", "cursor=a/b.c", "limit=0", "limit=1001", "sender=%2B15005550006"] {
        let reply = get(&world, &customer, &format!("/v1/opt-outs?{query}")).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
    }
    assert_eq!(called(&world).get("enter_opt_outs"), None);
}

#[tokio::test]
async fn nobody_sees_or_changes_another_accounts_opt_outs() {
    let world = World::new(1);
    let (customer, other) = (Customer::new(&world).await, Customer::new(&world).await);
    let ask = json!({ "numbers": [TO], "from": OWN });
    post(&world, &customer, "/v1/opt-outs", ask.clone()).await;
    let (ours, theirs) = (get(&world, &customer, "/v1/opt-outs").await, get(&world, &other, "/v1/opt-outs").await);
    assert_eq!((data(&ours).len(), data(&theirs).len()), (1, 0));
    let rows = data(&post(&world, &other, "/v1/opt-outs/check", ask.clone()).await);
    assert_eq!(results(&rows), ["not_opted_out"]);
    assert_ne!(rows[0]["recipient_hash"], data(&ours)[0]["recipient_hash"], "hashes do not join between accounts");
    world.advance(secs(1));
    let rows = data(&post(&world, &other, "/v1/opt-outs/removals", removal(&json!([TO]), world.now())).await);
    assert_eq!(results(&rows), ["not_opted_out"]);
    world.end_session(customer.account, customer.session.id).await.unwrap();
    for path in ["/v1/opt-outs", "/v1/opt-outs/check", "/v1/opt-outs/removals"] {
        assert_eq!(post(&world, &customer, path, ask.clone()).await.status, StatusCode::UNAUTHORIZED, "{path}");
    }
    assert_eq!(get(&world, &customer, "/v1/opt-outs").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_fault_is_no_answer_about_any_number_and_the_same_request_works_then() {
    for (lost, fault) in [(false, Fault::transient("busy")), (true, Fault::transient("no answer"))] {
        let world = World::new(1);
        let customer = Customer::new(&world).await;
        let ask = json!({ "numbers": [TO], "from": OWN });
        if lost {
            world.lose_answer("enter_opt_outs", fault);
        } else {
            world.fail_next("enter_opt_outs", fault);
        }
        let reply = post(&world, &customer, "/v1/opt-outs", ask.clone()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
        world.advance(secs(2));
        assert_eq!(results(&data(&post(&world, &customer, "/v1/opt-outs", ask).await)), ["opted_out"]);
        assert_eq!(data(&get(&world, &customer, "/v1/opt-outs").await).len(), 1);
    }
}
