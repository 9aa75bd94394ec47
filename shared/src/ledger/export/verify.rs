//! The check of an export.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::uncounted::{Search, uncounted};
use super::{EXPORT_FORMAT, Export, ExportedEntry, ExportedUsage, PriceList, Statement, StatementState, state_of};
use crate::ids::EntryId;
use crate::ledger::{Book, Change, Entry, Occasion, Prices, UsageKind, Zone, first_day, mark, prices_of};
use crate::message::{Direction, Format};

/// What a check recomputed and found as it is stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Entries that the statement sums up.
    pub entries: usize,
    /// Charges and corrections among them, each priced again.
    pub charges: usize,
    /// Books whose movement was summed up again.
    pub books: usize,
    /// Entries of an open month that the statement does not count yet, and that nothing can be said about therefore.
    pub uncounted: Vec<EntryId>,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The entry, if it is about one.
    pub entry: Option<EntryId>,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "{entry}: {}", self.wrong),
            None => write!(f, "statement: {}", self.wrong),
        }
    }
}

/// What can be wrong. Amounts are in millionths of a credit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Another format.
    #[error("this is no export of the format {EXPORT_FORMAT}")]
    Format,
    /// Not a month.
    #[error("the month does not read")]
    Month,
    /// Not a time zone.
    #[error("there is no time zone {0}")]
    Zone(String),
    /// Open or closed against the calendar.
    #[error("it says that it is final or not, against its month, its time zone and when it was read")]
    State,
    /// An entry has no lines.
    #[error("it has no lines")]
    NoLines,
    /// Lines that do not sum to zero.
    #[error("its lines sum to {0}, not to zero")]
    Unbalanced(i128),
    /// Another account's.
    #[error("it is of another account")]
    Account,
    /// Another month's.
    #[error("it is of the month {0}")]
    OtherMonth(String),
    /// Posted outside of the month, whatever the time zone.
    #[error("it was posted at {0}, which is in another month everywhere")]
    Posted(Timestamp),
    /// The id is there twice.
    #[error("another entry has the same id")]
    SameId,
    /// The cause is there twice.
    #[error("another entry has the same occasion, {0}")]
    SameOccasion(String),
    /// It says something else than what its mark stands for.
    #[error("its mark is not that of what it says: something in it was changed")]
    Mark,
    /// The work is of another occasion.
    #[error("the work in it is not the one that it was posted for")]
    Work,
    /// The lines are not those of a charge.
    #[error("its lines do not move the price of its work")]
    Lines,
    /// Nobody knows the price list.
    #[error("there is no price list {0}")]
    NoPrices(String),
    /// Not the price.
    #[error("it charges {charged}; by the price list it is {priced}")]
    Price {
        /// What it charges, with all corrections.
        charged: i128,
        /// What the list says.
        priced: i128,
    },
    /// Not the price.
    #[error("it changes the charge by {changed} for {units} units, which no price makes")]
    Correction {
        /// By what.
        changed: i64,
        /// For what.
        units: i64,
    },
    /// A list that is not the published one.
    #[error("the price list {0} is not the one that was published, or it is there twice")]
    PriceList(String),
    /// A sum that is not the entries'.
    #[error("{} moved by {stated}; the entries sum to {summed}", book.as_str())]
    Movement {
        /// The book.
        book: Book,
        /// What the statement says.
        stated: i64,
        /// What the entries say.
        summed: i128,
    },
    /// A balance that does not follow.
    #[error("{} closes with {stated}; opening and movement make {summed}", book.as_str())]
    Closing {
        /// The book.
        book: Book,
        /// What the statement says.
        stated: i64,
        /// What follows.
        summed: i128,
    },
    /// Balances that do not sum to zero.
    #[error("the books open with {0} together, not with zero")]
    Opening(i128),
    /// Units that are not the entries'.
    #[error("{} units of {} were used; the entries sum to {summed}", stated, kind.as_str())]
    Units {
        /// Kind of work.
        kind: UsageKind,
        /// What the statement says.
        stated: i64,
        /// What the entries say.
        summed: i128,
    },
    /// What is left does not follow.
    #[error("{stated} is left or owed; by the books it is {summed}")]
    Balance {
        /// What the statement says, below zero if it is owed.
        stated: i128,
        /// What follows.
        summed: i128,
    },
    /// Another number of entries.
    #[error("it counts {counted} entries; {listed} are there")]
    Number {
        /// What the statement says.
        counted: u64,
        /// How many there are.
        listed: u64,
    },
    /// Another digest.
    #[error("its digest is {stated}; the marks of the entries sum to {summed}")]
    Digest {
        /// What the statement says.
        stated: String,
        /// What the entries say.
        summed: String,
    },
    /// Too much was posted while it was read.
    #[error(
        "{0} entries are not counted yet, too many to tell which: fetch again at a quieter time, or when the month is \
         final"
    )]
    TooManyUncounted(u64),
}

/// Recomputes all of an export, to the last millionth.
pub fn verify(export: &Export) -> Result<Verified, Vec<Finding>> {
    let mut check = Check::default();
    let Export { format, statement, entries } = export;
    if format != EXPORT_FORMAT {
        check.of_statement(Wrong::Format);
        return Err(check.findings);
    }
    let Some(month) = first_day(&statement.month) else {
        check.of_statement(Wrong::Month);
        return Err(check.findings);
    };
    let zone = statement.time_zone.as_str();
    if Zone::parse(zone).is_err() {
        check.of_statement(Wrong::Zone(zone.to_owned()));
    }
    if state_of(month, &statement.time_zone, statement.as_of) != statement.state {
        check.of_statement(Wrong::State);
    }
    let prices = check.price_lists(&statement.price_lists);
    for entry in entries {
        check.entry(entry, statement, month, &prices);
    }
    check.corrected(entries, &prices);
    let read: Vec<Entry> = entries.iter().map(ExportedEntry::entry).collect();
    let counted = check.counted(&read, statement);
    let uncounted: Vec<EntryId> =
        read.iter().filter(|entry| !counted.contains(&entry.id)).map(|entry| entry.id).collect();
    let summed: Vec<&Entry> = read.iter().filter(|entry| counted.contains(&entry.id)).collect();
    check.sums(&summed, statement);
    let moved: HashSet<Book> = summed.iter().flat_map(|entry| &entry.lines).map(|line| line.book).collect();
    let charges = summed.iter().filter(|entry| entry.usage.is_some()).count();
    check.done(Verified { entries: summed.len(), charges, books: moved.len(), uncounted })
}

type PricesByVersion<'l> = BTreeMap<&'l str, Prices>;

#[derive(Default)]
struct Check {
    findings: Vec<Finding>,
    ids: HashSet<EntryId>,
    occasions: HashSet<String>,
}

impl Check {
    fn of_statement(&mut self, wrong: Wrong) {
        self.findings.push(Finding { entry: None, wrong });
    }

    fn of_entry(&mut self, entry: EntryId, wrong: Wrong) {
        self.findings.push(Finding { entry: Some(entry), wrong });
    }

    fn done(self, verified: Verified) -> Result<Verified, Vec<Finding>> {
        if self.findings.is_empty() { Ok(verified) } else { Err(self.findings) }
    }

    /// The lists by version. What this code knows has to be as it knows it.
    fn price_lists<'l>(&mut self, lists: &'l [PriceList]) -> PricesByVersion<'l> {
        let mut prices = PricesByVersion::new();
        for list in lists {
            let published = prices_of(&list.version);
            let as_published = published.is_none_or(|published| PriceList::from(published) == *list);
            if prices.insert(&list.version, list.prices()).is_some() || !as_published {
                self.of_statement(Wrong::PriceList(list.version.clone()));
            }
        }
        prices
    }

    /// One entry for itself.
    fn entry(&mut self, exported: &ExportedEntry, statement: &Statement, month: Date, prices: &PricesByVersion) {
        let (id, entry) = (exported.id, exported.entry());
        if ExportedEntry::from(&entry) != *exported {
            self.of_entry(id, Wrong::Mark);
        }
        if !self.ids.insert(id) {
            self.of_entry(id, Wrong::SameId);
        }
        let word = entry.occasion.word();
        if !self.occasions.insert(word.clone()) {
            self.of_entry(id, Wrong::SameOccasion(word));
        }
        if entry.account != statement.account_id {
            self.of_entry(id, Wrong::Account);
        }
        if entry.month != statement.month {
            self.of_entry(id, Wrong::OtherMonth(entry.month.clone()));
        } else if !somewhere_in(month, entry.posted) {
            self.of_entry(id, Wrong::Posted(entry.posted));
        }
        if entry.lines.is_empty() {
            self.of_entry(id, Wrong::NoLines);
        }
        let sum: i128 = entry.lines.iter().map(|line| i128::from(line.amount.0)).sum();
        if sum != 0 {
            self.of_entry(id, Wrong::Unbalanced(sum));
        }
        if let Some(wrong) = wrong_charge(exported, &entry, prices) {
            self.of_entry(id, wrong);
        }
    }

    /// A charge together with what corrects it costs what its units cost then. What was charged in an earlier month is
    /// not here.
    fn corrected(&mut self, entries: &[ExportedEntry], prices: &PricesByVersion) {
        let usages = || entries.iter().filter_map(|entry| Some((entry, entry.usage.as_ref()?)));
        let charged = |entry: &ExportedEntry| matches!(entry.occasion, Occasion::Usage { .. });
        let mut corrections: HashMap<(&str, UsageKind), Vec<(EntryId, &ExportedUsage)>> = HashMap::new();
        for (entry, usage) in usages().filter(|(entry, _)| !charged(entry)) {
            corrections.entry((&usage.sid, usage.kind)).or_default().push((entry.id, usage));
        }
        for (_, first) in usages().filter(|(entry, _)| charged(entry)) {
            let Some(changes) = corrections.get(&(first.sid.as_str(), first.kind)) else { continue };
            let Some(list) = prices.get(first.price_version.as_str()) else { continue };
            let all = || std::iter::once(first).chain(changes.iter().map(|(_, usage)| *usage));
            let units: i128 = all().map(|usage| i128::from(usage.units)).sum();
            let credits: i128 = all().map(|usage| i128::from(usage.credits_micro.0)).sum();
            let fits = price(list, first, units);
            if let Some((last, _)) = changes.last().filter(|_| credits != fits) {
                self.of_entry(*last, Wrong::Price { charged: credits, priced: fits });
            }
        }
    }

    /// The entries that the statement counts. All of them in a closed month; in an open one those that came last may be
    /// missing, and which these are follows from the digest.
    fn counted(&mut self, entries: &[Entry], statement: &Statement) -> HashSet<EntryId> {
        let all: HashSet<EntryId> = entries.iter().map(|entry| entry.id).collect();
        let listed = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let more = listed.checked_sub(statement.entries).filter(|more| *more > 0);
        let (Some(more), StatementState::Open) = (more, statement.state) else { return all };
        let summed = digest_of(entries);
        let Some(missing) = statement.digest.parse().ok().and_then(|stated| summed.checked_sub(stated)) else {
            return all;
        };
        match uncounted(entries, more, missing, statement.as_of) {
            Search::Found(late) => all.into_iter().filter(|id| !late.contains(id)).collect(),
            Search::None => all,
            Search::TooMany => {
                self.of_statement(Wrong::TooManyUncounted(more));
                all
            }
        }
    }

    /// What the statement says of all entries together.
    fn sums(&mut self, entries: &[&Entry], statement: &Statement) {
        let listed = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        if listed != statement.entries {
            self.of_statement(Wrong::Number { counted: statement.entries, listed });
        }
        let summed = digest_of(entries.iter().copied()).to_string();
        if summed != statement.digest {
            self.of_statement(Wrong::Digest { stated: statement.digest.clone(), summed });
        }
        let of = |books: &BTreeMap<Book, Change>, book| books.get(&book).copied().unwrap_or_default().0;
        let mut opening = 0;
        let mut balance = 0;
        for book in Book::ALL {
            let lines = entries.iter().flat_map(|entry| &entry.lines).filter(|line| line.book == book);
            let summed: i128 = lines.map(|line| i128::from(line.amount.0)).sum();
            let stated = of(&statement.movements_micro, book);
            if summed != i128::from(stated) {
                self.of_statement(Wrong::Movement { book, stated, summed });
            }
            let opened = i128::from(of(&statement.opening_micro, book));
            opening += opened;
            let (closes, follows) = (of(&statement.closing_micro, book), opened + i128::from(stated));
            if i128::from(closes) != follows {
                self.of_statement(Wrong::Closing { book, stated: closes, summed: follows });
            }
            if matches!(book, Book::Included | Book::Purchased | Book::Clearing) {
                balance += i128::from(closes);
            }
        }
        if opening != 0 {
            self.of_statement(Wrong::Opening(opening));
        }
        let (left, owed) = (i128::from(statement.credits_left_micro.0), i128::from(statement.owed_micro.0));
        if (left, owed) != (balance.max(0), -balance.min(0)) {
            self.of_statement(Wrong::Balance { stated: left - owed, summed: balance });
        }
        for kind in UsageKind::ALL {
            let of_kind = entries.iter().filter_map(|entry| entry.usage.as_ref()).filter(|usage| usage.kind == kind);
            let summed: i128 = of_kind.map(|usage| i128::from(usage.units)).sum();
            let stated = statement.used_units.get(&kind).copied().unwrap_or_default();
            if summed != i128::from(stated) {
                self.of_statement(Wrong::Units { kind, stated, summed });
            }
        }
    }
}

/// The time zone may have been another one when it was posted: a day on either side is still the month somewhere.
fn somewhere_in(month: Date, posted: Timestamp) -> bool {
    let utc = Zone::default();
    let day = SignedDuration::from_hours(24);
    let (Some(start), Some(end)) = (utc.start(month), utc.end(month.last_of_month())) else { return false };
    start - day <= posted && posted <= end + day
}

fn digest_of<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> u128 {
    entries.into_iter().map(mark).fold(0, u128::saturating_add)
}

/// Whether a work has one price whatever its units are.
fn whole(work: &ExportedUsage) -> bool {
    (work.kind, work.direction, work.format) == (UsageKind::MessageSegments, Direction::Outbound, Format::Mms)
}

fn price_of_one(list: &Prices, work: &ExportedUsage) -> i128 {
    i128::from(list.work(work.kind, work.direction, work.format, 1).0)
}

/// What units of a work cost, also more of them than an account can have.
fn price(list: &Prices, work: &ExportedUsage, units: i128) -> i128 {
    price_of_one(list, work) * if whole(work) { i128::from(units > 0) } else { units }
}

/// What is wrong with a charge or a correction.
fn wrong_charge(exported: &ExportedEntry, entry: &Entry, lists: &PricesByVersion) -> Option<Wrong> {
    let (sid, kind, correction) = match &entry.occasion {
        Occasion::Usage { sid, kind } => (sid, *kind, false),
        Occasion::Correction { sid, kind, .. } => (sid, *kind, true),
        _ => return exported.usage.is_some().then_some(Wrong::Work),
    };
    let (Some(usage), Some(book)) = (&exported.usage, Book::of(kind)) else { return Some(Wrong::Work) };
    if (&usage.sid, usage.kind) != (sid, kind) {
        return Some(Wrong::Work);
    }
    let Some(list) = lists.get(usage.price_version.as_str()) else {
        return Some(Wrong::NoPrices(usage.price_version.clone()));
    };
    let (credits, units) = (i128::from(usage.credits_micro.0), i128::from(usage.units));
    let one = price_of_one(list, usage);
    if !correction && credits != price(list, usage, units) {
        return Some(Wrong::Price { charged: credits, priced: price(list, usage, units) });
    }
    let fits = if whole(usage) { [0, one, -one].contains(&credits) } else { credits == one * units };
    if correction && !fits {
        return Some(Wrong::Correction { changed: usage.credits_micro.0, units: usage.units });
    }
    // A correction may be put into the book of corrections.
    let own = |other: Book| other == book || (correction && other == Book::Adjustments);
    let used = entry.lines.iter().filter(|line| own(line.book)).fold(Change::ZERO, |sum, line| sum.and(line.amount));
    let elsewhere = entry.lines.iter().any(|line| !own(line.book) && line.book != Book::Clearing);
    let moves = used == usage.credits_micro && entry.on(Book::Clearing) == used.back() && !elsewhere;
    (!moves).then_some(Wrong::Lines)
}
