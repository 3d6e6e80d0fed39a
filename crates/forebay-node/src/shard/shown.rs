//! What a shard shows of itself to the threads that tell: published a few times a second, so that nobody locks anything on the path of a block.

use std::sync::{Arc, Mutex};

use forebay_store::{Damage, StoreStats};
use forebay_types::NamespaceId;

use super::Shard;
use crate::counters::Counters;
use crate::spaces::Spaces;

/// How old the published statistics may be.
pub(super) const PUBLISH_US: u64 = 200_000;

/// Findings of scrub that wait to be told, once a second: more in one second is a drive that dies, and reads like one.
const DAMAGE_MAX: usize = 32;

impl Shard {
    /// Scrub found something: the control thread tells it.
    pub(super) fn tell_damage(&mut self, damage: Damage) {
        let mut waiting = self.damage.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if waiting.len() < DAMAGE_MAX {
            waiting.push(damage);
        }
    }

    /// A namespace goes, and its counts with it: the usage log gets the last of them.
    pub(super) fn part_with(&mut self, id: NamespaceId) {
        self.core.meter();
        let mut spaces = self.spaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(counts) = self.core.spaces.remove(&id).filter(|counts| !counts.name.is_empty()) {
            spaces.remove(&id);
            self.parted.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id, counts);
        }
    }

    pub(super) fn publish(&mut self, now_us: u64) {
        self.publish_us = now_us + PUBLISH_US;
        let stats = self.core.store.stats();
        self.core.meter();
        {
            // What is shown stays where it is and is brought up to date: a shard comes to rest between any two requests.
            let mut shown = self.spaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            shown.retain(|id, _| self.core.spaces.contains_key(id));
            for (id, counts) in &self.core.spaces {
                *shown.entry(*id).or_default() = counts.clone();
            }
        }
        self.core.counters.keys_waiting.set(self.core.items as u64);
        self.core.counters.reads_waiting.set(self.core.readers.len() as u64);
        *self.stats.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = stats;
    }
}

/// What a started shard shares with the node.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) counters: Arc<Counters>,
    pub(crate) stats: Arc<Mutex<StoreStats>>,
    pub(crate) spaces: Arc<Mutex<Spaces>>,
    /// The last of namespaces that were deleted, until the usage log has them. Bounded by changes of the catalogue in a second.
    pub(crate) parted: Arc<Mutex<Spaces>>,
    /// What scrub found and nobody was told yet; past [`DAMAGE_MAX`] it is only counted.
    pub(crate) damage: Arc<Mutex<Vec<Damage>>>,
}

impl Shown {
    /// Nothing to show yet.
    pub(crate) fn new() -> Self {
        Shown {
            counters: Arc::default(),
            stats: Arc::default(),
            spaces: Arc::default(),
            parted: Arc::default(),
            damage: Arc::default(),
        }
    }
}
