//! The time zone by which an account's days and months begin.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A time zone of the IANA database, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(String);

impl Default for Zone {
    fn default() -> Self {
        Self("UTC".to_owned())
    }
}

impl Zone {
    /// A name such as `Europe/Vienna`, in its usual spelling.
    pub fn parse(name: &str) -> Result<Self, ZoneError> {
        let known = TimeZone::get(name).map_err(|_| ZoneError)?;
        known.iana_name().map(|name| Self(name.to_owned())).ok_or(ZoneError)
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The day there at a time. A name that is not known any more counts as UTC.
    pub fn day(&self, at: Timestamp) -> Date {
        let zone = TimeZone::get(&self.0).unwrap_or(TimeZone::UTC);
        zone.to_datetime(at).date()
    }

    /// The first moment of a day there.
    pub fn start(&self, day: Date) -> Option<Timestamp> {
        let zone = TimeZone::get(&self.0).unwrap_or(TimeZone::UTC);
        zone.to_ambiguous_timestamp(day.at(0, 0, 0, 0)).compatible().ok()
    }

    /// The last moment of a day there, to the nanosecond.
    pub fn end(&self, day: Date) -> Option<Timestamp> {
        let next = self.start(day.tomorrow().ok()?)?;
        next.checked_sub(SignedDuration::from_nanos(1)).ok()
    }

    /// The month there at a time, as `2026-11`.
    pub fn month(&self, at: Timestamp) -> String {
        month_of(self.day(at))
    }
}

/// The month of a day, as `2026-11`.
pub fn month_of(day: Date) -> String {
    format!("{:04}-{:02}", day.year(), day.month())
}

/// The first day of a month that is written as [`month_of`] does.
pub fn first_day(month: &str) -> Option<Date> {
    let day = format!("{month}-01").parse().ok()?;
    (month_of(day) == month).then_some(day)
}

/// No such time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give a time zone of the IANA database, such as Europe/Vienna or America/New_York")]
pub struct ZoneError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_by_the_zones_clock() {
        let at = "2026-12-01T04:30:00Z".parse().unwrap();
        let month = |zone: &str| Zone::parse(zone).unwrap().month(at);
        assert_eq!((month("UTC"), month("America/New_York")), ("2026-12".to_owned(), "2026-11".to_owned()));
        assert_eq!(Zone::parse("Asia/Kolkata").unwrap().day(at).to_string(), "2026-12-01");
        let early = "2026-11-30T18:45:00Z".parse().unwrap();
        assert_eq!(Zone::parse("Asia/Kolkata").unwrap().day(early).to_string(), "2026-12-01", "half hours count");
    }

    #[test]
    fn a_month_is_read_in_its_one_spelling() {
        assert_eq!(first_day("2026-11").map(|day| day.to_string()), Some("2026-11-01".to_owned()));
        for wrong in ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "+002026-11", "2026-11 ", "x"]
        {
            assert_eq!(first_day(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_zone_has_its_usual_spelling_and_what_is_none_is_refused() {
        assert_eq!(Zone::parse("europe/vienna").map(|zone| zone.0), Ok("Europe/Vienna".to_owned()));
        for wrong in ["", "Vienna", "Mars/Olympus", "+01:00", "Europe/Vienna "] {
            assert_eq!(Zone::parse(wrong), Err(ZoneError), "{wrong}");
        }
    }
}
