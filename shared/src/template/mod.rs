//! Templates: texts with named fields, which each message fills in. What they say is the customer's, and is sealed.
//!
//! `{{first_name}}` is a field. A backslash takes the brace or backslash behind it as it is: `\{{` is two braces. Any
//! other backslash, braces that do not fit, and `}}` without a field before it are refused when the text is stored, so
//! that nobody is sent `{{fist name}}`. What a field is filled with is never read as such a text again.

mod port;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::fault::Fault;
use crate::ids::{AccountId, BatchId, TemplateId};
use crate::message::{Body, BodyTooLong, MAX_BODY_CHARACTERS};
use crate::seal::{DataKey, Sealed};

pub use port::*;

/// Templates of one account.
pub const MOST_TEMPLATES: u32 = 200;
/// Different fields of one template.
pub const MOST_FIELDS: usize = 20;
/// Characters of a field's name.
const MAX_FIELD_NAME: usize = 32;
/// Characters of a template's name.
const MAX_NAME: usize = 64;

/// A template as stored: what it says is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Names it.
    pub id: TemplateId,
    /// Whose.
    pub account: AccountId,
    /// Counts its changes, from 1; a change names the revision that it read. Sealing it anew is no change.
    pub revision: u32,
    /// Keyed hash of its name.
    pub name_hash: String,
    /// Name and text.
    pub sealed: Sealed,
    /// When it was made.
    pub created: Timestamp,
    /// The last change.
    pub updated: Timestamp,
}

/// The name of the field under which a template is sealed: one's text does not open as another's.
pub fn template_field(id: TemplateId) -> String {
    format!("template/{id}")
}

/// A template's name, for people. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("give 1 to 64 characters, without control characters and without spaces at either end")]
pub struct NotAName;

impl Name {
    /// Reads a name.
    pub fn parse(text: String) -> Result<Self, NotAName> {
        let fits = (1..=MAX_NAME).contains(&text.chars().count());
        let plain = text.trim() == text && !text.chars().any(char::is_control);
        if fits && plain { Ok(Self(text)) } else { Err(NotAName) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// By which two names are the same: capital letters make no difference.
    pub fn hash(&self, match_key: &DataKey) -> String {
        match_key.keyed_hash("template-name", &self.0.to_lowercase())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({} bytes)", self.0.len())
    }
}

/// A template's text, parsed. It does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    source: Zeroizing<String>,
    parts: Vec<Part>,
    fields: Vec<FieldName>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(Zeroizing<String>),
    /// Which of the fields.
    Field(usize),
}

/// Why a text is no template. Places are characters, from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It says nothing.
    #[error("give the text")]
    Empty,
    /// Its source is longer than any message.
    #[error("too long: at most 1600 characters, fields and backslashes included")]
    TooLong,
    /// A field without an end.
    #[error("at character {0}: the field that begins here has no end; write {{{{name}}}}, or \\{{{{ for two braces")]
    NoEnd(usize),
    /// A field whose name is none.
    #[error(
        "at character {0}: this is no name of a field; write {{{{first_name}}}}: a small letter, then small letters, \
         digits and _, at most 32 together, without spaces"
    )]
    FieldName(usize),
    /// An end without a field.
    #[error("at character {0}: these braces end no field; write \\}}}} for two braces")]
    NoBeginning(usize),
    /// A backslash before something else.
    #[error("at character {0}: a backslash stands before a brace or a backslash; write \\\\ for one backslash")]
    Backslash(usize),
    /// More fields than allowed.
    #[error("at character {0}: too many fields; at most 20 different ones")]
    TooManyFields(usize),
}

impl TextError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "missing",
            Self::TooLong => "too_long",
            Self::NoEnd(_) | Self::FieldName(_) | Self::NoBeginning(_) | Self::Backslash(_) => "unknown_syntax",
            Self::TooManyFields(_) => "too_many_fields",
        }
    }
}

impl Text {
    /// Reads a template's text.
    pub fn parse(source: String) -> Result<Self, TextError> {
        let source = Zeroizing::new(source);
        let signs: Zeroizing<Vec<char>> = Zeroizing::new(source.chars().collect());
        if signs.is_empty() {
            return Err(TextError::Empty);
        }
        if signs.len() > MAX_BODY_CHARACTERS {
            return Err(TextError::TooLong);
        }
        let (mut parts, mut fields) = (Vec::new(), Vec::new());
        // Never longer than the source: no copy of it is left behind by growing.
        let mut literal = Zeroizing::new(String::with_capacity(source.len()));
        let mut rest = signs.as_slice();
        loop {
            let at = signs.len() - rest.len() + 1;
            rest = match rest {
                [] => break,
                ['\\', sign @ ('{' | '}' | '\\'), rest @ ..] => {
                    literal.push(*sign);
                    rest
                }
                ['\\', ..] => return Err(TextError::Backslash(at)),
                ['{', '{', inside @ ..] => {
                    let length = inside.windows(2).position(|pair| pair == ['}', '}']).ok_or(TextError::NoEnd(at))?;
                    let (name, rest) = inside.split_at(length);
                    let name: String = name.iter().collect();
                    let name = FieldName::parse(&name).ok_or(TextError::FieldName(at))?;
                    let known = fields.iter().position(|field| *field == name);
                    if known.is_none() && fields.len() == MOST_FIELDS {
                        return Err(TextError::TooManyFields(at));
                    }
                    if !literal.is_empty() {
                        parts.push(Part::Literal(Zeroizing::new(literal.as_str().to_owned())));
                        literal.zeroize();
                    }
                    parts.push(Part::Field(known.unwrap_or(fields.len())));
                    fields.extend(known.is_none().then_some(name));
                    rest.get(2..).unwrap_or_default()
                }
                ['}', '}', ..] => return Err(TextError::NoBeginning(at)),
                [sign, rest @ ..] => {
                    literal.push(*sign);
                    rest
                }
            };
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { source, parts, fields })
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The fields, each once, in the order in which they come.
    pub fn fields(&self) -> &[FieldName] {
        &self.fields
    }

    /// The text with its fields filled in. It stops where a message ends, however long the values are.
    pub fn fill(&self, values: Values<'_>) -> Result<Body, Unfilled> {
        let missing: Vec<_> = self.fields.iter().filter(|field| values.get(field).is_none()).cloned().collect();
        let extra: Vec<_> = values.names().filter(|name| !self.fields.contains(name)).cloned().collect();
        if !missing.is_empty() || !extra.is_empty() {
            return Err(Unfilled::Fields { missing, extra });
        }
        let mut text = Zeroizing::new(String::with_capacity(4 * MAX_BODY_CHARACTERS));
        let mut left = MAX_BODY_CHARACTERS;
        for part in &self.parts {
            let piece = match part {
                Part::Literal(literal) => literal.as_str(),
                Part::Field(at) => self.fields.get(*at).and_then(|field| values.get(field)).unwrap_or_default(),
            };
            left = left.checked_sub(piece.chars().count()).ok_or(Unfilled::TooLong)?;
            text.push_str(piece);
        }
        if text.is_empty() {
            return Err(Unfilled::Empty);
        }
        Body::parse(std::mem::take(&mut *text)).map_err(|BodyTooLong| Unfilled::TooLong)
    }

    /// Sealed for a request to many, which uses this text until its end, whatever becomes of the template.
    pub fn seal(&self, key: &DataKey, batch: BatchId, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        Ok(key.seal(&batch_field(batch), self.source.as_bytes(), nonce)?)
    }

    /// Opened again.
    pub fn open(sealed: &Sealed, key: &DataKey, batch: BatchId) -> Result<Self, Fault> {
        let clear = key.open(&batch_field(batch), sealed)?;
        let source = std::str::from_utf8(&clear).map_err(|_| damaged())?;
        Self::parse(source.to_owned()).map_err(|_| damaged())
    }
}

fn batch_field(batch: BatchId) -> String {
    format!("batch-template/{batch}")
}

fn damaged() -> Fault {
    Fault::permanent("a stored template does not read")
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({} bytes, {} fields)", self.source.len(), self.fields.len())
    }
}

/// What a template says: sealed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its name.
    pub name: Name,
    /// Its text.
    pub text: Text,
}

#[derive(Serialize, DeriveDeserialize)]
struct StoredContent {
    name: String,
    body: String,
}

impl Drop for StoredContent {
    fn drop(&mut self) {
        self.name.zeroize();
        self.body.zeroize();
    }
}

impl Content {
    /// Sealed under the account's payload key.
    pub fn seal(&self, key: &DataKey, id: TemplateId, nonce: [u8; 12]) -> Result<Sealed, Fault> {
        let stored = StoredContent { name: self.name.0.clone(), body: self.text.source().to_owned() };
        let clear = serde_json::to_vec(&stored).map_err(|_| Fault::permanent("a template did not serialize"))?;
        Ok(key.seal(&template_field(id), &Zeroizing::new(clear), nonce)?)
    }

    /// Opened again.
    pub fn open(template: &Template, key: &DataKey) -> Result<Self, Fault> {
        let clear = key.open(&template_field(template.id), &template.sealed)?;
        let mut stored: StoredContent = serde_json::from_slice(&clear).map_err(|_| damaged())?;
        let name = Name::parse(std::mem::take(&mut stored.name)).map_err(|_| damaged())?;
        let text = Text::parse(std::mem::take(&mut stored.body)).map_err(|_| damaged())?;
        Ok(Self { name, text })
    }
}

/// The name of a field: a small letter, then small letters, digits and `_`, at most 32.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
#[schema(value_type = String, example = "first_name")]
pub struct FieldName(String);

impl FieldName {
    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let begins = text.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        (begins && text.len() <= MAX_FIELD_NAME && text.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a caller fills fields with: at most [`MOST_FIELDS`] names, each once. It does not print.
#[derive(Clone, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
#[schema(value_type = BTreeMap<String, String>, example = json!({ "first_name": "Ann" }))]
pub struct FieldValues(BTreeMap<FieldName, String>);

impl FieldValues {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for FieldValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FieldValues({})", self.0.len())
    }
}

/// By hand, so that what does not fit is told in words that help, and no name counts twice.
impl<'de> Deserialize<'de> for FieldValues {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = FieldValues;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of at most 20 texts by the names of fields, such as first_name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<FieldValues, A::Error> {
                let mut values = BTreeMap::new();
                while let Some(name) = all.next_key::<String>()? {
                    let unfit = || de::Error::invalid_value(de::Unexpected::Other("these fields"), &self);
                    let name = FieldName::parse(&name).filter(|_| values.len() < MOST_FIELDS).ok_or_else(unfit)?;
                    if values.insert(name, all.next_value()?).is_some() {
                        return Err(unfit());
                    }
                }
                Ok(FieldValues(values))
            }
        }

        from.deserialize_map(Fields)
    }
}

/// What one recipient's fields are filled with: their own values, and behind them those for all.
#[derive(Clone, Copy)]
pub struct Values<'v> {
    /// For all.
    pub shared: &'v FieldValues,
    /// Their own.
    pub own: Option<&'v FieldValues>,
}

impl<'v> Values<'v> {
    fn get(&self, name: &FieldName) -> Option<&'v str> {
        let own = self.own.and_then(|own| own.0.get(name));
        own.or_else(|| self.shared.0.get(name)).map(String::as_str)
    }

    fn names(&self) -> impl Iterator<Item = &'v FieldName> {
        let shared = self.shared;
        let own = self.own.into_iter().flat_map(|own| own.0.keys());
        shared.0.keys().chain(own.filter(|name| !shared.0.contains_key(name)))
    }
}

/// Why a template makes no message with some values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfilled {
    /// These fields have no value, and these values no field.
    Fields {
        /// Fields of the template.
        missing: Vec<FieldName>,
        /// What the template does not have.
        extra: Vec<FieldName>,
    },
    /// Longer than a message may be.
    TooLong,
    /// Nothing is left to send.
    Empty,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Purpose;

    fn text(source: &str) -> Result<Text, TextError> {
        Text::parse(source.to_owned())
    }

    fn values(json: &str) -> FieldValues {
        serde_json::from_str(json).unwrap()
    }

    fn filled(source: &str, json: &str) -> Result<String, Unfilled> {
        let values = Values { shared: &values(json), own: None };
        text(source).unwrap().fill(values).map(|body| body.as_str().to_owned())
    }

    #[test]
    fn fields_are_filled_in_wherever_they_stand_and_as_often() {
        assert_eq!(filled("{{a}}, {{b_2}}: {{a}}!", r#"{"a":"x","b_2":""}"#), Ok("x, : x!".to_owned()));
        assert_eq!(filled("{{a}}{{a}}", r#"{"a":"é"}"#), Ok("éé".to_owned()));
        assert_eq!(filled("no fields { } {x} }", "{}"), Ok("no fields { } {x} }".to_owned()));
        let names: Vec<_> = text("{{b}} {{a}} {{b}}").unwrap().fields().iter().map(|f| f.0.clone()).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn a_backslash_takes_a_brace_or_a_backslash_as_it_is() {
        for (source, said) in [
            (r"\{{a}", "{{a}"),
            (r"\{\{a\}\}", "{{a}}"),
            (r"\{{{a}}", "{x"),
            (r"\\{{a}}", r"\x"),
            (r"\\\{{{a}}", r"\{x"),
            (r"{{a}}}", "x}"),
            (r"{{a}}\}}", "x}}"),
            (r"a\\b", r"a\b"),
        ] {
            let json = if text(source).unwrap().fields().is_empty() { "{}" } else { r#"{"a":"x"}"# };
            assert_eq!(filled(source, json), Ok(said.to_owned()), "{source}");
        }
    }

    #[test]
    fn what_a_field_is_filled_with_is_not_read_again() {
        let json = r#"{"a":"{{b}} \\{{ }} \\","b":"no"}"#;
        assert_eq!(filled("{{a}} {{b}}", json), Ok(r"{{b}} \{{ }} \ no".to_owned()));
    }

    #[test]
    fn what_is_no_syntax_is_refused_with_its_place() {
        for (source, error) in [
            ("", TextError::Empty),
            ("é {{name", TextError::NoEnd(3)),
            ("a {{", TextError::NoEnd(3)),
            ("{{na}me", TextError::NoEnd(1)),
            ("ab }}", TextError::NoBeginning(4)),
            ("{{a}} }}", TextError::NoBeginning(7)),
            ("{{}}", TextError::FieldName(1)),
            ("{{ name }}", TextError::FieldName(1)),
            ("{{Name}}", TextError::FieldName(1)),
            ("{{1st}}", TextError::FieldName(1)),
            ("{{_a}}", TextError::FieldName(1)),
            ("{{first-name}}", TextError::FieldName(1)),
            ("{{{a}}}", TextError::FieldName(1)),
            ("{{#if a}}", TextError::FieldName(1)),
            ("{{nаme}}", TextError::FieldName(1)),
            (r"C:\dir", TextError::Backslash(3)),
            ("ends with \\", TextError::Backslash(11)),
            (r"\{a\n", TextError::Backslash(4)),
        ] {
            assert_eq!(text(source).err(), Some(error.clone()), "{source}: {error}");
        }
        let name = "a".repeat(MAX_FIELD_NAME);
        assert!(text(&format!("{{{{{name}}}}}")).is_ok());
        assert_eq!(text(&format!("{{{{{name}a}}}}")).err(), Some(TextError::FieldName(1)));
    }

    #[test]
    fn a_refusal_says_what_to_write_instead() {
        let says = |source: &str| text(source).unwrap_err().to_string();
        assert!(says("x {{").contains("at character 3") && says("x {{").contains(r"{{name}}, or \{{ for two"));
        assert!(says("}}").contains(r"write \}} for two braces"));
        assert!(says(r"\n").contains(r"write \\ for one backslash"));
        assert!(says("{{ }}").contains("write {{first_name}}:"));
    }

    #[test]
    fn lengths_and_counts_are_limited() {
        assert!(text(&"é".repeat(1_600)).is_ok());
        assert_eq!(text(&"a".repeat(1_601)).err(), Some(TextError::TooLong));
        let fields = |n: usize| (0..n).map(|n| format!("{{{{f{n}}}}}")).collect::<Vec<_>>().concat();
        assert!(text(&format!("{}{{{{f0}}}}", fields(MOST_FIELDS))).is_ok());
        assert_eq!(text(&fields(MOST_FIELDS + 1)).err(), Some(TextError::TooManyFields(131)));
    }

    #[test]
    fn missing_and_extra_fields_are_named() {
        let fields = |names: &[&str]| names.iter().map(|name| FieldName::parse(name).unwrap()).collect::<Vec<_>>();
        let unfilled = |json| filled("{{b}} {{a}} {{c}}", json).unwrap_err();
        let expected =
            |missing: &[&str], extra: &[&str]| Unfilled::Fields { missing: fields(missing), extra: fields(extra) };
        assert_eq!(unfilled(r#"{"a":"x"}"#), expected(&["b", "c"], &[]));
        assert_eq!(unfilled(r#"{"a":"","b":"","c":"","d":"","e":""}"#), expected(&[], &["d", "e"]));
        assert_eq!(unfilled(r#"{"x":""}"#), expected(&["b", "a", "c"], &["x"]));
    }

    #[test]
    fn a_recipients_own_value_comes_before_the_one_for_all() {
        let (shared, own) = (values(r#"{"a":"all","b":"all","x":""}"#), values(r#"{"a":"own","x":"","y":""}"#));
        let text = text("{{a}} {{b}}").unwrap();
        let unfilled = text.fill(Values { shared: &shared, own: Some(&own) }).unwrap_err();
        let names: Vec<_> = ["x", "y"].iter().map(|name| FieldName::parse(name).unwrap()).collect();
        assert_eq!(unfilled, Unfilled::Fields { missing: Vec::new(), extra: names });
        let (shared, own) = (values(r#"{"a":"all","b":"all"}"#), values(r#"{"a":"own"}"#));
        let body = text.fill(Values { shared: &shared, own: Some(&own) }).unwrap();
        assert_eq!(body.as_str(), "own all");
    }

    #[test]
    fn what_is_filled_in_is_as_long_as_a_message_at_most_and_not_empty() {
        let long = |n: usize| format!(r#"{{"a":"{}"}}"#, "é".repeat(n));
        assert_eq!(filled("{{a}}", &long(1_600)).unwrap().chars().count(), 1_600);
        assert_eq!(filled("{{a}}", &long(1_601)), Err(Unfilled::TooLong));
        assert_eq!(filled("{{a}}b", &long(1_600)), Err(Unfilled::TooLong));
        assert_eq!(filled(&"{{a}}".repeat(320), &long(6)), Err(Unfilled::TooLong));
        assert_eq!(filled("{{a}}", r#"{"a":""}"#), Err(Unfilled::Empty));
    }

    #[test]
    fn values_are_texts_by_names_of_fields_each_once_and_not_too_many() {
        let many = |n: usize| {
            let pairs: Vec<_> = (0..n).map(|n| format!(r#""f{n}":"""#)).collect();
            format!("{{{}}}", pairs.join(","))
        };
        assert!(serde_json::from_str::<FieldValues>(&many(MOST_FIELDS)).is_ok());
        for wrong in [r#"{"A":""}"#, r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":"","a":""}"#, "[]", "3", &many(21)] {
            assert!(serde_json::from_str::<FieldValues>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_the_same_whatever_their_capitals() {
        let key = |account| {
            DataKey::new(
                AccountId::from_bits(account),
                Purpose::Match,
                1,
                Zeroizing::new([u8::try_from(account).unwrap(); 32]),
            )
        };
        let hash = |text: &str, account| Name::parse(text.to_owned()).unwrap().hash(&key(account));
        assert_eq!(hash("Ärger", 1), hash("äRGER", 1));
        assert_ne!(hash("a", 1), hash("b", 1));
        assert_ne!(hash("a", 1), hash("a", 2));
        for wrong in ["", " a", "a ", "a\nb", "a\u{7}", &"a".repeat(65)] {
            assert_eq!(Name::parse(wrong.to_owned()), Err(NotAName), "{wrong}");
        }
        assert!(Name::parse("Ä b 🦀".to_owned()).is_ok() && Name::parse("é".repeat(64)).is_ok());
    }

    #[test]
    fn a_template_opens_to_what_it_was_and_not_as_another() {
        let key = DataKey::new(AccountId::from_bits(1), Purpose::Payload, 1, Zeroizing::new([1; 32]));
        let content = Content { name: Name::parse("Hello".to_owned()).unwrap(), text: text(r"\{{a}{{b}}").unwrap() };
        let id = TemplateId::from_bits(1);
        let sealed = content.seal(&key, id, [0; 12]).unwrap();
        let (name_hash, at) = (String::new(), Timestamp::UNIX_EPOCH);
        let account = AccountId::from_bits(1);
        let stored = Template { id, account, revision: 1, name_hash, sealed, created: at, updated: at };
        assert_eq!(Content::open(&stored, &key), Ok(content.clone()));
        assert!(Content::open(&Template { id: TemplateId::from_bits(2), ..stored }, &key).is_err());
        let batch = content.text.seal(&key, BatchId::from_bits(1), [1; 12]).unwrap();
        assert_eq!(Text::open(&batch, &key, BatchId::from_bits(1)), Ok(content.text));
        assert!(Text::open(&batch, &key, BatchId::from_bits(2)).is_err());
    }

    #[test]
    fn nothing_of_what_it_says_prints() {
        let content = Content { name: Name::parse("secret".to_owned()).unwrap(), text: text("secret{{a}}").unwrap() };
        let printed = format!("{content:?} {:?}", values(r#"{"a":"secret"}"#));
        assert_eq!(printed, "Content { name: Name(6 bytes), text: Text(11 bytes, 1 fields) } FieldValues(1)");
    }
}
