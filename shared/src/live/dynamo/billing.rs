//! What accounts have at Stripe, in table `accounts`: a row for each account, and one that finds the account of a
//! customer.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Transacted, blocker, from_item, keys, millis, n, to_item};
use crate::billing::{ApplyStanding, Billing, EVENTS_LIFE, KeepBilling, RememberEvents, Standing, StripeId};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;

#[derive(Serialize, Deserialize)]
struct BillingRow {
    customer: StripeId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    standing: Option<Standing>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    read_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct CustomerRow {
    account: AccountId,
}

#[derive(Deserialize)]
struct AppliedRow {
    applied_at: i64,
}

impl RememberEvents for Live {
    async fn is_applied(&self, event: &StripeId, now: Timestamp) -> Result<bool, Fault> {
        let row = self.dynamo.get::<AppliedRow>(&keys::stripe_event(event)).await?;
        // TTL removes late: the time counts.
        Ok(row.is_some_and(|row| now.as_millisecond().saturating_sub(row.applied_at) < EVENTS_LIFE.as_secs() * 1_000))
    }

    /// 1 update; who is first stays.
    async fn note_applied(&self, event: &StripeId, now: Timestamp) -> Result<(), Fault> {
        let values = [(":now", millis(now)), (":ends", n((now + EVENTS_LIFE).as_second())), (":v", n(1))];
        let set = "SET applied_at = :now, #ttl = :ends, v = :v";
        let key = keys::stripe_event(event);
        self.dynamo.update_one(&key, set, "attribute_not_exists(pk) OR applied_at < :now", &values).await.map(|_| ())
    }
}

impl KeepBilling for Live {
    async fn load_billing(&self, account: AccountId) -> Result<Option<Billing>, Fault> {
        let row = self.dynamo.get::<BillingRow>(&keys::billing(account)).await?;
        let Some(row) = row else { return Ok(None) };
        let at = |ms| Timestamp::from_millisecond(ms).map_err(|_| Fault::permanent("a stored time does not read"));
        let read = row.read_at.map(at).transpose()?;
        Ok(Some(Billing { customer: row.customer, standing: row.standing, read }))
    }

    /// 1 transaction of 2 items.
    async fn keep_customer(&self, account: AccountId, customer: &StripeId) -> Result<StripeId, Fault> {
        let (db, of_account, of_customer) = (&self.dynamo, keys::billing(account), keys::stripe_customer(customer));
        let row = BillingRow { customer: customer.clone(), standing: None, read_at: None };
        let parts = vec![
            db.put_new(&of_account, to_item(&of_account, &row)?)?,
            db.put_new(&of_customer, to_item(&of_customer, &CustomerRow { account })?)?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(customer.clone()),
            Transacted::Refused(reasons) => match blocker(&reasons, 0) {
                // The account has one: another request was first, or this one's answer was lost.
                Some(item) => Ok(from_item::<BillingRow>(item)?.customer),
                None => Err(Fault::permanent("a customer of Stripe's is another account's")),
            },
        }
    }
}

impl ApplyStanding for Live {
    async fn find_customer(&self, customer: &StripeId) -> Result<Option<AccountId>, Fault> {
        let row = self.dynamo.get::<CustomerRow>(&keys::stripe_customer(customer)).await?;
        Ok(row.map(|row| row.account))
    }

    /// 1 conditional update.
    async fn save_standing(
        &self,
        account: AccountId,
        standing: &Standing,
        read: Timestamp,
        before: Option<Timestamp>,
    ) -> Result<bool, Fault> {
        let standing = serde_dynamo::to_attribute_value(standing);
        let standing = standing.map_err(|_| Fault::permanent("a standing did not serialize"))?;
        let mut values = vec![(":standing", standing), (":read", millis(read))];
        let condition = match before {
            Some(before) => {
                values.push((":before", millis(before)));
                "attribute_exists(pk) AND read_at = :before"
            }
            None => "attribute_exists(pk) AND attribute_not_exists(read_at)",
        };
        let set = "SET standing = :standing, read_at = :read";
        let saved = self.dynamo.update_one(&keys::billing(account), set, condition, &values).await?;
        Ok(saved.is_ok())
    }
}
