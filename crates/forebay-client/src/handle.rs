//! A namespace in use: the verbs of the block path.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forebay_types::limits::{BLOCK_BYTES_MAX, KEYS_PER_MESSAGE_MAX};
use forebay_types::{Clock, Entropy, Key, MissReason, Namespace, PutOutcome, RefusedReason, Reuse, Tier, Version};

use crate::block::{BlockRef, GetResult, IntoError};
use crate::counters::{Counters, PutCounters};
use crate::drive::{Lane, by_owner, drive};
use crate::get::take::{Fill, Keep, Scatter, Visit};
use crate::get::{self, Ask};
use crate::lent::{Land, LentResult, Place};
use crate::matching::{self, Matched};
use crate::mesh::Core;
use crate::options::bounded_deadline;
use crate::plan::{Model, Plan};
use crate::put::{PutBlock, PutCall, PutItemState, PutPart};
use crate::{ClientError, Options, content_key, derive_key, forget, hints};

/// Longest block that room is made for unasked, in bytes. A longer one costs one more question, which is little beside its transfer; room for the
/// longest in a namespace of mixed sizes would leave room for few.
pub(crate) const EXPECTED_BYTES_MAX: usize = 4 << 20;

/// A namespace, opened. Cloning it is cheap; a clone can have a deadline of its own.
#[derive(Clone)]
pub struct NamespaceHandle {
    pub(crate) core: Arc<Core>,
    pub(crate) space: Arc<Space>,
    pub(crate) limits: CallLimits,
}

/// What all handles of one opening share.
pub(crate) struct Space {
    pub(crate) namespace: Namespace,
    /// Length that its blocks probably have.
    pub(crate) expected_bytes: AtomicUsize,
    model: Mutex<Model>,
}

impl Space {
    pub(crate) fn new(namespace: Namespace, options: &Options) -> Self {
        let expected_bytes = AtomicUsize::new(options.block_bytes_hint);
        Space { namespace, expected_bytes, model: Mutex::new(Model::new()) }
    }

    /// What is known of its gets.
    pub(crate) fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Learns from the longest block of a call: at once when it was longer than expected, slowly when it was much shorter.
    pub(crate) fn expect(&self, longest: usize) {
        let expected = self.expected_bytes.load(Ordering::Relaxed);
        let longest = longest.min(EXPECTED_BYTES_MAX);
        if longest > expected || (longest > 0 && longest < expected / 2) {
            let next = if longest > expected { longest } else { longest.midpoint(expected) };
            self.expected_bytes.store(next, Ordering::Relaxed);
        }
    }
}

/// What one call may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallLimits {
    pub(crate) deadline_us: u64,
    pub(crate) in_flight: usize,
    pub(crate) hint: Reuse,
    pub(crate) caller_keeps: bool,
    /// Seconds that puts live; `None`: as the namespace says.
    pub(crate) ttl_s: Option<u32>,
}

impl NamespaceHandle {
    pub(crate) fn new(core: Arc<Core>, space: Arc<Space>) -> Self {
        let (deadline_us, in_flight) = (core.options.deadline.as_micros() as u64, core.options.in_flight);
        let limits = CallLimits { deadline_us, in_flight, hint: Reuse::Unknown, caller_keeps: false, ttl_s: None };
        NamespaceHandle { core, space, limits }
    }

    /// What the catalogue says about it. The secret is in there: do not print it.
    pub fn namespace(&self) -> &Namespace {
        &self.space.namespace
    }

    /// The same namespace with another deadline for each call, at most 60 s.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let mut handle = self.clone();
        handle.limits.deadline_us = bounded_deadline(deadline).as_micros() as u64;
        handle
    }

    /// What the whole client has counted, see [`crate::Client::counters`].
    pub fn counters(&self) -> Counters {
        self.core.cells.read()
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn deadline(&self) -> Duration {
        Duration::from_micros(self.limits.deadline_us)
    }

    /// The same namespace with at most this many items unanswered on one connection.
    #[must_use]
    pub fn with_in_flight(&self, items: usize) -> Self {
        let mut handle = self.clone();
        handle.limits.in_flight = items.clamp(1, KEYS_PER_MESSAGE_MAX);
        handle
    }

    /// The same namespace, whose gets and puts tell the node when their blocks will be used again.
    #[must_use]
    pub fn with_reuse(&self, hint: Reuse) -> Self {
        let mut handle = self.clone();
        handle.limits.hint = hint;
        handle
    }

    /// The same namespace, whose puts say that the caller keeps their blocks in memory of its own. A node of this version lets them leave its DRAM as
    /// soon as they are written, until somebody else asks for them.
    #[must_use]
    pub fn with_caller_keeps(&self, caller_keeps: bool) -> Self {
        let mut handle = self.clone();
        handle.limits.caller_keeps = caller_keeps;
        handle
    }

    /// The same namespace, whose puts expire after this time, at most two seconds late, whatever the namespace says. A block's own
    /// [`PutBlock::expiry_utc_s`] counts before both.
    #[must_use]
    pub fn with_ttl(&self, ttl: Duration) -> Self {
        let mut handle = self.clone();
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        handle.limits.ttl_s = Some(u32::try_from(seconds).unwrap_or(u32::MAX).max(1));
        handle
    }

    /// The key for an engine's own block hash.
    pub fn derive_key(&self, engine_hash: &[u8]) -> Key {
        derive_key(&self.space.namespace.secret, engine_hash)
    }

    /// The key for content itself, as `forebay put` uses it.
    pub fn content_key(&self, content: &[u8]) -> Key {
        content_key(&self.space.namespace.secret, content)
    }

    /// Gets blocks, in the order of the keys. Each hit holds memory of the client until it is dropped.
    pub fn get(&self, keys: &[Key]) -> Vec<GetResult> {
        let asks: Vec<Ask> = keys.iter().map(|key| Ask::whole(*key)).collect();
        self.get_kept(&asks)
    }

    /// Gets ranges of blocks, in bytes from the block's start. What lies behind a block's end is left out, so a result may be shorter than its
    /// range, or empty. What is verified are the pieces of 64 KiB that the range touches.
    pub fn get_ranges(&self, ranges: &[(Key, Range<u64>)]) -> Vec<GetResult> {
        let asks: Vec<Ask> = ranges.iter().map(|(key, range)| Ask::range(*key, range)).collect();
        self.get_kept(&asks)
    }

    fn get_kept(&self, asks: &[Ask]) -> Vec<GetResult> {
        // Half of the region stays free for what is on its way.
        let mut keep = Keep::new(asks.len(), self.core.regions.limit() / 2);
        get::run(&self.space, &self.core, asks, &mut keep, self.limits);
        keep.results()
    }

    /// Gets blocks and shows each to `visit` where it landed, as it comes, with its number among the keys. Nothing is kept, so any number of
    /// blocks passes through little memory. Every key is visited exactly once, on this thread. The time a visit takes is the call's own: while it
    /// lasts nothing else of the call moves.
    pub fn get_each(&self, keys: &[Key], visit: impl FnMut(usize, Result<BlockRef<'_>, MissReason>)) {
        let asks: Vec<Ask> = keys.iter().map(|key| Ask::whole(*key)).collect();
        get::run(&self.space, &self.core, &asks, &mut Visit(visit), self.limits);
    }

    /// Gets blocks into the caller's buffers, one for each key; gives the bytes written to each. What was verified are the bytes in the buffer.
    /// After it returns, nothing writes there any more.
    ///
    /// # Panics
    /// If there are not as many buffers as keys.
    pub fn get_into(&self, keys: &[Key], buffers: &mut [&mut [u8]]) -> Vec<Result<usize, IntoError>> {
        assert_eq!(keys.len(), buffers.len(), "get_into takes one buffer for each key");
        let asks: Vec<Ask> = keys.iter().map(|key| Ask::whole(*key)).collect();
        let results = vec![Err(IntoError::Miss(MissReason::Unavailable)); keys.len()];
        let mut fill = Fill { buffers, results };
        get::run(&self.space, &self.core, &asks, &mut fill, self.limits);
        fill.results
    }

    /// As [`Self::get_into`], with several places for each block, filled one behind the other: an engine's page lies in as many places as it has
    /// tensors, and is one block all the same. Put such a block with [`PutBytes::Scattered`](crate::PutBytes::Scattered).
    ///
    /// # Panics
    /// If there are not as many lists of places as keys.
    pub fn get_scattered(&self, keys: &[Key], places: &mut [Vec<&mut [u8]>]) -> Vec<Result<usize, IntoError>> {
        assert_eq!(keys.len(), places.len(), "get_scattered takes the places of one block for each key");
        let asks: Vec<Ask> = keys.iter().map(|key| Ask::whole(*key)).collect();
        let results = vec![Err(IntoError::Miss(MissReason::Unavailable)); keys.len()];
        let mut scatter = Scatter { places, results };
        get::run(&self.space, &self.core, &asks, &mut scatter, self.limits);
        scatter.results
    }

    /// Gets blocks into places of memory that was lent with [`crate::Client::lend`], one for each key, and gives the places back with their blocks. If
    /// it was lent for direct landings, the drive writes there where it can. A place that may still be written to when the call's time is over,
    /// or when its node is gone, is withheld: the result says so, and [`crate::LentMemory::place`] gives the range again when that is proved to
    /// have ended: with the next call that reaches the node. In no place that was given back does anything write any more.
    pub fn get_lent(&self, asked: Vec<(Key, Place)>) -> Vec<LentResult> {
        let (keys, places): (Vec<Key>, Vec<Place>) = asked.into_iter().unzip();
        let asks: Vec<Ask> = keys.into_iter().map(Ask::whole).collect();
        let mut land = Land::new(places);
        get::run(&self.space, &self.core, &asks, &mut land, self.limits);
        let (results, copied, withheld) = land.results();
        self.core.cells.add(|all| {
            all.lent_copied += copied;
            all.lent_withheld += withheld;
        });
        results
    }

    /// Answers as `get` would, without bytes and without a lease.
    pub fn contains(&self, keys: &[Key]) -> Vec<Result<Tier, MissReason>> {
        matching::contains(&self.space, &self.core, keys, self.limits)
    }

    /// What a get of these keys would take now, for whoever can compute them again instead: asks where they are, as [`Self::contains`] does (and is
    /// counted as that), and expects of each tier what gets of this namespace have taken lately by this client. Visits of
    /// [`Self::get_each`] teach nothing. With a dead node it costs nothing and says that all is missing.
    pub fn plan_fetch(&self, keys: &[Key]) -> Plan {
        let begun_us = self.core.clock.now_us();
        let found = self.contains(keys);
        let look_us = self.core.clock.now_us() - begun_us;
        let block = self.space.expected_bytes.load(Ordering::Relaxed) as u64;
        let mut tier_bytes = [0; Tier::ALL.len()];
        let missing = found.iter().filter(|answer| answer.is_err()).count();
        for tier in found.iter().flatten() {
            tier_bytes[tier.index()] += block;
        }
        self.space.model().plan(tier_bytes, missing, look_us, begun_us + look_us)
    }

    /// What a get of so many bytes by [`Tier`] (`Tier::index`) would take now, without asking anybody: for whoever knows what is where already, from
    /// [`Self::match_prefix`], and weighs several lengths. What that question queued for counts for a second.
    pub fn expect_fetch(&self, tier_bytes: [u64; Tier::ALL.len()]) -> Plan {
        self.space.model().foresee(tier_bytes, self.core.clock.now_us())
    }

    /// Tells what a get took that somebody else made, for this client's plans: engines plan in one process and fetch in others.
    pub fn learn_fetch(&self, tier_bytes: [u64; Tier::ALL.len()], took: Duration) {
        if tier_bytes.iter().any(|bytes| *bytes > 0) {
            self.space.model().learn(&tier_bytes, took.as_micros().min(u128::from(u64::MAX)) as u64);
        }
    }

    /// How many of the first keys are all present, and a lease on them: `None` holds them for 2 s, zero not at all, and 30 s is the most. A get
    /// within the lease finds them unless the node fails or somebody forgets them; `Counters::match_broken` counts where it did not.
    pub fn match_prefix(&self, keys: &[Key], hold: Option<Duration>) -> Matched {
        matching::match_prefix(&self.space, &self.core, keys, hold, self.limits)
    }

    /// Says that blocks were used without being fetched: a hit in GPU memory never reaches the node, and the hottest prompts must not look the
    /// coldest. Keys in the order of their chain, so that heads outlive tails. Nobody answers; what cannot be said within 20 ms is dropped and
    /// counted in `Counters::touch`.
    pub fn touch(&self, keys: &[Key], hint: Reuse) {
        hints::touch(&self.space, &self.core, keys, hint, self.limits);
    }

    /// Asks for blocks to be brought from NVMe to DRAM within `deadline` (60 s at most), while their request still queues. Nobody answers; a get
    /// finds out. What cannot be said within 20 ms is dropped and counted in `Counters::prefetch`.
    pub fn prefetch(&self, keys: &[Key], deadline: Duration) {
        hints::prefetch(&self.space, &self.core, keys, deadline, self.limits);
    }

    /// Puts blocks. The first complete put of a key wins while it is held; a later one is told `exists` before its bytes move.
    pub fn put(&self, blocks: &[(Key, &[u8])]) -> Vec<PutOutcome> {
        self.put_blocks(blocks.iter().map(|(key, bytes)| PutBlock::new(*key, *bytes)).collect())
    }

    /// Puts blocks with what is known about them, from slices or from memory.
    pub fn put_blocks(&self, blocks: Vec<PutBlock<'_>>) -> Vec<PutOutcome> {
        let core = &*self.core;
        let deadline_us = core.clock.now_us() + self.limits.deadline_us;
        let count = blocks.len();
        let longest = blocks.iter().map(|block| block.bytes.len()).max().unwrap_or(0);
        let mut call = PutCall {
            core,
            namespace: self.space.namespace.id,
            window_items: self.limits.in_flight,
            hint: self.limits.hint,
            caller_keeps: self.limits.caller_keeps,
            outcomes: vec![None; count],
            moved: Some(Vec::new()),
            counts: PutCounters { asked: count as u64, ..PutCounters::default() },
            bytes: 0,
            no_room: 0,
        };
        let mut versions = vec![0; 8 * count];
        core.entropy.fill(&mut versions);
        let ttl_s = self.limits.ttl_s.or(self.space.namespace.ttl_s);
        // The clock is read in whole seconds, and what was promised a second may not live for the rest of one only.
        let expiry = ttl_s.map_or(0, |ttl_s| core.clock.utc_s() + u64::from(ttl_s) + 1);
        let items = blocks.into_iter().zip(versions.chunks_exact(8)).enumerate().map(|(index, (block, version))| {
            let version = Version(u64::from_le_bytes(std::array::from_fn(|i| version[i])));
            PutItemState::new(index as u32, block.or_expires(expiry), self.space.namespace.id, version)
        });
        put_round(&mut call, items.collect(), deadline_us);
        let moved = call.moved.take().unwrap_or_default();
        let asked_anew = moved.len() as u64;
        if !moved.is_empty() {
            core.stale.store(true, Ordering::Relaxed);
            put_round(&mut call, moved, deadline_us);
        }
        self.space.expect(longest);
        core.cells.add(|all| {
            all.put.add(&call.counts);
            all.put_bytes += call.bytes;
            all.no_room += call.no_room;
            all.moved += asked_anew;
        });
        let unanswered = PutOutcome::Refused(RefusedReason::Unavailable);
        call.outcomes.into_iter().map(|outcome| outcome.unwrap_or(unanswered)).collect()
    }

    /// Puts named parts as one block under one version: all or none. Each name has 1 to 16 bytes; there are 1 to 64 parts.
    pub fn put_group(&self, key: Key, parts: &[(&str, &[u8])]) -> Result<PutOutcome, ClientError> {
        if parts.is_empty() {
            return Err(ClientError::Invalid("a group has at least one part".into()));
        }
        let mut ranges = Vec::with_capacity(parts.len());
        let mut end = 0;
        for (name, bytes) in parts {
            ranges.push((*name, end..end + bytes.len() as u64));
            end += bytes.len() as u64;
        }
        if end > BLOCK_BYTES_MAX {
            self.core.cells.add(|all| {
                all.put.asked += 1;
                all.put.outcome(PutOutcome::Refused(RefusedReason::TooLarge));
            });
            return Ok(PutOutcome::Refused(RefusedReason::TooLarge));
        }
        let block = match self.core.regions.alloc(end.max(1) as usize) {
            Some((_, mut slice)) if end > 0 => {
                let mut at = 0;
                for (_, bytes) in parts {
                    slice[at..at + bytes.len()].copy_from_slice(bytes);
                    at += bytes.len();
                }
                PutBlock::new(key, slice)
            }
            _ => PutBlock::new(key, parts.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect::<Vec<u8>>()),
        };
        let outcomes = self.put_blocks(vec![block.parts(&ranges)?]);
        Ok(outcomes.first().copied().unwrap_or(PutOutcome::Refused(RefusedReason::Unavailable)))
    }

    /// Forgets keys, durably: true for each that was here. A forgotten block is never served again. When a connection broke in the middle, a key
    /// that was forgotten before it did answers false. On an error some may be forgotten; asking again is safe.
    pub fn forget(&self, keys: &[Key]) -> Result<Vec<bool>, ClientError> {
        forget::run(&self.space, &self.core, keys, self.limits)
    }
}

fn put_round<'b>(call: &mut PutCall<'_, 'b>, items: Vec<PutItemState<'b>>, deadline_us: u64) {
    let table = call.core.table(deadline_us);
    let (owned, orphans) = by_owner(&table, 0..items.len() as u32, |at| items[at as usize].place());
    let mut items: Vec<Option<PutItemState<'b>>> = items.into_iter().map(Some).collect();
    for at in orphans {
        if let Some(item) = items[at as usize].take() {
            call.outcome(item.index, 0, PutOutcome::Refused(RefusedReason::Unavailable));
        }
    }
    let mut lanes: Vec<_> = owned
        .into_iter()
        .map(|(shard, mine)| {
            let mine = mine.into_iter().filter_map(|at| items[at as usize].take()).collect();
            Lane::new(shard, PutPart::new(mine))
        })
        .collect();
    drive(call.core, table.epoch, &mut lanes, call, deadline_us);
}

impl std::fmt::Debug for NamespaceHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NamespaceHandle").field("name", &self.space.namespace.name).finish_non_exhaustive()
    }
}
