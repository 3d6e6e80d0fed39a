//! What is cold, and in which order: a sample of the values of what is held.
//!
//! A policy says of two blocks which is worth more, and of most only that matters here: whatever is hot is written again when its segment is emptied, so what
//! is lost by it is a write, and that costs the same for all. So a block counts for its place among the cold, and for no more than the last of them. A few
//! blocks that everybody uses then keep no segment of cold ones for ever, and nothing has to be known of what values mean.

use forebay_tokenomics::cleaning::COLD_SHARE;

/// Values in a sample: enough to tell a hundredth of what is held, and sorted within a turn.
pub(crate) const SAMPLED: usize = 1024;

/// The values of what is cold, ascending.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order {
    cold: Vec<u32>,
}

impl Order {
    /// By a sample of values.
    pub(crate) fn of(mut values: Vec<u32>) -> Self {
        values.sort_unstable();
        values.truncate(values.len() * COLD_SHARE.0 / COLD_SHARE.1);
        Order { cold: values }
    }

    /// False before there was anything to sample: all count the same.
    pub(crate) fn is_known(&self) -> bool {
        !self.cold.is_empty()
    }

    /// What a block of that value counts for.
    pub(crate) fn count(&self, value: u32) -> u32 {
        1 + self.cold.partition_point(|cold| *cold < value) as u32
    }

    /// The value above which a block is hot; 0 before anything is known.
    pub(crate) fn least_hot(&self) -> u32 {
        self.cold.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cold_count_for_their_place_and_the_hot_all_the_same() {
        let order = Order::of((0..1000).rev().map(|value| 5 * value).collect());
        assert_eq!((order.least_hot(), order.count(0), order.count(500), order.count(501)), (995, 1, 101, 102));
        assert_eq!([995, 996, 3000, u32::MAX].map(|value| order.count(value)), [200, 201, 201, 201]);
    }

    #[test]
    fn before_anything_is_known_all_count_the_same() {
        let order = Order::default();
        assert!(!order.is_known());
        assert_eq!((order.count(0), order.count(u32::MAX)), (1, 1));
    }
}
