//! Scrub: what lies on the drive is read and checked at leisure, so that damage is found before somebody needs what it hit.
//!
//! It walks the segments in the order of their places, round and round, one read of at most 256 KiB at a time in the lane with the lowest share, and
//! at a pace at which a pass takes the period it was given. It pays for what it passes by as for what it reads, so it never reads faster than that, and a
//! pass takes as long over an empty drive. Of each sealed segment it reads header and footer, and every record that can still be served, each sum against
//! key, namespace, version and length. What is bad, or cannot be read, is read once more alone before it is called so.
//!
//! A segment is held only while a read of it is under way; between two reads it may be cleaned and written anew, and then scrub goes on to the next. Where
//! a pass stands is not written down: a start begins where the wall clock says that a pass would be.

use std::collections::VecDeque;

use forebay_format::{EntryKind, FooterCheck, FooterEntry, SEGMENT_HEADER_BYTES, SegmentKind, footer_bytes};
use forebay_io::{Buf, Disk, ReadInto};
use forebay_types::limits::STEP_BYTES;
use forebay_types::{Descriptor, Key, Millis};

use crate::bucket::Bucket;
use crate::index::Place;
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::segments::{SPARE_SEGMENTS, State};
use crate::store::{Op, Store};

/// After a stop scrub makes up for so many milliseconds at most: it never comes in a burst.
const BURST_MS: u64 = 250;

/// Most bytes of one read of records: some tens of microseconds of a drive.
pub(crate) const READ_BYTES: usize = STEP_BYTES;
/// Entries of a footer taken at a time: some hundred KiB of memory, whatever the segment holds.
pub(crate) const ENTRIES_AT_ONCE: usize = 4096;
/// Entries looked up in one turn.
const ENTRIES_PER_TURN: usize = 256;
/// Entries of a footer checked in one turn: 128 KiB, some 20 us.
pub(crate) const CHECKS_PER_TURN: usize = 2048;

/// Where scrub is.
#[derive(Debug, Default)]
pub(crate) struct Scrub {
    /// `None`: off.
    pub(crate) pace: Option<Bucket>,
    /// Segment to look at next.
    pub(crate) next: u16,
    /// Segments that this pass has looked at, and when it began.
    pub(crate) looked_at: u32,
    pub(crate) began: Millis,
    pub(crate) job: Option<Job>,
    /// The read under way.
    pub(crate) reading: Option<Reading>,
    /// Segments whose header is damaged, each with its generation. A start would take them for free: what is durable in them is moved out before.
    pub(crate) rescue: Vec<(u16, u64)>,
}

/// A segment being looked at.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) segment: u16,
    pub(crate) generation: u64,
    pub(crate) read_bytes: u64,
    pub(crate) phase: Phase,
    /// The header, or the footer, was bad once.
    pub(crate) again: bool,
    /// The footer while it is checked.
    pub(crate) footer: Option<(Buf, FooterCheck)>,
    /// Entries of the footer that were taken, and of these what is not looked up yet.
    pub(crate) taken: usize,
    pub(crate) entries: VecDeque<FooterEntry>,
    pub(crate) items: VecDeque<Item>,
    pub(crate) large: Option<Large>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Header,
    Footer,
    /// The footer was read, and is checked a few entries a turn.
    Checking,
    /// Without a footer the blocks are searched in the index, one of its tables a turn.
    Sweep(usize),
    Records,
    Done,
}

/// A record to be checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Item {
    pub(crate) ns: u16,
    pub(crate) key: Key,
    pub(crate) place: Place,
    /// It was bad once.
    pub(crate) again: bool,
}

/// A record that is read in steps, the trailer first.
#[derive(Debug)]
pub(crate) struct Large {
    pub(crate) item: Item,
    pub(crate) descriptor: Option<Descriptor>,
    /// Bytes of payload that were found right.
    pub(crate) checked: usize,
}

/// What is being read of the segment.
#[derive(Debug)]
pub(crate) enum Reading {
    Header,
    Footer,
    /// Whole records that lie side by side.
    Records(Vec<Item>),
    Large,
}

impl Scrub {
    fn pay(&mut self, bytes: u64) {
        if let Some(pace) = &mut self.pace {
            pace.take(bytes);
        }
    }
}

impl<D: Disk> Store<D> {
    /// Reads and checks all that is on the drive once in `period_ms`, from now on; 0 does not. Off until this is called.
    pub fn scrub_every(&mut self, now: Millis, period_ms: u64) {
        self.scrub.pace = None;
        if period_ms == 0 {
            return;
        }
        let segments = self.segments.len() as u64;
        // Not at the first each time: a node that is started anew every day would never look at what is behind a day's worth.
        let into_pass_ms = u128::from(self.utc_s) * 1000 % u128::from(period_ms);
        self.scrub.next = (into_pass_ms * u128::from(segments) / u128::from(period_ms)) as u16;
        (self.scrub.looked_at, self.scrub.began) = (0, now);
        let pass_bytes = segments * self.geometry.layout.segment_bytes;
        self.scrub.pace = Some(Bucket::new(now, pass_bytes, period_ms, BURST_MS));
    }

    /// Goes on if the pace allows it. True: there is more to do right now.
    pub(crate) fn scrub_step(&mut self, now: Millis) -> bool {
        let scrub = &mut self.scrub;
        let may_go = scrub.pace.as_mut().is_some_and(|pace| pace.has_some(now));
        // A drive that fails has enough to do.
        if !may_go || scrub.reading.is_some() || self.closing || self.write_failed {
            return false;
        }
        let Some(mut job) = scrub.job.take() else {
            self.scrub_next(now);
            return true;
        };
        let s = self.segments.get(job.segment);
        if s.generation != job.generation || s.state != State::Sealed {
            job.phase = Phase::Done;
        }
        let more = match job.phase {
            Phase::Done => {
                self.scrub.pay(self.geometry.layout.segment_bytes.saturating_sub(job.read_bytes));
                return true;
            }
            Phase::Header => self.scrub_read(&mut job, Reading::Header, 0, SEGMENT_HEADER_BYTES),
            Phase::Footer => self.scrub_footer(&mut job),
            Phase::Checking => self.scrub_check(&mut job),
            Phase::Sweep(table) => self.scrub_sweep(&mut job, table),
            Phase::Records if !job.entries.is_empty() => self.scrub_look_up(&mut job),
            Phase::Records => self.scrub_records(&mut job),
        };
        self.scrub.job = Some(job);
        more
    }

    /// On to the next segment.
    fn scrub_next(&mut self, now: Millis) {
        let segments = self.segments.len() as u32;
        if self.scrub.looked_at == segments {
            self.counted.scrub_passes += 1;
            self.counted.scrub_pass_ms = now.saturating_sub(self.scrub.began);
            self.scrub.looked_at = 0;
            self.scrub.began = now;
        }
        let segment = self.scrub.next;
        self.scrub.next = if u32::from(segment) + 1 >= segments { 0 } else { segment + 1 };
        self.scrub.looked_at += 1;
        let s = self.segments.get(segment);
        let phase = if s.state == State::Sealed { Phase::Header } else { Phase::Done };
        self.scrub.job = Some(Job {
            segment,
            generation: s.generation,
            read_bytes: 0,
            phase,
            again: false,
            footer: None,
            taken: 0,
            entries: VecDeque::new(),
            items: VecDeque::new(),
            large: None,
        });
    }

    /// Segments that this pass has looked at.
    pub(crate) fn scrub_looked_at(&self) -> u64 {
        u64::from(self.scrub.looked_at)
    }

    /// A durable segment that must be emptied before the next start.
    pub(crate) fn next_rescue(&mut self) -> Option<u16> {
        let (segment, generation) = *self.scrub.rescue.last()?;
        let s = self.segments.get(segment);
        let is_it = s.generation == generation && s.state == State::Sealed && s.kind == SegmentKind::Durable;
        if !is_it || s.stuck {
            self.scrub.rescue.pop();
            return None;
        }
        // Moving takes a segment, and forgetting must have one too.
        (s.pins == 0 && self.segments.free_len() >= SPARE_SEGMENTS).then_some(segment)
    }

    /// Begins a read of `len` bytes from `at` of the segment, which it holds meanwhile. False, always: what comes next comes with its end, or with memory.
    fn scrub_read(&mut self, job: &mut Job, reading: Reading, at: u64, len: usize) -> bool {
        if self.lanes.is_full(Lane::Scrub) {
            return false;
        }
        let Some(buf) = self.dram.alloc(&self.arena, len) else {
            // Asking evicts from DRAM: not again in the next turn.
            self.scrub.pay(READ_BYTES as u64);
            return false;
        };
        if !self.mutant(Mutant::ScrubHoldsNothing) {
            self.segments.pin(job.segment);
        }
        job.read_bytes += len as u64;
        self.scrub.pay(len as u64);
        self.scrub.reading = Some(reading);
        let offset = self.geometry.at(job.segment, 0) + at;
        self.read(Lane::Scrub, Op::Scrub, offset, ReadInto::Buf(buf));
        false
    }

    fn scrub_footer(&mut self, job: &mut Job) -> bool {
        let Some(count) = self.segments.get(job.segment).footer_count else {
            job.phase = Phase::Sweep(0);
            return true;
        };
        let len = footer_bytes(count, self.geometry.align);
        self.scrub_read(job, Reading::Footer, self.geometry.layout.segment_bytes - len as u64, len)
    }

    fn scrub_sweep(&mut self, job: &mut Job, table: usize) -> bool {
        if table == self.index.tables() {
            job.items.make_contiguous().sort_unstable_by_key(|item| item.place.page);
            job.phase = Phase::Records;
            return true;
        }
        let here = self.index.table(table).filter(|entry| entry.segment() == job.segment);
        job.items.extend(here.map(|e| Item { ns: e.ns, key: e.key, place: e.place(), again: false }));
        job.phase = Phase::Sweep(table + 1);
        true
    }

    /// Finds out which of the records can still be served: the others are nobody's loss.
    fn scrub_look_up(&mut self, job: &mut Job) -> bool {
        let some = job.entries.len().min(ENTRIES_PER_TURN);
        for entry in job.entries.drain(..some) {
            let page = entry.start / self.geometry.align as u32;
            let Some(ns) = self.namespaces.find(entry.namespace).filter(|_| entry.kind == EntryKind::Block) else {
                continue;
            };
            if let Some(found) = self.index.find(ns, &entry.key).filter(|found| found.is_at(job.segment, page)) {
                job.items.push_back(Item { ns, key: entry.key, place: found.place(), again: false });
            }
        }
        true
    }

    fn scrub_records(&mut self, job: &mut Job) -> bool {
        let align = self.geometry.align;
        if let Some(large) = &job.large {
            let place = large.item.place;
            let start = self.geometry.bytes(place.page);
            let (at, len) = match large.descriptor {
                None => (self.geometry.bytes(place.payload_units), self.geometry.bytes(place.trailer_units) as usize),
                Some(_) => {
                    let end = (large.checked + READ_BYTES).min(place.length(align) as usize);
                    (large.checked as u64, (end - large.checked).next_multiple_of(align))
                }
            };
            return self.scrub_read(job, Reading::Large, start + at, len);
        }
        let mut run: Vec<Item> = Vec::new();
        let mut units = 0;
        while let Some(item) = job.items.front().copied() {
            if !self.is_still_at(&item) {
                job.items.pop_front();
                continue;
            }
            let more = item.place.units();
            let behind = run.last().is_none_or(|last| {
                last.place.page + last.place.units() == item.place.page && !last.again && !item.again
            });
            if !behind || !run.is_empty() && self.geometry.bytes(units + more) > READ_BYTES as u64 {
                break;
            }
            units += more;
            run.push(item);
            job.items.pop_front();
        }
        let Some(first) = run.first().copied() else {
            let all = self.segments.get(job.segment).footer_count.is_none_or(|count| job.taken >= count as usize);
            job.phase = if all { Phase::Done } else { Phase::Footer };
            return true;
        };
        if self.geometry.bytes(units) > READ_BYTES as u64 {
            // Alone, since the first of a run always goes.
            job.large = Some(Large { item: first, descriptor: None, checked: 0 });
            return true;
        }
        let (at, len) = (self.geometry.bytes(first.place.page), self.geometry.bytes(units) as usize);
        self.scrub_read(job, Reading::Records(run.clone()), at, len);
        if self.scrub.reading.is_none() {
            // No memory now: they are the next ones again.
            run.into_iter().rev().for_each(|item| job.items.push_front(item));
        }
        false
    }

    pub(crate) fn is_still_at(&self, item: &Item) -> bool {
        self.index.find(item.ns, &item.key).is_some_and(|entry| entry.place() == item.place)
    }
}
