//! What a node shows of itself, gathered from its threads.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use forebay_store::{Damage, StoreStats};
use forebay_tokenomics::Reckoning;
use forebay_types::{Clock, ShardId};

use crate::counters::Counters;
use crate::latency::Latencies;
use crate::money::Told;
use crate::shard::Shown;
use crate::spaces::Spaces;
use crate::usage::Recorded;

/// A shard as the board knows it.
#[derive(Debug)]
pub(crate) struct BoardShard {
    pub(crate) id: ShardId,
    pub(crate) path: PathBuf,
    /// Where its slice begins on the drive.
    pub(crate) slice_at: u64,
    pub(crate) slice_bytes: u64,
    pub(crate) shown: Shown,
}

impl BoardShard {
    /// What scrub has found since this was asked last.
    pub(crate) fn take_damage(&self) -> Vec<Damage> {
        std::mem::take(&mut *self.shown.damage.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// What became of each namespace's keys, as last published.
    pub(crate) fn spaces(&self) -> Spaces {
        self.shown.spaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The same for the usage log, and the last of namespaces that were deleted: told once.
    pub(crate) fn take_spaces(&self) -> (Spaces, Spaces) {
        let spaces = self.shown.spaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Both under one lock, so that a namespace is in one of them only.
        let mut parted = self.shown.parted.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (spaces.clone(), std::mem::take(&mut *parted))
    }

    /// They could not be written down.
    pub(crate) fn give_back_parted(&self, parted: Spaces) {
        self.shown.parted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).extend(parted);
    }

    /// The store's numbers as last published: exact when the shard is at rest, else at most a fifth of a second old.
    pub(crate) fn stats(&self) -> StoreStats {
        self.shown.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// Everything metrics and statistics are made of.
pub(crate) struct Board {
    pub(crate) shards: Vec<BoardShard>,
    pub(crate) control: Arc<Counters>,
    pub(crate) epoch: Arc<AtomicU64>,
    pub(crate) incarnation: u64,
    pub(crate) engine: &'static str,
    pub(crate) policy: String,
    /// The book that money is reckoned by.
    pub(crate) reckoning: Reckoning,
    pub(crate) memory_bytes: u64,
    /// Connections the node serves at most.
    pub(crate) connections_max: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) started_us: u64,
    /// Whose accounts are told by name.
    pub(crate) told: Mutex<Told>,
    pub(crate) usage: Arc<Recorded>,
}

impl Board {
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn uptime_s(&self) -> f64 {
        self.clock.now_us().saturating_sub(self.started_us) as f64 / 1e6
    }

    /// Sum of a counter over all shards and the control thread.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| counter(&shard.shown.counters)).sum::<u64>() + counter(&self.control)
    }

    /// What took how long, over all shards: an index of [`crate::counters::LATENCIES`].
    pub(crate) fn latencies(&self, of: usize) -> Latencies {
        Latencies::sum(self.shards.iter().map(|shard| &shard.shown.counters.latency[of]))
    }

    /// Largest of a gauge.
    pub(crate) fn max(&self, gauge: impl Fn(&Counters) -> u64) -> u64 {
        self.shards.iter().map(|shard| gauge(&shard.shown.counters)).max().unwrap_or(0)
    }

    /// Connections now, control included.
    pub(crate) fn connections(&self) -> u64 {
        self.sum(|counters| counters.connections.get())
    }
}
