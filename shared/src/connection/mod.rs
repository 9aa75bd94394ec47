//! A number or a messaging service of the customer's that is connected: what we set at Twilio, and what stood there
//! before, so that it can be given back as it was.
//!
//! Twilio's API has no conditional update. So every change is planned from a fresh read, written down before it is made,
//! and undone only where what stands there still is what we set.

mod port;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::credential::Sid;
use crate::edge::{Kind, Problem};
use crate::fault::Fault;
use crate::ids::AccountId;
use crate::seal::{DataKey, Sealed};
use crate::secret::HookId;

pub use port::*;

/// Name of the sealed field with a snapshot; the SID follows, so that one number's snapshot is not another's.
pub const SNAPSHOT_FIELD: &str = "number-snapshot";

/// Time between two looks at a connected number.
pub const CHECK_EVERY: SignedDuration = SignedDuration::from_hours(6);
/// Time until the next look when Twilio could not be asked, or a change was begun and not finished.
pub const CHECK_SOON: SignedDuration = SignedDuration::from_mins(30);
/// Time until a look whose job got lost is asked for again.
pub const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// What can be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetKind {
    /// A phone number (`PN…`).
    Number,
    /// A messaging service (`MG…`): its webhook counts for the numbers in its pool, not theirs.
    MessagingService,
}

/// A phone number or a messaging service at Twilio, by its SID.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Target(String);

impl Target {
    /// Reads a SID; `None` if it is neither `PN…` nor `MG…`.
    pub fn parse(text: &str) -> Option<Self> {
        let good = Sid::parse("PN", text).is_ok() || Sid::parse("MG", text).is_ok();
        good.then(|| Self(text.to_owned()))
    }

    /// The SID.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which of the two.
    pub fn kind(&self) -> TargetKind {
        if self.0.starts_with("PN") { TargetKind::Number } else { TargetKind::MessagingService }
    }
}

/// The settings that we touch, under the names that Twilio's forms have; an empty text is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(pub BTreeMap<String, String>);

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Change {
    /// Twilio's name of the setting.
    #[schema(example = "SmsUrl")]
    pub setting: String,
    /// What it was or is.
    pub from: String,
    /// What it becomes or became.
    pub to: String,
}

/// Names of the settings that we always touch, as forms and as answers have them.
pub const NUMBER_SETTINGS: [(&str, &str); 3] =
    [("SmsApplicationSid", "sms_application_sid"), ("SmsMethod", "sms_method"), ("SmsUrl", "sms_url")];
/// The same for messaging services.
pub const SERVICE_SETTINGS: [(&str, &str); 3] = [
    ("InboundMethod", "inbound_method"),
    ("InboundRequestUrl", "inbound_request_url"),
    ("UseInboundWebhookOnNumber", "use_inbound_webhook_on_number"),
];
/// Names of the settings that we touch where a second host is configured.
pub const NUMBER_FALLBACK: [(&str, &str); 2] =
    [("SmsFallbackMethod", "sms_fallback_method"), ("SmsFallbackUrl", "sms_fallback_url")];
/// The same for messaging services.
pub const SERVICE_FALLBACK: [(&str, &str); 2] =
    [("FallbackMethod", "fallback_method"), ("FallbackUrl", "fallback_url")];

impl TargetKind {
    /// Names of all settings that we may touch, as forms and as answers have them: these are read.
    pub fn settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let (always, fallback) = match self {
            Self::Number => (NUMBER_SETTINGS, NUMBER_FALLBACK),
            Self::MessagingService => (SERVICE_SETTINGS, SERVICE_FALLBACK),
        };
        always.into_iter().chain(fallback)
    }
}

impl Settings {
    /// What has to stand at Twilio so that texts reach us. The fragment asks Twilio to repeat a failed webhook twice
    /// (connection overrides); it is not signed. An application would win over the URL, and so would a number's own
    /// webhook over its service's. `fallback`: the origin of a second host, where Twilio goes once the first has failed;
    /// without one its settings stay the customer's.
    pub fn ours(kind: TargetKind, origin: &str, fallback: Option<&str>, hook: &HookId) -> Self {
        let url = |origin: &str| format!("{origin}/hooks/twilio/{}/messages#rc=2&rp=5xx,ct,rt", hook.reveal());
        let (pairs, [(method, _), (second, _)]) = match kind {
            TargetKind::Number => (
                [("SmsApplicationSid", ""), ("SmsMethod", "POST"), ("SmsUrl", &*url(origin))].map(owned),
                NUMBER_FALLBACK,
            ),
            TargetKind::MessagingService => (
                [
                    ("InboundMethod", "POST"),
                    ("InboundRequestUrl", &*url(origin)),
                    ("UseInboundWebhookOnNumber", "false"),
                ]
                .map(owned),
                SERVICE_FALLBACK,
            ),
        };
        let of_second = fallback.map(|origin| [(method, "POST"), (second, &*url(origin))].map(owned));
        Self(pairs.into_iter().chain(of_second.into_iter().flatten()).collect())
    }

    /// What has to change here so that all of `then` stands here, in order of names. What `then` does not name does not
    /// count.
    pub fn changes(&self, then: &Self) -> Vec<Change> {
        let change = |(name, to): (&String, &String)| Change {
            setting: name.clone(),
            from: self.0.get(name).cloned().unwrap_or_default(),
            to: to.clone(),
        };
        then.0.iter().map(change).filter(|change| change.from != change.to).collect()
    }

    /// What of these settings is another one in `now`: from here to there.
    pub fn changed_in(&self, now: &Self) -> Vec<Change> {
        let turned = |change: Change| Change { from: change.to, to: change.from, ..change };
        now.changes(self).into_iter().map(turned).collect()
    }

    fn have(&self, these: &Self) -> bool {
        self.changes(these).is_empty()
    }

    /// The settings that `names` has, as they are here.
    fn only(&self, names: &Self) -> Self {
        let here = |name: &String| (name.clone(), self.0.get(name).cloned().unwrap_or_default());
        Self(names.0.keys().map(here).collect())
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// What stood at Twilio before, and what we set in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The Twilio account that it is of: with another one connected, nothing can be said of it.
    pub account_sid: Sid,
    /// Before.
    pub before: Settings,
    /// Ours, with what was there before for settings that are not ours any more.
    pub set: Settings,
    /// What stood there when this was planned, if that was neither of the two: an earlier address of ours. It stands
    /// until Twilio has taken the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Settings>,
}

impl Snapshot {
    /// What is left to remember once Twilio has taken it: the settings that are ours.
    #[must_use]
    pub fn settled(&self, ours: &Settings) -> Self {
        Self {
            account_sid: self.account_sid.clone(),
            before: self.before.only(ours),
            set: self.set.only(ours),
            standing: None,
        }
    }

    /// Whether `now` is an address of ours that was to be moved.
    fn still(&self, now: &Settings) -> bool {
        self.standing.as_ref().is_some_and(|standing| now.have(standing))
    }

    /// Seals it under the account's profile key: unlike the key of purpose send that one outlives the credential, so
    /// that a number can be given back after another credential was connected.
    pub fn seal(&self, key: &DataKey, target: &Target, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let clear = serde_json::to_vec(self).map_err(|_| Fault::permanent("a snapshot did not serialize"))?;
        Ok(key.seal(&snapshot_field(target), &clear, nonce)?)
    }

    /// Opens a sealed snapshot.
    pub fn open(sealed: &Sealed, key: &DataKey, target: &Target) -> Result<Self, Fault> {
        let clear = key.open(&snapshot_field(target), sealed)?;
        serde_json::from_slice(&clear).map_err(|_| Fault::permanent("a stored snapshot does not read"))
    }
}

/// The sealed field of a snapshot.
pub fn snapshot_field(target: &Target) -> String {
    format!("{SNAPSHOT_FIELD}/{}", target.as_str())
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The snapshot is stored; Twilio was told, or is about to be.
    Connecting,
    /// Twilio has our settings.
    Connected,
    /// Somebody changed what we set; nothing is overwritten.
    Changed,
    /// Twilio does not have this number any more.
    Gone,
    /// Twilio was told to restore, or is about to be.
    Restoring,
}

/// A connection as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Whose.
    pub account: AccountId,
    /// What.
    pub target: Target,
    /// How far.
    pub state: State,
    /// Sealed [`Snapshot`].
    pub snapshot: Sealed,
    /// Counts writes, from 0.
    pub revision: u32,
    /// When it was connected.
    pub since: Timestamp,
    /// When Twilio was last seen to have what `state` says.
    pub seen: Timestamp,
}

impl Connection {
    /// The next write of the row.
    #[must_use]
    pub fn moved(&self, state: State, now: Timestamp) -> Self {
        Self { state, revision: self.revision + 1, seen: now, ..self.clone() }
    }
}

/// What connecting comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connect {
    /// Twilio has what we want and we know what stood there before.
    Stands,
    /// Store this snapshot, then tell Twilio.
    Set(Snapshot),
    /// Somebody changed what we had set: from ours to theirs.
    Changed(Vec<Change>),
}

/// Decides how to connect, from what stands at Twilio now, what we want there, and what is known from earlier.
pub fn connect(now: &Settings, ours: &Settings, account_sid: &Sid, known: Option<(State, &Snapshot)>) -> Connect {
    let first = || {
        let (before, set) = (now.only(ours), ours.clone());
        Connect::Set(Snapshot { account_sid: account_sid.clone(), before, set, standing: None })
    };
    let Some((state, known)) = known else { return first() };
    if now.have(&known.set) && known.set == *ours {
        return Connect::Stands;
    }
    // Ours stands there and has to move to other addresses of the site, or it does not stand there yet.
    if now.have(&known.set) || known.still(now) || now.have(&known.before) {
        // What we did not touch so far is as it was before us; what we do not touch any more becomes so.
        let mut before = now.only(ours);
        before.0.extend(known.before.0.clone());
        let mut set = before.clone();
        set.0.extend(ours.0.clone());
        let standing = Some(now.only(&set)).filter(|standing| *standing != before);
        return Connect::Set(Snapshot { account_sid: account_sid.clone(), before, set, standing });
    }
    match state {
        // What we planned never took effect, and the plan's "before" is out of date.
        State::Connecting if known.standing.is_none() => first(),
        _ => Connect::Changed(known.set.changed_in(now)),
    }
}

/// What the customer wants to happen to settings that somebody changed after we set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenChanged {
    /// Nothing yet: tell.
    Ask,
    /// Leave them, forget the snapshot.
    Keep,
    /// Overwrite them with the snapshot.
    Restore,
}

/// What disconnecting comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnect {
    /// Tell Twilio what stood there before, then forget it.
    Restore,
    /// Nothing is to be told; forget the snapshot.
    Forget,
    /// Somebody changed what we had set: from ours to theirs.
    Changed(Vec<Change>),
}

/// Decides how to disconnect; `None`: Twilio does not have the number any more.
pub fn disconnect(now: Option<&Settings>, known: &Snapshot, when_changed: WhenChanged) -> Disconnect {
    let Some(now) = now else { return Disconnect::Forget };
    if now.have(&known.before) {
        return Disconnect::Forget;
    }
    if now.have(&known.set) || known.still(now) {
        return Disconnect::Restore;
    }
    match when_changed {
        WhenChanged::Ask => Disconnect::Changed(known.set.changed_in(now)),
        WhenChanged::Keep => Disconnect::Forget,
        WhenChanged::Restore => Disconnect::Restore,
    }
}

/// What a look at a connected number says of it; `None`: Twilio does not have it any more.
pub fn look(now: Option<&Settings>, known: &Snapshot, state: State) -> State {
    let Some(now) = now else { return State::Gone };
    match state {
        // Begun and not finished: the customer repeats the request, or it took effect after all.
        State::Connecting | State::Restoring if now.have(&known.before) => state,
        _ if now.have(&known.set) => State::Connected,
        State::Connecting => State::Connecting,
        State::Connected | State::Changed | State::Gone | State::Restoring => State::Changed,
    }
}

/// Whether the owner has to hear of it: once, when it turns.
pub fn is_news(before: State, now: State) -> bool {
    before != now && matches!(now, State::Changed | State::Gone)
}

/// A number of the account at Twilio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierNumber {
    /// Its SID.
    pub target: Target,
    /// The number.
    pub phone_number: String,
    /// Its name at Twilio.
    pub friendly_name: String,
    /// Whether it takes texts, pictures and calls.
    pub capabilities: Capabilities,
    /// What stands there of the settings that we touch.
    pub settings: Settings,
}

/// What a number can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capabilities {
    /// Texts.
    #[serde(default)]
    pub sms: bool,
    /// Texts with media.
    #[serde(default)]
    pub mms: bool,
    /// Calls.
    #[serde(default)]
    pub voice: bool,
}

/// A messaging service of the account at Twilio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierService {
    /// Its SID.
    pub target: Target,
    /// Its name at Twilio.
    pub friendly_name: String,
    /// What stands there of the settings that we touch.
    pub settings: Settings,
}

/// A page of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberPage {
    /// The numbers.
    pub numbers: Vec<CarrierNumber>,
    /// Where the next page is.
    pub next: Option<PageMark>,
}

/// Twilio's mark of a page: a number and a token. Letters, digits and `-` only, so that it can be nothing but a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMark {
    /// Twilio's `Page`.
    pub page: u32,
    /// Twilio's `PageToken`.
    pub token: String,
}

impl PageMark {
    /// From its two parts; `None` if they are no mark.
    pub fn new(page: u32, token: &str) -> Option<Self> {
        let good = token.len() <= 64 && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        good.then(|| Self { page, token: token.to_owned() })
    }

    /// As a cursor of ours.
    pub fn cursor(&self) -> String {
        format!("{}.{}", self.page, self.token)
    }

    /// From a cursor of ours.
    pub fn parse(cursor: &str) -> Option<Self> {
        let (page, token) = cursor.split_once('.')?;
        Self::new(page.parse().ok()?, token)
    }
}

/// Why Twilio did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// 401: wrong SID, token, key or secret.
    Refused,
    /// The account is suspended or closed.
    Inactive,
    /// 403: the API key may not do this.
    NotAllowed,
    /// There is no such number or service.
    NotFound,
    /// 429.
    Busy,
    /// Another 4xx, with Twilio's code.
    Rejected(Option<u32>),
    /// No answer, or none that reads; a change may have taken place.
    Unreachable,
}

impl From<Trouble> for Problem {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Refused => Self::new(
                Kind::CarrierRefusedCredential,
                "Twilio refuses the stored credential: connect it again with PUT /v1/credentials/twilio",
            ),
            Trouble::Inactive => Self::new(
                Kind::CarrierAccountInactive,
                "Twilio says that the account is suspended or closed: clear this up in the Twilio Console",
            ),
            Trouble::NotAllowed => Self::new(
                Kind::CarrierForbids,
                "the API key may not do this: give it, in the Twilio Console, the permissions that \
                 GET /v1/credentials/twilio lists for numbers and messaging services",
            ),
            Trouble::NotFound => Self::not_found(
                "the connected Twilio account has no number or messaging service with this SID; GET /v1/numbers lists them",
            ),
            Trouble::Busy => Self::new(
                Kind::CarrierUnavailable,
                "Twilio answers that the account has too many calls at once: try again in a minute",
            ),
            Trouble::Rejected(code) => {
                let code = code.map_or_else(String::new, |code| format!(" (error {code})"));
                Self::new(Kind::CarrierRejected, format!("Twilio did not take it{code}"))
            }
            Trouble::Unreachable => Self::new(
                Kind::CarrierUnavailable,
                "Twilio did not answer: try again in a minute; what was begun is finished then",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::seal::Purpose;
    use zeroize::Zeroizing;

    fn target() -> Target {
        Target::parse(&format!("PN{}", "0a".repeat(16))).unwrap()
    }

    fn settings(url: &str) -> Settings {
        Settings([("SmsUrl", url), ("SmsMethod", "GET")].map(|(n, v)| (n.to_owned(), v.to_owned())).into())
    }

    fn account_sid() -> Sid {
        Sid::parse("AC", &format!("AC{}", "0a".repeat(16))).unwrap()
    }

    fn planned(before: &str, set: &str) -> Snapshot {
        Snapshot { account_sid: account_sid(), before: settings(before), set: settings(set), standing: None }
    }

    fn snapshot() -> Snapshot {
        planned("theirs", "ours")
    }

    const STATES: [State; 5] = [State::Connecting, State::Connected, State::Changed, State::Gone, State::Restoring];

    #[test]
    fn numbers_and_services_can_be_connected_and_nothing_else() {
        assert_eq!(target().kind(), TargetKind::Number);
        let service = Target::parse(&format!("MG{}", "0a".repeat(16))).unwrap();
        assert_eq!(service.kind(), TargetKind::MessagingService);
        for wrong in ["", "PN", "+14155552671", &format!("AC{}", "0a".repeat(16)), &format!("{}/", target().as_str())] {
            assert!(Target::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn ours_names_every_setting_that_is_read_back() {
        let hook = HookId::new(AccountId::from_bits(1), [1; 16]);
        for kind in [TargetKind::Number, TargetKind::MessagingService] {
            let second = Some("https://second.example.com");
            let ours = |fallback| Settings::ours(kind, "https://api.example.com", fallback, &hook);
            let names = |of: &Settings| of.0.keys().cloned().collect::<BTreeSet<_>>();
            let read: Vec<_> = kind.settings().map(|(form, _)| form.to_owned()).collect();
            assert_eq!(names(&ours(second)), read.iter().cloned().collect());
            assert_eq!(names(&ours(None)), read[..3].iter().cloned().collect());
        }
    }

    #[test]
    fn a_snapshot_opens_for_its_own_number_only() {
        let key = DataKey::new(AccountId::from_bits(1), Purpose::Profile, 1, Zeroizing::new([1; 32]));
        let sealed = snapshot().seal(&key, &target(), [0; 12]).unwrap();
        assert_eq!(Snapshot::open(&sealed, &key, &target()), Ok(snapshot()));
        let other = Target::parse(&format!("PN{}", "0b".repeat(16))).unwrap();
        assert!(Snapshot::open(&sealed, &key, &other).is_err());
    }

    #[test]
    fn the_first_connect_remembers_what_stands_there() {
        let plan = connect(&settings("theirs"), &settings("ours"), &account_sid(), None);
        assert_eq!(plan, Connect::Set(snapshot()));
    }

    /// Every state × what stands at Twilio: theirs as before, ours, or something new.
    #[test]
    fn connecting_again_never_forgets_what_stood_there_and_never_overwrites_what_is_new() {
        let (known, ours) = (snapshot(), settings("ours"));
        for state in STATES {
            let plan = |now: &str| connect(&settings(now), &ours, &account_sid(), Some((state, &known)));
            assert_eq!(plan("ours"), Connect::Stands, "{state:?}");
            assert_eq!(plan("theirs"), Connect::Set(known.clone()), "{state:?}");
            let new = plan("new");
            if state == State::Connecting {
                assert_eq!(new, Connect::Set(planned("new", "ours")));
            } else {
                assert_eq!(new, Connect::Changed(settings("ours").changed_in(&settings("new"))), "{state:?}");
            }
            // The site moved: ours becomes the new address, and what was there before us stays known.
            let moved = connect(&settings("ours"), &settings("moved"), &account_sid(), Some((state, &known)));
            let plan = Snapshot { standing: Some(settings("ours")), ..planned("theirs", "moved") };
            assert_eq!(moved, Connect::Set(plan.clone()), "{state:?}");
            // Twilio did not take that: what stands there is ours still, and what was before us is not forgotten.
            let begun = Some((State::Connecting, &plan));
            assert_eq!(connect(&settings("ours"), &settings("moved"), &account_sid(), begun), moved);
            assert_eq!(disconnect(Some(&settings("ours")), &plan, WhenChanged::Ask), Disconnect::Restore);
            let new = connect(&settings("new"), &settings("moved"), &account_sid(), begun);
            assert_eq!(new, Connect::Changed(settings("moved").changed_in(&settings("new"))));
            assert_eq!(plan.settled(&settings("moved")), planned("theirs", "moved"));
        }
    }

    /// These settings of a number: its first host's, and with `second` its second host's.
    fn hosts(first: &str, second: Option<&str>) -> Settings {
        let second = second.map(|second| ("SmsFallbackUrl".to_owned(), second.to_owned()));
        Settings(settings(first).0.into_iter().chain(second).collect())
    }

    /// Twilio answers with all settings, so `now` always has both.
    #[test]
    fn a_second_host_that_is_configured_later_is_added_and_one_that_is_not_any_more_is_given_back() {
        let sid = account_sid();
        let now = |first, second| hosts(first, Some(second));
        let (one, two) = (hosts("ours", None), hosts("ours", Some("our second")));
        for state in STATES {
            // Without a second host the fallback is the customer's, whatever stands there.
            let known = planned("theirs", "ours");
            for second in ["", "their second", "their third"] {
                let plan = connect(&now("ours", second), &one, &sid, Some((state, &known)));
                assert_eq!(plan, Connect::Stands, "{state:?}");
                assert_eq!(look(Some(&now("ours", second)), &known, state), State::Connected);
                assert_eq!(disconnect(Some(&now("ours", second)), &known, WhenChanged::Ask), Disconnect::Restore);
            }
            // It is configured: what stands in its place now is what stood there before us.
            let added = connect(&now("ours", "their second"), &two, &sid, Some((state, &known)));
            let standing = Some(now("ours", "their second"));
            let before = hosts("theirs", Some("their second"));
            let plan = Snapshot { account_sid: sid.clone(), before: before.clone(), set: two.clone(), standing };
            assert_eq!(added, Connect::Set(plan.clone()), "{state:?}");
            let both = plan.settled(&two);
            assert_eq!((&both.before, &both.set, &both.standing), (&before, &two, &None));
            assert_eq!(connect(&now("ours", "our second"), &two, &sid, Some((state, &both))), Connect::Stands);
            // Changing it is seen like any other change.
            let changed = now("ours", "new");
            let seen = if state == State::Connecting { state } else { State::Changed };
            assert_eq!(look(Some(&changed), &both, state), seen);
            assert!(matches!(disconnect(Some(&changed), &both, WhenChanged::Ask), Disconnect::Changed(_)));
            // It is not configured any more: theirs is put back, and is none of ours after that.
            let removed = connect(&now("ours", "our second"), &one, &sid, Some((state, &both)));
            let Connect::Set(plan) = removed else { panic!("{removed:?}") };
            assert_eq!((&plan.before, &plan.set), (&before, &hosts("ours", Some("their second"))));
            assert_eq!(plan.settled(&one), planned("theirs", "ours"));
            // The same after a crash, before and after Twilio took it.
            for second in ["our second", "their second"] {
                let again = connect(&now("ours", second), &one, &sid, Some((State::Connecting, &plan)));
                let Connect::Set(again) = again else { panic!("{again:?}") };
                assert_eq!((&again.before, &again.set), (&plan.before, &plan.set));
            }
        }
    }

    #[test]
    fn a_snapshot_of_before_there_was_a_second_host_reads() {
        let stored = format!(
            r#"{{"account_sid":"{}","before":{{"SmsUrl":"theirs"}},"set":{{"SmsUrl":"ours"}}}}"#,
            account_sid().as_str()
        );
        let snapshot: Snapshot = serde_json::from_str(&stored).unwrap();
        assert_eq!((snapshot.standing.as_ref(), serde_json::to_string(&snapshot).unwrap()), (None, stored));
    }

    #[test]
    fn disconnecting_restores_ours_only_unless_told_to() {
        let known = snapshot();
        let plan = |now: &str, when| disconnect(Some(&settings(now)), &known, when);
        for when in [WhenChanged::Ask, WhenChanged::Keep, WhenChanged::Restore] {
            assert_eq!(plan("ours", when), Disconnect::Restore);
            assert_eq!(plan("theirs", when), Disconnect::Forget);
            assert_eq!(disconnect(None, &known, when), Disconnect::Forget);
        }
        let changes = vec![Change { setting: "SmsUrl".to_owned(), from: "ours".to_owned(), to: "new".to_owned() }];
        assert_eq!(plan("new", WhenChanged::Ask), Disconnect::Changed(changes));
        assert_eq!(plan("new", WhenChanged::Keep), Disconnect::Forget);
        assert_eq!(plan("new", WhenChanged::Restore), Disconnect::Restore);
    }

    #[test]
    fn a_look_sees_what_changed_and_tells_it_once() {
        let known = snapshot();
        let seen = |now: &str, state| look(Some(&settings(now)), &known, state);
        for state in STATES {
            assert_eq!(seen("ours", state), State::Connected);
            assert_eq!(look(None, &known, state), State::Gone);
            let unfinished = matches!(state, State::Connecting | State::Restoring);
            assert_eq!(seen("theirs", state), if unfinished { state } else { State::Changed });
            let new = if state == State::Connecting { State::Connecting } else { State::Changed };
            assert_eq!(seen("new", state), new);
            assert!(!is_news(state, state));
        }
        assert!(is_news(State::Connected, State::Changed) && is_news(State::Changed, State::Gone));
        assert!(!is_news(State::Changed, State::Connected));
    }

    #[test]
    fn a_cursor_holds_a_mark_and_nothing_else() {
        let mark = PageMark::new(1, "PAPN0123").unwrap();
        assert_eq!(PageMark::parse(&mark.cursor()), Some(mark));
        for wrong in ["", "1", "1.a&b=c", "x.PA", "1.PA/../x", "1.PA#"] {
            assert!(PageMark::parse(wrong).is_none(), "{wrong}");
        }
    }
}
