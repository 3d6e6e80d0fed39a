//! A bucket that fills evenly, with bytes: the pace of scrub, and the write budget. Time is told to it.

use forebay_types::Millis;

/// So many bytes flow in within a period. What may be taken is what is in it; more may be taken all the same, and then it takes the longer to fill.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bucket {
    bytes: u64,
    period_ms: u64,
    /// It holds what flows in within this time, at most.
    holds_ms: u64,
    /// What is in it, in bytes times `period_ms`: exact at any rate. Below 0: what was taken in advance.
    level: i128,
    last: Millis,
}

impl Bucket {
    /// An empty one.
    pub(crate) fn new(now: Millis, bytes: u64, period_ms: u64, holds_ms: u64) -> Self {
        Bucket { bytes, period_ms: period_ms.max(1), holds_ms, level: 0, last: now }
    }

    /// What has flown in by now. A clock that goes back brings nothing.
    pub(crate) fn fill(&mut self, now: Millis) {
        self.pour(now.saturating_sub(self.last));
        self.last = self.last.max(now);
    }

    /// What flows in within so many milliseconds, at once.
    pub(crate) fn pour(&mut self, passed_ms: u64) {
        let of = |ms: u64| i128::from(ms) * i128::from(self.bytes);
        self.level = self.level.saturating_add(of(passed_ms)).min(of(self.holds_ms));
    }

    /// [`Self::fill`], and whether anything is in it then.
    pub(crate) fn has_some(&mut self, now: Millis) -> bool {
        self.fill(now);
        self.level > 0
    }

    pub(crate) fn take(&mut self, bytes: u64) {
        self.level -= i128::from(bytes) * i128::from(self.period_ms);
    }

    /// Whole bytes in it.
    pub(crate) fn left_bytes(&self) -> u64 {
        u64::try_from(self.whole_bytes()).unwrap_or(0)
    }

    /// Bytes that were taken in advance, rounded up.
    pub(crate) fn debt_bytes(&self) -> u64 {
        u64::try_from(self.whole_bytes().saturating_neg()).unwrap_or(0)
    }

    fn whole_bytes(&self) -> i128 {
        self.level.div_euclid(i128::from(self.period_ms.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_its_period_at_any_rate() {
        for (period_ms, pass_bytes, step) in [(3_600_000, 160 << 20, 4096), (1000, 1 << 40, 1 << 18), (10_000, 300, 1)]
        {
            let mut pace = Bucket::new(5, pass_bytes, period_ms, 250);
            let (mut now, mut passed) = (5, 0u64);
            while passed < pass_bytes {
                now += (period_ms / 10_000).clamp(1, 50);
                while pace.has_some(now) && passed < pass_bytes {
                    pace.take(step);
                    passed += step;
                }
            }
            let took = now - 5;
            assert!(took >= period_ms * 99 / 100 && took <= period_ms * 101 / 100 + 2, "{took} of {period_ms} ms");
        }
    }

    #[test]
    fn a_stop_is_not_made_up_for_and_a_debt_is_paid() {
        let mut pace = Bucket::new(0, 1_000_000, 1000, 250);
        assert!(!pace.has_some(0));
        let mut passed = 0;
        while pace.has_some(3_600_000) {
            pace.take(1000);
            passed += 1000;
        }
        assert_eq!(passed, 250_000, "a quarter of a second's worth after an hour");
        pace.take(500_000);
        assert!(!pace.has_some(3_600_499) && pace.has_some(3_600_501));
        pace.take(1_000_000);
        assert!(!pace.has_some(0) && !pace.has_some(3_600_501), "a clock that goes back earns nothing");
    }
}
