//! A namespace's quota, shared out over the node's shards: what they may hold together never exceeds it.
//!
//! Each shard keeps to its own part and asks nobody, so a put costs no word between shards. Parts go by weight, as keys do: with many blocks all shards
//! fill at about the same time. The price is the rest that a shard may have left while another refuses.

/// A shard, as its part of a quota is reckoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    /// What placement weighs it by; not 0.
    pub(crate) weight: u32,
    /// Bytes of the namespace that it holds and may not drop: 0 for a cache.
    pub(crate) held: u64,
}

/// What each shard may hold of `quota` bytes.
///
/// The bound: the sum over shards of the larger of part and `held` is at most `quota`, unless more than that is held already. So a shard that is over its
/// part, because drives have been added since it took its blocks, takes none until it is below, and the others share what is left. Parts are reckoned anew
/// at each start.
pub(crate) fn parts(quota: u64, holders: &[Holder]) -> Vec<u64> {
    let plain = split(quota, holders, |_| true);
    let mut over = vec![false; holders.len()];
    // Each round finds a shard more, or is the last.
    let parts = loop {
        let kept: u64 = holders.iter().zip(&over).filter(|(_, over)| **over).map(|(holder, _)| holder.held).sum();
        let rest = split(quota.saturating_sub(kept), holders, |at| !over[at]);
        let more: Vec<usize> = (0..holders.len()).filter(|at| !over[*at] && holders[*at].held > rest[*at]).collect();
        if more.is_empty() {
            break rest;
        }
        more.into_iter().for_each(|at| over[at] = true);
    };
    let part = |at: usize| if over[at] { plain[at].min(holders[at].held) } else { parts[at] };
    // A row of 0 would read as no quota to whoever looks at it by eye; no block fits in a byte either.
    (0..holders.len()).map(|at| part(at).max(1)).collect()
}

/// Splits by weight among those that are `in_it`, rounded down.
fn split(bytes: u64, holders: &[Holder], in_it: impl Fn(usize) -> bool) -> Vec<u64> {
    let weight = |at: usize| if in_it(at) { u128::from(holders[at].weight) } else { 0 };
    let total = (0..holders.len()).map(weight).sum::<u128>().max(1);
    // No larger than `bytes`, as no weight is larger than their sum.
    (0..holders.len()).map(|at| (u128::from(bytes) * weight(at) / total) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(all: &[(u32, u64)]) -> Vec<Holder> {
        all.iter().map(|(weight, held)| Holder { weight: *weight, held: *held }).collect()
    }

    #[test]
    fn parts_go_by_weight_and_never_add_up_to_more() {
        assert_eq!(parts(1000, &holders(&[(7, 0)])), [1000]);
        assert_eq!(parts(1000, &holders(&[(1, 0), (1, 0), (2, 0)])), [250, 250, 500]);
        assert_eq!(parts(1000, &holders(&[(1, 0), (1, 0), (1, 0)])), [333, 333, 333]);
        assert_eq!(parts(u64::MAX, &holders(&[(u32::MAX, 0), (u32::MAX, 0)])), [u64::MAX / 2, u64::MAX / 2]);
        assert_eq!(parts(2, &holders(&[(1, 0), (1, 0), (1, 0)])), [1, 1, 1], "a byte holds no block");
    }

    #[test]
    fn what_is_held_already_is_taken_off_what_the_others_get() {
        // A full shard gets a neighbour: the quota is used up.
        assert_eq!(parts(1000, &holders(&[(1, 1000), (1, 0)])), [500, 1]);
        // Half as full over its part: the neighbours have the rest.
        assert_eq!(parts(1000, &holders(&[(1, 700), (1, 0), (2, 0)])), [250, 100, 200]);
        // Taking it off brings another one over.
        assert_eq!(parts(1000, &holders(&[(1, 700), (1, 150), (2, 0)])), [250, 150, 150]);
        // More is held than the quota, from a build that did not share out: nothing more comes.
        assert_eq!(parts(1000, &holders(&[(1, 1000), (1, 1000), (1, 0)])), [333, 333, 1]);
    }

    #[test]
    fn the_bound_holds_for_whatever_is_held() {
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = |below: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 33) % below
        };
        for _ in 0..10_000 {
            let shards = 1 + next(8);
            let quota = 10_000 + next(1 << 40);
            let most = quota / shards;
            let all: Vec<Holder> =
                (0..shards).map(|_| Holder { weight: 1 + next(1000) as u32, held: next(2) * next(most) }).collect();
            let parts = parts(quota, &all);
            let most: u64 = parts.iter().zip(&all).map(|(part, holder)| holder.held.max(*part)).sum();
            // A byte where nothing is left.
            assert!(most <= quota + shards, "{quota} {all:?} {parts:?}");
        }
    }
}
