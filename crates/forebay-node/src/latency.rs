//! How long things took: counts in buckets that grow with the latency, so that a year of them takes as much memory as a second.

use crate::counters::Count;

/// Two buckets for each doubling, from 1 us to 67 s, which is over the longest deadline, and one for what is beyond.
pub(crate) const BUCKETS: usize = 53;

/// Counts of latencies. A percentile read from it is at most a third too high.
#[derive(Debug)]
pub(crate) struct Latency {
    buckets: [Count; BUCKETS],
    sum_us: Count,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { buckets: std::array::from_fn(|_| Count::default()), sum_us: Count::default() }
    }
}

impl Latency {
    pub(crate) fn took(&self, us: u64) {
        self.buckets[bucket(us)].add(1);
        self.sum_us.add(us);
    }
}

/// Several of them together, as they were a moment ago.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    pub(crate) buckets: [u64; BUCKETS],
    pub(crate) sum_us: u64,
}

impl Latencies {
    pub(crate) fn sum<'a>(of: impl Iterator<Item = &'a Latency>) -> Self {
        let mut all = Latencies { buckets: [0; BUCKETS], sum_us: 0 };
        for one in of {
            all.buckets.iter_mut().zip(&one.buckets).for_each(|(sum, count)| *sum += count.get());
            all.sum_us += one.sum_us.get();
        }
        all
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound under which so many of a thousand lie, in microseconds; 0 if there is none.
    pub(crate) fn per_mille(&self, share: u64) -> u64 {
        let wanted = (self.count() * share).div_ceil(1000);
        let mut seen = 0;
        let at = self.buckets.iter().position(|count| {
            seen += count;
            wanted > 0 && seen >= wanted
        });
        at.map_or(0, bound_us)
    }
}

/// Which bucket a latency falls in.
fn bucket(us: u64) -> usize {
    match us {
        0 | 1 => 0,
        2 => 1,
        us => {
            let doubling = (us - 1).ilog2();
            let half = (us - 1) >> (doubling - 1) & 1;
            (2 * doubling as usize + half as usize).min(BUCKETS - 1)
        }
    }
}

/// The largest latency of a bucket, in microseconds. The last one has none, and says the bound of the one before twice over.
pub(crate) fn bound_us(bucket: usize) -> u64 {
    let doubling = bucket / 2;
    match bucket {
        0 => 1,
        odd if odd % 2 == 1 => 2 << doubling,
        _ => 3 << (doubling - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_latency_is_under_its_bucket_s_bound_and_over_the_one_before() {
        for us in (0..10_000).chain([1 << 20, (1 << 20) + 1, 50_000_000, 67_108_864]) {
            let at = bucket(us);
            assert!(us <= bound_us(at), "{us} in {at}");
            assert!(at == 0 || us > bound_us(at - 1), "{us} in {at}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((1..BUCKETS).all(|at| bound_us(at) > bound_us(at - 1)));
    }

    #[test]
    fn percentiles_are_bounds_of_what_was_counted() {
        let (fast, slow) = (Latency::default(), Latency::default());
        (0..990).for_each(|_| fast.took(10));
        (0..10).for_each(|_| slow.took(5000));
        let all = Latencies::sum([&fast, &slow].into_iter());
        assert_eq!((all.count(), all.sum_us), (1000, 9900 + 50_000));
        assert_eq!(
            (all.per_mille(500), all.per_mille(990), all.per_mille(991), all.per_mille(1000)),
            (12, 12, 6144, 6144)
        );
        assert_eq!(Latencies::sum(std::iter::empty()).per_mille(500), 0);
    }
}
