//! The time zones that a phone number may be in, from its digits: libphonenumber's data, the longest prefix counts.

use std::sync::LazyLock;

use super::E164;

/// Prefix and zones, sorted by prefix; read at the first use.
static ZONES: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let lines = include_str!("zones.tsv").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('\t')).collect()
});

/// IANA names of the zones that a number may be in; several for a country or an area that spans them, none for a number
/// without a place. A ported mobile may be anywhere: this is where its digits belong.
pub fn zones(number: &E164) -> Vec<&'static str> {
    let digits = number.as_str().trim_start_matches('+');
    let known = |prefix: &str| ZONES.binary_search_by_key(&prefix, |(prefix, _)| prefix).ok();
    let found = (1..=digits.len()).rev().find_map(|length| known(digits.get(..length)?));
    let zones = found.and_then(|at| ZONES.get(at)).map_or("", |(_, zones)| zones);
    zones.split(',').filter(|zone| !zone.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    fn of(number: &str) -> Vec<&'static str> {
        zones(&E164::parse(number, None).unwrap())
    }

    #[test]
    fn a_number_is_where_its_longest_prefix_is() {
        assert_eq!(of("+12125550100"), ["America/New_York"]);
        assert_eq!(of("+14155550100"), ["America/Los_Angeles"]);
        assert_eq!(of("+442079460958"), ["Europe/London"]);
        assert_eq!(of("+919876543210"), ["Asia/Calcutta"]);
        assert!(of("+18005550100").len() > 3, "toll-free: anywhere in +1");
        assert_eq!(of("+80012345678"), Vec::<&str>::new());
    }

    /// A zone that our time-zone data does not know would hold nothing back.
    #[test]
    fn every_zone_is_known_and_the_list_is_sorted() {
        let prefixes: Vec<_> = ZONES.iter().map(|(prefix, _)| prefix).collect();
        assert!(prefixes.is_sorted() && prefixes.len() > 3_000);
        for (prefix, zones) in ZONES.iter() {
            for zone in zones.split(',') {
                assert!(TimeZone::get(zone).is_ok(), "{prefix}: {zone}");
            }
        }
    }
}
