//! The time by which blocks expire: believed slowly, never taken back. `docs/decisions/0010-expiry.md` says why. It reads no clock: both are told to it.

use forebay_format::ClockMark;
use forebay_types::Millis;

/// Further apart than this, in seconds, one of the clocks has jumped.
const JUMP_S: u64 = 600;
/// How long a jump must stand, in milliseconds, before it is believed.
const DOUBT_MS: u64 = 600_000;
/// Marks are written at most so often, in milliseconds.
const MARK_MS: u64 = 5_000;

/// What the wall clock does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wall {
    Together,
    /// Ahead of the believed time, or behind it, since then on the monotonic clock.
    Ahead(Millis),
    Behind(Millis),
}

/// A shard's time.
#[derive(Debug)]
pub(crate) struct ExpiryClock {
    /// Seconds since 1970; what is over by it is dropped. Goes back only in [`Self::begin_anew`].
    believed: u64,
    /// What the wall clock says.
    wall: u64,
    state: Wall,
    last: Millis,
    /// What the drive will know once the table of namespaces is saved, and what it knows.
    marking: ClockMark,
    marked: ClockMark,
    /// An older time that was wrong, and the first number it does not judge.
    old: (u64, u64),
    mark_wanted: bool,
    next_mark: Millis,
}

impl ExpiryClock {
    /// With what the drive knows.
    pub(crate) fn new(now: Millis, wall: u64, mark: ClockMark) -> Self {
        let mut clock = ExpiryClock {
            believed: if mark.utc_s == 0 { wall } else { mark.utc_s },
            wall,
            state: Wall::Together,
            last: now,
            marking: mark,
            marked: mark,
            old: (mark.old_utc_s, mark.old_seq),
            mark_wanted: false,
            next_mark: now,
        };
        clock.look(now, wall);
        clock
    }

    /// Told what both clocks say.
    pub(crate) fn look(&mut self, now: Millis, wall: u64) {
        let elapsed_s = now.saturating_sub(self.last) / 1000;
        self.last += elapsed_s * 1000;
        self.wall = wall;
        if wall > self.believed + elapsed_s + JUMP_S {
            self.believed += elapsed_s;
            match self.state {
                Wall::Ahead(since) if now >= since + DOUBT_MS => {
                    self.believed = wall;
                    self.state = Wall::Together;
                }
                Wall::Ahead(_) => {}
                _ => self.state = Wall::Ahead(now),
            }
        } else if wall + JUMP_S < self.believed {
            if !matches!(self.state, Wall::Behind(_)) {
                self.state = Wall::Behind(now);
            }
        } else {
            self.believed = self.believed.max(wall);
            self.state = Wall::Together;
        }
    }

    /// What has expired by this is not served.
    pub(crate) fn shown(&self) -> u64 {
        self.believed.max(self.wall)
    }

    /// What has expired by this is dropped for good.
    pub(crate) fn believed(&self) -> u64 {
        self.believed
    }

    /// Records with a number below this are judged by the old time too.
    pub(crate) fn old_seq(&self) -> u64 {
        self.old.1
    }

    /// Whether a record found at a start is over by what the drive knows; `is_old`: its number is below [`Self::old_seq`].
    pub(crate) fn is_over(&self, expiry: u64, is_old: bool) -> bool {
        expiry <= self.marked.utc_s || is_old && expiry <= self.old.0
    }

    /// Seconds between the wall clock and the believed time, while one of them must be wrong.
    pub(crate) fn apart_s(&self) -> u64 {
        if self.state == Wall::Together { 0 } else { self.wall.abs_diff(self.believed) }
    }

    /// The wall clock has been behind for so long that the believed time must have been wrong.
    pub(crate) fn was_wrong(&self, now: Millis) -> bool {
        matches!(self.state, Wall::Behind(since) if now >= since + DOUBT_MS)
    }

    /// Everything that the old time says is over has been dropped: from the next number on, the wall clock counts.
    pub(crate) fn begin_anew(&mut self, next: u64) {
        self.old = (self.old.0.max(self.believed), next);
        self.believed = self.wall;
        self.state = Wall::Together;
        (self.mark_wanted, self.next_mark) = (true, self.last);
    }

    /// A block was dropped that expired then: the drive must learn what time it is.
    pub(crate) fn dropped(&mut self, expiry: u64) {
        self.mark_wanted |= expiry > self.marked.utc_s;
    }

    /// True when the mark must be written now.
    pub(crate) fn is_due(&self, now: Millis) -> bool {
        self.mark_wanted && now >= self.next_mark
    }

    /// What is wanted is written now: the shard closes.
    pub(crate) fn hurry(&mut self) {
        self.next_mark = 0;
    }

    /// The mark to write.
    pub(crate) fn begin_mark(&mut self) -> ClockMark {
        self.marking = ClockMark { utc_s: self.believed, old_utc_s: self.old.0, old_seq: self.old.1 };
        self.mark_wanted = false;
        self.next_mark = self.last + MARK_MS;
        self.marking
    }

    /// It could not be written now.
    pub(crate) fn mark_again(&mut self) {
        (self.mark_wanted, self.next_mark) = (true, self.last);
    }

    /// It is on the drive.
    pub(crate) fn marked(&mut self) {
        self.marked = self.marking;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: u64) -> Millis {
        seconds * 1000
    }

    #[test]
    fn it_follows_a_wall_clock_that_walks() {
        let mut clock = ExpiryClock::new(0, 1000, ClockMark::default());
        for s in 1..5000 {
            clock.look(after(s), 1000 + s + s % 3);
            assert!(clock.believed() >= 1000 + s && clock.believed() <= 1000 + s + 2);
            assert_eq!(clock.apart_s(), 0);
        }
    }

    #[test]
    fn a_jump_forward_hides_at_once_and_drops_after_ten_minutes_if_it_stands() {
        let mut clock = ExpiryClock::new(0, 1000, ClockMark::default());
        clock.look(after(10), 900_000);
        assert_eq!((clock.shown(), clock.believed()), (900_000, 1010));
        assert_eq!(clock.apart_s(), 898_990);
        clock.look(after(100), 1100);
        assert_eq!((clock.shown(), clock.believed(), clock.apart_s()), (1100, 1100, 0), "put right: nothing was lost");
        clock.look(after(200), 900_000);
        clock.look(after(799), 900_599);
        assert_eq!(clock.believed(), 1799);
        clock.look(after(800), 900_600);
        assert_eq!(clock.believed(), 900_600);
    }

    #[test]
    fn a_jump_back_brings_nothing_back() {
        let mut clock = ExpiryClock::new(0, 1_000_000, ClockMark::default());
        clock.look(after(1), 5);
        assert_eq!((clock.shown(), clock.believed()), (1_000_000, 1_000_000));
        clock.dropped(999_999);
        assert!(clock.is_due(after(1)));
        let mark = clock.begin_mark();
        clock.marked();
        assert!(!clock.is_due(after(1)));
        let clock = ExpiryClock::new(0, 7, mark);
        assert_eq!(clock.shown(), 1_000_000, "nor does a restart");
    }

    #[test]
    fn a_believed_time_that_was_wrong_is_left_behind_and_still_judges_what_it_judged() {
        let mut clock = ExpiryClock::new(0, 1000, ClockMark::default());
        clock.look(after(1), 9_000_000);
        clock.look(after(602), 9_000_601);
        assert_eq!(clock.believed(), 9_000_601);
        clock.look(after(700), 1700);
        assert!(!clock.was_wrong(after(1299)) && clock.was_wrong(after(1300)));
        clock.look(after(1300), 2300);
        clock.begin_anew(77);
        assert_eq!((clock.shown(), clock.believed()), (2300, 2300));
        assert!(clock.is_due(after(1300)));
        let mark = clock.begin_mark();
        assert_eq!(mark, ClockMark { utc_s: 2300, old_utc_s: 9_000_601, old_seq: 77 });
    }

    #[test]
    fn marks_are_not_written_all_the_time() {
        let mut clock = ExpiryClock::new(0, 1000, ClockMark::default());
        let mut written = 0;
        for s in 0..100 {
            clock.look(after(s), 1000 + s);
            clock.dropped(1000 + s);
            if clock.is_due(after(s)) {
                clock.begin_mark();
                clock.marked();
                written += 1;
            }
        }
        assert!((15..=21).contains(&written), "{written}");
    }
}
