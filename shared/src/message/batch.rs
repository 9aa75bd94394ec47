//! One request for many recipients: each row is a message of its own, or says why it is none.
//!
//! Rows are recorded in chunks, each one transaction with one hold and the outcomes of its rows, so that a crash or a
//! repetition goes on where the last chunk ended. What a row's message is called follows from the batch and the row.

use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{Body, Message, Quote, Refusal, SenderFacts, check_allowance, check_country};
use crate::account::QuietHours;
use crate::ids::{AccountId, BatchId, MessageId};
use crate::ledger::MicroCredits;
use crate::number::{Country, E164, NumberError};
use crate::seal::Sealed;
use crate::template::Unfilled;

use super::IdempotencyKey;

/// Recipients of one request.
pub const MOST_RECIPIENTS: usize = 1_000;
/// Messages of one chunk: with the hold and the batch's own row this stays below DynamoDB's 100 items.
pub const CHUNK: usize = 90;

/// What became of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOutcome {
    /// It is a message.
    Accepted,
    /// Its recipient is no phone number.
    NotANumber,
    /// Its recipient stands further up already.
    Repeated,
    /// The destination is not on the list.
    Country,
    /// The credit did not cover it.
    Credit,
    /// The day's segments were used up.
    Ceiling,
    /// The template's fields and what they are to be filled with do not fit.
    Fields,
    /// With its fields filled in the template is longer than a message may be.
    TooLong,
    /// With its fields filled in the template says nothing.
    Empty,
}

impl RowOutcome {
    const ALL: [(Self, char); 9] = [
        (Self::Accepted, 'a'),
        (Self::NotANumber, 'n'),
        (Self::Repeated, 'r'),
        (Self::Country, 'c'),
        (Self::Credit, 'k'),
        (Self::Ceiling, 'd'),
        (Self::Fields, 'f'),
        (Self::TooLong, 'l'),
        (Self::Empty, 'e'),
    ];

    /// Outcomes as the batch's record holds them, a letter for each row.
    pub fn to_text(outcomes: &[Self]) -> String {
        let letter = |outcome: &Self| Self::ALL.iter().find(|(one, _)| one == outcome).map(|(_, letter)| letter);
        outcomes.iter().filter_map(letter).collect()
    }

    /// Reads them back; `None` for a letter that is none.
    pub fn from_text(text: &str) -> Option<Vec<Self>> {
        text.chars().map(|letter| Self::ALL.iter().find(|(_, one)| *one == letter).map(|(one, _)| *one)).collect()
    }
}

impl From<&Refusal> for RowOutcome {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Credit { .. } | Refusal::Owed(_) => Self::Credit,
            Refusal::DailyCeiling(_) => Self::Ceiling,
            // The gate is checked for the whole request, before its first row.
            Refusal::Country(_) | Refusal::NotConnected | Refusal::Stopped(_) => Self::Country,
        }
    }
}

impl From<&Unfilled> for RowOutcome {
    fn from(unfilled: &Unfilled) -> Self {
        match unfilled {
            Unfilled::Fields { .. } => Self::Fields,
            Unfilled::TooLong => Self::TooLong,
            Unfilled::Empty => Self::Empty,
        }
    }
}

/// How far a request for many has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Names it.
    pub id: BatchId,
    /// When it began.
    pub created: Timestamp,
    /// The account's quiet hours when it began: they count for all of its rows, and for its answer each time.
    pub quiet_hours: Option<QuietHours>,
    /// The text of the template when it began, sealed: it counts for all of its rows, and for its answer each time.
    pub template: Option<Sealed>,
    /// What became of its first rows; the others are not decided yet.
    pub outcomes: Vec<RowOutcome>,
}

impl Batch {
    /// What the message of a row is called: the same however often it is decided.
    pub fn message_id(&self, row: usize) -> MessageId {
        let mut hasher = Sha256::new();
        hasher.update(self.id.bits().to_be_bytes());
        hasher.update(u64::try_from(row).unwrap_or(u64::MAX).to_be_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        let dice = hash.first_chunk::<16>().map_or(0, |bytes| u128::from_be_bytes(*bytes));
        MessageId::new(self.created, dice)
    }
}

/// The rows of a request: each recipient, or why it is none.
pub fn parse_rows<'t>(texts: impl IntoIterator<Item = &'t str>, home: Country) -> Vec<Result<E164, RowOutcome>> {
    let mut seen = std::collections::BTreeSet::new();
    let row = |text: &str| match E164::parse(text, Some(home)) {
        Ok(number) if seen.insert(number.clone()) => Ok(number),
        Ok(_) => Err(RowOutcome::Repeated),
        Err(
            NumberError::NotANumber
            | NumberError::CountryMissing
            | NumberError::Impossible
            | NumberError::NotOfHomeCountry
            | NumberError::UnknownCountry
            | NumberError::NotASender,
        ) => Err(RowOutcome::NotANumber),
    };
    texts.into_iter().map(row).collect()
}

/// A row that may become a message.
#[derive(Debug, Clone)]
pub struct Row {
    /// To whom.
    pub to: E164,
    /// The text.
    pub body: Arc<Body>,
    /// Segments and price.
    pub quote: Quote,
}

/// Decides the next rows, at most a chunk of messages. What the allowance covers goes in order, the rest is refused row
/// by row.
pub fn plan_chunk(facts: &SenderFacts, rows: &[Result<Row, RowOutcome>], now: Timestamp) -> Vec<RowOutcome> {
    let mut allowance = facts.allowance.clone();
    let mut outcomes = Vec::new();
    let mut n_messages = 0;
    for row in rows {
        if n_messages == CHUNK {
            break;
        }
        let decided = row.as_ref().map_err(|outcome| *outcome).and_then(|row| {
            let (hold, segments) = (row.quote.hold, row.quote.segments.segments);
            check_country(&facts.gate, &row.to)
                .and_then(|()| check_allowance(&allowance, hold, segments, facts.gate.daily_ceiling, now))
                .map_err(|refusal| RowOutcome::from(&refusal))?;
            Ok((hold, segments))
        });
        outcomes.push(match decided {
            Ok((hold, segments)) => {
                allowance.reserve(hold, u64::from(segments), now);
                n_messages += 1;
                RowOutcome::Accepted
            }
            Err(outcome) => outcome,
        });
    }
    outcomes
}

/// What one transaction records of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whose.
    pub account: AccountId,
    /// The caller's key.
    pub key: IdempotencyKey,
    /// The batch before it.
    pub batch: Batch,
    /// What became of its next rows.
    pub outcomes: Vec<RowOutcome>,
    /// The accepted ones with their sealed payloads.
    pub messages: Vec<(Message, Sealed)>,
    /// The account's segments per day.
    pub daily_ceiling: u64,
    /// What may be used beyond all credit, as it was read.
    pub room: MicroCredits,
    /// When.
    pub now: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Gate;
    use crate::ledger::Allowance;
    use crate::message::segments;

    fn us() -> Country {
        Country::parse("US").unwrap()
    }

    fn facts(credit: u64, ceiling: u64) -> SenderFacts {
        let gate = Gate { connected: true, daily_ceiling: ceiling, ..Gate::new(us()) };
        SenderFacts { gate, allowance: Allowance::new(MicroCredits::whole(credit), Timestamp::UNIX_EPOCH) }
    }

    fn row(to: E164, text: &str) -> Row {
        let segments = segments::count(text);
        let hold = MicroCredits::whole(u64::from(segments.segments));
        Row {
            to,
            body: Arc::new(Body::parse(text.to_owned()).unwrap()),
            quote: Quote { segments, hold, price_version: "test" },
        }
    }

    fn plan(facts: &SenderFacts, rows: &[&str]) -> String {
        let rows = parse_rows(rows.iter().copied(), us()).into_iter().map(|to| Ok(row(to?, "hi"))).collect::<Vec<_>>();
        RowOutcome::to_text(&plan_chunk(facts, &rows, Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn each_row_costs_what_its_own_text_costs() {
        let long = "a".repeat(161);
        let rows: Vec<_> = [("hi", 1), (&long, 2), ("hi", 3), (&long, 4), ("hi", 5)]
            .iter()
            .map(|(text, n)| Ok(row(E164::parse(&format!("+1415555267{n}"), None).unwrap(), text)))
            .chain([Err(RowOutcome::Fields)])
            .collect();
        let planned =
            |credit, ceiling| RowOutcome::to_text(&plan_chunk(&facts(credit, ceiling), &rows, Timestamp::UNIX_EPOCH));
        assert_eq!([planned(7, 7), planned(4, 9), planned(9, 5)], ["aaaaaf", "aaakkf", "aaadaf"]);
    }

    #[test]
    fn each_row_is_decided_by_itself_and_in_order() {
        let rows = ["+14155552671", "nonsense", "(415) 555-2671", "+442071838750", "+14155552672", "+14155552673"];
        assert_eq!(plan(&facts(10, 10), &rows), "anrcaa");
        assert_eq!(plan(&facts(2, 10), &rows), "anrcak");
        assert_eq!(plan(&facts(10, 1), &rows), "anrcdd");
    }

    #[test]
    fn a_chunk_ends_with_its_last_message_and_takes_refused_rows_along() {
        let rows: Vec<_> = (0..200).map(|n| format!("+1415555{n:04}")).collect();
        let rows: Vec<_> = rows.iter().map(String::as_str).collect();
        assert_eq!(plan(&facts(1_000, 1_000), &rows), "a".repeat(CHUNK));
        assert_eq!(plan(&facts(1, 1_000), &rows).len(), 200);
    }

    #[test]
    fn outcomes_read_back_and_nonsense_does_not() {
        let all: Vec<_> = RowOutcome::ALL.iter().map(|(outcome, _)| *outcome).collect();
        assert_eq!(RowOutcome::from_text(&RowOutcome::to_text(&all)), Some(all));
        assert_eq!(RowOutcome::from_text("ax"), None);
    }

    #[test]
    fn a_rows_message_has_one_name_in_its_batch() {
        let batch = |bits| Batch {
            id: BatchId::from_bits(bits),
            created: Timestamp::UNIX_EPOCH,
            quiet_hours: None,
            template: None,
            outcomes: Vec::new(),
        };
        let ids: std::collections::BTreeSet<_> =
            (0..1_000).flat_map(|row| [batch(1).message_id(row), batch(2).message_id(row)]).collect();
        assert_eq!((ids.len(), batch(1).message_id(7)), (2_000, batch(1).message_id(7)));
    }
}
