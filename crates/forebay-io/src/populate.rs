//! Taking the pages of an arena in a thread of their own, while the arena's owner does something else.
//!
//! The kernel zeroes each page that is taken: a quarter of a second for a gigabyte. Registering the arena with a ring takes them all at once, so a start
//! that first registered and then read its drive did the one after the other. Buffers are handed out from the arena's low end; the thread goes from the
//! high end down, so the two seldom want the same page, and when they do the kernel gives it to both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::mm::Advice;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::Arena;

/// Bytes taken in one call: small enough that whoever drops it does not wait long.
const STEP_BYTES: usize = 8 << 20;

/// Whether so many bytes may be pinned, as far as can be told beforehand: asking the kernel costs taking them all.
pub(crate) fn may_pin(bytes: usize) -> bool {
    let unlimited = || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    getrlimit(Resource::Memlock).current.is_none_or(|limit| limit >= bytes as u64) || unlimited()
}

/// An arena whose pages are being taken. Dropping it stops that; [`Self::finish`] waits for the end.
pub struct Populating {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// The mapping stays while the thread advises on it.
    _arena: Arena,
}

impl Arena {
    /// Begins to take the arena's pages, last ones first, if they may be pinned later; else they are taken as they are touched, and nobody pays for
    /// memory that is not used. Contents do not change. Where the kernel cannot do it (before 5.14), nothing happens.
    pub fn populate(&self) -> Populating {
        let stop = Arc::new(AtomicBool::new(false));
        let (asked, base, len) = (stop.clone(), self.base().as_ptr().addr(), self.len());
        let run = move || {
            let mut end = len;
            while end > 0 && !asked.load(Ordering::Relaxed) {
                let start = end.saturating_sub(STEP_BYTES);
                if !take(base + start, end - start) {
                    return;
                }
                end = start;
            }
        };
        let begin = || std::thread::Builder::new().name("forebay-pages".into()).spawn(run).ok();
        Populating { thread: may_pin(len).then(begin).flatten(), stop, _arena: self.clone() }
    }
}

/// Takes the pages of a part of a mapping, as a write to each would, without changing what they hold. False when the kernel will not.
#[expect(unsafe_code, reason = "advising on memory")]
fn take(start: usize, len: usize) -> bool {
    let at = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range lies in the arena's mapping, which `Populating` keeps until this thread is joined. The advice changes no byte and moves no
    // page that is there, so it harms no buffer that is written or read meanwhile.
    unsafe { rustix::mm::madvise(at, len, Advice::LinuxPopulateWrite) }.is_ok()
}

impl Populating {
    /// Waits until all pages are taken.
    pub fn finish(mut self) {
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // It has nothing to panic about; if it did, the pages are taken when they are touched.
            let _ = thread.join();
        }
    }
}

impl Drop for Populating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.join();
    }
}

impl std::fmt::Debug for Populating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Populating").field("runs", &self.thread.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kilobytes of a mapping that are there.
    fn resident(arena: &Arena) -> usize {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let at = format!("{:x}-", arena.base().as_ptr().addr());
        let mapping = smaps.split_inclusive('\n').skip_while(|line| !line.starts_with(&at));
        let rss = mapping.into_iter().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        rss.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    #[test]
    fn what_is_in_buffers_stays_while_pages_are_taken_and_afterwards_all_are_there() {
        let len = 64 << 20;
        let arena = Arena::new(len).unwrap();
        let mut held = arena.alloc(1 << 20).unwrap();
        held.fill(7);
        let populating = arena.populate();
        let mut other = arena.alloc(20 << 20).unwrap();
        other.fill(9);
        let runs = populating.thread.is_some();
        populating.finish();
        assert!(held.iter().all(|b| *b == 7) && other.iter().all(|b| *b == 9));
        drop((held, other));
        let rest = arena.alloc(len).unwrap();
        assert!(rest[21 << 20..].iter().all(|b| *b == 0), "fresh memory reads as zeros");
        if runs {
            assert_eq!(resident(&arena) << 10, len);
        }
    }

    #[test]
    fn an_arena_can_be_given_up_in_the_middle() {
        for _ in 0..20 {
            let arena = Arena::new(256 << 20).unwrap();
            let populating = arena.populate();
            drop(arena);
            drop(populating);
        }
    }
}
