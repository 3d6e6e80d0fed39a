//! Questions without bytes: presence with leases, and forgetting.

use forebay_types::limits::LEASE_MS_MAX;
use forebay_types::{MissReason, NamespaceId};
use forebay_wire::{Message, Presence};

use super::conn::Conn;
use super::core::Core;
use super::request::{Forget, Match, Step, token};
use crate::counters::Asked;
use crate::slab::Id;

/// What looking a key up costs of a lane's budget, in bytes that could be copied meanwhile: about 200 ns with its lease.
const KEY_COST: i64 = 2048;

/// Keys forgotten in one go.
const FORGET_KEYS: usize = 128;

impl Match {
    pub(crate) fn counts<'a>(&self, core: &'a Core) -> &'a Asked {
        if self.stop_at_gap { &core.counters.matched } else { &core.counters.contains }
    }

    pub(crate) fn step(&mut self, namespace: NamespaceId, core: &mut Core, left: &mut i64) -> Step {
        while self.presence.len() < self.keys.len() {
            if *left <= 0 {
                return Step::Again;
            }
            *left -= KEY_COST;
            let presence = self.look(namespace, core);
            self.push(core, presence);
        }
        Step::Idle
    }

    fn look(&mut self, namespace: NamespaceId, core: &mut Core) -> Presence {
        if self.gap {
            return Presence::NotAsked;
        }
        let key = &self.keys[self.presence.len()];
        match core.store.presence(core.now_ms, namespace, key) {
            Err(reason) => Presence::Not(reason),
            Ok(tier) => {
                let hold_ms = u64::from(self.hold_ms).min(LEASE_MS_MAX);
                let leased = hold_ms > 0 && core.store.lease(core.now_ms, namespace, key, hold_ms);
                if hold_ms > 0 {
                    let count = if leased { &core.counters.leases_granted } else { &core.counters.leases_refused };
                    count.add(1);
                }
                Presence::Here { tier, leased }
            }
        }
    }

    fn push(&mut self, core: &mut Core, presence: Presence) {
        let counts = self.counts(core);
        match presence {
            Presence::Here { tier, .. } => counts.hit(tier),
            Presence::Not(reason) => {
                counts.miss(reason);
                self.gap |= self.stop_at_gap;
            }
            Presence::NotAsked => counts.not_asked.add(1),
        }
        self.presence.push(presence);
        core.items -= 1;
    }

    pub(crate) fn is_done(&self) -> bool {
        self.presence.len() == self.keys.len()
    }

    /// Answers the keys not looked up yet with a miss.
    pub(crate) fn give_up(&mut self, core: &mut Core, reason: MissReason) {
        while !self.is_done() {
            let presence = if self.gap { Presence::NotAsked } else { Presence::Not(reason) };
            self.push(core, presence);
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
            *left -= KEY_COST * keys.len() as i64;
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
        core.items -= self.keys.len() - self.forgotten.len();
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
