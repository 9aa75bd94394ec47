//! Connected numbers, and the numbers and messaging services that Twilio has.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;

use super::{State, TwilioView, World, dump};
use crate::connection::{
    Begun, Capabilities, CarrierNumber, CarrierService, ConfigureNumbers, Connection, FindDueConnections,
    KeepConnections, NumberPage, PageMark, Settings, Target, TargetKind, Trouble,
};
use crate::credential::{Carrier, StoredCredential};
use crate::fault::Fault;
use crate::ids::AccountId;

/// A number or a messaging service at Twilio.
#[derive(Debug, Clone)]
struct AtCarrier {
    account_sid: String,
    label: String,
    settings: Settings,
    /// The messaging service whose pool a number is in.
    pool: Option<Target>,
}

#[derive(Default)]
pub(super) struct Connections {
    rows: BTreeMap<(AccountId, Target), (Connection, Timestamp)>,
    at_carrier: BTreeMap<Target, AtCarrier>,
    /// What Twilio says next in place of doing what was asked.
    troubles: VecDeque<Option<Trouble>>,
    writes: u32,
}

impl Connections {
    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        dump(bytes, &self.rows);
        for (row, _) in self.rows.values() {
            bytes.extend(&row.snapshot.0);
        }
    }

    fn find(&mut self, carrier: &Carrier, target: &Target) -> Result<&mut AtCarrier, Trouble> {
        let found = self.at_carrier.get_mut(target);
        found.filter(|found| found.account_sid == carrier.account_sid.as_str()).ok_or(Trouble::NotFound)
    }

    fn of<'s>(&'s self, carrier: &Carrier, kind: TargetKind) -> impl Iterator<Item = (&'s Target, &'s AtCarrier)> {
        let account_sid = carrier.account_sid.as_str().to_owned();
        let mine = move |(target, one): &(&Target, &AtCarrier)| target.kind() == kind && one.account_sid == account_sid;
        self.at_carrier.iter().filter(mine)
    }
}

impl TwilioView<'_> {
    /// A number (its label is the number itself) or a messaging service of a Twilio account.
    pub fn add_target(&self, account_sid: &str, target: &Target, label: &str, settings: Settings) {
        let (account_sid, label) = (account_sid.to_owned(), label.to_owned());
        let one = AtCarrier { account_sid, label, settings, pool: None };
        self.world.state().connections.at_carrier.insert(target.clone(), one);
    }

    /// Puts a number into a messaging service's pool.
    pub fn put_into_pool(&self, number: &Target, service: &Target) {
        let mut state = self.world.state();
        state.connections.at_carrier.get_mut(number).expect("Twilio has the number").pool = Some(service.clone());
    }

    /// What stands there; `None` if Twilio has no such number.
    pub fn settings_of(&self, target: &Target) -> Option<Settings> {
        self.world.state().connections.at_carrier.get(target).map(|found| found.settings.clone())
    }

    /// Changes a setting as the customer could in the Console.
    pub fn change_setting(&self, target: &Target, name: &str, value: &str) {
        let mut state = self.world.state();
        let found = state.connections.at_carrier.get_mut(target).expect("Twilio has it");
        found.settings.0.insert(name.to_owned(), value.to_owned());
    }

    /// The number is given up at Twilio.
    pub fn remove_target(&self, target: &Target) {
        self.world.state().connections.at_carrier.remove(target);
    }

    /// The next call about numbers, or the next list of messages, gets this answer and does nothing.
    pub fn trouble_next(&self, trouble: Trouble) {
        self.world.state().connections.troubles.push_back(Some(trouble));
    }

    /// The next call about numbers does what was asked; what was said of later ones waits.
    pub fn no_trouble_next(&self) {
        self.world.state().connections.troubles.push_back(None);
    }

    /// How often settings were written.
    pub fn writes(&self) -> u32 {
        self.world.state().connections.writes
    }
}

impl World {
    /// An account's connections.
    pub fn connections_of(&self, account: AccountId) -> Vec<Connection> {
        let state = self.state();
        let rows = state.connections.rows.iter().filter(|((owner, _), _)| *owner == account);
        rows.map(|(_, (row, _))| row.clone()).collect()
    }

    /// When a connection is looked at next.
    pub fn due_of(&self, account: AccountId, target: &Target) -> Option<Timestamp> {
        self.state().connections.rows.get(&(account, target.clone())).map(|(_, due)| *due)
    }

    /// One call to Twilio about numbers or lists; a planned fault is no answer.
    pub(super) async fn ask<T: Send>(
        &self,
        method: &'static str,
        act: impl FnOnce(&mut State) -> Result<T, Trouble> + Send,
    ) -> Result<T, Trouble> {
        let answer = self.call(method, |state| {
            Ok(match state.connections.troubles.pop_front().flatten() {
                Some(trouble) => Err(trouble),
                None => act(state),
            })
        });
        answer.await.unwrap_or(Err(Trouble::Unreachable))
    }
}

impl ConfigureNumbers for World {
    async fn list_numbers(
        &self,
        carrier: &Carrier,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<NumberPage, Trouble> {
        self.ask("list_numbers", |state| {
            let skip = from.map_or(0, |mark| usize::try_from(mark.page).unwrap()) * usize::from(limit);
            let all: Vec<_> = state.connections.of(carrier, TargetKind::Number).collect();
            let number = |(target, one): &(&Target, &AtCarrier)| CarrierNumber {
                target: (*target).clone(),
                phone_number: one.label.clone(),
                friendly_name: one.label.clone(),
                capabilities: Capabilities { sms: true, mms: true, voice: true },
                settings: one.settings.clone(),
            };
            let numbers: Vec<_> = all.iter().skip(skip).take(usize::from(limit)).map(number).collect();
            let more = all.len() > skip + numbers.len();
            let next = more.then(|| PageMark::new(from.map_or(0, |mark| mark.page) + 1, "PA")).flatten();
            Ok(NumberPage { numbers, next })
        })
        .await
    }

    async fn list_services(&self, carrier: &Carrier, limit: u16) -> Result<Vec<CarrierService>, Trouble> {
        self.ask("list_services", |state| {
            let all = state.connections.of(carrier, TargetKind::MessagingService).take(usize::from(limit));
            let service = |(target, one): (&Target, &AtCarrier)| CarrierService {
                target: target.clone(),
                friendly_name: one.label.clone(),
                settings: one.settings.clone(),
            };
            Ok(all.map(service).collect())
        })
        .await
    }

    async fn list_pool(&self, carrier: &Carrier, service: &Target) -> Result<Vec<Target>, Trouble> {
        self.ask("list_pool", |state| {
            state.connections.find(carrier, service)?;
            let numbers = state.connections.of(carrier, TargetKind::Number);
            Ok(numbers
                .filter(|(_, one)| one.pool.as_ref() == Some(service))
                .map(|(target, _)| target.clone())
                .collect())
        })
        .await
    }

    async fn read_settings(&self, carrier: &Carrier, target: &Target) -> Result<Settings, Trouble> {
        self.ask("read_settings", |state| Ok(state.connections.find(carrier, target)?.settings.clone())).await
    }

    async fn write_settings(
        &self,
        carrier: &Carrier,
        target: &Target,
        settings: &Settings,
    ) -> Result<Settings, Trouble> {
        self.ask("write_settings", |state| {
            let found = state.connections.find(carrier, target)?;
            found.settings.0.extend(settings.0.clone());
            let now = found.settings.clone();
            state.connections.writes += 1;
            Ok(now)
        })
        .await
    }
}

impl KeepConnections for World {
    async fn load_connection(&self, account: AccountId, target: &Target) -> Result<Option<Connection>, Fault> {
        self.call("load_connection", |state| {
            Ok(state.connections.rows.get(&(account, target.clone())).map(|(row, _)| row.clone()))
        })
        .await
    }

    async fn list_connections(&self, account: AccountId) -> Result<Vec<Connection>, Fault> {
        self.call("list_connections", |state| {
            let rows = state.connections.rows.iter().filter(|((owner, _), _)| *owner == account);
            Ok(rows.map(|(_, (row, _))| row.clone()).collect())
        })
        .await
    }

    async fn begin_connection(
        &self,
        connection: &Connection,
        credential: &StoredCredential,
        due: Timestamp,
    ) -> Result<Begun, Fault> {
        self.call("begin_connection", |state| {
            let key = (connection.account, connection.target.clone());
            if let Some((there, _)) = state.connections.rows.get(&key) {
                return Ok(if there == connection { Begun::Stored } else { Begun::Raced });
            }
            let gate = state.accounts.gates.get_mut(&connection.account);
            let gate = gate.filter(|gate| gate.connected && gate.credential_version == credential.version);
            let Some(gate) = gate else { return Ok(Begun::Raced) };
            gate.numbers += 1;
            state.connections.rows.insert(key, (connection.clone(), due));
            Ok(Begun::Stored)
        })
        .await
    }

    async fn update_connection(&self, connection: &Connection, due: Timestamp) -> Result<bool, Fault> {
        self.call("update_connection", |state| {
            let row = state.connections.rows.get_mut(&(connection.account, connection.target.clone()));
            let Some(row) = row.filter(|(row, _)| row.revision + 1 == connection.revision || row == connection) else {
                return Ok(false);
            };
            *row = (connection.clone(), due);
            Ok(true)
        })
        .await
    }

    async fn end_connection(&self, connection: &Connection) -> Result<bool, Fault> {
        self.call("end_connection", |state| {
            let key = (connection.account, connection.target.clone());
            if state.connections.rows.get(&key).is_none_or(|(row, _)| row.revision != connection.revision) {
                return Ok(false);
            }
            state.connections.rows.remove(&key);
            if let Some(gate) = state.accounts.gates.get_mut(&connection.account) {
                gate.numbers -= 1;
            }
            Ok(true)
        })
        .await
    }
}

impl FindDueConnections for World {
    async fn find_due_connections(&self, now: Timestamp, limit: u16) -> Result<Vec<(AccountId, Target)>, Fault> {
        self.call("find_due_connections", |state| {
            let mut due: Vec<_> = state.connections.rows.iter().filter(|(_, (_, due))| *due <= now).collect();
            due.sort_by_key(|(_, (_, due))| *due);
            Ok(due.into_iter().take(usize::from(limit)).map(|(key, _)| key.clone()).collect())
        })
        .await
    }

    async fn look_at_connection_again(&self, account: AccountId, target: &Target, at: Timestamp) -> Result<(), Fault> {
        self.call("look_at_connection_again", |state| {
            if let Some((_, due)) = state.connections.rows.get_mut(&(account, target.clone())) {
                *due = at;
            }
            Ok(())
        })
        .await
    }
}
