//! Phone numbers, countries and senders: parsed once at the edge, masked wherever they are printed.
//!
//! Sources: ITU-T E.164 (form, 15 digits), Google's libphonenumber metadata by way of the `phonenumber` crate (calling
//! codes, lengths, ranges, trunk prefixes), Twilio's pages on test credentials (magic numbers), alphanumeric sender
//! ids, short codes and channel addresses ("whatsapp:+1…").

mod zones;

use std::fmt;

use phonenumber::PhoneNumber;
use phonenumber::country::Id;
use phonenumber::metadata::{DATABASE, Descriptor, Metadata};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use zones::zones;

/// A phone number in E.164 form, such as `+14155552671`: `+`, a calling code and 7 to 15 digits in all.
///
/// Personal data: prints as `+…71`, cannot be serialized by accident, and is wiped when dropped.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Zeroize, ZeroizeOnDrop)]
pub struct E164(String);

/// A country or territory by its ISO 3166-1 alpha-2 code, one that libphonenumber knows (so also `AC`, `TA` and `XK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Country(Id);

/// What a message is sent from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum SenderId {
    /// A number of any kind: long code, mobile, toll-free.
    Number(E164),
    /// 3 to 8 digits, meaningful in one country only.
    ShortCode(String),
    /// Up to 11 letters, digits and spaces with at least one letter (Twilio's page on alphanumeric sender ids). Cannot
    /// be replied to.
    Alphanumeric(String),
}

/// The network an address belongs to, from its prefix (Twilio's page on channel addresses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Channel {
    /// No prefix: SMS, MMS, voice.
    Sms,
    /// `whatsapp:`.
    Whatsapp,
    /// Any other prefix, such as `rcs:`.
    Other,
}

/// Why a text is not what it should be, and what to write instead. Never holds the text: it may be a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NumberError {
    /// Holds something other than digits and the usual separators, or too many or too few digits.
    #[error("not a phone number: write it in international form, such as +14155552671")]
    NotANumber,
    /// A national number, and no home country to read it in.
    #[error("the country is missing: write the number in international form, such as +14155552671")]
    CountryMissing,
    /// International, but no country has this calling code or this length.
    #[error("no such phone number: check the country code and the number of digits")]
    Impossible,
    /// National, but not a number of the home country.
    #[error(
        "not a number of the home country: check the digits, or write it in international form, such as +14155552671"
    )]
    NotOfHomeCountry,
    /// Not two letters, or no such country.
    #[error("not a country: write the two letters of ISO 3166, such as US")]
    UnknownCountry,
    /// Neither number, short code nor name.
    #[error(
        "not a sender: write a number such as +14155552671, a short code of 3 to 8 digits, or up to 11 letters, digits \
         and spaces with at least one letter"
    )]
    NotASender,
}

impl E164 {
    /// Parses what a person or a program wrote: `+1 (415) 555-2671`, or `0171 …` when `home` says where that is.
    ///
    /// A number in international form must be *possible* (known calling code, a length in use there), not *valid* (in a
    /// range handed out when our metadata was made): ranges open faster than we deploy, Twilio's magic numbers
    /// +1500555xxxx and regulators' example numbers are in no range, and Twilio knows better (error 21211, not billed).
    /// A national number must be valid, since there we guess: a missing digit must not become another number.
    ///
    /// Errs with what to write instead.
    pub fn parse(input: &str, home: Option<Country>) -> Result<Self, NumberError> {
        let (international, digits) = digits(input).ok_or(NumberError::NotANumber)?;
        match (international, home) {
            (true, _) => Self::international(&format!("+{digits}")),
            (false, Some(home)) => Self::national(&digits, home),
            (false, None) => Err(NumberError::CountryMissing),
        }
    }

    /// Takes a number that Twilio or our own store gave. Only the form is checked, `+` and 7 to 15 digits: the network
    /// vouches for it, and a STOP must not be lost because a range is newer than our metadata.
    pub fn from_network(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('+')?;
        let in_form = (7..=15).contains(&digits.len())
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && !digits.starts_with('0');
        in_form.then(|| Self(text.to_owned()))
    }

    /// The number in full, for Twilio and for the store; not for logs.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the number belongs, as far as its digits tell (a ported mobile does not move between countries).
    ///
    /// `None` for networks without a country (+800, +882) and for ranges that our metadata does not know in a calling
    /// code that several countries share. Only +1 falls back, to the US: its codes without a place (500, 600s, toll-free)
    /// are run from there, Twilio bills them so and reports its magic +1500555xxxx numbers as US, and the other countries
    /// of +1 all have area codes of their own, which the metadata knows.
    pub fn country(&self) -> Option<Country> {
        let (code, national) = self.split()?;
        let regions: Vec<&Metadata> =
            DATABASE.region(&code)?.into_iter().filter_map(|region| DATABASE.by_id(region)).collect();
        let region = match regions.as_slice() {
            [only] => Some(*only),
            several => several.iter().copied().find(|region| holds(region, national)),
        };
        let country = region.and_then(|region| Country::parse(region.id()).ok());
        country.or((code == 1).then_some(Country(Id::US)))
    }

    /// The number without its last four digits: neighbours share it, which is how pumped traffic looks.
    pub fn prefix(&self) -> &str {
        self.0.len().checked_sub(4).and_then(|end| self.0.get(..end)).unwrap_or("")
    }

    /// The number without its last two digits: a hundred numbers share it.
    pub fn hundred(&self) -> &str {
        self.0.len().checked_sub(2).and_then(|end| self.0.get(..end)).unwrap_or("")
    }

    fn international(raw: &str) -> Result<Self, NumberError> {
        let raw = Self::from_network(raw).or_else(|| Self::without_trunk_prefix(raw)).ok_or(NumberError::Impossible)?;
        if raw.is_valid() {
            return Ok(raw);
        }
        // "+44 (0)20 7946 0958" holds a zero that is only dialled inside the country.
        match Self::without_trunk_prefix(raw.as_str()) {
            Some(other) => Ok(other),
            None if raw.is_possible() => Ok(raw),
            None => Err(NumberError::Impossible),
        }
    }

    /// The number as the crate reads it, if that is a valid one.
    fn without_trunk_prefix(raw: &str) -> Option<Self> {
        let number = phonenumber::parse(None, raw).ok()?;
        Self::formatted(&number).filter(Self::is_valid)
    }

    /// As it is, without the trunk prefix, or as the crate reads it (calling code, exit code, carrier code), whichever
    /// is valid first. The crate comes last: it takes the first digit of some numbers of Russia, Belarus and Lithuania
    /// for a trunk prefix, or takes two away.
    fn national(digits: &str, home: Country) -> Result<Self, NumberError> {
        let plan = DATABASE.by_id(home.as_str()).ok_or(NumberError::UnknownCountry)?;
        let abroad = |digits: &str| Self::from_network(&format!("+{}{digits}", plan.country_code()));
        let as_it_is = || abroad(digits);
        let without_trunk_prefix = || abroad(digits.strip_prefix(plan.national_prefix()?)?);
        let as_the_crate_reads_it =
            || phonenumber::parse(Some(home.0), digits).ok().and_then(|number| Self::formatted(&number));
        as_it_is()
            .filter(Self::is_valid)
            .or_else(|| without_trunk_prefix().filter(Self::is_valid))
            .or_else(|| as_the_crate_reads_it().filter(Self::is_valid))
            .ok_or(NumberError::NotOfHomeCountry)
    }

    fn formatted(number: &PhoneNumber) -> Option<Self> {
        Self::from_network(&format!("+{}{}", number.code().value(), number.national()))
    }

    /// Calling code and national number; `None` when no country has the code.
    fn split(&self) -> Option<(u16, &str)> {
        let digits = self.0.strip_prefix('+')?;
        (1..=3).find_map(|length| {
            let (code, national) = digits.split_at_checked(length)?;
            let code = code.parse().ok()?;
            DATABASE.by_code(&code).map(|_| (code, national))
        })
    }

    fn plans(&self) -> Option<(Vec<&'static Metadata>, &str)> {
        let (code, national) = self.split()?;
        Some((DATABASE.by_code(&code)?, national))
    }

    fn is_valid(&self) -> bool {
        self.plans().is_some_and(|(plans, national)| plans.iter().any(|plan| holds(plan, national)))
    }

    fn is_possible(&self) -> bool {
        let length = |national: &str| u16::try_from(national.len()).unwrap_or(u16::MAX);
        self.plans().is_some_and(|(plans, national)| {
            plans.iter().flat_map(|plan| kinds(plan)).any(|kind| kind.possible_length().contains(&length(national)))
        })
    }
}

impl fmt::Display for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+…{}", last_two(&self.0))
    }
}

impl fmt::Debug for E164 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Country {
    /// Parses two letters in any case. Errs when no numbering plan is known for them.
    pub fn parse(code: &str) -> Result<Self, NumberError> {
        let id: Id = code.to_ascii_uppercase().parse().map_err(|_| NumberError::UnknownCountry)?;
        let country = Self(id);
        DATABASE.by_id(country.as_str()).map(|_| country).ok_or(NumberError::UnknownCountry)
    }

    /// The two letters in upper case.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl PartialOrd for Country {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Country {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Country {
    type Error = NumberError;

    fn try_from(code: String) -> Result<Self, NumberError> {
        Self::parse(&code)
    }
}

impl From<Country> for String {
    fn from(country: Country) -> Self {
        country.as_str().to_owned()
    }
}

impl SenderId {
    /// Parses a sender: a number in international form, 3 to 8 digits, or a name.
    ///
    /// Errs when it is none of these; a text that begins with `+` can only be a number.
    pub fn parse(input: &str) -> Result<Self, NumberError> {
        let text = input.trim();
        if text.starts_with('+') {
            return E164::parse(text, None).map(Self::Number);
        }
        if (3..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Self::ShortCode(text.to_owned()));
        }
        let is_name = text.len() <= 11
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ')
            && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if is_name { Ok(Self::Alphanumeric(text.to_owned())) } else { Err(NumberError::NotASender) }
    }

    /// The sender in full, for Twilio and for the store.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Number(number) => number.as_str(),
            Self::ShortCode(text) | Self::Alphanumeric(text) => text,
        }
    }
}

impl fmt::Debug for SenderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "Number({number})"),
            Self::ShortCode(code) => write!(f, "ShortCode(…{})", last_two(code)),
            Self::Alphanumeric(_) => f.write_str("Alphanumeric(…)"),
        }
    }
}

/// Reads an address of a webhook, such as `+14155552671` or `whatsapp:+14155552671`.
///
/// `None` for what is not a number: short codes, names, `client:…`, SIP addresses, callers who hide their number.
pub fn parse_address(address: &str) -> Option<(Channel, E164)> {
    let (channel, number) = match address.split_once(':') {
        None => (Channel::Sms, address),
        Some(("whatsapp", number)) => (Channel::Whatsapp, number),
        Some((_, number)) => (Channel::Other, number),
    };
    Some((channel, E164::from_network(number)?))
}

/// Whether a number begins with `+`, and its digits, if nothing else but separators is in it.
fn digits(input: &str) -> Option<(bool, String)> {
    let input = input.trim();
    let separators = [' ', '-', '.', '/', '(', ')', '\u{a0}', '\u{202f}', '\u{2010}', '\u{2011}', '\u{2013}'];
    let text: String = input.chars().filter(|c| !separators.contains(c)).take(21).collect();
    let (international, digits) = text.strip_prefix('+').map_or((false, text.as_str()), |digits| (true, digits));
    let in_form = (3..20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    in_form.then(|| (international, digits.to_owned()))
}

/// Whether a national number is in a range of this numbering plan.
fn holds(plan: &Metadata, national: &str) -> bool {
    match plan.leading_digits() {
        // The leading digits tell which of several countries it is, not whether the rest is right.
        Some(leading) if leading.find(national).is_none_or(|found| found.start() != 0) => false,
        _ => kinds(plan).any(|kind| kind.is_match(national)),
    }
}

/// The ranges of a plan that can be reached from abroad.
fn kinds(plan: &Metadata) -> impl Iterator<Item = &Descriptor> {
    let plan = plan.descriptors();
    [
        plan.fixed_line(),
        plan.mobile(),
        plan.toll_free(),
        plan.premium_rate(),
        plan.shared_cost(),
        plan.personal_number(),
        plan.voip(),
        plan.pager(),
        plan.uan(),
        plan.voicemail(),
    ]
    .into_iter()
    .flatten()
}

fn last_two(text: &str) -> &str {
    text.len().checked_sub(2).and_then(|start| text.get(start..)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn country(code: &str) -> Country {
        Country::parse(code).unwrap()
    }

    fn parsed(input: &str, home: Option<&str>) -> Result<String, NumberError> {
        E164::parse(input, home.map(country)).map(|number| number.as_str().to_owned())
    }

    #[test]
    fn international_form_is_read_with_any_usual_separator() {
        for input in
            ["+14155552671", "+1 (415) 555-2671", " +1.415.555.2671 ", "+1\u{a0}415/555–2671", "(+1) 415 5552671"]
        {
            assert_eq!(parsed(input, None), Ok("+14155552671".to_owned()), "{input}");
            assert_eq!(parsed(input, Some("DE")), Ok("+14155552671".to_owned()), "{input}");
        }
    }

    #[test]
    fn a_zero_that_is_only_dialled_at_home_is_dropped() {
        assert_eq!(parsed("+44 (0)20 7946 0958", None), Ok("+442079460958".to_owned()));
        assert_eq!(parsed("+49 (0)30 123456", None), Ok("+4930123456".to_owned()));
        assert_eq!(parsed("+39 06 698 1234", None), Ok("+39066981234".to_owned()), "Italy dials it from abroad too");
    }

    #[test]
    fn twilios_magic_numbers_are_accepted_in_full_form_only() {
        for last in 0..10 {
            let magic = format!("+1500555000{last}");
            assert_eq!(parsed(&magic, None), Ok(magic.clone()));
            assert_eq!(E164::parse(&magic, None).unwrap().country(), Some(country("US")));
        }
        assert_eq!(parsed("+15005550010", None), Ok("+15005550010".to_owned()));
    }

    #[test]
    fn a_national_number_needs_a_home_and_must_be_valid_there() {
        assert_eq!(parsed("(415) 555-2671", Some("US")), Ok("+14155552671".to_owned()));
        assert_eq!(parsed("1 415 555 2671", Some("US")), Ok("+14155552671".to_owned()));
        assert_eq!(parsed("0171 1234567", Some("DE")), Ok("+491711234567".to_owned()));
        assert_eq!(parsed("0033 1 42 68 53 00", Some("DE")), Ok("+33142685300".to_owned()));
        assert_eq!(parsed("8 800 555 35 35", Some("RU")), Ok("+78005553535".to_owned()));
        assert_eq!(parsed("(415) 555-2671", None), Err(NumberError::CountryMissing));
        assert_eq!(parsed("415 555 267", Some("US")), Err(NumberError::NotOfHomeCountry));
        assert_eq!(parsed("911", Some("US")), Err(NumberError::NotOfHomeCountry));
    }

    #[test]
    fn what_is_no_number_is_refused_with_advice_and_without_an_echo() {
        for input in
            ["", "+", "hello", "+1 415 555 CALL", "+1415555267x1", "1+4155552671", "++14155552671", "٠١٢٣٤٥٦٧٨"]
        {
            assert_eq!(parsed(input, Some("US")), Err(NumberError::NotANumber), "{input}");
        }
        for input in
            ["+1415555267", "+141555526711", "+0123456789", "+999123456789", "+1", "+123456", "+1234567890123456789"]
        {
            assert!(matches!(parsed(input, None), Err(NumberError::Impossible | NumberError::NotANumber)), "{input}");
        }
        assert_eq!(
            NumberError::NotANumber.to_string(),
            "not a phone number: write it in international form, such as +14155552671"
        );
    }

    #[test]
    fn countries_of_a_shared_calling_code_are_told_apart() {
        for (number, expected) in [
            ("+14155552671", Some("US")),
            ("+16137827274", Some("CA")),
            ("+13459492311", Some("KY")),
            ("+18005551212", Some("US")),
            ("+15551234567", Some("US")),
            ("+447400123456", Some("GB")),
            ("+447700900123", None),
            ("+441534123456", Some("JE")),
            ("+390212345678", Some("IT")),
            ("+79161234567", Some("RU")),
            ("+77011234567", Some("KZ")),
            ("+4915112345678", Some("DE")),
            ("+80012345678", None),
        ] {
            let found = E164::parse(number, None).unwrap().country();
            assert_eq!(found.as_ref().map(Country::as_str), expected, "{number}");
        }
    }

    #[test]
    fn every_example_of_the_metadata_is_read_both_ways() {
        let (mut n_examples, mut failures) = (0, vec![]);
        for plan in DATABASE.iter() {
            for example in kinds(plan).filter_map(Descriptor::example) {
                let full = format!("+{}{example}", plan.country_code());
                if full.len() < 8 {
                    continue; // a few services of Iran with four digits, not reachable from abroad
                }
                n_examples += 1;
                if parsed(&full, None).as_ref() != Ok(&full) {
                    failures.push(format!("{} {full}", plan.id()));
                }
                if Country::parse(plan.id()).is_ok() && parsed(example, Some(plan.id())).as_ref() != Ok(&full) {
                    failures.push(format!("{} {example} at home", plan.id()));
                }
            }
        }
        assert_eq!(failures, [""; 0]);
        assert!(n_examples > 1000, "{n_examples}");
    }

    #[test]
    fn a_number_prints_as_its_last_two_digits() {
        let number = E164::parse("+15005550009", None).unwrap();
        assert_eq!(format!("{number} {number:?}"), "+…09 +…09");
        assert_eq!((number.prefix(), number.hundred()), ("+1500555", "+150055500"));
        assert_eq!(format!("{:?}", SenderId::Number(number)), "Number(+…09)");
    }

    #[test]
    fn a_country_is_two_letters_that_have_a_plan() {
        assert_eq!(Country::parse("de").map(|c| c.to_string()), Ok("DE".to_owned()));
        for code in ["", "D", "DEU", "ZZ", "01", "é"] {
            assert_eq!(Country::parse(code), Err(NumberError::UnknownCountry), "{code}");
        }
        assert_eq!(serde_json::to_string(&country("CA")).unwrap(), r#""CA""#);
        assert_eq!(serde_json::from_str::<Country>(r#""CA""#).unwrap(), country("CA"));
        assert!(serde_json::from_str::<Country>(r#""ZZ""#).is_err());
        assert!(country("CA") < country("US"));
    }

    #[test]
    fn a_sender_is_a_number_a_short_code_or_a_name() {
        let sender = |text| SenderId::parse(text);
        assert!(matches!(sender("+1 415 555 2671"), Ok(SenderId::Number(n)) if n.as_str() == "+14155552671"));
        assert_eq!(sender("12345"), Ok(SenderId::ShortCode("12345".to_owned())));
        assert_eq!(sender(" Tel Buddy 1 "), Ok(SenderId::Alphanumeric("Tel Buddy 1".to_owned())));
        for text in ["", " ", "12", "123456789", "123 45", "TelBuddy 123", "Tel-Buddy", "Télé", "4155552671"] {
            assert_eq!(sender(text), Err(NumberError::NotASender), "{text}");
        }
        assert_eq!(sender("+1"), Err(NumberError::NotANumber));
        assert_eq!(
            format!("{:?} {:?}", sender("12345").unwrap(), sender("Acme").unwrap()),
            "ShortCode(…45) Alphanumeric(…)"
        );
        assert_eq!(sender("Acme").unwrap().as_str(), "Acme");
    }

    #[test]
    fn an_address_says_its_channel() {
        let read = |address| parse_address(address).map(|(channel, number)| (channel, number.as_str().to_owned()));
        let number = || "+15005550010".to_owned();
        assert_eq!(read("+15005550010"), Some((Channel::Sms, number())));
        assert_eq!(read("whatsapp:+15005550010"), Some((Channel::Whatsapp, number())));
        assert_eq!(read("rcs:+15005550010"), Some((Channel::Other, number())));
        assert_eq!(read("whatsapp:+5215512345678"), Some((Channel::Whatsapp, "+5215512345678".to_owned())));
        for other in
            ["", "12345", "Acme", "client:anna", "sip:+15005550010@example.com", "whatsapp:", "+1 500", "anonymous"]
        {
            assert_eq!(read(other), None, "{other}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_input_panics_and_what_is_read_is_in_form(
            input in "\\PC{0,24}|[+0-9() -]{0,24}|\\+[0-9]{5,16}|[0-9]{3,19}",
            home in proptest::option::of("[A-Z]{2}"),
        ) {
            let home = home.and_then(|code| Country::parse(&code).ok());
            if let Ok(number) = E164::parse(&input, home) {
                prop_assert_eq!(E164::from_network(number.as_str()), Some(number.clone()));
                prop_assert_eq!(E164::parse(number.as_str(), None), Ok(number.clone()), "reading again changes nothing");
                number.country();
                prop_assert!(number.as_str().starts_with(number.prefix()));
            }
            parse_address(&input);
            let _ = SenderId::parse(&input);
        }

        #[test]
        fn no_home_and_no_digits_panic(digits in "[0-9]{3,19}", at in any::<prop::sample::Index>()) {
            let plans: Vec<_> = DATABASE.iter().collect();
            let plan = at.get(&plans);
            let _ = E164::parse(&digits, Country::parse(plan.id()).ok());
            let _ = E164::parse(&format!("+{}{digits}", plan.country_code()), None);
            if let Some(prefix) = plan.national_prefix() {
                let _ = E164::parse(&format!("{prefix}{digits}"), Country::parse(plan.id()).ok());
            }
        }
    }
}
