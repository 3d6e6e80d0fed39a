//! Regions: memory that clients share with nodes as descriptors, never as paths.
//!
//! A client passes a descriptor over its Unix socket. With `F_SEAL_SHRINK` the node may map it: the mapping cannot fault. Without the seal the
//! node never dereferences it and goes through `pread` and `pwrite`: a truncated file hurts only its owner.
//!
//! This file is the node's side; the client's is in `slice.rs`. Neither knows what the bytes mean.

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::fs::{FileType, SealFlags};

use crate::huge::{self, HUGE_BYTES, Known, map_shared};
use crate::unmap::{Gone, Unmapper};

/// What `fstatfs` calls tmpfs, and memfds with it.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Why a descriptor is not a region, or why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Not a regular file in memory: reading it could block for ever.
    #[error("a region is a memfd or a file on tmpfs; this descriptor is something else")]
    NotMemory,
    /// Shorter than the client said.
    #[error("the region has {found} bytes and the client said {said}")]
    TooShort {
        /// Bytes of the file.
        found: u64,
        /// Bytes the client said.
        said: u64,
    },
    /// It could be cut short while something lands in it.
    #[error(
        "memory that blocks land in must be sealed against shrinking; make it with memfd_create and add F_SEAL_SHRINK"
    )]
    NotSealed,
    /// Outside the region.
    #[error("bytes {offset}+{len} lie outside the region")]
    Outside {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Not mapped, so nothing can land in it.
    #[error("the region is not sealed against shrinking, so bytes are copied into it and nothing lands in it directly")]
    NotMapped,
    /// The kernel said no.
    #[error("the region cannot be used: {0}")]
    Os(#[from] rustix::io::Errno),
}

/// A client's region as a node holds it. Cloning shares it; the mapping lives until the last landing is done.
#[derive(Clone, Debug)]
pub struct PeerRegion(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Taken when it is dropped, and not before.
    fd: ManuallyDrop<OwnedFd>,
    len: u64,
    /// Present when the file is sealed against shrinking. Spans `len` bytes.
    map: Option<NonNull<u8>>,
    huge: Known,
    /// How often pages were found small.
    small: Cell<u32>,
    /// Who takes it down.
    unmapper: Unmapper,
}

/// After so many looks that found small pages, a region is not looked at again: each costs some microseconds.
const SMALL_MAX: u32 = 64;

impl PeerRegion {
    /// Takes a descriptor a client sent, of which the first `len` bytes are the region. A memfd sealed against shrinking is mapped.
    ///
    /// Huge page files (hugetlbfs) are refused: their pages can be taken back by a hole punched from outside, whatever the seals, and
    /// touching the hole would then stop the node.
    pub fn import(fd: OwnedFd, len: u64) -> Result<Self, RegionError> {
        Self::import_for(fd, len, Unmapper::of_process().clone())
    }

    pub(crate) fn import_for(fd: OwnedFd, len: u64, unmapper: Unmapper) -> Result<Self, RegionError> {
        let map = match map(&fd, len) {
            Ok(map) => map,
            Err(error) => {
                // It may be all that is left of a great deal of memory.
                unmapper.take(Gone::new(fd, None));
                return Err(error);
            }
        };
        let (fd, huge, small) = (ManuallyDrop::new(fd), Known::default(), Cell::new(0));
        Ok(PeerRegion(Rc::new(Inner { fd, len, map, huge, small, unmapper })))
    }

    /// Whether it is mapped, so that reads from a drive may land in it.
    pub fn is_mapped(&self) -> bool {
        self.0.map.is_some()
    }

    /// Whether these bytes lie in huge pages. Where they do not, scattered pages split a large read into more requests than a drive likes: reading into
    /// the arena and copying was then 1.5 times as fast as landing directly (1 MiB, 16 in flight). A kernel that cannot
    /// tell (before 6.7) is believed to do what its setting says.
    ///
    /// Nothing but speed follows from the answer: who lent the memory can change its pages at any time.
    pub fn has_huge_pages(&self, offset: u64, len: u64) -> bool {
        let (Some(map), Ok(start)) = (self.0.map, self.checked(offset, len)) else { return false };
        let small = self.0.small.get();
        if small >= SMALL_MAX {
            return false;
        }
        // A last chunk that the region has only a part of is no huge page.
        let last = (self.0.len / HUGE_BYTES as u64) as usize;
        let chunks = start / HUGE_BYTES..(start + len as usize).div_ceil(HUGE_BYTES);
        let huge = chunks.end <= last
            && chunks.into_iter().all(|chunk| {
                self.0.huge.is_known(chunk) || {
                    let at = map.as_ptr().wrapping_add(chunk * HUGE_BYTES);
                    let huge = NonNull::new(at).is_some_and(huge::is_huge);
                    if huge {
                        self.0.huge.know(chunk);
                    }
                    huge
                }
            });
        if !huge {
            self.0.small.set(small + 1);
        }
        huge
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Copies bytes out of the region. The client may change them meanwhile: check what was copied, never what lies there.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), RegionError> {
        let at = self.checked(offset, out.len() as u64)?;
        if let Some(map) = self.0.map {
            copy(map.as_ptr().wrapping_add(at), out.as_mut_ptr(), out.len());
            return Ok(());
        }
        let mut done = 0;
        while done < out.len() {
            match rustix::io::pread(&*self.0.fd, &mut out[done..], offset + done as u64) {
                Ok(0) => return Err(RegionError::TooShort { found: offset + done as u64, said: self.0.len }),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Copies bytes into the region.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), RegionError> {
        let at = self.checked(offset, bytes.len() as u64)?;
        if let Some(map) = self.0.map {
            copy(bytes.as_ptr(), map.as_ptr().wrapping_add(at), bytes.len());
            return Ok(());
        }
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&*self.0.fd, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(RegionError::Os(rustix::io::Errno::NOSPC)),
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// A slice of it for one read to land in. The region must be mapped.
    pub fn landing(&self, offset: u64, len: u64) -> Result<Landing, RegionError> {
        self.checked(offset, len)?;
        if self.0.map.is_none() {
            return Err(RegionError::NotMapped);
        }
        Ok(Landing { region: self.clone(), offset, len: len as usize })
    }

    /// `offset` as an index, when `offset + len` is inside.
    fn checked(&self, offset: u64, len: u64) -> Result<usize, RegionError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.0.len => Ok(offset as usize),
            _ => Err(RegionError::Outside { offset, len }),
        }
    }
}

impl AsFd for PeerRegion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Drop for Inner {
    #[expect(unsafe_code, reason = "the descriptor goes along with the mapping")]
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes it, and nothing of `self` is used afterwards.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        // Landings hold the region, so no operation writes there any more, and this was the last to know the address.
        self.unmapper.take(Gone::new(fd, self.map.map(|map| (map, self.len as usize))));
    }
}

/// A slice of a client's mapped region that one operation may write. It keeps the mapping alive.
///
/// It never lends out a Rust slice: the client can change the bytes at any moment, so they are only ever copied.
#[derive(Debug)]
pub struct Landing {
    region: PeerRegion,
    offset: u64,
    len: usize,
}

impl Landing {
    /// Bytes from the region's start.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The region it lies in.
    pub fn region(&self) -> &PeerRegion {
        &self.region
    }

    /// Whether address and length suit direct I/O at `align`, a power of two of at most 4 KiB.
    pub fn is_aligned(&self, align: usize) -> bool {
        // Mappings start on a page, so the offset decides.
        (self.offset as usize).is_multiple_of(align) && self.len.is_multiple_of(align)
    }

    /// Gives up all but the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Cuts it in two at `at` bytes, inside it; gives the rest.
    pub fn split_off(&mut self, at: usize) -> Landing {
        assert!(at > 0 && at < self.len, "a landing of {} bytes cannot be cut at {at}", self.len);
        let rest = Landing { region: self.region.clone(), offset: self.offset + at as u64, len: self.len - at };
        self.len = at;
        rest
    }

    /// Makes it whole again with the part that lies behind it. The part comes back if it is none of that.
    pub fn join(&mut self, rest: Landing) -> Result<(), Landing> {
        if !Rc::ptr_eq(&self.region.0, &rest.region.0) || rest.offset != self.offset + self.len as u64 {
            return Err(rest);
        }
        self.len += rest.len;
        Ok(())
    }

    /// Copies `bytes` into it, `at` bytes from its start.
    pub fn write_at(&mut self, at: usize, bytes: &[u8]) -> Result<(), RegionError> {
        self.inside(at, bytes.len())?;
        self.region.write_at(self.offset + at as u64, bytes)
    }

    /// Copies bytes out of it, `at` bytes from its start.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), RegionError> {
        self.inside(at, out.len())?;
        self.region.read_at(self.offset + at as u64, out)
    }

    fn inside(&self, at: usize, len: usize) -> Result<(), RegionError> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(RegionError::Outside { offset: self.offset.saturating_add(at as u64), len: len as u64 }),
        }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // A landing exists only in a mapped region, inside its bounds.
        self.region.0.map.map_or(std::ptr::null_mut(), |map| map.as_ptr().wrapping_add(self.offset as usize))
    }
}

/// Maps a region, if it can be.
fn map(fd: &OwnedFd, len: u64) -> Result<Option<NonNull<u8>>, RegionError> {
    check_memory(fd, len)?;
    // Under strict overcommit a hole in a memfd may have no page to fill it, which is SIGBUS for whoever touches it.
    Ok(if is_sealed(fd) && !strict_overcommit() { Some(map_shared(fd, len as usize)?) } else { None })
}

/// Whether `fd` is memory, and its first `len` bytes are there.
pub(crate) fn check_memory(fd: &OwnedFd, len: u64) -> Result<(), RegionError> {
    let magic = rustix::fs::fstatfs(fd)?.f_type as u64 & 0xffff_ffff;
    let stat = rustix::fs::fstat(fd)?;
    // A FIFO or device may lie on tmpfs too, and would block.
    if magic != TMPFS_MAGIC || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(RegionError::NotMemory);
    }
    let found = u64::try_from(stat.st_size).unwrap_or(0);
    if found < len || len == 0 || usize::try_from(len).is_err() || len > isize::MAX as u64 {
        return Err(RegionError::TooShort { found, said: len });
    }
    Ok(())
}

/// Whether it cannot be cut short.
pub(crate) fn is_sealed(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::SHRINK))
}

/// Copies between a mapping and memory of our own. Both callers above have checked the bounds of the mapping's side, and a slice gives the other.
#[expect(unsafe_code, reason = "memory another process may change is never behind a reference")]
fn copy(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: both spans are `len` mapped bytes: one is a live slice, the other lies inside a mapping of a file that cannot shrink. They
    // cannot overlap: no slice of ours ever points into a peer's mapping. Should the peer write meanwhile, the bytes copied are any mix, and
    // whoever asked for them checks the copy.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) }
}

pub(crate) fn strict_overcommit() -> bool {
    std::fs::read("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.first() == Some(&b'2'))
}

#[cfg(test)]
pub(crate) mod tests;
