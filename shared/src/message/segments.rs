//! Counts the SMS segments of a body, as Twilio bills them: GSM-7 or UCS-2, 160/153 or 70/67 units.
//!
//! Sources: 3GPP TS 23.038 §6.2.1 (the GSM 7-bit alphabet and its extension table), 3GPP TS 23.040 §9.2.3.24.1 (the
//! six-octet header of a concatenated message), Twilio's "SMS character limit" page and its open calculator
//! (TwilioDevEd/message-segment-calculator), whose counts are the vectors in `tests/vectors/twilio/`.
//! Twilio's `num_segments` stays the billing truth; this is what we reserve before we know it.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// What a body costs. Equal for equal text: nothing but the text is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Segments {
    /// The alphabet the whole body is sent in.
    pub encoding: Encoding,
    /// How many segments are billed; at least 1, also for an empty body (an MMS without text).
    pub segments: u32,
    /// Septets for GSM-7 (an extension character is two), 16-bit units for UCS-2; headers are not counted.
    pub units: u32,
}

/// The alphabet of a message (3GPP TS 23.038). One character outside GSM-7 turns the whole body into UCS-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Encoding {
    /// The GSM 7-bit default alphabet with its extension table: 160 units alone, 153 in a series.
    #[serde(rename = "GSM-7")]
    Gsm7,
    /// 16-bit units (UTF-16 in practice): 70 units alone, 67 in a series.
    #[serde(rename = "UCS-2")]
    Ucs2,
}

/// Counts the segments of `body`, in time linear in its length.
///
/// Rule (Twilio's calculator): what fits in one segment is one segment; anything longer is packed from the front into
/// smaller segments, and a character of two units is never split. In UCS-2 a whole grapheme cluster moves to the next
/// segment when it would be cut and fits there; one larger than a segment is cut between code points.
/// CR LF is a cluster for Unicode but two characters here, as in the calculator.
pub fn count(body: &str) -> Segments {
    let gsm7 = body.chars().try_fold(0_usize, |units, c| Some(units + gsm7_units(c)?));
    if let Some(units) = gsm7 {
        return Segments::new(Encoding::Gsm7, units, || {
            let mut packing = Packing::new(Encoding::Gsm7.series_limit());
            body.chars().for_each(|c| packing.push(gsm7_units(c).unwrap_or(0)));
            packing.segments
        });
    }
    let units = body.chars().map(char::len_utf16).sum();
    Segments::new(Encoding::Ucs2, units, || {
        let mut packing = Packing::new(Encoding::Ucs2.series_limit());
        for cluster in body.graphemes(true) {
            let size = cluster.chars().map(char::len_utf16).sum();
            if cluster != "\r\n" && size <= packing.limit {
                packing.push(size);
            } else {
                cluster.chars().for_each(|c| packing.push(c.len_utf16()));
            }
        }
        packing.segments
    })
}

impl Segments {
    fn new(encoding: Encoding, units: usize, in_series: impl FnOnce() -> usize) -> Self {
        let segments = if units <= encoding.single_limit() { 1 } else { in_series() };
        // Saturating: a body of four thousand million units is refused long before it is billed.
        Self {
            encoding,
            segments: u32::try_from(segments).unwrap_or(u32::MAX),
            units: u32::try_from(units).unwrap_or(u32::MAX),
        }
    }
}

impl Encoding {
    /// Units of a message that is sent alone: 140 octets of 7 or 16 bits (3GPP TS 23.040).
    const fn single_limit(self) -> usize {
        match self {
            Self::Gsm7 => 160,
            Self::Ucs2 => 70,
        }
    }

    /// Units of each message of a series: 134 octets, since the concatenation header takes six.
    const fn series_limit(self) -> usize {
        match self {
            Self::Gsm7 => 153,
            Self::Ucs2 => 67,
        }
    }

    /// The name Twilio uses: "GSM-7" or "UCS-2".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gsm7 => "GSM-7",
            Self::Ucs2 => "UCS-2",
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Fills segments from the front; what does not fit begins the next one.
struct Packing {
    limit: usize,
    segments: usize,
    used: usize,
}

impl Packing {
    const fn new(limit: usize) -> Self {
        Self { limit, segments: 1, used: 0 }
    }

    const fn push(&mut self, size: usize) {
        if self.used + size > self.limit {
            self.segments += 1;
            self.used = 0;
        }
        self.used += size;
    }
}

/// Septets of a character in GSM-7: 1 in the default alphabet, 2 in its extension table, `None` outside both.
#[rustfmt::skip] // by groups it reads as the table does; rustfmt would give each letter a line
const fn gsm7_units(c: char) -> Option<usize> {
    match c {
        '\n' | '\r' | ' '..='Z' | '_' | 'a'..='z'
        | '¡' | '£' | '¤' | '¥' | '§' | '¿'
        | 'Ä' | 'Å' | 'Æ' | 'Ç' | 'É' | 'Ñ' | 'Ö' | 'Ø' | 'Ü' | 'ß'
        | 'à' | 'ä' | 'å' | 'æ' | 'è' | 'é' | 'ì' | 'ñ' | 'ò' | 'ö' | 'ø' | 'ù' | 'ü'
        | 'Γ' | 'Δ' | 'Θ' | 'Λ' | 'Ξ' | 'Π' | 'Σ' | 'Φ' | 'Ψ' | 'Ω' => Some(1),
        '\u{c}' | '[' | '\\' | ']' | '^' | '{' | '|' | '}' | '~' | '€' => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
                         ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
    const EXTENSION: &str = "\u{c}^{}\\[~]|€";

    fn gsm7(segments: u32, units: u32) -> Segments {
        Segments { encoding: Encoding::Gsm7, segments, units }
    }

    fn ucs2(segments: u32, units: u32) -> Segments {
        Segments { encoding: Encoding::Ucs2, segments, units }
    }

    #[test]
    fn the_alphabet_has_127_characters_and_ten_more_by_escape() {
        assert_eq!(BASIC.chars().count(), 127, "the table of TS 23.038 without the escape itself");
        let all = || (0..=0x0010_FFFF).filter_map(char::from_u32);
        assert!(all().filter(|c| gsm7_units(*c) == Some(1)).all(|c| BASIC.contains(c)));
        assert!(all().filter(|c| gsm7_units(*c) == Some(2)).all(|c| EXTENSION.contains(c)));
        assert_eq!(all().filter(|c| gsm7_units(*c) == Some(1)).count(), 127);
        assert_eq!(all().filter(|c| gsm7_units(*c) == Some(2)).count(), 10);
    }

    #[test]
    fn an_empty_body_is_one_segment() {
        assert_eq!(count(""), gsm7(1, 0));
    }

    #[test]
    fn plain_text_is_cut_at_160_then_153() {
        assert_eq!(count(&"a".repeat(160)), gsm7(1, 160));
        assert_eq!(count(&"a".repeat(161)), gsm7(2, 161));
        assert_eq!(count(&"a".repeat(306)), gsm7(2, 306));
        assert_eq!(count(&"a".repeat(307)), gsm7(3, 307));
    }

    #[test]
    fn an_euro_sign_is_two_units_and_is_not_split() {
        assert_eq!(count(&"€".repeat(80)), gsm7(1, 160));
        assert_eq!(count(&format!("{}€{}", "a".repeat(152), "b".repeat(152))), gsm7(3, 306));
    }

    #[test]
    fn one_character_outside_the_alphabet_makes_all_of_it_ucs2() {
        assert_eq!(count("ça"), ucs2(1, 2));
        assert_eq!(count(&format!("{}’", "a".repeat(70))), ucs2(2, 71));
    }

    #[test]
    fn an_emoji_is_two_units_and_is_not_split() {
        assert_eq!(count(&"😀".repeat(35)), ucs2(1, 70));
        assert_eq!(count(&"😀".repeat(67)), ucs2(3, 134));
    }

    #[test]
    fn a_grapheme_cluster_stays_together_while_it_fits() {
        // 134 units would fill two segments if the 34th pair were cut between the letter and its accent.
        assert_eq!(count(&"e\u{301}".repeat(67)), ucs2(3, 134));
        assert_eq!(count(&format!("a{}", "\u{301}".repeat(133))), ucs2(2, 134));
    }

    #[test]
    fn a_line_end_of_two_characters_may_be_split() {
        assert_eq!(count(&format!("ç{}\r\n{}", "a".repeat(65), "b".repeat(66))), ucs2(2, 134));
    }

    #[test]
    fn names_are_those_of_twilio() {
        assert_eq!(Encoding::Gsm7.to_string(), "GSM-7");
        assert_eq!(serde_json::to_string(&count("ç")).unwrap(), r#"{"encoding":"UCS-2","segments":1,"units":1}"#);
    }

    #[test]
    fn a_very_long_body_takes_linear_time() {
        for unit in ["a", "€", "🇫🇷", "e\u{301}", "👩\u{200d}", "\u{928}\u{94d}"] {
            assert!(count(&unit.repeat(200_000)).segments > 1);
        }
    }

    /// The calculator's own procedure, step by step over a list of pieces: segments that are filled, given a header
    /// when a second one is needed, and emptied from the back into it.
    fn slow(body: &str) -> Segments {
        let gsm = body.chars().all(|c| BASIC.contains(c) || EXTENSION.contains(c));
        let (encoding, bits) = if gsm { (Encoding::Gsm7, 7) } else { (Encoding::Ucs2, 16) };
        let width = |piece: &str| -> usize {
            if gsm {
                piece.chars().map(|c| if EXTENSION.contains(c) { 2 } else { 1 }).sum()
            } else {
                piece.encode_utf16().count()
            }
        };
        let pieces: Vec<String> = body
            .graphemes(true)
            .flat_map(|cluster| {
                if gsm || cluster == "\r\n" || width(cluster) > 67 {
                    cluster.chars().map(String::from).collect()
                } else {
                    vec![cluster.to_owned()]
                }
            })
            .collect();
        let size = |segment: &[String]| segment.iter().map(|p| width(p) * bits).sum::<usize>();
        let mut segments: Vec<Vec<String>> = vec![vec![]];
        for piece in pieces {
            let room = if segments.len() == 1 { 1120 } else { 1072 };
            let last = segments.last_mut().unwrap();
            if size(last) + width(&piece) * bits > room {
                let mut moved = vec![];
                while size(last) > 1072 {
                    moved.insert(0, last.pop().unwrap());
                }
                segments.push(moved);
            }
            segments.last_mut().unwrap().push(piece);
        }
        let units = segments.iter().flatten().map(|p| width(p)).sum::<usize>();
        Segments { encoding, segments: segments.len().try_into().unwrap(), units: units.try_into().unwrap() }
    }

    fn body() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            6 => "[a-z ]{1,40}",
            2 => Just("€".to_owned()),
            2 => Just("\r\n".to_owned()),
            1 => Just("😀".to_owned()),
            1 => Just("e\u{301}".to_owned()),
            1 => Just("👨\u{200d}👩\u{200d}👧".to_owned()),
            1 => "\\PC{1,30}",
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    fn gsm_body() -> impl Strategy<Value = String> {
        let alphabet: Vec<char> = BASIC.chars().chain(EXTENSION.chars()).collect();
        proptest::collection::vec(proptest::sample::select(alphabet), 0..700).prop_map(|c| c.into_iter().collect())
    }

    proptest! {
        #[test]
        fn the_count_is_that_of_the_slow_way(body in prop_oneof![body(), gsm_body()]) {
            prop_assert_eq!(count(&body), slow(&body));
        }

        #[test]
        fn it_is_gsm7_only_when_every_character_is_in_the_alphabet(body in body()) {
            let all = body.chars().all(|c| BASIC.contains(c) || EXTENSION.contains(c));
            prop_assert_eq!(count(&body).encoding == Encoding::Gsm7, all);
        }

        #[test]
        fn more_text_of_the_same_alphabet_never_costs_less(body in gsm_body(), more in gsm_body()) {
            let (before, after) = (count(&body), count(&format!("{body}{more}")));
            prop_assert!(after.segments >= before.segments && after.units >= before.units);
            prop_assert!(after.segments <= before.segments + count(&more).segments + 1);
        }

        #[test]
        fn more_text_of_any_kind_never_costs_less(before in body(), more in body()) {
            let after = count(&format!("{before}{more}"));
            prop_assert!(after.segments >= count(&before).segments);
        }

        #[test]
        fn segments_are_bound_by_units(body in prop_oneof![body(), gsm_body()]) {
            let Segments { encoding, segments, units } = count(&body);
            let (single, series) = match encoding { Encoding::Gsm7 => (160, 153), Encoding::Ucs2 => (70, 67) };
            prop_assert_eq!(segments == 1, units <= single);
            prop_assert!(segments == 1 || segments >= units.div_ceil(series));
            // A cut wastes less than one segment, so two neighbours hold more than one.
            prop_assert!(segments <= 1 + 2 * units.div_ceil(series));
        }
    }
}
