//! Twilio's webhook signatures: the only door through which a webhook's content comes in.
//!
//! Sources: Twilio's "Webhooks security" page (the rule and its worked example), its official libraries
//! (npm `twilio` 6.2.0 `lib/webhooks`, `PyPI` `twilio` 9.13.0 `request_validator`), and for shared keys the Webhooks
//! configuration API (public beta, 2026). Vectors made with both libraries are in `tests/vectors/twilio/`.
//!
//! The rule is strict: two URLs are tried (without and with the port), nothing is normalised.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac};
use sha1::Sha1;
use sha2::digest::common::{Block, BlockSizeUser};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

/// Largest webhook body that is looked at. Twilio's are a few kilobytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// Most form parameters that are looked at. Twilio sends some tens.
pub const MAX_PARAMETERS: usize = 200;

/// A webhook request as it reached us, before anything in it is believed.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// `X-Twilio-Signature`.
    pub signature: Option<&'a str>,
    /// `X-Twilio-Webhooks-Signature-Settings`; sent only when a shared key signs.
    pub shared_key_settings: Option<&'a str>,
    /// Public origin (from configuration, through [`as_signed`]) + raw path + raw query, not decoded and encoded again.
    pub url: &'a str,
    /// `Content-Type`; absent for a GET.
    pub content_type: Option<&'a str>,
    /// The body, byte by byte.
    pub body: &'a [u8],
}

/// The secrets that a tenant's webhooks may be signed with. Empty ones are refused: anyone can sign with those.
#[derive(Clone, Copy)]
pub struct SigningKeys<'a> {
    /// Auth Tokens: the current one first, then the previous one while a rotation lasts.
    pub auth_tokens: &'a [&'a str],
    /// Key id and secret of a shared key (Webhooks configuration API).
    pub shared_key: Option<(&'a str, &'a str)>,
}

/// A value that came with a good signature. [`verified`] is the only way to make one.
#[derive(Debug)]
pub struct Verified<T> {
    value: T,
    which: KeyUsed,
}

/// The key that a signature was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUsed {
    /// The first Auth Token.
    Current,
    /// A later Auth Token: the rotation has not reached Twilio yet.
    Previous,
    /// The shared key.
    SharedKey,
}

/// What a webhook holds. Its `Debug` shows the amount only: bodies are never logged.
#[derive(Clone, PartialEq, Eq)]
pub enum Params {
    /// Decoded pairs in the received order; repeated names and empty values are kept. No pairs for a GET.
    Form(Vec<(String, String)>),
    /// A JSON body, raw.
    Json(Vec<u8>),
}

/// Why a webhook was not believed. Says nothing about its content, so it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// No `X-Twilio-Signature`, or an empty one.
    #[error("the request has no X-Twilio-Signature header")]
    MissingHeader,
    /// No key made this signature for this URL and these parameters.
    #[error("the signature does not match: check the auth token and the public URL")]
    Mismatch,
    /// We hold no key that this request could be signed with.
    #[error("there is no signing key for this account: connect it again")]
    NoKey,
    /// The settings header names a shared key that is not ours.
    #[error("the request names an unknown shared key")]
    UnknownSharedKey,
    /// The settings header names an algorithm other than `HMAC_SHA1` and `HMAC_SHA256`.
    #[error("the request names an unknown signature algorithm")]
    UnknownAlgorithm,
    /// A JSON body without a `bodySHA256` in the query, so that nothing vouches for the body.
    #[error("the URL has no bodySHA256 for its JSON body")]
    BodyHashMissing,
    /// The first `bodySHA256` in the query is not the lower-case hex SHA-256 of the body.
    #[error("the body does not match the bodySHA256 of the URL")]
    BodyHashMismatch,
    /// More than [`MAX_BODY_BYTES`].
    #[error("the body is larger than 64 KiB")]
    BodyTooLarge,
    /// More than [`MAX_PARAMETERS`].
    #[error("the form has more than 200 parameters")]
    TooManyParameters,
    /// A body that is neither a form in UTF-8 nor JSON.
    #[error("the body is neither a form nor JSON")]
    NotAForm,
}

/// Checks a webhook's signature against every key and hands out its content.
///
/// Errs when the request is too large, is neither form nor JSON, or when no key made its signature. The size is
/// checked first; then every key and URL is computed, so that the time taken does not tell which one was near.
pub fn verified(presented: &Presented<'_>, keys: &SigningKeys<'_>) -> Result<Verified<Params>, Rejection> {
    if presented.body.len() > MAX_BODY_BYTES {
        return Err(Rejection::BodyTooLarge);
    }
    let signature = presented.signature.filter(|s| !s.is_empty()).ok_or(Rejection::MissingHeader)?;
    let params = Params::parse(presented.content_type, presented.body)?;
    let pairs = params.pairs();

    let which = match presented.shared_key_settings.filter(|s| !s.trim().is_empty()) {
        Some(settings) => {
            let (algorithm, secret) = shared_key(settings, keys)?;
            let good = matches(algorithm, secret, presented.url, pairs, signature);
            bool::from(good).then_some(KeyUsed::SharedKey)
        }
        None => which_token(keys.auth_tokens, presented.url, pairs, signature)?,
    };
    let which = which.ok_or(Rejection::Mismatch)?;

    if let Params::Json(body) = &params {
        check_body_hash(presented.url, body)?;
    }
    Ok(Verified { value: params, which })
}

/// The same for a webhook that may have been sent to another address too, `other` (a second host's).
///
/// Both are checked, whichever is right; what the first one's check says is what is told.
pub fn verified_at_either(
    presented: &Presented<'_>,
    other: Option<&str>,
    keys: &SigningKeys<'_>,
) -> Result<Verified<Params>, Rejection> {
    let first = verified(presented, keys);
    let Some(url) = other else { return first };
    let second = verified(&Presented { url, ..*presented }, keys);
    first.or_else(|rejection| second.map_err(|_| rejection))
}

/// Signs as Twilio does with an Auth Token: HMAC-SHA1 over the URL, then every name and value in order, in Base64.
///
/// The URL is taken as it is; see [`as_signed`] for a configured one. For a JSON webhook `params` is empty.
pub fn sign(token: &str, url: &str, params: &[(String, String)]) -> String {
    Algorithm::Sha1.sign(token, url, &in_signing_order(params))
}

/// Signs as Twilio does with a shared key and `HMAC_SHA256`: the same text as [`sign`], another hash.
pub fn sign_with_shared_key(secret: &str, url: &str, params: &[(String, String)]) -> String {
    Algorithm::Sha256.sign(secret, url, &in_signing_order(params))
}

/// Whether `signature` is Twilio's for this URL and these decoded parameters: the bare rule over one token.
///
/// Proves nothing by itself, since it also computes with an empty token: only [`verified`] makes a [`Verified`].
pub fn is_signed_by(token: &str, url: &str, params: &[(String, String)], signature: &str) -> bool {
    matches(Algorithm::Sha1, token, url, params, signature).into()
}

/// The URL that Twilio signs when `configured` is the one it was given: without `#fragment` (connection overrides) and
/// without `user:password@` (both from Twilio's "Webhooks security" page).
pub fn as_signed(configured: &str) -> String {
    let url = configured.split_once('#').map_or(configured, |(url, _fragment)| url);
    let url = Url::split(url);
    let host = url.authority.rsplit_once('@').map_or(url.authority, |(_user, host)| host);
    format!("{}{}{}", url.scheme, host, url.rest)
}

impl<T> Verified<T> {
    /// The value.
    pub const fn get(&self) -> &T {
        &self.value
    }

    /// The value, without the proof.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The key that signed it.
    pub const fn which(&self) -> KeyUsed {
        self.which
    }
}

impl Params {
    /// The first value of a form parameter; `None` when it is absent or the body is JSON.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.pairs().iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The form's pairs in the received order; none when the body is JSON.
    pub fn pairs(&self) -> &[(String, String)] {
        match self {
            Self::Form(pairs) => pairs,
            Self::Json(_) => &[],
        }
    }

    /// The raw JSON body; `None` for a form.
    pub fn json(&self) -> Option<&[u8]> {
        match self {
            Self::Form(_) => None,
            Self::Json(body) => Some(body),
        }
    }

    fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, Rejection> {
        let media_type = content_type.and_then(|t| t.split(';').next()).map(|t| t.trim().to_ascii_lowercase());
        match media_type.as_deref() {
            Some("application/x-www-form-urlencoded") => form_pairs(body).map(Self::Form),
            Some(t) if t == "application/json" || (t.starts_with("application/") && t.ends_with("+json")) => {
                Ok(Self::Json(body.to_vec()))
            }
            // A GET, or a WebSocket handshake: everything is in the URL.
            _ if body.is_empty() => Ok(Self::Form(vec![])),
            _ => Err(Rejection::NotAForm),
        }
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(pairs) => write!(f, "Form({} parameters)", pairs.len()),
            Self::Json(body) => write!(f, "Json({} bytes)", body.len()),
        }
    }
}

impl Rejection {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::MissingHeader,
        Self::Mismatch,
        Self::NoKey,
        Self::UnknownSharedKey,
        Self::UnknownAlgorithm,
        Self::BodyHashMissing,
        Self::BodyHashMismatch,
        Self::BodyTooLarge,
        Self::TooManyParameters,
        Self::NotAForm,
    ];

    /// A stable name for logs, metrics and answers.
    pub const fn code(self) -> &'static str {
        match self {
            Self::MissingHeader => "signature_missing",
            Self::Mismatch => "signature_mismatch",
            Self::NoKey => "signing_key_missing",
            Self::UnknownSharedKey => "shared_key_unknown",
            Self::UnknownAlgorithm => "signature_algorithm_unknown",
            Self::BodyHashMissing => "body_hash_missing",
            Self::BodyHashMismatch => "body_hash_mismatch",
            Self::BodyTooLarge => "body_too_large",
            Self::TooManyParameters => "too_many_parameters",
            Self::NotAForm => "not_a_form",
        }
    }
}

/// The token that made `signature`. All are computed, whether or not one was right before.
fn which_token(
    tokens: &[&str],
    url: &str,
    params: &[(String, String)],
    signature: &str,
) -> Result<Option<KeyUsed>, Rejection> {
    let mut which = Err(Rejection::NoKey);
    for (n, token) in tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        let good = bool::from(matches(Algorithm::Sha1, token, url, params, signature));
        let this = if n == 0 { KeyUsed::Current } else { KeyUsed::Previous };
        let before = which.unwrap_or(None);
        which = Ok(before.or_else(|| good.then_some(this)));
    }
    which
}

/// Algorithm and secret for a request with a settings header: `key=webhooks_sharedkey_01,algorithm=HMAC_SHA256`.
///
/// Without an algorithm it is SHA-1, as in Twilio's library. The header is not signed, but it cannot open anything: it
/// only chooses among what we hold, and a signature made for one algorithm does not match under the other.
fn shared_key<'a>(settings: &str, keys: &SigningKeys<'a>) -> Result<(Algorithm, &'a str), Rejection> {
    let setting = |name: &str| {
        settings
            .split(',')
            .filter_map(|part| part.split_once('='))
            .find_map(|(n, value)| n.trim().eq_ignore_ascii_case(name).then(|| value.trim()))
    };
    let algorithm = match setting("algorithm") {
        None => Algorithm::Sha1,
        Some(name) if name.eq_ignore_ascii_case("HMAC_SHA1") => Algorithm::Sha1,
        Some(name) if name.eq_ignore_ascii_case("HMAC_SHA256") => Algorithm::Sha256,
        Some(_) => return Err(Rejection::UnknownAlgorithm),
    };
    let (id, secret) = keys.shared_key.filter(|(_, secret)| !secret.is_empty()).ok_or(Rejection::NoKey)?;
    if setting("key").is_some_and(|named| named != id) {
        return Err(Rejection::UnknownSharedKey);
    }
    Ok((algorithm, secret))
}

/// Compares with the signatures of both URLs, in constant time over the whole string; both are always computed.
fn matches(algorithm: Algorithm, key: &str, url: &str, params: &[(String, String)], signature: &str) -> Choice {
    let params = in_signing_order(params);
    Url::split(url)
        .candidates()
        .iter()
        .map(|url| algorithm.sign(key, url, &params).as_bytes().ct_eq(signature.as_bytes()))
        .fold(Choice::from(0), |any, one| any | one)
}

/// By name, then by value, in code points (which for UTF-8 is the order of bytes); an identical pair counts once.
fn in_signing_order(params: &[(String, String)]) -> Vec<(&str, &str)> {
    let mut pairs: Vec<_> = params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

#[derive(Clone, Copy)]
enum Algorithm {
    Sha1,
    Sha256,
}

impl Algorithm {
    fn sign(self, key: &str, url: &str, params: &[(&str, &str)]) -> String {
        match self {
            Self::Sha1 => mac(Hmac::<Sha1>::new(&block_key::<Sha1>(key.as_bytes())), url, params),
            Self::Sha256 => mac(Hmac::<Sha256>::new(&block_key::<Sha256>(key.as_bytes())), url, params),
        }
    }
}

fn mac(mut mac: impl Mac, url: &str, params: &[(&str, &str)]) -> String {
    mac.update(url.as_bytes());
    for (name, value) in params {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

/// A key as HMAC wants it (RFC 2104 §2): hashed when longer than a block, then filled with zeros.
/// `Hmac::new_from_slice` does the same, but returns a `Result` whose error cannot happen.
fn block_key<D: Digest + BlockSizeUser>(key: &[u8]) -> Block<D> {
    let mut block = Block::<D>::default();
    let digest = D::digest(key);
    let key = if key.len() > block.len() { &digest[..] } else { key };
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    block
}

/// For JSON, Twilio signs the URL only, and the URL holds the body's hash.
fn check_body_hash(url: &str, body: &[u8]) -> Result<(), Rejection> {
    let url = url.split_once('#').map_or(url, |(url, _fragment)| url);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let (_, expected) = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "bodySHA256")
        .filter(|(_, hash)| !hash.is_empty())
        .ok_or(Rejection::BodyHashMissing)?;
    let actual = HEXLOWER.encode(&Sha256::digest(body));
    if bool::from(actual.as_bytes().ct_eq(expected.as_bytes())) { Ok(()) } else { Err(Rejection::BodyHashMismatch) }
}

/// A URL cut at the authority, every byte kept: Twilio signs the text, so it must not pass through a URL parser.
struct Url<'a> {
    /// With `://`.
    scheme: &'a str,
    /// `user:password@host:port`.
    authority: &'a str,
    /// Path, query and fragment.
    rest: &'a str,
}

impl<'a> Url<'a> {
    fn split(url: &'a str) -> Self {
        let start = url.find("://").map_or(0, |at| at + "://".len());
        let (scheme, after) = url.split_at(start);
        let end = after.find(['/', '?', '#']).unwrap_or(after.len());
        let (authority, rest) = after.split_at(end);
        Self { scheme, authority, rest }
    }

    /// Without the port, and with the given or the scheme's usual one: Twilio drops it in voice over HTTPS and keeps it
    /// elsewhere. The usual one is 443 for https and 80 for all else, wss too, as in the official libraries.
    fn candidates(&self) -> [String; 2] {
        let Self { scheme, authority, rest } = self;
        let host_start = authority.rfind('@').map_or(0, |at| at + 1);
        let after_ipv6 = authority.rfind(']').map_or(host_start, |at| at.max(host_start));
        let colon = authority.rfind(':').filter(|at| *at >= after_ipv6);
        let (host, port) = colon.and_then(|at| authority.split_at_checked(at)).unwrap_or((authority, ""));
        let port = match port {
            "" | ":" if scheme.eq_ignore_ascii_case("https://") => ":443",
            "" | ":" => ":80",
            given => given,
        };
        [format!("{scheme}{host}{rest}"), format!("{scheme}{host}{port}{rest}")]
    }
}

/// Decodes `application/x-www-form-urlencoded` (WHATWG URL standard §5.1), but refuses what is not UTF-8 instead of
/// replacing it: with replacements two different bodies would have one signature.
fn form_pairs(body: &[u8]) -> Result<Vec<(String, String)>, Rejection> {
    let pieces = || body.split(|byte| *byte == b'&').filter(|piece| !piece.is_empty());
    if pieces().nth(MAX_PARAMETERS).is_some() {
        return Err(Rejection::TooManyParameters);
    }
    pieces()
        .map(|piece| {
            let mut halves = piece.splitn(2, |byte| *byte == b'=');
            let mut half = || form_decoded(halves.next().unwrap_or_default());
            Ok((half()?, half()?))
        })
        .collect()
}

fn form_decoded(raw: &[u8]) -> Result<String, Rejection> {
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex_byte(*high, *low),
            _ => None,
        };
        let (byte, after) = match (escaped, first) {
            (Some(byte), _) => (byte, after.get(2..).unwrap_or_default()),
            (None, b'+') => (b' ', after),
            (None, other) => (*other, after),
        };
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8(decoded).map_err(|_| Rejection::NotAForm)
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "https://hooks.telbuddy.example/v1/t/tnt_1/sms?v=2";
    const FORM: &str = "application/x-www-form-urlencoded";
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn encoded(pairs: &[(String, String)]) -> Vec<u8> {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
    }

    fn form<'a>(signature: &'a str, url: &'a str, body: &'a [u8]) -> Presented<'a> {
        Presented { signature: Some(signature), shared_key_settings: None, url, content_type: Some(FORM), body }
    }

    fn tokens<'a>(auth_tokens: &'a [&'a str]) -> SigningKeys<'a> {
        SigningKeys { auth_tokens, shared_key: None }
    }

    #[test]
    fn twilios_worked_example_is_reproduced() {
        let params = pairs(&[
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ]);
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        assert_eq!(sign("12345", url, &params), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }

    #[test]
    fn a_signed_form_comes_out_as_it_was_sent() {
        let params = pairs(&[("To", "+15005550006"), ("Body", "a&b =+ é😀\r\n"), ("A", ""), ("A", "2"), ("A", "1")]);
        let body = encoded(&params);
        let verified = verified(&form(&sign(TOKEN, URL, &params), URL, &body), &tokens(&[TOKEN])).unwrap();
        assert_eq!(verified.which(), KeyUsed::Current);
        assert_eq!(verified.get().get("Body"), Some("a&b =+ é😀\r\n"));
        assert_eq!(verified.get().get("A"), Some(""), "the first of a repeated name");
        assert_eq!(verified.get().get("None"), None);
        assert_eq!(format!("{verified:?}"), "Verified { value: Form(5 parameters), which: Current }");
        assert_eq!(verified.into_inner(), Params::Form(params));
    }

    #[test]
    fn during_a_rotation_the_previous_token_still_counts() {
        let signature = sign("old", URL, &[]);
        let which = |keys: &[&str]| verified(&form(&signature, URL, b""), &tokens(keys)).map(|v| v.which());
        assert_eq!(which(&["new", "old"]), Ok(KeyUsed::Previous));
        assert_eq!(which(&["old", "new"]), Ok(KeyUsed::Current));
        assert_eq!(which(&["new"]), Err(Rejection::Mismatch));
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        let signature = sign("", URL, &[]);
        assert!(is_signed_by("", URL, &[], &signature), "anyone can compute it");
        let result = |keys: &[&str]| verified(&form(&signature, URL, b""), &tokens(keys)).map(|v| v.which());
        assert_eq!(result(&[]), Err(Rejection::NoKey));
        assert_eq!(result(&[""]), Err(Rejection::NoKey));
        assert_eq!(result(&["", TOKEN]), Err(Rejection::Mismatch));
        let shared = Presented { shared_key_settings: Some("key=k,algorithm=HMAC_SHA1"), ..form(&signature, URL, b"") };
        let keys = SigningKeys { auth_tokens: &[TOKEN], shared_key: Some(("k", "")) };
        assert_eq!(verified(&shared, &keys).map(|v| v.which()), Err(Rejection::NoKey));
    }

    #[test]
    fn a_request_without_a_signature_is_refused() {
        for signature in [None, Some("")] {
            let presented = Presented { signature, ..form("", URL, b"") };
            assert_eq!(verified(&presented, &tokens(&[TOKEN])).map(|v| v.which()), Err(Rejection::MissingHeader));
        }
    }

    #[test]
    fn a_json_body_counts_only_with_its_hash_in_the_signed_url() {
        let body = br#"{"a":1}"#;
        let hash = HEXLOWER.encode(&Sha256::digest(body));
        let check = |url: &str, body: &[u8]| {
            let signature = sign(TOKEN, url, &[]);
            let content_type = Some("application/json; charset=UTF-8");
            let presented = Presented { content_type, ..form(&signature, url, body) };
            verified(&presented, &tokens(&[TOKEN])).map(Verified::into_inner)
        };
        let url = format!("https://hooks.telbuddy.example/v1/events?t=1&bodySHA256={hash}");
        assert_eq!(check(&url, body), Ok(Params::Json(body.to_vec())));
        assert_eq!(check(&url, b"{}"), Err(Rejection::BodyHashMismatch));
        assert_eq!(check(URL, body), Err(Rejection::BodyHashMissing));
        assert_eq!(check(&format!("{URL}#bodySHA256={hash}"), body), Err(Rejection::BodyHashMissing));
    }

    #[test]
    fn a_get_has_everything_in_its_url() {
        let signature = sign(TOKEN, URL, &[]);
        let get = Presented { content_type: None, ..form(&signature, URL, b"") };
        assert_eq!(verified(&get, &tokens(&[TOKEN])).map(Verified::into_inner), Ok(Params::Form(vec![])));
    }

    #[test]
    fn what_is_too_large_or_no_form_is_refused_before_hashing() {
        let check = |content_type, body: &[u8]| {
            let presented = Presented { content_type, ..form("x", URL, body) };
            verified(&presented, &tokens(&[TOKEN])).map(|v| v.which())
        };
        let letters = |n: usize| "a".repeat(n).into_bytes();
        assert_eq!(check(Some(FORM), &letters(MAX_BODY_BYTES + 1)), Err(Rejection::BodyTooLarge));
        assert_eq!(check(Some(FORM), &letters(MAX_BODY_BYTES)), Err(Rejection::Mismatch));
        assert_eq!(check(Some(FORM), "a=1&".repeat(201).as_bytes()), Err(Rejection::TooManyParameters));
        assert_eq!(check(Some(FORM), "a=1&".repeat(200).as_bytes()), Err(Rejection::Mismatch));
        assert_eq!(check(Some(FORM), b"a=%ff"), Err(Rejection::NotAForm));
        assert_eq!(check(Some("text/plain"), b"a=1"), Err(Rejection::NotAForm));
        assert_eq!(check(None, b"a=1"), Err(Rejection::NotAForm));
    }

    #[test]
    fn a_shared_key_counts_only_where_the_request_names_it() {
        let sha256 = sign_with_shared_key("secret", URL, &[]);
        let sha1 = sign("secret", URL, &[]);
        let keys = SigningKeys { auth_tokens: &[TOKEN], shared_key: Some(("k1", "secret")) };
        let check = |settings, signature: &str| {
            let presented = Presented { shared_key_settings: settings, ..form(signature, URL, b"") };
            verified(&presented, &keys).map(|v| v.which())
        };
        assert_eq!(check(Some("key=k1,algorithm=HMAC_SHA256"), &sha256), Ok(KeyUsed::SharedKey));
        assert_eq!(check(Some("key=k1"), &sha1), Ok(KeyUsed::SharedKey));
        assert_eq!(check(Some("key=k1,algorithm=HMAC_SHA256"), &sha1), Err(Rejection::Mismatch));
        assert_eq!(check(Some("key=k1,algorithm=HMAC_MD5"), &sha256), Err(Rejection::UnknownAlgorithm));
        assert_eq!(check(Some("key=k2,algorithm=HMAC_SHA256"), &sha256), Err(Rejection::UnknownSharedKey));
        assert_eq!(check(None, &sha256), Err(Rejection::Mismatch));
        assert_eq!(check(None, &sha1), Err(Rejection::Mismatch), "the secret is not an Auth Token");
        assert_eq!(check(None, &sign(TOKEN, URL, &[])), Ok(KeyUsed::Current));
        assert_eq!(check(Some("key=k1"), &sign(TOKEN, URL, &[])), Err(Rejection::Mismatch));
        let presented = Presented { shared_key_settings: Some("key=k1"), ..form(&sha1, URL, b"") };
        assert_eq!(verified(&presented, &tokens(&[TOKEN])).map(|v| v.which()), Err(Rejection::NoKey));
    }

    #[test]
    fn a_key_longer_than_a_block_is_hashed_first() {
        // RFC 2202, test case 6: 80 times 0xaa is not UTF-8, so the bytes are given to the block directly.
        let long = block_key::<Sha1>(&[0xaa; 80]);
        let mut mac = Hmac::<Sha1>::new(&long);
        mac.update(b"Test Using Larger Than Block-Size Key - Hash Key First");
        assert_eq!(HEXLOWER.encode(&mac.finalize().into_bytes()), "aa4ae5e15272d00e95705637ce8a3b55ed402112");
    }

    #[test]
    fn the_signed_form_of_a_configured_url_has_no_password_and_no_fragment() {
        for (configured, signed) in [
            ("https://u:p%40s@h.example:8443/a?b=@c#rc=2&rp=5xx", "https://h.example:8443/a?b=@c"),
            ("https://h.example#rc=1", "https://h.example"),
            ("https://u@h.example", "https://h.example"),
            ("https://h.example/u:p@x", "https://h.example/u:p@x"),
            ("", ""),
        ] {
            assert_eq!(as_signed(configured), signed);
        }
    }

    #[test]
    fn two_urls_are_tried_and_nothing_else_is_changed() {
        for (url, without, with) in [
            ("https://H.example/a%2f?b=1:2@x", "https://H.example/a%2f?b=1:2@x", "https://H.example:443/a%2f?b=1:2@x"),
            ("https://h.example:8443?", "https://h.example?", "https://h.example:8443?"),
            ("http://h.example:/", "http://h.example/", "http://h.example:80/"),
            ("wss://h.example", "wss://h.example", "wss://h.example:80"),
            ("https://u:p@h.example/", "https://u:p@h.example/", "https://u:p@h.example:443/"),
            ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]/", "https://[2001:db8::1]:8443/"),
            ("https://[2001:db8::1]/", "https://[2001:db8::1]/", "https://[2001:db8::1]:443/"),
        ] {
            assert_eq!(Url::split(url).candidates(), [without, with]);
        }
    }

    fn params() -> impl Strategy<Value = Vec<(String, String)>> {
        proptest::collection::vec(("[A-Za-z]{1,8}|\\PC{1,3}", "[ -~]{0,12}|\\PC{0,6}"), 0..20)
    }

    proptest! {
        #[test]
        fn what_sign_signs_verifies(params in params(), token in "\\PC{1,80}", url in "https?://[a-z.]{1,9}(:[0-9]{1,5})?(/\\PC{0,9})?") {
            let body = encoded(&params);
            let signature = sign(&token, &url, &params);
            let verified = verified(&form(&signature, &url, &body), &tokens(&["another", &token]));
            prop_assert_eq!(verified.map(|v| (v.which(), v.into_inner())), Ok((KeyUsed::Previous, Params::Form(params))));
        }

        #[test]
        fn the_order_of_parameters_does_not_matter(
            (before, after) in params().prop_flat_map(|p| (Just(p.clone()), Just(p).prop_shuffle())),
        ) {
            prop_assert_eq!(sign(TOKEN, URL, &before), sign(TOKEN, URL, &after));
            prop_assert_eq!(sign_with_shared_key(TOKEN, URL, &before), sign_with_shared_key(TOKEN, URL, &after));
        }

        #[test]
        fn one_changed_byte_fails(what in 0..4_usize, at in any::<prop::sample::Index>(), to in 33..127_u8, text in "[ -~]{1,40}") {
            let change = |s: &str| {
                let mut bytes = s.to_owned().into_bytes();
                let at = at.index(bytes.len());
                let changed = bytes[at] != to;
                bytes[at] = to;
                (String::from_utf8(bytes).unwrap(), changed)
            };
            let params = |text: &str| pairs(&[("Body", text), ("From", "+15005550010")]);
            let signature = sign(TOKEN, URL, &params(&text));
            let same = |s: &str| (s.to_owned(), false);
            let (text, a) = if what == 0 { change(&text) } else { same(&text) };
            let (url, b) = if what == 1 { change(URL) } else { same(URL) };
            let (signature, c) = if what == 2 { change(&signature) } else { same(&signature) };
            let (token, d) = if what == 3 { change(TOKEN) } else { same(TOKEN) };
            let body = encoded(&params(&text));
            let result = verified(&form(&signature, &url, &body), &tokens(&[&token])).map(|v| v.which());
            prop_assert_eq!(result, if a || b || c || d { Err(Rejection::Mismatch) } else { Ok(KeyUsed::Current) });
        }

        #[test]
        fn forms_are_decoded_as_the_url_standard_says(body in "([a-z%+&=0-9A-F]|%[0-9a-fA-F]{2}|\\PC){0,40}") {
            let standard = form_urlencoded::parse(body.as_bytes()).into_owned().collect::<Vec<_>>();
            match form_pairs(body.as_bytes()) {
                Ok(pairs) => prop_assert_eq!(pairs, standard),
                Err(rejection) => {
                    prop_assert_eq!(rejection, Rejection::NotAForm);
                    let replaced = standard.iter().any(|(n, v)| n.contains(char::REPLACEMENT_CHARACTER) || v.contains(char::REPLACEMENT_CHARACTER));
                    prop_assert!(replaced, "refused only where the standard replaces");
                }
            }
        }

        #[test]
        fn no_input_panics(url in "\\PC{0,40}|https://[\\[\\]:@/?#a-z0-9é]{0,20}", content_type in proptest::option::of("\\PC{0,40}"),
            signature in proptest::option::of("\\PC{0,40}"), settings in proptest::option::of("\\PC{0,20}|[a-z=, ]{0,30}"),
            body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let presented = Presented { signature: signature.as_deref(), shared_key_settings: settings.as_deref(), url: &url,
                content_type: content_type.as_deref(), body: &body };
            let keys = SigningKeys { auth_tokens: &[TOKEN], shared_key: Some(("k", "s")) };
            prop_assert!(verified(&presented, &keys).is_err());
            as_signed(&url);
        }
    }
}
