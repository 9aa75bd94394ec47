//! What connected numbers ask of the world.

use jiff::Timestamp;

use super::{CarrierService, Connection, NumberPage, PageMark, Settings, Target, Trouble};
use crate::credential::{Carrier, StoredCredential};
use crate::fault::Fault;
use crate::ids::AccountId;

/// Reads and changes numbers and messaging services at Twilio.
pub trait ConfigureNumbers {
    /// 1 call: a page of the account's numbers.
    fn list_numbers(
        &self,
        carrier: &Carrier,
        limit: u16,
        from: Option<&PageMark>,
    ) -> impl Future<Output = Result<NumberPage, Trouble>> + Send;

    /// 1 call: the account's messaging services, at most `limit`.
    fn list_services(
        &self,
        carrier: &Carrier,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<CarrierService>, Trouble>> + Send;

    /// 1 call: the SIDs of the numbers in a messaging service's pool, at most 1,000.
    fn list_pool(
        &self,
        carrier: &Carrier,
        service: &Target,
    ) -> impl Future<Output = Result<Vec<Target>, Trouble>> + Send;

    /// 1 call: what stands there of the settings that we touch.
    fn read_settings(
        &self,
        carrier: &Carrier,
        target: &Target,
    ) -> impl Future<Output = Result<Settings, Trouble>> + Send;

    /// 1 call: changes these settings and no others; gives what stands there then.
    fn write_settings(
        &self,
        carrier: &Carrier,
        target: &Target,
        settings: &Settings,
    ) -> impl Future<Output = Result<Settings, Trouble>> + Send;
}

/// Whether a connection was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// It is stored.
    Stored,
    /// It was there already, or the credential was replaced or removed meanwhile: load again.
    Raced,
}

/// Stores connections.
pub trait KeepConnections {
    /// One of them.
    fn load_connection(
        &self,
        account: AccountId,
        target: &Target,
    ) -> impl Future<Output = Result<Option<Connection>, Fault>> + Send;

    /// All of an account.
    fn list_connections(&self, account: AccountId) -> impl Future<Output = Result<Vec<Connection>, Fault>> + Send;

    /// A new one, counted in the gate, while this credential is the newest and connected: 1 transaction.
    fn begin_connection(
        &self,
        connection: &Connection,
        credential: &StoredCredential,
        due: Timestamp,
    ) -> impl Future<Output = Result<Begun, Fault>> + Send;

    /// Writes `connection` if its row still has the revision before; `false` if another write came between.
    fn update_connection(
        &self,
        connection: &Connection,
        due: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Removes it if its row still has this revision: 1 transaction with the gate's count.
    fn end_connection(&self, connection: &Connection) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Finds connections that have to be looked at.
pub trait FindDueConnections {
    /// Those whose time has come, earliest first.
    fn find_due_connections(
        &self,
        now: Timestamp,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<(AccountId, Target)>, Fault>> + Send;

    /// Puts off the next look, unless the connection is gone.
    fn look_at_connection_again(
        &self,
        account: AccountId,
        target: &Target,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}
