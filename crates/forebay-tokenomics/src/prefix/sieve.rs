//! SIEVE over leaves.

use super::policy::{PrefixPolicy, Use, Victim};
use super::tree::{ExtentId, ROOT, Splits, Tree};

const NONE: u32 = u32::MAX;

/// SIEVE (Zhang and others, NSDI 2024): one queue in the order of insertion, a mark for what was used since, and a hand that goes from the oldest to
/// the newest, clears marks, and evicts the first it finds without. It passes by what has resident blocks behind it: that may not leave.
/// New blocks of one request are inserted from tail to head.
#[derive(Debug, Clone)]
pub struct Sieve {
    /// Towards the newest; [`ROOT`] is the anchor of the ring.
    newer: Vec<u32>,
    /// Towards the oldest.
    older: Vec<u32>,
    used: Vec<bool>,
    hand: ExtentId,
}

impl Sieve {
    /// Nothing used yet.
    pub fn new() -> Self {
        Sieve { newer: vec![ROOT], older: vec![ROOT], used: vec![false], hand: ROOT }
    }

    fn grow(&mut self, id: ExtentId) {
        let len = self.newer.len().max(id as usize + 1);
        self.newer.resize(len, NONE);
        self.older.resize(len, NONE);
        self.used.resize(len, false);
    }

    fn queued(&self, id: ExtentId) -> bool {
        self.newer.get(id as usize).is_some_and(|next| *next != NONE)
    }

    fn link_behind(&mut self, id: ExtentId, older: ExtentId) {
        self.grow(id);
        let newer = self.newer[older as usize];
        self.newer[id as usize] = newer;
        self.older[id as usize] = older;
        self.newer[older as usize] = id;
        self.older[newer as usize] = id;
    }
}

impl Default for Sieve {
    fn default() -> Self {
        Sieve::new()
    }
}

impl Splits for Sieve {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.grow(upper);
        if self.queued(lower) {
            self.link_behind(upper, lower);
            self.used[upper as usize] = self.used[lower as usize];
        }
    }
}

impl PrefixPolicy for Sieve {
    fn name(&self) -> &'static str {
        "sieve"
    }

    fn touch(&mut self, _: &Tree, path: &[ExtentId], _: &Use) {
        for id in path.iter().rev() {
            if self.queued(*id) {
                self.used[*id as usize] = true;
            } else {
                let newest = self.older[ROOT as usize];
                self.link_behind(*id, newest);
                self.used[*id as usize] = false;
            }
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        // Two rounds clear every mark; some leaf is always there.
        for _ in 0..=2 * self.newer.len() {
            let id = self.hand;
            if id != ROOT && tree.is_leaf(id) && !std::mem::take(&mut self.used[id as usize]) {
                return Victim { leaf: id, blocks: need };
            }
            self.hand = self.newer[id as usize];
        }
        unreachable!("a victim is asked for only while something is held")
    }

    fn evicted(&mut self, _: &Tree, extent: ExtentId) {
        let (newer, older) = (self.newer[extent as usize], self.older[extent as usize]);
        if self.hand == extent {
            self.hand = newer;
        }
        self.older[newer as usize] = older;
        self.newer[older as usize] = newer;
        self.newer[extent as usize] = NONE;
        self.used[extent as usize] = false;
    }
}
