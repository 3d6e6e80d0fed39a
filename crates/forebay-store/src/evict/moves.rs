//! What may be written beside what is put: an account that puts pay into, and that cleaning, headers and footers draw from.
//!
//! A share of each victim, as much of a hot one as of a cold one, is either too little or too much: with segments of few blocks it is no block at all. What
//! cold victims leave over is there for a hot one.

use forebay_format::SegmentKind;
use forebay_io::Disk;
use forebay_tokenomics::cleaning::{MOVED_PER_PUT, SAVED_SHARE};

use super::choose::REAPPEND_SHARE;
use crate::store::Store;
use crate::write::OpenSegment;

/// The account, in thirds of a unit.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    left: u64,
    most: u64,
    /// What victims of the cache have left over of what may be written again in a hurry.
    pub(super) left_over_units: u64,
}

impl Moves {
    /// For so many segments of so many units. What is hot in the first victim after a start is not lost for it.
    pub(crate) fn new(segments: u32, segment_units: u32) -> Self {
        let segment = u64::from(segment_units) * MOVED_PER_PUT.1;
        Moves {
            left: segment / 4,
            most: (u64::from(segments) * segment / SAVED_SHARE).max(segment),
            // What is hot in the first victim may lie there with all that is used together, and puts may wait for that one already.
            left_over_units: u64::from(segment_units) * REAPPEND_SHARE.0 / REAPPEND_SHARE.1,
        }
    }

    /// So much was put.
    pub(crate) fn put(&mut self, units: u32) {
        self.left = (self.left + u64::from(units) * MOVED_PER_PUT.0).min(self.most);
    }

    /// Units that may be written again.
    pub(crate) fn left_units(&self) -> u64 {
        self.left / MOVED_PER_PUT.1
    }

    /// So much is written. What is leased, and headers and footers, are not asked whether there is so much.
    pub(crate) fn take(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units * MOVED_PER_PUT.1);
    }

    /// So many units of a header or a footer are written.
    pub(crate) fn take_around(&mut self, kind: SegmentKind, units: u64) {
        if kind != SegmentKind::Durable {
            self.take(units);
        }
    }
}

impl<D: Disk> Store<D> {
    /// What is written again fills a segment slowly, and one that is open is never a victim: what is cold in it would outlive all that is put. When it counts
    /// less than the next victim, for the room that it has taken, it is closed, and leaves in its turn.
    pub(super) fn close_what_was_moved(&mut self, victim: Option<u16>) {
        let open = self.writing.iter().find_map(OpenSegment::moved_so_far);
        let (Some(victim), Some((segment, units))) = (victim, open) else { return };
        let [moved, next] = [segment, victim].map(|segment| self.segments.get(segment).worth);
        let whole = u64::from(self.geometry.segment_units);
        if u128::from(moved) * u128::from(whole) < u128::from(next) * u128::from(units) {
            self.seal(SegmentKind::Reappend);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_is_saved_up_to_a_sixteenth_of_the_drive() {
        let mut moves = Moves::new(160, 100);
        moves.take(25);
        moves.put(150);
        assert_eq!(moves.left_units(), 50);
        moves.take(20);
        moves.put(2);
        assert_eq!(moves.left_units(), 30, "a unit put pays for less than one");
        for _ in 0..100 {
            moves.put(1000);
        }
        assert_eq!(moves.left_units(), 1000);
        moves.take(2000);
        assert_eq!(moves.left_units(), 0, "leases may ask for more than there is");
    }
}
