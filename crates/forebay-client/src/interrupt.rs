//! Ending a call before its deadline, because whoever made it has been told to stop.
//!
//! A call under way asks now and then whether to go on. Told to stop, it ends as if its deadline had come: what is unanswered is cancelled, what a
//! node may still touch is set aside, and every key has its outcome. Nothing here knows why anybody wants to stop.

use std::fmt;
use std::sync::Arc;

/// Longest that a waiting call does not ask, in microseconds: what a person at a keyboard does not notice.
pub(crate) const ASK_US: u64 = 50_000;

/// A question that calls ask while they wait, at least every 50 ms and whenever a signal has come: is it time to stop? It is asked on the thread
/// that makes the call. Once it has said yes, it says so for the rest of that call.
#[derive(Clone)]
pub struct Interrupt(Arc<dyn Fn() -> bool + Send + Sync>);

impl Interrupt {
    /// Asks this. It should answer within microseconds: the call does nothing else meanwhile.
    pub fn new(question: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Interrupt(Arc::new(question))
    }

    /// Whether it is time to stop.
    pub(crate) fn asks_to_stop(&self) -> bool {
        (self.0)()
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interrupt(..)")
    }
}

/// The deadline of one call, which comes at once when the call is told to stop.
pub(crate) struct Until<'c> {
    interrupt: Option<&'c Interrupt>,
    deadline_us: u64,
    /// When to ask next.
    ask_us: u64,
}

impl<'c> Until<'c> {
    pub(crate) fn new(interrupt: Option<&'c Interrupt>, deadline_us: u64, now_us: u64) -> Self {
        let ask_us = if interrupt.is_some() { now_us + ASK_US } else { u64::MAX };
        Until { interrupt, deadline_us, ask_us }
    }

    /// The deadline as it is now.
    pub(crate) fn deadline_us(&mut self, now_us: u64) -> u64 {
        if now_us >= self.ask_us {
            self.ask_us = now_us + ASK_US;
            if self.interrupt.is_some_and(Interrupt::asks_to_stop) {
                self.deadline_us = self.deadline_us.min(now_us);
            }
        }
        self.deadline_us
    }

    /// How long a wait may last at most.
    pub(crate) fn wait_until_us(&self) -> u64 {
        self.deadline_us.min(self.ask_us)
    }

    /// A signal came: ask at once.
    pub(crate) fn signalled(&mut self) {
        if self.interrupt.is_some() {
            self.ask_us = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_deadline_comes_at_once_when_the_call_is_told_to_stop() {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let interrupt = Interrupt::new(move || told.load(Ordering::Relaxed));
        let mut until = Until::new(Some(&interrupt), 1_000_000, 0);
        assert_eq!((until.deadline_us(0), until.wait_until_us()), (1_000_000, ASK_US));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(until.deadline_us(ASK_US - 1), 1_000_000);
        assert_eq!(until.deadline_us(ASK_US), ASK_US);
        assert_eq!(until.wait_until_us(), ASK_US);
    }

    #[test]
    fn a_signal_makes_it_ask_at_once_and_without_a_question_nothing_changes() {
        let interrupt = Interrupt::new(|| true);
        let mut until = Until::new(Some(&interrupt), 1_000_000, 0);
        until.signalled();
        assert_eq!(until.deadline_us(7), 7);
        let mut until = Until::new(None, 1_000_000, 0);
        until.signalled();
        assert_eq!((until.deadline_us(999_999), until.wait_until_us()), (1_000_000, 1_000_000));
    }
}
