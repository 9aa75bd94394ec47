//! Connected numbers in table `messages`; the gate counts them.

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, CONNECTIONS, Key, Table};
use super::{Item, Transacted, blocker, fault, from_item, millis, n, s, text, to_item};
use crate::connection::{Begun, Connection, FindDueConnections, KeepConnections, State, Target};
use crate::credential::StoredCredential;
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::live::Live;
use crate::seal::Sealed;

/// The shard of the due index that connections are in: four writes a day for each need no more than one.
const DUE: &str = "due#numbers";

#[derive(Serialize, Deserialize)]
struct ConnectionRow {
    state: State,
    #[serde(with = "super::rows::binary")]
    snapshot: Vec<u8>,
    revision: u32,
    since: i64,
    seen: i64,
}

impl From<&Connection> for ConnectionRow {
    fn from(connection: &Connection) -> Self {
        Self {
            state: connection.state,
            snapshot: connection.snapshot.0.clone(),
            revision: connection.revision,
            since: connection.since.as_millisecond(),
            seen: connection.seen.as_millisecond(),
        }
    }
}

fn connection(item: Item) -> Result<Connection, Fault> {
    let damaged = || Fault::permanent("a stored connection does not read");
    let (account, target) = keys::parse_connection(&text(&item, "pk")?, &text(&item, "sk")?).ok_or_else(damaged)?;
    let row: ConnectionRow = from_item(item)?;
    let at = |ms| Timestamp::from_millisecond(ms).map_err(|_| damaged());
    Ok(Connection {
        account,
        target,
        state: row.state,
        snapshot: Sealed(row.snapshot),
        revision: row.revision,
        since: at(row.since)?,
        seen: at(row.seen)?,
    })
}

fn item(key: &Key, connection: &Connection, due: Timestamp) -> Result<Item, Fault> {
    let mut item = to_item(key, &ConnectionRow::from(connection))?;
    item.insert("due_shard".to_owned(), s(DUE));
    item.insert("due_at".to_owned(), millis(due));
    Ok(item)
}

impl KeepConnections for Live {
    async fn load_connection(&self, account: AccountId, target: &Target) -> Result<Option<Connection>, Fault> {
        let key = keys::connection(account, target);
        let mut found = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        found.remove(&key).map(connection).transpose()
    }

    async fn list_connections(&self, account: AccountId) -> Result<Vec<Connection>, Fault> {
        let db = &self.dynamo;
        let mut connections = Vec::new();
        let mut start = None;
        loop {
            let answer = db
                .client()?
                .query()
                .table_name(db.name(Table::Messages))
                .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
                .expression_attribute_values(":pk", s(account.to_string()))
                .expression_attribute_values(":sk", s(CONNECTIONS))
                .consistent_read(true)
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| fault("list connections", &error))?;
            for found in answer.items.unwrap_or_default() {
                connections.push(connection(found)?);
            }
            start = answer.last_evaluated_key;
            if start.is_none() {
                return Ok(connections);
            }
        }
    }

    async fn begin_connection(
        &self,
        new: &Connection,
        credential: &StoredCredential,
        due: Timestamp,
    ) -> Result<Begun, Fault> {
        let db = &self.dynamo;
        let key = keys::connection(new.account, &new.target);
        let parts = vec![
            db.put_new(&key, item(&key, new, due)?)?,
            db.update(
                &keys::gate(new.account),
                "ADD numbers :one",
                "connected = :yes AND credential_version = :version",
                &[(":one", n(1)), (":yes", AttributeValue::Bool(true)), (":version", n(credential.version))],
            )?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(Begun::Stored),
            // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
            Transacted::Refused(reasons) => match blocker(&reasons, 0).map(connection).transpose()? {
                Some(there) if there == *new => Ok(Begun::Stored),
                _ => Ok(Begun::Raced),
            },
        }
    }

    async fn update_connection(&self, new: &Connection, due: Timestamp) -> Result<bool, Fault> {
        let key = keys::connection(new.account, &new.target);
        let before = new.revision.saturating_sub(1);
        let put = self.dynamo.put(&key, item(&key, new, due)?, "revision = :before", &[(":before", n(before))])?;
        match self.dynamo.transact(vec![put]).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) => {
                let there = blocker(&reasons, 0).filter(|item| !item.is_empty()).map(connection).transpose()?;
                Ok(there.is_some_and(|there| there == *new))
            }
        }
    }

    async fn end_connection(&self, connection: &Connection) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let key = keys::connection(connection.account, &connection.target);
        let parts = vec![
            db.delete(&key, "revision = :revision", &[(":revision", n(connection.revision))])?,
            db.update(
                &keys::gate(connection.account),
                "SET numbers = numbers - :one",
                "numbers >= :one",
                &[(":one", n(1))],
            )?,
        ];
        Ok(matches!(db.transact(parts).await?, Transacted::Committed))
    }
}

impl FindDueConnections for Live {
    /// 1 query.
    async fn find_due_connections(&self, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, Target)>, Fault> {
        self.dynamo.query_due(Table::Messages, s(DUE), now, limit, keys::parse_connection).await
    }

    async fn look_at_connection_again(&self, account: AccountId, target: &Target, at: Timestamp) -> Result<(), Fault> {
        let moved = self
            .dynamo
            .update_one(
                &keys::connection(account, target),
                "SET due_at = :at",
                "attribute_exists(due_at)",
                &[(":at", millis(at))],
            )
            .await;
        moved.map(|_| ())
    }
}
