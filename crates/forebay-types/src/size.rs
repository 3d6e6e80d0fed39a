//! Sizes as people write them.

const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Why a string is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a size: {why}; write a number with B, KiB, MiB, GiB, TiB or kB, MB, GB, TB, as in 4GiB")]
pub struct ParseSizeError {
    text: String,
    why: &'static str,
}

/// Parses `4GiB`, `1.5 TB`, `512B`. A unit is needed: a bare number would be a guess.
pub fn parse_size(text: &str) -> Result<u64, ParseSizeError> {
    let fail = |why| ParseSizeError { text: text.chars().take(80).collect(), why };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(|| fail("it has no unit"))?;
    let (number, unit) = trimmed.split_at(split);
    let scale = UNITS.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(|| fail("its unit is unknown"))?.1;
    if number.is_empty() || !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(fail("it has no number"));
    }
    let bytes = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(scale).ok_or_else(|| fail("it is too large"))?,
        Err(_) => {
            let value = number.parse::<f64>().map_err(|_| fail("its number is malformed"))? * scale as f64;
            if value >= u64::MAX as f64 {
                return Err(fail("it is too large"));
            }
            value as u64
        }
    };
    Ok(bytes)
}

/// Prints a size in binary units with at most two decimals: `1.5 GiB`.
pub fn format_size(bytes: u64) -> String {
    let (name, scale) = UNITS[..4].iter().rev().find(|(_, scale)| bytes >= *scale).copied().unwrap_or(("B", 1));
    let text = format!("{:.2}", bytes as f64 / scale as f64);
    format!("{} {name}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_as_people_write_them() {
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("1.5 kB"), Ok(1500));
        assert_eq!(parse_size("12B"), Ok(12));
        for bad in ["12", "", "GiB", "1.2.3GiB", "12 gib", "-4GiB", "99999999999TiB", ".5GiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_print_short() {
        assert_eq!(format_size(3 << 29), "1.5 GiB");
        assert_eq!(format_size(12), "12 B");
        assert_eq!(format_size(0), "0 B");
    }
}
