//! Faults that a test asks for: what goes wrong, how often, for whom.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    None,
    AcceptThenDrop,
    Drop,
    #[serde(rename = "429")]
    TooMany,
    #[serde(rename = "500")]
    Broken,
    Slow,
    CallbackLate,
    CallbackTwice,
    CallbackReordered,
    CallbackLost,
}

/// Faults of the answer to a request that creates a message or a call.
pub(crate) const OF_REQUESTS: &[Kind] = &[Kind::AcceptThenDrop, Kind::Drop, Kind::TooMany, Kind::Broken, Kind::Slow];
/// Faults of the delivery of one status callback.
pub(crate) const OF_CALLBACKS: &[Kind] = &[Kind::CallbackTwice, Kind::CallbackLost];

/// One fault as asked for; it strikes the `next` n times, or each time with the chance `rate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fault {
    pub kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account_sid: Option<String>,
}

impl Fault {
    pub(crate) fn delay(&self, default_ms: u64) -> Duration {
        Duration::from_millis(self.ms.unwrap_or(default_ms))
    }

    fn strikes(&mut self, kinds: &[Kind], account: &str) -> bool {
        if !kinds.contains(&self.kind) || self.account_sid.as_deref().is_some_and(|sid| sid != account) {
            return false;
        }
        match (&mut self.next, self.rate) {
            (Some(left), _) if *left > 0 => *left -= 1,
            (None, Some(rate)) => return rand::random::<f64>() < rate,
            _ => return false,
        }
        true
    }
}

/// The faults in force. They are not persisted: a restart clears them.
#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    /// Adds a fault, replacing one of the same kind and account; `none` clears all. `Err` says what to change.
    pub(crate) fn set(&self, fault: Fault) -> Result<(), String> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.kind == Kind::None {
            faults.clear();
            return Ok(());
        }
        match (fault.next, fault.rate) {
            (Some(_), Some(_)) => return Err("give either \"next\" or \"rate\", not both".into()),
            (None, None) => {
                return Err("give \"next\": how many times, or \"rate\": a chance from 0 to 1".into());
            }
            (None, Some(rate)) if !(0.0..=1.0).contains(&rate) => {
                return Err("\"rate\" must lie from 0 to 1".into());
            }
            _ => {}
        }
        faults.retain(|old| old.kind != fault.kind || old.account_sid != fault.account_sid);
        faults.push(fault);
        Ok(())
    }

    /// The first fault of these kinds that strikes now.
    pub(crate) fn strike(&self, kinds: &[Kind], account: &str) -> Option<Fault> {
        let mut faults = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let struck = faults.iter_mut().find_map(|fault| fault.strikes(kinds, account).then(|| fault.clone()));
        faults.retain(|fault| fault.next != Some(0));
        struck
    }

    pub(crate) fn all(&self) -> Vec<Fault> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
