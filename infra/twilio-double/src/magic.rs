//! Numbers with a fixed result: those of Twilio's test credentials, which here work for every account, and two of ours.

/// What becomes of a message or a call, chosen by the end of its `To` number. This rule is the double's own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Succeeds,
    /// `…0041`: a message is undelivered (30003), a call is not answered.
    Unreachable,
    /// `…0042`: a message fails (30005), a call is busy.
    Unknown,
}

pub(crate) fn fate(to: &str) -> Fate {
    if to.ends_with("0041") {
        return Fate::Unreachable;
    }
    if to.ends_with("0042") { Fate::Unknown } else { Fate::Succeeds }
}

/// As `From` this number is always accepted, as a number to buy always available.
pub(crate) const GOOD: &str = "+15005550006";

pub(crate) fn message_to(to: &str) -> Option<u32> {
    match to {
        "+15005550001" => Some(21211),
        "+15005550002" => Some(21612),
        "+15005550003" => Some(21408),
        "+15005550004" => Some(21610),
        "+15005550009" => Some(21614),
        _ => None,
    }
}

pub(crate) fn message_from(from: &str) -> Option<u32> {
    match from {
        "+15005550001" => Some(21212),
        "+15005550007" => Some(21606),
        "+15005550008" => Some(21611),
        _ => None,
    }
}

pub(crate) fn call_to(to: &str) -> Option<u32> {
    match to {
        "+15005550001" => Some(21217),
        "+15005550002" => Some(21214),
        "+15005550003" => Some(21215),
        "+15005550004" => Some(21216),
        _ => None,
    }
}

pub(crate) fn call_from(from: &str) -> Option<u32> {
    (from == "+15005550001").then_some(21212)
}

pub(crate) fn purchase(number: &str) -> Option<u32> {
    match number {
        "+15005550000" => Some(21422),
        "+15005550001" => Some(21421),
        _ => None,
    }
}

pub(crate) fn area_code(code: &str) -> Option<u32> {
    (code == "533").then_some(21452)
}
