//! The seam between the store and whatever keeps its bytes.

use std::ops::Range;

use crate::{Buf, Landing, Shared};

/// What a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskInfo {
    /// Bytes in all. Offsets of operations are inside `0..len`.
    pub len: u64,
    /// What offsets, lengths and memory addresses of operations are multiples of, in bytes: 512 to 4096.
    pub align: usize,
    /// Operations that may be in flight at once.
    pub depth: usize,
}

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The kernel's errno.
    #[error("the drive answered {}", std::io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// Fewer bytes than asked, and no more to be had.
    #[error("the drive gave fewer bytes than asked")]
    Short,
}

/// Where a read's bytes go. The operation owns it until its completion.
#[derive(Debug)]
pub enum ReadInto {
    /// All of the buffer's length, in the arena.
    Buf(Buf),
    /// A slice of a client's region: direct landing.
    Landing(Landing),
}

impl ReadInto {
    /// Bytes the read fills.
    pub fn len(&self) -> usize {
        match self {
            ReadInto::Buf(buf) => buf.len(),
            ReadInto::Landing(landing) => landing.len(),
        }
    }

    /// Whether that is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cuts it in two at `at` bytes, a multiple of the arena's alignment inside it; gives the rest.
    pub fn split_off(&mut self, at: usize) -> ReadInto {
        match self {
            ReadInto::Buf(buf) => ReadInto::Buf(buf.split_off(at)),
            ReadInto::Landing(landing) => ReadInto::Landing(landing.split_off(at)),
        }
    }

    /// Makes it whole again with the part that lies behind it. The part comes back if it is none of that.
    pub fn join(&mut self, rest: ReadInto) -> Result<(), ReadInto> {
        match (self, rest) {
            (ReadInto::Buf(buf), ReadInto::Buf(rest)) => buf.join(rest).map_err(ReadInto::Buf),
            (ReadInto::Landing(landing), ReadInto::Landing(rest)) => landing.join(rest).map_err(ReadInto::Landing),
            (_, rest) => Err(rest),
        }
    }
}

/// An operation. `token` comes back with its completion and is the caller's to choose.
#[derive(Debug)]
pub enum DiskOp {
    /// Reads `into`'s whole length at `offset`.
    Read {
        /// Caller's.
        token: u64,
        /// Bytes from the disk's start.
        offset: u64,
        /// Target.
        into: ReadInto,
    },
    /// Writes the bytes `part` of `from` at `offset`. Not durable until a later [`DiskOp::Flush`] completes.
    Write {
        /// Caller's.
        token: u64,
        /// Bytes from the disk's start.
        offset: u64,
        /// Source.
        from: Shared,
        /// Which of its bytes; both ends are multiples of the alignment.
        part: Range<usize>,
    },
    /// Makes every write *completed before this was submitted* durable.
    Flush {
        /// Caller's.
        token: u64,
    },
}

impl DiskOp {
    /// Writes all of `from` at `offset`.
    pub fn write(token: u64, offset: u64, from: Shared) -> DiskOp {
        let part = 0..from.len();
        DiskOp::Write { token, offset, from, part }
    }
}

/// A finished operation, in any order.
#[derive(Debug)]
pub struct DiskDone {
    /// As submitted.
    pub token: u64,
    /// How it ended.
    pub result: Result<(), DiskError>,
    /// A read's target, given back. Its contents mean nothing when `result` is an error.
    pub read: Option<ReadInto>,
}

/// Something that keeps bytes: a slice of a file by io_uring or threads, or the disk that forgets.
pub trait Disk {
    /// What it is.
    fn info(&self) -> DiskInfo;

    /// Starts an operation, or gives it back when `depth` are in flight.
    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp>;

    /// Operations submitted and not yet returned by [`Self::poll`].
    fn in_flight(&self) -> usize;

    /// Sees to it that what was submitted begins now. Without it, that may wait for the next [`Self::poll`].
    fn begin(&mut self) {}

    /// Collects what has finished, without waiting.
    fn poll(&mut self, done: &mut Vec<DiskDone>);

    /// Waits until at least one operation has finished, then collects. Returns at once when none is in flight. For start and stop only.
    fn wait(&mut self, done: &mut Vec<DiskDone>);
}
