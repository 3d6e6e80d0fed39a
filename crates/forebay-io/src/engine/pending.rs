//! The half of a wake-up that is memory. The other half is a bell: something that ends a wait.
//!
//! Whoever wakes first leaves word of its work elsewhere, then sets this, and rings only if nobody had set it. The one who is woken takes it before
//! it looks and before it waits: a wake that comes after that rings, and the wait ends. `tests/model.rs` runs this file under loom.

use crate::sync::{AtomicBool, Ordering};

/// Somebody woke, and it was not taken yet.
#[derive(Debug)]
pub(crate) struct Pending(AtomicBool);

impl Pending {
    /// Nobody woke.
    pub(crate) fn new() -> Self {
        Pending(AtomicBool::new(false))
    }

    /// Says that there is something to look at. True: the bell must be rung.
    pub(crate) fn set(&self) -> bool {
        // Release, paired with the acquire in `take`: what was done before waking is seen by whoever was woken.
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// Whether somebody woke since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel)
    }
}
