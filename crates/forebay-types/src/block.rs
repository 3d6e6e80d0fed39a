//! What a block is, apart from its bytes.

use std::fmt;

use crate::limits::{BLOCK_BYTES_MAX, PART_NAME_BYTES, PARTS_MAX};
use crate::{Key, NamespaceId, SumBinding, Version};

/// Name of a part: 1 to 16 bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartName([u8; PART_NAME_BYTES]);

impl PartName {
    /// From text of 1 to 16 bytes without NUL, else `None`.
    pub fn new(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > PART_NAME_BYTES || bytes.contains(&0) {
            return None;
        }
        let mut name = [0; PART_NAME_BYTES];
        name[..bytes.len()].copy_from_slice(bytes);
        Some(PartName(name))
    }

    /// From its padded bytes: text, then zeros.
    pub fn from_bytes(bytes: [u8; PART_NAME_BYTES]) -> Option<Self> {
        let text = std::str::from_utf8(&bytes).ok()?.trim_end_matches('\0');
        PartName::new(text).filter(|name| name.0 == bytes)
    }

    /// Its bytes, padded with zeros.
    pub fn bytes(&self) -> [u8; PART_NAME_BYTES] {
        self.0
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("").trim_end_matches('\0')
    }
}

impl fmt::Debug for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// A named range of a block. Parts are in order, adjacent or apart, never overlapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it holds, unique in its block.
    pub name: PartName,
    /// First byte, from the block's start.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// How pieces are checked. One kind today; the width field leaves room for 16-byte AEAD tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum CheckKind {
    /// CRC-64/NVME bound by [`SumBinding`]; 8 bytes a piece.
    #[default]
    Crc64Bound = 1,
}

/// Everything about a block but its bytes and sums.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockMeta {
    /// Its namespace.
    pub namespace: NamespaceId,
    /// Its key.
    pub key: Key,
    /// Which put of the key this is.
    pub version: Version,
    /// Bytes of payload, 1 to [`BLOCK_BYTES_MAX`].
    pub length: u64,
    /// Root of the chain it belongs to, 64 bits; 0 if unknown.
    pub chain: u64,
    /// First 64 bits of the previous key in the chain; 0 for a head or if unknown.
    pub parent: u64,
    /// Blocks before it in the chain.
    pub position: u32,
    /// Tokens it holds.
    pub tokens: u32,
    /// When it expires, absolute UTC seconds; 0 never.
    pub expiry_utc_s: u64,
    /// What placement hashes.
    pub place: u64,
    /// How its pieces are checked.
    pub check: CheckKind,
    /// How its payload is encoded; 0 is "as it is", the only one today.
    pub codec: u8,
    /// Named ranges; empty for a plain block.
    pub parts: Vec<Part>,
}

impl BlockMeta {
    /// A plain block with defaults for everything but its identity.
    pub fn plain(namespace: NamespaceId, key: Key, version: Version, length: u64) -> Self {
        BlockMeta { namespace, key, version, length, place: key.place_token(), ..BlockMeta::default() }
    }

    /// What its sums are bound to.
    pub fn binding(&self) -> SumBinding {
        SumBinding::new(self.namespace, self.key, self.version, self.length)
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name.as_str() == name)
    }

    /// What is wrong with it, if anything: length, number, order, range or names of parts.
    pub fn problem(&self) -> Option<&'static str> {
        if self.length == 0 {
            return Some("a block has at least 1 byte");
        }
        if self.length > BLOCK_BYTES_MAX {
            return Some("a block has at most 64 MiB");
        }
        if self.parts.len() > PARTS_MAX {
            return Some("a block has at most 64 parts");
        }
        let mut end = 0;
        for (i, part) in self.parts.iter().enumerate() {
            if part.offset < end {
                return Some("parts are in order and do not overlap");
            }
            end = match part.offset.checked_add(part.length) {
                Some(end) if end <= self.length => end,
                _ => return Some("parts lie inside their block"),
            };
            if self.parts[..i].iter().any(|other| other.name == part.name) {
                return Some("names of parts are unique in their block");
            }
        }
        None
    }
}
