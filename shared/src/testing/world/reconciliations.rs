//! Comparisons with Twilio.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;

use super::{World, dump, not_valid};
use crate::connection::{PageMark, Trouble};
use crate::credential::Carrier;
use crate::fault::Fault;
use crate::ids::{AccountId, MessageId};
use crate::ledger::{Entry, UsageEvent};
use crate::message::Message;
use crate::reconciliation::{
    AtTwilio, CarrierUsage, Course, DayPage, Difference, KeepComparison, KeepCourse, PostCorrection, ReadCharges,
    ReadDay, ReadReports, Report,
};

#[derive(Default)]
pub(super) struct Reconciliations {
    seen: BTreeMap<(AccountId, Date, u32), Vec<String>>,
    differences: BTreeMap<(AccountId, Date, u32, String), Difference>,
    reports: BTreeMap<(AccountId, Date), Report>,
    /// What Twilio has, by Account SID; in the order of its list.
    at_twilio: Vec<(String, AtTwilio)>,
    records: BTreeMap<(String, String), CarrierUsage>,
}

impl Reconciliations {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.seen);
        dump(bytes, &self.differences);
        dump(bytes, &self.reports);
    }
}

impl World {
    /// Twilio has this message of an account; the same SID again replaces it.
    pub fn twilio_has(&self, account_sid: &str, message: AtTwilio) {
        let list = &mut self.state().reconciliations.at_twilio;
        list.retain(|(owner, there)| owner != account_sid || there.sid != message.sid);
        list.push((account_sid.to_owned(), message));
    }

    /// Twilio does not have it any more.
    pub fn twilio_lost(&self, sid: &str) {
        self.state().reconciliations.at_twilio.retain(|(_, there)| there.sid != sid);
    }

    /// What the usage records say of a category, on every day; nothing if nothing was said.
    pub fn twilio_records(&self, account_sid: &str, usage: CarrierUsage) {
        let key = (account_sid.to_owned(), usage.category.clone());
        self.state().reconciliations.records.insert(key, usage);
    }
}

impl ReadDay for World {
    async fn list_day(
        &self,
        carrier: &Carrier,
        day: Date,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<DayPage, Trouble> {
        self.ask("list_day", |state| {
            let there = state.reconciliations.at_twilio.iter();
            let of = there.filter(|(owner, there)| owner == carrier.account_sid.as_str() && there.is_of(day));
            let all: Vec<AtTwilio> = of.map(|(_, there)| there.clone()).collect();
            let start = from.map_or(0, |mark| {
                let behind = all.iter().position(|there| mark.token == format!("PA{}", there.sid));
                behind.map_or(all.len(), |at| at + 1)
            });
            let more = all.len() > start + usize::from(limit);
            let messages: Vec<_> = all.into_iter().skip(start).take(usize::from(limit)).collect();
            let page = from.map_or(0, |mark| mark.page) + 1;
            let last = messages.last().filter(|_| more);
            let next = last.and_then(|last| PageMark::new(page, &format!("PA{}", last.sid)));
            Ok(DayPage { messages, next })
        })
        .await
    }

    async fn look_up(&self, carrier: &Carrier, sid: &str) -> Result<Option<AtTwilio>, Trouble> {
        self.ask("look_up", |state| {
            let mut list = state.reconciliations.at_twilio.iter();
            let found = list.find(|(owner, there)| owner == carrier.account_sid.as_str() && there.sid == sid);
            Ok(found.map(|(_, there)| there.clone()))
        })
        .await
    }

    async fn read_record(&self, carrier: &Carrier, _day: Date, category: &str) -> Result<CarrierUsage, Trouble> {
        self.ask("read_record", |state| {
            let key = (carrier.account_sid.as_str().to_owned(), category.to_owned());
            let said = state.reconciliations.records.get(&key).cloned();
            Ok(said.unwrap_or_else(|| CarrierUsage::unsaid(category)))
        })
        .await
    }
}

impl ReadCharges for World {
    async fn load_charges(&self, account: AccountId, sids: Vec<String>) -> Result<Vec<UsageEvent>, Fault> {
        self.call("load_charges", |state| {
            Ok(sids.iter().filter_map(|sid| state.ledger.charge_of(account, sid)).collect())
        })
        .await
    }

    async fn list_made(
        &self,
        account: AccountId,
        after: MessageId,
        to: MessageId,
        limit: u16,
    ) -> Result<Vec<Message>, Fault> {
        self.call("list_made", |state| {
            if limit == 0 || after >= to {
                return Err(not_valid("list messages by time"));
            }
            let mut made: Vec<_> = state.messages.of(account, None).filter(|m| m.id > after && m.id <= to).collect();
            made.sort_by_key(|message| message.id);
            made.truncate(usize::from(limit));
            Ok(made)
        })
        .await
    }
}

impl KeepCourse for World {
    async fn load_course(&self, account: AccountId) -> Result<Option<Course>, Fault> {
        self.call("load_course", |state| Ok(state.routines.course(account))).await
    }

    async fn save_course(&self, account: AccountId, before: &Course, due: Timestamp) -> Result<bool, Fault> {
        self.call("save_course", |state| Ok(state.routines.move_course(account, before, due))).await
    }
}

impl KeepComparison for World {
    async fn keep_seen(
        &self,
        account: AccountId,
        day: Date,
        page: u32,
        sids: &[String],
        _now: Timestamp,
    ) -> Result<(), Fault> {
        self.call("keep_seen", |state| {
            state.reconciliations.seen.insert((account, day, page), sids.to_vec());
            Ok(())
        })
        .await
    }

    async fn load_seen(&self, account: AccountId, day: Date) -> Result<BTreeSet<String>, Fault> {
        self.call("load_seen", |state| {
            let pages = state.reconciliations.seen.range((account, day, 0)..=(account, day, u32::MAX));
            Ok(pages.flat_map(|(_, sids)| sids.clone()).collect())
        })
        .await
    }

    async fn keep_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        differences: &[Difference],
    ) -> Result<(), Fault> {
        self.call("keep_differences", |state| {
            let one = |it: &Difference| ((account, day, attempt, it.sid.clone()), it.clone());
            state.reconciliations.differences.extend(differences.iter().map(one));
            Ok(())
        })
        .await
    }

    async fn save_report(&self, account: AccountId, report: &Report) -> Result<bool, Fault> {
        self.call("save_report", |state| {
            let reports = &mut state.reconciliations.reports;
            let before = reports.get(&(account, report.day)).map_or(0, |there| there.revision);
            let fits = before + 1 == report.revision;
            if fits {
                reports.insert((account, report.day), report.clone());
            }
            Ok(fits)
        })
        .await
    }
}

impl ReadReports for World {
    async fn load_report(&self, account: AccountId, day: Date) -> Result<Option<Report>, Fault> {
        self.call("load_report", |state| Ok(state.reconciliations.reports.get(&(account, day)).cloned())).await
    }

    async fn list_reports(&self, account: AccountId, before: Option<Date>, limit: u16) -> Result<Vec<Report>, Fault> {
        self.call("list_reports", |state| {
            if limit == 0 {
                return Err(not_valid("list reports"));
            }
            let all = state.reconciliations.reports.range((account, Date::MIN)..=(account, Date::MAX)).rev();
            let all = all.map(|(_, report)| report).filter(|report| before.is_none_or(|before| report.day < before));
            Ok(all.take(usize::from(limit)).cloned().collect())
        })
        .await
    }

    async fn list_differences(
        &self,
        account: AccountId,
        day: Date,
        attempt: u32,
        after: Option<&str>,
        limit: u16,
    ) -> Result<Vec<Difference>, Fault> {
        self.call("list_differences", |state| {
            if limit == 0 {
                return Err(not_valid("list differences"));
            }
            let all = state.reconciliations.differences.range((account, day, attempt, String::new())..);
            let all = all.take_while(|((of, on, by, _), _)| (*of, *on, *by) == (account, day, attempt));
            let all = all.map(|(_, it)| it).filter(|it| after.is_none_or(|after| it.sid.as_str() > after));
            Ok(all.take(usize::from(limit)).cloned().collect())
        })
        .await
    }
}

impl PostCorrection for World {
    async fn post_correction(&self, entry: &Entry) -> Result<bool, Fault> {
        self.call("post_correction", |state| state.ledger.correct(entry)).await
    }
}
