//! The arena: one span of anonymous memory, mapped once, cut into buffers.
//!
//! It serves at once as registered buffers of a ring, as a target of direct I/O and as what sockets send from. It belongs
//! to one thread: a shard never waits for another, so there is nothing to lock. Nobody else ever maps it, so it need not be a memfd, for
//! which most machines have no huge pages.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Extents;

/// Buffers start at multiples of this, in bytes: what any drive asks of direct I/O.
pub const ARENA_ALIGN: usize = 4096;

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The kernel gave no memory.
    #[error("{bytes} bytes for the arena cannot be had ({source}); give --memory a smaller size")]
    Memory {
        /// What was asked for.
        bytes: usize,
        /// What the kernel said.
        source: rustix::io::Errno,
    },
}

/// A span of page-aligned memory from which one thread takes buffers. Cloning shares it.
#[derive(Clone)]
pub struct Arena(Rc<Inner>);

struct Inner {
    base: NonNull<u8>,
    len: usize,
    extents: RefCell<Extents>,
    /// How many hold an extent, by its first page, where it is more than one: writes in flight and answers being sent, which are few. A count of its
    /// own for each buffer would be 48 bytes of heap for each block in DRAM.
    shared: RefCell<HashMap<u32, u32, BuildHasherDefault<PageHasher>>>,
}

/// Spreads page numbers; nobody chooses them to collide.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, page: u32) {
        self.0 = (self.0.rotate_left(32) ^ u64::from(page)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Arena {
    /// Maps `bytes` (rounded up to 2 MiB, so that huge pages can back it). Pages are taken as they are touched, or when a ring registers them.
    #[expect(unsafe_code, reason = "mapping memory")]
    pub fn new(bytes: usize) -> Result<Self, ArenaError> {
        let len = bytes.max(1).next_multiple_of(2 << 20);
        let fail = |source| ArenaError::Memory { bytes: len, source };
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(fail)?;
        // Huge pages make direct I/O and copies visibly faster where the machine grants them; where not, nothing is lost. A forked child must not
        // share pages the kernel writes.
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontFork] {
            // SAFETY: the range is the mapping just made, and the advice changes no byte.
            let _ = unsafe { rustix::mm::madvise(base, len, advice) };
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| fail(rustix::io::Errno::NOMEM))?;
        let extents = RefCell::new(Extents::new(len, ARENA_ALIGN));
        Ok(Arena(Rc::new(Inner { base, len, extents, shared: RefCell::default() })))
    }

    /// Takes a buffer of `len` bytes, whose start is aligned to 4 KiB and whose capacity is rounded up to 4 KiB. `None` when no hole is
    /// large enough: the caller evicts and asks again. Contents are whatever was there.
    pub fn alloc(&self, len: usize) -> Option<Buf> {
        let bytes = u32::try_from(len).ok()?;
        let start = self.0.extents.borrow_mut().alloc(len)?;
        // Both fit: the arena has fewer pages than a process has address space.
        let page = u32::try_from(start / ARENA_ALIGN).ok()?;
        let pages = len.max(1).div_ceil(ARENA_ALIGN) as u32;
        Some(Buf { arena: self.0.clone(), page, len: bytes, pages })
    }

    /// Free bytes, in however many holes.
    pub fn free_bytes(&self) -> usize {
        self.0.extents.borrow().free_bytes()
    }

    /// Bytes of the largest hole.
    pub fn largest_hole(&self) -> usize {
        self.0.extents.borrow().largest_hole()
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Start of the mapping, for registering it with a ring.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.0.base
    }
}

impl Drop for Inner {
    #[expect(unsafe_code, reason = "unmapping memory")]
    fn drop(&mut self) {
        // SAFETY: every buffer holds the arena, so none is left; the range is the mapping made in `new`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// A buffer in an arena, held by one owner. Dropping it gives the memory back.
pub struct Buf {
    arena: Rc<Inner>,
    /// Where it starts, in pages of [`ARENA_ALIGN`].
    page: u32,
    pages: u32,
    /// Bytes.
    len: u32,
}

impl Buf {
    /// Bytes it could hold.
    pub fn capacity(&self) -> usize {
        self.pages as usize * ARENA_ALIGN
    }

    /// Changes its length inside its capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a buffer of {} bytes cannot hold {len}", self.capacity());
        // Its last page may reach past what fits.
        self.len = u32::try_from(len).unwrap_or(u32::MAX);
    }

    /// Offset in the arena, in bytes.
    pub fn arena_offset(&self) -> usize {
        self.page as usize * ARENA_ALIGN
    }

    /// Cuts it in two at `at` bytes, a multiple of [`ARENA_ALIGN`] inside it; gives the rest. Each part gives its own memory back.
    pub fn split_off(&mut self, at: usize) -> Buf {
        assert!(
            at.is_multiple_of(ARENA_ALIGN) && at > 0 && at < self.len as usize,
            "a buffer of {} cannot be cut at {at}",
            self.len
        );
        // Both fit: they are less than what the buffer has.
        let (bytes, pages) = (at as u32, (at / ARENA_ALIGN) as u32);
        let (page, len) = (self.page + pages, self.len - bytes);
        let rest = Buf { arena: self.arena.clone(), page, len, pages: self.pages - pages };
        (self.len, self.pages) = (bytes, pages);
        rest
    }

    /// Makes it whole again with the part that lies behind it. The part comes back if it is none of that.
    pub fn join(&mut self, rest: Buf) -> Result<(), Buf> {
        let behind = Rc::ptr_eq(&self.arena, &rest.arena) && rest.page == self.page + self.pages;
        if !behind || self.len as usize != self.capacity() {
            return Err(rest);
        }
        let mut rest = rest;
        self.len += rest.len;
        // The extent is this buffer's from here: dropped, the part gives back nothing.
        self.pages += std::mem::take(&mut rest.pages);
        Ok(())
    }

    /// Makes it shared and read-only.
    pub fn freeze(self) -> Shared {
        Shared(self)
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        // `wrapping_add` stays inside the mapping because offset and capacity together are at most its length by the allocator.
        self.arena.base.as_ptr().wrapping_add(self.arena_offset())
    }
}

impl Deref for Buf {
    type Target = [u8];
    #[expect(unsafe_code, reason = "the arena's memory as a slice")]
    fn deref(&self) -> &[u8] {
        // SAFETY: the extent is mapped while `arena` lives, is initialised (fresh memory reads as zeros), and is this buffer's alone: an operation
        // in flight owns the `Buf` itself, so nobody can hold `&Buf` while the kernel writes. Inside a `Shared` the extent may have several such
        // values, and nobody writes: see `deref_mut`.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Buf {
    #[expect(unsafe_code, reason = "the arena's memory as a slice")]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` excludes other references: there is one `Buf` of an extent outside of `Shared`, which hands out no
        // `&mut Buf` and gives its own up only when it is the extent's last.
        unsafe { std::slice::from_raw_parts_mut(self.as_ptr(), self.len as usize) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // What went into another by `join` has none.
        if self.pages == 0 {
            return;
        }
        let mut shared = self.arena.shared.borrow_mut();
        match shared.get_mut(&self.page) {
            Some(2) => drop(shared.remove(&self.page)),
            Some(holders) => *holders -= 1,
            None => self.arena.extents.borrow_mut().release(self.arena_offset(), self.capacity()),
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({}+{})", self.arena_offset(), self.len)
    }
}

/// A read-only buffer that several hold: the DRAM tier, a write in flight, an answer being sent.
#[derive(Debug)]
pub struct Shared(Buf);

impl Clone for Shared {
    fn clone(&self) -> Self {
        let Buf { arena, page, pages, len } = &self.0;
        *arena.shared.borrow_mut().entry(*page).or_insert(1) += 1;
        Shared(Buf { arena: arena.clone(), page: *page, pages: *pages, len: *len })
    }
}

impl Shared {
    /// How many hold it.
    pub fn holders(&self) -> usize {
        self.0.arena.shared.borrow().get(&self.0.page).map_or(1, |holders| *holders as usize)
    }

    /// The buffer again, when nobody else holds it.
    pub fn thaw(self) -> Result<Buf, Shared> {
        if self.holders() == 1 { Ok(self.0) } else { Err(self) }
    }

    /// Bytes of its extent in the arena.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Where its extent starts in the arena, in bytes.
    pub fn arena_offset(&self) -> usize {
        self.0.arena_offset()
    }

    /// The bytes in `range`.
    pub fn range(&self, range: Range<usize>) -> &[u8] {
        &self[range]
    }
}

impl Deref for Shared {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_given_back_when_its_last_holder_goes() {
        let arena = Arena::new(1 << 20).unwrap();
        let all = arena.free_bytes();
        let mut buf = arena.alloc(10_000).unwrap();
        buf.fill(7);
        let shared = buf.freeze();
        let other = shared.clone();
        drop(shared);
        assert_eq!(other[9_999], 7);
        assert!(arena.free_bytes() < all);
        let third = other.clone();
        assert_eq!((third.holders(), third.arena_offset()), (2, other.arena_offset()));
        let other = other.thaw().unwrap_err();
        drop(third);
        assert_eq!(other.holders(), 1);
        // Its own again, to be written and given away anew.
        let mut again = other.thaw().unwrap();
        again[9_999] = 8;
        let other = again.freeze();
        assert_eq!((other[9_999], arena.free_bytes() < all), (8, true));
        drop(other);
        assert_eq!(arena.free_bytes(), all);
        assert!(arena.alloc(all + 1).is_none());
    }

    #[test]
    fn a_buffer_in_parts_is_one_again_and_each_part_gives_back_its_own() {
        let arena = Arena::new(1 << 20).unwrap();
        let all = arena.free_bytes();
        let mut buf = arena.alloc(3 * ARENA_ALIGN + 5).unwrap();
        let start = buf.arena_offset();
        let mut middle = buf.split_off(ARENA_ALIGN);
        let mut last = middle.split_off(ARENA_ALIGN);
        assert_eq!((buf.len(), middle.len(), last.len()), (ARENA_ALIGN, ARENA_ALIGN, ARENA_ALIGN + 5));
        (buf[0], middle[0], last[ARENA_ALIGN + 4]) = (1, 2, 3);
        last = buf.join(last).unwrap_err();
        buf.join(middle).unwrap();
        buf.join(last).unwrap();
        assert_eq!((buf.arena_offset(), buf.len()), (start, 3 * ARENA_ALIGN + 5));
        assert_eq!((buf[0], buf[ARENA_ALIGN], buf[3 * ARENA_ALIGN + 4]), (1, 2, 3));
        drop(buf.split_off(2 * ARENA_ALIGN));
        assert_eq!(arena.free_bytes(), all - 2 * ARENA_ALIGN);
        drop(buf);
        assert_eq!(arena.free_bytes(), all);
    }
}
