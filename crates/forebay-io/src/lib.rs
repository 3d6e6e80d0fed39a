//! Memory that the kernel may write, and the disks that write it.
//!
//! The room where `unsafe` lives: the arena, regions shared with clients, direct I/O by io_uring or by
//! threads behind one seam ([`Disk`]), readiness of sockets on the same ring, and the simulated disk that forgets.
//! It knows no key, no record and no policy: only offsets, buffers and tokens.
//!
//! The rule that every type here upholds: *memory the kernel can still write belongs to the operation in flight, not to
//! whoever waits for it*. An operation owns its buffer from submission to completion, and only its completion gives it back.

mod arena;
mod background;
mod device;
mod disk;
mod drive;
mod engine;
mod extents;
mod huge;
mod ledger;
mod populate;
mod region;
mod signals;
pub mod sim;
mod slice;
mod unmap;
mod witness;

/// What files share with `tests/model.rs`, which has them compiled with loom's in place of these.
mod sync {
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering};
    pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
}

pub use arena::{ARENA_ALIGN, Arena, ArenaError, Buf, Shared};
pub use background::work_in_background;
pub use device::{device_bytes, is_block_device};
pub use disk::{Disk, DiskDone, DiskError, DiskInfo, DiskOp, ReadInto};
pub use drive::{DriveError, DriveFile};
pub use engine::{
    DEPTH_MAX, Deny, Engine, EngineError, EngineFeatures, EngineKind, EngineOptions, Feature, OP_BYTES_MAX, Probe,
    Ready, Waker, probe,
};
pub use extents::Extents;
pub use huge::huge_pages_off;
pub use ledger::Writer;
pub use populate::Populating;
pub use region::{Landing, PeerRegion, RegionError};
pub use signals::EndSignals;
pub use slice::{Loan, Region, Slice};
pub use unmap::close_elsewhere;
