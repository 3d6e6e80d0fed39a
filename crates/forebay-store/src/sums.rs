//! What segments are worth: the sum of what a policy says of each block in them, kept as blocks come, go and are used.
//!
//! Where values change by themselves as time passes, sums that were right when they were made are wrong later. They are made anew, one table of the
//! index in a turn, when the policy asks for it and each time a sixteenth of the segments has been freed: between two, each value has aged by a sixteenth
//! of what a block stays. A million blocks take some ten milliseconds in all.

use forebay_io::Disk;
use forebay_types::Key;

use crate::index::Place;
use crate::store::Store;

/// Of all segments, so many are freed between two sums.
const FREED_SHARE: u64 = 16;

/// Sums being made anew.
#[derive(Debug, Default)]
pub(crate) struct Anew {
    /// Tables of the index that are counted.
    next: usize,
    /// By segment.
    sums: Vec<u64>,
}

impl<D: Disk> Store<D> {
    /// A block lives there and has this rank.
    pub(crate) fn add_live(&mut self, ns: u16, key: &Key, place: Place, rank: u32) {
        let value = self.policy.value(rank, ns);
        self.segments.add_live(place.segment, place.units(), value);
        if let Some(sum) = self.counted_anew(ns, key, place.segment) {
            *sum += u64::from(place.units()) * u64::from(value);
        }
    }

    /// A block of this rank lives there no longer.
    pub(crate) fn remove_live(&mut self, ns: u16, key: &Key, place: Place, rank: u32) {
        let value = self.policy.value(rank, ns);
        self.segments.remove_live(place.segment, place.units(), value);
        if let Some(sum) = self.counted_anew(ns, key, place.segment) {
            *sum = sum.saturating_sub(u64::from(place.units()) * u64::from(value));
        }
    }

    /// The new sum that a block is in already.
    fn counted_anew(&mut self, ns: u16, key: &Key, segment: u16) -> Option<&mut u64> {
        let anew = self.anew.as_mut()?;
        if self.index.table_number(ns, key) >= anew.next {
            return None;
        }
        anew.sums.get_mut(usize::from(segment))
    }

    /// Counts one table, if sums are due. True: there are more.
    pub(crate) fn sum_step(&mut self) -> bool {
        let Some(mut anew) = self.anew.take() else { return self.begin_sums() };
        let Store { index, policy, .. } = self;
        for entry in index.table_mut(anew.next) {
            entry.rank = policy.renewed(entry.rank);
            let value = policy.value(entry.rank, entry.ns);
            anew.sums[usize::from(entry.segment())] += u64::from(entry.place().units()) * u64::from(value);
        }
        anew.next += 1;
        if anew.next < self.index.tables() {
            self.anew = Some(anew);
            return true;
        }
        for (segment, sum) in self.segments.iter_mut().zip(anew.sums) {
            segment.worth = sum;
        }
        false
    }

    fn begin_sums(&mut self) -> bool {
        let freed = self.counted.segments_freed;
        let due = !self.policy.is_steady() && (freed - self.summed_at) * FREED_SHARE >= self.segments.len() as u64;
        if !(self.policy.resum() || due) {
            return false;
        }
        self.summed_at = freed;
        self.anew = Some(Anew { next: 0, sums: vec![0; self.segments.len()] });
        true
    }
}
