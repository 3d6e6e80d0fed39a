//! What a replay counts: hits, bytes, latencies.

use std::time::Duration;

use forebay_tokenomics::ReplayCount;
use forebay_types::Tier;

/// Buckets a factor of two: latencies are told to about 3 %.
const PER_OCTAVE_BITS: u32 = 5;
const BUCKETS: usize = 40 << PER_OCTAVE_BITS;

/// Latencies in buckets of equal ratio.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    /// Counts one.
    pub(crate) fn add(&mut self, took: Duration) {
        let bucket = bucket_of(took.as_nanos().min(u128::from(u64::MAX)) as u64).min(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// Adds another's.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.total += other.total;
    }

    /// How many.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency, in microseconds, that a share `q` does not exceed; 0 without any.
    pub(crate) fn quantile_us(&self, q: f64) -> f64 {
        let rank = (q * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return top_of(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// The bucket of a number of nanoseconds: exact below 64, then 32 a factor of two.
fn bucket_of(ns: u64) -> usize {
    let octave = (64 - ns.leading_zeros()).saturating_sub(PER_OCTAVE_BITS + 1);
    ((octave as usize) << PER_OCTAVE_BITS) + (ns >> octave) as usize
}

/// The largest number of nanoseconds of a bucket.
fn top_of(bucket: usize) -> u64 {
    let octave = (bucket >> PER_OCTAVE_BITS).saturating_sub(1);
    let base = (bucket - (octave << PER_OCTAVE_BITS)) as u64;
    ((base + 1) << octave) - 1
}

/// Verified hits by tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TierBlocks {
    /// From memory.
    pub(crate) dram: u64,
    /// From the drive.
    pub(crate) nvme: u64,
}

impl TierBlocks {
    /// Counts one.
    pub(crate) fn add(&mut self, tier: Tier) {
        match tier {
            Tier::Dram => self.dram += 1,
            Tier::Nvme => self.nvme += 1,
        }
    }
}

/// What fetching counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fetched {
    /// Blocks handed over, by tier.
    pub(crate) tiers: TierBlocks,
    /// Bytes handed over.
    pub(crate) bytes: u64,
    /// Bytes handed over that differ from what was put.
    pub(crate) wrong_bytes: u64,
    /// One a call.
    pub(crate) latencies: Latencies,
}

impl Fetched {
    /// Adds another's.
    pub(crate) fn merge(&mut self, other: &Fetched) {
        self.tiers.dram += other.tiers.dram;
        self.tiers.nvme += other.tiers.nvme;
        self.bytes += other.bytes;
        self.wrong_bytes += other.wrong_bytes;
        self.latencies.merge(&other.latencies);
    }
}

/// What a replay counted, request by request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Requests before the mark.
    pub(crate) before: ReplayCount,
    /// Requests from the mark on.
    pub(crate) after: ReplayCount,
    /// Everything fetched for requests.
    pub(crate) fetched: Fetched,
    /// GPU seconds of prefill saved.
    pub(crate) gpu_s_saved: f64,
    /// Blocks put and kept.
    pub(crate) put_blocks: u64,
    /// Their bytes.
    pub(crate) put_bytes: u64,
    /// Puts refused.
    pub(crate) refused: u64,
    /// Blocks matched and then missed.
    pub(crate) broken: u64,
    /// Time spent fetching and comparing.
    pub(crate) fetch_time: Duration,
}

impl Tally {
    /// All requests.
    pub(crate) fn all(&self) -> ReplayCount {
        let mut all = self.before;
        all.merge(&self.after);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_to_three_per_cent() {
        let mut latencies = Latencies::default();
        for us in 1..=10_000 {
            latencies.add(Duration::from_micros(us));
        }
        for (q, us) in [(0.5, 5000.0), (0.99, 9900.0), (0.999, 9990.0), (1.0, 10_000.0)] {
            let told = latencies.quantile_us(q);
            assert!((told / us - 1.0).abs() < 0.035, "{q}: {told}");
        }
        let mut twice = latencies.clone();
        twice.merge(&latencies);
        assert_eq!(twice.total(), 20_000);
        assert_eq!(twice.quantile_us(0.5), latencies.quantile_us(0.5));
    }

    #[test]
    fn buckets_rise_without_gaps_and_hold_what_they_say() {
        let mut last = 0;
        for ns in 0..100_000 {
            let bucket = bucket_of(ns);
            assert!(bucket == last || bucket == last + 1, "{ns}");
            assert!(ns <= top_of(bucket) && (bucket == 0 || ns > top_of(bucket - 1)), "{ns}");
            last = bucket;
        }
        let mut latencies = Latencies::default();
        latencies.add(Duration::from_secs(u64::MAX / 2));
        assert!(latencies.quantile_us(0.5) > 1e9);
        assert_eq!(Latencies::default().quantile_us(0.99), 0.0);
    }
}
