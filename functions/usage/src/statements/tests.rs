//! Entries and statements as callers get them; what they get verifies.

use http::{Method, header};
use telbuddy::api_key::Scope;
use telbuddy::ledger::export::{EXPORT_FORMAT, Export, ExportedEntry, verify};
use telbuddy::ledger::{JOURNAL_SHARDS, PostOutcome, Posted, RollUpUsage, roll_up};
use telbuddy::message::{Outcome, RecordOutcome};
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, request, row, site, with_header};

use super::*;
use crate::handle;

async fn get(world: &World, customer: &Customer, path: &str, accept: &str) -> Reply {
    let request = customer.request(world, Method::GET, path, "");
    handle(world, &site(), with_header(request, header::ACCEPT, accept)).await
}

async fn json(world: &World, customer: &Customer, path: &str) -> serde_json::Value {
    let reply = get(world, customer, path, "application/json").await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// A message that Twilio took, charged.
async fn charged(world: &World, customer: &Customer) {
    let message = customer.message(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    let sid = fresh::sid(world, "SM").as_str().to_owned();
    world.record_outcome(&claimed, &Outcome::Sent { sid }, world.now()).await.unwrap();
    let message = row(world, &message);
    let entry = fresh::charge(world, &message, world.now());
    assert_eq!(world.post_charge(&message, entry, world.now(), &[], None).await, Ok(Posted::Charged));
}

/// All that was posted so far is counted.
async fn count(world: &World) {
    for shard in 0..JOURNAL_SHARDS {
        for entry in world.load_journal(shard, 200).await.unwrap() {
            let one = [entry];
            assert_eq!(world.count_journal(&one, &roll_up(&one)).await, Ok(true));
        }
    }
    world.forget_calls();
}

/// As the command fetches it: the statement, then every page.
async fn export(world: &World, customer: &Customer, month: &str) -> Export {
    let statement = json(world, customer, &format!("/v1/statements/{month}")).await;
    let statement: Statement = serde_json::from_value(statement).unwrap();
    let (mut entries, mut cursor) = (Vec::<ExportedEntry>::new(), String::new());
    loop {
        let page = json(world, customer, &format!("/v1/credits/entries?month={month}&limit=2{cursor}")).await;
        entries.extend(serde_json::from_value::<Vec<ExportedEntry>>(page["data"].clone()).unwrap());
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    Export { format: EXPORT_FORMAT.to_owned(), statement, entries }
}

#[tokio::test]
async fn a_page_of_entries_and_a_statement_cost_three_reads_each() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    count(&world).await;
    for (path, read) in
        [("/v1/credits/entries?month=2026-11", "list_entries"), ("/v1/statements/2026-11", "load_totals")]
    {
        world.forget_calls();
        json(&world, &customer, path).await;
        assert_eq!(called(&world), [("load_session", 1), ("load_gate", 1), (read, 1)].into_iter().collect());
        world.fail_next(read, Fault::transient("busy"));
        let reply = get(&world, &customer, path, "*/*").await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "a fault is no empty month");
    }
}

#[tokio::test]
async fn what_the_two_routes_answer_verifies_page_by_page_and_what_is_not_counted_is_told() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for _ in 0..4 {
        world.advance(secs(60));
        charged(&world, &customer).await;
    }
    count(&world).await;
    let exported = export(&world, &customer, "2026-11").await;
    let verified = verify(&exported).unwrap();
    assert_eq!((verified.entries, verified.charges, verified.uncounted), (5, 4, vec![]));
    assert_eq!(exported.statement.credits_left_micro.0, 96_000_000);
    assert!(exported.statement.note.is_some());
    // Posted, and not counted yet: listed, and the statement stays as it was.
    charged(&world, &customer).await;
    let exported = export(&world, &customer, "2026-11").await;
    assert_eq!((exported.statement.entries, exported.entries.len()), (5, 6));
    let newest = exported.entries.last().unwrap().id;
    assert_eq!(verify(&exported).unwrap().uncounted, [newest]);
    count(&world).await;
    let exported = export(&world, &customer, "2026-11").await;
    assert_eq!(verify(&exported).unwrap().uncounted, []);
}

#[tokio::test]
async fn a_table_has_a_line_for_each_entry_with_what_it_moves_in_each_book() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.advance(secs(60));
    charged(&world, &customer).await;
    let reply = get(&world, &customer, "/v1/credits/entries", "text/csv").await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
    let lines: Vec<&str> = reply.body.lines().collect();
    assert_eq!(
        lines[0],
        "id,account_id,occasion,posted_at,month,included,purchased,clearing,issued,sold,billed,used_message_segments,\
         used_call_minutes,used_ai_replies,expired,adjustments,refunds,sid,message_id,kind,direction,format,country,\
         units,credits_micro,price_version,at,day,mark"
    );
    assert_eq!(lines.len(), 3, "{}", reply.body);
    assert!(lines[1].contains(",GRANT#trial,2026-11-24T06:00:00Z,2026-11,100000000,,,-100000000,,"), "{}", lines[1]);
    assert!(lines[2].contains(",2026-11,,,-1000000,,,,1000000,,,,,,SM"), "{}", lines[2]);
    assert!(lines[2].contains(",message_segments,outbound,sms,US,1,1000000,2026-11-01,2026-11-24T"), "{}", lines[2]);
    let first = get(&world, &customer, "/v1/credits/entries?month=2026-11&limit=1", "text/csv").await;
    let link = first.headers["link"].to_str().unwrap();
    let path = link.strip_prefix('<').unwrap().split('>').next().unwrap();
    let second = get(&world, &customer, path, "text/csv").await;
    assert_eq!(second.body.lines().nth(1), lines.get(2).copied());
}

#[tokio::test]
async fn what_is_no_month_or_has_no_statement_is_said_so() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.advance(secs(60));
    for (month, status, detail) in [
        ("2026-10", StatusCode::NOT_FOUND, "the account is there since 2026-11; it has no statement of 2026-10"),
        ("2026-12", StatusCode::NOT_FOUND, "2026-12 has not begun; the newest statement is that of 2026-11"),
        ("2026-13", StatusCode::UNPROCESSABLE_ENTITY, "give a month as 2026-11"),
        ("2026-1", StatusCode::UNPROCESSABLE_ENTITY, "give a month as 2026-11"),
        ("november", StatusCode::UNPROCESSABLE_ENTITY, "give a month as 2026-11"),
        ("9999-12", StatusCode::NOT_FOUND, "has not begun"),
    ] {
        for path in [format!("/v1/statements/{month}"), format!("/v1/credits/entries?month={month}")] {
            let reply = get(&world, &customer, &path, "text/html").await;
            assert_eq!(reply.status, status, "{path}");
            assert!(reply.body.contains(detail), "{path}: {}", reply.body);
        }
    }
    let reply = get(&world, &customer, "/v1/credits/entries?cursor=ent_1", "*/*").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let reply = get(&world, &customer, "/v1/statements/2026-11?month=2026-11", "*/*").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_month_without_entries_has_what_was_there_before_and_a_month_that_is_over_is_closed() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let (_, bearer) = customer.api_key(&world, &[Scope::UsageRead]).await;
    charged(&world, &customer).await;
    count(&world).await;
    world.advance(secs(40 * 86_400));
    let read = async |month: &str| {
        let request = request(&world, Method::GET, &format!("/v1/statements/{month}"), "");
        let reply = handle(&world, &site(), with_header(request, header::AUTHORIZATION, &bearer)).await;
        serde_json::from_str::<Statement>(&reply.body).unwrap()
    };
    let (november, january) = (read("2026-11").await, read("2027-01").await);
    assert_eq!((november.state, november.note, november.entries), (StatementState::Closed, None, 2));
    assert_eq!((january.state, january.entries), (StatementState::Open, 0));
    assert_eq!(january.opening_micro, november.closing_micro);
    assert_eq!(january.closing_micro, november.closing_micro);
    assert_eq!(january.movements_micro.len(), 0);
}

#[tokio::test]
async fn a_statement_is_a_page_that_runs_nothing() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.advance(secs(60));
    charged(&world, &customer).await;
    count(&world).await;
    let reply = get(&world, &customer, "/v1/statements/2026-11", "text/html,*/*;q=0.8").await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = reply.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    for row in [
        "<td>Included credits</td><td class=\"n\">0</td><td class=\"n\">100</td><td class=\"n\">100</td>",
        "<td>Used for messages</td><td class=\"n\">0</td><td class=\"n\">1</td><td class=\"n\">1</td>",
        "<td>All books</td><td class=\"n\">0</td><td class=\"n\">0</td><td class=\"n\">0</td>",
        "<dt>Credits left</dt><dd>99</dd>",
        "<dt>Segments of messages</dt><dd>1</dd>",
        "<p class=\"note\">not final",
    ] {
        assert!(reply.body.contains(row), "{row} is not in {}", reply.body);
    }
    for dangerous in ["<script", "src=", "href=", "style=", "http:", "https:", "onload"] {
        assert!(!reply.body.contains(dangerous), "{dangerous}");
    }
}

#[tokio::test]
async fn another_accounts_entries_are_neither_listed_nor_summed_up() {
    let world = World::new(1);
    let (ann, bob) = (Customer::new(&world).await, Customer::new(&world).await);
    charged(&world, &ann).await;
    count(&world).await;
    let (hers, his) = (export(&world, &ann, "2026-11").await, export(&world, &bob, "2026-11").await);
    assert_eq!((hers.entries.len(), his.entries.len()), (2, 1));
    assert_eq!((hers.statement.entries, his.statement.entries), (2, 1));
    assert!(his.entries.iter().all(|entry| entry.account_id == bob.account));
}

#[test]
fn what_is_stored_cannot_become_markup() {
    let zone = serde_json::from_str("\"<script>alert(1)</script>\"").unwrap();
    let month = first_day("2026-11").unwrap();
    let statement = sum_up(AccountId::from_bits(1), month, &zone, &[], Timestamp::UNIX_EPOCH);
    let body = page(&statement).body;
    assert!(body.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !body.contains("<script"), "{body}");
}

#[test]
fn credits_are_shown_to_the_last_millionth() {
    let shown = [0, 1_000_000, -1_500_000, 1, -999_999, 120_000_010].map(credits);
    assert_eq!(shown, ["0", "1", "-1.5", "0.000001", "-0.999999", "120.00001"]);
}
