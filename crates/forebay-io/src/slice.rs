//! Memory a client lends to nodes: regions and the slices cut from them.
//!
//! An owned region is a memfd sealed against shrinking and growing, so that a node may map it without fear. A slice given to a landing cannot be
//! looked at meanwhile ([`Loan`]); if the node vanishes before the landing is known to have ended, the slice is retired: the kernel may
//! still write it, so nobody uses it again.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::Advice;

use crate::RegionError;
use crate::ledger::{Claim, Ledger, Lent};
use crate::region::map_shared;

/// Slices start at multiples of this, in bytes: what any drive asks of direct I/O.
const SLICE_ALIGN: usize = 4096;

/// Pages are taken in steps of this many bytes: one call over gigabytes would hold the process's memory lock for as long.
const POPULATE_STEP_BYTES: usize = 64 << 20;

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
}

// SAFETY: `base` points to a mapping that lives as long as `Inner` and is only reached through slices, whose extents never overlap; the
// ledger is behind a lock.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Send for Inner {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "a mapping is not bound to a thread")]
unsafe impl Sync for Inner {}

impl Region {
    /// A region of the library's own, of `bytes` rounded up to 2 MiB, every page taken now: a page fault inside a landing would cost more.
    pub fn owned(bytes: usize) -> Result<Self, RegionError> {
        let len = bytes.max(1).checked_next_multiple_of(2 << 20).ok_or(rustix::io::Errno::NOMEM)?;
        let fd = rustix::fs::memfd_create("forebay-region", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let base = map_shared(&fd, len)?;
        let inner = Inner { fd, len, base: Some(base), ledger: Ledger::new(len, SLICE_ALIGN) };
        populate(base, len)?;
        Ok(Region(Arc::new(inner)))
    }

    /// Memory of the engine's own: the first `bytes` of its file. It is not mapped here, nothing can be cut from it and nothing lands in it
    /// directly; a node copies into it through the descriptor.
    pub fn borrowed(fd: OwnedFd, bytes: usize) -> Self {
        Region(Arc::new(Inner { fd, len: bytes, base: None, ledger: Ledger::new(0, SLICE_ALIGN) }))
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
    /// enough. Its bytes are whatever was there.
    pub fn alloc(&self, len: usize) -> Option<Slice> {
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

/// Asks for huge pages, then takes every page, so that landings never fault. Huge pages double what direct I/O and copies reach.
#[expect(unsafe_code, reason = "advice on a mapping")]
fn populate(base: NonNull<u8>, len: usize) -> Result<(), rustix::io::Errno> {
    // SAFETY: the range is a mapping just made, which nobody else has yet; the advice changes no byte.
    let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), len, Advice::LinuxHugepage) };
    for start in (0..len).step_by(POPULATE_STEP_BYTES) {
        let step = POPULATE_STEP_BYTES.min(len - start);
        let at = base.as_ptr().wrapping_add(start);
        // SAFETY: inside the mapping; populating keeps the bytes.
        match unsafe { rustix::mm::madvise(at.cast(), step, Advice::LinuxPopulateWrite) } {
            Ok(()) => {}
            // Before Linux 5.14: touch each page instead.
            Err(rustix::io::Errno::INVAL) => {
                for page in (0..step).step_by(4096) {
                    // SAFETY: inside the mapping, which is fresh and all zeros, and nobody else has it yet.
                    unsafe { at.wrapping_add(page).write_volatile(0) };
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
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

    /// Gives it to a landing: nobody can look at it until [`Loan::returned`].
    pub fn lend(self) -> Loan {
        Loan { region: self.region, lent: self.claim.lend(), len: self.len }
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
        // writes only what it was lent, and what is lent is a `Loan`, which has no `deref`.
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

/// A slice that something else may be writing. Dropping it retires the slice; only [`Self::returned`] gives it back.
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
