//! Memory a client lends to nodes: regions and the slices cut from them.
//!
//! An owned region is a memfd sealed against shrinking and growing, so that a node may map it without fear. A slice given to a landing cannot be
//! looked at meanwhile ([`Loan`]); if the node vanishes before the landing is known to have ended, the slice is retired: the kernel may
//! still write it, so nobody uses it again.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::RegionError;
use crate::huge::{self, HUGE_BYTES, map_shared};
use crate::ledger::{Claim, Ledger, Lent, Writer};
use crate::region::{check_memory, is_sealed};

/// Slices start at multiples of this, in bytes: what any drive asks of direct I/O.
const SLICE_ALIGN: usize = 4096;

/// Pages are taken in chunks of this many bytes: a huge page where the machine has one, small pages elsewhere.
const CHUNK_BYTES: usize = HUGE_BYTES;

/// A client's memory that nodes can write into. Cloning shares it; it is unmapped when the last clone and slice are gone.
#[derive(Clone, Debug)]
pub struct Region(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    len: usize,
    /// Absent for borrowed memory.
    base: Option<NonNull<u8>>,
    ledger: Ledger,
    /// Chunks shall be huge pages.
    huge: bool,
    /// Which chunks have their pages; none for memory of somebody else's. Pairs with nothing: a stale value only takes pages twice.
    chunks: Box<[AtomicBool]>,
}

// SAFETY: `base` points to a mapping that lives as long as `Inner` and is only reached through slices, whose extents never overlap; the
// ledger is behind a lock.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Send for Inner {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Sync for Inner {}

impl Region {
    /// A region of the library's own, of `bytes` rounded up to 2 MiB. It has no pages yet: they are taken with the slices they lie in, so that making
    /// a region costs whoever needs a little of it next to nothing.
    ///
    /// Its pages are huge ones where the machine has them, which the drive likes.
    pub fn owned(bytes: usize) -> Result<Self, RegionError> {
        Self::of_pages(bytes, true)
    }

    /// The same for memory that no drive lands in: its pages are as the machine gives them.
    pub fn kept(bytes: usize) -> Result<Self, RegionError> {
        Self::of_pages(bytes, false)
    }

    fn of_pages(bytes: usize, huge: bool) -> Result<Self, RegionError> {
        let len = bytes.max(1).checked_next_multiple_of(2 << 20).ok_or(rustix::io::Errno::NOMEM)?;
        let fd = rustix::fs::memfd_create("forebay-region", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let base = map_shared(&fd, len)?;
        huge::advise(base, len);
        let chunks = (0..len / CHUNK_BYTES).map(|_| AtomicBool::new(false)).collect();
        Ok(Region(Arc::new(Inner { fd, len, base: Some(base), ledger: Ledger::new(len, SLICE_ALIGN), huge, chunks })))
    }

    /// Memory of the engine's own: the first `bytes` of its file. It is not mapped here, nothing can be cut from it and nothing lands in it
    /// directly; a node copies into it through the descriptor.
    pub fn borrowed(fd: OwnedFd, bytes: usize) -> Self {
        let (ledger, chunks) = (Ledger::new(0, SLICE_ALIGN), Box::default());
        Region(Arc::new(Inner { fd, len: bytes, base: None, ledger, huge: false, chunks }))
    }

    /// Memory of the engine's own that things may land in: the first `bytes` of its file, a memfd or a file on tmpfs that is sealed against shrinking.
    /// It is mapped here a second time. Nothing is cut from it by size; [`Self::take`] takes pieces where the engine says. While a piece is taken the
    /// engine touches its bytes through the slice only.
    pub fn lent(fd: OwnedFd, bytes: usize) -> Result<Self, RegionError> {
        check_memory(&fd, bytes as u64)?;
        if !is_sealed(&fd) {
            return Err(RegionError::NotSealed);
        }
        let base = map_shared(&fd, bytes)?;
        let (ledger, chunks) = (Ledger::new(bytes, SLICE_ALIGN), Box::default());
        Ok(Region(Arc::new(Inner { fd, len: bytes, base: Some(base), ledger, huge: false, chunks })))
    }

    /// The piece of `len` bytes at `offset`, a multiple of 4 KiB; its capacity is `len` rounded up to 4 KiB. `None` when part of it lies outside,
    /// belongs to somebody or is withheld.
    pub fn take(&self, offset: usize, len: usize) -> Option<Slice> {
        self.0.base?;
        let claim = self.0.ledger.claim_at(offset, len)?;
        Some(Slice { region: self.clone(), claim, len })
    }

    /// It is proved that writers of which `ended` says so write no more: what was withheld for their sake is free. Gives how many pieces.
    pub fn ended(&self, ended: impl Fn(Writer) -> bool) -> usize {
        self.0.ledger.ended(ended)
    }

    /// Writers of a shard for whose sake pieces are withheld, of those that are meant; each once.
    pub fn withheld_for(&self, meant: impl Fn(Writer) -> bool) -> Vec<Writer> {
        self.0.ledger.withheld_for(meant)
    }

    /// Bytes that some writer may still write: lent by [`Slice::lend_to`] and not come back.
    pub fn withheld_bytes(&self) -> usize {
        self.0.ledger.named_bytes()
    }

    /// What a node needs to import it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Whether slices can be cut from it.
    pub fn is_owned(&self) -> bool {
        self.0.base.is_some()
    }

    /// Cuts a slice of `len` bytes, starting at a multiple of 4 KiB; its capacity is `len` rounded up to 4 KiB. `None` when no hole is large
    /// enough, or the machine has no memory for its pages. Its bytes are whatever was there.
    pub fn alloc(&self, len: usize) -> Option<Slice> {
        let mut slice = self.cut(len)?;
        slice.take_pages().ok().map(|()| slice)
    }

    /// The same without making sure of its pages: see [`Slice::take_pages`].
    pub fn cut(&self, len: usize) -> Option<Slice> {
        self.0.base?;
        let claim = self.0.ledger.claim(len)?;
        Some(Slice { region: self.clone(), claim, len })
    }

    /// Free bytes, in however many holes.
    pub fn free_bytes(&self) -> usize {
        self.0.ledger.free_bytes()
    }

    /// Bytes that are lost to the region for its life, because a landing into them was never seen to end.
    pub fn retired_bytes(&self) -> usize {
        self.0.ledger.retired_bytes()
    }

    /// Whether `other` is the same region.
    pub fn same(&self, other: &Region) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Drop for Inner {
    #[expect(unsafe_code, reason = "unmapping memory")]
    fn drop(&mut self) {
        if let Some(base) = self.base {
            // SAFETY: slices and loans hold the region, so none is left. A node that still writes a retired slice has its own mapping: the
            // pages belong to the file and live on there.
            let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), self.len) };
        }
    }
}

/// A piece of an owned region, held by one owner. Dropping it gives the memory back.
#[derive(Debug)]
pub struct Slice {
    region: Region,
    claim: Claim,
    len: usize,
}

impl Slice {
    /// Bytes from the region's start.
    pub fn offset(&self) -> usize {
        self.claim.start()
    }

    /// Bytes it could hold: its length rounded up to 4 KiB when it was cut.
    pub fn capacity(&self) -> usize {
        self.claim.capacity()
    }

    /// Changes its length inside its capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a slice of {} bytes cannot hold {len}", self.capacity());
        self.len = len;
    }

    /// The region it lies in.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Takes the pages it lies in, and those beside them up to whole chunks of 2 MiB, if it is the first in them: a page fault inside a landing would
    /// cost more, and its node, not this thread. An error when the machine has no memory for them.
    pub fn take_pages(&mut self) -> Result<(), RegionError> {
        let (start, end) = (self.claim.start(), self.claim.start() + self.claim.capacity());
        let Some(base) = self.region.0.base else { return Ok(()) };
        for (number, taken) in
            self.region.0.chunks.iter().enumerate().take(end.div_ceil(CHUNK_BYTES)).skip(start / CHUNK_BYTES)
        {
            if taken.load(Ordering::Relaxed) {
                continue;
            }
            let Some(at) = NonNull::new(base.as_ptr().wrapping_add(number * CHUNK_BYTES)) else { return Ok(()) };
            match huge::take_chunk(at, self.region.0.huge) {
                Ok(()) => taken.store(true, Ordering::Relaxed),
                // Before Linux 5.14: touch the pages that are this slice's own.
                Err(rustix::io::Errno::INVAL) => {
                    let whole = self.claim.capacity();
                    let len = std::mem::replace(&mut self.len, whole);
                    self.iter_mut().step_by(SLICE_ALIGN).for_each(|byte| *byte = std::hint::black_box(0));
                    self.len = len;
                    return Ok(());
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Gives it to a landing: nobody can look at it until [`Loan::returned`].
    pub fn lend(self) -> Loan {
        Loan { region: self.region, lent: self.claim.lend(), len: self.len }
    }

    /// The same, by name: a loan that is dropped without having come back is withheld until [`Region::ended`] tells that this writer writes no
    /// more.
    pub fn lend_to(self, writer: Writer) -> Loan {
        Loan { region: self.region, lent: self.claim.lend_to(writer), len: self.len }
    }

    /// Never gives the memory back: something may still write it.
    pub fn retire(self) {
        self.claim.retire();
    }

    fn as_ptr(&self) -> *mut u8 {
        // `alloc` cuts slices only from mapped regions, inside their bounds.
        self.region.0.base.map_or(std::ptr::null_mut(), |base| base.as_ptr().wrapping_add(self.claim.start()))
    }
}

impl Deref for Slice {
    type Target = [u8];
    #[expect(unsafe_code, reason = "the region's memory as a slice")]
    fn deref(&self) -> &[u8] {
        // SAFETY: the extent is mapped while the region lives, is initialised (a memfd reads as zeros) and is this slice's alone. A node
        // writes only what it was lent, and what is lent is a `Loan`, which has no `deref`. Who lends memory of his own leaves what he has taken
        // as a slice to that slice, as `lent` asks.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len) }
    }
}

impl DerefMut for Slice {
    #[expect(unsafe_code, reason = "the region's memory as a slice")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes other references.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len) }
    }
}

/// A slice that something else may be writing. Dropping it retires the slice, or withholds it if it was lent by name; only [`Self::returned`]
/// gives it back at once.
#[derive(Debug)]
pub struct Loan {
    region: Region,
    lent: Lent,
    len: usize,
}

impl Loan {
    /// The slice again: the landing is known to have ended, or known never to have begun.
    pub fn returned(self) -> Slice {
        Slice { region: self.region, claim: self.lent.returned(), len: self.len }
    }

    /// Bytes from the region's start.
    pub fn offset(&self) -> usize {
        self.lent.start()
    }

    /// Bytes lent: the slice's capacity.
    pub fn capacity(&self) -> usize {
        self.lent.capacity()
    }

    /// The region it lies in.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PeerRegion;
    use crate::region::tests::memfd;

    #[test]
    fn what_a_node_writes_into_a_lent_slice_is_there_when_it_comes_back() {
        let region = Region::owned(1 << 20).unwrap();
        let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), region.len() as u64).unwrap();
        let mut slice = region.alloc(5000).unwrap();
        slice.fill(1);
        assert_eq!((slice.offset() % 4096, slice.capacity(), slice.len()), (0, 8192, 5000));
        let loan = slice.lend();
        peer.write_at(loan.offset() as u64 + 4990, &[7; 10]).unwrap();
        let slice = loan.returned();
        assert_eq!((slice[4989], &slice[4990..]), (1, &[7u8; 10][..]));
    }

    #[test]
    fn pages_are_taken_with_the_slices_that_need_them() {
        let region = Region::owned(64 << 20).unwrap();
        let pages = || rustix::fs::fstat(region.fd()).unwrap().st_blocks as usize * 512;
        assert_eq!(pages(), 0, "making a region takes none");
        let held: Vec<Slice> = (0..3).map(|_| region.alloc(1 << 20).unwrap()).collect();
        assert_eq!(pages(), 4 << 20, "three slices of 1 MiB lie in two chunks");
        drop(held);
        let mut again = region.cut(1 << 20).unwrap();
        again.fill(3);
        again.take_pages().unwrap();
        assert!(again.iter().all(|byte| *byte == 3), "taking pages changes no byte");
        assert_eq!(pages(), 4 << 20);
    }

    #[test]
    fn a_region_cannot_shrink_under_a_node() {
        let region = Region::owned(1).unwrap();
        assert!(rustix::fs::ftruncate(region.fd(), 0).is_err());
        assert!(rustix::fs::ftruncate(region.fd(), 1 << 30).is_err());
    }

    #[test]
    fn a_slice_whose_landing_never_ended_is_never_cut_again() {
        let region = Region::owned(2 << 20).unwrap();
        let slice = region.alloc(1 << 20).unwrap();
        let start = slice.offset();
        drop(slice.lend());
        assert_eq!(region.retired_bytes(), 1 << 20);
        let rest = region.alloc(1 << 20).unwrap();
        assert_ne!(rest.offset(), start);
        assert!(region.alloc(1).is_none());
        drop(rest);
        assert_eq!(region.free_bytes(), 1 << 20);
    }

    #[test]
    fn lent_memory_is_taken_where_its_owner_says_and_only_once() {
        assert!(matches!(Region::lent(memfd(1 << 20, SealFlags::GROW), 1 << 20), Err(RegionError::NotSealed)));
        assert!(matches!(Region::lent(memfd(4096, SealFlags::SHRINK), 4097), Err(RegionError::TooShort { .. })));
        let fd = memfd(1 << 20, SealFlags::SHRINK);
        let theirs = fd.try_clone().unwrap();
        let region = Region::lent(fd, 1 << 20).unwrap();
        let mut place = region.take(8192, 5000).unwrap();
        assert_eq!((place.offset(), place.capacity()), (8192, 8192));
        for (offset, len) in [(8192, 1), (12_288, 1), (4096, 4097), (0, 1 << 20), (1, 1), (1 << 20, 1), (0, 2 << 20)] {
            assert!(region.take(offset, len).is_none(), "{offset}+{len}");
        }
        place.fill(7);
        let mut seen = [0; 2];
        rustix::io::pread(&theirs, &mut seen, 8192 + 4999).unwrap();
        assert_eq!(seen, [7, 0]);
        drop(place);
        assert!(region.take(0, 1 << 20).is_some());
    }

    #[test]
    fn what_a_writer_may_still_write_is_withheld_until_it_is_known_to_have_ended() {
        let region = Region::lent(memfd(1 << 20, SealFlags::SHRINK), 1 << 20).unwrap();
        let writer = |shard, start| Writer { shard: [shard; 16], start, witness: None };
        drop(region.take(0, 4096).unwrap().lend_to(writer(1, 1)));
        drop(region.take(4096, 4096).unwrap().lend_to(writer(2, 1)));
        drop(region.take(8192, 4096).unwrap().lend_to(writer(1, 2)).returned());
        assert_eq!((region.withheld_bytes(), region.retired_bytes()), (8192, 0));
        assert!(region.take(0, 4096).is_none() && region.take(8192, 4096).is_some());
        assert_eq!(region.ended(|of| of.shard == [1; 16] && of.start != 2), 1);
        assert!(region.take(0, 4096).is_some() && region.take(4096, 4096).is_none());
        assert_eq!(region.withheld_bytes(), 4096);
    }

    #[test]
    fn slices_are_cut_and_given_back_by_many_threads() {
        let region = Region::owned(4 << 20).unwrap();
        std::thread::scope(|scope| {
            for n in 0..4u8 {
                let region = region.clone();
                scope.spawn(move || {
                    for round in 0..500usize {
                        let Some(mut slice) = region.alloc(1 + (round * 7919) % 100_000) else { continue };
                        slice.fill(n);
                        assert!(slice.iter().all(|b| *b == n));
                    }
                });
            }
        });
        assert_eq!(region.free_bytes(), region.len());
    }
}
