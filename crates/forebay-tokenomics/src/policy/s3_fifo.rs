//! S3-FIFO (Yang and others, SOSP 2023) as ranks: what is used once leaves soon, what is used again stays for laps.
//!
//! The queues of the original are there as times. A block's rank is the moment, counted in items, at which it would reach the end of its queue: a
//! new one a tenth of the capacity from now (the small queue), one that comes back after it was evicted a whole capacity from now (the main queue),
//! and each use adds a lap of the main queue, up to three (the original's two bits of frequency). Whoever holds the blocks evicts the lowest rank,
//! which is the block whose time comes first. Nothing moves when time passes, so a shard pays four bytes a block, as for every policy.

use super::{COLDEST, Policy, Rank, Reuse, Turn};

/// Share of the capacity that blocks pass through which were used once.
const SMALL_SHARE: u32 = 10;
/// Laps of the main queue that uses may add up to.
const LAPS_MAX: u32 = 3;
/// Most blocks of capacity that count: four laps of them stay clear of a rebase.
const BLOCKS_MAX: u32 = 1 << 27;
/// Before anybody has said how much fits.
const BLOCKS_UNKNOWN: u32 = 1 << 16;
/// As for LRU: what is above the top by laps still fits below the end.
const REBASE_ABOVE: Rank = 5 << 29;
/// Ranks that keep their order through a rebase.
const KEPT: Rank = 1 << 30;
const ITEMS_MAX: u32 = 1 << 20;

/// S3-FIFO: scans pass by, what is used twice stays.
#[derive(Debug, Clone)]
pub struct S3Fifo {
    top: Rank,
    blocks: u32,
}

impl S3Fifo {
    /// Nothing used yet, and nothing known of the capacity.
    pub fn new() -> Self {
        // Far from zero, where differences would be cut off.
        S3Fifo { top: KEPT, blocks: BLOCKS_UNKNOWN }
    }

    fn small(&self) -> u32 {
        self.blocks / SMALL_SHARE
    }
}

impl Default for S3Fifo {
    fn default() -> Self {
        S3Fifo::new()
    }
}

impl Policy for S3Fifo {
    fn name(&self) -> &'static str {
        "s3-fifo"
    }

    fn begin(&mut self, items: u32) -> Turn {
        let tail = self.top.saturating_add(1);
        self.top = self.top.saturating_add(items.clamp(1, ITEMS_MAX));
        Turn { head: self.top, tail, moment: 0 }
    }

    fn insert(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank {
        match hint {
            Reuse::Done => COLDEST,
            // A session that waits comes back: no need to see it leave first.
            Reuse::Tool | Reuse::Turn => self.insert_again(turn, depth, hint),
            Reuse::Unknown | Reuse::Seconds(_) => turn.rank(depth).saturating_add(self.small()),
        }
    }

    fn insert_again(&mut self, turn: Turn, depth: u32, _hint: Reuse) -> Rank {
        turn.rank(depth).saturating_add(self.blocks)
    }

    fn touch(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse) -> Rank {
        if hint == Reuse::Done {
            return rank;
        }
        let now = turn.rank(depth);
        let lap = rank.max(now).saturating_add(self.blocks);
        lap.min(now.saturating_add(LAPS_MAX * self.blocks)).max(rank)
    }

    fn holds(&mut self, blocks: u64) {
        self.blocks = u32::try_from(blocks).unwrap_or(u32::MAX).clamp(SMALL_SHARE, BLOCKS_MAX);
    }

    fn rebase(&mut self) -> Option<u32> {
        if self.top <= REBASE_ABOVE {
            return None;
        }
        let less = self.top - KEPT;
        self.top = KEPT;
        Some(less)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(blocks: u64) -> S3Fifo {
        let mut policy = S3Fifo::new();
        policy.holds(blocks);
        policy
    }

    #[test]
    fn what_was_used_twice_outlives_what_came_later_and_was_used_once() {
        let mut policy = sized(1000);
        let turn = policy.begin(1);
        let once = policy.insert(turn, 0, Reuse::Unknown);
        let turn = policy.begin(1);
        let twice = policy.insert(turn, 0, Reuse::Unknown);
        let turn = policy.begin(1);
        let twice = policy.touch(turn, 0, twice, Reuse::Unknown);
        for _ in 0..900 {
            let turn = policy.begin(1);
            let scan = policy.insert(turn, 0, Reuse::Unknown);
            assert!(once < scan && scan < twice, "a scan passes by");
        }
        for _ in 0..200 {
            policy.begin(1);
        }
        let turn = policy.begin(1);
        assert!(policy.insert(turn, 0, Reuse::Unknown) > twice, "and not for ever");
        assert!(policy.insert_again(turn, 0, Reuse::Unknown) > policy.insert(turn, 0, Reuse::Unknown));
    }

    #[test]
    fn what_is_announced_to_come_back_is_not_taken_for_a_scan_and_who_is_done_is() {
        let mut policy = sized(1000);
        let turn = policy.begin(1);
        let rank = |policy: &mut S3Fifo, hint| policy.insert(turn, 0, hint);
        let plain = rank(&mut policy, Reuse::Unknown);
        assert!(rank(&mut policy, Reuse::Tool) > plain && rank(&mut policy, Reuse::Turn) > plain);
        assert!(rank(&mut policy, Reuse::Done) < plain);
        assert_eq!(policy.touch(turn, 0, plain, Reuse::Done), plain);
    }

    #[test]
    fn heads_rank_above_tails_and_uses_add_up_to_three_laps() {
        let mut policy = sized(1000);
        let turn = policy.begin(3);
        let mut ranks: Vec<Rank> = (0..3).map(|depth| policy.insert(turn, depth, Reuse::Unknown)).collect();
        for _ in 0..10 {
            assert!(ranks[0] > ranks[1] && ranks[1] > ranks[2]);
            let turn = policy.begin(3);
            for (depth, rank) in ranks.iter_mut().enumerate() {
                let next = policy.touch(turn, depth as u32, *rank, Reuse::Unknown);
                assert!(next >= *rank, "a use cools nothing");
                *rank = next;
            }
        }
        assert_eq!(ranks[0], policy.top + 3000);
    }

    #[test]
    fn ranks_keep_their_order_through_a_rebase() {
        let mut policy = S3Fifo { top: REBASE_ABOVE - 1, blocks: 1000 };
        let mut ranks = Vec::new();
        for _ in 0..4 {
            let turn = policy.begin(2);
            ranks.extend([policy.insert(turn, 1, Reuse::Unknown), policy.insert(turn, 0, Reuse::Unknown)]);
        }
        let less = policy.rebase().expect("ranks are near their end");
        ranks.iter_mut().for_each(|rank| *rank = rank.saturating_sub(less));
        let turn = policy.begin(1);
        ranks.push(policy.insert(turn, 0, Reuse::Unknown));
        assert!(ranks.windows(2).all(|w| w[0] < w[1]), "{ranks:?}");
        assert_eq!(policy.rebase(), None);
    }
}
