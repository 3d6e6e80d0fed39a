//! The header of a segment: which opening of which segment this is.

use forebay_types::ShardId;

use crate::FormatError;
use crate::bytes::{PAGE_BYTES, array_at, check_page, put, put_u32, put_u64, seal_page, u32_at, u64_at};

/// Bytes of a segment's header. The first record follows it.
pub const SEGMENT_HEADER_BYTES: usize = PAGE_BYTES;

const MAGIC: &[u8; 8] = b"fbySEGMT";
const WHAT: &str = "segment header";

/// What a segment was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentKind {
    /// Blocks that may be evicted.
    Cache = 1,
    /// Blocks that may not.
    Durable = 2,
    /// Blocks moved out of a victim.
    Reappend = 3,
}

impl SegmentKind {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            SegmentKind::Cache => "cache",
            SegmentKind::Durable => "durable",
            SegmentKind::Reappend => "re-append",
        }
    }

    /// From its code.
    pub fn from_code(code: u8) -> Option<Self> {
        [SegmentKind::Cache, SegmentKind::Durable, SegmentKind::Reappend].into_iter().find(|kind| *kind as u8 == code)
    }
}

/// Header of a segment, written when it is opened, before its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose.
    pub shard: ShardId,
    /// Which segment of the slice.
    pub index: u32,
    /// Number of this opening, strictly increasing in a shard. Records and footer of another opening do not count.
    pub generation: u64,
    /// 64 random bits drawn at this opening, never shown outside: with them a payload cannot pass for a record.
    pub nonce: u64,
    /// What for.
    pub kind: SegmentKind,
    /// When, seconds since 1970.
    pub opened_utc_s: u64,
}

impl SegmentHeader {
    /// The page.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut page = [0; PAGE_BYTES];
        put(&mut page, 0, MAGIC);
        put(&mut page, 8, &self.shard.0);
        put_u32(&mut page, 24, self.index);
        page[28] = self.kind as u8;
        put_u64(&mut page, 32, self.generation);
        put_u64(&mut page, 40, self.nonce);
        put_u64(&mut page, 48, self.opened_utc_s);
        seal_page(&mut page);
        page
    }

    /// From its page. Callers compare `shard` and `index` with where they read it.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        check_page(page, MAGIC, WHAT)?;
        let kind = SegmentKind::from_code(page[28]);
        Ok(SegmentHeader {
            shard: ShardId(array_at(page, 8)),
            index: u32_at(page, 24),
            generation: u64_at(page, 32),
            nonce: u64_at(page, 40),
            kind: kind.ok_or(FormatError::Malformed { what: WHAT, why: "a kind of segment that is not known" })?,
            opened_utc_s: u64_at(page, 48),
        })
    }
}
