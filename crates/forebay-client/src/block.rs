//! What a get gives: verified blocks, kept or looked at in place.

use std::ops::{Deref, Range};

use forebay_types::{BlockMeta, Descriptor, LandingKind, MissReason, Tier};

use crate::memory::Memory;

/// What a get answers for one key.
#[derive(Debug)]
pub enum GetResult {
    /// Verified bytes.
    Hit(Block),
    /// Why there are none.
    Miss(MissReason),
}

impl GetResult {
    /// The block, if it is a hit.
    pub fn hit(self) -> Option<Block> {
        match self {
            GetResult::Hit(block) => Some(block),
            GetResult::Miss(_) => None,
        }
    }

    /// Why it is none, if it is a miss.
    pub fn miss(&self) -> Option<MissReason> {
        match self {
            GetResult::Hit(_) => None,
            GetResult::Miss(reason) => Some(*reason),
        }
    }
}

/// A block, or the range of it that was asked for. Dereferences to its bytes, which were verified where they lie.
///
/// It holds memory of the client's region: keep it no longer than it is needed. Nothing else writes there while it is held.
#[derive(Debug)]
pub struct Block {
    memory: Memory,
    range: Range<usize>,
    start: u64,
    /// Apart, so that a result is small: most of a call's may be misses, and each is made, moved and dropped.
    meta: Box<BlockMeta>,
    tier: Tier,
    landing: LandingKind,
}

impl Block {
    /// What the block is: key, version, length of the whole block, chain, parts.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Where it came from.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// How it came.
    pub fn landing(&self) -> LandingKind {
        self.landing
    }

    /// First byte of these bytes in the block: 0 unless a range was asked for.
    pub fn offset(&self) -> u64 {
        self.start
    }

    /// The bytes of a part. `None` if the block has no part of that name, or it does not lie wholly inside the range that was asked for.
    pub fn part(&self, name: &str) -> Option<&[u8]> {
        part(&self.meta, self.start, self, name)
    }
}

impl Block {
    /// The bytes, to be changed: they are the holder's alone.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let range = self.range.clone();
        &mut self.memory.bytes_mut()[range]
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.range.clone()]
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A verified block in place, for the time of one visit. Dereferences to its bytes.
#[derive(Debug, Clone, Copy)]
pub struct BlockRef<'a> {
    bytes: &'a [u8],
    start: u64,
    meta: &'a BlockMeta,
    tier: Tier,
    landing: LandingKind,
}

impl<'a> BlockRef<'a> {
    /// See [`Block::meta`].
    pub fn meta(&self) -> &'a BlockMeta {
        self.meta
    }

    /// See [`Block::tier`].
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// See [`Block::landing`].
    pub fn landing(&self) -> LandingKind {
        self.landing
    }

    /// See [`Block::offset`].
    pub fn offset(&self) -> u64 {
        self.start
    }

    /// See [`Block::part`].
    pub fn part(&self, name: &str) -> Option<&'a [u8]> {
        part(self.meta, self.start, self.bytes, name)
    }

    /// The bytes, for as long as the visit lasts.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Deref for BlockRef<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// Why [`crate::NamespaceHandle::get_into`] did not fill a buffer. What is in the buffer then is unspecified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IntoError {
    /// No verified bytes.
    #[error("a miss: {0}")]
    Miss(MissReason),
    /// There is a block, and the buffer is shorter. Ask again with a buffer of `need` bytes. It counts as a hit.
    #[error("the buffer is too small: the block has {need} bytes")]
    TooSmall {
        /// Bytes of the block.
        need: usize,
    },
}

fn part<'a>(meta: &BlockMeta, start: u64, bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let part = meta.part(name)?;
    let from = usize::try_from(part.offset.checked_sub(start)?).ok()?;
    bytes.get(from..from.checked_add(usize::try_from(part.length).ok()?)?)
}

/// Bytes that have arrived for one item. Who they claim to be was checked; their sums were not.
pub(crate) struct Arrived {
    pub(crate) memory: Memory,
    pub(crate) descriptor: Descriptor,
    /// Whole pieces, from the start of `memory`.
    pub(crate) length: usize,
    /// The block's byte at the start of `memory`; the start of a piece.
    pub(crate) offset: u64,
    /// What was asked for, inside `length`.
    pub(crate) range: Range<usize>,
    pub(crate) tier: Tier,
    pub(crate) landing: LandingKind,
    /// See [`crate::options::Mutant::SkipCheck`].
    pub(crate) unchecked: bool,
}

impl Arrived {
    /// Whether the bytes are what the descriptor says, where they lie.
    pub(crate) fn is_right(&self) -> bool {
        if self.unchecked {
            return true;
        }
        let first = (self.offset / forebay_types::limits::PIECE_BYTES as u64) as usize;
        self.descriptor.sums.verify(&self.descriptor.meta.binding(), first, &self.memory[..self.length])
    }

    /// Copies what was asked for to the start of `to`, checking each piece right after it was copied, while it is near: what is checked are
    /// the bytes the caller holds. The whole block only.
    pub(crate) fn copy_checked(&self, to: &mut [u8]) -> bool {
        use forebay_types::limits::PIECE_BYTES;
        let binding = self.descriptor.meta.binding();
        let from = &self.memory[..self.length];
        let pieces = from.chunks(PIECE_BYTES).zip(to[..self.length].chunks_mut(PIECE_BYTES));
        for (index, (from, to)) in pieces.enumerate() {
            to.copy_from_slice(from);
            let right =
                self.unchecked || self.descriptor.sums.0.get(index).is_some_and(|sum| *sum == binding.sum(index, to));
            if !right {
                return false;
            }
        }
        true
    }

    /// As [`Self::copy_checked`], to places that are filled one behind the other. They have room for the whole block.
    pub(crate) fn scatter_checked(&self, to: &mut [&mut [u8]]) -> bool {
        use forebay_types::limits::PIECE_BYTES;
        let binding = self.descriptor.meta.binding();
        let mut places = to.iter_mut();
        // What of the place that is being filled is still free.
        let mut free: &mut [u8] = &mut [];
        for (index, piece) in self.memory[..self.length].chunks(PIECE_BYTES).enumerate() {
            let (mut rest, mut runs) = (piece, Vec::with_capacity(2));
            while !rest.is_empty() {
                if free.is_empty() {
                    let Some(next) = places.next() else { return false };
                    free = next;
                    continue;
                }
                let length = rest.len().min(free.len());
                let (run, behind) = std::mem::take(&mut free).split_at_mut(length);
                run.copy_from_slice(&rest[..length]);
                runs.push(&*run);
                (free, rest) = (behind, &rest[length..]);
            }
            let right = self.unchecked
                || self.descriptor.sums.0.get(index).is_some_and(|sum| *sum == binding.sum_of_runs(index, runs));
            if !right {
                return false;
            }
        }
        true
    }

    /// To look at it in place.
    pub(crate) fn as_ref(&self) -> BlockRef<'_> {
        BlockRef {
            bytes: &self.memory[self.range.clone()],
            start: self.offset + self.range.start as u64,
            meta: &self.descriptor.meta,
            tier: self.tier,
            landing: self.landing,
        }
    }

    /// To keep it, in this memory or in a copy.
    pub(crate) fn into_block(self, copy: bool) -> (Block, Option<Memory>) {
        let start = self.offset + self.range.start as u64;
        let meta = Box::new(self.descriptor.meta);
        let (memory, range, spare) = if copy {
            let bytes = self.memory[self.range.clone()].to_vec();
            let len = bytes.len();
            (Memory::Heap(bytes), 0..len, Some(self.memory))
        } else {
            (self.memory, self.range, None)
        };
        (Block { memory, range, start, meta, tier: self.tier, landing: self.landing }, spare)
    }
}
