//! Least recently used: the rank is the time of the last use, in steps that keep the head of a batch above its tail.

use super::{COLDEST, Policy, Rank, Reuse, Turn};

/// Ranks go up to here before a rebase is asked for: a quarter is left for the turns of callers that are slow to ask.
const REBASE_ABOVE: Rank = 3 << 30;
/// Ranks that keep their order through a rebase: more items than any index holds.
const KEPT: Rank = 1 << 30;
/// Most ranks one turn may spend: no message has more keys than this, and no caller can burn the ranks in one call.
const ITEMS_MAX: u32 = 1 << 20;

/// Least recently used: a use ranks above all earlier ones, but for one by somebody who is done with the block.
#[derive(Debug, Clone, Default)]
pub struct Lru {
    top: Rank,
}

impl Lru {
    /// Nothing used yet.
    pub fn new() -> Self {
        Lru { top: 0 }
    }

    /// The highest rank given so far.
    pub(super) fn top(&self) -> Rank {
        self.top
    }

    #[cfg(test)]
    pub(crate) fn aged(top: Rank) -> Self {
        Lru { top }
    }
}

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn begin(&mut self, items: u32) -> Turn {
        // Saturating: a caller that never rebases gets equal ranks at the end of the scale, never a wrap from hottest to coldest.
        let tail = self.top.saturating_add(1);
        self.top = self.top.saturating_add(items.clamp(1, ITEMS_MAX));
        Turn { head: self.top, tail, moment: 0 }
    }

    fn insert(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank {
        if hint == Reuse::Done { COLDEST } else { turn.rank(depth) }
    }

    fn touch(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse) -> Rank {
        if hint == Reuse::Done {
            return rank;
        }
        // A slow request may touch a block that a later one has used since: it must not grow colder by being used.
        turn.rank(depth).max(rank)
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

    #[test]
    fn heads_of_a_request_outlive_its_tails_and_all_outlive_earlier_requests() {
        let mut lru = Lru::new();
        let first = lru.begin(3);
        let old: Vec<Rank> = (0..3).map(|d| lru.insert(first, d, Reuse::Unknown)).collect();
        let second = lru.begin(2);
        // The order of the calls does not matter.
        let tail = lru.insert(second, 1, Reuse::Unknown);
        let head = lru.touch(second, 0, old[2], Reuse::Turn);
        assert!(old[0] > old[1] && old[1] > old[2]);
        assert!(head > tail && tail > old[0]);
    }

    #[test]
    fn who_is_done_puts_the_coldest_and_warms_nothing() {
        let mut lru = Lru::new();
        let turn = lru.begin(1);
        let first = lru.insert(turn, 0, Reuse::Unknown);
        let turn = lru.begin(1);
        assert!(lru.insert(turn, 0, Reuse::Done) < first);
        assert_eq!(lru.touch(turn, 0, first, Reuse::Done), first, "others may share it: it grows no colder either");
        assert!(lru.touch(turn, 0, first, Reuse::Unknown) > first);
    }

    #[test]
    fn a_key_deeper_than_announced_stays_above_earlier_requests() {
        let mut lru = Lru::new();
        let first = lru.begin(1);
        let old = lru.insert(first, 0, Reuse::Unknown);
        let turn = lru.begin(0);
        assert!(lru.insert(turn, 70_000, Reuse::Unknown) > old);
    }

    #[test]
    fn a_slow_request_does_not_cool_a_block_used_since() {
        let mut lru = Lru::new();
        let slow = lru.begin(1);
        let quick = lru.begin(1);
        let rank = lru.insert(quick, 0, Reuse::Unknown);
        assert_eq!(lru.touch(slow, 0, rank, Reuse::Unknown), rank);
    }

    #[test]
    fn ranks_keep_their_order_through_a_rebase() {
        let mut lru = Lru::aged(REBASE_ABOVE - 1);
        let mut ranks = vec![7];
        for _ in 0..4 {
            let turn = lru.begin(2);
            ranks.extend([lru.insert(turn, 1, Reuse::Unknown), lru.insert(turn, 0, Reuse::Unknown)]);
        }
        let less = lru.rebase().expect("ranks are near their end");
        for rank in &mut ranks {
            *rank = rank.saturating_sub(less);
        }
        let turn = lru.begin(1);
        ranks.push(lru.insert(turn, 0, Reuse::Unknown));
        assert!(ranks.windows(2).all(|w| w[0] < w[1]), "{ranks:?}");
        assert_eq!(ranks[0], 0);
        assert_eq!(lru.rebase(), None);
    }

    #[test]
    fn without_a_rebase_ranks_stop_at_the_end_instead_of_wrapping() {
        let mut lru = Lru::aged(Rank::MAX - 1);
        let turn = lru.begin(4096);
        assert_eq!(lru.insert(turn, 0, Reuse::Unknown), Rank::MAX);
        let turn = lru.begin(4096);
        assert_eq!(lru.insert(turn, 5, Reuse::Unknown), Rank::MAX);
    }
}
