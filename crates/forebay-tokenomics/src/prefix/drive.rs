//! What a replay onto a drive of segments takes, and what it tells.

use super::instant::InstantCount;

/// Fewest segments of a drive, and blocks of a segment: a shard is refused with fewer, and a block is a quarter of a segment at most.
pub(super) const SEGMENTS_MIN: u32 = 16;
pub(super) const SEGMENT_BLOCKS_MIN: u32 = 4;
/// A drive too small for segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "room for {capacity} blocks is no drive of segments: it takes {} segments of {} blocks at least; ask for more, or for the ideal replay",
    SEGMENTS_MIN,
    SEGMENT_BLOCKS_MIN
)]
pub struct DriveTooSmall {
    /// Blocks.
    pub capacity: u32,
}

/// What a replay onto segments counted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SegmentsCount {
    /// What was found and saved.
    pub instant: InstantCount,
    /// Segments of the drive.
    pub segments: u32,
    /// Blocks of a segment.
    pub segment_blocks: u32,
    /// Leading blocks that were in DRAM.
    pub memory_hit_blocks: u64,
    /// Blocks that were put.
    pub put_blocks: u64,
    /// Blocks that were written again.
    pub moved_blocks: u64,
}

impl SegmentsCount {
    /// Blocks written by block put; 1 before the first.
    pub fn write_amplification(&self) -> f64 {
        if self.put_blocks == 0 { 1.0 } else { (self.put_blocks + self.moved_blocks) as f64 / self.put_blocks as f64 }
    }
}

/// A drive and the DRAM in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveParams {
    /// Blocks that the drive has room for.
    pub capacity: u32,
    /// Segments it is cut into; fewer where one would have less than four blocks.
    pub segments: u32,
    /// Bytes of a segment, by which some are kept free in advance.
    pub segment_bytes: u64,
    /// Blocks that DRAM has room for beside; they are on the drive too.
    pub memory: u32,
}

/// What one request found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Leading blocks.
    pub blocks: u32,
    /// Of them, those in DRAM.
    pub memory: u32,
}
