//! What is done again and again for each connected account: Twilio's list of texts that arrived is gone through every
//! hour, so that a webhook that got lost is made up for.
//!
//! Everything here is a pure function. Rows of it are there exactly as long as something is connected: they come and go
//! in the transactions that connect and disconnect.

mod port;

use jiff::{SignedDuration, Timestamp};

use crate::connection::PageMark;

pub use port::*;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Routine {
    /// Looking for texts that arrived and were not told.
    Arrivals,
}

impl Routine {
    /// Every routine.
    pub const ALL: [Self; 1] = [Self::Arrivals];

    /// A stable name for keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arrivals => "arrivals",
        }
    }

    /// Time between two of it, and from connecting to the first.
    pub fn every(self) -> SignedDuration {
        match self {
            Self::Arrivals => SignedDuration::from_hours(1),
        }
    }
}

/// Each look reaches so far into what the one before saw: Twilio may list a text later than it came.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(1);

/// Time until the next look when Twilio could not be asked.
pub const LOOK_SOON: SignedDuration = SignedDuration::from_mins(15);

/// How far the looks for texts that arrived have come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Since when the Twilio account is connected: what arrived before is not ours to know.
    pub connected_since: Timestamp,
    /// When the last complete look was begun.
    pub looked: Timestamp,
    /// A look that was begun and has pages left.
    pub open: Option<OpenLook>,
    /// Counts writes.
    pub revision: u32,
}

/// A look with pages left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenLook {
    /// When it was begun.
    pub begun: Timestamp,
    /// Its next page.
    pub next: PageMark,
}

impl Progress {
    /// Of an account that was connected just now.
    pub fn new(connected_since: Timestamp) -> Self {
        Self { connected_since, looked: connected_since, open: None, revision: 0 }
    }

    /// From when on texts are listed.
    pub fn since(&self) -> Timestamp {
        (self.looked - OVERLAP).max(self.connected_since)
    }

    /// After one page of a list: with the mark of the next one, or complete. `now`: when the page was asked for.
    #[must_use]
    pub fn after_page(&self, next: Option<PageMark>, now: Timestamp) -> Self {
        let begun = self.open.as_ref().map_or(now, |open| open.begun);
        let (looked, open) = match next {
            Some(next) => (self.looked, Some(OpenLook { begun, next })),
            None => (begun, None),
        };
        Self { looked, open, revision: self.revision + 1, ..self.clone() }
    }

    /// Begun anew, when Twilio does not know the mark any more.
    #[must_use]
    pub fn anew(&self) -> Self {
        Self { open: None, revision: self.revision + 1, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mins: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(mins)
    }

    #[test]
    fn a_look_reaches_an_hour_behind_the_last_complete_one_and_never_before_connecting() {
        let progress = Progress::new(at(0));
        assert_eq!(progress.since(), at(0));
        let hour = progress.after_page(None, at(60));
        assert_eq!((hour.looked, hour.since()), (at(60), at(0)));
        assert_eq!(hour.after_page(None, at(180)).since(), at(120));
    }

    #[test]
    fn a_look_of_several_pages_counts_as_of_its_beginning_and_only_once_it_is_complete() {
        let mark = |page| PageMark::new(page, "PA1");
        let first = Progress::new(at(0)).after_page(mark(1), at(60));
        assert_eq!((first.looked, first.since()), (at(0), at(0)));
        let second = first.after_page(mark(2), at(61));
        assert_eq!(second.open, Some(OpenLook { begun: at(60), next: mark(2).unwrap() }));
        let whole = second.after_page(None, at(62));
        assert_eq!((whole.looked, whole.open.clone(), whole.revision), (at(60), None, 3));
        let anew = second.anew();
        assert_eq!((anew.looked, anew.open.clone(), anew.revision), (at(0), None, 3));
    }
}
