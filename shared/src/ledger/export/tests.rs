//! What fits is found to fit, and each change is found.

use std::collections::HashSet;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use super::*;
use crate::ledger::{JOURNAL_SHARDS, RolledUp, canonical, first_day, journal_shard, roll_up};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn account() -> AccountId {
    AccountId::new(at("2026-10-05T00:00:00Z"), 7)
}

const CLOSED: &str = "2026-12-03T00:00:00Z";
const OPEN: &str = "2026-11-24T12:00:30Z";

/// Work that costs what the only list says.
fn work(sid: &str, kind: UsageKind, direction: Direction, format: Format, units: u32) -> UsageEvent {
    let list = &PRICE_LISTS[0];
    UsageEvent {
        account: account(),
        sid: sid.to_owned(),
        message: Some(MessageId::from_bits(u128::from(units))),
        kind,
        direction,
        format,
        country: Country::parse("US").ok(),
        units: i64::from(units),
        credits: list.work(kind, direction, format, units).plus(),
        price_version: list.version.to_owned(),
        at: at("2026-11-24T10:00:00Z"),
        day: "2026-11-24".parse().unwrap(),
        error: None,
    }
}

fn sms(sid: &str, segments: u32) -> UsageEvent {
    work(sid, UsageKind::MessageSegments, Direction::Outbound, Format::Sms, segments)
}

fn charge(n: u128, event: UsageEvent, posted: &str) -> Entry {
    Entry::charge(EntryId::new(at(posted), n), event, at(posted), &Zone::default())
}

fn other(n: u128, occasion: Occasion, lines: &[(Book, i64)], posted: &str) -> Entry {
    let line = |(book, amount): &(Book, i64)| Line { book: *book, amount: Change(*amount) };
    Entry {
        id: EntryId::new(at(posted), n),
        account: account(),
        occasion,
        lines: lines.iter().map(line).collect(),
        posted: at(posted),
        month: Zone::default().month(at(posted)),
        usage: None,
    }
}

fn correction(n: u128, by: &str, event: UsageEvent, posted: &str) -> Entry {
    let occasion = Occasion::Correction { by: by.to_owned(), sid: event.sid.clone(), kind: event.kind };
    Entry { occasion, ..charge(n, event, posted) }
}

/// One of each sort, in November, with a grant in October.
fn entries() -> Vec<Entry> {
    let grant = |source: &str| Occasion::Grant { source: source.to_owned() };
    let trial = [(Book::Included, 100_000_000), (Book::Issued, -100_000_000)];
    let less = UsageEvent { units: -1, credits: Change(-1_000_000), ..sms("SM2", 3) };
    vec![
        other(1, grant("trial"), &trial, "2026-10-05T00:00:00Z"),
        other(2, grant("cs_1"), &[(Book::Purchased, 5_000_000), (Book::Sold, -5_000_000)], "2026-11-02T00:00:00Z"),
        charge(3, sms("SM1", 1), "2026-11-24T10:00:01Z"),
        charge(4, sms("SM2", 3), "2026-11-24T10:00:02Z"),
        charge(5, work("MM1", UsageKind::MessageSegments, Direction::Outbound, Format::Mms, 1), "2026-11-24T10:00:03Z"),
        charge(6, work("SM3", UsageKind::MessageSegments, Direction::Inbound, Format::Sms, 2), "2026-11-24T10:00:04Z"),
        charge(7, work("CA1", UsageKind::CallMinutes, Direction::Outbound, Format::Sms, 12), "2026-11-24T10:00:05Z"),
        charge(8, work("CA1", UsageKind::AiReplies, Direction::Outbound, Format::Sms, 2), "2026-11-24T10:00:06Z"),
        correction(9, "2026-11-24", less, "2026-11-25T10:00:00Z"),
        other(
            10,
            Occasion::Draw { revision: 2 },
            &[(Book::Included, -9_000_000), (Book::Clearing, 9_000_000)],
            "2026-11-26T00:00:00Z",
        ),
        other(
            11,
            Occasion::Expiry { source: "cs_1".to_owned(), revision: 3 },
            &[(Book::Purchased, -1_000_000), (Book::Expired, 1_000_000)],
            "2026-11-27T00:00:00Z",
        ),
        other(
            12,
            Occasion::ClawBack { by: "re_1".to_owned() },
            &[(Book::Refunds, 5_000_000), (Book::Purchased, -4_000_000), (Book::Clearing, -1_000_000)],
            "2026-11-28T00:00:00Z",
        ),
        other(
            13,
            Occasion::Overage { revision: 9 },
            &[(Book::Clearing, 2_000_000), (Book::Billed, -2_000_000)],
            "2026-11-28T07:00:00Z",
        ),
    ]
}

/// The export of November: the statement sums up `counted`, the list has `listed`.
fn export_of(counted: &[Entry], listed: &[Entry], now: &str) -> Export {
    let RolledUp { totals, .. } = roll_up(counted);
    let totals: Vec<_> = totals.into_iter().map(|((_, month), totals)| (month, totals)).collect();
    let month = first_day("2026-11").unwrap();
    let listed = listed.iter().filter(|entry| entry.month == "2026-11");
    Export {
        format: EXPORT_FORMAT.to_owned(),
        statement: statement(account(), month, &Zone::default(), &totals, at(now)),
        entries: listed.map(ExportedEntry::from).collect(),
    }
}

fn export() -> Export {
    export_of(&entries(), &entries(), CLOSED)
}

fn findings(export: &Export) -> Vec<String> {
    verify(export).map_or_else(|found| found.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn what_was_not_touched_is_recomputed_and_reads_back_from_its_text() {
    let text = serde_json::to_string(&export()).unwrap();
    let read: Export = serde_json::from_str(&text).unwrap();
    assert_eq!(read, export());
    let uncounted = Vec::new();
    assert_eq!(verify(&read), Ok(Verified { entries: 12, charges: 7, books: 10, uncounted }));
    let Statement { opening_micro, closing_micro, credits_left_micro, owed_micro, used_units, .. } = read.statement;
    assert_eq!(opening_micro[&Book::Included], Change(100_000_000));
    assert_eq!(closing_micro[&Book::Included], Change(91_000_000));
    // 100 and 5 less 4 + 3 + 24 + 10 - 1 used, 1 ended, 5 taken back, and 2 billed on top.
    assert_eq!((credits_left_micro.0, owed_micro.0), (61_000_000, 0));
    assert_eq!(used_units[&UsageKind::MessageSegments], 1 + 3 + 1 + 2 - 1);
}

#[test]
fn an_entry_has_the_canonical_line_and_the_shape_that_the_document_shows() {
    let entry = charge(3, sms("SM1", 1), "2026-11-24T10:00:01Z");
    let parts = [
        "v1|ent_01M86FZ0780000000000000003|acct_01M44NRD000000000000000007|SM1#message_segments|1795514401000|2026-11",
        "used_message_segments=1000000|clearing=-1000000",
        "SM1|msg_00000000000000000000000001|message_segments|outbound|sms|US",
        "1|1000000|2026-11-01|1795514400000|2026-11-24",
    ];
    assert_eq!(canonical(&entry), parts.join("|"));
    insta::assert_snapshot!(serde_json::to_string_pretty(&ExportedEntry::from(&entry)).unwrap(), @r#"
    {
      "id": "ent_01M86FZ0780000000000000003",
      "account_id": "acct_01M44NRD000000000000000007",
      "occasion": "usage",
      "sid": "SM1",
      "kind": "message_segments",
      "posted_at": "2026-11-24T10:00:01Z",
      "month": "2026-11",
      "lines": [
        {
          "book": "used_message_segments",
          "amount_micro": 1000000
        },
        {
          "book": "clearing",
          "amount_micro": -1000000
        }
      ],
      "usage": {
        "sid": "SM1",
        "message_id": "msg_00000000000000000000000001",
        "kind": "message_segments",
        "direction": "outbound",
        "format": "sms",
        "country": "US",
        "units": 1,
        "credits_micro": 1000000,
        "price_version": "2026-11-01",
        "at": "2026-11-24T10:00:00Z",
        "day": "2026-11-24"
      },
      "mark": "33195669286123364088969528206"
    }
    "#);
}

#[test]
fn each_field_of_an_entry_that_is_changed_is_found_and_the_entry_is_named() {
    // The charge of three segments that a correction takes one from.
    let changes = [
        ("/id", json!("ent_01KAV0ZB7N2R5S8T1V4W6X9Y0Z")),
        ("/account_id", json!("acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")),
        ("/occasion", json!("correction")),
        ("/sid", json!("SM9")),
        ("/kind", json!("call_minutes")),
        ("/posted_at", json!("2026-11-24T10:00:02.001Z")),
        ("/posted_at", json!("2026-11-24T10:00:02.0000001Z")),
        ("/posted_at", json!("2026-12-09T10:00:02Z")),
        ("/month", json!("2026-10")),
        ("/lines/0/book", json!("used_call_minutes")),
        ("/lines/1/book", json!("included")),
        ("/lines/0/amount_micro", json!(3_000_001)),
        ("/lines/1/amount_micro", json!(-2_999_999)),
        ("/lines", json!([])),
        ("/usage", json!(null)),
        ("/usage/sid", json!("SM9")),
        ("/usage/message_id", json!("msg_01KAV0ZB7N2R5S8T1V4W6X9Y0Z")),
        ("/usage/message_id", json!(null)),
        ("/usage/kind", json!("ai_replies")),
        ("/usage/direction", json!("inbound")),
        ("/usage/format", json!("mms")),
        ("/usage/country", json!("CA")),
        ("/usage/country", json!(null)),
        ("/usage/units", json!(4)),
        ("/usage/credits_micro", json!(3_000_001)),
        ("/usage/price_version", json!("2026-11-02")),
        ("/usage/at", json!("2026-11-24T10:00:00.001Z")),
        ("/usage/day", json!("2026-11-23")),
        ("/mark", json!("1")),
    ];
    let original = serde_json::to_value(export()).unwrap();
    let number = original["entries"].as_array().unwrap().iter().position(|entry| entry["sid"] == "SM2").unwrap();
    for (pointer, value) in changes {
        let mut edited = original.clone();
        *edited["entries"][number].pointer_mut(pointer).unwrap() = value.clone();
        if pointer == "/occasion" {
            edited["entries"][number]["by"] = json!("2026-11-24");
        }
        assert_ne!(edited, original, "{pointer}");
        let export: Export = serde_json::from_value(edited).unwrap();
        let (id, found) = (export.entries[number].id, verify(&export).unwrap_err());
        assert!(found.iter().any(|finding| finding.entry == Some(id)), "{pointer} to {value}: {found:?}");
    }
}

/// Somebody who computes the mark anew, too: then the sums tell.
#[test]
fn a_change_with_a_mark_of_its_own_is_found_by_the_digest() {
    let mut edited = export();
    let mut entry = edited.entries[3].entry();
    entry.posted += SignedDuration::from_millis(1);
    edited.entries[3] = ExportedEntry::from(&entry);
    let found = verify(&edited).unwrap_err();
    assert!(matches!(found.as_slice(), [Finding { entry: None, wrong: Wrong::Digest { .. } }]), "{found:?}");
}

#[test]
fn an_entry_that_was_taken_out_put_in_or_put_in_twice_is_found() {
    for number in 0..12 {
        let mut edited = export();
        edited.entries.remove(number);
        let found = findings(&edited);
        assert!(found.contains(&"statement: it counts 12 entries; 11 are there".to_owned()), "{number}: {found:?}");
    }
    let more = [entries(), vec![charge(14, sms("SM4", 1), "2026-11-24T10:00:07Z")]].concat();
    let found = findings(&export_of(&entries(), &more, CLOSED));
    assert!(found.contains(&"statement: it counts 12 entries; 13 are there".to_owned()), "{found:?}");
    let twice = [entries(), vec![entries()[2].clone()]].concat();
    let found = findings(&export_of(&entries(), &twice, CLOSED)).join("\n");
    assert!(found.contains("another entry has the same id"), "{found}");
    // Counted twice as well, under another id: the occasion tells.
    let again = [entries(), vec![charge(14, sms("SM1", 1), "2026-11-24T10:00:07Z")]].concat();
    let found = findings(&export_of(&again, &again, CLOSED));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("another entry has the same occasion, SM1#message_segments"), "{found:?}");
}

#[test]
fn amounts_of_two_entries_that_are_swapped_are_found_at_both() {
    let mut edited = export();
    let (one, three) = (edited.entries[1].clone(), edited.entries[2].clone());
    assert_ne!(one.lines, three.lines);
    edited.entries[1].lines.clone_from(&three.lines);
    edited.entries[2].lines.clone_from(&one.lines);
    let found = verify(&edited).unwrap_err();
    let named: HashSet<_> = found.iter().filter_map(|finding| finding.entry).collect();
    assert_eq!(named, [one.id, three.id].into());
    assert!(found.iter().all(|finding| !matches!(finding.wrong, Wrong::Movement { .. })), "the sums are the same");
}

#[test]
fn each_number_of_a_statement_that_is_changed_is_found() {
    let changes = [
        ("/format", json!("telbuddy-statement-2"), "no export of the format"),
        ("/statement/account_id", json!("acct_01KAV0Z8M1Q4T9W2X5Y7B3C6D8"), "another account"),
        ("/statement/month", json!("2026-10"), "of the month 2026-11"),
        ("/statement/month", json!("November"), "does not read"),
        ("/statement/time_zone", json!("Mars/Olympus"), "there is no time zone Mars/Olympus"),
        ("/statement/as_of", json!("2026-12-02T00:00:00Z"), "final or not"),
        ("/statement/state", json!("open"), "final or not"),
        ("/statement/opening_micro/included", json!(100_000_001), "included closes with 91000000"),
        ("/statement/movements_micro/clearing", json!(0), "clearing moved by 0"),
        ("/statement/closing_micro/sold", json!(-5_000_001), "sold closes with -5000001"),
        ("/statement/entries", json!(13), "it counts 13 entries; 12 are there"),
        ("/statement/digest", json!("1"), "its digest is 1;"),
        ("/statement/digest", json!("one"), "its digest is one;"),
        ("/statement/used_units/call_minutes", json!(11), "11 units of call_minutes"),
        ("/statement/credits_left_micro", json!(61_000_001), "by the books it is 61000000"),
        ("/statement/owed_micro", json!(1), "by the books it is 61000000"),
        ("/statement/price_lists/0/mms_micro", json!(2_000_000), "not the one that was published"),
        ("/statement/price_lists", json!([]), "there is no price list 2026-11-01"),
    ];
    for (pointer, value, expected) in changes {
        let mut edited = serde_json::to_value(export()).unwrap();
        *edited.pointer_mut(pointer).unwrap() = value;
        let found = findings(&serde_json::from_value(edited).unwrap()).join("\n");
        assert!(found.contains(expected), "{pointer}: {found}");
    }
    // The opening and the closing together: the books do not sum to zero any more.
    let mut edited = export();
    edited.statement.opening_micro.insert(Book::Purchased, Change(3));
    let closing = edited.statement.closing_micro.get_mut(&Book::Purchased).unwrap();
    *closing = closing.and(Change(3));
    edited.statement.credits_left_micro.0 += 3;
    assert_eq!(findings(&edited), ["statement: the books open with 3 together, not with zero"]);
}

/// What the ledger itself did wrong is found too, though all sums fit.
#[test]
fn a_charge_that_is_not_the_price_or_not_balanced_is_found_though_it_is_counted_so() {
    let with = |entry: Entry| {
        let all = [entries(), vec![entry]].concat();
        findings(&export_of(&all, &all, CLOSED))
    };
    let dear = UsageEvent { credits: Change(2_000_000), ..sms("SM4", 1) };
    let found = with(charge(14, dear, "2026-11-24T11:00:00Z"));
    assert!(found[0].ends_with("it charges 2000000; by the price list it is 1000000"), "{found:?}");
    let mut crooked = charge(14, sms("SM4", 1), "2026-11-24T11:00:00Z");
    crooked.lines[0].amount = Change(1_000_001);
    let found = with(crooked);
    assert!(found[0].ends_with("its lines sum to 1, not to zero"), "{found:?}");
    let more = UsageEvent { units: 2, credits: Change(1_000_000), ..sms("SM1", 1) };
    let found = with(correction(14, "2026-11-25", more, "2026-11-25T11:00:00Z"));
    assert!(found[0].ends_with("it changes the charge by 1000000 for 2 units, which no price makes"), "{found:?}");
    let twice = UsageEvent {
        credits: Change(3_000_000),
        ..work("MM1", UsageKind::MessageSegments, Direction::Outbound, Format::Mms, 1)
    };
    let found = with(correction(14, "2026-11-25", twice, "2026-11-25T11:00:00Z"));
    assert!(found[0].ends_with("it charges 6000000; by the price list it is 3000000"), "{found:?}");
}

#[test]
fn what_is_not_counted_yet_is_told_from_what_was_put_in() {
    let late = |n, sid: &str, posted| charge(n, sms(sid, 1), posted);
    let first = [entries()[..8].to_vec(), vec![late(14, "SM4", "2026-11-24T12:00:01Z")]].concat();
    let new = [late(15, "SM5", "2026-11-24T12:00:10Z"), late(16, "SM6", "2026-11-24T12:00:20Z")];
    let all = [first.clone(), new.to_vec()].concat();
    let verified = verify(&export_of(&first, &all, OPEN)).unwrap();
    assert_eq!((verified.entries, verified.uncounted.len()), (8, 2));
    assert!(new.iter().all(|entry| verified.uncounted.contains(&entry.id)));
    // An hour later it ought to be counted.
    let found = findings(&export_of(&first, &all, "2026-11-24T13:30:00Z"));
    assert!(found.contains(&"statement: it counts 8 entries; 10 are there".to_owned()), "{found:?}");
    // Among what is not counted, something older was changed.
    let mut edited = export_of(&first, &all, OPEN);
    edited.entries[1].lines[0].amount_micro = Change(7);
    let found = findings(&edited);
    assert!(found.iter().any(|line| line.ends_with("something in it was changed")), "{found:?}");
    // One is taken out while another is not counted yet: the number would fit.
    let mut edited = export_of(&first, &all[..10], OPEN);
    edited.entries.remove(1);
    let found = findings(&edited).join("\n");
    assert!(found.contains("its digest is"), "{found}");
}

#[test]
fn of_more_uncounted_entries_than_can_be_searched_it_says_so() {
    let busy = |n: u32| charge(100 + u128::from(n), sms(&format!("SM1{n}"), 1), "2026-11-24T12:00:20Z");
    let all = [entries()[..8].to_vec(), (0..400).map(busy).collect()].concat();
    let found = findings(&export_of(&entries()[..8], &all, OPEN)).join("\n");
    assert!(found.contains("400 entries are not counted yet, too many to tell which"), "{found}");
}

#[test]
fn a_month_is_final_two_days_after_its_end_there() {
    let month = first_day("2026-11").unwrap();
    let state = |zone: &str, now: &str| state_of(month, &Zone::parse(zone).unwrap(), at(now));
    assert_eq!(state("UTC", "2026-12-02T23:59:59Z"), StatementState::Open);
    assert_eq!(state("UTC", "2026-12-03T00:00:00Z"), StatementState::Closed);
    assert_eq!(state("America/New_York", "2026-12-03T04:59:59Z"), StatementState::Open);
    assert_eq!(state("America/New_York", "2026-12-03T05:00:00Z"), StatementState::Closed);
}

/// Work of any kind, with its right price.
fn any_work() -> impl Strategy<Value = (UsageKind, Direction, Format, u32)> {
    let kinds = [UsageKind::MessageSegments, UsageKind::CallMinutes, UsageKind::AiReplies];
    let direction = prop_oneof![Just(Direction::Outbound), Just(Direction::Inbound)];
    let format = prop_oneof![Just(Format::Sms), Just(Format::Mms)];
    (prop::sample::select(kinds.to_vec()), direction, format, 1..1_000_u32)
}

fn any_charges() -> impl Strategy<Value = Vec<Entry>> {
    // Milliseconds before the moment of reading, some of them within the last minute.
    let row = (any_work(), prop_oneof![0..60_000_i64, 0..1_000_000_000_i64], any::<u64>());
    prop::collection::vec(row, 1..40).prop_map(|rows| {
        let entry = |(n, ((kind, direction, format, units), before, dice)): (usize, (_, i64, u64))| {
            let posted = at(OPEN) - SignedDuration::from_millis(before);
            let id = EntryId::new(posted, u128::from(dice) << 16 | u128::try_from(n).unwrap());
            Entry::charge(id, work(&format!("SM{n}"), kind, direction, format, units), posted, &Zone::default())
        };
        rows.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn whatever_was_charged_verifies_in_any_order_and_whatever_is_changed_is_found(
        charges in any_charges(), shuffle in any::<u64>(), which in any::<Index>(), by in 1..1_000_i64,
        what in 0..7_u8,
    ) {
        let mut listed = charges.clone();
        listed.sort_by_key(|entry| entry.id.bits().wrapping_mul(u128::from(shuffle) | 1));
        let mut export = export_of(&charges, &listed, CLOSED);
        prop_assert!(verify(&export).is_ok(), "{:?}", verify(&export));
        let entry = which.get(&export.entries).clone();
        let position = export.entries.iter().position(|other| other.id == entry.id).unwrap();
        let changed = &mut export.entries[position];
        let usage = changed.usage.as_mut().unwrap();
        match what {
            0 => usage.units += by,
            1 => usage.credits_micro.0 -= by,
            2 => {
                changed.lines[0].amount_micro.0 -= by;
                changed.lines[1].amount_micro.0 += by;
            }
            3 => usage.at -= SignedDuration::from_millis(by),
            4 => changed.posted_at -= SignedDuration::from_millis(by),
            5 => usage.sid.push('x'),
            _ => {
                export.entries.remove(position);
            }
        }
        prop_assert!(verify(&export).is_err());
        // With a mark of its own.
        if let Some(edited) = export.entries.get_mut(position).filter(|_| what < 6) {
            *edited = ExportedEntry::from(&edited.entry());
            prop_assert!(verify(&export).is_err());
        }
    }

    #[test]
    fn the_last_of_each_shard_are_known_as_uncounted(
        charges in any_charges(), late in prop::collection::vec(0..3_usize, usize::from(JOURNAL_SHARDS)),
    ) {
        let mut uncounted = HashSet::new();
        for (shard, late) in (0..JOURNAL_SHARDS).zip(late) {
            let recent = charges.iter().filter(|entry| entry.posted >= at(OPEN) - SignedDuration::from_mins(1));
            let of_shard = recent.map(|entry| entry.id).filter(|entry| journal_shard(*entry) == shard);
            let mut of_shard: Vec<_> = of_shard.collect();
            of_shard.sort();
            uncounted.extend(of_shard.into_iter().rev().take(late));
        }
        let counted: Vec<_> = charges.iter().filter(|entry| !uncounted.contains(&entry.id)).cloned().collect();
        let verified = verify(&export_of(&counted, &charges, OPEN));
        let found = verified.map(|verified| verified.uncounted.into_iter().collect::<HashSet<_>>());
        prop_assert_eq!(found, Ok(uncounted));
    }
}
