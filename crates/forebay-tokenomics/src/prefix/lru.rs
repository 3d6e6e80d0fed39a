//! Least recently used.

use super::leaves::Leaves;
use super::policy::{Forgets, Part, PrefixPolicy, Use, Valued, Victim};
use super::tree::{ExtentId, Splits, Tree};

/// LRU: a prompt's blocks are used from tail to head, so of the extents used last at the same time the deepest leaves first, which is the only
/// leaf among them. Residence of LRU over single blocks is prefix-closed by itself: this is that LRU, block by block.
#[derive(Debug, Clone, Default)]
pub struct PrefixLru {
    leaves: Leaves,
}

impl PrefixLru {
    /// Nothing used yet.
    pub fn new() -> Self {
        PrefixLru::default()
    }
}

impl Splits for PrefixLru {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.leaves.split(lower, upper);
    }
}

impl PrefixPolicy for PrefixLru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.leaves.tidy(tree);
        for id in path {
            self.leaves.set_key(*id, u64::from(request.index) + 1);
        }
        if let Some(last) = path.last() {
            self.leaves.offer(*last);
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        Victim { leaf: self.leaves.least(tree), blocks: need }
    }

    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        self.leaves.left(tree, extent);
    }
}

impl Valued for PrefixLru {
    fn values(&self, tree: &Tree, parts: &[Part], out: &mut [f64]) {
        for Part { id, .. } in parts {
            // Of one request the head stays longest.
            out[*id as usize] = self.leaves.key(*id) as f64 + 1.0 / (1.0 + f64::from(tree.extent(*id).depth));
        }
    }
}

impl Forgets for PrefixLru {
    fn last_use(&self, id: ExtentId) -> f64 {
        self.leaves.key(id) as f64
    }

    fn forgotten(&mut self, id: ExtentId, _: u32) {
        self.leaves.set_key(id, 0);
    }

    fn live_bytes(&self, extents: usize) -> usize {
        Leaves::live_bytes(extents)
    }

    fn bytes(&self) -> usize {
        self.leaves.bytes()
    }
}
