//! A day at Twilio, for reconciliation: its messages (2010-04-01 `Messages`) and its `Usage/Records/Daily`. Of a message
//! only SID, segments, direction and time are read.

use jiff::civil::Date;
use jiff::fmt::rfc2822;
use reqwest::Method;
use serde::Deserialize;

use super::numbers::mark;
use crate::connection::{PageMark, Trouble};
use crate::credential::Carrier;
use crate::live::Live;
use crate::message::Direction;
use crate::reconciliation::{AtTwilio, CarrierUsage, DayPage, ReadDay};

#[derive(Deserialize)]
struct ListAnswer {
    messages: Vec<MessageAnswer>,
    next_page_uri: Option<String>,
}

#[derive(Deserialize)]
struct MessageAnswer {
    sid: String,
    num_segments: Option<String>,
    direction: String,
    date_created: String,
    date_sent: Option<String>,
}

impl TryFrom<MessageAnswer> for AtTwilio {
    type Error = Trouble;

    /// What does not read is no answer; what Twilio does not say is not made up.
    fn try_from(answer: MessageAnswer) -> Result<Self, Trouble> {
        let direction = if answer.direction == "inbound" { Direction::Inbound } else { Direction::Outbound };
        // What arrived was sent when it came.
        let sent = answer.date_sent.or((direction == Direction::Inbound).then_some(answer.date_created));
        let sent = sent.map(|sent| rfc2822::parse(&sent)).transpose().map_err(|_| Trouble::Unreachable)?;
        let segments = answer.num_segments.map(|n| n.parse()).transpose().map_err(|_| Trouble::Unreachable)?;
        let segments = segments.filter(|n| *n > 0);
        Ok(Self { sid: answer.sid, segments, sent: sent.map(|sent| sent.timestamp()), direction })
    }
}

#[derive(Deserialize)]
struct RecordsAnswer {
    usage_records: Vec<RecordAnswer>,
}

#[derive(Deserialize)]
struct RecordAnswer {
    category: Option<String>,
    count: Option<String>,
    usage: Option<String>,
    usage_unit: Option<String>,
    as_of: Option<String>,
    start_date: Option<String>,
}

impl ReadDay for Live {
    async fn list_day(
        &self,
        carrier: &Carrier,
        day: Date,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<DayPage, Trouble> {
        let (first, last) = (format!("{day}T00:00:00Z"), format!("{day}T23:59:59Z"));
        let (limit, page) = (limit.to_string(), from.map(|mark| mark.page.to_string()));
        let mut pairs = vec![("DateSent>", first.as_str()), ("DateSent<", &last), ("PageSize", &limit)];
        if let (Some(mark), Some(page)) = (from, &page) {
            pairs.extend([("Page", page.as_str()), ("PageToken", mark.token.as_str())]);
        }
        let url = self.twilio.url(carrier, "/Messages.json");
        let answer: ListAnswer = self.twilio.call(carrier, Method::GET, url, &pairs).await?;
        let next = match answer.next_page_uri {
            Some(uri) => Some(mark(&uri).ok_or(Trouble::Unreachable)?),
            None => None,
        };
        let messages = answer.messages.into_iter().map(AtTwilio::try_from).collect::<Result<_, _>>()?;
        Ok(DayPage { messages, next })
    }

    async fn look_up(&self, carrier: &Carrier, sid: &str) -> Result<Option<AtTwilio>, Trouble> {
        let url = self.twilio.url(carrier, &format!("/Messages/{sid}.json"));
        match self.twilio.call::<MessageAnswer>(carrier, Method::GET, url, &[]).await {
            Ok(answer) => AtTwilio::try_from(answer).map(Some),
            Err(Trouble::NotFound) => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    async fn read_record(&self, carrier: &Carrier, day: Date, category: &str) -> Result<CarrierUsage, Trouble> {
        let day = day.to_string();
        let pairs = [
            ("Category", category),
            ("StartDate", &day),
            ("EndDate", &day),
            // It is true if it is left out.
            ("IncludeSubaccounts", "false"),
        ];
        let url = self.twilio.url(carrier, "/Usage/Records/Daily.json");
        let answer: RecordsAnswer = self.twilio.call(carrier, Method::GET, url, &pairs).await?;
        let fits = |record: &RecordAnswer| {
            record.category.as_deref() == Some(category) && record.start_date.as_deref() == Some(&day)
        };
        let record = answer.usage_records.into_iter().find(fits);
        let mut usage = CarrierUsage::unsaid(category);
        if let Some(record) = record {
            let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
            (usage.count, usage.usage) = (number(record.count), number(record.usage));
            (usage.unit, usage.as_of) = (record.usage_unit, record.as_of);
        }
        Ok(usage)
    }
}
