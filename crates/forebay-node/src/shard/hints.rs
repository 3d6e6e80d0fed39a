//! Hints of clients: blocks used without being fetched, and blocks wanted in DRAM. Nobody waits for them, so they are done a few keys a turn, and
//! dropped, counted as `busy`, when too many wait.

use std::collections::VecDeque;

use forebay_store::{Batch, Reuse};
use forebay_types::limits::DEADLINE_US_MAX;
use forebay_types::{Key, Millis, MissReason, NamespaceId, Tier};

use super::Shard;
use super::core::Core;
use crate::counters::Asked;
use crate::slab::Id;

/// Keys of hints that may wait, over all connections: eight full messages, 16 bytes a key.
const KEYS_MAX: usize = 32_768;

/// Keys looked up in one turn: about 50 us.
const KEYS_PER_TURN: usize = 128;

/// What a hint asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    Touch(Reuse),
    Prefetch { until: Millis },
}

#[derive(Debug)]
struct Hint {
    namespace: NamespaceId,
    deed: Deed,
    keys: Vec<Key>,
    next: usize,
    batch: Option<Batch>,
}

/// Hints that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Hints {
    queue: VecDeque<Hint>,
    keys: usize,
}

impl Hints {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Shard {
    pub(super) fn on_touch(&mut self, id: Id, namespace: NamespaceId, hint: Reuse, keys: Vec<Key>) {
        self.take_hint(id, namespace, Deed::Touch(hint), keys);
    }

    pub(super) fn on_prefetch(&mut self, id: Id, namespace: NamespaceId, deadline_us: u32, keys: Vec<Key>) {
        let left_us = u64::from(deadline_us).min(DEADLINE_US_MAX);
        let until = (self.core.now_us + left_us) / 1000;
        self.take_hint(id, namespace, Deed::Prefetch { until }, keys);
    }

    fn take_hint(&mut self, id: Id, namespace: NamespaceId, deed: Deed, keys: Vec<Key>) {
        self.core.counters.requests.add(1);
        let Some(tenant) = self.conns.get(id).map(|conn| conn.tenant) else { return };
        let counts = counts(&self.core, deed);
        counts.asked.add(keys.len() as u64);
        let refused = if !self.core.allows(tenant, namespace) {
            Some(MissReason::Namespace)
        } else if self.closing.is_some() {
            Some(MissReason::Unavailable)
        } else if self.hints.keys + keys.len() > KEYS_MAX {
            Some(MissReason::Busy)
        } else {
            None
        };
        if let Some(reason) = refused {
            return keys.iter().for_each(|_| counts.miss(reason));
        }
        self.hints.keys += keys.len();
        self.hints.queue.push_back(Hint { namespace, deed, keys, next: 0, batch: None });
    }

    /// A turn's worth of hints. True: there were some.
    pub(super) fn hints_step(&mut self) -> bool {
        let mut left = KEYS_PER_TURN;
        while left > 0 {
            let Some(hint) = self.hints.queue.front_mut() else { break };
            let from = hint.next;
            hint.step(&mut self.core, left);
            let done = hint.next - from;
            left -= done;
            self.hints.keys -= done;
            if hint.next == hint.keys.len() {
                self.hints.queue.pop_front();
            }
        }
        left < KEYS_PER_TURN
    }
}

impl Hint {
    fn step(&mut self, core: &mut Core, most: usize) {
        let items = self.keys.len() as u32;
        let end = self.keys.len().min(self.next + most);
        for depth in self.next..end {
            let key = &self.keys[depth];
            let batch = *self.batch.get_or_insert_with(|| core.store.begin_batch(items));
            let (now, depth) = (core.now_ms, depth as u32);
            let answer = match self.deed {
                Deed::Touch(hint) => Some(core.store.touch(now, self.namespace, key, batch.hinted(hint), depth)),
                Deed::Prefetch { until } => core.store.prefetch(now, self.namespace, key, batch, depth, until),
            };
            if let Some(answer) = answer {
                count(counts(core, self.deed), answer);
            }
        }
        self.next = end;
    }
}

fn counts(core: &Core, deed: Deed) -> &Asked {
    match deed {
        Deed::Touch(_) => &core.counters.touch,
        Deed::Prefetch { .. } => &core.counters.prefetch,
    }
}

pub(super) fn count(counts: &Asked, answer: Result<Tier, MissReason>) {
    match answer {
        Ok(tier) => counts.hit(tier),
        Err(reason) => counts.miss(reason),
    }
}
