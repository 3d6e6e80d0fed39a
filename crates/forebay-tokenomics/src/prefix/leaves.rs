//! Leaves in the order of a key that changes only when they are used.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::tree::{ExtentId, ROOT, Tree, room_for};

/// Entries of the heap at which it is made anew.
fn heap_max(extents: usize) -> usize {
    2 * extents + 1024
}

/// A key for each extent, and the leaf with the smallest. Entries that are out of date stay in the heap until they come up, and are made anew when
/// they are twice as many as the extents.
#[derive(Debug, Clone, Default)]
pub(super) struct Leaves {
    keys: Vec<u64>,
    heap: BinaryHeap<Reverse<(u64, ExtentId)>>,
}

impl Leaves {
    pub(super) fn key(&self, id: ExtentId) -> u64 {
        self.keys.get(id as usize).copied().unwrap_or(0)
    }

    pub(super) fn set_key(&mut self, id: ExtentId, key: u64) {
        if self.keys.len() <= id as usize {
            room_for(&mut self.keys, id as usize + 1);
            self.keys.resize(id as usize + 1, 0);
        }
        self.keys[id as usize] = key;
    }

    /// Bytes that so many extents need: a key each, and the heap when it is made anew.
    pub(super) fn live_bytes(extents: usize) -> usize {
        extents * size_of::<u64>() + heap_max(extents) * size_of::<(u64, ExtentId)>()
    }

    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<u64>() + self.heap.capacity() * size_of::<(u64, ExtentId)>()
    }

    /// A leaf, or what will be one, can be found under its key.
    pub(super) fn offer(&mut self, id: ExtentId) {
        self.heap.push(Reverse((self.key(id), id)));
    }

    /// The upper part of an extent that was cut in two has the key of the whole.
    pub(super) fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.set_key(upper, self.key(lower));
        self.offer(upper);
    }

    /// An extent has left: what it hung on may be a leaf now.
    pub(super) fn left(&mut self, tree: &Tree, extent: ExtentId) {
        let parent = tree.extent(extent).parent;
        if parent != ROOT && tree.is_leaf(parent) {
            self.offer(parent);
        }
    }

    /// The leaf with the smallest key.
    pub(super) fn least(&mut self, tree: &Tree) -> ExtentId {
        self.tidy(tree);
        loop {
            let Some(Reverse((key, id))) = self.heap.peek().copied() else {
                self.refill(tree);
                assert!(!self.heap.is_empty(), "a victim is asked for only while something is held");
                continue;
            };
            if tree.is_leaf(id) && self.key(id) == key {
                return id;
            }
            self.heap.pop();
        }
    }

    /// Where all is held nobody asks for the least, and what is out of date would never come up.
    pub(super) fn tidy(&mut self, tree: &Tree) {
        if self.heap.len() >= heap_max(tree.len()) {
            self.refill(tree);
        }
    }

    /// All leaves and nothing else.
    pub(super) fn refill(&mut self, tree: &Tree) {
        self.heap.clear();
        for id in tree.leaves() {
            self.heap.push(Reverse((self.key(*id), *id)));
        }
    }
}
