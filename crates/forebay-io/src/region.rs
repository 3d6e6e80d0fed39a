//! Regions: memory that clients share with nodes as descriptors, never as paths.
//!
//! A client passes a descriptor over its Unix socket. With `F_SEAL_SHRINK` the node may map it: the mapping cannot fault. Without the seal the
//! node never dereferences it and goes through `pread` and `pwrite`: a truncated file hurts only its owner.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::rc::Rc;

/// Why a descriptor is not a region, or why bytes could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Not tmpfs, memfd or hugetlbfs: reading it could block for ever.
    #[error("a region is a memfd or a file on tmpfs or hugetlbfs; this descriptor is something else")]
    NotMemory,
    /// Shorter than the client said.
    #[error("the region has {found} bytes and the client said {said}")]
    TooShort {
        /// Bytes of the file.
        found: u64,
        /// Bytes the client said.
        said: u64,
    },
    /// Outside the region.
    #[error("bytes {offset}+{len} lie outside the region")]
    Outside {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The kernel said no.
    #[error("the region cannot be used: {0}")]
    Os(#[from] rustix::io::Errno),
}

/// A client's region as a node holds it. Cloning shares it; the mapping lives until the last landing is done.
#[derive(Clone, Debug)]
pub struct PeerRegion(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    len: u64,
    /// Present when the file is sealed against shrinking.
    map: Option<NonNull<u8>>,
}

/// A slice of a client's mapped region that one operation may write. It keeps the mapping alive.
#[derive(Debug)]
pub struct Landing {
    region: PeerRegion,
    offset: u64,
    len: usize,
}
