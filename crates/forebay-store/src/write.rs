//! Writing: segments being filled, record after record, and how they are sealed.
//!
//! Each segment begins with its header. Records are acknowledged in the order of their places, when they and all before them are completed and a
//! flush submitted after that is completed. The footer is written when every record is completed and flushed: it may never promise what is not there.

use std::collections::VecDeque;

use forebay_format::{
    FOOTER_ENTRY_BYTES, FooterEncoder, FooterEntry, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind, footer_bytes,
};
use forebay_io::{Buf, Disk, DiskError, Shared};
use forebay_types::Key;

use crate::flush::Action;
use crate::gather::Gather;
use crate::index::Place;
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::segments::{Geometry, SPARE_SEGMENTS, State};
use crate::store::{Op, Store};

/// At most one byte of footer for so many of segment: smallest records must not fill memory with entries before their segment is full.
pub(crate) const FOOTER_SHARE: u64 = 16;

/// Entries of a footer written into memory in one turn: 128 KiB, some 30 us.
const ENTRIES_PER_TURN: usize = 2048;

/// Entries for which memory is taken at once.
pub(crate) const ENTRIES_STEP: usize = 1024;

/// What a record being written is.
#[derive(Debug)]
pub(crate) enum RecordOf {
    Header,
    Put { ns: u16, key: Key, place: Place, held: usize },
    Move { ns: u16, key: Key, from: Place, to: Place, durable: bool },
    Tombstones,
}

/// A segment being written or sealed.
pub(crate) struct OpenSegment {
    pub(crate) segment: u16,
    pub(crate) kind: SegmentKind,
    /// Next free unit.
    cursor: u32,
    entries: Vec<FooterEntry>,
    /// Records in the order of their places, from the first that is not completed.
    order: VecDeque<Pending>,
    /// Number of the first in `order`.
    first: u64,
    seal: Seal,
    /// The footer while it is written into memory, a few entries a turn.
    footer: Option<(Buf, FooterEncoder)>,
    /// Small records that came in this turn.
    pub(crate) gather: Option<Gather>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seal {
    /// Still filling.
    No,
    /// Full; records are still being written.
    Records,
    /// Waiting for a flush.
    Flush,
    /// The footer can be written as soon as there is memory for it.
    Footer,
    /// Being written.
    Written,
}

struct Pending {
    done: bool,
    action: Option<Action>,
}

/// Where a record goes.
pub(crate) struct Spot {
    pub(crate) segment: u16,
    pub(crate) page: u32,
    pub(crate) generation: u64,
    pub(crate) nonce: u64,
    number: u64,
}

impl OpenSegment {
    fn fits(&self, units: u32, entries: usize, entries_max: usize, geometry: &Geometry) -> bool {
        let (align, segment_units) = (geometry.align, geometry.segment_units);
        let count = self.entries.len() + entries;
        let footer = footer_bytes(count as u32, align);
        let most = u64::from(segment_units) * align as u64 / FOOTER_SHARE;
        self.seal == Seal::No
            && (count * FOOTER_ENTRY_BYTES) as u64 <= most
            // An empty segment takes any one record: a list of tombstones may be longer than a small index's share.
            && (count <= entries_max || self.entries.is_empty())
            && self.cursor + units + (footer / align) as u32 <= segment_units
    }

    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        self.order.iter_mut().filter_map(|pending| pending.action.take()).collect()
    }

    pub(crate) fn entries_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<FooterEntry>()
    }
}

impl<D: Disk> Store<D> {
    fn open_at(&self, kind: SegmentKind) -> Option<usize> {
        self.writing.iter().position(|open| open.kind == kind && open.seal == Seal::No)
    }

    /// True when a record would find a place now. Only cleaning, and tombstones, may use the spare segments.
    pub(crate) fn has_place(&self, kind: SegmentKind, units: u32, entries: usize, spares: bool) -> bool {
        let open = self.open_at(kind).map(|at| &self.writing[at]);
        open.is_some_and(|open| open.fits(units, entries, self.entries_max, &self.geometry))
            || self.segments.free_len() > if spares { 0 } else { SPARE_SEGMENTS }
    }

    /// Opens a segment if a record of `units` needs one. False: no segment, or no memory.
    pub(crate) fn ensure_place(&mut self, kind: SegmentKind, units: u32, entries: usize, spares: bool) -> bool {
        let fits = |open: &OpenSegment| open.fits(units, entries, self.entries_max, &self.geometry);
        self.open_at(kind).is_some_and(|at| fits(&self.writing[at]))
            || (self.has_place(kind, units, entries, spares) && self.open_segment(kind).is_some())
    }

    /// Takes the place that [`Self::ensure_place`] has made sure of. Numbers of records are drawn between the two: opening a segment draws one too,
    /// and a segment's generation is below the numbers of the puts and forgets in it.
    pub(crate) fn take_place(&mut self, kind: SegmentKind, units: u32, entries: &[FooterEntry]) -> Option<Spot> {
        let at = self.open_at(kind)?;
        let geometry = self.geometry;
        let open = &mut self.writing[at];
        let page = open.cursor;
        open.cursor += units;
        let start = geometry.bytes(page) as u32;
        let record_bytes = geometry.bytes(units) as u32;
        if open.entries.len() + entries.len() > open.entries.capacity() {
            // In steps, not by doubling: what grows with blocks is counted and has a ceiling.
            let step = ENTRIES_STEP.min(self.entries_max.saturating_sub(open.entries.len()));
            open.entries.reserve_exact(entries.len().max(step));
        }
        open.entries.extend(entries.iter().map(|entry| FooterEntry { start, record_bytes, ..*entry }));
        open.order.push_back(Pending { done: false, action: None });
        let number = open.first + open.order.len() as u64 - 1;
        let segment = open.segment;
        let s = self.segments.get(segment);
        Some(Spot { segment, page, generation: s.generation, nonce: s.nonce, number })
    }

    /// Writes the record for which `spot` was taken. `action` is done when it is durable, in its turn.
    pub(crate) fn write_record(&mut self, lane: Lane, spot: &Spot, from: Shared, of: RecordOf, action: Option<Action>) {
        if let Some(open) = self.writing.iter_mut().find(|open| open.segment == spot.segment) {
            let at = (spot.number - open.first) as usize;
            open.order[at].action = action;
        }
        let offset = self.geometry.at(spot.segment, spot.page);
        self.write_or_gather(lane, spot.segment, spot.number, offset, of, from);
    }

    /// Opens a segment of this kind; the one before is sealed.
    fn open_segment(&mut self, kind: SegmentKind) -> Option<()> {
        let mut page = self.dram.alloc(&self.arena, SEGMENT_HEADER_BYTES)?;
        let segment = self.segments.pop_free()?;
        self.seal(kind);
        let generation = self.number();
        let nonce = self.entropy.word();
        let header = SegmentHeader {
            shard: self.shard,
            index: u32::from(segment),
            generation,
            nonce,
            kind,
            opened_utc_s: self.utc_s,
        };
        page.copy_from_slice(&header.encode());
        let s = self.segments.get_mut(segment);
        s.state = State::Open;
        s.kind = kind;
        s.generation = generation;
        s.nonce = nonce;
        s.footer_count = None;
        s.tombstone_seq_max = 0;
        if s.oldest_on_disk == 0 {
            s.oldest_on_disk = generation;
        }
        self.writing.push(OpenSegment {
            segment,
            kind,
            cursor: self.geometry.header_units,
            entries: Vec::new(),
            order: VecDeque::from([Pending { done: false, action: None }]),
            first: 0,
            seal: Seal::No,
            footer: None,
            gather: None,
        });
        self.counted.meta_bytes += SEGMENT_HEADER_BYTES as u64;
        let spot = Spot { segment, page: 0, generation, nonce, number: 0 };
        self.write_record(
            Lane::Put,
            &spot,
            page.freeze(),
            RecordOf::Header,
            Some(Action::HeaderWritten { segment, generation }),
        );
        Some(())
    }

    /// Closes the open segment of this kind for further records.
    pub(crate) fn seal(&mut self, kind: SegmentKind) {
        let Some(at) = self.open_at(kind) else { return };
        self.writing[at].seal = Seal::Records;
        let segment = self.writing[at].segment;
        self.segments.get_mut(segment).state = State::Sealing;
        if self.mutant(Mutant::FooterBeforeRecords) {
            self.writing[at].seal = Seal::Footer;
        }
        self.progress(at);
    }

    /// A record is completed: it and those right behind it that are completed too can be flushed.
    pub(crate) fn record_done(&mut self, segment: u16, number: u64, of: RecordOf, result: Result<(), DiskError>) {
        if let RecordOf::Put { held, .. } = &of {
            *self.put_bytes.borrow_mut() -= held;
        }
        if let Err(error) = result {
            if let RecordOf::Put { ns, key, place, .. } = of
                && self.index.find(ns, &key).is_some_and(|e| e.place() == place)
            {
                self.drop_entry(ns, &key);
            }
            if let RecordOf::Move { .. } = of {
                self.move_written(of, false);
            }
            return self.fail_writes(error);
        }
        if let RecordOf::Put { ns, key, place, .. } = of {
            self.leave_if_duplicate(ns, &key, place);
        }
        if let RecordOf::Move { .. } = of {
            self.move_written(of, true);
        }
        let Some(at) = self.writing.iter().position(|open| open.segment == segment) else { return };
        let draining = self.awaits_flush();
        let open = &mut self.writing[at];
        if let Some(pending) = number.checked_sub(open.first).and_then(|i| open.order.get_mut(i as usize)) {
            pending.done = true;
        }
        while open.order.front().is_some_and(|pending| pending.done) {
            open.first += 1;
            if let Some(Pending { action: Some(action), .. }) = open.order.pop_front() {
                let demand = match &action {
                    Action::HeaderWritten { .. } => false,
                    Action::Moved => draining,
                    _ => true,
                };
                self.flusher.add(action, demand);
            }
        }
        self.progress(at);
    }

    /// Whoever put it has it in memory of its own: now that it is written, and was checked before, it leaves DRAM unless somebody else asked for it.
    fn leave_if_duplicate(&mut self, ns: u16, key: &Key, place: Place) {
        if !self.dram.is_duplicate(ns, key) {
            return;
        }
        if let Some(entry) = self.index.find_mut(ns, key)
            && entry.place() == place
        {
            entry.set_in_dram(false);
            self.dram.remove(ns, key);
        }
    }

    fn progress(&mut self, at: usize) {
        let open = &mut self.writing[at];
        if open.seal == Seal::Records && open.order.is_empty() {
            open.seal = Seal::Flush;
            let segment = open.segment;
            self.flusher.add(Action::SealFooter { segment }, true);
        }
    }

    pub(crate) fn write_footer_soon(&mut self, segment: u16) {
        if let Some(open) = self.writing.iter_mut().find(|open| open.segment == segment) {
            open.seal = Seal::Footer;
        }
    }

    /// Writes footers whose time has come. True: there is more to do of one.
    pub(crate) fn seal_step(&mut self) -> bool {
        let next = self.writing.iter().position(|open| open.seal == Seal::Footer);
        next.is_some_and(|at| self.write_footer(at))
    }

    fn write_footer(&mut self, at: usize) -> bool {
        let geometry = self.geometry;
        if self.writing[at].footer.is_none() {
            let len = footer_bytes(self.writing[at].entries.len() as u32, geometry.align);
            let Some(buf) = self.dram.alloc(&self.arena, len) else { return false };
            self.writing[at].footer = Some((buf, FooterEncoder::default()));
        }
        let open = &mut self.writing[at];
        let Some((mut buf, mut footer)) = open.footer.take() else { return false };
        let next = open.entries.get(footer.count()..).unwrap_or_default();
        footer.step(next.iter().take(ENTRIES_PER_TURN).copied(), &mut buf);
        if next.len() > ENTRIES_PER_TURN {
            open.footer = Some((buf, footer));
            return true;
        }
        open.seal = Seal::Written;
        let (segment, kind) = (open.segment, open.kind);
        let s = self.segments.get(segment);
        footer.finish(s.generation, s.nonce, kind, &mut buf);
        let bytes = buf.len() as u64;
        self.counted.meta_bytes += bytes;
        let offset = geometry.layout.segment_at(u32::from(segment)) + geometry.layout.segment_bytes - bytes;
        self.write(Lane::Put, Op::Footer { segment }, offset, buf.freeze());
        true
    }

    pub(crate) fn footer_done(&mut self, segment: u16, result: Result<(), DiskError>) {
        if let Err(error) = result {
            return self.fail_writes(error);
        }
        let Some(at) = self.writing.iter().position(|open| open.segment == segment) else { return };
        if !self.writing[at].order.is_empty() {
            // Only without the guard that footers wait for their records.
            self.writing[at].seal = Seal::Written;
            return;
        }
        let open = self.writing.swap_remove(at);
        let s = self.segments.get_mut(segment);
        s.state = State::Sealed;
        s.footer_count = Some(open.entries.len() as u32);
    }
}
