//! Whether a shard that has nothing to do looks again at once or sleeps.
//!
//! Waking a sleeping core was measured at 25 us, as much as a small get takes in all, and each sleep beside an operation of the drive pays it
//! once more. So the thread goes on looking while it was worth that lately, and gives its core away between two looks: the client that
//! it waits for may well be waiting for this very core, and a spin that did not yield to it was a get of four times the length.

/// What a wait will end with, as far as the shard knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Somebody asks.
    Asked,
    /// The drive answers.
    Drive,
}

/// Longest spin, in microseconds, by what it is for: a client that goes on asks within the first, a drive answers a small read within the
/// second. Past it a wake-up is a small part of the wait.
const SPIN_US_MAX: [u64; 2] = [50, 150];

/// Votes count this far in either direction, so that a change of load is learned within as many waits.
const SCORE_MAX: i32 = 8;

/// Longer away than this, in microseconds, and somebody else uses the core, who gets it whole if we sleep: and we then get it back sooner.
const STOLEN_US: u64 = 500;

/// So many waits that would have been short make good for one time the core was stolen.
const STOLEN_SCORE: i32 = -64;

/// Learns what spinning was worth.
#[derive(Debug, Default)]
pub(crate) struct Spin {
    waits: Option<For>,
    scores: [i32; 2],
}

impl Spin {
    /// Whether to look again without sleeping, `idle_us` after the last work. `reading`: the drive works for us.
    pub(crate) fn goes_on(&mut self, reading: bool, idle_us: u64) -> bool {
        let what = *self.waits.get_or_insert(if reading { For::Drive } else { For::Asked }) as usize;
        self.scores[what] > 0 && idle_us < SPIN_US_MAX[what]
    }

    /// There is work, `idle_us` after the last. Half as long again still votes for spinning: who slept has paid for waking.
    pub(crate) fn worked(&mut self, idle_us: u64) {
        let Some(what) = self.waits.take() else { return };
        let what = what as usize;
        let vote = if idle_us < SPIN_US_MAX[what] * 3 / 2 { 1 } else { -1 };
        let score = self.scores[what];
        // A score below the range climbs back; it is not lifted there.
        self.scores[what] = (score + vote).min(SCORE_MAX).max(score.min(-SCORE_MAX));
    }

    /// A look took `away_us`.
    pub(crate) fn looked(&mut self, away_us: u64) {
        if away_us > STOLEN_US {
            self.scores = [STOLEN_SCORE; 2];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_speak_for_spinning_and_long_ones_against() {
        let mut spin = Spin::default();
        assert!(!spin.goes_on(false, 1), "nothing is known yet");
        spin.worked(20);
        assert!(spin.goes_on(false, 1));
        assert!(!spin.goes_on(false, SPIN_US_MAX[0]), "not longer than the ceiling");
        spin.worked(20);
        for _ in 0..2 * SCORE_MAX {
            spin.goes_on(false, 1);
            spin.worked(10_000);
        }
        assert!(!spin.goes_on(false, 1));
        spin.worked(20);
        for _ in 0..SCORE_MAX {
            spin.goes_on(false, 1);
            spin.worked(20);
        }
        assert!(spin.goes_on(false, 1));
    }

    #[test]
    fn a_wait_for_the_drive_is_learned_apart() {
        let mut spin = Spin::default();
        spin.goes_on(true, 1);
        spin.worked(100);
        assert!(spin.goes_on(true, 100));
        spin.worked(100);
        assert!(!spin.goes_on(false, 1));
    }

    #[test]
    fn a_core_that_others_use_is_left_to_them() {
        let mut spin = Spin::default();
        spin.goes_on(true, 1);
        spin.worked(100);
        spin.looked(3000);
        let mut sleeps = 0;
        while !spin.goes_on(true, 1) {
            spin.worked(100);
            sleeps += 1;
        }
        assert!(sleeps >= 60, "tried again after {sleeps}");
    }
}
