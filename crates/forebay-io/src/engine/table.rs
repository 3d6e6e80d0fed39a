//! Which memory is registered with a ring, and under which numbers.
//!
//! The arena takes the first entries. Pinning is only a gain in speed: memory that is not in the table, or that lies across two entries, goes
//! the ordinary way.

use std::ptr::NonNull;

/// Largest registered buffer, in bytes: the kernel's limit.
pub(super) const ENTRY_BYTES: usize = 1 << 30;

#[derive(Debug)]
pub(super) struct Table {
    base: usize,
    /// Bytes of the arena registered so far, from its start, in entries of [`ENTRY_BYTES`].
    registered: usize,
}

impl Table {
    pub(super) fn new(base: NonNull<u8>) -> Self {
        Table { base: base.addr().get(), registered: 0 }
    }

    /// Whole entries of an arena of `len` bytes: offset and length of each.
    pub(super) fn entries(len: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..len).step_by(ENTRY_BYTES).map(move |start| (start, ENTRY_BYTES.min(len - start)))
    }

    pub(super) fn registered(&mut self, len: usize) {
        self.registered += len;
    }

    /// The number of the entry that holds all of it.
    pub(super) fn find(&self, ptr: *const u8, len: usize) -> Option<u16> {
        let start = ptr.addr().checked_sub(self.base)?;
        let end = start.checked_add(len)?;
        let (first, last) = (start / ENTRY_BYTES, end.saturating_sub(1) / ENTRY_BYTES);
        (end <= self.registered && first == last).then_some(first as u16)
    }
}
