//! What a get would take now: learned from the gets there were, by tier and size.
//!
//! For each tier there is one expectation for each power of two of a call's bytes: how long such calls have taken lately. So fixed costs of small calls and
//! bandwidth of large ones are both in it, and so is whatever queues at the node while it serves others: recent calls have waited in it as well. The
//! queue of this very moment shows in the question itself, which takes the same way as a get. Decides and does nothing; time comes in as numbers.

use forebay_types::Tier;

const TIERS: usize = Tier::ALL.len();
/// Powers of two of bytes, from one byte to beyond the largest call.
const SIZES: usize = 40;
/// How much a new call counts against all before it: the last dozen make most of an expectation.
const FRESH: f64 = 0.15;
/// Calls of a size after which what is expected of it is as sure as it gets.
const SURE_CALLS: f64 = 8.0;
/// One call changes an expectation by this factor at most: a stall is not the new speed.
const SWING_MAX: f64 = 4.0;
/// How long what the last question waited for says something about now.
const QUEUE_FRESH_US: u64 = 1_000_000;

/// What [`crate::NamespaceHandle::plan_fetch`] expects.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Plan {
    /// Seconds that a get of the keys would take, those that are not there left out.
    pub seconds: f64,
    /// Bytes that it would bring, by [`Tier`] (`Tier::index`). A namespace's blocks are taken to be as long as they have been.
    pub tier_bytes: [u64; TIERS],
    /// Keys that it would not bring.
    pub missing: usize,
    /// How far to believe it, from 0 (nothing like it was ever fetched) to 1.
    pub confidence: f64,
}

/// What is known of a namespace's gets.
#[derive(Debug)]
pub(crate) struct Model {
    tiers: [[Size; SIZES]; TIERS],
    /// How long the question alone takes when nobody queues, in microseconds.
    look_us: f64,
    /// How long the last question queued, and when it was answered.
    queue_us: f64,
    looked_at_us: u64,
    /// Mean relative error of what was expected, lately.
    error: f64,
}

/// Calls of about one size from one tier.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    us: f64,
    bytes: f64,
    calls: f64,
}

impl Model {
    pub(crate) fn new() -> Model {
        Model { tiers: [[Size::default(); SIZES]; TIERS], look_us: 0.0, queue_us: 0.0, looked_at_us: 0, error: 0.0 }
    }

    /// A call brought these bytes and nothing was missed for want of time.
    pub(crate) fn learn(&mut self, tier_bytes: &[u64; TIERS], took_us: u64) {
        let took = (took_us as f64).max(1.0);
        let (expected, known) = self.expect(tier_bytes);
        if known > 0.0 {
            let error = (expected - took).abs() / took;
            self.error += FRESH * (error.min(1.0) - self.error);
        }
        let all: u64 = tier_bytes.iter().sum();
        for (tier, bytes) in tier_bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            let share = *bytes as f64 / all as f64;
            let own = self.one(tier, *bytes).map_or(took * share, |(us, _)| us);
            // What a mixed call took is split as it was expected to be.
            let target = if known > 0.0 { own * (took / expected).clamp(1.0 / SWING_MAX, SWING_MAX) } else { own };
            let size = &mut self.tiers[tier][index(*bytes)];
            let weight = if size.calls == 0.0 { 1.0 } else { FRESH.max(1.0 / (size.calls + 1.0)) };
            size.us += weight * (target - size.us);
            size.bytes += weight * (*bytes as f64 - size.bytes);
            size.calls = (size.calls + 1.0).min(SURE_CALLS);
        }
    }

    /// What a call would take that is asked for now, when asking what is there took `look_us`.
    pub(crate) fn plan(&mut self, tier_bytes: [u64; TIERS], missing: usize, look_us: u64, now_us: u64) -> Plan {
        self.looked(look_us, now_us);
        Plan { missing, ..self.foresee(tier_bytes, now_us) }
    }

    /// Somebody asked what is there, and was answered after so long.
    pub(crate) fn looked(&mut self, look_us: u64, now_us: u64) {
        let look = (look_us as f64).max(1.0);
        // The quickest answers are those that queued for nothing; slowly forgotten, should the way become longer for good.
        self.look_us = if self.look_us == 0.0 { look } else { look.min(self.look_us * 1.02) };
        (self.queue_us, self.looked_at_us) = ((look - 2.0 * self.look_us).max(0.0), now_us);
    }

    /// The same without a question of its own: with the queue that the last one stood in, if that was just now.
    pub(crate) fn foresee(&self, tier_bytes: [u64; TIERS], now_us: u64) -> Plan {
        let is_fresh = now_us.saturating_sub(self.looked_at_us) <= QUEUE_FRESH_US;
        let queue_us = if is_fresh { self.queue_us } else { 0.0 };
        let (expected, known) = self.expect(&tier_bytes);
        let us = if expected > 0.0 { expected + queue_us } else { 0.0 };
        Plan { seconds: us / 1e6, tier_bytes, missing: 0, confidence: known * (1.0 - self.error) }
    }

    /// Microseconds, and how sure they are.
    fn expect(&self, tier_bytes: &[u64; TIERS]) -> (f64, f64) {
        let (mut sum, mut sure) = (0.0, 1.0f64);
        for (tier, bytes) in tier_bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
            match self.one(tier, *bytes) {
                Some((us, known)) => (sum, sure) = (sum + us, sure.min(known)),
                None => sure = 0.0,
            }
        }
        (sum, sure)
    }

    /// Of one tier alone, from the nearest size that is known.
    fn one(&self, tier: usize, bytes: u64) -> Option<(f64, f64)> {
        let at = index(bytes);
        let known = self.tiers[tier].iter().enumerate().filter(|(_, size)| size.calls > 0.0);
        let (nearest, size) = known.min_by_key(|(other, _)| other.abs_diff(at))?;
        let ratio = bytes as f64 / size.bytes;
        // Larger calls go at the speed of this one. Smaller ones gain less than they are smaller: part of a call is no transfer.
        let us = if ratio >= 1.0 { size.us * ratio } else { size.us * ratio.sqrt().max(ratio) };
        let us = if nearest == at { size.us * ratio } else { us };
        Some((us, size.calls / SURE_CALLS / (1.0 + nearest.abs_diff(at) as f64)))
    }
}

fn index(bytes: u64) -> usize {
    (bytes.max(1).ilog2() as usize).min(SIZES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn dram(bytes: u64) -> [u64; TIERS] {
        let mut all = [0; TIERS];
        all[Tier::Dram.index()] = bytes;
        all
    }

    fn both(dram: u64, nvme: u64) -> [u64; TIERS] {
        let mut all = [0; TIERS];
        all[Tier::Dram.index()] = dram;
        all[Tier::Nvme.index()] = nvme;
        all
    }

    /// A node with 50 us a call and these bytes a microsecond.
    fn takes(all: &[u64; TIERS]) -> u64 {
        50 + all[Tier::Dram.index()] / 5000 + all[Tier::Nvme.index()] / 1000
    }

    #[test]
    fn what_was_never_fetched_is_not_believed() {
        let plan = Model::new().plan(dram(MIB), 3, 100, 0);
        assert_eq!((plan.confidence, plan.seconds, plan.missing), (0.0, 0.0, 3));
    }

    #[test]
    fn sizes_and_tiers_and_mixtures_are_learned() {
        let mut model = Model::new();
        for n in 0..400u64 {
            let bytes = (n * 7919 % 64 + 1) << 16;
            let asked = match n % 3 {
                0 => dram(bytes),
                1 => both(0, bytes),
                _ => both(bytes, bytes / 2 + 1),
            };
            model.learn(&asked, takes(&asked));
        }
        for asked in [dram(3 * MIB), both(0, MIB), both(2 * MIB, MIB), dram(65_536)] {
            let plan = model.plan(asked, 0, 100, 0);
            let ratio = plan.seconds * 1e6 / takes(&asked) as f64;
            assert!((0.75..1.25).contains(&ratio), "{asked:?}: {ratio}");
            assert!(plan.confidence > 0.5, "{plan:?}");
        }
    }

    #[test]
    fn one_stall_is_not_the_new_speed_and_a_new_speed_is_learned() {
        let mut model = Model::new();
        (0..50).for_each(|_| model.learn(&dram(MIB), 250));
        model.learn(&dram(MIB), 500_000);
        assert!(model.plan(dram(MIB), 0, 50, 0).seconds < 500e-6);
        (0..60).for_each(|_| model.learn(&dram(MIB), 1000));
        let seconds = model.plan(dram(MIB), 0, 50, 0).seconds;
        assert!((800e-6..1100e-6).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_question_that_queued_says_that_the_get_would_too() {
        let mut model = Model::new();
        (0..50).for_each(|_| model.learn(&dram(MIB), 250));
        for _ in 0..10 {
            model.plan(dram(MIB), 0, 40, 0);
        }
        let idle = model.plan(dram(MIB), 0, 40, 0).seconds;
        let busy = model.plan(dram(MIB), 0, 5040, 0).seconds;
        assert!(busy - idle > 4500e-6, "{idle} {busy}");
    }

    #[test]
    fn what_others_asked_just_now_tells_of_the_queue_and_is_soon_forgotten() {
        let mut model = Model::new();
        (0..50).for_each(|_| model.learn(&dram(MIB), 250));
        (0..10).for_each(|n| model.looked(40, n));
        let idle = model.foresee(dram(MIB), 10).seconds;
        model.looked(5040, 1000);
        let busy = model.foresee(dram(MIB), 2000).seconds;
        assert!(busy - idle > 4500e-6, "{idle} {busy}");
        assert!((model.foresee(dram(MIB), 1000 + QUEUE_FRESH_US + 1).seconds - idle).abs() < 1e-9);
    }
}
