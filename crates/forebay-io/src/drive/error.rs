//! Why a drive cannot be had, each with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::ArenaError;

/// Why a drive cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A directory was named.
    #[error("{path} is a directory; name a file inside it, as in {path}/forebay.drive")]
    Directory {
        /// As given.
        path: PathBuf,
    },
    /// Something that is neither a file, a directory nor a block device.
    #[error("{path} is neither a regular file nor a block device; a drive is a file on a file system, or a raw device")]
    NotAFile {
        /// As given.
        path: PathBuf,
    },
    /// Nothing there.
    #[error(
        "{path} does not exist, and cannot be made where its folder does not exist; make the folder first, or name another place"
    )]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// Something there already.
    #[error("{path} exists already; remove it first if nothing in it is wanted, or open it as it is")]
    Exists {
        /// As given.
        path: PathBuf,
    },
    /// No permission, or a file system mounted read-only.
    #[error("{path} cannot be written ({source}); give its owner write permission or name another place")]
    NotWritable {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Locked.
    #[error(
        "{path} is in use by another node, or the last writes of one that just died are still ending; stop that node or wait a moment"
    )]
    InUse {
        /// As given.
        path: PathBuf,
    },
    /// A device that somebody else uses, and who.
    #[error(
        "{path} is {holder}, and nobody may write beside that; free the device first, or name another one. Nothing on it was changed"
    )]
    Held {
        /// As given.
        path: PathBuf,
        /// By whom, in words.
        holder: String,
    },
    /// A device that somebody else uses, and the kernel does not say who.
    #[error(
        "{path} is held by another program: a node in another container, a file system mounted elsewhere, a volume manager; `lsblk {path}` and `fuser -v {path}` may show it. Nothing on it was changed"
    )]
    Claimed {
        /// As given.
        path: PathBuf,
    },
    /// A device whose sectors are larger than records can be aligned to.
    #[error(
        "{path} has sectors of {bytes} bytes, and a drive needs a power of two up to 4096; format the device with smaller ones (`nvme format --lbaf`), or put a file system on it and a file there"
    )]
    Sectors {
        /// As given.
        path: PathBuf,
        /// Bytes of a sector.
        bytes: u32,
    },
    /// The file system has not enough room.
    #[error("{path} needs {needed} and its file system has {free} free; give a smaller size or make room", needed = forebay_types::format_size(*.needed), free = forebay_types::format_size(*.free))]
    NoSpace {
        /// As given.
        path: PathBuf,
        /// Bytes asked.
        needed: u64,
        /// Bytes the file system has for us.
        free: u64,
    },
    /// Too few bytes.
    #[error("{path} has {found} and a drive needs at least {least}; name another place, or remove the file if nothing in it is wanted", found = forebay_types::format_size(*.found), least = forebay_types::format_size(*.least))]
    TooSmall {
        /// As given.
        path: PathBuf,
        /// Bytes there or asked.
        found: u64,
        /// Fewest bytes.
        least: u64,
    },
    /// Outside the drive, or not aligned.
    #[error("bytes {offset}+{len} do not lie in the drive at its alignment of {align}")]
    Outside {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: usize,
        /// The drive's alignment.
        align: usize,
    },
    /// No memory to bounce through.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// Anything else.
    #[error("{path}: {doing} failed: {source}")]
    Io {
        /// As given.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl DriveError {
    /// True when waiting a moment may help: the last writes of an owner that was killed may still be ending.
    pub fn is_in_use(&self) -> bool {
        matches!(self, DriveError::InUse { .. } | DriveError::Claimed { .. })
    }
}
