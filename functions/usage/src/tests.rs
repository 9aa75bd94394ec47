//! What was used, page by page, and what is left, for the calls that it claims.

use std::sync::atomic::{AtomicU32, Ordering};

use futures::future::join;
use http::{Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, EntryId};
use telbuddy::ledger::{
    CreditKind, Entry, Grant, MicroCredits, PostOutcome, Purse, PurseFacts, RollUpUsage, Step, Stepped, UsageEvent,
    UsageKind, Zone, failure_at_posting, give_credits, roll_up,
};
use telbuddy::message::{Direction, Message, Outcome, RecordOutcome};
use telbuddy::number::Country;
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, secs};
use telbuddy::testing::setup::{Customer, called, row, site, with_header};

use super::*;

async fn get(world: &World, customer: &Customer, path: &str) -> Reply {
    handle(world, &site(), customer.request(world, Method::GET, path, "")).await
}

/// A message that Twilio took.
async fn taken(world: &World, customer: &Customer) -> Message {
    let message = customer.message(world).await;
    let claimed = fresh::claimed(world, &message, world.now()).await;
    let sid = fresh::sid(world, "SM").as_str().to_owned();
    world.record_outcome(&claimed, &Outcome::Sent { sid }, world.now()).await.unwrap();
    row(world, &message)
}

/// A message that Twilio took, posted and counted.
async fn counted(world: &World, customer: &Customer) {
    counted_as(world, customer, |event| event).await;
}

/// The same, as if it were of another kind, direction, country or day.
async fn counted_as(world: &World, customer: &Customer, change: impl FnOnce(UsageEvent) -> UsageEvent) {
    let message = taken(world, customer).await;
    let zone = world.gate(customer.account).unwrap().zone;
    let Entry { id, usage, .. } = fresh::charge(world, &message, world.now());
    let event = UsageEvent { day: zone.day(message.created), ..usage.unwrap() };
    let entry = Entry::charge(id, change(event), world.now(), &zone);
    world.post_charge(&message, entry.clone(), world.now(), &[], None).await.unwrap();
    let entries = [entry];
    assert_eq!(world.count_journal(&entries, &roll_up(&entries)).await, Ok(true));
    world.forget_calls();
}

fn json_of(reply: &Reply) -> Value {
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

/// Every row of every page of a query, each as `period kind direction country messages`.
async fn all_rows(world: &World, customer: &Customer, query: &str) -> Vec<String> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = json_of(&get(world, customer, &format!("/v1/usage?{query}{cursor}")).await);
        for row in page["data"].as_array().unwrap() {
            let text = |name: &str| row[name].as_str().unwrap_or("null").to_owned();
            let texts = ["period", "kind", "direction", "country"].map(text).join(" ");
            rows.push(format!("{texts} {}", row["messages"]));
        }
        let Some(next) = page["next_cursor"].as_str() else { return rows };
        cursor = format!("&cursor={}", next.replace('#', "%23"));
    }
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
    let credits = vec![("load_session", 1), ("load_purse", 1)];
    for (path, calls) in [("/v1/usage", usage.clone()), ("/v1/usage/errors", usage), ("/v1/credits", credits)] {
        world.forget_calls();
        assert_eq!(get(&world, &customer, path).await.status, StatusCode::OK);
        assert_eq!(called(&world), calls.into_iter().collect());
    }
}

#[tokio::test]
async fn what_waits_is_held_and_what_was_taken_is_used_of_the_credits_that_end_first() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let expires = Some(world.now() + secs(20 * 86_400));
    for (source, kind, n, expires) in
        [("in_1", CreditKind::Included, 10, expires), ("cs_1", CreditKind::Purchased, 5, None)]
    {
        let grant = Grant { source: source.to_owned(), kind, credits: MicroCredits::whole(n), expires };
        give_credits(&world, customer.account, &grant, world.now()).await.unwrap();
    }
    for _ in 0..4 {
        counted(&world, &customer).await;
    }
    customer.message(&world).await;
    let shown = json_of(&get(&world, &customer, "/v1/credits").await);
    insta::assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
    {
      "available_micro": 110000000,
      "expiring": {
        "lots": [
          {
            "expires_at": "2026-12-14T06:00:00Z",
            "granted_micro": 10000000,
            "kind": "included",
            "left_micro": 6000000
          }
        ],
        "total_micro": 6000000
      },
      "held_micro": 1000000,
      "lots": [
        {
          "expires_at": "2026-12-14T06:00:00Z",
          "granted_micro": 10000000,
          "kind": "included",
          "left_micro": 6000000
        },
        {
          "expires_at": null,
          "granted_micro": 100000000,
          "kind": "included",
          "left_micro": 100000000
        },
        {
          "expires_at": null,
          "granted_micro": 5000000,
          "kind": "purchased",
          "left_micro": 5000000
        }
      ],
      "overage": null,
      "owed_micro": 0,
      "used_micro": 4000000,
      "warnings": {
        "credit_micro": 115000000,
        "percent": 3,
        "period_began_at": "2026-11-24T06:00:00Z",
        "used_micro": 4000000,
        "warned_percent": 0
      }
    }
    "#);
}

/// Charges, new messages and bought credits come between each read: what is shown goes together all the same.
#[tokio::test]
async fn the_numbers_go_together_whatever_comes_in_between() {
    for seed in 0..40 {
        let world = World::new(seed);
        let customer = Customer::new(&world).await;
        let mut waiting = Vec::new();
        for _ in 0..6 {
            waiting.push(taken(&world, &customer).await);
        }
        let work = async {
            for (n, message) in waiting.iter().enumerate() {
                let entry = fresh::charge(&world, message, world.now());
                world.post_charge(message, entry, world.now(), &[], None).await.unwrap();
                customer.message(&world).await;
                let (source, credits) = (format!("cs_{n}"), MicroCredits::whole(7));
                let grant = Grant { source, kind: CreditKind::Purchased, credits, expires: None };
                give_credits(&world, customer.account, &grant, world.now()).await.unwrap();
            }
        };
        let looks = async {
            for _ in 0..12 {
                let shown = json_of(&get(&world, &customer, "/v1/credits").await);
                let micro = |name: &str| shown[name].as_u64().unwrap();
                let lots = shown["lots"].as_array().unwrap();
                let left: u64 = lots.iter().map(|lot| lot["left_micro"].as_u64().unwrap()).sum();
                let granted: u64 = lots.iter().map(|lot| lot["granted_micro"].as_u64().unwrap()).sum();
                assert_eq!(left, micro("available_micro") + micro("held_micro"), "seed {seed}: {shown}");
                assert_eq!(granted - left, micro("used_micro"), "seed {seed}: {shown}");
            }
        };
        join(work, looks).await;
    }
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
    let csv = get_as(&world, &customer, "/v1/usage/errors", "text/csv").await;
    let advice = "the telephone was off or out of reach: try once more in an hour";
    let url = "https://www.twilio.com/docs/api/errors/30003";
    let second = format!("2026-11-24,US,2,30003,recipient,{advice},false,{url}");
    assert_eq!(csv.body.lines().nth(2), Some(second.as_str()));
    let fields: Vec<_> = body["data"][0].as_object().unwrap().keys().cloned().collect();
    let mut columns: Vec<_> = csv.body.lines().next().unwrap().split(',').map(str::to_owned).collect();
    columns.sort_unstable();
    assert_eq!(columns, fields);
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

/// A store whose first look sees the purse from before credits came.
struct Torn<'w> {
    world: &'w World,
    before: PurseFacts,
    looks: AtomicU32,
    torn: u32,
}

impl KeepPurse for Torn<'_> {
    async fn load_purse(&self, account: AccountId) -> Result<Option<PurseFacts>, Fault> {
        let there = self.world.load_purse(account).await?.unwrap();
        let torn = self.looks.fetch_add(1, Ordering::Relaxed) < self.torn;
        Ok(Some(if torn { PurseFacts { purse: self.before.purse.clone(), ..there } } else { there }))
    }

    async fn find_ending(&self, now: Timestamp, limit: u16) -> Result<Vec<AccountId>, Fault> {
        self.world.find_ending(now, limit).await
    }

    async fn note_warning(&self, account: AccountId, purse: &Purse, percent: u8) -> Result<bool, Fault> {
        self.world.note_warning(account, purse, percent).await
    }

    async fn look_at_purse_again(&self, account: AccountId, purse: &Purse, at: Timestamp) -> Result<(), Fault> {
        self.world.look_at_purse_again(account, purse, at).await
    }

    async fn save_step(
        &self,
        account: AccountId,
        step: &Step,
        entries: &[Entry],
        now: Timestamp,
    ) -> Result<Stepped, Fault> {
        self.world.save_step(account, step, entries, now).await
    }
}

#[tokio::test]
async fn a_purse_from_before_a_change_of_the_allowance_is_looked_at_again_and_for_good_it_is_shown_as_it_is() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let before = world.load_purse(customer.account).await.unwrap().unwrap();
    let grant = Grant {
        source: "cs_1".to_owned(),
        kind: CreditKind::Purchased,
        credits: MicroCredits::whole(5),
        expires: None,
    };
    give_credits(&world, customer.account, &grant, world.now()).await.unwrap();
    for (torn, together) in [(0, true), (1, true), (2, true), (u32::MAX, false)] {
        let store = Torn { world: &world, before: before.clone(), looks: AtomicU32::new(0), torn };
        let facts = credits::look(&store, customer.account).await.unwrap();
        assert_eq!((facts.go_together(), facts.allowance.available()), (together, MicroCredits::whole(105)));
    }
}

#[tokio::test]
async fn what_is_not_grouped_by_is_summed_and_no_page_splits_a_row() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let [us, at] = ["US", "AT"].map(|code| Country::parse(code).ok());
    for (kind, direction, country) in [
        (UsageKind::MessageSegments, Direction::Outbound, us),
        (UsageKind::MessageSegments, Direction::Outbound, at),
        (UsageKind::MessageSegments, Direction::Inbound, us),
        (UsageKind::CallMinutes, Direction::Inbound, us),
        (UsageKind::AiReplies, Direction::Inbound, None),
    ] {
        for day in ["2026-11-23", "2026-11-24"] {
            let day = day.parse().unwrap();
            counted_as(&world, &customer, |event| UsageEvent { kind, direction, country, day, ..event }).await;
        }
    }
    let whole = all_rows(&world, &customer, "from=2026-11-01").await;
    assert_eq!((whole.len(), whole[0].as_str()), (10, "2026-11-23 ai_replies inbound null 1"));
    assert_eq!(whole, all_rows(&world, &customer, "from=2026-11-01&group_by=country,direction,kind").await);
    let expected = [
        ("kind", vec!["ai_replies null null 1", "call_minutes null null 1", "message_segments null null 3"]),
        ("direction", vec!["null inbound null 3", "null outbound null 2"]),
        ("country", vec!["null null null 1", "null null AT 1", "null null US 3"]),
        (
            "country,direction",
            vec!["null inbound null 1", "null inbound US 2", "null outbound AT 1", "null outbound US 1"],
        ),
        ("", vec!["null null null 5"]),
    ];
    for (words, rows) in expected {
        let of = |day: &str| rows.iter().map(|row| format!("{day} {row}")).collect::<Vec<_>>();
        let both = [of("2026-11-23"), of("2026-11-24")].concat();
        for limit in [1, 2, 3, 100] {
            let query = format!("from=2026-11-01&group_by={words}&limit={limit}");
            assert_eq!(all_rows(&world, &customer, &query).await, both, "{query}");
        }
    }
    for wrong in ["group_by=kinds", "group_by=kind,kind", "group_by=country&cursor=2026-11-24%23*%23*%23*"] {
        let reply = get(&world, &customer, &format!("/v1/usage?{wrong}")).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
}

async fn get_as(world: &World, customer: &Customer, path: &str, accept: &str) -> Reply {
    let request = with_header(customer.request(world, Method::GET, path, ""), header::ACCEPT, accept);
    handle(world, &site(), request).await
}

#[tokio::test]
async fn csv_has_the_columns_and_values_of_json_and_leads_over_every_row_once() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for n in 1..=3 {
        let day = format!("2026-11-2{n}").parse().unwrap();
        let country = if n == 2 { None } else { Country::parse("US").ok() };
        counted_as(&world, &customer, |event| UsageEvent { day, country, ..event }).await;
    }
    let as_csv = async |path: &str| get_as(&world, &customer, path, "text/csv").await;
    let whole = as_csv("/v1/usage").await;
    assert_eq!(whole.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
    assert!(!whole.headers.contains_key(header::LINK));
    insta::assert_snapshot!(whole.body.replace("\r\n", "\n"), @r"
    period,kind,direction,country,messages,segments,credits_micro
    2026-11-21,message_segments,outbound,US,1,1,1000000
    2026-11-22,message_segments,outbound,,1,1,1000000
    2026-11-23,message_segments,outbound,US,1,1,1000000
    ");
    let list = json_of(&get(&world, &customer, "/v1/usage").await);
    let fields: Vec<_> = list["data"][0].as_object().unwrap().keys().cloned().collect();
    let mut columns: Vec<_> = whole.body.lines().next().unwrap().split(',').map(str::to_owned).collect();
    columns.sort_unstable();
    assert_eq!(columns, fields);
    let (mut lines, mut path) = (Vec::new(), "/v1/usage?limit=2&group_by=direction".to_owned());
    loop {
        let page = as_csv(&path).await;
        lines.extend(page.body.lines().skip(1).map(str::to_owned));
        let Some(link) = page.headers.get(header::LINK) else { break };
        let (next, rel) = link.to_str().unwrap().split_once('>').unwrap();
        assert_eq!(rel, "; rel=\"next\"");
        path = next.trim_start_matches('<').to_owned();
    }
    let row = |day: u8| format!("2026-11-2{day},,outbound,,1,1,1000000");
    assert_eq!(lines, [row(1), row(2), row(3)]);
}

#[tokio::test]
async fn what_is_neither_json_nor_csv_is_not_acceptable() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for path in ["/v1/usage", "/v1/usage/errors"] {
        for (accept, status) in [
            ("application/xml", StatusCode::NOT_ACCEPTABLE),
            ("text/csv;q=0, application/json;q=0", StatusCode::NOT_ACCEPTABLE),
            ("text/html, */*;q=0.1", StatusCode::OK),
        ] {
            assert_eq!(get_as(&world, &customer, path, accept).await.status, status, "{accept}");
        }
    }
}

#[tokio::test]
async fn days_given_as_dates_are_those_of_the_accounts_time_zone_and_hours_are_utc() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    world.change_gate(customer.account, |gate| gate.zone = Zone::parse("Asia/Kolkata").unwrap());
    // 06:00 UTC is 11:30 in Kolkata; 18:30 UTC is its midnight.
    let late = world.now() + secs(12 * 3_600 + 1_800);
    counted(&world, &customer).await;
    let day = Zone::parse("Asia/Kolkata").unwrap().day(late);
    counted_as(&world, &customer, |event| UsageEvent { at: late, day, ..event }).await;
    let rows = async |query: &str| all_rows(&world, &customer, &format!("{query}&to=2026-11-30&group_by=")).await;
    let null = |period: &str| format!("{period} null null null 1");
    assert_eq!(rows("from=2026-11-25").await, [null("2026-11-25")]);
    assert_eq!(rows("from=2026-11-24").await, [null("2026-11-24"), null("2026-11-25")]);
    assert_eq!(rows("granularity=hour&from=2026-11-25").await, [null("2026-11-24T18")]);
    assert_eq!(rows("granularity=hour&from=2026-11-24T18:00:00%2B05:30").await.len(), 1);
}

/// A page may come after midnight: what the first page began with is before the last 30 days then.
#[tokio::test]
async fn a_cursor_stays_valid_when_the_last_thirty_days_move_on() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    let first = "2026-10-25".parse().unwrap();
    counted_as(&world, &customer, |event| UsageEvent { day: first, ..event }).await;
    counted(&world, &customer).await;
    let page = json_of(&get(&world, &customer, "/v1/usage?limit=1").await);
    let cursor = page["next_cursor"].as_str().unwrap().replace('#', "%23");
    assert_eq!(page["data"][0]["period"], "2026-10-25");
    world.change_gate(customer.account, |gate| gate.zone = Zone::parse("Pacific/Kiritimati").unwrap());
    for (query, rows) in [("", 1), ("&from=2026-11-01", 1), ("&from=2026-10-01&to=2026-10-24", 0)] {
        let page = json_of(&get(&world, &customer, &format!("/v1/usage?cursor={cursor}{query}")).await);
        assert_eq!((page["data"].as_array().unwrap().len(), &page["next_cursor"]), (rows, &json!(null)), "{query}");
    }
}

#[tokio::test]
async fn a_fault_is_no_nought() {
    let world = World::new(1);
    let customer = Customer::new(&world).await;
    for (path, read) in [("/v1/usage", "read_usage"), ("/v1/credits", "load_purse")] {
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
