//! Opt-outs in table `messages`: a row for each sender and recipient, and one for each sender, by which they are listed.

use aws_sdk_dynamodb::types::AttributeValue;
use futures::future::try_join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, Table};
use super::{Item, fault, from_item, millis, n, s, text};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::inbound::Consent;
use crate::live::Live;
use crate::opt_out::{
    EnterOptOuts, Entered, Entry, Evidence, EvidenceKind, Heard, OptOut, PlatformWord, ReadOptOuts, ReadPlatformOptOut,
    RecordConsent, RecordPlatformWord, Removal, Said, stopped,
};
use crate::session::By;

/// How many rows are written at the same time.
const AT_ONCE: usize = 25;
/// The most keys of one batch read.
const BATCH: usize = 100;

/// Rows from before customers could enter words have the first three attributes only.
#[derive(Serialize, Deserialize)]
struct OptOutRow {
    consent: Option<Consent>,
    said_at: Option<i64>,
    said_by: Option<String>,
    entered: Option<Consent>,
    entered_at: Option<i64>,
    entered_by: Option<String>,
    evidence: Option<EvidenceKind>,
    evidence_at: Option<i64>,
}

/// Both words of a row.
pub(super) fn opt_out(item: Item) -> Result<OptOut, Fault> {
    let damaged = || Fault::permanent("a stored opt-out does not read");
    let at = |ms: i64| Timestamp::from_millisecond(ms).map_err(|_| damaged());
    let row: OptOutRow = from_item(item)?;
    let said = match (row.consent, row.said_at, row.said_by) {
        (None, None, None) => None,
        (Some(consent), Some(ms), Some(by)) => {
            Some(Said { consent, at: at(ms)?, heard: Heard::parse(&by).ok_or_else(damaged)? })
        }
        _ => return Err(damaged()),
    };
    let evidence = match (row.evidence, row.evidence_at) {
        (Some(kind), Some(ms)) => Some(Evidence { kind, given: at(ms)? }),
        _ => None,
    };
    let entered = match (row.entered, row.entered_at, row.entered_by) {
        (None, None, None) => None,
        (Some(consent), Some(ms), Some(by)) => {
            Some(Entered { consent, at: at(ms)?, by: By::parse(&by).ok_or_else(damaged)?, evidence })
        }
        _ => return Err(damaged()),
    };
    Ok(OptOut { said, entered })
}

fn word(consent: Consent) -> AttributeValue {
    s(match consent {
        Consent::Stop => "stop",
        Consent::Start => "start",
    })
}

impl Live {
    /// The sender's place in the list, before its first opt-out: 1 conditional write.
    async fn note_sender(&self, account: AccountId, own: &str) -> Result<(), Fault> {
        let key = keys::opt_out_sender(account, own);
        let noted = self.dynamo.update_one(&key, "SET v = :v", "attribute_not_exists(pk)", &[(":v", n(1))]).await;
        noted.map(|_| ())
    }

    async fn enter_one(
        &self,
        account: AccountId,
        own: &str,
        other: &str,
        by: By,
        at: Timestamp,
    ) -> Result<Entry, Fault> {
        let written = self
            .dynamo
            .update_one(
                &keys::opt_out(account, own, other),
                "SET entered = :stop, entered_at = :at, entered_by = :by, v = :v REMOVE evidence, evidence_at",
                "attribute_not_exists(entered_at) OR entered_at <= :at",
                &[(":stop", word(Consent::Stop)), (":at", millis(at)), (":by", s(by.to_text())), (":v", n(1))],
            )
            .await?;
        let item =
            written.or_else(|blocker| blocker.ok_or(Fault::transient("an opt-out that stood in the way is gone")));
        Ok(opt_out(item?)?.entry())
    }

    async fn remove_one(
        &self,
        account: AccountId,
        own: &str,
        other: &str,
        (by, evidence): (By, Evidence),
        at: Timestamp,
    ) -> Result<Removal, Fault> {
        let written = self
            .dynamo
            .update_one(
                &keys::opt_out(account, own, other),
                "SET entered = :start, entered_at = :at, entered_by = :by, evidence = :kind, evidence_at = :given",
                "entered = :stop AND entered_at < :at AND (attribute_not_exists(said_at) OR (consent = :start AND \
                 said_at <= entered_at))",
                &[
                    (":start", word(Consent::Start)),
                    (":stop", word(Consent::Stop)),
                    (":at", millis(at)),
                    (":by", s(by.to_text())),
                    (":kind", s(evidence.kind.as_str())),
                    (":given", millis(evidence.given)),
                ],
            )
            .await?;
        let blocker = match written {
            Ok(_) => return Ok(Removal::Removed),
            Err(item) => item.map(opt_out).transpose()?.unwrap_or_default(),
        };
        let ours = |entered: &Entered| entered.consent == Consent::Start && entered.at == at && entered.by == by;
        match blocker.removal(at) {
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            Removal::NotOptedOut if blocker.entered.as_ref().is_some_and(ours) => Ok(Removal::Removed),
            Removal::Removed => Err(Fault::permanent("a removal was refused without a reason")),
            refused => Ok(refused),
        }
    }
}

impl RecordConsent for Live {
    /// 1 conditional update: a later word stands; of two at the same time STOP does. Before a STOP the sender is noted.
    async fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        heard: &Heard,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let same_time = match consent {
            Consent::Stop => {
                self.note_sender(account, own).await?;
                " OR said_at = :at"
            }
            Consent::Start => "",
        };
        let recorded = self
            .dynamo
            .update_one(
                &keys::opt_out(account, own, other_hash),
                "SET consent = :consent, said_at = :at, said_by = :by, v = :v",
                &format!("attribute_not_exists(said_at) OR said_at < :at{same_time}"),
                &[(":consent", word(consent)), (":at", millis(at)), (":by", s(heard.to_text())), (":v", n(1))],
            )
            .await;
        recorded.map(|_| ())
    }
}

impl EnterOptOuts for Live {
    /// 1 conditional update for each recipient, and 1 for the sender before them.
    async fn enter_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        by: By,
        at: Timestamp,
    ) -> Result<Vec<Entry>, Fault> {
        self.note_sender(account, own).await?;
        let mut entries = Vec::new();
        for recipients in recipients.chunks(AT_ONCE) {
            let writes = recipients.iter().map(|other| self.enter_one(account, own, other, by, at));
            entries.extend(try_join_all(writes).await?);
        }
        Ok(entries)
    }

    /// 1 conditional update for each recipient.
    async fn remove_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        shown: (By, Evidence),
        at: Timestamp,
    ) -> Result<Vec<Removal>, Fault> {
        let mut removals = Vec::new();
        for recipients in recipients.chunks(AT_ONCE) {
            let writes = recipients.iter().map(|other| self.remove_one(account, own, other, shown, at));
            removals.extend(try_join_all(writes).await?);
        }
        Ok(removals)
    }
}

impl ReadOptOuts for Live {
    async fn load_opt_outs(&self, account: AccountId, own: &str, recipients: &[String]) -> Result<Vec<OptOut>, Fault> {
        let mut all = Vec::new();
        for recipients in recipients.chunks(BATCH) {
            let wanted: Vec<_> = recipients.iter().map(|other| keys::opt_out(account, own, other)).collect();
            let found = self.dynamo.batch_get(&wanted).await?;
            for key in &wanted {
                all.push(found.get(key).cloned().map(opt_out).transpose()?.unwrap_or_default());
            }
        }
        Ok(all)
    }

    async fn opt_out_senders(&self, account: AccountId) -> Result<Vec<String>, Fault> {
        let db = &self.dynamo;
        let (mut items, mut start) = (Vec::new(), None);
        loop {
            let answer = db
                .client()?
                .query()
                .table_name(db.name(Table::Messages))
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":pk", s(account.to_string()))
                .expression_attribute_values(":sk", s(keys::OPT_OUT_SENDERS))
                .set_exclusive_start_key(start)
                .consistent_read(true)
                .send()
                .await
                .map_err(|error| fault("list senders of opt-outs", &error))?;
            items.extend(answer.items.unwrap_or_default());
            start = answer.last_evaluated_key;
            if start.is_none() {
                break;
            }
        }
        let own = |item: &Item| {
            let sort = text(item, "sk")?;
            sort.strip_prefix(keys::OPT_OUT_SENDERS)
                .map(str::to_owned)
                .ok_or(Fault::permanent("a sender's key does not read"))
        };
        items.iter().map(own).collect()
    }

    async fn list_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<(String, OptOut)>, Fault> {
        let db = &self.dynamo;
        let start = after.map(|after| keys::opt_out(account, own, after).attributes());
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(keys::opt_outs(account, own)))
            .set_exclusive_start_key(start)
            .limit(i32::from(limit))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| fault("list opt-outs", &error))?;
        let items = answer.items.unwrap_or_default();
        items.into_iter().map(|item| Ok((text(&item, "sk")?, opt_out(item)?))).collect()
    }
}

/// A text's word; its SID is the sort key.
#[derive(Deserialize)]
struct PlatformWordRow {
    consent: Consent,
    said_at: i64,
}

fn platform_word(item: Item) -> Result<PlatformWord, Fault> {
    let row: PlatformWordRow = from_item(item)?;
    let at = Timestamp::from_millisecond(row.said_at);
    Ok(PlatformWord {
        consent: row.consent,
        at: at.map_err(|_| Fault::permanent("a stored word to the platform does not read"))?,
    })
}

impl RecordPlatformWord for Live {
    /// 1 conditional update: a row for each text, never changed.
    async fn record_platform_word(&self, caller_hash: &str, sid: &str, heard: PlatformWord) -> Result<(), Fault> {
        let values =
            [(":consent", word(heard.consent)), (":at", millis(heard.at)), (":by", s("text".to_owned())), (":v", n(1))];
        let recorded = self
            .dynamo
            .update_one(
                &keys::platform_word(caller_hash, sid),
                "SET consent = :consent, said_at = :at, said_by = :by, v = :v",
                "attribute_not_exists(pk)",
                &values,
            )
            .await;
        recorded.map(|_| ())
    }
}

impl ReadPlatformOptOut for Live {
    /// 1 read (of thousands of words, some).
    async fn has_stopped(&self, caller_hash: &str) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let (mut words, mut start) = (Vec::new(), None);
        loop {
            let answer = db
                .client()?
                .query()
                .table_name(db.name(Table::Accounts))
                .key_condition_expression("pk = :pk")
                .expression_attribute_values(":pk", s(keys::platform_words(caller_hash)))
                .set_exclusive_start_key(start)
                .consistent_read(true)
                .send()
                .await
                .map_err(|error| fault("read words to the platform", &error))?;
            for item in answer.items.unwrap_or_default() {
                words.push(platform_word(item)?);
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(stopped(&words));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::MessageId;

    fn item(attributes: &[(&str, AttributeValue)]) -> Item {
        let key = keys::opt_out(AccountId::from_bits(1), "+15005550006", "hash");
        let more = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        key.attributes().into_iter().chain(more).collect()
    }

    #[test]
    fn a_row_from_before_entries_reads() {
        let message = MessageId::from_bits(1);
        for (by, heard) in [
            ("text SM1".to_owned(), Heard::Text("SM1".to_owned())),
            (format!("error 21610 for {message}"), Heard::Refusal(message)),
        ] {
            let row = item(&[("consent", s("stop")), ("said_at", n(5)), ("said_by", s(by)), ("v", n(1))]);
            let at = Timestamp::from_millisecond(5).unwrap();
            let said = Some(Said { consent: Consent::Stop, at, heard });
            assert_eq!(opt_out(row), Ok(OptOut { said, entered: None }));
        }
    }

    #[test]
    fn half_a_word_does_not_read() {
        for row in [item(&[("consent", s("stop"))]), item(&[("entered", s("stop")), ("entered_at", n(5))])] {
            assert!(opt_out(row).is_err());
        }
    }
}
