//! Gets that nobody waits for any more: what the drive was not asked for is not read.

use forebay_io::Disk;
use forebay_types::{Millis, MissReason};

use crate::face::GetResult;
use crate::mutant::Mutant;
use crate::store::{Op, Store};

impl<D: Disk> Store<D> {
    /// Drops gets that nobody waits for any more, as far as the drive was not asked for their bytes: those for whose token `is_idle` says so.
    /// [`Event::Got`] follows for each, a miss by `deadline`. Gives how many reads that saved.
    pub fn drop_gets(&mut self, now: Millis, is_idle: impl Fn(u64) -> bool) -> u64 {
        if self.mutant(Mutant::NothingDropped) {
            return 0;
        }
        let (ops, ranges) = (&mut self.ops, &mut self.ranges);
        let taken = self.lanes.take_back(|token| match ops.get_mut(token) {
            Some(Op::Read(op)) => is_idle(op.token),
            Some(Op::RangePieces(range) | Op::RangeTrailer(range)) => {
                ranges.get_mut(*range).is_some_and(|range| is_idle(range.token))
            }
            _ => false,
        });
        for token in &taken {
            match self.ops.remove(*token) {
                Some(Op::Read(op)) => {
                    self.segments.unpin(op.place.segment);
                    self.got(op.token, GetResult::Miss(MissReason::Deadline));
                }
                Some(Op::RangePieces(range)) => self.range_dropped(now, range, true),
                Some(Op::RangeTrailer(range)) => self.range_dropped(now, range, false),
                _ => {}
            }
        }
        taken.len() as u64
    }

    fn range_dropped(&mut self, now: Millis, number: u64, is_pieces: bool) {
        if let Some(range) = self.ranges.get_mut(number) {
            range.failed = Some(MissReason::Deadline);
        }
        self.range_done(now, number, is_pieces, Ok(()), None);
    }
}
