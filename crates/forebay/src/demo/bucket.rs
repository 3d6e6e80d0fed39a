//! A pool in memory, for tests: it keeps everything, and can lose, spoil, refuse or be gone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use forebay_tokenomics::cost::{Assumptions, CostCurve, models};
use forebay_tokenomics::trace::{FleetParams, Plan, PlanParams, Sharing, generate_fleet};
use forebay_types::{Clock, Key, PutOutcome, RefusedReason, Tier};

use super::pool::{Pool, engine_hash};
use super::replay::Course;

/// A pool in memory.
#[derive(Default)]
pub(crate) struct Bucket {
    /// What it holds.
    pub(crate) blocks: Mutex<BTreeMap<Key, Vec<u8>>>,
    /// Changes one byte of each block it serves.
    pub(crate) spoil: bool,
    /// Refuses every put.
    pub(crate) refuse: bool,
    /// Answers nothing.
    pub(crate) gone: AtomicBool,
}

impl Bucket {
    /// Loses one block.
    pub(crate) fn lose(&self, key: Key) {
        self.blocks.lock().unwrap().remove(&key);
    }

    /// Loses every `n`-th block.
    pub(crate) fn lose_every(&self, n: usize) {
        let mut blocks = self.blocks.lock().unwrap();
        let lost: Vec<Key> = blocks.keys().step_by(n).copied().collect();
        lost.iter().for_each(|key| drop(blocks.remove(key)));
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl Pool for Bucket {
    fn key(&self, scope: u32, id: u64) -> Key {
        let mut key = [0; 16];
        key[..12].copy_from_slice(&engine_hash(scope, id));
        Key(key)
    }

    fn matched(&self, keys: &[Key]) -> usize {
        let blocks = self.blocks.lock().unwrap();
        keys.iter().take_while(|key| !self.is_gone() && blocks.contains_key(*key)).count()
    }

    fn get_each(&self, keys: &[Key], visit: &mut dyn FnMut(usize, &[u8], Tier)) {
        for (index, key) in keys.iter().enumerate().filter(|_| !self.is_gone()) {
            let Some(mut block) = self.blocks.lock().unwrap().get(key).cloned() else { continue };
            if self.spoil {
                block[7] ^= 1;
            }
            visit(index, &block, if index % 2 == 0 { Tier::Dram } else { Tier::Nvme });
        }
    }

    fn put(&self, blocks: &[(Key, &[u8])]) -> Vec<PutOutcome> {
        if self.refuse || self.is_gone() {
            return vec![PutOutcome::Refused(RefusedReason::Busy); blocks.len()];
        }
        let mut held = self.blocks.lock().unwrap();
        let put = |(key, bytes): &(Key, &[u8])| match held.insert(*key, bytes.to_vec()) {
            None => PutOutcome::Cached,
            Some(_) => PutOutcome::Exists,
        };
        blocks.iter().map(put).collect()
    }
}

/// Thirty requests of two sessions, with small blocks.
pub(crate) fn with_course(clock: &dyn Clock, run: impl FnOnce(&Course)) {
    let fleet = generate_fleet(&FleetParams { sessions: 2, seed: 4 });
    let plan = Plan::new(&fleet, PlanParams { seed: 4, sharing: Sharing::Modelled }).unwrap();
    let requests = plan.requests.len().min(30);
    let curve = CostCurve::new(&models()[0], &Assumptions::default());
    run(&Course { plan: &plan, requests, mark: requests / 2, seed: 4, block_bytes: 96, curve, clock });
}
