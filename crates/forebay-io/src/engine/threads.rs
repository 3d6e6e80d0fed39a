//! The engine without io_uring: a pool of threads for the drive, epoll for the sockets.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::features::clamp_wait;
use super::watch::{WatchId, Watches};
use super::{EngineError, Outcome, Verb, Waker, Work};
use crate::DriveFile;

/// Threads that read and write: as many as it takes to keep a drive busy with large operations, and few enough for a small machine.
const WORKERS_MAX: usize = 16;

/// Socket events taken at once; more come with the next wait.
const EVENTS_MAX: usize = 256;

/// What epoll says of the waker. No watch has it: its tenancy is above 24 bits.
const WAKE_DATA: u64 = u64::MAX;

pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    epoll: OwnedFd,
    events: Vec<Event>,
}

struct Shared {
    drive: DriveFile,
    jobs: Mutex<Jobs>,
    more: Condvar,
    results: Mutex<Vec<Outcome>>,
    waker: Waker,
}

/// At most the engine's depth of jobs wait here: each has a slot.
#[derive(Default)]
struct Jobs {
    queue: VecDeque<Work>,
    closed: bool,
}

// SAFETY: the pointer is only used between `start` and the outcome, and for all that time the engine's slot owns the memory and lets nobody
// else touch it.
#[expect(unsafe_code, reason = "a pointer handed to the thread that uses it")]
unsafe impl Send for Work {}

impl Pool {
    pub(super) fn new(drive: DriveFile, depth: usize, waker: Waker) -> Result<Self, EngineError> {
        let os = |doing| move |source: io::Error| EngineError::Os { doing, source };
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|e| os("making an epoll")(e.into()))?;
        epoll::add(&epoll, waker.event(), EventData::new_u64(WAKE_DATA), EventFlags::IN | EventFlags::ET)
            .map_err(|e| os("watching the waker")(e.into()))?;
        let shared =
            Arc::new(Shared { drive, jobs: Mutex::default(), more: Condvar::new(), results: Mutex::default(), waker });
        let mut pool = Pool { shared, workers: Vec::new(), epoll, events: Vec::with_capacity(EVENTS_MAX) };
        for n in 0..depth.min(WORKERS_MAX) {
            let shared = pool.shared.clone();
            let worker = std::thread::Builder::new()
                .name(format!("forebay-io-{n}"))
                .spawn(move || shared.work())
                .map_err(os("starting an I/O thread"))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub(super) fn start(&mut self, work: Work) {
        lock(&self.shared.jobs).queue.push_back(work);
        self.shared.more.notify_one();
    }

    pub(super) fn watch(&mut self, watches: &mut Watches, id: WatchId) {
        if self.control(watches, id, |epoll, fd, data, flags| epoll::add(epoll, fd, data, flags)).is_err() {
            // Not something that can be waited for: its owner finds out by using it.
            watches.note(id, (libc::POLLIN | libc::POLLERR) as u32);
        }
    }

    pub(super) fn change(&mut self, watches: &Watches, id: WatchId) {
        let _ = self.control(watches, id, |epoll, fd, data, flags| epoll::modify(epoll, fd, data, flags));
    }

    pub(super) fn unwatch(&mut self, watches: &Watches, id: WatchId) {
        let _ = self.control(watches, id, |epoll, fd, _, _| epoll::delete(epoll, fd));
    }

    fn control(
        &self,
        watches: &Watches,
        id: WatchId,
        call: impl Fn(BorrowedFd<'_>, BorrowedFd<'_>, EventData, EventFlags) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        let Some((fd, writable)) = watches.get(id) else { return Ok(()) };
        let mut flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        flags.set(EventFlags::OUT, writable);
        let data = EventData::new_u64(u64::from(id.tenancy) << 32 | u64::from(id.index));
        call(self.epoll.as_fd(), borrow(&fd), data, flags)
    }

    pub(super) fn turn(&mut self, patience: Option<Duration>, results: &mut Vec<Outcome>, watches: &mut Watches) {
        results.append(&mut lock(&self.shared.results));
        let patience = if results.is_empty() && !watches.any() { patience } else { Some(Duration::ZERO) };
        let timeout = patience.map(|wait| {
            let wait = clamp_wait(wait);
            Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) }
        });
        self.events.clear();
        // An interrupted wait is an early return, which callers expect.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref());
        for event in &self.events {
            // Copied out: the kernel's event is packed.
            let Event { flags, data, .. } = *event;
            let (data, flags) = (data.u64(), flags.bits());
            if data != WAKE_DATA {
                // epoll's bits are poll's.
                watches.note(WatchId { index: data as u32, tenancy: (data >> 32) as u32 }, flags);
            }
        }
        results.append(&mut lock(&self.shared.results));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.jobs).closed = true;
        self.shared.more.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let mut jobs = lock(&self.jobs);
            let work = loop {
                if let Some(work) = jobs.queue.pop_front() {
                    break work;
                }
                if jobs.closed {
                    return;
                }
                jobs = self.more.wait(jobs).unwrap_or_else(|poisoned| poisoned.into_inner());
            };
            drop(jobs);
            let result = self.call(work);
            lock(&self.results).push(Outcome { slot: work.slot, result });
            self.waker.wake();
        }
    }

    /// One system call: bytes moved or a negative errno.
    #[expect(unsafe_code, reason = "reading into memory that is behind no reference")]
    fn call(&self, work: Work) -> i32 {
        let fd = self.drive.as_fd().as_raw_fd();
        let offset = work.offset as libc::off_t;
        let moved = match work.verb {
            // SAFETY: the slot owns `len` writable bytes at `ptr` until it hears of the outcome, which is after this call. The memory may be
            // a peer's, so it is given as a pointer and never as a slice.
            Verb::Read => unsafe { libc::pread(fd, work.ptr.cast(), work.len, offset) },
            // SAFETY: the same, and nothing writes it meanwhile: a write's source is shared and read-only.
            Verb::Write => unsafe { libc::pwrite(fd, work.ptr.cast(), work.len, offset) },
            Verb::Flush => {
                return rustix::fs::fdatasync(&self.drive).map_or_else(|errno| -errno.raw_os_error(), |()| 0);
            }
        };
        // An operation is at most `OP_BYTES_MAX`, which fits.
        if moved < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { moved as i32 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[expect(unsafe_code, reason = "a watched descriptor is open by contract")]
fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: whoever watches a descriptor keeps it open until it is unwatched. Should it not be, epoll says EBADF or watches another file: wrong
    // news, no harm to memory. A watched descriptor is never -1.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}
