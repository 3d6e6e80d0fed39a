//! Questions without bytes: presence with leases, and forgetting.

use forebay_store::Sighting;
use forebay_types::limits::LEASE_MS_MAX;
use forebay_types::{MissReason, NamespaceId, Tier};
use forebay_wire::{Message, Presence};

use super::conn::Conn;
use super::core::Core;
use super::request::{Forget, Match, Step, token};
use crate::counters::{Asked, Dropped};
use crate::slab::Id;

/// What looking a key up costs of a lane's budget, in bytes that could be copied meanwhile: about 50 ns with its lease.
const KEY_COST: i64 = 256;

/// Keys looked up in one go.
const LOOK_KEYS: usize = 256;

/// What forgetting a key costs, and how many are forgotten in one go.
const FORGET_COST: i64 = 2048;
const FORGET_KEYS: usize = 128;

impl Match {
    pub(crate) fn counts<'a>(&self, core: &'a Core) -> &'a Asked {
        if self.stop_at_gap { &core.counters.matched } else { &core.counters.contains }
    }

    pub(crate) fn step(&mut self, namespace: NamespaceId, core: &mut Core, left: &mut i64) -> Step {
        while !self.is_done() {
            if *left <= 0 {
                return Step::Again;
            }
            if self.gap {
                self.skip(core);
                break;
            }
            *left -= KEY_COST * self.look(namespace, core) as i64;
        }
        Step::Idle
    }

    /// Looks the next keys up; gives back how many.
    fn look(&mut self, namespace: NamespaceId, core: &mut Core) -> usize {
        let from = self.presence.len();
        let keys = &self.keys[from..self.keys.len().min(from + LOOK_KEYS)];
        let hold_ms = u64::from(self.hold_ms).min(LEASE_MS_MAX);
        let (mut tiers, mut granted) = ([0; Tier::ALL.len()], 0);
        let counts = if self.stop_at_gap { &core.counters.matched } else { &core.counters.contains };
        let presence = &mut self.presence;
        core.store.look(core.now_ms, namespace, keys, hold_ms, self.stop_at_gap, |seen| {
            presence.push(match seen {
                Ok(Sighting { tier, leased }) => {
                    tiers[tier.index()] += 1;
                    granted += u64::from(leased);
                    Presence::Here { tier, leased }
                }
                Err(reason) => {
                    counts.miss(reason);
                    Presence::Not(reason)
                }
            });
        });
        let seen = self.presence.len() - from;
        let space = core.spaces.entry(namespace).or_default();
        space.questions += u64::from(from == 0);
        space.lookup_hits += tiers.iter().sum::<u64>();
        for presence in &self.presence[from..] {
            if let Presence::Not(reason) = presence {
                space.lookup_misses[reason.index()] += 1;
            }
        }
        self.gap |= self.stop_at_gap && matches!(self.presence.last(), Some(Presence::Not(_)));
        // Once for all of them: one addition to a shared counter takes as long as half a look.
        Tier::ALL.iter().for_each(|tier| counts.hits[tier.index()].add(tiers[tier.index()]));
        if hold_ms > 0 {
            core.counters.leases_granted.add(granted);
            core.counters.leases_refused.add(tiers.iter().sum::<u64>() - granted);
        }
        core.items -= seen;
        seen
    }

    /// Keys behind the gap are not asked.
    fn skip(&mut self, core: &mut Core) {
        let left = self.keys.len() - self.presence.len();
        self.presence.resize(self.keys.len(), Presence::NotAsked);
        self.counts(core).not_asked.add(left as u64);
        core.items -= left;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.presence.len() == self.keys.len()
    }

    /// Keys that are still to be looked up.
    pub(crate) fn open(&self) -> usize {
        if self.gap { 0 } else { self.keys.len() - self.presence.len() }
    }

    /// Answers the keys not looked up yet with a miss.
    pub(crate) fn give_up(&mut self, core: &mut Core, reason: MissReason) {
        if self.gap {
            return self.skip(core);
        }
        core.counters.dropped[Dropped::Start as usize].add((self.keys.len() - self.presence.len()) as u64);
        while !self.is_done() {
            self.counts(core).miss(reason);
            self.presence.push(Presence::Not(reason));
            core.items -= 1;
        }
    }

    pub(crate) fn answer(&mut self, number: u32, conn: &mut Conn) {
        let presence = std::mem::take(&mut self.presence);
        conn.output.message(&Message::MatchOutcomes { request: number, presence });
    }
}

impl Forget {
    pub(crate) fn step(&mut self, id: Id, namespace: NamespaceId, core: &mut Core, left: &mut i64) -> Step {
        while self.forgotten.len() < self.keys.len() {
            if *left <= 0 {
                return Step::Again;
            }
            let from = self.forgotten.len();
            let keys = &self.keys[from..self.keys.len().min(from + FORGET_KEYS)];
            *left -= FORGET_COST * keys.len() as i64;
            let was_here = core.store.forget(core.now_ms, token(id, 0), namespace, keys);
            core.counters.forgotten.add(was_here.iter().filter(|here| **here).count() as u64);
            core.items -= keys.len();
            self.pending += 1;
            self.forgotten.extend(was_here);
        }
        Step::Idle
    }

    pub(crate) fn is_done(&self) -> bool {
        self.answered || (self.forgotten.len() == self.keys.len() && self.pending == 0)
    }

    pub(crate) fn ended(&mut self, ok: bool) {
        self.pending = self.pending.saturating_sub(1);
        self.failed |= !ok;
    }

    /// What is not written down by now cannot be promised.
    pub(crate) fn give_up(&mut self, core: &mut Core) {
        let left = self.keys.len() - self.forgotten.len();
        core.counters.dropped[Dropped::Start as usize].add(left as u64);
        core.items -= left;
        self.forgotten.resize(self.keys.len(), false);
        self.failed = true;
        self.pending = 0;
    }

    pub(crate) fn answer(&mut self, number: u32, conn: &mut Conn) {
        if !self.answered {
            self.answered = true;
            let forgotten = std::mem::take(&mut self.forgotten);
            conn.output.message(&Message::ForgetOutcomes { request: number, failed: self.failed, forgotten });
        }
    }
}
