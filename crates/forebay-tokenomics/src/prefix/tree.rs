//! The prefix tree of all prompts seen, in extents, and which of them are resident.
//!
//! An *extent* is a stretch of blocks that every request so far used as a whole or not at all, and that is resident as a whole or not at all: its
//! blocks have one past, so one record is enough for thousands of them. Extents are split where a prompt ends, branches off, or is cut by eviction,
//! and only then, so nothing here knows the future. The resident extents are a tree as well (a block without the blocks before it is worth
//! nothing), and only its leaves may leave, from their ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::trace::Span;

/// Index of an extent.
pub type ExtentId = u32;

/// The extent above all first blocks: it has no blocks and is always there.
pub const ROOT: ExtentId = 0;

const NONE: u32 = u32::MAX;
/// Twelve bytes an entry, in nodes that are half full.
const STRANGER_BYTES: usize = 24;

/// Makes room for `len` in steps of a quarter: where memory has a bound, doubling would leave half of it unused.
pub(super) fn room_for<T>(list: &mut Vec<T>, len: usize) {
    if len > list.capacity() {
        list.reserve_exact(len - list.len() + list.len() / 4 + 16);
    }
}

/// Blocks with one past.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// What comes before it.
    pub parent: ExtentId,
    /// Number of its first block; the others count upwards.
    pub first: u32,
    /// How many blocks; at least 1 but for [`ROOT`].
    pub blocks: u32,
    /// Blocks before it in the prompt.
    pub depth: u32,
    /// Whether its blocks are held.
    pub resident: bool,
    /// Extents behind it that are held. Not 0 only where it is held itself: residence is closed towards the head.
    pub resident_children: u32,
    leaf_place: u32,
}

impl Extent {
    /// Depth of the end of it, in blocks.
    pub fn end(&self) -> u32 {
        self.depth + self.blocks
    }
}

/// Told of each split: `upper` is a new extent and the head of what was `lower` before, which keeps its tail. Both have the past of `lower`.
pub trait Splits {
    /// See [`Splits`].
    fn split(&mut self, lower: ExtentId, upper: ExtentId);
}

impl Splits for () {
    fn split(&mut self, _: ExtentId, _: ExtentId) {}
}

/// The tree.
#[derive(Debug, Clone)]
pub struct Tree {
    extents: Vec<Extent>,
    /// By a block's number less `base`, the extent that begins with it. Numbers name one prefix in a sound trace.
    by_first: Vec<ExtentId>,
    /// Numbers below it have no place in `by_first`: they are older than the last time something was forgotten.
    base: u32,
    /// What has no place there: old numbers, and the same number behind another parent, from a trace whose ids do not name prefixes. Such blocks are told
    /// apart by their way from the root.
    strangers: BTreeMap<(ExtentId, u32), ExtentId>,
    /// Extents that were forgotten: their numbers are given again.
    unused: Vec<ExtentId>,
    leaves: Vec<ExtentId>,
    held: u64,
}

impl Tree {
    /// Nothing seen yet; block numbers will be below `distinct`, or it grows.
    pub fn new(distinct: u32) -> Self {
        let root = Extent {
            parent: ROOT,
            first: NONE,
            blocks: 0,
            depth: 0,
            resident: true,
            resident_children: 0,
            leaf_place: NONE,
        };
        Tree {
            extents: vec![root],
            by_first: vec![NONE; distinct as usize],
            base: 0,
            strangers: BTreeMap::new(),
            unused: Vec::new(),
            leaves: Vec::new(),
            held: 0,
        }
    }

    /// One of its extents.
    pub fn extent(&self, id: ExtentId) -> &Extent {
        &self.extents[id as usize]
    }

    /// Extents, with the root.
    pub fn len(&self) -> usize {
        self.extents.len()
    }

    /// True before the first prompt.
    pub fn is_empty(&self) -> bool {
        self.extents.len() == 1
    }

    /// All extents but the root and those forgotten.
    pub(crate) fn known(&self) -> impl Iterator<Item = ExtentId> + '_ {
        let unused: BTreeSet<ExtentId> = self.unused.iter().copied().collect();
        (1..self.extents.len() as ExtentId).filter(move |id| !unused.contains(id))
    }

    /// Blocks held.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Resident extents without a resident one behind them, in no order.
    pub fn leaves(&self) -> &[ExtentId] {
        &self.leaves
    }

    /// Whether it is one of [`Tree::leaves`].
    pub fn is_leaf(&self, id: ExtentId) -> bool {
        self.extents[id as usize].leaf_place != NONE
    }

    /// The extents of a prompt, head first, into `path`. What is new is made, what is only partly used is split.
    pub fn walk(&mut self, spans: &[Span], path: &mut Vec<ExtentId>, splits: &mut (impl Splits + ?Sized)) {
        path.clear();
        let mut parent = ROOT;
        for span in spans {
            let (mut number, mut left) = (span.first, span.count);
            while left > 0 {
                let id = match self.child(parent, number) {
                    Some(id) if self.extents[id as usize].blocks > left => self.split(id, left, splits),
                    Some(id) => id,
                    None => self.add(parent, number, left),
                };
                let blocks = self.extents[id as usize].blocks;
                path.push(id);
                parent = id;
                number += blocks;
                left -= blocks;
            }
        }
    }

    /// Makes an extent resident; the one before it must be.
    pub(crate) fn insert(&mut self, id: ExtentId) {
        let Extent { parent, blocks, resident, .. } = self.extents[id as usize];
        assert!(!resident && self.extents[parent as usize].resident, "residence is closed towards the head");
        self.extents[id as usize].resident = true;
        self.held += u64::from(blocks);
        self.extents[parent as usize].resident_children += 1;
        self.leave_leaves(parent);
        self.join_leaves(id);
    }

    /// Takes the last `count` blocks of a leaf out; the evicted part, if it is not all of it, becomes an extent of its own and keeps the leaf's id.
    /// Gives the leaf's id and how many blocks went.
    pub(crate) fn evict(&mut self, leaf: ExtentId, count: u32, splits: &mut (impl Splits + ?Sized)) -> u32 {
        let blocks = self.extents[leaf as usize].blocks;
        assert!(count > 0 && self.is_leaf(leaf), "only the end of a leaf may be evicted");
        if count < blocks {
            self.split(leaf, blocks - count, splits);
        }
        let Extent { parent, blocks, .. } = self.extents[leaf as usize];
        self.extents[leaf as usize].resident = false;
        self.held -= u64::from(blocks);
        self.leave_leaves(leaf);
        let above = &mut self.extents[parent as usize];
        above.resident_children -= 1;
        if above.resident_children == 0 && parent != ROOT {
            self.join_leaves(parent);
        }
        blocks
    }

    /// Forgets what `keep` does not hold on to, and says so to `gone`. What is resident stays, and `keep` must keep what is before all it keeps.
    pub(crate) fn forget(&mut self, keep: impl Fn(ExtentId) -> bool, mut gone: impl FnMut(ExtentId, u32)) {
        let end = self.base.saturating_add(self.by_first.len() as u32);
        let known: Vec<ExtentId> = self.known().collect();
        for id in known {
            let Extent { parent, first, blocks, resident, .. } = self.extents[id as usize];
            let placed = self.place_of(first).is_some_and(|place| *place == id);
            if resident || keep(id) {
                if placed {
                    self.strangers.insert((parent, first), id);
                }
                continue;
            }
            if !placed {
                self.strangers.remove(&(parent, first));
            }
            self.unused.push(id);
            gone(id, blocks);
        }
        self.by_first.clear();
        self.base = end;
    }

    /// Extents that are not forgotten, with the root.
    pub(crate) fn live(&self) -> usize {
        self.extents.len() - self.unused.len()
    }

    /// Bytes that its living extents need: what [`Tree::bytes`] would be had there never been more.
    pub(crate) fn live_bytes(&self) -> usize {
        self.live() * (size_of::<Extent>() + size_of::<ExtentId>())
            + (self.by_first.len() + self.leaves.len()) * size_of::<ExtentId>()
            + self.strangers.len() * STRANGER_BYTES
    }

    /// Bytes it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.extents.capacity() * size_of::<Extent>()
            + (self.by_first.capacity() + self.unused.capacity() + self.leaves.capacity()) * size_of::<ExtentId>()
            + self.strangers.len() * STRANGER_BYTES
    }

    fn place_of(&self, number: u32) -> Option<&ExtentId> {
        self.by_first.get(number.checked_sub(self.base)? as usize)
    }

    fn child(&self, parent: ExtentId, number: u32) -> Option<ExtentId> {
        match self.place_of(number).copied().unwrap_or(NONE) {
            NONE if number >= self.base => None,
            id if id != NONE && self.extents[id as usize].parent == parent => Some(id),
            _ => self.strangers.get(&(parent, number)).copied(),
        }
    }

    fn name(&mut self, parent: ExtentId, number: u32, id: ExtentId) {
        let Some(at) = number.checked_sub(self.base) else {
            self.strangers.insert((parent, number), id);
            return;
        };
        if self.by_first.len() <= at as usize {
            room_for(&mut self.by_first, at as usize + 1);
            self.by_first.resize(at as usize + 1, NONE);
        }
        let place = &mut self.by_first[at as usize];
        if *place == NONE {
            *place = id;
        } else {
            self.strangers.insert((parent, number), id);
        }
    }

    fn add(&mut self, parent: ExtentId, first: u32, blocks: u32) -> ExtentId {
        let depth = self.extents[parent as usize].end();
        let extent = Extent { parent, first, blocks, depth, resident: false, resident_children: 0, leaf_place: NONE };
        let id = self.keep(extent);
        self.name(parent, first, id);
        id
    }

    fn keep(&mut self, extent: Extent) -> ExtentId {
        if let Some(id) = self.unused.pop() {
            self.extents[id as usize] = extent;
            return id;
        }
        let extents = self.extents.len() + 1;
        room_for(&mut self.extents, extents);
        self.extents.push(extent);
        self.extents.len() as ExtentId - 1
    }

    /// Cuts an extent behind its first `at` blocks. The head is the new one, so that what lies behind the tail stays as it is.
    fn split(&mut self, lower: ExtentId, at: u32, splits: &mut (impl Splits + ?Sized)) -> ExtentId {
        let whole = self.extents[lower as usize];
        debug_assert!(at > 0 && at < whole.blocks);
        let upper =
            self.keep(Extent { blocks: at, resident_children: u32::from(whole.resident), leaf_place: NONE, ..whole });
        let tail = &mut self.extents[lower as usize];
        tail.parent = upper;
        tail.first += at;
        tail.blocks -= at;
        tail.depth += at;
        if self.place_of(whole.first) == Some(&lower) {
            self.by_first[(whole.first - self.base) as usize] = upper;
        } else {
            self.strangers.insert((whole.parent, whole.first), upper);
        }
        self.name(upper, whole.first + at, lower);
        splits.split(lower, upper);
        upper
    }

    fn join_leaves(&mut self, id: ExtentId) {
        self.extents[id as usize].leaf_place = self.leaves.len() as u32;
        self.leaves.push(id);
    }

    fn leave_leaves(&mut self, id: ExtentId) {
        let place = std::mem::replace(&mut self.extents[id as usize].leaf_place, NONE);
        if place == NONE {
            return;
        }
        self.leaves.swap_remove(place as usize);
        if let Some(moved) = self.leaves.get(place as usize) {
            self.extents[*moved as usize].leaf_place = place;
        }
    }

    /// Checks what must hold; for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut held = 0;
        let mut children = vec![0u32; self.extents.len()];
        let used = |id: &usize| !self.unused.contains(&(*id as u32));
        for (id, extent) in self.extents.iter().enumerate().skip(1).filter(|(id, _)| used(id)) {
            let parent = &self.extents[extent.parent as usize];
            assert!(extent.blocks > 0);
            assert_eq!(extent.depth, parent.end());
            assert!(!extent.resident || parent.resident, "extent {id} is held without what is before it");
            if extent.resident {
                held += u64::from(extent.blocks);
                children[extent.parent as usize] += 1;
            }
        }
        assert_eq!(held, self.held);
        for (id, extent) in self.extents.iter().enumerate().skip(1).filter(|(id, _)| used(id)) {
            assert_eq!(extent.resident_children, children[id]);
            assert_eq!(self.is_leaf(id as u32), extent.resident && children[id] == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(list: &[(u32, u32)]) -> Vec<Span> {
        list.iter().map(|(first, count)| Span { first: *first, count: *count }).collect()
    }

    /// Prompts 0..10, then 0..6 20..23: the first is cut at 6, and 6..10 hangs where it hung.
    #[test]
    fn a_branch_splits_an_extent_and_keeps_what_hangs_on_it() {
        let (mut tree, mut path) = (Tree::new(30), Vec::new());
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        assert_eq!(path, [1]);
        tree.insert(1);
        tree.walk(&spans(&[(0, 6), (20, 3)]), &mut path, &mut ());
        let blocks: Vec<u32> = path.iter().map(|id| tree.extent(*id).blocks).collect();
        assert_eq!((blocks, tree.extent(1).depth, tree.held()), (vec![6, 3], 6, 10));
        tree.insert(path[1]);
        tree.check();
        // Both ends are leaves, what they share is not.
        let mut leaves: Vec<u32> = tree.leaves().iter().map(|id| tree.extent(*id).first).collect();
        leaves.sort_unstable();
        assert_eq!(leaves, [6, 20]);
        // The whole first prompt is two extents now.
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        assert_eq!(path.len(), 2);
    }

    #[test]
    fn eviction_takes_the_end_of_a_leaf_and_what_is_above_becomes_one() {
        let (mut tree, mut path) = (Tree::new(30), Vec::new());
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        tree.insert(path[0]);
        assert_eq!(tree.evict(path[0], 3, &mut ()), 3);
        tree.check();
        assert_eq!((tree.held(), tree.leaves().len()), (7, 1));
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        assert_eq!(path.iter().map(|id| tree.extent(*id).resident).collect::<Vec<_>>(), [true, false]);
        tree.insert(path[1]);
        assert_eq!(tree.evict(path[1], 100, &mut ()), 3);
        assert_eq!(tree.evict(path[0], 100, &mut ()), 7);
        tree.check();
        assert_eq!((tree.held(), tree.leaves().len()), (0, 0));
    }

    /// A trace whose ids do not name prefixes: 5 behind 1 and behind 2.
    #[test]
    fn one_number_behind_two_heads_is_two_extents_through_splits_too() {
        let (mut tree, mut path) = (Tree::new(30), Vec::new());
        tree.walk(&spans(&[(1, 1), (5, 4)]), &mut path, &mut ());
        let first = path.clone();
        tree.walk(&spans(&[(2, 1), (5, 4)]), &mut path, &mut ());
        assert_ne!(first[1], path[1]);
        tree.walk(&spans(&[(2, 1), (5, 2)]), &mut path, &mut ());
        tree.walk(&spans(&[(2, 1), (5, 4)]), &mut path, &mut ());
        assert_eq!(path.len(), 3);
        tree.walk(&spans(&[(1, 1), (5, 4)]), &mut path, &mut ());
        assert_eq!(path, first);
        tree.check();
    }

    /// Prompts 0..10 and 20..25; the first stays, the second is forgotten: its extent is given again, and 0..10 is found under its old numbers.
    #[test]
    fn what_is_forgotten_is_new_again_and_what_stays_is_found() {
        let (mut tree, mut path) = (Tree::new(30), Vec::new());
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        tree.insert(path[0]);
        tree.walk(&spans(&[(20, 5)]), &mut path, &mut ());
        let second = path[0];
        let mut gone = Vec::new();
        tree.forget(|_| false, |id, blocks| gone.push((id, blocks)));
        assert_eq!(gone, [(second, 5)]);
        tree.walk(&spans(&[(0, 4), (40, 2)]), &mut path, &mut ());
        assert!(tree.extent(path[0]).resident && !tree.extent(path[1]).resident);
        tree.walk(&spans(&[(0, 10)]), &mut path, &mut ());
        assert_eq!(path.iter().map(|id| tree.extent(*id).blocks).collect::<Vec<_>>(), [4, 6]);
        assert!(path.iter().all(|id| tree.extent(*id).resident));
        tree.walk(&spans(&[(20, 5)]), &mut path, &mut ());
        tree.insert(path[0]);
        tree.check();
        assert_eq!(tree.held(), 15);
        tree.forget(|_| false, |_, _| ());
        tree.walk(&spans(&[(20, 5)]), &mut path, &mut ());
        assert!(tree.extent(path[0]).resident && path.len() == 1);
    }
}
