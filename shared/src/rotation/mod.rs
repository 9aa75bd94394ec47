//! Replacing keys: moving wrapped data keys to another KMS key, and new data keys with what the old ones sealed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::AccountId;
use crate::seal::Purpose;

/// What is done with wrapped keys. Each may be done again, and twice at the same time: what is done already is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyTask {
    /// Every version is wrapped by KMS's current key instead of the one before; nothing is opened.
    Rewrap,
    /// A new data key where the newest was made before a time, and what the old ones sealed is sealed anew.
    Reseal {
        /// The time.
        older_than: Timestamp,
    },
    /// The same where the newest version is at most this one.
    Renew {
        /// The version.
        up_to: u32,
    },
}

/// A row of wrapped keys, to go on behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysCursor {
    /// Whose.
    pub account: AccountId,
    /// What for.
    pub purpose: Purpose,
}
