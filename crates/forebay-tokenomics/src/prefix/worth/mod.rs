//! Worth: what a chain's end is expected to save by block and by the second it is kept.

mod curve;
mod rank;
mod shadow;

use crate::cost::CostCurve;

use super::lru::PrefixLru;
use super::policy::{Part, PrefixPolicy, Use, Valued, Victim};
use super::tree::{ExtentId, Splits, Tree};
pub use curve::WorthCurve;
use rank::Rank;
use shadow::Shadow;

/// Blocks of a shadow cache, about: enough that one chain more or less decides nothing, and few beside what is shadowed.
const SHADOW_BLOCKS: u32 = 4096;
/// How far one must lead before the other gives way: less is chance.
const LEAD: f64 = 1.005;

/// Worth: the end of a chain with the lowest expected saving, in GPU seconds by block and second of keeping it, leaves first.
///
/// How likely an end comes back is learned while requests pass, from what is known of it: how often it was used, how long it was away the last time,
/// how many turns its chain has had, and, with hints, why the last answer ended. Nothing is fitted to a trace beforehand.
///
/// Where that does worse than LRU, LRU decides: two shadow caches of sampled blocks, one ranked by each, say which has saved more of late.
#[derive(Debug)]
pub struct Worth {
    rank: Rank,
    lru: PrefixLru,
    by_rank: Shadow<Rank>,
    by_lru: Shadow<PrefixLru>,
    lru_decides: bool,
}

impl Worth {
    /// For room for `capacity` blocks. Hints are looked at only where `hints` says so.
    pub fn new(curve: CostCurve, block_tokens: u32, capacity: u32, hints: bool) -> Self {
        let every = (capacity / SHADOW_BLOCKS).max(1);
        let rank = |block_tokens: u32| Rank::new(curve, block_tokens, hints);
        let sampled_tokens = block_tokens.saturating_mul(every);
        Worth {
            rank: rank(block_tokens),
            lru: PrefixLru::new(),
            by_rank: Shadow::new(rank(sampled_tokens), curve, sampled_tokens, capacity, every),
            by_lru: Shadow::new(PrefixLru::new(), curve, sampled_tokens, capacity, every),
            lru_decides: false,
        }
    }

    /// Whether LRU decides at the moment.
    pub fn lru_decides(&self) -> bool {
        self.lru_decides
    }
}

impl Splits for Worth {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.rank.split(lower, upper);
        self.lru.split(lower, upper);
    }
}

impl PrefixPolicy for Worth {
    fn name(&self) -> &'static str {
        "worth"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.rank.touch(tree, path, request);
        self.lru.touch(tree, path, request);
        let (rank_s, lru_s) = (self.by_rank.request(tree, path, request), self.by_lru.request(tree, path, request));
        self.lru_decides = if self.lru_decides { lru_s * LEAD > rank_s } else { lru_s > rank_s * LEAD };
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        if self.lru_decides { self.lru.victim(tree, need) } else { self.rank.victim(tree, need) }
    }

    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        self.rank.evicted(tree, extent);
        self.lru.evicted(tree, extent);
    }
}

impl Valued for Worth {
    fn values(&self, tree: &Tree, parts: &[Part], out: &mut [f64]) {
        if self.lru_decides { self.lru.values(tree, parts, out) } else { self.rank.values(tree, parts, out) }
    }

    fn heeds_gaps(&self) -> bool {
        true
    }
}
