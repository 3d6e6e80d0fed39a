//! The write budget: how many bytes a day the drive may be written, and who is admitted when they run short. Time is told to it.
//!
//! A bucket that fills evenly and holds a day's worth at most. What it pays for is what really goes to the drive: records with their padding, what cleaning
//! writes again, headers, footers, tombstones, tables. While more than a quarter of a day is left, the budget asks nobody; below that only what is worth most by the byte, or
//! likely to be used again, is admitted; at nothing, no block of the cache. Durable blocks are never refused for wear: they make debts, which the cache pays.
//!
//! The account is in the table of namespaces, drawn in advance: what is written there as spent is always a little more than what is. A start takes it for
//! true, so that nothing is won by starting again.

use forebay_format::WriteMark;
use forebay_types::Millis;

use crate::bucket::Bucket;

const DAY_MS: u64 = 86_400_000;
/// Part of a day's worth that is kept for what is likely to be used again: six hours of the even flow.
const RESERVE_SHARE: u64 = 4;
/// Part of a day's worth that is drawn from the account in advance: the table is written a few hundred times a day, and a crash costs six minutes' worth.
const DRAWN_SHARE: u64 = 256;

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Left {
    /// More than is kept back.
    Plenty,
    /// This share of what is kept back: as much of what is offered is admitted, so that it is spent on what is worth most and settles where as much flows in.
    Share(f64),
    /// Not even for this block.
    Nothing,
}

/// A shard's account.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// A day's worth in bytes; 0: anything goes.
    day_bytes: u64,
    left: Bucket,
    /// Bytes ever written since the opening, as told last.
    written: u64,
    /// Bytes written since the account was put down, and whether that must be done now.
    undrawn: u64,
    wanted: bool,
    /// What the drive knows.
    mark: WriteMark,
}

impl Budget {
    /// Off, with what the drive knows.
    pub(crate) fn new(mark: WriteMark) -> Self {
        Budget { mark, ..Budget::default() }
    }

    /// From now on so many bytes a day; 0 is off. What the drive knows to be spent is spent, less what has flown in since.
    pub(crate) fn set(&mut self, now: Millis, utc_s: u64, day_bytes: u64) {
        let spent = u64::from(self.mark.spent_mib) << 20;
        let away_ms = utc_s.saturating_sub(u64::from(self.mark.utc_s)).saturating_mul(1000);
        self.day_bytes = day_bytes;
        self.left = Bucket::new(now, day_bytes, DAY_MS, DAY_MS);
        self.left.pour(DAY_MS);
        self.left.take(spent);
        self.left.pour(away_ms);
        (self.undrawn, self.wanted) = (0, day_bytes > 0);
    }

    /// Told what was written in all since the opening.
    pub(crate) fn look(&mut self, now: Millis, written: u64) {
        let more = written.saturating_sub(self.written);
        self.written = written;
        if self.day_bytes == 0 {
            return;
        }
        self.left.fill(now);
        self.left.take(more);
        self.undrawn += more;
        // At half of what is drawn: the rest covers what is written until the table is.
        self.wanted |= self.undrawn > self.drawn_bytes() / 2;
    }

    fn drawn_bytes(&self) -> u64 {
        (self.day_bytes / DRAWN_SHARE).max(1 << 20)
    }

    /// Bytes spent and not filled up again, rounded up.
    fn spent_bytes(&self) -> u64 {
        self.day_bytes.saturating_sub(self.left.left_bytes()).saturating_add(self.left.debt_bytes())
    }

    pub(crate) fn is_on(&self) -> bool {
        self.day_bytes > 0
    }

    pub(crate) fn day_bytes(&self) -> u64 {
        self.day_bytes
    }

    /// Bytes that may be written now.
    pub(crate) fn left_bytes(&self) -> u64 {
        self.left.left_bytes()
    }

    /// Bytes written over it.
    pub(crate) fn debt_bytes(&self) -> u64 {
        if self.is_on() { self.left.debt_bytes() } else { 0 }
    }

    /// What of the budget is left for a block of the cache of so many bytes.
    pub(crate) fn left_share(&self, bytes: u64) -> Left {
        let (left, reserve) = (self.left_bytes(), self.reserve_bytes());
        match () {
            () if !self.is_on() || left >= reserve + bytes => Left::Plenty,
            () if left < bytes || left == 0 => Left::Nothing,
            () => Left::Share((left as f64 / reserve.max(1) as f64).min(1.0)),
        }
    }

    /// Bytes that are kept for what is worth most.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.day_bytes / RESERVE_SHARE
    }

    /// True when the account must be put down.
    pub(crate) fn is_due(&self) -> bool {
        self.wanted
    }

    /// The account to put down, with what is drawn in advance.
    pub(crate) fn begin_mark(&mut self, utc_s: u64) -> WriteMark {
        if self.is_on() {
            let spent = self.spent_bytes().saturating_add(self.drawn_bytes());
            self.mark = WriteMark {
                spent_mib: u32::try_from(spent.div_ceil(1 << 20)).unwrap_or(u32::MAX),
                utc_s: u32::try_from(utc_s).unwrap_or(u32::MAX),
            };
            (self.undrawn, self.wanted) = (0, false);
        }
        self.mark
    }

    /// It could not be written now.
    pub(crate) fn mark_again(&mut self) {
        self.wanted = self.is_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn budget(day_bytes: u64) -> Budget {
        let mut budget = Budget::new(WriteMark::default());
        budget.set(0, 1_000_000, day_bytes);
        budget
    }

    #[test]
    fn it_fills_evenly_and_holds_a_day_at_most() {
        let mut budget = budget(24 * GIB);
        assert_eq!(budget.left_bytes(), 24 * GIB);
        budget.look(0, 10 * GIB);
        assert_eq!(budget.left_bytes(), 14 * GIB);
        budget.look(3_600_000, 10 * GIB);
        assert_eq!(budget.left_bytes(), 15 * GIB, "an hour's worth");
        budget.look(40 * 3_600_000, 10 * GIB);
        assert_eq!(budget.left_bytes(), 24 * GIB);
        budget.look(40 * 3_600_000, 50 * GIB);
        assert_eq!((budget.left_bytes(), budget.debt_bytes()), (0, 16 * GIB), "who is never refused makes debts");
        budget.look(57 * 3_600_000, 50 * GIB);
        assert_eq!((budget.left_bytes(), budget.debt_bytes()), (GIB, 0));
        budget.look(0, 50 * GIB);
        assert_eq!(budget.left_bytes(), GIB, "a clock that goes back fills nothing");
    }

    #[test]
    fn the_last_quarter_is_kept_back_and_says_how_much_of_it_is_left() {
        let mut budget = budget(16 * GIB);
        assert_eq!(budget.left_share(12 * GIB), Left::Plenty);
        budget.look(0, 11 * GIB);
        assert_eq!((budget.left_share(GIB), budget.left_share(2 * GIB)), (Left::Plenty, Left::Share(1.0)));
        assert_eq!((budget.left_share(5 * GIB), budget.left_share(6 * GIB)), (Left::Share(1.0), Left::Nothing));
        budget.look(0, 15 * GIB);
        assert_eq!((budget.left_share(GIB), budget.left_share(2 * GIB)), (Left::Share(0.25), Left::Nothing));
        budget.look(0, 16 * GIB);
        assert_eq!(budget.left_share(0), Left::Nothing);
        assert_eq!(Budget::new(WriteMark::default()).left_share(u64::MAX), Left::Plenty, "off");
    }

    #[test]
    fn starting_again_wins_nothing() {
        let mut once = budget(GIB);
        let mut again = budget(GIB);
        // The account as the drive has it: put down when it was due, lost with each crash otherwise.
        let mut mark = again.begin_mark(1_000_000);
        let (mut written, mut since) = (0, 0);
        for minute in 1..3000u64 {
            let (now, utc_s) = (minute * 60_000, 1_000_000 + minute * 60);
            written += 300 << 10;
            since += 300 << 10;
            once.look(now, written);
            again.look(now, since);
            if again.is_due() {
                mark = again.begin_mark(utc_s);
            }
            if minute % 7 == 0 {
                again = Budget::new(mark);
                again.set(now, utc_s, GIB);
                since = 0;
            }
            assert!(
                again.left_bytes() <= once.left_bytes() + 1,
                "{minute}: {} {}",
                again.left_bytes(),
                once.left_bytes()
            );
        }
    }
}
