//! What opt-outs ask of the world.

use jiff::Timestamp;

use super::{Entry, Evidence, Heard, OptOut, PlatformWord, Removal};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::inbound::Consent;
use crate::session::By;

/// Records what recipients said: per account, sender or messaging service, and recipient.
pub trait RecordConsent {
    /// The latest word counts, by the time that it was said, in whatever order the events come; of two at the same time
    /// STOP does.
    fn record_consent(
        &self,
        account: AccountId,
        own: &str,
        other_hash: &str,
        consent: Consent,
        heard: &Heard,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Records what a customer enters about recipients of one sender. Each recipient is written by itself: after a fault some
/// may be stored, and the same request again does no harm.
pub trait EnterOptOuts {
    /// Opts recipients out; the answers are in their order.
    fn enter_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        by: By,
        at: Timestamp,
    ) -> impl Future<Output = Result<Vec<Entry>, Fault>> + Send;

    /// Lifts what was entered, by whom and with what evidence; the answers are in the order of the recipients.
    fn remove_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
        shown: (By, Evidence),
        at: Timestamp,
    ) -> impl Future<Output = Result<Vec<Removal>, Fault>> + Send;
}

/// Reads opt-outs, as they are now.
pub trait ReadOptOuts {
    /// What is known of recipients of one sender, in their order: 1 read for each 100.
    fn load_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        recipients: &[String],
    ) -> impl Future<Output = Result<Vec<OptOut>, Fault>> + Send;

    /// The account's senders that anybody ever opted out of, in order: 1 read (of thousands of
    /// senders, some).
    fn opt_out_senders(&self, account: AccountId) -> impl Future<Output = Result<Vec<String>, Fault>> + Send;

    /// What is known of one sender's recipients, what was lifted too, by recipient and from after one of them: 1 read.
    /// Fewer than `limit`: there are no more.
    fn list_opt_outs(
        &self,
        account: AccountId,
        own: &str,
        after: Option<&str>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<(String, OptOut)>, Fault>> + Send;
}

/// Records what is said to the platform's own number.
pub trait RecordPlatformWord {
    /// Keeps the word of the text with this SID, by the hash of who sent it. The first time counts: the same text again,
    /// repeated or played back, changes nothing.
    fn record_platform_word(
        &self,
        caller_hash: &str,
        sid: &str,
        word: PlatformWord,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads what was said to the platform's own number, as it is now.
pub trait ReadPlatformOptOut {
    /// Whether no alert may go to this number by text ([`super::stopped`]).
    fn has_stopped(&self, caller_hash: &str) -> impl Future<Output = Result<bool, Fault>> + Send;
}
