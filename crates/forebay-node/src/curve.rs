//! What half of the capacity, the capacity there is, and twice as much would find: the shards' curves, weighed by what each was asked.

use crate::board::Board;

/// Names of the capacities in [`found`].
pub(crate) const CAPACITIES: [&str; 3] = ["half", "now", "twice"];

/// Shares of what was asked for of late that LRU would find; nothing before anything was asked.
pub(crate) fn found(board: &Board) -> [Option<f64>; 3] {
    weighed(board.shards.iter().map(|shard| {
        let stats = shard.stats();
        (stats.curve_asked, stats.curve_found_ppm)
    }))
}

fn weighed(shards: impl Iterator<Item = (u64, [u64; 3])>) -> [Option<f64>; 3] {
    let (mut asked, mut found) = (0.0, [0.0; 3]);
    for (weight, ppm) in shards {
        asked += weight as f64;
        found.iter_mut().zip(ppm).for_each(|(sum, ppm)| *sum += weight as f64 * ppm as f64 / 1e6);
    }
    found.map(|found| (asked > 0.0).then(|| found / asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_count_by_what_they_were_asked() {
        assert_eq!(weighed([].into_iter()), [None; 3]);
        let two = [(300, [100_000, 200_000, 400_000]), (100, [500_000, 600_000, 800_000]), (0, [1_000_000; 3])];
        assert_eq!(weighed(two.into_iter()), [Some(0.2), Some(0.3), Some(0.5)]);
    }
}
