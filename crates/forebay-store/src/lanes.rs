//! Lanes: kinds of I/O that share the drive's depth fairly, by deficit round robin over bytes.
//!
//! Without them a burst of large puts would stand before every small get. What is no small get goes to the drive in parts, with a ceiling of bytes
//! in flight: whatever a drive was handed, a get must wait for. While small gets come, parts are small and the ceiling is low.

use std::collections::VecDeque;

use forebay_io::{Disk, DiskDone, DiskOp, ReadInto, Shared};
use forebay_types::Millis;

use crate::parts::{Part, PartOf, Read, Write};
use crate::slab::Slab;

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
/// Gets up to this many bytes are small.
pub(crate) const SMALL_GET_BYTES: usize = 256 << 10;

/// How writes, and reads that are no small gets, go to the drive.
#[derive(Debug, PartialEq, Eq)]
struct Pace {
    /// Bytes of one operation. A rest of a quarter more goes along: a part of a few KiB costs as much as a large one.
    write_part_bytes: usize,
    read_part_bytes: usize,
    /// Bytes of writes in flight at once.
    write_bytes_max: u64,
    /// Bytes of reads.
    read_bytes_max: u64,
    /// Reads and writes have the ceiling of writes together, not one each.
    together: bool,
}

/// While nobody has asked for a small get for a while: a drive with a long way to it reads faster from a deeper queue (1 MiB at a time, from three in flight
/// to sixteen: 1.21 to 1.69 GB/s). Who comes next waits for all of it, once.
const LARGE_ONLY: Pace = Pace {
    write_part_bytes: 1 << 20,
    read_part_bytes: 1 << 20,
    write_bytes_max: 4 << 20,
    read_bytes_max: 16 << 20,
    together: false,
};
/// While small gets come now and then: what keeps a drive busy, and no more than it has done in a few milliseconds.
const ALONE: Pace = Pace { read_bytes_max: 4 << 20, ..LARGE_ONLY };
/// While they come. A get waits for what the drive was handed before it: two parts of 256 KiB are 250 us at 2 GB/s, where one write of 16 MiB is
/// 8 ms, and they keep a drive as busy as larger ones do. Reads take half of that: drives answer them later the more of them there are, and two
/// parts of 128 KiB, each with its rest, give four fifths of the speed for a third less waiting.
const BESIDE_GETS: Pace = Pace {
    write_part_bytes: 256 << 10,
    read_part_bytes: 128 << 10,
    write_bytes_max: 640 << 10,
    read_bytes_max: 320 << 10,
    together: true,
};
/// So long after a small get the next one is expected.
const GETS_LAST_MS: Millis = 100;
/// And so long one is thought possible.
const GETS_MAY_COME_MS: Millis = 1000;

/// In the number that the disk is given: this operation is a part of a write or of a read.
const PART: u64 = 1 << 63;

/// Something for the disk to do.
enum Queued {
    /// A small get: one operation.
    Small { op: DiskOp, bytes: u64 },
    /// A number in `reads`. It stays at the front until its last part is with the disk.
    Read(u64),
    /// A number in `writes`, likewise.
    Write(u64),
}

/// Queues in front of a disk.
pub(crate) struct Lanes {
    queues: [VecDeque<Queued>; LANES],
    deficit: [u64; LANES],
    turn: usize,
    writes: Slab<Write>,
    reads: Slab<Read>,
    parts: Slab<Part>,
    writes_in_flight: u64,
    /// Small gets are not among them.
    reads_in_flight: u64,
    flush: Option<u64>,
    /// The disk took no more the last time.
    was_full: bool,
    now: Millis,
    small_get_at: Option<Millis>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Lanes {
            queues: Default::default(),
            deficit: [0; LANES],
            turn: 0,
            writes: Slab::new(),
            reads: Slab::new(),
            parts: Slab::new(),
            writes_in_flight: 0,
            reads_in_flight: 0,
            flush: None,
            was_full: false,
            now: 0,
            small_get_at: None,
        }
    }

    /// Says what time it is.
    pub(crate) fn set_now(&mut self, now: Millis) {
        self.now = now;
    }

    pub(crate) fn is_full(&self, lane: Lane) -> bool {
        self.queues[lane as usize].len() >= QUEUED_MAX[lane as usize]
    }

    /// Queues a read. Callers that may be told `busy` ask [`Self::is_full`] before.
    pub(crate) fn read(&mut self, lane: Lane, token: u64, offset: u64, into: ReadInto) {
        let queued = if lane == Lane::SmallGet {
            self.small_get_at = Some(self.now);
            let bytes = into.len() as u64;
            Queued::Small { op: DiskOp::Read { token, offset, into }, bytes }
        } else {
            let (rest, parts) = (Some(into), Vec::new());
            Queued::Read(self.reads.insert(Read { token, offset, rest, parts, in_flight: 0, result: Ok(()) }))
        };
        self.queues[lane as usize].push_back(queued);
    }

    /// Takes reads for gets out of their queues, which nobody waits for any more and the disk was not handed a part of. Gives their tokens.
    pub(crate) fn take_back(&mut self, mut is_idle: impl FnMut(u64) -> bool) -> Vec<u64> {
        let mut taken = Vec::new();
        let reads = &mut self.reads;
        for lane in [Lane::SmallGet, Lane::LargeGet] {
            self.queues[lane as usize].retain(|queued| {
                let token = match queued {
                    Queued::Small { op: DiskOp::Read { token, .. }, .. } => *token,
                    Queued::Read(number) => match reads.get_mut(*number) {
                        Some(read) if read.parts.is_empty() => read.token,
                        _ => return true,
                    },
                    Queued::Small { .. } | Queued::Write(_) => return true,
                };
                if !is_idle(token) {
                    return true;
                }
                if let Queued::Read(number) = queued {
                    reads.remove(*number);
                }
                taken.push(token);
                false
            });
        }
        taken
    }

    /// Queues a write of all of `from`.
    pub(crate) fn write(&mut self, lane: Lane, token: u64, offset: u64, from: Shared) {
        let write = self.writes.insert(Write { token, offset, from, begun: 0, parts: 0, result: Ok(()) });
        self.queues[lane as usize].push_back(Queued::Write(write));
    }

    /// Asks for a flush, which goes before everything queued. One at a time: the caller sees to it.
    pub(crate) fn push_flush(&mut self, token: u64) {
        debug_assert!(self.flush.is_none());
        self.flush = Some(token);
    }

    /// Takes note of what the disk has done. What went in parts is told once, when all have ended, with the first error.
    pub(crate) fn ended(&mut self, done: DiskDone) -> Option<DiskDone> {
        if done.token & PART == 0 {
            return Some(done);
        }
        let part = self.parts.remove(done.token & !PART)?;
        match part.of {
            PartOf::Write(number) => {
                self.writes_in_flight -= part.bytes;
                let write = self.writes.get_mut(number)?;
                write.parts -= 1;
                write.result = write.result.and(done.result);
                if write.parts > 0 || write.begun < write.from.len() {
                    return None;
                }
                let Write { token, result, .. } = self.writes.remove(number)?;
                Some(DiskDone { token, result, read: None })
            }
            PartOf::Read(number, at) => {
                self.reads_in_flight -= part.bytes;
                let read = self.reads.get_mut(number)?;
                read.in_flight -= 1;
                read.result = read.result.and(done.result);
                *read.parts.get_mut(at)? = done.read;
                if read.in_flight > 0 || read.rest.is_some() {
                    return None;
                }
                let read = self.reads.remove(number)?;
                let (token, result) = (read.token, read.result);
                Some(DiskDone { token, result, read: read.whole() })
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flush.is_none() && self.queues.iter().all(VecDeque::is_empty)
    }

    fn pace(&self) -> &'static Pace {
        match self.small_get_at.map(|at| self.now.saturating_sub(at)) {
            Some(ago) if ago < GETS_LAST_MS => &BESIDE_GETS,
            Some(ago) if ago < GETS_MAY_COME_MS => &ALONE,
            _ => &LARGE_ONLY,
        }
    }

    /// Bytes of what a lane does next.
    fn next_bytes(&mut self, lane: usize) -> Option<u64> {
        let pace = self.pace();
        let (left, part_bytes) = match self.queues[lane].front()? {
            Queued::Small { bytes, .. } => return Some(*bytes),
            Queued::Read(number) => (self.reads.get_mut(*number)?.rest_bytes(), pace.read_part_bytes),
            Queued::Write(number) => {
                let write = self.writes.get_mut(*number)?;
                (write.from.len() - write.begun, pace.write_part_bytes)
            }
        };
        Some(if left <= part_bytes + part_bytes / 4 { left } else { part_bytes } as u64)
    }

    /// One that is larger than what may be in flight flies alone.
    fn may_go(&self, lane: usize, bytes: u64) -> bool {
        let pace = self.pace();
        let (reads, writes) = (self.reads_in_flight, self.writes_in_flight);
        let (in_flight, most) = match self.queues[lane].front() {
            Some(Queued::Read(_)) => (reads, pace.read_bytes_max),
            Some(Queued::Write(_)) => (writes, pace.write_bytes_max),
            Some(Queued::Small { .. }) | None => return true,
        };
        let fits = |in_flight: u64, most: u64| in_flight == 0 || in_flight + bytes <= most;
        fits(in_flight, most) && (!pace.together || fits(reads + writes, pace.write_bytes_max))
    }

    /// Submits what the disk takes.
    pub(crate) fn pump(&mut self, disk: &mut impl Disk) {
        if let Some(token) = self.flush.take()
            && disk.submit(DiskOp::Flush { token }).is_err()
        {
            self.flush = Some(token);
            return;
        }
        // Before anybody's turn: a disk begins what it is handed in that order, and what is small is soon done. If it took no more the last time, all
        // have their turn first.
        self.was_full = !((self.was_full || self.pump_small(disk)) && self.pump_in_turn(disk));
    }

    /// Submits small gets. False: the disk takes no more now.
    fn pump_small(&mut self, disk: &mut impl Disk) -> bool {
        let (lane, mut left) = (Lane::SmallGet as usize, QUANTUM_BYTES[Lane::SmallGet as usize]);
        while let Some(bytes) = self.next_bytes(lane) {
            if bytes > left {
                break;
            }
            if !self.submit(lane, bytes, disk) {
                return false;
            }
            left -= bytes;
        }
        true
    }

    /// Submits by turns. False: the disk takes no more now.
    fn pump_in_turn(&mut self, disk: &mut impl Disk) -> bool {
        let mut idle = 0;
        while idle < LANES {
            let lane = self.turn;
            let Some(bytes) = self.next_bytes(lane) else {
                self.deficit[lane] = 0;
                self.next(&mut idle);
                continue;
            };
            if !self.may_go(lane, bytes) {
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
            if !self.submit(lane, bytes, disk) {
                return false;
            }
            self.deficit[lane] -= bytes;
            idle = 0;
            if self.deficit[lane] < QUANTUM_BYTES[lane] / 2 {
                self.turn = (lane + 1) % LANES;
            }
        }
        true
    }

    /// Hands over the first of a lane, or the next `bytes` of it. False: the disk takes no more now.
    fn submit(&mut self, lane: usize, bytes: u64, disk: &mut impl Disk) -> bool {
        let Some(queued) = self.queues[lane].pop_front() else { return false };
        let (taken, more) = match queued {
            Queued::Small { op, bytes } => {
                let refused = disk.submit(op).err();
                let taken = refused.is_none();
                (taken, refused.map(|op| Queued::Small { op, bytes }))
            }
            Queued::Read(number) => {
                let (taken, more) = self.submit_read(number, bytes, disk);
                (taken, more.then_some(Queued::Read(number)))
            }
            Queued::Write(number) => {
                let (taken, more) = self.submit_write(number, bytes, disk);
                (taken, more.then_some(Queued::Write(number)))
            }
        };
        if let Some(queued) = more {
            self.queues[lane].push_front(queued);
        }
        taken
    }

    /// Whether the disk took the next part of a read, and whether there is more of it.
    fn submit_read(&mut self, number: u64, bytes: u64, disk: &mut impl Disk) -> (bool, bool) {
        let Some(read) = self.reads.get_mut(number) else { return (true, false) };
        let Some(mut into) = read.rest.take() else { return (true, false) };
        let len = bytes as usize;
        let offset = read.offset;
        let rest = (len < into.len()).then(|| into.split_off(len));
        let one = self.parts.insert(Part { of: PartOf::Read(number, read.parts.len()), bytes });
        match disk.submit(DiskOp::Read { token: PART | one, offset, into }) {
            Ok(()) => {
                read.parts.push(None);
                read.in_flight += 1;
                read.offset += bytes;
                read.rest = rest;
                self.reads_in_flight += bytes;
                (true, read.rest.is_some())
            }
            Err(op) => {
                self.parts.remove(one);
                if let DiskOp::Read { mut into, .. } = op {
                    // It was cut from it just now.
                    read.rest = match rest.map(|rest| into.join(rest)) {
                        None | Some(Ok(())) => Some(into),
                        Some(Err(rest)) => Some(rest),
                    };
                }
                (false, true)
            }
        }
    }

    /// Whether the disk took the next part of a write, and whether there is more of it.
    fn submit_write(&mut self, number: u64, bytes: u64, disk: &mut impl Disk) -> (bool, bool) {
        let Some(write) = self.writes.get_mut(number) else { return (true, false) };
        let part = write.begun..write.begun + bytes as usize;
        let offset = write.offset + part.start as u64;
        let one = self.parts.insert(Part { of: PartOf::Write(number), bytes });
        let taken = disk.submit(DiskOp::Write { token: PART | one, offset, from: write.from.clone(), part }).is_ok();
        if taken {
            write.begun += bytes as usize;
            write.parts += 1;
            self.writes_in_flight += bytes;
        } else {
            self.parts.remove(one);
        }
        (taken, write.begun < write.from.len())
    }

    fn next(&mut self, idle: &mut usize) {
        *idle += 1;
        self.turn = (self.turn + 1) % LANES;
    }
}

#[cfg(test)]
mod tests {
    use forebay_io::sim::{Fault, Medium, OpKind, SimDisk, SimOptions};
    use forebay_io::{Arena, DiskError, ReadInto};

    use super::*;

    const MIB: usize = 1 << 20;

    struct Rig {
        medium: Medium,
        disk: SimDisk,
        arena: Arena,
        lanes: Lanes,
    }

    impl Rig {
        fn new(depth: usize) -> Rig {
            let medium = Medium::new(SimOptions { len: 64 << 20, depth, ..SimOptions::default() });
            let disk = medium.open();
            Rig { medium, disk, arena: Arena::new(128 << 20).unwrap(), lanes: Lanes::new() }
        }

        fn write(&mut self, token: u64, bytes: usize) {
            let mut from = self.arena.alloc(bytes).unwrap();
            from.fill(token as u8);
            self.lanes.write(Lane::Put, token, token << 20, from.freeze());
        }

        fn get(&mut self, token: u64) {
            let into = ReadInto::Buf(self.arena.alloc(4096).unwrap());
            self.lanes.read(Lane::SmallGet, token, 0, into);
        }

        fn large_get(&mut self, token: u64) {
            let into = ReadInto::Buf(self.arena.alloc(MIB).unwrap());
            self.lanes.read(Lane::LargeGet, token, 0, into);
        }

        /// What has ended, as the store is told.
        fn wait(&mut self) -> Vec<DiskDone> {
            let mut done = Vec::new();
            self.disk.wait(&mut done);
            done.into_iter().filter_map(|done| self.lanes.ended(done)).collect()
        }
    }

    #[test]
    fn a_small_get_passes_a_queue_of_puts() {
        let mut rig = Rig::new(4);
        for token in 0..40 {
            rig.write(token, MIB);
        }
        rig.lanes.pump(&mut rig.disk);
        rig.get(1000);
        let mut ended = 0;
        loop {
            let done = rig.wait();
            ended += done.iter().filter(|d| d.token < 1000).count();
            if done.iter().any(|d| d.token == 1000) {
                break;
            }
            rig.lanes.pump(&mut rig.disk);
        }
        assert!(ended < 20, "{ended} of 40 puts went before it");
    }

    #[test]
    fn a_small_get_is_handed_over_before_what_was_queued_with_it_and_a_full_disk_serves_all() {
        let mut rig = Rig::new(3);
        rig.lanes.turn = Lane::Put as usize;
        (0..4).for_each(|token| rig.write(token, MIB));
        (1000..1004).for_each(|token| rig.get(token));
        rig.lanes.pump(&mut rig.disk);
        assert_eq!((rig.lanes.queues[0].len(), rig.lanes.writes_in_flight), (1, 0), "three small ones fill the disk");
        // Small gets without end.
        let mut written = 0;
        for token in 2000..2200 {
            rig.get(token);
            rig.get(token + 1000);
            written += rig.wait().iter().filter(|done| done.token < 4).count();
            rig.lanes.pump(&mut rig.disk);
        }
        assert_eq!(written, 4, "writes have their turn beside them");
    }

    #[test]
    fn while_small_gets_come_few_bytes_of_writes_are_in_flight() {
        let mut rig = Rig::new(64);
        rig.write(0, 16 * MIB);
        rig.write(20, 16 * MIB);
        rig.lanes.pump(&mut rig.disk);
        assert_eq!(rig.lanes.writes_in_flight, 4 << 20, "alone");
        rig.lanes.set_now(1);
        rig.get(1000);
        let mut most = 0;
        while rig.lanes.writes_in_flight > 0 {
            rig.wait();
            // What was in flight when the get came ends; from then on the low ceiling holds.
            if rig.lanes.writes_in_flight <= BESIDE_GETS.write_bytes_max {
                rig.lanes.pump(&mut rig.disk);
                most = most.max(rig.lanes.writes_in_flight);
            }
            if most > 0 {
                break;
            }
        }
        assert_eq!(most, 512 << 10);
        rig.lanes.set_now(1 + GETS_LAST_MS);
        rig.lanes.pump(&mut rig.disk);
        assert!(rig.lanes.writes_in_flight > 3 << 20, "no get came for so long: {}", rig.lanes.writes_in_flight);
    }

    #[test]
    fn a_write_in_parts_is_told_once_and_its_bytes_are_all_there() {
        let mut rig = Rig::new(64);
        rig.get(1000);
        rig.write(3, 5 * MIB + 4096);
        rig.lanes.pump(&mut rig.disk);
        let mut told = Vec::new();
        while !rig.lanes.is_empty() || rig.disk.in_flight() > 0 {
            told.extend(rig.wait().into_iter().filter(|d| d.token == 3));
            rig.lanes.pump(&mut rig.disk);
        }
        assert_eq!(told.iter().map(|d| d.result).collect::<Vec<_>>(), [Ok(())]);
        assert_eq!(rig.lanes.writes_in_flight, 0);
        let counts = rig.medium.counts();
        assert_eq!((counts.writes, counts.written_bytes), (20, (5 * MIB + 4096) as u64), "the last KiB ride along");
        let into = ReadInto::Buf(rig.arena.alloc(5 * MIB + 4096).unwrap());
        let reads = rig.medium.counts().reads;
        rig.lanes.read(Lane::LargeGet, 7, 3 << 20, into);
        let mut told = Vec::new();
        while told.is_empty() {
            rig.lanes.pump(&mut rig.disk);
            told.extend(rig.wait());
        }
        assert_eq!((told.len(), told[0].token, told[0].result), (1, 7, Ok(())));
        let Some(ReadInto::Buf(buf)) = told.pop().and_then(|d| d.read) else { panic!("one buffer comes back") };
        assert!(buf.len() == 5 * MIB + 4096 && buf.iter().all(|byte| *byte == 3));
        assert_eq!(
            (rig.medium.counts().reads - reads, rig.lanes.reads_in_flight),
            (40, 0),
            "reads in parts of their own"
        );
    }

    #[test]
    fn a_part_that_fails_fails_its_write() {
        let mut rig = Rig::new(64);
        rig.medium.fault(Fault { after: 1, ..Fault::next(OpKind::Write) });
        rig.write(3, 4 * MIB);
        let mut told = Vec::new();
        while told.is_empty() {
            rig.lanes.pump(&mut rig.disk);
            told.extend(rig.wait());
        }
        assert_eq!(told.iter().map(|d| (d.token, d.result)).collect::<Vec<_>>(), [(3, Err(DiskError::Os(5)))]);
        assert!(rig.lanes.is_empty() && rig.disk.in_flight() == 0 && rig.lanes.writes_in_flight == 0);
    }

    #[test]
    fn while_small_gets_come_few_bytes_of_large_ones_are_in_flight() {
        let mut rig = Rig::new(64);
        rig.get(999);
        rig.lanes.pump(&mut rig.disk);
        assert_eq!(rig.wait().len(), 1);
        rig.lanes.set_now(GETS_LAST_MS);
        for token in 0..16 {
            rig.large_get(token);
        }
        rig.lanes.pump(&mut rig.disk);
        assert_eq!(rig.lanes.reads_in_flight, 4 << 20, "alone, as much as keeps a drive busy");
        rig.get(1000);
        rig.write(20, MIB);
        let (mut most, mut most_read, mut told) = (0, 0, Vec::new());
        while told.len() < 18 {
            told.extend(rig.wait().into_iter().map(|done| done.token));
            rig.lanes.pump(&mut rig.disk);
            if told.len() > 4 {
                most = most.max(rig.lanes.reads_in_flight + rig.lanes.writes_in_flight);
                most_read = most_read.max(rig.lanes.reads_in_flight);
            }
        }
        assert!(most_read <= BESIDE_GETS.read_bytes_max, "{most_read}");
        assert!(told.iter().position(|token| *token == 1000).is_some_and(|at| at < 6), "{told:?}");
        assert!(most <= BESIDE_GETS.write_bytes_max, "reads and writes together: {most}");
    }

    #[test]
    fn reads_go_deep_only_where_no_small_get_is_near() {
        let mut rig = Rig::new(64);
        for (at, deep) in [(0, true), (GETS_LAST_MS, false), (GETS_MAY_COME_MS, true)] {
            rig.lanes.set_now(at);
            for token in 0..20 {
                rig.large_get(token);
            }
            rig.lanes.pump(&mut rig.disk);
            assert_eq!(rig.lanes.reads_in_flight, if deep { 16 << 20 } else { 4 << 20 }, "at {at}");
            while rig.disk.in_flight() > 0 || !rig.lanes.is_empty() {
                rig.wait();
                rig.lanes.pump(&mut rig.disk);
            }
            if at == 0 {
                rig.get(1000);
                rig.lanes.pump(&mut rig.disk);
                rig.wait();
            }
        }
    }

    #[test]
    fn what_nobody_waits_for_is_taken_back_until_the_disk_has_it() {
        let mut rig = Rig::new(2);
        for token in 0..4 {
            rig.large_get(token);
            rig.get(1000 + token);
        }
        rig.lanes.pump(&mut rig.disk);
        let (begun, free) = (rig.disk.in_flight(), rig.arena.free_bytes());
        assert_eq!(begun, 2);
        let mut taken = rig.lanes.take_back(|token| token != 1003);
        taken.sort_unstable();
        assert!(taken.len() == 5 && !taken.contains(&1003), "{taken:?}");
        assert!(rig.arena.free_bytes() > free, "its memory is free");
        let mut told = Vec::new();
        while rig.disk.in_flight() > 0 || !rig.lanes.is_empty() {
            told.extend(rig.wait().into_iter().map(|done| done.token));
            rig.lanes.pump(&mut rig.disk);
        }
        assert!(told.len() == 3 && told.contains(&1003) && taken.iter().all(|token| !told.contains(token)), "{told:?}");
        assert_eq!(rig.medium.counts().reads, 3, "the others cost no read");
    }
}
