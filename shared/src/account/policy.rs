//! The sending policy: where to, how much a day, and when not. The customer sets it; it never touches a stop.

use std::fmt;
use std::str::FromStr;

use jiff::civil;
use serde::{Deserialize, Serialize};

use super::Gate;
use crate::number::Country;
use crate::pace::SenderRates;

/// More countries than there are with a numbering plan.
pub const MOST_COUNTRIES: usize = 300;

/// What a customer decides about sending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Destinations that are allowed, each once, in order.
    pub countries: Vec<Country>,
    /// Segments that may be accepted in one UTC day.
    pub daily_ceiling: u64,
    /// When recipients are not to be disturbed.
    pub quiet_hours: Option<QuietHours>,
    /// Segments a second by sender, where the customer knows better than we do.
    pub sender_rates: SenderRates,
}

/// What a change of the policy opens to somebody who is not the customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Risk {
    /// The ceiling is above the first one, and was raised.
    Ceiling(u64),
    /// Destinations were added.
    Countries(Vec<Country>),
}

impl Policy {
    /// The risks of putting this policy in place of what stands in the gate.
    pub fn risks(&self, before: &Gate) -> Vec<Risk> {
        let raised = self.daily_ceiling > before.daily_ceiling.max(Gate::FIRST_CEILING);
        let added: Vec<_> =
            self.countries.iter().copied().filter(|country| !before.countries.contains(country)).collect();
        let ceiling = raised.then_some(Risk::Ceiling(self.daily_ceiling));
        ceiling.into_iter().chain((!added.is_empty()).then_some(Risk::Countries(added))).collect()
    }
}

impl Risk {
    /// A stable word for programs.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ceiling(_) => "ceiling_raised",
            Self::Countries(_) => "countries_added",
        }
    }

    /// What it means, for people.
    pub fn detail(&self) -> String {
        match self {
            Self::Ceiling(ceiling) => format!(
                "whoever gets into this account can send {ceiling} segments a day at your expense, as far as the \
                 credit goes; the speed at which sending is frozen by itself rises with the ceiling"
            ),
            Self::Countries(countries) => {
                let names: Vec<_> = countries.iter().map(Country::as_str).collect();
                format!(
                    "messages to {} may now be sent: prices differ by country, and fraud looks for destinations that \
                     pay; Twilio has a list of its own (Messaging, Geo permissions)",
                    names.join(", ")
                )
            }
        }
    }
}

/// A time of day, to the minute: `21:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LocalTime {
    minute_of_day: u16,
}

/// Why a text is no time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time of day: write it as 21:00, from 00:00 to 23:59")]
pub struct LocalTimeError;

impl LocalTime {
    /// The time as the clock library has it.
    pub fn civil(self) -> civil::Time {
        // Both parts are in range by how this type is made.
        let part = |n: u16| i8::try_from(n).unwrap_or_default();
        civil::time(part(self.minute_of_day / 60), part(self.minute_of_day % 60), 0, 0)
    }
}

impl FromStr for LocalTime {
    type Err = LocalTimeError;

    fn from_str(text: &str) -> Result<Self, LocalTimeError> {
        let (hours, minutes) = text.split_once(':').ok_or(LocalTimeError)?;
        let part = |text: &str, below: u16| {
            let two_digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let n = text.parse().ok().filter(|n: &u16| two_digits && *n < below);
            n.ok_or(LocalTimeError)
        };
        Ok(Self { minute_of_day: part(hours, 24)? * 60 + part(minutes, 60)? })
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minute_of_day / 60, self.minute_of_day % 60)
    }
}

impl TryFrom<String> for LocalTime {
    type Error = LocalTimeError;

    fn try_from(text: String) -> Result<Self, LocalTimeError> {
        text.parse()
    }
}

impl From<LocalTime> for String {
    fn from(time: LocalTime) -> Self {
        time.to_string()
    }
}

/// The hours of a day in which nothing is sent, by the clock of where the recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuietHours {
    /// From then on, included.
    pub from: LocalTime,
    /// Until then, not included; earlier than `from`: on the next day. The two differ.
    pub to: LocalTime,
}

impl QuietHours {
    /// Whether a time of day at the recipient's is within them.
    pub fn hold(&self, at: civil::Time) -> bool {
        let (from, to) = (self.from.civil(), self.to.civil());
        if from <= to { from <= at && at < to } else { from <= at || at < to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn country(code: &str) -> Country {
        Country::parse(code).unwrap()
    }

    fn policy(countries: &[&str], daily_ceiling: u64) -> Policy {
        let countries = countries.iter().map(|code| country(code)).collect();
        Policy { countries, daily_ceiling, quiet_hours: None, sender_rates: SenderRates::new() }
    }

    #[test]
    fn only_a_raised_ceiling_and_added_countries_are_risks() {
        let mut gate = Gate::new(country("US"));
        assert_eq!(policy(&["US"], 500).risks(&gate), []);
        assert_eq!(policy(&["US"], 501).risks(&gate), [Risk::Ceiling(501)]);
        let both = [Risk::Ceiling(9_000), Risk::Countries(vec![country("CA"), country("GB")])];
        assert_eq!(policy(&["CA", "GB", "US"], 9_000).risks(&gate), both);
        gate.daily_ceiling = 9_000;
        assert_eq!(policy(&["US"], 9_000).risks(&gate), [], "nothing is raised");
        gate.daily_ceiling = 10;
        assert_eq!(policy(&["US"], 500).risks(&gate), [], "back to what a new account has");
    }

    #[test]
    fn a_time_of_day_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["00:00", "08:05", "21:00", "23:59"] {
            let time: LocalTime = text.parse().unwrap();
            assert_eq!(time.to_string(), text);
            assert_eq!(time.civil().strftime("%H:%M").to_string(), text);
        }
        for text in ["", "8:00", "24:00", "12:60", "1200", "12:00:00", "-1:00", "+1:00", "ab:cd", "12:3a", " 12:00"] {
            assert_eq!(text.parse::<LocalTime>(), Err(LocalTimeError), "{text:?}");
        }
    }

    #[test]
    fn quiet_hours_go_over_midnight() {
        let hours = |from: &str, to: &str| QuietHours { from: from.parse().unwrap(), to: to.parse().unwrap() };
        let quiet = |hours: QuietHours, at: &str| hours.hold(at.parse::<LocalTime>().unwrap().civil());
        let night = hours("21:00", "08:00");
        for (at, is_quiet) in [("20:59", false), ("21:00", true), ("00:00", true), ("07:59", true), ("08:00", false)] {
            assert_eq!(quiet(night, at), is_quiet, "{at}");
        }
        let noon = hours("12:00", "14:00");
        for (at, is_quiet) in [("11:59", false), ("12:00", true), ("13:59", true), ("14:00", false), ("00:00", false)] {
            assert_eq!(quiet(noon, at), is_quiet, "{at}");
        }
    }
}
