//! What a message says: read live from Twilio, kept nowhere (promise N1). And where its media may be fetched.

use std::fmt;

use serde::Serialize;
use url::Url;

use crate::connection::Trouble;
use crate::credential::Sid;

/// Largest media that is passed on, in bytes: as base64 it has to fit into an answer of Lambda (6 MB).
pub const MAX_MEDIA_BYTES: usize = 4 * 1024 * 1024;

/// Twilio's SID of a message, checked for form: two letters and 32 hexadecimal digits, so that it is one segment of a
/// path and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSid(String);

impl MessageSid {
    /// Reads `SM…` or `MM…`.
    pub fn parse(text: &str) -> Option<Self> {
        let good = Sid::parse("SM", text).is_ok() || Sid::parse("MM", text).is_ok();
        good.then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A message as Twilio has it. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct CarrierText {
    /// The text.
    pub body: String,
    /// To whom.
    pub to: String,
    /// From whom; none while a messaging service has not chosen.
    pub from: Option<String>,
    /// How many pieces of media it has.
    pub n_media: u32,
}

impl fmt::Debug for CarrierText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CarrierText({} bytes, {} media)", self.body.len(), self.n_media)
    }
}

impl CarrierText {
    /// Twilio takes no message without text and media: one that has neither lost them. (A phone can send one; it looks
    /// the same.)
    pub fn is_redacted(&self) -> bool {
        self.body.is_empty() && self.n_media == 0
    }
}

/// A piece of media as Twilio lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarrierMedia {
    /// `ME…`.
    pub sid: Sid,
    /// Its type, as Twilio says.
    pub content_type: String,
}

/// What a message says. It does not print.
#[derive(Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Content {
    /// The text.
    #[schema(example = "Your table is ready.")]
    pub body: String,
    /// To whom.
    #[schema(example = "+14155552671")]
    pub to: String,
    /// From whom; null while a messaging service has not chosen.
    pub from: Option<String>,
    /// Its media.
    pub media: Vec<MediaPiece>,
}

/// A piece of media of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MediaPiece {
    /// Its place, from 0: `GET /v1/messages/{id}/media/{n}`.
    pub n: usize,
    /// Its type, as Twilio says.
    #[schema(example = "image/jpeg")]
    pub content_type: String,
}

impl Content {
    /// Of what Twilio answered.
    pub fn new(text: CarrierText, media: Vec<CarrierMedia>) -> Self {
        let piece = |(n, one): (usize, CarrierMedia)| MediaPiece { n, content_type: one.content_type };
        let media = media.into_iter().enumerate().map(piece).collect();
        Self { body: text.body, to: text.to, from: text.from, media }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes, {} media)", self.body.len(), self.media.len())
    }
}

/// Why a message's content is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unavailable {
    /// It has no SID: it was not handed over yet, or never.
    NotAtTwilioYet,
    /// Twilio does not have it: it was deleted there.
    GoneAtTwilio,
    /// Its text was removed at Twilio.
    Redacted,
    /// Twilio cannot be asked right now, refuses the credential, or none is connected.
    TwilioUnavailable,
}

impl From<Trouble> for Unavailable {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::NotFound => Self::GoneAtTwilio,
            Trouble::Refused
            | Trouble::Inactive
            | Trouble::NotAllowed
            | Trouble::Busy
            | Trouble::Rejected(_)
            | Trouble::Unreachable => Self::TwilioUnavailable,
        }
    }
}

/// What Twilio answers for a piece of media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedMedia {
    /// It is there.
    Elsewhere(CdnUrl),
    /// Here it is.
    Bytes {
        /// Its type, as Twilio says.
        content_type: String,
        /// At most [`MAX_MEDIA_BYTES`].
        bytes: Vec<u8>,
    },
    /// It is larger than [`MAX_MEDIA_BYTES`].
    TooLarge,
    /// Twilio leads to a host that is not on the list.
    NotAllowed,
}

/// An address of Twilio's media store. The caller is sent there; we never call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdnUrl(String);

/// Hosts that Twilio's media API leads to, with what their paths start with. `mms.twiliocdn.com` serves signed addresses
/// (HTTP authentication for media is on), `s3-external-1.amazonaws.com` those of before; both are in Twilio's help
/// article "Protect Media Access". `media.twiliocdn.com` was used for media too; it also serves SDKs.
const CDN: [(&str, &str); 3] = [
    ("mms.twiliocdn.com", "/"),
    ("media.twiliocdn.com", "/AC"),
    ("s3-external-1.amazonaws.com", "/media.twiliocdn.com/AC"),
];

impl CdnUrl {
    /// Takes the `Location` of Twilio's answer if it is https on one of the hosts, without a user, port or fragment.
    /// Only the one spelling that a parser writes itself is taken: what two parsers could read differently is refused.
    /// `double`: the origin of a Twilio double on this machine, which is its own media store.
    pub fn parse(location: &str, double: Option<&str>) -> Option<Self> {
        let url = Url::parse(location).ok()?;
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if url.as_str() != location || location.len() > 4096 || !plain || hides_a_step(url.path()) {
            return None;
        }
        let of_double = double
            .and_then(|double| Url::parse(double).ok())
            .is_some_and(|double| double.origin() == url.origin() && double.origin().is_tuple());
        let host = url.host_str()?;
        let of_twilio = url.scheme() == "https"
            && url.port().is_none()
            && CDN.iter().any(|(known, path)| *known == host && url.path().starts_with(path) && url.path() != "/");
        (of_double || of_twilio).then(|| Self(location.to_owned()))
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a path has a dot or a slash in disguise, which a server might decode and follow out of its folder.
fn hides_a_step(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ["%2e", "%2f", "%5c", "%00", "%25"].iter().any(|hidden| path.contains(hidden))
}

/// The types that a browser may show; it does not run anything in them.
const SHOWN: [&str; 14] = [
    "image/jpeg",
    "image/png",
    "image/gif",
    "image/webp",
    "image/bmp",
    "image/tiff",
    "audio/mpeg",
    "audio/mp4",
    "audio/ogg",
    "audio/amr",
    "audio/3gpp",
    "video/mp4",
    "video/3gpp",
    "video/quicktime",
];

/// The type to pass media on with; `None`: as a file to be saved, never to be shown.
pub fn shown_type(content_type: &str) -> Option<&'static str> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    SHOWN.into_iter().find(|shown| shown.eq_ignore_ascii_case(essence))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AC: &str = "AC0123456789abcdef0123456789abcdef";

    #[test]
    fn twilios_media_hosts_are_taken_as_they_are() {
        for good in [
            format!("https://mms.twiliocdn.com/{AC}/0a1b?Expires=1&Signature=a~b-c_d&Key-Pair-Id=K"),
            format!("https://media.twiliocdn.com/{AC}/0a1b?Signature=a%2Bb%3D"),
            format!("https://s3-external-1.amazonaws.com/media.twiliocdn.com/{AC}/0a1b"),
        ] {
            assert_eq!(CdnUrl::parse(&good, None).map(|url| url.as_str().to_owned()), Some(good.clone()), "{good}");
        }
    }

    #[test]
    fn every_other_address_is_refused() {
        for bad in [
            // Other hosts, and hosts that look alike.
            "https://evil.example/x",
            "https://twiliocdn.com/x",
            "https://evil.mms.twiliocdn.com/x",
            "https://mms.twiliocdn.com.evil.example/x",
            "https://mms.twiliocdn.com./x",
            "https://evilmms.twiliocdn.com/x",
            "https://mms-twiliocdn.com/x",
            "https://api.twilio.com/2010-04-01/Accounts",
            "https://mms.twiliocdn.xn--om-njc/x",
            "https://xn--mms-8cd.twiliocdn.com/x",
            "https://mms.twіliocdn.com/x",
            "https://mms.twiliocdn。com/x",
            "https://MMS.twiliocdn.com/x",
            "https://%6dms.twiliocdn.com/x",
            // A user in front of the host.
            "https://mms.twiliocdn.com@evil.example/x",
            "https://mms.twiliocdn.com:x@evil.example/x",
            "https://user@mms.twiliocdn.com/x",
            "https://:pass@mms.twiliocdn.com/x",
            "https://@mms.twiliocdn.com/x",
            "https://evil.example#@mms.twiliocdn.com/x",
            "https://evil.example?@mms.twiliocdn.com/x",
            // Backslashes, control characters, spaces.
            r"https://evil.example\@mms.twiliocdn.com/x",
            r"https:\\mms.twiliocdn.com\x",
            r"https://mms.twiliocdn.com\.evil.example/x",
            "https://mms.twiliocdn.com/\r\nset-cookie: a=b",
            "https://mms.twiliocdn.com/a b",
            " https://mms.twiliocdn.com/x",
            "https://mms.twilio\tcdn.com/x",
            "https://mms.twiliocdn.com/x\u{0}",
            // Schemes, ports, relative addresses.
            "http://mms.twiliocdn.com/x",
            "https://mms.twiliocdn.com:8443/x",
            "https://mms.twiliocdn.com:443/x",
            "HTTPS://mms.twiliocdn.com/x",
            "https:/mms.twiliocdn.com/x",
            "//mms.twiliocdn.com/x",
            "/x",
            "",
            "ftp://mms.twiliocdn.com/x",
            "file:///etc/passwd",
            "javascript:alert(1)//mms.twiliocdn.com/",
            "data:text/html,mms.twiliocdn.com",
            // Addresses of machines.
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://169.254.169.254/latest/meta-data/",
            "https://2130706433/x",
            "https://0x7f.1/x",
            "http://localhost/x",
            // Other paths of hosts that serve more than media.
            "https://mms.twiliocdn.com/",
            "https://mms.twiliocdn.com",
            "https://media.twiliocdn.com/sdk/js/video.js",
            "https://s3-external-1.amazonaws.com/other-bucket/AC/x",
            "https://s3-external-1.amazonaws.com/media.twiliocdn.com.evil/AC/x",
            "https://s3-external-1.amazonaws.com/media.twiliocdn.com/AC/../../other-bucket/x",
            "https://s3-external-1.amazonaws.com/media.twiliocdn.com/AC/%2e%2e/%2e%2e/other-bucket/x",
            "https://s3-external-1.amazonaws.com/media.twiliocdn.com/AC/..%2f..%2fother-bucket/x",
            "https://s3-external-1.amazonaws.com/media.twiliocdn.com/AC/%252e%252e/x",
            "https://s3.amazonaws.com/media.twiliocdn.com/AC/x",
            "https://mms.twiliocdn.com/x#fragment",
        ] {
            assert_eq!(CdnUrl::parse(bad, None), None, "{bad}");
            assert_eq!(CdnUrl::parse(bad, Some("http://127.0.0.1:9000")), None, "{bad}");
        }
        assert_eq!(CdnUrl::parse(&format!("https://mms.twiliocdn.com/{}", "a".repeat(5_000)), None), None);
    }

    #[test]
    fn a_double_is_its_own_media_store_and_no_other_port_or_host_of_the_machine_is() {
        let double = Some("http://127.0.0.1:9000");
        assert!(CdnUrl::parse("http://127.0.0.1:9000/_cdn/ME1", double).is_some());
        for bad in [
            "http://127.0.0.1:9001/_cdn/ME1",
            "http://localhost:9000/_cdn/ME1",
            "https://127.0.0.1:9000/_cdn/ME1",
            "http://a@127.0.0.1:9000/_cdn/ME1",
            "http://127.0.0.1/_cdn/ME1",
        ] {
            assert_eq!(CdnUrl::parse(bad, double), None, "{bad}");
        }
        assert_eq!(CdnUrl::parse("http://127.0.0.1:9000/_cdn/ME1", None), None);
        assert_eq!(CdnUrl::parse("data:x", Some("data:x")), None, "an origin that is none equals nothing");
    }

    #[test]
    fn a_sid_is_one_plain_segment_of_a_path() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert!(MessageSid::parse(&format!("MM{digits}")).is_some());
        for bad in [
            format!("ME{digits}"),
            format!("SM{digits}0"),
            format!("SM{}", &digits[1..]),
            format!("SM{}/", &digits[1..]),
            format!("SM{}..", &digits[2..]),
            format!("SM{}%2", &digits[2..]),
            format!("SM{}é", &digits[2..]),
            format!("sm{digits}"),
            "../../Accounts".to_owned(),
            String::new(),
        ] {
            assert_eq!(MessageSid::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn only_types_in_which_nothing_runs_are_shown() {
        assert_eq!(shown_type("IMAGE/JPEG; charset=x"), Some("image/jpeg"));
        for bad in ["text/html", "image/svg+xml", "application/pdf", "text/plain", "image/jpeg,text/html", ""] {
            assert_eq!(shown_type(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_a_message_says_does_not_print() {
        let text = CarrierText { body: "secret".into(), to: "+14155552671".into(), from: None, n_media: 0 };
        let content = Content::new(text.clone(), Vec::new());
        assert_eq!(format!("{text:?} {content:?}"), "CarrierText(6 bytes, 0 media) Content(6 bytes, 0 media)");
    }
}
