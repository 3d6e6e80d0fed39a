//! Whether a shard is worth asking now: a circuit breaker that decides and does nothing.
//!
//! *Closed*: it is asked. *Failing*: it cannot be reached, and calls go on trying for the client's patience, for a node that restarts is back
//! within moments. *Open*: it is taken for dead; calls answer `unavailable` at once, without a word to the kernel, and one prober looks for it
//! now and then. Time and chance come in as arguments, so every course of events is a test.

/// First wait after an attempt that failed, in microseconds.
const BACKOFF_US_MIN: u64 = 10_000;
/// Longest wait between two attempts of calls, in microseconds.
const BACKOFF_US_MAX: u64 = 200_000;
/// How often a dead shard is looked for, in microseconds: the first hit comes well within a second of its return.
pub(crate) const PROBE_US: u64 = 250_000;
/// Largest deviation from that, in microseconds, so that the clients of a mesh do not all knock at the same moment.
const JITTER_US_MAX: u64 = PROBE_US / 10;
/// How long calls wait in vain, in microseconds, until a shard that says nothing at all is taken for dead. A drive that stalls for less is none.
const SILENCE_US_MAX: u64 = 250_000;
/// A probe overdue by so much, in microseconds, will not come: its thread could not be started, or was left behind by a fork. A call looks then.
const OVERDUE_US: u64 = 1_000_000;

/// The breaker of one shard.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    /// Time that calls have waited for this shard since it last said anything. Calls that wait side by side count once.
    silent_us: u64,
    /// Up to when that is counted.
    silent_until_us: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Failing {
        since_us: u64,
        backoff_us: u64,
        next_us: u64,
    },
    Open {
        probe_us: u64,
        probing: bool,
    },
}

/// What a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Ask.
    Ask,
    /// It cannot be reached; try again at this time.
    At(u64),
    /// It is taken for dead.
    Never,
}

impl Breaker {
    /// What a call may do now.
    pub(crate) fn admit(&mut self, now_us: u64) -> Admit {
        match self.state {
            State::Closed => Admit::Ask,
            State::Failing { next_us, .. } if now_us < next_us => Admit::At(next_us),
            State::Failing { .. } => Admit::Ask,
            State::Open { probe_us, .. } if now_us >= probe_us.saturating_add(OVERDUE_US) => {
                // One call, not all that come meanwhile.
                self.state = State::Open { probe_us: now_us, probing: false };
                Admit::Ask
            }
            State::Open { .. } => Admit::Never,
        }
    }

    /// A call could not reach it. True when that opened it.
    pub(crate) fn failed(&mut self, now_us: u64, patience_us: u64, chance: u64) -> bool {
        let (since_us, backoff_us) = match self.state {
            // After a long time without an attempt it is another failure.
            State::Failing { since_us, backoff_us, next_us } if now_us.saturating_sub(next_us) <= patience_us => {
                (since_us, (backoff_us * 2).min(BACKOFF_US_MAX))
            }
            State::Closed | State::Failing { .. } => (now_us, BACKOFF_US_MIN),
            State::Open { .. } => {
                self.state = State::Open { probe_us: next_probe(now_us, chance), probing: false };
                return false;
            }
        };
        let next_us = now_us + backoff_us;
        if next_us.saturating_sub(since_us) > patience_us {
            self.state = State::Open { probe_us: next_probe(now_us, chance), probing: false };
            return true;
        }
        self.state = State::Failing { since_us, backoff_us, next_us };
        false
    }

    /// A connection to it was made.
    pub(crate) fn reached(&mut self) {
        *self = Breaker::default();
    }

    /// It said something to a call.
    pub(crate) fn heard(&mut self) {
        self.reached();
    }

    /// A call's time is up, and from `asked_us` until now it said nothing. True when that opened it: it is looked for at once then, for it may
    /// only have been slow.
    pub(crate) fn silent(&mut self, asked_us: u64, now_us: u64) -> bool {
        self.silent_us += now_us.saturating_sub(asked_us.max(self.silent_until_us));
        self.silent_until_us = self.silent_until_us.max(now_us);
        if self.silent_us < SILENCE_US_MAX || self.is_open() {
            return false;
        }
        self.state = State::Open { probe_us: now_us, probing: false };
        true
    }

    /// A call at this time would be told that it is dead, and nothing changes by telling it.
    pub(crate) fn is_refused(&self, now_us: u64) -> bool {
        matches!(self.state, State::Open { probe_us, .. } if now_us < probe_us.saturating_add(OVERDUE_US))
    }

    /// It is taken for dead.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// When it is to be looked for; `None` when it is not open or somebody is looking.
    pub(crate) fn next_probe_us(&self) -> Option<u64> {
        match self.state {
            State::Open { probe_us, probing: false } => Some(probe_us),
            _ => None,
        }
    }

    /// True once for each probe that is due: whoever is told so makes it, and says how it went. `probed`: one is under way now, and is not overdue.
    pub(crate) fn take_probe(&mut self, now_us: u64, probed: bool) -> bool {
        match self.state {
            State::Open { .. } if probed => {
                self.state = State::Open { probe_us: now_us, probing: true };
                false
            }
            State::Open { probe_us, probing: false } if now_us >= probe_us => {
                self.state = State::Open { probe_us, probing: true };
                true
            }
            _ => false,
        }
    }

    /// The probe found nobody.
    pub(crate) fn probe_failed(&mut self, now_us: u64, chance: u64) {
        if self.is_open() {
            self.state = State::Open { probe_us: next_probe(now_us, chance), probing: false };
        }
    }
}

fn next_probe(now_us: u64, chance: u64) -> u64 {
    now_us + PROBE_US - JITTER_US_MAX + chance % (2 * JITTER_US_MAX + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_US: u64 = 250_000;

    /// Lets a call try as often as it may; gives the time at which it is told that it is dead.
    fn opened(breaker: &mut Breaker) -> (u64, u32) {
        let (mut now, mut attempts) = (1000, 0);
        loop {
            match breaker.admit(now) {
                Admit::Ask => {
                    attempts += 1;
                    breaker.failed(now, PATIENCE_US, 7);
                }
                Admit::At(next) => now = next,
                Admit::Never => return (now, attempts),
            }
        }
    }

    #[test]
    fn a_node_that_is_gone_is_tried_for_the_time_of_patience_and_then_no_more() {
        let mut breaker = Breaker::default();
        let (at, attempts) = opened(&mut breaker);
        assert!(at <= 1000 + PATIENCE_US && attempts >= 3, "{at} {attempts}");
        for now in (at..at + PROBE_US + OVERDUE_US / 2).step_by(1000) {
            assert_eq!(breaker.admit(now), Admit::Never);
        }
    }

    #[test]
    fn without_patience_one_attempt_opens_it() {
        let mut breaker = Breaker::default();
        assert!(breaker.failed(5, 0, 0));
        assert_eq!(breaker.admit(5), Admit::Never);
    }

    #[test]
    fn there_is_one_prober_and_it_probes_every_quarter_of_a_second() {
        let mut breaker = Breaker::default();
        let (mut now, _) = opened(&mut breaker);
        for chance in [0, 1, 49_999, 50_000, 50_001, u64::MAX] {
            let due = breaker.next_probe_us().unwrap();
            assert!(!breaker.take_probe(due - 1, false));
            assert!(breaker.take_probe(due, false), "a probe is due");
            assert!(!breaker.take_probe(due + 1, false), "two probers");
            assert_eq!(breaker.next_probe_us(), None);
            now = now.max(due) + 30;
            breaker.probe_failed(now, chance);
            let wait = breaker.next_probe_us().unwrap() - now;
            assert!((PROBE_US - JITTER_US_MAX..=PROBE_US + JITTER_US_MAX).contains(&wait), "{wait}");
        }
        assert!(breaker.take_probe(now + PROBE_US * 2, false));
        breaker.reached();
        assert_eq!(breaker.admit(now), Admit::Ask);
        breaker.probe_failed(now, 0);
        assert_eq!(breaker.admit(now), Admit::Ask, "a probe that ends late opens nothing");
    }

    #[test]
    fn a_node_that_says_nothing_is_dead_after_a_quarter_of_a_second_of_waiting_for_it() {
        let mut breaker = Breaker::default();
        let mut now = 0;
        let mut calls = 0;
        // Calls of 40 ms with a second between them: only the time waited counts.
        while !breaker.silent(now, now + 40_000) {
            assert_eq!(breaker.admit(now), Admit::Ask);
            now += 1_000_000;
            calls += 1;
        }
        assert_eq!(calls, 6);
        assert_eq!(breaker.admit(now + 40_000), Admit::Never);
        assert!(breaker.take_probe(now + 40_000, false), "it is looked for at once");
    }

    #[test]
    fn calls_that_wait_side_by_side_count_once_and_a_word_clears_the_count() {
        let mut breaker = Breaker::default();
        for call in 0..100 {
            assert!(!breaker.silent(call, 50_000 + call), "fifty milliseconds were waited");
        }
        breaker.heard();
        for call in 0..4 {
            assert!(!breaker.silent(60_000 * call, 60_000 * (call + 1)));
        }
        assert!(breaker.silent(240_000, 300_000));
    }

    #[test]
    fn failures_far_apart_are_not_one_failure() {
        let mut breaker = Breaker::default();
        assert!(!breaker.failed(0, PATIENCE_US, 0));
        assert!(!breaker.failed(10 * PATIENCE_US, PATIENCE_US, 0));
        assert_eq!(breaker.admit(10 * PATIENCE_US), Admit::At(10 * PATIENCE_US + BACKOFF_US_MIN));
    }

    #[test]
    fn while_a_probe_waits_for_a_greeting_no_call_knocks_and_no_other_probe_begins() {
        let mut breaker = Breaker::default();
        let (mut now, _) = opened(&mut breaker);
        now += PROBE_US + JITTER_US_MAX;
        assert!(breaker.take_probe(now, false));
        for _ in 0..100 {
            now += OVERDUE_US / 10;
            assert!(!breaker.take_probe(now, true));
            assert_eq!(breaker.admit(now), Admit::Never);
        }
        assert_eq!(breaker.admit(now + OVERDUE_US), Admit::Ask, "its thread is gone");
    }

    #[test]
    fn a_prober_that_is_lost_is_replaced_by_a_call() {
        let mut breaker = Breaker::default();
        let (now, _) = opened(&mut breaker);
        let late = now + PROBE_US + JITTER_US_MAX + OVERDUE_US;
        assert_eq!(breaker.admit(late), Admit::Ask);
        assert_eq!(breaker.admit(late), Admit::Never, "one call is enough");
        breaker.failed(late, PATIENCE_US, 0);
        assert_eq!(breaker.admit(late + 1), Admit::Never);
    }
}
