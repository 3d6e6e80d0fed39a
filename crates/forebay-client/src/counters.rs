//! What a client counts. Every key asked for is counted once, whatever the retries, so that the numbers of a verb add up.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay_types::{LandingKind, MissReason, PutOutcome, RefusedReason, Tier};

const TIERS: usize = Tier::ALL.len();
const MISSES: usize = MissReason::ALL.len();
const REFUSALS: usize = RefusedReason::ALL.len();
const LANDINGS: usize = LandingKind::ALL.len();

/// Keys of one of the verbs that look: get, contains, match. `asked = hits + misses + not_asked`, see [`GetCounters::adds_up`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GetCounters {
    /// Keys in calls.
    pub asked: u64,
    /// Hits by [`Tier`] (`Tier::index`), from a node on this machine (over its Unix socket).
    pub hits_local: [u64; TIERS],
    /// Hits by [`Tier`], over TCP.
    pub hits_remote: [u64; TIERS],
    /// Misses by [`MissReason`] (`MissReason::index`).
    pub misses: [u64; MISSES],
    /// Keys behind the first gap of a match.
    pub not_asked: u64,
}

impl GetCounters {
    /// Hits in all.
    pub fn hits(&self) -> u64 {
        self.hits_local.iter().chain(&self.hits_remote).sum()
    }

    /// Misses of one reason.
    pub fn missed(&self, reason: MissReason) -> u64 {
        self.misses[reason.index()]
    }

    /// The identity that always holds.
    pub fn adds_up(&self) -> bool {
        self.asked == self.hits() + self.misses.iter().sum::<u64>() + self.not_asked
    }

    pub(crate) fn hit(&mut self, tier: Tier, local: bool) {
        let hits = if local { &mut self.hits_local } else { &mut self.hits_remote };
        hits[tier.index()] += 1;
    }

    pub(crate) fn miss(&mut self, reason: MissReason) {
        self.misses[reason.index()] += 1;
    }
}

/// Keys of puts. `asked = cached + durable + exists + refused`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PutCounters {
    /// Keys in calls.
    pub asked: u64,
    /// Answered `cached`.
    pub cached: u64,
    /// Answered `durable`.
    pub durable: u64,
    /// Answered `exists`.
    pub exists: u64,
    /// Refused, by [`RefusedReason`] (`RefusedReason::index`).
    pub refused: [u64; REFUSALS],
}

impl PutCounters {
    /// The identity that always holds.
    pub fn adds_up(&self) -> bool {
        self.asked == self.cached + self.durable + self.exists + self.refused.iter().sum::<u64>()
    }

    pub(crate) fn outcome(&mut self, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Cached => self.cached += 1,
            PutOutcome::Durable => self.durable += 1,
            PutOutcome::Exists => self.exists += 1,
            PutOutcome::Refused(reason) => self.refused[reason.index()] += 1,
        }
    }
}

/// Keys of hints, which nobody answers. `asked = sent + dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HintCounters {
    /// Keys in calls.
    pub asked: u64,
    /// Keys that a socket has taken.
    pub sent: u64,
    /// Keys not said: the node was not there or did not take them soon, or is of a build that does not act upon hints.
    pub dropped: u64,
}

impl HintCounters {
    /// The identity that always holds.
    pub fn adds_up(&self) -> bool {
        self.asked == self.sent + self.dropped
    }

    pub(crate) fn add(&mut self, other: &HintCounters) {
        self.asked += other.asked;
        self.sent += other.sent;
        self.dropped += other.dropped;
    }
}

/// Everything a client has counted since it was made, all its clones and handles together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// `get`, `get_ranges`, `get_each`, `get_into`.
    pub get: GetCounters,
    /// `contains`.
    pub contains: GetCounters,
    /// `match_prefix`.
    pub matched: GetCounters,
    /// `put`, `put_blocks`, `put_group`.
    pub put: PutCounters,
    /// `touch`.
    pub touch: HintCounters,
    /// `prefetch`.
    pub prefetch: HintCounters,
    /// Payload bytes of hits.
    pub get_bytes: u64,
    /// Payload bytes of puts that were kept.
    pub put_bytes: u64,
    /// Hits by [`LandingKind`] (`LandingKind::index`).
    pub landings: [u64; LANDINGS],
    /// Of these, hits that came straight into memory the caller has lent ([`crate::NamespaceHandle::get_lent`]).
    pub lent_landings: [u64; LANDINGS],
    /// Hits that came into memory of the client's own and were copied to lent memory.
    pub lent_copied: u64,
    /// Places of lent memory that were withheld at the end of their call.
    pub lent_withheld: u64,
    /// Places that are free again because their shard was found to have started anew, or to have let go of them after a connection broke. The others
    /// come back by the node's word.
    pub lent_freed: u64,
    /// Blocks whose bytes did not match what they claimed to be. Each is a miss, and was told to the node.
    pub corrupt: u64,
    /// Keys asked of another shard within the same call, because the table of members was out of date.
    pub moved: u64,
    /// Gets that missed what an unexpired lease of a match had promised.
    pub match_broken: u64,
    /// Connections that broke.
    pub broken: u64,
    /// Connections made after the first to a shard broke.
    pub reconnects: u64,
    /// Times a shard was found to be served by a node that has restarted since.
    pub restarts: u64,
    /// Attempts of calls to connect to a shard. While a shard is taken for dead no call makes any.
    pub attempts: u64,
    /// Times a shard was taken for dead: it could not be reached, or said nothing.
    pub breaker_opened: u64,
    /// Times a dead shard was looked for, about every 250 ms each.
    pub probes: u64,
    /// Gets asked again with more room, because a block was longer than expected.
    pub grown: u64,
    /// Blocks received through the socket because the region had no room.
    pub no_room: u64,
    /// Slices that a node might still write into, kept aside until it says that it does not.
    pub lost_landings: u64,
}

/// The same, shared by threads. Each cell is one counter; a call adds its sums once, at its end.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    sums: std::sync::Mutex<Counters>,
    pub(crate) broken: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) attempts: AtomicU64,
    pub(crate) breaker_opened: AtomicU64,
    pub(crate) probes: AtomicU64,
    pub(crate) lost_landings: AtomicU64,
    pub(crate) lent_freed: AtomicU64,
}

impl Cells {
    /// Adds what one call counted. One lock a call, not one a key, keeps the identity true at every moment it is read.
    pub(crate) fn add(&self, call: impl FnOnce(&mut Counters)) {
        call(&mut self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }

    pub(crate) fn read(&self) -> Counters {
        let mut all = self.sums.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        all.broken = self.broken.load(Ordering::Relaxed);
        all.reconnects = self.reconnects.load(Ordering::Relaxed);
        all.restarts = self.restarts.load(Ordering::Relaxed);
        all.attempts = self.attempts.load(Ordering::Relaxed);
        all.breaker_opened = self.breaker_opened.load(Ordering::Relaxed);
        all.probes = self.probes.load(Ordering::Relaxed);
        all.lent_freed = self.lent_freed.load(Ordering::Relaxed);
        all.lost_landings = self.lost_landings.load(Ordering::Relaxed);
        all
    }
}

impl GetCounters {
    pub(crate) fn add(&mut self, other: &GetCounters) {
        self.asked += other.asked;
        add(&mut self.hits_local, &other.hits_local);
        add(&mut self.hits_remote, &other.hits_remote);
        add(&mut self.misses, &other.misses);
        self.not_asked += other.not_asked;
    }
}

impl PutCounters {
    pub(crate) fn add(&mut self, other: &PutCounters) {
        self.asked += other.asked;
        self.cached += other.cached;
        self.durable += other.durable;
        self.exists += other.exists;
        add(&mut self.refused, &other.refused);
    }
}

pub(crate) fn add<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
