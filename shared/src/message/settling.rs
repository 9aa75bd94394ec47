//! What is not known is looked for at Twilio: when, what counts as ours, when it is given up, and what a person may
//! decide then. Everything here is a pure function.

use jiff::{SignedDuration, Timestamp};
use zeroize::Zeroize;

use super::{
    Body, Direction, Draft, GIVE_UP, LEAST_VALIDITY, LOOK_AGAIN, MOST_VALIDITY, Message, Payload, Report, Row, Sender,
    Status, apply_report, status_of_twilio,
};
use crate::connection::PageMark;
use crate::credential::{Sid, StoredCredential};
use crate::fault::Fault;
use crate::ids::MessageId;
use crate::number::{E164, SenderId};

/// When Twilio's messages are listed for one that is not known, counted from when it became so, if nothing else is
/// configured ([`Listings`]).
pub const LISTINGS: [SignedDuration; 5] = [
    SignedDuration::from_mins(2),
    SignedDuration::from_mins(5),
    SignedDuration::from_mins(10),
    SignedDuration::from_mins(20),
    SignedDuration::from_mins(30),
];

/// The first of them.
pub const FIRST_LISTING: SignedDuration = LISTINGS[0];

/// Two listings that count are at least so far apart: Twilio may show a message late, and two looks in one second are one.
pub const APART: SignedDuration = SignedDuration::from_mins(2);

/// So many clean listings have to find nothing …
pub const CLEAN_LISTINGS: u32 = 3;

/// … and one of them has to be later than so long before the last of [`Listings`]: as they are by default, later than
/// 25 minutes after the message became unknown.
const BEFORE_LAST: SignedDuration = SignedDuration::from_mins(5);

/// How far Twilio's clock and ours may differ.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(1);

/// How long a person may decide about what is `unconfirmed`. The payload is kept for it, and no longer.
pub const DECIDE_WITHIN: SignedDuration = SignedDuration::from_hours(24);

/// When Twilio's messages are listed for one that is not known, counted from when it became so. They can be made later
/// and more, not sooner or fewer: what is not there after two minutes may still come, and who is told after 25 that a
/// message was most likely not sent may send it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listings(Vec<SignedDuration>);

impl Default for Listings {
    fn default() -> Self {
        Self(LISTINGS.to_vec())
    }
}

impl Listings {
    /// From minutes with commas between them, as in `2,5,10,20,30`: at least three, at least two apart, the first not
    /// before 2, the last from 30 minutes to 23 hours. `None`: they are not.
    pub fn parse(text: &str) -> Option<Self> {
        let minutes = text.split(',').map(|part| part.trim().parse::<i64>().ok()).collect::<Option<Vec<_>>>()?;
        let apart = minutes.iter().zip(minutes.iter().skip(1)).all(|(one, next)| *next >= one.saturating_add(2));
        let (first, last) = (minutes.first().copied()?, minutes.last().copied()?);
        let fits = (3..=100).contains(&minutes.len()) && apart && first >= 2 && (30..=23 * 60).contains(&last);
        fits.then(|| Self(minutes.into_iter().map(SignedDuration::from_mins).collect()))
    }

    /// What a listing has to be later than for the message to be given up.
    fn late(&self) -> SignedDuration {
        self.0.last().map_or(GIVE_UP, |last| *last - BEFORE_LAST)
    }

    /// When to list next after so many clean listings; `None` after the last.
    fn next(&self, unknown_since: Timestamp, n_clean: u32) -> Option<Timestamp> {
        let wait = self.0.get(usize::try_from(n_clean).ok()?)?;
        Some(unknown_since + *wait)
    }
}

/// What was found out about a message of which it is not known, or was not, whether Twilio took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    /// Since when it was not known.
    pub since: Timestamp,
    /// Complete listings that found nothing.
    pub clean: u32,
    /// Until when a person can decide. It is there as long as the payload of an `unconfirmed` message is.
    pub decide_until: Option<Timestamp>,
    /// The message that a person had sent in its place.
    pub resent_as: Option<MessageId>,
}

impl Settling {
    /// Not known from now on.
    pub fn begin(since: Timestamp) -> Self {
        Self { since, clean: 0, decide_until: None, resent_as: None }
    }

    /// The same when the payload is gone.
    #[must_use]
    pub fn decided(self) -> Self {
        Self { decide_until: None, ..self }
    }
}

impl Message {
    /// What was found out so far. A row of before listings began when it was written last.
    pub fn settling(&self) -> Settling {
        self.settling.unwrap_or(Settling::begin(self.updated))
    }
}

/// When the sweeper has to look at a message that a person decided about: its hold may not be given back yet.
pub fn due_after_decision(dropped: &Message) -> Option<Timestamp> {
    (!dropped.settled).then(|| dropped.updated + LOOK_AGAIN)
}

/// When to list for a message next; `None` if there is nothing to find out.
pub fn listing_due(message: &Message, listings: &Listings) -> Option<Timestamp> {
    let settling = message.settling();
    let apart = message.updated + APART;
    (message.status == Status::Unknown)
        .then(|| listings.next(settling.since, settling.clean).map_or(apart, |at| at.max(apart)))
}

/// When to ask again after Twilio could not be asked: the longer it has been, the less often; not after it is given up.
pub fn ask_again(message: &Message, now: Timestamp) -> Timestamp {
    let since = message.settling().since;
    let wait = now.duration_since(since) / 8;
    let wait = wait.clamp(SignedDuration::from_mins(1), SignedDuration::from_mins(30));
    (now + wait).min((since + GIVE_UP).max(now + SignedDuration::from_mins(1)))
}

/// The message after a complete listing, begun `at`, that found nothing: counted, or given up.
pub fn after_clean_listing(message: &Message, at: Timestamp, listings: &Listings) -> Message {
    let settling = message.settling();
    let clean = settling.clean + 1;
    let counted = Message {
        settling: Some(Settling { clean, ..settling }),
        updated: at,
        revision: message.revision + 1,
        ..message.clone()
    };
    if clean >= CLEAN_LISTINGS && at.duration_since(settling.since) > listings.late() {
        return Message { revision: message.revision + 1, ..unconfirmed(&counted, at) };
    }
    counted
}

/// Given up: shown to the customer, who may decide for a day.
pub fn unconfirmed(message: &Message, now: Timestamp) -> Message {
    let settling = Settling { decide_until: Some(now + DECIDE_WITHIN), ..message.settling() };
    Message {
        status: Status::Unconfirmed,
        settling: Some(settling),
        updated: now,
        revision: message.revision + 1,
        ..message.clone()
    }
}

/// The message after a person's decision: it is over, and if it was sent again it says as what.
pub fn dropped(message: &Message, resent_as: Option<MessageId>, now: Timestamp) -> Message {
    Message {
        status: Status::Dropped,
        settling: Some(Settling { resent_as, ..message.settling().decided() }),
        updated: now,
        revision: message.revision + 1,
        ..message.clone()
    }
}

/// The message when its time to decide is over: nothing else changes.
pub fn undecided(message: &Message, now: Timestamp) -> Message {
    let settling = message.settling.map(Settling::decided);
    Message { settling, updated: now, revision: message.revision + 1, ..message.clone() }
}

/// Until when a person can decide about a message; `None` if there is nothing to decide.
pub fn decidable_until(message: &Message) -> Option<Timestamp> {
    message.settling.and_then(|settling| settling.decide_until).filter(|_| message.status == Status::Unconfirmed)
}

/// What a person has sent again: the same to the same, under the rules of now.
pub fn draft_again(message: &Message, payload: &Payload, now: Timestamp) -> Result<(Row, Draft), Fault> {
    let unreadable = || Fault::permanent("a stored message cannot be sent again");
    let sender = match Sid::parse("MG", &message.own) {
        Ok(sid) => Sender::Service(sid),
        Err(_) => Sender::Id(SenderId::parse(&message.own).map_err(|_| unreadable())?),
    };
    let media_urls = payload.media_urls.iter().map(|url| url::Url::parse(url));
    let validity = message.valid_until.duration_since(earliest(message)).clamp(LEAST_VALIDITY, MOST_VALIDITY);
    let draft = Draft {
        sender,
        media_urls: media_urls.collect::<Result<_, _>>().map_err(|_| unreadable())?,
        send_at: None,
        validity,
    };
    let to = E164::parse(&payload.to, None).map_err(|_| unreadable())?;
    let body = Body::parse(payload.body.clone()).map_err(|_| unreadable())?;
    Ok((draft.row(to, body, now), draft))
}

/// The earliest time at which the message can have reached Twilio, by our clock.
fn earliest(message: &Message) -> Timestamp {
    message.held_until.map_or(message.created, |until| until.max(message.created))
}

/// Whether a listing with this credential can prove that the message is not there: one that came later may be another
/// Twilio account's.
pub fn proves(credential: &StoredCredential, message: &Message) -> bool {
    credential.connected_at <= earliest(message)
}

/// A message as Twilio lists it. It does not print: number and text are other people's.
pub struct Listed {
    /// Twilio's SID.
    pub sid: String,
    /// To whom.
    pub to: String,
    /// From whom, once Twilio has chosen.
    pub from: Option<String>,
    /// The messaging service that it was handed to.
    pub service: Option<String>,
    /// The text.
    pub body: String,
    /// How many pieces of media.
    pub n_media: usize,
    /// How many segments, as Twilio counts.
    pub n_segments: u32,
    /// Which way.
    pub direction: Direction,
    /// Twilio's word for where it stands.
    pub status: String,
    /// Twilio's error code.
    pub error_code: Option<u32>,
    /// When Twilio took it, to the second.
    pub created: Timestamp,
}

impl std::fmt::Debug for Listed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listed({} {} {})", self.sid, self.status, self.created)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.to.zeroize();
        self.from.zeroize();
        self.body.zeroize();
    }
}

/// A page of Twilio's list, newest first.
#[derive(Debug)]
pub struct ListedPage {
    /// The messages.
    pub messages: Vec<Listed>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<PageMark>,
}

/// What Twilio puts in front of every text of a trial account.
const TRIAL: &str = "Sent from your Twilio trial account - ";

impl Listed {
    /// Whether it can be the message: the same recipient, sender, text and number of media, taken at a time when ours
    /// was there and could still arrive. Identical messages are interchangeable, so nothing more is needed.
    pub fn can_be(&self, message: &Message, payload: &Payload) -> bool {
        let sender = if Sid::parse("MG", &message.own).is_ok() { &self.service } else { &self.from };
        self.direction == Direction::Outbound
            && self.to == payload.to
            && sender.as_deref() == Some(&message.own)
            && (self.body == payload.body || self.body.strip_prefix(TRIAL) == Some(&payload.body))
            && self.n_media == payload.media_urls.len()
            && !self.is_before(message)
            && !self.is_after(message)
    }

    /// Whether Twilio took it before ours can have come.
    pub fn is_before(&self, message: &Message) -> bool {
        self.created < earliest(message) - CLOCK_SKEW
    }

    /// Whether Twilio took it when nothing of ours can have been on its way any more: it is an identical message's.
    fn is_after(&self, message: &Message) -> bool {
        self.created > message.settling().since + FIRST_LISTING + CLOCK_SKEW
    }

    /// What it says about the message that it is.
    pub fn report(&self) -> Report {
        let status = status_of_twilio(&self.status).unwrap_or(Status::Sent);
        Report { sid: self.sid.clone(), status, error_code: self.error_code }
    }
}

/// The message with what Twilio says of it, if it still is one to look for.
pub fn adopt(message: &Message, report: &Report, now: Timestamp) -> Option<Message> {
    if message.status != Status::Unknown || message.sid.is_some() {
        return None;
    }
    apply_report(message, report, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential::{CredentialKind, Region};
    use crate::ids::AccountId;
    use crate::ledger::MicroCredits;
    use crate::message::{Format, VALIDITY};
    use crate::seal::Sealed;
    use crate::secret::HookId;

    const OWN: &str = "+15005550006";
    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn mins(n: i64) -> SignedDuration {
        SignedDuration::from_mins(n)
    }

    fn unknown() -> Message {
        Message {
            id: MessageId::from_bits(1),
            account: AccountId::from_bits(1),
            direction: Direction::Outbound,
            format: Format::Sms,
            status: Status::Unknown,
            revision: 2,
            sid: None,
            own: OWN.to_owned(),
            other_hash: String::new(),
            country: None,
            segments: 1,
            encoding: None,
            held: MicroCredits::whole(1),
            price_version: String::new(),
            error_code: None,
            reason: None,
            attempts: 1,
            settled: false,
            released: false,
            settling: Some(Settling::begin(START)),
            created: START,
            held_until: None,
            valid_until: START + VALIDITY,
            updated: START,
        }
    }

    fn payload() -> Payload {
        Payload { to: "+14155552671".to_owned(), body: "hello".to_owned(), media_urls: Vec::new() }
    }

    fn listed() -> Listed {
        Listed {
            sid: "SM1".to_owned(),
            to: "+14155552671".to_owned(),
            from: Some(OWN.to_owned()),
            service: None,
            body: "hello".to_owned(),
            n_media: 0,
            n_segments: 1,
            direction: Direction::Outbound,
            status: "delivered".to_owned(),
            error_code: None,
            created: START,
        }
    }

    /// Listings in time, all clean: when they are, and how it ends.
    #[test]
    fn clean_listings_at_two_five_ten_twenty_and_thirty_minutes_give_up() {
        let mut message = unknown();
        let mut times = Vec::new();
        while let Some(at) = listing_due(&message, &Listings::default()) {
            times.push(at.duration_since(START).as_mins());
            message = after_clean_listing(&message, at, &Listings::default());
            assert_eq!(message.revision, 2 + u32::try_from(times.len()).unwrap());
        }
        assert_eq!((times, message.status), (vec![2, 5, 10, 20, 30], Status::Unconfirmed));
        assert_eq!(decidable_until(&message), Some(START + mins(30) + DECIDE_WITHIN));
    }

    #[test]
    fn early_listings_alone_never_give_up_and_neither_do_two_late_ones() {
        let status = |n_clean, at| {
            let settling = Settling { clean: n_clean, ..Settling::begin(START) };
            after_clean_listing(&Message { settling: Some(settling), ..unknown() }, START + at, &Listings::default())
                .status
        };
        assert_eq!(status(40, mins(25)), Status::Unknown);
        assert_eq!(status(1, mins(600)), Status::Unknown);
        assert_eq!(status(2, mins(25) + SignedDuration::from_secs(1)), Status::Unconfirmed);
    }

    #[test]
    fn listings_can_be_made_later_and_more_and_not_sooner_or_fewer() {
        assert_eq!(Listings::parse("2,5,10,20,30"), Some(Listings::default()));
        for wrong in
            ["", "2", "2,30", "1,5,30", "2,5,29", "2,3,30", "5,2,30", "2,5,1381", "2,five,30", "2,5,,30", "-2,5,30"]
        {
            assert_eq!(Listings::parse(wrong), None, "{wrong}");
        }
        let long = Listings::parse("4, 20, 60, 120").unwrap();
        let mut message = unknown();
        let mut asked = Vec::new();
        while let Some(at) = listing_due(&message, &long) {
            asked.push(at.duration_since(START).as_mins());
            message = after_clean_listing(&message, at, &long);
        }
        assert_eq!((asked, message.status), (vec![4, 20, 60, 120], Status::Unconfirmed), "not given up at the third");
    }

    #[test]
    fn listings_that_come_late_are_still_apart() {
        let mut message = unknown();
        let mut at = START + mins(90);
        for _ in 0..2 {
            assert!(listing_due(&message, &Listings::default()).unwrap() <= at);
            message = after_clean_listing(&message, at, &Listings::default());
            assert_eq!(listing_due(&message, &Listings::default()), Some(at + APART));
            at += APART;
        }
        assert_eq!(after_clean_listing(&message, at, &Listings::default()).status, Status::Unconfirmed);
    }

    #[test]
    fn whoever_cannot_be_asked_is_asked_less_and_less_often_and_not_beyond_the_day() {
        let wait = |age: i64| ask_again(&unknown(), START + mins(age)).duration_since(START + mins(age)).as_secs();
        assert_eq!([2, 40, 400].map(wait), [60, 300, 1_800]);
        assert_eq!(ask_again(&unknown(), START + GIVE_UP - mins(5)), START + GIVE_UP);
        assert!(ask_again(&unknown(), START + GIVE_UP) > START + GIVE_UP);
    }

    /// [`listed`] but for this.
    fn but(change: impl FnOnce(&mut Listed)) -> Listed {
        let mut one = listed();
        change(&mut one);
        one
    }

    #[test]
    fn only_what_fits_in_everything_is_ours() {
        let at = |secs| but(|one| one.created = START - SignedDuration::from_secs(secs));
        for ours in [listed(), but(|one| one.body = format!("{TRIAL}hello")), at(60), at(-180)] {
            assert!(ours.can_be(&unknown(), &payload()), "{ours:?}");
        }
        let others = [
            but(|one| one.to = "+14155552672".to_owned()),
            but(|one| one.from = Some("+15005550009".to_owned())),
            but(|one| one.from = None),
            but(|one| one.body = "hello ".to_owned()),
            but(|one| one.n_media = 1),
            but(|one| one.direction = Direction::Inbound),
            at(61),
            at(-181),
        ];
        for other in others {
            assert!(!other.can_be(&unknown(), &payload()), "{other:?}");
        }
    }

    #[test]
    fn a_messaging_service_is_the_sender_whatever_number_it_chose() {
        let service = format!("MG{}", "0".repeat(32));
        let message = Message { own: service.clone(), ..unknown() };
        assert!(!listed().can_be(&message, &payload()));
        let by_service = but(|one| one.service = Some(service));
        assert!(by_service.can_be(&message, &payload()));
        assert!(by_service.can_be(&unknown(), &payload()), "its number was ours too");
    }

    #[test]
    fn what_was_held_cannot_have_been_sent_before() {
        let message = Message { held_until: Some(START + mins(60)), ..unknown() };
        assert!(listed().is_before(&message) && !listed().is_before(&unknown()));
    }

    #[test]
    fn a_credential_that_came_after_the_message_proves_nothing() {
        let credential = |at| StoredCredential {
            account: AccountId::from_bits(1),
            version: 1,
            account_sid: Sid::parse("AC", &format!("AC{}", "0".repeat(32))).unwrap(),
            region: Region::Us1,
            kind: CredentialKind::AuthToken,
            friendly_name: None,
            trial: None,
            connected_at: at,
            secret_since: at,
            hook: HookId::new(AccountId::from_bits(1), [0; 16]),
            send: Sealed(Vec::new()),
            verify: Sealed(Vec::new()),
            previous: Vec::new(),
        };
        assert!(proves(&credential(START), &unknown()));
        assert!(!proves(&credential(START + mins(1)), &unknown()));
    }

    #[test]
    fn what_twilio_says_of_it_is_its_status_and_a_word_that_is_not_known_is_sent() {
        let after = |word: &str| {
            let one = but(|one| one.status = word.to_owned());
            adopt(&unknown(), &one.report(), START).unwrap()
        };
        assert_eq!(after("delivered").status, Status::Delivered);
        assert_eq!(after("receiving").status, Status::Sent);
        let sent = after("queued");
        assert_eq!((sent.status, sent.sid.as_deref(), sent.revision), (Status::Sent, Some("SM1"), 3));
        assert_eq!(adopt(&sent, &listed().report(), START), None, "it is known already");
    }

    #[test]
    fn what_is_sent_again_is_the_same_to_the_same() {
        let service = format!("MG{}", "0".repeat(32));
        for own in [OWN, &service] {
            let held = Some(START + mins(60));
            let valid_until = START + mins(60) + VALIDITY;
            let message = Message { own: own.to_owned(), held_until: held, valid_until, ..unknown() };
            let (to, media_urls) = (payload().to.clone(), vec!["https://example.com/a.png".to_owned()]);
            let payload = Payload { to, body: String::new(), media_urls };
            let (row, draft) = draft_again(&message, &payload, START).unwrap();
            assert_eq!((row.to.as_str(), draft.sender.as_str(), row.body.as_str()), ("+14155552671", own, ""));
            assert_eq!((draft.media_urls.len(), draft.send_at, draft.validity), (1, None, VALIDITY));
        }
    }

    #[test]
    fn it_does_not_print_what_is_other_peoples() {
        let text = format!("{:?}", listed());
        assert!(!text.contains("hello") && !text.contains("4155552671"), "{text}");
    }
}
