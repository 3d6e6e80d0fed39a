//! Replay against a cache that answers at once.

use crate::cost::CostCurve;
use crate::replay::ReplayCount;
use crate::trace::{Plan, PlannedRequest, Span};

use super::policy::{PrefixPolicy, Use};
use super::tree::{ExtentId, Tree};

/// What an instant replay counted.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct InstantCount {
    /// Blocks and tokens.
    pub count: ReplayCount,
    /// GPU seconds of prefill that were saved.
    pub gpu_s_saved: f64,
    /// GPU seconds of prefill without a cache.
    pub gpu_s_total: f64,
    /// Blocks that were evicted.
    pub evicted_blocks: u64,
}

impl InstantCount {
    /// Counts one request of which the first `leading` blocks were there.
    pub(super) fn add(&mut self, request: &PlannedRequest, leading: u32, block_tokens: u32, curve: &CostCurve) {
        self.count.add(request, leading, block_tokens);
        let cached = u64::from(leading.min(request.saving_blocks)) * u64::from(block_tokens);
        self.gpu_s_saved += curve.saved_s(cached, request.prompt_tokens);
        self.gpu_s_total += curve.prefill_s(0, request.prompt_tokens);
    }
}

/// Replays a plan against a policy with room for `capacity` blocks. Each request counts its leading blocks that are there, then uses all its blocks
/// from tail to head, then blocks are evicted until what is held fits.
pub fn replay_instant(plan: &Plan, curve: &CostCurve, capacity: u32, policy: &mut dyn PrefixPolicy) -> InstantCount {
    replay_on(Tree::new(plan.distinct()), plan, curve, capacity, policy)
}

/// The same on a tree with nothing resident, which may know the trace's extents already.
pub fn replay_on(
    mut tree: Tree,
    plan: &Plan,
    curve: &CostCurve,
    capacity: u32,
    policy: &mut dyn PrefixPolicy,
) -> InstantCount {
    assert!(tree.held() == 0, "a replay begins with an empty cache");
    let mut out = InstantCount::default();
    let mut path = Vec::new();
    for (index, request) in plan.requests.iter().enumerate() {
        let used = Use { index: index as u32, at_s: request.at_s, hint: request.hint };
        let (leading, evicted) = step(&mut tree, &request.spans, &used, capacity, policy, &mut path);
        out.add(request, leading, plan.block_tokens, curve);
        out.evicted_blocks += evicted;
    }
    out
}

/// One request: what it finds, and how many blocks left for it.
pub(super) fn step(
    tree: &mut Tree,
    spans: &[Span],
    request: &Use,
    capacity: u32,
    policy: &mut dyn PrefixPolicy,
    path: &mut Vec<ExtentId>,
) -> (u32, u64) {
    tree.walk(spans, path, policy);
    let resident = path.iter().take_while(|id| tree.extent(**id).resident).count();
    let leading = if resident == 0 { 0 } else { tree.extent(path[resident - 1]).end() };
    policy.touch(tree, path, request);
    for id in &path[resident..] {
        tree.insert(*id);
    }
    (leading, shrink(tree, capacity, policy))
}

/// Evicts until what is held fits. Gives the blocks that left.
fn shrink(tree: &mut Tree, capacity: u32, policy: &mut dyn PrefixPolicy) -> u64 {
    let mut gone = 0;
    while tree.held() > u64::from(capacity) {
        let over = tree.held() - u64::from(capacity);
        let need = u32::try_from(over).unwrap_or(u32::MAX);
        let victim = policy.victim(tree, need);
        gone += u64::from(tree.evict(victim.leaf, victim.blocks.min(need).max(1), policy));
        policy.evicted(tree, victim.leaf);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Assumptions, model_by_name};
    use crate::prefix::{Gdsf, PrefixLru, PrefixS3Fifo, Sieve, Worth};
    use crate::seeded::Seeded;

    /// Whatever a policy does: never above capacity after a request, residence closed towards the head, and a leaf where it says one is. Checked
    /// after every request of a seeded forest of prompts.
    #[test]
    fn residence_stays_within_capacity_and_prefix_closed_under_every_policy() {
        let curve = CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default());
        for seed in 0..12 {
            let capacity = [0, 3, 17, 90][seed as usize % 4];
            let mut policies: Vec<Box<dyn PrefixPolicy>> = vec![
                Box::new(PrefixLru::new()),
                Box::new(PrefixS3Fifo::new(capacity)),
                Box::new(Sieve::new()),
                Box::new(Gdsf::new(curve, 64)),
                Box::new(Worth::new(curve, 64, capacity, true)),
            ];
            for policy in &mut policies {
                let mut chance = Seeded::new(seed);
                let (mut tree, mut path) = (Tree::new(4000), Vec::new());
                for index in 0..150 {
                    // Ten families; each prompt takes some of the family's stem and then one of its branches.
                    let family = (chance.word() % 10) as u32 * 400;
                    let stem = 1 + (chance.word() % 40) as u32;
                    let mut spans = vec![Span { first: family, count: stem }];
                    if chance.word().is_multiple_of(2) {
                        let branch = (chance.word() % 6) as u32;
                        spans.push(Span { first: family + 100 + 50 * branch, count: 1 + (chance.word() % 50) as u32 });
                    }
                    let request = Use { index, at_s: f64::from(index), hint: forebay_types::Reuse::Unknown };
                    step(&mut tree, &spans, &request, capacity, policy.as_mut(), &mut path);
                    assert!(tree.held() <= u64::from(capacity), "{} holds {}", policy.name(), tree.held());
                    tree.check();
                }
            }
        }
    }
}
