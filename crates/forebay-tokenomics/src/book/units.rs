//! Quantities as people write them in a book: a number and a unit of the right dimension.

/// What is measured, with the units it may be written in and what each is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Dimension {
    /// In words, for complaints.
    pub(crate) what: &'static str,
    units: &'static [(&'static str, f64)],
}

/// Bytes.
pub(crate) const BYTES: Dimension = Dimension {
    what: "a size",
    units: &[
        ("GB", 1e9),
        ("TB", 1e12),
        ("MB", 1e6),
        ("PB", 1e15),
        ("GiB", 1073741824.0),
        ("TiB", 1099511627776.0),
        ("MiB", 1048576.0),
    ],
};

/// Bytes a second.
pub(crate) const BYTES_PER_S: Dimension = Dimension {
    what: "a bandwidth",
    units: &[
        ("GB/s", 1e9),
        ("TB/s", 1e12),
        ("MB/s", 1e6),
        ("GiB/s", 1073741824.0),
        ("Gb/s", 1.25e8),
        ("Tb/s", 1.25e11),
    ],
};

/// Floating point operations a second.
pub(crate) const FLOP_PER_S: Dimension =
    Dimension { what: "a speed of computing", units: &[("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("GFLOP/s", 1e9)] };

/// Watts.
pub(crate) const WATTS: Dimension = Dimension { what: "a power", units: &[("W", 1.0), ("kW", 1e3)] };

impl Dimension {
    /// The quantity in its base unit.
    ///
    /// # Errors
    /// Why it is none, to stand behind the key's name.
    pub(crate) fn parse(self, text: &str) -> Result<f64, String> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(trimmed.len());
        let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
        let known = || self.units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let Ok(number) = number.parse::<f64>() else {
            return Err(format!(
                "is {text:?}, which does not begin with a number; write {} as in 1{}",
                self.what, self.units[0].0
            ));
        };
        if unit.is_empty() {
            return Err(format!("is {text:?}, without a unit; write one of {}", known()));
        }
        match self.units.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => Ok(number * scale),
            None => Err(format!("has the unknown unit {unit:?}; write one of {}", known())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_a_number_and_a_unit_of_their_kind() {
        assert_eq!(BYTES.parse("80GB"), Ok(80e9));
        assert_eq!(BYTES_PER_S.parse("400 Gb/s"), Ok(50e9));
        assert_eq!(FLOP_PER_S.parse("989TFLOP/s"), Ok(989e12));
        assert_eq!(WATTS.parse("0.7kW"), Ok(700.0));
        for (dimension, text, said) in [
            (BYTES, "80", "without a unit"),
            (BYTES, "80TFLOP/s", "unknown unit \"TFLOP/s\""),
            (BYTES_PER_S, "fast", "does not begin with a number"),
            (WATTS, "", "does not begin with a number"),
        ] {
            assert!(dimension.parse(text).unwrap_err().contains(said), "{text}");
        }
    }
}
