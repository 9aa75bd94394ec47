//! Twilio, simulated: a POST that arrives is taken whatever becomes of its caller, moves from word to word, and reports
//! each. `infra/twilio-double` cannot be used here: it lives on sockets, threads, the machine's clock and its chance.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus as Dice;
use telbuddy::connection::PageMark;
use telbuddy::ids::MessageId;
use telbuddy::message::{Created, Direction, Listed, ListedPage, Payload};

use super::weather::Weather;

/// A message that Twilio took: its recipient gets it.
#[derive(Debug, Clone)]
pub struct Taken {
    pub account_sid: String,
    /// Our id, from the path of the callback.
    pub message: MessageId,
    pub own: String,
    pub to: String,
    pub body: String,
    pub callback: String,
    pub at: Timestamp,
    /// Where it stands, in Twilio's word.
    pub word: &'static str,
    /// How it will end.
    end: &'static str,
    /// The words that were reported to us and answered with 2xx.
    pub heard: Vec<&'static str>,
}

/// A POST under way.
pub struct Post {
    taken: Taken,
    /// What is answered if nobody gave up before.
    answer: Answer,
}

/// What Twilio says to a POST.
#[derive(Debug, Clone)]
enum Answer {
    /// 201 with the SID.
    Sid,
    Other(Created),
}

/// The course of a POST.
pub struct Course {
    pub post: u64,
    /// It arrives after so long and is taken; `None`: never.
    pub arrives: Option<SignedDuration>,
    /// Its caller knows what there is to know after so long.
    pub answered: SignedDuration,
}

/// A report on its way.
#[derive(Debug, Clone)]
pub struct Callback {
    pub sid: String,
    pub word: &'static str,
    pub tries_left: u32,
}

#[derive(Default)]
pub struct SimulatedTwilio {
    last_post: u64,
    posts: BTreeMap<u64, Post>,
    sids: BTreeMap<u64, String>,
    pub taken: BTreeMap<String, Taken>,
    /// How much later than it took them Twilio lists messages.
    lag: SignedDuration,
}

/// Our client waits so long for an answer.
const TIMEOUT: SignedDuration = SignedDuration::from_secs(10);

fn millis(dice: &mut Dice, from: i64, to: i64) -> SignedDuration {
    SignedDuration::from_millis(dice.random_range(from..=to))
}

impl SimulatedTwilio {
    pub fn that_lists_after(lag: SignedDuration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// A POST goes on the wire. Whether it arrives is decided, and no longer depends on its caller.
    pub fn post(
        &mut self,
        (account_sid, own, payload, callback): (&str, &str, &Payload, &str),
        weather: &Weather,
        now: Timestamp,
        dice: &mut Dice,
    ) -> Course {
        let message = callback.split_once('#').map_or(callback, |(url, _)| url).rsplit('/').next().unwrap();
        let end = ["delivered", "delivered", "delivered", "delivered", "undelivered", "failed"];
        let taken = Taken {
            account_sid: account_sid.to_owned(),
            message: message.parse().unwrap(),
            own: own.to_owned(),
            to: payload.to.clone(),
            body: payload.body.clone(),
            callback: callback.to_owned(),
            at: now,
            word: "accepted",
            end: end[dice.random_range(0..end.len())],
            heard: Vec::new(),
        };
        let (there, back) = (millis(dice, 10, 200), millis(dice, 10, 200));
        let not_processed = |secs| Answer::Other(Created::NotProcessed { retry_after_secs: secs });
        let unknown = || Answer::Other(Created::Unknown);
        let (arrives, answer, answered) = if dice.random_range(0..10_000) >= weather.post {
            (Some(there), Answer::Sid, there + back)
        } else {
            match dice.random_range(0..11) {
                // 429; no connection.
                0 => (None, not_processed(Some(dice.random_range(1..20))), there + back),
                1 => (None, not_processed(None), there),
                // It never arrives, or is answered with 5xx and not taken.
                2 => (None, unknown(), TIMEOUT),
                3 => (None, unknown(), there + back),
                // It is taken; 5xx, a reset, no answer.
                4 => (Some(there), unknown(), there + back),
                5 => (Some(there), unknown(), there),
                6 => (Some(there), unknown(), TIMEOUT),
                // It arrives after its caller gave up.
                7 => (Some(millis(dice, 10_000, 60_000)), unknown(), TIMEOUT),
                // Slow, and in time.
                8 => (Some(millis(dice, 1_000, 5_000)), Answer::Sid, millis(dice, 5_000, 9_900)),
                // Not a number; opted out.
                9 => (None, Answer::Other(Created::Rejected { http: 400, code: Some(21_211) }), there + back),
                _ => (None, Answer::Other(Created::Rejected { http: 400, code: Some(21_610) }), there + back),
            }
        };
        self.last_post += 1;
        self.posts.insert(self.last_post, Post { taken, answer });
        Course { post: self.last_post, arrives, answered }
    }

    /// The message that a POST is for.
    pub fn message_of(&self, post: u64) -> MessageId {
        self.posts[&post].taken.message
    }

    /// A POST arrives: from here on its recipient gets the message.
    pub fn arrive(&mut self, post: u64, now: Timestamp, dice: &mut Dice) -> (String, Taken) {
        let sid = format!("SM{:032x}", dice.random::<u128>());
        let taken = Taken { at: now, ..self.posts[&post].taken.clone() };
        self.sids.insert(post, sid.clone());
        self.taken.insert(sid.clone(), taken.clone());
        (sid, taken)
    }

    /// What its caller is told.
    pub fn answer(&self, post: u64) -> Created {
        match (&self.posts[&post].answer, self.sids.get(&post)) {
            (Answer::Sid, Some(sid)) => Created::Accepted { sid: sid.clone() },
            (Answer::Sid, None) => Created::Unknown,
            (Answer::Other(created), _) => created.clone(),
        }
    }

    /// Moves a message to its next word; `None`: it has ended.
    pub fn step(&mut self, sid: &str) -> Option<&'static str> {
        let taken = self.taken.get_mut(sid)?;
        let next = match taken.word {
            "accepted" => "queued",
            "queued" => "sending",
            "sending" if taken.end == "failed" => "failed",
            "sending" => "sent",
            "sent" => taken.end,
            _ => return None,
        };
        taken.word = next;
        Some(next)
    }

    /// A page of what went to a number, newest first.
    pub fn list(&self, (account_sid, to): (&str, &str), limit: u16, page: u32, now: Timestamp) -> ListedPage {
        let shown = |taken: &&Taken| taken.account_sid == account_sid && taken.to == to && taken.at + self.lag <= now;
        let mut all: Vec<_> = self.taken.iter().filter(|(_, taken)| shown(taken)).collect();
        all.sort_by_key(|(_, taken)| std::cmp::Reverse(taken.at));
        let (limit, page_at) = (usize::from(limit), usize::try_from(page).unwrap());
        let listed = |(sid, taken): &(&String, &Taken)| Listed {
            sid: (*sid).clone(),
            to: taken.to.clone(),
            from: Some(taken.own.clone()),
            service: None,
            body: taken.body.clone(),
            n_media: 0,
            n_segments: 1,
            direction: Direction::Outbound,
            status: taken.word.to_owned(),
            error_code: Self::error_code(taken.word),
            // As Twilio gives it: to the second.
            created: Timestamp::from_second(taken.at.as_second()).unwrap(),
        };
        let more = all.len() > (page_at + 1) * limit;
        let messages = all.iter().skip(page_at * limit).take(limit).map(listed).collect();
        ListedPage { messages, next: PageMark::new(page + 1, "PA").filter(|_| more) }
    }

    /// Twilio's error for a word.
    pub fn error_code(word: &str) -> Option<u32> {
        match word {
            "undelivered" => Some(30_003),
            "failed" => Some(30_005),
            _ => None,
        }
    }
}
