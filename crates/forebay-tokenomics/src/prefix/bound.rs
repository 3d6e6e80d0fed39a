//! What no policy can save.

use crate::cost::CostCurve;
use crate::trace::Plan;

use super::future::Future;

/// Rounds of the search for good prices. Every round gives a bound; later ones give a closer one.
const ROUNDS: u32 = 60;

/// GPU seconds that no policy with room for `capacity` blocks saves on this plan, whatever it knows.
///
/// A block kept from one use to the next takes one place after each request in between and saves at most what computing it costs. Leaving out that a
/// block is worth nothing without those before it, and letting parts of blocks be kept, that is a linear program: intervals with weights, of which at
/// most `capacity` overlap after any request. By weak duality any prices p >= 0 of a place after each request bound it: sum of capacity x p, and for
/// each interval what its weight exceeds the prices of its places. (Equal prices everywhere are PFOO-U: Berger, Beckmann, Harchol-Balter 2018.) Prices
/// are raised where too much is kept and lowered where there is room, and the lowest bound found is told. A request that saves anything may save a
/// part of one more step than its tokens' share of steps; that is added.
pub fn upper_bound_s(plan: &Plan, curve: &CostCurve, capacity: u32) -> f64 {
    let (intervals, steps_s) = intervals(plan, curve);
    let all_s: f64 = intervals.iter().map(|interval| interval.weight_s).sum::<f64>() + steps_s;
    if capacity == 0 {
        return 0.0;
    }
    let slots = plan.requests.len();
    let mut prices = vec![equal_price(&intervals, capacity, slots); slots];
    let mut best_s = all_s;
    for round in 0..ROUNDS {
        let (bound_s, kept) = bound_at(&intervals, &prices, capacity);
        best_s = best_s.min(bound_s + steps_s);
        let pace = 0.7 / f64::from(round + 1).sqrt();
        for (price, kept) in prices.iter_mut().zip(kept) {
            let over = (kept / f64::from(capacity) - 1.0).clamp(-1.0, 2.0);
            *price *= (pace * over).exp();
        }
    }
    best_s
}

/// Blocks of one extent from one use to the next.
struct Interval {
    from: u32,
    to: u32,
    /// Where they are in the prompt, in tokens.
    begin: u64,
    blocks: u32,
    weight_s: f64,
    /// Of the first block and of the last.
    first_s: f64,
    last_s: f64,
    per_block: PerBlock,
}

#[derive(Clone, Copy)]
struct PerBlock {
    curve: CostCurve,
    tokens: u64,
}

impl PerBlock {
    /// Tokens `from..to`, with their share of steps, not whole ones.
    fn weight_s(&self, from: u64, to: u64) -> f64 {
        let steps = (to - from).div_ceil(self.curve.step_tokens) as f64;
        let share = (to - from) as f64 / self.curve.step_tokens as f64;
        self.curve.prefill_s(from, to) + self.curve.c0_s * (share - steps)
    }
}

impl Interval {
    /// How many of the blocks weigh more than `price_s`, and by how much in all. Weights grow with depth.
    fn above(&self, price_s: f64) -> (u32, f64) {
        if price_s >= self.last_s {
            return (0, 0.0);
        }
        if price_s <= self.first_s {
            return (self.blocks, self.weight_s - f64::from(self.blocks) * price_s);
        }
        let PerBlock { tokens, .. } = self.per_block;
        let at = |block: u32| self.begin + u64::from(block) * tokens;
        let (mut low, mut high) = (0, self.blocks - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.per_block.weight_s(at(middle), at(middle + 1)) > price_s { high = middle } else { low = middle + 1 }
        }
        let kept = self.blocks - low;
        (kept, (self.per_block.weight_s(at(low), at(self.blocks)) - f64::from(kept) * price_s).max(0.0))
    }
}

/// All intervals, and what requests may save in steps beyond their tokens' share.
fn intervals(plan: &Plan, curve: &CostCurve) -> (Vec<Interval>, f64) {
    let (tree, future) = Future::new(plan);
    let per_block = PerBlock { curve: *curve, tokens: u64::from(plan.block_tokens) };
    let mut saves = vec![false; plan.requests.len()];
    let mut out = Vec::new();
    for id in 1..tree.len() as u32 {
        let extent = tree.extent(id);
        let begin = u64::from(extent.depth) * per_block.tokens;
        for pair in future.uses(id).windows(2) {
            let end = extent.end().min(plan.requests[pair[1] as usize].saving_blocks);
            let blocks = end.saturating_sub(extent.depth);
            if blocks == 0 {
                continue;
            }
            saves[pair[1] as usize] = true;
            let at = |block: u32| begin + u64::from(block) * per_block.tokens;
            out.push(Interval {
                from: pair[0],
                to: pair[1],
                begin,
                blocks,
                weight_s: per_block.weight_s(begin, at(blocks)),
                first_s: per_block.weight_s(begin, at(1)),
                last_s: per_block.weight_s(at(blocks - 1), at(blocks)),
                per_block,
            });
        }
    }
    (out, saves.iter().filter(|saves| **saves).count() as f64 * curve.c0_s)
}

/// The bound at these prices, and how much is kept after each request.
fn bound_at(intervals: &[Interval], prices: &[f64], capacity: u32) -> (f64, Vec<f64>) {
    let mut sums = Vec::with_capacity(prices.len() + 1);
    let mut sum = 0.0;
    sums.push(0.0);
    for price in prices {
        sum += price;
        sums.push(sum);
    }
    let mut bound_s = sum * f64::from(capacity);
    let mut changes = vec![0.0; prices.len() + 1];
    for interval in intervals {
        let (from, to) = (interval.from as usize, interval.to as usize);
        let (blocks, above_s) = interval.above(sums[to] - sums[from]);
        bound_s += above_s;
        changes[from] += f64::from(blocks);
        changes[to] -= f64::from(blocks);
    }
    changes.pop();
    let mut kept = 0.0;
    for change in &mut changes {
        kept += *change;
        *change = kept;
    }
    (bound_s, changes)
}

/// The equal price at which about as much is kept as fits, over all.
fn equal_price(intervals: &[Interval], capacity: u32, slots: usize) -> f64 {
    let room = f64::from(capacity) * slots as f64;
    let (mut low, mut high) = (0.0f64, intervals.iter().map(|i| i.last_s).fold(0.0, f64::max));
    for _ in 0..40 {
        let price = (low + high) / 2.0;
        let kept: f64 = intervals
            .iter()
            .map(|i| {
                let waits = f64::from(i.to - i.from);
                f64::from(i.above(price * waits).0) * waits
            })
            .sum();
        if kept > room { low = price } else { high = price }
    }
    // Prices are multiplied from here on, so none may be nothing.
    high.max(f64::MIN_POSITIVE)
}
