//! Replacing keys: moving wrapped data keys to another KMS key, and new data keys with what the old ones sealed.

mod port;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::AccountId;
use crate::message::{MOST_AHEAD, MOST_VALIDITY};
use crate::seal::{Purpose, WrappedKey, WrappedKeys};

pub use port::*;

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

/// How many old versions stay at least: for whoever read what they sealed a moment ago.
pub const OLD_VERSIONS: usize = 3;

/// How long a version stays after it was replaced: long enough for whoever remembers it to be done.
pub const REPLACED_STAYS: SignedDuration = SignedDuration::from_hours(72);

/// The same of purpose payload. What it sealed last may be held for five weeks and a night, be valid for hours, and
/// stay unknown for a day.
pub const REPLACED_PAYLOAD_STAYS: SignedDuration = SignedDuration::from_hours(40 * 24);

const _: () = assert!(
    REPLACED_PAYLOAD_STAYS.as_secs() > REPLACED_STAYS.as_secs() + MOST_AHEAD.as_secs() + MOST_VALIDITY.as_secs()
);

impl KeyTask {
    /// Whether a new data key is due, with this one the newest.
    pub fn renews(self, newest: &WrappedKey) -> bool {
        match self {
            Self::Rewrap => false,
            Self::Reseal { older_than } => newest.made < older_than,
            Self::Renew { up_to } => newest.version <= up_to,
        }
    }
}

impl WrappedKeys {
    /// These keys with a new version. Dropped are old ones that nothing needs any more: not among the last three,
    /// replaced long ago ([`REPLACED_STAYS`], [`REPLACED_PAYLOAD_STAYS`]), and not `needed` by something that is to be sealed anew.
    #[must_use]
    pub fn with_new(&self, new: WrappedKey, needed: Option<u32>) -> Self {
        let mut versions = self.versions.clone();
        versions.sort_unstable_by_key(|key| key.version);
        let stays = if self.purpose == Purpose::Payload { REPLACED_PAYLOAD_STAYS } else { REPLACED_STAYS };
        let gone = new.made - stays;
        let replaced: Vec<_> = versions.iter().skip(1).chain([&new]).map(|successor| successor.made).collect();
        let last = versions.len().saturating_sub(OLD_VERSIONS);
        let mut kept: Vec<_> = versions
            .into_iter()
            .zip(replaced)
            .enumerate()
            .filter(|(at, (key, replaced))| *at >= last || *replaced > gone || Some(key.version) == needed)
            .map(|(_, (key, _))| key)
            .collect();
        kept.push(new);
        Self { account: self.account, purpose: self.purpose, versions: kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn key(version: u32, made_secs: i64) -> WrappedKey {
        WrappedKey { version, blob: vec![0], made: Timestamp::from_second(made_secs).unwrap() }
    }

    /// The versions that stay of some that were made then, once a new one is made at day 100.
    fn kept(made_days: &[i64], needed: Option<u32>) -> Vec<u32> {
        kept_of(Purpose::Profile, made_days, needed)
    }

    fn kept_of(purpose: Purpose, made_days: &[i64], needed: Option<u32>) -> Vec<u32> {
        let versions = (1..).zip(made_days).map(|(version, days)| key(version, days * DAY)).collect();
        let keys = WrappedKeys { account: AccountId::from_bits(1), purpose, versions };
        let new = key(u32::try_from(made_days.len()).unwrap() + 1, 100 * DAY);
        keys.with_new(new, needed).versions.iter().map(|key| key.version).collect()
    }

    #[test]
    fn the_last_three_old_versions_stay_however_old_they_are() {
        assert_eq!(kept(&[0], None), [1, 2]);
        assert_eq!(kept(&[0, 1, 2], None), [1, 2, 3, 4]);
        assert_eq!(kept(&[0, 1, 2, 3, 4], None), [3, 4, 5, 6]);
    }

    /// Not its age counts: it sealed until it was replaced.
    #[test]
    fn a_version_that_was_replaced_less_than_three_days_ago_stays() {
        assert_eq!(kept(&[0, 98, 99, 99, 99, 99], None), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(kept(&[0, 97, 99, 99, 99, 99], None), [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_version_that_sealed_what_waits_for_weeks_stays_as_long() {
        assert_eq!(kept_of(Purpose::Payload, &[0, 61, 70, 80, 90, 99], None), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(kept_of(Purpose::Payload, &[0, 60, 70, 80, 90, 99], None), [2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_version_that_something_still_needs_stays() {
        assert_eq!(kept(&[0, 1, 2, 3, 4], Some(1)), [1, 3, 4, 5, 6]);
    }

    #[test]
    fn a_task_says_whether_a_new_key_is_due() {
        let old = key(3, 5);
        let older_than = |secs| KeyTask::Reseal { older_than: Timestamp::from_second(secs).unwrap() };
        assert!(older_than(6).renews(&old) && !older_than(5).renews(&old));
        assert!(KeyTask::Renew { up_to: 3 }.renews(&old) && !KeyTask::Renew { up_to: 2 }.renews(&old));
        assert!(!KeyTask::Rewrap.renews(&old));
    }

    /// What the runbook tells an operator to send.
    #[test]
    fn jobs_read_as_the_runbook_writes_them() {
        use crate::platform::Job;
        let job = |text: &str| serde_json::from_str::<Job>(text).unwrap();
        assert_eq!(
            job(r#"{"job":"rotate_keys","task":"rewrap"}"#),
            Job::RotateKeys { task: KeyTask::Rewrap, after: None }
        );
        let task = KeyTask::Reseal { older_than: Timestamp::UNIX_EPOCH };
        assert_eq!(
            job(r#"{"job":"rotate_keys","task":{"reseal":{"older_than":"1970-01-01T00:00:00Z"}}}"#),
            Job::RotateKeys { task, after: None }
        );
        let (account, purpose) = (AccountId::from_bits(1), Purpose::Send);
        assert_eq!(
            job(r#"{"job":"rotate_key","account":"acct_00000000000000000000000001","purpose":"send",
                "task":{"renew":{"up_to":3}}}"#),
            Job::RotateKey { account, purpose, task: KeyTask::Renew { up_to: 3 } }
        );
        let page = Job::RotateKeys { task, after: Some(KeysCursor { account, purpose }) };
        assert_eq!(job(&serde_json::to_string(&page).unwrap()), page);
    }
}
