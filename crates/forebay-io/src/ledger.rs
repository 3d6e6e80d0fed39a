//! Who may touch which piece of a region: claimed, lent, retired, free.
//!
//! The whole life of a landing's memory is in the types. A [`Claim`] is its holder's alone. [`Claim::lend`] makes it a [`Lent`], which nobody can look
//! at; only [`Lent::returned`], said by whoever knows that the landing has ended, makes it a claim again. A lent piece that is merely dropped is
//! retired: something may still write it, so it is never claimed again. `tests/model.rs` runs this file under loom.

use crate::Extents;
use crate::sync::{Arc, Mutex, MutexGuard};

/// The pieces of one region. Cloning shares them.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    state: Arc<Mutex<State>>,
    align: usize,
}

#[derive(Debug)]
struct State {
    extents: Extents,
    retired_bytes: usize,
}

impl Ledger {
    /// Of `len` bytes, in pieces that start at multiples of `align`.
    pub(crate) fn new(len: usize, align: usize) -> Ledger {
        let state = State { extents: Extents::new(len, align), retired_bytes: 0 };
        Ledger { state: Arc::new(Mutex::new(state)), align }
    }

    /// A piece of at least `len` bytes. `None` when no hole is large enough.
    pub(crate) fn claim(&self, len: usize) -> Option<Claim> {
        let start = self.lock().extents.alloc(len)?;
        let capacity = len.max(1).next_multiple_of(self.align);
        Some(Claim { ledger: self.clone(), start, capacity, retired: false })
    }

    /// Free bytes, in however many holes.
    pub(crate) fn free_bytes(&self) -> usize {
        self.lock().extents.free_bytes()
    }

    /// Bytes that are never free again.
    pub(crate) fn retired_bytes(&self) -> usize {
        self.lock().retired_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A piece that is its holder's alone. Dropping it makes it free.
#[derive(Debug)]
pub(crate) struct Claim {
    ledger: Ledger,
    start: usize,
    capacity: usize,
    retired: bool,
}

impl Claim {
    /// Bytes from the region's start.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Bytes of it.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Gives it to a landing.
    pub(crate) fn lend(self) -> Lent {
        Lent(Some(self))
    }

    /// It is never free again.
    pub(crate) fn retire(mut self) {
        self.retired = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.ledger.lock();
        if self.retired {
            state.retired_bytes += self.capacity;
        } else {
            state.extents.release(self.start, self.capacity);
        }
    }
}

/// A piece that something else may be writing. Dropping it retires it.
#[derive(Debug)]
pub(crate) struct Lent(Option<Claim>);

impl Lent {
    /// The claim again: the landing is known to have ended, or known never to have begun.
    pub(crate) fn returned(mut self) -> Claim {
        self.0.take().expect("a lent piece holds its claim until it is consumed")
    }

    /// Bytes from the region's start.
    pub(crate) fn start(&self) -> usize {
        self.0.as_ref().map_or(0, Claim::start)
    }

    /// Bytes of it.
    pub(crate) fn capacity(&self) -> usize {
        self.0.as_ref().map_or(0, Claim::capacity)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            claim.retire();
        }
    }
}
