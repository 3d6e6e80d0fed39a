//! Lanes: kinds of I/O that share the drive's depth fairly, by deficit round robin over bytes.
//!
//! Without them a burst of large puts would stand before every small get. Writes have a ceiling of bytes in flight too: a drive takes writes
//! into its buffer at once and then makes reads wait.

use std::collections::VecDeque;

use forebay_io::{Disk, DiskOp};

/// A kind of I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    SmallGet = 0,
    LargeGet = 1,
    Put = 2,
    Reappend = 3,
    Scrub = 4,
    Prefetch = 5,
}

const LANES: usize = 6;

/// Bytes a lane may spend each round. Small gets never wait long for a round; re-append gets what keeps puts going;
/// prefetch comes before anybody waits for it; scrub gets what is left.
const QUANTUM_BYTES: [u64; LANES] = [1 << 20, 1 << 20, 1 << 20, 512 << 10, 128 << 10, 256 << 10];
/// Operations a lane may have queued: at 10 us each a queue this long is 40 ms old, and its requests are better told `busy`. Puts and re-appends
/// are bounded by the arena, and once begun must be written.
const QUEUED_MAX: [usize; LANES] = [4096, 4096, usize::MAX, usize::MAX, 256, 256];
/// Bytes of writes in flight at once. A larger one flies alone.
const WRITE_BYTES_MAX: u64 = 4 << 20;
/// Gets up to this many bytes are small.
pub(crate) const SMALL_GET_BYTES: usize = 256 << 10;

/// Queues in front of a disk.
pub(crate) struct Lanes {
    queues: [VecDeque<(DiskOp, u64)>; LANES],
    deficit: [u64; LANES],
    turn: usize,
    writes_in_flight: u64,
    flush: Option<u64>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Lanes { queues: Default::default(), deficit: [0; LANES], turn: 0, writes_in_flight: 0, flush: None }
    }

    pub(crate) fn is_full(&self, lane: Lane) -> bool {
        self.queues[lane as usize].len() >= QUEUED_MAX[lane as usize]
    }

    /// Queues an operation of `bytes`. Callers that may be told `busy` ask [`Self::is_full`] before.
    pub(crate) fn push(&mut self, lane: Lane, op: DiskOp, bytes: u64) {
        self.queues[lane as usize].push_back((op, bytes));
    }

    /// Asks for a flush, which goes before everything queued. One at a time: the caller sees to it.
    pub(crate) fn push_flush(&mut self, token: u64) {
        debug_assert!(self.flush.is_none());
        self.flush = Some(token);
    }

    /// A write of `bytes` has completed.
    pub(crate) fn written(&mut self, bytes: u64) {
        self.writes_in_flight -= bytes;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flush.is_none() && self.queues.iter().all(VecDeque::is_empty)
    }

    fn may_go(&self, op: &DiskOp, bytes: u64) -> bool {
        !matches!(op, DiskOp::Write { .. })
            || self.writes_in_flight == 0
            || self.writes_in_flight + bytes <= WRITE_BYTES_MAX
    }

    /// Submits what the disk takes.
    pub(crate) fn pump(&mut self, disk: &mut impl Disk) {
        if let Some(token) = self.flush.take()
            && disk.submit(DiskOp::Flush { token }).is_err()
        {
            self.flush = Some(token);
            return;
        }
        let mut idle = 0;
        while idle < LANES {
            let lane = self.turn;
            let Some((op, bytes)) = self.queues[lane].front() else {
                self.deficit[lane] = 0;
                self.next(&mut idle);
                continue;
            };
            let bytes = *bytes;
            if !self.may_go(op, bytes) {
                self.next(&mut idle);
                continue;
            }
            if self.deficit[lane] < bytes {
                // The round of whoever cannot pay yet ends here; what it saved is kept.
                self.deficit[lane] += QUANTUM_BYTES[lane];
                if self.deficit[lane] < bytes {
                    idle = 0;
                    self.turn = (lane + 1) % LANES;
                    continue;
                }
            }
            let Some((op, _)) = self.queues[lane].pop_front() else { continue };
            let is_write = matches!(op, DiskOp::Write { .. });
            if let Err(op) = disk.submit(op) {
                self.queues[lane].push_front((op, bytes));
                return;
            }
            self.writes_in_flight += if is_write { bytes } else { 0 };
            self.deficit[lane] -= bytes;
            idle = 0;
            if self.deficit[lane] < QUANTUM_BYTES[lane] / 2 {
                self.turn = (lane + 1) % LANES;
            }
        }
    }

    fn next(&mut self, idle: &mut usize) {
        *idle += 1;
        self.turn = (self.turn + 1) % LANES;
    }
}

#[cfg(test)]
mod tests {
    use forebay_io::sim::{Medium, SimOptions};
    use forebay_io::{Arena, DiskDone, ReadInto};

    use super::*;

    #[test]
    fn a_small_get_passes_a_queue_of_puts() {
        let medium = Medium::new(SimOptions { len: 64 << 20, depth: 4, ..SimOptions::default() });
        let mut disk = medium.open();
        let arena = Arena::new(64 << 20).unwrap();
        let mut lanes = Lanes::new();
        for token in 0..40 {
            let from = arena.alloc(1 << 20).unwrap().freeze();
            lanes.push(Lane::Put, DiskOp::Write { token, offset: token << 20, from }, 1 << 20);
        }
        lanes.pump(&mut disk);
        let into = ReadInto::Buf(arena.alloc(4096).unwrap());
        lanes.push(Lane::SmallGet, DiskOp::Read { token: 1000, offset: 0, into }, 4096);
        let mut done: Vec<DiskDone> = Vec::new();
        let mut ended = 0;
        while !done.iter().any(|d| d.token == 1000) {
            done.clear();
            disk.wait(&mut done);
            for d in &done {
                ended += usize::from(d.token < 1000);
                if d.token < 1000 {
                    lanes.written(1 << 20);
                }
            }
            lanes.pump(&mut disk);
        }
        assert!(ended < 20, "{ended} of 40 puts went before it");
    }
}
