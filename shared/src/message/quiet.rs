//! Quiet hours: a text that comes up at night where its recipient is waits until morning there.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// When texts wait, in the recipient's local time; over midnight if `from` is later than `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// Texts wait from then on.
    pub from: Time,
    /// Until then.
    pub to: Time,
}

/// Until when a text waits, and in which zone it is quiet until then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quiet {
    /// It may go then.
    pub until: Timestamp,
    /// IANA name of the zone that decided.
    pub zone: String,
}

impl QuietHours {
    /// Whether it is quiet at a local time.
    fn holds(self, at: Time) -> bool {
        if self.from <= self.to { self.from <= at && at < self.to } else { at >= self.from || at < self.to }
    }

    /// Until when a text that could go `at` waits; `None`: it may go. A number that may be in several zones waits until
    /// it is quiet in none of them; if that never comes (zones around the globe), the first zone decides alone.
    pub fn hold(self, at: Timestamp, zones: &[&str]) -> Option<Quiet> {
        let zones: Vec<_> = zones.iter().filter_map(|zone| Some((*zone, TimeZone::get(zone).ok()?))).collect();
        let mut held: Option<Quiet> = None;
        // Each step ends one zone's night; two nights of every zone are enough to see that none is left.
        for _ in 0..=2 * zones.len() {
            let until = held.as_ref().map_or(at, |held| held.until);
            let quiet = zones.iter().find_map(|(zone, tz)| Some((*zone, self.end(until, tz)?)));
            let Some((zone, until)) = quiet else { return held };
            held = Some(Quiet { until, zone: zone.to_owned() });
        }
        let (zone, tz) = zones.into_iter().next()?;
        let until = self.end(at, &tz)?;
        Some(Quiet { until, zone: zone.to_owned() })
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
    use jiff::civil::time;
    use proptest::prelude::*;

    const NIGHT: QuietHours = QuietHours { from: time(21, 0, 0, 0), to: time(8, 0, 0, 0) };

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn held(hours: QuietHours, now: &str, zones: &[&str]) -> Option<(String, String)> {
        hours.hold(at(now), zones).map(|quiet| (quiet.until.to_string(), quiet.zone))
    }

    fn until(text: &str, zone: &str) -> Option<(String, String)> {
        Some((text.to_owned(), zone.to_owned()))
    }

    #[test]
    fn at_night_it_waits_for_the_recipients_morning() {
        let new_york = ["America/New_York"];
        assert_eq!(held(NIGHT, "2026-11-24T17:00:00Z", &new_york), None);
        assert_eq!(held(NIGHT, "2026-11-25T01:59:59Z", &new_york), None, "20:59 there");
        assert_eq!(held(NIGHT, "2026-11-25T02:00:00Z", &new_york), until("2026-11-25T13:00:00Z", new_york[0]));
        assert_eq!(held(NIGHT, "2026-11-25T12:59:59Z", &new_york), until("2026-11-25T13:00:00Z", new_york[0]));
        assert_eq!(held(NIGHT, "2026-11-25T13:00:00Z", &new_york), None);
    }

    #[test]
    fn hours_within_a_day_and_hours_over_midnight_both_work() {
        let noon = QuietHours { from: time(12, 0, 0, 0), to: time(13, 30, 0, 0) };
        assert_eq!(held(noon, "2026-11-24T12:15:00Z", &["UTC"]), until("2026-11-24T13:30:00Z", "UTC"));
        assert_eq!(held(noon, "2026-11-24T13:30:00Z", &["UTC"]), None);
    }

    #[test]
    fn a_clock_change_moves_the_morning() {
        let berlin = ["Europe/Berlin"];
        // 25 October 2026: 3:00 becomes 2:00, so that 8:00 is at 7:00 UTC.
        assert_eq!(held(NIGHT, "2026-10-24T20:00:00Z", &berlin), until("2026-10-25T07:00:00Z", berlin[0]));
        // 28 March 2027: 2:00 becomes 3:00; a quiet that ends at 2:30 ends at 3:30.
        let early = QuietHours { from: time(1, 0, 0, 0), to: time(2, 30, 0, 0) };
        assert_eq!(held(early, "2027-03-28T00:15:00Z", &berlin), until("2027-03-28T01:30:00Z", berlin[0]));
    }

    #[test]
    fn several_zones_are_waited_for_and_no_zone_holds_nothing() {
        let both = ["America/New_York", "America/Los_Angeles"];
        assert_eq!(held(NIGHT, "2026-11-25T02:00:00Z", &both), until("2026-11-25T16:00:00Z", both[1]));
        assert_eq!(held(NIGHT, "2026-11-25T02:00:00Z", &[]), None);
        assert_eq!(held(NIGHT, "2026-11-25T02:00:00Z", &["Nowhere/Else"]), None);
        // Somewhere it is always night: the first zone decides.
        let globe = ["America/New_York", "Europe/Berlin", "Asia/Tokyo", "Pacific/Honolulu"];
        assert_eq!(held(NIGHT, "2026-11-25T02:00:00Z", &globe), until("2026-11-25T13:00:00Z", globe[0]));
    }

    proptest! {
        /// Whatever the hours, the time and the zone: what waits may go when it was told, and that is within a day.
        #[test]
        fn what_waits_may_go_within_a_day(
            from in 0_i8..24, to in 0_i8..24, secs in 0_i64..400_000_000,
            zone in prop::sample::select(vec!["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
        ) {
            let hours = QuietHours { from: time(from, 0, 0, 0), to: time(to, 0, 0, 0) };
            let now = Timestamp::from_second(1_750_000_000 + secs).unwrap();
            if let Some(quiet) = hours.hold(now, &[zone]) {
                prop_assert!(quiet.until > now && quiet.until.duration_since(now).as_hours() <= 25);
                prop_assert_eq!(hours.hold(quiet.until, &[zone]), None);
            }
        }
    }
}
