//! Routines of connected accounts.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::{World, dump, not_valid};
use crate::credential::StoredCredential;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::reconciliation::Course;
use crate::routine::{CallSelf, FindDueRoutines, KeepProgress, Progress, Routine, SelfCall};

#[derive(Default)]
pub(super) struct Routines {
    /// Calls to our own address, and what is answered next; nothing said is 204.
    self_calls: Vec<SelfCall>,
    self_answers_at: BTreeMap<String, VecDeque<Option<u16>>>,
    self_answers: VecDeque<Option<u16>>,
    due: BTreeMap<(AccountId, Routine), Timestamp>,
    progress: BTreeMap<AccountId, Progress>,
    courses: BTreeMap<AccountId, Course>,
}

impl Routines {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.due);
        dump(bytes, &self.progress);
        dump(bytes, &self.courses);
    }

    /// Something was connected: what is there goes on, of another Twilio account it begins anew.
    pub(super) fn begin(&mut self, stored: &StoredCredential, another: bool) {
        let (account, since) = (stored.account, stored.connected_at);
        for routine in Routine::ALL {
            let first = since + routine.every();
            let due = self.due.entry((account, routine)).or_insert(first);
            if another && routine != Routine::SelfTest {
                *due = first;
            }
        }
        let course = self.courses.entry(account).or_insert(Course::new(since));
        if another {
            *course = Course::new(since);
        }
        let before = self.progress.get(&account).map(|before| before.revision);
        match before {
            None => drop(self.progress.insert(account, Progress::new(since))),
            Some(revision) if another => {
                self.progress.insert(account, Progress { revision: revision + 1, ..Progress::new(since) });
            }
            Some(_) => {}
        }
    }

    pub(super) fn end(&mut self, account: AccountId) {
        self.due.retain(|(owner, _), _| *owner != account);
        self.progress.remove(&account);
        self.courses.remove(&account);
    }

    pub(super) fn course(&self, account: AccountId) -> Option<Course> {
        self.courses.get(&account).cloned()
    }

    pub(super) fn move_course(&mut self, account: AccountId, before: &Course, due: Timestamp) -> bool {
        let Some(course) = self.courses.get_mut(&account).filter(|there| *there == before) else { return false };
        *course = before.after();
        self.due.insert((account, Routine::Reconciliation), due);
        true
    }
}

impl World {
    /// When a routine is done next; `None` if nothing is connected.
    pub fn routine_due(&self, account: AccountId, routine: Routine) -> Option<Timestamp> {
        self.state().routines.due.get(&(account, routine)).copied()
    }
}

impl World {
    /// The next call to our own address gets this answer.
    pub fn answer_self_next(&self, status: Option<u16>) {
        self.state().routines.self_answers.push_back(status);
    }

    /// The next calls to one of our own addresses get these answers.
    pub fn answer_self_at(&self, origin: &str, statuses: &[Option<u16>]) {
        self.state().routines.self_answers_at.entry(origin.to_owned()).or_default().extend(statuses);
    }

    /// Every call to our own address.
    pub fn self_calls(&self) -> Vec<SelfCall> {
        self.state().routines.self_calls.clone()
    }
}

impl CallSelf for World {
    async fn call_self(&self, call: &SelfCall) -> Option<u16> {
        let answer = self.call("call_self", |state| {
            state.routines.self_calls.push(call.clone());
            let at = state.routines.self_answers_at.get_mut(&call.origin).and_then(VecDeque::pop_front);
            Ok(at.or_else(|| state.routines.self_answers.pop_front()).unwrap_or(Some(204)))
        });
        answer.await.unwrap_or(None)
    }
}

impl FindDueRoutines for World {
    async fn find_due_routines(&self, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, Routine)>, Fault> {
        self.call("find_due_routines", |state| {
            if limit == 0 {
                return Err(not_valid("find due routines"));
            }
            let waiting = state.routines.due.iter().filter(|(_, at)| **at <= now);
            let mut due: Vec<_> = waiting.map(|(key, at)| (*at, *key)).collect();
            due.sort();
            Ok(due.into_iter().map(|(_, key)| key).take(usize::from(limit)).collect())
        })
        .await
    }

    async fn do_routine_at(&self, account: AccountId, routine: Routine, at: Timestamp) -> Result<(), Fault> {
        self.call("do_routine_at", |state| {
            if let Some(due) = state.routines.due.get_mut(&(account, routine)) {
                *due = at;
            }
            Ok(())
        })
        .await
    }
}

impl KeepProgress for World {
    async fn load_progress(&self, account: AccountId) -> Result<Option<Progress>, Fault> {
        self.call("load_progress", |state| Ok(state.routines.progress.get(&account).cloned())).await
    }

    async fn save_progress(&self, account: AccountId, progress: &Progress, due: Timestamp) -> Result<bool, Fault> {
        self.call("save_progress", |state| {
            let routines = &mut state.routines;
            let Some(row) = routines.progress.get_mut(&account) else { return Ok(false) };
            if row.revision + 1 != progress.revision {
                return Ok(false);
            }
            let connected_since = row.connected_since;
            *row = Progress { connected_since, ..progress.clone() };
            routines.due.insert((account, Routine::Arrivals), due);
            Ok(true)
        })
        .await
    }
}
