//! One call as a future, and the other end of it, which a driver thread holds.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// A call under way. It is a future of its answer; or it is asked now and then with [`Self::try_take`].
///
/// Dropping it drops the call: it is not begun if it still waits in line, and its answer is thrown away if it runs.
#[derive(Debug)]
pub struct Call<T>(Arc<Slot<T>>);

/// The driver's end. Exactly one answer is given through it.
pub(super) struct Answer<T>(Arc<Slot<T>>);

#[derive(Debug)]
struct Slot<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    Waiting(Option<Waker>),
    Done(Result<T, Panic>),
    /// The answer was taken, or nobody wants it.
    Over,
}

/// What a call that hit a bug left. Whoever waits for it goes on with the panic, as the caller of a blocking call would.
type Panic = Box<dyn Any + Send>;

impl<T> Call<T> {
    /// Both ends of a call.
    pub(super) fn pair() -> (Call<T>, Answer<T>) {
        let slot = Arc::new(Slot(Mutex::new(State::Waiting(None))));
        (Call(slot.clone()), Answer(slot))
    }

    /// A call that is answered already.
    pub(super) fn ready(answer: T) -> Call<T> {
        Call(Arc::new(Slot(Mutex::new(State::Done(Ok(answer))))))
    }

    /// The answer, if it is there and was not taken yet.
    pub fn try_take(&mut self) -> Option<T> {
        self.take(None)
    }

    /// Has `waker` woken when the answer is there; at once if it is. The last one given counts.
    pub(super) fn watch(&self, waker: Waker) {
        let mut state = self.0.lock();
        match &mut *state {
            State::Waiting(waiting) => *waiting = Some(waker),
            State::Done(_) | State::Over => {
                drop(state);
                waker.wake();
            }
        }
    }

    fn take(&mut self, waker: Option<&Waker>) -> Option<T> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Over) {
            State::Waiting(before) => {
                *state = State::Waiting(waker.cloned().or(before));
                None
            }
            State::Done(Ok(answer)) => Some(answer),
            State::Done(Err(panic)) => {
                drop(state);
                std::panic::resume_unwind(panic)
            }
            State::Over => None,
        }
    }
}

impl<T> Future for Call<T> {
    type Output = T;

    /// # Panics
    /// If it is polled again after it was ready, or the call itself panicked.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if matches!(*self.0.lock(), State::Over) {
            panic!("a call was polled after it had given its answer");
        }
        self.take(Some(cx.waker())).map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        let old = std::mem::replace(&mut *self.0.lock(), State::Over);
        // An answer may hold a lot; it goes when nobody waits for the lock.
        drop(old);
    }
}

impl<T> Answer<T> {
    /// Whether anybody still waits.
    pub(super) fn is_wanted(&self) -> bool {
        !matches!(*self.0.lock(), State::Over)
    }

    /// Gives the answer.
    pub(super) fn give(self, answer: Result<T, Panic>) {
        let mut state = self.0.lock();
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = State::Done(answer);
            drop(state);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
