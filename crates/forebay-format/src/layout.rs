//! Where everything lies on a drive and in a slice of it. Arithmetic only.

use forebay_types::limits::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENTS_MAX, SEGMENTS_MIN};

use crate::LayoutError;

/// Boundaries of slices, tables and the first segment, in bytes: no drive's own blocks are larger.
pub const GRAIN_BYTES: u64 = 1 << 20;

/// Where a drive's two superblocks lie, from the drive's start. Apart, so that one bad spot does not take both.
pub const DRIVE_SUPERBLOCKS_AT: [u64; 2] = [0, GRAIN_BYTES / 2];
/// Where a drive's first slice begins.
pub const SLICES_BASE: u64 = GRAIN_BYTES;
/// Most slices of a drive: more shards than any machine has cores.
pub const SLICES_MAX: u32 = 1024;

/// Where a slice's two superblocks lie, from the slice's start.
pub const SLICE_SUPERBLOCKS_AT: [u64; 2] = [0, GRAIN_BYTES / 2];
/// Where a slice's two tables of namespaces lie. The one with an even sequence number goes first.
pub const NAMESPACE_TABLES_AT: [u64; 2] = [GRAIN_BYTES, 2 * GRAIN_BYTES];
/// Where a slice's first segment begins.
pub const SEGMENTS_BASE: u64 = 3 * GRAIN_BYTES;

/// The unit of places and lengths in a footer, in bytes: the smallest alignment of direct I/O.
pub const UNIT_BYTES: u64 = 512;

/// How a slice is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceLayout {
    /// Bytes of the slice.
    pub len: u64,
    /// What records are padded to, in bytes: 512 to 4096, a power of two.
    pub align: usize,
    /// Bytes of a segment, a power of two.
    pub segment_bytes: u64,
    /// Number of segments, 16 to 65,535.
    pub segments: u32,
}

impl SliceLayout {
    /// Divides `len` bytes. Without `segment_bytes`, a segment is the power of two nearest `len / 256`, between 4 and 256 MiB.
    pub fn new(len: u64, align: usize, segment_bytes: Option<u64>) -> Result<Self, LayoutError> {
        check_align(align)?;
        let segment_bytes = segment_bytes.unwrap_or_else(|| segment_bytes_for(len));
        if !segment_bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes) {
            return Err(LayoutError::SegmentBytes(segment_bytes));
        }
        let segments = len.saturating_sub(SEGMENTS_BASE) / segment_bytes;
        if segments < SEGMENTS_MIN {
            let need = slice_bytes_min(Some(segment_bytes));
            return Err(LayoutError::TooSmall { found: len, need, segment_bytes });
        }
        match u32::try_from(segments) {
            Ok(segments) if u64::from(segments) <= SEGMENTS_MAX => {
                Ok(SliceLayout { len, align, segment_bytes, segments })
            }
            _ => Err(LayoutError::TooLarge { found: len, segment_bytes }),
        }
    }

    /// Where segment `index` begins, from the slice's start.
    pub fn segment_at(&self, index: u32) -> u64 {
        debug_assert!(index < self.segments);
        SEGMENTS_BASE + u64::from(index) * self.segment_bytes
    }

    /// Where the table of namespaces with this sequence number lies: tables alternate, so that the one before survives a torn write.
    pub fn namespace_table_at(&self, sequence: u64) -> u64 {
        NAMESPACE_TABLES_AT[(sequence % 2) as usize]
    }

    /// Largest block, in bytes: a quarter of a segment, 64 MiB at most.
    pub fn block_bytes_max(&self) -> u64 {
        (self.segment_bytes / 4).min(forebay_types::limits::BLOCK_BYTES_MAX)
    }
}

/// Bytes a slice needs at least, with segments of this size (4 MiB if `None`).
pub fn slice_bytes_min(segment_bytes: Option<u64>) -> u64 {
    SEGMENTS_BASE + SEGMENTS_MIN * segment_bytes.unwrap_or(SEGMENT_BYTES_MIN)
}

/// The power of two nearest `len / 256` (the larger of two equally near), between 4 and 256 MiB.
fn segment_bytes_for(len: u64) -> u64 {
    let ideal = (len / 256).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
    let below = 1u64 << ideal.ilog2();
    if ideal - below < 2 * below - ideal { below } else { 2 * below }
}

fn check_align(align: usize) -> Result<(), LayoutError> {
    if align.is_power_of_two() && (512..=4096).contains(&align) { Ok(()) } else { Err(LayoutError::Align(align)) }
}

/// How a drive is divided in slices of equal length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveLayout {
    /// Number of slices.
    pub slices: u32,
    /// Where the first begins.
    pub base: u64,
    /// Bytes of each, a multiple of 1 MiB.
    pub slice_len: u64,
}

impl DriveLayout {
    /// Cuts `len` bytes in `slices`, each of which can be a shard with segments of `segment_bytes`.
    pub fn new(len: u64, slices: u32, align: usize, segment_bytes: Option<u64>) -> Result<Self, LayoutError> {
        if slices == 0 || slices > SLICES_MAX {
            return Err(LayoutError::Slices(slices));
        }
        let slice_len = len.saturating_sub(SLICES_BASE) / u64::from(slices) / GRAIN_BYTES * GRAIN_BYTES;
        match SliceLayout::new(slice_len, align, segment_bytes) {
            Ok(_) => Ok(DriveLayout { slices, base: SLICES_BASE, slice_len }),
            // Told in terms of the drive, which is what people choose.
            Err(LayoutError::TooSmall { need, segment_bytes, .. }) => {
                let need = SLICES_BASE + need * u64::from(slices);
                Err(LayoutError::TooSmall { found: len, need, segment_bytes })
            }
            Err(other) => Err(other),
        }
    }

    /// Bytes a drive needs at least for `slices` shards.
    pub fn bytes_min(slices: u32, segment_bytes: Option<u64>) -> u64 {
        SLICES_BASE + slice_bytes_min(segment_bytes) * u64::from(slices)
    }

    /// Where slice `index` begins, from the drive's start.
    pub fn slice_at(&self, index: u32) -> u64 {
        debug_assert!(index < self.slices);
        self.base + u64::from(index) * self.slice_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_segment_is_the_power_of_two_nearest_a_256th_of_the_slice() {
        for (slice, segment) in [(67, 4), (1024, 4), (1535, 4), (1536, 8), (2048, 8), (100_000, 256), (16 << 20, 256)] {
            assert_eq!(
                SliceLayout::new(slice * MIB, 4096, None).map(|l| l.segment_bytes),
                Ok(segment * MIB),
                "{slice}"
            );
        }
    }

    #[test]
    fn a_slice_too_small_is_told_the_minimum() {
        let least = slice_bytes_min(None);
        assert_eq!(least, 67 * MIB);
        assert_eq!(SliceLayout::new(least, 512, None).unwrap().segments, 16);
        let error = SliceLayout::new(least - 1, 512, None).unwrap_err().to_string();
        assert!(error.contains("at least 67 MiB"), "{error}");
        let error = DriveLayout::new(100 * MIB, 2, 512, None).unwrap_err().to_string();
        assert!(error.contains("at least 135 MiB") && error.contains("100 MiB is too small"), "{error}");
        assert!(DriveLayout::new(DriveLayout::bytes_min(2, None), 2, 512, None).is_ok());
        assert!(matches!(SliceLayout::new(1 << 30, 512, Some(256 * MIB)), Err(LayoutError::TooSmall { .. })));
    }

    #[test]
    fn what_no_drive_has_is_refused() {
        assert!(matches!(SliceLayout::new(1 << 30, 100, None), Err(LayoutError::Align(100))));
        assert!(matches!(SliceLayout::new(1 << 30, 8192, None), Err(LayoutError::Align(8192))));
        for size in [0, 1, 5 * MIB, 2 * MIB, 512 * MIB, 3 << 40] {
            assert!(matches!(SliceLayout::new(1 << 40, 512, Some(size)), Err(LayoutError::SegmentBytes(_))), "{size}");
        }
        assert!(matches!(SliceLayout::new(u64::MAX, 512, None), Err(LayoutError::TooLarge { .. })));
        for slices in [0, 1025] {
            assert!(matches!(DriveLayout::new(1 << 40, slices, 512, None), Err(LayoutError::Slices(_))));
        }
    }

    #[test]
    fn nothing_overlaps_and_nothing_sticks_out() {
        let drive = DriveLayout::new(3 << 30, 3, 4096, None).unwrap();
        for i in 0..3 {
            let end = drive.slice_at(i) + drive.slice_len;
            assert!(end <= if i < 2 { drive.slice_at(i + 1) } else { 3 << 30 });
        }
        let slice = SliceLayout::new(drive.slice_len, 4096, Some(8 * MIB)).unwrap();
        assert!(slice.segment_at(slice.segments - 1) + slice.segment_bytes <= slice.len);
        assert_ne!(slice.namespace_table_at(4), slice.namespace_table_at(5));
        assert_eq!(slice.block_bytes_max(), 2 * MIB);
    }
}
