//! Pace: how many bytes scrub may have passed by now. Time is told to it.

use forebay_types::Millis;

/// After a stop scrub makes up for so many milliseconds at most: it never comes in a burst.
const BURST_MS: u64 = 250;

/// A bucket that fills evenly, so that `pass_bytes` take `period_ms`.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    period_ms: u64,
    pass_bytes: u64,
    /// What may be passed, in bytes times `period_ms`: exact at any rate. Below 0: what was passed in advance.
    credit: i128,
    last: Millis,
}

impl Pace {
    /// Nothing may be passed yet.
    pub(crate) fn new(now: Millis, period_ms: u64, pass_bytes: u64) -> Self {
        Pace { period_ms: period_ms.max(1), pass_bytes, credit: 0, last: now }
    }

    /// True when something may be passed now. It is paid for by [`Self::pay`], and may cost more than there is: then the next waits the longer.
    pub(crate) fn may_go(&mut self, now: Millis) -> bool {
        let passed_ms = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        let earned = i128::from(passed_ms) * i128::from(self.pass_bytes);
        let most = i128::from(BURST_MS) * i128::from(self.pass_bytes);
        self.credit = self.credit.saturating_add(earned).min(most);
        self.credit > 0
    }

    pub(crate) fn pay(&mut self, bytes: u64) {
        self.credit -= i128::from(bytes) * i128::from(self.period_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_takes_its_period_at_any_rate() {
        for (period_ms, pass_bytes, step) in [(3_600_000, 160 << 20, 4096), (1000, 1 << 40, 1 << 18), (10_000, 300, 1)]
        {
            let mut pace = Pace::new(5, period_ms, pass_bytes);
            let (mut now, mut passed) = (5, 0u64);
            while passed < pass_bytes {
                now += (period_ms / 10_000).clamp(1, 50);
                while pace.may_go(now) && passed < pass_bytes {
                    pace.pay(step);
                    passed += step;
                }
            }
            let took = now - 5;
            assert!(took >= period_ms * 99 / 100 && took <= period_ms * 101 / 100 + 2, "{took} of {period_ms} ms");
        }
    }

    #[test]
    fn a_stop_is_not_made_up_for_and_a_debt_is_paid() {
        let mut pace = Pace::new(0, 1000, 1_000_000);
        assert!(!pace.may_go(0));
        let mut passed = 0;
        while pace.may_go(3_600_000) {
            pace.pay(1000);
            passed += 1000;
        }
        assert_eq!(passed, 250_000, "a quarter of a second's worth after an hour");
        pace.pay(500_000);
        assert!(!pace.may_go(3_600_499) && pace.may_go(3_600_501));
        pace.pay(1_000_000);
        assert!(!pace.may_go(0) && !pace.may_go(3_600_501), "a clock that goes back earns nothing");
    }
}
