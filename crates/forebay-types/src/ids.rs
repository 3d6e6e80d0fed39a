//! Names of things: fixed-width, comparable, printed in hex.

use std::fmt;
use std::str::FromStr;

/// Why a string is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is 32 lower-case hex digits, this has {found}: {text:?}")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
    found: String,
}

fn parse_hex16(what: &'static str, text: &str) -> Result<[u8; 16], ParseIdError> {
    let fail = |found: String| ParseIdError { what, text: text.chars().take(80).collect(), found };
    if text.len() != 32 {
        return Err(fail(format!("{} characters", text.chars().count())));
    }
    let mut out = [0u8; 16];
    for (i, pair) in text.as_bytes().chunks_exact(2).enumerate() {
        let digit = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        match (digit(pair[0]), digit(pair[1])) {
            (Some(hi), Some(lo)) => out[i] = hi << 4 | lo,
            _ => return Err(fail("another character".into())),
        }
    }
    Ok(out)
}

macro_rules! hex16 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex16($what, text).map($name)
            }
        }
    };
}

hex16!(
    /// 128 bits, unique inside its namespace. Derived by the client (`forebay_client::derive_key`).
    Key, "a key"
);
hex16!(
    /// A shard's uuid, written in its superblock when it is formatted. Placement hashes it; it never follows thread, core or path order.
    ShardId, "a shard id"
);

impl Key {
    /// The 64 bits that placement hashes unless a caller gives its own place token: the first half, little endian.
    pub fn place_token(&self) -> u64 {
        u64::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3], self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// Low and high half, little endian.
    pub fn halves(&self) -> (u64, u64) {
        let v = u128::from_le_bytes(self.0);
        (v as u64, (v >> 64) as u64)
    }
}

/// 64 bits drawn by the client that puts. Recomputed KV is not bit-equal, so pieces of two puts must never be combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Version(pub u64);

/// Number of a namespace in its catalogue: drawn once, never reused, not even after deletion. 0 is never given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NamespaceId(pub u32);

/// Who owns a namespace. In the beginning the peer's uid; later what the credential says. Never the caller's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Tenant(pub u32);

/// Numbers the versions of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// Number a client gives to a region on one connection. 0 means "no region: bytes come in DATA frames".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RegionId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_and_parses_as_32_lower_case_hex_digits() {
        let key = Key([0x01, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]);
        assert_eq!(key.to_string(), "01ab00000000000000000000000000ff");
        assert_eq!(key.to_string().parse(), Ok(key));
    }

    #[test]
    fn a_bad_key_is_told_what_is_wrong_with_it() {
        assert!("01ab".parse::<Key>().unwrap_err().to_string().contains("4 characters"));
        assert!(
            "01AB00000000000000000000000000ff".parse::<Key>().unwrap_err().to_string().contains("another character")
        );
        assert!("é1ab0000000000000000000000000ff".parse::<Key>().is_err());
    }
}
