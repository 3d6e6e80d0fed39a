//! S3-FIFO over leaves.

use forebay_types::Reuse;

use crate::policy::{Policy, Rank, S3Fifo};

use super::leaves::Leaves;
use super::policy::{PrefixPolicy, Use, Victim};
use super::tree::{ExtentId, Splits, Tree};

/// The very policy a shard runs ([`S3Fifo`]), asked for the rank of each extent's last block; only leaves may leave. As many evicted blocks as fit
/// are remembered: one counts as remembered until a whole capacity of others was evicted after it.
#[derive(Debug, Clone)]
pub struct PrefixS3Fifo {
    ranks: S3Fifo,
    capacity: u64,
    evicted_blocks: u64,
    /// Of extents not held: evicted blocks in all when they left, plus one; 0 for what never left.
    left_at: Vec<u64>,
    leaves: Leaves,
}

impl PrefixS3Fifo {
    /// For room for `capacity` blocks.
    pub fn new(capacity: u32) -> Self {
        let mut ranks = S3Fifo::new();
        ranks.holds(u64::from(capacity));
        PrefixS3Fifo {
            ranks,
            capacity: u64::from(capacity),
            evicted_blocks: 0,
            left_at: Vec::new(),
            leaves: Leaves::default(),
        }
    }

    fn left_at(&mut self, id: ExtentId) -> &mut u64 {
        if self.left_at.len() <= id as usize {
            self.left_at.resize(id as usize + 1, 0);
        }
        &mut self.left_at[id as usize]
    }

    fn rebase(&mut self, tree: &Tree) {
        let Some(less) = self.ranks.rebase() else { return };
        for id in 0..tree.len() as ExtentId {
            let key = self.leaves.key(id).saturating_sub(u64::from(less));
            self.leaves.set_key(id, key);
        }
        self.leaves.refill(tree);
    }
}

impl Splits for PrefixS3Fifo {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        // Ranks fall by one a block towards the tail; a block of difference more or less decides nothing, so the head takes over the tail's.
        self.leaves.split(lower, upper);
        *self.left_at(upper) = *self.left_at(lower);
    }
}

impl PrefixPolicy for PrefixS3Fifo {
    fn name(&self) -> &'static str {
        "s3fifo"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.rebase(tree);
        let blocks = path.last().map_or(0, |last| tree.extent(*last).end());
        let turn = self.ranks.begin(blocks);
        for id in path {
            let extent = tree.extent(*id);
            let depth = extent.end() - 1;
            let left_at = std::mem::take(self.left_at(*id));
            let remembered = left_at > 0 && self.evicted_blocks + 1 - left_at <= self.capacity;
            let rank = match extent.resident {
                true => self.ranks.touch(turn, depth, self.leaves.key(*id) as Rank, Reuse::Unknown),
                false if remembered => self.ranks.insert_again(turn, depth, Reuse::Unknown),
                false => self.ranks.insert(turn, depth, request.hint),
            };
            self.leaves.set_key(*id, u64::from(rank));
        }
        if let Some(last) = path.last() {
            self.leaves.offer(*last);
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        Victim { leaf: self.leaves.least(tree), blocks: need }
    }

    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        self.evicted_blocks += u64::from(tree.extent(extent).blocks);
        *self.left_at(extent) = self.evicted_blocks + 1;
        self.leaves.left(tree, extent);
    }
}
