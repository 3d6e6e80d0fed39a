//! A cache without bytes that fills segments and frees them whole, as the drive does, so that what segments cost a policy is seen in what it would have saved.

use crate::cleaning::{COLD_SHARE, MOVED_OF_VICTIM, MOVED_PER_PUT};

/// Of a block that a shadow does not hold.
pub(super) const NOWHERE: u8 = u8::MAX;
/// Segments of a shadow at most: with fewer blocks in one, chance would fill it with what a real one never holds alone.
const SEGMENTS_MAX: usize = 64;

/// A block that is held: what orders it, its segment, and its number.
pub(super) type Held = ((u64, u64), u8, u32);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Shadow {
    /// Blocks of a segment.
    each: usize,
    /// By segment, blocks written to it since it was emptied.
    written: Vec<usize>,
    open: usize,
    /// What may be written again, in thirds of a block.
    may_move: u64,
}

impl Shadow {
    /// For so many blocks on a drive of so many segments.
    pub(super) fn new(capacity: usize, segments: usize) -> Self {
        let segments = segments.clamp(1, SEGMENTS_MAX).min(capacity.max(1));
        Shadow { each: (capacity / segments).max(1), written: vec![0; segments], open: 0, may_move: 0 }
    }

    /// A block is put: its segment.
    pub(super) fn put(&mut self) -> u8 {
        self.written[self.open] += 1;
        self.may_move = (self.may_move + MOVED_PER_PUT.0).min(self.each as u64 * MOVED_PER_PUT.1);
        self.open as u8
    }

    /// True when a segment must be emptied before the next put.
    pub(super) fn needs_room(&mut self) -> bool {
        if self.written[self.open] < self.each {
            return false;
        }
        let free = self.written.iter().position(|written| *written == 0);
        self.open = free.unwrap_or(self.open);
        free.is_none()
    }

    /// Empties a segment, the one whose blocks count least; what is hot in it stays there. Gives the numbers of those that leave.
    pub(super) fn empty_one(&mut self, mut held: Vec<Held>) -> impl Iterator<Item = u32> + use<> {
        let cold = held.len() * COLD_SHARE.0 / COLD_SHARE.1;
        if cold > 0 && cold < held.len() {
            held.select_nth_unstable(cold);
            held[..cold].sort_unstable();
        }
        let mut sums = vec![0; self.written.len()];
        for (place, (_, segment, _)) in held.iter().enumerate() {
            sums[usize::from(*segment)] += 1 + place.min(cold);
        }
        let victim = (0..sums.len()).min_by_key(|segment| sums[*segment]).unwrap_or(0);
        let here = |(_, segment, _): &&Held| usize::from(*segment) == victim;
        let most = (self.may_move / MOVED_PER_PUT.1).min(self.each as u64 * MOVED_OF_VICTIM.0 / MOVED_OF_VICTIM.1);
        let kept = held[cold..].iter().filter(here).count().min(most as usize);
        self.may_move -= kept as u64 * MOVED_PER_PUT.1;
        (self.open, self.written[victim]) = (victim, kept);
        let mut blocks: Vec<u32> = held.iter().filter(here).map(|(.., number)| *number).collect();
        blocks.truncate(blocks.len() - kept);
        blocks.into_iter()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.written.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four segments of ten; one holds the coldest fifth, and two blocks that are hot.
    #[test]
    fn the_segment_that_counts_least_leaves_and_what_is_hot_in_it_stays() {
        let mut shadow = Shadow::new(40, 4);
        let (hot, mut held): ([u32; 2], Vec<Held>) = ([25, 27], Vec::new());
        for number in 0..40 {
            let segment = shadow.put();
            let value = if segment == 2 && !hot.contains(&number) { 1 } else { 1000 - u64::from(number) };
            held.push(((value, 0), segment, number));
            assert_eq!(shadow.needs_room(), number == 39);
        }
        let gone: Vec<u32> = shadow.empty_one(held.clone()).collect();
        let mut sorted = gone.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (20..30).filter(|number| !hot.contains(number)).collect::<Vec<_>>());
        // As many more fit where they were.
        held.retain(|(.., number)| !gone.contains(number));
        assert!((0..8).all(|_| shadow.put() == 2));
        assert!(shadow.needs_room());
    }
}
