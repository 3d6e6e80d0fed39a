//! Replay of a plan against a cache that answers at once: what a policy and a capacity are worth.

use std::collections::{BTreeSet, VecDeque};

use crate::policy::{Policy, Rank, Reuse};
use crate::trace::{Plan, PlannedRequest};

const NONE: u32 = u32::MAX;

/// What a replay counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayCount {
    /// Requests.
    pub requests: u64,
    /// Blocks asked for.
    pub blocks: u64,
    /// Leading blocks that were there.
    pub hit_blocks: u64,
    /// Prompt tokens.
    pub prompt_tokens: u64,
    /// Tokens whose prefill was saved: those of full leading blocks, never the last prompt token's block.
    pub hit_tokens: u64,
}

impl ReplayCount {
    /// Counts one request of which the first `leading` blocks were there.
    pub fn add(&mut self, request: &PlannedRequest, leading: u32, block_tokens: u32) {
        self.requests += 1;
        self.blocks += u64::from(request.blocks);
        self.hit_blocks += u64::from(leading);
        self.prompt_tokens += request.prompt_tokens;
        self.hit_tokens += u64::from(leading.min(request.saving_blocks)) * u64::from(block_tokens);
    }

    /// Adds another count.
    pub fn merge(&mut self, other: &ReplayCount) {
        self.requests += other.requests;
        self.blocks += other.blocks;
        self.hit_blocks += other.hit_blocks;
        self.prompt_tokens += other.prompt_tokens;
        self.hit_tokens += other.hit_tokens;
    }

    /// Share of blocks that were there with all before them; 0 without blocks.
    pub fn hit_rate(&self) -> f64 {
        share(self.hit_blocks, self.blocks)
    }

    /// Share of prompt tokens whose prefill was saved; 0 without tokens.
    pub fn token_hit_rate(&self) -> f64 {
        share(self.hit_tokens, self.prompt_tokens)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Replays a plan against LRU with room for `capacity` blocks, or without a bound. A request counts its leading blocks that are there, then
/// touches all its blocks from tail to head, then blocks are evicted.
pub fn replay_lru(plan: &Plan, capacity: Option<u32>) -> ReplayCount {
    let mut cache = LruList::new(plan.distinct());
    let mut count = ReplayCount::default();
    for request in &plan.requests {
        let leading = request.numbers().take_while(|n| cache.holds(*n)).count() as u32;
        count.add(request, leading, plan.block_tokens);
        for number in request.numbers().rev() {
            cache.touch(number);
        }
        if let Some(capacity) = capacity {
            cache.shrink(capacity);
        }
    }
    count
}

/// Replays a plan against any policy with room for `capacity` blocks. A request counts its leading blocks that are there, then uses all its blocks,
/// then the lowest ranks are evicted; as many evicted blocks as fit are remembered.
pub fn replay(plan: &Plan, capacity: u32, policy: &mut dyn Policy) -> ReplayCount {
    policy.holds(u64::from(capacity));
    let mut count = ReplayCount::default();
    let mut ranks: Vec<Option<Rank>> = vec![None; plan.distinct() as usize];
    let mut by_rank: BTreeSet<(Rank, u32)> = BTreeSet::new();
    let (mut ghosts, mut order) = (BTreeSet::new(), VecDeque::new());
    for request in &plan.requests {
        let leading = request.numbers().take_while(|n| ranks[*n as usize].is_some()).count() as u32;
        count.add(request, leading, plan.block_tokens);
        if let Some(less) = policy.rebase() {
            by_rank = by_rank.into_iter().map(|(rank, number)| (rank.saturating_sub(less), number)).collect();
            by_rank.iter().for_each(|(rank, number)| ranks[*number as usize] = Some(*rank));
        }
        let turn = policy.begin(request.blocks);
        for (depth, number) in request.numbers().enumerate() {
            let (depth, place) = (depth as u32, number as usize);
            let rank = match ranks[place] {
                Some(old) => {
                    by_rank.remove(&(old, number));
                    policy.touch(turn, depth, old, Reuse::Unknown)
                }
                None if ghosts.remove(&number) => policy.insert_again(turn, depth, Reuse::Unknown),
                None => policy.insert(turn, depth, Reuse::Unknown),
            };
            ranks[place] = Some(rank);
            by_rank.insert((rank, number));
        }
        while by_rank.len() > capacity as usize {
            let Some((_, number)) = by_rank.pop_first() else { break };
            ranks[number as usize] = None;
            if ghosts.insert(number) {
                order.push_back(number);
            }
            while order.len() > capacity as usize {
                order.pop_front().map(|oldest| ghosts.remove(&oldest));
            }
        }
    }
    count
}

/// Blocks by their last use, as a ring through two arrays: 17 million touches take a fraction of a second.
pub(crate) struct LruList {
    /// Towards the hottest. The last slot is the ring's anchor.
    hotter: Vec<u32>,
    /// Towards the coldest.
    colder: Vec<u32>,
    held: u32,
}

impl LruList {
    pub(crate) fn new(distinct: u32) -> Self {
        let slots = distinct as usize + 1;
        let mut list = LruList { hotter: vec![NONE; slots], colder: vec![NONE; slots], held: 0 };
        list.hotter[slots - 1] = distinct;
        list.colder[slots - 1] = distinct;
        list
    }

    fn anchor(&self) -> u32 {
        self.hotter.len() as u32 - 1
    }

    pub(crate) fn holds(&self, number: u32) -> bool {
        self.hotter[number as usize] != NONE
    }

    pub(crate) fn touch(&mut self, number: u32) {
        let anchor = self.anchor();
        if self.holds(number) {
            self.unlink(number);
        } else {
            self.held += 1;
        }
        // Colder than the anchor, going round, is the hottest.
        let hottest = self.colder[anchor as usize];
        self.hotter[number as usize] = anchor;
        self.colder[number as usize] = hottest;
        self.hotter[hottest as usize] = number;
        self.colder[anchor as usize] = number;
    }

    fn unlink(&mut self, number: u32) {
        let (hotter, colder) = (self.hotter[number as usize], self.colder[number as usize]);
        self.colder[hotter as usize] = colder;
        self.hotter[colder as usize] = hotter;
        self.hotter[number as usize] = NONE;
    }

    /// Takes it out, if it is there.
    pub(crate) fn take(&mut self, number: u32) {
        if self.holds(number) {
            self.unlink(number);
            self.held -= 1;
        }
    }

    pub(crate) fn shrink(&mut self, capacity: u32) {
        while self.held > capacity {
            let coldest = self.hotter[self.anchor() as usize];
            self.unlink(coldest);
            self.held -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{PlanParams, parse_trace};

    fn plan_of(prompts: &[&[u64]]) -> Plan {
        let line = |(i, ids): (usize, &&[u64])| {
            let tokens = ids.len() * 512 + 1;
            format!(r#"{{"timestamp":{},"input_length":{tokens},"hash_ids":{ids:?}}}"#, i * 3000)
        };
        let text: Vec<String> = prompts.iter().enumerate().map(line).collect();
        Plan::new(&parse_trace(text.join("\n").as_bytes()).unwrap(), PlanParams::default()).unwrap()
    }

    #[test]
    fn only_leading_blocks_count_and_only_blocks_asked_before() {
        let plan = plan_of(&[&[1, 2, 3], &[1, 2, 9, 3], &[4, 1, 2], &[1, 2, 9, 3, 5]]);
        let count = replay_lru(&plan, None);
        assert_eq!((count.requests, count.blocks, count.hit_blocks), (4, 15, 2 + 4));
        assert_eq!(count.hit_tokens, 6 * 512);
    }

    #[test]
    fn tails_are_evicted_before_heads_and_a_request_larger_than_the_cache_keeps_its_head() {
        let count = replay_lru(&plan_of(&[&[1, 2, 3, 4], &[1, 2, 3, 4]]), Some(2));
        assert_eq!(count.hit_blocks, 2);
        // [1, 2] then [5]: with room for two, 2 goes before 1.
        let count = replay_lru(&plan_of(&[&[1, 2], &[5], &[1, 2], &[5]]), Some(2));
        assert_eq!(count.hit_blocks, 1);
        assert_eq!(replay_lru(&plan_of(&[&[1], &[1]]), Some(0)).hit_blocks, 0);
    }

    #[test]
    fn a_trace_without_hits_has_rate_zero_not_nan() {
        assert_eq!(ReplayCount::default().hit_rate(), 0.0);
        assert_eq!(ReplayCount::default().token_hit_rate(), 0.0);
    }
}
