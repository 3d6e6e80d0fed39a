//! The threads that make calls: taken on as calls wait, let go when there is nothing to do.
//!
//! Whoever submits is in a hurry, and waking a thread can take longer than all else it does. So one thread is called at a time, by whoever submits
//! first; when it comes for its work it calls the next, if there is more.
//!
//! Whoever is patient as well wakes nobody as long as there has just been work: a thread that has none naps for a while, and looks by itself.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::call::{Answer, Call};

/// A thread without work for so long goes: starting one costs some tens of microseconds.
const IDLE: Duration = Duration::from_secs(5);
/// How long a patient caller's call may wait for a thread to look. A look takes some microseconds, so this is a few percent of a core.
const NAP: Duration = Duration::from_micros(200);
/// Naps before a thread sleeps until it is woken: some steps of an engine.
const NAPS: u32 = 150;

type Job = Box<dyn FnOnce() + Send>;

/// Threads and what they have to do.
pub(super) struct Driver {
    state: Mutex<State>,
    more: Condvar,
    threads_max: usize,
    calls_max: usize,
    is_patient: bool,
}

#[derive(Default)]
struct State {
    line: VecDeque<Job>,
    /// Calls in line or under way: at most `calls_max`.
    in_flight: usize,
    /// At most `threads_max`.
    threads: usize,
    idle: usize,
    /// One of the idle threads will look by itself within a nap.
    napping: bool,
    /// A thread was woken or started, and none has come for work since. Never so while nobody is on the way: who comes last finds the line empty.
    called: bool,
    closed: bool,
}

impl State {
    /// Whoever comes for work has come, whether or not it was the one who was called.
    fn next(&mut self) -> Option<Job> {
        let job = self.line.pop_front()?;
        self.called = false;
        Some(job)
    }
}

/// What is to be done for the line once the lock is gone.
enum Next {
    Nothing,
    Wake,
    /// There is no thread, nor can one be had.
    Run(Job),
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
    /// is_patient: those who submit are in no hurry for the first fifth of a millisecond.
    pub(super) fn new(threads_max: usize, calls_max: usize, is_patient: bool) -> Driver {
        Driver { state: Mutex::default(), more: Condvar::new(), threads_max, calls_max, is_patient }
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
        self.line_up(move || {
            let done = answer.is_wanted().then(|| catch_unwind(AssertUnwindSafe(run)));
            // Before the answer: whoever has it may begin the next call at once.
            driver.lock().in_flight -= 1;
            if let Some(done) = done {
                answer.give(done);
            }
        });
        call
    }

    /// Makes a call that has no answer, on one of the threads; false if too many are unfinished.
    pub(super) fn submit_unanswered(self: &Arc<Self>, run: impl FnOnce() + Send + 'static) -> bool {
        let room = self.take_place();
        if room {
            let driver = self.clone();
            self.line_up(move || {
                // A panic is said on stderr where it happens, and there is nobody to go on with it.
                let _ = catch_unwind(AssertUnwindSafe(run));
                driver.lock().in_flight -= 1;
            });
        }
        room
    }

    fn line_up(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        let job = Box::new(job);
        let mut state = self.lock();
        state.line.push_back(job);
        let next = if state.napping { Next::Nothing } else { self.call(&mut state) };
        drop(state);
        self.go_on(next);
    }

    /// Sees to it that somebody comes for what is in the line.
    fn call(self: &Arc<Self>, state: &mut State) -> Next {
        if state.called || state.line.is_empty() {
            return Next::Nothing;
        }
        if state.idle > 0 {
            state.called = true;
            return Next::Wake;
        }
        if state.threads < self.threads_max {
            let driver = self.clone();
            let named = std::thread::Builder::new().name("forebay-call".into());
            // Should there be no thread to have, those that are there do it, or the caller's own if there are none.
            state.called = named.spawn(move || driver.work()).is_ok();
            state.threads += usize::from(state.called);
        }
        let job = if state.threads == 0 { state.line.pop_back() } else { None };
        job.map_or(Next::Nothing, Next::Run)
    }

    fn go_on(&self, next: Next) {
        match next {
            Next::Nothing => {}
            Next::Wake => self.more.notify_one(),
            Next::Run(job) => job(),
        }
    }

    fn work(self: &Arc<Self>) {
        // Or it would run in the place of whoever submits, for as long as making the keys of thousands of blocks takes. Where that cannot be had, it
        // is only that.
        let _ = forebay_io::work_in_background();
        let mut state = self.lock();
        let mut naps = 0;
        loop {
            if let Some(job) = state.next() {
                let next = self.call(&mut state);
                drop(state);
                self.go_on(next);
                job();
                naps = if self.is_patient { NAPS } else { 0 };
                state = self.lock();
                continue;
            }
            if state.closed {
                break;
            }
            let naps_now = naps > 0 && !state.napping;
            state.napping |= naps_now;
            state.idle += 1;
            let longest = if naps_now { NAP } else { IDLE };
            let (next, waited) =
                self.more.wait_timeout(state, longest).unwrap_or_else(|poisoned| poisoned.into_inner());
            state = next;
            state.idle -= 1;
            if naps_now {
                state.napping = false;
                naps -= 1;
            } else if waited.timed_out() && state.line.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn one_thread_is_called_at_a_time_and_calls_the_next() {
        let driver = Arc::new(Driver::new(4, 8, false));
        let mut state = State { threads: 3, idle: 3, ..State::default() };
        assert!(matches!(driver.call(&mut state), Next::Nothing), "for nothing nobody is called");
        state.line.push_back(Box::new(|| ()));
        assert!(matches!(driver.call(&mut state), Next::Wake));
        for _ in 0..2 {
            state.line.push_back(Box::new(|| ()));
            assert!(matches!(driver.call(&mut state), Next::Nothing), "somebody is on the way");
        }
        for idle in [2, 1] {
            assert!(state.next().is_some());
            state.idle = idle;
            assert!(matches!(driver.call(&mut state), Next::Wake), "there is more");
        }
        assert!(state.next().is_some() && state.next().is_none());
        assert!(!state.called && matches!(driver.call(&mut state), Next::Nothing));
    }

    #[test]
    fn after_a_call_a_patient_caller_wakes_nobody_for_a_while() {
        let gate = Gate::new(Driver::new(4, 8, true));
        let driver = gate.driver();
        let napping = |wanted: bool| {
            while driver.lock().napping != wanted || driver.lock().idle == 0 {
                std::thread::yield_now();
            }
        };
        let (tell, hear) = channel();
        for _ in 0..3 {
            let tell = tell.clone();
            assert!(driver.submit_unanswered(move || tell.send(()).unwrap()));
            hear.recv_timeout(Duration::from_secs(60)).unwrap();
            napping(true);
        }
        assert_eq!(driver.lock().threads, 1, "the one that naps does it all");
        // Naps end. The next call has a thread woken for it.
        napping(false);
        driver.submit_unanswered(move || tell.send(()).unwrap());
        hear.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn calls_that_are_submitted_at_once_are_made_side_by_side_again_and_again() {
        all_are_made_side_by_side(false);
    }

    #[test]
    fn patient_callers_calls_are_too() {
        all_are_made_side_by_side(true);
    }

    fn all_are_made_side_by_side(is_patient: bool) {
        const CALLS: usize = 8;
        let gate = Gate::new(Driver::new(CALLS, 4 * CALLS, is_patient));
        for _ in 0..500 {
            let (tell, hear) = channel();
            // None is over before all have begun.
            let all = Arc::new(Barrier::new(CALLS));
            let call = || {
                let (all, tell) = (all.clone(), tell.clone());
                let run = move || {
                    all.wait();
                    tell.send(()).unwrap();
                };
                gate.driver().submit(run, ())
            };
            let calls: Vec<Call<()>> = (0..CALLS).map(|_| call()).collect();
            for _ in &calls {
                hear.recv_timeout(Duration::from_secs(60)).expect("one waits in line, and nobody was called for it");
            }
        }
    }
}
