//! The store itself: what it holds, and the turn that drives it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use forebay_format::SegmentKind;
use forebay_io::{Arena, Buf, Disk, DiskDone, DiskError, ReadInto, Shared};
use forebay_tokenomics::{Lru, Policy, Reckoning, Reuse, Turn};
use forebay_types::{Entropy, Key, Millis, PutOutcome, RefusedReason, ShardId};

use crate::budget::Budget;
use crate::clock::ExpiryClock;
use crate::curve::Live;
use crate::dram::Dram;
use crate::evict::{Cleaning, Moves};
use crate::expiry::Sweep;
use crate::face::Event;
use crate::flush::{Action, Flusher};
use crate::gather::{Buffers, Gathered};
use crate::get::ReadOp;
use crate::ghost::Ghosts;
use crate::hints::{Ahead, Fetching};
use crate::index::{Entry, Index, Place};
use crate::lanes::{Lane, Lanes};
use crate::leases::Leases;
use crate::mutant::Mutant;
use crate::namespaces::Namespaces;
use crate::price::{Market, Prices};
use crate::put::Awaited;
use crate::range::RangeGet;
use crate::scrub::Scrub;
use crate::segments::{Geometry, SPARE_SEGMENTS, Segments};
use crate::slab::Slab;
use crate::stats::StoreStats;
use crate::sums::Sums;
use crate::verify::VerifyJob;
use crate::write::OpenSegment;

/// How a store behaves.
pub struct StoreConfig {
    /// What ranks blocks.
    pub policy: Box<dyn Policy>,
    /// By which admission reckons what a write costs and saves.
    pub prices: Prices,
    /// By which book blocks' seconds are reckoned.
    pub reckoning: Reckoning,
    /// Most bytes of everything that grows with blocks; past it, blocks of the cache are evicted.
    pub index_bytes_max: usize,
    /// Most bytes of what half and twice the room would find, see [`StoreStats::curve_asked`].
    pub curve_bytes_max: usize,
    /// A guard to leave out, for tests that show that it matters.
    #[cfg(feature = "mutants")]
    pub mutant: Option<Mutant>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig {
            policy: Box::new(Lru::new()),
            prices: Prices::default(),
            reckoning: Reckoning::default(),
            index_bytes_max: 64 << 20,
            curve_bytes_max: 1 << 20,
            #[cfg(feature = "mutants")]
            mutant: None,
        }
    }
}

/// Requests between two looks at how many blocks fit.
const SIZED_EVERY: u32 = 256;

/// A request's place in the order of uses, shared by its keys. See [`Store::begin_batch`].
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub(crate) turn: Turn,
    epoch: u32,
    pub(crate) hint: Reuse,
    pub(crate) caller_keeps: bool,
}

impl Batch {
    /// The same, with what the caller knows about when its blocks will be used again.
    #[must_use]
    pub fn hinted(self, hint: Reuse) -> Self {
        Batch { hint, ..self }
    }

    /// The same, of puts whose caller keeps the blocks in memory of its own: once written they leave DRAM, until somebody else asks for them.
    #[must_use]
    pub fn kept_by_caller(self, caller_keeps: bool) -> Self {
        Batch { caller_keeps, ..self }
    }
}

/// What an operation in flight is for.
pub(crate) enum Op {
    Read(ReadOp),
    RangePieces(u64),
    RangeTrailer(u64),
    Suspect { ns: u16, key: Key, place: Place },
    Prefetch(Fetching),
    Scrub,
    Records { segment: u16, records: Vec<Gathered>, gathered: Option<Shared> },
    Footer { segment: u16 },
    Table,
    Flush,
    VictimFooter,
    VictimRecord { item: usize },
}

/// One shard on one slice of a drive.
pub struct Store<D: Disk> {
    pub(crate) disk: D,
    pub(crate) arena: Arena,
    pub(crate) shard: ShardId,
    pub(crate) geometry: Geometry,
    pub(crate) policy: Box<dyn Policy>,
    pub(crate) rebases: u32,
    pub(crate) sums: Sums,
    pub(crate) live: Live,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) utc_s: u64,
    pub(crate) index: Index,
    pub(crate) dram: Dram,
    pub(crate) ghosts: Ghosts,
    /// What expired lately.
    pub(crate) expired: Ghosts,
    pub(crate) clock: ExpiryClock,
    pub(crate) sweep: Option<Sweep>,
    pub(crate) leases: Leases,
    pub(crate) namespaces: Namespaces,
    pub(crate) segments: Segments,
    pub(crate) lanes: Lanes,
    pub(crate) ops: Slab<Op>,
    pub(crate) ranges: Slab<RangeGet>,
    pub(crate) verifies: VecDeque<VerifyJob>,
    pub(crate) ahead: Ahead,
    pub(crate) scrub: Scrub,
    pub(crate) budget: Budget,
    /// What writing costs now.
    pub(crate) market: Market,
    /// What admission refused or was touched in vain, and which blocks have been put: what comes again, or behind them, is likely to be used.
    pub(crate) seen: Ghosts,
    /// Segments being written or sealed.
    pub(crate) writing: Vec<OpenSegment>,
    /// For writes that gather several records.
    pub(crate) gathering_buffers: Buffers,
    pub(crate) flusher: Flusher,
    pub(crate) cleaning: Option<Cleaning>,
    pub(crate) moves: Moves,
    /// Names of puts between reservation and commit; slots let go of theirs when they are dropped.
    pub(crate) claims: Rc<RefCell<BTreeSet<(u16, Key)>>>,
    /// Bytes of the arena that slots and unfinished writes of puts hold.
    pub(crate) put_bytes: Rc<RefCell<usize>>,
    /// Who waits for room in it.
    pub(crate) awaited: VecDeque<Awaited>,
    /// Durable puts that are not durable yet: number, and who else waits for them.
    pub(crate) undurable: BTreeMap<(u16, Key), (u64, Vec<u64>)>,
    /// Forgets under way: the caller's token, records to go, whether all is well.
    pub(crate) forgets: Slab<(u64, usize, bool)>,
    /// Tombstones that found no place yet.
    pub(crate) tombstones_waiting: VecDeque<(u64, Vec<forebay_format::Tombstone>)>,
    /// Most entries of one open segment's footer to be.
    pub(crate) entries_max: usize,
    /// Next number of a segment's opening, a put or a forget.
    pub(crate) next: u64,
    pub(crate) shed_cursor: usize,
    /// Requests begun; the policy is told what fits every so often.
    pub(crate) batches: u32,
    pub(crate) write_failed: bool,
    pub(crate) closing: bool,
    pub(crate) events: Vec<Event>,
    pub(crate) counted: StoreStats,
    #[cfg(feature = "mutants")]
    pub(crate) mutant: Option<Mutant>,
}

impl<D: Disk> Store<D> {
    /// Its uuid.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Largest block it takes, in bytes.
    pub fn block_bytes_max(&self) -> u64 {
        self.geometry.layout.block_bytes_max()
    }

    /// Alignment of direct landings, in bytes.
    pub fn align(&self) -> usize {
        self.geometry.align
    }

    /// The disk, for waiting on it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Takes `len` bytes of the arena, evicting from DRAM for them. `None`: everything is in use, the caller is busy.
    pub fn alloc(&mut self, len: usize) -> Option<Buf> {
        self.dram.alloc(&self.arena, len)
    }

    /// Begins a request of `items` keys. All its gets and puts carry what this returns, each with its place in the request.
    pub fn begin_batch(&mut self, items: u32) -> Batch {
        if let Some(less) = self.policy.rebase() {
            self.rebase(less);
        }
        self.batches = self.batches.wrapping_add(1);
        if self.batches % SIZED_EVERY == 1 {
            self.tell_what_fits();
        }
        Batch { turn: self.policy.begin(items), epoch: self.rebases, hint: Reuse::Unknown, caller_keeps: false }
    }

    /// The turn of a batch, a fresh one if ranks have been rebased since it began.
    pub(crate) fn turn_of(&mut self, batch: Batch) -> Turn {
        if batch.epoch == self.rebases { batch.turn } else { self.policy.begin(1) }
    }

    /// Once in three thousand million keys: a pass over the whole index, the one step of the loop that takes milliseconds.
    fn rebase(&mut self, less: u32) {
        self.rebases += 1;
        self.sums = Sums::default();
        for segment in self.segments.iter_mut() {
            segment.worth = 0;
        }
        for table in 0..self.index.tables() {
            for entry in self.index.table_mut(table) {
                entry.rank = self.policy.rebased(entry.rank, less);
                let (place, value) = (entry.place(), self.policy.value(entry.rank, entry.ns));
                self.segments.get_mut(place.segment).worth +=
                    u64::from(place.units()) * u64::from(self.sums.order.count(value));
            }
        }
        self.dram.rebase(less);
    }

    /// Collects completions, submits queued I/O by lane, cleans in bounded steps. True: there is more to do right now.
    pub fn turn(&mut self, now: Millis, events: &mut Vec<Event>) -> bool {
        self.lanes.set_now(now);
        self.policy.passes(now);
        let mut done = Vec::new();
        self.disk.poll(&mut done);
        let mut more = !done.is_empty();
        for one in done {
            self.complete(now, one);
        }
        more |= self.step(now);
        self.pump();
        events.append(&mut self.events);
        more
    }

    /// Hands the drive at once what was asked for since the last turn, as far as its lanes let it go.
    pub fn hurry(&mut self) {
        self.pump();
        self.disk.begin();
    }

    /// Draws the next number of a segment's opening, a put or a forget.
    pub(crate) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Bounded steps of everything that is not a completion.
    pub(crate) fn step(&mut self, now: Millis) -> bool {
        let written = self.counted.put_bytes + self.counted.reappend_bytes + self.counted.meta_bytes;
        self.budget.look(now, written);
        self.market.look(now, written);
        let mut more = self.verify_step(now);
        more |= self.end_leases(now);
        self.note_dram_left();
        more |= self.purge_step();
        more |= self.prefetch_step(now);
        more |= self.expire_step(now);
        more |= self.scrub_step(now);
        more |= self.sum_step();
        if !self.write_failed {
            self.tombstones_step();
            more |= self.clean_step();
            more |= self.seal_step();
            self.save_table(now);
            self.flush_step();
        }
        more
    }

    fn complete(&mut self, now: Millis, done: DiskDone) {
        let Some(done) = self.lanes.ended(done) else { return };
        let Some(op) = self.ops.remove(done.token) else { return };
        let DiskDone { result, read, .. } = done;
        match op {
            Op::Read(op) => self.read_done(now, op, result, read),
            Op::RangePieces(range) => self.range_done(now, range, true, result, read),
            Op::RangeTrailer(range) => self.range_done(now, range, false, result, read),
            Op::Suspect { ns, key, place } => self.suspect_done(ns, key, place, result, read),
            Op::Prefetch(fetching) => self.prefetch_read(fetching, result, read),
            Op::Scrub => self.scrub_done(result, read),
            Op::Records { segment, records, gathered } => self.records_done(segment, records, gathered, result),
            Op::Footer { segment } => self.footer_done(segment, result),
            Op::Table => match result {
                Ok(()) => {
                    let tokens = self.namespaces.unsaved_taken();
                    self.flusher.add(Action::TableSaved(tokens), true);
                }
                Err(error) => self.fail_writes(error),
            },
            Op::Flush => self.flush_done(result),
            Op::VictimFooter => self.victim_footer_done(result, read),
            Op::VictimRecord { item } => self.victim_record_done(item, result, read),
        }
    }

    /// Writes the table of namespaces when it has changed, or the time in it is due. One at a time; callers that come meanwhile wait for the next.
    fn save_table(&mut self, now: Millis) {
        if self.namespaces.saving
            || (self.namespaces.unsaved.is_empty() && !self.clock.is_due(now) && !self.budget.is_due())
        {
            return;
        }
        self.namespaces.sequence += 1;
        let encoded = match self.namespaces.table(self.clock.begin_mark(), self.budget.begin_mark(self.utc_s)).encode()
        {
            Ok(bytes) => bytes,
            Err(_) => {
                let tokens = std::mem::take(&mut self.namespaces.unsaved);
                self.events.extend(tokens.into_iter().map(|token| Event::NamespaceSaved { token, ok: false }));
                return;
            }
        };
        let Some(mut buf) = self.dram.alloc(&self.arena, encoded.len()) else {
            self.budget.mark_again();
            return self.clock.mark_again();
        };
        buf.copy_from_slice(&encoded);
        self.namespaces.begin_save();
        let offset = self.geometry.layout.namespace_table_at(self.namespaces.sequence);
        self.counted.meta_bytes += encoded.len() as u64;
        self.write(Lane::Put, Op::Table, offset, buf.freeze());
    }

    /// One table of the index for the namespace on its way out.
    fn purge_step(&mut self) -> bool {
        if self.namespaces.purge.is_none() {
            self.namespaces.purge = self.namespaces.next_to_purge().map(|at| (at, 0));
        }
        let Some((at, table)) = self.namespaces.purge else { return false };
        if table == self.index.tables() {
            self.namespaces.purge = None;
            // Puts of it that were reserved before hold its short number until they are committed and refused.
            if !self.claims.borrow().iter().any(|(ns, _)| *ns == at) {
                self.namespaces.vacate(at);
            }
            return true;
        }
        let keys: Vec<Key> = self.index.table(table).filter(|e| e.ns == at).map(|e| e.key).collect();
        for key in keys {
            self.drop_entry(at, &key);
        }
        self.namespaces.purge = Some((at, table + 1));
        true
    }

    /// Takes a block out of everything but the drive.
    pub(crate) fn drop_entry(&mut self, ns: u16, key: &Key) -> Option<Entry> {
        let entry = self.index.remove(ns, key)?;
        let place = entry.place();
        self.remove_live(ns, key, place, entry.rank);
        self.namespaces.remove_block(ns, self.geometry.bytes(place.units()), place.length(self.geometry.align));
        self.dram.remove(ns, key);
        if entry.is_leased() {
            self.lease_ended(place);
        }
        Some(entry)
    }

    /// Drops a block for room, and remembers that it did.
    pub(crate) fn evict_entry(&mut self, ns: u16, key: &Key) -> u64 {
        let Some(entry) = self.drop_entry(ns, key) else { return 0 };
        if !self.mutant(Mutant::GhostsForgotten) {
            self.ghosts.insert(self.index.seed().hash(ns, key), self.index.len());
        }
        self.counted.evicted += 1;
        self.geometry.bytes(entry.place().units())
    }

    /// Drops a block whose record is bad, if it still lies at `place`.
    pub(crate) fn drop_bad(&mut self, ns: u16, key: &Key, place: Place) {
        self.counted.corrupt += 1;
        if self.index.find(ns, key).is_some_and(|e| e.place() == place) {
            self.drop_entry(ns, key);
        }
    }

    pub(crate) fn read(&mut self, lane: Lane, op: Op, offset: u64, into: ReadInto) {
        let token = self.ops.insert(op);
        let whole = lane == Lane::LargeGet && self.mutant(Mutant::LargeReadsWhole);
        let lane = if whole { Lane::SmallGet } else { lane };
        self.lanes.read(lane, token, offset, into);
    }

    pub(crate) fn write(&mut self, lane: Lane, op: Op, offset: u64, from: Shared) {
        let token = self.ops.insert(op);
        self.lanes.write(lane, token, offset, from);
    }

    /// The drive takes no more writes: everything that waits for one is told so. What is held can still be read.
    pub(crate) fn fail_writes(&mut self, _error: DiskError) {
        self.write_failed = true;
        let mut actions = self.flusher.take_all();
        for open in &mut self.writing {
            actions.extend(open.take_actions());
        }
        for action in actions {
            self.act(action, false);
        }
        for (group, _) in std::mem::take(&mut self.tombstones_waiting) {
            self.forgotten(group, false);
        }
        let tokens = self.namespaces.unsaved_taken().into_iter().chain(std::mem::take(&mut self.namespaces.unsaved));
        self.events.extend(tokens.map(|token| Event::NamespaceSaved { token, ok: false }));
        for (_, (_, waiting)) in std::mem::take(&mut self.undurable) {
            let outcome = PutOutcome::Refused(RefusedReason::Unavailable);
            self.events.extend(waiting.into_iter().map(|token| Event::Put { token, outcome }));
        }
    }

    /// True when this guard is left out.
    #[cfg(feature = "mutants")]
    pub(crate) fn mutant(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// True when this guard is left out.
    #[cfg(not(feature = "mutants"))]
    pub(crate) fn mutant(&self, _mutant: Mutant) -> bool {
        false
    }

    /// Seals what is open: the next records open other segments. For whoever wants a drive's segments filled a little each.
    pub fn seal_open(&mut self) {
        for kind in [SegmentKind::Cache, SegmentKind::Durable, SegmentKind::Reappend] {
            self.seal(kind);
        }
    }

    /// Seals, flushes and waits. Nothing depends on it: the next start is the one after a crash either way.
    pub fn close(&mut self, now: Millis) {
        self.closing = true;
        self.drop_prefetches();
        self.clock.hurry();
        self.seal_open();
        let mut flushed = false;
        // Ends: nothing new is begun, and every step either completes an operation or has nothing left to wait for.
        loop {
            let mut done = Vec::new();
            self.pump();
            if self.disk.in_flight() > 0 {
                self.disk.wait(&mut done);
            }
            let idle = done.is_empty();
            for one in done {
                self.complete(now, one);
            }
            let more = self.step(now);
            if idle && !more && !self.has_gathered() && self.lanes.is_empty() && self.disk.in_flight() == 0 {
                if flushed || self.write_failed {
                    break;
                }
                // Once more for the footers themselves.
                flushed = true;
                self.flusher.demand();
            }
        }
    }

    /// Plain numbers.
    pub fn stats(&self) -> StoreStats {
        let (live_bytes, durable_bytes) = self.namespaces.bytes();
        let (curve_asked, curve_found_ppm) = self.live.told(self.blocks_that_fit());
        StoreStats {
            curve_asked,
            curve_found_ppm,
            curve_bytes: self.live.memory_bytes() as u64,
            policy_bytes: self.policy.memory_bytes() as u64,
            policy_gives_way: self.policy.gives_way(),
            blocks: self.index.len() as u64,
            live_bytes,
            durable_bytes,
            segments: self.segments.len() as u64,
            segment_bytes: self.geometry.layout.segment_bytes,
            segments_free: self.segments.free_len() as u64,
            usable_bytes: (self.segments.len().saturating_sub(SPARE_SEGMENTS)) as u64
                * self.geometry.bytes(self.geometry.segment_units - self.geometry.header_units),
            dram_blocks: self.dram.len() as u64,
            dram_bytes: self.dram.bytes() as u64,
            dram_duplicate_bytes: self.dram.duplicate_bytes() as u64,
            arena_bytes: self.arena.len() as u64,
            arena_free_bytes: self.arena.free_bytes() as u64,
            index_bytes: (self.index.bytes()
                + self.index.growing_bytes()
                + self.ghosts.bytes()
                + self.expired.bytes()
                + self.seen.bytes()
                + self.leases.memory()) as u64,
            write_day_bytes: self.budget.day_bytes(),
            write_budget_bytes: self.budget.left_bytes(),
            write_debt_bytes: self.budget.debt_bytes(),
            dram_overhead_bytes: self.dram.overhead_bytes() as u64,
            footer_bytes: self.writing.iter().map(OpenSegment::entries_bytes).sum::<usize>() as u64,
            leased_bytes: self.leases.bytes(),
            scrub_looked_at: self.scrub_looked_at(),
            segments_damaged: self.segments.iter().filter(|(_, s)| s.damaged).count() as u64,
            write_failed: self.write_failed,
            dram_evicted: self.dram.evicted,
            clock_apart_s: self.clock.apart_s(),
            ..self.counted.clone()
        }
    }
}
