//! What the machine does by itself, beside what is measured and in the same run: how late a thread is woken that only sleeps, and how long a loop
//! takes that only counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{Timespec, poll};

use crate::watch::Watch;

/// Sleeps for as long as a call has, again and again; how much later each sleep ended, in milliseconds.
pub(super) fn sleeps(deadline: Duration, stop: &AtomicBool) -> Vec<f64> {
    let timeout = Timespec { tv_sec: deadline.as_secs() as i64, tv_nsec: i64::from(deadline.subsec_nanos()) };
    let mut late_ms = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let watch = Watch::start();
        // As a call waits: nothing is polled, so only the time ends it.
        let _ = poll(&mut [], Some(&timeout));
        late_ms.push((watch.s() - deadline.as_secs_f64()).max(0.0) * 1000.0);
    }
    late_ms
}

/// Looks at the clock for this long, in microseconds, and returns how long that took.
pub(super) fn spins(for_us: f64) -> f64 {
    let watch = Watch::start();
    loop {
        let us = watch.us();
        if us >= for_us {
            return us;
        }
        std::hint::spin_loop();
    }
}

/// Times that this thread was put off its core, of its own will and not.
#[derive(Clone, Copy, Default)]
pub(super) struct Switches(u64);

impl Switches {
    pub(super) fn now() -> Switches {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let of =
            |line: &str| line.split_once("voluntary_ctxt_switches:").and_then(|(_, n)| n.trim().parse::<u64>().ok());
        Switches(status.lines().filter_map(of).sum())
    }

    pub(super) fn since(self, before: Switches) -> u64 {
        self.0 - before.0
    }
}
