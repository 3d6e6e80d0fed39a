//! Finished calls behind one descriptor, for callers with a loop of their own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Wake, Waker};

use rustix::event::EventfdFlags;

use super::Call;

/// Tells which calls are finished. Its descriptor is readable while there is something to [`Self::drain`], so that any `poll`, `epoll` or event loop
/// can wait for it beside other things. What it holds is bounded by the calls it watches: one word each.
#[derive(Debug, Clone)]
pub struct Completions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    finished: Mutex<Finished>,
    event: OwnedFd,
}

#[derive(Debug, Default)]
struct Finished {
    /// Of calls. Once somebody has asked for it, the descriptor is readable if and only if there are any; both change under this lock.
    tokens: Vec<u64>,
    /// Somebody has: whoever only drains now and then pays for no calls to the kernel.
    is_watched: bool,
}

/// Puts one token there.
struct Token {
    completions: Completions,
    token: u64,
}

impl Completions {
    /// An empty one. Fails when the process may have no more descriptors.
    pub fn new() -> std::io::Result<Completions> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Completions(Arc::new(Inner { finished: Mutex::default(), event })))
    }

    /// Has `token` told once, when `call` is finished. Then [`Call::try_take`] has its answer. A call is either watched or awaited, not both.
    pub fn watch<T>(&self, token: u64, call: &Call<T>) {
        call.watch(Waker::from(Arc::new(Token { completions: self.clone(), token })));
    }

    /// Tells `token` now.
    pub fn tell(&self, token: u64) {
        let mut finished = self.lock();
        if finished.is_watched && finished.tokens.is_empty() {
            self.mark();
        }
        finished.tokens.push(token);
    }

    /// The tokens of all calls that have finished since the last time. Never blocks.
    pub fn drain(&self) -> Vec<u64> {
        let mut finished = self.lock();
        if finished.is_watched && !finished.tokens.is_empty() {
            let _ = rustix::io::read(&self.0.event, &mut [0u8; 8]);
        }
        std::mem::take(&mut finished.tokens)
    }

    fn mark(&self) {
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Finished> {
        self.0.finished.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl AsFd for Completions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let mut finished = self.lock();
        if !std::mem::replace(&mut finished.is_watched, true) && !finished.tokens.is_empty() {
            self.mark();
        }
        drop(finished);
        self.0.event.as_fd()
    }
}

impl Wake for Token {
    fn wake(self: Arc<Self>) {
        self.completions.tell(self.token);
    }
}
