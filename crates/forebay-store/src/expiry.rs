//! Expiry: a block whose time is over is not served from that second on, and its room is given back soon after.

use forebay_io::Disk;
use forebay_types::{Key, Millis};

use crate::mutant::Mutant;
use crate::store::Store;

/// Blocks dropped in one turn.
const DROPS_PER_TURN: usize = 256;

/// A walk over the index for what is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sweep {
    table: usize,
    /// By this time.
    until: u64,
    /// What was found to expire next.
    soonest: u64,
}

impl<D: Disk> Store<D> {
    /// Tells the store what time it is, in seconds since 1970, UTC. Once a second is enough; jumps are survived.
    pub fn set_utc(&mut self, now: Millis, utc_s: u64) {
        self.utc_s = utc_s;
        self.clock.look(now, utc_s);
    }

    /// True when a block that is held must not be served any more.
    pub(crate) fn is_over(&self, ns: u16, key: &Key) -> bool {
        if !self.index.any_expire() || self.mutant(Mutant::ExpiryIgnored) {
            return false;
        }
        let expiry = self.index.expiry(ns, key);
        expiry != 0 && expiry <= self.clock.shown()
    }

    /// A block that is over was asked for: dropped, unless only a wall clock that is not believed says that it is over.
    pub(crate) fn meet_expired(&mut self, ns: u16, key: &Key) {
        let expiry = self.index.expiry(ns, key);
        if expiry != 0 && expiry <= self.clock.believed() {
            self.expire_entry(ns, key);
        }
    }

    /// Drops a block because its time is over, and remembers why.
    pub(crate) fn expire_entry(&mut self, ns: u16, key: &Key) {
        let expiry = self.index.expiry(ns, key);
        if self.drop_entry(ns, key).is_some() {
            self.clock.dropped(expiry);
            self.expired.insert(self.index.seed().hash(ns, key), self.index.len());
            self.counted.expired += 1;
        }
    }

    /// Drops what is over, one table of the index a turn. True: there is more to do.
    pub(crate) fn expire_step(&mut self, now: Millis) -> bool {
        let Some(mut sweep) = self.sweep else {
            let wrong = self.clock.was_wrong(now);
            if wrong && !self.index.any_expire() {
                self.clock.begin_anew(self.next);
            }
            if !self.index.any_expire() || (self.index.soonest() > self.clock.believed() && !wrong) {
                return false;
            }
            // What comes while this goes on counts for the next one.
            self.index.set_soonest(u64::MAX);
            self.sweep = Some(Sweep { table: 0, until: self.clock.believed(), soonest: u64::MAX });
            return true;
        };
        let mut over = Vec::new();
        let mut soonest = sweep.soonest;
        for (entry, expiry) in self.index.expiries(sweep.table) {
            if expiry > sweep.until {
                soonest = soonest.min(expiry);
            } else if over.len() < DROPS_PER_TURN {
                over.push((entry.ns, entry.key));
            }
        }
        for (ns, key) in &over {
            self.expire_entry(*ns, key);
        }
        if over.len() == DROPS_PER_TURN {
            return true;
        }
        (sweep.table, sweep.soonest) = (sweep.table + 1, soonest);
        if sweep.table < self.index.tables() {
            self.sweep = Some(sweep);
            return true;
        }
        self.sweep = None;
        self.index.set_soonest(self.index.soonest().min(soonest));
        if self.clock.was_wrong(now) && sweep.until == self.clock.believed() {
            self.clock.begin_anew(self.next);
        }
        false
    }
}
