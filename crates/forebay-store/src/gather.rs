//! Gathering: small records that lie one behind the other in a segment go to the drive in one write.
//!
//! A drive, and the kernel before it, takes a few large writes for much less than as many bytes in small ones. Records that come in one turn are
//! copied into one buffer, which is written when the turn ends, so nothing waits for company. Each record is completed, acknowledged and flushed
//! as if it had been written alone: a write of several may be torn between any two sectors, and so may several writes.

use std::ops::Range;

use forebay_io::{Arena, Buf, Disk, DiskError, Shared};
use forebay_types::limits::STEP_BYTES;

use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::store::{Op, Store};
use crate::write::RecordOf;

/// Records up to so many bytes are gathered: copying one costs less than a write of its own.
const RECORD_BYTES_MAX: usize = 32 << 10;
/// Bytes of one write: what may be copied in one step.
const WRITE_BYTES_MAX: usize = STEP_BYTES;
/// Buffers for such writes, 2 MiB: half of what may be in flight.
const BUFFERS: usize = 8;

/// Buffers that are there for good, side by side at one end of the arena. Taken where there was room at the moment, they would cut a small arena
/// into pieces for ever: a block larger than any of them would find no place however much is free.
pub(crate) struct Buffers {
    idle: Vec<Buf>,
    span: Range<usize>,
}

impl Buffers {
    /// From an arena that nobody has taken anything of.
    pub(crate) fn new(arena: &Arena) -> Buffers {
        let idle: Vec<Buf> = (0..BUFFERS).map_while(|_| arena.alloc(WRITE_BYTES_MAX)).collect();
        let starts = || idle.iter().map(Buf::arena_offset);
        let span = starts().min().unwrap_or(0)..starts().max().map_or(0, |last| last + WRITE_BYTES_MAX);
        debug_assert!(span.len() == idle.len() * WRITE_BYTES_MAX, "they lie side by side");
        Buffers { idle, span }
    }

    fn give_back(&mut self, buf: Buf, any: bool) {
        if any || self.span.contains(&buf.arena_offset()) {
            self.idle.push(buf);
        }
    }
}

/// A record whose write is to come or under way.
pub(crate) struct Gathered {
    pub(crate) number: u64,
    pub(crate) of: RecordOf,
    /// Held until the write is completed: what the drive does not have yet may not leave DRAM.
    from: Shared,
}

/// Neighbours in a segment that are not handed to the drive yet.
pub(crate) struct Gather {
    lane: Lane,
    /// From the slice's start.
    offset: u64,
    bytes: usize,
    records: Vec<Gathered>,
}

impl Gather {
    fn end(&self) -> u64 {
        self.offset + self.bytes as u64
    }

    /// True when a record at `offset` of `bytes` goes on where this ends, and there is room for it.
    fn takes(&self, offset: u64, bytes: usize) -> bool {
        self.end() == offset && self.bytes + bytes <= WRITE_BYTES_MAX
    }
}

impl<D: Disk> Store<D> {
    /// Writes a record at `offset`: soon, together with its neighbours, if it is small.
    pub(crate) fn write_or_gather(
        &mut self,
        lane: Lane,
        segment: u16,
        number: u64,
        offset: u64,
        of: RecordOf,
        from: Shared,
    ) {
        let bytes = from.len();
        let record = Gathered { number, of, from };
        let Some(at) = self.writing.iter().position(|open| open.segment == segment) else {
            return self.write_one(lane, segment, offset, record);
        };
        let strangers = self.mutant(Mutant::StrangersGathered);
        let takes = |gather: &Gather| gather.takes(if strangers { gather.end() } else { offset }, bytes);
        let fits = self.writing[at].gather.as_ref().is_some_and(takes);
        if !fits {
            self.write_gathered(at);
        }
        if bytes > RECORD_BYTES_MAX || self.mutant(Mutant::NothingGathered) {
            return self.write_one(lane, segment, offset, record);
        }
        let empty = || Gather { lane, offset, bytes: 0, records: Vec::new() };
        let gather = self.writing[at].gather.get_or_insert_with(empty);
        gather.bytes += bytes;
        gather.records.push(record);
    }

    /// Queues what was gathered, segment by segment, and submits what the disk takes.
    pub(crate) fn pump(&mut self) {
        for at in 0..self.writing.len() {
            self.write_gathered(at);
        }
        self.lanes.pump(&mut self.disk);
    }

    pub(crate) fn has_gathered(&self) -> bool {
        self.writing.iter().any(|open| open.gather.is_some())
    }

    fn write_gathered(&mut self, at: usize) {
        let Some(Gather { lane, mut offset, bytes, records }) = self.writing[at].gather.take() else { return };
        let segment = self.writing[at].segment;
        let buf = if records.len() > 1 { self.gathering_buffer() } else { None };
        let Some(mut buf) = buf else {
            // Alone, or there is no memory to put them together.
            for record in records {
                let bytes = record.from.len() as u64;
                self.write_one(lane, segment, offset, record);
                offset += bytes;
            }
            return;
        };
        buf.set_len(bytes);
        let mut to = 0;
        for record in &records {
            buf[to..to + record.from.len()].copy_from_slice(&record.from);
            to += record.from.len();
        }
        let data = buf.freeze();
        let op = Op::Records { segment, records, gathered: Some(data.clone()) };
        self.write(lane, op, offset, data);
    }

    fn gathering_buffer(&mut self) -> Option<Buf> {
        self.gathering_buffers.idle.pop().or_else(|| self.dram.alloc(&self.arena, WRITE_BYTES_MAX))
    }

    /// A write is completed. The buffer in which it gathered several serves again.
    pub(crate) fn records_done(
        &mut self,
        segment: u16,
        records: Vec<Gathered>,
        gathered: Option<Shared>,
        result: Result<(), DiskError>,
    ) {
        if let Some(Ok(buf)) = gathered.map(Shared::thaw) {
            let any = self.mutant(Mutant::BuffersKept);
            self.gathering_buffers.give_back(buf, any);
        }
        for Gathered { number, of, .. } in records {
            self.record_done(segment, number, of, result);
        }
    }

    fn write_one(&mut self, lane: Lane, segment: u16, offset: u64, record: Gathered) {
        let from = record.from.clone();
        self.write(lane, Op::Records { segment, records: vec![record], gathered: None }, offset, from);
    }
}
