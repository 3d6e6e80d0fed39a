//! The engine with io_uring: one ring for the drive, the sockets and the waker.
//!
//! It needs a kernel with multishot poll and timed waits (5.13); everything newer is optional and probed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::features::{Deny, Feature, clamp_wait};
use super::table::Table;
use super::watch::{WatchId, Watches};
use super::{Outcome, Verb, Waker, Work};
use crate::populate::may_pin;
use crate::{Arena, DriveFile};

/// Completions the ring holds before the kernel keeps them aside. Sockets can be busy while the thread is.
const CQ_ENTRIES_MIN: u32 = 1024;

/// What a completion is about: the top byte of its user data.
const TAG_DISK: u64 = 0;
const TAG_READABLE: u64 = 1;
const TAG_WRITABLE: u64 = 2;
const TAG_WAKE: u64 = 3;
/// The feature that is found when the arena is registered.
const BUFFERS: &str = "registered_buffers";

/// Set beside the tag of a poll that is to be taken back.
const TAG_DISARM: u64 = 0x80;

pub(super) struct Ring {
    ring: IoUring,
    drive: DriveFile,
    fixed_file: bool,
    /// What of the arena is registered.
    table: Option<Table>,
    deny: Deny,
    /// What found the submission queue full: at most `depth` operations and a few polls for each watch.
    backlog: VecDeque<squeue::Entry>,
    waker: Waker,
}

impl Ring {
    /// A ring, or why there is none. Says which features it has.
    pub(super) fn new(
        deny: Deny,
        drive: &DriveFile,
        depth: usize,
        waker: Waker,
        features: &mut Vec<Feature>,
    ) -> Result<Self, String> {
        let ring = build(deny, depth, features)?;
        let drive = drive.try_clone().map_err(|error| error.to_string())?;
        let fixed_file = register_file(&ring, deny, drive.as_fd().as_raw_fd(), features);
        let mut ring = Ring { ring, drive, fixed_file, table: None, deny, backlog: VecDeque::new(), waker };
        ring.arm_waker();
        // The first submission also tells whether this thread may submit at all.
        ring.enter(0, None).map_err(|error| format!("the first submission failed: {error}"))?;
        Ok(ring)
    }

    /// Registers the arena, once; operations that begin before go the ordinary way.
    pub(super) fn register(&mut self, arena: &Arena, features: &mut Vec<Feature>) {
        if self.table.is_none() && !features.iter().any(|feature| feature.name == BUFFERS) {
            self.table = register_arena(&self.ring, self.deny, arena, features);
        }
    }

    pub(super) fn start(&mut self, work: Work) {
        // The registered file is the only one of its table.
        let entry = if self.fixed_file {
            self.entry(work, Fd(0)).flags(squeue::Flags::FIXED_FILE)
        } else {
            self.entry(work, Fd(self.drive.as_fd().as_raw_fd()))
        };
        self.push(entry.user_data(TAG_DISK << 56 | u64::from(work.slot)));
    }

    fn entry(&self, work: Work, file: Fd) -> squeue::Entry {
        // An operation is at most `OP_BYTES_MAX`, which fits.
        let len = work.len as u32;
        let registered = self.table.as_ref().and_then(|table| table.find(work.ptr, work.len));
        match (work.verb, registered) {
            (Verb::Read, Some(n)) => opcode::ReadFixed::new(file, work.ptr, len, n).offset(work.offset).build(),
            (Verb::Read, None) => opcode::Read::new(file, work.ptr, len).offset(work.offset).build(),
            (Verb::Write, Some(n)) => opcode::WriteFixed::new(file, work.ptr, len, n).offset(work.offset).build(),
            (Verb::Write, None) => opcode::Write::new(file, work.ptr, len).offset(work.offset).build(),
            (Verb::Flush, _) => opcode::Fsync::new(file).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    pub(super) fn watch(&mut self, watches: &Watches, id: WatchId) {
        if let Some((fd, _)) = watches.get(id) {
            self.arm(fd, libc::POLLIN | libc::POLLRDHUP, data(TAG_READABLE, id));
        }
    }

    pub(super) fn watch_writable(&mut self, watches: &Watches, id: WatchId, on: bool) {
        match watches.get(id) {
            Some((fd, _)) if on => self.arm(fd, libc::POLLOUT, data(TAG_WRITABLE, id)),
            _ => self.disarm(data(TAG_WRITABLE, id)),
        }
    }

    pub(super) fn unwatch(&mut self, watches: &Watches, id: WatchId) {
        let Some((_, writable)) = watches.get(id) else { return };
        self.disarm(data(TAG_READABLE, id));
        if writable {
            self.disarm(data(TAG_WRITABLE, id));
        }
    }

    fn arm(&mut self, fd: RawFd, bits: i16, data: u64) {
        self.push(opcode::PollAdd::new(Fd(fd), bits as u32).multi(true).build().user_data(data));
    }

    fn disarm(&mut self, data: u64) {
        self.push(opcode::PollRemove::new(data).build().user_data(TAG_DISARM << 56 | data));
    }

    fn arm_waker(&mut self) {
        let fd = self.waker.event().as_raw_fd();
        self.arm(fd, libc::POLLIN, TAG_WAKE << 56);
    }

    /// Submits what is queued, waits if nothing is there and `patience` allows, and collects.
    pub(super) fn turn(&mut self, patience: Option<Duration>, results: &mut Vec<Outcome>, watches: &mut Watches) {
        self.reap(results, watches);
        let nothing = results.is_empty() && !watches.any();
        if nothing && patience != Some(Duration::ZERO) {
            self.must_enter(1, patience);
        } else if self.has_work_for_kernel() {
            self.must_enter(0, None);
        } else {
            return;
        }
        self.reap(results, watches);
    }

    /// Whether a system call would do anything but wait.
    fn has_work_for_kernel(&mut self) -> bool {
        let queue = self.ring.submission();
        !queue.is_empty() || queue.taskrun() || queue.cq_overflow() || !self.backlog.is_empty()
    }

    fn must_enter(&mut self, want: usize, patience: Option<Duration>) {
        if let Err(error) = self.enter(want, patience) {
            // The ring belongs to us and to this thread, and its entries are well formed: anything else is a bug, and memory may be in flight.
            panic!("io_uring_enter failed: {error}");
        }
    }

    fn enter(&mut self, want: usize, patience: Option<Duration>) -> io::Result<()> {
        loop {
            self.fill();
            // Waiting with more to submit would wait for nothing.
            let want = if self.backlog.is_empty() { want } else { 0 };
            let submitter = self.ring.submitter();
            let entered = match patience.filter(|_| want > 0) {
                Some(wait) => {
                    let wait = clamp_wait(wait);
                    let time = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
                    submitter.submit_with_args(want, &SubmitArgs::new().timespec(&time))
                }
                None => submitter.submit_and_wait(want),
            };
            match entered {
                Ok(_) if self.backlog.is_empty() => return Ok(()),
                Ok(_) => {}
                // Time is over, a signal came, or completions must be collected first. What was not submitted stays queued.
                Err(error) => {
                    return match error.raw_os_error() {
                        Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => Ok(()),
                        _ => Err(error),
                    };
                }
            }
        }
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.fill();
    }

    /// Moves what waits into the submission queue, as far as it fits.
    #[expect(unsafe_code, reason = "handing memory to the kernel")]
    fn fill(&mut self) {
        let mut queue = self.ring.submission();
        while !queue.is_full() {
            let Some(entry) = self.backlog.pop_front() else { return };
            // SAFETY: a drive operation's memory is owned by its slot until its completion, and the engine is not dropped before that; descriptors are
            // the drive's, which lives in `self`, or watched ones, which at worst are wrong and harm no memory. The queue has room.
            let _ = unsafe { queue.push(&entry) };
        }
    }

    fn reap(&mut self, results: &mut Vec<Outcome>, watches: &mut Watches) {
        let (mut again, mut still) = (Vec::new(), Vec::new());
        for entry in self.ring.completion() {
            let (user, result) = (entry.user_data(), entry.result());
            let more = io_uring::cqueue::more(entry.flags());
            match user >> 56 {
                TAG_DISK => results.push(Outcome { slot: user as u32, result }),
                tag if tag & TAG_DISARM != 0 => {
                    if -result == libc::EALREADY {
                        still.push(user & !(TAG_DISARM << 56));
                    }
                }
                tag => {
                    let id = WatchId { index: user as u32, tenancy: (user >> 32) as u32 & 0xff_ffff };
                    if tag != TAG_WAKE {
                        watches.note(id, if result >= 0 { result as u32 } else { failed_poll(result) });
                    }
                    if !more && result >= 0 {
                        again.push((tag, id));
                    }
                }
            }
        }
        // News of the poll was on its way, and so it was not taken back. Left alone it would hold the socket open for ever.
        for data in still {
            self.disarm(data);
        }
        // The kernel ends a multishot poll when its completions overflow.
        for (tag, id) in again {
            match (tag, watches.get(id)) {
                (TAG_WAKE, _) => self.arm_waker(),
                (TAG_READABLE, Some(_)) => self.watch(watches, id),
                (TAG_WRITABLE, Some((_, true))) => self.watch_writable(watches, id, true),
                _ => {}
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel takes a ring apart some time after its last handle is gone. The drive's lock must not wait for that.
        if self.fixed_file {
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

/// What a poll that failed tells its owner: to use the socket and see. One that was taken back tells nothing.
fn failed_poll(result: i32) -> u32 {
    if -result == libc::ECANCELED { 0 } else { (libc::POLLIN | libc::POLLERR) as u32 }
}

fn data(tag: u64, id: WatchId) -> u64 {
    tag << 56 | u64::from(id.tenancy) << 32 | u64::from(id.index)
}

/// Looks at what a ring would have.
pub(super) fn probe(features: &mut Vec<Feature>) -> Result<(), String> {
    let ring = build(Deny::default(), 8, features)?;
    let arena = Arena::new(1).map_err(|error| error.to_string())?;
    let null = std::fs::File::open("/dev/null").map_err(|error| error.to_string())?;
    register_file(&ring, Deny::default(), null.as_raw_fd(), features);
    register_arena(&ring, Deny::default(), &arena, features);
    Ok(())
}

/// Builds a ring with as many of the setup flags as the kernel takes.
fn build(deny: Deny, depth: usize, features: &mut Vec<Feature>) -> Result<IoUring, String> {
    if deny.ring {
        return Err("denied by its options".into());
    }
    let (single, defer, coop) = (!deny.single_issuer, !deny.defer_taskrun && !deny.single_issuer, !deny.coop_taskrun);
    // Deferred task work does what cooperative task work does, and better.
    let attempts = [(single, defer, false), (single, false, coop), (false, false, coop), (false, false, false)];
    let mut refused = None;
    for (single, defer, coop) in attempts {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(CQ_ENTRIES_MIN.max(2 * depth as u32).next_power_of_two());
        if single {
            builder.setup_single_issuer();
        }
        if defer {
            builder.setup_defer_taskrun();
        }
        if coop {
            builder.setup_coop_taskrun();
        }
        if defer || coop {
            // So that looking costs no system call when there is nothing.
            builder.setup_taskrun_flag();
        }
        match builder.build((depth as u32 + 16).next_power_of_two()) {
            Ok(ring) => {
                let params = ring.params();
                if !params.is_feature_ext_arg() || !params.is_feature_nodrop() || !params.is_feature_resource_tagging()
                {
                    return Err("the kernel's io_uring is older than Linux 5.13".into());
                }
                let why = || refused.as_deref().unwrap_or("denied by its options");
                let feature = |name, on, why: &str| if on { Feature::on(name) } else { Feature::off(name, why) };
                features.push(feature("single_issuer", single, why()));
                features.push(feature("defer_taskrun", defer, why()));
                // Not asked for where deferred task work takes its place, so not missed either.
                if !defer {
                    features.push(feature("coop_taskrun", coop, why()));
                }
                return Ok(ring);
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                refused.get_or_insert_with(|| format!("the kernel does not know the setup flag: {error}"));
            }
            Err(error) => {
                return Err(match error.raw_os_error() {
                    Some(libc::EPERM | libc::EACCES) => {
                        format!(
                            "{error}: a container's seccomp profile or /proc/sys/kernel/io_uring_disabled forbids it"
                        )
                    }
                    Some(libc::ENOSYS) => format!("{error}: the kernel was built without it"),
                    Some(libc::ENOMEM) => {
                        format!("{error}: the limit of locked memory (ulimit -l) is too small for a ring")
                    }
                    _ => error.to_string(),
                });
            }
        }
    }
    Err(refused.unwrap_or_else(|| "no setup was accepted".into()))
}

fn register_file(ring: &IoUring, deny: Deny, fd: RawFd, features: &mut Vec<Feature>) -> bool {
    let registered = if deny.registered_file {
        Err("denied by its options".into())
    } else {
        ring.submitter().register_files(&[fd]).map_err(|error| error.to_string())
    };
    let on = registered.is_ok();
    features.push(Feature { name: "registered_file", off: registered.err() });
    on
}

/// Registers as much of the arena as the limit of locked memory allows.
#[expect(unsafe_code, reason = "pinning memory")]
fn register_arena(ring: &IoUring, deny: Deny, arena: &Arena, features: &mut Vec<Feature>) -> Option<Table> {
    const NAME: &str = BUFFERS;
    if deny.registered_buffers {
        features.push(Feature::off(NAME, "denied by its options"));
        return None;
    }
    let entries: Vec<_> = Table::entries(arena.len()).collect();
    const TOO_SMALL: &str =
        "the limit of locked memory (ulimit -l) is smaller than the arena; raise it or accept slower I/O";
    // The kernel takes every page of an entry before it looks at the limit, and they would stay.
    if let Some((_, first)) = entries.first()
        && !may_pin(*first)
    {
        features.push(Feature::off(NAME, format!("0 of {} bytes are registered: {TOO_SMALL}", arena.len())));
        return None;
    }
    if let Err(error) = ring.submitter().register_buffers_sparse(entries.len() as u32) {
        features.push(Feature::off(NAME, format!("the kernel has no sparse table of buffers: {error}")));
        return None;
    }
    let mut table = Table::new(arena.base());
    for (n, (start, len)) in entries.iter().enumerate() {
        let base = arena.base().as_ptr().wrapping_add(*start);
        let memory = libc::iovec { iov_base: base.cast(), iov_len: *len };
        // SAFETY: the range is the arena's mapping, which the engine keeps as long as the ring.
        if let Err(error) = unsafe { ring.submitter().register_buffers_update(n as u32, &[memory], None) } {
            let what = if error.raw_os_error() == Some(libc::ENOMEM) { TOO_SMALL } else { "the kernel refused" };
            features
                .push(Feature::off(NAME, format!("{start} of {} bytes are registered: {what} ({error})", arena.len())));
            return Some(table);
        }
        table.registered(*len);
    }
    features.push(Feature::on(NAME));
    Some(table)
}
