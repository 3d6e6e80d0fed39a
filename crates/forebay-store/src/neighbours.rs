//! Which block starts where in the arena, in the order of the arena: whose neighbours must go so that a larger one finds room.
//!
//! One short sorted list for each mebibyte. A tree of the standard library takes some 24 bytes for each of them, this one nine, and what is looked for
//! stands in one list of 256 at most.

use forebay_io::ARENA_ALIGN;

/// Bytes of the arena that one list is for.
const SPAN_BYTES: usize = 1 << 20;
/// Places that a list gets at once: it never doubles.
const STEP: usize = 8;

/// Slots by where their bytes start.
#[derive(Default)]
pub(crate) struct Neighbours {
    /// Of each span its starts, in pages of the arena, and their slots.
    spans: Vec<Vec<(u32, u32)>>,
    /// Places in all lists.
    places: usize,
}

fn page(offset: usize) -> u32 {
    (offset / ARENA_ALIGN) as u32
}

impl Neighbours {
    /// `slot` starts at `offset`, where nothing else does.
    pub(crate) fn insert(&mut self, offset: usize, slot: u32) {
        let span = offset / SPAN_BYTES;
        if span >= self.spans.len() {
            self.spans.resize_with(span + 1, Vec::new);
        }
        let list = &mut self.spans[span];
        let at = list.partition_point(|(start, _)| *start < page(offset));
        debug_assert!(list.get(at).is_none_or(|(start, _)| *start != page(offset)), "two blocks start at {offset}");
        if list.len() == list.capacity() {
            list.reserve_exact(STEP);
            self.places += STEP;
        }
        list.insert(at, (page(offset), slot));
    }

    /// Nothing starts at `offset` any more.
    pub(crate) fn remove(&mut self, offset: usize) {
        let Some(list) = self.spans.get_mut(offset / SPAN_BYTES) else { return };
        let Ok(at) = list.binary_search_by_key(&page(offset), |(start, _)| *start) else { return };
        list.remove(at);
        if list.capacity() >= list.len() + 3 * STEP {
            let before = list.capacity();
            list.shrink_to(list.len() + STEP);
            self.places -= before - list.capacity();
        }
    }

    /// Slots that start in `[from, to)`, in that order.
    pub(crate) fn between(&self, from: usize, to: usize) -> impl Iterator<Item = u32> {
        let spans = (from / SPAN_BYTES).min(self.spans.len())..to.div_ceil(SPAN_BYTES).min(self.spans.len());
        let inside = move |start: u32| (page(from)..page(to)).contains(&start);
        self.spans[spans].iter().flatten().filter(move |(start, _)| inside(*start)).map(|(_, slot)| *slot)
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.places * size_of::<(u32, u32)>() + self.spans.capacity() * size_of::<Vec<(u32, u32)>>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use forebay_types::{Entropy, SeededEntropy};

    use super::*;

    #[test]
    fn they_are_as_a_tree_would_have_them_and_take_what_they_say() {
        let chance = SeededEntropy::new(3);
        let (mut ours, mut tree) = (Neighbours::default(), BTreeMap::new());
        for i in 0..20_000u32 {
            let offset = (chance.word() % 4096) as usize * ARENA_ALIGN;
            if chance.word().is_multiple_of(3) {
                ours.remove(offset);
                tree.remove(&offset);
            } else if let std::collections::btree_map::Entry::Vacant(free) = tree.entry(offset) {
                free.insert(i);
                ours.insert(offset, i);
            }
            let (from, len) = ((chance.word() % 4200) as usize * ARENA_ALIGN, (chance.word() % 900) as usize * 4096);
            assert!(ours.between(from, from + len).eq(tree.range(from..from + len).map(|(_, slot)| *slot)));
        }
        let places: usize = ours.spans.iter().map(Vec::capacity).sum();
        assert_eq!(ours.places, places);
        assert!(tree.len() > 1000 && ours.bytes() < tree.len() * 9, "{} for {}", ours.bytes(), tree.len());
    }
}
