//! What a shard counts. One thread writes, any may read: plain relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering};

use forebay_types::{LandingKind, MissReason, PutOutcome, RefusedReason, Tier};
use forebay_wire::{ErrorCode, WireError};

use crate::latency::Latency;

/// A counter, or a gauge when it is `set`.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        // Relaxed: nothing is published through a counter; readers want a recent number.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn max(&self, n: u64) {
        if n > self.get() {
            self.0.fetch_max(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Keys asked for and what became of them: `asked = hits + misses + not_asked + too_small + in progress`.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) asked: Count,
    pub(crate) hits: [Count; 2],
    pub(crate) misses: [Count; 10],
    /// Match: behind the first gap.
    pub(crate) not_asked: Count,
    /// Get: the slice was too small; the client asks again.
    pub(crate) too_small: Count,
}

impl Asked {
    pub(crate) fn hit(&self, tier: Tier) {
        self.hits[tier.index()].add(1);
    }

    pub(crate) fn miss(&self, reason: MissReason) {
        self.misses[reason.index()].add(1);
    }
}

/// One shard's counters, or the control thread's (only connections and errors).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) get: Asked,
    pub(crate) matched: Asked,
    pub(crate) contains: Asked,
    /// Keys said to be used; nobody hears what became of them but the counters.
    pub(crate) touch: Asked,
    /// Keys wanted in DRAM: there already (`dram`), brought there (`nvme`), or why not.
    pub(crate) prefetch: Asked,
    pub(crate) put_asked: Count,
    pub(crate) put_cached: Count,
    pub(crate) put_durable: Count,
    pub(crate) put_exists: Count,
    pub(crate) put_refused: [Count; 8],
    /// Puts whose bytes did not match their sums when they arrived.
    pub(crate) put_sum_mismatch: Count,
    pub(crate) forget_asked: Count,
    pub(crate) forgotten: Count,
    /// Payload to clients, and from them.
    pub(crate) bytes_out: Count,
    pub(crate) bytes_in: Count,
    pub(crate) landing: [Count; 3],
    /// Of those, what came into memory that clients have lent.
    pub(crate) landing_lent: [Count; 3],
    /// Blocks that clients said did not verify.
    pub(crate) corrupt_reports: Count,
    pub(crate) leases_granted: Count,
    pub(crate) leases_refused: Count,
    pub(crate) turns: Count,
    pub(crate) turn_us_max: Count,
    pub(crate) connections: Count,
    pub(crate) accepted: Count,
    pub(crate) cut_off: Count,
    /// Times that a listener began to rest, because strangers came to nothing too often.
    pub(crate) accept_rests: Count,
    pub(crate) regions: Count,
    /// Regions that could not be mapped, so that bytes are copied through their descriptor.
    pub(crate) regions_unmapped: Count,
    pub(crate) requests: Count,
    /// Keys without an outcome, and reads at the drive, when it was last published.
    pub(crate) keys_waiting: Count,
    pub(crate) reads_waiting: Count,
    pub(crate) latency: [Latency; LATENCIES.len()],
    pub(crate) errors: [Count; ERROR_WORDS.len()],
    pub(crate) peer_faults: [Count; PeerFault::ALL.len()],
    /// Keys that were given up before their turn, by what that saved.
    pub(crate) dropped: [Count; Dropped::ALL.len()],
}

/// What was left undone because nobody waited for it any more: the call was given up, its deadline was over, or its connection was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Keys that were not looked at yet.
    Start,
    /// Reads that the drive was not asked for yet.
    Read,
    /// Blocks that were not copied, sent or taken to their end.
    Copy,
}

impl Dropped {
    /// All of them with their words, in the order of their numbers.
    pub(crate) const ALL: [(Dropped, &str); 3] =
        [(Dropped::Start, "start"), (Dropped::Read, "read"), (Dropped::Copy, "copy")];
}

/// What a peer did wrong, or was cut off for. Each costs only that peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PeerFault {
    /// Bytes that are no message of the protocol.
    Garbage,
    /// A length or a count over its ceiling, or more descriptors than messages for them.
    OverLimit,
    /// Bytes that changed on the way.
    Damaged,
    /// No version of the protocol in common.
    Version,
    /// The wrong token, or none.
    Credential,
    /// A message where it does not belong.
    Disorder,
    /// A message, or `Hello`, that never came to its end.
    HalfMessage,
    /// It did not take what it had asked for.
    SlowReader,
    /// One more than the node serves.
    Crowd,
    /// A region that is no memory, or was cut short, or is not there.
    Region,
    /// It went away with requests unanswered.
    Vanished,
}

impl PeerFault {
    /// All of them with their words, in the order of their numbers.
    pub(crate) const ALL: [(PeerFault, &str); 11] = [
        (PeerFault::Garbage, "garbage"),
        (PeerFault::OverLimit, "over_limit"),
        (PeerFault::Damaged, "damaged"),
        (PeerFault::Version, "version"),
        (PeerFault::Credential, "credential"),
        (PeerFault::Disorder, "disorder"),
        (PeerFault::HalfMessage, "half_message"),
        (PeerFault::SlowReader, "slow_reader"),
        (PeerFault::Crowd, "crowd"),
        (PeerFault::Region, "region"),
        (PeerFault::Vanished, "vanished"),
    ];

    /// Of bytes that are no message.
    pub(crate) fn of(error: &WireError) -> Self {
        match error {
            WireError::HeaderChecksum | WireError::BodyChecksum => PeerFault::Damaged,
            WireError::Limit { .. } => PeerFault::OverLimit,
            _ => PeerFault::Garbage,
        }
    }
}

/// What is timed, from the turn that took the request to the one that answered: gets that were hits and puts that were kept, key by key; the others
/// as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timed {
    GetDram,
    GetNvme,
    PutCached,
    PutDurable,
    Match,
    Contains,
    Forget,
}

/// Verb and kind of each [`Timed`], in their order.
pub(crate) const LATENCIES: [(Timed, &str, &str); 7] = [
    (Timed::GetDram, "get", "dram"),
    (Timed::GetNvme, "get", "nvme"),
    (Timed::PutCached, "put", "cached"),
    (Timed::PutDurable, "put", "durable"),
    (Timed::Match, "match", "all"),
    (Timed::Contains, "contains", "all"),
    (Timed::Forget, "forget", "all"),
];

/// The word of each [`ErrorCode`], in the order of its number less one.
pub(crate) const ERROR_WORDS: [&str; 12] = [
    "protocol",
    "version",
    "credential",
    "shard",
    "too_many",
    "namespace_unknown",
    "namespace_differs",
    "namespace_exists",
    "namespace_invalid",
    "unavailable",
    "region",
    "closing",
];

impl Counters {
    pub(crate) fn error(&self, code: ErrorCode) {
        if let Some(count) = self.errors.get((code as usize).wrapping_sub(1)) {
            count.add(1);
        }
    }

    pub(crate) fn took(&self, what: Timed, us: u64) {
        self.latency[what as usize].took(us);
    }

    pub(crate) fn fault(&self, fault: PeerFault) {
        self.peer_faults[fault as usize].add(1);
    }

    pub(crate) fn landed(&self, kind: LandingKind, lent: bool, bytes: u64) {
        self.landing[kind.index()].add(1);
        self.landing_lent[kind.index()].add(u64::from(lent));
        self.bytes_out.add(bytes);
    }

    pub(crate) fn put(&self, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Cached => self.put_cached.add(1),
            PutOutcome::Durable => self.put_durable.add(1),
            PutOutcome::Exists => self.put_exists.add(1),
            PutOutcome::Refused(reason) => self.refused(reason),
        }
    }

    fn refused(&self, reason: RefusedReason) {
        self.put_refused[reason.index()].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_stands_in_its_own_place() {
        assert!(LATENCIES.iter().enumerate().all(|(at, (timed, ..))| *timed as usize == at));
    }

    #[test]
    fn there_is_a_counter_for_every_word() {
        let counters = Counters::default();
        for reason in MissReason::ALL {
            counters.get.miss(*reason);
        }
        for tier in Tier::ALL {
            counters.get.hit(*tier);
        }
        for reason in RefusedReason::ALL {
            counters.put(PutOutcome::Refused(*reason));
        }
        for kind in LandingKind::ALL {
            counters.landed(*kind, true, 1);
        }
        for (at, (fault, _)) in PeerFault::ALL.into_iter().enumerate() {
            counters.fault(fault);
            assert_eq!(counters.peer_faults[at].get(), 1, "{fault:?} has another's word");
        }
        assert!(counters.get.misses.iter().chain(&counters.get.hits).all(|count| count.get() == 1));
        assert!(
            counters
                .put_refused
                .iter()
                .chain(&counters.landing)
                .chain(&counters.landing_lent)
                .all(|count| count.get() == 1)
        );
    }
}
