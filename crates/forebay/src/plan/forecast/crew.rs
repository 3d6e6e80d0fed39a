//! The threads of a forecast. What is run does not depend on how many there are.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

/// At most: each run holds the caches of a whole fleet, some hundred megabytes for an hour of chat.
const THREADS_MAX: usize = 8;

/// Calls `of` with each number below a count, on as many cores as there are.
pub(super) fn crew(count: usize, of: &(dyn Fn(usize) + Sync)) {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            of(i);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..cores.min(THREADS_MAX).min(count) {
            // One that cannot be had is missed by nobody: the others do its work.
            let _ = std::thread::Builder::new().name("forecast".into()).spawn_scoped(scope, work);
        }
        work();
    });
}
