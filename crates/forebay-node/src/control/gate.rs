//! What strangers may cost: a listener rests when those whom it lets in come to nothing too often.
//!
//! Taking a connection, reading what is no `Hello` and closing it costs some 30 us. Whoever does that in a loop would have the control thread use a whole
//! core, which the shards then lack. At rest, connections wait in the kernel's queue: who connects again and again waits there for the others of
//! its kind, and uses no CPU either. Connections that were let in notice nothing.

/// Strangers that come to nothing one after the other before the listener rests: a port scan, a crowd of health checks.
const BURST: i64 = 128;

/// Past that, one so often, in microseconds: a core spends some 6 % on them.
const EACH_US: u64 = 500;

/// A listener's patience.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// Strangers that may still come to nothing. Those that are inside already can make it negative.
    left: i64,
    /// When `left` was last made up for the time that passed.
    since_us: u64,
    #[cfg(test)]
    mutant: Option<crate::mutant::Mutant>,
}

impl Gate {
    pub(super) fn new(now_us: u64) -> Gate {
        Gate {
            left: BURST,
            since_us: now_us,
            #[cfg(test)]
            mutant: None,
        }
    }

    /// Somebody came to nothing. True: from here on it rests.
    pub(super) fn stray(&mut self, now_us: u64) -> bool {
        let was_open = self.is_open(now_us);
        self.left -= 1;
        was_open && self.left <= 0
    }

    /// Whether the next may come in.
    pub(super) fn is_open(&mut self, now_us: u64) -> bool {
        let made_up = now_us.saturating_sub(self.since_us) / EACH_US;
        self.since_us += made_up * EACH_US;
        self.left = self.left.saturating_add_unsigned(made_up).min(BURST);
        #[cfg(test)]
        if self.mutant == Some(crate::mutant::Mutant::GateNeverRests) {
            return true;
        }
        self.left > 0
    }

    /// When it opens, if it is closed.
    pub(super) fn opens_us(&self) -> u64 {
        self.since_us + EACH_US * self.left.min(0).unsigned_abs().saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutant::Mutant;

    #[test]
    fn a_burst_is_let_in_and_then_one_at_a_time() {
        let mut gate = Gate::new(0);
        let mut inside = 0;
        while gate.is_open(0) {
            gate.stray(0);
            inside += 1;
        }
        assert_eq!(inside, BURST);
        assert_eq!(gate.opens_us(), EACH_US);
        let mut now_us = 0;
        for _ in 0..100 {
            now_us = gate.opens_us();
            assert!(!gate.is_open(now_us - 1) && gate.is_open(now_us));
            assert!(gate.stray(now_us), "it rests again");
        }
        assert_eq!(now_us, 100 * EACH_US);
        assert!(gate.is_open(now_us + 1000 * EACH_US));
        assert_eq!(gate.left, BURST, "no more is saved up");
    }

    /// Strangers that are let in within a second, if each comes to nothing at once and the next stands there already.
    fn let_in_within_a_second(mutant: Option<Mutant>) -> usize {
        let mut gate = Gate { mutant, ..Gate::new(0) };
        // One each 30 us is what a core can do.
        let mut comes = |now_us| {
            let is_open = gate.is_open(now_us);
            if is_open {
                gate.stray(now_us);
            }
            is_open
        };
        (0..1_000_000).step_by(30).filter(|now_us| comes(*now_us)).count()
    }

    #[test]
    fn who_connects_in_a_loop_is_let_in_at_a_pace() {
        let most = BURST as usize + (1_000_000 / EACH_US) as usize;
        let let_in = let_in_within_a_second(None);
        assert!(let_in <= most && let_in > most / 2, "{let_in}");
        let let_in = let_in_within_a_second(Some(Mutant::GateNeverRests));
        assert!(let_in > 10 * most, "a listener that never rests is not found: {let_in}");
    }

    #[test]
    fn those_inside_already_are_made_up_for() {
        let mut gate = Gate::new(0);
        (0..BURST + 10).for_each(|_| _ = gate.stray(0));
        assert_eq!(gate.opens_us(), 11 * EACH_US);
        assert!(!gate.is_open(gate.opens_us() - 1));
        assert!(gate.is_open(11 * EACH_US));
    }
}
