//! The DRAM tier: records that are also on the drive, or on their way to it, held in the arena until something of more worth needs the room.
//!
//! What goes first is what ranks lowest. A buffer needs its bytes in one stretch, so when the lowest ranks are scattered, a window of neighbours
//! goes instead. What somebody else holds (an answer being sent, a write in flight) gives no room back and is left alone.

use std::collections::BTreeSet;
use std::ops::Range;

use forebay_io::{Arena, Buf, Shared};
use forebay_types::Key;
use hashbrown::HashTable;

use crate::index::Seed;
use crate::neighbours::Neighbours;

/// Held blocks looked at before giving up on the lowest ranks: most of what is held was just put and ranks high.
const SKIPS_MAX: usize = 128;
/// Windows tried for a large buffer before the caller is told `busy`.
const WINDOWS_MAX: usize = 8;
/// What one block costs beside its bytes: a slot, and places in a tree, a table and a list. It says how many there may be; a test holds it to what is
/// taken.
pub(crate) const OVERHEAD_BYTES: usize = size_of::<Slot>() + 52;
/// What one block's place in the tree takes: leaves of eleven, two thirds full as those of such trees are, and what leads to them.
const TREE_BYTES: usize = 20;
/// Places of one table at most: it doubles in one step, which takes a tenth of a millisecond.
const TABLE_BLOCKS_MAX: usize = 2048;
/// Slots for which memory is taken at once, at least; or an eighth of those there are.
const SLOTS_STEP: usize = 256;

const _: () = assert!(size_of::<Option<Slot>>() == 56);

/// A record for DRAM.
#[derive(Debug, Clone)]
pub(crate) struct Cached {
    pub(crate) data: Shared,
    /// Bytes of payload, from the start.
    pub(crate) length: u64,
    /// The descriptor's encoding.
    pub(crate) descriptor: Range<usize>,
}

/// A record in DRAM.
pub(crate) struct Held<'d> {
    pub(crate) data: &'d Shared,
    /// Bytes of payload, from the start.
    pub(crate) length: u64,
    /// The descriptor's encoding.
    pub(crate) descriptor: Range<usize>,
}

/// There are as many as blocks in DRAM, so it is as small as can be: a record is shorter than 4 GiB, and a descriptor than 32 KiB.
#[derive(Debug)]
struct Slot {
    key: Key,
    data: Shared,
    rank: u32,
    length: u32,
    descriptor_at: u32,
    /// And in the highest bit whether whoever put it keeps it in memory of its own, and nobody else has asked for it.
    descriptor_len: u16,
    ns: u16,
}

/// Bit of [`Slot::descriptor_len`]. A descriptor is a third as long at most.
const DUPLICATE: u16 = 1 << 15;

impl Slot {
    fn is_duplicate(&self) -> bool {
        self.descriptor_len & DUPLICATE != 0
    }
}

/// All records in DRAM.
pub(crate) struct Dram {
    seed: Seed,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    /// Slots by name, a part of the names each. They grow by themselves: one table made for all there may be would be mostly empty while there are few.
    tables: Vec<HashTable<u32>>,
    by_rank: BTreeSet<(u32, u32)>,
    by_offset: Neighbours,
    bytes: usize,
    duplicate_bytes: usize,
    blocks_max: usize,
    pub(crate) evicted: u64,
    /// Names of those that were evicted, until the index is told: see [`Self::take_left`].
    left: Vec<(u16, Key)>,
}

impl Dram {
    /// For at most `blocks_max` records.
    pub(crate) fn new(seed: Seed, blocks_max: usize) -> Self {
        Dram {
            seed,
            slots: Vec::new(),
            free: Vec::new(),
            tables: vec![HashTable::new(); (blocks_max / TABLE_BLOCKS_MAX).next_power_of_two()],
            by_rank: BTreeSet::new(),
            by_offset: Neighbours::default(),
            bytes: 0,
            duplicate_bytes: 0,
            blocks_max,
            evicted: 0,
            left: Vec::new(),
        }
    }

    /// Which table names of this hash are in: by bits that the table itself looks at last.
    fn table_of(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.tables.len() - 1)
    }

    fn find(&self, ns: u16, key: &Key) -> Option<u32> {
        let is = |slot: &u32| self.slots[*slot as usize].as_ref().is_some_and(|s| s.key == *key && s.ns == ns);
        let hash = self.seed.hash(ns, key);
        self.tables[self.table_of(hash)].find(hash, is).copied()
    }

    pub(crate) fn get(&self, ns: u16, key: &Key) -> Option<Held<'_>> {
        let slot = self.find(ns, key).and_then(|slot| self.slots[slot as usize].as_ref())?;
        let at = slot.descriptor_at as usize;
        let descriptor = at..at + usize::from(slot.descriptor_len & !DUPLICATE);
        Some(Held { data: &slot.data, length: u64::from(slot.length), descriptor })
    }

    pub(crate) fn contains(&self, ns: u16, key: &Key) -> bool {
        self.find(ns, key).is_some()
    }

    pub(crate) fn set_rank(&mut self, ns: u16, key: &Key, rank: u32) {
        let Some(at) = self.find(ns, key) else { return };
        if let Some(slot) = &mut self.slots[at as usize] {
            self.by_rank.remove(&(slot.rank, at));
            slot.rank = rank;
            self.by_rank.insert((rank, at));
        }
    }

    fn mark(&mut self, ns: u16, key: &Key, duplicate: bool) {
        let slot = self.find(ns, key).and_then(|at| self.slots[at as usize].as_mut());
        if let Some(slot) = slot.filter(|slot| slot.is_duplicate() != duplicate) {
            slot.descriptor_len ^= DUPLICATE;
            let bytes = slot.data.capacity();
            self.duplicate_bytes = if duplicate { self.duplicate_bytes + bytes } else { self.duplicate_bytes - bytes };
        }
    }

    /// Whoever put it keeps it in memory of its own.
    pub(crate) fn set_duplicate(&mut self, ns: u16, key: &Key) {
        self.mark(ns, key, true);
    }

    /// Somebody asked for it here.
    pub(crate) fn wanted_here(&mut self, ns: u16, key: &Key) {
        if self.duplicate_bytes > 0 {
            self.mark(ns, key, false);
        }
    }

    pub(crate) fn is_duplicate(&self, ns: u16, key: &Key) -> bool {
        let slot = self.find(ns, key).and_then(|at| self.slots[at as usize].as_ref());
        self.duplicate_bytes > 0 && slot.is_some_and(Slot::is_duplicate)
    }

    /// Adds a record, in the place of an older one of the same name.
    pub(crate) fn insert(&mut self, ns: u16, key: Key, rank: u32, cached: Cached) {
        let Cached { data, length, descriptor } = cached;
        let small = (u32::try_from(length), u32::try_from(descriptor.start), u16::try_from(descriptor.len()));
        let (Ok(length), Ok(descriptor_at), Ok(descriptor_len @ ..DUPLICATE)) = small else {
            // No record is so long. What is not held here is read from the drive.
            debug_assert!(false, "a record of {length} bytes with a descriptor at {descriptor:?}");
            return;
        };
        self.remove(ns, &key);
        if self.len() >= self.blocks_max
            && let Some((_, at)) = self.by_rank.iter().take(SKIPS_MAX).find(|(_, at)| self.is_free_to_go(*at))
        {
            self.evict(*at);
        }
        self.bytes += data.capacity();
        let offset = data.arena_offset();
        let slot = Slot { key, data, rank, length, descriptor_at, descriptor_len, ns };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(slot);
                at
            }
            None => {
                if self.slots.len() == self.slots.capacity() {
                    // In steps, not by doubling, and no further than there may be blocks.
                    let step = SLOTS_STEP.max(self.slots.len() / 8);
                    self.slots.reserve_exact(step.min(self.blocks_max.saturating_sub(self.slots.len()).max(1)));
                }
                self.slots.push(Some(slot));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_rank.insert((rank, at));
        self.by_offset.insert(offset, at);
        let (seed, slots) = (self.seed, &self.slots);
        let hash_of = |slot: &u32| slots[*slot as usize].as_ref().map_or(0, |s| seed.hash(s.ns, &s.key));
        let hash = seed.hash(ns, &key);
        let table = self.table_of(hash);
        self.tables[table].insert_unique(hash, at, hash_of);
    }

    pub(crate) fn remove(&mut self, ns: u16, key: &Key) {
        if let Some(at) = self.find(ns, key) {
            self.take_slot(at);
        }
    }

    fn take_slot(&mut self, at: u32) -> Option<Slot> {
        let slot = self.slots[at as usize].take()?;
        let hash = self.seed.hash(slot.ns, &slot.key);
        let table = self.table_of(hash);
        if let Ok(found) = self.tables[table].find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.by_rank.remove(&(slot.rank, at));
        self.by_offset.remove(slot.data.arena_offset());
        self.bytes -= slot.data.capacity();
        self.duplicate_bytes -= if slot.is_duplicate() { slot.data.capacity() } else { 0 };
        self.free.push(at);
        Some(slot)
    }

    fn is_free_to_go(&self, at: u32) -> bool {
        self.may_go(at, u32::MAX)
    }

    /// Nobody holds it, and it ranks no higher than `most`.
    fn may_go(&self, at: u32, most: u32) -> bool {
        self.slots[at as usize].as_ref().is_some_and(|slot| slot.rank <= most && slot.data.holders() == 1)
    }

    fn evict(&mut self, at: u32) {
        if let Some(slot) = self.take_slot(at) {
            self.evicted += 1;
            self.left.push((slot.ns, slot.key));
        }
    }

    /// Who has been evicted since this was asked last: some of them may be here again.
    pub(crate) fn take_left(&mut self) -> Vec<(u16, Key)> {
        std::mem::take(&mut self.left)
    }

    /// True when `more` records and one find places, evicting for them.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.len() + more < self.blocks_max
            || self.by_rank.iter().take(SKIPS_MAX).any(|(_, at)| self.is_free_to_go(*at))
    }

    /// Takes `len` bytes of the arena, evicting for them. `None` when what is left is held by others.
    pub(crate) fn alloc(&mut self, arena: &Arena, len: usize) -> Option<Buf> {
        self.alloc_above(arena, len, u32::MAX)
    }

    /// The same, evicting only what ranks no higher than `most`.
    pub(crate) fn alloc_above(&mut self, arena: &Arena, len: usize, most: u32) -> Option<Buf> {
        if let Some(buf) = arena.alloc(len) {
            return Some(buf);
        }
        if len > arena.len() {
            return None;
        }
        // The lowest ranks first, up to twice the bytes: for small blocks that is all it takes.
        let mut freed = 0;
        while freed < 2 * len {
            let lowest = self.by_rank.iter().take(SKIPS_MAX).map(|(_, at)| *at).find(|at| self.may_go(*at, most));
            let Some(at) = lowest else { break };
            freed += self.slots[at as usize].as_ref().map_or(0, |slot| slot.data.capacity());
            self.evict(at);
            if arena.largest_hole() >= len {
                return arena.alloc(len);
            }
        }
        self.clear_window(arena, len, most)
    }

    /// Empties a stretch of `len` bytes around one of the lowest ranks.
    fn clear_window(&mut self, arena: &Arena, len: usize, most: u32) -> Option<Buf> {
        let seeds: Vec<usize> = self
            .by_rank
            .iter()
            .take(SKIPS_MAX)
            .filter(|(_, at)| self.may_go(*at, most))
            .filter_map(|(_, at)| self.slots[*at as usize].as_ref().map(|slot| slot.data.arena_offset()))
            .take(WINDOWS_MAX)
            .collect();
        for seed in seeds {
            for start in [seed, seed.saturating_sub(len)] {
                let window: Vec<u32> = self.by_offset.between(start, start.saturating_add(len)).collect();
                // One that is held spoils the window: what is around it would go for nothing.
                if !window.iter().all(|at| self.may_go(*at, most)) {
                    continue;
                }
                for at in window {
                    self.evict(at);
                }
                if let Some(buf) = arena.alloc(len) {
                    return Some(buf);
                }
            }
        }
        None
    }

    /// Subtracts `less` from every rank.
    pub(crate) fn rebase(&mut self, less: u32) {
        for slot in self.slots.iter_mut().flatten() {
            slot.rank = slot.rank.saturating_sub(less);
        }
        let ranks = self.slots.iter().enumerate();
        self.by_rank = ranks.filter_map(|(at, slot)| Some((slot.as_ref()?.rank, at as u32))).collect();
    }

    pub(crate) fn len(&self) -> usize {
        self.by_rank.len()
    }

    /// Bytes of the arena it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of these, of blocks that whoever put them keeps too.
    pub(crate) fn duplicate_bytes(&self) -> usize {
        self.duplicate_bytes
    }

    /// Bytes of memory it takes beside the arena.
    pub(crate) fn overhead_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Slot>>()
            + self.free.capacity() * size_of::<u32>()
            + self.tables.iter().map(|table| size_of_val(table) + table.allocation_size()).sum::<usize>()
            + self.by_offset.bytes()
            + self.len() * TREE_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dram: &mut Dram, arena: &Arena, i: u8, len: usize) -> bool {
        let Some(buf) = dram.alloc(arena, len) else { return false };
        let cached = Cached { data: buf.freeze(), length: len as u64, descriptor: 0..0 };
        dram.insert(1, Key([i; 16]), u32::from(i), cached);
        true
    }

    #[test]
    fn the_lowest_ranks_go_first_and_what_is_held_stays() {
        let arena = Arena::new(2 << 20).unwrap();
        let mut dram = Dram::new(Seed([1, 2]), 1024);
        for i in 0..32 {
            assert!(put(&mut dram, &arena, i, 64 << 10));
        }
        let held = dram.get(1, &Key([0; 16])).unwrap().data.clone();
        dram.set_rank(1, &Key([1; 16]), 1000);
        assert!(put(&mut dram, &arena, 100, 64 << 10));
        assert!(dram.contains(1, &Key([0; 16])) && dram.contains(1, &Key([1; 16])) && !dram.contains(1, &Key([2; 16])));
        drop(held);
        assert!(put(&mut dram, &arena, 101, 64 << 10));
        assert!(!dram.contains(1, &Key([0; 16])));
    }

    #[test]
    fn blocks_cost_what_their_number_was_reckoned_with() {
        let arena = Arena::new(64 << 20).unwrap();
        for blocks_max in [5000, 8000, 14_000] {
            let mut dram = Dram::new(Seed([1, 2]), blocks_max);
            for i in 0..2 * blocks_max as u64 {
                let buf = dram.alloc(&arena, 4096).unwrap();
                let mut key = [0; 16];
                key[..8].copy_from_slice(&i.to_le_bytes());
                let cached = Cached { data: buf.freeze(), length: 1, descriptor: 0..0 };
                dram.insert(1, Key(key), i as u32, cached);
                assert!(dram.overhead_bytes() <= blocks_max * OVERHEAD_BYTES, "{i} of {blocks_max}");
            }
            assert_eq!(dram.len(), blocks_max);
        }
    }

    #[test]
    fn a_large_block_finds_room_among_small_ones() {
        let arena = Arena::new(4 << 20).unwrap();
        let mut dram = Dram::new(Seed([1, 2]), 1024);
        // Ranks that jump about the arena, so that the lowest are never neighbours.
        for i in 0..=255u8 {
            let buf = dram.alloc(&arena, 16 << 10).unwrap();
            let cached = Cached { data: buf.freeze(), length: 1, descriptor: 0..0 };
            dram.insert(1, Key([i; 16]), u32::from(i.reverse_bits()), cached);
        }
        assert_eq!(arena.free_bytes(), 0);
        assert!(dram.alloc(&arena, 1 << 20).is_some());
        assert!(dram.len() > 64, "not everything went for it: {} of 256 left", dram.len());
        assert!(dram.alloc(&arena, 8 << 20).is_none());
    }
}
