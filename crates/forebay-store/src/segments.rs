//! Segments as the store knows them in memory: what state each is in, how much of it is alive and what that is worth. No I/O.

use std::collections::VecDeque;

use forebay_format::{SEGMENT_HEADER_BYTES, SegmentKind, SliceLayout};

/// Segments that only cleaning may open: one to move into, one for when that is full.
pub(crate) const SPARE_SEGMENTS: usize = 2;

/// Sizes in units of the alignment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) layout: SliceLayout,
    pub(crate) align: usize,
    pub(crate) segment_units: u32,
    pub(crate) header_units: u32,
}

impl Geometry {
    pub(crate) fn new(layout: SliceLayout) -> Self {
        let align = layout.align;
        Geometry {
            layout,
            align,
            segment_units: (layout.segment_bytes / align as u64) as u32,
            header_units: (SEGMENT_HEADER_BYTES / align) as u32,
        }
    }

    pub(crate) fn bytes(&self, units: u32) -> u64 {
        u64::from(units) * self.align as u64
    }

    /// Where a unit of a segment lies, from the slice's start.
    pub(crate) fn at(&self, segment: u16, page: u32) -> u64 {
        self.layout.segment_at(u32::from(segment)) + self.bytes(page)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// In the free list.
    Free,
    /// Being written.
    Open,
    /// Full; its footer is on its way.
    Sealing,
    /// Whole.
    Sealed,
    /// Freed, and still read by somebody.
    Leaving,
    /// Freed; a new header is to be written over what lies there before it is free.
    Emptied,
}

/// One segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) state: State,
    pub(crate) kind: SegmentKind,
    /// Number of its opening, drawn from the same counter as records' sequence numbers: a segment whose generation is above a tombstone's number
    /// was opened later and cannot hold what was forgotten.
    pub(crate) generation: u64,
    pub(crate) nonce: u64,
    /// The lowest generation of which a start after a crash may find blocks here, dead ones as well: what was here before counts until the new header
    /// is flushed. 0: there are none, so no tombstone is needed for its sake.
    pub(crate) oldest_on_disk: u64,
    /// Blocks were written to it since it was opened.
    pub(crate) has_blocks: bool,
    /// Entries of its footer; `None` when it has none that can be read.
    pub(crate) footer_count: Option<u32>,
    pub(crate) live_units: u32,
    /// Sum over live blocks of units x what a unit counts for.
    pub(crate) worth: u64,
    pub(crate) leased_units: u32,
    /// Reads in flight. A segment that is read is never rewritten, so a recycled one can never leak into a client's memory.
    pub(crate) pins: u32,
    /// Highest number of a tombstone in it; 0 if it has none.
    pub(crate) tombstone_seq_max: u64,
    /// How many it has.
    pub(crate) tombstones: u32,
    /// It was durable and has been emptied: what lies there must not be found again, see [`State::Emptied`].
    pub(crate) renew: bool,
    /// Cleaning found it unreadable; left alone.
    pub(crate) stuck: bool,
    /// Scrub found damage in it.
    pub(crate) damaged: bool,
}

impl Segment {
    fn blank() -> Self {
        Segment {
            state: State::Free,
            kind: SegmentKind::Cache,
            generation: 0,
            nonce: 0,
            oldest_on_disk: 0,
            has_blocks: false,
            footer_count: None,
            live_units: 0,
            worth: 0,
            leased_units: 0,
            pins: 0,
            tombstone_seq_max: 0,
            tombstones: 0,
            renew: false,
            stuck: false,
            damaged: false,
        }
    }
}

/// All segments of a shard.
pub(crate) struct Segments {
    all: Vec<Segment>,
    /// First freed, first used: all of the drive wears alike, and what was freed last can still be found by a start after a crash.
    free: VecDeque<u16>,
    /// Those in [`State::Emptied`].
    emptied: VecDeque<u16>,
    /// Tombstones in all of them.
    tombstones: u64,
}

/// Back to which generation blocks may be found on the drive, with and without any one segment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Horizon {
    least: u64,
    second: u64,
    holds_least: Option<u16>,
}

impl Horizon {
    /// The lowest generation of which blocks may be found anywhere but in `segment`. A tombstone there with a lower number is not needed any more.
    pub(crate) fn without(&self, segment: u16) -> u64 {
        if self.holds_least == Some(segment) { self.second } else { self.least }
    }

    /// The segment that holds the oldest blocks.
    pub(crate) fn oldest(&self) -> Option<u16> {
        self.holds_least
    }
}

impl Segments {
    /// Nothing on the drive, nothing free yet.
    pub(crate) fn new(count: u32) -> Self {
        Segments {
            all: vec![Segment::blank(); count as usize],
            free: VecDeque::new(),
            emptied: VecDeque::new(),
            tombstones: 0,
        }
    }

    pub(crate) fn get(&self, segment: u16) -> &Segment {
        &self.all[usize::from(segment)]
    }

    pub(crate) fn get_mut(&mut self, segment: u16) -> &mut Segment {
        &mut self.all[usize::from(segment)]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u16, &Segment)> {
        self.all.iter().enumerate().map(|(i, s)| (i as u16, s))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.all.iter_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn free_len(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn push_free(&mut self, segment: u16) {
        let s = self.get_mut(segment);
        debug_assert_eq!((s.live_units, s.leased_units), (0, 0), "a segment with blocks in it is not free");
        s.state = State::Free;
        s.worth = 0;
        (s.stuck, s.damaged, s.renew) = (false, false, false);
        s.tombstone_seq_max = 0;
        self.tombstones -= u64::from(std::mem::take(&mut s.tombstones));
        self.free.push_back(segment);
    }

    pub(crate) fn pop_free(&mut self) -> Option<u16> {
        self.free.pop_front()
    }

    /// Takes this one out of the free list.
    pub(crate) fn take_free(&mut self, segment: u16) -> bool {
        let at = self.free.iter().position(|free| *free == segment);
        at.and_then(|at| self.free.remove(at)).is_some()
    }

    pub(crate) fn pop_emptied(&mut self) -> Option<u16> {
        self.emptied.pop_front()
    }

    pub(crate) fn push_emptied(&mut self, segment: u16) {
        self.get_mut(segment).state = State::Emptied;
        self.emptied.push_back(segment);
    }

    /// Frees a segment, at once or when nobody reads it any more.
    pub(crate) fn release(&mut self, segment: u16, heed_pins: bool) {
        if heed_pins && self.get(segment).pins > 0 {
            self.get_mut(segment).state = State::Leaving;
        } else {
            self.leave(segment);
        }
    }

    fn leave(&mut self, segment: u16) {
        if self.get(segment).renew { self.push_emptied(segment) } else { self.push_free(segment) }
    }

    pub(crate) fn pin(&mut self, segment: u16) {
        self.get_mut(segment).pins += 1;
    }

    pub(crate) fn unpin(&mut self, segment: u16) {
        let s = self.get_mut(segment);
        s.pins -= 1;
        if s.pins == 0 && s.state == State::Leaving {
            self.leave(segment);
        }
    }

    pub(crate) fn add_live(&mut self, segment: u16, units: u32, count: u32) {
        let s = self.get_mut(segment);
        s.live_units += units;
        s.worth += u64::from(units) * u64::from(count);
    }

    pub(crate) fn remove_live(&mut self, segment: u16, units: u32, count: u32) {
        let s = self.get_mut(segment);
        s.live_units -= units;
        // What it counts for may have changed since it was added.
        s.worth = if s.live_units == 0 { 0 } else { s.worth.saturating_sub(u64::from(units) * u64::from(count)) };
    }

    /// Counts blocks and tombstones that are written to a segment.
    pub(crate) fn note_written(&mut self, segment: u16, blocks: usize, tombstones: usize, seq: u64) {
        let s = &mut self.all[usize::from(segment)];
        if blocks > 0 {
            s.has_blocks = true;
            if s.oldest_on_disk == 0 {
                s.oldest_on_disk = s.generation;
            }
        }
        if tombstones > 0 {
            s.tombstone_seq_max = s.tombstone_seq_max.max(seq);
            s.tombstones += tombstones as u32;
            self.tombstones += tombstones as u64;
        }
    }

    /// Tombstones on the drive, needed or not.
    pub(crate) fn tombstones(&self) -> u64 {
        self.tombstones
    }

    pub(crate) fn horizon(&self) -> Horizon {
        let mut horizon = Horizon { least: u64::MAX, second: u64::MAX, holds_least: None };
        for (i, s) in self.iter().filter(|(_, s)| s.oldest_on_disk > 0) {
            if s.oldest_on_disk < horizon.least {
                horizon = Horizon { least: s.oldest_on_disk, second: horizon.least, holds_least: Some(i) };
            } else {
                horizon.second = horizon.second.min(s.oldest_on_disk);
            }
        }
        horizon
    }

    /// Tombstones of a segment that must go along when it is emptied, as far as is known without reading them.
    pub(crate) fn needed_tombstones(&self, segment: u16, horizon: &Horizon) -> u32 {
        let s = self.get(segment);
        if horizon.without(segment) < s.tombstone_seq_max { s.tombstones } else { 0 }
    }

    /// The segment of the cache whose eviction loses least, for which fewer than a quarter of its bytes are leased.
    pub(crate) fn cache_victim(&self, geometry: &Geometry, heed_pins: bool) -> Option<u16> {
        self.iter()
            .filter(|(_, s)| {
                s.state == State::Sealed
                    && s.kind != SegmentKind::Durable
                    && (s.pins == 0 || !heed_pins)
                    && s.leased_units <= geometry.segment_units / 4
            })
            .min_by_key(|(_, s)| (s.worth, s.generation))
            .map(|(i, _)| i)
    }

    /// The durable segment with the most dead space, if moving out what lives there wins at least `gain` units. Tombstones that are still needed live
    /// too: a segment has room for `tombstones_each` of them, however few bytes they take.
    pub(crate) fn durable_victim(&self, geometry: &Geometry, gain: u32, tombstones_each: u32) -> Option<u16> {
        let room = geometry.segment_units - geometry.header_units;
        let horizon = self.horizon();
        let kept = |i, s: &Segment| {
            let tombstones = u64::from(self.needed_tombstones(i, &horizon)) * u64::from(room);
            u64::from(s.live_units) + tombstones / u64::from(tombstones_each.max(1))
        };
        self.iter()
            .filter(|(_, s)| s.state == State::Sealed && s.kind == SegmentKind::Durable && s.pins == 0 && !s.stuck)
            .map(|(i, s)| (kept(i, s), s.generation, i))
            .filter(|(kept, ..)| kept + u64::from(gain) <= u64::from(room))
            .min()
            .map(|(.., i)| i)
    }
}
