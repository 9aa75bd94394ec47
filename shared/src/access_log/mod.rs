//! The access log (promise N11): every opening of a data key, in a hash chain of its account that the customer can read
//! and check.
//!
//! A function notes an opening as pending before it uses the key. A schedule, the only writer of chains, links what is
//! pending. Entry n's hash covers its content and the hash of entry n-1, so that a removed, changed or moved entry shows.

mod port;

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{AccountId, EntryId, RequestId};
use crate::seal::{MOST_OPENINGS, Purpose};

pub use port::*;

/// What stands before the first entry.
pub const FIRST_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Number of shards that pending openings spread over.
pub const PENDING_SHARDS: u8 = 16;

/// The shard of a pending opening.
pub fn pending_shard(entry: EntryId) -> u8 {
    u8::try_from(entry.bits() % u128::from(PENDING_SHARDS)).unwrap_or(0)
}

/// That a function opened a data key, not linked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Names it.
    pub id: EntryId,
    /// Whose key.
    pub account: AccountId,
    /// Who opened it.
    pub function: String,
    /// Which of the account's keys.
    pub purpose: Purpose,
    /// Which version.
    pub key_version: u32,
    /// The request, batch or tick that it was opened for; `None` outside of one, and of openings noted before there was
    /// this field.
    pub request_id: Option<RequestId>,
    /// How often the opening before it, of the same key in the same environment, was used; `None` if there was none or
    /// it is not known.
    pub uses_before: Option<u64>,
    /// When.
    pub at: Timestamp,
}

/// What an entry's hash covers: 1 does not have request and uses (entries written before there were these).
const FORMAT: u8 = 2;

fn first_format() -> u8 {
    1
}

/// An entry of an account's chain, as the customer reads and exports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What its hash covers: 2, or 1 without request and uses.
    #[serde(default = "first_format")]
    pub format: u8,
    /// Its place, from 1.
    pub sequence: u64,
    /// Names the opening.
    #[schema(value_type = String, example = "ent_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    pub id: EntryId,
    /// Who opened the key: the name of a function.
    pub function: String,
    /// What the key is for.
    #[schema(value_type = String, example = "send")]
    pub purpose: Purpose,
    /// Version of the key.
    pub key_version: u32,
    /// The request that it was opened for, as answers and logs name it, or a name of the batch of jobs.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "req_01KAV0ZD4E6F8G1H3J5K7M9N2P")]
    pub request_id: Option<RequestId>,
    /// How often the opening before it, of the same key in the same environment, was used: to open, to seal or to hash.
    /// Null if there was none or it is not known.
    #[serde(default)]
    pub uses_before: Option<u64>,
    /// When.
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    /// Hash of the entry before; 64 zeros for the first.
    pub previous_hash: String,
    /// SHA-256 of account, content and `previous_hash`, in hexadecimal.
    pub hash: String,
}

/// The end of an account's chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Sequence of the last entry; 0 before the first.
    pub sequence: u64,
    /// Its hash.
    pub hash: String,
    /// How often each key was opened, counted from the entries.
    pub openings: Openings,
}

impl Default for Head {
    fn default() -> Self {
        Self { sequence: 0, hash: FIRST_HASH.to_owned(), openings: Openings::default() }
    }
}

impl Head {
    /// The end of the chain once an entry is linked behind this one.
    #[must_use]
    pub fn after(&self, entry: &Entry) -> Self {
        let mut openings = self.openings.clone();
        openings.add_one(entry.purpose, entry.key_version);
        Self { sequence: entry.sequence, hash: entry.hash.clone(), openings }
    }
}

/// How often each version of an account's keys was opened. Of the newest versions of each purpose: older ones seal
/// nothing any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Openings(BTreeMap<(Purpose, u32), u64>);

/// Versions of a purpose whose openings are counted.
const COUNTED_VERSIONS: usize = 4;

impl Openings {
    /// How often a version was opened.
    pub fn of(&self, purpose: Purpose, version: u32) -> u64 {
        self.0.get(&(purpose, version)).copied().unwrap_or(0)
    }

    /// All counts, to store them.
    pub fn iter(&self) -> impl Iterator<Item = (Purpose, u32, u64)> {
        self.0.iter().map(|((purpose, version), openings)| (*purpose, *version, *openings))
    }

    fn newest(&self, purpose: Purpose) -> Option<u32> {
        self.0.keys().filter(|(of, _)| *of == purpose).map(|(_, version)| *version).max()
    }

    fn add_one(&mut self, purpose: Purpose, version: u32) {
        *self.0.entry((purpose, version)).or_default() += 1;
        let versions: Vec<_> = self.0.keys().filter(|(of, _)| *of == purpose).copied().collect();
        for old in versions.iter().take(versions.len().saturating_sub(COUNTED_VERSIONS)) {
            self.0.remove(old);
        }
    }
}

impl FromIterator<(Purpose, u32, u64)> for Openings {
    fn from_iter<T: IntoIterator<Item = (Purpose, u32, u64)>>(counts: T) -> Self {
        Self(counts.into_iter().map(|(purpose, version, openings)| ((purpose, version), openings)).collect())
    }
}

/// A version that was opened so often that it has to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WornOut {
    /// The key.
    pub purpose: Purpose,
    /// Its version.
    pub version: u32,
}

/// After so many openings more it is said again: the job may have been lost.
const SAID_AGAIN: u64 = 1 << 10;

/// The versions that seal and that have been opened as often as they may ([`MOST_OPENINGS`]) once `entries` are linked
/// behind `head`. Keys of purpose match have no nonces and are never replaced.
pub fn worn_out(head: &Head, entries: &[Entry]) -> Vec<WornOut> {
    let after = entries.iter().fold(head.clone(), |head, entry| head.after(entry)).openings;
    let purposes = [Purpose::Send, Purpose::Hook, Purpose::Payload, Purpose::Profile];
    let newest = purposes.into_iter().filter_map(|purpose| Some((purpose, after.newest(purpose)?)));
    let worn = newest.filter(|&(purpose, version)| {
        let (before, after) = (head.openings.of(purpose, version), after.of(purpose, version));
        after >= MOST_OPENINGS && before / SAID_AGAIN < after / SAID_AGAIN
    });
    worn.map(|(purpose, version)| WornOut { purpose, version }).collect()
}

/// Links openings of one account behind `head`, oldest first.
pub fn link(head: &Head, mut openings: Vec<Opening>) -> Vec<Entry> {
    openings.sort_by_key(|opening| (opening.at, opening.id));
    let mut head = head.clone();
    let mut entries = Vec::with_capacity(openings.len());
    for opening in openings {
        let mut entry = Entry {
            format: FORMAT,
            sequence: head.sequence + 1,
            id: opening.id,
            function: opening.function,
            purpose: opening.purpose,
            key_version: opening.key_version,
            request_id: opening.request_id,
            uses_before: opening.uses_before,
            at: opening.at,
            previous_hash: head.hash.clone(),
            hash: String::new(),
        };
        entry.hash = hash(opening.account, &entry);
        head = head.after(&entry);
        entries.push(entry);
    }
    entries
}

/// Every field with its length in front, so that no two entries read alike; those of format 2 begin with its name,
/// which is no account. What is not known is an empty field.
fn hash(account: AccountId, entry: &Entry) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let mut fields = vec![
        account.to_string(),
        entry.sequence.to_string(),
        entry.id.to_string(),
        entry.function.clone(),
        entry.purpose.as_str().to_owned(),
        entry.key_version.to_string(),
        entry.at.as_millisecond().to_string(),
        entry.previous_hash.clone(),
    ];
    if entry.format != 1 {
        fields.insert(0, format!("entry v{}", entry.format));
        fields.push(text(entry.request_id.map(|id| id.to_string())));
        fields.push(text(entry.uses_before.map(|uses| uses.to_string())));
    }
    let mut hasher = Sha256::new();
    for field in fields {
        hasher.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        hasher.update(field.as_bytes());
    }
    HEXLOWER.encode(&hasher.finalize())
}

/// An exported chain: what `GET /v1/access-log` gave, page after page, from the first entry on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Export {
    /// The account.
    pub account_id: AccountId,
    /// All entries in order.
    pub entries: Vec<Entry>,
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chain is broken at entry {sequence}: {why}")]
pub struct Broken {
    /// The first place that does not fit.
    pub sequence: u64,
    /// What does not fit.
    pub why: &'static str,
}

/// Checks a chain from its first entry; gives its head, to compare with what was noted elsewhere. A chain that was cut
/// at its end is a valid shorter chain: only its head shows that.
pub fn verify(export: &Export) -> Result<Head, Broken> {
    let mut head = Head::default();
    for entry in &export.entries {
        let sequence = head.sequence + 1;
        if entry.sequence != sequence {
            return Err(Broken { sequence, why: "an entry is missing or out of place" });
        }
        if entry.previous_hash != head.hash {
            return Err(Broken { sequence, why: "it does not follow the entry before" });
        }
        let uncovered = entry.format == 1 && (entry.request_id.is_some() || entry.uses_before.is_some());
        if !(1..=FORMAT).contains(&entry.format) || uncovered {
            return Err(Broken { sequence, why: "its format is not known, or has no such fields" });
        }
        if entry.hash != hash(export.account_id, entry) {
            return Err(Broken { sequence, why: "its content was changed" });
        }
        head = head.after(entry);
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(n: u64) -> Export {
        let account_id = AccountId::from_bits(1);
        let opening = |n: u64| Opening {
            id: EntryId::from_bits(u128::from(n)),
            account: account_id,
            function: "sender".to_owned(),
            purpose: Purpose::Send,
            key_version: 1,
            request_id: n.is_multiple_of(2).then(|| RequestId::from_bits(u128::from(n))),
            uses_before: n.is_multiple_of(3).then_some(n),
            at: Timestamp::from_second(i64::try_from(n).unwrap()).unwrap(),
        };
        let first = link(&Head::default(), vec![opening(2), opening(1)]);
        let head = first.iter().fold(Head::default(), |head, entry| head.after(entry));
        let rest = link(&head, (3..=n).map(opening).collect());
        Export { account_id, entries: first.into_iter().chain(rest).collect() }
    }

    #[test]
    fn linked_entries_verify_and_are_in_order_of_time() {
        let export = chain(6);
        assert_eq!(verify(&export).unwrap().sequence, 6);
        let ids: Vec<_> = export.entries.iter().map(|entry| entry.id.bits()).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn every_removed_swapped_or_changed_entry_shows() {
        for at in 0..6 {
            let mut removed = chain(6);
            removed.entries.remove(at);
            // Cutting the end leaves a valid chain with another head.
            let found = verify(&removed);
            assert!(if at == 5 { found.unwrap().sequence == 5 } else { found.is_err() }, "removed {at}");
            for other in 0..6 {
                let mut swapped = chain(6);
                swapped.entries.swap(at, other);
                assert_eq!(verify(&swapped).is_ok(), at == other, "swapped {at} and {other}");
            }
            let edits: [fn(&mut Entry); 9] = [
                |entry| entry.function.push('x'),
                |entry| entry.purpose = Purpose::Hook,
                |entry| entry.key_version += 1,
                |entry| entry.at = Timestamp::UNIX_EPOCH,
                |entry| entry.id = EntryId::from_bits(99),
                |entry| entry.sequence += 1,
                |entry| entry.request_id = entry.request_id.is_none().then(|| RequestId::from_bits(7)),
                |entry| entry.uses_before = Some(entry.uses_before.map_or(0, |uses| uses + 1)),
                |entry| (entry.format, entry.request_id, entry.uses_before) = (1, None, None),
            ];
            for edit in edits {
                let mut changed = chain(6);
                edit(&mut changed.entries[at]);
                assert_eq!(verify(&changed).unwrap_err().sequence, at as u64 + 1);
            }
        }
        let mut foreign = chain(6);
        foreign.account_id = AccountId::from_bits(2);
        assert!(verify(&foreign).is_err());
    }

    fn openings(n: u64, purpose: Purpose, key_version: u32) -> Vec<Opening> {
        let opening = |n| Opening {
            id: EntryId::from_bits(u128::from(n)),
            account: AccountId::from_bits(1),
            function: "sender".to_owned(),
            purpose,
            key_version,
            request_id: None,
            uses_before: None,
            at: Timestamp::UNIX_EPOCH,
        };
        (0..n).map(opening).collect()
    }

    fn opened(purpose: Purpose, version: u32, times: u64) -> Head {
        Head { openings: [(purpose, version, times)].into_iter().collect(), ..Head::default() }
    }

    #[test]
    fn a_version_that_was_opened_often_enough_is_said_once_and_again_much_later() {
        for purpose in [Purpose::Send, Purpose::Hook, Purpose::Payload, Purpose::Profile] {
            let said = |before, more| {
                let head = opened(purpose, 3, before);
                worn_out(&head, &link(&head, openings(more, purpose, 3)))
            };
            let worn = vec![WornOut { purpose, version: 3 }];
            assert_eq!(said(MOST_OPENINGS - 3, 2), []);
            assert_eq!(said(MOST_OPENINGS - 1, 1), worn);
            assert_eq!(said(MOST_OPENINGS - 40, 45), worn);
            assert_eq!(said(MOST_OPENINGS, 45), []);
            assert_eq!(said(MOST_OPENINGS + SAID_AGAIN - 1, 1), worn);
        }
        let head = opened(Purpose::Match, 1, MOST_OPENINGS - 1);
        assert_eq!(worn_out(&head, &link(&head, openings(1, Purpose::Match, 1))), [], "a key without nonces");
    }

    #[test]
    fn a_version_that_was_replaced_is_not_said_and_is_forgotten_in_the_end() {
        let mut head = opened(Purpose::Payload, 1, MOST_OPENINGS - 1);
        for version in 2..=5 {
            let entries = link(&head, openings(1, Purpose::Payload, version));
            head = entries.iter().fold(head, |head, entry| head.after(entry));
            assert_eq!(head.openings.of(Purpose::Payload, 1) == 0, version == 5);
        }
        assert_eq!(worn_out(&head, &link(&head, openings(1, Purpose::Payload, 1))), []);
    }

    /// Three entries as `GET /v1/access-log` gave them before there were request and uses.
    const FIRST_FORMAT: &str = include_str!("../../../tests/vectors/access-log/format-1.json");

    #[test]
    fn entries_of_the_first_format_still_verify_and_new_ones_follow_them() {
        let mut export: Export = serde_json::from_str(FIRST_FORMAT).unwrap();
        let head = verify(&export).unwrap();
        let opening = Opening {
            id: EntryId::from_bits(9),
            account: export.account_id,
            function: "sender".to_owned(),
            purpose: Purpose::Send,
            key_version: 1,
            request_id: Some(RequestId::from_bits(9)),
            uses_before: Some(0),
            at: Timestamp::from_second(9).unwrap(),
        };
        export.entries.extend(link(&head, vec![opening]));
        assert_eq!(verify(&export).unwrap().sequence, 4);
        // What the hash of an old entry does not cover may not be added to it.
        export.entries[1].uses_before = Some(5);
        assert_eq!(verify(&export).unwrap_err().sequence, 2);
        export.entries[1].uses_before = None;
        export.entries[3].format = 3;
        assert_eq!(verify(&export).unwrap_err().sequence, 4);
    }
}
