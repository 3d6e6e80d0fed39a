//! What segments are worth: the sum of what each block in them counts for ([`Order`]), kept as blocks come, go and are used.
//!
//! What is cold leaves, and values change by themselves as time passes, so sums that were right when they were made are wrong later. They are made anew, one
//! table of the index in a turn, when the policy asks for it and each time a sixteenth of the segments has been freed: between two, each value has aged by a
//! sixteenth of what a block stays. A million blocks take some ten milliseconds in all.

use forebay_format::SegmentKind;
use forebay_io::Disk;
use forebay_types::Key;

use crate::index::{Entry, Place};
use crate::order::{Order, SAMPLED};
use crate::store::Store;

/// Of all segments, so many are freed between two sums.
const FREED_SHARE: u64 = 16;

/// How sums are kept.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    /// What blocks count for in them.
    pub(crate) order: Order,
    anew: Option<Anew>,
    /// Segments freed when that was begun last.
    summed_at: u64,
    /// They were made anew since the drive became full.
    summed_full: bool,
    /// The table of the index that was sampled last.
    sample_cursor: usize,
}

/// Sums being made anew.
#[derive(Debug, Default)]
struct Anew {
    /// Tables of the index that are counted.
    next: usize,
    /// By segment.
    sums: Vec<u64>,
    /// What blocks count for in them.
    order: Order,
}

impl<D: Disk> Store<D> {
    /// A block lives there and has this rank.
    pub(crate) fn add_live(&mut self, ns: u16, key: &Key, place: Place, rank: u32) {
        let value = self.policy.value(rank, ns);
        self.segments.add_live(place.segment, place.units(), self.sums.order.count(value));
        if let Some((sum, order)) = self.counted_anew(ns, key, place.segment) {
            *sum += u64::from(place.units()) * u64::from(order.count(value));
        }
    }

    /// A block of this rank lives there no longer.
    pub(crate) fn remove_live(&mut self, ns: u16, key: &Key, place: Place, rank: u32) {
        let value = self.policy.value(rank, ns);
        self.segments.remove_live(place.segment, place.units(), self.sums.order.count(value));
        if let Some((sum, order)) = self.counted_anew(ns, key, place.segment) {
            *sum = sum.saturating_sub(u64::from(place.units()) * u64::from(order.count(value)));
        }
    }

    /// The new sum that a block is in already, and the order by which it counts there.
    fn counted_anew(&mut self, ns: u16, key: &Key, segment: u16) -> Option<(&mut u64, &Order)> {
        let anew = self.sums.anew.as_mut()?;
        if self.index.table_number(ns, key) >= anew.next {
            return None;
        }
        Some((anew.sums.get_mut(usize::from(segment))?, &anew.order))
    }

    /// Counts one table, if sums are due. True: there are more.
    pub(crate) fn sum_step(&mut self) -> bool {
        let Some(mut anew) = self.sums.anew.take() else { return self.begin_sums() };
        let Store { index, policy, .. } = self;
        for entry in index.table_mut(anew.next) {
            entry.rank = policy.renewed(entry.rank);
            let count = anew.order.count(policy.value(entry.rank, entry.ns));
            anew.sums[usize::from(entry.segment())] += u64::from(entry.place().units()) * u64::from(count);
        }
        anew.next += 1;
        if anew.next < self.index.tables() {
            self.sums.anew = Some(anew);
            return true;
        }
        self.sums.order = anew.order;
        for (segment, sum) in self.segments.iter_mut().zip(anew.sums) {
            segment.worth = sum;
        }
        false
    }

    fn begin_sums(&mut self) -> bool {
        let freed = self.counted.segments_freed;
        // What is cold must be known when the first victim is chosen.
        let room = self.free_target() + 1 + self.segments.len() / FREED_SHARE as usize;
        let short = !self.sums.summed_full && self.segments.free_len() <= room;
        let due = (freed - self.sums.summed_at) * FREED_SHARE >= self.segments.len() as u64;
        if !(self.policy.resum() || due || short) {
            return false;
        }
        (self.sums.summed_at, self.sums.summed_full) = (freed, self.sums.summed_full | short);
        self.sums.anew =
            Some(Anew { next: 0, sums: vec![0; self.segments.len()], order: Order::of(self.sampled_values()) });
        true
    }

    /// Values of some blocks of the cache. They are spread over the tables by hash.
    fn sampled_values(&mut self) -> Vec<u32> {
        let mut values = Vec::with_capacity(SAMPLED);
        for _ in 0..self.index.tables() {
            self.sums.sample_cursor = (self.sums.sample_cursor + 1) % self.index.tables();
            let cache = |entry: &&Entry| self.segments.get(entry.segment()).kind != SegmentKind::Durable;
            let entries = self.index.table(self.sums.sample_cursor).filter(cache).take(SAMPLED - values.len());
            values.extend(entries.map(|entry| self.policy.value(entry.rank, entry.ns)));
            if values.len() == SAMPLED {
                break;
            }
        }
        values
    }
}
