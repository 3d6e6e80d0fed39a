//! Who may touch which piece of a region: claimed, lent, retired, free.
//!
//! The whole life of a landing's memory is in the types. A [`Claim`] is its holder's alone. [`Claim::lend`] makes it a [`Lent`], which nobody can look
//! at; only [`Lent::returned`], said by whoever knows that the landing has ended, makes it a claim again. A lent piece that is merely dropped is
//! retired: something may still write it, so it is never claimed again. If it was lent to a writer by name, it is withheld instead: free again once
//! [`Ledger::ended`] is told that this writer writes no more. `tests/model.rs` runs this file under loom.

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
    /// Pieces that were dropped while their writers may still write: start and capacity. No more than there are pieces.
    withheld: Vec<(Writer, usize, usize)>,
    /// Bytes lent to a writer by name and not known to be written no more, those withheld among them.
    named_bytes: usize,
}

/// Who writes a lent piece: a shard, the start of it that was asked, and over which connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// Which shard.
    pub shard: [u8; 16],
    /// Which start of its node.
    pub start: u64,
    /// Number of the witness that it has of the region, if it has one: see [`crate::Region::witness`].
    pub witness: Option<u64>,
}

impl Ledger {
    /// Of `len` bytes, in pieces that start at multiples of `align`.
    pub(crate) fn new(len: usize, align: usize) -> Ledger {
        let state = State { extents: Extents::new(len, align), retired_bytes: 0, withheld: Vec::new(), named_bytes: 0 };
        Ledger { state: Arc::new(Mutex::new(state)), align }
    }

    /// A piece of at least `len` bytes. `None` when no hole is large enough.
    pub(crate) fn claim(&self, len: usize) -> Option<Claim> {
        let start = self.lock().extents.alloc(len)?;
        let capacity = len.max(1).next_multiple_of(self.align);
        Some(Claim { ledger: self.clone(), start, capacity, kept: false })
    }

    /// The piece of at least `len` bytes at `start`, a multiple of the alignment. `None` when not all of it is free.
    pub(crate) fn claim_at(&self, start: usize, len: usize) -> Option<Claim> {
        let taken = self.lock().extents.alloc_at(start, len);
        let capacity = len.max(1).next_multiple_of(self.align);
        taken.then(|| Claim { ledger: self.clone(), start, capacity, kept: false })
    }

    /// It is proved that writers of which `ended` says so write no more: what is withheld for their sake is free. Gives how many pieces.
    pub(crate) fn ended(&self, ended: impl Fn(Writer) -> bool) -> usize {
        let mut state = self.lock();
        let before = state.withheld.len();
        let (free, kept) = state.withheld.drain(..).partition::<Vec<_>, _>(|(writer, ..)| ended(*writer));
        state.withheld = kept;
        for (_, start, capacity) in free {
            state.named_bytes -= capacity;
            state.extents.release(start, capacity);
        }
        before - state.withheld.len()
    }

    /// For whose sake pieces are withheld, of those that are meant; each once.
    pub(crate) fn withheld_for(&self, meant: impl Fn(Writer) -> bool) -> Vec<Writer> {
        let mut writers = Vec::new();
        for (writer, ..) in &self.lock().withheld {
            if meant(*writer) && !writers.contains(writer) {
                writers.push(*writer);
            }
        }
        writers
    }

    /// Bytes that a writer has by name.
    pub(crate) fn named_bytes(&self) -> usize {
        self.lock().named_bytes
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
    /// Dropping it leaves it taken.
    kept: bool,
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
        Lent { claim: Some(self), writer: None }
    }

    /// Gives it to a landing by this writer: withheld, not retired, should it be dropped.
    pub(crate) fn lend_to(self, writer: Writer) -> Lent {
        self.ledger.lock().named_bytes += self.capacity;
        Lent { claim: Some(self), writer: Some(writer) }
    }

    /// It is never free again.
    pub(crate) fn retire(mut self) {
        self.ledger.lock().retired_bytes += self.capacity;
        self.kept = true;
    }

    /// It is free again when that writer is known to write no more.
    fn withhold(mut self, writer: Writer) {
        self.ledger.lock().withheld.push((writer, self.start, self.capacity));
        self.kept = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.kept {
            self.ledger.lock().extents.release(self.start, self.capacity);
        }
    }
}

/// A piece that something else may be writing. Dropping it retires or withholds it.
#[derive(Debug)]
pub(crate) struct Lent {
    claim: Option<Claim>,
    writer: Option<Writer>,
}

impl Lent {
    /// The claim again: the landing is known to have ended, or known never to have begun.
    pub(crate) fn returned(mut self) -> Claim {
        let claim = self.claim.take().expect("a lent piece holds its claim until it is consumed");
        if self.writer.is_some() {
            claim.ledger.lock().named_bytes -= claim.capacity;
        }
        claim
    }

    /// Bytes from the region's start.
    pub(crate) fn start(&self) -> usize {
        self.claim.as_ref().map_or(0, Claim::start)
    }

    /// Bytes of it.
    pub(crate) fn capacity(&self) -> usize {
        self.claim.as_ref().map_or(0, Claim::capacity)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        match self.writer {
            Some(writer) => claim.withhold(writer),
            None => claim.retire(),
        }
    }
}
