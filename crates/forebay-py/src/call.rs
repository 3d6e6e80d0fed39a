//! How a call is made: without the GIL, ended by Ctrl-C or a cancelled ticket, and not at all in a forked child.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use forebay_client::Interrupt;
use pyo3::prelude::*;

use crate::errors::{invalid, named};

/// Longest deadline there is, in milliseconds.
const DEADLINE_MS_MAX: f64 = 60_000.0;

/// How often this process is a child of a fork of the one that imported the package.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Who may end the call that this thread makes.
enum Asked {
    Nobody,
    /// Python's signal handlers; what they raised.
    Signals(Option<PyErr>),
    /// Whoever holds the ticket.
    Ticket(Arc<AtomicBool>),
}

thread_local! {
    static ASKED: RefCell<Asked> = const { RefCell::new(Asked::Nobody) };
}

/// What the client asks while it waits.
pub(crate) fn interrupt() -> Interrupt {
    Interrupt::new(|| {
        let known = ASKED.with_borrow(|asked| match asked {
            Asked::Nobody => Some(false),
            Asked::Signals(raised) => raised.is_some().then_some(true),
            Asked::Ticket(cancelled) => Some(cancelled.load(Ordering::Relaxed)),
        });
        known.unwrap_or_else(|| {
            // Nothing is borrowed meanwhile: a signal handler may make calls of its own.
            let error = Python::try_attach(|py| py.check_signals().err()).flatten();
            let stop = error.is_some();
            if stop {
                ASKED.set(Asked::Signals(error));
            }
            stop
        })
    })
}

/// Makes a call without the GIL. What a signal handler raised meanwhile (`KeyboardInterrupt`) ended the call and comes instead of its answer.
pub(crate) fn blocking<T: Send>(py: Python<'_>, run: impl FnOnce() -> T + Send) -> PyResult<T> {
    let before = ASKED.replace(Asked::Signals(None));
    let done = py.detach(run);
    match ASKED.replace(before) {
        Asked::Signals(Some(error)) => Err(error),
        _ => Ok(done),
    }
}

/// Makes a call that ends soon after `cancelled` is set, on this thread, which has no GIL.
pub(crate) fn cancellable<T>(cancelled: Arc<AtomicBool>, run: impl FnOnce() -> T) -> T {
    let before = ASKED.replace(Asked::Ticket(cancelled));
    let done = run();
    ASKED.set(before);
    done
}

/// Tells the package that this process is a fork's child. Called by Python itself.
#[pyfunction]
#[pyo3(name = "_forked")]
pub(crate) fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Something that lives in the process that made it. A forked child has its memory and not its threads, so it is refused there, and not dropped
/// either: a lock that a thread of the parent held at the fork is never released.
pub(crate) struct Rooted<T> {
    forks: u32,
    value: Option<T>,
}

impl<T> Rooted<T> {
    pub(crate) fn new(value: T) -> Self {
        Rooted { forks: FORKS.load(Ordering::Relaxed), value: Some(value) }
    }

    /// The value, in the process that made it.
    pub(crate) fn get(&self, py: Python<'_>) -> PyResult<&T> {
        let here = self.forks == FORKS.load(Ordering::Relaxed);
        self.value.as_ref().filter(|_| here).ok_or_else(|| {
            named(
                py,
                "ForkedClient",
                "this client was made before the process forked, and its connections belong to the parent: make a new forebay.Client in the child",
            )
        })
    }
}

impl<T> Drop for Rooted<T> {
    fn drop(&mut self) {
        if self.forks != FORKS.load(Ordering::Relaxed) {
            std::mem::forget(self.value.take());
        }
    }
}

/// A deadline in milliseconds as a caller gives it.
pub(crate) fn deadline(py: Python<'_>, ms: f64) -> PyResult<Duration> {
    if ms > 0.0 && ms <= DEADLINE_MS_MAX {
        return Ok(Duration::from_secs_f64(ms / 1000.0));
    }
    Err(invalid(py, format!("a deadline is more than 0 and at most 60,000 ms, this is {ms}")))
}
