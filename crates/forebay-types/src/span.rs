//! Spans of time as people write them: `90s`, `15m`, `12h`, `7d`.

/// Why a text is not a span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a span of time: it is a whole number and s, m, h, d or y, as in 12h, from 1s to 100y")]
pub struct ParseSpanError(String);

/// Units and their seconds.
const UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("y", 365 * 86_400)];
/// A hundred years: behind it everything is for ever.
const SECONDS_MAX: u64 = 36_500 * 86_400;

/// Seconds of a span of at least one.
pub fn parse_span_s(text: &str) -> Result<u32, ParseSpanError> {
    let bad = || ParseSpanError(text.chars().take(80).collect());
    let text = text.trim();
    let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(bad)?;
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.trim().parse().ok()).ok_or_else(bad)?;
    let span = number.checked_mul(*seconds).filter(|span| (1..=SECONDS_MAX).contains(span)).ok_or_else(bad)?;
    u32::try_from(span).map_err(|_| bad())
}

/// The shortest way to write a span in one unit.
pub fn format_span_s(seconds: u64) -> String {
    let (unit, size) =
        UNITS.iter().rev().find(|(_, size)| seconds > 0 && seconds.is_multiple_of(*size)).unwrap_or(&UNITS[0]);
    format!("{}{unit}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_and_written() {
        for (text, seconds) in [("1s", 1), ("90s", 90), ("15m", 900), ("12 h", 43_200), ("7d", 604_800)] {
            assert_eq!(parse_span_s(text), Ok(seconds));
        }
        for bad in ["", "s", "0s", "1.5h", "12", "-3m", "7w", "99999999d", "1h30m"] {
            assert!(parse_span_s(bad).is_err(), "{bad}");
        }
        assert_eq!(format_span_s(604_800), "7d");
        assert_eq!(format_span_s(90), "90s");
        assert_eq!(format_span_s(3600), "1h");
    }
}
