//! GreedyDual-Size-Frequency over leaves.

use crate::cost::CostCurve;

use super::leaves::Leaves;
use super::policy::{PrefixPolicy, Use, Victim};
use super::tree::{ExtentId, ROOT, Splits, Tree};

/// GDSF (Cherkasova 1998): clock + uses x cost / size, where the clock is the value of what left last. Size is one block, cost the GPU seconds to
/// compute it behind what is before it; the value of a chain's end is that of its last block.
#[derive(Debug, Clone)]
pub struct Gdsf {
    curve: CostCurve,
    block_tokens: u32,
    past: Vec<Past>,
    clock: f64,
    leaves: Leaves,
}

/// Of an extent.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    uses: u32,
    /// The clock at its last use.
    clock: f64,
}

impl Gdsf {
    /// Nothing used yet.
    pub fn new(curve: CostCurve, block_tokens: u32) -> Self {
        Gdsf { curve, block_tokens, past: Vec::new(), clock: 0.0, leaves: Leaves::default() }
    }

    fn past(&mut self, id: ExtentId) -> &mut Past {
        if self.past.len() <= id as usize {
            self.past.resize(id as usize + 1, Past::default());
        }
        &mut self.past[id as usize]
    }

    /// A leaf, or what will be one, can be found under the value of its last block.
    fn offer(&mut self, tree: &Tree, id: ExtentId) {
        let end = u64::from(tree.extent(id).end()) * u64::from(self.block_tokens);
        let cost_s = self.curve.prefill_s(end - u64::from(self.block_tokens), end);
        let Past { uses, clock } = *self.past(id);
        // Positive numbers are in the order of their bits.
        self.leaves.set_key(id, (clock + f64::from(uses) * cost_s).to_bits());
        self.leaves.offer(id);
    }
}

impl Splits for Gdsf {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        *self.past(upper) = *self.past(lower);
    }
}

impl PrefixPolicy for Gdsf {
    fn name(&self) -> &'static str {
        "gdsf"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], _: &Use) {
        let now = self.clock;
        for id in path {
            let past = self.past(*id);
            past.uses += 1;
            past.clock = now;
        }
        if let Some(last) = path.last() {
            self.offer(tree, *last);
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        let leaf = self.leaves.least(tree);
        // A leaf of a lower value than what left before it was hidden behind that; the clock never runs back.
        self.clock = self.clock.max(f64::from_bits(self.leaves.key(leaf)));
        // What is above the last block of an extent is used as often and worth a little less: it goes with it.
        Victim { leaf, blocks: need }
    }

    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        // What comes back begins anew, as in the original.
        self.past(extent).uses = 0;
        let parent = tree.extent(extent).parent;
        if parent != ROOT && tree.is_leaf(parent) {
            self.offer(tree, parent);
        }
    }
}
