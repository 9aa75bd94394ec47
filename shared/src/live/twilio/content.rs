//! Messages and their media, read: 2010-04-01 `Messages`, `Media`. Nothing of the answers is logged.

use std::time::Duration;

use reqwest::{Method, Response, header};
use serde::Deserialize;

use super::authorized;
use super::numbers::trouble;
use crate::connection::Trouble;
use crate::credential::{Carrier, Sid};
use crate::live::Live;
use crate::message::{CarrierMedia, CarrierText, CdnUrl, FetchedMedia, MAX_MEDIA_BYTES, MessageSid, ReadContent};

/// Twenty messages are read ten at a time, two calls each: 20 s, within the 30 s that the function has.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct TextAnswer {
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    to: Option<String>,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    num_media: Option<String>,
}

#[derive(Deserialize)]
struct MediaAnswer {
    media_list: Vec<PieceAnswer>,
}

#[derive(Deserialize)]
struct PieceAnswer {
    sid: String,
    #[serde(default)]
    content_type: Option<String>,
}

fn path(message: &MessageSid, rest: &str) -> String {
    format!("/Messages/{}{rest}", message.as_str())
}

impl ReadContent for Live {
    async fn read_text(&self, carrier: &Carrier, message: &MessageSid) -> Result<CarrierText, Trouble> {
        let url = self.twilio.url(carrier, &path(message, ".json"));
        let answer = self.twilio.call(carrier, Method::GET, url, &[]);
        let answer: TextAnswer =
            tokio::time::timeout(READ_TIMEOUT, answer).await.map_err(|_| Trouble::Unreachable)??;
        Ok(CarrierText {
            body: answer.body.unwrap_or_default(),
            to: answer.to.unwrap_or_default(),
            from: answer.from.filter(|from| !from.is_empty()),
            n_media: answer.num_media.and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }

    async fn list_media(&self, carrier: &Carrier, message: &MessageSid) -> Result<Vec<CarrierMedia>, Trouble> {
        let url = self.twilio.url(carrier, &path(message, "/Media.json"));
        let answer = self.twilio.call(carrier, Method::GET, url, &[("PageSize", "10")]);
        let answer: MediaAnswer =
            tokio::time::timeout(READ_TIMEOUT, answer).await.map_err(|_| Trouble::Unreachable)??;
        let piece = |answer: PieceAnswer| {
            let content_type = answer.content_type.unwrap_or_default();
            Some(CarrierMedia { sid: Sid::parse("ME", &answer.sid).ok()?, content_type })
        };
        Ok(answer.media_list.into_iter().filter_map(piece).collect())
    }

    async fn fetch_media(&self, carrier: &Carrier, message: &MessageSid, media: &Sid) -> Result<FetchedMedia, Trouble> {
        let client = self.twilio.client().map_err(|_| Trouble::Unreachable)?;
        // Without ".json": the media, not its description.
        let url = self.twilio.url(carrier, &path(message, &format!("/Media/{}", media.as_str())));
        let answer = authorized(client.get(url), carrier).send().await.map_err(|_| Trouble::Unreachable)?;
        if answer.status().is_redirection() {
            return Ok(redirected(&answer, self.twilio.base.as_deref()));
        }
        if answer.status().is_success() { bytes(answer).await } else { Err(trouble(answer).await) }
    }
}

fn redirected(answer: &Response, double: Option<&str>) -> FetchedMedia {
    let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    CdnUrl::parse(location, double).map_or_else(
        || {
            // Else all media could stop working without anybody knowing why. The host only: the rest is the key to it.
            let host = url::Url::parse(location).ok().and_then(|url| url.host_str().map(str::to_owned));
            tracing::error!(host, "Twilio leads media to an address that is not on the list");
            FetchedMedia::NotAllowed
        },
        FetchedMedia::Elsewhere,
    )
}

/// Reads no more than may be passed on, whatever the answer says of its length.
async fn bytes(mut answer: Response) -> Result<FetchedMedia, Trouble> {
    let content_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| Trouble::Unreachable)? {
        if bytes.len() + chunk.len() > MAX_MEDIA_BYTES {
            return Ok(FetchedMedia::TooLarge);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(FetchedMedia::Bytes { content_type, bytes })
}
