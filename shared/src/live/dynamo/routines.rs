//! Routines of connected accounts in table `messages`, in a shard of the due index of their own.

use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::keys::{self, Table};
use super::{Dynamo, millis, n, s};
use crate::connection::PageMark;
use crate::credential::StoredCredential;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::reconciliation::{Course, KeepCourse};
use crate::routine::{FindDueRoutines, KeepProgress, OpenLook, Progress, Routine};

/// The shard of the due index that they are in: few writes an hour for each account need no more than one.
const DUE: &str = "due#routines";

#[derive(Deserialize)]
struct ProgressRow {
    connected_since: i64,
    looked: i64,
    begun: Option<i64>,
    next_page: Option<String>,
    revision: u32,
}

#[derive(Deserialize)]
struct CourseRow {
    connected_since: i64,
    next_day: Date,
}

impl Dynamo {
    /// With the transaction that stores a credential: what is there goes on, of another Twilio account it begins anew.
    pub(super) fn begin_routines(
        &self,
        stored: &StoredCredential,
        another: bool,
    ) -> Result<Vec<TransactWriteItem>, Fault> {
        let (db, since) = (self, stored.connected_at);
        let mut parts = Vec::new();
        for routine in Routine::ALL {
            let due = (":due", millis(since + routine.every()));
            let mut values = vec![(":shard", s(DUE)), due];
            match routine {
                Routine::Arrivals => values.extend([(":since", millis(since)), (":none", n(0))]),
                Routine::Reconciliation => {
                    values.extend([(":since", millis(since)), (":day", s(Course::new(since).day.to_string()))]);
                }
                Routine::SelfTest => {}
            }
            let expression = match (routine, another) {
                (Routine::Arrivals, false) => {
                    "SET due_shard = :shard, due_at = if_not_exists(due_at, :due), \
                     connected_since = if_not_exists(connected_since, :since), \
                     looked = if_not_exists(looked, :since), revision = if_not_exists(revision, :none)"
                }
                // A look that is under way at the Twilio account before must not count for this one: its revision is
                // refused.
                (Routine::Arrivals, true) => {
                    values.push((":one", n(1)));
                    "SET due_shard = :shard, due_at = :due, connected_since = :since, looked = :since, \
                     revision = if_not_exists(revision, :none) + :one REMOVE begun, next_page"
                }
                (Routine::Reconciliation, false) => {
                    "SET due_shard = :shard, due_at = if_not_exists(due_at, :due), \
                     connected_since = if_not_exists(connected_since, :since), \
                     next_day = if_not_exists(next_day, :day)"
                }
                (Routine::Reconciliation, true) => {
                    "SET due_shard = :shard, due_at = :due, connected_since = :since, next_day = :day"
                }
                (Routine::SelfTest, _) => "SET due_shard = :shard, due_at = if_not_exists(due_at, :due)",
            };
            let key = keys::routine(stored.account, routine);
            parts.push(db.update(&key, expression, ALWAYS, &values)?);
        }
        Ok(parts)
    }

    /// With the transaction that removes a credential.
    pub(super) fn end_routines(&self, account: AccountId) -> Result<Vec<TransactWriteItem>, Fault> {
        let db = self;
        Routine::ALL.into_iter().map(|routine| db.delete(&keys::routine(account, routine), ALWAYS, &[])).collect()
    }
}

const ALWAYS: &str = "attribute_not_exists(pk) OR attribute_exists(pk)";

fn progress(row: ProgressRow) -> Result<Progress, Fault> {
    let damaged = || Fault::permanent("a stored progress does not read");
    let at = |ms| Timestamp::from_millisecond(ms).map_err(|_| damaged());
    let open = match (row.begun, row.next_page) {
        (Some(begun), Some(next)) => {
            Some(OpenLook { begun: at(begun)?, next: PageMark::parse(&next).ok_or_else(damaged)? })
        }
        _ => None,
    };
    Ok(Progress { connected_since: at(row.connected_since)?, looked: at(row.looked)?, open, revision: row.revision })
}

impl FindDueRoutines for Live {
    /// 1 query.
    async fn find_due_routines(&self, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, Routine)>, Fault> {
        self.dynamo.query_due(Table::Messages, s(DUE), now, limit, keys::parse_routine).await
    }

    async fn do_routine_at(&self, account: AccountId, routine: Routine, at: Timestamp) -> Result<(), Fault> {
        let key = keys::routine(account, routine);
        let moved =
            self.dynamo.update_one(&key, "SET due_at = :at", "attribute_exists(due_at)", &[(":at", millis(at))]).await;
        moved.map(|_| ())
    }
}

impl KeepProgress for Live {
    async fn load_progress(&self, account: AccountId) -> Result<Option<Progress>, Fault> {
        let row = self.dynamo.get::<ProgressRow>(&keys::routine(account, Routine::Arrivals)).await?;
        row.map(progress).transpose()
    }

    async fn save_progress(&self, account: AccountId, progress: &Progress, due: Timestamp) -> Result<bool, Fault> {
        let mut values: Vec<(&str, AttributeValue)> = vec![
            (":looked", millis(progress.looked)),
            (":revision", n(progress.revision)),
            (":before", n(progress.revision.saturating_sub(1))),
            (":due", millis(due)),
        ];
        let expression = if let Some(open) = &progress.open {
            values.extend([(":begun", millis(open.begun)), (":next", s(open.next.cursor()))]);
            "SET looked = :looked, revision = :revision, due_at = :due, begun = :begun, next_page = :next"
        } else {
            "SET looked = :looked, revision = :revision, due_at = :due REMOVE begun, next_page"
        };
        let key = keys::routine(account, Routine::Arrivals);
        Ok(self.dynamo.update_one(&key, expression, "revision = :before", &values).await?.is_ok())
    }
}

impl KeepCourse for Live {
    async fn load_course(&self, account: AccountId) -> Result<Option<Course>, Fault> {
        let row = self.dynamo.get::<CourseRow>(&keys::routine(account, Routine::Reconciliation)).await?;
        let damaged = |_| Fault::permanent("a stored course does not read");
        let course = |row: CourseRow| {
            let connected_since = Timestamp::from_millisecond(row.connected_since).map_err(damaged)?;
            Ok(Course { connected_since, day: row.next_day })
        };
        row.map(course).transpose()
    }

    async fn save_course(&self, account: AccountId, before: &Course, due: Timestamp) -> Result<bool, Fault> {
        let values = [
            (":since", millis(before.connected_since)),
            (":before", s(before.day.to_string())),
            (":after", s(before.after().day.to_string())),
            (":due", millis(due)),
        ];
        let key = keys::routine(account, Routine::Reconciliation);
        let condition = "connected_since = :since AND next_day = :before";
        let moved = self.dynamo.update_one(&key, "SET next_day = :after, due_at = :due", condition, &values).await;
        Ok(moved?.is_ok())
    }
}
