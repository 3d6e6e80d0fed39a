//! The footer of a sealed segment: what lies where in it, so that a start reads footers instead of records.
//!
//! `[entries, padded with zeros to the alignment][tail, 4 KiB]`, ending where the segment ends. It is written after every record of the segment has
//! completed and been flushed; a footer that does not match its segment's header in generation and nonce does not count.

use forebay_types::{BlockMeta, Crc64, Key, NamespaceId, Version, crc64};

use crate::bytes::{PAGE_BYTES, array_at, check_page, put, put_u32, put_u64, seal_page, u32_at, u64_at};
use crate::layout::UNIT_BYTES;
use crate::{FormatError, SegmentKind, Tombstone};

/// Bytes of one entry.
pub const FOOTER_ENTRY_BYTES: usize = 64;
/// Bytes of the tail, the last of the segment.
pub const FOOTER_TAIL_BYTES: usize = PAGE_BYTES;

const MAGIC: &[u8; 8] = b"fbyFOOTR";
const WHAT: &str = "segment footer";
/// Most entries: a largest segment full of smallest records.
const COUNT_MAX: u32 = (forebay_types::limits::SEGMENT_BYTES_MAX / UNIT_BYTES) as u32;

/// What an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A block: `start` and `record_bytes` are its record's.
    Block = 1,
    /// One forgotten key: `version` and `seq` are the tombstone's, `start` and `record_bytes` those of the record that lists it, `length` is 0.
    Tombstone = 2,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterEntry {
    /// What it stands for.
    pub kind: EntryKind,
    /// Whose.
    pub namespace: NamespaceId,
    /// What.
    pub key: Key,
    /// Which put.
    pub version: Version,
    /// Number of the original put or forget.
    pub seq: u64,
    /// Bytes of payload without padding.
    pub length: u32,
    /// Where its record begins, from the segment's start, in bytes; a multiple of 512.
    pub start: u32,
    /// Bytes of its record, payload and trailer with padding; a multiple of 512.
    pub record_bytes: u32,
    /// What the policy thought of it when the segment was sealed; larger is worth more.
    pub rank: u32,
    /// When it expires, seconds since 1970; 0 never.
    pub expiry_utc_s: u64,
}

/// The tail: whose footer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FooterTail {
    /// The segment's.
    pub generation: u64,
    /// The segment's.
    pub nonce: u64,
    /// What the segment was opened for.
    pub kind: SegmentKind,
    /// Number of entries.
    pub count: u32,
    entries_crc: u64,
}

/// Bytes of `count` entries with padding.
pub const fn footer_entries_bytes(count: u32, align: usize) -> usize {
    (count as usize * FOOTER_ENTRY_BYTES).next_multiple_of(align)
}

/// Bytes of a footer with `count` entries. It begins so many bytes before its segment's end.
pub const fn footer_bytes(count: u32, align: usize) -> usize {
    footer_entries_bytes(count, align) + FOOTER_TAIL_BYTES
}

/// Writes a footer to `out`, which has exactly [`footer_bytes`] of the number of entries.
///
/// # Panics
/// When `out` has another length.
pub fn encode_footer(
    generation: u64,
    nonce: u64,
    kind: SegmentKind,
    entries: impl ExactSizeIterator<Item = FooterEntry>,
    align: usize,
    out: &mut [u8],
) {
    let count = entries.len() as u32;
    assert_eq!(out.len(), footer_bytes(count, align), "the footer's place does not fit its entries");
    let mut footer = FooterEncoder::default();
    footer.step(entries, out);
    footer.finish(generation, nonce, kind, out);
}

/// A footer that is written a few entries at a time: a segment full of small blocks has one of megabytes.
#[derive(Debug, Default)]
pub struct FooterEncoder {
    count: u32,
    sum: Crc64,
}

impl FooterEncoder {
    /// Entries written so far.
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Writes the next entries to their places in `out`, which is as long as the whole footer and the same each time.
    pub fn step(&mut self, entries: impl Iterator<Item = FooterEntry>, out: &mut [u8]) {
        let space = out.get_mut(self.count() * FOOTER_ENTRY_BYTES..).unwrap_or_default();
        let mut written = 0;
        for (entry, place) in entries.zip(space.chunks_exact_mut(FOOTER_ENTRY_BYTES)) {
            entry.encode(place);
            written += 1;
        }
        self.sum.update(&space[..written * FOOTER_ENTRY_BYTES]);
        self.count += written as u32;
    }

    /// Writes what is behind the entries.
    pub fn finish(self, generation: u64, nonce: u64, kind: SegmentKind, out: &mut [u8]) {
        let (count, entries_crc) = (self.count, self.sum.sum());
        let (space, tail) = out.split_at_mut(out.len() - FOOTER_TAIL_BYTES);
        space[count as usize * FOOTER_ENTRY_BYTES..].fill(0);
        tail.copy_from_slice(&FooterTail { generation, nonce, kind, count, entries_crc }.encode());
    }
}

impl FooterTail {
    fn encode(&self) -> [u8; FOOTER_TAIL_BYTES] {
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, MAGIC);
        put_u64(&mut page, 8, self.generation);
        put_u64(&mut page, 16, self.nonce);
        put_u32(&mut page, 24, self.count);
        page[28] = self.kind as u8;
        put_u64(&mut page, 32, self.entries_crc);
        seal_page(&mut page);
        page
    }

    /// From the last 4 KiB of a segment.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        check_page(page, MAGIC, WHAT)?;
        let malformed = |why| FormatError::Malformed { what: WHAT, why };
        let kind = SegmentKind::from_code(page[28]).ok_or(malformed("a kind of segment that is not known"))?;
        let count = u32_at(page, 24);
        if count > COUNT_MAX {
            return Err(malformed("more entries than a segment can hold"));
        }
        let (generation, nonce) = (u64_at(page, 8), u64_at(page, 16));
        Ok(FooterTail { generation, nonce, kind, count, entries_crc: u64_at(page, 32) })
    }

    /// The entries, from bytes that begin with the footer. Every one is whole and within its bounds once this is `Ok`.
    pub fn entries<'a>(&self, bytes: &'a [u8]) -> Result<FooterEntries<'a>, FormatError> {
        let mut check = self.check();
        while !check.step(bytes, usize::MAX)? {}
        check.entries(bytes, 0)
    }

    /// The same in steps: a segment full of small blocks has a footer of megabytes.
    pub fn check(&self) -> FooterCheck {
        FooterCheck { tail: *self, sum: Crc64::default(), checked: 0, is_right: false }
    }
}

/// The check of a footer's entries, which can be done a few at a time.
#[derive(Debug)]
pub struct FooterCheck {
    tail: FooterTail,
    sum: Crc64,
    checked: usize,
    is_right: bool,
}

impl FooterCheck {
    /// Checks at most so many entries more of `bytes`, which begin with the footer and are the same each time. True: all are right.
    pub fn step(&mut self, bytes: &[u8], most: usize) -> Result<bool, FormatError> {
        let count = self.tail.count as usize;
        let to = count.min(self.checked.saturating_add(most));
        let some = bytes.get(self.checked * FOOTER_ENTRY_BYTES..to * FOOTER_ENTRY_BYTES);
        let some = some.ok_or(FormatError::Short(WHAT))?;
        self.sum.update(some);
        self.checked = to;
        if to == count && self.sum.sum() != self.tail.entries_crc {
            return Err(FormatError::Checksum(WHAT));
        }
        if !some.chunks_exact(FOOTER_ENTRY_BYTES).all(|entry| FooterEntry::decode(entry).is_some()) {
            // Damage is told as damage, wherever in the footer it lies.
            let whole = bytes.get(..count * FOOTER_ENTRY_BYTES).ok_or(FormatError::Short(WHAT))?;
            return Err(if crc64(whole) == self.tail.entries_crc {
                FormatError::Malformed { what: WHAT, why: "an entry is out of bounds" }
            } else {
                FormatError::Checksum(WHAT)
            });
        }
        self.is_right = to == count;
        Ok(self.is_right)
    }

    /// The entries from the `skip`-th on, once all have been found right.
    pub fn entries<'a>(&self, bytes: &'a [u8], skip: usize) -> Result<FooterEntries<'a>, FormatError> {
        let (from, to) = (skip.min(self.checked) * FOOTER_ENTRY_BYTES, self.checked * FOOTER_ENTRY_BYTES);
        match bytes.get(from..to) {
            Some(entries) if self.is_right => Ok(FooterEntries { entries }),
            _ => Err(FormatError::Short(WHAT)),
        }
    }
}

impl FooterEntry {
    /// What a footer lists of a block whose record has that number. Its place in the segment and its rank are 0: whoever places it says them.
    pub fn of_block(meta: &BlockMeta, seq: u64) -> Self {
        FooterEntry {
            kind: EntryKind::Block,
            namespace: meta.namespace,
            key: meta.key,
            version: meta.version,
            seq,
            // No block is longer than 64 MiB.
            length: meta.length as u32,
            start: 0,
            record_bytes: 0,
            rank: 0,
            expiry_utc_s: meta.expiry_utc_s,
        }
    }

    /// What a footer lists of a forgotten key; the place of the record that lists it is 0.
    pub fn of_tombstone(tombstone: &Tombstone) -> Self {
        FooterEntry {
            kind: EntryKind::Tombstone,
            namespace: tombstone.namespace,
            key: tombstone.key,
            version: tombstone.version,
            seq: tombstone.seq,
            length: 0,
            start: 0,
            record_bytes: 0,
            rank: 0,
            expiry_utc_s: 0,
        }
    }

    fn encode(&self, out: &mut [u8]) {
        debug_assert!(
            self.start.is_multiple_of(UNIT_BYTES as u32) && self.record_bytes.is_multiple_of(UNIT_BYTES as u32)
        );
        out.fill(0);
        put(out, 0, &self.key.0);
        put_u32(out, 16, self.namespace.0);
        put_u32(out, 20, self.length);
        put_u64(out, 24, self.version.0);
        put_u64(out, 32, self.seq);
        put_u32(out, 40, self.start / UNIT_BYTES as u32);
        put_u32(out, 44, self.record_bytes / UNIT_BYTES as u32);
        put_u32(out, 48, self.rank);
        out[52] = self.kind as u8;
        put_u64(out, 56, self.expiry_utc_s);
    }

    /// `None` when a field is out of its bounds. Whether it lies inside its segment is for the caller, who knows the segment's size.
    fn decode(entry: &[u8]) -> Option<Self> {
        let unit = UNIT_BYTES as u32;
        let kind = match entry[52] {
            1 => EntryKind::Block,
            2 => EntryKind::Tombstone,
            _ => return None,
        };
        let found = FooterEntry {
            kind,
            namespace: NamespaceId(u32_at(entry, 16)),
            key: Key(array_at(entry, 0)),
            version: Version(u64_at(entry, 24)),
            seq: u64_at(entry, 32),
            length: u32_at(entry, 20),
            start: u32_at(entry, 40).checked_mul(unit)?,
            record_bytes: u32_at(entry, 44).checked_mul(unit)?,
            rank: u32_at(entry, 48),
            expiry_utc_s: u64_at(entry, 56),
        };
        let end = found.start.checked_add(found.record_bytes)?;
        let inside = u64::from(end) <= forebay_types::limits::SEGMENT_BYTES_MAX;
        let fits = match kind {
            EntryKind::Block => found.length > 0 && found.length < found.record_bytes,
            EntryKind::Tombstone => found.length == 0 && found.record_bytes > 0,
        };
        (inside && fits).then_some(found)
    }
}

/// Iterator over a footer's entries.
#[derive(Debug, Clone)]
pub struct FooterEntries<'a> {
    entries: &'a [u8],
}

impl Iterator for FooterEntries<'_> {
    type Item = FooterEntry;

    fn next(&mut self) -> Option<FooterEntry> {
        FooterEntry::decode(self.entries.split_off(..FOOTER_ENTRY_BYTES)?)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.entries.len() / FOOTER_ENTRY_BYTES;
        (left, Some(left))
    }
}

impl ExactSizeIterator for FooterEntries<'_> {}
