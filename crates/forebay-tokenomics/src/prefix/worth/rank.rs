//! The rank of a chain's end: expected saving by block and second.

use crate::cost::CostCurve;

use super::super::chains::{Leaving, chain_densities, least_suffix};
use super::super::policy::{Forgets, Part, PrefixPolicy, Use, Valued, Victim};
use super::super::tree::{ExtentId, Splits, Tree, room_for};
use crate::returns::{CLASSES, Past, Returns};

/// Requests between two estimates: what changes in fewer is chance.
const REFIT_REQUESTS: u32 = 64;

/// An extent's past, and when it was used last.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    past: Past,
    last_s: f64,
    class: u32,
}

/// Ranks ends of chains by what they are expected to save, by block and second of keeping them.
#[derive(Debug, Clone)]
pub(super) struct Rank {
    curve: CostCurve,
    block_tokens: u32,
    hints: bool,
    known: Vec<Known>,
    returns: Returns,
    now_s: f64,
    requests: u32,
    /// Blocks of all requests so far.
    blocks: f64,
    leaving: Leaving,
}

impl Rank {
    /// Nothing used yet.
    pub(super) fn new(curve: CostCurve, block_tokens: u32, hints: bool) -> Self {
        let returns = Returns::new(CLASSES);
        Rank {
            curve,
            block_tokens,
            hints,
            known: vec![Known::default()],
            returns,
            now_s: 0.0,
            requests: 0,
            blocks: 1.0,
            leaving: Leaving::default(),
        }
    }

    /// Blocks of a prompt, on average: events are weighed in prompts.
    fn prompt_blocks(&self) -> f64 {
        self.blocks / f64::from(self.requests.max(1))
    }

    fn refit(&mut self, tree: &Tree) {
        let each = self.prompt_blocks();
        for (id, known) in self.known.iter().enumerate().skip(1) {
            if known.past.uses > 0 {
                let weight = f64::from(tree.extent(id as ExtentId).blocks) / each;
                self.returns.waits(known.class as usize, self.now_s - known.last_s, weight);
            }
        }
        self.returns.refit();
    }
}

impl Splits for Rank {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        if self.known.len() <= upper as usize {
            room_for(&mut self.known, upper as usize + 1);
            self.known.resize(upper as usize + 1, Known::default());
        }
        self.known[upper as usize] = self.known[lower as usize];
    }
}

impl PrefixPolicy for Rank {
    fn name(&self) -> &'static str {
        "worth"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.now_s = request.at_s;
        self.leaving.forget();
        if self.known.len() < tree.len() {
            room_for(&mut self.known, tree.len());
            self.known.resize(tree.len(), Known::default());
        }
        self.requests += 1;
        self.blocks += path.last().map_or(0.0, |last| f64::from(tree.extent(*last).end()));
        let each = self.prompt_blocks();
        let hint = if self.hints { Past::hint_of(request.hint) } else { 0 };
        let (mut gap_s, mut turn) = (0.0, 0);
        for id in path {
            let mut known = self.known[*id as usize];
            let past = &mut known.past;
            if past.uses > 0 {
                gap_s = request.at_s - known.last_s;
                let weight = f64::from(tree.extent(*id).blocks) / each;
                self.returns.came(known.class as usize, gap_s, weight);
                turn = past.turn;
            } else {
                past.turn = turn + 1;
            }
            past.uses += 1;
            past.gap_s = gap_s;
            past.hint = hint;
            known.last_s = request.at_s;
            known.class = past.class();
            self.known[*id as usize] = known;
        }
        if self.requests.is_multiple_of(REFIT_REQUESTS) {
            self.refit(tree);
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        let Rank { curve, block_tokens, known, returns, now_s, leaving, .. } = self;
        let value_and_weight = |id: ExtentId| {
            let part = Part { id, blocks: tree.extent(id).blocks };
            expected(curve, *block_tokens, known, returns, *now_s, tree, part)
        };
        let (leaf, blocks) = leaving.next(tree, need, || match least_suffix(tree, value_and_weight) {
            Some(suffix) => suffix,
            None => unreachable!("a victim is asked for only while something is held"),
        });
        Victim { leaf, blocks }
    }
}

impl Valued for Rank {
    fn values(&self, tree: &Tree, parts: &[Part], out: &mut [f64]) {
        let Rank { curve, block_tokens, known, returns, now_s, .. } = self;
        chain_densities(tree, parts, |part| expected(curve, *block_tokens, known, returns, *now_s, tree, part), out);
    }
}

impl Forgets for Rank {
    fn last_use(&self, id: ExtentId) -> f64 {
        self.known.get(id as usize).map_or(0.0, |known| known.last_s)
    }

    fn forgotten(&mut self, id: ExtentId, blocks: u32) {
        self.leaving.forget();
        let each = self.prompt_blocks();
        let Some(known) = self.known.get_mut(id as usize).map(std::mem::take) else { return };
        if known.past.uses > 0 {
            // It waited in vain for as long as it was followed, and that must not be forgotten with it: what is left would seem to come back sooner than it does.
            self.returns.lost_sight_of(known.class as usize, self.now_s - known.last_s, f64::from(blocks) / each);
        }
    }

    fn live_bytes(&self, extents: usize) -> usize {
        extents * size_of::<Known>() + self.returns.bytes()
    }

    fn bytes(&self) -> usize {
        self.known.capacity() * size_of::<Known>() + self.returns.bytes()
    }
}

/// Expected saving of an extent by the second of keeping it, in GPU seconds, and its blocks.
fn expected(
    curve: &CostCurve,
    block_tokens: u32,
    known: &[Known],
    returns: &Returns,
    now_s: f64,
    tree: &Tree,
    Part { id, blocks }: Part,
) -> (f64, f64) {
    let depth = tree.extent(id).depth;
    let known = &known[id as usize];
    let tokens = |blocks: u32| u64::from(blocks) * u64::from(block_tokens);
    let rate = returns.index(known.class as usize, now_s - known.last_s);
    (rate * curve.prefill_s(tokens(depth), tokens(depth + blocks)), f64::from(blocks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Assumptions, model_by_name};
    use crate::trace::Span;

    /// A prompt of a thousand blocks came back again and again, and its first ten are all that is left: what the others cost to compute is no reason to
    /// keep these.
    #[test]
    fn an_extent_is_worth_what_is_left_of_it() {
        let curve = CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default());
        let mut rank = Rank::new(curve, 512, false);
        let (mut tree, mut path) = (Tree::new(1000), Vec::new());
        for index in 0..2 * REFIT_REQUESTS {
            tree.walk(&[Span { first: 0, count: 1000 }], &mut path, &mut rank);
            let used = Use { index, at_s: f64::from(index), hint: forebay_types::Reuse::Unknown };
            rank.touch(&tree, &path, &used);
        }
        let value = |blocks: u32| {
            let mut out = vec![0.0; tree.len()];
            rank.values(&tree, &[Part { id: path[0], blocks }], &mut out);
            out[path[0] as usize]
        };
        let (whole, head) = (value(1000), value(10));
        let by_cost = curve.prefill_s(0, 1000 * 512) / 1000.0 / (curve.prefill_s(0, 10 * 512) / 10.0);
        assert!(head > 0.0 && by_cost > 1.5 && (whole / head / by_cost - 1.0).abs() < 1e-9, "{whole} {head} {by_cost}");
    }
}
