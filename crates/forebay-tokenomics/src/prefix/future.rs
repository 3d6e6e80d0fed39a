//! Policies that know the whole trace: what can be reached, not what can be run.

use crate::cost::CostCurve;
use crate::trace::Plan;

use super::chains::{Leaving, least_suffix};
use super::leaves::Leaves;
use super::policy::{PrefixPolicy, Use, Victim};
use super::tree::{ExtentId, Splits, Tree};

const NEVER: u32 = u32::MAX;
/// Added to each wait, in seconds: requests of one moment have one too.
const STEP_S: f64 = 1e-3;

/// All requests that use each extent of a tree that holds the whole trace.
#[derive(Debug, Clone)]
pub struct Future {
    /// Where each extent's uses begin; one more than extents.
    begins: Vec<u32>,
    uses: Vec<u32>,
    /// Extents that eviction split off, and the ones they were part of.
    origin: Vec<ExtentId>,
}

impl Future {
    /// The tree of a whole trace, nothing resident, and its uses.
    pub fn new(plan: &Plan) -> (Tree, Future) {
        let mut tree = Tree::new(plan.distinct());
        let mut path = Vec::new();
        for request in &plan.requests {
            tree.walk(&request.spans, &mut path, &mut ());
        }
        let mut pairs = Vec::new();
        for (index, request) in plan.requests.iter().enumerate() {
            tree.walk(&request.spans, &mut path, &mut ());
            pairs.extend(path.iter().map(|id| (*id, index as u32)));
        }
        // Stable, so each extent's uses stay in order.
        pairs.sort_by_key(|(id, _)| *id);
        let mut begins = vec![0u32; tree.len() + 1];
        for (id, _) in &pairs {
            begins[*id as usize + 1] += 1;
        }
        for i in 1..begins.len() {
            begins[i] += begins[i - 1];
        }
        let uses = pairs.into_iter().map(|(_, index)| index).collect();
        let origin = (0..tree.len() as ExtentId).collect();
        (tree, Future { begins, uses, origin })
    }

    /// Requests that use an extent, in order.
    pub fn uses(&self, id: ExtentId) -> &[u32] {
        let id = self.origin[id as usize] as usize;
        &self.uses[self.begins[id] as usize..self.begins[id + 1] as usize]
    }

    fn next_after(&self, id: ExtentId, index: u32) -> u32 {
        let uses = self.uses(id);
        uses.get(uses.partition_point(|used| *used <= index)).copied().unwrap_or(NEVER)
    }

    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        debug_assert_eq!(upper as usize, self.origin.len());
        self.origin.push(self.origin[lower as usize]);
    }
}

/// MIN (Belady) with bypass: what is used again last leaves first, of equals the deepest.
///
/// Optimal for the number of leading blocks found, blocks being equal. Keeping a block from one use to its next takes one place in between and wins
/// one hit; so a replay is a set of intervals of which at most `capacity` may overlap anywhere, and the most of them are kept by dropping, wherever
/// too many overlap, the one that ends last (maximum k-colourable subgraph of an interval graph; Carlisle and Lloyd 1995). No policy finds more of the
/// blocks asked for, whether leading or not. And MIN finds only leading ones: whoever uses a block uses those before it, so those are used no
/// later, and with ties by depth a block always leaves before the one it hangs on. Dropping the one just used is bypass.
#[derive(Debug, Clone)]
pub struct Min {
    future: Future,
    leaves: Leaves,
}

impl Min {
    /// With the future of the very tree that is replayed on.
    pub fn new(future: Future) -> Self {
        Min { future, leaves: Leaves::default() }
    }
}

impl Splits for Min {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.future.split(lower, upper);
        self.leaves.split(lower, upper);
    }
}

impl PrefixPolicy for Min {
    fn name(&self) -> &'static str {
        "min"
    }

    fn touch(&mut self, _: &Tree, path: &[ExtentId], request: &Use) {
        for id in path {
            let next = self.future.next_after(*id, request.index);
            self.leaves.set_key(*id, u64::from(NEVER - next));
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

/// Knows every next use and evicts the end of a chain with the lowest cost by block and time to its next use. Feasible, not optimal: what it saves
/// can be reached, and [`super::upper_bound_s`] says what cannot.
#[derive(Debug, Clone)]
pub struct Clairvoyant {
    future: Future,
    curve: CostCurve,
    block_tokens: u32,
    times_s: Vec<f64>,
    next: Vec<u32>,
    now: u32,
    leaving: Leaving,
}

impl Clairvoyant {
    /// With the future of the very tree that is replayed on.
    pub fn new(future: Future, plan: &Plan, curve: CostCurve) -> Self {
        let times_s = plan.requests.iter().map(|request| request.at_s).collect();
        let next = vec![NEVER; future.origin.len()];
        let block_tokens = plan.block_tokens;
        Clairvoyant { future, curve, block_tokens, times_s, next, now: 0, leaving: Leaving::default() }
    }
}

impl Splits for Clairvoyant {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.future.split(lower, upper);
        self.next.push(self.next[lower as usize]);
    }
}

impl PrefixPolicy for Clairvoyant {
    fn name(&self) -> &'static str {
        "clairvoyant"
    }

    fn touch(&mut self, _: &Tree, path: &[ExtentId], request: &Use) {
        for id in path {
            self.next[*id as usize] = self.future.next_after(*id, request.index);
        }
        self.now = request.index;
        self.leaving.forget();
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        let Clairvoyant { curve, block_tokens, next, now, times_s, leaving, .. } = self;
        let tokens = |blocks: u32| u64::from(blocks) * u64::from(*block_tokens);
        let value_and_weight = |id: ExtentId| {
            let extent = tree.extent(id);
            match next[id as usize] {
                NEVER => (0.0, f64::from(extent.blocks)),
                next => {
                    // In seconds: over the recorded traces that saves a little more than in requests.
                    let wait_s = times_s[next as usize] - times_s[*now as usize] + STEP_S;
                    (curve.prefill_s(tokens(extent.depth), tokens(extent.end())), f64::from(extent.blocks) * wait_s)
                }
            }
        };
        let (leaf, blocks) = leaving.next(tree, need, || match least_suffix(tree, value_and_weight) {
            Some(suffix) => suffix,
            None => unreachable!("a victim is asked for only while something is held"),
        });
        Victim { leaf, blocks }
    }
}
