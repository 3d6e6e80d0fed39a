//! Mappings of clients' memory are taken down in a thread of their own.
//!
//! Unmapping a quarter of a gigabyte that was written to takes the kernel milliseconds, and closing the last descriptor of it as long again: its
//! pages are freed then. In a shard's thread everybody would wait for that. So whoever lets go of a region last hands it over here, and this thread
//! takes it down in steps.
//!
//! No late write can come of it. What is handed over is owned: a mapping is held by its region and by each landing in it, and only the last of
//! them hands it over, so no operation of the engine writes there any more, and nobody can begin one. All this thread does with the address is to give
//! it back to the kernel.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

/// Bytes unmapped in one call: the address space is locked meanwhile, and a shard that touches a new page would wait for it.
const STEP_BYTES: usize = 8 << 20;

/// What may wait to be taken down: the regions of one client. Clients cannot make more of it than that: the next is taken down by whoever let it go, which
/// is slower for all. Each holds a descriptor, of those that a node keeps for itself.
const WAITING_MAX: usize = 32;

/// A descriptor of memory, and where it was mapped if it was. Nobody else has the mapping.
#[derive(Debug)]
pub(crate) struct Gone {
    fd: Option<OwnedFd>,
    /// Address and bytes. An address and no pointer: it is only ever given back.
    map: Option<(usize, usize)>,
}

impl Gone {
    pub(crate) fn new(fd: OwnedFd, map: Option<(NonNull<u8>, usize)>) -> Self {
        Gone { fd: Some(fd), map: map.map(|(base, len)| (base.as_ptr().expose_provenance(), len)) }
    }
}

impl Drop for Gone {
    #[expect(unsafe_code, reason = "unmapping memory")]
    fn drop(&mut self) {
        let (base, len) = self.map.take().unwrap_or_default();
        for start in (0..len).step_by(STEP_BYTES) {
            let at = std::ptr::with_exposed_provenance_mut(base + start);
            // SAFETY: the range lies in a mapping that `new` was given whole and alone: no reference, pointer or operation of anybody's leads there,
            // and none of its ranges is unmapped twice.
            let _ = unsafe { rustix::mm::munmap(at, STEP_BYTES.min(len - start)) };
        }
        drop(self.fd.take());
    }
}

/// The way to the thread.
#[derive(Debug, Clone)]
pub(crate) struct Unmapper(SyncSender<Gone>);

impl Unmapper {
    /// One that nobody works for yet, and what it is given.
    pub(crate) fn new() -> (Self, Receiver<Gone>) {
        let (to, from) = sync_channel(WAITING_MAX);
        (Unmapper(to), from)
    }

    /// Hands it over. Where too much waits, or there is no thread, it is taken down here and now.
    pub(crate) fn take(&self, gone: Gone) {
        match self.0.try_send(gone) {
            Ok(()) => {}
            Err(TrySendError::Full(gone) | TrySendError::Disconnected(gone)) => drop(gone),
        }
    }

    /// The one of this process, which has its thread from the first region on.
    pub(crate) fn of_process() -> &'static Unmapper {
        static OF_PROCESS: OnceLock<Unmapper> = OnceLock::new();
        OF_PROCESS.get_or_init(|| {
            let (unmapper, from) = Self::new();
            // Without a thread the receiver is dropped here, and everything is taken down where it is let go.
            let _ = std::thread::Builder::new().name("forebay-unmap".into()).spawn(move || from.iter().for_each(drop));
            unmapper
        })
    }
}

/// Closes a descriptor that a client sent, elsewhere: it may be the last of a great deal of memory.
pub fn close_elsewhere(fd: OwnedFd) {
    Unmapper::of_process().take(Gone::new(fd, None));
}

#[cfg(test)]
mod tests {
    use rustix::fs::SealFlags;

    use super::*;
    use crate::PeerRegion;
    use crate::region::strict_overcommit;
    use crate::region::tests::memfd;

    /// Lines of this process's mappings that show this memfd. Files elsewhere may have the same number.
    fn mappings_of(file: u64) -> usize {
        let (maps, file) = (std::fs::read_to_string("/proc/self/maps").unwrap(), file.to_string());
        let is_of = |line: &&str| line.contains("/memfd:") && line.split_whitespace().nth(4) == Some(&file);
        maps.lines().filter(is_of).count()
    }

    #[test]
    fn a_region_is_taken_down_elsewhere_and_only_when_its_last_landing_is_done() {
        if strict_overcommit() {
            return println!("skipped: nothing is mapped under strict overcommit");
        }
        let fd = memfd(20 << 20, SealFlags::SHRINK);
        let (file, theirs) = (rustix::fs::fstat(&fd).unwrap().st_ino, fd.try_clone().unwrap());
        let (unmapper, handed_over) = Unmapper::new();
        let region = PeerRegion::import_for(fd, 20 << 20, unmapper).unwrap();
        let mut landing = region.landing(8 << 20, 1 << 20).unwrap();
        drop(region);
        assert!(handed_over.try_recv().is_err(), "something may still land in it");
        landing.write_at(0, b"late").unwrap();
        let mut out = [0; 4];
        rustix::io::pread(&theirs, &mut out, 8 << 20).unwrap();
        assert_eq!(&out, b"late");
        // Whoever has landed goes on at once; the mapping is there until somebody takes it down.
        drop(landing);
        assert_eq!(mappings_of(file), 1);
        drop(handed_over.try_recv().unwrap());
        assert_eq!(mappings_of(file), 0);
    }

    #[test]
    fn of_what_waits_to_be_taken_down_there_is_a_most() {
        if strict_overcommit() {
            return println!("skipped: nothing is mapped under strict overcommit");
        }
        let (unmapper, handed_over) = Unmapper::new();
        let files: Vec<u64> = (0..WAITING_MAX + 10)
            .map(|_| {
                let fd = memfd(4096, SealFlags::SHRINK);
                let file = rustix::fs::fstat(&fd).unwrap().st_ino;
                drop(PeerRegion::import_for(fd, 4096, unmapper.clone()).unwrap());
                file
            })
            .collect();
        let mapped = || files.iter().map(|file| mappings_of(*file)).sum::<usize>();
        assert_eq!(mapped(), WAITING_MAX);
        // When there is no thread any more, they go with what they wait in.
        drop(handed_over);
        assert_eq!(mapped(), 0);
        drop(PeerRegion::import_for(memfd(4096, SealFlags::SHRINK), 4096, unmapper).unwrap());
    }

    #[test]
    fn the_thread_of_the_process_takes_down_what_it_is_given() {
        let fd = memfd(20 << 20, SealFlags::SHRINK);
        let file = rustix::fs::fstat(&fd).unwrap().st_ino;
        drop(PeerRegion::import(fd, 20 << 20).unwrap());
        while mappings_of(file) > 0 {
            std::thread::yield_now();
        }
    }
}
