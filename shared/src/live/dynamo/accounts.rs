//! Accounts, users, mail tokens and sessions in table `accounts`.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use super::keys::{self, Table};
use super::rows::{AllowanceRow, EmailRow, GateRow, KeysRow, MailTokenRow, ProfileRow, PurseRow, SessionRow, UserRow};
use super::{Transacted, blocker, fault, from_item, millis, n, s, to_item};
use crate::account::{
    CreateAccount, EmailIndex, FindUser, Gate, KeepMailTokens, Lift, LiftFreeze, Lifted, LoadGate, MailToken,
    NewAccount, Policy, QuietHours, SavePolicy, SaveZone, SignedUp, Stop, StopSending, Stopped, User,
};
use crate::fault::Fault;
use crate::ids::{AccountId, SessionId, UserId};
use crate::ledger::Zone;
use crate::live::Live;
use crate::seal::Sealed;
use crate::secret::TokenHash;
use crate::session::{KeepSessions, Session};

impl CreateAccount for Live {
    /// 1 transaction of profile, user, gate, data keys, and of purse, allowance, and the first entry with its place in the
    /// journal; and a check of the e-mail index.
    async fn create_account(&self, new: NewAccount) -> Result<SignedUp, Fault> {
        let db = &self.dynamo;
        let account = new.account;
        let email = keys::email(&new.owner.email);
        let (purse, allowance, entry) = new.first_credits();
        let profile = ProfileRow { sealed: new.profile.0, created: new.now.as_millisecond() };
        let (user, gate) = (keys::user(account, new.owner.id), keys::gate(account));
        let mut parts = vec![db.check(&email, "attribute_not_exists(pk)")?];
        let rows = [
            (keys::profile(account), to_item(&keys::profile(account), &profile)?),
            (user.clone(), to_item(&user, &UserRow::from(&new.owner))?),
            (gate.clone(), to_item(&gate, &GateRow::from(&new.gate))?),
            (keys::allowance(account), to_item(&keys::allowance(account), &AllowanceRow::from(&allowance))?),
            (keys::purse(account), to_item(&keys::purse(account), &PurseRow::from(&purse))?),
        ];
        for (key, item) in rows {
            parts.push(db.put_new(&key, item)?);
        }
        parts.extend([db.put_entry(&entry)?, db.put_journal(&entry)?]);
        for wrapped in &new.keys {
            let key = keys::data_keys(account, wrapped.purpose);
            parts.push(db.put_new(&key, to_item(&key, &KeysRow::from(wrapped))?)?);
        }
        match db.transact(parts).await? {
            Transacted::Committed => Ok(SignedUp::Created),
            Transacted::Refused(reasons) => {
                let known = blocker(&reasons, 0).ok_or(Fault::permanent("a new account's id was taken"))?;
                let row: EmailRow = from_item(known)?;
                Ok(SignedUp::Known(row.account, row.user))
            }
        }
    }
}

impl FindUser for Live {
    /// 2 reads, of nobody's user for an unknown address: how long it takes must not tell which addresses are known.
    async fn find_user(&self, email: &EmailIndex) -> Result<Option<User>, Fault> {
        let row = self.dynamo.get::<EmailRow>(&keys::email(email)).await?;
        let (account, user) =
            row.map_or((AccountId::from_bits(0), UserId::from_bits(0)), |row| (row.account, row.user));
        self.load_user(account, user).await
    }

    async fn load_user(&self, account: AccountId, user: UserId) -> Result<Option<User>, Fault> {
        let row = self.dynamo.get::<UserRow>(&keys::user(account, user)).await?;
        Ok(row.map(|row| row.user(account)))
    }

    /// 1 query: ids of users rise with time, and who signed up was the first.
    async fn load_owner(&self, account: AccountId) -> Result<Option<User>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Accounts))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(keys::USERS))
            .consistent_read(true)
            .limit(1)
            .send()
            .await
            .map_err(|error| fault("load owner", &error))?;
        let first = answer.items.unwrap_or_default().into_iter().next();
        first.map(|item| Ok(from_item::<UserRow>(item)?.user(account))).transpose()
    }

    async fn load_profile(&self, account: AccountId) -> Result<Option<Sealed>, Fault> {
        let row = self.dynamo.get::<ProfileRow>(&keys::profile(account)).await?;
        Ok(row.map(|row| Sealed(row.sealed)))
    }
}

impl KeepMailTokens for Live {
    async fn keep_mail_token(&self, token: MailToken) -> Result<(), Fault> {
        let key = keys::mail_token(token.account, &token.hash);
        let row =
            MailTokenRow { user: token.user, expires: token.expires.as_millisecond(), ttl: token.expires.as_second() };
        let item = to_item(&key, &row)?;
        match self.dynamo.transact(vec![self.dynamo.put_new(&key, item)?]).await? {
            Transacted::Committed => Ok(()),
            Transacted::Refused(_) => Err(Fault::permanent("a new token was there already")),
        }
    }

    /// 2 reads, and 1 transaction if the token counts.
    async fn confirm_email(&self, account: AccountId, token: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let key = keys::mail_token(account, token);
        let Some(row) = db.get::<MailTokenRow>(&key).await? else { return Ok(false) };
        let Some(user) = self.load_user(account, row.user).await? else { return Ok(false) };
        let email = keys::email(&user.email);
        let claim = to_item(&email, &EmailRow { account, user: user.id })?;
        let parts = vec![
            db.delete(&key, "attribute_exists(pk) AND expires > :now", &[(":now", millis(now))])?,
            db.put(&email, claim, "attribute_not_exists(pk) OR account = :me", &[(":me", s(account.to_string()))])?,
            db.update(
                &keys::user(account, row.user),
                "SET verified = :yes",
                "attribute_exists(pk)",
                &[(":yes", AttributeValue::Bool(true))],
            )?,
        ];
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

impl KeepSessions for Live {
    async fn start_session(&self, session: Session) -> Result<(), Fault> {
        let key = keys::session(session.account, &session.hash);
        let item = to_item(&key, &SessionRow::from(&session))?;
        match self.dynamo.transact(vec![self.dynamo.put_new(&key, item)?]).await? {
            Transacted::Committed => Ok(()),
            Transacted::Refused(_) => Err(Fault::permanent("a new session's token was there already")),
        }
    }

    async fn load_session(&self, account: AccountId, hash: &TokenHash) -> Result<Option<Session>, Fault> {
        let row = self.dynamo.get::<SessionRow>(&keys::session(account, hash)).await?;
        row.map(|row| row.session(account)).transpose()
    }

    async fn touch_session(&self, account: AccountId, hash: &TokenHash, now: Timestamp) -> Result<bool, Fault> {
        let key = keys::session(account, hash);
        let touched = self
            .dynamo
            .update_one(&key, "SET seen = :now", "attribute_exists(pk) AND seen <= :now", &[(":now", millis(now))])
            .await;
        // A later call may have touched it first: then it is there, and alive.
        Ok(match touched? {
            Ok(_) => true,
            Err(item) => item.is_some(),
        })
    }

    async fn list_sessions(&self, account: AccountId, now: Timestamp) -> Result<Vec<Session>, Fault> {
        let mut sessions = self.all_sessions(account).await?;
        sessions.retain(|session| session.alive(now));
        sessions.sort_by_key(|session| std::cmp::Reverse(session.started));
        Ok(sessions)
    }

    /// 1 query, and 1 delete.
    async fn end_session(&self, account: AccountId, session: SessionId) -> Result<bool, Fault> {
        let found = self.all_sessions(account).await?.into_iter().find(|found| found.id == session);
        let Some(found) = found else { return Ok(false) };
        let key = keys::session(account, &found.hash);
        self.dynamo
            .client()?
            .delete_item()
            .table_name(self.dynamo.name(key.table))
            .set_key(Some(key.attributes()))
            .send()
            .await
            .map_err(|error| fault("end session", &error))?;
        Ok(true)
    }
}

impl Live {
    /// Every stored session of an account, ended or not: 1 query for each megabyte of them.
    async fn all_sessions(&self, account: AccountId) -> Result<Vec<Session>, Fault> {
        let db = &self.dynamo;
        let mut sessions = Vec::new();
        let mut start = None;
        loop {
            let answer = db
                .client()?
                .query()
                .table_name(db.name(Table::Accounts))
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":pk", s(account.to_string()))
                .expression_attribute_values(":sk", s(keys::SESSIONS))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| fault("list sessions", &error))?;
            for item in answer.items.unwrap_or_default() {
                sessions.push(from_item::<SessionRow>(item)?.session(account)?);
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(sessions);
            }
        }
    }
}

impl LoadGate for Live {
    async fn load_gate(&self, account: AccountId) -> Result<Option<Gate>, Fault> {
        self.dynamo.get::<GateRow>(&keys::gate(account)).await?.map(Gate::try_from).transpose()
    }
}

impl StopSending for Live {
    async fn stop_sending(
        &self,
        account: AccountId,
        stop: Stop,
        credential_version: u32,
        now: Timestamp,
    ) -> Result<Stopped, Fault> {
        let db = &self.dynamo;
        let key = keys::gate(account);
        let (yes, no) = ((":yes", AttributeValue::Bool(true)), (":no", AttributeValue::Bool(false)));
        let changed = match stop {
            // A refusal of a credential that was replaced meanwhile says nothing about the new one.
            Stop::CredentialRefused => {
                let condition = "credential_version = :version AND \
                    (attribute_not_exists(credential_refused) OR credential_refused = :no)";
                let values = [yes, no, (":version", n(credential_version)), (":now", millis(now))];
                let set = "SET credential_refused = :yes, refusal_untold = :now";
                db.update_one(&key, set, condition, &values).await?
            }
            Stop::Frozen(reason) => {
                let set = "SET frozen = :yes, frozen_reason = :reason, frozen_since = :now, freeze_untold = :yes";
                let condition = "attribute_exists(pk) AND (attribute_not_exists(frozen) OR frozen = :no)";
                let values = [yes, no, (":reason", s(reason.as_str())), (":now", millis(now))];
                db.update_one(&key, set, condition, &values).await?
            }
        };
        Ok(match changed {
            Ok(_) => Stopped::Now,
            // Also what the SDK meets that repeats a write whose answer was lost: the owner is told a little later.
            Err(Some(item)) if stop == Stop::CredentialRefused && item.contains_key("refusal_untold") => {
                Stopped::Untold
            }
            Err(_) => Stopped::Unchanged,
        })
    }

    async fn stop_told(&self, account: AccountId, stop: Stop, since: Timestamp) -> Result<(), Fault> {
        let (told, of_that_time) = match stop {
            Stop::CredentialRefused => ("REMOVE refusal_untold", "refusal_untold = :since"),
            Stop::Frozen(_) => ("REMOVE freeze_untold", "frozen_since = :since"),
        };
        let (key, since) = (keys::gate(account), [(":since", millis(since))]);
        self.dynamo.update_one(&key, told, of_that_time, &since).await.map(|_| ())
    }
}

impl SavePolicy for Live {
    async fn save_policy(&self, account: AccountId, policy: &Policy) -> Result<Option<Gate>, Fault> {
        // Only what the policy is about is named here: a freeze of the same moment stays.
        let mut expression = "SET countries = :countries, daily_ceiling = :ceiling, sender_rates = :rates".to_owned();
        let countries = policy.countries.iter().map(|country| s(country.as_str())).collect();
        let rates = policy.sender_rates.iter().map(|(own, rate)| (own.clone(), n(rate))).collect();
        let mut values = vec![
            (":countries", AttributeValue::L(countries)),
            (":ceiling", n(policy.daily_ceiling)),
            (":rates", AttributeValue::M(rates)),
        ];
        match policy.quiet_hours {
            Some(QuietHours { from, to }) => {
                let hours = [("from".to_owned(), s(from)), ("to".to_owned(), s(to))];
                expression.push_str(", quiet_hours = :quiet");
                values.push((":quiet", AttributeValue::M(hours.into_iter().collect())));
            }
            None => expression.push_str(" REMOVE quiet_hours"),
        }
        let saved = self.dynamo.update_one(&keys::gate(account), &expression, "attribute_exists(pk)", &values).await?;
        saved.ok().map(|item| from_item::<GateRow>(item)?.try_into()).transpose()
    }
}

impl SaveZone for Live {
    async fn save_zone(&self, account: AccountId, zone: &Zone) -> Result<Option<Gate>, Fault> {
        let values = [(":zone", s(zone.as_str()))];
        let condition = "attribute_exists(pk)";
        let saved = self.dynamo.update_one(&keys::gate(account), "SET #zone = :zone", condition, &values).await?;
        saved.ok().map(|item| from_item::<GateRow>(item)?.try_into()).transpose()
    }
}

impl LiftFreeze for Live {
    async fn lift_freeze(
        &self,
        account: AccountId,
        seen: Timestamp,
        by: UserId,
        now: Timestamp,
    ) -> Result<Lift, Fault> {
        let lifted = Lifted { at: now, by };
        // Rows that were frozen before times were stored read as of 1970.
        let of_no_time = if seen == Timestamp::UNIX_EPOCH { " OR attribute_not_exists(frozen_since)" } else { "" };
        let values = [
            (":yes", AttributeValue::Bool(true)),
            (":no", AttributeValue::Bool(false)),
            (":seen", millis(seen)),
            (":now", millis(now)),
            (":by", s(by.to_string())),
        ];
        let done = self
            .dynamo
            .update_one(
                &keys::gate(account),
                "SET frozen = :no, lifted_at = :now, lifted_by = :by REMOVE frozen_reason, frozen_since, freeze_untold",
                &format!("frozen = :yes AND (frozen_since = :seen{of_no_time})"),
                &values,
            )
            .await?;
        let gate = match done {
            Ok(_) => return Ok(Lift::Done),
            Err(None) => return Ok(Lift::NotFrozen),
            Err(Some(item)) => Gate::try_from(from_item::<GateRow>(item)?)?,
        };
        Ok(match gate.frozen {
            Some(freeze) => Lift::Other(freeze),
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            None if gate.lifted == Some(lifted) => Lift::Done,
            None => Lift::NotFrozen,
        })
    }
}
