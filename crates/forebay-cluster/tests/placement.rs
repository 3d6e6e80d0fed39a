//! What placement promises: the same answer everywhere, whatever the order; shares by weight; and no more moves than needed.

use forebay_cluster::Placement;
use forebay_types::{Entropy, SeededEntropy, ShardId};
use proptest::prelude::*;

fn shard(number: u64) -> ShardId {
    let mut bytes = [0; 16];
    SeededEntropy::new(number).fill(&mut bytes);
    ShardId(bytes)
}

fn placement(weights: &[u32]) -> Placement {
    Placement::new(weights.iter().enumerate().map(|(i, weight)| (shard(i as u64), *weight)).collect())
}

/// Shares of `tokens` keys, by index.
fn shares(placement: &Placement, tokens: u64) -> Vec<f64> {
    let mut counts = vec![0u64; placement.members().len()];
    for place in 0..tokens {
        let owner = placement.owner(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        counts[owner.expect("somebody has weight")] += 1;
    }
    counts.into_iter().map(|count| count as f64 / tokens as f64).collect()
}

#[test]
fn each_shard_owns_its_weights_share() {
    for weights in
        [vec![100; 4], vec![1000, 2000, 3000], vec![1, 1, 1, 1, 4], vec![u32::MAX, u32::MAX / 2, u32::MAX / 4]]
    {
        let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        // A million draws put a share of 1/8 within 0.3 % in the mean: 2 % would be six of that.
        for (share, weight) in shares(&placement(&weights), 1_000_000).iter().zip(&weights) {
            let ideal = f64::from(*weight) / sum;
            assert!((share / ideal - 1.0).abs() < 0.02, "weights {weights:?}: {share} of {ideal}");
        }
    }
}

#[test]
fn an_added_shard_takes_its_share_from_everybody_and_gives_nothing_to_the_others() {
    for n in [1usize, 2, 3, 7, 15] {
        let (before, after) = (placement(&vec![500; n]), placement(&vec![500; n + 1]));
        let mut moved = vec![0u64; n];
        let tokens = 200_000u64;
        for place in 0..tokens {
            let (old, new) = (before.owner(place).unwrap(), after.owner(place).unwrap());
            if old != new {
                assert_eq!(new, n, "a key moved between old shards");
                moved[old] += 1;
            }
        }
        let ideal = tokens as f64 / (n + 1) as f64;
        let all: u64 = moved.iter().sum();
        assert!((all as f64 / ideal - 1.0).abs() < 0.04, "{n} shards and one more: {all} moved, ideally {ideal}");
        for (from, count) in moved.into_iter().enumerate() {
            assert!((count as f64 / (ideal / n as f64) - 1.0).abs() < 0.2, "{n} shards: {count} moved from {from}");
        }
    }
}

#[test]
fn a_heavier_shard_only_gains() {
    let (before, after) = (placement(&[500, 500, 500]), placement(&[500, 700, 500]));
    for place in 0..100_000 {
        let (old, new) = (before.owner(place).unwrap(), after.owner(place).unwrap());
        assert!(old == new || new == 1, "{place} moved from {old} to {new}");
    }
}

#[test]
fn nobody_owns_anything_where_nobody_has_weight() {
    assert_eq!(Placement::new(Vec::new()).owner(7), None);
    let empty = placement(&[0, 0]);
    assert_eq!((empty.owner(7), empty.owner_shard(7), empty.ranked(7, 3)), (None, None, Vec::new()));
    assert!((0..1000).all(|place| placement(&[0, 5, 0]).owner(place) == Some(1)));
}

#[test]
fn a_shard_that_stands_there_twice_counts_once() {
    let once = Placement::new(vec![(shard(1), 10), (shard(2), 10)]);
    let twice = Placement::new(vec![(shard(1), 10), (shard(2), 10), (shard(1), 900)]);
    assert!((0..1000).all(|place| once.owner(place) == twice.owner(place)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_order_of_the_table_does_not_matter(
        table in prop::collection::btree_map(any::<[u8; 16]>(), any::<u32>(), 1..20).prop_map(|map| map.into_iter().collect::<Vec<_>>()),
        shuffled in any::<prop::sample::Index>(),
        places in prop::collection::vec(any::<u64>(), 50),
    ) {
        let table: Vec<_> = table.into_iter().map(|(id, weight)| (ShardId(id), weight)).collect();
        let mut other = table.clone();
        other.rotate_left(shuffled.index(table.len()));
        other.reverse();
        let (a, b) = (Placement::new(table), Placement::new(other));
        for place in places {
            prop_assert_eq!(a.owner_shard(place), b.owner_shard(place));
            let name = |p: &Placement| p.ranked(place, 3).into_iter().map(|i| p.members()[i].shard).collect::<Vec<_>>();
            prop_assert_eq!(name(&a), name(&b));
            prop_assert_eq!(a.ranked(place, 1).first().copied(), a.owner(place));
        }
    }

    #[test]
    fn a_shard_that_leaves_gives_away_only_its_own(
        weights in prop::collection::vec(1u32..100_000, 2..12),
        leaver in any::<prop::sample::Index>(),
        places in prop::collection::vec(any::<u64>(), 100),
    ) {
        let before = placement(&weights);
        let leaver = leaver.index(weights.len());
        let mut left = weights.clone();
        left[leaver] = 0;
        let after = placement(&left);
        for place in places {
            let ranked = before.ranked(place, 2);
            let expected = if ranked[0] == leaver { ranked[1] } else { ranked[0] };
            prop_assert_eq!(after.owner(place), Some(expected), "the next in rank inherits");
        }
    }
}

/// The table of `docs/placement.md`, computed apart from this code in another language with floating point. These answers never change: a client and a node of different builds must agree.
const GOLDEN: [(u64, [usize; 4]); 12] = [
    (0x0000_0000_0000_0000, [1, 2, 0, 3]),
    (0x0000_0000_0000_0001, [2, 0, 1, 3]),
    (0x0000_0000_0000_0002, [2, 0, 1, 3]),
    (0x8000_0000_0000_0000, [1, 3, 2, 0]),
    (0xffff_ffff_ffff_ffff, [2, 0, 1, 3]),
    (0x0123_4567_89ab_cdef, [2, 1, 0, 3]),
    (0xfedc_ba98_7654_3210, [2, 0, 1, 3]),
    (0x5555_5555_5555_5555, [2, 1, 3, 0]),
    (0xaaaa_aaaa_aaaa_aaaa, [2, 0, 1, 3]),
    (0x0000_0001_0000_0000, [0, 1, 2, 3]),
    (0x9e37_79b9_7f4a_7c15, [1, 2, 0, 3]),
    (0x466f_7265_6261_7931, [1, 0, 2, 3]),
];

#[test]
fn the_golden_vectors_hold() {
    let member = |byte: u8, weight| (ShardId(std::array::from_fn(|i| byte + i as u8)), weight);
    let placement = Placement::new(vec![member(0x00, 1024), member(0x10, 1024), member(0x20, 2048), member(0xf0, 300)]);
    let found: Vec<_> = GOLDEN.iter().map(|(place, _)| (*place, placement.ranked(*place, 4))).collect();
    let listed =
        found.iter().map(|(place, ranks)| format!("({place:#018x}, {ranks:?})")).collect::<Vec<_>>().join("\n");
    let golden: Vec<_> = GOLDEN.iter().map(|(place, ranks)| (*place, ranks.to_vec())).collect();
    assert_eq!(found, golden, "found:\n{listed}");

    // One number over ten thousand tokens, so that no corner hides between the vectors above.
    let mut digest = 0u64;
    for step in 0..10_000u64 {
        let place = step.wrapping_mul(0xd134_2543_de82_ef95);
        let owner = placement.owner(place).unwrap() as u64;
        digest = (digest ^ owner).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
    }
    assert_eq!(digest, 0xdf3d_0d26_18c6_a78a, "found {digest:#018x}");
}
