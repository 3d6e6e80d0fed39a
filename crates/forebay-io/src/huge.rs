//! Huge pages behind shared memory: asked for, and looked for.
//!
//! A drive takes a block that lies in one piece of memory in one request. Scattered over pages of 4 KiB it is many pieces, which the kernel takes one by
//! one and for which a drive may want several requests: see decision 0033. As kernels come, memory that is shared gets small pages; where it is asked
//! for by hand, it gets huge ones all the same.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::{PeerRegion, Region, RegionError};

/// Bytes of a huge page.
pub(crate) const HUGE_BYTES: usize = 2 << 20;

/// Maps the first `len` bytes of `fd`, shared, where a huge page of the file can be one of the mapping too: address and offset agree.
#[expect(unsafe_code, reason = "mapping memory")]
pub(crate) fn map_shared(fd: &OwnedFd, len: usize) -> Result<NonNull<u8>, rustix::io::Errno> {
    let page = rustix::param::page_size();
    let whole = len.checked_next_multiple_of(page).and_then(|len| len.checked_add(HUGE_BYTES));
    let whole = whole.ok_or(rustix::io::Errno::NOMEM)?;
    // SAFETY: address space at a place the kernel chooses, which nobody can touch.
    let room = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, ProtFlags::empty(), flags)
    }?;
    let before = room.addr().next_multiple_of(HUGE_BYTES) - room.addr();
    let at = room.wrapping_byte_add(before);
    // SAFETY: `at` to `at + len` lies in the room just taken, which is nobody's: `before` is less than a huge page.
    let mapped = unsafe {
        rustix::mm::mmap(at, len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED, fd, 0)
    };
    let (kept, result) = match mapped {
        Ok(base) => (len.next_multiple_of(page), NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)),
        Err(errno) => (0, Err(errno)),
    };
    let after = before + kept;
    for (start, bytes) in [(0, before), (after, whole - after)] {
        if bytes > 0 {
            // SAFETY: what is left of the room, before and behind the mapping.
            let _ = unsafe { rustix::mm::munmap(room.wrapping_byte_add(start), bytes) };
        }
    }
    result
}

/// Asks for huge pages where the setting grants them to who asks: they double what direct I/O and copies reach.
#[expect(unsafe_code, reason = "advice on a mapping")]
pub(crate) fn advise(base: NonNull<u8>, len: usize) {
    // SAFETY: the range is a mapping just made, which nobody else has yet; the advice changes no byte. Without huge pages it works too.
    let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), len, Advice::LinuxHugepage) };
}

/// Takes the pages of a chunk of [`HUGE_BYTES`] of shared memory, if `huge` as one huge page where the machine can, and keeps what is there. Kernels before
/// 5.14 answer `INVAL`.
#[expect(unsafe_code, reason = "advice on a mapping")]
pub(crate) fn take_chunk(at: NonNull<u8>, huge: bool) -> Result<(), rustix::io::Errno> {
    /// A kernel before 6.1, or one that is told to deny such pages. Pairs with nothing: a stale value is one vain call.
    static IN_VAIN: AtomicBool = AtomicBool::new(false);
    let take = |len| {
        // SAFETY: a chunk of an owned region, inside its mapping; taking pages for writing keeps every byte, whoever uses it meanwhile.
        unsafe { rustix::mm::madvise(at.as_ptr().cast(), len, Advice::LinuxPopulateWrite) }
    };
    if huge && setting_off().is_some() && !IN_VAIN.load(Ordering::Relaxed) {
        // One page first: the kernel collapses nothing that has none.
        take(rustix::param::page_size())?;
        // SAFETY: the same chunk. The kernel copies what pages there are into the huge one and puts it in their place; every byte stays, also for who
        // reads or writes it meanwhile, and pages that an operation holds are left alone.
        if unsafe { libc::madvise(at.as_ptr().cast(), HUGE_BYTES, libc::MADV_COLLAPSE) } == 0 {
            return Ok(());
        }
        if std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
            IN_VAIN.store(true, Ordering::Relaxed);
        }
    }
    take(HUGE_BYTES)
}

/// What `PAGEMAP_SCAN` (Linux 6.7) takes, `struct pm_scan_arg` of the kernel.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
/// Of a page: mapped as a huge one.
const PAGE_IS_HUGE: u64 = 1 << 6;

/// Whether the chunk of [`HUGE_BYTES`] at `at`, inside a mapping of shared memory, is one huge page. It is touched for that. A kernel that cannot be asked
/// (before 6.7) is believed to do what its setting says.
#[expect(unsafe_code, reason = "touching a mapping")]
pub(crate) fn is_huge(at: NonNull<u8>) -> bool {
    let Some(map) = pagemap() else { return setting_off().is_none() };
    // SAFETY: one page of the mapping is read, as any load would, but without a signal where there is no memory for it.
    let there =
        unsafe { rustix::mm::madvise(at.as_ptr().cast(), rustix::param::page_size(), Advice::LinuxPopulateRead) };
    let (start, mut run) = (at.as_ptr().addr() as u64, [0; 3]);
    let end = start + HUGE_BYTES as u64;
    there.is_ok() && scan(map, start, end, &mut run) == 1 && run[..2] == [start, end]
}

/// Chunks that are known to be huge pages: those of the first 2 GiB. Further ones are looked at each time, so that a client's region costs its node
/// a handful of words and no more.
#[derive(Debug, Default)]
pub(crate) struct Known([Cell<u64>; 16]);

impl Known {
    pub(crate) fn is_known(&self, chunk: usize) -> bool {
        self.0.get(chunk / 64).is_some_and(|word| word.get() & 1 << (chunk % 64) != 0)
    }

    pub(crate) fn know(&self, chunk: usize) {
        if let Some(word) = self.0.get(chunk / 64) {
            word.set(word.get() | 1 << (chunk % 64));
        }
    }
}

/// The kernel's table of this process's pages, if it can be asked for huge ones.
fn pagemap() -> Option<&'static File> {
    static MAP: OnceLock<Option<File>> = OnceLock::new();
    MAP.get_or_init(|| File::open("/proc/self/pagemap").ok().filter(|map| scan(map, 0, 0, &mut [0; 3]) == 0)).as_ref()
}

/// How many runs of huge pages lie between two addresses of this process, of which one is told: start, end, kind. Negative where the kernel does not know
/// the question.
#[expect(unsafe_code, reason = "asking the kernel about a mapping")]
fn scan(map: &File, start: u64, end: u64, run: &mut [u64; 3]) -> i32 {
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: (&raw mut *run).expose_provenance() as u64,
        vec_len: 1,
        max_pages: 0,
        category_inverted: 0,
        category_mask: PAGE_IS_HUGE,
        category_anyof_mask: 0,
        return_mask: PAGE_IS_HUGE,
    };
    // SAFETY: the kernel reads and writes `scan`, whose size it is told, and at most one run of three words at `run`. Both live until it returns.
    unsafe { libc::ioctl(map.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) }
}

/// Why clients' regions have no huge pages as a node sees them; absent when they have. One is made to find out, once in a process.
pub fn huge_pages_off() -> Option<&'static str> {
    static OFF: OnceLock<Option<String>> = OnceLock::new();
    OFF.get_or_init(look_for_huge_pages).as_deref()
}

fn look_for_huge_pages() -> Option<String> {
    let seen = || -> Result<bool, RegionError> {
        let region = Region::owned(HUGE_BYTES)?;
        let Some(_slice) = region.alloc(HUGE_BYTES) else { return Ok(false) };
        let peer = PeerRegion::import(region.fd().try_clone_to_owned().map_err(io_errno)?, region.len() as u64)?;
        Ok(peer.has_huge_pages(0, HUGE_BYTES as u64))
    };
    if seen().unwrap_or(false) {
        return None;
    }
    let setting = setting_off().unwrap_or_else(|| format!("no huge page was free, though {SETTING} grants them"));
    Some(match pagemap() {
        Some(_) => setting,
        None => format!("this kernel cannot tell huge pages (Linux 6.7 or newer can), and {setting}"),
    })
}

fn io_errno(error: std::io::Error) -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}

/// Says whether shared memory gets huge pages without being asked by hand.
const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// What the setting says if it does not grant huge pages to shared memory that asks for them.
fn setting_off() -> Option<String> {
    static OFF: OnceLock<Option<String>> = OnceLock::new();
    OFF.get_or_init(|| {
        let said = std::fs::read_to_string(SETTING).unwrap_or_default();
        let chosen = said.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or("absent");
        let grants = matches!(chosen, "always" | "within_size" | "advise" | "force");
        (!grants).then(|| format!("{SETTING} is \"{chosen}\""))
    })
    .clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_finds_the_huge_pages_that_the_client_took() {
        let region = Region::owned(8 << 20).unwrap();
        let slice = region.alloc(3 << 20).unwrap();
        let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), region.len() as u64).unwrap();
        let theirs = peer.has_huge_pages(slice.offset() as u64, 3 << 20);
        // What the client itself sees of its own mapping.
        let own = |chunk: usize| is_huge(NonNull::from(&slice[chunk << 21]));
        assert_eq!(theirs, own(0) && own(1));
        if pagemap().is_some() {
            assert!(!peer.has_huge_pages(4 << 20, 2 << 20), "pages that nobody has taken are not huge");
        }
        assert!(!peer.has_huge_pages(0, 9 << 20) && !peer.has_huge_pages(u64::MAX, 2), "outside");
    }

    #[test]
    fn taking_a_chunk_changes_no_byte_of_it() {
        let fd = crate::region::tests::memfd(4 << 20, rustix::fs::SealFlags::SHRINK);
        let content: Vec<u8> = (0..4 << 20).map(|i: u32| (i / 4096 + i) as u8).collect();
        // Every third page is there already, and so are some pages of the other chunk.
        for page in (0..1024).step_by(3) {
            rustix::io::pwrite(&fd, &content[page << 12..][..4096], (page as u64) << 12).unwrap();
        }
        let base = map_shared(&fd, 4 << 20).unwrap();
        assert!(base.as_ptr().addr().is_multiple_of(HUGE_BYTES));
        take_chunk(base, true).unwrap();
        let mut seen = vec![0; 4 << 20];
        assert_eq!(rustix::io::pread(&fd, &mut seen, 0), Ok(4 << 20));
        for page in 0..1024 {
            let right = if page % 3 == 0 { &content[page << 12..][..4096] } else { &[0; 4096] };
            assert!(seen[page << 12..][..4096] == *right, "page {page}");
        }
    }

    #[test]
    fn a_mapping_that_cannot_be_made_leaves_nothing_behind() {
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let read_only: OwnedFd = File::open("/proc/self/exe").unwrap().into();
        let before = maps();
        for _ in 0..50 {
            assert!(map_shared(&read_only, 1 << 20).is_err());
        }
        assert!(maps() < before + 40);
    }
}
