//! A cache without bytes, of a sample of the blocks and as much smaller, to see what a policy would save.

use crate::cost::CostCurve;
use crate::trace::Span;

use super::super::instant::step;
use super::super::policy::{PrefixPolicy, Use};
use super::super::tree::{ExtentId, Tree};

/// Savings are forgotten over so many requests: long enough to see a lead of a per cent, short enough to follow an hour.
pub(super) const REMEMBERED_REQUESTS: f64 = 1000.0;

/// Every so many blocks of a chain, in a cache that many times smaller. Numbers follow each other along a chain, so the sample is even in depth.
#[derive(Debug)]
pub(super) struct Shadow<P> {
    tree: Tree,
    policy: P,
    curve: CostCurve,
    block_tokens: u32,
    capacity: u32,
    every: u32,
    saved_s: f64,
    spans: Vec<Span>,
    path: Vec<ExtentId>,
}

impl<P: PrefixPolicy> Shadow<P> {
    /// `block_tokens` of a sampled block, with those it stands for.
    pub(super) fn new(policy: P, curve: CostCurve, block_tokens: u32, capacity: u32, every: u32) -> Self {
        Shadow {
            tree: Tree::new(0),
            policy,
            curve,
            block_tokens,
            capacity: capacity / every,
            every,
            saved_s: 0.0,
            spans: Vec::new(),
            path: Vec::new(),
        }
    }

    /// A request of the cache that is shadowed. Gives the seconds this one saved of late.
    pub(super) fn request(&mut self, of: &Tree, path: &[ExtentId], request: &Use) -> f64 {
        self.spans.clear();
        for id in path {
            let extent = of.extent(*id);
            let first = extent.first.div_ceil(self.every);
            let count = (extent.first + extent.blocks).div_ceil(self.every) - first;
            match self.spans.last_mut() {
                _ if count == 0 => {}
                Some(last) if last.first + last.count == first => last.count += count,
                _ => self.spans.push(Span { first, count }),
            }
        }
        let Shadow { tree, policy, spans, path, capacity, .. } = self;
        let (leading, _) = step(tree, spans, request, *capacity, policy, path);
        let saved_s = self.curve.prefill_s(0, u64::from(leading) * u64::from(self.block_tokens));
        self.saved_s += saved_s - self.saved_s / REMEMBERED_REQUESTS;
        self.saved_s
    }
}
