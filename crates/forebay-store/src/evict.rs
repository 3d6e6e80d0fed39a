//! Making room: segments of the cache are evicted whole, durable ones are cleaned, namespaces over quota and a full index lose their coldest.
//!
//! One victim at a time, in bounded steps. From a victim of the cache is written again what is leased, then what is not cold, as far as puts have paid for it
//! ([`Moves`]): each byte put is written less than 1.34 times. From a durable victim everything alive is moved, and the segment is freed only when the moved
//! records are flushed.

mod age;
mod choose;
mod footer;
mod moves;
mod shed;

use forebay_format::{
    EntryKind, FooterCheck, FooterEntry, SegmentKind, Tombstone, decode_trailer, footer_bytes, restamp,
};
use forebay_io::{Buf, Disk, DiskError, ReadInto, Shared};
use forebay_tokenomics::cleaning::free_in_advance;
use forebay_types::{Key, Millis};

use crate::flush::Action;
use crate::index::Place;
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::segments::{SPARE_SEGMENTS, State};
use crate::store::{Op, Store};
use crate::verify::{Purpose, VerifyJob};
use crate::write::{RecordOf, Whose};
use choose::Chosen;
pub(crate) use moves::Moves;

/// More than any trailer and the footer of a segment of large records take.
const FOOTER_AND_TRAILER_BYTES: u64 = 64 << 10;
/// Entries looked up or dropped in one turn.
const ENTRIES_PER_TURN: usize = 256;
/// Bytes of records being moved at once; a larger one goes alone.
const MOVING_BYTES_MAX: u64 = 4 << 20;

/// A victim being emptied.
pub(crate) struct Cleaning {
    victim: u16,
    durable: bool,
    phase: Phase,
    /// The victim's footer, from its read until its entries are looked up.
    footer: Option<(Buf, FooterCheck)>,
    /// Of a victim of the cache: what is worth moving, as far as it was looked at, and what is not.
    chosen: Chosen,
    dropped: Vec<Item>,
    /// To be moved.
    items: Vec<Item>,
    /// Next of the footer's entries or the index's tables to look at, or of `items` to move, by phase.
    next: usize,
    /// Items between their read and the end of their write.
    flying: usize,
    flying_bytes: u64,
    /// Durable records written and not yet flushed.
    unflushed: usize,
    tombstones: Vec<Tombstone>,
    /// Something could not be moved: the segment stays.
    failed: bool,
    /// There was no place to move to: the segment stays for now.
    later: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The footer is being read.
    Footer,
    /// It was, and is checked a few entries a turn.
    Checking,
    /// Without a footer the blocks are searched in the index.
    Sweep,
    Lookup,
    /// Of a victim of the cache: what is not worth moving is let go, then what is stands in line.
    Drop,
    Line,
    Move,
    Tombstones,
    /// Waiting for a flush.
    Flush,
    Done,
}

#[derive(Debug, Clone)]
struct Item {
    ns: u16,
    key: Key,
    place: Place,
    value: u32,
    leased: bool,
}

impl Cleaning {
    /// One of the victim's records is alive.
    fn found(&mut self, item: Item) {
        if self.durable {
            self.items.push(item);
        } else {
            self.chosen.add(item, &mut self.dropped);
        }
    }

    fn all_found(&mut self) {
        self.next = 0;
        self.phase = if self.durable { Phase::Move } else { Phase::Drop };
    }
}

impl<D: Disk> Store<D> {
    /// Free segments at which cleaning rests: the spares, and some in advance, so that puts need not wait and there is time to write again what is
    /// warm.
    pub(crate) fn free_target(&self) -> usize {
        SPARE_SEGMENTS + free_in_advance(self.segments.len(), self.geometry.layout.segment_bytes)
    }

    /// True when waiting will make room for a put.
    pub(crate) fn can_make_room(&self) -> bool {
        let evictable = |s: &crate::segments::Segment| match s.state {
            State::Sealing | State::Sealed => s.kind != SegmentKind::Durable,
            State::Leaving | State::Emptied => true,
            State::Free | State::Open => false,
        };
        self.segments.free_len() > SPARE_SEGMENTS
            || self.cleaning.is_some()
            || self.segments.iter().any(|(_, s)| evictable(s))
            || self.movable(self.least_gain()).is_some()
    }

    /// Units that cleaning a durable segment must win: the largest record. Less may be lost at the end of any full segment, and cleaning would go on for
    /// ever and win nothing.
    fn least_gain(&self) -> u32 {
        let largest = self.geometry.layout.block_bytes_max() + FOOTER_AND_TRAILER_BYTES;
        (largest / self.geometry.align as u64) as u32
    }

    /// A bounded step of cleaning.
    pub(crate) fn clean_step(&mut self) -> bool {
        let Some(phase) = self.cleaning.as_ref().map(|c| c.phase) else { return self.begin_cleaning() };
        match phase {
            Phase::Footer => false,
            Phase::Checking => self.check_step(),
            Phase::Sweep => self.sweep_step(),
            Phase::Lookup => self.lookup_step(),
            Phase::Drop => self.drop_step(),
            Phase::Line => self.line_step(),
            Phase::Move => self.move_step(),
            Phase::Tombstones => self.carry_tombstones(),
            Phase::Flush => false,
            Phase::Done => self.end_cleaning(),
        }
    }

    fn begin_cleaning(&mut self) -> bool {
        if self.closing {
            return false;
        }
        let renewed = self.renew_emptied();
        match self.next_victim() {
            Some(victim) => self.begin_with(victim),
            None => renewed,
        }
    }

    /// What is emptied next, if anything is to be.
    fn next_victim(&mut self) -> Option<u16> {
        let rescue = self.next_rescue();
        if rescue.is_some() {
            return rescue;
        }
        let short = self.segments.free_len() < self.free_target();
        let burdened = self.is_burdened();
        if !short && !burdened {
            return None;
        }
        let half = self.movable(self.geometry.segment_units / 2);
        if half.is_some() {
            return half;
        }
        if burdened && let Some(aging) = self.oldest_to_empty() {
            return Some(aging);
        }
        let heed_pins = !self.mutant(Mutant::ReuseWhileRead);
        let cache = if short { self.segments.cache_victim(&self.geometry, heed_pins) } else { None };
        self.close_what_was_moved(cache);
        let victim = cache.or_else(|| short.then(|| self.movable(self.least_gain())).flatten());
        if victim.is_none() && !burdened && self.tombstones_lack_room() {
            return self.oldest_to_empty();
        }
        victim
    }

    fn begin_with(&mut self, victim: u16) -> bool {
        let has_tombstones = self.segments.needed_tombstones(victim, &self.segments.horizon()) > 0
            && !self.mutant(Mutant::TombstonesDropped);
        let s = self.segments.get(victim);
        let mut cleaning = Cleaning {
            victim,
            durable: s.kind == SegmentKind::Durable,
            phase: Phase::Footer,
            footer: None,
            chosen: Chosen::default(),
            dropped: Vec::new(),
            items: Vec::new(),
            next: 0,
            flying: 0,
            flying_bytes: 0,
            unflushed: 0,
            tombstones: Vec::new(),
            failed: false,
            later: false,
        };
        if s.live_units == 0 && !has_tombstones {
            cleaning.phase = Phase::Done;
        } else if let Some(count) = s.footer_count {
            let len = footer_bytes(count, self.geometry.align);
            let Some(buf) = self.dram.alloc(&self.arena, len) else { return false };
            let at =
                self.geometry.layout.segment_at(u32::from(victim)) + self.geometry.layout.segment_bytes - len as u64;
            self.read(Lane::Reappend, Op::VictimFooter, at, ReadInto::Buf(buf));
        } else if has_tombstones {
            // Tombstones are found in footers only: without one, the segment stays as it is.
            self.segments.get_mut(victim).stuck = true;
            return false;
        } else {
            cleaning.phase = Phase::Sweep;
        }
        self.cleaning = Some(cleaning);
        true
    }

    fn sweep_step(&mut self) -> bool {
        let Some(mut cleaning) = self.cleaning.take() else { return false };
        self.begin_to_choose(&mut cleaning);
        if cleaning.next < self.index.tables() {
            let victim = cleaning.victim;
            for e in self.index.table(cleaning.next).filter(|e| e.segment() == victim) {
                let value = self.policy.value(e.rank, e.ns);
                cleaning.found(Item { ns: e.ns, key: e.key, place: e.place(), value, leased: e.is_leased() });
            }
            cleaning.next += 1;
        } else {
            self.all_found(&mut cleaning);
        }
        self.cleaning = Some(cleaning);
        true
    }

    /// Finds out which of the victim's records are alive.
    fn lookup_step(&mut self) -> bool {
        let Some(mut cleaning) = self.cleaning.take() else { return false };
        self.begin_to_choose(&mut cleaning);
        let footer = cleaning.footer.take();
        let entries = footer.as_ref().and_then(|(buf, check)| check.entries(buf, cleaning.next).ok());
        let left = entries.as_ref().map_or(0, ExactSizeIterator::len);
        let oldest = self.segments.horizon().without(cleaning.victim);
        let dropped = self.mutant(Mutant::TombstonesDropped);
        for entry in entries.into_iter().flatten().take(ENTRIES_PER_TURN) {
            match entry.kind {
                EntryKind::Tombstone if entry.seq > oldest && !dropped => cleaning.tombstones.push(Tombstone {
                    namespace: entry.namespace,
                    key: entry.key,
                    version: entry.version,
                    seq: entry.seq,
                }),
                EntryKind::Tombstone => {}
                EntryKind::Block => {
                    let Some(ns) = self.namespaces.find(entry.namespace) else { continue };
                    let page = entry.start / self.geometry.align as u32;
                    let over = entry.expiry_utc_s != 0 && entry.expiry_utc_s <= self.clock.believed();
                    if over && self.index.find(ns, &entry.key).is_some_and(|e| e.is_at(cleaning.victim, page)) {
                        self.expire_entry(ns, &entry.key);
                    }
                    let Some(found) = self.index.find(ns, &entry.key) else { continue };
                    if found.is_at(cleaning.victim, page) {
                        let value = self.policy.value(found.rank, ns);
                        let (place, leased) = (found.place(), found.is_leased());
                        cleaning.found(Item { ns, key: entry.key, place, value, leased });
                    }
                }
            }
        }
        cleaning.next += left.min(ENTRIES_PER_TURN);
        if left <= ENTRIES_PER_TURN {
            self.all_found(&mut cleaning);
        } else {
            cleaning.footer = footer;
        }
        self.cleaning = Some(cleaning);
        true
    }

    fn drop_step(&mut self) -> bool {
        let Some(mut cleaning) = self.cleaning.take() else { return false };
        let from = cleaning.dropped.len().saturating_sub(ENTRIES_PER_TURN);
        for item in cleaning.dropped.drain(from..) {
            self.evict_if_at(item.ns, &item.key, item.place);
        }
        if cleaning.dropped.is_empty() {
            cleaning.phase = Phase::Line;
        }
        self.cleaning = Some(cleaning);
        true
    }

    fn line_step(&mut self) -> bool {
        let Some(cleaning) = &mut self.cleaning else { return false };
        let best = std::iter::from_fn(|| cleaning.chosen.take());
        cleaning.items.extend(best.take(ENTRIES_PER_TURN));
        if cleaning.chosen.is_empty() {
            cleaning.phase = Phase::Move;
        }
        true
    }

    fn evict_if_at(&mut self, ns: u16, key: &Key, place: Place) {
        if self.index.find(ns, key).is_some_and(|e| e.place() == place) {
            self.evict_entry(ns, key);
        }
    }

    fn move_step(&mut self) -> bool {
        let Some(mut cleaning) = self.cleaning.take() else { return false };
        let mut began = false;
        while cleaning.next < cleaning.items.len() {
            let Item { ns, key, place, .. } = cleaning.items[cleaning.next];
            let bytes = self.geometry.bytes(place.units());
            if cleaning.flying > 0 && cleaning.flying_bytes + bytes > MOVING_BYTES_MAX {
                break;
            }
            if self.index.find(ns, &key).is_some_and(|e| e.place() == place) {
                let Some(buf) = self.dram.alloc(&self.arena, bytes as usize) else {
                    if cleaning.durable || cleaning.flying > 0 {
                        break;
                    }
                    self.evict_if_at(ns, &key, place);
                    cleaning.next += 1;
                    continue;
                };
                cleaning.flying += 1;
                cleaning.flying_bytes += bytes;
                let offset = self.geometry.at(place.segment, place.page);
                self.read(Lane::Reappend, Op::VictimRecord { item: cleaning.next }, offset, ReadInto::Buf(buf));
                began = true;
            }
            cleaning.next += 1;
        }
        if cleaning.next == cleaning.items.len() && cleaning.flying == 0 {
            cleaning.phase = if cleaning.durable { Phase::Tombstones } else { Phase::Done };
            began = true;
        }
        self.cleaning = Some(cleaning);
        began
    }

    pub(crate) fn victim_record_done(&mut self, item: usize, result: Result<(), DiskError>, read: Option<ReadInto>) {
        let Some(Item { ns, key, place, .. }) = self.cleaning.as_ref().and_then(|c| c.items.get(item)).cloned() else {
            return;
        };
        let Some(ReadInto::Buf(buf)) = read.filter(|_| result.is_ok()) else {
            // What is durable may be readable another day.
            return self.move_ended(place, true);
        };
        let trailer_at = place.payload_units as usize * self.geometry.align;
        let descriptor =
            decode_trailer(&buf[trailer_at..]).ok().and_then(|view| self.is_record_of(&view, ns, &key, place));
        match descriptor {
            Some(descriptor) => {
                self.verifies.push_back(VerifyJob::new(buf.freeze(), descriptor, Purpose::Move { item }))
            }
            None => {
                self.drop_bad(ns, &key, place);
                self.move_ended(place, false);
            }
        }
    }

    pub(crate) fn move_verified(&mut self, _now: Millis, item: usize, data: Shared, good: bool) {
        let Some(cleaning) = &self.cleaning else { return };
        let durable = cleaning.durable;
        let Some(Item { ns, key, place, .. }) = cleaning.items.get(item).cloned() else { return };
        if !good {
            self.drop_bad(ns, &key, place);
            return self.move_ended(place, false);
        }
        if !self.index.find(ns, &key).is_some_and(|e| e.place() == place) || self.write_failed {
            return self.move_ended(place, false);
        }
        let kind = if durable { SegmentKind::Durable } else { SegmentKind::Reappend };
        if !self.ensure_place(kind, place.units(), 1, Whose::Cleaning) {
            if let Some(cleaning) = self.cleaning.as_mut().filter(|c| c.durable) {
                cleaning.later = true;
            } else {
                self.evict_if_at(ns, &key, place);
            }
            return self.move_ended(place, false);
        }
        let trailer_at = place.payload_units as usize * self.geometry.align;
        let written = data.thaw().ok().and_then(|mut buf| {
            let view = decode_trailer(&buf[trailer_at..]).ok()?;
            let entry = self.moved_entry(&view, ns, &key, place)?;
            let spot = self.take_place(kind, place.units(), &[entry])?;
            restamp(&mut buf[trailer_at..], spot.generation, spot.nonce);
            Some((spot, buf))
        });
        let Some((spot, buf)) = written else {
            if !durable {
                self.evict_if_at(ns, &key, place);
            }
            return self.move_ended(place, durable);
        };
        let to = Place { segment: spot.segment, page: spot.page, ..place };
        self.counted.reappend_bytes += buf.len() as u64;
        self.count_written(ns, buf.len() as u64);
        let of = RecordOf::Move { ns, key, from: place, to, durable };
        let action = durable.then_some(Action::Moved);
        if durable && let Some(cleaning) = &mut self.cleaning {
            cleaning.unflushed += 1;
        }
        self.write_record(Lane::Reappend, &spot, buf.freeze(), of, action);
    }

    fn moved_entry(
        &self,
        view: &forebay_format::TrailerView<'_>,
        ns: u16,
        key: &Key,
        place: Place,
    ) -> Option<FooterEntry> {
        let meta = forebay_types::Descriptor::decode(view.body).ok()?.meta;
        Some(FooterEntry {
            kind: EntryKind::Block,
            namespace: meta.namespace,
            key: *key,
            version: meta.version,
            seq: view.seq,
            length: place.length(self.geometry.align) as u32,
            start: 0,
            record_bytes: 0,
            rank: self.index.find(ns, key).map_or(0, |e| e.rank),
            expiry_utc_s: meta.expiry_utc_s,
        })
    }

    /// A moved record is written: from now on it is read at its new place.
    pub(crate) fn move_written(&mut self, of: RecordOf, ok: bool) {
        let RecordOf::Move { ns, key, from, to, durable } = of else { return };
        if let Some(entry) = self.index.find_mut(ns, &key).filter(|e| ok && e.place() == from) {
            entry.set_place(to);
            let (rank, leased) = (entry.rank, entry.is_leased());
            self.remove_live(ns, &key, from, rank);
            self.add_live(ns, &key, to, rank);
            if leased {
                self.segments.get_mut(from.segment).leased_units -= from.units();
                self.segments.get_mut(to.segment).leased_units += to.units();
            }
        }
        self.move_ended(from, durable && !ok);
    }

    fn move_ended(&mut self, place: Place, failed: bool) {
        let bytes = self.geometry.bytes(place.units());
        if let Some(cleaning) = &mut self.cleaning {
            cleaning.flying -= 1;
            cleaning.flying_bytes -= bytes;
            cleaning.failed |= failed && cleaning.durable;
        }
    }

    /// True when only a flush is missing.
    pub(crate) fn awaits_flush(&self) -> bool {
        self.cleaning.as_ref().is_some_and(|cleaning| cleaning.phase == Phase::Flush)
    }

    /// Tombstones that may still be needed go along.
    fn carry_tombstones(&mut self) -> bool {
        let Some(mut cleaning) = self.cleaning.take() else { return false };
        let mut stuck = false;
        while !cleaning.failed && !cleaning.later && !cleaning.tombstones.is_empty() {
            let at = cleaning.tombstones.len().saturating_sub(self.tombstones_at_once());
            if !self.write_tombstones(&cleaning.tombstones[at..], Whose::Cleaning, Some(Action::Moved)) {
                stuck = true;
                break;
            }
            cleaning.tombstones.truncate(at);
            cleaning.unflushed += 1;
        }
        if !stuck {
            cleaning.phase = if cleaning.unflushed > 0 { Phase::Flush } else { Phase::Done };
            // `Moved` comes as each record's write is completed; the flush that frees the victim must come after the last.
            self.flusher.demand();
        }
        self.cleaning = Some(cleaning);
        !stuck
    }

    /// A moved durable record is flushed, or never will be.
    pub(crate) fn moved(&mut self, ok: bool) {
        let Some(cleaning) = &mut self.cleaning else { return };
        cleaning.failed |= !ok;
        cleaning.unflushed = cleaning.unflushed.saturating_sub(1);
        if cleaning.unflushed == 0 && cleaning.phase == Phase::Flush {
            cleaning.phase = Phase::Done;
        }
    }

    fn end_cleaning(&mut self) -> bool {
        let Some(cleaning) = self.cleaning.take() else { return false };
        let victim = cleaning.victim;
        let renew = cleaning.durable || self.is_burdened();
        let s = self.segments.get_mut(victim);
        if cleaning.failed {
            // Its blocks stay readable; another try would meet the same end.
            s.stuck = true;
            return true;
        }
        if cleaning.later {
            return true;
        }
        if s.live_units > 0 {
            // Blocks its footer does not list: found by sweeping the index.
            s.footer_count = None;
            s.stuck |= cleaning.durable && s.tombstone_seq_max > 0;
            return true;
        }
        self.counted.segments_freed += 1;
        s.renew = renew;
        let heed_pins = !self.mutant(Mutant::ReuseWhileRead);
        self.segments.release(victim, heed_pins);
        true
    }
}
