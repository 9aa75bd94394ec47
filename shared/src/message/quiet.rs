//! Quiet hours: a text that comes up at night where its recipient is waits until morning there.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use crate::account::QuietHours;

/// Until when a text waits, and in which zone it is quiet until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    /// It may go then.
    pub until: Timestamp,
    /// IANA name of the zone that decided.
    pub zone: String,
}

/// Until when a text that could go `at` waits; `None`: it may go. A number that may be in several zones waits until it is
/// quiet in none of them; if that never comes (zones around the globe), the first zone decides alone.
pub fn quiet_until(hours: &QuietHours, at: Timestamp, zones: &[&str]) -> Option<Quiet> {
    let hours = Hours { from: hours.from.civil(), to: hours.to.civil() };
    let zones: Vec<_> = zones.iter().filter_map(|zone| Some((*zone, TimeZone::get(zone).ok()?))).collect();
    let mut held: Option<Quiet> = None;
    // Each step ends one zone's night; two nights of every zone are enough to see that none is left.
    for _ in 0..=2 * zones.len() {
        let until = held.as_ref().map_or(at, |held| held.until);
        let quiet = zones.iter().find_map(|(zone, tz)| Some((*zone, hours.end(until, tz)?)));
        let Some((zone, until)) = quiet else { return held };
        held = Some(Quiet { until, zone: zone.to_owned() });
    }
    let (zone, tz) = zones.into_iter().next()?;
    let until = hours.end(at, &tz)?;
    Some(Quiet { until, zone: zone.to_owned() })
}

/// Quiet hours as the clock has them: over midnight if `from` is later than `to`.
#[derive(Clone, Copy)]
struct Hours {
    from: Time,
    to: Time,
}

impl Hours {
    /// Whether it is quiet at a local time.
    fn holds(self, at: Time) -> bool {
        if self.from <= self.to { self.from <= at && at < self.to } else { at >= self.from || at < self.to }
    }

    /// When the quiet ends that it is in there; `None` if it is in none.
    fn end(self, at: Timestamp, tz: &TimeZone) -> Option<Timestamp> {
        let local = tz.to_datetime(at);
        if !self.holds(local.time()) {
            return None;
        }
        let today = local.date();
        let day = if local.time() < self.to { today } else { today.checked_add(1.day()).ok()? };
        // A time that a clock change skips is read as of after it.
        tz.to_timestamp(day.to_datetime(self.to)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hours(from: &str, to: &str) -> QuietHours {
        QuietHours { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    fn night() -> QuietHours {
        hours("21:00", "08:00")
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn held(hours: QuietHours, now: &str, zones: &[&str]) -> Option<(String, String)> {
        quiet_until(&hours, at(now), zones).map(|quiet| (quiet.until.to_string(), quiet.zone))
    }

    fn until(text: &str, zone: &str) -> (String, String) {
        (text.to_owned(), zone.to_owned())
    }

    #[test]
    fn at_night_it_waits_for_the_recipients_morning() {
        let new_york = ["America/New_York"];
        assert_eq!(held(night(), "2026-11-24T17:00:00Z", &new_york), None);
        assert_eq!(held(night(), "2026-11-25T01:59:59Z", &new_york), None, "20:59 there");
        assert_eq!(held(night(), "2026-11-25T02:00:00Z", &new_york), Some(until("2026-11-25T13:00:00Z", new_york[0])));
        assert_eq!(held(night(), "2026-11-25T12:59:59Z", &new_york), Some(until("2026-11-25T13:00:00Z", new_york[0])));
        assert_eq!(held(night(), "2026-11-25T13:00:00Z", &new_york), None);
    }

    #[test]
    fn hours_within_a_day_and_hours_over_midnight_both_work() {
        let noon = hours("12:00", "13:30");
        assert_eq!(held(noon, "2026-11-24T12:15:00Z", &["UTC"]), Some(until("2026-11-24T13:30:00Z", "UTC")));
        assert_eq!(held(noon, "2026-11-24T13:30:00Z", &["UTC"]), None);
    }

    #[test]
    fn a_clock_change_moves_the_morning() {
        let berlin = ["Europe/Berlin"];
        // 25 October 2026: 3:00 becomes 2:00, so that 8:00 is at 7:00 UTC.
        assert_eq!(held(night(), "2026-10-24T20:00:00Z", &berlin), Some(until("2026-10-25T07:00:00Z", berlin[0])));
        // 28 March 2027: 2:00 becomes 3:00; a quiet that ends at 2:30 ends at 3:30.
        let early = hours("01:00", "02:30");
        assert_eq!(held(early, "2027-03-28T00:15:00Z", &berlin), Some(until("2027-03-28T01:30:00Z", berlin[0])));
    }

    #[test]
    fn several_zones_are_waited_for_and_no_zone_holds_nothing() {
        let both = ["America/New_York", "America/Los_Angeles"];
        assert_eq!(held(night(), "2026-11-25T02:00:00Z", &both), Some(until("2026-11-25T16:00:00Z", both[1])));
        assert_eq!(held(night(), "2026-11-25T02:00:00Z", &[]), None);
        assert_eq!(held(night(), "2026-11-25T02:00:00Z", &["Nowhere/Else"]), None);
        // Somewhere it is always night: the first zone decides.
        let globe = ["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Pacific/Honolulu"];
        assert_eq!(held(night(), "2026-11-25T02:00:00Z", &globe), Some(until("2026-11-25T13:00:00Z", globe[0])));
    }

    proptest! {
        /// Whatever the hours, the time and the zone: what waits may go when it was told, and that is within a day.
        #[test]
        fn what_waits_may_go_within_a_day(
            from in 0..24, to in 0..24, secs in 0_i64..400_000_000,
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
        ) {
            let hours = hours(&format!("{from:02}:00"), &format!("{to:02}:00"));
            let now = Timestamp::from_second(1_750_000_000 + secs).unwrap();
            if let Some(quiet) = quiet_until(&hours, now, &[zone]) {
                prop_assert!(quiet.until > now && quiet.until.duration_since(now).as_hours() <= 25);
                prop_assert_eq!(quiet_until(&hours, quiet.until, &[zone]), None);
            }
        }
    }
}
