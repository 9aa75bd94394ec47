//! Faults that a test asks for: what goes wrong, and how often. They are not kept over a restart.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Forget what was asked for.
    None,
    #[serde(rename = "429")]
    TooMany,
    LockTimeout,
    #[serde(rename = "500")]
    Broken,
    /// Nothing is done, and the answer breaks off.
    Drop,
    /// It is done, and the answer breaks off.
    AcceptThenDrop,
    Slow,
    /// An event comes twice.
    EventTwice,
    /// An event comes after the ones that follow it.
    EventLate,
    /// An event does not arrive at any try.
    EventLost,
}

impl Kind {
    pub(crate) const OF_REQUESTS: &'static [Self] =
        &[Self::TooMany, Self::LockTimeout, Self::Broken, Self::Drop, Self::AcceptThenDrop, Self::Slow];
    pub(crate) const OF_EVENTS: &'static [Self] = &[Self::EventTwice, Self::EventLate, Self::EventLost];
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<VecDeque<Kind>>);

impl Faults {
    /// The next `n` requests or events meet this.
    pub(crate) fn plan(&self, kind: Kind, n: usize) {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kind == Kind::None {
            planned.clear();
        } else {
            planned.extend(std::iter::repeat_n(kind, n));
        }
    }

    /// The first fault of these kinds, which is over by that.
    pub(crate) fn strike(&self, kinds: &[Kind]) -> Option<Kind> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = planned.iter().position(|kind| kinds.contains(kind))?;
        planned.remove(place)
    }

    pub(crate) fn all(&self) -> Vec<Kind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
