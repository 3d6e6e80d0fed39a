//! A drive: one file or raw block device, opened for direct I/O and locked by the very description that writes it.
//!
//! The lock is `flock` on the open file description; on a device also the kernel's exclusive claim (see `device.rs`). Every clone shares that
//! description and so do operations in flight, so a dead owner's lock is free only when its last write has ended: the next owner never races with it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::{Arena, device};

mod error;

pub use error::DriveError;

/// Smallest drive, in bytes: anything below cannot hold a superblock and a slice.
const DRIVE_BYTES_MIN: u64 = 1 << 20;

/// Alignment where the kernel does not tell: what every drive accepts.
const ALIGN_DEFAULT: usize = 4096;

/// One write of `prewrite`, in bytes: large enough for a drive's full speed.
const PREWRITE_STEP_BYTES: usize = 4 << 20;

/// How often a lock is tried again: an owner's last writes were seen to end 80 ms after it was gone.
const LOCK_RETRY: Duration = Duration::from_millis(10);

/// A drive's file or device, open and locked. [`Self::try_clone`] shares description and lock.
#[derive(Debug)]
pub struct DriveFile {
    file: File,
    path: PathBuf,
    len: u64,
    align: usize,
    direct: bool,
    device: bool,
}

impl DriveFile {
    /// Makes a new file of `bytes` (rounded down to 4 KiB) and takes its room from the file system. With `prewrite` every byte is written once, so that
    /// later flushes need not convert unwritten extents; `progress` hears of the bytes written so far. When this fails, no file is left.
    pub fn create(path: &Path, bytes: u64, prewrite: bool, progress: &mut dyn FnMut(u64)) -> Result<Self, DriveError> {
        let bytes = bytes & !4095;
        if bytes < DRIVE_BYTES_MIN {
            return Err(DriveError::TooSmall { path: path.into(), found: bytes, least: DRIVE_BYTES_MIN });
        }
        let mut drive = Self::open_with(path, OFlags::CREATE | OFlags::EXCL)?;
        let filled = drive.fill(bytes, prewrite, progress);
        if filled.is_err() {
            // Made here and locked by us: nobody else has bytes in it.
            let _ = std::fs::remove_file(path);
        }
        filled.map(|()| drive)
    }

    /// Opens an existing file or block device. It is taken as it is: what is inside is for others to judge.
    pub fn open(path: &Path) -> Result<Self, DriveError> {
        let drive = Self::open_with(path, OFlags::empty())?;
        if drive.len < DRIVE_BYTES_MIN {
            return Err(DriveError::TooSmall { path: path.into(), found: drive.len, least: DRIVE_BYTES_MIN });
        }
        Ok(drive)
    }

    /// Opens it, trying again for `patience` while it is in use: the last writes of an owner that was killed may still be ending, and its lock with them.
    #[expect(
        clippy::disallowed_methods,
        reason = "the kernel tells nobody when a lock becomes free, and waiting for it cannot be timed"
    )]
    pub fn open_within(path: &Path, patience: Duration) -> Result<Self, DriveError> {
        for _ in 0..patience.as_millis() / LOCK_RETRY.as_millis() {
            match Self::open(path) {
                Err(error) if error.is_in_use() => std::thread::sleep(LOCK_RETRY),
                opened => return opened,
            }
        }
        Self::open(path)
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What offsets, lengths and addresses of operations are multiples of, in bytes.
    pub fn align(&self) -> usize {
        self.align
    }

    /// Whether operations go past the page cache. Some file systems cannot: then bytes are buffered, and flushes still make them durable.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether it is a raw block device.
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle on the same description: it shares the lock, which is free when all handles and operations are gone.
    pub fn try_clone(&self) -> Result<Self, DriveError> {
        let file = self.file.try_clone().map_err(|source| self.io("sharing the handle", source))?;
        let (path, device) = (self.path.clone(), self.device);
        Ok(DriveFile { file, path, len: self.len, align: self.align, direct: self.direct, device })
    }

    /// Reads `out.len()` bytes at `offset`, waiting for them. Any `out` will do; offset and length must be aligned. For superblocks.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), DriveError> {
        self.check(offset, out.len())?;
        let bounce = Arena::new(out.len())?;
        let mut buf = bounce.alloc(out.len()).ok_or_else(|| self.io("reading", io::ErrorKind::OutOfMemory.into()))?;
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.file, &mut buf[done..], offset + done as u64) {
                Ok(0) => return Err(self.io("reading", io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.io("reading", errno.into())),
            }
        }
        out.copy_from_slice(&buf);
        Ok(())
    }

    /// Writes `bytes` at `offset`, waiting for the write but not for the medium: see [`Self::flush`]. Offset and length must be aligned.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DriveError> {
        self.check(offset, bytes.len())?;
        let bounce = Arena::new(bytes.len())?;
        let mut buf = bounce.alloc(bytes.len()).ok_or_else(|| self.io("writing", io::ErrorKind::OutOfMemory.into()))?;
        buf.copy_from_slice(bytes);
        self.write_all(offset, &buf)
    }

    /// Makes everything written so far durable.
    pub fn flush(&self) -> Result<(), DriveError> {
        rustix::fs::fdatasync(&self.file).map_err(|errno| self.io("flushing", errno.into()))
    }

    fn open_with(path: &Path, flags: OFlags) -> Result<Self, DriveError> {
        let io = |doing, source: Errno| DriveError::Io { path: path.into(), doing, source: source.into() };
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
        // Not even to look: opening a FIFO would wait for its other end, and opening a device may do more.
        let kind = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
        match kind {
            Ok(FileType::Directory) => return Err(DriveError::Directory { path: path.into() }),
            Ok(FileType::BlockDevice) if flags.contains(OFlags::CREATE) => {
                return Err(DriveError::Exists { path: path.into() });
            }
            Ok(FileType::BlockDevice) => return Self::open_device(path, flags),
            Ok(FileType::RegularFile) | Err(_) => {}
            Ok(_) => return Err(DriveError::NotAFile { path: path.into() }),
        }
        let mode = Mode::RUSR | Mode::WUSR;
        let opened = rustix::fs::open(path, flags | OFlags::DIRECT, mode).map(|fd| (fd, true));
        let (fd, direct) = match opened {
            // The file system knows no direct I/O. With EXCL the file may have been made all the same.
            Err(Errno::INVAL) => {
                (rustix::fs::open(path, flags - OFlags::EXCL, mode).map_err(|errno| open_error(path, errno))?, false)
            }
            opened => opened.map_err(|errno| open_error(path, errno))?,
        };
        lock(&fd, path)?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| io("looking at it", errno))?;
        let len = u64::try_from(stat.st_size).unwrap_or(0) & !4095;
        let align = if direct { direct_align(fd.as_fd()) } else { ALIGN_DEFAULT };
        Ok(DriveFile { file: fd.into(), path: path.into(), len, align, direct, device: false })
    }

    fn open_device(path: &Path, flags: OFlags) -> Result<Self, DriveError> {
        let io = |doing, source: Errno| DriveError::Io { path: path.into(), doing, source: source.into() };
        let fd = match rustix::fs::open(path, flags | OFlags::DIRECT | OFlags::EXCL, Mode::empty()) {
            Err(Errno::BUSY) => return Err(device_error(path)),
            opened => opened.map_err(|errno| open_error(path, errno))?,
        };
        // Between looking and opening somebody may have put something else there, for which that flag means nothing.
        let stat = rustix::fs::fstat(&fd).map_err(|errno| io("looking at it", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(DriveError::NotAFile { path: path.into() });
        }
        // The claim is enough between nodes. The lock keeps device managers from probing a device that is written, and readers without claims out.
        lock(&fd, path)?;
        let len = device::bytes_of(fd.as_fd()).map_err(|errno| io("looking at its size", errno))? & !4095;
        let align = device::alignment(fd.as_fd()).map_err(|bytes| DriveError::Sectors { path: path.into(), bytes })?;
        Ok(DriveFile { file: fd.into(), path: path.into(), len, align, direct: true, device: true })
    }

    fn fill(&mut self, bytes: u64, prewrite: bool, progress: &mut dyn FnMut(u64)) -> Result<(), DriveError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => {}
            Err(Errno::NOSPC | Errno::FBIG | Errno::DQUOT) => {
                // The failed call may have taken part of the room: give it back before telling how much there is.
                let _ = rustix::fs::ftruncate(&self.file, 0);
                let free = rustix::fs::fstatvfs(&self.file).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize));
                return Err(DriveError::NoSpace { path: self.path.clone(), needed: bytes, free });
            }
            // Some network and overlay file systems cannot reserve: then the first writes find out.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                rustix::fs::ftruncate(&self.file, bytes).map_err(|errno| self.io("growing it", errno.into()))?;
            }
            Err(errno) => return Err(self.io("taking its room", errno.into())),
        }
        self.len = bytes;
        if prewrite {
            let arena = Arena::new(PREWRITE_STEP_BYTES)?;
            let mut zeros = arena
                .alloc(PREWRITE_STEP_BYTES)
                .ok_or_else(|| self.io("writing it once", io::ErrorKind::OutOfMemory.into()))?;
            let mut done = 0;
            while done < bytes {
                zeros.set_len((PREWRITE_STEP_BYTES as u64).min(bytes - done) as usize);
                self.write_all(done, &zeros)?;
                done += zeros.len() as u64;
                progress(done);
            }
        }
        rustix::fs::fsync(&self.file).map_err(|errno| self.io("flushing", errno.into()))?;
        // The name must survive a power cut too.
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|dir| dir.sync_all()).map_err(|source| self.io("flushing its folder", source))
    }

    fn write_all(&self, offset: u64, bytes: &[u8]) -> Result<(), DriveError> {
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::pwrite(&self.file, &bytes[done..], offset + done as u64) {
                Ok(0) => return Err(self.io("writing", io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.io("writing", errno.into())),
            }
        }
        Ok(())
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), DriveError> {
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= self.len);
        if inside && len > 0 && offset.is_multiple_of(self.align as u64) && len.is_multiple_of(self.align) {
            return Ok(());
        }
        Err(DriveError::Outside { offset, len, align: self.align })
    }

    fn io(&self, doing: &'static str, source: io::Error) -> DriveError {
        DriveError::Io { path: self.path.clone(), doing, source }
    }
}

impl AsFd for DriveFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn lock(fd: &impl AsFd, path: &Path) -> Result<(), DriveError> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(DriveError::InUse { path: path.into() }),
        Err(errno) => Err(DriveError::Io { path: path.into(), doing: "locking", source: errno.into() }),
    }
}

/// Why a device cannot be claimed: a node holds its lock too, everybody else only the claim.
fn device_error(path: &Path) -> DriveError {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let asked = rustix::fs::open(path, flags, Mode::empty())
        .and_then(|fd| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared));
    match asked {
        Err(Errno::WOULDBLOCK) => DriveError::InUse { path: path.into() },
        _ => match device::holder(path) {
            Some(holder) => DriveError::Held { path: path.into(), holder },
            None => DriveError::Claimed { path: path.into() },
        },
    }
}

fn open_error(path: &Path, errno: Errno) -> DriveError {
    let path = path.to_path_buf();
    match errno {
        Errno::NOENT => DriveError::Missing { path },
        Errno::EXIST => DriveError::Exists { path },
        Errno::ISDIR => DriveError::Directory { path },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => DriveError::NotWritable { path, source: errno.into() },
        _ => DriveError::Io { path, doing: "opening it", source: errno.into() },
    }
}

/// What direct I/O on this file must be aligned to: the larger of what memory and offsets need, between 512 and 4096.
fn direct_align(fd: BorrowedFd<'_>) -> usize {
    let Ok(stat) = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) else { return ALIGN_DEFAULT };
    let said = stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    let align = stat.stx_dio_offset_align.max(stat.stx_dio_mem_align) as usize;
    if said && align.is_power_of_two() && align <= ALIGN_DEFAULT { align.max(512) } else { ALIGN_DEFAULT }
}
