//! Every table, every key of an item and every index: built and read here and nowhere else.
//!
//! All tables have a text partition key `pk` and a text sort key `sk`.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::civil::Date;

use crate::account::EmailIndex;
use crate::billing::StripeId;
use crate::connection::Target;
use crate::ids::{AccountId, DeliveryId, EndpointId, EntryId, MessageId, TemplateId, UserId};
use crate::ledger::{About, Granularity, Occasion, UsageKind, UsageSlot};
use crate::message::{Direction, IdempotencyKey};
use crate::quarantine::Cause;
use crate::routine::Routine;
use crate::seal::Purpose;
use crate::secret::TokenHash;
use crate::velocity::Minute;

/// Tables, split by who may read them and how long things live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Profiles, users, sessions, API keys, gates, mail tokens, the e-mail index.
    Accounts,
    /// Wrapped data keys; a backup of one day only (promise N3).
    Keys,
    /// Carrier credentials and the uniqueness of Twilio accounts.
    Credentials,
    /// Messages, opt-outs, connected numbers, endpoints and deliveries.
    Messages,
    /// Idempotency keys, counters and the quarantine; everything in it ends by itself.
    Once,
    /// Allowances, entries, journal and usage rows.
    Ledger,
    /// Who opened what.
    AccessLog,
}

impl Table {
    /// Every table.
    pub const ALL: [Self; 7] =
        [Self::Accounts, Self::Keys, Self::Credentials, Self::Messages, Self::Once, Self::Ledger, Self::AccessLog];

    /// Its name, without the stage.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Keys => "keys",
            Self::Credentials => "credentials",
            Self::Messages => "messages",
            Self::Once => "once",
            Self::Ledger => "ledger",
            Self::AccessLog => "access-log",
        }
    }

    /// Whether its items may end by themselves, by the attribute `ttl`.
    pub fn has_ttl(self) -> bool {
        matches!(self, Self::Accounts | Self::Messages | Self::Once)
    }
}

/// The sparse index of tables `messages` and `ledger` by which due work is found: `due_shard`, `due_at`, keys only.
pub const DUE_INDEX: &str = "due";

/// Where an item is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The table.
    pub table: Table,
    /// Partition key.
    pub pk: String,
    /// Sort key.
    pub sk: String,
}

impl Key {
    fn new(table: Table, pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self { table, pk: pk.into(), sk: sk.into() }
    }

    /// As DynamoDB takes it.
    pub fn attributes(&self) -> HashMap<String, AttributeValue> {
        HashMap::from([
            ("pk".to_owned(), AttributeValue::S(self.pk.clone())),
            ("sk".to_owned(), AttributeValue::S(self.sk.clone())),
        ])
    }
}

/// Finds a user by address.
pub fn email(index: &EmailIndex) -> Key {
    Key::new(Table::Accounts, format!("EMAIL#{}", index.0), "USER")
}

/// An account's sealed profile.
pub fn profile(account: AccountId) -> Key {
    Key::new(Table::Accounts, account.to_string(), "PROFILE")
}

/// What sort keys of users start with.
pub const USERS: &str = "USER#";

/// A user.
pub fn user(account: AccountId, user: UserId) -> Key {
    Key::new(Table::Accounts, account.to_string(), format!("{USERS}{user}"))
}

/// What every send checks.
pub fn gate(account: AccountId) -> Key {
    Key::new(Table::Accounts, account.to_string(), "GATE")
}

/// What an account has at Stripe.
pub fn billing(account: AccountId) -> Key {
    Key::new(Table::Accounts, account.to_string(), "BILLING")
}

/// Whose a customer of Stripe's is.
pub fn stripe_customer(customer: &StripeId) -> Key {
    Key::new(Table::Accounts, format!("STRIPE#{customer}"), "ACCOUNT")
}

/// What sort keys of sessions start with.
pub const SESSIONS: &str = "SESSION#";

/// A session.
pub fn session(account: AccountId, hash: &TokenHash) -> Key {
    Key::new(Table::Accounts, account.to_string(), format!("{SESSIONS}{}", hash.0))
}

/// What sort keys of API keys start with.
pub const API_KEYS: &str = "APIKEY#";

/// An API key.
pub fn api_key(account: AccountId, hash: &TokenHash) -> Key {
    Key::new(Table::Accounts, account.to_string(), format!("{API_KEYS}{}", hash.0))
}

/// How many API keys the account has.
pub fn api_key_count(account: AccountId) -> Key {
    Key::new(Table::Accounts, account.to_string(), "APIKEYS")
}

/// A token that went out by mail.
pub fn mail_token(account: AccountId, hash: &TokenHash) -> Key {
    Key::new(Table::Accounts, account.to_string(), format!("MAIL#{}", hash.0))
}

/// An account's wrapped keys for one purpose.
pub fn data_keys(account: AccountId, purpose: Purpose) -> Key {
    Key::new(Table::Keys, account.to_string(), purpose.as_str())
}

/// Reads the key of wrapped keys back.
pub fn parse_data_keys(pk: &str, sk: &str) -> Option<(AccountId, Purpose)> {
    Some((pk.parse().ok()?, Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == sk)?))
}

/// The carrier credential.
pub fn credential(account: AccountId) -> Key {
    Key::new(Table::Credentials, account.to_string(), "TWILIO")
}

/// Which account has connected a Twilio account.
pub fn carrier_claim(sid_hash: &str) -> Key {
    Key::new(Table::Credentials, format!("SID#{sid_hash}"), "CLAIM")
}

/// What sort keys of messages start with.
pub const MESSAGES: &str = "MSG#";

/// A message.
pub fn message(account: AccountId, message: MessageId) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{MESSAGES}{message}"))
}

/// Reads a message's key back.
pub fn parse_message(pk: &str, sk: &str) -> Option<(AccountId, MessageId)> {
    Some((pk.parse().ok()?, sk.strip_prefix(MESSAGES)?.parse().ok()?))
}

/// What sort keys of connected numbers and messaging services start with.
pub const CONNECTIONS: &str = "NUMBER#";

/// A connected number or messaging service.
pub fn connection(account: AccountId, target: &Target) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{CONNECTIONS}{}", target.as_str()))
}

/// Reads a connection's key back.
pub fn parse_connection(pk: &str, sk: &str) -> Option<(AccountId, Target)> {
    Some((pk.parse().ok()?, Target::parse(sk.strip_prefix(CONNECTIONS)?)?))
}

/// What sort keys of routines start with.
pub const ROUTINES: &str = "ROUTINE#";

/// What is done again and again for a connected account.
pub fn routine(account: AccountId, routine: Routine) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{ROUTINES}{}", routine.as_str()))
}

/// Reads a routine's key back.
pub fn parse_routine(pk: &str, sk: &str) -> Option<(AccountId, Routine)> {
    let name = sk.strip_prefix(ROUTINES)?;
    Some((pk.parse().ok()?, Routine::ALL.into_iter().find(|routine| routine.as_str() == name)?))
}

/// What sort keys of templates start with.
pub const TEMPLATES: &str = "TEMPLATE#";

/// A template.
pub fn template(account: AccountId, template: TemplateId) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{TEMPLATES}{template}"))
}

/// Reads a template's key back.
pub fn parse_template(pk: &str, sk: &str) -> Option<(AccountId, TemplateId)> {
    Some((pk.parse().ok()?, sk.strip_prefix(TEMPLATES)?.parse().ok()?))
}

/// Which template has a name.
pub fn template_name(account: AccountId, name_hash: &str) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("TEMPLATENAME#{name_hash}"))
}

/// How many templates an account has.
pub fn template_count(account: AccountId) -> Key {
    Key::new(Table::Messages, account.to_string(), "TEMPLATES")
}

/// What sort keys of endpoints start with.
pub const ENDPOINTS: &str = "ENDPOINT#";

/// An endpoint.
pub fn endpoint(account: AccountId, endpoint: EndpointId) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{ENDPOINTS}{endpoint}"))
}

/// Reads an endpoint's key back.
pub fn parse_endpoint(pk: &str, sk: &str) -> Option<(AccountId, EndpointId)> {
    Some((pk.parse().ok()?, sk.strip_prefix(ENDPOINTS)?.parse().ok()?))
}

/// The partition of everything that went to one endpoint.
pub fn deliveries(account: AccountId, endpoint: EndpointId) -> String {
    format!("{account}#DELIVERIES#{endpoint}")
}

/// One event on its way to one endpoint.
pub fn delivery(account: AccountId, endpoint: EndpointId, delivery: DeliveryId) -> Key {
    Key::new(Table::Messages, deliveries(account, endpoint), delivery.to_string())
}

/// Reads a delivery's key back.
pub fn parse_delivery(pk: &str, sk: &str) -> Option<(AccountId, EndpointId, DeliveryId)> {
    let (account, endpoint) = pk.split_once("#DELIVERIES#")?;
    Some((account.parse().ok()?, endpoint.parse().ok()?, sk.parse().ok()?))
}

/// That a text with this SID was recorded.
pub fn sid(account: AccountId, sid: &str) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("SID#{sid}"))
}

/// The partition of all recipients who ever opted out of a sender.
pub fn opt_outs(account: AccountId, own: &str) -> String {
    format!("{account}#OPTOUT#{own}")
}

/// Whether a recipient has opted out of a sender.
pub fn opt_out(account: AccountId, own: &str, other_hash: &str) -> Key {
    Key::new(Table::Messages, opt_outs(account, own), other_hash)
}

/// The partition of all that one caller ever said to the platform's own number.
pub fn platform_words(caller_hash: &str) -> String {
    format!("PLATFORM#OPTOUT#{caller_hash}")
}

/// What a text to the platform's own number said.
pub fn platform_word(caller_hash: &str, sid: &str) -> Key {
    Key::new(Table::Accounts, platform_words(caller_hash), sid)
}

/// What sort keys of senders with opt-outs start with.
pub const OPT_OUT_SENDERS: &str = "OPTOUTS#";

/// A sender that somebody opted out of.
pub fn opt_out_sender(account: AccountId, own: &str) -> Key {
    Key::new(Table::Messages, account.to_string(), format!("{OPT_OUT_SENDERS}{own}"))
}

/// The record behind an idempotency key, per account and route.
pub fn idempotency(account: AccountId, route: &str, key: &IdempotencyKey) -> Key {
    Key::new(Table::Once, format!("IDEM#{account}#{route}"), key.as_str())
}

/// That an event of Stripe's was applied.
pub fn stripe_event(event: &StripeId) -> Key {
    Key::new(Table::Once, format!("STRIPE#{event}"), "APPLIED")
}

/// A counter of tries in one window of time.
pub fn tries(what: &str, window: i64) -> Key {
    Key::new(Table::Once, format!("TRIES#{what}"), window.to_string())
}

/// The partition of an account's failed checks of signatures.
pub fn quarantine_of(account: AccountId) -> String {
    format!("QUARANTINE#{account}")
}

/// Failed checks of signatures of one account and cause.
pub fn quarantine(account: AccountId, cause: Cause) -> Key {
    Key::new(Table::Once, quarantine_of(account), cause.code())
}

/// What an account's minute has handed over: to one prefix, or in all.
pub fn passing(minute: Minute, prefix: Option<&str>) -> Key {
    let Minute { account, counts_from, minute } = minute;
    let of = prefix.map_or_else(|| "ALL".to_owned(), |prefix| format!("PREFIX#{prefix}"));
    Key::new(Table::Once, format!("PASSING#{account}#{of}"), format!("{minute}#{}", counts_from.as_millisecond()))
}

/// The line of a sender.
pub fn line(account: AccountId, own: &str) -> Key {
    Key::new(Table::Once, format!("LINE#{account}"), own)
}

/// An account's allowance.
pub fn allowance(account: AccountId) -> Key {
    Key::new(Table::Ledger, account.to_string(), "ALLOWANCE#0")
}

/// What sort keys of ledger entries start with.
pub const ENTRIES: &str = "ENTRY#";

/// A ledger entry: one for each occasion.
pub fn entry(account: AccountId, occasion: &Occasion) -> Key {
    Key::new(Table::Ledger, account.to_string(), format!("{ENTRIES}{}", occasion.word()))
}

/// The index of table `ledger` by which a month's entries are listed: `statement`, `entry`, everything.
pub const ENTRIES_INDEX: &str = "entries";

/// The partition of one month's entries in the index.
pub fn statement(account: AccountId, month: &str) -> String {
    format!("{account}#{month}")
}

/// An account's credits.
pub fn purse(account: AccountId) -> Key {
    Key::new(Table::Ledger, account.to_string(), "PURSE")
}

/// Reads a purse's key back.
pub fn parse_purse(pk: &str, sk: &str) -> Option<AccountId> {
    pk.parse().ok().filter(|_| sk == "PURSE")
}

/// What sort keys of a month's totals start with.
pub const TOTALS: &str = "TOTALS#";

/// The totals of a month.
pub fn totals(account: AccountId, month: &str) -> Key {
    Key::new(Table::Ledger, account.to_string(), format!("{TOTALS}{month}"))
}

/// The partition of one shard's journal.
pub fn journal_shard(shard: u8) -> String {
    format!("JOURNAL#{shard:02}")
}

/// An entry that waits to be counted.
pub fn journal(shard: u8, entry: EntryId) -> Key {
    Key::new(Table::Ledger, journal_shard(shard), entry.to_string())
}

/// What sort keys of rows start with about what was used.
pub const USAGE: &str = "USAGE#";

/// What sort keys of rows start with about what failed.
pub const FAILURES: &str = "FAILURES#";

/// The sort key of a usage row.
fn usage_sort(slot: &UsageSlot) -> String {
    let country = slot.country.map_or_else(|| "-".to_owned(), |country| country.to_string());
    let direction = slot.direction.as_str();
    let error = slot.error.map_or_else(String::new, |error| format!("#{error}"));
    let prefix = usage_prefix(slot.kind.about(), slot.granularity);
    format!("{prefix}{}#{}#{direction}#{country}{error}", slot.period, slot.kind.as_str())
}

/// What sort keys of rows about something of one granularity start with.
pub fn usage_prefix(about: About, granularity: Granularity) -> String {
    let family = match about {
        About::Usage => USAGE,
        About::Failures => FAILURES,
    };
    format!("{family}{}#", granularity.as_str())
}

/// A usage row.
pub fn usage(account: AccountId, slot: &UsageSlot) -> Key {
    Key::new(Table::Ledger, account.to_string(), usage_sort(slot))
}

/// Reads a usage row's sort key back.
pub fn parse_usage(sort: &str) -> Option<UsageSlot> {
    let mut parts = sort.split('#');
    let (_, granularity, period) = (parts.next()?, parts.next()?, parts.next()?);
    let (kind, direction, country) = (parts.next()?, parts.next()?, parts.next()?);
    Some(UsageSlot {
        granularity: Granularity::ALL.into_iter().find(|g| g.as_str() == granularity)?,
        period: period.to_owned(),
        kind: UsageKind::ALL.into_iter().find(|k| k.as_str() == kind)?,
        direction: [Direction::Outbound, Direction::Inbound].into_iter().find(|d| d.as_str() == direction)?,
        country: if country == "-" { None } else { Some(crate::number::Country::parse(country).ok()?) },
        error: parts.next().map(str::parse).transpose().ok()?,
    })
}

/// What sort keys of reports of compared days start with.
pub const RECONCILED: &str = "RECONCILED#";

/// How a day compares with Twilio's lists.
pub fn reconciled(account: AccountId, day: Date) -> Key {
    Key::new(Table::Ledger, account.to_string(), format!("{RECONCILED}{day}"))
}

/// What sort keys of differences start with that one attempt at a day found.
pub fn differences(day: Date, attempt: u32) -> String {
    format!("DIFFERENCE#{day}#{attempt:04}#")
}

/// A charge that does not fit what Twilio lists.
pub fn difference(account: AccountId, day: Date, attempt: u32, sid: &str) -> Key {
    Key::new(Table::Ledger, account.to_string(), format!("{}{sid}", differences(day, attempt)))
}

/// The partition of what Twilio's list of a day had.
pub fn seen_on(account: AccountId, day: Date) -> String {
    format!("SEEN#{account}#{day}")
}

/// What a page of it had.
pub fn seen(account: AccountId, day: Date, page: u32) -> Key {
    Key::new(Table::Once, seen_on(account, day), format!("{page:06}"))
}

/// The partition of one shard's openings that are not in a chain yet.
pub fn pending_shard(shard: u8) -> String {
    format!("PENDING#{shard:02}")
}

/// An opening that is not in its account's chain yet.
pub fn pending_access(shard: u8, entry: EntryId) -> Key {
    Key::new(Table::AccessLog, pending_shard(shard), entry.to_string())
}

/// What sort keys of chained entries start with.
pub const ACCESS_ENTRIES: &str = "ENTRY#";

/// The sort key of an entry of an account's chain; in order of the chain.
pub fn access_sort(sequence: u64) -> String {
    format!("{ACCESS_ENTRIES}{sequence:020}")
}

/// An entry of an account's chain.
pub fn access_entry(account: AccountId, sequence: u64) -> Key {
    Key::new(Table::AccessLog, account.to_string(), access_sort(sequence))
}

/// The end of an account's chain.
pub fn access_head(account: AccountId) -> Key {
    Key::new(Table::AccessLog, account.to_string(), "HEAD")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Country;

    #[test]
    fn keys_are_as_stored_data_knows_them() {
        let (account, id) = (AccountId::from_bits(1), MessageId::from_bits(2));
        let slot = UsageSlot {
            granularity: Granularity::Hour,
            period: "2026-11-24T06".to_owned(),
            kind: UsageKind::MessageSegments,
            direction: Direction::Outbound,
            country: Country::parse("US").ok(),
            error: None,
        };
        let failed = UsageSlot { kind: UsageKind::FailedMessages, error: Some(30_003), ..slot.clone() };
        let minute = Minute { account, counts_from: jiff::Timestamp::UNIX_EPOCH, minute: 7 };
        let target = Target::parse(&format!("PN{}", "0a".repeat(16))).unwrap();
        let keys = [
            email(&EmailIndex("hash".to_owned())),
            profile(account),
            user(account, UserId::from_bits(3)),
            gate(account),
            billing(account),
            stripe_customer(&"cus_1".parse().unwrap()),
            session(account, &TokenHash("hash".to_owned())),
            api_key(account, &TokenHash("hash".to_owned())),
            api_key_count(account),
            mail_token(account, &TokenHash("hash".to_owned())),
            data_keys(account, Purpose::Send),
            credential(account),
            carrier_claim("hash"),
            message(account, id),
            connection(account, &target),
            routine(account, Routine::Arrivals),
            routine(account, Routine::SelfTest),
            routine(account, Routine::Reconciliation),
            template(account, TemplateId::from_bits(6)),
            template_name(account, "hash"),
            template_count(account),
            endpoint(account, EndpointId::from_bits(6)),
            delivery(account, EndpointId::from_bits(6), DeliveryId::from_bits(7)),
            sid(account, "SM1"),
            opt_out(account, "+15005550006", "hash"),
            opt_out_sender(account, "+15005550006"),
            platform_word("hash", "SM1"),
            idempotency(account, "POST /v1/messages", &IdempotencyKey::parse(Some("key")).unwrap()),
            stripe_event(&"evt_1".parse().unwrap()),
            tries("login#hash", 7),
            quarantine(account, Cause::OtherAccount),
            passing(minute, None),
            passing(minute, Some("hash")),
            line(account, "+14155550100"),
            allowance(account),
            entry(account, &Occasion::Usage { sid: "SM1".to_owned(), kind: UsageKind::MessageSegments }),
            entry(account, &Occasion::Grant { source: "trial".to_owned() }),
            entry(account, &Occasion::Draw { revision: 7 }),
            entry(account, &Occasion::Expiry { source: "in_1".to_owned(), revision: 7 }),
            entry(account, &Occasion::ClawBack { by: "re_1".to_owned() }),
            entry(account, &Occasion::Overage { revision: 7 }),
            entry(
                account,
                &Occasion::Correction {
                    by: "2026-11-24".to_owned(),
                    sid: "SM1".to_owned(),
                    kind: UsageKind::MessageSegments,
                },
            ),
            purse(account),
            totals(account, "2026-11"),
            journal(3, EntryId::from_bits(4)),
            usage(account, &slot),
            usage(account, &failed),
            reconciled(account, Date::constant(2026, 11, 24)),
            difference(account, Date::constant(2026, 11, 24), 1, "SM1"),
            seen(account, Date::constant(2026, 11, 24), 7),
            pending_access(5, EntryId::from_bits(5)),
            access_entry(account, 7),
            access_head(account),
        ];
        let text: Vec<_> = keys.iter().map(|key| format!("{} | {} | {}", key.table.name(), key.pk, key.sk)).collect();
        insta::assert_snapshot!(text.join("\n"));
        for slot in [slot, failed] {
            assert_eq!(parse_usage(&usage(account, &slot).sk), Some(slot));
        }
        let key = connection(account, &target);
        assert_eq!(parse_connection(&key.pk, &key.sk), Some((account, target)));
        for known in Routine::ALL {
            let key = routine(account, known);
            assert_eq!(parse_routine(&key.pk, &key.sk), Some((account, known)));
        }
        let key = template(account, TemplateId::from_bits(6));
        assert_eq!(parse_template(&key.pk, &key.sk), Some((account, TemplateId::from_bits(6))));
        let key = message(account, id);
        assert_eq!(parse_message(&key.pk, &key.sk), Some((account, id)));
        let (whep, wdel) = (EndpointId::from_bits(6), DeliveryId::from_bits(7));
        let key = endpoint(account, whep);
        assert_eq!(parse_endpoint(&key.pk, &key.sk), Some((account, whep)));
        let key = delivery(account, whep, wdel);
        assert_eq!(parse_delivery(&key.pk, &key.sk), Some((account, whep, wdel)));
        for purpose in Purpose::ALL {
            let key = data_keys(account, purpose);
            assert_eq!(parse_data_keys(&key.pk, &key.sk), Some((account, purpose)));
        }
    }
}
