//! What the command `telbuddy` does: fetches the export of a month's statement, and recomputes one.

mod fetch;
mod verify;

pub use fetch::{FetchError, fetch};
pub use verify::{Checked, check};
