//! The rule by which a drive of segments is cleaned, in figures: the store, worth's shadow caches and the replay go by the same.

/// Of what is held, so much is cold. Less, and it is used up before it is found anew; more, and what is warm leaves with what is cold. (The replay, which
/// finds it anew for each request, does with a tenth of the room.)
pub const COLD_SHARE: (usize, usize) = (1, 5);
/// For each block that is put, so much may be written beside it: so each byte put is written less than 1.34 times, whatever the size of blocks.
pub const MOVED_PER_PUT: (u64, u64) = (1, 3);
/// Of all segments, so many can be saved up: what is written again at once waits behind nothing, and a drive that was only filled has saved for nobody.
pub const SAVED_SHARE: u64 = 16;
/// Of one victim, so much may be written again: cleaning then still frees a quarter of what it reads.
pub const MOVED_OF_VICTIM: (u64, u64) = (3, 4);
/// Bytes that should be free in advance, so that puts need not wait: a quarter of a second of a drive that writes 2 GB/s, in which a segment is cleaned.
const ADVANCE_BYTES: u64 = 512 << 20;

/// Segments that should be free in advance: enough for [`ADVANCE_BYTES`], at least one to put into and one to clean for with time to write again, and of
/// small segments a 64th of the drive beside these.
pub fn free_in_advance(segments: usize, segment_bytes: u64) -> usize {
    let enough = usize::try_from(ADVANCE_BYTES / segment_bytes.max(1)).unwrap_or(usize::MAX);
    enough.clamp(2, 2 + segments / 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_segments_need_few_in_advance_and_small_ones_a_64th() {
        const MIB: u64 = 1 << 20;
        let cases = [(199, 256), (8192, 256), (8192, 1024), (256, 128), (256, 64), (256, 8), (16, 1)];
        let advance = cases.map(|(segments, mib)| free_in_advance(segments, mib * MIB));
        assert_eq!(advance, [2, 2, 2, 4, 6, 6, 2]);
    }
}
