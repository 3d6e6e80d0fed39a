//! Worth, for who holds blocks by the million and ranks each with 32 bits: what a block is expected to save, by byte and second of keeping it.
//!
//! A rank says when a block was used, what class its past is of, and how deep the end of its chain lies. What that is worth follows from the time and
//! from what was learned of returns ([`crate::returns`], the very estimate that the policy over a prefix tree goes by), so it changes while nobody touches
//! the block; whoever keeps sums of it makes them anew now and then. All blocks of a request have one end and one last use, and nearer to the head nothing
//! is worth less: heads outlive tails without anybody knowing which block hangs on which.

mod bits;
mod chains;
mod followed;
mod judge;
mod moments;
mod put;
mod shadow;

use crate::returns::{CLASSES, Fit, Past, Returns, class_after};
use crate::space::{LEVELS, SpaceCost, level_of};

use super::{COLDEST, Expected, Lru, Policy, Put, Rank, Reuse, Turn};
use bits::{Bits, MOMENT_MAX, PLACES, place_of};
use chains::Chains;
use followed::{Block, Followed, Request};
use judge::{Judge, space_of, tokens_before};
use moments::{FOUND_MOMENTS, Moments};
use put::{end_behind, items_of, past_of, tokens_of};

/// What it takes at most: what it has learned, the sample it learns from, moments and chains.
pub(super) const BYTES_MAX: u64 = 5 << 19;

/// Uses of followed blocks between two estimates.
const REFIT_USES: u32 = 256;
/// And so long at least: returns are told by the second, and a small set that is asked for a hundred thousand times a second tells nothing new by then.
const REFIT_MS: u64 = 100;
/// Classes fitted in one step: some 40 us.
const CLASSES_PER_STEP: usize = 4;
/// Followed blocks counted in one step.
const COUNTED_PER_STEP: usize = 2048;
/// What was learned counts half as much after so long.
const HALF_LIFE_MS: f64 = 86_400_000.0;
/// Namespaces whose costs are told apart; those behind them have the default's.
const SPACES_MAX: usize = 4096;
/// Requests whose end is remembered while they are under way.
const ENDS: usize = 8;
/// Prompts are told from single blocks by this many requests, at least.
const PROMPTS_MIN: f64 = 16.0;
/// The largest value there is: sums of them over a segment fit in 64 bits.
const VALUE_MAX: f64 = (1u64 << 31) as f64;

/// Where an estimate stands that is made in steps.
#[derive(Debug, Clone)]
enum Fitting {
    No,
    /// Followed blocks up to here are counted as waiting.
    Counting(usize),
    /// Classes up to here are fitted.
    Fits(Box<Fit>, usize),
}

/// Worth as ranks. Where LRU has done better of late, by two shadow caches of a sample of the blocks, LRU decides.
#[derive(Debug, Clone)]
pub struct Worth {
    lru: Lru,
    moments: Moments,
    returns: Returns,
    followed: Followed,
    chains: Chains,
    spaces: Vec<SpaceCost>,
    fitting: Fitting,
    /// Uses of followed blocks since the last estimate.
    uses: u32,
    faded_ms: u64,
    /// Requests of more than one block and their blocks, fading.
    prompts: f64,
    prompt_blocks: f64,
    /// Ends of the requests that are under way, by their turn.
    ends: [(Rank, f64); ENDS],
    lru_decides: bool,
    scale: f64,
    resum: bool,
    /// An estimate has been made: before, nothing is expected of anything.
    has_learned: bool,
}

impl Worth {
    /// Nothing seen yet: LRU decides.
    pub fn new() -> Self {
        Worth {
            lru: Lru::new(),
            moments: Moments::new(),
            returns: Returns::new(CLASSES),
            followed: Followed::new(),
            chains: Chains::new(),
            spaces: vec![SpaceCost::new("", 0)],
            fitting: Fitting::No,
            uses: 0,
            faded_ms: 0,
            prompts: PROMPTS_MIN,
            prompt_blocks: PROMPTS_MIN,
            ends: [(0, 0.0); ENDS],
            lru_decides: true,
            scale: 1.0,
            resum: false,
            has_learned: false,
        }
    }

    /// GPU seconds that a token of a block of this rank saves, if it is found.
    pub fn token_s(&self, rank: Rank, space: u16) -> f64 {
        space_of(&self.spaces, space).token_s(level_of(tokens_before(Bits::of(rank)) as u64))
    }

    fn judge(&self) -> Judge<'_> {
        Judge { moments: &self.moments, returns: &self.returns, spaces: &self.spaces, scale: self.scale }
    }

    fn space_mut(&mut self, space: u16) -> &mut SpaceCost {
        let at = if usize::from(space) < self.spaces.len() { usize::from(space) } else { 0 };
        &mut self.spaces[at]
    }

    /// Blocks of a prompt, in the mean: what comes back with it counts as one return.
    fn prompt_of(&self) -> f64 {
        self.prompt_blocks / self.prompts
    }

    fn follow(&mut self, (name, space): (u64, u16), rank: Rank, turn: Turn, depth: u32) {
        if !self.followed.follows(name) {
            return;
        }
        let weight = self.followed.each() / self.prompt_of();
        if let Some(block) = self.followed.get(name) {
            let before = Bits::of(block.rank);
            self.returns.came(usize::from(before.class), self.moments.age_s(before.moment), weight);
        }
        let saves_s = self.token_s(rank, space);
        let mut lost: Vec<Block> = Vec::new();
        let judge = Judge { moments: &self.moments, returns: &self.returns, spaces: &self.spaces, scale: self.scale };
        let worth = |block: &Block| judge.worth(block.rank, block.space);
        let request = Request { turn: u64::from(turn.head), depth, blocks: self.prompt_of() };
        self.followed.used(name, (rank, space), request, saves_s, worth, |block| lost.push(*block));
        for block in lost {
            let bits = Bits::of(block.rank);
            self.returns.lost_sight_of(usize::from(bits.class), self.moments.age_s(bits.moment), weight);
        }
        self.uses += 1;
    }

    /// Tokens to the end of a request's chain: the same for all its blocks, as reckoned from the first that comes, which has so many before it.
    fn end_of(&mut self, turn: Turn, depth: u32, before: f64, block_tokens: f64) -> f64 {
        if let Some((_, end)) = self.ends.iter().find(|end| end.0 == turn.head) {
            return *end;
        }
        let end = end_behind(turn, depth, before, block_tokens);
        self.ends.rotate_right(1);
        self.ends[0] = (turn.head, end);
        end
    }

    fn begin_fit(&mut self) {
        let each = HALF_LIFE_MS.recip() * (self.moments.now_ms().saturating_sub(self.faded_ms)) as f64;
        self.returns.fade((-each).exp2());
        self.faded_ms = self.moments.now_ms();
        self.uses = 0;
        self.fitting = Fitting::Counting(0);
    }

    fn end_fit(&mut self, mut fit: Box<Fit>) {
        fit.heads_first();
        self.returns.take(*fit);
        self.has_learned = true;
        let cost = |space: &SpaceCost| space.density(LEVELS as u8 - 1);
        let most = self.returns.most() * self.spaces.iter().map(cost).fold(0.0, f64::max);
        let scale = VALUE_MAX / most.max(f64::MIN_POSITIVE);
        // Sums stay comparable while the scale does.
        if scale < self.scale || scale > self.scale * 4.0 {
            self.scale = scale / 2.0;
            self.resum = true;
        }
        let lru_decides = self.followed.lru_leads();
        self.resum |= lru_decides != self.lru_decides;
        self.lru_decides = lru_decides;
    }
}

impl Default for Worth {
    fn default() -> Self {
        Worth::new()
    }
}

impl Policy for Worth {
    fn name(&self) -> &'static str {
        "worth"
    }

    fn begin(&mut self, items: u32) -> Turn {
        let turn = self.lru.begin(items);
        if items > 1 {
            // Of the last thousand or so.
            self.prompts += 1.0 - self.prompts / 1024.0;
            self.prompt_blocks += f64::from(items) - self.prompt_blocks / 1024.0;
        }
        Turn { moment: self.moments.begin(items), ..turn }
    }

    fn insert(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank {
        self.put(turn, &Put { depth, hint, ..Put::default() })
    }

    fn insert_again(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank {
        self.put(turn, &Put { depth, hint, again: true, ..Put::default() })
    }

    fn put(&mut self, turn: Turn, put: &Put) -> Rank {
        let moments = &self.moments;
        let growth = self.chains.grows(turn, put, |moment| moments.age_s(moment));
        let space = self.space_mut(put.space);
        space.put(put.tokens, put.bytes);
        let (tokens, before) = tokens_of(put, space);
        let past = past_of(put, growth);
        let end = self.end_of(turn, put.depth, before, tokens);
        let rank = Bits {
            moment: turn.moment,
            class: past.class() as u8,
            end: level_of(end as u64),
            place: place_of(put.depth, items_of(turn)),
        }
        .rank();
        self.follow((put.name, put.space), rank, turn, put.depth);
        if put.hint == Reuse::Done { COLDEST } else { rank }
    }

    fn has_learned(&self) -> bool {
        self.has_learned
    }

    fn expects(&self, turn: Turn, put: &Put, stays_s: f64) -> Option<Expected> {
        if !self.has_learned {
            return None;
        }
        let growth = self.chains.would_grow(turn, put, |moment| self.moments.age_s(moment));
        let (tokens, before) = tokens_of(put, space_of(&self.spaces, put.space));
        let known = self.ends.iter().find(|end| end.0 == turn.head).map(|end| end.1);
        Some(Expected {
            chance: self.returns.chance(past_of(put, growth).class() as usize, stays_s),
            chain_tokens: known.unwrap_or_else(|| end_behind(turn, put.depth, before, tokens)),
        })
    }

    fn touch(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse) -> Rank {
        self.used(turn, depth, rank, hint, (0, 0))
    }

    fn used(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse, (name, space): (u64, u16)) -> Rank {
        if hint == Reuse::Done {
            return rank;
        }
        let before = Bits::of(rank);
        let gap_s = self.moments.age_s(before.moment);
        let block_tokens = space_of(&self.spaces, space).tokens_before(1);
        let end = self.end_of(turn, depth, f64::from(depth) * block_tokens, block_tokens);
        // A slow request may touch a block that a later one has used since.
        let later = self.moments.since(turn.moment) <= self.moments.since(before.moment);
        let after = Bits {
            moment: if later { turn.moment } else { before.moment },
            class: class_after(u32::from(before.class), gap_s, Past::hint_of(hint)) as u8,
            end: before.end.max(level_of(end as u64)),
            place: place_of(depth, items_of(turn)),
        };
        self.follow((name, space), after.rank(), turn, depth);
        after.rank()
    }

    fn holds(&mut self, blocks: u64) {
        self.moments.holds(blocks);
        self.followed.holds(blocks);
    }

    fn segments(&mut self, segments: u32) {
        self.followed.segments(segments as usize);
    }

    fn value(&self, rank: Rank, space: u16) -> u32 {
        if !self.lru_decides {
            return self.judge().worth(rank, space);
        }
        if rank == COLDEST {
            return 0;
        }
        let bits = Bits::of(rank);
        let recent = u32::from(MOMENT_MAX - self.moments.since(bits.moment));
        recent * u32::from(PLACES) + u32::from(PLACES - 1 - bits.place)
    }

    fn is_clock(&self) -> bool {
        self.lru_decides
    }

    fn resum(&mut self) -> bool {
        let due = self.moments.is_unrenewed();
        if due {
            self.moments.renewing();
        }
        std::mem::take(&mut self.resum) | due
    }

    fn renewed(&self, rank: Rank) -> Rank {
        let bits = Bits::of(rank);
        if rank == COLDEST { rank } else { Bits { moment: self.moments.renewed(bits.moment), ..bits }.rank() }
    }

    fn rank_in_dram(&self, used: Option<(Turn, u32)>, _rank: Rank) -> Rank {
        match used {
            Some((turn, depth)) => turn.rank(depth),
            None => self.lru.top(),
        }
    }

    fn found_again(&self, recency: u32) -> Rank {
        let moment = 1 + (recency >> (28 - FOUND_MOMENTS.ilog2())) as u16;
        Bits { moment, class: Past { uses: 1, turn: 1, ..Past::default() }.class() as u8, ..Bits::default() }.rank()
    }

    fn starts(&mut self, recencies: u32) {
        self.lru.starts(recencies);
    }

    fn rebased(&self, rank: Rank, _less: u32) -> Rank {
        rank
    }

    fn passes(&mut self, now_ms: u64) {
        self.moments.passes(now_ms);
        self.fitting = match std::mem::replace(&mut self.fitting, Fitting::No) {
            Fitting::No => {
                let since_ms = self.moments.now_ms().saturating_sub(self.faded_ms);
                if self.uses >= REFIT_USES && since_ms >= REFIT_MS {
                    self.begin_fit();
                }
                return;
            }
            Fitting::Counting(at) => {
                let weight = self.followed.each() / self.prompt_of();
                let end = at + COUNTED_PER_STEP;
                for block in (at..end).map_while(|at| self.followed.at(at)) {
                    let bits = Bits::of(block.rank);
                    self.returns.waits(usize::from(bits.class), self.moments.age_s(bits.moment), weight);
                }
                match end < self.followed.len() {
                    true => Fitting::Counting(end),
                    false => Fitting::Fits(Box::new(self.returns.gather()), 0),
                }
            }
            Fitting::Fits(fit, CLASSES) => {
                self.end_fit(fit);
                Fitting::No
            }
            Fitting::Fits(mut fit, at) => {
                let end = (at + CLASSES_PER_STEP).min(CLASSES);
                (at..end).for_each(|class| fit.class(class));
                Fitting::Fits(fit, end)
            }
        };
    }

    fn space(&mut self, space: u16, cost: SpaceCost) {
        let at = usize::from(space);
        if at >= SPACES_MAX {
            return;
        }
        while self.spaces.len() <= at {
            self.spaces.push(SpaceCost::new("", 0));
        }
        self.spaces[at] = cost;
    }

    fn gives_way(&self) -> bool {
        self.lru_decides
    }

    fn memory_bytes(&self) -> usize {
        // Counts and index of all classes, and those of an estimate that is being made.
        let returns = 8 * CLASSES * size_of::<[f64; crate::returns::BINS]>();
        let spaces = self.spaces.capacity() * size_of::<SpaceCost>();
        self.moments.memory_bytes() + self.followed.memory_bytes() + self.chains.memory_bytes() + returns + spaces
    }

    fn rebase(&mut self) -> Option<u32> {
        self.lru.rebase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(policy: &Worth, ranks: &[Rank]) -> Vec<u32> {
        ranks.iter().map(|rank| policy.value(*rank, 0)).collect()
    }

    /// Ten blocks with their chain or without it, put and then used: while LRU decides and while worth does, nearer to the head nothing is worth less,
    /// and a later request outlives an earlier one under LRU.
    #[test]
    fn heads_of_a_request_outlive_its_tails() {
        for tokens in [0, 512] {
            let mut policy = Worth::new();
            policy.holds(1000);
            let mut ranks = Vec::new();
            let turn = policy.begin(10);
            for depth in 0..10 {
                let chain = u64::from(tokens > 0);
                let position = if tokens > 0 { depth } else { 0 };
                ranks.push(
                    policy
                        .put(turn, &Put { depth, name: 9, chain, position, tokens, bytes: 1 << 20, ..Put::default() }),
                );
            }
            policy.passes(30_000);
            let earlier = ranks.clone();
            let turn = policy.begin(10);
            for (depth, rank) in ranks.iter_mut().enumerate() {
                *rank = policy.used(turn, depth as u32, *rank, Reuse::Unknown, (depth as u64, 0));
            }
            for lru in [true, false] {
                policy.lru_decides = lru;
                policy.scale = 1e15;
                for ranks in [&earlier, &ranks] {
                    let values = values(&policy, ranks);
                    assert!(
                        values.windows(2).all(|two| two[0] >= two[1]) && values[0] > values[9],
                        "{tokens} {lru} {values:?}"
                    );
                }
            }
            policy.lru_decides = true;
            assert!(policy.value(ranks[9], 0) > policy.value(earlier[0], 0));
        }
    }

    #[test]
    fn who_is_done_puts_what_is_worth_nothing_and_warms_nothing() {
        let mut policy = Worth::new();
        let turn = policy.begin(1);
        let done = policy.insert(turn, 0, Reuse::Done);
        let first = policy.insert(turn, 0, Reuse::Unknown);
        assert_eq!((policy.value(done, 0), policy.used(turn, 0, first, Reuse::Done, (1, 0))), (0, first));
        assert!(policy.value(first, 0) > 0 && policy.used(turn, 0, done, Reuse::Unknown, (1, 0)) != done);
    }

    /// A few chains come back every half a minute, many never do. Worth learns it, leads, and takes no more memory than a shard sets apart.
    #[test]
    fn what_comes_back_is_found_out_and_worth_decides() {
        let mut policy = Worth::new();
        policy.holds(20_000);
        let mut hot: Vec<Rank> = vec![COLDEST; 4000];
        let mut next = 1_000_000u64;
        for round in 0..60u64 {
            for chain in 0..40 {
                policy.passes(round * 30_000 + chain * 700);
                let turn = policy.begin(100);
                for depth in 0..100 {
                    let (name, at) = (chain * 100 + depth, (chain * 100 + depth) as usize);
                    hot[at] = match hot[at] {
                        COLDEST => policy.put(turn, &put(name, chain, depth as u32)),
                        rank => policy.used(turn, depth as u32, rank, Reuse::Unknown, (name, 0)),
                    };
                }
                let turn = policy.begin(600);
                for depth in 0..600 {
                    next += 1;
                    policy.put(turn, &put(next, next - u64::from(depth), depth));
                }
            }
        }
        assert!(!policy.gives_way(), "{:?}", policy.followed.saved());
        let once = policy.begin(1);
        let once = policy.put(once, &put(next + 1, next + 1, 0));
        assert!(policy.value(hot[0], 0) > policy.value(once, 0));
        assert!((policy.memory_bytes() as u64) < BYTES_MAX, "{}", policy.memory_bytes());
    }

    /// Thirty blocks that are used ten million times a second for two seconds.
    #[test]
    fn a_small_set_that_is_in_great_demand_is_learned_from_ten_times_a_second() {
        let mut policy = Worth::new();
        policy.holds(1000);
        let turn = policy.begin(30);
        let mut ranks: Vec<Rank> = (0..30).map(|name| policy.put(turn, &put(name, 1, name as u32))).collect();
        let mut begun = 0;
        for now_ms in 0..2000 {
            for (name, rank) in ranks.iter_mut().enumerate() {
                *rank = policy.used(turn, name as u32, *rank, Reuse::Unknown, (name as u64, 0));
            }
            policy.uses += 10_000;
            for _ in 0..100 {
                let was_idle = matches!(policy.fitting, Fitting::No);
                policy.passes(now_ms);
                begun += u32::from(was_idle && !matches!(policy.fitting, Fitting::No));
            }
        }
        assert!((15..=20).contains(&begun), "{begun}");
    }

    /// Each start was once counted as 257 prompts of a million blocks, by which one return of a real one was next to nothing for ten thousand requests.
    #[test]
    fn a_start_is_no_request_to_learn_from() {
        let mut policy = Worth::new();
        policy.starts(1 << 28);
        for _ in 0..100 {
            policy.begin(4);
        }
        assert!((1.0..=4.0).contains(&policy.prompt_of()), "{}", policy.prompt_of());
        let (old, turn) = (policy.found_again((1 << 28) - 1), policy.begin(1));
        let new = policy.insert(turn, 0, Reuse::Unknown);
        assert!(policy.value(new, 0) > policy.value(old, 0));
        assert!(policy.rank_in_dram(None, old) > 1 << 28);
    }

    /// Prompts that come back under one hint and never under another: nothing is expected before it was learned, then much of the one and little of the
    /// other, more of what was evicted and is wanted again, and asking changes nothing.
    #[test]
    fn what_is_expected_of_a_put_is_what_became_of_its_kind() {
        let mut policy = Worth::new();
        policy.holds(4000);
        let turn = policy.begin(4);
        assert_eq!(policy.expects(turn, &put(1, 1, 0), 600.0), None);
        let (mut now_ms, mut next) = (0, 0u64);
        for round in 0..400u64 {
            let mut ranks = Vec::new();
            for (of, hint) in [(0, Reuse::Tool), (1, Reuse::Turn)] {
                let turn = policy.begin(4);
                for depth in 0..4 {
                    next += 1;
                    let put = Put { hint, ..put(next, 2 * round + of, depth) };
                    ranks.push((policy.put(turn, &put), next, hint));
                }
            }
            for _ in 0..80 {
                now_ms += 250;
                policy.passes(now_ms);
            }
            let turn = policy.begin(4);
            for (depth, (rank, name, _)) in ranks.iter().filter(|rank| rank.2 == Reuse::Tool).enumerate() {
                policy.used(turn, depth as u32, *rank, Reuse::Unknown, (*name, 0));
            }
        }
        let turn = policy.begin(4);
        let of = |put: Put| policy.expects(turn, &put, 600.0).expect("it has learned").chance;
        let new = put(next + 1, next + 1, 0);
        let (tool, person) = (of(Put { hint: Reuse::Tool, ..new }), of(Put { hint: Reuse::Turn, ..new }));
        assert!(tool > 0.9 && person < 0.2, "{tool} {person}");
        assert_eq!(of(Put { hint: Reuse::Turn, ..new }), person);
        assert!(policy.expects(turn, &Put { hint: Reuse::Tool, ..new }, 5.0).is_some_and(|soon| soon.chance < 0.5));
        let expected = policy.expects(turn, &Put { position: 60, parent: 9, ..new }, 600.0).expect("it has learned");
        assert_eq!(expected.chain_tokens, 64.0 * 16.0);
    }

    fn put(name: u64, chain: u64, depth: u32) -> Put {
        Put { depth, name, chain: chain + 1, position: depth, tokens: 16, bytes: 1 << 20, ..Put::default() }
    }
}
