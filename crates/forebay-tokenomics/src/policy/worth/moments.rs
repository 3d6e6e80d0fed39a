//! Time in 14 bits: moments are counted by use and by the second, whichever comes first, and remember when they were.
//!
//! Seconds alone would not tell apart what a small cache on a busy drive sees within one of them; uses alone would not tell a night from a minute.

use super::bits::MOMENT_MAX;

/// A moment lasts so long at most, in milliseconds, while anything is used.
const LASTS_MS: u64 = 4_000;
/// Moments that pass while as many blocks are used as fit.
const IN_A_LAP: u64 = 1024;
/// Moments that are told apart before older ones look like the oldest of these. Ranks are renewed before twice as many have passed.
const TOLD_APART: u16 = 1 << 13;

/// The moments that have been.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    /// When each began, in sixteenths of a second.
    begun: Vec<u32>,
    now: u16,
    now_ms: u64,
    /// Uses in the moment that is, and in any before it ends.
    uses: u64,
    uses_max: u64,
    since_ms: u64,
    /// Moments since ranks were renewed.
    unrenewed: u32,
}

impl Moments {
    pub(super) fn new() -> Self {
        Moments {
            begun: vec![0; usize::from(MOMENT_MAX) + 1],
            // What a start finds again is put into moments before it.
            now: FOUND_MOMENTS + 1,
            now_ms: 0,
            uses: 0,
            uses_max: 1,
            since_ms: 0,
            unrenewed: 0,
        }
    }

    /// So many blocks fit.
    pub(super) fn holds(&mut self, blocks: u64) {
        self.uses_max = (blocks / IN_A_LAP).max(1);
    }

    pub(super) fn passes(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Blocks are about to be used. Gives the moment.
    pub(super) fn begin(&mut self, uses: u32) -> u16 {
        if self.uses >= self.uses_max || self.now_ms >= self.since_ms + LASTS_MS {
            // 0 is nobody's.
            self.now = if self.now == MOMENT_MAX { 1 } else { self.now + 1 };
            self.begun[usize::from(self.now)] = sixteenths(self.now_ms);
            (self.uses, self.since_ms) = (0, self.now_ms);
            self.unrenewed += 1;
        }
        self.uses += u64::from(uses);
        self.now
    }

    /// Moments since.
    pub(super) fn since(&self, moment: u16) -> u16 {
        match self.now.checked_sub(moment) {
            Some(since) => since,
            // Round the end, without 0.
            None => self.now + (MOMENT_MAX - moment),
        }
    }

    /// Seconds since the beginning of a moment.
    pub(super) fn age_s(&self, moment: u16) -> f64 {
        let begun = self.begun[usize::from(moment & MOMENT_MAX)];
        f64::from(sixteenths(self.now_ms).saturating_sub(begun)) / 16.0
    }

    /// Whether ranks must be renewed soon, or old moments look like new ones.
    pub(super) fn is_unrenewed(&self) -> bool {
        self.unrenewed > u32::from(TOLD_APART) / 2
    }

    pub(super) fn renewing(&mut self) {
        self.unrenewed = 0;
    }

    /// The moment, or the oldest that is told apart.
    pub(super) fn renewed(&self, moment: u16) -> u16 {
        if self.since(moment) <= TOLD_APART { moment } else { back(self.now, TOLD_APART) }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.begun.capacity() * size_of::<u32>()
    }
}

/// Moments for what a start finds.
pub(super) const FOUND_MOMENTS: u16 = 1024;

/// So many moments before.
fn back(moment: u16, moments: u16) -> u16 {
    match moment.checked_sub(moments) {
        Some(before @ 1..) => before,
        _ => MOMENT_MAX - (moments - moment),
    }
}

fn sixteenths(ms: u64) -> u32 {
    u32::try_from(ms.saturating_mul(2) / 125).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_pass_with_uses_and_with_time_and_remember_when_they_were() {
        let mut moments = Moments::new();
        moments.holds(10 * IN_A_LAP);
        let first = moments.begin(10);
        assert_eq!((moments.begin(10), moments.begin(1)), (first + 1, first + 2));
        moments.passes(60_000);
        assert_eq!(moments.begin(1), first + 3);
        assert_eq!((moments.since(first), moments.age_s(first + 3)), (3, 0.0));
        assert!((moments.age_s(first) - 60.0).abs() < 1.0);
    }

    #[test]
    fn round_the_end_older_stays_older_and_what_is_too_old_is_as_old_as_can_be() {
        let mut moments = Moments::new();
        let mut ranks = vec![moments.begin(1)];
        for n in 0..200_000u64 {
            moments.passes(n * 100);
            let moment = moments.begin(1);
            assert_ne!(moment, 0);
            if moments.is_unrenewed() {
                moments.renewing();
                ranks.iter_mut().for_each(|old| *old = moments.renewed(*old));
            }
            if n % 5000 == 0 {
                ranks.push(moment);
            }
            assert!(ranks.windows(2).all(|two| moments.since(two[0]) >= moments.since(two[1])), "{n}");
        }
        assert!(moments.age_s(ranks[0]) > 700.0);
        assert_eq!(back(3, 3), MOMENT_MAX);
        assert_eq!(back(3, 2), 1);
    }
}
