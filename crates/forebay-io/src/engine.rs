//! The engine of a shard: its slice of a drive, its sockets and its wake-ups behind one wait.
//!
//! Two engines do the same: a ring (`engine/uring.rs`) and a pool of threads (`engine/threads.rs`) for kernels and containers without io_uring.
//! This file holds what both share: who owns a buffer while it is in flight, and what becomes of short transfers and errors. Each kernel feature is
//! probed alone, has a fallback, and is named in [`EngineFeatures`] with the reason when it is off.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::{Arena, Disk, DiskDone, DiskError, DiskInfo, DiskOp, DriveFile, ReadInto, Shared};

mod features;
mod pending;
mod table;
mod threads;
mod uring;
mod wake;
mod watch;

pub use features::{Deny, EngineError, EngineFeatures, EngineKind, EngineOptions, Feature, Probe, probe};
pub use wake::Waker;
pub use watch::Ready;

use threads::Pool;
use uring::Ring;
use watch::Watches;

/// Most operations in flight: beyond this a drive gains nothing and buffers are only held longer.
pub const DEPTH_MAX: usize = 4096;

/// Most bytes of one operation: the kernel moves no more in one call.
pub const OP_BYTES_MAX: usize = 1 << 30;

/// How often an operation the kernel put off (`EAGAIN`, `EINTR`) is given to it again before that is its answer.
const TRIES_MAX: u8 = 8;

/// One shard's I/O. It stays on the thread that made it.
///
/// Dropping it waits for every operation in flight: until then the kernel may write their buffers.
pub struct Engine {
    // Declared before what its operations point into, though `drop` has waited for them all by then.
    driver: Driver,
    slots: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Finished and not yet collected.
    done: Vec<DiskDone>,
    results: Vec<Outcome>,
    watches: Watches,
    waker: Waker,
    /// Somebody woke us, and no wait has returned for it yet.
    woken: bool,
    features: EngineFeatures,
    info: DiskInfo,
    base: u64,
    /// Registered memory is told by its address, so the mapping must stay.
    arena: Arena,
}

enum Driver {
    Ring(Box<Ring>),
    Pool(Pool),
}

/// An operation in flight, owning its memory.
struct Flight {
    token: u64,
    held: Held,
    work: Work,
    /// Bytes moved so far by earlier, shorter transfers.
    moved: usize,
    tries: u8,
}

enum Held {
    Read(ReadInto),
    /// Held for the kernel, which reads it.
    Write(#[expect(dead_code, reason = "keeps the source alive until the completion")] Shared),
    Flush,
}

/// What a driver needs to know of an operation.
#[derive(Debug, Clone, Copy)]
struct Work {
    slot: u32,
    verb: Verb,
    ptr: *mut u8,
    len: usize,
    /// From the start of the file.
    offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Read,
    Write,
    Flush,
}

/// What became of it: bytes moved, or a negative errno.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    slot: u32,
    result: i32,
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
        options: EngineOptions,
        drive: DriveFile,
        base: u64,
        len: u64,
        arena: &Arena,
    ) -> Result<Engine, EngineError> {
        let mut engine = Self::unregistered(options, drive, base, len, arena)?;
        engine.register();
        Ok(engine)
    }

    /// The same, whose arena is not registered with the kernel until [`Self::register`]: until then its operations go the ordinary way, and its pages
    /// are taken as they are touched.
    pub fn unregistered(
        options: EngineOptions,
        drive: DriveFile,
        base: u64,
        len: u64,
        arena: &Arena,
    ) -> Result<Engine, EngineError> {
        let depth = options.depth.clamp(1, DEPTH_MAX);
        let align = drive.align() as u64;
        let inside = base.checked_add(len).is_some_and(|end| end <= drive.len());
        if !inside || len == 0 || !base.is_multiple_of(align) || !len.is_multiple_of(align) {
            return Err(EngineError::Outside { base, len, drive: drive.len() });
        }
        let info = DiskInfo { len, align: drive.align(), depth };
        let waker = Waker::new()?;
        let mut features = Vec::new();
        if !drive.is_direct() {
            features.push(Feature::off("direct_io", "the file system has no direct I/O: bytes are buffered"));
        } else {
            features.push(Feature::on("direct_io"));
        }
        let (name, driver) = match options.kind {
            EngineKind::Threads => ("threads", Driver::Pool(Pool::new(drive, depth, waker.clone())?)),
            EngineKind::Uring | EngineKind::Auto => {
                match Ring::new(options.deny, &drive, depth, waker.clone(), &mut features) {
                    Ok(ring) => {
                        features.push(Feature::on("io_uring"));
                        ("uring", Driver::Ring(Box::new(ring)))
                    }
                    Err(why) if options.kind == EngineKind::Uring => return Err(EngineError::NoRing(why)),
                    Err(why) => {
                        features.push(Feature { name: "io_uring", off: Some(why) });
                        ("threads", Driver::Pool(Pool::new(drive, depth, waker.clone())?))
                    }
                }
            }
        };
        Ok(Engine {
            driver,
            slots: (0..depth).map(|_| None).collect(),
            free: (0..depth as u32).rev().collect(),
            done: Vec::with_capacity(depth),
            results: Vec::with_capacity(depth),
            watches: Watches::default(),
            waker,
            woken: false,
            features: EngineFeatures { name, features },
            info,
            base,
            arena: arena.clone(),
        })
    }

    /// Registers the arena with the kernel, as far as the limit of locked memory allows: operations in it cost less CPU from then on. All its pages are
    /// taken now if they were not before.
    pub fn register(&mut self) {
        if let Driver::Ring(ring) = &mut self.driver {
            ring.register(&self.arena, &mut self.features.features);
        }
    }

    /// What it found.
    pub fn features(&self) -> &EngineFeatures {
        &self.features
    }

    /// Tells of `fd` being readable as `token` from now on. The caller keeps `fd` open until [`Self::unwatch`]. A token that is watched already is
    /// watched anew.
    pub fn watch(&mut self, fd: BorrowedFd<'_>, token: u64) {
        self.unwatch(token);
        let watch = self.watches.add(fd, token);
        match &mut self.driver {
            Driver::Ring(ring) => ring.watch(&self.watches, watch),
            Driver::Pool(pool) => pool.watch(&mut self.watches, watch),
        }
    }

    /// Also tells of `fd`, which is watched as `token`, being writable, while `on`.
    pub fn watch_writable(&mut self, _fd: BorrowedFd<'_>, token: u64, on: bool) {
        let Some(watch) = self.watches.set_writable(token, on) else { return };
        match &mut self.driver {
            Driver::Ring(ring) => ring.watch_writable(&self.watches, watch, on),
            Driver::Pool(pool) => pool.change(&self.watches, watch),
        }
    }

    /// Says no more of `token`.
    pub fn unwatch(&mut self, token: u64) {
        let Some(watch) = self.watches.find(token) else { return };
        match &mut self.driver {
            Driver::Ring(ring) => ring.unwatch(&self.watches, watch),
            Driver::Pool(pool) => pool.unwatch(&self.watches, watch),
        }
        self.watches.remove(watch);
    }

    /// Waits until a drive operation has finished, a watched socket is ready, somebody woke it, or the time is over; then says which sockets are
    /// ready. May return early with nothing. `Some(0)` only looks.
    ///
    /// Readiness is told when a watch begins and once per change after that (edge-triggered, on either engine): receive or send until it would block,
    /// or remember that there is more.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) {
        let at_once = self.woken || !self.done.is_empty();
        self.turn(if at_once { Some(Duration::ZERO) } else { timeout });
        // Whoever woke us has done its part before, so the caller, who looks next, will see it.
        self.waker.take();
        self.woken = false;
        self.watches.tell(ready);
    }

    /// Something to wake it with, from any thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn turn(&mut self, mut patience: Option<Duration>) {
        // Taken before looking: whoever wakes after this writes the eventfd, and so ends the wait below.
        if self.waker.take() {
            self.woken = true;
            patience = Some(Duration::ZERO);
        }
        let mut results = std::mem::take(&mut self.results);
        match &mut self.driver {
            Driver::Ring(ring) => ring.turn(patience, &mut results, &mut self.watches),
            Driver::Pool(pool) => pool.turn(patience, &mut results, &mut self.watches),
        }
        for outcome in results.drain(..) {
            self.settle(outcome);
        }
        self.results = results;
    }

    /// Ends an operation, or gives what is left of it to the kernel again.
    fn settle(&mut self, Outcome { slot, result }: Outcome) {
        let Some(flight) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else {
            // A completion for an empty slot would mean that the kernel wrote memory we gave away.
            panic!("an operation completed twice (slot {slot}, result {result})");
        };
        let ended = match usize::try_from(result) {
            Ok(_) if flight.work.verb == Verb::Flush => Ok(()),
            Ok(moved) => {
                assert!(moved <= flight.work.len, "the kernel moved more than asked");
                flight.moved += moved;
                flight.work.len -= moved;
                flight.work.offset += moved as u64;
                flight.work.ptr = flight.work.ptr.wrapping_add(moved);
                if flight.work.len == 0 {
                    Ok(())
                } else if moved == 0 || !flight.moved.is_multiple_of(self.info.align) {
                    Err(DiskError::Short)
                } else {
                    return self.driver.start(flight.work);
                }
            }
            Err(_) if matches!(-result, libc::EAGAIN | libc::EINTR) && flight.tries < TRIES_MAX => {
                flight.tries += 1;
                return self.driver.start(flight.work);
            }
            Err(_) => Err(DiskError::Os(-result)),
        };
        if let Some(flight) = self.slots[slot as usize].take() {
            let read = match flight.held {
                Held::Read(into) => Some(into),
                Held::Write(_) | Held::Flush => None,
            };
            self.done.push(DiskDone { token: flight.token, result: ended, read });
            self.free.push(slot);
        }
    }

    fn check(&self, offset: u64, ptr: *const u8, len: usize) {
        let align = self.info.align;
        assert!(
            offset.is_multiple_of(align as u64) && len.is_multiple_of(align) && ptr.addr().is_multiple_of(align),
            "an operation of {len} bytes at {offset} is not aligned to {align}"
        );
        assert!(
            (1..=OP_BYTES_MAX).contains(&len) && offset.checked_add(len as u64).is_some_and(|end| end <= self.info.len),
            "an operation of {len} bytes at {offset} is outside"
        );
    }
}

impl Driver {
    fn start(&mut self, work: Work) {
        match self {
            Driver::Ring(ring) => ring.start(work),
            Driver::Pool(pool) => pool.start(work),
        }
    }
}

impl Disk for Engine {
    fn info(&self) -> DiskInfo {
        self.info
    }

    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight() >= self.info.depth {
            return Err(op);
        }
        let Some(slot) = self.free.pop() else { return Err(op) };
        let (token, offset, held, verb, ptr, len) = match op {
            DiskOp::Read { token, offset, into } => {
                let (ptr, len) = match &into {
                    ReadInto::Buf(buf) => (buf.as_ptr(), buf.len()),
                    ReadInto::Landing(landing) => (landing.as_ptr(), landing.len()),
                };
                self.check(offset, ptr, len);
                (token, offset, Held::Read(into), Verb::Read, ptr, len)
            }
            DiskOp::Write { token, offset, from, part } => {
                let source = &from[part];
                let (ptr, len) = (source.as_ptr().cast_mut(), source.len());
                self.check(offset, ptr, len);
                (token, offset, Held::Write(from), Verb::Write, ptr, len)
            }
            DiskOp::Flush { token } => (token, 0, Held::Flush, Verb::Flush, std::ptr::null_mut(), 0),
        };
        let work = Work { slot, verb, ptr, len, offset: self.base + offset };
        self.slots[slot as usize] = Some(Flight { token, held, work, moved: 0, tries: 0 });
        self.driver.start(work);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len() + self.done.len()
    }

    fn begin(&mut self) {
        self.turn(Some(Duration::ZERO));
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        if self.free.len() < self.slots.len() {
            self.turn(Some(Duration::ZERO));
        }
        done.append(&mut self.done);
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        self.turn(Some(Duration::ZERO));
        while self.done.is_empty() && self.free.len() < self.slots.len() {
            self.turn(None);
        }
        done.append(&mut self.done);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Memory the kernel can still write may not be given back. An operation of a dead drive ends with an error, if late.
        while self.free.len() < self.slots.len() {
            self.turn(None);
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({}, {:?}, {} in flight)", self.features.name, self.info, self.in_flight())
    }
}
