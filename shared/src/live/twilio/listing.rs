//! What Twilio has of an account's messages (2010-04-01 `Messages`): a list by number, to look for what is not known, and one by time, to
//! look for what arrived.

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::Method;
use serde::Deserialize;

use super::Twilio;
use super::numbers::mark;
use crate::connection::{PageMark, Trouble};
use crate::credential::Carrier;
use crate::live::Live;
use crate::message::{Direction, ListArrived, ListAtCarrier, Listed, ListedPage};

#[derive(Deserialize)]
struct ListAnswer {
    messages: Vec<MessageAnswer>,
    next_page_uri: Option<String>,
}

/// What is not there or null reads as empty: of messages by a service Twilio knows the sender later.
#[derive(Deserialize)]
struct MessageAnswer {
    sid: String,
    to: Option<String>,
    from: Option<String>,
    messaging_service_sid: Option<String>,
    body: Option<String>,
    num_media: Option<String>,
    num_segments: Option<String>,
    direction: String,
    status: String,
    error_code: Option<u32>,
    date_created: String,
}

impl TryFrom<MessageAnswer> for Listed {
    type Error = Trouble;

    fn try_from(answer: MessageAnswer) -> Result<Self, Trouble> {
        let created = rfc2822::parse(&answer.date_created).map_err(|_| Trouble::Unreachable)?;
        let direction = if answer.direction == "inbound" { Direction::Inbound } else { Direction::Outbound };
        let number = |text: Option<String>| text.and_then(|n| n.parse::<u32>().ok());
        Ok(Self {
            sid: answer.sid,
            to: answer.to.unwrap_or_default(),
            from: answer.from,
            service: answer.messaging_service_sid,
            body: answer.body.unwrap_or_default(),
            n_media: number(answer.num_media).and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
            n_segments: number(answer.num_segments).unwrap_or(1),
            direction,
            status: answer.status,
            error_code: answer.error_code,
            created: created.timestamp(),
        })
    }
}

impl ListAtCarrier for Live {
    /// Without a filter by date: what is queued has no `DateSent`. What does not read whole is no list: nothing may be
    /// taken for missing because its line was skipped.
    async fn list_at_carrier(
        &self,
        carrier: &Carrier,
        to: &str,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        self.twilio.list(carrier, ("To", to), limit, from).await
    }
}

impl ListArrived for Live {
    /// For what arrived Twilio's `DateSent` is when it came. What does not read whole is no list here either.
    async fn list_arrived(
        &self,
        carrier: &Carrier,
        since: Timestamp,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        let since = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.twilio.list(carrier, ("DateSent>", &since), limit, from).await
    }
}

impl Twilio {
    async fn list(
        &self,
        carrier: &Carrier,
        filter: (&str, &str),
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<ListedPage, Trouble> {
        let (limit, page) = (limit.to_string(), from.map(|mark| mark.page.to_string()));
        let mut pairs = vec![filter, ("PageSize", limit.as_str())];
        if let (Some(mark), Some(page)) = (from, &page) {
            pairs.extend([("Page", page.as_str()), ("PageToken", mark.token.as_str())]);
        }
        let url = self.url(carrier, "/Messages.json");
        let answer: ListAnswer = self.call(carrier, Method::GET, url, &pairs).await?;
        let next = match answer.next_page_uri {
            Some(uri) => Some(mark(&uri).ok_or(Trouble::Unreachable)?),
            None => None,
        };
        let messages = answer.messages.into_iter().map(Listed::try_from).collect::<Result<_, _>>()?;
        Ok(ListedPage { messages, next })
    }
}
