//! The store's words: what it is asked and what it answers.

use std::ops::Range;

use forebay_io::{ArenaError, DiskError, Landing, Shared};
use forebay_types::{Class, Descriptor, Key, MissReason, NamespaceId, PutOutcome, RefusedReason, ShardId, Tier};

use crate::put::PutMeta;

/// What a slice is formatted with.
#[derive(Debug, Clone)]
pub struct FormatParams {
    /// The shard that will live there.
    pub shard: ShardId,
    /// Which slice of its drive.
    pub slice_index: u32,
    /// Bytes of a segment; `None` chooses the power of two nearest the slice's 1/256, between 4 and 256 MiB.
    pub segment_bytes: Option<u64>,
    /// When, seconds since 1970.
    pub utc_s: u64,
}

/// Why a store cannot be formatted or opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The drive failed.
    #[error("the drive failed while {doing}: {source}; check it, or give another --data")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: DiskError,
    },
    /// The slice cannot be a shard.
    #[error(transparent)]
    Layout(#[from] forebay_format::LayoutError),
    /// Not formatted, or by something else.
    #[error("the drive does not hold a shard: {0}; format it, or give another --data")]
    Format(String),
    /// Too little memory.
    #[error("the shard needs {need} bytes of arena to start and has {found}; give a larger --memory")]
    Memory {
        /// Bytes at least.
        need: u64,
        /// Bytes there.
        found: u64,
    },
    /// No arena.
    #[error(transparent)]
    Arena(#[from] ArenaError),
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Blocks that can be served.
    pub blocks: u64,
    /// Their bytes on the drive with padding.
    pub bytes: u64,
    /// Segments that hold something.
    pub segments: u64,
    /// Segments that were open and were scanned and sealed.
    pub sealed_open: u64,
    /// Records of open segments that were not whole.
    pub bad_records: u64,
    /// Tombstones in force.
    pub tombstones: u64,
    /// Blocks whose time was over.
    pub expired: u64,
    /// Records of namespaces that are gone.
    pub unknown_namespace: u64,
    /// Blocks left out because the index is full.
    pub over_index: u64,
    /// Segments whose footer could not be read; they were scanned.
    pub bad_footers: u64,
    /// Segments whose header could not be read; what they held is lost.
    pub bad_headers: u64,
}

/// A get of one block or of a range of it.
#[derive(Debug)]
pub struct GetRequest {
    /// Caller's; comes back in [`Event::Got`].
    pub token: u64,
    /// Whose.
    pub namespace: NamespaceId,
    /// What.
    pub key: Key,
    /// First byte wanted; rounded down to a piece.
    pub offset: u64,
    /// Bytes wanted, 0 is "to the end"; rounded up to whole pieces.
    pub length: u64,
    /// Most payload bytes the caller takes, without padding; `u64::MAX` if it does not care.
    pub room: u64,
    /// Where the drive may write directly. Used when it is aligned, large enough for padding and trailer, the whole block is asked for and it is
    /// not to be promoted; else it is dropped and the answer is [`Found`].
    pub into: Option<Landing>,
    /// The request it is part of: see [`crate::Store::begin_batch`].
    pub batch: crate::Batch,
    /// Its place in its request: the later, the colder. Requests are ranked tail to head, so that heads outlive tails.
    pub depth_in_batch: u32,
}

/// How a get began.
#[derive(Debug)]
pub enum GetStarted {
    /// Here it is.
    Hit(Found),
    /// [`Event::Got`] follows.
    Pending,
    /// Not served.
    Miss(MissReason),
    /// The range has more bytes than `room`.
    TooSmall {
        /// Bytes of payload it has.
        need: u64,
    },
}

/// Bytes of a block in the arena. Holding it holds the memory: let it go as soon as they are sent.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it came from.
    pub tier: Tier,
    pub(crate) data: Shared,
    pub(crate) payload: Range<usize>,
    pub(crate) descriptor_in: Shared,
    pub(crate) descriptor: Range<usize>,
    /// First byte of [`Self::payload`] in the block.
    pub offset: u64,
    /// Bytes of the whole block.
    pub block_length: u64,
}

impl Found {
    /// The bytes, from [`Self::offset`].
    pub fn payload(&self) -> &[u8] {
        &self.data[self.payload.clone()]
    }

    /// The descriptor's encoding.
    pub fn descriptor(&self) -> &[u8] {
        &self.descriptor_in[self.descriptor.clone()]
    }

    /// The buffer that holds the payload, and where in it.
    pub fn shared(&self) -> (&Shared, Range<usize>) {
        (&self.data, self.payload.clone())
    }
}

/// How a pending get ended.
#[derive(Debug)]
pub enum GetResult {
    /// In the arena.
    Found(Found),
    /// In the client's region, trailer behind it: the client verifies.
    Landed {
        /// The slice, given back.
        landing: Landing,
        /// Bytes of payload.
        length: u64,
        /// Where the descriptor's encoding lies, from the start of the slice: the client decodes the record's trailer there.
        trailer_offset: u64,
    },
    /// Not served.
    Miss(MissReason),
}

/// What a reservation answers.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives for one call; a box would be an allocation for every put")]
pub enum Reserve {
    /// Fill it and commit it.
    Slot(PutSlot),
    /// Held already, or another put of it is on its way.
    Exists,
    /// Not taken.
    Refused(RefusedReason),
}

/// A put's place in the arena, to be filled with exactly the payload. Dropping it abandons the put.
#[derive(Debug)]
pub struct PutSlot {
    pub(crate) buf: forebay_io::Buf,
    pub(crate) meta: PutMeta,
}

impl PutSlot {
    /// The payload's bytes, to be filled.
    pub fn buf_mut(&mut self) -> &mut [u8] {
        let length = self.meta.descriptor.meta.length as usize;
        &mut self.buf[..length]
    }

    /// The payload's bytes as filled so far.
    pub fn payload(&self) -> &[u8] {
        &self.buf[..self.meta.descriptor.meta.length as usize]
    }

    /// What is being put: identity and the sums its bytes must match.
    pub fn descriptor(&self) -> &Descriptor {
        &self.meta.descriptor
    }
}

/// What a commit answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Kept.
    Cached,
    /// [`Event::Put`] follows when it is durable.
    Pending,
    /// Another put of the key was first.
    Exists,
    /// Not kept.
    Refused(RefusedReason),
}

/// A block that is here, as [`crate::Store::look`] saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sighting {
    /// Where it is served from.
    pub tier: Tier,
    /// It is held as long as was asked.
    pub leased: bool,
}

/// What scrub found damaged, twice in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damaged {
    /// A block. It is not held any more, unless it is durable and could not be read at all.
    Block {
        /// Whose.
        namespace: NamespaceId,
        /// What.
        key: Key,
        /// What its namespace promises.
        class: Class,
    },
    /// A segment's header: a start after this one would not find what is in it. What is durable is moved elsewhere before that.
    Header,
    /// A segment's footer: a start will scan the segment and write another.
    Footer,
}

/// Damage, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// What.
    pub what: Damaged,
    /// In which segment.
    pub segment: u16,
    /// First byte of the record, header or footer, from the start of the slice.
    pub offset: u64,
    /// It was read and did not match; else the drive did not give it.
    pub was_read: bool,
}

/// What happened since.
#[derive(Debug)]
pub enum Event {
    /// Scrub found damage.
    Damage(Damage),
    /// A pending get ended.
    Got {
        /// As asked.
        token: u64,
        /// How.
        result: GetResult,
    },
    /// A prefetch that [`crate::Store::prefetch`] did not answer at once ended: `Nvme` was brought to DRAM, `Dram` came there meanwhile.
    Prefetched {
        /// How.
        result: Result<Tier, MissReason>,
    },
    /// A pending put ended.
    Put {
        /// As asked.
        token: u64,
        /// How.
        outcome: PutOutcome,
    },
    /// A forget is durable, or the drive failed.
    Forgotten {
        /// As asked.
        token: u64,
        /// Durable.
        ok: bool,
    },
    /// The drive's table of namespaces is saved, or the drive failed.
    NamespaceSaved {
        /// As asked.
        token: u64,
        /// Durable.
        ok: bool,
    },
}
