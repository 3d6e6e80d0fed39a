//! Leaves in the order of a key that changes only when they are used.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::tree::{ExtentId, ROOT, Tree};

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
            self.keys.resize(id as usize + 1, 0);
        }
        self.keys[id as usize] = key;
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
        if self.heap.len() > 2 * tree.len() + 1024 {
            self.refill(tree);
        }
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

    /// All leaves and nothing else.
    pub(super) fn refill(&mut self, tree: &Tree) {
        self.heap.clear();
        for id in tree.leaves() {
            self.heap.push(Reverse((self.key(*id), *id)));
        }
    }
}
