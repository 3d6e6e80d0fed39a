//! The disk that forgets: a simulated drive for tests of whatever runs on a [`Disk`].
//!
//! A [`Medium`] is the drive itself and outlives its owners; [`Medium::open`] gives a [`SimDisk`], which a store takes by value. Completions come in
//! random order and may be held back. What was written stays forgettable until a flush *submitted after the write's completion* completes: a
//! power cut keeps any subset of it, torn at 512 bytes. Operations fail by plan, flushes may lie, and bits may flip. Everything follows from one seed.
//!
//! It knows nothing of what the bytes mean.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use forebay_types::{Entropy, SeededEntropy};

use crate::{Disk, DiskDone, DiskError, DiskInfo, DiskOp, ReadInto, Shared};

mod fault;
mod pages;

pub use fault::{Fault, OpKind, Reaches};
use pages::Pages;

/// What a power cut leaves whole: the sector of every drive.
const SECTOR_BYTES: usize = 512;

/// The errno of a dead or failing drive (`EIO`).
const EIO: i32 = 5;

/// What a simulated drive is.
#[derive(Debug, Clone, Copy)]
pub struct SimOptions {
    /// Bytes, a multiple of `align`.
    pub len: u64,
    /// As in [`DiskInfo`].
    pub align: usize,
    /// As in [`DiskInfo`].
    pub depth: usize,
    /// Of everything random.
    pub seed: u64,
    /// Complete everything at the first poll, in order of submission.
    pub orderly: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions { len: 64 << 20, align: 4096, depth: 64, seed: 1, orderly: false }
    }
}

/// What has been asked of a drive so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SimCounts {
    /// Reads submitted.
    pub reads: u64,
    /// Writes submitted.
    pub writes: u64,
    /// Flushes submitted.
    pub flushes: u64,
    /// Bytes of the reads.
    pub read_bytes: u64,
    /// Bytes of the writes.
    pub written_bytes: u64,
}

impl SimCounts {
    /// Operations in all.
    pub fn ops(&self) -> u64 {
        self.reads + self.writes + self.flushes
    }
}

/// The drive itself. Cloning the handle shares it; [`Self::clone_image`] copies it.
#[derive(Clone)]
pub struct Medium(Rc<RefCell<State>>);

/// Called with the number of operations submitted so far and a copy of the drive as it is then.
pub type StepHook = Box<dyn FnMut(u64, Medium)>;

struct State {
    options: SimOptions,
    random: SeededEntropy,
    /// What reads see.
    now: Pages,
    /// What survives a power cut for certain.
    durable: Pages,
    /// Completed writes that no flush has covered, in order of completion.
    unflushed: Vec<Unflushed>,
    /// Operations of the present owner, in order of submission.
    in_flight: Vec<InFlight>,
    /// What dead owners had in flight, to be told EIO.
    orphans: Vec<(u64, DiskDone)>,
    /// Completed writes so far; numbers them.
    completed: u64,
    /// Counts openings, crashes and kills: an owner of an older one is dead.
    owner: u64,
    faults: Vec<Fault>,
    held: Vec<OpKind>,
    lying: bool,
    cut_at_op: Option<u64>,
    counts: SimCounts,
    hook: Option<StepHook>,
}

#[derive(Clone)]
struct Unflushed {
    number: u64,
    offset: u64,
    bytes: Rc<[u8]>,
    /// A flush that covered it failed: no later flush saves it.
    lost: bool,
}

struct InFlight {
    token: u64,
    /// It will fail: what it will be told, and what of it reaches the drive.
    fails: Option<(DiskError, Reaches)>,
    op: Op,
}

enum Op {
    Read {
        offset: u64,
        into: ReadInto,
    },
    /// The source is held as the contract says, and its bytes were taken at submission: it cannot change meanwhile.
    Write {
        offset: u64,
        from: Option<Shared>,
        bytes: Rc<[u8]>,
    },
    /// Covers completed writes with a smaller number.
    Flush {
        before: u64,
    },
}

impl Op {
    fn kind(&self) -> OpKind {
        match self {
            Op::Read { .. } => OpKind::Read,
            Op::Write { .. } => OpKind::Write,
            Op::Flush { .. } => OpKind::Flush,
        }
    }

    fn span(&self) -> Range<u64> {
        match self {
            Op::Read { offset, into } => *offset..offset + into.len() as u64,
            Op::Write { offset, bytes, .. } => *offset..offset + bytes.len() as u64,
            Op::Flush { .. } => 0..u64::MAX,
        }
    }
}

impl Medium {
    /// A drive full of zeros.
    pub fn new(options: SimOptions) -> Self {
        assert!(options.align.is_power_of_two() && options.len.is_multiple_of(options.align as u64));
        Medium(Rc::new(RefCell::new(State {
            options,
            random: SeededEntropy::new(options.seed),
            now: Pages::new(options.len),
            durable: Pages::new(options.len),
            unflushed: Vec::new(),
            in_flight: Vec::new(),
            orphans: Vec::new(),
            completed: 0,
            owner: 0,
            faults: Vec::new(),
            held: Vec::new(),
            lying: false,
            cut_at_op: None,
            counts: SimCounts::default(),
            hook: None,
        })))
    }

    /// A new owner. Whoever had it before is dead as if killed: its operations in flight end up on the drive in part or not at all.
    pub fn open(&self) -> SimDisk {
        self.kill();
        let owner = self.0.borrow().owner;
        SimDisk { medium: self.clone(), owner, dead: Vec::new() }
    }

    /// The owner's process dies and the drive keeps its power: completed writes stay, those in flight are done in part or not at all.
    pub fn kill(&self) {
        let mut state = self.0.borrow_mut();
        for (offset, bytes) in state.orphan() {
            let kept = state.tear(offset, &bytes);
            state.complete_writes(kept);
        }
    }

    /// The power goes: any subset of what no flush covered stays, in any combination of 512-byte sectors.
    /// From then on the owner is told EIO, until [`Self::open`].
    pub fn crash(&self, seed: u64) {
        self.0.borrow_mut().crash(seed);
    }

    /// Cuts the power just before the operation with this number (counted from 0 over the drive's life) would start.
    pub fn crash_at_op(&self, op: u64) {
        self.0.borrow_mut().cut_at_op = Some(op);
    }

    /// A copy of the drive with all it could still forget, and what is in flight. It has no owner, no faults and no hook.
    pub fn clone_image(&self) -> Medium {
        let state = self.0.borrow();
        Medium(Rc::new(RefCell::new(state.image())))
    }

    /// Calls `hook` at each submission and each completion of a write or flush, with a copy of the drive: a test crashes and recovers the copy.
    pub fn on_step(&self, hook: StepHook) {
        self.0.borrow_mut().hook = Some(hook);
    }

    /// Removes the hook.
    pub fn no_hook(&self) {
        self.0.borrow_mut().hook = None;
    }

    /// Plans a failure.
    pub fn fault(&self, fault: Fault) {
        self.0.borrow_mut().faults.push(fault);
    }

    /// Forgets all planned failures.
    pub fn no_faults(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// Holds completions of this kind back until [`Self::release`], or until somebody waits and nothing else is left.
    pub fn hold(&self, kind: OpKind) {
        self.0.borrow_mut().held.push(kind);
    }

    /// Lets everything complete again.
    pub fn release(&self) {
        self.0.borrow_mut().held.clear();
    }

    /// From now on flushes say they are done and do nothing.
    pub fn lie(&self, lying: bool) {
        self.0.borrow_mut().lying = lying;
    }

    /// Flips one bit where it lies, on the drive and in its cache.
    pub fn flip(&self, bit: u64) {
        let mut state = self.0.borrow_mut();
        let (byte, mask) = (bit / 8, 1 << (bit % 8));
        for pages in [0, 1] {
            let pages = if pages == 0 { &mut state.now } else { &mut state.durable };
            let mut one = [0];
            pages.read(byte, &mut one);
            pages.write(byte, &[one[0] ^ mask]);
        }
        for write in &mut state.unflushed {
            if let Some(at) = byte.checked_sub(write.offset).filter(|at| *at < write.bytes.len() as u64) {
                let mut bytes = write.bytes.to_vec();
                bytes[at as usize] ^= mask;
                write.bytes = bytes.into();
            }
        }
    }

    /// Reads the drive behind its owner's back.
    pub fn peek(&self, offset: u64, out: &mut [u8]) {
        self.0.borrow().now.read(offset, out);
    }

    /// Writes the drive behind its owner's back, durably.
    pub fn poke(&self, offset: u64, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        state.now.write(offset, bytes);
        state.durable.write(offset, bytes);
    }

    /// What has been asked of it.
    pub fn counts(&self) -> SimCounts {
        self.0.borrow().counts
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.0.borrow().options.len
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Operations of the present owner that are in flight.
    pub fn in_flight(&self) -> usize {
        self.0.borrow().in_flight.len()
    }

    fn step(&self) {
        let Some(mut hook) = self.0.borrow_mut().hook.take() else { return };
        let ops = self.counts().ops();
        hook(ops, self.clone_image());
        self.0.borrow_mut().hook.get_or_insert(hook);
    }
}

impl std::fmt::Debug for Medium {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.borrow();
        write!(f, "Medium({} bytes, {} unflushed, {:?})", state.options.len, state.unflushed.len(), state.counts)
    }
}

impl State {
    fn below(&self, bound: usize) -> usize {
        (self.random.word() % bound.max(1) as u64) as usize
    }

    fn chance(&self, one_in: u64) -> bool {
        self.random.word().is_multiple_of(one_in)
    }

    fn image(&self) -> State {
        State {
            options: self.options,
            random: SeededEntropy::new(self.options.seed ^ self.counts.ops()),
            now: self.now.clone(),
            durable: self.durable.clone(),
            unflushed: self.unflushed.clone(),
            // A copy has no owner to give reads and flushes back to; writes still count, as they may reach the drive.
            in_flight: self
                .in_flight
                .iter()
                .filter_map(|flight| match &flight.op {
                    Op::Write { offset, bytes, .. } => Some(InFlight {
                        token: flight.token,
                        fails: flight.fails,
                        op: Op::Write { offset: *offset, from: None, bytes: bytes.clone() },
                    }),
                    _ => None,
                })
                .collect(),
            orphans: Vec::new(),
            completed: self.completed,
            owner: self.owner,
            faults: Vec::new(),
            held: Vec::new(),
            lying: self.lying,
            cut_at_op: None,
            counts: self.counts,
            hook: None,
        }
    }

    /// The runs of sectors of a write that reach the drive when it is interrupted: none, all, a front part, or any mix.
    fn tear(&self, offset: u64, bytes: &[u8]) -> Vec<(u64, Rc<[u8]>)> {
        let way = self.below(4);
        let front = self.below(bytes.len().div_ceil(SECTOR_BYTES) + 1);
        let mut kept = Vec::new();
        for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let keep = match way {
                0 => false,
                1 => true,
                2 => n < front,
                _ => self.chance(2),
            };
            if keep {
                kept.push((offset + (n * SECTOR_BYTES) as u64, Rc::from(sector)));
            }
        }
        kept
    }

    fn complete_writes(&mut self, writes: Vec<(u64, Rc<[u8]>)>) {
        for (offset, bytes) in writes {
            self.now.write(offset, &bytes);
            self.unflushed.push(Unflushed { number: self.completed, offset, bytes, lost: false });
        }
        self.completed += 1;
    }

    /// Ends the owner: what it had in flight is told EIO, and the writes among it come back, to be kept or not.
    fn orphan(&mut self) -> Vec<(u64, Rc<[u8]>)> {
        let mut writes = Vec::new();
        for InFlight { token, op, .. } in std::mem::take(&mut self.in_flight) {
            let read = match op {
                Op::Read { into, .. } => Some(into),
                Op::Write { offset, bytes, .. } => {
                    writes.push((offset, bytes));
                    None
                }
                Op::Flush { .. } => None,
            };
            self.orphans.push((self.owner, DiskDone { token, result: Err(DiskError::Os(EIO)), read }));
        }
        self.owner += 1;
        writes
    }

    fn crash(&mut self, seed: u64) {
        self.random = SeededEntropy::new(seed);
        let flying = self.orphan();
        let unflushed = std::mem::take(&mut self.unflushed);
        for (offset, bytes) in unflushed.into_iter().map(|w| (w.offset, w.bytes)).chain(flying) {
            for (at, sector) in self.tear(offset, &bytes) {
                self.durable.write(at, &sector);
            }
        }
        self.now = self.durable.clone();
        self.cut_at_op = None;
    }

    /// The planned failure of an operation, if there is one.
    fn planned(&mut self, op: &Op) -> Option<(DiskError, Reaches)> {
        let (kind, span) = (op.kind(), op.span());
        for fault in &mut self.faults {
            let hit = fault.range.as_ref().is_none_or(|range| range.start < span.end && span.start < range.end);
            if fault.on != kind || !hit || fault.times == 0 {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
            return Some((fault.error, fault.reaches));
        }
        None
    }

    /// Ends the operation at `index`.
    fn complete(&mut self, index: usize) -> DiskDone {
        let InFlight { token, fails, op } = self.in_flight.remove(index);
        let read = match op {
            Op::Read { offset, into } => Some(self.fill(offset, into, fails.is_some())),
            Op::Write { offset, bytes, from } => {
                drop(from);
                let kept = match fails.map(|(_, reaches)| reaches) {
                    Some(Reaches::Any) => self.tear(offset, &bytes),
                    Some(Reaches::Nothing) => Vec::new(),
                    Some(Reaches::All) | None => vec![(offset, bytes)],
                };
                self.complete_writes(kept);
                None
            }
            Op::Flush { before } => {
                self.flush(before, fails.is_some());
                None
            }
        };
        DiskDone { token, result: fails.map_or(Ok(()), |(error, _)| Err(error)), read }
    }

    fn fill(&mut self, offset: u64, into: ReadInto, failed: bool) -> ReadInto {
        let mut bytes = vec![0; into.len()];
        if failed {
            self.random.fill(&mut bytes);
        } else {
            self.now.read(offset, &mut bytes);
            // A read beside a write in flight sees any mix of old and new.
            for flight in &self.in_flight {
                let Op::Write { offset: at, bytes: new, .. } = &flight.op else { continue };
                for (at, sector) in self.tear(*at, new) {
                    let (from, to) = (at.max(offset), (at + sector.len() as u64).min(offset + bytes.len() as u64));
                    if from < to {
                        bytes[(from - offset) as usize..(to - offset) as usize]
                            .copy_from_slice(&sector[(from - at) as usize..(to - at) as usize]);
                    }
                }
            }
        }
        match into {
            ReadInto::Buf(mut buf) => {
                buf.copy_from_slice(&bytes);
                ReadInto::Buf(buf)
            }
            ReadInto::Landing(mut landing) => {
                let landed = landing.write_at(0, &bytes);
                assert!(landed.is_ok(), "a landing is mapped and inside its region: {landed:?}");
                ReadInto::Landing(landing)
            }
        }
    }

    fn flush(&mut self, before: u64, failed: bool) {
        if self.lying {
            return;
        }
        let writes = std::mem::take(&mut self.unflushed);
        for mut write in writes {
            if write.number < before && failed {
                // As Linux does after a failed fsync: what it covered counts as clean, and no later flush writes it.
                write.lost = true;
            } else if write.number < before && !write.lost {
                self.durable.write(write.offset, &write.bytes);
                continue;
            }
            self.unflushed.push(write);
        }
    }
}

/// A [`Medium`] as its owner sees it.
#[derive(Debug)]
pub struct SimDisk {
    medium: Medium,
    owner: u64,
    /// Answers to operations submitted after the power went.
    dead: Vec<DiskDone>,
}

impl SimDisk {
    /// The drive.
    pub fn medium(&self) -> &Medium {
        &self.medium
    }

    fn check(&self, offset: u64, len: usize) {
        let info = self.info();
        let align = info.align as u64;
        assert!(offset.is_multiple_of(align) && (len as u64).is_multiple_of(align), "{offset}+{len} is not aligned");
        assert!(
            len > 0 && offset.checked_add(len as u64).is_some_and(|end| end <= info.len),
            "{offset}+{len} is outside"
        );
    }
}

impl Disk for SimDisk {
    fn info(&self) -> DiskInfo {
        let options = self.medium.0.borrow().options;
        DiskInfo { len: options.len, align: options.align, depth: options.depth }
    }

    fn submit(&mut self, op: DiskOp) -> Result<(), DiskOp> {
        if self.in_flight() >= self.info().depth {
            return Err(op);
        }
        match &op {
            DiskOp::Read { offset, into, .. } => {
                if let ReadInto::Landing(landing) = into {
                    assert!(landing.is_aligned(self.info().align), "{landing:?} is not aligned");
                }
                self.check(*offset, into.len());
            }
            DiskOp::Write { offset, part, .. } => self.check(*offset, part.len()),
            DiskOp::Flush { .. } => {}
        }
        let mut state = self.medium.0.borrow_mut();
        if state.cut_at_op == Some(state.counts.ops()) {
            let seed = state.random.word();
            state.crash(seed);
        }
        if state.owner != self.owner {
            let (token, read) = match op {
                DiskOp::Read { token, into, .. } => (token, Some(into)),
                DiskOp::Write { token, .. } | DiskOp::Flush { token } => (token, None),
            };
            self.dead.push(DiskDone { token, result: Err(DiskError::Os(EIO)), read });
            return Ok(());
        }
        let (token, op) = match op {
            DiskOp::Read { token, offset, into } => {
                state.counts.reads += 1;
                state.counts.read_bytes += into.len() as u64;
                (token, Op::Read { offset, into })
            }
            DiskOp::Write { token, offset, from, part } => {
                state.counts.writes += 1;
                state.counts.written_bytes += part.len() as u64;
                let bytes = Rc::from(&from[part]);
                (token, Op::Write { offset, from: Some(from), bytes })
            }
            DiskOp::Flush { token } => {
                state.counts.flushes += 1;
                (token, Op::Flush { before: state.completed })
            }
        };
        let fails = state.planned(&op);
        let changes = op.kind() != OpKind::Read;
        state.in_flight.push(InFlight { token, fails, op });
        drop(state);
        if changes {
            self.medium.step();
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        let state = self.medium.0.borrow();
        let orphans = state.orphans.iter().filter(|(owner, _)| *owner == self.owner).count();
        let alive = if state.owner == self.owner { state.in_flight.len() } else { 0 };
        self.dead.len() + orphans + alive
    }

    fn poll(&mut self, done: &mut Vec<DiskDone>) {
        self.collect(done, false);
    }

    fn wait(&mut self, done: &mut Vec<DiskDone>) {
        let before = done.len();
        self.collect(done, false);
        if done.len() == before && self.in_flight() > 0 {
            self.collect(done, true);
        }
    }
}

impl SimDisk {
    /// Hands over some of what may complete now; at least one operation, held or not, when `at_least_one`.
    fn collect(&mut self, done: &mut Vec<DiskDone>, at_least_one: bool) {
        done.append(&mut self.dead);
        let mut state = self.medium.0.borrow_mut();
        done.extend(state.orphans.extract_if(.., |(owner, _)| *owner == self.owner).map(|(_, orphan)| orphan));
        drop(state);
        loop {
            let mut state = self.medium.0.borrow_mut();
            if state.owner != self.owner {
                return;
            }
            let ripe = |state: &State, kind: OpKind| !state.held.contains(&kind);
            let mut ready: Vec<usize> =
                (0..state.in_flight.len()).filter(|i| ripe(&state, state.in_flight[*i].op.kind())).collect();
            if ready.is_empty() && at_least_one && done.is_empty() {
                ready = (0..state.in_flight.len()).collect();
            }
            if ready.is_empty() {
                return;
            }
            let index = if state.options.orderly { ready[0] } else { ready[state.below(ready.len())] };
            // A disorderly drive stops at some point: what is left comes late.
            let may_stop = !(state.options.orderly || at_least_one && done.is_empty());
            if may_stop && state.chance(3) {
                return;
            }
            let changes = state.in_flight[index].op.kind() != OpKind::Read;
            let ended = state.complete(index);
            drop(state);
            done.push(ended);
            if changes {
                self.medium.step();
            }
        }
    }
}

impl Drop for SimDisk {
    fn drop(&mut self) {
        // Answers nobody will ask for, with the buffers they hold.
        let mut state = self.medium.0.borrow_mut();
        state.orphans.retain(|(owner, _)| *owner != self.owner);
    }
}

#[cfg(test)]
#[path = "sim/tests.rs"]
mod tests;
