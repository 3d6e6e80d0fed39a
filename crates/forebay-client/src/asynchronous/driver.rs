//! The threads that make calls: taken on as calls wait, let go when there is nothing to do.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::call::{Answer, Call};

/// A thread without work for so long goes: starting one costs some tens of microseconds.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// Threads and what they have to do.
pub(super) struct Driver {
    state: Mutex<State>,
    more: Condvar,
    threads_max: usize,
    calls_max: usize,
}

#[derive(Default)]
struct State {
    line: VecDeque<Job>,
    /// Calls in line or under way: at most `calls_max`.
    in_flight: usize,
    /// At most `threads_max`.
    threads: usize,
    idle: usize,
    closed: bool,
}

/// What clients hold: when the last is gone, the threads end as soon as the line is empty.
pub(super) struct Gate(Arc<Driver>);

impl Gate {
    pub(super) fn new(driver: Driver) -> Arc<Gate> {
        Arc::new(Gate(Arc::new(driver)))
    }

    pub(super) fn driver(&self) -> &Arc<Driver> {
        &self.0
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.more.notify_all();
    }
}

impl Driver {
    pub(super) fn new(threads_max: usize, calls_max: usize) -> Driver {
        Driver { state: Mutex::default(), more: Condvar::new(), threads_max, calls_max }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// Takes a place for one call. Whoever is given it submits one.
    pub(super) fn take_place(&self) -> bool {
        let mut state = self.lock();
        let room = state.in_flight < self.calls_max;
        state.in_flight += usize::from(room);
        room
    }

    /// Makes a call on one of the threads; `busy` is the answer when too many are unfinished.
    pub(super) fn submit<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce() -> T + Send + 'static,
        busy: T,
    ) -> Call<T> {
        if self.take_place() { self.submit_within_bound(run) } else { Call::ready(busy) }
    }

    /// Makes a call whose place was taken with [`Self::take_place`].
    pub(super) fn submit_within_bound<T: Send + 'static>(
        self: &Arc<Self>,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Call<T> {
        let (call, answer): (Call<T>, Answer<T>) = Call::pair();
        let driver = self.clone();
        let job = move || {
            let done = answer.is_wanted().then(|| catch_unwind(AssertUnwindSafe(run)));
            // Before the answer: whoever has it may begin the next call at once.
            driver.lock().in_flight -= 1;
            if let Some(done) = done {
                answer.give(done);
            }
        };
        let mut state = self.lock();
        state.line.push_back(Box::new(job));
        if state.idle < state.line.len() && state.threads < self.threads_max {
            let driver = self.clone();
            let named = std::thread::Builder::new().name("forebay-call".into());
            // Should there be no thread to have, those that are there do it, or the caller's own if there are none.
            state.threads += usize::from(named.spawn(move || driver.work()).is_ok());
        }
        let job = if state.threads == 0 { state.line.pop_back() } else { None };
        drop(state);
        match job {
            Some(job) => job(),
            None => self.more.notify_one(),
        }
        call
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.line.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (next, waited) = self.more.wait_timeout(state, IDLE).unwrap_or_else(|poisoned| poisoned.into_inner());
            state = next;
            state.idle -= 1;
            if waited.timed_out() && state.line.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
