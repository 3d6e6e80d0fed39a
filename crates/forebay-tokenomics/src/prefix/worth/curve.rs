//! The miss-ratio curve of worth: what half, twice and four times the room would find, from small caches without bytes.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use forebay_types::Reuse;

use crate::cost::CostCurve;
use crate::seeded::{Mixed, spread};
use crate::trace::Span;

use super::super::instant::step;
use super::super::lru::PrefixLru;
use super::super::policy::{Forgets, Use};
use super::super::tree::{ExtentId, Tree};
use super::LEAD;
use super::rank::Rank;
use super::shadow::REMEMBERED_REQUESTS;

/// Blocks that a small cache holds, about: a thousand already tell a hit rate to half a point.
const SAMPLE: f64 = 2048.0;
/// Blocks that each size remembers at most, held or not: what the table of their names has room for before it doubles once more.
const REMEMBERED_MAX: usize = 56 << 10;
/// Bytes of what each size remembers at which it forgets. Lists grow in steps of a quarter and each has its largest moment at another time, and with at most
/// four sizes all of it is to stay below 16 MiB.
const SIZE_BYTES_MAX: usize = 11 << 18;
/// An entry of sixteen bytes and its control byte, in a table that is at most seven eighths full.
const NUMBER_BYTES: usize = 20;
/// Sizes.
const SIZES_MAX: usize = 4;
/// The usual ones, as parts of what there is: half, all, twice, four times.
const AROUND: [(u64, u64); SIZES_MAX] = [(1, 2), (1, 1), (2, 1), (4, 1)];

/// How much worth would find at several sizes of its cache, learned while requests pass.
///
/// Worth has no stack as LRU has, so each size is a cache of its own, of blocks sampled by hash and scaled down with them (Waldspurger and others,
/// ATC 2017). Each is run twice, ranked by worth and by last use, and the one that saved more of late is counted, as [`super::Worth`] decides.
/// Where a sample has more or fewer blocks than its share, the difference is put to the hottest, as in [`super::super::LruCurve`].
#[derive(Debug)]
pub struct WorthCurve {
    curve: CostCurve,
    sizes: Vec<Size>,
    requests: u32,
    asked: f64,
}

#[derive(Debug)]
struct Size {
    capacity: u64,
    /// Share of blocks that is followed, and the largest hash of those.
    share: f64,
    hash_max: u64,
    /// Tokens that a followed block stands for.
    block_tokens: u32,
    numbers: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    next: u32,
    spans: Vec<Span>,
    by_rank: Small<Rank>,
    by_lru: Small<PrefixLru>,
    lru_decides: bool,
    reckoned: f64,
    found: f64,
}

#[derive(Debug)]
struct Small<P> {
    tree: Tree,
    policy: P,
    capacity: u32,
    saved_s: f64,
    path: Vec<ExtentId>,
}

impl WorthCurve {
    /// For these capacities in blocks, of which the first four count.
    pub fn new(curve: CostCurve, block_tokens: u32, capacities: &[u64], hints: bool) -> Self {
        let sizes = capacities.iter().take(SIZES_MAX);
        let sizes = sizes.map(|capacity| Size::new(curve, block_tokens, *capacity, hints)).collect();
        WorthCurve { curve, sizes, requests: 0, asked: 0.0 }
    }

    /// For half of a capacity, all of it, twice and four times as much.
    pub fn around(curve: CostCurve, block_tokens: u32, capacity: u64, hints: bool) -> Self {
        let sizes = AROUND.map(|(times, of)| capacity.saturating_mul(times) / of);
        WorthCurve::new(curve, block_tokens, &sizes, hints)
    }

    /// A request for these blocks, head first, `at_s` seconds from the first.
    pub fn request(&mut self, keys: &[u64], at_s: f64, hint: Reuse) {
        let used = Use { index: self.requests, at_s, hint };
        self.requests = self.requests.wrapping_add(1);
        self.asked += keys.len() as f64;
        for size in &mut self.sizes {
            size.request(keys, &used, &self.curve);
        }
    }

    /// Share of all blocks asked for that would have been found, by capacity; 0 before the first.
    pub fn hit_rates(&self) -> Vec<(u64, f64)> {
        let rate = |size: &Size| {
            let found = size.found + (self.asked - size.reckoned);
            if size.capacity == 0 || self.asked == 0.0 { 0.0 } else { (found / self.asked).clamp(0.0, 1.0) }
        };
        self.sizes.iter().map(|size| (size.capacity, rate(size))).collect()
    }

    /// Bytes it takes, about; 16 MiB at most.
    pub fn bytes(&self) -> usize {
        self.sizes.iter().map(Size::bytes).sum()
    }
}

impl Size {
    fn new(curve: CostCurve, block_tokens: u32, capacity: u64, hints: bool) -> Self {
        let share = (SAMPLE / capacity.max(1) as f64).min(1.0);
        let scaled = (capacity as f64 * share).round() as u32;
        let tokens = (f64::from(block_tokens) / share).round().min(f64::from(u32::MAX)) as u32;
        Size {
            capacity,
            share,
            hash_max: (share * u64::MAX as f64) as u64,
            block_tokens: tokens,
            numbers: HashMap::default(),
            next: 0,
            spans: Vec::new(),
            by_rank: Small::new(Rank::new(curve, tokens, hints), scaled),
            by_lru: Small::new(PrefixLru::new(), scaled),
            lru_decides: false,
            reckoned: 0.0,
            found: 0.0,
        }
    }

    fn request(&mut self, keys: &[u64], request: &Use, curve: &CostCurve) {
        self.spans.clear();
        let mut followed = 0u32;
        for key in keys {
            if spread(*key) > self.hash_max {
                continue;
            }
            let number = *self.numbers.entry(*key).or_insert_with(|| {
                self.next = self.next.wrapping_add(1);
                self.next - 1
            });
            followed += 1;
            match self.spans.last_mut() {
                Some(last) if last.first + last.count == number => last.count += 1,
                _ => self.spans.push(Span { first: number, count: 1 }),
            }
        }
        let ranked = self.by_rank.request(&self.spans, request, curve, self.block_tokens);
        let recent = self.by_lru.request(&self.spans, request, curve, self.block_tokens);
        self.reckoned += f64::from(followed) / self.share;
        self.found += f64::from(if self.lru_decides { recent } else { ranked }) / self.share;
        let (rank_s, lru_s) = (self.by_rank.saved_s, self.by_lru.saved_s);
        self.lru_decides = if self.lru_decides { lru_s * LEAD > rank_s } else { lru_s > rank_s * LEAD };
        if self.numbers.len() >= REMEMBERED_MAX || self.live_bytes() > SIZE_BYTES_MAX {
            self.forget();
        }
    }

    /// Forgets the older half of what is not held.
    fn forget(&mut self) {
        let mut kept = self.by_rank.forget();
        kept.extend(self.by_lru.forget());
        kept.sort_unstable_by_key(|span| span.first);
        self.numbers.retain(|_, number| {
            let before = kept.partition_point(|span| span.first <= *number);
            // Spans of the two trees may overlap, each by a part of what a chain once was: a few before are enough to look at.
            kept[..before].iter().rev().take(8).any(|span| *number < span.first + span.count)
        });
    }

    fn live_bytes(&self) -> usize {
        self.numbers.len() * NUMBER_BYTES + self.by_rank.live_bytes() + self.by_lru.live_bytes()
    }

    fn bytes(&self) -> usize {
        self.numbers.capacity() * NUMBER_BYTES + self.by_rank.bytes() + self.by_lru.bytes()
    }
}

impl<P: Forgets> Small<P> {
    fn new(policy: P, capacity: u32) -> Self {
        Small { tree: Tree::new(0), policy, capacity, saved_s: 0.0, path: Vec::new() }
    }

    /// Gives the leading blocks that were there.
    fn request(&mut self, spans: &[Span], request: &Use, curve: &CostCurve, tokens: u32) -> u32 {
        let (leading, _) = step(&mut self.tree, spans, request, self.capacity, &mut self.policy, &mut self.path);
        let saved_s = curve.prefill_s(0, u64::from(leading) * u64::from(tokens));
        self.saved_s += saved_s - self.saved_s / REMEMBERED_REQUESTS;
        leading
    }

    /// Gives the blocks that are still known.
    fn forget(&mut self) -> Vec<Span> {
        let Small { tree, policy, .. } = self;
        let mut uses: Vec<f64> =
            tree.known().filter(|id| !tree.extent(*id).resident).map(|id| policy.last_use(id)).collect();
        uses.sort_unstable_by(f64::total_cmp);
        let line = uses.get(uses.len() / 2).copied().unwrap_or(f64::INFINITY);
        let kept: Vec<bool> = (0..tree.len() as ExtentId).map(|id| policy.last_use(id) > line).collect();
        tree.forget(|id| kept[id as usize], |id, blocks| policy.forgotten(id, blocks));
        let extents = tree.known().map(|id| tree.extent(id));
        extents.map(|extent| Span { first: extent.first, count: extent.blocks }).collect()
    }

    fn live_bytes(&self) -> usize {
        self.tree.live_bytes() + self.policy.live_bytes(self.tree.live())
    }

    fn bytes(&self) -> usize {
        self.tree.bytes() + self.policy.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Assumptions, model_by_name};

    fn curve() -> CostCurve {
        CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default())
    }

    /// 16,000 prompts of one block that nobody asks for again, the worst there is: each is an extent of its own. Between them one chain of 40 that
    /// comes back, and is found. The size is small, so that every block is followed: what is held is little, what is remembered is all there is room for.
    #[test]
    fn each_of_four_sizes_stays_within_four_mebibytes_and_forgets_nothing_that_is_held() {
        let mut worth = WorthCurve::new(curve(), 64, &[120], false);
        let chain: Vec<u64> = (0..40).collect();
        let mut most = 0;
        for i in 0..16_000u64 {
            worth.request(&[1_000_000 + i * 7], i as f64, Reuse::Unknown);
            if i % 50 == 0 {
                worth.request(&chain, i as f64 + 0.5, Reuse::Unknown);
            }
            most = most.max(worth.bytes());
        }
        let remembered = worth.sizes[0].numbers.len();
        assert!((2 << 20..=4 << 20).contains(&most) && remembered < 14_000, "{most} {remembered}");
        // 319 x 40 of 28,800 blocks were asked for again.
        let all = 319.0 * 40.0 / 28_800.0;
        let (_, rate) = worth.hit_rates()[0];
        assert!((rate - all).abs() < 0.05, "{rate} of {all}");
    }

    /// The same hundred prompts for ever, and room for all of them: nothing is ever asked to leave, and nothing grows.
    #[test]
    fn what_is_always_found_takes_no_more_memory_as_time_goes_by() {
        let mut worth = WorthCurve::new(curve(), 64, &[1000], false);
        let mut bytes = Vec::new();
        for i in 0..6000u64 {
            worth.request(&[i % 100], i as f64, Reuse::Unknown);
            if i % 3000 == 2999 {
                bytes.push(worth.bytes());
            }
        }
        assert_eq!(bytes[0], bytes[1]);
    }

    #[test]
    fn before_the_first_request_nothing_is_said_to_be_found() {
        assert_eq!(WorthCurve::new(curve(), 64, &[10, 0], false).hit_rates(), [(10, 0.0), (0, 0.0)]);
    }
}
