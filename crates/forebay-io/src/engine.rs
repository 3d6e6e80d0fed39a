//! The engine of a shard: its slice of a drive, its sockets and its wake-ups behind one wait.
//!
//! Two engines do the same: a ring (`uring.rs`) and a pool of threads (`threads.rs`) for kernels and containers without io_uring. Each kernel
//! feature is probed alone, has a fallback, and is named in [`EngineFeatures`] with the reason when it is off.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::{Arena, Disk, DiskDone, DiskInfo, DiskOp, DriveFile, PeerRegion};

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineKind {
    /// The ring when the kernel lets us, else threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// Threads.
    Threads,
}

/// Kernel features to do without, so that each fallback can be tested.
#[derive(Debug, Clone, Copy, Default)]
pub struct Deny {
    /// io_uring itself.
    pub ring: bool,
    /// `SINGLE_ISSUER`, `DEFER_TASKRUN`, `COOP_TASKRUN`.
    pub setup_flags: bool,
    /// Registered buffers.
    pub registered_buffers: bool,
    /// The registered file.
    pub registered_file: bool,
    /// A timeout given with the wait.
    pub wait_timeout: bool,
    /// Polling a socket for ever with one request.
    pub multishot_poll: bool,
}

/// How to make an engine.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Which.
    pub kind: EngineKind,
    /// Drive operations in flight at once.
    pub depth: usize,
    /// What to do without.
    pub deny: Deny,
}

/// A kernel feature and, when it is off, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Why it is off; absent when it is on.
    pub off: Option<String>,
}

/// What an engine found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineFeatures {
    /// `uring` or `threads`.
    pub name: &'static str,
    /// Each feature probed.
    pub features: Vec<Feature>,
}

impl EngineFeatures {
    /// Whether the feature of this name is on.
    pub fn has(&self, name: &str) -> bool {
        self.features.iter().any(|f| f.name == name && f.off.is_none())
    }
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The ring was asked for by name and cannot be had.
    #[error("io_uring cannot be used here ({0}); use the thread engine, or allow io_uring to this process")]
    NoRing(String),
    /// The slice is not inside the drive.
    #[error("bytes {base}+{len} do not lie in a drive of {drive} bytes at its alignment")]
    Outside {
        /// First byte.
        base: u64,
        /// Bytes.
        len: u64,
        /// The drive's.
        drive: u64,
    },
    /// The kernel said no.
    #[error("{doing} failed: {source}")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A socket that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// As given to [`Engine::watch`].
    pub token: u64,
    /// Bytes, descriptors or an end of file can be received.
    pub readable: bool,
    /// Bytes can be sent.
    pub writable: bool,
    /// The other side is gone; what it sent before can still be received.
    pub hangup: bool,
}

/// Wakes an engine from another thread.
#[derive(Debug, Clone)]
pub struct Waker(std::sync::Arc<std::os::fd::OwnedFd>);

impl Waker {
    /// Makes the engine's present or next wait return. Cheap; never blocks.
    pub fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// One shard's I/O.
pub struct Engine {
    waker: Waker,
    features: EngineFeatures,
    info: DiskInfo,
}

impl Engine {
    /// An engine over bytes `base..base + len` of `drive`, whose buffers come from `arena`, with `depth` operations in flight at most.
    pub fn new(
        kind: EngineKind,
        drive: DriveFile,
        base: u64,
        len: u64,
        arena: &Arena,
        depth: usize,
    ) -> Result<Engine, EngineError> {
        Self::with(EngineOptions { kind, depth, deny: Deny::default() }, drive, base, len, arena)
    }

    /// The same, with features to do without.
    pub fn with(
        _options: EngineOptions,
        _drive: DriveFile,
        _base: u64,
        _len: u64,
        _arena: &Arena,
    ) -> Result<Engine, EngineError> {
        Err(EngineError::NoRing("not built yet".into()))
    }

    /// What it found.
    pub fn features(&self) -> &EngineFeatures {
        &self.features
    }

    /// Tells of `fd` being readable as `token` from now on. The caller keeps `fd` open until [`Self::unwatch`].
    pub fn watch(&mut self, _fd: BorrowedFd<'_>, _token: u64) {}

    /// Also tells of it being writable, while `on`.
    pub fn watch_writable(&mut self, _fd: BorrowedFd<'_>, _token: u64, _on: bool) {}

    /// Says no more of `token`.
    pub fn unwatch(&mut self, _token: u64) {}

    /// Waits until a drive operation has finished, a watched socket is ready, somebody woke it, or the time is over; then says which sockets are ready.
    /// Readiness is told once per change: receive or send until it would block. `Some(0)` only looks.
    pub fn wait(&mut self, _timeout: Option<Duration>, _ready: &mut Vec<Ready>) {}

    /// Something to wake it with, from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Lets landings in this region use registered memory, where that can be had. Done in small steps; until then, and always when it cannot be had,
    /// landings work the other way.
    pub fn add_region(&mut self, _region: &PeerRegion) {}

    /// Undoes [`Self::add_region`]. Landings in flight end first.
    pub fn drop_region(&mut self, _region: &PeerRegion) {}
}

impl Disk for Engine {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        Err(op)
    }

    fn in_flight(&self) -> usize {
        0
    }

    fn poll(&mut self, _done: &mut Vec<DiskDone>) {}

    fn wait(&mut self, _done: &mut Vec<DiskDone>) {}
}
