//! Twilio, scripted: what it answers next, and the journal of what it took.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{State, Strikes, World};
use crate::connection::{PageMark, Trouble};
use crate::credential::{Carrier, Check, CheckCarrier, Sid};
use crate::fault::Fault;
use crate::message::{
    CarrierMedia, CarrierText, CreateMessage, Created, Direction, FetchedMedia, ListArrived, ListAtCarrier, Listed,
    ListedPage, MessageSid, Payload, ReadContent,
};

/// A message that Twilio took, whatever it answered.
#[derive(Clone)]
pub struct Taken {
    /// Twilio's SID.
    pub sid: String,
    /// With which credential.
    pub carrier: Carrier,
    /// From whom.
    pub sender: String,
    /// To whom.
    pub to: String,
    /// The text.
    pub body: String,
    /// Addresses of media.
    pub media_urls: Vec<String>,
    /// Where Twilio tells about it.
    pub status_callback: String,
    /// Twilio gives up after so long.
    pub validity_secs: u32,
    /// When.
    pub at: Timestamp,
}

/// Without the credential, which does not print.
impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sid, sender, to, body, media_urls, status_callback, at, .. } = self;
        write!(f, "Taken({sid} {at} {sender} -> {to} {body:?} {media_urls:?} {status_callback})")
    }
}

/// A check of a credential that Twilio saw.
pub type Checked = Carrier;

/// What Twilio answers to one POST, and whether it took the message.
struct Answer {
    created: Created,
    takes: bool,
}

/// A text that arrived at Twilio, whether its webhook got here or not.
#[derive(Clone)]
pub struct CameIn {
    /// Twilio's SID.
    pub sid: String,
    /// From whom.
    pub from: String,
    /// To which number of the customer's.
    pub to: String,
    /// The text.
    pub body: String,
    /// When.
    pub at: Timestamp,
}

#[derive(Default)]
pub(super) struct Twilio {
    answers: VecDeque<Answer>,
    checks: BTreeMap<String, Check>,
    posts: u32,
    taken: Vec<Taken>,
    /// What became of a message: Twilio's words, by SID.
    words: BTreeMap<String, String>,
    /// Texts that arrived, oldest first.
    arrived: Vec<(String, CameIn)>,
    /// How much later than it took them Twilio lists messages.
    lag: SignedDuration,
    checked: Vec<Checked>,
    texts: BTreeMap<String, Text>,
    fetched: BTreeMap<String, FetchedMedia>,
    reading: u32,
    most_reading: u32,
}

/// A message as Twilio keeps it.
struct Text {
    account_sid: String,
    text: CarrierText,
    media: Vec<CarrierMedia>,
    trouble: Option<Trouble>,
}

impl Twilio {
    fn text(&self, carrier: &Carrier, message: &MessageSid) -> Result<&Text, Trouble> {
        let found = self.texts.get(message.as_str());
        let found = found.filter(|text| text.account_sid == carrier.account_sid.as_str()).ok_or(Trouble::NotFound)?;
        found.trouble.map_or(Ok(found), Err)
    }
}

/// Looks at Twilio and scripts it.
pub struct TwilioView<'a> {
    pub(super) world: &'a World,
}

impl TwilioView<'_> {
    /// Every message that Twilio took, oldest first: what recipients get.
    pub fn taken(&self) -> Vec<Taken> {
        self.world.state().twilio.taken.clone()
    }

    /// How many POSTs came, taken or not.
    pub fn posts(&self) -> u32 {
        self.world.state().twilio.posts
    }

    /// A message that Twilio has, with media of these SIDs and types.
    pub fn add_text(&self, account_sid: &str, sid: &str, mut text: CarrierText, media: &[(Sid, &str)]) {
        text.n_media = u32::try_from(media.len()).unwrap();
        let piece = |(sid, kind): &(Sid, &str)| CarrierMedia { sid: sid.clone(), content_type: (*kind).to_owned() };
        let media = media.iter().map(piece).collect();
        let text = Text { account_sid: account_sid.to_owned(), text, media, trouble: None };
        self.world.state().twilio.texts.insert(sid.to_owned(), text);
    }

    /// The message is deleted at Twilio.
    pub fn delete_text(&self, sid: &str) {
        self.world.state().twilio.texts.remove(sid);
    }

    /// The message's body is removed at Twilio.
    pub fn redact_text(&self, sid: &str) {
        self.change_text(sid, |text| text.text.body.clear());
    }

    /// Every read of this message gets this answer from now on.
    pub fn text_says(&self, sid: &str, trouble: Trouble) {
        self.change_text(sid, |text| text.trouble = Some(trouble));
    }

    fn change_text(&self, sid: &str, change: impl FnOnce(&mut Text)) {
        change(self.world.state().twilio.texts.get_mut(sid).expect("Twilio has the message"));
    }

    /// What a fetch of this piece of media gives.
    pub fn media_says(&self, media: &Sid, fetched: FetchedMedia) {
        self.world.state().twilio.fetched.insert(media.as_str().to_owned(), fetched);
    }

    /// How many messages were read at the same time at most.
    pub fn most_reads_at_once(&self) -> u32 {
        self.world.state().twilio.most_reading
    }

    /// The credentials that were checked.
    pub fn checked(&self) -> Vec<Checked> {
        self.world.state().twilio.checked.clone()
    }

    /// The next POST gets this answer (after those that wait already); only with `Accepted` the message is taken.
    pub fn answer_next(&self, created: Created) {
        let takes = matches!(created, Created::Accepted { .. });
        self.world.state().twilio.answers.push_back(Answer { created, takes });
    }

    /// The next POST is taken and its answer gets lost: the caller sees `Unknown`, the recipient gets the message.
    pub fn lose_next_answer(&self) {
        self.world.state().twilio.answers.push_back(Answer { created: Created::Unknown, takes: true });
    }

    /// Twilio's word for where a message stands from now on; `queued` before.
    pub fn word_of(&self, sid: &str, word: &str) {
        self.world.state().twilio.words.insert(sid.to_owned(), word.to_owned());
    }

    /// Twilio lists what it took only after so long.
    pub fn lists_late(&self, lag: SignedDuration) {
        self.world.state().twilio.lag = lag;
    }

    /// What a check of this Account SID says from now on; without a word of yours every credential works.
    pub fn check_says(&self, account_sid: &str, check: Check) {
        self.world.state().twilio.checks.insert(account_sid.to_owned(), check);
    }
}

impl TwilioView<'_> {
    /// A text arrives at a number of this Twilio account.
    pub fn arrives(&self, account_sid: &str, text: CameIn) {
        self.world.state().twilio.arrived.push((account_sid.to_owned(), text));
    }
}

impl State {
    fn fresh_sid(&mut self) -> String {
        format!("SM{}", data_encoding::HEXLOWER.encode(&self.random::<16>()))
    }
}

impl CheckCarrier for World {
    async fn check_carrier(&self, carrier: &Carrier) -> Result<Check, Fault> {
        self.call("check_carrier", |state| {
            state.twilio.checked.push(carrier.clone());
            let works = Check::Works { friendly_name: Some("A Twilio account".to_owned()), trial: Some(false) };
            Ok(state.twilio.checks.get(carrier.account_sid.as_str()).cloned().unwrap_or(works))
        })
        .await
    }
}

impl Taken {
    fn listed(&self, word: &str) -> Listed {
        let by_service = self.sender.starts_with("MG");
        Listed {
            sid: self.sid.clone(),
            to: self.to.clone(),
            from: (!by_service).then(|| self.sender.clone()),
            service: by_service.then(|| self.sender.clone()),
            body: self.body.clone(),
            n_media: self.media_urls.len(),
            n_segments: 1,
            direction: Direction::Outbound,
            status: word.to_owned(),
            error_code: None,
            created: self.at,
        }
    }
}

impl CameIn {
    fn listed(&self) -> Listed {
        Listed {
            sid: self.sid.clone(),
            to: self.to.clone(),
            from: Some(self.from.clone()),
            service: None,
            body: self.body.clone(),
            n_media: 0,
            n_segments: 1,
            direction: Direction::Inbound,
            status: "received".to_owned(),
            error_code: None,
            created: self.at,
        }
    }
}

impl ListArrived for World {
    async fn list_arrived(
        &self,
        carrier: &Carrier,
        since: Timestamp,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        self.ask("list_arrived", |state| {
            let account_sid = carrier.account_sid.as_str();
            let Twilio { taken, arrived, lag, .. } = &state.twilio;
            let out = taken.iter().filter(|taken| taken.carrier.account_sid.as_str() == account_sid);
            let came = arrived.iter().filter(|(owner, _)| owner == account_sid);
            let mut all: Vec<_> = out.map(|one| one.listed("sent")).chain(came.map(|(_, one)| one.listed())).collect();
            all.retain(|listed| listed.created >= since && listed.created + *lag <= state.now);
            all.sort_by_key(|listed| std::cmp::Reverse(listed.created));
            // A token names the last row of the page before, as Twilio's does.
            let start = from.map_or(0, |mark| {
                let behind = all.iter().position(|listed| mark.token == format!("PA{}", listed.sid));
                behind.map_or(all.len(), |at| at + 1)
            });
            let page = from.map_or(0, |mark| mark.page) + 1;
            let more = all.len() > start + usize::from(limit);
            let messages: Vec<_> = all.into_iter().skip(start).take(usize::from(limit)).collect();
            let next =
                messages.last().filter(|_| more).and_then(|last| PageMark::new(page, &format!("PA{}", last.sid)));
            Ok(ListedPage { messages, next })
        })
        .await
    }
}

impl ListAtCarrier for World {
    async fn list_at_carrier(
        &self,
        carrier: &Carrier,
        to: &str,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        self.ask("list_at_carrier", |state| {
            let Twilio { taken, words, lag, .. } = &state.twilio;
            let account_sid = &carrier.account_sid;
            let shown = |taken: &&Taken| {
                taken.carrier.account_sid == *account_sid && taken.to == to && taken.at + *lag <= state.now
            };
            let (page, limit) = (from.map_or(0, |mark| mark.page), usize::from(limit));
            let skipped = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(limit);
            let all: Vec<_> = taken.iter().rev().filter(shown).collect();
            let rows = all.iter().skip(skipped).take(limit);
            let word = |sid: &str| words.get(sid).map_or("queued", String::as_str);
            let messages: Vec<_> = rows.map(|taken| taken.listed(word(&taken.sid))).collect();
            let more = skipped + messages.len() < all.len();
            Ok(ListedPage { messages, next: PageMark::new(page + 1, "PA").filter(|_| more) })
        })
        .await
    }
}

impl CreateMessage for World {
    async fn create_message(
        &self,
        carrier: &Carrier,
        sender: &str,
        payload: &Payload,
        status_callback: &str,
        validity_secs: u32,
    ) -> Created {
        let answer = self.call("create_message", |state| {
            state.twilio.posts += 1;
            let sid = state.fresh_sid();
            let scripted = state.twilio.answers.pop_front();
            let answer = scripted.unwrap_or(Answer { created: Created::Accepted { sid: sid.clone() }, takes: true });
            if answer.takes {
                let sid = if let Created::Accepted { sid } = &answer.created { sid.clone() } else { sid };
                let text = CarrierText {
                    body: payload.body.clone(),
                    to: payload.to.clone(),
                    from: Some(sender.to_owned()),
                    n_media: 0,
                };
                let account_sid = carrier.account_sid.as_str().to_owned();
                let kept = Text { account_sid, text, media: Vec::new(), trouble: None };
                state.twilio.texts.insert(sid.clone(), kept);
                state.twilio.taken.push(Taken {
                    sid,
                    carrier: carrier.clone(),
                    sender: sender.to_owned(),
                    to: payload.to.clone(),
                    body: payload.body.clone(),
                    media_urls: payload.media_urls.clone(),
                    status_callback: status_callback.to_owned(),
                    validity_secs,
                    at: state.now,
                });
            }
            // A lost answer is one that nobody knows.
            let lost = state.strike("create_message", Strikes::After);
            Ok(if lost.is_some() { Created::Unknown } else { answer.created })
        });
        match answer.await {
            Ok(created) => created,
            Err(Fault::Ambiguous(_)) => Created::Unknown,
            Err(Fault::Transient(_) | Fault::Permanent(_)) => Created::NotProcessed { retry_after_secs: None },
        }
    }
}

impl ReadContent for World {
    async fn read_text(&self, carrier: &Carrier, message: &MessageSid) -> Result<CarrierText, Trouble> {
        {
            let twilio = &mut self.state().twilio;
            twilio.reading += 1;
            twilio.most_reading = twilio.most_reading.max(twilio.reading);
        }
        // Every answer takes a moment, so that reads at the same time can be counted.
        super::step_back(1).await;
        let answer = self.call("read_text", |state| Ok(state.twilio.text(carrier, message).map(|t| t.text.clone())));
        let answer = answer.await;
        self.state().twilio.reading -= 1;
        answer.unwrap_or(Err(Trouble::Unreachable))
    }

    async fn list_media(&self, carrier: &Carrier, message: &MessageSid) -> Result<Vec<CarrierMedia>, Trouble> {
        let answer = self.call("list_media", |state| Ok(state.twilio.text(carrier, message).map(|t| t.media.clone())));
        answer.await.unwrap_or(Err(Trouble::Unreachable))
    }

    async fn fetch_media(&self, carrier: &Carrier, message: &MessageSid, media: &Sid) -> Result<FetchedMedia, Trouble> {
        let answer = self.call("fetch_media", |state| {
            let text = state.twilio.text(carrier, message);
            Ok(text.and_then(|text| {
                let listed = text.media.iter().any(|piece| piece.sid == *media);
                let fetched = state.twilio.fetched.get(media.as_str()).filter(|_| listed);
                fetched.cloned().ok_or(Trouble::NotFound)
            }))
        });
        answer.await.unwrap_or(Err(Trouble::Unreachable))
    }
}
