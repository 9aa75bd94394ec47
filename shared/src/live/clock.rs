//! Time and chance from the system.

use aws_lc_rs::rand;
use jiff::{Timestamp, Unit};

use super::Live;
use crate::fault::Fault;
use crate::platform::{Chance, Clock};

/// Now, to the millisecond: what is stored and compared has no finer parts.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// `N` bytes from the system's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| Fault::permanent("the system gave no randomness"))?;
    Ok(bytes)
}

impl Clock for Live {
    fn now(&self) -> Timestamp {
        now()
    }
}

impl Chance for Live {
    fn random<const N: usize>(&self) -> Result<[u8; N], Fault> {
        random()
    }
}
