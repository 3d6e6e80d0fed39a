//! Worth as ranks of 32 bits, on recorded load, against LRU over the prefix tree: block by block, and by segments as a drive evicts. Skips aloud where the
//! traces are not there.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test says so by failing, and what it measured aloud")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use forebay_tokenomics::cost::{Assumptions, CostCurve, model_by_name};
use forebay_tokenomics::prefix::{PrefixLru, replay_instant};
use forebay_tokenomics::trace::{Plan, PlanParams, parse_trace};
use forebay_tokenomics::{Policy, Put, Rank, Reuse, SpaceCost, policy_by_name};

const MODEL: &str = "llama-3.1-70b";
/// Of what LRU saves, worth saves this at least, at each capacity.
const LEAST: f64 = 0.99;
/// Segments of a cache, and what of a victim may be kept.
const SEGMENTS: u32 = 64;
const KEPT: (u32, u32) = (15, 64);

/// Replays both traces; a minute in a release build, and far more in another.
const WHOLE: &str = "FOREBAY_TEST_WHOLE_TRACES";

fn plan(name: &str, chunk: u32) -> Option<Plan> {
    if std::env::var_os(WHOLE).is_none() {
        println!("skipped: replay of whole traces: set {WHOLE}=1, and give --release");
        return None;
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces").join(name);
    let Ok(file) = File::open(&path) else {
        println!("skipped: replay of recorded load: {} is not there", path.display());
        return None;
    };
    let trace = parse_trace(BufReader::new(MultiGzDecoder::new(BufReader::new(file)))).unwrap().chunked(chunk);
    Some(Plan::new(&trace, PlanParams::default()).unwrap())
}

fn curve() -> CostCurve {
    CostCurve::new(model_by_name(MODEL).unwrap(), &Assumptions::default())
}

#[derive(Debug, Default)]
struct Saved {
    gpu_s: f64,
    /// Blocks that were here, and of these behind no gap.
    here: u64,
    leading: u64,
    lru_decided: u32,
}

/// A cache of blocks in segments of `segment` blocks; 1 evicts block by block, a few at a time.
struct Cache {
    ranks: Vec<Option<Rank>>,
    evicted: Vec<bool>,
    segments: VecDeque<Vec<u32>>,
    segment: usize,
    held: u32,
}

impl Cache {
    fn add(&mut self, number: u32) {
        if self.segments.back().is_none_or(|last| last.len() >= self.segment) {
            self.segments.push_back(Vec::new());
        }
        if let Some(last) = self.segments.back_mut() {
            last.push(number);
        }
        self.held += 1;
    }

    fn drop_block(&mut self, number: u32) {
        self.ranks[number as usize] = None;
        self.evicted[number as usize] = true;
        self.held -= 1;
    }

    fn shrink_by_block(&mut self, capacity: u32, policy: &dyn Policy) {
        if self.held <= capacity + capacity / 64 {
            return;
        }
        let held = self.ranks.iter().enumerate().filter_map(|(n, rank)| Some((policy.value((*rank)?, 0), n as u32)));
        let mut all: Vec<(u32, u32)> = held.collect();
        let gone = (self.held - capacity) as usize;
        all.select_nth_unstable(gone);
        all[..gone].iter().for_each(|(_, number)| self.drop_block(*number));
    }

    fn shrink_by_segment(&mut self, segments: usize, policy: &dyn Policy) {
        while self.segments.len() > segments {
            let value = |n: u32| self.ranks[n as usize].map_or(0, |rank| u64::from(policy.value(rank, 0)));
            let sums: Vec<(u64, u64)> =
                self.segments.iter().map(|s| (s.iter().map(|n| value(*n)).sum(), s.len() as u64)).collect();
            let means = sums[..sums.len() - 1].iter().filter(|(_, n)| *n > 0).map(|(sum, n)| sum / n);
            let base = if policy.is_clock() { means.min().unwrap_or(0) } else { 0 };
            let of = |i: &usize| sums[*i].0.saturating_sub(base * sums[*i].1);
            let victim = (0..sums.len() - 1).min_by_key(of).unwrap();
            let all = sums.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
            let mean = all.0 / all.1.max(1);
            let mut blocks = self.segments.remove(victim).unwrap();
            blocks.sort_by_key(|n| std::cmp::Reverse(self.ranks[*n as usize].map(|rank| policy.value(rank, 0))));
            let most = self.segment * KEPT.0 as usize / KEPT.1 as usize;
            for (at, number) in blocks.into_iter().enumerate() {
                let Some(rank) = self.ranks[number as usize] else { continue };
                if at < most && u64::from(policy.value(rank, 0)) > mean {
                    self.held -= 1;
                    self.add(number);
                } else {
                    self.drop_block(number);
                }
            }
        }
    }
}

/// A put of the `depth`-th block of a prompt.
fn put_of(plan: &Plan, numbers: &[u32], depth: u32, again: bool) -> Put {
    let own = |depth: u32| u64::from(numbers[depth as usize]) + 1;
    Put {
        depth,
        again,
        name: own(depth) - 1,
        chain: own(0),
        parent: depth.checked_sub(1).map_or(0, own),
        own: own(depth),
        position: depth,
        tokens: plan.block_tokens,
        bytes: 320 * 1024 * u64::from(plan.block_tokens),
        ..Put::default()
    }
}

fn replay(plan: &Plan, capacity: u32, name: &str, by_segment: bool) -> Saved {
    let curve = curve();
    let mut policy = policy_by_name(name).unwrap();
    policy.space(0, SpaceCost::new(MODEL, plan.block_tokens));
    policy.holds(u64::from(capacity));
    let distinct = plan.distinct() as usize;
    let segment = if by_segment { (capacity / SEGMENTS).max(1) as usize } else { usize::MAX };
    let mut cache = Cache {
        ranks: vec![None; distinct],
        evicted: vec![false; distinct],
        segments: VecDeque::new(),
        segment,
        held: 0,
    };
    let mut out = Saved::default();
    for request in &plan.requests {
        (0..8).for_each(|_| policy.passes((request.at_s * 1000.0) as u64));
        let numbers: Vec<u32> = request.numbers().collect();
        let here = numbers.iter().filter(|n| cache.ranks[**n as usize].is_some()).count();
        let leading = numbers.iter().take_while(|n| cache.ranks[**n as usize].is_some()).count();
        (out.here, out.leading) = (out.here + here as u64, out.leading + leading as u64);
        let cached = (leading as u64).min(u64::from(request.saving_blocks)) * u64::from(plan.block_tokens);
        out.gpu_s += curve.saved_s(cached, request.prompt_tokens);
        out.lru_decided += u32::from(policy.gives_way());
        let turn = policy.begin(request.blocks);
        for (depth, number) in numbers.iter().enumerate() {
            let (depth, at, before) = (depth as u32, *number as usize, cache.ranks[*number as usize]);
            let used = before.filter(|_| (depth as usize) < leading);
            let rank = match used {
                Some(rank) => policy.used(turn, depth, rank, Reuse::Unknown, (u64::from(*number), 0)),
                // What is here behind the gap exists: who puts it is told so and moves nothing.
                None if before.is_some() => continue,
                None => policy.put(turn, &put_of(plan, &numbers, depth, cache.evicted[at])),
            };
            if before.is_none() {
                cache.add(*number);
            }
            cache.ranks[at] = Some(rank);
        }
        match by_segment {
            true => cache.shrink_by_segment(SEGMENTS as usize, policy.as_ref()),
            false => cache.shrink_by_block(capacity, policy.as_ref()),
        }
    }
    out
}

fn compare(what: &str, plan: &Plan) {
    let mut gained = 0.0;
    for share in [0.02, 0.05, 0.1] {
        let capacity = (f64::from(plan.distinct()) * share) as u32;
        let tree = replay_instant(plan, &curve(), capacity, &mut PrefixLru::new()).gpu_s_saved;
        let mut tree_worth = forebay_tokenomics::prefix::Worth::new(curve(), plan.block_tokens, capacity, false);
        let best = replay_instant(plan, &curve(), capacity, &mut tree_worth).gpu_s_saved;
        println!(
            "{what}, {share}: LRU over the tree {tree:.0} s, worth over the tree {:+.2} %",
            100.0 * (best / tree - 1.0)
        );
        for by_segment in [false, true] {
            let [worth, lru] = ["worth", "lru"].map(|name| replay(plan, capacity, name, by_segment));
            println!(
                "  by {}: lru {:+.2} %, worth {:+.2} %, usable {:.2} and {:.2} %, LRU decided {} of {}",
                if by_segment { "segment" } else { "block" },
                100.0 * (lru.gpu_s / tree - 1.0),
                100.0 * (worth.gpu_s / tree - 1.0),
                100.0 * lru.leading as f64 / lru.here as f64,
                100.0 * worth.leading as f64 / worth.here as f64,
                worth.lru_decided,
                plan.requests.len()
            );
            assert!(worth.gpu_s > lru.gpu_s * LEAST, "{worth:?} {lru:?}");
            gained += worth.gpu_s / lru.gpu_s - 1.0;
        }
    }
    assert!(gained > 0.0, "{gained}");
}

#[test]
fn on_recorded_chats_worth_saves_no_less_than_lru() {
    let Some(plan) = plan("mooncake-conversation.jsonl.gz", 1) else { return };
    compare("chats", &plan);
}

#[test]
fn on_recorded_agents_worth_saves_no_less_than_lru() {
    let Some(plan) = plan("agent-sessions.jsonl.gz", 32) else { return };
    compare("agents", &plan);
}
