//! Tombstones: keys that were forgotten, as a list in a record of their own.

use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_types::{Key, NamespaceId, Version};

use crate::FormatError;
use crate::bytes::{array_at, put, put_u32, put_u64, u32_at, u64_at};

/// Bytes of one tombstone.
pub const TOMBSTONE_BYTES: usize = 40;
/// Most tombstones in one record: one message's keys.
pub const TOMBSTONES_MAX: usize = KEYS_PER_MESSAGE_MAX;

const COUNT_BYTES: usize = 8;
const WHAT: &str = "list of tombstones";

/// A forgotten key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tombstone {
    /// Whose.
    pub namespace: NamespaceId,
    /// What.
    pub key: Key,
    /// The version that was held then.
    pub version: Version,
    /// Number of the forget. Every record of the key with a lower one is dead.
    pub seq: u64,
}

/// Bytes of a list of `count`.
pub const fn tombstones_len(count: usize) -> usize {
    COUNT_BYTES + count * TOMBSTONE_BYTES
}

/// Writes a list to the start of `out`.
///
/// # Panics
/// When `out` has fewer than [`tombstones_len`] bytes or the list more than [`TOMBSTONES_MAX`] entries.
pub fn encode_tombstones(list: &[Tombstone], out: &mut [u8]) {
    assert!(list.len() <= TOMBSTONES_MAX);
    let out = &mut out[..tombstones_len(list.len())];
    out.fill(0);
    put_u32(out, 0, list.len() as u32);
    for (tombstone, entry) in list.iter().zip(out[COUNT_BYTES..].chunks_exact_mut(TOMBSTONE_BYTES)) {
        put_u32(entry, 0, tombstone.namespace.0);
        put(entry, 8, &tombstone.key.0);
        put_u64(entry, 24, tombstone.version.0);
        put_u64(entry, 32, tombstone.seq);
    }
}

/// Reads exactly one list. Its checksum is the trailer's.
pub fn decode_tombstones(bytes: &[u8]) -> Result<Tombstones<'_>, FormatError> {
    let Some((count, entries)) = bytes.split_at_checked(COUNT_BYTES) else {
        return Err(FormatError::Short(WHAT));
    };
    let count = u32_at(count, 0) as usize;
    if count > TOMBSTONES_MAX || bytes.len() != tombstones_len(count) {
        return Err(FormatError::Malformed { what: WHAT, why: "its length does not fit its count" });
    }
    Ok(Tombstones { entries })
}

/// Iterator over a list's tombstones.
#[derive(Debug, Clone)]
pub struct Tombstones<'a> {
    entries: &'a [u8],
}

impl Iterator for Tombstones<'_> {
    type Item = Tombstone;

    fn next(&mut self) -> Option<Tombstone> {
        let entry = self.entries.split_off(..TOMBSTONE_BYTES)?;
        Some(Tombstone {
            namespace: NamespaceId(u32_at(entry, 0)),
            key: Key(array_at(entry, 8)),
            version: Version(u64_at(entry, 24)),
            seq: u64_at(entry, 32),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.entries.len() / TOMBSTONE_BYTES;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Tombstones<'_> {}
