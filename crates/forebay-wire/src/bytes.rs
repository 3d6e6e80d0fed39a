//! Little-endian fields, read with bounds and written in place. Knows no message.

use forebay_types::Key;

use crate::error::{EncodeError, WireError};

/// What is left of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|b| b[0])
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(|b| u16::from_le_bytes(*b))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(|b| u32::from_le_bytes(*b))
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(|b| u64::from_le_bytes(*b))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Malformed("a flag is 0 or 1")),
        }
    }

    /// A count of 4 bytes. Every item of it has at least `item_bytes`, so that nothing is reserved for items that cannot be there.
    pub(crate) fn count(&mut self, what: &'static str, max: usize, item_bytes: usize) -> Result<usize, WireError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(WireError::Limit { what, have: count as u64, max: max as u64 });
        }
        if count * item_bytes > self.rest.len() {
            return Err(WireError::Short);
        }
        Ok(count)
    }

    /// A length of 2 bytes, then that many.
    #[inline]
    pub(crate) fn short_bytes(&mut self, what: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(WireError::Limit { what, have: length as u64, max: max as u64 });
        }
        self.take(length)
    }

    /// A length of 2 bytes, then that much text.
    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<&'a str, WireError> {
        utf8(self.short_bytes(what, max)?)
    }

    pub(crate) fn keys(&mut self, max: usize) -> Result<Vec<Key>, WireError> {
        let count = self.count("keys in a message", max, 16)?;
        let bytes = self.take(count * 16)?;
        Ok(bytes.as_chunks::<16>().0.iter().map(|key| Key(*key)).collect())
    }

    pub(crate) fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing(left)),
        }
    }
}

pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Malformed("text is UTF-8"))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

#[inline]
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

/// Appending, with ceilings. Lives as an extension of the output, so that a caller's buffer is the only one.
pub(crate) trait Put {
    fn bytes(&mut self, bytes: &[u8]);

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    fn count(&mut self, what: &'static str, have: usize, max: usize) -> Result<(), EncodeError> {
        within(what, have, max)?;
        self.u32(have as u32);
        Ok(())
    }

    fn short_bytes(&mut self, what: &'static str, bytes: &[u8], max: usize) -> Result<(), EncodeError> {
        debug_assert!(max <= usize::from(u16::MAX));
        within(what, bytes.len(), max)?;
        self.u16(bytes.len() as u16);
        self.bytes(bytes);
        Ok(())
    }

    fn keys(&mut self, keys: &[Key], max: usize) -> Result<(), EncodeError> {
        self.count("keys in a message", keys.len(), max)?;
        for key in keys {
            self.bytes(&key.0);
        }
        Ok(())
    }
}

impl Put for Vec<u8> {
    #[inline]
    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

pub(crate) fn within(what: &'static str, have: usize, max: usize) -> Result<(), EncodeError> {
    if have > max { Err(EncodeError { what, have, max }) } else { Ok(()) }
}
