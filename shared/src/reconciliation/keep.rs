//! Posting what a comparison found: decided and written page by page, each correction once.

use std::collections::BTreeMap;

use super::{Difference, PostCorrection, ReadCharges, ReadReports, Report, correction};
use crate::account::LoadGate;
use crate::fault::Fault;
use crate::ids::{AccountId, EntryId};
use crate::platform::{Chance, Clock};

/// Differences of one page.
const PAGE: u16 = 50;

/// Posts a page of a report's differences, after the SID `after`: how many are posted now or were before, and the SID
/// behind which the next page begins; `None`: there are no more. 3 reads, and 1 transaction for each.
pub async fn post_differences<W>(
    world: &W,
    account: AccountId,
    report: &Report,
    after: Option<&str>,
) -> Result<(u64, Option<String>), Fault>
where
    W: ReadReports + ReadCharges + PostCorrection + LoadGate + Clock + Chance,
{
    let found = world.list_differences(account, report.day, report.attempt, after, PAGE).await?;
    if found.is_empty() {
        return Ok((0, None));
    }
    let zone = world.load_gate(account).await?.ok_or(Fault::permanent("the account has no gate"))?.zone;
    let sids = found.iter().map(|difference| difference.sid.clone()).collect();
    let charges = world.load_charges(account, sids).await?;
    let charges: BTreeMap<_, _> = charges.into_iter().map(|charge| (charge.sid.clone(), charge)).collect();
    for difference in &found {
        let Difference { sid, .. } = difference;
        let charge = charges.get(sid).ok_or(Fault::permanent("a difference has no charge"))?;
        let now = world.now();
        let entry = correction(EntryId::new(now, world.dice()?), charge, difference, report.day, now, &zone);
        if world.post_correction(&entry).await? {
            tracing::info!(account.id = %account, sid, credits = difference.credits.0, "a charge was put right");
        }
    }
    let more = found.len() == usize::from(PAGE);
    let last = found.last().filter(|_| more).map(|difference| difference.sid.clone());
    Ok((u64::try_from(found.len()).unwrap_or(u64::MAX), last))
}
