//! Each SID is in exactly one class, the sums are theirs, and what is posted stays within the limit.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const DAY: Date = Date::constant(2026, 11, 22);
const NOON: &str = "2026-11-22T12:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn course() -> Course {
    Course::new(at("2026-11-20T08:00:00Z"))
}

fn report() -> Report {
    Report::new(&Course { day: DAY, ..course() }, at("2026-11-24T01:00:00Z"))
}

fn listed(sid: &str, segments: Option<u32>) -> AtTwilio {
    AtTwilio { sid: sid.to_owned(), segments, sent: Some(at(NOON)), direction: Direction::Outbound }
}

fn charge(sid: &str, units: i64, format: Format, direction: Direction) -> UsageEvent {
    let prices = prices_of("2026-11-01").unwrap();
    UsageEvent {
        account: AccountId::from_bits(1),
        sid: sid.to_owned(),
        message: Some(MessageId::from_bits(1)),
        kind: UsageKind::MessageSegments,
        direction,
        format,
        country: None,
        units,
        credits: prices.message(direction, format, u32::try_from(units).unwrap()).plus(),
        price_version: "2026-11-01".to_owned(),
        at: at(NOON),
        day: DAY,
        error: None,
    }
}

fn sms(sid: &str, units: i64) -> UsageEvent {
    charge(sid, units, Format::Sms, Direction::Outbound)
}

#[test]
fn each_class_is_what_its_table_says() {
    let whole = |n: i64| Change(n * 1_000_000);
    let different =
        |charged, listed, credits| Class::Different(Difference { sid: "SM1".to_owned(), charged, listed, credits });
    let inbound = charge("SM1", 1, Format::Sms, Direction::Inbound);
    let table = [
        (listed("SM1", Some(2)), Some(sms("SM1", 2)), Class::Same),
        (listed("SM1", Some(3)), Some(sms("SM1", 1)), different(1, 3, whole(2))),
        (listed("SM1", Some(1)), Some(sms("SM1", 3)), different(3, 1, whole(-2))),
        // Texts that arrive cost nothing: the segments differ all the same.
        (listed("SM1", Some(4)), Some(inbound), different(1, 4, whole(0))),
        (listed("SM1", Some(4)), Some(charge("SM1", 1, Format::Mms, Direction::Outbound)), Class::Same),
        // What Twilio does not say is no difference.
        (listed("SM1", None), Some(sms("SM1", 2)), Class::Same),
        (listed("SM1", Some(0)), Some(sms("SM1", 2)), Class::Same),
        (listed("SM1", Some(2)), None, Class::OnlyAtTwilio),
    ];
    for (listed, charge, class) in table {
        assert_eq!(classify(&listed, charge.as_ref()), Ok(class), "{listed:?} {charge:?}");
    }
    let unpriced = UsageEvent { price_version: "1999-01-01".to_owned(), ..sms("SM1", 1) };
    assert!(classify(&listed("SM1", Some(2)), Some(&unpriced)).is_err(), "no price is made up");
}

#[test]
fn a_correction_is_of_the_period_and_the_price_of_what_it_corrects() {
    let original = sms("SM1", 1);
    let Ok(Class::Different(difference)) = classify(&listed("SM1", Some(3)), Some(&original)) else { panic!() };
    let (zone, posted) = (Zone::parse("America/New_York").unwrap(), at("2026-12-01T03:00:00Z"));
    let entry = correction(EntryId::from_bits(1), &original, &difference, DAY, posted, &zone);
    assert!(entry.balanced());
    assert_eq!(entry.occasion.word(), "CORRECTION#2026-11-22#SM1#message_segments");
    assert_eq!(
        (entry.on(Book::UsedMessageSegments), entry.on(Book::Clearing)),
        (Change(2_000_000), Change(-2_000_000))
    );
    assert_eq!(entry.month, "2026-11", "posted by the account's clock");
    let sums = entry.sums();
    assert_eq!((sums.events, sums.units, sums.credits), (0, 2, Change(2_000_000)));
    let event = entry.usage.unwrap();
    assert_eq!(event, UsageEvent { units: 2, credits: Change(2_000_000), ..original });
}

#[test]
fn the_limit_is_a_twentieth_of_the_days_credits_and_five_to_a_hundred() {
    let limit = |charged: u64| {
        Tallies { charged: MicroCredits::whole(charged).plus(), ..Tallies::default() }.limit().0 / 1_000_000
    };
    assert_eq!([0, 100, 101, 1_000, 2_000, 1_000_000].map(limit), [5, 5, 5, 50, 100, 100]);
}

#[test]
fn a_day_is_judged_by_its_differences() {
    let now = at("2026-11-24T02:00:00Z");
    let with = |class: Class, n: usize| {
        let one = Compared { sid: "SM1".to_owned(), class, charge: Some(sms("SM1", 1)) };
        report().after_ours(&vec![one; n], None, now).judged(Vec::new(), now)
    };
    let one_more =
        || Class::Different(Difference { sid: "SM1".to_owned(), charged: 1, listed: 2, credits: Change(1_000_000) });
    assert_eq!((with(Class::Same, 3).state, with(Class::Same, 3).is_done()), (State::Agrees, true));
    assert_eq!(with(Class::OnlyAtTwilio, 3).state, State::Agrees, "foreign traffic is none of ours");
    assert_eq!(with(Class::OnlyHere, 1).state, State::Missing);
    let within = with(one_more(), 5);
    assert_eq!((within.state, within.stage.clone()), (State::Running, Stage::Posting { after: None }));
    let posted = within.after_posting(5, None, now);
    assert_eq!((posted.state, posted.posted, posted.is_done()), (State::Corrected, 5, true));
    let above = with(one_more(), 6);
    assert_eq!((above.state, above.is_done(), above.posted), (State::NeedsDecision, true, 0));
    // Ups and downs do not hide each other.
    let one_less =
        Class::Different(Difference { sid: "SM2".to_owned(), charged: 2, listed: 1, credits: Change(-1_000_000) });
    let both: Vec<_> = [one_more(), one_less]
        .into_iter()
        .map(|class| Compared { sid: "SM1".to_owned(), class, charge: Some(sms("SM1", 1)) })
        .collect();
    let both: Vec<_> = (0..3).flat_map(|_| both.clone()).collect();
    let judged = report().after_ours(&both, None, now).judged(Vec::new(), now);
    assert_eq!((judged.tallies.credits, judged.state), (Change::ZERO, State::NeedsDecision));
}

#[test]
fn one_decision_counts_and_the_same_again_changes_nothing() {
    let open = Report { state: State::NeedsDecision, stage: Stage::Done, ..report() };
    let post = open.decided(Decision::Post).unwrap();
    assert_eq!((post.state, post.decision, post.revision), (State::Decided, Some(Decision::Post), 1));
    assert_eq!(post.decided(Decision::Post), Some(post.clone()));
    assert_eq!(post.decided(Decision::Keep), None);
    for state in [State::Unknown, State::Running, State::Agrees, State::Missing, State::Corrected] {
        assert_eq!(Report { state, ..report() }.decided(Decision::Post), None, "{state:?}");
    }
}

#[test]
fn what_twilio_does_not_say_is_unknown_and_what_is_known_stays() {
    let now = at("2026-11-24T02:00:00Z");
    let same = Compared { sid: "SM1".to_owned(), class: Class::Same, charge: Some(sms("SM1", 1)) };
    let begun = report().after_page(0, &[same], PageMark::new(1, "PA1").as_ref(), now);
    let unknown = begun.unknown(Trouble::Busy, now).unknown(Trouble::Refused, now);
    assert_eq!((unknown.state, unknown.reason, unknown.tries), (State::Unknown, Some(Reason::CredentialRefused), 2));
    assert_eq!((unknown.tallies.same, unknown.mark()), (1, PageMark::new(1, "PA1")));
    let again = unknown.after_page(1, &[], None, now);
    assert_eq!((again.state, again.reason, again.stage), (State::Running, None, Stage::Here { after: None }));
    let anew = unknown.unknown(Trouble::NotFound, now);
    assert_eq!((anew.tallies, anew.attempt, anew.revision), (Tallies::default(), 1, unknown.revision + 1));
    assert_eq!((anew.stage, anew.tries), (BEGINNING, 3));
    assert_eq!([1, 2, 3, 5, 6, 40].map(|tries| wait(tries).as_mins()), [15, 30, 60, 240, 360, 360]);
}

#[test]
fn usage_records_are_an_upper_bound_and_never_nought_by_themselves() {
    let said = |count| CATEGORIES.map(|category| CarrierUsage { count, ..CarrierUsage::unsaid(category) }).to_vec();
    let with = |usage| {
        let tallies = Tallies { same: 3, different: 1, only_at_twilio: 50, ..Tallies::default() };
        Report { tallies, usage, ..report() }.within_records()
    };
    assert_eq!(
        [with(said(Some(1))), with(said(Some(0))), with(said(None)), with(Vec::new())],
        [Some(true), Some(false), None, None]
    );
}

#[test]
fn a_day_is_compared_a_day_after_its_end_and_given_up_two_weeks_later() {
    let course = Course { day: DAY, ..course() };
    let settled = |text: &str| course.is_settled(at(text), SETTLED_AFTER);
    assert_eq!((settled("2026-11-23T23:59:59Z"), settled("2026-11-24T00:00:00Z")), (false, true));
    assert!(!course.is_given_up(at("2026-12-07T23:59:59Z")) && course.is_given_up(at("2026-12-08T00:00:00Z")));
    for bits in [0, 1, u128::MAX] {
        let due = course.due(AccountId::from_bits(bits), at(NOON));
        assert!(due >= at("2026-11-24T00:00:00Z") && due < at("2026-11-24T06:00:00Z"), "{due}");
    }
    assert_eq!(course.after().day, Date::constant(2026, 11, 23));
    let (before, to) = ids_of(DAY).unwrap();
    for (text, inside) in [
        ("2026-11-21T23:59:59.999Z", false),
        ("2026-11-22T00:00:00Z", true),
        ("2026-11-22T23:59:59.999Z", true),
        ("2026-11-23T00:00:00Z", false),
    ] {
        for dice in [0, 7, u128::MAX] {
            let id = MessageId::new(at(text), dice);
            assert_eq!(before < id && id <= to, inside, "{text} {dice}");
        }
    }
}

proptest! {
    /// Whatever both sides have, in whatever pages: each SID counts in one class, and the sums are those of the table.
    #[test]
    fn every_sid_is_in_exactly_one_class_and_the_sums_add_up(
        sides in prop::collection::btree_map(0_u32..60, (prop::option::of(0_u32..5), prop::option::of(1_i64..5)), 0..60),
        page in 1_usize..9,
    ) {
        let now = at("2026-11-24T02:00:00Z");
        let sid = |n: &u32| format!("SM{n:02}");
        let there: Vec<_> = sides.iter().filter_map(|(n, (listed, _))| Some((n, (*listed)?))).collect();
        let here: BTreeMap<String, UsageEvent> =
            sides.iter().filter_map(|(n, (_, units))| Some((sid(n), sms(&sid(n), (*units)?)))).collect();
        let mut report = report();
        let mut found = Vec::new();
        for some in there.chunks(page) {
            let compared: Vec<_> = some.iter()
                .map(|(n, segments)| Compared::new(&listed(&sid(n), Some(*segments)), here.get(&sid(n)).cloned()).unwrap())
                .collect();
            report = report.after_page(0, &compared, PageMark::new(1, "PA1").as_ref(), now);
            found.extend(differences(&compared));
        }
        let missing: Vec<_> = here.values()
            .filter(|charge| !there.iter().any(|(n, _)| sid(n) == charge.sid))
            .map(|charge| Compared::only_here(charge.clone()))
            .collect();
        report = report.after_ours(&missing, None, now);
        let known = sides.values().filter(|(listed, units)| listed.is_some() || units.is_some()).count();
        prop_assert_eq!(report.tallies.all(), u64::try_from(known).unwrap());
        prop_assert_eq!(report.tallies.different, u64::try_from(found.len()).unwrap());
        let segments: i64 = found.iter().map(|it| it.listed - it.charged).sum();
        let credits: i64 = found.iter().map(|it| it.credits.0).sum();
        prop_assert_eq!((report.tallies.segments, report.tallies.credits), (segments, Change(credits)));
        prop_assert_eq!(credits, segments * 1_000_000, "an SMS costs a credit a segment");
        // With the corrections, what is charged is what Twilio lists.
        for (n, (there, units)) in &sides {
            if let (Some(there @ 1..), Some(units)) = (there, units) {
                let put_right: i64 = found.iter().filter(|it| it.sid == sid(n)).map(|it| it.listed - it.charged).sum();
                prop_assert_eq!(units + put_right, i64::from(*there));
            }
        }
    }
}
