//! Waking an engine from another thread, without a system call when it is awake anyway.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::EventfdFlags;

use super::EngineError;
use super::pending::Pending;

/// Wakes an engine. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Set by the first to wake, cleared by the engine before it looks at what it was woken for.
    pending: Pending,
    /// Every write to it is an edge, so nobody reads it.
    event: OwnedFd,
}

impl Waker {
    pub(super) fn new() -> Result<Self, EngineError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| EngineError::Os { doing: "making an eventfd", source: errno.into() })?;
        Ok(Waker(Arc::new(Inner { pending: Pending::new(), event })))
    }

    /// Makes the engine's present or next wait return. Never blocks; costs a system call only for the first since that wait.
    pub fn wake(&self) {
        if self.0.pending.set() {
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }

    /// Whether somebody woke the engine since the last call. A wake between this and a wait writes the eventfd and so ends the wait.
    pub(super) fn take(&self) -> bool {
        self.0.pending.take()
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
