//! Repeatable chance: SplitMix64 (Steele, Lea, Flood 2014) and the few distributions a workload needs; and hashing without chance.

use std::hash::Hasher;

/// The finaliser of SplitMix64.
pub(crate) fn finish(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Where a name falls among all of them, without chance: names may be counters.
pub(crate) fn spread(name: u64) -> u64 {
    finish(name.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// Whether a name is in the sample of one in `2 ^ halvings`. A smaller sample is part of a larger one.
pub(crate) fn is_sampled(name: u64, halvings: u32) -> bool {
    halvings == 0 || spread(name) >> (64 - halvings) == 0
}

/// Numbers from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn new(seed: u64) -> Self {
        Seeded(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finish(self.0)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal, mean 0 and deviation 1 (Box-Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Log-normal with that median; `spread` is the deviation of its logarithm.
    pub(crate) fn around(&mut self, median: f64, spread: f64) -> f64 {
        median * (spread * self.normal()).exp()
    }
}

/// Ids are counters: one round of mixing suffices, and chance stays out.
#[derive(Default)]
pub(crate) struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = finish(self.0.wrapping_add(n).wrapping_add(0x9e37_79b9_7f4a_7c15));
    }
}
