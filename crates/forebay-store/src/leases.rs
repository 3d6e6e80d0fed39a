//! Leases: blocks that a `match_prefix` promised, held against eviction for seconds. Bounded in bytes and in time, so that nothing can hold
//! eviction up for ever.
//!
//! A match leases a thousand blocks at once, so a lease may cost a few nanoseconds, not a search in a tree. It is six bits of the block's own entry in
//! the index, which the match has just looked at: the step of a coarse clock at which the lease ends. Beside it each step has a list of the names whose
//! lease ends with it. When its time comes, the list is walked, and the entries that still carry this step are let go. An entry that was dropped,
//! or whose lease was made longer meanwhile, is not found so, and that is all there is to do for it.

use std::collections::VecDeque;

use forebay_types::limits::LEASE_MS_MAX;
use forebay_types::{Key, Millis};

use crate::index::{Entry, LEASE_MARKS};

/// How coarse the clock of leases is, in milliseconds: a lease is held so much longer than was asked, at most, and never longer than 30 s.
const STEP_MS: u64 = 500;
/// Names of one piece of a list.
const CHUNK_NAMES: usize = 256;
/// What one lease costs: its name in the list of a step.
pub(crate) const LEASE_BYTES: usize = size_of::<Name>();

/// Every step at which a lease may end has a mark of its own, with one to spare on either side for a turn that comes late.
const _: () = assert!(LEASE_MS_MAX / STEP_MS + 2 < LEASE_MARKS as u64);

pub(crate) type Name = (u16, Key);

/// Who is held until when.
pub(crate) struct Leases {
    /// Names by the step at which their lease ends, that of mark 1 first. In pieces, so that a list grows in small steps.
    ends: Vec<VecDeque<Vec<Name>>>,
    /// No lease that is listed ends before this step.
    first: u64,
    /// Names in all lists.
    listed: usize,
    chunks: usize,
    bytes: u64,
    bytes_max: u64,
    listed_max: usize,
}

/// What asking for a lease did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Held now, was not before.
    New,
    /// Held, as long as was asked or longer.
    Longer,
    /// A tenth of the shard is held.
    No,
}

impl Leases {
    /// At most `listed_max` leases of `bytes_max` bytes of blocks.
    pub(crate) fn new(bytes_max: u64, listed_max: usize) -> Self {
        let ends = (0..LEASE_MARKS).map(|_| VecDeque::new()).collect();
        Leases { ends, first: 0, listed: 0, chunks: 0, bytes: 0, bytes_max, listed_max }
    }

    /// The step at which a lease of `hold_ms` ends: not before it is over, and never later than the longest may.
    pub(crate) fn end(&self, now: Millis, hold_ms: u64) -> u64 {
        let asked = (now + hold_ms.min(LEASE_MS_MAX)).div_ceil(STEP_MS);
        asked.min((now + LEASE_MS_MAX) / STEP_MS).max(self.first)
    }

    /// Leases a block of `bytes` until the step `end`, which [`Self::end`] has told for this very moment.
    pub(crate) fn grant(&mut self, entry: &mut Entry, bytes: u64, end: u64) -> Granted {
        let held = entry.lease().map(|mark| self.step(mark));
        if held.is_some_and(|held| held >= end) {
            return Granted::Longer;
        }
        debug_assert!(end >= self.first && end - self.first < u64::from(LEASE_MARKS), "a turn has come before");
        if self.listed >= self.listed_max || (held.is_none() && self.bytes + bytes > self.bytes_max) {
            return Granted::No;
        }
        let mark = mark(end);
        entry.set_lease(Some(mark));
        self.list(mark, (entry.ns, entry.key));
        if held.is_some() {
            return Granted::Longer;
        }
        self.bytes += bytes;
        Granted::New
    }

    fn list(&mut self, mark: u8, name: Name) {
        let list = &mut self.ends[usize::from(mark) - 1];
        if list.back().is_none_or(|chunk| chunk.len() == CHUNK_NAMES) {
            list.push_back(Vec::with_capacity(CHUNK_NAMES));
            self.chunks += 1;
        }
        if let Some(chunk) = list.back_mut() {
            chunk.push(name);
            self.listed += 1;
        }
    }

    /// The step that a mark means now.
    fn step(&self, mark: u8) -> u64 {
        let steps = u64::from(LEASE_MARKS);
        let ahead = (u64::from(mark) - 1 + steps - self.first % steps) % steps;
        self.first + ahead
    }

    /// A piece of the names whose leases have ended, with the mark that those carry which were not made longer. `None`: nothing is due.
    pub(crate) fn due(&mut self, now: Millis) -> Option<(u8, Vec<Name>)> {
        if self.listed == 0 {
            self.first = self.first.max(now / STEP_MS);
            return None;
        }
        while self.first * STEP_MS <= now {
            let mark = mark(self.first);
            if let Some(chunk) = self.ends[usize::from(mark) - 1].pop_front() {
                self.listed -= chunk.len();
                self.chunks -= 1;
                return Some((mark, chunk));
            }
            self.first += 1;
        }
        None
    }

    /// True when a step is over for so long that its mark may soon be given again: whoever looks does so until nothing is due.
    pub(crate) fn is_late(&self, now: Millis) -> bool {
        self.listed > 0 && (self.first + 1) * STEP_MS <= now
    }

    /// A leased block of `bytes` is held no longer, or is gone.
    pub(crate) fn ended(&mut self, bytes: u64) {
        self.bytes -= bytes;
    }

    /// Bytes of blocks that are held.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of memory.
    pub(crate) fn memory(&self) -> usize {
        self.chunks * CHUNK_NAMES * LEASE_BYTES
    }
}

/// The mark of a step, 1 and up.
fn mark(step: u64) -> u8 {
    (step % u64::from(LEASE_MARKS)) as u8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Place;

    fn entry(i: u8) -> Entry {
        let place = Place { segment: 1, page: 8, payload_units: 1, trailer_units: 1, tail: 0 };
        Entry::new(1, Key([i; 16]), 0, place)
    }

    fn grant(leases: &mut Leases, entry: &mut Entry, bytes: u64, now: Millis, hold_ms: u64) -> Granted {
        let end = leases.end(now, hold_ms);
        leases.grant(entry, bytes, end)
    }

    /// Ends what is due, as the store does.
    fn expire(leases: &mut Leases, entries: &mut [Entry], now: Millis) {
        while let Some((mark, names)) = leases.due(now) {
            for name in names {
                for entry in entries.iter_mut().filter(|e| (e.ns, e.key) == name && e.lease() == Some(mark)) {
                    entry.set_lease(None);
                    leases.ended(60);
                }
            }
        }
    }

    #[test]
    fn a_lease_ends_and_leaves_room() {
        let mut leases = Leases::new(100, 10);
        let mut all = [entry(1), entry(2)];
        assert_eq!(grant(&mut leases, &mut all[0], 60, 0, 1_000_000), Granted::New);
        assert_eq!(grant(&mut leases, &mut all[1], 60, 0, 10), Granted::No);
        assert_eq!(grant(&mut leases, &mut all[0], 60, 5, 10), Granted::Longer);
        expire(&mut leases, &mut all, LEASE_MS_MAX - 1);
        assert!(all[0].is_leased(), "a shorter one does not cut a longer one");
        expire(&mut leases, &mut all, LEASE_MS_MAX);
        assert!(!all[0].is_leased(), "30 s at most");
        assert_eq!((leases.bytes(), leases.memory()), (0, 0));
        assert_eq!(grant(&mut leases, &mut all[1], 60, LEASE_MS_MAX, 10), Granted::New);
    }

    #[test]
    fn a_lease_is_held_as_long_as_was_asked_and_at_most_a_step_longer_at_any_time() {
        let mut leases = Leases::new(100, 10);
        let mut all = [entry(1)];
        let mut now = 0;
        for i in 0..2000u64 {
            now += i * 37 % 1300;
            expire(&mut leases, &mut all, now);
            all[0].set_lease(None);
            leases = Leases { bytes: 0, ..leases };
            let hold = i * 7919 % 29_000;
            assert_eq!(grant(&mut leases, &mut all[0], 60, now, hold), Granted::New, "{i}");
            let mut until = now;
            while all[0].is_leased() {
                until += 100;
                expire(&mut leases, &mut all, until);
            }
            let held = until - now;
            assert!((hold..=hold + STEP_MS + 100).contains(&held), "{hold} asked, {held} held at {now}");
            now = until;
        }
    }

    #[test]
    fn a_lease_that_was_made_longer_ends_with_the_longer_one_only() {
        let mut leases = Leases::new(100, 3);
        let mut all = [entry(1)];
        assert_eq!(grant(&mut leases, &mut all[0], 60, 0, 1000), Granted::New);
        assert_eq!(grant(&mut leases, &mut all[0], 60, 0, 5000), Granted::Longer);
        expire(&mut leases, &mut all, 2000);
        assert!(all[0].is_leased() && leases.bytes() == 60);
        // Each making longer takes a place in a list; when there is none, the block stays held as it was.
        assert_eq!(grant(&mut leases, &mut all[0], 60, 2000, 6000), Granted::Longer);
        assert_eq!(grant(&mut leases, &mut all[0], 60, 2000, 7000), Granted::Longer);
        assert_eq!(grant(&mut leases, &mut all[0], 60, 2000, 9000), Granted::No);
        expire(&mut leases, &mut all, 8999);
        assert!(all[0].is_leased());
        expire(&mut leases, &mut all, 9000);
        assert!(!all[0].is_leased() && leases.bytes() == 0);
    }

    #[test]
    fn after_a_long_stop_nothing_old_is_taken_for_new() {
        let mut leases = Leases::new(1000, 10);
        let mut all = [entry(1), entry(2)];
        assert_eq!(grant(&mut leases, &mut all[0], 60, 0, 1000), Granted::New);
        // The process was stopped for as long as the marks last, so that the new lease has the mark of the old.
        let now = u64::from(LEASE_MARKS) * STEP_MS;
        assert!(leases.is_late(now));
        expire(&mut leases, &mut all, now);
        assert_eq!(grant(&mut leases, &mut all[1], 60, now, 1000), Granted::New);
        assert!(!all[0].is_leased() && all[1].is_leased() && leases.bytes() == 60);
    }
}
