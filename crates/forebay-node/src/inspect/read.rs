//! Bytes of a drive that nobody writes meanwhile.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_format::layout::SLICES_BASE;
use forebay_types::format_size;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// How often, and how many times, a lock is tried.
const LOCK_RETRY: Duration = Duration::from_millis(10);
const LOCK_TRIES: u32 = 300;

/// Why a drive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A node has it.
    #[error("{} is in use by a node, and what it writes meanwhile would look like damage; stop the node, or ask it with `forebay stat`", .0.display())]
    InUse(PathBuf),
    /// Somebody else has the device.
    #[error("{} is in use by a node, or held by a file system or another program: `lsblk` shows which; stop the node or free the device, or ask the node with `forebay stat`", .0.display())]
    Held(PathBuf),
    /// Not a drive at all.
    #[error("{} is not a drive of Forebay: {why}; name the file or device that `forebay serve --data` was given", path.display())]
    NotADrive {
        /// As given.
        path: PathBuf,
        /// What is there.
        why: String,
    },
    /// The file system said no.
    #[error("{} cannot be read: {source}; check its path and its permissions", path.display())]
    Io {
        /// As given.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

/// Opens it. A device is claimed, so that no node can start on it by another name; the one that has it may have just been killed.
#[expect(clippy::disallowed_methods, reason = "a claim on a device gives no event to wait for with a deadline")]
fn open_to_read(path: &Path, kind: FileType) -> Result<File, Errno> {
    let claim = if kind == FileType::BlockDevice { OFlags::EXCL } else { OFlags::empty() };
    for _ in 0..LOCK_TRIES {
        match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | claim, Mode::empty()) {
            Err(Errno::BUSY) => std::thread::sleep(LOCK_RETRY),
            opened => return opened.map(File::from),
        }
    }
    Err(Errno::BUSY)
}

/// Tries for three seconds: the last writes of a node that was killed may still be ending, and its lock with them.
#[expect(clippy::disallowed_methods, reason = "a lock on a file gives no event to wait for with a deadline")]
fn lock(file: &File) -> Result<(), Errno> {
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_RETRY),
            other => return other,
        }
    }
    Err(Errno::WOULDBLOCK)
}

/// A drive, open for reading, with a lock that keeps nodes out.
pub(super) struct Reader {
    file: File,
    len: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, InspectError> {
        let failed = |source: std::io::Error| InspectError::Io { path: path.into(), source };
        let not = |why: &str| InspectError::NotADrive { path: path.into(), why: why.to_owned() };
        // Opening a pipe would wait for its other end.
        let kind = rustix::fs::stat(path).map_err(|e| failed(e.into()))?;
        let kind = FileType::from_raw_mode(kind.st_mode);
        match kind {
            FileType::RegularFile | FileType::BlockDevice => {}
            FileType::Directory => return Err(not("it is a directory")),
            _ => return Err(not("it is neither a file nor a block device")),
        }
        let mut file = open_to_read(path, kind).map_err(|errno| match errno {
            Errno::BUSY => InspectError::Held(path.into()),
            errno => failed(errno.into()),
        })?;
        lock(&file).map_err(|errno| match errno {
            Errno::WOULDBLOCK => InspectError::InUse(path.into()),
            errno => failed(errno.into()),
        })?;
        // A block device has no length but this.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if len < SLICES_BASE {
            return Err(not(&format!("it has {}, less than any drive", format_size(len))));
        }
        Ok(Reader { file, len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Those bytes, or why they cannot be had.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, String> {
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Err("it lies behind the end of the drive".into());
        }
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, offset).map_err(|e| format!("it cannot be read: {e}"))?;
        Ok(bytes)
    }
}
