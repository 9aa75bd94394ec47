//! What a caller may ask to be sent, and how it is parsed.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use telbuddy::credential::Sid;
use telbuddy::edge::{Fields, Problem};
use telbuddy::ids::TemplateId;
use telbuddy::message::{
    Body, Draft, LEAST_VALIDITY, MAX_MEDIA, MOST_AHEAD, MOST_RECIPIENTS, MOST_VALIDITY, Sender, VALIDITY,
};
use telbuddy::number::{Country, E164, SenderId};
use telbuddy::template::FieldValues;

/// A message to send.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendMessage {
    /// The recipient: +14155552671, or a national number of your account's country. Or an array of up to 1,000: each is
    /// a message of its own, with a result of its own.
    to: To,
    /// One of your Twilio numbers, a short code or an alphanumeric name. This or `messaging_service_sid`.
    #[schema(example = "+15005550006")]
    from: Option<String>,
    /// A Twilio messaging service that chooses the number.
    #[schema(example = "MG00000000000000000000000000000000")]
    messaging_service_sid: Option<String>,
    /// The text, up to 1,600 characters; may be left out beside media.
    #[schema(example = "Your table is ready.", max_length = 1600)]
    #[serde(default)]
    body: String,
    /// A stored text with fields, in place of `body`.
    template: Option<UseTemplate>,
    /// Up to 10 https addresses of media, which Twilio fetches.
    #[serde(default)]
    media_urls: Vec<String>,
    /// Not before then, at most 35 days ahead; held here, so that an opt-out, a freeze or a cancel still counts.
    #[schema(format = "date-time", example = "2026-12-24T09:00:00Z")]
    send_at: Option<String>,
    /// How long it may wait once it may go, 60 to 36,000 seconds; 14,400 if left out. Then it expires unsent.
    #[schema(example = 14_400, minimum = 60, maximum = 36_000)]
    validity_seconds: Option<u32>,
}

/// A stored text, and what its fields are filled with.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UseTemplate {
    /// The template's id.
    #[schema(example = "tpl_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: String,
    /// A text for each field; for an array of recipients those that are the same for all.
    #[serde(default)]
    fields: FieldValues,
}

/// One recipient or many.
#[derive(utoipa::ToSchema)]
#[schema(example = "+14155552671")]
#[serde(untagged)]
pub enum To {
    /// One: the answer is one object.
    One(String),
    /// Many: the answer has a result for each.
    Many(Vec<ToRow>),
}

/// One of many recipients.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
pub enum ToRow {
    /// The number.
    Number(String),
    /// The number, and what the template's fields are filled with for this recipient.
    Filled(FilledRow),
}

/// A recipient with texts of its own.
#[derive(serde::Deserialize, utoipa::ToSchema)]
#[schema(as = Recipient)]
#[serde(deny_unknown_fields)]
pub struct FilledRow {
    /// The number.
    #[schema(example = "+14155552671")]
    to: String,
    /// Texts for the template's fields; they come before those for all.
    #[serde(default)]
    fields: FieldValues,
}

impl<'de> Deserialize<'de> for ToRow {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Row;

        impl<'de> Visitor<'de> for Row {
            type Value = ToRow;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a phone number, or an object with to and fields")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ToRow, E> {
                Ok(ToRow::Number(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, row: A) -> Result<ToRow, A::Error> {
                FilledRow::deserialize(MapAccessDeserializer::new(row)).map(ToRow::Filled)
            }
        }

        from.deserialize_any(Row)
    }
}

/// By hand, so that what does not fit is told in words that help.
impl<'de> Deserialize<'de> for To {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Recipients;

        impl<'de> Visitor<'de> for Recipients {
            type Value = To;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a phone number, or an array of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<To, E> {
                Ok(To::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<To, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = all.next_element()? {
                    rows.push(row);
                }
                Ok(To::Many(rows))
            }
        }

        from.deserialize_any(Recipients)
    }
}

/// To whom a draft goes.
pub(crate) enum Recipients {
    /// One.
    One(E164),
    /// Many, as they were written: each is decided by itself.
    Many(Vec<Recipient>),
}

/// One of many.
pub(crate) struct Recipient {
    /// As it was written.
    pub to: String,
    /// What its fields are filled with.
    pub fields: FieldValues,
}

impl From<ToRow> for Recipient {
    fn from(row: ToRow) -> Self {
        match row {
            ToRow::Number(to) => Self { to, fields: FieldValues::default() },
            ToRow::Filled(FilledRow { to, fields }) => Self { to, fields },
        }
    }
}

/// What a message says.
pub(crate) enum Words {
    /// This.
    Body(Body),
    /// What a template says, with these values for all.
    Template(TemplateId, FieldValues),
}

/// What was asked, parsed.
pub(crate) struct Ask {
    pub recipients: Recipients,
    pub words: Words,
    pub draft: Draft,
}

impl SendMessage {
    /// The template that is asked for, if its id is one.
    pub(crate) fn template(&self) -> Option<TemplateId> {
        self.template.as_ref()?.id.parse().ok()
    }
}

/// Parses what was asked; every field at fault is named. `now` is `None` for a key that was used before: that the time lay
/// ahead was checked then, and a repetition has to read the same when it is past.
pub(crate) fn parse(ask: SendMessage, home: Country, now: Option<Timestamp>) -> Result<Ask, Problem> {
    let mut fields = Fields::default();
    let recipients = match ask.to {
        To::One(text) => fields.take("to", E164::parse(&text, Some(home))).map(Recipients::One),
        To::Many(rows) if (1..=MOST_RECIPIENTS).contains(&rows.len()) => {
            Some(Recipients::Many(rows.into_iter().map(Recipient::from).collect()))
        }
        To::Many(_) => {
            fields.add("to", "wrong_count", format!("give 1 to {MOST_RECIPIENTS} recipients"));
            None
        }
    };
    let sender = match (ask.from, ask.messaging_service_sid) {
        (Some(from), None) => fields.take("from", SenderId::parse(&from)).map(Sender::Id),
        (None, Some(sid)) => fields.take("messaging_service_sid", Sid::parse("MG", &sid)).map(Sender::Service),
        _ => {
            fields.add("from", "one_of", "give either from or messaging_service_sid, and not both".to_owned());
            None
        }
    };
    if let (None, Some(Recipients::Many(rows))) = (&ask.template, &recipients)
        && let Some(at) = rows.iter().position(|row| !row.fields.is_empty())
    {
        fields.add(&format!("to[{at}].fields"), "no_template", "these are for a template; none is given".to_owned());
    }
    let words = words(&mut fields, ask.body, ask.template, !ask.media_urls.is_empty());
    let media_urls = media(&mut fields, &ask.media_urls);
    let send_at = ask.send_at.and_then(|text| send_at(&mut fields, &text, now));
    let validity = ask.validity_seconds.map_or(VALIDITY, |secs| SignedDuration::from_secs(i64::from(secs)));
    if !(LEAST_VALIDITY..=MOST_VALIDITY).contains(&validity) {
        let (least, most) = (LEAST_VALIDITY.as_secs(), MOST_VALIDITY.as_secs());
        fields.add("validity_seconds", "invalid", format!("give {least} to {most}"));
    }
    match (recipients, sender, words) {
        (Some(recipients), Some(sender), Some(words)) => {
            fields.done(Ask { recipients, words, draft: Draft { sender, media_urls, send_at, validity } })
        }
        _ => Err(fields.into_problem()),
    }
}

fn words(fields: &mut Fields, body: String, template: Option<UseTemplate>, has_media: bool) -> Option<Words> {
    match template {
        Some(_) if !body.is_empty() => {
            fields.add("body", "one_of", "give either body or template, and not both".to_owned());
            None
        }
        Some(UseTemplate { id, fields: values }) => {
            fields.take("template.id", id.parse()).map(|id| Words::Template(id, values))
        }
        None => {
            if body.is_empty() && !has_media {
                fields.add("body", "missing", "give a text, a template, or media".to_owned());
            }
            fields.take("body", Body::parse(body)).map(Words::Body)
        }
    }
}

fn media(fields: &mut Fields, texts: &[String]) -> Vec<url::Url> {
    if texts.len() > MAX_MEDIA {
        fields.add("media_urls", "too_many", format!("at most {MAX_MEDIA}"));
    }
    let mut urls = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        match url::Url::parse(text) {
            Ok(url) if url.scheme() == "https" && url.host_str().is_some() => urls.push(url),
            _ => fields.add(
                &format!("media_urls[{at}]"),
                "invalid",
                "give an https address that Twilio can fetch".to_owned(),
            ),
        }
    }
    urls
}

fn send_at(fields: &mut Fields, text: &str, now: Option<Timestamp>) -> Option<Timestamp> {
    let Ok(at) = text.parse::<Timestamp>() else {
        let detail = "give a time with its offset, such as 2026-12-24T09:00:00Z".to_owned();
        fields.add("send_at", "invalid", detail);
        return None;
    };
    if now.is_some_and(|now| at <= now || at > now + MOST_AHEAD) {
        let days = MOST_AHEAD.as_hours() / 24;
        fields.add("send_at", "out_of_range", format!("give a time from now on, at most {days} days ahead"));
    }
    Some(at)
}
