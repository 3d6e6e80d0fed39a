//! Which parts of a span of memory are free: best fit over extents, joined again when freed.

use std::collections::{BTreeMap, BTreeSet};

/// Allocator of `[0, len)` in units of `align` bytes. Holds no memory of the span itself.
///
/// Best fit keeps large holes whole; holes join at once, so a span emptied is one hole. Cost is logarithmic in the number of holes.
#[derive(Debug)]
pub struct Extents {
    /// Hole start to hole length. No two holes touch.
    by_start: BTreeMap<usize, usize>,
    /// The same holes as (length, start).
    by_len: BTreeSet<(usize, usize)>,
    align: usize,
    free: usize,
}

impl Extents {
    /// All of `[0, len)` free. `align` is a power of two; `len` is cut down to a multiple of it.
    pub fn new(len: usize, align: usize) -> Self {
        assert!(align.is_power_of_two());
        let mut extents = Extents { by_start: BTreeMap::new(), by_len: BTreeSet::new(), align, free: 0 };
        let len = len & !(align - 1);
        if len > 0 {
            extents.insert(0, len);
            extents.free = len;
        }
        extents
    }

    fn insert(&mut self, start: usize, len: usize) {
        self.by_start.insert(start, len);
        self.by_len.insert((len, start));
    }

    fn remove(&mut self, start: usize, len: usize) {
        self.by_start.remove(&start);
        self.by_len.remove(&(len, start));
    }

    /// Takes `len` bytes (rounded up to the alignment), or `None` when no hole is large enough. 0 takes one unit.
    pub fn alloc(&mut self, len: usize) -> Option<usize> {
        let len = len.max(1).checked_next_multiple_of(self.align)?;
        let (hole, start) = *self.by_len.range((len, 0)..).next()?;
        self.remove(start, hole);
        if hole > len {
            self.insert(start + len, hole - len);
        }
        self.free -= len;
        Some(start)
    }

    /// Takes `len` bytes (rounded up to the alignment) at `start`, a multiple of it; false when not all of them are free.
    pub fn alloc_at(&mut self, start: usize, len: usize) -> bool {
        let Some(len) = len.max(1).checked_next_multiple_of(self.align) else { return false };
        let hole = self.by_start.range(..=start).next_back().map(|(s, l)| (*s, *l));
        let Some((from, size)) = hole.filter(|_| start.is_multiple_of(self.align)) else { return false };
        if size < len || start - from > size - len {
            return false;
        }
        self.remove(from, size);
        if start > from {
            self.insert(from, start - from);
        }
        if from + size > start + len {
            self.insert(start + len, from + size - start - len);
        }
        self.free -= len;
        true
    }

    /// Gives back what `alloc(len)` returned as `start`, or `alloc_at` took.
    pub fn release(&mut self, start: usize, len: usize) {
        let (mut from, mut size) = (start, len.max(1).next_multiple_of(self.align));
        self.free += size;
        let before = self.by_start.range(..from).next_back().map(|(s, l)| (*s, *l));
        if let Some((s, l)) = before {
            assert!(s + l <= from, "extent {start}+{len} is released twice");
            if s + l == from {
                self.remove(s, l);
                (from, size) = (s, l + size);
            }
        }
        let after = self.by_start.range(from..).next().map(|(s, l)| (*s, *l));
        if let Some((s, l)) = after {
            assert!(s >= from + size, "extent {start}+{len} is released twice");
            if s == from + size {
                self.remove(s, l);
                size += l;
            }
        }
        self.insert(from, size);
    }

    /// Free bytes, in however many holes.
    pub fn free_bytes(&self) -> usize {
        self.free
    }

    /// Bytes of the largest hole.
    pub fn largest_hole(&self) -> usize {
        self.by_len.last().map_or(0, |(len, _)| *len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_never_overlap_and_join_again() {
        let mut extents = Extents::new(1 << 20, 4096);
        let mut held: Vec<(usize, usize)> = Vec::new();
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let len = (state >> 40) as usize % 40_000;
            if state >> 63 == 0 {
                let here = ((state >> 20) as usize % (1 << 20)) & !4095;
                let asked = state >> 62 == 1;
                let taken = if asked { extents.alloc_at(here, len).then_some(here) } else { extents.alloc(len) };
                let end = here + len.max(1).next_multiple_of(4096);
                let free = held.iter().all(|(s, l)| end <= *s || here >= s + l.max(&1).next_multiple_of(4096));
                assert!(!asked || taken.is_some() == (free && end <= 1 << 20), "what is free can be taken");
                if let Some(start) = taken {
                    let end = start + len.max(1).next_multiple_of(4096);
                    assert!(end <= 1 << 20);
                    assert!(held.iter().all(|(s, l)| end <= *s || start >= s + l.max(&1).next_multiple_of(4096)));
                    held.push((start, len));
                }
            } else if !held.is_empty() {
                let (start, len) = held.swap_remove(len % held.len());
                extents.release(start, len);
            }
        }
        for (start, len) in held {
            extents.release(start, len);
        }
        assert_eq!((extents.free_bytes(), extents.largest_hole()), (1 << 20, 1 << 20));
        assert!(!extents.alloc_at(1, 1) && !extents.alloc_at(1 << 20, 1) && !extents.alloc_at(0, usize::MAX));
    }
}
