//! Writing: segments being filled, record after record, and how they are sealed.
//!
//! Each segment begins with its header. Records are acknowledged in the order of their places, when they and all before them are completed and a
//! flush submitted after that is completed. The footer is written when every record is completed and flushed: it may never promise what is not there.

use std::collections::VecDeque;

use forebay_format::{
    EntryKind, FOOTER_ENTRY_BYTES, FooterEncoder, FooterEntry, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentKind,
    footer_bytes,
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

/// For whom a place is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Put,
    Tombstones,
    Cleaning,
}

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

    /// Where records of the cache are being written again, and the units taken; `None` where that is another segment, or there are none yet.
    pub(crate) fn moved_so_far(&self) -> Option<(u16, u32)> {
        let open = self.kind == SegmentKind::Reappend && self.seal == Seal::No && !self.entries.is_empty();
        open.then_some((self.segment, self.cursor))
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

    /// What fits into a segment.
    fn room(&self) -> Geometry {
        let times = if self.mutant(Mutant::SegmentsTwice) { 2 } else { 1 };
        Geometry { segment_units: times * self.geometry.segment_units, ..self.geometry }
    }

    /// True when a record would find a place now.
    ///
    /// Segments are opened while others stay free: two for puts, one for tombstones, since forgetting makes room, none for cleaning. While none is
    /// left, nobody else writes where cleaning moves to: what it moves then finds room for certain, and after a crash its copies, which are alone in
    /// their segment, are free again.
    pub(crate) fn has_place(&self, kind: SegmentKind, units: u32, entries: usize, whose: Whose) -> bool {
        let free = self.segments.free_len();
        let open = self.open_at(kind).map(|at| &self.writing[at]);
        let fits = open.is_some_and(|open| open.fits(units, entries, self.entries_max_now(), &self.room()));
        let theirs = kind == SegmentKind::Durable && free == 0;
        match whose {
            Whose::Cleaning => fits || free > 0,
            Whose::Tombstones => fits && !theirs || free > SPARE_SEGMENTS - 1,
            Whose::Put => fits && !theirs || free > SPARE_SEGMENTS,
        }
    }

    /// Entries that the open segment of this kind has room for, or the next if none is open.
    pub(crate) fn entries_left(&self, kind: SegmentKind) -> usize {
        let open = self.open_at(kind).map_or(0, |at| self.writing[at].entries.len());
        let left = self.entries_max_now().saturating_sub(open);
        if left == 0 { self.entries_max } else { left }
    }

    /// Most entries of an open segment. With no segment left, cleaning may need more for what was written under a higher ceiling.
    fn entries_max_now(&self) -> usize {
        if self.segments.free_len() == 0 { usize::MAX } else { self.entries_max }
    }

    /// Opens a segment if a record of `units` needs one. False: no segment, or no memory.
    pub(crate) fn ensure_place(&mut self, kind: SegmentKind, units: u32, entries: usize, whose: Whose) -> bool {
        if !self.has_place(kind, units, entries, whose) {
            return false;
        }
        let fits = |open: &OpenSegment| open.fits(units, entries, self.entries_max_now(), &self.room());
        self.open_at(kind).is_some_and(|at| fits(&self.writing[at])) || self.open_segment(kind).is_some()
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
        let blocks = entries.iter().filter(|entry| entry.kind == EntryKind::Block).count();
        let seq = entries.iter().map(|entry| entry.seq).max().unwrap_or(0);
        self.segments.note_written(segment, blocks, entries.len() - blocks, seq);
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
        let page = self.dram.alloc(&self.arena, SEGMENT_HEADER_BYTES)?;
        let segment = self.segments.pop_free()?;
        self.seal(kind);
        self.write_header(segment, kind, page, Seal::No);
        Some(())
    }

    /// Writes a new header, and a footer that lists nothing, to a segment that is in no list: what lay there cannot be found any more, and then it is
    /// free. False: no memory.
    pub(crate) fn renew_segment(&mut self, segment: u16) -> bool {
        let Some(page) = self.dram.alloc(&self.arena, SEGMENT_HEADER_BYTES) else { return false };
        self.write_header(segment, SegmentKind::Cache, page, Seal::Records);
        true
    }

    /// Segments that are being renewed.
    pub(crate) fn renewing(&self) -> usize {
        self.writing.iter().filter(|open| open.seal != Seal::No && open.entries.is_empty()).count()
    }

    fn write_header(&mut self, segment: u16, kind: SegmentKind, mut page: Buf, seal: Seal) {
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
        s.state = if seal == Seal::No { State::Open } else { State::Sealing };
        s.kind = kind;
        s.generation = generation;
        s.nonce = nonce;
        s.footer_count = None;
        (s.has_blocks, s.renew) = (false, false);
        self.writing.push(OpenSegment {
            segment,
            kind,
            cursor: self.geometry.header_units,
            entries: Vec::new(),
            order: VecDeque::from([Pending { done: false, action: None }]),
            first: 0,
            seal,
            footer: None,
            gather: None,
        });
        self.counted.meta_bytes += SEGMENT_HEADER_BYTES as u64;
        self.moves.take_around(kind, u64::from(self.geometry.header_units));
        let spot = Spot { segment, page: 0, generation, nonce, number: 0 };
        let action = Action::HeaderWritten { segment, generation };
        self.write_record(Lane::Put, &spot, page.freeze(), RecordOf::Header, Some(action));
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
        if let Err(error) = result
            && !self.mutant(Mutant::FailedWriteDone)
        {
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
        match of {
            RecordOf::Put { ns, key, place, .. } => self.leave_if_duplicate(ns, &key, place),
            RecordOf::Move { .. } => self.move_written(of, true),
            RecordOf::Header | RecordOf::Tombstones => {}
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
        self.writing.iter().position(|open| open.seal == Seal::Footer).is_some_and(|at| self.write_footer(at))
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
        self.moves.take_around(kind, bytes / geometry.align as u64);
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
        if open.entries.is_empty() {
            self.segments.release(segment, !self.mutant(Mutant::ReuseWhileRead));
        }
    }
}
