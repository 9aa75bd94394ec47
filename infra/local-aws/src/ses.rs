//! SES v2 `SendEmail`: each mail becomes one JSON file, to be read by a person or a test.
//!
//! Not emulated: raw and template content, Cc and Bcc (refused), headers, attachments, identities and the sandbox,
//! suppression, bounces, sending limits.

use crate::reply::{Refusal, parse};
use crate::store::{now_ms, random};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// A mail as it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mail {
    /// The `MessageId` that SES answered with. Ids sort by time.
    pub id: String,
    /// The addresses it went to.
    pub to: Vec<String>,
    /// The sender's address.
    pub from: String,
    /// The subject line.
    pub subject: String,
    /// The plain text.
    pub text: String,
    /// The HTML form, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// When SES took it (RFC 3339).
    pub at: jiff::Timestamp,
}

/// Answers `SendEmail`: the mail is in `folder` before the answer goes out.
pub(crate) fn send_email(folder: &Path, body: &[u8]) -> Result<Value, Refusal> {
    let mail = accept(parse(body)?)?;
    write(folder, &mail).map_err(|error| Refusal::internal(format!("the mail cannot be written: {error}")))?;
    Ok(json!({ "MessageId": mail.id }))
}

/// All mails in `folder`, newest first.
pub(crate) fn mails(folder: &Path) -> io::Result<Vec<Mail>> {
    let mut mails = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            mails.push(serde_json::from_slice::<Mail>(&fs::read(path)?)?);
        }
    }
    mails.sort_by(|a, b| b.id.cmp(&a.id));
    Ok(mails)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SendEmail {
    from_email_address: Option<String>,
    destination: Option<Destination>,
    content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Destination {
    #[serde(default)]
    to_addresses: Vec<String>,
    #[serde(default)]
    cc_addresses: Vec<String>,
    #[serde(default)]
    bcc_addresses: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    simple: Option<Simple>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Simple {
    subject: Text,
    body: Body,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    text: Option<Text>,
    html: Option<Text>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Text {
    data: String,
}

fn accept(ask: SendEmail) -> Result<Mail, Refusal> {
    let bad = |message: &str| Refusal::new("BadRequestException", message);
    let content = ask.content.simple.ok_or_else(|| bad("this double takes only Simple content"))?;
    let destination = ask.destination.ok_or_else(|| bad("Destination is required"))?;
    if !destination.cc_addresses.is_empty() || !destination.bcc_addresses.is_empty() {
        return Err(bad("this double takes no Cc and Bcc"));
    }
    let to = destination.to_addresses;
    if to.is_empty() || to.len() > 50 || !to.iter().all(|address| is_address(address)) {
        return Err(bad("Destination.ToAddresses must be 1 to 50 e-mail addresses"));
    }
    let from = ask.from_email_address.filter(|from| is_address(from));
    let from = from.ok_or_else(|| bad("FromEmailAddress must be an e-mail address"))?;
    if content.body.text.is_none() && content.body.html.is_none() {
        return Err(bad("Body needs Text or Html"));
    }
    let now = now_ms();
    let at = jiff::Timestamp::from_millisecond(now).map_err(|error| Refusal::internal(error.to_string()))?;
    Ok(Mail {
        id: format!("{now:013}-{:016x}", u64::from_be_bytes(random()?)),
        to,
        from,
        subject: content.subject.data,
        text: content.body.text.map(|text| text.data).unwrap_or_default(),
        html: content.body.html.map(|html| html.data),
        at,
    })
}

/// Enough to notice a name or an empty field in the wrong place.
fn is_address(text: &str) -> bool {
    let address = text.strip_suffix('>').and_then(|text| text.rsplit_once('<')).map_or(text, |(_, address)| address);
    address.split_once('@').is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
}

/// Writes beside and renames, so that a reader never meets half a mail.
fn write(folder: &Path, mail: &Mail) -> io::Result<()> {
    let unfinished = folder.join(format!("{}.part", mail.id));
    let mut file = File::create(&unfinished)?;
    file.write_all(&serde_json::to_vec_pretty(mail)?)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(format!("{}.json", mail.id)))
}
