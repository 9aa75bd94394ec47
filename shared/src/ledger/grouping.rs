//! Usage rows put together by what is asked for: what is not asked for is summed.

use std::collections::BTreeMap;

use super::{Granularity, UsageKind, UsageSlot, UsageSums};
use crate::message::Direction;
use crate::number::Country;

/// What the rows of a period are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping {
    /// Kinds of work.
    pub kind: bool,
    /// Out or in.
    pub direction: bool,
    /// The other party's country.
    pub country: bool,
}

/// Why words are no grouping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give some of kind, direction and country, each once, with commas between them")]
pub struct GroupingError;

impl Grouping {
    /// As the store keeps them.
    pub const ALL: Self = Self { kind: true, direction: true, country: true };

    /// Words with commas between them; none at all for one row of each period.
    pub fn parse(words: &str) -> Result<Self, GroupingError> {
        let mut grouping = Self { kind: false, direction: false, country: false };
        for word in words.split(',').filter(|_| !words.is_empty()) {
            let wanted = match word.trim() {
                "kind" => &mut grouping.kind,
                "direction" => &mut grouping.direction,
                "country" => &mut grouping.country,
                _ => return Err(GroupingError),
            };
            if std::mem::replace(wanted, true) {
                return Err(GroupingError);
            }
        }
        Ok(grouping)
    }

    fn group(self, slot: &UsageSlot) -> Group {
        Group {
            period: slot.period.clone(),
            kind: self.kind.then_some(slot.kind),
            direction: self.direction.then_some(slot.direction),
            country: self.country.then_some(slot.country),
            error: slot.error,
        }
    }
}

/// What a row is about once rows were put together. `None`: all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The period.
    pub period: String,
    /// Kind of work.
    pub kind: Option<UsageKind>,
    /// Which way.
    pub direction: Option<Direction>,
    /// The other party's country; of `Some(None)` it is not known.
    pub country: Option<Option<Country>>,
    /// Twilio's error code, of what failed.
    pub error: Option<u32>,
}

/// Stands for all of what was put together. No word of a key is like it.
const ANY: &str = "*";

impl Group {
    /// Sorts it, and names it in cursors; of what was not put together, the text by which the store sorts it.
    pub fn text(&self) -> String {
        let kind = self.kind.map_or(ANY, UsageKind::as_str);
        let direction = self.direction.map_or(ANY, Direction::as_str);
        let country = match &self.country {
            None => ANY,
            Some(None) => "-",
            Some(Some(country)) => country.as_str(),
        };
        let error = self.error.map_or_else(String::new, |error| format!("#{error}"));
        format!("{}#{kind}#{direction}#{country}{error}", self.period)
    }

    /// Reads what [`Group::text`] wrote of rows of this grouping and granularity, and nothing else.
    pub fn parse(text: &str, grouping: Grouping, granularity: Granularity) -> Option<Self> {
        let mut parts = text.split('#');
        let (period, kind, direction) = (parts.next()?, parts.next()?, parts.next()?);
        let (country, error) = (parts.next()?, parts.next());
        let named = |asked: bool, word: &str| asked != (word == ANY);
        if !(named(grouping.kind, kind) && named(grouping.direction, direction) && named(grouping.country, country)) {
            return None;
        }
        let known = |word: &str| UsageKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        let way = |word: &str| [Direction::Outbound, Direction::Inbound].into_iter().find(|way| way.as_str() == word);
        let place = |word: &str| if word == "-" { Some(None) } else { Country::parse(word).ok().map(Some) };
        let group = Self {
            period: Some(period).filter(|period| granularity.fits(period))?.to_owned(),
            kind: if grouping.kind { Some(known(kind)?) } else { None },
            direction: if grouping.direction { Some(way(direction)?) } else { None },
            country: if grouping.country { Some(place(country)?) } else { None },
            error: error.map(str::parse).transpose().ok()?,
        };
        Some(group).filter(|group| group.text() == text)
    }
}

/// Rows as they are read in the store's order, put together.
#[derive(Debug)]
pub struct Pile {
    grouping: Grouping,
    /// Rows up to this one were given before.
    after: Option<String>,
    rows: BTreeMap<String, (Group, UsageSums)>,
    /// The period of the last row that was read.
    last: String,
}

impl Pile {
    /// None yet. What is put together has to be read from the beginning of the period of `after`.
    pub fn new(grouping: Grouping, after: Option<&Group>) -> Self {
        Self { grouping, after: after.map(Group::text), rows: BTreeMap::new(), last: String::new() }
    }

    /// Puts more rows to them, each of which comes after all that were put before.
    pub fn put(&mut self, rows: Vec<(UsageSlot, UsageSums)>) {
        for (slot, sums) in rows {
            let group = self.grouping.group(&slot);
            let text = group.text();
            self.last = slot.period;
            if self.after.as_ref().is_some_and(|after| text <= *after) {
                continue;
            }
            let (_, all) = self.rows.entry(text).or_insert((group, UsageSums::default()));
            *all = all.plus(sums);
        }
    }

    /// How many rows there are to which nothing that is read later can add.
    pub fn whole(&self) -> usize {
        if self.grouping == Grouping::ALL { self.rows.len() } else { self.rows.range(..self.last.clone()).count() }
    }

    /// At most `limit` rows, and after which of them the next page begins; `None` at the end. `all_read`: no row follows
    /// in the store, so that each one here is whole.
    pub fn page(self, limit: usize, all_read: bool) -> (Vec<(Group, UsageSums)>, Option<String>) {
        let whole = if all_read { self.rows.len() } else { self.whole() };
        let rows: Vec<_> = self.rows.into_values().take(whole.min(limit)).collect();
        let more = !all_read || whole > rows.len();
        let next = rows.last().filter(|_| more).map(|(group, _)| group.text());
        (rows, next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::Change;

    fn slot(period: u8, kind: usize, outbound: bool, country: usize) -> UsageSlot {
        UsageSlot {
            granularity: Granularity::Day,
            period: format!("2026-11-{:02}", period + 1),
            kind: UsageKind::ALL[kind],
            direction: if outbound { Direction::Outbound } else { Direction::Inbound },
            country: [None, Country::parse("US").ok(), Country::parse("AT").ok()][country],
            error: None,
        }
    }

    #[test]
    fn some_of_the_three_words_are_a_grouping() {
        let parse = |words| Grouping::parse(words).map(|by| (by.kind, by.direction, by.country));
        assert_eq!(parse("kind,direction,country"), Ok((true, true, true)));
        assert_eq!(parse("country, kind"), Ok((true, false, true)));
        assert_eq!(parse(""), Ok((false, false, false)));
        for wrong in ["kinds", "kind,kind", "kind,", ",", "*"] {
            assert_eq!(parse(wrong), Err(GroupingError), "{wrong}");
        }
    }

    #[test]
    fn only_a_cursor_of_the_same_question_reads() {
        let by_country = Grouping { kind: false, direction: false, country: true };
        let text = by_country.group(&slot(0, 0, true, 1)).text();
        assert_eq!(text, "2026-11-01#*#*#US");
        assert!(Group::parse(&text, by_country, Granularity::Day).is_some());
        assert_eq!(Group::parse(&text, Grouping::ALL, Granularity::Day), None);
        assert_eq!(Group::parse(&text, by_country, Granularity::Month), None);
        for wrong in ["", "x", "2026-11-01#*#*#us", "2026-11-01#*#*#US#", "2026-11-01#*#*#US#1#2", "2026-11-1#*#*#US"] {
            assert_eq!(Group::parse(wrong, by_country, Granularity::Day), None, "{wrong}");
        }
        let failed = "2026-11-01#failed_messages#outbound#-#30003";
        let read = Group::parse(failed, Grouping::ALL, Granularity::Day).unwrap();
        assert_eq!((read.country, read.error), (Some(None), Some(30_003)));
    }

    proptest! {
        /// Whatever the rows, the grouping, and the size of pages and reads.
        #[test]
        fn pages_lead_over_every_row_once_and_split_none(
            rows in prop::collection::btree_map((0u8..4, 0usize..3, any::<bool>(), 0usize..3), 1i64..100, 0..40),
            (kind, direction, country) in any::<(bool, bool, bool)>(),
            limit in 1usize..6,
            read in 1usize..6,
        ) {
            let grouping = Grouping { kind, direction, country };
            let mut stored: Vec<_> = rows
                .into_iter()
                .map(|((period, kind, outbound, country), n)| {
                    let slot = slot(period, kind, outbound, country);
                    (slot, UsageSums { events: n, units: 2 * n, credits: Change(3 * n) })
                })
                .collect();
            stored.sort_by_key(|(slot, _)| Grouping::ALL.group(slot).text());
            let mut once = Pile::new(grouping, None);
            once.put(stored.clone());
            let (expected, end) = once.page(usize::MAX, true);
            prop_assert_eq!(end, None);
            let (mut seen, mut cursor) = (Vec::new(), None::<Group>);
            for _ in 0..100 {
                let mut pile = Pile::new(grouping, cursor.as_ref());
                let from = cursor.as_ref().map(|group| group.period.clone()).unwrap_or_default();
                let mut rest = stored.iter().filter(|(slot, _)| slot.period >= from).cloned();
                let all_read = loop {
                    let page: Vec<_> = rest.by_ref().take(read).collect();
                    let ended = page.len() < read;
                    pile.put(page);
                    if ended || pile.whole() >= limit {
                        break ended;
                    }
                };
                let (page, next) = pile.page(limit, all_read);
                prop_assert!(page.len() <= limit);
                seen.extend(page);
                let Some(next) = next else { break };
                cursor = Some(Group::parse(&next, grouping, Granularity::Day).unwrap());
            }
            prop_assert_eq!(seen, expected);
        }
    }
}
